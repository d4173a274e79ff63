package page

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/tap"
)

func ended(service string, n int, status int64) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr(flow.AttrServiceName, service)
	for range n {
		s := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		s.SetTraceID([16]byte{1})
		s.SetSpanID([8]byte{2})
		s.SetKind(ptrace.SpanKindClient)
		s.Attributes().PutStr(flow.AttrSourceService, service)
		s.Attributes().PutInt(flow.AttrStatus, status)
	}
	return td
}

// A watch shows what is meant with the columns that were asked for, bounded, and says how many it left out.
func TestTailRequests(t *testing.T) {
	d := deps(t)
	live := tap.New(dashboardtest.NewSpans())
	d.Tap = live
	ctx, cancel := context.WithCancel(t.Context())
	type shown struct {
		lines   []json.RawMessage
		dropped uint64
	}
	said, done := make(chan shown, 64), make(chan error, 1)
	watching := make(chan struct{})
	d.Tap = tapFunc(func(ctx context.Context) (*tap.Watcher, error) {
		defer close(watching)
		return live.Watch(ctx)
	})
	go func() {
		done <- TailRequests(d)(ctx, "match=status%3D503&side=both&columns=status,reason", func(lines []json.RawMessage, dropped uint64) { said <- shown{lines, dropped} })
	}()
	<-watching
	for _, td := range []ptrace.Traces{ended("other", 3, 200), ended("web", tailRows+7, 503)} {
		if err := live.Write(t.Context(), td); err != nil {
			t.Fatal(err)
		}
	}
	var rows []tailRow
	left := uint64(0)
	for uint64(len(rows))+left < tailRows+7 {
		s := <-said
		left += s.dropped
		for _, l := range s.lines {
			var r tailRow
			if err := json.Unmarshal(l, &r); err != nil {
				t.Fatal(err)
			}
			rows = append(rows, r)
		}
	}
	if len(rows) < tailRows || left > 7 {
		t.Errorf("%d rows, %d left out", len(rows), left)
	}
	if r := rows[0]; len(r.Cells) != 2 || r.Cells[0].Text != "503" || !strings.HasPrefix(r.Link, "/trace/01") {
		t.Errorf("%+v", r)
	}
	cancel()
	if err := <-done; err != nil && ctx.Err() == nil {
		t.Error(err)
	}
	for _, question := range []string{"match=(", "columns=nothing", "side=left", "%"} {
		if err := TailRequests(d)(t.Context(), question, nil); err == nil {
			t.Errorf("%q is understood", question)
		}
	}
}

type tapFunc func(ctx context.Context) (*tap.Watcher, error)

func (f tapFunc) Watch(ctx context.Context) (*tap.Watcher, error) { return f(ctx) }

func TestRequestsPageTail(t *testing.T) {
	d := deps(t)
	page := func(query string) string {
		w := httptest.NewRecorder()
		Requests(d)(w, httptest.NewRequest("GET", "/requests?"+query, nil))
		return w.Body.String()
	}
	if s := page("tail=1"); strings.Contains(s, "data-watch") || strings.Contains(s, "Watch live") {
		t.Error("nothing can be watched, and the page offers it")
	}
	d.Tap = tap.New(dashboardtest.NewSpans())
	if s := page("match=failed&by=dst"); !strings.Contains(s, `href="/requests?match=failed&amp;tail=1"`) {
		t.Error("it does not lead to the same question, live")
	}
	s := page("match=failed&columns=src&tail=1")
	for _, want := range []string{`data-live="tail"`, `data-watch="requests"`, `data-question="columns=src&amp;match=failed&amp;side=client"`, `name="tail"`, `href="/requests?columns=src&amp;match=failed"`, "tulle tap &#39;failed&#39;"} {
		if !strings.Contains(s, want) {
			t.Errorf("has no %s", want)
		}
	}
	if s := page("tail=1&match=path%3D" + strings.Repeat("x", maxQuestion)); !strings.Contains(s, "a shorter one") {
		t.Error("a question that the feed does not take is asked")
	}
}
