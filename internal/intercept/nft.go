package intercept

import (
	"fmt"
	"strings"
)

// Text is the rules as `nft -f` reads them and `nft list table inet tulle` prints them, then, for TPROXY, the routing policy that ip(8) would be told, as comments.
func (c Config) Text() string {
	c = c.WithDefaults()
	return tableText(c.chains()) + c.routingText()
}

func tableText(chains []chain) string {
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n", table)
	for i, ch := range chains {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "\tchain %s {\n\t\t%s\n", ch.name, baseText(ch.hook, ch.purpose))
		for _, r := range ch.rules {
			fmt.Fprintf(&b, "\t\t%s\n", r)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

func baseText(h hook, p purpose) string {
	kind := map[purpose]string{nat: "nat", hand: "filter", reroute: "route"}[p]
	priority := "mangle"
	if p == nat {
		priority = "dstnat"
	}
	if h == output && p == nat {
		priority = "-100" // nft knows the name for prerouting only
	}
	return fmt.Sprintf("type %s hook %s priority %s; policy accept;", kind, h, priority)
}

func (h hook) String() string { return map[hook]string{output: "output", prerouting: "prerouting"}[h] }

func (r rule) String() string {
	words := make([]string, 0, len(r.terms)+1)
	for _, t := range r.terms {
		words = append(words, fmt.Sprint(t))
	}
	return strings.Join(append(words, fmt.Sprint(r.action)), " ")
}

func end(source bool) string {
	if source {
		return "saddr"
	}
	return "daddr"
}

func (t loopback) String() string {
	if t.out {
		return `oifname "lo"`
	}
	return `iifname "lo"`
}

func (t owner) String() string {
	if t.group {
		return "meta skgid " + t.ids.String()
	}
	return "meta skuid " + t.ids.String()
}

func (t port) String() string { return "tcp dport " + t.ports.String() }

func (t address) String() string {
	family := "ip "
	if t.prefix.Addr().Is6() {
		family = "ip6 "
	}
	text := t.prefix.String()
	if t.prefix.IsSingleIP() {
		text = t.prefix.Addr().String()
	}
	return family + end(t.source) + " " + text
}

func (t local) String() string {
	if t.not {
		return "fib " + end(t.source) + " type != local"
	}
	return "fib " + end(t.source) + " type local"
}

func (taken) String() string { return "socket transparent 1" }
func (reply) String() string { return "ct direction reply" }
func (opens) String() string { return "tcp flags & (fin | syn | rst | ack) == syn" }
func (ours) String() string  { return fmt.Sprintf("ct mark 0x%08x", mark) }
func (tcp) String() string   { return "meta l4proto tcp" }

func (leave) String() string      { return "return" }
func (a redirect) String() string { return fmt.Sprintf("redirect to :%d", a.to) }
func (a tproxy) String() string   { return fmt.Sprintf("tproxy to :%d accept", a.to) }
func (drop) String() string       { return "drop" }
func (markConn) String() string   { return fmt.Sprintf("ct mark set 0x%08x", mark) }
func (markIt) String() string     { return fmt.Sprintf("meta mark set 0x%08x", mark) }

func (c Config) routingText() string {
	if !c.routed() {
		return ""
	}
	return "# " + strings.Join(routingLines(true, true), "\n# ") + "\n"
}

// routingLines are what ip(8) would be told.
func routingLines(v4, v6 bool) []string {
	var out []string
	add := func(flag string) {
		out = append(out,
			fmt.Sprintf("ip %s rule add fwmark 0x%08x table %d priority %d protocol %d", flag, mark, routeTable, routePriority, routeProtocol),
			fmt.Sprintf("ip %s route add local default dev lo table %d protocol %d", flag, routeTable, routeProtocol))
	}
	if v4 {
		add("-4")
	}
	if v6 {
		add("-6")
	}
	return out
}
