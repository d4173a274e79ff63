package controller

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/controller/brain"
	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
)

func edgeFleet(n int) *brain.Fleet {
	f := &brain.Fleet{
		Services: map[string]brain.Service{}, Ports: map[string][]string{"cart": {"cart:metrics"}},
		Reporters: map[string]brain.Reporter{"web-1": {Service: "web", Identity: "spiffe://td/web"}, "job-1": {Service: "job", Identity: "spiffe://td/job"}},
	}
	add := func(name string, addr string) {
		f.Services[name] = brain.Service{Endpoints: map[netip.AddrPort]string{netip.MustParseAddrPort(addr): name + "-1"}}
	}
	add("cart", "10.0.0.1:80")
	add("cart:metrics", "10.0.0.1:9090")
	for i := range n {
		add(fmt.Sprint("s", i), fmt.Sprintf("10.1.%d.%d:80", i/256, i%256))
	}
	return f
}

func TestEdgesAreBelievedOnlyOfTheirCaller(t *testing.T) {
	callers := map[string]bool{"web": true}
	at := time.Unix(1000, 0)
	call := func(change func(o *tullev1.EndpointObservation)) *tullev1.Observed {
		o := &tullev1.EndpointObservation{Service: "cart", Endpoint: "10.0.0.1:80", Reporter: "web-1", ReporterIdentity: "spiffe://td/web", Source: "web", Requests: 1}
		change(o)
		return &tullev1.Observed{Endpoints: []*tullev1.EndpointObservation{o}}
	}
	for name, change := range map[string]func(o *tullev1.EndpointObservation){
		"the server's side":            func(o *tullev1.EndpointObservation) { o.ServerSide = true },
		"no requests":                  func(o *tullev1.EndpointObservation) { o.Requests = 0 },
		"a stranger":                   func(o *tullev1.EndpointObservation) { o.Reporter = "web-9" },
		"another's certificate":        func(o *tullev1.EndpointObservation) { o.ReporterIdentity = "spiffe://td/job" },
		"no certificate":               func(o *tullev1.EndpointObservation) { o.ReporterIdentity = "" },
		"an address of another":        func(o *tullev1.EndpointObservation) { o.Endpoint = "10.0.0.2:80" },
		"a caller that names services": func(o *tullev1.EndpointObservation) { o.Reporter, o.ReporterIdentity = "job-1", "spiffe://td/job" },
	} {
		e := &edges{}
		if e.learn(call(change), edgeFleet(0), callers, at) || len(e.list()) != 0 {
			t.Errorf("%s was believed: %v", name, e.list())
		}
	}
	e := &edges{}
	if !e.learn(call(func(*tullev1.EndpointObservation) {}), edgeFleet(0), callers, at) {
		t.Error("a first call is no change")
	}
	if e.learn(call(func(*tullev1.EndpointObservation) {}), edgeFleet(0), callers, at.Add(time.Minute)) {
		t.Error("a second call is a change")
	}
	e.learn(call(func(o *tullev1.EndpointObservation) { o.Endpoint, o.Requests, o.Probes = "10.0.0.1:9090", 0, 1 }), edgeFleet(0), callers, at)
	if got := e.list(); !slices.Equal(got["web"], []string{"cart", "cart:metrics"}) || len(got) != 1 {
		t.Errorf("called: %v", got)
	}
	if e.forget(at.Add(edgeMemory-time.Second)) || !e.forget(at.Add(edgeMemory+time.Minute)) {
		t.Error("edges are forgotten at another time than an hour after the last call")
	}
	if got := e.list()["web"]; !slices.Equal(got, []string{}) && got != nil {
		t.Errorf("called after both ran out: %v", got)
	}
}

func TestEdgesAreBounded(t *testing.T) {
	const n = maxCalled + 44
	fleet, e, at := edgeFleet(n), &edges{}, time.Unix(1000, 0)
	for i := range n {
		o := &tullev1.EndpointObservation{
			Service: fmt.Sprint("s", i), Endpoint: fmt.Sprintf("10.1.%d.%d:80", i/256, i%256), Reporter: "web-1", ReporterIdentity: "spiffe://td/web", Requests: 1,
		}
		e.learn(&tullev1.Observed{Endpoints: []*tullev1.EndpointObservation{o}}, fleet, map[string]bool{"web": true}, at.Add(time.Duration(i)*time.Second))
	}
	got := e.list()["web"]
	if len(got) != maxCalled || slices.Contains(got, "s0") || !slices.Contains(got, fmt.Sprint("s", n-1)) {
		t.Errorf("%d are remembered: %v", len(got), got)
	}
}
