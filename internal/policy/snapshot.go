// Package policy holds the Snapshot: all that one sidecar has been told. One file per resource kind carries the type, its check,
// and its mapping to and from xDS (https://www.envoyproxy.io/docs/envoy/latest/api-docs/xds_protocol); table.go lists the kinds, and a
// round-trip property test walks it. Snapshots are immutable once published: readers share them without locks.
package policy

import (
	"fmt"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
)

// Snapshot is everything a sidecar acts on, at one revision. An exchange takes the current Snapshot once and is judged by it to its end.
type Snapshot struct {
	Revision  string // opaque, changes with every change of content; stamped on Records
	Workload  Workload
	Telemetry Telemetry             // xDS: part of Policy
	Listeners []Listener            // xDS: Listener; sorted by name
	Services  map[string]Service    // xDS: Cluster, by service name
	Endpoints map[string][]Endpoint // xDS: ClusterLoadAssignment, by service name; sorted by address
	// Routes are the rules for requests to a service, by its name, in the order in which they were written; those of none go to the service itself. A service without
	// rules is not there.
	Routes map[string][]route.Rule // xDS: RouteConfiguration

	services map[string]*Service // of which resources Services were read; nil: of none
	routed   map[string]Routed   // of Route
}

// Same reports whether s and o have the service name, its endpoints included, from the same resources, so that nothing about it is different but perhaps its rules.
// It compares no content. Rules of one resource are one slice in every Snapshot.
func (s *Snapshot) Same(o *Snapshot, name string) bool {
	read := s.services[name]
	if read == nil || read != o.services[name] {
		return false
	}
	a, b := s.Endpoints[name], o.Endpoints[name]
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// Check refuses a Snapshot that a sidecar could not act on as a whole: each part by itself, then what they say about each other.
func (s *Snapshot) Check() error {
	if err := s.Workload.Check(); err != nil {
		return err
	}
	if err := s.Telemetry.Check(); err != nil {
		return fmt.Errorf("workload %q: telemetry: %w", s.Workload.Instance, err)
	}
	for _, svc := range s.Services {
		if err := svc.WithDefaults().Check(); err != nil {
			return err
		}
	}
	for name, endpoints := range s.Endpoints {
		for _, e := range endpoints {
			if err := e.WithDefaults().Check(); err != nil {
				return fmt.Errorf("service %q: %w", name, err)
			}
		}
		if err := checkPlacements(endpoints); err != nil {
			return fmt.Errorf("service %q: %w", name, err)
		}
	}
	for name, rules := range s.Routes {
		if _, ok := s.written(name); ok {
			continue
		}
		if err := checkRules(name, rules); err != nil {
			return err
		}
	}
	for _, l := range s.Listeners {
		if err := l.Check(); err != nil {
			return err
		}
	}
	return s.checkWhole()
}

// checkWhole refuses parts that are at odds with each other. Each was checked by itself.
func (s *Snapshot) checkWhole() error {
	for name, svc := range s.Services {
		if name != svc.Name {
			return fmt.Errorf("service %q: is filed under %q; the names must agree", svc.Name, name)
		}
	}
	for name := range s.Endpoints {
		if _, ok := s.Services[name]; !ok {
			return fmt.Errorf("endpoints of %q: no such service in this snapshot", name)
		}
		if svc := s.Services[name]; svc.Via != "" && !svc.MTLS && len(s.Endpoints[name]) > 0 {
			return fmt.Errorf("endpoints of %q: it is called by way of %s, whose identities are not known; remove them", name, svc.Via)
		}
	}
	if err := s.checkRoutes(); err != nil {
		return err
	}
	names, addresses := make(map[string]bool, len(s.Listeners)), make(map[string]string, len(s.Listeners))
	for _, l := range s.Listeners {
		if names[l.Name] {
			return fmt.Errorf("listener %q: the name is used twice", l.Name)
		}
		names[l.Name] = true
		if other, ok := addresses[l.At()]; ok {
			return fmt.Errorf("listener %q: address %s is already taken by listener %q; give one of them another", l.Name, l.At(), other)
		}
		addresses[l.At()] = l.Name
		if l.Edge != nil {
			for i := range l.Edge.Hosts {
				for _, to := range l.Edge.Hosts[i].targets() {
					if _, ok := s.Services[to]; !ok {
						return fmt.Errorf("listener %q: service %q of host %s is not in this snapshot", l.Name, to, l.Edge.Hosts[i].Hosts[0])
					}
				}
			}
		}
		if _, ok := s.Services[l.Service]; !ok && l.Side == flow.SideClient && l.Interception == nil && l.Proxy == nil {
			return fmt.Errorf("listener %q: service %q is not in this snapshot", l.Name, l.Service)
		}
	}
	return nil
}
