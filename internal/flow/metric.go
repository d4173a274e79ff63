package flow

import (
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// MetricType is how a family's points are to be read.
type MetricType uint8

const (
	// MetricSum is a cumulative monotonic count since the boot.
	MetricSum MetricType = iota
	// MetricGauge is a value at the time of the point.
	MetricGauge
	// MetricHistogram is a cumulative exponential histogram in seconds since the boot.
	MetricHistogram
)

// Family is one metric with all its points, ready to be encoded.
type Family struct {
	Name   string
	Unit   string // UCUM: "s", "By", "{exchange}"
	Type   MetricType
	Points []Point
}

// Point is one series at one instant. Only the value that the family's type calls for is read.
type Point struct {
	Attrs     []Attr
	Value     int64
	Histogram *Histogram
	Exemplars []Exemplar
}

// Attr is one attribute of a point: a string, or a boolean when IsBool.
type Attr struct {
	Key    string
	Value  string
	Bool   bool
	IsBool bool
}

// Text and Flag make an Attr.
func Text(key, value string) Attr      { return Attr{Key: key, Value: value} }
func Flag(key string, value bool) Attr { return Attr{Key: key, Bool: value, IsBool: true} }

// Exemplar is one observation that stands for its series, with the trace to open.
type Exemplar struct {
	Time  time.Time
	Value time.Duration // written in seconds
	Trace TraceID
	Span  SpanID
}

const temporalityCumulative = 2 // opentelemetry-proto, metrics/v1: AGGREGATION_TEMPORALITY_CUMULATIVE

// AppendMetricBody appends the part of a metrics export request that does not change when it is sent again: one ScopeMetrics. Families
// without points are left out.
func AppendMetricBody(dst []byte, boot, now time.Time, families []Family) []byte {
	return message(dst, 2, func(dst []byte) []byte {
		dst = appendScope(dst)
		for i := range families {
			if f := &families[i]; len(f.Points) > 0 {
				dst = message(dst, 2, func(dst []byte) []byte { return f.append(dst, unixNano(boot), unixNano(now)) })
			}
		}
		return dst
	})
}

// AppendMetrics appends one ExportMetricsServiceRequest (opentelemetry-proto, collector/metrics/v1) whose points start at boot and are as
// of now.
func AppendMetrics(dst []byte, res Resource, boot, now time.Time, families []Family) []byte {
	body := AppendMetricBody(nil, boot, now, families)
	return append(AppendHead(dst, res, len(body)), body...)
}

func (f *Family) append(dst []byte, boot, now uint64) []byte {
	dst = stringField(dst, 1, f.Name)
	dst = stringField(dst, 3, f.Unit)
	var data protowire.Number
	point := (*Point).appendNumber
	switch f.Type {
	case MetricGauge:
		data = 5
	case MetricSum:
		data = 7
	case MetricHistogram:
		data = 10
		point = (*Point).appendHistogram
	}
	return message(dst, data, func(dst []byte) []byte {
		for i := range f.Points {
			p := &f.Points[i]
			dst = message(dst, 1, func(dst []byte) []byte { return point(p, dst, boot, now) })
		}
		if f.Type != MetricGauge {
			dst = varintField(dst, 2, temporalityCumulative)
		}
		if f.Type == MetricSum {
			dst = varintField(dst, 3, 1) // is_monotonic
		}
		return dst
	})
}

func (p *Point) appendAttrs(dst []byte, num protowire.Number) []byte {
	a := attributes{dst: dst, num: num}
	for _, kv := range p.Attrs {
		k := metricKey(kv.Key)
		if kv.IsBool {
			a.flag(k, kv.Bool)
		} else {
			a.text(k, clean(kv.Value, maxName))
		}
	}
	return a.dst
}

// metricKeys are those of points' attributes: a closed set of names.
var metricKeys sync.Map // name -> *key

func metricKey(name string) *key {
	if k, ok := metricKeys.Load(name); ok {
		return k.(*key)
	}
	k, _ := metricKeys.LoadOrStore(name, newKey(name))
	return k.(*key)
}

func (p *Point) appendNumber(dst []byte, boot, now uint64) []byte {
	dst = fixed64Field(dst, 2, boot)
	dst = fixed64Field(dst, 3, now)
	dst = p.appendExemplars(dst, 5)
	dst = fixed64Field(dst, 6, uint64(p.Value))
	return p.appendAttrs(dst, 7)
}

func (p *Point) appendHistogram(dst []byte, boot, now uint64) []byte {
	h := p.Histogram
	dst = p.appendAttrs(dst, 1)
	dst = fixed64Field(dst, 2, boot)
	dst = fixed64Field(dst, 3, now)
	dst = fixed64Field(dst, 4, h.Count)
	dst = doubleField(dst, 5, h.Sum.Seconds())
	dst = varintField(dst, 6, protowire.EncodeZigZag(HistogramScale))
	dst = fixed64Field(dst, 7, h.Zero)
	if len(h.Buckets) > 0 {
		dst = message(dst, 8, func(dst []byte) []byte {
			dst = varintField(dst, 1, protowire.EncodeZigZag(int64(h.Offset)))
			return message(dst, 2, func(dst []byte) []byte {
				for _, c := range h.Buckets {
					dst = protowire.AppendVarint(dst, c)
				}
				return dst
			})
		})
	}
	return p.appendExemplars(dst, 11)
}

func (p *Point) appendExemplars(dst []byte, num protowire.Number) []byte {
	for i := range p.Exemplars {
		e := &p.Exemplars[i]
		dst = message(dst, num, func(dst []byte) []byte {
			dst = fixed64Field(dst, 2, unixNano(e.Time))
			dst = doubleField(dst, 3, e.Value.Seconds())
			dst = bytesField(dst, 4, e.Span[:])
			return bytesField(dst, 5, e.Trace[:])
		})
	}
	return dst
}
