package collector_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	data "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslog "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tulle-mesh/tulle/collector"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// envoyMessage is what an Envoy says of one request, in trace 1,2,3…, with a lie about the mesh.
func envoyMessage(first bool) *accesslog.StreamAccessLogsMessage {
	m := &accesslog.StreamAccessLogsMessage{LogEntries: &accesslog.StreamAccessLogsMessage_HttpLogs{HttpLogs: &accesslog.StreamAccessLogsMessage_HTTPAccessLogEntries{
		LogEntry: []*data.HTTPAccessLogEntry{{
			CommonProperties: &data.AccessLogCommon{
				StartTime: timestamppb.New(time.Now()), Duration: durationpb.New(time.Millisecond), StreamId: "1", CustomTags: map[string]string{"tenant": "blue"},
			},
			Request: &data.HTTPRequestProperties{RequestMethod: core.RequestMethod_GET, Path: "/x?secret=1", RequestHeaders: map[string]string{
				"traceparent": "00-" + traceID.String() + "-0800000000000000-01", "cookie": "c=1",
			}},
		}},
	}}}
	if first {
		m.Identifier = &accesslog.StreamAccessLogsMessage_Identifier{LogName: "edge", Node: &core.Node{Id: "edge-1", Cluster: "bank"}}
	}
	return m
}

func sendEnvoy(t *testing.T, c *collector.Collector, creds credentials.TransportCredentials, messages ...*accesslog.StreamAccessLogsMessage) error {
	t.Helper()
	s, err := accesslog.NewAccessLogServiceClient(dialTo(t, c.Address("envoy_als"), creds)).StreamAccessLogs(t.Context())
	if err != nil {
		return err
	}
	for _, m := range messages {
		if err := s.Send(m); err != nil {
			break // CloseAndRecv says why
		}
	}
	_, err = s.CloseAndRecv()
	return err
}

func TestEnvoyAccessLogs(t *testing.T) {
	db := openSpans(t, t.TempDir())
	c, _ := start(t, with(func(c *collector.Config) { c.Spans = db }))
	if err := sendEnvoy(t, c, insecure.NewCredentials(), envoyMessage(true), envoyMessage(false)); err != nil {
		t.Fatal(err)
	}
	res, attrs, sp := stored(t, db) // no waiting: the stream's end is answered when all is kept
	if res[flow.AttrServiceName] != "bank" || sp.Name() != "GET /x" || sp.ParentSpanID() != [8]byte{8} || sp.Kind() != ptrace.SpanKindServer || attrs["envoy.tag.tenant"] != "blue" {
		t.Errorf("%v, %s, parent %s, %v", res, sp.Name(), sp.ParentSpanID(), attrs)
	}
	if _, ok := attrs["http.request.header.cookie"]; ok || attrs[flow.AttrPath] != "/x" {
		t.Errorf("private: %v", attrs)
	}
	if st := c.Stats(); st.SpansAccepted != 2 || len(st.Dropped) > 0 {
		t.Errorf("%+v", st)
	}
	if err := sendEnvoy(t, c, insecure.NewCredentials(), envoyMessage(false)); status.Code(err) != codes.InvalidArgument {
		t.Errorf("without a sender: %v", err)
	}
	if st := c.Stats(); st.Dropped["envoy_als_malformed"] != 1 {
		t.Errorf("%+v", st)
	}
}

// reluctant refuses the first writes.
type reluctant struct {
	backend
	refuse *atomic.Int64
}

func (r reluctant) Write(ctx context.Context, td ptrace.Traces) error {
	if r.refuse.Add(-1) >= 0 {
		return store.ErrBusy
	}
	return r.backend.Write(ctx, td)
}

func TestEnvoyIsHeldBack(t *testing.T) {
	var refuse atomic.Int64
	refuse.Store(1)
	c, _ := start(t, with(func(c *collector.Config) { c.Spans = reluctant{openSpans(t, t.TempDir()), &refuse} }))
	if err := sendEnvoy(t, c, insecure.NewCredentials(), envoyMessage(true)); err != nil {
		t.Fatal(err)
	}
	if st := c.Stats(); st.SpansAccepted != 1 || st.Refused["store_busy"] != 1 || len(st.Dropped) > 0 {
		t.Errorf("%+v", st)
	}
}

func TestEnvoyWhatIsLostIsCounted(t *testing.T) {
	c, _ := start(t, with(func(c *collector.Config) { c.Spans = refusing{err: fmt.Errorf("cannot encode")} }))
	if err := sendEnvoy(t, c, insecure.NewCredentials(), envoyMessage(true)); err != nil {
		t.Fatal(err)
	}
	if st := c.Stats(); st.Dropped["store_error"] != 1 || len(st.Dropped) != 1 {
		t.Errorf("for good, counted once: %+v", st)
	}
	// The process ends while the store refuses.
	wrote := make(chan error, 64)
	c, stop := start(t, with(func(c *collector.Config) { c.Spans = noting{refusing{err: store.ErrBusy}, wrote} }))
	sent := make(chan error, 1)
	go func() { sent <- sendEnvoy(t, c, insecure.NewCredentials(), envoyMessage(true)) }()
	<-wrote
	stop()
	<-sent
	if st := c.Stats(); st.Dropped["envoy_als_refused"] != 1 {
		t.Errorf("at the end: %+v", st)
	}
}
