package dashboardtest

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/match"
)

// Spans is a store.Spans in memory, for tests: complete, slow, unbounded.
type Spans struct {
	mu     sync.Mutex
	traces map[flow.TraceID]ptrace.Traces
	spans  map[flow.TraceID][]store.Span
	// Fail, when set, is what every read returns.
	Fail error
}

var _ store.Spans = (*Spans)(nil)

// NewSpans returns an empty store.
func NewSpans() *Spans {
	return &Spans{traces: map[flow.TraceID]ptrace.Traces{}, spans: map[flow.TraceID][]store.Span{}}
}

func text(m pcommon.Map) map[string]string {
	out := map[string]string{}
	m.Range(func(k string, v pcommon.Value) bool { out[k] = v.AsString(); return true })
	return out
}

// Write stores td.
func (s *Spans) Write(_ context.Context, td ptrace.Traces) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range td.ResourceSpans().All() {
		res := text(rs.Resource().Attributes())
		for _, ss := range rs.ScopeSpans().All() {
			for _, sp := range ss.Spans().All() {
				id := flow.TraceID(sp.TraceID())
				t, ok := s.traces[id]
				if !ok {
					t = ptrace.NewTraces()
					s.traces[id] = t
				}
				r := t.ResourceSpans().AppendEmpty()
				rs.Resource().CopyTo(r.Resource())
				sp.CopyTo(r.ScopeSpans().AppendEmpty().Spans().AppendEmpty())
				s.spans[id] = append(s.spans[id], store.Span{
					TraceID: id, SpanID: flow.SpanID(sp.SpanID()), ParentID: flow.SpanID(sp.ParentSpanID()), Name: sp.Name(),
					Kind: strings.ToLower(sp.Kind().String()), Service: res[flow.AttrServiceName], Start: sp.StartTimestamp().AsTime(),
					Duration: sp.EndTimestamp().AsTime().Sub(sp.StartTimestamp().AsTime()), Error: sp.Status().Code() == ptrace.StatusCodeError,
					Status: sp.Status().Message(), Attributes: text(sp.Attributes()), Resource: res,
				})
			}
		}
	}
	return nil
}

// Trace returns one trace.
func (s *Spans) Trace(_ context.Context, id flow.TraceID) (ptrace.Traces, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Fail != nil {
		return ptrace.Traces{}, s.Fail
	}
	t, ok := s.traces[id]
	if !ok {
		return ptrace.Traces{}, fmt.Errorf("trace %s: %w", id, store.ErrNotFound)
	}
	out := ptrace.NewTraces()
	t.CopyTo(out)
	return out, nil
}

// Count counts spans by when they start.
func (s *Spans) Count(_ context.Context, q store.TraceQuery, steps store.Steps) (store.Counts, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Fail != nil {
		return store.Counts{}, s.Fail
	}
	out := store.Counts{Steps: steps, Spans: make([]uint64, steps.N), Errors: make([]uint64, steps.N)}
	if err := steps.Validate(); err != nil {
		return out, err
	}
	meets, err := match.Meeting(q)
	if err != nil {
		return out, err
	}
	for _, spans := range s.spans {
		for i := range spans {
			sp := &spans[i]
			if at := int(sp.Start.Sub(steps.From) / steps.Step); !sp.Start.Before(steps.From) && at < steps.N && meets(sp) {
				out.Spans[at]++
				if sp.Error || sp.Attributes[flow.AttrReason] != "" {
					out.Errors[at]++
				}
			}
		}
	}
	return out, nil
}

