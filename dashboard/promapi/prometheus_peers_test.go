//go:build peers

package promapi

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"

	"github.com/tulle-mesh/tulle/store/metric"
)

const installPrometheus = "%s is missing. Debian/Ubuntu: apt-get install prometheus; macOS: brew install prometheus; others: https://prometheus.io/download/"

// queries are asked of both. Those that differ between Prometheus 2 and 3 on purpose (quantiles of native histograms, ranges that begin at a sample,
// holt_winters) are not among them, so that any Prometheus from 2.40 on can be the peer.
//
//go:embed testdata/queries.txt
var queries string

// TestSameAnswersAsPrometheusPeers writes the same series to a Prometheus and to us, by remote write, and asks both the same.
func TestSameAnswersAsPrometheusPeers(t *testing.T) {
	ours, peer := serve(t), prometheus(t)
	end := time.Now().Truncate(time.Minute)
	fill(t, []string{ours.URL, peer}, end)
	asked, differ := 0, 0
	compare := func(path string, form url.Values) {
		t.Helper()
		asked++
		got, want := fetch(t, ours.URL+path, form), fetch(t, peer+path, form)
		if why := unlike(got, want); why != "" {
			differ++
			t.Errorf("%s %v: %s\n ours: %.600s\n peer: %.600s", path, form, why, got.raw, want.raw)
		}
	}
	// Neither samples nor the steps of subqueries, which are whole minutes, are at the beginning of a range that is asked for: Prometheus 3 leaves it out, 2 does not.
	last := end.Add(-53 * time.Second).Unix()
	instant, from, to := strconv.FormatInt(last, 10), strconv.FormatInt(last-30*60, 10), strconv.FormatInt(last, 10)
	n := 0
	for line := range strings.Lines(queries) {
		query := strings.TrimSpace(line)
		if query == "" || query[0] == '#' {
			continue
		}
		n++
		compare("/api/v1/query", url.Values{"query": {query}, "time": {instant}})
		compare("/api/v1/query_range", url.Values{"query": {query}, "start": {from}, "end": {to}, "step": {"60"}})
	}
	if n < 150 {
		t.Errorf("only %d queries", n)
	}
	window := func(kv ...string) url.Values {
		v := url.Values{"start": {from}, "end": {to}}
		for i := 0; i < len(kv); i += 2 {
			v.Add(kv[i], kv[i+1])
		}
		return v
	}
	compare("/api/v1/labels", window())
	compare("/api/v1/labels", window("match[]", "node_load1"))
	for _, name := range []string{"__name__", "destination", "side", "le", "job", "no_such"} {
		compare("/api/v1/label/"+name+"/values", window())
	}
	compare("/api/v1/label/destination/values", window("match[]", `mesh_requests_total{code_class="5xx"}`))
	for _, match := range []string{`mesh_requests_total{source="web"}`, `{job="node"}`, `{__name__=~"http_.*",le="0.1"}`, `nothing`} {
		compare("/api/v1/series", window("match[]", match))
	}
	compare("/api/v1/series", window())
	compare("/api/v1/format_query", url.Values{"query": {`sum  by(a)(rate(b[5m]))`}})
	compare("/api/v1/query_range", url.Values{"query": {"up"}, "start": {to}, "end": {from}, "step": {"60"}})
	compare("/api/v1/query_range", url.Values{"query": {"up"}, "start": {from}, "end": {to}, "step": {"0"}})
	compare("/api/v1/query_range", url.Values{"query": {"up"}, "start": {"0"}, "end": {to}, "step": {"1"}})
	compare("/api/v1/query", url.Values{"query": {"up"}, "time": {"noon"}})
	t.Logf("%d queries, %d requests compared, %d differ", n, asked, differ)

	promtool(t, ours.URL, peer, instant)
}

