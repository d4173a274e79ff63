// Package storetest is the conformance suite of span backends. A backend's test calls Run with a function that opens an empty store;
// every subtest opens its own and closes it.
//
// What a store says beforehand that it cannot do (store.Capabilities) is not asked of it; all else is.
//
// A store that also implements Settler is settled between writing and reading, so that one suite covers live, sealed and reopened states.
package storetest

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jaegertracing/jaeger/model"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/jaegermodel"
)

// Settler is implemented by test wrappers that bring a store into the state to be read: sealed, reopened, repaired.
type Settler interface{ Settle(t *testing.T) }

func settle(t *testing.T, s store.Spans) {
	t.Helper()
	if x, ok := s.(Settler); ok {
		x.Settle(t)
	}
}

// Run runs the suite. open returns an empty store.
func Run(t *testing.T, open func(t *testing.T) store.Spans) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s store.Spans)
		need func(store.Capabilities) bool // nil: every store can
	}{
		{"RoundTrip", testRoundTrip, nil},
		{"MeshRecord", testMeshRecord, searches},
		{"SplitTrace", testSplitTrace, searches},
		{"Only", testOnly, searches},
		{"Dedupe", testDedupe, nil},
		{"DedupeConcurrent", testDedupeConcurrent, nil},
		{"Predicates", testPredicates, searches},
		{"Paging", testPaging, pages},
		{"PagingWhileWriting", testPagingWhileWriting, func(c store.Capabilities) bool { return pages(c) && c.StablePaging }},
		{"LateSpans", testLateSpans, searches},
		{"Summary", testSummary, searches},
		{"Catalog", testCatalog, nil},
		{"NotFound", testNotFound, nil},
		{"BadQuery", testBadQuery, nil},
		{"Cancelled", testCancelled, nil},
		{"Closed", testClosed, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			if c.need != nil && !c.need(s.Capabilities()) {
				_ = s.Close()
				t.Skipf("%s says that it cannot: %+v", s.Capabilities().Name, s.Capabilities())
			}
			t.Cleanup(func() {
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			c.run(t, s)
		})
	}
}

func searches(c store.Capabilities) bool {
	return c.SearchWithoutService && c.AttributeSearch && c.DurationSearch
}

func pages(c store.Capabilities) bool { return c.SearchWithoutService && c.KeysetPaging }

// form is what comes back of td: all, or what Jaeger's model has of it.
func form(s store.Spans, td ptrace.Traces) ptrace.Traces {
	if s.Capabilities().WholeForm {
		return td
	}
	micros := func(at *time.Time) { *at = model.EpochMicrosecondsAsTime(model.TimeAsEpochMicroseconds(*at)) }
	t := jaegermodel.ToModel(td)
	for _, sp := range t.Spans {
		micros(&sp.StartTime)
		sp.Duration = sp.Duration.Truncate(time.Microsecond)
		for i := range sp.Logs {
			micros(&sp.Logs[i].Timestamp)
		}
	}
	return jaegermodel.FromModel(t.Spans)
}

// base is when the suite's traffic begins; in the past, so that queries up to now see it.
var base = time.Now().Add(-time.Hour).Truncate(time.Second).UTC()

func write(t *testing.T, s store.Spans, td ptrace.Traces) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := s.Write(t.Context(), td)
		if err == nil {
			return
		}
		if !errors.Is(err, store.ErrBusy) || time.Now().After(deadline) { // busy means: try again
			t.Fatalf("write: %v", err)
		}
		<-time.NewTimer(time.Millisecond).C
	}
}

// Span describes a span to write.
type Span struct {
	Trace, ID, Parent uint64
	Service, Name     string
	Kind              ptrace.SpanKind
	Start             time.Time
	Duration          time.Duration
	Error             bool
	Attrs             map[string]any
	Res               map[string]any
	Events            []map[string]any // attributes of each; "event" is its name
}

// TraceID spreads n over the 16 bytes.
func TraceID(n uint64) flow.TraceID {
	var id flow.TraceID
	x := n*0x9e3779b97f4a7c15 + 0x1234567
	for i := range 8 {
		id[i] = byte(x >> (8 * i))
		id[8+i] = byte(n >> (56 - 8*i))
	}
	return id
}

// SpanID is n, big endian.
func SpanID(n uint64) flow.SpanID {
	var id flow.SpanID
	for i := range 8 {
		id[i] = byte(n >> (56 - 8*i))
	}
	return id
}

// Batch makes a batch of spans, each with a resource of its own.
func Batch(spans ...Span) ptrace.Traces {
	td := ptrace.NewTraces()
	for _, s := range spans {
		rs := td.ResourceSpans().AppendEmpty()
		if s.Service != "" {
			rs.Resource().Attributes().PutStr(flow.AttrServiceName, s.Service)
		}
		for k, v := range s.Res {
			_ = rs.Resource().Attributes().PutEmpty(k).FromRaw(v)
		}
		sp := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		sp.SetTraceID(pcommon.TraceID(TraceID(s.Trace)))
		sp.SetSpanID(pcommon.SpanID(SpanID(s.ID)))
		if s.Parent != 0 {
			sp.SetParentSpanID(pcommon.SpanID(SpanID(s.Parent)))
		}
		sp.SetName(s.Name)
		sp.SetKind(s.Kind)
		sp.SetStartTimestamp(pcommon.NewTimestampFromTime(s.Start))
		sp.SetEndTimestamp(pcommon.NewTimestampFromTime(s.Start.Add(s.Duration)))
		if s.Error {
			sp.Status().SetCode(ptrace.StatusCodeError)
		}
		for k, v := range s.Attrs {
			_ = sp.Attributes().PutEmpty(k).FromRaw(v)
		}
		for _, attrs := range s.Events {
			e := sp.Events().AppendEmpty()
			for k, v := range attrs {
				if k == "event" {
					e.SetName(text(v))
				} else {
					_ = e.Attributes().PutEmpty(k).FromRaw(v)
				}
			}
		}
	}
	return td
}

