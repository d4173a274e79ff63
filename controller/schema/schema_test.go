package schema

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/controller/translate"
)

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{"..", ".."}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestGeneratedFiles holds what is committed to what would be generated.
func TestGeneratedFiles(t *testing.T) {
	for _, k := range Kinds {
		want, err := CRD(k)
		if err != nil {
			t.Fatal(err)
		}
		if read(t, "charts", "tulle", "crds", k.Plural+".yaml") != string(want) {
			t.Errorf("charts/tulle/crds/%s.yaml is not what follows from the types: run 'make generate'", k.Plural)
		}
	}
	page := read(t, "docs", "reference", "configuration.md")
	want, err := Page(page)
	if err != nil {
		t.Fatal(err)
	}
	if page != want {
		t.Error("docs/reference/configuration.md is not what follows from the types: run 'make generate'")
	}
}

func TestEveryKindIsThere(t *testing.T) {
	var names, want []string
	for _, k := range Kinds {
		names = append(names, k.Name)
	}
	for _, k := range resource.Kinds {
		want = append(want, k.Name)
	}
	if !slices.Equal(names, want) {
		t.Errorf("%v, package resource has %v", names, want)
	}
	k := Kinds[slices.Index(names, "Subset")]
	k.Facts = append([]Fact{{Path: "spec.colour"}}, k.Facts[1:]...)
	if _, err := k.Shape(); err == nil || !strings.Contains(err.Error(), "spec.service has no Fact") || !strings.Contains(err.Error(), "spec.colour is no field") {
		t.Errorf("a wrong table: %v", err)
	}
}

// document is a resource as YAML has it, in which fields can be set.
type document map[string]any

