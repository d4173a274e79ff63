package sidecar

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// TestRandom carries random requests of misbehaving callers through two sidecars to misbehaving applications while Snapshots change, and holds
// what was seen on the wire against the Records:
//
//  1. A request has one answer at most, and its own: bodies both ways carry its id.
//  2. A request that became an exchange is answered as long as its caller is there, and one that was answered has exactly one closing Record,
//     with the status that the caller saw. One that has none never reached an application.
//  3. The identities of docs/format/record.md hold between the two sides.
//  4. What is not safe to repeat reaches an application once at most.
//  5. In the end nothing is left: live counts, connections, memory taken, goroutines.
//
// Time is virtual and the network is in memory. A seed fixes what callers, applications and Snapshots do, not how goroutines take turns.
// RANDOM_SEEDS is how many seeds to run (default 5), RANDOM_SEED the first (default 1); "make random" runs many.
func TestRandom(t *testing.T) {
	first, n := fromEnv(t, "RANDOM_SEED", 1), fromEnv(t, "RANDOM_SEEDS", 5)
	for seed := first; seed < first+n; seed++ {
		ok := t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			emptyPools()
			defer emptyPools()
			synctest.Test(t, func(t *testing.T) { randomRun(t, seed) })
		})
		if !ok {
			t.Fatalf("replay with: RANDOM_SEED=%d RANDOM_SEEDS=1 go test -race -run TestRandom -count 20 ./sidecar", seed)
		}
	}
}

func fromEnv(t *testing.T, name string, otherwise uint64) uint64 {
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		t.Fatalf("%s=%q: want a whole number", name, v)
	}
	return n
}

// emptyPools makes every sync.Pool forget: what is pooled has channels, which belong to the bubble they were made in.
func emptyPools() {
	runtime.GC()
	runtime.GC()
}

const (
	randomRequests = 600
	randomCallers  = 8
	randomServers  = 3
	patience       = time.Minute // of a caller
)

func host(a, b byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, a, b}) }

// randomWorld is one run.
type randomWorld struct {
	t         *testing.T
	net       *testmesh.Net
	fronts    []netip.AddrPort // where callers find the client's sidecar; the second comes and goes
	stopped   atomic.Bool      // the client's sidecar was told to stop
	original  func(net.Conn) (netip.AddrPort, error)
	directory policy.Directory
	issued    atomic.Int64

	mu      sync.Mutex
	seen    map[string]int // how often an application read the head of a request
	results []*request
}

// request is what a caller sends and what became of it.
type request struct {
	id, method, do string
	size           int    // of the response body
	wire           []byte // head and body
	head           int    // bytes of wire
	body           int    // bytes of content
	expect         bool
	malformed      bool
	pauseAt        int // within wire; -1: never
	pause          time.Duration

	// What the caller saw. Written by its reader.
	left    bool // the caller went away first
	status  int  // of the final response, complete or not; 0: none began
	reason  string
	whole   bool // the response was complete
	closing bool // it was the last of its connection
}

