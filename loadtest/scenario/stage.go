//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/loadtest"
)

// carrier brings requests from callers to endpoints, in the way of one contender. Its methods are called by one goroutine, but for caller.
type carrier interface {
	// start makes it carry for the services of the stage, whose endpoints are up.
	start(ctx context.Context) error
	// caller sends requests of the client (from is nil), or of an endpoint, to a service.
	caller(from *endpoint, service string) http.RoundTripper
	// told says that the list of a service's endpoints has changed.
	told(service string) error
	// join is called for an endpoint that is up, and listed by the next told.
	join(e *endpoint) error
	// leave takes away what it has beside an endpoint: in order, or as when its host is gone.
	leave(e *endpoint, inOrder bool) error
	// address is where callers reach an endpoint.
	address(e *endpoint) string
	// stop ends it and removes what it has written.
	stop() error
}

// stage is one cell: a scenario that is played for one contender.
type stage struct {
	scenario
	ctx     context.Context
	rig     *rig
	dir     string
	number  int
	carrier carrier
	began   time.Time // the window's
	names   *names    // nil unless the scenario has DNS

	mu     sync.Mutex
	weight []int                  // of the versions of the last service
	listed map[string][]*endpoint // what discovery says of each service
	all    []*endpoint
	ends   []func()
	after  []func() error // put in order what the cell has done to the rig
}

// newStage builds services, endpoints and carrier, and starts them. Close it, also after an error.
func newStage(ctx context.Context, r *rig, sc scenario, c contender) (*stage, error) {
	s, err := buildStage(ctx, r, sc)
	if err != nil {
		return s, err
	}
	s.carrier = c.carrier(s)
	if err := s.carrier.start(ctx); err != nil {
		return s, err
	}
	for _, e := range s.all {
		if e.service.calls != "" {
			e.next = s.carrier.caller(e, e.service.calls)
		}
		if err := e.up(); err != nil {
			return s, err
		}
	}
	return s, nil
}

// buildStage makes services and endpoints, which are down.
func buildStage(ctx context.Context, r *rig, sc scenario) (*stage, error) {
	r.cells++
	s := &stage{scenario: sc.withDefaults(), ctx: ctx, rig: r, number: r.cells, listed: map[string][]*endpoint{}}
	s.weight = s.weights
	s.dir = filepath.Join(r.dir, fmt.Sprintf("cell-%d", s.number))
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return s, err
	}
	if s.dns {
		if err := s.startNames(); err != nil {
			return s, err
		}
	}
	for i := range s.services {
		v := &s.services[i]
		for range v.endpoints {
			e, err := s.add(v.name)
			if err != nil {
				return s, err
			}
			s.listed[v.name] = append(s.listed[v.name], e)
		}
	}
	return s, nil
}

// add makes an endpoint that is down and not listed.
func (s *stage) add(name string) (*endpoint, error) {
	for i := range s.services {
		v := &s.services[i]
		if v.name != name {
			continue
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		n := 0
		for _, e := range s.all {
			if e.service == v {
				n++
			}
		}
		address, err := s.rig.ports.free()
		if s.dns {
			address, err = s.names.address(n), nil
		}
		if err != nil {
			return nil, err
		}
		e := newEndpoint(v, fmt.Sprintf("%s-%d", s.qualified(name), n+1), inTurn(v.zones, n), address)
		e.version = inTurn(v.versions, n)
		s.all = append(s.all, e)
		return e, nil
	}
	return nil, fmt.Errorf("the scenario has no service %s", name)
}

// inTurn is the n-th of a list that begins again at its end; "" of none.
func inTurn(of []string, n int) string {
	if len(of) == 0 {
		return ""
	}
	return of[n%len(of)]
}

// qualified is a name that is unique in the run: what a mesh has learnt of a service must not reach the next cell.
func (s *stage) qualified(service string) string { return fmt.Sprintf("%s%d", service, s.number) }

// endpointsOf are those that discovery lists now.
func (s *stage) endpointsOf(service string) []*endpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*endpoint(nil), s.listed[service]...)
}

// list changes what discovery says, and tells the carrier.
func (s *stage) list(service string, es []*endpoint) error {
	s.mu.Lock()
	s.listed[service] = es
	s.mu.Unlock()
	return s.carrier.told(service)
}

// last are the listed endpoints of the last service.
func (s *stage) last() []*endpoint { return s.endpointsOf(s.services[len(s.services)-1].name) }

// attempts are those that endpoints of the last service have counted since they began.
func (s *stage) attempts() (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.all {
		if e.service == &s.services[len(s.services)-1] {
			n += e.attempts.Load()
		}
	}
	return n
}

// atEnd is done when the stage closes.
func (s *stage) atEnd(f func()) { s.ends = append(s.ends, f) }

