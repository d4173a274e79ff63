package policy

import (
	"net/netip"
	"time"
)

// DefaultWeight is an endpoint's weight when none is configured.
const DefaultWeight = 100

// Endpoint is one address that serves a service, with what the controller has decided about it.
type Endpoint struct {
	Address  netip.AddrPort
	Version  string
	Instance string
	Weight   uint32 // 1 to 128; default 100 (xDS load_balancing_weight)
	Override *Override
}

// OverrideKind is what an Override does.
type OverrideKind uint8

const (
	// OverrideEject leaves half-open traffic only: Fraction (default 1 %) of what the endpoint would get, each marked as a probe.
	OverrideEject OverrideKind = iota + 1
	// OverrideWeight scales the endpoint's weight by Fraction.
	OverrideWeight
)

// Override is a decision of the controller's brain about one endpoint. The sidecar enforces Expires by its own clock: an override that is
// not renewed ends by itself (fail open).
type Override struct {
	ID       string
	Kind     OverrideKind
	Fraction float64 // 0 < f ≤ 1
	Reason   string
	Issued   time.Time
	Expires  time.Time
}
