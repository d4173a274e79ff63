package policy

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/route"
)

func genValues(r *rand.Rand) (out []route.Value) {
	for i := range r.IntN(3) {
		v := route.Value{Name: fmt.Sprintf("x-%d", i), Kind: route.ValueKind(r.IntN(3))}
		if v.Kind != route.ValuePresent {
			v.Value = pick(r, "a", "b.*", "50%")
		}
		out = append(out, v)
	}
	return out
}

func genEdits(r *rand.Rand) route.Edits {
	return pick(r, route.Edits{}, route.Edits{Set: []route.Field{{Name: "x-a", Value: "100% \"sure\""}}},
		route.Edits{Add: []route.Field{{Name: "x-b"}}, Remove: []string{"x-c", "x-d"}})
}

func genRules(r *rand.Rand, services []string) (out []route.Rule) {
	for i := range 1 + r.IntN(4) {
		rule := route.Rule{Name: fmt.Sprintf("shop/r[%d]", i)}
		for range r.IntN(3) {
			m := route.Match{Method: pick(r, "", "GET"), Headers: genValues(r), Query: genValues(r)}
			m.Path = pick(r, route.Path{}, route.Path{Kind: route.PathPrefix, Value: "/"}, route.Path{Kind: route.PathPrefix, Value: "/a/"})
			rule.Matches = append(rule.Matches, m)
		}
		a := &rule.Action
		if r.IntN(3) == 0 {
			rule.Matches = append(rule.Matches, route.Match{Path: pick(r, route.Path{Kind: route.PathExact, Value: "/b"}, route.Path{Kind: route.PathRegex, Value: "/v[12]/.*"})})
			a.Rewrite.Path = pick(r, route.PathEdit{}, route.PathEdit{Set: true, Value: `/c\1`})
		} else {
			a.Rewrite.Path = pick(r, route.PathEdit{}, route.PathEdit{Set: true, Prefix: true, Value: "/"}, route.PathEdit{Set: true, Prefix: true, Value: "/d"})
		}
		a.Rewrite.Authority = pick(r, "", "api.example")
		a.Request, a.Response = genEdits(r), genEdits(r)
		switch r.IntN(6) {
		case 0:
			a.Redirect = &route.Redirect{Scheme: pick(r, "", "https"), Authority: pick(r, "", "x.example"), Port: pick[uint16](r, 0, 8443), Path: a.Rewrite.Path, Status: pick(r, 301, 302, 303, 307, 308)}
		case 1:
			a.Respond = &route.Respond{Status: pick(r, 200, 404, 503), Body: pick(r, "", "gone\n"), Type: pick(r, "", "text/html")}
		case 2: // nothing: 500
		default:
			for range 1 + r.IntN(3) {
				a.Backends = append(a.Backends, route.Backend{
					Service: pick(r, append(services, "")...), Subset: pick(r, "", "version=v2", "a=b,version=v1"), Weight: uint32(r.IntN(3) * 50), Request: genEdits(r), Response: genEdits(r),
				})
			}
		}
		if r.IntN(2) == 0 {
			a.Mirrors = []route.Mirror{{Service: services[0], Subset: pick(r, "", "version=v2"), PPM: 10_000}}
			a.CORS = &route.CORS{
				Origins: []string{"*", "https://a.example", "https://*.b.example:8443"}, Methods: []string{"GET", "*"}, Headers: []string{"x-a"}, Expose: []string{"x-b"},
				Credentials: r.IntN(2) == 0, MaxAge: pick(r, 0, time.Minute),
			}
			a.Timeouts = route.Timeouts{Request: genDuration(r), Try: genDuration(r), Idle: genDuration(r), Stream: genDuration(r)}
			a.Retry = pick(r, nil, &route.Retry{}, &route.Retry{Attempts: 3, Statuses: []int{502, 429}, Backoff: 50 * time.Millisecond})
			a.Session = pick(r, nil, &route.Session{Name: "s", Lifetime: time.Hour, Path: "/"}, &route.Session{Kind: route.SessionHeader, Name: "x-s", Idle: time.Minute})
			a.Faults = []route.Fault{{Headers: genValues(r), Delay: time.Second, DelayPPM: 1, Status: 503, GRPC: 14, AbortPPM: route.Million}}
			a.Limits = []route.RateLimit{
				{Name: "local", Requests: 10, Per: time.Second, Burst: 20, Keys: []route.Key{{Kind: route.KeyHeader, Name: "x-user"}, {Kind: route.KeyConstant, Value: "c"}}},
				{Name: "global", Domain: "shop", Service: services[0], Timeout: 20 * time.Millisecond, Keys: []route.Key{{Kind: route.KeySource}}, FailOpen: true},
			}
		}
		out = append(out, rule)
	}
	return out
}

