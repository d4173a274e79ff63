package access

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/route"
)

func policyOf(name string, action Action, audit bool, rules ...Rule) Policy {
	return Policy{Name: "shop/" + name, Action: action, Audit: audit, Rules: rules}
}

func get(path string) []Match {
	return []Match{{Method: "GET", Path: route.Path{Kind: route.PathPrefix, Value: path}}}
}

var web = Request{Identity: "spiffe://t/ns/shop/sa/web", Namespace: "shop", Account: "web", Addr: netip.MustParseAddr("10.1.2.3"), Head: route.Head{Method: "GET", Path: "/api/1"}}

func with(change func(q *Request)) Request {
	q := web
	change(&q)
	return q
}

func TestJudge(t *testing.T) {
	plain := with(func(q *Request) { q.Identity, q.Namespace, q.Account = "", "", "" })
	bytes := with(func(q *Request) { q.Connection, q.Head = true, route.Head{} })
	readers := policyOf("readers", Allow, false, Rule{Name: "web", From: []Caller{{Accounts: []string{"shop/web"}}}, To: get("/api")})
	all := policyOf("all", Allow, false, Rule{})
	for _, c := range []struct {
		name   string
		rules  Rules
		q      Request
		denied bool
		why    string
		would  string
	}{
		{"nothing is said", Rules{}, plain, false, "no AccessPolicy is about this", ""},
		{"closed", Rules{Closed: true}, web, true, "the mesh denies what no AccessPolicy allows", ""},
		{"allowed", Rules{Policies: []Policy{readers}, Closed: true}, web, false, "allowed by AccessPolicy shop/readers, rule web", ""},
		{"another path", Rules{Policies: []Policy{readers}}, with(func(q *Request) { q.Head.Path = "/admin" }), true, "no rule of AccessPolicy shop/readers", ""},
		{"another method", Rules{Policies: []Policy{readers}}, with(func(q *Request) { q.Head.Method = "POST" }), true, "no rule of", ""},
		{"nobody", Rules{Policies: []Policy{readers}}, plain, true, "no rule of", ""},
		{"bytes are not known to be a request", Rules{Policies: []Policy{readers}}, bytes, true, "no rule of", ""},
		{"denied before allowed", Rules{Policies: []Policy{all, policyOf("no", Deny, false, Rule{To: get("/api")})}}, web, true, "denied by AccessPolicy shop/no, rule 0", ""},
		{"what is bytes may be what is denied", Rules{Policies: []Policy{policyOf("no", Deny, false, Rule{To: get("/admin")})}}, bytes, true, "denied by", ""},
		{"deny is about others", Rules{Policies: []Policy{policyOf("no", Deny, false, Rule{To: get("/admin")})}}, web, false, "no AccessPolicy is about this", ""},
		{"an allow without rules", Rules{Policies: []Policy{policyOf("none", Allow, false)}}, web, true, "no rule of AccessPolicy shop/none", ""},
		{"namespace", Rules{Policies: []Policy{policyOf("ns", Allow, false, Rule{From: []Caller{{Namespaces: []string{"other"}}, {Namespaces: []string{"shop"}}}})}}, web, false, "allowed by", ""},
		{"all of a caller", Rules{Policies: []Policy{policyOf("ns", Allow, false, Rule{From: []Caller{{Namespaces: []string{"shop"}, Networks: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}}}})}}, web, true, "no rule of", ""},
		{"identity", Rules{Policies: []Policy{policyOf("id", Allow, false, Rule{From: []Caller{{Identities: []string{"spiffe://t/ns/shop/*"}}}})}}, web, false, "allowed by", ""},
		{"beginning of an identity", Rules{Policies: []Policy{policyOf("id", Allow, false, Rule{From: []Caller{{Identities: []string{"spiffe://t/ns/shop/sa/we"}}}})}}, web, true, "no rule of", ""},
		{"network of an address in IPv6", Rules{Policies: []Policy{policyOf("net", Allow, false, Rule{From: []Caller{{Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}})}}, with(func(q *Request) {
			q.Addr = netip.MustParseAddr("::ffff:10.1.2.3")
		}), false, "allowed by", ""},
		{"audit denies nothing", Rules{Policies: []Policy{policyOf("no", Deny, true, Rule{})}}, web, false, "no AccessPolicy is about this", "AccessPolicy shop/no, rule 0, which is in audit, would deny this"},
		{"audit of an allow", Rules{Policies: []Policy{policyOf("only", Allow, true, Rule{From: []Caller{{Namespaces: []string{"x"}}}})}}, web, false, "no AccessPolicy", "no rule of AccessPolicy shop/only, which is in audit"},
		{"audit is not asked of what is allowed", Rules{Policies: []Policy{policyOf("only", Allow, true), all}}, web, false, "allowed by AccessPolicy shop/all, rule 0", ""},
	} {
		j, err := New(c.rules)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		v := j.Judge(&c.q)
		if v.Denied != c.denied || !strings.HasPrefix(v.Why(), c.why) || !strings.HasPrefix(v.WhyWould(), c.would) || (v.WhyWould() == "") != (c.would == "") {
			t.Errorf("%s: got %v, %q, %q", c.name, v.Denied, v.Why(), v.WhyWould())
		}
	}
}