func randomRun(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	w := &randomWorld{t: t, net: testmesh.NewNet(), seen: map[string]int{}}
	ca := testmesh.NewCA(t)
	w.fronts = []netip.AddrPort{netip.AddrPortFrom(host(0, 1), 9001), netip.AddrPortFrom(host(0, 1), 9002)}

	var apps []*randomApp
	var servers []*running
	var endpoints []netip.AddrPort
	for i := range byte(randomServers) {
		a := &randomApp{w: w, addr: netip.AddrPortFrom(host(1, i), 8080), rng: rand.New(rand.NewPCG(seed, 100+uint64(i)))}
		a.up()
		apps = append(apps, a)
		in := netip.AddrPortFrom(host(1, i), 8443)
		s := w.launch(w.serverSnapshot(rng, i, in, a.addr), ca.Holder("catalog"), host(1, i), 3*time.Second)
		servers, endpoints = append(servers, s), append(endpoints, in)
	}
	silent, hangsUp := netip.AddrPortFrom(host(2, 1), 8443), netip.AddrPortFrom(host(2, 2), 8443)
	w.net.Silence(silent)
	closer, err := w.net.Listen(hangsUp)
	if err != nil {
		t.Fatal(err)
	}
	impostor := netip.AddrPortFrom(host(2, 4), 8443)
	servers = append(servers, w.launch(w.serverSnapshot(rng, 99, impostor, apps[0].addr), ca.Holder("impostor"), host(2, 4), 3*time.Second))
	var background sync.WaitGroup
	background.Go(func() {
		for {
			c, err := closer.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	})
	strangers := []netip.AddrPort{silent, hangsUp, netip.AddrPortFrom(host(2, 3), 8443), impostor}
	web := w.launch(w.clientSnapshot(rng, 0, endpoints, strangers), ca.Holder("web"), host(0, 1), 5*time.Second)

	// What changes meanwhile: Snapshots, applications, and late in some runs one of the servers' lives.
	done := make(chan struct{})
	background.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 1))
		for n := 1; ; n++ {
			select {
			case <-done:
				return
			case <-time.After(time.Duration(rng.IntN(3000)) * time.Millisecond):
			}
			switch i := rng.IntN(randomServers); rng.IntN(8) {
			case 0, 1, 2, 3:
				web.source.Set(w.clientSnapshot(rng, n, endpoints, strangers))
			case 4, 5:
				servers[i].source.Set(w.serverSnapshot(rng, byte(i), endpoints[i], apps[i].addr))
			case 6:
				apps[i].down()
				time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
				apps[i].up()
			case 7:
				if n > 20 && i == 0 {
					servers[0].stop()
				}
			}
		}
	})
	var callers sync.WaitGroup
	for i := range randomCallers {
		rng := rand.New(rand.NewPCG(seed, 200+uint64(i)))
		callers.Go(func() { w.calls(rng, byte(i)) })
	}
	if seed%3 == 0 { // drain while callers are busy
		time.Sleep(time.Duration(10+rng.IntN(60)) * time.Second)
		w.stopped.Store(true)
		web.stop()
	}
	callers.Wait()
	close(done)
	_ = closer.Close()
	background.Wait()
	web.stop()
	for _, s := range servers {
		s.stop()
	}
	for _, a := range apps {
		a.down()
		a.wg.Wait()
	}
	w.check(web, servers)
}

// launch starts a sidecar on the network in memory.
func (w *randomWorld) launch(snap *policy.Snapshot, holder *identity.Holder, on netip.Addr, drain time.Duration) *running {
	w.t.Helper()
	r := &running{rec: &testmesh.Recorder{}, source: testmesh.NewSource(snap)}
	var err error
	r.Sidecar, err = New(Config{
		Policy: r.source, Identity: holder, Recorder: r.rec, Log: slog.New(slog.DiscardHandler), DrainTimeout: drain,
		Listen: w.net.Listen, Dial: w.net.Dialer(on), Original: w.original, Directory: w.directory,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.Run(ctx, func() { close(ready) }) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			from := time.Now()
			if err := <-ended; err != nil {
				w.t.Errorf("Run: %v", err)
			}
			if took := time.Since(from); took > drain+10*time.Second {
				w.t.Errorf("the drain took %s", took)
			}
		})
	}
	<-ready
	return r
}

func oneOf[T any](rng *rand.Rand, vs ...T) T { return vs[rng.IntN(len(vs))] }

func randomLimits(rng *rand.Rand) (policy.Limits, policy.SidecarLimits) {
	each := policy.Limits{
		HeadBytes: oneOf(rng, 0, 0, 0, 2<<10), HeadFields: oneOf(rng, 0, 0, 0, 12), RequestLine: oneOf(rng, 0, 0, 1<<10),
		HeadTimeout: oneOf(rng, 0, time.Second), BodyTimeout: oneOf(rng, 0, 0, time.Second, -1), IdleTimeout: oneOf(rng, 0, 0, 2*time.Second),
	}
	all := policy.SidecarLimits{Connections: oneOf(rng, 0, 0, 0, 0, 0, 5), BufferBytes: oneOf[int64](rng, 0, 0, 1<<20)}
	return each, all
}

