// Package route decides where a request goes. Table.Match is a pure function of its inputs: no clock, no I/O, no lock, no allocation. The
// sidecar routes with it; the controller and the command line ask it what-if.
//
// A Table is built once (per listener and Snapshot), never changed, and shared by any number of goroutines.
package route

import (
	"net/url"
	"regexp"
	"strings"
)

// Head is the part of a request that routes may look at. Strings are only read during Match.
type Head struct {
	Method    string
	Path      string // without the query string; in its one form (docs/reference/http1.md): starts with '/', or is "*", or for CONNECT ""
	Authority string // host or host:port as sent; "" for protocols that have none
	Fields    Fields // nil: it has none
	// Draw chooses between the backends of a rule: uniform over all of uint64, or a hash of what is to stay with one. Of one Draw the choice is always the same, and when
	// weights change it changes only towards a backend that got more, or away from one that got less.
	Draw uint64
}

// Fields are the header fields of a request, and its query.
type Fields interface {
	// Field is the value of the i-th field, from 0, that has this name, in lower case. False: there are not so many.
	Field(name string, i int) (value string, ok bool)
	// Query is what stands behind the question mark of the target.
	Query() string
}

// Decision says where an exchange goes and which rule said so. The zero value is "nothing matched".
type Decision struct {
	Service string  // name in policy.Snapshot.Services; "" where Action has no valid backend, or answers itself
	Called  string  // the service that the Table sends to where no rule matches, whatever became of this request; "" for none
	Route   string  // name of the rule that matched; "" for the service's default route
	Subset  string  // policy.SubsetName of the endpoints of Service that may serve; "" for all
	Action  *Action // of the rule that matched; nil: none; shared, not to be changed
	Match   *Match  // of the rule, that made it match; nil: it needs none
	Backend *Backend
}

// Matched reports whether any rule matched.
func (d Decision) Matched() bool { return d.Service != "" || d.Action != nil }

// NoBackend reports whether a rule matched that neither answers itself nor has a backend for this request: it is answered with 500, as the Gateway API says.
func (d Decision) NoBackend() bool {
	return d.Action != nil && d.Service == "" && d.Action.Redirect == nil && d.Action.Respond == nil
}

// By is d with another backend of its Action, as a session wants it.
func (d Decision) By(b *Backend) Decision {
	d.Service, d.Subset, d.Backend = b.Service, b.Subset, b
	return d
}

// Table is an immutable set of rules over a default, with tables of their own for the hosts that have one. Of several rules that match, the first by precedence
// (precedence.go) decides. The zero Table matches nothing.
type Table struct {
	hosts    *Hosts[Table] // nil: all hosts are alike
	index    *index        // nil: no rules
	fallback string
	name     string // of what sends to fallback
	reads    bool
	draws    bool
}

type compiled struct {
	Rule
	matches []matcher
	shares  []share
}

type matcher struct {
	*Match
	path    *regexp.Regexp
	headers []*regexp.Regexp
	query   []*regexp.Regexp
}

// To sends every request to a service.
func To(service string) Table { return Table{fallback: service} }

// Only sends every request to a service ("" for none) by a rule of that name.
func Only(name, service string) Table { return Table{fallback: service, name: name} }

// New builds a Table of rules, in the order that decides between equals (the controller's: oldest resource first, then by name, then as written); a request that none
// matches goes to the service named fallback ("" for none). The error names rule, match and remedy (Check). The rules are not to be changed afterwards.
func New(fallback string, rules ...Rule) (Table, error) {
	t := Table{fallback: fallback}
	if len(rules) == 0 {
		return t, nil
	}
	if err := Check(rules); err != nil {
		return Table{}, err
	}
	own := make([]compiled, len(rules))
	expressions := expressions{}
	for i, r := range rules {
		c := &own[i]
		c.Rule, c.shares = r, shares(r.Action.Backends)
		for k := range r.Matches {
			c.matches = append(c.matches, expressions.compile(&c.Matches[k]))
			t.reads = t.reads || len(r.Matches[k].Headers)+len(r.Matches[k].Query) > 0
		}
		t.draws = t.draws || len(c.shares) > 1
	}
	t.index = newIndex(own)
	return t, nil
}

// Named is t with a name for what sends to its fallback.
func (t Table) Named(name string) Table {
	t.name = name
	return t
}

