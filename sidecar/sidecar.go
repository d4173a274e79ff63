// Package sidecar is the data plane of one workload: bytes in, an Exchange through a list of steps, a Record out.
//
// New checks the Config; Run opens the explicit listeners of the Snapshot in force and serves until its context is done, then drains. The
// two lists below are the whole path; each step is explained in its own package.
package sidecar

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/balance"
	"github.com/tulle-mesh/tulle/sidecar/credential"
	"github.com/tulle-mesh/tulle/sidecar/detect"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
	"github.com/tulle-mesh/tulle/sidecar/filter"
	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/http2"
	"github.com/tulle-mesh/tulle/sidecar/listen"
	"github.com/tulle-mesh/tulle/sidecar/resilience"
	"github.com/tulle-mesh/tulle/sidecar/security"
	"github.com/tulle-mesh/tulle/sidecar/tcp"
	"github.com/tulle-mesh/tulle/sidecar/upstream"
)

// outbound is what becomes of an exchange of the own application with another service.
func (s *Sidecar) outbound(send exchange.Handler) exchange.Handler {
	return exchange.Chain(send,
		decide,                 // which service: pure, and first, so that the Record knows the edge from its beginning
		s.filters.Recall,       // which one has served its session
		s.observer.observe,     // one Record, whatever follows
		s.lineage.Call,         // is it part of a retry
		answer,                 // what failed below is answered here
		resilience.Room,        // no buffers left: shed
		security.Attest,        // is it the own application
		s.filters.Admit,        // shape: what a rule answers itself
		known,                  // no route, no service
		resilience.Limit,       // endure: at most so many at a time
		resilience.Deadline,    //         until then
		s.filters.Shape,        // shape: what a rule changes on the way
		resilience.Retry,       //         again, if that is safe
		resilience.TryDeadline, //         each try until then
		balance.Step,           // choose an endpoint
		s.filters.Remember,     // tell the caller's session who it is
		s.observer.attempt,     // one Record per try
	)
}

// errand is what becomes of an exchange that the sidecar makes itself: a mirror's copy, say.
func (s *Sidecar) errand(send exchange.Handler) exchange.Handler {
	return exchange.Chain(send,
		s.observer.observe,
		resilience.Limit,
		resilience.Deadline,
		resilience.Retry,
		resilience.TryDeadline,
		balance.Step,
		s.observer.attempt,
	)
}

// inbound is what becomes of an exchange of a caller with the own application.
func (s *Sidecar) inbound(send exchange.Handler) exchange.Handler {
	return exchange.Chain(send,
		own,                 // the destination is the workload itself
		s.observer.observe,  // one Record, whatever follows
		s.lineage.Serve,     // is it a retry
		answer,              // what failed below is answered here
		resilience.Room,     // no buffers left: shed
		security.Guard,      // may this peer
		resilience.Deadline, // endure: until then
		resilience.Adapt,    //         no more than the application can answer in time
		resilience.Retry,    //         a pooled connection that the application has closed is replaced
		application,         // choose: there is one
	)
}

// decide asks the listener's routes where the exchange goes. Rules of a port that may be HTTP are for requests: what turned out to be bytes there goes to the service that was
// called.
func decide(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if x.Kind == flow.KindConnection && x.Binding.Listener.Protocol.MayBeHTTP() {
			x.Decision = x.Binding.Routes.Unruled(x.ServerName)
			x.Destination = x.Binding.Destinations[x.Decision.Service]
		} else {
			decideBy(&x.Binding.Routes, x)
		}
		next.Handle(x)
	})
}

// decideBy asks t where x goes. Of what t does not look at nothing is made.
func decideBy(t *route.Table, x *exchange.Exchange) {
	h := route.Head{Method: x.Head.Method, Path: x.Head.Path, Authority: x.Head.Authority}
	if x.Kind == flow.KindConnection {
		h.Authority = x.ServerName
	}
	if t.Reads() {
		h.Fields, _ = x.Downstream.(route.Fields)
	}
	if t.Draws() {
		h.Draw = draw(x)
	}
	x.Decision = t.Match(h)
	x.Destination = x.Binding.Destinations[x.Decision.Service]
}

