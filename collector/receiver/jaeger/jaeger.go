// Package jaeger is a receiver of what Jaeger's clients and agents send: spans over gRPC (14250), Thrift over HTTP (14268), and Thrift in UDP datagrams as the agent
// took them (compact 6831, binary 6832). Over gRPC and HTTP a batch is acknowledged once everything behind has taken it, and refused so that it can be sent again.
// UDP has no answer: what is refused then is dropped and counted.
//
// The configuration has the shape of the contrib project's receiver of this name, and the translation is that project's; why its receiver is not used stands in ADR 39.
package jaeger

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/jaegertracing/jaeger/model"
	"github.com/jaegertracing/jaeger/proto-gen/api_v2"
	translator "github.com/open-telemetry/opentelemetry-collector-contrib/pkg/translator/jaeger"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/configgrpc"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/config/configoptional"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Type is the receiver's name in a configuration.
var Type = component.MustNewType("jaeger")

// Config says which protocols are served: those whose section is there.
type Config struct {
	Protocols Protocols `mapstructure:"protocols"`
}

// Protocols has one section for each.
type Protocols struct {
	GRPC    configoptional.Optional[configgrpc.ServerConfig] `mapstructure:"grpc"`
	HTTP    configoptional.Optional[confighttp.ServerConfig] `mapstructure:"thrift_http"`
	Compact configoptional.Optional[UDP]                     `mapstructure:"thrift_compact"`
	Binary  configoptional.Optional[UDP]                     `mapstructure:"thrift_binary"`
}

// UDP is where datagrams are taken.
type UDP struct {
	Endpoint string `mapstructure:"endpoint"` // host:port
	Workers  int    `mapstructure:"workers"`  // datagrams in work at once, 1 to 1024; each waits for the disk, further ones for a worker
}

const (
	maxBody = 16 << 20 // bytes, after decompression
	timeout = 20 * time.Second
	workers = 32
)

// Validate is called by the collector.
func (c *Config) Validate() error {
	p := &c.Protocols
	if !p.GRPC.HasValue() && !p.HTTP.HasValue() && !p.Compact.HasValue() && !p.Binary.HasValue() {
		return errors.New("no protocol is given; name at least one of grpc, thrift_http, thrift_compact and thrift_binary")
	}
	for _, u := range []*UDP{p.Compact.Get(), p.Binary.Get()} {
		if u != nil && (u.Workers < 1 || u.Workers > 1024) {
			return fmt.Errorf("%s has %d workers; 1 to 1024 are possible", u.Endpoint, u.Workers)
		}
	}
	return nil
}

// Reasons of drops. Only datagrams are dropped.
const (
	ReasonRefused   = "udp_refused"   // the store or the memory limiter refused, and a datagram cannot be sent again
	ReasonMalformed = "udp_malformed" // no batch of spans; the datagram counts as one
)

// Hooks tell of what happens. Both are called concurrently.
type Hooks struct {
	Listening func(name, addr string)        // the bound address by the receiver's component ID and protocol, "jaeger grpc"
	Dropped   func(reason string, spans int) // what a datagram held and nobody kept
}

// NewFactory makes the receiver's factory.
func NewFactory(h Hooks) receiver.Factory {
	return receiver.NewFactory(Type, func() component.Config {
		g, w := configgrpc.NewDefaultServerConfig(), confighttp.NewDefaultServerConfig()
		g.NetAddr.Endpoint, g.MaxRecvMsgSizeMiB = "127.0.0.1:14250", maxBody>>20
		w.NetAddr.Endpoint, w.MaxRequestBodySize, w.ReadTimeout, w.WriteTimeout = "127.0.0.1:14268", maxBody, timeout, timeout
		return &Config{Protocols{
			GRPC: configoptional.Default(g), HTTP: configoptional.Default(w),
			Compact: configoptional.Default(UDP{"127.0.0.1:6831", workers}), Binary: configoptional.Default(UDP{"127.0.0.1:6832", workers}),
		}}
	}, receiver.WithTraces(func(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Traces) (receiver.Traces, error) {
		return &server{cfg: &cfg.(*Config).Protocols, set: set, next: next, hooks: h}, nil //nolint:forcetypeassert // the factory made it
	}, component.StabilityLevelStable))
}

