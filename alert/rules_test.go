package alert

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/rules"

	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/metric"
)

var t0 = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// bench evaluates the built-in rules over series that a test writes, under virtual time: a step is five seconds.
type bench struct {
	t      *testing.T
	db     *metric.DB
	w      *metric.Writer
	a      *Alerting
	groups map[string]*rules.Group
	now    time.Time
	log    []string
	counts map[string]float64
}

func newBench(t *testing.T) *bench {
	db, err := metric.Open(t.TempDir(), metric.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	b := &bench{t: t, db: db, w: db.NewWriter(), now: t0, counts: map[string]float64{}}
	b.a, err = New(Config{DB: db, DataDir: t.TempDir(), Now: func() time.Time { return b.now }, OnEvent: func(e event.Event) {
		b.log = append(b.log, fmt.Sprintf("+%ds %s %s %s%s", int(b.now.Sub(t0)/time.Second), e.Kind, e.Reason, e.Service, strings.TrimRight(" "+e.Endpoint, " ")))
	}})
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := b.a.manager.LoadGroups(5*time.Second, labels.EmptyLabels(), "", nil, false, b.a.ruleFiles...)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	b.groups = groups
	return b
}

// step writes the series five seconds later and evaluates every rule.
func (b *bench) step(fill func(*metric.Batch)) {
	b.t.Helper()
	b.now = b.now.Add(5 * time.Second)
	if err := b.w.Write(b.t.Context(), b.now, fill); err != nil {
		b.t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(b.groups)) {
		g := b.groups[name]
		g.Eval(b.t.Context(), b.now)
		for _, r := range g.AlertingRules() {
			if err := r.LastError(); err != nil {
				b.t.Fatalf("rule %s: %v", r.Name(), err)
			}
		}
	}
	b.a.sweep(b.now)
}

// traffic adds requests of five seconds from web to catalog's endpoints.
func (b *bench) traffic(m *metric.Batch, source string, perEndpoint, failuresOfLast float64) {
	add := func(name string, n float64, pairs ...string) {
		key := name + fmt.Sprint(pairs)
		b.counts[key] += n
		m.Counter(name, b.counts[key], pairs...)
	}
	for i := 1; i <= 3; i++ {
		endpoint, failed := fmt.Sprintf("10.0.0.%d:80", i), 0.0
		if i == 3 {
			failed = failuresOfLast
		}
		for class, n := range map[string]float64{"2xx": perEndpoint - failed, "5xx": failed} {
			add("tulle_attempts_total", n, "destination", "catalog", "endpoint", endpoint, "code_class", class, "delivered", "true")
		}
		add("tulle_attempt_failures_total", failed, "destination", "catalog", "endpoint", endpoint)
	}
	for class, n := range map[string]float64{"2xx": 3*perEndpoint - failuresOfLast, "5xx": failuresOfLast} {
		add("tulle_requests_total", n, "source", source, "destination", "catalog", "side", "client", "protocol", "http/1.1", "code_class", class)
	}
	add("tulle_request_failures_total", failuresOfLast, "source", source, "destination", "catalog", "side", "client", "protocol", "http/1.1")
}

func (b *bench) want(lines ...string) {
	b.t.Helper()
	if got := strings.Join(b.log, "\n"); got != strings.Join(lines, "\n") {
		b.t.Errorf("events:\n%s\nwant:\n%s", got, strings.Join(lines, "\n"))
	}
	b.log = nil
}

func TestFaultOfOneEndpoint(t *testing.T) {
	b := newBench(t)
	gauge := func(m *metric.Batch, ejected float64) {
		m.Gauge("tulle_endpoint_ejected", ejected, "service", "catalog", "endpoint", "10.0.0.3:80", "instance", "catalog-3")
		m.Gauge("tulle_service_endpoints_available", 3-ejected, "service", "catalog")
	}
	for range 12 { // a minute of health
		b.step(func(m *metric.Batch) { b.traffic(m, "web", 80, 0); gauge(m, 0) })
	}
	b.want()
	// From +60s the third endpoint fails; at +65s it is ejected and gets nothing but probes, which are series of their own.
	b.step(func(m *metric.Batch) { b.traffic(m, "web", 80, 80); gauge(m, 0) })
	for range 4 {
		b.step(func(m *metric.Batch) { b.traffic(m, "web", 120, 0); gauge(m, 1) })
	}
	b.want(
		"+65s alert.firing TulleEndpointErrors catalog 10.0.0.3:80",
		"+70s alert.firing TulleEdgeErrors catalog",
		"+70s alert.firing TulleEndpointEjected catalog 10.0.0.3:80",
	)
	for range 12 {
		b.step(func(m *metric.Batch) { b.traffic(m, "web", 80, 0); gauge(m, 0) })
	}
	if got := strings.Join(b.log, "\n"); !strings.Contains(got, "alert.resolved TulleEndpointEjected") || !strings.Contains(got, "alert.resolved TulleEndpointErrors") ||
		!strings.Contains(got, "alert.resolved TulleEdgeErrors") || strings.Contains(got, "firing") {
		t.Errorf("after it healed:\n%s", got)
	}
}

func TestLowTrafficIsNoNews(t *testing.T) {
	b := newBench(t)
	for range 24 {
		b.step(func(m *metric.Batch) { b.traffic(m, "cron", 1, 1) }) // a third of three requests in five seconds fails
	}
	b.want()
}

func TestSlowMissingBrokenAndEmpty(t *testing.T) {
	b := newBench(t)
	var n float64
	for i := range 36 {
		b.step(func(m *metric.Batch) {
			n += 100
			b.traffic(m, "web", 80, 0)
			// All requests take between 1.09 and 1.19 s: the bucket (2^(1/8), 2^(2/8)].
			m.Histogram("tulle_request_duration_seconds", &histogram.FloatHistogram{
				Schema: 3, Count: n, Sum: n, PositiveSpans: []histogram.Span{{Offset: 2, Length: 1}}, PositiveBuckets: []float64{n},
			}, "source", "web", "destination", "catalog", "side", "client", "protocol", "http/1.1", "code_class", "2xx")
			m.Counter("tulle_trace_context_total", n, "service", "cart", "propagated", "false")
			m.Counter("tulle_trace_context_total", n/100, "service", "cart", "propagated", "true")
			up, available := 1.0, 2.0
			if i >= 6 {
				up, available = 0, 0
			}
			m.Gauge("tulle_reporter_up", up, "service", "cart", "instance", "cart-1")
			m.Gauge("tulle_service_endpoints_available", available, "service", "cart")
		})
	}
	for _, want := range []string{
		"+40s alert.firing TulleReporterMissing cart", "+45s alert.firing TulleNoEndpoints cart", "alert.firing TulleEdgeSlow catalog", "alert.firing TulleTracesBroken cart",
	} {
		if !strings.Contains(strings.Join(b.log, "\n"), want) {
			t.Errorf("%q is not among\n%s", want, strings.Join(b.log, "\n"))
		}
	}
	if len(b.log) != 4 {
		t.Errorf("events:\n%s", strings.Join(b.log, "\n"))
	}
}

func TestBadConfigurationSaysWhat(t *testing.T) {
	db, err := metric.Open(t.TempDir(), metric.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"rule that does not parse": {Config{RulesDir: filepath.Dir(write("a/x.yaml", "groups: [{name: g, rules: [{alert: A, expr: 'rate('}]}]"))}, "x.yaml"},
		"unknown field in a rule":  {Config{RulesDir: filepath.Dir(write("b/x.yaml", "groups: [{name: g, rules: [{alert: A, expr: up, fro: 5s}]}]"))}, "fro"},
		"webhook is no URL":        {Config{WebhookURLs: []string{"localhost:9"}}, `webhook "localhost:9" is not a URL`},
		"receiver not supported":   {Config{ConfigFile: write("am.yml", "route: {receiver: x}\nreceivers: [{name: x, pagerduty_configs: [{routing_key: k}]}]")}, "pagerduty_configs is not supported"},
		"unknown field":            {Config{ConfigFile: write("am2.yml", "rout: {receiver: x}")}, "am2.yml"},
		"rules directory missing":  {Config{RulesDir: filepath.Join(dir, "none")}, "none"},
	} {
		t.Run(name, func(t *testing.T) {
			c.cfg.DB, c.cfg.DataDir = db, t.TempDir()
			if _, err := New(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one that names %q", err, c.want)
			}
		})
	}
	if _, err := New(Config{DB: db, DataDir: t.TempDir(), ConfigFile: write("ok.yml", "route: {receiver: x}\nreceivers: [{name: x, webhook_configs: [{url: 'http://127.0.0.1:1/'}]}]")}); err != nil {
		t.Errorf("an Alertmanager configuration: %v", err)
	}
}
