package detect

import (
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// ClientHello is what the first message of TLS says in the clear (RFC 8446, section 4.1.2). With Encrypted Client Hello it is the outer one: what it names is the
// front that the caller wants others to see.
type ClientHello struct {
	ServerName string   // SNI as it was sent (RFC 6066, section 3); "" when there is none
	ALPN       []string // offered application protocols, in the caller's order (RFC 7301)
}

// Greeting is what a caller's first bytes are to TLS.
type Greeting uint8

const (
	// NotTLS: they are no ClientHello, or a malformed one.
	NotTLS Greeting = iota
	// Unfinished: they may become one.
	Unfinished
	// Greeted: a ClientHello is there.
	Greeted
)

// HandshakeRecord is the first byte of a ClientHello (RFC 8446, section 5.1).
const HandshakeRecord = 0x16

const (
	// maxHello bounds a ClientHello, maxHelloBytes the records that it comes in, which may be as small as one byte. With post-quantum key shares they have about
	// 2 KiB; crypto/tls takes 64 KiB.
	maxHello      = 32 << 10
	maxHelloBytes = 64 << 10

	recordHeader = 5
	maxRecord    = 1 << 14
	clientHello  = 1 // RFC 8446, section 4

	extensionServerName = 0
	extensionALPN       = 16
)

// ReadClientHello reads the ClientHello that b begins with. It may be cut into records and these may come in any pieces (RFC 8446, section 5.1); b is only read. What
// it does not need of a hello it does not look at: whether that is valid is for the server to say.
func ReadClientHello(b []byte) (ClientHello, Greeting) { return new(helloReader).read(b) }

// helloReader looks at each byte of a hello once, however it comes.
type helloReader struct {
	at    int    // where the current record begins
	taken int    // of its payload, in whole
	whole []byte // the handshake message so far
	own   bool   // whole is no part of what read was given
}

// read is given all that has come, which begins with what it was given before, until it is not Unfinished.
func (h *helloReader) read(b []byte) (ClientHello, Greeting) {
	for {
		r := b[h.at:]
		// The content type, and at the beginning the major version that all of TLS shares; else a record's version says nothing (RFC 8446, section 5.1). One byte is
		// judged too: most protocols differ in it.
		if len(r) > 0 && r[0] != HandshakeRecord || h.at == 0 && len(r) > 1 && r[1] != 3 {
			return ClientHello{}, NotTLS
		}
		if len(r) < recordHeader {
			return h.unfinished(b)
		}
		n := int(r[3])<<8 | int(r[4])
		if n == 0 || n > maxRecord {
			return ClientHello{}, NotTLS
		}
		part := r[recordHeader+h.taken : min(len(r), recordHeader+n)]
		if h.whole == nil {
			h.whole = part[:len(part):len(part)]
		} else if len(part) > 0 {
			h.whole, h.own = append(h.whole, part...), true // what it grows out of has no room behind it, so that b stays as it is
		}
		h.taken += len(part)
		if len(h.whole) > 0 && h.whole[0] != clientHello {
			return ClientHello{}, NotTLS
		}
		if len(h.whole) >= 4 {
			size := 4 + (int(h.whole[1])<<16 | int(h.whole[2])<<8 | int(h.whole[3]))
			if size > maxHello {
				return ClientHello{}, NotTLS
			}
			if len(h.whole) >= size {
				return parseClientHello(h.whole[4:size])
			}
		}
		if h.taken < n {
			return h.unfinished(b)
		}
		h.at, h.taken = h.at+recordHeader+n, 0
	}
}

func (h *helloReader) unfinished(b []byte) (ClientHello, Greeting) {
	if len(b) >= maxHelloBytes {
		return ClientHello{}, NotTLS
	}
	if !h.own && len(h.whole) > 0 { // the caller may move b before the next read
		h.whole, h.own = append(make([]byte, 0, 2*len(h.whole)), h.whole...), true
	}
	return ClientHello{}, Unfinished
}

// cursor reads vectors of TLS (RFC 8446, section 3.4). bad: something was longer than what holds it.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.bad, c.b = true, nil
		return nil
	}
	v := c.b[:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) number(bytes int) (n int) {
	for _, v := range c.take(bytes) {
		n = n<<8 | int(v)
	}
	return n
}

