package resource

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// Callers are workloads by what they are, so that rules of routes can be for what these send, and for nobody else's requests.
type Callers struct {
	Header `yaml:",inline"`
	Spec   CallersSpec `yaml:"spec"`
}

// CallersSpec of Callers.
type CallersSpec struct {
	From []CallersFrom `yaml:"from"` // any one of them
}

// CallersFrom are workloads of which all that is said is true, and of each list one entry.
type CallersFrom struct {
	Services        []string          `yaml:"services,omitempty"`        // names
	ServiceAccounts []string          `yaml:"serviceAccounts,omitempty"` // NAME, of the Callers' namespace, or NAMESPACE/NAME
	Namespaces      []string          `yaml:"namespaces,omitempty"`
	Identities      []string          `yaml:"identities,omitempty"` // SPIFFE IDs, or their beginning and a *
	Labels          map[string]string `yaml:"labels,omitempty"`     // all of them; version, region and zone are those of spec
}

// maxCallers bounds the entries of one Callers.
const maxCallers = 16

func (c *Callers) check() error {
	if err := c.Header.check(); err != nil {
		return err
	}
	if n := len(c.Spec.From); n == 0 || n > maxCallers {
		return fmt.Errorf("spec.from: has %d entries, must have 1 to %d; a rule that is for everybody needs no Callers", n, maxCallers)
	}
	for i, f := range c.Spec.From {
		at := fmt.Sprintf("spec.from[%d]", i)
		if len(f.Services)+len(f.ServiceAccounts)+len(f.Namespaces)+len(f.Identities)+len(f.Labels) == 0 {
			return fmt.Errorf("%s: says nothing; give services, serviceAccounts, namespaces, identities or labels", at)
		}
		for k, name := range f.Services {
			if err := checkLabel(fmt.Sprintf("%s.services[%d]", at, k), name); err != nil {
				return err
			}
		}
		if err := policy.LabelsCheck(f.Labels); err != nil {
			return fmt.Errorf("%s.%w", at, err)
		}
		who := access.Caller{Accounts: c.accounts(f), Namespaces: f.Namespaces, Identities: f.Identities}
		if len(who.Accounts)+len(who.Namespaces)+len(who.Identities) == 0 {
			continue
		}
		if err := (access.Rules{Policies: []access.Policy{{Name: "a/b", Rules: []access.Rule{{From: []access.Caller{who}}}}}}).Check(); err != nil {
			return fmt.Errorf("%s.%w", at, root(err))
		}
	}
	return nil
}

// root is what err says at its end, without whose it is.
func root(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// accounts are f's, each with its namespace.
func (c *Callers) accounts(f CallersFrom) (out []string) {
	for _, a := range f.ServiceAccounts {
		if !strings.Contains(a, "/") {
			a = c.Metadata.Namespace + "/" + a
		}
		out = append(out, a)
	}
	return out
}

// Select reports whether w is one of c, in a mesh of a trust domain; "": it is not known, and identities of any are taken for w's.
func (c *Callers) Select(w *Workload, domain string) bool {
	return slices.ContainsFunc(c.Spec.From, func(f CallersFrom) bool { return c.selects(f, w, domain) })
}

func (c *Callers) selects(f CallersFrom, w *Workload, domain string) bool {
	is := func(id string) bool {
		return identified(id, domain, "/ns/"+w.Metadata.Namespace+"/sa/"+w.Spec.ServiceAccount)
	}
	one := func(list []string, v string) bool { return len(list) == 0 || slices.Contains(list, v) }
	if !one(f.Services, w.Spec.Service) || !one(f.Namespaces, w.Metadata.Namespace) || !one(c.accounts(f), w.Metadata.Namespace+"/"+w.Spec.ServiceAccount) ||
		len(f.Identities) > 0 && !slices.ContainsFunc(f.Identities, is) {
		return false
	}
	for k, v := range f.Labels {
		if w.label(k) != v {
			return false
		}
	}
	return true
}

// identified reports whether a SPIFFE ID, or its beginning and a *, is that of a path in a trust domain; "": in any.
func identified(want, domain, path string) bool {
	rest := strings.TrimPrefix(want, "spiffe://")
	if domain == "" {
		_, behind, whole := strings.Cut(rest, "/")
		if !whole {
			return strings.HasSuffix(rest, "*")
		}
		rest = "/" + behind
	}
	beginning, open := strings.CutSuffix(rest, "*")
	return rest == domain+path || open && strings.HasPrefix(domain+path, beginning)
}

// label is one of w's, "" where it has none; version, region and zone are those of its spec.
func (w *Workload) label(key string) string {
	switch key {
	case "version":
		return w.Spec.Version
	case "region":
		return w.Spec.Locality.Region
	case "zone":
		return w.Spec.Locality.Zone
	}
	return w.Metadata.Labels[key]
}

// SelectedBy returns which Callers, by NAMESPACE/NAME, select w, as a function that remembers.
func (s *Set) SelectedBy(w *Workload, domain string) func(name string) bool {
	known := map[string]bool{}
	return func(name string) bool {
		is, ok := known[name]
		if !ok {
			namespace, short, _ := strings.Cut(name, "/")
			if e, found := s.Entries[Key{Kind: "Callers", Namespace: namespace, Name: short}]; found {
				is = e.Object.(*Callers).Select(w, domain)
			}
			known[name] = is
		}
		return is
	}
}

// OfCaller are those of rules that are for a caller whom selected names, without saying so: everybody else's are left out. some: there are any but the one for what none is for.
// Rules that are for everybody are returned as they are.
func OfCaller(rules []route.Rule, selected func(name string) bool) (out []route.Rule, some bool) {
	if !slices.ContainsFunc(rules, func(r route.Rule) bool { return len(r.Callers) > 0 }) {
		return rules, true
	}
	for _, r := range rules {
		if slices.ContainsFunc(r.Callers, func(name string) bool { return !selected(name) }) {
			continue
		}
		r.Callers = nil
		out = append(out, r)
		some = some || r.Name != unmatched
	}
	return out, some
}

// extension reads the filter of a rule that names a kind of Tulle's: Callers.
func (t *attaching) extension(r *object, x *rule, at, group, kind, name string) {
	at += ".extensionRef"
	if group != tulleGroup || kind != "Callers" {
		x.broken = fmt.Sprintf("%s: %s %s", at, groupKind(group, kind), noExtension)
		return
	}
	if _, ok := t.set.Entries[Key{Kind: "Callers", Namespace: r.GetNamespace(), Name: name}]; !ok {
		x.void = true
		r.common.set("ResolvedRefs", false, ReasonCallersNotFound, fmt.Sprintf("%s: no Callers %s/%s; add them. What the rule is for is answered with 500, whoever sends it", at, r.GetNamespace(), name))
		return
	}
	if name = r.GetNamespace() + "/" + name; !slices.Contains(x.Callers, name) {
		x.Callers = append(x.Callers, name)
	}
}

// ReasonCallersNotFound is of the condition ResolvedRefs of a route that names Callers that are not there.
const ReasonCallersNotFound = "CallersNotFound"

// special puts the rules that are for some callers before those that are for everybody: where nothing else tells two apart, they count first.
func special(rules []route.Rule) []route.Rule {
	slices.SortStableFunc(rules, func(a, b route.Rule) int {
		switch {
		case len(a.Callers) > 0 && len(b.Callers) == 0:
			return -1
		case len(a.Callers) == 0 && len(b.Callers) > 0:
			return 1
		}
		return 0
	})
	return rules
}
