//go:build linux

package main

import (
	"cmp"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// job is one window of load.
type job struct {
	Kind    jobKind
	Address netip.AddrPort // of the proxy
	Size    int            // bytes of an answer's body; at least idDigits
	Conns   int            // connections at a time
	Rate    float64        // requests per second, open loop; 0: closed loop, the next request follows the answer
	Close   bool           // each request on a connection of its own
	Relayed bool           // the proxy knows connections, not requests
	Streams int            // of calls: at a time on each connection
	TLS     *pki           // nil: plaintext
	Groups  []tls.CurveID  // of handshakes: the key exchanges that callers offer; nil: those of crypto/tls
	Warmup  time.Duration  // before the window; verified, not measured
	Window  time.Duration
	PIDs    []int // whose CPU time over the window is measured
}

// jobKind says who carries it out.
type jobKind string

const (
	jobRequests  jobKind = "requests"  // loader, in an epoll loop
	jobCalls     jobKind = "calls"     // caller: unary gRPC calls
	jobStreams   jobKind = "streams"   // caller: messages on gRPC streams that stay open
	jobFull      jobKind = "full"      // shaker: a full handshake per connection
	jobResumed   jobKind = "resumed"   // shaker: a resumed one
	jobIdle      jobKind = "idle"      // holder: connections that have nothing to say
	jobIdleClose jobKind = "idleclose" // holder: closes them
)

// result is what was seen. Requests, CPU and latencies are of the window, the rest of the whole job. Of jobStreams, Requests and Total count messages in both
// directions.
type result struct {
	Requests  int // verified answers that came in the window
	Total     int // verified answers
	Exchanges int // what a proxy has one span and one log line of, if that is not Total: a gRPC call, a relayed connection
	Errors    int
	Failure   string // the first error
	Elapsed   time.Duration
	CPU       []time.Duration // as job.PIDs
	Own       time.Duration   // CPU time of the load generator
	P50, P99  time.Duration   // from when a request was due to the end of its answer
	Resumed   int             // shaker: handshakes of the window that resumed a session
	Err       string          // the job could not be carried out
}

// exchanges is how many spans and log lines there must be.
func (r result) exchanges() int { return cmp.Or(r.Exchanges, r.Total) }

// maxErrors ends a job: the proxy is disqualified by the first, and a broken one would only fill the log.
const maxErrors = 20

// loader carries out one job of requests. Everything belongs to the goroutine of run.
type loader struct {
	job
	gauge
	ep     int
	conns  []conn
	tls    *tls.Config
	expect answer
	text   []byte // the request, and where its id is
	idAt   int
	id     uint64 // last one given out
	sealed []byte // the request as TLS records

	free []*conn // open loop: connections without a request
	due  []int64 // open loop: when requests that found no connection free were due

	flying  int
	latency histogram
	res     result
}

// gauge takes the CPU times of a job's processes at both ends of the window.
type gauge struct {
	measuring bool // the window is open
	stopping  bool // it was
	before    []time.Duration
	begun     time.Time
}

// at opens and closes the window when it is time to: now is in nanoseconds since the start of the job.
func (g *gauge) at(now int64, j *job, r *result) (err error) {
	switch {
	case !g.measuring && !g.stopping && now >= int64(j.Warmup):
		if g.before, err = cpuTimes(j.PIDs); err != nil {
			return err
		}
		g.measuring, g.begun = true, time.Now()
	case g.measuring && now >= int64(j.Warmup+j.Window):
		after, err := cpuTimes(j.PIDs)
		if err != nil {
			return err
		}
		r.Elapsed = time.Since(g.begun)
		for i := range after {
			r.CPU = append(r.CPU, after[i]-g.before[i])
		}
		g.measuring, g.stopping = false, true
	}
	return nil
}

// conn is one connection and its request.
type conn struct {
	index int
	fd    int // -1: closed
	id    uint64
	due   int64 // of the request in flight, nanoseconds since the start of the job
	busy  bool
	in    []byte // what came of the answer, decrypted
	raw   []byte // TLS: the beginning of a record
	rec   *records
}

func (j job) run() result {
	l := &loader{job: j, expect: answer{pattern(j.Size)}}
	l.text, l.idAt = newRequest(j.Size, j.Close)
	if err := l.all(); err != nil {
		l.res.Err = err.Error()
	}
	return l.res
}

func (l *loader) all() (err error) {
	if l.TLS != nil {
		if l.tls, err = l.TLS.client(); err != nil {
			return err
		}
	}
	if l.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	defer shut(l.ep)
	l.conns = make([]conn, l.Conns)
	defer func() {
		for i := range l.conns {
			l.conns[i].close()
		}
	}()
	for i := range l.conns {
		c := &l.conns[i]
		*c = conn{index: i, fd: -1, in: make([]byte, 0, l.Size+8<<10)}
		if l.TLS != nil {
			c.raw = make([]byte, 0, 2*recordMax)
		}
		if err := l.open(c); err != nil {
			return err
		}
	}
	own, err := cpuTime(os.Getpid())
	if err != nil {
		return err
	}
	if err := l.loop(); err != nil {
		return err
	}
	l.res.P50, l.res.P99 = l.latency.quantile(0.50), l.latency.quantile(0.99)
	end, err := cpuTime(os.Getpid())
	l.res.Own = end - own
	return err
}

func (l *loader) loop() error {
	start := time.Now()
	since := func() int64 { return int64(time.Since(start)) }
	timer, interval := -1, int64(0)
	if l.Rate > 0 {
		interval = int64(float64(time.Second) / l.Rate)
		var err error
		if timer, err = l.ticker(interval); err != nil {
			return err
		}
		defer shut(timer)
		for i := range l.conns {
			l.free = append(l.free, &l.conns[i])
		}
	} else {
		for i := range l.conns {
			l.ask(&l.conns[i], 0)
		}
	}
	var ticks int64
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(l.ep, events, int(patience/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("epoll: %w", err)
		}
		now := since()
		switch {
		case n == 0 && l.stopping:
			l.res.Errors += l.flying
			l.fail(nil, fmt.Errorf("%d requests were not answered within %s", l.flying, patience))
			return nil
		case n == 0:
			return fmt.Errorf("nothing happened for %s", patience)
		}
		if err := l.gauge.at(now, &l.job, &l.res); err != nil {
			return err
		}
		for _, e := range events[:n] {
			if int(e.Fd) != timer {
				l.answered(&l.conns[e.Pad], now)
				continue
			}
			var count [8]byte
			if _, err := unix.Read(timer, count[:]); err != nil {
				return fmt.Errorf("timer: %w", err)
			}
			for range binary.NativeEndian.Uint64(count[:]) {
				ticks++
				if !l.stopping {
					l.schedule(ticks * interval)
				}
			}
		}
		if l.res.Errors >= maxErrors || l.stopping && l.flying == 0 && len(l.due) == 0 {
			return nil
		}
	}
}

// ticker is a timer descriptor in the epoll set that fires every interval from now on.
func (l *loader) ticker(interval int64) (int, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("timer: %w", err)
	}
	every := unix.NsecToTimespec(interval)
	if err := unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: every, Value: every}, nil); err != nil {
		shut(fd)
		return -1, fmt.Errorf("timer: %w", err)
	}
	if err := unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		shut(fd)
		return -1, fmt.Errorf("epoll: %w", err)
	}
	return fd, nil
}

