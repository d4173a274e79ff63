package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
)

// Destination answers "who is at (network, IP, port)"; looked up on first use by transparent listeners (xDS: on-demand resource).
type Destination struct {
	Network string
	Address netip.AddrPort
	Service string // "" with Known true: pass-through
	Known   bool
	TTL     time.Duration
}

// DefaultDestinationTTL is how long an answer may be kept; NegativeDestinationTTL is for "unknown".
const (
	DefaultDestinationTTL  = 5 * time.Minute
	NegativeDestinationTTL = 5 * time.Second
)

// DestinationName is the xDS name of the question: "NETWORK/IP:PORT".
func DestinationName(network string, address netip.AddrPort) string {
	return network + "/" + address.String()
}

// ParseDestinationName is the inverse of DestinationName.
func ParseDestinationName(name string) (network string, address netip.AddrPort, err error) {
	network, addr, ok := strings.Cut(name, "/")
	if ok {
		address, err = netip.ParseAddrPort(addr)
	}
	if !ok || err != nil {
		return "", netip.AddrPort{}, fmt.Errorf("destination %q: must be NETWORK/IP:PORT", name)
	}
	return network, address, nil
}

// Check refuses what a sidecar could not act on.
func (d Destination) Check() error {
	if err := checkAddress("address", d.Address); err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	if d.TTL <= 0 {
		return fmt.Errorf("destination %s: ttl %s: must be positive", d.Address, d.TTL)
	}
	if !d.Known && d.Service != "" {
		return fmt.Errorf("destination %s: service %q: an unknown destination has none", d.Address, d.Service)
	}
	return nil
}

// ToXDS maps d to its resource. TTL has millisecond resolution on the wire.
func (d Destination) ToXDS() (*tullev1.Destination, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	return &tullev1.Destination{
		Network: d.Network, Address: d.Address.String(), Service: d.Service, Known: d.Known, TtlMillis: d.TTL.Milliseconds(),
	}, nil
}

// DestinationFromXDS is the inverse of ToXDS.
func DestinationFromXDS(x *tullev1.Destination) (Destination, error) {
	addr, err := netip.ParseAddrPort(x.GetAddress())
	if err != nil {
		return Destination{}, fmt.Errorf("destination: address %q: must be ip:port", x.GetAddress())
	}
	d := Destination{
		Network: x.GetNetwork(), Address: addr, Service: x.GetService(), Known: x.GetKnown(),
		TTL: time.Duration(x.GetTtlMillis()) * time.Millisecond,
	}
	return d, d.Check()
}
