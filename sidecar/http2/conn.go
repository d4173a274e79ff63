package http2

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

const (
	smallBuffer = 4 << 10
	readBuffer  = 32 << 10 // holds a whole frame
	// maxUnflushed is how many bytes are read at most before what they have led to is written.
	maxUnflushed = 64 << 10
	// maxBlock is how many bytes of a compressed head are read at most, whatever they say.
	maxBlock = 256 << 10
	// lingerTime and lingerBytes bound how long a connection that is closed is read for what the peer still sends, so that what was written is not
	// destroyed by a reset.
	lingerTime  = time.Second
	lingerBytes = 256 << 10
	// maxResets is how many streams are remembered at most that we have reset: all that can have been open, twice, where that is not more.
	maxResets = 4096
	tableSize = 4096 // of the compression, the default (RFC 9113, section 6.5.2)
)

// fatal ends a connection: GOAWAY says why.
type fatal struct {
	code  code
	text  string
	limit exchange.Limit // that was reached; only with codeCalm
	n     int
}

func (f *fatal) Error() string { return f.code.String() + ": " + f.text }

var notHTTP2 = protocolError("the first frame is not SETTINGS (RFC 9113, section 3.4): the peer does not speak HTTP/2; check the protocol of its port")

func protocolError(text string) *fatal  { return &fatal{code: codeProtocol, text: text} }
func frameSizeError(text string) *fatal { return &fatal{code: codeFrameSize, text: text} }

// stream is one stream of a connection, embedded in its call. Its fields belong to c's lock, except that c, id and call change only while it is in no
// table and the call's lock is held.
type stream struct {
	c    *conn
	call *call
	id   uint32

	next       *stream // of the table's bucket
	after      *stream // in the order of c.blocked
	window     int64   // what may be sent
	left       int64   // what the peer may still send
	credit     int     // what it has been granted and not told
	waiting    bool    // in c.blocked
	starved    bool    // waits for its window, or
	over       bool    // for its share of the connection's
	localDone  bool    // we have ended or reset it
	remoteDone bool    // the peer has
	opened     bool    // counted in c.open
}

// conn is one connection, of a caller or to an endpoint.
type conn struct {
	nc     net.Conn
	sock   *exchange.Socket // nil: TLS, or in memory
	client bool             // we have opened it
	mesh   bool             // the peer is a sidecar
	room   *exchange.Room
	set    policy.Limits // with defaults, as they were when it began
	heads  headLimits
	server *session    // of a caller; nil for a client
	pool   *connection // of an endpoint; nil for a server

	// Owned by the reader.
	in      []byte
	r, w    int
	quiet   int // reads that a small buffer would have held
	dec     *hpack.Decoder
	block   block
	d       dirty
	now     time.Time // of the latest read
	guard   guard
	greeted bool   // the peer's first SETTINGS have come
	seenID  uint32 // server: the highest stream of the caller
	heading bool   // headAt is set
	// bytes read since what they led to was written: as long as more is there, it is read first
	unflushed int
	acking    int // control frames answered since then

	heard  atomic.Int64 // unix ns of the latest read
	headAt atomic.Int64 // unix ns of the beginning of a head, while it is not complete
	stuck  atomic.Int64 // unix ns of when the writer last got on; 0: it has nothing to write

	closed chan struct{} // the connection has ended
	wg     sync.WaitGroup
	handed chan handed

	mu      sync.Mutex
	out     []byte // to be written
	spare   []byte // for the next out
	writing bool   // somebody writes
	dead    bool   // nothing can be written any more
	why     error  // the connection has ended; nil: in order, or not yet
	soon    bool   // a worker is going to flush
	resized bool
	acks    int           // control frames not yet written whose number the peer decides
	taken   int           // those of them that are being written
	full    chan struct{} // closed when a write has ended and out is not too full; nil: nobody waits
	enc     encoder
	table   table
	blocked struct{ first, last *stream } // streams that wait for window or out
	window  int64                         // what may be sent
	top     int64                         // the most that window ever was
	left    int64                         // what the peer may still send
	credit  int
	initial int64    // window of a stream, as the peer wants it
	acked   bool     // the peer knows our SETTINGS
	open    int      // streams that the peer counts
	live    int      // streams in table
	sent    int      // DATA frames, for guard
	over    bool     // some stream has used its share of window
	lastID  uint32   // server: the highest stream that was taken
	resets  []uint32 // a ring of streams that we have reset, at which frames may still arrive
	resetAt int
	nextID  uint32
	written uint32        // client: streams from it on were never written
	last    uint32        // client: the peer has said, for good, that it may have processed streams up to it; 0: it has not
	most    int           // streams that the peer takes
	tunnels bool          // the peer takes extended CONNECT
	going   bool          // no new streams
	ending  end           // why the reader is to end, once
	pinged  time.Time     // a PING is out since
	lag     chan struct{} // closed when a stream leaves table; nil: nobody waits
	deaf    bool          // the reader waits for the peer to take what is written
	drainAt time.Time     // a drain has begun
	drained bool          // and its last stream is announced
	tick    *time.Timer
	dozing  bool // tick waits for idleness, not for streams
	born    time.Time
}