// schedule makes a request that is due now, or keeps it until a connection is free: an open loop does not wait for answers, and a late one counts
// from when it was due.
func (l *loader) schedule(due int64) {
	if len(l.free) == 0 {
		l.due = append(l.due, due)
		return
	}
	c := l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	l.ask(c, due)
}

// open connects c.
func (l *loader) open(c *conn) error {
	var from netip.Addr
	if l.Close {
		from = source(int(l.id % 60_000))
	}
	fd, err := dial(l.Address, from)
	if err != nil {
		return err
	}
	if l.tls != nil {
		if c.rec, err = handshake(fd, l.tls, true); err != nil {
			shut(fd)
			return err
		}
	}
	if err := unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd), Pad: int32(c.index)}); err != nil {
		shut(fd)
		return fmt.Errorf("epoll: %w", err)
	}
	c.fd, c.in, c.raw = fd, c.in[:0], c.raw[:0]
	if l.Relayed {
		l.res.Exchanges++
	}
	return nil
}

func (c *conn) close() {
	if c.fd >= 0 {
		shut(c.fd)
		c.fd = -1
	}
}

// ask sends the next request on c.
func (l *loader) ask(c *conn, due int64) {
	if c.fd < 0 {
		if err := l.open(c); err != nil {
			l.fail(c, err)
			return
		}
	}
	l.id++
	c.id, c.due, c.busy = l.id, due, true
	l.flying++
	putID(l.text[l.idAt:], c.id)
	out := l.text
	if c.rec != nil {
		l.sealed = c.rec.seal(l.sealed[:0], l.text)
		out = l.sealed
	}
	n, err := send(c.fd, out)
	switch {
	case err != nil:
		l.fail(c, fmt.Errorf("sending a request: %w", err))
	case n < len(out):
		l.fail(c, fmt.Errorf("only %d of %d bytes of a request could be sent", n, len(out)))
	}
}