func (w *randomWorld) serverSnapshot(rng *rand.Rand, i byte, at, app netip.AddrPort) *policy.Snapshot {
	s := serverSnapshot("catalog", app, oneOf(rng, policy.ModeStrict, policy.ModeStrict, policy.ModePermissive), flow.ProtocolHTTP)
	s.Workload.Instance = fmt.Sprint("catalog-", i)
	s.Revision = fmt.Sprint("s", rng.Uint32())
	s.Listeners[0].Address = at
	s.Listeners[0].Limits, s.Workload.Limits = randomLimits(rng)
	s.Listeners[0].RequestTimeout = oneOf(rng, 0, 2*time.Second, -1)
	return w.checked(s)
}

func (w *randomWorld) clientSnapshot(rng *rand.Rand, n int, endpoints, strangers []netip.AddrPort) *policy.Snapshot {
	sv := mesh("catalog")
	sv.RequestTimeout = oneOf(rng, 0, 500*time.Millisecond, 3*time.Second, -1)
	sv.TryTimeout = oneOf(rng, 0, 0, 300*time.Millisecond)
	sv.ConnectTimeout = oneOf(rng, 0, 100*time.Millisecond)
	sv.Retry.Attempts = rng.IntN(5)
	sv.Retry.BudgetRatio = oneOf(rng, 0, 1.0)
	sv.MaxRequests = oneOf(rng, 0, 0, 0, 3)
	some := slices.DeleteFunc(slices.Clone(endpoints), func(netip.AddrPort) bool { return n > 0 && rng.IntN(5) == 0 })
	for _, a := range strangers {
		if rng.IntN(4) == 0 {
			some = append(some, a)
		}
	}
	s := clientSnapshot(sv, some...)
	s.Revision = fmt.Sprint("c", n)
	l, all := randomLimits(rng)
	s.Workload.Limits = all
	s.Listeners[0].Address, s.Listeners[0].Limits = w.fronts[0], l
	if rng.IntN(3) > 0 {
		second := s.Listeners[0]
		second.Name, second.Address = "outbound-2", w.fronts[1]
		second.Limits, _ = randomLimits(rng)
		s.Listeners = append(s.Listeners, second)
	}
	return w.checked(s)
}

func (w *randomWorld) checked(s *policy.Snapshot) *policy.Snapshot {
	if err := s.Check(); err != nil {
		w.t.Errorf("the test's own snapshot: %v", err)
	}
	return s
}

// content is n bytes of a body that belongs to id.
func content(id string, n int) []byte {
	unit := id + "|"
	return []byte(strings.Repeat(unit, n/len(unit)+1)[:n])
}

// randomApp is an application that does with each request what its X-Do field says.
type randomApp struct {
	w    *randomWorld
	addr netip.AddrPort
	wg   sync.WaitGroup

	mu    sync.Mutex
	rng   *rand.Rand
	l     net.Listener
	conns map[*testmesh.MemConn]bool
}

func (a *randomApp) up() {
	l, err := a.w.net.Listen(a.addr)
	if err != nil {
		a.w.t.Error(err)
		return
	}
	a.mu.Lock()
	a.l, a.conns = l, map[*testmesh.MemConn]bool{}
	a.mu.Unlock()
	a.wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			c := nc.(*testmesh.MemConn)
			a.mu.Lock()
			a.conns[c] = true
			a.mu.Unlock()
			a.wg.Go(func() {
				defer c.Close()
				a.serve(c)
			})
		}
	})
}

// down crashes the application: nobody listens, and its connections are reset.
func (a *randomApp) down() {
	a.mu.Lock()
	l, conns := a.l, a.conns
	a.mu.Unlock()
	_ = l.Close()
	for c := range conns {
		c.Reset()
	}
}

func (a *randomApp) roll(n int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.rng.IntN(n)
}

