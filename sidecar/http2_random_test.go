package sidecar

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

var http2Seed = flag.Uint64("http2.seed", 0, "of TestHTTP2Random; 0: a new one")

// Random requests, some of whose callers leave, to a service that answers, resets, and dawdles at random, through two sidecars, with a bridge between the
// versions of HTTP and without: every whole answer is the right one, both sides count the same, and nothing is left.
func TestHTTP2Random(t *testing.T) {
	seed := *http2Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("to see it again: -http2.seed=%d", seed)
	for _, v := range []struct {
		name   string
		caller func(testing.TB) *http.Client
		app    func(testing.TB, http.HandlerFunc) netip.AddrPort
		speaks flow.Protocol
	}{
		{"HTTP2 to HTTP2", h2client, h2app, flow.ProtocolHTTP},
		{"HTTP2 to HTTP1", h2client, app, flow.ProtocolHTTP1},
		{"HTTP1 to HTTP2", client, h2app, flow.ProtocolHTTP2},
	} {
		t.Run(v.name, func(t *testing.T) { randomly(t, seed, v.caller, v.app, v.speaks) })
	}
}

func randomly(t *testing.T, seed uint64, caller func(testing.TB) *http.Client, app func(testing.TB, http.HandlerFunc) netip.AddrPort, speaks flow.Protocol) {
	ca := testmesh.NewCA(t)
	up := app(t, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		read := func() int64 {
			n, _ := io.Copy(io.Discard, r.Body)
			return n
		}
		size, _ := strconv.Atoi(q.Get("size"))
		switch q.Get("do") {
		case "early": // answers without reading
			_, _ = w.Write(bytes.Repeat([]byte("a"), size))
		case "reset":
			panic(http.ErrAbortHandler)
		case "cut":
			w.Header().Set("content-length", strconv.Itoa(size+1))
			_, _ = w.Write(bytes.Repeat([]byte("a"), size))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "503":
			read()
			w.WriteHeader(503)
		case "hang":
			read()
			<-r.Context().Done()
		default:
			w.Header().Set("x-read", strconv.FormatInt(read(), 10))
			w.Header().Set("trailer", "sum")
			_, _ = w.Write(bytes.Repeat([]byte("a"), size))
			w.Header().Set("sum", strconv.Itoa(size))
		}
	})
	snap := serverSnapshot("catalog", up, policy.ModeStrict, speaks)
	snap.Listeners[0].Limits.HTTP2 = policy.HTTP2{Resets: 1 << 20, StreamWindow: 32 << 10, ConnectionWindow: 80 << 10}
	server := start(t, snap, ca.Holder("catalog"), 5*time.Second)
	sv := mesh("catalog")
	sv.RequestTimeout = time.Second
	snap = clientSnapshot(sv, server.addr(t, "inbound"))
	snap.Listeners[0].Limits.HTTP2 = policy.HTTP2{Resets: 1 << 20, StreamWindow: 16 << 10, ConnectionWindow: 65535}
	web := start(t, snap, ca.Holder("web"), 5*time.Second)
	addr := "http://" + web.addr(t, "outbound").String()
	var wg sync.WaitGroup
	var sent, whole atomic.Int64
	for i := range 16 {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		c := caller(t)
		wg.Go(func() {
			for range 40 {
				method := []string{"GET", "POST", "PUT"}[random.IntN(3)]
				do := []string{"", "", "", "", "early", "reset", "cut", "503", "hang"}[random.IntN(9)]
				size, length := random.IntN(1<<random.IntN(18)), 0
				if method != "GET" {
					length = random.IntN(1 << random.IntN(18))
				}
				ctx, cancel := context.WithCancel(t.Context())
				leaves := random.IntN(5) == 0
				if leaves {
					time.AfterFunc(time.Duration(random.IntN(3000))*time.Microsecond, cancel)
				}
				req, _ := http.NewRequestWithContext(ctx, method, fmt.Sprintf("%s/x?do=%s&size=%d", addr, do, size), io.LimitReader(endlessly{}, int64(length)))
				req.ContentLength = int64(length)
				sent.Add(1)
				resp, err := c.Do(req)
				if err != nil {
					if !leaves && do != "reset" && do != "early" && do != "hang" {
						t.Errorf("%s %s: %v", method, do, err)
					}
					cancel()
					continue
				}
				if random.IntN(10) == 0 { // not interested
					_ = resp.Body.Close()
					cancel()
					continue
				}
				body, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				cancel()
				switch {
				case err == nil && do == "cut" && resp.StatusCode < 500: // a bridge may know the end before the beginning has gone on
					t.Errorf("a cut response looks whole: %d, %d bytes of %d", resp.StatusCode, len(body), size+1)
				case err == nil && do == "" && resp.StatusCode == 200:
					whole.Add(1)
					if len(body) != size || resp.Header.Get("x-read") != strconv.Itoa(length) || resp.Trailer.Get("sum") != strconv.Itoa(size) {
						t.Errorf("%s: %d bytes of %d; the service has read %s of %d; trailers %v", method, len(body), size, resp.Header.Get("x-read"), length, resp.Trailer)
					}
				case err != nil && !leaves && do == "":
					t.Errorf("%s: %v after %d bytes of %d", method, err, len(body), size)
				}
			}
			c.CloseIdleConnections()
		})
	}
	wg.Wait()
	web.stop()
	server.stop()
	for _, r := range []*running{web, server} {
		if n, used := r.rec.Live(), r.Room().Used(); n != 0 || used != 0 {
			t.Errorf("%d live counts and %d bytes of room are left", n, used)
		}
	}
	exchanges, delivered := len(server.rec.Closed(flow.KindExchange)), 0
	for _, a := range web.rec.Closed(flow.KindAttempt) {
		if a.Delivered {
			delivered++
		}
	}
	if exchanges != delivered {
		for _, a := range web.rec.Closed(flow.KindAttempt) {
			if !a.Delivered {
				t.Logf("not delivered: %s %s: %s %s", a.Method, a.RequestID, a.Reason, a.Detail)
				for _, e := range server.rec.Closed(flow.KindExchange) {
					if e.RequestID == a.RequestID {
						t.Logf("at the server: %s %s: %d %s %s", e.Method, e.RequestID, e.Status, e.Reason, e.Detail)
					}
				}
			}
		}
	}
	if n := int64(len(web.rec.Closed(flow.KindExchange))); n > sent.Load() || exchanges != delivered || whole.Load() == 0 {
		t.Errorf("%d requests sent, %d exchanges; %d attempts delivered, %d exchanges at the server; %d whole answers", sent.Load(), n, delivered, exchanges, whole.Load())
	}
}

// endlessly is a body.
type endlessly struct{}

func (endlessly) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'b'
	}
	return len(p), nil
}
