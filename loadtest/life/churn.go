//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/loadtest/rig"
)

// churnConfig has short time-outs, so that many are met.
const churnConfig = `apiVersion: tulle.dev/v1alpha1
kind: ExternalService
metadata: {name: db, namespace: shop}
spec: {addresses: [%q], protocol: tcp}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop}
spec:
  service: cart
  ports: [{listen: %q, target: %q, protocol: http, mode: permissive}]
  upstreams: [{service: cart, listen: %q}, {service: db, listen: %q}]
  limits: {headTimeout: 1s, bodyTimeout: 1s, idleTimeout: 2s}
`

// target is where connections go: the sidecar's listeners.
type target struct {
	inbound, mesh, relay string
	secure               *tls.Config
}

// kind is a way in which a connection lives and ends. An error is something that should not have happened.
type kind struct {
	name   string
	weight int // share among the kinds that do not wait
	live   func(t *target) error
}

// kinds take turns at random.
var kinds = []kind{
	{"HTTP/1.1, three requests", 14, func(t *target) error { return plain(t.inbound, 3, false) }},
	{"HTTP/1.1, Connection: close", 12, func(t *target) error { return plain(t.inbound, 1, true) }},
	{"HTTP/1.1, half-closed after the request", 6, halfClosed},
	{"HTTP/1.1, reset within the answer", 6, func(t *target) error {
		return cut(t.inbound, "GET / HTTP/1.1\r\nHost: cart\r\n\r\n", 100)
	}},
	{"HTTP/1.1, reset within a head", 5, func(t *target) error { return cut(t.inbound, "GET / HTTP/1.1\r\nHost: ca", 0) }},
	{"HTTP/1.1, reset within a body", 5, func(t *target) error {
		return cut(t.inbound, "POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 100000\r\n\r\nsome of it", 0)
	}},
	{"HTTP/1.1, the caller leaves before the answer", 4, func(t *target) error { return cut(t.inbound, "GET /slow HTTP/1.1\r\nHost: cart\r\n\r\n", 0) }},
	{"HTTP/1.1 out, over a pooled mTLS hop", 8, func(t *target) error { return plain(t.mesh, 2, false) }},
	{"HTTP/2, three streams", 8, func(t *target) error { return streams(t.inbound, nil, 3) }},
	{"HTTP/2, streams that are reset", 5, func(t *target) error { return abandoned(t.inbound) }},
	{"mTLS, HTTP/1.1", 5, func(t *target) error { return secured(t, 2) }},
	{"mTLS, HTTP/2", 4, func(t *target) error { return streams(t.inbound, t.secure, 2) }},
	{"mTLS, left within the handshake", 4, func(t *target) error {
		return cut(t.inbound, "\x16\x03\x01\x01\x00\x01\x00\x00\xfc\x03\x03some of a ClientHello", 0)
	}},
	{"TCP, echoed and half-closed", 8, echoed},
	{"TCP, reset", 4, func(t *target) error { return cut(t.relay, "some bytes", 3) }},
	{"closed at once", 2, func(t *target) error { return cut(t.relay, "", 0) }},
}

// waiting kinds hold their connection until a time-out of the sidecar ends it.
var waiting = []kind{
	{"HTTP/1.1, time-out of a head", 1, func(t *target) error { return outwait(t.inbound, "GET / HTTP/1.1\r\nHost: ca") }},
	{"HTTP/1.1, time-out of a body", 1, func(t *target) error {
		return outwait(t.inbound, "POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 1000\r\n\r\nsome of it")
	}},
	{"HTTP/1.1, idle time-out", 1, func(t *target) error { return outwait(t.inbound, "GET / HTTP/1.1\r\nHost: cart\r\n\r\n") }},
	{"time-out of a first byte", 1, func(t *target) error { return outwait(t.inbound, "") }},
}

// patience is more than anything here may take.
const patience = 20 * time.Second

func dial(addr string) (*net.TCPConn, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return nil, err
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn), nil
}

const request = "GET / HTTP/1.1\r\nHost: cart\r\n\r\n"

// answered reads one answer.
func answered(r *bufio.Reader) error {
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	if err != nil || res.StatusCode != 200 || n != 1024 {
		return fmt.Errorf("status %d, %d bytes, %w", res.StatusCode, n, err)
	}
	return nil
}

