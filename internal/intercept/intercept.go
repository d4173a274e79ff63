// Package intercept installs, shows and removes the rules that send a network namespace's TCP through a sidecar's listeners.
//
// Config says what is to be taken; Config.Text is the rules as nft reads them, and needs no privilege. Install, Show and Remove talk to the kernel: nftables over netlink
// where the kernel has it, else iptables-restore and ip6tables-restore. Both get the same rules, made once in rules.go.
//
// What must stay true:
//  1. Everything installed is recognisable as Tulle's without a memory of its own: the table "inet tulle" of nftables, the chains TULLE_* of iptables, and of the
//     routing policy what carries the protocol number routeProtocol. So Remove removes it all, and nothing else, whoever installed it, whatever its Config was, and
//     however far it came.
//  2. A table of rules is exchanged in one transaction: no packet meets half of it, also when the process dies.
//  3. Installing twice is installing once; the later Config counts.
//
// Install, Show and Remove work on the network namespace of Config.Netns, or on that of the process. They are not for concurrent use on one namespace.
package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Mode is how inbound connections reach the sidecar.
type Mode string

const (
	// Redirect rewrites the destination to the sidecar's port; the sidecar learns the original one from the kernel (SO_ORIGINAL_DST).
	Redirect Mode = "redirect"
	// TPROXY hands connections over as they are: the sidecar's socket has the original destination for its local address. What the sidecar sends to its application from a
	// caller's address (IP_TRANSPARENT) is answered to the sidecar.
	TPROXY Mode = "tproxy"
)

// Backend is who carries the rules into the kernel.
type Backend string

const (
	Auto     Backend = "auto"     // nftables, or iptables where the kernel does not have it
	NFTables Backend = "nftables" // through netlink; Linux 5.2
	IPTables Backend = "iptables" // through iptables-restore and ip6tables-restore
)

// Defaults of Config, and the numbers that make rules Tulle's own.
const (
	DefaultOutboundPort = 15001
	DefaultInboundPort  = 15006
	DefaultAdminPort    = 15000
	DefaultSidecarUID   = 1337

	table         = "tulle"
	mark          = 0x74756c6c // "tull": of what is to be routed to the sidecar's sockets
	routeTable    = 15006
	routePriority = 15006 // behind "local" (0), before "main" (32766)
	routeProtocol = 116   // 't'; who made a rule or a route (rtnetlink(7))
)

// Range is a closed range of ports or of ids.
type Range struct{ First, Last uint32 }

// String is "22" or "9000-9100".
func (r Range) String() string {
	if r.First == r.Last {
		return strconv.FormatUint(uint64(r.First), 10)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// Config says what is taken. The zero value takes nothing.
type Config struct {
	Netns   string  // path of a network namespace, such as /var/run/netns/shop or /proc/7/ns/net; "": that of the process
	Backend Backend // "" means Auto

	OutboundPort uint16 // where the sidecar takes what goes out; 0: nothing is taken
	InboundPort  uint16 // where the sidecar takes what comes in; 0: nothing is taken
	InboundMode  Mode   // "" means Redirect

	SidecarUID uint32 // whose traffic is never taken, lest it come back for ever

	OutboundUIDs []Range // take only what processes with these effective user ids send; empty: of all
	InboundPorts []Range // take only what comes to these ports; empty: to all

	// What is left alone.
	ExcludeUIDs, ExcludeGIDs                  []Range
	ExcludeOutboundPorts, ExcludeInboundPorts []Range        // destination ports
	ExcludeOutboundCIDRs, ExcludeInboundCIDRs []netip.Prefix // destinations of what goes out, sources of what comes in
	stop                                      func(step string)
}

// WithDefaults fills in Backend and InboundMode.
func (c Config) WithDefaults() Config {
	if c.Backend == "" {
		c.Backend = Auto
	}
	if c.InboundMode == "" {
		c.InboundMode = Redirect
	}
	return c
}

// maxRules bounds the rules of all chains together.
const maxRules = 4096

// Check refuses what makes no sense. The error names the flag of `tulle intercept`.
func (c Config) Check() error {
	c = c.WithDefaults()
	if !slices.Contains([]Backend{Auto, NFTables, IPTables}, c.Backend) {
		return fmt.Errorf("--backend %q: must be auto, nftables or iptables", c.Backend)
	}
	if c.InboundMode != Redirect && c.InboundMode != TPROXY {
		return fmt.Errorf("--inbound-mode %q: must be redirect or tproxy", c.InboundMode)
	}
	if c.OutboundPort == 0 && c.InboundPort == 0 {
		return errors.New("--outbound-port and --inbound-port are both 0: nothing would be taken; to remove rules use --remove")
	}
	if c.OutboundPort == c.InboundPort {
		return fmt.Errorf("--inbound-port %d: is --outbound-port; the sidecar needs two", c.InboundPort)
	}
	rules := 0
	for _, ch := range c.chains() {
		rules += len(ch.rules)
	}
	if rules > maxRules {
		return fmt.Errorf("the lists of ports, CIDRs and ids make %d rules, at most %d are allowed: write ranges and wider prefixes (every connection looks at them in turn)", rules, maxRules)
	}
	for _, r := range c.OutboundUIDs {
		if r.First <= c.SidecarUID && c.SidecarUID <= r.Last && r.First == r.Last {
			return fmt.Errorf("--outbound-uids %s: is --sidecar-uid, which is never taken; give the application's", r)
		}
	}
	return nil
}

// ParsePorts reads "22" and "9000-9100"; each from 1 to 65535.
func ParsePorts(words []string) ([]Range, error) { return parseRanges(words, 1, 1<<16-1) }

// ParseIDs reads user or group ids, "1000" and "1000-1999".
func ParseIDs(words []string) ([]Range, error) { return parseRanges(words, 0, 1<<32-2) } // the last one means "unchanged" to chown(2)

func parseRanges(words []string, least, most uint64) ([]Range, error) {
	var out []Range
	for _, w := range words {
		first, last, ranged := strings.Cut(w, "-")
		if !ranged {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 32)
		b, errB := strconv.ParseUint(last, 10, 32)
		if errA != nil || errB != nil || a < least || b > most || a > b {
			return nil, fmt.Errorf("%q: must be a number or a range such as 9000-9100, from %d to %d", w, least, most)
		}
		out = append(out, Range{uint32(a), uint32(b)})
	}
	return out, nil
}

// ParseCIDRs reads "10.0.0.0/8", "fd00::/8", and single addresses.
func ParseCIDRs(words []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, w := range words {
		p, err := netip.ParsePrefix(w)
		if err != nil {
			a, err := netip.ParseAddr(w)
			if err != nil || a.Zone() != "" {
				return nil, fmt.Errorf("%q: must be an address or a prefix such as 10.0.0.0/8 or fd00::/8", w)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p.Addr().Is4In6() {
			return nil, fmt.Errorf("%q: write an IPv4 prefix as such", w)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// Installed is what there is in a network namespace.
type Installed struct {
	Backend Backend // "" when there is nothing
	Text    string  // the rules: as nft prints them, or as iptables-save does; then routing policy as ip(8) adds it
}

func (i Installed) String() string { return i.Text }
