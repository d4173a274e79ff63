package sidecar

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// chain starts two sidecars with mTLS between them in front of target.
func chain(t *testing.T, target netip.AddrPort) (web, server *running, addr netip.AddrPort) {
	t.Helper()
	ca := testmesh.NewCA(t)
	server = start(t, serverSnapshot("chat", target, policy.ModeStrict, flow.ProtocolHTTP), ca.Holder("chat"), time.Second)
	web = start(t, clientSnapshot(mesh("chat"), server.addr(t, "inbound")), ca.Holder("web"), time.Second)
	return web, server, web.addr(t, "outbound")
}

// TestWebSocket: a real client and a real server exchange messages of 16 MB in both directions through two sidecars, byte for byte, with pings
// and each other's close code and reason.
func TestWebSocket(t *testing.T) {
	payload := make([]byte, 16<<20)
	_, _ = rand.Read(payload)
	for _, v := range []struct {
		name   string
		closer string
		chain  func(*testing.T, netip.AddrPort) (web, server *running, addr netip.AddrPort)
		status int // of the second sidecar
	}{
		{"client closes", "client", chain, 101},
		{"server closes", "server", chain, 101},
		{"client closes, over HTTP/2", "client", upAndDown, 200},
		{"server closes, over HTTP/2", "server", upAndDown, 200},
	} {
		closer := v.closer
		t.Run(v.name, func(t *testing.T) {
			told := make(chan error, 1)
			up := websocket.Upgrader{Subprotocols: []string{"chat"}}
			target := app(t, func(w http.ResponseWriter, r *http.Request) {
				c, err := up.Upgrade(w, r, http.Header{"X-Served": {"1"}})
				if err != nil {
					told <- err
					return
				}
				defer c.Close()
				kind, b, err := c.ReadMessage()
				if err == nil {
					err = c.WriteMessage(kind, b)
				}
				if err == nil && closer == "server" {
					err = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4321, "enough"), time.Now().Add(time.Minute))
				}
				if err == nil {
					_, _, err = c.ReadMessage()
				}
				told <- err
			})
			web, server, addr := v.chain(t, target)
			d := websocket.Dialer{Subprotocols: []string{"chat"}, HandshakeTimeout: 20 * time.Second}
			c, resp, err := d.Dial("ws://"+addr.String()+"/ws?x=1", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_ = resp.Body.Close()
			if resp.Header.Get("X-Served") != "1" || c.Subprotocol() != "chat" {
				t.Errorf("the answer was %v", resp.Header)
			}
			pongs := 0
			c.SetPongHandler(func(s string) error {
				if s == "p" {
					pongs++
				}
				return nil
			})
			_ = c.SetReadDeadline(time.Now().Add(time.Minute))
			if err := c.WriteControl(websocket.PingMessage, []byte("p"), time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			if err := c.WriteMessage(websocket.BinaryMessage, payload); err != nil {
				t.Fatal(err)
			}
			kind, b, err := c.ReadMessage()
			if err != nil || kind != websocket.BinaryMessage || !bytes.Equal(b, payload) || pongs != 1 {
				t.Errorf("got %d bytes of kind %d, %d pongs, %v", len(b), kind, pongs, err)
			}
			want, text := 4000, "done"
			if closer == "server" {
				want, text = 4321, "enough"
			} else if err := c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(want, text), time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			_, _, here := c.ReadMessage()
			there := <-told
			for side, err := range map[string]error{"client": here, "server": there} { // the handler of a close message sends it back
				var ce *websocket.CloseError
				if !errors.As(err, &ce) || ce.Code != want || (side != closer && ce.Text != text) {
					t.Errorf("the %s was told %v, want %d %s", side, err, want, text)
				}
			}
			_ = c.Close()
			web.stop()
			server.stop()
			for r, status := range map[*running]int{web: 101, server: v.status} {
				if ex := r.rec.Closed(flow.KindExchange); len(ex) != 1 || ex[0].Status != status || ex[0].BytesIn < 16<<20 || ex[0].BytesOut < 16<<20 {
					t.Errorf("exchanges %+v", ex)
				}
			}
		})
	}
}

