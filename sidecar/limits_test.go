package sidecar

import (
	"bufio"
	"bytes"
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
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// limited starts an outbound sidecar with limits in front of an upstream.
func limited(t *testing.T, l policy.Limits, all policy.SidecarLimits, up netip.AddrPort) (*running, netip.AddrPort) {
	t.Helper()
	snap := clientSnapshot(external(func(s *policy.Service) { s.Retry.Attempts = 1 }), up)
	snap.Listeners[0].Limits, snap.Workload.Limits = l, all
	if err := errors.Join(l.Check(), all.Check()); err != nil {
		t.Fatal(err)
	}
	r := start(t, snap, &identity.Holder{}, time.Second)
	return r, r.addr(t, "outbound")
}

// records are all closing Records with a reason, as "kind reason".
func (r *running) refusals() (out []string) {
	for _, k := range []flow.Kind{flow.KindConnection, flow.KindExchange} {
		for _, c := range r.rec.Closed(k) {
			if c.Reason != flow.ReasonNone {
				out = append(out, c.Kind.String()+" "+c.Reason.String())
			}
		}
	}
	return out
}

// TestHeadLimits: each limit of a head, just met and just passed. What is passed is answered, recorded and counted.
func TestHeadLimits(t *testing.T) {
	up := answering(t, func(*http.Request, []byte) string { return "HTTP/1.1 204 No Content\r\n\r\n" })
	const bytesLimit, fields, line = 2048, 10, 100
	request := func(target, head int, n int) string { // a request line of target bytes, n fields, head bytes in all
		b := "GET /" + strings.Repeat("a", target-len("GET / HTTP/1.1")) + " HTTP/1.1\r\nHost: a\r\n"
		for i := range n - 2 {
			b += fmt.Sprintf("x-%d: 1\r\n", i)
		}
		b += "x: "
		return b + strings.Repeat("b", max(0, head-len(b)-4)) + "\r\n\r\n"
	}
	for _, c := range []struct {
		name, send, status string
		limit              exchange.Limit
	}{
		{"all just met", request(line, bytesLimit, fields), "204", 0},
		{"line", request(line+1, 200, 2), "414", exchange.LimitRequestLine},
		{"line without end", "GET /" + strings.Repeat("a", line), "414", exchange.LimitRequestLine},
		{"bytes", request(line, bytesLimit+1, 2), "431", exchange.LimitHeadBytes},
		{"fields", request(line, 500, fields+1), "431", exchange.LimitHeadFields},
	} {
		r, addr := limited(t, policy.Limits{HeadBytes: bytesLimit, HeadFields: fields, RequestLine: line}, policy.SidecarLimits{}, up)
		got := raw(t, addr, c.send)
		r.stop()
		if !strings.HasPrefix(got, "HTTP/1.1 "+c.status+" ") {
			t.Errorf("%s: got %q", c.name, head200(got))
		}
		if c.status == "204" {
			if n := r.refusals(); len(n) != 0 {
				t.Errorf("%s: refused %v", c.name, n)
			}
			continue
		}
		if got := r.refusals(); len(got) != 1 || got[0] != "connection bad_request" || r.Room().Count(c.limit) != 1 {
			t.Errorf("%s: refused %v, counted %d", c.name, got, r.Room().Count(c.limit))
		}
	}
}

// TestHeadLimitsBetweenSidecars: a head that the caller's sidecar takes always becomes an exchange at the next, however low the limits there are;
// it is refused as an exchange.
func TestHeadLimitsBetweenSidecars(t *testing.T) {
	ca := testmesh.NewCA(t)
	var hits atomic.Int64
	up := answering(t, func(*http.Request, []byte) string { hits.Add(1); return "HTTP/1.1 204 No Content\r\n\r\n" })
	low := policy.Limits{HeadBytes: 1024, HeadFields: 8, RequestLine: 64}
	high := policy.Limits{HeadBytes: policy.MaxHeadBytes, HeadFields: policy.MaxHeadFields, RequestLine: policy.MaxHeadBytes}
	snap := serverSnapshot("catalog", up, policy.ModeStrict, flow.ProtocolHTTP)
	snap.Listeners[0].Limits = low
	server := start(t, snap, ca.Holder("catalog"), time.Second)
	csnap := clientSnapshot(mesh("catalog"), server.addr(t, "inbound"))
	csnap.Listeners[0].Limits = high
	web := start(t, csnap, ca.Holder("web"), time.Second)
	addr := web.addr(t, "outbound")
	var many strings.Builder
	for i := range policy.MaxHeadFields - 1 {
		fmt.Fprintf(&many, "x-%d: 1\r\n", i)
	}
	full := "GET / HTTP/1.1\r\nHost: a\r\nx: "
	full += strings.Repeat("b", policy.MaxHeadBytes-len(full)-4) + "\r\n\r\n"
	for _, c := range []struct{ send, status string }{
		{"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n", "204"},
		{full, "431"},
		{"GET / HTTP/1.1\r\nHost: a\r\n" + many.String() + "\r\n", "431"},
		{"GET /" + strings.Repeat("a", 60_000) + " HTTP/1.1\r\nHost: a\r\n\r\n", "414"},
	} {
		if got := raw(t, addr, c.send); !strings.HasPrefix(got, "HTTP/1.1 "+c.status+" ") {
			t.Errorf("%d bytes: got %q, want %s", len(c.send), head200(got), c.status)
		}
	}
	web.stop()
	server.stop()
	if n := hits.Load(); n != 1 {
		t.Errorf("%d requests reached the application", n)
	}
	if ex, at, in := web.rec.Closed(flow.KindExchange), web.rec.Closed(flow.KindAttempt), server.rec.Closed(flow.KindExchange); len(ex) != 4 || len(at) != 4 || len(in) != 4 {
		t.Errorf("%d exchanges, %d attempts, %d served: all must be 4", len(ex), len(at), len(in))
	}
	if cs := server.rec.Closed(flow.KindConnection); len(cs) != 0 {
		t.Errorf("heads of a sidecar were refused without an exchange: %+v", cs)
	}
	for l, want := range map[exchange.Limit]uint64{exchange.LimitHeadBytes: 1, exchange.LimitHeadFields: 1, exchange.LimitRequestLine: 1} {
		if got := server.Room().Count(l); got != want {
			t.Errorf("%s was counted %d times", l, got)
		}
	}
}

// inMemory runs test beside an outbound sidecar with the default limits, in virtual time. Each connection of the upstream is served by script.
func inMemory(t *testing.T, l policy.Limits, script func(c net.Conn, r *bufio.Reader), test func(t *testing.T, r *running, dial func() (net.Conn, *bufio.Reader))) {
	emptyPools()
	defer emptyPools()
	synctest.Test(t, func(t *testing.T) {
		w := &randomWorld{t: t, net: testmesh.NewNet()}
		up, front := netip.AddrPortFrom(host(1, 1), 80), netip.AddrPortFrom(host(0, 1), 80)
		nl, err := w.net.Listen(up)
		if err != nil {
			t.Fatal(err)
		}
		var serving sync.WaitGroup
		serving.Go(func() {
			for {
				c, err := nl.Accept()
				if err != nil {
					return
				}
				serving.Go(func() {
					defer c.Close()
					script(c, bufio.NewReader(c))
				})
			}
		})
		snap := clientSnapshot(external(func(s *policy.Service) { s.RequestTimeout = -1 }), up)
		snap.Listeners[0].Address, snap.Listeners[0].Limits = front, l
		r := w.launch(w.checked(snap), &identity.Holder{}, host(0, 1), time.Second)
		test(t, r, func() (net.Conn, *bufio.Reader) {
			c, err := w.net.Dialer(host(3, 1))(t.Context(), front)
			if err != nil {
				t.Fatal(err)
			}
			return c, bufio.NewReader(c)
		})
		r.stop()
		_ = nl.Close()
		serving.Wait()
		if n := w.net.Open(); n != 0 {
			t.Errorf("%d ends of connections are left open", n)
		}
		if n := r.Room().Used(); n != 0 {
			t.Errorf("%d bytes of buffers are left in use", n)
		}
	})
}

// TestSlowCallers: a head, a body and an idle connection that do not go on in time, by the defaults.
func TestSlowCallers(t *testing.T) {
	answer := func(c net.Conn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if _, err := io.ReadAll(r.Body); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	}
	for _, c := range []struct {
		name, send, want, refusal string
		after, slack              time.Duration
		limit                     exchange.Limit
	}{
		{"head", "GET / HTTP/1.1\r\nHo", "HTTP/1.1 408 ", "connection idle_timeout", 10 * time.Second, 0, exchange.LimitHeadTimeout},
		{"body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345", "HTTP/1.1 408 ", "exchange bad_request", 10 * time.Second, 2 * time.Second, exchange.LimitBodyTimeout},
		{"chunks", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", "HTTP/1.1 408 ", "exchange bad_request", 10 * time.Second, 2 * time.Second, exchange.LimitBodyTimeout},
		{"idle", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 204 ", "", 5 * time.Minute, 0, exchange.LimitIdleTimeout},
	} {
		inMemory(t, policy.Limits{}, answer, func(t *testing.T, r *running, dial func() (net.Conn, *bufio.Reader)) {
			conn, br := dial()
			from := time.Now()
			_, _ = io.WriteString(conn, c.send)
			line, err := br.Peek(len(c.want))
			if took := time.Since(from); err != nil || string(line) != c.want || c.limit != exchange.LimitIdleTimeout && (took < c.after || took > c.after+c.slack) {
				t.Errorf("%s: got %q, %v after %s", c.name, line, err, took)
			}
			b, err := io.ReadAll(br) // to the end: the sidecar closes
			if took := time.Since(from); err != nil || took < c.after || took > c.after+c.slack+lingering {
				t.Errorf("%s: closed after %s: %v", c.name, took, err)
			}
			if c.limit == exchange.LimitBodyTimeout && !bytes.Contains(b, []byte("x-tulle-reason: bad_request\r\n")) {
				t.Errorf("%s: got %q", c.name, b)
			}
			_ = conn.Close()
			synctest.Wait()
			if got := strings.Join(r.refusals(), ", "); got != c.refusal || r.Room().Count(c.limit) != 1 {
				t.Errorf("%s: refused %q, counted %d", c.name, got, r.Room().Count(c.limit))
			}
		})
	}
}

// lingering is how long an early end may take.
const lingering = 2 * time.Second

// TestSlowButMoving: a body that takes much longer than the body timeout passes as long as it moves, and a caller that waits for a 100 owes nothing.
func TestSlowButMoving(t *testing.T) {
	inMemory(t, policy.Limits{}, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		if req.Header.Get("Expect") != "" {
			time.Sleep(time.Minute) // the service takes its time; the caller is not to blame
			_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		b, _ := io.ReadAll(req.Body)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(b), b)
	}, func(t *testing.T, r *running, dial func() (net.Conn, *bufio.Reader)) {
		conn, br := dial()
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 15\r\n\r\n")
		for range 15 {
			time.Sleep(9 * time.Second)
			_, _ = io.WriteString(conn, "x")
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("a slow body that moves: %+v, %v", resp, err)
		}
		_ = resp.Body.Close()
		_ = conn.Close()
		conn, br = dial()
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
		if resp, err = http.ReadResponse(br, nil); err != nil || resp.StatusCode != 100 {
			t.Fatalf("waiting for a 100: %+v, %v", resp, err)
		}
		_, _ = io.WriteString(conn, "ok")
		if resp, err = http.ReadResponse(br, nil); err != nil || resp.StatusCode != 200 {
			t.Fatalf("after the 100: %+v, %v", resp, err)
		}
		_ = resp.Body.Close()
		_ = conn.Close()
		if got := r.refusals(); len(got) != 0 {
			t.Errorf("refused %v", got)
		}
	})
}

// TestConnectionLimits: the connection that is one too many is closed without a byte, recorded and counted, and there is room again when one
// has ended.
func TestConnectionLimits(t *testing.T) {
	up := answering(t, func(*http.Request, []byte) string { return "HTTP/1.1 204 No Content\r\n\r\n" })
	for _, c := range []struct {
		all   policy.SidecarLimits
		limit exchange.Limit
	}{
		{policy.SidecarLimits{Connections: 2, ConnectionsPerSource: 2}, exchange.LimitConnections},
		{policy.SidecarLimits{Connections: 9, ConnectionsPerSource: 2}, exchange.LimitConnectionsPerSource},
	} {
		r, addr := limited(t, policy.Limits{}, c.all, up)
		one, oneReader := dial(t, addr)
		get(t, one, oneReader, "/")
		two, twoReader := dial(t, addr)
		get(t, two, twoReader, "/")
		three, threeReader := dial(t, addr)
		if b, err := threeReader.ReadByte(); err != io.EOF {
			t.Errorf("%s: got %q, %v, want EOF", c.limit, b, err)
		}
		_ = three.Close()
		if r.Room().Count(c.limit) != 1 || r.Connections() != 2 || r.ConnectionsOfOneSource() != 2 {
			t.Errorf("%s: counted %d, %d open, %d of one source", c.limit, r.Room().Count(c.limit), r.Connections(), r.ConnectionsOfOneSource())
		}
		_ = two.Close()
		testmesh.Eventually(t, "the connection has ended", func() bool { return r.Connections() == 1 })
		four, fourReader := dial(t, addr)
		get(t, four, fourReader, "/")

		// Another Snapshot raises the limit; nothing that is open is closed.
		next := *r.Snapshot()
		next.Revision, next.Workload.Limits = "c2", policy.SidecarLimits{Connections: 4, ConnectionsPerSource: 4}
		next.Listeners = append([]policy.Listener(nil), next.Listeners...)
		r.source.Set(&next)
		testmesh.Eventually(t, "the snapshot is applied", func() bool { return r.Snapshot() == &next })
		five, fiveReader := dial(t, addr)
		get(t, five, fiveReader, "/")
		get(t, one, oneReader, "/")
		for _, nc := range []net.Conn{one, four, five} {
			_ = nc.Close()
		}
		r.stop()
		if got := strings.Join(r.refusals(), ", "); got != "connection shed" {
			t.Errorf("%s: refused %q", c.limit, got)
		}
		if cs := r.rec.Closed(flow.KindConnection); len(cs) == 1 && cs[0].Detail != c.limit.String()+" of 2 in this sidecar" {
			t.Errorf("%s: detail %q", c.limit, cs[0].Detail)
		}
		if n := r.ConnectionsOfOneSource(); n != 0 {
			t.Errorf("%d connections of a source are left", n)
		}
	}
}

// TestLimitsFollowTheSnapshot: a head on a connection that is kept is judged by the limits in force when it begins.
func TestLimitsFollowTheSnapshot(t *testing.T) {
	up := answering(t, func(*http.Request, []byte) string { return "HTTP/1.1 204 No Content\r\n\r\n" })
	r, addr := limited(t, policy.Limits{}, policy.SidecarLimits{}, up)
	c, br := dial(t, addr)
	long := "/" + strings.Repeat("a", 500)
	if resp := get(t, c, br, long); resp.StatusCode != 204 {
		t.Fatalf("got %d", resp.StatusCode)
	}
	next := *r.Snapshot()
	next.Revision = "c2"
	next.Listeners = append([]policy.Listener(nil), next.Listeners...)
	next.Listeners[0].Limits.RequestLine = 100
	r.source.Set(&next)
	testmesh.Eventually(t, "the snapshot is applied", func() bool { return r.Snapshot() == &next })
	if resp := get(t, c, br, "/short"); resp.StatusCode != 204 {
		t.Fatalf("the connection was not kept: %d", resp.StatusCode)
	}
	if resp := get(t, c, br, long); resp.StatusCode != 414 {
		t.Fatalf("got %d", resp.StatusCode)
	}
	_ = c.Close()
	r.stop()
}

// TestBufferBudget: when the budget is used up, new requests are shed with 503 and the name of the limit, what is in flight finishes, and
// afterwards all of it is free again.
func TestBufferBudget(t *testing.T) {
	release := make(chan struct{})
	arrived := make(chan struct{}, 100)
	target := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			arrived <- struct{}{}
			<-release
		}
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d", len(b))
	})
	const each = 24 << 10 // http1.workingSet: docs/reference/configuration.md says so
	r, addr := limited(t, policy.Limits{}, policy.SidecarLimits{BufferBytes: 1 << 20}, target)
	fits := (1 << 20) / each
	var waiting []net.Conn
	var readers []*bufio.Reader
	for range fits {
		c, br := dial(t, addr)
		fmt.Fprint(c, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
		<-arrived
		waiting, readers = append(waiting, c), append(readers, br)
	}
	if used := r.Room().Used(); used != int64(fits*each) {
		t.Errorf("%d bytes in use, want %d", used, fits*each)
	}
	c, br := dial(t, addr)
	for range 2 { // the connection stays usable
		resp := get(t, c, br, "/more")
		b, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != 503 || resp.Header.Get("x-tulle-reason") != "shed" || !bytes.Contains(b, []byte("bufferBytes of 1048576")) || resp.Close {
			t.Errorf("got %d %v %q", resp.StatusCode, resp.Header, b)
		}
	}
	// A head that does not fit its first buffer is refused before it is read.
	if got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nx: "+strings.Repeat("b", 10_000)+"\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "bufferBytes") {
		t.Errorf("got %q", head200(got))
	}
	close(release)
	for i, br := range readers {
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("in flight: %+v, %v", resp, err)
		}
		_ = resp.Body.Close()
		_ = waiting[i].Close()
	}
	if resp := get(t, c, br, "/again"); resp.StatusCode != 200 {
		t.Errorf("after room was made: %d", resp.StatusCode)
	}
	_ = c.Close()
	r.stop()
	if got, want := strings.Join(r.refusals(), ", "), "connection shed, exchange shed, exchange shed"; got != want || r.Room().Count(exchange.LimitBufferBytes) != 3 {
		t.Errorf("refused %q, counted %d", got, r.Room().Count(exchange.LimitBufferBytes))
	}
	if used := r.Room().Used(); used != 0 {
		t.Errorf("%d bytes are left in use", used)
	}
}

