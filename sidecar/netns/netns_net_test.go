//go:build linux && testnet

package netns

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	test "github.com/tulle-mesh/tulle/internal/testmesh/netns"
)

func open(t *testing.T, name string) *Space {
	t.Helper()
	s, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// A connection is made from inside the namespace, for both families; what is refused, and what is not answered, is said in time.
func TestDial(t *testing.T) {
	ours, peer := test.New(t, "ours"), test.New(t, "peer")
	test.Pair(ours, peer, []netip.Prefix{netip.MustParsePrefix("10.72.0.1/24"), netip.MustParsePrefix("fd72::1/64")},
		[]netip.Prefix{netip.MustParsePrefix("10.72.0.2/24"), netip.MustParsePrefix("fd72::2/64")})
	l := peer.Listen(":80")
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_, _ = io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String()+" said ")
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	s := open(t, ours.Path())
	for at, from := range map[string]string{"10.72.0.2:80": "10.72.0.1", "[fd72::2]:80": "fd72::1", "[::ffff:10.72.0.2]:80": "10.72.0.1"} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		c, err := s.Dial(ctx, netip.MustParseAddrPort(at))
		cancel() // it holds for the dial only
		if err != nil {
			t.Errorf("%s: %v", at, err)
			continue
		}
		tcp, ok := c.(*net.TCPConn)
		if !ok {
			t.Fatalf("%T is no TCP connection", c)
		}
		_, _ = io.WriteString(c, "hello")
		_ = tcp.CloseWrite()
		if b, err := io.ReadAll(c); string(b) != from+" said hello" || err != nil {
			t.Errorf("%s: %q, %v", at, b, err)
		}
		_ = c.Close()
	}
	if _, err := s.Dial(t.Context(), netip.MustParseAddrPort("10.72.0.2:81")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := s.Dial(t.Context(), netip.MustParseAddrPort("192.0.2.1:81")); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("no route: %v", err)
	}
	peer.Must("ip", "route", "add", "blackhole", "10.73.0.0/24")
	ours.Must("ip", "route", "add", "10.73.0.0/24", "via", "10.72.0.2")
	peer.Must("nft", "add table inet x; add chain inet x in { type filter hook input priority 0; }; add rule inet x in tcp dport 82 drop")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := s.Dial(ctx, netip.MustParseAddrPort("10.72.0.2:82")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no answer: %v", err)
	}
	stopped, stop := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, stop)
	if _, err := s.Dial(stopped, netip.MustParseAddrPort("10.72.0.2:82")); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped meanwhile: %v", err)
	}
}

// Whatever happens inside, threads come back: afterwards no goroutine finds itself in the namespace.
func TestDoComesBack(t *testing.T) {
	n := test.New(t, "n")
	s := open(t, n.Path())
	home, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	here := func() string {
		name, _ := os.Readlink("/proc/thread-self/ns/net")
		return name
	}
	var there string
	_ = s.Do(func() error {
		there = here()
		return nil
	})
	if there == home || there == "" {
		t.Fatalf("Do ran in %q, home is %q", there, home)
	}
	failed := errors.New("failed")
	var wg sync.WaitGroup
	for i := range 400 {
		wg.Go(func() {
			err := s.Do(func() error {
				if here() != there {
					t.Error("not inside")
				}
				if i%2 == 0 {
					return failed
				}
				return nil
			})
			if (err != nil) != (i%2 == 0) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	begin, stay := make(chan struct{}), make(chan struct{})
	for range 100 {
		wg.Go(func() {
			runtime.LockOSThread() // so that as many threads are looked at
			defer runtime.UnlockOSThread()
			begin <- struct{}{}
			<-stay
			if at := here(); at != home {
				t.Errorf("a thread has stayed in %s; home is %s, inside was %s", at, home, there)
			}
		})
	}
	for range 100 {
		<-begin
	}
	close(stay)
	wg.Wait()
}

func TestOpen(t *testing.T) {
	for name, want := range map[string]string{"/nowhere/net": "start what it belongs to", "no-such-name": "/run/netns/no-such-name", "/proc/self/status": "is no network namespace"} {
		if _, err := Open(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
	one, two := test.New(t, "one"), test.New(t, "two")
	name := filepath.Join(t.TempDir(), "ns")
	if err := os.Symlink(one.Path(), name); err != nil {
		t.Fatal(err)
	}
	s := open(t, name)
	if s.Gone() {
		t.Error("it is gone at once")
	}
	_ = os.Remove(name)
	if !s.Gone() {
		t.Error("its name is gone, and it is not")
	}
	if err := os.Symlink(two.Path(), name); err != nil {
		t.Fatal(err)
	}
	if !s.Gone() {
		t.Error("its name is another's")
	}
}
