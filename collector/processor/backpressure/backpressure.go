// Package backpressure stands first in every pipeline, right behind the receivers. What comes after it may refuse a batch; it turns each refusal into an answer that
// a sender can act on, whichever protocol it speaks: a gRPC status that says how long to wait, from which HTTP's Retry-After follows. The store says so itself;
// the memory limiter only says no.
package backpressure

import (
	"context"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Type is the processor's name in a configuration.
var Type = component.MustNewType("backpressure")

// ReasonMemory is the reason of a refusal by the memory limiter, retryable.
const ReasonMemory = "memory_limit"

// memoryDelay is how long a sender is asked to wait when memory is short: about the time in which the limiter looks again.
const memoryDelay = time.Second

// Counters count batches. Safe for concurrent use; the zero value is ready.
type Counters struct{ memory atomic.Uint64 }

// Memory is how many batches were refused because memory was short.
func (c *Counters) Memory() uint64 { return c.memory.Load() }

// Outcome lets the receiving end know whether a refused batch was counted behind it, so that it counts what was refused before.
type Outcome struct{ counted atomic.Bool }

// Counted reports whether the batch came this far and was refused here or later, where it was counted.
func (o *Outcome) Counted() bool { return o.counted.Load() }

type outcomeKey struct{}

// WithOutcome attaches an Outcome to the context of one batch.
func WithOutcome(ctx context.Context) (context.Context, *Outcome) {
	o := &Outcome{}
	return context.WithValue(ctx, outcomeKey{}, o), o
}

type config struct{}

// NewFactory makes the processor's factory.
func NewFactory(c *Counters) processor.Factory {
	return processor.NewFactory(Type, func() component.Config { return &config{} },
		processor.WithTraces(func(_ context.Context, _ processor.Settings, _ component.Config, next consumer.Traces) (processor.Traces, error) {
			return &traces{step: step{c: c}, next: next}, nil
		}, component.StabilityLevelStable),
		processor.WithMetrics(func(_ context.Context, _ processor.Settings, _ component.Config, next consumer.Metrics) (processor.Metrics, error) {
			return &metrics{step: step{c: c}, next: next}, nil
		}, component.StabilityLevelStable),
	)
}

type step struct {
	component.StartFunc
	component.ShutdownFunc
	c *Counters
}

func (step) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

type traces struct {
	step
	next consumer.Traces
}

type metrics struct {
	step
	next consumer.Metrics
}

func (p *traces) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	return p.c.answer(ctx, p.next.ConsumeTraces(ctx, td))
}

func (p *metrics) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	return p.c.answer(ctx, p.next.ConsumeMetrics(ctx, md))
}

// answer keeps an error that says what it is (a gRPC status, or permanent); the rest is the memory limiter's.
func (c *Counters) answer(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if o, ok := ctx.Value(outcomeKey{}).(*Outcome); ok {
		o.counted.Store(true)
	}
	if _, ok := status.FromError(err); ok || consumererror.IsPermanent(err) {
		return err
	}
	c.memory.Add(1)
	return Retry(codes.Unavailable, err.Error(), memoryDelay)
}

// Retry is a gRPC status that asks to send the same again, after the time given.
func Retry(code codes.Code, message string, after time.Duration) error {
	s, err := status.New(code, message).WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	if err != nil {
		return status.Error(code, message)
	}
	return s.Err()
}

// Delay is when what was refused with err may be sent again: what the refusal says, at least least.
func Delay(err error, least time.Duration) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			least = max(least, r.GetRetryDelay().AsDuration())
		}
	}
	return least
}

// WriteHTTP answers a request whose batch was refused with err, for receivers whose protocol is HTTP: 429 or 503 with Retry-After (whole seconds, at least 1) where
// the same may be sent again, 500 where it may not.
func WriteHTTP(w http.ResponseWriter, err error) {
	s := status.Convert(err)
	code := http.StatusInternalServerError
	switch {
	case consumererror.IsPermanent(err):
	case s.Code() == codes.ResourceExhausted:
		code = http.StatusTooManyRequests
	case s.Code() == codes.Unavailable, s.Code() == codes.Canceled, s.Code() == codes.DeadlineExceeded:
		code = http.StatusServiceUnavailable
	}
	if code != http.StatusInternalServerError {
		wait := Delay(err, time.Second)
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	}
	http.Error(w, s.Message(), code)
}
