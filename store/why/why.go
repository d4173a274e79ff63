// Package why explains what became of a request, from what the sidecars on its way have written down: hop by hop, which hop is to blame and for what reason, who
// decided, by which policy revision, what was known of the endpoint then, what retries have cost, and what to do next.
//
// Explain is a pure function: a trace, the events and the graph of that time in, an Explanation out. The HTTP API serves it, the command line and the dashboard
// draw it. What it blames is held to a labelled set of failures that real sidecars have recorded (testdata, `make why-fixtures`).
//
// How blame goes from hop to hop, beginning with the one that was asked about:
//  1. A sidecar that answers in place of its service says why. The far one's word counts before the near one's: it knows more.
//  2. An application that answers with a failure is to blame, unless a call of its own had failed before: then the question is asked of that call.
//  3. Where time ran out, the call that was waited for longest is asked, as long as it took most of the time.
//  4. What was given up because the caller had left is blamed on whoever left, and he is asked why.
//  5. Nothing is guessed: where nobody reports, the Explanation says that nobody does.
package why

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/flow/otlpin"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

// By says who made a request end as it did: sidecars and the controller by deciding so, applications by what they did or did not do in time.
type By string

// The closed vocabulary of By.
const (
	ByApplication   By = "application"    // the service that was called
	ByCalledSidecar By = "called_sidecar" // the sidecar in front of it, in its place
	ByCallerSidecar By = "caller_sidecar" // the sidecar of who called, in its place
	ByCaller        By = "caller"         // who called: it left, or what it sent cannot be understood
	ByController    By = "controller"     // it had taken away what could have served
	ByUnknown       By = "unknown"        // nobody has reported who
)

// Outcome says how a request ended.
type Outcome string

// The closed vocabulary of Outcome.
const (
	OK         Outcome = "ok"          // it went well at the first try
	Recovered  Outcome = "recovered"   // it went well, and not at once: a try, or a call on the way, had failed
	Refused    Outcome = "refused"     // turned away, or answered with a 4xx: no failure of the service
	Failed     Outcome = "failed"      // it failed, by the rule of Records
	CallerLeft Outcome = "caller_left" // the caller did not wait for the answer
)

// Input is what is known. Only Trace is required.
type Input struct {
	Trace ptrace.Traces
	Span  flow.SpanID // the hop that is asked about, by any of its spans; zero: the trace as a whole
	// Events are those of a while before and during the trace, in any order.
	Events []event.Event
	// Graph is what was counted at that time; nil: not known.
	Graph *graph.Snapshot
}

// Explanation is the answer.
type Explanation struct {
	TraceID  string        `json:"traceId"`
	Outcome  Outcome       `json:"outcome"`
	Summary  string        `json:"summary"`          // one sentence
	Reason   string        `json:"reason,omitempty"` // of docs/format/record.md; "" where no sidecar has one to give
	By       By            `json:"by,omitempty"`     // "" when nothing went wrong
	Culprit  int           `json:"culprit"`          // index into Hops; -1 when nothing went wrong
	Hops     []Hop         `json:"hops"`             // callers before callees, by start
	Omitted  int           `json:"omitted,omitempty"`
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"durationNs"`
	// Longest is where most of the time went, in words.
	Longest string   `json:"longest,omitempty"`
	Next    []string `json:"next,omitempty"`    // what to do, the most useful first
	Missing []string `json:"missing,omitempty"` // what nobody has reported, so that it is not known
}

// Hop is one call from one service to another, as both sides have seen it.
type Hop struct {
	Depth    int           `json:"depth"` // 0: what was asked about
	From     string        `json:"from"`  // "" is a caller outside the mesh
	To       string        `json:"to"`
	Span     string        `json:"span"`     // of the exchange, of the caller's side where there is one
	Sides    string        `json:"sides"`    // both | client | server: who reported
	Kind     string        `json:"kind"`     // exchange | connection
	Protocol string        `json:"protocol"` //
	Request  string        `json:"request"`  // "GET /items/7", "shop.Cart/Get"
	Route    string        `json:"route,omitempty"`
	Status   int           `json:"status,omitempty"`
	GRPC     string        `json:"grpc,omitempty"`
	Reason   string        `json:"reason,omitempty"` // that counts: the far side's before the near one's
	Detail   string        `json:"detail,omitempty"` // in the words of the sidecar that decided
	Failed   bool          `json:"failed"`
	By       By            `json:"by,omitempty"`
	Says     string        `json:"says"` // what happened here, one sentence
	Start    time.Time     `json:"start"`
	Duration time.Duration `json:"durationNs"`
	Endpoint string        `json:"endpoint,omitempty"` // of the last try
	Instance string        `json:"instance,omitempty"` // that it is, where known
	Tries    []Try         `json:"tries,omitempty"`    // when there was more than one, or the only one failed
	Cost     time.Duration `json:"costNs,omitempty"`   // from its begin until the last try: what earlier ones and the waits between have cost
	Revision string        `json:"revision,omitempty"` // policy revision by which the side that decided judged it
	Override string        `json:"override,omitempty"` // of the controller, that steered it
	Health   *Health       `json:"health,omitempty"`   // of the endpoint, at that time
}

// Try is one attempt against one endpoint.
type Try struct {
	Number    int           `json:"number"`
	Endpoint  string        `json:"endpoint,omitempty"`
	Status    int           `json:"status,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	Detail    string        `json:"detail,omitempty"`
	Delivered bool          `json:"delivered"`
	Start     time.Time     `json:"start"`
	Duration  time.Duration `json:"durationNs"`
}

