package telemetry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// attrText writes a point's attributes in a fixed order.
func attrText(attrs []flow.Attr) string {
	out := make([]string, len(attrs))
	for i, a := range attrs {
		out[i] = a.Key + "=" + a.Value
		if a.IsBool {
			out[i] = fmt.Sprint(a.Key, "=", a.Bool)
		}
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

func anyRecord(r *rand.Rand) flow.Record {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	rec := flow.Record{
		Kind: flow.Kind(1 + r.IntN(3)), Side: flow.Side(1 + r.IntN(2)), Protocol: flow.ProtocolHTTP1 + flow.Protocol(r.IntN(3)),
		Source: flow.Peer{Service: pick("", "web", "cart")}, Destination: flow.Peer{Service: pick("cart", "db"), Version: pick("", "v1", "v2"), Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, 9}), uint16(r.IntN(3)))},
		Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(3))}), 80), Route: pick("", "items"),
		Status: []int{0, 200, 404, 503}[r.IntN(4)], Reason: flow.Reason(r.IntN(4)), Delivered: r.IntN(2) == 0, Answered: r.IntN(2) == 0,
		Probe: r.IntN(10) == 0, Duration: time.Duration(r.Uint64() >> (24 + r.IntN(30))), BytesIn: r.Uint64N(1000), BytesOut: r.Uint64N(1000),
		Trace: flow.Trace{TraceID: flow.TraceID{1}, SpanID: flow.SpanID{1}}, Start: time.Unix(1, 0),
		Legs: flow.Legs{Connected: time.Duration(r.IntN(2) - 1), Secured: flow.Unset},
	}
	if rec.Protocol == flow.ProtocolGRPC {
		rec.GRPC = flow.GRPCStatus(r.IntN(18))
		rec.MessagesIn, rec.MessagesOut = r.Uint64N(3), r.Uint64N(3)
	}
	return rec
}

