package sidecar

import (
	"cmp"
	"context"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// observer turns what passes into Records. Its steps open and close them; run reports what lives for long.
//
// Invariant: every exchange, attempt and relayed connection that begins here ends here in exactly one Record of PhaseClose, after its last
// progress Record: both happen under the lock of the shard in which it is listed while it lives.
type observer struct {
	rec     flow.Recorder
	holder  *identity.Holder
	inbound atomic.Int64 // inbound exchanges in flight
	next    atomic.Uint32
	shards  [liveShards]liveShard
}

const liveShards = 16

type liveShard struct {
	mu    sync.Mutex
	first *exchange.Live
	_     [48]byte // shards are locked by different cores
}

// observe is the outermost step: it begins the trace, keeps the live counts, and closes the Record.
func (o *observer) observe(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		beginTrace(x)
		exchangeIn := x.Side == flow.SideServer && x.Kind == flow.KindExchange
		switch {
		case exchangeIn:
			o.inbound.Add(1)
		case x.Kind == flow.KindExchange && !x.Head.Mirror:
			if kept := !x.Trace.Started; kept || o.inbound.Load() > 0 {
				o.rec.TraceContext(kept)
			}
		}
		key := activeKey(x)
		o.rec.Active(key, 1)
		o.add(&x.Live, x, x.Kind, x.Start)

		next.Handle(x)
		grpcFailure(x)

		o.remove(&x.Live)
		o.rec.Active(key, -1)
		if exchangeIn {
			o.inbound.Add(-1)
		}
		r := &x.Record
		o.fill(r, x, x.Kind, x.Trace)
		ended(r, x)
		r.Far = x.Far
		if x.Folded && !x.Live.Reported {
			r.Trace.SpanID = x.Try.SpanID // the parent that the other side knows
		}
		o.endpoint(r, x)
		r.Attempts = x.Tries
		o.rec.Record(r)
	})
}

// received stands outside observe at an edge: what came to the edge has a Record of its own, of which what goes on is the child.
func (o *observer) received(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		beginTrace(x)
		x.Came = x.Trace
		key := flow.ActiveKey{Side: flow.SideServer, Kind: x.Kind, Protocol: x.Protocol, Source: x.Peer.Service, Destination: x.Binding.Workload.Service}
		o.rec.Active(key, 1)
		x.CameLive.Came = true
		o.add(&x.CameLive, x, x.Kind, x.Start)
		x.Head.Parent = flow.Trace{TraceID: x.Came.TraceID, SpanID: x.Came.SpanID, Flags: x.Came.Flags}

		next.Handle(x)

		o.remove(&x.CameLive)
		o.rec.Active(key, -1)
		r := &x.Record
		o.fillCame(r, x)
		ended(r, x)
		o.rec.Record(r)
	})
}

// onward is observe for what goes on from an edge. What a rule of a host answers, or has nobody to send to, goes nowhere: it would be a call to nobody, and has the Record of
// what came alone.
func (o *observer) onward(next exchange.Handler) exchange.Handler {
	observed := o.observe(next)
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if x.Decision.Service == "" && x.Decision.Called == "" {
			next.Handle(x)
			return
		}
		observed.Handle(x)
	})
}

// ended writes how an exchange has ended.
func ended(r *flow.Record, x *exchange.Exchange) {
	out := &x.Outcome
	if x.Kind == flow.KindExchange {
		r.Answered = out.Answered
		if out.Committed {
			r.Status = out.Status
		}
	}
	r.Reason, r.Detail, r.Legs, r.GRPC, r.Ended = out.Reason, cmp.Or(out.Detail, x.Note, x.Binding.Note), x.Legs, out.GRPC, out.Ended
	if len(x.Captured) > 0 {
		r.Headers = flow.Headers(unsafe.String(&x.Captured[0], len(x.Captured)))
	}
}

