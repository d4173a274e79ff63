package sidecar

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// TestReusedConnectionCloses: what becomes of a request when the connection that it was sent on, used before, closes. It is sent again on a new
// one only when nothing was answered and that is safe.
func TestReusedConnectionCloses(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for _, c := range []struct {
		name    string
		request string
		late    string // what the service answers to the second request of a connection, before it closes
		early   bool   // it closes before that is sent, without having said so
		want    string // beginning of the answer
		times   int    // how often the request reached the service
	}{
		{"GET, closed before", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "", true, "HTTP/1.1 200 ", 1},
		{"POST, closed before", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", "", true, "HTTP/1.1 200 ", 1},
		{"GET, closed instead of an answer", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "", false, "HTTP/1.1 200 ", 2},
		{"PUT, closed instead of an answer", "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", "", false, "HTTP/1.1 200 ", 2},
		{"POST, closed instead of an answer", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", "", false, "HTTP/1.1 502 ", 1},
		{"PATCH, closed instead of an answer", "PATCH /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "", false, "HTTP/1.1 502 ", 1},
		{"unknown method, closed instead of an answer", "FROB /x HTTP/1.1\r\nHost: a\r\n\r\n", "", false, "HTTP/1.1 502 ", 1},
		{"GET, closed within the head", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 20", false, "HTTP/1.1 502 ", 1},
		{"GET, closed behind an interim answer", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 103 E\r\n\r\n", false, "HTTP/1.1 103 \r\n\r\nHTTP/1.1 502 ", 1},
		{"GET, closed within the body", "GET /x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", false, "HTTP/1.1 200 OK\r\n", 1},
		{"POST, answered and closed", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", ok, false, "HTTP/1.1 200 ", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var mu sync.Mutex
			times, conns := 0, 0
			closed := make(chan struct{}, 1)
			up := scripted(t, func(w net.Conn, r *bufio.Reader) {
				mu.Lock()
				conns++
				first := conns == 1
				mu.Unlock()
				for n := 1; ; n++ {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					if req.URL.Path == "/x" {
						mu.Lock()
						times++
						mu.Unlock()
					}
					if first && n == 2 {
						_, _ = io.WriteString(w, c.late)
						return
					}
					_, _ = io.WriteString(w, ok)
					if first && c.early {
						_ = w.Close()
						closed <- struct{}{}
						return
					}
				}
			})
			r, addr := front(t, func(s *policy.Service) { s.Retry.Attempts = 1 }, up)
			nc, br := dial(t, addr)
			defer nc.Close()
			fmt.Fprint(nc, "GET /warm HTTP/1.1\r\nHost: a\r\n\r\n")
			if resp, err := http.ReadResponse(br, nil); err != nil || resp.StatusCode != 200 {
				t.Fatal(resp, err)
			}
			if c.early {
				<-closed
			}
			fmt.Fprint(nc, c.request)
			_ = nc.(*net.TCPConn).CloseWrite()
			got, _ := io.ReadAll(br) // a response that was cut ends in a reset
			if !strings.HasPrefix(string(got), c.want) {
				t.Errorf("got %q, want %q", head200(string(got)), c.want)
			}
			r.stop()
			mu.Lock()
			defer mu.Unlock()
			if times != c.times {
				t.Errorf("the request reached the service %d times, want %d", times, c.times)
			}
		})
	}
}

// TestUnaskedBytes: what a service sends behind a response is never the next caller's answer: neither the body of a response that has none,
// which comes late, nor the farewell of a connection that it closes.
func TestUnaskedBytes(t *testing.T) {
	const poison = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	for _, c := range []struct {
		name, warm, head, method string
	}{
		{"body of HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 39\r\n\r\n", "GET"},
		{"chunked body of HEAD", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "GET"},
		{"body of 304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 39\r\n\r\n", "GET"},
		{"farewell, before a request that cannot be sent again", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "POST"},
	} {
		t.Run(c.name, func(t *testing.T) {
			goOn, sent := make(chan struct{}), make(chan struct{})
			up := scripted(t, func(w net.Conn, r *bufio.Reader) {
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					if req.URL.Path == "/next" {
						_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext")
						continue
					}
					_, _ = io.WriteString(w, c.head)
					<-goOn
					_, _ = io.WriteString(w, poison)
					close(sent)
				}
			})
			_, addr := front(t, func(s *policy.Service) { s.Retry.Attempts = 1 }, up)
			nc, br := dial(t, addr)
			defer nc.Close()
			fmt.Fprintf(nc, "%s /warm HTTP/1.1\r\nHost: a\r\n\r\n", c.warm)
			if _, err := http.ReadResponse(br, &http.Request{Method: c.warm}); err != nil {
				t.Fatal(err)
			}
			close(goOn)
			<-sent
			fmt.Fprintf(nc, "%s /next HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", c.method)
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "next" {
				t.Errorf("the next caller got %q, %v", b, err)
			}
		})
	}
}

// TestEarlyAnswerIsNotPooled: a service that answers before the body and does not read it takes what is left of it for a request; nobody else's follows on that connection.
func TestEarlyAnswerIsNotPooled(t *testing.T) {
	var mu sync.Mutex
	var seen [][]string // by connection
	up := scripted(t, func(w net.Conn, r *bufio.Reader) {
		mu.Lock()
		at := len(seen)
		seen = append(seen, nil)
		mu.Unlock()
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			mu.Lock()
			seen[at] = append(seen[at], req.URL.Path)
			mu.Unlock()
			_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
			if req.URL.Path == "/early" {
				req, err := http.ReadRequest(r) // it ignores the body, and finds a request in it
				if err != nil {
					return
				}
				mu.Lock()
				seen[at] = append(seen[at], req.URL.Path)
				mu.Unlock()
			}
			_, _ = io.WriteString(w, "0\r\n\r\n")
		}
	})
	r, addr := front(t, nil, up)
	nc, br := dial(t, addr)
	inner := "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n"
	fmt.Fprintf(nc, "POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", len(inner))
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 2)); err != nil { // the answer has begun
		t.Fatal(err)
	}
	fmt.Fprint(nc, inner)
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = nc.Close()
	if got := raw(t, addr, "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.Contains(got, "ok") {
		t.Errorf("the next request: %q", got)
	}
	r.stop()
	mu.Lock()
	defer mu.Unlock()
	for _, paths := range seen {
		if slices.Contains(paths, "/early") && slices.Contains(paths, "/next") {
			t.Errorf("one connection carried %v", paths)
		}
	}
}

