package resource

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// TargetRef names what a TrafficPolicy is for, in its own namespace.
type TargetRef struct {
	Group       string `yaml:"group,omitempty"`
	Kind        string `yaml:"kind"`
	Name        string `yaml:"name,omitempty"`        // required but of a MeshConfig and a Namespace
	SectionName string `yaml:"sectionName,omitempty"` // of a Service the name of a port, of a route that of a rule
}

// Fault delays or aborts requests on purpose. Meanings and ranges are those of route.Fault.
type Fault struct {
	Headers []HeaderMatch `yaml:"headers,omitempty"` // all must match; default: every request
	Delay   FaultDelay    `yaml:"delay,omitempty"`
	Abort   FaultAbort    `yaml:"abort,omitempty"`
}

// Respond answers requests in place of the backends. Meanings and ranges are those of route.Respond.
type Respond struct {
	Status      int    `yaml:"status,omitempty"` // required beside the others
	Body        string `yaml:"body,omitempty"`
	ContentType string `yaml:"contentType,omitempty"` // default text/plain; charset=utf-8
}

// HeaderMatch is a header field that is looked at.
type HeaderMatch struct {
	Name  string `yaml:"name"`
	Type  string `yaml:"type,omitempty"` // Exact (default) | RegularExpression | Present
	Value string `yaml:"value,omitempty"`
}

// FaultDelay holds requests up.
type FaultDelay struct {
	Duration Duration `yaml:"duration,omitempty"`
	Percent  *float64 `yaml:"percent,omitempty"` // default 100
}

// FaultAbort answers requests in place of the service.
type FaultAbort struct {
	Status  int      `yaml:"status,omitempty"`  // of HTTP
	GRPC    string   `yaml:"grpc,omitempty"`    // name of a status of gRPC, for gRPC requests
	Percent *float64 `yaml:"percent,omitempty"` // default 100
}

// RateLimit bounds requests. Meanings and ranges are those of route.RateLimit.
type RateLimit struct {
	Name     string         `yaml:"name"`
	Requests int            `yaml:"requests,omitempty"`
	Per      Duration       `yaml:"per,omitempty"`   // default 1s
	Burst    int            `yaml:"burst,omitempty"` // default: requests
	Keys     []RateLimitKey `yaml:"keys,omitempty"`  // each combination of values has a bucket of its own; default: one for all
	Domain   string         `yaml:"domain,omitempty"`
	Service  string         `yaml:"service,omitempty"` // with domain: the rate limit service, a service of the mesh or an ExternalService; "NAME:PORT" for a port that is not its first
	Timeout  Duration       `yaml:"timeout,omitempty"` // with domain
	FailOpen bool           `yaml:"failOpen,omitempty"`
}

// RateLimitKey is a part of the key of a bucket: exactly one of header, value and from is set.
type RateLimitKey struct {
	Name   string `yaml:"name,omitempty"`   // of the entry that a rate limit service gets; default: the header's, or from
	Header string `yaml:"header,omitempty"` // a request without it is not limited
	Value  string `yaml:"value,omitempty"`  // a constant
	From   string `yaml:"from,omitempty"`   // source | identity | path | method
}

// keyKinds are what RateLimitKey.From can be.
var keyKinds = map[string]route.KeyKind{"source": route.KeySource, "identity": route.KeyIdentity, "path": route.KeyPath, "method": route.KeyMethod}

// ruleFields are the fields that count for single rules, and how a rule has them. Those of a TrafficPolicy for a route that are not here do nothing and are reported.
var ruleFields = map[string]func(p *TrafficPolicySpec, a *route.Action){
	"requestTimeout": func(p *TrafficPolicySpec, a *route.Action) { a.Timeouts.Request = time.Duration(p.RequestTimeout) },
	"tryTimeout":     func(p *TrafficPolicySpec, a *route.Action) { a.Timeouts.Try = time.Duration(p.TryTimeout) },
	"idleTimeout":    func(p *TrafficPolicySpec, a *route.Action) { a.Timeouts.Idle = time.Duration(p.IdleTimeout) },
	"streamTimeout":  func(p *TrafficPolicySpec, a *route.Action) { a.Timeouts.Stream = time.Duration(p.StreamTimeout) },
	"retry.attempts": func(p *TrafficPolicySpec, a *route.Action) {
		a.Retry = retried(a.Retry, func(r *route.Retry) { r.Attempts = p.Retry.Attempts })
	},
	"retry.backoffBase": func(p *TrafficPolicySpec, a *route.Action) {
		a.Retry = retried(a.Retry, func(r *route.Retry) { r.Backoff = time.Duration(p.Retry.BackoffBase) })
	},
	"faults":     func(p *TrafficPolicySpec, a *route.Action) { a.Faults = faults(p.Faults) },
	"rateLimits": func(p *TrafficPolicySpec, a *route.Action) { a.Limits = rateLimits(p.RateLimits) },

	"respond.status": respond, "respond.body": respond, "respond.contentType": respond,
}

