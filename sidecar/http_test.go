package sidecar

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// scripted is an upstream that does with each connection what script says.
func scripted(t testing.TB, script func(c net.Conn, r *bufio.Reader)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	scriptedAt(t, l, script)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// scriptedAt is scripted on a listener.
func scriptedAt(t testing.TB, l net.Listener, script func(c net.Conn, r *bufio.Reader)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				script(c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// answering reads requests with net/http and answers each with the bytes that f returns.
func answering(t *testing.T, f func(r *http.Request, body []byte) string) netip.AddrPort {
	return scripted(t, func(c net.Conn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			if _, err := io.WriteString(c, f(r, body)); err != nil {
				return
			}
		}
	})
}

func external(change func(*policy.Service)) policy.Service {
	sv := policy.Service{Name: "ext", Protocol: flow.ProtocolHTTP, External: true}
	if change != nil {
		change(&sv)
	}
	return sv
}

// front starts an outbound sidecar in front of an external upstream.
func front(t *testing.T, change func(*policy.Service), upstreams ...netip.AddrPort) (*running, netip.AddrPort) {
	t.Helper()
	r := start(t, clientSnapshot(external(change), upstreams...), &identity.Holder{}, time.Second)
	return r, r.addr(t, "outbound")
}

func TestResponses(t *testing.T) {
	const get = "GET /%s HTTP/1.1\r\nHost: a\r\n%s\r\n"
	long := strings.Repeat("0123456789", 5000)
	responses := map[string]string{
		"/length":   "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"/long":     "HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + long,
		"/chunked":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=1\r\nok\r\n0\r\nSum: 1\r\n\r\n",
		"/none":     "HTTP/1.1 204 No Content\r\n\r\n",
		"/same":     "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
		"/hops":     "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 9\r\nx-tulle-reason: shed\r\nContent-Length: 2\r\n\r\nok",
		"/noreason": "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok",
		"/early":    "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"/early1.0": "HTTP/1.0 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"/old":      "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"/both":     "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"/two":      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
		"/lf":       "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
		"/switch":   "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
	}
	up := answering(t, func(r *http.Request, _ []byte) string {
		if r.Method == "HEAD" {
			return "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"
		}
		return responses[r.URL.Path]
	})
	r, addr := front(t, func(s *policy.Service) { s.Retry.Attempts = 1 }, up)
	const bad = "HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/plain; charset=utf-8\r\nx-tulle-reason: upstream_protocol_error\r\n"
	for _, c := range []struct{ name, send, want string }{ // want: prefix when it ends in a line end of a head
		{
			"pipelined", fmt.Sprintf(get, "length", "") + fmt.Sprintf(get, "none", "") + fmt.Sprintf(get, "length", "Connection: close\r\n"),
			responses["/length"] + responses["/none"] + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: close\r\n\r\nok",
		},
		{"head", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n" + fmt.Sprintf(get, "length", ""), "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n" + responses["/length"]},
		{"long", fmt.Sprintf(get, "long", ""), responses["/long"]},
		{"chunked, verbatim", fmt.Sprintf(get, "chunked", ""), responses["/chunked"]},
		{"304 has no body", fmt.Sprintf(get, "same", "") + fmt.Sprintf(get, "length", ""), responses["/same"] + responses["/length"]},
		{"hop-by-hop", fmt.Sprintf(get, "hops", ""), responses["/length"]},
		{"no reason phrase", fmt.Sprintf(get, "noreason", ""), responses["/noreason"]},
		{"interim", fmt.Sprintf(get, "early", ""), "HTTP/1.1 103 \r\nLink: x\r\n\r\n" + responses["/length"]},
		{"interim of a 1.0 upstream", fmt.Sprintf(get, "early1.0", ""), "HTTP/1.1 103 \r\nLink: x\r\n\r\n" + responses["/length"]},
		{"1.0 upstream", fmt.Sprintf(get, "old", ""), responses["/length"]},
		{"1.0 caller", "GET /length HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: close\r\n\r\nok"},
		{
			"1.0 caller, keep-alive", "GET /length HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /none HTTP/1.0\r\n\r\n",
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nconnection: keep-alive\r\n\r\nokHTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n",
		},
		{"1.0 caller, chunks", "GET /chunked HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok"},
		{"empty line first", "\r\n" + fmt.Sprintf(get, "length", ""), responses["/length"]},
		{"two framings", fmt.Sprintf(get, "both", ""), bad},
		{"two lengths", fmt.Sprintf(get, "two", ""), bad},
		{"bare lf", fmt.Sprintf(get, "lf", ""), bad},
		{"switch unasked", fmt.Sprintf(get, "switch", ""), bad},
	} {
		got := raw(t, addr, c.send)
		if got != c.want && !(c.want == bad && strings.HasPrefix(got, bad)) {
			t.Errorf("%s: got %q, want %q", c.name, head200(got), head200(c.want))
		}
	}
	r.stop()
	for _, e := range r.rec.Closed(flow.KindExchange) {
		if !e.Answered {
			t.Errorf("not answered: %+v", e)
		}
	}
	if got := len(r.rec.Closed(flow.KindConnection)); got != 0 {
		t.Errorf("%d connection Records, want none", got)
	}
}

func head200(s string) string { return s[:min(len(s), 200)] }

func TestRefusedRequests(t *testing.T) {
	var hits int
	up := answering(t, func(*http.Request, []byte) string { hits++; return "HTTP/1.1 204 No Content\r\n\r\n" })
	r, addr := front(t, nil, up)
	for _, c := range []struct {
		send, status string
		kind         flow.Kind
	}{
		{"GET / HTTP/1.1\r\n\r\n", "400", flow.KindConnection},
		{"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400", flow.KindConnection},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "501", flow.KindConnection},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 61<<10) + "\r\n\r\n", "431", flow.KindConnection},
		{"\x16\x03\x01\x00\n\n", "400", flow.KindConnection},
		{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "400", flow.KindExchange},
	} {
		got := raw(t, addr, c.send)
		if !strings.HasPrefix(got, "HTTP/1.1 "+c.status) || !strings.Contains(got, "x-tulle-reason: bad_request\r\n") {
			t.Errorf("%q: got %q", head200(c.send), head200(got))
		}
	}
	r.stop()
	if hits != 0 {
		t.Errorf("%d refused requests reached the upstream", hits)
	}
	cs, es := r.rec.Closed(flow.KindConnection), r.rec.Closed(flow.KindExchange)
	if len(cs) != 5 || len(es) != 1 {
		t.Fatalf("%d connection Records and %d exchanges, want 5 and 1", len(cs), len(es))
	}
	for _, c := range append(cs, es...) {
		if c.Reason != flow.ReasonBadRequest || c.Detail == "" {
			t.Errorf("reason %q, detail %q", c.Reason, c.Detail)
		}
	}
}

