package sidecar

import (
	"fmt"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/detect"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
	"github.com/tulle-mesh/tulle/sidecar/listen"
	"github.com/tulle-mesh/tulle/sidecar/security"
)

// nameTimeout is how long a redirected connection to no service waits for a name when none is needed: a client of TLS speaks as soon as it is connected.
const nameTimeout = 100 * time.Millisecond

// named reads the ClientHello of a connection whose TLS is passed on, and notes its name.
func named(sess *exchange.Session, wait time.Duration) detect.Spoken {
	hello, spoken := detect.Hello(sess, wait)
	if spoken == detect.TLS {
		sess.Protocol = flow.ProtocolTLS
		sess.ServerName = nameOf(hello.ServerName)
	}
	return spoken
}

// nameOf is an SNI as Records and routes have it; "" for what is no host name.
func nameOf(sni string) string {
	if route.ValidHost(sni) {
		return route.Canonical(sni)
	}
	return ""
}

// relayTLS is for a connection to a service of protocol tls. What is no TLS goes on all the same: its server knows better what to answer.
func (s *Sidecar) relayTLS(sess *exchange.Session, to speaker) (speaker, *exchange.Session) {
	switch named(sess, security.HandshakeTimeout) {
	case detect.Left:
		return nil, nil
	case detect.Silence:
		s.observer.Connection(sess.Bind(), sess.Peer, sess.Start, flow.ReasonIdleTimeout, "no ClientHello arrived in "+security.HandshakeTimeout.String())
		return nil, nil
	}
	return to, sess
}

// passing is for a redirected connection whose original destination is no service: by the name that its TLS asks for it may be a host outside the mesh, and is
// passed on to where it was to go in any case. The name is what the caller says, and proves nothing. unanswered is why it is not known whether it is a service, nil when
// it is known.
func (s *Sidecar) passing(c *listen.Conn, b *exchange.Binding, sess *exchange.Session, unanswered error) (speaker, *exchange.Session) {
	in, rules, to := b.Intercepted, b.Listener.Interception, sess.Peer.Local
	refuses := rules.Unknown == policy.UnknownRefuse
	passed := passThrough(b, to)
	if unanswered != nil {
		refuses = rules.Away == policy.UnknownRefuse
		passed.Note = fmt.Sprintf("passed through without knowing what it is: %v", unanswered)
	}
	sess.Bind = func() *exchange.Binding { return passed }
	if !refuses || !in.Names.Empty() {
		if !c.Begin(sess) {
			return nil, nil
		}
		if !rules.Opaque(to.Port()) {
			place := detect.Silent{To: plain(to)}
			silent := func() (speaker, *exchange.Session) {
				d := &detection{s: s, sess: sess, side: flow.SideClient, memory: &s.serverFirst, place: place, plain: true, outcome: flow.DetectionRemembered}
				return d.speaker(), sess
			}
			if !refuses && s.serverFirst.Has(place) {
				return silent()
			}
			wait := rules.DetectTimeout
			if !refuses {
				wait = min(wait, nameTimeout)
			}
			switch named(sess, wait) {
			case detect.Left:
				return nil, nil
			case detect.Silence:
				if !refuses {
					return silent()
				}
			}
		}
		if name, ok := in.Names.Match(sess.ServerName); ok && sess.ServerName != "" {
			service := in.Bind(name)
			if d := service.Destinations[name]; d != nil && d.Via != "" {
				relayed := asBytes(service)
				sess.Bind = func() *exchange.Binding { return relayed }
				return s.outTCP, sess
			}
			known := pin(service, &policy.Endpoint{Address: to})
			known.Routes = route.Only(passthroughRoute, service.Listener.Service)
			sess.Bind = func() *exchange.Binding { return known }
			return s.outTCP, sess
		}
	}
	if unanswered != nil {
		s.lookups.decided[rules.Away].Add(1)
	}
	if refuses && unanswered != nil {
		s.refuse(c, b, sess.Peer, fmt.Sprintf("%s is not known yet, and %v; spec.intercept.outbound.away is refuse", to, unanswered))
		return nil, nil
	}
	if refuses {
		why := to.String() + " is no service that this sidecar knows"
		if sess.ServerName != "" {
			why += ", nor is " + sess.ServerName
		}
		s.refuse(c, b, sess.Peer, why+"; add one, or set spec.intercept.outbound.unknown to pass")
		return nil, nil
	}
	return s.outTCP, sess
}