// end says why a connection ends though the peer has done nothing wrong.
type end uint8

const (
	endNot  end = iota
	endDone     // nothing is left to do: drained or idle
	endDead     // the peer does not answer
	endHead     // a head did not arrive in time
)

func (c *conn) init(nc net.Conn, l policy.Limits, room *exchange.Room) {
	c.nc, c.sock, c.room, c.set = nc, socketOf(nc), room, l
	c.heads = limitsOf(l)
	if c.mesh || c.client {
		c.heads = meshLimits
	}
	c.closed = make(chan struct{})
	c.window, c.top, c.initial, c.left = initialWindow, initialWindow, initialWindow, initialWindow
	c.most = 100
	c.enc.c, c.enc.size = c, tableSize
	c.enc.h = hpack.NewEncoder(&c.enc)
	c.dec = hpack.NewDecoder(tableSize, c.emit)
	c.dec.SetMaxStringLength(meshLimits.bytes)
	c.in = make([]byte, smallBuffer)
	c.table.init()
	c.now = time.Now()
	c.born = c.now
	c.heard.Store(c.now.UnixNano())
	if c.sock != nil {
		c.sock.BeforeWait(c.beforeWait)
	}
	c.guard.init(l.HTTP2)
}

// settingsLocked appends our first SETTINGS, and opens the connection's window.
func (c *conn) settingsLocked() {
	l := &c.set.HTTP2
	n := 3 * 6
	c.out = appendFrame(c.out, n, frameSettings, 0, 0)
	if c.client {
		c.out = appendSetting(c.out, settingPush, 0)
	} else {
		c.out = appendSetting(c.out, settingMaxStreams, uint32(l.Streams))
	}
	c.out = appendSetting(c.out, settingInitialWindow, uint32(l.StreamWindow))
	if c.client {
		c.out = appendSetting(c.out, settingMaxHead, uint32(c.heads.bytes))
	} else {
		c.out = appendSetting(c.out, settingConnect, 1)
	}
	if more := l.ConnectionWindow - initialWindow; more > 0 {
		c.out = appendWindow(c.out, 0, more)
		c.left += int64(more)
	}
}

