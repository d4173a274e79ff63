// Package metric is the embedded Prometheus TSDB with its PromQL engine: native histograms, exemplars, an out-of-order window, and a
// budget of active series whose overflow is folded into "other", visibly.
//
// Writers of series families use a Writer: it stamps one instant on all its samples, applies the budget, and ends series that
// are no longer written with a stale marker. Everything that speaks Prometheus' own interfaces (rules, remote write, the HTTP API) uses
// Appender, Querier, ChunkQuerier, ExemplarQuerier and Engine; *DB is a storage.Appendable, a storage.SampleAndChunkQueryable
// and a storage.ExemplarQueryable.
package metric

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/util/compression"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
)

// Config says how much a DB keeps. Zero fields mean the default named beside them.
type Config struct {
	RetainAge           time.Duration     // default 15 days
	RetainBytes         int64             // blocks on disk, without the WAL; default 2 GiB
	ActiveSeriesBudget  int               // default 200,000
	OutsideSeriesBudget int               // new series of others (Outside) are admitted while fewer than these are active, theirs or not; default half of ActiveSeriesBudget
	OutOfOrderWindow    time.Duration     // default 10 min
	MaxExemplars        int64             // kept in memory, newest win; default 4,096
	QueryTimeout        time.Duration     // default 2 min
	QueryMaxSamples     int               // in memory per query; default 5,000,000 (about 80 MB)
	QueryConcurrency    int               // default 4; more wait
	Derived             []Derived         // families that are read as views of stored ones
	RemoteWrite         RemoteWrite       // where series are sent besides; default nowhere
	OnEvent             func(event.Event) // told of a repaired WAL; may be nil
	Now                 func() time.Time  // default time.Now
	Logger              *slog.Logger
	Registerer          prometheus.Registerer // where the TSDB's and the engine's own metrics go; default: a registry of its own
}

func (c Config) withDefaults() Config {
	if c.RetainAge <= 0 {
		c.RetainAge = 15 * 24 * time.Hour
	}
	if c.RetainBytes <= 0 {
		c.RetainBytes = 2 << 30
	}
	if c.ActiveSeriesBudget <= 0 {
		c.ActiveSeriesBudget = 200_000
	}
	if c.OutsideSeriesBudget <= 0 {
		c.OutsideSeriesBudget = c.ActiveSeriesBudget / 2
	}
	if c.OutOfOrderWindow <= 0 {
		c.OutOfOrderWindow = 10 * time.Minute
	}
	if c.MaxExemplars <= 0 {
		c.MaxExemplars = 4096
	}
	if c.QueryTimeout <= 0 {
		c.QueryTimeout = 2 * time.Minute
	}
	if c.QueryMaxSamples <= 0 {
		c.QueryMaxSamples = 5_000_000
	}
	if c.QueryConcurrency <= 0 {
		c.QueryConcurrency = 4
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
	return c
}

// DB is an open store of series. All methods are safe for concurrent use. It has a single writer process per directory (a lock file
// holds the line).
type DB struct {
	cfg    Config
	tsdb   *tsdb.DB
	engine *promql.Engine

	folded   *prometheus.CounterVec
	rejected *prometheus.CounterVec
	taken    prometheus.Counter     // samples from outside
	refused  *prometheus.CounterVec // of them
	sender   *sender                // nil: nothing is sent
	derived  map[string]*Derived    // by name
	within   withins                // see Increases
	natives  sync.Map               // names of native histograms that Writers wrote
	opened   time.Time

	closeOnce sync.Once
	closeErr  error
}

// Stats is what a DB knows of itself.
type Stats struct {
	ActiveSeries uint64    `json:"activeSeries"`
	Budget       int       `json:"budget"`
	Blocks       int       `json:"blocks"`
	Bytes        int64     `json:"bytes"` // blocks on disk
	Oldest       time.Time `json:"oldest"`
	Newest       time.Time `json:"newest"`
}

// Open opens the TSDB in dir, creating it if needed. A damaged WAL is cut at the damage, and OnEvent is told; the blocks are untouched.
func Open(dir string, cfg Config) (*DB, error) {
	cfg = cfg.withDefaults()
	o := tsdb.DefaultOptions()
	o.RetentionDuration = cfg.RetainAge.Milliseconds()
	o.MaxBytes = cfg.RetainBytes
	o.OutOfOrderTimeWindow = cfg.OutOfOrderWindow.Milliseconds()
	o.EnableExemplarStorage = true
	o.MaxExemplars = cfg.MaxExemplars
	// A mesh has a few thousand series, not millions: the defaults below are for millions and cost tens of MiB each.
	o.StripeSize = 1 << 10
	o.WALSegmentSize = 16 << 20
	o.WALCompression = compression.Snappy
	o.WALReplayConcurrency = 1
	o.HeadChunksWriteBufferSize = 256 << 10
	o.MaxBlockChunkSegmentSize = 64 << 20

	tel := newTelemetry(cfg.Registerer)
	stats := tsdb.NewDBStats()
	db, err := tsdb.Open(dir, cfg.Logger, tel.register, o, stats)
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) {
			return nil, fmt.Errorf("metrics store: open %s: %w (free some space or lower the retention): %w", dir, store.ErrFull, err)
		}
		return nil, fmt.Errorf("metrics store: open %s (is another observer using it?): %w", dir, err)
	}
	d := &DB{cfg: cfg, tsdb: db, folded: tel.folded, rejected: tel.rejected, taken: tel.taken, refused: tel.refused, opened: cfg.Now()}
	d.derived = make(map[string]*Derived, len(cfg.Derived))
	for i := range cfg.Derived {
		d.derived[cfg.Derived[i].Name] = &cfg.Derived[i]
	}
	d.engine = promql.NewEngine(promql.EngineOpts{
		Logger:               cfg.Logger,
		Reg:                  cfg.Registerer,
		MaxSamples:           cfg.QueryMaxSamples,
		Timeout:              cfg.QueryTimeout,
		ActiveQueryTracker:   newGate(cfg.QueryConcurrency),
		LookbackDelta:        5 * time.Minute,
		EnableAtModifier:     true,
		EnableNegativeOffset: true,
		Parser:               Parser(),
		NoStepSubqueryIntervalFn: func(int64) int64 {
			return (15 * time.Second).Milliseconds()
		},
	})
	if err := d.send(dir, cfg.RemoteWrite); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	if n := tel.corruptions(); n > 0 {
		cfg.Logger.Warn("the write-ahead log of the metrics store was damaged and has been cut at the damage", "dir", dir)
		if cfg.OnEvent != nil {
			now := cfg.Now()
			cfg.OnEvent(event.Event{
				ID: event.NewID(now), Time: now, Kind: event.KindStore, Severity: "warning", Reason: "damaged_wal",
				Message:  "The write-ahead log of the metrics store was damaged; it has been cut at the damage, so up to the last two hours of series may have holes. Older blocks are whole.",
				Evidence: map[string]string{"directory": filepath.Base(dir), "corruptions": fmt.Sprint(n)},
			})
		}
	}
	return d, nil
}