// TestConnect: a 2xx to CONNECT makes a tunnel of the connection, through two sidecars, whatever the answer says of its framing; bytes pass
// exactly, those that came with the head too, and half-close is kept.
func TestConnect(t *testing.T) {
	target := scripted(t, func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil || req.Method != "CONNECT" || req.Host != "db.shop:5432" || req.RequestURI != "db.shop:5432" {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 201 Fine\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n")
	})
	_, _, addr := chain(t, target)
	if got := raw(t, addr, "CONNECT db.shop:5432 HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 502 ") {
		t.Errorf("two framings of a 2xx: got %q", got)
	}

	for _, framing := range []string{"", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n"} {
		target := scripted(t, func(c net.Conn, r *bufio.Reader) {
			req, err := http.ReadRequest(r)
			if err != nil || req.Method != "CONNECT" || req.Host != "db.shop:5432" || req.RequestURI != "db.shop:5432" {
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 201 Fine\r\nX: 1\r\n%s\r\nhello", framing)
			b, _ := io.ReadAll(r) // until the caller half-closes
			_, _ = c.Write(b)
		})
		web, server, addr := chain(t, target)
		payload := make([]byte, 1<<20)
		_, _ = rand.Read(payload)
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		fmt.Fprint(c, "CONNECT db.shop:5432 HTTP/1.1\r\nHost: x\r\n\r\nearly")
		if _, err := c.Write(payload); err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		got, err := io.ReadAll(c)
		want := "HTTP/1.1 201 Fine\r\nX: 1\r\n\r\nhelloearly" + string(payload)
		if err != nil || string(got) != want {
			t.Errorf("%q: got %d bytes %q…, want %d; %v", framing, len(got), head200(string(got)), len(want), err)
		}
		_ = c.Close()
		web.stop()
		server.stop()
		for _, r := range []*running{web, server} {
			ex := r.rec.Closed(flow.KindExchange)
			if len(ex) != 1 || ex[0].Status != 201 || !ex[0].Answered || ex[0].Method != "CONNECT" || ex[0].Path != "" || ex[0].Authority != "db.shop:5432" || ex[0].BytesIn != uint64(len(payload)+5) {
				t.Errorf("%q: exchanges %+v", framing, ex)
			}
		}
	}
}

// TestConnectRefused: another answer than 2xx is an ordinary one, and the last of both connections: what the caller sent for the tunnel is not
// read as a request. A CONNECT that may have been processed is not sent again.
func TestConnectRefused(t *testing.T) {
	var conns, requests atomic.Int32
	var answer atomic.Value
	up := scripted(t, func(c net.Conn, r *bufio.Reader) {
		conns.Add(1)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			requests.Add(1)
			if req.Method == "CONNECT" {
				a := answer.Load().(string)
				_, _ = io.WriteString(c, a)
				if a == "" {
					return
				}
				continue
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		}
	})
	_, addr := front(t, func(s *policy.Service) { s.Retry.BackoffBase = time.Nanosecond }, up)
	for _, c := range []struct{ answer, want string }{
		{"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nconnection: close\r\n\r\nno"},
		{"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno", "HTTP/1.1 503 Busy\r\nContent-Length: 2\r\nconnection: close\r\n\r\nno"},
		{"HTTP/1.1 302 Found\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", "HTTP/1.1 302 Found\r\nTransfer-Encoding: chunked\r\nconnection: close\r\n\r\n2\r\nno\r\n0\r\n\r\n"},
		{"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "HTTP/1.1 502 "},
		{"", "HTTP/1.1 502 "},
	} {
		answer.Store(c.answer)
		conns.Store(0)
		requests.Store(0)
		got := raw(t, addr, "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
		if got != c.want && !(strings.HasSuffix(c.want, " ") && strings.HasPrefix(got, c.want) && strings.Count(got, "\r\n\r\n") == 1) {
			t.Errorf("after %q: got %q, want %q", c.answer, got, c.want)
		}
		if requests.Load() != 1 {
			t.Errorf("after %q: %d requests reached the service, want 1", c.answer, requests.Load())
		}
		before := conns.Load()
		if got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 200 ") || conns.Load() != before+1 {
			t.Errorf("after %q: the connection was used again: %d, then %d; %q", c.answer, before, conns.Load(), got)
		}
	}
}

// TestSwitchedTo: a service may only switch to what it names, and not to HTTP/2, of which nobody here would judge the exchanges.
func TestSwitchedTo(t *testing.T) {
	var fields atomic.Value
	up := answering(t, func(*http.Request, []byte) string {
		return "HTTP/1.1 101 Switching Protocols\r\n" + fields.Load().(string) + "\r\n"
	})
	_, addr := front(t, nil, up)
	for f, want := range map[string]string{
		"Connection: upgrade\r\nUpgrade: x\r\n":        "HTTP/1.1 101 ",
		"Connection: upgrade\r\nUpgrade: h2c\r\n":      "HTTP/1.1 502 ",
		"Connection: upgrade\r\n":                      "HTTP/1.1 502 ",
		"Upgrade: x\r\n":                               "HTTP/1.1 502 ",
		"Connection: upgrade\r\nUpgrade: HTTP/2.0\r\n": "HTTP/1.1 502 ",
	} {
		fields.Store(f)
		if got := raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"); !strings.HasPrefix(got, want) {
			t.Errorf("%q: got %q, want %q", f, head200(got), want)
		}
	}
}

// TestExpectationIgnored: a service that answers "Expect: 100-continue" without a 100 may not have read the body that it got: its connection is
// not used again. After a 100, or without a body, it is.
func TestExpectationIgnored(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for _, c := range []struct {
		name, fields, answer string
		conns                int32
	}{
		{"final answer", "Content-Length: 2\r\n\r\nab", ok, 2},
		{"final answer, chunks", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", ok, 2},
		{"100 first", "Content-Length: 2\r\n\r\nab", "HTTP/1.1 100 Continue\r\n\r\n" + ok, 1},
		{"no body", "\r\n", ok, 1},
	} {
		var conns atomic.Int32
		up := scripted(t, func(w net.Conn, r *bufio.Reader) {
			conns.Add(1)
			for {
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, req.Body)
				answer := ok
				if req.Header.Get("Expect") != "" {
					answer = c.answer
				}
				_, _ = io.WriteString(w, answer)
			}
		})
		_, addr := front(t, nil, up)
		got := raw(t, addr, "PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"+c.fields)
		got += raw(t, addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		if strings.Count(got, "HTTP/1.1 200 OK") != 2 || conns.Load() != c.conns {
			t.Errorf("%s: %d connections, want %d; %q", c.name, conns.Load(), c.conns, got)
		}
	}
}
