package jaeger

import (
	"context"
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/jaegertracing/jaeger/thrift-gen/agent"
	jaegerthrift "github.com/jaegertracing/jaeger/thrift-gen/jaeger"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// sink counts spans.
type sink struct{ n int }

func (*sink) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *sink) ConsumeTraces(_ context.Context, td ptrace.Traces) error {
	s.n += td.SpanCount()
	return nil
}

func emitBatch(t testing.TB, protocol func(thrift.TTransport, *thrift.TConfiguration) thrift.TProtocol, tags int) []byte {
	t.Helper()
	m := thrift.NewTMemoryBuffer()
	p := protocol(m, nil)
	b := &jaegerthrift.Batch{Process: &jaegerthrift.Process{ServiceName: "bank"}, Spans: []*jaegerthrift.Span{{TraceIdHigh: 1, SpanId: 2, OperationName: "get"}}}
	for range tags {
		b.Spans[0].Tags = append(b.Spans[0].Tags, &jaegerthrift.Tag{Key: "k", VType: jaegerthrift.TagType_LONG, VLong: new(int64)})
	}
	if err := agent.NewAgentClientProtocol(m, p, p).EmitBatch(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return m.Bytes()
}

// A few bytes that claim 2^29+1 elements of eight bytes pass the library's own check, which multiplies in 32 bits, and would make it reserve 4 GiB.
func TestClaimsReserveNothing(t *testing.T) {
	claim := binary.BigEndian.AppendUint32([]byte{byte(thrift.LIST), 0, 2, byte(thrift.I64)}, 1<<29+1)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := jaegerthrift.NewBatch().Read(t.Context(), readerOf(claim, binaryProtocol))
	runtime.ReadMemStats(&after)
	if err == nil {
		t.Error("the claim was believed")
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
		t.Errorf("%d bytes reserved for %d bytes of message", n, len(claim))
	}
}

// What any datagram holds is kept or counted once, and nothing that it holds ends the process.
func FuzzDatagram(f *testing.F) {
	for _, tags := range []int{0, 3} {
		f.Add(emitBatch(f, compactProtocol, tags), false)
		f.Add(emitBatch(f, binaryProtocol, tags), true)
	}
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, b []byte, binary bool) {
		if len(b) > maxDatagram {
			t.Skip("no datagram is that large")
		}
		next, dropped := &sink{}, 0
		s := &server{next: next, hooks: Hooks{Dropped: func(string, int) { dropped++ }}}
		protocol := compactProtocol
		if binary {
			protocol = binaryProtocol
		}
		s.datagram(t.Context(), b, protocol)
		if dropped > 1 || dropped == 1 && next.n > 0 {
			t.Errorf("%d spans kept, %d times dropped", next.n, dropped)
		}
	})
}