// run reads until the connection has ended. It returns why, nil for an end in order.
func (c *conn) run() error {
	defer c.flushOthers() // what the last frames have led to: nobody else may have anything for those connections
	for {
		for c.w-c.r >= frameHeader {
			f := parseFrame(c.in[c.r:c.w])
			if !c.greeted && f.kind != frameSettings { // an endpoint of HTTP/1.1 gives itself away by the first line of its answer
				return c.fault(notHTTP2)
			}
			if f.length > maxFrame {
				return c.fault(frameSizeError("a frame is larger than 16,384 bytes (RFC 9113, section 4.2)"))
			}
			if c.w-c.r < frameHeader+f.length {
				break
			}
			p := c.in[c.r+frameHeader : c.r+frameHeader+f.length]
			if fail := c.frame(f, p); fail != nil {
				return c.fault(fail)
			}
			c.r += frameHeader + f.length
		}
		if c.sock == nil || c.unflushed >= maxUnflushed || c.acking >= c.set.HTTP2.ControlFrames/2 {
			c.flushRead()
		}
		c.timeHead(!c.client && c.waitForReader())
		if err := c.fill(); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
			c.mu.Lock()
			if c.ending == endDone && c.live > 0 {
				c.ending = endNot // the last GOAWAY names a stream that was not in the table yet: it is finished first
			}
			why := c.ending
			c.mu.Unlock()
			switch why {
			case endDone:
				c.finish()
				return nil
			case endDead:
				return os.ErrDeadlineExceeded
			case endHead:
				return c.fault(calm(exchange.LimitHeadTimeout, int(c.set.HeadTimeout.Seconds())))
			}
			_ = c.nc.SetReadDeadline(time.Time{})
			if c.mustStop() { // it came between both
				c.wake()
			}
		}
	}
}

// flushRead writes what the frames that were read have led to.
func (c *conn) flushRead() {
	c.unflushed, c.acking = 0, 0
	c.d.flush()
}

// flushOthers is flushRead at the end of c, to which nothing more is written: what was not written before has not left.
func (c *conn) flushOthers() {
	c.d.remove(c)
	c.flushRead()
}

// beforeWait is called when everything was read that has come: now it is written, with what other readers that are ready have for the same connections.
func (c *conn) beforeWait() {
	if len(c.d.list) > 0 {
		runtime.Gosched()
		c.flushRead()
	}
	c.unflushed = 0
}

func (c *conn) mustStop() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ending != endNot
}

// fill reads once.
func (c *conn) fill() error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if free := len(c.in) - c.w; c.r > 0 && free < len(c.in)/2 {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	}
	if c.w == len(c.in) || len(c.in) == smallBuffer && c.w-c.r >= frameHeader && parseFrame(c.in[c.r:]).length > smallBuffer-frameHeader {
		b := make([]byte, readBuffer)
		c.w = copy(b, c.in[c.r:c.w])
		c.r, c.in, c.quiet = 0, b, 0
	}
	n, err := c.nc.Read(c.in[c.w:])
	if n > 0 {
		c.w += n
		c.unflushed += n
		c.now = time.Now()
		c.heard.Store(c.now.UnixNano())
		c.resize(n)
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// resize makes the buffer fit what arrives: large while large reads come, small again when they do not.
func (c *conn) resize(n int) {
	if n < smallBuffer/2 {
		if c.quiet++; c.quiet == 256 && len(c.in) > smallBuffer && c.w-c.r <= smallBuffer {
			b := make([]byte, smallBuffer)
			c.w = copy(b, c.in[c.r:c.w])
			c.r, c.in = 0, b
		}
		return
	}
	c.quiet = 0
}

// waitForReader waits while the peer does not read its answers: whoever asks without reading is not read. It reports whether it did.
func (c *conn) waitForReader() (waited bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.out) > 2*maxOut && c.writing && !c.dead {
		if c.full == nil {
			c.full = make(chan struct{})
		}
		full, first := c.full, !waited
		waited, c.deaf = true, true
		c.mu.Unlock()
		if first {
			c.flushRead() // it may take long
		}
		select {
		case <-full:
		case <-c.closed:
		}
		c.mu.Lock()
	}
	if waited { // an answer to PING may be among what was not read
		c.deaf, c.pinged = false, time.Time{}
		c.heard.Store(time.Now().UnixNano())
	}
	return waited
}

// fault tells the peer and the operator why the connection ends.
func (c *conn) fault(f *fatal) error {
	if f.code == codeCalm {
		c.room.Reached(f.limit)
	}
	c.mu.Lock()
	c.going = true
	c.out = appendGoaway(c.out, c.lastID, f.code, f.text)
	c.mu.Unlock()
	c.finish()
	return f
}

