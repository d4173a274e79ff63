package flow

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
}

// Ejections counts those for one reason.
type Ejections struct {
	Why   string // the closed vocabulary of sidecar/balance, or "spared"
	Count uint64
}
