// Package store is the contract of Tulle's memory: what a span backend must do, what it may say it cannot do, and the errors callers
// branch on. Backends live in store/span/NAME; metrics, graph and events have packages of their own. store/span/open.go maps a backend's name to it.
//
// The types here are Tulle's own: OpenTelemetry's pdata on the way in, small plain structs on the way out. Jaeger's, Prometheus' and
// Tempo's types appear only in their adapters, Jaeger's also in store/span/jaegermodel, which those and the engines share.
package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Errors that callers branch on. Backends wrap them with what was being done, to what.
var (
	// ErrNotFound: no such trace (or none in the retained range).
	ErrNotFound = errors.New("not found")
	// ErrFull: out of disk or over a byte budget; the write was refused whole and may be retried later.
	ErrFull = errors.New("store is full")
	// ErrBusy: a limit on concurrent work was reached; retryable.
	ErrBusy = errors.New("store is busy")
	// ErrClosed: the store is shutting down; retryable elsewhere.
	ErrClosed = errors.New("store is closed")
	// ErrBadQuery: the query cannot be understood; not retryable.
	ErrBadQuery = errors.New("bad query")
)

// Capabilities says beforehand what a backend cannot do. The zero value claims the least.
type Capabilities struct {
	SearchWithoutService bool
	AttributeSearch      bool
	DurationSearch       bool
	KeysetPaging         bool
	StablePaging         bool // a trace is on one page only, also when it grows to an earlier begin between two pages
	WholeForm            bool // what was written comes back as it was; else as Jaeger's model has it, with times in whole microseconds
	WholeBatches         bool // of a batch that was refused nothing was stored; else some of it may be, and is replaced when it is sent again
	Repeats              bool // a span that is written twice without (tulle.boot.id, tulle.sequence) is there twice; else once
	Totals               bool // Stats says how much is stored; else only what this process wrote
	Name                 string
}

// Spans is a span backend. All methods are safe for concurrent use. After Close every method returns ErrClosed.
type Spans interface {
	// Write stores a batch and returns when it is durable (to the degree the backend documents). On error nothing of the batch was
	// stored (see Capabilities.WholeBatches); errors.Is(err, ErrFull|ErrBusy|ErrClosed) means try again. A batch whose resource carries (tulle.boot.id, tulle.sequence) that
	// was already stored is accepted and stored once. The batch is read-only to the backend and not kept after return.
	Write(ctx context.Context, td ptrace.Traces) error
	// Trace returns every stored span of one trace, grouped by resource. ErrNotFound when there is none.
	Trace(ctx context.Context, id flow.TraceID) (ptrace.Traces, error)
	// Summaries returns one page, newest first (by trace start, then trace id), deterministic for a given store content.
	Summaries(ctx context.Context, q TraceQuery) (TracePage, error)
	// Spans calls yield for spans that match, newest first, until yield returns false or q.Limit is reached. The Span is valid after return.
	Spans(ctx context.Context, q TraceQuery, yield func(Span) bool) error
	// Count counts the spans that match by when they start. When ctx is done before all were counted it returns what was, marked Partial. q.Limit and q.Cursor are not used.
	Count(ctx context.Context, q TraceQuery, steps Steps) (Counts, error)
	// Services and Operations list what is known in the retained range, sorted.
	Services(ctx context.Context) ([]string, error)
	Operations(ctx context.Context, service string) ([]Operation, error)
	// AttributeKeys lists searchable attribute names, sorted.
	AttributeKeys(ctx context.Context) ([]string, error)
	Stats() SpanStats
	Capabilities() Capabilities
	Close() error
}

// TraceQuery selects traces (Summaries) or spans (Spans). Zero fields do not restrict. All restrictions on span fields must hold on one
// and the same span.
type TraceQuery struct {
	Service     string
	Operation   string
	Kind        string // internal | server | client | producer | consumer
	Attributes  []AttributeMatch
	Start, End  time.Time // span start in [Start, End); zero End = now
	MinDuration time.Duration
	MaxDuration time.Duration
	Errors      bool   // status error, or a tulle.reason
	Source      string // edge: tulle.source.service
	Destination string // edge: tulle.destination.service
	Reason      string
	Limit       int    // default 20, at most 10,000
	Cursor      string // opaque, from TracePage.Next

	// Only are the attributes, of spans and resources, that whoever asks Spans looks at; nil: all. A store may give more; fewer to read make an answer faster.
	Only []string
}

// Steps divide a time into N spans of the same length, each with its begin and without its end.
type Steps struct {
	From time.Time     `json:"from"`
	Step time.Duration `json:"stepNs"` // at least 1 ms
	N    int           `json:"n"`      // 1 to MaxSteps
}

// MaxSteps bounds Steps.N.
const MaxSteps = 10_000

