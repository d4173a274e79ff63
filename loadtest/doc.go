// Package loadtest is the open-loop load generator: requests leave when the plan says so, whether or not earlier ones have been answered, so
// that a slow service meets the load that real customers would bring. A Runner follows a Wave, keeps a bounded number of requests in
// flight, and counts what it could not send instead of waiting.
//
// How to hold it: fill a Runner, call Run until its context ends, read Totals at any time. Under testing/synctest with a Do that only
// sleeps, the whole plan runs in virtual time. The shop's requests and its scripted faults are in loadtest/shop.
package loadtest
