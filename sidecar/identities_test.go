package sidecar

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// faulty is an application that misbehaves as its path says.
func faulty(stop <-chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		cut := func(prefix string) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, prefix)
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
		switch {
		case strings.HasPrefix(r.URL.Path, "/echo"):
			b, _ := io.ReadAll(r.Body)
			w.Header().Set("Content-Length", strconv.Itoa(len(b)))
			_, _ = w.Write(b)
		case strings.HasPrefix(r.URL.Path, "/chunked"):
			for i := range 5 {
				fmt.Fprintf(w, "part %d\n", i)
				_ = http.NewResponseController(w).Flush()
			}
		case strings.HasPrefix(r.URL.Path, "/slow"):
			select {
			case <-time.After(time.Second):
			case <-stop:
			case <-r.Context().Done():
			}
		case strings.HasPrefix(r.URL.Path, "/503"):
			w.WriteHeader(503)
		case strings.HasPrefix(r.URL.Path, "/500"):
			w.WriteHeader(500)
		case strings.HasPrefix(r.URL.Path, "/close"):
			w.Header().Set("Connection", "close")
			_, _ = io.WriteString(w, "bye")
		case strings.HasPrefix(r.URL.Path, "/early"): // answers without reading the body
			w.WriteHeader(413)
		case strings.HasPrefix(r.URL.Path, "/reset"):
			cut("")
		case strings.HasPrefix(r.URL.Path, "/partial"):
			cut("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nshort")
		case strings.HasPrefix(r.URL.Path, "/garbage"):
			cut("SMTP ready\r\n\r\n")
		default:
			_, _ = io.WriteString(w, "ok")
		}
	}
}

