package show

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/store/graph"
)

func TestCriticalPath(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	span := func(id, parent string, from, to int) Span {
		return Span{ID: id, Parent: parent, Service: "s", Name: id, Start: zero.Add(ms(from)), Duration: ms(to - from)}
	}
	for name, c := range map[string]struct {
		spans []Span
		want  map[string]time.Duration
	}{
		"one after the other": {[]Span{span("root", "", 0, 100), span("a", "root", 10, 40), span("b", "root", 50, 90)}, map[string]time.Duration{"root": ms(30), "a": ms(30), "b": ms(40)}},
		"at the same time":    {[]Span{span("root", "", 0, 100), span("short", "root", 10, 50), span("long", "root", 10, 95)}, map[string]time.Duration{"root": ms(15), "long": ms(85)}},
		"outlives its parent": {[]Span{span("root", "", 0, 100), span("late", "root", 60, 200)}, map[string]time.Duration{"root": ms(60), "late": ms(40)}},
		"after its parent":    {[]Span{span("root", "", 0, 100), span("async", "root", 150, 200)}, map[string]time.Duration{"root": ms(100)}},
		"nested":              {[]Span{span("root", "", 0, 100), span("a", "root", 0, 100), span("b", "a", 20, 80)}, map[string]time.Duration{"a": ms(40), "b": ms(60)}},
		"a ring":              {[]Span{span("a", "b", 0, 10), span("b", "a", 0, 10)}, map[string]time.Duration{}},
		"nothing":             {nil, map[string]time.Duration{}},
	} {
		if diff := cmp.Diff(c.want, CriticalPath(c.spans)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Whatever the spans, the parts are the root's duration, and none is negative.
func TestCriticalPathIsTheWhole(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		root := Span{ID: "0", Start: zero, Duration: time.Second}
		spans := []Span{root}
		for i := 1; i < 2+rng.IntN(20); i++ {
			spans = append(spans, Span{
				ID: strconv.Itoa(i), Parent: strconv.Itoa(rng.IntN(i)), Start: zero.Add(time.Duration(rng.IntN(1200)-50) * time.Millisecond), Duration: time.Duration(rng.IntN(500)) * time.Millisecond,
			})
		}
		sum := time.Duration(0)
		for id, d := range CriticalPath(spans) {
			if d < 0 {
				t.Fatalf("%s: %s", id, d)
			}
			sum += d
		}

		if sum != time.Second {
			t.Fatalf("the path is %s of 1s: %+v", sum, spans)
		}
	}
}

func TestDrawings(t *testing.T) {
	var b strings.Builder
	g := snapshot()
	g.Nodes[0].Name = "cata\"log\x1b#<1>"
	_ = DOT(&b, g)
	b.WriteString("---\n")
	_ = Mermaid(&b, g)
	b.WriteString("---\n")
	v := func(r, e, p float64) *graph.View { return &graph.View{Rate: r, ErrorRatio: e, P99: p} }
	_ = Style{}.Difference(&b, graph.Difference{
		From: zero, To: zero.Add(time.Hour), Nodes: []graph.NodeChange{{ID: "cart", Name: "cart", Change: graph.ChangeNew}},
		Edges: []graph.EdgeChange{
			{Source: "web", Destination: "catalog", Changes: []graph.Change{graph.ChangeMoreErrors, graph.ChangeSlower}, Before: v(10, 0, 0.01), After: v(9, 0.2, 0.4)},
			{Source: "web", Destination: "old", Changes: []graph.Change{graph.ChangeGone}, Before: v(10, 0, 0.01)},
			{Source: "web", Destination: "cart", Changes: []graph.Change{graph.ChangeNew}, After: v(1, 0, 0.01)},
		},
	})
	_ = Style{}.Difference(&b, graph.Difference{From: zero, To: zero})
	golden(t, "drawings.txt", b.String())
}

func TestSparkline(t *testing.T) {
	at := func(values ...float64) (out []client.Point) {
		for i, v := range values {
			out = append(out, client.Point{Time: zero.Add(time.Duration(i) * time.Second), Value: v})
		}
		return out
	}
	nan := func() float64 { var z float64; return z / z }()
	for _, c := range []struct {
		points []client.Point
		width  int
		want   string
	}{
		{at(0, 1, 2, 3, 4, 5, 6, 7), 8, "▁▂▃▄▅▆▇█"},
		{at(5, 5, 5), 8, "▁▁▁"},
		{at(1, nan, 3), 3, "▁ █"},
		{at(0, 0, 10, 10), 2, "▁█"},
		{at(nan), 5, " "},
		{nil, 5, ""},
		{at(1), 0, ""},
	} {
		if got := Sparkline(c.points, c.width); got != c.want {
			t.Errorf("%v in %d: %q, want %q", c.points, c.width, got, c.want)
		}
	}
	var b strings.Builder
	_ = Style{}.Series(&b, []client.Series{{Labels: map[string]string{"__name__": "up", "job": "a"}, Points: at(3)}, {Points: at(123456)}},
		[]client.Series{{Labels: map[string]string{"__name__": "up", "job": "a"}, Points: at(1, 2, 3)}, {Labels: map[string]string{"job": "gone"}, Points: at(0.00012345)}}, 20)
	_ = Style{}.Series(&b, []client.Series{{Labels: map[string]string{"__name__": "up"}, Points: at(nan)}}, nil, 20)
	_ = Style{}.Series(&b, nil, nil, 20)
	golden(t, "series.txt", b.String())
}