type server struct {
	cfg   *Protocols
	set   receiver.Settings
	next  consumer.Traces
	hooks Hooks

	grpc *grpc.Server
	http *http.Server
	udp  []net.PacketConn
	done sync.WaitGroup
}

func (s *server) Start(ctx context.Context, host component.Host) error {
	err := s.start(ctx, host)
	if err != nil {
		err = errors.Join(err, s.Shutdown(ctx)) // what was opened before
	}
	return err
}

func (s *server) start(ctx context.Context, host component.Host) error {
	failed := func(l net.Listener, err error) {
		componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(fmt.Errorf("jaeger on %s: %w", l.Addr(), err)))
	}
	if c := s.cfg.GRPC.Get(); s.cfg.GRPC.HasValue() {
		srv, err := c.ToServer(ctx, host.GetExtensions(), s.set.TelemetrySettings)
		if err != nil {
			return fmt.Errorf("the gRPC server for Jaeger: %w", err)
		}
		l, err := c.NetAddr.Listen(ctx)
		if err != nil {
			return fmt.Errorf("listen for Jaeger over gRPC on %s: %w", c.NetAddr.Endpoint, err)
		}
		s.grpc = srv
		api_v2.RegisterCollectorServiceServer(srv, s)
		s.hooks.Listening(s.set.ID.String()+" grpc", l.Addr().String())
		s.done.Go(func() {
			if err := srv.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				failed(l, err)
			}
		})
	}
	if c := s.cfg.HTTP.Get(); s.cfg.HTTP.HasValue() {
		l, err := c.ToListener(ctx)
		if err != nil {
			return fmt.Errorf("listen for Jaeger over HTTP on %s: %w", c.NetAddr.Endpoint, err)
		}
		mux := http.NewServeMux()
		mux.HandleFunc("POST /api/traces", s.traces)
		if s.http, err = c.ToServer(ctx, host.GetExtensions(), s.set.TelemetrySettings, mux); err != nil {
			return errors.Join(fmt.Errorf("the HTTP server for Jaeger: %w", err), l.Close())
		}
		s.hooks.Listening(s.set.ID.String()+" thrift_http", l.Addr().String())
		s.done.Go(func() {
			if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed(l, err)
			}
		})
	}
	for name, c := range map[string]*configoptional.Optional[UDP]{"thrift_compact": &s.cfg.Compact, "thrift_binary": &s.cfg.Binary} {
		if !c.HasValue() {
			continue
		}
		if err := s.listenUDP(ctx, name, c.Get()); err != nil {
			return err
		}
	}
	return nil
}

// Shutdown finishes the batches in progress.
func (s *server) Shutdown(ctx context.Context) error {
	var errs []error
	for _, c := range s.udp {
		errs = append(errs, c.Close())
	}
	if s.http != nil {
		errs = append(errs, s.http.Shutdown(ctx))
	}
	if s.grpc != nil {
		s.grpc.GracefulStop()
	}
	s.done.Wait()
	return errors.Join(errs...)
}

// PostSpans is Jaeger's collector service.
func (s *server) PostSpans(ctx context.Context, r *api_v2.PostSpansRequest) (*api_v2.PostSpansResponse, error) {
	td, err := translator.ProtoToTraces([]*model.Batch{&r.Batch})
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "these spans cannot be read: %v", err)
	}
	if td.SpanCount() > 0 {
		if err := s.next.ConsumeTraces(ctx, td); err != nil {
			return nil, err
		}
	}
	return &api_v2.PostSpansResponse{}, nil
}
