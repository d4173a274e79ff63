package policy

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
)

var addrEqual = cmp.Options{
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func pick[T any](r *rand.Rand, vs ...T) T { return vs[r.IntN(len(vs))] }

func genAddr(r *rand.Rand, n int) netip.AddrPort {
	if r.IntN(4) == 0 {
		return netip.MustParseAddrPort(fmt.Sprintf("[fd00::%x]:%d", n+1, 1+r.IntN(65535)))
	}
	return netip.MustParseAddrPort(fmt.Sprintf("10.%d.%d.%d:%d", r.IntN(256), n/256, n%256, 1+r.IntN(65535)))
}

func genDuration(r *rand.Rand) time.Duration {
	return pick(r, 0, -1, time.Duration(r.Int64N(int64(time.Hour))), 250*time.Millisecond)
}

func genProtocol(r *rand.Rand) flow.Protocol {
	p, _ := ParseProtocol(pick(r, Protocols()...))
	return p
}

func genService(r *rand.Rand, name string) Service {
	s := Service{
		Name: name, Namespace: pick(r, "", "shop"), Protocol: genProtocol(r), External: r.IntN(4) == 0,
		RequestTimeout: genDuration(r), IdleTimeout: genDuration(r), ConnectTimeout: pick(r, 0, 3*time.Second),
		MaxRequests: r.IntN(3000), MaxConnections: r.IntN(3000), MaxPending: r.IntN(3000),
		Retry: Retry{
			Attempts: r.IntN(11), BudgetRatio: r.Float64(), BudgetMin: pick(r, 0, 10.5, 3),
			BackoffBase: pick(r, 0, 20*time.Millisecond), BackoffMax: pick(r, 0, time.Second),
			GRPC: GRPCStatuses(r.Uint32()) & failures,
		},
		Balancer: genBalancer(r),
		Ejection: Ejection{
			Errors: pick(r, 0, -1, 3, 1000), Failing: pick(r, 0, -1, 50), Slow: pick(r, 0, -1, 2), Base: pick(r, 0, 100*time.Millisecond, 2*time.Second), Max: pick(r, 0, 5*time.Second),
		},
		Adaptive: genAdaptive(r),
	}
	if s.External {
		if s.Protocol != flow.ProtocolTLS {
			s.TLS = genClientTLS(r, s.Protocol)
		}
		if s.Protocol.HTTP() {
			s.Authority = pick(r, "", "api.example.com", "[::1]:8443")
		}
		if r.IntN(4) == 0 {
			s.Via, s.MTLS, s.TLS, s.Identities = "egress", true, nil, []string{"spiffe://tulle.local/ns/shop/sa/egress"}
			s.Addresses = pick(r, nil, []netip.AddrPort{genAddr(r, 1), genAddr(r, 2)})
		}
		if s.Protocol.Relayed() {
			s.Proxy = pick[ProxyVersion](r, 0, 1, 2)
		}
		s.Hosts = pick(r, nil, []string{"api.example.com"}, []string{"*.example.com", "example.com"})
	}
	if !s.External && r.IntN(2) == 0 {
		s.MTLS, s.Identities = true, []string{"spiffe://tulle.local/ns/shop/sa/" + name}
	}
	return s
}

func genClientTLS(r *rand.Rand, p flow.Protocol) *ClientTLS {
	c := &ClientTLS{
		ServerName: pick(r, "api.example.com", "192.0.2.1", "2001:db8::1"), CAFile: pick(r, "", "/etc/tulle/ca.pem"),
		MinVersion: pick(r, 0, uint16(tls.VersionTLS12), uint16(tls.VersionTLS13)),
	}
	if c.ServerName == "api.example.com" {
		c.Names = pick(r, nil, []string{"b.example.com"}, []string{"*.c.example.com", "spiffe://x/y"})
	}
	if r.IntN(2) == 0 {
		c.CertFile, c.KeyFile = "/etc/tulle/cert.pem", "/etc/tulle/key.pem"
	}
	if !p.MayBeHTTP() {
		c.ALPN = pick(r, nil, []string{"imap", "x"})
	}
	return pick(r, nil, c)
}

func genEndpoints(r *rand.Rand) []Endpoint {
	var out []Endpoint
	for i := range r.IntN(5) {
		e := Endpoint{Address: genAddr(r, i), Version: pick(r, "", "v1"), Instance: fmt.Sprintf("i-%d", i), Weight: uint32(r.IntN(129))}
		if r.IntN(2) == 0 {
			issued := time.Unix(1_800_000_000, r.Int64N(1e9)).UTC()
			e.Override = &Override{
				ID: fmt.Sprintf("o-%d", r.IntN(99)), Kind: pick(r, OverrideEject, OverrideWeight), Fraction: 1 - r.Float64(), Reason: "failures",
				Issued: issued, Expires: issued.Add(time.Second + time.Duration(r.Int64N(1e12))),
			}
		}
		out = append(out, e)
	}
	genPlacements(r, out)
	slices.SortFunc(out, func(a, b Endpoint) int { return a.Address.Compare(b.Address) })
	return out
}

func genAccess(r *rand.Rand) access.Rules {
	out := access.Rules{Closed: r.IntN(3) == 0}
	for i := range r.IntN(3) {
		p := access.Policy{Name: fmt.Sprintf("shop/p-%d", i), Action: pick(r, access.Allow, access.Deny), Audit: r.IntN(4) == 0}
		for range r.IntN(3) {
			rule := access.Rule{Name: pick(r, "", "readers")}
			if r.IntN(2) == 0 {
				rule.From = []access.Caller{{
					Identities: pick(r, nil, []string{"spiffe://tulle.local/ns/shop/*"}), Namespaces: pick(r, nil, []string{"shop", "edge"}), Accounts: []string{"shop/web"},
					Networks: pick(r, nil, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}),
				}}
			}
			if r.IntN(2) == 0 {
				rule.To = []access.Match{{
					Path:    pick(r, route.Path{}, route.Path{Kind: route.PathExact, Value: "/a"}, route.Path{Kind: route.PathPrefix, Value: "/api"}, route.Path{Kind: route.PathRegex, Value: "/v[12]/.*"}),
					Method:  pick(r, "", "GET"),
					Headers: pick(r, nil, []route.Value{{Name: "x-team", Value: "a"}, {Name: "x-any", Kind: route.ValuePresent}}),
				}}
			}
			p.Rules = append(p.Rules, rule)
		}
		out.Policies = append(out.Policies, p)
	}
	return out
}

