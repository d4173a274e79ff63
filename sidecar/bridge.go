package sidecar

import (
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// bridge is the sender of a speaker of HTTP: it sends in the version that the application takes, and else in the one that came. To another sidecar it is
// the one that came: both are to write down the same, and the other one knows its application.
type bridge struct{ came, one, two exchange.Handler }

// Handle implements exchange.Handler.
func (b *bridge) Handle(x *exchange.Exchange) {
	to := b.came
	if x.Destination.TLS == nil {
		switch x.Destination.Protocol {
		case flow.ProtocolHTTP1:
			to = b.one
		case flow.ProtocolHTTP2, flow.ProtocolGRPC:
			to = b.two
		}
	}
	to.Handle(x)
}
