package flow

import (
	"math"
	"net/netip"
	"time"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// The helpers here write protobuf's wire format (https://protobuf.dev/programming-guides/encoding/) by hand: the sidecar needs a
// dozen messages of OTLP, always the same ones, and none of the generated code's weight.

// message appends field num holding whatever body appends. The length goes in front afterwards, so a body is moved once by 1 to 4 bytes.
func message(dst []byte, num protowire.Number, body func([]byte) []byte) []byte {
	dst = protowire.AppendTag(dst, num, protowire.BytesType)
	at := len(dst)
	dst = body(append(dst, 0))
	n := len(dst) - at - 1
	if n < 0x80 {
		dst[at] = byte(n)
		return dst
	}
	extra := protowire.SizeVarint(uint64(n)) - 1
	for range extra {
		dst = append(dst, 0)
	}
	copy(dst[at+1+extra:], dst[at+1:at+1+n])
	protowire.AppendVarint(dst[:at], uint64(n))
	return dst
}

func stringField(dst []byte, num protowire.Number, v string) []byte {
	if v == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, num, protowire.BytesType), v)
}

func bytesField(dst []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, num, protowire.BytesType), v)
}

func varintField(dst []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, num, protowire.VarintType), v)
}

func fixed64Field(dst []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(dst, num, protowire.Fixed64Type), v)
}

func fixed32Field(dst []byte, num protowire.Number, v uint32) []byte {
	return protowire.AppendFixed32(protowire.AppendTag(dst, num, protowire.Fixed32Type), v)
}

func doubleField(dst []byte, num protowire.Number, v float64) []byte {
	return fixed64Field(dst, num, math.Float64bits(v))
}

// unixNano is t in ns since 1970, 0 for the zero time (OTLP's "unknown").
func unixNano(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(t.UnixNano())
}

// attributes is the sink that writes common.v1.KeyValue messages as field num, below 16, of the message around it.
type attributes struct {
	dst  []byte
	num  protowire.Number
	memo *memo // of spans; nil: none, nothing with ends is written
}

// Tags inside common.v1.KeyValue, AnyValue and ArrayValue.
const (
	tagValue  = 2<<3 | byte(protowire.BytesType)
	tagString = 1<<3 | byte(protowire.BytesType)
	tagBool   = 2<<3 | byte(protowire.VarintType)
	tagInt    = 3<<3 | byte(protowire.VarintType)
	tagArray  = 5<<3 | byte(protowire.BytesType)
	tagItem   = 1<<3 | byte(protowire.BytesType)
)

// open writes everything before the value of a oneof member of AnyValue; valueLen is the encoded size of that member with its tag.
func (a *attributes) open(k *key, valueLen int) {
	n := len(k.otlp) + 1 + protowire.SizeBytes(valueLen)
	if n < 0x80 { // then valueLen is, too
		a.dst = append(append(append(a.dst, byte(a.num<<3)|byte(protowire.BytesType), byte(n)), k.otlp...), tagValue, byte(valueLen))
		return
	}
	a.dst = protowire.AppendVarint(append(a.dst, byte(a.num<<3)|byte(protowire.BytesType)), uint64(n))
	a.dst = protowire.AppendVarint(append(append(a.dst, k.otlp...), tagValue), uint64(valueLen))
}

func (a *attributes) text(k *key, v string) {
	if n := len(k.otlp) + 4 + len(v); n < 0x80 { // every length is one byte, as nearly always
		dst := append(append(a.dst, byte(a.num<<3)|byte(protowire.BytesType), byte(n)), k.otlp...)
		dst = append(dst, tagValue, byte(2+len(v)), tagString, byte(len(v)))
		a.dst = append(dst, v...)
		return
	}
	a.open(k, 1+protowire.SizeBytes(len(v)))
	a.dst = protowire.AppendString(append(a.dst, tagString), v)
}

