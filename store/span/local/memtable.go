package local

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// sym is an index into a memtable's strings; 0 is "".
type sym uint32

// liveSpan is one span in memory, without pointers, so that the garbage collector does not look inside (about 380 bytes plus its texts).
type liveSpan struct {
	trace                       flow.TraceID
	id, parent                  flow.SpanID
	start, end                  uint64
	set, bools                  uint64 // by index of columns: present; true
	flags                       uint32
	kind, status                int32
	group                       uint32
	name, statusMsg, traceState sym
	attrs, extra                sym
	str                         [maxStr]sym
	num                         [maxNum]int64
}

// startAt says that from commit seq on, the earliest known start was start. A part's history has one entry unless an earlier span
// came later; paging orders by the start as of its first page (see Summaries).
type startAt struct{ seq, start uint64 }

// part is what one memtable or block knows of one trace, without span bodies. Immutable once handed out.
type part struct {
	id        flow.TraceID
	start     uint64 // earliest span start
	end       uint64 // latest span end
	spans     int
	errors    int
	rooted    bool // a span without parent is here
	rootStart uint64
	rootName  string // of the root, or of the earliest span when there is none
	rootOwner string // its service
	services  []store.ServiceCount
	history   []startAt // never empty; seq ascending, start descending
	row       int       // in a block: index of its first row
}

// asOf is the trace's start as known at commit seq w; ok is false when nothing of it was.
func (p *part) asOf(w uint64) (start uint64, ok bool) {
	for i := len(p.history) - 1; i >= 0; i-- {
		if p.history[i].seq <= w {
			return p.history[i].start, true
		}
	}
	return 0, false
}

// text is where a text lies in memtable.bodies: without a pointer, as there are many.
type text struct{ body, from, size uint32 }

const (
	spanChunk = 1024
	textChunk = 256 << 10
)

// memtable is the live buffer: spans of the current WAL segments, queryable at once. Only the committer changes it, under mu; once frozen
// it never changes again and needs no lock.
type memtable struct {
	segments []string  // WAL files that it holds; released when it is sealed
	born     time.Time // when its first span came
	seqs     *sequences

	mu        sync.RWMutex
	chunks    [][]liveSpan
	count     int
	bytes     int
	texts     []text   // by sym
	bodies    [][]byte // of the texts; their arrays never move
	interned  map[string]sym
	recent    [maxStr]sym      // by slot: the latest value of a column, which the next span often repeats
	order     [len64]keyColumn // by place in a span: the latest key there, for a sender's spans have theirs in one order
	groups    []*group
	groupIdx  map[string]uint32
	traces    map[flow.TraceID]*liveTrace
	ops       map[opKey]struct{}
	lastOp    opKey               // the latest of them, which the next span often repeats
	keys      map[string]struct{} // attribute keys among the rest
	eventKeys map[string]struct{} // attribute keys of events
	cols      uint64              // columns that are used
	firstSeq  uint64              // 0 when empty
	lastSeq   uint64
	minStart  uint64
	maxStart  uint64
	received  int64 // unix ns of the latest batch
}

// liveTrace has room for what most traces need, so that they take one allocation.
type liveTrace struct {
	spans   []uint32
	history []startAt
	first   [4]uint32
	born    [1]startAt
}

type opKey struct {
	Service string `json:"s"`
	Name    string `json:"n"`
	Kind    int32  `json:"k"`
}

// Bounds on what a block lists of itself; beyond them the list is marked incomplete and no longer used to skip the block.
const (
	maxOps  = 20_000
	maxKeys = 4096
)

func newMemtable() *memtable {
	return &memtable{
		texts: []text{{}}, interned: map[string]sym{"": 0}, groupIdx: map[string]uint32{}, traces: map[flow.TraceID]*liveTrace{},
		ops: map[opKey]struct{}{}, keys: map[string]struct{}{}, eventKeys: map[string]struct{}{}, minStart: ^uint64(0), seqs: newSequences(),
	}
}

// keyColumn is an attribute's key and its column, -1 when it has none.
type keyColumn struct {
	key string
	col int
}

// column is the column of the attribute with this key, the at-th of its span; -1 when it has none.
func (m *memtable) column(at int, key string) int {
	if at < len(m.order) && m.order[at].key == key {
		return m.order[at].col
	}
	c, ok := columnByAttr[key]
	if !ok {
		return -1
	}
	if at < len(m.order) {
		m.order[at] = keyColumn{columns[c].attr, c}
	}
	return c
}

// repeated interns the value of a column's slot.
func (m *memtable) repeated(slot int, s string) sym {
	if i := m.recent[slot]; m.at(i) == s {
		return i
	}
	i := m.intern(s)
	m.recent[slot] = i
	return i
}

