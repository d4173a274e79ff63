package telemetry

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"

	vm "github.com/VictoriaMetrics/metrics"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// description is what HELP and TYPE say of a family.
type description struct{ kind, help string }

// view is how one OTLP family appears on /metrics. Attributes without a label are summed over.
type view struct {
	metric string // OTLP name
	name   string // Prometheus name, without suffixes of histograms
	description
	labels []label
}

type label struct{ attr, name string }

var (
	labelSide     = label{flow.AttrSide, "side"}
	labelSource   = label{flow.AttrSourceService, "source"}
	labelDest     = label{flow.AttrDestService, "destination"}
	labelProtocol = label{flow.AttrProtocol, "protocol"}
	labelClass    = label{flow.AttrCodeClass, "code_class"}
	labelGRPC     = label{flow.AttrGRPC, "grpc_response_status"}
	labelReason   = label{flow.AttrReason, "reason"}
	labelEndpoint = label{flow.AttrEndpoint, "endpoint"}
	edgeLabels    = []label{labelSide, labelSource, labelDest, labelProtocol}
)

// views is the whole RED part of /metrics, in order of appearance.
var views = []view{
	{
		flow.MetricExchanges, "tulle_requests_total",
		description{"counter", "Requests that ended, by edge, answer, gRPC status (empty without one; it decides the code class) and reason (empty on success). On the server side the source is proven by mTLS; empty is unmeshed."},
		append(slices.Clone(edgeLabels), labelClass, labelGRPC, labelReason),
	},
	{
		flow.MetricExchangeDuration, "tulle_request_duration_seconds",
		description{"histogram", "Time from the first byte of a request to the last byte of its answer. Bounds are powers of two, counts are exact."},
		append(slices.Clone(edgeLabels), labelClass),
	},
	{
		flow.MetricAttempts, "tulle_attempts_total",
		description{"counter", "Tries against one endpoint. delivered=false: the endpoint cannot have begun the request."},
		[]label{labelSource, labelDest, labelProtocol, labelEndpoint, labelClass, labelGRPC, labelReason, {flow.AttrDelivered, "delivered"}},
	},
	{
		flow.MetricAttemptDuration, "tulle_attempt_duration_seconds",
		description{"histogram", "Time of delivered tries against one endpoint."},
		[]label{labelDest, labelEndpoint},
	},
	{
		flow.MetricRouteDuration, "tulle_route_duration_seconds",
		description{"histogram", "Time of inbound requests by the route that matched (empty: the default route)."},
		[]label{labelDest, {flow.AttrRoute, "route"}},
	},
	{
		flow.MetricVersions, "tulle_version_requests_total",
		description{"counter", "Requests that ended, by version of the destination where it is known."},
		[]label{labelSide, labelSource, labelDest, {flow.AttrDestVersion, "version"}, labelClass},
	},
	{
		flow.MetricMirrors, "tulle_mirrors_total",
		description{"counter", "Copies of requests that rules mirror, whose answer nobody sees; no other metric counts them."},
		[]label{labelSide, labelSource, labelDest, labelClass},
	},
	{
		flow.MetricBytes, "tulle_body_bytes_total",
		description{"counter", "Body bytes read from (in) and written to (out) the downstream peer."},
		append(slices.Clone(edgeLabels), label{flow.AttrDirection, "direction"}),
	},
	{
		flow.MetricMessages, "tulle_messages_total",
		description{"counter", "gRPC messages read from (in) and written to (out) the downstream peer."},
		append(slices.Clone(edgeLabels), label{flow.AttrDirection, "direction"}),
	},
	{
		flow.MetricConnections, "tulle_connections_total",
		description{"counter", "TCP relays and connections that never became a request, when they ended, by reason (empty on success)."},
		append(slices.Clone(edgeLabels), labelReason),
	},
	{
		flow.MetricActive, "tulle_active",
		description{"gauge", "Requests or connections in flight."},
		append(slices.Clone(edgeLabels), label{flow.AttrKind, "kind"}),
	},
	{
		flow.MetricInFlight, "tulle_destination_in_flight",
		description{"gauge", "Requests and TCP connections that are carried towards a destination now (side=server: the own application)."},
		[]label{labelSide, labelDest},
	},
	{
		flow.MetricLimit, "tulle_destination_limit",
		description{"gauge", "How many may be in flight towards a destination; beyond, they are shed. Absent without limit."},
		[]label{labelSide, labelDest},
	},
	{
		flow.MetricPool, "tulle_destination_connections",
		description{"gauge", "Open upstream connections: busy, or idle in the pool."},
		[]label{labelSide, labelDest, {flow.AttrState, "state"}},
	},
	{
		flow.MetricShed, "tulle_destination_shed_total",
		description{"counter", "Requests and TCP connections that were turned away, by the limit that was reached."},
		[]label{labelSide, labelDest, {flow.AttrLimit, "limit"}},
	},
	{
		flow.MetricEjected, "tulle_destination_ejected",
		description{"gauge", "Endpoints that this sidecar has ejected by itself."},
		[]label{labelSide, labelDest},
	},
	{
		flow.MetricEjections, "tulle_destination_ejections_total",
		description{"counter", "Ejections of endpoints by this sidecar itself, by reason; spared: the cap did not allow one more."},
		[]label{labelSide, labelDest, {flow.AttrWhy, "why"}},
	},
	{
		flow.MetricPoolWait, "tulle_destination_wait_seconds",
		description{"histogram", "How long tries that found no idle connection waited for a new one, handshake included."},
		[]label{labelDest},
	},
	{
		flow.MetricDetections, "tulle_detections_total",
		description{"counter", "Connections whose protocol was to be told from their first bytes, by what it was (empty: nobody spoke) and outcome: told; timeout (the caller was silent, or stopped); remembered (nothing was waited for, the server speaks first); left."},
		[]label{labelSide, labelDest, {flow.AttrPort, "port"}, labelProtocol, {flow.AttrOutcome, "outcome"}},
	},
	{
		flow.MetricDetectionDuration, "tulle_detection_duration_seconds",
		description{"histogram", "How long a caller's first bytes were awaited."},
		[]label{labelSide, labelDest, {flow.AttrPort, "port"}},
	},
	{
		flow.MetricTraceBreaks, "tulle_trace_breaks_total",
		description{"counter", "Outbound requests without traceparent while an inbound one with it was in flight: the application does not propagate."},
		[]label{labelSource},
	},
	{
		flow.MetricTraceKept, "tulle_trace_kept_total",
		description{"counter", "Outbound requests that carried traceparent, whether or not an inbound one was in flight."},
		[]label{labelSource},
	},
}

