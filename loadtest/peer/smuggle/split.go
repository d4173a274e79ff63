//go:build unix

package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// evil is a service that answers the first request for /evil with the bytes of a case, and every other with its path.
type evil struct {
	mu    sync.Mutex
	c     testCase
	armed bool

	l     net.Listener
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func startEvil() (*evil, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &evil{l: l, conns: map[net.Conn]bool{}}
	e.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.mu.Lock()
			e.conns[c] = true
			e.mu.Unlock()
			e.wg.Go(func() {
				defer c.Close()
				e.serve(c)
			})
		}
	})
	return e, nil
}

func (e *evil) stop() {
	e.l.Close()
	e.mu.Lock()
	for c := range e.conns {
		c.Close()
	}
	e.mu.Unlock()
	e.wg.Wait()
}

func (e *evil) arm(c testCase) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.c, e.armed = c, true
}

func (e *evil) serve(c net.Conn) {
	br := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		e.mu.Lock()
		now, tc := e.armed && r.URL.Path == "/evil", e.c
		e.armed = e.armed && !now
		e.mu.Unlock()
		if !now {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(r.URL.Path), r.URL.Path)
			continue
		}
		_, _ = io.WriteString(c, tc.bytes)
		if tc.close {
			return
		}
	}
}

// split asks for the armed case through the sidecar at addr, then for a canary on the same connection, if that is still usable, and on a new
// one, and returns what a careful caller (net/http's reader) was led to believe against what the corpus says.
func split(addr string, c testCase, canary string) error {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	// POST is not sent again, so that a service that failed is not asked twice.
	method := c.method
	if method == "GET" {
		method = "POST"
	}
	fmt.Fprintf(nc, "%s /evil HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", method)
	br := bufio.NewReader(nc)
	req := &http.Request{Method: method}
	resp, err := http.ReadResponse(br, req)
	for err == nil && resp.StatusCode < 200 && resp.StatusCode != 101 {
		if resp.ContentLength > 0 || len(resp.TransferEncoding) > 0 {
			return fmt.Errorf("an interim response has a framing: %v", resp.Header)
		}
		resp, err = http.ReadResponse(br, req)
	}
	var body []byte
	if err == nil {
		body, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
	}
	own := err == nil && resp.Header.Get("X-Tulle-Reason") != ""
	if err == nil && resp.StatusCode == http.StatusBadGateway { // the name of a reason crosses only within the mesh
		own = own || method == "HEAD" || bytes.HasPrefix(body, []byte("tulle: "))
	}
	switch {
	case c.refuse == "cut" && own && resp.StatusCode == http.StatusBadGateway: // known before the beginning had gone on
	case c.refuse == "cut":
		if err == nil {
			return fmt.Errorf("a response that is not whole was taken for one: %d %q", resp.StatusCode, body)
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !strings.Contains(err.Error(), "chunk") && !strings.Contains(err.Error(), "trailer") && !strings.Contains(err.Error(), "MIME") {
			return err
		}
	case err != nil:
		return err
	case c.refuse != "":
		if strconv.Itoa(resp.StatusCode) != c.refuse || !own {
			return fmt.Errorf("got %d %q, want Tulle's own %s", resp.StatusCode, body, c.refuse)
		}
	default:
		want := c.pass[0]
		if strconv.Itoa(resp.StatusCode) != want.target || string(body) != want.body || own {
			return fmt.Errorf("got %d %q %v, want %v", resp.StatusCode, body, resp.Header, want)
		}
	}
	if err == nil && !resp.Close {
		fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", canary)
		if err := reads(br, canary); err != nil {
			return fmt.Errorf("on the same connection: %w", err)
		}
	}
	second, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer second.Close()
	_ = second.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(second, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", canary)
	if err := reads(bufio.NewReader(second), canary); err != nil {
		return fmt.Errorf("on another connection: %w", err)
	}
	return nil
}

// reads wants the canary's own answer.
func reads(br *bufio.Reader, canary string) error {
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		return fmt.Errorf("the canary was not answered: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("the canary's answer is not whole: %w", err)
	}
	if string(b) != canary {
		return fmt.Errorf("the canary got somebody else's answer: %d %q", resp.StatusCode, b)
	}
	return nil
}
