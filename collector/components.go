package collector

import (
	"net"
	"net/netip"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/extension/storage/filestorage"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/connector/forwardconnector"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/exporter/debugexporter"
	"go.opentelemetry.io/collector/exporter/otlpexporter"
	"go.opentelemetry.io/collector/exporter/otlphttpexporter"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/otelcol"
	"go.opentelemetry.io/collector/processor"
	"go.opentelemetry.io/collector/processor/batchprocessor"
	"go.opentelemetry.io/collector/processor/memorylimiterprocessor"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"

	"github.com/tulle-mesh/tulle/collector/connector/stored"
	"github.com/tulle-mesh/tulle/collector/exporter/tullestore"
	"github.com/tulle-mesh/tulle/collector/processor/backpressure"
	"github.com/tulle-mesh/tulle/collector/processor/cardinality"
	"github.com/tulle-mesh/tulle/collector/processor/enrich"
	"github.com/tulle-mesh/tulle/collector/receiver/envoyals"
	"github.com/tulle-mesh/tulle/collector/receiver/jaeger"
	"github.com/tulle-mesh/tulle/collector/receiver/zipkin"
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
		zipkin.NewFactory(c.listening),
		jaeger.NewFactory(jaeger.Hooks{Listening: c.listening, Dropped: c.lost.add}),
		envoyals.NewFactory(envoyals.Hooks{Listening: c.listening, Dropped: c.lost.add}),
		c.inside.Factory(),
	); err != nil {
		return f, err
	}
	if f.Processors, err = otelcol.MakeFactoryMap[processor.Factory](
		backpressure.NewFactory(&c.pressed),
		memorylimiterprocessor.NewFactory(),
		batchprocessor.NewFactory(),
		enrich.NewFactory(reg, c.cfg.HashKey, &c.enriched),
		cardinality.NewFactory(cardinality.Hooks{Altered: c.folded.add, Overflow: c.overflow}, time.Now),
	); err != nil {
		return f, err
	}
	end := tullestore.New(c.cfg.Spans, sink, &c.stored)
	if f.Exporters, err = otelcol.MakeFactoryMap[exporter.Factory](
		tullestore.NewFactory(end),
		otlpexporter.NewFactory(),
		otlphttpexporter.NewFactory(),
		debugexporter.NewFactory(),
	); err != nil {
		return f, err
	}
	if f.Connectors, err = otelcol.MakeFactoryMap[connector.Factory](
		forwardconnector.NewFactory(),
		stored.NewFactory(stored.Ends{Traces: end, Metrics: end}, c.lost.add),
	); err != nil {
		return f, err
	}
	if f.Extensions, err = otelcol.MakeFactoryMap[extension.Factory](
		c.gate.Factory(),
		filestorage.NewFactory(),
	); err != nil {
		return f, err
	}
	return f, nil
}

// pipelines is the collector's configuration. There is no batch processor and no sending queue on the way to the store: both acknowledge before anything is on
// disk. Copies for other backends leave behind the store, in pipelines of their own.
func (c *Collector) pipelines() (map[string]any, error) {
	receivers := c.receivers()
	exporters, err := c.exporters()
	if err != nil {
		return nil, err
	}
	end := map[string]string{"traces": tullestore.Type.String(), "metrics": tullestore.Type.String()}
	if len(exporters) > 0 {
		end["traces"] = stored.Type.String()
	}
	extensions := map[string]any{"gate": map[string]any{}, "gate/plaintext": map[string]any{"plaintext": true}}
	if c.cfg.EnvoyALS != "" {
		extensions["gate/streams"] = map[string]any{"streams": true, "plaintext": loopback(c.cfg.EnvoyALS)} // Envoys have no certificate of the mesh
	}
	if len(exporters) > 0 || c.raw != nil && c.cfg.ExportDir != "" {
		extensions[storageID] = c.storage()
	}
	lines := map[string]any{}
	copies := map[string][]any{"traces": names(exporters)}
	exporters[tullestore.Type.String()] = map[string]any{}
	limiter := map[string]any{"check_interval": "100ms", "limit_mib": c.cfg.MemoryLimitMiB, "spike_limit_mib": c.cfg.MemoryLimitMiB / 5}
	conf, _ := literal(map[string]any{
		"receivers": receivers,
		"processors": map[string]any{
			"backpressure":   map[string]any{},
			"memory_limiter": limiter, "memory_limiter/metrics": limiter, // one for each: a shared one is written to while it runs, when the second pipeline starts
			"enrich":      map[string]any{"headers": list(c.cfg.Redact.Headers), "drop": list(c.cfg.Redact.Drop), "hash": list(c.cfg.Redact.Hash)},
			"cardinality": map[string]any{"services": c.cfg.Cardinality.Services, "names": c.cfg.Cardinality.Names, "keys": c.cfg.Cardinality.Keys},
		},
		"exporters":  exporters,
		"connectors": map[string]any{},
		"extensions": extensions,
		"service":    map[string]any{"extensions": names(extensions), "pipelines": lines},
	}).(map[string]any)
	lines = conf["service"].(map[string]any)["pipelines"].(map[string]any) //nolint:forcetypeassert // as above
	from := map[string][]any{"traces": names(receivers)}
	if receivers["otlp"] != nil {
		from["metrics"] = []any{"otlp"}
	}
	if c.raw != nil {
		add, err := c.raw.merge(conf)
		if err != nil {
			return nil, err
		}
		for signal := range end {
			from[signal] = append(from[signal], add.receivers[signal]...)
			copies[signal] = append(copies[signal], add.exporters[signal]...)
			if len(copies[signal]) > 0 || c.raw.uses(signal, stored.Type.String()) {
				end[signal] = stored.Type.String()
			}
		}
	}
	steps := map[string][]any{"traces": {"backpressure", "memory_limiter", "enrich", "cardinality"}, "metrics": {"backpressure", "memory_limiter/metrics", "enrich"}}
	for signal, end := range end {
		if len(from[signal]) == 0 {
			continue
		}
		lines[signal] = map[string]any{"receivers": from[signal], "processors": steps[signal], "exporters": []any{end}}
		if len(copies[signal]) > 0 {
			lines[signal+"/export"] = map[string]any{"receivers": []any{stored.Type.String()}, "exporters": copies[signal]}
		}
		if end == stored.Type.String() {
			conf["connectors"].(map[string]any)[end] = map[string]any{} //nolint:forcetypeassert // as above
		}
	}
	return conf, nil
}

