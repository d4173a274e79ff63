package handover

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// side is one process's end, in this process.
type side struct {
	cfg                   Config
	begun, cancelled, out atomic.Int32
	mu                    sync.Mutex
	sockets               map[Socket]syscall.Conn
}

func newSide(dir, workload string, pid int) *side {
	s := &side{sockets: map[Socket]syscall.Conn{}}
	s.cfg = Config{
		Dir: dir, Workload: workload, Self: Hello{PID: pid, Version: "v1", Boot: "0123456789abcdef"},
		Socket: func(q Socket) syscall.Conn {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.sockets[q]
		},
		Begin: func() { s.begun.Add(1) }, Cancel: func() { s.cancelled.Add(1) }, Left: func() { s.out.Add(1) },
	}
	return s
}

func (s *side) open(t *testing.T) (*Door, *Taking) {
	t.Helper()
	d, taking, err := Open(t.Context(), s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d, taking
}

func run(t *testing.T, d *Door) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return stop
}

func listenTCP(t *testing.T) (*net.TCPListener, Socket) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener), Socket{Workload: "cart-1", Kind: Listener, Address: l.Addr().String()}
}

// The sockets of the old process, and its door, are the new one's, three times in a row; connections that wait to be accepted are not lost.
func TestHandOver(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30)) // a path that no socket could have
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, name := listenTCP(t)
	old := newSide(dir, "cart-1", 1)
	old.sockets[name] = l
	door, taking := old.open(t)
	if taking != nil {
		t.Fatal("taken over from nobody")
	}
	run(t, door)
	current, listener := old, net.Listener(l)
	for i := range 3 {
		next := newSide(dir, "cart-1", 2+i)
		door, taking := next.open(t)
		if taking == nil || taking.From() != current.cfg.Self {
			t.Fatalf("taking from %+v, want %+v", taking, current.cfg.Self)
		}
		if got, err := taking.Socket(Socket{Workload: "cart-1", Kind: Admin, Address: "127.0.0.1:1"}); got != nil || err != nil {
			t.Errorf("a socket that nobody has: %v %v", got, err)
		}
		if got, err := taking.Socket(Socket{Workload: name.Workload, Kind: name.Kind, Address: name.Address, Transparent: true}); got != nil || err != nil {
			t.Errorf("a socket of another kind: %v %v", got, err)
		}
		mine, err := taking.Socket(name)
		if err != nil || mine == nil {
			t.Fatalf("%v %v", mine, err)
		}
		waiting, err := net.Dial("tcp", name.Address) // accepted by nobody yet
		if err != nil {
			t.Fatal(err)
		}
		if err := taking.Commit(); err != nil {
			t.Error(err)
		}
		if n := current.out.Load(); n != 1 {
			t.Errorf("the old process has left %d times", n)
		}
		_ = listener.Close()
		_ = mine.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
		c, err := mine.Accept()
		if err != nil {
			t.Fatalf("the connection that waited: %v", err)
		}
		_, _ = io.WriteString(c, "hello")
		_ = c.Close()
		if b, err := io.ReadAll(waiting); string(b) != "hello" {
			t.Errorf("%q %v", b, err)
		}
		_ = waiting.Close()
		next.sockets[name] = mine.(*net.TCPListener)
		run(t, door)
		current, listener = next, mine
	}
	if old.begun.Load() != 1 || old.cancelled.Load() != 0 {
		t.Errorf("begun %d, cancelled %d", old.begun.Load(), old.cancelled.Load())
	}
	_ = listener.Close()
}

// A copy of a descriptor shares whether it blocks: handing it over must not make the old process's accept block a thread.
func TestDescriptorsStayNonBlocking(t *testing.T) {
	dir := t.TempDir()
	l, name := listenTCP(t)
	old := newSide(dir, "cart-1", 1)
	old.sockets[name] = l
	door, _ := old.open(t)
	run(t, door)
	_, taking := newSide(dir, "cart-1", 2).open(t)
	mine, err := taking.Socket(name)
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	for _, c := range []syscall.Conn{l, mine.(*net.TCPListener)} {
		raw, _ := c.SyscallConn()
		_ = raw.Control(func(fd uintptr) {
			flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
			if err != nil || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("flags %x, %v", flags, err)
			}
			if flags, _ := unix.FcntlInt(fd, unix.F_GETFD, 0); flags&unix.FD_CLOEXEC == 0 {
				t.Error("children would inherit it")
			}
		})
	}
	taking.Close()
}

// One that gives up, or dies, leaves the old process as it was, and the next one may try; only one at a time.
func TestGivingUp(t *testing.T) {
	dir := t.TempDir()
	old := newSide(dir, "cart-1", 1)
	door, _ := old.open(t)
	run(t, door)
	_, first := newSide(dir, "cart-1", 2).open(t)
	_, _, err := Open(t.Context(), newSide(dir, "cart-1", 3).cfg)
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "process 2 is taking over already") {
		t.Errorf("two at once: %v", err)
	}
	first.Close()
	testmesh.Eventually(t, "the old process hears of it", func() bool { return old.cancelled.Load() == 1 })
	if old.out.Load() != 0 {
		t.Fatalf("cancelled %d, left %d", old.cancelled.Load(), old.out.Load())
	}
	_, second := newSide(dir, "cart-1", 4).open(t)
	if err := second.Commit(); err != nil {
		t.Error(err)
	}
	if old.begun.Load() != 2 || old.out.Load() != 1 {
		t.Errorf("begun %d, left %d", old.begun.Load(), old.out.Load())
	}
}