// Counters agree with a simple truth: one map from attributes to a number, filled in one goroutine from the same Records.
func TestCountersAgainstTruth(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	recs := make([]flow.Record, 6_000)
	truth := map[string]int64{}
	add := func(metric string, n int64, attrs ...any) {
		var list []string
		for i := 0; i < len(attrs); i += 2 {
			list = append(list, fmt.Sprint(attrs[i], "=", attrs[i+1]))
		}
		sort.Strings(list)
		truth[metric+" "+strings.Join(list, " ")] += n
	}
	for i := range recs {
		recs[i] = anyRecord(r)
		x := &recs[i]
		class := flow.Class(x.Status)
		if x.GRPC != 0 {
			class = flow.Class(x.GRPC.HTTP())
		}
		edge := []any{flow.AttrSide, x.Side, flow.AttrSourceService, x.Source.Service, flow.AttrDestService, x.Destination.Service, flow.AttrProtocol, x.Protocol}
		with := func(more ...any) []any { return append(append([]any{}, edge...), more...) }
		if x.Kind != flow.KindAttempt {
			if x.BytesIn|x.BytesOut != 0 {
				add(flow.MetricBytes, int64(x.BytesIn), with(flow.AttrDirection, "in")...)
				add(flow.MetricBytes, int64(x.BytesOut), with(flow.AttrDirection, "out")...)
			}
		}
		if x.Kind != flow.KindAttempt && x.MessagesIn|x.MessagesOut != 0 {
			add(flow.MetricMessages, int64(x.MessagesIn), with(flow.AttrDirection, "in")...)
			add(flow.MetricMessages, int64(x.MessagesOut), with(flow.AttrDirection, "out")...)
		}
		switch x.Kind {
		case flow.KindExchange:
			var port []any // which was called, where it is the reporter's
			if n := x.Destination.Addr.Port(); n != 0 && x.Side == flow.SideServer {
				port = []any{flow.AttrPort, n}
			}
			add(flow.MetricExchanges, 1, with(append(port, flow.AttrCodeClass, class, flow.AttrGRPC, x.GRPC, flow.AttrReason, x.Reason, flow.AttrAnswered, x.Answered, flow.AttrProbe, x.Probe)...)...)
			add(flow.MetricExchangeDuration, 1, with(append(port, flow.AttrCodeClass, class)...)...)
			if x.Destination.Version != "" {
				add(flow.MetricVersions, 1, flow.AttrSide, x.Side, flow.AttrSourceService, x.Source.Service,
					flow.AttrDestService, x.Destination.Service, flow.AttrDestVersion, x.Destination.Version, flow.AttrCodeClass, class)
			}
			if x.Side == flow.SideServer {
				add(flow.MetricRouteDuration, 1, flow.AttrDestService, x.Destination.Service, flow.AttrRoute, x.Route)
			}
		case flow.KindAttempt:
			add(flow.MetricAttempts, 1, flow.AttrSourceService, x.Source.Service, flow.AttrDestService, x.Destination.Service,
				flow.AttrProtocol, x.Protocol, flow.AttrEndpoint, x.Endpoint, flow.AttrCodeClass, class, flow.AttrGRPC, x.GRPC, flow.AttrReason, x.Reason, flow.AttrDelivered, x.Delivered, flow.AttrProbe, x.Probe)
			if x.Legs.Connected >= 0 {
				add(flow.MetricPoolWait, 1, flow.AttrDestService, x.Destination.Service)
			}
			if x.Delivered {
				add(flow.MetricAttemptDuration, 1, flow.AttrDestService, x.Destination.Service, flow.AttrEndpoint, x.Endpoint)
			}
		case flow.KindConnection:
			add(flow.MetricConnections, 1, with(flow.AttrReason, x.Reason)...)
		}
	}

	c := newCounters(10_000)
	stop := make(chan struct{})
	var reading, counting sync.WaitGroup
	reading.Go(func() { // a collection is one cut: as many durations as exchanges, every time
		for {
			var exchanges, durations int64
			for _, f := range c.collect("cart", forExport) {
				for _, p := range f.Points {
					switch f.Name {
					case flow.MetricExchanges:
						exchanges += p.Value
					case flow.MetricExchangeDuration:
						durations += int64(p.Histogram.Count)
					}
				}
			}
			if exchanges != durations {
				t.Errorf("%d exchanges, %d durations in one collection", exchanges, durations)
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for part := range 4 {
		counting.Go(func() {
			for i := part; i < len(recs); i += 4 {
				c.count(&recs[i])
			}
		})
	}
	counting.Wait()
	close(stop)
	reading.Wait()

	got := map[string]int64{}
	for _, f := range c.collect("cart", forText) {
		for _, p := range f.Points {
			key := f.Name + " " + attrText(p.Attrs)
			if _, twice := got[key]; twice {
				t.Errorf("two points for %s", key)
			}
			got[key] = p.Value
			if p.Histogram != nil {
				got[key] = int64(p.Histogram.Count)
			}
		}
	}
	for k, want := range truth {
		if got[k] != want {
			t.Errorf("%s = %d, want %d", k, got[k], want)
		}
	}
	if len(got) != len(truth) {
		t.Errorf("%d series, want %d", len(got), len(truth))
	}
}

func TestSeriesBudget(t *testing.T) {
	const limit = 50
	c := newCounters(limit)
	for i := range 1000 {
		c.count(&flow.Record{Kind: flow.KindExchange, Side: flow.SideClient, Destination: flow.Peer{Service: fmt.Sprint("svc-", i), Version: "v1"}, Status: 200})
		c.count(&flow.Record{Kind: flow.KindAttempt, Side: flow.SideClient, Delivered: true, Destination: flow.Peer{Service: fmt.Sprint("svc-", i)}, Endpoint: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 80)})
	}
	for _, f := range c.collect("web", forText) {
		if len(f.Points) == 0 {
			continue
		}
		var total, folded int64
		for _, p := range f.Points {
			n := p.Value
			if p.Histogram != nil {
				n = int64(p.Histogram.Count)
			}
			total += n
			if strings.Contains(attrText(p.Attrs), "="+other) {
				folded += n
			}
		}
		if total != 1000 || folded != 1000-limit || len(f.Points) > limit+1 {
			t.Errorf("%s: %d counted in %d series, %d under other", f.Name, total, len(f.Points), folded)
		}
		if n := c.folded()[f.Name]; n != 1000-limit {
			t.Errorf("%s: %d said to be folded", f.Name, n)
		}
	}
	// Active must not leak from one name to another.
	for i := range 100 {
		c.active.get(activeKey{Destination: fmt.Sprint(i)}).Add(1)
	}
	for i := range 100 {
		c.active.get(activeKey{Destination: fmt.Sprint(i)}).Add(-1)
	}
	c.active.each(func(k activeKey, v *gauge) {
		if v.Load() != 0 {
			t.Errorf("%+v is %d", k, v.Load())
		}
	})
}

func TestProgressBytes(t *testing.T) {
	c := newCounters(10)
	rec := flow.Record{Kind: flow.KindConnection, Side: flow.SideClient, Trace: flow.Trace{SpanID: flow.SpanID{1}}}
	read := func() (n uint64) {
		c.bytes.each(func(_ edge, v *volume) { n += v.in.Load() + v.out.Load() })
		return n
	}
	step := func(phase flow.Phase, in, out, want uint64) {
		t.Helper()
		rec.Phase, rec.BytesIn, rec.BytesOut = phase, in, out
		c.count(&rec)
		if got := read(); got != want {
			t.Errorf("counted %d bytes, want %d", got, want)
		}
	}
	step(flow.PhaseProgress, 10, 1, 11)
	step(flow.PhaseProgress, 30, 1, 31)
	step(flow.PhaseClose, 35, 5, 40)
	if n := c.live.any.Load(); n != 0 {
		t.Errorf("%d subjects are remembered after their close", n)
	}
	rec.Trace.SpanID = flow.SpanID{} // breaks the contract: counted at its close only
	step(flow.PhaseProgress, 100, 0, 40)
	step(flow.PhaseClose, 100, 0, 140)
	n := int64(0)
	c.connections.each(func(_ connectionKey, v *counter) { n += int64(v.Load()) })
	if n != 2 {
		t.Errorf("%d connections, want 2: progress is no connection", n)
	}
}

// Messages of a stream are counted as they flow, too, and only gRPC has the family.
func TestProgressMessages(t *testing.T) {
	c := newCounters(10)
	rec := flow.Record{Kind: flow.KindExchange, Side: flow.SideServer, Protocol: flow.ProtocolGRPC, Trace: flow.Trace{SpanID: flow.SpanID{1}}}
	for _, step := range []struct {
		phase            flow.Phase
		in, out          uint64
		wantIn, wantsOut uint64
	}{{flow.PhaseProgress, 1, 10, 1, 10}, {flow.PhaseProgress, 1, 30, 1, 30}, {flow.PhaseClose, 2, 31, 2, 31}} {
		rec.Phase, rec.MessagesIn, rec.MessagesOut = step.phase, step.in, step.out
		c.count(&rec)
		v := c.messages.get(edgeOf(&rec))
		if in, out := v.in.Load(), v.out.Load(); in != step.wantIn || out != step.wantsOut {
			t.Errorf("%+v: counted %d in, %d out", step, in, out)
		}
	}
	rec.Protocol, rec.MessagesIn, rec.MessagesOut = flow.ProtocolHTTP2, 0, 0
	c.count(&rec)
	if n := len(rows(c.messages, func(*volume) int { return 0 })); n != 1 {
		t.Errorf("%d series of messages, want 1", n)
	}
}

// What /metrics says is read by Prometheus' own parser: every family has HELP and TYPE before its samples, no series is there twice, and
// histograms are cumulative, end in +Inf and agree with their counts.
func TestPrometheus(t *testing.T) {
	tel := New(Config{Workload: policy.Workload{Service: "cart"}, Version: `1"2`})
	r := rand.New(rand.NewPCG(9, 10))
	want := 0
	for range 3000 {
		rec := anyRecord(r)
		rec.Destination.Service += "\n\"\\"
		if rec.Kind == flow.KindExchange {
			want++
		}
		tel.Record(&rec)
	}
	tel.Active(flow.ActiveKey{Side: flow.SideClient, Kind: flow.KindExchange, Source: "web", Destination: "cart"}, 3)
	tel.TraceContext(true)
	tel.TraceContext(false)
	tel.Gauge("tulle_answer", "The answer.", func() float64 { return 42 })
	var b bytes.Buffer
	tel.WritePrometheus(&b)

	types, helps, samples := map[string]string{}, map[string]bool{}, map[string]float64{}
	total, inf := 0.0, 0.0
	last := map[string]float64{}
	p := textparse.NewPromParser(b.Bytes(), labels.NewSymbolTable(), false)
	for {
		entry, err := p.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, b.String())
		}
		switch entry {
		case textparse.EntryHelp:
			name, help := p.Help()
			if len(help) == 0 || helps[string(name)] {
				t.Errorf("HELP of %s is empty or there twice", name)
			}
			helps[string(name)] = true
		case textparse.EntryType:
			name, typ := p.Type()
			types[string(name)] = string(typ)
		case textparse.EntrySeries:
			var ls labels.Labels
			p.Labels(&ls)
			_, _, v := p.Series()
			if _, twice := samples[ls.String()]; twice {
				t.Errorf("%s is there twice", ls)
			}
			samples[ls.String()] = v
			name := ls.Get("__name__")
			family := name
			if types[family] == "" {
				for _, suffix := range []string{"_bucket", "_sum", "_count"} {
					family = strings.TrimSuffix(family, suffix)
				}
			}
			if types[family] == "" || !helps[family] {
				t.Errorf("%s has no HELP and TYPE before it", name)
			}
			if name == "tulle_requests_total" {
				total += v
			}
			if strings.HasSuffix(name, "_bucket") {
				key := labels.NewBuilder(ls).Del("le").Labels().String()
				if v < last[key] {
					t.Errorf("%s falls from %v to %v", ls, last[key], v)
				}
				last[key] = v
				if name == "tulle_request_duration_seconds_bucket" && ls.Get("le") == "+Inf" {
					inf += v
				}
			}
		}
	}
	if int(total) != want || int(inf) != want {
		t.Errorf("requests %v, histogram %v, want %d", total, inf, want)
	}
	for _, want := range []string{
		`tulle_active{side="client",source="web",destination="cart",protocol="",kind="exchange"} 3`,
		`tulle_trace_breaks_total{source="cart"} 1`, `tulle_records_dropped_total{reason="ring_full"} 0`, "tulle_export_queue_bytes 0",
		"tulle_answer 42", "process_resident_memory_bytes ", "go_goroutines ", `tulle_build_info{version="1\"2",`,
		`tulle_request_duration_seconds_bucket{side="client",source="web",destination="cart\n\"\\",protocol="http/1.1",code_class="2xx",le="0.00048828125"} `,
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%s is missing", want)
		}
	}
}

