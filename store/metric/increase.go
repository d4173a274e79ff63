package metric

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"golang.org/x/sync/errgroup"
)

// Increase is how much the counters of one set of labels grew together.
type Increase struct {
	Labels labels.Labels // those that were asked for
	Value  float64
}

// Increases says how much the counters that match grew after from, until to, summed by the labels by; sorted by them. A decrease is a restart
// from zero; nothing is extrapolated.
//
// It is for long ranges: of a chunk (120 samples) that lies within the range it reads the first sample alone, and the rest only when the
// next chunk begins lower. A restart after which a counter passes its old value before the chunk ends is therefore not seen, which loses at most what
// was counted in that chunk.
func (d *DB) Increases(ctx context.Context, from, to time.Time, by []string, ms ...*labels.Matcher) ([]Increase, error) {
	mint, maxt := from.UnixMilli(), to.UnixMilli()
	grown, err := d.grown(ctx, mint, maxt, ms)
	if errors.Is(err, errOverlap) {
		grown, err = d.grownMerged(ctx, mint, maxt, ms)
	}
	if err != nil {
		return nil, fmt.Errorf("metrics store: %w", err)
	}
	by = slices.Sorted(slices.Values(by)) // as BytesWithLabels wants them
	sums := map[string]*Increase{}
	var buf []byte
	for _, g := range grown.byHash {
		if !g.any {
			continue
		}
		buf = g.labels.BytesWithLabels(buf, by...)
		sum := sums[string(buf)]
		if sum == nil {
			sum = &Increase{Labels: g.labels.MatchLabels(true, by...)}
			sums[string(buf)] = sum
		}
		sum.Value += g.sum
	}
	out := make([]Increase, 0, len(sums))
	for _, s := range sums {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Increase) int { return labels.Compare(a.Labels, b.Labels) })
	return out, nil
}

// errOverlap says that the parts of the store that hold a range are not one after the other.
var errOverlap = errors.New("blocks overlap")

// grown reads block by block, the oldest first, and then what is in no block yet. To merge the chunks of twelve blocks costs more than to read them. The
// error wraps errOverlap when samples that came out of order have to be merged after all, or a block went away meanwhile.
func (d *DB) grown(ctx context.Context, mint, maxt int64, ms []*labels.Matcher) (*growths, error) {
	first := mint - increaseLookback.Milliseconds()
	grown := &growths{mint, maxt, map[uint64]*growth{}}
	var open []storage.ChunkQuerier // to the end: chunks that are kept back are theirs
	defer func() {
		for _, q := range open {
			q.Close()
		}
	}()
	next := int64(math.MinInt64) // everything before is read
	blocks := d.tsdb.Blocks()
	withins, err := d.grownWithin(ctx, blocks, mint, maxt, ms)
	if err != nil {
		return nil, err
	}
	for i, b := range blocks {
		if !b.OverlapsClosedInterval(first, maxt) {
			continue
		}
		if b.MinTime() < next {
			return nil, errOverlap
		}
		next = b.MaxTime()
		if liesWithin(b, mint, maxt) {
			for k := range withins[i] {
				g, _ := grown.find(withins[i][k].labels)
				if err := g.within(&withins[i][k]); err != nil {
					return nil, err
				}
			}
			continue
		}
		q, err := tsdb.NewBlockChunkQuerier(b, first, maxt)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errOverlap, err)
		}
		open = append(open, q)
		if err := grow(ctx, q, mint, maxt, ms, grown.find); err != nil {
			return nil, err
		}
	}
	if h := d.tsdb.Head(); h.MinOOOTime() <= h.MaxOOOTime() && h.MinOOOTime() < next {
		return nil, errOverlap
	}
	if first = max(first, next); first <= maxt {
		q, err := d.tsdb.ChunkQuerier(first, maxt)
		if err != nil {
			return nil, err
		}
		open = append(open, q)
		if err := grow(ctx, q, mint, maxt, ms, grown.find); err != nil {
			return nil, err
		}
	}
	return grown, grown.end()
}

