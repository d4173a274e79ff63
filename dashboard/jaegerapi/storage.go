package jaegerapi

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/jaegertracing/jaeger/model"
	"github.com/jaegertracing/jaeger/proto-gen/storage_v1"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/jaegermodel"
)

const (
	storageChunk  = 1000 // spans in one message of a reader
	streamBatch   = 512  // spans of a stream that are written at once, at most
	writePatience = 10 * time.Second
	writeAgain    = 50 * time.Millisecond
)

func registerStorageReader(s *grpc.Server, a *api, _ *RPCConfig) {
	storage_v1.RegisterSpanReaderPluginServer(s, &storageReader{api: a})
}

func registerStorageWriter(s *grpc.Server, _ *api, c *RPCConfig) {
	storage_v1.RegisterSpanWriterPluginServer(s, &storageWriter{write: c.Write})
}

func registerStorageStream(s *grpc.Server, _ *api, c *RPCConfig) {
	storage_v1.RegisterStreamingSpanWriterPluginServer(s, &storageWriter{write: c.Write})
}

func registerStorageDependencies(s *grpc.Server, a *api, _ *RPCConfig) {
	storage_v1.RegisterDependenciesReaderPluginServer(s, &storageReader{api: a})
}

func registerStorageCapabilities(s *grpc.Server, _ *api, c *RPCConfig) {
	storage_v1.RegisterPluginCapabilitiesServer(s, capabilities{c.Write != nil})
}

// capabilities: spans are kept by age and bytes, there is no archive beside.
type capabilities struct{ writes bool }

func (c capabilities) Capabilities(context.Context, *storage_v1.CapabilitiesRequest) (*storage_v1.CapabilitiesResponse, error) {
	return &storage_v1.CapabilitiesResponse{StreamingSpanWriter: c.writes}, nil
}

// storageReader is Jaeger's SpanReaderPlugin and DependenciesReaderPlugin.
type storageReader struct{ *api }

// flowID is Jaeger's id as ours.
func flowID(id model.TraceID) flow.TraceID { return flow.TraceID(jaegermodel.FromTraceID(id)) }

func (r *storageReader) GetTrace(q *storage_v1.GetTraceRequest, out storage_v1.SpanReaderPlugin_GetTraceServer) error {
	td, err := r.Spans.Trace(out.Context(), flowID(q.TraceID))
	if err != nil {
		return rpcStatus(err, "read the trace")
	}
	if err := asModel(out.Context(), td); err != nil {
		return err
	}
	return chunks(jaegermodel.ToModel(td).Spans, storageChunk, func(s []model.Span) error { return out.Send(&storage_v1.SpansResponseChunk{Spans: s}) })
}

// chunks sends spans, at most size at once.
func chunks(spans []*model.Span, size int, send func([]model.Span) error) error {
	for len(spans) > 0 {
		n := min(size, len(spans))
		part := make([]model.Span, n)
		for i := range part {
			part[i] = *spans[i]
		}
		if err := send(part); err != nil {
			return err
		}
		spans = spans[n:]
	}
	return nil
}

func (r *storageReader) GetServices(ctx context.Context, _ *storage_v1.GetServicesRequest) (*storage_v1.GetServicesResponse, error) {
	list, err := r.Spans.Services(ctx)
	return &storage_v1.GetServicesResponse{Services: list}, rpcStatus(err, "list services")
}

func (r *storageReader) GetOperations(ctx context.Context, q *storage_v1.GetOperationsRequest) (*storage_v1.GetOperationsResponse, error) {
	list, err := r.operationsOf(ctx, q.Service, q.SpanKind)
	out := &storage_v1.GetOperationsResponse{}
	for _, o := range list {
		out.Operations = append(out.Operations, &storage_v1.Operation{Name: o.Name, SpanKind: o.Kind})
	}
	return out, rpcStatus(err, "list operations")
}

// conditions is a Jaeger query, of whichever of its APIs.
type conditions struct {
	service, operation string
	tags               map[string]string
	from, to           time.Time // both inclusive, zero for none
	least, most        time.Duration
	limit              int // 0: defaultLimit
}

func (c conditions) query() store.TraceQuery {
	q := store.TraceQuery{Service: c.service, Operation: c.operation, Start: c.from, MinDuration: c.least, MaxDuration: c.most, Limit: defaultLimit}
	if c.limit > 0 {
		q.Limit = min(c.limit, maxLimit)
	}
	if !c.to.IsZero() {
		q.End = c.to.Add(1)
	}
	setTags(&q, c.tags)
	return q
}

func storageQuery(q *storage_v1.TraceQueryParameters) (store.TraceQuery, error) {
	if q == nil {
		return store.TraceQuery{}, status.Error(codes.InvalidArgument, "missing query")
	}
	return conditions{
		q.ServiceName, q.OperationName, q.Tags, q.StartTimeMin, q.StartTimeMax, q.DurationMin, q.DurationMax, int(q.NumTraces),
	}.query(), nil
}

// found visits the traces that match, newest first, one at a time in memory.
func (a *api) found(ctx context.Context, q store.TraceQuery, visit func(ptrace.Traces) error) error {
	page, err := a.Spans.Summaries(ctx, q)
	if err != nil {
		return rpcStatus(err, "search")
	}
	one := func(id flow.TraceID) error {
		defer store.BudgetOf(ctx).Mark()(0)
		td, err := a.Spans.Trace(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return nil // expired in between
		}
		if err != nil {
			return rpcStatus(err, "read a trace that was found")
		}
		return visit(td)
	}
	for _, t := range page.Traces {
		if err := one(summaryID(t)); err != nil {
			return err
		}
	}
	return nil
}