// What is said to who asks for OpenMetrics is read by Prometheus' own parser: the same samples as in the text format, exemplars on buckets that
// lie in their bucket, families that share no name, and an end.
func TestOpenMetrics(t *testing.T) {
	tel := New(Config{Workload: policy.Workload{Service: "cart"}, Version: "v1"})
	tel.Saturation(func() []flow.Saturation {
		return []flow.Saturation{{Side: flow.SideClient, Destination: "cart", InFlight: 3, Limit: 100, Open: 7, Idle: 4, ShedRequests: 5, ShedConnections: 6}}
	})
	r := rand.New(rand.NewPCG(9, 10))
	traces := map[string]bool{}
	for range 3000 {
		rec := anyRecord(r)
		rec.Trace.TraceID = flow.TraceID{1, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}
		traces[rec.Trace.TraceID.String()] = true
		tel.Record(&rec)
	}
	tel.TraceContext(true)
	parse := func(p textparse.Parser, text string) (series []string, exemplars int) {
		types, samples := map[string]bool{}, map[string]bool{}
		for {
			entry, err := p.Next()
			if errors.Is(err, io.EOF) {
				return series, exemplars
			}
			if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			switch entry {
			case textparse.EntryType:
				name, _ := p.Type()
				if types[string(name)] {
					t.Errorf("TYPE of %s is there twice", name)
				}
				types[string(name)] = true
			case textparse.EntrySeries:
				var ls labels.Labels
				p.Labels(&ls)
				_, _, v := p.Series()
				if samples[ls.String()] {
					t.Errorf("%s is there twice", ls)
				}
				samples[ls.String()] = true
				if !strings.HasPrefix(ls.Get("__name__"), "tulle_") {
					continue // of the process: changes from one scrape to the next
				}
				series = append(series, fmt.Sprint(ls.String(), " ", v))
				var x exemplar.Exemplar
				if !p.Exemplar(&x) {
					continue
				}
				exemplars++
				le, err := strconv.ParseFloat(ls.Get("le"), 64)
				if err != nil || x.Value > le || x.Value <= le/2 && le > 0.0005 && le < 65 || !traces[x.Labels.Get("trace_id")] || len(x.Labels.Get("span_id")) != 16 || !x.HasTs {
					t.Errorf("%s: exemplar %+v", ls, x)
				}
				if p.Exemplar(&x) {
					t.Errorf("%s has two exemplars", ls)
				}
			}
		}
	}
	var text, open bytes.Buffer
	tel.WritePrometheus(&text)
	tel.WriteOpenMetrics(&open)
	plain, none := parse(textparse.NewPromParser(text.Bytes(), labels.NewSymbolTable(), false), text.String())
	rich, some := parse(textparse.NewOpenMetricsParser(open.Bytes(), labels.NewSymbolTable()), open.String())
	if d := cmp.Diff(plain, rich); d != "" {
		t.Errorf("the formats differ: -text +OpenMetrics\n%s", d)
	}
	if none != 0 || some < 10 || strings.Contains(text.String(), "# EOF") || !strings.HasSuffix(open.String(), "\n# EOF\n") {
		t.Errorf("%d exemplars in text, %d in OpenMetrics", none, some)
	}
	for _, want := range []string{
		"# TYPE tulle_requests counter\n", `tulle_destination_in_flight{side="client",destination="cart"} 3`, `tulle_destination_limit{side="client",destination="cart"} 100`,
		`tulle_destination_connections{side="client",destination="cart",state="busy"} 3`, `tulle_destination_connections{side="client",destination="cart",state="idle"} 4`,
		`tulle_destination_shed_total{side="client",destination="cart",limit="max_requests"} 5`, `tulle_destination_shed_total{side="client",destination="cart",limit="max_connections"} 6`,
		"# TYPE tulle_destination_wait_seconds histogram\n", `le="1.0"`,
	} {
		if !strings.Contains(open.String(), want) {
			t.Errorf("%s is missing", want)
		}
	}
}

