package match

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// Query adds to q what a store can find by itself of e: every span for which e holds meets it. exact says that the reverse is true too, so that Match
// need not be asked again.
func (e Expr) Query(q store.TraceQuery) (_ store.TraceQuery, exact bool) {
	if e.root == nil {
		return q, true
	}
	parts, ok := e.root.(and)
	if !ok {
		parts = and{e.root}
	}
	exact = true
	for _, n := range parts {
		if c, ok := n.(*comparison); !ok || !c.into(&q) {
			exact = false
		}
	}
	return q, exact
}

// into adds c to q and reports whether q then says all of it. What it adds must hold wherever c does.
func (c *comparison) into(q *store.TraceQuery) bool {
	f := c.field
	if f.Name == "duration" {
		return c.intoDuration(q)
	}
	if f.Name == "failed" {
		if c.op == opEqual && len(c.values) == 1 && c.values[0].text == "true" {
			q.Errors = true // also what has a reason and is no failure
		}
		return false
	}
	one := c.op == opEqual && len(c.values) == 1 && c.values[0].text != ""
	switch f.Name {
	case "service":
		return one && intoText(&q.Service, c.values[0].text)
	case "name":
		return one && intoText(&q.Operation, c.values[0].text)
	}
	if f.get != nil {
		return false
	}
	known := !f.free // of others, span and resource may say different things
	value := ""
	if len(c.values) > 0 {
		value = c.values[0].text
	}
	switch {
	case f.absent != "":
		if one && value != f.absent {
			q.Attributes = append(q.Attributes, store.AttributeMatch{Key: f.Means, Value: value, Op: "="})
		}
		return false
	case c.op == opLike: // the attribute may be there and empty, which is none here
		q.Attributes = append(q.Attributes, store.AttributeMatch{Key: f.Means, Value: anywhere(value), Op: "~"})
		return known && !c.pattern.MatchString("")
	case c.op == opUnlike && known && !c.pattern.MatchString(""):
		q.Attributes = append(q.Attributes, store.AttributeMatch{Key: f.Means, Value: anywhere(value), Op: "!~"})
		return true
	case c.op.ordered():
		if pattern, ok := ordered(c.op, c.values[0].number); ok {
			q.Attributes = append(q.Attributes, store.AttributeMatch{Key: f.Means, Value: pattern, Op: "~"})
			return false
		}
		fallthrough
	case c.op == opExists, c.op == opUnequal && value == "":
		q.Attributes = append(q.Attributes, store.AttributeMatch{Key: f.Means, Op: "exists"})
		return false // an attribute may be there and empty
	case c.op == opEqual && known && (len(c.values) > 1 || f.Type == Number && !canonical(value)): // 200.0 is 200 and 2xx is many
		pattern, exact, ok := c.anyOf()
		if ok {
			q.Attributes = append(q.Attributes, store.AttributeMatch{Key: f.Means, Value: pattern, Op: "~"})
		}
		return ok && exact
	case f.Type == Number && (!known || !canonical(value)):
		return false
	case one:
		q.Attributes = append(q.Attributes, store.AttributeMatch{Key: f.Means, Value: value, Op: "="})
		return true
	case c.op == opUnequal && known:
		q.Attributes = append(q.Attributes, store.AttributeMatch{Key: f.Means, Value: value, Op: "!="})
		return true
	}
	return false
}

// anywhere is the pattern of a store for one that is looked for anywhere in a text: a store's must match all of it, and its "." is a line end too.
func anywhere(pattern string) string { return "(?s:.*)(?-s:" + pattern + ")(?s:.*)" }

// canonical reports whether text is a whole number as strconv writes it: then nothing else in a column of whole numbers is equal to it.
func canonical(text string) bool {
	for i, r := range text {
		if r < '0' || r > '9' || i == 0 && r == '0' && len(text) > 1 {
			return false
		}
	}
	return text != ""
}

func intoText(to *string, value string) bool {
	if *to != "" && *to != value {
		return false // Match says no to all
	}
	*to = value
	return true
}

func (c *comparison) intoDuration(q *store.TraceQuery) bool {
	if len(c.values) != 1 || c.values[0].text == "" {
		return false
	}
	d, err := time.ParseDuration(c.values[0].text)
	if err != nil {
		return false
	}
	switch c.op {
	case opMore:
		q.MinDuration = max(q.MinDuration, d+1)
	case opAtLeast:
		q.MinDuration = max(q.MinDuration, d)
	case opAtMost:
		if d == 0 {
			return false // 0 restricts nothing
		}
		q.MaxDuration = least(q.MaxDuration, d)
	case opLess:
		if d <= 1 {
			return false
		}
		q.MaxDuration = least(q.MaxDuration, d-1)
	default:
		return false
	}
	return true
}