// WithHosts is t for every host that is not under a pattern of hosts, which CheckHost takes; those have their own.
func WithHosts(t Table, hosts map[string]Table) Table {
	t.hosts = &Hosts[Table]{}
	for pattern, table := range hosts {
		t.hosts.Add(pattern, table)
		t.reads, t.draws = t.reads || table.reads, t.draws || table.draws
	}
	return t
}

// Reads reports whether a rule looks at Head.Fields; if not, they need not be given.
func (t *Table) Reads() bool { return t.reads }

// Draws reports whether a rule looks at Head.Draw.
func (t *Table) Draws() bool { return t.draws }

// Match decides. It allocates nothing, unless a rule asks for a field that the request has several times.
func (t Table) Match(h Head) Decision {
	own := t.of(h.Authority)
	if own.index != nil {
		if e := own.index.find(&h); e != nil {
			d := e.decide(h.Draw)
			d.Called = own.fallback
			return d
		}
	}
	return own.unmatched()
}

func (t *Table) unmatched() Decision {
	return Decision{Service: t.fallback, Called: t.fallback, Route: t.name}
}

// WithoutRules is t without them, for what is no request; hosts that have tables of their own keep theirs.
func (t Table) WithoutRules() Table {
	t.index = nil
	return t
}

// Unruled is what Match decides of what rules are not for, of a connection that is no request.
func (t Table) Unruled(authority string) Decision { return t.of(authority).unmatched() }

// of is the table of an authority.
func (t *Table) of(authority string) *Table {
	for t.hosts != nil {
		own, ok := t.hosts.match(Hostname(authority))
		if !ok {
			break
		}
		t = own
	}
	return t
}

func (e *entry) decide(draw uint64) Decision {
	d := Decision{Route: e.rule.Name, Action: &e.rule.Action}
	if e.m != nil {
		d.Match = e.m.Match
	}
	if b := choose(e.rule.shares, draw); b != nil {
		return d.By(b)
	}
	return d
}

// on reports whether m is true of a path.
func (m *matcher) on(path string) bool {
	switch m.Path.Kind {
	case PathPrefix:
		return under(path, m.Path.Value)
	case PathExact:
		return path == m.Path.Value
	case PathRegex:
		return m.path.MatchString(path)
	}
	return true
}

// beside reports whether all of m but its path is true of a request.
func (m *matcher) beside(h *Head) bool {
	if m.Method != "" && m.Method != h.Method {
		return false
	}
	for i := range m.Headers {
		want := &m.Headers[i]
		v, ok := h.field(want.Name)
		if !ok || !want.is(v, m.headers[i]) {
			return false
		}
	}
	for i := range m.Query {
		want := &m.Query[i]
		v, ok := h.parameter(want.Name)
		if !ok || !want.is(v, m.query[i]) {
			return false
		}
	}
	return true
}

// field is the value of all fields of a name, joined.
func (h *Head) field(name string) (string, bool) {
	if name == "host" { // which HTTP/2 has not among its fields
		return h.Authority, h.Authority != ""
	}
	if h.Fields == nil {
		return "", false
	}
	v, ok := h.Fields.Field(name, 0)
	if !ok {
		return "", false
	}
	for i := 1; ; i++ {
		next, more := h.Fields.Field(name, i)
		if !more {
			return v, true
		}
		v += "," + next
	}
}

func (h *Head) parameter(name string) (string, bool) {
	if h.Fields == nil {
		return "", false
	}
	return Parameter(h.Fields.Query(), name)
}

func (v *Value) is(s string, re *regexp.Regexp) bool {
	switch v.Kind {
	case ValueExact:
		return s == v.Value
	case ValueRegex:
		return re.MatchString(s)
	}
	return true
}

// Parameter is the value of the first parameter of a query that has this name, both decoded (https://url.spec.whatwg.org/#application/x-www-form-urlencoded); what is no
// valid encoding stays as it is.
func Parameter(query, name string) (string, bool) {
	for len(query) > 0 {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		k, v, _ := strings.Cut(pair, "=")
		if decoded(k) == name {
			return decoded(v), pair != ""
		}
	}
	return "", false
}

func decoded(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	if d, err := url.QueryUnescape(s); err == nil {
		return d
	}
	return s
}

func under(path, prefix string) bool {
	prefix = trimmed(prefix)
	return strings.HasPrefix(path, prefix) && (prefix == "" || len(path) == len(prefix) || path[len(prefix)] == '/')
}

// trimmed is a prefix without the slash at its end, which means nothing.
func trimmed(prefix string) string { return strings.TrimSuffix(prefix, "/") }
