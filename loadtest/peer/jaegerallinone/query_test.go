// Package jaegerallinone asks Jaeger v1.62's own query service, over its memory store, what dashboard/jaegerapi is asked, of the same spans: its answers are the golden
// files of that package's TestOriginal. make test-jaeger checks that they still are; -rewrite writes them.
package jaegerallinone

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jaegertracing/jaeger/cmd/query/app"
	"github.com/jaegertracing/jaeger/cmd/query/app/apiv3"
	"github.com/jaegertracing/jaeger/cmd/query/app/querysvc"
	"github.com/jaegertracing/jaeger/pkg/jtracer"
	"github.com/jaegertracing/jaeger/pkg/tenancy"
	"github.com/jaegertracing/jaeger/plugin/metrics/disabled"
	"github.com/jaegertracing/jaeger/plugin/storage/memory"
	translator "github.com/open-telemetry/opentelemetry-collector-contrib/pkg/translator/jaeger"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the golden files")

func TestQuery(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "dashboard", "jaegerapi", "testdata", "jaeger")
	b, err := os.ReadFile(filepath.Join(dir, "spans.json"))
	if err != nil {
		t.Fatal(err)
	}
	td, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(b)
	if err != nil {
		t.Fatal(err)
	}
	batches, err := translator.ProtoFromTraces(td)
	if err != nil {
		t.Fatal(err)
	}
	store := memory.NewStore()
	for _, b := range batches {
		for _, s := range b.Spans {
			if s.Process == nil {
				s.Process = b.Process
			}
			if err := store.WriteSpan(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
	}
	metrics, err := disabled.NewMetricsReader()
	if err != nil {
		t.Fatal(err)
	}
	service := querysvc.NewQueryService(store, store, querysvc.QueryServiceOptions{})
	tenants := tenancy.NewManager(&tenancy.Options{})
	router := app.NewRouter()
	app.NewAPIHandler(service, tenants, app.HandlerOptions.MetricsQueryService(metrics)).RegisterRoutes(router)
	(&apiv3.HTTPGateway{QueryService: service, TenancyMgr: tenants, Logger: zap.NewNop(), Tracer: jtracer.NoOp().OTEL}).RegisterRoutes(router)

	asked, err := os.ReadFile(filepath.Join(dir, "requests.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(asked)) {
		name, path, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			router.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			got, file := normalAnswer(t, w.Code, w.Body.Bytes()), filepath.Join(dir, name+".json")
			if *rewrite {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, got) {
				t.Errorf("GET %s: Jaeger does not answer as %s says:\n%s", path, file, got)
			}
		})
	}
}

// normalAnswer is an answer in which order and names of processes do not count. The same function is in dashboard/jaegerapi.
func normalAnswer(t *testing.T, status int, body []byte) []byte {
	t.Helper()
	var v any
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		v = "no JSON"
	}
	if status >= 400 {
		v = nil // the words of errors are each one's own
	}
	out, err := json.MarshalIndent(map[string]any{"status": status, "body": normalValue(v)}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return append(out, '\n')
}

func normalValue(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if ps, ok := v["processes"].(map[string]any); ok {
			spans, _ := v["spans"].([]any)
			for _, s := range spans {
				if m, ok := s.(map[string]any); ok {
					m["processID"] = ps[m["processID"].(string)]
				}
			}
			delete(v, "processes")
		}
		if v["parentSpanId"] == "" {
			delete(v, "parentSpanId") // nothing said at length
		}
		if as, ok := v["attributes"].([]any); ok && len(as) == 1 && v["name"] == nil {
			if a, ok := as[0].(map[string]any); ok && a["key"] == "opentracing.ref_type" {
				delete(v, "attributes") // of a link: Jaeger adds it on the way through its own model
			}
		}
		for k, x := range v {
			v[k] = normalValue(x)
		}
	case []any:
		for i, x := range v {
			v[i] = normalValue(x)
		}
		slices.SortFunc(v, func(a, b any) int {
			x, _ := json.Marshal(a)
			y, _ := json.Marshal(b)
			return bytes.Compare(x, y)
		})
	}
	return v
}
