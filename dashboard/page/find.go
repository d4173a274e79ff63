package page

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/match"
)

// hide is s without what an expression holds for, and the edges of services that it holds for, in a new snapshot.
func hide(s *graph.Snapshot, e match.Expr) *graph.Snapshot {
	found := graph.Find(s, e)
	if len(found.Nodes)+len(found.Edges) == 0 {
		return s
	}
	p := *s
	p.Nodes, p.Edges = nil, nil
	for i := range s.Nodes {
		if !found.Nodes[s.Nodes[i].ID] {
			p.Nodes = append(p.Nodes, s.Nodes[i])
		}
	}
	for i := range s.Edges {
		if ed := &s.Edges[i]; !found.Edges[ed.ID] && !found.Nodes[ed.Source] && !found.Nodes[ed.Destination] {
			p.Edges = append(p.Edges, *ed)
		}
	}
	return &p
}

// find marks what an expression holds for, in s, and what stands for it in g, which may be nil.
func (v *GraphView) find(s *graph.Snapshot, g *graph.Grouped, e match.Expr) {
	if e.Empty() {
		return
	}
	v.Finding = true
	found := graph.Find(s, e)
	v.Says = part.Plural(len(found.Nodes), "service", "services") + " and " + part.Plural(len(found.Edges), "edge", "edges") + " found"
	found = foundIn(g, found)
	for i := range v.Nodes {
		v.Nodes[i].Found = found.Nodes[v.Nodes[i].ID]
	}
	for i := range v.Edges {
		v.Edges[i].Found = found.Edges[v.Edges[i].ID]
	}
}

// parseWords reads find and hide; pointer is the one that cannot be understood, with a caret where.
func (l *lens) parseWords() (pointer string, err error) {
	for _, x := range []struct {
		name, text string
		to         *match.Expr
	}{{"hide", l.hide, &l.hides}, {"find", l.find, &l.finds}} {
		e, wrong := graph.Words.Parse(x.text)
		if wrong == nil {
			*x.to = e
			continue
		}
		err, pointer = errors.New("What to "+x.name+": "+wrong.Error()), ""
		if at := (*match.Error)(nil); errors.As(wrong, &at) {
			pointer = at.Pointer()
		}
	}
	return pointer, err
}

// maxSuggestions is how many words are offered to go on with.
const maxSuggestions = 12

// TopologyWords answers, in JSON, how the expression ?text= may go on: what of it stays, and words for what follows.
func TopologyWords(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s := d.live()
		before, list := graph.Words.Complete(r.URL.Query().Get("text"), func(f *match.Field) []string { return graph.ValuesOf(s, f.Name) })
		if list == nil {
			list = []match.Suggestion{}
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(struct {
			Before string             `json:"before"`
			List   []match.Suggestion `json:"list"`
		}{before, slices.Clip(list[:min(maxSuggestions, len(list))])})
	}
}
