package page

import (
	"errors"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/match"
)

// lens is which part of the graph is drawn. The zero value is all of it.
type lens struct {
	focus   string   // a service; "" with show cycles, or for all
	show    string   // a word of shows
	to      string   // with show path: where it ends
	kiosk   bool     // the graph alone, for a screen on a wall
	rows    int      // how many edges the table leaves out before its first
	measure string   // what labels of edges say first, a word of measures; "" the rate
	side    string   // whose figures edges have, "client" or "server"; "" the caller's, else the called one's
	group   string   // what services are drawn together by; "" as the size of the graph says
	open    []string // groups that are drawn as their services
	// What is lit, and what is left out, as it was written and as it was understood.
	find, hide   string
	finds, hides match.Expr
}

// shows are the parts of the graph that can be looked at.
var shows = []struct{ word, title string }{
	{"near", "and its neighbours"},
	{"up", "and all that depend on it"},
	{"down", "and all it depends on"},
	{"both", "and both, up and down"},
	{"path", "and the ways to"},
	{"cycles", "all cycles"},
}

// choice is a word of the URL and how it is called.
type choice struct{ word, title string }

// measures are what labels of edges can say, named as the texts that change live.
var measures = []choice{{"", "rate"}, {"err", "errors"}, {"p50", "p50"}, {"p95", "p95"}, {"p99", "p99"}}

// viewpoints are whose figures edges can have.
var viewpoints = []choice{{"", "as the caller sees it"}, {"client", "callers only"}, {"server", "as the called one sees it"}}

func wordsOf(list []choice) string {
	var out []string
	for _, c := range list {
		if c.word != "" {
			out = append(out, c.word)
		}
	}
	return strings.Join(out, ", ")
}

// sided is s as one side saw it, in a new snapshot: edges that it does not report have no figures.
func (l *lens) sided(s *graph.Snapshot) *graph.Snapshot {
	if l.side == "" {
		return s
	}
	p := *s
	p.Edges = slices.Clone(s.Edges)
	for i := range p.Edges {
		if l.side == "client" {
			p.Edges[i].Server = nil
		} else {
			p.Edges[i].Client = nil
		}
	}
	return &p
}

// parseLens reads focus, show, to and kiosk.
func parseLens(q url.Values) (lens, error) {
	l := lens{
		focus: strings.TrimSpace(q.Get("focus")), show: q.Get("show"), to: strings.TrimSpace(q.Get("to")), kiosk: q.Has("kiosk"),
		find: strings.TrimSpace(q.Get("find")), hide: strings.TrimSpace(q.Get("hide")), group: q.Get("group"), open: q["open"],
	}
	l.measure, l.side = q.Get("measure"), q.Get("side")
	for _, x := range []struct {
		of    string
		words []choice
		to    *string
	}{{"measure", measures, &l.measure}, {"side", viewpoints, &l.side}} {
		if !slices.ContainsFunc(x.words, func(c choice) bool { return c.word == *x.to }) {
			wrong := *x.to
			*x.to = ""
			return l.rest(), errors.New("there is no " + x.of + " " + strconv.Quote(wrong) + "; write " + wordsOf(x.words))
		}
	}
	if l.group != "" && l.group != noGroups && !slices.Contains(graph.Groupings(), graph.Grouping(l.group)) {
		wrong := l.group
		l.group, l.open = "", nil
		return l.rest(), errors.New("services are not drawn together by " + strconv.Quote(wrong) + "; write namespace, app, version, zone, node or none")
	}
	if n, err := strconv.Atoi(q.Get("rows")); err == nil && n > 0 {
		l.rows = n
	}
	if l.show == "" && l.focus != "" {
		l.show = "near"
		if l.to != "" {
			l.show = "path"
		}
	}
	known := l.show == ""
	words := make([]string, len(shows))
	for i, s := range shows {
		words[i] = s.word
		known = known || s.word == l.show
	}
	switch {
	case !known:
		return l.rest(), errors.New("the part " + strconv.Quote(l.show) + " is none of " + strings.Join(words, ", "))
	case l.show == "path" && l.focus != "" && l.to == "":
		return l.rest(), errors.New("a path has two ends: name the service it leads to as well")
	case l.show != "cycles" && l.focus == "":
		l.show, l.to = "", ""
	case l.show == "cycles":
		l.focus, l.to = "", ""
	}
	return l, nil
}

