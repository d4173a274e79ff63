package jaegerapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	_ "google.golang.org/protobuf/types/known/durationpb"
	_ "google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/store/storetest"
)

// v3File is Jaeger's published query_service.proto, as far as it is served here, for protobuf's own library: no client's code of it can be linked beside v1.62's.
const v3File = `
name: "v3test.proto" package: "v3test" syntax: "proto3"
dependency: ["google/protobuf/timestamp.proto", "google/protobuf/duration.proto"]
message_type: { name: "GetTraceRequest"
  field: { name: "trace_id" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field: { name: "start_time" number: 2 type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp" label: LABEL_OPTIONAL }
  field: { name: "raw_traces" number: 4 type: TYPE_BOOL label: LABEL_OPTIONAL } }
message_type: { name: "Query"
  field: { name: "service_name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field: { name: "operation_name" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field: { name: "attributes" number: 3 type: TYPE_MESSAGE type_name: ".v3test.Query.AttributesEntry" label: LABEL_REPEATED }
  field: { name: "start_time_min" number: 4 type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp" label: LABEL_OPTIONAL }
  field: { name: "start_time_max" number: 5 type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp" label: LABEL_OPTIONAL }
  field: { name: "duration_min" number: 6 type: TYPE_MESSAGE type_name: ".google.protobuf.Duration" label: LABEL_OPTIONAL }
  field: { name: "duration_max" number: 7 type: TYPE_MESSAGE type_name: ".google.protobuf.Duration" label: LABEL_OPTIONAL }
  field: { name: "search_depth" number: 8 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field: { name: "filter" number: 10 type: TYPE_MESSAGE type_name: ".v3test.GetTraceRequest" label: LABEL_OPTIONAL }
  field: { name: "pagination" number: 11 type: TYPE_MESSAGE type_name: ".v3test.Pagination" label: LABEL_OPTIONAL }
  nested_type: { name: "AttributesEntry" options: { map_entry: true }
    field: { name: "key" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
    field: { name: "value" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } } }
message_type: { name: "Pagination"
  field: { name: "page_size" number: 1 type: TYPE_UINT32 label: LABEL_OPTIONAL }
  field: { name: "page_token" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type: { name: "Find" field: { name: "query" number: 1 type: TYPE_MESSAGE type_name: ".v3test.Query" label: LABEL_OPTIONAL } }
message_type: { name: "Services" field: { name: "services" number: 1 type: TYPE_STRING label: LABEL_REPEATED } }
message_type: { name: "GetOperations"
  field: { name: "service" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field: { name: "span_kind" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type: { name: "Operation"
  field: { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field: { name: "span_kind" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
message_type: { name: "Operations" field: { name: "operations" number: 1 type: TYPE_MESSAGE type_name: ".v3test.Operation" label: LABEL_REPEATED } }
message_type: { name: "GetDependencies"
  field: { name: "start_time" number: 1 type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp" label: LABEL_OPTIONAL }
  field: { name: "end_time" number: 2 type: TYPE_MESSAGE type_name: ".google.protobuf.Timestamp" label: LABEL_OPTIONAL } }
message_type: { name: "Dependency"
  field: { name: "parent" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field: { name: "child" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field: { name: "call_count" number: 3 type: TYPE_UINT64 label: LABEL_OPTIONAL } }
message_type: { name: "Dependencies" field: { name: "dependencies" number: 1 type: TYPE_MESSAGE type_name: ".v3test.Dependency" label: LABEL_REPEATED } }
message_type: { name: "ServiceSummary"
  field: { name: "name" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field: { name: "span_count" number: 2 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field: { name: "error_span_count" number: 3 type: TYPE_INT32 label: LABEL_OPTIONAL } }
message_type: { name: "Summary"
  field: { name: "trace_id" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
  field: { name: "root_service_name" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL }
  field: { name: "root_operation_name" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL }
  field: { name: "min_start_time_unix_nano" number: 4 type: TYPE_FIXED64 label: LABEL_OPTIONAL }
  field: { name: "max_end_time_unix_nano" number: 5 type: TYPE_FIXED64 label: LABEL_OPTIONAL }
  field: { name: "span_count" number: 6 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field: { name: "error_span_count" number: 7 type: TYPE_INT32 label: LABEL_OPTIONAL }
  field: { name: "services" number: 9 type: TYPE_MESSAGE type_name: ".v3test.ServiceSummary" label: LABEL_REPEATED } }
message_type: { name: "Summaries"
  field: { name: "summaries" number: 1 type: TYPE_MESSAGE type_name: ".v3test.Summary" label: LABEL_REPEATED }
  field: { name: "next_page_token" number: 2 type: TYPE_STRING label: LABEL_OPTIONAL } }
`

