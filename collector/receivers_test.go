package collector_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/jaegertracing/jaeger/model"
	"github.com/jaegertracing/jaeger/proto-gen/api_v2"
	"github.com/jaegertracing/jaeger/thrift-gen/agent"
	jaegerthrift "github.com/jaegertracing/jaeger/thrift-gen/jaeger"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/translator/zipkin/zipkinv2"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/collector"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// all turns every receiver on.
var all = collector.Config{
	Zipkin: "127.0.0.1:0", JaegerGRPC: "127.0.0.1:0", JaegerHTTP: "127.0.0.1:0", JaegerCompact: "127.0.0.1:0", JaegerBinary: "127.0.0.1:0",
	EnvoyALS: "127.0.0.1:0",
}

// zipkinJSON is the span that every foreign receiver is sent: trace 1,2,3…, of service bank, with a parent, and with a lie about the mesh.
const zipkinJSON = `[{"traceId":"01020300000000000000000000000000","id":"0900000000000000","parentId":"0800000000000000","name":"get","kind":"SERVER",
"timestamp":1700000000000000,"duration":1500,"localEndpoint":{"serviceName":"bank"},
"tags":{"kept":"yes","tulle.reporter.identity":"spiffe://mesh/ns/shop/sa/pay","http.request.header.cookie":"c=1"}}]`

