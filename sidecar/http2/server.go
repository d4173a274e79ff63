package http2

import (
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// lagging is how long a stream waits for the workers of those before it, when twice as many as may be open have not ended.
const lagging = 100 * time.Millisecond

// maxResting is how many workers of a connection wait for its next streams.
const maxResting = 64

// Server serves downstream connections by the limits of their listeners. Immutable after its first use.
type Server struct {
	Handler exchange.Handler
	Side    flow.Side
}

// session is what a connection of a caller has beside its frames.
type session struct {
	srv     *Server
	sess    *exchange.Session
	c       *conn
	workers sync.WaitGroup
	lagged  time.Time   // when workers were waited for in vain; the reader's
	abortBy flow.Reason // guarded by c.mu

	// Guarded by c.mu.
	free    *call // workers that rest
	resting int
	closing bool
}

// Serve carries one connection to its end and closes it.
func (srv *Server) Serve(sess *exchange.Session) {
	b := sess.Bind()
	c := &conn{mesh: sess.Peer.Identity != ""}
	s := &session{srv: srv, sess: sess, c: c}
	c.server = s
	c.init(sess.Conn, b.Listener.Limits.WithDefaults(), b.Room)
	if n := len(sess.Buffered); n > 0 {
		if n > len(c.in) {
			c.in = make([]byte, max(readBuffer, n))
		}
		c.w = copy(c.in, sess.Buffered)
		sess.Buffered = nil
	}
	err := s.greet()
	if err == nil {
		c.startTick()
		draining, aborted := sess.Serve(c.drain, s.abort)
		if draining {
			c.drain()
		}
		if aborted != flow.ReasonNone {
			s.abort(aborted)
		}
		err = c.run()
		if errors.Is(err, os.ErrDeadlineExceeded) { // a close in order would say that nothing was processed
			c.giveUp()
		}
		sess.Serve(nil, nil)
	}
	s.report(err)
	c.lost(err)
	close(c.closed)
	_ = c.nc.Close()
	c.stopTick()
	s.close()
	c.wg.Wait()
}

// greet reads the caller's preface and sends ours.
func (s *session) greet() error {
	c := s.c
	_ = c.nc.SetReadDeadline(time.Now().Add(c.set.HeadTimeout))
	for {
		n := min(c.w, len(preface))
		if string(c.in[:n]) != preface[:n] {
			c.mu.Lock()
			c.settingsLocked()
			c.mu.Unlock()
			return c.fault(protocolError("the connection does not begin with the preface (RFC 9113, section 3.4)"))
		}
		if n == len(preface) {
			break
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
	c.r = len(preface)
	_ = c.nc.SetReadDeadline(time.Time{})
	c.mu.Lock()
	c.settingsLocked()
	c.mu.Unlock()
	c.d.add(c)
	return nil
}

// report writes a Record of a connection that ended because of what its caller sent.
func (s *session) report(err error) {
	var f *fatal
	if errors.As(err, &f) {
		s.sess.Report.Connection(s.sess.Bind(), s.sess.Peer, s.sess.Start, flow.ReasonBadRequest, f.Error())
		return
	}
	c := s.c
	switch {
	case c.greeted || err == nil:
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.room.Reached(exchange.LimitHeadTimeout)
		s.sess.Report.Connection(s.sess.Bind(), s.sess.Peer, s.sess.Start, flow.ReasonIdleTimeout, "no HTTP/2 preface arrived in "+c.set.HeadTimeout.String())
	case !errors.Is(err, io.EOF) && s.sess.Peer.Identity != "" && c.seenID == 0:
		// With TLS 1.3 the caller learns here that its certificate was refused, and so do we.
		s.sess.Report.Connection(s.sess.Bind(), s.sess.Peer, s.sess.Start, flow.ReasonTLSFailed, err.Error())
	}
}

// abort ends the exchanges in flight; their workers still answer if nothing was answered yet.
func (s *session) abort(why flow.Reason) {
	c := s.c
	c.mu.Lock()
	s.abortBy = why
	c.mu.Unlock()
	for _, at := range c.streams() {
		at.k.x.Abort(why)
	}
}

// begin gives the stream whose head c has read to a worker.
func (s *session) begin(id uint32) *fatal {
	c, b := s.c, &s.c.block
	if id <= c.seenID {
		return &fatal{code: codeClosed, text: "HEADERS on a stream that is closed (RFC 9113, section 5.1)"}
	}
	c.seenID = id
	c.guard.stream(c)
	if b.fault == nil {
		b.fault = b.req.parse()
	}
	l := &c.set.HTTP2
	c.mu.Lock()
	if c.drained {
		c.forgiveLocked(id)
		c.mu.Unlock()
		return nil // RFC 9113, section 6.8: the caller knows by GOAWAY that it was not processed
	}
	c.lastID = id
	if c.open < l.Streams && c.live >= 2*l.Streams && c.now.Sub(s.lagged) > 10*lagging {
		s.waitForWorkersLocked()
	}
	if c.open >= l.Streams || c.live >= 2*l.Streams {
		c.forgiveLocked(id)
		c.out = appendReset(c.out, id, codeRefused)
		c.mu.Unlock()
		c.d.add(c)
		c.room.Reached(exchange.LimitStreams)
		return c.guard.fault(c)
	}
	c.mu.Unlock()
	bound := s.sess.Bind()
	fault := b.fault
	if fault == nil && b.end && b.req.length > 0 {
		fault = faultLength
	}
	if fault == nil {
		fault = s.excess(bound)
	} else {
		return s.refuse(id, fault)
	}
	if fault != nil && !c.mesh {
		return s.refuse(id, fault)
	}
	s.start(id, bound, fault)
	return nil
}

// waitForWorkersLocked waits for a worker to end: the caller may have its answers before their workers have had their last turn, which is not its fault.
// When none ends it is not done again for a while: what others have on the connection comes behind it.
func (s *session) waitForWorkersLocked() {
	c := s.c
	ended := make(chan struct{})
	c.lag = ended
	c.mu.Unlock()
	c.flushRead()
	t := time.NewTimer(lagging)
	select {
	case <-ended:
	case now := <-t.C:
		s.lagged = now
	case <-c.closed:
	}
	t.Stop()
	c.mu.Lock()
	c.lag = nil
}

// excess is what of a head is over the configured limits of its first line, and of all that a sidecar has sent, which was read by larger ones.
func (s *session) excess(bound *exchange.Binding) *exchange.Fault {
	c, r := s.c, &s.c.block.req
	l := &bound.Listener.Limits
	switch {
	case len(r.method)+len(r.target)+len(r.authority) > l.RequestLine:
		c.block.limit = exchange.LimitRequestLine
		return faultLongLine
	case !c.mesh:
		return nil
	case r.size > l.HeadBytes+meshLimits.bytes-maxConfigured.bytes:
		c.block.limit = exchange.LimitHeadBytes
		return faultTooLarge
	case len(r.fields) > l.HeadFields+meshLimits.fields-maxConfigured.fields:
		c.block.limit = exchange.LimitHeadFields
		return faultTooMany
	}
	return nil
}

// refuse answers or resets, and reports, a stream whose head is not a request.
func (s *session) refuse(id uint32, f *exchange.Fault) *fatal {
	c, b := s.c, &s.c.block
	s.sess.Report.Connection(s.sess.Bind(), s.sess.Peer, c.now, flow.ReasonBadRequest, f.Text)
	if f == faultTooLarge || f == faultTooMany || f == faultLongLine {
		c.room.Reached(b.limit)
	}
	c.mu.Lock()
	c.forgiveLocked(id)
	if answered(f) {
		if b.req.grpc {
			text := exchange.AppendAnswerText(nil, flow.ReasonBadRequest, f.Text, "")
			c.appendGRPCAnswerLocked(id, flow.NewGRPCStatus(grpcCode(f.Status, flow.ReasonBadRequest)), flow.ReasonBadRequest, text, nil)
		} else {
			c.appendAnswerLocked(id, f.Status, flow.ReasonBadRequest, 0, true, nil)
		}
		if !b.end {
			c.out = appendReset(c.out, id, codeNone)
		}
	} else {
		c.out = appendReset(c.out, id, codeProtocol)
	}
	c.mu.Unlock()
	c.d.add(c)
	return c.guard.fault(c)
}

// start gives a stream to a worker that rests, or to a new one.
func (s *session) start(id uint32, bound *exchange.Binding, fault *exchange.Fault) {
	c, b := s.c, &s.c.block
	if fault != nil {
		c.room.Reached(b.limit)
	}
	c.mu.Lock()
	k := s.free
	if k != nil {
		s.free, k.nextFree = k.nextFree, nil
		s.resting--
	}
	c.mu.Unlock()
	if k == nil {
		k = &call{sess: s, wake: make(chan struct{}, 1), done: make(chan struct{}, 1)}
		s.workers.Go(k.work)
	}
	k.mu.Lock()
	k.x.Reset() // here, because bytes of the body count from now on
	k.x.Binding = bound
	k.start, k.moved, k.fault = c.now, c.now, fault
	k.gone, k.goneText, k.finished, k.attached, k.over = flow.ReasonNone, "", false, false, false
	k.req, b.req = b.req, k.req
	k.in.begin(true, c.room)
	k.out.begin(false, c.room)
	k.in.length, k.in.ended, k.bare = k.req.length, b.end, b.end
	if k.charged = callMemory; !c.room.Take(callMemory) {
		k.charged = 0
	}
	k.down = stream{
		c: c, call: k, id: id, opened: true, remoteDone: b.end,
	}
	c.mu.Lock()
	k.down.window, k.down.left = c.initial, c.windowLocked()
	c.table.add(&k.down)
	c.live++
	c.open++
	doze := c.dozing
	why := s.abortBy
	c.mu.Unlock()
	k.mu.Unlock()
	if doze {
		c.rouse()
	}
	if why != flow.ReasonNone {
		k.x.Abort(why)
	}
	k.wake <- struct{}{}
}

// rest keeps a worker for another stream. False: it is not needed any more.
func (s *session) rest(k *call) bool {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.closing || s.resting >= maxResting {
		return false
	}
	k.nextFree, s.free = s.free, k
	s.resting++
	return true
}

// close ends the workers that rest and waits for the others.
func (s *session) close() {
	c := s.c
	c.mu.Lock()
	s.closing = true
	free := s.free
	s.free = nil
	c.mu.Unlock()
	for k := free; k != nil; k = k.nextFree {
		close(k.wake)
	}
	s.workers.Wait()
}
