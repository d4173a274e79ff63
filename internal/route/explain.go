package route

// Explanation is what a Table decides of a request and why, for people.
type Explanation struct {
	Decision
	Reason Order       // why the first of Rules won, against the second
	Rules  []Candidate // every rule, by its match that comes nearest; those that match first, by precedence, then the others by precedence
}

// Candidate is a rule as a request meets it.
type Candidate struct {
	Rule  *Rule
	Match int  // index in Rule.Matches; -1: it matches every request
	Miss  Miss // what of the match is not true of the request
}

// Miss is what keeps a match from being true of a request. The zero value: nothing.
type Miss struct {
	What MissKind
	Name string // of the header field or query parameter
}

// MissKind is the part of a match that is not true.
type MissKind uint8

const (
	// MissNone: it matches.
	MissNone MissKind = iota
	// MissPath: another path.
	MissPath
	// MissMethod: another method.
	MissMethod
	// MissHeader: a header field is absent, or has another value.
	MissHeader
	// MissQuery: a query parameter is, or has.
	MissQuery
	numMisses
)

var missNames = [numMisses]string{"", "path", "method", "header", "query"}

// String is "", "path", "method", "header" or "query".
func (k MissKind) String() string { return missNames[k] }

// MarshalText implements encoding.TextMarshaler.
func (k MissKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Matched are the rules that match, by precedence.
func (x *Explanation) Matched() []Candidate {
	for i, c := range x.Rules {
		if c.Miss.What != MissNone {
			return x.Rules[:i]
		}
	}
	return x.Rules
}

// Explain is Match with its reasons. It looks at every rule, and allocates.
func (t Table) Explain(h Head) Explanation {
	x := Explanation{Decision: t.Match(h), Reason: OrderNothing}
	if x.Service != "" {
		x.Reason = OrderDefault
	}
	own := t.of(h.Authority)
	if own.index == nil {
		return x
	}
	// Entries are by precedence: of a rule the first that matches counts, or the one whose miss comes latest.
	place := map[*compiled]int{}
	var hit, missed []Candidate
	for _, e := range own.index.entries {
		c := Candidate{Rule: &e.rule.Rule, Match: -1, Miss: e.miss(&h)}
		for k := range e.rule.matches {
			if &e.rule.matches[k] == e.m {
				c.Match = k
			}
		}
		at, seen := place[e.rule]
		switch {
		case seen && at < 0:
		case c.Miss.What == MissNone:
			if hit = append(hit, c); seen {
				missed[at].Rule = nil
			}
			place[e.rule] = -1
		case !seen:
			place[e.rule] = len(missed)
			missed = append(missed, c)
		case c.Miss.What > missed[at].Miss.What:
			missed[at] = c
		}
	}
	x.Rules = hit
	for _, c := range missed {
		if c.Rule != nil {
			x.Rules = append(x.Rules, c)
		}
	}
	switch {
	case len(hit) == 1:
		x.Reason = OrderAlone
	case len(hit) > 1:
		_, x.Reason = compare(hit[0].match(), hit[1].match())
	}
	return x
}

func (c *Candidate) match() *Match {
	if c.Match < 0 {
		return nil
	}
	return &c.Rule.Matches[c.Match]
}

func (e *entry) miss(h *Head) Miss {
	m := e.m
	switch {
	case m == nil:
		return Miss{}
	case !m.on(h.Path):
		return Miss{What: MissPath}
	case m.Method != "" && m.Method != h.Method:
		return Miss{What: MissMethod}
	}
	for i := range m.Headers {
		if v, ok := h.field(m.Headers[i].Name); !ok || !m.Headers[i].is(v, m.headers[i]) {
			return Miss{MissHeader, m.Headers[i].Name}
		}
	}
	for i := range m.Query {
		if v, ok := h.parameter(m.Query[i].Name); !ok || !m.Query[i].is(v, m.query[i]) {
			return Miss{MissQuery, m.Query[i].Name}
		}
	}
	return Miss{}
}
