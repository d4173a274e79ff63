package http1

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Defaults of Server.
const (
	DefaultHeadTimeout = 10 * time.Second
	// DefaultIdleTimeout is longer than the idle limit of upstream pools (60 s), so that of two sidecars the caller closes first.
	DefaultIdleTimeout = 5 * time.Minute
	// lingerTime and lingerBytes bound how long a connection that is closed early is read for what the caller still sends, so that the answer
	// is not destroyed by a reset.
	lingerTime  = time.Second
	lingerBytes = 256 << 10
)

// Server serves downstream connections. Immutable after its first use.
type Server struct {
	Handler     exchange.Handler
	Side        flow.Side
	HeadTimeout time.Duration // from the first byte of a head to its last; 0: 10 s
	IdleTimeout time.Duration // between requests; 0: 5 min
}

// Serve carries one connection to its end and closes it.
func (s *Server) Serve(sess *exchange.Session) {
	c := &conn{srv: s, sess: sess, nc: sess.Conn, limits: DefaultLimits, headTimeout: s.HeadTimeout, idleTimeout: s.IdleTimeout}
	if s.Side == flow.SideServer && sess.Peer.Identity != "" {
		c.limits = MeshLimits
	}
	if c.headTimeout <= 0 {
		c.headTimeout = DefaultHeadTimeout
	}
	if c.idleTimeout <= 0 {
		c.idleTimeout = DefaultIdleTimeout
	}
	if len(sess.Buffered) > 0 {
		c.in.append(sess.Buffered)
		sess.Buffered = nil
	}
	c.readIdle = newIdleReader(sess)
	c.serve()
}

// conn is one downstream connection. It belongs to the goroutine of Serve; the uploader owns body and the reading side of nc while it runs.
type conn struct {
	srv         *Server
	sess        *exchange.Session
	nc          net.Conn
	limits      Limits
	headTimeout time.Duration
	idleTimeout time.Duration
	readIdle    func(*buffer) (int, error) // nil: not available

	in      buffer
	idleSet time.Time // when the idle deadline was set; zero when another deadline is in force
	writeBy time.Time // write deadline in force
	w       *work     // nil while idle
	asked   bool      // a first request was read
	armed   bool      // the head being read has its deadline
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
	broken    bool   // the current try did not get the whole request upstream
}

var errGone = errors.New("the caller closed the connection")

