package sidecar

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// streamed is what became of one exchange.
type streamed struct {
	status   int
	took     time.Duration
	got      int   // bytes of the answer
	err      error // of reading it
	ours     flow.Record
	theirs   flow.Record
	attempts []flow.Record
}

// inMemoryMesh is two sidecars with mTLS between them, in virtual time: one in front of what serves connections until it is stopped, one whose application calls it by a rule.
func inMemoryMesh(t *testing.T, speaks flow.Protocol, serve func(net.Listener) (stop func()), timeouts route.Timeouts, inbound time.Duration, test func(t *testing.T, web, shop *running, dial func(context.Context) (net.Conn, error))) {
	emptyPools()
	defer emptyPools()
	ca := testmesh.NewCA(t)
	synctest.Test(t, func(t *testing.T) {
		w := &randomWorld{t: t, net: testmesh.NewNet()}
		app, back, front := netip.AddrPortFrom(host(1, 1), 80), netip.AddrPortFrom(host(1, 1), 15006), netip.AddrPortFrom(host(0, 1), 80)
		l, err := w.net.Listen(app)
		if err != nil {
			t.Fatal(err)
		}
		stop := serve(l)
		theirs := serverSnapshot("shop", app, policy.ModeStrict, speaks)
		in := &theirs.Listeners[0]
		in.Address, in.StreamTimeout, in.RequestTimeout = back, inbound, 20*time.Second // of two clocks that end at once it is chance who is blamed
		shop := w.launch(w.checked(theirs), ca.Holder("shop"), host(1, 1), time.Second)
		action := route.Action{Timeouts: timeouts, Backends: []route.Backend{{Service: "shop", Weight: 1}}}
		ours := ruled(t, clientSnapshot(mesh("shop"), back), "shop", route.Rule{Name: "r", Action: action})
		ours.Listeners[0].Address = front
		web := w.launch(w.checked(ours), ca.Holder("web"), host(0, 1), time.Second)
		from := w.net.Dialer(host(3, 1))
		test(t, web, shop, func(ctx context.Context) (net.Conn, error) { return from(ctx, front) })
		web.stop()
		shop.stop()
		stop()
		if n := w.net.Open(); n != 0 {
			t.Errorf("%d ends of connections are left open", n)
		}
		if n := web.Room().Used() + shop.Room().Used(); n != 0 {
			t.Errorf("%d bytes of buffers are left in use", n)
		}
	})
}

// stream sends one request through such a mesh; take reads the answer.
func stream(t *testing.T, from, to flow.Protocol, h http.HandlerFunc, timeouts route.Timeouts, inbound time.Duration, request func() *http.Request, take func(io.Reader) (int, error)) (out streamed) {
	protocols := func(p flow.Protocol) *http.Protocols {
		var only http.Protocols
		only.SetHTTP1(p == flow.ProtocolHTTP1)
		only.SetUnencryptedHTTP2(p == flow.ProtocolHTTP2)
		return &only
	}
	serve := func(l net.Listener) func() {
		srv := &http.Server{Protocols: protocols(to), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			h(w, r)
		})}
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = srv.Serve(l)
		}()
		return func() {
			_ = srv.Close()
			<-served
			time.Sleep(10 * time.Second) // whoever writes to the request's body notices
		}
	}
	inMemoryMesh(t, to, serve, timeouts, inbound, func(t *testing.T, web, shop *running, dial func(context.Context) (net.Conn, error)) {
		tr := &http.Transport{Protocols: protocols(from), DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
		began := time.Now()
		r := request()
		resp, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		out.status = resp.StatusCode
		out.got, out.err = take(resp.Body)
		out.took = time.Since(began)
		_ = resp.Body.Close()
		if r.Body != nil { // its writer ends
			_ = r.Body.Close()
		}
		tr.CloseIdleConnections()
		web.stop()
		shop.stop()
		a, b := web.rec.Closed(flow.KindExchange), shop.rec.Closed(flow.KindExchange)
		if len(a) != 1 || len(b) != 1 {
			t.Fatalf("%d and %d Records of one exchange", len(a), len(b))
		}
		out.ours, out.theirs, out.attempts = a[0], b[0], web.rec.Closed(flow.KindAttempt)
	})
	return out
}

// beats writes n times, at once and then every 5 s.
func beats(kind string, n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", kind)
		for i := range n {
			if i > 0 {
				select {
				case <-time.After(5 * time.Second):
				case <-r.Context().Done():
					return
				}
			}
			if _, err := io.WriteString(w, "data: x\n\n"); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
	}
}

// download is an answer of known length in 13 parts, one each 5 s; of those it sends n, and waits for so many seconds then.
func download(n, wait int) http.HandlerFunc {
	part := bytes.Repeat([]byte("x"), exchange.BulkBytes/13+1)
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(13*len(part)))
		for i := range n {
			if i > 0 {
				select {
				case <-time.After(5 * time.Second):
				case <-r.Context().Done():
					return
				}
			}
			if _, err := w.Write(part); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
		select {
		case <-time.After(time.Duration(wait) * time.Second):
		case <-r.Context().Done():
		}
	}
}