// fillCame is fill for the side on which an exchange came to an edge.
func (o *observer) fillCame(r *flow.Record, x *exchange.Exchange) {
	o.fill(r, x, x.Kind, x.Came) // x.Trace is being changed while what came is listed
	own := r.Source
	own.Addr, own.Identity = x.Peer.Local, ""
	if x.Peer.Identity != "" {
		own.Identity = o.ownIdentity()
	}
	r.Side, r.Destination = flow.SideServer, own
	r.TLS, r.NearTLS = r.NearTLS, r.TLS
	r.Source = flow.Peer{Service: x.Peer.Service, Namespace: x.Peer.Namespace, Identity: x.Peer.Identity, Addr: x.Peer.Addr}
}

// attempt stands inside the choice of an endpoint: one Record per try. A first try that went well is folded: nobody knows the id of an exchange
// before it closes, so the exchange takes the try's, and one span tells both stories.
func (o *observer) attempt(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if x.Kind == flow.KindConnection { // a relay is one Record, whatever it takes
			next.Handle(x)
			return
		}
		if x.Began.IsZero() { // nothing bounds its tries
			x.Began = time.Now()
		}
		begin := x.Began.Sub(x.Start)
		head := x.Legs.HeadParsed
		x.Legs, x.Far = exchange.NoLegs, flow.Far{}
		x.Legs.HeadParsed = head
		before, messages := x.BytesOut.Load(), x.MessagesOut.Load()
		x.Try = x.Trace
		x.Try.ParentID, x.Try.SpanID = x.Trace.SpanID, exchange.NewSpanID()
		o.add(&x.TryLive, x, flow.KindAttempt, x.Start.Add(begin))

		next.Handle(x)
		grpcFailure(x)

		o.remove(&x.TryLive)
		r := &x.Record
		o.fill(r, x, flow.KindAttempt, x.Trace)
		out := &x.Outcome
		r.Status, r.Reason, r.Detail, r.Delivered, r.GRPC = out.Status, out.Reason, out.Detail, out.Delivered, out.GRPC
		r.Legs = since(x.Legs, begin)
		r.BytesOut -= before
		r.MessagesOut -= messages
		o.endpoint(r, x)
		x.Folded = x.Tries == 1 && out.Answered && out.Reason == flow.ReasonNone && begin+r.Duration < flow.ProgressInterval/2
		r.Folded = x.Folded
		o.rec.Record(r)
	})
}

// grpcFailure gives an answer of gRPC that stands for a 5xx the reason that a 5xx has, and one that is whole but has no status, which callers take for
// UNKNOWN, that of an invalid one (docs/format/record.md, "Failures").
func grpcFailure(x *exchange.Exchange) {
	o := &x.Outcome
	switch {
	case x.Protocol != flow.ProtocolGRPC || o.Reason != flow.ReasonNone:
	case o.GRPC.Failure():
		o.Reason = flow.ReasonUpstreamStatus
	case o.GRPC == 0 && o.Status == 200 && o.Answered:
		o.Fail(flow.ReasonUpstreamProtocol, "the answer has no grpc-status")
	}
}

// Connection implements exchange.Reporter: a connection that never became an exchange.
func (o *observer) Connection(b *exchange.Binding, p *exchange.Peer, start time.Time, reason flow.Reason, detail string) {
	x := &exchange.Exchange{}
	x.Reset()
	x.Kind, x.Side, x.Protocol = flow.KindConnection, b.Listener.Side, b.Listener.Protocol
	if x.Protocol == flow.ProtocolAuto { // nobody has looked
		x.Protocol = flow.ProtocolTCP
	}
	x.Peer, x.Binding, x.Start = p, b, start
	if x.Side == flow.SideClient {
		x.Decision.Service = b.Listener.Service
		x.Destination = b.Destinations[b.Listener.Service]
	}
	beginTrace(x)
	o.fill(&x.Record, x, x.Kind, x.Trace)
	x.Record.Legs = x.Legs
	x.Record.Reason, x.Record.Detail = reason, detail
	if b.Intercepted != nil {
		x.Record.Destination.Addr = p.Local
	}
	o.rec.Record(&x.Record)
}

