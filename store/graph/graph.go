package graph

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/metric"
)

// Config is what a Graph needs. Zero fields mean the default named beside them.
type Config struct {
	// DB takes the edge series, and At reads them; nil keeps no past.
	DB *metric.DB
	// Dir is where frames are kept (docs/format/graph.md), from which At draws the past faster than from DB; empty keeps none. What it holds can be deleted
	// at any time.
	Dir string
	// FrameBytes bounds what is in Dir, the oldest hour gives way; default 256 MiB.
	FrameBytes int64
	// Registry yields the workloads and overrides known to the controller; nil before the first. The message is not changed by anybody.
	// Without a registry no reporter is known, so nothing is accepted; because exports are cumulative, nothing is lost by that.
	Registry func() *tullev1.Registry
	// OnEvent is told what the graph notices (reporters that vanish, skewed clocks, broken traces). It is called without a lock held, in
	// order, and must not block for long; nil discards.
	OnEvent func(event.Event)
	// Now is the observer's clock; default time.Now.
	Now        func() time.Time
	Logger     *slog.Logger
	Registerer prometheus.Registerer // the graph's own metrics; default none

	Window     time.Duration // live window; default 10 s, whole seconds, at most 20 s
	SealAfter  time.Duration // a one-second slot is sealed when every reporter has reported it, at the latest this long after its end; default 2 s, at most 5 s
	SilentFor  time.Duration // a reporter silent for this long is missing; default 5 s
	WriteEvery time.Duration // how often series are written to DB, histograms every second time; default 5 s
	ForgetIdle time.Duration // edges without traffic and reporters that are gone are forgotten after this; default 10 min
}

