package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jaegertracing/jaeger/model"
	"github.com/jaegertracing/jaeger/pkg/metrics"
	"github.com/jaegertracing/jaeger/plugin/storage/badger"
	"github.com/jaegertracing/jaeger/plugin/storage/memory"
	"github.com/jaegertracing/jaeger/storage/spanstore"
	jaegertranslator "github.com/open-telemetry/opentelemetry-collector-contrib/pkg/translator/jaeger"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/local"
)

// contender is a span storage under test.
type contender interface {
	// prepare makes a batch what write takes. Its cost is not the storage's, unless OTLP is to be decoded as well.
	prepare(td ptrace.Traces) (any, error)
	write(b any) error
	// settle returns when everything is where it stays.
	settle() error
	// rest returns when the storage does nothing any more by itself.
	rest() error
	trace(id flow.TraceID) (spans int, err error)
	find(q query) (traces int, err error)
	close() error
	// size is bytes on disk after close.
	size() (int64, error)
}

// query is what every contender can be asked. Jaeger compares a span's duration, operation and tags with one span, as Tulle does.
type query struct {
	Service, Operation string
	Key, Value         string
	Min                time.Duration
	From, To           time.Time
	Limit              int
}

var contenders = map[string]func(job) (contender, error){"tulle": openTulle, "badger": openBadger, "memory": openMemory}

type tulle struct {
	dir string
	db  *local.DB
}

func openTulle(j job) (contender, error) {
	db, err := local.Open(local.Config{Dir: j.Dir, Unmerged: j.Unmerged, RetainBytes: math.MaxUint64, RetainAge: 365 * 24 * time.Hour, SealAge: 10 * time.Second})
	if err != nil {
		return nil, err
	}
	return &tulle{j.Dir, db}, nil
}

func (t *tulle) prepare(td ptrace.Traces) (any, error) { return td, nil }

func (t *tulle) write(b any) error {
	for {
		err := t.db.Write(context.Background(), b.(ptrace.Traces))
		if !errors.Is(err, store.ErrBusy) {
			return err
		}
		time.Sleep(20 * time.Millisecond) // as a sender that was told to come again
	}
}

// settle waits until the log is empty but for its header.
func (t *tulle) settle() error {
	for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		s := t.db.Stats()
		if s.WALBytes <= 24 {
			return nil
		}
		if s.LastError != "" || time.Now().After(deadline) {
			return fmt.Errorf("%d bytes of log are not sealed: %s", s.WALBytes, s.LastError)
		}
	}
}

// rest waits until nothing is merged any more.
func (t *tulle) rest() error {
	merged, since := t.db.Stats().Merged, time.Now()
	for deadline := time.Now().Add(30 * time.Minute); time.Since(since) < 10*time.Second; time.Sleep(100 * time.Millisecond) {
		if n := t.db.Stats().Merged; n != merged {
			merged, since = n, time.Now()
		}
		if time.Now().After(deadline) {
			return errors.New("blocks are still merged after 30 minutes")
		}
	}
	return nil
}

func (t *tulle) trace(id flow.TraceID) (int, error) {
	td, err := t.db.Trace(context.Background(), id)
	if err != nil {
		return 0, err
	}
	return td.SpanCount(), nil
}

func (t *tulle) find(q query) (int, error) {
	sq := store.TraceQuery{Service: q.Service, Operation: q.Operation, MinDuration: q.Min, Start: q.From, End: q.To, Limit: q.Limit}
	if q.Key != "" {
		sq.Attributes = []store.AttributeMatch{{Key: q.Key, Value: q.Value, Op: "="}}
	}
	p, err := t.db.Summaries(context.Background(), sq)
	return len(p.Traces), err
}

func (t *tulle) close() error { return t.db.Close() }

func (t *tulle) size() (int64, error) { return onDisk(filepath.Join(t.dir, "blocks")) }

// jaeger is a storage of Jaeger's behind its own interfaces.
type jaeger struct {
	dir  string
	w    spanstore.Writer
	r    spanstore.Reader
	done func() error
}

func openBadger(j job) (contender, error) {
	cfg := badger.DefaultConfig()
	cfg.Ephemeral = false
	cfg.Directories = badger.Directories{Keys: filepath.Join(j.Dir, "keys"), Values: filepath.Join(j.Dir, "values")}
	f, err := badger.NewFactoryWithConfig(*cfg, metrics.NullFactory, zap.NewNop())
	if err != nil {
		return nil, err
	}
	w, err := f.CreateSpanWriter()
	if err != nil {
		return nil, err
	}
	r, err := f.CreateSpanReader()
	if err != nil {
		return nil, err
	}
	return &jaeger{dir: j.Dir, w: w, r: r, done: f.Close}, nil
}

func openMemory(j job) (contender, error) {
	s := memory.NewStore()
	return &jaeger{dir: j.Dir, w: s, r: s, done: func() error { return nil }}, nil
}

