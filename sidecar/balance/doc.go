// Package balance chooses the endpoint of a try.
//
// A Picker is built for one service from the endpoints of one Snapshot and never changes; what is learnt about addresses lives in States, which
// the Pickers of successive Snapshots share. Pick is safe for any number of goroutines, waits for no lock and allocates nothing. Step is the
// choose step of the outbound path. A new algorithm is one file and one line in Algorithms.
//
// What decides, in this order:
//
//  1. The subset that the route has named, by labels (subset.go).
//  2. Ejection (situation.go). An endpoint under an unexpired eject override gets Override.Fraction of its share, each such try marked as a probe. The local
//     reflex (ejection.go) does the same for an endpoint that fails, or is slow, while others are not, for at most 30 s, then lets one probe through.
//     Both together never take out more than max(1, 10 %) of the endpoints of the service: what is over the cap is ignored (fail open), oldest decision first.
//     Where fewer than policy.Balancer.PanicThreshold of a subset's priority are left, all of it is used, and the last one always is.
//  3. Priority (locality.go): endpoints of the next one serve what those of the first cannot.
//  4. What was tried by the same exchange is avoided, while there is something else.
//  5. The algorithm of table.go between the endpoints that are left, by weights that overrides and slow start (slowstart.go) scale. Algorithms with a table
//     choose by the key of the exchange (affinity.go, keyed.go).
//  6. Exploration. Of algorithms that starve, one pick in 33 ignores the costs. A balancer that starves a bad endpoint also starves the evidence against it, and
//     would not notice that it has healed; see docs/adr/0010-explore-three-percent.md.
//
// Who may be chosen changes seldom, and is worked out when it does: a situation, which picks only read (docs/adr/0026-balancing-on-situations.md).
package balance
