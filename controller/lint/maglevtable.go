package lint

import (
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// tables are the sizes that go with a number of endpoints: so many slots for each that shares differ by about a percent.
var tables = []struct{ above, size int }{{300, policy.MaxTableSize}, {100, 655_373}}

// maglevTable is about tables that are small for the endpoints of their service.
func maglevTable(m *mesh, say func(place, string, ...any)) {
	for _, name := range slices.Sorted(maps.Keys(m.endpoints)) {
		b, n := m.service(name).Balancer, len(m.endpoints[name])
		if b.Algorithm != policy.BalanceMaglev {
			continue
		}
		for _, t := range tables {
			if n > t.above {
				if b.TableSize < t.size {
					at, _ := m.setBy(name, "loadBalancer.algorithm")
					say(at, "spec.loadBalancer.tableSize: %d slots for the %d endpoints of %s; use %d", b.TableSize, n, name, t.size)
				}
				break
			}
		}
	}
}