func genAdaptive(r *rand.Rand) Adaptive {
	return Adaptive{Off: r.IntN(4) == 0, Latency: pick(r, 0, 10*time.Millisecond, time.Minute), Factor: pick(r, 0, 1.5, 100), MinRequests: pick(r, 0, 1, 1<<20)}
}

func genListener(r *rand.Rand, i int, service string) Listener {
	l := Listener{Name: fmt.Sprintf("l-%d", i), Protocol: genProtocol(r), Address: genAddr(r, 2*i), Service: service, Side: flow.SideClient}
	if r.IntN(2) == 0 {
		l.Side, l.Target, l.Mode, l.IdleTimeout = flow.SideServer, genAddr(r, 2*i+1), pick(r, ModeStrict, ModePermissive), genDuration(r)
	}
	if l.Protocol == flow.ProtocolTLS {
		l.Mode = ModeStrict
	}
	if r.IntN(4) == 0 {
		l.Side, l.Target, l.Mode, l.IdleTimeout = flow.SideServer, netip.AddrPort{}, ModeStrict, 0
		if l.Protocol.MayBeHTTP() {
			l.Protocol, l.Limits = flow.ProtocolHTTP, genLimits(r)
		}
		l.Edge = genEdge(r, l.Protocol, service)
		l.ProxyProtocol = pick(r, nil, &ProxyProtocol{From: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, Timeout: pick(r, 0, time.Second)})
		return l
	}
	switch {
	case l.Side == flow.SideServer && r.IntN(4) == 0:
		l.Protocol, l.Target = flow.ProtocolTCP, netip.AddrPort{}
		l.Interception = &Interception{Unknown: pick(r, UnknownPass, UnknownRefuse), Transparent: r.IntN(2) == 0}
	case l.Side == flow.SideServer:
		l.Unbound = r.IntN(4) == 0
	case r.IntN(4) == 0:
		l.Protocol, l.Service, l.Proxy = flow.ProtocolHTTP, "", &Proxy{Unknown: pick(r, UnknownPass, UnknownRefuse)}
	case r.IntN(3) == 0:
		l.Protocol, l.Service = flow.ProtocolHTTP, ""
		l.Interception = &Interception{
			Unknown: pick(r, UnknownPass, UnknownRefuse), Away: pick(r, UnknownPass, UnknownRefuse), LookupTimeout: pick(r, 0, time.Millisecond, 10*time.Second), DetectTimeout: pick(r, 0, time.Millisecond, 3*time.Second), OpaquePorts: pick(r, nil, []uint16{25, 3306}),
		}
	}
	if l.Interception == nil && l.Side == flow.SideServer {
		l.Access = genAccess(r)
		if l.ProxyProtocol = pick(r, nil, &ProxyProtocol{From: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::/0")}, Timeout: pick(r, 0, time.Second)}); l.Protocol.Relayed() {
			l.TargetProxy = pick[ProxyVersion](r, 0, 1, 2)
		}
	}
	if l.Interception == nil && l.Proxy == nil && r.IntN(3) == 0 {
		l.Unix = &Unix{Path: pick(r, "/run/app.sock", "@app"), Attest: Attest{UIDs: pick(r, nil, []uint32{0, 1000}), GIDs: pick(r, nil, []uint32{7})}}
		if l.Unix.Path += strconv.Itoa(i); l.Side == flow.SideServer {
			l.Target = netip.AddrPort{}
		} else if l.Address = (netip.AddrPort{}); !l.Unix.Abstract() {
			l.Unix.Mode = pick[uint32](r, 0, 0o600)
		}
	}
	if l.Detects() {
		l.DetectTimeout = pick(r, 0, time.Millisecond, 3*time.Second)
	}
	if l.Protocol.MayBeHTTP() {
		l.Limits = genLimits(r)
		if l.Side == flow.SideServer {
			l.RequestTimeout, l.Adaptive = genDuration(r), genAdaptive(r)
		}
	}
	return l
}

func genEdge(r *rand.Rand, p flow.Protocol, service string) *Edge {
	e := &Edge{}
	switch r.IntN(4) {
	case 0:
		e.Mesh = p == flow.ProtocolTCP
	case 1:
		if p == flow.ProtocolHTTP {
			e.RedirectHTTPS = 8443
			return e
		}
	case 2:
		if p == flow.ProtocolTLS {
			break
		}
		e.TLS = &ServerTLS{
			Certificates: pick(r, []CertificateFiles{{"/a.pem", "/a.key"}}, []CertificateFiles{{"/a.pem", "/a.key"}, {"/b.pem", "/b.key"}}),
			MinVersion:   pick(r, 0, uint16(tls.VersionTLS13)),
		}
		if e.TLS.ClientAuth = pick(r, ClientAuthNone, ClientAuthRequest, ClientAuthRequire); e.TLS.ClientAuth != ClientAuthNone {
			e.TLS.ClientCAFile = "/ca.pem"
		}
	}
	if p == flow.ProtocolHTTP {
		e.TrustedHops = r.IntN(3)
	}
	to := func(v VirtualHost) VirtualHost {
		switch v.Service = service; {
		case e.Mesh || r.IntN(2) == 0:
		case p == flow.ProtocolHTTP:
			v.Rules, v.Service = genRules(r, []string{service}), pick(r, "", service)
			if len(v.Rules) == 0 {
				v.Service = service
			}
		default:
			v.Service = ""
			v.Rules = []route.Rule{{Name: "shop/split", Action: route.Action{Backends: pick(r, nil, []route.Backend{{Service: service, Weight: 9, Subset: "version=v2"}, {Weight: 1}})}}}
		}
		return v
	}
	if p == flow.ProtocolTCP && e.TLS == nil && !e.Mesh {
		e.Hosts = []VirtualHost{to(VirtualHost{Name: "all", Hosts: []string{"*"}})}
		return e
	}
	all := []VirtualHost{
		to(VirtualHost{Name: "one", Hosts: []string{"a.example", "*.b.example"}}),
		to(VirtualHost{Name: "two", Hosts: []string{"c.example"}}),
		to(VirtualHost{Name: "rest", Hosts: pick(r, []string{"*"}, []string{"d.example", "*"})}),
	}
	if n := r.IntN(len(all) + 1); n > 0 {
		e.Hosts = all[:n]
	}
	return e
}

func genTelemetry(r *rand.Rand) Telemetry {
	return pick(r, Telemetry{}, Telemetry{Headers: []string{"x-tenant", "x-cache"}}, Telemetry{Accept: []string{"b3"}, Emit: []string{"w3c", "b3-multi"}})
}

func genSnapshot(r *rand.Rand) *Snapshot {
	s := &Snapshot{
		Workload: Workload{Service: "cart", Namespace: "shop", Version: pick(r, "", "v2"), Instance: "cart-1", Limits: genSidecarLimits(r).WithDefaults()},
		Services: map[string]Service{}, Endpoints: map[string][]Endpoint{},
	}
	s.Telemetry = genTelemetry(r)
	for i := range 1 + r.IntN(4) {
		name := fmt.Sprintf("svc-%d", i)
		s.Services[name] = genService(r, name).WithDefaults()
		endpoints := genEndpoints(r)
		for i := range endpoints {
			endpoints[i] = endpoints[i].WithDefaults()
		}
		s.Endpoints[name] = endpoints
	}
	for i := range r.IntN(5) {
		s.Listeners = append(s.Listeners, genListener(r, i, fmt.Sprintf("svc-%d", r.IntN(len(s.Services)))).WithDefaults())
	}
	for i := range r.IntN(len(s.Services) + 1) {
		if s.Routes == nil {
			s.Routes = map[string][]route.Rule{}
		}
		s.Routes[fmt.Sprintf("svc-%d", i)] = genRules(r, slices.Sorted(maps.Keys(s.Services)))
	}
	return s
}

// kindRoundTrips has one entry per line of Kinds: it generates a value, sends it out and in, and returns both.
var kindRoundTrips = map[string]func(r *rand.Rand) (want, got any, err error){
	"service": func(r *rand.Rand) (any, any, error) {
		v := genService(r, "catalog")
		x, err := v.ToXDS()
		if err != nil {
			return nil, nil, err
		}
		got, err := ServiceFromXDS(x)
		return v.WithDefaults(), got, err
	},
	"endpoint": func(r *rand.Rand) (any, any, error) {
		v := genEndpoints(r)
		x, err := EndpointsToXDS("catalog", v)
		if err != nil {
			return nil, nil, err
		}
		_, got, err := EndpointsFromXDS(x)
		for i := range v {
			v[i] = v[i].WithDefaults()
		}
		return v, got, err
	},
	"listener": func(r *rand.Rand) (any, any, error) {
		v := genListener(r, 1, "catalog")
		x, err := v.ToXDS()
		if err != nil {
			return nil, nil, err
		}
		got, err := ListenerFromXDS(x)
		return v.WithDefaults(), got, err
	},
	"route": func(r *rand.Rand) (any, any, error) {
		v := genRules(r, []string{"catalog", "catalog-2", "prices"})
		x, err := RoutesToXDS("catalog", v, nil)
		if err != nil {
			return nil, nil, err
		}
		if err := x.ValidateAll(); err != nil {
			return nil, nil, err
		}
		_, got, err := RoutesFromXDS(x)
		return v, got, err
	},
	"destination": func(r *rand.Rand) (any, any, error) {
		v := Destination{Network: pick(r, "", "host"), Address: genAddr(r, 1), Known: r.IntN(2) == 0, TTL: time.Duration(1+r.IntN(1e6)) * time.Millisecond}
		if v.Known {
			v.Service = pick(r, "", "catalog")
		}
		x, err := v.ToXDS()
		if err != nil {
			return nil, nil, err
		}
		got, err := DestinationFromXDS(x)
		return v, got, err
	},
	"workload": func(r *rand.Rand) (any, any, error) {
		v := Workload{Service: "cart", Namespace: pick(r, "", "shop"), Version: pick(r, "", "v1"), Instance: "cart-1", Limits: genSidecarLimits(r)}
		says := genTelemetry(r)
		x, err := v.ToXDS(says, "r1")
		if err != nil {
			return nil, nil, err
		}
		got, heard, _, err := WorkloadFromXDS(x)
		v.Limits = v.Limits.WithDefaults()
		return []any{v, says}, []any{got, heard}, err
	},
}

func TestEveryKindRoundTrips(t *testing.T) {
	for _, k := range Kinds {
		t.Run(k.Name, func(t *testing.T) {
			trip, ok := kindRoundTrips[k.Name]
			if !ok {
				t.Fatalf("kind %q has no round trip; add one to kindRoundTrips", k.Name)
			}
			for seed := range uint64(500) {
				want, got, err := trip(rand.New(rand.NewPCG(seed, 1)))
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if d := cmp.Diff(want, got, addrEqual); d != "" {
					t.Fatalf("seed %d: -want +got\n%s", seed, d)
				}
			}
		})
	}
}

func TestSnapshotRoundTrips(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		s := genSnapshot(r)
		resources, err := Seal(s)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if last := resources[len(resources)-1]; last.TypeURL != TypePolicy {
			t.Fatalf("seed %d: %s comes last, want Policy", seed, last.TypeURL)
		}
		if got := Revision(s.Workload, s.Telemetry, resources); got != s.Revision {
			t.Fatalf("seed %d: revision of the resources is %s, of the snapshot %s", seed, got, s.Revision)
		}
		r.Shuffle(len(resources), func(i, j int) { resources[i], resources[j] = resources[j], resources[i] })
		got, err := FromXDS(resources)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if d := cmp.Diff(s, got, addrEqual, cmpopts.IgnoreUnexported(Snapshot{})); d != "" {
			t.Fatalf("seed %d: -want +got\n%s", seed, d)
		}
	}
}

