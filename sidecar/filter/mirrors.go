package filter

import (
	"cmp"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

const (
	// maxMirrors is how many copies a sidecar sends at a time; what comes above that is not copied, and counted.
	maxMirrors = 128
	// mirrorHead is what of the room is taken for a copy besides its body.
	mirrorHead = 8 << 10
)

// mirrors sends copies of a request to other services, each as an exchange of its own that nobody waits for. One without a body is sent at once. One with a body is copied when the
// original has come to its end, if its body was kept whole: so the copy costs the original no wait, and is never half of it.
func (f *Filters) mirrors(x *exchange.Exchange) bool {
	copier, ok := x.Downstream.(exchange.Copier)
	if !ok || x.Head.Mirror {
		return true
	}
	var to []*route.Mirror
	for i := range x.Decision.Action.Mirrors {
		if m := &x.Decision.Action.Mirrors[i]; drawn(m.PPM) {
			to = append(to, m)
		}
	}
	if len(to) == 0 {
		return true
	}
	r, ok := copier.CopyHead(x)
	switch {
	case !ok:
	case r.Bare:
		for _, m := range to {
			f.mirror(x, m, r, nil)
		}
	default:
		x.After = func(x *exchange.Exchange) {
			body, whole := copier.CopyBody(x)
			if !whole {
				x.Binding.Room.Reached(exchange.LimitMirrorBody)
				return
			}
			for _, m := range to {
				f.mirror(x, m, r, body)
			}
		}
	}
	return true
}

// mirror sends one copy; r and body are not changed.
func (f *Filters) mirror(x *exchange.Exchange, m *route.Mirror, r *exchange.Request, body []byte) {
	d := x.Binding.Destinations[m.Service]
	if d == nil {
		return
	}
	room, size := x.Binding.Room, mirrorHead+len(body)
	if !room.TakeSpare(size) {
		room.Reached(exchange.LimitMirrors)
		return
	}
	own := *r
	own.Authority = cmp.Or(x.Authority, d.Rewrites(), strings.Clone(x.Head.Authority))
	y := errandOf(x, d, &own, exchange.NewErrand(own, body, -1))
	y.Decision = route.Decision{Service: m.Service, Subset: m.Subset, Route: x.Decision.Route}
	y.Head.Mirror = true
	if !f.copies.run(y, func() {
		f.errand.Handle(y)
		room.Give(size)
	}) {
		room.Give(size)
		room.Reached(exchange.LimitMirrors)
	}
}

// errandOf makes an exchange that the sidecar sends itself, because of x, to d: r, which e has. It shares nothing with x that changes. It is tried once: of its own accord nobody waits for it.
func errandOf(x *exchange.Exchange, d *exchange.Destination, r *exchange.Request, e *exchange.Errand) *exchange.Exchange {
	own := *d
	own.Retry.Attempts = 1
	y := &exchange.Exchange{
		Kind: flow.KindExchange, Side: flow.SideClient, Protocol: x.Protocol, Peer: x.Peer, Binding: x.Binding, Start: time.Now(), Downstream: e.Caller(),
	}
	y.Reset()
	y.Legs.HeadParsed = 0
	y.Destination = &own
	path, _, _ := strings.Cut(r.Target, "?")
	y.Head = exchange.Head{
		Method: r.Method, Path: path, Authority: r.Authority, UserAgent: strings.Clone(x.Head.UserAgent), RequestID: strings.Clone(x.Head.RequestID), Idempotent: x.Head.Idempotent,
		Parent: flow.Trace{TraceID: x.Trace.TraceID, SpanID: x.Trace.ParentID, Flags: x.Trace.Flags}, B3: x.Binding.Propagation.Emit, // beside x, for the same caller
	}
	return y
}

// errands are exchanges of the sidecar's own that somebody has to end.
type errands struct {
	mu     sync.Mutex
	closed bool
	live   map[*exchange.Exchange]struct{}
	wg     sync.WaitGroup
}

// run runs send for y in a goroutine. False: there are too many, or no more.
func (e *errands) run(y *exchange.Exchange, send func()) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || len(e.live) >= maxMirrors {
		return false
	}
	if e.live == nil {
		e.live = make(map[*exchange.Exchange]struct{})
	}
	e.live[y] = struct{}{}
	e.wg.Go(func() {
		send()
		e.mu.Lock()
		delete(e.live, y)
		e.mu.Unlock()
	})
	return true
}

// close ends what is under way, and waits for that.
func (e *errands) close() {
	e.mu.Lock()
	e.closed = true
	for y := range e.live {
		y.Abort(flow.ReasonDraining)
	}
	e.mu.Unlock()
	e.wg.Wait()
}
