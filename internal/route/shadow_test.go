package route

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestShadows(t *testing.T) {
	prefix := func(p string) Match { return Match{Path: Path{PathPrefix, p}} }
	exact := func(p string) Match { return Match{Path: Path{PathExact, p}} }
	regex := func(p string) Match { return Match{Path: Path{PathRegex, p}} }
	get := func(m Match) Match { m.Method = "GET"; return m }
	field := func(m Match, v ...Value) Match { m.Headers = v; return m }
	for _, c := range []struct {
		name  string
		rules [][]Match
		want  string
	}{
		{"different paths", [][]Match{{prefix("/a")}, {prefix("/b")}, {exact("/a")}, {}}, "[]"},
		{"the same prefix", [][]Match{{prefix("/a")}, {prefix("/a/")}}, "[{1 0 0 0}]"},
		{"the same exact path", [][]Match{{exact("/a")}, {exact("/a/"), exact("/a")}}, "[{1 1 0 0}]"},
		{"every request twice", [][]Match{{}, {prefix("/")}, {{}}}, "[{1 0 0 -1} {2 0 0 -1}]"},
		{"twice in one rule", [][]Match{{prefix("/a"), prefix("/a")}}, "[{0 1 0 0}]"},
		{"a method is asked before any", [][]Match{{prefix("/a")}, {get(prefix("/a"))}}, "[]"},
		{"a method that any other has not", [][]Match{{get(prefix("/a"))}, {prefix("/a")}}, "[]"},
		{"a regular expression before prefixes", [][]Match{{prefix("/api/v1")}, {prefix("/ap")}, {regex("/api.*")}}, "[{0 0 2 0}]"},
		{"one that quotes its end", [][]Match{{prefix("/api/v1")}, {regex(`/api\Q.*`)}, {regex(`/api\.*`)}}, "[]"},
		{"one of all", [][]Match{{prefix("/api/v1")}, {}, {regex(".*")}}, "[{0 0 2 0} {1 -1 2 0}]"},
		{"a field of any value, named before", [][]Match{
			{field(prefix("/a"), Value{"x", ValuePresent, ""})}, {field(prefix("/a"), Value{"x", ValueExact, "1"})}, {field(prefix("/a"), Value{"y", ValueExact, "1"})},
		}, "[{1 0 0 0}]"},
		{"more fields count first", [][]Match{
			{field(prefix("/a"), Value{"x", ValueExact, "1"})}, {field(prefix("/a"), Value{"x", ValueExact, "1"}, Value{"y", ValueExact, "1"})},
		}, "[]"},
	} {
		var rules []Rule
		for i, m := range c.rules {
			rules = append(rules, Rule{Name: fmt.Sprint(i), Matches: m})
		}
		if got := fmt.Sprint(Shadows(rules)); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestShadowsNeverWin: over generated tables no request goes by a match that is said to be shadowed.
func TestShadowsNeverWin(t *testing.T) {
	shadowed := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 11))
		rules := genRules(r, one(r, 3, 10, 40))
		dead := map[[2]int]bool{}
		for _, s := range Shadows(rules) {
			dead[[2]int{s.Rule, s.Match}] = true
		}
		shadowed += len(dead)
		place := map[string]int{}
		for i := range rules {
			place[rules[i].Name] = i
		}
		for range 100 {
			h := genHead(r)
			if name, match := naive(rules, h); name != "" && dead[[2]int{place[name], match}] {
				t.Fatalf("seed %d: %s %q %+v goes by match %d of %q, which is said to be shadowed: %+v", seed, h.Method, h.Path, h.Fields, match, name, rules)
			}
		}
	}
	if shadowed < 100 {
		t.Errorf("only %d matches were shadowed: what is generated tests too little", shadowed)
	}
}