func (a *attributes) flag(k *key, v bool) {
	a.open(k, 2)
	a.dst = append(a.dst, tagBool, byte(protowire.EncodeBool(v)))
}

func (a *attributes) number(k *key, v int64) {
	a.open(k, 1+protowire.SizeVarint(uint64(v)))
	a.dst = protowire.AppendVarint(append(a.dst, tagInt), uint64(v))
}

func (a *attributes) addr(k *key, v netip.AddrPort) {
	s := a.memo.addr(v)
	a.text(k, unsafe.String(unsafe.SliceData(s), len(s))) // text copies it
}

func (a *attributes) list(k *key, v string) {
	value := 1 + protowire.SizeBytes(len(v)) // AnyValue{string}
	array := 1 + protowire.SizeBytes(value)  // ArrayValue{values}
	a.open(k, 1+protowire.SizeBytes(array))
	a.dst = protowire.AppendVarint(append(a.dst, tagArray), uint64(array))
	a.dst = protowire.AppendVarint(append(a.dst, tagItem), uint64(value))
	a.dst = protowire.AppendString(append(a.dst, tagString), v)
}

func (a *attributes) shape(r *Record) {
	e, b := a.memo.of(r)
	if b != nil {
		a.dst = append(a.dst, b...)
		return
	}
	n := len(a.dst)
	r.visitShape(a)
	e.keep(a.dst[n:])
}

var (
	keySequence = newKey(AttrSequence)
	keyClock    = newKey(AttrClock)
	keyGoodbye  = newKey(AttrGoodbye)
)

// Resource says who reports: the sidecar, which start of it, and which batch this is.
type Resource struct {
	Service   string
	Namespace string
	Version   string
	Instance  string
	BootID    string // 16 lower-case hex digits
	// Predecessor is the boot id of the process of the same instance that handed over its listeners to this one, and reports beside it until it says
	// goodbye; empty when there was none.
	Predecessor string
	Sequence    uint64    // 1, 2, 3 … per (boot id, signal)
	Clock       time.Time // when the batch left
	Goodbye     bool      // last metrics export of a clean stop
	Identity    string    // proven by the reporter's TLS connection; only ever set by the collector, never encoded here
}

func (r *Resource) append(dst []byte) []byte {
	return message(dst, 1, func(dst []byte) []byte {
		a := attributes{dst: dst, num: 1}
		for _, s := range [...]struct{ key, value string }{
			{AttrServiceName, r.Service},
			{AttrServiceNamespace, r.Namespace},
			{AttrServiceVersion, r.Version},
			{AttrServiceInstance, r.Instance},
			{AttrBootID, r.BootID},
			{AttrPredecessor, r.Predecessor},
		} {
			if s.value != "" {
				a.text(newKey(s.key), clean(s.value, maxName))
			}
		}
		a.number(keySequence, int64(r.Sequence))
		if !r.Clock.IsZero() {
			a.number(keyClock, r.Clock.UnixNano())
		}
		if r.Goodbye {
			a.flag(keyGoodbye, true)
		}
		return a.dst
	})
}

// AppendHead appends the beginning of an export request whose remainder is a body of bodyLen bytes, made by AppendSpanBody or
// AppendMetricBody: the tag and length of ResourceSpans (ResourceMetrics) and its resource; both requests have the same shape, field 1 holds
// {1: resource, 2: scope …}. Head and body are apart so that a batch that is sent again keeps its body and its sequence, and gets a fresh clock.
func AppendHead(dst []byte, res Resource, bodyLen int) []byte {
	resource := res.append(nil)
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(len(resource)+bodyLen))
	return append(dst, resource...)
}

// scope is the instrumentation scope of everything a sidecar says: {1: name}.
func appendScope(dst []byte) []byte {
	return message(dst, 1, func(dst []byte) []byte { return stringField(dst, 1, ScopeName) })
}

// ScopeName is the instrumentation scope of a sidecar's spans and metrics.
const ScopeName = "tulle"