// filled sets every field of v to something that is not zero and that differs from its neighbours.
func filled(v reflect.Value, n *int) {
	*n++
	if words, ok := kindWords[v.Type()]; ok {
		v.SetUint(uint64(1 + *n%(len(words)-1)))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			filled(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		filled(v.Index(0), n)
		filled(v.Index(1), n)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		filled(v.Elem(), n)
	case reflect.String:
		v.SetString(fmt.Sprintf("text %d", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	default:
		v.SetUint(uint64(*n % 251))
	}
}

// Whatever fields the types of rules get, none is lost on the way.
func TestEveryFieldOfRulesTravels(t *testing.T) {
	want, n := make([]route.Rule, 2), 0
	filled(reflect.ValueOf(&want[0]).Elem(), &n) // and another one that is all zero
	e := extras{}
	e.rules("rules", want)
	got := (&reader{fields: e}).rules("rules")
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got\n%s", d)
	}
}

func TestRulesThatAreNotKnownAreRefused(t *testing.T) {
	rules := []route.Rule{{Name: "r", Matches: []route.Match{{Path: route.Path{Kind: route.PathExact, Value: "/a"}}}, Action: route.Action{
		Backends: []route.Backend{{Service: "s", Weight: 1}}, Timeouts: route.Timeouts{Request: time.Second},
	}}}
	for what, c := range map[string]struct {
		change func(rule, match, action map[string]*structpb.Value)
		want   string
	}{
		"a field": {func(_, m, _ map[string]*structpb.Value) { m["moon"] = structpb.NewBoolValue(true) }, `metadata tulle.dev.rules[0].matches[0].moon: is not known to this sidecar; upgrade it`},
		"a kind": {func(_, m, _ map[string]*structpb.Value) {
			m["path"].GetStructValue().Fields["kind"] = structpb.NewStringValue("glob")
		}, `rules[0].matches[0].path.kind: string_value:"glob" is not known to this sidecar, which knows any, prefix, exact, regex`},
		"a list": {func(r, _, _ map[string]*structpb.Value) { r["matches"] = structpb.NewBoolValue(true) }, `rules[0].matches: must be a list`},
		"a number": {func(_, _, a map[string]*structpb.Value) {
			a["backends"].GetListValue().Values[0].GetStructValue().Fields["weight"] = structpb.NewNumberValue(0.5)
		}, `backends[0].weight: must be a whole number from 0`},
		"a duration": {func(_, _, a map[string]*structpb.Value) {
			a["timeouts"].GetStructValue().Fields["request"] = structpb.NewNumberValue(1)
		}, `timeouts.request: must be a duration such as 250ms or 15s`},
		"a rule": {func(r, _, _ map[string]*structpb.Value) { delete(r, "name") }, `routes of service "s": route "": name: must not be empty`},
	} {
		x, err := RoutesToXDS("s", rules, nil)
		if err != nil {
			t.Fatal(err)
		}
		rule := x.GetMetadata().GetFilterMetadata()[MetadataNamespace].GetFields()["rules"].GetListValue().GetValues()[0].GetStructValue().GetFields()
		c.change(rule, rule["matches"].GetListValue().GetValues()[0].GetStructValue().GetFields(), rule["action"].GetStructValue().GetFields())
		if _, _, err := RoutesFromXDS(x); err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "\u00a0", " "), c.want) {
			t.Errorf("%s: %v, want %s", what, err, c.want)
		}
	}
	if _, _, err := RoutesFromXDS(&routev3.RouteConfiguration{Name: "s"}); err == nil || !strings.Contains(err.Error(), "rules: is missing") {
		t.Errorf("routes of another control plane: %v", err)
	}
}