func (c Config) withDefaults() (Config, error) {
	if c.Registry == nil {
		return c, errors.New("graph: Config.Registry is missing; without it no reporter can be trusted")
	}
	if c.FrameBytes <= 0 {
		c.FrameBytes = 256 << 20
	}
	if c.OnEvent == nil {
		c.OnEvent = func(event.Event) {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		field      *time.Duration
		name       string
		def, limit time.Duration
	}{
		{&c.Window, "Window", 10 * time.Second, 20 * time.Second},
		{&c.SealAfter, "SealAfter", 2 * time.Second, 5 * time.Second},
		{&c.SilentFor, "SilentFor", 5 * time.Second, time.Hour},
		{&c.WriteEvery, "WriteEvery", 5 * time.Second, time.Minute},
		{&c.ForgetIdle, "ForgetIdle", 10 * time.Minute, 24 * time.Hour},
	} {
		if *d.field == 0 {
			*d.field = d.def
		}
		if *d.field < time.Second || *d.field > d.limit || *d.field%time.Second != 0 {
			return c, fmt.Errorf("graph: %s is %s; it must be whole seconds between 1s and %s", d.name, *d.field, d.limit)
		}
	}
	return c, nil
}

// keepSlots is how many sealed seconds are kept, so how late data may come and still amend the live window.
const keepSlots = 32

// Graph is the live topology. All exported methods are safe for concurrent use.
//
// An export of a sidecar goes through these steps, in ingest.go:
//
//  1. Is the reporter who the registry says? Otherwise it is rejected and counted.
//  2. Which boot, which sequence? A repeated export is ignored; a jump in the sequence leaves a hole, which makes the seconds concerned not
//     contiguous although no count is lost, because counts are cumulative.
//  3. Which observer time? The sidecar's clock plus the offset measured on its exports. The difference to the export before is spread evenly over
//     that time, second by second (slots), without losing or inventing a count.
//  4. Is the reporter a party to the edge? A point about others is rejected and counted.
//
// What must stay true:
//
//   - Totals and series equal the sum of accepted differences exactly; slots are only a view of when.
//   - A slot is sealed once, in order. What arrives for it later changes it, and the edge says Amended.
//   - A gap between the two sides is computed only when both are contiguous over the whole window.
//   - State of a reporter is keyed by its proven identity, so that no reporter can change what another one said.
type Graph struct {
	cfg Config
	tel *telemetry

	live   atomic.Pointer[Snapshot]
	opened time.Time

	// Of the goroutine that ticks.
	writer    *metric.Writer
	durations *metric.Writer // of histograms
	passed    bool           // they were passed over by the last write
	frames    *frames        // nil: none are kept

	eventMu sync.Mutex // serializes OnEvent, so that events arrive in order

	mu             sync.Mutex
	x              *index
	slots          map[int64]*slot
	frameSum       *slot          // room for frameLocked
	frameLate      map[int64]bool // ends of frames that late exports have changed
	framed         int64          // the second where the newest frame ends
	sealed         int64          // slots with a smaller sec are sealed
	rolling        *slot          // the sum of the slots of the live window, see rollLocked
	rolled         span           // of which seconds
	sequence       uint64
	reporters      map[reporterKey]*reporter
	departed       map[[2]string]bool // service, instance: reporters that vanished and have been forgotten since; Totals still name them
	edges          map[edgeKey]*edge
	byID           []*edge              // the same
	order          []*edge              // the same, as compareEdges sorts them; nil when one has come since
	spare          []*slot              // forgotten ones, to be used again
	protocols      map[[2]string]string // source, destination → protocol of that pair
	traces         map[string]*propagation
	reflexes       map[reflexKey]reflex // endpoints that sidecars have ejected by themselves: what was told of them last
	counters       map[series]*counter
	counted        []*counter // the same
	hists          map[series]*summed
	summed         []*summed // the same
	dueCounts      []*last   // whose differences the counters lack, see last.settle
	dueHists       []*last
	scratch        scratch
	parts          []part       // room for spreadLocked
	wire           []wireMetric // room for sortMetrics
	noted          []noted      // exemplars that wait for the next write
	notedDurations []noted      // of histograms
	events         []event.Event
	written        time.Time
	snapshots      map[chan *Snapshot]struct{}
	observers      map[chan *tullev1.Observed]struct{}
}

// scratch is room for what one point needs while it is counted.
type scratch struct{ read, difference, part hist }

// edge is what is remembered of an edge beyond the window.
type edge struct {
	id     int // from 0 in the order of their coming
	key    edgeKey
	name   string    // key.id()
	active time.Time // last traffic
	totals Totals
}

// propagation is how well one service hands traces on, over the last five to ten minutes.
type propagation struct {
	since            time.Time
	broken, kept     uint64
	oldBroken, oldOK uint64
	told             bool
}

const (
	propagationSpan = 5 * time.Minute
	breaksEnough    = 50  // requests before an event says anything
	breaksShare     = 0.9 // of which this share is broken
)

// Open returns a Graph that knows nothing yet. Run drives it.
func Open(cfg Config) (*Graph, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	g := &Graph{
		cfg: cfg, tel: newTelemetry(cfg.Registerer), opened: cfg.Now(),
		x: newIndex(&tullev1.Registry{}), slots: map[int64]*slot{}, reporters: map[reporterKey]*reporter{}, departed: map[[2]string]bool{}, edges: map[edgeKey]*edge{}, protocols: map[[2]string]string{},
		traces: map[string]*propagation{}, reflexes: map[reflexKey]reflex{}, counters: map[series]*counter{}, hists: map[series]*summed{},
		snapshots: map[chan *Snapshot]struct{}{}, observers: map[chan *tullev1.Observed]struct{}{},
	}
	g.sealed = g.sealTarget(g.opened)
	g.written = g.opened
	if cfg.DB != nil {
		g.writer, g.durations, g.passed = cfg.DB.NewWriter(), cfg.DB.NewWriter(), true
	}
	if cfg.Dir != "" {
		if g.frames, err = openFrames(cfg.Dir, cfg.FrameBytes); err != nil {
			return nil, err
		}
		g.framed, g.frameSum, g.frameLate = frameBefore(g.sealed+frameSeconds), newSlot(0), map[int64]bool{} // what was before is another process's
	}
	g.live.Store(&Snapshot{At: g.opened, Window: cfg.Window, Nodes: []Node{}, Edges: []Edge{}})
	return g, nil
}

// tickPhase is how long after a whole second Run ticks: sidecars report at whole seconds, so the second before is complete by then as a rule.
const tickPhase = 300 * time.Millisecond

// untilTick is the time from now to the next tick.
func untilTick(now time.Time) time.Duration {
	return now.Add(-tickPhase).Truncate(time.Second).Add(time.Second + tickPhase).Sub(now)
}

// Run ticks once a second until ctx is done, then writes the series a last time.
func (g *Graph) Run(ctx context.Context, ready func()) error {
	t := time.NewTimer(untilTick(time.Now()))
	defer t.Stop()
	ready()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return errors.Join(g.write(last, g.cfg.Now(), true), g.frames.close())
		case <-t.C:
			g.Tick(ctx, g.cfg.Now())
			t.Reset(untilTick(time.Now()))
		}
	}
}

