//go:build linux

package main

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
)

// gRPC calls (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md). A message begins with the id of its request and goes on with the pattern, in both directions, so
// that what was lost, cut, doubled, altered or given to somebody else is seen at either end; the backend resets a stream whose message is wrong.

const (
	messageHead = 5  // compressed or not, and the length
	callSize    = 64 // bytes of a unary call's request message
	callPath    = "/bench.Echo/"
	grpcType    = "application/grpc"
)

// message is a gRPC message of size bytes: head and pattern; putID writes its id at messageHead.
func message(size int) []byte {
	b := binary.BigEndian.AppendUint32([]byte{0}, uint32(size))
	return append(b, pattern(size)...)
}

// takeMessage judges what has come of a message that must be like want, but for its id. Done: it is whole and right, and b begins with it.
func takeMessage(b, want []byte) (done bool, err error) {
	if len(b) < messageHead {
		return false, nil
	}
	if string(b[:messageHead]) != string(want[:messageHead]) {
		return false, fmt.Errorf("a message that begins with % x, % x was expected", b[:messageHead], want[:messageHead])
	}
	if len(b) < len(want) {
		return false, nil
	}
	body := answer{want[messageHead:]}
	return true, body.same(b[messageHead:len(want)])
}

// caller carries out one job of calls: jobCalls makes unary ones, one after the other on each of Streams streams of each connection; jobStreams opens
// that many streams of the same kind once, sends the next message when the answer to the last one has come, and ends them all at the end. Everything belongs to the
// goroutine of run.
type caller struct {
	job
	gauge
	ep      int
	lines   []*line
	tls     *tls.Config
	request []byte
	expect  []byte
	head    []hpack.HeaderField
	id      uint64
	open    int // calls that have not ended
	now     int64
	latency histogram
	res     result
}

// line is one connection and its calls.
type line struct {
	caller *caller
	index  int
	fd     int
	rec    *records
	in     []byte
	raw    []byte
	late   []byte // what the socket had no room for, as it goes onto the wire
	armed  bool
	mux    *muxed
	next   uint32
	calls  map[uint32]*call
	head   phrase
	spare  []*call
}

// call is one in flight, or one stream.
type call struct {
	sending
	number uint64
	due    int64
	got    []byte
	given  int // bytes that came since the peer was given window
	heads  int // lists of fields that have come
	status string
	grpc   string
	right  bool // unary: the message has come
}

func (j job) call() result {
	c := &caller{job: j, expect: message(j.Size)}
	c.request = message(callSize)
	if j.Kind == jobStreams {
		c.request = message(j.Size)
	}
	scheme := "http"
	if j.TLS != nil {
		scheme = "https"
	}
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", scheme},
		{":path", fmt.Sprintf("%s%d", callPath, j.Size)},
		{":authority", "backend.bench"},
		{"content-type", grpcType},
		{"user-agent", "grpc-bench/1.0"},
		{"te", "trailers"},
	} {
		c.head = append(c.head, hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	if err := c.all(); err != nil {
		c.res.Err = err.Error()
	}
	return c.res
}

func (c *caller) all() (err error) {
	if c.TLS != nil {
		if c.tls, err = c.TLS.client(); err != nil {
			return err
		}
		c.tls = c.tls.Clone()
		c.tls.NextProtos = []string{"h2"}
	}
	if c.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	defer shut(c.ep)
	defer func() {
		for _, l := range c.lines {
			shut(l.fd)
		}
	}()
	for range c.Conns {
		if err := c.connect(); err != nil {
			return err
		}
	}
	own, err := cpuTime(os.Getpid())
	if err != nil {
		return err
	}
	if err := c.loop(); err != nil {
		return err
	}
	c.res.P50, c.res.P99 = c.latency.quantile(0.50), c.latency.quantile(0.99)
	end, err := cpuTime(os.Getpid())
	c.res.Own = end - own
	return err
}

func (c *caller) connect() error {
	l := &line{caller: c, index: len(c.lines), next: 1, calls: map[uint32]*call{}, head: phrase{list: c.head}}
	var err error
	if l.fd, err = dial(c.Address, source(0)); err != nil {
		return err
	}
	c.lines = append(c.lines, l)
	if c.tls != nil {
		if l.rec, err = handshake(l.fd, c.tls, true); err != nil {
			return err
		}
	}
	if err := unix.EpollCtl(c.ep, unix.EPOLL_CTL_ADD, l.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(l.fd), Pad: int32(l.index)}); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	l.mux = newMuxed(l, true)
	return nil
}

