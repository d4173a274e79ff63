package graph

import (
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/event"
)

// point identifies one series of one boot: the metric and the attributes that metrics of sidecars have. Source is as on the wire, destination the name of a node.
type point struct {
	metric                        family
	side                          flow.Side
	source, destination, protocol string
	class, grpc, reason           string
	endpoint, route, version      string
	port                          string // of the reporter, that was called
	direction, kind, detail       string // detail: state, limit, family or outcome
	answered, delivered, probe    bool
}

var pointSeed = maphash.MakeSeed()

// hash is that of all fields but the three flags. Nobody outside can make more than the eight points meet that differ in these.
func (p *point) hash() uint64 {
	h := uint64(p.metric)<<8 | uint64(p.side)
	for _, s := range [...]*string{
		&p.source, &p.destination, &p.protocol, &p.class, &p.grpc, &p.reason, &p.endpoint, &p.route, &p.version, &p.port, &p.direction, &p.kind, &p.detail,
	} {
		if h = bits.RotateLeft64(h, 9) * 0x9e3779b97f4a7c15; *s != "" {
			h ^= maphash.String(pointSeed, *s)
		}
	}
	return h
}

func (p *point) failed() bool {
	if p.class == "5xx" {
		return true
	}
	r, ok := flow.ParseReason(p.reason)
	return p.reason != "" && (!ok || r.Failure())
}

func (p *point) edge() edgeKey {
	k := edgeKey{p.source, p.destination, p.protocol}
	if k.source == "" {
		k.source = unmeshed
	}
	return k
}

// family is a metric of the wire.
type family uint8

const (
	famNone family = iota
	famExchanges
	famExchangeDuration
	famBytes
	famMessages
	famConnections
	famActive
	famAttempts
	famAttemptDuration
	famRouteDuration
	famVersions
	famTraceBreaks
	famTraceKept
	famDropped
	famInFlight
	famLimit
	famPool
	famShed
	famEjection
	famPoolWait
	famDetections
	famDetectionDuration
	famCertificate
	famMemory
	famFolded
)

// families lists what is read, those that carry the protocol of an edge first: attempts of older sidecars do not, and take it from them.
var families = []struct {
	name   string
	family family
}{
	{flow.MetricExchanges, famExchanges},
	{flow.MetricExchangeDuration, famExchangeDuration},
	{flow.MetricBytes, famBytes},
	{flow.MetricMessages, famMessages},
	{flow.MetricConnections, famConnections},
	{flow.MetricActive, famActive},
	{flow.MetricAttempts, famAttempts},
	{flow.MetricAttemptDuration, famAttemptDuration},
	{flow.MetricRouteDuration, famRouteDuration},
	{flow.MetricVersions, famVersions},
	{flow.MetricTraceBreaks, famTraceBreaks},
	{flow.MetricTraceKept, famTraceKept},
	{flow.MetricRecordsDropped, famDropped},
	{flow.MetricInFlight, famInFlight},
	{flow.MetricLimit, famLimit},
	{flow.MetricPool, famPool},
	{flow.MetricShed, famShed},
	{flow.MetricEjection, famEjection},
	{flow.MetricPoolWait, famPoolWait},
	{flow.MetricDetections, famDetections},
	{flow.MetricDetectionDuration, famDetectionDuration},
	{flow.MetricCertificate, famCertificate},
	{flow.MetricMemory, famMemory},
	{flow.MetricSeriesFolded, famFolded},
}

// Reasons why something was not counted; tulle_graph_rejected_total carries them.
const (
	rejectUnauthenticated  = "unauthenticated"   // no identity stamped by the collector
	rejectUnknownReporter  = "unknown_reporter"  // the registry has no workload with that identity
	rejectServiceMismatch  = "service_mismatch"  // service.name is not a service of that identity
	rejectInstanceMismatch = "instance_mismatch" // the registry has that instance under another identity
	rejectMalformed        = "malformed"         // boot id, sequence, clock or instance is missing, or a value is not readable
	rejectNotParty         = "not_a_party"       // the reporter is neither the source nor the destination it reports about
	rejectDuplicate        = "duplicate"         // this (boot id, sequence) was counted already
	rejectDecreased        = "decreased"         // a cumulative count went back within one boot
	rejectTooMany          = "too_many_series"   // the graph's own bound
)

