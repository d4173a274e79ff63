package graph

import (
	"iter"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// reporterKey is who reports. The identity is proven; the instance is what that identity says of itself, checked against the registry
// where the registry knows the instance. State of one identity can therefore never be touched by another.
type reporterKey struct{ identity, instance string }

// reporter is one sidecar.
type reporter struct {
	key                reporterKey
	service, namespace string
	version            string
	boot               *boot   // the newest
	older              []*boot // the ones before, the newest first: those that handed over and still report, and one for exports that are on their way
	seen               time.Time
	missing            bool       // silent without goodbye
	gone               []interval // spans of observer time whose counts are lost with a dead boot
	lost               []string   // boots that died without goodbye
	buried             []string   // boots before older
	skewTold           bool
	places             map[place]*endpointKey // endpoints that slots know by it
}

type place struct {
	side              flow.Side
	service, endpoint string
}

// place is the key of an endpoint.
func (r *reporter) place(side flow.Side, service, endpoint string) *endpointKey {
	k := r.places[place{side, service, endpoint}]
	if k == nil {
		if r.places == nil {
			r.places = map[place]*endpointKey{}
		}
		k = &endpointKey{reporter: r, side: side, service: service, endpoint: endpoint}
		r.places[place{side, service, endpoint}] = k
	}
	return k
}

// forgetPlaces drops the keys that no slot from sec on has.
func (r *reporter) forgetPlaces(sec int64) {
	for p, k := range r.places {
		if k.used < sec {
			k.forgotten = true
			delete(r.places, p)
		}
	}
}

// interval is a span of observer time in ns, half open.
type interval struct{ from, to int64 }

func (i interval) overlaps(from, to int64) bool { return i.from < to && from < i.to }

// boot is one life of a sidecar: its counters start at zero with it.
type boot struct {
	id       string
	sequence int64  // highest seen
	holes    []hole // exports that have not arrived; their counts came with a later one, but not their seconds
	data     int64  // sidecar ns of the newest data
	covered  int64  // observer ns up to which everything is counted
	began    int64  // observer ns from which on this boot counts
	goodbye  bool   // it said that it ends
	handed   bool   // older: it handed over to the next one, and reports until its goodbye
	seen     time.Time
	offsets  []int64          // newest measurements of observer clock − sidecar clock, each too large by one delivery time
	offset   int64            // the smallest of them
	series   map[uint64]*last // by point.hash; those that meet hang together by last.twin
	known    int              // how many
	active   map[activeKey]int64
	gauges   map[series]int64 // of saturation
	folded   uint64           // series it counts under other for want of room

	memory      uint64    // resident bytes; 0 while it has not said
	certificate time.Time // its end, by the sidecar's clock; zero while it has not said
}

type hole struct {
	sequence int64 // vague: the beginning of a boot, of which all counts are known and no second
	interval
}

const vague = 0

// last is the newest cumulative value of a series.
type last struct {
	value uint64
	hist  hist

	point   point
	twin    *last  // of the same hash
	checked *index // by which the reporter is a party to it
	next    *last  // that came after it in the newest export, which repeats the order of the one before but for where it begins

	// What follows is found once, by ingestion.aim, and looked up anew when the registry or the reporter's service is another.
	aimed   bool
	index   *index
	service string
	edge    *edge // nil where the series is of none
	cell    int   // edge.cellOf
	failed  bool

	// What has been counted and not been added to counters or sum yet: due, or the difference of hist and settled.
	queued   bool // in Graph.dueCounts or dueHists
	due      uint64
	settled  hist
	counters []*counter   // that grow by every difference
	sum      *summed      // the histogram that does
	place    *endpointKey // whose endpoint it counts for, or nil
}

type activeKey struct {
	sideKey
	kind string
}

const (
	offsetSamples = 30                     // about as many seconds: a clock that drifts or is set is followed within that time
	maxHoles      = 64                     // older ones are forgotten; the window is shorter
	skewLimit     = 2 * int64(time.Second) // beyond it an event says so
)

// measure adds one measurement of the clock offset. Delivery only ever adds time, so the smallest recent one is closest.
func (b *boot) measure(sample int64) {
	b.offsets = append(b.offsets, sample)
	if len(b.offsets) > offsetSamples {
		b.offsets = slices.Delete(b.offsets, 0, 1)
	}
	b.offset = slices.Min(b.offsets)
}

// whole reports whether everything in [from, to) is counted and its seconds are known. known is false while the newest part has not arrived
// yet, or where a boot was first seen late: neither is a loss.
func (r *reporter) whole(from, to int64) (whole, known bool) {
	for _, g := range r.gone {
		if g.overlaps(from, to) {
			return false, true
		}
	}
	unsure := false
	for _, b := range r.boots() {
		if b.handed && !b.goodbye && b.covered < to {
			unsure = true
		}
		for _, h := range b.holes {
			if h.overlaps(from, to) {
				if h.sequence != vague {
					return false, true
				}
				unsure = true
			}
		}
	}
	if r.missing && r.boot.covered < to {
		return false, true
	}
	return true, !unsure && (r.boot.covered >= to || r.boot.goodbye)
}

func (r *reporter) prune(before int64) {
	r.gone = slices.DeleteFunc(r.gone, func(g interval) bool { return g.to < before })
	for _, b := range r.boots() {
		b.holes = slices.DeleteFunc(b.holes, func(h hole) bool { return h.to < before })
	}
}

// boots are all that are known, the newest first.
func (r *reporter) boots() iter.Seq2[int, *boot] {
	return func(yield func(int, *boot) bool) {
		if r.boot != nil && !yield(0, r.boot) {
			return
		}
		for i, b := range r.older {
			if !yield(i+1, b) {
				return
			}
		}
	}
}

// reporting are the boots that go on counting: the newest, and those that handed over and have not ended.
func (r *reporter) reporting() iter.Seq[*boot] {
	return func(yield func(*boot) bool) {
		for i, b := range r.boots() {
			if (i == 0 || b.handed) && !b.goodbye && !yield(b) {
				return
			}
		}
	}
}

// maxOlder bounds the boots of one reporter that are kept beside the newest: a sidecar that hands over again and again within the time of its drain.
const maxOlder = 16

// replace makes b the newest boot. What of the others nobody reports any more is buried, but for the one before.
func (r *reporter) replace(b *boot) {
	if r.boot != nil {
		r.older = slices.Insert(r.older, 0, r.boot)
	}
	r.boot = b
	for i := len(r.older) - 1; i > 0; i-- {
		if old := r.older[i]; !old.handed || old.goodbye || i >= maxOlder {
			r.older = slices.Delete(r.older, i, i+1)
			r.buried = append(r.buried, old.id)
		}
	}
	if over := len(r.buried) - 16; over > 0 {
		r.buried = slices.Delete(r.buried, 0, over)
	}
}
