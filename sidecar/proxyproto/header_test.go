package proxyproto_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	pires "github.com/pires/go-proxyproto"

	"github.com/tulle-mesh/tulle/sidecar/proxyproto"
)

const signature = "\r\n\r\n\x00\r\nQUIT\n"

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// TestRead: what is a header and what is not, as the specification says it; of what follows nothing is read.
func TestRead(t *testing.T) {
	v4 := "\x0a\x00\x00\x01\x0a\x00\x00\x02\x04\xd2\x01\xbb"
	v6 := strings.Repeat("\x00", 15) + "\x01" + "\xfd" + strings.Repeat("\x00", 14) + "\x02" + "\x00\x50\x01\xbb"
	for name, c := range map[string]struct {
		in   string
		want proxyproto.Header // Version 0: an error
		says string            // in it
	}{
		"v1 TCP4":             {"PROXY TCP4 10.0.0.1 10.0.0.2 1234 443\r\n", proxyproto.Header{Version: 1, Source: at("10.0.0.1:1234"), Destination: at("10.0.0.2:443")}, ""},
		"v1 TCP6":             {"PROXY TCP6 ::1 fd00::2 80 443\r\n", proxyproto.Header{Version: 1, Source: at("[::1]:80"), Destination: at("[fd00::2]:443")}, ""},
		"v1 shortest TCP6":    {"PROXY TCP6 :: :: 0 0\r\n", proxyproto.Header{Version: 1, Source: at("[::]:0"), Destination: at("[::]:0")}, ""},
		"v1 mapped":           {"PROXY TCP6 ::ffff:10.0.0.1 fd00::2 80 443\r\n", proxyproto.Header{Version: 1, Source: at("10.0.0.1:80"), Destination: at("[fd00::2]:443")}, ""},
		"v1 UNKNOWN":          {"PROXY UNKNOWN\r\n", proxyproto.Header{Version: 1, Local: true}, ""},
		"v1 UNKNOWN, longest": {"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", proxyproto.Header{Version: 1, Local: true}, ""},
		"v1 too long":         {"PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", proxyproto.Header{}, "longer than 107"},
		"v1 four fields":      {"PROXY TCP4 10.0.0.1 10.0.0.2 1234\r\n", proxyproto.Header{}, ""},
		"v1 seven fields":     {"PROXY TCP4 10.0.0.1 10.0.0.2 1234 443 1\r\n", proxyproto.Header{}, "7 fields"},
		"v1 two spaces":       {"PROXY  TCP4 10.0.0.1 10.0.0.2 1234 443\r\n", proxyproto.Header{}, "protocol"},
		"v1 no CR":            {"PROXY TCP4 10.0.0.1 10.0.0.2 1234 443\n", proxyproto.Header{}, "CRLF"},
		"v1 port":             {"PROXY TCP4 10.0.0.1 10.0.0.2 65536 443\r\n", proxyproto.Header{}, "no port"},
		"v1 port, zeros":      {"PROXY TCP4 10.0.0.1 10.0.0.2 0080 443\r\n", proxyproto.Header{}, "no port"},
		"v1 port, sign":       {"PROXY TCP4 10.0.0.1 10.0.0.2 +80 443\r\n", proxyproto.Header{}, "no port"},
		"v1 family":           {"PROXY TCP4 ::1 ::2 80 443\r\n", proxyproto.Header{}, "no address of TCP4"},
		"v1 family of TCP6":   {"PROXY TCP6 10.0.0.1 ::2 80 443\r\n", proxyproto.Header{}, "no address of TCP6"},
		"v1 zone":             {"PROXY TCP6 fe80::1%eth0 ::2 80 443\r\n", proxyproto.Header{}, "no address"},
		"v1 lower case":       {"proxy TCP4 10.0.0.1 10.0.0.2 1234 443\r\n", proxyproto.Header{}, "begins"},
		"v1 UDP":              {"PROXY UDP4 10.0.0.1 10.0.0.2 1234 443\r\n", proxyproto.Header{}, "protocol"},
		"a request":           {"GET / HTTP/1.1\r\n\r\n", proxyproto.Header{}, "begins"},
		"a short request":     {"GET /\n", proxyproto.Header{}, "begins"},
		"TLS":                 {"\x16\x03\x01\x02\x00\x01", proxyproto.Header{}, "begins"},

		"v2 IPv4":           {signature + "\x21\x11\x00\x0c" + v4, proxyproto.Header{Version: 2, Source: at("10.0.0.1:1234"), Destination: at("10.0.0.2:443")}, ""},
		"v2 IPv6":           {signature + "\x21\x21\x00\x24" + v6, proxyproto.Header{Version: 2, Source: at("[::1]:80"), Destination: at("[fd00::2]:443")}, ""},
		"v2 LOCAL":          {signature + "\x20\x00\x00\x00", proxyproto.Header{Version: 2, Local: true}, ""},
		"v2 LOCAL, a block": {signature + "\x20\x11\x00\x05abcde", proxyproto.Header{Version: 2, Local: true}, ""},
		"v2 UNSPEC":         {signature + "\x21\x00\x00\x00", proxyproto.Header{Version: 2}, ""},
		"v2 Unix":           {signature + "\x21\x31\x00\xd8" + strings.Repeat("\x00", 216), proxyproto.Header{Version: 2}, ""},
		"v2 UDP":            {signature + "\x21\x12\x00\x0c" + v4, proxyproto.Header{Version: 2}, ""},
		"v2 version":        {signature + "\x31\x11\x00\x0c" + v4, proxyproto.Header{}, "version 3"},
		"v2 command":        {signature + "\x22\x11\x00\x0c" + v4, proxyproto.Header{}, "command 2"},
		"v2 family":         {signature + "\x21\x41\x00\x0c" + v4, proxyproto.Header{}, "family"},
		"v2 protocol":       {signature + "\x21\x13\x00\x0c" + v4, proxyproto.Header{}, "family"},
		"v2 addresses":      {signature + "\x21\x11\x00\x0b" + v4[:11], proxyproto.Header{}, "11 bytes of addresses"},
		"v2 too long":       {signature + "\x21\x11\xff\xff" + v4, proxyproto.Header{}, "at most 8192"},
		"v2 value":          {signature + "\x21\x11\x00\x10" + v4 + "\x02\x00\x02a", proxyproto.Header{}, "longer than the header"},
		"v2 authority":      {signature + "\x21\x11\x00\x10" + v4 + "\x02\x00\x01a", proxyproto.Header{Version: 2, Source: at("10.0.0.1:1234"), Destination: at("10.0.0.2:443"), Authority: "a"}, ""},
		"v2 checksum":       {signature + "\x21\x11\x00\x13" + v4 + "\x03\x00\x04abcd", proxyproto.Header{}, "checksum"},
		"v2 short TLS":      {signature + "\x21\x11\x00\x13" + v4 + "\x20\x00\x04\x01\x00\x00\x00", proxyproto.Header{}, "TLS"},
		"v2 unique id":      {signature + "\x21\x11\x00\x90" + v4 + "\x05\x00\x81" + strings.Repeat("a", 129), proxyproto.Header{}, "unique id"},
		"v2 signature":      {signature[:11] + "\r\x21\x11\x00\x0c" + v4, proxyproto.Header{}, "begins"},
	} {
		t.Run(name, func(t *testing.T) {
			for i, wrap := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.DataErrReader} {
				r := strings.NewReader(c.in + "what follows")
				h, err := proxyproto.Read(wrap(r))
				if c.want.Version == 0 {
					if !errors.Is(err, proxyproto.ErrHeader) || !strings.Contains(err.Error(), c.says) {
						t.Errorf("read %+v, %v", h, err)
					}
					continue
				}
				rest, _ := io.ReadAll(r)
				if err != nil || !reflect.DeepEqual(h, c.want) || i < 2 && string(rest) != "what follows" { // the third reads ahead
					t.Errorf("read %+v, %v; left %q", h, err, rest)
				}
			}
			if c.want.Version > 0 {
				for n := 1; n < len(c.in); n++ {
					if h, err := proxyproto.Read(strings.NewReader(c.in[:n])); !errors.Is(err, proxyproto.ErrHeader) {
						t.Fatalf("%d of %d bytes: %+v, %v", n, len(c.in), h, err)
					}
				}
			}
		})
	}
	if _, err := proxyproto.Read(strings.NewReader("")); !errors.Is(err, io.EOF) {
		t.Errorf("of nothing: %v", err)
	}
}

