package resource

import (
	"fmt"
	"slices"

	"github.com/tulle-mesh/tulle/internal/route"
)

// Names are the host names by which it is called, each once: Hosts, and Host where it is one.
func (s ExternalServiceSpec) Names() []string {
	names := make([]string, 0, len(s.Hosts)+1)
	for _, h := range s.Hosts {
		names = append(names, route.Canonical(h))
	}
	if h := route.Canonical(s.Host); h != "*" && route.CheckHost(h) == nil && !slices.Contains(names, h) {
		names = append(names, h)
	}
	return names
}

func (s ExternalServiceSpec) checkHosts() error {
	for i, h := range s.Hosts {
		if h == "*" || route.CheckHost(route.Canonical(h)) != nil {
			return fmt.Errorf("spec.hosts[%d]: %q is no host name; write one such as api.example.com, or *.example.com for all below it", i, h)
		}
		if slices.ContainsFunc(s.Hosts[:i], func(o string) bool { return route.Canonical(o) == route.Canonical(h) }) {
			return fmt.Errorf("spec.hosts[%d]: %s is listed twice; remove one", i, h)
		}
	}
	return nil
}
