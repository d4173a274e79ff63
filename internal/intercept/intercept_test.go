package intercept

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write testdata instead of comparing with it")

// configs are by the name of their file in testdata.
func configs(t *testing.T) map[string]Config {
	t.Helper()
	cidrs := func(words ...string) []netip.Prefix {
		out, err := ParseCIDRs(words)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	pod := Config{OutboundPort: DefaultOutboundPort, InboundPort: DefaultInboundPort, SidecarUID: DefaultSidecarUID}
	full := pod
	full.InboundMode = TPROXY
	full.ExcludeUIDs, full.ExcludeGIDs = []Range{{5, 5}, {100, 200}}, []Range{{7, 7}, {70, 79}}
	full.ExcludeOutboundPorts, full.ExcludeInboundPorts = []Range{{25, 25}, {9000, 9100}}, []Range{{22, 22}, {2000, 2222}}
	full.ExcludeOutboundCIDRs = cidrs("10.0.0.0/8", "192.168.16.0/20", "169.254.169.254", "fd00::/8", "2001:db8::7")
	full.ExcludeInboundCIDRs = cidrs("172.16.0.0/12", "fe80::/10")
	host := pod
	host.OutboundUIDs, host.InboundPorts = []Range{{1000, 1000}, {2000, 2999}}, []Range{{8080, 8080}, {9000, 9009}}
	picked := full
	picked.InboundPorts = host.InboundPorts
	return map[string]Config{
		"pod": pod, "full": full, "host": host, "picked": picked,
		"outbound": {OutboundPort: 4140, SidecarUID: 2102}, "inbound": {InboundPort: 4143, InboundMode: TPROXY, SidecarUID: 2102},
	}
}

func TestText(t *testing.T) {
	for name, c := range configs(t) {
		t.Run(name, func(t *testing.T) {
			got := c.Text()
			for _, f := range families {
				got += "\n# iptables-restore, " + f.String() + "\n" + restoreText(f, nil, c.chains())
			}
			file := filepath.Join("testdata", name+".txt")
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v (write it with -rewrite)", err)
			}
			if got != string(want) {
				t.Errorf("%s differs (see it with -rewrite and git diff):\n%s", file, got)
			}
		})
	}
}

// What is there already is taken away in the same transaction that makes it anew, and what is not Tulle's is not touched.
func TestRestoreReplaces(t *testing.T) {
	saved := map[string]string{
		"nat": `*nat
:OUTPUT ACCEPT [0:0]
:DOCKER - [0:0]
:TULLE_OUTBOUND - [0:0]
:TULLE_INBOUND - [0:0]
-A OUTPUT -j DOCKER
-A OUTPUT -p tcp -j TULLE_OUTBOUND
-A OUTPUT -p tcp -j TULLE_OUTBOUND
-A PREROUTING -p tcp -j TULLE_INBOUND
-A DOCKER -m comment --comment "not -j TULLE_OUTBOUND" -j RETURN
-A TULLE_OUTBOUND -o lo -j RETURN
COMMIT
`,
	}
	want := `*nat
-D OUTPUT -p tcp -j TULLE_OUTBOUND
-D OUTPUT -p tcp -j TULLE_OUTBOUND
-D PREROUTING -p tcp -j TULLE_INBOUND
:TULLE_OUTBOUND - [0:0]
-F TULLE_INBOUND
-X TULLE_INBOUND
-A TULLE_OUTBOUND -o lo -j RETURN
-A TULLE_OUTBOUND -m owner --uid-owner 7 -j RETURN
-A TULLE_OUTBOUND -p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j REDIRECT --to-ports 4140
-A OUTPUT -p tcp -j TULLE_OUTBOUND
COMMIT
`
	if got := restoreText(ipv4, saved, Config{OutboundPort: 4140, SidecarUID: 7}.chains()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	removed := restoreText(ipv4, saved, nil)
	for _, line := range []string{"-X TULLE_OUTBOUND", "-X TULLE_INBOUND", "-D PREROUTING -p tcp -j TULLE_INBOUND"} {
		if !strings.Contains(removed, line+"\n") {
			t.Errorf("%q is missing in\n%s", line, removed)
		}
	}
	if strings.Contains(removed, "DOCKER") || strings.Contains(removed, "-A ") {
		t.Errorf("removal touches what is not Tulle's:\n%s", removed)
	}
	if got := restoreText(ipv6, map[string]string{"nat": "*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"}, nil); got != "" {
		t.Errorf("nothing to remove, but %q", got)
	}
}

func TestCheck(t *testing.T) {
	good := Config{OutboundPort: 15001, InboundPort: 15006, SidecarUID: 1337}
	for _, c := range []struct {
		change func(c *Config)
		want   string // part of the error; "" for none
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.InboundPort = 0 }, ""},
		{func(c *Config) { c.OutboundPort = 0 }, ""},
		{func(c *Config) { c.OutboundUIDs = []Range{{1000, 2000}} }, ""}, // the sidecar's own is left out by an earlier rule
		{func(c *Config) { c.Backend = "pf" }, "--backend"},
		{func(c *Config) { c.InboundMode = "divert" }, "--inbound-mode"},
		{func(c *Config) { c.InboundPort, c.OutboundPort = 0, 0 }, "nothing would be taken"},
		{func(c *Config) { c.InboundPort = 15001 }, "needs two"},
		{func(c *Config) { c.OutboundUIDs = []Range{{1337, 1337}} }, "never taken"},
	} {
		bad := good
		c.change(&bad)
		err := bad.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("Check(%+v) = %v, want %q", bad, err, c.want)
		}
	}
}

func TestParse(t *testing.T) {
	for word, want := range map[string]Range{"22": {22, 22}, "9000-9100": {9000, 9100}, "65535": {65535, 65535}} {
		if got, err := ParsePorts([]string{word}); err != nil || got[0] != want || got[0].String() != word {
			t.Errorf("ParsePorts(%q) = %v, %v", word, got, err)
		}
	}
	for _, word := range []string{"", "0", "65536", "9-8", "ssh", "1-", "-1", "1-2-3"} {
		if got, err := ParsePorts([]string{word}); err == nil {
			t.Errorf("ParsePorts(%q) = %v", word, got)
		}
	}
	if got, err := ParseIDs([]string{"0", "4294967294"}); err != nil || len(got) != 2 {
		t.Errorf("ParseIDs: %v, %v", got, err)
	}
	if _, err := ParseIDs([]string{"4294967295"}); err == nil {
		t.Error("4294967295 is no user")
	}
	for word, want := range map[string]string{"10.1.2.3/8": "10.0.0.0/8", "10.1.2.3": "10.1.2.3/32", "fd00::1": "fd00::1/128", "::/0": "::/0"} {
		if got, err := ParseCIDRs([]string{word}); err != nil || got[0].String() != want {
			t.Errorf("ParseCIDRs(%q) = %v, %v", word, got, err)
		}
	}
	for _, word := range []string{"", "10.0.0.0/33", "shop", "fe80::1%eth0", "::ffff:10.0.0.0/104"} {
		if got, err := ParseCIDRs([]string{word}); err == nil {
			t.Errorf("ParseCIDRs(%q) = %v", word, got)
		}
	}
}