// Canonical renders every span with its resource and scope as a line, sorted, so that two batches can be compared whatever their grouping.
// The transport's stamps (tulle.sequence, tulle.clock) are left out: a store may consume them.
func Canonical(td ptrace.Traces) []string {
	var out []string
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, sp := range ss.Spans().All() {
				var b strings.Builder
				fmt.Fprintf(&b, "trace=%s span=%s parent=%s state=%q flags=%d name=%q kind=%d start=%d end=%d status=%d/%q dropped=%d/%d/%d attrs=%s",
					sp.TraceID(), sp.SpanID(), sp.ParentSpanID(), sp.TraceState().AsRaw(), sp.Flags(), sp.Name(), sp.Kind(), sp.StartTimestamp(), sp.EndTimestamp(),
					sp.Status().Code(), sp.Status().Message(), sp.DroppedAttributesCount(), sp.DroppedEventsCount(), sp.DroppedLinksCount(), canonicalMap(sp.Attributes()))
				for _, e := range sp.Events().All() {
					fmt.Fprintf(&b, " event=%d/%q/%d%s", e.Timestamp(), e.Name(), e.DroppedAttributesCount(), canonicalMap(e.Attributes()))
				}
				for _, l := range sp.Links().All() {
					fmt.Fprintf(&b, " link=%s/%s/%q/%d/%d%s", l.TraceID(), l.SpanID(), l.TraceState().AsRaw(), l.Flags(), l.DroppedAttributesCount(), canonicalMap(l.Attributes()))
				}
				fmt.Fprintf(&b, " scope=%q/%q%s/%q resource=%s/%q", ss.Scope().Name(), ss.Scope().Version(), canonicalMap(ss.Scope().Attributes()), ss.SchemaUrl(),
					canonicalMap(rs.Resource().Attributes()), rs.SchemaUrl())
				out = append(out, b.String())
			}
		}
	}
	sort.Strings(out)
	return out
}

func canonicalMap(m pcommon.Map) string {
	var kv []string
	for k, v := range m.All() {
		if k == flow.AttrSequence || k == flow.AttrClock {
			continue
		}
		kv = append(kv, fmt.Sprintf("%q:%s", k, canonicalValue(v)))
	}
	sort.Strings(kv)
	return "{" + strings.Join(kv, ",") + "}"
}

func canonicalValue(v pcommon.Value) string {
	switch v.Type() {
	case pcommon.ValueTypeDouble:
		return fmt.Sprintf("double %x", math.Float64bits(v.Double()))
	case pcommon.ValueTypeBytes:
		return "bytes " + hex.EncodeToString(v.Bytes().AsRaw())
	case pcommon.ValueTypeMap:
		return canonicalMap(v.Map())
	case pcommon.ValueTypeSlice:
		var l []string
		for _, x := range v.Slice().All() {
			l = append(l, canonicalValue(x))
		}
		return "[" + strings.Join(l, ",") + "]"
	default:
		return fmt.Sprintf("%s %v", v.Type(), v.AsRaw())
	}
}

// everything is a batch that uses each feature of the format.
func everything() ptrace.Traces {
	td := ptrace.NewTraces()
	for r := range 3 {
		rs := td.ResourceSpans().AppendEmpty()
		rs.SetSchemaUrl("https://opentelemetry.io/schemas/1.27.0")
		ra := rs.Resource().Attributes()
		if r != 2 {
			ra.PutStr(flow.AttrServiceName, fmt.Sprintf("svc-%d", r))
		}
		ra.PutInt("host.cpu", int64(r))
		ra.PutEmptySlice("host.ip").AppendEmpty().SetStr("10.0.0.1")
		for sc := range 2 {
			ss := rs.ScopeSpans().AppendEmpty()
			ss.SetSchemaUrl("https://opentelemetry.io/schemas/1.26.0")
			ss.Scope().SetName(fmt.Sprintf("lib-%d", sc))
			ss.Scope().SetVersion("1.2")
			ss.Scope().Attributes().PutBool("scoped", true)
			for i := range 3 {
				sp := ss.Spans().AppendEmpty()
				n := uint64(100*r + 10*sc + i + 1) //nolint:gosec // small
				sp.SetTraceID(pcommon.TraceID(TraceID(7)))
				sp.SetSpanID(pcommon.SpanID(SpanID(n)))
				if i > 0 {
					sp.SetParentSpanID(pcommon.SpanID(SpanID(n - 1)))
				}
				sp.TraceState().FromRaw("a=b,c=d")
				sp.SetFlags(257)
				sp.SetName(fmt.Sprintf("GET /things/%d", i))
				sp.SetKind(ptrace.SpanKind(i + 1)) //nolint:gosec // small
				sp.SetStartTimestamp(pcommon.NewTimestampFromTime(base.Add(time.Duration(i))))
				if i != 2 { // a span without an end is legal
					sp.SetEndTimestamp(pcommon.NewTimestampFromTime(base.Add(time.Second)))
				}
				sp.Status().SetCode(ptrace.StatusCode(i)) //nolint:gosec // small
				sp.Status().SetMessage(strings.Repeat("é", i))
				a := sp.Attributes()
				a.PutStr("s", "text \x00 and ünïcode")
				a.PutStr("empty", "")
				a.PutBool("b", i == 1)
				a.PutInt("i", math.MinInt64+int64(i))
				a.PutDouble("d", 0.1)
				a.PutDouble("nan", math.NaN())
				a.PutDouble("inf", math.Inf(-1))
				a.PutEmptyBytes("bytes").FromRaw([]byte{0, 255, 1})
				a.PutEmpty("nothing")
				l := a.PutEmptySlice("list")
				l.AppendEmpty().SetInt(1)
				l.AppendEmpty().SetDouble(1)
				l.AppendEmpty().SetEmptyMap().PutStr("deep", "yes")
				m := a.PutEmptyMap("map")
				m.PutEmptyBytes("x").FromRaw([]byte{9})
				m.PutEmptySlice("l").AppendEmpty().SetBool(true)
				a.PutStr(flow.AttrStatus, "a string where the mesh writes an int")
				a.PutInt(flow.AttrMethod, 5)
				sp.SetDroppedAttributesCount(uint32(i)) //nolint:gosec // small
				if i == 1 {
					e := sp.Events().AppendEmpty()
					e.SetName("exception")
					e.SetTimestamp(5)
					e.Attributes().PutStr("exception.type", "boom")
					e.SetDroppedAttributesCount(4)
					sp.Events().AppendEmpty().SetName("second")
					k := sp.Links().AppendEmpty()
					k.SetTraceID(pcommon.TraceID(TraceID(8)))
					k.SetSpanID(pcommon.SpanID(SpanID(9)))
					k.TraceState().FromRaw("q=r")
					k.SetFlags(1)
					k.Attributes().PutInt("n", 1)
					sp.SetDroppedEventsCount(2)
					sp.SetDroppedLinksCount(3)
				}
			}
		}
	}
	return td
}

