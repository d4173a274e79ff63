//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// patience bounds one case.
const patience = 10 * time.Second

// attack sends a case through the sidecar's listener at addr to s, and returns what Tulle, the service and the corpus disagree about. Nobody
// else may use s meanwhile. After it, a canary goes through on a connection of its own: the sidecar uses the service's connection again for
// it, so that bytes left there would spoil it.
func attack(ctx context.Context, addr string, s *service, c testCase, canary string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	answers, err := send(addr, c)
	if err != nil {
		return err
	}
	if err := probe(addr, canary); err != nil {
		return err
	}
	got, err := s.seen.until(ctx, canary)
	if err != nil {
		return err
	}

	// The service must have seen what the corpus says that Tulle passes on, neither less nor more.
	want := c.pass
	refused := false // by the service
	if n := len(want); n > 0 && slices.Contains(c.mayRefuse, s.name) && len(got) < n {
		want, refused = want[:n-1], true
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("%s saw %v, want %v", s.name, got, want)
	}
	// The caller must have got their answers, in order, then what the service said instead, then what Tulle did.
	for i, m := range want {
		if i >= len(answers) {
			return fmt.Errorf("%d answers, want one to %s too", len(answers), m)
		}
		if a := answers[i]; a.status != 200 || a.saw != m.String() || a.reason != "" {
			return fmt.Errorf("answer %d is %s, want that %s saw %s", i+1, a, s.name, m)
		}
	}
	answers = answers[len(want):]
	if refused {
		if len(answers) == 0 || answers[0].status < 400 || answers[0].saw != "" {
			return fmt.Errorf("%s neither saw nor refused %s: %v", s.name, c.pass[len(c.pass)-1], answers)
		}
		answers = answers[1:]
		if c.refuse == "" || len(answers) == 0 { // it may have closed, too
			c.refuse = ""
		}
	}
	switch {
	case c.refuse == "" || c.refuse == "cut":
		if len(answers) != 0 {
			return fmt.Errorf("answers that nobody asked for: %v", answers)
		}
	case len(answers) != 1 || strconv.Itoa(answers[0].status) != c.refuse || answers[0].reason == "" || !answers[0].closed:
		return fmt.Errorf("answers %v, want %s from Tulle, and the end", answers, c.refuse)
	}
	return nil
}

// answer is what a caller got.
type answer struct {
	status int
	reason string // x-tulle-reason: Tulle's own
	saw    string
	closed bool // it said that it was the last
}

func (a answer) String() string {
	return fmt.Sprintf("%d %s%s", a.status, a.reason, a.saw)
}

// send sends the bytes of c, ends the stream, and reads answers until the sidecar ends it too.
func send(addr string, c testCase) ([]answer, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	go func() { // a large case may be answered before it is read
		_, _ = io.WriteString(nc, c.bytes)
		_ = nc.(*net.TCPConn).CloseWrite()
	}()
	var out []answer
	br := bufio.NewReader(nc)
	for {
		req := &http.Request{Method: "GET"}
		if len(out) < len(c.pass) {
			req.Method = c.pass[len(out)].method
		}
		if _, err := br.Peek(1); err != nil {
			if errors.Is(err, io.EOF) {
				return out, nil
			}
			if c.refuse != "" && len(out) > 0 {
				return out, nil // a reset behind the refusal
			}
			return out, fmt.Errorf("after %v: %w", out, err)
		}
		resp, err := http.ReadResponse(br, req)
		if err != nil {
			return out, fmt.Errorf("after %v: what came is no response: %w", out, err)
		}
		if resp.StatusCode < 200 && resp.StatusCode != 101 {
			continue
		}
		a := answer{status: resp.StatusCode, reason: resp.Header.Get("X-Tulle-Reason"), saw: sawOf(resp), closed: resp.Close}
		out = append(out, a)
		if req.Method == http.MethodConnect && a.status == 200 {
			_, _ = io.Copy(io.Discard, br)
			return out, nil
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return out, fmt.Errorf("answer %s is not whole: %w", a, err)
		}
	}
}

// probe sends a request of which only target is special, and wants to be told that it was seen.
func probe(addr, target string) error {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(nc, "GET %s HTTP/1.1\r\nHost: canary\r\n\r\n", target)
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return fmt.Errorf("the canary was not answered: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("the canary's answer is not whole: %w", err)
	}
	if want := "GET " + target; resp.StatusCode != 200 || sawOf(resp) != want {
		return fmt.Errorf("the canary got somebody else's answer: %d, saw %q, want %q; %q", resp.StatusCode, sawOf(resp), want, b)
	}
	return nil
}
