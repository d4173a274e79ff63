package http2

import (
	"strconv"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// messages counts gRPC messages by their prefixes of five bytes, wherever DATA frames cut them
// (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md). A message counts from the first byte of its prefix.
type messages struct {
	prefix int    // bytes of the prefix that have come
	left   uint32 // of the message; of its length while the prefix is not complete
}

// walk returns how many messages begin in p.
func (m *messages) walk(p []byte) (n uint64) {
	for len(p) > 0 {
		if m.prefix == 5 {
			k := min(uint64(m.left), uint64(len(p)))
			p = p[k:]
			if m.left -= uint32(k); m.left == 0 {
				m.prefix = 0
			}
			continue
		}
		if m.prefix == 0 {
			n++
			m.left = 0
		} else {
			m.left = m.left<<8 | uint32(p[0])
		}
		if m.prefix++; m.prefix == 5 && m.left == 0 {
			m.prefix = 0
		}
		p = p[1:]
	}
	return n
}

// grpcCode is the status of our own answer to a gRPC call: what https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md makes of
// the HTTP status, but for what gRPC has a better word.
func grpcCode(status int, r flow.Reason) uint64 {
	switch r {
	case flow.ReasonRequestTimeout, flow.ReasonTryTimeout:
		return 4 // DEADLINE_EXCEEDED
	case flow.ReasonNoBackend:
		return 14 // UNAVAILABLE, as the Gateway API says
	case flow.ReasonRateLimited:
		return 8 // RESOURCE_EXHAUSTED, as Envoy says it
	}
	switch status {
	case 400, 431, 414:
		return 13 // INTERNAL
	case 401:
		return 16 // UNAUTHENTICATED
	case 403:
		return 7 // PERMISSION_DENIED
	case 404, 501:
		return 12 // UNIMPLEMENTED
	case 429, 502, 503, 504:
		return 14 // UNAVAILABLE
	}
	return 2 // UNKNOWN
}

// appendGRPCMessage appends text as a grpc-message: percent-encoded but for visible ASCII.
func appendGRPCMessage(dst []byte, text string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(text) {
		if c := text[i]; c >= 0x20 && c <= 0x7e && c != '%' {
			dst = append(dst, c)
		} else {
			dst = append(dst, '%', hex[c>>4], hex[c&15])
		}
	}
	return dst
}

const reasonField = "x-tulle-reason"

// Answer implements exchange.Downstream.
func (k *call) Answer(x *exchange.Exchange) bool {
	o := &x.Outcome
	if o.Status == 0 {
		o.Status = exchange.AnswerStatus(o.Reason)
	}
	reply := x.Reply
	if reply != nil {
		o.Status = reply.Status
	}
	k.mu.Lock()
	if k.fault != nil {
		o.Status = k.fault.Status
		if o.Reason == flow.ReasonNone {
			o.Fail(flow.ReasonBadRequest, k.fault.Text)
		}
	}
	if k.gone != flow.ReasonNone {
		k.mu.Unlock()
		return false
	}
	k.attached, k.over = true, false
	k.in.open = false
	k.in.q.drop()
	k.out.release()
	k.out.begin(false, k.sess.c.room)
	if reply != nil && o.Reason == flow.ReasonNone {
		k.scratch = append(k.scratch[:0], reply.Body...)
	} else {
		k.scratch = exchange.AppendAnswerText(k.scratch[:0], o.Reason, exchange.AnswerText(o.Reason), o.Detail)
	}
	c := k.down.c
	c.mu.Lock()
	if c.dead || k.down.localDone {
		c.mu.Unlock()
		k.attached = false
		k.mu.Unlock()
		return false
	}
	o.Committed = true
	end := true
	switch {
	case o.Location != "":
		at := c.beginBlockLocked()
		c.putLocked(":status", statusText(o.Status))
		c.putPlainLocked("location", o.Location+k.req.target)
		c.putPlainLocked("content-length", "0")
		c.endBlockLocked(at, k.down.id, true)
	case reply != nil && o.Reason == flow.ReasonNone:
		end = k.req.method == "HEAD" || exchange.Bodiless(reply.Status) || len(k.scratch) == 0
		c.appendReplyLocked(k.down.id, x, end)
	case k.req.grpc:
		code := grpcCode(o.Status, o.Reason)
		if reply != nil && reply.GRPC != 0 {
			code = uint64(reply.GRPC)
		}
		o.GRPC = flow.NewGRPCStatus(code)
		o.Status = 200
		c.appendGRPCAnswerLocked(k.down.id, o.GRPC, o.Reason, k.scratch, x.Answer)
	default:
		k.scratch = append(k.scratch, '\n')
		end = k.req.method == "HEAD"
		c.appendAnswerLocked(k.down.id, o.Status, o.Reason, len(k.scratch), end, x.Answer)
	}
	if end {
		k.down.localDone = true
		c.closedLocked(&k.down)
	}
	c.mu.Unlock()
	k.d.add(c)
	k.out.open = true
	k.out.ended = true
	legs := x.Legs // of the exchange, not of its answer
	reason, detail := o.Reason, o.Detail
	if end {
		k.out.passed, o.Answered, k.over = true, true, true
	} else {
		k.pump(&k.out, k.scratch, false, &k.d)
	}
	whole := k.over
	if !whole {
		k.setDeadline(x.Start.Add(x.Since() + c.set.HeadTimeout))
	}
	k.mu.Unlock()
	k.flushSoon(c)
	if !whole {
		k.awaitAnswer()
	}
	k.mu.Lock()
	k.attached, k.over = false, false
	whole = k.out.passed
	k.mu.Unlock()
	x.Legs = legs
	o.Reason, o.Detail = reason, detail
	return whole
}

// appendAnswerLocked appends the head of our own answer whose body has n bytes.
func (c *conn) appendAnswerLocked(id uint32, status int, r flow.Reason, n int, end bool, fields []route.Field) {
	at := c.beginBlockLocked()
	c.putLocked(":status", statusText(status))
	c.putLocked("content-type", "text/plain; charset=utf-8")
	c.putLocked(reasonField, r.String())
	c.putPlainLocked("content-length", strconv.Itoa(n))
	c.putAddedLocked(fields)
	c.endBlockLocked(at, id, end)
}

// appendReplyLocked appends the head of the answer that policy gives in a service's place.
func (c *conn) appendReplyLocked(id uint32, x *exchange.Exchange, end bool) {
	r := x.Reply
	at := c.beginBlockLocked()
	c.putLocked(":status", statusText(r.Status))
	c.putAddedLocked(r.Fields)
	c.putAddedLocked(x.Answer)
	if !exchange.Bodiless(r.Status) {
		if r.Type != "" {
			c.putLocked("content-type", r.Type)
		}
		c.putPlainLocked("content-length", strconv.Itoa(len(r.Body)))
	}
	c.endBlockLocked(at, id, end)
}

// appendGRPCAnswerLocked appends our own answer to a gRPC call: trailers only.
func (c *conn) appendGRPCAnswerLocked(id uint32, status flow.GRPCStatus, r flow.Reason, text []byte, fields []route.Field) {
	code, _ := status.Code()
	at := c.beginBlockLocked()
	c.putLocked(":status", "200")
	c.putLocked("content-type", "application/grpc")
	c.putLocked("grpc-status", strconv.Itoa(code))
	c.putPlainLocked("grpc-message", string(appendGRPCMessage(nil, exchange.Aliased(text))))
	c.putLocked(reasonField, r.String())
	c.putAddedLocked(fields)
	c.endBlockLocked(at, id, true)
}

// statusText is a status as a field value.
func statusText(status int) string {
	if status == 200 {
		return "200"
	}
	return strconv.Itoa(status)
}