// promtool must print the same of both.
func promtool(t *testing.T, ours, peer, instant string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatalf(installPrometheus, "promtool")
	}
	for _, args := range [][]string{
		{"query", "instant", "--time=" + instant, "URL", `sum by (destination) (mesh_active)`},
		{"query", "labels", "URL", "destination"},
		{"query", "series", "--match=mesh_active", "URL"},
	} {
		var out [2]string
		for i, u := range []string{ours, peer} {
			with := slices.Clone(args)
			with[slices.Index(with, "URL")] = u
			b, err := exec.CommandContext(t.Context(), path, with...).CombinedOutput()
			if err != nil {
				t.Fatalf("promtool %v: %v %s", with, err, b)
			}
			lines := strings.Split(strings.TrimSpace(string(b)), "\n")
			slices.Sort(lines)
			out[i] = strings.Join(lines, "\n")
		}
		if out[0] != out[1] || out[0] == "" {
			t.Errorf("promtool %v:\n%s\nof the peer:\n%s", args, out[0], out[1])
		}
	}
}

// prometheus starts one that takes remote write.
func prometheus(t *testing.T) (base string) {
	t.Helper()
	addr := free(t)
	startPrometheus(t, t.TempDir(), addr)
	return "http://" + addr
}

func startPrometheus(t *testing.T, dir, addr string) (stop func()) {
	t.Helper()
	path, err := exec.LookPath("prometheus")
	if err != nil {
		t.Fatalf(installPrometheus, "prometheus")
	}
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte("global: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, dir, "http://"+addr+"/-/ready", path, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr,
		"--web.enable-remote-write-receiver", "--enable-feature=native-histograms,promql-at-modifier,promql-negative-offset")
}

func startVictoria(t *testing.T, dir, addr string) (stop func()) {
	t.Helper()
	path, err := exec.LookPath("victoria-metrics")
	if err != nil {
		t.Fatal("victoria-metrics is missing. Debian/Ubuntu: apt-get install victoria-metrics; others: https://docs.victoriametrics.com/victoriametrics/quick-start/")
	}
	return start(t, dir, "http://"+addr+"/health", path, "-storageDataPath="+filepath.Join(dir, "data"), "-httpListenAddr="+addr, "-search.latencyOffset=0s")
}

// free is an address that nobody listens on.
func free(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// start runs a server until the test or stop ends it, and waits until it says that it is ready.
func start(t *testing.T, dir, ready, path string, args ...string) (stop func()) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(path, args...)
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	stop = sync.OnceFunc(func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = c.Process.Kill()
			<-ended
		}
		_ = log.Close()
	})
	t.Cleanup(stop)
	for tick, deadline := time.NewTicker(50*time.Millisecond), time.After(30*time.Second); ; {
		select {
		case <-tick.C:
			resp, err := http.Get(ready)
			if err != nil {
				continue
			}
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return stop
			}
		case err := <-ended:
			ended <- err
			b, _ := os.ReadFile(log.Name())
			t.Fatalf("%s ended: %v\n%s", path, err, b)
		case <-deadline:
			b, _ := os.ReadFile(log.Name())
			t.Fatalf("%s is not ready after 30 s\n%s", path, b)
		}
	}
}