// respond makes of a rule one that answers itself: it sends nothing on, whatever backends its route names.
func respond(p *TrafficPolicySpec, a *route.Action) {
	r := p.Respond
	if r.Status == 0 { // of another policy
		return
	}
	a.Respond = &route.Respond{Status: r.Status, Body: r.Body, Type: r.ContentType}
	a.Backends, a.Redirect, a.Mirrors, a.Session, a.Rewrite = nil, nil, nil, nil, route.Rewrite{}
}

func retried(r *route.Retry, set func(*route.Retry)) *route.Retry {
	out := route.Retry{}
	if r != nil {
		out = *r
	}
	set(&out)
	return &out
}

// ownTraffic is what a rule of a route says itself of what TrafficPolicies say, too.
func ownTraffic(a *route.Action) (p TrafficPolicySpec) {
	p.RequestTimeout, p.TryTimeout = Duration(a.Timeouts.Request), Duration(a.Timeouts.Try)
	if a.Retry != nil {
		p.Retry.Attempts, p.Retry.BackoffBase = a.Retry.Attempts, Duration(a.Retry.Backoff)
	}
	return p
}

// addTraffic puts on a rule what policies for it and its route say.
func (m *merging) addTraffic(a *route.Action) {
	for _, path := range slices.Sorted(maps.Keys(m.from)) {
		if put := ruleFields[path]; put != nil {
			put(&m.spec, a)
		}
	}
}

func millionths(percent *float64) uint32 {
	if percent == nil {
		return route.Million
	}
	return uint32(*percent*route.Million/100 + 0.5)
}

func faults(list []Fault) (out []route.Fault) {
	for _, f := range list {
		x := route.Fault{Delay: time.Duration(f.Delay.Duration), Status: f.Abort.Status}
		for _, h := range f.Headers {
			x.Headers = append(x.Headers, route.Value{Name: strings.ToLower(h.Name), Value: h.Value, Kind: valueKinds[h.Type]})
		}
		if f.Delay.Duration != 0 {
			x.DelayPPM = millionths(f.Delay.Percent)
		}
		if f.Abort.GRPC != "" {
			x.GRPC, _ = grpcStatus(f.Abort.GRPC) // checked
		}
		if f.Abort.Status != 0 || f.Abort.GRPC != "" {
			x.AbortPPM = millionths(f.Abort.Percent)
		}
		out = append(out, x)
	}
	return out
}

var valueKinds = map[string]route.ValueKind{"": route.ValueExact, "Exact": route.ValueExact, "RegularExpression": route.ValueRegex, "Present": route.ValuePresent}

// grpcStatus is the number of a status of gRPC by its name.
func grpcStatus(name string) (int, error) {
	s, ok := flow.ParseGRPCStatus(name)
	for code := 1; ok && code <= 16; code++ {
		if s == flow.NewGRPCStatus(uint64(code)) {
			return code, nil
		}
	}
	return 0, fmt.Errorf("%q is not a gRPC status of a failed call, such as UNAVAILABLE", name)
}

func rateLimits(list []RateLimit) (out []route.RateLimit) {
	for _, l := range list {
		x := route.RateLimit{Name: l.Name, Requests: uint32(l.Requests), Burst: uint32(l.Burst), Domain: l.Domain, FailOpen: l.FailOpen, Per: time.Duration(l.Per)}
		if x.Service, x.Timeout = l.Service, time.Duration(l.Timeout); l.Domain != "" && l.Timeout == 0 {
			x.Timeout = route.DefaultLimiterTimeout
		}
		if l.Domain == "" && l.Per == 0 {
			x.Per = time.Second
		}
		for _, k := range l.Keys {
			key := route.Key{Name: k.Name}
			switch {
			case k.Header != "":
				key.Kind, key.Name = route.KeyHeader, strings.ToLower(k.Header)
			case k.Value != "":
				key.Kind, key.Value = route.KeyConstant, k.Value
			default:
				key.Kind = keyKinds[k.From]
			}
			x.Keys = append(x.Keys, key)
		}
		out = append(out, x)
	}
	return out
}