// giveUp ends a connection whose peer does not answer: it may read later, and has to know then which streams were taken.
func (c *conn) giveUp() {
	c.mu.Lock()
	c.going = true
	c.out = appendGoaway(c.out, c.lastID, codeNone, "no answer to PING")
	c.mu.Unlock()
	c.finish()
}

// finish writes what is left, ends the writing side, and reads for a while what the peer has on its way.
func (c *conn) finish() {
	by := time.Now().Add(lingerTime)
	_ = c.nc.SetWriteDeadline(by)
	_ = c.nc.SetReadDeadline(by)
	c.d.add(c)
	c.d.flush()
	c.mu.Lock()
	for (c.writing || len(c.out) > 0) && !c.dead && time.Now().Before(by) {
		if c.full == nil {
			c.full = make(chan struct{})
		}
		full := c.full
		c.mu.Unlock()
		t := time.NewTimer(time.Until(by))
		select {
		case <-full:
		case <-t.C:
		}
		t.Stop()
		c.mu.Lock()
	}
	c.mu.Unlock()
	if c.client || exchange.CloseWrite(c.nc) != nil {
		return
	}
	b := c.in
	for left := lingerBytes; left > 0; {
		n, err := c.nc.Read(b)
		if err != nil {
			return
		}
		left -= n
	}
}

// wake makes the reader look at c.ending.
func (c *conn) wake() { _ = c.nc.SetReadDeadline(past) }

var past = time.Unix(1, 0)

// mustEndLocked notes that nothing is left to do, once, and reports it.
func (c *conn) mustEndLocked() bool {
	if c.ending != endNot || c.dead || len(c.out) > 0 || c.writing || c.live > 0 {
		return false
	}
	if c.client && c.going || !c.client && c.drained {
		c.ending = endDone
		return true
	}
	return false
}

// frame handles one frame.
func (c *conn) frame(f frame, p []byte) *fatal {
	if c.block.id != 0 && (f.kind != frameContinuation || f.id != c.block.id) {
		return protocolError("a head is not followed by its CONTINUATION (RFC 9113, section 6.2)")
	}
	if !c.greeted {
		if f.kind != frameSettings || f.flags&flagEnd != 0 {
			return notHTTP2
		}
		c.greeted = true
	}
	switch f.kind {
	case frameData:
		return c.data(f, p)
	case frameHeaders:
		return c.headers(f, p)
	case frameContinuation:
		return c.continuation(f, p)
	case frameReset:
		return c.reset(f, p)
	case frameWindow:
		return c.windowUpdate(f, p)
	case frameSettings:
		return c.settings(f, p)
	case framePing:
		return c.ping(f, p)
	case frameGoaway:
		return c.goaway(f, p)
	case framePriority:
		if f.id == 0 {
			return protocolError("PRIORITY on stream 0 (RFC 9113, section 6.3)")
		}
		if f.length != 5 {
			c.resetStream(f.id, codeFrameSize)
			return c.guard.fault(c)
		}
		if be32(p)&maxStreamID == f.id {
			c.resetStream(f.id, codeProtocol)
			return c.guard.fault(c)
		}
		return c.guard.priority(c)
	case framePriorityUpdate:
		if f.id != 0 {
			return protocolError("PRIORITY_UPDATE on a stream (RFC 9218, section 7.1)")
		}
		if f.length < 4 {
			return frameSizeError("PRIORITY_UPDATE is too short (RFC 9218, section 7.1)")
		}
		if be32(p)&maxStreamID == 0 {
			return protocolError("PRIORITY_UPDATE for stream 0 (RFC 9218, section 7.1)")
		}
		return c.guard.priority(c)
	case framePush:
		return protocolError("PUSH_PROMISE though push is off (RFC 9113, section 6.6)")
	}
	return c.guard.unknown(c) // RFC 9113, section 5.5
}

