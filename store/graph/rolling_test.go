package graph

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// checkRolling holds the sum of the live window to a sum made anew.
func (s *sim) checkRolling() {
	s.t.Helper()
	g := s.g
	want := newSlot(0)
	for sec := g.rolled.from; sec < g.rolled.to; sec++ {
		if o := g.slots[sec]; o != nil {
			want.add(o)
		}
	}
	if a, b := g.printSlot(want), g.printSlot(g.rolling); a != b {
		s.t.Fatalf("the sum of the window (-made anew +rolled):\n%s", cmp.Diff(strings.Split(a, "\n"), strings.Split(b, "\n")))
	}
}

func (g *Graph) printSlot(s *slot) string {
	var out []string
	for i, c := range s.edges {
		if c == nil {
			continue
		}
		k, e := fmt.Sprint(g.byID[i/2].key, i%2), *c
		e.latency, e.reasons, e.grpc, e.exemplars = hist{}, nil, nil, nil
		out = append(out, fmt.Sprintf("%v %+v %v %v %s %v", k, e, sortedCounts(c.reasons), sortedCounts(c.grpc), printHist(&c.latency), c.exemplars))
	}
	for k, c := range s.endpoints {
		if c.requests+c.probes+c.latency.count == 0 {
			continue // of an example alone, which no window shows
		}
		out = append(out, fmt.Sprintf("%s %v %s %d %d %d %d %v %s", k.reporter.key.instance, k.side, k.endpoint, c.requests, c.failures, c.probes, c.probeFailures, sortedCounts(c.reasons), printHist(&c.latency)))
	}
	for k, c := range s.versions {
		out = append(out, fmt.Sprintf("%v %v", k, *c))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func sortedCounts(m map[string]uint64) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprint(k, "=", m[k]))
	}
	return out
}

// printHist prints the buckets that have something, wherever the slice begins.
func printHist(h *hist) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %d", h.count, h.zero) // the sum differs in its last digits, and no window shows it
	for i, n := range h.n {
		if n > 0 {
			fmt.Fprintf(&b, " %d:%d", h.off+int32(i), n)
		}
	}
	return b.String()
}

// Exports that are held back, lost, repeated and late, restarts and a clock that jumps leave the sum of the window what a sum made anew says; sim.second
// looks after every tick, in the scripts too.
func TestTheSumOfTheWindowIsThatOfItsSlots(t *testing.T) {
	for seed := range uint64(8) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := newSim(t)
		for i := range 4 {
			s.command(strings.Fields(fmt.Sprintf("sidecar s%d-1 service=s%d address=10.0.0.%d:80 version=v%d", i, i, i+1, i)))
		}
		options := []string{"", "/err", "/refused", "/lost", "/probe", "/grpc=UNAVAILABLE", "/trace=abcd", "/err/trace=ef01", "/broken"}
		for range 120 {
			name := fmt.Sprintf("s%d-1", rnd.IntN(4))
			switch rnd.IntN(12) {
			case 0:
				s.command([]string{"hold", name})
			case 1:
				s.command([]string{"lose", name})
			case 2:
				s.command([]string{"flow", name})
				s.command([]string{"release", name})
			case 3:
				s.command([]string{"restart", name})
			case 4:
				if s.sidecars[name].sequence > 0 {
					s.command([]string{"repeat", name})
				}
			case 5:
				for range rnd.IntN(40) { // nobody reports
					s.second(nil)
				}
			}
			var calls []string
			for range rnd.IntN(4) {
				calls = append(calls, fmt.Sprintf("s%d-1>s%d-1:%d/ms=%d%s", rnd.IntN(4), rnd.IntN(4), 1+rnd.IntN(9), 1+rnd.IntN(400), options[rnd.IntN(len(options))]))
			}
			s.second(calls)
		}
		s.checkSeries()
	}
}

// checkSeries holds the series that are written to the totals of edges: one request counted is one, wherever it is counted.
func (s *sim) checkSeries() {
	s.t.Helper()
	g := s.g
	g.dueCounts, g.dueHists = settleAll(g.dueCounts), settleAll(g.dueHists)
	type key struct{ source, destination, side, protocol string }
	requests, durations, graph := map[key]uint64{}, map[key]uint64{}, map[key]uint64{}
	for k, c := range g.counters {
		switch v := k.values; k.metric {
		case SeriesRequests:
			requests[key{v[0], v[1], v[2], v[3]}] += uint64(c.value)
		case SeriesServiceGraph:
			graph[key{v[0], v[1], "", ""}] += uint64(c.value)
		}
	}
	for k, h := range g.hists {
		if v := k.values; k.metric == SeriesDuration {
			durations[key{v[0], v[1], v[2], v[3]}] += h.hist.count
		}
	}
	seen := uint64(0)
	for _, t := range g.Totals() {
		client, server := key{t.Source, t.Destination, "client", t.Protocol}, key{t.Source, t.Destination, "server", t.Protocol}
		if requests[client] != t.ClientExchanges || durations[client] != t.ClientExchanges || requests[server] != t.ServerExchanges || durations[server] != t.ServerExchanges {
			s.t.Errorf("%s to %s: %d and %d exchanges, in series %d and %d, with durations %d and %d", t.Source, t.Destination, t.ClientExchanges, t.ServerExchanges,
				requests[client], requests[server], durations[client], durations[server])
		}
		graph[key{t.Source, t.Destination, "", ""}] -= t.ClientExchanges
		seen += t.ClientExchanges
	}
	for k, n := range graph {
		if n != 0 && k.source != unmeshed {
			s.t.Errorf("%v: the service graph counts %d besides", k, int64(n))
		}
	}
	if seen == 0 {
		s.t.Error("nothing was counted")
	}
}