// liesWithin says whether what counters did within a block counts whole for a range: all of its samples do, and none is deleted.
func liesWithin(b *tsdb.Block, mint, maxt int64) bool {
	return b.MinTime() > mint && b.MaxTime() <= maxt && b.Meta().Stats.NumTombstones == 0
}

// grownWithin is grownIn of every block that lies within a range, by its place; blocks that nothing is remembered of are read side by side, on as many
// cores as there are.
func (d *DB) grownWithin(ctx context.Context, blocks []*tsdb.Block, mint, maxt int64, ms []*labels.Matcher) ([][]growthWithin, error) {
	out := make([][]growthWithin, len(blocks))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, b := range blocks {
		if liesWithin(b, mint, maxt) {
			g.Go(func() (err error) {
				out[i], err = d.grownIn(ctx, b, ms)
				return err
			})
		}
	}
	return out, g.Wait()
}

// growthWithin is what a counter did within one block.
type growthWithin struct {
	labels           labels.Labels
	first, last, sum float64 // sum: from first on
}

// grownIn is what the counters that match did within a block. Blocks never change, so it is remembered: a question about the last day, asked again, reads
// the newest two hours and the hours at the day's begin.
func (d *DB) grownIn(ctx context.Context, b *tsdb.Block, ms []*labels.Matcher) ([]growthWithin, error) {
	key := b.Meta().ULID.String() + fmt.Sprint(ms)
	if within, ok := d.within.get(key); ok {
		return within, nil
	}
	q, err := tsdb.NewBlockChunkQuerier(b, b.MinTime(), b.MaxTime())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errOverlap, err)
	}
	defer q.Close()
	var (
		within []growthWithin
		g      growth
	)
	add := func() error {
		if err := g.end(); err != nil {
			return fmt.Errorf("read %s: %w", g.labels, err)
		}
		if g.any {
			within = append(within, growthWithin{g.labels, g.first, g.last, g.sum})
		}
		return nil
	}
	err = grow(ctx, q, math.MinInt64, b.MaxTime(), ms, func(l labels.Labels) (*growth, error) {
		err := add()
		g = growth{labels: l, from: math.MinInt64, to: b.MaxTime(), values: g.values}
		return &g, err
	})
	if err == nil {
		err = add()
	}
	if err != nil {
		return nil, err
	}
	d.within.put(key, within)
	return within, nil
}

// maxWithin bounds what is remembered of blocks: some 20 MiB.
const maxWithin = 100_000

// withins remembers what counters did within blocks; the oldest give way.
type withins struct {
	mu    sync.Mutex
	byKey map[string][]growthWithin
	keys  []string // in the order of their coming
	size  int
}

func (w *withins) get(key string) ([]growthWithin, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	within, ok := w.byKey[key]
	return within, ok
}

func (w *withins) put(key string, within []growthWithin) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.byKey[key]; ok || len(within)+1 > maxWithin {
		return
	}
	if w.byKey == nil {
		w.byKey = map[string][]growthWithin{}
	}
	w.byKey[key] = within
	w.keys = append(w.keys, key)
	w.size += len(within) + 1
	for w.size > maxWithin {
		w.size -= len(w.byKey[w.keys[0]]) + 1
		delete(w.byKey, w.keys[0])
		w.keys = w.keys[1:]
	}
}

// grownMerged is grown for parts that overlap.
func (d *DB) grownMerged(ctx context.Context, mint, maxt int64, ms []*labels.Matcher) (*growths, error) {
	q, err := d.tsdb.ChunkQuerier(mint-increaseLookback.Milliseconds(), maxt)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	grown := &growths{mint, maxt, map[uint64]*growth{}}
	if err := grow(ctx, q, mint, maxt, ms, grown.find); err != nil {
		return nil, err
	}
	return grown, grown.end()
}

