package flow

import "time"

// Saturation is how much of what a sidecar may use towards one destination is in use, at one instant.
type Saturation struct {
	Side        Side   // SideServer: towards the own application
	Destination string // service name
	InFlight    int64  // exchanges and TCP connections
	Limit       int64  // how many InFlight may be; -1: no limit
	Open        int64  // upstream connections, idle ones included
	Idle        int64  // of these, in the pool
	// Shed counts what was turned away since the boot, by the limit that was reached.
	ShedRequests    uint64 // MaxRequests
	ShedConnections uint64 // MaxConnections
	ShedPending     uint64 // MaxPending
	ShedAdaptive    uint64 // the limit that adapts itself; server side only
	// Ejected is how many endpoints the sidecar has out by itself; Ejections counts how often it did that since the boot. Client side only.
	Ejected   int64
	Ejections []Ejections
	Out       []Out // the latest of them that are in force, or were until a moment ago
}

// Out is an endpoint that the sidecar has ejected by itself.
type Out struct {
	Endpoint string    // as AttrEndpoint
	Why      string    // as Ejections.Why
	Until    time.Time // of the request that finds out whether it is well again
}

// Ejections counts those for one reason.
type Ejections struct {
	Why   string // the closed vocabulary of sidecar/balance, or "spared"
	Count uint64
}
