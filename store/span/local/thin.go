package local

import (
	"math"
	"slices"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// Thinning leaves out ordinary traces of old blocks, so that within the same bytes what is worth keeping stays longer. It happens only when the sealed
// blocks have more than Config.ThinBytes, to the oldest windows first, and while a window's blocks are rewritten (compaction).
//
// What must stay true:
//  1. A trace is left out as a whole or not at all: one that another block may know too (by its filter), is kept.
//  2. What is worth keeping (see worth) is never left out, and of the rest one in Config.ThinKeep stays, chosen by trace id, so that all blocks choose the same.
//  3. The block says how many traces and spans it left out, and searches and statistics pass it on.
//
// Counts and durations in the series are counted where requests pass (docs/adr/0002) and do not change.
const (
	keepAttr    = "tulle.keep" // a span's attribute, true: its trace is never left out
	rareSpans   = 20           // an operation or edge with fewer spans in the blocks that are thinned together is rare
	slowSpans   = 100          // an operation with fewer spans has no 99th percentile
	mostRare    = 0.10         // of the traces; when more are rare (names with ids in them), rarity says nothing and is not asked
	spreadSlack = time.Hour    // other blocks whose spans began this near a trace may hold pieces of it
)

var keepMatch = store.AttributeMatch{Key: keepAttr, Value: "true", Op: "="}

// thinPlan is what plan needs to know of thinning.
type thinPlan struct {
	now    bool          // there are more bytes than ThinBytes
	after  time.Duration // since the end of a window
	window time.Duration
}

// thin chooses the oldest blocks that are to be thinned: neighbours of one window that were not yet.
func (c *compaction) thin(blocks []*block, t thinPlan, now time.Time) *job {
	for i, b := range blocks {
		at := b.partition(t.window)
		if now.UnixNano() < at+int64(t.window)+int64(max(t.after, c.grace)) {
			return nil // younger ones follow
		}
		if b.meta.Level >= levelThinned || !b.settled() {
			continue
		}
		j, spans, bytes := i+1, b.meta.Spans, b.size
		for j < len(blocks) && j-i < c.maxInputs && blocks[j].partition(t.window) == at && blocks[j].meta.Level < levelThinned && blocks[j].settled() &&
			spans+blocks[j].meta.Spans <= c.maxSpans && bytes+blocks[j].size <= c.maxBytes {
			spans += blocks[j].meta.Spans
			bytes += blocks[j].size
			j++
		}
		return &job{in: blocks[i:j], level: levelThinned, dir: partitionDir(at, t.window), thin: true}
	}
	return nil
}

// leftOut counts the traces that thinning left out of the blocks that have spans in [from, to).
func leftOut(src []source, from, to uint64) (n uint64) {
	for _, s := range src {
		if b, ok := s.(*block); ok && b.meta.MaxStart >= from && b.meta.MinStart < to {
			n += uint64(b.meta.LeftTraces) //nolint:gosec // a count
		}
	}
	return n
}

// sampled says that an ordinary trace is among the one in n that stays.
func sampled(id flow.TraceID, n int) bool {
	_, h := bloomHash(id)
	return h>>1%uint64(n) == 0 //nolint:gosec // positive
}

// leaveOut drops what thinning leaves out of traces, and counts it.
func (m *merger) leaveOut(traces []mergedTrace) ([]mergedTrace, error) {
	worth, err := m.worth()
	if err != nil {
		return nil, err
	}
	m.db.mu.RLock()
	others := slices.DeleteFunc(slices.Clone(m.db.blocks), func(b *block) bool { return slices.Contains(m.job.in, b) })
	live := append(slices.Clone(m.db.frozen), m.db.active)
	m.db.mu.RUnlock()
	kept := traces[:0:0]
	for i, t := range traces {
		if i%pageRows == pageRows-1 {
			if err := m.pace.step(); err != nil {
				return nil, err
			}
		}
		last := i == len(traces)-1 && len(kept) == 0 // a block is never empty
		if last || t.part.errors > 0 || sampled(t.part.id, m.db.cfg.ThinKeep) || slices.ContainsFunc(t.pieces, func(x piece) bool { return worth[x.in].has(x.at) }) || spread(t.part, others, live) {
			kept = append(kept, t)
			continue
		}
		m.leftTraces++
		m.leftSpans += t.part.spans
	}
	return kept, nil
}

// spread says that another block may hold a piece of the trace.
func spread(p *part, others []*block, live []*memtable) bool {
	const slack = uint64(spreadSlack)
	for _, m := range live {
		m.mu.RLock()
		_, ok := m.traces[p.id]
		m.mu.RUnlock()
		if ok {
			return true
		}
	}
	for _, b := range others {
		if b.meta.MinStart <= p.end+slack && p.start <= b.meta.MaxStart+slack && b.bloom.has(p.id) {
			return true
		}
	}
	return false
}

// worth marks, per input, the traces (by index of their summary) that have a span which is slow for its service and operation (above the 99th
// percentile of the blocks that are thinned together), of a rare operation, on a rare edge, or marked to be kept.
func (m *merger) worth() ([]bits, error) {
	var (
		ops, edges    = newTally(), newTally()
		spans         = make([]spanWorth, 0, len(m.in))
		marked, rares = make([]bits, len(m.in)), make([]bits, len(m.in))
	)
	for i, in := range m.in {
		s, err := in.spanWorth(ops, edges)
		if err := m.fault(in.b, err); err != nil {
			return nil, err
		}
		spans = append(spans, s)
		marked[i], rares[i] = newBits(len(in.parts), false), newBits(len(in.parts), false)
		if err := m.pace.step(); err != nil {
			return nil, err
		}
	}
	slow := ops.percentiles(spans)
	traces, rare := 0, 0
	for i, in := range m.in {
		s := &spans[i]
		for at, p := range in.parts {
			traces++
			for r := p.row; r < p.row+p.spans; r++ {
				if s.keep.has(r) || s.duration[r] > slow[s.op[r]] {
					marked[i].set(at)
				}
				if ops.count[s.op[r]] < rareSpans || s.edge[r] >= 0 && edges.count[s.edge[r]] < rareSpans {
					rares[i].set(at)
				}
			}
			if rares[i].has(at) {
				rare++
			}
		}
	}
	if float64(rare) <= mostRare*float64(traces) {
		for i := range marked {
			for k, w := range rares[i] {
				marked[i][k] |= w
			}
		}
	}
	return marked, nil
}

// tally counts spans by a pair of names.
type tally struct {
	names map[string]int32
	pairs map[[2]int32]int32
	count []int
}

func newTally() *tally { return &tally{names: map[string]int32{}, pairs: map[[2]int32]int32{}} }

func (t *tally) name(b []byte) int32 {
	i, ok := t.names[string(b)]
	if !ok {
		i = int32(len(t.names)) //nolint:gosec // bounded by maxSpans
		t.names[string(b)] = i
	}
	return i
}

func (t *tally) add(a, b int32) int32 {
	k := [2]int32{a, b}
	i, ok := t.pairs[k]
	if !ok {
		i = int32(len(t.count)) //nolint:gosec // bounded by maxSpans
		t.pairs[k] = i
		t.count = append(t.count, 0)
	}
	t.count[i]++
	return i
}

// percentiles is the 99th percentile of duration of each pair; math.MaxUint64 where there are too few spans for one.
func (t *tally) percentiles(spans []spanWorth) []uint64 {
	all := make([][]uint64, len(t.count))
	for _, s := range spans {
		for r, op := range s.op {
			if t.count[op] >= slowSpans {
				all[op] = append(all[op], s.duration[r])
			}
		}
	}
	out := make([]uint64, len(t.count))
	for i, d := range all {
		out[i] = math.MaxUint64
		if n := len(d); n > 0 {
			slices.Sort(d)
			out[i] = d[(n*99+99)/100-1]
		}
	}
	return out
}

// spanWorth is, for each row of an input, what its worth is judged by.
type spanWorth struct {
	op, edge []int32 // in the tallies; edge is -1 for a span that names no two services
	duration []uint64
	keep     bits
}

func (in *input) spanWorth(ops, edges *tally) (spanWorth, error) {
	sc := schema()
	n := in.bf.meta.Spans
	whole := []rowRange{{0, n}}
	s := spanWorth{op: make([]int32, n), edge: make([]int32, n), duration: make([]uint64, n), keep: newBits(n, false)}
	services := make([]int32, len(in.bf.groups))
	for i, g := range in.bf.groups {
		services[i] = ops.name([]byte(g.service))
	}
	err := in.bf.scan(sc.resource, whole, func(row int, v []parquet.Value) error {
		if g := int(v[0].Int32()); g >= 0 && g < len(services) {
			s.op[row] = services[g]
		}
		return nil
	})
	if err == nil {
		err = in.bf.scan(sc.name, whole, func(row int, v []parquet.Value) error {
			s.op[row] = ops.add(s.op[row], ops.name(v[0].ByteArray()))
			return nil
		})
	}
	if err == nil {
		err = in.bf.scan(sc.duration, whole, func(row int, v []parquet.Value) error {
			s.duration[row] = uint64(max(0, v[0].Int64())) //nolint:gosec // not negative
			return nil
		})
	}
	for i := range s.edge {
		s.edge[i] = -1
	}
	from, to := columnByAttr[flow.AttrSourceService], columnByAttr[flow.AttrDestService]
	if both := uint64(1)<<from | 1<<to; err == nil && in.bf.meta.Cols&both == both {
		err = in.bf.scan(sc.cols[from], whole, func(row int, v []parquet.Value) error {
			if !v[0].IsNull() {
				s.edge[row] = edges.name(v[0].ByteArray())
			}
			return nil
		})
		if err == nil {
			err = in.bf.scan(sc.cols[to], whole, func(row int, v []parquet.Value) error {
				if v[0].IsNull() {
					s.edge[row] = -1
				} else if s.edge[row] >= 0 {
					s.edge[row] = edges.add(s.edge[row], edges.name(v[0].ByteArray()))
				}
				return nil
			})
		}
	}
	if err == nil && in.bf.meta.hasRest(keepAttr) {
		err = in.bf.attribute(&attrMatch{AttributeMatch: keepMatch, col: -1}, s.keep)
	}
	return s, err
}