// beginTrace continues the caller's trace or begins one (https://www.w3.org/TR/trace-context/, section 4). A caller that only says "do not
// sample" begins one that says so, too.
func beginTrace(x *exchange.Exchange) {
	if p := x.Head.Parent; !p.TraceID.IsZero() {
		x.Trace = flow.Trace{TraceID: p.TraceID, ParentID: p.SpanID, Flags: p.Flags}
	} else {
		x.Trace = flow.Trace{TraceID: exchange.NewTraceID(), Flags: 1, Started: true}
		if x.Head.B3&exchange.B3Deny != 0 {
			x.Trace.Flags = 0
		}
	}
	x.Trace.SpanID = exchange.NewSpanID()
	x.Try = x.Trace // what the server side sends on
}

// calls is the service that an exchange of the own application calls: of what goes by way of an edge, the edge, which says what becomes of it.
func calls(x *exchange.Exchange) string {
	if x.Destination != nil && x.Destination.Via != "" {
		return x.Destination.Via
	}
	return policy.ServiceOf(cmp.Or(x.Decision.Service, x.Decision.Called))
}

func activeKey(x *exchange.Exchange) flow.ActiveKey {
	k := flow.ActiveKey{Side: x.Side, Kind: x.Kind, Protocol: x.Protocol}
	if x.Side == flow.SideClient {
		k.Source, k.Destination = x.Binding.Workload.Service, calls(x)
	} else {
		k.Source, k.Destination = x.Peer.Service, x.Binding.Workload.Service
	}
	return k
}

// fill writes what is known from the beginning, and the byte counts so far.
func (o *observer) fill(r *flow.Record, x *exchange.Exchange, kind flow.Kind, trace flow.Trace) {
	*r = flow.Record{
		Kind: kind, Side: x.Side, Protocol: x.Protocol,
		Trace: trace, Start: x.Start, Duration: x.Since(),
		Method: x.Head.Method, Path: x.Head.Path, Authority: x.Head.Authority,
		UserAgent: x.Head.UserAgent, RequestID: x.Head.RequestID,
		Route: x.Decision.Route, ServerName: x.ServerName,
		BytesIn: x.BytesIn.Load(), BytesOut: x.BytesOut.Load(),
		MessagesIn: x.MessagesIn.Load(), MessagesOut: x.MessagesOut.Load(),
		Revision: x.Binding.Snapshot.Revision,
		Via:      x.Peer.Via,
		Mirror:   x.Head.Mirror,
	}
	if kind == flow.KindConnection {
		r.NearTLS = x.Peer.TLS
		if relayed := x.Relayed.Load(); relayed != nil {
			r.TLS = relayed.TLS
		}
		if x.Side == flow.SideServer {
			r.TLS, r.NearTLS = r.NearTLS, r.TLS
		}
	}
	w := &x.Binding.Workload
	own := flow.Peer{Service: w.Service, Namespace: w.Namespace, Version: w.Version, Instance: w.Instance}
	if x.Side == flow.SideClient {
		own.Addr = x.Peer.Addr
		r.Source = own
		r.Application = x.Peer.Application
		r.Destination.Service = calls(x)
		if x.Destination != nil {
			r.Destination.Namespace = x.Destination.Namespace
			if x.Destination.Via != "" {
				r.Route = cmp.Or(r.Route, x.Decision.Service)
			}
		} else if d := x.Binding.Destinations[x.Decision.Called]; d != nil {
			r.Destination.Namespace = d.Namespace
		}
	} else {
		if x.Peer.Identity != "" {
			own.Identity = o.ownIdentity()
		}
		own.Addr = x.Peer.Local
		r.Destination = own
		r.Source = flow.Peer{Service: x.Peer.Service, Namespace: x.Peer.Namespace, Identity: x.Peer.Identity, Addr: x.Peer.Addr}
	}
	r.Attempt = x.Head.Attempt
	if kind == flow.KindAttempt {
		r.Trace, r.Attempt = x.Try, x.Tries
		r.Start = x.TryLive.Start
		r.Duration -= r.Start.Sub(x.Start)
	}
}

