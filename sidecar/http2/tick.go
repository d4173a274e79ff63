package http2

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// drainPing is in the PING that shows that the caller has seen the first GOAWAY of a drain (RFC 9113, section 6.8).
var drainPing = [8]byte{'d', 'r', 'a', 'i', 'n'}

// alivePing is in the PING that asks whether the peer is there.
var alivePing = [8]byte{'a', 'l', 'i', 'v', 'e'}

// drainWait is how long a drain waits for the answer to its PING.
const drainWait = time.Second

// period is how often a connection with streams is looked at: an eighth of the shortest time-out, for they are generous.
func (c *conn) period() time.Duration {
	l := &c.set
	p := 8 * time.Second
	for _, d := range [...]time.Duration{l.HeadTimeout, l.BodyTimeout, l.IdleTimeout, l.HTTP2.PingInterval, l.HTTP2.PingTimeout, l.HTTP2.Age, l.HTTP2.AgeGrace} {
		if d > 0 {
			p = min(p, d)
		}
	}
	return max(p/8, time.Millisecond)
}

// startTick begins to look at the connection from time to time: one timer for all of its time-outs.
func (c *conn) startTick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tick = time.AfterFunc(c.period(), c.onTick)
}

func (c *conn) stopTick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tick != nil {
		c.tick.Stop()
	}
}

// rouse makes sure that the next look is within a period.
func (c *conn) rouse() {
	c.mu.Lock()
	c.rouseLocked()
	c.mu.Unlock()
}

func (c *conn) rouseLocked() {
	if c.dozing && !c.dead && c.tick != nil {
		c.dozing = false
		c.tick.Reset(c.period())
	}
}

// timeHead notes since when a head has been on its way, before the connection is read on. One that lies there because it was not read counts from now.
func (c *conn) timeHead(waited bool) {
	coming := c.block.id != 0
	if !coming && c.w-c.r >= frameHeader { // the next frame has not come whole
		coming = parseFrame(c.in[c.r:c.w]).kind == frameHeaders
	}
	if !coming || c.heading && !waited {
		return
	}
	now := c.now
	if waited {
		now = time.Now()
	}
	c.heading = true
	c.headAt.Store(now.UnixNano())
	c.rouse()
}

func (c *conn) onTick() {
	now := time.Now()
	if !c.client {
		c.checkCalls(now)
	}
	var d dirty
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return
	}
	l := &c.set.HTTP2
	if at := c.stuck.Load(); at != 0 && now.UnixNano()-at > int64(l.PingTimeout) { // whoever waits for the write goes on when it fails
		if c.ending == endNot {
			c.ending = endDead
			c.room.Reached(exchange.LimitPingTimeout)
		}
		c.tick.Reset(c.period())
		c.mu.Unlock()
		c.broken()
		return
	}
	if c.ending != endNot { // the reader may still wait for a write
		c.tick.Reset(c.period())
		c.mu.Unlock()
		return
	}
	heard := time.Unix(0, c.heard.Load())
	silent := now.Sub(heard)
	next := c.period()
	switch head := c.headAt.Load(); {
	case head != 0 && now.UnixNano()-head > int64(c.set.HeadTimeout):
		c.ending = endHead
	case !c.pinged.IsZero() && silent < now.Sub(c.pinged):
		c.pinged = time.Time{} // it has sent something since
	case c.deaf: // c.stuck watches it
	case !c.pinged.IsZero() && now.Sub(c.pinged) > l.PingTimeout:
		c.ending = endDead
		c.room.Reached(exchange.LimitPingTimeout)
	case c.pinged.IsZero() && c.live > 0 && l.PingInterval > 0 && silent > l.PingInterval:
		c.pinged = now
		c.out = appendPing(c.out, false, alivePing)
		d.add(c)
	case c.live == 0 && silent >= c.set.IdleTimeout && head == 0:
		c.goAwayLocked(&d)
	case c.live == 0 && silent > next && head == 0 && c.stuck.Load() == 0 && c.drainAt.IsZero() && l.Age == 0:
		next = c.set.IdleTimeout - silent + time.Millisecond
		c.dozing = true
	}
	if !c.client && l.Age > 0 && c.drainAt.IsZero() && now.Sub(c.born) > l.Age {
		c.drainLocked(now, &d)
	}
	abort := false
	if !c.drainAt.IsZero() {
		if !c.drained && now.Sub(c.drainAt) > drainWait {
			c.lastGoawayLocked()
			d.add(c)
		}
		abort = l.Age > 0 && l.AgeGrace > 0 && now.Sub(c.drainAt) > l.AgeGrace
	}
	ended := c.ending != endNot || c.mustEndLocked()
	c.tick.Reset(next)
	leaving := c.client && c.going
	c.mu.Unlock()
	if leaving {
		c.pool.retire()
	}
	d.flush()
	if ended {
		c.wake()
	}
	if abort {
		c.server.abort(flow.ReasonDraining)
	}
}

