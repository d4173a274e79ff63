// Package brain judges the fleet's evidence. Each advisor is one file and one line of table.go; it turns sealed windows of observations into
// Overrides with the reason attached, and into Events that explain every decision in plain words.
//
// An advisor is a deterministic function of the sequence of its Inputs: it reads no clock, does no I/O, takes no lock. Feed it each window
// once, in order, and also now and then without one, so that what is bound to time happens. Not safe for concurrent use.
package brain

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Fleet is who exists: only registered endpoints are judged, and only registered reporters are believed.
type Fleet struct {
	Services  map[string]Service  // by policy.PortOf: each port of a service is judged by itself
	Ports     map[string][]string // by service: the names in Services of its further ports
	Reporters map[string]Reporter // by instance
	Revision  string              // policy revision in force, stamped on events
}

// Service is a service and its registered endpoints.
type Service struct {
	Endpoints map[netip.AddrPort]string // address -> instance, "" for external
	Eject     bool                      // ejection is enabled
}

// Reporter is a workload whose sidecar may report.
type Reporter struct {
	Service   string
	Identity  string           // SPIFFE ID its reports must be stamped with
	Addresses []netip.AddrPort // its own endpoints; none for a pure client
}

// Name is the name in Services of the port of service of which addr is an endpoint.
func (f *Fleet) Name(service string, addr netip.AddrPort) (name string, ok bool) {
	if _, ok := f.Services[service].Endpoints[addr]; ok {
		return service, true
	}
	for _, name := range f.Ports[service] {
		if _, ok := f.Services[name].Endpoints[addr]; ok {
			return name, true
		}
	}
	return "", false
}

// Input is one step.
type Input struct {
	Window *tullev1.Observed // nil when only time has passed
	Fleet  *Fleet
	Now    time.Time
}

// Override is a decision about one endpoint.
type Override struct {
	Service  string // without a port
	Endpoint netip.AddrPort
	policy.Override
}

// Advice is all that an advisor wants in force now, sorted by service and endpoint, and what it has newly decided.
type Advice struct {
	Overrides []Override
	Events    []*tullev1.Event // Id is left to who sends them
}

// Advisor is one way to judge.
type Advisor interface {
	Advise(in Input) Advice
}

// Brain asks every advisor of the table.
type Brain struct{ advisors []Advisor }

// New makes a Brain with every advisor in its default settings.
func New() *Brain {
	b := &Brain{}
	for _, a := range Advisors {
		b.advisors = append(b.advisors, a.New())
	}
	return b
}

// Advise joins the advice of all; of two overrides for one endpoint the earlier advisor's counts.
func (b *Brain) Advise(in Input) Advice {
	var out Advice
	taken := map[netip.AddrPort]bool{}
	for _, a := range b.advisors {
		advice := a.Advise(in)
		out.Events = append(out.Events, advice.Events...)
		for _, o := range advice.Overrides {
			if !taken[o.Endpoint] {
				taken[o.Endpoint] = true
				out.Overrides = append(out.Overrides, o)
			}
		}
	}
	sortOverrides(out.Overrides)
	return out
}

func sortOverrides(os []Override) {
	slices.SortFunc(os, func(a, b Override) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), a.Endpoint.Compare(b.Endpoint))
	})
}