// draw chooses between backends: at random, but what the called service's policy keeps together goes to one of them.
func draw(x *exchange.Exchange) uint64 {
	d := x.Destination
	if d == nil {
		d = x.Binding.Destinations[x.Binding.Listener.Service]
	}
	if d != nil && len(d.Balancer.Affinity) > 0 && x.Kind == flow.KindExchange {
		if balance.Keep(x, d.Balancer.Affinity); x.Keyed {
			return x.Key
		}
	}
	return rand.Uint64()
}

// known ends exchanges that have nowhere to go.
func known(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		switch {
		case x.Destination != nil:
			next.Handle(x)
		case x.Decision.NoBackend():
			x.Outcome.Fail(flow.ReasonNoBackend, "route "+x.Decision.Route)
		case x.Decision.Service != "":
			x.Outcome.Fail(flow.ReasonUnknownDest, "service "+x.Decision.Service)
		case x.Decision.Matched():
			x.Outcome.Fail(flow.ReasonNoRoute, "route "+x.Decision.Route)
		default:
			x.Outcome.Fail(flow.ReasonNoRoute, "")
		}
	})
}

// own makes the workload itself the destination.
func own(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		x.Destination = x.Binding.Own
		if x.Destination == nil { // the listener was outbound when the connection began
			x.Destination = &exchange.Destination{}
		}
		next.Handle(x)
	})
}

// application chooses the one endpoint there is.
func application(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if x.Binding.App == nil {
			x.Outcome.Fail(flow.ReasonNoEndpoint, "the port is gone from the policy, or its listener has changed its direction")
			return
		}
		x.Choice.Endpoint = x.Binding.App
		x.Tries++
		next.Handle(x)
	})
}

// answer turns what failed before anything went downstream into the sidecar's own answer.
func answer(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		next.Handle(x)
		if o := &x.Outcome; !o.Committed && o.Reason != flow.ReasonNone && o.Reason != flow.ReasonDownstreamReset {
			o.Status = 0
			o.Answered = x.Downstream.Answer(x)
		}
	})
}

// DefaultDrainTimeout is how long Run lets exchanges in flight finish after its context is done.
const DefaultDrainTimeout = 10 * time.Second

// resetGrace is how long an exchange that the drain has cut may take to answer for itself.
const resetGrace = time.Second

// Config is what one sidecar needs. Policy, Identity and Recorder are required.
type Config struct {
	Policy policy.Source
	// Directory is asked about destinations of redirected connections that the Snapshot does not have; nil: they are unknown.
	Directory policy.Directory
	Identity  *identity.Holder
	Recorder  flow.Recorder
	// Workload is what this sidecar serves; a zero value means the Workload of the Snapshot.
	Workload policy.Workload
	Log      *slog.Logger // default: slog.Default()
	// DrainTimeout bounds the time between the end of Run's context and the reset of what is still in flight. Default 10 s.
	DrainTimeout time.Duration
	// Listen and Dial open sockets; nil means TCP. Tests put an in-memory network here.
	Listen func(addr netip.AddrPort) (net.Listener, error)
	Dial   upstream.Dial
	// Within calls f where listening sockets, and Unix ones, are to be made: in another network namespace, for one, and then Dial makes the others there too. nil
	// means here. f does not wait.
	Within upstream.Within
	// Inherit gives listening sockets that another process hands over; nil: there is no such process. See listen.Config.
	Inherit func(at string, transparent bool) (net.Listener, error)
	// Resolve finds the addresses of a host name that a forward proxy is asked for and policy does not know; nil asks DNS.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Original says where a redirected connection was to go; nil asks the kernel.
	Original func(net.Conn) (netip.AddrPort, error)
}

