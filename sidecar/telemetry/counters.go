package telemetry

import (
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// other stands in place of names when a family has as many series as its budget allows.
const other = "other"

// A key is the attribute set of one family, as a value: comparable, so that the hot path looks a series up without building
// anything. fold replaces every open-ended name by other and keeps the closed vocabulary; folding twice changes nothing.
type key[K any] interface {
	comparable
	fold() K
}

// table is one family's series. Look-ups share a read lock; only the first observation of a series takes the write lock. Series are never
// removed: a cumulative count that vanished and came back would read as a reset.
type table[K key[K], V any] struct {
	recent atomic.Pointer[entry[K, V]] // the one that was asked for last, which is the next one's as a rule
	mu     sync.RWMutex
	m      map[K]*entry[K, V]
	limit  int // series at most, those under other not counted
	folded atomic.Uint64
}

// entry is one series of a table. Its key never changes.
type entry[K key[K], V any] struct {
	k K
	v V
}

func newTable[K key[K], V any](limit int) *table[K, V] {
	return &table[K, V]{m: make(map[K]*entry[K, V]), limit: limit}
}

func (t *table[K, V]) get(k K) *V {
	if s := t.recent.Load(); s != nil && s.k == k {
		return &s.v
	}
	t.mu.RLock()
	s := t.m[k]
	t.mu.RUnlock()
	if s == nil {
		s = t.add(k)
	}
	t.recent.Store(s)
	return &s.v
}

func (t *table[K, V]) add(k K) *entry[K, V] {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.m[k]; s != nil {
		return s
	}
	if len(t.m) >= t.limit {
		t.folded.Add(1)
		k = k.fold()
		if s := t.m[k]; s != nil {
			return s
		}
	}
	s := &entry[K, V]{k: k}
	t.m[k] = s
	return s
}

func (t *table[K, V]) each(f func(k K, v *V)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for k, s := range t.m {
		f(k, &s.v)
	}
}

// row is one series as it was at a collection.
type row[K, R any] struct {
	k K
	v R
}

// rows reads every series; what it does under the lock is as little as read does.
func rows[K key[K], V, R any](t *table[K, V], read func(v *V) R) []row[K, R] {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]row[K, R], 0, len(t.m))
	for k, s := range t.m {
		out = append(out, row[K, R]{k, read(&s.v)})
	}
	return out
}

// edge is what most families are keyed by.
type edge struct {
	side                flow.Side
	protocol            flow.Protocol
	source, destination string
}

func (e edge) fold() edge {
	e.source, e.destination = other, other
	return e
}

func edgeOf(r *flow.Record) edge {
	return edge{r.Side, r.Protocol, r.Source.Service, r.Destination.Service}
}

type exchangeKey struct {
	edge
	class           flow.CodeClass
	grpc            flow.GRPCStatus // decides class where there is one
	reason          flow.Reason
	answered, probe bool
	port            uint16 // server side: of the workload's, which was called
}

func (k exchangeKey) fold() exchangeKey { k.edge = k.edge.fold(); return k }

type durationKey struct {
	edge
	class flow.CodeClass
	port  uint16 // as of exchangeKey
}

func (k durationKey) fold() durationKey { k.edge = k.edge.fold(); return k }

type connectionKey struct {
	edge
	reason flow.Reason
}

func (k connectionKey) fold() connectionKey { k.edge = k.edge.fold(); return k }

// endpointName is an endpoint's address, or other.
type endpointName struct {
	addr  netip.AddrPort
	other bool
}

func (e endpointName) String() string {
	switch {
	case e.other:
		return other
	case e.addr.IsValid():
		return e.addr.String()
	}
	return ""
}

type attemptKey struct {
	source, destination string
	protocol            flow.Protocol
	endpoint            endpointName
	class               flow.CodeClass
	grpc                flow.GRPCStatus
	reason              flow.Reason
	delivered, probe    bool
}

func (k attemptKey) fold() attemptKey {
	k.source, k.destination, k.endpoint = other, other, endpointName{other: true}
	return k
}