// goAwayLocked ends a connection that has no stream, once.
func (c *conn) goAwayLocked(d *dirty) {
	if c.going {
		return // it is to be written, or ends
	}
	c.going = true
	if c.client {
		c.out = appendGoaway(c.out, 0, codeNone, "")
	} else {
		c.room.Reached(exchange.LimitIdleTimeout)
		c.drained = true
		c.out = appendGoaway(c.out, c.lastID, codeNone, "")
	}
	d.add(c)
}

// drain tells the caller that no more streams are taken: at first that the connection will end, and, when it must have seen that, which stream was the
// last. Streams that were accepted finish. It may be called by any goroutine.
func (c *conn) drain() {
	var d dirty
	c.mu.Lock()
	if c.drainAt.IsZero() && !c.dead {
		c.drainLocked(time.Now(), &d)
		if c.tick != nil {
			c.dozing = false
			c.tick.Reset(min(drainWait, c.period()))
		}
	}
	c.mu.Unlock()
	d.flush()
}

func (c *conn) drainLocked(now time.Time, d *dirty) {
	c.drainAt = now
	c.out = appendGoaway(c.out, maxStreamID, codeNone, "")
	c.out = appendPing(c.out, false, drainPing)
	d.add(c)
}

// lastGoawayLocked says which stream was the last.
func (c *conn) lastGoawayLocked() {
	if c.drained {
		return
	}
	c.drained = true
	c.out = appendGoaway(c.out, c.lastID, codeNone, "")
}

// checkCalls ends exchanges whose body does not move, and tunnels on which nothing does.
func (c *conn) checkCalls(now time.Time) {
	for _, at := range c.streams() {
		at.k.check(c, at.s, at.id, now)
	}
}

// check ends the exchange if its body, or its tunnel, has not moved for too long.
func (k *call) check(c *conn, s *stream, id uint32, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	lent := k.in.mover != nil && !k.tunnel && k.fallen() == nil // the tunnel's relay has its own time
	if !s.is(c, id) || k.over || !k.attached && !lent {
		return
	}
	still := now.Sub(k.moved)
	if k.tunnel {
		if t := k.x.Idle(); t > 0 && still > t {
			k.fail(flow.ReasonIdleTimeout, "no byte moved for "+t.String())
		}
		return
	}
	t := c.set.BodyTimeout
	// A stream of gRPC messages may pause, and so may a request that is answered already, or waits for a 100.
	if t <= 0 || still <= t || k.in.ended || k.in.q.unsent > 0 || k.req.grpc || k.req.connect || k.final || k.req.expect && k.in.got == 0 {
		return
	}
	k.fault = faultStalled
	c.room.Reached(exchange.LimitBodyTimeout)
	k.fail(flow.ReasonBadRequest, faultStalled.Text)
	if lent {
		k.tellSender()
	}
}
