//go:build linux

package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// bareRefresh is how long a client without a proxy goes on with the list of endpoints that it has.
const bareRefresh = time.Second

// bare has callers go to the endpoints themselves.
type bare struct {
	s    *stage
	end  context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	lists map[string]*atomic.Pointer[[]string]
	used  []*http.Transport
}

func newBare(s *stage) carrier { return &bare{s: s, lists: map[string]*atomic.Pointer[[]string]{}} }

func (b *bare) start(ctx context.Context) error {
	ctx, b.end = context.WithCancel(ctx)
	b.refresh()
	b.done.Go(func() {
		for pause(ctx, bareRefresh) {
			b.refresh()
		}
	})
	return nil
}

func (b *bare) refresh() {
	for i := range b.s.services {
		name := b.s.services[i].name
		var at []string
		for _, e := range b.s.endpointsOf(name) {
			at = append(at, e.address)
		}
		b.list(name).Store(&at)
	}
}

func (b *bare) list(service string) *atomic.Pointer[[]string] {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.lists[service]
	if l == nil {
		l = &atomic.Pointer[[]string]{}
		b.lists[service] = l
	}
	return l
}

func (b *bare) caller(_ *endpoint, service string) http.RoundTripper {
	t := transport(b.s.isGRPC(service))
	b.mu.Lock()
	b.used = append(b.used, t)
	b.mu.Unlock()
	if b.s.dns {
		t.DialContext = (&net.Dialer{Timeout: 30 * time.Second, Resolver: b.s.names.resolver()}).DialContext
		return toDoor{b.s.names.host(), t}
	}
	return &turns{list: b.list(service), to: t}
}

func (b *bare) told(string) error           { return nil } // within bareRefresh
func (b *bare) join(*endpoint) error        { return nil }
func (b *bare) leave(*endpoint, bool) error { return nil }
func (b *bare) address(e *endpoint) string  { return e.address }
func (b *bare) stop() error {
	b.end()
	b.done.Wait()
	for _, t := range b.used {
		t.CloseIdleConnections()
	}
	return nil
}

// turns sends requests to a list of addresses in turn.
type turns struct {
	list *atomic.Pointer[[]string]
	next atomic.Uint64
	to   http.RoundTripper
}

var errNoEndpoint = errors.New("no endpoint")

func (t *turns) RoundTrip(r *http.Request) (*http.Response, error) {
	at := *t.list.Load()
	if len(at) == 0 {
		return nil, errNoEndpoint
	}
	r.URL.Host = at[t.next.Add(1)%uint64(len(at))]
	return t.to.RoundTrip(r)
}

// transport is a client library's pool of connections. What it does at a kept connection that turns out to be closed is net/http's own business: it sends a
// GET again then, if no byte of an answer had come.
func transport(grpc bool) *http.Transport {
	t := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 1024, IdleConnTimeout: 90 * time.Second, DisableCompression: true,
	}
	if grpc {
		t.Protocols = &http.Protocols{}
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	return t
}

// isGRPC says whether a service is called by gRPC.
func (s *stage) isGRPC(service string) bool {
	for i := range s.services {
		if s.services[i].name == service {
			return s.services[i].grpc
		}
	}
	return false
}

// toDoor sends every request to one address: a proxy's listener.
type toDoor struct {
	address string
	to      http.RoundTripper
}

func (d toDoor) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Host = r.URL.Host
	r.URL.Host = d.address
	return d.to.RoundTrip(r)
}
