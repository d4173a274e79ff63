// Package envoyals is a receiver of Envoy's access log service (envoy.service.accesslog.v3): each entry of a finished request or connection becomes a span, so that
// what Envoys at the mesh's edge carried is found beside what the sidecars saw. The protocol acknowledges nothing: while what is behind refuses a message, its stream is
// not read on, which holds Envoy back, and what could not be kept in the end is counted.
//
// The configuration is a gRPC server's. Source: api/envoy/service/accesslog/v3/als.proto and api/envoy/data/accesslog/v3/accesslog.proto of Envoy 1.40.
package envoyals

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	accesslog "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/receiver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/collector/processor/backpressure"
)

// Type is the receiver's name in a configuration.
var Type = component.MustNewType("envoy_als")

// Config is the gRPC server's.
type Config struct {
	configgrpc.ServerConfig `mapstructure:",squash"`
}

// DefaultEndpoint is where it listens when the configuration does not say.
const DefaultEndpoint = "127.0.0.1:18090"

// Reasons of drops. Each entry counts as one.
const (
	ReasonRefused   = "envoy_als_refused"      // refused for patience on end, or until the process ended
	ReasonMalformed = "envoy_als_malformed"    // an entry without a time, or the first message of a stream without its sender
	ReasonProgress  = "envoy_als_intermediate" // an entry of something that goes on: its end is told by another
)

// patience is how long a message is offered again that was refused retryably. Envoy's own buffer fills meanwhile, and Envoy counts what does not fit.
const patience = time.Minute

// leastWait is between two offers, where the refusal does not ask for more.
const leastWait = 50 * time.Millisecond

// Hooks tell of what happens. Both are called concurrently.
type Hooks struct {
	Listening func(name, addr string)          // the bound address by the receiver's component ID
	Dropped   func(reason string, entries int) // see Reasons
}

// NewFactory makes the receiver's factory.
func NewFactory(h Hooks) receiver.Factory {
	return receiver.NewFactory(Type, func() component.Config {
		s := configgrpc.NewDefaultServerConfig()
		s.NetAddr.Endpoint = DefaultEndpoint
		return &Config{ServerConfig: s}
	}, receiver.WithTraces(func(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Traces) (receiver.Traces, error) {
		s := &server{cfg: cfg.(*Config), set: set, next: next, hooks: h} //nolint:forcetypeassert // the factory made it
		s.life, s.end = context.WithCancel(context.Background())
		return s, nil
	}, component.StabilityLevelStable))
}

type server struct {
	accesslog.UnimplementedAccessLogServiceServer
	cfg   *Config
	set   receiver.Settings
	next  consumer.Traces
	hooks Hooks

	grpc *grpc.Server
	done sync.WaitGroup

	life context.Context //nolint:containedctx // the receiver's own: ends when nothing is tried again
	end  context.CancelFunc

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup // messages in work; none begins once closed
}

func (s *server) Start(ctx context.Context, host component.Host) error {
	srv, err := s.cfg.ToServer(ctx, host.GetExtensions(), s.set.TelemetrySettings)
	if err != nil {
		return fmt.Errorf("the gRPC server for Envoy's access logs: %w", err)
	}
	l, err := s.cfg.NetAddr.Listen(ctx)
	if err != nil {
		return fmt.Errorf("listen for Envoy's access logs on %s: %w", s.cfg.NetAddr.Endpoint, err)
	}
	s.grpc = srv
	accesslog.RegisterAccessLogServiceServer(srv, s)
	s.hooks.Listening(s.set.ID.String(), l.Addr().String())
	s.done.Go(func() {
		if err := srv.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(fmt.Errorf("access logs of Envoy on %s: %w", l.Addr(), err)))
		}
	})
	return nil
}

// Shutdown lets the messages in work be kept, if nothing refuses them, and closes the streams, which would not end by themselves.
func (s *server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	idle := make(chan struct{})
	go func() { s.work.Wait(); close(idle) }()
	var err error
	select {
	case <-idle:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if s.grpc != nil {
		s.grpc.Stop()
	}
	s.done.Wait()
	return err
}

// begin reports whether a message may be worked on; the caller calls s.work.Done then.
func (s *server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.work.Add(1)
	}
	return !s.closed
}

// StreamAccessLogs takes the messages of one Envoy's worker, until it closes the stream.
func (s *server) StreamAccessLogs(stream accesslog.AccessLogService_StreamAccessLogsServer) error {
	var from *sender
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&accesslog.StreamAccessLogsResponse{})
		}
		if err != nil {
			return err
		}
		n := len(m.GetHttpLogs().GetLogEntry()) + len(m.GetTcpLogs().GetLogEntry())
		if id := m.GetIdentifier(); id != nil {
			from = newSender(id)
		}
		if from == nil {
			s.hooks.Dropped(ReasonMalformed, max(1, n))
			return status.Error(codes.InvalidArgument, "the first message of a stream must say who sends it: identifier is missing")
		}
		if !s.begin() {
			s.hooks.Dropped(ReasonRefused, n)
			return status.Error(codes.Unavailable, "the receiver is closing")
		}
		s.keep(stream.Context(), from, m)
		s.work.Done()
	}
}

// keep offers the spans of a message until they are taken. It does not end with the stream: an Envoy that went has said what it said.
func (s *server) keep(ctx context.Context, from *sender, m *accesslog.StreamAccessLogsMessage) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	for try := 0; ; try++ {
		td, skipped := from.spans(m) // anew: who refuses may have changed it
		if try == 0 {
			for reason, n := range skipped {
				s.hooks.Dropped(reason, n)
			}
		}
		n := td.SpanCount()
		if n == 0 {
			return
		}
		err := s.next.ConsumeTraces(ctx, td)
		if err == nil {
			return
		}
		if consumererror.IsPermanent(err) {
			s.set.Logger.Warn("spans of Envoy's access log were refused for good, and dropped: " + err.Error())
			return // counted by who refused
		}
		again := time.NewTimer(backpressure.Delay(err, leastWait))
		select {
		case <-again.C:
			continue
		case <-ctx.Done():
		case <-s.life.Done():
		}
		again.Stop()
		s.hooks.Dropped(ReasonRefused, n)
		s.set.Logger.Warn("spans of Envoy's access log were refused until they had to be dropped: " + err.Error())
		return
	}
}
