package filter

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
)

// A bucket lets a burst pass and then as many as come in; a caller is told when to come again, and by which limit.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &route.Action{Limits: []route.RateLimit{{Name: "slow", Requests: 2, Per: 10 * time.Second, Burst: 3}}}
		f := New(nil)
		for i, c := range []struct {
			wait  time.Duration
			on    bool
			after string
		}{
			{0, true, ""},
			{0, true, ""},
			{0, true, ""},
			{0, false, "5"},
			{4 * time.Second, false, "1"},
			{time.Second, true, ""},
			{0, false, "5"},
			{time.Hour, true, ""},
			{0, true, ""},
			{0, true, ""},
			{0, false, "5"},
		} {
			time.Sleep(c.wait)
			x := asking(a, nil)
			on := passes(f, x)
			if on != c.on || !on && (x.Outcome.Reason != flow.ReasonRateLimited || x.Outcome.Detail != "limit slow: 2 in 10s" || len(x.Answer) != 1 || x.Answer[0].Value != c.after) {
				t.Errorf("%d: %v %+v %+v", i, on, x.Outcome, x.Answer)
			}
		}
	})
}

// Each key has a bucket; what one limit refuses costs nothing of another one.
func TestLimitKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &route.Action{Limits: []route.RateLimit{
			{Name: "all", Requests: 5, Per: time.Hour},
			{Name: "user", Requests: 1, Per: time.Hour, Keys: []route.Key{{Kind: route.KeyHeader, Name: "x-user"}, {Kind: route.KeyMethod}, {Kind: route.KeyConstant, Value: "c"}}},
			{Name: "source", Requests: 3, Per: time.Hour, Keys: []route.Key{{Kind: route.KeySource}, {Kind: route.KeyIdentity}, {Kind: route.KeyPath}}},
		}}
		f := New(nil)
		ask := func(user, method, source, forwarded, service, path string) bool {
			c := &caller{}
			if user != "" {
				c.fields = map[string][]string{"x-user": {user}}
			}
			x := asking(a, c)
			x.Head.Method, x.Head.Path, x.Peer.Service = method, path, service
			x.Peer.Addr = netip.MustParseAddrPort(source)
			x.Forwarded = []byte(forwarded)
			return passes(f, x)
		}
		for i, c := range []struct {
			user, method, source, forwarded, service, path string
			on                                             bool
		}{
			{"ann", "GET", "10.0.0.1:1", "", "web", "/", true},
			{"ann", "GET", "10.0.0.1:1", "", "web", "/", false}, // user, and all is given back
			{"ann", "GET", "10.0.0.1:2", "", "web", "/", false},
			{"ann", "PUT", "10.0.0.1:2", "", "web", "/", true},
			{"", "GET", "10.0.0.1:3", "", "web", "/", true},               // no user: not limited by it
			{"bob", "GET", "10.0.0.1:3", "", "web", "/", false},           // source, and bob's is given back
			{"bob", "GET", "10.0.0.9:3", "10.0.0.2, x", "web", "/", true}, // who is behind a proxy
			{"", "GET", "10.0.0.2:9", "", "shop", "/", true},
			{"", "GET", "10.0.0.3:9", "", "shop", "/", false}, // all
		} {
			if on := ask(c.user, c.method, c.source, c.forwarded, c.service, c.path); on != c.on {
				t.Errorf("%d: %+v went on: %v", i, c, on)
			}
		}
	})
}

// The rules of a service share a limit that is said of all of them; those of another one, and other numbers, have their own.
func TestLimitIsOfTheService(t *testing.T) {
	f := New(nil)
	ask := func(called, rule string, requests uint32) bool {
		x := asking(&route.Action{Limits: []route.RateLimit{{Name: "all", Requests: requests, Per: time.Hour}}}, nil)
		x.Decision.Called, x.Decision.Route = called, rule
		return passes(f, x)
	}
	for i, c := range []struct {
		called, rule string
		requests     uint32
		on           bool
	}{
		{"shop", "a", 2, true},
		{"shop", "b", 2, true},
		{"shop", "a", 2, false},
		{"shop", "b", 2, false},
		{"cart", "a", 2, true},
		{"shop", "a", 3, true},
		{"", "a", 1, true},
		{"", "a", 1, false},
		{"", "b", 1, true},
	} {
		if on := ask(c.called, c.rule, c.requests); on != c.on {
			t.Errorf("%d: %+v: %v", i, c, on)
		}
	}
}

// Buckets are as good as a naive model with one number for each key, and no more than there may be.
func TestBucketsAgainstModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 29))
		b := newBuckets()
		l := &route.RateLimit{Name: "m", Requests: 4, Per: time.Second, Burst: 6, Keys: []route.Key{{Kind: route.KeyHeader, Name: "k"}}}
		tokens, last := map[string]float64{}, map[string]time.Time{}
		for range 20_000 {
			time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond)
			name := fmt.Sprint(r.IntN(5))
			now := time.Now()
			if _, ok := tokens[name]; !ok {
				tokens[name], last[name] = 6, now
			}
			tokens[name] = min(6, tokens[name]+4*now.Sub(last[name]).Seconds())
			last[name] = now
			k, _ := b.key(asking(nil, &caller{fields: map[string][]string{"k": {name}}}), l)
			passed := b.take(k, l, now) <= 0
			if want := tokens[name] >= 1-1e-9; passed != want {
				t.Fatalf("%s has %f tokens, passed %v", name, tokens[name], passed)
			}
			if passed {
				tokens[name]--
			}
		}
		for i := range 3 * maxBuckets {
			k, _ := b.key(asking(nil, &caller{fields: map[string][]string{"k": {fmt.Sprint("n", i)}}}), l)
			b.take(k, l, time.Now())
		}
		n := 0
		for i := range b.shards {
			n += len(b.shards[i].m)
		}
		if n > maxBuckets || n < maxBuckets/2 {
			t.Errorf("%d buckets, at most %d", n, maxBuckets)
		}
	})
}

func BenchmarkLimit(b *testing.B) {
	f := New(nil)
	x := asking(&route.Action{Limits: []route.RateLimit{{Name: "user", Requests: 1 << 30, Per: time.Second, Keys: []route.Key{{Kind: route.KeyHeader, Name: "x-user"}}}}},
		&caller{fields: map[string][]string{"x-user": {"ann"}}})
	b.ReportAllocs()
	for b.Loop() {
		if !f.limits(x) {
			b.Fatal(x.Outcome.Detail)
		}
	}
}