// v3Client speaks to a server by protobuf's library.
type v3Client struct {
	conn *grpc.ClientConn
	file protoreflect.FileDescriptor
}

func newV3Client(t *testing.T, conn *grpc.ClientConn) v3Client {
	t.Helper()
	var d descriptorpb.FileDescriptorProto
	if err := prototext.Unmarshal([]byte(v3File), &d); err != nil {
		t.Fatal(err)
	}
	f, err := protodesc.NewFile(&d, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	return v3Client{conn, f}
}

// message is the named one with what the text says.
func (c v3Client) message(name, text string) *dynamicpb.Message {
	m := dynamicpb.NewMessage(c.file.Messages().ByName(protoreflect.Name(name)))
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		panic(err)
	}
	return m
}

func (c v3Client) unary(ctx context.Context, method string, in proto.Message, out string) (*dynamicpb.Message, error) {
	m := c.message(out, "")
	return m, c.conn.Invoke(ctx, "/jaeger.api_v3.QueryService/"+method, in, m)
}

// stream gives each message of an answer to each.
func (c v3Client) stream(ctx context.Context, method string, in proto.Message, each func([]byte) error) error {
	s, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/jaeger.api_v3.QueryService/"+method)
	if err != nil {
		return err
	}
	if err := errors.Join(s.SendMsg(in), s.CloseSend()); err != nil {
		return err
	}
	for {
		var m raw
		switch err := s.RecvMsg(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := each(m); err != nil {
			return err
		}
	}
}

func (c v3Client) traces(t *testing.T, method string, in proto.Message) (all ptrace.Traces, messages []int) {
	t.Helper()
	all = ptrace.NewTraces()
	if err := c.stream(t.Context(), method, in, func(b []byte) error {
		td, err := (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(b)
		if err != nil {
			return err
		}
		messages = append(messages, td.SpanCount())
		td.ResourceSpans().MoveAndAppendTo(all.ResourceSpans())
		return nil
	}); err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return all, messages
}

func text(t time.Time) string {
	return fmt.Sprintf("{ seconds: %d nanos: %d }", t.Unix(), t.Nanosecond())
}

func get(m protoreflect.Message, name string) protoreflect.Value {
	return m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
}

func TestQueryV3(t *testing.T) {
	s := dashboardtest.NewSpans()
	dashboardtest.Fill(s, 8, epoch)
	c := newV3Client(t, serve(t, RPCConfig{Sources: &source.Sources{Spans: s, Graph: &dashboardtest.Graph{}, Now: func() time.Time { return epoch }}}))
	ctx := t.Context()
	during := "start_time_min: " + text(epoch.Add(-24*time.Hour)) + " start_time_max: " + text(epoch)

	got, err := c.unary(ctx, "GetServices", c.message("Services", ""), "Services")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for list, i := get(got, "services").List(), 0; i < list.Len(); i++ {
		names = append(names, list.Get(i).String())
	}
	if want, _ := s.Services(ctx); !slices.Equal(names, want) {
		t.Errorf("services are %q, want %q", names, want)
	}

	got, err = c.unary(ctx, "GetOperations", c.message("GetOperations", `service: "web" span_kind: "server"`), "Operations")
	if err != nil {
		t.Fatal(err)
	}
	ops := get(got, "operations").List()
	for i := range ops.Len() {
		if kind := get(ops.Get(i).Message(), "span_kind").String(); kind != "server" {
			t.Errorf("an operation of kind %q", kind)
		}
	}
	if ops.Len() == 0 {
		t.Error("no operations")
	}

	found, messages := c.traces(t, "FindTraces", c.message("Find", `query: { service_name: "web" search_depth: 2 `+during+` }`))
	if len(messages) != 2 {
		t.Errorf("found %d traces, want 2", len(messages))
	}
	id := found.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).TraceID()
	one, _ := c.traces(t, "GetTrace", c.message("GetTraceRequest", fmt.Sprintf("trace_id: %q start_time: %s raw_traces: true", id, text(epoch))))
	want, err := s.Trace(ctx, [16]byte(id))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(storetest.Canonical(one), storetest.Canonical(want)) {
		t.Error("a trace is not what the store has")
	}
	if _, messages := c.traces(t, "FindTraces", c.message("Find", `query: { service_name: "web" duration_min: { seconds: 3600 } `+during+` }`)); len(messages) != 0 {
		t.Errorf("%d traces take an hour", len(messages))
	}
	if td, _ := c.traces(t, "FindTraces", c.message("Find", `query: { attributes: { key: "rpc.response.status_code" value: "UNAVAILABLE" } `+during+` }`)); td.SpanCount() == 0 {
		t.Error("nothing was found by an attribute alone")
	}

	// Summaries, page by page, are those of one large page.
	summaries := func(page int) (ids []string) {
		for token := ""; ; {
			next := ""
			if err := c.stream(ctx, "FindTraceSummaries", c.message("Find", fmt.Sprintf(`query: { pagination: { page_size: %d page_token: %q } %s }`, page, token, during)), func(b []byte) error {
				m := c.message("Summaries", "")
				if err := proto.Unmarshal(b, m); err != nil {
					return err
				}
				list := get(m, "summaries").List()
				if list.Len() > page {
					return fmt.Errorf("%d summaries on a page of %d", list.Len(), page)
				}
				for i := range list.Len() {
					x := list.Get(i).Message()
					ids = append(ids, get(x, "trace_id").String())
					if get(x, "min_start_time_unix_nano").Uint() == 0 || get(x, "max_end_time_unix_nano").Uint() < get(x, "min_start_time_unix_nano").Uint() ||
						get(x, "span_count").Int() == 0 || get(x, "services").List().Len() == 0 || get(x, "root_service_name").String() == "" {
						return fmt.Errorf("summary %v", x)
					}
				}
				next = get(m, "next_page_token").String()
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if token = next; token == "" {
				return ids
			}
		}
	}
	if all, paged := summaries(1000), summaries(3); len(all) < 8 || !slices.Equal(all, paged) {
		t.Errorf("pages of three have %v, one page %v", paged, all)
	}

	for what, call := range map[string]func() error{
		"no id":    func() error { return c.stream(ctx, "GetTrace", c.message("GetTraceRequest", ""), nil) },
		"bad id":   func() error { return c.stream(ctx, "GetTrace", c.message("GetTraceRequest", `trace_id: "xyz"`), nil) },
		"no query": func() error { return c.stream(ctx, "FindTraces", c.message("Find", ""), nil) },
		"no time":  func() error { return c.stream(ctx, "FindTraces", c.message("Find", "query: {}"), nil) },
		"filter": func() error {
			return c.stream(ctx, "FindTraces", c.message("Find", "query: { filter: {} "+during+" }"), nil)
		},
		"years": func() error {
			return c.stream(ctx, "FindTraces", c.message("Find", "query: { duration_min: { seconds: 9999999999999 } "+during+" }"), nil)
		},
		"longer than longest": func() error {
			return c.stream(ctx, "FindTraces", c.message("Find", "query: { duration_min: { seconds: 2 } duration_max: { seconds: 1 } "+during+" }"), nil)
		},
		"cursor": func() error {
			return c.stream(ctx, "FindTraceSummaries", c.message("Find", `query: { pagination: { page_token: "x" } `+during+" }"), nil)
		},
		"no range": func() error {
			_, err := c.unary(ctx, "GetDependencies", c.message("GetDependencies", ""), "Dependencies")
			return err
		},
		"no message": func() error {
			return c.conn.Invoke(ctx, "/jaeger.api_v3.QueryService/GetOperations", wire{0xff}, new(raw))
		},
	} {
		if err := call(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := c.stream(ctx, "GetTrace", c.message("GetTraceRequest", `trace_id: "1234567890"`), nil); status.Code(err) != codes.NotFound {
		t.Errorf("a trace that is not there: %v", err)
	}
}

func TestV3Dependencies(t *testing.T) {
	dir := t.TempDir()
	src, stop, err := dashboardtest.Sources(dir, func() time.Time { return epoch })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	c := newV3Client(t, serve(t, RPCConfig{Sources: &src}))
	got, err := c.unary(t.Context(), "GetDependencies", c.message("GetDependencies", "start_time: "+text(epoch.Add(-10*time.Minute))+" end_time: "+text(epoch)), "Dependencies")
	if err != nil {
		t.Fatal(err)
	}
	list := get(got, "dependencies").List()
	if list.Len() == 0 {
		t.Fatal("nobody calls anybody")
	}
	for i := range list.Len() {
		if m := list.Get(i).Message(); get(m, "parent").String() == "" || get(m, "child").String() == "" || get(m, "call_count").Uint() == 0 {
			t.Errorf("link %v", m)
		}
	}
}

// Parts of a trace are the trace, and none is larger than it may be.
func TestSplit(t *testing.T) {
	td := ptrace.NewTraces()
	n := 0
	for r := range 3 {
		rs := td.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutInt("service.name", int64(r))
		for s := range 2 {
			ss := rs.ScopeSpans().AppendEmpty()
			ss.Scope().SetName(fmt.Sprint("scope", s))
			for range 5 * (r + s) {
				n++
				sp := ss.Spans().AppendEmpty()
				sp.SetName(fmt.Sprint(n))
				sp.SetSpanID(pcommon.SpanID{byte(n)})
			}
		}
	}
	want := storetest.Canonical(td)
	for size := 1; size <= n+1; size++ {
		all, parts := ptrace.NewTraces(), 0
		if err := split(td, size, func(p ptrace.Traces) error {
			if parts++; p.SpanCount() > size || p.SpanCount() == 0 {
				return fmt.Errorf("a part of %d spans", p.SpanCount())
			}
			p.ResourceSpans().MoveAndAppendTo(all.ResourceSpans())
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if parts != (n+size-1)/size || !slices.Equal(storetest.Canonical(all), want) {
			t.Errorf("size %d: %d parts, or other spans than there were", size, parts)
		}
		if td = all; size <= n { // it was moved
			td = ptrace.NewTraces()
			all.CopyTo(td)
		}
	}
}

func FuzzQueryV3(f *testing.F) {
	f.Add([]byte{0x0a, 0x05, 0x0a, 0x03, 'w', 'e', 'b'})
	f.Add([]byte{0x0a, 0x04, 0x22, 0x02, 0x08, 0x01})
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := find(b)
		if err != nil && status.Code(err) != codes.InvalidArgument {
			t.Errorf("%x: %v", b, err)
		}
		if err == nil && (q.Limit < 1 || q.Limit > maxLimit || q.Start.IsZero() || q.End.IsZero()) {
			t.Errorf("%x: %+v", b, q)
		}
	})
}
