//go:build unix

package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tulle-mesh/tulle/collector"
	"github.com/tulle-mesh/tulle/collector/processor/cardinality"
	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/observer"
)

// observerFlags are shared by observer and server.
type observerFlags struct {
	cfg     observer.Config
	exports []string // URLs
	file    string   // configuration of the OpenTelemetry Collector
	headers []string // NAME=VALUE or NAME=@FILE, of requests to all of them
}

// flags adds them; under server the controller, its trust domain and the observer's way to join it are the server's to say.
func (v *observerFlags) flags(f *pflag.FlagSet, server bool) {
	c := &v.cfg
	if !server {
		f.StringVar(&c.DataDir, "data-dir", "", "where spans, series and events are kept (required)")
		f.StringVar(&c.Controller, "controller", controller.DefaultGRPC, "address of the controller; empty: look at what was kept, without one")
		f.StringVar(&c.TrustDomain, "trust-domain", observer.DefaultTrustDomain, "SPIFFE trust domain of this mesh")
		f.StringVar(&c.BundleFile, "bundle", "", "PEM file with the mesh's trust anchors (the controller's ca/bundle.pem)")
		f.StringVar(&c.TokenFile, "token-file", "", "file with the join token; needed the first time ('tulle ca token' issues one)")
	}
	f.StringVar(&c.HTTP, "http", observer.DefaultHTTP, "address of the dashboard, query APIs and metrics")
	f.StringSliceVar(&c.HTTPHosts, "http-host", nil, "further host names that requests may be addressed to")
	f.StringVar(&c.OTLPGRPC, "otlp-grpc", observer.DefaultOTLPGRPC, "address for OTLP over gRPC, from sidecars (mTLS)")
	f.StringVar(&c.OTLPHTTP, "otlp-http", observer.DefaultOTLPHTTP, "address for OTLP over HTTP, from applications; off for none")
	f.StringVar(&c.Zipkin, "zipkin", "", "address for spans of Zipkin v2, from applications (9411 is usual); none if empty")
	f.StringVar(&c.JaegerGRPC, "jaeger-grpc", "", "address for Jaeger over gRPC, from applications (14250 is usual); mTLS unless it is a loopback address")
	f.StringVar(&c.JaegerHTTP, "jaeger-http", "", "address for Jaeger's Thrift over HTTP, from applications (14268 is usual)")
	f.StringVar(&c.JaegerCompact, "jaeger-udp", "", "address for Jaeger's agent protocol over UDP, compact Thrift (6831 is usual)")
	f.StringVar(&c.JaegerBinary, "jaeger-udp-binary", "", "the same with binary Thrift (6832 is usual)")
	f.StringVar(&c.EnvoyALS, "envoy-als", "", "address for Envoy's access log service over gRPC (18090 is usual); mTLS unless it is a loopback address")
	f.StringVar(&c.JaegerQuery, "jaeger-query", "", "address for Jaeger's query and remote storage APIs over gRPC (16685 is usual); none if empty; mTLS unless it is a loopback address")
	f.StringSliceVar(&c.Redact.Headers, "redact-headers", nil, "header fields that spans may keep, all others are dropped; empty: all but private ones")
	f.StringSliceVar(&c.Redact.Drop, "redact-drop", nil, "attribute keys that spans lose; * and ? stand for any characters")
	f.StringSliceVar(&c.Redact.Hash, "redact-hash", nil, "attribute keys whose values spans have as a keyed hash only")
	f.IntVar(&c.Cardinality.Services, "max-services", cardinality.Default.Services, "services outside the mesh that are told apart; others are \"other\"")
	f.IntVar(&c.Cardinality.Names, "max-span-names", cardinality.Default.Names, "span names of each application that are told apart")
	f.IntVar(&c.Cardinality.Keys, "max-attributes", cardinality.Default.Keys, "different attribute keys of each application that are kept")
	f.StringSliceVar(&v.exports, "export-otlp", nil, "backend that gets a copy of all spans: grpc://HOST:PORT, grpcs://, http:// or https:// (repeat)")
	f.StringArrayVar(&v.headers, "export-header", nil, "header of requests to these backends, NAME=VALUE or NAME=@FILE (repeat)")
	f.Int64Var(&c.ExportBytes, "export-queue-bytes", 256<<20, "bytes that may wait on disk for each of them")
	f.StringVar(&v.file, "collector-config", "", "configuration file of the OpenTelemetry Collector, which is merged with the observer's")
	f.StringSliceVar(&c.WebhookURLs, "webhook", nil, "URL that alerts are sent to (repeat)")
	f.StringVar(&c.RulesDir, "rules", "", "folder with further Prometheus rule files")
	f.StringVar(&c.AlertConfig, "alert-config", "", "Alertmanager configuration file, instead of --webhook")
	f.StringVar(&c.ExternalURL, "external-url", "", "the dashboard as people reach it, for links (default: http:// and --http)")
	f.StringVar(&c.SpanBackend, "span-store", "local", "where spans are kept: local (files in --data-dir), cassandra or opensearch")
	f.StringSliceVar(&c.SpanEngine.Addresses, "span-store-address", nil, "HOST:PORT of some nodes of that engine, or their URLs (repeat)")
	f.StringVar(&c.SpanEngine.Keyspace, "span-store-keyspace", "", "keyspace in it, or what names of indices begin with (default: tulle)")
	f.StringVar(&c.SpanEngine.Username, "span-store-user", "", "user name there")
	f.StringVar(&c.SpanEngine.PasswordFile, "span-store-password-file", "", "file with that user's password")
	f.StringVar(&c.SpanEngine.CAFile, "span-store-ca", "", "PEM file with the authorities of the engine's certificates; without it no TLS is spoken")
	f.StringVar(&c.SpanEngine.DataCenter, "span-store-datacenter", "", "the engine's data centre that this observer writes to and reads from")
	f.IntVar(&c.SpanEngine.Replication, "span-store-replication", 0, "copies of each span, where keyspaces and indices are made (default: 1)")
	f.DurationVar(&c.SpanRetain, "span-retain", 0, "how long spans are kept (default: the store's)")
	f.Uint64Var(&c.SpanRetainBytes, "span-retain-bytes", 0, "how many bytes of spans are kept (default: the store's)")
	f.DurationVar(&c.SpanThinAfter, "span-thin-after", 0, "the age at which ordinary traces may be left out to make room (default: the store's)")
	f.IntVar(&c.SpanThinKeep, "span-thin-keep", 0, "of those, one in so many stays; 1: all do (default: the store's)")
	f.DurationVar(&c.MetricRetain, "metric-retain", 15*24*time.Hour, "how long series are kept")
	f.StringSliceVar(&c.RemoteWrite, "remote-write", nil, "URL that series are sent to besides, by Prometheus' remote write (repeat)")
	f.StringVar(&c.RemoteWriteConfig, "remote-write-config", "", "file with remote_write as in Prometheus' configuration: passwords, TLS, relabelling")
	f.IntVar(&c.MemoryLimitMiB, "memory-limit", observer.DefaultMemoryLimitMiB, "soft memory limit, MiB")
	f.IntVar(&c.QueryMemoryMiB, "query-memory", 0, "what all queries together may hold of traces and spans at a time, MiB (default: four fifths of --memory-limit)")
}

