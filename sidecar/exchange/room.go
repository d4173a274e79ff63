package exchange

import (
	"strconv"
	"sync/atomic"
)

// Limit names a limit of a whole sidecar or its listeners: a field of a Workload's spec.limits.
type Limit uint8

// The limits whose reaching is counted.
const (
	LimitHeadBytes Limit = iota
	LimitHeadFields
	LimitRequestLine
	LimitHeadTimeout
	LimitBodyTimeout
	LimitIdleTimeout
	LimitConnections
	LimitConnectionsPerSource
	LimitBufferBytes
	LimitStreams
	LimitResets
	LimitControlFrames
	LimitEmptyFrames
	LimitPriorityFrames
	LimitWindowUpdates
	LimitContinuations
	LimitPingTimeout
	LimitMirrors    // copies at a time; constants of package filter
	LimitMirrorBody // bytes of a body that is copied
	numLimits
)

var limitNames = [numLimits]string{
	"headBytes", "headFields", "requestLineBytes", "headTimeout", "bodyTimeout", "idleTimeout",
	"connections", "connectionsPerSource", "bufferBytes",
	"http2.streams", "http2.resets", "http2.controlFrames", "http2.emptyFrames", "http2.priorityFrames", "http2.windowUpdates", "http2.continuations",
	"http2.pingTimeout", "mirrors", "mirrorBody",
}

// String is the field's name in the configuration.
func (l Limit) String() string { return limitNames[l] }

// Limits are all there are, in order.
func Limits() []Limit {
	out := make([]Limit, numLimits)
	for i := range out {
		out[i] = Limit(i)
	}
	return out
}

// Room is the memory that one sidecar may use for buffers, and how often each limit was reached. All Bindings of a sidecar share one. Safe
// for concurrent use; a nil Room is without limits.
//
// Invariant: every byte taken is given back exactly once; Used is 0 when nothing is in flight.
//
// One counter for all was chosen because it is exact; it is touched twice per exchange (BenchmarkRoom: 25 ns together, on one
// core or two, of some 14 µs).
type Room struct {
	_      [64]byte // a cache line of its own
	used   atomic.Int64
	_      [56]byte
	budget atomic.Int64 // 0: none
	counts [numLimits]atomic.Uint64
}

// SetBudget changes what may be used; 0 is without limit. What is in use stays in use.
func (r *Room) SetBudget(n int64) { r.budget.Store(n) }

// Budget is what SetBudget was given.
func (r *Room) Budget() int64 {
	if r == nil {
		return 0
	}
	return r.budget.Load()
}

// Used is how many bytes are taken now. Above Budget when the budget was lowered, or something in flight could not do without.
func (r *Room) Used() int64 {
	if r == nil {
		return 0
	}
	return r.used.Load()
}

// Take takes n bytes, for something that can be refused. False: there is no room, and nothing was taken.
func (r *Room) Take(n int) bool {
	if r == nil {
		return true
	}
	if b := r.budget.Load(); r.used.Add(int64(n)) > b && b > 0 {
		r.used.Add(int64(-n))
		return false
	}
	return true
}

// TakeSpare takes n bytes, for something that is only convenient. False: three quarters of the budget are in use, and nothing was taken.
func (r *Room) TakeSpare(n int) bool {
	if r == nil {
		return true
	}
	if b := r.budget.Load(); r.used.Add(int64(n)) > b-b/4 && b > 0 {
		r.used.Add(int64(-n))
		return false
	}
	return true
}

// Tight reports whether three quarters of the budget are in use: what is only convenient is to be given back.
func (r *Room) Tight() bool {
	if r == nil {
		return false
	}
	b := r.budget.Load()
	return b > 0 && r.used.Load() > b-b/4
}

// Need takes n bytes, for something in flight that is to finish.
func (r *Room) Need(n int) {
	if r != nil {
		r.used.Add(int64(n))
	}
}

// Give gives n bytes back.
func (r *Room) Give(n int) {
	if r != nil {
		r.used.Add(int64(-n))
	}
}

// Reached counts that l was reached once.
func (r *Room) Reached(l Limit) {
	if r != nil {
		r.counts[l].Add(1)
	}
}

// Count is how often l was reached.
func (r *Room) Count(l Limit) uint64 {
	if r == nil {
		return 0
	}
	return r.counts[l].Load()
}

// Full says what is full, for the detail of a Record.
func (r *Room) Full() string {
	return LimitBufferBytes.String() + " of " + strconv.FormatInt(r.Budget(), 10) + " in this sidecar"
}
