package jaegerapi

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// kept has a name that is not that of one of its methods, to be embedded.
type kept = store.Spans

// leaving is a store whose client goes away while the second trace is read.
type leaving struct {
	kept
	leave context.CancelFunc
	reads int
}

func (l *leaving) Trace(ctx context.Context, id flow.TraceID) (ptrace.Traces, error) {
	if l.reads++; l.reads == 2 {
		l.leave()
	}
	if err := ctx.Err(); err != nil {
		return ptrace.Traces{}, err
	}
	return l.kept.Trace(ctx, id)
}

// A search ends when nobody waits for it any more.
func TestClientLeaves(t *testing.T) {
	spans := dashboardtest.NewSpans()
	dashboardtest.Fill(spans, 50, epoch)
	for _, path := range []string{"/api/traces?limit=50", "/api/v3/traces?query.searchDepth=50&" + window} {
		ctx, cancel := context.WithCancel(t.Context())
		l := &leaving{kept: spans, leave: cancel}
		m := http.NewServeMux()
		Register(m, &source.Sources{Spans: l, Graph: &dashboardtest.Graph{}, Now: func() time.Time { return epoch }})
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil).WithContext(ctx))
		cancel()
		if l.reads != 2 || w.Code == http.StatusOK {
			t.Errorf("GET %s: %d traces were read, want 2; status %d", path, l.reads, w.Code)
		}
	}
}

// A search whose answer would be too large says so, and reads no further.
func TestSearchBudget(t *testing.T) {
	defer func(n int) { searchSpans = n }(searchSpans)
	searchSpans = 20
	spans := dashboardtest.NewSpans()
	dashboardtest.Fill(spans, 50, epoch)
	l := &leaving{kept: spans, leave: func() {}}
	m := http.NewServeMux()
	Register(m, &source.Sources{Spans: l, Graph: &dashboardtest.Graph{}, Now: func() time.Time { return epoch }})
	ask := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		m.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w
	}
	w := ask("/api/traces?limit=50")
	var got struct {
		Data []struct {
			Spans []struct{ SpanID string }
		}
		Errors []fault
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	n := 0
	for i, tr := range got.Data {
		if n >= searchSpans {
			t.Errorf("trace %d was added to %d spans", i, n)
		}
		n += len(tr.Spans)
	}
	if n < searchSpans || len(got.Data) == 50 || l.reads != len(got.Data) || len(got.Errors) != 1 || !strings.HasPrefix(got.Errors[0].Msg, "not all: ") {
		t.Errorf("%d traces with %d spans, %d were read, errors %v", len(got.Data), n, l.reads, got.Errors)
	}
	if w := ask("/api/v3/traces?query.searchDepth=50&" + window); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "narrow the search") {
		t.Errorf("API v3: %d %s", w.Code, w.Body)
	}
}