func (a *randomApp) serve(c *testmesh.MemConn) {
	br := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(br)
		if err != nil || !a.answer(c, br, r) {
			return
		}
	}
}

// answer reports whether the connection goes on.
func (a *randomApp) answer(c *testmesh.MemConn, br *bufio.Reader, r *http.Request) bool {
	w, id, do := a.w, r.Header.Get("X-Request-Id"), r.Header.Get("X-Do")
	if strings.TrimPrefix(r.URL.Path, "/") != id {
		w.t.Errorf("an application got path %q with the fields of %q", r.URL.Path, id)
	}
	w.mu.Lock()
	w.seen[id]++
	w.mu.Unlock()
	size, _ := strconv.Atoi(r.Header.Get("X-Size"))
	want, _ := strconv.Atoi(r.Header.Get("X-Body"))
	send := func(format string, args ...any) bool {
		_, err := fmt.Fprintf(c, format, args...)
		return err == nil
	}
	if do == "early" {
		send("HTTP/1.1 413 Content Too Large\r\nx-id: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", id, size, content(id, size))
		return false
	}
	if do == "first" { // answers, and then reads on
		if r.Method == "HEAD" {
			size = 0
		}
		if !send("HTTP/1.1 200 OK\r\nx-id: %s\r\nContent-Length: %d\r\n\r\n%s", id, size, content(id, size)) {
			return false
		}
	} else if r.Header.Get("Expect") != "" && a.roll(4) > 0 {
		send("HTTP/1.1 100 Continue\r\n\r\n")
	}
	body, err := io.ReadAll(r.Body)
	if got := content(id, len(body)); !bytes.Equal(got, body) {
		w.t.Errorf("%s: the application got another request's bytes: %q", id, head200(string(body)))
	}
	if err != nil {
		return false
	}
	if len(body) != want {
		w.t.Errorf("%s: the application got a whole body of %d bytes, %d were meant", id, len(body), want)
	}
	if do == "first" {
		return true
	}
	head := "HTTP/1.1 200 OK\r\nx-id: " + id + "\r\n"
	whole := func() bool {
		b := content(id, size)
		if r.Method == "HEAD" {
			b = nil
		}
		return send("%sContent-Length: %d\r\n\r\n%s", head, size, b)
	}
	wait := func(most int) { time.Sleep(time.Duration(a.roll(most)) * time.Millisecond) }
	part := content(id, a.roll(size+1))
	switch do {
	case "chunked", "trickle", "cutchunk":
		if !send("%sTransfer-Encoding: chunked\r\n\r\n", head) || r.Method == "HEAD" {
			return true
		}
		for left := content(id, size); len(left) > 0; {
			n := min(len(left), 1+a.roll(5000))
			if !send("%x;ext=1\r\n%s\r\n", n, left[:n]) {
				return false
			}
			left = left[n:]
			if do == "trickle" {
				wait(200)
			}
			if do == "cutchunk" && a.roll(2) == 0 {
				c.Reset()
				return false
			}
		}
		return send("0\r\nX-Sum: 1\r\n\r\n")
	case "close":
		send("%sConnection: close\r\n\r\n", head)
		if r.Method != "HEAD" {
			send("%s", content(id, size))
		}
		return false
	case "204", "304":
		return send("HTTP/1.1 %s Nothing\r\nx-id: %s\r\n\r\n", do, id)
	case "500", "503":
		return send("HTTP/1.1 %s Sorry\r\nx-id: %s\r\nContent-Length: 0\r\n\r\n", do, id)
	case "reset":
		c.Reset()
		return false
	case "hangup":
		return false
	case "cut":
		if send("%sContent-Length: %d\r\n\r\n%s", head, size+1, part); a.roll(2) == 0 {
			wait(100)
			c.Reset()
		}
		return false
	case "garbage":
		send("%s", oneOf(a.rngOnce(), "SMTP ready\r\n\r\n", "HTTP/1.1 99 Low\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", "HTTP/1.1 200 OK\nX: 1\n\n", "\x00\x01\x02"))
		return false
	case "slow":
		wait(20_000)
		return whole()
	case "hang":
		_, _ = io.Copy(io.Discard, br)
		return false
	case "hints":
		return send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n") && whole()
	case "stale": // closes without having said so
		whole()
		wait(300)
		return false
	case "upgrade":
		if r.Header.Get("Upgrade") == "" {
			return whole()
		}
		if !send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\nx-id: %s\r\n\r\n", id) {
			return false
		}
		_, _ = io.Copy(c, br)
		_ = c.CloseWrite()
		return false
	}
	return whole()
}

