package http2

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// bridge is what a call has beside its lanes when one of its sides is not HTTP/2. Frames move no lane to or from that side: goroutines do, the exchange's
// own the lane out, and another one, if the request has a body, the lane in. Each of them waits for its lane's mover, which has a place for one token and
// is looked at by nobody else, so that no token is lost: who wakes looks at everything.
type bridge struct {
	wake chan struct{} // mover of the lane in; that of the lane out is call.done

	// Of whoever moves the lane in.
	in      dirty
	reading alarm

	// Of the goroutine of the exchange.
	writing  alarm
	request  exchange.Request
	timeout  int // where grpc-timeout is in request.Fields, -1: nowhere
	trailers []exchange.Field

	// Guarded by call.mu.
	described bool // request is of the exchange in flight
	stopped   bool // ReadBody is to end
	eof       bool // ReadBody has said io.EOF
	interims  []interim
}

// maxInterims and maxInterimBytes bound the interim responses that wait for a guest. Others are left out, as they may be (RFC 9110, section 15.2).
const (
	maxInterims     = 8
	maxInterimBytes = 16 << 10
)

// interim is an interim response that waits for a guest.
type interim struct {
	status int
	fields []exchange.Field
	size   int
}

func newBridge() *bridge { return &bridge{wake: make(chan struct{}, 1)} }

// poke tells the mover of a lane to look.
func poke(mover chan struct{}) {
	select {
	case mover <- struct{}{}:
	default:
	}
}

// alarm is a timer that is used again and again by one goroutine.
type alarm struct{ t *time.Timer }

// at is a channel on which something comes at by; zero: never.
func (a *alarm) at(by time.Time) <-chan time.Time {
	if by.IsZero() {
		return nil
	}
	if a.t == nil {
		a.t = time.NewTimer(time.Until(by))
	} else {
		a.t.Reset(time.Until(by))
	}
	return a.t.C
}

func (a *alarm) off() {
	if a.t != nil {
		a.t.Stop()
	}
}

// wait flushes d and waits until l's mover is told to look, or until by, which it reports. k.mu is held, but not meanwhile.
func (k *call) wait(l *lane, d *dirty, a *alarm, by time.Time) (late bool) {
	mover := l.mover
	k.mu.Unlock()
	d.flush()
	select {
	case <-mover:
	case <-a.at(by):
		late = true
	}
	a.off()
	k.mu.Lock()
	return late
}

// take copies what waits in l to p, and grants it to whoever has sent it. k.mu is held.
func (k *call) take(l *lane, p []byte, d *dirty) (n int) {
	for n < len(p) && l.q.unsent > 0 {
		b := l.q.peek(len(p) - n)
		copy(p[n:], b)
		n += len(b)
		l.q.advance(len(b))
	}
	k.granted(l, n, d)
	return n
}

// granted is for n bytes that have gone on, as in pump.
func (k *call) granted(l *lane, n int, d *dirty) {
	if src, _ := k.ends(l); n > 0 && (!l.ended || l.owed > 0) {
		k.repay(l, src, n, d)
	}
}

// foreign is a field of another version of HTTP, marked to be dropped where it would say what a message is instead of something in it. There is none by
// the contract of package exchange; HTTP/2 must not carry one (RFC 9113, section 8.2.2).
func foreign(f *exchange.Field) field {
	g := field{name: f.Name, value: f.Value, id: identify(f.Name), sensitive: f.Sensitive}
	switch g.id {
	case fieldMethod, fieldScheme, fieldPath, fieldAuthority, fieldProtocol, fieldStatus, fieldHost, fieldContentLength, fieldTE, fieldHop:
		g.drop = true
	}
	return g
}

// toTrailers appends trailers of another version to dst, those marked that are not to go on.
func toTrailers(dst []field, trailers []exchange.Field) []field {
	at := len(dst)
	for i := range trailers {
		if f := foreign(&trailers[i]); !f.drop {
			dst = append(dst, f)
		}
	}
	_, _ = checkTrailers(dst[at:]) // marks more; what it would refuse is left out already
	return dst
}

// fromTrailers appends trailers that go on to dst, for another version.
func fromTrailers(dst []exchange.Field, trailers []field) []exchange.Field {
	for i := range trailers {
		if f := &trailers[i]; !f.drop {
			dst = append(dst, exchange.Field{Name: f.name, Value: f.value, Sensitive: f.sensitive})
		}
	}
	return dst
}

// holdInterim keeps an interim response for a guest. k.mu is held.
func (k *call) holdInterim(status int, fields []field) {
	b := k.b
	h := interim{status: status}
	for i := range fields {
		switch f := &fields[i]; f.id {
		case fieldStatus, fieldTulle, fieldContentLength:
		default:
			h.fields = append(h.fields, exchange.Field{Name: f.name, Value: f.value, Sensitive: f.sensitive})
			h.size += len(f.name) + len(f.value)
		}
	}
	left := maxInterimBytes - h.size
	for i := range b.interims {
		left -= b.interims[i].size
	}
	if left < 0 || len(b.interims) == maxInterims {
		return
	}
	b.interims = append(b.interims, h)
	k.signal()
}

// outOfTime is the error of a caller that takes nothing until the deadline of the exchange.
func outOfTime(x *exchange.Exchange) *exchange.BodyError {
	reason := flow.ReasonRequestTimeout
	if x.Streams() {
		reason = x.TimeoutReason(time.Now())
	}
	return &exchange.BodyError{Reason: reason, Text: "after " + x.Since().Round(time.Millisecond).String()}
}
