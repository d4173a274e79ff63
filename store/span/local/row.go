package local

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// UnknownService stands for spans whose resource has no service.name, as OpenTelemetry's SDKs do.
const UnknownService = "unknown_service"

var kindNames = []string{"unspecified", "internal", "server", "client", "producer", "consumer"}

func kindName(k int32) string {
	if k < 0 || int(k) >= len(kindNames) {
		return "unspecified"
	}
	return kindNames[k]
}

// group is one resource together with one scope: what spans share. Immutable.
type group struct {
	key      string // OTLP TracesData with this resource and scope and no span; identifies the group
	resource string // the same without the scope; spans are grouped by it when read
	service  string
	attrs    map[string]string // resource attributes, string forms
}

var (
	marshaler   ptrace.ProtoMarshaler
	unmarshaler ptrace.ProtoUnmarshaler
)

// newGroup makes the group of a resource and scope. The transport's stamps (boot-wide sequence number, sending time) differ in every batch; they have
// served their purpose once the batch is recognised, and are left out.
func newGroup(rs ptrace.ResourceSpans, ss ptrace.ScopeSpans) (*group, error) {
	td := ptrace.NewTraces()
	r := td.ResourceSpans().AppendEmpty()
	rs.Resource().CopyTo(r.Resource())
	r.SetSchemaUrl(rs.SchemaUrl())
	r.Resource().Attributes().Remove(flow.AttrSequence)
	r.Resource().Attributes().Remove(flow.AttrClock)
	res, err := marshaler.MarshalTraces(td)
	if err != nil {
		return nil, err
	}
	s := r.ScopeSpans().AppendEmpty()
	ss.Scope().CopyTo(s.Scope())
	s.SetSchemaUrl(ss.SchemaUrl())
	key, err := marshaler.MarshalTraces(td)
	if err != nil {
		return nil, err
	}
	return finishGroup(string(key), string(res), r), nil
}

// parseGroup is the inverse: from the key as stored.
func parseGroup(key string) (*group, error) {
	td, err := unmarshaler.UnmarshalTraces([]byte(key))
	if err != nil {
		return nil, err
	}
	if td.ResourceSpans().Len() != 1 || td.ResourceSpans().At(0).ScopeSpans().Len() != 1 {
		return nil, errors.New("a resource entry is malformed")
	}
	r := td.ResourceSpans().At(0)
	only := ptrace.NewTraces()
	o := only.ResourceSpans().AppendEmpty()
	r.Resource().CopyTo(o.Resource())
	o.SetSchemaUrl(r.SchemaUrl())
	res, err := marshaler.MarshalTraces(only)
	if err != nil {
		return nil, err
	}
	return finishGroup(key, string(res), r), nil
}

func finishGroup(key, res string, r ptrace.ResourceSpans) *group {
	g := &group{key: key, resource: res, service: UnknownService, attrs: make(map[string]string, r.Resource().Attributes().Len())}
	for k, v := range r.Resource().Attributes().All() {
		g.attrs[k] = valueString(v)
	}
	if s := g.attrs[flow.AttrServiceName]; s != "" {
		g.service = s
	}
	return g
}

// attrType is how an attribute among the rest is kept; the number is written to disk.
type attrType uint8

const (
	attrString attrType = 0
	attrBool   attrType = 1
	attrInt    attrType = 2
	attrDouble attrType = 3
	attrBytes  attrType = 4
	attrSlice  attrType = 5
	attrMap    attrType = 6
	attrEmpty  attrType = 7
)

// attr is one attribute without a column of its own. value is its string form; raw is set where the string form does not give the value back.
type attr struct {
	key, value string
	typ        attrType
	raw        []byte
}

