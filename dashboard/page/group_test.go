package page

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/store/graph"
)

// Above 300 services the graph is drawn by namespace, unless something else is asked for; a group leads to itself opened, and what is found in it is found.
func TestManyServicesAreGrouped(t *testing.T) {
	d := deps(t)
	d.Graph = &fixedGraph{s: dashboardtest.LargeSnapshot(800, 1, dashboardtest.Epoch)}
	d.GroupPlaces = GroupPlaces(0)
	nodes := func(query string) (live string, list [][]any, body string) {
		t.Helper()
		w := httptest.NewRecorder()
		Topology(d)(w, httptest.NewRequest("GET", "/?"+query, nil))
		body = w.Body.String()
		if w.Code != 200 {
			t.Fatalf("%s: %d", query, w.Code)
		}
		_, live, _ = strings.Cut(body, `data-live="`)
		live, _, _ = strings.Cut(live, `"`)
		_, data, ok := strings.Cut(body, "<template>")
		if !ok {
			return live, nil, body
		}
		data, _, _ = strings.Cut(data, "</template>")
		var v struct{ Nodes [][]any }
		if err := json.Unmarshal([]byte(strings.TrimSpace(data)), &v); err != nil {
			t.Fatal(err)
		}
		return live, v.Nodes, body
	}
	live, list, body := nodes("")
	if live != "by-namespace events" || len(list) == 0 || len(list) > 100 {
		t.Errorf("%s, %d nodes", live, len(list))
	}
	if n := strings.Count(body, "25 services"); n == 0 {
		t.Error("no group says how many it is")
	}
	if live, list, _ := nodes("group=none"); live != "graph events" || len(list) != 800 {
		t.Errorf("%s, %d nodes", live, len(list))
	}
	live, list, body = nodes("group=namespace&open=team-01&find=" + url.QueryEscape("ns = team-02"))
	inside, found, leads := 0, 0, ""
	for _, n := range list {
		if n[2] == "team-01" && n[3] != string(graph.KindGroup) {
			inside++
		}
		if n[9].(float64) == 1 {
			found++
			leads = n[10].(string)
		}
	}
	if live != "events reload" || inside < 20 || found != 1 || leads != "/?find=ns+%3D+team-02&group=namespace&open=team-01&open=team-02" {
		t.Errorf("%s: %d of team-01, %d found, which leads to %s", live, inside, found, leads)
	}
	if !strings.Contains(body, "services and 0 edges found") || !strings.Contains(body, "<bdi>team-01</bdi> ×") {
		t.Error("it is not said what was found, or there is no way to close a group")
	}
	w := httptest.NewRecorder()
	Topology(d)(w, httptest.NewRequest("GET", "/?group=colour", nil))
	if w.Code != 400 || !strings.Contains(w.Body.String(), "not drawn together by") {
		t.Errorf("%d", w.Code)
	}
	s := d.live()
	items, _ := LiveItems(graph.Group(s, graph.ByNamespace, nil).Snapshot, nil, false)
	_, _, body = nodes("")
	if !strings.Contains(body, `data-structure=`+string(items["structure"])) {
		t.Error("the live topic is of another graph than the page")
	}
}
