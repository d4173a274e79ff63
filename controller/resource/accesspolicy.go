package resource

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/route"
)

// AccessPolicy says who may use what of the services that it is for. The sidecar of the workload that is called judges by it.
type AccessPolicy struct {
	Header `yaml:",inline"`
	Spec   AccessPolicySpec `yaml:"spec"`
}

// AccessPolicySpec of an AccessPolicy.
type AccessPolicySpec struct {
	TargetRefs []TargetRef  `yaml:"targetRefs,omitempty"` // Services (sectionName: one of its ports), the Namespace, the MeshConfig; default: the Namespace
	Action     string       `yaml:"action,omitempty"`     // allow (default) | deny
	Mode       string       `yaml:"mode,omitempty"`       // enforce (default) | audit
	Rules      []AccessRule `yaml:"rules,omitempty"`      // any one of them; none: an allow lets nobody pass
}

// AccessRule is about what one of From and one of To is true of.
type AccessRule struct {
	Name string       `yaml:"name,omitempty"` // unique in the policy; Records have it
	From []AccessFrom `yaml:"from,omitempty"` // default: everybody
	To   []AccessTo   `yaml:"to,omitempty"`   // default: everything
}

// AccessFrom is a caller of whom all that is said is true.
type AccessFrom struct {
	ServiceAccounts []string `yaml:"serviceAccounts,omitempty"` // NAME, of the policy's namespace, or NAMESPACE/NAME
	Namespaces      []string `yaml:"namespaces,omitempty"`
	Identities      []string `yaml:"identities,omitempty"` // SPIFFE IDs, or their beginning and a *
	CIDRs           []string `yaml:"cidrs,omitempty"`      // of the caller's address, which proves less
}

// AccessTo is a request of which all that is said is true.
type AccessTo struct {
	Methods []string      `yaml:"methods,omitempty"`
	Paths   []AccessPath  `yaml:"paths,omitempty"`
	Headers []HeaderMatch `yaml:"headers,omitempty"` // all of them
}

// AccessPath is a path, as routes compare it.
type AccessPath struct {
	Type  string `yaml:"type,omitempty"` // PathPrefix (default) | Exact | RegularExpression
	Value string `yaml:"value"`
}

const (
	maxAccessRules   = 64
	maxAccessMatches = 256 // of a rule: methods × paths
)

func (p *AccessPolicy) check() error {
	if err := p.Header.check(); err != nil {
		return err
	}
	if n := len(p.Spec.TargetRefs); n > 16 {
		return fmt.Errorf("spec.targetRefs: has %d entries, at most 16 are allowed", n)
	}
	for i, r := range p.Spec.TargetRefs {
		t, err := r.target(p.Metadata.Namespace)
		if err == nil && t.level > LevelPort {
			err = fmt.Errorf("%s: a policy is of who is called; name a Service, the Namespace or the MeshConfig", r.Kind)
		}
		if err == nil && r.Group == tulleGroup && r.Kind == "ExternalService" {
			err = fmt.Errorf("ExternalService %s: has no sidecar that could judge its callers", r.Name)
		}
		if err != nil {
			return fmt.Errorf("spec.targetRefs[%d]: %w", i, err)
		}
	}
	if _, err := access.ParseAction(p.Spec.Action); err != nil {
		return fmt.Errorf("spec.action: %w", err)
	}
	if p.Spec.Mode != "" {
		if err := oneOf("spec.mode", p.Spec.Mode, "enforce", "audit"); err != nil {
			return err
		}
	}
	if n := len(p.Spec.Rules); n > maxAccessRules {
		return fmt.Errorf("spec.rules: has %d entries, at most %d are allowed", n, maxAccessRules)
	}
	names := map[string]bool{}
	for i, r := range p.Spec.Rules {
		at := fmt.Sprintf("spec.rules[%d]", i)
		if r.Name != "" {
			if err := checkLabel(at+".name", r.Name); err != nil {
				return err
			}
			if names[r.Name] {
				return fmt.Errorf("%s.name: %q is another rule's name too", at, r.Name)
			}
			names[r.Name] = true
		}
		for k, f := range r.From {
			for _, c := range f.CIDRs {
				if n, err := netip.ParsePrefix(c); err != nil || n != n.Masked() {
					return fmt.Errorf("%s.from[%d].cidrs: %q must be a network, such as 10.0.0.0/8, with no bit behind its length", at, k, c)
				}
			}
		}
		for k, to := range r.To {
			if n := max(len(to.Methods), 1) * max(len(to.Paths), 1); n > maxAccessMatches {
				return fmt.Errorf("%s.to[%d]: has %d combinations of methods and paths, at most %d are allowed; make several entries, or use prefixes", at, k, n, maxAccessMatches)
			}
			if len(to.Methods)+len(to.Paths)+len(to.Headers) == 0 {
				return fmt.Errorf("%s.to[%d]: says nothing; give methods, paths or headers, or leave to out for everything", at, k)
			}
			for m, path := range to.Paths {
				if _, err := path.path(); err != nil {
					return fmt.Errorf("%s.to[%d].paths[%d].type: %w", at, k, m, err)
				}
			}
			for m, h := range to.Headers {
				if _, ok := valueKinds[h.Type]; !ok {
					return fmt.Errorf("%s.to[%d].headers[%d].type: %q is not one of Exact, RegularExpression, Present", at, k, m, h.Type)
				}
			}
		}
	}
	if err := (access.Rules{Policies: []access.Policy{p.Policy()}}).Check(); err != nil {
		_, message, _ := strings.Cut(err.Error(), ": ")
		return fmt.Errorf("spec: %s", message)
	}
	return nil
}

