package sidecar

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// bridge is the sender of a speaker of HTTP: it sends in the version that the application takes, and else in the one that came. To another sidecar it is
// the one that came: both are to write down the same, and the other one knows its application.
type bridge struct{ came, one, two exchange.Handler }

// Handle implements exchange.Handler.
func (b *bridge) Handle(x *exchange.Exchange) {
	to := b.came
	d := x.Destination
	if !d.MTLS {
		switch d.Protocol {
		case flow.ProtocolHTTP1:
			to = b.one
		case flow.ProtocolHTTP2, flow.ProtocolGRPC:
			to = b.two
		default:
			if d.TLS != nil && to == b.two {
				b.agreed(x)
				return
			}
		}
	}
	to.Handle(x)
}

// agreed is for HTTP/2 to a host whose TLS says whether it speaks that (RFC 7301): where it does not, the request becomes HTTP/1.1, in the same try, because nothing of
// it was sent. What was agreed on is remembered for a while.
func (b *bridge) agreed(x *exchange.Exchange) {
	at, known := x.Choice.Endpoint.Address, x.Destination.HTTP1Only
	if !known.Has(at, time.Now()) {
		b.two.Handle(x)
		if !x.Outcome.HTTP1Only {
			return
		}
		known.Add(at, time.Now())
		x.Outcome = exchange.Outcome{}
		queued := x.Legs.Queued // of the connection that the handshake was for
		defer func() { x.Legs.Queued = queued }()
	}
	b.one.Handle(x)
}
