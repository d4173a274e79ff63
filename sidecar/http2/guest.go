package http2

import (
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// guest carries one try of an exchange whose caller does not speak HTTP/2 over a stream of a Client's connection. The stream belongs to a call without a
// session, whose stream of a caller belongs to no connection. Frames do to it what they do to any other call, but for what would go to the caller:
//
//  1. heads are held for the goroutine of the exchange, interim ones too, as those are natively about which the gate is asked;
//  2. the lane out is not open: the body waits in it, at most its window, until the caller has taken it, and is granted to the endpoint then;
//  3. the lane in is filled by a goroutine that reads the caller's body, and waits while the endpoint's windows have no room.
//
// Frames come at any time, so call.x is not the Exchange, which belongs to its own goroutine: what they say of the try is noted there under call.mu, and
// taken over by note.
type guest struct {
	k      call
	x      *exchange.Exchange
	caller exchange.Caller
	req    *exchange.Request
	room   *exchange.Room
	fields []exchange.Field // of the head that goes to the caller

	uploading bool          // upload runs; of the goroutine of the exchange
	uploaded  chan struct{} // it has ended
	kept      bool          // the caller has something to flush
	committed bool

	// Guarded by k.mu.
	stop   bool  // upload is to end
	failed error // of the caller's body
}

func newGuest() *guest {
	g := &guest{uploaded: make(chan struct{}, 1)}
	g.k.done = make(chan struct{}, 1)
	g.k.b = newBridge()
	return g
}

// bridge makes one try for a caller that does not speak HTTP/2.
func (s *Sender) bridge(x *exchange.Exchange) {
	caller, ok := x.Downstream.(exchange.Caller)
	if !ok {
		x.Outcome.Fail(flow.ReasonUpstreamProtocol, "only HTTP can be sent as HTTP/2")
		return
	}
	if e := caller.Fault(x); e != nil {
		x.Outcome.Fail(e.Reason, e.Text)
		return
	}
	up := s.Client.get(x)
	if up == nil {
		return
	}
	defer up.pool.release()
	g, _ := s.Client.guests.Get().(*guest)
	if g == nil {
		g = newGuest()
	}
	g.x, g.caller, g.req, g.room = x, caller, caller.Request(x), x.Binding.Room
	g.room.Need(callMemory)
	if g.req.Protocol == "" || g.takesTunnels(up) {
		g.try(up)
	}
	g.leave()
	s.Client.guests.Put(g)
}

// takesTunnels is call.takesTunnels.
func (g *guest) takesTunnels(up *conn) bool {
	if g.k.takesTunnels(g.x, up) {
		return true
	}
	if g.x.Outcome.Reason == flow.ReasonNone {
		g.caller.Refuse(g.x, faultWebSocket)
	}
	return false
}

// leave forgets the exchange.
func (g *guest) leave() {
	g.room.Give(callMemory)
	k := &g.k
	k.mu.Lock()
	k.in.release()
	k.out.release()
	k.req.reset()
	clear(k.fields)
	k.fields, k.held = k.fields[:0], response{}
	k.up.c, k.up.id = nil, 0
	k.x.Head, k.x.Outcome, k.x.Destination = exchange.Head{}, exchange.Outcome{}, nil
	k.x.Choice, k.x.Decision.Action = exchange.Choice{}, nil
	clear(k.b.interims)
	k.b.interims = k.b.interims[:0]
	clear(k.b.trailers)
	k.mu.Unlock()
	clear(g.fields)
	g.x, g.caller, g.req, g.room = nil, nil, nil, nil
	g.fields, g.failed, g.kept, g.committed = g.fields[:0], nil, false, false
}

// try sends the request by c and carries the response until the try has ended.
func (g *guest) try(c *conn) {
	k, x := &g.k, g.x
	if !k.awaits(x) {
		return
	}
	defer x.Awaited()
	defer x.Unwatch()
	k.mu.Lock()
	g.begin()
	if !k.open(c) {
		k.attached = false
		g.ended()
		k.mu.Unlock()
		return
	}
	k.in.open = true
	k.setDeadline(x.AnswerBy())
	k.mu.Unlock()
	if !g.req.Bare {
		if x.Protocol != flow.ProtocolGRPC {
			x.Waiting.Excused.Store(true) // it may be the caller who is slow
		}
		g.caller.Rewind(x)
		g.uploading = true
		g.room.Need(chunkSize)
		go g.upload()
	}
	k.flushSoon(c)
	g.relay()
	g.stopUpload()
	if g.committed && !x.Outcome.Answered {
		g.caller.Cut(x)
	}
	k.mu.Lock()
	g.note()
	k.x.Outcome.Answered = x.Outcome.Answered
	k.detach()
}

// begin makes the call ready for the try. k.mu is held.
func (g *guest) begin() {
	k, x, q := &g.k, g.x, g.req
	m := &k.x
	m.Side, m.Start, m.Try, m.Destination, m.Authority = x.Side, x.Start, x.Try, x.Destination, x.Authority
	m.Choice, m.Protocol, m.Decision.Action = x.Choice, x.Protocol, x.Decision.Action
	m.Deadline, m.TryDeadline, m.HeadBy = x.Deadline, x.TryDeadline, x.HeadBy
	m.Head.Mirror = x.Head.Mirror
	m.Head.Timeout, m.Head.Timed, m.Head.Attempt, m.Retries = x.Head.Timeout, x.Head.Timed&^exchange.TimedGRPC, x.Head.Attempt, x.Retries // grpc-timeout is among the fields
	m.Head.B3, m.Legs, m.Outcome = x.Head.B3, exchange.NoLegs, exchange.Outcome{}
	k.attached, k.over, k.asking, k.heard, k.final, k.tunnel, k.told, k.finished = true, false, false, false, false, false, false, false
	k.in.begin(false, g.room)
	k.out.begin(false, g.room)
	k.in.mover, k.out.mover = k.b.wake, k.done
	g.stop = false

	r := &k.req
	// The tables of the compression keep strings.
	r.method, r.target, r.authority, r.protocol = strings.Clone(q.Method), strings.Clone(q.Target), strings.Clone(q.Authority), strings.Clone(q.Protocol)
	r.scheme = "http"
	r.grpc, r.expect = x.Protocol == flow.ProtocolGRPC, q.Expect
	r.connect = q.Method == "CONNECT" || q.Protocol != ""
	r.requestID = 0 // it is among the fields
	switch {
	case q.Protocol != "":
		r.method = "CONNECT"
	case r.connect:
		r.scheme, r.target = "", ""
	}
	k.bare = q.Bare && !r.connect
	k.in.ended = k.bare
	for i := range q.Fields {
		if f := foreign(&q.Fields[i]); !f.drop {
			r.fields = append(r.fields, f)
		}
	}
	if q.Length >= 0 && !r.connect {
		r.fields = append(r.fields, field{name: "content-length", value: strconv.FormatInt(q.Length, 10), id: fieldContentLength})
	}
	if q.Expect {
		r.fields = append(r.fields, field{name: "expect", value: "100-continue", id: fieldExpect})
	}
	if q.Trailers {
		r.fields = append(r.fields, field{name: "te", value: "trailers", id: fieldTE})
	}
}

// note takes over what frames have said of the try. k.mu is held.
func (g *guest) note() {
	from, to := &g.k.x.Outcome, &g.x.Outcome
	to.Delivered, to.Unprocessed, to.Stale = from.Delivered, from.Unprocessed, from.Stale
	if from.GRPC != 0 {
		to.GRPC = from.GRPC
	}
	to.RetryAfter, to.Told = from.RetryAfter, from.Told
	g.x.Legs.Sent = g.k.x.Legs.Sent
	if first := g.k.x.Legs.FirstByte; first >= 0 {
		g.x.FirstByte(first)
	}
}

// ended takes over how frames, or the lack of them, have ended the try. k.mu is held.
func (g *guest) ended() {
	g.note()
	o := &g.k.x.Outcome
	g.x.Outcome.Fail(o.Reason, o.Detail)
}

// upload passes the caller's body on until its end, or until stop.
func (g *guest) upload() {
	k, l := &g.k, &g.k.in
	buf := chunkPool.Get().(*[chunkSize]byte)
	for {
		n, err := g.caller.ReadBody(g.x, buf[:])
		end := errors.Is(err, io.EOF)
		var trailers []exchange.Field
		if end {
			trailers = g.caller.RequestTrailers()
		}
		k.mu.Lock()
		if !g.enough() {
			if end {
				l.trailers = toTrailers(l.trailers[:0], trailers)
				l.ended, l.trailing = true, len(l.trailers) > 0
			}
			k.pump(l, buf[:n], false, &k.b.in)
		}
		for l.q.unsent > 0 && !g.enough() {
			k.wait(l, &k.b.in, &k.b.reading, time.Time{})
		}
		over := err != nil || g.enough()
		if err != nil && !end && !errors.Is(err, exchange.ErrStopped) {
			g.failed = err
			k.signal()
		}
		k.mu.Unlock()
		k.b.in.flush()
		if over {
			break
		}
	}
	chunkPool.Put(buf)
	g.room.Give(chunkSize)
	g.uploaded <- struct{}{}
}

// enough reports whether nobody waits for the rest of the body: a response that is whole ends the try, as it does natively, though the caller may not have
// taken it yet. k.mu is held.
func (g *guest) enough() bool { return g.stop || g.k.over || g.k.out.ended }

// stopUpload ends upload, and waits for that.
func (g *guest) stopUpload() {
	if !g.uploading {
		return
	}
	g.caller.StopBody()
	g.k.mu.Lock()
	g.stop = true
	g.k.mu.Unlock()
	poke(g.k.b.wake)
	<-g.uploaded
	g.uploading = false
}

// fail ends the try because of the caller's side.
func (g *guest) fail(err error) {
	e := (*exchange.BodyError)(nil)
	if !errors.As(err, &e) {
		e = &exchange.BodyError{Reason: flow.ReasonDownstreamReset, Text: err.Error()}
	}
	g.x.Outcome.Fail(e.Reason, e.Text)
}

// relay passes what comes of the endpoint on to the caller. It returns when the try has ended.
func (g *guest) relay() {
	k, x, l := &g.k, g.x, &g.k.out
	for {
		aborted := x.Aborted()
		k.mu.Lock()
		g.note()
		switch {
		case k.over:
			g.ended()
			k.mu.Unlock()
			return
		case aborted != flow.ReasonNone:
			k.mu.Unlock()
			x.Outcome.Fail(x.WhyAborted())
			return
		case g.failed != nil:
			err := g.failed
			k.mu.Unlock()
			if e := (*exchange.BodyError)(nil); errors.As(err, &e) && e.Reason == flow.ReasonRequestTimeout {
				g.late()
			} else {
				g.fail(err)
			}
			return
		case k.expired && x.Longer(time.Now()):
			k.setDeadline(x.AnswerBy())
			k.mu.Unlock()
		case k.expired:
			k.mu.Unlock()
			g.late()
			return
		case len(k.b.interims) > 0:
			i := k.b.interims[0]
			k.b.interims = append(k.b.interims[:0], k.b.interims[1:]...)
			k.mu.Unlock()
			err := g.caller.WriteHead(x, &exchange.Response{Status: i.status, Fields: i.fields, Length: -1}, false)
			if g.kept = true; err != nil {
				g.fail(err)
				return
			}
		case k.asking:
			k.asking = false
			k.mu.Unlock()
			if !g.head() {
				return
			}
		case g.committed && l.q.unsent > 0:
			p := l.q.peek(chunkSize) // stays until advance, whatever comes behind it
			k.mu.Unlock()
			err := g.caller.WriteBody(x, p)
			if g.kept = true; err != nil {
				g.fail(err)
				return
			}
			k.mu.Lock()
			l.q.advance(len(p))
			k.granted(l, len(p), &k.d)
			k.mu.Unlock()
			k.d.flush()
		case g.committed && l.ended:
			k.b.trailers = fromTrailers(k.b.trailers[:0], l.trailers)
			k.mu.Unlock()
			if err := g.caller.WriteEnd(x, k.b.trailers); err != nil {
				g.fail(err)
			}
			return
		default:
			k.mu.Unlock()
			if !g.sleep() {
				return
			}
		}
	}
}

// sleep waits until something has happened. False: the caller has left.
func (g *guest) sleep() bool {
	g.k.d.flush()
	if g.kept {
		if g.kept = false; !g.flush() {
			return false
		}
	}
	<-g.k.done
	if e := g.caller.Fault(g.x); e != nil {
		g.fail(e)
		return false
	}
	return true
}

func (g *guest) flush() bool {
	if err := g.caller.Flush(g.x); err != nil {
		g.fail(err)
		return false
	}
	return true
}

// head passes the final head on. False: the try has ended.
func (g *guest) head() bool {
	k, x, r := &g.k, g.x, &g.k.held
	if x.Gate != nil && x.Asks(r.status, x.Outcome.GRPC) {
		g.stopUpload() // the gate asks what can be sent again, and a service that gives up will hardly read the rest
		if e := g.caller.Fault(x); e != nil {
			g.fail(e)
			return false
		}
		if x.Gate.Retry(x, r.status) {
			x.Outcome.Status, x.Outcome.Again = r.status, true
			x.Outcome.Fail(flow.ReasonUpstreamStatus, dropped(x))
			return false
		}
	}
	end := k.heldEnd
	k.judge(x, r, k.fields, end, k.up.c.mesh)
	h := exchange.Response{Status: r.status, Length: r.length, Fields: g.fields[:0], Tunnel: k.tunnel}
	for i := range k.fields {
		if f := &k.fields[i]; !f.drop && f.id != fieldStatus && f.id != fieldContentLength {
			h.Fields = append(h.Fields, exchange.Field{Name: f.name, Value: f.value, Sensitive: f.sensitive})
		}
	}
	g.fields = h.Fields
	switch {
	case h.Tunnel:
		if h.Length, end = -1, false; g.req.Protocol != "" {
			h.Status = 101
		}
	case r.status == 204:
		h.Length, end = -1, true
	case r.status == 304 || g.req.Method == "HEAD":
		end = true
	}
	if !end && !h.Tunnel && x.Stream(k.streams(k.fields)) {
		k.mu.Lock()
		k.setDeadline(x.End())
		k.mu.Unlock()
	}
	if err := g.caller.WriteHead(x, &h, end); err != nil {
		g.fail(err)
		return false
	}
	g.kept, g.committed = true, true
	if h.Tunnel {
		g.tunnel()
		return false
	}
	return true
}

// tunnel relays bytes both ways until both sides have ended.
func (g *guest) tunnel() {
	k, x := &g.k, g.x
	if !g.flush() {
		return
	}
	x.Awaited() // who relays is woken by deadlines
	end := &tunnel{k: k, c: k.up.c, r: &k.out, w: &k.in, read: &k.d, written: &k.b.in}
	g.room.Need(exchange.RelayMemory)
	reason, err := exchange.Relay(x, g.caller.Tunnel(x), exchange.RelayEnd{Conn: end}, x.Idle())
	g.room.Give(exchange.RelayMemory)
	x.Legs.LastByte = x.Since()
	if reason != flow.ReasonNone {
		x.Outcome.Fail(reason, err.Error())
		return
	}
	x.Outcome.Answered = true
}

// late ends a try whose deadline has passed, and says whose fault that was, as call.late does.
func (g *guest) late() {
	k, x := &g.k, g.x
	r := x.TimeoutReason(time.Now())
	k.mu.Lock()
	waits := !k.in.ended && k.in.q.unsent == 0 && !k.req.connect && !k.req.grpc && (k.heard || !g.req.Expect)
	k.mu.Unlock()
	if r == flow.ReasonRequestTimeout && !x.Outcome.Committed && waits {
		g.caller.Refuse(x, faultSlowBody)
		return
	}
	x.Outcome.Fail(x.Late(time.Now()))
}
