package jaegermodel

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jaegertracing/jaeger/model"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Spans get a form that engines take, and the same whenever it is sent.
func TestSettle(t *testing.T) {
	const longestName = 1001
	p := model.NewProcess("", []model.KeyValue{model.Int64(flow.AttrSequence, 7), model.Int64(flow.AttrClock, 8), model.String("k\xff", "v\xff")})
	s := &model.Span{Process: p, OperationName: strings.Repeat("é", longestName), Tags: []model.KeyValue{model.String("a", "\xff")}, Logs: []model.Log{{Fields: []model.KeyValue{model.String("b", "\xfe")}}}}
	Settle([]*model.Span{s}, longestName)
	if p.ServiceName != "unknown_service" || len(p.Tags) != 1 || p.Tags[0].Key != "k\uFFFD" || p.Tags[0].VStr != "v\uFFFD" {
		t.Errorf("process %+v", p)
	}
	if len(s.OperationName) > longestName+3 || s.Tags[0].VStr != "\uFFFD" || s.Logs[0].Fields[0].VStr != "\uFFFD" {
		t.Errorf("span %q %v %v", s.OperationName[:8], s.Tags, s.Logs)
	}
}

// What conditions compare is what an index has of them, for every type.
func TestText(t *testing.T) {
	for _, kv := range []model.KeyValue{
		model.String("k", "v"), model.Bool("k", true), model.Int64("k", -5), model.Float64("k", 0.1), model.Float64("k", 12345678901.5), model.Float64("k", 1e30), model.Binary("k", []byte{0, 255}),
	} {
		s := &model.Span{Process: model.NewProcess("a", nil), Tags: []model.KeyValue{kv}}
		v, _ := FromModel([]*model.Span{s}).ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().Get("k")
		if got := Text(&kv); got != v.AsString() {
			t.Errorf("%v: %q, want %q", kv, got, v.AsString())
		}
	}
}

// Spans of one process are in a row, also when it was read once for each.
func TestGrouped(t *testing.T) {
	var spans []*model.Span
	for i := range 9 {
		spans = append(spans, &model.Span{SpanID: model.SpanID(i), Process: model.NewProcess(fmt.Sprintf("s%d", i%3), []model.KeyValue{model.String("a", "b")})}) //nolint:gosec // small
	}
	if td := FromModel(Grouped(spans)); td.ResourceSpans().Len() != 3 || td.SpanCount() != 9 {
		t.Errorf("%d resources of %d spans", td.ResourceSpans().Len(), td.SpanCount())
	}
}