func (p AccessPath) path() (route.Path, error) {
	switch p.Type {
	case "", "PathPrefix":
		return route.Path{Kind: route.PathPrefix, Value: p.Value}, nil
	case "Exact":
		return route.Path{Kind: route.PathExact, Value: p.Value}, nil
	case "RegularExpression":
		return route.Path{Kind: route.PathRegex, Value: p.Value}, nil
	}
	return route.Path{}, fmt.Errorf("%q is not one of PathPrefix, Exact, RegularExpression", p.Type)
}

// Policy is p as sidecars are told. p is checked.
func (p *AccessPolicy) Policy() access.Policy {
	out := access.Policy{Name: p.Metadata.Namespace + "/" + p.Metadata.Name, Audit: p.Spec.Mode == "audit"}
	out.Action, _ = access.ParseAction(p.Spec.Action)
	for _, r := range p.Spec.Rules {
		rule := access.Rule{Name: r.Name}
		for _, f := range r.From {
			c := access.Caller{Identities: f.Identities, Namespaces: f.Namespaces}
			for _, a := range f.ServiceAccounts {
				if !strings.Contains(a, "/") {
					a = p.Metadata.Namespace + "/" + a
				}
				c.Accounts = append(c.Accounts, a)
			}
			for _, text := range f.CIDRs {
				if n, err := netip.ParsePrefix(text); err == nil {
					c.Networks = append(c.Networks, n)
				}
			}
			rule.From = append(rule.From, c)
		}
		for _, to := range r.To {
			rule.To = append(rule.To, to.matches()...)
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

// matches are all combinations of a method and a path.
func (t AccessTo) matches() (out []access.Match) {
	var headers []route.Value
	for _, h := range t.Headers {
		headers = append(headers, route.Value{Name: strings.ToLower(h.Name), Kind: valueKinds[h.Type], Value: h.Value})
	}
	methods, paths := t.Methods, t.Paths
	if len(methods) == 0 {
		methods = []string{""}
	}
	if len(paths) == 0 {
		paths = []AccessPath{{Value: "/"}}
	}
	for _, m := range methods {
		for _, p := range paths {
			path, _ := p.path()
			if p.Type == "" && p.Value == "/" {
				path = route.Path{}
			}
			out = append(out, access.Match{Method: m, Path: path, Headers: headers})
		}
	}
	return out
}

// AccessOf is what AccessPolicies and the MeshConfig say of a port of a service; port is its name.
func (s *Set) AccessOf(namespace, service, port string) access.Rules {
	out := access.Rules{Closed: s.Mesh.Spec.Access == "deny"}
	for _, p := range s.Access {
		if p.covers(namespace, service, port) {
			out.Policies = append(out.Policies, p.Policy())
		}
	}
	return out
}

func (p *AccessPolicy) covers(namespace, service, port string) bool {
	if len(p.Spec.TargetRefs) == 0 {
		return p.Metadata.Namespace == namespace
	}
	for _, r := range p.Spec.TargetRefs {
		switch t, _ := r.target(p.Metadata.Namespace); t.level {
		case LevelMesh:
			return true
		case LevelNamespace:
			if t.name == namespace {
				return true
			}
		case LevelService, LevelPort:
			if t.namespace == namespace && t.name == service && (t.section == "" || t.section == port) {
				return true
			}
		}
	}
	return false
}

func (a *admission) accessWarnings(p *AccessPolicy, warn func(format string, args ...any)) {
	for i, r := range p.Spec.TargetRefs {
		t, _ := r.target(p.Metadata.Namespace)
		if t.level != LevelService && t.level != LevelPort {
			continue
		}
		owner, ok := a.services[t.name]
		switch {
		case !ok:
			warn("spec.targetRefs[%d]: no service %q in the mesh%s; the policy has no effect", i, t.name, a.suggest(t.name))
		case owner.namespace != p.Metadata.Namespace:
			warn("spec.targetRefs[%d]: service %q is in namespace %s, and a policy is for its own; it has no effect there, move it", i, t.name, owner.namespace)
		case t.level == LevelPort && !owner.has(t.section):
			warn("spec.targetRefs[%d].sectionName: service %q has no port %q, it has %s; the policy has no effect there", i, t.name, t.section, owner.ports())
		}
	}
	if len(p.Spec.Rules) == 0 && p.Spec.Action == "deny" {
		warn("spec.rules: there are none, so it denies nothing; add a rule, which may be {} for everything")
	}
}
