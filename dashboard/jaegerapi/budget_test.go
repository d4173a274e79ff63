package jaegerapi

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jaegertracing/jaeger/proto-gen/api_v2"
	"github.com/jaegertracing/jaeger/proto-gen/storage_v1"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/jaegermodel"
	"github.com/tulle-mesh/tulle/store/span/local"
)

// meshTraces writes so many traces of so many spans each, with the fields of an access log; ids are 1 to traces.
func meshTraces(t *testing.T, db *local.DB, traces, spans int) {
	t.Helper()
	for n := range traces {
		td := ptrace.NewTraces()
		rs := td.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr(flow.AttrServiceName, "web")
		ss := rs.ScopeSpans().AppendEmpty().Spans()
		for i := range spans {
			s := ss.AppendEmpty()
			s.SetTraceID([16]byte{15: byte(n + 1)})
			s.SetSpanID([8]byte{1, 0, 0, 0, byte(i >> 16), byte(i >> 8), byte(i), 1})
			s.SetName("GET catalog")
			s.SetKind(ptrace.SpanKindServer)
			start := time.Now().Add(time.Duration(n)*time.Millisecond - time.Minute)
			s.SetStartTimestamp(pcommon.NewTimestampFromTime(start))
			s.SetEndTimestamp(pcommon.NewTimestampFromTime(start.Add(time.Millisecond)))
			a := s.Attributes()
			for _, k := range []string{
				flow.AttrKind, flow.AttrPhase, flow.AttrSide, flow.AttrProtocol, flow.AttrRevision, flow.AttrEndpoint, flow.AttrSourceService, flow.AttrSourceNamespace, flow.AttrSourceIdentity,
				flow.AttrSourceAddress, flow.AttrDestService, flow.AttrDestNamespace, flow.AttrMethod, flow.AttrPath, flow.AttrAuthority, flow.AttrUserAgent, flow.AttrRequestID,
			} {
				a.PutStr(k, "some text of this length")
			}
			for _, k := range []string{flow.AttrStatus, flow.AttrBytesIn, flow.AttrBytesOut, flow.AttrAttempts, flow.AttrLegHeadParsed, flow.AttrLegQueued, flow.AttrLegFirstByte, flow.AttrLegLastByte} {
				a.PutInt(k, int64(200+i))
			}
		}
		for {
			err := db.Write(t.Context(), td)
			if err == nil {
				break
			}
			if !errors.Is(err, store.ErrBusy) {
				t.Fatal(err)
			}
			runtime.Gosched()
		}
	}
}

func live() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools had
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc) //nolint:gosec // a size
}

// What is counted for the forms of an answer is about what they take.
func TestAnswersHold(t *testing.T) {
	db := openStore(t)
	const spans = 5000
	meshTraces(t, db, 1, spans)
	td, err := db.Trace(t.Context(), flow.TraceID{15: 1})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		counted int64
		take    func() any
	}{
		"Jaeger's JSON": {uiHeld, func() any {
			v := uiTrace(td)
			b, err := json.Marshal(v)
			return []any{v, b, b[:0:0], err}
		}},
		"OTLP's JSON": {otlpHeld, func() any {
			b, err := new(ptrace.JSONMarshaler).MarshalTraces(td)
			return []any{b, strings.Clone(string(b)), err}
		}},
		"Jaeger's model": {modelHeld, func() any { return jaegermodel.ToModel(td) }},
	} {
		before := live()
		v := c.take()
		took := (live() - before) / spans
		runtime.KeepAlive(v)
		t.Logf("%s: %d bytes of heap for a span, %d counted", name, took, c.counted)
		if c.counted*10 < took*9 || c.counted > 3*took {
			t.Errorf("%s: %d bytes of heap for a span, but %d counted", name, took, c.counted)
		}
	}
}

