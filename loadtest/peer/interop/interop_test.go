package interop

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/internal/testmesh/chain"
)

// fatal is what a case of grpc-go says instead of returning an error; it would end the process.
type fatal string

// says panics where grpc-go's logger would exit, so that a case that fails is a test that fails.
type says struct{ grpclog.LoggerV2 }

func (says) Fatal(args ...any)                 { panic(fatal(fmt.Sprint(args...))) }
func (says) Fatalf(format string, args ...any) { panic(fatal(fmt.Sprintf(format, args...))) }
func (says) Fatalln(args ...any)               { panic(fatal(fmt.Sprintln(args...))) }

func TestMain(m *testing.M) {
	grpclog.SetLoggerV2(says{grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)})
	goleak.VerifyTestMain(m)
}

// patience bounds one case.
const patience = 30 * time.Second

// serve starts grpc-go's interoperability server, with health checking and reflection.
func serve(t *testing.T) (netip.AddrPort, *health.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(orca.CallMetricsServerOption(nil))
	testpb.RegisterTestServiceServer(s, interop.NewTestServer())
	h := health.NewServer()
	healthpb.RegisterHealthServer(s, h)
	reflection.Register(s)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort(), h
}

// way is one of the ways from client to server.
type way struct {
	name     string
	at       netip.AddrPort
	web, app *chain.Sidecar // nil without sidecars
}

// ways are those to an application: without Tulle, which proves the test, and through two sidecars.
func ways(t *testing.T, app netip.AddrPort) []way {
	t.Helper()
	ca := testmesh.NewCA(t)
	plain := chain.Inbound(t, ca.Holder(chain.Service), app, policy.ModePermissive)
	secure := chain.Inbound(t, ca.Holder(chain.Service), app, policy.ModeStrict)
	toPlain := chain.Outbound(t, ca.Holder(chain.Caller), plain.At, false)
	toSecure := chain.Outbound(t, ca.Holder(chain.Caller), secure.At, true)
	return []way{{"direct", app, nil, nil}, {"plaintext", toPlain.At, toPlain, plain}, {"mTLS", toSecure.At, toSecure, secure}}
}

func target(at netip.AddrPort) string { return "passthrough:///" + at.String() }

func dial(t *testing.T, at netip.AddrPort, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(target(at), append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// orcaConfig makes the client keep the load reports that came in trailers.
const orcaConfig = `{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`

// cases are those of grpc-go's interoperability client that need no credentials of a cloud, and those of the soak are below. Missing are two that grpc-go's own
// server does not serve outside of grpc-go: pick_first_unary asks for a name that the server does not give, orca_oob for reports more often than every 30 seconds.
var cases = []struct {
	name string
	opts []grpc.DialOption
	run  func(context.Context, *grpc.ClientConn, testpb.TestServiceClient)
}{
	{"empty_unary", nil, plain(interop.DoEmptyUnaryCall)},
	{"large_unary", nil, plain(interop.DoLargeUnaryCall)},
	{"client_streaming", nil, plain(interop.DoClientStreaming)},
	{"server_streaming", nil, plain(interop.DoServerStreaming)},
	{"ping_pong", nil, plain(interop.DoPingPong)},
	{"empty_stream", nil, plain(interop.DoEmptyStream)},
	{"timeout_on_sleeping_server", nil, plain(interop.DoTimeoutOnSleepingServer)},
	{"cancel_after_begin", nil, plain(interop.DoCancelAfterBegin)},
	{"cancel_after_first_response", nil, plain(interop.DoCancelAfterFirstResponse)},
	{"status_code_and_message", nil, plain(interop.DoStatusCodeAndMessage)},
	{"special_status_message", nil, plain(interop.DoSpecialStatusMessage)},
	{"custom_metadata", nil, plain(interop.DoCustomMetadata)},
	{"unimplemented_method", nil, func(ctx context.Context, cc *grpc.ClientConn, _ testpb.TestServiceClient) {
		interop.DoUnimplementedMethod(ctx, cc)
	}},
	{"unimplemented_service", nil, func(ctx context.Context, cc *grpc.ClientConn, _ testpb.TestServiceClient) {
		interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(cc))
	}},
	{"orca_per_rpc", []grpc.DialOption{grpc.WithDefaultServiceConfig(orcaConfig)}, func(ctx context.Context, _ *grpc.ClientConn, c testpb.TestServiceClient) {
		interop.DoORCAPerRPCTest(ctx, c)
	}},
	{"large_unary, compressed", []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name))}, plain(interop.DoLargeUnaryCall)},
	{"ping_pong, compressed", []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name))}, plain(interop.DoPingPong)},
}