// complete makes the configuration of what flags say in a form of their own.
func (v *observerFlags) complete() error {
	headers := map[string]string{}
	for _, h := range v.headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok || name == "" {
			return usageError{fmt.Errorf("--export-header is NAME=VALUE or NAME=@FILE")} // h may be a secret
		}
		if file, ok := strings.CutPrefix(value, "@"); ok {
			b, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("the value of --export-header %s: %w", name, err)
			}
			value = strings.TrimSpace(string(b))
		}
		headers[name] = value
	}
	if v.file != "" {
		b, err := os.ReadFile(v.file)
		if err != nil {
			return fmt.Errorf("--collector-config: %w", err)
		}
		v.cfg.CollectorYAML, v.cfg.CollectorFile = b, v.file
	}
	v.cfg.Export = nil
	for _, u := range v.exports {
		v.cfg.Export = append(v.cfg.Export, collector.Export{URL: u, Headers: headers})
	}
	return nil
}

// listeners are what the observer listens on.
func (v *observerFlags) listeners() []listener {
	return []listener{
		{"the dashboard", "--http", v.cfg.HTTP},
		{"OTLP over gRPC", "--otlp-grpc", v.cfg.OTLPGRPC},
		{"OTLP over HTTP", "--otlp-http", v.cfg.OTLPHTTP},
		{"Zipkin", "--zipkin", v.cfg.Zipkin},
		{"Jaeger over gRPC", "--jaeger-grpc", v.cfg.JaegerGRPC},
		{"Jaeger over HTTP", "--jaeger-http", v.cfg.JaegerHTTP},
		{"Envoy's access logs", "--envoy-als", v.cfg.EnvoyALS},
		{"Jaeger's query API", "--jaeger-query", v.cfg.JaegerQuery},
	}
}

