package exchange

import (
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// pipesHeld is how many pipes relays hold now.
func pipesHeld() int {
	pipes.mu.Lock()
	defer pipes.mu.Unlock()
	return pipes.open - len(pipes.idle)
}

// TestRelaySplices: what is bulk goes through a pipe, of which there is none any more when it pauses, and small messages in the same relay are copied.
func TestRelaySplices(t *testing.T) {
	down, caller := pair(t)
	up, app := pair(t)
	x := &Exchange{Kind: flow.KindConnection, Start: time.Now()}
	r := &relay{x: x, idle: time.Hour}
	r.in.begin(r, RelayEnd{Conn: down}, up, sinceEpoch())
	r.in.count = &x.BytesIn
	r.wg.Add(1)
	go r.in.run()
	send := func(n int) {
		t.Helper()
		go func() { _, _ = caller.Write(make([]byte, n)) }()
		if _, err := io.ReadFull(app, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	before := splices.Load()
	send(100)
	if splices.Load() != before {
		t.Error("a small message went through a pipe")
	}
	send(16 << 20)
	if splices.Load() == before {
		t.Error("16 MiB did not go through a pipe")
	}
	for range 20 { // one more wait, after which nothing is held
		send(100)
	}
	before = splices.Load()
	send(100)
	if splices.Load() != before {
		t.Error("small messages still go through a pipe")
	}
	_ = caller.CloseWrite()
	r.wg.Wait()
	if r.in.err != nil || pipesHeld() != 0 {
		t.Errorf("%v, %d pipes are held", r.in.err, pipesHeld())
	}
	if n := x.BytesIn.Load(); n != 16<<20+22*100 {
		t.Errorf("%d bytes were counted", n)
	}
}

// TestRelayBackpressure: of a peer that reads nothing, no more is taken from the other than sockets, one pipe or one buffer hold; and there are no more
// pipes than there may be.
func TestRelayBackpressure(t *testing.T) {
	const relays = maxPipes + 8
	var wg sync.WaitGroup
	var all []*Exchange
	var writers sync.WaitGroup
	for range relays {
		down, caller := pair(t)
		up, app := pair(t)
		_ = app.SetReadBuffer(64 << 10)
		x := &Exchange{Kind: flow.KindConnection, Start: time.Now()}
		x.Reset()
		all = append(all, x)
		wg.Go(func() {
			_, _ = Relay(x, RelayEnd{Conn: down}, RelayEnd{Conn: up}, time.Hour)
			_, _ = down.Close(), up.Close()
		})
		writers.Go(func() { // until the relay takes no more
			b := make([]byte, 256<<10)
			total := 0
			for {
				_ = caller.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
				n, err := caller.Write(b)
				if total += n; err != nil {
					break
				}
			}
			if total > 64<<20 {
				t.Errorf("%d bytes were taken for a peer that reads nothing", total)
			}
		})
	}
	writers.Wait()
	pipes.mu.Lock()
	open := pipes.open
	pipes.mu.Unlock()
	if open > maxPipes || pipesHeld() == 0 {
		t.Errorf("%d pipes are open, at most %d may be; %d are held", open, maxPipes, pipesHeld())
	}
	for _, x := range all {
		x.Abort(flow.ReasonDraining)
	}
	wg.Wait()
	if n := pipesHeld(); n != 0 {
		t.Errorf("%d pipes are held after the relays", n)
	}
}

// TestRelayChurn: relays that end in order, are reset, or are aborted with a full pipe leave no descriptor, pipe or goroutine behind. RELAYS sets how many.
func TestRelayChurn(t *testing.T) {
	relays := 2000
	if n, err := strconv.Atoi(os.Getenv("RELAYS")); err == nil {
		relays = n
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	open := func() (*Socket, *net.TCPConn) {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		a, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).SetLinger(0) // no port waits
		return NewSocket(a).(*Socket), c.(*net.TCPConn)
	}
	payload := make([]byte, 1<<20)
	one := func(i int) {
		down, caller := open()
		up, app := open()
		x := &Exchange{Kind: flow.KindConnection, Start: time.Now()}
		x.Reset()
		done := make(chan struct{})
		go func() {
			_, _ = Relay(x, RelayEnd{Conn: down}, RelayEnd{Conn: up}, time.Hour)
			for _, s := range []*Socket{down, up} {
				_ = s.stream.(*net.TCPConn).SetLinger(0)
			}
			_, _ = down.Close(), up.Close()
			close(done)
		}()
		switch i % 4 {
		case 0:
			_, _ = caller.Write(payload[:64])
			_, _ = io.ReadFull(app, make([]byte, 64))
			_, _ = caller.CloseWrite(), app.CloseWrite()
		case 1:
			go func() { _, _ = caller.Write(payload); _ = caller.CloseWrite() }()
			_, _ = io.Copy(io.Discard, onlyReader{app})
			_ = app.CloseWrite()
		case 2: // reset by the one that does not read
			go func() { _, _ = caller.Write(payload) }()
			_, _ = io.ReadFull(app, make([]byte, 300_000))
			_ = app.Close()
		case 3:
			go func() { _, _ = caller.Write(payload) }()
			_, _ = io.ReadFull(app, make([]byte, 300_000))
			x.Abort(flow.ReasonDraining)
		}
		<-done
		_, _ = caller.Close(), app.Close()
	}
	for i := range 50 {
		one(i)
	}
	descriptors, goroutines := countDescriptors(t), runtime.NumGoroutine()
	for i := range relays {
		one(i)
	}
	if n := countDescriptors(t); n > descriptors+2*idlePipes {
		t.Errorf("%d descriptors before %d relays, %d after", descriptors, relays, n)
	}
	if n := pipesHeld(); n != 0 {
		t.Errorf("%d pipes are held", n)
	}
	if n := runtime.NumGoroutine(); n > goroutines+8 {
		t.Errorf("%d goroutines before, %d after", goroutines, n)
	}
}

func countDescriptors(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

type onlyReader struct{ io.Reader }

// BenchmarkRelay is what chooses between copying and pipes: one direction, in pieces of a size; CPU of the whole process, with both peers.
func BenchmarkRelay(b *testing.B) {
	for _, size := range []int{4 << 10, 16 << 10, 64 << 10, 1 << 20} {
		for _, coarse := range []bool{true, false} {
			name := "splice"
			if coarse {
				name = "copy"
			}
			b.Run(fmt.Sprintf("%s/%dKiB", name, size>>10), func(b *testing.B) {
				down, caller := pair(b)
				up, app := pair(b)
				x := &Exchange{Kind: flow.KindConnection, Start: time.Now()}
				x.Reset()
				done := make(chan error, 1)
				go func() {
					end := RelayEnd{Conn: up}
					if coarse { // not seen as a socket that takes pipes
						end.Conn = opaque{up}
					}
					_, err := Relay(x, RelayEnd{Conn: down}, end, time.Hour)
					_, _ = down.Close(), up.Close()
					done <- err
				}()
				go func() {
					_, _ = io.Copy(io.Discard, onlyReader{app})
					_ = app.Close()
				}()
				p := make([]byte, size)
				b.SetBytes(int64(size))
				b.ResetTimer()
				begin := cpu()
				for b.Loop() {
					if _, err := caller.Write(p); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(cpu()-begin)/float64(b.N), "cpu-ns/op")
				_ = caller.CloseWrite()
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			})
		}
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