// valueString is the string form of an attribute, by which it is searched.
func valueString(v pcommon.Value) string {
	switch v.Type() {
	case pcommon.ValueTypeDouble:
		return strconv.FormatFloat(v.Double(), 'g', -1, 64) // AsString fails on NaN and Inf
	case pcommon.ValueTypeBytes:
		return base64.StdEncoding.EncodeToString(v.Bytes().AsRaw())
	default:
		return v.AsString()
	}
}

func newAttr(k string, v pcommon.Value) (attr, error) {
	a := attr{key: k, value: valueString(v)}
	switch v.Type() {
	case pcommon.ValueTypeStr:
		a.typ = attrString
	case pcommon.ValueTypeBool:
		a.typ = attrBool
	case pcommon.ValueTypeInt:
		a.typ = attrInt
	case pcommon.ValueTypeDouble:
		a.typ = attrDouble
		a.raw = binary.LittleEndian.AppendUint64(nil, math.Float64bits(v.Double()))
	case pcommon.ValueTypeBytes:
		a.typ = attrBytes
	case pcommon.ValueTypeSlice, pcommon.ValueTypeMap:
		a.typ = attrSlice
		if v.Type() == pcommon.ValueTypeMap {
			a.typ = attrMap
		}
		td := ptrace.NewTraces()
		v.CopyTo(td.ResourceSpans().AppendEmpty().Resource().Attributes().PutEmpty("v"))
		raw, err := marshaler.MarshalTraces(td)
		if err != nil {
			return a, err
		}
		a.raw = raw
	default:
		a.typ = attrEmpty
	}
	return a, nil
}

func (a attr) put(m pcommon.Map) error {
	switch a.typ {
	case attrBool:
		m.PutBool(a.key, a.value == "true")
	case attrInt:
		n, err := strconv.ParseInt(a.value, 10, 64)
		if err != nil {
			return err
		}
		m.PutInt(a.key, n)
	case attrDouble:
		if len(a.raw) != 8 {
			return errors.New("a double is not 8 bytes long")
		}
		m.PutDouble(a.key, math.Float64frombits(binary.LittleEndian.Uint64(a.raw)))
	case attrBytes:
		b, err := base64.StdEncoding.DecodeString(a.value)
		if err != nil {
			return err
		}
		m.PutEmptyBytes(a.key).FromRaw(b)
	case attrSlice, attrMap:
		td, err := unmarshaler.UnmarshalTraces(a.raw)
		if err != nil {
			return err
		}
		if td.ResourceSpans().Len() != 1 {
			return errors.New("a nested attribute is malformed")
		}
		v, ok := td.ResourceSpans().At(0).Resource().Attributes().Get("v")
		if !ok {
			return errors.New("a nested attribute is malformed")
		}
		v.CopyTo(m.PutEmpty(a.key))
	case attrEmpty:
		m.PutEmpty(a.key)
	default:
		m.PutStr(a.key, a.value)
	}
	return nil
}

// encodeAttrs and decodeAttrs are the in-memory form of the rest.
func encodeAttrs(b []byte, as []attr) []byte {
	for _, a := range as {
		b = binary.AppendUvarint(b, uint64(len(a.key)))
		b = append(b, a.key...)
		b = append(b, byte(a.typ))
		b = binary.AppendUvarint(b, uint64(len(a.value)))
		b = append(b, a.value...)
		b = binary.AppendUvarint(b, uint64(len(a.raw)))
		b = append(b, a.raw...)
	}
	return b
}

func decodeAttrs(s string, each func(attr) bool) {
	cut := func() string {
		n, w := uvarint(s)
		v := s[w : w+int(n)] //nolint:gosec // written by encodeAttrs
		s = s[w+int(n):]     //nolint:gosec // written by encodeAttrs
		return v
	}
	for len(s) > 0 {
		var a attr
		a.key = cut()
		a.typ = attrType(s[0])
		s = s[1:]
		a.value = cut()
		if raw := cut(); raw != "" {
			a.raw = []byte(raw)
		}
		if !each(a) {
			return
		}
	}
}