func trace(t *testing.T, s store.Spans, id flow.TraceID) ptrace.Traces {
	t.Helper()
	td, err := s.Trace(t.Context(), id)
	if err != nil {
		t.Fatalf("trace %s: %v", id, err)
	}
	return td
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "(nothing)", "(nothing)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("%s: %d entries, want %d; entry %d\n got %s\nwant %s", what, len(got), len(want), i, g, w)
		}
	}
}

func testRoundTrip(t *testing.T, s store.Spans) {
	in := everything()
	want := Canonical(form(s, in))
	write(t, s, in)
	settle(t, s)
	out := trace(t, s, TraceID(7))
	same(t, "trace read back", Canonical(out), want)
	if n := out.ResourceSpans().Len(); n != 3 {
		t.Fatalf("%d resources, want 3: spans are grouped by resource", n)
	}
}

func testMeshRecord(t *testing.T, s store.Spans) {
	td := Batch(Span{
		Trace: 1, ID: 1, Service: "cart", Name: "GET /", Kind: ptrace.SpanKindServer, Start: base, Duration: time.Millisecond,
		Attrs: map[string]any{
			flow.AttrKind: "exchange", flow.AttrPhase: "close", flow.AttrSide: "server", flow.AttrProtocol: "http/1.1", flow.AttrReason: "try_timeout",
			flow.AttrDelivered: true, flow.AttrAnswered: false, flow.AttrProbe: false, flow.AttrTraceBegun: true, flow.AttrAttempt: 1, flow.AttrAttempts: 2,
			flow.AttrRevision: "r1", flow.AttrOverride: "o1", flow.AttrRoute: "main", flow.AttrEndpoint: "127.0.0.1:80", flow.AttrRequestID: "abc",
			flow.AttrSourceService: "web", flow.AttrSourceIdentity: "spiffe://x/ns/a/sa/b", flow.AttrSourceAddress: "127.0.0.1:1",
			flow.AttrDestService: "cart", flow.AttrDestAddress: "127.0.0.1:2", flow.AttrMethod: "GET", flow.AttrPath: "/items/1", flow.AttrAuthority: "cart",
			flow.AttrUserAgent: "curl", flow.AttrStatus: 504, flow.AttrBytesIn: 0, flow.AttrBytesOut: 10, flow.AttrDetail: "timed out",
			flow.AttrLegHeadParsed: 1, flow.AttrLegQueued: 2, flow.AttrLegConnected: 3, flow.AttrLegSecured: 4, flow.AttrLegSent: 5, flow.AttrLegFirstByte: 6, flow.AttrLegLastByte: 7,
		},
		Res: map[string]any{flow.AttrBootID: "0123456789abcdef", flow.AttrSequence: 1, flow.AttrClock: 5},
	})
	want := Canonical(form(s, td))
	write(t, s, td)
	settle(t, s)
	same(t, "mesh record", Canonical(trace(t, s, TraceID(1))), want)
	var got []store.Span
	if err := s.Spans(t.Context(), store.TraceQuery{Source: "web", Destination: "cart", Reason: "try_timeout"}, func(x store.Span) bool { got = append(got, x); return true }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || !got[0].Error || got[0].Attributes[flow.AttrStatus] != "504" || got[0].Attributes[flow.AttrAnswered] != "false" || got[0].Service != "cart" ||
		got[0].Kind != "server" || got[0].Duration != time.Millisecond || !got[0].Start.Equal(base) || got[0].Resource[flow.AttrBootID] != "0123456789abcdef" {
		t.Fatalf("span by edge and reason: %+v", got)
	}
}

// testOnly: what is asked for is there as it is without asking, wherever the span says it.
func testOnly(t *testing.T, s store.Spans) {
	for i := range uint64(20) {
		attrs := map[string]any{flow.AttrMethod: "GET", flow.AttrPath: fmt.Sprintf("/items/%d", i), flow.AttrStatus: 200 + int(i), flow.AttrAnswered: i%2 == 0, "x.own": fmt.Sprint(i), "x.other": i} //nolint:gosec // small
		if i%3 == 0 {
			attrs[flow.AttrStatus] = "503" // of a type that the mesh does not give it
		}
		if i%5 == 0 {
			attrs[flow.AttrReason] = "upstream_5xx"
		}
		write(t, s, Batch(Span{
			Trace: i + 1, ID: i + 1, Service: "web", Name: "GET /", Kind: ptrace.SpanKindClient, Start: base.Add(time.Duration(i) * time.Second), Duration: time.Millisecond, Error: i%7 == 0, Attrs: attrs, //nolint:gosec // small
			Res: map[string]any{flow.AttrServiceVersion: fmt.Sprintf("v%d", i%2)},
		}))
	}
	settle(t, s)
	spans := func(only []string) (out []store.Span) {
		if err := s.Spans(t.Context(), store.TraceQuery{Service: "web", Limit: 100, Only: only}, func(x store.Span) bool { out = append(out, x); return true }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	whole := spans(nil)
	if len(whole) != 20 {
		t.Fatalf("%d spans, want 20", len(whole))
	}
	for _, keys := range [][]string{{}, {flow.AttrStatus}, {"x.own", flow.AttrPath}, {flow.AttrServiceVersion, flow.AttrAnswered}, {"x.other", flow.AttrMethod, flow.AttrReason, "not.there"}} {
		got := spans(keys)
		if len(got) != len(whole) {
			t.Fatalf("only %v: %d spans of %d", keys, len(got), len(whole))
		}
		for i, w := range whole {
			g := got[i]
			for _, k := range keys {
				wv, wok := w.Attributes[k]
				gv, gok := g.Attributes[k]
				if wv != gv || wok != gok || w.Resource[k] != g.Resource[k] {
					t.Errorf("only %v: span %d says %q (%q) of %s, want %q (%q)", keys, i, gv, g.Resource[k], k, wv, w.Resource[k])
				}
			}
			g.Attributes, g.Resource, w.Attributes, w.Resource = nil, nil, nil, nil
			if fmt.Sprint(g) != fmt.Sprint(w) {
				t.Errorf("only %v: span %d is\n%+v, want\n%+v", keys, i, g, w)
			}
		}
	}
}

func testSplitTrace(t *testing.T, s store.Spans) {
	var want []string
	for i := range uint64(4) {
		td := Batch(Span{Trace: 1, ID: i + 1, Parent: i, Service: fmt.Sprintf("s%d", i%2), Name: "n", Start: base.Add(time.Duration(i) * time.Second), Duration: time.Second, Error: i == 3})
		want = append(want, Canonical(form(s, td))...)
		write(t, s, td)
		settle(t, s)
	}
	sort.Strings(want)
	same(t, "trace written in four parts", Canonical(trace(t, s, TraceID(1))), want)
	page := summaries(t, s, store.TraceQuery{})
	if len(page.Traces) != 1 {
		t.Fatalf("%d traces, want 1", len(page.Traces))
	}
	got := page.Traces[0]
	if got.Spans != 4 || got.Errors != 1 || got.Duration != 4*time.Second || got.RootService != "s0" || got.Partial || len(got.Services) != 2 || got.Services[1].Errors != 1 {
		t.Fatalf("merged summary: %+v", got)
	}
}

func stamped(boot string, seq int, spans ...Span) ptrace.Traces {
	for i := range spans {
		spans[i].Res = map[string]any{flow.AttrBootID: boot, flow.AttrSequence: seq}
	}
	return Batch(spans...)
}

func testDedupe(t *testing.T, s store.Spans) {
	batch := func(boot string, seq int) ptrace.Traces {
		return stamped(boot, seq, Span{Trace: 1, ID: uint64(seq), Service: "a", Name: boot, Start: base}) //nolint:gosec // small
	}
	for _, b := range []struct {
		boot string
		seq  int
	}{{"b1", 1}, {"b1", 2}, {"b1", 1}, {"b1", 5}, {"b1", 4}, {"b1", 5}, {"b2", 1}} {
		write(t, s, batch(b.boot, b.seq))
	}
	settle(t, s)
	for _, b := range []struct {
		boot string
		seq  int
	}{{"b1", 1}, {"b1", 3}, {"b1", 4}, {"b2", 1}, {"b2", 2}} {
		write(t, s, batch(b.boot, b.seq))
	}
	settle(t, s)
	if n := trace(t, s, TraceID(1)).SpanCount(); n != 7 {
		t.Fatalf("%d spans, want 7: b1 1..5 and b2 1..2 once each", n)
	}
	// A batch without stamps is never a duplicate; one whose resources are partly known is stored in part.
	plain := Batch(Span{Trace: 2, ID: 1, Service: "a", Name: "x", Start: base})
	write(t, s, plain)
	write(t, s, plain)
	mixed := ptrace.NewTraces()
	batch("b1", 1).ResourceSpans().MoveAndAppendTo(mixed.ResourceSpans())
	batch("b1", 9).ResourceSpans().MoveAndAppendTo(mixed.ResourceSpans())
	write(t, s, mixed)
	settle(t, s)
	repeats := 1
	if s.Capabilities().Repeats {
		repeats = 2
	}
	if n := trace(t, s, TraceID(2)).SpanCount(); n != repeats {
		t.Fatalf("%d spans of unstamped batches, want %d", n, repeats)
	}
	if n := trace(t, s, TraceID(1)).SpanCount(); n != 8 {
		t.Fatalf("%d spans after a half-known batch, want 8", n)
	}
}

func testDedupeConcurrent(t *testing.T, s store.Spans) {
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for seq := 1; seq <= 20; seq++ {
				if err := s.Write(t.Context(), stamped("b", seq, Span{Trace: 1, ID: uint64(seq), Service: "a", Name: "n", Start: base})); err != nil { //nolint:gosec // small
					t.Errorf("write: %v", err)
				}
			}
		})
	}
	wg.Wait()
	settle(t, s)
	if n := trace(t, s, TraceID(1)).SpanCount(); n != 20 {
		t.Fatalf("%d spans, want 20: eight senders of the same twenty batches", n)
	}
}