func (c *conn) serve() {
	defer c.nc.Close()
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

// readHead waits for the next request and parses its head into c.w. False: the connection has ended, and was reported if it has to be.
func (c *conn) readHead() (start time.Time, ok bool) {
	c.armed = false
	if len(c.in.unread()) == 0 {
		c.in.release()
		if !c.waitIdle() {
			return start, false
		}
	} else {
		c.in.compact()
		if c.sess.Draining() {
			return start, false
		}
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
			if c.in.w == len(c.in.b) && !c.in.grow() {
				c.refuse(start, faultTooLarge)
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
		c.armed, c.idleSet = true, time.Time{}
		_ = c.nc.SetReadDeadline(start.Add(c.headTimeout))
	}
	_, err := c.in.fill(c.nc)
	if err == nil {
		return true
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.report(start, flow.ReasonIdleTimeout, "the head of a request did not arrive in "+c.headTimeout.String())
		// A sidecar is not answered without an exchange: it would take the attempt as delivered.
		if c.limits != MeshLimits {
			c.static(408, flow.ReasonIdleTimeout, "the head of the request did not arrive in "+c.headTimeout.String()+"; send it faster")
		}
	default:
		c.report(start, flow.ReasonDownstreamReset, "the caller left within a head")
	}
	return false
}

// waitIdle waits for the first byte of a request. False: the connection has ended without one.
func (c *conn) waitIdle() bool {
	now := time.Now()
	if c.idleSet.IsZero() || now.Sub(c.idleSet) > c.idleTimeout/8 {
		c.idleSet = now
		_ = c.nc.SetReadDeadline(now.Add(c.idleTimeout))
	}
	if !c.sess.SetIdle() {
		return false
	}
	var n int
	var err error
	if c.readIdle != nil {
		n, err = c.readIdle(&c.in)
	} else {
		c.in.acquire(smallBuffer)
		n, err = c.in.fill(c.nc)
	}
	if draining := c.sess.SetBusy(); draining {
		// Drain may have set a deadline that has passed.
		c.idleSet = time.Time{}
		_ = c.nc.SetReadDeadline(time.Now().Add(c.headTimeout))
	}
	if n > 0 {
		return true
	}
	if err != nil && !c.asked && !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, net.ErrClosed) {
		// With TLS 1.3 the caller learns here that its certificate was refused, and so do we.
		c.report(c.sess.Start, flow.ReasonTLSFailed, err.Error())
	}
	return false
}

// exchange carries one exchange. It reports whether the connection may carry another.
func (c *conn) exchange(start time.Time) bool {
	w := c.w
	x := &w.x
	x.Reset()
	x.Kind, x.Side, x.Protocol = flow.KindExchange, c.srv.Side, flow.ProtocolHTTP1
	x.Peer, x.Binding, x.Start, x.Downstream = c.sess.Peer, c.sess.Bind(), start, c
	x.Legs.HeadParsed = x.Since()
	h := &w.req
	x.Head.Method = method(h.bytes(h.method))
	x.Head.Idempotent = idempotent(x.Head.Method)
	if x.Head.Path = h.str(h.path); x.Head.Path == "" {
		x.Head.Path = "/"
	}
	x.Head.Authority = h.str(h.author)
	x.Head.UserAgent = h.value(h.userAgent)
	x.Head.RequestID = h.value(h.requestID)
	if h.requestID < 0 {
		exchange.AppendRequestID(w.mint[:0])
		x.Head.RequestID = aliased(w.mint[:])
	}
	c.adopt(x)
	if len(x.Binding.Headers) > 0 {
		capture(x, h, false)
	}
	w.keep = h.minor > 0 && !h.close || h.minor == 0 && h.keepAlive
	c.beginBody()
	c.sess.Carry(x)
	c.srv.Handler.Handle(x)
	c.sess.Carry(nil)
	if len(w.leftover) > 0 {
		c.in.append(w.leftover)
	}

	if !x.Outcome.Answered {
		if x.Outcome.Committed {
			c.reset()
		}
		return false
	}
	if !w.keep || !w.body.done {
		c.linger()
		return false
	}
	return true
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
	if w.body.fault != nil {
		o.Status = w.body.fault.status
	}
	if c.sess.Draining() || !w.body.done {
		w.keep = false
	}
	w.out = appendAnswer(w.out[:0], o.Status, o.Reason, exchange.AnswerText(o.Reason), o.Detail, x.Head.Method == "HEAD", w.keep)
	c.armWrite(time.Now().Add(c.headTimeout))
	n, err := c.nc.Write(w.out)
	if n > 0 {
		o.Committed = true
	}
	return err == nil
}

// Replayable implements exchange.Downstream.
func (c *conn) Replayable() bool { return !c.w.body.lost }

// armWrite makes sure that writes to the caller fail somewhen at or after by.
func (c *conn) armWrite(by time.Time) {
	if by.IsZero() {
		if !c.writeBy.IsZero() {
			c.writeBy = by
			_ = c.nc.SetWriteDeadline(by)
		}
		return
	}
	if slack := c.writeBy.Sub(by); c.writeBy.IsZero() || slack < 0 || slack > c.headTimeout {
		c.writeBy = by.Add(c.headTimeout / 2)
		_ = c.nc.SetWriteDeadline(c.writeBy)
	}
}

// refuse answers and reports a head that is not a request.
func (c *conn) refuse(start time.Time, f *fault) {
	c.report(start, flow.ReasonBadRequest, f.text)
	c.static(f.status, flow.ReasonBadRequest, f.text)
}

// static answers without an exchange, then closes.
func (c *conn) static(status int, r flow.Reason, text string) {
	c.armWrite(time.Now().Add(c.headTimeout))
	if _, err := c.nc.Write(appendAnswer(nil, status, r, text, "", false, false)); err == nil {
		c.linger()
	}
}

func (c *conn) report(start time.Time, r flow.Reason, detail string) {
	c.sess.Report.Connection(c.sess.Bind(), c.sess.Peer, start, r, detail)
}

// Refusal is a whole response for a caller that is turned away before it has an exchange.
func Refusal(r flow.Reason) []byte {
	return appendAnswer(nil, exchange.AnswerStatus(r), r, exchange.AnswerText(r), "", false, false)
}

func appendAnswer(b []byte, status int, r flow.Reason, text, detail string, headOnly, keep bool) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, statusText(status)...)
	b = append(b, "\r\ncontent-type: text/plain; charset=utf-8\r\nx-tulle-reason: "...)
	b = append(b, r.String()...)
	n := len("tulle: ") + len(r.String()) + len(": ") + len(text) + len("\n")
	if detail != "" {
		n += len(" (") + len(detail) + len(")")
	}
	b = append(b, "\r\ncontent-length: "...)
	b = strconv.AppendInt(b, int64(n), 10)
	if !keep {
		b = append(b, "\r\nconnection: close"...)
	}
	b = append(b, "\r\n\r\n"...)
	if headOnly {
		return b
	}
	b = append(b, "tulle: "...)
	b = append(b, r.String()...)
	b = append(b, ": "...)
	b = append(b, text...)
	if detail != "" {
		b = append(b, " ("...)
		for _, ch := range []byte(detail) { // one line, whatever an error says
			if ch < 0x20 {
				ch = ' '
			}
			b = append(b, ch)
		}
		b = append(b, ')')
	}
	return append(b, '\n')
}

func statusText(status int) string {
	switch status {
	case 400:
		return "Bad Request"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 408:
		return "Request Timeout"
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

// method returns a constant for the methods that everyone uses.
func method(b []byte) string {
	switch string(b) {
	case "GET":
		return "GET"
	case "HEAD":
		return "HEAD"
	case "POST":
		return "POST"
	case "PUT":
		return "PUT"
	case "DELETE":
		return "DELETE"
	case "OPTIONS":
		return "OPTIONS"
	case "PATCH":
		return "PATCH"
	case "TRACE":
		return "TRACE"
	}
	return aliased(b)
}

func idempotent(method string) bool {
	switch method {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE":
		return true
	}
	return false
}
