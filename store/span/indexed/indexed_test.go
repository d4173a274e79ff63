package indexed

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/storetest"
)

// memory is the least that an engine can be: it lists spans in the time asked, whatever else was asked, from two partitions.
type memory struct {
	mu      sync.Mutex
	closed  bool
	written int
	batches map[string]bool
	traces  map[flow.TraceID]ptrace.Traces
	hits    [2][]Hit
}

func (m *memory) Hits(_ context.Context, c *Condition) (Hits, func(), error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Hits
	for _, part := range m.hits {
		hits := slices.Clone(part)
		slices.SortFunc(hits, func(a, b Hit) int { return int(b.Start - a.Start) })
		hits = slices.DeleteFunc(hits, func(h Hit) bool { return h.Start < c.From || h.Start > c.To })
		all = append(all, func() (h Hit, ok bool, err error) {
			if len(hits) == 0 {
				return h, false, nil
			}
			h, hits = hits[0], hits[1:]
			return h, true, nil
		})
	}
	return Merge(all), func() {}, nil
}

func (m *memory) Read(_ context.Context, id flow.TraceID) (ptrace.Traces, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	td, ok := m.traces[id]
	if !ok {
		return td, store.ErrNotFound
	}
	out := ptrace.NewTraces()
	td.CopyTo(out)
	return out, nil
}

// spans is a store.Spans over memory.
type spans struct{ m *memory }

func (s spans) enter(ctx context.Context) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.m.closed {
		return store.ErrClosed
	}
	return ctx.Err()
}

func (s spans) Write(ctx context.Context, td ptrace.Traces) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	for _, rs := range td.ResourceSpans().All() {
		boot, _ := rs.Resource().Attributes().Get(flow.AttrBootID)
		seq, stamped := rs.Resource().Attributes().Get(flow.AttrSequence)
		if key := ""; stamped {
			for _, ss := range rs.ScopeSpans().All() {
				for _, sp := range ss.Spans().All() {
					key += sp.SpanID().String()
				}
			}
			key += boot.AsString() + "/" + seq.AsString()
			if s.m.batches[key] {
				continue
			}
			s.m.batches[key] = true
		}
		known := map[pcommon.TraceID]ptrace.ResourceSpans{}
		for _, ss := range rs.ScopeSpans().All() {
			for i, sp := range ss.Spans().All() {
				id := flow.TraceID(sp.TraceID())
				if _, ok := s.m.traces[id]; !ok {
					s.m.traces[id] = ptrace.NewTraces()
				}
				to, ok := known[sp.TraceID()]
				if !ok {
					to = s.m.traces[id].ResourceSpans().AppendEmpty()
					rs.Resource().CopyTo(to.Resource())
					to.SetSchemaUrl(rs.SchemaUrl())
					known[sp.TraceID()] = to
				}
				scope := to.ScopeSpans().AppendEmpty()
				ss.Scope().CopyTo(scope.Scope())
				scope.SetSchemaUrl(ss.SchemaUrl())
				sp.CopyTo(scope.Spans().AppendEmpty())
				s.m.hits[i%2] = append(s.m.hits[i%2], Hit{micros(sp.StartTimestamp()), id})
				s.m.written++
			}
		}
	}
	return nil
}

func (s spans) Trace(ctx context.Context, id flow.TraceID) (ptrace.Traces, error) {
	if err := s.enter(ctx); err != nil {
		return ptrace.Traces{}, err
	}
	return s.m.Read(ctx, id)
}

func (s spans) Summaries(ctx context.Context, q store.TraceQuery) (store.TracePage, error) {
	if err := s.enter(ctx); err != nil {
		return store.TracePage{}, err
	}
	return Summaries(ctx, s.m, q)
}

func (s spans) Spans(ctx context.Context, q store.TraceQuery, yield func(store.Span) bool) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	return Spans(ctx, s.m, q, yield)
}

func (s spans) Count(ctx context.Context, q store.TraceQuery, steps store.Steps) (store.Counts, error) {
	if err := s.enter(ctx); err != nil {
		return store.Counts{}, err
	}
	return Count(ctx, s.m, q, steps)
}

