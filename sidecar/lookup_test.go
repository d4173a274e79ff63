package sidecar

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// book is a Directory of which a test says what it answers.
type book struct {
	say func(ctx context.Context, a netip.AddrPort) (policy.Destination, error)

	mu    sync.Mutex
	asked map[netip.AddrPort]int
	held  map[string]int
	used  map[string]int
}

func newBook(say func(ctx context.Context, a netip.AddrPort) (policy.Destination, error)) *book {
	return &book{say: say, asked: map[netip.AddrPort]int{}, held: map[string]int{}, used: map[string]int{}}
}

func (b *book) Destination(ctx context.Context, network string, a netip.AddrPort) (policy.Destination, error) {
	if network != "" {
		return policy.Destination{}, fmt.Errorf("network %q", network)
	}
	b.mu.Lock()
	b.asked[a]++
	b.mu.Unlock()
	return b.say(ctx, a)
}

func (b *book) Hold(service string) (release func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held[service]++
	b.used[service]++
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.held[service]--
	}
}

var (
	cold1, cold2 = netip.AddrPortFrom(host(3, 1), 80), netip.AddrPortFrom(host(3, 2), 80)
	coldMetrics  = netip.AddrPortFrom(host(3, 1), 9090)
)

// learnt is redirectedSnapshot with a service more: "cold" at cold1 and cold2, and its port "metrics" at coldMetrics.
func learnt(i policy.Interception) *policy.Snapshot {
	s := redirectedSnapshot(redirectedAt, i)
	s.Revision = "learnt"
	s.Services["cold"] = policy.Service{Name: "cold", Protocol: flow.ProtocolHTTP, External: true}
	s.Endpoints["cold"] = []policy.Endpoint{{Address: cold1, Weight: 100}, {Address: cold2, Weight: 100}}
	s.Services["cold:metrics"] = policy.Service{Name: "cold:metrics", Protocol: flow.ProtocolTCP, External: true}
	s.Endpoints["cold:metrics"] = []policy.Endpoint{{Address: coldMetrics, Weight: 100}}
	return s
}

// The first connection to a cold destination waits until the listener has the Snapshot that knows it, and is judged by that one; later ones do not wait.
func TestLookupLearns(t *testing.T) {
	b := newBook(nil)
	withDirectory(t, redirectedSnapshot(redirectedAt, policy.Interception{}), b, func(t *testing.T, r *redirected) {
		var begun atomic.Bool
		b.say = func(_ context.Context, a netip.AddrPort) (policy.Destination, error) {
			time.Sleep(30 * time.Millisecond)
			if begun.CompareAndSwap(false, true) {
				go func() { // the answer comes before the listener has turned
					time.Sleep(10 * time.Millisecond)
					r.source.Set(r.checked(learnt(policy.Interception{})))
				}()
			}
			name := "cold"
			if a == coldMetrics {
				name = "cold:metrics"
			}
			return policy.Destination{Address: a, Service: name, Known: true, TTL: time.Minute}, nil
		}
		r.serve(cold1, web("one"))
		r.serve(cold2, web("two"))
		r.serve(coldMetrics, greeter("220 metrics"))
		get := func(to netip.AddrPort) time.Duration {
			begin := time.Now()
			c, in := r.dial(to)
			defer c.Close()
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: cold.example\r\nConnection: close\r\n\r\n")
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Error(err)
				return 0
			}
			if body, _ := io.ReadAll(resp.Body); !strings.HasSuffix(string(body), " as cold.example") {
				t.Errorf("%s answered %q", to, body)
			}
			return time.Since(begin)
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if took := get(cold1); took != 40*time.Millisecond {
					t.Errorf("a first request took %s", took)
				}
			})
		}
		wg.Wait()
		for _, to := range []netip.AddrPort{cold1, cold2} {
			if took := get(to); took != 0 {
				t.Errorf("a later request took %s", took)
			}
		}
		c, in := r.dial(coldMetrics) // of another port than the first
		if got := line(t, in); got != "220 metrics" {
			t.Errorf("metrics: %q", got)
		}
		b.mu.Lock()
		if b.asked[cold1] != 10 || b.asked[cold2] != 0 || b.asked[coldMetrics] != 0 || b.held["cold:metrics"] != 1 {
			t.Errorf("asked %v, held %v", b.asked, b.held)
		}
		b.mu.Unlock()
		_ = c.Close()
		synctest.Wait()
		for _, x := range r.rec.Closed(flow.KindExchange) {
			if x.Destination.Service != "cold" || x.Revision != "learnt" || x.Status != 200 {
				t.Errorf("Record %+v", x)
			}
		}
		if list := r.rec.Closed(flow.KindConnection); len(list) != 1 || list[0].Destination.Service != "cold" || list[0].Endpoint != coldMetrics {
			t.Errorf("Records of the metrics port: %+v", list)
		}
		w := r.Lookups().Waits()
		if n := r.Lookups().Count(AnswerService); n != 10 || w.Count != 10 || w.Sum != 400*time.Millisecond {
			t.Errorf("%d lookups, %d waits of %s", n, w.Count, w.Sum)
		}
	})
	if b.held["cold"] != 0 || b.used["cold"] != 12 || b.held["cold:metrics"] != 0 {
		t.Errorf("held in the end: %v; used %v", b.held, b.used)
	}
}

