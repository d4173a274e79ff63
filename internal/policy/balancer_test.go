package policy

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/tulle-mesh/tulle/internal/flow"
)

func genBalancer(r *rand.Rand) Balancer {
	b := Balancer{
		Algorithm: pick(r, append([]string{""}, BalanceAlgorithms...)...), PanicThreshold: pick(r, 0, -1, 1, 100), Overprovision: pick(r, 0, 100, 170),
		LocalityWeighted: r.IntN(4) == 0,
		Subsets: pick(r, Subsets{}, Subsets{Fallback: FallbackNone}, Subsets{
			Selectors: [][]string{{"version"}, {"stage", "zone"}}, Fallback: FallbackDefault, Default: map[string]string{"version": "v1"},
		}),
	}
	switch {
	case b.Keyed():
		b.BoundedLoad = pick(r, 0, 100, 150)
		if b.Algorithm == BalanceRingHash {
			b.RingPoints = pick(r, 0, 1, 1024)
		} else {
			b.TableSize = pick(r, 0, 251)
		}
		b.Affinity = []AffinityKey{
			pick(r, AffinityKey{Kind: AffinityHeader, Name: "x-user"}, AffinityKey{Kind: AffinityQuery, Name: "user"}),
			pick(r, AffinityKey{Kind: AffinitySource}, AffinityKey{Kind: AffinityCookie, Name: "sid"}, AffinityKey{Kind: AffinityCookie, Name: "sid", Generate: true}, AffinityKey{
				Kind: AffinityCookie, Name: "sid", Generate: true, TTL: time.Hour, Path: "/a", Attributes: []CookieAttribute{{"HttpOnly", ""}, {"SameSite", "Lax"}},
			}),
		}
	case r.IntN(2) == 0:
		b.SlowStart = SlowStart{Window: pick(r, time.Second, time.Minute), Aggression: pick(r, 0, 1.5), MinWeight: pick(r, 0, 25)}
	}
	if b.Algorithm == BalanceLeastRequest {
		b.Choices, b.RequestBias = pick(r, 0, 5), pick(r, 0, -1, 2.5)
	}
	return b
}

// genPlacements gives endpoints places whose priorities have no gap.
func genPlacements(r *rand.Rand, endpoints []Endpoint) {
	for i := range endpoints {
		e := &endpoints[i]
		switch r.IntN(3) {
		case 0: // the defaults
		case 1:
			e.Labels = map[string]string{"stage": pick(r, "", "beta")}
		case 2:
			e.Locality, e.LocalityWeight = Locality{Region: "eu", Zone: pick(r, "", "a", "b")}, 7
			e.Priority = uint32(min(i, r.IntN(3)))
		}
	}
	for p := uint32(1); p < 3; p++ { // close gaps
		has := func(p uint32) bool {
			for _, e := range endpoints {
				if e.Priority == p {
					return true
				}
			}
			return false
		}
		for !has(p-1) && (has(p) || has(p+1) || has(p+2)) {
			for i := range endpoints {
				if endpoints[i].Priority >= p {
					endpoints[i].Priority--
				}
			}
		}
	}
}

