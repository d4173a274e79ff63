//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const hopConfig = `apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop}
spec:
  service: web
  upstreams: [{service: cart, listen: %q}]
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop}
spec:
  service: cart
  ports: [{listen: %q, target: %q, protocol: http}]
`

// caller is one way of calling. Its requests are not safe to repeat, so that no client repeats one by itself.
type caller struct {
	name      string
	n         int // at a time
	call      func(ctx context.Context) error
	good, bad atomic.Int64
	first     atomic.Pointer[error]
}

func post(client *http.Client, url string) func(context.Context) error {
	return func(context.Context) error {
		res, err := client.Post(url, "text/plain", strings.NewReader("x"))
		if err != nil {
			return err
		}
		defer res.Body.Close()
		n, err := io.Copy(io.Discard, res.Body)
		if err != nil || res.StatusCode != 200 || n != 1024 {
			return fmt.Errorf("status %d, reason %q, %d bytes, %w", res.StatusCode, res.Header.Get("x-tulle-reason"), n, err)
		}
		return nil
	}
}

func hotRestart(ctx context.Context, out io.Writer, sidecar string, log *os.File, requests int64, restarts int, drain time.Duration) error {
	var addrs [4]string
	for i := range addrs {
		var err error
		if addrs[i], err = freePort(); err != nil {
			return err
		}
	}
	outbound, inbound := addrs[0], addrs[1]
	apps := &mesh{log: io.Discard}
	defer apps.stop()
	app, err := apps.application()
	if err != nil {
		return err
	}
	m, err := newMesh(ctx, sidecar, log, fmt.Sprintf(hopConfig, outbound, inbound, app))
	if err != nil {
		return err
	}
	defer m.stop()
	secure, err := m.client()
	if err != nil {
		return err
	}
	args := []string{"--drain-timeout", drain.String()}
	current := map[string]*proxy{}
	for i, service := range []string{"cart", "web"} {
		if current[service], err = m.start(service, addrs[2+i], args...); err != nil {
			return err
		}
		if err := current[service].ready(ctx); err != nil {
			return err
		}
	}

	// Callers: of web's outbound listener, over the hop; and of cart's inbound listener, with mTLS of their own.
	transport := func(fresh bool, secure *tls.Config) *http.Client {
		return &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: fresh, MaxIdleConnsPerHost: 64, TLSClientConfig: secure}}
	}
	over, straight := "http://"+outbound+"/", "https://"+inbound+"/"
	conn, err := grpc.NewClient("passthrough:///"+outbound, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		return err
	}
	defer conn.Close()
	unary := healthpb.NewHealthClient(conn)
	callers := []*caller{
		{name: "HTTP/1.1, kept connections", n: 6, call: post(transport(false, nil), over)},
		{name: "HTTP/1.1, a connection each", n: 2, call: post(transport(true, nil), over)},
		{name: "gRPC unary", n: 4, call: func(ctx context.Context) error {
			_, err := unary.Check(ctx, &healthpb.HealthCheckRequest{})
			return err
		}},
		{name: "mTLS inbound, kept connections", n: 2, call: post(transport(false, secure), straight)},
		{name: "mTLS inbound, a connection each", n: 1, call: post(transport(true, secure), straight)},
	}
	load, cancel := context.WithCancel(ctx)
	defer cancel()
	var calling, streaming sync.WaitGroup
	for _, c := range callers {
		for range c.n {
			calling.Go(func() {
				for load.Err() == nil {
					if err := c.call(context.WithoutCancel(load)); err != nil {
						c.bad.Add(1)
						c.first.CompareAndSwap(nil, &err)
					} else {
						c.good.Add(1)
					}
				}
			})
		}
	}
	total := func() (n int64) {
		for _, c := range callers {
			n += c.good.Load() + c.bad.Load()
		}
		return n
	}
	probes := &caller{name: "readyz, of both"}
	for _, p := range current {
		probe := transport(true, nil)
		calling.Go(func() {
			for load.Err() == nil {
				if err := ready(probe, p.admin); err != nil {
					probes.bad.Add(1)
					probes.first.CompareAndSwap(nil, &err)
				} else {
					probes.good.Add(1)
				}
				time.Sleep(time.Millisecond)
			}
		})
	}

	long := &caller{name: "WebSocket and gRPC streams across a restart"}
	var old []*proxy
	var took []time.Duration
	began := time.Now()
	for n := 0; (n < restarts || total() < requests) && ctx.Err() == nil; n++ {
		service := []string{"cart", "web"}[n%2]
		// What is open when the process is replaced goes on for most of its drain.
		opened := make(chan struct{}, 2)
		for _, stream := range []func(time.Duration, chan<- struct{}) error{
			func(d time.Duration, opened chan<- struct{}) error { return socket(outbound, d, opened) },
			func(d time.Duration, opened chan<- struct{}) error { return watch(outbound, d, opened) },
		} {
			streaming.Go(func() {
				if err := stream(drain*3/4, opened); err != nil {
					long.bad.Add(1)
					long.first.CompareAndSwap(nil, &err)
				} else {
					long.good.Add(1)
				}
			})
		}
		for range 2 {
			select {
			case <-opened:
			case <-time.After(patience):
				return fmt.Errorf("a stream did not open: %w", *long.first.Load())
			}
		}
		before := current[service]
		at := time.Now()
		next, err := m.start(service, before.admin, args...)
		if err != nil {
			return err
		}
		if err := next.until(ctx, "taken over", func() bool { return strings.Contains(next.said.text(), "taken over") }); err != nil {
			return err
		}
		took = append(took, time.Since(at))
		old = append(old, before)
		current[service] = next
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	streaming.Wait()
	cancel()
	calling.Wait()
	elapsed := time.Since(began)
	if ctx.Err() != nil {
		return errors.New("stopped before the end")
	}
	var problems []error
	for _, p := range old {
		select {
		case <-p.ended:
			if p.err != nil {
				problems = append(problems, fmt.Errorf("an old process of %s ended with %w; it said last: %s", p.service, p.err, p.said.last()))
			}
		case <-time.After(drain + 20*time.Second):
			problems = append(problems, fmt.Errorf("an old process of %s does not end; it said last: %s", p.service, p.said.last()))
		}
	}
	for _, p := range current {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		<-p.ended
	}
	slices.Sort(took)
	fmt.Fprintf(out, "%d restarts in %s, of both sidecars in turn; a new process had taken over after %s (median), %s at most\n\n",
		len(took), elapsed.Round(time.Second), took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	for _, c := range append(callers, probes, long) {
		fmt.Fprintf(out, "%8d answered %4d failed  %s\n", c.good.Load(), c.bad.Load(), c.name)
		if c.bad.Load() > 0 {
			problems = append(problems, fmt.Errorf("%s: %d failed, the first: %w", c.name, c.bad.Load(), *c.first.Load()))
		}
	}
	fmt.Fprintf(out, "%8d requests in all, %.0f per second\n", total(), float64(total())/elapsed.Seconds())
	return errors.Join(problems...)
}

// ready asks the admin page.
func ready(client *http.Client, admin string) error {
	res, err := client.Get("http://" + admin + "/readyz")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if b, _ := io.ReadAll(res.Body); res.StatusCode != 200 {
		return fmt.Errorf("status %d: %s", res.StatusCode, b)
	}
	return nil
}

// socket talks over a WebSocket for d, and closes it in order.
func socket(addr string, d time.Duration, opened chan<- struct{}) error {
	c, _, err := websocket.DefaultDialer.Dial("ws://"+addr+"/socket", nil) //nolint:bodyclose // of what is no response to read
	if err != nil {
		return fmt.Errorf("WebSocket: %w", err)
	}
	defer func() { _ = c.Close() }()
	for n, end := 0, time.Now().Add(d); time.Now().Before(end); n++ {
		text := fmt.Sprint("message ", n)
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if err := c.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			return fmt.Errorf("WebSocket, %s before its end: %w", time.Until(end), err)
		}
		_, b, err := c.ReadMessage()
		if err != nil || string(b) != text {
			return fmt.Errorf("WebSocket, %s before its end: %q %w", time.Until(end), b, err)
		}
		if n == 0 {
			opened <- struct{}{}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return c.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
}

// watch reads a stream of gRPC on a connection of its own for d.
func watch(addr string, d time.Duration, opened chan<- struct{}) error {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", a)
	}))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{Service: "beat"})
	if err != nil {
		return fmt.Errorf("gRPC stream: %w", err)
	}
	for n, end := 0, time.Now().Add(d); time.Now().Before(end); n++ {
		if _, err := s.Recv(); err != nil {
			return fmt.Errorf("gRPC stream, %s before its end: %w", time.Until(end), err)
		}
		if n == 0 {
			opened <- struct{}{}
		}
	}
	return nil
}