// What no answer came about goes as "away" says, what is known to be no service as "unknown" says; Records and counts tell them apart.
func TestLookupWithoutService(t *testing.T) {
	unknown := func(context.Context, netip.AddrPort) (policy.Destination, error) {
		return policy.Destination{TTL: time.Second}, nil
	}
	away := func(context.Context, netip.AddrPort) (policy.Destination, error) {
		return policy.Destination{}, policy.ErrAway
	}
	late := func(ctx context.Context, _ netip.AddrPort) (policy.Destination, error) {
		<-ctx.Done()
		return policy.Destination{}, ctx.Err()
	}
	never := func(_ context.Context, a netip.AddrPort) (policy.Destination, error) { // its Snapshot does not come
		return policy.Destination{Address: a, Service: "cold", Known: true, TTL: time.Second}, nil
	}
	full := func(context.Context, netip.AddrPort) (policy.Destination, error) {
		return policy.Destination{}, policy.ErrTooMany
	}
	pass, refuse := policy.UnknownPass, policy.UnknownRefuse
	const patience = 70 * time.Millisecond
	for _, c := range []struct {
		name          string
		say           func(ctx context.Context, a netip.AddrPort) (policy.Destination, error)
		unknown, away policy.Unknown
		passes        bool
		answer        Answer
		took          time.Duration
		detail        string
	}{
		{"unknown passes", unknown, pass, refuse, true, AnswerUnknown, 0, ""},
		{"unknown is refused", unknown, refuse, pass, false, AnswerUnknown, 0, "is no service that this sidecar knows"},
		{"away passes", away, refuse, pass, true, AnswerAway, 0, "passed through without knowing what it is: the controller is away"},
		{"away is refused", away, pass, refuse, false, AnswerAway, 0, "is not known yet, and the controller is away; spec.intercept.outbound.away is refuse"},
		{"late passes", late, refuse, pass, true, AnswerTimeout, patience, "the controller has not said what it is within 70ms"},
		{"late is refused", late, pass, refuse, false, AnswerTimeout, patience, "the controller has not said what it is within 70ms"},
		{"half an answer", never, pass, refuse, false, AnswerTimeout, patience, "the controller has not said what it is within 70ms"},
		{"full", full, pass, refuse, false, AnswerFailed, 0, "too many services are in use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBook(c.say)
			snap := redirectedSnapshot(redirectedAt, policy.Interception{Unknown: c.unknown, Away: c.away, LookupTimeout: patience})
			withDirectory(t, snap, b, func(t *testing.T, r *redirected) {
				r.serve(cold1, greeter("hello"))
				begin := time.Now()
				conn, in := r.dial(cold1)
				fmt.Fprint(conn, "hello\r\n")
				s, err := in.ReadString('\n')
				if took := time.Since(begin); took != c.took {
					t.Errorf("it took %s, want %s", took, c.took)
				}
				if passed := err == nil && s == "hello\r\n"; passed != c.passes {
					t.Errorf("%q, %v", s, err)
				}
				_ = conn.Close()
				synctest.Wait()
				list := r.rec.Closed(flow.KindConnection)
				if len(list) != 1 {
					t.Fatalf("%d Records", len(list))
				}
				x, reason, route := list[0], flow.ReasonUnknownDest, ""
				if c.passes {
					reason, route = flow.ReasonNone, "passthrough"
				}
				if x.Reason != reason || x.Route != route || x.Destination.Service != "" || x.Destination.Addr != cold1 || !strings.Contains(x.Detail, c.detail) || c.detail == "" && x.Detail != "" {
					t.Errorf("Record %+v", x)
				}
				l := r.Lookups()
				decided := uint64(0)
				if c.answer != AnswerUnknown {
					decided = 1
				}
				if l.Count(c.answer) != 1 || l.Decided(c.away) != decided || l.Decided(pass)+l.Decided(refuse) != decided {
					t.Errorf("counted %d as %s; decided %d and %d", l.Count(c.answer), c.answer, l.Decided(pass), l.Decided(refuse))
				}
			})
			if len(b.used) != 0 {
				t.Errorf("used %v", b.used)
			}
		})
	}
}

