package graph

import (
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
)

// index answers the graph's questions about one registry message. Immutable.
type index struct {
	from      *tullev1.Registry
	services  map[string]*tullev1.RegistryService
	workloads map[string][]*tullev1.RegistryWorkload // by service
	identity  map[string][]string                    // SPIFFE ID → services
	instance  map[string]*tullev1.RegistryWorkload
	address   map[string]*tullev1.RegistryWorkload // by inbound ip:port
	overrides map[endpointID][]*tullev1.RegistryOverride
}

type endpointID struct{ service, address string }

func newIndex(r *tullev1.Registry) *index {
	x := &index{
		from: r, services: map[string]*tullev1.RegistryService{}, workloads: map[string][]*tullev1.RegistryWorkload{}, identity: map[string][]string{},
		instance: map[string]*tullev1.RegistryWorkload{}, address: map[string]*tullev1.RegistryWorkload{}, overrides: map[endpointID][]*tullev1.RegistryOverride{},
	}
	for _, s := range r.GetServices() {
		x.services[s.GetName()] = s
	}
	for _, w := range r.GetWorkloads() {
		x.workloads[w.GetService()] = append(x.workloads[w.GetService()], w)
		if w.GetIdentity() != "" && !slices.Contains(x.identity[w.GetIdentity()], w.GetService()) {
			x.identity[w.GetIdentity()] = append(x.identity[w.GetIdentity()], w.GetService())
		}
		if w.GetInstance() != "" {
			x.instance[w.GetInstance()] = w
		}
		for _, address := range addressesOf(w) {
			x.address[address] = w
		}
	}
	for _, o := range r.GetOverrides() {
		id := endpointID{o.GetService(), o.GetEndpoint()}
		x.overrides[id] = append(x.overrides[id], o)
	}
	return x
}

// addressesOf are the endpoints of a workload, that of its first port first; none of one that only calls.
func addressesOf(w *tullev1.RegistryWorkload) []string {
	if len(w.GetPorts()) == 0 { // the controller is older
		if w.GetAddress() == "" {
			return nil
		}
		return []string{w.GetAddress()}
	}
	out := make([]string, len(w.GetPorts()))
	for i, p := range w.GetPorts() {
		out[i] = p.GetAddress()
	}
	return out
}

// endpointAt is the endpoint of a workload that has the number port, "" when it has none. Reporters that do not say the port mean the first.
func endpointAt(w *tullev1.RegistryWorkload, port string) string {
	for _, p := range w.GetPorts() {
		if port != "" && strings.HasSuffix(p.GetAddress(), ":"+port) {
			return p.GetAddress()
		}
	}
	if port != "" && len(w.GetPorts()) > 1 {
		return ""
	}
	return w.GetAddress()
}

// owns reports whether the identity may speak for the service.
func (x *index) owns(identity, service string) bool {
	return slices.Contains(x.identity[identity], service)
}

// meshed reports whether the service has workloads with sidecars.
func (x *index) meshed(service string) bool { return len(x.workloads[service]) > 0 }

// relayed reports whether a protocol's connections pass as bytes.
func relayed(protocol string) bool {
	p, _ := flow.ParseProtocol(protocol)
	return p.Relayed()
}

func (x *index) kind(service string) NodeKind {
	switch {
	case service == unmeshed:
		return KindUnmeshed
	case service == passthrough && x.services[service] == nil && !x.meshed(service):
		return KindPassthrough
	case x.services[service].GetExternal() || !x.meshed(service) && x.services[service] == nil:
		return KindExternal
	case x.services[service].GetGateway():
		return KindGateway
	case relayed(x.services[service].GetProtocol()):
		return KindTCP
	}
	for _, w := range x.workloads[service] {
		if relayed(w.GetProtocol()) {
			return KindTCP
		}
	}
	return KindService
}

func (x *index) namespace(service string) string {
	if ns := x.services[service].GetNamespace(); ns != "" {
		return ns
	}
	for _, w := range x.workloads[service] {
		return w.GetNamespace()
	}
	return ""
}

// where says what the workloads of a service are a part of, and where they run.
func (x *index) where(service string) (app string, zones, hosts []string) {
	add := func(list []string, s string) []string {
		if s == "" || slices.Contains(list, s) {
			return list
		}
		return append(list, s)
	}
	for _, w := range x.workloads[service] {
		if app == "" {
			app = w.GetApp()
		}
		zones, hosts = add(zones, w.GetZone()), add(hosts, w.GetNode())
	}
	slices.Sort(zones)
	slices.Sort(hosts)
	return app, zones, hosts
}

// override is the decision in force about an endpoint, nil when there is none; an ejection outweighs a weight.
func (x *index) override(service, address string, now time.Time) *tullev1.RegistryOverride {
	var found *tullev1.RegistryOverride
	for _, o := range x.overrides[endpointID{service, address}] {
		if o.GetExpiresUnixNano() != 0 && o.GetExpiresUnixNano() <= now.UnixNano() {
			continue
		}
		if found == nil || o.GetKind() == "eject" {
			found = o
		}
	}
	return found
}

// names lists every service of the registry.
func (x *index) names() []string {
	var out []string
	for s := range x.services {
		out = append(out, s)
	}
	for s := range x.workloads {
		if x.services[s] == nil {
			out = append(out, s)
		}
	}
	return out
}
