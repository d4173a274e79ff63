package http2

import (
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// resetSpan is the time over which resets are counted.
const resetSpan = 10 * time.Second

// guard counts what costs a peer little and us more. It belongs to the reader of its connection. What is counted for ever is compared with what an
// honest peer needs of it; see policy.HTTP2.
type guard struct {
	limits     policy.HTTP2
	empty      int // in a row
	priorities int
	windows    int
	strange    int // frames of unknown types
	streams    int // opened

	// Resets and streams of the present and of the former half of resetSpan.
	half          time.Time
	resets, begun [2]int
}

func (g *guard) init(l policy.HTTP2) { g.limits = l }

// meshResets is how many times the resets of one caller another sidecar may pass on: it carries those of all its callers, each of which it has held
// to the limit itself.
const meshResets = 10

// calm is the end of a connection whose peer has reached a limit.
func calm(l exchange.Limit, n int) *fatal {
	return &fatal{code: codeCalm, text: l.String() + " of " + strconv.Itoa(n) + " in this sidecar", limit: l, n: n}
}

// stream counts a stream that was opened.
func (g *guard) stream(c *conn) {
	g.streams++
	g.turn(c.now)
	g.begun[0]++
}

// turn moves the halves on.
func (g *guard) turn(now time.Time) {
	for now.Sub(g.half) >= resetSpan/2 {
		g.resets[1], g.begun[1] = g.resets[0], g.begun[0]
		g.resets[0], g.begun[0] = 0, 0
		if g.half = g.half.Add(resetSpan / 2); now.Sub(g.half) >= resetSpan/2 {
			g.resets[1], g.begun[1] = 0, 0
			g.half = now
		}
	}
}

// reset counts a RST_STREAM of the peer (CVE-2023-44487).
func (g *guard) reset(c *conn) *fatal {
	if c.client {
		return nil // an endpoint answers as it likes
	}
	g.turn(c.now)
	g.resets[0]++
	most := g.limits.Resets
	if c.mesh {
		most *= meshResets
	}
	if n := g.resets[0] + g.resets[1]; n > most && 2*n > g.begun[0]+g.begun[1] {
		return calm(exchange.LimitResets, g.limits.Resets)
	}
	return nil
}

// fault counts a reset of ours that the peer has provoked: to the work that it throws away it makes no difference who resets (CVE-2025-8671).
func (g *guard) fault(c *conn) *fatal { return g.reset(c) }

// emptyFrame counts a frame that costs work and brings nothing (CVE-2019-9518).
func (g *guard) emptyFrame(*conn) *fatal {
	if g.empty++; g.empty > g.limits.EmptyFrames {
		return calm(exchange.LimitEmptyFrames, g.limits.EmptyFrames)
	}
	return nil
}

// priority counts PRIORITY and PRIORITY_UPDATE (CVE-2019-9513).
func (g *guard) priority(*conn) *fatal {
	if g.priorities++; g.priorities > g.limits.PriorityFrames+g.streams {
		return calm(exchange.LimitPriorityFrames, g.limits.PriorityFrames)
	}
	return nil
}

// unknown counts frames of types that nobody has defined, with PRIORITY's limit.
func (g *guard) unknown(*conn) *fatal {
	if g.strange++; g.strange > g.limits.PriorityFrames+g.streams {
		return calm(exchange.LimitPriorityFrames, g.limits.PriorityFrames)
	}
	return nil
}

// windowUpdate counts WINDOW_UPDATE (CVE-2019-9511).
func (g *guard) windowUpdate(c *conn) *fatal {
	if g.windows++; g.windows <= g.limits.WindowUpdates+g.streams {
		return nil
	}
	c.mu.Lock()
	earned := 10 * c.sent
	if c.client {
		earned += int(c.nextID / 2)
	}
	c.mu.Unlock()
	if g.windows > g.limits.WindowUpdates+g.streams+earned {
		return calm(exchange.LimitWindowUpdates, g.limits.WindowUpdates)
	}
	return nil
}

// controlLocked looks at how many answers wait for the peer to read them (CVE-2019-9512, CVE-2019-9515).
func (g *guard) controlLocked(c *conn) *fatal {
	if c.acks > g.limits.ControlFrames {
		return calm(exchange.LimitControlFrames, g.limits.ControlFrames)
	}
	return nil
}
