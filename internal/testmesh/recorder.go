package testmesh

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Recorder keeps every Record. Safe for concurrent use.
type Recorder struct {
	mu      sync.Mutex
	records []flow.Record
	active  map[flow.ActiveKey]int64
	kept    int
	broken  int
	first   func(*flow.Record)

	detections []flow.Detection
}

// First makes Record call f, which may wait, before it keeps a Record.
func (r *Recorder) First(f func(*flow.Record)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.first = f
}

// Record implements flow.Recorder.
func (r *Recorder) Record(rec *flow.Record) {
	r.mu.Lock()
	first := r.first
	r.mu.Unlock()
	if first != nil {
		first(rec)
	}
	c := *rec
	for _, s := range []*string{&c.Method, &c.Path, &c.Authority, &c.UserAgent, &c.RequestID} {
		*s = strings.Clone(*s) // they alias buffers of the data path
	}
	c.Headers = flow.Headers(strings.Clone(string(c.Headers)))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, c)
}

// Active implements flow.Recorder.
func (r *Recorder) Active(key flow.ActiveKey, delta int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.active == nil {
		r.active = make(map[flow.ActiveKey]int64)
	}
	r.active[key] += delta
}

// TraceContext implements flow.Recorder.
func (r *Recorder) TraceContext(kept bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if kept {
		r.kept++
	} else {
		r.broken++
	}
}

// Detected implements flow.Recorder.
func (r *Recorder) Detected(d flow.Detection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.detections = append(r.detections, d)
}

// Detections are those so far, oldest first.
func (r *Recorder) Detections() []flow.Detection {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.detections)
}

// Traces is how many outbound exchanges kept and broke their trace.
func (r *Recorder) Traces() (kept, broken int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept, r.broken
}

// All returns the Records so far of one kind and phase.
func (r *Recorder) All(kind flow.Kind, phase flow.Phase) []flow.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.records), func(x flow.Record) bool { return x.Kind != kind || x.Phase != phase })
}

// Closed returns the closing Records so far of one kind.
func (r *Recorder) Closed(kind flow.Kind) []flow.Record { return r.All(kind, flow.PhaseClose) }

// Live is the sum of all live counts; 0 when everything has ended.
func (r *Recorder) Live() (n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.active {
		if v < 0 {
			v = -v
		}
		n += v
	}
	return n
}

// Source is a policy.Source that a test sets.
type Source struct {
	mu      sync.Mutex
	current *policy.Snapshot
	changed chan struct{}
}

// NewSource begins with s, which may be nil.
func NewSource(s *policy.Snapshot) *Source {
	return &Source{current: s, changed: make(chan struct{})}
}

// Set publishes s.
func (s *Source) Set(snap *policy.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = snap
	close(s.changed)
	s.changed = make(chan struct{})
}

// Current implements policy.Source.
func (s *Source) Current() *policy.Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

// Changed implements policy.Source.
func (s *Source) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Eventually polls until ok reports true, and fails the test with what, and what explain then says, after twenty seconds.
func Eventually(t testing.TB, what string, ok func() bool, explain ...func() string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			for _, f := range explain {
				what += "\n" + f()
			}
			t.Fatalf("did not happen in 20 s: %s", what)
		case <-tick.C:
		}
	}
}