// completeLocked reports whether every reporter that is there has reported slot n whole, so that waiting longer would change nothing.
func (g *Graph) completeLocked(n int64) bool {
	from := n * int64(time.Second)
	for _, r := range g.reporters {
		if r.missing {
			continue
		}
		if _, known := r.whole(from, from+int64(time.Second)); !known {
			return false
		}
	}
	return len(g.reporters) > 0
}

// sealTarget is the number of the first slot that is still open at now.
func (g *Graph) sealTarget(now time.Time) int64 {
	return floorDiv(now.Add(-g.cfg.SealAfter).UnixNano(), int64(time.Second))
}

// Tick does what is due at now: notices silent reporters, seals slots, publishes a snapshot and observations, writes series. Run calls it
// once a second; tests call it themselves.
func (g *Graph) Tick(ctx context.Context, now time.Time) {
	g.mu.Lock()
	g.indexLocked()
	g.silentLocked(now)
	target := g.sealTarget(now)
	if skip := target - keepSlots; g.sealed < skip {
		g.sealed = skip // the observer slept; what it missed is in no window
	}
	ended := floorDiv(now.UnixNano(), int64(time.Second)) // the slot that is not over yet
	for ; g.sealed < target || g.sealed < ended && g.completeLocked(g.sealed); g.sealed++ {
		g.observeLocked(now, g.slots[g.sealed])
	}
	g.forgetLocked(now)
	g.sequence++
	snap := g.snapshotLocked(now)
	g.live.Store(snap)
	for ch := range g.snapshots {
		offerLatest(ch, snap)
	}
	due := g.writer != nil && now.Sub(g.written) >= g.cfg.WriteEvery
	frames := g.framesLocked(now)
	g.mu.Unlock()
	g.tellEvents()
	for _, end := range slices.Sorted(maps.Keys(frames)) {
		if err := g.frames.append(end, compress(frames[end])); err != nil {
			g.cfg.Logger.Warn("a frame of the graph's past could not be written; that time is drawn from series, which takes longer", "err", err)
		}
	}
	if due {
		if err := g.write(ctx, now, false); err != nil {
			g.cfg.Logger.Warn("edge series could not be written; the next attempt writes them", "err", err)
			g.tel.writeErrors.Inc()
		}
	}
}

// Live is the newest snapshot, never nil. It is shared: do not change it.
func (g *Graph) Live() *Snapshot { return g.live.Load() }

// Subscribe delivers the newest snapshot, once a second, until ctx is done; then the channel is closed. A slow reader misses snapshots and
// gets the latest.
func (g *Graph) Subscribe(ctx context.Context) <-chan *Snapshot {
	ch := make(chan *Snapshot, 1)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.snapshots[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.snapshots, ch)
		close(ch)
	})
	return ch
}

// Observations delivers every sealed one-second window from now on, contiguous and in order, until ctx is done; then the channel is closed. A
// reader more than 64 windows behind misses the oldest (tulle_graph_observations_dropped_total).
func (g *Graph) Observations(ctx context.Context) <-chan *tullev1.Observed {
	ch := make(chan *tullev1.Observed, 64)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.observers[ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.observers, ch)
		close(ch)
	})
	return ch
}