func (s spans) list(ctx context.Context, of func(pcommon.Resource, ptrace.Span) []string) ([]string, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	var out []string
	for _, td := range s.m.traces {
		each(td, func(r pcommon.Resource, sp ptrace.Span) { out = append(out, of(r, sp)...) })
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

func (s spans) Services(ctx context.Context) ([]string, error) {
	return s.list(ctx, func(r pcommon.Resource, _ ptrace.Span) []string { return []string{service(r)} })
}

func (s spans) Operations(ctx context.Context, of string) (out []store.Operation, err error) {
	list, err := s.list(ctx, func(r pcommon.Resource, sp ptrace.Span) []string {
		if service(r) != of {
			return nil
		}
		return []string{sp.Name() + "\x00" + strings.ToLower(sp.Kind().String())}
	})
	for _, l := range list {
		n, k, _ := strings.Cut(l, "\x00")
		out = append(out, store.Operation{Name: n, Kind: k})
	}
	return out, err
}

func (s spans) AttributeKeys(ctx context.Context) ([]string, error) {
	return s.list(ctx, func(r pcommon.Resource, sp ptrace.Span) (out []string) {
		for _, m := range []pcommon.Map{r.Attributes(), sp.Attributes()} {
			for k := range m.All() {
				out = append(out, k)
			}
		}
		return out
	})
}

func (s spans) Stats() store.SpanStats { return store.SpanStats{Written: uint64(s.m.written)} } //nolint:gosec // small

func (spans) Capabilities() store.Capabilities {
	return store.Capabilities{Name: "memory", SearchWithoutService: true, AttributeSearch: true, DurationSearch: true, KeysetPaging: true, WholeForm: true, WholeBatches: true, Repeats: true}
}

func (s spans) Close() error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.m.closed = true
	return nil
}

func open() spans {
	return spans{&memory{batches: map[string]bool{}, traces: map[flow.TraceID]ptrace.Traces{}}}
}

// The least engine gives the answers of the contract.
func TestConformance(t *testing.T) {
	storetest.Run(t, func(*testing.T) store.Spans { return open() })
}

// A page of the newest traces does not read the others.
func TestSearchEndsWithThePage(t *testing.T) {
	s := open()
	begin := time.Now().Add(-time.Hour)
	for i := range uint64(2000) {
		if err := s.Write(t.Context(), storetest.Batch(storetest.Span{Trace: i, ID: 1, Service: "a", Name: fmt.Sprintf("op%d", i%10), Start: begin.Add(time.Duration(i) * time.Second)})); err != nil { //nolint:gosec // small
			t.Fatal(err)
		}
	}
	e := &counting{memory: s.m}
	page, err := Summaries(t.Context(), e, store.TraceQuery{Operation: "op3", Limit: 5})
	if err != nil || len(page.Traces) != 5 || page.Next == "" {
		t.Fatalf("%d traces, cursor %q, %v", len(page.Traces), page.Next, err)
	}
	if e.read > 80 { // six of them are within the newest 60
		t.Errorf("%d of 2000 traces were read for a page of 5", e.read)
	}
}

// What a query may hold bounds it.
func TestSearchWithinItsBudget(t *testing.T) {
	s := open()
	begin := time.Now().Add(-time.Hour)
	for i := range uint64(40_000) {
		s.m.hits[0] = append(s.m.hits[0], Hit{begin.UnixMicro(), storetest.TraceID(i)})
	}
	ctx, _, end := store.NewMemory(1 << 20).Begin(t.Context())
	defer end()
	if _, err := Summaries(ctx, s.m, store.TraceQuery{}); err == nil || !strings.Contains(err.Error(), store.ErrTooLarge.Error()) {
		t.Errorf("%v, want ErrTooLarge", err)
	}
}

type counting struct {
	*memory
	mu   sync.Mutex
	read int
}

func (c *counting) Read(ctx context.Context, id flow.TraceID) (ptrace.Traces, error) {
	c.mu.Lock()
	c.read++
	c.mu.Unlock()
	return c.memory.Read(ctx, id)
}
