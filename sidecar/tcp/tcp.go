// Package tcp relays connections byte for byte, with half-close, in both directions. A relayed connection is an Exchange of
// KindConnection: it passes the same steps as a request and ends in one Record.
package tcp

import (
	"cmp"
	"errors"
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
	s.serve(sess, &downstream{sess: sess})
	_ = sess.Conn.Close()
}

// Silence is what may become of a caller that has said nothing yet.
type Silence struct {
	// Leaves is asked about the first bytes of a caller that speaks before its server. True: they are none of tcp's business; what is upstream is closed unused.
	Leaves func(b []byte) bool
	// Spoke is told who spoke first. It is not called when nobody did.
	Spoke func(server bool)
	// Stays is called after Spoke when the connection is relayed as bytes.
	Stays func()
}

// ServeSilent is Serve for a caller that has said nothing: it is connected, and who speaks first decides. True: the caller's first bytes, in sess.Buffered, made Leaves take
// it away; its connection is open still.
func (s *Server) ServeSilent(sess *exchange.Session, silence Silence) (left bool) {
	d := &downstream{sess: sess, silence: &silence}
	s.serve(sess, d)
	if !d.left {
		_ = sess.Conn.Close()
	}
	return d.left
}

func (s *Server) serve(sess *exchange.Session, d *downstream) {
	x := &exchange.Exchange{}
	x.Reset()
	x.Kind, x.Side, x.Protocol = flow.KindConnection, s.Side, cmp.Or(sess.Protocol, flow.ProtocolTCP)
	x.ServerName = sess.ServerName
	x.Peer, x.Binding, x.Start = sess.Peer, sess.Bind(), sess.Start
	x.Downstream = d
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

type downstream struct {
	sess    *exchange.Session
	silence *Silence // nil: it has spoken, or need not
	left    bool     // taken away by silence.Leaves
	over    bool     // without a relay
}

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
	if caller, ok := x.Downstream.(exchange.Caller); ok {
		s.tunnel(x, caller)
		return
	}
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
	x.Waiting.Excused.Store(true) // to connect is all that can be expected of it
	x.Outcome.Committed, x.Outcome.Delivered = true, true
	x.Relayed.Store(&exchange.Relayed{Legs: x.Legs, TLS: exchange.Secured(up.Conn)})
	reason, err := flow.ReasonNone, error(nil)
	var greeting []byte
	if d.silence != nil {
		greeting, reason, err = d.first(x, up)
	}
	if reason == flow.ReasonNone && !d.over {
		reason, err = exchange.Relay(x, exchange.RelayEnd{Conn: d.sess.Conn, Buffered: d.sess.Buffered}, exchange.RelayEnd{Conn: up.Conn, Buffered: greeting}, x.Idle())
	}
	s.end(x, up, reason, err)
}

// end closes what is upstream after a relay, so that the peer notices when bytes are missing.
func (s *Sender) end(x *exchange.Exchange, up *exchange.Conn, reason flow.Reason, err error) {
	if reason != flow.ReasonNone {
		x.Outcome.Fail(reason, err.Error())
		reset(up.TCP)
	} else {
		x.Outcome.Answered = true
	}
	s.Pool.Discard(up)
}

// first waits until somebody speaks. It returns what the server has said; what the caller has is in the session.
func (d *downstream) first(x *exchange.Exchange, up *exchange.Conn) (greeting []byte, reason flow.Reason, err error) {
	said, greeting, reason, err := exchange.First(x, d.sess.Conn, up.Conn, x.Idle(), d.sess.SetIdle, d.sess.SetBusy)
	d.sess.Buffered = said
	switch first := len(greeting) > 0; {
	case first || len(said) > 0:
		d.silence.Spoke(first)
		if d.left = !first && d.silence.Leaves(said); !d.left {
			d.silence.Stays()
		}
		d.over = d.left
	default:
		d.over = errors.Is(err, exchange.ErrCeased)
	}
	return greeting, reason, err
}

// reset closes so that the peer notices that bytes are missing.
func reset(c *net.TCPConn) {
	if c != nil {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}