// TestIdentities proves the three identities of docs/format/record.md over random exchanges with refusals, time-outs, resets, garbage, early
// answers, foreign endpoints and callers that leave.
func TestIdentities(t *testing.T) {
	const (
		requests = 2400
		workers  = 8
		seed     = 42
	)
	ca, other := testmesh.NewCA(t), testmesh.NewCA(t)
	stop := make(chan struct{})
	defer close(stop)
	var endpoints []netip.AddrPort
	var servers []*running
	add := func(target netip.AddrPort, account string, authority *testmesh.CA) {
		s := start(t, serverSnapshot("catalog", target, policy.ModeStrict, flow.ProtocolHTTP), authority.Holder(account), 20*time.Millisecond)
		servers = append(servers, s)
		endpoints = append(endpoints, s.addr(t, "inbound"))
	}
	for range 3 {
		add(app(t, faulty(stop)), "catalog", ca)
	}
	dead := refused(t)
	add(dead, "catalog", ca)                              // its application is dead
	add(app(t, faulty(stop)), "impostor", ca)             // proves another identity
	add(app(t, faulty(stop)), "catalog", other)           // of another CA
	endpoints = append(endpoints, refused(t), closing(t)) // nobody; somebody who hangs up

	sv := mesh("catalog")
	sv.RequestTimeout = 400 * time.Millisecond
	sv.Retry.Attempts = 3
	web := start(t, clientSnapshot(sv, endpoints...), ca.Holder("web"), 2*time.Second)
	front := web.addr(t, "outbound")

	kinds := []string{"/", "/", "/", "/echo", "/echo", "/chunked", "/slow", "/503", "/500", "/close", "/early", "/reset", "/partial", "/garbage"}
	var sent, next atomic.Int64
	half := make(chan struct{})
	var statuses sync.Map
	var wg sync.WaitGroup
	for worker := range workers {
		rng := rand.New(rand.NewPCG(seed, uint64(worker)))
		tr := &http.Transport{DisableCompression: true}
		defer tr.CloseIdleConnections()
		c := &http.Client{Transport: tr}
		wg.Go(func() {
			for next.Add(1) <= requests {
				kind := kinds[rng.IntN(len(kinds))]
				if kind == "/slow" && rng.IntN(4) > 0 {
					kind = "/"
				}
				size := []int{0, 10, 3000, 20_000, 200_000}[rng.IntN(5)]
				if sent.Add(1) == requests/2 {
					close(half)
				}
				if rng.IntN(10) == 0 { // a caller that leaves
					leave(t, front, kind, size, rng)
					continue
				}
				method := []string{"GET", "POST", "PUT"}[rng.IntN(3)]
				var body io.Reader
				if method != "GET" && size > 0 {
					body = bytes.NewReader(make([]byte, size))
					if rng.IntN(2) == 0 {
						body = io.MultiReader(body) // unknown length: chunked
					}
				}
				req, err := http.NewRequest(method, "http://"+front.String()+kind, body)
				if err != nil {
					t.Error(err)
					return
				}
				req.GetBody = nil // so that the test's client does not send it again by itself
				req.Close = rng.IntN(8) == 0
				resp, err := c.Do(req)
				if err != nil {
					if body == nil && !req.Close && errors.Is(err, io.EOF) {
						t.Errorf("%s %s: %v", method, kind, err)
					}
					continue
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if kind == "/echo" && resp.StatusCode == 200 && err == nil && body != nil && len(got) != size {
					t.Errorf("echo of %d bytes answered %d", size, len(got))
				}
				n, _ := statuses.LoadOrStore(resp.StatusCode, new(atomic.Int64))
				n.(*atomic.Int64).Add(1)
			}
		})
	}
	// One server stops in the middle, with less patience than its slow exchanges need.
	<-half
	servers[0].stop()
	wg.Wait()
	web.stop()
	for _, s := range servers {
		s.stop()
	}

	exchanges, attempts := web.rec.Closed(flow.KindExchange), web.rec.Closed(flow.KindAttempt)
	if len(exchanges) != int(sent.Load()) {
		t.Errorf("sent %d requests, client exchanges %d", sent.Load(), len(exchanges))
	}
	delivered := map[flow.SpanID]bool{}
	undelivered := map[flow.Reason]int{}
	for _, a := range attempts {
		if a.Delivered {
			delivered[a.Trace.SpanID] = true
		} else {
			undelivered[a.Reason]++
			if a.Reason == flow.ReasonNone {
				t.Errorf("an attempt that was not delivered has no reason: %+v", a)
			}
		}
	}
	tries := 0
	for _, e := range exchanges {
		tries += e.Attempts
		if !e.Answered && e.Reason == flow.ReasonNone {
			t.Errorf("an unanswered client exchange has no reason: %+v", e)
		}
	}
	if tries != len(attempts) {
		t.Errorf("exchanges made %d tries, attempts recorded %d", tries, len(attempts))
	}
	served, answered := 0, 0
	unanswered := map[flow.Reason]int{}
	parents := map[flow.SpanID]int{}
	for _, s := range servers {
		for _, e := range s.rec.Closed(flow.KindExchange) {
			served++
			parents[e.Trace.ParentID]++
			if e.Answered {
				answered++
			} else if unanswered[e.Reason]++; e.Reason == flow.ReasonNone {
				t.Errorf("an unanswered server exchange has no reason: %+v", e)
			}
		}
	}
	if len(delivered) != served {
		t.Errorf("attempts %d = server exchanges %d + never delivered %d does not hold (delivered %d)", len(attempts), served, len(attempts)-len(delivered), len(delivered))
		for _, a := range attempts {
			if a.Delivered && parents[a.Trace.SpanID] == 0 {
				t.Logf("delivered, but no server exchange: %s %s reason %s %q legs %+v", a.Method, a.Path, a.Reason, a.Detail, a.Legs)
			}
			if !a.Delivered && parents[a.Trace.SpanID] != 0 {
				t.Logf("not delivered, but there is a server exchange: %s %s reason %s %q legs %+v", a.Method, a.Path, a.Reason, a.Detail, a.Legs)
			}
		}
	}
	for span, n := range parents {
		if n != 1 || !delivered[span] {
			t.Errorf("span %s has %d server exchanges, delivered %v", span, n, delivered[span])
		}
	}
	var live int64
	for _, s := range append(servers, web) {
		live += s.rec.Live()
		if n := s.Connections(); n != 0 {
			t.Errorf("%d connections are left", n)
		}
	}
	if live != 0 {
		t.Errorf("%d live counts are left", live)
	}
	t.Logf("exchanges %d, attempts %d, served %d, answered %d, unanswered %v, undelivered %v", len(exchanges), len(attempts), served, answered, unanswered, undelivered)
	statuses.Range(func(k, v any) bool { t.Logf("status %v: %d", k, v.(*atomic.Int64).Load()); return true })
	// How many are served depends on how busy the machine is; the identities do not.
	if len(undelivered) < 3 || served < requests/8 {
		t.Errorf("the faults did not happen: undelivered %v, served %d", undelivered, served)
	}
}

// leave sends a whole head, and perhaps part of a body, and goes away in order.
func leave(t *testing.T, addr netip.AddrPort, path string, size int, rng *rand.Rand) {
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nhost: catalog\r\ncontent-length: %d\r\n\r\n", path, size)
	if _, err := io.WriteString(c, head); err != nil {
		t.Error(err)
	}
	if size > 0 {
		_, _ = c.Write(make([]byte, rng.IntN(size)))
	}
	if rng.IntN(2) == 0 { // read a little, then reset
		_ = c.SetReadDeadline(time.Now().Add(time.Duration(rng.IntN(30)) * time.Millisecond))
		_, _ = c.Read(make([]byte, 8))
	}
}

// refused is an address at which nobody listens.
func refused(t *testing.T) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// closing accepts and hangs up.
func closing(t *testing.T) netip.AddrPort { return scripted(t, func(net.Conn, *bufio.Reader) {}) }
