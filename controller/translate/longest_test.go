package translate

import (
	"maps"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// A rule of any service that sends to another gives that one its time, too; none at all is the longest.
func TestLongestTimeouts(t *testing.T) {
	rule := func(request time.Duration, to ...string) route.Rule {
		r := route.Rule{Action: route.Action{Timeouts: route.Timeouts{Request: request}}}
		for _, name := range to {
			r.Action.Backends = append(r.Action.Backends, route.Backend{Service: name, Weight: 1})
		}
		return r
	}
	got := ruled{
		"shop": {
			"":     policy.Routed{Rules: []route.Rule{rule(time.Minute, "catalog", "reports:admin"), rule(time.Second, "catalog"), rule(0, "cart")}},
			"test": policy.Routed{Rules: []route.Rule{rule(2*time.Minute, "catalog")}},
		},
		"feed": {"": policy.Routed{Rules: []route.Rule{rule(-1, "feed"), rule(time.Hour, "feed")}}},
	}.longest()
	want := map[string]time.Duration{"catalog": 2 * time.Minute, "reports": time.Minute, "feed": -1}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
