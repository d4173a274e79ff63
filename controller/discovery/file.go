package discovery

import (
	"fmt"
	"net/netip"

	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// FromSet lists the endpoints that configuration registers: every port of a Workload, and every address of an ExternalService.
func FromSet(set *resource.Set, trustDomain string) ([]Endpoint, error) {
	var out []Endpoint
	for _, w := range set.Workloads {
		id, err := identity.Workload(trustDomain, w.Metadata.Namespace, w.Spec.ServiceAccount)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", w.Key(), err)
		}
		for i, p := range w.Spec.Ports {
			addr, err := netip.ParseAddrPort(p.Listen)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.Key(), err)
			}
			port := p.Name
			if i == 0 { // whatever its name is
				port = ""
			}
			out = append(out, Endpoint{
				Service: w.Spec.Service, Port: port, Namespace: w.Metadata.Namespace, Version: w.Spec.Version, Instance: w.Metadata.Name,
				Identity: id, Protocol: p.Protocol, Address: addr, Locality: w.Spec.Locality.Policy(), Labels: w.Metadata.Labels,
			})
		}
	}
	for _, e := range set.External {
		for _, a := range e.Spec.Addresses {
			addr, err := netip.ParseAddrPort(a)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", e.Key(), err)
			}
			out = append(out, Endpoint{
				Service: e.Metadata.Name, Namespace: e.Metadata.Namespace, Protocol: e.Spec.Protocol, Address: addr, External: true,
			})
		}
	}
	Sort(out)
	return out, nil
}