// Snapshots know what they share.
func TestSame(t *testing.T) {
	s := genSnapshot(rand.New(rand.NewPCG(4, 4)))
	s.Services["cart"], s.Endpoints["cart"] = Service{Name: "cart", Protocol: flow.ProtocolHTTP}, []Endpoint{{Address: netip.MustParseAddrPort("10.0.0.1:80")}}
	s.Routes = map[string][]route.Rule{"cart": {{Name: "all", Action: route.Action{Backends: []route.Backend{{Service: "cart", Weight: 1}}}}}}
	resources, err := Seal(s)
	if err != nil {
		t.Fatal(err)
	}
	read := func(which func(Resource) bool, old []Part) (out []Part) {
		for i, r := range resources {
			if len(old) > 0 && !which(r) {
				out = append(out, old[i])
				continue
			}
			p, err := ReadResource(r)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, p)
		}
		return out
	}
	first := read(nil, nil)
	of := func(parts []Part) *Snapshot {
		out, err := Assemble(parts)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	old := of(first)
	for name, c := range map[string]struct {
		again func(Resource) bool
		same  bool
	}{
		"nothing":       {func(Resource) bool { return false }, true},
		"another":       {func(r Resource) bool { return r.Name != "cart" }, true},
		"its service":   {func(r Resource) bool { return r.Name == "cart" && r.TypeURL == TypeService }, false},
		"its endpoints": {func(r Resource) bool { return r.Name == "cart" && r.TypeURL == TypeEndpoints }, false},
	} {
		if got := of(read(c.again, first)).Same(old, "cart"); got != c.same {
			t.Errorf("%s was read again: the same is %v", name, got)
		}
	}
	if again := of(read(func(r Resource) bool { return r.TypeURL != TypeRoutes }, first)); &again.Routes["cart"][0] != &old.Routes["cart"][0] {
		t.Error("rules that were not read again are another slice")
	}
	if again := of(read(func(r Resource) bool { return r.TypeURL == TypeRoutes }, first)); &again.Routes["cart"][0] == &old.Routes["cart"][0] || !again.Same(old, "cart") {
		t.Error("rules that were read again are the same slice, or their service is another")
	}
	if old.Same(old, "nobody") || s.Same(s, "cart") {
		t.Error("what was not read of resources, or is not there, is the same")
	}
}

