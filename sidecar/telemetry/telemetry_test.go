package telemetry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlpmetrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"google.golang.org/grpc/mem"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// observer is a client that plays the observer: it keeps what it takes and answers with what answer says.
type observer struct {
	mu     sync.Mutex
	calls  []call
	answer func(ctx context.Context, c call) ([]byte, error) // nil: take everything
}

type call struct {
	at       time.Time
	signal   string
	sequence int64
	clock    int64
	boot     string
	goodbye  bool
	body     []byte
	spans    int
	families map[string]*otlpmetrics.Metric
	err      error
}

func (o *observer) Close() error { return nil }

func (o *observer) export(ctx context.Context, s signal, head []byte, body mem.Buffer) ([]byte, error) {
	c := call{at: time.Now(), signal: s.name, body: bytes.Clone(body.ReadOnlyData())}
	var attrs []*common.KeyValue
	whole := append(slices.Clone(head), body.ReadOnlyData()...)
	if s == traces {
		var req collectortrace.ExportTraceServiceRequest
		if err := proto.Unmarshal(whole, &req); err != nil {
			panic(err)
		}
		attrs = req.ResourceSpans[0].Resource.Attributes
		c.spans = len(req.ResourceSpans[0].ScopeSpans[0].Spans)
	} else {
		var req collectormetrics.ExportMetricsServiceRequest
		if err := proto.Unmarshal(whole, &req); err != nil {
			panic(err)
		}
		attrs = req.ResourceMetrics[0].Resource.Attributes
		c.families = make(map[string]*otlpmetrics.Metric)
		for _, m := range req.ResourceMetrics[0].ScopeMetrics[0].Metrics {
			c.families[m.Name] = m
		}
	}
	for _, kv := range attrs {
		switch kv.Key {
		case flow.AttrSequence:
			c.sequence = kv.Value.GetIntValue()
		case flow.AttrClock:
			c.clock = kv.Value.GetIntValue()
		case flow.AttrBootID:
			c.boot = kv.Value.GetStringValue()
		case flow.AttrGoodbye:
			c.goodbye = kv.Value.GetBoolValue()
		}
	}
	var response []byte
	if o.answer != nil {
		response, c.err = o.answer(ctx, c)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = append(o.calls, c)
	return response, c.err
}

func (o *observer) of(signal string) (out []call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.calls {
		if c.signal == signal {
			out = append(out, c)
		}
	}
	return out
}

// start runs a Telemetry against o inside a synctest bubble; stop ends it and waits.
func start(t *testing.T, o *observer, cfg Config) (tel *Telemetry, stop func()) {
	t.Helper()
	cfg.Workload = policy.Workload{Service: "cart", Namespace: "shop", Version: "v1", Instance: "cart-1"}
	cfg.Target = "observer:4317"
	tel = New(cfg)
	tel.newClient = func() (client, error) { return o, nil }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- tel.Run(ctx, func() { close(ready) }) }()
	<-ready
	return tel, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func exchange(i int) *flow.Record {
	return &flow.Record{
		Kind: flow.KindExchange, Side: flow.SideServer, Protocol: flow.ProtocolHTTP1, Start: time.Now(), Duration: time.Millisecond,
		Trace:  flow.Trace{TraceID: flow.TraceID{0: 1, 15: byte(i)}, SpanID: flow.SpanID{7: byte(i + 1)}},
		Source: flow.Peer{Service: "web"}, Destination: flow.Peer{Service: "cart"}, Method: "GET", Path: "/", Status: 200, Answered: true,
	}
}

func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &observer{}
		tel, stop := start(t, o, Config{})
		begun := time.Now()
		tel.Record(exchange(1))
		tel.Record(exchange(2))
		folded := exchange(3)
		folded.Kind, folded.Side, folded.Attempt, folded.Folded = flow.KindAttempt, flow.SideClient, 1, true
		tel.Record(folded) // no span, but counted
		for _, f := range tel.counters.collect("cart", forText) {
			if f.Name == flow.MetricAttempts && (len(f.Points) != 1 || f.Points[0].Value != 1) {
				t.Errorf("the folded attempt was counted as %+v", f.Points)
			}
		}
		time.Sleep(199 * time.Millisecond)
		synctest.Wait()
		if got := o.of("traces"); len(got) != 0 {
			t.Fatalf("sent after %v", got[0].at.Sub(begun))
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		for i := range chunkRecords {
			tel.Record(exchange(i))
		}
		synctest.Wait()
		got := o.of("traces")
		if len(got) != 2 || got[0].spans != 2 || got[1].spans != chunkRecords {
			t.Fatalf("batches: %d", len(got))
		}
		if d := got[1].at.Sub(begun); d > 201*time.Millisecond {
			t.Errorf("a full chunk waited until %v", d)
		}
		tel.Record(exchange(3))
		stop()
		got = o.of("traces")
		if len(got) != 3 || got[2].spans != 1 {
			t.Fatalf("the rest was not flushed: %d batches", len(got))
		}
		for i, c := range got {
			if c.sequence != int64(i+1) || c.boot != tel.BootID() || len(c.boot) != 16 {
				t.Errorf("batch %d: sequence %d of boot %q", i, c.sequence, c.boot)
			}
		}
	})
}