// Health is what was known of an endpoint when it was tried.
type Health struct {
	State  string     `json:"state"` // healthy | ejected | weighted | unknown
	Since  *time.Time `json:"since,omitempty"`
	Rate   float64    `json:"rate"`       // tries per second, of all its callers
	Errors float64    `json:"errorRatio"` // 0 to 1
	P99    float64    `json:"p99"`        // seconds
	Event  string     `json:"event,omitempty"`
	Says   string     `json:"says"`
}

// maxHops bounds an answer: the way to the culprit and what failed come first.
const maxHops = 100

// exchange is one call while it is being judged.
type exchange struct {
	client, server *report // one of them may be nil
	tries          []*report
	served         []*report   // the called side's Records, one for each try that came there; server is that of the last
	calls          []*exchange // made by the service that was called, because of it; by start
	parent         *exchange
	via            flow.SpanID // the span of parent because of which it was made
	end            time.Time
}

// report is a Record and who wrote it.
type report struct {
	flow.Record
	res flow.Resource
}

func (r *report) end() time.Time { return r.Start.Add(r.Duration) }

// near is the Record by which the hop is known: the caller's where there is one.
func (x *exchange) near() *report {
	if x.client != nil {
		return x.client
	}
	return x.server
}

func (x *exchange) to() string {
	if s := x.near().Destination.Service; s != "" {
		return s
	}
	if x.server != nil {
		return x.server.res.Service
	}
	return ""
}

func (x *exchange) from() string {
	if s := x.near().Source.Service; s != "" {
		return s
	}
	if x.client != nil {
		return x.client.res.Service
	}
	return ""
}