// endpoint writes where the latest try went.
func (o *observer) endpoint(r *flow.Record, x *exchange.Exchange) {
	e := x.Choice.Endpoint
	if e == nil {
		return
	}
	r.Endpoint = e.Address
	r.Probe, r.Override = x.Choice.Probe, x.Choice.Override
	if x.Side != flow.SideClient {
		if r.Application = x.Application; e.Unix != nil {
			r.Application.Socket = e.Unix.Path
		}
		return
	}
	r.Destination.Addr, r.Destination.Version, r.Destination.Instance = e.Address, e.Version, e.Instance
	if x.Remote != "" {
		r.Destination.Identity = x.Remote
		r.Source.Identity = o.ownIdentity()
	}
}

func (o *observer) ownIdentity() string {
	if m := o.holder.Get(); m != nil {
		return m.ID.String()
	}
	return ""
}

// since moves legs to a later beginning.
func since(l flow.Legs, begin time.Duration) flow.Legs {
	for _, d := range [...]*time.Duration{&l.Queued, &l.Connected, &l.Secured, &l.Sent, &l.FirstByte, &l.LastByte} {
		if *d >= 0 {
			*d = max(*d-begin, 0)
		}
	}
	l.HeadParsed = flow.Unset
	return l
}

func (o *observer) add(n *exchange.Live, x *exchange.Exchange, kind flow.Kind, start time.Time) {
	if n.Shard == 0 {
		n.Shard = o.next.Add(1)%liveShards + 1
	}
	s := &o.shards[n.Shard-1]
	s.mu.Lock()
	n.X, n.Kind, n.Start, n.Due, n.Reported = x, kind, start, start.Add(flow.ProgressInterval), false
	n.Still = time.Time{}
	n.Prev, n.Next = nil, s.first
	if s.first != nil {
		s.first.Prev = n
	}
	s.first = n
	s.mu.Unlock()
}

func (o *observer) remove(n *exchange.Live) {
	s := &o.shards[n.Shard-1]
	s.mu.Lock()
	if n.Prev != nil {
		n.Prev.Next = n.Next
	} else {
		s.first = n.Next
	}
	if n.Next != nil {
		n.Next.Prev = n.Prev
	}
	n.Next, n.Prev = nil, nil
	s.mu.Unlock()
}

// run emits progress Records, and ends streams that are silent for too long, until ctx is done.
func (o *observer) run(ctx context.Context) {
	t := time.NewTicker(flow.ProgressInterval / 10)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			o.progress(now)
		}
	}
}

// progress reports what is due, and ends what is silent. It reads of an Exchange only what does not change while it is listed: the head, the decision, the choice of
// the try, and the atomic counts.
func (o *observer) progress(now time.Time) {
	var r flow.Record
	for i := range o.shards {
		s := &o.shards[i]
		s.mu.Lock()
		for n := s.first; n != nil; n = n.Next {
			if n.Kind == flow.KindExchange && !n.Came {
				silence(n, now)
			}
			if now.Before(n.Due) {
				continue
			}
			n.Due, n.Reported = n.Due.Add(flow.ProgressInterval), true
			if n.Came {
				o.fillCame(&r, n.X)
			} else {
				o.fill(&r, n.X, n.Kind, n.X.Trace)
			}
			r.Phase = flow.PhaseProgress
			r.Legs = exchange.NoLegs
			if relayed := n.X.Relayed.Load(); relayed != nil && n.Kind == flow.KindConnection {
				r.Legs = relayed.Legs
				if !n.Came { // the endpoint is of the other edge
					o.endpoint(&r, n.X)
				}
			}
			if n.Kind == flow.KindAttempt {
				r.Endpoint = n.X.Choice.Endpoint.Address
				r.Probe, r.Override = n.X.Choice.Probe, n.X.Choice.Override
			}
			o.rec.Record(&r)
		}
		s.mu.Unlock()
	}
}

// silence ends a stream on which no byte has moved for as long as policy lets it, within a second more. n is listed: its exchange is still the one that it was.
func silence(n *exchange.Live, now time.Time) {
	idle := n.X.Watched()
	if idle <= 0 {
		return
	}
	if moved := n.X.BytesIn.Load() + n.X.BytesOut.Load(); n.Still.IsZero() || moved != n.Moved {
		n.Moved, n.Still = moved, now
	} else if now.Sub(n.Still) >= idle {
		n.X.Silence()
	}
}
