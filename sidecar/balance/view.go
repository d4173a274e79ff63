package balance

import (
	"math"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// query is one pick, as algorithms see it.
type query struct {
	now    int64 // unix ns
	tried  []netip.AddrPort
	key    uint64
	keyed  bool
	away   bool // the latest of tried could not be reached
	random func() uint64
}

func newQuery(now int64, w exchange.Want, random func() uint64) query {
	return query{now: now, tried: w.Tried, key: w.Key, keyed: w.Keyed, away: w.Away, random: random}
}

// spent reports whether e was tried already.
func (q *query) spent(e *entry) bool {
	return len(q.tried) > 0 && slices.Contains(q.tried, e.endpoint.Address)
}

// members are the endpoints of one priority in a group: what does not change while a Picker lives, but for turn.
type members struct {
	entries []int32
	weights []float64 // as configured, by locality; above 0
	total   float64   // of weights
	table   table     // nil: the algorithm has none
	turn    atomic.Uint64
}

// tier is what of members may be chosen now. It is immutable.
type tier struct {
	p       *Picker
	members *members
	ready   []int32   // entries that may be chosen; at least one
	weights []float64 // of ready, as overrides and slow start scale them; nil if uniform
	uniform bool      // all of ready weigh the same
	mean    float64   // of weights
	alias   alias     // unless uniform
	turns   []int32   // if the algorithm wants them
	in      []uint64  // bit i: entry i is in ready
	share   float64   // of the requests to its group, of this tier and those before it
	alone   bool      // panic: all members are in ready
}

func (t *tier) has(i int32) bool { return t.in[i>>6]&(1<<(i&63)) != 0 }

// ratio is mean weight ÷ weight of candidate i.
func (t *tier) ratio(i int) float64 {
	if t.uniform {
		return 1
	}
	return t.mean / t.weights[i]
}

func (t *tier) entry(i int) *entry { return &t.p.entries[t.ready[i]] }

// sample draws a candidate at random, by weight.
func (t *tier) sample(random func() uint64) int {
	if t.uniform {
		return below(random, len(t.ready))
	}
	return t.alias.draw(random)
}

// redraw bounds how often a candidate is drawn again that is not wanted; then the next one is taken that is.
const redraw = 8

// draw is sample without what was tried, if there is another.
func (t *tier) draw(q query) int {
	i := t.sample(q.random)
	if len(q.tried) == 0 {
		return i
	}
	for range redraw {
		if !q.spent(t.entry(i)) {
			return i
		}
		i = t.sample(q.random)
	}
	for k := range len(t.ready) {
		if j := (i + k) % len(t.ready); !q.spent(t.entry(j)) {
			return j
		}
	}
	return i
}

// another is draw for a candidate that is not a, if there is one that was not tried, else a. There are at least two.
func (t *tier) another(q query, a int) int {
	if t.uniform && len(q.tried) == 0 {
		b := below(q.random, len(t.ready)-1)
		if b >= a {
			b++
		}
		return b
	}
	b := t.draw(q)
	for range redraw {
		if b != a {
			return b
		}
		b = t.draw(q)
	}
	for k := 1; k < len(t.ready); k++ {
		if j := (a + k) % len(t.ready); !q.spent(t.entry(j)) {
			return j
		}
	}
	return a
}

// maxUnwilling bounds the candidates that are looked at for one that is willing.
const maxUnwilling = 64

// willing is a, or if a has said when to come back another candidate that has not, if one is found.
func (t *tier) willing(q query, a int) int {
	if q.now >= t.p.states.paused.Load() || q.now >= t.entry(a).paused.Load() {
		return a
	}
	for range redraw {
		if b := t.draw(q); q.now >= t.entry(b).paused.Load() {
			return b
		}
	}
	for k := 1; k < min(len(t.ready), maxUnwilling); k++ {
		if b := (a + k) % len(t.ready); q.now >= t.entry(b).paused.Load() && !q.spent(t.entry(b)) {
			return b
		}
	}
	return a
}

// alias draws one of n by weight with one random number (Walker, 1977; tables by Vose, 1991).
type alias struct {
	keep  []uint32 // of 2³²: how often column i is i
	other []int32  // and else this
}

func newAlias(weights []float64) alias {
	n := len(weights)
	a := alias{keep: make([]uint32, n), other: make([]int32, n)}
	total := 0.0
	for _, w := range weights {
		total += w
	}
	scaled := make([]float64, n)
	var small, large []int32
	for i, w := range weights {
		if scaled[i] = w * float64(n) / total; scaled[i] < 1 {
			small = append(small, int32(i))
		} else {
			large = append(large, int32(i))
		}
	}
	for len(small) > 0 && len(large) > 0 {
		s, l := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		a.keep[s], a.other[s] = uint32(min(scaled[s]*(1<<32), math.MaxUint32)), l
		if scaled[l] += scaled[s] - 1; scaled[l] < 1 {
			large = large[:len(large)-1]
			small = append(small, l)
		}
	}
	for _, i := range append(small, large...) { // what rounding has left is full
		a.keep[i], a.other[i] = math.MaxUint32, i
	}
	return a
}

func (a *alias) draw(random func() uint64) int {
	r := random()
	i := int(r >> 32 * uint64(len(a.keep)) >> 32)
	if uint32(r) <= a.keep[i] {
		return i
	}
	return int(a.other[i])
}

// below is uniform in [0, n): Lemire's multiplication without rejection, whose bias is n/2^32.
func below(random func() uint64, n int) int { return int(random() >> 32 * uint64(n) >> 32) }

// unit is uniform in [0, 1).
func unit(random func() uint64) float64 { return float64(random()>>11) / (1 << 53) }