func uvarint(s string) (n uint64, width int) {
	for i := range len(s) {
		n |= uint64(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			return n, i + 1
		}
	}
	return 0, len(s)
}

// colValue is the value of a column of its own in a row.
type colValue struct {
	set bool
	str string
	num int64 // integers, and booleans as 0 and 1
}

// row is one span as read back, from memory or from disk.
type row struct {
	trace      flow.TraceID
	id, parent flow.SpanID
	start, end uint64 // unix ns
	flags      uint32
	kind       int32
	status     int32
	name       string
	statusMsg  string
	traceState string
	group      *group
	cols       []colValue // by index of columns; of a row that was read in part by that of only.cols
	attrs      []attr
	extra      string // OTLP TracesData with one span that holds events, links and dropped counts; "" when it has none
}

// isError is what Errors in a query and in a summary means: status ERROR, or a reason.
func isError(status int32, reason string) bool {
	return ptrace.StatusCode(status) == ptrace.StatusCodeError || reason != ""
}

// duration is never negative, whatever the sender's clock did, and 0 for a span without an end.
func duration(start, end uint64) uint64 {
	if end <= start {
		return 0
	}
	return end - start
}

// newExtra is what of sp has no column: events, links, dropped counts.
func newExtra(sp ptrace.Span) ([]byte, error) {
	if sp.Events().Len() == 0 && sp.Links().Len() == 0 && sp.DroppedAttributesCount() == 0 && sp.DroppedEventsCount() == 0 && sp.DroppedLinksCount() == 0 {
		return nil, nil
	}
	td := ptrace.NewTraces()
	o := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	sp.Events().CopyTo(o.Events())
	sp.Links().CopyTo(o.Links())
	o.SetDroppedAttributesCount(sp.DroppedAttributesCount())
	o.SetDroppedEventsCount(sp.DroppedEventsCount())
	o.SetDroppedLinksCount(sp.DroppedLinksCount())
	return marshaler.MarshalTraces(td)
}

func (r *row) toSpan(sp ptrace.Span) error {
	sp.SetTraceID(pcommon.TraceID(r.trace))
	sp.SetSpanID(pcommon.SpanID(r.id))
	sp.SetParentSpanID(pcommon.SpanID(r.parent))
	sp.SetStartTimestamp(pcommon.Timestamp(r.start))
	sp.SetEndTimestamp(pcommon.Timestamp(r.end))
	sp.SetFlags(r.flags)
	sp.SetKind(ptrace.SpanKind(r.kind))
	sp.SetName(r.name)
	sp.TraceState().FromRaw(r.traceState)
	sp.Status().SetCode(ptrace.StatusCode(r.status))
	sp.Status().SetMessage(r.statusMsg)
	m := sp.Attributes()
	for i, c := range columns {
		v := r.cols[i]
		if !v.set {
			continue
		}
		switch c.typ {
		case colInt:
			m.PutInt(c.attr, v.num)
		case colBool:
			m.PutBool(c.attr, v.num != 0)
		case colString, colText:
			m.PutStr(c.attr, v.str)
		}
	}
	for _, a := range r.attrs {
		if err := a.put(m); err != nil {
			return fmt.Errorf("span %s: attribute %q: %w", r.id, a.key, err)
		}
	}
	if r.extra == "" {
		return nil
	}
	td, err := unmarshaler.UnmarshalTraces([]byte(r.extra))
	if err != nil || td.SpanCount() != 1 {
		return fmt.Errorf("span %s: its events and links are malformed: %w", r.id, err)
	}
	o := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
	o.Events().MoveAndAppendTo(sp.Events())
	o.Links().MoveAndAppendTo(sp.Links())
	sp.SetDroppedAttributesCount(o.DroppedAttributesCount())
	sp.SetDroppedEventsCount(o.DroppedEventsCount())
	sp.SetDroppedLinksCount(o.DroppedLinksCount())
	return nil
}

