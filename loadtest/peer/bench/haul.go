//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// haulOrder starts a server of bodies.
type haulOrder struct {
	Listen netip.AddrPort // HTTP/2, plaintext
}

// haul is a body of Size bytes over a new connection to a proxy before the server, either way.
type haul struct {
	Address netip.AddrPort
	Upload  bool
	Size    int64
	Slow    int // bytes per second at which a body on another stream of the connection is read, whose sender would send without end; 0: none
}

// hauled is how it went. SlowRead is what the slow reader has read while Size bytes passed.
type hauled struct {
	Elapsed  time.Duration
	SlowRead int64
	Err      string
}

// What the two ends take of one body before its reader has read it, and of all. As large as most programs have it, and small enough for a slow reader to hold up
// its sender at once.
const (
	haulStream = 256 << 10
	haulAll    = 4 << 20
)

// haulLimit bounds one of them.
const haulLimit = 3 * patience

// haulMain is client and server of hauls, with net/http: what they cost is the same with and without a slow reader.
func haulMain(c *parent) error {
	var o haulOrder
	if err := c.next(&o); err != nil {
		return err
	}
	s := &bodies{}
	var started hauled
	if l, err := net.Listen("tcp", o.Listen.String()); err != nil {
		started.Err = err.Error()
	} else {
		s.open(l)
	}
	if err := c.say(started); err != nil {
		return err
	}
	for {
		var t haul
		if err := c.next(&t); err != nil {
			return err
		}
		done, err := s.carry(t)
		if err != nil {
			done.Err = err.Error()
		}
		if err := c.say(done); err != nil {
			return err
		}
	}
}

// bodies is the server. It counts what passes on its slow streams.
type bodies struct {
	sent, read atomic.Int64
}

// open serves on l.
func (s *bodies) open(l net.Listener) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /fast/{size}", func(w http.ResponseWriter, r *http.Request) {
		var size int64
		if _, err := fmt.Sscan(r.PathValue("size"), &size); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_, _ = io.CopyN(w, &endless{}, size)
	})
	mux.HandleFunc("POST /fast", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(&checker{}, r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
		fmt.Fprintf(w, "%d %v", n, err)
	})
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.Copy(w, io.TeeReader(&endless{}, (*counter)(&s.sent)))
	})
	mux.HandleFunc("POST /slow/{rate}", func(w http.ResponseWriter, r *http.Request) {
		var rate int
		if _, err := fmt.Sscan(r.PathValue("rate"), &rate); err != nil || rate <= 0 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush() // the caller need not wait for the end
		_ = slowly(r.Context(), r.Body, rate, &s.read)
	})
	var speaks http.Protocols
	speaks.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler: mux, Protocols: &speaks, ErrorLog: log.New(io.Discard, "", 0),
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: haulStream, MaxReceiveBufferPerConnection: haulAll},
	}
	go func() { _ = server.Serve(l) }() // until l is closed, or to the end of the process
}

// carry makes a haul.
func (s *bodies) carry(t haul) (done hauled, err error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), haulLimit, fmt.Errorf("it took longer than %s", haulLimit))
	defer cancel()
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	var speaks http.Protocols
	speaks.SetUnencryptedHTTP2(true)
	tr := &http.Transport{
		Protocols: &speaks, DisableCompression: true,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: haulStream, MaxReceiveBufferPerConnection: haulAll},
	}
	defer tr.CloseIdleConnections()
	client := &carrier{tr: tr, base: "http://" + t.Address.String()}
	if err := client.fast(ctx, t.Upload, 1<<20); err != nil { // connections are made before the clock runs
		return done, err
	}
	var slow sync.WaitGroup
	read, sent := &s.read, &s.sent
	var here atomic.Int64 // the caller's side of the slow stream
	var failed error
	if t.Slow > 0 {
		stop, finish := context.WithCancel(ctx)
		defer slow.Wait()
		defer finish()
		s.read.Store(0)
		s.sent.Store(0)
		if t.Upload {
			sent = &here
		} else {
			read = &here
		}
		slow.Go(func() { failed = client.slow(stop, t.Upload, t.Slow, &here) })
		if err := stalled(ctx, sent, read); err != nil {
			finish()
			slow.Wait()
			return done, errors.Join(err, failed)
		}
	}
	before, begin := read.Load(), time.Now()
	if err := client.fast(ctx, t.Upload, t.Size); err != nil {
		return done, err
	}
	done.Elapsed, done.SlowRead = time.Since(begin), read.Load()-before
	if client.conns() > 1 {
		return done, errors.New("the two streams had connections of their own")
	}
	return done, nil
}

