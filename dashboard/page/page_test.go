package page

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

func TestParseTags(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a=b": "a=b", " a=b  c!=d e ": "a=b c!=d exists e", `a="x y" b=z`: "a=x y b=z", `k=`: "k=", `a=b=c`: "a=b=c", `a="q\"q"`: `a=q"q`,
		"=x": "bad", `a="open`: "bad", "!x": "bad", "a!b": "bad",
		`a=~b.* c!~"d e|f" g~h`: "a~b.* c!~d e|f g~h", `a="~b"`: "a=~b", "a=~": "a~", "a=~(b": "bad", "a!~*": "bad", "~x": "bad",
	} {
		got := []string{}
		m, err := ParseTags(in)
		for _, x := range m {
			if x.Op == "exists" {
				got = append(got, "exists "+x.Key)
			} else {
				got = append(got, x.Key+x.Op+x.Value)
			}
		}
		if s := strings.Join(got, " "); want == "bad" && !errors.Is(err, store.ErrBadQuery) || want != "bad" && (err != nil || s != want) {
			t.Errorf("%q: %q, %v; want %q", in, s, err, want)
		}
	}
}

// A pattern that cannot be read is named, with the tag, and where it cannot be.
func TestTagPatternErrors(t *testing.T) {
	if _, err := ParseTags(`ok url.path=~"/items/(a|b"`); err == nil || err.Error() != `tag url.path: pattern "/items/(a|b": bad query: column 8: missing closing )` {
		t.Error(err)
	}
}

func TestParseTraceQuery(t *testing.T) {
	now := dashboardtest.Epoch
	q, err := ParseTraceQuery(url.Values{
		"service": {"a"}, "source": {"b"}, "destination": {"c"}, "status": {"error"}, "reason": {"shed"}, "min": {"250 ms"}, "max": {"2s"}, "lookback": {"15m"},
		"limit": {"7"}, "tags": {"x=1", "y"}, "cursor": {"z"}, "protocol": {"grpc"}, "grpc": {"NOT_FOUND"},
	}, now)
	want := store.TraceQuery{
		Service: "a", Source: "b", Destination: "c", Errors: true, Reason: "shed", MinDuration: 250 * time.Millisecond, MaxDuration: 2 * time.Second,
		Start: now.Add(-15 * time.Minute), Limit: 7, Cursor: "z", Attributes: []store.AttributeMatch{
			{Key: flow.AttrProtocol, Value: "grpc", Op: "="}, {Key: flow.AttrGRPC, Value: "NOT_FOUND", Op: "="}, {Key: "x", Value: "1", Op: "="}, {Key: "y", Op: "exists"},
		},
	}
	if err != nil || !reflect.DeepEqual(q, want) {
		t.Errorf("got %+v, %v", q, err)
	}
	for name, value := range map[string]string{"status": "fine", "min": "soon", "max": "-1s", "lookback": "0s", "limit": "501", "start": "noon", "end": "x", "protocol": "gopher", "grpc": "14"} {
		if _, err := ParseTraceQuery(url.Values{name: {value}}, now); !errors.Is(err, store.ErrBadQuery) || !strings.Contains(err.Error(), value) {
			t.Errorf("%s=%s: %v", name, value, err)
		}
	}
	if _, err := ParseTraceQuery(url.Values{"min": {"2s"}, "max": {"1s"}}, now); err == nil {
		t.Error("a minimum above the maximum is accepted")
	}
}

func TestEveryReasonIsExplained(t *testing.T) {
	for _, r := range flow.Reasons() {
		if ReasonText(r.String()) == "" {
			t.Errorf("%s has no explanation", r)
		}
	}
	if len(reasonTexts) != len(flow.Reasons()) {
		t.Errorf("%d texts for %d reasons", len(reasonTexts), len(flow.Reasons()))
	}
}

