// Package stored stands at the end of a pipeline in tullestore's place when something else wants what comes in too: it writes to the store as tullestore does, answers the
// sender, and afterwards passes the same batch on to further pipelines, which name it as their receiver. What follows can neither delay nor refuse what the
// store has acknowledged.
//
// Between the two stands a lane of bounded length. One goroutine takes batches from it in order; when it is full, because what follows is slow to take
// them, batches are dropped from the copy, and counted. An exporter with a queue on disk takes each in well under a millisecond, whether its backend is there or not.
package stored

import (
	"context"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Type is the connector's name in a configuration.
var Type = component.MustNewType("stored")

// Reasons of drops. The store has everything that is dropped here.
const (
	ReasonBehind  = "export_behind"  // the lane was full
	ReasonRefused = "export_refused" // a pipeline behind did not take it, as an exporter whose queue is full
)

// Bounds of a lane.
const (
	laneBatches = 1024
	laneItems   = 100_000 // spans or data points
)

// Ends are where batches go first; each returns when it has them on disk. Neither keeps a batch.
type Ends struct {
	Traces  consumer.Traces
	Metrics consumer.Metrics
}

// NewFactory makes the connector's factory. dropped must not block and is called concurrently.
func NewFactory(ends Ends, dropped func(reason string, items int)) connector.Factory {
	return connector.NewFactory(Type, func() component.Config { return &struct{}{} },
		connector.WithTracesToTraces(func(_ context.Context, _ connector.Settings, _ component.Config, next consumer.Traces) (connector.Traces, error) {
			return &traces{end: ends.Traces, lane: newLane(next.ConsumeTraces, ptrace.Traces.SpanCount, dropped)}, nil
		}, component.StabilityLevelStable),
		connector.WithMetricsToMetrics(func(_ context.Context, _ connector.Settings, _ component.Config, next consumer.Metrics) (connector.Metrics, error) {
			return &metrics{end: ends.Metrics, lane: newLane(next.ConsumeMetrics, pmetric.Metrics.DataPointCount, dropped)}, nil
		}, component.StabilityLevelStable),
	)
}

type traces struct {
	end consumer.Traces
	*lane[ptrace.Traces]
}

func (*traces) Capabilities() consumer.Capabilities { return consumer.Capabilities{MutatesData: true} } // what follows may

func (t *traces) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	if err := t.end.ConsumeTraces(ctx, td); err != nil {
		return err
	}
	t.put(td)
	return nil
}

type metrics struct {
	end consumer.Metrics
	*lane[pmetric.Metrics]
}

func (*metrics) Capabilities() consumer.Capabilities { return consumer.Capabilities{MutatesData: true} }

func (m *metrics) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	if err := m.end.ConsumeMetrics(ctx, md); err != nil {
		return err
	}
	m.put(md)
	return nil
}

// lane carries batches from the store's side to what follows.
type lane[T any] struct {
	next    func(context.Context, T) error
	count   func(T) int
	dropped func(reason string, items int)
	ch      chan T
	waiting atomic.Int64 // items in ch
	done    sync.WaitGroup
}

func newLane[T any](next func(context.Context, T) error, count func(T) int, dropped func(string, int)) *lane[T] {
	return &lane[T]{next: next, count: count, dropped: dropped, ch: make(chan T, laneBatches)}
}

// put never blocks. The lane owns b from here on. It is not called after Shutdown: the collector stops what comes before first.
func (l *lane[T]) put(b T) {
	n := l.count(b)
	if l.waiting.Add(int64(n)) <= laneItems {
		select {
		case l.ch <- b:
			return
		default:
		}
	}
	l.waiting.Add(-int64(n))
	l.dropped(ReasonBehind, n)
}

func (l *lane[T]) Start(context.Context, component.Host) error {
	l.done.Go(func() {
		for b := range l.ch {
			n := l.count(b) // before what follows changes it
			err := l.next(context.Background(), b)
			l.waiting.Add(-int64(n))
			if err != nil {
				l.dropped(ReasonRefused, n)
			}
		}
	})
	return nil
}

// Shutdown hands on what waits.
func (l *lane[T]) Shutdown(context.Context) error {
	close(l.ch)
	l.done.Wait()
	return nil
}