// again is repeated for texts of which few come back later: only the latest is looked at.
func (m *memtable) again(slot int, s string) sym {
	if i := m.recent[slot]; m.at(i) == s {
		return i
	}
	i := m.text(s)
	m.recent[slot] = i
	return i
}

func (m *memtable) intern(s string) sym {
	if i, ok := m.interned[s]; ok {
		return i
	}
	i := m.text(s)
	m.interned[m.at(i)] = i
	return i
}

// at is the text of i. It is valid as long as somebody holds it.
func (m *memtable) at(i sym) string {
	t := &m.texts[i]
	if t.size == 0 {
		return ""
	}
	return unsafe.String(&m.bodies[t.body][t.from], t.size)
}

// text keeps a copy of s: the batch is not ours to keep.
func (m *memtable) text(s string) sym {
	if s == "" {
		return 0
	}
	last := len(m.bodies) - 1
	if last < 0 || len(s) > cap(m.bodies[last])-len(m.bodies[last]) {
		m.bodies = append(m.bodies, make([]byte, 0, max(textChunk, len(s))))
		last++
		m.bytes += cap(m.bodies[last])
	}
	from := len(m.bodies[last])
	m.bodies[last] = append(m.bodies[last], s...)
	m.texts = append(m.texts, text{uint32(last), uint32(from), uint32(len(s))}) //nolint:gosec // bounded by the seal size
	m.bytes += 12
	return sym(len(m.texts) - 1) //nolint:gosec // bounded by the seal size
}

func (m *memtable) span(i uint32) *liveSpan { return &m.chunks[i/spanChunk][i%spanChunk] }

func (m *memtable) groupOf(rs ptrace.ResourceSpans, ss ptrace.ScopeSpans) (uint32, error) {
	g, err := newGroup(rs, ss)
	if err != nil {
		return 0, err
	}
	return m.addGroup(g), nil
}

func (m *memtable) addGroup(g *group) uint32 {
	i, ok := m.groupIdx[g.key]
	if !ok {
		i = uint32(len(m.groups)) //nolint:gosec // bounded by the seal size
		m.groups = append(m.groups, g)
		m.groupIdx[g.key] = i
		m.bytes += 4 * len(g.key)
	}
	return i
}

// insert adds the resources of td that skip does not name. The caller is the committer.
func (m *memtable) insert(td ptrace.Traces, skip []bool, seq uint64, received int64) (spans int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.firstSeq == 0 {
		m.firstSeq = seq
		m.born = time.Now()
	}
	m.lastSeq = seq
	m.received = max(m.received, received)
	for i, rs := range td.ResourceSpans().All() {
		if skip != nil && skip[i] {
			continue
		}
		if boot, n, ok := batchID(rs); ok {
			m.seqs.add(boot, n)
		}
		for _, ss := range rs.ScopeSpans().All() {
			if ss.Spans().Len() == 0 {
				continue
			}
			g, err := m.groupOf(rs, ss)
			if err != nil {
				return spans, err
			}
			for _, sp := range ss.Spans().All() {
				if err := m.insertSpanLocked(sp, g, seq); err != nil {
					return spans, err
				}
				spans++
			}
		}
	}
	return spans, nil
}

func (m *memtable) insertSpanLocked(sp ptrace.Span, g uint32, seq uint64) error {
	if m.count == len(m.chunks)*spanChunk {
		m.chunks = append(m.chunks, make([]liveSpan, spanChunk))
		m.bytes += spanChunk * int(unsafe.Sizeof(liveSpan{}))
	}
	ls := &m.chunks[m.count/spanChunk][m.count%spanChunk] // counts once it is whole
	*ls = liveSpan{}
	ls.trace, ls.id, ls.parent = flow.TraceID(sp.TraceID()), flow.SpanID(sp.SpanID()), flow.SpanID(sp.ParentSpanID())
	ls.start, ls.end = uint64(sp.StartTimestamp()), uint64(sp.EndTimestamp())
	ls.flags, ls.kind, ls.status, ls.group = sp.Flags(), int32(sp.Kind()), int32(sp.Status().Code()), g
	ls.name, ls.statusMsg, ls.traceState = m.intern(sp.Name()), m.text(sp.Status().Message()), m.text(sp.TraceState().AsRaw())
	var rest []attr
	at := -1
	for k, v := range sp.Attributes().All() {
		at++
		if c := m.column(at, k); c >= 0 {
			switch t := columns[c].typ; {
			case t == colInt && v.Type() == pcommon.ValueTypeInt:
				ls.num[slot[c]] = v.Int()
				ls.set |= 1 << c
				continue
			case t == colBool && v.Type() == pcommon.ValueTypeBool:
				if v.Bool() {
					ls.bools |= 1 << c
				}
				ls.set |= 1 << c
				continue
			case t == colString && v.Type() == pcommon.ValueTypeStr:
				ls.str[slot[c]] = m.repeated(slot[c], v.Str())
				ls.set |= 1 << c
				continue
			case t == colText && v.Type() == pcommon.ValueTypeStr:
				ls.str[slot[c]] = m.again(slot[c], v.Str())
				ls.set |= 1 << c
				continue
			}
		}
		a, err := newAttr(k, v)
		if err != nil {
			return err
		}
		rest = append(rest, a)
		if len(m.keys) <= maxKeys {
			m.keys[k] = struct{}{}
		}
	}
	if len(rest) > 0 {
		ls.attrs = m.text(string(encodeAttrs(nil, rest)))
	}
	extra, err := newExtra(sp)
	if err != nil {
		return err
	}
	ls.extra = m.text(string(extra))
	m.noteEventsLocked(sp)
	m.addLocked(ls, seq)
	return nil
}

