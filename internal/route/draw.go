package route

import "math"

// share is a backend's part in a draw.
type share struct {
	*Backend
	seed uint64
}

// shares are the backends that have a weight.
func shares(backends []Backend) (out []share) {
	seen := map[[2]string]uint64{}
	for i := range backends {
		b := &backends[i]
		key := [2]string{b.Service, b.Subset}
		n := seen[key]
		if seen[key] = n + 1; b.Weight == 0 {
			continue
		}
		seed := uint64(14695981039346656037) // FNV-1a: the same in every process
		for _, s := range key {
			for k := range len(s) {
				seed = (seed ^ uint64(s[k])) * 1099511628211
			}
			seed *= 1099511628211 // a zero byte ends it
		}
		out = append(out, share{Backend: b, seed: mixed(seed + n)})
	}
	return out
}

// choose draws a backend; nil: there is none. It is a race of exponential clocks, each as fast as its backend's weight (weighted rendezvous hashing): the chance of each is its weight by
// the sum exactly, and a clock does not depend on the others, so that a weight that changes moves no request between backends whose weights did not.
func choose(of []share, draw uint64) *Backend {
	switch len(of) {
	case 0:
		return nil
	case 1:
		return of[0].Backend
	}
	var best *Backend
	first := math.Inf(1)
	for i := range of {
		u := (float64(mixed(draw^of[i].seed)>>11) + 0.5) / (1 << 53) // inside (0, 1)
		if at := -math.Log(u) / float64(of[i].Weight); at < first {
			first, best = at, of[i].Backend
		}
	}
	return best
}

// mixed is the finalizer of SplitMix64: a bijection each of whose output bits depends on all input bits.
func mixed(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
