package tcp

import (
	"errors"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// tunnel makes one try for a caller whose CONNECT the sidecar answers itself: it connects, says so, and relays.
func (s *Sender) tunnel(x *exchange.Exchange, caller exchange.Caller) {
	if e := caller.Fault(x); e != nil {
		x.Outcome.Fail(e.Reason, e.Text)
		return
	}
	x.Fresh = true
	up := s.Pool.Get(x)
	if up == nil {
		return
	}
	x.Waiting.Excused.Store(true)
	failed := func(err error) bool {
		if err == nil {
			return false
		}
		reason := flow.ReasonDownstreamReset
		if e := (*exchange.BodyError)(nil); errors.As(err, &e) {
			reason = e.Reason
		}
		s.end(x, up, reason, err)
		return true
	}
	if failed(caller.WriteHead(x, &exchange.Response{Status: 200, Length: -1, Tunnel: true}, false)) || failed(caller.Flush(x)) {
		return
	}
	x.Outcome.Committed, x.Outcome.Delivered = true, true
	x.Relayed.Store(&exchange.Relayed{Legs: x.Legs, TLS: exchange.Secured(up.Conn)})
	x.Binding.Room.Need(exchange.RelayMemory)
	reason, err := exchange.Relay(x, caller.Tunnel(x), exchange.RelayEnd{Conn: up.Conn}, x.Idle())
	x.Binding.Room.Give(exchange.RelayMemory)
	s.end(x, up, reason, err)
}
