package balance

import (
	"math"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// slowSteps is into how many steps of equal time the growth of a share is cut.
const slowSteps = 64

// slow is the factor of the weight of an endpoint that has been there for age, with slow start s, and when it will be another one; 0: not any more. Endpoints that were
// there when the sidecar first heard of the service are not new: for the fleet they are not.
//
//	max(minimum weight, (age ÷ window) ^ (1 ÷ aggression))
func slow(s policy.SlowStart, age int64) (factor float64, left int64) {
	window := int64(s.Window)
	if age >= window {
		return 1, 0
	}
	step := max(window/slowSteps, 1)
	age = max(age, 0)
	passed := age / step * step
	factor = math.Pow(float64(passed)/float64(window), 1/s.Aggression)
	return max(factor, float64(s.MinWeight)/100), step - (age - passed)
}

// warm notes in the state of e, which may be chosen or is out, since when it has been there, and returns that; 0: from the beginning.
func (e *entry) warm(now int64, out bool) int64 {
	switch {
	case out:
		e.wasOut.Store(true)
	case e.wasOut.Load() && e.wasOut.CompareAndSwap(true, false), e.fresh.Load() && e.fresh.CompareAndSwap(true, false):
		e.since.Store(now)
	}
	return e.since.Load()
}
