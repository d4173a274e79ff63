package jaegermodel

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"

	"github.com/jaegertracing/jaeger/model"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Settle gives spans of ToModel a form that engines take: valid text, names of at most longest bytes, none of them empty for a service. What the transport stamped is left out, so that a
// batch which is sent again is the same one.
func Settle(spans []*model.Span, longest int) {
	text := func(t string) string { return strings.ToValidUTF8(t, "\uFFFD") }
	short := func(t string) string { return text(t[:min(len(t), longest)]) }
	all := func(tags []model.KeyValue) {
		for i := range tags {
			tags[i].Key, tags[i].VStr = text(tags[i].Key), text(tags[i].VStr)
		}
	}
	var last *model.Process // spans of one process are in a row, or it is settled again, which changes nothing
	for _, s := range spans {
		if p := s.Process; p != last {
			last = p
			p.Tags = slices.DeleteFunc(p.Tags, func(kv model.KeyValue) bool { return kv.Key == flow.AttrSequence || kv.Key == flow.AttrClock })
			all(p.Tags)
			if p.ServiceName = short(p.ServiceName); p.ServiceName == "" {
				p.ServiceName = "unknown_service"
			}
		}
		s.OperationName = short(s.OperationName)
		all(s.Tags)
		for i := range s.Logs {
			all(s.Logs[i].Fields)
		}
	}
}

// Text is a tag's value as conditions compare it.
func Text(kv *model.KeyValue) string {
	switch kv.VType {
	case model.BinaryType:
		return base64.StdEncoding.EncodeToString(kv.VBinary)
	case model.Float64Type:
		return pcommon.NewValueDouble(kv.VFloat64).AsString()
	}
	return kv.AsString()
}

// Grouped puts spans of one process in a row, and gives them one process.
func Grouped(spans []*model.Span) []*model.Span {
	var order []*model.Process
	of := map[string]*model.Process{}
	by := map[*model.Process][]*model.Span{}
	for _, s := range spans {
		var key bytes.Buffer
		_ = s.Process.Hash(&key) // a buffer does not fail
		p := of[key.String()]
		if p == nil {
			p = s.Process
			of[key.String()] = p
			order = append(order, p)
		}
		s.Process = p
		by[p] = append(by[p], s)
	}
	out := spans[:0:0]
	for _, p := range order {
		out = append(out, by[p]...)
	}
	return out
}