type endpointKey struct {
	destination string
	endpoint    endpointName
}

func (endpointKey) fold() endpointKey { return endpointKey{other, endpointName{other: true}} }

type destinationKey string

func (destinationKey) fold() destinationKey { return other }

type routeKey struct{ destination, route string }

func (routeKey) fold() routeKey { return routeKey{other, other} }

type versionKey struct {
	side                         flow.Side
	source, destination, version string
	class                        flow.CodeClass
}

func (k versionKey) fold() versionKey {
	k.source, k.destination, k.version = other, other, other
	return k
}

type mirrorKey struct {
	side                flow.Side
	source, destination string
	class               flow.CodeClass
}

func (k mirrorKey) fold() mirrorKey {
	k.source, k.destination = other, other
	return k
}

type activeKey flow.ActiveKey

func (k activeKey) fold() activeKey { k.Source, k.Destination = other, other; return k }

type counter struct{ atomic.Uint64 }

type gauge struct{ atomic.Int64 }

type volume struct{ in, out atomic.Uint64 }

func (v *volume) add(in, out uint64) {
	v.in.Add(in)
	v.out.Add(out)
}

// examples keeps the exemplars of one series since the last export: at most two.
type examples struct {
	worst, latest flow.Exemplar
}

func (e *examples) take() (out []flow.Exemplar) {
	if !e.worst.Trace.IsZero() {
		out = append(out, e.worst)
	}
	if !e.latest.Trace.IsZero() && e.latest.Trace != e.worst.Trace {
		out = append(out, e.latest)
	}
	*e = examples{}
	return out
}

func (e *examples) slow(x flow.Exemplar) {
	if !x.Trace.IsZero() && (e.worst.Trace.IsZero() || x.Value > e.worst.Value) {
		e.worst = x
	}
}

func exemplarOf(r *flow.Record) flow.Exemplar {
	return flow.Exemplar{Time: r.Start.Add(r.Duration), Value: r.Duration, Trace: r.Trace.TraceID, Span: r.Trace.SpanID}
}

// attempts counts; its exemplars are of failed attempts only: the slowest and the last.
type attempts struct {
	counter
	mu sync.Mutex
	ex examples
}

func (a *attempts) failed(x flow.Exemplar) {
	a.mu.Lock()
	a.ex.slow(x)
	a.ex.latest = x
	a.mu.Unlock()
}

// latency is a histogram; its exemplars are the slowest and the last that failed for the export, and one per bucket for a scrape.
type latency struct {
	mu sync.Mutex
	h  flow.Histogram
	ex examples
	by *buckets // nil until the first exemplar
}

func (l *latency) observe(x flow.Exemplar, failed bool) {
	l.mu.Lock()
	l.h.Observe(x.Value)
	l.ex.slow(x)
	if failed {
		l.ex.latest = x
	}
	if l.by == nil {
		l.by = new(buckets)
	}
	l.by.offer(&x)
	l.mu.Unlock()
}

func (l *latency) histogram(d time.Duration) {
	l.mu.Lock()
	l.h.Observe(d)
	l.mu.Unlock()
}

// counters is the RED view of every Record since the boot, one table per metric of docs/format/record.md.
//
// What must stay true:
//  1. A subject is counted once, by its close Record, whatever happens to its span.
//  2. A collection is one cut: cut is held shared while a Record is counted in all its families and exclusively while they are read, so
//     families never disagree with each other about how many Records there were.
//  3. Every table is bounded; what does not fit is counted under other.
type counters struct {
	cut sync.RWMutex

	exchanges       *table[exchangeKey, counter]
	attempts        *table[attemptKey, attempts]
	duration        *table[durationKey, latency]
	attemptDuration *table[endpointKey, latency]
	routeDuration   *table[routeKey, latency]
	poolWait        *table[destinationKey, latency]
	versions        *table[versionKey, counter]
	mirrors         *table[mirrorKey, counter]
	bytes           *table[edge, volume]
	messages        *table[edge, volume]
	connections     *table[connectionKey, counter]
	active          *table[activeKey, gauge]
	breaks, kept    counter

	detections        *table[detectionKey, counter]
	detectionDuration *table[portKey, latency]

	live progress
}