// The bucket of an exemplar is the one that counts its observation.
func TestLeIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	for range 100_000 {
		d := time.Duration(r.Uint64() >> (1 + r.IntN(62)))
		var h flow.Histogram
		h.Observe(d)
		k := leIndex(d)
		if k < leBounds && h.AtMost(int32((minExponent+k)<<flow.HistogramScale)-1) != 1 || k > 0 && h.AtMost(int32((minExponent+k-1)<<flow.HistogramScale)-1) != 0 {
			t.Fatalf("%v is not in bucket %d", d, k)
		}
	}
}

// Of a second the slowest stays, and gives way to what comes a second later.
func TestBucketExemplars(t *testing.T) {
	var b buckets
	at := time.Unix(1000, 0)
	offer := func(after, took time.Duration, id byte) {
		b.offer(&flow.Exemplar{Time: at.Add(after), Value: took, Trace: flow.TraceID{id}, Span: flow.SpanID{id}})
	}
	offer(0, 600*time.Millisecond, 1)
	offer(time.Millisecond, 700*time.Millisecond, 2)
	offer(2*time.Millisecond, 650*time.Millisecond, 3)
	offer(2*time.Millisecond, 90*time.Second, 4)
	b.offer(&flow.Exemplar{Time: at, Value: time.Millisecond})
	if got := b.all(); len(got) != 2 || got[0].Trace[0] != 2 || got[1].Trace[0] != 4 {
		t.Errorf("got %+v", got)
	}
	offer(1100*time.Millisecond, 600*time.Millisecond, 5)
	if got := b.all(); got[0].Trace[0] != 5 {
		t.Errorf("an exemplar of the second before stayed: %+v", got)
	}
}

