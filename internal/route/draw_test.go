package route

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// split is a table that shares all requests out.
func split(t *testing.T, weights ...uint32) Table {
	t.Helper()
	r := Rule{Name: "split"}
	for i, w := range weights {
		r.Action.Backends = append(r.Action.Backends, Backend{Service: fmt.Sprintf("v%d", i+1), Weight: w})
	}
	table, err := New("", r)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// bounds is how far a count of n trials of chance p may be off: five standard deviations of the binomial, which one run in a million exceeds.
func bounds(n int, p float64) float64 { return 5 * math.Sqrt(float64(n)*p*(1-p)) }

func TestSharesAreTheWeights(t *testing.T) {
	const n = 10_000
	for _, weights := range [][]uint32{{90, 10}, {1, 1}, {1, 2, 3, 4}, {0, 5}, {MaxWeight, 1}, {999, 1}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}} {
		table, sum := split(t, weights...), 0.0
		for _, w := range weights {
			sum += float64(w)
		}
		r, counts := rand.New(rand.NewPCG(9, 0)), map[string]int{}
		for range n {
			counts[table.Match(Head{Path: "/", Draw: r.Uint64()}).Service]++
		}
		for i, w := range weights {
			p := float64(w) / sum
			if got := counts[fmt.Sprintf("v%d", i+1)]; math.Abs(float64(got)-p*n) > bounds(n, p) {
				t.Errorf("weights %v: backend %d has %d of %d, want %.0f ± %.0f", weights, i+1, got, n, p*n, bounds(n, p))
			}
		}
	}
	// Draws that are hashes of neighbours are as good.
	table, counts := split(t, 90, 10), 0
	for i := range uint64(n) {
		if table.Match(Head{Path: "/", Draw: i}).Service == "v1" {
			counts++
		}
	}
	if math.Abs(float64(counts)-9000) > bounds(n, 0.9) {
		t.Errorf("of draws 0 to %d v1 has %d, want 9000 ± %.0f", n-1, counts, bounds(n, 0.9))
	}
}

// TestWeightMovesWhatMust: when a weight changes, requests go to the backend that got more, or leave the one that got less, and nothing else moves; the same draw
// has the same backend for as long as nothing changes.
func TestWeightMovesWhatMust(t *testing.T) {
	const n = 10_000
	for _, c := range []struct{ before, after []uint32 }{
		{[]uint32{90, 10}, []uint32{80, 20}},
		{[]uint32{50, 30, 20}, []uint32{50, 30, 40}},
		{[]uint32{50, 30, 20}, []uint32{50, 30, 0}},
		{[]uint32{0, 1, 1}, []uint32{2, 1, 1}},
		{[]uint32{90, 10}, []uint32{900, 100}}, // the same shares
	} {
		before, after := split(t, c.before...), split(t, c.after...)
		sum := func(of []uint32) (s float64) {
			for _, w := range of {
				s += float64(w)
			}
			return s
		}
		r, moved := rand.New(rand.NewPCG(10, 0)), 0
		for range n {
			h := Head{Path: "/", Draw: r.Uint64()}
			a, b := before.Match(h), after.Match(h)
			if again := before.Match(h); again.Service != a.Service {
				t.Fatalf("the same draw went to %s and to %s", a.Service, again.Service)
			}
			if a.Service == b.Service {
				continue
			}
			moved++
			var from, to int
			_, _ = fmt.Sscanf(a.Service, "v%d", &from)
			_, _ = fmt.Sscanf(b.Service, "v%d", &to)
			shrunk, grown := c.after[from-1] < c.before[from-1], c.after[to-1] > c.before[to-1]
			if !shrunk && !grown {
				t.Fatalf("%v to %v: a request moved from %s to %s, neither of which changed that way", c.before, c.after, a.Service, b.Service)
			}
		}
		// The least that must move is half of the sum of what the shares change by.
		least := 0.0
		for i := range c.before {
			least += math.Abs(float64(c.before[i])/sum(c.before)-float64(c.after[i])/sum(c.after)) / 2
		}
		if math.Abs(float64(moved)-least*n) > bounds(n, least)+1 {
			t.Errorf("%v to %v: %d of %d moved, must be %.0f ± %.0f", c.before, c.after, moved, n, least*n, bounds(n, least))
		}
	}
}

func TestNoBackend(t *testing.T) {
	for _, c := range []struct {
		Action
		want bool
	}{
		{Action{}, true},
		{Action{Backends: []Backend{{Service: "a"}}}, true},
		{Action{Backends: []Backend{{Service: "", Weight: 1}}}, true},
		{Action{Backends: []Backend{{Service: "a", Weight: 1}}}, false},
		{Action{Redirect: &Redirect{Status: 302}}, false},
		{Action{Respond: &Respond{Status: 204}}, false},
	} {
		table, err := New("s", Rule{Name: "r", Action: c.Action})
		if err != nil {
			t.Fatal(err)
		}
		if d := table.Match(Head{}); !d.Matched() || d.NoBackend() != c.want || d.Match != nil {
			t.Errorf("%+v: no backend is %v, want %v", c.Action, d.NoBackend(), c.want)
		}
	}
	if d := To("s").Match(Head{}); d.NoBackend() {
		t.Error("a default has a backend")
	}
}
