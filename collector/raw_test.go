package collector_test

import (
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tulle-mesh/tulle/collector"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

func TestAConfigurationOfOnesOwnAddsToOurs(t *testing.T) {
	p, sampled := newPeer(), newPeer()
	t.Setenv("TULLE_TEST_PEER", servePeer(t, p, "127.0.0.1:0"))
	zipkin := freeAddr(t)
	db := openSpans(t, t.TempDir())
	cfg := with(func(c *collector.Config) {
		c.Spans, c.ExportDir, c.Metrics = db, t.TempDir(), &sink{}
		c.RawName = "my.yaml"
		c.Raw = fmt.Appendf(nil, `
receivers:
  zipkin/mine: {endpoint: %s}
processors:
  batch: {timeout: 10ms}
exporters:
  otlp_grpc/all: {endpoint: "${env:TULLE_TEST_PEER}", tls: {insecure: true}, sending_queue: {storage: file_storage}}
  otlp_grpc/batched: {endpoint: "%s", tls: {insecure: true}}
service:
  pipelines:
    traces: {receivers: [zipkin/mine], exporters: [otlp_grpc/all]}
    traces/batched: {receivers: [stored], processors: [batch], exporters: [otlp_grpc/batched]}
`, zipkin, servePeer(t, sampled, "127.0.0.1:0"))
	})
	if err := collector.Check(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	c, _ := start(t, cfg)
	if a := postTo(t, zipkin, "/api/v2/spans", "application/json", []byte(zipkinJSON)); a.code != 202 {
		t.Fatalf("%+v", a)
	}
	checkForeign(t, db) // through our steps: marked and redacted as any other
	if err := send(t.Context(), dial(t, c, insecure.NewCredentials()), numbered(1)); err != nil {
		t.Fatal(err)
	}
	p.await(t, 2)
	sampled.await(t, 2)
	if p.keys["http.request.header.cookie"] || p.keys[flow.AttrReporterIdentity] {
		t.Errorf("the copy holds %v", p.keys)
	}
}

func TestErrorsInAConfigurationSayWhere(t *testing.T) {
	for name, x := range map[string]struct{ yaml, want string }{
		"no YAML":            {"receivers: [", "my.yaml: "},
		"unknown part":       {"\nreceiver: {}", "my.yaml:2: receiver: "},
		"no mapping":         {"receivers: [zipkin]", "my.yaml:1: receivers: "},
		"ours":               {"receivers:\n  otlp: {}", "my.yaml:2: receivers otlp: Tulle has one of this name; call yours otlp/NAME"},
		"second store":       {"exporters:\n  tullestore/x:", "my.yaml:2: exporters tullestore/x: "},
		"past our steps":     {"service:\n  pipelines:\n    traces/x:\n      receivers: [zipkin]\n      exporters: [tullestore]", "my.yaml:3: pipelines traces/x: nothing gets into the store past"},
		"our steps":          {"service:\n  pipelines:\n    traces: {processors: [batch]}", "my.yaml:3: pipelines traces: the steps of"},
		"our telemetry":      {"service:\n  telemetry: {logs: {level: debug}}", "my.yaml:2: service telemetry: "},
		"unknown type":       {"\nexporters:\n  kafka/x: {brokers: []}", "my.yaml:3: exporters kafka/x: "},
		"unknown field":      {"exporters:\n  otlp_grpc/x:\n    endpoint: a:1\n    colour: red", "my.yaml:2: exporters otlp_grpc/x: "},
		"invalid value":      {"exporters:\n  otlp_grpc/x: {}\nservice: {pipelines: {traces: {exporters: [otlp_grpc/x]}}}", "my.yaml:2: exporters otlp_grpc/x: "},
		"unknown component":  {"service:\n  pipelines:\n    traces/x: {receivers: [stored], exporters: [otlp_grpc/none]}", "my.yaml:3: pipelines traces/x: "},
		"wrong list":         {"service:\n  pipelines:\n    traces/x: {receivers: stored}", "my.yaml:3: pipelines traces/x: receivers must be a list"},
		"wrong environment":  {"exporters:\n  otlp_grpc/x: {endpoint: \"${file:/etc/passwd}\"}", "my.yaml: "},
		"pipeline of nobody": {"service:\n  pipelines:\n    spans/x: {receivers: [stored], exporters: [debug]}", "my.yaml:3: pipelines spans/x: "},
	} {
		t.Run(name, func(t *testing.T) {
			err := collector.Check(t.Context(), collector.Config{Spans: refusing{}, GRPC: "127.0.0.1:0", ExportDir: t.TempDir(), RawName: "my.yaml", Raw: []byte(x.yaml)})
			if err == nil || !strings.Contains(err.Error(), x.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v\nwant one line with %q", err, x.want)
			}
		})
	}
}

// A file that adds nothing changes nothing, and what is printed is what runs.
func TestPrintedConfiguration(t *testing.T) {
	cfg := collector.Config{
		Spans: refusing{err: store.ErrBusy}, GRPC: "127.0.0.1:4317", Zipkin: "127.0.0.1:9411", ExportDir: "/data/export",
		Export: []collector.Export{{URL: "https://tempo.example/otlp", Headers: map[string]string{"authorization": "secret"}}},
	}
	alone, err := collector.Print(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Raw = []byte("# nothing\n")
	if both, err := collector.Print(cfg); err != nil || string(both) != string(alone) {
		t.Errorf("%v\n%s", err, both)
	}
	cfg.Raw = []byte("exporters: {debug: {verbosity: detailed}}\nservice: {pipelines: {traces: {exporters: [debug]}}}\n")
	b, err := collector.Print(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var conf struct {
		Service struct {
			Pipelines map[string]struct{ Receivers, Processors, Exporters []string }
		}
	}
	if err := yaml.Unmarshal(b, &conf); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(conf.Service.Pipelines)
	want := "map[metrics:{[otlp] [backpressure memory_limiter/metrics enrich] [tullestore]} traces:{[inside otlp zipkin] [backpressure memory_limiter enrich cardinality] [stored]} " +
		"traces/export:{[stored] [] [otlp_http/export1 debug]}]"
	if got != want || strings.Contains(string(b), "secret") || cfg.Export[0].Headers["authorization"] != "secret" {
		t.Errorf("pipelines\n%s\nwant\n%s\nin\n%s", got, want, b)
	}
}
