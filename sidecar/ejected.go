package sidecar

import (
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/balance"
)

// maxEjections is how many of the latest ejections are remembered.
const maxEjections = 100

// ejections are the latest that the sidecar has made by itself. Safe for concurrent use.
type ejections struct {
	mu   sync.Mutex
	list []Ejection // the oldest first
}

// Ejection is one that the sidecar has made by itself, for at most 30 s.
type Ejection struct {
	Service  string
	Endpoint string
	Why      string // unreachable, errors, failing, slow
	Evidence string // for people
	At       time.Time
	Until    time.Time // of the request that finds out whether it is well again
	Times    int       // in a row
}

func ejection(service string, e balance.Ejection) Ejection {
	return Ejection{Service: service, Endpoint: e.Endpoint.String(), Why: e.Why.String(), Evidence: e.Evidence, At: e.At, Until: e.Until, Times: e.Times}
}

// ejected writes down that an endpoint was ejected.
func (s *Sidecar) ejected(service string, e balance.Ejection) {
	s.cfg.Log.Warn("endpoint ejected by this sidecar", "service", service, "endpoint", e.Endpoint, "why", e.Why.String(), "evidence", e.Evidence, "until", e.Until, "times", e.Times)
	l := &s.ejections
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.list) >= maxEjections {
		l.list = append(l.list[:0], l.list[1:]...)
	}
	l.list = append(l.list, ejection(service, e))
}

// justNow is for how long an ejection whose term is over is told of: exports are a second apart, and it should not fall between two.
const justNow = 3 * time.Second

// of are those of a service that are in force at now, or were until a moment ago: of each endpoint the latest.
func (l *ejections) of(service string, now time.Time) (out []flow.Out) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.list) - 1; i >= 0; i-- {
		e := &l.list[i]
		if e.Service == service && now.Before(e.Until.Add(justNow)) && !slices.ContainsFunc(out, func(o flow.Out) bool { return o.Endpoint == e.Endpoint }) {
			out = append(out, flow.Out{Endpoint: e.Endpoint, Why: e.Why, Until: e.Until})
		}
	}
	return out
}

// Ejections are the latest that the sidecar has made by itself, the oldest first.
func (s *Sidecar) Ejections() []Ejection {
	s.ejections.mu.Lock()
	defer s.ejections.mu.Unlock()
	return append([]Ejection(nil), s.ejections.list...)
}

// Endpoint is what the sidecar has learnt of one endpoint.
type Endpoint struct {
	Service, Endpoint string
	AverageMS         float64   // what an answer takes
	Failing           float64   // moving share of failed tries, 0 to 1
	InFlight          int64     //
	Override          bool      // the controller has ejected it; the cap may spare it
	Ejection          *Ejection `json:",omitempty"` // the sidecar has
	PausedUntil       time.Time `json:",omitzero"`  // it has asked to be left alone
	Priority          uint32
}

// Endpoints describes those of all services of the Snapshot in force, and how the sidecar sees them.
func (s *Sidecar) Endpoints() []Endpoint {
	list := s.targets.Load()
	if list == nil {
		return nil
	}
	now := time.Now()
	var out []Endpoint
	for _, t := range *list {
		p, ok := t.d.Picker.(*balance.Picker)
		if t.side != flow.SideClient || !ok {
			continue
		}
		for _, e := range p.Endpoints(now) {
			d := Endpoint{
				Service: t.d.Name, Endpoint: e.Address.String(), AverageMS: float64(e.Average.Microseconds()) / 1000, Failing: e.Failing, InFlight: e.InFlight,
				Override: e.Ejected, PausedUntil: e.Paused, Priority: e.Priority,
			}
			if e.Reflex.Why != 0 {
				r := ejection(t.d.Name, e.Reflex)
				d.Ejection = &r
			}
			out = append(out, d)
		}
	}
	return out
}