// TestEventKindsAreAll reads the vocabulary where it is written, so that a new kind is missed here.
func TestEventKindsAreAll(t *testing.T) {
	seen := map[event.Kind]bool{}
	for _, k := range EventKinds {
		if seen[k] {
			t.Errorf("%s twice", k)
		}
		seen[k] = true
	}
	source, err := os.ReadFile("../../store/event/types.go")
	if err != nil {
		t.Fatal(err)
	}
	kinds := regexp.MustCompile(`(?m)^\s*Kind\w+\s+Kind = "([^"]+)"`).FindAllSubmatch(source, -1)
	if len(kinds) < 10 {
		t.Fatalf("only %d kinds found", len(kinds))
	}
	for _, k := range kinds {
		if !seen[event.Kind(k[1])] {
			t.Errorf("%s cannot be chosen in the filter", k[1])
		}
	}
}

func TestYoungTracesAreStillArriving(t *testing.T) {
	start := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	rows := traceRows([]store.TraceSummary{
		{ID: "young", Start: start, Duration: 2 * time.Second, Partial: true},
		{ID: "old", Start: start.Add(-time.Minute), Partial: true},
		{ID: "whole", Start: start},
	}, start.Add(4*time.Second))
	if !rows[0].Arriving || rows[1].Arriving || !rows[1].Partial || rows[2].Arriving {
		t.Errorf("%+v", rows)
	}
	var b strings.Builder
	if err := TracesPage(TracesView{Rows: rows}).Render(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if strings.Count(b.String(), "still arriving") != 1 || strings.Count(b.String(), "has not been seen") != 1 {
		t.Error("the page does not tell a young trace from one without root")
	}
}

func view(t *testing.T, live *graph.Snapshot, specs ...dashboardtest.SpanSpec) TraceView {
	t.Helper()
	s := dashboardtest.NewSpans()
	s.Put(dashboardtest.TraceID(1), dashboardtest.Epoch, specs...)
	td, err := s.Trace(t.Context(), dashboardtest.TraceID(1))
	if err != nil {
		t.Fatal(err)
	}
	if live == nil {
		live = &graph.Snapshot{}
	}
	return NewTraceView(td, live)
}

const msec = time.Millisecond

func TestWaterfallOrderAndNetwork(t *testing.T) {
	v := view(t, nil,
		dashboardtest.SpanSpec{ID: "s", Parent: "a", Service: "b", Name: "GET /", Start: 20 * msec, End: 60 * msec, Attr: map[string]any{flow.AttrKind: "exchange", flow.AttrSide: "server"}},
		dashboardtest.SpanSpec{ID: "a", Parent: "c", Service: "a", Name: "attempt 1", Start: 2 * msec, End: 98 * msec, Attr: map[string]any{flow.AttrKind: "attempt"}},
		dashboardtest.SpanSpec{ID: "c", Service: "a", Name: "GET b", End: 100 * msec, Attr: map[string]any{flow.AttrKind: "exchange", flow.AttrSide: "client"}},
	)
	got := ""
	for _, r := range v.Rows {
		got += fmt.Sprintf("%d %s %s;", r.Depth, r.Kind, r.Name)
	}
	if got != "0 client GET b;1 attempt attempt 1;2 server GET /;" {
		t.Error(got)
	}
	if n := v.Rows[1].Network; n != 56*msec {
		t.Errorf("network is %s, want 56 ms", n)
	}
	if len(v.Rows[1].Says) == 0 || !strings.Contains(v.Rows[1].Says[0], "outside the server's sidecar") {
		t.Errorf("a large gap is not explained: %q", v.Rows[1].Says)
	}
	if v.Rows[0].X != 0 || v.Rows[0].W != 1000 || v.Duration != 100*msec {
		t.Errorf("the root spans %v of %v", v.Rows[0].W, v.Duration)
	}
}

// A glance at a gRPC span tells its status, unless a reason says more; its details have protocol and messages.
func TestGRPCOfASpan(t *testing.T) {
	for _, c := range []struct {
		status, reason, ended string
	}{
		{"OK", "", ""},
		{"NOT_FOUND", "", "NOT_FOUND"},
		{"UNAVAILABLE", "upstream_5xx", "UNAVAILABLE"},
		{"DEADLINE_EXCEEDED", "request_timeout", "request_timeout"},
		{"", "upstream_5xx", "upstream_5xx"},
	} {
		v := view(t, nil, dashboardtest.SpanSpec{ID: "a", Service: "web", Name: "shop.v1.Cart/Add", End: msec, Attr: map[string]any{
			flow.AttrKind: "exchange", flow.AttrSide: "client", flow.AttrProtocol: "grpc", flow.AttrStatus: 200, flow.AttrGRPC: c.status, flow.AttrReason: c.reason,
			flow.AttrMessagesOut: 7,
		}})
		r := v.Rows[0]
		if got := r.Ended(); got != c.ended {
			t.Errorf("%+v: %q", c, got)
		}
		if r.Protocol != "grpc" || r.GRPC != c.status || r.Messages != "0 in, 7 out" {
			t.Errorf("%+v: %+v", c, r)
		}
	}
}

// A client exchange whose far side was heard says where its time went; the parts fill the bar.
func TestSplitOfASpan(t *testing.T) {
	attr := map[string]any{
		flow.AttrKind: "exchange", flow.AttrSide: "client", flow.AttrLegHeadParsed: int(msec), flow.AttrLegQueued: int(3 * msec), flow.AttrLegSent: int(4 * msec),
		flow.AttrLegFirstByte: int(80 * msec), flow.AttrFarHeadParsed: int(msec), flow.AttrFarQueued: int(2 * msec), flow.AttrFarSent: int(3 * msec), flow.AttrFarFirstByte: int(63 * msec),
	}
	v := view(t, nil, dashboardtest.SpanSpec{ID: "c", Service: "a", Name: "GET b", End: 100 * msec, Attr: attr})
	var b strings.Builder
	if err := TracePage(TraceView{Rows: v.Rows, Details: true}).Render(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, p := range v.Rows[0].Split {
		got += fmt.Sprintf("%s %s %.0f+%.0f;", p.Name, p.Took, p.X, p.W)
	}
	if got != "proxies 3ms 0+30;waiting 3ms 30+30;connecting 0s 60+0;network 14ms 60+140;application 60ms 200+600;transfer 20ms 800+200;" {
		t.Error(got)
	}
	if !strings.Contains(b.String(), "Where the time went") || !strings.Contains(b.String(), `data-part="application"`) {
		t.Error("the page does not show the parts")
	}
	delete(attr, flow.AttrFarFirstByte)
	if v := view(t, nil, dashboardtest.SpanSpec{ID: "c", Service: "a", Name: "GET b", End: 100 * msec, Attr: attr}); v.Rows[0].Split != nil {
		t.Error("parts without the far side")
	}
}

func TestMissingParentsAndBrokenPropagationAreExplained(t *testing.T) {
	share := 0.9
	live := &graph.Snapshot{Nodes: []graph.Node{{ID: "lossy", TraceBreaks: &share}}}
	v := view(t, live,
		dashboardtest.SpanSpec{ID: "c", Service: "lossy", Name: "GET b", End: 9 * msec, Attr: map[string]any{flow.AttrKind: "exchange", flow.AttrSide: "client", flow.AttrTraceBegun: true}},
		dashboardtest.SpanSpec{ID: "o", Parent: "gone", Service: "b", Name: "work", Start: 2 * msec, End: 3 * msec},
	)
	all := ""
	for _, n := range v.Notes {
		all += n.Text + " "
	}
	if !strings.Contains(all, "lossy did not forward traceparent") || !strings.Contains(all, "1 span has a parent that is not stored") {
		t.Error(all)
	}
	if len(v.Rows) != 2 {
		t.Errorf("%d rows", len(v.Rows))
	}
}

func TestSkewedClocksAreExplained(t *testing.T) {
	v := view(t, nil,
		dashboardtest.SpanSpec{ID: "c", Service: "a", Name: "GET b", Start: 50 * msec, End: 60 * msec},
		dashboardtest.SpanSpec{ID: "s", Parent: "c", Service: "b", Name: "GET /", Start: 10 * msec, End: 15 * msec},
	)
	if len(v.Notes) != 1 || !strings.Contains(v.Notes[0].Text, "40 ms outside") {
		t.Errorf("%+v", v.Notes)
	}
}

// TestHostileTraces: loops, spans that are their own parents, reversed times, nothing at all.
func TestHostileTraces(t *testing.T) {
	v := view(t, nil,
		dashboardtest.SpanSpec{ID: "a", Parent: "b", Service: "x", Name: "a", End: msec},
		dashboardtest.SpanSpec{ID: "b", Parent: "a", Service: "x", Name: "b", Start: 5 * msec, End: 2 * msec},
		dashboardtest.SpanSpec{ID: "self", Parent: "self", Service: "x", Name: "self"},
	)
	if len(v.Rows) != 3 {
		t.Errorf("%d of 3 rows", len(v.Rows))
	}
	s := dashboardtest.NewSpans()
	s.Put(dashboardtest.TraceID(1), dashboardtest.Epoch, dashboardtest.SpanSpec{ID: "a", Service: "x"})
	td, err := s.Trace(t.Context(), dashboardtest.TraceID(1))
	if err != nil {
		t.Fatal(err)
	}
	td.ResourceSpans().RemoveIf(func(ptrace.ResourceSpans) bool { return true })
	if v := NewTraceView(td, &graph.Snapshot{}); len(v.Rows) != 0 {
		t.Error("rows out of nothing")
	}
}

func TestReporterMissingIsNeverLoss(t *testing.T) {
	e := graph.Edge{Source: "a", Destination: "b", State: graph.ReporterMissing, Missing: []string{"b-1"}, Client: &graph.View{Requests: 10, Rate: 1}}
	if title, text := gapWords(&e); title != "reporter missing" || !strings.Contains(text, "b-1") || !strings.Contains(text, "not loss") {
		t.Errorf("%s: %s", title, text)
	}
	if f := edgeFigures(&graph.Snapshot{}, &e); f.Level != "lost" {
		t.Errorf("level %s", f.Level)
	}
}

func TestLiveItemsMatchTheMarkup(t *testing.T) {
	s := dashboardtest.Snapshot(1, dashboardtest.Epoch)
	items, _ := LiveItems(s, nil, true)
	v := NewGraphView(s, nil)
	if len(items) != len(v.Nodes)+len(v.Edges)+1 {
		t.Errorf("%d items for %d nodes and %d edges", len(items), len(v.Nodes), len(v.Edges))
	}
	if a, b := NewGraphView(dashboardtest.Snapshot(2, dashboardtest.Epoch), nil).Structure, v.Structure; len(a) != 16 || len(b) != 16 {
		t.Error("structure is not a hash")
	}
	if string(items["structure"]) != `"`+v.Structure+`"` {
		t.Error("structure differs from the markup's")
	}
}

// How much memory a proxy has is in its row, where it says so.
func TestMemoryOfProxies(t *testing.T) {
	v := ProxiesView{Proxies: []source.Proxy{{Instance: "web-1", Reporting: true, Memory: 24 << 20}, {Instance: "web-2", Reporting: true}}}
	var b strings.Builder
	if err := ProxiesPage(v).Render(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), part.Bytes(24<<20)); n != 1 {
		t.Errorf("%q is there %d times:\n%s", part.Bytes(24<<20), n, b.String())
	}
}

// A proxy whose budget of series is used up says so, in a notice and in its row.
func TestFoldedSeriesAreSeen(t *testing.T) {
	v := ProxiesView{Proxies: []source.Proxy{{Instance: "web-1", Reporting: true, Folded: 1234}, {Instance: "web-2", Reporting: true}}, Folding: 1}
	var b strings.Builder
	if err := ProxiesPage(v).Render(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "1 proxy counts new names under") || strings.Count(b.String(), "folded</span>") != 1 || proxyLevel(&v.Proxies[0]) != part.Warn || proxyLevel(&v.Proxies[1]) != part.OK {
		t.Error(b.String())
	}
}
