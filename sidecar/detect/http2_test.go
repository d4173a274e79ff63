package detect

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

func TestHTTP2(t *testing.T) {
	for _, c := range []struct {
		name   string
		before string   // read already
		pieces []string // sent one after the other
		ends   bool     // then the caller leaves
		want   bool
		took   time.Duration
	}{
		{name: "preface", pieces: []string{preface + "more"}, want: true},
		{name: "in pieces", pieces: []string{"PRI * HT", "TP/2.0\r\n", "\r\nSM\r\n", "\r\n"}, want: true},
		{name: "read already", before: preface, want: true},
		{name: "half read already", before: preface[:5], pieces: []string{preface[5:]}, want: true},
		{name: "HTTP/1.1", pieces: []string{"GET / HTTP/1.1\r\n"}},
		{name: "HTTP/1.1 read already", before: "GET / HTTP/1.1\r\n"},
		{name: "shorter than the preface", pieces: []string{"P"}, took: time.Minute},
		{name: "nearly", pieces: []string{"PRI * HTTP/1.1\r\n"}},
		{name: "nothing", took: time.Minute},
		{name: "leaves", ends: true},
		{name: "leaves within", pieces: []string{"PRI"}, ends: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, away := net.Pipe()
				defer near.Close()
				defer away.Close()
				sess := &exchange.Session{Conn: near, Buffered: []byte(c.before)}
				go func() {
					for _, p := range c.pieces {
						_, _ = io.WriteString(away, p)
					}
					if c.ends {
						_ = away.Close()
					}
				}()
				began := time.Now()
				if got := HTTP2(sess, time.Minute); got != c.want {
					t.Errorf("got %t", got)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("it took %v", took)
				}
				all := c.before
				for _, p := range c.pieces {
					all += p
				}
				if got := string(sess.Buffered); got != all { // nothing is consumed, nothing is lost
					t.Errorf("%q is there, %q was sent", got, all)
				}
				synctest.Wait()
			})
		})
	}
}

// A drain ends the waiting of a caller that has sent nothing.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, away := net.Pipe()
		defer near.Close()
		defer away.Close()
		sess := &exchange.Session{Conn: near}
		done := make(chan bool)
		go func() { done <- HTTP2(sess, time.Hour) }()
		synctest.Wait()
		began := time.Now()
		sess.Drain()
		if <-done || time.Since(began) != 0 {
			t.Errorf("it went on for %v", time.Since(began))
		}
	})
}
