//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// manner is how an endpoint answers. The zero value is healthy: 200 after work.
type manner struct {
	slower time.Duration // added before every answer
	status int           // answered in place of 200 …
	share  float64       // … to this part of the requests, drawn by lot; 0 means all
	after  string        // Retry-After of status; "" for none
	grpc   int           // of a gRPC call: the grpc-status of all answers
	hang   bool          // requests are taken and never answered
	reset  bool          // connections are reset as soon as they are accepted, open ones at once
	cut    float64       // part of the answers that are reset in the middle of their body
	deaf   bool          // connections are accepted, and nothing is read from them
	tail   float64       // part of the requests that take a hundred times as long
	rotate float64       // part of the answers after which the connection is closed, in order
	most   int           // connections open at a time, one more is reset; 0 for any number
}

// endpoint is one instance of a service's application: a server on loopback that misbehaves on demand. Safe for concurrent use.
type endpoint struct {
	service  *service
	instance string
	zone     string
	version  string
	address  string // where the application listens
	next     http.RoundTripper
	slots    chan struct{} // nil: it serves any number at a time

	attempts atomic.Int64 // requests that came, and connections that it did not read from
	manner   atomic.Pointer[manner]

	mu      sync.Mutex
	server  *http.Server // nil while it is down
	open    map[*wire]struct{}
	changed chan struct{} // closed when the manner changes

	ended chan struct{} // closed when the stage ends
}

func newEndpoint(s *service, instance, zone, address string) *endpoint {
	e := &endpoint{service: s, instance: instance, zone: zone, address: address, open: map[*wire]struct{}{}, changed: make(chan struct{}), ended: make(chan struct{})}
	e.manner.Store(&manner{})
	if s.capacity > 0 {
		e.slots = make(chan struct{}, s.capacity)
	}
	return e
}

// behave changes the manner. Open connections are reset when it says so.
func (e *endpoint) behave(m manner) {
	e.manner.Store(&m)
	e.mu.Lock()
	defer e.mu.Unlock()
	close(e.changed)
	e.changed = make(chan struct{})
	if m.reset {
		for w := range e.open {
			w.abort()
		}
	}
}

// up starts the application; it must be down.
func (e *endpoint) up() error {
	l, err := net.Listen("tcp", e.address)
	if err != nil {
		return fmt.Errorf("endpoint %s: %w", e.instance, err)
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s := &http.Server{
		Handler: http.HandlerFunc(e.serve), Protocols: protocols, ReadHeaderTimeout: time.Minute,
		ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, wireKey{}, c) },
	}
	e.mu.Lock()
	e.server = s
	e.mu.Unlock()
	go func() { _ = s.Serve(&door{l, e}) }() // ended by down and drain
	return nil
}

// down ends the application as SIGKILL would: the kernel closes what is open.
func (e *endpoint) down() {
	e.mu.Lock()
	s := e.server
	e.server = nil
	e.mu.Unlock()
	if s != nil {
		_ = s.Close()
	}
}

// drain ends the application as most do at SIGTERM: it stops listening, idle connections close, what is in flight is answered.
func (e *endpoint) drain() {
	e.mu.Lock()
	s := e.server
	e.server = nil
	e.mu.Unlock()
	if s == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if s.Shutdown(ctx) != nil {
		_ = s.Close()
	}
}

func (e *endpoint) serve(w http.ResponseWriter, r *http.Request) {
	e.attempts.Add(1)
	_, _ = io.Copy(io.Discard, r.Body)
	m := e.manner.Load()
	if e.slots != nil {
		select {
		case e.slots <- struct{}{}: // whoever has left meanwhile is worked for all the same, as most servers do
		case <-e.ended:
			return
		}
		defer func() { <-e.slots }()
		m = e.manner.Load() // it may have waited for long
		time.Sleep(e.duration(m))
	} else if !pause(r.Context(), e.duration(m)) {
		return
	}
	if m.rotate > 0 && rand.Float64() < m.rotate {
		w.Header().Set("Connection", "close")
	}
	switch {
	case m.hang:
		e.hang(r.Context())
	case m.grpc != 0:
		head := w.Header()
		head.Set("Content-Type", "application/grpc")
		head.Set("Grpc-Status", strconv.Itoa(m.grpc))
		head.Set("Grpc-Message", "on demand")
	case m.status != 0 && (m.share == 0 || rand.Float64() < m.share):
		if m.after != "" {
			w.Header().Set("Retry-After", m.after)
		}
		w.WriteHeader(m.status)
	case e.next != nil && !e.forward(w, r):
	default:
		e.answer(w, r, m.cut > 0 && rand.Float64() < m.cut)
	}
}