// answered reads what came on c.
func (l *loader) answered(c *conn, now int64) {
	if c.fd < 0 {
		return // closed while this event was waiting
	}
	if err := c.read(); err != nil {
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		l.fail(c, fmt.Errorf("reading an answer, of which %d bytes had come: %w", len(c.in), err))
		return
	}
	if !c.busy {
		if len(c.in) > 0 {
			l.fail(c, fmt.Errorf("bytes that nobody asked for: %q", c.in[:min(len(c.in), 40)]))
		}
		return
	}
	done, err := l.expect.verify(c.in, c.id)
	if err != nil {
		l.fail(c, err)
		return
	}
	if !done {
		return
	}
	c.in, c.busy = c.in[:0], false
	l.flying--
	l.res.Total++
	if l.measuring {
		l.res.Requests++
		l.latency.add(now - c.due)
	}
	if l.Close {
		c.close()
	}
	switch {
	case len(l.due) > 0:
		due := l.due[0]
		l.due = l.due[1:]
		l.ask(c, due)
	case l.Rate > 0:
		l.free = append(l.free, c)
	case !l.stopping:
		l.ask(c, now)
	}
}

// read appends to c.in what is there.
func (c *conn) read() error {
	if c.rec == nil {
		c.in = slices.Grow(c.in, 4<<10)
		n, err := receive(c.fd, c.in[len(c.in):cap(c.in)])
		c.in = c.in[:len(c.in)+n]
		return err
	}
	c.raw = slices.Grow(c.raw, 4<<10)
	n, err := receive(c.fd, c.raw[len(c.raw):cap(c.raw)])
	if err != nil {
		return err
	}
	var rest []byte
	c.in, rest, err = c.rec.open(c.in, c.raw[:len(c.raw)+n])
	c.raw = c.raw[:copy(c.raw[:cap(c.raw)], rest)]
	return err
}

// fail counts an error, and gives c another connection when its next request is made. c may be nil.
func (l *loader) fail(c *conn, err error) {
	l.res.Errors++
	if l.res.Failure == "" {
		l.res.Failure = err.Error()
	}
	if c == nil {
		return
	}
	c.close()
	if c.busy {
		c.busy = false
		l.flying--
	}
	switch {
	case l.res.Errors >= maxErrors:
	case l.Rate > 0:
		l.free = append(l.free, c)
	case !l.stopping:
		l.ask(c, c.due)
	}
}
