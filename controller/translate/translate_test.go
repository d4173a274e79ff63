package translate

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/policy"
)

var update = flag.Bool("update", false, "rewrite testdata/*/out.txt")

// TestGolden plays each folder's 1.yaml, 2.yaml … as successive versions of one file; out.txt is problems and Snapshots of all versions.
// A line "# override ADDRESS KIND FRACTION" puts an override in force; "# called SOURCE NAME" says that a service was seen to call another.
func TestGolden(t *testing.T) {
	folders, err := filepath.Glob("testdata/*")
	if err != nil || len(folders) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, folder := range folders {
		t.Run(filepath.Base(folder), func(t *testing.T) {
			got := play(t, folder)
			golden := filepath.Join(folder, "out.txt")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("-want +got (rewrite with: go test ./controller/translate -update)\n%s", d)
			}
		})
	}
}

func play(t *testing.T, folder string) string {
	t.Helper()
	var b strings.Builder
	last := resource.EmptySet()
	for i := 1; ; i++ {
		content, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("%d.yaml", i)))
		if err != nil {
			return b.String()
		}
		fmt.Fprintf(&b, "== version %d\n", i)
		set, problems := resource.Resolve(resource.Decode("mesh.yaml", content), last)
		last = set
		for _, p := range problems {
			fmt.Fprintf(&b, "%s: %s\n", p.Severity, p)
		}
		renderGateways(&b, set)
		endpoints, err := discovery.FromSet(set, "tulle.local")
		if err != nil {
			t.Fatal(err)
		}
		out, err := Translate(Input{TrustDomain: "tulle.local", Set: set, Endpoints: endpoints, Overrides: overrides(t, string(content)), Called: called(string(content))})
		if err != nil {
			t.Fatal(err)
		}
		for _, instance := range slices.Sorted(maps.Keys(out.Workloads)) {
			w := out.Workloads[instance]
			back, err := policy.FromXDS(w.Resources)
			if err != nil {
				t.Fatalf("%s: a sidecar would refuse it: %v", instance, err)
			}
			fmt.Fprintf(&b, "\n%s %s %s\n", instance, w.Snapshot.Workload.Version, w.Identity)
			render(&b, back)
			renderRoutes(&b, w.Snapshot)
		}
		b.WriteString("\n")
		for _, d := range out.Destinations {
			x := &tullev1.Destination{}
			if err := d.Body.UnmarshalTo(x); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "destination %s is %s\n", d.Name, x.GetService())
			if r := out.Services[x.GetService()]; len(r) != 2 || r[0].TypeURL != policy.TypeService || r[1].TypeURL != policy.TypeEndpoints || r[0].Name != x.GetService() || r[1].Name != r[0].Name {
				t.Errorf("%s cannot be learnt: %v", x.GetService(), r)
			}
		}
	}
}

// renderGateways writes the statuses of Gateways.
func renderGateways(b *strings.Builder, set *resource.Set) {
	for _, s := range set.Statuses {
		if len(s.Listeners) == 0 {
			continue
		}
		short := func(list []resource.Condition) string {
			var out []string
			for _, c := range list {
				out = append(out, c.Type+"="+c.Status+" "+c.Reason)
			}
			return strings.Join(out, ", ")
		}
		fmt.Fprintf(b, "\n%s at %v: %s\n", s.Key, s.Addresses, short(s.Conditions))
		for _, l := range s.Listeners {
			fmt.Fprintf(b, "  %s takes %v has %d: %s\n", l.Name, l.SupportedKinds, l.AttachedRoutes, short(l.Conditions))
		}
	}
}

func called(content string) map[string][]string {
	out := map[string][]string{}
	for line := range strings.Lines(content) {
		var source, name string
		if n, _ := fmt.Sscanf(line, "# called %s %s", &source, &name); n == 2 {
			out[source] = append(out[source], name)
		}
	}
	return out
}