// TestBudgetOfRelays: a TCP connection without room is shed.
func TestBudgetOfRelays(t *testing.T) {
	up := scripted(t, func(c net.Conn, r *bufio.Reader) { _, _ = io.Copy(c, r) })
	sv := external(func(s *policy.Service) { s.Protocol = flow.ProtocolTCP })
	snap := clientSnapshot(sv, up)
	snap.Workload.Limits.BufferBytes = 1 << 20
	r := start(t, snap, &identity.Holder{}, time.Second)
	var open []net.Conn
	for range (1 << 20) / exchange.RelayMemory {
		c, br := dial(t, r.addr(t, "outbound"))
		fmt.Fprint(c, "x")
		if b, err := br.ReadByte(); err != nil || b != 'x' {
			t.Fatalf("got %q, %v", b, err)
		}
		open = append(open, c)
	}
	if c, err := net.Dial("tcp", r.addr(t, "outbound").String()); err == nil { // else the reset was faster
		if b, _ := io.ReadAll(c); len(b) > 0 {
			t.Errorf("a relay without room got %q", b)
		}
		_ = c.Close()
	}
	for _, c := range open {
		_ = c.Close()
	}
	r.stop()
	shed := 0
	for _, c := range r.rec.Closed(flow.KindConnection) {
		if c.Reason == flow.ReasonShed && strings.HasPrefix(c.Detail, "bufferBytes of ") {
			shed++
		}
	}
	if shed != 1 || r.Room().Used() != 0 {
		t.Errorf("%d shed, %d bytes left in use", shed, r.Room().Used())
	}
}

