// Package zipkin is a receiver of Zipkin's v2 API, POST /api/v2/spans, as JSON or protobuf. A batch is answered 202 once everything behind it has taken it, and
// 429 or 503 with Retry-After when the same should be sent again. The translation is the OpenTelemetry contrib project's; why its receiver is not used stands in ADR 39.
package zipkin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sync"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/translator/zipkin/zipkinv2"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componentstatus"
	"go.opentelemetry.io/collector/config/confighttp"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"

	"github.com/tulle-mesh/tulle/collector/processor/backpressure"
)

// Type is the receiver's name in a configuration.
var Type = component.MustNewType("zipkin")

// Config is the HTTP server's; the names are those of the contrib receiver.
type Config struct {
	confighttp.ServerConfig `mapstructure:",squash"`
	// ParseStringTags makes numbers and booleans of tags whose text is one. Zipkin knows text only. Default false.
	ParseStringTags bool `mapstructure:"parse_string_tags"`
}

// Defaults of Config.
const (
	DefaultEndpoint = "127.0.0.1:9411"
	maxBody         = 16 << 20 // bytes, after decompression
	timeout         = 20 * time.Second
)

// NewFactory makes the receiver's factory; listening is told the bound address of each receiver by its component ID.
func NewFactory(listening func(name, addr string)) receiver.Factory {
	return receiver.NewFactory(Type, func() component.Config {
		s := confighttp.NewDefaultServerConfig()
		s.NetAddr.Endpoint, s.MaxRequestBodySize, s.ReadTimeout, s.WriteTimeout = DefaultEndpoint, maxBody, timeout, timeout
		return &Config{ServerConfig: s}
	}, receiver.WithTraces(func(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Traces) (receiver.Traces, error) {
		c := cfg.(*Config) //nolint:forcetypeassert // the factory made it
		return &server{
			cfg: c, set: set, next: next, listening: listening,
			json: zipkinv2.NewJSONTracesUnmarshaler(c.ParseStringTags), proto: zipkinv2.NewProtobufTracesUnmarshaler(false, c.ParseStringTags),
		}, nil
	}, component.StabilityLevelStable))
}

type server struct {
	cfg         *Config
	set         receiver.Settings
	next        consumer.Traces
	listening   func(name, addr string)
	json, proto ptrace.Unmarshaler

	http *http.Server
	done sync.WaitGroup
}

func (s *server) Start(ctx context.Context, host component.Host) error {
	l, err := s.cfg.ToListener(ctx)
	if err != nil {
		return fmt.Errorf("listen for Zipkin on %s: %w", s.cfg.NetAddr.Endpoint, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/spans", s.spans)
	mux.HandleFunc("POST /api/v1/spans", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "Zipkin's API v1 is not served; send v2 to /api/v2/spans", http.StatusNotFound)
	})
	if s.http, err = s.cfg.ToServer(ctx, host.GetExtensions(), s.set.TelemetrySettings, mux); err != nil {
		return errors.Join(fmt.Errorf("the HTTP server for Zipkin: %w", err), l.Close())
	}
	s.listening(s.set.ID.String(), l.Addr().String())
	s.done.Go(func() {
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			componentstatus.ReportStatus(host, componentstatus.NewFatalErrorEvent(fmt.Errorf("zipkin on %s: %w", l.Addr(), err)))
		}
	})
	return nil
}

// Shutdown finishes the batches in progress.
func (s *server) Shutdown(ctx context.Context) error {
	if s.http == nil {
		return nil
	}
	err := s.http.Shutdown(ctx)
	s.done.Wait()
	return err
}

func (s *server) spans(w http.ResponseWriter, r *http.Request) {
	read := s.json
	switch mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); {
	case err != nil || mediaType == "application/json":
	case mediaType == "application/x-protobuf", mediaType == "application/protobuf":
		read = s.proto
	default:
		http.Error(w, "spans are taken as application/json or application/x-protobuf, not as "+mediaType, http.StatusUnsupportedMediaType)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		code := http.StatusBadRequest
		if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
			code = http.StatusRequestEntityTooLarge
		}
		http.Error(w, fmt.Sprintf("the body cannot be read: %v", err), code)
		return
	}
	td, err := read.UnmarshalTraces(body)
	if err != nil {
		http.Error(w, fmt.Sprintf("these are no spans of Zipkin's API v2: %v", err), http.StatusBadRequest)
		return
	}
	if td.SpanCount() > 0 {
		if err := s.next.ConsumeTraces(r.Context(), td); err != nil {
			backpressure.WriteHTTP(w, err)
			return
		}
	}
	w.WriteHeader(http.StatusAccepted)
}
