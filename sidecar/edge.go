package sidecar

import (
	"cmp"
	"fmt"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/balance"
	"github.com/tulle-mesh/tulle/sidecar/detect"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
	"github.com/tulle-mesh/tulle/sidecar/http1"
	"github.com/tulle-mesh/tulle/sidecar/listen"
	"github.com/tulle-mesh/tulle/sidecar/resilience"
	"github.com/tulle-mesh/tulle/sidecar/security"
)

// through is what becomes at an edge of an exchange of a caller with a service: one comes, and it goes on as one of the edge's own. Each of the two edges of the graph
// has its Record.
func (s *Sidecar) through(send exchange.Handler) exchange.Handler {
	return exchange.Chain(send,
		decide,                 // which service
		s.filters.Recall,       //
		s.observer.received,    // the Record of what came
		entry,                  // has it anywhere to go
		s.observer.onward,      // the Record of what goes on
		answer,                 // from here on as outbound
		resilience.Room,        //
		s.filters.Admit,        //
		known,                  //
		resilience.Limit,       //
		resilience.Deadline,    //
		s.filters.Shape,        //
		resilience.Retry,       //
		resilience.TryDeadline, //
		balance.Step,           //
		s.filters.Remember,     //
		s.observer.attempt,     //
	)
}

// entry ends at an edge what goes nowhere.
func entry(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		e := x.Binding.Listener.Edge
		host := x.Head.Authority
		lacks := lacking(e, x.Peer)
		switch {
		case lacks != "":
			x.Outcome.Fail(flow.ReasonPlaintextRefused, "the connection was opened when the listener did not ask for "+lacks+"; open a new one")
		case e != nil && e.RedirectHTTPS != 0 && x.Head.Method == "CONNECT", e != nil && e.RedirectHTTPS != 0 && host == "":
			x.Outcome.Fail(flow.ReasonBadRequest, "it cannot be sent on to https without a host and a path")
		case e != nil && e.RedirectHTTPS != 0:
			x.Outcome.Status, x.Outcome.Location = 308, secured(host, e.RedirectHTTPS) // RFC 9110, section 15.4.9: the method stays
		case x.Decision.Matched():
			next.Handle(x)
			return
		default:
			x.Outcome.Fail(flow.ReasonNoRoute, fmt.Sprintf("no host of the listener is %q", cmp.Or(route.Hostname(host), x.ServerName)))
		}
		x.Outcome.Answered = x.Downstream.Answer(x)
	})
}

// lacking is what a connection does not have that e has begun to ask for after it was opened; "": nothing.
func lacking(e *policy.Edge, p *exchange.Peer) string {
	switch {
	case e == nil:
	case e.Mesh && p.Identity == "":
		return "mTLS"
	case e.TLS != nil && !p.Secure:
		return "TLS"
	case e.TLS != nil && e.TLS.ClientAuth == policy.ClientAuthRequire && !p.Verified:
		return "a certificate"
	}
	return ""
}

// secured is the beginning of the https URL at port of an authority.
func secured(authority string, port uint16) string {
	host := authority[:hostLength(authority)]
	if port == 443 {
		return "https://" + host
	}
	return "https://" + host + ":" + strconv.Itoa(int(port))
}

// edge makes of a listener's binding one of an edge; tables are noted in kept.
func (s *Sidecar) edge(b *exchange.Binding, kept map[rulesKey]*route.Table) {
	l := &b.Listener
	hosts := make(map[string]route.Table, len(l.Edge.Hosts))
	b.Edge = &exchange.Edge{}
	if l.Edge.Mesh {
		b.Edge.Services = make(map[string]*exchange.Binding, len(l.Edge.Hosts))
	}
	for _, v := range l.Edge.Hosts {
		table := route.Only(v.Name, v.Service)
		if !l.Edge.Mesh { // whose callers' sidecars have gone by the rules
			table = routes(b, v.Service).Named(v.Name)
		}
		if len(v.Rules) > 0 {
			table = s.table(kept, v.Service, v.Rules).Named(v.Name)
		}
		for _, h := range v.Hosts {
			hosts[h] = table
			if sv, ok := b.Snapshot.Services[v.Service]; ok && l.Edge.Mesh {
				of := *b
				of.Routes, of.Listener.Protocol = table, sv.Protocol
				of.Listener.Limits = of.Listener.Limits.WithDefaults()
				b.Edge.Services[h] = &of
			}
		}
	}
	b.Routes = route.WithHosts(route.Table{}, hosts)
	if c := l.Edge.TLS; c != nil {
		key := edgeKey + l.Name
		st := s.services[key]
		if st == nil {
			st = &service{}
			s.services[key] = st
		}
		s.credentials.ExpectServer(*c)
		if want := fmt.Sprintf("%d %+v", l.Protocol, *c); st.tls == nil || st.tlsFor != want {
			st.tls, st.tlsFor = s.credentials.Server(*c, l.Protocol), want
		}
		b.Edge.TLS = st.tls
	}
}

// edgeKey sets the state of a listener of an edge apart from that of services.
const edgeKey = "edge "

