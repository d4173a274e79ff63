package route

import (
	"slices"
	"strings"
)

// index finds the first entry, by precedence, that matches a request, without asking each. What must stay true:
//
//  1. entries is in the order of precedence, and an entry's rank is its place in it. Exact paths, regular expressions and prefixes from the longest to the shortest are each
//     wholly before what follows, so that the first of these places in which anything matches has the winner.
//  2. Within one place (a node) the winner is the one of the lowest rank: groups and lists that begin behind the best so far are left out.
//  3. Every entry stands in exactly one node, below values that it asks for itself.
//
// The cost grows with the length of the path, the number of prefixes that it is under, the number of different names that a node's entries ask for, and the number of
// regular expressions, each of which is run in its turn in time linear in the text (limits in check.go); not with the number of rules.
type index struct {
	rules   []compiled
	entries []entry
	paths   tree
	regexes []*entry
}

// entry is one match of a rule.
type entry struct {
	rank int
	rule *compiled
	m    *matcher // nil: every request
}

func (e *entry) match() *Match {
	if e.m == nil {
		return nil
	}
	return e.m.Match
}

func newIndex(rules []compiled) *index {
	x := &index{rules: rules}
	for i := range rules {
		r := &rules[i]
		if len(r.matches) == 0 {
			x.entries = append(x.entries, entry{rule: r})
		}
		for k := range r.matches {
			x.entries = append(x.entries, entry{rule: r, m: &r.matches[k]})
		}
	}
	slices.SortStableFunc(x.entries, func(a, b entry) int {
		c, _ := compare(a.match(), b.match())
		return c
	})
	type place struct {
		path  string
		exact bool
	}
	at := map[place][]asked{}
	for i := range x.entries {
		e := &x.entries[i]
		e.rank = i
		switch {
		case e.m == nil || e.m.Path.Kind == PathAny:
			at[place{}] = append(at[place{}], asks(e))
		case e.m.Path.Kind == PathPrefix:
			p := place{path: trimmed(e.m.Path.Value)}
			at[p] = append(at[p], asks(e))
		case e.m.Path.Kind == PathExact:
			p := place{path: e.m.Path.Value, exact: true}
			at[p] = append(at[p], asks(e))
		case e.m.Path.Kind == PathRegex:
			x.regexes = append(x.regexes, e)
		}
	}
	for p, list := range at {
		if t := x.paths.insert(p.path); p.exact {
			t.exact = newNode(list)
		} else {
			t.prefix = newNode(list)
		}
	}
	x.paths.link("", nil)
	return x
}

func (x *index) find(head *Head) *entry {
	h := &lookups{Head: head}
	exact, deepest := x.paths.walk(h.Path)
	if exact != nil {
		if e := exact.find(h, nil); e != nil {
			return e
		}
	}
	for _, e := range x.regexes {
		if e.m.beside(h.Head) && e.m.on(h.Path) { // what is cheap first
			return e
		}
	}
	for t := deepest; t != nil; t = t.up {
		if e := t.prefix.find(h, nil); e != nil {
			return e
		}
	}
	return nil
}

// tree is a radix tree of paths, of bytes; prefixes stand in it without the slash at their end.
type tree struct {
	text   string // of the way from its parent
	first  string // bytes of children's texts
	kids   []*tree
	exact  *node
	prefix *node
	up     *tree // the next shorter prefix, by whole segments
}

func (t *tree) insert(path string) *tree {
	for path != "" {
		i := strings.IndexByte(t.first, path[0])
		if i < 0 {
			kid := &tree{text: path}
			t.first, t.kids = t.first+path[:1], append(t.kids, kid)
			return kid
		}
		kid, n := t.kids[i], 1
		for n < len(kid.text) && n < len(path) && kid.text[n] == path[n] {
			n++
		}
		if n < len(kid.text) { // split
			t.kids[i] = &tree{text: kid.text[:n], first: kid.text[n : n+1], kids: []*tree{kid}}
			kid.text = kid.text[n:]
			kid = t.kids[i]
		}
		t, path = kid, path[n:]
	}
	return t
}

// link sets up of all below t, which stands at path; above are the prefixes on the way to it, from the shortest, by their lengths.
func (t *tree) link(path string, above []*linked) {
	for i := len(above) - 1; i >= 0 && t.prefix != nil; i-- {
		if n := above[i].length; n == 0 || n < len(path) && path[n] == '/' {
			t.up = above[i].tree
			break
		}
	}
	if t.prefix != nil {
		above = append(slices.Clip(above), &linked{t, len(path)})
	}
	for _, kid := range t.kids {
		kid.link(path+kid.text, above)
	}
}

type linked struct {
	*tree
	length int
}