func toEnd(r io.Reader) (int, error) {
	b, err := io.ReadAll(r)
	return len(b), err
}

// What bounds a stream, of each version of HTTP and from each to each: its nature, its rule's stream and idle timeouts, its caller's word.
func TestStreams(t *testing.T) {
	get := func() *http.Request {
		r, _ := http.NewRequest("GET", "http://shop/", nil)
		return r
	}
	const events, bytesOf13 = "text/event-stream; charset=utf-8", 13 * 9
	for _, c := range []struct {
		name    string
		serve   http.HandlerFunc
		action  route.Timeouts
		inbound time.Duration // what the controller tells the sidecar in front
		request func() *http.Request
		take    func(io.Reader) (int, error)
		after   time.Duration // at the earliest, and a second later at the latest
		got     int           // at least
		reason  flow.Reason
	}{
		{"events go on", beats(events, 13), route.Timeouts{}, 0, get, toEnd, 60 * time.Second, bytesOf13, flow.ReasonNone},
		{"a long answer does not", beats("text/plain", 13), route.Timeouts{}, 0, get, toEnd, 15 * time.Second, 18, flow.ReasonRequestTimeout},
		{"but where its rule says so", beats("text/plain", 13), route.Timeouts{Stream: -1}, -1, get, toEnd, 60 * time.Second, bytesOf13, flow.ReasonNone},
		{"or for so long", beats("text/plain", 13), route.Timeouts{Stream: 42 * time.Second}, -1, get, toEnd, 42 * time.Second, 9 * 9, flow.ReasonStreamTimeout},
		{"events for so long", beats(events, 13), route.Timeouts{Stream: 12 * time.Second}, -1, get, toEnd, 12 * time.Second, 3 * 9, flow.ReasonStreamTimeout},
		{"a download", download(13, 0), route.Timeouts{}, 0, get, toEnd, 60 * time.Second, exchange.BulkBytes, flow.ReasonNone},
		{"a download that stops", download(4, 1000), route.Timeouts{}, 0, get, toEnd, 30 * time.Second, exchange.BulkBytes / 13, flow.ReasonIdleTimeout},
		{"silence", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", events)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, route.Timeouts{Idle: 20 * time.Second}, 0, get, toEnd, 20 * time.Second, 0, flow.ReasonIdleTimeout},
		{"silence in an ordinary answer", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write([]byte("hello"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, route.Timeouts{Idle: 5 * time.Second}, 0, get, toEnd, 15 * time.Second, 5, flow.ReasonRequestTimeout},
		{"a silence that is short enough", beats(events, 13), route.Timeouts{Idle: 6 * time.Second}, 0, get, toEnd, 60 * time.Second, bytesOf13, flow.ReasonNone},
		{"the caller's time", beats(events, 13), route.Timeouts{Stream: time.Hour}, -1, func() *http.Request {
			r := get()
			r.Header.Set("x-request-timeout-ms", "27000")
			return r
		}, toEnd, 27 * time.Second, 6 * 9, flow.ReasonRequestTimeout},
		{"a caller that does not read", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", events)
			block := bytes.Repeat([]byte("data: x\n\n"), 4096)
			for r.Context().Err() == nil {
				if _, err := w.Write(block); err != nil {
					return
				}
			}
		}, route.Timeouts{Idle: 20 * time.Second}, 0, get, func(r io.Reader) (int, error) {
			time.Sleep(25 * time.Second)
			n, err := io.Copy(io.Discard, r)
			return int(n), err
		}, 25 * time.Second, 1, flow.ReasonIdleTimeout},
		{"an upload after the answer has begun", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.(http.Flusher).Flush()
			n, _ := io.Copy(io.Discard, r.Body)
			_, _ = w.Write(make([]byte, n))
		}, route.Timeouts{Stream: -1}, -1, upload, toEnd, 60 * time.Second, 13, flow.ReasonNone},
		{"an upload that takes too long", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/plain")
			w.(http.Flusher).Flush()
			_, _ = io.Copy(io.Discard, r.Body)
		}, route.Timeouts{Stream: 32 * time.Second}, -1, upload, toEnd, 32 * time.Second, 0, flow.ReasonStreamTimeout},
		{"no answer at all", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, route.Timeouts{Stream: time.Hour}, -1, get, toEnd, 15 * time.Second, 1, flow.ReasonRequestTimeout},
	} {
		for _, v := range [][2]flow.Protocol{
			{flow.ProtocolHTTP1, flow.ProtocolHTTP1}, {flow.ProtocolHTTP2, flow.ProtocolHTTP2}, {flow.ProtocolHTTP1, flow.ProtocolHTTP2}, {flow.ProtocolHTTP2, flow.ProtocolHTTP1},
		} {
			t.Run(c.name+", "+v[0].String()+" to "+v[1].String(), func(t *testing.T) {
				out := stream(t, v[0], v[1], c.serve, c.action, c.inbound, c.request, c.take)
				ended := c.reason == flow.ReasonNone || out.status >= 500
				if (out.err == nil) != ended || out.got < c.got || out.took < c.after || out.took > c.after+time.Second {
					t.Errorf("%d, %d bytes in %s, %v", out.status, out.got, out.took, out.err)
				}
				if c.name == "the caller's time" && out.theirs.Reason == c.reason { // both have it, and it is chance who is the first
					return
				}
				if out.ours.Reason != c.reason || len(out.attempts) != 1 || out.attempts[0].Reason != c.reason || c.reason == flow.ReasonNone && out.theirs.Reason != c.reason {
					t.Errorf("reason %q (%s), of the try %v, at the other side %q (%s)", out.ours.Reason, out.ours.Detail, out.attempts, out.theirs.Reason, out.theirs.Detail)
				}
			})
		}
	}
}