// maxDetections bounds the series of detection further: ports are many where a whole mesh is redirected, and few of them are looked at.
const maxDetections = 2000

func newCounters(limit int) *counters {
	return &counters{
		exchanges:       newTable[exchangeKey, counter](limit),
		attempts:        newTable[attemptKey, attempts](limit),
		duration:        newTable[durationKey, latency](limit),
		attemptDuration: newTable[endpointKey, latency](limit),
		routeDuration:   newTable[routeKey, latency](limit),
		poolWait:        newTable[destinationKey, latency](limit),
		versions:        newTable[versionKey, counter](limit),
		mirrors:         newTable[mirrorKey, counter](limit),
		bytes:           newTable[edge, volume](limit),
		messages:        newTable[edge, volume](limit),
		connections:     newTable[connectionKey, counter](limit),
		active:          newTable[activeKey, gauge](limit),

		detections:        newTable[detectionKey, counter](min(limit, maxDetections)),
		detectionDuration: newTable[portKey, latency](min(limit, maxDetections)),

		live: progress{seen: make(map[flow.SpanID]amounts)},
	}
}

func (c *counters) count(r *flow.Record) {
	c.cut.RLock()
	defer c.cut.RUnlock()
	e := edgeOf(r)
	if r.Mirror {
		if r.Kind == flow.KindExchange && r.Phase == flow.PhaseClose {
			c.mirrors.get(mirrorKey{r.Side, e.source, e.destination, r.Class()}).Add(1)
		}
		return
	}
	if r.Phase == flow.PhaseProgress {
		if r.Kind != flow.KindAttempt {
			c.volume(e, r)
		}
		return
	}
	class := r.Class()
	switch r.Kind {
	case flow.KindExchange:
		x, failed := exemplarOf(r), r.Failed()
		port := uint16(0)
		if r.Side == flow.SideServer {
			port = r.Destination.Addr.Port()
		}
		c.exchanges.get(exchangeKey{e, class, r.GRPC, r.Reason, r.Answered, r.Probe, port}).Add(1)
		c.duration.get(durationKey{e, class, port}).observe(x, failed)
		if r.Destination.Version != "" {
			c.versions.get(versionKey{r.Side, e.source, e.destination, r.Destination.Version, class}).Add(1)
		}
		if r.Side == flow.SideServer {
			c.routeDuration.get(routeKey{e.destination, r.Route}).histogram(r.Duration)
		}
		c.volume(e, r)
	case flow.KindAttempt:
		endpoint := endpointName{addr: r.Endpoint}
		a := c.attempts.get(attemptKey{e.source, e.destination, e.protocol, endpoint, class, r.GRPC, r.Reason, r.Delivered, r.Probe})
		a.Add(1)
		if r.Failed() {
			a.failed(exemplarOf(r))
		}
		if r.Legs.Connected >= 0 {
			c.poolWait.get(destinationKey(e.destination)).histogram(max(r.Legs.Connected, r.Legs.Secured))
		}
		if r.Delivered {
			c.attemptDuration.get(endpointKey{e.destination, endpoint}).histogram(r.Duration)
		}
	case flow.KindConnection:
		c.connections.get(connectionKey{e, r.Reason}).Add(1)
		c.volume(e, r)
	}
}

func (c *counters) volume(e edge, r *flow.Record) {
	d := c.live.delta(r)
	if d.in|d.out != 0 {
		c.bytes.get(e).add(d.in, d.out)
	}
	if d.messagesIn|d.messagesOut != 0 {
		c.messages.get(e).add(d.messagesIn, d.messagesOut)
	}
}

// amounts are what a subject says of its volume.
type amounts struct{ in, out, messagesIn, messagesOut uint64 }