func (a *randomApp) rngOnce() *rand.Rand { return rand.New(rand.NewPCG(uint64(a.roll(1<<30)), 1)) }

var behaviours = []string{
	"ok", "ok", "ok", "ok", "chunked", "chunked", "trickle", "close", "204", "304", "500", "503", "early", "first", "first", "reset", "hangup", "cut", "cutchunk", "garbage",
	"slow", "hang", "hints", "stale", "stale", "upgrade",
}

func (w *randomWorld) newRequest(rng *rand.Rand) *request {
	r := &request{
		id: fmt.Sprintf("r%05d", w.issued.Add(1)), pauseAt: -1, do: oneOf(rng, behaviours...), size: oneOf(rng, 0, 7, 900, 5000, 20_000, 150_000),
		method: oneOf(rng, "GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"),
	}
	w.mu.Lock()
	w.results = append(w.results, r)
	w.mu.Unlock()
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s/%s%s HTTP/1.1\r\nHost: catalog\r\nX-Request-Id: %s\r\nX-Do: %s\r\nX-Size: %d\r\n",
		r.method, oneOf(rng, "", "", "", "http://catalog"), r.id, oneOf(rng, "", "?q="+strings.Repeat("q", rng.IntN(2000))), r.id, r.do, r.size)
	for i := range oneOf(rng, 0, 0, 3, 10) {
		fmt.Fprintf(&b, "x-more-%d: %s\r\n", i, strings.Repeat("m", oneOf(rng, 1, 1, 400)))
	}
	if rng.IntN(25) == 0 {
		fmt.Fprintf(&b, "x-large: %s\r\n", strings.Repeat("l", rng.IntN(70_000)))
	}
	if r.do == "upgrade" {
		r.method = oneOf(rng, "GET", "GET", "POST")
		b.Reset()
		fmt.Fprintf(&b, "%s /%s HTTP/1.1\r\nHost: catalog\r\nX-Request-Id: %s\r\nX-Do: upgrade\r\nConnection: upgrade\r\nUpgrade: echo\r\n", r.method, r.id, r.id)
	} else if rng.IntN(10) == 0 {
		b.WriteString("Connection: close\r\n")
	}
	if rng.IntN(25) == 0 {
		r.malformed = true
		b.WriteString(oneOf(rng, "Host: again\r\n", "Bad Name: 1\r\n", " fold\r\n", "Content-Length: 1\r\nContent-Length: 1\r\n", "Transfer-Encoding: gzip\r\n", "bare: lf\n"))
	}
	chunked := false
	if r.method == "POST" || r.method == "PUT" || r.method == "PATCH" || r.do != "upgrade" && rng.IntN(10) == 0 {
		r.body = oneOf(rng, 0, 5, 3000, 30_000, 100_000, 200_000)
		chunked = rng.IntN(2) == 0
		r.expect = r.body > 0 && rng.IntN(8) == 0
		if r.expect {
			b.WriteString("Expect: 100-continue\r\n")
		}
		if chunked {
			b.WriteString("Transfer-Encoding: chunked\r\n")
		} else {
			fmt.Fprintf(&b, "Content-Length: %d\r\n", r.body)
		}
	}
	fmt.Fprintf(&b, "X-Body: %d\r\n\r\n", r.body)
	r.head = b.Len()
	if left := content(r.id, r.body); chunked {
		for len(left) > 0 {
			n := 1 + rng.IntN(min(len(left), 20_000))
			fmt.Fprintf(&b, "%x\r\n%s\r\n", n, left[:n])
			left = left[n:]
		}
		b.WriteString("0\r\n" + oneOf(rng, "", "X-Trailer: 1\r\n") + "\r\n")
	} else {
		b.Write(left)
	}
	r.wire = b.Bytes()
	if rng.IntN(8) == 0 {
		r.pauseAt, r.pause = rng.IntN(len(r.wire)), oneOf(rng, 10*time.Millisecond, 500*time.Millisecond, 20*time.Second)
	}
	return r
}