// checkRules is about faults, rate limits and answers.
func (p *TrafficPolicySpec) checkRules() error {
	if r := p.Respond; r != (Respond{}) {
		if r.Status == 0 {
			return errors.New("spec.respond.status: is required beside other fields; give the status of HTTP to answer with")
		}
		if err := (&route.Action{Respond: &route.Respond{Status: r.Status, Body: r.Body, Type: r.ContentType}}).Check(); err != nil {
			return fmt.Errorf("spec.%w", err)
		}
	}
	for i, f := range p.Faults {
		at := fmt.Sprintf("spec.faults[%d]", i)
		for k, h := range f.Headers {
			if _, ok := valueKinds[h.Type]; !ok {
				return fmt.Errorf("%s.headers[%d].type: %q is not one of Exact, RegularExpression, Present", at, k, h.Type)
			}
		}
		for _, d := range []struct {
			field string
			v     *float64
		}{{"delay", f.Delay.Percent}, {"abort", f.Abort.Percent}} {
			if d.v != nil && !(*d.v >= 0 && *d.v <= 100) {
				return fmt.Errorf("%s.%s.percent: %g must be from 0 to 100", at, d.field, *d.v)
			}
		}
		if f.Delay.Duration < 0 {
			return fmt.Errorf("%s.delay.duration: cannot be off; leave delay out", at)
		}
		if f.Delay.Duration == 0 && f.Abort.Status == 0 && f.Abort.GRPC == "" {
			return fmt.Errorf("%s: does nothing; give delay.duration, abort.status or abort.grpc", at)
		}
		if f.Abort.GRPC != "" {
			if _, err := grpcStatus(f.Abort.GRPC); err != nil {
				return fmt.Errorf("%s.abort.grpc: %w", at, err)
			}
		}
	}
	for i, l := range p.RateLimits {
		at := fmt.Sprintf("spec.rateLimits[%d]", i)
		if l.Timeout < 0 {
			return fmt.Errorf("%s.timeout: cannot be off; leave it out", at)
		}
		if l.Requests < 0 || l.Requests > 1<<30 || l.Burst < 0 || l.Burst > 1<<30 || l.Per < 0 {
			return fmt.Errorf("%s: requests and burst must be from 1 to %d, per a duration", at, 1<<30)
		}
		for k, key := range l.Keys {
			_, known := keyKinds[key.From]
			switch set := len(slices.DeleteFunc([]string{key.Header, key.Value, key.From}, func(s string) bool { return s == "" })); {
			case set != 1:
				return fmt.Errorf("%s.keys[%d]: needs one of header, value and from", at, k)
			case key.From != "" && !known:
				return fmt.Errorf("%s.keys[%d].from: %q is not one of %s", at, k, key.From, strings.Join(slices.Sorted(maps.Keys(keyKinds)), ", "))
			case key.Header != "" && key.Name != "" && !strings.EqualFold(key.Name, key.Header):
				return fmt.Errorf("%s.keys[%d].name: %q: of a header it is the header's; remove it", at, k, key.Name)
			}
		}
	}
	// What the sidecar would refuse is refused here.
	if err := (&route.Action{Faults: faults(p.Faults), Limits: rateLimits(p.RateLimits)}).Check(); err != nil {
		return fmt.Errorf("spec: %w", err)
	}
	return nil
}

// target is what a TrafficPolicy is for. The zero value of a field is "not said" there.
type target struct {
	level           Level
	kind, namespace string // of a route; of a service its namespace, "": whatever it is in (targetService)
	name, section   string // of a service, a namespace, a route
}

// routeKinds are the kinds of routes.
var routeKinds = []string{"HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"}

func (r TargetRef) target(namespace string) (target, error) {
	switch {
	case r.Group == tulleGroup && r.Kind == "MeshConfig":
		return target{level: LevelMesh}, r.nameless()
	case r.Group == "" && r.Kind == "Namespace":
		if r.Name != "" && r.Name != namespace {
			return target{}, fmt.Errorf("name: %q is another namespace than the policy's, %s; put a policy there", r.Name, namespace)
		}
		return target{level: LevelNamespace, name: namespace}, r.nameless()
	case r.Name == "":
		return target{}, fmt.Errorf("name: is required")
	case r.Group == "" && r.Kind == "Service", r.Group == tulleGroup && r.Kind == "ExternalService":
		if r.SectionName != "" {
			return target{level: LevelPort, namespace: namespace, name: r.Name, section: r.SectionName}, nil
		}
		return target{level: LevelService, namespace: namespace, name: r.Name}, nil
	case r.Group == gatewayGroup && slices.Contains(routeKinds, r.Kind):
		level := LevelRoute
		if r.SectionName != "" {
			level = LevelRule
		}
		return target{level: level, kind: r.Kind, namespace: namespace, name: r.Name, section: r.SectionName}, nil
	}
	return target{}, fmt.Errorf("%s is nothing that a policy is for; name a Service, an %s/ExternalService, a Namespace, the %s/MeshConfig, or a route of group %s",
		groupKind(r.Group, r.Kind), tulleGroup, tulleGroup, gatewayGroup)
}