// duration is how long a request takes.
func (e *endpoint) duration(m *manner) time.Duration {
	d := e.service.work + m.slower
	if m.tail > 0 && rand.Float64() < m.tail {
		d *= 100
	}
	return d
}

// hang waits until the caller leaves, also when later requests are answered again.
func (e *endpoint) hang(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-e.ended:
	}
	panic(http.ErrAbortHandler)
}

// forward calls the next service, as an application without a retry of its own does; false when it has answered for it.
func (e *endpoint) forward(w http.ResponseWriter, r *http.Request) bool {
	ctx := r.Context()
	if e.service.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, e.service.patience)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.service.calls+"/", nil)
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return false
	}
	res, err := e.next.RoundTrip(req)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return false
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		// The status goes on as it is: so do most applications, and so a failure at the end is one at the beginning.
		w.WriteHeader(max(res.StatusCode, http.StatusInternalServerError))
		return false
	}
	return true
}

// chunk is what bodies are made of.
var chunk = make([]byte, 16<<10)

func (e *endpoint) answer(w http.ResponseWriter, r *http.Request, cut bool) {
	if e.service.grpc {
		head := w.Header()
		head.Set("Content-Type", "application/grpc")
		head.Set("Trailer", "Grpc-Status")
		_, _ = w.Write([]byte{0, 0, 0, 0, 0}) // one empty message
		head.Set("Grpc-Status", "0")
		return
	}
	size := max(e.service.body, 64)
	w.Header().Set("Content-Length", strconv.Itoa(size))
	w.Header().Set("X-Instance", e.instance)
	for sent := 0; sent < size; {
		n := min(size-sent, len(chunk))
		if cut && sent+n > size/2 {
			_, _ = w.Write(chunk[:size/2-sent])
			_ = http.NewResponseController(w).Flush()
			if c, ok := r.Context().Value(wireKey{}).(*wire); ok {
				c.abort()
			}
			panic(http.ErrAbortHandler)
		}
		if _, err := w.Write(chunk[:n]); err != nil {
			return
		}
		sent += n
	}
}

// pause waits d or until ctx ends, and says whether it waited to the end.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

type wireKey struct{}

// door accepts connections as the endpoint's manner says.
type door struct {
	net.Listener
	e *endpoint
}

func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		w := &wire{Conn: c, e: d.e, closed: make(chan struct{})}
		m := d.e.manner.Load()
		d.e.mu.Lock()
		full := m.most > 0 && len(d.e.open) >= m.most
		if !full && !m.reset {
			d.e.open[w] = struct{}{}
		}
		d.e.mu.Unlock()
		if full || m.reset {
			d.e.attempts.Add(1)
			w.abort()
			continue
		}
		if m.deaf {
			d.e.attempts.Add(1)
		}
		return w, nil
	}
}

// wire is a connection that the endpoint does not read from while it is deaf.
type wire struct {
	net.Conn
	e      *endpoint
	once   sync.Once
	closed chan struct{}
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	for w.e.manner.Load().deaf {
		w.e.mu.Lock()
		changed := w.e.changed
		w.e.mu.Unlock()
		if !w.e.manner.Load().deaf {
			break
		}
		select {
		case <-changed:
		case <-w.closed:
			return 0, net.ErrClosed
		}
	}
	return n, err
}

func (w *wire) Close() error {
	w.once.Do(func() {
		close(w.closed)
		w.e.mu.Lock()
		delete(w.e.open, w)
		w.e.mu.Unlock()
	})
	return w.Conn.Close()
}

// abort closes with a reset.
func (w *wire) abort() {
	if c, ok := w.Conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0)
	}
	_ = w.Conn.Close()
}

// blackHole listens on an address without ever accepting, with a queue that is full, so that the kernel drops every further SYN.
func blackHole(address string) (end func(), err error) {
	at, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("black hole at %s: %w", address, err)
	}
	var held []net.Conn
	end = func() {
		_ = unix.Close(fd)
		for _, c := range held {
			_ = c.Close()
		}
	}
	to := &unix.SockaddrInet4{Port: at.Port}
	copy(to.Addr[:], at.IP.To4())
	err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, to), unix.Listen(fd, 0))
	if err != nil {
		end()
		return nil, fmt.Errorf("black hole at %s: %w", address, err)
	}
	for range 8 {
		c, err := net.DialTimeout("tcp", address, 50*time.Millisecond)
		if err == nil {
			held = append(held, c)
			continue
		}
		if late := net.Error(nil); errors.As(err, &late) && late.Timeout() {
			return end, nil // the queue is full
		}
		end()
		return nil, fmt.Errorf("black hole at %s: %w", address, err)
	}
	end()
	return nil, fmt.Errorf("black hole at %s: the kernel goes on accepting connections", address)
}
