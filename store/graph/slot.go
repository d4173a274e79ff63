package graph

import (
	"cmp"
	"slices"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// unmeshed is the node of callers without identity; on the wire their service is "".
const unmeshed = "unmeshed"

// passthrough is the node of whatever is no service and is called through a sidecar; on the wire its service is "".
const passthrough = "passthrough"

// edgeKey names an edge.
type edgeKey struct{ source, destination, protocol string }

func (k edgeKey) id() string { return k.source + "→" + k.destination + ":" + k.protocol }

func compareEdges(a, b edgeKey) int {
	return cmp.Or(cmp.Compare(a.source, b.source), cmp.Compare(a.destination, b.destination), cmp.Compare(a.protocol, b.protocol))
}

type sideKey struct {
	edgeKey
	side flow.Side
}

// cellOf is where slots keep the cell of one side of an edge.
func (e *edge) cellOf(side flow.Side) int {
	if side == flow.SideServer {
		return 2*e.id + 1
	}
	return 2 * e.id
}

type versionKey struct {
	destination, version string
	side                 flow.Side
}

// endpointKey names what one reporter saw of one endpoint. On the server side the endpoint is the reporter's own. There is one *endpointKey of each
// (reporter.place), so that slots know it by its address.
type endpointKey struct {
	reporter          *reporter
	side              flow.Side
	service, endpoint string
	used              int64 // newest second of a slot that has it
	forgotten         bool  // the reporter has forgotten it; whoever kept it looks again
}

// slot is one second of observer time: [sec, sec+1).
type slot struct {
	sec       int64
	edges     []*cell // by edge.cellOf; nil where nothing happened
	endpoints map[*endpointKey]*endpointCell
	versions  map[versionKey]*versionCell
	amended   map[edgeKey]bool // counted after the slot was sealed

	spareCells     []*cell // empty, of what was here before
	spareEndpoints []*endpointCell
}

func newSlot(sec int64) *slot {
	return &slot{sec: sec, endpoints: map[*endpointKey]*endpointCell{}, versions: map[versionKey]*versionCell{}, amended: map[edgeKey]bool{}}
}

// reuse empties a slot for another second, and keeps its room.
func (s *slot) reuse(sec int64) {
	s.sec = sec
	for i := range s.edges {
		s.drop(i)
	}
	for k, c := range s.endpoints {
		s.dropEndpoint(k, c)
	}
	clear(s.versions)
	clear(s.amended)
}

// drop takes the cell at i out.
func (s *slot) drop(i int) {
	c := s.edges[i]
	if c == nil {
		return
	}
	s.edges[i] = nil
	c.latency.reset()
	clear(c.reasons)
	clear(c.grpc)
	*c = cell{latency: c.latency, reasons: c.reasons, grpc: c.grpc, exemplars: c.exemplars[:0]}
	s.spareCells = append(s.spareCells, c)
}

func (s *slot) dropEndpoint(k *endpointKey, c *endpointCell) {
	delete(s.endpoints, k)
	c.latency.reset()
	clear(c.reasons)
	*c = endpointCell{latency: c.latency, reasons: c.reasons, exemplars: c.exemplars[:0]}
	s.spareEndpoints = append(s.spareEndpoints, c)
}

// at is the cell at i, nil where nothing happened.
func (s *slot) at(i int) *cell {
	if i >= len(s.edges) {
		return nil
	}
	return s.edges[i]
}

// cell is what one side counted on an edge in one slot, or, added up, in a window.
type cell struct {
	requests, probes, errors          uint64 // errors: of requests that are not probes
	attempts, delivered               uint64
	bytesIn, bytesOut                 uint64
	messagesIn, messagesOut           uint64            // of gRPC
	grpc                              map[string]uint64 // exchanges by the name of their gRPC status
	connections, connErrors           uint64
	reasons                           map[string]uint64
	latency                           hist
	exemplars                         []example
	answered, unanswered, undelivered uint64
}

type versionCell struct{ requests, errors uint64 }

type endpointCell struct {
	requests, failures, probes, probeFailures uint64
	reasons                                   map[string]uint64
	latency                                   hist
	exemplars                                 []example
}

// example is one trace that stands for a series.
type example struct {
	trace  string
	value  float64 // seconds
	failed bool
}

// maxExamples bounds what a cell remembers.
const maxExamples = 8

// addExample keeps the worst: failures first, then the slowest; one per trace.
func addExample(list []example, e example) []example {
	for i := range list {
		if list[i].trace == e.trace {
			list[i].failed = list[i].failed || e.failed
			list[i].value = max(list[i].value, e.value)
			return sortExamples(list)
		}
	}
	list = sortExamples(append(list, e))
	return list[:min(len(list), maxExamples)]
}

func sortExamples(list []example) []example {
	slices.SortStableFunc(list, func(a, b example) int {
		if a.failed != b.failed {
			if a.failed {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.value, a.value), cmp.Compare(a.trace, b.trace))
	})
	return list
}

func traceIDs(list []example, most int) []string {
	var out []string
	for _, e := range list[:min(len(list), most)] {
		out = append(out, e.trace)
	}
	return out
}

func addReasons(into map[string]uint64, from map[string]uint64) map[string]uint64 {
	for r, n := range from {
		into = addReason(into, r, n)
	}
	return into
}

func addReason(into map[string]uint64, reason string, n uint64) map[string]uint64 {
	if reason == "" || n == 0 {
		return into
	}
	if into == nil {
		into = map[string]uint64{}
	}
	into[reason] += n
	return into
}

func (c *cell) add(o *cell) {
	c.requests += o.requests
	c.probes += o.probes
	c.errors += o.errors
	c.attempts += o.attempts
	c.delivered += o.delivered
	c.undelivered += o.undelivered
	c.answered += o.answered
	c.unanswered += o.unanswered
	c.bytesIn += o.bytesIn
	c.bytesOut += o.bytesOut
	c.messagesIn += o.messagesIn
	c.messagesOut += o.messagesOut
	c.grpc = addReasons(c.grpc, o.grpc)
	c.connections += o.connections
	c.connErrors += o.connErrors
	c.reasons = addReasons(c.reasons, o.reasons)
	c.latency.add(&o.latency)
	for _, e := range o.exemplars {
		c.exemplars = addExample(c.exemplars, e)
	}
}

func (c *endpointCell) add(o *endpointCell) {
	c.requests += o.requests
	c.failures += o.failures
	c.probes += o.probes
	c.probeFailures += o.probeFailures
	c.reasons = addReasons(c.reasons, o.reasons)
	c.latency.add(&o.latency)
	for _, e := range o.exemplars {
		c.exemplars = addExample(c.exemplars, e)
	}
}

// edge is the cell at i, made if it is not there.
func (s *slot) edge(i int) *cell {
	if i >= len(s.edges) {
		s.edges = append(s.edges, make([]*cell, i+1-len(s.edges))...)
	}
	c := s.edges[i]
	if c == nil {
		if n := len(s.spareCells); n > 0 {
			c, s.spareCells = s.spareCells[n-1], s.spareCells[:n-1]
		} else {
			c = &cell{}
		}
		s.edges[i] = c
	}
	return c
}

func (s *slot) endpoint(k *endpointKey) *endpointCell {
	c := s.endpoints[k]
	if c == nil {
		if n := len(s.spareEndpoints); n > 0 {
			c, s.spareEndpoints = s.spareEndpoints[n-1], s.spareEndpoints[:n-1]
		} else {
			c = &endpointCell{}
		}
		k.used = max(k.used, s.sec)
		s.endpoints[k] = c
	}
	return c
}

func (s *slot) version(k versionKey) *versionCell {
	c := s.versions[k]
	if c == nil {
		c = &versionCell{}
		s.versions[k] = c
	}
	return c
}
