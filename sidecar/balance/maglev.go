package balance

import (
	"github.com/cespare/xxhash/v2"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// maglev is the table of Maglev (Eisenbud and others, 2016, section 3.4): as many slots as policy.Balancer.TableSize, a prime, which the members take in turn,
// each in an order of its own, until all are taken; a key belongs to the owner of slot key mod size. Shares are nearer to the weights than a ring's and a look-up is
// one access, but a member that goes moves a few keys of others, too. The order of a member begins at the xxHash64 of its address ("10.0.0.5:8443") with seed 0, mod
// size, and goes on in steps of 1 + the xxHash64 with seed 1, mod (size - 1): as Envoy's.
type maglev struct {
	owners []uint16 // nil: there are too many members, so wide has them
	wide   []int32
	slots  uint64
}

func newMaglev(b policy.Balancer, keys []string, weights []float64) table {
	n := b.TableSize
	size := uint64(n)
	type order struct {
		at, skip     uint64
		weight, took float64
		member       int32
	}
	heaviest := 0.0
	for _, w := range weights {
		heaviest = max(heaviest, w)
	}
	turn := make([]order, len(keys)) // by address: every sidecar fills alike
	for j, i := range byKey(keys) {
		d := xxhash.NewWithSeed(1)
		_, _ = d.WriteString(keys[i]) // never fails
		turn[j] = order{at: xxhash.Sum64String(keys[i]) % size, skip: d.Sum64()%(size-1) + 1, weight: weights[i] / heaviest, member: i}
	}
	wide := make([]int32, n)
	for i := range wide {
		wide[i] = -1
	}
	for round, filled := 1.0, 0; filled < n; round++ {
		for j := range turn {
			o := &turn[j]
			if round*o.weight < o.took { // a member of half the weight of the heaviest takes every other turn
				continue
			}
			o.took++
			for wide[o.at] >= 0 {
				if o.at += o.skip; o.at >= size {
					o.at -= size
				}
			}
			wide[o.at] = o.member
			if filled++; filled == n {
				break
			}
		}
	}
	m := &maglev{wide: wide, slots: size}
	if len(keys) <= 1<<16 {
		m.owners, m.wide = make([]uint16, n), nil
		for i, o := range wide {
			m.owners[i] = uint16(o)
		}
	}
	return m
}

func (m *maglev) find(key uint64) int { return int(key % m.slots) }

func (m *maglev) owner(at int) int32 {
	if m.owners != nil {
		return int32(m.owners[at])
	}
	return m.wide[at]
}

func (m *maglev) next(at int) int {
	if at++; at == int(m.slots) {
		return 0
	}
	return at
}

func (m *maglev) size() int { return int(m.slots) }