// build joins the Records of a trace to calls and returns those that nobody has called. Spans that are no Records join what stands above and below them.
func build(td ptrace.Traces) (roots []*exchange, all []*exchange) {
	parents := map[flow.SpanID]flow.SpanID{}
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				parents[flow.SpanID(s.SpanID())] = flow.SpanID(s.ParentSpanID())
			}
		}
	}
	byID := map[flow.SpanID]*report{}
	var order []*report
	otlpin.Records(td, func(res flow.Resource, r flow.Record) bool {
		if r.Mirror {
			return true // somebody else's request, and nobody waits for it
		}
		old := byID[r.Trace.SpanID]
		if old == nil {
			old = &report{}
			byID[r.Trace.SpanID] = old
			order = append(order, old)
		} else if old.Phase == flow.PhaseClose || r.Phase == flow.PhaseProgress && r.Duration < old.Duration {
			return true // progress of what has ended since, or the same again
		}
		*old = report{r, res}
		return true
	})
	slices.SortStableFunc(order, func(a, b *report) int { return a.Start.Compare(b.Start) })
	of := map[flow.SpanID]*exchange{} // by any span of it
	for _, r := range order {
		if r.Kind != flow.KindAttempt && (r.Side == flow.SideClient || r.Kind == flow.KindConnection) {
			x := &exchange{client: r, end: r.end()}
			if r.Side == flow.SideServer {
				x.client, x.server = nil, r
			}
			of[r.Trace.SpanID], all = x, append(all, x)
		}
	}
	for _, r := range order {
		if r.Kind != flow.KindAttempt {
			continue
		}
		if x := of[r.Trace.ParentID]; x != nil && x.client != nil {
			x.tries = append(x.tries, r)
			of[r.Trace.SpanID] = x
		}
	}
	for _, r := range order {
		if r.Kind != flow.KindExchange || r.Side != flow.SideServer {
			continue
		}
		x := of[r.Trace.ParentID]
		switch {
		case x == nil || x.client == nil:
			x = &exchange{server: r, end: r.end()}
			all = append(all, x)
		case x.server == nil || x.server.Trace.ParentID != x.last().Trace.SpanID: // of the last try, where that has one
			x.server = r
		}
		x.served = append(x.served, r)
		of[r.Trace.SpanID] = x
	}
	for _, x := range all {
		id := x.near().Trace.ParentID
		for range len(parents) + 1 { // parents may form a ring
			if above := of[id]; above != nil && above != x {
				x.parent, x.via = above, id
				break
			}
			next, known := parents[id]
			if !known {
				break
			}
			id = next
		}
	}
	slices.SortStableFunc(all, func(a, b *exchange) int { return a.near().Start.Compare(b.near().Start) })
	for _, x := range all {
		if x.inRing(len(all)) {
			x.parent = nil
		}
		if x.parent == nil {
			roots = append(roots, x)
		} else {
			x.parent.calls = append(x.parent.calls, x)
		}
	}
	return roots, all
}

func (x *exchange) inRing(n int) bool {
	up := x.parent
	for range n {
		if up == nil {
			return false
		}
		up = up.parent
	}
	return true
}

// last is the last try, or the exchange itself where the only one was folded.
func (x *exchange) last() *report {
	if len(x.tries) == 0 {
		return x.client
	}
	return slices.MaxFunc(x.tries, func(a, b *report) int { return cmp.Or(cmp.Compare(a.Attempt, b.Attempt), a.Start.Compare(b.Start)) })
}

// reached reports whether the far side's Record belongs to the last try: otherwise it says nothing of how it ended.
func (x *exchange) reached() bool {
	return x.server != nil && (x.client == nil || x.server.Trace.ParentID == x.last().Trace.SpanID)
}

// wrong reports whether a call is one that whoever made it may have stumbled over.
func (x *exchange) wrong() bool {
	n := x.near()
	return n.Failed() || n.Reason != flow.ReasonNone || x.reached() && x.server.Reason != flow.ReasonNone
}

// Explain says what became of a request. ok is false when the trace has no Record, or none with the span that is asked about.
func Explain(in Input) (out Explanation, ok bool) {
	roots, all := build(in.Trace)
	var at *exchange
	for _, x := range all {
		for _, r := range append([]*report{x.client, x.server}, x.tries...) {
			if r != nil && r.Trace.SpanID == in.Span {
				at = x
			}
		}
	}
	if in.Span.IsZero() {
		at = worst(roots)
	}
	if at == nil {
		return Explanation{Culprit: -1}, false
	}
	n := at.near()
	out = Explanation{TraceID: n.Trace.TraceID.String(), Culprit: -1, Start: n.Start, Duration: n.Duration, Outcome: outcome(at)}
	v := verdict{of: at}
	if out.Outcome != OK {
		v = judge(at, len(all))
	}
	out.Reason, out.By = v.reason.String(), v.by
	out.hops(in, at, v)
	out.Longest = longest(at)
	out.Summary = summary(&out, v)
	out.Next = next(&out, v)
	out.Missing = missing(at, in.Graph)
	return out, true
}