// random makes n spans in batches, with few values so that conditions meet.
func random(r *rand.Rand, n int) []Span {
	pick := func(xs ...string) string { return xs[r.IntN(len(xs))] }
	out := make([]Span, n)
	for i := range out {
		s := Span{
			Trace: uint64(r.IntN(n/4 + 1)), ID: uint64(i + 1), Service: pick("web", "cart", "pay", ""), Name: pick("GET /", "POST /", "attempt 1"), //nolint:gosec // small
			Kind: ptrace.SpanKind(r.IntN(6)), Start: base.Add(time.Duration(r.IntN(600_000)) * time.Millisecond), Duration: time.Duration(r.IntN(2000)) * time.Millisecond, //nolint:gosec // small
			Error: r.IntN(6) == 0, Attrs: map[string]any{}, Res: map[string]any{},
		}
		if r.IntN(2) == 0 {
			s.Parent = uint64(r.IntN(n) + 1) //nolint:gosec // small
		}
		if r.IntN(2) == 0 {
			s.Attrs[flow.AttrStatus] = []any{200, 404, 503, "200"}[r.IntN(4)]
		}
		if r.IntN(2) == 0 {
			s.Attrs[flow.AttrAnswered] = r.IntN(2) == 0
		}
		if r.IntN(3) == 0 {
			s.Attrs[flow.AttrReason] = pick("try_timeout", "shed", "")
		}
		if r.IntN(2) == 0 {
			s.Attrs[flow.AttrSourceService] = pick("web", "cart")
			s.Attrs[flow.AttrDestService] = pick("cart", "pay")
		}
		if r.IntN(2) == 0 {
			s.Attrs["color"] = []any{"red", "blue", 7, 0.5, true}[r.IntN(5)]
		}
		if r.IntN(3) == 0 {
			s.Res["zone"] = pick("a", "b")
		}
		if r.IntN(2) == 0 {
			s.Attrs[flow.AttrPath] = fmt.Sprintf("/items/%d%s", r.IntN(30), []string{"", "", "\n", "/\xff"}[r.IntN(4)])
			s.Attrs[flow.AttrMethod] = pick("GET", "POST", "GOT")
		}
		if r.IntN(9) == 0 {
			s.Res["color"] = "red"
		}
		for r.IntN(4) == 0 {
			s.Events = append(s.Events, map[string]any{"event": pick("retry", "note"), "color": []any{"blue", 7, true}[r.IntN(3)]})
		}
		out[i] = s
	}
	return out
}