func plain(addr string, requests int, last bool) error {
	c, err := dial(addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	r := bufio.NewReaderSize(c, 2048)
	for range requests {
		text := request
		if last {
			text = "GET / HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n"
		}
		if _, err := io.WriteString(c, text); err != nil {
			return err
		}
		if err := answered(r); err != nil {
			return err
		}
	}
	return nil
}

func halfClosed(t *target) error {
	c, err := dial(t.inbound)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 4\r\n\r\nbody"); err != nil {
		return err
	}
	_ = c.CloseWrite()
	return answered(bufio.NewReaderSize(c, 2048))
}

// cut writes, reads a little, and resets. What the sidecar does meanwhile is no error.
func cut(addr, text string, read int) error {
	c, err := dial(addr)
	if err != nil {
		return err
	}
	if text != "" {
		_, _ = io.WriteString(c, text)
		_, _ = io.ReadFull(c, make([]byte, read))
		_ = c.SetLinger(0)
	}
	return c.Close()
}

func secured(t *target, requests int) error {
	c, err := dial(t.inbound)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	s := tls.Client(c, t.secure)
	r := bufio.NewReaderSize(s, 2048)
	for range requests {
		if _, err := io.WriteString(s, request); err != nil {
			return err
		}
		if err := answered(r); err != nil {
			return err
		}
	}
	return s.Close()
}

// two speaks HTTP/2 over a connection.
func two(addr string, secure *tls.Config) (*http2.ClientConn, net.Conn, error) { //nolint:staticcheck // http.ClientConn is that of HTTP/1.1 and 2; here it must be 2
	tc, err := dial(addr)
	if err != nil {
		return nil, nil, err
	}
	c := net.Conn(tc)
	if secure != nil {
		cfg := secure.Clone()
		cfg.NextProtos = []string{"h2"}
		s := tls.Client(tc, cfg)
		if err := s.Handshake(); err != nil {
			_ = tc.Close()
			return nil, nil, err
		}
		if p := s.ConnectionState().NegotiatedProtocol; p != "h2" {
			_ = tc.Close()
			return nil, nil, fmt.Errorf("the sidecar chose protocol %q", p)
		}
		c = s
	}
	cc, err := (&http2.Transport{AllowHTTP: true}).NewClientConn(c) //nolint:staticcheck // as above
	if err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return cc, c, nil
}

func streams(addr string, secure *tls.Config, n int) error {
	cc, c, err := two(addr, secure)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for range n {
		req, err := http.NewRequest(http.MethodGet, "http://cart/", nil)
		if err != nil {
			return err
		}
		res, err := cc.RoundTrip(req)
		if err != nil {
			return err
		}
		b, err := io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != 200 || b != 1024 {
			return fmt.Errorf("status %d, %d bytes, %w", res.StatusCode, b, err)
		}
	}
	return cc.Close()
}

func abandoned(addr string) error {
	cc, c, err := two(addr, nil)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	for range 2 {
		ctx, cancel := context.WithCancel(context.Background())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://cart/slow", nil)
		if err != nil {
			cancel()
			return err
		}
		time.AfterFunc(2*time.Millisecond, cancel)
		if res, err := cc.RoundTrip(req); err == nil {
			_ = res.Body.Close()
			cancel()
			return fmt.Errorf("status %d of what has no end", res.StatusCode)
		}
	}
	return nil
}

func echoed(t *target) error {
	c, err := dial(t.relay)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	sent := bytes.Repeat([]byte{byte(rand.Uint32())}, 1+rand.IntN(4096))
	if _, err := c.Write(sent); err != nil {
		return err
	}
	_ = c.CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, sent) {
		return fmt.Errorf("%d of %d bytes came back, %w", len(got), len(sent), err)
	}
	return nil
}

// outwait writes and waits until the sidecar ends the connection.
func outwait(addr, text string) error {
	c, err := dial(addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, text)
	if _, err := io.Copy(io.Discard, c); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the sidecar did not end the connection in %s", patience)
	}
	return nil
}

// waiters are the connections that wait for a time-out at a time.
const waiters = 200

// pick is a kind by weight.
func pick() *kind {
	total := 0
	for i := range kinds {
		total += kinds[i].weight
	}
	n := rand.IntN(total)
	for i := range kinds {
		if n -= kinds[i].weight; n < 0 {
			return &kinds[i]
		}
	}
	return &kinds[0]
}

// tally is how often each kind went well and badly.
type tally struct {
	mu    sync.Mutex
	good  map[string]int64
	bad   map[string]int64
	first map[string]error
}

func (t *tally) add(name string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.good[name]++
		return
	}
	t.bad[name]++
	if t.first[name] == nil {
		t.first[name] = err
	}
}

