package page

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
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

// A mesh of more than a hundred services goes to the browser as lists, in which every edge is; its table has the worst edges first, pages to all, and says how many
// are left out.
func TestLargeMesh(t *testing.T) {
	s := mesh(150, 1000)
	d := deps(t)
	d.Graph = &fixedGraph{s: s}
	ask := func(path string) string {
		w := httptest.NewRecorder()
		Topology(d)(w, httptest.NewRequest("GET", path, nil))
		return w.Body.String()
	}
	body := ask("/")
	_, table, _ := strings.Cut(body, "<tbody>")
	if n := strings.Count(table, "<tr "); n != maxRows {
		t.Errorf("the table has %d rows", n)
	}
	if !strings.Contains(body, "900 edges are left out") || !strings.Contains(table[:2000], `data-level="bad"`) || strings.Contains(body, "<svg class=\"graph\"") {
		t.Error("the table does not say what it leaves out, does not begin with the worst, or there is markup of a drawing")
	}
	seen := map[string]bool{}
	for from := 0; from < 1000; from += maxRows {
		for _, m := range regexp.MustCompile(`<tr data-key="([^"]+)"`).FindAllStringSubmatch(ask(fmt.Sprintf("/?rows=%d", from)), -1) {
			seen[m[1]] = true
		}
	}
	if len(seen) != 1000 {
		t.Errorf("the pages of the table have %d edges", len(seen))
	}
	_, list, _ := strings.Cut(body, "<template>")
	list, _, _ = strings.Cut(list, "</template>")
	var data struct {
		W     float64
		Nodes [][]any
		Edges [][]any
	}
	if err := json.Unmarshal([]byte(list), &data); err != nil {
		t.Fatal(err)
	}
	if len(data.Nodes) != 150 || len(data.Edges) != 1000 || data.W < 100 {
		t.Errorf("%d nodes and %d edges on %v px", len(data.Nodes), len(data.Edges), data.W)
	}
	items, edges := LiveItems(s, nil, true)
	bad := 0
	for i, e := range data.Edges {
		from, to := data.Nodes[int(e[0].(float64))][0].(string), data.Nodes[int(e[1].(float64))][0].(string)
		if from != s.Edges[i].Source || to != s.Edges[i].Destination || e[2] != s.Edges[i].Protocol {
			t.Fatalf("edge %d is %v", i, e)
		}
		var live, few []string
		if err := json.Unmarshal(items["e:"+s.Edges[i].ID], &few); err != nil || len(few) < 2 || len(few) == 2 && few[0] != "" || few[1] != e[6].([]any)[1] {
			t.Fatalf("edge %d has %v: %v", i, few, err)
		}
		if err := json.Unmarshal(edges["e:"+s.Edges[i].ID], &live); err != nil || live[0] != e[6].([]any)[0] || live[2] != e[6].([]any)[2] {
			t.Fatalf("live, edge %d is %v: %v", i, live, err)
		}
		if live[0] == "bad" {
			bad++
		}
	}
	if bad != 20 {
		t.Errorf("%d edges are bad", bad)
	}
}

// Names in the lists of a canvas cannot end them.
func TestNamesCannotLeaveTheLists(t *testing.T) {
	v := GraphView{}
	for _, name := range dashboardtest.Nasty {
		v.Nodes = append(v.Nodes, NodeView{ID: name, Name: "</template><script>" + name, Namespace: name})
	}
	data, err := v.Data()
	if err != nil || strings.ContainsAny(data, "<>&") {
		t.Errorf("%v: %s", err, data)
	}
	var back meshData
	if err := json.Unmarshal([]byte(data), &back); err != nil || len(back.Nodes) != len(dashboardtest.Nasty) {
		t.Error(err)
	}
}