// TestRemoteWritePeers sends series to real backends, and takes each away for a while.
func TestRemoteWritePeers(t *testing.T) {
	for name, run := range map[string]func(t *testing.T, dir, addr string) (stop func()){"prometheus": startPrometheus, "victoria-metrics": startVictoria} {
		t.Run(name, func(t *testing.T) {
			dir, addr := t.TempDir(), free(t)
			stop := run(t, dir, addr)
			to, err := metric.ReadRemoteWrite([]string{"http://" + addr + "/api/v1/write"}, "")
			if err != nil {
				t.Fatal(err)
			}
			db, err := metric.Open(t.TempDir(), metric.Config{RemoteWrite: to})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			w := db.NewWriter()
			begin, rounds := time.Now(), 0
			write := func(n int) {
				for range n {
					rounds++
					err := w.Write(t.Context(), begin.Add(time.Duration(rounds)*time.Second), func(b *metric.Batch) {
						b.Counter("tulle_requests_total", float64(rounds), "source", "web", "destination", "catalog")
						b.Gauge("tulle_active", float64(rounds%7), "destination", "catalog")
					})
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			// has waits until the backend counts n samples of each; VictoriaMetrics shows what it took within a few seconds.
			has := func(n int) {
				t.Helper()
				at := strconv.FormatInt(begin.Add(time.Duration(rounds+1)*time.Second).Unix(), 10)
				var last string
				for tick, deadline := time.NewTicker(100*time.Millisecond), time.After(60*time.Second); ; {
					select {
					case <-tick.C:
						r := fetch(t, "http://"+addr+"/api/v1/query", url.Values{"query": {`count_over_time({__name__=~"tulle_.*"}[1h])`}, "time": {at}})
						if last = r.raw; strings.Count(last, fmt.Sprintf(`"%d"`, n)) == 2 {
							return
						}
					case <-deadline:
						t.Fatalf("no %d samples of each series within a minute: %s; %+v", n, last, db.Remote())
					}
				}
			}
			write(20)
			has(20)
			stop()
			write(200)
			run(t, dir, addr)
			has(220)
			if st := db.Remote(); len(st) != 1 || st[0].Failed != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// fill writes 50 minutes of series every 15 s, 3.137 s after the quarter of a minute.
func fill(t *testing.T, to []string, end time.Time) {
	t.Helper()
	const step = 15 * time.Second
	edges := [][2]string{{"web", "catalog"}, {"web", "cart"}, {"cart", "payment"}, {"cart", "catalog"}, {"unmeshed", "web"}}
	for i, at := 0, end.Add(-50*time.Minute+3137*time.Millisecond); at.Before(end); i, at = i+1, at.Add(step) {
		x, ts := float64(i), at.UnixMilli()
		req := &prompb.WriteRequest{}
		add := func(v float64, pairs ...string) {
			s := series(ts, pairs...)
			s.Samples[0].Value = v
			slices.SortFunc(s.Labels, func(a, b prompb.Label) int { return strings.Compare(a.Name, b.Name) })
			req.Timeseries = append(req.Timeseries, s)
		}
		for k, e := range edges {
			rate := float64(3 + 7*k)
			for _, side := range []string{"client", "server"} {
				add(x*rate*1.25, "__name__", "mesh_requests_total", "source", e[0], "destination", e[1], "side", side, "code_class", "2xx", "job", "t")
				if k%2 == 0 {
					add(math.Floor(x*rate/13), "__name__", "mesh_requests_total", "source", e[0], "destination", e[1], "side", side, "code_class", "5xx", "reason", "upstream_5xx", "job", "t")
				}
			}
			add(math.Floor(4+3*math.Sin(x/9+float64(k))), "__name__", "mesh_active", "source", e[0], "destination", e[1], "job", "t")
			for _, le := range []string{"0.01", "0.1", "1", "+Inf"} {
				share := map[string]float64{"0.01": .3, "0.1": .8, "1": .97, "+Inf": 1}[le]
				add(math.Floor(x*rate*share), "__name__", "http_seconds_bucket", "destination", e[1], "source", e[0], "le", le, "job", "t")
			}
			add(x*rate*.07, "__name__", "http_seconds_sum", "destination", e[1], "source", e[0], "job", "t")
			add(x*rate, "__name__", "http_seconds_count", "destination", e[1], "source", e[0], "job", "t")
			n := int64(i) * int64(rate) // of integers: Prometheus 2.42 takes no others by remote write
			h := &histogram.Histogram{
				Schema: 3, ZeroThreshold: 1e-9, ZeroCount: uint64(i), Count: uint64(int64(i) + 6*n), Sum: x * rate * .03,
				PositiveSpans: []histogram.Span{{Offset: -40, Length: 2}, {Offset: 3, Length: 1}}, PositiveBuckets: []int64{n, n, n}, // n, 2n, 3n
			}
			req.Timeseries = append(req.Timeseries, prompb.TimeSeries{
				Labels: []prompb.Label{
					{Name: "__name__", Value: "mesh_request_duration_seconds"}, {Name: "destination", Value: e[1]}, {Name: "job", Value: "t"}, {Name: "source", Value: e[0]},
				},
				Histograms: []prompb.Histogram{prompb.FromIntHistogram(ts, h)},
			})
		}
		for k, host := range []string{"a", "b", "c"} {
			add(1+float64(k)*.7+math.Sin(x/7+float64(k)), "__name__", "node_load1", "instance", host, "job", "node")
		}
		add(math.Mod(x*3, 100), "__name__", "restarts_total", "job", "node")
		add(1, "__name__", "owners", "destination", "catalog", "team", "blue", "job", "t")
		add(1, "__name__", "owners", "destination", "cart", "team", "red", "job", "t")
		for _, base := range to {
			if status, _, said := post(t, base+writePath, v1Header, snappy.Encode(nil, marshal(t, req))); status/100 != 2 {
				t.Fatalf("%s: %d %s", base, status, said)
			}
		}
	}
}

type reply struct {
	status int
	raw    string
	body   map[string]any
}

func fetch(t *testing.T, u string, form url.Values) reply {
	t.Helper()
	resp, err := http.Get(u + "?" + form.Encode())
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	r := reply{status: resp.StatusCode, raw: string(b)}
	if err := json.Unmarshal(b, &r.body); err != nil {
		t.Fatalf("%s: %v: %s", u, err, b)
	}
	return r
}

// unlike says where two replies differ, "" when they agree: same status, same kind of error (their words may change), same data. The order of series is
// free where PromQL leaves it free, and values may differ by 1e-9 of themselves: the order of additions does.
func unlike(a, b reply) string {
	if a.status != b.status || a.body["status"] != b.body["status"] || a.body["errorType"] != b.body["errorType"] {
		return "status"
	}
	if a.body["status"] == "error" {
		return ""
	}
	return differ("data", sorted(a.body["data"]), sorted(b.body["data"]))
}

// sorted puts the series of a result in one order.
func sorted(data any) any {
	m, ok := data.(map[string]any)
	if !ok {
		if list, ok := data.([]any); ok {
			slices.SortFunc(list, func(x, y any) int { return strings.Compare(fmt.Sprint(x), fmt.Sprint(y)) })
		}
		return data
	}
	if list, ok := m["result"].([]any); ok && (m["resultType"] == "vector" || m["resultType"] == "matrix") {
		slices.SortFunc(list, func(x, y any) int {
			return strings.Compare(fmt.Sprint(x.(map[string]any)["metric"]), fmt.Sprint(y.(map[string]any)["metric"]))
		})
	}
	return m
}

func differ(at string, a, b any) string {
	switch x := a.(type) {
	case map[string]any:
		y, ok := b.(map[string]any)
		if !ok {
			return at
		}
		for _, k := range slices.Sorted(maps.Keys(x)) {
			if _, ok := y[k]; !ok {
				return at + "." + k + " is only in ours"
			}
			if why := differ(at+"."+k, x[k], y[k]); why != "" {
				return why
			}
		}
		for k := range y {
			if _, ok := x[k]; !ok {
				return at + "." + k + " is not in ours"
			}
		}
		return ""
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return fmt.Sprintf("%s: %d of ours, %d of the peer", at, len(x), len(y))
		}
		for i := range x {
			if why := differ(fmt.Sprintf("%s[%d]", at, i), x[i], y[i]); why != "" {
				return why
			}
		}
		return ""
	case string:
		y, ok := b.(string)
		if !ok || x != y && !near(x, y) {
			return fmt.Sprintf("%s: %v, of the peer %v", at, a, b)
		}
		return ""
	}
	if a != b {
		return fmt.Sprintf("%s: %v, of the peer %v", at, a, b)
	}
	return ""
}

// near compares numbers as texts; what is no number is near to nothing.
func near(x, y string) bool {
	a, errA := strconv.ParseFloat(x, 64)
	b, errB := strconv.ParseFloat(y, 64)
	if errors.Join(errA, errB) != nil {
		return false
	}
	return math.Abs(a-b) <= 1e-9*max(math.Abs(a), math.Abs(b), 1e-6)
}