// flat is the row as a store.Span.
func (r *row) flat(o only) store.Span {
	s := store.Span{
		TraceID: r.trace, SpanID: r.id, ParentID: r.parent, Name: r.name, Kind: kindName(r.kind), Service: r.group.service,
		Start: unixTime(r.start), Duration: time.Duration(duration(r.start, r.end)), //nolint:gosec // < 2^63 for real clocks
		Error: isError(r.status, r.cols[o.reason].str), Status: r.statusMsg,
		Resource: r.group.attrs,
	}
	n := len(r.attrs)
	for i := range r.cols {
		if r.cols[i].set {
			n++
		}
	}
	s.Attributes = make(map[string]string, n)
	for k, i := range o.cols {
		if r.cols[k].set {
			s.Attributes[columns[i].attr] = r.cols[k].text(columns[i].typ)
		}
	}
	for _, a := range r.attrs {
		s.Attributes[a.key] = a.value
	}
	return s
}

// only is what is read of spans besides their ids, times, names, kinds, status and resources: all other fields are missing then.
type only struct {
	all    bool     // nothing is missing
	cols   []int    // indexes of columns, ascending; a row has theirs and no others
	reason int      // index of the reason's in cols: a span with one counts as failed
	keys   []string // of attributes that may be without a column: also one that has one, of another type
}

var whole = func() only {
	o := only{all: true}
	for i, c := range columns {
		if o.cols = append(o.cols, i); c.attr == flow.AttrReason {
			o.reason = i
		}
	}
	return o
}()

// rest says whether attributes without a column are read where has tells which keys there are.
func (o only) rest(has func(key string) bool) bool { return o.all || slices.ContainsFunc(o.keys, has) }

// onlyOf is what must be read to know the attributes of a TraceQuery's Only.
func onlyOf(keys []string) only {
	if keys == nil {
		return whole
	}
	o := only{cols: []int{reasonCol}, keys: keys}
	for _, k := range keys {
		if c, ok := columnByAttr[k]; ok {
			o.cols = append(o.cols, c)
		}
	}
	slices.Sort(o.cols)
	o.cols = slices.Compact(o.cols)
	o.reason = slices.Index(o.cols, reasonCol)
	return o
}

func (v colValue) text(t colType) string {
	switch t {
	case colInt:
		return strconv.FormatInt(v.num, 10)
	case colBool:
		return strconv.FormatBool(v.num != 0)
	default:
		return v.str
	}
}

func unixTime(ns uint64) time.Time { return time.Unix(0, int64(ns)).UTC() } //nolint:gosec // dates after 2262 wrap

// toTraces groups rows by resource, then scope, in the order in which they first appear.
func toTraces(rows []row) (ptrace.Traces, error) {
	td := ptrace.NewTraces()
	byResource := map[string]ptrace.ResourceSpans{}
	byGroup := map[string]ptrace.ScopeSpans{}
	for i := range rows {
		r := &rows[i]
		ss, ok := byGroup[r.group.key]
		if !ok {
			tmpl, err := unmarshaler.UnmarshalTraces([]byte(r.group.key))
			if err != nil {
				return td, fmt.Errorf("resource of span %s is malformed: %w", r.id, err)
			}
			from := tmpl.ResourceSpans().At(0)
			rs, ok := byResource[r.group.resource]
			if !ok {
				rs = td.ResourceSpans().AppendEmpty()
				from.Resource().MoveTo(rs.Resource())
				rs.SetSchemaUrl(from.SchemaUrl())
				byResource[r.group.resource] = rs
			}
			ss = rs.ScopeSpans().AppendEmpty()
			from.ScopeSpans().At(0).MoveTo(ss)
			byGroup[r.group.key] = ss
		}
		if err := r.toSpan(ss.Spans().AppendEmpty()); err != nil {
			return td, err
		}
	}
	return td, nil
}
