package graph

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// ErrNoHistory is wrapped by At when no series of that time exist.
var ErrNoHistory = errors.New("graph: nothing is known of that time")

// pastWindow is what a historical snapshot covers: series have a resolution of WriteEvery.
const pastWindow = 30 * time.Second

// pastMetrics are the series a historical snapshot is drawn from.
var pastMetrics = []string{
	SeriesRequests, SeriesDuration, SeriesUnanswered, SeriesEdgeAttempts, SeriesAttempts, SeriesAttemptDuration, SeriesVersions, SeriesBytes, SeriesMessages,
	SeriesConnections, SeriesActive, SeriesTraces, SeriesReporterUp, SeriesClockOffset, SeriesEdgeMissing, SeriesEndpointEjected, SeriesEndpointWeight,
}

// At draws the graph as it was in the 30 s before t, or, from frames, before the last multiple of ten seconds before t; where there are no frames, from the
// series in DB. Names, kinds and namespaces are those of today's registry;
// exemplars and boot ids are not kept. The error wraps ErrNoHistory when nothing is known of that time.
func (g *Graph) At(ctx context.Context, t time.Time) (*Snapshot, error) {
	if w := g.frames.at(t); w != nil {
		g.mu.Lock()
		x := g.indexLocked()
		g.mu.Unlock()
		return w.draw(x), nil
	}
	if g.cfg.DB == nil {
		return nil, fmt.Errorf("%w: this observer keeps no series", ErrNoHistory)
	}
	from, lookback := t.Add(-pastWindow), 3*g.cfg.WriteEvery
	q, err := g.cfg.DB.Querier(from.Add(-lookback).UnixMilli(), t.UnixMilli())
	if err != nil {
		return nil, fmt.Errorf("graph: read the past: %w", err)
	}
	defer q.Close()
	g.mu.Lock()
	x := g.indexLocked()
	g.mu.Unlock()

	w := newWindow(t.UTC(), pastWindow)
	p := past{w: w, from: from.UnixMilli(), oldest: t.Add(-lookback).UnixMilli(), edges: map[edgeKey]*pastEdge{}, active: map[sideKey]int64{}, traces: map[string][2]float64{}, reporters: map[[2]string]*Reporter{}}
	for _, name := range pastMetrics {
		set := q.Select(ctx, false, nil, labels.MustNewMatcher(labels.MatchEqual, model.MetricNameLabel, name))
		for set.Next() {
			if err := p.read(name, set.At()); err != nil {
				return nil, fmt.Errorf("graph: read the past: %w", err)
			}
		}
		if err := set.Err(); err != nil {
			return nil, fmt.Errorf("graph: read the past: %w", err)
		}
	}
	if !p.any {
		return nil, fmt.Errorf("%w: %s", ErrNoHistory, t.UTC().Format(time.RFC3339))
	}
	for service, n := range p.traces {
		if n[0]+n[1] > 0 {
			w.breaks[service] = n[0] / (n[0] + n[1])
		}
	}
	for k, r := range p.reporters {
		w.reporters[k[0]] = append(w.reporters[k[0]], *r)
	}
	for _, rs := range w.reporters {
		slices.SortFunc(rs, func(a, b Reporter) int { return cmp.Compare(a.Instance, b.Instance) })
	}
	for _, e := range p.edges {
		if e.lost {
			for _, service := range []string{e.source, e.destination} {
				for _, r := range w.reporters[service] {
					if r.Missing {
						e.missing = append(e.missing, r.Instance)
					}
				}
			}
			if len(e.missing) == 0 {
				e.missing = []string{"unknown"} // it was there again before the end of the window
			}
			slices.Sort(e.missing)
		}
		e.known = e.client != nil && e.server != nil && !e.lost
		e.clients, e.servers = p.active[sideKey{e.edgeKey, flow.SideClient}], p.active[sideKey{e.edgeKey, flow.SideServer}]
		w.edges = append(w.edges, e.windowEdge)
	}
	slices.SortFunc(w.edges, func(a, b windowEdge) int { return compareEdges(a.edgeKey, b.edgeKey) })
	return w.draw(x), nil
}