// example is the one of a kind's section on the page.
func example(t *testing.T, kind string) document {
	t.Helper()
	_, section, ok := strings.Cut(read(t, "docs", "reference", "configuration.md"), "<!-- fields of "+kind+" -->")
	if !ok {
		t.Fatalf("no section of %s", kind)
	}
	n := exampleOf(section)
	d := document{}
	if err := n.Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

// set is d with a value at a path, in all items of lists; a nil value removes the field. Lists that are not there get one item.
func set(at any, path []string, v any) any {
	name, list := strings.CutSuffix(path[0], "[]")
	var m map[string]any
	switch x := at.(type) {
	case document:
		m = x
	case map[string]any:
		m = x
	default:
		m = map[string]any{}
	}
	switch {
	case len(path) == 1 && v == nil:
		delete(m, name)
	case len(path) == 1:
		m[name] = v
	case list:
		items, _ := m[name].([]any)
		if len(items) == 0 {
			items = []any{map[string]any{}}
		}
		for i := range items {
			items[i] = set(items[i], path[1:], v)
		}
		m[name] = items
	default:
		m[name] = set(m[name], path[1:], v)
	}
	return m
}

func (d document) set(path string, v any) { set(d, strings.Split(path, "."), v) }

func (d document) clone(t *testing.T) document {
	t.Helper()
	out := document{}
	if err := yaml.Unmarshal(d.yaml(t), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func (d document) yaml(t *testing.T) []byte {
	t.Helper()
	b, err := yaml.Marshal(map[string]any(d))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// refused is why the controller does not take d, "" when it does.
func (d document) refused(t *testing.T) string {
	t.Helper()
	_, problems := resource.Resolve(resource.Decode("d.yaml", d.yaml(t)), resource.EmptySet())
	for _, p := range problems {
		if p.Severity == resource.Refused {
			return p.Message
		}
	}
	return ""
}

func edge(protocol string) map[string]any {
	return map[string]any{"name": "in", "listen": "10.0.0.9:8443", "protocol": protocol, "routes": []any{map[string]any{"service": "zz-caller"}}}
}

// beside is what must be set, or taken away (nil), for a field to have a meaning; by the beginning of its path. All that match count, the longer ones later.
var beside = map[string][]struct {
	path string
	v    any
}{
	"spec.ports[].proxyProtocol.timeout":   {{"spec.ports[].proxyProtocol.from", []any{"10.0.0.0/8"}}},
	"spec.ports[].targetProxyProtocol":     {{"spec.ports[].protocol", "tcp"}},
	"spec.ports[].opaque":                  {{"spec.ports[].protocol", nil}},
	"spec.intercept.outbound":              {{"spec.intercept.outbound.listen", "127.0.0.1:15001"}},
	"spec.intercept.inbound":               {{"spec.intercept.inbound.listen", "[::]:15006"}},
	"spec.proxy":                           {{"spec.proxy.listen", "127.0.0.1:15002"}},
	"spec.edge.listeners[]":                {{"spec.edge.listeners", []any{edge("tcp")}}},
	"spec.edge.listeners[].tls":            {{"spec.edge.listeners", []any{edge("tcp")}}, {"spec.edge.listeners[].tls", map[string]any{"certificates": []any{map[string]any{"certFile": "/c", "keyFile": "/k"}}}}},
	"spec.edge.listeners[].tls.clientAuth": {{"spec.edge.listeners[].tls.clientCAFile", "/ca"}},
	"spec.edge.listeners[].proxyProtocol":  {{"spec.edge.listeners[].proxyProtocol", map[string]any{"from": []any{"10.0.0.0/8"}}}},
	"spec.edge.listeners[].trustedHops":    {{"spec.edge.listeners", []any{edge("http")}}},
	"spec.edge.listeners[].redirectHTTPS":  {{"spec.edge.listeners", []any{edge("http")}}, {"spec.edge.listeners[].routes", nil}},
	"spec.edge.gateway":                    {{"spec.edge.gateway.name", "web"}},
	"spec.edge.gateway.proxyProtocol":      {{"spec.edge.gateway.proxyProtocol.from", []any{"10.0.0.0/8"}}},
	"spec.targetRefs[]":                    {{"spec.targetService", nil}, {"spec.targetRefs", []any{map[string]any{"kind": "Service", "name": "catalog"}}}},
	"spec.rateLimits[].keys[].from":        {{"spec.rateLimits[].keys", []any{map[string]any{"from": "source"}}}},
	"spec.rateLimits[].failOpen":           {{"spec.rateLimits", []any{map[string]any{"name": "all", "domain": "shop", "service": "zz-caller", "keys": []any{map[string]any{"from": "source"}}}}}},
	"spec.rateLimits[].timeout":            {{"spec.rateLimits", []any{map[string]any{"name": "all", "domain": "shop", "service": "zz-caller", "keys": []any{map[string]any{"from": "source"}}}}}},
	"spec.rules[].to[].headers[]":          {{"spec.rules[].to[].headers", []any{map[string]any{"name": "x-team"}}}},
	"spec.limits.detectTimeout":            {{"spec.ports[].protocol", "auto"}},
	"spec.authority":                       {{"spec.protocol", "http"}},
	"spec.protocol":                        {{"spec.authority", nil}, {"spec.tls", nil}},
	"spec.opaque":                          {{"spec.authority", nil}, {"spec.protocol", nil}},
	"spec.proxyProtocol":                   {{"spec.authority", nil}, {"spec.protocol", "tcp"}, {"spec.tls", nil}},
	"spec.loadBalancer":                    {{"spec.loadBalancer", nil}},
	"spec.loadBalancer.choices":            {{"spec.loadBalancer.algorithm", "least-request"}},
	"spec.loadBalancer.requestBias":        {{"spec.loadBalancer.algorithm", "least-request"}},
	"spec.loadBalancer.ringPoints":         {{"spec.loadBalancer", map[string]any{"algorithm": "ring-hash", "affinity": []any{map[string]any{"source": true}}}}},
	"spec.loadBalancer.boundedLoad":        {{"spec.loadBalancer", map[string]any{"algorithm": "ring-hash", "affinity": []any{map[string]any{"source": true}}}}},
	"spec.loadBalancer.tableSize":          {{"spec.loadBalancer", map[string]any{"algorithm": "maglev", "affinity": []any{map[string]any{"source": true}}}}},
	"spec.loadBalancer.affinity[]":         {{"spec.loadBalancer", map[string]any{"algorithm": "maglev", "affinity": []any{map[string]any{"cookie": map[string]any{"name": "sid"}}}}}},
	"spec.loadBalancer.slowStart":          {{"spec.loadBalancer.slowStart.window", "10s"}},
	"spec.loadBalancer.subsets.fallback":   {{"spec.loadBalancer.subsets", map[string]any{"selectors": []any{[]any{"version"}}}}},
	"spec.requestTimeout":                  {{"spec.tryTimeout", nil}},
	"spec.tryTimeout":                      {{"spec.requestTimeout", "off"}},
	"spec.retry.backoffMax":                {{"spec.retry.backoffBase", nil}},
	"spec.limits.requestLineBytes":         {{"spec.limits.headBytes", nil}},
	"spec.limits.connections":              {{"spec.limits.connectionsPerSource", nil}},
	"spec.limits.connectionsPerSource":     {{"spec.limits.connections", nil}},
	"spec.limits.http2":                    {{"spec.limits.http2", nil}},
}

// base is a document in which the field at a path can be set.
func base(t *testing.T, kind, path string) document {
	d := example(t, kind)
	var prefixes []string
	for p := range beside {
		if strings.HasPrefix(path+".", p+".") {
			prefixes = append(prefixes, p)
		}
	}
	slices.Sort(prefixes)
	for _, p := range prefixes {
		for _, s := range beside[p] {
			if s.path != path || s.v == nil {
				d.set(s.path, s.v)
				d = d.clone(t) // beside is everybody's
			}
		}
	}
	if why := d.refused(t); why != "" {
		t.Fatalf("%s: the base of %s is refused: %s", kind, path, why)
	}
	return d
}

// written is a bound as it is written in a document, moved by so many of its smallest steps.
func written(f *Field, text string, steps float64) any {
	switch f.Type {
	case Duration:
		d, _ := time.ParseDuration(text)
		return (d + time.Duration(steps)*time.Nanosecond).String()
	case Number:
		v, _ := strconv.ParseFloat(text, 64)
		return v + steps/1e6
	}
	v, _ := strconv.ParseInt(text, 10, 64)
	return v + int64(steps)
}

// TestRangesAreTheDecoders gives every field the ends of its range, which are taken, and what is beyond, which is not.
func TestRangesAreTheDecoders(t *testing.T) {
	tried := 0
	for _, k := range Kinds {
		root, err := k.Shape()
		if err != nil {
			t.Fatal(err)
		}
		root.Each(func(f *Field) {
			if f.Fact == nil || f.Type == Map || f.Type == List || f.Type == Object || !strings.HasPrefix(f.Path, "spec.") {
				return
			}
			b := f.Fact.Bounds()
			try := func(v any, taken bool) {
				t.Helper()
				tried++
				d := base(t, k.Name, f.Path)
				d.set(f.Path, v)
				switch why := d.refused(t); {
				case taken && why != "":
					t.Errorf("%s %s: %v is of the range %q, and refused: %s", k.Name, f.Path, v, f.Fact.Range, why)
				case !taken && why == "":
					t.Errorf("%s %s: %v is not of the range %q, and taken", k.Name, f.Path, v, f.Fact.Range)
				}
			}
			for _, w := range b.Words {
				if f.Type == Text && !conditional[k.Name+" "+f.Path+" "+w] {
					try(w, true)
				}
			}
			if len(b.Words) > 0 && f.Type == Text {
				try("no-such-word", false)
			}
			if b.Pattern == namePattern {
				try("Not_A_Name", false)
			}
			if f.Type != Integer && f.Type != Number && f.Type != Duration {
				return
			}
			if b.Min != "" && !b.Above {
				try(written(f, b.Min, 0), true)
				if low := written(f, b.Min, -1); low != int64(0) {
					try(low, false)
				}
			}
			if b.Max != "" {
				try(written(f, b.Max, 0), true)
				try(written(f, b.Max, 1), false)
			}
			if f.Type == Duration {
				try("off", b.Off)
				try("0s", false)
			} else if _, pointer := zeroCounts[f.Path]; !pointer {
				try(0, true) // the default
				try(-1, false)
			}
		})
	}
	if tried < 300 {
		t.Errorf("only %d values were tried", tried)
	}
}

// conditional are words that are taken beside others only.
var conditional = map[string]bool{
	"Workload spec.edge.listeners[].protocol https":            true,
	"TrafficPolicy spec.loadBalancer.algorithm ring-hash":      true,
	"TrafficPolicy spec.loadBalancer.subsets.fallback default": true,
	"TrafficPolicy spec.loadBalancer.algorithm maglev":         true,
}

// zeroCounts are numbers of which 0 is a value, and not the default.
var zeroCounts = map[string]bool{
	"spec.loadBalancer.requestBias": true, "spec.loadBalancer.panicThreshold": true, "spec.faults[].delay.percent": true, "spec.faults[].abort.percent": true,
	"spec.rateLimits[].requests": true,
	"spec.ejection.local.errors": true, "spec.ejection.local.failing": true, "spec.ejection.local.slow": true,
}

// TestDefaultsAreWhatTheySay: a field that is left out and one that is set to its default come to the same for every sidecar, and another value to something else.
func TestDefaultsAreWhatTheySay(t *testing.T) {
	tried := 0
	for _, k := range Kinds {
		root, err := k.Shape()
		if err != nil {
			t.Fatal(err)
		}
		root.Each(func(f *Field) {
			if f.Fact == nil || f.Type == Map || f.Type == List || f.Type == Object || !strings.HasPrefix(f.Path, "spec.") {
				return
			}
			text := strings.Trim(f.Fact.Default, "`\"")
			if f.Fact.Default != "off" && (!strings.HasPrefix(f.Fact.Default, "`") || strings.Count(f.Fact.Default, "`") != 2 || !strings.HasSuffix(f.Fact.Default, "`")) || f.Fact.Default == "off" && f.Type != Duration {
				return // in words
			}
			if reason := defaultsElsewhere[k.Name+" "+f.Path]; reason != "" {
				return
			}
			without := base(t, k.Name, f.Path)
			without.set(f.Path, nil)
			with := without.clone(t)
			var v any = text
			switch f.Type {
			case Integer:
				v, err = strconv.ParseInt(text, 10, 64)
			case Number:
				v, err = strconv.ParseFloat(text, 64)
			case Bool:
				v = text == "true"
			}
			if err != nil {
				t.Errorf("%s %s: default %q: %v", k.Name, f.Path, text, err)
				return
			}
			tried++
			with.set(f.Path, v)
			a, b := told(t, without), told(t, with)
			if a == "" || a != b {
				if !(f.Type == Duration && text == "off" && with.refused(t) != "") {
					t.Errorf("%s %s: without it sidecars are not told what they are with its default %s: %s", k.Name, f.Path, text, with.refused(t))
				}
			}
			if other := other(f, v); other != nil {
				changed := without.clone(t)
				changed.set(f.Path, other)
				if why := changed.refused(t); why != "" {
					t.Errorf("%s %s: %v is refused: %s", k.Name, f.Path, other, why)
				} else if told(t, changed) == a {
					t.Errorf("%s %s: with %v sidecars are told what they are without it", k.Name, f.Path, other)
				}
			}
		})
	}
	if tried < 50 {
		t.Errorf("only %d defaults were tried", tried)
	}
}

// defaultsElsewhere are fields whose default cannot be seen in what sidecars are told, and why.
var defaultsElsewhere = map[string]string{
	"MeshConfig spec.ejection.enabled":                  "the brain of the controller acts by it",
	"Workload spec.serviceAccount":                      "is the name of another field",
	"Workload spec.intercept.outbound.away":             "is the name of another field",
	"Workload spec.intercept.outbound.detectTimeout":    "is the name of another field",
	"ExternalService spec.tls.serverName":               "is the name of another field",
	"TrafficPolicy spec.loadBalancer.affinity[].source": "is one of four, of which one is set",
	"TrafficPolicy spec.tryTimeout":                     "is the name of another field",
}

// other is a value of f's range that is not v; nil: there is none to tell.
func other(f *Field, v any) any {
	b := f.Fact.Bounds()
	switch {
	case f.Type == Bool:
		return !v.(bool)
	case f.Type == Text:
		for _, w := range b.Words {
			if w != v {
				return w
			}
		}
		return nil
	case f.Type == Octal:
		return "0600"
	case b.Max != "" && !strings.Contains(f.Fact.Range, "prime"):
		if w := written(f, b.Max, 0); fmt.Sprint(w) != fmt.Sprint(v) {
			return w
		}
		return written(f, b.Min, 0)
	case f.Type == Duration:
		return "77ms"
	}
	return nil
}

const mesh = `
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: web, namespace: shop}
spec: {gatewayClassName: tulle, listeners: [{name: http, port: 18080, protocol: HTTP}]}
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: zz-caller, namespace: shop}
spec:
  service: zz-caller
  upstreams: [{service: catalog, listen: "127.0.0.1:29001"}, {service: bank, listen: "127.0.0.1:29002"}]
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: zz-catalog, namespace: shop, labels: {stage: a, zone: b}}
spec:
  service: catalog
  version: v1
  ports: [{listen: "10.1.0.1:8080", target: "127.0.0.1:8080", protocol: http}]
---
`

// told is what all sidecars of a small mesh with d are told; "" when d is refused.
func told(t *testing.T, d document) string {
	t.Helper()
	text := mesh
	if d["kind"] == "Workload" {
		text = strings.Replace(mesh, "service: catalog\n", "service: zz-other\n", 1)
	}
	set, problems := resource.Resolve(resource.Decode("d.yaml", append([]byte(text), d.yaml(t)...)), resource.EmptySet())
	for _, p := range problems {
		if p.Severity == resource.Refused {
			return ""
		}
	}
	endpoints, err := discovery.FromSet(set, "tulle.local")
	if err != nil {
		t.Fatal(err)
	}
	out, err := translate.Translate(translate.Input{TrustDomain: "tulle.local", Set: set, Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, w := range set.Workloads {
		b.WriteString(w.Metadata.Name + " " + out.Workloads[w.Metadata.Name].Snapshot.Revision + "\n")
	}
	return b.String()
}

// TestDefaultsPage holds docs/reference/defaults.md to the same lines.
func TestDefaultsPage(t *testing.T) {
	compared := 0
	for line := range strings.Lines(read(t, "docs", "reference", "defaults.md")) {
		cells := strings.Split(line, " | ")
		if len(cells) < 3 {
			continue
		}
		kind, path, ok := strings.Cut(strings.Trim(cells[1], "` "), ": ")
		if !ok || cells[1][0] != '`' {
			continue
		}
		i := slices.IndexFunc(Kinds, func(k Kind) bool { return k.Name == kind })
		if i < 0 {
			t.Errorf("docs/reference/defaults.md: no kind %s", kind)
			continue
		}
		k := slices.IndexFunc(Kinds[i].Facts, func(f Fact) bool { return f.Path == path })
		switch {
		case k < 0:
			t.Errorf("docs/reference/defaults.md: %s has no field %s", kind, path)
		case Kinds[i].Facts[k].Default != cells[2]:
			t.Errorf("docs/reference/defaults.md: %s %s: %s, it is %s", kind, path, cells[2], Kinds[i].Facts[k].Default)
		}
		compared++
	}
	if compared < 25 {
		t.Errorf("only %d rows of docs/reference/defaults.md name a field", compared)
	}
}

// TestTrafficDefaults holds what `tulle explain` says of defaults to the same lines.
func TestTrafficDefaults(t *testing.T) {
	facts := map[string]string{}
	for _, f := range trafficPolicyFacts {
		facts[strings.TrimPrefix(f.Path, "spec.")] = f.Default
	}
	plain := func(s string) string {
		s = strings.ReplaceAll(link.ReplaceAllString(s, "$1"), "`", "")
		return strings.ReplaceAll(s, "with ring-hash and maglev off", "off with ring-hash and maglev")
	}
	for field, text := range resource.TrafficDefaults {
		got, ok := facts[field]
		switch {
		case !ok:
			t.Errorf("resource.TrafficDefaults: there is no field %s", field)
		case field == "ejection.enabled": // the mesh's, and that is the mesh's default
		case plain(got) != text:
			t.Errorf("%s is %q by resource.TrafficDefaults, and %q by its Fact", field, text, plain(got))
		}
	}
}
