package lint

import (
	"reflect"

	"github.com/tulle-mesh/tulle/controller/resource"
)

// unusedPolicy is about policies that leave everything as it is. Of those whose target is not there the controller warns.
func unusedPolicy(m *mesh, say func(place, string, ...any)) {
	for _, p := range m.Set.Policies {
		if reflect.DeepEqual(p.Spec, resource.TrafficPolicySpec{TargetService: p.Spec.TargetService, TargetRefs: p.Spec.TargetRefs}) {
			say(m.at(p.Key()), "spec: sets nothing")
		}
	}
	for _, p := range m.Set.Observed {
		if reflect.DeepEqual(p.Spec.Telemetry, resource.Telemetry{}) {
			say(m.at(p.Key()), "spec: sets nothing")
		}
	}
}