func TestOwnAnswers(t *testing.T) {
	r, addr := front(t, func(s *policy.Service) { s.Retry.BackoffBase = time.Nanosecond }, refused(t))
	// The connection stays usable after the sidecar's own answer.
	got := raw(t, addr, strings.Repeat("GET /a HTTP/1.1\r\nHost: a\r\n\r\n", 2))
	if strings.Count(got, "HTTP/1.1 503 ") != 2 || strings.Count(got, "x-tulle-reason: connect_refused\r\n") != 2 || strings.Count(got, "\ntulle: connect_refused: ") != 2 {
		t.Errorf("got %q", got)
	}
	r.stop()
	at := r.rec.Closed(flow.KindAttempt)
	if len(at) != 4 {
		t.Errorf("%d attempts, want 4: two tries each", len(at))
	}
	for _, a := range at {
		if a.Delivered || a.Reason != flow.ReasonConnectRefused {
			t.Errorf("attempt %+v", a)
		}
	}
}

// An inbound listener has the timeouts of its service: what callers may wait for is not ended in front of the application.
func TestInboundTimeout(t *testing.T) {
	up := scripted(t, func(_ net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
	snap := serverSnapshot("catalog", up, policy.ModePermissive, flow.ProtocolHTTP)
	snap.Listeners[0].RequestTimeout = 50 * time.Millisecond
	r := start(t, snap, testmesh.NewCA(t).Holder("catalog"), 0)
	got := raw(t, r.addr(t, "inbound"), "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 504 ") || !strings.Contains(got, "x-tulle-reason: request_timeout\r\n") {
		t.Errorf("got %q", got)
	}
}

func TestTimeout(t *testing.T) {
	up := scripted(t, func(_ net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
	r, addr := front(t, func(s *policy.Service) { s.RequestTimeout = 50 * time.Millisecond }, up)
	got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	if !strings.HasPrefix(got, "HTTP/1.1 504 ") || !strings.Contains(got, "x-tulle-reason: request_timeout\r\n") {
		t.Errorf("got %q", got)
	}
	r.stop()
	if at := r.rec.Closed(flow.KindAttempt); len(at) != 1 || !at[0].Delivered || at[0].Reason != flow.ReasonRequestTimeout {
		t.Errorf("attempts %+v", at)
	}
}

// TestSlowCaller: a caller that does not send its body in time is no failure of the service.
func TestSlowCaller(t *testing.T) {
	up := scripted(t, func(_ net.Conn, r *bufio.Reader) { _, _ = io.Copy(io.Discard, r) })
	for expect, want := range map[string]flow.Reason{"": flow.ReasonBadRequest, "Expect: 100-continue\r\n": flow.ReasonRequestTimeout} {
		r, addr := front(t, func(s *policy.Service) { s.RequestTimeout = 50 * time.Millisecond }, up)
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\n%sContent-Length: 10\r\n\r\n", expect)
		if expect == "" {
			fmt.Fprint(c, "half")
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		status := map[flow.Reason]int{flow.ReasonBadRequest: 408, flow.ReasonRequestTimeout: 504}[want]
		if resp.StatusCode != status || resp.Header.Get("x-tulle-reason") != want.String() {
			t.Errorf("%q: got %d, %v", expect, resp.StatusCode, resp.Header)
		}
		_ = c.Close()
		r.stop()
		if ex, at := r.rec.Closed(flow.KindExchange), r.rec.Closed(flow.KindAttempt); len(ex) != 1 || ex[0].Reason != want || len(at) != 1 || !at[0].Delivered {
			t.Errorf("%q: exchanges %+v, attempts %+v", expect, ex, at)
		}
	}
}

// TestAnnouncedBody: a service that announces a body where there is none may still send it: its connection is not used again.
func TestAnnouncedBody(t *testing.T) {
	var mu sync.Mutex
	conns := 0
	up := scripted(t, func(c net.Conn, r *bufio.Reader) {
		mu.Lock()
		conns++
		mu.Unlock()
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n")
		}
	})
	_, addr := front(t, nil, up)
	want := strings.Repeat("HTTP/1.1 204 No Content\r\n\r\n", 2)
	if got := raw(t, addr, strings.Repeat("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 2)); got != want {
		t.Errorf("got %q", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if conns != 2 {
		t.Errorf("%d connections for two requests, want 2", conns)
	}
}

// TestContinue: the caller waits for 100 before it sends its body, and the upstream's 100 reaches it.
func TestContinue(t *testing.T) {
	up := scripted(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		b, _ := io.ReadAll(req.Body)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
	})
	_, addr := front(t, nil, up)
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	br := bufio.NewReader(c)
	if line, err := br.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 100") {
		t.Fatalf("got %q, %v", line, err)
	}
	_, _ = br.ReadString('\n')
	fmt.Fprint(c, "hello")
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "hello" {
		t.Errorf("got %q", b)
	}
}

// TestEarlyResponse: the upstream answers and stops reading while the caller still sends.
func TestEarlyResponse(t *testing.T) {
	up := scripted(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
		}
	})
	r, addr := front(t, nil, up)
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n")
	_, _ = c.Write(make([]byte, 30_000))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 413 || string(b) != "big" {
		t.Errorf("got %d %q", resp.StatusCode, b)
	}
	r.stop()
	if ex := r.rec.Closed(flow.KindExchange); len(ex) != 1 || !ex[0].Answered || ex[0].Status != 413 {
		t.Errorf("exchanges %+v", ex)
	}
}

// TestUpgrade: after 101, bytes pass both ways exactly, through two sidecars, and half-close is kept.
func TestUpgrade(t *testing.T) {
	ca := testmesh.NewCA(t)
	target := scripted(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil || req.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(req.Header.Get("Connection"), "upgrade") {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
		b, _ := io.ReadAll(r) // until the caller half-closes
		_, _ = c.Write(b)
	})
	server := start(t, serverSnapshot("chat", target, policy.ModeStrict, flow.ProtocolHTTP), ca.Holder("chat"), time.Second)
	web := start(t, clientSnapshot(mesh("chat"), server.addr(t, "inbound")), ca.Holder("web"), time.Second)
	payload := make([]byte, 3<<20)
	_, _ = rand.Read(payload)
	c, err := net.Dial("tcp", web.addr(t, "outbound").String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: chat\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	br := bufio.NewReader(c)
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 101 || resp.Header.Get("Upgrade") != "websocket" {
		t.Fatalf("got %+v, %v", resp, err)
	}
	if _, err := c.Write(payload); err != nil {
		t.Fatal(err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(br)
	if err != nil || !bytes.Equal(got, append([]byte("hello"), payload...)) {
		t.Errorf("got %d bytes back, want %d; %v", len(got), len(payload)+5, err)
	}
	web.stop()
	server.stop()
	for _, r := range []*running{web, server} {
		if ex := r.rec.Closed(flow.KindExchange); len(ex) != 1 || ex[0].Status != 101 || !ex[0].Answered || ex[0].BytesIn != uint64(len(payload)) || ex[0].BytesOut != uint64(len(payload)+5) {
			t.Errorf("exchanges %+v", ex)
		}
	}
}

// TestStaleConnection: an idle connection that the upstream has closed costs the caller nothing, when it is safe to send again.
func TestStaleConnection(t *testing.T) {
	closed := make(chan struct{}, 10)
	up := scripted(t, func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n") // says nothing, and closes
			_ = c.Close()
			closed <- struct{}{}
		}
	})
	r, addr := front(t, func(s *policy.Service) { s.Retry.Attempts = 1 }, up)
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	br := bufio.NewReader(c)
	for i := range 5 {
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != 204 {
			t.Fatalf("request %d: %+v, %v", i, resp, err)
		}
		<-closed
	}
	r.stop()
	if ex := r.rec.Closed(flow.KindExchange); len(ex) != 5 {
		t.Errorf("%d exchanges", len(ex))
	}
}

// TestUpgradeAfterBody: a request that asks for another protocol may have a body that comes later; what the caller sends right behind it is the
// first of the new protocol.
func TestUpgradeAfterBody(t *testing.T) {
	head := make(chan struct{})
	up := scripted(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		close(head)
		b, _ := io.ReadAll(req.Body)
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n%s", b)
		_, _ = io.Copy(c, r)
	})
	_, addr := front(t, func(s *policy.Service) { s.Retry.Attempts = 1 }, up)
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\nTransfer-Encoding: chunked\r\n\r\n")
	<-head
	fmt.Fprint(c, "4\r\nbody\r\n0\r\n\r\nbehind")
	_ = c.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(c)
	if want := "\r\n\r\nbodybehind"; err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 101 ") || !strings.HasSuffix(string(got), want) {
		t.Errorf("got %q, %v; want a 101 that ends in %q", got, err, want)
	}
}

// TestUnavailableWithinUpload: a 503 that comes while the body is on its way is tried again from the body's beginning, or passed on saying that
// the connection is over.
func TestUnavailableWithinUpload(t *testing.T) {
	for _, tries := range []int{1, 2} {
		answered := make(chan struct{}, 2)
		var mu sync.Mutex
		n := 0
		up := scripted(t, func(c net.Conn, r *bufio.Reader) {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			mu.Lock()
			n++
			first := n == 1
			mu.Unlock()
			if first {
				_, _ = io.ReadFull(req.Body, make([]byte, 3))
				_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno")
				answered <- struct{}{}
			}
			b, err := io.ReadAll(req.Body)
			if err == nil {
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
			}
		})
		r, addr := front(t, func(s *policy.Service) { s.Retry.Attempts, s.Retry.BackoffBase = tries, time.Nanosecond }, up)
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprint(c, "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc")
		<-answered
		want, body := 503, "no"
		if tries > 1 {
			testmesh.Eventually(t, "second try", func() bool { mu.Lock(); defer mu.Unlock(); return n == 2 })
			fmt.Fprint(c, "def")
			want, body = 200, "abcdef"
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if b, _ := io.ReadAll(resp.Body); resp.StatusCode != want || string(b) != body || resp.Close != (want == 503) || resp.Header.Get("x-tulle-reason") != "" {
			t.Errorf("%d tries: got %d %q, close %t, %v", tries, resp.StatusCode, b, resp.Close, resp.Header)
		}
		_ = c.Close()
		r.stop()
		if at := r.rec.Closed(flow.KindAttempt); len(at) != tries || at[0].Status != 503 {
			t.Errorf("%d tries: attempts %+v", tries, at)
		}
	}
}

// TestEarlyAnswerKeepsTheConnection: a service that answers before it has read the body leaves the caller's connection as it was promised.
func TestEarlyAnswerKeepsTheConnection(t *testing.T) {
	for _, framing := range []string{"Content-Length: 40000\r\n\r\n" + strings.Repeat("x", 40000), "Transfer-Encoding: chunked\r\n\r\n9c40\r\n" + strings.Repeat("x", 40000) + "\r\n0\r\n\r\n"} {
		up := scripted(t, func(c net.Conn, br *bufio.Reader) {
			r, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(len(r.URL.Path))+"\r\n\r\n"+r.URL.Path)
			if r.Method == "PUT" {
				return // without a byte of the body
			}
			_, _ = io.Copy(io.Discard, br)
		})
		r, addr := front(t, nil, up)
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		br := bufio.NewReader(c)
		head, body, _ := strings.Cut("PUT /early HTTP/1.1\r\nHost: a\r\n"+framing, "\r\n\r\n")
		if _, err := io.WriteString(c, head+"\r\n\r\n"+body[:100]); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.Close {
			t.Fatalf("%v, %+v", err, resp)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "/early" {
			t.Fatalf("%q, %v", b, err)
		}
		if _, err := io.WriteString(c, body[100:]+"POST /next HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if resp, err = http.ReadResponse(br, nil); err != nil {
			t.Fatalf("the connection was promised and then closed: %v", err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "/next" {
			t.Errorf("%q, %v", b, err)
		}
		_ = c.Close()
		r.stop()
	}
}