// worst is the call by which a trace is known: of those that nobody has called the first that failed, else that was turned away, else the longest.
func worst(roots []*exchange) (at *exchange) {
	rank := func(x *exchange) int {
		switch outcome(x) {
		case Failed:
			return 4
		case CallerLeft:
			return 3
		case Refused:
			return 2
		case Recovered:
			return 1
		}
		return 0
	}
	for _, x := range roots {
		if at == nil || rank(x) > rank(at) || rank(x) == 0 && rank(at) == 0 && x.near().Duration > at.near().Duration {
			at = x
		}
	}
	return at
}

func outcome(x *exchange) Outcome {
	n := x.near()
	switch {
	case n.Failed():
		return Failed
	case n.Reason == flow.ReasonDownstreamReset:
		return CallerLeft
	case n.Reason != flow.ReasonNone, n.Class() == 4:
		return Refused
	case x.reached() && x.server.Reason != flow.ReasonNone && x.server.Reason != flow.ReasonDownstreamReset:
		return Refused // the far side turned it away with less than a failure
	}
	if stumbled(x) != nil {
		return Recovered
	}
	return OK
}

// stumbled is the first call at or below x in which a try failed, or which went wrong, without failing x; nil when there is none.
func stumbled(x *exchange) *exchange {
	for _, t := range x.tries {
		if t.Reason != flow.ReasonNone && t.Reason != flow.ReasonDownstreamReset {
			return x
		}
	}
	for _, c := range x.calls {
		if c.wrong() {
			return c
		}
		if s := stumbled(c); s != nil {
			return s
		}
	}
	return nil
}

// verdict is who is to blame for what.
type verdict struct {
	of     *exchange
	reason flow.Reason
	by     By
	record *report // whose word it is
}

// judge asks x, and then whom x points at, at most depth times.
func judge(x *exchange, depth int) verdict {
	n := x.near()
	if s := stumbled(x); s != nil && !n.Failed() && n.Reason == flow.ReasonNone && n.Class() != 4 && !(x.reached() && x.server.Reason != flow.ReasonNone) {
		if s != x {
			return judge(s, depth-1)
		}
		t := x.tries[slices.IndexFunc(x.tries, func(t *report) bool { return t.Reason != flow.ReasonNone && t.Reason != flow.ReasonDownstreamReset })]
		return ofTry(x, t, depth)
	}
	if depth <= 0 {
		return verdict{x, n.Reason, ByUnknown, n}
	}
	if waited(n.Reason) || x.reached() && waited(x.server.Reason) && n.Reason == flow.ReasonNone {
		return late(x, depth)
	}
	if x.reached() { // the far side knows more
		if v, ok := far(x, depth); ok {
			return v
		}
	}
	r := n.Reason
	if told, ok := answeredBy(n.Detail); ok && !x.reached() {
		return verdict{x, told, ByCalledSidecar, n} // its own Record has not come in
	}
	switch {
	case x.client == nil:
		return verdict{x, r, atServer(x.server), n}
	case r == flow.ReasonUpstreamStatus, r == flow.ReasonNone:
		return applications(x, r, n, depth)
	case r == flow.ReasonDownstreamReset, r == flow.ReasonBadRequest:
		return verdict{x, r, ByCaller, n}
	case r == flow.ReasonUpstreamReset, r == flow.ReasonUpstreamProtocol:
		if x.server == nil && n.Destination.Identity != "" {
			return verdict{x, r, ByCalledSidecar, n} // it answered the handshake and then no more
		}
		return verdict{x, r, ByApplication, n}
	case r == flow.ReasonNoHealthy && n.Override != "":
		return verdict{x, r, ByController, n}
	}
	return verdict{x, r, ByCallerSidecar, n}
}

// waited reports whether a reason says that something took too long.
func waited(r flow.Reason) bool {
	return r == flow.ReasonRequestTimeout || r == flow.ReasonTryTimeout || r == flow.ReasonIdleTimeout
}