// The revision is one of sorted lines: sidecars and controllers of all versions must derive the same.
func TestRevisionIsOfSortedLines(t *testing.T) {
	for seed := range uint64(100) {
		s := genSnapshot(rand.New(rand.NewPCG(seed, 9)))
		resources, err := Seal(s)
		if err != nil {
			t.Fatal(err)
		}
		lines := []string{fmt.Sprintf("%q\n", []string{s.Workload.Service, s.Workload.Namespace, s.Workload.Version, s.Workload.Instance})}
		if l := s.Workload.Limits.WithDefaults(); l != (SidecarLimits{}).WithDefaults() {
			lines = append(lines, fmt.Sprintf("limits %+v\n", l))
		}
		if !s.Telemetry.IsZero() {
			lines = append(lines, fmt.Sprintf("telemetry %q\n", [][]string{s.Telemetry.Headers, s.Telemetry.Accept, s.Telemetry.Emit}))
		}
		for _, r := range resources {
			if r.TypeURL != TypePolicy {
				lines = append(lines, r.TypeURL+" "+r.Name+" "+r.Version+"\n")
			}
		}
		slices.Sort(lines)
		sum := sha256.Sum256([]byte(strings.Join(lines, "")))
		if want := hex.EncodeToString(sum[:6]); s.Revision != want {
			t.Fatalf("seed %d: revision %s, want %s", seed, s.Revision, want)
		}
	}
}