// A batch that could not be delivered is sent again with the same bytes and sequence and a fresh clock, before any later batch.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		away.Store(true)
		info, err := status.New(codes.ResourceExhausted, "slow down").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(7 * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		tries := 0
		o := &observer{answer: func(_ context.Context, c call) ([]byte, error) {
			if c.signal != "traces" || !away.Load() {
				return nil, nil
			}
			if tries++; tries == 3 {
				return nil, info.Err()
			}
			return nil, status.Error(codes.Unavailable, "no observer")
		}}
		var log bytes.Buffer
		tel, stop := start(t, o, Config{Log: slog.New(slog.NewTextHandler(&log, nil))})
		tel.Record(exchange(1))
		time.Sleep(250 * time.Millisecond)
		tel.Record(exchange(2))
		time.Sleep(30 * time.Second)
		synctest.Wait()
		away.Store(false)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		got := o.of("traces")
		last := len(got) - 1
		if last < 5 || got[last].sequence != 2 || got[last].err != nil {
			t.Fatalf("%d calls, the last with sequence %d: %v", len(got), got[last].sequence, got[last].err)
		}
		for i := 1; i < last; i++ {
			if got[i].sequence != 1 || !bytes.Equal(got[i].body, got[0].body) {
				t.Fatalf("try %d differs: sequence %d", i, got[i].sequence)
			}
			if got[i].clock <= got[i-1].clock {
				t.Errorf("try %d has a stale clock", i)
			}
			if gap := got[i].at.Sub(got[i-1].at); gap > 2*backoffMax {
				t.Errorf("waited %v before try %d", gap, i)
			}
		}
		if gap := got[3].at.Sub(got[2].at); gap != 7*time.Second {
			t.Errorf("RetryInfo asked for 7 s, waited %v", gap)
		}
		stop()
		if away, back := strings.Count(log.String(), "not reachable"), strings.Count(log.String(), "reachable again"); away != 1 || back != 1 {
			t.Errorf("outage logged %d times, its end %d times:\n%s", away, back, log.String())
		}
		if n := tel.dropped[dropRefused].Load(); n != 0 {
			t.Errorf("%d records dropped", n)
		}
	})
}