// Sidecar is one running data plane. Its methods are safe for concurrent use.
type Sidecar struct {
	cfg       Config
	observer  *observer
	pools     *upstream.Pools
	listeners *listen.Set
	unwrapper *security.Unwrapper
	filters   *filter.Filters

	credentials *credential.Store
	room        exchange.Room

	http2     *http2.Client
	lineage   resilience.Lineage
	ejections ejections

	serverFirst   detect.ServerFirst
	silentCallers detect.ServerFirst // of permissive ports: a memory of its own, for whoever calls can fill it
	lookups       Lookups
	running       context.Context // until the drain begins; set by Run before anything is accepted

	inHTTP, outHTTP   *http1.Server
	inHTTP2, outHTTP2 *http2.Server
	inTCP, outTCP     *tcp.Server

	proxyHTTP  *http1.Server
	proxyHTTP2 *http2.Server
	names      names

	edgeHTTP  *http1.Server
	edgeHTTP2 *http2.Server
	edgeTCP   *tcp.Server

	share  atomic.Pointer[Share]
	shared chan struct{} // has one when share was changed

	services     map[string]*service              // owned by Run, as is what follows
	destinations map[string]*exchange.Destination // of applied, by service
	tables       map[rulesKey]*route.Table        // of applied
	applied      atomic.Pointer[policy.Snapshot]
	turned       atomic.Pointer[chan struct{}] // closed when the listeners have the next Snapshot
	targets      atomic.Pointer[[]target]

	handedOver atomic.Bool
}

// Share is what a sidecar may take of a process that it has not to itself; what its own policy allows is less where that is less. 0 is all.
type Share struct {
	BufferBytes int64 // of policy.SidecarLimits
	Connections int   // of policy.SidecarLimits; of one source no more either
}

// SetShare puts s in force, now and for further Snapshots; what is open and in flight stays.
func (s *Sidecar) SetShare(share Share) {
	s.share.Store(&share)
	select {
	case s.shared <- struct{}{}:
	default: // Run will see this one
	}
}

// limits are those of a Snapshot, with their defaults, within the share.
func (s *Sidecar) limits(l policy.SidecarLimits) policy.SidecarLimits {
	l = l.WithDefaults()
	if share := s.share.Load(); share != nil {
		if share.BufferBytes > 0 {
			l.BufferBytes = min(l.BufferBytes, share.BufferBytes)
		}
		if share.Connections > 0 {
			l.Connections = min(l.Connections, share.Connections)
			l.ConnectionsPerSource = min(l.ConnectionsPerSource, share.Connections)
		}
	}
	return l
}

// Problem is something that keeps a listener from serving.
type Problem struct {
	Listener string    // name in the Snapshot
	Address  string    // ip:port or unix:/path
	Err      string    // what failed and what to do
	Since    time.Time // when it was first met
}

