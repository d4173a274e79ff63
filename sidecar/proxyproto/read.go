package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// ErrHeader is what every error of Read is but those of the connection itself: what came is no header, or not a valid one.
var ErrHeader = errors.New("not a PROXY protocol header")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrHeader, fmt.Sprintf(format, args...))
}

// Read reads one header, of either version, from a connection and not one byte of what follows it. It gives up with the first byte that cannot be of one. The
// caller bounds its time, by a deadline of the connection.
func Read(r io.Reader) (Header, error) {
	var first [prefixV2]byte
	n, err := gather(r, first[:], 0, minV1)
	if err != nil {
		return Header{}, err
	}
	if string(first[:len(signatureV1)]) == signatureV1 {
		return readV1(r, first[:n])
	}
	if _, err := gather(r, first[:], n, prefixV2); err != nil {
		return Header{}, err
	}
	size := int(binary.BigEndian.Uint16(first[14:]))
	switch command, family := first[12], first[13]; {
	case command>>4 != 2:
		return Header{}, bad("version %d; 1 and 2 are known", command>>4)
	case command != commandLocal && command != commandProxy:
		return Header{}, bad("command %d; LOCAL (0) and PROXY (1) are known", command&15)
	case family>>4 > familyUnix || family&15 > 2:
		return Header{}, bad("address family and protocol %#02x are not defined", family)
	case size > maxV2:
		return Header{}, bad("it has %d bytes; at most %d are taken", size, maxV2)
	}
	rest := make([]byte, size)
	if _, err := io.ReadFull(r, rest); err != nil {
		return Header{}, cut(err)
	}
	return parseV2(first[:], rest)
}

// gather reads into b, of which n bytes are there, until there are want.
func gather(r io.Reader, b []byte, n, want int) (int, error) {
	for n < want {
		m, err := r.Read(b[n:want])
		n += m
		if !begins(b[:n], signatureV1) && !begins(b[:n], signatureV2) {
			return n, bad("it begins with %q", b[:n])
		}
		if n < want && err != nil {
			if n == 0 {
				return n, err
			}
			return n, cut(err)
		}
	}
	return n, nil
}

// begins reports whether b may become, or is, what begins with signature.
func begins(b []byte, signature string) bool {
	n := min(len(b), len(signature))
	return string(b[:n]) == signature[:n]
}

// cut is the error of a connection that ended within a header.
func cut(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return bad("the connection ended within it")
	}
	return err
}

// readV1 reads the rest of a line. How many bytes it must have at least is known at any time, so that none behind it is read, in few reads.
func readV1(r io.Reader, first []byte) (Header, error) {
	var line [maxV1]byte
	n := copy(line[:], first)
	for {
		if end := bytes.IndexByte(line[:n], '\n'); end >= 0 {
			if end != n-1 || line[n-2] != '\r' {
				return Header{}, bad("a line must end with CRLF")
			}
			return parseV1(string(line[:n-2]))
		}
		more := 2 // CRLF
		if line[n-1] == '\r' {
			more = 1
		} else if bytes.HasPrefix(line[:n], []byte(signatureV1+"TCP")) {
			more += 2 * max(5-bytes.Count(line[:n], []byte(" ")), 0) // a space and a character for each field to come
		} else {
			more = 1 // UNKNOWN may be followed by anything
		}
		if n+more > maxV1 {
			if n == maxV1 {
				return Header{}, bad("its line is longer than %d bytes", maxV1)
			}
			more = maxV1 - n
		}
		m, err := r.Read(line[n : n+more])
		if n += m; m == 0 && err != nil {
			return Header{}, cut(err)
		}
	}
}

