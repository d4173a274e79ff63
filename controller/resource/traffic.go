package resource

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Level is how special a policy is. Of each field the most special that sets it counts.
type Level int

// From the least to the most special.
const (
	LevelDefault   Level = iota // nobody has set it
	LevelMesh                   // the MeshConfig, or a TrafficPolicy for it
	LevelNamespace              // a TrafficPolicy for the namespace of the service
	LevelService                // for the service
	LevelPort                   // for a port of it, by sectionName
	LevelRoute                  // for a route
	LevelRule                   // for a rule of it, by sectionName; then the rule itself
)

var levelNames = [...]string{"default", "mesh", "namespace", "service", "port", "route", "rule"}

// String is the level's word.
func (l Level) String() string { return levelNames[l] }

// MarshalText implements encoding.TextMarshaler.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Origin is what set a field. Of LevelDefault it has no Key.
type Origin struct {
	Level    Level
	Key      Key
	Position Position // of the field
}

func (o Origin) String() string {
	if o.Level == LevelDefault {
		return o.Level.String()
	}
	return fmt.Sprintf("%s, %s (%s)", o.Level, o.Key, o.Position)
}

// Setting is one field of a TrafficPolicy as it is in force.
type Setting struct {
	Field string // as it is written below spec: "retry.attempts"
	Value string // as it could be written in YAML on one line; of LevelDefault what TrafficDefaults say
	From  Origin
	Over  []Origin // what set it too and does not count, the most special first
}

// Effective are all fields of TrafficPolicies in force for a service, as policy.PortOf names it, and, with rule, for requests that a rule takes, as Records name it ("shop/catalog/canary"); they are
// sorted by field. nil: there is no such service.
func Effective(set *Set, service, rule string) []Setting {
	namespace, ok := set.namespaceOf(policy.ServiceOf(service))
	if !ok {
		return nil
	}
	m := set.merged(service, namespace)
	var out []Setting
	leafFields(reflect.ValueOf(&m.spec).Elem(), "", func(path string, v reflect.Value) {
		out = append(out, m.setting(path, v))
	})
	if rule != "" {
		m = set.mergedRule(rule)
		leafFields(reflect.ValueOf(&m.spec).Elem(), "", func(path string, v reflect.Value) {
			i := slices.IndexFunc(out, func(s Setting) bool { return s.Field == path })
			if i < 0 || v.IsZero() || ruleFields[path] == nil {
				return
			}
			s := m.setting(path, v)
			if out[i].From.Level != LevelDefault {
				s.Over = append(append(s.Over, out[i].From), out[i].Over...)
			}
			out[i] = s
		})
	}
	slices.SortFunc(out, func(a, b Setting) int { return strings.Compare(a.Field, b.Field) })
	return out
}

// Traffic is what TrafficPolicies say of a service, as policy.PortOf names it, all levels together; the zero value: nothing. It is not to be changed.
func (s *Set) Traffic(service string) TrafficPolicySpec { return s.traffic[service] }

// namespaceOf is the namespace of a service.
func (s *Set) namespaceOf(service string) (string, bool) {
	for _, w := range s.Workloads {
		if w.Spec.Service == service {
			return w.Metadata.Namespace, true
		}
	}
	for _, e := range s.External {
		if e.Metadata.Name == service {
			return e.Metadata.Namespace, true
		}
	}
	return "", false
}

// merging is a TrafficPolicySpec put together of several, and who set its fields.
type merging struct {
	spec    TrafficPolicySpec
	from    map[string]Origin
	over    map[string][]Origin
	dropped []drop // what cannot be beside what counts more
	rule    bool   // of a rule: what it says is beside what the service does, so that no part of it is wrong by itself
}

// drop is a field of a policy that is left out somewhere, and why.
type drop struct {
	Origin
	why string
}

func (m *merging) setting(path string, v reflect.Value) Setting {
	if from, ok := m.from[path]; ok {
		return Setting{Field: path, Value: shown(v), From: from, Over: m.over[path]}
	}
	return Setting{Field: path, Value: TrafficDefaults[path]}
}

// notMerged are fields that say whom a policy is for.
var notMerged = map[string]bool{"targetService": true, "targetRefs": true}

// below fills in what p sets and nobody more special has set. What the sidecar would then refuse is left out, field by field.
func (m *merging) below(p TrafficPolicySpec, at Origin, line func(path string) int) {
	before, whole := m.spec, map[string]Origin{}
	leafFields(reflect.ValueOf(&p).Elem(), "", func(path string, v reflect.Value) {
		if v.IsZero() {
			return
		}
		o := at
		if n := line("spec." + path); n > 0 {
			o.Position.Line = n
		}
		if _, taken := m.from[path]; taken {
			m.over[path] = append(m.over[path], o)
			return
		}
		whole[path] = o
		m.set(path, v)
	})
	if !m.rule && m.spec.sound() != nil {
		m.spec = before
		for _, path := range slices.Sorted(maps.Keys(whole)) {
			before := m.spec
			m.set(path, leafAt(&p, path))
			if err := m.spec.sound(); err != nil {
				m.dropped = append(m.dropped, drop{whole[path], fmt.Sprintf("spec.%s: does not go with what counts more there: %v", path, err)})
				m.spec = before
				delete(whole, path)
			}
		}
	}
	maps.Copy(m.from, whole)
}

