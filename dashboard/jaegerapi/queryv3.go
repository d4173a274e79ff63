package jaegerapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// v3Chunk is how many spans one message has at most: with 2 KiB each it stays below the 4 MiB that clients take unless they are told otherwise.
const v3Chunk = 1000

const serviceV3 = "jaeger.api_v3.QueryService"

// rpcV3 is jaeger.api_v3.QueryService. Its messages are written and read here: Jaeger v1.62 keeps its own to itself, and the module that has them since registers the
// names of v1.62's a second time, which ends a process.
type rpcV3 struct{ *api }

func registerQueryV3(s *grpc.Server, a *api, _ *RPCConfig) {
	unary := func(name string, handle func(*rpcV3, context.Context, []byte) (wire, error)) grpc.MethodDesc {
		return grpc.MethodDesc{MethodName: name, Handler: func(srv any, ctx context.Context, decode func(any) error, next grpc.UnaryServerInterceptor) (any, error) {
			var in raw
			if err := decode(&in); err != nil {
				return nil, err
			}
			call := func(ctx context.Context, in any) (any, error) { return handle(srv.(*rpcV3), ctx, *in.(*raw)) } //nolint:forcetypeassert // registered with these
			if next == nil {
				return call(ctx, &in)
			}
			return next(ctx, &in, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + serviceV3 + "/" + name}, call)
		}}
	}
	stream := func(name string, handle func(*rpcV3, []byte, grpc.ServerStream) error) grpc.StreamDesc {
		return grpc.StreamDesc{StreamName: name, ServerStreams: true, Handler: func(srv any, s grpc.ServerStream) error {
			var in raw
			if err := s.RecvMsg(&in); err != nil {
				return err
			}
			return handle(srv.(*rpcV3), in, s) //nolint:forcetypeassert // registered with it
		}}
	}
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceV3, HandlerType: (*any)(nil), Metadata: "api_v3/query_service.proto",
		Methods: []grpc.MethodDesc{
			unary("GetServices", (*rpcV3).getServices), unary("GetOperations", (*rpcV3).getOperations), unary("GetDependencies", (*rpcV3).getDependencies),
		},
		Streams: []grpc.StreamDesc{stream("GetTrace", (*rpcV3).getTrace), stream("FindTraces", (*rpcV3).findTraces), stream("FindTraceSummaries", (*rpcV3).findSummaries)},
	}, &rpcV3{a})
}

// raw is a message as it came.
type raw []byte

// Reset empties it.
func (m *raw) Reset() { *m = nil }

// Unmarshal keeps a copy of b.
func (m *raw) Unmarshal(b []byte) error { *m = append(raw(nil), b...); return nil }

// fields calls each for every field of a message; text is what a length-delimited one holds.
func fields(b []byte, each func(n protowire.Number, v uint64, text []byte) error) error {
	for len(b) > 0 {
		n, typ, used := protowire.ConsumeTag(b)
		if used < 0 {
			return protowire.ParseError(used)
		}
		b = b[used:]
		var (
			v    uint64
			text []byte
		)
		switch typ {
		case protowire.VarintType:
			v, used = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			text, used = protowire.ConsumeBytes(b)
		default: // no message here has such a field
			used = protowire.ConsumeFieldValue(n, typ, b)
			n = 0
		}
		if used < 0 {
			return protowire.ParseError(used)
		}
		if err := each(n, v, text); err != nil {
			return err
		}
		b = b[used:]
	}
	return nil
}

// malformed is the answer to a message that is not what the method takes.
func malformed(err error) error {
	return status.Errorf(codes.InvalidArgument, "the request cannot be read: %v", err)
}

// secondsNanos reads google.protobuf.Timestamp and Duration.
func secondsNanos(b []byte) (seconds, nanos int64, err error) {
	err = fields(b, func(n protowire.Number, v uint64, _ []byte) error {
		switch n {
		case 1:
			seconds = int64(v) //nolint:gosec // two's complement, as protobuf has it
		case 2:
			nanos = int64(int32(v)) //nolint:gosec // the same
		}
		return nil
	})
	if err == nil && (nanos <= -1e9 || nanos >= 1e9) {
		err = fmt.Errorf("%d nanoseconds are more than a second", nanos)
	}
	return seconds, nanos, err
}

func wireTime(b []byte) (time.Time, error) {
	s, n, err := secondsNanos(b)
	return time.Unix(s, n).UTC(), err
}