func summary(id flow.TraceID, spans []store.Span) store.TraceSummary {
	t := store.TraceSummary{TraceID: id, ID: id.String(), Spans: len(spans), Partial: true}
	var end time.Time
	count := map[string]*store.ServiceCount{}
	var root *store.Span
	known := map[flow.SpanID]bool{}
	for i := range spans {
		known[spans[i].SpanID] = true
	}
	for i := range spans {
		sp := &spans[i]
		if t.Start.IsZero() || sp.Start.Before(t.Start) {
			t.Start = sp.Start
		}
		if e := sp.Start.Add(sp.Duration); e.After(end) {
			end = e
		}
		c := count[sp.Service]
		if c == nil {
			c = &store.ServiceCount{Service: sp.Service}
			count[sp.Service] = c
		}
		c.Spans++
		if sp.Error {
			c.Errors++
			t.Errors++
		}
		if sp.ParentID.IsZero() {
			t.Partial = false
		}
		if !known[sp.ParentID] && (root == nil || sp.Start.Before(root.Start)) {
			root = sp
		}
	}
	if root != nil {
		t.RootService, t.RootOperation = root.Service, root.Name
	}
	t.Duration = end.Sub(t.Start)
	for _, c := range count {
		t.Services = append(t.Services, *c)
	}
	slices.SortFunc(t.Services, func(a, b store.ServiceCount) int { return cmp.Compare(a.Service, b.Service) })
	return t
}

// Summaries pages through traces, newest first.
func (s *Spans) Summaries(_ context.Context, q store.TraceQuery) (store.TracePage, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Fail != nil {
		return store.TracePage{}, s.Fail
	}
	meets, err := match.Meeting(q)
	if err != nil {
		return store.TracePage{}, err
	}
	var all []store.TraceSummary
	for id, spans := range s.spans {
		if slices.ContainsFunc(spans, func(sp store.Span) bool { return meets(&sp) }) {
			all = append(all, summary(id, spans))
		}
	}
	slices.SortFunc(all, func(a, b store.TraceSummary) int { return cmp.Or(b.Start.Compare(a.Start), cmp.Compare(b.ID, a.ID)) })
	key := func(t store.TraceSummary) string {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(t.Start.UnixNano()))
		return hex.EncodeToString(b[:]) + t.ID
	}
	if q.Cursor != "" {
		if len(q.Cursor) != 48 {
			return store.TracePage{}, fmt.Errorf("cursor %q: %w", q.Cursor, store.ErrBadQuery)
		}
		i := 0
		for i < len(all) && key(all[i]) >= q.Cursor {
			i++
		}
		all = all[i:]
	}
	limit := q.Limit
	if limit <= 0 {
		limit = 20
	}
	p := store.TracePage{Traces: all}
	if len(all) > limit {
		p.Traces, p.Next = all[:limit], key(all[limit-1])
	}
	return p, nil
}

// Spans yields matching spans, newest first.
func (s *Spans) Spans(_ context.Context, q store.TraceQuery, yield func(store.Span) bool) error {
	meets, err := match.Meeting(q)
	if err != nil {
		return err
	}
	s.mu.Lock()
	var all []store.Span
	for _, spans := range s.spans {
		for _, sp := range spans {
			if meets(&sp) {
				all = append(all, sp)
			}
		}
	}
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b store.Span) int {
		return cmp.Or(b.Start.Compare(a.Start), cmp.Compare(a.SpanID.String(), b.SpanID.String()))
	})
	for i, sp := range all {
		if (q.Limit > 0 && i >= q.Limit) || !yield(sp) {
			break
		}
	}
	return s.Fail
}

