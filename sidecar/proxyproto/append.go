package proxyproto

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"strconv"
)

// Append appends h in its Version. Of ends of two families the one of IPv4 is mapped into IPv6. What version 1 has no place for is left out, and so are
// a unique id that is too long and the rest of a text beyond 255 bytes.
func (h *Header) Append(dst []byte) []byte {
	from, to := h.Source, h.Destination
	known := from.IsValid() && to.IsValid() && !h.Local
	four := known && from.Addr().Unmap().Is4() && to.Addr().Unmap().Is4()
	if h.Version == 1 {
		switch {
		case !known:
			return append(dst, "PROXY UNKNOWN\r\n"...)
		case four:
			dst = append(dst, "PROXY TCP4 "...)
		default:
			dst = append(dst, "PROXY TCP6 "...)
		}
		dst = append(appendAddr(dst, from.Addr(), four), ' ')
		dst = append(appendAddr(dst, to.Addr(), four), ' ')
		dst = append(strconv.AppendUint(dst, uint64(from.Port()), 10), ' ')
		return append(strconv.AppendUint(dst, uint64(to.Port()), 10), '\r', '\n')
	}
	begin := len(dst)
	dst = append(dst, signatureV2...)
	switch {
	case h.Local:
		return append(dst, commandLocal, 0, 0, 0)
	case !known:
		dst = append(dst, commandProxy, 0, 0, 0)
	case four:
		a, b := from.Addr().Unmap().As4(), to.Addr().Unmap().As4()
		dst = append(append(append(dst, commandProxy, familyInet<<4|1, 0, 0), a[:]...), b[:]...)
	default:
		a, b := from.Addr().As16(), to.Addr().As16()
		dst = append(append(append(dst, commandProxy, familyInet6<<4|1, 0, 0), a[:]...), b[:]...)
	}
	if known {
		dst = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(dst, from.Port()), to.Port())
	}
	dst = appendText(dst, typeAuthority, h.Authority)
	if len(h.UniqueID) <= maxID {
		dst = appendText(dst, typeUniqueID, string(h.UniqueID))
	}
	if t := h.TLS; t != nil {
		at := len(dst)
		dst = append(dst, typeSSL, 0, 0)
		if t.Verified {
			dst = append(dst, clientSSL|clientConn|clientSess, 0, 0, 0, 0)
		} else {
			dst = append(dst, clientSSL, 0, 0, 0, 1)
		}
		dst = appendText(dst, typeSSLVer, t.Version)
		dst = appendText(dst, typeSSLCN, t.CN)
		dst = appendText(dst, typeSSLCipher, t.Cipher)
		binary.BigEndian.PutUint16(dst[at+1:], uint16(len(dst)-at-3)) //nolint:gosec // at most 4 texts
	}
	dst = append(dst, typeCRC32C, 0, 4, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(dst[begin+14:], uint16(len(dst)-begin-prefixV2)) //nolint:gosec // likewise
	binary.BigEndian.PutUint32(dst[len(dst)-4:], crc32.Checksum(dst[begin:], castagnoli))
	return dst
}

func appendAddr(dst []byte, a netip.Addr, four bool) []byte {
	if four {
		return a.Unmap().AppendTo(dst)
	}
	return netip.AddrFrom16(a.As16()).AppendTo(dst)
}

func appendText(dst []byte, kind byte, text string) []byte {
	if text == "" {
		return dst
	}
	text = text[:min(len(text), longest)]
	return append(append(dst, kind, 0, byte(len(text))), text...)
}