// vector is a vector whose length has so many bytes.
func (c *cursor) vector(lengthBytes int) cursor {
	v := c.take(c.number(lengthBytes))
	return cursor{b: v, bad: c.bad}
}

// parseClientHello reads the body of the message.
func parseClientHello(b []byte) (h ClientHello, g Greeting) {
	c := cursor{b: b}
	c.take(2 + 32) // legacy_version, random
	c.vector(1)    // legacy_session_id
	c.vector(2)    // cipher_suites
	c.vector(1)    // legacy_compression_methods
	if c.bad {
		return ClientHello{}, NotTLS
	}
	if len(c.b) == 0 { // TLS 1.2 may do without extensions (RFC 5246, section 7.4.1.2)
		return h, Greeted
	}
	list := c.vector(2)
	if c.bad || len(c.b) > 0 {
		return ClientHello{}, NotTLS
	}
	var seen []int
	for len(list.b) > 0 {
		kind := list.number(2)
		body := list.vector(2)
		if body.bad || slices.Contains(seen, kind) || len(seen) >= 1<<10 { // no type twice (RFC 8446, section 4.2)
			return ClientHello{}, NotTLS
		}
		seen = append(seen, kind)
		ok := true
		switch kind {
		case extensionServerName:
			h.ServerName, ok = serverName(body)
		case extensionALPN:
			h.ALPN, ok = protocols(body)
		}
		if !ok {
			return ClientHello{}, NotTLS
		}
	}
	return h, Greeted
}

// serverName reads the one host_name of a ServerNameList.
func serverName(body cursor) (name string, ok bool) {
	list := body.vector(2)
	if body.bad || len(body.b) > 0 || len(list.b) == 0 {
		return "", false
	}
	for len(list.b) > 0 {
		kind := list.number(1)
		v := list.vector(2)
		if list.bad || len(v.b) == 0 {
			return "", false
		}
		if kind != 0 {
			continue
		}
		if name != "" || v.b[len(v.b)-1] == '.' { // one name of a type, without the root's dot
			return "", false
		}
		name = string(v.b)
	}
	return name, true
}

// protocols reads a ProtocolNameList.
func protocols(body cursor) (names []string, ok bool) {
	list := body.vector(2)
	if body.bad || len(body.b) > 0 || len(list.b) == 0 {
		return nil, false
	}
	for len(list.b) > 0 {
		v := list.vector(1)
		if list.bad || len(v.b) == 0 {
			return nil, false
		}
		names = append(names, string(v.b))
	}
	return names, true
}

// Hello reads until the caller's bytes are a ClientHello or cannot become one, and leaves them in sess.Buffered. A caller that sends nothing within wait is
// Silence, one that leaves without a byte Left; one that stops within a hello, or sends something else, is Bytes; a hello is TLS. While nothing has come, the session
// is idle.
func Hello(sess *exchange.Session, wait time.Duration) (ClientHello, Spoken) {
	b, n := sess.Buffered, len(sess.Buffered)
	var reader helloReader
	hello, greeting := reader.read(b)
	if greeting == Unfinished {
		b = make([]byte, max(2*readSize, n))
		copy(b, sess.Buffered)
	}
	waits := false
	var err error
	for greeting == Unfinished && err == nil {
		if n == len(b) {
			b = append(b, make([]byte, min(len(b), maxHelloBytes-len(b)))...)
		}
		m, ready := 0, false
		if s, ok := sess.Conn.(*exchange.Socket); ok && !waits {
			m, ready, err = s.ReadReady(b[n:])
		}
		if !ready {
			if !waits {
				waits = true
				_ = sess.Conn.SetReadDeadline(time.Now().Add(wait))
			}
			if n == 0 && !sess.SetIdle() { // after the deadline was set: a drain moves that of an idle session
				return hello, Left
			}
			m, err = sess.Conn.Read(b[n:])
			if n == 0 && sess.SetBusy() {
				if m == 0 {
					return hello, Left
				}
				_ = sess.Conn.SetReadDeadline(time.Now().Add(wait))
			}
		}
		n += m
		hello, greeting = reader.read(b[:n])
	}
	if waits {
		_ = sess.Conn.SetReadDeadline(time.Time{})
	}
	if n > 0 {
		sess.Buffered = b[:n]
	}
	switch {
	case greeting == Greeted:
		return hello, TLS
	case n > 0:
		return hello, Bytes
	case timedOut(err):
		return hello, Silence
	}
	return hello, Left
}
