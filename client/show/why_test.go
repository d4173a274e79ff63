package show

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/tulle-mesh/tulle/store/why"
)

func TestWhy(t *testing.T) {
	e := &why.Explanation{
		TraceID: "0af7651916cd43dd8448eb211c80319c", Outcome: why.CallerLeft, Summary: "it was given up", Culprit: 1, Start: zero, Duration: time.Second, Omitted: 3,
		Hops: []why.Hop{
			{From: "web", To: "app", Request: "GET /", Says: "web called app", Start: zero},
			{Depth: 1, From: "app", To: "db", Request: "GET /rows", Says: "app called db", Start: zero.Add(time.Millisecond), By: why.ByCaller, Revision: "r1", Override: "o1", Detail: "in words", Health: &why.Health{Says: "healthy"}},
		},
		Longest: "all of it", Missing: []string{"who"}, Next: []string{"Look.", "tulle doctor"},
	}
	var b strings.Builder
	if err := (Style{}).Why(&b, e); err != nil {
		t.Fatal(err)
	}
	golden(t, "why.txt", b.String())
	const evil = "\x1b[2J\u009b1m\r\n"
	e.Summary, e.Longest, e.Missing, e.Next, e.TraceID = evil, evil, []string{evil}, []string{evil}, evil
	e.Hops[1].Says, e.Hops[1].Detail, e.Hops[1].Request, e.Hops[1].Health.Says, e.Hops[1].Revision, e.Hops[1].Override = evil, evil, evil, evil, evil, evil
	e.Hops[1].Tries = []why.Try{{Reason: evil, Endpoint: evil}, {}}
	b.Reset()
	_ = (Style{}).Why(&b, e)
	if i := strings.IndexFunc(b.String(), func(r rune) bool { return unicode.IsControl(r) && r != '\n' }); i >= 0 {
		t.Errorf("%q", b.String()[i:])
	}
}