// maxSeriesPerReporter bounds what one authenticated but misbehaving reporter may cost; sidecars keep at most 10,000 per family.
const maxSeriesPerReporter = 50_000

// Bounds of all reporters together: what one of them could otherwise fill by starting anew again and again. Beyond, what is new is rejected as
// too_many_series; what is known goes on counting.
const (
	maxEdges     = 20_000
	maxSeries    = 200_000
	maxStrangers = 256 // reporters whose instance the registry does not list
)

// Ingest takes metrics exports of sidecars: cumulative since each sidecar's boot, one (boot id, sequence) per resource. What does not come from
// an authenticated party of an edge is counted as rejected and otherwise ignored, so the error is always nil but for a graph
// that is closed: a batch that is refused for good must not be sent again. Safe for concurrent use; md is not kept.
func (g *Graph) Ingest(ctx context.Context, md pmetric.Metrics) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("graph: ingest: %w", err)
	}
	now := g.cfg.Now()
	g.mu.Lock()
	for i := range md.ResourceMetrics().Len() {
		g.ingestLocked(now, md.ResourceMetrics().At(i))
	}
	g.mu.Unlock()
	g.tellEvents()
	return nil
}

func text(m pcommon.Map, key string) string {
	v, ok := m.Get(key)
	if !ok {
		return ""
	}
	return v.AsString()
}

func number(m pcommon.Map, key string) int64 {
	v, ok := m.Get(key)
	if !ok || v.Type() != pcommon.ValueTypeInt {
		return 0
	}
	return v.Int()
}

func countPoints(rm pmetric.ResourceMetrics) int {
	n := 0
	for i := range rm.ScopeMetrics().Len() {
		for j := range rm.ScopeMetrics().At(i).Metrics().Len() {
			switch m := rm.ScopeMetrics().At(i).Metrics().At(j); m.Type() {
			case pmetric.MetricTypeSum:
				n += m.Sum().DataPoints().Len()
			case pmetric.MetricTypeGauge:
				n += m.Gauge().DataPoints().Len()
			case pmetric.MetricTypeExponentialHistogram:
				n += m.ExponentialHistogram().DataPoints().Len()
			}
		}
	}
	return n
}