// Histogram bounds on /metrics are 2^minExponent to 2^maxExponent seconds (0.5 ms to 64 s): upper bounds of buckets of the exponential
// histogram, so that every le count is exact.
const (
	minExponent = -11
	maxExponent = 6
)

// own describes the sidecar's own simple metrics, and those of the process and of Go that are passed through. VictoriaMetrics' library writes more of
// the latter, without help and some under names and types that promtool refuses; what is not listed here is left out.
var own = map[string]description{
	"tulle_build_info":             {"gauge", "1, with the version of the sidecar and of Go."},
	"tulle_series_folded_total":    {"counter", "New series that did not fit a family's budget and were counted under other."},
	"tulle_records_dropped_total":  {"counter", "Records whose span or log line was dropped, by reason; they are counted in all other metrics."},
	"tulle_records_exported_total": {"counter", "Spans that the observer took."},
	"tulle_export_total":           {"counter", "Tries to export, by signal and outcome (ok, failed, retried)."},
	"tulle_export_queue_bytes":     {"gauge", "Encoded spans that wait for the observer."},
	"tulle_export_queue_max_bytes": {"gauge", "Size at which the oldest waiting spans are dropped."},
	"tulle_export_queue_batches":   {"gauge", "Batches of spans that wait for the observer."},

	"process_cpu_seconds_total":     {"counter", "CPU time used, user and system."},
	"process_resident_memory_bytes": {"gauge", "Resident memory."},
	"process_virtual_memory_bytes":  {"gauge", "Virtual memory."},
	"process_start_time_seconds":    {"gauge", "Start of the process since 1970."},
	"process_num_threads":           {"gauge", "Threads of the operating system."},
	"process_max_fds":               {"gauge", "Limit of open file descriptors."},
	"process_open_fds":              {"gauge", "Open file descriptors."},
	"go_goroutines":                 {"gauge", "Goroutines."},
	"go_gomaxprocs":                 {"gauge", "Goroutines that run at the same time at most."},
	"go_threads":                    {"gauge", "Threads created by Go."},
	"go_memlimit_bytes":             {"gauge", "Soft memory limit of the Go runtime."},
	"go_memstats_alloc_bytes":       {"gauge", "Heap in use by objects."},
	"go_memstats_alloc_bytes_total": {"counter", "Heap allocated since the start."},
	"go_memstats_heap_inuse_bytes":  {"gauge", "Heap spans in use."},
	"go_memstats_heap_idle_bytes":   {"gauge", "Heap spans not in use."},
	"go_memstats_sys_bytes":         {"gauge", "Memory obtained from the operating system."},
	"go_gc_cpu_seconds_total":       {"counter", "CPU time of garbage collection."},
	"go_mutex_wait_seconds_total":   {"counter", "Time goroutines waited for locks."},
	"go_info":                       {"gauge", "1, with the version of Go."},
}