// calls makes one connection after the other.
func (w *randomWorld) calls(rng *rand.Rand, from byte) {
	dial := w.net.Dialer(host(3, from))
	for w.issued.Load() < randomRequests && !w.stopped.Load() {
		time.Sleep(time.Duration(rng.IntN(200)) * time.Millisecond)
		nc, err := dial(context.Background(), w.fronts[oneOf(rng, 0, 0, 0, 1)])
		if err != nil {
			continue // the second listener is gone, or the sidecar is
		}
		w.talk(rng, nc.(*testmesh.MemConn))
		_ = nc.Close()
	}
}

// talk sends some requests over one connection, in turn or pipelined, and reads the answers.
func (w *randomWorld) talk(rng *rand.Rand, c *testmesh.MemConn) {
	var requests []*request
	total := 0
	for range 1 + rng.IntN(5) {
		r := w.newRequest(rng)
		requests = append(requests, r)
		total += len(r.wire)
		if r.do == "upgrade" { // what follows is no HTTP
			break
		}
	}
	leaveAt := -1
	if rng.IntN(10) == 0 {
		leaveAt = rng.IntN(total + 1)
	}
	reset, pipelined, gaps := rng.IntN(2) == 0, rng.IntN(3) == 0, rng.IntN(4) == 0
	pieces := oneOf(rng, 1<<20, 1<<20, 4096, 700)

	var leaving atomic.Bool
	turn, goOn := make(chan struct{}, len(requests)), make(chan struct{}, 1)
	ended := make(chan struct{}) // the reader has
	var writer sync.WaitGroup
	writer.Go(func() {
		sent := 0
		pause := func(d time.Duration) {
			select {
			case <-time.After(d):
			case <-ended:
			}
		}
		write := func(r *request, lo, hi int) bool {
			for lo < hi {
				n := min(hi-lo, pieces)
				if r.pauseAt > lo && r.pauseAt < lo+n {
					n = r.pauseAt - lo
				} else if r.pauseAt == lo {
					pause(r.pause)
				}
				if leaveAt >= 0 && sent+n >= leaveAt {
					_, _ = c.Write(r.wire[lo : lo+leaveAt-sent])
					leaving.Store(true)
					if pause(10 * time.Millisecond); reset {
						c.Reset()
					} else {
						_ = c.Close()
					}
					return false
				}
				if _, err := c.Write(r.wire[lo : lo+n]); err != nil {
					return false
				}
				lo, sent = lo+n, sent+n
			}
			return true
		}
		for i, r := range requests {
			if i > 0 && !pipelined {
				select {
				case <-turn:
				case <-ended:
					return
				}
			}
			if gaps {
				pause(50 * time.Millisecond)
			}
			body := r.head
			if r.expect {
				if !write(r, 0, r.head) {
					return
				}
				select {
				case <-goOn:
				case <-time.After(time.Second):
				case <-ended:
				}
			} else {
				body = 0
			}
			if !write(r, body, len(r.wire)) {
				return
			}
		}
	})

	br := bufio.NewReader(c)
	for _, r := range requests {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		err := w.read(c, br, r, goOn)
		if err != nil && (leaving.Load() || errors.Is(err, os.ErrDeadlineExceeded)) {
			r.left = true
		}
		if err != nil || r.closing {
			break
		}
		turn <- struct{}{}
	}
	last := requests[len(requests)-1]
	if last.whole && !leaving.Load() && last.reason != "idle_timeout" { // nobody asked for more; of a head cut short nobody knows that it is a HEAD
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if b, err := br.ReadByte(); err == nil {
			w.t.Errorf("%s: a byte %q follows the last answer of the connection", last.id, b)
		}
	}
	close(ended)
	_ = c.Close()
	writer.Wait()
	if leaving.Load() {
		for _, r := range requests {
			r.left = r.left || !r.whole
		}
	}
}