func TestRevisionFollowsContent(t *testing.T) {
	s := genSnapshot(rand.New(rand.NewPCG(7, 7)))
	if _, err := Seal(s); err != nil {
		t.Fatal(err)
	}
	first := s.Revision
	if _, err := Seal(s); err != nil || s.Revision != first {
		t.Fatalf("revision of unchanged content went from %s to %s (%v)", first, s.Revision, err)
	}
	svc := s.Services["svc-0"]
	svc.MaxRequests++
	s.Services["svc-0"] = svc
	if _, err := Seal(s); err != nil || s.Revision == first {
		t.Fatalf("revision stayed %s after a change (%v)", first, err)
	}
	first = s.Revision
	s.Workload.Version = "v9"
	if _, err := Seal(s); err != nil || s.Revision == first {
		t.Fatalf("revision stayed %s after a change of the workload (%v)", first, err)
	}
	first = s.Revision
	s.Workload.Limits.Connections = s.Workload.Limits.WithDefaults().Connections - 1
	s.Workload.Limits.ConnectionsPerSource = 1
	if _, err := Seal(s); err != nil || s.Revision == first {
		t.Fatalf("revision stayed %s after a change of the limits (%v)", first, err)
	}
	first = s.Revision
	s.Telemetry.Headers = append(s.Telemetry.Headers, "x-more")
	if _, err := Seal(s); err != nil || s.Revision == first {
		t.Fatalf("revision stayed %s after a change of telemetry (%v)", first, err)
	}
}