// walk is what stands at path exactly, and the longest of the prefixes that it is under.
func (t *tree) walk(path string) (exact *node, deepest *tree) {
	if t.prefix != nil {
		deepest = t
	}
	for path != "" {
		i := strings.IndexByte(t.first, path[0])
		if i < 0 || !strings.HasPrefix(path, t.kids[i].text) {
			return nil, deepest
		}
		t = t.kids[i]
		if path = path[len(t.text):]; t.prefix != nil && (path == "" || path[0] == '/') {
			deepest = t
		}
	}
	return t.exact, deepest
}

// node holds entries of one path, sorted out by what they ask for besides.
type node struct {
	rank   int      // the lowest
	list   []*entry // by rank: too few to sort out, or asking for nothing that can be looked up
	groups []group  // by rank
}

// group are entries that ask for one method, header field or query parameter.
type group struct {
	of     attribute
	rank   int
	values map[string]*node
	any    *node // those that ask for it to be there
}

type attributeKind uint8

const (
	attributeMethod attributeKind = iota
	attributeHeader
	attributeQuery
)

type attribute struct {
	kind attributeKind
	name string
}

// lookups are what was looked up in a Head: the nodes of nested prefixes mostly ask for the same.
type lookups struct {
	*Head
	last  attribute
	value string
	ok    bool
}

func (h *lookups) of(a *attribute) (string, bool) {
	switch {
	case a.kind == attributeMethod:
		return h.Method, true
	case h.last == *a:
	case a.kind == attributeHeader:
		h.value, h.ok = h.field(a.name)
	default:
		h.value, h.ok = h.parameter(a.name)
	}
	h.last = *a
	return h.value, h.ok
}

// asked is an entry with what of it can be looked up and was not yet.
type asked struct {
	*entry
	conditions []condition
}

type condition struct {
	attribute
	value   string
	present bool
}

func asks(e *entry) asked {
	a := asked{entry: e}
	if e.m == nil {
		return a
	}
	if e.m.Method != "" {
		a.conditions = append(a.conditions, condition{attribute: attribute{kind: attributeMethod}, value: e.m.Method})
	}
	of := func(kind attributeKind, values []Value) {
		for _, v := range values {
			if v.Kind != ValueRegex {
				a.conditions = append(a.conditions, condition{attribute{kind, v.Name}, v.Value, v.Kind == ValuePresent})
			}
		}
	}
	of(attributeHeader, e.m.Headers)
	of(attributeQuery, e.m.Query)
	return a
}

// few entries are asked one by one faster than they are looked up.
const few = 3

// newNode sorts out a list, which is by rank. Each entry goes by the condition that the fewest others share, of several by the attribute that most ask for.
func newNode(list []asked) *node {
	n := &node{rank: list[0].rank}
	if len(list) <= few {
		for _, a := range list {
			n.list = append(n.list, a.entry)
		}
		return n
	}
	sharing, wanted := map[condition]int{}, map[attribute]int{}
	for _, a := range list {
		for _, c := range a.conditions {
			sharing[c]++
			wanted[c.attribute]++
		}
	}
	below := map[condition][]asked{}
	var order []condition // by the rank of their first entries
	for _, a := range list {
		if len(a.conditions) == 0 {
			n.list = append(n.list, a.entry)
			continue
		}
		best := 0
		for i, c := range a.conditions {
			b := a.conditions[best]
			if sharing[c] < sharing[b] || sharing[c] == sharing[b] && wanted[c.attribute] > wanted[b.attribute] {
				best = i
			}
		}
		c := a.conditions[best]
		if below[c] == nil {
			order = append(order, c)
		}
		a.conditions = slices.Delete(slices.Clone(a.conditions), best, best+1)
		below[c] = append(below[c], a)
	}
	for _, c := range order {
		child := newNode(below[c])
		i := slices.IndexFunc(n.groups, func(g group) bool { return g.of == c.attribute })
		if i < 0 {
			i = len(n.groups)
			n.groups = append(n.groups, group{of: c.attribute, rank: child.rank, values: map[string]*node{}})
		}
		if c.present {
			n.groups[i].any = child
		} else {
			n.groups[i].values[c.value] = child
		}
	}
	return n
}

// find is the entry of the lowest rank that matches, if that is below best's; else best.
func (n *node) find(h *lookups, best *entry) *entry {
	for _, e := range n.list {
		if best != nil && e.rank > best.rank {
			break
		}
		if e.m == nil || e.m.beside(h.Head) {
			best = e
			break
		}
	}
	for i := range n.groups {
		g := &n.groups[i]
		if best != nil && g.rank > best.rank {
			break
		}
		v, ok := h.of(&g.of)
		if !ok {
			continue
		}
		for _, child := range [2]*node{g.values[v], g.any} {
			if child != nil && (best == nil || child.rank < best.rank) {
				best = child.find(h, best)
			}
		}
	}
	return best
}
