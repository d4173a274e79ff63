package main

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// answer is what is compared: how many spans, and sums that differ when other spans were counted.
type answer struct {
	Spans    int64 `json:"spans"`
	Duration int64 `json:"duration"` // sum, ns; what ended before it began or never counts as 0
	First    int64 `json:"first"`    // earliest start, unix ns; 0 for no span
}

// question is one set of conditions, as our store and as the engines are asked.
type question struct {
	Name  string `json:"name"`
	query store.TraceQuery
	trace flow.TraceID // ask for this trace instead of query
	// Where are the conditions as each engine writes them.
	Where map[string]string `json:"where"`
}

// questions are derived from the spans that are there, so that they fit any store that has a span.
func questions(ctx context.Context, s store.Spans) ([]question, error) {
	var sample []store.Span
	if err := s.Spans(ctx, store.TraceQuery{Limit: 2_000}, func(sp store.Span) bool { sample = append(sample, sp); return true }); err != nil {
		return nil, err
	}
	if len(sample) == 0 {
		return nil, fmt.Errorf("the store has no span: give one that has some in sealed blocks: %w", store.ErrNotFound)
	}
	newest, oldest := sample[0], sample[len(sample)-1]
	st := s.Stats()
	middle := st.Oldest.Add(st.Newest.Sub(st.Oldest) / 2)
	q := func(name string, q store.TraceQuery) question { return question{Name: name, query: q} }
	out := []question{
		q("every span", store.TraceQuery{}),
		q("one service", store.TraceQuery{Service: newest.Service}),
		q("one operation", store.TraceQuery{Operation: oldest.Name}),
		q("service, operation and kind", store.TraceQuery{Service: oldest.Service, Operation: oldest.Name, Kind: oldest.Kind}),
		q("errors", store.TraceQuery{Errors: true}),
		q("at least 30 ms", store.TraceQuery{MinDuration: 30 * time.Millisecond}),
		q("1 ms to 5 ms", store.TraceQuery{MinDuration: time.Millisecond, MaxDuration: 5 * time.Millisecond}),
		q("the second half", store.TraceQuery{Start: middle}),
		q("one second in the middle", store.TraceQuery{Start: middle, End: middle.Add(time.Second)}),
		q("no such service", store.TraceQuery{Service: "no such service"}),
		{Name: "the newest trace", trace: newest.TraceID},
		{Name: "an older trace", trace: oldest.TraceID},
		{Name: "a trace that is not there", trace: flow.TraceID{1, 2, 3}},
	}
	if r := firstWith(sample, flow.AttrReason); r != "" {
		out = append(out, q("one reason", store.TraceQuery{Reason: r}))
	}
	if v := firstWith(sample, flow.AttrStatus); v != "" {
		out = append(out, q("one status", store.TraceQuery{Attributes: []store.AttributeMatch{{Key: flow.AttrStatus, Value: v, Op: "="}}}))
		out = append(out, q("service, status and duration", store.TraceQuery{
			Service: newest.Service, MinDuration: 10 * time.Millisecond, Attributes: []store.AttributeMatch{{Key: flow.AttrStatus, Value: v, Op: "="}},
		}))
	}
	if v := firstWith(sample, flow.AttrPath); v != "" {
		out = append(out, q("one path", store.TraceQuery{Attributes: []store.AttributeMatch{{Key: flow.AttrPath, Value: v, Op: "="}}}))
	}
	if v := firstWith(sample, flow.AttrSourceService); v != "" {
		out = append(out, q("one caller", store.TraceQuery{Source: v}))
	}
	for _, k := range []string{flow.AttrEndpoint, flow.AttrFarSent} {
		if v := firstWith([]store.Span{oldest, newest}, k); v != "" {
			out = append(out, q("one "+k, store.TraceQuery{Attributes: []store.AttributeMatch{{Key: k, Value: v, Op: "="}}}))
		}
	}
	for _, k := range mapKeys(sample) {
		m := store.AttributeMatch{Key: k, Value: firstWith(sample, k), Op: "="}
		out = append(
			out,
			q("map: "+k+" = "+m.Value, store.TraceQuery{Attributes: []store.AttributeMatch{m}}),
			q("map: "+k+" exists", store.TraceQuery{Attributes: []store.AttributeMatch{{Key: k, Op: "exists"}}}),
			q("map: "+k+" and errors", store.TraceQuery{Errors: true, Attributes: []store.AttributeMatch{m}}),
		)
	}
	for i := range out {
		out[i].Where = map[string]string{"duckdb": duckdb.where(&out[i]), "clickhouse": clickhouse.where(&out[i])}
	}
	return out, nil
}

func firstWith(sample []store.Span, key string) string {
	for _, s := range sample {
		if v := s.Attributes[key]; v != "" {
			return v
		}
	}
	return ""
}

