// Package route decides where a request goes. Table.Match is a pure function of its inputs: no clock, no I/O, no lock, no allocation. The
// sidecar routes with it; the controller and the command line ask it what-if.
//
// A Table is built once (per listener and Snapshot), never changed, and shared by any number of goroutines.
package route

import "strings"

// Head is the part of a request that routes may look at. Strings are only read during Match.
type Head struct {
	Method    string
	Path      string // without the query string; in its one form (docs/reference/http1.md): starts with '/', or is "*", or for CONNECT ""
	Authority string // host or host:port as sent; "" for protocols that have none
}

// Decision says where an exchange goes and which rule said so. The zero value is "nothing matched".
type Decision struct {
	Service string // name in policy.Snapshot.Services
	Route   string // name of the rule that matched; "" for the service's default route
	Subset  string // policy.SubsetName of the endpoints of Service that may serve; "" for all
}

// Matched reports whether any rule matched.
func (d Decision) Matched() bool { return d.Service != "" }

// Rule sends requests whose path lies under Prefix to Service. Prefixes match whole segments: "/cart" matches "/cart" and "/cart/7",
// not "/cartoon"; "/" and "" match everything.
type Rule struct {
	Name    string
	Prefix  string
	Service string
	Subset  string // as in Decision
}

// Table is an ordered, immutable list of rules over a default, with tables of their own for the hosts that have one.
type Table struct {
	hosts    *Hosts[Table] // nil: all hosts are alike
	rules    []Rule
	fallback string
}

// New builds a Table: the first rule that matches wins; otherwise the request goes to the service named fallback ("" for none).
func New(fallback string, rules ...Rule) Table {
	return Table{rules: append([]Rule(nil), rules...), fallback: fallback}
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
		if under(h.Path, t.rules[i].Prefix) {
			return Decision{Service: t.rules[i].Service, Route: t.rules[i].Name, Subset: t.rules[i].Subset}
		}
	}
	return Decision{Service: t.fallback}
}

func under(path, prefix string) bool {
	prefix = strings.TrimSuffix(prefix, "/")
	if !strings.HasPrefix(path, prefix) {
		return false
	}
	return len(path) == len(prefix) || path[len(prefix)] == '/' || prefix == ""
}