// register puts the simple metrics into a set of the VictoriaMetrics library and adds the writer of the RED series, whose histograms the
// library could only write as vmrange buckets that Prometheus does not read.
func (t *Telemetry) register() {
	t.set = vm.NewSet()
	gauge := func(name string, f func() float64) { t.set.NewGauge(name, f) }
	gauge(fmt.Sprintf("tulle_build_info{version=%s,goversion=%s}", quote(t.cfg.Version), quote(runtime.Version())), func() float64 { return 1 })
	gauge("tulle_export_queue_bytes", func() float64 { n, _ := t.queue.size(); return float64(n) })
	gauge("tulle_export_queue_batches", func() float64 { _, n := t.queue.size(); return float64(n) })
	gauge("tulle_export_queue_max_bytes", func() float64 { return float64(t.cfg.QueueBytes) })
	gauge("tulle_records_exported_total", func() float64 { return float64(t.accepted.Load()) })
	for i, name := range dropNames {
		gauge(fmt.Sprintf("tulle_records_dropped_total{reason=%q}", name), func() float64 { return float64(t.dropped[i].Load()) })
	}
	for _, sig := range []signal{traces, metrics} {
		for o, outcome := range []string{"ok", "failed", "retried"} {
			gauge(fmt.Sprintf("tulle_export_total{signal=%q,outcome=%q}", sig.name, outcome), func() float64 { return float64(t.exports[sig.index][o].Load()) })
		}
	}
	for name := range t.counters.folded() {
		gauge(fmt.Sprintf("tulle_series_folded_total{family=%q}", name), func() float64 { return float64(t.counters.folded()[name]) })
	}
	t.set.RegisterMetricsWriter(vm.WriteProcessMetrics)
}

// Gauge adds a metric of another part of the sidecar to /metrics: a name without labels, TYPE gauge, and its HELP. f is called at every
// scrape, concurrently. A name may be added once, before the first scrape.
func (t *Telemetry) Gauge(name, help string, f func() float64) {
	t.described.Store(name, description{"gauge", help})
	t.set.NewGauge(name, f)
}

// Counter adds one series of a counter of another part of the sidecar to /metrics: its name, HELP, and one label. f is called at every scrape,
// concurrently, and never goes down. A series may be added once, before the first scrape.
func (t *Telemetry) Counter(name, help, label, value string, f func() uint64) {
	t.described.Store(name, description{"counter", help})
	t.set.NewGauge(name+"{"+label+"="+quote(value)+"}", func() float64 { return float64(f()) })
}

// WritePrometheus writes everything the sidecar counts in Prometheus' text format (version 0.0.4), with HELP and TYPE, families sorted by
// name within three groups: requests, sidecar, process.
func (t *Telemetry) WritePrometheus(w io.Writer) { t.writeMetrics(w, forText) }

// WriteOpenMetrics writes the same as OpenMetrics 1.0 (https://github.com/prometheus/OpenMetrics/blob/v1.0.0/specification/OpenMetrics.md), with
// an exemplar for each bucket of tulle_request_duration_seconds that has one.
func (t *Telemetry) WriteOpenMetrics(w io.Writer) { t.writeMetrics(w, forOpenMetrics) }

func (t *Telemetry) writeMetrics(w io.Writer, why purpose) {
	b := bufio.NewWriter(w)
	defer b.Flush()
	families := make(map[string]*flow.Family)
	collected := append(t.counters.collect(t.cfg.Workload.Service, why), t.saturated()...)
	for i := range collected {
		families[collected[i].Name] = &collected[i]
	}
	open := why == forOpenMetrics
	for i := range views {
		if f := families[views[i].metric]; f != nil {
			views[i].write(b, f, open)
		}
	}
	t.writeGiven(b, open)
	var simple bytes.Buffer
	t.set.WritePrometheus(&simple)
	t.describe(b, simple.Bytes(), open)
	if open {
		_, _ = b.WriteString("# EOF\n")
	}
}

// series is one line, or one histogram, of a view.
type series struct {
	labels    string // `side="client",…`, without braces
	value     int64
	hist      *flow.Histogram
	exemplars []flow.Exemplar // by bucket, at most one each
}