// TestEarlyAnswer: a service that answers before it has the whole body ends both connections, whatever its status: what the caller sends on is
// the rest of the body, and no request, neither here nor there.
func TestEarlyAnswer(t *testing.T) {
	for _, status := range []string{"200 OK", "403 Forbidden"} {
		for _, framing := range []string{"Content-Length: 60000\r\n\r\nbegin", "Transfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n"} {
			var mu sync.Mutex
			var paths []string
			up := scripted(t, func(w net.Conn, r *bufio.Reader) {
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					mu.Lock()
					paths = append(paths, req.URL.Path)
					mu.Unlock()
					_, _ = io.WriteString(w, "HTTP/1.1 "+status+"\r\nContent-Length: 2\r\n\r\nok")
				}
			})
			r, addr := front(t, nil, up)
			nc, br := dial(t, addr)
			fmt.Fprint(nc, "POST /early HTTP/1.1\r\nHost: a\r\n"+framing)
			resp, err := http.ReadResponse(br, nil)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "ok" {
				t.Errorf("got %q, %v", b, err)
			}
			// The sidecar may have closed already.
			_, _ = io.WriteString(nc, "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
			if b, _ := io.ReadAll(br); len(b) != 0 {
				t.Errorf("%s, %q: more came behind the answer: %q", status, framing, b)
			}
			_ = nc.Close()
			if got := raw(t, addr, "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"); !strings.HasSuffix(got, "ok") {
				t.Errorf("the next request: %q", got)
			}
			r.stop()
			mu.Lock()
			if got := strings.Join(paths, " "); got != "/early /next" {
				t.Errorf("%s, %q: the service saw %s", status, framing, got)
			}
			mu.Unlock()
		}
	}
}
