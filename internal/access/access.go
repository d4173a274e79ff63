// Package access decides who may use a port of a workload. Judge.Judge is a pure function of its inputs: no clock, no I/O, no lock, no allocation. The sidecar of the workload that
// is called judges with it, and the command line asks it what-if.
package access

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/internal/route"
)

// Action is what a Policy does with what its rules are for.
type Action uint8

const (
	// Allow lets it pass. Where one policy of a port allows, what none allows is denied.
	Allow Action = iota
	// Deny refuses it, whatever else allows it.
	Deny
	numActions
)

var actionNames = [numActions]string{"allow", "deny"}

// String is the word of the configuration.
func (a Action) String() string { return actionNames[min(a, numActions-1)] }

// ParseAction is the inverse of String; "" is Allow.
func ParseAction(s string) (Action, error) {
	for a, name := range actionNames {
		if s == name || s == "" {
			return Action(a), nil
		}
	}
	return 0, fmt.Errorf("%q is not one of %s", s, strings.Join(actionNames[:], ", "))
}

// Policy is what one resource says of a port.
type Policy struct {
	Name   string // NAMESPACE/NAME of the resource; Records have it
	Action Action
	Audit  bool   // it decides nothing: what it would have denied is only told
	Rules  []Rule // any one of them; none: nothing is of this policy
}

// Rule is true of a request when one of From and one of To are.
type Rule struct {
	Name string   // unique in its Policy, "" for one without; Records have it
	From []Caller // none: everybody, known or not
	To   []Match  // none: everything
}

// Caller is true of a peer when each list that is not empty has it. One of them is not empty.
type Caller struct {
	Identities []string       // SPIFFE IDs; a "*" at the end stands for any rest
	Namespaces []string       // of its identity
	Accounts   []string       // NAMESPACE/ACCOUNT of its identity
	Networks   []netip.Prefix // of its address, which proves less than an identity
}

// Match is of requests, as routes have it; a connection of bytes has none of what it looks at.
type Match = route.Match

// Rules are all that is said of a port.
type Rules struct {
	Policies []Policy // by name
	Closed   bool     // what no policy is about is denied too
}

// IsZero reports whether everybody may do everything.
func (r Rules) IsZero() bool { return len(r.Policies) == 0 && !r.Closed }

// Check refuses what cannot be judged; the error names policy, rule, field and remedy.
func (r Rules) Check() error {
	_, err := New(r)
	return err
}

func (c *Caller) check() error {
	if len(c.Identities)+len(c.Namespaces)+len(c.Accounts)+len(c.Networks) == 0 {
		return errors.New("names nobody; give identities, namespaces, serviceAccounts or cidrs, or leave from out for everybody")
	}
	for _, id := range c.Identities {
		rest, ok := strings.CutPrefix(id, "spiffe://")
		if !ok || strings.Contains(strings.TrimSuffix(rest, "*"), "*") || rest == "" {
			return fmt.Errorf("identities: %q: must be a SPIFFE ID, such as spiffe://tulle.local/ns/shop/sa/web, or its beginning and a *", id)
		}
	}
	for _, ns := range c.Namespaces {
		if ns == "" || strings.ContainsAny(ns, "/*") {
			return fmt.Errorf("namespaces: %q: must be the name of a namespace", ns)
		}
	}
	for _, a := range c.Accounts {
		if ns, name, ok := strings.Cut(a, "/"); !ok || ns == "" || name == "" || strings.ContainsAny(a, "*") || strings.Contains(name, "/") {
			return fmt.Errorf("serviceAccounts: %q: must be NAMESPACE/ACCOUNT", a)
		}
	}
	for _, n := range c.Networks {
		if !n.IsValid() || n != n.Masked() {
			return fmt.Errorf("cidrs: %s: must be a network, such as 10.0.0.0/8, with no bit behind its length", n)
		}
	}
	return nil
}

// is reports whether a peer is one of c.
func (c *Caller) is(q *Request) bool {
	return (len(c.Identities) == 0 || q.Identity != "" && anyOf(c.Identities, func(want string) bool { return named(want, q.Identity) })) &&
		(len(c.Namespaces) == 0 || q.Identity != "" && anyOf(c.Namespaces, func(want string) bool { return want == q.Namespace })) &&
		(len(c.Accounts) == 0 || q.Identity != "" && anyOf(c.Accounts, func(want string) bool { return isAccount(want, q.Namespace, q.Account) })) &&
		(len(c.Networks) == 0 || q.Addr.IsValid() && c.near(q.Addr.Unmap()))
}

func (c *Caller) near(a netip.Addr) bool {
	for _, n := range c.Networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

func anyOf(list []string, is func(string) bool) bool {
	for _, v := range list {
		if is(v) {
			return true
		}
	}
	return false
}

func named(want, id string) bool {
	if beginning, open := strings.CutSuffix(want, "*"); open {
		return strings.HasPrefix(id, beginning)
	}
	return want == id
}

// isAccount compares without putting the parts together.
func isAccount(want, namespace, account string) bool {
	return len(want) == len(namespace)+1+len(account) && want[:len(namespace)] == namespace && want[len(namespace)] == '/' && want[len(namespace)+1:] == account
}