// TestReplayIsGivenUpFirst: above three quarters of the budget a body is not kept for another try: the request is sent, and not again.
func TestReplayIsGivenUpFirst(t *testing.T) {
	for _, tight := range []bool{false, true} {
		var tries atomic.Int64
		up := scripted(t, func(c net.Conn, r *bufio.Reader) {
			tries.Add(1)
			if req, err := http.ReadRequest(r); err == nil {
				_, _ = io.ReadAll(req.Body)
			}
			_ = c.(*net.TCPConn).SetLinger(0)
		})
		snap := clientSnapshot(external(func(s *policy.Service) { s.Retry.Attempts, s.Retry.BackoffBase = 2, time.Nanosecond }), up)
		snap.Workload.Limits.BufferBytes = 1 << 20
		r := start(t, snap, &identity.Holder{}, time.Second)
		if tight {
			r.Room().Need(800 << 10)
		}
		c, br := dial(t, r.addr(t, "outbound"))
		fmt.Fprint(c, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 30000\r\n\r\n")
		testmesh.Eventually(t, "the head is there", func() bool { return r.Room().Used() > 800<<10 || !tight && r.Room().Used() > 0 })
		_, _ = c.Write(make([]byte, 30_000))
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != 502 {
			t.Fatalf("got %+v, %v", resp, err)
		}
		_ = resp.Body.Close()
		_ = c.Close()
		r.stop()
		if want := map[bool]int64{false: 2, true: 1}[tight]; tries.Load() != want {
			t.Errorf("tight %v: %d tries, want %d", tight, tries.Load(), want)
		}
		if tight {
			r.Room().Give(800 << 10)
		}
		if used := r.Room().Used(); used != 0 {
			t.Errorf("%d bytes are left in use", used)
		}
	}
}
