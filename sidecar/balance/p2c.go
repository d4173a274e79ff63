package balance

// P2C is power of two choices (Mitzenmacher, 2001) over a peak-sensitive moving average of the response time: of two candidates drawn by weight
// the one with the lower cost is taken, where
//
//	cost = average × (1 + in flight × mean weight ÷ weight) × (1 + 20 × failing)
//
// The average rises at once to a slower sample and decays towards faster ones with a time constant of 10 s, as it does while nothing is
// sampled; it starts at 30 ms. "failing" is the moving share of failed tries (0 to 1), so that an endpoint that fails fast does not look fast,
// while one odd failure among many answers costs it little. The weight divides only what is in flight: were it to divide the whole cost,
// an endpoint of weight 80 beside two of 100 would get next to nothing.
func P2C(v View, now int64, random func() uint64) int {
	a := v.draw(now, random)
	if v.left == 1 {
		return a
	}
	v.without(a)
	b := v.draw(now, random)
	if v.cost(b, now) < (1-noise)*v.cost(a, now) {
		return b
	}
	return a
}

// noise is the share by which one cost must be below the other to decide between the two; otherwise the first drawn serves. Response times are
// never equal: without it the slower of two good endpoints would get nothing while little is in flight.
const noise = 0.25

func (v *View) cost(i int, now int64) float64 {
	e := &v.p.entries[i]
	ratio := 1.0
	if !v.p.uniform {
		ratio = v.p.total / float64(len(v.p.entries)) / e.share(now)
	}
	return e.cost(now, ratio)
}

// Random draws by weight and looks at nothing else: the yardstick for the others.
func Random(v View, now int64, random func() uint64) int { return v.draw(now, random) }