// far is what the called side says, when that says more than that an answer came.
func far(x *exchange, depth int) (verdict, bool) {
	s := x.server
	switch r := s.Reason; {
	case r == flow.ReasonDownstreamReset: // its caller left: that one says why
		return verdict{}, false
	case r == flow.ReasonNone && !s.Failed():
		if s.Class() == 4 || x.near().Reason == flow.ReasonNone {
			return applications(x, r, s, depth), true
		}
		return verdict{}, false // it answered, and what came of it on the way is the caller's side's to say
	case r == flow.ReasonNone, r == flow.ReasonUpstreamStatus:
		return applications(x, r, s, depth), true
	}
	return verdict{x, s.Reason, atServer(s), s}, true
}

// atServer is who made a Record of the called side end as it did.
func atServer(s *report) By {
	switch s.Reason {
	case flow.ReasonUpstreamReset, flow.ReasonUpstreamProtocol, flow.ReasonUpstreamStatus, flow.ReasonNone:
		return ByApplication
	case flow.ReasonDownstreamReset, flow.ReasonBadRequest:
		return ByCaller
	}
	return ByCalledSidecar
}

// applications is an answer of the called application: its own, or that to which a call of its own has led.
func applications(x *exchange, r flow.Reason, from *report, depth int) verdict {
	var because *exchange
	end := x.near().end()
	if x.server != nil {
		end = x.server.end() // by the clock that its calls have
	}
	for _, c := range x.calls { // the last that went wrong before the answer came
		if x.server != nil && c.via != x.server.Trace.SpanID {
			continue // made because of another try
		}
		if c.wrong() && c.near().Reason != flow.ReasonDownstreamReset && !c.end.After(end) {
			because = c
		}
	}
	if because != nil {
		return judge(because, depth-1)
	}
	return verdict{x, r, ByApplication, from}
}

// late is a call that took too long: because of the call it waited for, or by itself.
func late(x *exchange, depth int) verdict {
	n := x.near()
	v := verdict{x, n.Reason, ByApplication, n}
	if !waited(v.reason) && x.reached() {
		v.reason, v.record = x.server.Reason, x.server
	}
	if v.reason == flow.ReasonIdleTimeout && x.client == nil && x.server.BytesIn == 0 && x.server.Status == 408 {
		v.by = ByCaller
		return v
	}
	var longest *exchange
	for _, c := range x.calls {
		if longest == nil || c.near().Duration > longest.near().Duration {
			longest = c
		}
	}
	if longest != nil && 2*longest.near().Duration >= n.Duration {
		c := longest.near()
		switch {
		case waited(c.Reason), longest.wrong() && c.Reason != flow.ReasonDownstreamReset && depth > 1:
			return judge(longest, depth-1)
		default: // given up with its caller, or answered too late to help
			deeper := late(longest, depth-1)
			return verdict{deeper.of, v.reason, ByApplication, deeper.record}
		}
	}
	return v
}

// ofTry blames one failed try of a call that went well in the end.
func ofTry(x *exchange, t *report, depth int) verdict {
	v := verdict{x, t.Reason, ByCallerSidecar, t}
	for _, s := range x.served {
		for _, c := range x.calls {
			if s.Trace.ParentID == t.Trace.SpanID && c.via == s.Trace.SpanID && c.wrong() && c.near().Reason != flow.ReasonDownstreamReset && depth > 0 {
				return judge(c, depth-1) // its application had stumbled itself
			}
		}
	}
	switch {
	case t.Reason == flow.ReasonUpstreamStatus, t.Reason == flow.ReasonUpstreamReset, t.Reason == flow.ReasonUpstreamProtocol, waited(t.Reason):
		v.by = ByApplication
	}
	if told, ok := answeredBy(t.Detail); ok {
		v.reason, v.by = told, ByCalledSidecar
	}
	return v
}

// answeredBy reads flow.Reason.Answered.
func answeredBy(detail string) (flow.Reason, bool) {
	for _, r := range flow.Reasons() {
		if r != flow.ReasonNone && detail == r.Answered() {
			return r, true
		}
	}
	return 0, false
}

