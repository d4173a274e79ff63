package intercept

import (
	"encoding/binary"
	"errors"

	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// readRules reads the rules of a chain of Tulle's table. The library reads rules too, but not ones with tproxy (it takes the family, 32 bits, for 8).
func readRules(chain string) ([]rule, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close() //nolint:errcheck // nothing is written
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: append([]byte(table), 0)},
		{Type: unix.NFTA_RULE_CHAIN, Data: append([]byte(chain), 0)},
	})
	if err != nil {
		return nil, err
	}
	messages, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		return nil, err
	}
	var out []rule
	for _, m := range messages {
		if len(m.Data) < 4 {
			return nil, errors.New("a message of the kernel is too short")
		}
		r, err := decodeRule(m.Data[4:])
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func decodeRule(b []byte) (rule, error) {
	var d decoder
	top, err := attributes(b)
	if err != nil {
		return rule{}, err
	}
	ad, err := netlink.NewAttributeDecoder(top[unix.NFTA_RULE_EXPRESSIONS])
	if err != nil {
		return rule{}, err
	}
	for ad.Next() {
		e, err := attributes(ad.Bytes())
		if err != nil {
			return rule{}, err
		}
		name := string(e[unix.NFTA_EXPR_NAME])
		if n := len(name); n > 0 && name[n-1] == 0 {
			name = name[:n-1]
		}
		data, err := attributes(e[unix.NFTA_EXPR_DATA])
		if err != nil {
			return rule{}, err
		}
		if !d.expression(name, data) {
			d.r.action = foreign(name)
			return d.r, nil
		}
	}
	return d.r, ad.Err()
}

// attributes of one level, by type.
func attributes(b []byte) (map[uint16][]byte, error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return nil, err
	}
	out := map[uint16][]byte{}
	for ad.Next() {
		out[ad.Type()] = ad.Bytes()
	}
	return out, ad.Err()
}

func number(b []byte) uint32 {
	if len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

// value is the nested NFTA_DATA_VALUE.
func value(b []byte) []byte {
	a, err := attributes(b)
	if err != nil {
		return nil
	}
	return a[unix.NFTA_DATA_VALUE]
}

// expression takes the next expression of a rule; false for one that Tulle does not write.
func (d *decoder) expression(name string, a map[uint16][]byte) (known bool) {
	switch name {
	case "meta":
		if a[unix.NFTA_META_SREG] != nil {
			d.r.action = markIt{}
			return true
		}
		d.loaded = loadedMeta(number(a[unix.NFTA_META_KEY]))
	case "payload":
		at := [3]uint32{number(a[unix.NFTA_PAYLOAD_BASE]), number(a[unix.NFTA_PAYLOAD_OFFSET]), number(a[unix.NFTA_PAYLOAD_LEN])}
		switch at {
		case [3]uint32{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2}:
			d.loaded = port{}
		case [3]uint32{unix.NFT_PAYLOAD_TRANSPORT_HEADER, 13, 1}:
			d.loaded = opens{}
		case [3]uint32{unix.NFT_PAYLOAD_NETWORK_HEADER, 12, 4}, [3]uint32{unix.NFT_PAYLOAD_NETWORK_HEADER, 8, 16}:
			d.loaded = address{source: true}
		case [3]uint32{unix.NFT_PAYLOAD_NETWORK_HEADER, 16, 4}, [3]uint32{unix.NFT_PAYLOAD_NETWORK_HEADER, 24, 16}:
			d.loaded = address{}
		default:
			return false
		}
	case "bitwise":
		d.mask = value(a[unix.NFTA_BITWISE_MASK])
	case "byteorder": // before a range of ids
	case "fib":
		d.loaded = local{source: number(a[unix.NFTA_FIB_FLAGS])&unix.NFTA_FIB_F_SADDR != 0}
	case "socket":
		d.loaded = taken{}
	case "ct":
		if a[unix.NFTA_CT_SREG] != nil {
			d.r.action = markConn{}
			return true
		}
		switch number(a[unix.NFTA_CT_KEY]) {
		case unix.NFT_CT_DIRECTION:
			d.loaded = reply{}
		case unix.NFT_CT_MARK:
			d.loaded = ours{}
		default:
			return false
		}
	case "cmp":
		v := value(a[unix.NFTA_CMP_DATA])
		return d.compare(number(a[unix.NFTA_CMP_OP]) == unix.NFT_CMP_NEQ, v, v)
	case "range":
		return d.compare(false, value(a[unix.NFTA_RANGE_FROM_DATA]), value(a[unix.NFTA_RANGE_TO_DATA]))
	case "immediate":
		return d.immediate(a)
	case "redir", "tproxy":
		if len(d.value) != 2 {
			return false
		}
		to := binary.BigEndian.Uint16(d.value)
		if d.r.action = action(redirect{to}); name == "tproxy" {
			d.r.action = tproxy{to}
		}
	default:
		return false
	}
	return true
}

// immediate is a value for what follows, or a verdict.
func (d *decoder) immediate(a map[uint16][]byte) (known bool) {
	data, err := attributes(a[unix.NFTA_IMMEDIATE_DATA])
	if err != nil {
		return false
	}
	if v := data[unix.NFTA_DATA_VALUE]; v != nil {
		d.value = v
		return true
	}
	verdict, err := attributes(data[unix.NFTA_DATA_VERDICT])
	if err != nil {
		return false
	}
	switch kind := expr.VerdictKind(int32(number(verdict[unix.NFTA_VERDICT_CODE]))); kind {
	case expr.VerdictReturn:
		d.r.action = leave{}
	case expr.VerdictDrop:
		d.r.action = drop{}
	case expr.VerdictAccept:
		_, ok := d.r.action.(tproxy)
		return ok
	default:
		return false
	}
	return true
}
