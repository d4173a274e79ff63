package flow

import "time"

// Split says where the time of a client exchange went, when both sidecars measured: durations inside one process each, so that no two clocks
// need to agree. The parts add up to the exchange's Duration.
type Split struct {
	Proxy       time.Duration // both sidecars reading the head, and the far one passing the request on
	Queue       time.Duration // from a read head until a connection was granted: policy, earlier tries, waiting; both sides
	Connect     time.Duration // TCP connect and TLS handshake of the caller's sidecar; 0 over a pooled connection
	Network     time.Duration // on the wire between the sidecars, both ways, and waking up
	Application time.Duration // from the whole request sent to the first byte of the answer
	Transfer    time.Duration // from the first to the last byte of the answer
}

// Part is one part of a Split in a word for people.
type Part struct {
	Name string
	Took time.Duration
}

// Parts lists the parts in the order in which they happen, but for the proxies, whose share is spread over all of it and stands first.
func (s Split) Parts() [6]Part {
	return [...]Part{
		{"proxies", s.Proxy},
		{"waiting", s.Queue},
		{"connecting", s.Connect},
		{"network", s.Network},
		{"application", s.Application},
		{"transfer", s.Transfer},
	}
}

// Split tells the parts of r apart; false when r is not a client exchange whose far side is known.
//
// The caller's sidecar measured how long it took from beginning to send until the first byte of the answer; the far one, how long from the
// first byte of the request until the first byte of the answer. What is between the two is the network. Where measuring (whole
// microseconds) would make it negative, it is 0.
func (r *Record) Split() (s Split, ok bool) {
	l, f := &r.Legs, &r.Far
	if !f.Known() || l.FirstByte < 0 || l.HeadParsed < 0 || l.Queued < l.HeadParsed {
		return Split{}, false
	}
	begin := max(l.Queued, l.Connected, l.Secured) // Unset is below all
	far := min(f.FirstByte, max(l.FirstByte-begin, 0))
	s.Connect = begin - l.Queued
	s.Network = max(l.FirstByte-begin, 0) - far
	s.Transfer = max(r.Duration-l.FirstByte, 0)
	// Of the far side, from the end: what its clock says after the cut above goes to the earlier part.
	if f.Sent >= 0 && f.Sent <= f.FirstByte {
		s.Application = min(f.FirstByte-f.Sent, far)
	}
	far -= s.Application
	if f.Queued >= f.HeadParsed {
		s.Queue = min(f.Queued-f.HeadParsed, far)
	}
	s.Proxy = l.HeadParsed + far - s.Queue
	s.Queue += l.Queued - l.HeadParsed
	return s, true
}