// An answer over HTTP ends where the memory does, and says so; what alone is too large is refused; nothing stays held.
func TestMemoryOverHTTP(t *testing.T) {
	db := openStore(t)
	meshTraces(t, db, 40, 100)
	ask := func(most int64, path string) (*httptest.ResponseRecorder, *store.Budget) {
		memory := store.NewMemory(most)
		m := http.NewServeMux()
		Register(m, &source.Sources{Spans: db, Now: time.Now})
		w := httptest.NewRecorder()
		ctx, b, end := memory.Begin(t.Context())
		m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil).WithContext(ctx))
		why := b.Partial()
		end()
		if s := memory.Stats(); s.Held != 0 || s.Partial == 0 != (why == "") {
			t.Errorf("GET %s: afterwards %+v", path, s)
		}
		return w, b
	}
	const all = "/api/traces?service=web&limit=100"
	read := func(w *httptest.ResponseRecorder) (traces int, faults []fault) {
		var got struct {
			Data   []struct{ Spans []struct{ SpanID string } }
			Errors []fault
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("%v: %.200s", err, w.Body)
		}
		for i, tr := range got.Data {
			if len(tr.Spans) != 100 {
				t.Errorf("trace %d has %d spans, want all 100", i, len(tr.Spans))
			}
		}
		return len(got.Data), got.Errors
	}
	w, _ := ask(64<<20, all)
	if n, faults := read(w); n != 40 || len(faults) != 0 || w.Code != http.StatusOK {
		t.Errorf("with enough: %d traces, %v, status %d", n, faults, w.Code)
	}
	w, b := ask(8<<20, all)
	if n, faults := read(w); n == 0 || n >= 40 || len(faults) != 1 || !strings.HasPrefix(faults[0].Msg, "not all: ") || b.Partial() != faults[0].Msg || w.Code != http.StatusOK {
		t.Errorf("with 8 MiB: %d traces, %v, status %d, partial: %q", n, faults, w.Code, b.Partial())
	}
	for _, path := range []string{all, "/api/traces/00000000000000000000000000000001", "/api/v3/traces/00000000000000000000000000000001", "/api/v3/traces?query.searchDepth=50&" +
		"query.startTimeMin=" + time.Now().Add(-time.Hour).UTC().Format(time.RFC3339) + "&query.startTimeMax=" + time.Now().Add(time.Hour).UTC().Format(time.RFC3339)} {
		if w, _ := ask(100_000, path); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "--query-memory") {
			t.Errorf("GET %s with 100 kB: %d %.300s", path, w.Code, w.Body)
		}
	}
}

// Over gRPC a search sends one trace after the other, so that its answer may be any number of times as large as the memory; a trace that is too large is refused.
func TestMemoryOverGRPC(t *testing.T) {
	db := openStore(t)
	meshTraces(t, db, 40, 100)
	memory := store.NewMemory(2 << 20)
	conn := serve(t, RPCConfig{Sources: &source.Sources{Spans: db, Memory: memory, Now: time.Now}})
	count := func(next func() (int, error)) (n int, err error) {
		for {
			k, err := next()
			if err != nil {
				return n, err
			}
			n += k
		}
	}
	find, err := api_v2.NewQueryServiceClient(conn).FindTraces(t.Context(), &api_v2.FindTracesRequest{Query: &api_v2.TraceQueryParameters{ServiceName: "web", SearchDepth: 100}})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := count(func() (int, error) { c, err := find.Recv(); return len(c.GetSpans()), err }); n != 4000 {
		t.Errorf("%d spans, %v; want 4000", n, err)
	}
	found, err := storage_v1.NewSpanReaderPluginClient(conn).FindTraces(t.Context(), &storage_v1.FindTracesRequest{Query: &storage_v1.TraceQueryParameters{ServiceName: "web", NumTraces: 100}})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := count(func() (int, error) { c, err := found.Recv(); return len(c.GetSpans()), err }); n != 4000 {
		t.Errorf("remote storage: %d spans, %v; want 4000", n, err)
	}
	if s := memory.Stats(); s.Peak == 0 || s.Peak > 2<<20 {
		t.Errorf("%d bytes were held at most, of %d", s.Peak, s.Most)
	}

	meshTraces(t, db, 1, 2000) // the first trace grows
	one, err := api_v2.NewQueryServiceClient(conn).GetTrace(t.Context(), &api_v2.GetTraceRequest{TraceID: jaegermodel.TraceID([16]byte{15: 1})})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := count(func() (int, error) { c, err := one.Recv(); return len(c.GetSpans()), err }); n != 0 || status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%d spans, %v; want ResourceExhausted", n, err)
	}
	if s := memory.Stats(); s.TooLarge == 0 {
		t.Errorf("no refusal was counted: %+v", s)
	}
}
