package upstream

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newExchange() *exchange.Exchange {
	x := &exchange.Exchange{Start: time.Now()}
	x.Reset()
	x.Destination = &exchange.Destination{Service: policy.Service{ConnectTimeout: time.Second}}
	x.Choice.Endpoint = &policy.Endpoint{Address: netip.MustParseAddrPort("10.0.0.1:80")}
	return x
}

func TestCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(func(context.Context, netip.AddrPort) (net.Conn, error) {
			c, _ := net.Pipe()
			return c, nil
		}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.Run(ctx)
		}()
		x := newExchange()
		at := x.Choice.Endpoint
		want := func(what string, open, free int64) {
			t.Helper()
			if o, f := p.Count(at, nil); o != open || f != free {
				t.Errorf("%s: %d open, %d of them idle; want %d and %d", what, o, f, open, free)
			}
		}
		a, b := p.Get(x), p.Get(x)
		want("two in use", 2, 0)
		p.Put(a)
		want("one put back", 2, 1)
		p.Discard(b)
		want("one discarded", 1, 1)
		time.Sleep(2 * IdleTimeout)
		synctest.Wait()
		want("idle for too long", 0, 0)
		if n := len(p.m); n != 0 {
			t.Errorf("%d pools are kept of which nothing is left", n)
		}
		cancel()
		<-done
	})
}

func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		p := New(func(context.Context, netip.AddrPort) (net.Conn, error) {
			dials++
			c, _ := net.Pipe()
			return c, nil
		}, nil)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.Run(ctx)
		}()
		x := newExchange()
		first := p.Get(x)
		if first.Reused || x.Legs.Connected < 0 {
			t.Errorf("first connection: %+v, legs %+v", first, x.Legs)
		}
		p.Put(first)
		if again := p.Get(x); again != first || !again.Reused || dials != 1 {
			t.Errorf("the idle connection was not reused after %d dials", dials)
		}
		p.Put(first)
		x.Fresh = true
		if fresh := p.Get(x); fresh == first || dials != 2 {
			t.Error("Fresh reuses a connection")
		} else {
			p.Put(fresh)
		}
		if n := p.Idle(); n != 2 {
			t.Errorf("%d idle, want 2", n)
		}
		time.Sleep(IdleTimeout + IdleTimeout/6)
		if n := p.Idle(); n != 0 {
			t.Errorf("%d idle after the idle time-out", n)
		}
		x.Fresh = false
		last := p.Get(x)
		cancel()
		<-done
		p.Put(last)
		if _, err := last.Write([]byte("x")); err == nil {
			t.Error("a connection put back after the end is open")
		}
	})
}

func TestIdleIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(func(context.Context, netip.AddrPort) (net.Conn, error) {
			c, _ := net.Pipe()
			return c, nil
		}, nil)
		x := newExchange()
		x.Fresh = true
		for range MaxIdle + 10 {
			p.Put(p.Get(x))
		}
		if n := p.Idle(); n != MaxIdle {
			t.Errorf("%d idle, want %d", n, MaxIdle)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		p.Run(ctx)
	})
}

// Whoever waits for a connection to be made is told to stop at once.
func TestAbortEndsDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }, nil)
		x := newExchange()
		x.Destination.ConnectTimeout = time.Hour
		go func() {
			synctest.Wait()
			x.Abort(flow.ReasonDraining)
		}()
		if got := p.Get(x); got != nil || x.Outcome.Reason != flow.ReasonDraining || !x.Outcome.Unprocessed || x.Since() != 0 {
			t.Errorf("got %v, %+v after %s", got, x.Outcome, x.Since())
		}
		if got := p.Get(x); got != nil || x.Since() != 0 { // it stays so
			t.Errorf("got %v after %s", got, x.Since())
		}
	})
}

func TestConnectReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			dial Dial
			want flow.Reason
		}{
			{func(context.Context, netip.AddrPort) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
			}, flow.ReasonConnectRefused},
			{func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }, flow.ReasonConnectTimeout},
			{func(context.Context, netip.AddrPort) (net.Conn, error) { return nil, errors.New("no route to host") }, flow.ReasonConnectFailed},
		} {
			x := newExchange()
			x.Remote = "spiffe://test.mesh/ns/a/sa/other"
			if got := New(c.dial, nil).Get(x); got != nil || x.Outcome.Reason != c.want || !x.Outcome.Unprocessed || x.Outcome.Delivered {
				t.Errorf("got %v, %+v; want %s", got, x.Outcome, c.want)
			}
			if x.Remote != "" {
				t.Errorf("%s: the endpoint is said to have proven %s, as another one has before", c.want, x.Remote)
			}
			if took := x.Since(); took > time.Second {
				t.Errorf("%s after %s", c.want, took)
			}
		}
	})
}