func (r TargetRef) nameless() error {
	if r.SectionName != "" {
		return fmt.Errorf("sectionName: %s has no parts; remove it", r.Kind)
	}
	return nil
}

// targets are what p, which is checked, is for.
func (p *TrafficPolicy) targets() (out []target) {
	if p.Spec.TargetService != "" {
		out = append(out, target{level: LevelService, name: p.Spec.TargetService})
	}
	for _, r := range p.Spec.TargetRefs {
		t, _ := r.target(p.Metadata.Namespace)
		out = append(out, t)
	}
	return out
}

// checkTargets wants at least one, each once.
func (p *TrafficPolicy) checkTargets() error {
	s := p.Spec
	switch {
	case (s.TargetService == "") == (len(s.TargetRefs) == 0):
		return fmt.Errorf("spec: say whom the policy is for by targetService or by targetRefs, and by one of them")
	case len(s.TargetRefs) > 16:
		return fmt.Errorf("spec.targetRefs: has %d entries, at most 16 are allowed", len(s.TargetRefs))
	case s.TargetService != "":
		return checkLabel("spec.targetService", s.TargetService)
	}
	seen := map[target]bool{}
	for i, r := range s.TargetRefs {
		t, err := r.target(p.Metadata.Namespace)
		if err != nil {
			return fmt.Errorf("spec.targetRefs[%d]: %w", i, err)
		}
		if seen[t] {
			return fmt.Errorf("spec.targetRefs[%d]: is listed twice; remove one", i)
		}
		seen[t] = true
	}
	return nil
}

// ruleOf is a rule of a route, as policies see it.
type ruleOf struct {
	key      Key
	position Position
	section  string
	own      TrafficPolicySpec
}

// String is t for people.
func (t target) String() string {
	switch t.level {
	case LevelMesh:
		return "the mesh"
	case LevelNamespace:
		return "namespace " + t.name
	case LevelService:
		return "service " + t.name
	case LevelPort:
		return "port " + t.section + " of service " + t.name
	case LevelRoute:
		return Key{t.kind, t.namespace, t.name}.String()
	}
	return "rule " + t.section + " of " + Key{t.kind, t.namespace, t.name}.String()
}

// traffic makes, once the Set is whole but for routes, what Traffic and Effective answer from.
func (a *admission) traffic() {
	s := a.set
	s.byTarget, s.firstPort, s.traffic = map[target][]*TrafficPolicy{}, map[string]string{}, map[string]TrafficPolicySpec{}
	for _, p := range s.Policies {
		for _, t := range p.targets() {
			s.byTarget[t] = append(s.byTarget[t], p)
		}
	}
	for name, owner := range a.services {
		if first := slices.Sorted(maps.Keys(owner.first)); len(first) > 0 {
			s.firstPort[name] = first[0]
		}
	}
	if len(s.byTarget) == 0 && s.Mesh.Spec.Ejection.Enabled == nil {
		return
	}
	for name, owner := range a.services {
		for _, port := range append([]string{""}, slices.Collect(maps.Keys(owner.further))...) {
			m := s.merged(policy.PortOf(name, port), owner.namespace)
			s.traffic[policy.PortOf(name, port)] = m.spec
			a.drop(m, policy.PortOf(name, port))
		}
	}
}

// ReasonLeftOut is the Reason of a Problem about a field of a policy that is left out somewhere.
const ReasonLeftOut = "PolicyLeftOut"

// drop remembers what of less special policies does not go with more special ones.
func (a *admission) drop(m *merging, of string) {
	for _, d := range m.dropped {
		a.dropped = append(a.dropped, Problem{Position: d.Position, Key: d.Key, Severity: Warning, Message: d.why + "; it is left out for " + of, Reason: ReasonLeftOut})
	}
}