// headers are some of each kind.
func headers() []proxyproto.Header {
	four, six := at("192.0.2.1:1234"), at("[2001:db8::1]:443")
	full := proxyproto.Header{
		Version: 2, Source: four, Destination: at("10.0.0.1:1"), Authority: "db.shop", UniqueID: []byte("0123456789abcdef"),
		TLS: &proxyproto.TLS{Version: "TLSv1.3", Cipher: "TLS_AES_128_GCM_SHA256", CN: "spiffe://test.mesh/ns/shop/sa/web", Verified: true},
	}
	return []proxyproto.Header{
		{Version: 1, Source: four, Destination: at("10.0.0.1:1")},
		{Version: 1, Source: six, Destination: six},
		{Version: 1, Source: four, Destination: six},
		{Version: 1, Local: true},
		{Version: 2, Local: true},
		{Version: 2},
		{Version: 2, Source: six, Destination: six},
		{Version: 2, Source: six, Destination: four},
		full,
		{Version: 2, Source: four, Destination: four, TLS: &proxyproto.TLS{Version: "TLSv1.2"}},
	}
}

// TestAppend: what is written is read back, by this package and by another implementation; and every broken bit of one with a checksum is found.
func TestAppend(t *testing.T) {
	for _, h := range headers() {
		b := h.Append([]byte("before"))[len("before"):]
		got, err := proxyproto.Read(bytes.NewReader(b))
		if err != nil || !reflect.DeepEqual(got, h) {
			t.Errorf("%+v became %+v, %v", h, got, err)
		}
		other, err := pires.Read(bufio.NewReader(bytes.NewReader(b)))
		if h.Version == 2 && !h.Local && !h.Source.IsValid() {
			continue // which that one refuses, as it may
		}
		if err != nil {
			t.Fatalf("%+v: %v", h, err)
		}
		if h.Source.IsValid() && (other.SourceAddr.String() != h.Source.String() || other.DestinationAddr.String() != h.Destination.String()) || other.Command.IsLocal() != h.Local {
			t.Errorf("%+v became %+v", h, other)
		}
	}
	h := headers()[8]
	whole := h.Append(nil)
	for i := range 8 * len(whole) {
		b := bytes.Clone(whole)
		b[i/8] ^= 1 << (i % 8)
		got, err := proxyproto.Read(bytes.NewReader(b))
		if err == nil && !got.Local && len(got.UniqueID) > 0 { // a command of LOCAL has no checksum, nor has what has become another type
			if i/8 < len(whole)-7 {
				t.Errorf("bit %d was turned and not found: %+v", i, got)
			}
		}
	}
}

