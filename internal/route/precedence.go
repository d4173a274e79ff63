package route

import (
	"cmp"
	"slices"
)

// Order is why one of two matches counts before the other. The list is that of the Gateway API (HTTPRouteRule.matches), in its order, with regular expressions put
// where it leaves them open: after exact paths, because an exact path says more, and before prefixes, because every table has a prefix that matches everything, beside
// which a regular expression would never be heard.
type Order uint8

const (
	// OrderAlone: no other matches.
	OrderAlone Order = iota
	// OrderExact: its path is exact.
	OrderExact
	// OrderRegex: its path is a regular expression, the other's a prefix.
	OrderRegex
	// OrderLonger: its prefix is longer, counted in bytes.
	OrderLonger
	// OrderMethod: it names a method.
	OrderMethod
	// OrderHeaders: it names more header fields.
	OrderHeaders
	// OrderQuery: it names more query parameters.
	OrderQuery
	// OrderEarlier: they are alike, and it was given first.
	OrderEarlier
	// OrderDefault: no rule matches, and there is a service by default.
	OrderDefault
	// OrderNothing: no rule matches, and there is none.
	OrderNothing
	numOrders
)

var orderNames = [numOrders]string{"alone", "exact_path", "regex_path", "longer_prefix", "method", "more_headers", "more_query", "earlier", "default", "nothing"}

// String is the reason's word in outputs of programs.
func (o Order) String() string { return orderNames[o] }

// MarshalText implements encoding.TextMarshaler.
func (o Order) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// Orders lists all of them.
func Orders() []Order {
	out := make([]Order, numOrders)
	for i := range out {
		out[i] = Order(i)
	}
	return out
}

// compare orders two matches, nil for one of every request; 0 where the Gateway API leaves them alike.
func compare(a, b *Match) (int, Order) {
	var none Match
	if a == nil {
		a = &none
	}
	if b == nil {
		b = &none
	}
	tiers := [...]uint8{PathAny: 2, PathPrefix: 2, PathRegex: 1, PathExact: 0}
	if c := cmp.Compare(tiers[a.Path.Kind], tiers[b.Path.Kind]); c != 0 {
		if min(tiers[a.Path.Kind], tiers[b.Path.Kind]) == tiers[PathExact] {
			return c, OrderExact
		}
		return c, OrderRegex
	}
	if tiers[a.Path.Kind] == tiers[PathPrefix] {
		if c := cmp.Compare(len(trimmed(b.Path.Value)), len(trimmed(a.Path.Value))); c != 0 {
			return c, OrderLonger
		}
	}
	if (a.Method != "") != (b.Method != "") {
		if a.Method != "" {
			return -1, OrderMethod
		}
		return 1, OrderMethod
	}
	if c := cmp.Compare(len(b.Headers), len(a.Headers)); c != 0 {
		return c, OrderHeaders
	}
	if c := cmp.Compare(len(b.Query), len(a.Query)); c != 0 {
		return c, OrderQuery
	}
	return 0, OrderEarlier
}

// ByPrecedence are all matches of rules, those that count first before the others: what stands first of those that match a request decides. It is the order for whoever asks
// one by one.
func ByPrecedence(rules []Rule) []Candidate {
	var out []Candidate
	for i := range rules {
		r := &rules[i]
		if len(r.Matches) == 0 {
			out = append(out, Candidate{Rule: r, Match: -1})
		}
		for k := range r.Matches {
			out = append(out, Candidate{Rule: r, Match: k})
		}
	}
	slices.SortStableFunc(out, func(a, b Candidate) int {
		c, _ := compare(a.match(), b.match())
		return c
	})
	return out
}
