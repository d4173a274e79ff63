package balance

import "math"

// P2C is power of two choices (Mitzenmacher, 2001) over a peak-sensitive moving average of the response time: of two random candidates the
// one with the lower cost is taken, where
//
//	cost = average × (in flight + 1) × (1 + 20 × failing) ÷ weight
//
// The average rises at once to a slower sample and decays towards faster ones with a time constant of 10 s, as it does while nothing is
// sampled; it starts at 30 ms. "failing" is the moving share of failed tries (0 to 1), so that an endpoint that fails fast does not look fast.
func P2C(v View, now int64, random func() uint64) int {
	if v.left == 1 {
		return v.at(0)
	}
	r := random()
	i := int(r >> 32 * uint64(v.left) >> 32)
	j := int(r & math.MaxUint32 * uint64(v.left-1) >> 32)
	if j >= i {
		j++
	}
	a, b := v.at(i), v.at(j)
	if v.snap.entries[b].cost(now) < v.snap.entries[a].cost(now) {
		return b
	}
	return a
}

// Random is uniform, whatever the weights: the yardstick for the others.
func Random(v View, _ int64, random func() uint64) int { return v.random(random) }