func (m *memtable) addLocked(ls *liveSpan, seq uint64) {
	t := m.traces[ls.trace]
	if t == nil {
		t = &liveTrace{}
		t.spans, t.history = t.first[:0], t.born[:0]
		m.traces[ls.trace] = t
		m.bytes += 200
	}
	t.spans = append(t.spans, uint32(m.count)) //nolint:gosec // bounded by the seal size
	m.count++
	if n := len(t.history); n == 0 || ls.start < t.history[n-1].start {
		if n > 0 && t.history[n-1].seq == seq {
			t.history[n-1].start = ls.start
		} else {
			t.history = append(t.history, startAt{seq, ls.start})
		}
	}
	m.cols |= ls.set
	m.minStart = min(m.minStart, ls.start)
	m.maxStart = max(m.maxStart, ls.start)
	if op := (opKey{m.groups[ls.group].service, m.at(ls.name), ls.kind}); (op != m.lastOp || len(m.ops) == 0) && len(m.ops) <= maxOps {
		m.ops[op] = struct{}{}
		m.lastOp = op
	}
}

// partLocked summarises one trace.
func (m *memtable) partLocked(id flow.TraceID, t *liveTrace) *part {
	p := &part{id: id, start: ^uint64(0), spans: len(t.spans), history: slices.Clone(t.history)}
	for k, i := range t.spans {
		s := m.span(i)
		p.add(s.start, s.end, isError(s.status, m.at(s.str[slot[reasonCol]])), m.groups[s.group].service)
		root := s.parent.IsZero()
		name, owner := m.at(s.name), m.groups[s.group].service
		if k == 0 || better(root, s.start, owner, name, p) {
			p.rooted, p.rootStart, p.rootOwner, p.rootName = root, s.start, owner, name
		}
	}
	sortServices(p)
	return p
}

func sortServices(p *part) {
	slices.SortFunc(p.services, func(a, b store.ServiceCount) int { return cmp.Compare(a.Service, b.Service) })
}

// better says that a span names the trace rather than the one that names p: a root before others, then the earlier, then by service and name. So pieces of a trace give
// the same in any order.
func better(root bool, start uint64, owner, name string, p *part) bool {
	if root != p.rooted {
		return root
	}
	return cmp.Or(cmp.Compare(start, p.rootStart), strings.Compare(owner, p.rootOwner), strings.Compare(name, p.rootName)) < 0
}

func (p *part) add(start, end uint64, isErr bool, service string) {
	p.start, p.end = min(p.start, start), max(p.end, end, start)
	e := 0
	if isErr {
		e = 1
	}
	p.errors += e
	for i := range p.services {
		if p.services[i].Service == service {
			p.services[i].Spans++
			p.services[i].Errors += e
			return
		}
	}
	p.services = append(p.services, store.ServiceCount{Service: service, Spans: 1, Errors: e})
}

