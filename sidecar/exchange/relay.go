package exchange

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// RelayEnd is one end of a relay.
type RelayEnd struct {
	net.Conn
	Buffered []byte // bytes of this end that were read already; relayed first
	Counted  bool   // whoever made this end counts what it gives: Relay does not
}

// Relay copies bytes both ways, exactly, until both directions have ended, either end fails, or no byte moved for idle (≤ 0: for ever).
// An end of stream in one direction is passed on as a half-close while the other goes on. Bytes from down count as x.BytesIn, bytes to
// down as x.BytesOut, but for those of an end that is Counted. It returns ReasonNone when both directions ended in order, says in x.Outcome.Ended how
// it came to its end, and of a connection fills x.Legs' Sent, FirstByte and LastByte. The caller closes both connections: in order after ReasonNone, otherwise so that
// the peers notice.
//
// Each direction is a goroutine of its own and climbs three steps, down again when its bytes become few:
//
//  1. It reads into a small buffer, which RelayMemory has paid for.
//  2. What filled that is read into a large one, as long as the Room has some to spare.
//  3. Between two sockets of the kernel, what fills large ones again and again goes from one to the other through a pipe, by splice(2), and is never
//     copied; as long as there are pipes.
//
// Invariants:
//
//  1. Nothing is read unless it can be held: what was read is written before more is read. A peer that does not read is felt by the one that sends.
//  2. While a direction waits for bytes it holds neither buffer nor pipe, where the connection is a socket, in TLS or not. While it waits to write it holds
//     one buffer or one pipe.
//  3. What a pipe holds belongs to one direction; a pipe goes back empty, or is closed.
//  4. Whatever fails wakes both directions, by deadlines that have passed. Whoever sets another deadline looks afterwards whether that has happened.
func Relay(x *Exchange, down, up RelayEnd, idle time.Duration) (flow.Reason, error) {
	r := &relay{x: x, idle: idle}
	if x.Binding != nil {
		r.room = x.Binding.Room
	}
	now := sinceEpoch()
	r.in.begin(r, down, up.Conn, now)
	r.out.begin(r, up, down.Conn, now)
	if !down.Counted {
		r.in.count = &x.BytesIn
	}
	if !up.Counted {
		r.out.count = &x.BytesOut
	}
	if !x.attachRelay(down.Conn, up.Conn) {
		x.Outcome.Ended = flow.EndedDrained
		return x.Aborted(), errAborted
	}
	defer x.attachRelay(nil, nil)
	r.wg.Add(1)
	go r.in.run()
	r.out.work()
	r.wg.Wait()
	r.legs()
	if a := x.Aborted(); a != flow.ReasonNone {
		x.Outcome.Ended = flow.EndedDrained
		return a, errAborted
	}
	// The first failure is the cause; the other direction was only woken by it.
	h := r.failed.Load()
	if h == nil {
		x.Outcome.Ended = flow.EndedUpstreamFIN
		if r.first.Load() == &r.in {
			x.Outcome.Ended = flow.EndedDownstreamFIN
		}
		return flow.ReasonNone, nil
	}
	x.Outcome.Ended = h.ended()
	if h.late && h.reading { // who takes nothing is to blame for it
		return flow.ReasonIdleTimeout, h.err
	}
	if h.reading == (h == &r.in) { // what failed is the caller's connection
		return flow.ReasonDownstreamReset, h.err
	}
	if why, refused := x.CertificateRefused(h.err); refused && h.reading && x.BytesOut.Load() == 0 {
		return flow.ReasonTLSFailed, errors.New(why)
	}
	return flow.ReasonUpstreamReset, h.err
}

var errAborted = errors.New("the relay was cut while the sidecar stopped")

// relay is one Relay.
type relay struct {
	x       *Exchange
	room    *Room
	idle    time.Duration
	wg      sync.WaitGroup
	in, out half                 // from and to the caller
	failed  atomic.Pointer[half] // the first one that did
	first   atomic.Pointer[half] // whose end of stream came first
}

var epoch = time.Now()

// sinceEpoch is the monotonic time.
func sinceEpoch() int64 { return int64(time.Since(epoch)) }

// left is how much of the idle time is left.
func (r *relay) left() time.Duration {
	return r.idle - time.Duration(sinceEpoch()-max(r.in.last.Load(), r.out.last.Load()))
}