// stalled waits until the sender of the slow stream is held up: it has sent no more than its reader has read in a while.
func stalled(ctx context.Context, sent, read *atomic.Int64) error {
	const while = 200 * time.Millisecond
	tick := time.NewTicker(while)
	defer tick.Stop()
	for last := int64(-1); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("a reader that had read %d bytes never held up its sender, who had sent %d", read.Load(), sent.Load())
		}
		n := sent.Load()
		if n == last && read.Load() > 0 {
			return nil
		}
		last = n
	}
}

// carrier is the client.
type carrier struct {
	tr   *http.Transport
	base string

	mu    sync.Mutex
	local map[string]bool // addresses of the connections that were used
}

func (c *carrier) conns() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.local)
}

func (c *carrier) do(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.local == nil {
			c.local = map[string]bool{}
		}
		c.local[i.Conn.LocalAddr().String()] = true
	}})
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	resp, err := c.tr.RoundTrip(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		resp.Body.Close()
		err = fmt.Errorf("%s %s: %s %s %s", method, path, resp.Status, resp.Header.Get("x-tulle-reason"), bytes.TrimSpace(said))
	}
	return resp, err
}

// fast passes size bytes as quickly as it goes.
func (c *carrier) fast(ctx context.Context, upload bool, size int64) error {
	if !upload {
		resp, err := c.do(ctx, http.MethodGet, fmt.Sprint("/fast/", size), http.NoBody)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		n, err := io.Copy(&checker{}, resp.Body)
		if err == nil && n != size {
			err = fmt.Errorf("%d of %d bytes came", n, size)
		}
		return err
	}
	resp, err := c.do(ctx, http.MethodPost, "/fast", io.LimitReader(&endless{}, size))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if want := fmt.Sprintf("%d <nil>", size); err == nil && string(said) != want {
		err = fmt.Errorf("of an upload of %d bytes the server says %q", size, said)
	}
	return err
}

// slow holds up a sender until ctx is done. It counts what the caller's side does.
func (c *carrier) slow(ctx context.Context, upload bool, rate int, here *atomic.Int64) error {
	method, path, body := http.MethodGet, "/slow", io.Reader(http.NoBody)
	if upload {
		method, path, body = http.MethodPost, fmt.Sprint("/slow/", rate), io.TeeReader(&endless{}, (*counter)(here))
	}
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if !upload {
		return slowly(ctx, resp.Body, rate, here)
	}
	<-ctx.Done()
	return ctx.Err()
}

// slowly reads at a rate, in bytes per second, until ctx is done.
func slowly(ctx context.Context, body io.Reader, rate int, read *atomic.Int64) error {
	const perSecond = 20
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	b := make([]byte, max(1, rate/perSecond))
	for {
		n, err := io.ReadFull(body, b)
		read.Add(int64(n))
		if err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// endless is a pattern without end.
type endless struct{ at int }

var endlessPattern = pattern(64 << 10)

func (e *endless) Read(p []byte) (int, error) {
	n := copy(p, endlessPattern[e.at:])
	e.at = (e.at + n) % len(endlessPattern)
	return n, nil
}

// checker takes what endless gives.
type checker struct{ at int }

func (c *checker) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		part := p[done:min(len(p), done+len(endlessPattern)-c.at)]
		if !bytes.Equal(part, endlessPattern[c.at:c.at+len(part)]) {
			return done, errors.New("the body differs from what was sent")
		}
		done += len(part)
		c.at = (c.at + len(part)) % len(endlessPattern)
	}
	return len(p), nil
}

// counter counts what is written to it.
type counter atomic.Int64

func (c *counter) Write(p []byte) (int, error) {
	(*atomic.Int64)(c).Add(int64(len(p)))
	return len(p), nil
}