func (g *Graph) ingestLocked(now time.Time, rm pmetric.ResourceMetrics) {
	res := rm.Resource().Attributes()
	identity, instance, service := text(res, flow.AttrReporterIdentity), text(res, flow.AttrServiceInstance), text(res, flow.AttrServiceName)
	bootID, sequence, clock := text(res, flow.AttrBootID), number(res, flow.AttrSequence), number(res, flow.AttrClock)
	x := g.indexLocked()
	reject := func(reason string) { g.reject(reason, max(1, countPoints(rm))) }
	switch w := x.instance[instance]; {
	case identity == "":
		reject(rejectUnauthenticated)
		return
	case len(x.identity[identity]) == 0:
		reject(rejectUnknownReporter)
		return
	case bootID == "" || sequence <= 0 || clock <= 0 || instance == "":
		reject(rejectMalformed)
		return
	case !x.owns(identity, service):
		reject(rejectServiceMismatch)
		return
	case w != nil && w.GetIdentity() != identity:
		reject(rejectInstanceMismatch)
		return
	}
	metrics := g.sortMetrics(rm)
	data, start := times(metrics)
	if data == 0 {
		data = clock
	}
	if data < 0 || data > clock+int64(time.Minute) {
		reject(rejectMalformed) // data from after its own sending: placing it would need slots without end
		return
	}
	if start < 0 || start > data {
		start = 0 // the clock was set back since the boot, or it is nonsense
	}

	if x.instance[instance] == nil && g.reporters[reporterKey{identity, instance}] == nil && g.strangersLocked(x) >= maxStrangers {
		reject(rejectTooMany)
		return
	}
	r := g.reporterLocked(now, reporterKey{identity, instance})
	r.service, r.namespace, r.version = service, text(res, flow.AttrServiceNamespace), text(res, flow.AttrServiceVersion)
	b := g.bootLocked(now, r, bootID, text(res, flow.AttrPredecessor))
	if b == nil {
		reject(rejectDuplicate) // of a boot that ended long ago
		return
	}
	if b.seen = now; b == r.boot {
		r.seen = now
	}
	if late := sequence <= b.sequence; late {
		// Its counts came with the export that overtook it; what it adds is that no second is unaccounted for.
		for i, h := range b.holes {
			if h.sequence == sequence {
				b.holes = append(b.holes[:i:i], b.holes[i+1:]...)
				g.amendLocked(r, h.interval)
				break
			}
		}
		reject(rejectDuplicate)
		return
	}
	if data < b.data {
		b.offsets = nil // the sidecar's clock was set back: older measurements are of another clock
	}
	b.measure(now.UnixNano() - clock)
	g.skewLocked(now, r, b)

	from, to := b.covered, data+b.offset
	baseline := false
	if b.sequence == 0 {
		b.began = start + b.offset
		if start == 0 {
			b.began = to - int64(time.Second)
		}
		// A boot older than this graph has counted for a past that the graph does not know: its first export is the line to count from.
		baseline = sequence > 1 && b.began < g.opened.UnixNano()
		from = b.began
		switch {
		case baseline:
			from = to
			b.holes = append(b.holes, hole{sequence: vague, interval: interval{g.opened.Add(-keepSlots * time.Second).UnixNano(), to}})
		case sequence > 1: // the ones before were lost, or came before the registry knew the reporter
			b.holes = append(b.holes, hole{sequence: vague, interval: interval{from, to}})
		}
		b.covered = from
	} else if sequence > b.sequence+1 {
		for s := max(b.sequence+1, sequence-maxHoles); s < sequence; s++ {
			g.holeLocked(b, s, interval{from, to})
		}
	}
	to = max(to, from)
	b.sequence, b.data = sequence, data
	in := ingestion{g: g, r: r, b: b, x: x, now: now, baseline: baseline, parts: g.spreadLocked(from, to)}
	for _, m := range metrics {
		in.metric(m.family, m.metric)
	}
	clear(g.wire) // the batch is not kept
	b.covered = max(b.covered, to)
	if v, ok := res.Get(flow.AttrGoodbye); ok && v.Type() == pcommon.ValueTypeBool && v.Bool() {
		b.goodbye = true
		if b != r.boot {
			b.active = map[activeKey]int64{}
		}
		if i := slices.Index(r.lost, b.id); i >= 0 { // it was still on its way when the next boot began
			r.lost = slices.Delete(r.lost, i, i+1)
			r.gone = nil
		}
	}
	if b == r.boot && r.missing {
		r.missing = false
		g.eventLocked(event.Event{
			Time: now, Kind: event.KindReporterBack, Severity: "info", Service: r.service, Instance: r.key.instance,
			Message: fmt.Sprintf("The sidecar of %s reports again; it kept counting, so nothing is lost.", r.key.instance),
		})
	}
}

func (g *Graph) holeLocked(b *boot, sequence int64, i interval) {
	b.holes = append(b.holes, hole{sequence, i})
	if len(b.holes) > maxHoles {
		b.holes = b.holes[len(b.holes)-maxHoles:]
	}
	g.tel.gaps.Inc()
}

