package observer_test

import (
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/identity/join"
)

// BenchmarkIngest is what a span costs from a sidecar's mTLS connection through collector and write-ahead log into sealed blocks: CPU time of
// the whole process, the sender's part (encoding, TLS) included.
func BenchmarkIngest(b *testing.B) {
	m := newMesh(b)
	m.controller()
	o := m.observer("")
	token, err := controller.IssueToken(m.path("controller"), "shop", "catalog", time.Hour)
	m.must(err)
	id, err := identity.Workload(trust, "shop", "catalog")
	m.must(err)
	ctrl, err := identity.Controller(trust)
	m.must(err)
	holder := &identity.Holder{}
	j, err := join.New(join.Config{Controller: m.grpcAddr, ControllerID: ctrl, ID: id, Token: token, BundleFile: m.bundle, StateDir: m.path("sidecar"), Holder: holder})
	m.must(err)
	m.actor("join", j.Run)
	obs, err := identity.Observer(trust)
	m.must(err)
	conn, err := grpc.NewClient("passthrough:///"+o.otlp, grpc.WithTransportCredentials(credentials.NewTLS(holder.ClientTLS(obs))), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(bytesCodec{})))
	m.must(err)
	defer conn.Close()

	const batch = 512
	recs := make([]flow.Record, batch)
	var before syscall.Rusage
	m.must(syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	n := 0
	for b.Loop() {
		n++
		for i := range recs {
			k := n*batch + i
			recs[i] = flow.Record{
				Kind: flow.KindExchange, Side: flow.SideServer, Protocol: flow.ProtocolHTTP1, Start: time.Now(), Duration: time.Duration(1+k%1000) * time.Microsecond,
				Trace:  flow.Trace{TraceID: flow.TraceID{1, byte(k), byte(k >> 8), byte(k >> 16), byte(k >> 24)}, SpanID: flow.SpanID{2, byte(k), byte(k >> 8), byte(k >> 16), byte(k >> 24)}, ParentID: flow.SpanID{3}, Flags: 1},
				Legs:   flow.Legs{HeadParsed: 900, Queued: 4_000, Connected: flow.Unset, Secured: flow.Unset, Sent: 15_000, FirstByte: time.Duration(k%1000) * 900, LastByte: time.Duration(k%1000) * 990},
				Source: flow.Peer{Service: "web", Namespace: "shop", Identity: "spiffe://tulle.test/ns/shop/sa/web", Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(30000+k%64))},
				Destination: flow.Peer{
					Service: "catalog", Namespace: "shop", Version: "v1", Instance: "catalog-1", Identity: "spiffe://tulle.test/ns/shop/sa/catalog",
					Addr: netip.MustParseAddrPort("127.0.0.1:22001"),
				},
				Endpoint: netip.MustParseAddrPort("127.0.0.1:23001"),
				Method:   "GET", Path: fmt.Sprint("/items/", k%1000), Authority: "catalog", UserAgent: "shop/1", RequestID: fmt.Sprintf("%08x-8a52-4f6e-9d3c-1c9f5a3c2b10", k),
				Status: 200, Answered: true, Attempts: 1, BytesOut: 1024, Revision: "3f1c2a",
			}
		}
		body := flow.AppendSpanBody(nil, recs)
		req := append(flow.AppendHead(nil, flow.Resource{
			Service: "catalog", Namespace: "shop", Version: "v1", Instance: "catalog-1", BootID: "0123456789abcdef", Sequence: uint64(n), Clock: time.Now(),
		}, len(body)), body...)
		for {
			var response []byte
			err := conn.Invoke(b.Context(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export", req, &response)
			if rejected, why := flow.ParseResponse(response); rejected > 0 {
				b.Fatalf("%d spans were not kept: %s", rejected, why)
			}
			if err == nil {
				break
			}
			if c := status.Code(err); c != codes.Unavailable && c != codes.ResourceExhausted {
				b.Fatal(err)
			}
		}
	}
	var after syscall.Rusage
	m.must(syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	cpu := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	b.ReportMetric(float64(cpu.Microseconds())/float64(n*batch), "cpu-µs/span")
	b.ReportMetric(0, "ns/op")
}

// bytesCodec is for messages that are bytes already.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}
