// Package telemetry says everything that a sidecar says: it takes Records from the data path, counts them, and sends them to the observer
// and to the access log.
//
// Make one with New, hand it to the data path as its flow.Recorder, and run it with Run, started before the data path and stopped after
// it. Record may be called before, during and after Run, by any number of goroutines; it counts the Record, copies it into a ring and
// returns. Everything else happens in Run's goroutines:
//
//	Record ─┬─ counters ── every second ──────────────────── metrics export (newest only)
//	        └─ ring ── encoder, ≤ 200 ms or 512 Records ─┬── queue ── span export
//	                                                     └── access log
//
// Nothing here waits for the observer. Each arrow is bounded, and what does not fit is dropped and counted by reason (tulle.records.dropped and
// /metrics); counts are never lost, because they are cumulative and made before anything can be dropped.
//
// To test with it, give Config a Client or a Target of your own, and run under testing/synctest: there is no other clock than Config.Clock
// and timers.
package telemetry

import (
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	vm "github.com/VictoriaMetrics/metrics"
	"google.golang.org/grpc/mem"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Config is fixed for the life of a Telemetry. Zero values mean the default.
type Config struct {
	Workload policy.Workload // who reports; the resource of everything sent
	Version  string          // of the program, for tulle_build_info

	// Target is the observer's OTLP gRPC address, "host:port". Empty: nothing is exported, and Records end in counters and log.
	Target string
	// TLS is called once, when Run starts; nil or a nil result means plaintext. Use identity.Holder.ClientTLS with the observer's ID: it
	// follows rotations by itself.
	TLS func() *tls.Config
	// Certificate says when the certificate in force ends, zero before the first. It is called once a second; nil: nothing is said.
	Certificate func() time.Time
	// Compression of exports: "" (default: the observer is near, and spans are compressed where they are kept) or "gzip".
	Compression string

	AccessLog       io.Writer // nil: no access log
	AccessLogFormat LogFormat

	// QueueBytes bounds the encoded spans kept while the observer is away. Default 4 MiB: some 3,400 Records of 1.2 KiB, which the garbage
	// collector of tulle-sidecar (GOGC 50) makes 6 MiB of memory; with what an idle sidecar takes (24 MiB) that stays under 40 MiB.
	QueueBytes   int
	QueueBatches int           // the same in batches; default 4,096
	Series       int           // per metric family, at least 2; default 10,000
	FlushTimeout time.Duration // for everything after Run's ctx is done; default 5 s
	BootID       string        // default: 16 random hex digits; see NewBootID
	// Predecessor is the boot id of the process that this one takes over from while it goes on; empty: there is none.
	Predecessor string

	Log   *slog.Logger     // default: discard
	Clock func() time.Time // default: time.Now
}

// LogFormat is the form of access log lines.
type LogFormat uint8

const (
	// LogJSON is one JSON object per line; names are the attribute names of docs/format/record.md.
	LogJSON LogFormat = iota
	// LogText resembles Envoy's default.
	LogText
)

const (
	batchDelay      = 200 * time.Millisecond
	ringChunks      = 16
	exportTimeout   = 10 * time.Second
	backoffBase     = 100 * time.Millisecond
	backoffMax      = 5 * time.Second
	limitedAttempts = 5
)

// dropReason is the closed vocabulary of tulle.records.dropped.
type dropReason uint8

const (
	dropRing dropReason = iota
	dropQueue
	dropRefused
	dropPartial
	dropShutdown
	dropLog
	numDropReasons
)

var dropNames = [numDropReasons]string{"ring_full", "queue_full", "refused", "partial", "shutdown", "access_log"}

// Telemetry implements flow.Recorder.
type Telemetry struct {
	cfg  Config
	log  *slog.Logger
	now  func() time.Time
	boot time.Time
	id   string // boot id

	counters *counters
	ring     *ring
	queue    *queue
	lines    *lineWriter // nil without access log
	client   client      // set by Run
	outage   outage
	latest   slot
	memory   *memory       // of those who sample
	draining chan struct{} // closed when Run's ctx is done

	saturation atomic.Pointer[func() []flow.Saturation]

	spanSequence, metricSequence uint64 // owned by the encoder; owned by whoever samples
	bodies                       bodies // encode is the encoder's
	dropped                      [numDropReasons]atomic.Uint64
	exports                      [2][3]counter // by signal, by outcome: ok, failed, retried
	accepted                     counter
	set                          *vm.Set
	described                    sync.Map // family → description, of gauges added by Gauge
	given                        []given  // added by Histogram

	newClient func() (client, error) // replaced in tests
}

var _ flow.Recorder = (*Telemetry)(nil)

// New makes a Telemetry that can be recorded to at once. It does no I/O and starts nothing.
func New(cfg Config) *Telemetry {
	if cfg.QueueBytes <= 0 {
		cfg.QueueBytes = 4 << 20
	}
	if cfg.QueueBatches <= 0 {
		cfg.QueueBatches = 4096
	}
	if cfg.Series <= 0 {
		cfg.Series = 10_000
	}
	if cfg.FlushTimeout <= 0 {
		cfg.FlushTimeout = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.BootID == "" {
		cfg.BootID = NewBootID()
	}
	t := &Telemetry{
		cfg: cfg, log: cfg.Log, now: cfg.Clock, boot: cfg.Clock(), id: cfg.BootID,
		counters: newCounters(cfg.Series),
		ring:     newRing(ringChunks),
		queue:    newQueue(cfg.QueueBytes, cfg.QueueBatches),
		latest:   slot{more: make(chan struct{}, 1)},
		draining: make(chan struct{}),
	}
	if cfg.AccessLog != nil {
		t.lines = newLineWriter(cfg.AccessLog, cfg.AccessLogFormat, t.drop, cfg.Log)
	}
	t.newClient = func() (client, error) {
		var secure *tls.Config
		if cfg.TLS != nil {
			secure = cfg.TLS()
		}
		return dial(cfg.Target, secure, cfg.Compression)
	}
	t.register()
	return t
}

// NewBootID makes a boot id for Config.
func NewBootID() string {
	var b [8]byte
	_, _ = crand.Read(b[:]) // never fails (crypto/rand, Go 1.24)
	return hex.EncodeToString(b[:])
}

// BootID is the id of this start of the sidecar, 16 hex digits.
func (t *Telemetry) BootID() string { return t.id }

// Record counts r and copies it for the span and the log line.
func (t *Telemetry) Record(r *flow.Record) {
	t.counters.count(r)
	if r.Folded {
		return
	}
	if !t.ring.add(r) {
		why := dropRing
		select {
		case <-t.draining:
			why = dropShutdown
		default:
		}
		t.drop(why, 1)
	}
}

// Recorded reports whether there are Records that nobody was told of.
func (t *Telemetry) Recorded() bool { return !t.ring.empty() }

// Active implements flow.Recorder.
func (t *Telemetry) Active(key flow.ActiveKey, delta int64) {
	t.counters.active.get(activeKey(key)).Add(delta)
}

// TraceContext implements flow.Recorder.
func (t *Telemetry) TraceContext(kept bool) {
	if kept {
		t.counters.kept.Add(1)
	} else {
		t.counters.breaks.Add(1)
	}
}

func (t *Telemetry) drop(why dropReason, n int) {
	if n > 0 {
		t.dropped[why].Add(uint64(n))
	}
}

// Run exports until ctx is done, then flushes what was recorded, says goodbye to the observer and returns, all within Config.FlushTimeout.
// It calls ready at once: a sidecar serves without its observer. Run once.
func (t *Telemetry) Run(ctx context.Context, ready func()) error {
	exporting := t.cfg.Target != ""
	if exporting {
		c, err := t.newClient()
		if err != nil {
			return fmt.Errorf("telemetry: observer address %q is not usable (want host:port): %w", t.cfg.Target, err)
		}
		t.client = c
		defer func() { _ = c.Close() }()
	}
	// hard ends every export and every wait; it outlives ctx by the flush time.
	hard, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()

	var encoding, sending, sampling sync.WaitGroup
	encoded := make(chan struct{})
	encoding.Go(func() { t.encode(exporting) })
	if exporting {
		t.memory = newMemory()
		defer t.memory.close()
		sending.Go(func() { t.sendSpans(hard, encoded) })
		sampling.Go(func() { t.sample(ctx) })
		sending.Go(func() { t.sendMetrics(ctx, hard) })
	}
	if t.lines != nil {
		go t.lines.write() // ended by lines.close
	}
	ready()
	<-ctx.Done()

	// From here on everything has to be over in FlushTimeout. Spans get most of it; the goodbye comes last, because it carries the final counts,
	// and has the rest.
	deadline := time.AfterFunc(t.cfg.FlushTimeout*4/5, stop)
	defer deadline.Stop()
	t.ring.close()
	close(t.draining)
	encoding.Wait()
	close(encoded)
	sampling.Wait()
	sending.Wait()
	if t.lines != nil {
		t.lines.close(t.cfg.FlushTimeout / 10)
	}
	lost := t.queue.drop()
	t.drop(dropShutdown, lost)
	if lost > 0 {
		t.log.Warn("telemetry: spans were not delivered before the flush time was over", "records", lost, "timeout", t.cfg.FlushTimeout)
	}
	if exporting {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.cfg.FlushTimeout/10)
		defer cancel()
		if s, ok := t.latest.take(); ok { // taken, or being sent, just when ctx ended: without it the sequence would have a hole
			t.deliver(last, metrics, s, nil)
		}
		s := t.sampled()
		s.goodbye = true
		t.deliver(last, metrics, s, nil)
	}
	return nil
}

// encode turns Records into span batches and log lines until the ring is closed, then finishes what is in it.
func (t *Telemetry) encode(exporting bool) {
	timer := time.NewTimer(batchDelay)
	timer.Stop()
	for draining := false; !draining; {
		all := true
		select {
		case <-t.ring.some:
			timer.Reset(batchDelay)
			continue
		case <-t.ring.now:
			all = false
		case <-timer.C:
		case <-t.draining:
			draining = true
		}
		for _, c := range t.ring.take(all) {
			t.encodeChunk(c, exporting)
		}
	}
}

func (t *Telemetry) encodeChunk(c *chunk, exporting bool) {
	recs := c.records()
	for i := range recs {
		tr := &recs[i].Trace
		if tr.SpanID.IsZero() {
			mint(tr.SpanID[:])
		}
		if tr.TraceID.IsZero() {
			mint(tr.TraceID[:])
		}
	}
	if t.lines != nil {
		t.lines.format(recs)
	}
	if exporting {
		t.spanSequence++
		t.drop(dropQueue, t.queue.push(batch{sequence: t.spanSequence, records: len(recs), body: t.bodies.encode(recs)}))
	}
	c.release()
}

// mint fills an id with random bytes, not all zero.
func mint(id []byte) {
	for i := range id {
		id[i] = byte(rand.Uint32())
	}
	id[len(id)-1] |= 1
}

// sendSpans delivers batches in order, one at a time, until encoded is closed and nothing is left, or until hard is done.
func (t *Telemetry) sendSpans(hard context.Context, encoded chan struct{}) {
	for {
		b, ok := t.queue.next()
		if !ok {
			select {
			case <-t.queue.more:
			case <-encoded:
				if _, n := t.queue.size(); n == 0 {
					return
				}
			case <-hard.Done():
				return
			}
			continue
		}
		if !t.deliver(hard, traces, sample{sequence: b.sequence, body: b.body, records: b.records}, nil) {
			return // hard is done; Run counts what is left
		}
		t.queue.done()
	}
}

// sample is one export: its body and what its head needs.
type sample struct {
	sequence uint64
	body     mem.Buffer
	records  int // spans only
	goodbye  bool
}

// slot holds the newest sample that is waiting to be sent.
type slot struct {
	mu   sync.Mutex
	s    sample
	full bool
	more chan struct{}
}

func (l *slot) put(s sample) {
	l.mu.Lock()
	l.s, l.full = s, true
	l.mu.Unlock()
	tell(l.more)
}

func (l *slot) take() (sample, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.s, l.full
	l.s, l.full = sample{}, false
	return s, ok
}

// sample reads the counters at every whole second of the wall clock.
func (t *Telemetry) sample(ctx context.Context) {
	for {
		now := t.now()
		timer := time.NewTimer(now.Truncate(time.Second).Add(time.Second).Sub(now))
		select {
		case <-timer.C:
			t.latest.put(t.sampled())
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// sampled reads the counters now. Not for concurrent use.
func (t *Telemetry) sampled() sample {
	families := append(t.counters.collect(t.cfg.Workload.Service, forExport), t.saturated()...)
	lost := flow.Family{Name: flow.MetricRecordsDropped, Unit: "{record}"}
	for i := range t.dropped {
		lost.Points = append(lost.Points, flow.Point{Attrs: []flow.Attr{flow.Text(flow.AttrReason, dropNames[i])}, Value: int64(t.dropped[i].Load())})
	}
	folded := flow.Family{Name: flow.MetricSeriesFolded, Unit: "{series}"}
	for name, n := range t.counters.folded() {
		if n > 0 {
			folded.Points = append(folded.Points, flow.Point{Attrs: []flow.Attr{flow.Text(flow.AttrFamily, name)}, Value: int64(n)})
		}
	}
	families = append(families, lost, folded, flow.Family{Name: flow.MetricMemory, Unit: "By", Type: flow.MetricGauge, Points: []flow.Point{{Value: t.memory.bytes()}}})
	if t.cfg.Certificate != nil {
		if end := t.cfg.Certificate(); !end.IsZero() {
			families = append(families, flow.Family{Name: flow.MetricCertificate, Unit: "s", Type: flow.MetricGauge, Points: []flow.Point{{Value: end.Unix()}}})
		}
	}
	t.metricSequence++
	return sample{sequence: t.metricSequence, body: mem.SliceBuffer(flow.AppendMetricBody(nil, t.boot, t.now(), families))}
}

// sendMetrics delivers the newest sample; one that cannot be delivered gives way to the next. After ctx is done it finishes the one it has, so
// that a clean stop leaves no hole in the sequence.
func (t *Telemetry) sendMetrics(ctx, hard context.Context) {
	for {
		select {
		case <-t.latest.more:
		case <-ctx.Done():
			return
		}
		if s, ok := t.latest.take(); ok {
			t.deliver(hard, metrics, s, t.latest.more)
		}
	}
}

// deliver sends s, again and again where that can help, under the same sequence and with a fresh clock. It gives up when ctx is done (the
// result is false, and nothing was counted), when the observer refuses s, or when newer is told.
func (t *Telemetry) deliver(ctx context.Context, sig signal, s sample, newer chan struct{}) bool {
	res := flow.Resource{
		Service: t.cfg.Workload.Service, Namespace: t.cfg.Workload.Namespace, Version: t.cfg.Workload.Version,
		Instance: t.cfg.Workload.Instance, BootID: t.id, Predecessor: t.cfg.Predecessor, Sequence: s.sequence, Goodbye: s.goodbye,
	}
	exports := &t.exports[sig.index]
	backoff := backoffBase
	for attempt := 1; ; attempt++ {
		res.Clock = t.now()
		call, cancel := context.WithTimeout(ctx, exportTimeout)
		response, err := t.client.export(call, sig, flow.AppendHead(nil, res, s.body.Len()), s.body)
		cancel()
		if err == nil {
			exports[0].Add(1)
			t.outage.end(t.log, t.now(), sig)
			t.partial(sig, s, response)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		v, wait := judge(err)
		if v == refuse || v == limited && attempt >= limitedAttempts {
			exports[1].Add(1)
			t.drop(dropRefused, s.records)
			t.log.Warn("telemetry: observer refused an export; it is dropped", "signal", sig.name, "records", s.records, "target", t.cfg.Target, "err", err)
			return true
		}
		exports[2].Add(1)
		t.outage.begin(t.log, t.now(), sig, t.cfg.Target, err)
		if wait == 0 {
			wait = backoff/2 + rand.N(backoff/2)
			backoff = min(2*backoff, backoffMax)
		}
		if !t.pause(ctx, wait, newer) {
			return ctx.Err() == nil
		}
	}
}

// pause waits before the next try. While draining, waits are short: time is running out. False when there is to be no next try.
func (t *Telemetry) pause(ctx context.Context, wait time.Duration, newer chan struct{}) bool {
	draining := t.draining
	select {
	case <-draining:
		wait, draining = min(wait, backoffBase), nil
	default:
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-draining: // try again at once
		return true
	case <-newer:
		tell(newer) // it is the next one's turn
		return false
	case <-ctx.Done():
		return false
	}
}

func (t *Telemetry) partial(sig signal, s sample, response []byte) {
	rejected, message := flow.ParseResponse(response)
	if sig == traces {
		n := int(min(max(rejected, 0), int64(s.records)))
		t.drop(dropPartial, n)
		t.accepted.Add(uint64(s.records - n))
	}
	if rejected > 0 || message != "" {
		t.log.Warn("telemetry: observer kept only a part of an export", "signal", sig.name, "rejected", rejected, "message", message)
	}
}

// outage says once that the observer is away and once that it is back, though two signals find out.
type outage struct {
	mu    sync.Mutex
	since [2]time.Time // by signal; zero while it is well
}

func (o *outage) begin(log *slog.Logger, now time.Time, sig signal, target string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	known := o.since != [2]time.Time{}
	if o.since[sig.index].IsZero() {
		o.since[sig.index] = now
	}
	if !known {
		log.Warn("telemetry: observer is not reachable; spans are kept as far as the queue goes, counts are kept, trying again",
			"target", target, "signal", sig.name, "err", err)
	}
}

func (o *outage) end(log *slog.Logger, now time.Time, sig signal) {
	o.mu.Lock()
	defer o.mu.Unlock()
	since := o.since[sig.index]
	o.since[sig.index] = time.Time{}
	if !since.IsZero() && o.since == [2]time.Time{} {
		log.Info("telemetry: observer is reachable again", "after", now.Sub(since).Round(time.Millisecond))
	}
}