func TestRefusedAndPartial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := map[int64]error{1: status.Error(codes.InvalidArgument, "bad"), 2: status.Error(codes.Internal, "broken"), 4: status.Error(codes.PermissionDenied, "who are you")}
		o := &observer{answer: func(_ context.Context, c call) ([]byte, error) {
			if c.signal != "traces" {
				return nil, nil
			}
			if c.sequence == 3 {
				return []byte{0x0a, 0x02, 0x08, 0x01}, nil // one span rejected
			}
			return nil, answers[c.sequence]
		}}
		tel, stop := start(t, o, Config{})
		for range 5 {
			tel.Record(exchange(1))
			tel.Record(exchange(2))
			time.Sleep(10 * time.Second)
		}
		stop()
		tries := map[int64]int{}
		for _, c := range o.of("traces") {
			tries[c.sequence]++
		}
		if fmt.Sprint(tries) != fmt.Sprint(map[int64]int{1: 1, 2: limitedAttempts, 3: 1, 4: 1, 5: 1}) {
			t.Errorf("tries by sequence: %v", tries)
		}
		if got := tel.dropped[dropRefused].Load(); got != 6 {
			t.Errorf("refused: %d records, want 6", got)
		}
		if got := tel.dropped[dropPartial].Load(); got != 1 {
			t.Errorf("partial: %d records, want 1", got)
		}
		if got := tel.accepted.Load(); got != 3 {
			t.Errorf("accepted: %d, want 3", got)
		}
	})
}

// Without an observer the queue stays bounded, the oldest goes first, everything lost is counted, and stopping takes no longer than the flush
// time although every call hangs.
func TestObserverAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &observer{answer: func(ctx context.Context, _ call) ([]byte, error) {
			<-ctx.Done()
			return nil, status.FromContextError(ctx.Err()).Err()
		}}
		tel, stop := start(t, o, Config{QueueBatches: 3})
		for i := range 6 {
			tel.Record(exchange(i))
			time.Sleep(300 * time.Millisecond)
		}
		synctest.Wait()
		if bytes, batches := tel.queue.size(); batches != 3 || bytes == 0 {
			t.Errorf("queue holds %d batches, %d bytes", batches, bytes)
		}
		if got := tel.dropped[dropQueue].Load(); got != 3 {
			t.Errorf("%d dropped, want 3", got)
		}
		if tel.queue.items[0].sequence != 1 || tel.queue.items[2].sequence != 6 {
			t.Errorf("queue keeps %d … %d; want the one being sent and the newest", tel.queue.items[0].sequence, tel.queue.items[2].sequence)
		}
		begun := time.Now()
		stop()
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("stopping took %v", took)
		}
		if got := tel.dropped[dropShutdown].Load(); got != 3 {
			t.Errorf("%d counted as lost at the end, want 3", got)
		}
		tel.Record(exchange(9))
		if got := tel.dropped[dropShutdown].Load(); got != 4 {
			t.Errorf("a Record after the end is not counted: %d", got)
		}
	})
}

func TestQueueBytes(t *testing.T) {
	q := newQueue(100, 10)
	for i := range 5 {
		if n := q.push(batch{sequence: uint64(i), body: mem.SliceBuffer(make([]byte, 30)), records: 1}); (n == 1) != (i >= 3) {
			t.Errorf("push %d dropped %d", i, n)
		}
	}
	if n := q.push(batch{body: mem.SliceBuffer(make([]byte, 101)), records: 7}); n != 3+7 {
		t.Errorf("a batch larger than the queue dropped %d", n)
	}
	q.push(batch{sequence: 9, body: mem.SliceBuffer(make([]byte, 60)), records: 1})
	if b, ok := q.next(); !ok || b.sequence != 9 {
		t.Fatal(b.sequence, ok)
	}
	if n := q.push(batch{body: mem.SliceBuffer(make([]byte, 60)), records: 2}); n != 2 {
		t.Errorf("what is being sent must stay; dropped %d", n)
	}
	q.done()
	if bytes, batches := q.size(); bytes != 0 || batches != 0 {
		t.Errorf("%d bytes in %d batches left", bytes, batches)
	}
}

