// Package balance chooses the endpoint of a try.
//
// A Set belongs to one destination of one sidecar and outlives Snapshots: Update gives it the endpoints of a new Snapshot, and what was
// learnt about an address that stays is kept. Pick is safe for any number of goroutines, takes no lock on its way and allocates nothing.
//
// Three things decide, in this order, on one immutable view of the endpoints:
//
//  1. Ejection. An endpoint under an unexpired eject override gets Override.Fraction of its share, each such try marked as a probe. The local
//     reflex does the same for an endpoint that could not be reached five times in a row, for at most 30 s, then lets one probe through.
//     Both together never take out more than max(1, 10 %) of the endpoints, and never the last one: what is over the cap is ignored (fail
//     open), oldest decision first.
//  2. Exploration. One pick in fifty ignores the costs. A balancer that starves a bad endpoint also starves the evidence against it, and
//     would not notice that it has healed; see docs/adr/0010-explore-two-percent.md.
//  3. The algorithm of table.go between the endpoints that are left.
package balance
