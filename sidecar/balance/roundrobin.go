package balance

import "math"

// roundRobin takes endpoints in turn. The turns of a tier are laid out beforehand: each endpoint as often as its weight says, its turns as far apart as
// they can be (earliest deadline first, with the k-th turn of an endpoint due at (k + ½) ÷ its turns). A pick is one addition to a shared counter, without a
// lock. Sidecars begin at different places, so that a fleet that starts at once does not call one endpoint first.
func roundRobin(t *tier, q query) int32 {
	at := t.members.turn.Add(1)
	n := uint64(len(t.turns))
	first := t.turns[at%n]
	if len(q.tried) > 0 {
		for k := range n {
			if i := t.turns[(at+k)%n]; !q.spent(&t.p.entries[i]) {
				return i
			}
		}
	}
	return first
}

// maxTurns bounds the turns that are laid out. Weights that would need more are rounded, each to one turn at least.
const maxTurns = 1 << 16

// turns lays out the turns of ready by weights, which are above 0.
func turns(ready []int32, weights []float64, uniform bool) []int32 {
	if uniform {
		return ready
	}
	// Whole weights become their numbers divided by what they have in common.
	counts, total := make([]int, len(weights)), 0
	common := 0
	for i, w := range weights {
		if w != math.Trunc(w) {
			common = -1
			break
		}
		common = gcd(common, int(w))
		counts[i] = int(w)
	}
	if common > 0 {
		for i := range counts {
			counts[i] /= common
			total += counts[i]
		}
	}
	if common <= 0 || total > maxTurns {
		sum := 0.0
		for _, w := range weights {
			sum += w
		}
		total = 0
		scale := float64(min(maxTurns, 128*len(weights))) / sum
		for i, w := range weights {
			counts[i] = max(1, int(math.Round(w*scale)))
			total += counts[i]
		}
	}
	// Sorting by when each turn is due: by counting, for due times are spread over [0, total).
	due := func(i, k int) int { return int((float64(k) + 0.5) / float64(counts[i]) * float64(total)) }
	starts := make([]int32, total+1)
	for i, c := range counts {
		for k := range c {
			starts[due(i, k)+1]++
		}
	}
	for i := range total {
		starts[i+1] += starts[i]
	}
	out := make([]int32, total)
	for i, c := range counts {
		for k := range c {
			at := &starts[due(i, k)]
			out[*at] = ready[i]
			*at++
		}
	}
	return out
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
