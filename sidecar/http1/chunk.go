package http1

import "github.com/tulle-mesh/tulle/sidecar/exchange"

// chunks reads the framing of a chunked body (RFC 9112, section 7.1), strictly: CR LF only, at most 15 hex digits, extensions that follow
// their grammar, trailers that are valid fields and do not touch framing, routing or identity. It keeps no bytes of its own but short
// counts, so a body may arrive in pieces of any size. The zero value is ready.
type chunks struct {
	state  chunkState
	size   int64 // left of the current chunk
	digits int
	extra  int // bytes of extensions and trailers so far
	line   int // bytes of the current trailer line
	name   [20]byte
}

type chunkState uint8

const (
	chunkSize chunkState = iota
	extGap               // white space, then ';'
	extBegin             // white space, then a name
	extName              // within a name
	extNamed             // behind a name: white space, then '=' or ';'
	extEqual             // white space, then a value
	extToken             // within a value
	extQuoted            // within a quoted value
	extEscape            // behind '\\' in it
	extValued            // behind its end
	chunkSizeLF
	chunkData
	chunkDataCR
	chunkDataLF
	trailerStart
	trailerName
	trailerValue
	trailerLF
	endLF
	chunkDone
)

// maxChunkExtra bounds extensions and trailers of one body.
const maxChunkExtra = 8 << 10

func (c *chunks) done() bool { return c.state == chunkDone }

// next takes the next run of bytes of one nature from b: n bytes, which are body data or framing. n is 0 only when b is empty or the body is
// done.
func (c *chunks) next(b []byte) (n int, data bool, f *fault) {
	if c.state == chunkData {
		if int64(len(b)) < c.size {
			c.size -= int64(len(b))
			return len(b), true, nil
		}
		n = int(c.size)
		c.size = 0
		c.state = chunkDataCR
		if n > 0 {
			return n, true, nil
		}
	}
	for n < len(b) && c.state != chunkDone {
		ch := b[n]
		n++
		switch c.state {
		case chunkSize:
			switch {
			case exchange.Class[ch]&exchange.IsHex != 0:
				if c.digits++; c.digits > 15 {
					return n, false, faultChunk
				}
				c.size = c.size<<4 | int64(exchange.HexValue(ch))
			case c.digits == 0:
				return n, false, faultChunk
			default:
				if !c.extension(extValued, ch) { // as behind a value: ';', white space, or the end of the line
					return n, false, faultChunk
				}
			}
		case extGap, extBegin, extName, extNamed, extEqual, extToken, extQuoted, extEscape, extValued:
			if !c.extension(c.state, ch) {
				return n, false, faultChunk
			}
		case chunkSizeLF:
			if ch != '\n' {
				return n, false, faultChunk
			}
			c.digits = 0
			if c.size == 0 {
				c.state = trailerStart
				continue
			}
			c.state = chunkData
			return n, false, nil
		case chunkDataCR:
			if ch != '\r' {
				return n, false, faultChunk
			}
			c.state = chunkDataLF
		case chunkDataLF:
			if ch != '\n' {
				return n, false, faultChunk
			}
			c.state = chunkSize
		case trailerStart:
			c.line = 0
			if ch == '\r' {
				c.state = endLF
				continue
			}
			c.state = trailerName
			fallthrough
		case trailerName:
			if c.extra++; c.extra > maxChunkExtra {
				return n, false, faultTrailer
			}
			if ch == ':' {
				// Of a long name the beginning is enough: no name that is refused as a whole has len(c.name) bytes or more.
				if c.line == 0 || !trailerAllowed(c.name[:min(c.line, len(c.name))]) {
					return n, false, faultTrailer
				}
				c.state = trailerValue
				continue
			}
			if exchange.Class[ch]&exchange.IsToken == 0 {
				return n, false, faultTrailer
			}
			if c.line < len(c.name) {
				c.name[c.line] = ch
			}
			c.line++
		case trailerValue:
			if ch == '\r' {
				c.state = trailerLF
			} else if c.extra++; exchange.Class[ch]&exchange.IsValue == 0 || c.extra > maxChunkExtra {
				return n, false, faultTrailer
			}
		case trailerLF:
			if ch != '\n' {
				return n, false, faultTrailer
			}
			c.state = trailerStart
		case endLF:
			if ch != '\n' {
				return n, false, faultTrailer
			}
			c.state = chunkDone
		}
	}
	return n, false, nil
}

// scan takes as much of b as belongs to the body; data counts the body bytes among them.
func (c *chunks) scan(b []byte) (n int, data int, f *fault) {
	for n < len(b) && c.state != chunkDone {
		m, isData, f := c.next(b[n:])
		if f != nil {
			return n, data, f
		}
		if isData {
			data += m
		}
		n += m
	}
	return n, data, nil
}

// extension takes one byte of the extensions of a chunk (RFC 9112, section 7.1.1: BWS ";" BWS name [ BWS "=" BWS value ]) and moves to the
// next state. White space that nothing follows is none of the grammar, and is refused.
func (c *chunks) extension(s chunkState, ch byte) bool {
	if ch != '\r' {
		if c.extra++; c.extra > maxChunkExtra {
			return false
		}
	}
	gap := ch == ' ' || ch == '\t'
	token := exchange.Class[ch]&exchange.IsToken != 0
	next := s
	switch {
	case s == extQuoted:
		switch {
		case ch == '"':
			next = extValued
		case ch == '\\':
			next = extEscape
		case exchange.Class[ch]&exchange.IsValue == 0:
			return false
		}
	case s == extEscape && exchange.Class[ch]&exchange.IsValue != 0:
		next = extQuoted
	case s == extEscape:
		return false
	case (s == extName || s == extToken) && token,
		(s == extGap || s == extBegin || s == extNamed || s == extEqual) && gap:
	case s == extBegin && token:
		next = extName
	case s == extEqual && token:
		next = extToken
	case s == extEqual && ch == '"':
		next = extQuoted
	case s == extName && gap:
		next = extNamed
	case (s == extToken || s == extValued) && gap:
		next = extGap
	case (s == extName || s == extNamed) && ch == '=':
		next = extEqual
	case (s == extName || s == extNamed || s == extToken || s == extValued || s == extGap) && ch == ';':
		next = extBegin
	case (s == extName || s == extToken || s == extValued) && ch == '\r':
		next = chunkSizeLF
	default:
		return false
	}
	c.state = next
	return true
}

// trailerAllowed refuses the fields of which a late value would be dangerous: what frames, routes, authenticates, or says how to read the
// content (RFC 9110, section 6.5.1).
func trailerAllowed(name []byte) bool {
	if identify(name) != fieldOther {
		return false
	}
	for _, s := range [...]string{
		"authorization", "proxy-authorization", "cookie", "set-cookie", "trailer", "content-type", "content-range", "content-encoding",
	} {
		if equalFold(name, s) {
			return false
		}
	}
	return true
}
