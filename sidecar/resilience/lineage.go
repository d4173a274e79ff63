package resilience

import (
	"sync"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Lineage knows which traces that are being served here are of retries, so that what the application calls meanwhile, as part of one of them, is known to be of a retry as well. The
// application only has to pass its trace context on. The zero value is ready; nothing is looked up while no retry is being served.
type Lineage struct {
	n  atomic.Int64
	mu sync.Mutex
	m  map[flow.TraceID]*ancestor
}

type ancestor struct{ attempt, n int }

// Serve notes of an exchange that has come what it is a retry of, for as long as it is served. It stands inside observe.
func (l *Lineage) Serve(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if x.Head.Attempt < 2 {
			next.Handle(x)
			return
		}
		id := x.Trace.TraceID
		l.mu.Lock()
		if l.m == nil {
			l.m = make(map[flow.TraceID]*ancestor)
		}
		a := l.m[id]
		if a == nil {
			a = &ancestor{}
			l.m[id] = a
		}
		a.attempt = max(a.attempt, x.Head.Attempt)
		a.n++
		l.n.Add(1)
		l.mu.Unlock()
		defer func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.n.Add(-1)
			if a.n--; a.n == 0 {
				delete(l.m, id)
			}
		}()
		next.Handle(x)
	})
}

// Call finds out of an exchange of the own application whether it is part of a retry. It stands inside observe, which has begun or continued its trace.
func (l *Lineage) Call(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if l.n.Load() > 0 && x.Head.Attempt == 0 {
			l.mu.Lock()
			if a := l.m[x.Trace.TraceID]; a != nil {
				x.Head.Attempt = a.attempt
			}
			l.mu.Unlock()
		}
		next.Handle(x)
	})
}
