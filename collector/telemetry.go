package collector

import (
	"context"
	"log/slog"
	"strings"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/service/telemetry"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// telemetry is the embedded collector's own: its log goes to ours from warning up, only its exporters measure, and it listens nowhere.
func (c *Collector) telemetry() telemetry.Factory {
	return telemetry.NewFactory(func() component.Config { return &struct{}{} },
		telemetry.WithCreateLogger(func(context.Context, telemetry.LoggerSettings, component.Config) (*zap.Logger, component.ShutdownFunc, error) {
			return zap.New(&slogCore{c: c}), nil, nil
		}),
		telemetry.WithCreateMeterProvider(func(context.Context, telemetry.MeterSettings, component.Config) (telemetry.MeterProvider, error) {
			return c.meters, nil
		}))
}

// slogCore passes zap entries on to slog. It also learns the receivers' addresses from the lines in which they announce them, which is the only
// place where the OTLP receiver tells a port that the system chose.
type slogCore struct {
	c      *Collector
	fields []zapcore.Field
}

func (*slogCore) Enabled(l zapcore.Level) bool { return l >= zapcore.InfoLevel }

func (s *slogCore) With(f []zapcore.Field) zapcore.Core {
	return &slogCore{c: s.c, fields: append(append([]zapcore.Field(nil), s.fields...), f...)}
}

func (s *slogCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if s.Enabled(e.Level) {
		return ce.AddCore(e, s)
	}
	return ce
}

func (s *slogCore) Write(e zapcore.Entry, f []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, x := range append(append([]zapcore.Field(nil), s.fields...), f...) {
		x.AddTo(enc)
	}
	if addr, ok := enc.Fields["endpoint"].(string); ok {
		switch e.Message {
		case "Starting GRPC server":
			s.c.listening(otlpGRPC, addr)
		case "Starting HTTP server":
			s.c.listening(otlpHTTP, addr)
		}
	}
	level := slog.LevelWarn
	switch {
	case e.Level < zapcore.WarnLevel:
		return nil
	case e.Level > zapcore.WarnLevel:
		level = slog.LevelError
	}
	var attrs []any
	for k, v := range enc.Fields {
		if k == "error" || k == "kind" || strings.HasPrefix(k, "otelcol.component.id") {
			attrs = append(attrs, k, v)
		}
	}
	s.c.cfg.Log.Log(context.Background(), level, "collector: "+e.Message, attrs...)
	return nil
}

func (*slogCore) Sync() error { return nil }
