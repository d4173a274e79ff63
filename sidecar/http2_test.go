package sidecar

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// h2app starts an application that speaks HTTP/2 by prior knowledge, and nothing else.
func h2app(t testing.TB, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var only http.Protocols
	only.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: &only, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// h2client speaks HTTP/2 by prior knowledge.
func h2client(t testing.TB) *http.Client {
	var only http.Protocols
	only.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: &only, DisableCompression: true}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func TestHTTP2TwoSidecars(t *testing.T) {
	ca := testmesh.NewCA(t)
	for _, mtls := range []bool{false, true} {
		t.Run(fmt.Sprint("mtls ", mtls), func(t *testing.T) {
			var mu sync.Mutex
			var seen http.Header
			var path string
			target := h2app(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				seen, path = r.Header.Clone(), r.URL.String()
				mu.Unlock()
				w.Header().Set("x-tulle-reason", "denied")
				w.Header().Set("Trailer", "Sum")
				_, _ = w.Write(body)
				w.Header().Set("Sum", fmt.Sprint(len(body)))
			})
			mode, sv := policy.ModePermissive, policy.Service{Name: "catalog", Protocol: flow.ProtocolHTTP, External: true}
			if mtls {
				mode, sv = policy.ModeStrict, mesh("catalog")
			}
			server := start(t, serverSnapshot("catalog", target, mode, flow.ProtocolHTTP), ca.Holder("catalog"), time.Second)
			web := start(t, clientSnapshot(sv, server.addr(t, "inbound")), ca.Holder("web"), time.Second)
			c := h2client(t)
			for _, size := range []int{0, 5, 20_000, 3 << 20} {
				sent := make([]byte, size)
				_, _ = rand.Read(sent)
				req, _ := http.NewRequest("POST", "http://"+web.addr(t, "outbound").String()+"/a/../items/7?secret=1", bytes.NewReader(sent))
				req.Header.Set("x-tulle-reason", "spoofed")
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != 200 || !bytes.Equal(body, sent) || resp.Trailer.Get("Sum") != fmt.Sprint(size) {
					t.Fatalf("size %d: %d, %d bytes, trailers %v, %v", size, resp.StatusCode, len(body), resp.Trailer, err)
				}
				_ = resp.Body.Close()
				if v := resp.Header.Get("x-tulle-reason") + resp.Header.Get("x-tulle-timing"); v != "" {
					t.Errorf("%q reached the caller", v)
				}
			}
			mu.Lock()
			if seen.Get("x-tulle-reason") != "" || path != "/items/7?secret=1" || seen.Get("traceparent") == "" || seen.Get("x-request-id") == "" {
				t.Errorf("the application saw %q %v", path, seen)
			}
			mu.Unlock()
			c.CloseIdleConnections()
			web.stop()
			server.stop()
			ex, at, se := web.rec.Closed(flow.KindExchange), web.rec.Closed(flow.KindAttempt), server.rec.Closed(flow.KindExchange)
			if len(ex) != 4 || len(at) != 4 || len(se) != 4 {
				t.Fatalf("%d exchanges, %d attempts, %d at the server", len(ex), len(at), len(se))
			}
			byID := map[string]flow.Record{} // the order is that of their ends
			for _, s := range se {
				byID[s.RequestID] = s
			}
			for i, e := range ex {
				s := byID[e.RequestID]
				if e.Protocol != flow.ProtocolHTTP2 || !e.Answered || e.Status != 200 || e.Reason != flow.ReasonNone || e.BytesIn != s.BytesIn || e.BytesOut != e.BytesIn {
					t.Errorf("client: %+v", e)
				}
				if s.Trace.ParentID != e.Trace.SpanID || !at[i].Delivered || s.Path != "/items/7" || s.RequestID != e.RequestID {
					t.Errorf("server: %+v", s)
				}
				if mtls && (!e.Far.Known() || s.Source.Identity != testmesh.ID("web").String()) {
					t.Errorf("mesh: far %+v, source %+v", e.Far, s.Source)
				}
				if l := e.Legs; l.HeadParsed < 0 || l.Queued < l.HeadParsed || l.Sent < l.Queued || l.FirstByte < 0 || l.LastByte < l.FirstByte {
					t.Errorf("legs: %+v", l)
				}
			}
			if n := web.rec.Live() + server.rec.Live(); n != 0 {
				t.Errorf("%d live counts are left", n)
			}
			if n := web.Room().Used() + server.Room().Used(); n != 0 {
				t.Errorf("%d bytes of room are left", n)
			}
			if n := len(web.rec.Closed(flow.KindConnection)) + len(server.rec.Closed(flow.KindConnection)); n != 0 {
				t.Errorf("%d connections were reported", n)
			}
		})
	}
}

// Many streams at a time over one connection: none is lost or mixed up.
func TestHTTP2Concurrent(t *testing.T) {
	up := h2app(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})
	r := start(t, clientSnapshot(external(nil), up), &identity.Holder{}, time.Second)
	c := h2client(t)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			for j := range 20 {
				want := strings.Repeat(fmt.Sprint(i, ".", j, ","), 1+i*j)
				resp, err := c.Post("http://"+r.addr(t, "outbound").String()+"/", "text/plain", strings.NewReader(want))
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				if err != nil || string(got) != want {
					t.Errorf("%d.%d: got %d bytes, want %d: %v", i, j, len(got), len(want), err)
				}
			}
		})
	}
	wg.Wait()
	c.CloseIdleConnections()
	r.stop()
	if n := len(r.rec.Closed(flow.KindExchange)); n != 2000 {
		t.Errorf("%d Records of 2000 exchanges", n)
	}
	if n := r.Room().Used(); n != 0 {
		t.Errorf("%d bytes of room are left", n)
	}
}