// offerLatest puts v into ch in place of what waits there; it reports whether something was displaced. The one sender holds g.mu.
func offerLatest[T any](ch chan T, v T) (displaced bool) {
	for {
		select {
		case ch <- v:
			return displaced
		default:
		}
		select {
		case <-ch:
			displaced = true
		default:
		}
	}
}

// Totals are the exact cumulative counts of every edge known since Open, sorted by source, destination, protocol.
func (g *Graph) Totals() []Totals {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.indexLocked()
	var out []Totals
	for _, e := range g.orderLocked() {
		k, t := e.key, e.totals
		t.Source, t.Destination, t.Protocol = k.source, k.destination, k.protocol
		t.NeverDelivered, t.ServerUnanswered = maps.Clone(t.NeverDelivered), maps.Clone(t.ServerUnanswered)
		for _, r := range g.reporters {
			if (r.service == k.source || r.service == k.destination) && (r.missing || len(r.lost) > 0) {
				t.MissingReporters = append(t.MissingReporters, r.key.instance)
			}
		}
		for d := range g.departed {
			if d[0] == k.source || d[0] == k.destination {
				t.MissingReporters = append(t.MissingReporters, d[1])
			}
		}
		slices.Sort(t.MissingReporters)
		t.MissingReporters = slices.Compact(t.MissingReporters)
		t.State = stateOf(x, k, len(t.MissingReporters) > 0)
		out = append(out, t)
	}
	return out
}

func (e *edge) countExchanges(p *point, d uint64) {
	switch {
	case p.side == flow.SideClient:
		e.totals.ClientExchanges += d
	case p.answered:
		e.totals.ServerExchanges += d
		e.totals.ServerAnswered += d
	default:
		e.totals.ServerExchanges += d
		e.totals.ServerUnanswered = addReason(e.totals.ServerUnanswered, reasonOrNone(p.reason), d)
	}
}

func (e *edge) countAttempts(p *point, d uint64) {
	e.totals.ClientAttempts += d
	if !p.delivered {
		e.totals.NeverDelivered = addReason(e.totals.NeverDelivered, reasonOrNone(p.reason), d)
	}
}

func reasonOrNone(r string) string {
	if r == "" {
		return "none"
	}
	return r
}

// stateOf says which reporters an edge can rest on.
func stateOf(x *index, k edgeKey, missing bool) EdgeState {
	switch {
	case missing:
		return ReporterMissing
	case k.source == unmeshed:
		return ServerOnly
	case !x.meshed(k.destination):
		return ClientOnly
	default:
		return BothSides
	}
}

// indexLocked is the index of the registry in force.
func (g *Graph) indexLocked() *index {
	if r := g.cfg.Registry(); r != nil && r != g.x.from {
		g.x = newIndex(r)
	}
	return g.x
}

// strangersLocked counts the reporters that the registry does not list by instance.
func (g *Graph) strangersLocked(x *index) (n int) {
	for k := range g.reporters {
		if x.instance[k.instance] == nil {
			n++
		}
	}
	return n
}

func (g *Graph) reporterLocked(now time.Time, k reporterKey) *reporter {
	r := g.reporters[k]
	if r == nil {
		r = &reporter{key: k, seen: now}
		g.reporters[k] = r
	}
	return r
}

// bootLocked finds or begins the boot; nil for one that was replaced long ago. predecessor is the boot that handed over to it, if any.
func (g *Graph) bootLocked(now time.Time, r *reporter, id, predecessor string) *boot {
	for _, b := range r.boots() {
		if b.id == id {
			return b
		}
	}
	if slices.Contains(r.buried, id) {
		return nil
	}
	old := r.boot
	r.replace(&boot{id: id, series: map[uint64]*last{}, active: map[activeKey]int64{}, gauges: map[series]int64{}})
	switch {
	case old == nil:
	case old.goodbye:
		old.active = map[activeKey]int64{}
	case old.id == predecessor && !r.missing:
		old.handed = true // and goes on: what it carries drains
	default:
		told := r.missing
		g.lostLocked(now, r, old)
		if !told {
			g.eventLocked(event.Event{
				Time: now, Kind: event.KindReporterLost, Severity: "warning", Service: r.service, Instance: r.key.instance,
				Reason: flow.ReasonReporterLost.String(),
				Message: fmt.Sprintf("The sidecar of %s restarted without saying goodbye; what it saw in its last moments is not known, so its edges say \"reporter missing\" for that time.",
					r.key.instance),
				Evidence: map[string]string{"old boot": old.id, "new boot": id, "last sequence": fmt.Sprint(old.sequence)},
			})
		}
	}
	r.missing, r.skewTold = false, false
	return r.boot
}