func be32(p []byte) uint32 {
	return uint32(p[0])<<24 | uint32(p[1])<<16 | uint32(p[2])<<8 | uint32(p[3])
}

// knownLocked says whether the peer may know a stream that is not in the table: one that was open, and is forgotten.
func (c *conn) knownLocked(id uint32) bool {
	if c.client {
		return id&1 == 1 && id < c.nextID
	}
	return id&1 == 1 && id <= c.seenID
}

// forgiven reports whether frames of a stream may still be on their way because we have reset it.
func (c *conn) forgiven(id uint32) bool {
	for _, r := range c.resets {
		if r == id {
			return true
		}
	}
	return false
}

// forgive notes that we have reset a stream.
func (c *conn) forgiveLocked(id uint32) {
	if len(c.resets) < min(2*max(c.set.HTTP2.Streams, c.open), maxResets) {
		c.resets = append(c.resets, id)
		return
	}
	c.resets[c.resetAt] = id
	c.resetAt = (c.resetAt + 1) % len(c.resets)
}

func (c *conn) data(f frame, p []byte) *fatal {
	if f.id == 0 {
		return protocolError("DATA on stream 0 (RFC 9113, section 6.1)")
	}
	body, ok := unpad(f, p)
	if !ok {
		return protocolError("more padding than payload (RFC 9113, section 6.1)")
	}
	end := f.flags&flagEnd != 0
	if len(body) == 0 && !end {
		if fail := c.guard.emptyFrame(c); fail != nil {
			return fail
		}
	} else {
		c.guard.empty = 0
	}
	n := int64(f.length)
	tight := c.room.Tight()
	c.mu.Lock()
	if c.left -= n; c.left < 0 {
		c.mu.Unlock()
		return &fatal{code: codeFlowControl, text: "more DATA than the connection's window (RFC 9113, section 6.9)"}
	}
	s := c.table.get(f.id)
	if s == nil || s.remoteDone {
		forgiven := c.forgiven(f.id)
		known := s != nil || c.knownLocked(f.id)
		c.creditLocked(int(n))
		if known && !forgiven {
			c.forgiveLocked(f.id)
			c.out = appendReset(c.out, f.id, codeClosed)
		}
		c.mu.Unlock()
		c.d.add(c)
		switch {
		case !known:
			return protocolError("DATA on an idle stream (RFC 9113, section 5.1)")
		case forgiven:
			return nil
		}
		return c.guard.fault(c)
	}
	if s.left -= n; s.left < 0 && n > 0 {
		k := s.call
		c.mu.Unlock()
		c.failStream(k, s, f.id, codeFlowControl, nil)
		return c.guard.fault(c)
	}
	padding, before := int(n)-len(body), len(c.out)
	if end {
		s.remoteDone = true
		c.closedLocked(s)
	}
	owed := 0
	if tight {
		owed = len(body)
		c.creditLocked(padding)
	} else {
		c.creditLocked(int(n))
	}
	if padding > 0 && !end {
		c.streamCreditLocked(s, padding)
	}
	if len(c.out) != before {
		c.d.add(c)
	}
	k := s.call
	c.mu.Unlock()
	return k.data(c, s, f.id, body, end, owed)
}

// creditLocked grants the peer n bytes of the connection's window, and tells it when that is worth a frame.
func (c *conn) creditLocked(n int) {
	c.credit += n
	if c.credit >= c.set.HTTP2.ConnectionWindow/4 && !c.dead {
		c.out = appendWindow(c.out, 0, c.credit)
		c.left += int64(c.credit)
		c.credit = 0
	}
}

// streamCreditLocked is creditLocked for a stream.
func (c *conn) streamCreditLocked(s *stream, n int) {
	if s.remoteDone {
		return
	}
	s.credit += n
	if s.credit >= c.set.HTTP2.StreamWindow/4 && !c.dead {
		c.out = appendWindow(c.out, s.id, s.credit)
		s.left += int64(s.credit)
		s.credit = 0
	}
}

