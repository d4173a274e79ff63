// Package tullestore is the end of the collector's pipelines: spans go to store.Spans, metrics to a sink. It has no queue and no retry of its own: a
// batch is acknowledged to its sender when the store has it on disk, and refused with a retryable error when it has not.
package tullestore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/exporter"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/collector/processor/backpressure"
	"github.com/tulle-mesh/tulle/store"
)

// Type is the exporter's name in a configuration.
var Type = component.MustNewType("tullestore")

// Sink takes metrics. An error that wraps store.ErrFull, ErrBusy or ErrClosed is answered as retryable.
type Sink interface {
	Ingest(ctx context.Context, md pmetric.Metrics) error
}

// Counters say what happened to batches at the end of the pipeline. Safe for concurrent use; the zero value is ready.
type Counters struct {
	spans, points atomic.Uint64

	mu      sync.Mutex
	refused map[string]uint64
	dropped map[string]uint64
}

// Reasons of refusals (retryable) and drops (for good).
const (
	ReasonFull      = "store_full"
	ReasonBusy      = "store_busy"
	ReasonClosed    = "store_closed"
	ReasonCancelled = "cancelled" // the sender went away or its deadline passed
	ReasonError     = "store_error"
	ReasonNoSink    = "no_metrics_store"
)

// Snapshot is spans and data points accepted, batches refused and items dropped by reason.
func (c *Counters) Snapshot() (spans, points uint64, refused, dropped map[string]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spans.Load(), c.points.Load(), clone(c.refused), clone(c.dropped)
}

func clone(m map[string]uint64) map[string]uint64 {
	out := make(map[string]uint64, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

func (c *Counters) refuse(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refused == nil {
		c.refused = map[string]uint64{}
	}
	c.refused[reason]++
}

func (c *Counters) drop(reason string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dropped == nil {
		c.dropped = map[string]uint64{}
	}
	c.dropped[reason] += uint64(n) //nolint:gosec // a count
}

type config struct{}

// End takes batches of both signals to the store. It keeps none of them.
type End interface {
	exporter.Traces
	exporter.Metrics
}

// New makes an end; metrics may be nil, then metrics are counted and dropped.
func New(spans store.Spans, metrics Sink, c *Counters) End {
	return &end{spans: spans, metrics: metrics, c: c}
}

// NewFactory makes the factory of an exporter that is e.
func NewFactory(e End) exporter.Factory {
	return exporter.NewFactory(Type, func() component.Config { return &config{} },
		exporter.WithTraces(func(context.Context, exporter.Settings, component.Config) (exporter.Traces, error) { return e, nil }, component.StabilityLevelStable),
		exporter.WithMetrics(func(context.Context, exporter.Settings, component.Config) (exporter.Metrics, error) { return e, nil }, component.StabilityLevelStable),
	)
}

type end struct {
	component.StartFunc
	component.ShutdownFunc
	spans   store.Spans
	metrics Sink
	c       *Counters
}

func (*end) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (e *end) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	n := td.SpanCount()
	if err := e.spans.Write(ctx, td); err != nil {
		return e.answer(ctx, err, n)
	}
	e.c.spans.Add(uint64(n)) //nolint:gosec // a count
	return nil
}

func (e *end) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	n := md.DataPointCount()
	if e.metrics == nil {
		e.c.drop(ReasonNoSink, n)
		return nil
	}
	if err := e.metrics.Ingest(ctx, md); err != nil {
		return e.answer(ctx, err, n)
	}
	e.c.points.Add(uint64(n)) //nolint:gosec // a count
	return nil
}

// answer turns a store's error into what OTLP senders understand (opentelemetry-proto, docs/specification.md, "Failures").
func (e *end) answer(ctx context.Context, err error, items int) error {
	retry := func(reason string, code codes.Code, after time.Duration) error {
		e.c.refuse(reason)
		return backpressure.Retry(code, err.Error(), after)
	}
	switch {
	case errors.Is(err, store.ErrFull):
		return retry(ReasonFull, codes.ResourceExhausted, 5*time.Second)
	case errors.Is(err, store.ErrBusy):
		return retry(ReasonBusy, codes.Unavailable, time.Second)
	case errors.Is(err, store.ErrClosed):
		return retry(ReasonClosed, codes.Unavailable, time.Second)
	case ctx.Err() != nil:
		e.c.refuse(ReasonCancelled)
		return status.FromContextError(ctx.Err()).Err()
	default:
		e.c.drop(ReasonError, items)
		return consumererror.NewPermanent(status.Error(codes.Internal, fmt.Sprintf("the batch was dropped: %v", err)))
	}
}