// cut reports whether the relay must end because a direction failed or the exchange was aborted.
func (r *relay) cut() bool { return r.failed.Load() != nil || r.x.Aborted() != flow.ReasonNone }

// legs says when bytes went and came.
func (r *relay) legs() {
	if r.x.Kind != flow.KindConnection {
		return // of a tunnel they are those of its request
	}
	at := func(ns int64) time.Duration { return max(epoch.Add(time.Duration(ns)).Sub(r.x.Start), 0) }
	l := &r.x.Legs
	if r.in.began {
		l.Sent = at(r.in.last.Load())
	}
	if r.out.began {
		l.FirstByte, l.LastByte = at(r.out.first), at(r.out.last.Load())
	}
}

// RelayMemory is what one Relay takes of the Room as long as it lives. Its caller takes it and gives it back. Large buffers and pipes are taken by the
// relay itself, when there is room to spare.
const RelayMemory = 2 * smallBuffer

const (
	smallBuffer = 4 << 10
	largeBuffer = 32 << 10

	// bulk is how many bytes make a read a large one, and bulkReads how many of these in a row make it worth a pipe. What goes through a pipe in pieces
	// smaller than bulk is copied again after as many. (BenchmarkRelay.)
	bulk      = 16 << 10
	bulkReads = 4
	// smallReads is how many reads in a row that a small buffer would have held make the large one go.
	smallReads = 4
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)

// half is one direction of a relay: from src to dst. Its goroutine owns it, but for what is marked.
type half struct {
	r     *relay
	src   RelayEnd
	dst   net.Conn
	count *atomic.Uint64 // nil: counted elsewhere
	last  atomic.Int64   // monotonic ns of the last byte; read by both
	first int64          // of the first one
	began bool           // there was one

	in, out *Socket               // of src and dst; nil: they are none. With TLS in is the one below, out nil
	secure  *tls.Conn             // src, when in is the socket below it
	try     func(fd uintptr) bool // of in: made once
	give    func(fd uintptr) bool // of out: made once
	small   *[smallBuffer]byte    // held
	large   *[largeBuffer]byte    // held
	pipe    *pipe                 // held
	n       int                   // bytes that were read, and are in the buffer or the pipe
	rest    []byte                // of the buffer, to be written
	tried   error                 // of try and give
	wantBig bool                  // the next buffer is to be a large one
	score   int                   // large reads in a row, or small ones as a negative number
	splices bool                  // through a pipe
	coarse  bool                  // src or dst does not take pipes
	armed   bool                  // a deadline of dst is set
	armedAt int64                 // when; of what is no Socket
	reading bool                  // it failed reading, and not writing
	late    bool                  // it failed because no byte moved
	err     error                 // why it failed
}

func (h *half) begin(r *relay, src RelayEnd, dst net.Conn, now int64) {
	h.r, h.src, h.dst = r, src, dst
	h.last.Store(now)
	h.look()
}

// look finds the sockets.
func (h *half) look() {
	if h.in == nil {
		h.in, h.secure = socketBelow(h.src.Conn)
		switch {
		case h.secure != nil:
			h.try = h.trySecure
		case h.in != nil:
			h.try = h.tryPlain
		}
	}
	if s, ok := h.dst.(*Socket); ok && h.out == nil {
		h.out, h.give = s, h.giveNow
	}
	h.coarse = h.secure != nil || h.in == nil || h.out == nil
}

// socketBelow is the Socket that c is, or the one below the TLS that it is.
func socketBelow(c net.Conn) (*Socket, *tls.Conn) {
	if s, ok := c.(*Socket); ok {
		return s, nil
	}
	secure, ok := c.(*tls.Conn)
	if !ok {
		return nil, nil
	}
	for below := secure.NetConn(); below != nil; {
		if s, ok := below.(*Socket); ok {
			return s, secure
		}
		n, ok := below.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		below = n.NetConn()
	}
	return nil, nil
}

func (h *half) run() {
	defer h.r.wg.Done()
	h.work()
}

// work carries the direction to its end.
func (h *half) work() {
	err := h.relay()
	h.drop()
	if err != nil {
		h.err = err
		h.r.failed.CompareAndSwap(nil, h)
		_ = h.src.SetDeadline(past)
		_ = h.dst.SetDeadline(past)
	}
}

