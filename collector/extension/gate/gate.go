// Package gate is the collector's front door: it gives the OTLP gRPC server its mTLS from certificates held in memory, checks Host and Origin on the
// HTTP port, and counts what is refused before it reaches the store. It is a middleware extension of the collector's own OTLP receiver.
package gate

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/extensioncapabilities"
	"go.opentelemetry.io/collector/extension/extensionmiddleware"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/collector/exporter/tullestore"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// Type is the extension's name in a configuration.
var Type = component.MustNewType("gate")

// Reasons of refusals.
const (
	ReasonMemory    = "memory_limit" // retryable
	ReasonMalformed = "malformed"    // not OTLP, or too large
	ReasonOrigin    = "foreign_origin"
)

// Gate is the extension and its counters.
type Gate struct {
	component.StartFunc
	component.ShutdownFunc
	holder *identity.Holder
	hosts  map[string]bool
	ready  func()

	mu      sync.Mutex
	refused map[string]uint64
}

var (
	_ extensionmiddleware.GRPCServer        = (*Gate)(nil)
	_ extensionmiddleware.HTTPServer        = (*Gate)(nil)
	_ extensioncapabilities.PipelineWatcher = (*Gate)(nil)
)

// New makes a gate. holder nil means plaintext gRPC. httpAddr is the configured address of the HTTP port: its host is an allowed Host besides localhost and
// IP addresses. ready is called when all receivers listen.
func New(holder *identity.Holder, httpAddr string, ready func()) *Gate {
	g := &Gate{holder: holder, hosts: map[string]bool{"localhost": true}, ready: ready, refused: map[string]uint64{}}
	if h, _, err := net.SplitHostPort(httpAddr); err == nil && h != "" {
		g.hosts[strings.ToLower(h)] = true
	}
	return g
}

type config struct{}

// Factory always yields this gate.
func (g *Gate) Factory() extension.Factory {
	return extension.NewFactory(Type, func() component.Config { return &config{} },
		func(context.Context, extension.Settings, component.Config) (extension.Extension, error) {
			return g, nil
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

// GetGRPCServerOptions adds mTLS and the counting interceptor.
func (g *Gate) GetGRPCServerOptions(context.Context) ([]grpc.ServerOption, error) {
	opts := []grpc.ServerOption{grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		ctx, o := tullestore.WithOutcome(ctx)
		resp, err := next(ctx, req)
		if err != nil && !o.Counted() {
			g.count(reasonOf(status.Code(err)))
		}
		return resp, err
	})}
	if g.holder != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(g.holder.ServerTLS())))
	}
	return opts, nil
}

func reasonOf(c codes.Code) string {
	if c == codes.Unavailable || c == codes.ResourceExhausted {
		return ReasonMemory // the only thing before the store that asks to try again
	}
	return ReasonMalformed
}

// GetHTTPHandler adds the check of Host and Origin, which keeps a web page that somebody has open from writing here (DNS rebinding), and counting.
func (g *Gate) GetHTTPHandler(context.Context) (extensionmiddleware.WrapHTTPHandlerFunc, error) {
	return func(_ context.Context, next http.Handler) (http.Handler, error) {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if why := g.foreign(r); why != "" {
				g.count(ReasonOrigin)
				http.Error(w, why, http.StatusForbidden)
				return
			}
			ctx, o := tullestore.WithOutcome(r.Context())
			rec := &recorder{ResponseWriter: w, code: http.StatusOK}
			next.ServeHTTP(rec, r.WithContext(ctx))
			if rec.code >= 400 && !o.Counted() {
				if rec.code == http.StatusServiceUnavailable || rec.code == http.StatusTooManyRequests {
					g.count(ReasonMemory)
				} else {
					g.count(ReasonMalformed)
				}
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
