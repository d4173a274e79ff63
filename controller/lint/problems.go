package lint

import (
	"slices"

	"github.com/tulle-mesh/tulle/controller/resource"
)

// refused is what the controller does not put in force.
func refused(m *mesh, say func(place, string, ...any)) {
	for _, p := range m.Problems {
		if p.Severity == resource.Refused {
			say(place{p.Position, p.Key}, "%s", p.Message)
		}
	}
}

// conditions are what statuses of the Gateway API's objects say for one of these reasons.
func conditions(reasons ...string) look {
	return func(m *mesh, say func(place, string, ...any)) {
		for _, p := range m.Problems {
			if p.Severity != resource.Refused && slices.Contains(reasons, p.Reason) {
				say(place{p.Position, p.Key}, "%s", p.Message)
			}
		}
	}
}

// warned is what else the controller warns of. A reason that no line of Table names is among it: nothing is lost.
func warned(m *mesh, say func(place, string, ...any)) {
	for _, p := range m.Problems {
		if p.Severity != resource.Refused && !classified[p.Reason] {
			say(place{p.Position, p.Key}, "%s", p.Message)
		}
	}
}

// classified are the reasons of conditions that have a code of their own.
var classified = map[string]bool{
	"BackendNotFound": true, "InvalidKind": true, "RefNotPermitted": true, "NoMatchingParent": true, "Conflicted": true,
	resource.ReasonLeftOut: true, resource.ReasonCallersNotFound: true, "UnsupportedValue": true, "UnsupportedProtocol": true, "PartiallyInvalid": true, "Accepted": true, "ResolvedRefs": true,
}