// asModel counts a trace that is about to become Jaeger's model.
func asModel(ctx context.Context, td ptrace.Traces) error {
	return rpcStatus(store.BudgetOf(ctx).Hold(int64(td.SpanCount())*modelHeld), "send the trace")
}

func (r *storageReader) FindTraces(q *storage_v1.FindTracesRequest, out storage_v1.SpanReaderPlugin_FindTracesServer) error {
	query, err := storageQuery(q.Query)
	if err != nil {
		return err
	}
	return r.found(out.Context(), query, func(td ptrace.Traces) error {
		if err := asModel(out.Context(), td); err != nil {
			return err
		}
		return chunks(jaegermodel.ToModel(td).Spans, storageChunk, func(s []model.Span) error { return out.Send(&storage_v1.SpansResponseChunk{Spans: s}) })
	})
}

func (r *storageReader) FindTraceIDs(ctx context.Context, q *storage_v1.FindTraceIDsRequest) (*storage_v1.FindTraceIDsResponse, error) {
	query, err := storageQuery(q.Query)
	if err != nil {
		return nil, err
	}
	page, err := r.Spans.Summaries(ctx, query)
	out := &storage_v1.FindTraceIDsResponse{}
	for _, t := range page.Traces {
		id := summaryID(t)
		out.TraceIDs = append(out.TraceIDs, jaegermodel.TraceID([16]byte(id)))
	}
	return out, rpcStatus(err, "search")
}

func (r *storageReader) GetDependencies(ctx context.Context, q *storage_v1.GetDependenciesRequest) (*storage_v1.GetDependenciesResponse, error) {
	links, err := r.dependencyLinks(ctx, q.StartTime, q.EndTime)
	return &storage_v1.GetDependenciesResponse{Dependencies: links}, rpcStatus(err, "list dependencies")
}

// storageWriter is Jaeger's SpanWriterPlugin and StreamingSpanWriterPlugin.
type storageWriter struct {
	write func(context.Context, ptrace.Traces) error
}

func (w *storageWriter) keep(ctx context.Context, spans []*model.Span) error {
	if w.write == nil {
		return status.Error(codes.Unimplemented, "this store may only be read")
	}
	err := w.write(ctx, jaegermodel.FromModel(spans))
	switch {
	case err == nil:
		return nil
	case retryable(err):
		return status.Errorf(codes.Unavailable, "write spans: %v", err)
	}
	return rpcStatus(err, "write spans")
}

// retryable: the collector marks what will never be taken.
func retryable(err error) bool {
	return errors.Is(err, store.ErrBusy) || errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrClosed) || !consumererror.IsPermanent(err)
}

func (w *storageWriter) WriteSpan(ctx context.Context, q *storage_v1.WriteSpanRequest) (*storage_v1.WriteSpanResponse, error) {
	if q.Span == nil {
		return nil, status.Error(codes.InvalidArgument, "no span given")
	}
	return &storage_v1.WriteSpanResponse{}, w.keep(ctx, []*model.Span{q.Span})
}

// Close ends the writer of one client; the store goes on.
func (*storageWriter) Close(context.Context, *storage_v1.CloseWriterRequest) (*storage_v1.CloseWriterResponse, error) {
	return &storage_v1.CloseWriterResponse{}, nil
}

// WriteSpanStream writes what has come, together, as long as more comes. A stream is acknowledged at its end only. While the store is busy nothing more
// is read, which slows the sender down; after writePatience the stream fails.
func (w *storageWriter) WriteSpanStream(in storage_v1.StreamingSpanWriterPlugin_WriteSpanStreamServer) error {
	ctx, cancel := context.WithCancel(in.Context())
	defer cancel()
	spans := make(chan *model.Span, streamBatch)
	ended := make(chan error, 1)
	go func() { // ends with the stream, at the latest when this handler has returned
		defer close(spans)
		for {
			q, err := in.Recv()
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				ended <- err
				return
			}
			if q.Span == nil {
				continue
			}
			select {
			case spans <- q.Span:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()
	for first := range spans {
		if err := w.keepPatiently(ctx, gather(first, spans)); err != nil {
			return err
		}
	}
	if err := <-ended; err != nil {
		return err
	}
	return in.SendAndClose(&storage_v1.WriteSpanResponse{})
}

// gather is first and what else is there.
func gather(first *model.Span, more <-chan *model.Span) []*model.Span {
	out := []*model.Span{first}
	for len(out) < streamBatch {
		select {
		case s, ok := <-more:
			if !ok {
				return out
			}
			out = append(out, s)
		default:
			return out
		}
	}
	return out
}

func (w *storageWriter) keepPatiently(ctx context.Context, spans []*model.Span) error {
	end := time.Now().Add(writePatience)
	for {
		err := w.keep(ctx, spans)
		if status.Code(err) != codes.Unavailable || time.Now().After(end) {
			return err
		}
		t := time.NewTimer(writeAgain)
		select {
		case <-ctx.Done():
			t.Stop()
			return status.FromContextError(ctx.Err()).Err()
		case <-t.C:
		}
	}
}
