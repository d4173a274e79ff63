// Package tcp relays connections byte for byte, with half-close, in both directions. A relayed connection is an Exchange of
// KindConnection: it passes the same steps as a request and ends in one Record.
package tcp

import (
	"cmp"
	"net"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Server makes an exchange of a whole connection.
type Server struct {
	Handler exchange.Handler
	Side    flow.Side
}

// Serve carries one connection to its end and closes it.
func (s *Server) Serve(sess *exchange.Session) {
	defer sess.Conn.Close()
	x := &exchange.Exchange{}
	x.Reset()
	x.Kind, x.Side, x.Protocol = flow.KindConnection, s.Side, cmp.Or(sess.Protocol, flow.ProtocolTCP)
	x.ServerName = sess.ServerName
	x.Peer, x.Binding, x.Start = sess.Peer, sess.Bind(), sess.Start
	x.Downstream = &downstream{sess}
	if x.Crowded = !x.Binding.Room.Take(exchange.RelayMemory); !x.Crowded {
		defer x.Binding.Room.Give(exchange.RelayMemory)
	}
	sess.Carry(x) // if the session is aborted already, Relay says so
	s.Handler.Handle(x)
	sess.Carry(nil)
	if x.Outcome.Reason != flow.ReasonNone {
		reset(sess.TCP)
	}
}

type downstream struct{ sess *exchange.Session }

// Answer implements exchange.Downstream: TCP has no way to say anything.
func (d *downstream) Answer(*exchange.Exchange) bool { return false }

// Replayable implements exchange.Downstream: nothing is read from the caller before a connection upstream exists.
func (d *downstream) Replayable() bool { return true }

// Sender is the last handler: it connects to x.Choice.Endpoint and relays.
type Sender struct {
	Pool exchange.Pool
}

// Handle makes one try.
func (s *Sender) Handle(x *exchange.Exchange) {
	d, ok := x.Downstream.(*downstream)
	if !ok {
		x.Outcome.Fail(flow.ReasonUpstreamProtocol, "only TCP can be sent as TCP")
		return
	}
	x.Fresh = true
	up := s.Pool.Get(x)
	if up == nil {
		return
	}
	x.Outcome.Committed, x.Outcome.Delivered = true, true
	x.Relayed.Store(&exchange.Relayed{Legs: x.Legs, TLS: exchange.Secured(up.Conn)})
	reason, err := exchange.Relay(x, exchange.RelayEnd{Conn: d.sess.Conn, Buffered: d.sess.Buffered}, exchange.RelayEnd{Conn: up.Conn}, x.Destination.IdleTimeout)
	if reason != flow.ReasonNone {
		x.Outcome.Fail(reason, err.Error())
		reset(up.TCP)
	} else {
		x.Outcome.Answered = true
	}
	s.Pool.Discard(up)
}

// reset closes so that the peer notices that bytes are missing.
func reset(c *net.TCPConn) {
	if c != nil {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}
