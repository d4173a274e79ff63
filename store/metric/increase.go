package metric

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
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
	q, err := d.tsdb.ChunkQuerier(mint-increaseLookback.Milliseconds(), maxt)
	if err != nil {
		return nil, fmt.Errorf("metrics store: %w", err)
	}
	defer q.Close()
	by = slices.Sorted(slices.Values(by)) // as BytesWithLabels wants them
	sums := map[string]*Increase{}
	set := q.Select(ctx, false, &storage.SelectHints{Start: mint, End: maxt, DisableTrimming: true}, ms...)
	var (
		it  chunks.Iterator
		g   growth
		buf []byte
	)
	for set.Next() {
		s := set.At()
		g = growth{from: mint, to: maxt, values: g.values}
		it = s.Iterator(it)
		for it.Next() {
			if err := g.chunk(it.At()); err != nil {
				return nil, fmt.Errorf("metrics store: read %s: %w", s.Labels(), err)
			}
		}
		if err := it.Err(); err != nil {
			return nil, fmt.Errorf("metrics store: read %s: %w", s.Labels(), err)
		}
		if err := g.end(); err != nil {
			return nil, fmt.Errorf("metrics store: read %s: %w", s.Labels(), err)
		}
		if !g.any {
			continue
		}
		buf = s.Labels().BytesWithLabels(buf, by...)
		sum := sums[string(buf)]
		if sum == nil {
			sum = &Increase{Labels: s.Labels().MatchLabels(true, by...)}
			sums[string(buf)] = sum
		}
		sum.Value += g.sum
	}
	if err := set.Err(); err != nil {
		return nil, fmt.Errorf("metrics store: %w", err)
	}
	out := make([]Increase, 0, len(sums))
	for _, s := range sums {
		out = append(out, *s)
	}
	slices.SortFunc(out, func(a, b Increase) int { return labels.Compare(a.Labels, b.Labels) })
	return out, nil
}

// increaseLookback is how long before a range its first value is looked for.
const increaseLookback = time.Minute

// growth adds up one counter, chunk by chunk in the order of time. One chunk is kept back, to be read whole if it has to be.
type growth struct {
	from, to int64
	sum      float64
	last     float64
	begun    bool // last is a value at or before which nothing counts
	any      bool // something was in the range
	kept     chunks.Meta
	values   chunkenc.Iterator

	keptFirst float64 // the first value of kept
	keptOK    bool    // it has one
}

func (g *growth) chunk(c chunks.Meta) error {
	if c.MinTime > g.to {
		return nil
	}
	next, ok, err := g.first(c)
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

// first is the first value of a chunk; ok is false when it has none, or it marks an end.
func (g *growth) first(c chunks.Meta) (v float64, ok bool, err error) {
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

func (g *growth) step(v float64) {
	switch g.any = true; {
	case !g.begun:
	case v >= g.last:
		g.sum += v - g.last
	default:
		g.sum += v
	}
	g.last, g.begun = v, true
}
