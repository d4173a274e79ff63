// Package shop is the demo shop: small real services in four tiers that know nothing of the mesh. Most speak HTTP/1.1, two gRPC, one lines over TCP. Each runs as its own process and
// reaches its dependencies through whatever addresses it is told (its sidecar's outbound listeners in the demo). Services forward
// traceparent as instrumented applications do, except recommendations, which drops it on purpose.
//
// How to hold it: Topology lists who exists and who calls whom; Run serves one instance until its context ends. Every instance has a
// control port outside the mesh where a Fault can be set and lifted (Control is the client of it).
package shop