// mapKeys are up to four attributes of the sample that have no column and no resource has.
func mapKeys(sample []store.Span) (out []string) {
	seen := map[string]bool{}
	for _, s := range sample {
		for _, k := range sortedKeys(s.Attributes) {
			_, resource := s.Resource[k]
			if len(out) < 4 && !seen[k] && !resource && strings.HasPrefix(k, "app.") && s.Attributes[k] != "" {
				seen[k] = true
				out = append(out, k)
			}
		}
	}
	return out
}

// ask is our own store's answer.
func (q *question) ask(ctx context.Context, s store.Spans) (a answer, err error) {
	add := func(start, end int64) {
		if a.Spans == 0 || start < a.First {
			a.First = start
		}
		a.Spans++
		a.Duration += max(0, end-start)
	}
	if !q.trace.IsZero() {
		td, err := s.Trace(ctx, q.trace)
		if err != nil {
			return a, notFoundIsNone(err)
		}
		for _, rs := range td.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, sp := range ss.Spans().All() {
					add(int64(sp.StartTimestamp()), int64(sp.EndTimestamp())) //nolint:gosec // dates of this century
				}
			}
		}
		return a, nil
	}
	st := s.Stats()
	from, to := q.query.Start, q.query.End
	if from.IsZero() {
		from = st.Oldest
	}
	if to.IsZero() {
		to = st.Newest.Add(1)
	}
	return a, each(ctx, s, q.query, from, to, func(sp store.Span) {
		start := sp.Start.UnixNano()
		add(start, start+int64(sp.Duration))
	})
}

// mostSpans is the store's own limit for one answer.
const mostSpans = 10_000

// each visits all matching spans that start in [from, to), by halves when there are more than the store gives at once.
func each(ctx context.Context, s store.Spans, q store.TraceQuery, from, to time.Time, visit func(store.Span)) error {
	q.Start, q.End, q.Limit = from, to, mostSpans
	var got []store.Span
	if err := s.Spans(ctx, q, func(sp store.Span) bool { got = append(got, sp); return true }); err != nil {
		return err
	}
	if len(got) == mostSpans {
		half := from.Add(to.Sub(from) / 2)
		if !half.After(from) {
			return fmt.Errorf("%d spans start in the same nanosecond %v: they cannot be counted one by one", mostSpans, from)
		}
		if err := each(ctx, s, q, from, half, visit); err != nil {
			return err
		}
		return each(ctx, s, q, half, to, visit)
	}
	for _, sp := range got {
		visit(sp)
	}
	return nil
}

// dialect is how an engine writes what differs.
type dialect struct {
	bytes string // of a hexadecimal string
	entry string // the text of the map's entry
	has   string // the map has the key
}

var (
	duckdb     = dialect{bytes: "from_hex('%s')", entry: "attributes[%s].value", has: "map_contains(attributes, %s)"}
	clickhouse = dialect{bytes: "toFixedString(unhex('%s'), 16)", entry: "tupleElement(attributes[%s], 'value')", has: "mapContains(attributes, %s)"}
)

func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}

// column is the name of the column of a mesh attribute, as docs/format/spans.md has it.
func column(attr string) string { return strings.NewReplacer(".", "_", "-", "_").Replace(attr) }

func (d dialect) where(q *question) string {
	if !q.trace.IsZero() {
		return "trace_id = " + fmt.Sprintf(d.bytes, q.trace.String())
	}
	all := []string{"true"}
	add := func(format string, a ...any) { all = append(all, fmt.Sprintf(format, a...)) }
	t := q.query
	for _, c := range []struct{ column, value string }{
		{"service", t.Service}, {"name", t.Operation}, {"kind", t.Kind}, {column(flow.AttrSourceService), t.Source}, {column(flow.AttrReason), t.Reason},
	} {
		if c.value != "" {
			add("%s = %s", c.column, quote(c.value))
		}
	}
	if !t.Start.IsZero() {
		add("start_unix_nano >= %d", t.Start.UnixNano())
	}
	if !t.End.IsZero() {
		add("start_unix_nano < %d", t.End.UnixNano())
	}
	if t.MinDuration > 0 || t.MaxDuration > 0 {
		most := int64(t.MaxDuration)
		if most == 0 {
			most = math.MaxInt64
		}
		add("duration_nano BETWEEN %d AND %d", t.MinDuration, most)
	}
	if t.Errors {
		add("(status = 'error' OR coalesce(tulle_reason, '') <> '')")
	}
	for _, m := range t.Attributes {
		switch {
		case m.Key == flow.AttrStatus || m.Key == flow.AttrFarSent:
			add("%s = %s", column(m.Key), m.Value)
		case m.Key == flow.AttrPath || m.Key == flow.AttrEndpoint:
			add("%s = %s", column(m.Key), quote(m.Value))
		case m.Op == "exists":
			add(d.has, quote(m.Key))
		default:
			add(d.has+" AND "+d.entry+" = %s", quote(m.Key), quote(m.Key), quote(m.Value))
		}
	}
	return strings.Join(all, " AND ")
}
