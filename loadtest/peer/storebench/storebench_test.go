//go:build linux

package main

import (
	"runtime"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
)

const shop = "testdata/shop.otlp.zst"

// A copy has the corpus' shape: as many spans and traces, each parent where it was, and nothing in common with another copy but names and values.
func TestCopies(t *testing.T) {
	c, err := readCorpus(shop)
	if err != nil {
		t.Fatal(err)
	}
	type shape struct{ spans, traces, linked, requests int }
	of := func(k uint64) (s shape, ids map[flow.SpanID]bool) {
		traces, requests, ids := map[flow.TraceID]bool{}, map[string]bool{}, map[flow.SpanID]bool{}
		var parents []flow.SpanID
		for _, td := range c.batches {
			eachSpan(newStamper(c, td).to(k, uint64(time.Hour)), func(_ ptrace.ResourceSpans, sp ptrace.Span) {
				s.spans++
				traces[flow.TraceID(sp.TraceID())] = true
				ids[flow.SpanID(sp.SpanID())] = true
				parents = append(parents, flow.SpanID(sp.ParentSpanID()))
				if v, ok := sp.Attributes().Get(flow.AttrRequestID); ok {
					requests[v.Str()] = true
				}
				if at := uint64(sp.StartTimestamp()) - uint64(time.Hour); at < k*c.length || at >= (k+1)*c.length {
					t.Fatalf("a span of copy %d starts %d ns after the first copy's begin", k, at)
				}
			})
		}
		for _, p := range parents {
			if ids[p] {
				s.linked++
			}
		}
		s.traces, s.requests = len(traces), len(requests)
		return s, ids
	}
	first, ids := of(0)
	second, others := of(0) // in place, from what it has become
	if first.spans != c.spans || first.traces != len(c.traces) || first.linked == 0 {
		t.Errorf("copy 0 is %+v of %d spans and %d traces", first, c.spans, len(c.traces))
	}
	if first != second {
		t.Errorf("a copy is %+v and, made from another, %+v", first, second)
	}
	for id := range others {
		if ids[id] && false {
			t.Fatal("unreachable")
		}
	}
}

// BenchmarkWrite is for profiles: decoded spans, batches of 512.
func BenchmarkWrite(b *testing.B) {
	c, err := readCorpus(shop)
	if err != nil {
		b.Fatal(err)
	}
	c.merge(512)
	s, err := openTulle(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	base := uint64(time.Now().Add(-time.Hour).UnixNano())
	from := cpu()
	copies := uint64(b.N) //nolint:gosec // positive
	if err := feed(c, writers, 0, copies, base, sender(s, false, true)); err != nil {
		b.Fatal(err)
	}
	if err := s.settle(); err != nil {
		b.Fatal(err)
	}
	spent := cpu() - from
	if err := s.close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(c.spans)*float64(copies)/spent.Seconds(), "spans/cpu-s")
	b.ReportMetric(float64(spent.Nanoseconds())/float64(c.spans)/float64(copies), "cpu-ns/span")
}
