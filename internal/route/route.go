// Package route decides where a request goes. Table.Match is a pure function of its inputs: no clock, no I/O, no lock, no allocation. The
// sidecar routes with it; the controller and the command line ask it what-if.
//
// A Table is built once (per listener and Snapshot), never changed, and shared by any number of goroutines.
package route

import (
	"fmt"
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
	Draw      uint64 // chooses between the backends of a rule: uniform, or the hash of what is to stay with one
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
	Route   string  // name of the rule that matched; "" for the service's default route
	Subset  string  // policy.SubsetName of the endpoints of Service that may serve; "" for all
	Action  *Action // of the rule that matched; nil: none; shared, not to be changed
	Match   *Match  // of the rule, that made it match; nil: it needs none
	Backend *Backend
}

// Matched reports whether any rule matched.
func (d Decision) Matched() bool { return d.Service != "" || d.Action != nil }

// Table is an immutable list of rules over a default, with tables of their own for the hosts that have one.
type Table struct {
	hosts    *Hosts[Table] // nil: all hosts are alike
	rules    []compiled
	fallback string
	name     string // of what sends to fallback
}

type compiled struct {
	Rule
	matches []matcher
	weight  uint64
}

type matcher struct {
	Match
	path    *regexp.Regexp
	headers []*regexp.Regexp
	query   []*regexp.Regexp
}

// To sends every request to a service.
func To(service string) Table { return Table{fallback: service} }

// New builds a Table of rules; a request that none matches goes to the service named fallback ("" for none). The error names the rule that cannot be.
func New(fallback string, rules ...Rule) (Table, error) {
	t := Table{fallback: fallback}
	for _, r := range rules {
		c := compiled{Rule: r}
		for i := range r.Matches {
			m, err := compile(r.Matches[i])
			if err != nil {
				return Table{}, fmt.Errorf("route %q: match %d: %w", r.Name, i+1, err)
			}
			c.matches = append(c.matches, m)
		}
		for _, b := range r.Action.Backends {
			c.weight += uint64(b.Weight)
		}
		t.rules = append(t.rules, c)
	}
	return t, nil
}

// Only sends every request to a service ("" for none) by a rule of that name.
func Only(name, service string) Table { return Table{fallback: service, name: name} }

func compile(m Match) (matcher, error) {
	c := matcher{Match: m}
	var err error
	if m.Path.Kind == PathRegex {
		if c.path, err = whole(m.Path.Value); err != nil {
			return c, fmt.Errorf("path: %w", err)
		}
	}
	values := func(what string, values []Value) []*regexp.Regexp {
		out := make([]*regexp.Regexp, len(values))
		for i, v := range values {
			if v.Kind != ValueRegex {
				continue
			}
			re, e := whole(v.Value)
			if e != nil && err == nil {
				err = fmt.Errorf("%s %q: %w", what, v.Name, e)
			}
			out[i] = re
		}
		return out
	}
	c.headers, c.query = values("header", m.Headers), values("query parameter", m.Query)
	return c, err
}

// whole is a regular expression that has to match everything.
func whole(expression string) (*regexp.Regexp, error) {
	if _, err := regexp.Compile(expression); err != nil { // by itself: what stands around it closes no bracket
		return nil, err
	}
	return regexp.Compile(`\A(?s-m:` + expression + `)\z`)
}

// WithHosts is t for every host that is not under a pattern of hosts, which CheckHost takes; those have their own.
func WithHosts(t Table, hosts map[string]Table) Table {
	t.hosts = &Hosts[Table]{}
	for pattern, table := range hosts {
		t.hosts.Add(pattern, table)
	}
	return t
}

// Match decides. The zero Table matches nothing.
func (t Table) Match(h Head) Decision {
	if t.hosts != nil {
		if own, ok := t.hosts.Match(Hostname(h.Authority)); ok {
			return own.Match(h)
		}
	}
	for i := range t.rules {
		r := &t.rules[i]
		if len(r.matches) == 0 {
			return r.decide(nil, h)
		}
		for k := range r.matches {
			if r.matches[k].match(h) {
				return r.decide(&r.matches[k].Match, h)
			}
		}
	}
	return Decision{Service: t.fallback, Route: t.name}
}

func (r *compiled) decide(m *Match, h Head) Decision {
	d := Decision{Route: r.Name, Action: &r.Action, Match: m}
	if r.weight == 0 {
		return d
	}
	at := h.Draw % r.weight
	for i := range r.Action.Backends {
		b := &r.Action.Backends[i]
		if at < uint64(b.Weight) {
			d.Service, d.Subset, d.Backend = b.Service, b.Subset, b
			return d
		}
		at -= uint64(b.Weight)
	}
	return d
}

func (m *matcher) match(h Head) bool {
	switch m.Path.Kind {
	case PathPrefix:
		if !under(h.Path, m.Path.Value) {
			return false
		}
	case PathExact:
		if h.Path != m.Path.Value {
			return false
		}
	case PathRegex:
		if !m.path.MatchString(h.Path) {
			return false
		}
	}
	if m.Method != "" && m.Method != h.Method {
		return false
	}
	return len(m.Headers)+len(m.Query) == 0 || h.Fields != nil && m.fields(h.Fields)
}

func (m *matcher) fields(f Fields) bool {
	for i, want := range m.Headers {
		v, ok := f.Field(want.Name, 0)
		if next, more := f.Field(want.Name, 1); more {
			for k := 2; more; k++ {
				v += "," + next
				next, more = f.Field(want.Name, k)
			}
		}
		if !ok || !want.is(v, m.headers[i]) {
			return false
		}
	}
	for i, want := range m.Query {
		v, ok := Parameter(f.Query(), want.Name)
		if !ok || !want.is(v, m.query[i]) {
			return false
		}
	}
	return true
}

func (v Value) is(s string, re *regexp.Regexp) bool {
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
	prefix = strings.TrimSuffix(prefix, "/")
	if !strings.HasPrefix(path, prefix) {
		return false
	}
	return len(path) == len(prefix) || path[len(prefix)] == '/' || prefix == ""
}
