package balance

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// ring is consistent hashing (Karger and others, 1997): each member has points on a circle of 64-bit numbers, and a key belongs to the member of the first
// point at or after it. A member of weight 100 has policy.Balancer.RingPoints of them, others in proportion, whoever the other members are: when one comes or goes
// only its own keys move. (Envoy's ring has as many points in all as is configured, so that a member more or less changes what all others have.) The i-th point
// of a member is the xxHash64, with seed 0, of "ADDRESS_I", such as "10.0.0.5:8443_0".
type ring struct {
	hashes []uint64 // sorted
	owners []int32  // of the points
	index  []int32  // the first point at or after each multiple of 1 << shift
	shift  int
}

// maxPoints bounds the points of a ring; beyond, each member has half as many.
const maxPoints = 1 << 20

func newRing(b policy.Balancer, keys []string, weights []float64) table {
	per := float64(b.RingPoints) / policy.DefaultWeight
	total := 0.0
	for _, w := range weights {
		total += w
	}
	for total*per > maxPoints {
		per /= 2
	}
	r := &ring{}
	type point struct {
		hash  uint64
		owner int32
	}
	points := make([]point, 0, int(total*per)+len(keys))
	for _, i := range byKey(keys) { // of points that are alike the same one wins everywhere
		name := append([]byte(keys[i]), '_')
		for n := range max(1, int64(math.Round(per*weights[i]))) {
			points = append(points, point{xxhash.Sum64(strconv.AppendInt(name, n, 10)), i})
		}
	}
	slices.SortStableFunc(points, func(a, b point) int { return cmp.Compare(a.hash, b.hash) })
	r.hashes, r.owners = make([]uint64, len(points)), make([]int32, len(points))
	for i, p := range points {
		r.hashes[i], r.owners[i] = p.hash, p.owner
	}
	r.shift = 64 - bits.Len(uint(len(points)))
	r.index = make([]int32, 1<<(64-r.shift))
	at := 0
	for i := range r.index {
		for at < len(points) && r.hashes[at] < uint64(i)<<r.shift {
			at++
		}
		r.index[i] = int32(at)
	}
	return r
}

// byKey are the positions of keys, in the order of the keys.
func byKey(keys []string) []int32 {
	order := make([]int32, len(keys))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(keys[a], keys[b]) })
	return order
}

func (r *ring) find(key uint64) int {
	at := int(r.index[key>>r.shift])
	for at < len(r.hashes) && r.hashes[at] < key {
		at++
	}
	if at == len(r.hashes) {
		return 0
	}
	return at
}

func (r *ring) owner(at int) int32 { return r.owners[at] }

func (r *ring) next(at int) int {
	if at++; at == len(r.owners) {
		return 0
	}
	return at
}

func (r *ring) size() int { return len(r.owners) }