// closedLocked counts a stream that is closed on both sides as closed. A client's leaves the table at once; a server's is in it until its worker has
// ended.
func (c *conn) closedLocked(s *stream) {
	if !s.localDone || !s.remoteDone || !s.opened {
		return
	}
	s.opened = false
	c.open--
	if c.client {
		c.removeLocked(s)
	}
}

// removeLocked takes s out of the table, if it is there.
func (c *conn) removeLocked(s *stream) {
	c.unblockLocked(s)
	if !c.table.remove(s) {
		return
	}
	c.live--
	if c.lag != nil {
		close(c.lag)
		c.lag = nil
	}
}

// resetStream resets a stream that is in no table, or whose call does not matter.
func (c *conn) resetStream(id uint32, why code) {
	c.mu.Lock()
	s := c.table.get(id)
	if s != nil {
		k := s.call
		c.mu.Unlock()
		c.failStream(k, s, id, why, nil)
		return
	}
	c.forgiveLocked(id)
	c.out = appendReset(c.out, id, why)
	c.mu.Unlock()
	c.d.add(c)
}

// failStream resets a stream because its peer has broken a rule, and lets its call know.
func (c *conn) failStream(k *call, s *stream, id uint32, why code, fault *exchange.Fault) {
	c.mu.Lock()
	if c.table.get(id) == s {
		c.cutLocked(s, why)
	}
	c.mu.Unlock()
	c.d.add(c)
	k.peerFailed(c, s, id, why, fault)
}

// cutLocked resets s unless it is closed.
func (c *conn) cutLocked(s *stream, why code) {
	if s.localDone && s.remoteDone {
		return
	}
	c.forgiveLocked(s.id)
	if !c.dead {
		c.out = appendReset(c.out, s.id, why)
	}
	c.unblockLocked(s)
	s.localDone, s.remoteDone = true, true
	c.closedLocked(s)
}

// leave ends a call's part in s, whose peer is told why unless s is closed, and grants what the call still owes the connection. It reports whether c is
// to be flushed, and whether its reader is to be woken to its end.
func (c *conn) leave(s *stream, why code, owed int) (appended, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := len(c.out)
	c.cutLocked(s, why)
	c.removeLocked(s)
	if owed > 0 {
		c.creditLocked(owed)
	}
	return len(c.out) != before, c.mustEndLocked()
}

func (c *conn) reset(f frame, p []byte) *fatal {
	switch {
	case f.id == 0:
		return protocolError("RST_STREAM on stream 0 (RFC 9113, section 6.4)")
	case f.length != 4:
		return frameSizeError("RST_STREAM is not 4 bytes long (RFC 9113, section 6.4)")
	}
	c.mu.Lock()
	s := c.table.get(f.id)
	if s == nil {
		known := c.knownLocked(f.id)
		c.mu.Unlock()
		if !known {
			return protocolError("RST_STREAM on an idle stream (RFC 9113, section 5.1)")
		}
		return c.guard.reset(c)
	}
	was := s.localDone && s.remoteDone
	c.unblockLocked(s)
	s.localDone, s.remoteDone = true, true
	c.closedLocked(s)
	k := s.call
	c.mu.Unlock()
	if !was {
		k.peerReset(c, s, f.id, code(be32(p)))
	}
	return c.guard.reset(c)
}

