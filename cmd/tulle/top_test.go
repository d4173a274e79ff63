//go:build unix

package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/store/graph"
)

// snapshot has ten services, s0 to s9, each calling the next; s0 is the busiest, s9 fails most, s5 is the slowest.
func snapshot() *graph.Snapshot {
	g := &graph.Snapshot{Window: 10 * time.Second}
	for i := range 10 {
		v := graph.View{Rate: float64(100 - i), ErrorRatio: float64(i) / 100, P99: 0.1}
		if i == 5 {
			v.P99 = 9
		}
		name := fmt.Sprintf("s%d", i)
		g.Nodes = append(g.Nodes, graph.Node{ID: name, Name: name, Kind: graph.KindService, Inbound: v})
		g.Edges = append(g.Edges, graph.Edge{ID: name, Source: name, Destination: fmt.Sprintf("s%d", (i+1)%10), Protocol: "h2", Client: &v, State: graph.BothSides})
	}
	return g
}

func frame(t *testing.T, v *topView, width, height int) string {
	t.Helper()
	all, err := v.frame(width, height)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) > height {
		t.Errorf("%d lines on %d", len(all), height)
	}
	for _, l := range all {
		if n := len([]rune(l)); n > width {
			t.Errorf("%d columns on %d: %s", n, width, l)
		}
	}
	return strings.Join(all, "\n")
}

func TestKeysOfTop(t *testing.T) {
	v := &topView{}
	if got := frame(t, v, 80, 24); !strings.Contains(got, "waiting") {
		t.Error(got)
	}
	v.graph = snapshot()
	first := func() string { // the first service, or edge where there are no services
		return strings.Fields(strings.Split(frame(t, v, 120, 60), "\n")[3])[0]
	}
	for _, c := range []struct{ key, first string }{{"", "s0"}, {"e", "s9"}, {"l", "s5"}, {"n", "s0"}, {"r", "s0"}, {"\t", "s0"}, {"e", "s9"}} {
		if c.key != "" && !v.key(c.key) {
			t.Fatalf("%q ended it", c.key)
		}
		if got := first(); got != c.first {
			t.Errorf("after %q: %s is first, want %s", c.key, got, c.first)
		}
	}
	if got := frame(t, v, 120, 60); strings.Contains(got, "EDGE") || !strings.Contains(got, "SERVICE") {
		t.Error("only services: " + got)
	}
	v.key("\t")
	if got := frame(t, v, 120, 60); !strings.Contains(got, "EDGE") || strings.Contains(got, "SERVICE ") {
		t.Error("only edges: " + got)
	}
	v.key("\t")
	v.key(" ")
	if got := frame(t, v, 120, 60); !strings.Contains(got, "HELD") {
		t.Error("held: " + got)
	}
	for _, end := range []string{"q", "\x03"} {
		if v.key(end) {
			t.Errorf("%q did not end it", end)
		}
	}
}

func TestTopScrollsWithinItself(t *testing.T) {
	v := &topView{graph: snapshot()}
	for range 100 {
		v.key("\x1b[6~")
		frame(t, v, 100, 12)
	}
	if got := frame(t, v, 100, 12); !strings.Contains(got, "23 of 23 lines") || !strings.Contains(got, "s9 → s0") {
		t.Error(got)
	}
	for range 100 {
		v.key("k")
		frame(t, v, 40, 3) // hardly any room
	}
	if got := frame(t, v, 100, 12); v.top != 0 || !strings.Contains(got, "9 of 23 lines") {
		t.Error(got)
	}
}

func TestSplitKeys(t *testing.T) {
	got := slices.Collect(splitKeys("q\x1b[A\x1b[6~\tx\x1b"))
	if want := []string{"q", "\x1b[A", "\x1b[6~", "\t", "x", "\x1b"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestParseInstant(t *testing.T) {
	now := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	for text, want := range map[string]string{
		"10m": "2026-01-02T14:54:05Z", "14:30": "2026-01-02T14:30:00Z", "14:30:09": "2026-01-02T14:30:09Z", "2026-01-01T01:02:03+01:00": "2026-01-01T01:02:03+01:00",
		"1767225600": "2026-01-01T00:00:00Z", "2026-01-01 12:00": "2026-01-01T12:00:00Z",
	} {
		got, err := parseInstant(text, now)
		w, _ := time.Parse(time.RFC3339, want)
		if err != nil || !got.Equal(w) {
			t.Errorf("%s: %v, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "yesterday", "-10m", "25:00", "0"} {
		if got, err := parseInstant(text, now); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