// enter is receive at an edge: the caller's TLS is ended, or read, or the mesh's.
func (s *Sidecar) enter(c *listen.Conn, b *exchange.Binding) (speaker, *exchange.Session) {
	sess := &exchange.Session{Conn: c.Conn, TCP: c.TCP, Peer: &exchange.Peer{Addr: c.Addr(), Local: c.Local()}, Start: c.Start, Bind: c.Binding, Report: s.observer}
	if b.Listener.ProxyProtocol.Takes(sess.Peer.Addr.Addr()) {
		if _, ok := s.proxied(c, b, sess.Peer); !ok {
			return nil, nil
		}
	}
	if b.Listener.Edge.Mesh {
		return s.enterMesh(c, b, sess)
	}
	http, isHTTP2 := b.Listener.Protocol.HTTP(), false
	if b.Edge.TLS != nil {
		tc, refusal := security.Terminate(c.Conn, b.Edge.TLS)
		if refusal != nil {
			s.turnAway(c, b, sess.Peer, refusal)
			return nil, nil
		}
		if tc == nil {
			return nil, nil
		}
		state := tc.ConnectionState()
		sess.Conn, sess.Peer.Secure, isHTTP2 = tc, true, state.NegotiatedProtocol == "h2"
		sess.Peer.Verified = len(state.VerifiedChains) > 0
		sess.ServerName = nameOf(state.ServerName)
		if !http {
			sess.Peer.TLS = exchange.Secured(tc)
		}
	}
	if !c.Begin(sess) {
		return nil, nil
	}
	if http {
		if b.Edge.TLS == nil { // with TLS, ALPN has said it
			isHTTP2 = detect.HTTP2(sess, b.Listener.Limits.HeadTimeout)
		}
		if isHTTP2 {
			return s.edgeHTTP2, sess
		}
		return s.edgeHTTP, sess
	}
	if b.Listener.Protocol == flow.ProtocolTLS {
		if speak, _ := s.relayTLS(sess, s.edgeTCP); speak == nil {
			return nil, nil
		}
		if sess.Protocol != flow.ProtocolTLS { // it names no host
			s.observer.Connection(b, sess.Peer, c.Start, flow.ReasonBadRequest, "what the caller sent first is no ClientHello of TLS")
			return nil, nil
		}
	}
	if !b.Routes.Match(route.Head{Authority: sess.ServerName}).Matched() {
		s.observer.Connection(b, sess.Peer, c.Start, flow.ReasonNoRoute, fmt.Sprintf("no host of the listener is %q", sess.ServerName))
		if b.Listener.Protocol == flow.ProtocolTLS {
			_ = c.SetDeadline(time.Now().Add(time.Second))
			_, _ = c.Write(unrecognizedName)
			lingerAfter(c.Conn)
		}
		return nil, nil
	}
	return s.edgeTCP, sess
}

// unrecognizedName is the alert of that name, in a record (RFC 8446, section 6.2).
var unrecognizedName = []byte{0x15, 3, 3, 0, 2, 2, 112}

// turnAway records why a connection was not accepted, and tells the caller if it can be told.
func (s *Sidecar) turnAway(c *listen.Conn, b *exchange.Binding, peer *exchange.Peer, refusal *security.Refusal) {
	s.observer.Connection(b, peer, c.Start, refusal.Reason, refusal.Error())
	if !refusal.Plain || !b.Listener.Protocol.MayBeHTTP() || !detect.MayBeHTTP(refusal.First) {
		return
	}
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write(http1.Refusal(refusal.Reason, refusal.Error())); err == nil {
		lingerAfter(c.Conn)
	}
}

// enterMesh is enter for a sidecar, which names the service that it means by SNI.
func (s *Sidecar) enterMesh(c *listen.Conn, b *exchange.Binding, sess *exchange.Session) (speaker, *exchange.Session) {
	u, refusal := s.unwrapper.Unwrap(c.Conn, policy.ModeStrict, flow.ProtocolHTTP, security.HandshakeTimeout)
	if refusal != nil {
		s.turnAway(c, b, sess.Peer, refusal)
		return nil, nil
	}
	if u.Conn == nil {
		return nil, nil
	}
	sess.Conn, sess.Buffered = u.Conn, u.Buffered
	identify(sess.Peer, u.Peer)
	service := b.Edge.Services[u.ServerName]
	if service == nil { // without a byte, so that the caller knows that nothing was delivered
		s.observer.Connection(b, sess.Peer, c.Start, flow.ReasonNoRoute, fmt.Sprintf("%q is no external service that is called by way of %s", u.ServerName, b.Workload.Service))
		return nil, nil
	}
	sess.Bind = func() *exchange.Binding {
		if now := c.Binding(); now.Edge != nil && now.Edge.Services[u.ServerName] != nil {
			return now.Edge.Services[u.ServerName]
		}
		return gone(c, service)
	}
	if !c.Begin(sess) {
		return nil, nil
	}
	switch u.ALPN { // the caller's sidecar knows what it carries
	case exchange.ALPNHTTP2:
		return s.edgeHTTP2, sess
	case exchange.ALPNHTTP1:
		return s.edgeHTTP, sess
	case exchange.ALPNTLS:
		if named(sess, security.HandshakeTimeout) == detect.Left {
			return nil, nil
		}
	}
	sess.Peer.TLS = exchange.Secured(u.Conn)
	own := asBytes(service)
	sess.Bind = func() *exchange.Binding { return own }
	return s.edgeTCP, sess
}

// asBytes is b for connections that are relayed, whatever its service speaks.
func asBytes(b *exchange.Binding) *exchange.Binding {
	p := *b
	if p.Listener.Protocol.MayBeHTTP() { // its rules are for requests
		p.Routes = p.Routes.WithoutRules()
	}
	p.Listener.Protocol = flow.ProtocolTCP
	return &p
}