// An IP address in IPv6 notation, an account that looks like another one, and the like do not let anybody in: a naive judge says the same of random policies and requests.
func TestNaive(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	some := func(of ...string) (out []string) {
		for range r.IntN(3) {
			out = append(out, pick(of...))
		}
		return out
	}
	for round := range 20_000 {
		var rules Rules
		rules.Closed = r.IntN(3) == 0
		for i := range r.IntN(4) {
			p := Policy{Name: fmt.Sprint("a/", i), Action: Action(r.IntN(2)), Audit: r.IntN(4) == 0}
			for range r.IntN(3) {
				var rule Rule
				for range r.IntN(3) {
					c := Caller{Identities: some("spiffe://t/ns/a/*", "spiffe://t/ns/a/sa/b"), Namespaces: some("a", "aa"), Accounts: some("a/b", "aa/b", "a/ab")}
					for _, n := range some("10.0.0.0/8", "10.1.0.0/16", "fd00::/8") {
						c.Networks = append(c.Networks, netip.MustParsePrefix(n))
					}
					if len(c.Identities)+len(c.Namespaces)+len(c.Accounts)+len(c.Networks) > 0 {
						rule.From = append(rule.From, c)
					}
				}
				for range r.IntN(3) {
					rule.To = append(rule.To, Match{Method: pick("", "GET", "POST"), Path: route.Path{Kind: route.PathKind(r.IntN(3)), Value: "/x"}})
					if m := &rule.To[len(rule.To)-1]; m.Path.Kind == route.PathAny {
						m.Path.Value = ""
					}
				}
				p.Rules = append(p.Rules, rule)
			}
			rules.Policies = append(rules.Policies, p)
		}
		q := Request{Addr: netip.MustParseAddr(pick("10.1.2.3", "10.2.2.3", "fd00::1", "::ffff:10.1.0.1")), Connection: r.IntN(5) == 0, Head: route.Head{Method: pick("GET", "POST", "get"), Path: pick("/x", "/x/y", "/xy", "/")}}
		if r.IntN(4) > 0 {
			q.Namespace, q.Account = pick("a", "aa"), pick("b", "ab")
			q.Identity = "spiffe://t/ns/" + q.Namespace + "/sa/" + q.Account
		}
		j, err := New(rules)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := j.Judge(&q).Denied, denies(rules, q); got != want {
			t.Fatalf("round %d: %+v of %+v: got %v, want %v", round, q, rules, got, want)
		}
	}
}

// denies is Judge, as the reference page says it.
func denies(r Rules, q Request) bool {
	about := func(rule Rule, action Action) bool {
		from := len(rule.From) == 0
		for _, c := range rule.From {
			in := func(list []string, want string) bool {
				for _, v := range list {
					if q.Identity != "" && (v == want || strings.HasSuffix(v, "*") && strings.HasPrefix(want, strings.TrimSuffix(v, "*"))) {
						return true
					}
				}
				return len(list) == 0
			}
			near := len(c.Networks) == 0
			for _, n := range c.Networks {
				near = near || n.Contains(q.Addr.Unmap())
			}
			from = from || in(c.Identities, q.Identity) && in(c.Namespaces, q.Namespace) && in(c.Accounts, q.Namespace+"/"+q.Account) && near
		}
		to := len(rule.To) == 0 || q.Connection && action == Deny
		for _, m := range rule.To {
			path := m.Path.Kind == route.PathAny || q.Head.Path == m.Path.Value || m.Path.Kind == route.PathPrefix && strings.HasPrefix(q.Head.Path, m.Path.Value+"/")
			to = to || !q.Connection && (m.Method == "" || m.Method == q.Head.Method) && path
		}
		return from && to
	}
	allows, allowed := false, false
	for _, p := range r.Policies {
		if p.Audit {
			continue
		}
		allows = allows || p.Action == Allow
		for _, rule := range p.Rules {
			if about(rule, p.Action) {
				if p.Action == Deny {
					return true
				}
				allowed = true
			}
		}
	}
	return !allowed && (allows || r.Closed)
}

func TestCheck(t *testing.T) {
	for want, p := range map[string]Policy{
		`access policy "": action 0`:                        {},
		"access policy a/b: rule 0: from[0]: names nobody":  {Name: "a/b", Rules: []Rule{{From: []Caller{{}}}}},
		`identities: "web": must be a SPIFFE ID`:            {Name: "a/b", Rules: []Rule{{From: []Caller{{Identities: []string{"web"}}}}}},
		`identities: "spiffe://*/a": must be a SPIFFE ID`:   {Name: "a/b", Rules: []Rule{{From: []Caller{{Identities: []string{"spiffe://*/a"}}}}}},
		`serviceAccounts: "web": must be NAMESPACE/ACCOUNT`: {Name: "a/b", Rules: []Rule{{From: []Caller{{Accounts: []string{"web"}}}}}},
		`namespaces: "a/b": must be the name`:               {Name: "a/b", Rules: []Rule{{From: []Caller{{Namespaces: []string{"a/b"}}}}}},
		"cidrs: 10.1.0.0/8: must be a network":              {Name: "a/b", Rules: []Rule{{From: []Caller{{Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/8")}}}}}},
		"access policy a/b: rule 0: to[0]: path":            {Name: "a/b", Rules: []Rule{{To: []Match{{Path: route.Path{Kind: route.PathRegex, Value: "("}}}}}},
	} {
		if err := (Rules{Policies: []Policy{p}}).Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestJudgeAllocatesNothing(t *testing.T) {
	j, err := New(Rules{Policies: []Policy{
		policyOf("no", Deny, false, Rule{To: get("/admin")}),
		policyOf("readers", Allow, false, Rule{From: []Caller{{Accounts: []string{"shop/cart"}}, {Accounts: []string{"shop/web"}}}, To: get("/api")}),
	}})
	if err != nil {
		t.Fatal(err)
	}
	q := web
	if n := testing.AllocsPerRun(100, func() {
		if j.Judge(&q).Denied {
			t.Error("denied")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