// ruleTraffic puts on the rules of routes what policies say of them.
func (t *attaching) ruleTraffic() {
	t.set.rules = map[string]ruleOf{}
	for _, r := range t.routes {
		for i := range r.rules {
			x := &r.rules[i]
			t.set.rules[x.Name] = ruleOf{r.key, r.position, x.section, ownTraffic(&x.Action)}
			if x.broken != "" || x.void || len(t.set.byTarget) == 0 {
				continue
			}
			before := x.Action
			m := t.set.mergedRule(x.Name)
			m.addTraffic(&x.Action)
			t.askable(&x.Action)
			if err := x.Check(); err != nil {
				x.Action = before
				for _, path := range slices.Sorted(maps.Keys(m.from)) {
					if at := m.from[path]; at.Key != r.key {
						t.dropped = append(t.dropped, Problem{Position: at.Position, Key: at.Key, Severity: Warning, Message: fmt.Sprintf("%v; policies are left out for it", err), Reason: ReasonLeftOut})
						break
					}
				}
			}
		}
	}
}

// ofService puts on the rules for requests to a service what policies say of the service that counts for requests, and not for calls: faults and rate limits. Without rules
// there is one for all requests where it takes one.
func (t *attaching) ofService(port string, rules []route.Rule) []route.Rule {
	p := t.set.traffic[port]
	if len(p.Faults)+len(p.RateLimits) == 0 {
		return rules
	}
	if len(rules) == 0 {
		rules = []route.Rule{{Name: port, Action: route.Action{Backends: []route.Backend{{Service: port, Weight: 1}}}}}
	}
	rules = slices.Clone(rules)
	for i := range rules {
		a := &rules[i].Action
		if rules[i].Name == unmatched {
			continue
		}
		if len(a.Faults) == 0 {
			a.Faults = faults(p.Faults)
		}
		if len(a.Limits) == 0 {
			a.Limits = rateLimits(p.RateLimits)
		}
		t.askable(a)
	}
	return rules
}

// askable leaves out of a the limits of rate limit services that are not there, which warnings say.
func (a *admission) askable(of *route.Action) {
	of.Limits = slices.DeleteFunc(of.Limits, func(l route.RateLimit) bool { return l.Service != "" && a.noService(l.Service) })
}

// noService reports whether there is no service, or no port of one, of a name that policy.PortOf makes.
func (a *admission) noService(name string) bool {
	service, port, named := strings.Cut(name, ":")
	owner, ok := a.services[service]
	return !ok || named && !owner.has(port)
}

// trafficWarnings are about what p says in vain.
func (a *admission) trafficWarnings(p *TrafficPolicy, warn func(format string, args ...any)) {
	for i, l := range p.Spec.RateLimits {
		if l.Service != "" && a.noService(l.Service) {
			warn("spec.rateLimits[%d].service: no service %q in the mesh%s; the limit does nothing", i, l.Service, a.suggest(l.Service))
		}
	}
	for i, t := range p.targets() {
		field := "spec.targetService"
		if p.Spec.TargetService == "" {
			field = fmt.Sprintf("spec.targetRefs[%d]", i)
		}
		if t.level < LevelRoute && p.Spec.Respond != (Respond{}) {
			warn("spec.respond: is of routes and their rules; it has no effect for %s. Name an HTTPRoute in targetRefs", t)
		}
		switch t.level {
		case LevelService, LevelPort:
			owner, ok := a.services[t.name]
			switch {
			case !ok:
				warn("%s: no service %q in the mesh%s; the policy has no effect", field, t.name, a.suggest(t.name))
			case p.Spec.TargetService == "" && owner.namespace != p.Metadata.Namespace:
				warn("%s: service %q is in namespace %s, and a policy is for its own; it has no effect there, move it", field, t.name, owner.namespace)
			case t.level == LevelPort && !owner.has(t.section):
				warn("%s.sectionName: service %q has no port %q, it has %s; the policy has no effect there", field, t.name, t.section, owner.ports())
			}
		case LevelRoute, LevelRule:
			k := Key{Kind: t.kind, Namespace: t.namespace, Name: t.name}
			if _, ok := a.set.Entries[k]; !ok {
				warn("%s: no %s; the policy has no effect there", field, k)
			} else if t.level == LevelRule && !a.hasRule(k, t.section) {
				warn("%s.sectionName: %s has no rule of the name %q; the policy has no effect there", field, k, t.section)
			}
			leafFields(reflect.ValueOf(&p.Spec).Elem(), "", func(path string, v reflect.Value) {
				if !v.IsZero() && ruleFields[path] == nil {
					warn("spec.%s: is of services, and not of routes; it has no effect for %s. Say it of the service", path, t)
				}
			})
		}
	}
}

func (a *admission) hasRule(k Key, section string) bool {
	for _, r := range a.set.rules {
		if r.key == k && r.section == section {
			return true
		}
	}
	return false
}
