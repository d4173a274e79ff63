package intercept

import (
	"net/netip"
	"slices"
)

// A chain is a list of rules at a hook. Of a packet the first rule that matches counts; what no rule matches is left alone.
type chain struct {
	name     string
	hook     hook
	purpose  purpose
	iptables string // its name there
	rules    []rule
}

type hook uint8

const (
	output     hook = iota + 1 // what local processes send
	prerouting                 // what arrives
)

// purpose is the kind of a base chain, and with it the priority.
type purpose uint8

const (
	nat     purpose = iota + 1 // destinations are rewritten; sees the first packet that conntrack meets of a connection, which need not be its first
	hand                       // packets are handed to sockets; sees every packet
	reroute                    // a new mark makes a new route; sees every packet
)

// rule: what all terms hold for is done to.
type rule struct {
	terms  []term
	action action
}

// Terms and actions. Each is written in nft's words (nft.go), as expressions (nftables_linux.go) and in iptables' words (iptables.go).
type (
	term   any
	action any

	loopback struct{ out bool } // comes from or goes to this host itself
	owner    struct {           // effective user or group id of the sender
		group bool
		ids   Range
	}
	port    struct{ ports Range } // destination
	address struct {              // source, else destination
		source bool
		prefix netip.Prefix
	}
	local struct{ source, not bool } // source, else destination, is an address of this host
	taken struct{}                   // there is a transparent socket for it: the sidecar's
	reply struct{}                   // against the direction in which the connection was opened
	opens struct{}                   // opens a connection: a SYN. Conntrack's "new" is not that: of what was open before it the next packet is new, too
	ours  struct{}                   // the connection bears the mark
	tcp   struct{}

	leave    struct{}            // left alone
	redirect struct{ to uint16 } // of nat
	tproxy   struct{ to uint16 } // of hand; goes on when nobody listens
	drop     struct{}            // nobody listens
	markConn struct{}            // the connection gets the mark
	markIt   struct{}            // the packet gets the mark
)

// ported reports whether the last of terms is one of a port: the packet is TCP then.
func ported(terms []term) bool {
	if len(terms) == 0 {
		return false
	}
	_, ok := terms[len(terms)-1].(port)
	return ok
}

// chains are the rules of c. TCP only.
func (c Config) chains() []chain {
	var out []chain
	if c.OutboundPort != 0 {
		out = append(out, chain{name: "outbound", hook: output, purpose: nat, iptables: "TULLE_OUTBOUND", rules: c.outbound()})
	}
	if c.InboundPort == 0 {
		return out
	}
	if c.InboundMode != TPROXY {
		return append(out, chain{name: "inbound", hook: prerouting, purpose: nat, iptables: "TULLE_INBOUND", rules: c.inbound()})
	}
	return append(out,
		chain{name: "inbound", hook: prerouting, purpose: hand, iptables: "TULLE_TPROXY", rules: c.inbound()},
		chain{name: "answers", hook: output, purpose: reroute, iptables: "TULLE_ANSWERS", rules: c.answers()})
}

func one(n uint32) Range { return Range{n, n} }

// linkLocal is RFC 4291, section 2.5.6.
var linkLocal = netip.MustParsePrefix("fe80::/10")

func (c Config) outbound() (out []rule) {
	pass := func(t term) { out = append(out, rule{[]term{t}, leave{}}) }
	pass(loopback{out: true})
	pass(owner{ids: one(c.SidecarUID)})
	pass(address{prefix: linkLocal}) // says nothing without the interface, which the sidecar is not told
	for _, r := range c.ExcludeUIDs {
		pass(owner{ids: r})
	}
	for _, r := range c.ExcludeGIDs {
		pass(owner{group: true, ids: r})
	}
	for _, p := range c.ExcludeOutboundCIDRs {
		pass(address{prefix: p})
	}
	for _, r := range c.ExcludeOutboundPorts {
		pass(port{r})
	}
	if len(c.OutboundUIDs) == 0 {
		return append(out, rule{[]term{opens{}}, redirect{c.OutboundPort}})
	}
	for _, r := range c.OutboundUIDs {
		out = append(out, rule{[]term{owner{ids: r}, opens{}}, redirect{c.OutboundPort}})
	}
	return out
}

func (c Config) inbound() (out []rule) {
	pass := func(t term) { out = append(out, rule{[]term{t}, leave{}}) }
	pass(loopback{})
	if c.InboundMode == TPROXY {
		pass(taken{}) // most packets end here
	}
	pass(local{not: true}) // a host that forwards for others leaves theirs alone
	pass(port{one(uint32(c.InboundPort))})
	if c.OutboundPort != 0 {
		pass(port{one(uint32(c.OutboundPort))})
	}
	for _, p := range c.ExcludeInboundCIDRs {
		pass(address{source: true, prefix: p})
	}
	for _, r := range c.ExcludeInboundPorts {
		pass(port{r})
	}
	take := func(t ...term) {
		opening := append(slices.Clone(t), opens{})
		if c.InboundMode != TPROXY {
			out = append(out, rule{opening, redirect{c.InboundPort}})
			return
		}
		// Without a sidecar nothing may reach the application that a sidecar would have refused. Connections that were open before stay as they are.
		if len(t) == 0 {
			t = []term{tcp{}}
		}
		out = append(out, rule{t, tproxy{c.InboundPort}}, rule{opening, drop{}})
	}
	if len(c.InboundPorts) == 0 {
		take()
	}
	for _, r := range c.InboundPorts {
		take(port{r})
	}
	return out
}

// answers brings what the application answers to its callers back to the sidecar where the sidecar has spoken in their name: such a connection is one that
// the sidecar opened from an address that is not this host's.
func (c Config) answers() []rule {
	return []rule{
		{[]term{owner{ids: one(c.SidecarUID)}, local{source: true, not: true}}, markConn{}},
		{[]term{reply{}, ours{}}, markIt{}},
	}
}

// routed reports whether the rules mark packets, which then need routing policy.
func (c Config) routed() bool { return c.InboundPort != 0 && c.InboundMode == TPROXY }