// BenchmarkAll is all telemetry of one exchange together: counting it, its span, its line of the log, and its share of the export of the counters, which
// is once a second and so much less at any rate worth measuring.
func BenchmarkAll(b *testing.B) {
	for _, f := range []struct {
		name   string
		format LogFormat
	}{{"json", LogJSON}, {"text", LogText}} {
		b.Run(f.name, func(b *testing.B) {
			tel := New(Config{AccessLog: io.Discard, AccessLogFormat: f.format})
			rec := anyRecord(rand.New(rand.NewPCG(1, 1)))
			for rec.Kind != flow.KindExchange || rec.Protocol != flow.ProtocolHTTP1 || rec.Status != 200 {
				rec = anyRecord(rand.New(rand.NewPCG(rand.Uint64(), 1)))
			}
			rec.Trace = flow.Trace{TraceID: flow.TraceID{1}, SpanID: flow.SpanID{2}, ParentID: flow.SpanID{3}, Flags: 1}
			rec.Method, rec.Path, rec.Authority, rec.UserAgent, rec.RequestID = "GET", "/cart/items", "cart", "curl/8.5.0", "0f6f1b5e-8a52-4f6e-9d3c-1c9f5a3c2b10"
			rec.Revision, rec.Source.Identity, rec.Destination.Identity = "3f1c2a", "spiffe://tulle.local/ns/shop/sa/web", "spiffe://tulle.local/ns/shop/sa/cart"
			b.ReportAllocs()
			n, before := 0, cpu(b)
			for b.Loop() {
				tel.Record(&rec)
				if n++; n%chunkRecords == 0 {
					for _, c := range tel.ring.take(true) {
						tel.encodeChunk(c, true)
					}
					if _, ok := tel.queue.next(); ok { // as if it had been sent
						tel.queue.done()
					}
					texts.Put((<-tel.lines.blocks).text)
				}
			}
			b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op") // tells the truth on a busy machine, too
		})
	}
}

