package sidecar

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// bridged are the two ways between the versions, by the last of two sidecars: to its application. Callers and applications are net/http's.
var bridged = []struct {
	name   string
	caller func(testing.TB) *http.Client
	came   flow.Protocol
	app    func(testing.TB, http.HandlerFunc) netip.AddrPort
	speaks flow.Protocol
	proto  string // what the application sees
}{
	{"down", h2client, flow.ProtocolHTTP2, app, flow.ProtocolHTTP1, "HTTP/1.1"},
	{"up", client, flow.ProtocolHTTP1, h2app, flow.ProtocolHTTP2, "HTTP/2.0"},
}

// mirror answers with what it was asked.
func mirror(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Has("hint") {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(103)
	}
	sum := sha256.New()
	n, err := io.Copy(sum, r.Body)
	h := w.Header()
	h.Set("X-Proto", r.Proto)
	h.Set("X-Asked", r.Method+" "+r.RequestURI+" "+r.Host)
	h.Set("X-Read", fmt.Sprint(n, " ", err, " ", r.Trailer.Get("Sent"), " ", hex.EncodeToString(sum.Sum(nil))))
	h["X-Cookie"] = r.Header["Cookie"]
	h["X-Lines"] = r.Header["X-Line"]
	h.Set("X-Hop", r.Header.Get("Upgrade")+r.Header.Get("Keep-Alive")+r.Header.Get("X-Tulle-Reason"))
	h.Set("X-Trace", r.Header.Get("Traceparent")+r.Header.Get("X-Request-Id"))
	h["Set-Cookie"] = []string{"a=1", "b=2"}
	h.Set("X-Tulle-Reason", "denied")
	h.Set("Trailer", "Sum")
	status, _ := strconv.Atoi(q.Get("status"))
	w.WriteHeader(max(status, 200))
	size, _ := strconv.Atoi(q.Get("size"))
	_, _ = w.Write(bytes.Repeat([]byte("m"), size))
	h.Set("Sum", strconv.Itoa(size))
}

// Requests and responses of every form keep their meaning over a bridge behind two sidecars, whose Records say the same.
func TestBridge(t *testing.T) {
	for _, v := range bridged {
		t.Run(v.name, func(t *testing.T) {
			ca := testmesh.NewCA(t)
			server := start(t, serverSnapshot("catalog", v.app(t, mirror), policy.ModeStrict, v.speaks), ca.Holder("catalog"), time.Second)
			web := start(t, clientSnapshot(mesh("catalog"), server.addr(t, "inbound")), ca.Holder("web"), time.Second)
			c := v.caller(t)
			n := 0
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"} {
				for _, status := range []int{200, 204, 304, 404, 500} {
					for _, size := range []int{0, 7, 40_000, 2 << 20} {
						if status == 204 || status == 304 {
							size = 0
						}
						body := bytes.Repeat([]byte("0123456789"), size/10)
						var hints atomic.Int32
						ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
							if code == 103 && h.Get("Link") != "" {
								hints.Add(1)
							}
							return nil
						}})
						var from io.Reader = bytes.NewReader(body)
						known := size%4 == 3
						if !known { // its length is not
							from = io.MultiReader(from)
						}
						bodiless := method == "GET" || method == "HEAD"
						if bodiless {
							from, body = nil, nil
						}
						path := fmt.Sprintf("/it%%20is/x?status=%d&size=%d&hint", status, size)
						req, err := http.NewRequestWithContext(ctx, method, "http://"+web.addr(t, "outbound").String()+path, from)
						if err != nil {
							t.Fatal(err)
						}
						req.Host = "catalog.shop:8080"
						req.Header = http.Header{"Cookie": {"a=1; b=2"}, "X-Line": {"one", "two"}, "X-Tulle-Reason": {"spoofed"}, "Te": {"trailers"}}
						if !known && len(body) > 0 { // an empty one net/http may leave out
							req.Trailer = http.Header{"Sent": {"yes"}}
						}
						what := fmt.Sprint(method, " ", status, " ", size)
						resp, err := c.Do(req)
						if err != nil {
							t.Fatalf("%s: %v", what, err)
						}
						n++
						got, err := io.ReadAll(resp.Body)
						_ = resp.Body.Close()
						h := resp.Header
						sum := sha256.Sum256(body)
						trailer := ""
						if req.Trailer != nil {
							trailer = "yes"
						}
						for name, want := range map[string]string{
							"X-Proto": v.proto, "X-Asked": method + " " + path + " catalog.shop:8080", "X-Cookie": "a=1; b=2", "X-Lines": "one", "X-Hop": "",
							"X-Read": fmt.Sprint(len(body), " <nil> ", trailer, " ", hex.EncodeToString(sum[:])), "X-Tulle-Reason": "", "X-Tulle-Timing": "",
						} {
							if h.Get(name) != want {
								t.Errorf("%s: %s is %q, want %q", what, name, h.Get(name), want)
							}
						}
						if len(h["X-Lines"]) != 2 || len(h["Set-Cookie"]) != 2 || len(h.Get("X-Trace")) != 55+36 || hints.Load() != 1 {
							t.Errorf("%s: %v, %d hints", what, h, hints.Load())
						}
						if method == "HEAD" {
							size = 0
						}
						if err != nil || resp.StatusCode != status || len(got) != size {
							t.Errorf("%s: %d, %d bytes, %v", what, resp.StatusCode, len(got), err)
						}
						if method != "HEAD" && status != 204 && status != 304 && resp.Trailer.Get("Sum") != strconv.Itoa(size) {
							t.Errorf("%s: trailers %v", what, resp.Trailer)
						}
					}
				}
			}
			c.CloseIdleConnections()
			web.stop()
			server.stop()
			for _, r := range []*running{web, server} {
				ex := r.rec.Closed(flow.KindExchange)
				if len(ex) != n {
					t.Fatalf("%d of %d exchanges", len(ex), n)
				}
				for _, e := range ex {
					if e.Protocol != v.came || !e.Answered || (e.Reason != flow.ReasonNone) != (e.Status == 500) {
						t.Errorf("%+v", e)
					}
					if l := e.Legs; l.HeadParsed < 0 || l.Queued < l.HeadParsed || l.Sent < l.Queued || l.FirstByte < 0 || l.LastByte < l.FirstByte {
						t.Errorf("legs: %+v", l)
					}
				}
				if live, used := r.rec.Live(), r.Room().Used(); live != 0 || used != 0 {
					t.Errorf("%d live counts and %d bytes of room are left", live, used)
				}
			}
			for i, e := range web.rec.Closed(flow.KindExchange) {
				if !e.Far.Known() {
					t.Errorf("exchange %d does not know the far side's times", i)
				}
			}
		})
	}
}

