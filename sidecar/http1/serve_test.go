package http1

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

type reports []flow.Reason

func (r *reports) Connection(_ *exchange.Binding, _ *exchange.Peer, _ time.Time, reason flow.Reason, _ string) {
	*r = append(*r, reason)
}

// TestHeadTimeout: every head has the head timeout, whatever was read of it before and whatever deadline is left of the last exchange.
func TestHeadTimeout(t *testing.T) {
	for _, c := range []struct {
		name, buffered string
		sends          []string // a second apart
	}{
		{"first bytes read by the handshake", "GET / HT", nil},
		{"after a slow exchange", "", []string{"GET / HT", "TP/1.1\r\nHost: a\r\n\r\nGET /next HT"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				down, caller := net.Pipe()
				var told reports
				served := make(chan struct{})
				s := &Server{Side: flow.SideServer, Handler: exchange.HandlerFunc(func(x *exchange.Exchange) {
					time.Sleep(15 * time.Second)
					x.Outcome.Fail(flow.ReasonShed, "")
					x.Outcome.Answered = x.Downstream.Answer(x)
				})}
				go func() {
					defer close(served)
					s.Serve(&exchange.Session{
						Conn: down, Buffered: []byte(c.buffered), Peer: &exchange.Peer{}, Start: time.Now(),
						Bind: func() *exchange.Binding { return &exchange.Binding{} }, Report: &told,
					})
				}()
				for _, b := range c.sends {
					time.Sleep(time.Second)
					_, _ = io.WriteString(caller, b)
				}
				br := bufio.NewReader(caller)
				if len(c.sends) > 0 {
					resp, err := http.ReadResponse(br, nil)
					if err != nil {
						t.Fatal(err)
					}
					_, _ = io.ReadAll(resp.Body)
				}
				from := time.Now()
				_ = caller.SetReadDeadline(from.Add(time.Minute))
				resp, err := http.ReadResponse(br, nil)
				if took := time.Since(from); err != nil || resp.StatusCode != 408 || took != 10*time.Second {
					t.Errorf("after %s: %+v, %v", took, resp, err)
				}
				_ = caller.Close()
				<-served
				if len(told) != 1 || told[0] != flow.ReasonIdleTimeout {
					t.Errorf("reported %v", told)
				}
			})
		})
	}
}
