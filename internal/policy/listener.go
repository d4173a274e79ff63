package policy

import (
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// ListenerMode says what a listener does with plaintext and mTLS.
type ListenerMode uint8

const (
	// ModeStrict: inbound accepts mTLS only.
	ModeStrict ListenerMode = iota
	// ModePermissive: inbound accepts mTLS and plaintext; plaintext peers have no identity and are shown as unmeshed.
	ModePermissive
)

// Listener is one explicit listening address of a sidecar.
type Listener struct {
	Name     string         // unique in the snapshot: "inbound:8080", "outbound:catalog"
	Side     flow.Side      // SideServer = inbound, SideClient = outbound
	Protocol flow.Protocol  // ProtocolHTTP1 or ProtocolTCP
	Address  netip.AddrPort // where to listen
	Target   netip.AddrPort // inbound: the application's address
	Service  string         // inbound: own service; outbound: destination service
	Mode     ListenerMode   // inbound only
}