// samplesOfRun is how often the sidecar is brought to rest and looked at.
const samplesOfRun = 20

func churn(ctx context.Context, out io.Writer, sidecar string, log *os.File, connections int64, workers int) error {
	var addrs [4]string
	for i := range addrs {
		var err error
		if addrs[i], err = freePort(); err != nil {
			return err
		}
	}
	m := &mesh{log: io.Discard}
	app, err := m.application()
	if err != nil {
		return err
	}
	echo, err := m.echo()
	if err != nil {
		return err
	}
	defer m.stop()
	started, err := newMesh(ctx, sidecar, log, fmt.Sprintf(churnConfig, echo, addrs[0], app, addrs[1], addrs[2]))
	if err != nil {
		return err
	}
	defer started.stop()
	t := &target{inbound: addrs[0], mesh: addrs[1], relay: addrs[2]}
	if t.secure, err = started.client(); err != nil {
		return err
	}
	p, err := started.start("cart", addrs[3])
	if err != nil {
		return err
	}
	if err := p.ready(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d connections of %d kinds through process %d\n", connections, len(kinds)+len(waiting), p.cmd.Process.Pid)

	counts := &tally{good: map[string]int64{}, bad: map[string]int64{}, first: map[string]error{}}
	var made atomic.Int64
	var all []sample
	began := time.Now()
	for n := range samplesOfRun {
		until := connections * int64(n+1) / samplesOfRun
		batch, cancel := context.WithCancel(ctx)
		var busy, slow sync.WaitGroup
		for range workers {
			busy.Go(func() {
				for batch.Err() == nil && made.Add(1) <= until {
					k := pick()
					counts.add(k.name, k.live(t))
				}
			})
		}
		for i := range waiters {
			slow.Go(func() {
				for batch.Err() == nil {
					k := &waiting[i%len(waiting)]
					made.Add(1)
					counts.add(k.name, k.live(t))
				}
			})
		}
		busy.Wait()
		cancel()
		slow.Wait()
		if ctx.Err() != nil {
			return errors.New("stopped before the end")
		}
		made.Store(until)
		s, err := p.rest(ctx)
		if err != nil {
			return err
		}
		s.at, s.connections = time.Since(began), until
		all = append(all, s)
		fmt.Fprintf(out, "%9d connections %8s: heap %.2f MiB, RSS %.1f MiB, %.0f goroutines, %.0f descriptors\n", until, s.at.Round(time.Second), s.heap/(1<<20), s.rss/(1<<20), s.goroutines, s.fds)
	}
	fmt.Fprintln(out)
	var problems []error
	for _, k := range append(append([]kind(nil), kinds...), waiting...) {
		fmt.Fprintf(out, "%8d  %s\n", counts.good[k.name]+counts.bad[k.name], k.name)
		if n := counts.bad[k.name]; n > 0 {
			problems = append(problems, fmt.Errorf("%s: %d went wrong, the first: %w", k.name, n, counts.first[k.name]))
		}
	}
	fmt.Fprintf(out, "%.0f connections per second, %d batches of spans sent\n\n", float64(connections)/time.Since(began).Seconds(), started.sink.batches.Load())
	if err := judge(out, all); err != nil {
		problems = append(problems, err)
	}
	if len(problems) == 0 {
		fmt.Fprintln(out, "nothing grew, nothing went wrong")
	}
	return errors.Join(problems...)
}

// rest waits until the sidecar has no connection of a caller, and looks at it after collections.
func (p *proxy) rest(ctx context.Context) (s sample, err error) {
	open := func() bool {
		n, err := p.metric("tulle_connections_open")
		return err == nil && n == 0
	}
	if err := p.until(ctx, "at rest (tulle_connections_open is not 0)", open); err != nil {
		return s, err
	}
	time.Sleep(500 * time.Millisecond) // what has ended is let go
	for range 3 {                      // what is in a sync.Pool outlives one collection
		res, err := http.Get("http://" + p.admin + "/debug/pprof/heap?gc=1")
		if err != nil {
			return s, err
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	if s.goroutines, err = p.metric("go_goroutines"); err != nil {
		return s, err
	}
	if s.heap, err = p.metric("go_memstats_alloc_bytes"); err != nil {
		return s, err
	}
	if s.rss, err = p.rss(); err != nil {
		return s, err
	}
	n, ok := rig.Descriptors(p.cmd.Process.Pid)
	if !ok {
		return s, errors.New("descriptors are counted by /proc: run this on Linux")
	}
	s.fds = float64(n)
	return s, nil
}
