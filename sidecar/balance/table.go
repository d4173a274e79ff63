package balance

// Algorithm chooses between candidates that may be used. It is a pure function of its inputs.
type Algorithm func(v View, now int64, random func() uint64) int

// Default is used when a policy names none.
const Default = "p2c-ewma"

// Algorithms by the name that a policy uses.
var Algorithms = map[string]Algorithm{
	"p2c-ewma": P2C,
	"random":   Random,
}

// View is the candidates of one pick: indices into the endpoints of the Set's snapshot. There is at least one.
type View struct {
	snap *snapshot
	out  uint64 // bit i set: endpoint i may not be chosen; only for i < 64
	left int    // candidates
}

// usable reports whether endpoint i is a candidate. Endpoints beyond the 64th are always candidates: the cap of 10 % is honoured among the
// first 64 then, which keeps a pick free of allocation.
func (v *View) usable(i int) bool { return i >= 64 || v.out&(1<<i) == 0 }

// at returns the n-th candidate, 0 ≤ n < left.
func (v *View) at(n int) int {
	if v.out == 0 {
		return n
	}
	for i := range v.snap.entries {
		if v.usable(i) {
			if n == 0 {
				return i
			}
			n--
		}
	}
	return 0
}

func (v *View) random(random func() uint64) int { return v.at(below(random, v.left)) }

// below is uniform in [0, n): Lemire's multiplication without rejection, whose bias is n/2^32.
func below(random func() uint64, n int) int { return int(random() >> 32 * uint64(n) >> 32) }