// close ends everything; errors are those of stopping in order.
func (s *stage) close() error {
	var err error
	for _, f := range s.after {
		err = errors.Join(err, f())
	}
	if s.carrier != nil {
		err = errors.Join(err, s.carrier.stop())
	}
	for _, f := range s.ends {
		f()
	}
	for _, e := range s.all {
		close(e.ended)
		e.behave(manner{})
		e.down()
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

// sample is one request of the client.
type sample struct {
	at   time.Duration // it left, after the window's begin
	took time.Duration
	fail string // "" when the answer was right
}

// play runs load and acts and returns what the client saw in the window, and the attempts that were counted meanwhile.
func (s *stage) play() (samples []sample, attempts int64, err error) {
	first := &s.services[0]
	client := s.carrier.caller(nil, first.name)
	if err := s.settle(client, first); err != nil {
		return nil, 0, err
	}
	limited, cancel := context.WithTimeout(s.ctx, s.warmup+s.window)
	defer cancel()
	var mu sync.Mutex
	start := time.Now()
	runner := &loadtest.Runner{Wave: loadtest.Wave{Base: s.rate}, MaxInFlight: 8192, Do: func(ctx context.Context, _ uint64) error {
		left := time.Now()
		fail := call(ctx, client, first, s.deadline)
		mu.Lock()
		defer mu.Unlock()
		samples = append(samples, sample{left.Sub(start) - s.warmup, time.Since(left), fail})
		return nil
	}}
	var g errgroup.Group
	var before int64
	g.Go(func() error {
		pause(limited, s.warmup)
		s.began = time.Now()
		before = s.attempts()
		for _, a := range s.acts {
			if !pause(limited, time.Until(s.began.Add(a.at))) {
				return nil
			}
			if err := a.do(s); err != nil {
				cancel()
				return fmt.Errorf("%s at %s: %w", s.name, a.at, err)
			}
		}
		return nil
	})
	g.Go(func() error { return runner.Run(limited, s.deadline+time.Second) })
	if err := g.Wait(); err != nil {
		return nil, 0, err
	}
	if err := s.ctx.Err(); err != nil {
		return nil, 0, errors.New("stopped before the end")
	}
	if d := runner.Totals().Dropped; d > 0 {
		return nil, 0, fmt.Errorf("%s: %d requests could not be sent: the machine is too busy for %.0f requests/s", s.name, d, s.rate)
	}
	return inWindow(samples), s.attempts() - before, nil
}

// inWindow are the samples that left after the warm-up.
func inWindow(all []sample) (in []sample) {
	for _, v := range all {
		if v.at >= 0 {
			in = append(in, v)
		}
	}
	return in
}

// settle waits until a hundred requests in a row are answered well.
func (s *stage) settle(client http.RoundTripper, first *service) error {
	limit := time.Now().Add(30 * time.Second)
	for good := 0; good < 100; {
		last := call(s.ctx, client, first, s.deadline)
		if last == "" {
			good++
			continue
		}
		good = 0
		if time.Now().After(limit) || !pause(s.ctx, 20*time.Millisecond) {
			return fmt.Errorf("%s: no 100 good answers in a row before the fault; the last: %s", s.name, last)
		}
	}
	return nil
}

// call sends one request and says how it failed; "" if it did not.
func call(ctx context.Context, client http.RoundTripper, to *service, deadline time.Duration) string {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	method, url := http.MethodGet, "http://"+to.name+"/"
	var body io.Reader
	if to.grpc {
		method, url, body = http.MethodPost, "http://"+to.name+"/scenario.App/Do", http.NoBody
	}
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err.Error()
	}
	if to.grpc {
		req.Header.Set("Content-Type", "application/grpc")
		req.Header.Set("Te", "trailers")
		req.Body = io.NopCloser(&message{})
	}
	res, err := client.RoundTrip(req)
	if err != nil {
		return kindOf(ctx, err)
	}
	defer res.Body.Close()
	n, err := io.Copy(io.Discard, res.Body)
	switch {
	case err != nil:
		return kindOf(ctx, err)
	case res.StatusCode != http.StatusOK && res.Header.Get("X-Tulle-Reason") != "":
		return res.Status + " (" + res.Header.Get("X-Tulle-Reason") + ")"
	case res.StatusCode != http.StatusOK:
		return res.Status
	case to.grpc:
		status := res.Trailer.Get("Grpc-Status")
		if status == "" {
			status = res.Header.Get("Grpc-Status")
		}
		if status != "0" {
			return "grpc-status " + status
		}
	case n != int64(max(to.body, 64)):
		return fmt.Sprintf("a body of %d bytes", n)
	}
	return ""
}

// message is the one empty message of a unary call.
type message struct{ sent int }

func (m *message) Read(b []byte) (int, error) {
	n := copy(b, make([]byte, 5-m.sent))
	m.sent += n
	if m.sent == 5 {
		return n, io.EOF
	}
	return n, nil
}

// kindOf names an error without addresses, so that equal ones are counted together.
func kindOf(ctx context.Context, err error) string {
	var errno syscall.Errno
	var lookup *net.DNSError
	switch {
	case ctx.Err() != nil:
		return "deadline"
	case errors.As(err, &lookup):
		return "the name was not found"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}
