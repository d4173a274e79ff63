package lint

import (
	"fmt"
	"strings"
)

// unknownLocality is about places that nobody is in.
func unknownLocality(m *mesh, say func(place, string, ...any)) {
	there := map[string]bool{}
	for _, w := range m.Set.Workloads {
		l := w.Spec.Locality
		there[l.Region], there[l.Region+"/"+l.Zone] = true, true
	}
	for _, p := range m.Set.Policies {
		var missing []string
		for i, f := range p.Spec.LoadBalancer.Locality.Failover {
			if !there[f] {
				missing = append(missing, fmt.Sprintf("failover[%d], %s", i, f))
			}
		}
		if len(missing) > 0 {
			say(m.at(p.Key()), "spec.loadBalancer.locality: no workload runs in %s", strings.Join(missing, "; nor in "))
		}
	}
}