// rest is the lens without the part it shows.
func (l lens) rest() lens {
	l.focus, l.show, l.to = "", "", ""
	return l
}

// part reports whether less than the whole graph is meant.
func (l lens) part() bool { return l.show != "" }

// set writes the lens into a query.
func (l lens) set(q url.Values) {
	for k, v := range map[string]string{"focus": l.focus, "show": l.show, "to": l.to, "find": l.find, "hide": l.hide, "group": l.group, "measure": l.measure, "side": l.side} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if l.kiosk {
		q.Set("kiosk", "")
	}
	for _, name := range l.open {
		q.Add("open", name)
	}
	if l.rows > 0 {
		q.Set("rows", strconv.Itoa(l.rows))
	}
}

// apply returns the part of s that is looked at, in a new snapshot; s is not changed. An edge is in it when both of its ends are; of neighbours only the
// edges of the one in focus.
func (l lens) apply(s *graph.Snapshot) (*graph.Snapshot, error) {
	if !l.part() {
		return s, nil
	}
	index := make(map[string]int, len(s.Nodes))
	for i := range s.Nodes {
		index[s.Nodes[i].ID] = i
	}
	at := -1
	if l.focus != "" {
		var ok bool
		if at, ok = index[l.focus]; !ok {
			return s, errors.New("there is no service " + strconv.Quote(l.focus) + " in this graph; the whole is drawn")
		}
	}
	out, in := make([][]int, len(s.Nodes)), make([][]int, len(s.Nodes))
	for i := range s.Edges {
		a, ok1 := index[s.Edges[i].Source]
		b, ok2 := index[s.Edges[i].Destination]
		if ok1 && ok2 {
			out[a], in[b] = append(out[a], b), append(in[b], a)
		}
	}
	var seen []bool
	switch l.show {
	case "near":
		seen = make([]bool, len(s.Nodes))
		seen[at] = true
		for _, v := range slices.Concat(out[at], in[at]) {
			seen[v] = true
		}
	case "up":
		seen = reach(in, at)
	case "down":
		seen = reach(out, at)
	case "both":
		seen = merge(reach(in, at), reach(out, at), func(a, b bool) bool { return a || b })
	case "path":
		end, ok := index[l.to]
		if !ok {
			return s, errors.New("there is no service " + strconv.Quote(l.to) + " in this graph; the whole is drawn")
		}
		seen = merge(reach(out, at), reach(in, end), func(a, b bool) bool { return a && b })
	case "cycles":
		seen = make([]bool, len(s.Nodes))
		for v := range out {
			if slices.ContainsFunc(out[v], func(u int) bool { return u == v || !seen[v] && reach(out, u)[v] }) {
				seen[v] = true
			}
		}
	}
	p := *s
	p.Nodes, p.Edges = nil, nil
	for i := range s.Nodes {
		if seen[i] {
			p.Nodes = append(p.Nodes, s.Nodes[i])
		}
	}
	for i := range s.Edges {
		e := &s.Edges[i]
		a, ok1 := index[e.Source]
		b, ok2 := index[e.Destination]
		if ok1 && ok2 && seen[a] && seen[b] && (l.show != "near" || a == at || b == at) {
			p.Edges = append(p.Edges, *e)
		}
	}
	return &p, nil
}

// reach is what is reached from a node along next, itself too.
func reach(next [][]int, from int) []bool {
	seen := make([]bool, len(next))
	seen[from] = true
	for todo := []int{from}; len(todo) > 0; {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, u := range next[v] {
			if !seen[u] {
				seen[u] = true
				todo = append(todo, u)
			}
		}
	}
	return seen
}

func merge(a, b []bool, by func(a, b bool) bool) []bool {
	for i := range a {
		a[i] = by(a[i], b[i])
	}
	return a
}
