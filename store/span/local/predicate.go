package local

import (
	"fmt"
	"math"
	mathbits "math/bits"
	"slices"
	"strconv"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// predicate is a TraceQuery made ready: conditions that one span must meet all together.
type predicate struct {
	service   string
	operation string
	kind      int32 // -1: any
	from, to  uint64
	min, max  uint64 // duration, ns
	errors    bool
	attrs     []attrMatch
}

// attrMatch is one condition on an attribute of the span, of its resource or of its events. "!=" holds for a span that has no such attribute with that value, so
// also for one that lacks it; "!~" likewise.
type attrMatch struct {
	store.AttributeMatch
	like   *store.Pattern // of "~" and "!~"; nil: Value itself is meant
	col    int            // own column of the key, -1 for none
	num    int64
	isNum  bool // Value is the string form of num
	isBool bool // Value is "true" or "false"
	events bool // attributes of the span's events count too; not for those that only the mesh may state
}

const (
	defaultLimit = 20
	maxLimit     = 10_000
)

func badQuery(format string, a ...any) error {
	return fmt.Errorf("%w: %s", store.ErrBadQuery, fmt.Sprintf(format, a...))
}

func compile(q store.TraceQuery, now time.Time) (p *predicate, limit int, err error) {
	p = &predicate{service: q.Service, operation: q.Operation, kind: -1, to: math.MaxUint64, max: math.MaxUint64, errors: q.Errors}
	limit = q.Limit
	switch {
	case limit == 0:
		limit = defaultLimit
	case limit < 0 || limit > maxLimit:
		return nil, 0, badQuery("limit is %d; it must be 1 to %d", limit, maxLimit)
	}
	if q.Kind != "" {
		if p.kind = int32(slices.Index(kindNames, q.Kind)); p.kind < 0 { //nolint:gosec // small
			return nil, 0, badQuery("span kind %q; it must be one of %v", q.Kind, kindNames)
		}
	}
	if !q.Start.IsZero() {
		p.from = nanos(q.Start)
	}
	end := q.End
	if end.IsZero() {
		end = now
	}
	p.to = nanos(end)
	if q.MinDuration < 0 || q.MaxDuration < 0 {
		return nil, 0, badQuery("a duration is negative")
	}
	p.min = uint64(q.MinDuration)
	if q.MaxDuration > 0 {
		p.max = uint64(q.MaxDuration)
	}
	all := slices.Clone(q.Attributes)
	for _, m := range []store.AttributeMatch{{Key: flow.AttrSourceService, Value: q.Source}, {Key: flow.AttrDestService, Value: q.Destination}, {Key: flow.AttrReason, Value: q.Reason}} {
		if m.Value != "" {
			m.Op = "="
			all = append(all, m)
		}
	}
	for i, m := range all {
		if m.Key == "" {
			return nil, 0, badQuery("an attribute condition has no key")
		}
		var like *store.Pattern
		switch m.Op {
		case "":
			m.Op = "="
		case "=", "!=", "exists":
		case "~", "!~":
			if like, err = store.ParsePattern(m.Value); err != nil {
				return nil, 0, fmt.Errorf("attribute %s: %w", m.Key, err)
			}
			if text, only := like.Prefix(); only {
				like, m.Value, m.Op = nil, text, map[string]string{"~": "=", "!~": "!="}[m.Op]
			}
		default:
			return nil, 0, badQuery("attribute operator %q; it must be =, !=, ~, !~ or exists", m.Op)
		}
		a := attrMatch{AttributeMatch: m, like: like, col: -1, isBool: m.Value == "true" || m.Value == "false", events: i < len(q.Attributes)}
		if c, ok := columnByAttr[m.Key]; ok {
			a.col = c
		}
		if n, err := strconv.ParseInt(m.Value, 10, 64); err == nil && strconv.FormatInt(n, 10) == m.Value {
			a.num, a.isNum = n, true
		}
		p.attrs = append(p.attrs, a)
	}
	return p, limit, nil
}

func nanos(t time.Time) uint64 {
	if t.Unix() < 0 {
		return 0
	}
	if t.Year() > 2261 {
		return math.MaxInt64
	}
	return uint64(t.UnixNano()) //nolint:gosec // checked
}

// onlyTime says that nothing but the span's start is restricted; onlyService that nothing but start and service is.
func (p *predicate) onlyService() bool {
	return p.operation == "" && p.kind < 0 && p.min == 0 && p.max == math.MaxUint64 && !p.errors && len(p.attrs) == 0
}

// byPart decides from a summary whether the part has a matching span, when it can.
func (p *predicate) byPart(pt *part) (match, known bool) {
	if pt.end < p.from || pt.start >= p.to { // no span starts after the end
		return false, true
	}
	if p.service != "" && !slices.ContainsFunc(pt.services, func(s store.ServiceCount) bool { return s.Service == p.service }) {
		return false, true
	}
	if p.errors && pt.errors == 0 {
		return false, true
	}
	if pt.end-pt.start < p.min { // no span is longer than its trace
		return false, true
	}
	if !p.onlyService() {
		return false, false
	}
	if pt.start >= p.from && (p.service == "" || pt.end < p.to) { // the first span is known, and all are
		return true, true
	}
	return false, false
}

// resource precomputes what a group decides: ok false means no span of it can match; hit[i] that condition i holds by the resource alone (for "!=" and "!~":
// that the resource violates it, which makes ok false).
func (p *predicate) resource(g *group) (ok bool, hit uint64) {
	if p.service != "" && g.service != p.service {
		return false, 0
	}
	for i := range p.attrs {
		a := &p.attrs[i]
		v, has := g.attrs[a.Key]
		switch {
		case !has || a.Op != "exists" && !a.means(v):
		case a.Negative():
			return false, 0
		default:
			hit |= 1 << i
		}
	}
	return true, hit
}

// means reports whether a text is what the condition asks for, or with "!=" and "!~" forbids.
func (a *attrMatch) means(text string) bool {
	if a.like != nil {
		return a.like.Match(text)
	}
	return text == a.Value
}

// settle folds what is known of the span's own attribute into the condition.
func (a *attrMatch) settle(byResource, present, equal bool) bool {
	switch {
	case a.Negative():
		return !equal
	case a.Op == "exists":
		return byResource || present
	default:
		return byResource || equal
	}
}

// judge asks one condition of many texts, and of those that come again once. It is for one goroutine.
type judge struct {
	*attrMatch
	seen map[string]bool // only of patterns
	nums map[int64]bool
}

// What a judge keeps: answers, and of texts that are worth it.
const (
	maxSeen     = 8 << 10
	maxSeenText = 256 // bytes
)

func (j *judge) text(s string) bool {
	if j.like == nil || len(s) > maxSeenText {
		return j.means(s)
	}
	ok, known := j.seen[s]
	if !known {
		ok = j.like.Match(s)
		j.keep(s, ok)
	}
	return ok
}

func (j *judge) bytes(s []byte) bool {
	switch {
	case j.like == nil:
		return string(s) == j.Value
	case len(s) > maxSeenText:
		return j.like.MatchBytes(s)
	}
	ok, known := j.seen[string(s)]
	if !known {
		ok = j.like.MatchBytes(s)
		j.keep(string(s), ok)
	}
	return ok
}

func (j *judge) keep(s string, ok bool) {
	if j.seen == nil || len(j.seen) >= maxSeen {
		j.seen = map[string]bool{}
	}
	j.seen[s] = ok
}

func (j *judge) number(n int64) bool {
	if j.like == nil {
		return j.isNum && n == j.num
	}
	ok, known := j.nums[n]
	if !known {
		ok = j.like.Match(strconv.FormatInt(n, 10))
		if j.nums == nil || len(j.nums) >= maxSeen {
			j.nums = map[int64]bool{}
		}
		j.nums[n] = ok
	}
	return ok
}

func (j *judge) truth(b bool) bool {
	if j.like == nil {
		return j.isBool && b == (j.Value == "true")
	}
	return j.like.Match(strconv.FormatBool(b))
}

func (j *judge) column(t colType, v colValue) bool {
	switch t {
	case colInt:
		return j.number(v.num)
	case colBool:
		return j.truth(v.num != 0)
	default:
		return j.text(v.str)
	}
}

// liveMatcher evaluates a predicate on a memtable; the caller holds m.mu for reading.
type liveMatcher struct {
	p      *predicate
	m      *memtable
	groups []struct {
		done, ok bool
		hit      uint64
	}
	judges []judge // one for each condition
}

func (m *memtable) matcherLocked(p *predicate) *liveMatcher {
	lm := &liveMatcher{p: p, m: m}
	lm.groups = make([]struct {
		done, ok bool
		hit      uint64
	}, len(m.groups))
	lm.judges = make([]judge, len(p.attrs))
	for i := range p.attrs {
		lm.judges[i].attrMatch = &p.attrs[i]
	}
	return lm
}

func (lm *liveMatcher) match(s *liveSpan) bool {
	p, m := lm.p, lm.m
	if s.start < p.from || s.start >= p.to {
		return false
	}
	if d := duration(s.start, s.end); d < p.min || d > p.max {
		return false
	}
	if p.kind >= 0 && s.kind != p.kind {
		return false
	}
	g := &lm.groups[s.group]
	if !g.done {
		g.done = true
		g.ok, g.hit = p.resource(m.groups[s.group])
	}
	if !g.ok {
		return false
	}
	if p.operation != "" && m.at(s.name) != p.operation {
		return false
	}
	if p.errors && !isError(s.status, m.at(s.str[slot[reasonCol]])) {
		return false
	}
	for i := range p.attrs {
		a := &lm.judges[i]
		present, equal := false, false
		if a.col >= 0 && s.set&(1<<a.col) != 0 {
			present = true
			t := columns[a.col].typ
			v := colValue{set: true}
			switch t {
			case colInt:
				v.num = s.num[slot[a.col]]
			case colBool:
				v.num = int64(s.bools >> a.col & 1) //nolint:gosec // 0 or 1
			case colString, colText:
				v.str = m.at(s.str[slot[a.col]])
			}
			equal = a.column(t, v)
		}
		if s.attrs != 0 && !equal {
			decodeAttrs(m.at(s.attrs), func(x attr) bool {
				if x.key == a.Key {
					present = true
					equal = equal || a.text(x.value)
				}
				return true
			})
		}
		if !equal && s.extra != 0 {
			p, e := a.inEvents(m.at(s.extra))
			present, equal = present || p, e
		}
		if !a.settle(g.hit&(1<<i) != 0, present, equal) {
			return false
		}
	}
	return true
}

// bits is a set of rows.
type bits []uint64

func newBits(n int, full bool) bits {
	b := make(bits, (n+63)/64)
	if full {
		for i := range n {
			b.set(i)
		}
	}
	return b
}

func (b bits) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b bits) set(i int)      { b[i/64] |= 1 << (i % 64) }