// parseV1 reads a line without its CRLF.
func parseV1(line string) (Header, error) {
	f := strings.Split(line, " ")
	if f[1] == "UNKNOWN" {
		return Header{Version: 1, Local: true}, nil
	}
	if f[1] != "TCP4" && f[1] != "TCP6" {
		return Header{}, bad("protocol %q; TCP4, TCP6 and UNKNOWN are known", f[1])
	}
	if len(f) != 6 {
		return Header{}, bad("it has %d fields; %s takes 6", len(f), f[1])
	}
	h := Header{Version: 1}
	for i, to := range []*netip.AddrPort{&h.Source, &h.Destination} {
		a, err := netip.ParseAddr(f[2+i])
		if err != nil || a.Zone() != "" || a.Is4() != (f[1] == "TCP4") {
			return Header{}, bad("%q is no address of %s", f[2+i], f[1])
		}
		port, err := strconv.ParseUint(f[4+i], 10, 16)
		if err != nil || len(f[4+i]) > 1 && f[4+i][0] == '0' {
			return Header{}, bad("%q is no port", f[4+i])
		}
		*to = netip.AddrPortFrom(a.Unmap(), uint16(port))
	}
	return h, nil
}

// parseV2 reads the 16 bytes of prefix, whose command, family and length are valid, and what follows.
func parseV2(prefix, rest []byte) (Header, error) {
	h := Header{Version: 2}
	if prefix[12] == commandLocal { // "must discard the protocol block including the family"
		h.Local = true
		return h, nil
	}
	var size int
	addr := func(b []byte, port []byte) netip.AddrPort {
		a, _ := netip.AddrFromSlice(b)
		return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
	}
	stream := prefix[13]&15 == 1
	switch prefix[13] >> 4 {
	case familyInet:
		if size = sizeInet; len(rest) >= size && stream {
			h.Source, h.Destination = addr(rest[:4], rest[8:]), addr(rest[4:8], rest[10:])
		}
	case familyInet6:
		if size = sizeInet6; len(rest) >= size && stream {
			h.Source, h.Destination = addr(rest[:16], rest[32:]), addr(rest[16:32], rest[34:])
		}
	case familyUnix:
		size = sizeUnix
	}
	if len(rest) < size {
		return Header{}, bad("%d bytes of addresses; the family takes %d", len(rest), size)
	}
	return h, h.values(prefix, rest, rest[size:])
}

// values reads the type-length-values of all, which is what follows prefix.
func (h *Header) values(prefix, all, tlvs []byte) error {
	return each(tlvs, func(kind byte, v []byte) error {
		switch kind {
		case typeAuthority:
			h.Authority = string(v)
		case typeUniqueID:
			if len(v) > maxID {
				return bad("a unique id of %d bytes; at most %d are allowed", len(v), maxID)
			}
			h.UniqueID = v
		case typeCRC32C:
			if len(v) != 4 {
				return bad("a checksum of %d bytes; CRC32C has 4", len(v))
			}
			want := binary.BigEndian.Uint32(v)
			copy(v, []byte{0, 0, 0, 0}) // "as if the checksum were 0"
			got := crc32.Update(crc32.Checksum(prefix, castagnoli), castagnoli, all)
			binary.BigEndian.PutUint32(v, want)
			if got != want {
				return bad("its checksum is %08x and should be %08x", want, got)
			}
		case typeSSL:
			if len(v) < 5 {
				return bad("%d bytes about TLS; there are at least 5", len(v))
			}
			if v[0]&clientSSL == 0 {
				break
			}
			t := &TLS{Verified: v[0]&(clientConn|clientSess) != 0 && binary.BigEndian.Uint32(v[1:]) == 0}
			h.TLS = t
			return each(v[5:], func(kind byte, v []byte) error {
				switch kind {
				case typeSSLVer:
					t.Version = string(v)
				case typeSSLCN:
					t.CN = string(v)
				case typeSSLCipher:
					t.Cipher = string(v)
				}
				return nil
			})
		}
		return nil
	})
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// each calls f for each type-length-value of b.
func each(b []byte, f func(kind byte, v []byte) error) error {
	for len(b) > 0 {
		if len(b) < 3 || len(b)-3 < int(binary.BigEndian.Uint16(b[1:])) {
			return bad("a value is longer than the header")
		}
		end := 3 + int(binary.BigEndian.Uint16(b[1:]))
		if err := f(b[0], b[3:end:end]); err != nil {
			return err
		}
		b = b[end:]
	}
	return nil
}