// read takes the answer to r. An error means that the connection is over.
func (w *randomWorld) read(c *testmesh.MemConn, br *bufio.Reader, r *request, goOn chan struct{}) error {
	for {
		if _, err := br.Peek(1); err != nil {
			return err
		}
		resp, err := http.ReadResponse(br, &http.Request{Method: r.method})
		if err != nil {
			r.status = -1
			return err
		}
		if resp.StatusCode == 100 && r.expect {
			select {
			case goOn <- struct{}{}:
			default:
			}
		}
		if resp.StatusCode < 200 && resp.StatusCode != 101 {
			continue
		}
		r.status, r.reason, r.closing = resp.StatusCode, resp.Header.Get("x-tulle-reason"), resp.Close
		if id := resp.Header.Get("x-id"); id != r.id && (id != "" || r.reason == "") {
			w.t.Errorf("%s got the answer of %q: %d, reason %q", r.id, id, resp.StatusCode, r.reason)
		}
		if r.status == 101 {
			r.closing = true
			return w.tunnel(c, br, r)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		switch {
		case resp.Header.Get("x-id") != "" && !bytes.Equal(body, content(r.id, len(body))):
			w.t.Errorf("%s got another's bytes: %q", r.id, head200(string(body)))
		case resp.Header.Get("x-id") == "" && r.method != "HEAD" && !bytes.HasPrefix([]byte("tulle: "+r.reason+": "), body[:min(len(body), len("tulle: "+r.reason+": "))]):
			w.t.Errorf("%s got from a sidecar %q", r.id, head200(string(body)))
		}
		if err != nil {
			return err
		}
		r.whole = true
		return nil
	}
}

// tunnel talks to the echo behind a 101.
func (w *randomWorld) tunnel(c *testmesh.MemConn, br *bufio.Reader, r *request) error {
	sent := content(r.id, 300_000)
	var writer sync.WaitGroup
	writer.Go(func() {
		_, _ = c.Write(sent)
		_ = c.CloseWrite()
	})
	got, err := io.ReadAll(br)
	writer.Wait()
	if !bytes.Equal(got, sent[:min(len(got), len(sent))]) {
		w.t.Errorf("%s: the tunnel changed bytes", r.id)
	}
	if err == nil && len(got) < len(sent) {
		err = io.ErrUnexpectedEOF
	}
	r.whole = err == nil
	return err
}

// check holds what was seen against what was recorded.
func (w *randomWorld) check(web *running, servers []*running) {
	t := w.t
	byID := map[string][]flow.Record{}
	for _, e := range web.rec.Closed(flow.KindExchange) {
		byID[e.RequestID] = append(byID[e.RequestID], e)
	}
	static := 0
	outcomes := map[string]int{}
	for _, r := range w.results {
		es := byID[r.id]
		if len(es) > 1 {
			t.Errorf("%s has %d closing Records", r.id, len(es))
		}
		describe := fmt.Sprintf("%s %s %s (head %d, body %d, expect %v, pause %s at %d): saw %d %q whole %v left %v",
			r.id, r.method, r.do, r.head, r.body, r.expect, r.pause, r.pauseAt, r.status, r.reason, r.whole, r.left)
		if len(es) == 0 {
			outcomes["no exchange"]++
			switch {
			case w.seen[r.id] > 0:
				t.Errorf("%s: reached an application without a Record", describe)
			case r.whole && r.reason != "bad_request" && r.reason != "idle_timeout" && r.reason != "shed":
				t.Errorf("%s: answered without a Record", describe)
			case r.status != 0:
				static++
			}
			continue
		}
		e := es[0]
		recorded := fmt.Sprintf("status %d reason %q %q answered %v", e.Status, e.Reason, e.Detail, e.Answered)
		outcomes[e.Reason.String()]++
		switch {
		case r.malformed:
			t.Errorf("%s: malformed, and still an exchange: %s", describe, recorded)
		case !e.Answered && e.Reason == flow.ReasonNone:
			t.Errorf("%s: unanswered without a reason: %s", describe, recorded)
		case r.left:
		case r.whole && (!e.Answered || e.Status != r.status):
			// The last bytes may have gone out before the exchange failed, when their end was not announced or the upload failed after them.
			t.Errorf("%s: but recorded %s", describe, recorded)
		case !r.whole && e.Answered:
			t.Errorf("%s: but recorded %s", describe, recorded)
		case r.status == 0 && e.Reason != flow.ReasonDraining:
			t.Errorf("%s: an exchange without an answer: %s", describe, recorded)
		}
	}
	if n := len(web.rec.Closed(flow.KindConnection)); static > n {
		t.Errorf("%d answers without an exchange, %d connection Records", static, n)
	}
	for _, r := range w.results {
		if n := w.seen[r.id]; n > 1 && (r.method == "POST" || r.method == "PATCH") {
			t.Errorf("%s %s %s reached an application %d times", r.id, r.method, r.do, n)
		}
	}

	// The identities.
	tries, attempts := 0, web.rec.Closed(flow.KindAttempt)
	for _, es := range byID {
		for _, e := range es {
			tries += e.Attempts
		}
	}
	if tries != len(attempts) {
		t.Errorf("exchanges made %d tries, attempts recorded %d", tries, len(attempts))
	}
	delivered := map[flow.SpanID]flow.Record{}
	for _, a := range attempts {
		if a.Delivered {
			delivered[a.Trace.SpanID] = a
		} else if a.Reason == flow.ReasonNone {
			t.Errorf("an attempt that was not delivered has no reason: %+v", a)
		}
	}
	for _, s := range servers {
		for _, e := range s.rec.Closed(flow.KindExchange) {
			if _, ok := delivered[e.Trace.ParentID]; !ok {
				t.Errorf("%s %s was served at %s, but its attempt is not delivered, or was served twice: status %d reason %q", e.RequestID, e.Method, e.Destination.Instance, e.Status, e.Reason)
			}
			delete(delivered, e.Trace.ParentID)
			if !e.Answered && e.Reason == flow.ReasonNone {
				t.Errorf("an unanswered server exchange has no reason: %+v", e)
			}
		}
	}
	for _, a := range delivered {
		t.Errorf("%s %s attempt %d to %s is delivered, but was not served: status %d reason %q %q", a.RequestID, a.Method, a.Attempt, a.Endpoint, a.Status, a.Reason, a.Detail)
	}

	// Nothing is left.
	for _, s := range append(servers, web) {
		name := s.Snapshot().Workload.Instance
		if n := s.rec.Live(); n != 0 {
			t.Errorf("%s: %d live counts are left", name, n)
		}
		if n, m := s.Connections(), s.ConnectionsOfOneSource(); n != 0 || m != 0 {
			t.Errorf("%s: %d connections are left, %d of one source", name, n, m)
		}
		if n := s.Room().Used(); n != 0 {
			t.Errorf("%s: %d bytes of buffers are left in use", name, n)
		}
	}
	if n := w.net.Open(); n != 0 {
		t.Errorf("%d ends of connections are left open", n)
	}
	var told []string
	for _, k := range slices.Sorted(maps.Keys(outcomes)) {
		told = append(told, fmt.Sprintf("%s %d", oneWord(k), outcomes[k]))
	}
	t.Logf("%d requests, %d attempts: %s", len(w.results), len(attempts), strings.Join(told, ", "))
}

func oneWord(reason string) string {
	if reason == "" {
		return "success"
	}
	return reason
}