// and leaves what is in o as well.
func (b bits) and(o bits) {
	for i := range b {
		b[i] &= o[i]
	}
}

// without takes away what is in o.
func (b bits) without(o bits) {
	for i := range b {
		b[i] &^= o[i]
	}
}

func (b bits) empty() bool {
	for _, w := range b {
		if w != 0 {
			return false
		}
	}
	return true
}

// anyIn says whether a row of [from, to) is in the set.
func (b bits) anyIn(from, to int) bool {
	for from < to {
		if w := b[from/64] >> (from % 64); w != 0 {
			return from+mathbits.TrailingZeros64(w) < to
		}
		from += 64 - from%64
	}
	return false
}

// mayMatch decides by a block's description alone.
func (p *predicate) mayMatch(m *blockMeta) bool {
	if m.MaxStart < p.from || m.MinStart >= p.to {
		return false
	}
	if m.AllOps && (p.service != "" || p.operation != "" || p.kind >= 0) && !slices.ContainsFunc(m.Ops, func(o opKey) bool {
		return (p.service == "" || o.Service == p.service) && (p.operation == "" || o.Name == p.operation) && (p.kind < 0 || o.Kind == p.kind)
	}) {
		return false
	}
	for i := range p.attrs {
		a := &p.attrs[i]
		if !a.Negative() && m.AllKeys && !m.hasRest(a.Key) && !(a.events && m.Events.may(a.Key)) && (a.col < 0 || m.Cols&(1<<a.col) == 0) {
			if _, ok := slices.BinarySearch(m.ResKeys, a.Key); !ok {
				return false
			}
		}
	}
	return true
}

