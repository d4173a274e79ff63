package jaegerapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/store"
)

// Limits of one server.
const (
	maxRequestBytes = 16 << 20
	maxStreams      = 128              // of one connection
	streamTime      = 10 * time.Minute // of one call that reads; what it holds meanwhile is one trace
	rpcGrace        = 10 * time.Second // for calls in progress when the server stops
)

// RPCConfig is what the gRPC server needs.
type RPCConfig struct {
	Addr    string // host:port; port 0 picks one
	Sources *source.Sources
	// Write keeps spans that a Jaeger hands over; they count as an application's. An error is answered as retryable when it wraps store.ErrFull,
	// ErrBusy or ErrClosed, or says so as consumers of the collector do. nil: Jaeger may only read.
	Write func(context.Context, ptrace.Traces) error
	// Identity is the observer's. Where Addr is not loopback, callers must have certificates of the mesh.
	Identity *identity.Holder
}

// RPC answers gRPC as Jaeger's query service does (jaeger.api_v2.QueryService, jaeger.api_v3.QueryService) and as its remote storage does
// (jaeger.storage.v1), so that a stock Jaeger mounts the store of spans. Create with NewRPC, run once.
type RPC struct {
	cfg    RPCConfig
	server *grpc.Server
	health *health.Server
	bound  chan struct{}
	addr   string // set before bound is closed
}

// services is the table of what is served.
var services = []struct {
	name     string // as health checks ask
	register func(*grpc.Server, *api, *RPCConfig)
}{
	{"jaeger.api_v2.QueryService", registerQueryV2},
	{serviceV3, registerQueryV3},
	{"jaeger.storage.v1.SpanReaderPlugin", registerStorageReader},
	{"jaeger.storage.v1.SpanWriterPlugin", registerStorageWriter},
	{"jaeger.storage.v1.StreamingSpanWriterPlugin", registerStorageStream},
	{"jaeger.storage.v1.DependenciesReaderPlugin", registerStorageDependencies},
	{"jaeger.storage.v1.PluginCapabilities", registerStorageCapabilities},
}

// NewRPC checks cfg. It listens to nothing.
func NewRPC(cfg RPCConfig) (*RPC, error) {
	host, _, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("address for Jaeger's gRPC %q: %w; write host:port, as in 127.0.0.1:16685", cfg.Addr, err)
	}
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}), grpc.MaxRecvMsgSize(maxRequestBytes), grpc.MaxConcurrentStreams(maxStreams),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.UnaryInterceptor(cfg.unary), grpc.StreamInterceptor(cfg.stream),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
	if !loopback(host) {
		if cfg.Identity == nil {
			return nil, fmt.Errorf("address for Jaeger's gRPC %q: other machines may call only with certificates of the mesh, and this observer has none: "+
				"give it a controller, or listen on 127.0.0.1", cfg.Addr)
		}
		opts = append(opts, grpc.Creds(credentials.NewTLS(cfg.Identity.ServerTLS())))
	}
	r := &RPC{cfg: cfg, server: grpc.NewServer(opts...), health: health.NewServer(), bound: make(chan struct{})}
	for _, s := range services {
		s.register(r.server, &api{cfg.Sources}, &r.cfg)
		r.health.SetServingStatus(s.name, grpc_health_v1.HealthCheckResponse_SERVING)
	}
	grpc_health_v1.RegisterHealthServer(r.server, r.health)
	return r, nil
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// Run serves until ctx is done; ready is called when it listens. Calls in progress then get some time to end.
func (r *RPC) Run(ctx context.Context, ready func()) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", r.cfg.Addr)
	if err != nil {
		return fmt.Errorf("listen for Jaeger's gRPC: %w; choose another address with --jaeger-query", err)
	}
	r.addr = l.Addr().String()
	close(r.bound)
	ready()
	var serving sync.WaitGroup
	failed := make(chan error, 1)
	serving.Go(func() { failed <- r.server.Serve(l) })
	defer serving.Wait()
	select {
	case err := <-failed:
		return fmt.Errorf("serve Jaeger's gRPC on %s: %w", r.addr, err)
	case <-ctx.Done():
	}
	r.health.Shutdown()
	t := time.AfterFunc(rpcGrace, r.server.Stop)
	defer t.Stop()
	r.server.GracefulStop()
	return nil
}