func plain(f func(context.Context, testpb.TestServiceClient, ...grpc.CallOption)) func(context.Context, *grpc.ClientConn, testpb.TestServiceClient) {
	return func(ctx context.Context, _ *grpc.ClientConn, c testpb.TestServiceClient) { f(ctx, c) }
}

// attempt runs a case and returns what it would have said before it ended the process.
func attempt(f func()) (err error) {
	defer func() {
		if p := recover(); p != nil {
			text, ok := p.(fatal)
			if !ok {
				panic(p)
			}
			err = errors.New(strings.TrimSpace(string(text)))
		}
	}()
	f()
	return nil
}

func TestInterop(t *testing.T) {
	app, _ := serve(t)
	for _, w := range ways(t, app) {
		t.Run(w.name, func(t *testing.T) {
			shared := dial(t, w.at)
			for _, c := range cases {
				t.Run(c.name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					cc := shared
					if c.opts != nil {
						cc = dial(t, w.at, c.opts...)
					}
					if err := attempt(func() { c.run(ctx, cc, testpb.NewTestServiceClient(cc)) }); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}

// A case that fails is seen, and does not end the tests.
func TestFailuresAreSeen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer() // without the service
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	cc := dial(t, l.Addr().(*net.TCPAddr).AddrPort())
	err = attempt(func() { interop.DoEmptyUnaryCall(t.Context(), testpb.NewTestServiceClient(cc)) })
	if err == nil || !strings.Contains(err.Error(), "Unimplemented") {
		t.Errorf("a server without the service gave %v", err)
	}
}

// rpc_soak and channel_soak in small: many calls at a time over one connection, and each over a connection of its own.
func TestSoak(t *testing.T) {
	said, err := os.Create(filepath.Join(t.TempDir(), "said")) // a line per call
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	defer func(usual *os.File) { os.Stderr = usual }(os.Stderr)
	os.Stderr = said
	app, _ := serve(t)
	for _, w := range ways(t, app) {
		shared := dial(t, w.at)
		for name, c := range map[string]struct {
			iterations int
			channel    func() (*grpc.ClientConn, func())
		}{
			"rpc_soak": {400, func() (*grpc.ClientConn, func()) { return shared, func() {} }},
			"channel_soak": {40, func() (*grpc.ClientConn, func()) {
				cc, err := grpc.NewClient(target(w.at), grpc.WithTransportCredentials(insecure.NewCredentials()))
				if err != nil {
					panic(err) // the target is well-formed
				}
				return cc, func() { cc.Close() }
			}},
		} {
			t.Run(w.name+"/"+name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				if err := attempt(func() {
					interop.DoSoakTest(ctx, interop.SoakTestConfig{
						RequestSize: 27182, ResponseSize: 31415, PerIterationMaxAcceptableLatency: patience, OverallTimeout: patience,
						ServerAddr: w.at.String(), NumWorkers: 8, Iterations: c.iterations, ChannelForTest: c.channel,
					})
				}); err != nil {
					text, _ := os.ReadFile(said.Name())
					t.Errorf("%v; it says:\n%s", err, text)
				}
			})
		}
	}
}

// What grpc.health.v1 says arrives, at once and when it changes.
func TestHealth(t *testing.T) {
	app, h := serve(t)
	const service = "shop.Cart"
	for _, w := range ways(t, app) {
		t.Run(w.name, func(t *testing.T) {
			h.SetServingStatus(service, healthpb.HealthCheckResponse_SERVING)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c := healthpb.NewHealthClient(dial(t, w.at))
			if r, err := c.Check(ctx, &healthpb.HealthCheckRequest{Service: service}); err != nil || r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				t.Errorf("Check: %v %v", r, err)
			}
			if _, err := c.Check(ctx, &healthpb.HealthCheckRequest{Service: "nobody"}); status.Code(err) != codes.NotFound {
				t.Errorf("Check of an unknown service: %v", err)
			}
			watch, err := c.Watch(ctx, &healthpb.HealthCheckRequest{Service: service})
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_SERVING, healthpb.HealthCheckResponse_NOT_SERVING} {
				h.SetServingStatus(service, want)
				if r, err := watch.Recv(); err != nil || r.GetStatus() != want {
					t.Fatalf("Watch: %v %v, want %v", r, err, want)
				}
			}
		})
	}
}

// A client that knows nothing finds the services.
func TestReflection(t *testing.T) {
	app, _ := serve(t)
	for _, w := range ways(t, app) {
		t.Run(w.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			s, err := reflectionpb.NewServerReflectionClient(dial(t, w.at)).ServerReflectionInfo(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
				t.Fatal(err)
			}
			r, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, s := range r.GetListServicesResponse().GetService() {
				names = append(names, s.GetName())
			}
			if !slices.Contains(names, "grpc.testing.TestService") || !slices.Contains(names, "grpc.health.v1.Health") {
				t.Errorf("services %v", names)
			}
			if err := s.CloseSend(); err != nil {
				t.Error(err)
			}
			if _, err := s.Recv(); !errors.Is(err, io.EOF) {
				t.Errorf("the stream ended with %v", err)
			}
		})
	}
}

