package http1

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

const (
	// lingerTime and lingerBytes bound how long a connection that is closed early is read for what the caller still sends, so that the answer
	// is not destroyed by a reset.
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

// What a connection takes of its sidecar's Room. While it is idle it takes nothing: its number bounds what it holds.
const (
	workingSet = 2*smallBuffer + mediumBuffer // of an exchange: what was read, what is written, what the upstream sends
	leastSet   = 2 * smallBuffer              // of one that is shed
)

// Server serves downstream connections by the limits of their listeners. Immutable after its first use.
type Server struct {
	Handler exchange.Handler
	Side    flow.Side
}

// Serve carries one connection to its end and closes it.
func (s *Server) Serve(sess *exchange.Session) {
	c := &conn{srv: s, sess: sess, nc: sess.Conn, mesh: sess.Peer.Identity != ""}
	c.bind()
	c.room = c.bound.Room
	if len(sess.Buffered) > 0 {
		c.in.append(sess.Buffered)
		sess.Buffered = nil
	}
	c.sock = newSocket(sess, c.park)
	c.serve()
}

// conn is one downstream connection. It belongs to the goroutine of Serve; the uploader owns body and the reading side of nc while it runs.
type conn struct {
	srv    *Server
	sess   *exchange.Session
	nc     net.Conn
	mesh   bool              // the caller is a sidecar
	room   *exchange.Room    // may be nil
	bound  *exchange.Binding // of the head being read, or the last one
	set    policy.Limits     // of bound, with defaults
	limits Limits            // of a head, from set
	sock   *socket           // nil: TLS, or not available

	in      buffer
	idleSet time.Time // when the idle deadline was set; zero: it is not in force
	timed   bool      // another read deadline is in force, which may pass
	writeBy time.Time // write deadline in force
	w       *work     // nil while idle
	asked   bool      // a first request was read
	armed   bool      // the head being read has its deadline
	charged int       // bytes taken of room
	crowded bool      // room had not enough for the exchange
}

// work is what a connection needs while it carries an exchange.
type work struct {
	x    exchange.Exchange
	req  head
	resp head
	body body
	keep bool // the connection may carry another request
	out  []byte
	up   buffer
	mint [36]byte // a request id that was made here

	leftover  []byte // of the next request, read by the uploader
	uploading bool
	uploaded  chan upload
	ended     upload // how the upload of the current try ended; zero while there is none
	stopping  atomic.Bool
	broken    bool // the current try did not get the whole request upstream

	bridge *bridge // for requests that another speaker sends; nil before the first
}

var errGone = errors.New("the caller closed the connection")

func (c *conn) serve() {
	defer c.nc.Close()
	defer c.discharge()
	defer c.in.release()
	for {
		start, ok := c.readHead()
		if !ok {
			break
		}
		keep := c.exchange(start)
		c.dropWork()
		if !keep {
			return
		}
	}
}

// bind takes the listener's Binding, and with it its limits, as they are now.
func (c *conn) bind() {
	b := c.sess.Bind()
	if b == c.bound {
		return
	}
	c.bound, c.set = b, b.Listener.Limits.WithDefaults()
	c.timed = c.timed || !c.idleSet.IsZero()
	c.limits, c.idleSet = limitsOf(c.set), time.Time{}
	if c.mesh {
		c.limits = MeshLimits
	}
}

// charge takes of the sidecar's room what an exchange needs. When that is not there, the exchange is to be shed, and only what that takes
// is taken.
func (c *conn) charge() {
	if c.crowded = !c.room.Take(workingSet - c.charged); !c.crowded {
		c.charged = workingSet
	} else if c.charged == 0 {
		c.room.Need(leastSet)
		c.charged = leastSet
	}
}

func (c *conn) discharge() {
	if c.charged > 0 {
		c.room.Give(c.charged)
		c.charged = 0
	}
}

// grow makes c.in larger: twice, because what is written upstream grows with it. False: it is as large as it gets, or there is no room, which
// c.crowded says.
func (c *conn) grow() bool {
	n := c.in.next()
	if n == 0 {
		return false
	}
	if n = 2 * (n - len(c.in.b)); !c.room.Take(n) {
		c.crowded = true
		return false
	}
	c.charged += n
	return c.in.grow()
}

// excess is what of a sidecar's head is over the configured limits. Everybody else's was refused before it was parsed.
func (c *conn) excess() *fault {
	l, h := &c.set, &c.w.req
	switch {
	case !c.mesh:
		return nil
	case int(h.target.hi)+len(" HTTP/1.1") > l.RequestLine:
		return faultLongLine
	case len(h.buf) > l.HeadBytes+meshBytes:
		return faultTooLarge
	case h.n > l.HeadFields+meshFields:
		return faultTooMany
	}
	return nil
}

// reached counts the limit that f is about.
func (c *conn) reached(f *fault) {
	switch f {
	case faultTooLarge:
		c.room.Reached(exchange.LimitHeadBytes)
	case faultTooMany:
		c.room.Reached(exchange.LimitHeadFields)
	case faultLongLine:
		c.room.Reached(exchange.LimitRequestLine)
	}
}

// readHead waits for the next request and parses its head into c.w. False: the connection has ended, and was reported if it has to be.
func (c *conn) readHead() (start time.Time, ok bool) {
	c.armed = false
	if len(c.in.unread()) == 0 {
		c.in.release()
		c.discharge()
		c.bind()
		if !c.waitIdle() {
			return start, false
		}
	} else {
		c.in.compact() // also when draining: nobody has told the caller yet, and the answer will
	}
	c.bind()
	if c.charged < workingSet {
		c.charge()
	}
	start = time.Now()
	if !c.asked {
		c.asked = true
	}
	if c.skipEmptyLine(start) {
		return start, false
	}
	searched := 0
	for {
		b := c.in.unread()
		n, f := headEnd(b, searched)
		if f == nil && n == 0 && len(b) >= c.limits.HeadBytes || n > c.limits.HeadBytes {
			f = faultTooLarge
		}
		if f == nil && n == 0 && len(b) > c.limits.Line+1 && searched <= c.limits.Line+1 && bytes.IndexByte(b[:c.limits.Line+2], '\n') < 0 {
			f = faultLongLine
		}
		if f != nil {
			c.refuse(start, f)
			return start, false
		}
		if n > 0 {
			c.takeWork()
			if f := c.w.req.parseRequest(b[:n:n], c.limits); f != nil {
				c.refuse(start, f)
				c.dropWork()
				return start, false
			}
			c.in.r += n
			return start, true
		}
		searched = len(b)
		if c.in.w == len(c.in.b) {
			c.in.compact()
			if c.in.w == len(c.in.b) && !c.grow() {
				if c.crowded {
					c.shed(start)
				} else {
					c.refuse(start, faultTooLarge)
				}
				return start, false
			}
		}
		if !c.more(start) {
			return start, false
		}
	}
}

// skipEmptyLine drops one empty line before the start line (RFC 9112, section 2.2). True: the connection has ended.
func (c *conn) skipEmptyLine(start time.Time) bool {
	for len(c.in.unread()) > 0 && c.in.unread()[0] == '\r' {
		if len(c.in.unread()) >= 2 {
			if c.in.unread()[1] == '\n' {
				c.in.r += 2
			}
			return len(c.in.unread()) == 0 && !c.more(start)
		}
		if !c.more(start) {
			return true
		}
	}
	return false
}

// more reads on within a head. False: it did not come; the connection was reported.
func (c *conn) more(start time.Time) bool {
	if !c.armed { // whatever deadline an exchange, or nobody, has left behind
		c.armed = true
		c.readBy(start.Add(c.set.HeadTimeout))
	}
	_, err := c.in.fill(c.nc)
	if err == nil {
		return true
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.room.Reached(exchange.LimitHeadTimeout)
		c.report(start, flow.ReasonIdleTimeout, "the head of a request did not arrive in "+c.set.HeadTimeout.String())
		// A sidecar is not answered without an exchange: it would take the attempt as delivered.
		if !c.mesh {
			c.static(408, flow.ReasonIdleTimeout, "the head of the request did not arrive in "+c.set.HeadTimeout.String()+"; send it faster")
		}
	default:
		c.report(start, flow.ReasonDownstreamReset, "the caller left within a head")
	}
	return false
}

// waitIdle waits for the first byte of a request. False: the connection has ended without one.
func (c *conn) waitIdle() bool {
	if c.timed || !c.idleSet.IsZero() { // a deadline that has passed would fail even a read of what is there
		c.armIdle()
	}
	var n int
	var err error
	parked := true
	if c.sock != nil {
		n, err = c.sock.read(&c.in)
		parked = c.sock.parked
	} else if c.park() {
		c.in.acquire(smallBuffer)
		n, err = c.in.fill(c.nc)
	}
	if parked && c.sess.SetBusy() { // Drain may have set a deadline that has passed
		c.readBy(time.Now().Add(c.set.HeadTimeout))
	}
	if n == 0 && parked && errors.Is(err, os.ErrDeadlineExceeded) && c.sess.Draining() {
		n = c.look()
	}
	if n > 0 {
		return true
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && !c.sess.Draining() {
		c.room.Reached(exchange.LimitIdleTimeout)
	}
	if _, secure := c.nc.(*tls.Conn); err != nil && secure && !c.asked && !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, net.ErrClosed) {
		// With TLS 1.3 the caller learns here that its certificate was refused, and so do we.
		c.report(c.sess.Start, flow.ReasonTLSFailed, err.Error())
	}
	return false
}

// glance is how long look waits for what TLS has not decrypted yet.
const glance = time.Millisecond

// look reads what has arrived while a drain closed the idle connection: a request that is here is answered.
func (c *conn) look() (n int) {
	if c.sock != nil {
		n, _ = c.sock.look(&c.in)
		return n
	}
	c.readBy(time.Now().Add(glance))
	c.in.acquire(smallBuffer)
	n, _ = c.in.fill(c.nc)
	c.readBy(time.Now().Add(c.set.HeadTimeout))
	return n
}

// park prepares for waiting. False: the session is draining, do not wait.
func (c *conn) park() bool {
	c.armIdle()
	return c.sess.SetIdle()
}

// armIdle makes sure that the idle deadline is in force and not older than an eighth of its time.
func (c *conn) armIdle() {
	if now := time.Now(); c.idleSet.IsZero() || now.Sub(c.idleSet) > c.set.IdleTimeout/8 {
		c.readBy(now.Add(c.set.IdleTimeout))
		c.idleSet, c.timed = now, false
	}
}

// readBy sets another read deadline than the idle one.
func (c *conn) readBy(by time.Time) {
	c.idleSet, c.timed = time.Time{}, true
	_ = c.nc.SetReadDeadline(by)
}

// exchange carries one exchange. It reports whether the connection may carry another.
func (c *conn) exchange(start time.Time) bool {
	w := c.w
	x := &w.x
	x.Reset()
	x.Kind, x.Side, x.Protocol = flow.KindExchange, c.srv.Side, flow.ProtocolHTTP1
	x.Peer, x.Binding, x.Start, x.Downstream, x.Crowded = c.sess.Peer, c.bound, start, c, c.crowded
	x.Legs.HeadParsed = x.Since()
	h := &w.req
	x.Head.Method = exchange.Method(h.bytes(h.method))
	x.Head.Idempotent = exchange.Idempotent(x.Head.Method)
	x.Head.Safe = exchange.Safe(x.Head.Method) && !h.chunked && h.length <= 0
	x.Head.Path = h.pathString()
	x.Head.Authority = h.str(h.author)
	x.Head.Absolute, x.Head.Secure = h.abs || h.connect, h.https
	x.Head.UserAgent = h.value(h.userAgent)
	x.Head.RequestID = h.value(h.requestID)
	if h.requestID < 0 {
		exchange.AppendRequestID(w.mint[:0])
		x.Head.RequestID = exchange.Aliased(w.mint[:])
	}
	c.adopt(x)
	c.forward(x)
	if len(x.Binding.Headers) > 0 {
		capture(x, h, false)
	}
	// What follows CONNECT is meant for the tunnel: if there is none, it is not read as a request.
	w.keep = !h.connect && (h.minor > 0 && !h.close || h.minor == 0 && h.keepAlive)
	c.beginBody()
	if f := c.excess(); f != nil {
		c.reached(f)
		w.body.fault = f
	}
	if h.connect || h.upgrade { // half of a tunnel may be closed
		c.sess.Carry(x)
	} else {
		c.sess.Watch(x)
	}
	c.srv.Handler.Handle(x)
	c.sess.Carry(nil)
	if len(w.leftover) > 0 {
		c.in.append(w.leftover)
		if more := workingSet + 2*max(0, len(c.in.b)-smallBuffer) - c.charged; more > 0 {
			c.room.Need(more)
			c.charged += more
		}
	}

	if !x.Outcome.Answered {
		if x.Outcome.Committed {
			c.reset()
		}
		return false
	}
	if !w.keep || x.Silenced() || !w.body.done && !c.finishBody() { // a stream may have been ended just when it was whole, and then deadlines have passed
		c.linger()
		return false
	}
	return true
}

// finishBody reads what the caller still sends of a body that nobody waits for any more, so that the connection, which the answer has promised to
// keep, can carry the next request. False: it is too much or too slow, or no body.
func (c *conn) finishBody() bool {
	b := &c.w.body
	if b.fault != nil {
		return false
	}
	c.readBy(time.Now().Add(lingerTime))
	buf := getBytes(smallBuffer)
	defer putBytes(buf)
	for left := lingerBytes; left > 0 && !b.done; {
		want := buf
		if !b.chunked && b.left < int64(len(want)) {
			want = want[:b.left]
		}
		n, err := c.nc.Read(want)
		left -= n
		if b.chunked {
			took, _, f := b.chunks.scan(want[:n])
			if f != nil {
				return false
			}
			if b.done = b.chunks.done(); took < n {
				c.in.append(want[took:n])
			}
		} else {
			b.left -= int64(n)
			b.done = b.left == 0
		}
		if err != nil && !b.done {
			return false
		}
	}
	return b.done
}

// reset closes so that the caller cannot take a cut response for a whole one.
func (c *conn) reset() {
	if t := c.sess.TCP; t != nil {
		_ = t.SetLinger(0)
		_ = t.Close()
	}
}

// linger closes the sending side and reads for a while what the caller had on its way, so that the answer survives.
func (c *conn) linger() {
	if exchange.CloseWrite(c.nc) != nil {
		return
	}
	_ = c.nc.SetReadDeadline(time.Now().Add(lingerTime))
	buf := getBytes(smallBuffer)
	defer putBytes(buf)
	for left := lingerBytes; left > 0; {
		n, err := c.nc.Read(buf)
		if err != nil {
			return
		}
		left -= n
	}
}

// Answer implements exchange.Downstream.
func (c *conn) Answer(x *exchange.Exchange) bool {
	w := c.w
	o := &x.Outcome
	if o.Status == 0 {
		o.Status = exchange.AnswerStatus(o.Reason)
	}
	if x.Reply != nil {
		o.Status = x.Reply.Status
	}
	if w.body.fault != nil {
		o.Status = w.body.fault.Status
		if o.Reason == flow.ReasonNone {
			o.Fail(flow.ReasonBadRequest, w.body.fault.Text)
		}
	}
	if c.sess.Draining() || !w.body.done {
		w.keep = false
	}
	if w.body.bridge != nil {
		x.BytesOut.Store(0) // what was to go in its place has not
	}
	switch {
	case o.Location != "":
		w.out = c.appendRedirect(w.out[:0], x)
	case x.Reply != nil && o.Reason == flow.ReasonNone:
		w.out = c.appendReply(w.out[:0], x)
	default:
		w.out = appendAnswer(w.out[:0], o.Status, o.Reason, exchange.AnswerText(o.Reason), o.Detail, x.Answer, x.Head.Method == "HEAD", w.keep)
	}
	n, err := c.write(w.out, time.Now().Add(c.set.HeadTimeout))
	if n > 0 {
		o.Committed = true
	}
	return err == nil
}

// Replayable implements exchange.Downstream.
func (c *conn) Replayable() bool {
	if k := c.w.body.bridge; k != nil { // ReadBody may be under way
		k.mu.Lock()
		defer k.mu.Unlock()
	}
	return !c.w.body.lost
}

// write writes all of p to the caller, or fails somewhen at or after by.
func (c *conn) write(p []byte, by time.Time) (n int, err error) {
	if c.sock != nil && c.writeBy.IsZero() {
		if n, err = c.sock.write(p); err != nil || n == len(p) {
			return n, err
		}
	}
	c.armWrite(by)
	m, err := c.nc.Write(p[n:])
	return n + m, err
}

// armWrite makes sure that writes to the caller fail somewhen at or after by.
func (c *conn) armWrite(by time.Time) {
	if by.IsZero() {
		if !c.writeBy.IsZero() {
			c.writeBy = by
			_ = c.nc.SetWriteDeadline(by)
			if c.w != nil && c.w.x.Silenced() {
				_ = c.nc.SetWriteDeadline(aLongTimeAgo)
			}
		}
		return
	}
	if slack := c.writeBy.Sub(by); c.writeBy.IsZero() || slack < 0 || slack > c.set.HeadTimeout {
		c.writeBy = by.Add(c.set.HeadTimeout / 2)
		_ = c.nc.SetWriteDeadline(c.writeBy)
		if c.w != nil && c.w.x.Silenced() { // whoever has ended the stream may have come just before
			_ = c.nc.SetWriteDeadline(aLongTimeAgo)
		}
	}
}

// refuse answers and reports a head that is not a request.
func (c *conn) refuse(start time.Time, f *fault) {
	c.reached(f)
	c.report(start, flow.ReasonBadRequest, f.Text)
	c.static(f.Status, flow.ReasonBadRequest, f.Text)
}

// shed ends a connection whose head has no room. A sidecar gets no byte, so that it knows that nothing was delivered.
func (c *conn) shed(start time.Time) {
	c.room.Reached(exchange.LimitBufferBytes)
	full := c.room.Full()
	c.report(start, flow.ReasonShed, full)
	if !c.mesh {
		c.static(exchange.AnswerStatus(flow.ReasonShed), flow.ReasonShed, exchange.AnswerText(flow.ReasonShed)+" ("+full+")")
	}
}

// static answers without an exchange, then closes.
func (c *conn) static(status int, r flow.Reason, text string) {
	headOnly := bytes.HasPrefix(c.in.unread(), []byte("HEAD "))
	if _, err := c.write(appendAnswer(nil, status, r, text, "", nil, headOnly, false), time.Now().Add(c.set.HeadTimeout)); err == nil {
		c.linger()
	}
}

func (c *conn) report(start time.Time, r flow.Reason, detail string) {
	c.sess.Report.Connection(c.sess.Bind(), c.sess.Peer, start, r, detail)
}

// Refusal is a whole response for a caller that is turned away before it has an exchange.
func Refusal(r flow.Reason, detail string) []byte {
	return appendAnswer(nil, exchange.AnswerStatus(r), r, exchange.AnswerText(r), detail, nil, false, false)
}

func appendAnswer(b []byte, status int, r flow.Reason, text, detail string, fields []route.Field, headOnly, keep bool) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, statusText(status)...)
	b = append(b, "\r\ncontent-type: text/plain; charset=utf-8\r\nx-tulle-reason: "...)
	b = append(b, r.String()...)
	var buf [512]byte
	body := append(exchange.AppendAnswerText(buf[:0], r, text, detail), '\n')
	b = append(b, "\r\ncontent-length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n"...)
	b = exchange.AppendLines(b, fields)
	if !keep {
		b = append(b, "connection: close\r\n"...)
	}
	b = append(b, "\r\n"...)
	if headOnly {
		return b
	}
	return append(b, body...)
}

