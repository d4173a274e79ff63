//go:build engines

package opensearch

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/storetest"
)

var prefixes atomic.Int64

// fresh opens a store under a prefix of its own, which is removed at the end.
func fresh(t testing.TB) *DB {
	t.Helper()
	at := os.Getenv("OPENSEARCH")
	if at == "" {
		t.Fatal("OPENSEARCH does not name a node (host:port): run this by 'make test-engines'")
	}
	db, err := Open(t.Context(), Config{Addresses: []string{at}, Prefix: fmt.Sprintf("tulle_test_%d_%d", os.Getpid(), prefixes.Add(1))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, path := range []string{"/" + db.cfg.Prefix + "-*", "/_index_template/" + db.cfg.Prefix} {
			if err := db.ask(context.Background(), http.MethodDelete, path, nil, nil); err != nil {
				t.Error(err)
			}
		}
	})
	return db
}

// visible makes what was written visible at once, instead of within a second.
type visible struct{ *DB }

func (v visible) Write(ctx context.Context, td ptrace.Traces) error {
	if err := v.DB.Write(ctx, td); err != nil {
		return err
	}
	return v.ask(context.WithoutCancel(ctx), http.MethodPost, "/"+v.cfg.Prefix+"-*/_refresh", nil, nil)
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Spans { return visible{fresh(t)} })
}

// Values of every type are found, and come back as they were.
func TestOddValuesAreFound(t *testing.T) {
	db := visible{fresh(t)}
	defer db.Close()
	values := []any{[]byte{1, 2, 3, 250}, []byte(strings.Repeat("x", 1000)), 12345678901.5, 0.1, int64(-1 << 63), `{"a":1}`, strings.Repeat("x", 3000), "", true}
	begin := time.Now().Add(-time.Minute).Truncate(time.Second)
	for i, v := range values {
		td := storetest.Batch(storetest.Span{Trace: uint64(i + 1), ID: 1, Service: "a", Name: "n", Start: begin, Attrs: map[string]any{"k": v}}) //nolint:gosec // small
		if err := db.Write(t.Context(), td); err != nil {
			t.Fatal(err)
		}
		value := pcommon.NewValueEmpty()
		if err := value.FromRaw(v); err != nil {
			t.Fatal(err)
		}
		page, err := db.Summaries(t.Context(), store.TraceQuery{Attributes: []store.AttributeMatch{{Key: "k", Value: value.AsString()}}})
		if err != nil || len(page.Traces) != 1 || page.Traces[0].TraceID != storetest.TraceID(uint64(i+1)) { //nolint:gosec // small
			t.Errorf("%v: %+v, %v", v, page.Traces, err)
		}
		if back, err := db.Trace(t.Context(), storetest.TraceID(uint64(i+1))); err != nil || storetest.Canonical(back)[0] != storetest.Canonical(td)[0] { //nolint:gosec // small
			t.Errorf("%v did not come back: %v", v, err)
		}
	}
}

// Days that are over are removed, others stay.
func TestSweep(t *testing.T) {
	db := visible{fresh(t)}
	defer db.Close()
	if err := db.Write(t.Context(), storetest.Batch(storetest.Span{Trace: 1, ID: 1, Service: "a", Name: "n", Start: time.Now().Add(-time.Minute)})); err != nil {
		t.Fatal(err)
	}
	if err := db.sweep(t.Context(), time.Now().Add(48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Trace(t.Context(), storetest.TraceID(1)); err != nil {
		t.Errorf("after two days of three: %v", err)
	}
	if err := db.sweep(t.Context(), time.Now().Add(5*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if td, err := db.Trace(t.Context(), storetest.TraceID(1)); err == nil {
		t.Errorf("after five days of three %d spans are there", td.SpanCount())
	}
}

// BenchmarkWrite writes batches of 512 spans as sidecars send them, one at a time.
func BenchmarkWrite(b *testing.B) {
	db := fresh(b)
	defer db.Close()
	n := uint64(0)
	for b.Loop() {
		var spans []storetest.Span
		for range 512 {
			n++
			spans = append(spans, storetest.Span{
				Trace: n / 8, ID: n, Service: fmt.Sprintf("s%d", n%8), Name: "GET /", Kind: ptrace.SpanKindServer, Start: time.Now(), Duration: time.Millisecond,
				Attrs: map[string]any{
					flow.AttrStatus: 200, flow.AttrMethod: "GET", flow.AttrPath: "/items", flow.AttrSourceService: "web", flow.AttrDestService: "cart", flow.AttrAnswered: true, flow.AttrDelivered: true,
					flow.AttrKind: "exchange", flow.AttrSide: "server", flow.AttrProtocol: "http/1.1",
				},
				Res: map[string]any{flow.AttrBootID: "0123456789abcdef"},
			})
		}
		if err := db.Write(b.Context(), storetest.Batch(spans...)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "spans/s")
}