// text is the string form of an attribute, spelled out here so that a backend's own does not judge itself.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return fmt.Sprintf("%g", v)
	default:
		return fmt.Sprint(v)
	}
}

// matches is the naive truth.
func (s Span) matches(q store.TraceQuery) bool {
	service := s.Service
	if service == "" {
		service = "unknown_service"
	}
	kinds := []string{"unspecified", "internal", "server", "client", "producer", "consumer"}
	reason, _ := s.Attrs[flow.AttrReason].(string)
	ok := (q.Service == "" || service == q.Service) && (q.Operation == "" || s.Name == q.Operation) && (q.Kind == "" || kinds[s.Kind] == q.Kind) &&
		(q.Start.IsZero() || !s.Start.Before(q.Start)) && (q.End.IsZero() || s.Start.Before(q.End)) && s.Duration >= q.MinDuration &&
		(q.MaxDuration == 0 || s.Duration <= q.MaxDuration) && (!q.Errors || s.Error || reason != "") && (q.Reason == "" || reason == q.Reason) &&
		(q.Source == "" || s.Attrs[flow.AttrSourceService] == q.Source) && (q.Destination == "" || s.Attrs[flow.AttrDestService] == q.Destination)
	for _, a := range q.Attributes {
		like := regexp.MustCompile("^(?s:" + a.Value + ")$") // as Prometheus has it
		present, equal, alike := false, false, false
		for _, m := range append([]map[string]any{s.Attrs, s.Res}, s.Events...) {
			if v, has := m[a.Key]; has {
				present = true
				equal = equal || text(v) == a.Value
				alike = alike || like.MatchString(text(v))
			}
		}
		switch a.Op {
		case "exists":
			ok = ok && present
		case "~":
			ok = ok && alike
		case "!~":
			ok = ok && !alike
		case "!=":
			ok = ok && !equal
		default:
			ok = ok && equal
		}
	}
	return ok
}

func randomQuery(r *rand.Rand) store.TraceQuery {
	var q store.TraceQuery
	some := func() bool { return r.IntN(4) == 0 }
	pick := func(xs ...string) string { return xs[r.IntN(len(xs))] }
	if some() {
		q.Service = pick("web", "cart", "pay", "unknown_service", "nobody")
	}
	if some() {
		q.Operation = pick("GET /", "POST /", "nothing")
	}
	if some() {
		q.Kind = pick("server", "client", "internal", "producer", "consumer")
	}
	if some() {
		q.Start = base.Add(time.Duration(r.IntN(600)) * time.Second)
	}
	if some() {
		q.End = base.Add(time.Duration(r.IntN(600)) * time.Second)
	}
	if some() {
		q.MinDuration = time.Duration(r.IntN(2000)) * time.Millisecond
	}
	if some() {
		q.MaxDuration = time.Duration(1+r.IntN(2000)) * time.Millisecond
	}
	q.Errors = some()
	if some() {
		q.Source = pick("web", "cart")
	}
	if some() {
		q.Destination = pick("cart", "pay")
	}
	if some() {
		q.Reason = pick("try_timeout", "shed")
	}
	for r.IntN(4) == 0 {
		q.Attributes = append(q.Attributes, store.AttributeMatch{
			Key:   pick(flow.AttrStatus, flow.AttrAnswered, flow.AttrPath, flow.AttrMethod, "color", "zone", "event", "absent"),
			Value: pick("2..", "[45]..", "t.*", "true|false", "re.*", "(?i)RED|blue", "7", "0.5", "a?", ".*", ".+", ".*e.*", "", "/items/1.*", ".*/[0-4]", "/items/.(\n.*)?", "G.T|POST", "x{2,}"), Op: pick("~", "~", "!~"),
		})
	}
	for r.IntN(3) == 0 {
		q.Attributes = append(q.Attributes, store.AttributeMatch{
			Key: pick(flow.AttrStatus, flow.AttrAnswered, "color", "zone", "event", "absent"), Value: pick("200", "404", "true", "false", "red", "7", "0.5", "a", "retry"), Op: pick("=", "=", "!=", "exists"),
		})
	}
	return q
}

