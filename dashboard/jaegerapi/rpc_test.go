package jaegerapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jaegertracing/jaeger/model"
	"github.com/jaegertracing/jaeger/proto-gen/api_v2"
	"github.com/jaegertracing/jaeger/proto-gen/storage_v1"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/jaegermodel"
	"github.com/tulle-mesh/tulle/store/span/local"
)

// serve runs a server on loopback until the test ends and connects to it.
func serve(t *testing.T, cfg RPCConfig) *grpc.ClientConn {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	r, err := NewRPC(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx, func() {}) }()
	conn, err := grpc.NewClient(r.Addr(t.Context()), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return conn
}

func openStore(t *testing.T) *local.DB {
	t.Helper()
	db, err := local.Open(local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func collectSpans(t *testing.T, recv func() ([]model.Span, error)) (out []model.Span) {
	t.Helper()
	for {
		s, err := recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s...)
	}
}

// A stock Jaeger's calls on a real store: one span, a stream of them, and every way of reading.
func TestRemoteStorage(t *testing.T) {
	db := openStore(t)
	conn := serve(t, RPCConfig{Sources: &source.Sources{Spans: db, Graph: &dashboardtest.Graph{}}, Write: db.Write})
	ctx := t.Context()
	trace := model.NewTraceID(3, 4)
	span := func(id int) *model.Span {
		s := &model.Span{
			TraceID: trace, SpanID: model.NewSpanID(uint64(id)), OperationName: "op", StartTime: time.Now().Add(-time.Minute), Duration: time.Millisecond, //nolint:gosec // small
			Process: model.NewProcess("svc", []model.KeyValue{model.String("zone", "a")}), Tags: []model.KeyValue{model.String(jaegermodel.TagKind, "server")},
		}
		s.Logs = []model.Log{{Timestamp: s.StartTime, Fields: []model.KeyValue{model.String(jaegermodel.TagEvent, "retry"), model.Int64("n", 5)}}}
		return s
	}
	if _, err := storage_v1.NewSpanWriterPluginClient(conn).WriteSpan(ctx, &storage_v1.WriteSpanRequest{Span: span(1)}); err != nil {
		t.Fatal(err)
	}
	const all = 1500
	stream, err := storage_v1.NewStreamingSpanWriterPluginClient(conn).WriteSpanStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i := 2; i <= all; i++ {
		if err := stream.Send(&storage_v1.WriteSpanRequest{Span: span(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	reader := storage_v1.NewSpanReaderPluginClient(conn)
	got, err := reader.GetTrace(ctx, &storage_v1.GetTraceRequest{TraceID: trace})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(collectSpans(t, func() ([]model.Span, error) { c, err := got.Recv(); return c.GetSpans(), err })); n != all {
		t.Errorf("the trace has %d spans, want %d", n, all)
	}
	absent, err := reader.GetTrace(ctx, &storage_v1.GetTraceRequest{TraceID: model.NewTraceID(0, 1)})
	if err == nil {
		_, err = absent.Recv()
	}
	if status.Code(err) != codes.NotFound || status.Convert(err).Message() != "trace not found" {
		t.Errorf("an absent trace: %v", err)
	}
	for _, c := range []struct {
		tags map[string]string
		want int
	}{
		{nil, 1}, {map[string]string{"zone": "a"}, 1}, {map[string]string{"event": "retry", "n": "5"}, 1}, {map[string]string{"n": "6"}, 0}, {map[string]string{"span.kind": "client"}, 0},
	} {
		found, err := reader.FindTraces(ctx, &storage_v1.FindTracesRequest{Query: &storage_v1.TraceQueryParameters{
			ServiceName: "svc", Tags: c.tags, StartTimeMin: time.Now().Add(-time.Hour), StartTimeMax: time.Now(), NumTraces: 5,
		}})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(collectSpans(t, func() ([]model.Span, error) { c, err := found.Recv(); return c.GetSpans(), err })); n != c.want*all {
			t.Errorf("tags %v: %d spans, want %d", c.tags, n, c.want*all)
		}
		ids, err := reader.FindTraceIDs(ctx, &storage_v1.FindTraceIDsRequest{Query: &storage_v1.TraceQueryParameters{ServiceName: "svc", Tags: c.tags}})
		if err != nil || len(ids.TraceIDs) != c.want {
			t.Errorf("tags %v: ids %v, %v", c.tags, ids, err)
		}
	}
	names, err := reader.GetServices(ctx, &storage_v1.GetServicesRequest{})
	if err != nil || !reflect.DeepEqual(names.Services, []string{"svc"}) {
		t.Errorf("services %v, %v", names, err)
	}
	ops, err := reader.GetOperations(ctx, &storage_v1.GetOperationsRequest{Service: "svc", SpanKind: "server"})
	if err != nil || len(ops.Operations) != 1 || ops.Operations[0].Name != "op" || ops.Operations[0].SpanKind != "server" {
		t.Errorf("operations %v, %v", ops, err)
	}
	can, err := storage_v1.NewPluginCapabilitiesClient(conn).Capabilities(ctx, &storage_v1.CapabilitiesRequest{})
	if err != nil || !can.StreamingSpanWriter || can.ArchiveSpanReader || can.ArchiveSpanWriter {
		t.Errorf("capabilities %v, %v", can, err)
	}
	health, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "jaeger.storage.v1.SpanReaderPlugin"})
	if err != nil || health.Status != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("health %v, %v", health, err)
	}
}

// A busy store slows a stream down and loses nothing; one that will never take the spans ends it.
func TestStreamWhileBusy(t *testing.T) {
	db := openStore(t)
	var (
		mu   sync.Mutex
		busy = 3
	)
	conn := serve(t, RPCConfig{Sources: &source.Sources{Spans: db, Graph: &dashboardtest.Graph{}}, Write: func(ctx context.Context, td ptrace.Traces) error {
		mu.Lock()
		defer mu.Unlock()
		if td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Name() == "poison" {
			return consumererror.NewPermanent(errors.New("cannot be stored"))
		}
		if busy--; busy >= 0 {
			return fmt.Errorf("write: %w", store.ErrBusy)
		}
		return db.Write(ctx, td)
	}})
	send := func(name string) error {
		stream, err := storage_v1.NewStreamingSpanWriterPluginClient(conn).WriteSpanStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s := &model.Span{TraceID: model.NewTraceID(1, 1), SpanID: 1, OperationName: name, StartTime: time.Now(), Process: model.NewProcess("svc", nil)}
		if err := stream.Send(&storage_v1.WriteSpanRequest{Span: s}); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		_, err = stream.CloseAndRecv()
		return err
	}
	if err := send("good"); err != nil {
		t.Errorf("a store that was busy for a moment: %v", err)
	}
	if _, err := db.Trace(t.Context(), flow.TraceID(jaegermodel.FromTraceID(model.NewTraceID(1, 1)))); err != nil {
		t.Errorf("acknowledged and not there: %v", err)
	}
	if err := send("poison"); status.Code(err) != codes.Internal {
		t.Errorf("spans that cannot be stored: %v", err)
	}
}

func TestQueryV2(t *testing.T) {
	s := dashboardtest.NewSpans()
	dashboardtest.Fill(s, 8, epoch)
	conn := serve(t, RPCConfig{Sources: &source.Sources{Spans: s, Graph: &dashboardtest.Graph{}, Now: func() time.Time { return epoch }}})
	c, ctx := api_v2.NewQueryServiceClient(conn), t.Context()
	names, err := c.GetServices(ctx, &api_v2.GetServicesRequest{})
	if err != nil || !slices.Contains(names.Services, "web") {
		t.Fatalf("%v, %v", names, err)
	}
	ops, err := c.GetOperations(ctx, &api_v2.GetOperationsRequest{Service: "web"})
	if err != nil || len(ops.Operations) == 0 || len(ops.OperationNames) == 0 {
		t.Errorf("%v, %v", ops, err)
	}
	found, err := c.FindTraces(ctx, &api_v2.FindTracesRequest{Query: &api_v2.TraceQueryParameters{ServiceName: "web", SearchDepth: 2, StartTimeMin: epoch.Add(-24 * time.Hour), StartTimeMax: epoch}})
	if err != nil {
		t.Fatal(err)
	}
	traces := map[model.TraceID]int{}
	for _, s := range collectSpans(t, func() ([]model.Span, error) { c, err := found.Recv(); return c.GetSpans(), err }) {
		traces[s.TraceID]++
	}
	if len(traces) != 2 {
		t.Errorf("found %v, want two traces", traces)
	}
	for id, n := range traces {
		got, err := c.GetTrace(ctx, &api_v2.GetTraceRequest{TraceID: id})
		if err != nil {
			t.Fatal(err)
		}
		if m := len(collectSpans(t, func() ([]model.Span, error) { c, err := got.Recv(); return c.GetSpans(), err })); m != n {
			t.Errorf("trace %v has %d spans, %d were found", id, m, n)
		}
	}
	for what, call := range map[string]func() error{
		"no id": func() error {
			got, err := c.GetTrace(ctx, &api_v2.GetTraceRequest{})
			if err == nil {
				_, err = got.Recv()
			}
			return err
		},
		"no query": func() error {
			got, err := c.FindTraces(ctx, &api_v2.FindTracesRequest{})
			if err == nil {
				_, err = got.Recv()
			}
			return err
		},
		"no range": func() error { _, err := c.GetDependencies(ctx, &api_v2.GetDependenciesRequest{}); return err },
		"backwards": func() error {
			_, err := c.GetDependencies(ctx, &api_v2.GetDependenciesRequest{StartTime: epoch, EndTime: epoch.Add(-time.Hour)})
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := storage_v1.NewSpanWriterPluginClient(conn).WriteSpan(ctx, &storage_v1.WriteSpanRequest{Span: &model.Span{}}); status.Code(err) != codes.Unimplemented {
		t.Errorf("write to what may only be read: %v", err)
	}
}

func TestRPCAddress(t *testing.T) {
	for addr, want := range map[string]string{
		"0.0.0.0:1": "certificates of the mesh", ":1": "certificates of the mesh", "example.org:1": "certificates of the mesh", "nonsense": "host:port",
		"127.0.0.1:0": "", "localhost:0": "", "[::1]:0": "",
	} {
		_, err := NewRPC(RPCConfig{Addr: addr, Sources: &source.Sources{Spans: dashboardtest.NewSpans(), Graph: &dashboardtest.Graph{}}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}