// A stock Envoy finds the rules in its own fields, by precedence: it takes the first route that matches.
func TestEnvoyFindsRulesByPrecedence(t *testing.T) {
	to := func(service string) route.Action {
		return route.Action{Backends: []route.Backend{{Service: service, Weight: 1}}}
	}
	x, err := RoutesToXDS("s", []route.Rule{
		{Name: "any", Action: to("s")},
		{Name: "split", Matches: []route.Match{{Path: route.Path{Kind: route.PathPrefix, Value: "/a/"}}}, Action: route.Action{
			Backends: []route.Backend{{Service: "s", Weight: 90}, {Service: "s", Subset: "version=v2", Weight: 10}, {Weight: 1}},
			Rewrite:  route.Rewrite{Path: route.PathEdit{Set: true, Prefix: true, Value: "/"}}, Retry: &route.Retry{Attempts: 2, Statuses: []int{503}},
		}},
		{Name: "exact", Matches: []route.Match{{Path: route.Path{Kind: route.PathExact, Value: "/a/b"}, Method: "GET"}}, Action: route.Action{}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range x.GetVirtualHosts()[0].GetRoutes() {
		names = append(names, r.GetName())
	}
	if got := strings.Join(names, " "); got != "exact split any " {
		t.Errorf("routes are %q", got)
	}
	text := strings.Join(strings.Fields(prototext.Format(x)), " ")
	for _, want := range []string{
		`path:"/a/b"`, `name:":method"`, `direct_response:{status:500}`, `path_separated_prefix:"/a"`, `regex:"^/a/*"`, `substitution:"/"`, `name:"s" weight:{value:90}`,
		`key:"version" value:{string_value:"v2"}`, `name:"no backend"`, `retriable_status_codes:503`, `num_retries:{value:1}`,
	} {
		if !strings.Contains(strings.ReplaceAll(strings.ReplaceAll(text, ": ", ":"), "{ ", "{"), strings.ReplaceAll(want, "}", "")) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// Rules that were written once for many Snapshots make the same resources as those that each writes; rules that were set in their place count.
func TestRulesAreWrittenOnce(t *testing.T) {
	for seed := range uint64(50) {
		s := genSnapshot(rand.New(rand.NewPCG(seed, 11)))
		want, err := Seal(s)
		if err != nil {
			t.Fatal(err)
		}
		once := *s
		once.Routes = nil
		for name, rules := range s.Routes {
			r, err := NewRouted(name, rules, func(service string) []AffinityKey { return s.Services[service].Balancer.Affinity })
			if err != nil {
				t.Fatal(err)
			}
			once.Route(r)
		}
		got, err := Seal(&once)
		if err != nil || once.Revision != s.Revision || len(got) != len(want) {
			t.Fatalf("seed %d: %d resources of revision %s, want %d of %s (%v)", seed, len(got), once.Revision, len(want), s.Revision, err)
		}
		for name := range once.Routes {
			once.Routes[name] = []route.Rule{{Name: "other"}}
			if _, err := Seal(&once); err != nil || once.Revision == s.Revision {
				t.Fatalf("seed %d: other rules have the same revision, %s (%v)", seed, once.Revision, err)
			}
		}
	}
}