// lostLocked notes that an older boot died without goodbye.
func (g *Graph) lostLocked(now time.Time, r *reporter, b *boot) {
	r.gone = append(r.gone, interval{b.covered, now.UnixNano()})
	r.lost = append(r.lost, b.id)
	b.handed, b.active = false, map[activeKey]int64{}
}

// silentLocked notices reporters that vanished.
func (g *Graph) silentLocked(now time.Time) {
	for _, r := range g.sortedReportersLocked() {
		for _, b := range r.older {
			if !b.handed || b.goodbye || now.Sub(b.seen) < g.cfg.SilentFor {
				continue
			}
			g.lostLocked(now, r, b)
			g.eventLocked(event.Event{
				Time: now, Kind: event.KindReporterLost, Severity: "warning", Service: r.service, Instance: r.key.instance,
				Reason: flow.ReasonReporterLost.String(),
				Message: fmt.Sprintf("The process that the sidecar of %s took over from ended without saying goodbye; what it saw in its last moments is not known.",
					r.key.instance),
				Evidence: map[string]string{"old boot": b.id, "new boot": r.boot.id, "last sequence": fmt.Sprint(b.sequence)},
			})
		}
		if r.missing || r.boot.goodbye || now.Sub(r.seen) < g.cfg.SilentFor {
			continue
		}
		r.missing = true
		g.eventLocked(event.Event{
			Time: now, Kind: event.KindReporterLost, Severity: "warning", Service: r.service, Instance: r.key.instance,
			Reason: flow.ReasonReporterLost.String(),
			Message: fmt.Sprintf("The sidecar of %s has not reported for %s and did not say goodbye; what happened since is not known. Check whether its process runs and reaches the observer.",
				r.key.instance, now.Sub(r.seen).Round(time.Second)),
			Evidence: map[string]string{"last seen": r.seen.UTC().Format(time.RFC3339Nano), "boot": r.boot.id, "last sequence": fmt.Sprint(r.boot.sequence)},
		})
	}
}

func (g *Graph) skewLocked(now time.Time, r *reporter, b *boot) {
	if r.skewTold || len(b.offsets) < 3 || b.offset > -skewLimit && b.offset < skewLimit {
		return
	}
	r.skewTold = true
	d, direction := time.Duration(b.offset), "behind"
	if d < 0 {
		d, direction = -d, "ahead of"
	}
	g.eventLocked(event.Event{
		Time: now, Kind: event.KindClock, Severity: "warning", Service: r.service, Instance: r.key.instance, Reason: "clock_offset",
		Message: fmt.Sprintf("The clock of %s is %s %s the observer's. Its counts are placed correctly all the same, but its spans carry its own times; set its clock.",
			r.key.instance, d.Round(time.Millisecond), direction),
		Evidence: map[string]string{"offset": time.Duration(b.offset).Round(time.Millisecond).String(), "measurements": fmt.Sprint(len(b.offsets))},
	})
}

