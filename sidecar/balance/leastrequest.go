package balance

import "math"

// leastRequest compares candidates drawn by weight, policy.Balancer.Choices of them, by what this sidecar has in flight with them. Where all weigh the same
// the least loaded serves, and of equals the first drawn. Where weights differ one of the candidates is drawn in proportion to
//
//	1 ÷ (in flight + 1) ^ bias
//
// so that together with the first draw the share of an endpoint is near weight ÷ (in flight + 1)^bias, as Envoy's is (active_request_bias): to take the least
// loaded there would give a light endpoint the share of a heavy one. An endpoint that has said when to come back is left alone as by p2c.
func leastRequest(t *tier, q query) int32 {
	a := t.draw(q)
	if len(t.ready) == 1 {
		return t.ready[a]
	}
	b := &t.p.balancer
	if t.uniform {
		least := t.inFlight(a)
		for range b.Choices - 1 {
			c := t.another(q, a)
			if n := t.inFlight(c); n < least {
				a, least = c, n
			}
		}
		return t.ready[t.willing(q, a)]
	}
	bias := max(b.RequestBias, 0)
	sum := room(t.inFlight(a), bias)
	for range b.Choices - 1 {
		c := t.draw(q) // also a again: without it the shares would not be the weights when nothing is in flight
		w := room(t.inFlight(c), bias)
		if sum += w; unit(q.random)*sum < w { // reservoir sampling: each with its share of the sum
			a = c
		}
	}
	return t.ready[t.willing(q, a)]
}

func room(inFlight int64, bias float64) float64 {
	if bias == 1 {
		return 1 / float64(inFlight+1)
	}
	return math.Pow(float64(inFlight+1), -bias)
}

func (t *tier) inFlight(i int) int64 { return t.p.entries[t.ready[i]].inFlight.Load() }
