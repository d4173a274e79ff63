package access

import (
	"fmt"
	"net/netip"

	"github.com/tulle-mesh/tulle/internal/route"
)

// Request is what is known of a request, or of a connection of bytes, and of who sends it.
type Request struct {
	Identity           string // proven SPIFFE ID; "": none
	Namespace, Account string // of Identity
	Addr               netip.Addr
	// Connection: it is bytes, or its requests are not seen. A rule with To is then not known to be about it: it does not allow, and it does deny.
	Connection bool
	Head       route.Head
}

// Verdict says what becomes of a Request, and why. The zero value: everybody may do everything.
type Verdict struct {
	Denied bool
	By     *Policy // that decided; nil: none is about the request
	Rule   *Rule   // of By; nil: no rule of any policy that allows is about it
	// Would is the policy in audit whose Rule would have denied what is allowed; nil: none. With WouldRule nil it is one that allows, and not this.
	Would     *Policy
	WouldRule *Rule
}

// Judge is Rules, compiled. It is immutable and shared by any number of goroutines. The zero Judge allows everything.
type Judge struct {
	deny, allow           []judged // that decide
	auditDeny, auditAllow []judged
	closed, reads         bool
}

type judged struct {
	policy *Policy
	rules  []judgedRule
}

type judgedRule struct {
	rule *Rule
	to   []route.Matcher
}

// New compiles r, which is not to be changed afterwards. The error names policy, rule, field and remedy.
func New(r Rules) (*Judge, error) {
	j := &Judge{closed: r.Closed}
	for i := range r.Policies {
		p := &r.Policies[i]
		c := judged{policy: p}
		if p.Name == "" || p.Action >= numActions {
			return nil, fmt.Errorf("access policy %q: action %d: must be allow or deny", p.Name, p.Action)
		}
		for k := range p.Rules {
			rule := &p.Rules[k]
			fail := func(err error) error { return fmt.Errorf("access policy %s: rule %d: %w", p.Name, k, err) }
			of := judgedRule{rule: rule}
			for n := range rule.From {
				if err := rule.From[n].check(); err != nil {
					return nil, fail(fmt.Errorf("from[%d]: %w", n, err))
				}
			}
			for n := range rule.To {
				m, err := route.NewMatcher(&rule.To[n])
				if err != nil {
					return nil, fail(fmt.Errorf("to[%d]: %w", n, err))
				}
				if len(rule.To[n].Query) > 0 {
					return nil, fail(fmt.Errorf("to[%d]: query parameters are not looked at: two services may read one query differently; judge by path and header", n))
				}
				of.to = append(of.to, m)
				j.reads = j.reads || m.Reads()
			}
			c.rules = append(c.rules, of)
		}
		into := [numActions][2]*[]judged{{&j.allow, &j.auditAllow}, {&j.deny, &j.auditDeny}}[p.Action]
		list := into[0]
		if p.Audit {
			list = into[1]
		}
		*list = append(*list, c)
	}
	return j, nil
}

// Reads reports whether a rule looks at Head.Fields; if not, they need not be given.
func (j *Judge) Reads() bool { return j != nil && j.reads }

// Judge decides: what a policy denies is denied; then, if any allows, what none allows; and what no policy is about, if the port is closed.
func (j *Judge) Judge(q *Request) Verdict {
	var v Verdict
	if j == nil {
		return v
	}
	if v.By, v.Rule = find(j.deny, q, Deny); v.By != nil {
		v.Denied = true
		return v
	}
	if v.By, v.Rule = find(j.allow, q, Allow); v.By == nil {
		if len(j.allow) > 0 {
			v.By, v.Denied = j.allow[0].policy, true
			return v
		}
		if j.closed {
			v.Denied = true
			return v
		}
	}
	if v.Would, v.WouldRule = find(j.auditDeny, q, Deny); v.Would == nil && len(j.auditAllow) > 0 && v.By == nil {
		if by, _ := find(j.auditAllow, q, Allow); by == nil {
			v.Would = j.auditAllow[0].policy
		}
	}
	return v
}

// find is the first rule that is about q.
func find(list []judged, q *Request, action Action) (*Policy, *Rule) {
	for i := range list {
		for k := range list[i].rules {
			if r := &list[i].rules[k]; r.is(q, action) {
				return list[i].policy, r.rule
			}
		}
	}
	return nil, nil
}

func (r *judgedRule) is(q *Request, action Action) bool {
	from := len(r.rule.From) == 0
	for i := 0; i < len(r.rule.From) && !from; i++ {
		from = r.rule.From[i].is(q)
	}
	switch {
	case !from:
		return false
	case len(r.to) == 0:
		return true
	case q.Connection:
		return action == Deny
	}
	for i := range r.to {
		if r.to[i].Is(&q.Head) {
			return true
		}
	}
	return false
}

// Why says a verdict in words: which policy, and which of its rules.
func (v Verdict) Why() string {
	switch {
	case v.By == nil && v.Denied:
		return "the mesh denies what no AccessPolicy allows, and none is about this"
	case v.By == nil:
		return "no AccessPolicy is about this"
	case v.Denied && v.Rule == nil:
		return "no rule of AccessPolicy " + v.By.Name + ", or of another one that allows, is about this"
	case v.Denied:
		return "denied by AccessPolicy " + v.By.named(v.Rule)
	}
	return "allowed by AccessPolicy " + v.By.named(v.Rule)
}

// WhyWould says in words what a policy in audit would have done; "": nothing else.
func (v Verdict) WhyWould() string {
	switch {
	case v.Would == nil:
		return ""
	case v.WouldRule == nil:
		return "no rule of AccessPolicy " + v.Would.Name + ", which is in audit, is about this: it would be denied"
	}
	return "AccessPolicy " + v.Would.named(v.WouldRule) + ", which is in audit, would deny this"
}

// named is the policy with its rule.
func (p *Policy) named(r *Rule) string {
	if r.Name != "" {
		return p.Name + ", rule " + r.Name
	}
	for i := range p.Rules {
		if &p.Rules[i] == r {
			return fmt.Sprintf("%s, rule %d", p.Name, i)
		}
	}
	return p.Name
}