// traceLocked counts how a service hands traces on, and says once when it does not.
func (g *Graph) traceLocked(now time.Time, service string, broken bool, d uint64) {
	t := g.traces[service]
	if t == nil {
		t = &propagation{since: now}
		g.traces[service] = t
	}
	if now.Sub(t.since) >= propagationSpan {
		t.since, t.oldBroken, t.oldOK, t.broken, t.kept = now, t.broken, t.kept, 0, 0
	}
	if broken {
		t.broken += d
	} else {
		t.kept += d
	}
	share, n := t.share()
	switch {
	case n >= breaksEnough && share >= breaksShare && !t.told:
		t.told = true
		g.eventLocked(event.Event{
			Time: now, Kind: event.KindTraceBreak, Severity: "warning", Service: service, Reason: "traceparent_dropped",
			Message: fmt.Sprintf("Service %s drops traceparent: of its last %d outgoing requests made while it handled a traced one, %.0f %% carried no trace context. Its traces end there; pass the header on.",
				service, n, share*100),
			Evidence: map[string]string{"requests": fmt.Sprint(n), "without trace context": fmt.Sprintf("%.0f %%", share*100)},
		})
	case n >= breaksEnough && share < breaksShare/2:
		t.told = false
	}
}

func (t *propagation) share() (share float64, n uint64) {
	b, k := t.broken+t.oldBroken, t.kept+t.oldOK
	if b+k == 0 {
		return 0, 0
	}
	return float64(b) / float64(b+k), b + k
}

// touchLocked finds or makes the edge and notes that it is in use.
func (g *Graph) touchLocked(now time.Time, k edgeKey) *edge {
	e := g.edges[k]
	if e == nil {
		e = &edge{id: len(g.byID), key: k, name: k.id()}
		g.edges[k] = e
		g.byID = append(g.byID, e)
		g.order = nil
		pair := [2]string{k.source, k.destination}
		if g.protocols[pair] == "" {
			g.protocols[pair] = k.protocol
		}
	}
	e.active = now
	return e
}

// orderLocked are all edges, sorted.
func (g *Graph) orderLocked() []*edge {
	if g.order == nil {
		g.order = slices.SortedFunc(maps.Values(g.edges), func(a, b *edge) int { return compareEdges(a.key, b.key) })
	}
	return g.order
}

// protocolLocked is the protocol of attempts of sidecars that do not say it yet: that of the exchanges between the two, else the service's.
func (g *Graph) protocolLocked(x *index, source, destination string) string {
	if p := g.protocols[[2]string{source, destination}]; p != "" {
		return p
	}
	if p := x.services[destination].GetProtocol(); p != "" {
		return p
	}
	return flow.ProtocolHTTP1.String()
}

// forgetLocked drops what is too old to be shown. Totals of an edge are kept as long as the process lives.
func (g *Graph) forgetLocked(now time.Time) {
	for sec, s := range g.slots {
		if sec < g.sealed-keepSlots {
			delete(g.slots, sec)
			if len(g.spare) < 4 {
				g.spare = append(g.spare, s)
			}
		}
	}
	for k, r := range g.reporters {
		if g.sealed%keepSlots == 0 {
			r.forgetPlaces(g.sealed - 2*keepSlots)
		}
		r.prune(now.Add(-2 * time.Minute).UnixNano())
		idle := now.Sub(r.seen)
		if idle >= g.cfg.ForgetIdle || r.boot.goodbye && idle >= time.Minute {
			if r.missing || len(r.lost) > 0 {
				g.departed[[2]string{r.service, r.key.instance}] = true
			}
			delete(g.reporters, k)
		}
	}
}

func (g *Graph) sortedReportersLocked() []*reporter {
	return slices.SortedFunc(maps.Values(g.reporters), func(a, b *reporter) int {
		return cmp.Or(cmp.Compare(a.key.instance, b.key.instance), cmp.Compare(a.key.identity, b.key.identity))
	})
}

// eventLocked queues an event for tellEvents.
func (g *Graph) eventLocked(e event.Event) {
	e.ID = event.NewID(e.Time)
	g.events = append(g.events, e)
}

// tellEvents hands queued events on, in order, without g.mu.
func (g *Graph) tellEvents() {
	g.eventMu.Lock()
	defer g.eventMu.Unlock()
	g.mu.Lock()
	events := g.events
	g.events = nil
	g.mu.Unlock()
	for _, e := range events {
		g.cfg.OnEvent(e)
	}
}

func (g *Graph) reject(reason string, points int) {
	g.tel.rejected.WithLabelValues(reason).Add(float64(points))
}
