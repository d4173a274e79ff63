// Package gate is the collector's front door: it gives gRPC servers their mTLS from certificates held in memory, checks Host and Origin on HTTP ports, and counts what
// is refused before it reaches a pipeline. It is a middleware extension of the receivers; "gate/plaintext" is the same door for a gRPC port of applications on this machine.
package gate

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensioncapabilities"
	"go.opentelemetry.io/collector/extension/extensionmiddleware"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/tap"

	"github.com/tulle-mesh/tulle/collector/processor/backpressure"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// Type is the extension's name in a configuration.
var Type = component.MustNewType("gate")

// Reasons of refusals.
const (
	ReasonMalformed = "malformed" // not what the port speaks, or too large
	ReasonOrigin    = "foreign_origin"
	ReasonPlaces    = "too_many_at_once" // retryable
)

// Gate is what all its doors share: the counters, and what they check against.
type Gate struct {
	holder *identity.Holder
	hosts  map[string]bool
	places int64
	ready  func()

	mu      sync.Mutex
	refused map[string]uint64
}

// door is one extension of a configuration.
type door struct {
	component.StartFunc
	component.ShutdownFunc
	*Gate
	plaintext bool
	streams   bool
}

var (
	_ extensionmiddleware.GRPCServer        = (*door)(nil)
	_ extensionmiddleware.HTTPServer        = (*door)(nil)
	_ extensioncapabilities.PipelineWatcher = (*door)(nil)
)

// New makes a gate. holder nil means plaintext gRPC. httpAddrs are the configured addresses of HTTP ports: their hosts are allowed as Host besides localhost and
// IP addresses. places is how many batches each port reads or has in work at once; a further one is turned away, retryably, before any of it is read: the memory
// limiter looks at what is decoded already, and what comes in while it looks must have room too. ready is called once, when all receivers listen.
func New(holder *identity.Holder, httpAddrs []string, places int, ready func()) *Gate {
	g := &Gate{holder: holder, hosts: map[string]bool{"localhost": true}, places: int64(places), ready: sync.OnceFunc(ready), refused: map[string]uint64{}}
	for _, a := range httpAddrs {
		if h, _, err := net.SplitHostPort(a); err == nil && h != "" {
			g.hosts[strings.ToLower(h)] = true
		}
	}
	return g
}

type config struct {
	Plaintext bool `mapstructure:"plaintext"` // gRPC without mTLS: for applications on this machine, which are no evidence
	Streams   bool `mapstructure:"streams"`   // gRPC calls stay open for as long as the sender lives; up to maxStreams of them
}

// Factory makes doors of this gate.
func (g *Gate) Factory() extension.Factory {
	return extension.NewFactory(Type, func() component.Config { return &config{} },
		func(_ context.Context, _ extension.Settings, cfg component.Config) (extension.Extension, error) {
			c := cfg.(*config) //nolint:forcetypeassert // the factory made it
			return &door{Gate: g, plaintext: c.Plaintext, streams: c.Streams}, nil
		}, component.StabilityLevelStable)
}

// Refused counts batches refused before the store, by reason.
func (g *Gate) Refused() map[string]uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[string]uint64, len(g.refused))
	for k, v := range g.refused {
		out[k] = v
	}
	return out
}

func (g *Gate) count(reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused[reason]++
}

// Ready is called by the collector when its pipelines run.
func (g *Gate) Ready() error {
	g.ready()
	return nil
}

// NotReady is called before the pipelines stop.
func (*Gate) NotReady() error { return nil }

// stall is how long a batch over gRPC may take from its head to its answer: whoever begins and does not go on must not keep a place.
const stall = 20 * time.Second

// maxStreams is how many open calls a port of streams has. Each holds one message at most, and waits while that is in work.
const maxStreams = 1024

var errPlaces = backpressure.Retry(codes.Unavailable, "as many batches as there is room for are in work", time.Second)

// GetGRPCServerOptions adds mTLS and the counting interceptor.
func (d *door) GetGRPCServerOptions(context.Context) ([]grpc.ServerOption, error) {
	var taken atomic.Int64 // of this port's places
	places, limit := d.places, func(ctx context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(ctx, stall)
	}
	if d.streams {
		places, limit = maxStreams, context.WithCancel
	}
	opts := []grpc.ServerOption{grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) {
		if taken.Add(1) > places {
			taken.Add(-1)
			d.count(ReasonPlaces)
			return ctx, errPlaces
		}
		ctx, cancel := limit(ctx) // a stream's context is done when the stream is
		context.AfterFunc(ctx, func() { cancel(); taken.Add(-1) })
		return ctx, nil
	}), grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		ctx, o := backpressure.WithOutcome(ctx)
		resp, err := next(ctx, req)
		if err != nil && !o.Counted() {
			d.count(ReasonMalformed)
		}
		return resp, err
	})}
	if d.holder != nil && !d.plaintext {
		opts = append(opts, grpc.Creds(credentials.NewTLS(d.holder.ServerTLS())))
	}
	return opts, nil
}

// GetHTTPHandler adds the check of Host and Origin, which keeps a web page that somebody has open from writing here (DNS rebinding), and counting.
func (g *Gate) GetHTTPHandler(context.Context) (extensionmiddleware.WrapHTTPHandlerFunc, error) {
	return func(_ context.Context, next http.Handler) (http.Handler, error) {
		var taken atomic.Int64 // of this port's places
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if why := g.foreign(r); why != "" {
				g.count(ReasonOrigin)
				http.Error(w, why, http.StatusForbidden)
				return
			}
			defer taken.Add(-1)
			if taken.Add(1) > g.places {
				g.count(ReasonPlaces)
				backpressure.WriteHTTP(w, errPlaces)
				return
			}
			ctx, o := backpressure.WithOutcome(r.Context())
			rec := &recorder{ResponseWriter: w, code: http.StatusOK}
			next.ServeHTTP(rec, r.WithContext(ctx))
			if rec.code >= 400 && !o.Counted() {
				g.count(ReasonMalformed)
			}
		}), nil
	}, nil
}

// foreign says why a request is refused, "" when it is not. An IP address as Host is harmless: rebinding needs a name.
func (g *Gate) foreign(r *http.Request) string {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if !g.allowed(host) {
		return "Host " + host + " is not this collector; use localhost or its address"
	}
	if o := r.Header.Get("Origin"); o != "" {
		u, err := url.Parse(o)
		if err != nil || !strings.EqualFold(u.Host, r.Host) {
			return "pages of another origin may not send telemetry here"
		}
	}
	return ""
}

func (g *Gate) allowed(host string) bool {
	host = strings.ToLower(strings.Trim(host, "[]"))
	if _, err := netip.ParseAddr(host); err == nil {
		return true
	}
	return g.hosts[host]
}

type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
