package sidecar

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/detect"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
	"github.com/tulle-mesh/tulle/sidecar/listen"
)

// passthroughRoute is what Records call the way of a connection whose destination is no service.
const passthroughRoute = "passthrough"

// passthroughKey sets its state apart from those of services.
const passthroughKey = "passthrough "

// passthroughTimeout is how long a connect may take: what is passed through is often far away.
const passthroughTimeout = 10 * time.Second

// interception makes of a listener's binding one for redirected connections. Of services that share an address the first by name serves it.
func (s *Sidecar) interception(b *exchange.Binding) {
	snap := b.Snapshot
	in := &exchange.Intercepted{
		At:    make(map[netip.AddrPort]exchange.Known, len(snap.Services)),
		Bind:  binder(b),
		Names: &route.Hosts[string]{},
		Passthrough: s.destination(passthroughKey, policy.Service{
			Protocol: flow.ProtocolTCP, External: true, ConnectTimeout: passthroughTimeout, MaxConnections: -1, Retry: policy.Retry{Attempts: 1},
		}),
	}
	for _, name := range slices.Sorted(maps.Keys(snap.Services)) {
		for _, host := range snap.Services[name].Hosts {
			in.Names.Add(host, name)
		}
		for _, a := range snap.Services[name].Addresses { // which are not called, but mean it
			if _, taken := in.At[plain(a)]; !taken {
				in.At[plain(a)] = exchange.Known{Service: name}
			}
		}
		endpoints := snap.Endpoints[name]
		for i := range endpoints {
			e := &endpoints[i]
			at := plain(e.Address)
			if _, taken := in.At[at]; !taken {
				in.At[at] = exchange.Known{Service: name, Endpoint: e}
			}
		}
	}
	b.Intercepted = in
	s.pools.Remember.Store(true)
}

// binder makes the bindings of b's services when they are first asked for: of many services a policy has few are called under one Snapshot.
func binder(b *exchange.Binding) func(service string) *exchange.Binding {
	var made sync.Map // service → *exchange.Binding
	return func(service string) *exchange.Binding {
		if of, ok := made.Load(service); ok {
			return of.(*exchange.Binding)
		}
		sv, ok := b.Snapshot.Services[service]
		if !ok {
			return nil
		}
		of := *b
		of.Listener.Service, of.Listener.Protocol, of.Routes, of.Intercepted = service, sv.Protocol, routes(b, service), nil
		kept, _ := made.LoadOrStore(service, &of)
		return kept.(*exchange.Binding)
	}
}

// intercepted is receive for a connection that was redirected: who was meant decides who speaks.
func (s *Sidecar) intercepted(c *listen.Conn, b *exchange.Binding) (speaker, *exchange.Session) {
	peer := &exchange.Peer{Addr: c.Addr(), Local: c.Local()}
	to, err := c.Original()
	if err == nil && plain(to) == plain(peer.Local) && (!b.Listener.Interception.Transparent || to.Port() == b.Listener.Address.Port()) {
		err = errors.New("it was opened to the sidecar's own port, not redirected to it")
	}
	if err != nil {
		if b.Listener.Side == flow.SideClient { // whoever called: nothing says that it was the own application
			as := *b
			as.Workload = policy.Workload{}
			b = &as
		}
		s.refuse(c, b, peer, "the connection has no original destination: "+err.Error())
		return nil, nil
	}
	peer.Local = to
	if b.Listener.Side == flow.SideServer {
		return s.arrived(c, b, peer)
	}
	return s.departing(c, b, peer)
}

// arrived is for a connection to the own application: the port that was meant says how it is served.
func (s *Sidecar) arrived(c *listen.Conn, b *exchange.Binding, peer *exchange.Peer) (speaker, *exchange.Session) {
	to := peer.Local
	if port := b.Intercepted.Ports[to.Port()]; port != nil {
		left := sync.OnceValue(func() *exchange.Binding { return gone(c, port) })
		return s.welcome(c, port, peer, func() *exchange.Binding {
			if now := c.Binding(); now.Intercepted != nil && now.Intercepted.Ports[to.Port()] != nil {
				return now.Intercepted.Ports[to.Port()]
			}
			return left()
		})
	}
	if b.Listener.Interception.Unknown == policy.UnknownRefuse {
		s.refuse(c, b, peer, to.String()+" is no port of this workload; add it to spec.ports, or set spec.intercept.inbound.unknown to pass")
		return nil, nil
	}
	passed := *b
	passed.App = &policy.Endpoint{Address: to}
	bind := func() *exchange.Binding { return &passed }
	if b.Listener.Mode == policy.ModeStrict { // mTLS only, at any port
		return s.welcome(c, &passed, peer, bind)
	}
	// The application may speak TLS of its own: the bytes are its alone.
	sess := &exchange.Session{Conn: c.Conn, TCP: c.TCP, Peer: peer, Start: c.Start, Bind: bind, Report: s.observer}
	if !c.Begin(sess) {
		return nil, nil
	}
	return s.inTCP, sess
}