// A service is held as long as a connection to it lasts, however that ends.
func TestLookupHolds(t *testing.T) {
	b := newBook(func(context.Context, netip.AddrPort) (policy.Destination, error) {
		return policy.Destination{}, errors.New("nothing is cold here")
	})
	withDirectory(t, redirectedSnapshot(redirectedAt, policy.Interception{}), b, func(t *testing.T, r *redirected) {
		r.serve(shop1, web("one"))
		r.serve(shop2, web("two"))
		r.serve(queue1, func(c net.Conn, in *bufio.Reader) { _, _ = io.Copy(c, in) })
		held := func(service string, n int) {
			t.Helper()
			synctest.Wait()
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.held[service] != n {
				t.Errorf("%s is held %d times, want %d", service, b.held[service], n)
			}
		}
		silent, _ := r.dial(shop1)
		held("shop", 1)
		c, in := r.dial(shop1)
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		relay, in := r.dial(queue1)
		fmt.Fprint(relay, "PING\n")
		_ = line(t, in)
		held("shop", 2)
		held("queue", 1)
		_ = silent.Close()
		held("shop", 1)
		_ = c.Close()
		held("shop", 0)
		_ = relay.Close()
		held("queue", 0)
	})
}

// A sidecar that stops does not wait for answers.
func TestLookupEndsWithTheSidecar(t *testing.T) {
	b := newBook(func(ctx context.Context, _ netip.AddrPort) (policy.Destination, error) {
		<-ctx.Done()
		return policy.Destination{}, ctx.Err()
	})
	withDirectory(t, redirectedSnapshot(redirectedAt, policy.Interception{Away: policy.UnknownRefuse, LookupTimeout: 10 * time.Second}), b, func(t *testing.T, r *redirected) {
		c, in := r.dial(cold1)
		synctest.Wait()
		begin := time.Now()
		r.running.stop()
		if took := time.Since(begin); took != 0 {
			t.Errorf("the drain took %s", took)
		}
		if _, err := in.ReadByte(); err == nil {
			t.Error("it was answered")
		}
		_ = c.Close()
		if list := r.rec.Closed(flow.KindConnection); len(list) != 1 || !strings.Contains(list[0].Detail, "the sidecar is stopping") {
			t.Errorf("Records %+v", list)
		}
	})
}
