//go:build engines

package cassandra

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/storetest"
)

func address(t testing.TB) string {
	t.Helper()
	a := os.Getenv("CASSANDRA")
	if a == "" {
		t.Fatal("CASSANDRA does not name a node (host:port): run this by 'make test-engines'")
	}
	return a
}

var keyspaces atomic.Int64

func fresh(t *testing.T) *DB {
	t.Helper()
	return freshAt(t, address(t))
}

// freshAt opens a keyspace of its own, which is removed at the end.
func freshAt(t testing.TB, at string) *DB {
	t.Helper()
	db, err := Open(t.Context(), Config{Addresses: []string{at}, Keyspace: fmt.Sprintf("tulle_test_%d_%d", os.Getpid(), keyspaces.Add(1))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c := db.cfg
		c.Addresses = []string{address(t)}
		cl, err := c.cluster()
		if err != nil {
			t.Fatal(err)
		}
		cl.Timeout = time.Minute // dropping takes its time
		s, err := cl.CreateSession()
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Query("DROP KEYSPACE " + db.cfg.Keyspace).WithContext(context.Background()).Exec(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Spans { return fresh(t) })
}

// relay stands between an engine and who uses it, and can be cut.
type relay struct {
	to string
	l  net.Listener

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]struct{}
}

func newRelay(t *testing.T, to string) *relay {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{to: to, l: l, conns: map[net.Conn]struct{}{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil || !r.add(in, out) {
				_ = in.Close()
				continue
			}
			for _, c := range [][2]net.Conn{{in, out}, {out, in}} {
				wg.Go(func() {
					_, _ = io.Copy(c[0], c[1])
					_, _ = c[0].Close(), c[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.set(true)
		wg.Wait()
	})
	return r
}

func (r *relay) add(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		if r.cut {
			_ = c.Close()
		} else {
			r.conns[c] = struct{}{}
		}
	}
	return !r.cut
}

// set cuts what there is and what comes, or lets all through again.
func (r *relay) set(cut bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
	if cut {
		for c := range r.conns {
			_ = c.Close()
		}
		clear(r.conns)
	}
}

// While the engine is away a batch is refused so that it is sent again, soon enough; when it is back, all of it is there, and can be found by names that were first written
// while it was away.
func TestEngineAway(t *testing.T) {
	r := newRelay(t, address(t))
	db := freshAt(t, r.l.Addr().String())
	defer db.Close()
	begin := time.Now().Add(-time.Minute).Truncate(time.Second)
	batch := func(n uint64) ptrace.Traces {
		var spans []storetest.Span
		for i := range uint64(300) {
			spans = append(spans, storetest.Span{Trace: n, ID: i + 1, Service: fmt.Sprintf("service%d", n), Name: fmt.Sprintf("op%d", i%5), Start: begin, Attrs: map[string]any{fmt.Sprintf("key%d", n): "v"}})
		}
		return storetest.Batch(spans...)
	}
	if err := db.Write(t.Context(), batch(1)); err != nil {
		t.Fatal(err)
	}
	r.set(true)
	for range 3 {
		at := time.Now()
		err := db.Write(t.Context(), batch(2))
		if !errors.Is(err, store.ErrBusy) {
			t.Fatalf("write without an engine: %v, want ErrBusy", err)
		}
		if took := time.Since(at); took > 30*time.Second {
			t.Errorf("it was refused after %s", took)
		}
		if _, err := db.Trace(t.Context(), storetest.TraceID(1)); !errors.Is(err, store.ErrBusy) {
			t.Errorf("read without an engine: %v, want ErrBusy", err)
		}
	}
	if db.Stats().LastError == "" {
		t.Error("the stats say that all is well")
	}
	r.set(false)
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for end := time.Now().Add(2 * time.Minute); ; <-again.C {
		err := db.Write(t.Context(), batch(2))
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrBusy) || time.Now().After(end) {
			t.Fatalf("the engine is back: %v", err)
		}
	}
	td, err := db.Trace(t.Context(), storetest.TraceID(2))
	if err != nil || td.SpanCount() != 300 {
		t.Fatalf("%d spans of 300 after they were sent again, %v", td.SpanCount(), err)
	}
	for _, q := range []store.TraceQuery{{}, {Service: "service2", Operation: "op4"}, {Attributes: []store.AttributeMatch{{Key: "key2", Value: "v"}}}} {
		page, err := db.Summaries(t.Context(), q)
		if err != nil || len(page.Traces) == 0 || page.Traces[0].TraceID != storetest.TraceID(2) {
			t.Errorf("search %+v: %+v, %v", q, page, err)
		}
	}
	keys, err := db.AttributeKeys(t.Context())
	if err != nil || !slices.Contains(keys, "key2") {
		t.Errorf("attributes %v, %v", keys, err)
	}
	if s := db.Stats(); s.LastError != "" || s.Written != 600 {
		t.Errorf("stats %+v", s)
	}
}

// The schema is made once; opening again changes its age and nothing else. Two may open at once.
func TestOpenAgain(t *testing.T) {
	db := fresh(t)
	defer db.Close()
	if err := db.Write(t.Context(), storetest.Batch(storetest.Span{Trace: 1, ID: 1, Service: "a", Name: "n", Start: time.Now().Add(-time.Minute)})); err != nil {
		t.Fatal(err)
	}
	c := db.cfg
	c.RetainAge = time.Hour
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			other, err := Open(t.Context(), c)
			if err != nil {
				t.Error(err)
				return
			}
			if td, err := other.Trace(t.Context(), storetest.TraceID(1)); err != nil || td.SpanCount() != 1 {
				t.Errorf("another observer sees %v", err)
			}
			if err := other.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, tb := range tables {
		var age int64
		if err := db.cql.Query("SELECT default_time_to_live FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?", c.Keyspace, tb.name).Scan(&age); err != nil || age != 3600 {
			t.Errorf("%s keeps for %d s, %v", tb.name, age, err)
		}
	}
}

// Bytes, numbers of many digits and long values are found too, whatever the plugin's index has of them.
func TestOddValuesAreFound(t *testing.T) {
	db := fresh(t)
	defer db.Close()
	values := []any{[]byte{1, 2, 3, 250}, 12345678901.5, 0.1, int64(-1 << 63), `{"a":1}`, strings.Repeat("x", 300), "", true}
	begin := time.Now().Add(-time.Minute)
	for i, v := range values {
		if err := db.Write(t.Context(), storetest.Batch(storetest.Span{Trace: uint64(i + 1), ID: 1, Service: "a", Name: "n", Start: begin, Attrs: map[string]any{"k": v}})); err != nil { //nolint:gosec // small
			t.Fatal(err)
		}
	}
	for i, v := range values {
		value := pcommon.NewValueEmpty()
		if err := value.FromRaw(v); err != nil {
			t.Fatal(err)
		}
		page, err := db.Summaries(t.Context(), store.TraceQuery{Attributes: []store.AttributeMatch{{Key: "k", Value: value.AsString()}}})
		if err != nil || len(page.Traces) != 1 || page.Traces[0].TraceID != storetest.TraceID(uint64(i+1)) { //nolint:gosec // small
			t.Errorf("%v: %+v, %v", v, page.Traces, err)
		}
	}
}

// BenchmarkWrite writes batches of 512 spans as sidecars send them, one at a time.
func BenchmarkWrite(b *testing.B) {
	db := freshAt(b, address(b))
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