// When the old process dies, the new one keeps what it has and goes on; what it has not it opens.
func TestOldOneDies(t *testing.T) {
	dir := t.TempDir()
	l, name := listenTCP(t)
	old := newSide(dir, "cart-1", 1)
	old.sockets[name] = l
	door, _ := old.open(t)
	stop := run(t, door)
	next := newSide(dir, "cart-1", 2)
	mineDoor, taking := next.open(t)
	mine, err := taking.Socket(name)
	if err != nil {
		t.Fatal(err)
	}
	defer mine.Close()
	stop()
	if got, err := taking.Socket(Socket{Workload: "cart-1", Kind: Admin}); got != nil || err != nil {
		t.Errorf("%v %v", got, err)
	}
	if err := taking.Commit(); err != nil {
		t.Error(err)
	}
	run(t, mineDoor)
	if _, third := newSide(dir, "cart-1", 3).open(t); third == nil || third.From().PID != 2 {
		t.Errorf("the next one takes over from %+v", third)
	}
}

// One that comes too late must not serve, for the old process has given it up.
func TestTooLate(t *testing.T) {
	dir := t.TempDir()
	old := newSide(dir, "cart-1", 1)
	door, _ := old.open(t)
	run(t, door)
	_, taking := newSide(dir, "cart-1", 2).open(t)
	taking.begun = time.Now().Add(-TakeLimit - 2*replyTimeout)
	if err := taking.Commit(); !errors.Is(err, ErrLate) {
		t.Errorf("got %v", err)
	}
	testmesh.Eventually(t, "the old process hears of it", func() bool { return old.cancelled.Load() == 1 })
	if old.out.Load() != 0 {
		t.Error("the old process has left")
	}
}

// Whoever waits for another process that opens the door can be told to stop.
func TestLockEndsWithContext(t *testing.T) {
	dir := t.TempDir()
	unlock, err := lock(t.Context(), filepath.Join(dir, lockName))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Open(ctx, newSide(dir, "cart-1", 2).cfg); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), lockName) {
		t.Errorf("got %v", err)
	}
	unlock()
	newSide(dir, "cart-1", 2).open(t)
}

// A socket that a killed process left is no obstacle.
func TestStaleSocket(t *testing.T) {
	dir := t.TempDir()
	door, _ := newSide(dir, "cart-1", 1).open(t)
	door.Close()
	if _, err := os.Stat(filepath.Join(dir, socketName)); err != nil {
		t.Fatal(err)
	}
	if _, taking := newSide(dir, "cart-1", 2).open(t); taking != nil {
		t.Error("taken over from a process that is gone")
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	old := newSide(dir, "cart-1", 1)
	door, _ := old.open(t)
	run(t, door)
	_, _, err := Open(t.Context(), newSide(dir, "web-1", 2).cfg)
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "it serves cart-1, the new one is to serve web-1") || !strings.Contains(err.Error(), dir) {
		t.Errorf("another workload: %v", err)
	}
	say := func(q string) (r reply) {
		t.Helper()
		nc, err := net.Dial("unixpacket", filepath.Join(dir, socketName))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := io.WriteString(nc, q); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, packetBytes)
		n, _ := nc.Read(b)
		_ = json.Unmarshal(b[:n], &r)
		return r
	}
	if r := say(`{"hello":{"pid":9,"versions":[7,8],"workload":"cart-1","more":1}}`); !strings.Contains(r.Error, "it speaks version 1 of the handover protocol, the new one version 7, 8: stop it and start the new one") {
		t.Errorf("versions: %+v", r)
	}
	if r := say(`{"commit":{}}`); r.Left || old.out.Load() != 0 {
		t.Errorf("commit without hello: %+v", r)
	}
	if r := say("nonsense"); r.Version != 0 || old.begun.Load() != 0 {
		t.Errorf("%+v", r)
	}
	// What a later version may ask for is refused, not misunderstood.
	if r := say(`{"hello":{"pid":9,"versions":[9,1],"workload":"cart-1"}}`); r.Version != 1 || r.Hello == nil || r.Hello.PID != 1 {
		t.Errorf("a later version that speaks this one too: %+v", r)
	}
}

// An old process that answers something else is an error, and nothing is taken.
func TestStrangeAnswers(t *testing.T) {
	for _, answer := range []string{`{"error":"no"}`, `{"protocol":3,"hello":{"pid":1}}`, `{}`, `x`, ``} {
		dir := t.TempDir()
		l, err := net.Listen("unixpacket", filepath.Join(dir, socketName))
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = c.Read(make([]byte, packetBytes))
			if answer != "" {
				_, _ = io.WriteString(c, answer)
			}
		}()
		if _, _, err := Open(t.Context(), newSide(dir, "cart-1", 2).cfg); err == nil || !strings.Contains(err.Error(), "cannot take over from it") {
			t.Errorf("%q: %v", answer, err)
		}
		_ = l.Close()
		<-done
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{}, {Dir: "x"}, {Dir: "x", Workload: "y"}} {
		if _, _, err := Open(t.Context(), c); err == nil {
			t.Errorf("%+v", c)
		}
	}
	if _, _, err := Open(t.Context(), newSide(filepath.Join(t.TempDir(), "nothing"), "cart-1", 1).cfg); err == nil || !strings.Contains(err.Error(), "state directory") {
		t.Errorf("%v", err)
	}
}
