package filter

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/route"
)

func TestRespond(t *testing.T) {
	for _, c := range []struct {
		r         route.Respond
		typ, body string
	}{
		{route.Respond{Status: 200, Body: "ok"}, plainText, "ok"},
		{route.Respond{Status: 503, Body: "{}", Type: "application/json"}, "application/json", "{}"},
		{route.Respond{Status: 404}, "", ""},
		{route.Respond{Status: 204, Body: "ok"}, "", ""},
		{route.Respond{Status: 304, Type: "text/html"}, "", ""},
	} {
		to := &caller{}
		x := asking(&route.Action{Respond: &c.r, Response: route.Edits{Set: []route.Field{{Name: "content-type", Value: "x"}}}}, to)
		if passes(New(nil), x) || to.answered != 1 || x.Reply.Status != c.r.Status || x.Reply.Type != c.typ || x.Reply.Body != c.body || len(x.Reply.Fields) != 0 {
			t.Errorf("%+v: %+v", c, x.Reply)
		}
	}
}