// pastEdge is an edge that is put together from its series.
type pastEdge struct {
	windowEdge
	lost bool // a reporter was missing
}

func (p *past) edge(k edgeKey) *pastEdge {
	e := p.edges[k]
	if e == nil {
		e = &pastEdge{windowEdge: windowEdge{edgeKey: k, id: k.id()}}
		p.edges[k] = e
	}
	return e
}

func (p *past) cell(k edgeKey, side flow.Side) *cell {
	e := p.edge(k)
	c := &e.client
	if side == flow.SideServer {
		c = &e.server
	}
	if *c == nil {
		*c = &cell{}
	}
	return *c
}

type past struct {
	w         *window
	from      int64 // ms: increases are counted after it
	oldest    int64 // ms: an older last sample means that the series had ended
	any       bool
	edges     map[edgeKey]*pastEdge
	active    map[sideKey]int64
	traces    map[string][2]float64
	reporters map[[2]string]*Reporter
	it        chunkenc.Iterator
	next      *histogram.FloatHistogram // room to decode into
}

func (p *past) reporter(l labels.Labels) *Reporter {
	k := [2]string{l.Get("service"), l.Get("instance")}
	r := p.reporters[k]
	if r == nil {
		r = &Reporter{Instance: k[1]}
		p.reporters[k] = r
	}
	return r
}

// read adds one series to the window.
func (p *past) read(name string, s storage.Series) error {
	p.it = s.Iterator(p.it)
	sum, err := p.walk(p.it)
	if err != nil || !sum.live {
		return err
	}
	p.any = true
	l := s.Labels()
	key := edgeKey{l.Get("source"), l.Get("destination"), l.Get("protocol")}
	side, _ := flow.ParseSide(l.Get("side"))
	n := uint64(max(0, math.Round(sum.increase)))
	pt := point{class: l.Get("code_class"), reason: l.Get("reason"), probe: l.Get("probe") == "true"}
	switch name {
	case SeriesRequests:
		c := p.cell(key, side)
		c.requests += n
		switch {
		case pt.probe:
			c.probes += n
		case pt.failed():
			c.errors += n
		}
		c.reasons = addReason(c.reasons, pt.reason, n)
		c.grpc = addReason(c.grpc, l.Get("grpc_response_status"), n)
	case SeriesDuration:
		h := fromNative(sum.hist)
		p.cell(key, side).latency.add(&h)
	case SeriesUnanswered:
		p.cell(key, side).unanswered += n
	case SeriesEdgeAttempts:
		c := p.cell(key, flow.SideClient)
		c.attempts += n
		if l.Get("delivered") == "true" {
			c.delivered += n
		}
	case SeriesAttempts:
		c := p.w.endpoint(endpointID{l.Get("destination"), l.Get("endpoint")})
		if pt.probe {
			c.probes += n
			return nil
		}
		c.requests += n
		if pt.failed() {
			c.failures += n
		}
	case SeriesAttemptDuration:
		h := fromNative(sum.hist)
		p.w.endpoint(endpointID{l.Get("destination"), l.Get("endpoint")}).latency.add(&h)
	case SeriesVersions:
		k := versionKey{l.Get("destination"), l.Get("version"), side}
		v := p.w.versions[k]
		if v == nil {
			v = &versionCell{}
			p.w.versions[k] = v
		}
		v.requests += n
		if pt.failed() {
			v.errors += n
		}
	case SeriesBytes:
		c := p.cell(key, side)
		if l.Get("direction") == "in" {
			c.bytesIn += n
		} else {
			c.bytesOut += n
		}
	case SeriesMessages:
		c := p.cell(key, side)
		if l.Get("direction") == "in" {
			c.messagesIn += n
		} else {
			c.messagesOut += n
		}
	case SeriesConnections:
		c := p.cell(key, side)
		c.connections += n
		if pt.failed() {
			c.connErrors += n
		}
		c.reasons = addReason(c.reasons, pt.reason, n)
	case SeriesActive:
		if l.Get("kind") == flow.KindExchange.String() || relayed(key.protocol) {
			p.active[sideKey{key, side}] += int64(sum.last)
		}
	case SeriesTraces:
		t := p.traces[l.Get("service")]
		if l.Get("propagated") == "false" {
			t[0] += sum.increase
		} else {
			t[1] += sum.increase
		}
		p.traces[l.Get("service")] = t
	case SeriesReporterUp:
		r := p.reporter(l)
		r.Missing = sum.last == 0
		r.LastSeen = time.UnixMilli(sum.at).UTC()
	case SeriesClockOffset:
		p.reporter(l).ClockOffset = time.Duration(sum.last * float64(time.Second))
	case SeriesEdgeMissing:
		if sum.last > 0 {
			p.edge(key).lost = true
		}
	case SeriesEndpointEjected:
		if sum.last > 0 {
			p.w.states[endpointID{l.Get("service"), l.Get("endpoint")}] = endpointState{state: "ejected"}
		}
	case SeriesEndpointWeight:
		id := endpointID{l.Get("service"), l.Get("endpoint")}
		if _, ok := p.w.states[id]; !ok && sum.last < 1 {
			p.w.states[id] = endpointState{state: "weighted"}
		}
	}
	return nil
}