func (m *blockMeta) hasRest(key string) bool {
	if !m.AllKeys {
		return len(m.Keys) > 0
	}
	_, ok := slices.BinarySearch(m.Keys, key)
	return ok
}

// match returns the rows of the block that meet the predicate, column by column; it stops reading when none is left.
func (b *blockFile) match(p *predicate, e *effort) (bits, error) {
	sc := schema()
	t, err := e.begin()
	if err != nil {
		return nil, err
	}
	defer t.end()
	b = b.in(t)
	n := b.meta.Spans
	left := newBits(n, true)
	// keep takes what scan finds away from left, and then scan's own set is used anew.
	found := newBits(n, false)
	keep := func(scan func(to bits) error) error {
		if left.empty() {
			return nil
		}
		clear(found)
		err := scan(found)
		left.and(found)
		return err
	}
	// Resource: service and resource attributes, decided once per group.
	hits := make([]uint64, len(b.groups))
	oks := make([]bool, len(b.groups))
	every := true
	all := uint64(0) // conditions that some resource meets
	for i, g := range b.groups {
		oks[i], hits[i] = p.resource(g)
		every = every && oks[i]
		if oks[i] {
			all |= hits[i]
		}
	}
	if !every {
		if err := keep(func(to bits) error {
			return b.indexes(sc.resource, func(g int32) bool { return g >= 0 && int(g) < len(oks) && oks[g] }, to)
		}); err != nil {
			return nil, err
		}
	}
	if p.from > b.meta.MinStart || p.to <= b.meta.MaxStart {
		if err := keep(func(to bits) error { return b.ints(sc.start, clamp(p.from), clamp(p.to-1), to) }); err != nil {
			return nil, err
		}
	}
	if p.operation != "" {
		if err := keep(func(to bits) error { return b.dictionary(sc.name, is(p.operation), to) }); err != nil {
			return nil, err
		}
	}
	if p.kind >= 0 {
		if err := keep(func(to bits) error { return b.dictionary(sc.kind, is(kindName(p.kind)), to) }); err != nil {
			return nil, err
		}
	}
	if p.min > 0 || p.max != math.MaxUint64 {
		lo := clamp(p.min)
		if p.min == 0 { // spans without an end count as 0 long
			lo = math.MinInt64
		}
		if err := keep(func(to bits) error { return b.ints(sc.duration, lo, clamp(p.max), to) }); err != nil {
			return nil, err
		}
	}
	if p.errors {
		if err := keep(func(to bits) error {
			if b.meta.Cols&(1<<reasonCol) != 0 {
				if err := b.dictionary(sc.cols[reasonCol], func(t []byte) bool { return len(t) > 0 }, to); err != nil {
					return err
				}
			}
			return b.dictionary(sc.status, is("error"), to)
		}); err != nil {
			return nil, err
		}
	}
	for i := range p.attrs {
		a := &p.attrs[i]
		if a.Negative() {
			if left.empty() {
				break
			}
			clear(found)
			if err := b.attribute(a, found); err != nil {
				return nil, err
			}
			left.without(found)
			continue
		}
		if err := keep(func(to bits) error {
			if all&(1<<i) != 0 {
				if err := b.indexes(sc.resource, func(g int32) bool { return g >= 0 && int(g) < len(hits) && hits[g]&(1<<i) != 0 }, to); err != nil {
					return err
				}
			}
			return b.attribute(a, to)
		}); err != nil {
			return nil, err
		}
	}
	return left, nil
}

