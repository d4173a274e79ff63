// Package discovery says who serves what: the endpoints of every service and the identity each must prove. One file per origin.
package discovery

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// Endpoint is one address at which a service is served. An endpoint is listed as long as it is registered, whether or not its sidecar is
// connected to the controller: a controller restart must not empty the mesh.
type Endpoint struct {
	Service   string
	Namespace string
	Version   string
	Instance  string      // "" for external
	Identity  identity.ID // zero for external
	Protocol  string      // one of policy.Protocols
	Address   netip.AddrPort
	External  bool
}

// Sort orders endpoints by service, then address.
func Sort(endpoints []Endpoint) {
	slices.SortFunc(endpoints, func(a, b Endpoint) int {
		if c := strings.Compare(a.Service, b.Service); c != 0 {
			return c
		}
		return a.Address.Compare(b.Address)
	})
}
