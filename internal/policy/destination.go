package policy

import (
	"net/netip"
	"time"
)

// Destination answers "who is at (network, IP, port)"; looked up on first use by transparent listeners (xDS: on-demand resource).
type Destination struct {
	Network string
	Address netip.AddrPort
	Service string // "" with Known true: pass-through
	Known   bool
	TTL     time.Duration
}
