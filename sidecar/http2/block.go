package http2

import (
	"errors"
	"strings"

	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// block is the head that is being read: HEADERS and its CONTINUATION frames. It belongs to the reader.
type block struct {
	id     uint32 // 0: none
	end    bool   // END_STREAM
	frames int    // CONTINUATION
	raw    int    // compressed bytes
	buf    []byte // of a head in several frames: the decoder gets it whole

	req   request // fields and size of every head; the rest of requests
	fault *exchange.Fault
	limit exchange.Limit // that a fault is about
	most  headLimits
}

// emit takes a decoded field.
func (c *conn) emit(h hpack.HeaderField) {
	b := &c.block
	r := &b.req
	r.size += len(h.Name) + len(h.Value) + 32
	switch {
	case b.fault != nil:
		return
	case r.size > b.most.bytes:
		b.fault, b.limit = faultTooLarge, exchange.LimitHeadBytes
		c.dec.SetEmitEnabled(false) // the rest is only decoded for the table's sake
		return
	case len(r.fields) >= b.most.fields:
		b.fault, b.limit = faultTooMany, exchange.LimitHeadFields
		c.dec.SetEmitEnabled(false)
		return
	}
	id := identify(h.Name)
	if id == fieldOther && !validName(h.Name) {
		if b.fault = faultFieldName; h.Name != "" && h.Name[0] == ':' {
			b.fault = faultPseudo
		}
	} else if c.client && h.Value != "" && (h.Value[0] <= ' ' || h.Value[len(h.Value)-1] <= ' ') {
		h.Value = strings.Trim(h.Value, " \t") // many servers send what their application gave them
	}
	if !validValue(h.Value) && b.fault == nil {
		b.fault = faultFieldValue
	}
	r.fields = append(r.fields, field{name: h.Name, value: h.Value, id: id, sensitive: h.Sensitive})
}

func (c *conn) headers(f frame, p []byte) *fatal {
	if f.id == 0 {
		return protocolError("HEADERS on stream 0 (RFC 9113, section 6.2)")
	}
	p, ok := unpad(f, p)
	if !ok {
		return protocolError("more padding than payload (RFC 9113, section 6.2)")
	}
	b := &c.block
	*b = block{id: f.id, end: f.flags&flagEnd != 0, buf: b.buf[:0], req: b.req, most: c.heads}
	b.req.reset()
	if f.flags&flagPriority != 0 {
		if len(p) < 5 {
			return frameSizeError("HEADERS with PRIORITY is too short (RFC 9113, section 6.2)")
		}
		if be32(p)&maxStreamID == f.id {
			b.fault = faultPseudo // RFC 9113, section 5.3.1: a stream cannot depend on itself
		}
		p = p[5:]
	}
	if f.flags&flagEndHeaders == 0 {
		return c.addBlock(p)
	}
	return c.endBlock(p)
}

func (c *conn) addBlock(p []byte) *fatal {
	b := &c.block
	if b.raw += len(p); b.raw > maxBlock {
		return calm(exchange.LimitHeadBytes, c.heads.bytes)
	}
	b.buf = append(b.buf, p...)
	return nil
}

func (c *conn) continuation(f frame, p []byte) *fatal {
	b := &c.block
	if b.id == 0 {
		return protocolError("CONTINUATION without a head to continue (RFC 9113, section 6.10)")
	}
	if b.frames++; b.frames > c.guard.limits.Continuations {
		return calm(exchange.LimitContinuations, c.guard.limits.Continuations)
	}
	if len(p) == 0 {
		if fail := c.guard.emptyFrame(c); fail != nil {
			return fail
		}
	}
	if fail := c.addBlock(p); fail != nil {
		return fail
	}
	if f.flags&flagEndHeaders == 0 {
		return nil
	}
	fail := c.endBlock(b.buf)
	if cap(b.buf) > readBuffer {
		b.buf = nil
	}
	return fail
}

// endBlock decodes a whole head and gives it to whom it is for.
func (c *conn) endBlock(p []byte) *fatal {
	b := &c.block
	id := b.id
	b.id = 0
	if c.heading {
		c.heading = false
		c.headAt.Store(0)
	}
	c.dec.SetEmitEnabled(true)
	if _, err := c.dec.Write(p); err != nil {
		if errors.Is(err, hpack.ErrStringLength) {
			return calm(exchange.LimitHeadBytes, c.heads.bytes)
		}
		return &fatal{code: codeCompression, text: err.Error()}
	}
	if err := c.dec.Close(); err != nil {
		return &fatal{code: codeCompression, text: err.Error()}
	}
	c.mu.Lock()
	s := c.table.get(id)
	if s != nil {
		k := s.call
		if s.remoteDone {
			mine := s.localDone && c.forgiven(id)
			c.mu.Unlock()
			if mine {
				return nil
			}
			return &fatal{code: codeClosed, text: "HEADERS on a stream that the sender has ended (RFC 9113, section 5.1)"}
		}
		if b.end {
			s.remoteDone = true
			c.closedLocked(s)
		}
		c.mu.Unlock()
		if c.client {
			return k.responseHead(c, s, id)
		}
		return k.requestTrailers(c, s, id)
	}
	forgiven, known := c.forgiven(id), c.knownLocked(id)
	c.mu.Unlock()
	switch {
	case forgiven:
		return nil
	case c.client:
		if !known {
			return protocolError("HEADERS on a stream that we have not opened (RFC 9113, section 5.1)")
		}
		return nil
	case id&1 == 0:
		return protocolError("the caller opens a stream with an even number (RFC 9113, section 5.1.1)")
	case id <= c.seenID:
		return &fatal{code: codeClosed, text: "HEADERS on a stream that is closed (RFC 9113, section 5.1)"}
	}
	return c.server.begin(id)
}
