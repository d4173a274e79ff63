package observer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tulle-mesh/tulle/collector"
)

// carry is the part of the collector's configuration that comes from flags.
func (c *Config) carry() collector.Config {
	return collector.Config{
		GRPC: c.OTLPGRPC, HTTP: c.OTLPHTTP, Zipkin: c.Zipkin,
		JaegerGRPC: c.JaegerGRPC, JaegerHTTP: c.JaegerHTTP, JaegerCompact: c.JaegerCompact, JaegerBinary: c.JaegerBinary, EnvoyALS: c.EnvoyALS,
		Redact: c.Redact, Cardinality: c.Cardinality, Export: c.Export, ExportDir: filepath.Join(c.DataDir, "export"), ExportBytes: c.ExportBytes,
		Raw: c.CollectorYAML, RawName: c.CollectorFile, MemoryLimitMiB: c.MemoryLimitMiB * 3 / 4,
	}
}

// CollectorConfig is the configuration of the OpenTelemetry Collector that an observer of cfg would run, as YAML.
func CollectorConfig(cfg Config) ([]byte, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	return collector.Print(cfg.carry())
}

// openCollector makes the collector. What is wrong with a configuration of one's own is found before anything listens.
func (o *Observer) openCollector() (*collector.Collector, error) {
	cfg := o.cfg.carry()
	cfg.OnEvent, cfg.Identity, cfg.Spans, cfg.Metrics, cfg.Registry, cfg.Log = o.journal.add, o.holder, o.spans, o.graph, o.registry, o.log.With("part", "collector")
	if len(cfg.Redact.Hash) > 0 {
		var err error
		if cfg.HashKey, err = hashKey(filepath.Join(o.cfg.DataDir, "redact.key")); err != nil {
			return nil, err
		}
	}
	if len(cfg.Raw) > 0 {
		if err := collector.Check(context.Background(), cfg); err != nil {
			return nil, err
		}
	}
	return collector.New(cfg)
}

// hashKey reads the key in path, or makes one the first time. Whoever has it can try values until their hash is the one that is kept.
func hashKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		key = make([]byte, 32)
		_, _ = rand.Read(key) // never fails
		err = os.WriteFile(path, key, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("the key that attributes are hashed with: %w", err)
	}
	if len(key) < 16 {
		return nil, fmt.Errorf("the key that attributes are hashed with, %s, has %d bytes: remove it, and hashes of equal values differ from here on", path, len(key))
	}
	return key, nil
}