// New checks cfg and fills its defaults. It opens nothing.
func New(cfg Config) (*Sidecar, error) {
	switch {
	case cfg.Policy == nil:
		return nil, errors.New("sidecar: Config.Policy is missing: give it a policy.Source")
	case cfg.Identity == nil:
		return nil, errors.New("sidecar: Config.Identity is missing: give it an identity.Holder (it may still be empty)")
	case cfg.Recorder == nil:
		return nil, errors.New("sidecar: Config.Recorder is missing: give it a flow.Recorder")
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Resolve == nil {
		cfg.Resolve = resolveDNS
	}
	if cfg.DrainTimeout <= 0 {
		cfg.DrainTimeout = DefaultDrainTimeout
	}
	s := &Sidecar{
		cfg:       cfg,
		observer:  &observer{rec: cfg.Recorder, holder: cfg.Identity},
		pools:     upstream.New(cfg.Dial, cfg.Within),
		unwrapper: security.NewUnwrapper(cfg.Identity),
		services:  make(map[string]*service),
		shared:    make(chan struct{}, 1),

		credentials: credential.New(cfg.Log),
	}
	turned := make(chan struct{})
	s.turned.Store(&turned)
	s.listeners = listen.New(listen.Config{
		Listen: cfg.Listen, Within: cfg.Within, Inherit: cfg.Inherit, Original: cfg.Original, Serve: s.serve, Shed: s.shed,
		Drain: cfg.DrainTimeout, Grace: resetGrace, Log: cfg.Log,
	})
	s.http2 = http2.NewClient(s.pools, upstream.IdleTimeout)
	one, two, sendTCP := &http1.Sender{Pool: s.pools}, &http2.Sender{Client: s.http2}, &tcp.Sender{Pool: s.pools}
	sendHTTP, sendHTTP2 := &bridge{one, one, two}, &bridge{two, one, two}
	s.filters = filter.New(s.errand(exchange.HandlerFunc(func(x *exchange.Exchange) {
		if x.Protocol == flow.ProtocolHTTP1 {
			sendHTTP.Handle(x)
		} else {
			sendHTTP2.Handle(x)
		}
	})))
	s.inHTTP = &http1.Server{Handler: s.inbound(sendHTTP), Side: flow.SideServer}
	s.outHTTP = &http1.Server{Handler: s.outbound(sendHTTP), Side: flow.SideClient}
	s.inHTTP2 = &http2.Server{Handler: s.inbound(sendHTTP2), Side: flow.SideServer}
	s.outHTTP2 = &http2.Server{Handler: s.outbound(sendHTTP2), Side: flow.SideClient}
	s.inTCP = &tcp.Server{Handler: s.inbound(sendTCP), Side: flow.SideServer}
	s.outTCP = &tcp.Server{Handler: s.outbound(sendTCP), Side: flow.SideClient}
	s.names.resolve = cfg.Resolve
	s.proxyHTTP = &http1.Server{Handler: s.forward(&tunnels{sendHTTP, sendTCP}), Side: flow.SideClient}
	s.proxyHTTP2 = &http2.Server{Handler: s.forward(&tunnels{sendHTTP2, sendTCP}), Side: flow.SideClient}
	s.edgeHTTP = &http1.Server{Handler: s.through(sendHTTP), Side: flow.SideClient}
	s.edgeHTTP2 = &http2.Server{Handler: s.through(sendHTTP2), Side: flow.SideClient}
	s.edgeTCP = &tcp.Server{Handler: s.through(sendTCP), Side: flow.SideClient}
	return s, nil
}

// Run serves until ctx is done, drains, and returns nil. It calls ready once the first Snapshot was applied and each of its listeners was
// tried. It may be called once.
//
// Drain, in order: inbound listeners close; idle connections close; exchanges in flight finish, their answers saying "Connection: close" (HTTP/2:
// GOAWAY); when the last inbound connection has ended, the same with outbound listeners, for the application may need others to finish what it has
// begun; DrainTimeout after the beginning what is left is aborted, answers "draining" if it has not answered yet, and is reset a second later; pools
// close. After HandOver all listeners close at once, and idle connections stay for one more request.
func (s *Sidecar) Run(ctx context.Context, ready func()) error {
	s.running = ctx
	behind, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	pooled, stopPools := context.WithCancel(context.WithoutCancel(ctx))
	wg.Go(func() { s.pools.Run(pooled) })
	wg.Go(func() {
		defer stopPools() // the connections of http2 are the pools'
		s.http2.Run(behind)
	})
	wg.Go(func() { s.observer.run(behind) })
	wg.Go(func() { s.credentials.Run(behind) })
	defer wg.Wait()
	defer stop()

	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for shared := false; ctx.Err() == nil; {
		changed := s.cfg.Policy.Changed() // before Current, to miss nothing
		if snap := s.cfg.Policy.Current(); snap != nil && (snap != s.applied.Load() || shared) {
			shared = false
			var bindings []*exchange.Binding
			s.credentials.Keep(func() { bindings = s.bindings(snap) })
			list := targets(bindings, snap)
			s.targets.Store(&list)
			s.listeners.Apply(bindings)
			first := s.applied.Swap(snap) == nil
			next := make(chan struct{})
			close(*s.turned.Swap(&next))
			s.cfg.Log.Debug("snapshot applied", "revision", snap.Revision, "listeners", len(snap.Listeners), "services", len(snap.Services))
			if first {
				ready()
			}
		}
		var retry <-chan time.Time
		if next := s.listeners.Retry(time.Now()); !next.IsZero() {
			timer.Reset(time.Until(next))
			retry = timer.C
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-s.shared:
			shared = true
		case <-retry:
		}
	}
	if s.handedOver.Load() {
		s.listeners.HandOver(s.cfg.DrainTimeout, resetGrace)
	} else {
		s.listeners.Close(s.cfg.DrainTimeout, resetGrace)
	}
	s.filters.Close() // before the pools that it sends by
	return nil
}

// HandOver says that another process accepts in place of this one when Run's context is done. Call it before that.
func (s *Sidecar) HandOver() { s.handedOver.Store(true) }

// Leave asks callers of the application to go elsewhere, with the answer to their next request, while Run goes on accepting.
func (s *Sidecar) Leave() { s.listeners.Leave(flow.SideServer) }

// Socket is the listening socket that serves at (policy.Listener.At), nil when there is none. It stays the Sidecar's: a copy of its descriptor outlives it.
func (s *Sidecar) Socket(at string, transparent bool) syscall.Conn {
	return s.listeners.Socket(at, transparent)
}

// Ready reports whether a Snapshot is applied and all of its listeners are bound.
func (s *Sidecar) Ready() bool { return s.applied.Load() != nil && len(s.listeners.Problems()) == 0 }

// Problems lists the listeners that cannot serve, by name; empty when all is well.
func (s *Sidecar) Problems() []Problem {
	var out []Problem
	for _, p := range s.listeners.Problems() {
		out = append(out, Problem{Listener: p.Name, Address: p.At, Err: p.Err.Error(), Since: p.Since})
	}
	return out
}

// CredentialProblems say what is wrong with files of certificates, keys and trust anchors; empty when all is well.
func (s *Sidecar) CredentialProblems() []string { return s.credentials.Problems() }

// Addresses are the addresses of the bound listeners, by name; of use where the Snapshot asks for port 0.
func (s *Sidecar) Addresses() map[string]net.Addr { return s.listeners.Addresses() }

// Snapshot is the one in force; nil before the first.
func (s *Sidecar) Snapshot() *policy.Snapshot { return s.applied.Load() }

// Connections is how many downstream connections are open.
func (s *Sidecar) Connections() int64 { return s.listeners.Open() }

// ConnectionsOfOneSource is how many of them the source with the most has.
func (s *Sidecar) ConnectionsOfOneSource() int { return s.listeners.OfOneSource() }

// Limits are those of the Snapshot in force, with their defaults.
func (s *Sidecar) Limits() policy.SidecarLimits {
	var l policy.SidecarLimits
	if snap := s.Snapshot(); snap != nil {
		l = snap.Workload.Limits
	}
	return s.limits(l)
}

// Room shows the memory of buffers in use and how often each limit was reached.
func (s *Sidecar) Room() *exchange.Room { return &s.room }

// maxRefused bounds what is read of a caller that was turned away.
const maxRefused = 256 << 10

// speaker turns a connection into exchanges and back, to its end.
type speaker interface {
	Serve(sess *exchange.Session)
}

// serve carries one accepted connection to its end. While the speaker waits for a request, what is below it on the stack must stay small:
// with receive in it, ten thousand idle connections would hold twice the memory (the runtime shrinks a stack that is used by less than a
// quarter).
func (s *Sidecar) serve(c *listen.Conn) {
	if speak, sess := s.receive(c); speak != nil {
		speak.Serve(sess)
		if sess.Ended != nil {
			sess.Ended()
		}
	}
}

// receive unwraps a connection, learns its peer, and says who speaks with it; nobody when it was turned away.
func (s *Sidecar) receive(c *listen.Conn) (speaker, *exchange.Session) {
	b := c.Binding()
	if b.Intercepted != nil {
		return s.intercepted(c, b)
	}
	if b.Edge != nil {
		return s.enter(c, b)
	}
	return s.welcome(c, b, &exchange.Peer{Addr: c.Addr(), Local: c.Local(), Application: c.Application}, c.Binding)
}

// welcome is receive once it is known which listener's connection it is: b now, and bind later.
func (s *Sidecar) welcome(c *listen.Conn, b *exchange.Binding, peer *exchange.Peer, bind func() *exchange.Binding) (speaker, *exchange.Session) {
	sess := &exchange.Session{Conn: c.Conn, TCP: c.TCP, Peer: peer, Start: c.Start, Bind: bind, Report: s.observer}
	if b.Listener.ProxyProtocol.Takes(peer.Addr.Addr()) {
		h, ok := s.proxied(c, b, peer)
		if !ok {
			return nil, nil
		}
		sess.ServerName = nameOf(h.Authority)
	}
	protocol, alpn, secured := b.Listener.Protocol, "", false
	memory, place, outcome := &s.serverFirst, detect.Silent{To: plain(peer.Local)}, flow.DetectionOutcome(0)
	if u := b.Listener.Socket(); u != nil {
		place.Socket = u.Path
	}
	if b.Listener.Side == flow.SideServer {
		by := detect.Silent{To: place.To, From: peer.Addr.Addr().WithZone("")}
		wait, known := s.await(&b.Listener, by)
		u, refusal := s.unwrapper.Unwrap(c.Conn, b.Listener.Mode, protocol, wait)
		if refusal != nil {
			s.turnAway(c, b, peer, refusal)
			return nil, nil
		}
		if u.Conn == nil {
			return nil, nil
		}
		sess.Conn, sess.Buffered = u.Conn, u.Buffered
		alpn, secured = u.ALPN, !u.Peer.IsZero()
		if !protocol.HTTP() {
			peer.TLS = exchange.Secured(u.Conn)
		}
		if identify(peer, u.Peer); !secured && !protocol.HTTP() {
			switch memory, place = &s.silentCallers, by; {
			case u.Ended:
				outcome = flow.DetectionLeft
			case u.Silent && known:
				outcome = flow.DetectionRemembered
			case u.Silent:
				outcome = flow.DetectionTimeout
			case known:
				memory.Set(place, false)
			}
		}
	}
	if !c.Begin(sess) {
		return nil, nil
	}
	server, bytes := b.Listener.Side == flow.SideServer, !protocol.MayBeHTTP()
	switch {
	case protocol == flow.ProtocolAuto && alpn == "", bytes && outcome != 0:
		d := &detection{
			s: s, sess: sess, side: b.Listener.Side, service: b.Listener.Service, port: peer.Local.Port(), wait: b.Listener.DetectTimeout, doubt: detect.Bytes,
			memory: memory, place: place, plain: bytes, outcome: outcome,
		}
		if outcome == flow.DetectionTimeout {
			d.took = time.Since(c.Start)
		}
		return d.speaker(), sess
	case alpn == exchange.ALPNTLS, protocol == flow.ProtocolTLS && server:
		return s.relayTLS(sess, s.inTCP)
	case protocol == flow.ProtocolTLS:
		return s.relayTLS(sess, s.outTCP)
	case b.Listener.Proxy != nil && detect.HTTP2(sess, b.Listener.Limits.HeadTimeout):
		return s.proxyHTTP2, sess
	case b.Listener.Proxy != nil:
		return s.proxyHTTP, sess
	case bytes && server, alpn == exchange.ALPNBytes:
		return s.inTCP, sess
	case bytes:
		return s.outTCP, sess
	// Where TLS has not agreed on HTTP/2, HTTP/1.1 is spoken.
	case alpn == exchange.ALPNHTTP2, !secured && detect.HTTP2(sess, b.Listener.Limits.HeadTimeout):
		if server {
			return s.inHTTP2, sess
		}
		return s.outHTTP2, sess
	case server:
		return s.inHTTP, sess
	}
	return s.outHTTP, sess
}

// identify writes down who a caller has proven to be.
func identify(peer *exchange.Peer, id identity.ID) {
	if id.IsZero() {
		return
	}
	peer.Identity = id.String()
	if ns, account, ok := id.Account(); ok {
		peer.Namespace, peer.Service = ns, account
	}
}

// lingerAfter reads for a while what a caller that was turned away still sends: it would destroy what it was told.
func lingerAfter(c net.Conn) {
	if exchange.CloseWrite(c) == nil {
		_, _ = io.CopyN(io.Discard, c, maxRefused)
	}
}

// shed records a connection that was closed because there are too many.
func (s *Sidecar) shed(b *exchange.Binding, peer *exchange.Peer, limit exchange.Limit, n int) {
	s.room.Reached(limit)
	s.observer.Connection(b, peer, time.Now(), flow.ReasonShed, limit.String()+" of "+strconv.Itoa(n)+" in this sidecar")
}