func wireDuration(b []byte) (time.Duration, error) {
	s, n, err := secondsNanos(b)
	const most = int64(1<<63-1) / int64(time.Second)
	if err == nil && (s >= most || s <= -most) {
		err = errors.New(strconv.FormatInt(s, 10) + " seconds are out of range")
	}
	return time.Duration(s)*time.Second + time.Duration(n), err
}

// wireQuery reads TraceQueryParameters; cursor is where a page begins.
func wireQuery(b []byte) (c conditions, cursor string, err error) {
	c.tags = map[string]string{}
	depth, page := 0, 0
	err = fields(b, func(n protowire.Number, v uint64, text []byte) (err error) {
		switch n {
		case 1:
			c.service = string(text)
		case 2:
			c.operation = string(text)
		case 3:
			var key, value string
			err = fields(text, func(n protowire.Number, _ uint64, text []byte) error {
				switch n {
				case 1:
					key = string(text)
				case 2:
					value = string(text)
				}
				return nil
			})
			c.tags[key] = value
		case 4:
			c.from, err = wireTime(text)
		case 5:
			c.to, err = wireTime(text)
		case 6:
			c.least, err = wireDuration(text)
		case 7:
			c.most, err = wireDuration(text)
		case 8:
			depth = int(int32(v)) //nolint:gosec // two's complement, as protobuf has it
		case 10:
			err = errors.New("filter expressions are not supported; use attributes")
		case 11:
			err = fields(text, func(n protowire.Number, v uint64, text []byte) error {
				switch n {
				case 1:
					page = int(min(v, maxLimit)) //nolint:gosec // at most maxLimit
				case 2:
					cursor = string(text)
				}
				return nil
			})
		}
		return err
	})
	c.limit = cmp.Or(page, max(depth, 0))
	return c, cursor, err
}

// find reads FindTracesRequest and FindTraceSummariesRequest, which are alike.
func find(in []byte) (q store.TraceQuery, err error) {
	var (
		c      conditions
		cursor string
		there  bool
	)
	err = fields(in, func(n protowire.Number, _ uint64, text []byte) (err error) {
		if n == 1 {
			there = true
			c, cursor, err = wireQuery(text)
		}
		return err
	})
	switch {
	case err != nil:
		return q, malformed(err)
	case !there:
		return q, status.Error(codes.InvalidArgument, "missing query")
	case c.from.IsZero() || c.to.IsZero():
		return q, status.Error(codes.InvalidArgument, "start time min and max are required parameters")
	case c.most > 0 && c.most < c.least:
		return q, status.Error(codes.InvalidArgument, "duration max is less than duration min")
	}
	q = c.query()
	q.Cursor = cursor
	return q, nil
}

func (v *rpcV3) getTrace(in []byte, out grpc.ServerStream) error {
	var (
		id    flow.TraceID
		given string
	)
	err := fields(in, func(n protowire.Number, _ uint64, text []byte) error {
		if n == 1 {
			given = string(text)
		}
		return nil
	})
	if err != nil {
		return malformed(err)
	}
	if id, err = parseID(given); err != nil || id.IsZero() {
		err = cmp.Or(err, errors.New("uninitialized trace ID is not allowed"))
		return status.Error(codes.InvalidArgument, err.Error())
	}
	td, err := v.Spans.Trace(out.Context(), id)
	if err != nil {
		return rpcStatus(err, "read the trace")
	}
	return sendOTLP(td, out)
}

func (v *rpcV3) findTraces(in []byte, out grpc.ServerStream) error {
	q, err := find(in)
	if err != nil {
		return err
	}
	return v.found(out.Context(), q, func(td ptrace.Traces) error { return sendOTLP(td, out) })
}

// findSummaries answers with one message: a page, and the token of the next.
func (v *rpcV3) findSummaries(in []byte, out grpc.ServerStream) error {
	q, err := find(in)
	if err != nil {
		return err
	}
	page, err := v.Spans.Summaries(out.Context(), q)
	if err != nil {
		return rpcStatus(err, "search")
	}
	answer := wire{}
	for _, t := range page.Traces {
		answer = appendMessage(answer, 1, wireSummary(t))
	}
	return out.SendMsg(wire(appendText(answer, 2, page.Next)))
}

func wireSummary(t store.TraceSummary) (out []byte) {
	out = appendText(out, 1, summaryID(t).String())
	out = appendText(out, 2, t.RootService)
	out = appendText(out, 3, t.RootOperation)
	out = protowire.AppendFixed64(protowire.AppendTag(out, 4, protowire.Fixed64Type), uint64(t.Start.UnixNano()))                 //nolint:gosec // times of this era
	out = protowire.AppendFixed64(protowire.AppendTag(out, 5, protowire.Fixed64Type), uint64(t.Start.Add(t.Duration).UnixNano())) //nolint:gosec // the same
	out = appendCount(out, 6, t.Spans)
	out = appendCount(out, 7, t.Errors)
	for _, c := range t.Services {
		out = appendMessage(out, 9, appendCount(appendCount(appendText(nil, 1, c.Service), 2, c.Spans), 3, c.Errors))
	}
	return out
}