// beyond is a less b, nowhere below 0: what is cumulative does not fall, but the last Record before a close may have read a count later.
func (a amounts) beyond(b amounts) amounts {
	less := func(x, y uint64) uint64 { return x - min(x, y) }
	return amounts{less(a.in, b.in), less(a.out, b.out), less(a.messagesIn, b.messagesIn), less(a.messagesOut, b.messagesOut)}
}

func (a amounts) orMore(b amounts) amounts {
	return amounts{max(a.in, b.in), max(a.out, b.out), max(a.messagesIn, b.messagesIn), max(a.messagesOut, b.messagesOut)}
}

// progress turns the cumulative counts of long-lived subjects into differences, so that volume is counted as it flows. It knows only
// subjects that have emitted a progress Record and have not closed, at most maxLive; others are counted when they close.
type progress struct {
	mu   sync.Mutex
	any  atomic.Int64
	seen map[flow.SpanID]amounts
}

const maxLive = 1 << 16

func (p *progress) delta(r *flow.Record) amounts {
	now := amounts{r.BytesIn, r.BytesOut, r.MessagesIn, r.MessagesOut}
	closing := r.Phase == flow.PhaseClose
	if closing && p.any.Load() == 0 {
		return now
	}
	id := r.Trace.SpanID
	p.mu.Lock()
	defer p.mu.Unlock()
	was, known := p.seen[id]
	switch {
	case closing:
		delete(p.seen, id)
	case id.IsZero() || !known && len(p.seen) >= maxLive:
		return amounts{}
	default:
		p.seen[id] = now.orMore(was)
	}
	p.any.Store(int64(len(p.seen)))
	return now.beyond(was)
}

// reading is what one collection copied out: numbers and keys, nothing formatted yet.
type reading struct {
	exchanges       []row[exchangeKey, uint64]
	attempts        []row[attemptKey, attemptsRead]
	duration        []row[durationKey, latencyRead]
	attemptDuration []row[endpointKey, latencyRead]
	routeDuration   []row[routeKey, latencyRead]
	poolWait        []row[destinationKey, latencyRead]
	versions        []row[versionKey, uint64]
	mirrors         []row[mirrorKey, uint64]
	bytes, messages []row[edge, [2]uint64]
	connections     []row[connectionKey, uint64]
	active          []row[activeKey, int64]
	breaks, kept    uint64

	detections        []row[detectionKey, uint64]
	detectionDuration []row[portKey, latencyRead]
}

type attemptsRead struct {
	n  uint64
	ex []flow.Exemplar
}

type latencyRead struct {
	h  flow.Histogram
	ex []flow.Exemplar
}

// purpose is what a collection is for.
type purpose uint8

const (
	forText        purpose = iota // /metrics in the old format, which has no exemplars
	forOpenMetrics                // /metrics with one exemplar per bucket
	forExport                     // OTLP; its exemplars are handed out and forgotten
)

// read takes the cut; the data path waits for it, so nothing is formatted here.
func (c *counters) read(why purpose) (r reading) {
	count := func(v *counter) uint64 { return v.Load() }
	histogram := func(v *latency) (l latencyRead) {
		l.h = v.h.Clone()
		switch {
		case why == forExport:
			l.ex = v.ex.take()
		case why == forOpenMetrics && v.by != nil:
			l.ex = v.by.all()
		}
		return l
	}
	c.cut.Lock()
	defer c.cut.Unlock()
	r.exchanges = rows(c.exchanges, count)
	r.attempts = rows(c.attempts, func(v *attempts) (a attemptsRead) {
		a.n = v.Load()
		if why == forExport {
			a.ex = v.ex.take()
		}
		return a
	})
	r.duration = rows(c.duration, histogram)
	r.attemptDuration = rows(c.attemptDuration, histogram)
	r.routeDuration = rows(c.routeDuration, histogram)
	r.poolWait = rows(c.poolWait, histogram)
	r.versions = rows(c.versions, count)
	r.mirrors = rows(c.mirrors, count)
	both := func(v *volume) [2]uint64 { return [2]uint64{v.in.Load(), v.out.Load()} }
	r.bytes, r.messages = rows(c.bytes, both), rows(c.messages, both)
	r.connections = rows(c.connections, count)
	r.active = rows(c.active, func(v *gauge) int64 { return v.Load() })
	r.breaks, r.kept = c.breaks.Load(), c.kept.Load()
	r.detections, r.detectionDuration = rows(c.detections, count), rows(c.detectionDuration, histogram)
	return r
}

