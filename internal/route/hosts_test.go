package route

import (
	"strings"
	"testing"
)

func TestHosts(t *testing.T) {
	var h Hosts[string]
	for _, p := range []string{"shop.example.com", "*.example.com", "*.eu.example.com", "localhost"} {
		if err := CheckHost(p); err != nil {
			t.Fatal(err)
		}
		if !h.Add(p, p) || h.Add(strings.ToUpper(p), "twice") {
			t.Fatalf("%s was not added exactly once", p)
		}
	}
	for host, want := range map[string]string{
		"shop.example.com": "shop.example.com", "SHOP.Example.COM": "shop.example.com", "shop.example.com.": "shop.example.com",
		"www.example.com": "*.example.com", "a.b.example.com": "*.example.com", "a.eu.example.com": "*.eu.example.com", "eu.example.com": "*.example.com",
		"x.shop.example.com": "*.example.com", "localhost": "localhost",
		"example.com": "", "badexample.com": "", ".example.com": "", "com": "", "": "", "example.com.evil": "",
	} {
		got, ok := h.Match(host)
		if got != want || ok != (want != "") {
			t.Errorf("Match(%q) = %q, %v; want %q", host, got, ok, want)
		}
	}
	if !h.Add("*", "*") || h.Add("*", "twice") {
		t.Error("* was not added exactly once")
	}
	for _, host := range []string{"", "example.com", "10.0.0.1"} {
		if got, ok := h.Match(host); got != "*" || !ok {
			t.Errorf("Match(%q) = %q, %v; want what * stands for", host, got, ok)
		}
	}
	var none *Hosts[string]
	if _, ok := none.Match("a"); ok || !none.Empty() || h.Empty() {
		t.Error("a nil Hosts must be empty")
	}
	if n := testing.AllocsPerRun(100, func() { h.Match("a.b.example.com") }); n != 0 {
		t.Errorf("Match allocates %v times, want 0", n)
	}
}

func TestHostname(t *testing.T) {
	for authority, want := range map[string]string{
		"a.example": "a.example", "a.example:80": "a.example", "[2001:db8::1]:80": "2001:db8::1", "[::1]": "::1", "10.0.0.1:80": "10.0.0.1", "": "", "a:": "a", "::1": "::1",
	} {
		if got := Hostname(authority); got != want {
			t.Errorf("Hostname(%q) = %q, want %q", authority, got, want)
		}
	}
}

func TestCheckHost(t *testing.T) {
	for _, ok := range []string{"*", "a", "a.b", "*.a", "my_service", "xn--bcher-kva.example", "10.0.0.1"} {
		if err := CheckHost(ok); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "*.", "**.a", "a.*", "-a", "a-", "a-.b", "a..b", ".a", "a.", "a b", "bücher.example", "a:80", "[::1]", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a"} {
		if CheckHost(bad) == nil {
			t.Errorf("%q was taken for a host name", bad)
		}
	}
}

func TestMatchByHost(t *testing.T) {
	hosted := WithHosts(Only("any", "fallback"), map[string]Table{
		"shop.example.com": prefixes(t, "web", "/api", "api"),
		"*.example.com":    Only("wild", "wild"),
	})
	for _, c := range []struct{ authority, path, service, route string }{
		{"shop.example.com", "/", "web", ""},
		{"shop.example.com:8443", "/api/x", "api", "api"},
		{"www.example.com", "/api", "wild", "wild"},
		{"www.example.com:443", "", "wild", "wild"}, // CONNECT
		{"other.example", "/", "fallback", "any"},
		{"", "/", "fallback", "any"},
	} {
		if got := hosted.Match(Head{Path: c.path, Authority: c.authority}); got.Service != c.service || got.Route != c.route {
			t.Errorf("Match(%q, %q) = %+v, want service %q by route %q", c.authority, c.path, got, c.service, c.route)
		}
	}
}

// FuzzHosts: whatever is asked for, what is found is filed under a pattern that stands for it.
func FuzzHosts(f *testing.F) {
	for _, s := range []string{"a.example.com", "example.com", "..", "*.example.com", "A.EXAMPLE.COM."} {
		f.Add(s)
	}
	var h Hosts[string]
	for _, p := range []string{"a.example.com", "*.example.com", "*.b.example.com"} {
		h.Add(p, p)
	}
	f.Fuzz(func(t *testing.T, host string) {
		got, ok := h.Match(host)
		name := strings.ToLower(strings.TrimSuffix(host, "."))
		want := ""
		switch {
		case name == "a.example.com":
			want = name
		case strings.HasSuffix(name, ".b.example.com"):
			want = "*.b.example.com"
		case strings.HasSuffix(name, ".example.com"):
			want = "*.example.com"
		}
		if want != "" && !ValidHost(name) { // what is no name may match or not; it must not match something else
			return
		}
		if got != want || ok != (want != "") {
			t.Fatalf("Match(%q) = %q, %v; want %q", host, got, ok, want)
		}
	})
}
