package page

import (
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/layout"
	"github.com/tulle-mesh/tulle/store/graph"
)

// mesh is a random one; every 50th edge fails.
func mesh(nodes, edges int) *graph.Snapshot {
	r := rand.New(rand.NewPCG(1, 2))
	s := &graph.Snapshot{Sequence: 1, At: dashboardtest.Epoch, Window: 10 * time.Second}
	for i := range nodes {
		s.Nodes = append(s.Nodes, graph.Node{ID: fmt.Sprintf("svc-%04d", i), Name: fmt.Sprintf("svc-%04d", i), Namespace: "shop", Kind: graph.KindService})
	}
	for i := range edges {
		v := graph.View{Requests: 100, Rate: 10, P50: .01, P95: .02, P99: .03}
		if i%50 == 0 {
			v.Errors, v.ErrorRatio = 10, .1
		}
		a, b := r.IntN(nodes), r.IntN(nodes)
		s.Edges = append(s.Edges, graph.Edge{
			ID: fmt.Sprintf("e%05d", i), Source: s.Nodes[a].ID, Destination: s.Nodes[b].ID, Protocol: "h2", State: graph.BothSides, MTLS: true, Client: &v, Server: &v,
		})
	}
	slices.SortFunc(s.Edges, func(a, b graph.Edge) int {
		return strings.Compare(a.Source+"\x00"+a.Destination, b.Source+"\x00"+b.Destination)
	})
	return s
}

type fixedGraph struct {
	dashboardtest.Graph
	s *graph.Snapshot
}

func (g *fixedGraph) Live() *graph.Snapshot { return g.s }

// A mesh of more than a hundred services is drawn with bundled lines, of which only those keep their words that fail; its table has the worst edges and
// says how many it leaves out.
func TestLargeMesh(t *testing.T) {
	for _, c := range []struct{ nodes, edges, fits, rows int }{{150, 1000, 20, 500}, {400, 2000, 0, 500}} {
		s := mesh(c.nodes, c.edges)
		in := graphInput(s)
		v := NewGraphView(s, (&layout.Memory{}).Draw(in, dashboardtest.Epoch, drawingOptions(in)))
		fits := 0
		for i := range v.Edges {
			if e := &v.Edges[i]; e.Route.Fits {
				fits++
			}
			if v.Edges[i].Route.Path == "" {
				t.Fatalf("edge %s has no line", v.Edges[i].ID)
			}
		}
		if fits != c.fits {
			t.Errorf("%d services: %d labels are shown, expected %d", c.nodes, fits, c.fits)
		}
		d := deps(t)
		d.Graph = &fixedGraph{s: s}
		w := httptest.NewRecorder()
		Topology(d)(w, httptest.NewRequest("GET", "/", nil))
		body := w.Body.String()
		_, table, _ := strings.Cut(body, "<tbody>")
		if n := strings.Count(table, "<tr "); n != c.rows {
			t.Errorf("the table has %d rows", n)
		}
		if !strings.Contains(body, "edges are left out") || !strings.Contains(table[:2000], `data-level="bad"`) {
			t.Error("the table does not say what it leaves out, or does not begin with the worst")
		}
	}
}