func (m *memtable) row(s *liveSpan, o only) row {
	r := row{
		trace: s.trace, id: s.id, parent: s.parent, start: s.start, end: s.end, flags: s.flags, kind: s.kind, status: s.status,
		name: m.at(s.name), statusMsg: m.at(s.statusMsg), traceState: m.at(s.traceState), group: m.groups[s.group],
		extra: m.at(s.extra), cols: make([]colValue, len(o.cols)),
	}
	for k, i := range o.cols {
		if s.set&(1<<i) == 0 {
			continue
		}
		v := colValue{set: true}
		switch columns[i].typ {
		case colInt:
			v.num = s.num[slot[i]]
		case colBool:
			v.num = int64(s.bools >> i & 1) //nolint:gosec // 0 or 1
		case colString, colText:
			v.str = m.at(s.str[slot[i]])
		}
		r.cols[k] = v
	}
	if o.rest(func(k string) bool { _, ok := m.keys[k]; return ok || len(m.keys) > maxKeys }) {
		decodeAttrs(m.at(s.attrs), func(a attr) bool { r.attrs = append(r.attrs, a); return true })
	}
	return r
}

// blockMeta is what a block says of itself, in its sidecar and in the Parquet file's metadata.
type blockMeta struct {
	Spans     int                   `json:"spans"`
	Traces    int                   `json:"traces"`
	FirstSeq  uint64                `json:"firstSeq"` // commit sequence of the first and last batch in it
	LastSeq   uint64                `json:"lastSeq"`
	MinStart  uint64                `json:"minStart"`
	MaxStart  uint64                `json:"maxStart"`
	Received  int64                 `json:"received"` // arrival of the latest batch, unix ns: what retention by age goes by
	Sequences map[string][]interval `json:"sequences,omitempty"`
	Ops       []opKey               `json:"operations,omitempty"`
	AllOps    bool                  `json:"allOperations"` // false: Ops is cut short
	Keys      []string              `json:"keys,omitempty"`
	AllKeys   bool                  `json:"allKeys"`
	Cols      uint64                `json:"-"`
	ColNames  []string              `json:"columns,omitempty"` // attributes with a column of their own that are used
	ResKeys   []string              `json:"resourceKeys,omitempty"`
	Events    blockEvents           `json:"events,omitzero"`
	Level     int                   `json:"level,omitempty"`    // how far compaction has come: 0 sealed, 1 merged in its hour, 2 in its window, 3 thinned
	Replaces  []string              `json:"replaces,omitempty"` // files below blocks/ whose spans it holds

	// What thinning left out of it.
	LeftTraces int `json:"leftOutTraces,omitempty"`
	LeftSpans  int `json:"leftOutSpans,omitempty"`
}

func (m *memtable) metaLocked() blockMeta {
	b := blockMeta{
		Spans: m.count, Traces: len(m.traces), FirstSeq: m.firstSeq, LastSeq: m.lastSeq, MinStart: m.minStart, MaxStart: m.maxStart,
		Received: m.received, Sequences: m.seqs.all(), AllOps: len(m.ops) <= maxOps, AllKeys: len(m.keys) <= maxKeys, Events: m.blockEventsLocked(), Cols: m.cols,
	}
	for k := range m.ops {
		b.Ops = append(b.Ops, k)
	}
	slices.SortFunc(b.Ops, compareOps)
	for k := range m.keys {
		b.Keys = append(b.Keys, k)
	}
	slices.Sort(b.Keys)
	b.ColNames = namesOf(m.cols)
	res := map[string]struct{}{}
	for _, g := range m.groups {
		for k := range g.attrs {
			res[k] = struct{}{}
		}
	}
	for k := range res {
		b.ResKeys = append(b.ResKeys, k)
	}
	slices.Sort(b.ResKeys)
	return b
}

// namesOf are the attributes whose columns are in the set.
func namesOf(cols uint64) (names []string) {
	for i, c := range columns {
		if cols&(1<<i) != 0 {
			names = append(names, c.attr)
		}
	}
	return names
}

func (b *blockMeta) parse(data []byte) error {
	if err := json.Unmarshal(data, b); err != nil {
		return err
	}
	for _, n := range b.ColNames {
		if i, ok := columnByAttr[n]; ok {
			b.Cols |= 1 << i
		}
	}
	return nil
}

// batchID is how a re-sent batch is recognised: the sender's boot id and the batch's number.
func batchID(rs ptrace.ResourceSpans) (boot string, n uint64, ok bool) {
	m := rs.Resource().Attributes()
	b, ok := m.Get(flow.AttrBootID)
	if !ok || b.Type() != pcommon.ValueTypeStr || b.Str() == "" {
		return "", 0, false
	}
	s, ok := m.Get(flow.AttrSequence)
	if !ok || s.Type() != pcommon.ValueTypeInt || s.Int() <= 0 {
		return "", 0, false
	}
	reporter := "" // stamped by the collector: a reporter can only repeat itself
	if r, ok := m.Get(flow.AttrReporterIdentity); ok {
		reporter = r.AsString()
	}
	return reporter + "|" + b.Str(), uint64(s.Int()), true
}