func testPredicates(t *testing.T, s store.Spans) {
	const seed = 20261120
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // reproducible on purpose
	all := random(r, 1200)
	for batch := range slices.Chunk(all, 50) {
		write(t, s, Batch(batch...))
		if r.IntN(8) == 0 {
			settle(t, s)
		}
	}
	starts := map[flow.TraceID]time.Time{}
	for _, x := range all {
		id := TraceID(x.Trace)
		if at, ok := starts[id]; !ok || x.Start.Before(at) {
			starts[id] = x.Start
		}
	}
	for n := range 120 {
		q := randomQuery(r)
		q.Limit = 1 + r.IntN(400)
		var want []Span
		ids := map[flow.TraceID]bool{}
		for _, x := range all {
			if x.matches(q) {
				want = append(want, x)
				ids[TraceID(x.Trace)] = true
			}
		}
		slices.SortFunc(want, func(a, b Span) int {
			if c := b.Start.Compare(a.Start); c != 0 {
				return c
			}
			x, y := TraceID(a.Trace), TraceID(b.Trace)
			if c := slices.Compare(y[:], x[:]); c != 0 {
				return c
			}
			return int(b.ID) - int(a.ID) //nolint:gosec // small
		})
		want = want[:min(len(want), q.Limit)]
		var got []flow.SpanID
		if err := s.Spans(t.Context(), q, func(x store.Span) bool { got = append(got, x.SpanID); return true }); err != nil {
			t.Fatalf("seed %d query %d %+v: %v", seed, n, q, err)
		}
		var wantIDs []flow.SpanID
		for _, x := range want {
			wantIDs = append(wantIDs, SpanID(x.ID))
		}
		if !slices.Equal(got, wantIDs) {
			t.Fatalf("seed %d query %d %+v: spans\n got %d %v\nwant %d %v", seed, n, q, len(got), got, len(wantIDs), wantIDs)
		}
		count(t, s, r, q, all)
		var wantTraces, gotTraces []flow.TraceID
		for id := range ids {
			wantTraces = append(wantTraces, id)
		}
		slices.SortFunc(wantTraces, func(a, b flow.TraceID) int {
			if c := starts[b].Compare(starts[a]); c != 0 {
				return c
			}
			return slices.Compare(b[:], a[:])
		})
		q.Limit = max(q.Limit, 40) // small pages have a test of their own
		for _, x := range allPages(t, s, q, len(all)) {
			gotTraces = append(gotTraces, x.TraceID)
		}
		if !slices.Equal(gotTraces, wantTraces) {
			t.Fatalf("seed %d query %d %+v: traces\n got %d %v\nwant %d %v", seed, n, q, len(gotTraces), gotTraces, len(wantTraces), wantTraces)
		}
	}
	// A reader that has seen enough stops the search.
	calls := 0
	if err := s.Spans(t.Context(), store.TraceQuery{Limit: 100}, func(store.Span) bool { calls++; return calls < 3 }); err != nil || calls != 3 {
		t.Fatalf("stopped after %d spans (%v), want 3", calls, err)
	}
}

// count compares Count over random steps with all.
func count(t *testing.T, s store.Spans, r *rand.Rand, q store.TraceQuery, all []Span) {
	t.Helper()
	steps := store.Steps{From: base.Add(time.Duration(r.Int64N(int64(time.Minute))) - 30*time.Second), Step: time.Duration(1+r.IntN(5_000)) * time.Millisecond, N: 1 + r.IntN(50)}
	got, err := s.Count(t.Context(), q, steps)
	if err != nil || got.Partial || got.Steps != steps {
		t.Fatalf("count %+v by %+v: %+v, %v", q, steps, got, err)
	}
	spans, failed := make([]uint64, steps.N), make([]uint64, steps.N)
	for _, x := range all {
		if i := int(x.Start.Sub(steps.From) / steps.Step); !x.Start.Before(steps.From) && i < steps.N && x.matches(q) {
			spans[i]++
			if x.matches(store.TraceQuery{Errors: true}) {
				failed[i]++
			}
		}
	}
	if !slices.Equal(got.Spans, spans) || !slices.Equal(got.Errors, failed) {
		t.Fatalf("count %+v by %+v:\n got %v, of these failed %v\nwant %v, of these failed %v", q, steps, got.Spans, got.Errors, spans, failed)
	}
}

func summaries(t *testing.T, s store.Spans, q store.TraceQuery) store.TracePage {
	t.Helper()
	p, err := s.Summaries(t.Context(), q)
	if err != nil {
		t.Fatalf("summaries %+v: %v", q, err)
	}
	return p
}

func allPages(t *testing.T, s store.Spans, q store.TraceQuery, most int) (out []store.TraceSummary) {
	t.Helper()
	for {
		p := summaries(t, s, q)
		if len(p.Traces) > q.Limit && q.Limit > 0 {
			t.Fatalf("%d traces on a page, limit %d", len(p.Traces), q.Limit)
		}
		out = append(out, p.Traces...)
		if p.Next == "" {
			return out
		}
		if len(p.Traces) == 0 || len(out) > most {
			t.Fatalf("paging does not end: %d traces so far", len(out))
		}
		q.Cursor = p.Next
	}
}

