package page

import (
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/store/graph"
)

func chain(edges ...string) *graph.Snapshot {
	s := &graph.Snapshot{}
	for _, e := range edges {
		a, b, _ := strings.Cut(e, ">")
		for _, id := range []string{a, b} {
			if !slices.ContainsFunc(s.Nodes, func(n graph.Node) bool { return n.ID == id }) {
				s.Nodes = append(s.Nodes, graph.Node{ID: id, Name: id})
			}
		}
		s.Edges = append(s.Edges, graph.Edge{ID: e, Source: a, Destination: b})
	}
	return s
}

// Each part of the graph that one can look at, as a line of its edges.
func TestLens(t *testing.T) {
	s := chain("in>web", "web>cart", "web>shop", "cart>stock", "shop>stock", "stock>db", "stock>cart", "mail>mail", "shop>mail")
	for _, c := range []struct{ query, want string }{
		{"", "in>web web>cart web>shop cart>stock shop>stock stock>db stock>cart mail>mail shop>mail"},
		{"focus=cart", "web>cart cart>stock stock>cart"},
		{"focus=shop&show=up", "in>web web>shop"},
		{"focus=cart&show=down", "cart>stock stock>db stock>cart"},
		{"focus=shop&show=both", "in>web web>cart web>shop cart>stock shop>stock stock>db stock>cart mail>mail shop>mail"},
		{"focus=web&to=db", "web>cart web>shop cart>stock shop>stock stock>db stock>cart"},
		{"focus=db&to=web&show=path", ""},
		{"show=cycles", "cart>stock stock>cart mail>mail"},
	} {
		q, _ := url.ParseQuery(c.query)
		l, err := parseLens(q)
		if err != nil {
			t.Fatal(err)
		}
		p, err := l.apply(s)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range p.Edges {
			got = append(got, e.ID)
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: %s", c.query, g)
		}
		again := url.Values{}
		l.set(again)
		if m, err := parseLens(again); err != nil || !reflect.DeepEqual(m, l) {
			t.Errorf("%s: read again as %+v, %v", c.query, m, err)
		}
	}
	for _, query := range []string{"focus=web&show=sideways", "focus=web&show=path"} {
		q, _ := url.ParseQuery(query)
		if _, err := parseLens(q); err == nil {
			t.Errorf("%s was understood", query)
		}
	}
	if _, err := (lens{focus: "nobody", show: "near"}).apply(s); err == nil {
		t.Error("a service that is not there was found")
	}
}

// The page has the part in its drawing, its table and its links through time; a mistake is said beside the whole graph.
func TestTopologyThroughALens(t *testing.T) {
	d := deps(t)
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		Topology(d)(w, httptest.NewRequest("GET", path, nil))
		return w.Code, w.Body.String()
	}
	code, body := get("/?focus=payment&show=up&span=1h&kiosk")
	if code != 200 || !strings.Contains(body, `data-key="n:checkout"`) || strings.Contains(body, `data-key="n:search"`) || !strings.Contains(body, "focus=payment") ||
		!strings.Contains(body, `class="board kiosk"`) || strings.Contains(body, `data-live="graph`) {
		t.Errorf("%d: the part is not what is drawn", code)
	}
	if code, body = get("/?focus=nobody"); code != 404 || !strings.Contains(body, "there is no service") || !strings.Contains(body, `data-key="n:search"`) {
		t.Errorf("%d for a service that is not there", code)
	}
	if code, _ = get("/?focus=web&show=sideways"); code != 400 {
		t.Errorf("%d for a part that is not there", code)
	}
}