// Both sidecars say of each call what it was, how it ended and how many messages passed.
func TestRecords(t *testing.T) {
	app, _ := serve(t)
	for _, w := range ways(t, app)[1:] {
		t.Run(w.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c := testpb.NewTestServiceClient(dial(t, w.at))
			if err := attempt(func() { interop.DoEmptyUnaryCall(ctx, c) }); err != nil {
				t.Fatal(err)
			}
			if err := attempt(func() { interop.DoPingPong(ctx, c) }); err != nil {
				t.Fatal(err)
			}
			if _, err := c.UnaryCall(ctx, &testpb.SimpleRequest{ResponseStatus: &testpb.EchoStatus{Code: int32(codes.DataLoss), Message: "lost"}}); status.Code(err) != codes.DataLoss {
				t.Fatal(err)
			}
			for side, s := range map[string]*chain.Sidecar{"web": w.web, "app": w.app} {
				var got []string
				testmesh.Eventually(t, "three Records at "+side, func() bool {
					got = got[:0]
					for _, r := range s.Records.Closed(flow.KindExchange) {
						_, method, _ := strings.Cut(strings.TrimPrefix(r.Path, "/"), "/")
						got = append(got, fmt.Sprintf("%s %s %s %d/%d", r.Protocol, method, r.GRPC, r.MessagesIn, r.MessagesOut))
					}
					return len(got) >= 3
				})
				want := []string{
					flow.ProtocolGRPC.String() + " EmptyCall OK 1/1", flow.ProtocolGRPC.String() + " FullDuplexCall OK 4/4",
					flow.ProtocolGRPC.String() + " UnaryCall DATA_LOSS 1/0",
				}
				if slices.Sort(got); !slices.Equal(got, want) {
					t.Errorf("Records at %s: %q, want %q", side, got, want)
				}
			}
		})
	}
}

// A gRPC-Web call (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md), whose trailers are a frame of the body, passes untouched over HTTP/1.1 and
// HTTP/2, as bytes and as base64 text.
func TestGRPCWeb(t *testing.T) {
	request := append([]byte{0, 0, 0, 0, 5}, "hello"...)
	trailers := "grpc-status: 5\r\ngrpc-message: no such thing\r\n"
	answer := append([]byte{0, 0, 0, 0, 2, 'h', 'i', 0x80, 0, 0, 0, byte(len(trailers))}, trailers...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var speaks http.Protocols
	speaks.SetHTTP1(true)
	speaks.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: &speaks, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want, kind := request, r.Header.Get("content-type")
		reply := answer
		if kind == "application/grpc-web-text" {
			want, reply = []byte(base64.StdEncoding.EncodeToString(want)), []byte(base64.StdEncoding.EncodeToString(reply))
		}
		if body, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(body, want) || r.Header.Get("x-grpc-web") != "1" || r.Method != http.MethodPost {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("content-type", kind)
		w.Header().Set("x-over", r.Proto)
		_, _ = w.Write(reply)
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
	for _, w := range ways(t, l.Addr().(*net.TCPAddr).AddrPort()) {
		for _, version := range []int{1, 2} {
			for _, kind := range []string{"application/grpc-web+proto", "application/grpc-web-text"} {
				t.Run(fmt.Sprintf("%s/HTTP %d/%s", w.name, version, kind), func(t *testing.T) {
					var speaks http.Protocols
					speaks.SetHTTP1(version == 1)
					speaks.SetUnencryptedHTTP2(version == 2)
					tr := &http.Transport{Protocols: &speaks, DisableCompression: true}
					defer tr.CloseIdleConnections()
					send, want := request, answer
					if kind == "application/grpc-web-text" {
						send, want = []byte(base64.StdEncoding.EncodeToString(send)), []byte(base64.StdEncoding.EncodeToString(want))
					}
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+w.at.String()+"/shop.Cart/Add", bytes.NewReader(send))
					if err != nil {
						t.Fatal(err)
					}
					req.Header.Set("content-type", kind)
					req.Header.Set("x-grpc-web", "1")
					resp, err := tr.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					body, err := io.ReadAll(resp.Body)
					if err != nil || resp.StatusCode != http.StatusOK || !bytes.Equal(body, want) {
						t.Errorf("%s %q %v", resp.Status, body, err)
					}
					if over := resp.Header.Get("x-over"); !strings.HasPrefix(over, fmt.Sprintf("HTTP/%d.", version)) {
						t.Errorf("the application was asked over %s", over)
					}
				})
			}
		}
	}
}