func testPaging(t *testing.T, s store.Spans) {
	const n = 60
	for i := range uint64(n) {
		// Many equal starts: the trace id decides.
		write(t, s, Batch(Span{Trace: i, ID: i + 1, Service: "a", Name: "n", Start: base.Add(time.Duration(i/7) * time.Second)}))
	}
	settle(t, s)
	want := summaries(t, s, store.TraceQuery{Limit: 1000}).Traces
	if len(want) != n {
		t.Fatalf("%d traces, want %d", len(want), n)
	}
	for i := 1; i < n; i++ {
		if want[i].Start.After(want[i-1].Start) {
			t.Fatalf("trace %d is newer than the one before", i)
		}
	}
	for _, limit := range []int{1, 7, 59, 60, 61} {
		for range 2 {
			if got := allPages(t, s, store.TraceQuery{Limit: limit}, n); !reflect.DeepEqual(got, want) {
				t.Fatalf("pages of %d differ from one page of all", limit)
			}
		}
	}
	if d := summaries(t, s, store.TraceQuery{}); len(d.Traces) != 20 || d.Next == "" {
		t.Fatalf("default page has %d traces, want 20 and a cursor", len(d.Traces))
	}
	if d := summaries(t, s, store.TraceQuery{Limit: n}); d.Next != "" {
		t.Fatal("a cursor after the last trace")
	}
}

func testPagingWhileWriting(t *testing.T, s store.Spans) {
	const n = 120
	for i := range uint64(n) {
		write(t, s, Batch(Span{Trace: i, ID: 1, Service: "a", Name: "n", Start: base.Add(time.Duration(i) * time.Second)}))
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	// What is written while one goes through the pages is bounded: pages would grow for as long as somebody reads them.
	room := make(chan struct{}, 300)
	wg.Go(func() {
		for i := uint64(0); ; i++ {
			select {
			case <-room:
			case <-ctx.Done():
				return
			}
			err := s.Write(ctx, Batch(
				Span{Trace: 1000 + i, ID: 1, Service: "a", Name: "new", Start: base.Add(time.Duration(i%(2*n)) * time.Second)},              // new traces everywhere
				Span{Trace: i % n, ID: 2 + i, Service: "a", Name: "late", Start: base.Add(time.Duration(i%n)*time.Second - 30*time.Second)}, // old ones grow backwards
			))
			if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrBusy) {
				t.Errorf("write: %v", err)
			}
		}
	})
	for range 5 {
		for len(room) < cap(room) {
			room <- struct{}{}
		}
		seen := map[flow.TraceID]int{}
		for _, x := range allPages(t, s, store.TraceQuery{Limit: 7}, 1_000_000) {
			seen[x.TraceID]++
		}
		for id, k := range seen {
			if k > 1 {
				t.Errorf("trace %s was on %d pages", id, k)
			}
		}
		for i := range uint64(n) {
			if seen[TraceID(i)] != 1 {
				t.Errorf("trace %d, stored before the first page, was seen %d times", i, seen[TraceID(i)])
			}
		}
		if t.Failed() {
			break
		}
	}
	stop()
	wg.Wait()
}

func testLateSpans(t *testing.T, s store.Spans) {
	write(t, s, Batch(Span{Trace: 1, ID: 2, Parent: 1, Service: "b", Name: "child", Start: base.Add(time.Minute), Duration: time.Second}))
	settle(t, s)
	if p := summaries(t, s, store.TraceQuery{}); len(p.Traces) != 1 || !p.Traces[0].Partial || p.Traces[0].RootOperation != "child" {
		t.Fatalf("a trace without its root: %+v", p.Traces)
	}
	write(t, s, Batch(Span{Trace: 2, ID: 1, Service: "a", Name: "other", Start: base.Add(30 * time.Second)}))
	settle(t, s)
	write(t, s, Batch(Span{Trace: 1, ID: 1, Service: "a", Name: "root", Start: base, Duration: 2 * time.Minute}))
	settle(t, s)
	p := summaries(t, s, store.TraceQuery{})
	if len(p.Traces) != 2 || p.Traces[0].TraceID != TraceID(2) || p.Traces[1].Partial || p.Traces[1].RootOperation != "root" || p.Traces[1].Spans != 2 || !p.Traces[1].Start.Equal(base) {
		t.Fatalf("after the root came late: %+v", p.Traces)
	}
	// A condition may be met by a part that is not the one which decides the place.
	p = summaries(t, s, store.TraceQuery{Operation: "child"})
	if len(p.Traces) != 1 || p.Traces[0].Spans != 2 {
		t.Fatalf("search by a span of the newer part: %+v", p.Traces)
	}
}

func testSummary(t *testing.T, s store.Spans) {
	write(t, s, Batch(
		Span{Trace: 1, ID: 1, Service: "web", Name: "GET web", Start: base, Duration: 100 * time.Millisecond},
		Span{Trace: 1, ID: 2, Parent: 1, Service: "cart", Name: "GET /", Start: base.Add(10 * time.Millisecond), Duration: 200 * time.Millisecond, Attrs: map[string]any{flow.AttrReason: "shed"}},
		Span{Trace: 1, ID: 3, Parent: 2, Service: "cart", Name: "x", Start: base.Add(20 * time.Millisecond), Error: true},
	))
	settle(t, s)
	got := summaries(t, s, store.TraceQuery{}).Traces
	want := []store.TraceSummary{{
		TraceID: TraceID(1), ID: TraceID(1).String(), RootService: "web", RootOperation: "GET web", Start: base, Duration: 210 * time.Millisecond, Spans: 3, Errors: 2,
		Services: []store.ServiceCount{{Service: "cart", Spans: 2, Errors: 2}, {Service: "web", Spans: 1}},
	}}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("summary\n got %+v\nwant %+v", got, want)
	}
	if st := s.Stats(); !s.Capabilities().Totals && st.Written != 3 || s.Capabilities().Totals && (st.Spans != 3 || !st.Oldest.Equal(base)) || st.LastError != "" {
		t.Fatalf("stats: %+v", st)
	}
}

