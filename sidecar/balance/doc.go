// Package balance chooses the endpoint of a try.
//
// A Picker is built for one service from the endpoints of one Snapshot and never changes; what is learnt about addresses lives in States, which
// the Pickers of successive Snapshots share. Pick is safe for any number of goroutines, takes no lock and allocates nothing. Step is the
// choose step of the outbound path. A new algorithm is one file and one line in Algorithms.
//
// Three things decide, in this order, on one immutable view of the endpoints:
//
//  1. Ejection. An endpoint under an unexpired eject override gets Override.Fraction of its share, each such try marked as a probe. The local
//     reflex does the same for an endpoint that could not be reached five times in a row, for at most 30 s, then lets one probe through.
//     Both together never take out more than max(1, 10 %) of the endpoints, and never the last one: what is over the cap is ignored (fail
//     open), oldest decision first.
//  2. Exploration. One pick in 33 ignores the costs. A balancer that starves a bad endpoint also starves the evidence against it, and
//     would not notice that it has healed; see docs/adr/0010-explore-three-percent.md.
//  3. The algorithm of table.go between the endpoints that are left.
package balance
