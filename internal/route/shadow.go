package route

import (
	"regexp"
	"slices"
	"strings"
)

// Shadow is a match that decides nothing: every request of which it is true goes to another that counts before it.
type Shadow struct {
	Rule, Match int // indexes in the rules and in Rule.Matches; Match is -1 of a rule for every request
	By, ByMatch int // the first that counts before and is true of all those requests, alike
}

// Shadows lists the matches of rules that can never win, in the order of the rules. It says what is certain: a match that only several others together cover, or
// one below a regular expression that is more than a literal beginning and ".*", is not among them. The rules have passed Check.
func Shadows(rules []Rule) []Shadow {
	type ranked struct {
		rule, match int
		m           *Match
	}
	var list []ranked
	for i := range rules {
		if len(rules[i].Matches) == 0 {
			list = append(list, ranked{i, -1, nil})
		}
		for k := range rules[i].Matches {
			list = append(list, ranked{i, k, &rules[i].Matches[k]})
		}
	}
	slices.SortStableFunc(list, func(a, b ranked) int {
		c, _ := compare(a.m, b.m)
		return c
	})
	var out []Shadow
	for i, later := range list {
		for _, before := range list[:i] {
			if before.m.covers(later.m) && everybody(rules[before.rule].Callers, rules[later.rule].Callers) {
				out = append(out, Shadow{later.rule, later.match, before.rule, before.match})
				break
			}
		}
	}
	slices.SortFunc(out, func(a, b Shadow) int {
		if a.Rule != b.Rule {
			return a.Rule - b.Rule
		}
		return a.Match - b.Match
	})
	return out
}

// everybody reports whether whoever is of all of the later callers is of the former ones, too.
func everybody(before, later []string) bool {
	return !slices.ContainsFunc(before, func(name string) bool { return !slices.Contains(later, name) })
}

// covers reports whether m is true of every request of which o is; nil matches every request.
func (m *Match) covers(o *Match) bool {
	if m == nil {
		return true
	}
	if o == nil {
		o = &Match{}
	}
	return m.Path.covers(o.Path) && (m.Method == "" || m.Method == o.Method) && include(o.Headers, m.Headers) && include(o.Query, m.Query)
}

// include reports whether what wanted asks for is asked for by values, too.
func include(values, wanted []Value) bool {
	for _, w := range wanted {
		i := slices.IndexFunc(values, func(v Value) bool { return v.Name == w.Name })
		if i < 0 || w.Kind != ValuePresent && values[i] != w {
			return false
		}
	}
	return true
}

func (p Path) covers(o Path) bool {
	switch {
	case p.Kind == PathAny, p.Kind == PathPrefix && trimmed(p.Value) == "", p == o:
		return true
	case p.Kind == PathPrefix:
		return (o.Kind == PathPrefix || o.Kind == PathExact) && under(o.Value, p.Value)
	case p.Kind != PathRegex:
		return false
	}
	beginning, open := beginning(p.Value)
	switch o.Kind {
	case PathExact:
		return open && strings.HasPrefix(o.Value, beginning)
	case PathPrefix:
		return open && strings.HasPrefix(trimmed(o.Value), beginning)
	case PathAny:
		return open && beginning == "" // "*" of OPTIONS begins with no slash
	}
	return false
}

// beginning is the text with which all begins that an expression matches; open: it matches everything that begins so.
func beginning(expression string) (text string, open bool) {
	rest, open := strings.CutSuffix(expression, ".*")
	if !open || strings.Contains(rest, `\Q`) { // quoted
		return "", false
	}
	re, err := regexp.Compile(rest)
	if err != nil {
		return "", false
	}
	text, whole := re.LiteralPrefix()
	return text, whole
}