// departing is for a connection of the own application: the service whose endpoint was meant says how it is served.
func (s *Sidecar) departing(c *listen.Conn, b *exchange.Binding, peer *exchange.Peer) (speak speaker, sess *exchange.Session) {
	to := peer.Local
	if s.pools.Own(plain(peer.Addr)) { // it would come again and again
		s.refuse(c, b, peer, fmt.Sprintf("the sidecar's own connection was redirected to it: it runs as user %d, give that one to tulle intercept as --sidecar-uid", os.Geteuid()))
		return nil, nil
	}
	known, ok := b.Intercepted.At[plain(to)]
	var unanswered error
	if !ok && s.cfg.Directory != nil {
		b, known, ok, unanswered = s.lookup(c, b, plain(to))
	}
	rules := b.Listener.Interception
	sess = &exchange.Session{Conn: c.Conn, TCP: c.TCP, Peer: peer, Start: c.Start, Report: s.observer}
	if !ok {
		return s.passing(c, b, sess, unanswered)
	}
	service := b.Intercepted.Bind(known.Service)
	left := sync.OnceValue(func() *exchange.Binding { return gone(c, service) })
	sess.Bind = func() *exchange.Binding {
		if now := c.Binding(); now.Intercepted != nil && now.Intercepted.Bind != nil {
			if of := now.Intercepted.Bind(known.Service); of != nil {
				return of
			}
		}
		return left()
	}
	if s.cfg.Directory != nil {
		release := s.cfg.Directory.Hold(known.Service)
		defer func() {
			if speak == nil {
				release()
				return
			}
			sess.Ended = release
		}()
	}
	if !c.Begin(sess) {
		return nil, nil
	}
	if !service.Listener.Protocol.MayBeHTTP() || rules.Opaque(to.Port()) {
		if service.Listener.Protocol == flow.ProtocolTLS && named(sess, rules.DetectTimeout) == detect.Left {
			return nil, nil
		}
		pinned := pin(service, known.Endpoint)
		sess.Bind = func() *exchange.Binding { return pinned }
		return s.outTCP, sess
	}
	d := &detection{
		s: s, sess: sess, side: flow.SideClient, service: service.Listener.Service, port: to.Port(), wait: rules.DetectTimeout, doubt: detect.Bytes,
		memory: &s.serverFirst, place: detect.Silent{To: plain(to)}, relayed: func() *exchange.Binding { return pin(service, known.Endpoint) },
	}
	if service.Listener.Protocol.HTTP() {
		d.doubt = detect.HTTP1
	}
	return d.speaker(), sess
}

// plain is a as any way of learning it says it: a socket's own address may have a zone, and be IPv4 mapped into IPv6, an original destination has neither.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// gone is what b, of an open connection, becomes when its port or service has left the policy: further requests have nowhere to go, and are answered so.
func gone(c *listen.Conn, b *exchange.Binding) *exchange.Binding {
	g := *b
	g.App, g.Destinations, g.Snapshot = nil, nil, c.Binding().Snapshot
	return &g
}

// refuse records why and resets.
func (s *Sidecar) refuse(c *listen.Conn, b *exchange.Binding, peer *exchange.Peer, why string) {
	as := *b
	as.Listener.Protocol = flow.ProtocolTCP // nobody has looked
	s.observer.Connection(&as, peer, c.Start, flow.ReasonUnknownDest, why)
	if c.TCP != nil {
		_ = c.TCP.SetLinger(0)
	}
}

// pin is the binding of one connection whose bytes go to the very endpoint that was meant: of what is not HTTP nothing says that another would do.
func pin(b *exchange.Binding, e *policy.Endpoint) *exchange.Binding {
	if e == nil { // it is called by way of an edge, any of whose endpoints will do
		return asBytes(b)
	}
	if !b.Listener.Protocol.MayBeHTTP() && b.Tables[b.Listener.Service] != nil { // its rules say that another does
		return asBytes(b)
	}
	p, d := *b, *b.Destinations[b.Listener.Service]
	d.Picker, d.Retry.Attempts = only{e}, 1
	p.Listener.Protocol, p.Routes = flow.ProtocolTCP, route.To(d.Name)
	p.Destinations = map[string]*exchange.Destination{d.Name: &d}
	return &p
}

// passThrough is the binding of one connection that is passed through to address.
func passThrough(b *exchange.Binding, to netip.AddrPort) *exchange.Binding {
	p, d := *b, *b.Intercepted.Passthrough
	d.Picker = only{&policy.Endpoint{Address: to}}
	p.Listener.Protocol = flow.ProtocolTCP
	p.Routes = route.Only(passthroughRoute, "")
	p.Destinations = map[string]*exchange.Destination{"": &d}
	return &p
}

// only is the Picker of one endpoint, about which it learns nothing.
type only struct{ endpoint *policy.Endpoint }

// Pick implements exchange.Picker.
func (o only) Pick(time.Time, exchange.Want) (exchange.Choice, flow.Reason) {
	return exchange.Choice{Endpoint: o.endpoint, Load: o}, flow.ReasonNone
}

// Typical implements exchange.Picker.
func (only) Typical(time.Time) time.Duration { return 0 }

// Another implements exchange.Picker.
func (only) Another(exchange.Want) bool { return false }

// Begin implements exchange.Load.
func (only) Begin(*exchange.Waiting, time.Time) {}

// End implements exchange.Load.
func (only) End(*exchange.Waiting, time.Time, time.Duration, exchange.Result, time.Duration) {}
