package jaegerapi

import (
	"context"

	"github.com/jaegertracing/jaeger/model"
	"github.com/jaegertracing/jaeger/proto-gen/api_v2"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/store/span/jaegermodel"
)

// queryChunk is how many spans Jaeger's own query service puts into one message.
const queryChunk = 10

func registerQueryV2(s *grpc.Server, a *api, _ *RPCConfig) {
	api_v2.RegisterQueryServiceServer(s, &queryV2{api: a})
}

// queryV2 is jaeger.api_v2.QueryService, which Kiali and many clients in Go call.
type queryV2 struct{ *api }

func (v *queryV2) GetTrace(q *api_v2.GetTraceRequest, out api_v2.QueryService_GetTraceServer) error {
	if q.TraceID == (model.TraceID{}) {
		return status.Error(codes.InvalidArgument, "uninitialized TraceID is not allowed")
	}
	td, err := v.Spans.Trace(out.Context(), flowID(q.TraceID))
	if err != nil {
		return rpcStatus(err, "read the trace")
	}
	if err := asModel(out.Context(), td); err != nil {
		return err
	}
	return chunks(jaegermodel.ToModel(td).Spans, queryChunk, func(s []model.Span) error { return out.Send(&api_v2.SpansResponseChunk{Spans: s}) })
}

// ArchiveTrace: there is no archive beside the store.
func (*queryV2) ArchiveTrace(_ context.Context, q *api_v2.ArchiveTraceRequest) (*api_v2.ArchiveTraceResponse, error) {
	if q.TraceID == (model.TraceID{}) {
		return nil, status.Error(codes.InvalidArgument, "uninitialized TraceID is not allowed")
	}
	return nil, status.Error(codes.Unimplemented, "archived span storage was not configured")
}

func (v *queryV2) FindTraces(q *api_v2.FindTracesRequest, out api_v2.QueryService_FindTracesServer) error {
	p := q.Query
	if p == nil {
		return status.Error(codes.InvalidArgument, "missing query")
	}
	query := conditions{
		p.ServiceName, p.OperationName, p.Tags, p.StartTimeMin, p.StartTimeMax, p.DurationMin, p.DurationMax, int(p.SearchDepth),
	}.query()
	return v.found(out.Context(), query, func(td ptrace.Traces) error {
		if err := asModel(out.Context(), td); err != nil {
			return err
		}
		return chunks(jaegermodel.ToModel(td).Spans, queryChunk, func(s []model.Span) error { return out.Send(&api_v2.SpansResponseChunk{Spans: s}) })
	})
}

func (v *queryV2) GetServices(ctx context.Context, _ *api_v2.GetServicesRequest) (*api_v2.GetServicesResponse, error) {
	list, err := v.Spans.Services(ctx)
	return &api_v2.GetServicesResponse{Services: list}, rpcStatus(err, "list services")
}

func (v *queryV2) GetOperations(ctx context.Context, q *api_v2.GetOperationsRequest) (*api_v2.GetOperationsResponse, error) {
	list, err := v.operationsOf(ctx, q.Service, q.SpanKind)
	out := &api_v2.GetOperationsResponse{OperationNames: operationNames(list)}
	for _, o := range list {
		out.Operations = append(out.Operations, &api_v2.Operation{Name: o.Name, SpanKind: o.Kind})
	}
	return out, rpcStatus(err, "list operations")
}

func (v *queryV2) GetDependencies(ctx context.Context, q *api_v2.GetDependenciesRequest) (*api_v2.GetDependenciesResponse, error) {
	if q.StartTime.IsZero() || q.EndTime.IsZero() {
		return nil, status.Error(codes.InvalidArgument, "StartTime and EndTime must be initialized.")
	}
	links, err := v.dependencyLinks(ctx, q.StartTime, q.EndTime)
	return &api_v2.GetDependenciesResponse{Dependencies: links}, rpcStatus(err, "list dependencies")
}