func TestRingFull(t *testing.T) {
	tel := New(Config{})
	for range ringChunks*chunkRecords + 5 {
		tel.Record(exchange(1))
	}
	if got := tel.dropped[dropRing].Load(); got != 5 {
		t.Errorf("%d dropped, want 5", got)
	}
	var n uint64
	tel.counters.exchanges.each(func(_ exchangeKey, v *counter) { n += v.Load() })
	if n != ringChunks*chunkRecords+5 {
		t.Errorf("%d counted: a dropped Record must be counted all the same", n)
	}
}

// The data path overwrites its buffers after Record has returned, and callers send long texts.
func TestBorrowedTexts(t *testing.T) {
	g := newRing(ringChunks)
	var long string
	for i := range 3 {
		buffer := fmt.Appendf(nil, "GET /path/%d host agent", i)
		alias := func(from, to int) string { return unsafe.String(&buffer[from], to-from) }
		r := &flow.Record{Method: alias(0, 3), Path: alias(4, 11), Authority: alias(12, 16), UserAgent: alias(17, 22), Route: "items", Detail: long}
		if !g.add(r) {
			t.Fatal("refused")
		}
		clear(buffer)
		long = strings.Repeat("x", 1<<20)
	}
	recs := g.take(true)[0].records()
	for i, r := range recs {
		if r.Method != "GET" || r.Path != fmt.Sprint("/path/", i) || r.Authority != "host" || r.UserAgent != "agent" || r.Route != "items" || len(r.Detail) > keepText {
			t.Errorf("Record %d: %.200v", i, r)
		}
	}
	// Long texts fill a chunk sooner, so that the ring's memory is bounded in bytes too.
	n := 0
	for g.add(&flow.Record{Path: long, Detail: long}) {
		n++
	}
	bytes := 0
	for _, c := range g.take(true) {
		bytes += len(c.text)
	}
	if n < 1000 || bytes > ringChunks*(chunkText+keepPath+keepText) {
		t.Errorf("%d Records with %d bytes of text", n, bytes)
	}
}

func TestMetricsExport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		var slow atomic.Bool
		o := &observer{answer: func(ctx context.Context, c call) ([]byte, error) {
			if slow.Load() && c.signal == "metrics" {
				select {
				case <-hang:
				case <-ctx.Done():
					return nil, status.FromContextError(ctx.Err()).Err()
				}
			}
			return nil, nil
		}}
		tel, stop := start(t, o, Config{})
		time.Sleep(3500 * time.Millisecond)
		synctest.Wait()
		got := o.of("metrics")
		if len(got) != 3 {
			t.Fatalf("%d exports in 3.5 s", len(got))
		}
		for i, c := range got {
			if c.at.Nanosecond() != 0 || c.sequence != int64(i+1) {
				t.Errorf("export %d at %v with sequence %d", i, c.at, c.sequence)
			}
		}
		// One that hangs is not queued behind: the newest follows it, and the hole shows in the sequence.
		slow.Store(true)
		tel.Record(exchange(1))
		time.Sleep(5 * time.Second)
		slow.Store(false)
		close(hang)
		synctest.Wait()
		got = o.of("metrics")
		if len(got) != 5 || got[3].sequence != 4 || got[4].sequence != 8 {
			t.Fatalf("%d exports, sequences %d %d", len(got), got[3].sequence, got[4].sequence)
		}
		m := got[4].families[flow.MetricExchanges]
		if m == nil || m.GetSum().DataPoints[0].GetAsInt() != 1 || !m.GetSum().IsMonotonic {
			t.Errorf("exchanges: %v", m)
		}
		stop()
		got = o.of("metrics")
		last := got[len(got)-1]
		if !last.goodbye || last.sequence != 9 {
			t.Errorf("the last export must say goodbye: %+v", last)
		}
		for _, c := range got[:len(got)-1] {
			if c.goodbye {
				t.Error("said goodbye too early")
			}
		}
	})
}

