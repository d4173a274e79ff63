package http2

import (
	"runtime"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// work is the worker of a call: it carries one exchange after the other.
func (k *call) work() {
	for range k.wake {
		k.serve()
		if !k.sess.rest(k) {
			break
		}
	}
	if k.timer != nil {
		k.timer.Stop()
	}
}

// serve carries one exchange from its head to its end.
func (k *call) serve() {
	s, x, r := k.sess, &k.x, &k.req
	x.Kind, x.Side, x.Protocol = flow.KindExchange, s.srv.Side, flow.ProtocolHTTP2
	if r.grpc {
		x.Protocol = flow.ProtocolGRPC
	}
	x.Peer, x.Start, x.Downstream, x.Crowded = s.sess.Peer, k.start, k, k.charged == 0
	x.Legs.HeadParsed = x.Since()
	h := &x.Head
	h.Method, h.Path, h.Authority, h.UserAgent = r.method, r.path, r.authority, r.userAgent
	h.Absolute, h.Secure = true, r.scheme == "https"
	h.Idempotent, h.Safe = exchange.Idempotent(r.method), exchange.Safe(r.method) && k.bare
	if r.grpc && r.timeout != "" {
		if h.Timeout = parseTimeout(r.timeout); h.Timeout > 0 {
			h.Timed = exchange.TimedGRPC
		}
	}
	if h.RequestID = r.value(r.requestID); r.requestID < 0 {
		exchange.AppendRequestID(k.mint[:0])
		h.RequestID = exchange.Aliased(k.mint[:])
	}
	k.adopt()
	k.forward()
	if len(x.Binding.Headers) > 0 {
		capture(x, r.fields, false)
	}
	s.srv.Handler.Handle(x)
	k.finish()
}

// adopt reads the trace context of the request into x.Head, by x.Binding.Propagation, and marks what is not passed on. Between sidecars
// traceparent always counts: their spans are linked by it.
func (k *call) adopt() {
	x, r := &k.x, &k.req
	w3c := false
	if r.traceparent >= 0 && (x.Binding.Propagation.W3C || k.sess.c.mesh) {
		x.Head.Parent, w3c = exchange.ParseTraceparent(r.value(r.traceparent))
	}
	if r.hops {
		k.adoptHops()
	}
	x.Head.B3 = x.Binding.Propagation.Emit
	if r.b3 && x.Binding.Propagation.ReadsB3() {
		var b exchange.B3Fields
		for i := range r.fields {
			if f := &r.fields[i]; f.id == fieldB3 && b.Add(f.name, f.value) {
				f.drop = true
			}
		}
		w3c = x.AdoptB3(&b, w3c, k.sess.c.mesh)
	}
	if !w3c { // tracestate means nothing without a valid traceparent
		for i := range r.fields {
			if r.fields[i].id == fieldTracestate {
				r.fields[i].drop = true
			}
		}
	}
}

// adoptHops reads what hops before this one tell of time and tries.
func (k *call) adoptHops() {
	x, r := &k.x, &k.req
	for i := range r.fields {
		switch f := &r.fields[i]; {
		case f.id == fieldTimeout:
			as := exchange.TimedHTTP
			if f.name == exchange.EnvoyTimeoutField {
				as = exchange.TimedEnvoy
			}
			f.drop = x.Head.TakeTimeout(as, f.value)
		case f.name == exchange.AttemptField && k.sess.c.mesh:
			x.Head.Attempt = exchange.ParseAttempt(f.value)
		case f.name == exchange.MirrorField && k.sess.c.mesh:
			x.Head.Mirror = f.value == "1"
		}
	}
}

// forward makes the fields by which an edge says who called it, in place of what callers said of it.
func (k *call) forward() {
	x, r := &k.x, &k.req
	if x.Binding.Listener.Proxy != nil { // what it is told is not for the origin (RFC 9110, section 11.7.2)
		for i := range r.fields {
			if f := &r.fields[i]; f.name == "proxy-authorization" {
				f.drop = true
			}
		}
	}
	if !x.Forward() {
		return
	}
	for i := range r.fields {
		if f := &r.fields[i]; f.id == fieldOther && x.Forwards(f.name, f.value) {
			f.drop = true
		}
	}
	x.Forwarding()
	r.fields = append(r.fields, field{name: exchange.ForwardedForField, value: string(x.Forwarded)}, field{name: exchange.ForwardedProtoField, value: x.ForwardedProto})
}

// finish closes the caller's stream.
func (k *call) finish() {
	o := &k.x.Outcome
	k.mu.Lock()
	c := k.down.c
	owed := k.in.owed
	k.finished = true
	appended, ended := c.leave(&k.down, k.endCode(o), owed)
	k.in.release()
	k.out.release()
	k.down.id = 0
	k.mu.Unlock()
	if appended {
		k.d.add(c)
	}
	if len(k.d.list) > 0 {
		k.flushSoon(c)
	} else if ended {
		c.wake()
	}
	if k.charged > 0 {
		c.room.Give(k.charged)
		k.charged = 0
	}
	clear(k.fields)
	k.fields = k.fields[:0]
	k.req.reset()
	k.x.Binding, k.x.Destination, k.x.Choice = nil, nil, exchange.Choice{} // a worker that rests holds no Snapshot
}

// endCode is with what a stream of a caller is reset that is not closed: never so that a cut response looks whole.
func (k *call) endCode(o *exchange.Outcome) code {
	switch {
	case o.Answered: // the caller may stop sending (RFC 9113, section 8.1)
		return codeNone
	case o.Reason == flow.ReasonRequestTimeout, o.Reason == flow.ReasonTryTimeout, o.Reason == flow.ReasonIdleTimeout, o.Reason == flow.ReasonStreamTimeout, o.Reason == flow.ReasonDownstreamReset:
		return codeCancel
	}
	return codeInternal
}

// flushSoon writes what the worker has appended, c first, after giving others that are ready the chance to append too.
func (k *call) flushSoon(c *conn) {
	c.mu.Lock()
	first := !c.soon
	c.soon = true
	c.mu.Unlock()
	if first {
		runtime.Gosched()
		c.mu.Lock()
		c.soon = false
		c.mu.Unlock()
		k.d.add(c)
	} else {
		k.d.remove(c) // whoever is first does it
	}
	k.d.flush()
}

// setDeadline makes await end at t; zero: never. A timer that is set is left to fire, for moving it at every request would cost more.
func (k *call) setDeadline(t time.Time) {
	k.deadline, k.expired = t, false
	if t.IsZero() || !k.timerAt.IsZero() && !k.timerAt.After(t) {
		return
	}
	k.timerAt = t
	if d := time.Until(t); k.timer == nil {
		k.timer = time.AfterFunc(d, k.onTimer)
	} else {
		k.timer.Reset(d)
	}
}

func (k *call) onTimer() {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if !k.timerAt.IsZero() && now.Before(k.timerAt) {
		return // it was moved while it fired
	}
	k.timerAt = time.Time{}
	if !k.attached || k.over || k.deadline.IsZero() {
		return
	}
	if now.Before(k.deadline) {
		k.timerAt = k.deadline
		k.timer.Reset(k.deadline.Sub(now))
		return
	}
	k.expired = true
	k.signal()
}

// Sender is the last handler of both paths: it sends the request to x.Choice.Endpoint and relays the response.
type Sender struct {
	Client *Client
}

// Handle makes one try. It leaves the result in x.Outcome.
func (s *Sender) Handle(x *exchange.Exchange) {
	k, ok := x.Downstream.(*call)
	if !ok {
		s.bridge(x)
		return
	}
	if k.fault != nil {
		x.Outcome.Fail(flow.ReasonBadRequest, k.fault.Text)
		return
	}
	if n := len(x.Sent.Append); n > 0 && (len(k.req.fields)+n > meshLimits.fields-ownLimits.fields || k.req.size+x.Sent.Size()+32*n > meshLimits.bytes-ownLimits.bytes) {
		k.fault = faultEdited
		x.Outcome.Fail(flow.ReasonBadRequest, faultEdited.Text)
		return
	}
	up := s.Client.get(x)
	if up == nil {
		return
	}
	if k.req.protocol != "" && !k.takesTunnels(x, up) {
		up.pool.release()
		if x.Outcome.Reason == flow.ReasonNone {
			k.fault = faultProtocol
			x.Outcome.Fail(flow.ReasonBadRequest, faultProtocol.Text)
		}
		return
	}
	k.try(up)
}

// try sends the request by c and sleeps until the try has ended.
func (k *call) try(c *conn) {
	x := &k.x
	defer c.pool.release()
	if !k.awaits(x) {
		return
	}
	defer x.Awaited()
	defer x.Unwatch()
	k.mu.Lock()
	if k.gone != flow.ReasonNone {
		x.Outcome.Fail(k.gone, k.goneText)
		k.mu.Unlock()
		return
	}
	k.attached, k.over, k.asking, k.heard, k.final, k.tunnel, k.told = true, false, false, false, false, false, false
	k.out.release()
	k.out.begin(false, k.sess.c.room)
	if !k.open(c) {
		k.attached = false
		k.mu.Unlock()
		return
	}
	k.in.open = true
	if !k.in.passed {
		k.pump(&k.in, nil, false, &k.d)
	}
	k.setDeadline(x.AnswerBy())
	k.mu.Unlock()
	k.flushSoon(c)
	k.await()
}

// awaits makes k hear what comes of a try of x, and nothing of what came before, until x.Awaited. False: x was aborted, which its outcome says.
func (k *call) awaits(x *exchange.Exchange) bool {
	select {
	case <-k.done:
	default:
	}
	if x.Await(k) {
		return true
	}
	x.Outcome.Fail(x.WhyAborted())
	return false
}

// open opens the stream of the try and appends its head. False: c takes no more streams, which x.Outcome says. k.mu is held.
func (k *call) open(c *conn) bool {
	x := &k.x
	up := &k.up
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || c.going || c.nextID > maxStreamID {
		c.going = true
		o := &x.Outcome
		o.Delivered, o.Unprocessed = false, true
		if detail, refused := x.CertificateRefused(c.why); refused && c.nextID == 1 { // nobody has used it: TLS 1.3 tells of a refusal after the handshake
			o.Fail(flow.ReasonTLSFailed, detail)
			return false
		}
		o.Stale = true
		o.Fail(flow.ReasonUpstreamReset, "the connection has ended")
		return false
	}
	if len(c.out) > maxHeads {
		o := &x.Outcome
		o.Delivered, o.Unprocessed = false, true
		o.Fail(flow.ReasonUpstreamReset, "the endpoint does not read")
		return false
	}
	*up = stream{c: c, call: k, id: c.nextID, window: c.initial, left: c.windowLocked(), opened: true}
	k.reused = c.nextID > 1
	c.nextID += 2
	c.table.add(up)
	c.live++
	c.open++
	c.rouseLocked()
	end := k.bare // gRPC wants an end without DATA as DATA, as it came
	k.appendRequest(c, end)
	x.Outcome.Delivered = true
	if end {
		k.in.passed = true
		up.localDone = true
		x.Legs.Sent = x.Since()
	} else if !k.req.grpc {
		x.Waiting.Excused.Store(true) // it may be the caller who is slow
	}
	k.d.add(c)
	return true
}

// appendRequest writes the head as it goes upstream. Both locks are held.
func (k *call) appendRequest(c *conn, end bool) {
	x, r := &k.x, &k.req
	at := c.beginBlockLocked()
	c.putLocked(":method", r.method)
	if r.scheme != "" {
		scheme := r.scheme
		if x.Destination.Originates() {
			scheme = "https" // of what is sent, whatever the application said to its sidecar
		}
		c.putLocked(":scheme", scheme)
	}
	if target := r.target; target != "" {
		if x.Path != "" {
			target = x.Path + target[len(r.path):]
		}
		if r.grpc {
			c.putLocked(":path", target)
		} else {
			c.putPlainLocked(":path", target)
		}
	}
	authority := r.authority
	if own := x.Rewrites(); own != "" && (!r.connect || r.protocol != "") {
		authority = own
	}
	if authority != "" { // HTTP/1.0 may do without
		c.putLocked(":authority", authority)
	}
	if r.protocol != "" {
		c.putLocked(":protocol", r.protocol)
	}
	for i := range r.fields {
		f := &r.fields[i]
		if f.drop || f.id >= fieldMethod && f.id <= fieldStatus || f.id == fieldGRPCTimeout && x.Head.Timed&exchange.TimedGRPC != 0 || f.omitted(&x.Sent) {
			continue
		}
		c.putFieldLocked(f)
	}
	c.putAddedLocked(x.Sent.Append)
	if x.Head.Timed&exchange.TimedGRPC != 0 { // what is left of it
		k.scratch = appendTimeout(k.scratch[:0], x.Left(time.Now()))
		c.enc.putNamed(namedTimeout, "grpc-timeout", exchange.Aliased(k.scratch))
	}
	k.scratch = exchange.AppendTraceparent(k.scratch[:0], x.Try)
	c.enc.putNamed(namedTraceparent, "traceparent", exchange.Aliased(k.scratch))
	if x.Head.B3 != 0 {
		x.EachB3(func(name, value string) { c.putPlainLocked(name, value) })
	}
	if x.Hops() {
		x.EachHop(time.Now(), func(name, value string) { c.putPlainLocked(name, value) })
	}
	if r.requestID < 0 {
		c.enc.putNamed(namedRequestID, "x-request-id", x.Head.RequestID)
	}
	c.endBlockLocked(at, k.up.id, end)
}

// await sleeps until the try has ended, and takes it apart.
func (k *call) await() {
	x := &k.x
	for {
		<-k.done
		k.mu.Lock()
		switch {
		case k.over:
			k.detach()
			return
		case x.Aborted() != flow.ReasonNone:
			k.fail(x.WhyAborted())
			k.detach()
			return
		case k.expired && x.Longer(time.Now()):
			k.setDeadline(x.AnswerBy())
		case k.expired:
			k.late()
			k.detach()
			return
		case k.asking:
			k.asking = false
			k.mu.Unlock()
			again := x.Gate.Retry(x, k.held.status)
			k.mu.Lock()
			if k.over { // something has ended it meanwhile
				k.detach()
				return
			}
			if again && !k.in.q.lost { // what came while the gate was asked may have made it impossible
				x.Outcome.Status, x.Outcome.Again = k.held.status, true
				k.fail(flow.ReasonUpstreamStatus, dropped(x))
				k.detach()
				return
			}
			k.commit(&k.held, k.fields, k.heldEnd, k.up.c.mesh, &k.d)
		}
		k.mu.Unlock()
		k.d.flush()
	}
}

// late ends a try whose deadline has passed, and says whose fault that was.
func (k *call) late() {
	x := &k.x
	r := x.TimeoutReason(time.Now())
	if r == flow.ReasonRequestTimeout && !x.Outcome.Committed && !k.req.grpc && !k.in.ended && k.in.q.unsent == 0 && !k.req.connect && (k.heard || !k.req.expect) {
		// A service that has read all there is of a request cannot be blamed for not having answered it, unless it was asked for a 100.
		k.fault = faultSlowBody
		k.fail(flow.ReasonBadRequest, faultSlowBody.Text)
		return
	}
	k.fail(x.Late(time.Now()))
}

// detach closes the stream of the try. It releases k.mu.
func (k *call) detach() {
	x := &k.x
	k.attached = false
	if !k.in.q.lost { // what comes between two tries waits behind the rest: the next one sends all of it
		k.in.open, k.in.passed = false, false
		k.in.q.rewind()
		k.in.sent = 0
	}
	c := k.up.c
	owed := k.out.owed
	k.out.owed = 0
	why := codeCancel
	if x.Outcome.Answered {
		why = codeNone
	}
	appended, ended := c.leave(&k.up, why, owed)
	k.up.id = 0
	k.out.release()
	k.mu.Unlock()
	if appended {
		k.d.add(c)
	}
	if len(k.d.list) > 0 {
		k.d.flush()
	}
	if ended {
		c.wake()
	}
}

// awaitAnswer sleeps until our own answer has gone on whole, or never will.
func (k *call) awaitAnswer() {
	for {
		<-k.done
		k.mu.Lock()
		stop := k.over || k.expired || k.gone != flow.ReasonNone
		k.mu.Unlock()
		if stop {
			return
		}
	}
}
