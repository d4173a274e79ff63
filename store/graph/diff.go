package graph

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// Change is one way in which a node or an edge differs between two instants.
type Change string

const (
	ChangeNew         Change = "new"          // not there before
	ChangeGone        Change = "gone"         // no longer there
	ChangeMoreErrors  Change = "more_errors"  // a larger share of its requests fails
	ChangeFewerErrors Change = "fewer_errors" //
	ChangeSlower      Change = "slower"       // its p99 or its median grew
	ChangeFaster      Change = "faster"       //
	ChangeMoreTraffic Change = "more_traffic" // at least twice the rate
	ChangeLessTraffic Change = "less_traffic" // at most half the rate
	ChangeUnprotected Change = "unprotected"  // mutual TLS before, plaintext now
	ChangeProtected   Change = "protected"    //
)

// What counts as a change. A difference that chance alone makes more often than about once in a thousand looks is none.
const (
	errorStep    = 0.01  // share of requests, at least
	latencyRatio = 1.5   // of p99, or of the median
	latencyStep  = 0.005 // seconds, at least
	trafficRatio = 2.0
	leastToJudge = 30 // requests on each side, for latencies
	sigmas       = 3.3
)

// Difference is what changed from one Snapshot to another.
type Difference struct {
	From  time.Time    `json:"from"`
	To    time.Time    `json:"to"`
	Nodes []NodeChange `json:"nodes"` // those that came or went, sorted by ID
	Edges []EdgeChange `json:"edges"` // those that changed, worst first
}

// NodeChange is a node that came or went.
type NodeChange struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Change Change `json:"change"` // new | gone
}

// EdgeChange is an edge that changed. Before is nil for a new one, After for one that is gone.
type EdgeChange struct {
	ID          string   `json:"id"`
	Source      string   `json:"source"`
	Destination string   `json:"destination"`
	Protocol    string   `json:"protocol"`
	Changes     []Change `json:"changes"` // never empty; gravest first
	Before      *View    `json:"before,omitempty"`
	After       *View    `json:"after,omitempty"`
}

// gravity orders changes: what a person should see first is first.
var gravity = []Change{
	ChangeMoreErrors, ChangeGone, ChangeSlower, ChangeUnprotected, ChangeNew, ChangeLessTraffic, ChangeMoreTraffic, ChangeFewerErrors, ChangeFaster, ChangeProtected,
}

// Diff says what changed from before to after. An edge is judged by its caller's view, or its callee's where no caller reports. It is pure; both
// snapshots are only read.
func Diff(before, after *Snapshot) Difference {
	d := Difference{From: before.At, To: after.At, Nodes: []NodeChange{}, Edges: []EdgeChange{}}
	old, now := map[string]bool{}, map[string]bool{}
	for i := range before.Nodes {
		old[before.Nodes[i].ID] = true
	}
	for i := range after.Nodes {
		n := &after.Nodes[i]
		now[n.ID] = true
		if !old[n.ID] {
			d.Nodes = append(d.Nodes, NodeChange{n.ID, n.Name, ChangeNew})
		}
	}
	for i := range before.Nodes {
		if n := &before.Nodes[i]; !now[n.ID] {
			d.Nodes = append(d.Nodes, NodeChange{n.ID, n.Name, ChangeGone})
		}
	}
	slices.SortFunc(d.Nodes, func(a, b NodeChange) int { return cmp.Compare(a.ID, b.ID) })

	were := make(map[string]*Edge, len(before.Edges))
	for i := range before.Edges {
		were[before.Edges[i].ID] = &before.Edges[i]
	}
	add := func(e *Edge, b, a *View, changes []Change) {
		if len(changes) == 0 {
			return
		}
		slices.SortFunc(changes, func(x, y Change) int { return cmp.Compare(slices.Index(gravity, x), slices.Index(gravity, y)) })
		d.Edges = append(d.Edges, EdgeChange{e.ID, e.Source, e.Destination, e.Protocol, changes, b, a})
	}
	for i := range after.Edges {
		e := &after.Edges[i]
		was := were[e.ID]
		delete(were, e.ID)
		if was == nil {
			add(e, nil, e.Main(), []Change{ChangeNew})
			continue
		}
		b, a := was.Main(), e.Main()
		if b == nil || a == nil {
			continue
		}
		changes := compare(b, a)
		switch {
		case was.MTLS && !e.MTLS && a.Requests+a.Connections > 0:
			changes = append(changes, ChangeUnprotected)
		case !was.MTLS && e.MTLS && b.Requests+b.Connections > 0:
			changes = append(changes, ChangeProtected)
		}
		add(e, b, a, changes)
	}
	for _, e := range were {
		add(e, e.Main(), nil, []Change{ChangeGone})
	}
	slices.SortFunc(d.Edges, func(x, y EdgeChange) int {
		return cmp.Or(cmp.Compare(slices.Index(gravity, x.Changes[0]), slices.Index(gravity, y.Changes[0])), cmp.Compare(y.weight(), x.weight()), cmp.Compare(x.ID, y.ID))
	})
	return d
}

// Main is the view an edge is judged by: what its caller saw, or what its callee saw when no caller reports; nil when nobody does.
func (e *Edge) Main() *View {
	if e.Client != nil {
		return e.Client
	}
	return e.Server
}

// weight is how much traffic the change is about.
func (c *EdgeChange) weight() float64 {
	w := 0.0
	for _, v := range []*View{c.Before, c.After} {
		if v != nil {
			w = max(w, v.Rate)
		}
	}
	return w
}

func compare(b, a *View) []Change {
	var out []Change
	if d := a.ErrorRatio - b.ErrorRatio; math.Abs(d) >= errorStep && b.Requests > 0 && a.Requests > 0 {
		n, m := float64(b.Requests), float64(a.Requests)
		p := float64(b.Errors+a.Errors) / (n + m)
		// The two-proportion test with pooled variance; with few requests it needs a large difference.
		if s := math.Sqrt(p * (1 - p) * (1/n + 1/m)); s == 0 || math.Abs(d) >= sigmas*s {
			out = append(out, pick(d > 0, ChangeMoreErrors, ChangeFewerErrors))
		}
	}
	if b.Requests >= leastToJudge && a.Requests >= leastToJudge {
		tail, middle := moved(b.P99, a.P99), moved(b.P50, a.P50)
		if tail != 0 || middle != 0 {
			out = append(out, pick(tail > 0 || (tail == 0 && middle > 0), ChangeSlower, ChangeFaster))
		}
	}
	if n, m := float64(b.Requests), float64(a.Requests); n > 0 || m > 0 {
		// Requests of both windows are taken for Poisson counts.
		if math.Abs(m-n) >= sigmas*math.Sqrt(n+m) {
			switch {
			case a.Rate >= trafficRatio*b.Rate:
				out = append(out, ChangeMoreTraffic)
			case b.Rate >= trafficRatio*a.Rate:
				out = append(out, ChangeLessTraffic)
			}
		}
	}
	return out
}

// moved is 1 when a latency grew, -1 when it fell, 0 when it is about the same or unknown.
func moved(b, a float64) int {
	switch {
	case b <= 0 || a <= 0 || math.Abs(a-b) < latencyStep:
		return 0
	case a >= latencyRatio*b:
		return 1
	case b >= latencyRatio*a:
		return -1
	}
	return 0
}

func pick(first bool, a, b Change) Change {
	if first {
		return a
	}
	return b
}