func TestBalancerChecksNameFieldValueAndRemedy(t *testing.T) {
	cookie := []AffinityKey{{Kind: AffinityCookie, Name: "sid"}}
	for _, tc := range []struct {
		b    Balancer
		want string
	}{
		{Balancer{Algorithm: "p2c"}, `algorithm: "p2c" is not one of p2c-ewma, least-request`},
		{Balancer{Choices: 3}, "choices: has no meaning for p2c-ewma, only for least-request"},
		{Balancer{Algorithm: BalanceLeastRequest, Choices: 1}, "choices: 1 must be from 2 to 100"},
		{Balancer{Algorithm: BalanceLeastRequest, RequestBias: 11}, "requestBias: 11 must be from 0 to 10"},
		{Balancer{Algorithm: BalanceRingHash}, "affinity: ring-hash needs at least one key"},
		{Balancer{Algorithm: BalanceRingHash, Affinity: cookie, RingPoints: 2000}, "ringPoints: 2000 must be from 1 to 1024"},
		{Balancer{Algorithm: BalanceMaglev, Affinity: cookie, TableSize: 65536}, "tableSize: 65536 must be a prime number"},
		{Balancer{Algorithm: BalanceMaglev, Affinity: cookie, BoundedLoad: 99}, "boundedLoad: 99 must be from 100 to 10000"},
		{Balancer{Affinity: cookie}, "affinity: has no meaning for p2c-ewma, only for ring-hash and maglev"},
		{Balancer{Algorithm: BalanceMaglev, Affinity: cookie, SlowStart: SlowStart{Window: time.Minute}}, "slowStart: has no meaning for maglev"},
		{Balancer{SlowStart: SlowStart{Window: time.Millisecond}}, "slowStart.window: 1ms must be from 1s to 1h"},
		{Balancer{PanicThreshold: 101}, "panicThreshold: 101 must be from 1 to 100"},
		{Balancer{Overprovision: 99}, "overprovision: 99 must be from 100 to 1000"},
		{Balancer{Algorithm: BalanceMaglev, Affinity: []AffinityKey{{}}}, "affinity[0].kind: must be exactly one of"},
		{Balancer{Algorithm: BalanceMaglev, Affinity: []AffinityKey{{Kind: AffinityHeader, Name: "X-User"}}}, `affinity[0].header: "X-User" must be in lower case`},
		{Balancer{Algorithm: BalanceMaglev, Affinity: []AffinityKey{{Kind: AffinityCookie, Name: "a b"}}}, `affinity[0].cookie: "a b" is not a name`},
		{Balancer{Algorithm: BalanceMaglev, Affinity: []AffinityKey{{Kind: AffinityCookie, Name: "a", Path: "/"}}}, "affinity[0].cookie.generate: is off"},
		{Balancer{Algorithm: BalanceMaglev, Affinity: []AffinityKey{{Kind: AffinityCookie, Name: "a", Generate: true, Path: "/;b"}}}, "affinity[0].cookie.path"},
		{
			Balancer{Algorithm: BalanceMaglev, Affinity: []AffinityKey{{Kind: AffinityCookie, Name: "a", Generate: true, Attributes: []CookieAttribute{{"Path", "/"}}}}},
			`cookie.attributes: "Path" is set by path and ttl`,
		},
		{
			Balancer{Algorithm: BalanceMaglev, Affinity: []AffinityKey{{Kind: AffinityCookie, Name: "a", Generate: true, Attributes: []CookieAttribute{{"A", "b\r\nc"}}}}},
			"is not an attribute",
		},
		{Balancer{Subsets: Subsets{Selectors: [][]string{{"b", "a"}}}}, "subsets.selectors[0]: must be sorted"},
		{Balancer{Subsets: Subsets{Fallback: FallbackDefault}}, "subsets.default: must be set with fallback default"},
		{Balancer{Subsets: Subsets{Fallback: FallbackDefault, Default: map[string]string{"a": "b,c"}}}, `subsets.default.labels.a: "b,c" must be up to 63`},
	} {
		if err := tc.b.Check(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v\nwant …%s…", err, tc.want)
		}
	}
	at := netip.MustParseAddrPort("127.0.0.1:80")
	for _, tc := range []struct {
		p    Placement
		want string
	}{
		{Placement{Locality: Locality{Zone: "a"}}, `locality.region: must be set beside zone "a"`},
		{Placement{Labels: map[string]string{"version": "x"}}, "labels.version: is set by the field of that name"},
		{Placement{LocalityWeight: 200}, "locality weight 200: must be from 1 to 128"},
		{Placement{Priority: 1}, "priority 1: priorities must begin with 0 and have no gap"},
	} {
		if _, err := EndpointsToXDS("s", []Endpoint{{Address: at, Placement: tc.p}}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v\nwant …%s…", err, tc.want)
		}
	}
}

// A stock Envoy is told in its own words: how to balance, at its routes by what to hash, and beside the endpoints what they can take.
func TestStockEnvoyBalancesAlike(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.0.1:80")
	s := &Snapshot{
		Workload: Workload{Instance: "i", Service: "c"},
		Services: map[string]Service{"s": {Name: "s", Protocol: flow.ProtocolHTTP, Balancer: Balancer{
			Algorithm: BalanceRingHash, BoundedLoad: 150, Overprovision: 200, Affinity: []AffinityKey{{Kind: AffinityHeader, Name: "x-user"}},
		}}},
		Endpoints: map[string][]Endpoint{"s": {{Address: at, Version: "v2", Placement: Placement{Locality: Locality{"eu", "a"}, Labels: map[string]string{"stage": "beta"}}}}},
		Listeners: []Listener{{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: at, Service: "s"}},
	}
	cluster, err := s.Services["s"].ToXDS()
	if err != nil {
		t.Fatal(err)
	}
	if cluster.LbPolicy != clusterv3.Cluster_RING_HASH || cluster.GetRingHashLbConfig().GetMinimumRingSize().GetValue() != envoyRingSize ||
		cluster.GetCommonLbConfig().GetConsistentHashingLbConfig().GetHashBalanceFactor().GetValue() != 150 {
		t.Errorf("cluster: %v", cluster)
	}
	resources, err := Seal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range resources {
		switch r.TypeURL {
		case TypeEndpoints:
			service, err := r.Body.UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			text := service.ProtoReflect().Interface().(interface{ String() string }).String()
			for _, want := range []string{"overprovisioning_factor", "envoy.lb", "stage", "beta", `zone:"a"`} {
				if !strings.Contains(text, want) {
					t.Errorf("endpoints lack %s: %s", want, text)
				}
			}
		case TypeListener:
			l, err := s.Listeners[0].toXDS(s.Services["s"].Balancer.Affinity, false)
			if err != nil {
				t.Fatal(err)
			}
			manager := &hcmv3.HttpConnectionManager{}
			if err := l.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(manager); err != nil {
				t.Fatal(err)
			}
			h := manager.GetRouteConfig().GetVirtualHosts()[0].GetRoutes()[0].GetRoute().GetHashPolicy()
			if len(h) != 1 || h[0].GetHeader().GetHeaderName() != "x-user" || !h[0].GetTerminal() {
				t.Errorf("hash policy: %v", h)
			}
		}
	}
}
