package page

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/store/graph"
)

func export(t *testing.T, d *Deps, ext, query string) (status int, media, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	TopologyExport(ext)(d)(w, httptest.NewRequest("GET", "/topology/export."+ext+query, nil))
	return w.Code, w.Header().Get("Content-Type"), w.Body.String()
}

// elements are those of an XML document by name, and an error when it is none.
func elements(document string) (map[string]int, error) {
	n := map[string]int{}
	for d := xml.NewDecoder(strings.NewReader(document)); ; {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if e, ok := tok.(xml.StartElement); ok {
			n[e.Name.Local]++
			for _, a := range e.Attr {
				if a.Name.Local == "style" || strings.HasPrefix(a.Name.Local, "on") {
					n["inline"]++
				}
			}
		}
	}
}

// What the page shows is taken away in every form, with what is found and hidden, small and large, whatever names it has.
func TestExports(t *testing.T) {
	d := deps(t)
	shop := dashboardtest.Snapshot(1, dashboardtest.Epoch)
	for _, query := range []string{"", "?theme=dark", "?find=err%3E1%25"} {
		status, media, body := export(t, d, "svg", query)
		n, err := elements(body)
		if status != 200 || media != "image/svg+xml" || err != nil || n["a"] != len(shop.Nodes)+len(shop.Edges) || n["inline"]+n["style"]+n["script"] > 0 {
			t.Errorf("%s: %d %s: %v %v", query, status, media, n, err)
		}
		if strings.Contains(body, darkColours.surface) != strings.Contains(query, "dark") || strings.Contains(body, `opacity=".25"`) != strings.Contains(query, "find") {
			t.Errorf("%s is drawn otherwise", query)
		}
	}
	if _, media, body := export(t, d, "dot", "?hide=name+%3D+catalog"); !strings.HasPrefix(body, "digraph tulle {") || strings.Contains(body, "catalog") || !strings.Contains(body, `"web" -> "search"`) || !strings.Contains(media, "graphviz") {
		t.Error(body)
	}
	if _, _, body := export(t, d, "mmd", "?focus=cart"); !strings.HasPrefix(body, "flowchart LR") || strings.Contains(body, "search") || !strings.Contains(body, `"cart"`) {
		t.Error(body)
	}
	var s graph.Snapshot
	if _, _, body := export(t, d, "json", "?focus=cart"); json.Unmarshal([]byte(body), &s) != nil || len(s.Nodes) < 3 || len(s.Nodes) >= len(shop.Nodes) {
		t.Errorf("%d nodes", len(s.Nodes))
	}
	if status, _, body := export(t, d, "svg", "?find=err+%3E"); status != 400 || !strings.Contains(body, "column 6") {
		t.Errorf("%d %s", status, body)
	}
	d.Graph = &fixedGraph{s: mesh(150, 1000)}
	if _, _, body := export(t, d, "svg", ""); strings.Count(body, "<path d=\"M") < 1000 || strings.Contains(body, `d=""`) {
		t.Error("a large graph has no lines")
	}
	d.Graph = dashboardtest.NastySources(time.Now()).Graph
	for _, ext := range []string{"svg", "dot", "mmd", "json"} {
		_, _, body := export(t, d, ext, "")
		if ext != "json" && strings.ContainsAny(body, "\x00\x1b") {
			t.Errorf("%s has control characters", ext)
		}
		if ext == "svg" {
			if n, err := elements(body); err != nil || n["script"]+n["img"]+n["inline"] > 0 {
				t.Errorf("%v %v", n, err)
			}
		}
	}
	_, page := topologyOf(t, map[string][]string{"find": {"err > 1%"}})
	if !strings.Contains(page, `href="/topology/export.svg?find=err+%3E+1%25"`) || !strings.Contains(page, `download="topology.mmd"`) {
		t.Error("the page's links do not carry what is found")
	}
}