// walked is what a series did in the window.
type walked struct {
	live     bool // it had a value at the end of the window
	last     float64
	at       int64
	increase float64
	hist     *histogram.FloatHistogram // increase of a histogram
}

// walk adds up increases, taking a decrease for a restart from zero, as PromQL does; but a series that appears inside the window counts from
// zero, because the graph's counters begin there, and nothing is extrapolated. Of a histogram only the states before restarts and the last one are
// looked at whole.
func (p *past) walk(it chunkenc.Iterator) (walked, error) {
	var (
		w          walked
		prev       float64
		base, last *histogram.FloatHistogram // the state at the window's begin, or none after a restart; the newest
	)
	add := func() {
		if last == nil {
			return
		}
		d := last
		if base != nil {
			if diff, _, _, err := last.Sub(base); err == nil { // into last, which is not needed any more
				d = diff
			}
		}
		if w.hist == nil {
			w.hist = d.Copy()
		} else if sum, _, _, err := w.hist.Add(d); err == nil {
			w.hist = sum
		}
	}
	for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
		switch vt {
		case chunkenc.ValFloat:
			t, v := it.At()
			if value.IsStaleNaN(v) {
				w.live = false
				continue
			}
			if t > p.from {
				if v >= prev {
					w.increase += v - prev
				} else {
					w.increase += v
				}
			}
			prev = v
			w.last, w.at, w.live = v, t, true
		case chunkenc.ValHistogram, chunkenc.ValFloatHistogram:
			var t int64
			t, p.next = it.AtFloatHistogram(p.next)
			if value.IsStaleNaN(p.next.Sum) {
				w.live = false
				continue
			}
			if last != nil && (p.next.CounterResetHint == histogram.CounterReset || p.next.Count < last.Count) {
				if w.at > p.from {
					add()
				}
				base = nil
			} else if t > p.from && w.at <= p.from && last != nil {
				base = last.Copy()
			}
			p.next, last = last, p.next
			w.at, w.live = t, true
		}
	}
	if w.at > p.from {
		add()
	}
	p.next = nil // last may live on in it
	if w.at < p.oldest {
		w.live = false
	}
	if w.hist == nil {
		w.hist = &histogram.FloatHistogram{Schema: flow.HistogramScale, ZeroThreshold: 1e-9}
	}
	return w, it.Err()
}