// grow reads on in the series that match; find yields what is known of one.
func grow(ctx context.Context, q storage.ChunkQuerier, mint, maxt int64, ms []*labels.Matcher, find func(labels.Labels) (*growth, error)) error {
	set := q.Select(ctx, false, &storage.SelectHints{Start: mint, End: maxt, DisableTrimming: true}, ms...)
	var it chunks.Iterator
	for set.Next() {
		s := set.At()
		g, err := find(s.Labels())
		if err != nil {
			return err
		}
		it = s.Iterator(it)
		for it.Next() {
			if err := g.chunk(it.At()); err != nil {
				return fmt.Errorf("read %s: %w", s.Labels(), err)
			}
		}
		if err := it.Err(); err != nil {
			return fmt.Errorf("read %s: %w", s.Labels(), err)
		}
	}
	return set.Err()
}

// growths are those of all series, over a range.
type growths struct {
	from, to int64
	byHash   map[uint64]*growth
}

func (gs *growths) find(l labels.Labels) (*growth, error) {
	h := l.Hash()
	for g := gs.byHash[h]; g != nil; g = gs.byHash[h] {
		if labels.Equal(g.labels, l) {
			return g, nil
		}
		h++
	}
	g := &growth{labels: l, from: gs.from, to: gs.to}
	gs.byHash[h] = g
	return g, nil
}

// end reads what was kept back.
func (gs *growths) end() error {
	for _, g := range gs.byHash {
		if err := g.end(); err != nil {
			return fmt.Errorf("read %s: %w", g.labels, err)
		}
	}
	return nil
}

// increaseLookback is how long before a range its first value is looked for.
const increaseLookback = time.Minute

// growth adds up one counter, chunk by chunk in the order of time. One chunk is kept back, to be read whole if it has to be.
type growth struct {
	labels   labels.Labels
	from, to int64
	sum      float64
	last     float64
	begun    bool    // last is a value at or before which nothing counts
	any      bool    // something was in the range
	first    float64 // value in the range, when any
	kept     chunks.Meta
	values   chunkenc.Iterator

	keptFirst float64 // the first value of kept
	keptOK    bool    // it has one
}

func (g *growth) chunk(c chunks.Meta) error {
	if c.MinTime > g.to {
		return nil
	}
	if g.kept.Chunk != nil && c.MinTime <= g.kept.MaxTime {
		return errOverlap
	}
	next, ok, err := g.firstOf(c)
	if err != nil {
		return err
	}
	if g.kept.Chunk != nil {
		if g.kept.MinTime > g.from && g.keptOK && ok && next >= g.keptFirst {
			g.step(g.keptFirst)
		} else if err := g.whole(g.kept); err != nil {
			return err
		}
	}
	g.kept, g.keptFirst, g.keptOK = c, next, ok
	return nil
}

func (g *growth) end() error {
	if g.kept.Chunk == nil {
		return nil
	}
	return g.whole(g.kept)
}

// firstOf is the first value of a chunk; ok is false when it has none, or it marks an end.
func (g *growth) firstOf(c chunks.Meta) (v float64, ok bool, err error) {
	g.values = c.Chunk.Iterator(g.values)
	if g.values.Next() != chunkenc.ValFloat {
		return 0, false, g.values.Err()
	}
	_, v = g.values.At()
	return v, !value.IsStaleNaN(v), nil
}

func (g *growth) whole(c chunks.Meta) error {
	g.values = c.Chunk.Iterator(g.values)
	for g.values.Next() == chunkenc.ValFloat {
		t, v := g.values.At()
		switch {
		case value.IsStaleNaN(v):
		case t > g.to:
			return nil
		case t <= g.from:
			g.last, g.begun = v, true
		default:
			g.step(v)
		}
	}
	return g.values.Err()
}

// within goes on by a whole block.
func (g *growth) within(b *growthWithin) error {
	if err := g.end(); err != nil {
		return err
	}
	g.kept = chunks.Meta{}
	g.step(b.first)
	g.sum += b.sum
	g.last = b.last
	return nil
}

func (g *growth) step(v float64) {
	if !g.any {
		g.first = v
	}
	switch g.any = true; {
	case !g.begun:
	case v >= g.last:
		g.sum += v - g.last
	default:
		g.sum += v
	}
	g.last, g.begun = v, true
}