// cpu is the CPU time that the process has used, user and system.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkRecord(b *testing.B) {
	for _, protocol := range []flow.Protocol{flow.ProtocolHTTP1, flow.ProtocolGRPC} {
		b.Run(protocol.String(), func(b *testing.B) {
			tel := New(Config{})
			r := rand.New(rand.NewPCG(1, 1))
			var recs []flow.Record
			for len(recs) < 256 {
				if rec := anyRecord(r); rec.Protocol == protocol {
					recs = append(recs, rec)
				}
			}
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					tel.Record(&recs[i%256])
					if i%chunkRecords == 0 {
						for _, c := range tel.ring.take(true) {
							c.release()
						}
					}
				}
			})
		})
	}
}

// How long the data path may have to wait for a collection, at the largest number of series.
func BenchmarkCut(b *testing.B) {
	c := newCounters(10_000)
	for i := range 10_000 {
		c.count(&flow.Record{
			Kind: flow.KindExchange, Side: flow.SideServer, Status: 200, Duration: time.Duration(i) * time.Microsecond,
			Source: flow.Peer{Service: fmt.Sprint("svc-", i)}, Destination: flow.Peer{Service: "cart"},
		})
	}
	for b.Loop() {
		c.read(forExport)
	}
}

// A mirror's copy is counted as that, and as nothing else.
func TestCountersOfMirrors(t *testing.T) {
	c := newCounters(100)
	for _, kind := range []flow.Kind{flow.KindExchange, flow.KindAttempt} {
		c.count(&flow.Record{Kind: kind, Side: flow.SideClient, Protocol: flow.ProtocolHTTP1, Source: flow.Peer{Service: "web"}, Destination: flow.Peer{Service: "shadow"}, Status: 503, Mirror: true, BytesIn: 9, BytesOut: 9})
	}
	r := c.read(forText)
	if len(r.mirrors) != 1 || r.mirrors[0].v != 1 || r.mirrors[0].k != (mirrorKey{flow.SideClient, "web", "shadow", 5}) || len(r.exchanges)+len(r.attempts)+len(r.duration)+len(r.bytes)+len(r.versions) != 0 {
		t.Errorf("%+v", r)
	}
}