// amendLocked marks the sealed slots of an interval as changed for the edges of a reporter.
func (g *Graph) amendLocked(r *reporter, i interval) {
	for sec := i.from / int64(time.Second); sec*int64(time.Second) < i.to; sec++ {
		if s := g.slots[sec]; s != nil && sec < g.sealed {
			g.lateLocked(sec)
			for id, e := range g.byID {
				if (e.key.source == r.service || e.key.destination == r.service) && (s.at(2*id) != nil || s.at(2*id+1) != nil) {
					s.amended[e.key] = true
				}
			}
		}
	}
}

type wireMetric struct {
	rank   int // in families
	family family
	metric pmetric.Metric
}

// sortMetrics picks the metrics that are read, in the order of families. What it returns is valid until the next call.
func (g *Graph) sortMetrics(rm pmetric.ResourceMetrics) []wireMetric {
	out := g.wire[:0]
	for i := range rm.ScopeMetrics().Len() {
		ms := rm.ScopeMetrics().At(i).Metrics()
		for j := range ms.Len() {
			m := ms.At(j)
			if rank, ok := familyRank[m.Name()]; ok {
				out = append(out, wireMetric{rank, families[rank].family, m})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b wireMetric) int { return a.rank - b.rank })
	g.wire = out
	return out
}

// familyRank is where a family is in families, by name.
var familyRank = func() map[string]int {
	m := map[string]int{}
	for i, f := range families {
		m[f.name] = i
	}
	return m
}()

// times are the sidecar's clock at sampling and at its boot, from the first point there is; 0 where unknown.
func times(ms []wireMetric) (data, start int64) {
	for _, m := range ms {
		switch m.metric.Type() {
		case pmetric.MetricTypeSum:
			if dps := m.metric.Sum().DataPoints(); dps.Len() > 0 {
				return int64(dps.At(0).Timestamp()), int64(dps.At(0).StartTimestamp())
			}
		case pmetric.MetricTypeGauge:
			if dps := m.metric.Gauge().DataPoints(); dps.Len() > 0 {
				return int64(dps.At(0).Timestamp()), int64(dps.At(0).StartTimestamp())
			}
		case pmetric.MetricTypeExponentialHistogram:
			if dps := m.metric.ExponentialHistogram().DataPoints(); dps.Len() > 0 {
				return int64(dps.At(0).Timestamp()), int64(dps.At(0).StartTimestamp())
			}
		}
	}
	return 0, 0
}

// part is the share of an export that falls into one slot.
type part struct {
	slot     *slot
	from, to float64 // 0 to 1
	sealed   bool
}

// spreadLocked divides observer time [from, to) among slots. What is older than the slots kept has no part: it is in the totals and series, not
// in any window. What it returns is valid until the next call.
func (g *Graph) spreadLocked(from, to int64) []part {
	const second = int64(time.Second)
	if to <= from {
		from = to - 1
	}
	length := float64(to - from)
	out := g.parts[:0]
	for sec := max(floorDiv(from, second), g.sealed-keepSlots); sec*second < to; sec++ {
		p := part{
			from: float64(max(from, sec*second)-from) / length,
			to:   float64(min(to, (sec+1)*second)-from) / length,
		}
		s := g.slots[sec]
		if s == nil {
			if n := len(g.spare); n > 0 {
				s, g.spare = g.spare[n-1], g.spare[:n-1]
				s.reuse(sec)
			} else {
				s = newSlot(sec)
			}
			g.slots[sec] = s
		}
		p.slot, p.sealed = s, sec < g.sealed
		out = append(out, p)
	}
	g.parts = out
	return out
}

func floorDiv(a, b int64) int64 { return int64(math.Floor(float64(a) / float64(b))) }

// ingestion is the counting of one accepted export.
type ingestion struct {
	g        *Graph
	r        *reporter
	b        *boot
	x        *index
	now      time.Time
	baseline bool
	parts    []part
	before   *last // the series of the point before
}

func (in *ingestion) metric(f family, m pmetric.Metric) {
	switch m.Type() {
	case pmetric.MetricTypeSum:
		if m.Sum().AggregationTemporality() != pmetric.AggregationTemporalityCumulative {
			in.g.reject(rejectMalformed, m.Sum().DataPoints().Len())
			return
		}
		for i := range m.Sum().DataPoints().Len() {
			in.number(f, m.Sum().DataPoints().At(i))
		}
	case pmetric.MetricTypeGauge:
		for i := range m.Gauge().DataPoints().Len() {
			in.number(f, m.Gauge().DataPoints().At(i))
		}
	case pmetric.MetricTypeExponentialHistogram:
		if m.ExponentialHistogram().AggregationTemporality() != pmetric.AggregationTemporalityCumulative {
			in.g.reject(rejectMalformed, m.ExponentialHistogram().DataPoints().Len())
			return
		}
		for i := range m.ExponentialHistogram().DataPoints().Len() {
			in.histogram(f, m.ExponentialHistogram().DataPoints().At(i))
		}
	}
}

// point reads the attributes. ok is false for one that is nothing at all, which is no fault.
func (in *ingestion) point(f family, attrs pcommon.Map) (p point, ok bool) {
	p.metric = f
	for k, v := range attrs.All() {
		switch k {
		case flow.AttrSide:
			p.side, _ = flow.ParseSide(v.Str())
		case flow.AttrSourceService:
			p.source = v.Str()
		case flow.AttrDestService:
			p.destination = v.Str()
		case flow.AttrProtocol:
			p.protocol = v.Str()
		case flow.AttrCodeClass:
			p.class = v.Str()
		case flow.AttrGRPC:
			p.grpc = v.Str()
		case flow.AttrReason:
			p.reason = v.Str()
		case flow.AttrEndpoint:
			p.endpoint = v.Str()
		case flow.AttrRoute:
			p.route = v.Str()
		case flow.AttrDestVersion:
			p.version = v.Str()
		case flow.AttrDirection:
			p.direction = v.Str()
		case flow.AttrKind:
			p.kind = v.Str()
		case flow.AttrPort:
			p.port = v.Str()
		case flow.AttrState, flow.AttrLimit, flow.AttrFamily, flow.AttrOutcome, flow.AttrWhy: // each family has at most one of these
			p.detail = v.Str()
		case flow.AttrAnswered:
			p.answered = v.Bool()
		case flow.AttrDelivered:
			p.delivered = v.Bool()
		case flow.AttrProbe:
			p.probe = v.Bool()
		}
	}
	switch f {
	case famAttempts, famTraceBreaks, famTraceKept:
		p.side = flow.SideClient
	case famAttemptDuration:
		p.side, p.source = flow.SideClient, in.r.service
	case famRouteDuration:
		p.side = flow.SideServer
	case famPoolWait:
		p.side, p.source = flow.SideClient, in.r.service
	case famInFlight, famLimit, famPool, famShed, famEjection, famDetections, famDetectionDuration:
		if p.side == flow.SideClient {
			p.source = in.r.service
		}
	case famDropped, famFolded, famCertificate, famMemory:
		return p, true
	}
	switch f {
	case famTraceBreaks, famTraceKept: // are about a source alone
	default:
		if p.side == flow.SideClient && p.destination == "" {
			if p.source == "" { // a connection to the sidecar's own port: nobody's call to nothing
				return p, false
			}
			p.destination = passthrough
		}
	}
	return p, true
}

// party checks that the reporter is a party to what it reports, and rejects the point if it is not.
func (in *ingestion) party(p *point) (ok bool) {
	switch {
	case p.metric == famDropped, p.metric == famFolded, p.metric == famCertificate, p.metric == famMemory: // are about the reporter
		ok = true
	case p.side == flow.SideClient:
		ok = p.source != "" && in.x.owns(in.r.key.identity, p.source)
	case p.side == flow.SideServer:
		ok = p.destination != "" && in.x.owns(in.r.key.identity, p.destination)
	}
	if !ok {
		in.g.reject(rejectNotParty, 1)
	}
	return ok
}

// next is the series that is expected after the one before, if p is of it and the reporter is a party to it by the registry in force.
func (in *ingestion) next(p *point) *last {
	if in.before == nil {
		return nil
	}
	l := in.before.next
	if l == nil || l.checked != in.x || l.point != *p {
		return nil
	}
	return l
}

// find is the series of p, which is made if there is room for it; nil when p was rejected.
func (in *ingestion) find(p *point) *last {
	l := in.next(p)
	if l == nil {
		if !in.party(p) {
			return nil
		}
		if l = in.series(p); l == nil {
			return nil
		}
		l.checked = in.x
		if in.before != nil {
			in.before.next = l
		}
	}
	in.before = l
	return l
}

// aim finds everything that differences of l are added to, when there is one that counts.
func (in *ingestion) aim(l *last) {
	if l.aimed && l.index == in.x && l.service == in.r.service && (l.place == nil || !l.place.forgotten) {
		return
	}
	p := &l.point
	if !l.aimed || l.service != in.r.service {
		l.settle(&in.g.scratch.part)
		l.failed = p.failed()
		l.counters, l.sum = in.g.countersLocked(in.r, p), in.g.summedOfLocked(p)
		switch p.metric {
		case famExchanges, famExchangeDuration, famAttempts, famBytes, famMessages, famConnections:
			l.edge = in.g.touchLocked(in.now, p.edge())
			l.cell = l.edge.cellOf(p.side)
		}
	}
	address := ""
	switch p.metric {
	case famExchanges, famExchangeDuration:
		if p.side == flow.SideServer {
			address = endpointAt(in.x.instance[in.r.key.instance], p.port)
		}
	case famAttempts, famAttemptDuration:
		address = p.endpoint
	}
	if l.place = nil; address != "" {
		l.place = in.r.place(p.side, p.destination, address)
	}
	l.aimed, l.index, l.service = true, in.x, in.r.service
}

// number counts one point of a sum or a gauge.
func (in *ingestion) number(f family, dp pmetric.NumberDataPoint) {
	p, ok := in.point(f, dp.Attributes())
	if !ok {
		return
	}
	v := dp.IntValue()
	if dp.ValueType() == pmetric.NumberDataPointValueTypeDouble {
		v = int64(math.Round(dp.DoubleValue()))
	}
	switch f {
	case famCertificate, famMemory, famEjection, famInFlight, famLimit, famPool, famActive:
		if in.party(&p) {
			in.gauge(&p, v)
		}
		return
	case famAttempts:
		if p.protocol == "" {
			p.protocol = in.g.protocolLocked(in.x, p.source, p.destination)
		}
	}
	if v < 0 {
		if in.party(&p) {
			in.g.reject(rejectMalformed, 1)
		}
		return
	}
	l := in.find(&p)
	if l == nil {
		return
	}
	before := l.value
	if uint64(v) < before {
		in.g.reject(rejectDecreased, 1)
		before = 0
	}
	l.value = uint64(v)
	if f == famFolded {
		in.b.folded += uint64(v) - before
	}
	if d := uint64(v) - before; d > 0 && !in.baseline {
		in.count(l, d)
	}
	in.examples(l, dp.Exemplars())
}

// gauge takes a value that is not a count.
func (in *ingestion) gauge(p *point, v int64) {
	switch p.metric {
	case famCertificate:
		in.b.certificate = time.Unix(v, 0).UTC()
	case famMemory:
		in.b.memory = uint64(max(v, 0)) //nolint:gosec // not negative
	case famEjection:
		in.ejection(p, v)
	case famInFlight, famLimit, famPool:
		s := saturationSeries(p)
		if _, known := in.b.gauges[s]; !known && len(in.b.gauges) >= maxSeriesPerReporter {
			in.g.reject(rejectTooMany, 1)
			return
		}
		in.b.gauges[s] = v
	case famActive:
		k := activeKey{sideKey{p.edge(), p.side}, p.kind}
		if _, known := in.b.active[k]; !known && (len(in.b.active) >= maxSeriesPerReporter || !in.room(p.edge())) {
			in.g.reject(rejectTooMany, 1)
			return
		}
		in.b.active[k] = v
		if v != 0 {
			in.g.touchLocked(in.now, p.edge())
		}
	}
}

func (in *ingestion) histogram(f family, dp pmetric.ExponentialHistogramDataPoint) {
	p, ok := in.point(f, dp.Attributes())
	if !ok {
		return
	}
	h, d := &in.g.scratch.read, &in.g.scratch.difference
	if !h.read(dp) {
		if in.party(&p) {
			in.g.reject(rejectMalformed, 1)
		}
		return
	}
	l := in.find(&p)
	if l == nil {
		return
	}
	if !d.difference(h, &l.hist) {
		in.g.reject(rejectDecreased, 1)
		l.settle(d)
		d = h
		l.settled.reset()
	}
	l.hist.set(h)
	if in.baseline {
		l.settled.set(h)
	}
	if d.count > 0 && !in.baseline {
		in.distribute(l, d)
	}
	in.examples(l, dp.Exemplars())
}

// room says whether the edge is known or may become so.
func (in *ingestion) room(k edgeKey) bool {
	return len(in.g.edges) < maxEdges || in.g.edges[k] != nil
}

func (in *ingestion) series(p *point) *last {
	k := p.hash()
	first := in.b.series[k]
	l := first
	for l != nil && l.point != *p {
		l = l.twin
	}
	if l == nil {
		if in.b.known >= maxSeriesPerReporter || len(in.g.counters)+len(in.g.hists) >= maxSeries || !in.room(p.edge()) {
			in.g.reject(rejectTooMany, 1)
			return nil
		}
		l = &last{point: *p, twin: first}
		in.b.series[k] = l
		in.b.known++
	}
	return l
}

// count adds d to everything that is a view of the series.
func (in *ingestion) count(l *last, d uint64) {
	in.aim(l)
	p := &l.point
	if l.edge != nil {
		l.edge.active = in.now
	}
	switch p.metric {
	case famExchanges:
		l.edge.countExchanges(p, d)
	case famAttempts:
		l.edge.countAttempts(p, d)
	case famTraceBreaks, famTraceKept:
		in.g.traceLocked(in.now, p.source, p.metric == famTraceBreaks, d)
	}
	if l.due += d; !l.queued {
		l.queued = true
		in.g.dueCounts = append(in.g.dueCounts, l)
	}
	for _, part := range in.parts {
		n := portion(d, part.from, part.to)
		if n == 0 {
			continue
		}
		if part.sealed {
			part.slot.amended[p.edge()] = true
			in.g.lateLocked(part.slot.sec)
		}
		l.countIn(part.slot, n)
		if late := in.late(part.slot); late != nil {
			l.countIn(late, n)
		}
	}
}

// late is the sum of the live window when the slot is in it already, else nil.
func (in *ingestion) late(s *slot) *slot {
	if in.g.rolling != nil && in.g.rolled.has(s.sec) {
		return in.g.rolling
	}
	return nil
}

func (l *last) countIn(s *slot, n uint64) {
	p := &l.point
	switch p.metric {
	case famExchanges:
		c := s.edge(l.cell)
		c.requests += n
		switch {
		case p.probe:
			c.probes += n
		case l.failed:
			c.errors += n
		}
		if p.answered {
			c.answered += n
		} else {
			c.unanswered += n
		}
		c.reasons = addReason(c.reasons, p.reason, n)
		c.grpc = addReason(c.grpc, p.grpc, n)
		l.countEndpoint(s, n)
	case famAttempts:
		c := s.edge(l.cell)
		c.attempts += n
		if p.delivered {
			c.delivered += n
		} else {
			c.undelivered += n
		}
		l.countEndpoint(s, n)
	case famBytes:
		c := s.edge(l.cell)
		if p.direction == "in" {
			c.bytesIn += n
		} else {
			c.bytesOut += n
		}
	case famMessages:
		c := s.edge(l.cell)
		if p.direction == "in" {
			c.messagesIn += n
		} else {
			c.messagesOut += n
		}
	case famConnections:
		c := s.edge(l.cell)
		c.connections += n
		if l.failed {
			c.connErrors += n
		}
		c.reasons = addReason(c.reasons, p.reason, n)
	case famVersions:
		v := s.version(versionKey{p.destination, p.version, p.side})
		v.requests += n
		if l.failed {
			v.errors += n
		}
	}
}

// countEndpoint counts for the endpoint, where it is known which.
func (l *last) countEndpoint(s *slot, n uint64) {
	if l.place == nil {
		return
	}
	c := s.endpoint(l.place)
	switch {
	case l.point.probe:
		c.probes += n
		if l.failed {
			c.probeFailures += n
		}
	default:
		c.requests += n
		if l.failed {
			c.failures += n
		}
	}
	c.reasons = addReason(c.reasons, l.point.reason, n)
}

// distribute is count for histograms.
func (in *ingestion) distribute(l *last, d *hist) {
	in.aim(l)
	if l.edge != nil {
		l.edge.active = in.now
	}
	if !l.queued {
		l.queued = true
		in.g.dueHists = append(in.g.dueHists, l)
	}
	if l.edge == nil && l.place == nil {
		return // of no window
	}
	for _, part := range in.parts {
		h := d
		switch count := float64(d.count); {
		case part.from <= 0 && count*(1-part.to) < 0.5: // every share of the other parts rounds to nothing
		case part.to >= 1 && count*(1-part.from) < 0.5:
			continue
		default:
			h = &in.g.scratch.part
			if h.share(d, part.from, part.to); h.count == 0 {
				continue
			}
		}
		if part.sealed {
			in.g.lateLocked(part.slot.sec)
			if l.edge != nil {
				part.slot.amended[l.edge.key] = true
			}
		}
		l.distributeIn(part.slot, h)
		if late := in.late(part.slot); late != nil {
			l.distributeIn(late, h)
		}
	}
}

func (l *last) distributeIn(s *slot, h *hist) {
	if l.edge != nil {
		s.edge(l.cell).latency.add(h)
	}
	if l.place != nil {
		s.endpoint(l.place).latency.add(h)
	}
}

// examples keeps the traces that stand for a series. A cumulative export repeats them; one is new when it happened after the data before.
func (in *ingestion) examples(l *last, xs pmetric.ExemplarSlice) {
	if xs.Len() == 0 || in.baseline || len(in.parts) == 0 || !l.aimed {
		return
	}
	in.aim(l)
	p, s := &l.point, in.parts[len(in.parts)-1].slot
	since := in.b.covered - in.b.offset
	for i := range xs.Len() {
		x := xs.At(i)
		if x.TraceID().IsEmpty() || int64(x.Timestamp()) <= since {
			continue
		}
		v := x.DoubleValue()
		if x.ValueType() == pmetric.ExemplarValueTypeInt {
			v = float64(x.IntValue())
		}
		id := x.TraceID()
		e := example{trace: flow.TraceID(id).String(), value: v, failed: l.failed}
		switch p.metric {
		case famExchanges, famAttempts, famExchangeDuration:
			c := s.edge(l.cell)
			c.exemplars = addExample(c.exemplars, e)
			if late := in.late(s); late != nil {
				c := late.edge(l.cell)
				c.exemplars = addExample(c.exemplars, e)
			}
			in.g.noteExemplar(p, e, int64(x.Timestamp())+in.b.offset)
		}
		if l.place != nil && (p.metric == famAttempts || p.metric == famAttemptDuration) {
			c := s.endpoint(l.place)
			c.exemplars = addExample(c.exemplars, e)
		}
	}
}
