package collector

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"

	"go.opentelemetry.io/collector/exporter/otlpexporter"
	"go.opentelemetry.io/collector/exporter/otlphttpexporter"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Export is a backend that gets a copy of all spans over OTLP, after the store has them.
type Export struct {
	// URL says where and how: grpc://HOST:PORT and grpcs://HOST:PORT speak OTLP over gRPC, http:// and https:// over HTTP, to /v1/traces below the path.
	URL     string
	Headers map[string]string // sent with every request, as an API key
}

// defaultExportBytes bounds the queue of each backend on disk.
const defaultExportBytes = 256 << 20

// storageID is the extension that keeps exporters' queues on disk, for ours and those of a configuration of one's own.
const storageID = "file_storage"

// exporters is the configuration of one exporter for each backend, by component ID.
func (c *Collector) exporters() (map[string]any, error) {
	out := map[string]any{}
	for i, e := range c.cfg.Export {
		u, err := url.Parse(e.URL)
		if err != nil {
			return nil, fmt.Errorf("export to %q: %w", e.URL, err)
		}
		headers := map[string]any{}
		for k, v := range e.Headers {
			headers[k] = v
		}
		conf := map[string]any{
			"headers": headers, "timeout": "5s", "compression": "gzip",
			// A backend that is away is waited for as long as the queue holds; what does not fit into the queue is dropped from the copy and counted.
			"retry_on_failure": map[string]any{"enabled": true, "initial_interval": "1s", "max_interval": "30s", "max_elapsed_time": "0s"},
			"sending_queue": map[string]any{
				"enabled": true, "storage": storageID, "sizer": "bytes", "queue_size": c.cfg.ExportBytes, "num_consumers": 4, "block_on_overflow": false,
			},
		}
		var name string
		switch u.Scheme {
		case "grpc", "grpcs":
			if _, _, err := net.SplitHostPort(u.Host); err != nil || strings.Trim(u.Path, "/") != "" {
				return nil, fmt.Errorf("export to %q: write it as %s://HOST:PORT", e.URL, u.Scheme)
			}
			conf["endpoint"], conf["tls"] = u.Host, map[string]any{"insecure": u.Scheme == "grpc"}
			name = otlpexporter.NewFactory().Type().String()
		case "http", "https":
			if u.Host == "" {
				return nil, fmt.Errorf("export to %q: there is no host", e.URL)
			}
			conf["endpoint"] = e.URL
			name = otlphttpexporter.NewFactory().Type().String()
		default:
			return nil, fmt.Errorf("export to %q: the URL begins with grpc://, grpcs://, http:// or https://", e.URL)
		}
		if u.User != nil {
			return nil, fmt.Errorf("export to %s: give credentials as a header, not in the URL", u.Redacted())
		}
		out[fmt.Sprintf("%s/export%d", name, i+1)] = conf
	}
	return out, nil
}

// ExportStats says how the copy to one exporter fares. Items are spans, data points and log records.
type ExportStats struct {
	Sent     uint64 `json:"sent"`
	Failed   uint64 `json:"failed"`  // the backend refused them for good
	Refused  uint64 `json:"refused"` // the queue was full
	Queued   int64  `json:"queued"`  // in the queue, in the unit of its limit: bytes for those of Config.Export
	Capacity int64  `json:"capacity"`
}

// exportScope is the only part of the embedded collector that measures; the rest is counted by our own components.
const exportScope = "go.opentelemetry.io/collector/exporter/exporterhelper"

// meters gives the exporters meters, and nobody else.
type meters struct {
	noop.MeterProvider
	real   *sdk.MeterProvider
	reader *sdk.ManualReader
}

func newMeters() *meters {
	r := sdk.NewManualReader()
	return &meters{real: sdk.NewMeterProvider(sdk.WithReader(r)), reader: r}
}

func (m *meters) Meter(name string, opts ...metric.MeterOption) metric.Meter {
	if name == exportScope {
		return m.real.Meter(name, opts...)
	}
	return m.MeterProvider.Meter(name, opts...)
}

// Shutdown stops nothing: the last counts are read after the collector has ended.
func (*meters) Shutdown(context.Context) error { return nil }

var collecting sync.Mutex // a reader is used by one at a time

// exportStats reads the exporters' own counters.
func (m *meters) exportStats() map[string]ExportStats {
	collecting.Lock()
	defer collecting.Unlock()
	var rm metricdata.ResourceMetrics
	if err := m.reader.Collect(context.Background(), &rm); err != nil && !errors.Is(err, sdk.ErrReaderShutdown) && len(rm.ScopeMetrics) == 0 {
		return nil
	}
	out := map[string]ExportStats{}
	add := func(name string, points []metricdata.DataPoint[int64]) {
		for _, p := range points {
			v, _ := p.Attributes.Value("exporter")
			s := out[v.AsString()]
			switch {
			case strings.HasPrefix(name, "otelcol_exporter_sent_"):
				s.Sent += uint64(p.Value) //nolint:gosec // a count
			case strings.HasPrefix(name, "otelcol_exporter_send_failed_"):
				s.Failed += uint64(p.Value) //nolint:gosec // a count
			case strings.HasPrefix(name, "otelcol_exporter_enqueue_failed_"):
				s.Refused += uint64(p.Value) //nolint:gosec // a count
			case name == "otelcol_exporter_queue_size":
				s.Queued += p.Value
			case name == "otelcol_exporter_queue_capacity":
				s.Capacity += p.Value
			default:
				continue
			}
			out[v.AsString()] = s
		}
	}
	for _, sm := range rm.ScopeMetrics {
		for _, x := range sm.Metrics {
			switch d := x.Data.(type) {
			case metricdata.Sum[int64]:
				add(x.Name, d.DataPoints)
			case metricdata.Gauge[int64]:
				add(x.Name, d.DataPoints)
			}
		}
	}
	return out
}

// names are the keys of a part of a configuration, sorted.
func names(m map[string]any) []any {
	var out []any
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k)
	}
	return out
}
