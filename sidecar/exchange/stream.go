package exchange

import (
	"net"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// EventStream is the media type of server-sent events, by which an answer says that it is a stream.
const EventStream = "text/event-stream"

// BulkBytes is the Content-Length from which on an answer is Bulk: what takes so long is its size.
const BulkBytes = 1 << 20

// Nature is what an answer is by itself, whatever policy says.
type Nature uint8

// The natures of answers.
const (
	Ordinary Nature = iota
	Endless         // a stream: of gRPC, or of events
	Bulk            // long, and it says how long: it may take its time, as long as something moves
)

// NatureOf is that of an answer with a Content-Length, that is none.
func NatureOf(length int64) Nature {
	if length >= BulkBytes {
		return Bulk
	}
	return Ordinary
}

// streaming is what bounds an exchange that has become a stream: its answer has begun, and it is a call of gRPC, or the answer is an event stream or bulk, or policy bounds streams
// of its rule or service by themselves. The deadlines of request and try are over then: how long it may live and how long it may be silent count in their place.
//
// Invariants:
//
//  1. Exchange.Deadline does not change when the exchange becomes a stream, for who reads the caller's body may look at it: until is atomic, End reads both, and a wait that ends
//     too soon is begun again.
//  2. Silence is noticed by the observer, which looks at everything that lives once a second, and does not end what Unwatch has taken from it.
type streaming struct {
	until atomic.Int64  // after Exchange.Start, in ns; -1: without limit; 0: it is no stream
	idle  atomic.Int64  // how long it may be silent, in ns; 0: nobody looks. From above 0 to 0 under Exchange.mu
	over  atomic.Uint32 // the flow.Reason of its end, if it was silent for too long
	quiet atomic.Int64  // what idle was, for people
}

// Stream is told that the final answer to x has begun, before its head goes on, and reports whether x is a stream from here on; then End and Until have moved, and who waits until
// them waits anew. It is called once, by the goroutine of the exchange or by one that keeps it waiting
// meanwhile; a sender that has called it calls Unwatch when the try has ended.
func (x *Exchange) Stream(n Nature) bool {
	limit := x.StreamTimeout()
	if limit == 0 && n == Ordinary || x.Head.Mirror {
		return false
	}
	until := int64(-1)
	if limit > 0 {
		until = int64(limit)
	}
	if t := int64(x.Head.Timeout); t > 0 && (until < 0 || t < until) { // what the caller has said of its own time counts for streams, too
		until = t
	}
	x.stream.until.Store(until)
	idle := x.Idle()
	if n == Bulk && limit == 0 && !x.Deadline.IsZero() { // what its request had for all of it, each byte has
		if t := x.Deadline.Sub(x.Start); idle <= 0 || t < idle {
			idle = t
		}
	}
	if idle > 0 {
		x.stream.quiet.Store(int64(idle))
		x.stream.idle.Store(int64(idle))
	}
	return true
}

// Streams reports whether x has become a stream. Any goroutine.
func (x *Exchange) Streams() bool { return x.stream.until.Load() != 0 }

// StreamTimeout is how long a stream of x may live: by its rule, or else its service; 0: neither says anything of it; below: without limit.
func (x *Exchange) StreamTimeout() time.Duration {
	if a := x.Decision.Action; a != nil && a.Timeouts.Stream != 0 {
		return a.Timeouts.Stream
	}
	return x.Destination.StreamTimeout
}

// End is until when x has to be over, with all of its tries; zero: there is no limit. Any goroutine, once Deadline is set.
func (x *Exchange) End() time.Time {
	switch until := x.stream.until.Load(); {
	case until == 0:
		return x.Deadline
	case until < 0:
		return time.Time{}
	default:
		return x.Start.Add(time.Duration(until))
	}
}

// Prolong is for senders that wait by deadlines of connections, of an exchange that has just become a stream: it moves the attached connection's. down, unless nil, is the caller's,
// which is woken, too, when the stream is to end, until Unwatch.
func (x *Exchange) Prolong(down net.Conn) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if down != nil {
		x.down = down
	}
	if x.upstream != nil && x.aborted == flow.ReasonNone && x.stream.over.Load() == 0 {
		_ = x.upstream.SetDeadline(x.End())
	}
}

// Watched is how long x may be silent; 0: nobody has to look. Any goroutine.
func (x *Exchange) Watched() time.Duration { return time.Duration(x.stream.idle.Load()) }

// Silence ends a stream that was silent for too long. Any goroutine; not after x may have been used for another request.
func (x *Exchange) Silence() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.stream.idle.Load() == 0 {
		return
	}
	x.stream.over.Store(uint32(flow.ReasonIdleTimeout)) // before the deadlines: who moves one looks at it afterwards
	x.wakeLocked()
	x.stream.idle.Store(0)
}

// Unwatch ends what Stream and Prolong have begun: from here on nobody touches the connections of the try.
func (x *Exchange) Unwatch() {
	if !x.Streams() {
		return
	}
	x.mu.Lock()
	x.down = nil
	x.stream.idle.Store(0)
	x.mu.Unlock()
}

// Silenced reports whether x was ended by Silence; deadlines of its connections may have passed then. Any goroutine.
func (x *Exchange) Silenced() bool { return x.stream.over.Load() != 0 }

// Ceased reports whether a read or write that has timed out is not to be begun again: x was aborted, or was silent for too long, or its time is over. Any goroutine.
func (x *Exchange) Ceased() bool {
	if x.Aborted() != flow.ReasonNone {
		return true
	}
	end := x.End()
	return !end.IsZero() && !time.Now().Before(end)
}

func (s *streaming) reset() {
	if s.until.Load() != 0 {
		s.until.Store(0)
		s.idle.Store(0)
		s.over.Store(0)
		s.quiet.Store(0)
	}
}