func TestChecksNameFieldValueAndRemedy(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.0.1:80")
	ok := Service{Name: "a", Protocol: flow.ProtocolHTTP1}.WithDefaults()
	mod := func(f func(*Service)) Service { s := ok; f(&s); return s }
	out := func(f func(*Service)) Service { s := ok; s.External = true; f(&s); return s }
	edge := func(p flow.Protocol, f func(*Listener)) Listener {
		l := Listener{
			Name: "l", Side: flow.SideServer, Protocol: p, Address: at, Service: "gateway",
			Edge: &Edge{Hosts: []VirtualHost{{Name: "all", Hosts: []string{"*"}, Service: "s"}}},
		}
		f(&l)
		return l
	}
	issued := time.Unix(100, 0)
	for _, tc := range []struct {
		check interface{ Check() error }
		want  string
	}{
		{Listener{}, "listener: name: must not be empty"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: 99}, `listener "l": protocol 99: not supported here; use http, http1, http2, grpc, tcp, tls or auto`},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolTCP}, `listener "l": address "": must be ip:port`},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Address: at, Target: at, Service: "s"}, "is the listener's own address"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: at, Service: "s", RequestTimeout: 1}, "timeouts: of outbound traffic they are the service's"},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Address: at, Service: "s", RequestTimeout: 1}, "request timeout 1ns: only http listeners have one"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: at, Service: "s", Adaptive: Adaptive{Off: true}}, "adaptive limit: only inbound http listeners"},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolHTTP, Address: at, Service: "s", Adaptive: Adaptive{Latency: 1}}, "adaptive limit: latency: 1ns must be from 10ms to 1m"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolTCP, Address: at, Interception: &Interception{}}, "interception: outbound it must be of protocol http"},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolHTTP, Address: at, Service: "s", Interception: &Interception{}}, "inbound it must be of protocol tcp"},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Address: at, Interception: &Interception{}}, "service: must not be empty"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: at, Interception: &Interception{Transparent: true}}, "transparent: outbound connections"},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolHTTP, Address: at, Target: at, Service: "s", DetectTimeout: 1}, "detect timeout 1ns: nothing is detected here"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolAuto, Address: at, Service: "s", DetectTimeout: 1}, "detect timeout 1ns: must be from 1ms to 1m0s"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolTCP, Address: at, Service: "s", Unbound: true}, "unbound: only inbound"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: at, Service: "s", Interception: &Interception{}}, "serves all; remove it"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: at, Interception: &Interception{DetectTimeout: time.Hour}}, "detectTimeout 1h0m0s: must be from 1ms to 1m0s"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: at, Interception: &Interception{Away: 7}}, "away 7: must be pass or refuse"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: at, Interception: &Interception{LookupTimeout: time.Minute}}, "lookupTimeout 1m0s: must be from 1ms to 10s"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: at, Interception: &Interception{OpaquePorts: []uint16{9, 3}}}, "opaquePorts [9 3]: must be in ascending order"},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolTLS, Address: at, Target: at, Service: "s", Mode: ModePermissive}, "could not be told from the application's"},
		{mod(func(s *Service) { s.Hosts = []string{"a.example"} }), "hosts: only external services have them"},
		{mod(func(s *Service) { s.External, s.Hosts = true, []string{"*"} }), `hosts[0]: "*" is no host name; write one such as api.example.com`},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolTCP, Address: at, Proxy: &Proxy{}}, "proxy: must be outbound and of protocol http"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: at, Service: "s", Proxy: &Proxy{}}, `remove service "s"`},
		{edge(flow.ProtocolHTTP, func(l *Listener) { l.Target = at }), "target, unbound, interception, mode and timeouts are of other listeners"},
		{edge(flow.ProtocolHTTP, func(l *Listener) { l.Side = flow.SideClient }), "only inbound listeners can be one"},
		{edge(flow.ProtocolGRPC, func(*Listener) {}), "protocol grpc: must be http, tcp or tls"},
		{edge(flow.ProtocolHTTP, func(l *Listener) { l.Edge.Mesh = true }), "mesh: must be of protocol tcp"},
		{edge(flow.ProtocolTLS, func(l *Listener) { l.Edge.TLS = &ServerTLS{} }), "of protocol tls it is passed through"},
		{edge(flow.ProtocolTCP, func(l *Listener) { l.Edge.TrustedHops = 1 }), "trustedHops 1: must be from 0 to 16, and 0 of relayed"},
		{edge(flow.ProtocolHTTP, func(l *Listener) { l.Edge.RedirectHTTPS = 443 }), "redirectHTTPS: is for listeners of http"},
		{edge(flow.ProtocolHTTP, func(l *Listener) { l.Edge.Hosts[0].Hosts = []string{"a", "A"} }), `host "A": is listed twice`},
		{edge(flow.ProtocolHTTP, func(l *Listener) { l.Edge.Hosts[0].Hosts = []string{"*", "a"} }), `host *: must be the last`},
		{edge(flow.ProtocolHTTP, func(l *Listener) { l.Edge.Hosts[0].Hosts = nil }), `names no host`},
		{edge(flow.ProtocolHTTP, func(l *Listener) { l.Edge.Hosts[0].Hosts = []string{"a:80"} }), `"a:80" is no host name`},
		{edge(flow.ProtocolHTTP, func(l *Listener) { l.Edge.Hosts = append(l.Edge.Hosts, l.Edge.Hosts[0]) }), `name "all": is used twice`},
		{edge(flow.ProtocolTCP, func(l *Listener) { l.Edge.Hosts[0].Hosts = []string{"a"} }), `TCP names no host`},
		{edge(flow.ProtocolHTTP, func(l *Listener) { l.Edge.TLS = &ServerTLS{} }), `certificates: has 0 entries`},
		{edge(flow.ProtocolHTTP, func(l *Listener) { l.Edge.TLS = &ServerTLS{Certificates: []CertificateFiles{{"/a", ""}}} }), `certificates[0].keyFile: must not be empty`},
		{edge(flow.ProtocolHTTP, func(l *Listener) { l.Edge.TLS = &ServerTLS{Certificates: []CertificateFiles{{"a", "/b"}}} }), `certificates[0].certFile "a": must be an absolute path`},
		{edge(flow.ProtocolHTTP, func(l *Listener) {
			l.Edge.TLS = &ServerTLS{Certificates: []CertificateFiles{{"/a", "/b"}}, ClientCAFile: "/c"}
		}), `clientAuth "": goes with a clientCAFile`},
		{&Snapshot{Workload: Workload{Instance: "i", Service: "s"}, Listeners: []Listener{edge(flow.ProtocolHTTP, func(*Listener) {})}}, `service "s" of host * is not in this snapshot`},
		{mod(func(s *Service) { s.TLS = &ClientTLS{ServerName: "a"} }), "tls: only external services have it"},
		{out(func(s *Service) { s.TLS = &ClientTLS{} }), `tls: serverName "": must be the host name`},
		{out(func(s *Service) { s.TLS = &ClientTLS{ServerName: "a", CertFile: "/c"} }), `certFile "/c", keyFile "": a client certificate takes both`},
		{out(func(s *Service) { s.TLS = &ClientTLS{ServerName: "a", CAFile: "ca.pem"} }), `caFile "ca.pem": must be an absolute path`},
		{out(func(s *Service) { s.TLS = &ClientTLS{ServerName: "a", CAFile: "/a/../ca.pem"} }), `must be an absolute path`},
		{out(func(s *Service) { s.TLS = &ClientTLS{ServerName: "a", ALPN: []string{"h2"}} }), "with HTTP it follows from the protocol"},
		{out(func(s *Service) { s.TLS = &ClientTLS{ServerName: "a", MinVersion: tls.VersionTLS11} }), "must be 1.2 or 1.3"},
		{out(func(s *Service) { s.Protocol, s.TLS = flow.ProtocolTLS, &ClientTLS{ServerName: "a"} }), "speaks TLS of its own"},
		{mod(func(s *Service) { s.Authority = "a" }), "only external services of HTTP have one"},
		{out(func(s *Service) { s.Authority = "a b" }), `authority "a b": must be a host or host:port`},
		{out(func(s *Service) { s.Authority = "a:0" }), `the port must be from 1 to 65535`},
		{out(func(s *Service) { s.Authority = "::1" }), `must be a host or host:port`},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolTCP, Address: at, Service: "s", Unix: &Unix{Path: "/s"}}, "address 127.0.0.1:80: the listener has unix:/s too"},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Address: at, Target: at, Service: "s", Unix: &Unix{Path: "/s"}}, "target 127.0.0.1:80: the listener has unix:/s too"},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Address: at, Service: "s", Unix: &Unix{Path: "/s", Mode: 1}}, "mode 01: the application makes the file"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolTCP, Service: "s", Unix: &Unix{Path: "@s", Mode: 1}}, "mode 01: an abstract socket has no file"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolTCP, Service: "s", Unix: &Unix{Path: "/a/../s"}}, "must be an absolute path without . and .."},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolTCP, Service: "s", Unix: &Unix{Path: "/" + strings.Repeat("x", 107)}}, "has 108 bytes, a socket's path has at most 107"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolTCP, Service: "s", Unix: &Unix{Path: "/s", Attest: Attest{UIDs: []uint32{2, 1}}}}, "uids [2 1]: must be in ascending order"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Unix: &Unix{Path: "/s"}, Interception: &Interception{}}, "unix:/s: redirected connections are of TCP"},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Address: at, Service: "s", ProxyProtocol: &ProxyProtocol{}}, "proxy protocol: from: has 0 entries, must have 1 to 64"},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Address: at, Service: "s", ProxyProtocol: &ProxyProtocol{From: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")}}}, `from: "10.0.0.1/8" must be a network`},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Address: at, Service: "s", ProxyProtocol: &ProxyProtocol{From: []netip.Prefix{netip.MustParsePrefix("::/0")}, Timeout: time.Hour}}, "timeout 1h0m0s: must be from 10ms to 1m0s"},
		{Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolTCP, Address: at, Service: "s", ProxyProtocol: &ProxyProtocol{}}, "only inbound listeners of a port take it"},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolHTTP, Address: at, Service: "s", TargetProxy: 1}, "v1: only protocols tcp and tls have it"},
		{Listener{Name: "l", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Address: at, Service: "s", TargetProxy: 3}, "version 3: must be 1 or 2"},
		{mod(func(s *Service) { s.External, s.Proxy = true, 2 }), "proxy protocol: v2: only protocols tcp and tls have it"},
		{mod(func(s *Service) { s.Protocol, s.Proxy = flow.ProtocolTCP, 2 }), "of the mesh's own services the sidecars know who calls"},
		{mod(func(s *Service) { s.MTLS = true }), "needs at least one identity"},
		{mod(func(s *Service) { s.Identities = []string{"x"} }), `must start with spiffe://`},
		{mod(func(s *Service) { s.TryTimeout = time.Minute }), "try timeout 1m0s: is longer than the request timeout 15s"},
		{mod(func(s *Service) { s.Retry.Attempts = 11 }), "retry attempts 11: must be from 1 (no retry) to 10"},
		{mod(func(s *Service) { s.Retry.GRPC = 2 }), "retry grpc 0x2: must be statuses of failed calls, without OK"},
		{mod(func(s *Service) { s.ConnectTimeout = -1 }), "connect timeout -1ns: must be positive"},
		{Endpoint{Address: at, Weight: 129}, "endpoint 127.0.0.1:80: weight 129: must be from 1 to 128"},
		{Endpoint{Address: at, Weight: 1, Override: &Override{ID: "o", Kind: OverrideEject, Fraction: 2}}, "override fraction 2: must be above 0 and at most 1"},
		{Endpoint{Address: at, Weight: 1, Override: &Override{ID: "o", Kind: OverrideEject, Fraction: 1}}, "override expires: must be set"},
		{Endpoint{Address: at, Weight: 1, Override: &Override{ID: "o", Kind: OverrideEject, Fraction: 1, Issued: issued, Expires: issued}}, "must be after issued"},
		{Destination{Address: at}, "ttl 0s: must be positive"},
		{Workload{Instance: "i"}, `workload "i": service: must not be empty`},
		{Telemetry{Headers: []string{"x-tenant", "Cookie"}}, `headers[1]: "Cookie" is not a header name`},
		{Telemetry{Headers: []string{"x-tenant", "x-tenant"}}, `headers[1]: "x-tenant" is listed twice`},
		{Telemetry{Headers: make([]string, 17)}, "headers: has 17 names, at most 16 are kept"},
		{Telemetry{Headers: []string{"cookie"}}, `headers[0]: "cookie" is refused: a field of that name carries credentials`},
		{Telemetry{Headers: []string{"set-cookie"}}, `"set-cookie" is refused`},
		{Telemetry{Headers: []string{"authorization"}}, `"authorization" is refused`},
		{Telemetry{Headers: []string{"proxy-authorization"}}, `"proxy-authorization" is refused`},
		{Telemetry{Headers: []string{"www-authenticate"}}, `"www-authenticate" is refused`},
		{Telemetry{Headers: []string{"x-api-key"}}, `"x-api-key" is refused`},
		{Telemetry{Headers: []string{"x-auth-token"}}, `"x-auth-token" is refused`},
		{Telemetry{Headers: []string{"x-forwarded-client-cert"}}, `"x-forwarded-client-cert" is refused`},
		{Telemetry{Accept: []string{"b3-multi"}}, `propagation.accept[0]: "b3-multi" is not one of w3c, b3`},
		{Telemetry{Emit: []string{"b3"}}, "propagation.emit: w3c is missing"},
		{Telemetry{Emit: []string{"w3c", "w3c"}}, `propagation.emit[1]: "w3c" is listed twice`},
		{&Snapshot{Workload: Workload{Instance: "i", Service: "s"}, Telemetry: Telemetry{Headers: []string{"cookie"}}}, `workload "i": telemetry: headers[0]`},
		{&Snapshot{Workload: Workload{Instance: "i", Service: "s"}, Listeners: []Listener{
			{Name: "a", Side: flow.SideClient, Protocol: flow.ProtocolTCP, Address: at, Service: "s"},
		}}, `listener "a": service "s" is not in this snapshot`},
	} {
		if err := tc.check.Check(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("got %v\nwant …%s…", err, tc.want)
		}
	}
}