func appendMessage(to []byte, n protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(to, n, protowire.BytesType), m)
}

// appendText leaves out what is empty, as proto3 does.
func appendText(to []byte, n protowire.Number, s string) []byte {
	if s == "" {
		return to
	}
	return protowire.AppendString(protowire.AppendTag(to, n, protowire.BytesType), s)
}

func appendCount(to []byte, n protowire.Number, v int) []byte {
	if v == 0 {
		return to
	}
	return protowire.AppendVarint(protowire.AppendTag(to, n, protowire.VarintType), uint64(v)) //nolint:gosec // a count
}

func (v *rpcV3) getDependencies(ctx context.Context, in []byte) (wire, error) {
	var from, to time.Time
	err := fields(in, func(n protowire.Number, _ uint64, text []byte) (err error) {
		switch n {
		case 1:
			from, err = wireTime(text)
		case 2:
			to, err = wireTime(text)
		}
		return err
	})
	switch {
	case err != nil:
		return nil, malformed(err)
	case from.IsZero() || to.IsZero():
		return nil, status.Error(codes.InvalidArgument, "start_time and end_time are required")
	}
	links, err := v.dependencyLinks(ctx, from, to)
	if err != nil {
		return nil, rpcStatus(err, "list dependencies")
	}
	out := wire{}
	for _, l := range links {
		out = appendMessage(out, 1, protowire.AppendVarint(protowire.AppendTag(appendText(appendText(nil, 1, l.Parent), 2, l.Child), 3, protowire.VarintType), l.CallCount))
	}
	return out, nil
}

func (v *rpcV3) getServices(ctx context.Context, _ []byte) (wire, error) {
	list, err := v.Spans.Services(ctx)
	if err != nil {
		return nil, rpcStatus(err, "list services")
	}
	out := wire{}
	for _, s := range list {
		out = protowire.AppendString(protowire.AppendTag(out, 1, protowire.BytesType), s) // an empty one counts
	}
	return out, nil
}

func (v *rpcV3) getOperations(ctx context.Context, in []byte) (wire, error) {
	var service, kind string
	err := fields(in, func(n protowire.Number, _ uint64, text []byte) error {
		switch n {
		case 1:
			service = string(text)
		case 2:
			kind = string(text)
		}
		return nil
	})
	if err != nil {
		return nil, malformed(err)
	}
	list, err := v.operationsOf(ctx, service, kind)
	if err != nil {
		return nil, rpcStatus(err, "list operations")
	}
	out := wire{}
	for _, o := range list {
		out = appendMessage(out, 1, appendText(appendText(nil, 1, o.Name), 2, o.Kind))
	}
	return out, nil
}

// sendOTLP sends a trace as TracesData, in as many messages as it needs.
func sendOTLP(td ptrace.Traces, out grpc.ServerStream) error {
	return split(td, v3Chunk, func(part ptrace.Traces) error {
		b, err := (&ptrace.ProtoMarshaler{}).MarshalTraces(part)
		if err != nil {
			return status.Errorf(codes.Internal, "the trace cannot be encoded: %v", err)
		}
		return out.SendMsg(wire(b))
	})
}

// split calls visit with td in parts of at most size spans, each below its resource and scope.
func split(td ptrace.Traces, size int, visit func(ptrace.Traces) error) error {
	if td.SpanCount() <= size {
		return visit(td)
	}
	part, n := ptrace.NewTraces(), 0
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			var to ptrace.SpanSlice
			fresh := true
			for _, s := range ss.Spans().All() {
				if n == size {
					if err := visit(part); err != nil {
						return err
					}
					part, n, fresh = ptrace.NewTraces(), 0, true
				}
				if fresh {
					r := part.ResourceSpans().AppendEmpty()
					rs.Resource().CopyTo(r.Resource())
					r.SetSchemaUrl(rs.SchemaUrl())
					scope := r.ScopeSpans().AppendEmpty()
					ss.Scope().CopyTo(scope.Scope())
					scope.SetSchemaUrl(ss.SchemaUrl())
					to, fresh = scope.Spans(), false
				}
				s.CopyTo(to.AppendEmpty())
				n++
			}
		}
	}
	return visit(part)
}
