package controller

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/controller/brain"
	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
)

const (
	// edgeMemory is how long a service that was called is told beforehand to all instances of its caller.
	edgeMemory = time.Hour
	// maxCalled bounds what is remembered of one caller; beyond it the call that is longest ago makes room.
	maxCalled = 256
	// edgeDelay is how long a call that is new waits for others before sidecars are told: who called knows already, so nobody waits for it.
	edgeDelay = 5 * time.Second
)

// edges is which services were seen to call which: what new instances of a caller, whose connections are redirected, would otherwise have to ask for. Owned by
// the judge's goroutine. It is believed only of reporters that are who they say they are, about their own calls. What does not outlive the process is learnt
// again within seconds, and sidecars name what they need whatever is known here.
type edges struct {
	called map[string]map[string]time.Time // caller, then policy.PortOf of what it called: when last
	pruned time.Time
}

// learn takes a window and reports whether list would differ. callers are the services that are worth remembering.
func (e *edges) learn(w *tullev1.Observed, fleet *brain.Fleet, callers map[string]bool, now time.Time) (changed bool) {
	for _, o := range w.GetEndpoints() {
		r, ok := fleet.Reporters[o.GetReporter()]
		if !ok || o.GetServerSide() || o.GetRequests()+o.GetProbes() == 0 || !callers[r.Service] || o.GetReporterIdentity() == "" || o.GetReporterIdentity() != r.Identity {
			continue
		}
		addr, err := netip.ParseAddrPort(o.GetEndpoint())
		if err != nil {
			continue
		}
		name, ok := fleet.Name(o.GetService(), addr)
		if !ok {
			continue
		}
		if e.called == nil {
			e.called = map[string]map[string]time.Time{}
		}
		of := e.called[r.Service]
		if of == nil {
			of = map[string]time.Time{}
			e.called[r.Service] = of
		}
		if _, known := of[name]; !known {
			changed = true
			if len(of) >= maxCalled {
				oldest := name
				for other, at := range of {
					if oldest == name || at.Before(of[oldest]) {
						oldest = other
					}
				}
				delete(of, oldest)
			}
		}
		of[name] = now
	}
	return changed
}

// forget drops what is too long ago, about once a minute, and reports whether list differs.
func (e *edges) forget(now time.Time) (changed bool) {
	if now.Sub(e.pruned) < time.Minute {
		return false
	}
	e.pruned = now
	for caller, of := range e.called {
		for name, at := range of {
			if now.Sub(at) >= edgeMemory {
				delete(of, name)
				changed = true
			}
		}
		if len(of) == 0 {
			delete(e.called, caller)
		}
	}
	return changed
}

// list is what each caller called, sorted.
func (e *edges) list() map[string][]string {
	out := make(map[string][]string, len(e.called))
	for caller, of := range e.called {
		for name := range of {
			out[caller] = append(out[caller], name)
		}
		slices.SortFunc(out[caller], strings.Compare)
	}
	return out
}