// End is where the last one ends.
func (s Steps) End() time.Time { return s.From.Add(time.Duration(s.N) * s.Step) }

// Validate says what is wrong; it wraps ErrBadQuery.
func (s Steps) Validate() error {
	if s.N < 1 || s.N > MaxSteps || s.Step < time.Millisecond || s.From.Unix() < 0 || int64(s.Step) > math.MaxInt64/int64(s.N) {
		return fmt.Errorf("%d steps of %s from %s on: %w: 1 to %d steps of at least 1ms are possible", s.N, s.Step, s.From.Format(time.RFC3339), ErrBadQuery, MaxSteps)
	}
	return nil
}

// Counts are spans by when they start.
type Counts struct {
	Steps
	Spans   []uint64 `json:"spans"`             // in each step
	Errors  []uint64 `json:"errors"`            // of these: status error, or a tulle.reason
	Partial bool     `json:"partial,omitempty"` // there was no time for all
}

// AttributeMatch compares one attribute of the span, of its resource or of one of its events by its string form; an event's name is its attribute "event".
// "!=" holds for a span that has no such attribute with that value, so also for one that lacks it; "~" and "!~" are the same two of a Pattern instead of a value, so "~" holds
// only for a span that has the attribute.
type AttributeMatch struct {
	Key   string
	Value string
	Op    string // "=" (or ""), "!=", "exists", "~", "!~"
}

// Negative reports whether the condition is that something is not there.
func (m AttributeMatch) Negative() bool { return m.Op == "!=" || m.Op == "!~" }

// TracePage is one page of summaries; Next is "" on the last page.
type TracePage struct {
	Traces  []TraceSummary `json:"traces"`
	Next    string         `json:"next,omitempty"`
	LeftOut uint64         `json:"leftOut,omitempty"` // ordinary traces that thinning left out of the time searched (of any service), at most
}

// TraceSummary describes a trace without its spans' bodies.
type TraceSummary struct {
	TraceID       flow.TraceID   `json:"-"`
	ID            string         `json:"traceId"` // hex form of TraceID
	RootService   string         `json:"rootService"`
	RootOperation string         `json:"rootOperation"`
	Start         time.Time      `json:"start"`
	Duration      time.Duration  `json:"durationNs"`
	Spans         int            `json:"spans"`
	Errors        int            `json:"errors"`
	Services      []ServiceCount `json:"services"`
	Partial       bool           `json:"partial,omitempty"` // root not (yet) seen
}

// ArrivalTime is how long after its end a trace may still be coming in: sidecars send what they saw about once a second, each for itself, and the
// root ends last.
const ArrivalTime = 5 * time.Second

// Arriving reports whether the root has not been seen because the trace is too young, so that it is nothing to worry about.
func (t TraceSummary) Arriving(now time.Time) bool {
	return t.Partial && now.Sub(t.Start.Add(t.Duration)) < ArrivalTime
}

// ServiceCount is how much of a trace one service has.
type ServiceCount struct {
	Service string `json:"service"`
	Spans   int    `json:"spans"`
	Errors  int    `json:"errors"`
}

// Operation is a span name and kind of a service.
type Operation struct {
	Name string `json:"name"`
	Kind string `json:"kind"`
}

// Span is a span as read back, flat: resource attributes under Resource, span attributes under Attributes, both as string forms keep their
// type in the Traces form only.
type Span struct {
	TraceID    flow.TraceID
	SpanID     flow.SpanID
	ParentID   flow.SpanID
	Name       string
	Kind       string
	Service    string
	Start      time.Time
	Duration   time.Duration
	Error      bool
	Status     string // status message
	Attributes map[string]string
	Resource   map[string]string // other spans may share it: it is only read
}

// SpanStats is what the store knows of itself.
type SpanStats struct {
	Spans         uint64    `json:"spans"`
	Blocks        int       `json:"blocks"`
	Bytes         uint64    `json:"bytes"`    // sealed blocks on disk
	WALBytes      uint64    `json:"walBytes"` // live WAL on disk
	BytesPerSpan  float64   `json:"bytesPerSpan"`
	Oldest        time.Time `json:"oldest"`
	Newest        time.Time `json:"newest"`
	Written       uint64    `json:"written"`       // spans accepted since start
	Duplicate     uint64    `json:"duplicate"`     // spans dropped as re-sent batches
	Corrupt       uint64    `json:"corrupt"`       // WAL or block damage found (each reported as an event)
	Merged        uint64    `json:"merged"`        // blocks merged into others since start
	LeftOutTraces uint64    `json:"leftOutTraces"` // ordinary traces left out of the blocks that are kept (thinning)
	LeftOutSpans  uint64    `json:"leftOutSpans"`
	DiskFreeBytes uint64    `json:"diskFreeBytes"`
	LastError     string    `json:"lastError,omitempty"` // "" when healthy; what a person should do about it
}