func (c *conn) windowUpdate(f frame, p []byte) *fatal {
	if f.length != 4 {
		return frameSizeError("WINDOW_UPDATE is not 4 bytes long (RFC 9113, section 6.9)")
	}
	n := int64(be32(p) & maxStreamID)
	if fail := c.guard.windowUpdate(c); fail != nil {
		return fail
	}
	c.mu.Lock()
	if f.id == 0 {
		if n == 0 {
			c.mu.Unlock()
			return protocolError("WINDOW_UPDATE of 0 (RFC 9113, section 6.9)")
		}
		if c.window += n; c.window > maxWindow {
			c.mu.Unlock()
			return &fatal{code: codeFlowControl, text: "the connection's window is larger than 2^31-1 (RFC 9113, section 6.9.1)"}
		}
		c.top = max(c.top, c.window)
		waiting, over := c.blocked.first != nil, c.over
		c.mu.Unlock()
		if waiting {
			c.resume(&c.d)
		}
		if over {
			c.widen(&c.d)
		}
		return nil
	}
	s := c.table.get(f.id)
	if s == nil {
		known := c.knownLocked(f.id)
		c.mu.Unlock()
		if !known {
			return protocolError("WINDOW_UPDATE on an idle stream (RFC 9113, section 5.1)")
		}
		return nil
	}
	if s.window += n; n == 0 || s.window > maxWindow {
		closed := s.localDone && s.remoteDone
		k := s.call
		c.mu.Unlock()
		if closed {
			return nil
		}
		why := codeFlowControl
		if n == 0 {
			why = codeProtocol
		}
		c.failStream(k, s, f.id, why, nil)
		return c.guard.fault(c)
	}
	starved := s.starved
	s.starved, s.over = false, false
	k := s.call
	c.mu.Unlock()
	if starved {
		k.resume(s, c, f.id, &c.d)
		c.d.add(c)
	}
	return nil
}

func (c *conn) settings(f frame, p []byte) *fatal {
	switch {
	case f.id != 0:
		return protocolError("SETTINGS on a stream (RFC 9113, section 6.5)")
	case f.flags&flagEnd != 0:
		if f.length != 0 {
			return frameSizeError("SETTINGS with ACK and a payload (RFC 9113, section 6.5)")
		}
		c.acknowledged()
		return nil
	case f.length%6 != 0:
		return frameSizeError("SETTINGS are not a multiple of 6 bytes long (RFC 9113, section 6.5)")
	case f.length > 6*64:
		return &fatal{code: codeCalm, text: "more than 64 settings in one frame", limit: exchange.LimitControlFrames}
	}
	var starved []*stream
	c.mu.Lock()
	for ; len(p) > 0; p = p[6:] {
		id, v := uint16(p[0])<<8|uint16(p[1]), be32(p[2:])
		switch id {
		case settingTableSize:
			c.enc.size = int(min(v, tableSize))
			c.enc.h.SetMaxDynamicTableSize(uint32(c.enc.size))
			c.resized = true
		case settingPush:
			if v > 1 || v == 1 && c.client {
				c.mu.Unlock()
				return protocolError("ENABLE_PUSH is not allowed to be that (RFC 9113, section 6.5.2)")
			}
		case settingMaxStreams:
			c.most = int(min(v, maxStreamID))
		case settingInitialWindow:
			if v > maxWindow {
				c.mu.Unlock()
				return &fatal{code: codeFlowControl, text: "INITIAL_WINDOW_SIZE is larger than 2^31-1 (RFC 9113, section 6.5.2)"}
			}
			change := int64(v) - c.initial
			c.initial = int64(v)
			overflow := false
			c.table.each(func(s *stream) {
				s.window += change
				overflow = overflow || s.window > maxWindow
				if s.starved && s.window > 0 {
					starved = append(starved, s)
				}
			})
			if overflow {
				c.mu.Unlock()
				return &fatal{code: codeFlowControl, text: "INITIAL_WINDOW_SIZE makes a window larger than 2^31-1 (RFC 9113, section 6.9.2)"}
			}
		case settingMaxFrame:
			if v < maxFrame || v > 1<<24-1 {
				c.mu.Unlock()
				return protocolError("MAX_FRAME_SIZE is out of range (RFC 9113, section 6.5.2)")
			}
		case settingConnect:
			if v > 1 || v == 0 && c.tunnels {
				c.mu.Unlock()
				return protocolError("ENABLE_CONNECT_PROTOCOL is not 0 or 1, or is taken back (RFC 8441, section 3)")
			}
			c.tunnels = v == 1
		}
	}
	c.out = appendFrame(c.out, 0, frameSettings, flagEnd, 0)
	c.acks++
	c.acking++
	fail := c.guard.controlLocked(c)
	places := make([]place, 0, len(starved))
	for _, s := range starved {
		s.starved = false
		places = append(places, place{s, s.call, s.id})
	}
	most := c.most
	c.mu.Unlock()
	c.d.add(c)
	for _, at := range places {
		at.k.resume(at.s, c, at.id, &c.d)
	}
	if c.pool != nil {
		c.pool.settled(most)
	}
	return fail
}

