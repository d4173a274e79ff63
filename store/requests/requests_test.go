package requests_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/match"
	"github.com/tulle-mesh/tulle/store/requests"
	"github.com/tulle-mesh/tulle/store/span/local"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// filled has 100 requests of web: 90 to cart that take 1 to 90 ms and of which every tenth fails, 10 to catalog; each is seen by both sides, and has a try.
func filled(t *testing.T) store.Spans {
	db, err := local.Open(local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	var records []flow.Record
	for i := range 100 {
		r := flow.Record{
			Kind: flow.KindExchange, Side: flow.SideClient, Protocol: flow.ProtocolHTTP1, Trace: flow.Trace{TraceID: flow.TraceID{1, byte(i)}, SpanID: flow.SpanID{1, byte(i)}},
			Start: start.Add(time.Duration(i) * time.Second), Duration: time.Duration(i+1) * time.Millisecond, Source: flow.Peer{Service: "web"}, Destination: flow.Peer{Service: "cart"},
			Method: "GET", Path: "/items", Status: 200, Answered: true, Attempts: 1,
		}
		if i >= 90 {
			r.Destination.Service, r.Path = "catalog", fmt.Sprintf("/p/%d", i)
		} else if i%10 == 0 {
			r.Status, r.Reason = 503, flow.ReasonUpstreamStatus
		}
		server, try := r, r
		server.Side, server.Trace.SpanID = flow.SideServer, flow.SpanID{2, byte(i)}
		try.Kind, try.Trace.SpanID = flow.KindAttempt, flow.SpanID{3, byte(i)}
		records = append(records, r, server, try)
	}
	req := ptraceotlp.NewExportRequest()
	if err := req.UnmarshalProto(flow.AppendSpans(nil, flow.Resource{Service: "web", Instance: "web-1", BootID: "0123456789abcdef", Sequence: 1}, records)); err != nil {
		t.Fatal(err)
	}
	if err := db.Write(t.Context(), req.Traces()); err != nil {
		t.Fatal(err)
	}
	return db
}

func expr(t *testing.T, text string) match.Expr {
	e, err := match.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestListSeesEachRequestOnce(t *testing.T) {
	db := filled(t)
	for _, c := range []struct {
		expr string
		side requests.Side
		want int
	}{
		{"", "", 100}, {"", requests.Server, 100}, {"", requests.Both, 300}, {"failed", requests.Client, 9}, {"side=server and failed", requests.Client, 9}, {"kind=attempt", "", 100}, {"dst=catalog or failed", "", 19},
	} {
		p, err := requests.List(t.Context(), db, requests.Query{Match: expr(t, c.expr), Side: c.side, Limit: 1000, Budget: 1000})
		if err != nil || len(p.Requests) != c.want || p.Partial {
			t.Errorf("%q %s: %d requests, want %d, %v", c.expr, c.side, len(p.Requests), c.want, err)
		}
		if !slices.IsSortedFunc(p.Requests, func(a, b requests.Request) int { return b.Time.Compare(a.Time) }) {
			t.Errorf("%q: not newest first", c.expr)
		}
	}
	p, err := requests.List(t.Context(), db, requests.Query{Limit: 2, Budget: 1000})
	if err != nil || len(p.Requests) != 2 || p.Requests[0].Path != "/p/99" || p.Requests[0].Dest != "catalog" || p.Requests[0].Instance != "web-1" || p.Requests[0].Duration != 100*time.Millisecond {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := requests.List(t.Context(), db, requests.Query{Side: "left", Limit: 1, Budget: 1}); !errors.Is(err, store.ErrBadQuery) {
		t.Errorf("a side that is none: %v", err)
	}
}

func TestCount(t *testing.T) {
	db := filled(t)
	table, err := requests.Count(t.Context(), db, requests.Query{By: []string{"dst", "method"}, Limit: 10, Budget: 1000})
	if err != nil || table.Count != 100 || len(table.Groups) != 2 {
		t.Fatalf("%+v, %v", table, err)
	}
	g := table.Groups[0]
	if !slices.Equal(g.Values, []string{"cart", "GET"}) || g.Count != 90 || g.Errors != 9 || g.Ratio != 0.1 || g.P50 != 45*time.Millisecond || g.P99 != 90*time.Millisecond || g.Max != 90*time.Millisecond {
		t.Errorf("%+v", g)
	}
	if want := (flow.TraceID{1, 80}).String(); g.Trace != want { // the slowest that failed
		t.Errorf("example %s, want %s", g.Trace, want)
	}
	table, err = requests.Count(t.Context(), db, requests.Query{By: []string{"path"}, Sort: "p99", Limit: 3, Budget: 1000})
	if err != nil || len(table.Groups) != 3 || table.Others != 8 || table.Groups[0].Values[0] != "/p/99" {
		t.Errorf("%+v, %v", table, err)
	}
	table, err = requests.Count(t.Context(), db, requests.Query{By: []string{"dst"}, Limit: 3, Budget: 100})
	if err != nil || !table.Partial || table.Looked != 100 {
		t.Errorf("%+v, %v", table, err)
	}
	for _, q := range []requests.Query{{By: []string{"colour"}}, {By: []string{"dst"}, Sort: "beauty"}, {}, {By: make([]string, 5)}} {
		if _, err := requests.Count(t.Context(), db, q); !errors.Is(err, store.ErrBadQuery) {
			t.Errorf("%+v: %v", q, err)
		}
	}
}
