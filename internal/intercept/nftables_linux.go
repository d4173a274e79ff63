package intercept

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// netlinkBuffer has room for a transaction of maxRules rules, and for the kernel's word on each of them (about 1 KiB a rule, both ways). With less of it the kernel takes a
// long list and its answer is lost.
const netlinkBuffer = 16 << 20

func dialNFTables() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(netlinkBuffer), c.SetWriteBuffer(netlinkBuffer))
	}))
}

// setTable exchanges the table of Tulle for one with chains, or, with none, removes it, in one transaction.
func setTable(chains []chain) error {
	c, err := dialNFTables()
	if err != nil {
		return err
	}
	t := &nftables.Table{Name: table, Family: nftables.TableFamilyINet}
	c.AddTable(t) // so that there is one to delete
	c.DelTable(t)
	if len(chains) > 0 {
		c.AddTable(t)
	}
	accept := nftables.ChainPolicyAccept
	for _, ch := range chains {
		base := &nftables.Chain{Name: ch.name, Table: t, Policy: &accept}
		base.Type, base.Hooknum, base.Priority = baseOf(ch.hook, ch.purpose)
		c.AddChain(base)
		for _, r := range ch.rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: base, Exprs: r.expressions()})
		}
	}
	return c.Flush()
}

// hasTable also tells whether the kernel speaks nftables at all.
func hasTable() (bool, error) {
	c, err := dialNFTables()
	if err != nil {
		return false, err
	}
	tables, err := c.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, err
	}
	for _, t := range tables {
		if t.Name == table {
			return true, nil
		}
	}
	return false, nil
}

func baseOf(h hook, p purpose) (nftables.ChainType, *nftables.ChainHook, *nftables.ChainPriority) {
	kind := map[purpose]nftables.ChainType{nat: nftables.ChainTypeNAT, hand: nftables.ChainTypeFilter, reroute: nftables.ChainTypeRoute}[p]
	priority := nftables.ChainPriorityMangle
	if p == nat {
		priority = nftables.ChainPriorityNATDest
	}
	if h == output {
		return kind, nftables.ChainHookOutput, priority
	}
	return kind, nftables.ChainHookPrerouting, priority
}

// reg is the one register that rules need.
const reg = unix.NFT_REG_1

func eq(data []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: data} }

func native32(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
func big16(v uint16) []byte    { return binary.BigEndian.AppendUint16(nil, v) }
func big32(v uint32) []byte    { return binary.BigEndian.AppendUint32(nil, v) }

// lo is the name as the kernel compares it.
var lo = append([]byte("lo"), make([]byte, unix.IFNAMSIZ-2)...)

// isTCP comes before what looks at ports.
func isTCP() []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg}, eq([]byte{unix.IPPROTO_TCP})}
}

// Flags of TCP (RFC 9293, section 3.1): of FIN, SYN, RST and ACK what opens a connection has SYN alone.
const (
	flagSYN     = 0x02
	flagsLooked = 0x01 | flagSYN | 0x04 | 0x10
)

// expressions is r as nft would have written it.
func (r rule) expressions() (out []expr.Any) {
	add := func(e ...expr.Any) { out = append(out, e...) }
	for i, t := range r.terms {
		switch t := t.(type) {
		case loopback:
			key := expr.MetaKeyIIFNAME
			if t.out {
				key = expr.MetaKeyOIFNAME
			}
			add(&expr.Meta{Key: key, Register: reg}, eq(lo))
		case owner:
			key := expr.MetaKeySKUID
			if t.group {
				key = expr.MetaKeySKGID
			}
			add(&expr.Meta{Key: key, Register: reg})
			if t.ids.First == t.ids.Last {
				add(eq(native32(t.ids.First)))
			} else {
				add(&expr.Byteorder{SourceRegister: reg, DestRegister: reg, Op: expr.ByteorderHton, Len: 4, Size: 4},
					&expr.Range{Op: expr.CmpOpEq, Register: reg, FromData: big32(t.ids.First), ToData: big32(t.ids.Last)})
			}
		case port:
			add(isTCP()...)
			add(&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2})
			if first, last := uint16(t.ports.First), uint16(t.ports.Last); first == last {
				add(eq(big16(first)))
			} else {
				add(&expr.Range{Op: expr.CmpOpEq, Register: reg, FromData: big16(first), ToData: big16(last)})
			}
		case address:
			add(t.expressions()...)
		case local:
			op := expr.CmpOpEq
			if t.not {
				op = expr.CmpOpNeq
			}
			add(&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagSADDR: t.source, FlagDADDR: !t.source},
				&expr.Cmp{Op: op, Register: reg, Data: native32(unix.RTN_LOCAL)})
		case taken:
			add(&expr.Socket{Key: expr.SocketKeyTransparent, Register: reg}, eq([]byte{1}))
		case reply:
			add(&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg}, eq([]byte{1}))
		case opens:
			if !ported(r.terms[:i]) { // which has looked
				add(isTCP()...)
			}
			add(&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
				&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 1, Mask: []byte{flagsLooked}, Xor: []byte{0}}, eq([]byte{flagSYN}))
		case ours:
			add(&expr.Ct{Key: expr.CtKeyMARK, Register: reg}, eq(native32(mark)))
		case tcp:
			add(isTCP()...)
		default:
			panic(fmt.Sprintf("intercept: no expression for %T", t))
		}
	}
	switch a := r.action.(type) {
	case leave:
		add(&expr.Verdict{Kind: expr.VerdictReturn})
	case redirect:
		const protoSpecified = 2 // NF_NAT_RANGE_PROTO_SPECIFIED
		add(&expr.Immediate{Register: reg, Data: big16(a.to)}, &expr.Redir{RegisterProtoMin: reg, Flags: protoSpecified})
	case tproxy:
		add(&expr.Immediate{Register: reg, Data: big16(a.to)}, &expr.TProxy{RegPort: reg}, &expr.Verdict{Kind: expr.VerdictAccept})
	case drop:
		add(&expr.Verdict{Kind: expr.VerdictDrop})
	case markConn:
		add(&expr.Immediate{Register: reg, Data: native32(mark)}, &expr.Ct{Key: expr.CtKeyMARK, Register: reg, SourceRegister: true})
	case markIt:
		add(&expr.Immediate{Register: reg, Data: native32(mark)}, &expr.Meta{Key: expr.MetaKeyMARK, Register: reg, SourceRegister: true})
	default:
		panic(fmt.Sprintf("intercept: no expression for %T", a))
	}
	return out
}

