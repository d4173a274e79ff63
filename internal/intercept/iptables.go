package intercept

import (
	"fmt"
	"slices"
	"strings"
)

// family is IPv4 or IPv6.
type family uint8

const (
	ipv4 family = 4
	ipv6 family = 6
)

var families = []family{ipv4, ipv6}

func (f family) String() string { return fmt.Sprintf("IPv%d", uint8(f)) }

// iptablesTables are where chains of Tulle may be.
var iptablesTables = []string{"nat", "mangle"}

// iptablesNames are all chains that any Config makes, by table.
var iptablesNames = map[string][]string{"nat": {"TULLE_OUTBOUND", "TULLE_INBOUND"}, "mangle": {"TULLE_TPROXY", "TULLE_ANSWERS"}}

func (ch chain) iptablesTable() string {
	if ch.purpose == nat {
		return "nat"
	}
	return "mangle"
}

// restoreText is what iptables-restore --noflush is told: in each table that saved (the text of iptables-save, by table) or chains have a part in, jumps to chains of Tulle and the chains
// themselves are removed, then those of chains are made, in one transaction per table. "" when nothing is to be done.
func restoreText(f family, saved map[string]string, chains []chain) string {
	var b strings.Builder
	for _, t := range iptablesTables {
		var lines, made []string
		for _, ch := range chains {
			if ch.iptablesTable() == t {
				made = append(made, ch.iptables)
			}
		}
		jumps, there := ofTulle(saved[t], t)
		for _, j := range jumps {
			lines = append(lines, "-D"+strings.TrimPrefix(j, "-A"))
		}
		for _, name := range made { // also empties one that is there
			lines = append(lines, ":"+name+" - [0:0]")
		}
		for _, name := range there {
			if !slices.Contains(made, name) {
				lines = append(lines, "-F "+name, "-X "+name)
			}
		}
		for _, ch := range chains {
			if ch.iptablesTable() != t {
				continue
			}
			for _, r := range ch.rules {
				if words, ok := r.iptables(f); ok {
					lines = append(lines, "-A "+ch.iptables+words)
				}
			}
			lines = append(lines, fmt.Sprintf("-A %s -p tcp -j %s", strings.ToUpper(ch.hook.String()), ch.iptables))
		}
		if len(lines) > 0 {
			fmt.Fprintf(&b, "*%s\n%s\nCOMMIT\n", t, strings.Join(lines, "\n"))
		}
	}
	return b.String()
}

// ofTulle finds in the text of iptables-save the rules of other chains that jump to one of Tulle, and which of Tulle's there are.
func ofTulle(saved, table string) (jumps, names []string) {
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		for _, name := range iptablesNames[table] {
			switch {
			case strings.HasPrefix(line, ":"+name+" "):
				names = append(names, name)
			case strings.HasPrefix(line, "-A ") && !strings.HasPrefix(line, "-A TULLE_") && strings.HasSuffix(line, " -j "+name):
				jumps = append(jumps, line)
			}
		}
	}
	return jumps, names
}

// iptables is r after "-A CHAIN"; false where the family has no such thing.
func (r rule) iptables(f family) (string, bool) {
	var b strings.Builder
	terms := r.terms
	if _, ok := r.action.(tproxy); ok { // TPROXY drops what has no listener, and that would be the packets of connections that were open before
		terms = append(slices.DeleteFunc(slices.Clone(terms), func(t term) bool { return t == term(tcp{}) }), opens{})
	}
	for i, t := range terms {
		switch t := t.(type) {
		case loopback:
			if t.out {
				b.WriteString(" -o lo")
			} else {
				b.WriteString(" -i lo")
			}
		case owner:
			flag := "--uid-owner"
			if t.group {
				flag = "--gid-owner"
			}
			fmt.Fprintf(&b, " -m owner %s %s", flag, t.ids)
		case port:
			fmt.Fprintf(&b, " -p tcp -m tcp --dport %s", strings.Replace(t.ports.String(), "-", ":", 1))
		case address:
			if t.prefix.Addr().Is6() != (f == ipv6) {
				return "", false
			}
			if t.source {
				fmt.Fprintf(&b, " -s %s", t.prefix)
			} else {
				fmt.Fprintf(&b, " -d %s", t.prefix)
			}
		case local:
			not, flag := "", "--dst-type"
			if t.not {
				not = "! "
			}
			if t.source {
				flag = "--src-type"
			}
			fmt.Fprintf(&b, " -m addrtype %s%s LOCAL", not, flag)
		case taken:
			b.WriteString(" -m socket --transparent")
		case reply:
			b.WriteString(" -m conntrack --ctdir REPLY")
		case opens:
			if !ported(terms[:i]) {
				b.WriteString(" -p tcp -m tcp")
			}
			b.WriteString(" --tcp-flags FIN,SYN,RST,ACK SYN")
		case ours:
			fmt.Fprintf(&b, " -m connmark --mark 0x%x", mark)
		case tcp:
			b.WriteString(" -p tcp")
		default:
			panic(fmt.Sprintf("intercept: no iptables words for %T", t))
		}
	}
	switch a := r.action.(type) {
	case leave:
		b.WriteString(" -j RETURN")
	case redirect:
		fmt.Fprintf(&b, " -j REDIRECT --to-ports %d", a.to)
	case tproxy:
		fmt.Fprintf(&b, " -j TPROXY --on-port %d --tproxy-mark 0x0/0x0", a.to)
	case drop:
		return "", false // TPROXY does it
	case markConn:
		fmt.Fprintf(&b, " -j CONNMARK --set-mark 0x%x", mark)
	case markIt:
		fmt.Fprintf(&b, " -j MARK --set-mark 0x%x", mark)
	default:
		panic(fmt.Sprintf("intercept: no iptables words for %T", a))
	}
	return b.String(), true
}
