package lint

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/route"
)

// Answers that say that the service did nothing: it was too busy, or not there.
var (
	nothingDone     = []int{429, 503}
	nothingDoneGRPC = []string{"UNAVAILABLE", "RESOURCE_EXHAUSTED"}
)

// unsafeRetry is about requests that may be carried out twice.
func unsafeRetry(m *mesh, say func(place, string, ...any)) {
	m.eachRule(func(_ table, r *route.Rule, at written) {
		if r.Action.Retry == nil || !slices.ContainsFunc(methods(r), func(s string) bool { return !idempotent(s) }) {
			return
		}
		var unsafe []string
		for _, s := range r.Action.Retry.Statuses {
			if !slices.Contains(nothingDone, s) {
				unsafe = append(unsafe, fmt.Sprint(s))
			}
		}
		if len(unsafe) > 0 {
			say(at.place, "%s.retry.codes: a request such as a POST that was answered with %s may have been carried out, and is sent again", at.field, strings.Join(unsafe, ", "))
		}
	})
	for _, p := range m.Set.Policies {
		var unsafe []string
		for _, s := range p.Spec.Retry.GRPC {
			if !slices.Contains(nothingDoneGRPC, strings.ToUpper(s)) {
				unsafe = append(unsafe, s)
			}
		}
		if len(unsafe) > 0 {
			say(m.at(p.Key()), "spec.retry.grpc: a call that ended with %s may have been carried out, and is made again", strings.Join(unsafe, ", "))
		}
	}
}
