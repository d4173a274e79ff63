// Package proxyproto reads and writes the header of the PROXY protocol, versions 1 and 2, by which who opens a connection in somebody else's name says whose
// it is (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt).
//
// Nothing here guesses whether there is a header: the specification forbids it (section 2), because whoever could send one by choice could call itself anybody.
package proxyproto

import "net/netip"

// Header is what is said of a connection.
type Header struct {
	Version int // 1 or 2
	// Source and Destination are the connection's ends; both invalid where the sender speaks for itself (LOCAL, UNKNOWN) or they are of a family other than TCP's.
	Source, Destination netip.AddrPort
	// Local: the sender speaks for itself, such as for a health check.
	Local bool

	// Of version 2 only:
	Authority string // the host name that the client asked for
	UniqueID  []byte // at most 128 bytes; opaque
	TLS       *TLS   // of the client's connection; nil: plaintext, or not said
}

// TLS is what a header says of the TLS of the client's connection.
type TLS struct {
	Version  string // "TLSv1.3"
	Cipher   string
	CN       string // of its certificate; Tulle's sidecars put its SPIFFE ID there
	Verified bool   // it presented a certificate that was found good
}

// Sizes, in bytes.
const (
	maxV1    = 107     // with CRLF
	prefixV2 = 16      // signature, command, family, length
	maxV2    = 8 << 10 // what follows; the format allows 65,535
	maxID    = 128     // of a unique id
	minV1    = 15      // "PROXY UNKNOWN" CRLF: no header of either version is shorter
	longest  = 0xff    // text that is written
)

const (
	signatureV1 = "PROXY "
	signatureV2 = "\r\n\r\n\x00\r\nQUIT\n"
)

// Of version 2.
const (
	commandLocal = 0x20
	commandProxy = 0x21

	familyInet  = 0x1
	familyInet6 = 0x2
	familyUnix  = 0x3

	sizeInet  = 12
	sizeInet6 = 36
	sizeUnix  = 216

	typeAuthority = 0x02
	typeCRC32C    = 0x03
	typeUniqueID  = 0x05
	typeSSL       = 0x20
	typeSSLVer    = 0x21
	typeSSLCN     = 0x22
	typeSSLCipher = 0x23

	clientSSL  = 0x01
	clientConn = 0x02 // it presented a certificate on this connection
	clientSess = 0x04 // or on an earlier one of its session
)