// passed are the flags that server hands on as they were given to it.
var passed = []string{
	"http", "http-host", "otlp-grpc", "otlp-http", "webhook", "rules", "alert-config", "external-url",
	"zipkin", "jaeger-grpc", "jaeger-http", "jaeger-udp", "jaeger-udp-binary", "envoy-als", "jaeger-query",
	"redact-headers", "redact-drop", "redact-hash", "max-services", "max-span-names", "max-attributes",
	"export-otlp", "export-header", "export-queue-bytes", "collector-config",
	"span-retain", "span-retain-bytes", "metric-retain", "memory-limit", "remote-write", "remote-write-config",
	"span-thin-after", "span-thin-keep",
	"span-store", "span-store-address", "span-store-keyspace", "span-store-user", "span-store-password-file", "span-store-ca", "span-store-datacenter", "span-store-replication",
}

// handOn is the command line that sets those of the flags named that were set in f.
func handOn(f *pflag.FlagSet, names []string) []string {
	var out []string
	for _, n := range names {
		fl := f.Lookup(n)
		if fl == nil || !fl.Changed {
			continue
		}
		if list, ok := fl.Value.(pflag.SliceValue); ok {
			for _, v := range list.GetSlice() {
				out = append(out, "--"+n, v)
			}
			continue
		}
		out = append(out, "--"+n, fl.Value.String())
	}
	return out
}

func observerCommand() *cobra.Command {
	var (
		v        observerFlags
		level    string
		printing bool
	)
	c := &cobra.Command{
		Use: "observer", GroupID: "run", Args: noArgs,
		Short: "Run the observer: collector, store, dashboard, alerts",
		RunE: func(c *cobra.Command, _ []string) error {
			log, err := logger(level)
			if err != nil {
				return err
			}
			if v.cfg.DataDir == "" {
				return usageError{fmt.Errorf("--data-dir is required: a folder where spans, series and events are kept")}
			}
			if err := v.complete(); err != nil {
				return err
			}
			if printing {
				b, err := observer.CollectorConfig(v.cfg)
				if err != nil {
					return err
				}
				_, err = c.OutOrStdout().Write(b)
				return err
			}
			if err := checkPorts(v.listeners()...); err != nil {
				return err
			}
			v.cfg.Log, v.cfg.Version = log.With("process", "observer"), version
			return observer.Run(c.Context(), v.cfg)
		},
	}
	v.flags(c.Flags(), false)
	c.Flags().StringVar(&level, "log-level", "info", "debug, info, warn or error")
	c.Flags().BoolVar(&printing, "print-collector-config", false, "print the configuration of the collector, and end")
	return c
}
