package show

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

var rewrite = flag.Bool("rewrite", false, "rewrite testdata")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (go test ./client/show -rewrite to accept):\n%s\nwant:\n%s", name, got, want)
	}
}

var zero = time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)

func snapshot() *graph.Snapshot {
	breaks := 0.98
	edge := func(src, dst string, state graph.EdgeState, rate, errs float64) graph.Edge {
		return graph.Edge{
			ID: src + "→" + dst + ":http/1.1", Source: src, Destination: dst, Protocol: "http/1.1", State: state, MTLS: state == graph.BothSides,
			Client: &graph.View{Requests: uint64(10 * rate), Rate: rate, ErrorRatio: errs, P50: 0.004, P95: 0.0123, P99: 0.0456},
			Gap:    &graph.Gap{Latency: 0.00035},
		}
	}
	unmeshed := edge("", "web", graph.ServerOnly, 1, 0)
	unmeshed.Server, unmeshed.Client, unmeshed.Gap = unmeshed.Client, nil, nil
	return &graph.Snapshot{
		Sequence: 7, At: zero, Window: 10 * time.Second,
		Nodes: []graph.Node{
			{
				ID: "catalog", Name: "catalog", Kind: graph.KindService, Inbound: graph.View{Rate: 150.4, ErrorRatio: 0.061, P50: 0.004, P95: 0.01, P99: 1.25},
				Endpoints: []graph.Endpoint{{Address: "127.0.0.1:1", Instance: "catalog-1", State: "healthy"}, {Address: "127.0.0.1:2", Instance: "catalog-2", State: "ejected"}},
			},
			{
				ID: "recommendations", Name: "recommendations", Kind: graph.KindService, TraceBreaks: &breaks, Inbound: graph.View{Rate: 27},
				Reporters: []graph.Reporter{{Missing: true}, {}},
			},
			{ID: "unmeshed", Name: "unmeshed", Kind: graph.KindUnmeshed},
			{ID: "web", Name: "web", Kind: graph.KindService, Inbound: graph.View{Rate: 91, P50: 0.01}},
		},
		Edges: []graph.Edge{
			edge("recommendations", "catalog", graph.ReporterMissing, 27, 0), unmeshed,
			edge("web", "catalog", graph.BothSides, 120, 0.02), edge("web", "recommendations", graph.BothSides, 27, 0),
		},
	}
}

func TestGraph(t *testing.T) {
	var b strings.Builder
	if err := (Style{}).Top(&b, snapshot(), "", All); err != nil {
		t.Fatal(err)
	}
	b.WriteString("---\n")
	if err := (Style{}).Tree(&b, snapshot()); err != nil {
		t.Fatal(err)
	}
	b.WriteString("---\n")
	if err := (Style{}).Top(&b, &graph.Snapshot{}, "", All); err != nil {
		t.Fatal(err)
	}
	golden(t, "graph.txt", b.String())
}

func TestTreeOfARingEnds(t *testing.T) {
	var b strings.Builder
	g := &graph.Snapshot{Edges: []graph.Edge{{Source: "a", Destination: "b"}, {Source: "b", Destination: "a"}}}
	if err := (Style{}).Tree(&b, g); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(b.String(), "a\n└─ b") || !strings.Contains(b.String(), "(above)") {
		t.Error(b.String())
	}
}

func TestColoursOnlyWhenTold(t *testing.T) {
	var with, without strings.Builder
	_ = (Style{Color: true}).Top(&with, snapshot(), "", All)
	_ = (Style{}).Top(&without, snapshot(), "", All)
	if !strings.Contains(with.String(), "\x1b[31m") || strings.Contains(without.String(), "\x1b") {
		t.Error("colours")
	}
}

func spans() []Span {
	at := func(us int) time.Time { return zero.Add(time.Duration(us) * time.Microsecond) }
	return []Span{
		{ID: "2", Parent: "1", Service: "web", Name: "GET /", Start: at(500), Duration: 19 * time.Millisecond},
		{ID: "1", Service: "loadgen", Name: "GET web", Start: at(0), Duration: 20 * time.Millisecond, Note: "200"},
		{ID: "4", Parent: "2", Service: "web", Name: "GET catalog", Start: at(9000), Duration: 10 * time.Millisecond, Error: true, Note: "upstream_5xx"},
		{ID: "3", Parent: "2", Service: "web", Name: "tcp sessions", Start: at(1000), Duration: 600 * time.Microsecond},
		{ID: "9", Parent: "8", Service: "recommendations", Name: "GET catalog", Start: at(15000), Duration: time.Millisecond},
	}
}

func TestWaterfall(t *testing.T) {
	var b strings.Builder
	if err := (Style{}).Waterfall(&b, spans(), 100); err != nil {
		t.Fatal(err)
	}
	golden(t, "waterfall.txt", b.String())
}

