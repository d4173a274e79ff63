package filter

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// What was sealed is opened by whoever has the same rule and name, and by nobody else, nor when a bit of it has changed.
func TestToken(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 29))
	s := newSealer("rule", "sid")
	for range 200 {
		h := exchange.Held{Backend: r.Uint64(), Endpoint: r.Uint64(), Began: r.Uint32(), Used: r.Uint32()}
		text := s.seal(h)
		if got, ok := newSealer("rule", "sid").open(text); !ok || got != h {
			t.Fatalf("%+v became %+v", h, got)
		}
		for _, other := range []sealer{newSealer("rule2", "sid"), newSealer("rule", "sid2")} {
			if _, ok := other.open(text); ok {
				t.Fatal("another rule reads it")
			}
		}
		b := []byte(text)
		i := r.IntN(len(b) - 1) // the last has bits that say nothing
		if b[i]++; b[i] != text[i] {
			if _, ok := s.open(string(b)); ok {
				t.Fatalf("%s was taken for a token", b)
			}
		}
	}
	for _, text := range []string{"", "x", strings.Repeat("A", 54), strings.Repeat("A", 200), "10.0.0.1:80"} {
		if _, ok := s.open(text); ok {
			t.Errorf("%q was taken for a token", text)
		}
	}
}

func FuzzToken(f *testing.F) {
	s := newSealer("rule", "sid")
	f.Add(s.seal(exchange.Held{Backend: 1}))
	f.Fuzz(func(t *testing.T, text string) {
		if h, ok := s.open(text); ok && s.seal(h) != strings.TrimRight(text, "\r\n") {
			t.Errorf("%q is %+v, which is %q", text, h, s.seal(h))
		}
	})
}

// A session stays with backend and endpoint while the rule has it, whatever its weight, until it is too old or was not used for too long.
func TestSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &route.Action{
			Backends: []route.Backend{{Service: "v1", Weight: 1}, {Service: "v2"}},
			Session:  &route.Session{Name: "sid", Path: "/a", Lifetime: time.Hour, Absolute: time.Hour, Idle: 10 * time.Minute},
		}
		at := func(s string) *policy.Endpoint { return &policy.Endpoint{Address: netip.MustParseAddrPort(s)} }
		// ask sends a request with a cookie, which the balancer would give to an endpoint of the first backend, and returns the service, and the cookie that is set.
		ask := func(a *route.Action, cookie string, secure bool) (service string, stays bool, set string) {
			x := asking(a, &caller{fields: map[string][]string{"cookie": {"other=1; " + cookie}}})
			x.Peer.Secure = secure
			x.Binding.Destinations = map[string]*exchange.Destination{"v1": {Service: policy.Service{Name: "v1"}}, "v2": {Service: policy.Service{Name: "v2"}}}
			x.Decision = x.Decision.By(&a.Backends[0])
			x.Destination = x.Binding.Destinations[a.Backends[0].Service]
			f := New(nil)
			f.Recall(exchange.HandlerFunc(func(x *exchange.Exchange) {
				for _, e := range []*policy.Endpoint{at("10.0.0.9:1"), at("10.0.0.1:1")} { // a try that failed elsewhere leaves nothing
					x.Choice.Endpoint = e
					f.Remember(exchange.HandlerFunc(func(*exchange.Exchange) {})).Handle(x)
				}
			})).Handle(x)
			for _, field := range x.Passed.Append {
				if field.Name != "set-cookie" || set != "" {
					t.Errorf("%+v", x.Passed)
				}
				set = field.Value
			}
			if x.Destination.Name != x.Decision.Service {
				t.Errorf("%s to %s", x.Decision.Service, x.Destination.Name)
			}
			return x.Decision.Service, x.Stay == exchange.EndpointID(at("10.0.0.1:1")), set
		}
		service, stays, set := ask(a, "", false)
		cookie, rest, _ := strings.Cut(set, ";")
		if service != "v1" || stays || !strings.HasPrefix(set, "sid=") || rest != " Path=/a; Max-Age=3600; HttpOnly" || strings.Contains(set, "10.0") {
			t.Fatalf("%s %v %q", service, stays, set)
		}
		if _, _, set := ask(a, "sid=forged", true); !strings.HasSuffix(set, "; HttpOnly; Secure") {
			t.Errorf("over TLS: %q", set)
		}
		time.Sleep(time.Minute)
		if service, stays, set := ask(a, cookie, false); service != "v1" || !stays || set != "" {
			t.Errorf("after a minute: %s %v %q", service, stays, set)
		}
		other := *a
		other.Backends = []route.Backend{{Service: "v2", Weight: 1}, {Service: "v1"}}
		if service, stays, set := ask(&other, cookie, false); service != "v1" || !stays || set != "" {
			t.Errorf("with other weights: %s %v %q", service, stays, set)
		}
		other.Backends = other.Backends[:1]
		if service, stays, set := ask(&other, cookie, false); service != "v2" || stays || set == "" {
			t.Errorf("without its backend: %s %v %q", service, stays, set)
		}
		time.Sleep(5 * time.Minute)
		_, stays, set = ask(a, cookie, false)
		if !stays || set == "" {
			t.Fatalf("after six minutes: %v %q", stays, set)
		}
		time.Sleep(9 * time.Minute)
		if _, stays, _ := ask(a, cookie, false); stays {
			t.Error("it was not used for too long")
		}
		for range 5 {
			cookie, _, _ = strings.Cut(set, ";")
			if _, stays, set = ask(a, cookie, false); !stays || set == "" {
				t.Fatalf("%v %q", stays, set)
			}
			time.Sleep(9 * time.Minute)
		}
		cookie, _, _ = strings.Cut(set, ";")
		time.Sleep(time.Second)
		if _, stays, _ := ask(a, cookie, false); stays {
			t.Error("it is too old")
		}
	})
}
