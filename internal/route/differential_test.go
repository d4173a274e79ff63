package route

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// request is a Head's Fields, for tests.
type request struct {
	fields []Field
	query  string
}

func (r *request) Field(name string, i int) (string, bool) {
	for _, f := range r.fields {
		if strings.EqualFold(f.Name, name) {
			if i == 0 {
				return f.Value, true
			}
			i--
		}
	}
	return "", false
}

func (r *request) Query() string { return r.query }

// naive is what Table.Match decides, by asking every match in the words of the Gateway API.
func naive(rules []Rule, h Head) (rule string, match int) {
	type hit struct {
		rule, match int
		name        string
		Match
	}
	var hits []hit
	for i, r := range rules {
		if len(r.Matches) == 0 {
			hits = append(hits, hit{i, -1, r.Name, Match{}})
		}
		for k, m := range r.Matches {
			if naiveMatch(m, h) {
				hits = append(hits, hit{i, k, r.Name, m})
			}
		}
	}
	if len(hits) == 0 {
		return "", -1
	}
	rank := map[PathKind]int{PathExact: 3, PathRegex: 2}
	length := func(p Path) int {
		if p.Kind != PathPrefix {
			return 0
		}
		return len(strings.TrimSuffix(p.Value, "/"))
	}
	slices.SortFunc(hits, func(a, b hit) int {
		return cmp.Or(
			cmp.Compare(rank[b.Path.Kind], rank[a.Path.Kind]), cmp.Compare(length(b.Path), length(a.Path)), cmp.Compare(min(len(b.Method), 1), min(len(a.Method), 1)),
			cmp.Compare(len(b.Headers), len(a.Headers)), cmp.Compare(len(b.Query), len(a.Query)), cmp.Compare(a.rule, b.rule), cmp.Compare(a.match, b.match),
		)
	})
	return hits[0].name, hits[0].match
}

func naiveMatch(m Match, h Head) bool {
	switch m.Path.Kind {
	case PathExact:
		if h.Path != m.Path.Value {
			return false
		}
	case PathPrefix:
		want := strings.Split(strings.TrimSuffix(m.Path.Value, "/"), "/")
		if got := strings.Split(h.Path, "/"); m.Path.Value != "/" && (len(got) < len(want) || !slices.Equal(got[:len(want)], want)) {
			return false
		}
	case PathRegex:
		if !naiveWhole(m.Path.Value, h.Path) {
			return false
		}
	}
	if m.Method != "" && m.Method != h.Method {
		return false
	}
	r, _ := h.Fields.(*request)
	if r == nil {
		return len(m.Headers)+len(m.Query) == 0
	}
	value := func(v Value, has []string) bool {
		switch {
		case len(has) == 0:
			return false
		case v.Kind == ValueExact:
			return strings.Join(has, ",") == v.Value
		case v.Kind == ValueRegex:
			return naiveWhole(v.Value, strings.Join(has, ","))
		}
		return true
	}
	for _, v := range m.Headers {
		var has []string
		for _, f := range r.fields {
			if strings.ToLower(f.Name) == v.Name {
				has = append(has, f.Value)
			}
		}
		if !value(v, has) {
			return false
		}
	}
	for _, v := range m.Query {
		var has []string
		for _, pair := range strings.Split(r.query, "&") {
			k, val, _ := strings.Cut(pair, "=")
			if unescaped(k) == v.Name && len(has) == 0 && pair != "" {
				has = append(has, unescaped(val))
			}
		}
		if !value(v, has) {
			return false
		}
	}
	return true
}

func unescaped(s string) string {
	if d, err := url.QueryUnescape(s); err == nil {
		return d
	}
	return s
}

func naiveWhole(expression, s string) bool {
	re := regexp.MustCompile(expression)
	re.Longest()
	at := re.FindStringIndex(s)
	return at != nil && at[0] == 0 && at[1] == len(s)
}

