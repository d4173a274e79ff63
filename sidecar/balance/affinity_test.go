package balance

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// asked is a Downstream with a head.
type asked struct {
	exchange.Downstream
	fields [][2]string
	query  string
}

func (a asked) Query() string { return a.query }

func (a asked) Field(name string, i int) (string, bool) {
	for _, f := range a.fields {
		if f[0] == name {
			if i == 0 {
				return f[1], true
			}
			i--
		}
	}
	return "", false
}

// The bytes that are hashed are part of the contract: another sidecar, or an Envoy, hashes the same.
func TestKeys(t *testing.T) {
	header := policy.AffinityKey{Kind: policy.AffinityHeader, Name: "x-user"}
	query := policy.AffinityKey{Kind: policy.AffinityQuery, Name: "user"}
	sid := policy.AffinityKey{Kind: policy.AffinityCookie, Name: "sid"}
	source := policy.AffinityKey{Kind: policy.AffinitySource}
	for _, tc := range []struct {
		keys []policy.AffinityKey
		a    asked
		peer string
		text string // "": no key
	}{
		{[]policy.AffinityKey{header}, asked{fields: [][2]string{{"x-user", "ann"}, {"x-user", "bob"}}}, "", "ann"},
		{[]policy.AffinityKey{header}, asked{fields: [][2]string{{"x-user", ""}}}, "", ""},
		{[]policy.AffinityKey{header, query}, asked{query: "users=x&user=a%20b&user=c"}, "", "a%20b"},
		{[]policy.AffinityKey{query}, asked{query: "user"}, "", ""},
		{[]policy.AffinityKey{sid}, asked{fields: [][2]string{{"cookie", "a=b"}, {"cookie", "xsid=1; sid=s=1;sid=2"}}}, "", "s=1"},
		{[]policy.AffinityKey{sid}, asked{fields: [][2]string{{"cookie", "a=sid; sid"}}}, "", ""},
		{[]policy.AffinityKey{sid, source}, asked{}, "10.0.0.5:999", "10.0.0.5"},
		{[]policy.AffinityKey{source}, asked{}, "[::ffff:10.0.0.5]:999", "10.0.0.5"},
		{[]policy.AffinityKey{source}, asked{}, "[fe80::1%eth0]:999", "fe80::1"},
		{[]policy.AffinityKey{source}, asked{}, "", ""},
	} {
		x := &exchange.Exchange{Downstream: tc.a}
		if tc.peer != "" {
			x.Peer = &exchange.Peer{Addr: netip.MustParseAddrPort(tc.peer)}
		}
		Keep(x, tc.keys)
		if want := xxhash.Sum64String(tc.text); x.Keyed != (tc.text != "") || x.Keyed && x.Key != want || x.SetCookie != "" {
			t.Errorf("%+v of %+v: keyed %v, key %x, want that of %q", tc.keys, tc.a, x.Keyed, x.Key, tc.text)
		}
	}
	if got := xxhash.Sum64String("a"); got != 0xd24ec4f1a98c6e5b { // of the reference implementation
		t.Errorf("xxHash64 of \"a\" is %x", got)
	}
}

func TestCookieIsMadeOnce(t *testing.T) {
	k := []policy.AffinityKey{{
		Kind: policy.AffinityCookie, Name: "sid", Generate: true, TTL: time.Minute, Path: "/a", Attributes: []policy.CookieAttribute{{Name: "SameSite", Value: "Strict"}, {Name: "Secure"}},
	}}
	x := &exchange.Exchange{Downstream: asked{fields: [][2]string{{"cookie", "sid="}}}}
	Keep(x, k)
	m := regexp.MustCompile(`^sid=([a-z0-9]{10,26}); Max-Age=60; Path=/a; SameSite=Strict; Secure; HttpOnly$`).FindStringSubmatch(x.SetCookie)
	if m == nil || !x.Keyed || x.Key != xxhash.Sum64String(m[1]) {
		t.Fatalf("Set-Cookie %q, key %x", x.SetCookie, x.Key)
	}
	back := &exchange.Exchange{Downstream: asked{fields: [][2]string{{"cookie", "a=b; " + strings.SplitN(x.SetCookie, ";", 2)[0]}}}}
	if Keep(back, k); back.Key != x.Key || back.SetCookie != "" {
		t.Errorf("the cookie that was set is not the key: %x, want %x", back.Key, x.Key)
	}
	plain := &exchange.Exchange{Downstream: asked{}}
	if Keep(plain, []policy.AffinityKey{{Kind: policy.AffinityCookie, Name: "s", Generate: true}}); !regexp.MustCompile(`^s=[a-z0-9]+; HttpOnly$`).MatchString(plain.SetCookie) {
		t.Errorf("Set-Cookie %q", plain.SetCookie)
	}
	bytes := &exchange.Exchange{} // a relay has no head
	if Keep(bytes, k); bytes.Keyed {
		t.Error("a relay has a key")
	}
}
