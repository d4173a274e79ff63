package jaegerapi

import (
	"context"
	"net/http"
	"net/http/httptest"
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
