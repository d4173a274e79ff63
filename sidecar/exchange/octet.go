package exchange

import "bytes"

// Classes of bytes, bits of Class.
const (
	IsToken  = 1 << iota // tchar, RFC 9110, section 5.6.2
	IsValue              // field-vchar, SP, HTAB, RFC 9110, section 5.5
	IsTarget             // visible ASCII except '#'
	IsHost               // RFC 3986 host and port, without ',' and '%'
	IsHex
	isSlash  // '/'
	isAfter  // '/' and '.': behind a slash they may be no normal path; the bit above isSlash
	isEscape // '%' and '\\'
)

// Class says of every byte in which classes it is.
var Class = func() (t [256]byte) {
	for c := range 256 {
		b := byte(c)
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z'
		digit := b >= '0' && b <= '9'
		if letter || digit || bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), b) >= 0 {
			t[c] |= IsToken
		}
		if b >= 0x20 && b != 0x7f || b == '\t' {
			t[c] |= IsValue
		}
		if b > 0x20 && b < 0x7f && b != '#' {
			t[c] |= IsTarget
		}
		if letter || digit || bytes.IndexByte([]byte("-._~!$&'()*+;=:[]"), b) >= 0 {
			t[c] |= IsHost
		}
		if digit || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F' {
			t[c] |= IsHex
		}
		switch b {
		case '/':
			t[c] |= isSlash | isAfter
		case '.':
			t[c] |= isAfter
		case '%', '\\':
			t[c] |= isEscape
		}
	}
	return t
}()

// HexValue is the value of a hexadecimal digit.
func HexValue(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}
