// Package discovery says who serves what: the endpoints of every service and the identity each must prove. One file per origin.
package discovery

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Endpoint is one address at which a service is served. An endpoint is listed as long as it is registered, whether or not its sidecar is
// connected to the controller: a controller restart must not empty the mesh.
type Endpoint struct {
	Service   string
	Port      string // name of the service's port; "" for its first
	Namespace string
	Version   string
	Instance  string      // "" for external
	Identity  identity.ID // zero for external
	Protocol  string      // one of policy.Protocols
	Address   netip.AddrPort
	External  bool
	Locality  policy.Locality
	Labels    map[string]string // of the workload
}

// Name is under which name Snapshots have the endpoint's port of its service.
func (e Endpoint) Name() string { return policy.PortOf(e.Service, e.Port) }

// Sort orders endpoints by service, its first port before others by name, then address.
func Sort(endpoints []Endpoint) {
	slices.SortFunc(endpoints, func(a, b Endpoint) int {
		if c := cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Port, b.Port)); c != 0 {
			return c
		}
		return a.Address.Compare(b.Address)
	})
}