func clamp(v uint64) int64 { return int64(min(v, math.MaxInt64)) } //nolint:gosec // that is what it is for

func is(want string) func([]byte) bool { return func(t []byte) bool { return string(t) == want } }

// attribute adds the rows whose span has the attribute: with the value, or one that the pattern means, or for "exists" with any.
func (b *blockFile) attribute(a *attrMatch, to bits) error {
	sc, j := schema(), judge{attrMatch: a}
	if a.col >= 0 && b.meta.Cols&(1<<a.col) != 0 {
		leaf := sc.cols[a.col]
		var err error
		switch t := columns[a.col].typ; {
		case a.Op == "exists":
			err = b.present(leaf, to)
		case a.like != nil:
			err = b.like(leaf, t, &j, to)
		case t == colInt && a.isNum:
			err = b.ints(leaf, a.num, a.num, to)
		case t == colBool && a.isBool:
			err = b.bools(leaf, a.Value == "true", to)
		case t == colString:
			err = b.dictionary(leaf, is(a.Value), to)
		case t == colText:
			err = b.texts(leaf, a.Value, to)
		}
		if err != nil {
			return err
		}
	}
	if a.events && b.meta.Events.may(a.Key) {
		if err := b.inEvents(a, to); err != nil {
			return err
		}
	}
	if !b.meta.hasRest(a.Key) {
		return nil
	}
	places, err := b.rest(a.Key)
	if err != nil || len(places) == 0 {
		return err
	}
	if a.Op == "exists" {
		for _, p := range places {
			to.set(int(p.row))
		}
		return nil
	}
	var rows []rowRange
	for _, p := range places {
		if n := len(rows); n == 0 || rows[n-1].from != int(p.row) {
			rows = append(rows, rowRange{int(p.row), int(p.row) + 1})
		}
	}
	return b.scan(sc.attrValue, rows, func(row int, v []parquet.Value) error {
		for len(places) > 0 && int(places[0].row) == row {
			if i := int(places[0].at); i < len(v) && j.bytes(v[i].ByteArray()) {
				to.set(row)
			}
			places = places[1:]
		}
		return nil
	})
}