func (m *merging) set(path string, v reflect.Value) { leafAt(&m.spec, path).Set(v) }

func newMerging() *merging { return &merging{from: map[string]Origin{}, over: map[string][]Origin{}} }

// merged is what counts for a service, from the most special to the least.
func (s *Set) merged(service, namespace string) *merging {
	m := newMerging()
	name := policy.ServiceOf(service)
	port := strings.TrimPrefix(strings.TrimPrefix(service, name), ":")
	if port == "" {
		port = s.firstPort[name]
	}
	for _, at := range []target{
		{level: LevelPort, namespace: namespace, name: name, section: port},
		{level: LevelService, namespace: namespace, name: name},
		{level: LevelService, name: name},
		{level: LevelNamespace, name: namespace},
		{level: LevelMesh},
	} {
		s.fill(m, at)
	}
	if on := s.Mesh.Spec.Ejection; on.Enabled != nil {
		e := s.Entries[s.Mesh.Key()]
		m.below(TrafficPolicySpec{Ejection: ServiceEjection{Enabled: on.Enabled}}, Origin{LevelMesh, s.Mesh.Key(), e.Position}, e.line)
	}
	return m
}

// mergedRule is what policies for routes say of a rule of them, as Records name it, and what it says itself.
func (s *Set) mergedRule(rule string) *merging {
	m := newMerging()
	m.rule = true
	r, ok := s.rules[rule]
	if !ok {
		return m
	}
	m.below(r.own, Origin{LevelRule, r.key, r.position}, func(string) int { return 0 })
	if r.section != "" {
		s.fill(m, target{level: LevelRule, kind: r.key.Kind, namespace: r.key.Namespace, name: r.key.Name, section: r.section})
	}
	s.fill(m, target{level: LevelRoute, kind: r.key.Kind, namespace: r.key.Namespace, name: r.key.Name})
	return m
}

func (s *Set) fill(m *merging, at target) {
	for _, p := range s.byTarget[at] {
		e := s.Entries[p.Key()]
		m.below(p.Spec, Origin{at.level, p.Key(), e.Position}, e.line)
	}
}

// sound is nil for what a sidecar can act on.
func (p *TrafficPolicySpec) sound() error {
	if err := p.LoadBalancer.Policy().Check(); err != nil {
		return err
	}
	return errors.Unwrap(p.Apply(policy.Service{Name: "any", Protocol: flow.ProtocolHTTP}).WithDefaults().Check()) // without the name
}

// leafFields calls visit for each field of a TrafficPolicySpec that has no fields of its own, with its path.
func leafFields(v reflect.Value, at string, visit func(path string, v reflect.Value)) {
	for i := range v.NumField() {
		name, _ := fieldName(v.Type().Field(i))
		path := strings.TrimPrefix(at+"."+name, ".")
		switch f := v.Field(i); {
		case notMerged[path]:
		case f.Kind() == reflect.Struct:
			leafFields(f, path, visit)
		default:
			visit(path, f)
		}
	}
}

// leafAt is the field of a path of leafFields.
func leafAt(p *TrafficPolicySpec, path string) (found reflect.Value) {
	leafFields(reflect.ValueOf(p).Elem(), "", func(at string, v reflect.Value) {
		if at == path {
			found = v
		}
	})
	return found
}

// shown is a value as it could be written in YAML, on one line.
func shown(v reflect.Value) string {
	if v.Type() == reflect.TypeFor[Duration]() {
		if v.Int() < 0 {
			return "off"
		}
		return time.Duration(v.Int()).String()
	}
	switch v.Kind() {
	case reflect.Pointer:
		return shown(v.Elem())
	case reflect.Slice:
		var items []string
		for i := range v.Len() {
			items = append(items, shown(v.Index(i)))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case reflect.Map:
		var items []string
		for _, k := range v.MapKeys() {
			items = append(items, k.String()+": "+shown(v.MapIndex(k)))
		}
		slices.Sort(items)
		return "{" + strings.Join(items, ", ") + "}"
	case reflect.Struct:
		var items []string
		for i := range v.NumField() {
			if name, _ := fieldName(v.Type().Field(i)); !v.Field(i).IsZero() {
				items = append(items, name+": "+shown(v.Field(i)))
			}
		}
		return "{" + strings.Join(items, ", ") + "}"
	case reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'g', -1, 64)
	}
	return fmt.Sprint(v.Interface())
}

// fieldLines are the lines of all fields below n, by path; first is that of the document in its file.
func fieldLines(n *yaml.Node, first int) map[string]int {
	out := map[string]int{}
	var walk func(n *yaml.Node, at string)
	walk = func(n *yaml.Node, at string) {
		if n.Kind != yaml.MappingNode {
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			path := strings.TrimPrefix(at+"."+n.Content[i].Value, ".")
			out[path] = first + n.Content[i].Line - 1
			walk(n.Content[i+1], path)
		}
	}
	walk(n, "")
	return out
}