func (t address) expressions() []expr.Any {
	nfproto, load := byte(unix.NFPROTO_IPV4), expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
	if t.prefix.Addr().Is6() {
		nfproto, load.Offset, load.Len = unix.NFPROTO_IPV6, 24, 16
	}
	if t.source {
		load.Offset -= load.Len
	}
	out := []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg}, eq([]byte{nfproto}), &load}
	if !t.prefix.IsSingleIP() {
		out = append(out, &expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: load.Len, Mask: maskOf(t.prefix.Bits(), load.Len), Xor: make([]byte, load.Len)})
	}
	return append(out, eq(t.prefix.Addr().AsSlice()))
}

func maskOf(bits int, length uint32) []byte {
	m := make([]byte, length)
	for i := range bits {
		m[i/8] |= 0x80 >> (i % 8)
	}
	return m
}

// readTable is what is in the kernel, as text; "" when there is no table.
func readTable() (string, error) {
	there, err := hasTable()
	if err != nil || !there {
		return "", err
	}
	c, err := dialNFTables()
	if err != nil {
		return "", err
	}
	bases, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return "", err
	}
	var chains []chain
	for _, base := range bases {
		if base.Table.Name != table || base.Hooknum == nil {
			continue
		}
		ch := chain{name: base.Name, hook: prerouting, purpose: map[nftables.ChainType]purpose{
			nftables.ChainTypeNAT: nat, nftables.ChainTypeFilter: hand, nftables.ChainTypeRoute: reroute,
		}[base.Type]}
		if *base.Hooknum == *nftables.ChainHookOutput {
			ch.hook = output
		}
		if ch.rules, err = readRules(base.Name); err != nil {
			return "", fmt.Errorf("chain %s: %w", base.Name, err)
		}
		chains = append(chains, ch)
	}
	return tableText(chains), nil
}

// foreign is an expression that Tulle does not write.
type foreign string

func (f foreign) String() string { return "# " + string(f) + ", not written by Tulle" }

// decoder turns the expressions of one rule back into terms. It knows the forms that expressions writes, and no others.
type decoder struct {
	r      rule
	loaded any    // a term without its value, an action's number, or what is in the register
	value  []byte // an immediate one
	mask   []byte
}

func (d *decoder) term(t term) { d.r.terms = append(d.r.terms, t) }

// implied takes back a term that the next one says, too.
func (d *decoder) implied() {
	if n := len(d.r.terms); n > 0 && d.r.terms[n-1] == (tcp{}) {
		d.r.terms = d.r.terms[:n-1]
	}
}

type loadedMeta uint32

// compare ends a term.
func (d *decoder) compare(not bool, from, to []byte) (known bool) {
	ids := func() Range {
		if d.mask != nil || len(from) != 4 {
			return Range{}
		}
		if string(from) == string(to) {
			return one(binary.NativeEndian.Uint32(from))
		}
		return Range{binary.BigEndian.Uint32(from), binary.BigEndian.Uint32(to)}
	}
	switch l := d.loaded.(type) {
	case loadedMeta:
		switch uint32(l) {
		case unix.NFT_META_IIFNAME, unix.NFT_META_OIFNAME:
			d.term(loopback{out: uint32(l) == unix.NFT_META_OIFNAME})
		case unix.NFT_META_SKUID, unix.NFT_META_SKGID:
			d.term(owner{group: uint32(l) == unix.NFT_META_SKGID, ids: ids()})
		case unix.NFT_META_L4PROTO:
			d.term(tcp{})
		case unix.NFT_META_NFPROTO: // the address says it
		default:
			return false
		}
	case port:
		if len(from) != 2 || len(to) != 2 {
			return false
		}
		d.implied()
		d.term(port{Range{uint32(binary.BigEndian.Uint16(from)), uint32(binary.BigEndian.Uint16(to))}})
	case address:
		addr, ok := netip.AddrFromSlice(from)
		if !ok {
			return false
		}
		bits := addr.BitLen()
		if d.mask != nil {
			bits, _ = net.IPMask(d.mask).Size()
		}
		d.term(address{l.source, netip.PrefixFrom(addr, bits)})
	case local:
		d.term(local{l.source, not})
	case opens:
		if not || string(d.mask) != string([]byte{flagsLooked}) || string(from) != string([]byte{flagSYN}) {
			return false
		}
		d.implied()
		d.term(l)
	default:
		d.term(l)
	}
	d.loaded, d.mask = nil, nil
	return true
}
