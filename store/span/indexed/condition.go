// Package indexed answers the searches of the store contract for engines that can do two things: list spans by when they start, newest first, and read a whole trace.
// What the engine's index cannot decide is decided here on the traces that were read, so that every engine gives the same answers.
package indexed

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

const (
	defaultLimit = 20
	maxLimit     = 10_000
	noService    = "unknown_service" // the name of a service that states none
)

// Condition is a TraceQuery made ready.
type Condition struct {
	store.TraceQuery
	From, To int64                  // µs since 1970 of a span's start, both inclusive
	Equal    []store.AttributeMatch // an attribute of the span, its resource or its events must have this value; "~" that mean one text are among them
	like     []*store.Pattern       // of TraceQuery.Attributes; nil where there is no pattern
}

var kinds = []string{"internal", "server", "client", "producer", "consumer"}

func bad(format string, a ...any) error {
	return fmt.Errorf("%w: %s", store.ErrBadQuery, fmt.Sprintf(format, a...))
}

// Compile checks q; an error wraps store.ErrBadQuery. An end that is not given is now.
func Compile(q store.TraceQuery, now time.Time) (*Condition, error) {
	switch {
	case q.Limit == 0:
		q.Limit = defaultLimit
	case q.Limit < 0 || q.Limit > maxLimit:
		return nil, bad("limit is %d; it must be 1 to %d", q.Limit, maxLimit)
	}
	if q.Kind != "" && !slices.Contains(kinds, q.Kind) {
		return nil, bad("span kind %q; it must be one of %v", q.Kind, kinds)
	}
	if q.MinDuration < 0 || q.MaxDuration < 0 {
		return nil, bad("a duration is negative")
	}
	if q.End.IsZero() {
		q.End = now
	}
	c := &Condition{TraceQuery: q, From: max(ceilMicros(q.Start), 0), To: ceilMicros(q.End) - 1}
	if q.Start.IsZero() {
		c.From = 0
	}
	for _, m := range q.Attributes {
		if m.Key == "" {
			return nil, bad("an attribute condition has no key")
		}
		var like *store.Pattern
		switch m.Op {
		case "", "=":
			c.Equal = append(c.Equal, m)
		case "!=", "exists":
		case "~", "!~":
			var err error
			if like, err = store.ParsePattern(m.Value); err != nil {
				return nil, fmt.Errorf("attribute %s: %w", m.Key, err)
			}
			if text, only := like.Prefix(); only && m.Op == "~" {
				c.Equal = append(c.Equal, store.AttributeMatch{Key: m.Key, Value: text, Op: "="})
			}
		default:
			return nil, bad("attribute operator %q; it must be =, !=, ~, !~ or exists", m.Op)
		}
		c.like = append(c.like, like)
	}
	for _, m := range []store.AttributeMatch{{Key: flow.AttrSourceService, Value: q.Source}, {Key: flow.AttrDestService, Value: q.Destination}, {Key: flow.AttrReason, Value: q.Reason}} {
		if m.Value != "" {
			c.Equal = append(c.Equal, m)
		}
	}
	return c, nil
}

// ceilMicros is the first microsecond that is not before t.
func ceilMicros(t time.Time) int64 {
	us := t.UnixMicro()
	if t.Nanosecond()%1000 != 0 {
		us++
	}
	return us
}

func micros(t pcommon.Timestamp) int64 { return int64(t) / 1000 } //nolint:gosec // until 2262

// service is the name of a resource's service.
func service(r pcommon.Resource) string {
	if v, ok := r.Attributes().Get(flow.AttrServiceName); ok && v.AsString() != "" {
		return v.AsString()
	}
	return noService
}

// failed: status error, or a reason.
func failed(sp ptrace.Span) bool {
	v, ok := sp.Attributes().Get(flow.AttrReason)
	return sp.Status().Code() == ptrace.StatusCodeError || ok && v.AsString() != ""
}

