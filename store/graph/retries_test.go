package graph

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

func called(source, destination string, requests, attempts uint64) Edge {
	v := &View{Requests: requests, Attempts: attempts}
	return Edge{ID: source + "→" + destination, Source: source, Destination: destination, Protocol: "h2", Client: v, Server: &View{Requests: attempts}}
}

func TestRetryPaths(t *testing.T) {
	s := &Snapshot{Edges: []Edge{
		called("web", "cart", 100, 150), // × 1.5
		called("web", "ads", 50, 50),
		called("cart", "db", 300, 600), // each of the 150 that cart took makes 2, each tried twice
		called("ads", "db", 50, 55),
		{Source: "cart", Destination: "queue", Protocol: "tcp", Client: &View{Active: 3}},
	}}
	paths, more := RetryPaths(s, "", "", 10)
	if len(paths) != 2 || more {
		t.Fatalf("%d ways, more %t", len(paths), more)
	}
	p := paths[0]
	if strings.Join(p.Services, " ") != "web cart db" || p.Amplification != 3 || p.PerEntry != 6 || p.Hops[1].PerRequest != 2 || p.Hops[1].Calls != 2 || p.Hops[1].Retries != 300 || p.Cyclic {
		t.Errorf("%+v", p)
	}
	if p = paths[1]; strings.Join(p.Services, " ") != "web ads db" || math.Abs(p.Amplification-1.1) > 1e-9 {
		t.Errorf("%+v", p)
	}
	if paths, more = RetryPaths(s, "", "", 1); len(paths) != 1 || !more {
		t.Errorf("limited: %d, more %t", len(paths), more)
	}
	for q, want := range map[[2]string]int{{"cart", ""}: 1, {"", "cart"}: 1, {"web", "db"}: 2, {"db", ""}: 0, {"nobody", ""}: 0, {"cart", "ads"}: 0} {
		if paths, _ := RetryPaths(s, q[0], q[1], 10); len(paths) != want {
			t.Errorf("%v: %d ways, want %d", q, len(paths), want)
		}
	}
	if paths, _ := RetryPaths(&Snapshot{}, "", "", 10); len(paths) != 0 {
		t.Errorf("of nothing: %v", paths)
	}
}

// Rings end, and a mesh with more ways than can be counted is looked at in part, and says so.
func TestRetryPathsEnd(t *testing.T) {
	ring := &Snapshot{Edges: []Edge{called("a", "b", 10, 10), called("b", "c", 10, 20), called("c", "a", 10, 10)}}
	paths, _ := RetryPaths(ring, "", "", 10)
	if len(paths) != 3 || !paths[0].Cyclic || len(paths[0].Hops) != 2 {
		t.Errorf("%+v", paths)
	}
	dense := &Snapshot{}
	for layer := range 12 {
		for i := range 8 {
			for k := range 8 {
				dense.Edges = append(dense.Edges, called(fmt.Sprintf("%d/%d", layer, i), fmt.Sprintf("%d/%d", layer+1, k), 10, 11))
			}
		}
	}
	paths, more := RetryPaths(dense, "", "", 20)
	if len(paths) != 20 || !more {
		t.Errorf("%d ways of 8^13, more %t", len(paths), more)
	}
}