// A gRPC span says its gRPC status in place of HTTP's, which is 200 for failures, too.
func TestSpansOfGRPC(t *testing.T) {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr(flow.AttrServiceName, "cart")
	ss := rs.ScopeSpans().AppendEmpty().Spans()
	for _, status := range []string{"", "NOT_FOUND", "UNAVAILABLE"} {
		a := ss.AppendEmpty().Attributes()
		a.PutInt(flow.AttrStatus, 200)
		if status != "" {
			a.PutStr(flow.AttrGRPC, status)
		}
		if status == "UNAVAILABLE" {
			a.PutStr(flow.AttrReason, "upstream_5xx")
		}
	}
	got := Spans(td)
	if got[0].Note != "200" || got[1].Note != "NOT_FOUND" || got[2].Note != "UNAVAILABLE upstream_5xx" {
		t.Errorf("%+v", got)
	}
}

func TestSplitInWords(t *testing.T) {
	us := time.Microsecond
	r := flow.Record{
		Kind: flow.KindExchange, Duration: 1100 * us, Legs: flow.Legs{HeadParsed: 10 * us, Queued: 30 * us, Connected: flow.Unset, Secured: flow.Unset, Sent: 40 * us, FirstByte: 1000 * us},
		Far: flow.Far{HeadParsed: 5 * us, Queued: 12 * us, Sent: 20 * us, FirstByte: 600 * us},
	}
	want := "application 580µs, network 370µs, transfer 100µs, waiting 27.0µs, proxies 23.0µs"
	if got := splitWords(&r); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var b strings.Builder
	if err := (Style{}).Waterfall(&b, []Span{{ID: "a", Service: "web", Name: "GET cart", Start: zero, Duration: r.Duration, Split: want}}, 80); err != nil || !strings.Contains(b.String(), "└ "+want+"\n") {
		t.Errorf("%v: %s", err, b.String())
	}
	if got := splitWords(&flow.Record{}); got != "" {
		t.Errorf("words without the far side: %q", got)
	}
}

func TestWaterfallOfARingShowsEverySpanOnce(t *testing.T) {
	var b strings.Builder
	ring := []Span{{ID: "a", Parent: "b", Service: "x", Name: "one", Start: zero}, {ID: "b", Parent: "a", Service: "x", Name: "two", Start: zero}, {ID: "c", Parent: "c", Service: "x", Name: "three", Start: zero}}
	if err := (Style{}).Waterfall(&b, ring, 0); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"one", "two", "three"} {
		if strings.Count(b.String(), n) != 1 {
			t.Errorf("%s: %s", n, b.String())
		}
	}
}

func TestLists(t *testing.T) {
	var b strings.Builder
	_ = (Style{}).Traces(&b, []store.TraceSummary{
		{ID: "0af7651916cd43dd8448eb211c80319c", RootService: "loadgen", RootOperation: "GET web", Start: zero, Duration: 12 * time.Millisecond, Spans: 9, Errors: 1, Services: make([]store.ServiceCount, 4)},
		{ID: "0af7651916cd43dd8448eb211c80319d", RootService: "catalog", RootOperation: "GET /products", Start: zero, Duration: 3 * time.Second, Spans: 1, Partial: true},
		{ID: "0af7651916cd43dd8448eb211c80319e", RootService: "catalog", RootOperation: "GET /products", Start: zero.Add(8 * time.Second), Duration: time.Second, Spans: 1, Partial: true},
	}, zero.Add(10*time.Second))
	_ = (Style{}).Traces(&b, nil, zero)
	_ = (Style{}).Events(&b, []event.Event{
		{Time: zero.Add(time.Second), Kind: event.KindReadmitted, Service: "catalog", Severity: "info", Message: "catalog-2 was readmitted"},
		{Time: zero, Kind: event.KindEjected, Service: "catalog", Severity: "warning", Message: "catalog-2 was ejected"},
	})
	_ = (Style{}).Events(&b, nil)
	golden(t, "lists.txt", b.String())
}

// Names come from outside: a span must not clear the screen or set the title.
func TestControlCharactersDoNotReachTheTerminal(t *testing.T) {
	const evil = "GET \x1b]0;owned\x07\x1b[2J\u009b1m\r\n"
	var b strings.Builder
	style := Style{}
	_ = style.Traces(&b, []store.TraceSummary{{ID: evil, RootService: evil, RootOperation: evil, Start: zero}}, zero)
	_ = style.Events(&b, []event.Event{{Time: zero, Kind: event.KindEjected, Service: evil, Message: evil}})
	_ = style.Waterfall(&b, []Span{{ID: "a", Service: evil, Name: evil, Start: zero, Duration: time.Second, Error: true, Note: evil}}, 80)
	if i := strings.IndexFunc(b.String(), func(r rune) bool { return unicode.IsControl(r) && r != '\n' }); i >= 0 {
		t.Errorf("%q", b.String()[i:])
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0", 12: "12ns", 850 * time.Microsecond: "850µs", 4123 * time.Microsecond: "4.12ms", 1500 * time.Millisecond: "1.50s",
		125 * time.Second: "2m05s", -time.Second: "-1.00s", 99_960 * time.Microsecond: "100ms",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}
