package lint

import "github.com/tulle-mesh/tulle/internal/policy"

// tables are the sizes that go with a number of endpoints: so many slots for each that shares differ by about a percent.
var tables = []struct{ above, size int }{{300, policy.MaxTableSize}, {100, 655_373}}

// maglevTable is about tables that are small for the endpoints of their service.
func maglevTable(m *mesh, say func(place, string, ...any)) {
	for _, p := range m.Set.Policies {
		most, where := 0, ""
		for name, list := range m.endpoints {
			if policy.ServiceOf(name) == p.Spec.TargetService && len(list) > most {
				most, where = len(list), name
			}
		}
		b := m.service(p.Spec.TargetService).Balancer
		if b.Algorithm != policy.BalanceMaglev {
			continue
		}
		for _, t := range tables {
			if most > t.above {
				if b.TableSize < t.size {
					say(m.at(p.Key()), "spec.loadBalancer.tableSize: %d slots for the %d endpoints of %s; use %d", b.TableSize, most, where, t.size)
				}
				break
			}
		}
	}
}