func (c *caller) loop() error {
	start := time.Now()
	for range c.Streams {
		for _, l := range c.lines {
			l.begin()
		}
	}
	for _, l := range c.lines {
		if err := l.flush(nil); err != nil {
			return fmt.Errorf("sending the first calls: %w", err)
		}
	}
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(c.ep, events, int(patience/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
		c.now = int64(time.Since(start))
		if n == 0 {
			if !c.stopping {
				return fmt.Errorf("nothing happened for %s", patience)
			}
			c.fail(fmt.Errorf("%d calls did not end within %s", c.open, patience))
			c.res.Errors += c.open - 1
			return nil
		}
		if err := c.gauge.at(c.now, &c.job, &c.res); err != nil {
			return err
		}
		for _, e := range events[:n] {
			// A connection that breaks takes all its calls with it: the proxy is disqualified, and nothing more can be learned of it.
			if err := c.lines[e.Pad].serve(e.Events); err != nil {
				c.fail(err)
				return nil
			}
		}
		if c.res.Errors >= maxErrors || c.stopping && c.open == 0 {
			return nil
		}
	}
}

// fail counts an error.
func (c *caller) fail(err error) {
	c.res.Errors++
	if c.res.Failure == "" {
		c.res.Failure = err.Error()
	}
}

// serve reads what came and answers it.
func (l *line) serve(events uint32) error {
	if events&^unix.EPOLLOUT != 0 {
		if err := l.read(); err != nil && !errors.Is(err, unix.EAGAIN) {
			if errors.Is(err, io.EOF) {
				err = errors.New("it was closed")
			}
			return fmt.Errorf("a connection with %d calls in flight: %w", len(l.calls), err)
		}
		rest, err := l.mux.take(l.in)
		if err != nil {
			return err
		}
		l.in = l.in[:copy(l.in, rest)]
	}
	return l.flush(l.late)
}

func (l *line) read() error {
	const most = 128 << 10
	if l.rec == nil {
		l.in = slices.Grow(l.in, most)
		n, err := receive(l.fd, l.in[len(l.in):cap(l.in)])
		l.in = l.in[:len(l.in)+n]
		return err
	}
	l.raw = slices.Grow(l.raw, most)
	n, err := receive(l.fd, l.raw[len(l.raw):cap(l.raw)])
	if err != nil {
		return err
	}
	var rest []byte
	l.in, rest, err = l.rec.open(l.in, l.raw[:len(l.raw)+n])
	l.raw = l.raw[:copy(l.raw[:cap(l.raw)], rest)]
	return err
}

// flush sends what was late and what the calls have to say.
func (l *line) flush(late []byte) error {
	out, own := l.mux.out, false
	switch {
	case l.rec != nil:
		out, own = l.rec.seal(late, out), true
	case len(late) > 0:
		out, own = append(late, out...), true
	}
	n := 0
	var err error
	if len(out) > 0 {
		if n, err = send(l.fd, out); ignoreAgain(err) != nil {
			return fmt.Errorf("sending: %w", err)
		}
	}
	rest := out[n:]
	if own {
		l.late = out[:copy(out, rest)]
	} else {
		l.late = append(l.late[:0], rest...)
	}
	l.mux.out = l.mux.out[:0]
	if want := len(rest) > 0; want != l.armed {
		l.armed = want
		events := uint32(unix.EPOLLIN)
		if want {
			events |= unix.EPOLLOUT
		}
		if err := unix.EpollCtl(l.caller.ep, unix.EPOLL_CTL_MOD, l.fd, &unix.EpollEvent{Events: events, Fd: int32(l.fd), Pad: int32(l.index)}); err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
	}
	return nil
}

// begin makes the next call.
func (l *line) begin() {
	c := l.caller
	x := &call{}
	if n := len(l.spare); n > 0 {
		x, l.spare = l.spare[n-1], l.spare[:n-1]
	}
	*x = call{sending: sending{id: l.next, window: l.mux.initial, pending: x.pending[:0]}, got: x.got[:0], due: c.now}
	l.calls[x.id] = x
	l.next += 2
	c.open++
	l.mux.fields(x.id, &l.head, false)
	l.say(x, c.Kind == jobCalls)
}

// say sends the next message of a call.
func (l *line) say(x *call, end bool) {
	c := l.caller
	c.id++
	x.number, x.due = c.id, c.now
	putID(c.request[messageHead:], x.number)
	l.mux.send(&x.sending, c.request, end)
}

func (l *line) field(stream uint32, name, value string) {
	if x := l.calls[stream]; x != nil {
		switch name {
		case ":status":
			x.status = value
		case "grpc-status":
			x.grpc = value
		}
	}
}

func (l *line) fields(stream uint32, end bool) error {
	x := l.calls[stream]
	if x == nil {
		return fmt.Errorf("fields on stream %d, which nobody waits for", stream)
	}
	if x.heads++; x.status != "200" {
		l.over(x, fmt.Errorf("answered with status %q, grpc-status %q", x.status, x.grpc))
		return nil
	}
	if end {
		l.end(x)
	}
	return nil
}

func (l *line) data(stream uint32, p []byte, end bool) error {
	x := l.calls[stream]
	if x == nil {
		return fmt.Errorf("%d bytes on stream %d, which nobody waits for", len(p), stream)
	}
	if x.given += len(p); x.given >= creditStream && !end {
		l.mux.out = appendWindow(l.mux.out, stream, x.given)
		x.given = 0
	}
	x.got = append(x.got, p...)
	done, err := takeMessage(x.got, l.caller.expected(x))
	if err != nil {
		l.over(x, err)
		return nil
	}
	if done {
		if x.right || len(x.got) > len(l.caller.expect) {
			l.over(x, fmt.Errorf("%d bytes after the message", len(x.got)-len(l.caller.expect)))
			return nil
		}
		l.answered(x)
	}
	if end { // without trailers
		l.end(x)
	}
	return nil
}

// expected is the answer's message with the id of the request.
func (c *caller) expected(x *call) []byte {
	putID(c.expect[messageHead:], x.number)
	return c.expect
}

// answered counts a message that came whole and right, and sends the next one.
func (l *line) answered(x *call) {
	c := l.caller
	if c.Kind == jobCalls {
		x.right = true
		return
	}
	x.got = x.got[:0]
	c.res.Total += 2 // there and back
	if c.measuring {
		c.res.Requests += 2
		c.latency.add(c.now - x.due)
	}
	if c.stopping {
		x.right = true
		l.mux.send(&x.sending, nil, true)
		return
	}
	l.say(x, false)
}

// end judges a call that has ended.
func (l *line) end(x *call) {
	c := l.caller
	switch {
	case x.grpc != "0":
		l.over(x, fmt.Errorf("ended with grpc-status %q", x.grpc))
		return
	case !x.right || len(x.got) > 0 && c.Kind == jobStreams:
		l.over(x, fmt.Errorf("ended after %d bytes of its message", len(x.got)))
		return
	case !x.ended:
		l.over(x, errors.New("ended before its request"))
		return
	}
	c.res.Exchanges++
	if c.Kind == jobCalls {
		c.res.Total++
		if c.measuring {
			c.res.Requests++
			c.latency.add(c.now - x.due)
		}
	}
	l.over(x, nil)
}

// over forgets a call, and begins another one in its place.
func (l *line) over(x *call, err error) {
	c := l.caller
	delete(l.calls, x.id)
	c.open--
	if err != nil {
		c.fail(fmt.Errorf("call %d on stream %d: %w", x.number, x.id, err))
	} else {
		l.spare = append(l.spare, x)
	}
	if c.Kind == jobCalls && !c.stopping && c.res.Errors < maxErrors {
		l.begin()
	}
}

func (l *line) reset(stream, code uint32) error {
	if x := l.calls[stream]; x != nil {
		l.over(x, fmt.Errorf("reset with code %d", code))
	}
	return nil
}

func (l *line) sending(stream uint32) *sending {
	if x := l.calls[stream]; x != nil {
		return &x.sending
	}
	return nil
}

func (l *line) sent(*sending) {}

func (l *line) all() (out []*sending) {
	for _, x := range l.calls {
		out = append(out, &x.sending)
	}
	return out
}
