package why_test

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/why"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func traces(t testing.TB, service string, records ...flow.Record) ptrace.Traces {
	t.Helper()
	req := ptraceotlp.NewExportRequest()
	if err := req.UnmarshalProto(flow.AppendSpans(nil, flow.Resource{Service: service, Instance: service + "-1", BootID: "0123456789abcdef", Sequence: 1}, records)); err != nil {
		t.Fatal(err)
	}
	return req.Traces()
}

func call(change func(*flow.Record)) flow.Record {
	r := flow.Record{
		Kind: flow.KindExchange, Side: flow.SideClient, Protocol: flow.ProtocolHTTP1, Trace: flow.Trace{TraceID: flow.TraceID{1}, SpanID: flow.SpanID{1}}, Start: start, Duration: 5 * time.Millisecond,
		Source: flow.Peer{Service: "web"}, Destination: flow.Peer{Service: "app"}, Endpoint: netip.MustParseAddrPort("10.0.0.7:80"), Method: "GET", Path: "/", Status: 200, Answered: true, Attempts: 1,
		Revision: "r1", Legs: flow.Legs{HeadParsed: flow.Unset, Queued: flow.Unset, Connected: flow.Unset, Secured: flow.Unset, Sent: flow.Unset, FirstByte: flow.Unset, LastByte: flow.Unset},
	}
	if change != nil {
		change(&r)
	}
	return r
}

func TestWhatWentWell(t *testing.T) {
	e, ok := why.Explain(why.Input{Trace: traces(t, "web", call(nil))})
	if !ok || e.Outcome != why.OK || e.Culprit != -1 || e.By != "" || len(e.Next) != 0 || !strings.Contains(e.Summary, "went well: 200 after 5ms") {
		t.Errorf("%+v", e)
	}
	if _, ok := why.Explain(why.Input{Trace: ptrace.NewTraces()}); ok {
		t.Error("an explanation of nothing")
	}
	if _, ok := why.Explain(why.Input{Trace: traces(t, "web", call(nil)), Span: flow.SpanID{9}}); ok {
		t.Error("an explanation of a span that is not there")
	}
}

// What was known of the endpoint then: its last event before the end of the request, and what all callers had counted.
func TestHealthOfTheEndpointThen(t *testing.T) {
	in := why.Input{
		Trace: traces(t, "web", call(func(r *flow.Record) { r.Status, r.Reason = 503, flow.ReasonUpstreamStatus })),
		Events: []event.Event{
			{ID: "3", Time: start.Add(time.Minute), Kind: event.KindReadmitted, Endpoint: "10.0.0.7:80", Message: "later"},
			{ID: "1", Time: start.Add(-time.Minute), Kind: event.KindReadmitted, Endpoint: "10.0.0.7:80", Message: "earlier"},
			{ID: "2", Time: start.Add(-10 * time.Second), Kind: event.KindEjected, Endpoint: "10.0.0.7:80", Message: "app-1 was ejected"},
			{ID: "4", Time: start.Add(-time.Second), Kind: event.KindReadmitted, Endpoint: "10.0.0.8:80", Message: "another"},
		},
		Graph: &graph.Snapshot{Nodes: []graph.Node{{ID: "app", Endpoints: []graph.Endpoint{{Address: "10.0.0.7:80", Instance: "app-1", State: "healthy", Rate: 2.5, Errors: 0.4, P99: 0.2}}}}},
	}
	e, _ := why.Explain(in)
	h := e.Hops[0].Health
	if h == nil || h.State != "ejected" || h.Event != "2" || !h.Since.Equal(start.Add(-10*time.Second)) || h.Says != "ejected for 10.01s (app-1 was ejected); its callers saw 2.5 tries/s, 40.0% failed, p99 200ms" {
		t.Errorf("%+v", h)
	}
	in.Events = nil
	e, _ = why.Explain(in)
	if h = e.Hops[0].Health; h == nil || h.State != "healthy" || e.Hops[0].Instance != "app-1" {
		t.Errorf("%+v", h)
	}
	in.Graph = nil
	e, _ = why.Explain(in)
	if h = e.Hops[0].Health; h != nil {
		t.Errorf("something is known of nothing: %+v", h)
	}
}

func TestPlaintextProvesNobody(t *testing.T) {
	e, _ := why.Explain(why.Input{Trace: traces(t, "web", call(func(r *flow.Record) { r.Status = 403 }))})
	if e.Outcome != why.Refused || len(e.Missing) != 1 || !strings.Contains(e.Missing[0], "plaintext") {
		t.Errorf("%+v", e)
	}
}