// A service that answers before it has read everything, one that breaks off, one that is away, and a caller that leaves.
func TestBridgeFailures(t *testing.T) {
	for _, v := range bridged {
		t.Run(v.name, func(t *testing.T) {
			entered := make(chan struct{}, 1)
			left := make(chan struct{})
			target := v.app(t, func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/early":
					w.WriteHeader(413)
				case "/cut":
					w.Header().Set("Content-Length", "10")
					_, _ = io.WriteString(w, "12345")
					_ = http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				case "/gone":
					panic(http.ErrAbortHandler)
				case "/wait":
					entered <- struct{}{}
					if _, err := io.Copy(io.Discard, r.Body); err == nil {
						t.Error("a body that was cut looks whole")
					}
					close(left)
				}
			})
			sv := external(func(s *policy.Service) { s.Protocol, s.RequestTimeout = v.speaks, 10*time.Second })
			r := start(t, clientSnapshot(sv, target), &identity.Holder{}, time.Second)
			c := v.caller(t)
			url := "http://" + r.addr(t, "outbound").String()
			resp, err := c.Post(url+"/early", "text/plain", strings.NewReader(strings.Repeat("x", 1<<20)))
			if err != nil || resp.StatusCode != 413 {
				t.Errorf("an early answer: %v %v", resp, err)
			} else {
				_ = resp.Body.Close()
			}
			resp, err = c.Get(url + "/cut")
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(resp.Body); err == nil && resp.StatusCode != 502 { // the end may be known before the beginning has gone on
				t.Errorf("a cut response looks whole: %q", b)
			}
			_ = resp.Body.Close()
			resp, err = c.Post(url+"/gone", "", nil)
			if err != nil || resp.StatusCode != 502 || resp.Header.Get("X-Tulle-Reason") != "upstream_reset" {
				t.Errorf("a service that breaks off: %v %v", resp, err)
			} else {
				_ = resp.Body.Close()
			}
			ctx, leave := context.WithCancel(t.Context())
			go func() {
				<-entered
				leave()
			}()
			req, _ := http.NewRequestWithContext(ctx, "POST", url+"/wait", io.MultiReader(strings.NewReader("x"), blocked{ctx}))
			if resp, err := c.Do(req); err == nil {
				_ = resp.Body.Close()
				t.Errorf("answered %d", resp.StatusCode)
			}
			<-left // the service learns of it
			c.CloseIdleConnections()
			r.stop()
			var reasons []string
			for _, e := range r.rec.Closed(flow.KindExchange) {
				if e.Path == "/cut" && e.Status == 502 {
					e.Status = 200
				}
				reasons = append(reasons, fmt.Sprint(e.Path, " ", e.Status, " ", e.Reason))
			}
			slices.Sort(reasons)
			want := "/cut 200 upstream_reset|/early 413 |/gone 502 upstream_reset|/wait 0 downstream_reset"
			if got := strings.Join(reasons, "|"); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if live, used := r.rec.Live(), r.Room().Used(); live != 0 || used != 0 {
				t.Errorf("%d live counts and %d bytes of room are left", live, used)
			}
		})
	}
}

// blocked is a body that does not go on.
type blocked struct{ ctx context.Context }

func (b blocked) Read([]byte) (int, error) {
	<-b.ctx.Done()
	return 0, b.ctx.Err()
}

// upAndDown starts two sidecars between which HTTP/2 is spoken, before an application that speaks HTTP/1.1: two bridges.
func upAndDown(t *testing.T, target netip.AddrPort) (web, server *running, addr netip.AddrPort) {
	t.Helper()
	server = start(t, serverSnapshot("chat", target, policy.ModePermissive, flow.ProtocolHTTP1), &identity.Holder{}, time.Second)
	web = start(t, clientSnapshot(external(func(s *policy.Service) { s.Protocol = flow.ProtocolHTTP2 }), server.addr(t, "inbound")), &identity.Holder{}, time.Second)
	return web, server, web.addr(t, "outbound")
}
