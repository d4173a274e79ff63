package route

import (
	"fmt"
	"strings"
	"testing"
)

// shapes are tables of a thousand rules that differ in one way each, with a request that only the last of them is for, or none.
var shapes = []struct {
	name string
	make func(i int) Match
	head func() Head
	want string
}{
	{
		name: "prefix", want: "r999",
		make: func(i int) Match { return Match{Path: Path{PathPrefix, fmt.Sprintf("/api/v1/service-%d", i)}} },
		head: func() Head { return Head{Method: "GET", Path: "/api/v1/service-999/items/7"} },
	},
	{
		name: "exact", want: "r999",
		make: func(i int) Match { return Match{Path: Path{PathExact, fmt.Sprintf("/api/v1/service-%d", i)}} },
		head: func() Head { return Head{Method: "GET", Path: "/api/v1/service-999"} },
	},
	{
		name: "prefix-depth", want: "r16", // sixty-odd prefixes of each of sixteen depths; the deepest sixteen miss by their header
		make: func(i int) Match {
			m := Match{Path: Path{PathPrefix, strings.Repeat("/level", i%32+1)}}
			if i > 16 {
				m.Headers = []Value{{"x-user", ValueExact, fmt.Sprint(i)}}
			}
			return m
		},
		head: func() Head {
			return Head{Method: "GET", Path: strings.Repeat("/level", 40), Fields: &request{fields: []Field{{"accept", "*/*"}, {"x-user", "none"}}}}
		},
	},
	{
		name: "header-value", want: "r999",
		make: func(i int) Match { return Match{Headers: []Value{{"x-user", ValueExact, fmt.Sprintf("user-%d", i)}}} },
		head: func() Head { return browser(Field{"x-user", "user-999"}) },
	},
	{
		name: "header-value-none", want: "",
		make: func(i int) Match { return Match{Headers: []Value{{"x-user", ValueExact, fmt.Sprintf("user-%d", i)}}} },
		head: func() Head { return browser(Field{"x-user", "nobody"}) },
	},
	{
		name: "two-headers", want: "r999",
		make: func(i int) Match {
			return Match{Headers: []Value{{"x-user", ValueExact, fmt.Sprint(i / 32)}, {"x-zone", ValueExact, fmt.Sprint(i % 32)}}}
		},
		head: func() Head { return browser(Field{"x-user", "31"}, Field{"x-zone", "7"}) },
	},
	{
		name: "query-value", want: "r999",
		make: func(i int) Match { return Match{Query: []Value{{"user", ValueExact, fmt.Sprintf("user-%d", i)}}} },
		head: func() Head { return Head{Path: "/", Fields: &request{query: "page=7&user=user-999"}} },
	},
	{
		name: "method", want: "r999",
		make: func(i int) Match { return Match{Method: fmt.Sprintf("METHOD-%d", i)} },
		head: func() Head { return Head{Method: "METHOD-999", Path: "/"} },
	},
	{
		name: "mixture", want: "r998", // prefix, method, header and query at once
		make: func(i int) Match {
			m := Match{Path: Path{PathPrefix, fmt.Sprintf("/team-%d", i%10)}, Method: []string{"GET", "POST", "PUT"}[i%3]}
			switch i % 4 {
			case 0:
				m.Headers = []Value{{"x-user", ValueExact, fmt.Sprint(i)}}
			case 1:
				m.Query = []Value{{"v", ValueExact, fmt.Sprint(i)}}
			case 2:
				m.Headers = []Value{{"x-version", ValueExact, fmt.Sprint(i)}, {"x-canary", ValuePresent, ""}}
			}
			return m
		},
		head: func() Head {
			h := browser(Field{"x-version", "998"}, Field{"x-canary", "yes"})
			h.Method, h.Path = "PUT", "/team-8/cart"
			return h
		},
	},
}

// browser is a request with as many fields as a browser's.
func browser(more ...Field) Head {
	r := &request{query: "page=7"}
	for _, n := range []string{"user-agent", "accept", "accept-language", "accept-encoding", "cache-control", "sec-fetch-dest", "sec-fetch-mode", "cookie"} {
		r.fields = append(r.fields, Field{n, "value"})
	}
	r.fields = append(r.fields, more...)
	return Head{Method: "GET", Path: "/", Fields: r}
}

func thousand(t testing.TB, of func(int) Match) Table {
	t.Helper()
	rules := make([]Rule, 1000)
	for i := range rules {
		rules[i] = Rule{
			Name: fmt.Sprintf("r%d", i), Matches: []Match{of(i)},
			Action: Action{Backends: []Backend{{Service: "a", Weight: 90}, {Service: "b", Weight: 10}}},
		}
	}
	table, err := New("fallback", rules...)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestThousandRules(t *testing.T) {
	for _, s := range shapes {
		table, h := thousand(t, s.make), s.head()
		if got := table.Match(h).Route; got != s.want {
			t.Errorf("%s: matched %q, want %q", s.name, got, s.want)
		}
		if n := testing.AllocsPerRun(100, func() { h.Draw++; table.Match(h) }); n != 0 {
			t.Errorf("%s: Match allocates %v times, want 0", s.name, n)
		}
	}
}

func BenchmarkMatch1000(b *testing.B) {
	for _, s := range shapes {
		b.Run(s.name, func(b *testing.B) {
			table, h := thousand(b, s.make), s.head()
			b.ReportAllocs()
			for b.Loop() {
				h.Draw++
				table.Match(h)
			}
		})
	}
}

// BenchmarkMatchRegex: regular expressions are tried one after the other.
func BenchmarkMatchRegex(b *testing.B) {
	for _, n := range []int{1, 16, MaxRegexes} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var rules []Rule
			for i := range n {
				rules = append(rules, Rule{Name: fmt.Sprint(i), Matches: []Match{{Path: Path{PathRegex, fmt.Sprintf("/api/v[0-9]+/service-%d/.*", i)}}}})
			}
			table, err := New("", rules...)
			if err != nil {
				b.Fatal(err)
			}
			h := Head{Path: fmt.Sprintf("/api/v2/service-%d/items", n-1)}
			b.ReportAllocs()
			for b.Loop() {
				table.Match(h)
			}
		})
	}
}

func BenchmarkNew1000(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		thousand(b, shapes[0].make)
	}
}