func (v *view) write(w *bufio.Writer, f *flow.Family, open bool) {
	byLabels := make(map[string]*series, len(f.Points))
	for i := range f.Points {
		p := &f.Points[i]
		key := v.labelsOf(p.Attrs)
		s := byLabels[key]
		if s == nil {
			s = &series{labels: key, hist: p.Histogram, exemplars: p.Exemplars}
			byLabels[key] = s
		} else if p.Histogram != nil { // of attributes that have no label
			s.hist.Merge(p.Histogram)
			for _, x := range p.Exemplars {
				if !slices.ContainsFunc(s.exemplars, func(o flow.Exemplar) bool { return leIndex(o.Value) == leIndex(x.Value) }) {
					s.exemplars = append(s.exemplars, x)
				}
			}
		}
		s.value += p.Value
	}
	if len(byLabels) == 0 {
		return
	}
	all := make([]*series, 0, len(byLabels))
	for _, s := range byLabels {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *series) int { return strings.Compare(a.labels, b.labels) })
	v.header(w, v.name, open)
	for _, s := range all {
		if s.hist == nil {
			fmt.Fprintf(w, "%s{%s} %d\n", v.name, s.labels, s.value)
			continue
		}
		s.histogram(w, v.name, open)
	}
}

func (s *series) histogram(w *bufio.Writer, name string, open bool) {
	before, all := "", ""
	if s.labels != "" {
		before, all = s.labels+",", "{"+s.labels+"}"
	}
	bucket := func(k int, le string, n uint64) {
		fmt.Fprintf(w, "%s_bucket{%sle=\"%s\"} %d", name, before, le, n)
		if open {
			for i := range s.exemplars {
				if x := &s.exemplars[i]; leIndex(x.Value) == k {
					fmt.Fprintf(w, " # {trace_id=\"%s\",span_id=\"%s\"} %s %.3f", x.Trace, x.Span,
						strconv.FormatFloat(x.Value.Seconds(), 'g', -1, 64), float64(x.Time.UnixMilli())/1000)
				}
			}
		}
		_ = w.WriteByte('\n')
	}
	for k := range leBounds {
		le := strconv.FormatFloat(math.Ldexp(1, minExponent+k), 'g', -1, 64)
		if open && minExponent+k >= 0 {
			le += ".0" // OpenMetrics' canonical numbers
		}
		bucket(k, le, s.hist.AtMost(int32((minExponent+k)<<flow.HistogramScale)-1))
	}
	bucket(leBounds, "+Inf", s.hist.Count)
	fmt.Fprintf(w, "%s_sum%s %s\n", name, all, strconv.FormatFloat(s.hist.Sum.Seconds(), 'g', -1, 64))
	fmt.Fprintf(w, "%s_count%s %d\n", name, all, s.hist.Count)
}

func (v *view) labelsOf(attrs []flow.Attr) string {
	var b strings.Builder
	for i, l := range v.labels {
		value := ""
		for _, a := range attrs {
			if a.Key == l.attr {
				value = a.Value
				if a.IsBool {
					value = strconv.FormatBool(a.Bool)
				}
			}
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(l.name)
		b.WriteByte('=')
		b.WriteString(quote(value))
	}
	return b.String()
}

// quote writes a label value: Prometheus knows the escapes \\, \" and \n, and wants UTF-8.
func quote(s string) string {
	return `"` + escape.Replace(strings.ToValidUTF8(s, "?")) + `"`
}

var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// header writes HELP and TYPE. In OpenMetrics a counter's family has no suffix, and families must not share a name: where a gauge has that
// one already, the counter is of unknown type.
func (d description) header(w io.Writer, name string, open bool) {
	kind := d.kind
	if open && kind == "counter" {
		base := strings.TrimSuffix(name, "_total")
		if _, taken := own[base]; taken {
			kind = "unknown"
		} else {
			name = base
		}
	}
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, d.help, name, kind)
}

// describe writes the lines of raw, grouped by family and with HELP and TYPE in front of each.
func (t *Telemetry) describe(w io.Writer, raw []byte, open bool) {
	lines := make(map[string][]string)
	var names []string
	for line := range strings.Lines(string(raw)) {
		end := strings.IndexAny(line, "{ ")
		if end < 0 || line[0] == '#' {
			continue
		}
		name := line[:end]
		if _, known := t.description(name); !known {
			continue
		}
		if lines[name] == nil {
			names = append(names, name)
		}
		lines[name] = append(lines[name], line)
	}
	slices.SortFunc(names, func(a, b string) int { // the sidecar's own first
		if at, bt := strings.HasPrefix(a, "tulle_"), strings.HasPrefix(b, "tulle_"); at != bt {
			if at {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		d, _ := t.description(name)
		d.header(w, name, open)
		slices.Sort(lines[name])
		for _, line := range lines[name] {
			_, _ = io.WriteString(w, line)
		}
	}
}

func (t *Telemetry) description(name string) (description, bool) {
	if d, ok := own[name]; ok {
		return d, true
	}
	if d, ok := t.described.Load(name); ok {
		return d.(description), true
	}
	return description{}, false
}
