package local

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/storetest"
)

// meshBatch is one second's batch of a sidecar: 70 spans, as the demo's load makes them.
func meshBatch(n int) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	ra := rs.Resource().Attributes()
	ra.PutStr(flow.AttrServiceName, fmt.Sprintf("svc-%d", n%12))
	ra.PutStr(flow.AttrServiceInstance, fmt.Sprintf("svc-%d-1", n%12))
	ra.PutStr(flow.AttrBootID, fmt.Sprintf("%016x", n%12))
	ra.PutInt(flow.AttrSequence, int64(n/12+1))
	ss := rs.ScopeSpans().AppendEmpty()
	start := time.Now().Add(-time.Minute)
	for i := range 70 {
		s := storetest.Batch(storetest.Span{
			Trace: uint64(n/20*70 + i), ID: uint64(n*70 + i + 1), Parent: uint64(n % 20), Name: "GET catalog", Kind: ptrace.SpanKindServer, //nolint:gosec // small
			Start: start.Add(time.Duration(n*70+i) * 100 * time.Microsecond), Duration: time.Duration(1+i) * 100 * time.Microsecond,
			Attrs: map[string]any{
				flow.AttrKind: "exchange", flow.AttrPhase: "close", flow.AttrSide: "server", flow.AttrProtocol: "http/1.1", flow.AttrAnswered: true, flow.AttrAttempts: 1,
				flow.AttrRevision: "r1", flow.AttrEndpoint: "127.0.0.1:9000", flow.AttrRequestID: fmt.Sprintf("%032x", n*70+i), flow.AttrSourceService: "web", flow.AttrSourceNamespace: "shop",
				flow.AttrSourceIdentity: "spiffe://demo/ns/shop/sa/web", flow.AttrSourceAddress: fmt.Sprintf("127.0.0.1:%d", 30000+i), flow.AttrDestService: fmt.Sprintf("svc-%d", n%12),
				flow.AttrDestNamespace: "shop", flow.AttrMethod: "GET", flow.AttrPath: fmt.Sprintf("/items/%d", i*n%997), flow.AttrAuthority: "catalog", flow.AttrUserAgent: "shop/1",
				flow.AttrStatus: 200, flow.AttrBytesIn: 0, flow.AttrBytesOut: 512 + i, flow.AttrLegHeadParsed: 1000 + i, flow.AttrLegQueued: 2000 + i, flow.AttrLegFirstByte: 80000 + i, flow.AttrLegLastByte: 90000 + i,
			},
		}).ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
		s.MoveTo(ss.Spans().AppendEmpty())
	}
	return td
}

// BenchmarkWrite reports spans per second from decoded batches through log and live buffer to sealed blocks, and bytes per sealed span.
func BenchmarkWrite(b *testing.B) {
	db, err := Open(Config{Dir: b.TempDir(), FS: roomy{}})
	if err != nil {
		b.Fatal(err)
	}
	batches := make([]ptrace.Traces, 2000)
	for i := range batches {
		batches[i] = meshBatch(i)
	}
	n := 0
	b.ResetTimer()
	for b.Loop() {
		td := batches[n%len(batches)]
		td.ResourceSpans().At(0).Resource().Attributes().PutInt(flow.AttrSequence, int64(n+1))
		for {
			err := db.Write(b.Context(), td)
			if err == nil {
				break
			}
			if !errors.Is(err, store.ErrBusy) {
				b.Fatal(err)
			}
			runtime.Gosched()
		}
		n++
	}
	b.StopTimer()
	b.ReportMetric(float64(n*70)/b.Elapsed().Seconds(), "spans/s")
	if s := db.Stats(); s.Blocks > 0 {
		b.ReportMetric(s.BytesPerSpan, "B/span")
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRead measures queries on ten sealed blocks and a live buffer.
func BenchmarkRead(b *testing.B) {
	db, err := Open(Config{Dir: b.TempDir(), FS: roomy{}})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	for i := range 10_000 {
		for errors.Is(db.Write(b.Context(), meshBatch(i)), store.ErrBusy) {
			<-time.NewTimer(time.Millisecond).C
		}
	}
	for len(db.frozenNow()) > 0 {
		<-time.NewTimer(time.Millisecond).C
	}
	b.Run("trace", func(b *testing.B) {
		n := uint64(0)
		for b.Loop() {
			n = (n + 7919) % 35_000
			if _, err := db.Trace(b.Context(), storetest.TraceID(n)); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, q := range map[string]store.TraceQuery{
		"newest": {}, "service": {Service: "svc-3"}, "edge": {Source: "web", Destination: "svc-3", MinDuration: 6 * time.Millisecond},
		"attribute": {Attributes: []store.AttributeMatch{{Key: flow.AttrPath, Value: "/items/5", Op: "="}}}, "none": {Attributes: []store.AttributeMatch{{Key: flow.AttrPath, Value: "/nothing", Op: "="}}},
		"pattern": {Attributes: []store.AttributeMatch{{Key: flow.AttrPath, Value: "/items/.*5", Op: "~"}}}, "no pattern": {Attributes: []store.AttributeMatch{{Key: flow.AttrPath, Value: ".*nothing.*", Op: "~"}}},
		"no status": {Attributes: []store.AttributeMatch{{Key: flow.AttrStatus, Value: "6..", Op: "~"}}}, "no service": {Attributes: []store.AttributeMatch{{Key: flow.AttrDestService, Value: "no.*", Op: "~"}}},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := db.Summaries(b.Context(), q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func (db *DB) frozenNow() []*memtable {
	db.mu.RLock()
	defer db.mu.RUnlock()
	return db.frozen
}

// BenchmarkMerge reports what one span costs that is merged: four sealed blocks become one.
func BenchmarkMerge(b *testing.B) {
	db, err := Open(Config{Dir: b.TempDir(), FS: roomy{}, compaction: never})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	for i := 0; db.Stats().Blocks < 4; i++ {
		for errors.Is(db.Write(b.Context(), meshBatch(i)), store.ErrBusy) {
			<-time.NewTimer(time.Millisecond).C
		}
	}
	spans, several, traces := 0, 0, 0
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	var used time.Duration
	n := 0
	for b.Loop() {
		db.mu.RLock()
		in := db.blocks[:4]
		db.mu.RUnlock()
		m := &merger{db: db, job: &job{in: in, level: levelHour}, pace: pace{db: db, since: time.Now()}}
		before := cpu()
		if err := m.open(); err != nil {
			b.Fatal(err)
		}
		if err := m.order(); err != nil {
			b.Fatal(err)
		}
		if err := m.write(io.Discard); err != nil {
			b.Fatal(err)
		}
		used += cpu() - before
		n++
		spans, traces, several = m.meta.Spans, len(m.parts), 0
		for _, x := range m.in {
			several += len(x.parts)
		}
		several -= traces
		m.close()
	}
	b.ReportMetric(float64(used.Nanoseconds())/float64(n*spans), "cpu-ns/span")
	b.ReportMetric(float64(spans), "spans")
	b.ReportMetric(float64(several)/float64(traces), "cuts/trace")
}
