package jaegermodel

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jaegertracing/jaeger/model"
)

// randomSpan has everything that Jaeger's model can say, but no two tags of one key.
func randomSpan(r *rand.Rand, trace model.TraceID, id int) *model.Span {
	value := func(k string) model.KeyValue {
		switch r.IntN(5) {
		case 0:
			return model.String(k, fmt.Sprintf("v%d", r.IntN(3)))
		case 1:
			return model.Bool(k, r.IntN(2) == 0)
		case 2:
			return model.Int64(k, r.Int64()-r.Int64())
		case 3:
			return model.Float64(k, r.NormFloat64())
		}
		return model.Binary(k, []byte{0, byte(r.IntN(256)), 255})
	}
	tags := func(keys ...string) (out []model.KeyValue) {
		for _, k := range keys {
			if r.IntN(2) == 0 {
				out = append(out, value(k))
			}
		}
		return out
	}
	s := &model.Span{
		TraceID: trace, SpanID: model.NewSpanID(uint64(id)), OperationName: fmt.Sprintf("op%d", r.IntN(3)), Flags: model.Flags(r.Uint32()), //nolint:gosec // small
		StartTime: time.Unix(1_800_000_000, r.Int64N(1e9)).UTC(), Duration: time.Duration(r.Int64N(1e9)),
		Process: model.NewProcess(fmt.Sprintf("service%d", r.IntN(3)), tags("hostname", "ip", "jaeger.version")),
	}
	s.Tags = tags("a", "b", TagError, "http.status_code", TagStatus)
	if r.IntN(2) == 0 {
		s.Tags = append(s.Tags, model.String(TagKind, []string{"server", "client", "internal", "producer", "consumer", "odd"}[r.IntN(6)]))
	}
	for k, v := range map[string]string{TagTraceState: "k=v", TagScope: "lib", TagScopeVersion: "1", TagDescription: "it failed"} {
		if r.IntN(3) == 0 {
			s.Tags = append(s.Tags, model.String(k, v))
		}
	}
	switch r.IntN(4) {
	case 0:
		s.References = append(s.References, model.NewChildOfRef(trace, model.NewSpanID(7)))
	case 1:
		s.References = append(s.References, model.NewFollowsFromRef(trace, model.NewSpanID(8)))
	}
	if r.IntN(3) == 0 {
		other := model.NewTraceID(9, 9)
		s.References = append(s.References, model.NewChildOfRef(other, model.NewSpanID(1)), model.NewFollowsFromRef(other, model.NewSpanID(2)))
	}
	for range r.IntN(3) {
		l := model.Log{Timestamp: s.StartTime.Add(time.Duration(r.IntN(1000)))}
		if r.IntN(2) == 0 {
			l.Fields = append(l.Fields, model.String(TagEvent, "retry"))
		}
		l.Fields = append(l.Fields, tags("x", "y")...)
		s.Logs = append(s.Logs, l)
	}
	return s
}

// normal is a span whose order of tags says nothing.
func normal(s *model.Span) string {
	order := func(kvs []model.KeyValue) []model.KeyValue {
		kvs = slices.Clone(kvs)
		slices.SortFunc(kvs, func(a, b model.KeyValue) int { return strings.Compare(a.Key, b.Key) })
		return kvs
	}
	c := *s
	c.Tags = order(s.Tags)
	c.Process = model.NewProcess(s.Process.ServiceName, order(s.Process.Tags))
	c.Logs = slices.Clone(s.Logs)
	for i := range c.Logs {
		c.Logs[i].Fields = order(c.Logs[i].Fields)
	}
	return c.String()
}

// What a Jaeger writes comes back as it was.
func TestModelRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for n := range 2000 {
		var spans []*model.Span
		for i := range 1 + r.IntN(4) {
			spans = append(spans, randomSpan(r, model.NewTraceID(1, uint64(n)), i+1)) //nolint:gosec // small
		}
		want := map[model.SpanID]string{}
		for _, s := range spans {
			want[s.SpanID] = normal(s)
		}
		got := ToModel(FromModel(spans)).Spans
		if len(got) != len(spans) {
			t.Fatalf("%d spans of %d came back", len(got), len(spans))
		}
		for _, s := range got {
			if normal(s) != want[s.SpanID] {
				t.Fatalf("round %d:\ngot  %s\nwant %s", n, normal(s), want[s.SpanID])
			}
		}
	}
}
