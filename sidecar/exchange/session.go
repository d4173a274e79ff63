package exchange

import (
	"net"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Session is one accepted downstream connection. Its listener makes it, its speaker serves it, and both agree here on when it may be
// closed: a drain closes it only while it is idle, which the speaker alone can know.
type Session struct {
	Conn     net.Conn     // after the handshake, if there was one
	TCP      *net.TCPConn // the socket below Conn; nil for Unix and in-memory connections
	Buffered []byte       // bytes of Conn that were read already
	Peer     *Peer
	Start    time.Time     // when it was accepted
	Protocol flow.Protocol // of a connection that is relayed: ProtocolTLS where its ClientHello was read; 0: TCP
	// ServerName is the name by which its TLS came, in lower case; "" when that was not read or said none.
	ServerName string
	Bind       func() *Binding // the listener's Binding now
	Report     Reporter
	Ended      func() // called when the connection has been served to its end; nil: nothing

	mu       sync.Mutex
	idle     bool
	leaving  bool
	draining bool
	aborted  flow.Reason
	x        *Exchange
	watched  bool        // x is given up when the caller leaves
	timer    *time.Timer // of look; nil: it was never needed
	timing   bool        // it will fire
	onDrain  func()
	onAbort  func(flow.Reason)
}

// Reporter takes connections that never became an exchange.
type Reporter interface {
	Connection(b *Binding, p *Peer, start time.Time, reason flow.Reason, detail string)
}

// SetIdle says that the speaker is about to wait for the next request with the read deadline it has set. False: draining, close now.
func (s *Session) SetIdle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = !s.draining
	return s.idle
}

// SetBusy says that bytes of a request have arrived. It reports whether the session is draining; the read deadline may then have passed and
// must be set anew.
func (s *Session) SetBusy() (draining bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = false
	return s.draining
}

// Draining reports whether the connection is to be closed after the exchange in flight, or after the next one when there is none.
func (s *Session) Draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining || s.leaving
}

// Carry tells the session which Exchange it carries, nil for none, so that Abort reaches it. False: aborted already.
func (s *Session) Carry(x *Exchange) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.carryLocked(x)
}

// lookEvery is how often it is looked whether the caller of an exchange without an answer is still there, and how long nobody looks at first: most are answered sooner.
const lookEvery = 250 * time.Millisecond

// Watch is Carry of an exchange that is of no use when its caller has closed the connection, or its half of it, before an answer began. The speaker reads nothing meanwhile, so
// that it would not notice. A timer that was set is left to fire, for setting one at every request would cost more.
func (s *Session) Watch(x *Exchange) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watched = true
	if !s.timing {
		if s.timing = true; s.timer == nil {
			s.timer = time.AfterFunc(lookEvery, s.look)
		} else {
			s.timer.Reset(lookEvery)
		}
	}
	return s.carryLocked(x)
}

// look ends the exchange whose caller is gone.
func (s *Session) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timing = s.watched && s.x != nil; !s.timing {
		return
	}
	if x := s.x; x.Since() >= lookEvery && !x.Heard.Load() && HungUp(s.Conn) {
		x.Abort(flow.ReasonDownstreamReset)
		s.timing = false
		return
	}
	s.timer.Reset(lookEvery)
}

func (s *Session) carryLocked(x *Exchange) bool {
	if s.x = x; x == nil {
		s.watched = false
	}
	if s.aborted != flow.ReasonNone && x != nil {
		x.Abort(s.aborted)
		return false
	}
	return true
}

// Serve is for a speaker whose connection carries many exchanges at a time, in place of SetIdle, SetBusy and Carry: drain is called when the session
// is to end with the exchanges in flight, abort when these are to end too; each by any goroutine, and without waiting. What was asked for before is
// returned. Serve(nil, nil) when the connection has ended.
func (s *Session) Serve(drain func(), abort func(flow.Reason)) (draining bool, aborted flow.Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onDrain, s.onAbort = drain, abort
	return s.draining || s.leaving, s.aborted
}

// Leave asks the caller to go elsewhere and cuts nothing: an idle connection waits for its next exchange, is told with the answer, and closes then. A
// request that is on its way while the connection closes would fail, and there is none when the caller was told. It does not wait.
func (s *Session) Leave() {
	s.mu.Lock()
	s.leaving = true
	drain := s.onDrain
	s.mu.Unlock()
	if drain != nil {
		drain()
	}
}

// Drain closes the session when it is idle, now or after the exchange in flight. It does not wait.
func (s *Session) Drain() {
	s.mu.Lock()
	s.draining = true
	if s.idle {
		_ = s.Conn.SetReadDeadline(past)
	}
	drain := s.onDrain
	s.mu.Unlock()
	if drain != nil {
		drain()
	}
}

// Abort ends the exchange in flight; the speaker still answers if nothing was answered yet.
func (s *Session) Abort(reason flow.Reason) {
	if abort := s.abort(reason); abort != nil {
		abort(reason)
	}
}

func (s *Session) abort(reason flow.Reason) func(flow.Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	if s.aborted == flow.ReasonNone {
		s.aborted = reason
	}
	if s.idle {
		_ = s.Conn.SetReadDeadline(past)
	}
	if s.x != nil {
		s.x.Abort(s.aborted)
	}
	return s.onAbort
}