// collect reads every family, ready to be encoded.
func (c *counters) collect(workload string, why purpose) []flow.Family {
	r := c.read(why)
	text := flow.Text
	families := []flow.Family{
		family(flow.MetricExchanges, "{exchange}", flow.MetricSum, r.exchanges, func(k exchangeKey, n uint64) flow.Point {
			return flow.Point{Value: int64(n), Attrs: withPort(append(k.attrs(6), class(k.class), grpcStatus(k.grpc), reason(k.reason),
				flow.Flag(flow.AttrAnswered, k.answered), flow.Flag(flow.AttrProbe, k.probe)), k.port)}
		}),
		family(flow.MetricAttempts, "{attempt}", flow.MetricSum, r.attempts, func(k attemptKey, a attemptsRead) flow.Point {
			return flow.Point{Value: int64(a.n), Exemplars: a.ex, Attrs: []flow.Attr{
				text(flow.AttrSourceService, k.source), text(flow.AttrDestService, k.destination),
				text(flow.AttrProtocol, k.protocol.String()), text(flow.AttrEndpoint, k.endpoint.String()), class(k.class), grpcStatus(k.grpc), reason(k.reason),
				flow.Flag(flow.AttrDelivered, k.delivered), flow.Flag(flow.AttrProbe, k.probe),
			}}
		}),
		family(flow.MetricExchangeDuration, "s", flow.MetricHistogram, r.duration, func(k durationKey, l latencyRead) flow.Point {
			return flow.Point{Histogram: &l.h, Exemplars: l.ex, Attrs: withPort(append(k.attrs(2), class(k.class)), k.port)}
		}),
		family(flow.MetricAttemptDuration, "s", flow.MetricHistogram, r.attemptDuration, func(k endpointKey, l latencyRead) flow.Point {
			return flow.Point{Histogram: &l.h, Exemplars: l.ex, Attrs: []flow.Attr{
				text(flow.AttrDestService, k.destination), text(flow.AttrEndpoint, k.endpoint.String()),
			}}
		}),
		family(flow.MetricRouteDuration, "s", flow.MetricHistogram, r.routeDuration, func(k routeKey, l latencyRead) flow.Point {
			return flow.Point{Histogram: &l.h, Exemplars: l.ex, Attrs: []flow.Attr{
				text(flow.AttrDestService, k.destination), text(flow.AttrRoute, k.route),
			}}
		}),
		family(flow.MetricPoolWait, "s", flow.MetricHistogram, r.poolWait, func(k destinationKey, l latencyRead) flow.Point {
			return flow.Point{Histogram: &l.h, Attrs: []flow.Attr{text(flow.AttrDestService, string(k))}}
		}),
		family(flow.MetricVersions, "{exchange}", flow.MetricSum, r.versions, func(k versionKey, n uint64) flow.Point {
			return flow.Point{Value: int64(n), Attrs: []flow.Attr{
				text(flow.AttrSide, k.side.String()), text(flow.AttrSourceService, k.source),
				text(flow.AttrDestService, k.destination), text(flow.AttrDestVersion, k.version), class(k.class),
			}}
		}),
		family(flow.MetricMirrors, "{exchange}", flow.MetricSum, r.mirrors, func(k mirrorKey, n uint64) flow.Point {
			return flow.Point{Value: int64(n), Attrs: []flow.Attr{
				text(flow.AttrSide, k.side.String()), text(flow.AttrSourceService, k.source), text(flow.AttrDestService, k.destination), class(k.class),
			}}
		}),
		family(flow.MetricConnections, "{connection}", flow.MetricSum, r.connections, func(k connectionKey, n uint64) flow.Point {
			return flow.Point{Value: int64(n), Attrs: append(k.attrs(1), reason(k.reason))}
		}),
		family(flow.MetricActive, "", flow.MetricGauge, r.active, func(k activeKey, n int64) flow.Point {
			e := edge{k.Side, k.Protocol, k.Source, k.Destination}
			return flow.Point{Value: n, Attrs: append(e.attrs(1), text(flow.AttrKind, k.Kind.String()))}
		}),
	}
	families = append(families, r.detected()...)
	families = append(families, directed(flow.MetricBytes, "By", r.bytes), directed(flow.MetricMessages, "{message}", r.messages))
	if r.breaks+r.kept > 0 {
		source := []flow.Attr{text(flow.AttrSourceService, workload)}
		families = append(families,
			flow.Family{Name: flow.MetricTraceBreaks, Unit: "{exchange}", Points: []flow.Point{{Attrs: source, Value: int64(r.breaks)}}},
			flow.Family{Name: flow.MetricTraceKept, Unit: "{exchange}", Points: []flow.Point{{Attrs: source, Value: int64(r.kept)}}})
	}
	return families
}

