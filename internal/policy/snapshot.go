// Package policy holds the Snapshot: all that one sidecar has been told. One file per resource kind carries the type, its check,
// and its mapping to and from xDS (https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol); table.go lists the kinds, and a
// round-trip property test walks it. Snapshots are immutable once published: readers share them without locks.
package policy

// Snapshot is everything a sidecar acts on, at one revision. An exchange takes the current Snapshot once and is judged by it to its end.
type Snapshot struct {
	Revision  string // opaque, changes with every change of content; stamped on Records
	Workload  Workload
	Listeners []Listener            // xDS: Listener; sorted by name
	Services  map[string]Service    // xDS: Cluster, by service name
	Endpoints map[string][]Endpoint // xDS: ClusterLoadAssignment, by service name; sorted by address
}
