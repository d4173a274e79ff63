package graph

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	breaks := .4
	s := &Snapshot{
		Nodes: []Node{
			{ID: "bank", Name: "bank", Kind: KindExternal, Inbound: View{Requests: 10, Rate: 1, P99: .3, Active: 2}},
			{ID: "cart", Name: "cart", Namespace: "shop", Kind: KindService, Versions: []Version{{"v1", 2, 0}, {"v2", 9, 0}}, TraceBreaks: &breaks, Inbound: View{Requests: 100, Rate: 10, ErrorRatio: .02, P99: .1}},
			{ID: "idle", Name: "idle", Namespace: "shop", Kind: KindService},
			{ID: "web", Name: "web", Namespace: "front", Kind: KindGateway, Endpoints: []Endpoint{{State: "ejected"}}, Reporters: []Reporter{{Missing: true}}, Inbound: View{Requests: 100, Rate: 20, P99: .2}},
		},
		Edges: []Edge{
			{ID: "cart→bank", Source: "cart", Destination: "bank", Protocol: "h2", State: ClientOnly, Client: &View{Requests: 10, Attempts: 14, Rate: 1, ErrorRatio: .4, P99: .3, Reasons: map[string]uint64{"a": 1, "b": 3}}},
			{ID: "web→cart", Source: "web", Destination: "cart", Protocol: "http/1.1", State: BothSides, MTLS: true, Client: &View{Requests: 100, Rate: 10, ErrorRatio: .02, P99: .1}, Gap: &Gap{Latency: .004}},
			{ID: "web→idle", Source: "web", Destination: "idle", Protocol: "tcp", State: ReporterMissing},
		},
	}
	for expr, want := range map[string]string{
		`err > 1%`:                    "cart | cart→bank web→cart",
		`err > 1% and ns = shop`:      "cart |",
		`err > 1% and not mtls`:       "| cart→bank",
		`p99 > 150ms`:                 "bank web | cart→bank",
		`p99 < 150ms`:                 "cart | web→cart", // not of those who were asked nothing
		`rate = 0`:                    "idle |",
		`not (ns = shop or ns=front)`: "bank |",
		`ejected or breaks > 10%`:     "cart web |",
		`kind in (external, gateway)`: "bank web |",
		`version = v2`:                "cart |",
		`missing`:                     "web | web→idle",
		`open > 0`:                    "bank |",
		`src.ns = shop`:               "| cart→bank",
		`dst.ns = shop`:               "| web→cart web→idle",
		`gap > 3ms`:                   "| web→cart",
		`retries > 3 and reason = b`:  "| cart→bank",
		`state = reporter-missing`:    "| web→idle",
		`protocol ~ ^h`:               "| cart→bank web→cart",
		`src = web and dst != idle`:   "| web→cart",
		`name = web and src = web`:    "|", // of nobody are both said
		``:                            "|",
	} {
		e, err := Words.Parse(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		f := Find(s, e)
		got := strings.TrimSpace(strings.Join(slices.Sorted(maps.Keys(f.Nodes)), " ") + " | " + strings.Join(slices.Sorted(maps.Keys(f.Edges)), " "))
		if got != want {
			t.Errorf("%s: %s, want %s", expr, got, want)
		}
	}
	for name, want := range map[string]string{"ns": "front shop", "src": "bank cart idle web", "protocol": "h2 http/1.1 tcp", "reason": "a b", "version": "v1 v2", "err": ""} {
		if got := strings.Join(ValuesOf(s, name), " "); got != want {
			t.Errorf("values of %s: %s", name, got)
		}
	}
}

// Every word is said of somebody: none is in the table that no subject knows.
func TestEveryWordIsSaid(t *testing.T) {
	share := .5
	v := View{Requests: 10, Attempts: 12, Rate: 1, ErrorRatio: .1, P50: 1, P95: 1, P99: 1, Active: 1, Reasons: map[string]uint64{"a": 1}}
	s := &Snapshot{
		Nodes: []Node{{ID: "a", Name: "a", Namespace: "n", Kind: KindService, Versions: []Version{{Version: "1"}}, TraceBreaks: &share, Inbound: v, App: "p", Zones: []string{"z"}, Hosts: []string{"h"}}},
		Edges: []Edge{{ID: "a→a", Source: "a", Destination: "a", Protocol: "h2", State: BothSides, Client: &v, Gap: &Gap{Latency: 1}}},
	}
	for _, f := range Words.Fields() {
		e, err := Words.Parse("exists " + f.Name)
		if err != nil {
			t.Fatal(err)
		}
		if found := Find(s, e); len(found.Nodes)+len(found.Edges) == 0 {
			t.Errorf("%s is said of nobody", f.Name)
		}
	}
}