func TestStockEnvoySteersAway(t *testing.T) {
	issued := time.Unix(100, 0)
	x, err := EndpointsToXDS("catalog", []Endpoint{{
		Address:  netip.MustParseAddrPort("127.0.0.1:80"),
		Override: &Override{ID: "o", Kind: OverrideEject, Fraction: 0.01, Issued: issued, Expires: issued.Add(time.Second)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	lb := x.Endpoints[0].LbEndpoints[0]
	if lb.HealthStatus.String() != "DEGRADED" || lb.LoadBalancingWeight.GetValue() != 1 {
		t.Fatalf("got health %s weight %d, want DEGRADED and 1", lb.HealthStatus, lb.LoadBalancingWeight.GetValue())
	}
}

// FuzzCheckResource: no bytes from the wire may panic a sidecar.
func FuzzCheckResource(f *testing.F) {
	s := genSnapshot(rand.New(rand.NewPCG(3, 3)))
	resources, err := Seal(s)
	if err != nil {
		f.Fatal(err)
	}
	for i, r := range resources {
		f.Add(i%len(Kinds), r.Name, r.Body.Value)
	}
	f.Fuzz(func(t *testing.T, kind int, name string, body []byte) {
		k := Kinds[uint(kind)%uint(len(Kinds))]
		// The only promise is an error instead of a panic.
		_ = CheckResource(Resource{TypeURL: k.TypeURL, Name: name, Body: &anypb.Any{TypeUrl: k.TypeURL, Value: body}})
	})
}