func family[K, R any](name, unit string, typ flow.MetricType, rows []row[K, R], point func(K, R) flow.Point) flow.Family {
	f := flow.Family{Name: name, Unit: unit, Type: typ, Points: make([]flow.Point, len(rows))}
	for i := range rows {
		f.Points[i] = point(rows[i].k, rows[i].v)
	}
	return f
}

// directed is a family of which each row makes two points.
func directed(name, unit string, rows []row[edge, [2]uint64]) flow.Family {
	f := flow.Family{Name: name, Unit: unit, Points: make([]flow.Point, 0, 2*len(rows))}
	for _, r := range rows {
		for i, direction := range [...]string{"in", "out"} {
			f.Points = append(f.Points, flow.Point{Value: int64(r.v[i]), Attrs: append(r.k.attrs(1), flow.Text(flow.AttrDirection, direction))})
		}
	}
	return f
}

func (e edge) attrs(more int) []flow.Attr {
	return append(make([]flow.Attr, 0, 4+more),
		flow.Text(flow.AttrSide, e.side.String()), flow.Text(flow.AttrSourceService, e.source),
		flow.Text(flow.AttrDestService, e.destination), flow.Text(flow.AttrProtocol, e.protocol.String()))
}

// withPort adds the port of the reporter that was called, where there is one.
func withPort(attrs []flow.Attr, port uint16) []flow.Attr {
	if port == 0 {
		return attrs
	}
	return append(attrs, flow.Text(flow.AttrPort, strconv.Itoa(int(port))))
}

func class(c flow.CodeClass) flow.Attr       { return flow.Text(flow.AttrCodeClass, c.String()) }
func reason(r flow.Reason) flow.Attr         { return flow.Text(flow.AttrReason, r.String()) }
func grpcStatus(s flow.GRPCStatus) flow.Attr { return flow.Text(flow.AttrGRPC, s.String()) }

// folded lists, by metric name, how often a new series did not fit its family's budget.
func (c *counters) folded() map[string]uint64 {
	return map[string]uint64{
		flow.MetricExchanges:        c.exchanges.folded.Load(),
		flow.MetricAttempts:         c.attempts.folded.Load(),
		flow.MetricExchangeDuration: c.duration.folded.Load(),
		flow.MetricAttemptDuration:  c.attemptDuration.folded.Load(),
		flow.MetricRouteDuration:    c.routeDuration.folded.Load(),
		flow.MetricPoolWait:         c.poolWait.folded.Load(),
		flow.MetricVersions:         c.versions.folded.Load(),
		flow.MetricMirrors:          c.mirrors.folded.Load(),
		flow.MetricBytes:            c.bytes.folded.Load(),
		flow.MetricMessages:         c.messages.folded.Load(),
		flow.MetricConnections:      c.connections.folded.Load(),
		flow.MetricActive:           c.active.folded.Load(),

		flow.MetricDetections:        c.detections.folded.Load(),
		flow.MetricDetectionDuration: c.detectionDuration.folded.Load(),
	}
}
