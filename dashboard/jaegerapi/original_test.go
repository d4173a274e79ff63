package jaegerapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/source"
)

// differs are the requests that are answered otherwise than by Jaeger v1.62, on purpose.
var differs = map[string]string{
	"no_service":               "without a service all are searched; v1.62 asks for one",
	"v3_no_service":            "without a service all are searched; its memory store finds nothing",
	"v3_operations_no_service": "a service is asked for, as later versions do",
	"search_tag_error_tag":     "error=true is a failed span by its status; an attribute called error beside a status that is unset is not",
}

// TestOriginal asks what Jaeger v1.62's own query service was asked, of the same spans (testdata/jaeger; loadtest/peer/jaegerallinone makes and checks the answers).
func TestOriginal(t *testing.T) {
	dir := filepath.Join("testdata", "jaeger")
	b, err := os.ReadFile(filepath.Join(dir, "spans.json"))
	if err != nil {
		t.Fatal(err)
	}
	td, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(b)
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t)
	if err := s.Write(t.Context(), td); err != nil {
		t.Fatal(err)
	}
	m := http.NewServeMux()
	Register(m, &source.Sources{Spans: s, Graph: &dashboardtest.Graph{}, Now: func() time.Time { return epoch }})
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
			m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			want, err := os.ReadFile(filepath.Join(dir, name+".json"))
			if err != nil {
				t.Fatal(err)
			}
			same := bytes.Equal(want, normalAnswer(t, w.Code, w.Body.Bytes()))
			switch why, known := differs[name]; {
			case !same && !known:
				t.Errorf("GET %s\nJaeger answers\n%s\nand this\n%s", path, want, normalAnswer(t, w.Code, w.Body.Bytes()))
			case same && known:
				t.Errorf("GET %s: the answer is Jaeger's; take the line out of differs (%s)", path, why)
			}
		})
	}
}

// normalAnswer is an answer in which order and names of processes do not count. The same function is in loadtest/peer/jaegerallinone.
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
