//go:build linux

package main

import (
	"bytes"
	"runtime"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
)

const shop = "testdata/shop.otlp.zst"

// A copy has the corpus' shape: as many spans and traces, each parent where it was, and no span of another copy.
func TestCopies(t *testing.T) {
	c, err := readCorpus(shop)
	if err != nil {
		t.Fatal(err)
	}
	type shape struct{ spans, traces, linked, requests int }
	var stampers []*stamper
	for _, td := range c.batches {
		stampers = append(stampers, newStamper(c, td))
	}
	of := func(k uint64) (s shape, ids map[flow.SpanID]bool) {
		traces, requests := map[flow.TraceID]bool{}, map[string]bool{}
		ids = map[flow.SpanID]bool{}
		var parents []flow.SpanID
		for _, st := range stampers {
			eachSpan(st.to(k, uint64(time.Hour)), func(_ ptrace.ResourceSpans, sp ptrace.Span) {
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
	other, others := of(1)
	again, _ := of(0) // in place, from what it has become
	if first.spans != c.spans || first.traces != len(c.traces) || first.linked == 0 {
		t.Errorf("copy 0 is %+v of %d spans and %d traces", first, c.spans, len(c.traces))
	}
	if other != first || again != first {
		t.Errorf("copy 0 is %+v, copy 1 %+v, and copy 0 again %+v", first, other, again)
	}
	for id := range others {
		if ids[id] {
			t.Fatalf("two copies have span %s", id)
		}
	}
}

// Bytes of a copy are those of the same copy, marshalled.
func TestWireCopies(t *testing.T) {
	c, err := readCorpus(shop)
	if err != nil {
		t.Fatal(err)
	}
	c.merge(512)
	var m ptrace.ProtoMarshaler
	for i, td := range c.batches {
		var want [3][]byte
		copies, base := [3]uint64{0, 7, 32_000}, uint64(time.Now().UnixNano()) //nolint:gosec // a date
		s := newStamper(c, td)
		for n, k := range copies {
			if want[n], err = m.MarshalTraces(s.to(k, base)); err != nil {
				t.Fatal(err)
			}
		}
		w, err := newWire(s)
		if err != nil {
			t.Fatalf("batch %d: %v", i, err)
		}
		for n, k := range copies {
			got, err := w.to(k, base)
			if err != nil {
				t.Fatalf("batch %d, copy %d: %v", i, k, err)
			}
			if !bytes.Equal(got, want[n]) {
				j := 0
				for j < min(len(got), len(want[n])) && got[j] == want[n][j] {
					j++
				}
				t.Fatalf("batch %d, copy %d: the bytes are not those of the decoded copy from byte %d on: %q, not %q", i, k, j, got[j:min(j+60, len(got))], want[n][j:min(j+60, len(want[n]))])
			}
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
	s, err := openTulle(job{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	source, err := newSource(c, false)
	if err != nil {
		b.Fatal(err)
	}
	runtime.GC()
	base := uint64(time.Now().Add(-time.Hour).UnixNano())
	from := cpu()
	copies := uint64(b.N) //nolint:gosec // positive
	if err := source.feed(writers, 0, copies, base, sender(s, true)); err != nil {
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