func (h *half) relay() error {
	if h.rest = h.src.Buffered; len(h.rest) > 0 {
		h.n = len(h.rest)
		h.moved(sinceEpoch())
		if err := h.write(); err != nil {
			return err
		}
	}
	waits := false // with a deadline, which is moved only when it has passed: a byte may have moved since it was set
	for {
		if h.r.idle > 0 && !waits {
			waits = true
			if err := h.src.SetReadDeadline(time.Now().Add(max(h.r.left(), time.Millisecond))); err != nil {
				return h.failRead(err)
			}
			if h.r.cut() { // the wake-up may have come just before the line above
				return h.failRead(os.ErrDeadlineExceeded)
			}
		}
		err := h.read()
		if h.n > 0 {
			h.moved(sinceEpoch())
			if werr := h.write(); werr != nil {
				return werr
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			h.r.first.CompareAndSwap(nil, h)
			_ = CloseWrite(h.dst) // if dst is broken, the other direction says so
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded) && h.r.idle > 0 && !h.r.cut():
			if h.r.left() > 0 {
				waits = false
				continue
			}
			h.late = true
			return h.failRead(err)
		default:
			return h.failRead(err)
		}
	}
}

func (h *half) failRead(err error) error {
	h.reading = true
	return err
}

// ended says how the relay ended by the failure of h.
func (h *half) ended() flow.Ended {
	down := h.reading == (h == &h.r.in)
	switch {
	case h.late:
		return flow.EndedIdle
	case !errors.Is(h.err, syscall.ECONNRESET) && !errors.Is(h.err, syscall.EPIPE) && !errors.Is(h.err, io.ErrClosedPipe):
		return flow.EndedError
	case down:
		return flow.EndedDownstreamReset
	}
	return flow.EndedUpstreamReset
}

// moved notes that bytes move now.
func (h *half) moved(now int64) {
	h.last.Store(now)
	if !h.began {
		h.began, h.first = true, now
	}
}

// sent counts bytes that dst has taken.
func (h *half) sent(n int) {
	if h.count != nil {
		h.count.Add(uint64(n)) //nolint:gosec // not below 0
	}
}

// buffer is the one that is held, a new one if need be.
func (h *half) buffer() []byte {
	switch {
	case h.large != nil:
		return h.large[:]
	case h.small != nil:
		return h.small[:]
	case h.wantBig && h.r.room.TakeSpare(largeBuffer):
		h.large = largeBuffers.Get().(*[largeBuffer]byte)
		return h.large[:]
	}
	h.small = smallBuffers.Get().(*[smallBuffer]byte)
	return h.small[:]
}

// drop gives back what is held. What a pipe still holds is lost.
func (h *half) drop() {
	switch {
	case h.large != nil:
		largeBuffers.Put(h.large)
		h.large = nil
		h.r.room.Give(largeBuffer)
	case h.small != nil:
		smallBuffers.Put(h.small)
		h.small = nil
	}
	if h.pipe != nil {
		h.pipe.giveBack(h.r.room)
		h.pipe = nil
	}
}

// read waits for bytes and reads them, n of them, into the buffer or the pipe that is held. An error may come with bytes.
func (h *half) read() error {
	h.n = 0
	if h.in == nil {
		b := h.buffer()
		var err error
		h.n, err = h.src.Read(b)
		h.gauge(b)
		return err
	}
	err := h.in.Raw.Read(h.try)
	if err == nil {
		err = h.tried
	}
	h.tried = nil
	if err != nil && h.secure == nil {
		err = h.in.explain("read", err)
	}
	return err
}

// tryPlain reads from the socket; false: there is nothing yet, and nothing is held.
func (h *half) tryPlain(fd uintptr) bool {
	if h.splices {
		switch n, err := h.pull(fd); {
		case err == nil:
			h.n = n
			if h.score--; n >= bulk {
				h.score = 0
			}
			if h.score <= -bulkReads {
				h.splices, h.score = false, 0
			}
			return true
		case again(err):
			h.drop()
			return false
		case !errors.Is(err, errors.ErrUnsupported): // the end, or what broke the connection, which the kernel says only once
			h.tried = err
			return true
		}
		h.drop()
		h.splices = false
	}
	b := h.buffer()
	n, err := TryRead(fd, b)
	if again(err) {
		h.drop()
		return false
	}
	h.n, h.tried = n, err
	h.gauge(b)
	return true
}

