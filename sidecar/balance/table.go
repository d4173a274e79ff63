package balance

import (
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Algorithm is one way to choose.
type Algorithm struct {
	// choose returns the entry that serves q, one of t.ready, of which there is at least one. It runs on any number of goroutines, blocks nobody and
	// allocates nothing; where it can it leaves out what q.spent names.
	choose func(t *tier, q query) int32
	// starves: a candidate may get nothing for long, so that nobody would learn that it has healed. One pick in exploreOneIn is made at random.
	starves bool
	// table is set for algorithms that choose by key: it spreads the keys over the members of a tier. choose is then for requests without one.
	table func(b policy.Balancer, keys []string, weights []float64) table
	// schedule: choose wants tier.turns.
	schedule bool
}

// Algorithms by the name that a policy uses.
var Algorithms = map[string]Algorithm{
	policy.BalanceP2C:          {choose: p2c, starves: true},
	policy.BalanceLeastRequest: {choose: leastRequest},
	policy.BalanceRoundRobin:   {choose: roundRobin, schedule: true},
	policy.BalanceRandom:       {choose: random},
	policy.BalanceRingHash:     {choose: random, table: newRing},
	policy.BalanceMaglev:       {choose: random, table: newMaglev},
}
