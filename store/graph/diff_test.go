package graph

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func view(requests, errors uint64, p50, p99 float64) *View {
	return &View{Requests: requests, Errors: errors, Rate: float64(requests) / 10, ErrorRatio: float64(errors) / float64(max(1, requests)), P50: p50, P99: p99}
}

func snapshotOf(edges ...Edge) *Snapshot {
	s := &Snapshot{At: time.Unix(1_700_000_000, 0), Window: 10 * time.Second}
	seen := map[string]bool{}
	for _, e := range edges {
		e.ID = e.Source + "→" + e.Destination + ":" + e.Protocol
		s.Edges = append(s.Edges, e)
		for _, n := range []string{e.Source, e.Destination} {
			if !seen[n] {
				seen[n] = true
				s.Nodes = append(s.Nodes, Node{ID: n, Name: n})
			}
		}
	}
	return s
}

// TestDiff has a row for every change, and for what is none.
func TestDiff(t *testing.T) {
	same := view(300, 3, 0.010, 0.050)
	for _, c := range []struct {
		name   string
		before *View
		after  *View
		tls    [2]bool
		want   []Change
	}{
		{"nothing", same, same, [2]bool{true, true}, nil},
		{"came", nil, same, [2]bool{}, []Change{ChangeNew}},
		{"went", same, nil, [2]bool{}, []Change{ChangeGone}},
		{"fails more", same, view(300, 30, 0.010, 0.050), [2]bool{}, []Change{ChangeMoreErrors}},
		{"fails less", view(300, 30, 0.010, 0.050), same, [2]bool{}, []Change{ChangeFewerErrors}},
		{"one error of five is chance", view(5, 0, 0.010, 0.050), view(5, 1, 0.010, 0.050), [2]bool{}, nil},
		{"all of eight is not", view(8, 0, 0.010, 0.050), view(8, 8, 0.010, 0.050), [2]bool{}, []Change{ChangeMoreErrors}},
		{"less than a point is none", view(100_000, 0, 0.010, 0.050), view(100_000, 900, 0.010, 0.050), [2]bool{}, nil},
		{"slower tail", same, view(300, 3, 0.010, 0.080), [2]bool{}, []Change{ChangeSlower}},
		{"slower middle", same, view(300, 3, 0.020, 0.051), [2]bool{}, []Change{ChangeSlower}},
		{"faster", same, view(300, 3, 0.010, 0.020), [2]bool{}, []Change{ChangeFaster}},
		{"microseconds are none", view(300, 3, 0.0001, 0.0002), view(300, 3, 0.0003, 0.0040), [2]bool{}, nil},
		{"latency of few is not judged", view(10, 0, 0.010, 0.050), view(10, 0, 0.100, 0.500), [2]bool{}, nil},
		{"more traffic", same, view(900, 9, 0.010, 0.050), [2]bool{}, []Change{ChangeMoreTraffic}},
		{"less traffic", same, view(90, 1, 0.010, 0.050), [2]bool{}, []Change{ChangeLessTraffic}},
		{"twice of nearly nothing is chance", view(2, 0, 0, 0), view(5, 0, 0, 0), [2]bool{}, nil},
		{"no TLS any more", same, same, [2]bool{true, false}, []Change{ChangeUnprotected}},
		{"TLS now", same, same, [2]bool{false, true}, []Change{ChangeProtected}},
		{"gravest first", same, view(900, 300, 0.010, 0.500), [2]bool{}, []Change{ChangeMoreErrors, ChangeSlower, ChangeMoreTraffic}},
	} {
		t.Run(c.name, func(t *testing.T) {
			other := Edge{Source: "web", Destination: "cart", Protocol: "h2", Server: view(300, 0, 0.01, 0.05)} // both times the same
			before, after := snapshotOf(other), snapshotOf(other)
			if c.before != nil {
				before = snapshotOf(other, Edge{Source: "web", Destination: "pay", Protocol: "h2", Client: c.before, MTLS: c.tls[0]})
			}
			if c.after != nil {
				after = snapshotOf(other, Edge{Source: "web", Destination: "pay", Protocol: "h2", Client: c.after, MTLS: c.tls[1]})
			}
			d := Diff(before, after)
			var got []Change
			for _, e := range d.Edges {
				if e.Destination != "pay" {
					t.Errorf("the edge that did not change is among the changes: %v", e.Changes)
				}
				got = append(got, e.Changes...)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
			nodes := 0
			if c.before == nil || c.after == nil {
				nodes = 1
			}
			if len(d.Nodes) != nodes {
				t.Errorf("nodes that changed: %v", d.Nodes)
			}
		})
	}
}

// TestDiffOrder: what is gravest comes first, and among equals what has more traffic; the order does not depend on chance.
func TestDiffOrder(t *testing.T) {
	var before, after []Edge
	for i := range 20 {
		n := uint64(100 * (i + 1))
		before = append(before, Edge{Source: "a", Destination: fmt.Sprintf("d%02d", i), Protocol: "h2", Client: view(n, 0, 0.01, 0.05)})
		if i%2 == 0 {
			continue // gone
		}
		after = append(after, Edge{Source: "a", Destination: fmt.Sprintf("d%02d", i), Protocol: "h2", Client: view(n, n/2, 0.01, 0.05)})
	}
	d := Diff(snapshotOf(before...), snapshotOf(after...))
	if len(d.Edges) != 20 || d.Edges[0].Destination != "d19" || d.Edges[9].Destination != "d01" || d.Edges[10].Destination != "d18" || d.Edges[19].Destination != "d00" {
		t.Errorf("order: %v", d.Edges)
	}
	if again := Diff(snapshotOf(before...), snapshotOf(after...)); fmt.Sprint(again) == "" || again.Edges[10].ID != d.Edges[10].ID {
		t.Error("the order changes")
	}
}
