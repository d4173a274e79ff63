package flow

import "net/netip"

// memo keeps what one view wrote lately: for the shapes of Records, and for addresses. It is not safe for concurrent use.
type memo struct {
	shapes [memoShapes]written
	addrs  [memoAddrs]struct {
		v    netip.AddrPort
		text []byte
	}
}

// Powers of two.
const (
	memoShapes = 32
	memoAddrs  = 128
)

// shape is everything of a Record that visitShape visits, but for the letters of its names. Most Records have the shape, and the names, of one that was
// written just before.
type shape struct {
	kind             Kind
	phase            Phase
	side             Side
	protocol         Protocol
	reason           Reason
	grpc             GRPCStatus
	started          bool
	delivered        bool
	answered         bool
	probe, mirror    bool
	status           int
	attempt          int
	attempts         int
	server, endpoint netip.AddrPort
	known            bool
	pid              int32
	uid, gid         uint32
	size             [numNames]int32
}

const numNames = 18

func (r *Record) names() [numNames]string {
	s, d := &r.Source, &r.Destination
	return [...]string{
		r.UserAgent, r.Authority, s.Service, s.Identity, s.Instance, d.Instance, d.Service, d.Identity,
		s.Namespace, s.Version, d.Namespace, d.Version, r.Method, r.Route, r.Revision, r.Override, r.ServerName,
		r.Application.Socket,
	}
}

func (r *Record) shape(names *[numNames]string) shape {
	s := shape{
		kind: r.Kind, phase: r.Phase, side: r.Side, protocol: r.Protocol, reason: r.Reason, grpc: r.GRPC,
		started: r.Trace.Started, delivered: r.Delivered, answered: r.Answered, probe: r.Probe, mirror: r.Mirror,
		status: r.Status, attempt: r.Attempt, attempts: r.Attempts, server: r.Destination.Addr, endpoint: r.Endpoint,
		known: r.Application.Known, pid: r.Application.PID, uid: r.Application.UID, gid: r.Application.GID,
	}
	for i, n := range names {
		s.size[i] = int32(len(n)) //nolint:gosec // a head is smaller
	}
	return s
}

// written is what a view wrote for one shape with one set of names.
type written struct {
	shape shape
	names []byte // one behind the other: a copy, because a Record's strings may lie in memory that is used again
	bytes []byte
	used  bool
}

// of is where what visitShape writes for r has its place. When it is there, that is its second result; otherwise it is to be kept there.
func (m *memo) of(r *Record) (*written, []byte) {
	names := r.names()
	s := r.shape(&names)
	h := uint32(s.status)*7 + uint32(s.attempt)*3 + uint32(s.side) + uint32(s.endpoint.Port())*5 //nolint:gosec // a hash
	for _, n := range names[:6] {                                                                // what differs most
		if k := len(n); k > 0 {
			h = h*31 + uint32(k)<<8 + uint32(n[k-1])
		}
	}
	w := &m.shapes[h*0x9e3779b1>>27%memoShapes]
	if w.used && w.shape == s {
		b := w.names
		for _, n := range names {
			if string(b[:len(n)]) != n {
				break
			}
			b = b[len(n):]
		}
		if len(b) == 0 {
			return w, w.bytes
		}
	}
	w.shape, w.used, w.names = s, true, w.names[:0]
	for _, n := range names {
		w.names = append(w.names, n...)
	}
	return w, nil
}

// keep takes a copy of what was written.
func (w *written) keep(b []byte) { w.bytes = append(w.bytes[:0], b...) }

// addr is v as its String method writes it, until the next call.
func (m *memo) addr(v netip.AddrPort) []byte {
	e := &m.addrs[uint32(v.Port())*0x9e3779b1>>25%memoAddrs]
	if e.v != v {
		e.v, e.text = v, v.AppendTo(e.text[:0])
	}
	return e.text
}