// upload sends a byte at once and then one every 5 s, 13 in all.
func upload() *http.Request {
	pr, pw := io.Pipe()
	go func() {
		for i := range 13 {
			if i > 0 {
				time.Sleep(5 * time.Second)
			}
			if _, err := pw.Write([]byte("x")); err != nil {
				return
			}
		}
		_ = pw.Close()
	}()
	r, _ := http.NewRequest("POST", "http://shop/", pr)
	return r
}

// grpc-go watches the health of a service, of which it hears at once and then after 40 s, and is asked one thing: a call that has begun to be answered is bounded by its caller's
// deadline, by silence and by what policy says of streams, and not by the request timeout.
func TestGRPCStreams(t *testing.T) {
	for _, c := range []struct {
		name     string
		timeouts route.Timeouts
		inbound  time.Duration
		deadline time.Duration // of the caller; 0: none
		heard    int
		after    time.Duration // it was ended
		code     codes.Code
		reason   flow.Reason
	}{
		{"it goes on", route.Timeouts{}, 0, 0, 2, time.Minute, codes.Canceled, flow.ReasonDownstreamReset},
		{"the caller's deadline", route.Timeouts{}, 0, 27 * time.Second, 1, 27 * time.Second, codes.DeadlineExceeded, flow.ReasonDownstreamReset},
		{"silence", route.Timeouts{Idle: 25 * time.Second}, 0, 0, 1, 25 * time.Second, codes.Canceled, flow.ReasonIdleTimeout},
		{"it is short enough", route.Timeouts{Idle: 45 * time.Second}, 0, 0, 2, time.Minute, codes.Canceled, flow.ReasonDownstreamReset},
		{"its time is over", route.Timeouts{Stream: 50 * time.Second}, -1, 0, 2, 50 * time.Second, codes.Canceled, flow.ReasonStreamTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			status := health.NewServer()
			serve := func(l net.Listener) func() {
				srv := grpc.NewServer()
				healthpb.RegisterHealthServer(srv, status)
				served := make(chan struct{})
				go func() {
					defer close(served)
					_ = srv.Serve(l)
				}()
				return func() {
					srv.Stop()
					<-served
				}
			}
			inMemoryMesh(t, flow.ProtocolGRPC, serve, c.timeouts, c.inbound, func(t *testing.T, web, shop *running, dial func(context.Context) (net.Conn, error)) {
				conn, err := grpc.NewClient("passthrough:///shop", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }))
				if err != nil {
					t.Fatal(err)
				}
				began, limit := time.Now(), time.Minute
				ctx, cancel := context.WithCancel(t.Context())
				if c.deadline > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), c.deadline)
				}
				end := time.AfterFunc(limit, cancel)
				change := time.AfterFunc(40*time.Second, func() { status.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING) })
				watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
				if err != nil {
					t.Fatal(err)
				}
				heard := 0
				for ; ; heard++ {
					if _, err = watch.Recv(); err != nil {
						break
					}
				}
				if took := time.Since(began); grpcstatus.Code(err) != c.code || heard != c.heard || took < c.after || took > c.after+time.Second {
					t.Errorf("%d messages in %s, %v", heard, took, err)
				}
				end.Stop()
				change.Stop()
				cancel()
				_ = conn.Close()
				web.stop()
				shop.stop()
				a := web.rec.Closed(flow.KindExchange)
				if len(a) != 1 || c.deadline == 0 && a[0].Reason != c.reason || c.deadline > 0 && a[0].Reason != flow.ReasonRequestTimeout && a[0].Reason != c.reason { // the caller gives up at the same time
					t.Errorf("%+v", a)
				}
			})
		})
	}
}