// acknowledged takes that the peer knows our windows. Until then it may have taken those of its streams for the default (RFC 9113, section 6.9.3).
func (c *conn) acknowledged() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if less := int64(initialWindow - c.set.HTTP2.StreamWindow); !c.acked && less > 0 {
		c.table.each(func(s *stream) { s.left -= less }) // below zero, if need be: it cannot send then
	}
	c.acked = true
}

// windowLocked is what the peer may send on a new stream.
func (c *conn) windowLocked() int64 {
	if !c.acked {
		return int64(max(initialWindow, c.set.HTTP2.StreamWindow))
	}
	return int64(c.set.HTTP2.StreamWindow)
}

func (c *conn) ping(f frame, p []byte) *fatal {
	switch {
	case f.id != 0:
		return protocolError("PING on a stream (RFC 9113, section 6.7)")
	case f.length != 8:
		return frameSizeError("PING is not 8 bytes long (RFC 9113, section 6.7)")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.d.add(c)
	if f.flags&flagEnd != 0 {
		c.pinged = time.Time{}
		if [8]byte(p) == drainPing && !c.drainAt.IsZero() {
			c.lastGoawayLocked()
		}
		return nil
	}
	c.out = appendPing(c.out, true, [8]byte(p))
	c.acks++
	c.acking++
	return c.guard.controlLocked(c)
}

func (c *conn) goaway(f frame, p []byte) *fatal {
	switch {
	case f.id != 0:
		return protocolError("GOAWAY on a stream (RFC 9113, section 6.8)")
	case f.length < 8:
		return frameSizeError("GOAWAY is too short (RFC 9113, section 6.8)")
	}
	if !c.client {
		return nil // we open no streams; the caller closes when its own have ended
	}
	c.pool.retire()
	last := be32(p) & maxStreamID
	c.mu.Lock()
	c.going = true           // first: a stream that were opened behind refuse would never be answered
	if last != maxStreamID { // that only announces the one that counts (RFC 9113, section 6.8)
		c.last = last
	}
	c.mu.Unlock()
	c.refuse(last)
	c.mu.Lock()
	ended := c.mustEndLocked()
	c.mu.Unlock()
	if ended {
		c.wake()
	}
	return nil
}

// refuse fails the streams above last: the peer has not seen them (RFC 9113, section 6.8).
func (c *conn) refuse(last uint32) {
	for _, at := range c.streams() {
		if at.id > last {
			c.mu.Lock()
			if c.table.get(at.id) == at.s {
				at.s.localDone, at.s.remoteDone = true, true
				c.closedLocked(at.s)
			}
			c.mu.Unlock()
			at.k.unprocessed(c, at.s, at.id)
		}
	}
}

// place is a stream as it was seen under a connection's lock.
type place struct {
	s  *stream
	k  *call
	id uint32
}

// streams are those in the table.
func (c *conn) streams() []place {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := make([]place, 0, c.live)
	c.table.each(func(s *stream) { all = append(all, place{s, s.call, s.id}) })
	return all
}

// lost ends all streams after the connection has ended; why is nil when the peer ended it in order.
func (c *conn) lost(why error) {
	c.mu.Lock()
	c.dead, c.going, c.why = true, true, why
	c.mu.Unlock()
	for _, at := range c.streams() {
		at.k.lost(c, at.s, at.id, why)
	}
}