func (s *Spans) distinct(f func(*store.Span) string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, spans := range s.spans {
		for i := range spans {
			out = append(out, f(&spans[i]))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Services lists services.
func (s *Spans) Services(context.Context) ([]string, error) {
	return s.distinct(func(sp *store.Span) string { return sp.Service }), s.Fail
}

// Operations lists a service's operations.
func (s *Spans) Operations(_ context.Context, service string) ([]store.Operation, error) {
	var out []store.Operation
	for _, v := range s.distinct(func(sp *store.Span) string {
		if service != "" && sp.Service != service {
			return ""
		}
		return sp.Name + "\x00" + sp.Kind
	}) {
		if name, kind, ok := strings.Cut(v, "\x00"); ok {
			out = append(out, store.Operation{Name: name, Kind: kind})
		}
	}
	return out, s.Fail
}

// AttributeKeys lists attribute names.
func (s *Spans) AttributeKeys(context.Context) ([]string, error) {
	return []string{flow.AttrReason, flow.AttrStatus}, s.Fail
}

// Stats counts.
func (s *Spans) Stats() store.SpanStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := uint64(0)
	var oldest, newest time.Time
	for _, spans := range s.spans {
		n += uint64(len(spans))
		for i := range spans {
			if at := spans[i].Start; oldest.IsZero() || at.Before(oldest) {
				oldest = at
			}
			if at := spans[i].Start; at.After(newest) {
				newest = at
			}
		}
	}
	return store.SpanStats{
		Oldest: oldest, Newest: newest, Spans: 1_284_000 + n, Bytes: 39_200_000, WALBytes: 1_300_000, BytesPerSpan: 31.4, Written: n, DiskFreeBytes: 84e9, Blocks: 12,
	}
}

// Capabilities claims everything.
func (s *Spans) Capabilities() store.Capabilities {
	return store.Capabilities{
		SearchWithoutService: true, AttributeSearch: true, DurationSearch: true, KeysetPaging: true, StablePaging: true, WholeForm: true, WholeBatches: true, Repeats: true, Totals: true,
		Name: "memory",
	}
}

// Close does nothing.
func (s *Spans) Close() error { return nil }

// SpanSpec describes one span for Put.
type SpanSpec struct {
	ID, Parent string // short names, unique in the trace
	Service    string
	Name       string
	Kind       ptrace.SpanKind
	Start, End time.Duration // from the trace's start
	Error      string        // status message; "" is ok
	Attr       map[string]any
}

// ID8 makes a span ID of a short name.
func ID8(trace flow.TraceID, name string) (id [8]byte) {
	h := uint64(14695981039346656037)
	for _, c := range append(trace[:], name...) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	binary.BigEndian.PutUint64(id[:], h|1)
	return id
}

// Put stores a trace of the given spans.
func (s *Spans) Put(id flow.TraceID, start time.Time, specs ...SpanSpec) {
	td := ptrace.NewTraces()
	for _, x := range specs {
		rs := td.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr(flow.AttrServiceName, x.Service)
		rs.Resource().Attributes().PutStr(flow.AttrServiceNamespace, "shop")
		rs.Resource().Attributes().PutStr(flow.AttrServiceInstance, x.Service+"-1")
		sp := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		sp.SetTraceID(pcommon.TraceID(id))
		sp.SetSpanID(pcommon.SpanID(ID8(id, x.ID)))
		if x.Parent != "" {
			sp.SetParentSpanID(pcommon.SpanID(ID8(id, x.Parent)))
		}
		sp.SetName(x.Name)
		sp.SetKind(x.Kind)
		sp.SetStartTimestamp(pcommon.NewTimestampFromTime(start.Add(x.Start)))
		sp.SetEndTimestamp(pcommon.NewTimestampFromTime(start.Add(x.End)))
		if x.Error != "" {
			sp.Status().SetCode(ptrace.StatusCodeError)
			sp.Status().SetMessage(x.Error)
		}
		keys := make([]string, 0, len(x.Attr))
		for k := range x.Attr {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			switch v := x.Attr[k].(type) {
			case int:
				sp.Attributes().PutInt(k, int64(v))
			case bool:
				sp.Attributes().PutBool(k, v)
			case float64:
				sp.Attributes().PutDouble(k, v)
			default:
				sp.Attributes().PutStr(k, fmt.Sprint(v))
			}
		}
	}
	_ = s.Write(context.Background(), td)
}

// TraceID makes a trace ID of a number.
func TraceID(n int) (id flow.TraceID) {
	b, _ := hex.DecodeString(fmt.Sprintf("%032s", "7e11e"+strconv.FormatInt(int64(n)+0x10000, 16)))
	copy(id[:], b)
	// spread, so that short forms differ
	binary.BigEndian.PutUint64(id[:8], uint64(n+1)*0x9e3779b97f4a7c15)
	return id
}