// storage is the configuration of the queues on disk. A write goes to the system at once and to the disk when the system sees fit: a crash of the process loses
// nothing of a queue, a power cut may lose the last seconds; the store has them in any case.
func (c *Collector) storage() map[string]any {
	return map[string]any{
		"directory": c.cfg.ExportDir, "create_directory": true, "timeout": "5s", "recreate": true,
		"compaction": map[string]any{"directory": c.cfg.ExportDir, "on_start": true, "on_rebound": true, "cleanup_on_start": true},
	}
}

// list is a slice as configurations have them.
func list(s []string) []any {
	out := make([]any, len(s))
	for i, v := range s {
		out[i] = v
	}
	return out
}

// places is how many batches a port has in work at once; one connection may have a quarter of them. See gate.New.
func (c *Collector) places() int { return min(max(c.cfg.MemoryLimitMiB/8, 8), 256) }

// receivers is the configuration of those that are on, by name. Each stands behind the gate and within the same limits.
func (c *Collector) receivers() map[string]any {
	grpc := func(addr, gate string) map[string]any {
		return map[string]any{
			"endpoint": addr, "max_recv_msg_size_mib": maxMessageMiB, "max_concurrent_streams": max(4, c.places()/4), "middlewares": []any{map[string]any{"id": gate}},
			// A sidecar whose machine vanished says nothing: its connection is asked after, and closed.
			"keepalive": map[string]any{"server_parameters": map[string]any{"time": "30s", "timeout": "10s"}},
		}
	}
	http := func(addr string) map[string]any { // a sender that stalls must not hold up the end of the process
		return map[string]any{
			"endpoint": addr, "max_request_body_size": maxMessageMiB << 20, "read_timeout": "20s", "write_timeout": "20s",
			"middlewares": []any{map[string]any{"id": "gate"}},
		}
	}
	all := map[string]any{"inside": map[string]any{}}
	protocols := map[string]any{}
	if c.cfg.GRPC != "" {
		protocols["grpc"] = grpc(c.cfg.GRPC, "gate")
	}
	if c.cfg.HTTP != "" {
		protocols["http"] = http(c.cfg.HTTP)
	}
	if len(protocols) > 0 {
		all["otlp"] = map[string]any{"protocols": protocols}
	}
	if c.cfg.Zipkin != "" {
		all["zipkin"] = http(c.cfg.Zipkin)
	}
	if c.cfg.EnvoyALS != "" {
		als := grpc(c.cfg.EnvoyALS, "gate/streams")
		als["max_recv_msg_size_mib"] = 1 // each of many streams may hold one; Envoy sends 16 KiB at a time, or one entry
		all["envoy_als"] = als
	}
	protocols = map[string]any{}
	if c.cfg.JaegerGRPC != "" {
		gate := "gate"
		if loopback(c.cfg.JaegerGRPC) { // Jaeger's clients have no certificate of the mesh
			gate = "gate/plaintext"
		}
		protocols["grpc"] = grpc(c.cfg.JaegerGRPC, gate)
	}
	if c.cfg.JaegerHTTP != "" {
		protocols["thrift_http"] = http(c.cfg.JaegerHTTP)
	}
	if c.cfg.JaegerCompact != "" {
		protocols["thrift_compact"] = map[string]any{"endpoint": c.cfg.JaegerCompact}
	}
	if c.cfg.JaegerBinary != "" {
		protocols["thrift_binary"] = map[string]any{"endpoint": c.cfg.JaegerBinary}
	}
	if len(protocols) > 0 {
		all["jaeger"] = map[string]any{"protocols": protocols}
	}
	return all
}

// loopback says whether only this machine reaches the address.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

const maxMessageMiB = 16
