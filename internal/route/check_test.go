package route

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCheck(t *testing.T) {
	match := func(m Match) []Rule { return []Rule{{Name: "r", Matches: []Match{{}, m}}} }
	act := func(a Action) []Rule { return []Rule{{Name: "r", Action: a}} }
	header := func(v ...Value) []Rule { return match(Match{Headers: v}) }
	path := func(kind PathKind, value string) []Rule { return match(Match{Path: Path{kind, value}}) }
	many := func(n int, f func(i int) Rule) (rules []Rule) {
		for i := range n {
			r := f(i)
			r.Name = fmt.Sprint("r", i)
			rules = append(rules, r)
		}
		return rules
	}
	for _, c := range []struct {
		rules []Rule
		want  string
	}{
		{[]Rule{{}}, `route "": name: must not be empty`},
		{[]Rule{{Name: "a b"}}, `name: must not contain spaces`},
		{[]Rule{{Name: "a"}, {Name: "a"}}, `route "a": the name is used twice; rename one`},
		{make([]Rule, MaxRules+1), "has 10001 rules, at most 10000"},
		{[]Rule{{Name: "r", Matches: make([]Match, MaxMatches+1)}}, "has 65 matches, at most 64"},
		{path(PathAny, "/"), `route "r": match 2: path "/": its kind is any path`},
		{path(PathPrefix, "cart"), `path "cart": must begin with /; write "/cart"`},
		{path(PathExact, "/a?b"), `ends before the query`},
		{path(PathExact, "/a b"), `have such bytes escaped`},
		{path(PathPrefix, "/a//b"), `no request has such a path`},
		{path(PathPrefix, "/a/.."), `no request has such a path`},
		{path(PathExact, "/"+strings.Repeat("a", MaxPath)), `has 1025 bytes, at most 1024`},
		{path(9, "/"), `kind 9 is not known`},
		{path(PathRegex, "/("), "missing closing ): `/(`; write RE2"},
		{path(PathRegex, "(?=a)"), `which has neither look-around`},
		{path(PathRegex, strings.Repeat("a", MaxRegex+1)), `has 1025 bytes, at most 1024`},
		{path(PathRegex, "(([a-z]{10}){10}){10}.{900}.{999}.{999}.{999}.{999}"), `instructions, at most 5000`},
		{match(Match{Method: "G T"}), `method "G T": is no method`},
		{header(Value{Name: "X-A"}), `match 2: header "X-A": must be in lower case; write "x-a"`},
		{header(Value{Name: "a:"}), `is no name of a header field`},
		{header(Value{Name: "a"}, Value{Name: "b"}, Value{Name: "a", Kind: ValuePresent}), `header "a": is named twice; remove one`},
		{header(Value{Name: "a", Kind: ValueRegex, Value: "["}), `header "a": error parsing regexp`},
		{header(Value{Name: "a", Kind: ValuePresent, Value: "x"}), `value "x": any value matches; remove it`},
		{header(Value{Name: "a", Value: strings.Repeat("x", MaxValue+1)}), `its value has 4097 bytes`},
		{header(make([]Value, MaxValues+1)...), `names 17 of header, at most 16`},
		{match(Match{Query: []Value{{}}}), `query parameter "": its name has 0 bytes`},
		{many(20, func(i int) (r Rule) {
			for k := range MaxValues {
				r.Matches = append(r.Matches, Match{Headers: []Value{{Name: fmt.Sprintf("x-%d-%d", i, k)}}})
			}
			return r
		}), `route "r16": with it the rules ask for 272 different header fields`},
		{many(MaxRegexes+1, func(i int) Rule { return Rule{Matches: []Match{{Path: Path{PathRegex, fmt.Sprint("/", i)}}}} }), `route "r256": with it the rules have 257 regular expressions`},
		{act(Action{Backends: []Backend{{Service: "a"}}, Redirect: &Redirect{Status: 301}}), "exclude each other; keep one"},
		{act(Action{Backends: make([]Backend, MaxBackends+1)}), "has 65 backends"},
		{act(Action{Backends: []Backend{{Service: "a", Weight: MaxWeight + 1}}}), "backend 1 (a): weight 1000001: must be at most 1000000"},
		{act(Action{Redirect: &Redirect{Status: 300}}), "redirect: status 300: must be"},
		{act(Action{Redirect: &Redirect{Status: 301, Scheme: "ftp"}}), `redirect: scheme "ftp"`},
		{act(Action{Redirect: &Redirect{Status: 301, Authority: "a:80"}}), `a port stands by itself`},
		{[]Rule{{Name: "r", Matches: []Match{{Path: Path{PathExact, "/a"}}}, Action: Action{Rewrite: Rewrite{Path: PathEdit{Prefix: true, Value: "/b", Set: true}}}}}, `match 1: path "/a": is no prefix, and the action replaces the prefix`},
		{act(Action{Rewrite: Rewrite{Path: PathEdit{Value: "b", Set: true}}}), `rewrite: path "b": must begin with /`},
		{act(Action{Rewrite: Rewrite{Path: PathEdit{Value: "/b"}}}), `nothing is replaced`},
		{act(Action{Rewrite: Rewrite{Authority: "a/b"}}), `authority "a/b": must be a host name`},
		{act(Action{Respond: &Respond{Status: 100}}), "respond: status 100: must be from 200 to 599"},
		{act(Action{Request: Edits{Set: []Field{{"X", "y"}}}}), `request: set "X": must be in lower case`},
		{act(Action{Response: Edits{Add: []Field{{"x", "y\nz"}}}}), `response: add "x": value: must have`},
		{act(Action{Response: Edits{Add: []Field{{"x", " y"}}}}), `without white space at its ends`},
		{act(Action{Request: Edits{Set: []Field{{"host", "a"}}}}), `request: set "host": is what requests are routed by; rewrite the authority instead`},
		{act(Action{Request: Edits{Remove: []string{"content-length"}}}), `request: remove "content-length": says how the message is framed`},
		{act(Action{Request: Edits{Remove: []string{"upgrade"}}}), `remove "upgrade": belongs to one connection`},
		{act(Action{Request: Edits{Remove: []string{"traceparent"}}}), `remove "traceparent": is how the mesh finds what belongs together`},
		{act(Action{Response: Edits{Add: []Field{{"x-tulle-reason", "shed"}}}}), `add "x-tulle-reason": is the mesh's own`},
		{act(Action{Backends: []Backend{{Service: "a", Request: Edits{Remove: []string{"x-b3-flags"}}}}}), `backend 1 (a): request: remove "x-b3-flags"`},
		{act(Action{Request: Edits{Add: []Field{{"a", strings.Repeat("x", 4096)}, {"b", strings.Repeat("x", 4096)}}}}), `adds 8202 bytes of header fields, at most 8192`},
		{act(Action{Rewrite: Rewrite{Path: PathEdit{Value: "/a/../b", Set: true}}}), `no dot segments`},
		{act(Action{Mirrors: []Mirror{{Service: "a", PPM: Million + 1}}}), "mirror 1: 1000001 parts per million"},
		{act(Action{Mirrors: []Mirror{{}}}), "mirror 1: service: must not be empty"},
		{act(Action{CORS: &CORS{Origins: []string{"a"}}}), `cors: origin "a": must be`},
		{act(Action{CORS: &CORS{MaxAge: time.Millisecond}}), `cors: maxAge 1ms: must be whole seconds`},
		{act(Action{Faults: []Fault{{Delay: -1}}}), "fault 1: delay -1ns"},
		{act(Action{Faults: []Fault{{Headers: []Value{{Name: "A"}}}}}), `fault 1: header "A": must be in lower case`},
		{act(Action{Limits: []RateLimit{{Name: "a"}}}), "rate limit 1 (a): 0 requests per 0s: must be at least 1"},
		{act(Action{Limits: []RateLimit{{Name: "a", Domain: "d"}}}), "keys: are what the service of domain d decides by"},
		{act(Action{Limits: []RateLimit{{Name: "a", Domain: "d", Keys: []Key{{Kind: KeyPath}}}}}), "service: domain d is of a rate limit service; name it"},
		{act(Action{Limits: []RateLimit{{Name: "a", Domain: "d", Service: "s", Keys: []Key{{Kind: KeyPath}}, Timeout: time.Minute}}}), "timeout 1m0s: must be at most 1s"},
		{act(Action{Limits: []RateLimit{{Name: "a", Requests: 1, Per: 1, Service: "s"}}}), "failOpen, service and timeout are of limits with a domain"},
		{act(Action{Limits: []RateLimit{{Name: "a", Requests: 1, Per: 1}, {Name: "a", Requests: 1, Per: 1}}}), "rate limit 2 (a): the name is used twice"},
		{act(Action{Limits: []RateLimit{{Name: "a", Requests: 1, Per: 1, Keys: []Key{{Kind: KeyConstant}}}}}), `value "": constants have one`},
		{act(Action{Timeouts: Timeouts{Try: -2}}), "timeouts: try -2ns: must be positive"},
		{act(Action{Retry: &Retry{Attempts: 11}}), "retry: attempts 11"},
		{act(Action{Retry: &Retry{Statuses: []int{503, 503}}}), "retry: status 503: is listed twice"},
		{act(Action{Session: &Session{}}), `session: name "": must be a token`},
		{act(Action{Session: &Session{Kind: SessionHeader, Name: "a", Path: "/"}}), `lifetime and path are of cookies`},
	} {
		if _, err := New("s", c.rules...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v\nwant …%s…", err, c.want)
		}
	}
	if err := Check(slices.Concat(path(PathRegex, `\Qa`))); err != nil {
		t.Error(err)
	}
}
