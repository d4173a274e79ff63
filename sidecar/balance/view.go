package balance

// View is the candidates of one pick: indices into the Picker's entries. There is at least one.
type View struct {
	p    *Picker
	out  uint64 // bit i set: endpoint i may not be chosen; only for i < 64
	left int    // candidates
}

// usable reports whether endpoint i is a candidate. Endpoints beyond the 64th are always candidates: the cap of 10 % is honoured among the
// first 64 then, which keeps a pick free of allocation.
func (v *View) usable(i int) bool { return i >= 64 || v.out&(1<<i) == 0 }

// without takes endpoint i out; it does nothing beyond the 64th.
func (v *View) without(i int) {
	if i < 64 && v.usable(i) {
		v.out |= 1 << i
		v.left--
	}
}

// draw picks a candidate at random, by weight.
func (v *View) draw(now int64, random func() uint64) int {
	p := v.p
	if p.uniform {
		n := below(random, v.left)
		if v.out == 0 {
			return n
		}
		for i := range p.entries {
			if v.usable(i) {
				if n == 0 {
					return i
				}
				n--
			}
		}
	}
	total, last := 0.0, 0
	for i := range p.entries {
		if v.usable(i) {
			total += p.entries[i].share(now)
			last = i
		}
	}
	at := unit(random) * total
	for i := range p.entries {
		if v.usable(i) {
			if at -= p.entries[i].share(now); at < 0 {
				return i
			}
		}
	}
	return last // rounding
}

// below is uniform in [0, n): Lemire's multiplication without rejection, whose bias is n/2^32.
func below(random func() uint64, n int) int { return int(random() >> 32 * uint64(n) >> 32) }

// unit is uniform in [0, 1).
func unit(random func() uint64) float64 { return float64(random()>>11) / (1 << 53) }