func one[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// genPath is a path of few different segments, so that rules and requests meet.
func genPath(r *rand.Rand) string {
	var b strings.Builder
	for range 1 + r.IntN(4) {
		b.WriteString("/" + one(r, "a", "b", "ab", "abc", "b-c", "%20"))
	}
	return one(r, b.String(), b.String(), b.String()+"/", "/")
}

func genValues(r *rand.Rand, names ...string) (out []Value) {
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	for _, n := range names[:min(one(r, 0, 0, 1, 1, 2, 9), len(names))] {
		v := Value{Name: n, Kind: one(r, ValueExact, ValueExact, ValueExact, ValueRegex, ValuePresent)}
		switch v.Kind {
		case ValueExact:
			v.Value = one(r, "", "1", "2", "3", "1,2")
		case ValueRegex:
			v.Value = one(r, "[12]", "1|2,?.*", ".*", "", "(?i)A?")
		}
		out = append(out, v)
	}
	return out
}

func genRules(r *rand.Rand, n int) (rules []Rule) {
	for i := range n {
		rule := Rule{Name: fmt.Sprintf("r%d", i), Action: Action{Backends: []Backend{{Service: "s", Weight: 1}}}}
		for range one(r, 0, 1, 1, 1, 2, 3) {
			m := Match{Method: one(r, "", "", "GET", "POST", "PUT"), Headers: genValues(r, "x-a", "x-b", "x-c", "x-d"), Query: genValues(r, "q", "p q")}
			switch m.Path.Kind = one(r, PathAny, PathPrefix, PathPrefix, PathPrefix, PathExact, PathExact, PathRegex); m.Path.Kind {
			case PathPrefix, PathExact:
				m.Path.Value = genPath(r)
			case PathRegex:
				m.Path.Value = one(r, "/a.*", "/(a|b)/[^/]+", "/ab?c?", ".*b", `\Q/a`, "/a|/b")
			}
			if len(rule.Matches) == 0 && r.IntN(40) != 0 || r.IntN(2) == 0 { // rules of every request are rare
				rule.Matches = append(rule.Matches, m)
			}
		}
		if len(rule.Matches) == 0 && r.IntN(4) != 0 {
			rule.Matches = []Match{{Path: Path{PathPrefix, genPath(r)}, Headers: genValues(r, "x-a")}}
		}
		rules = append(rules, rule)
	}
	return rules
}

func genHead(r *rand.Rand) Head {
	h := Head{Method: one(r, "GET", "POST", "PUT", "DELETE"), Path: one(r, genPath(r), genPath(r), genPath(r), genPath(r)+"x", "*", "")}
	q := &request{query: one(r, "", "q=1", "q=2&q=1", "p+q=1&q=3", "p%20q=2", "&&q", "q=%zz", "x&p+q")}
	for _, n := range []string{"x-a", "X-B", "x-c", "x-d", "x-a"} {
		if r.IntN(3) == 0 {
			q.fields = append(q.fields, Field{n, one(r, "1", "2", "3", "")})
		}
	}
	if r.IntN(8) != 0 {
		h.Fields = q
	}
	return h
}

// agree compares a table with naive, and Explain with both.
func agree(t *testing.T, rules []Rule, heads ...Head) (matched int) {
	t.Helper()
	table, err := New("fallback", rules...)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range heads {
		want, match := naive(rules, h)
		got := table.Match(h)
		if got.Route != want || (got.Action != nil) != (want != "") {
			t.Fatalf("Match(%s %q %+v) = %q, want %q by match %d\n%+v", h.Method, h.Path, h.Fields, got.Route, want, match, rules)
		}
		x := table.Explain(h)
		if x.Route != got.Route || x.Match != got.Match {
			t.Fatalf("Explain(%s %q %+v) decides for %q, Match for %q", h.Method, h.Path, h.Fields, x.Route, got.Route)
		}
		if len(x.Rules) != len(rules) {
			t.Fatalf("Explain has %d candidates of %d rules", len(x.Rules), len(rules))
		}
		hits := x.Matched()
		if want == "" {
			if len(hits) > 0 || x.Reason != OrderDefault {
				t.Fatalf("Explain(%s %q) has %d hits, for %v", h.Method, h.Path, len(hits), x.Reason)
			}
			continue
		}
		matched++
		if hits[0].Rule.Name != want || hits[0].Match != match || (len(hits) == 1) != (x.Reason == OrderAlone) {
			t.Fatalf("Explain(%s %q %+v): %q by match %d for %v, want %q by %d", h.Method, h.Path, h.Fields, hits[0].Rule.Name, hits[0].Match, x.Reason, want, match)
		}
		if len(hits) > 1 { // the second is who wins without the first
			without := slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool { return r.Name == want })
			if second, match := naive(without, h); hits[1].Rule.Name != second || hits[1].Match != match {
				t.Fatalf("Explain(%s %q %+v): second is %q by %d, want %q by %d", h.Method, h.Path, h.Fields, hits[1].Rule.Name, hits[1].Match, second, match)
			}
		}
	}
	return matched
}

// TestMatchIsNaive: over generated tables and requests the index finds what asking every rule finds.
func TestMatchIsNaive(t *testing.T) {
	matched, all := 0, 0
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 7))
		rules := genRules(r, one(r, 1, 3, 10, 40, 150))
		var heads []Head
		for range 40 {
			heads = append(heads, genHead(r))
		}
		all += len(heads)
		matched += agree(t, rules, heads...)
	}
	if matched < all/2 || matched == all {
		t.Errorf("%d of %d requests met a rule: what is generated tests too little", matched, all)
	}
}

func FuzzMatch(f *testing.F) {
	f.Add(uint64(1), 20, "GET", "/a/b", "x-a", "1", "q=1")
	f.Add(uint64(2), 60, "POST", "/ab/", "x-b", "1,2", "p+q=%31")
	f.Add(uint64(3), 3, "PUT", "/abc/b-c/a", "x-c", "", "&q")
	f.Add(uint64(4), 150, "GET", "*", "x-d", "A", "q=2&q=1")
	f.Add(uint64(5), 99, "CONNECT", "", "", "", "")
	f.Fuzz(func(t *testing.T, seed uint64, n int, method, path, name, value, query string) {
		rules := genRules(rand.New(rand.NewPCG(seed, 8)), int(uint(n)%200))
		agree(t, rules, Head{Method: method, Path: path, Fields: &request{[]Field{{name, value}, {"x-a", value}}, query}})
	})
}

// FuzzCheck: no rule that Check takes breaks New or Match.
func FuzzCheck(f *testing.F) {
	f.Add(uint8(2), "/a", "GET", "x-a", "1", uint8(0))
	f.Add(uint8(3), `/\Qa`, "", "x-a", `\Q1`, uint8(1))
	f.Add(uint8(3), `(?i:/A)|b`, "", "x-a", `(((a{9}){9}){9})`, uint8(1))
	f.Add(uint8(1), "/a//b", "G T", "X", "", uint8(2))
	f.Fuzz(func(t *testing.T, kind uint8, path, method, name, value string, how uint8) {
		m := Match{Path: Path{PathKind(kind), path}, Method: method, Headers: []Value{{name, ValueKind(how), value}}, Query: []Value{{name, ValueKind(how), value}}}
		table, err := New("s", Rule{Name: "r", Matches: []Match{m}})
		if err != nil {
			return
		}
		table.Match(Head{Method: method, Path: path, Fields: &request{[]Field{{name, value}}, name + "=" + value}})
	})
}