// trySecure reads from the TLS connection as long as that needs no waiting.
func (h *half) trySecure(fd uintptr) bool {
	b := h.buffer()
	h.in.hold(fd)
	n, err := h.secure.Read(b)
	for n >= bulk && n < len(b) && err == nil { // a Read gives one record, of at most 16 KiB; what has come with it goes with it
		var m int
		m, err = h.secure.Read(b[n:])
		n += m
	}
	h.in.release()
	if err == errNotReady { //nolint:errorlint // ours, and crypto/tls passes on what is temporary as it is
		if n == 0 {
			h.drop()
			return false
		}
		err = nil
	}
	h.n, h.tried = n, err
	h.gauge(b)
	return true
}

// again reports whether there was nothing to read, or no room.
func again(err error) bool { return err == syscall.EAGAIN } //nolint:errorlint // of a system call

// gauge chooses how the next bytes are read by how many these were, of a buffer b, which stays until it has been written.
func (h *half) gauge(b []byte) {
	if len(b) == smallBuffer {
		h.wantBig, h.score = h.n == smallBuffer, 0
	}
	switch {
	case len(b) == smallBuffer || h.n == 0:
	case h.n >= bulk:
		if h.score = max(h.score, 0) + 1; h.score >= bulkReads && !h.coarse {
			h.splices, h.score = true, 0
		}
	case h.n > smallBuffer:
		h.score = 0
	default:
		if h.score = min(h.score, 0) - 1; h.score <= -smallReads {
			h.wantBig, h.score = false, 0
		}
	}
	switch {
	case h.large != nil:
		h.rest = h.large[:h.n]
	default:
		h.rest = h.small[:h.n]
	}
}

// write writes what was read, all of it.
func (h *half) write() error {
	err := h.deliver()
	if err != nil && h.r.idle > 0 && errors.Is(err, os.ErrDeadlineExceeded) && !h.r.cut() {
		h.late = true
	}
	if h.splices != (h.pipe != nil) || !h.splices && h.wantBig != (h.large != nil) { // the next read takes another
		h.drop()
	}
	return err
}

func (h *half) deliver() error {
	if h.out == nil {
		return h.deliverSlowly()
	}
	if h.armed { // by a wait that is over: it would end a later one
		h.armed = false
		if err := h.out.SetWriteDeadline(time.Time{}); err != nil {
			return err
		}
		if h.r.cut() {
			return os.ErrDeadlineExceeded
		}
	}
	err := h.out.Raw.Write(h.give)
	if err == nil {
		err = h.tried
	}
	h.tried = nil
	return h.out.explain("write", err)
}

// giveNow writes to the socket; false: there is no room for the rest yet.
func (h *half) giveNow(fd uintptr) bool {
	for {
		var n int
		var err error
		piped := h.pipe != nil
		switch {
		case piped && h.pipe.held > 0:
			n, err = h.pipe.push(fd)
		case !piped && len(h.rest) > 0:
			n, err = TryWrite(fd, h.rest)
			h.rest = h.rest[max(n, 0):]
		default:
			return true
		}
		switch {
		case err == nil:
			h.sent(n)
			if h.armed {
				h.moved(sinceEpoch())
			}
		case !again(err):
			h.tried = err
			return true
		case h.r.idle <= 0:
			return false
		default: // the peer is slow: it has the idle time from the last byte that it took
			h.armed = true
			if err := h.out.SetWriteDeadline(time.Now().Add(h.r.idle)); err != nil {
				h.tried = err
				return true
			}
			if h.r.cut() {
				h.tried = os.ErrDeadlineExceeded
				return true
			}
			return false
		}
	}
}

// deliverSlowly is for what is no Socket.
func (h *half) deliverSlowly() error {
	if now := h.last.Load(); h.r.idle > 0 && (!h.armed || time.Duration(now-h.armedAt) > h.r.idle/8) {
		h.armed, h.armedAt = true, now
		if err := h.dst.SetWriteDeadline(time.Now().Add(h.r.idle)); err != nil {
			return err
		}
		if h.r.cut() {
			return os.ErrDeadlineExceeded
		}
	}
	n, err := h.dst.Write(h.rest)
	h.rest = nil
	h.sent(n)
	return err
}

// CloseWrite sends the end of stream (FIN, close_notify) and leaves the reading half open. For connections that cannot, it does nothing.
func CloseWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}