func least(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// Spans that Search asks a store for at a time: few at first, since many who ask want the newest few; then more and more, up to as many as one question may have.
const (
	firstBatch = 256
	batchGrows = 4
	batch      = 10_000
)

// Result says how far a Search came.
type Result struct {
	Looked  int  // spans that the store gave
	Partial bool // it ended at budget: older spans, if there are any, were not looked at
}

// Search calls yield for the stored spans that meet both q and e, newest first, until yield returns false or it has looked at budget spans (at least
// 1). q.Limit is how many are likely to be needed, 0 for a few; q.Cursor is not used; of q.Only it adds what e looks at.
func Search(ctx context.Context, spans store.Spans, q store.TraceQuery, e Expr, budget int, yield func(*store.Span) bool) (Result, error) {
	q, exact := e.Query(q)
	q.Cursor = ""
	if q.Only != nil && !exact {
		q.Only = append(slices.Clone(q.Only), e.reads()...)
	}
	var (
		res  Result
		last time.Time         // start of the oldest span so far
		seen map[[24]byte]bool // those that started then, by trace and span id
		stop bool
		size = min(cmp.Or(q.Limit, firstBatch), batch)
	)
	for ; ; size = min(batchGrows*size, batch) {
		q.Limit = min(batch, min(size, budget-res.Looked)+len(seen))
		got, fresh := 0, 0
		err := spans.Spans(ctx, q, func(s store.Span) bool {
			got++
			var id [24]byte
			copy(id[:], s.TraceID[:])
			copy(id[16:], s.SpanID[:])
			if s.Start.Equal(last) && seen[id] {
				return true
			}
			if !s.Start.Equal(last) || seen == nil {
				last, seen = s.Start, map[[24]byte]bool{}
			}
			seen[id] = true
			fresh++
			res.Looked++
			if (exact || e.Match(&s)) && !yield(&s) {
				stop = true
				return false
			}
			return res.Looked < budget
		})
		switch {
		case err != nil || stop || got < q.Limit && res.Looked < budget:
			return res, err
		case res.Looked >= budget || fresh == 0: // nothing fresh: more spans started in one nanosecond than can be asked for
			res.Partial = true
			store.BudgetOf(ctx).Cut(fmt.Sprintf("%d spans were looked at, and older ones were not", res.Looked))
			return res, nil
		}
		q.End = last.Add(1)
	}
}

// Meeting makes a function that reports whether a span meets what q restricts of spans, as a store would say: everything but Limit and Cursor, and of attributes all but those of
// events, which a Span does not carry. An error wraps store.ErrBadQuery. The function is safe for concurrent use.
func Meeting(q store.TraceQuery) (func(s *store.Span) bool, error) {
	conditions := make([]func(v string) bool, len(q.Attributes)) // what makes an attribute's value the one that is meant
	for i, a := range q.Attributes {
		switch a.Op {
		case "exists":
			conditions[i] = func(string) bool { return true }
		case "", "=", "!=":
			conditions[i] = func(v string) bool { return v == a.Value }
		case "~", "!~":
			p, err := store.ParsePattern(a.Value)
			if err != nil {
				return nil, fmt.Errorf("attribute %s: %w", a.Key, err)
			}
			conditions[i] = p.Match
		default:
			return nil, fmt.Errorf("%w: attribute operator %q; it must be =, !=, ~, !~ or exists", store.ErrBadQuery, a.Op)
		}
	}
	has := func(s *store.Span, key string, means func(string) bool) bool {
		v, ok := s.Attributes[key]
		w, okToo := s.Resource[key]
		return ok && means(v) || okToo && means(w)
	}
	return func(s *store.Span) bool {
		if q.Service != "" && s.Service != q.Service || q.Operation != "" && s.Name != q.Operation || q.Kind != "" && s.Kind != q.Kind ||
			!q.Start.IsZero() && s.Start.Before(q.Start) || !q.End.IsZero() && !s.Start.Before(q.End) ||
			s.Duration < q.MinDuration || q.MaxDuration > 0 && s.Duration > q.MaxDuration || q.Errors && !s.Error && s.Attributes[flow.AttrReason] == "" {
			return false
		}
		for _, x := range [...]struct{ key, value string }{{flow.AttrSourceService, q.Source}, {flow.AttrDestService, q.Destination}, {flow.AttrReason, q.Reason}} {
			if x.value != "" && !has(s, x.key, func(v string) bool { return v == x.value }) {
				return false
			}
		}
		for i, a := range q.Attributes {
			if has(s, a.Key, conditions[i]) == a.Negative() {
				return false
			}
		}
		return true
	}, nil
}
