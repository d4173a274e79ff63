package graph

// span is the seconds [from, to).
type span struct{ from, to int64 }

func (s span) has(sec int64) bool { return s.from <= sec && sec < s.to }

// rollLocked moves the sum of the live window to the seconds before g.sealed: what has come in is added, what has left is taken away, so that a tick
// costs two seconds' work and not the window's.
//
// What must stay true: g.rolling is the sum of the slots of g.rolled, cell by cell, without cells in which nothing happened. What arrives for a
// slot that is in it already is counted in both (ingestion.late).
func (g *Graph) rollLocked(seconds int64) {
	to := span{g.sealed - seconds, g.sealed}
	if g.rolling == nil || g.sealed < g.rolled.to || g.sealed-g.rolled.to > keepSlots-seconds {
		g.rolling, g.rolled = newSlot(0), span{to.from, to.from} // too far: slots that would have to be taken away may be gone
	}
	for sec := g.rolled.from; sec < min(to.from, g.rolled.to); sec++ {
		if s := g.slots[sec]; s != nil {
			g.rolling.subtract(s)
		}
	}
	for sec := max(g.rolled.to, to.from); sec < to.to; sec++ {
		if s := g.slots[sec]; s != nil {
			g.rolling.add(s)
		}
	}
	left := span{g.rolled.from, min(to.from, g.rolled.to)}
	g.rolled = to
	for sec := left.from; sec < left.to; sec++ {
		if s := g.slots[sec]; s != nil {
			g.exemplarsLocked(s)
		}
	}
}

// exemplarsLocked finds anew the examples of the cells that had some in a slot that left: a list of the worst cannot be taken back from.
func (g *Graph) exemplarsLocked(left *slot) {
	for i, c := range left.edges {
		if c == nil || len(c.exemplars) == 0 || g.rolling.at(i) == nil {
			continue
		}
		var list []example
		for sec := g.rolled.from; sec < g.rolled.to; sec++ {
			if s := g.slots[sec]; s != nil && s.at(i) != nil {
				for _, e := range s.at(i).exemplars {
					list = addExample(list, e)
				}
			}
		}
		if g.rolling.edges[i].exemplars = list; g.rolling.edges[i].empty() {
			g.rolling.drop(i)
		}
	}
}

func (s *slot) add(o *slot) {
	for i, c := range o.edges {
		if c != nil {
			s.edge(i).add(c)
		}
	}
	for k, c := range o.endpoints {
		s.endpoint(k).add(c)
	}
	for k, v := range o.versions {
		c := s.version(k)
		c.requests += v.requests
		c.errors += v.errors
	}
}

// subtract takes away a slot that was added, but for the examples.
func (s *slot) subtract(o *slot) {
	for i, c := range o.edges {
		if sum := s.at(i); c != nil && sum != nil {
			if sum.subtract(c); sum.empty() {
				s.drop(i)
			}
		}
	}
	for k, c := range o.endpoints {
		if sum := s.endpoints[k]; sum != nil {
			if sum.subtract(c); sum.requests == 0 && sum.probes == 0 && sum.latency.count == 0 {
				s.dropEndpoint(k, sum)
			}
		}
	}
	for k, v := range o.versions {
		if sum := s.versions[k]; sum != nil {
			sum.requests -= v.requests
			sum.errors -= v.errors
			if sum.requests == 0 {
				delete(s.versions, k)
			}
		}
	}
}

func (c *cell) subtract(o *cell) {
	c.requests -= o.requests
	c.probes -= o.probes
	c.errors -= o.errors
	c.attempts -= o.attempts
	c.delivered -= o.delivered
	c.undelivered -= o.undelivered
	c.answered -= o.answered
	c.unanswered -= o.unanswered
	c.bytesIn -= o.bytesIn
	c.bytesOut -= o.bytesOut
	c.messagesIn -= o.messagesIn
	c.messagesOut -= o.messagesOut
	subtractReasons(c.grpc, o.grpc)
	c.connections -= o.connections
	c.connErrors -= o.connErrors
	subtractReasons(c.reasons, o.reasons)
	c.latency.subtract(&o.latency)
}

// empty says that nothing is left; the examples are those of requests, attempts or durations that are left.
func (c *cell) empty() bool {
	return c.requests == 0 && c.attempts == 0 && c.bytesIn == 0 && c.bytesOut == 0 && c.messagesIn == 0 && c.messagesOut == 0 && c.connections == 0 && c.latency.count == 0 && len(c.exemplars) == 0
}

func (c *endpointCell) subtract(o *endpointCell) {
	c.requests -= o.requests
	c.failures -= o.failures
	c.probes -= o.probes
	c.probeFailures -= o.probeFailures
	subtractReasons(c.reasons, o.reasons)
	c.latency.subtract(&o.latency)
}

func subtractReasons(from, what map[string]uint64) {
	for r, n := range what {
		if left := from[r]; left > n {
			from[r] = left - n
		} else {
			delete(from, r)
		}
	}
}

// subtract takes away what was added before.
func (h *hist) subtract(o *hist) {
	if h.count -= o.count; h.count == 0 {
		h.reset() // without what rounding left of the sum
		return
	}
	h.sum -= o.sum
	h.zero -= o.zero
	for i, c := range o.n {
		if c > 0 {
			h.n[o.off-h.off+int32(i)] -= c
		}
	}
}