func overrides(t *testing.T, content string) map[netip.AddrPort]policy.Override {
	out := map[netip.AddrPort]policy.Override{}
	for line := range strings.Lines(content) {
		var addr, kind string
		var fraction float64
		if n, _ := fmt.Sscanf(line, "# override %s %s %g", &addr, &kind, &fraction); n != 3 {
			continue
		}
		k := map[string]policy.OverrideKind{"eject": policy.OverrideEject, "weight": policy.OverrideWeight}[kind]
		a, err := netip.ParseAddrPort(addr)
		if err != nil {
			t.Fatal(err)
		}
		out[a] = policy.Override{ID: "o-1", Kind: k, Fraction: fraction, Reason: "consistent_failures", Issued: time.Unix(100, 0).UTC(), Expires: time.Unix(115, 0).UTC()}
	}
	return out
}

func render(b *strings.Builder, s *policy.Snapshot) {
	if l := s.Workload.Limits; l != (policy.SidecarLimits{}).WithDefaults() {
		fmt.Fprintf(b, "  limits connections=%d/%d buffers=%d\n", l.Connections, l.ConnectionsPerSource, l.BufferBytes)
	}
	for _, l := range s.Listeners {
		to := l.Service
		if l.Side == flow.SideServer {
			switch to = l.Target.String(); {
			case l.Interception != nil:
				to = "original"
			case l.Unix != nil:
				to = l.Unix.String()
			}
			if l.Edge != nil {
				to = l.Service
			}
			if l.Unbound {
				to += " unbound"
			}
			to += []string{" strict", " permissive"}[l.Mode]
		}
		fmt.Fprintf(b, "  listener %s %s %s -> %s\n", l.Name, policy.ProtocolName(l.Protocol), l.At(), to)
		if u := l.Unix; u != nil {
			fmt.Fprintf(b, "    socket mode=%#o attest=%q\n", u.Mode, &u.Attest)
		}
		if d := (policy.Listener{Side: l.Side, Protocol: l.Protocol}).WithDefaults(); l.RequestTimeout != d.RequestTimeout || l.IdleTimeout != d.IdleTimeout {
			fmt.Fprintf(b, "    timeouts request=%s idle=%s\n", l.RequestTimeout, l.IdleTimeout)
		}
		if l.Access.Closed {
			fmt.Fprintln(b, "    access: what no policy is about is denied")
		}
		for _, p := range l.Access.Policies {
			fmt.Fprintf(b, "    access %s %s audit=%v\n", p.Action, p.Name, p.Audit)
			for _, r := range p.Rules {
				fmt.Fprintf(b, "      rule %q from=%+v to=%+v\n", r.Name, r.From, r.To)
			}
		}
		if l.Proxy != nil {
			fmt.Fprintf(b, "    proxy unknown=%s\n", l.Proxy.Unknown)
		}
		if e := l.Edge; e != nil {
			fmt.Fprintf(b, "    edge mesh=%v hops=%d redirect=%d\n", e.Mesh, e.TrustedHops, e.RedirectHTTPS)
			if c := e.TLS; c != nil {
				fmt.Fprintf(b, "    tls min=%#x client=%s %s certificates=%v\n", c.MinVersion, c.ClientAuth, c.ClientCAFile, c.Certificates)
			}
			for _, v := range e.Hosts {
				fmt.Fprintf(b, "    host %s -> %s (%s)\n", strings.Join(v.Hosts, " "), v.Service, v.Name)
				renderRules(b, "      ", v.Rules)
			}
		}
		if i := l.Interception; i != nil {
			fmt.Fprintf(b, "    intercept unknown=%s away=%s lookup=%s detect=%s opaque=%d transparent=%v\n", i.Unknown, i.Away, i.LookupTimeout, i.DetectTimeout, i.OpaquePorts, i.Transparent)
		}
		if p := l.ProxyProtocol; p != nil {
			fmt.Fprintf(b, "    proxy protocol from=%v timeout=%s\n", p.From, p.Timeout)
		}
		if l.TargetProxy != 0 {
			fmt.Fprintf(b, "    proxy protocol to target=%s\n", l.TargetProxy)
		}
		if l.DetectTimeout != 0 && l.DetectTimeout != policy.DefaultDetectTimeout {
			fmt.Fprintf(b, "    detect %s\n", l.DetectTimeout)
		}
		if v := l.Limits; v != (policy.Limits{}) && v != (policy.Limits{}).WithDefaults() {
			fmt.Fprintf(b, "    limits head=%d fields=%d line=%d timeouts head=%s body=%s idle=%s\n",
				v.HeadBytes, v.HeadFields, v.RequestLine, v.HeadTimeout, v.BodyTimeout, v.IdleTimeout)
			if v.HTTP2 != (policy.HTTP2{}).WithDefaults() {
				fmt.Fprintf(b, "    http2 %+v\n", v.HTTP2)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Services)) {
		v := s.Services[name]
		fmt.Fprintf(b, "  service %s/%s %s external=%v mtls=%v %s\n", v.Namespace, v.Name, policy.ProtocolName(v.Protocol), v.External, v.MTLS, strings.Join(v.Identities, " "))
		fmt.Fprintf(b, "    timeouts request=%s try=%s connect=%s idle=%s limits requests=%d connections=%d\n",
			v.RequestTimeout, v.TryTimeout, v.ConnectTimeout, v.IdleTimeout, v.MaxRequests, v.MaxConnections)
		fmt.Fprintf(b, "    retry attempts=%d budget=%g+%g/s backoff=%s..%s\n",
			v.Retry.Attempts, v.Retry.BudgetRatio, v.Retry.BudgetMin, v.Retry.BackoffBase, v.Retry.BackoffMax)
		if c := v.TLS; c != nil {
			fmt.Fprintf(b, "    tls %s ca=%s cert=%s key=%s alpn=%q min=%#x authority=%s\n", c.ServerName, c.CAFile, c.CertFile, c.KeyFile, c.ALPN, c.MinVersion, v.Authority)
			if len(c.Names) > 0 {
				fmt.Fprintf(b, "    tls names %q\n", c.Names)
			}
		}
		if v.Via != "" {
			fmt.Fprintf(b, "    via %s for %v\n", v.Via, v.Addresses)
		}
		if v.Proxy != 0 {
			fmt.Fprintf(b, "    proxy protocol=%s\n", v.Proxy)
		}
		if len(v.Hosts) > 0 {
			fmt.Fprintf(b, "    hosts %s\n", strings.Join(v.Hosts, " "))
		}
		if names := v.Retry.GRPC.Names(); names != nil {
			fmt.Fprintf(b, "    retry grpc %s\n", strings.Join(names, " "))
		}
		if !reflect.DeepEqual(v.Balancer, (policy.Balancer{}).WithDefaults()) {
			fmt.Fprintf(b, "    balancer %+v\n", v.Balancer)
		}
		for _, e := range s.Endpoints[name] {
			fmt.Fprintf(b, "    endpoint %s %s %s weight=%d", e.Address, e.Instance, e.Version, e.Weight)
			if o := e.Override; o != nil {
				fmt.Fprintf(b, " override %s %s %g %s until %s", o.ID, o.Kind, o.Fraction, o.Reason, o.Expires.Format(time.TimeOnly))
			}
			if e.Priority != 0 || e.LocalityWeight != 0 || e.Locality != (policy.Locality{}) {
				fmt.Fprintf(b, " at %s priority=%d weight=%d", e.Locality, e.Priority, e.LocalityWeight)
			}
			if len(e.Labels) > 0 {
				fmt.Fprintf(b, " labels %s", policy.SubsetName(e.Labels))
			}
			b.WriteString("\n")
		}
	}
}

func TestRevisionIsStable(t *testing.T) {
	content, err := os.ReadFile("testdata/shop/1.yaml")
	if err != nil {
		t.Fatal(err)
	}
	revisions := func() map[string]string {
		set, _ := resource.Resolve(resource.Decode("f", content), resource.EmptySet())
		endpoints, err := discovery.FromSet(set, "tulle.local")
		if err != nil {
			t.Fatal(err)
		}
		out, err := Translate(Input{TrustDomain: "tulle.local", Set: set, Endpoints: endpoints})
		if err != nil {
			t.Fatal(err)
		}
		m := map[string]string{}
		for k, w := range out.Workloads {
			m[k] = w.Snapshot.Revision
		}
		return m
	}
	first := revisions()
	for range 20 {
		if d := cmp.Diff(first, revisions()); d != "" {
			t.Fatalf("revisions differ for the same input:\n%s", d)
		}
	}
}