// Addr is the address that Run listens on, with the real port. It blocks until Run listens or ctx is done ("").
func (r *RPC) Addr(ctx context.Context) string {
	select {
	case <-r.bound:
		return r.addr
	case <-ctx.Done():
		return ""
	}
}

// partialTrailer says why an answer is not all, as the HTTP header of that name does.
const partialTrailer = "tulle-partial"

// begin gives a call its share of the memory that queries have.
func (c *RPCConfig) begin(ctx context.Context) (_ context.Context, _ *store.Budget, end func()) {
	if c.Sources == nil || c.Sources.Memory == nil {
		return ctx, nil, func() {}
	}
	return c.Sources.Memory.Begin(ctx)
}

func (c *RPCConfig) unary(ctx context.Context, q any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	ctx, b, end := c.begin(ctx)
	defer end()
	out, err := next(ctx, q)
	if why := b.Partial(); why != "" {
		_ = grpc.SetTrailer(ctx, metadata.Pairs(partialTrailer, why))
	}
	return out, err
}

func (c *RPCConfig) stream(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if info.IsClientStream { // it writes
		return next(srv, s)
	}
	ctx, cancel := context.WithTimeout(s.Context(), streamTime)
	defer cancel()
	ctx, b, end := c.begin(ctx)
	defer end()
	err := next(srv, &budgetedStream{s, ctx})
	if why := b.Partial(); why != "" {
		s.SetTrailer(metadata.Pairs(partialTrailer, why))
	}
	return err
}

// budgetedStream has a context of its own. A client that does not read what it asked for meets its end: sending waits for the client, so it is asked before.
type budgetedStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // that is what a stream's is
}

func (s *budgetedStream) Context() context.Context { return s.ctx }

func (s *budgetedStream) SendMsg(m any) error {
	if err := s.ctx.Err(); err != nil {
		return rpcStatus(err, "send")
	}
	return s.ServerStream.SendMsg(m)
}

// rpcStatus is a store's error as gRPC says it.
func rpcStatus(err error, what string) error {
	if err == nil {
		return nil
	}
	code := codes.Internal
	switch {
	case errors.Is(err, store.ErrNotFound):
		return status.Error(codes.NotFound, "trace not found") // the words by which Jaeger's own clients know it
	case errors.Is(err, store.ErrTooLarge):
		code = codes.ResourceExhausted
	case errors.Is(err, store.ErrBadQuery):
		code = codes.InvalidArgument
	case errors.Is(err, store.ErrBusy), errors.Is(err, store.ErrClosed):
		code = codes.Unavailable
	case errors.Is(err, store.ErrFull):
		code = codes.ResourceExhausted
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	}
	return status.Errorf(code, "%s: %v", what, err)
}

// codec speaks the wire form of Jaeger's messages, which are of another generation of protobuf's Go library, and of answers that are bytes already;
// all else is gRPC's own. It is this server's only: Jaeger's package registers its own for every server and client of a process.
type codec struct{}

// wire is a message that is encoded already.
type wire []byte

func (codec) Name() string { return proto.Name }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case wire:
		return mem.BufferSlice{mem.SliceBuffer(m)}, nil
	case interface{ Marshal() ([]byte, error) }:
		b, err := m.Marshal()
		return mem.BufferSlice{mem.SliceBuffer(b)}, err
	}
	return encoding.GetCodecV2(proto.Name).Marshal(v)
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(interface {
		Reset()
		Unmarshal(b []byte) error
	}); ok {
		m.Reset()
		return m.Unmarshal(data.Materialize())
	}
	return encoding.GetCodecV2(proto.Name).Unmarshal(data, v)
}
