package page

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/why"
)

// TestTraceSaysWhy: the page of a trace says what became of the request, at which hop, and what to do; of the open span when there is one.
func TestTraceSaysWhy(t *testing.T) {
	d := deps(t)
	id := dashboardtest.TraceID(3).String()
	get := func(query string) string {
		r := httptest.NewRequest("GET", "/trace/"+id+query, nil)
		r.SetPathValue("id", id)
		w := httptest.NewRecorder()
		Trace(d)(w, r)
		if w.Code != 200 {
			t.Fatalf("%s: status %d", query, w.Code)
		}
		return w.Body.String()
	}
	whole := get("")
	for _, s := range []string{`data-level="warn" aria-label="What happened"`, "Recovered", "ended with upstream_5xx", "data-culprit", "What to do", "tulle why " + id, "<details class=\"why-hops\" open>"} {
		if !strings.Contains(whole, s) {
			t.Errorf("the page has no %s", s)
		}
	}
	span := whole[strings.Index(whole, `href="#s-`)+len(`href="#s-`):][:16]
	if one := get("?span=" + span); !strings.Contains(one, "tulle why "+id+" --span "+span) || !strings.Contains(one, "the call of the open span") {
		t.Errorf("the page does not explain span %s", span)
	}
	if odd := get("?span=nonsense"); !strings.Contains(odd, "Recovered") || strings.Contains(odd, "the call of the open span") {
		t.Error("a span that is none is not left out")
	}
}

// TestWhyViewIsBounded: the hop to blame is among those that are shown, however many there are.
func TestWhyViewIsBounded(t *testing.T) {
	e := why.Explanation{TraceID: "ab", Outcome: why.Failed, Culprit: 70, Omitted: 3, Next: []string{"Look.", "tulle doctor"}, Start: time.Unix(1, 0)}
	for range 100 {
		e.Hops = append(e.Hops, why.Hop{Depth: 99, To: "x", Start: time.Unix(1, 0)})
	}
	v := NewWhyView(&e, flow.SpanID{})
	if len(v.Hops) != maxWhyHops+1 || !v.Hops[maxWhyHops].Culprit || v.Omitted != 3+100-maxWhyHops-1 || !v.Next[1].Command || v.Next[0].Command || !v.Open {
		t.Errorf("%d hops, %d omitted, %+v", len(v.Hops), v.Omitted, v.Next)
	}
	for o, want := range outcomes {
		if want.word == "" || NewWhyView(&why.Explanation{Outcome: o, Culprit: -1}, flow.SpanID{}).Word != want.word {
			t.Errorf("%s has no word", o)
		}
	}
	if len(outcomes) != 5 {
		t.Errorf("%d outcomes have a word", len(outcomes))
	}
}