func testCatalog(t *testing.T, s store.Spans) {
	write(t, s, Batch(
		Span{Trace: 1, ID: 1, Service: "web", Name: "b", Kind: ptrace.SpanKindServer, Start: base, Attrs: map[string]any{"k1": 1, flow.AttrStatus: 200}},
		Span{Trace: 2, ID: 1, Service: "web", Name: "a", Kind: ptrace.SpanKindClient, Start: base, Res: map[string]any{"r1": "x"}},
	))
	settle(t, s)
	write(t, s, Batch(Span{Trace: 3, ID: 1, Service: "cart", Name: "c", Kind: ptrace.SpanKindServer, Start: base}))
	svc, err := s.Services(t.Context())
	if err != nil || !slices.Equal(svc, []string{"cart", "web"}) {
		t.Fatalf("services %v, %v", svc, err)
	}
	ops, err := s.Operations(t.Context(), "web")
	if err != nil || !slices.Equal(ops, []store.Operation{{Name: "a", Kind: "client"}, {Name: "b", Kind: "server"}}) {
		t.Fatalf("operations %v, %v", ops, err)
	}
	keys, err := s.AttributeKeys(t.Context())
	if err != nil || !slices.Equal(keys, []string{flow.AttrStatus, "k1", "r1", flow.AttrServiceName}) {
		t.Fatalf("attribute keys %v, %v", keys, err)
	}
}

func testNotFound(t *testing.T, s store.Spans) {
	if _, err := s.Trace(t.Context(), TraceID(1)); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("empty store: %v, want ErrNotFound", err)
	}
	write(t, s, Batch(Span{Trace: 1, ID: 1, Service: "a", Name: "n", Start: base}))
	settle(t, s)
	if _, err := s.Trace(t.Context(), TraceID(2)); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("unknown trace: %v, want ErrNotFound", err)
	}
	if p := summaries(t, s, store.TraceQuery{Service: "nobody"}); len(p.Traces) != 0 || p.Next != "" {
		t.Fatalf("search without a match: %+v", p)
	}
	if err := s.Write(t.Context(), ptrace.NewTraces()); err != nil {
		t.Fatalf("an empty batch: %v", err)
	}
}

func testBadQuery(t *testing.T, s store.Spans) {
	write(t, s, Batch(Span{Trace: 1, ID: 1, Service: "a", Name: "n", Start: base}))
	for _, q := range []store.TraceQuery{
		{Limit: -1}, {Limit: 10_001}, {Kind: "sideways"}, {MinDuration: -1}, {Attributes: []store.AttributeMatch{{Key: "a", Op: "=~"}}}, {Attributes: []store.AttributeMatch{{Key: "a", Op: "~", Value: "a(b"}}}, {Attributes: []store.AttributeMatch{{Key: "a", Op: "!~", Value: "*"}}}, {Attributes: []store.AttributeMatch{{Op: "="}}}, {Cursor: "?"}, {Cursor: "AAAA"},
	} {
		if _, err := s.Summaries(t.Context(), q); !errors.Is(err, store.ErrBadQuery) {
			t.Errorf("%+v: %v, want ErrBadQuery", q, err)
		}
	}
	for _, steps := range []store.Steps{{}, {From: base, Step: time.Second}, {From: base, N: 1}, {From: base, Step: time.Second, N: store.MaxSteps + 1}, {From: base, Step: math.MaxInt64, N: 2}, {Step: time.Second, N: 1}} {
		if _, err := s.Count(t.Context(), store.TraceQuery{}, steps); !errors.Is(err, store.ErrBadQuery) {
			t.Errorf("%+v: %v, want ErrBadQuery", steps, err)
		}
	}
}

func testCancelled(t *testing.T, s store.Spans) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Write(ctx, Batch(Span{Trace: 1, ID: 1, Service: "a", Name: "n", Start: base})); !errors.Is(err, context.Canceled) {
		t.Errorf("write: %v, want context.Canceled", err)
	}
	for what, err := range calls(ctx, s) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", what, err)
		}
	}
	settle(t, s)
	if _, err := s.Trace(t.Context(), TraceID(1)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a write that failed left something behind: %v", err)
	}
}

func calls(ctx context.Context, s store.Spans) map[string]error {
	out := map[string]error{}
	_, out["Trace"] = s.Trace(ctx, TraceID(1))
	_, out["Summaries"] = s.Summaries(ctx, store.TraceQuery{})
	out["Spans"] = s.Spans(ctx, store.TraceQuery{}, func(store.Span) bool { return true })
	_, out["Count"] = s.Count(ctx, store.TraceQuery{}, store.Steps{From: base, Step: time.Second, N: 1})
	_, out["Services"] = s.Services(ctx)
	_, out["Operations"] = s.Operations(ctx, "a")
	_, out["AttributeKeys"] = s.AttributeKeys(ctx)
	return out
}

func testClosed(t *testing.T, s store.Spans) {
	write(t, s, Batch(Span{Trace: 1, ID: 1, Service: "a", Name: "n", Start: base}))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), Batch(Span{Trace: 1, ID: 1, Service: "a", Name: "n", Start: base})); !errors.Is(err, store.ErrClosed) {
		t.Errorf("write: %v, want ErrClosed", err)
	}
	for what, err := range calls(t.Context(), s) {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s: %v, want ErrClosed", what, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}
