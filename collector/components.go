package collector

import (
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/memorylimiterprocessor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"

	"github.com/tulle-mesh/tulle/collector/exporter/tullestore"
	"github.com/tulle-mesh/tulle/collector/processor/enrich"
)

// components is the only list of what the collector is made of.
func (c *Collector) components() (otelcol.Factories, error) {
	var (
		f    = otelcol.Factories{Telemetry: c.telemetry()}
		err  error
		sink tullestore.Sink
		reg  enrich.Registry
	)
	if c.cfg.Metrics != nil {
		sink = c.cfg.Metrics
	}
	if c.cfg.Registry != nil {
		reg = c.cfg.Registry
	}
	if f.Receivers, err = otelcol.MakeFactoryMap[receiver.Factory](
		otlpreceiver.NewFactory(),
	); err != nil {
		return f, err
	}
	if f.Processors, err = otelcol.MakeFactoryMap[processor.Factory](
		memorylimiterprocessor.NewFactory(),
		enrich.NewFactory(reg, &c.enriched),
	); err != nil {
		return f, err
	}
	if f.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](
		tullestore.NewFactory(c.cfg.Spans, sink, &c.stored),
	); err != nil {
		return f, err
	}
	if f.Extensions, err = otelcol.MakeFactoryMap[extension.Factory](
		c.gate.Factory(),
	); err != nil {
		return f, err
	}
	return f, nil
}

// pipelines is the collector's configuration. There is no batch processor and no sending queue: both acknowledge before anything is on disk.
func (c *Collector) pipelines() map[string]any {
	protocols := map[string]any{}
	middleware := []any{map[string]any{"id": "gate"}}
	if c.cfg.GRPC != "" {
		protocols["grpc"] = map[string]any{
			"endpoint": c.cfg.GRPC, "max_recv_msg_size_mib": maxMessageMiB, "max_concurrent_streams": 128, "middlewares": middleware,
			// A sidecar whose machine vanished says nothing: its connection is asked after, and closed.
			"keepalive": map[string]any{"server_parameters": map[string]any{"time": "30s", "timeout": "10s"}},
		}
	}
	if c.cfg.HTTP != "" {
		protocols["http"] = map[string]any{ // a sender that stalls must not hold up the end of the process
			"endpoint": c.cfg.HTTP, "max_request_body_size": maxMessageMiB << 20, "read_timeout": "20s", "write_timeout": "20s", "middlewares": middleware,
		}
	}
	path := map[string]any{"receivers": []any{"otlp"}, "processors": []any{"memory_limiter", "enrich"}, "exporters": []any{"tullestore"}}
	return map[string]any{
		"receivers": map[string]any{"otlp": map[string]any{"protocols": protocols}},
		"processors": map[string]any{
			"memory_limiter": map[string]any{"check_interval": "1s", "limit_mib": c.cfg.MemoryLimitMiB, "spike_limit_mib": c.cfg.MemoryLimitMiB / 5},
			"enrich":         map[string]any{},
		},
		"exporters":  map[string]any{"tullestore": map[string]any{}},
		"extensions": map[string]any{"gate": map[string]any{}},
		"service": map[string]any{
			"extensions": []any{"gate"},
			"pipelines":  map[string]any{"traces": path, "metrics": path},
		},
	}
}

const maxMessageMiB = 16