// appendReply appends the answer that policy gives in a service's place.
func (c *conn) appendReply(b []byte, x *exchange.Exchange) []byte {
	r := x.Reply
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = append(append(append(b, ' '), http.StatusText(r.Status)...), "\r\n"...)
	b = exchange.AppendLines(exchange.AppendLines(b, r.Fields), x.Answer)
	if !exchange.Bodiless(r.Status) {
		if r.Type != "" {
			b = append(append(append(b, "content-type: "...), r.Type...), "\r\n"...)
		}
		b = appendLength(b, int64(len(r.Body)))
	}
	switch {
	case !c.w.keep:
		b = append(b, "connection: close\r\n"...)
	case c.w.req.minor == 0:
		b = append(b, "connection: keep-alive\r\n"...)
	}
	b = append(b, "\r\n"...)
	if x.Head.Method == "HEAD" || exchange.Bodiless(r.Status) {
		return b
	}
	return append(b, r.Body...)
}

// appendRedirect appends an answer that sends the caller elsewhere with the same target.
func (c *conn) appendRedirect(b []byte, x *exchange.Exchange) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(x.Outcome.Status), 10)
	b = append(append(b, ' '), statusText(x.Outcome.Status)...)
	b = append(append(b, "\r\nlocation: "...), x.Outcome.Location...)
	if x.Head.Path != "*" {
		b = c.w.req.appendTarget(b)
	}
	b = append(b, "\r\ncontent-length: 0"...)
	if !c.w.keep {
		b = append(b, "\r\nconnection: close"...)
	}
	return append(b, "\r\n\r\n"...)
}

func statusText(status int) string {
	switch status {
	case 308:
		return "Permanent Redirect"
	case 400:
		return "Bad Request"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 408:
		return "Request Timeout"
	case 414:
		return "URI Too Long"
	case 417:
		return "Expectation Failed"
	case 429:
		return "Too Many Requests"
	case 431:
		return "Request Header Fields Too Large"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	case 505:
		return "HTTP Version Not Supported"
	}
	return "Error"
}