func zipkinProto(t *testing.T) []byte {
	t.Helper()
	td, err := zipkinv2.NewJSONTracesUnmarshaler(false).UnmarshalTraces([]byte(zipkinJSON))
	if err != nil {
		t.Fatal(err)
	}
	b, err := zipkinv2.NewProtobufTracesMarshaler().MarshalTraces(td)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func thriftBatch() *jaegerthrift.Batch {
	text := func(k, v string) *jaegerthrift.Tag {
		return &jaegerthrift.Tag{Key: k, VType: jaegerthrift.TagType_STRING, VStr: &v}
	}
	return &jaegerthrift.Batch{
		Process: &jaegerthrift.Process{ServiceName: "bank"},
		Spans: []*jaegerthrift.Span{{
			TraceIdHigh: 0x0102030000000000, SpanId: 0x0900000000000000, ParentSpanId: 0x0800000000000000, OperationName: "get", StartTime: 1700000000000000, Duration: 1500,
			Tags: []*jaegerthrift.Tag{text("kept", "yes"), text("span.kind", "server"), text("tulle.reporter.identity", payID), text("http.request.header.cookie", "c=1")},
		}},
	}
}

func thriftBody(t *testing.T) []byte {
	t.Helper()
	m := thrift.NewTMemoryBuffer()
	if err := thriftBatch().Write(t.Context(), thrift.NewTBinaryProtocolConf(m, nil)); err != nil {
		t.Fatal(err)
	}
	return m.Bytes()
}

func datagram(t *testing.T, protocol func(thrift.TTransport) thrift.TProtocol) []byte {
	t.Helper()
	m := thrift.NewTMemoryBuffer()
	p := protocol(m)
	if err := agent.NewAgentClientProtocol(m, p, p).EmitBatch(t.Context(), thriftBatch()); err != nil {
		t.Fatal(err)
	}
	return m.Bytes()
}

func jaegerProto() *api_v2.PostSpansRequest {
	text := func(k, v string) model.KeyValue { return model.KeyValue{Key: k, VType: model.StringType, VStr: v} }
	id := model.NewTraceID(0x0102030000000000, 0)
	return &api_v2.PostSpansRequest{Batch: model.Batch{
		Process: &model.Process{ServiceName: "bank"},
		Spans: []*model.Span{{
			TraceID: id, SpanID: 0x0900000000000000, References: []model.SpanRef{{TraceID: id, SpanID: 0x0800000000000000, RefType: model.ChildOf}}, OperationName: "get",
			StartTime: time.UnixMicro(1700000000000000), Duration: 1500 * time.Microsecond,
			Tags: []model.KeyValue{text("kept", "yes"), text("span.kind", "server"), text("tulle.reporter.identity", payID), text("http.request.header.cookie", "c=1")},
		}},
	}}
}

// answered is what a sender learns: an HTTP status or a gRPC code, and how long to wait.
type answered struct {
	code int
	wait bool
	body string
}

func postTo(t *testing.T, addr, path, contentType string, body []byte) answered {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answered{resp.StatusCode, resp.Header.Get("Retry-After") != "", string(b)}
}

func dialTo(t *testing.T, addr string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func postSpans(t *testing.T, cc *grpc.ClientConn) answered {
	t.Helper()
	_, err := api_v2.NewCollectorServiceClient(cc).PostSpans(t.Context(), jaegerProto())
	s := status.Convert(err)
	a := answered{code: int(s.Code()), body: s.Message()}
	for _, d := range s.Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok && r.GetRetryDelay().AsDuration() > 0 {
			a.wait = true
		}
	}
	return a
}

// foreign are the ways of applications, each with how it is spoken to.
var foreign = []struct {
	name                 string
	send                 func(t *testing.T, c *collector.Collector) answered
	good, refused, fatal int // answers: kept, refused by a store that is busy, by one that cannot
}{
	{"zipkin json", func(t *testing.T, c *collector.Collector) answered {
		return postTo(t, c.Address("zipkin"), "/api/v2/spans", "application/json", []byte(zipkinJSON))
	}, 202, 503, 500},
	{"zipkin protobuf", func(t *testing.T, c *collector.Collector) answered {
		return postTo(t, c.Address("zipkin"), "/api/v2/spans", "application/x-protobuf", zipkinProto(t))
	}, 202, 503, 500},
	{"jaeger thrift over HTTP", func(t *testing.T, c *collector.Collector) answered {
		return postTo(t, c.Address("jaeger thrift_http"), "/api/traces?format=jaeger.thrift", "application/x-thrift", thriftBody(t))
	}, 202, 503, 500},
	{"jaeger gRPC", func(t *testing.T, c *collector.Collector) answered {
		return postSpans(t, dialTo(t, c.Address("jaeger grpc"), insecure.NewCredentials()))
	}, int(codes.OK), int(codes.Unavailable), int(codes.Internal)},
	{"otlp over HTTP", func(t *testing.T, c *collector.Collector) answered {
		return postTo(t, c.Address("otlp http"), "/v1/traces", "application/x-protobuf", otlpBody(t))
	}, 200, 503, 500},
}

func with(f func(*collector.Config)) collector.Config {
	c := all
	f(&c)
	return c
}

// checkForeign looks at the stored span.
func checkForeign(t *testing.T, db store.Spans) {
	t.Helper()
	res, attrs, sp := stored(t, db)
	if res[flow.AttrServiceName] != "bank" || attrs["kept"] != "yes" {
		t.Errorf("resource %v, attributes %v", res, attrs)
	}
	if sp.Name() != "get" || sp.Kind() != ptrace.SpanKindServer || sp.SpanID() != [8]byte{9} || sp.ParentSpanID() != [8]byte{8} ||
		sp.StartTimestamp() != 1700000000000000000 || sp.EndTimestamp() != 1700000000001500000 {
		t.Errorf("name %s, kind %s, id %s, parent %s, from %d to %d", sp.Name(), sp.Kind(), sp.SpanID(), sp.ParentSpanID(), sp.StartTimestamp(), sp.EndTimestamp())
	}
	for k := range attrs {
		if strings.HasPrefix(k, "tulle.") || strings.Contains(k, "cookie") {
			t.Errorf("%s was kept from an application", k)
		}
	}
}

func TestForeignSpansAreOnDiskWhenAcknowledged(t *testing.T) {
	ca := newAuthority(t)
	for _, x := range foreign {
		t.Run(x.name, func(t *testing.T) {
			db := openSpans(t, t.TempDir())
			c, _ := start(t, with(func(c *collector.Config) { c.Spans, c.Identity = db, ca.holder(t, observerID) }))
			if a := x.send(t, c); a.code != x.good {
				t.Fatalf("answered %+v, want %d", a, x.good)
			}
			checkForeign(t, db) // no waiting: acknowledged means queryable
			if st := c.Stats(); st.SpansAccepted != 1 || st.Altered["evidence_removed"] != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestForeignSendersAreToldToTryAgain(t *testing.T) {
	for _, x := range foreign {
		t.Run(x.name, func(t *testing.T) {
			c, stop := start(t, with(func(c *collector.Config) { c.Spans = refusing{err: store.ErrBusy} }))
			if a := x.send(t, c); a.code != x.refused || !a.wait {
				t.Errorf("busy: %+v, want %d and how long to wait", a, x.refused)
			}
			if st := c.Stats(); st.Refused["store_busy"] != 1 || len(st.Refused) != 1 {
				t.Errorf("counted once: %+v", st)
			}
			stop()
			c, _ = start(t, with(func(c *collector.Config) { c.Spans = refusing{err: fmt.Errorf("cannot encode")} }))
			if a := x.send(t, c); a.code != x.fatal || a.wait {
				t.Errorf("broken: %+v, want %d for good", a, x.fatal)
			}
			if st := c.Stats(); st.Dropped["store_error"] != 1 || len(st.Refused) != 0 {
				t.Errorf("counted once: %+v", st)
			}
		})
	}
}

// noting tells of every write.
type noting struct {
	backend
	wrote chan error
}

func (n noting) Write(ctx context.Context, td ptrace.Traces) error {
	err := n.backend.Write(ctx, td)
	n.wrote <- err
	return err
}

func TestJaegerDatagrams(t *testing.T) {
	for name, protocol := range map[string]func(thrift.TTransport) thrift.TProtocol{
		"thrift_compact": func(t thrift.TTransport) thrift.TProtocol { return thrift.NewTCompactProtocolConf(t, nil) },
		"thrift_binary":  func(t thrift.TTransport) thrift.TProtocol { return thrift.NewTBinaryProtocolConf(t, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			db := noting{openSpans(t, t.TempDir()), make(chan error, 1)}
			c, _ := start(t, with(func(c *collector.Config) { c.Spans = db }))
			send := func(b []byte) {
				conn, err := net.Dial("udp", c.Address("jaeger "+name))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if _, err := conn.Write(b); err != nil {
					t.Fatal(err)
				}
			}
			b := datagram(t, protocol)
			send(slices.Concat(b[:len(b)/2])) // cut
			send(zipkinOverUDP(t, protocol))  // would end the contrib project's receiver, and the process with it
			send(b)
			if err := <-db.wrote; err != nil {
				t.Fatal(err)
			}
			checkForeign(t, db)
			for c.Stats().Dropped["udp_malformed"] != 2 { // by other workers
				<-time.NewTimer(time.Millisecond).C
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		c, _ := start(t, with(func(c *collector.Config) { c.Spans = refusing{err: store.ErrBusy} }))
		conn, err := net.Dial("udp", c.Address("jaeger thrift_compact"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write(datagram(t, func(t thrift.TTransport) thrift.TProtocol { return thrift.NewTCompactProtocolConf(t, nil) })); err != nil {
			t.Fatal(err)
		}
		for c.Stats().Dropped["udp_refused"] != 1 {
			<-time.NewTimer(time.Millisecond).C
		}
	})
}

func zipkinOverUDP(t *testing.T, protocol func(thrift.TTransport) thrift.TProtocol) []byte {
	t.Helper()
	m := thrift.NewTMemoryBuffer()
	p := protocol(m)
	if err := agent.NewAgentClientProtocol(m, p, p).EmitZipkinBatch(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return m.Bytes()
}

func TestMalformedForeignBatchesAreRefusedForGood(t *testing.T) {
	c, _ := start(t, with(func(c *collector.Config) { c.Spans = refusing{} }))
	claim := []byte{byte(thrift.LIST), 0, 2, byte(thrift.I64)} // field 2, a list of 2^29+1: 8 bytes each overflow 32 bits
	claim = binary.BigEndian.AppendUint32(claim, 1<<29+1)
	for _, x := range []struct {
		receiver, path, contentType string
		body                        []byte
		code                        int
	}{
		{"zipkin", "/api/v2/spans", "application/json", []byte("{"), 400},
		{"zipkin", "/api/v2/spans", "application/x-protobuf", []byte("{"), 400},
		{"zipkin", "/api/v2/spans", "text/plain", []byte("[]"), 415},
		{"zipkin", "/api/v1/spans", "application/json", []byte("[]"), 404},
		{"zipkin", "/api/v2/spans", "application/json", bytes.Repeat([]byte(" "), 17<<20), 413},
		{"jaeger thrift_http", "/api/traces", "application/x-thrift", []byte("no"), 400},
		{"jaeger thrift_http", "/api/traces", "application/x-thrift", claim, 400},
		{"jaeger thrift_http", "/api/traces", "application/json", []byte("{}"), 415},
		{"jaeger thrift_http", "/api/traces", "application/x-thrift", bytes.Repeat([]byte{0xff}, 17<<20), 413},
	} {
		if a := postTo(t, c.Address(x.receiver), x.path, x.contentType, x.body); a.code != x.code || a.body == "" || a.wait {
			t.Errorf("%s %s %s: %+v, want %d", x.receiver, x.path, x.contentType, a, x.code)
		}
	}
	if r := c.Stats().Refused; r["malformed"] != 9 {
		t.Errorf("refused: %v", r)
	}
}

func TestForeignPortsCheckHostAndOrigin(t *testing.T) {
	c, _ := start(t, with(func(c *collector.Config) { c.Spans = openSpans(t, t.TempDir()) }))
	for _, x := range []struct{ receiver, path string }{{"zipkin", "/api/v2/spans"}, {"jaeger thrift_http", "/api/traces"}} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+c.Address(x.receiver)+x.path, strings.NewReader(zipkinJSON))
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "evil.example"
		tr := &http.Transport{}
		resp, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		tr.CloseIdleConnections()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d, want 403", x.receiver, resp.StatusCode)
		}
	}
}

func TestJaegerGRPCWantsCertificatesBeyondThisMachine(t *testing.T) {
	ca := newAuthority(t)
	db := openSpans(t, t.TempDir())
	c, _ := start(t, collector.Config{Identity: ca.holder(t, observerID), Spans: db, JaegerGRPC: "0.0.0.0:0", Registry: registry{cartID: {"cart", "shop"}}})
	_, port, err := net.SplitHostPort(c.Address("jaeger grpc"))
	if err != nil {
		t.Fatal(err)
	}
	if a := postSpans(t, dialTo(t, "127.0.0.1:"+port, insecure.NewCredentials())); a.code != int(codes.Unavailable) {
		t.Errorf("plaintext: %+v, want a failed connection", a)
	}
	if a := postSpans(t, dialTo(t, "127.0.0.1:"+port, credentials.NewTLS(ca.holder(t, cartID).ClientTLS()))); a.code != 0 {
		t.Fatalf("mTLS: %+v", a)
	}
	if res, _, _ := stored(t, db); res[flow.AttrReporterIdentity] != cartID || res[flow.AttrServiceName] != "cart" {
		t.Errorf("resource: %v", res)
	}
}

// freeAddr is an address of this machine that nobody has, for configurations that must name a port.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
