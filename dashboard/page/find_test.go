package page

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

func topologyOf(t *testing.T, query url.Values) (status int, body string) {
	t.Helper()
	w := httptest.NewRecorder()
	Topology(deps(t))(w, httptest.NewRequest("GET", "/?"+query.Encode(), nil))
	return w.Code, w.Body.String()
}

// What is found is marked in the markup, so that it is seen without script, and counted; what is hidden is not there, nor are its edges.
func TestFindAndHide(t *testing.T) {
	count := func(body, what string) int { return len(regexp.MustCompile(what).FindAllString(body, -1)) }
	status, body := topologyOf(t, url.Values{"find": {"err > 1% and ns = shop"}})
	if status != 200 || count(body, `class="node found"`) != 3 || count(body, `class="edge found"`) != 0 || !strings.Contains(body, "3 services and 0 edges found") || !strings.Contains(body, `value="err &gt; 1% and ns = shop"`) {
		t.Errorf("%d: %d nodes, %d edges", status, count(body, `class="node found"`), count(body, `class="edge found"`))
	}
	whole, edges := count(body, `class="node`), count(body, `class="edge( found)?"`)
	status, body = topologyOf(t, url.Values{"hide": {"name = catalog"}, "find": {"src = web"}})
	if status != 200 || count(body, `class="node`) != whole-1 || count(body, `class="edge( found)?"`) != edges-5 || count(body, `class="edge found"`) != 3 || strings.Contains(body, `data-key="n:catalog"`) {
		t.Errorf("%d: %d nodes, %d edges of %d, %d found", status, count(body, `class="node`), count(body, `class="edge( found)?"`), edges, count(body, `class="edge found"`))
	}
	if !strings.Contains(body, "Whole graph") {
		t.Error("no way back to the whole")
	}
	status, body = topologyOf(t, url.Values{"find": {"err > much"}, "hide": {"kind = external"}})
	if status != 400 || !strings.Contains(body, "      ^") || !strings.Contains(body, "is no share") || strings.Contains(body, `data-key="n:bank.example.com"`) {
		t.Errorf("%d: an error does not say where, or takes what is well with it", status)
	}
}

func TestWordsGoOn(t *testing.T) {
	w := httptest.NewRecorder()
	TopologyWords(deps(t))(w, httptest.NewRequest("GET", "/topology/words?text="+url.QueryEscape("err > 1% and name = ca"), nil))
	var got struct {
		Before string
		List   []struct{ Text, Help string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || got.Before != "err > 1% and name = " || len(got.List) != 2 || got.List[0].Text != "cart" || got.List[1].Text != "catalog" {
		t.Errorf("%v: %+v", err, got)
	}
}

// Edges say what they are asked for, as one side saw it.
func TestMeasureAndSide(t *testing.T) {
	_, body := topologyOf(t, url.Values{"measure": {"p95"}})
	if strings.Count(body, `class="label-rate"`) == 0 || strings.Contains(body, `text-anchor="middle" data-f="rate"`) || !strings.Contains(body, `text-anchor="middle" data-f="p95">`) {
		t.Error("labels say something else")
	}
	cell := func(body, key, of string) string {
		_, row, _ := strings.Cut(body, `<tr data-key="`+key+`"`)
		_, c, _ := strings.Cut(row, `data-f="`+of+`">`)
		c, _, _ = strings.Cut(c, "<")
		return c
	}
	const key = "e:web→catalog:http/1.1"
	_, caller := topologyOf(t, url.Values{"side": {"client"}})
	_, called := topologyOf(t, url.Values{"side": {"server"}})
	if a, b := cell(caller, key, "p50"), cell(called, key, "p50"); a != "14 ms" || b != "12 ms" {
		t.Errorf("%s and %s", a, b)
	}
	if mail := cell(called, "e:checkout→mail:http/1.1", "rate"); mail != "–" {
		t.Errorf("of whom nobody reports: %s", mail)
	}
	if tries := cell(caller, key, "tries"); tries != "8.3%" {
		t.Errorf("tried again: %s", tries)
	}
	if !strings.Contains(body, "the called side saw ") {
		t.Error("an edge does not say what the other side saw")
	}
	for _, q := range []url.Values{{"measure": {"mood"}}, {"side": {"dark"}}} {
		if status, body := topologyOf(t, q); status != 400 || !strings.Contains(body, "; write ") {
			t.Errorf("%v: %d", q, status)
		}
	}
}