func TestTheFarSideHasNotReported(t *testing.T) {
	e, _ := why.Explain(why.Input{Trace: traces(t, "web", call(func(r *flow.Record) {
		r.Status, r.Reason, r.Destination.Identity, r.Detail = 503, flow.ReasonUpstreamStatus, "spiffe://x/ns/shop/sa/app", flow.ReasonShed.Answered()
	}))})
	if e.Reason != "shed" || e.By != why.ByCalledSidecar || len(e.Missing) != 1 || !strings.Contains(e.Missing[0], "has not reported") {
		t.Errorf("%+v", e)
	}
}

// Every reason has something to do about it, and a sentence that names it.
func TestEveryReasonHasAdvice(t *testing.T) {
	for _, r := range flow.Reasons() {
		e, ok := why.Explain(why.Input{Trace: traces(t, "web", call(func(x *flow.Record) { x.Status, x.Reason = 503, r }))})
		if !ok || e.Culprit != 0 || e.Reason != r.String() || len(e.Next) == 0 || strings.ContainsAny(strings.Join(e.Next, " "), "{}") || e.By == "" {
			t.Errorf("%s: %+v", r, e)
		}
	}
}

// Whatever is reported, in whatever order, with whoever missing: an answer comes, and its indices are right.
func TestAnyTrace(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	reasons := append(flow.Reasons(), flow.ReasonNone, flow.ReasonNone, flow.ReasonNone)
	for range 3000 {
		td := ptrace.NewTraces()
		for range 1 + rng.IntN(3) {
			var records []flow.Record
			for range 1 + rng.IntN(5) {
				records = append(records, call(func(r *flow.Record) {
					r.Kind, r.Side = flow.Kind(1+rng.IntN(3)), flow.Side(1+rng.IntN(2))
					r.Trace.SpanID, r.Trace.ParentID = flow.SpanID{byte(1 + rng.IntN(8))}, flow.SpanID{byte(rng.IntN(9))} // rings, too
					r.Reason, r.Status, r.Attempt = reasons[rng.IntN(len(reasons))], []int{0, 200, 404, 503}[rng.IntN(4)], rng.IntN(3)
					r.Start, r.Duration = start.Add(time.Duration(rng.IntN(20))*time.Millisecond), time.Duration(rng.IntN(20))*time.Millisecond
					if rng.IntN(3) == 0 {
						r.Destination = flow.Peer{}
					}
					r.Phase = flow.Phase(rng.IntN(2))
				}))
			}
			traces(t, "web", records...).ResourceSpans().MoveAndAppendTo(td.ResourceSpans())
		}
		e, ok := why.Explain(why.Input{Trace: td})
		if ok && (len(e.Hops) == 0 || e.Culprit >= len(e.Hops) || e.Summary == "" || (e.Outcome == why.OK) != (e.By == "")) {
			t.Fatalf("%+v", e)
		}
	}
}

func TestLargeTracesAreCut(t *testing.T) {
	records := []flow.Record{call(func(r *flow.Record) { r.Status, r.Reason = 503, flow.ReasonUpstreamStatus }), call(func(r *flow.Record) {
		r.Side, r.Trace.SpanID, r.Trace.ParentID, r.Status, r.Reason = flow.SideServer, flow.SpanID{2}, flow.SpanID{1}, 503, flow.ReasonUpstreamStatus
	})}
	for i := range 500 {
		records = append(records, call(func(r *flow.Record) {
			r.Trace.SpanID, r.Trace.ParentID, r.Source.Service, r.Destination.Service = flow.SpanID{3, byte(i), byte(i >> 8)}, flow.SpanID{2}, "app", "db"
			r.Start, r.Duration = start.Add(time.Duration(i)*time.Microsecond), time.Microsecond
			if i == 490 {
				r.Status, r.Reason = 503, flow.ReasonConnectRefused
			}
		}))
	}
	e, _ := why.Explain(why.Input{Trace: traces(t, "web", records...)})
	if len(e.Hops) != 2 || e.Omitted != 499 || e.Culprit != 1 || e.Reason != "connect_refused" {
		t.Errorf("%d hops, %d omitted, culprit %d, %s", len(e.Hops), e.Omitted, e.Culprit, e.Reason)
	}
}