// Parser is the PromQL dialect used everywhere.
func Parser() parser.Parser { return parser.NewParser(parser.Options{}) }

// Appender writes samples with labels of the caller's choosing; the budget of Writer does not apply to it.
func (d *DB) Appender(ctx context.Context) storage.Appender { return d.tsdb.Appender(ctx) }

// AppenderV2 is Appender in Prometheus' newer shape.
func (d *DB) AppenderV2(ctx context.Context) storage.AppenderV2 { return d.tsdb.AppenderV2(ctx) }

// Querier reads samples in [mint, maxt], both milliseconds since the epoch: those that are stored, the classic views of native histograms, and derived families.
func (d *DB) Querier(mint, maxt int64) (storage.Querier, error) {
	q, err := d.tsdb.Querier(mint, maxt)
	if err != nil {
		return nil, err
	}
	return &derivedQuerier{&querier{q, d}, mint, maxt}, nil
}

// ChunkQuerier reads chunks in [mint, maxt], as they are stored.
func (d *DB) ChunkQuerier(mint, maxt int64) (storage.ChunkQuerier, error) {
	return d.tsdb.ChunkQuerier(mint, maxt)
}

// ExemplarQuerier reads the exemplars in memory.
func (d *DB) ExemplarQuerier(ctx context.Context) (storage.ExemplarQuerier, error) {
	q, err := d.tsdb.ExemplarQuerier(ctx)
	if err != nil {
		return nil, err
	}
	return derivedExemplars{exemplarQuerier{q}, d}, nil
}

// Engine evaluates PromQL; give it d as the Queryable.
func (d *DB) Engine() *promql.Engine { return d.engine }

// TSDB is the store underneath, for adapters that need its own type.
func (d *DB) TSDB() *tsdb.DB { return d.tsdb }

// StartTime is the oldest sample, in milliseconds.
func (d *DB) StartTime() (int64, error) { return d.tsdb.StartTime() }

// Query evaluates one instant query.
func (d *DB) Query(ctx context.Context, query string, at time.Time) (promql.Vector, error) {
	q, err := d.engine.NewInstantQuery(ctx, d, nil, query, at)
	if err != nil {
		return nil, fmt.Errorf("query %q: %w: %w", query, store.ErrBadQuery, err)
	}
	defer q.Close()
	res := q.Exec(ctx)
	if res.Err != nil {
		return nil, fmt.Errorf("query %q: %w", query, res.Err)
	}
	switch v := res.Value.(type) {
	case promql.Vector:
		return v, nil
	case promql.Scalar:
		return promql.Vector{{T: v.T, F: v.V}}, nil
	default:
		return nil, fmt.Errorf("query %q gives a %s, not a vector: %w", query, v.Type(), store.ErrBadQuery)
	}
}

// Stats reports sizes.
func (d *DB) Stats() Stats {
	st := Stats{ActiveSeries: d.tsdb.Head().NumSeries(), Budget: d.cfg.ActiveSeriesBudget}
	for _, b := range d.tsdb.Blocks() {
		st.Blocks++
		st.Bytes += b.Size()
	}
	if ms, err := d.tsdb.StartTime(); err == nil && d.tsdb.Head().MaxTime() >= ms {
		st.Oldest, st.Newest = time.UnixMilli(ms).UTC(), time.UnixMilli(d.tsdb.Head().MaxTime()).UTC()
	}
	return st
}

// Close flushes and closes the store; backends of remote write have remoteFlush to take what is queued for them. Calling it again does nothing.
func (d *DB) Close() error {
	d.closeOnce.Do(func() {
		var sent error
		if d.sender != nil {
			sent = d.sender.storage.Close()
		}
		if err := errors.Join(d.engine.Close(), sent, d.tsdb.Close()); err != nil {
			d.closeErr = fmt.Errorf("metrics store: close: %w", err)
		}
	})
	return d.closeErr
}

// gate bounds how many queries run at once (promql.QueryTracker without its file).
type gate chan struct{}

func newGate(n int) gate { return make(gate, n) }

func (g gate) GetMaxConcurrent() int { return cap(g) }
func (g gate) Insert(ctx context.Context, _ string) (int, error) {
	select {
	case g <- struct{}{}:
		return 0, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}
func (g gate) Delete(int)   { <-g }
func (g gate) Close() error { return nil }