// hops lists calls, callers before callees. Of many the way to the culprit and those that went wrong are kept.
func (e *Explanation) hops(in Input, at *exchange, v verdict) {
	total := 0
	var count func(x *exchange)
	count = func(x *exchange) {
		total++
		for _, c := range x.calls {
			count(c)
		}
	}
	count(at)
	way := map[*exchange]bool{}
	for x := v.of; x != nil; x = x.parent {
		way[x] = true
	}
	var walk func(x *exchange, depth int)
	walk = func(x *exchange, depth int) {
		if total > maxHops && !way[x] && !x.wrong() || len(e.Hops) >= maxHops {
			e.Omitted++
		} else {
			if x == v.of && v.by != "" {
				e.Culprit = len(e.Hops)
			}
			e.Hops = append(e.Hops, hop(in, x, depth, v))
		}
		for _, c := range x.calls {
			walk(c, depth+1)
		}
	}
	walk(at, 0)
	e.Hops = slices.Clip(e.Hops)
}

func hop(in Input, x *exchange, depth int, v verdict) Hop {
	n := x.near()
	h := Hop{
		Depth: depth, From: x.from(), To: x.to(), Span: n.Trace.SpanID.String(), Kind: n.Kind.String(), Protocol: n.Protocol.String(), Request: request(n), Route: n.Route,
		Status: n.Status, GRPC: n.GRPC.String(), Failed: n.Failed(), Start: n.Start, Duration: n.Duration, Revision: n.Revision, Override: n.Override,
	}
	switch {
	case x.client == nil:
		h.Sides = "server"
	case x.server == nil:
		h.Sides = "client"
	default:
		h.Sides = "both"
	}
	own := v
	if x != v.of {
		own = judge(x, 0)
		if x.wrong() {
			own = one(x)
		}
	}
	if x.wrong() || outcome(x) == Refused || x == v.of {
		h.Reason, h.By = own.reason.String(), own.by
		if own.record != nil {
			h.Detail, h.Revision = own.record.Detail, cmp.Or(own.record.Revision, h.Revision)
		}
	}
	last := x.last()
	if last != nil && last.Endpoint.IsValid() {
		h.Endpoint = last.Endpoint.String()
	}
	if x.server != nil {
		h.Instance = x.server.res.Instance
		if h.Endpoint == "" && x.client == nil && x.server.Endpoint.IsValid() {
			h.Endpoint = x.server.Endpoint.String()
		}
	}
	for _, t := range x.tries {
		try := Try{Number: t.Attempt, Status: t.Status, Reason: t.Reason.String(), Detail: t.Detail, Delivered: t.Delivered, Start: t.Start, Duration: t.Duration}
		if t.Endpoint.IsValid() {
			try.Endpoint = t.Endpoint.String()
		}
		if told, ok := answeredBy(t.Detail); ok {
			try.Reason, try.Detail = told.String(), ""
		}
		h.Tries = append(h.Tries, try)
	}
	if len(x.tries) > 1 {
		h.Cost = max(last.Start.Sub(n.Start), 0)
	}
	h.Health = health(in, &h)
	h.Says = says(&h, x)
	return h
}

// one is what a hop says of itself, whoever it may point at.
func one(x *exchange) verdict {
	n := x.near()
	if x.reached() && x.server.Reason != flow.ReasonNone && x.server.Reason != flow.ReasonDownstreamReset {
		return verdict{x, x.server.Reason, atServer(x.server), x.server}
	}
	switch r := n.Reason; r {
	case flow.ReasonNone, flow.ReasonUpstreamStatus, flow.ReasonUpstreamReset, flow.ReasonUpstreamProtocol:
		return verdict{x, r, ByApplication, n}
	case flow.ReasonDownstreamReset, flow.ReasonBadRequest:
		return verdict{x, r, ByCaller, n}
	}
	if x.client == nil {
		return verdict{x, n.Reason, ByCalledSidecar, n}
	}
	return verdict{x, n.Reason, ByCallerSidecar, n}
}

func request(r *report) string {
	switch {
	case r.Kind == flow.KindConnection:
		return "connection"
	case r.RPCMethod() != "":
		return r.RPCMethod()
	}
	return fmt.Sprintf("%s %s", cmp.Or(r.Method, "?"), cmp.Or(r.Path, r.Authority, "/"))
}