// FuzzRead: nothing panics, nothing is read beyond a header, what is read is written and read again alike, and what another implementation reads is
// read alike here.
func FuzzRead(f *testing.F) {
	for _, h := range headers() {
		f.Add(h.Append(nil))
	}
	f.Add([]byte("PROXY UNKNOWN anything at all\r\nGET"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		h, err := proxyproto.Read(r)
		used := len(in) - r.Len()
		other, otherErr := pires.Read(bufio.NewReaderSize(bytes.NewReader(in), 1<<17))
		if err != nil {
			if otherErr == nil && errors.Is(err, proxyproto.ErrHeader) && !strings.Contains(err.Error(), "checksum") && !strings.Contains(err.Error(), "unique id") &&
				!strings.Contains(err.Error(), "TLS") && !strings.Contains(err.Error(), "value is longer") && !strings.Contains(err.Error(), "at most") {
				t.Fatalf("%v; another reads %+v", err, other)
			}
			return
		}
		if used > 16+8<<10 {
			t.Fatalf("%d bytes were read", used)
		}
		if again, err := proxyproto.Read(bytes.NewReader(in[:used])); err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("its %d bytes alone are %+v, %v", used, again, err)
		}
		if otherErr == nil && h.Source.IsValid() {
			if a, ok := other.SourceAddr.(*net.TCPAddr); !ok || a.AddrPort().Port() != h.Source.Port() || !a.IP.Equal(h.Source.Addr().AsSlice()) {
				t.Fatalf("%+v; another reads %+v", h, other)
			}
		}
		if len(h.Authority) > 255 || h.TLS != nil && len(h.TLS.Version)+len(h.TLS.CN)+len(h.TLS.Cipher) > 255 {
			return
		}
		b := h.Append(nil)
		again, err := proxyproto.Read(bytes.NewReader(b))
		if len(h.UniqueID) == 0 {
			again.UniqueID, h.UniqueID = nil, nil
		}
		if !h.Source.IsValid() && !h.Local && h.Version == 1 {
			t.Fatalf("version 1 without ends that is not local: %+v", h)
		}
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
	})
}