func duration(sp ptrace.Span) time.Duration {
	return max(sp.EndTimestamp().AsTime().Sub(sp.StartTimestamp().AsTime()), 0)
}

// matches reports whether one span meets all conditions.
func (c *Condition) matches(r pcommon.Resource, sp ptrace.Span) bool {
	states := func(key, want string) bool {
		if want == "" {
			return true
		}
		v, ok := sp.Attributes().Get(key)
		return ok && v.AsString() == want
	}
	at, took := micros(sp.StartTimestamp()), duration(sp)
	if at < c.From || at > c.To || took < c.MinDuration || c.MaxDuration > 0 && took > c.MaxDuration || c.Errors && !failed(sp) ||
		c.Service != "" && service(r) != c.Service || c.Operation != "" && sp.Name() != c.Operation || c.Kind != "" && strings.ToLower(sp.Kind().String()) != c.Kind ||
		!states(flow.AttrSourceService, c.Source) || !states(flow.AttrDestService, c.Destination) || !states(flow.AttrReason, c.Reason) {
		return false
	}
	for i, m := range c.Attributes {
		if !c.holds(m, c.like[i], r, sp) {
			return false
		}
	}
	return true
}

func (*Condition) holds(m store.AttributeMatch, like *store.Pattern, r pcommon.Resource, sp ptrace.Span) bool {
	meets := func(text string) bool {
		switch {
		case m.Op == "exists":
			return true
		case like != nil:
			return like.Match(text)
		}
		return text == m.Value
	}
	in := func(attrs pcommon.Map) bool {
		v, ok := attrs.Get(m.Key)
		return ok && meets(v.AsString())
	}
	found := in(sp.Attributes()) || in(r.Attributes())
	for i := 0; !found && i < sp.Events().Len(); i++ {
		e := sp.Events().At(i)
		found = in(e.Attributes()) || m.Key == "event" && e.Name() != "" && meets(e.Name())
	}
	return found != m.Negative()
}

// each visits the spans of a trace.
func each(td ptrace.Traces, visit func(pcommon.Resource, ptrace.Span)) {
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, sp := range ss.Spans().All() {
				visit(rs.Resource(), sp)
			}
		}
	}
}

// summary describes a trace of at least one span. Where the root is missing, the earliest of the spans whose parent is missing stands for it.
func summary(id flow.TraceID, td ptrace.Traces) store.TraceSummary {
	t := store.TraceSummary{TraceID: id, ID: id.String(), Partial: true}
	known := map[pcommon.SpanID]bool{}
	each(td, func(_ pcommon.Resource, sp ptrace.Span) { known[sp.SpanID()] = true })
	count := map[string]*store.ServiceCount{}
	var end, begun time.Time
	each(td, func(r pcommon.Resource, sp ptrace.Span) {
		start, name := sp.StartTimestamp().AsTime(), service(r)
		if t.Spans == 0 || start.Before(t.Start) {
			t.Start = start
		}
		if e := start.Add(duration(sp)); e.After(end) {
			end = e
		}
		n := count[name]
		if n == nil {
			n = &store.ServiceCount{Service: name}
			count[name] = n
		}
		n.Spans++
		t.Spans++
		if failed(sp) {
			n.Errors++
			t.Errors++
		}
		root := sp.ParentSpanID().IsEmpty()
		better := t.Partial || start.Before(begun)
		if root && better || t.Partial && !known[sp.ParentSpanID()] && (begun.IsZero() || start.Before(begun)) {
			t.RootService, t.RootOperation, begun, t.Partial = name, sp.Name(), start, !root
		}
	})
	t.Duration = end.Sub(t.Start)
	for _, n := range count {
		t.Services = append(t.Services, *n)
	}
	slices.SortFunc(t.Services, func(a, b store.ServiceCount) int { return cmp.Compare(a.Service, b.Service) })
	return t
}
