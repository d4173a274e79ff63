package sidecar

import (
	"bufio"
	"bytes"
	"context"
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// wire is an OTLP server that keeps every byte it gets, and what a log or a page got.
type wire struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.Write(b)
}

// anyMessage is a codec that leaves messages as they are.
type anyMessage struct{}

func (anyMessage) Name() string { return "proto" }

func (anyMessage) Marshal(any) ([]byte, error) { return nil, nil }

func (anyMessage) Unmarshal(b []byte, v any) error {
	*v.(*[]byte) = bytes.Clone(b)
	return nil
}

var _ encoding.Codec = anyMessage{}

// observerAt serves every gRPC method by keeping what it is sent.
func observerAt(t *testing.T, w *wire) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.ForceServerCodec(anyMessage{}), grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		var b []byte
		if err := s.RecvMsg(&b); err != nil {
			return err
		}
		_, _ = w.Write(b)
		return s.SendMsg(nil)
	}))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Stop()
		<-done
	})
	return l.Addr().String()
}

// told is one sidecar with all its telemetry; stop drains both and then asks for both forms of /metrics.
func told(t *testing.T, snap *policy.Snapshot, holder *identity.Holder, spans, log, page *wire, format telemetry.LogFormat) (addr func(string) netip.AddrPort, stop func()) {
	t.Helper()
	tel := telemetry.New(telemetry.Config{
		Workload: snap.Workload, Target: observerAt(t, spans), AccessLog: log, AccessLogFormat: format, Log: slog.New(slog.NewTextHandler(log, nil)),
	})
	s, err := New(Config{
		Policy: policy.Static{Snapshot: snap}, Identity: holder, Recorder: tel, DrainTimeout: time.Second,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	tel.Saturation(s.Saturation)
	var telling, carrying sync.WaitGroup
	telCtx, telStop := context.WithCancel(context.Background())
	ctx, sideStop := context.WithCancel(context.Background())
	ready := make(chan struct{})
	telling.Go(func() { _ = tel.Run(telCtx, func() {}) })
	carrying.Go(func() { _ = s.Run(ctx, func() { close(ready) }) })
	<-ready
	var once sync.Once
	stop = func() {
		once.Do(func() {
			sideStop()
			carrying.Wait()
			tel.WritePrometheus(page)
			tel.WriteOpenMetrics(page)
			telStop()
			telling.Wait()
		})
	}
	t.Cleanup(stop)
	return func(name string) netip.AddrPort { return s.Addresses()[name].(*net.TCPAddr).AddrPort() }, stop
}

// Whatever a caller and an application say in a query string, a cookie, a credential or a body, and however it goes wrong, nothing of it is in a
// span, a metric, a line of the access log, a line of the sidecar's own log, or on /metrics. It goes through all the same.
func TestNothingPrivateLeaves(t *testing.T) {
	const secret = "S3CR3T"
	for _, format := range []telemetry.LogFormat{telemetry.LogJSON, telemetry.LogText} {
		t.Run(fmt.Sprint(format), func(t *testing.T) {
			var through sync.Map // parts of requests that the application got
			app := scripted(t, func(c net.Conn, r *bufio.Reader) {
				for {
					req, err := http.ReadRequest(r)
					if err != nil {
						return
					}
					body, err := io.ReadAll(req.Body)
					through.Store(req.URL.Path, req.URL.RawQuery+req.Header.Get("Cookie")+req.Header.Get("Authorization")+string(body))
					if err != nil {
						return
					}
					answer := "HTTP/1.1 200 OK\r\nSet-Cookie: id=" + secret + "\r\nLocation: /x?" + secret + "\r\nX-Custom: " + secret + "\r\nContent-Length: 6\r\n\r\n" + secret
					switch req.URL.Path {
					case "/fails":
						answer = strings.Replace(answer, "200 OK", "500 "+secret, 1)
					case "/unavailable":
						answer = strings.Replace(answer, "200 OK", "503 "+secret, 1)
					case "/malformed":
						answer = "HTTP/1.1 200 OK\r\nBad Header " + secret + "\r\n\r\n"
					case "/garbage":
						answer = secret + " " + secret + "\r\n\r\n"
					case "/badchunk":
						answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n" + secret + "\r\n" + secret + "\r\n"
					case "/cut":
						answer = "HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n" + secret
					case "/closes":
						return
					}
					if _, err := io.WriteString(c, answer); err != nil || strings.HasPrefix(answer, secret) || !strings.Contains(answer, "Content-Length: 6\r") {
						return
					}
				}
			})
			ca := testmesh.NewCA(t)
			var spans, log, page wire
			there := serverSnapshot("catalog", app, policy.ModeStrict, flow.ProtocolHTTP)
			inbound, stopThere := told(t, there, ca.Holder("catalog"), &spans, &log, &page, format)
			here := clientSnapshot(mesh("catalog"), inbound("inbound"))
			here.Telemetry.Headers = []string{"x-path", "location"} // allowed, and still without a query string
			outbound, stopHere := told(t, here, ca.Holder("web"), &spans, &log, &page, format)

			send := func(text string) {
				t.Helper()
				c, err := net.Dial("tcp", outbound("outbound").String())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(10 * time.Second))
				_, _ = io.WriteString(c, text)
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, c)
			}
			head := func(path string) string {
				return "POST " + path + "?card=" + secret + " HTTP/1.1\r\nHost: catalog\r\nCookie: id=" + secret + "\r\nAuthorization: Bearer " + secret +
					"\r\nProxy-Authorization: Basic " + secret + "\r\nX-Api-Key: " + secret + "\r\nReferer: http://a/?" + secret + "\r\nX-Path: /a?b=" + secret + "\r\n"
			}
			paths := []string{"/ok", "/fails", "/unavailable", "/malformed", "/garbage", "/badchunk", "/cut", "/closes"}
			for _, path := range paths {
				send(head(path) + "Content-Length: 6\r\n\r\n" + secret)
			}
			send(head("/chunked") + "Transfer-Encoding: chunked\r\nTrailer: x\r\n\r\n6\r\n" + secret + "\r\n0\r\n\r\n")
			for _, bad := range []string{
				head("/badbody") + "Transfer-Encoding: chunked\r\n\r\n" + secret + "\r\n", // no chunk
				head("/short") + "Content-Length: 600\r\n\r\n" + secret,                   // the caller leaves
				head("/both") + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n" + secret,
				head("/badfield") + "Bad Header " + secret + ": x\r\n\r\n",
				"POST /" + "\x01?" + secret + " HTTP/1.1\r\nHost: catalog\r\n\r\n",
				"GET http://user:" + secret + "@catalog/absolute?" + secret + "#" + secret + " HTTP/1.1\r\nHost: catalog\r\n\r\n",
				"GET /x?" + secret + " HTTP/9.9\r\n\r\n",
				secret + secret + "\r\n\r\n",
			} {
				send(bad)
			}
			stopHere()
			stopThere()
			for _, path := range append(paths, "/chunked") {
				got, _ := through.Load(path)
				if s, _ := got.(string); strings.Count(s, secret) != 4 {
					t.Errorf("%s: the application got %q, want query, cookie, credential and body", path, got)
				}
			}
			for _, w := range []struct {
				name string
				*wire
				has []string // proof that something was looked at
			}{
				{"spans and metrics", &spans, []string{"/unavailable", "upstream_protocol_error", "tulle.exchanges", "http.request.header.x-path"}},
				{"log", &log, []string{"/badchunk", "503"}},
				{"/metrics", &page, []string{"tulle_requests_total{", "# EOF", `reason="bad_request"`}},
			} {
				text := w.all.String()
				for _, want := range w.has {
					if !strings.Contains(text, want) {
						t.Errorf("%s: %q is missing in %d bytes", w.name, want, len(text))
					}
				}
				if i := strings.Index(text, secret); i >= 0 {
					t.Errorf("%s: a secret left the sidecar: …%q…", w.name, text[max(0, i-200):min(len(text), i+50)])
				}
			}
		})
	}
}