// A second that was sampled while the one before was being sent is sent too, however the stop comes between.
func TestStopLeavesNoHole(t *testing.T) {
	for range 10 { // which of two ready channels is looked at first is chance
		synctest.Test(t, func(t *testing.T) {
			o := &observer{answer: func(_ context.Context, c call) ([]byte, error) {
				if c.signal == "metrics" && c.sequence == 1 {
					time.Sleep(1500 * time.Millisecond)
				}
				return nil, nil
			}}
			_, stop := start(t, o, Config{})
			time.Sleep(2200 * time.Millisecond)
			stop()
			got := o.of("metrics")
			if len(got) != 3 || got[1].sequence != 2 || got[2].sequence != 3 || !got[2].goodbye {
				t.Errorf("%d exports", len(got))
				for _, c := range got {
					t.Errorf("sequence %d, goodbye %t", c.sequence, c.goodbye)
				}
			}
		})
	}
}

func TestAccessLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		tel, stop := start(t, &observer{}, Config{AccessLog: &b})
		tel.Record(exchange(1))
		tel.Record(&flow.Record{Kind: flow.KindAttempt, Side: flow.SideClient, Attempt: 1})
		tel.Record(&flow.Record{Kind: flow.KindConnection, Phase: flow.PhaseProgress, Side: flow.SideClient})
		tel.Record(&flow.Record{Kind: flow.KindConnection, Side: flow.SideClient, Reason: flow.ReasonTLSFailed})
		stop()
		lines := strings.Split(strings.TrimSpace(b.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], `"url.path":"/"`) || !strings.Contains(lines[1], `"tulle.reason":"tls_failed"`) {
			t.Errorf("got\n%s", b.String())
		}
		if strings.Contains(lines[1], `"trace_id":"00000000`) || !strings.Contains(lines[1], `"trace_id":"`) {
			t.Errorf("a connection without a trace must get one, so that line and span meet: %s", lines[1])
		}
	})
}

// A log that takes nothing costs log lines, not spans and not time.
func TestAccessLogStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		o := &observer{}
		tel, stop := start(t, o, Config{AccessLog: w, AccessLogFormat: LogText})
		const blocks = pendingWrites + 10
		for range blocks {
			tel.Record(exchange(1))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if got := tel.dropped[dropLog].Load(); got != blocks-pendingWrites-1 {
			t.Errorf("%d lines dropped, want %d", got, blocks-pendingWrites-1)
		}
		if got := len(o.of("traces")); got != blocks {
			t.Errorf("%d batches sent, want %d", got, blocks)
		}
		begun := time.Now()
		stop()
		if took := time.Since(begun); took > time.Second {
			t.Errorf("stopping took %v", took)
		}
		r.CloseWithError(errors.New("disk full"))
	})
}

func TestExemplars(t *testing.T) {
	c := newCounters(100)
	fail := func(i byte, d time.Duration) {
		c.count(&flow.Record{
			Kind: flow.KindAttempt, Side: flow.SideClient, Duration: d, Status: 503, Reason: flow.ReasonUpstreamStatus, Delivered: true,
			Trace: flow.Trace{TraceID: flow.TraceID{15: i}}, Endpoint: netip.MustParseAddrPort("10.0.0.1:80"), Destination: flow.Peer{Service: "cart"},
		})
	}
	fail(1, time.Second)
	fail(2, 3*time.Second)
	fail(3, 2*time.Second)
	read := func(why purpose) []flow.Exemplar {
		for _, f := range c.collect("web", why) {
			if f.Name == flow.MetricAttempts {
				return f.Points[0].Exemplars
			}
		}
		return nil
	}
	if got := read(forText); got != nil {
		t.Errorf("the Prometheus view took exemplars: %v", got)
	}
	if got := read(forExport); len(got) != 2 || got[0].Trace[15] != 2 || got[1].Trace[15] != 3 {
		t.Errorf("want the worst and the last: %v", got)
	}
	if got := read(forExport); len(got) != 0 {
		t.Errorf("exemplars were given twice: %v", got)
	}
}
