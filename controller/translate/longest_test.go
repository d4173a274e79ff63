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
		r := route.Rule{Action: route.Action{Timeouts: route.Timeouts{Request: request, Idle: 2 * request, Stream: 3 * request}}}
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
	want := map[string]route.Timeouts{
		"catalog": {Request: 2 * time.Minute, Idle: 4 * time.Minute, Stream: 6 * time.Minute},
		"reports": {Request: time.Minute, Idle: 2 * time.Minute, Stream: 3 * time.Minute},
		"feed":    {Request: -1, Idle: -2, Stream: -3},
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