func (j *jaeger) prepare(td ptrace.Traces) (any, error) { return jaegertranslator.ProtoFromTraces(td) }

func (j *jaeger) write(b any) error {
	for _, batch := range b.([]*model.Batch) {
		for _, s := range batch.Spans {
			if s.Process == nil {
				s.Process = batch.Process
			}
			if err := j.w.WriteSpan(context.Background(), s); err != nil {
				return err
			}
		}
	}
	return nil
}

func (j *jaeger) settle() error { return nil }
func (j *jaeger) rest() error   { return nil }

func (j *jaeger) trace(id flow.TraceID) (int, error) {
	t, err := j.r.GetTrace(context.Background(), jaegerID(id))
	if err != nil {
		return 0, err
	}
	return len(t.Spans), nil
}

func jaegerID(id flow.TraceID) model.TraceID {
	var t model.TraceID
	if err := t.Unmarshal(id[:]); err != nil {
		panic(err) // 16 bytes are a trace id
	}
	return t
}

func (j *jaeger) find(q query) (int, error) {
	p := &spanstore.TraceQueryParameters{
		ServiceName: q.Service, OperationName: q.Operation, StartTimeMin: q.From, StartTimeMax: q.To, DurationMin: q.Min, NumTraces: q.Limit,
	}
	if q.Key != "" {
		p.Tags = map[string]string{q.Key: q.Value}
	}
	ts, err := j.r.FindTraces(context.Background(), p)
	return len(ts), err
}

func (j *jaeger) close() error { return j.done() }

func (j *jaeger) size() (int64, error) {
	if _, err := os.Stat(j.dir); errors.Is(err, fs.ErrNotExist) { // memory
		return 0, nil
	}
	return onDisk(j.dir)
}

// onDisk is what the files below dir occupy: blocks, not lengths, for badger's logs have holes.
func onDisk(dir string) (n int64, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err != nil {
			return &os.PathError{Op: "stat", Path: path, Err: err}
		}
		n += st.Blocks * 512
		return nil
	})
	return n, err
}

// batch is one sender's, decoded or as OTLP bytes. It is the source's own, and changes when send returns.
type batch struct {
	td    ptrace.Traces
	raw   []byte
	spans int
}

// source makes copies of a corpus.
type source struct{ slots []slot }

type slot struct {
	mu    *sync.Mutex // held while a copy of it is on its way
	s     *stamper
	w     *wire // in place of s
	spans int
}

// newSource takes the corpus' batches; with raw it gives bytes, and nothing decoded stays in the heap.
func newSource(c *corpus, raw bool) (*source, error) {
	f := &source{}
	for i, td := range c.batches {
		one := slot{mu: &sync.Mutex{}, s: newStamper(c, td), spans: td.SpanCount()}
		if raw {
			w, err := newWire(one.s)
			if err != nil {
				return nil, fmt.Errorf("batch %d of the corpus: %w", i, err)
			}
			one.s, one.w = nil, w
		}
		f.slots = append(f.slots, one)
	}
	c.batches = nil
	return f, nil
}

func (o *slot) to(k, base uint64) (b batch, err error) {
	b.spans = o.spans
	if o.w != nil {
		b.raw, err = o.w.to(k, base)
		return b, err
	}
	b.td = o.s.to(k, base)
	return b, nil
}

// feed sends copies [from, to) of the corpus to send, in the order in which they were recorded: each of the writers takes the next batch when it has sent one. So spans
// of one trace come at about the same time, as they do from sidecars, however far one writer is held up.
func (f *source) feed(writers int, from, to, base uint64, send func(batch) error) error {
	var (
		next atomic.Uint64
		stop atomic.Bool
		errs = make([]error, writers)
		wg   sync.WaitGroup
	)
	for w := range writers {
		wg.Go(func() {
			for !stop.Load() {
				n := next.Add(1) - 1
				k, i := from+n/uint64(len(f.slots)), n%uint64(len(f.slots))
				if k >= to {
					return
				}
				s := &f.slots[i]
				s.mu.Lock()
				b, err := s.to(k, base)
				if err == nil {
					err = send(b)
				}
				s.mu.Unlock()
				if err != nil {
					errs[w] = err
					stop.Store(true)
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// sender makes what feed calls: OTLP bytes are decoded as a collector does it; without store, nothing happens to a batch.
func sender(s contender, store bool) func(batch) error {
	var um ptrace.ProtoUnmarshaler
	return func(in batch) error {
		if in.raw != nil {
			if !store {
				return nil
			}
			var err error
			if in.td, err = um.UnmarshalTraces(in.raw); err != nil {
				return err
			}
		}
		b, err := s.prepare(in.td)
		if err != nil || !store {
			return err
		}
		return s.write(b)
	}
}
