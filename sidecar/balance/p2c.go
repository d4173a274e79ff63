package balance

// p2c is power of two choices (Mitzenmacher, 2001) over a peak-sensitive moving average of the response time: of two candidates drawn by weight
// the one with the lower cost is taken, where
//
//	cost = average × (1 + in flight × mean weight ÷ weight) × (1 + 20 × failing)
//
// The average rises at once to a slower sample and decays towards faster ones with a time constant of 10 s, as it does while nothing is
// sampled; it starts at 30 ms. A failed try never lowers it. "failing" is the moving share of failed tries (0 to 1), so that an endpoint that fails fast
// does not look fast, while one odd failure among many answers costs it little; an answer that means "too much" (429, 503, RESOURCE_EXHAUSTED) counts in
// full. What has no answer yet counts in the average as if it were answered now (cost), and a try that was given up by the time that it had: an endpoint that hangs is slow from the
// moment on at which it should have answered. Such an average is how long was waited in vain, and no answer's time: each answer halves it. The weight divides only what is in flight: were it to divide the whole cost, an endpoint of weight 80 beside two of 100 would get next to nothing.
//
// An endpoint that has said when to come back (Retry-After) is left alone until then, as long as there is another one.
func p2c(t *tier, q query) int32 {
	a := t.draw(q)
	if len(t.ready) > 1 {
		if b := t.another(q, a); t.cost(b, q.now) < (1-noise)*t.cost(a, q.now) {
			a = b
		}
	}
	return t.ready[t.willing(q, a)]
}

// noise is the share by which one cost must be below the other to decide between the two; otherwise the first drawn serves. Response times are
// never equal: without it the slower of two good endpoints would get nothing while little is in flight.
const noise = 0.25

func (t *tier) cost(i int, now int64) float64 {
	return t.p.entries[t.ready[i]].cost(now, t.ratio(i))
}
