// Package exchange holds the value that travels through a sidecar, and the contracts of the steps it passes.
//
// A speaker (sidecar/http1, sidecar/tcp) makes an Exchange from a connection and hands it to a Handler. Handlers are built by Chain from
// Steps; sidecar/sidecar.go lists them in order. A step does its part, calls the next one, and may act again when that returns. The
// goroutine of the downstream connection carries an Exchange from beginning to end, so its plain fields need no lock; what other
// goroutines may touch (Abort, byte counts) is marked.
//
// Steps never import each other. Where one acts on another it does so through the small interfaces here: Picker, Pool, Downstream, Gate.
package exchange

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// Handler carries an exchange to its end (or one try to its end) and leaves the result in x.Outcome. It does not keep x.
type Handler interface {
	Handle(x *Exchange)
}

// HandlerFunc is a Handler that is a function.
type HandlerFunc func(x *Exchange)

// Handle calls f.
func (f HandlerFunc) Handle(x *Exchange) { f(x) }

// Step puts itself around the next Handler.
type Step func(next Handler) Handler

// Chain puts steps around last; the first step is the outermost.
func Chain(last Handler, steps ...Step) Handler {
	for i := len(steps) - 1; i >= 0; i-- {
		last = steps[i](last)
	}
	return last
}

// Peer is the downstream end of a connection. Immutable.
type Peer struct {
	Addr      netip.AddrPort
	Local     netip.AddrPort // the address it connected to; of a redirected connection the original one
	Identity  string         // SPIFFE ID proven by mTLS; "" for plaintext
	Service   string         // service account of Identity; "" for plaintext
	Namespace string
	Secure    bool // it came by TLS that an edge has ended
	Verified  bool // with a certificate that the edge has verified
	// Application is the process that connected, where it did by a Unix socket; without Socket.
	Application flow.Application
	Via         netip.AddrPort // who connected, when its PROXY protocol header said that it did so for Addr
	TLS         *flow.TLS      // of a connection to a TCP listener; nil: plaintext, or not asked
}

// Binding is what one listener does under one Snapshot. An exchange takes it once and is judged by it to its end. Immutable, but for the
// counters that Destination and Room point to. Limits of Listener and Workload have their defaults.
type Binding struct {
	Listener     policy.Listener
	Snapshot     *policy.Snapshot
	Workload     policy.Workload
	Routes       route.Table
	Tables       map[string]*route.Table // of the services that have rules, by name; of use where the listener is of no one service
	Destinations map[string]*Destination
	App          *policy.Endpoint // inbound: the application
	Propagation  Propagation
	Headers      []string      // fields whose values are kept, policy.Telemetry.Headers
	Own          *Destination  // inbound: settings towards the application
	Room         *Room         // of the sidecar
	Intercepted  *Intercepted  // nil: its callers mean the listener's service
	Proxy        *Proxy        // nil: its callers do not ask a proxy
	Edge         *Edge         // nil: what comes is for the own application, or goes to one service
	Access       *access.Judge // inbound: who may; nil: everybody
	Note         string        // for people: what Records of success say besides
}

// Proxy is what a listener that is a forward proxy has. Immutable.
type Proxy struct {
	Unknown     policy.Unknown
	Names       *route.Hosts[string]      // service by host name
	At          map[netip.AddrPort]string // service by address
	Passthrough *Destination              // requests to no service; its Picker is each one's own
	Tunnel      *Destination              // and connections
}

// Edge is what a listener of an edge has. Immutable.
type Edge struct {
	TLS      *tls.Config         // of callers outside the mesh; nil: it is not ended here
	Services map[string]*Binding // of callers that are sidecars, by the SNI of their mTLS; nil: they are none
}

// Intercepted is where connections go that were redirected to a listener. Immutable.
type Intercepted struct {
	Ports map[uint16]*Binding // inbound: by original port; the rest is outbound's

	At map[netip.AddrPort]Known // by original destination
	// Bind is what an explicit listener of a service would have, nil when the Snapshot does not have the service. It is safe for concurrent use.
	Bind        func(service string) *Binding
	Names       *route.Hosts[string] // by the name that the TLS of a connection to none of these asks for: hosts outside the mesh
	Passthrough *Destination         // the rest; its Picker is each connection's own
}

// Known is an original destination that means a service.
type Known struct {
	Service  string
	Endpoint *policy.Endpoint // that it is; nil: of a service that is called by way of an edge
}

// Destination is a service as the steps need it: its settings with defaults applied, and its state, which outlives Snapshots.
type Destination struct {
	policy.Service
	Picker Picker      // outbound only
	TLS    *tls.Config // nil: plaintext
	// Greet is what a new connection for x begins with, below TLS; nil: nothing. Such a connection is x's alone.
	Greet    func(x *Exchange) []byte
	InFlight *atomic.Int64 // exchanges, or TCP connections, now
	Pending  *atomic.Int64 // exchanges that wait for a connection to be made, now; nil: not counted
	Shed     *Shed         // what exceeded a limit since the boot; nil: not counted
	Budget   Budget        // of retries

	Admission Admission // inbound only; nil: everything may come

	HTTP1Only *Learnt // endpoints of an external service whose TLS has agreed on HTTP/1.1
}

// Originates reports whether the sidecar speaks TLS with a host outside the mesh for its application. A nil Destination does not.
func (d *Destination) Originates() bool { return d != nil && d.Service.TLS != nil }

// Rewrites is what the authority of requests becomes; "": it stays.
func (d *Destination) Rewrites() string {
	if d == nil {
		return ""
	}
	return d.Authority
}

// Limit is how many exchanges of a protocol (or TCP connections) may be in flight, -1 for no limit, and whether MaxRequests is what says so. An HTTP/1.1
// exchange holds a connection, so the lower of both limits counts; HTTP/2 exchanges share connections.
func (d *Destination) Limit(kind flow.Kind, protocol flow.Protocol) (limit int, requests bool) {
	shares := protocol == flow.ProtocolHTTP2 || protocol == flow.ProtocolGRPC
	switch d.Protocol {
	case flow.ProtocolHTTP1: // whatever comes becomes HTTP/1.1
		shares = false
	case flow.ProtocolHTTP2, flow.ProtocolGRPC:
		shares = true
	}
	if kind == flow.KindExchange && (shares || d.MaxConnections < 0 || d.MaxRequests >= 0 && d.MaxRequests < d.MaxConnections) {
		return max(d.MaxRequests, -1), true
	}
	return max(d.MaxConnections, -1), false
}

// Shed counts what was turned away, by limit. Safe for concurrent use.
type Shed struct{ Requests, Connections, Pending atomic.Uint64 }

// Count counts one.
func (s *Shed) Count(requests bool) {
	if requests {
		s.Requests.Add(1)
	} else {
		s.Connections.Add(1)
	}
}

// Picker chooses an endpoint. Safe for concurrent use; never blocks.
type Picker interface {
	// Pick chooses for w. The reason is ReasonNone, or why there is nothing to choose.
	Pick(now time.Time, w Want) (Choice, flow.Reason)
	// Typical is within what time endpoints answer, as a rule; 0: it is not known, or there is no other endpoint to try.
	Typical(now time.Time) time.Duration
	// Another reports whether there is an endpoint for w that was not tried.
	Another(w Want) bool
}

// Want is what is known of the try that an endpoint is chosen for. The zero value: any endpoint.
type Want struct {
	Tried  []netip.AddrPort // to be avoided, if there is another one
	Key    uint64           // requests of one key go to one endpoint, if the service's policy keeps them together; only if Keyed
	Keyed  bool
	Subset string // policy.SubsetName of the endpoints that may serve; "": all
	Away   bool   // the latest of Tried could not be reached: what stands beside it may be gone as well
	Stay   uint64 // EndpointID of the one that is to serve, if it may be chosen and was not tried; 0: none
}

// Choice is a chosen endpoint. The caller must call Load.End exactly once, after Load.Begin if it calls that.
type Choice struct {
	Endpoint *policy.Endpoint
	Probe    bool   // half-open traffic to an ejected endpoint
	Override string // id of the controller override that had a part in the choice
	Load     Load
}

// Load takes back what came of a Choice.
type Load interface {
	// Begin says that the endpoint owes an answer from now on, until w is excused or End has it back.
	Begin(w *Waiting, now time.Time)
	// End ends it. w is what Begin was given; nil: it was not called. retryAfter is how long the endpoint has asked to be left alone (Outcome.RetryAfter); 0: it has not.
	End(w *Waiting, now time.Time, took time.Duration, result Result, retryAfter time.Duration)
}

// Result is what a try says about its endpoint.
type Result uint8

const (
	// ResultOK is an answer.
	ResultOK Result = iota
	// ResultFailed is a 5xx answer but 503, a gRPC status that stands for one, a reset or a time-out.
	ResultFailed
	// ResultUnreachable is a failed connect or handshake.
	ResultUnreachable
	// ResultUnknown says nothing about the endpoint: the sidecar is stopping, or the caller is to blame.
	ResultUnknown
	// ResultOverloaded is a 429 or 503 answer, or a gRPC status that stands for one (RESOURCE_EXHAUSTED, UNAVAILABLE): come back later.
	ResultOverloaded
	// ResultAbandoned is a try that was given up, as by a caller who left, before the endpoint had begun to answer what it had: all that is known is that an answer would have
	// taken longer.
	ResultAbandoned
	// ResultShed is what the endpoint's own sidecar has turned away because its application has too much to do: somebody else may be better, but it is well.
	ResultShed
)

// Budget limits retries. Safe for concurrent use.
type Budget interface {
	Request(now time.Time) (spare bool) // one exchange began; is there room for a retry?
	Withdraw(now time.Time) bool        // may one retry happen now?
	Retried(now time.Time, helped bool) // one has ended, well or not
}

// Admission decides what the own application gets to do. Safe for concurrent use.
type Admission interface {
	// Enter reports whether x may go on, and if not why, for people. If it may, x has it as Admission until the answer begins, and Leave follows.
	Enter(x *Exchange) (ok bool, why string)
	// Answered says that the first byte of an answer has come, as x.Legs has it. It does not wait, and keeps nothing of x.
	Answered(x *Exchange)
	// Leave says that x has come to its end.
	Leave(x *Exchange)
}

// Conn is an established upstream connection, handshake included.
type Conn struct {
	net.Conn
	TCP      *net.TCPConn // the socket below Conn; nil for Unix and in-memory connections
	Identity string       // SPIFFE ID proven by the peer; "" for plaintext
	// Application is who listens at the other end of a Unix socket; the zero value elsewhere.
	Application flow.Application
	Mesh        bool // the peer is a sidecar: mTLS was used
	Reused      bool // it carried an exchange before
	Suspect     bool // bytes that nobody asked for may arrive: look before it is used again
	Key         any  // the pool's own
}

// What two sidecars agree on by ALPN (RFC 7301) when a connection begins. The caller's sidecar knows what it carries and says it, so that the other need not look and both
// write down the same. A peer that says nothing is an older sidecar, or none of ours.
const (
	ALPNHTTP1 = "http/1.1"
	ALPNHTTP2 = "h2"
	ALPNBytes = "tulle/bytes" // not HTTP, or not to be looked at; ours, not registered
	ALPNTLS   = "tulle/tls"   // bytes that are TLS of the application's own; ours, not registered
)

// Pool hands out upstream connections. Safe for concurrent use.
type Pool interface {
	// Get returns a connection to x.Choice.Endpoint, reused unless x.Fresh, and fills x.Legs; on failure it fills x.Outcome and returns nil.
	Get(x *Exchange) *Conn
	// Connect opens a connection to x.Choice.Endpoint and fills x.Legs; on failure it fills x.Outcome and returns nil. http2 is what the endpoint's
	// sidecar is asked to speak, which an old one may not: see tls.ConnectionState.NegotiatedProtocol. Only Discard takes it back.
	Connect(x *Exchange, http2 bool) *Conn
	// Put takes back a connection on which nothing is outstanding.
	Put(c *Conn)
	// Discard closes a connection in order: what was written is still delivered.
	Discard(c *Conn)
}

// Downstream is the speaker's end of an exchange.
type Downstream interface {
	// Answer writes the sidecar's own answer for x.Outcome. It returns false when the caller is not there any more.
	Answer(x *Exchange) bool
	// Replayable reports whether the request can be sent from its beginning (again).
	Replayable() bool
}

// Fields is a Downstream whose request has header fields, for steps that look for some that Head does not have. Both may be called by the goroutine of the
// exchange until it ends; what they return is valid as the strings of Head are.
type Fields interface {
	// Field is the value of the i-th field, from 0, that has this name, in lower case. False: there are not so many.
	Field(name string, i int) (value string, ok bool)
	// Query is what stands behind the question mark of the target.
	Query() string
}

// Leaver is a Downstream that knows when its caller has left while nobody sends. It wakes by Exchange.Wake who waits then.
type Leaver interface {
	// Left is why the caller is gone, ReasonNone while it is there.
	Left() (reason flow.Reason, detail string)
}

// Gate lets the sender ask, when a response head has arrived, whether the response shall be dropped for another try. It has to ask where Asks says so. The
// gRPC status of a head that is the whole response (trailers only) stands in x.Outcome.GRPC then; status is that of HTTP all the same.
type Gate interface {
	Retry(x *Exchange, status int) bool
}

// Asks reports whether Gate has a say in a response with these statuses; g is 0 unless the response is a gRPC one of trailers only. Everything else goes
// downstream as it is, without asking. What the far sidecar says of it, if it is its own, stands in Outcome.Told.
func (x *Exchange) Asks(status int, g flow.GRPCStatus) bool {
	return status == 503 || x.Head.Safe && Elsewhere(status) || x.Outcome.Told != flow.ReasonNone || g != 0 && x.Destination.Retry.GRPC.Has(g) || x.Listed(status)
}

// Elsewhere reports whether a status says of a request that another endpoint may answer it better: that one failed (500, 502, 504), or has too much to do (429).
func Elsewhere(status int) bool {
	return status == 500 || status == 502 || status == 504 || status == 429
}

// Listed reports whether the rule of x says that a request answered with status may be sent again.
func (x *Exchange) Listed(status int) bool {
	a := x.Decision.Action
	return a != nil && a.Retry != nil && slices.Contains(a.Retry.Statuses, status)
}

// Head is the part of a request that steps look at. Its strings alias the speaker's buffer and are valid until the exchange ends: whoever
// keeps one clones it (strings.Clone).
type Head struct {
	Method     string
	Path       string // without the query string
	Authority  string
	UserAgent  string
	RequestID  string
	Absolute   bool          // it names the authority as to a proxy (RFC 9112, section 3.2.2), or is CONNECT; of HTTP/2 always
	Secure     bool          // its target says https
	Idempotent bool          // RFC 9110, section 9.2.2
	Safe       bool          // RFC 9110, section 9.2.1, and it has no body
	Timeout    time.Duration // what the caller has left for the exchange, the least of what Timed names; 0: it did not say
	Timed      Timed
	Mirror     bool       // it is a copy of somebody else's request, whose answer nobody sees
	Attempt    int        // which try of the request this is, as sidecars on its way have counted; 0: the first
	Parent     flow.Trace // of the trace context that arrived; zero when none was valid
	B3         B3         // what of B3 goes on
}

// Outcome is what came of an exchange, or of its latest try. Steps inside the retry step see it reset at every try.
type Outcome struct {
	Status int // of the response that was relayed or made; 0 when none
	GRPC   flow.GRPCStatus
	Reason flow.Reason // ReasonNone on success
	Detail string      // for people
	// Location is where the answer sends the caller: scheme and authority, the request's target follows. "": nowhere.
	Location string
	// Committed: a byte of the final response went downstream. Nothing can be retried or answered any more.
	Committed bool
	// Answered: a complete response went downstream.
	Answered bool
	// Delivered: docs/format/record.md, "Identities", rule 2.
	Delivered bool
	// Unprocessed: it is proven that the peer did not begin to process the request, so that even an unsafe one may be sent again.
	Unprocessed bool
	// Stale: a reused connection closed before one byte of a response.
	Stale bool
	// Ended is of a relay: how it came to its end.
	Ended flow.Ended
	// Again: the sender dropped a response because Gate.Retry said so.
	Again bool
	// HTTP1Only: HTTP/2 was to be spoken, and TLS has agreed on HTTP/1.1. The connection is in the pool.
	HTTP1Only bool
	// Told is why the far sidecar has answered itself, in place of the service; ReasonNone: it has not.
	Told flow.Reason
	// RetryAfter is how long an endpoint that answered 429 or 503, or as much in gRPC, has asked to be left alone; 0: it has not; Never: the request is not to be sent again.
	RetryAfter time.Duration
}

// Fail sets the outcome of something that went wrong before anything was answered, keeping what is known of delivery.
func (o *Outcome) Fail(r flow.Reason, detail string) {
	o.Reason, o.Detail = r, detail
}

// MaxTries bounds how many endpoints of one exchange are remembered, and with it the tries.
const MaxTries = 8

// Exchange is one request and its response, one stream, or one relayed connection, while it passes through. It is owned by one goroutine
// and reused for the next request of the same connection.
type Exchange struct {
	Kind       flow.Kind // KindExchange, or KindConnection for a TCP relay
	Side       flow.Side
	Protocol   flow.Protocol
	Peer       *Peer
	Binding    *Binding
	Head       Head
	Start      time.Time
	Crowded    bool       // there was no room for it in the sidecar's buffers: it is to be shed
	Legs       flow.Legs  // offsets from Start
	Far        flow.Far   // of the sidecar that answered the latest try
	Captured   []byte     // as flow.Headers; reused
	Scratch    []byte     // the speaker's own, while it fills Captured; reused
	ServerName string     // SNI of a relayed TLS connection, as Session.ServerName
	Trace      flow.Trace // of the exchange
	Try        flow.Trace // of the current try; what the request sent on carries

	Forwarded      []byte // value of x-forwarded-for that goes on; empty: not at an edge; reused
	ForwardedProto string // and of x-forwarded-proto

	Decision    route.Decision
	Destination *Destination
	Path        string            // that goes on in place of Head.Path, without the query; "": that stays
	Authority   string            // and of Head.Authority; "": Destination.Rewrites, or that stays
	Sent        Edits             // of the request's fields, as it goes on
	Passed      Edits             // of those of the service's final response, as it goes to the caller
	Answer      []route.Field     // that the sidecar's own answer gets, if that is what the caller gets; names in lower case
	Reply       *Reply            // what the sidecar answers; nil: what Outcome says
	After       func(x *Exchange) // called when x has come to its end and its request is still there; its body is kept, if it is small; nil: nothing
	Note        string            // for people: what its Record says besides, where nothing went wrong
	Deadline    time.Time         // zero: none
	TryDeadline time.Time         // ≤ Deadline; zero: none
	Began       time.Time         // when the current try did
	HeadBy      time.Time         // < Until: until when an answer to the try has to begin, or it is given up for another one; zero: Until
	Typical     time.Duration     // of Picker.Typical, where HeadBy is set
	Spare       bool              // the try may fail: there is another one
	Waiting     Waiting
	Heard       atomic.Bool // the first byte of an answer, to any of its tries, has come
	Admission   Admission   // that waits for the first byte of an answer; nil: none does
	Choice      Choice
	Remote      string           // identity proven by the upstream peer
	Application flow.Application // at the upstream end of a Unix socket; the zero value elsewhere
	Fresh       bool             // do not reuse a pooled connection
	Key         uint64           // Want.Key of its tries; see Keyed
	Keyed       bool
	Stay        uint64 // Want.Stay of its tries
	Held        Held   // by a session that the request belongs to; the zero value: none
	SetCookie   string // value of a Set-Cookie field that the final response of the service gets; "": none

	Tries   int // made so far
	Retries int // of them, those because others have failed; not those in place of one on a connection that had ended
	Tried   [MaxTries]netip.AddrPort
	Away    bool // the latest of them could not be reached
	Gate    Gate // nil: never retry
	Outcome Outcome

	BytesIn, BytesOut       atomic.Uint64 // may be read by any goroutine
	MessagesIn, MessagesOut atomic.Uint64 // of gRPC; may be read by any goroutine

	Downstream Downstream

	// Relayed is set once both connections of a relay exist; from then on Choice and Remote do not change. May be read by any goroutine.
	Relayed atomic.Pointer[Relayed]

	// Live, TryLive, CameLive and Came belong to the observer.
	Live, TryLive, CameLive Live
	Came                    flow.Trace // at an edge: of what came, while Trace is that of what goes on
	Folded                  bool       // its only try is counted, and has no span of its own
	// Record is scratch for the observer, so that handing it to an interface costs no allocation.
	Record flow.Record

	stream streaming

	mu       sync.Mutex
	upstream net.Conn
	down     net.Conn // during a relay, and of a stream
	waker    Waker
	dial     context.CancelFunc // of the connection that is being made; nil: none is
	aborted  flow.Reason
}

// Relayed is what is known of a relay from its beginning. Immutable.
type Relayed struct {
	Legs flow.Legs // so far
	TLS  *flow.TLS // of the upstream connection; nil: plaintext
}

// Waker is who waits for something that no deadline of a connection can end.
type Waker interface {
	// Wake makes it look at what has happened, Exchange.Aborted first. It may be called by any goroutine, and takes no lock that is held while an
	// Exchange is used.
	Wake()
}

// Live is a place in the observer's list of what is alive.
type Live struct {
	X          *Exchange
	Kind       flow.Kind
	Start      time.Time
	Due        time.Time // of the next progress Record
	Moved      uint64    // of a stream: bytes both ways, when they were looked at last
	Still      time.Time // since when there were no more; zero: nobody has looked
	Shard      uint32    // 0: not chosen yet
	Reported   bool      // a progress Record was emitted
	Came       bool      // of what came to an edge
	Next, Prev *Live
}

// Reset makes x ready for the next request of its connection. An Abort stays in force.
func (x *Exchange) Reset() {
	x.Head, x.Decision, x.Destination, x.Crowded = Head{}, route.Decision{}, nil, false
	x.ServerName = ""
	x.Forwarded, x.ForwardedProto, x.Came = x.Forwarded[:0], "", flow.Trace{}
	x.Legs, x.Far, x.Captured = NoLegs, flow.Far{}, x.Captured[:0]
	x.Trace, x.Try = flow.Trace{}, flow.Trace{}
	x.Path, x.Authority, x.Reply, x.Note, x.After = "", "", nil, "", nil
	x.Sent.Reset()
	x.Passed.Reset()
	x.Answer = x.Answer[:0]
	x.Deadline, x.TryDeadline, x.HeadBy, x.Began, x.Spare = time.Time{}, time.Time{}, time.Time{}, time.Time{}, false
	x.Choice, x.Remote, x.Fresh = Choice{}, "", false
	x.Key, x.Keyed, x.SetCookie = 0, false, ""
	x.Stay, x.Held, x.Admission = 0, Held{}, nil
	x.Application = flow.Application{}
	x.Retries, x.Away = 0, false
	x.Tries, x.Gate, x.Outcome, x.Folded = 0, nil, Outcome{}, false
	x.stream.reset()
	x.BytesIn.Store(0)
	x.BytesOut.Store(0)
	x.MessagesIn.Store(0)
	x.Heard.Store(false)
	x.MessagesOut.Store(0)
}

// NoLegs is Legs with nothing reached.
var NoLegs = flow.Legs{
	HeadParsed: flow.Unset, Queued: flow.Unset, Connected: flow.Unset, Secured: flow.Unset,
	Sent: flow.Unset, FirstByte: flow.Unset, LastByte: flow.Unset,
}

// Since is the time since x began, on the monotonic clock.
func (x *Exchange) Since() time.Duration { return time.Since(x.Start) }

// Until is the deadline of the current try: the earlier of both that is set; of a stream End.
func (x *Exchange) Until() time.Time {
	if x.Streams() {
		return x.End()
	}
	if !x.TryDeadline.IsZero() {
		return x.TryDeadline
	}
	return x.Deadline
}

// Rewrites is what the authority of the request becomes as it goes on; "": it stays.
func (x *Exchange) Rewrites() string {
	if x.Authority != "" {
		return x.Authority
	}
	return x.Destination.Rewrites()
}

// Left is how much of its time a caller that gave one (Head.Timeout) has left at now, for the request that is sent on: until the deadline of the try, unless the answer
// may become a stream that outlives it, at least 1 ns. 0 when it gave none: then none goes on.
func (x *Exchange) Left(now time.Time) time.Duration {
	if x.Head.Timeout <= 0 {
		return 0
	}
	left := x.Start.Add(x.Head.Timeout).Sub(now)
	if until := x.Until(); !until.IsZero() && x.Protocol != flow.ProtocolGRPC && x.StreamTimeout() == 0 {
		left = min(left, until.Sub(now))
	}
	return max(left, 1)
}

// TimeoutReason says which deadline has passed.
func (x *Exchange) TimeoutReason(now time.Time) flow.Reason {
	if until := x.stream.until.Load(); until != 0 && until != int64(x.Head.Timeout) {
		return flow.ReasonStreamTimeout
	} else if until != 0 {
		return flow.ReasonRequestTimeout
	}
	if x.Deadline.IsZero() || (!x.TryDeadline.IsZero() && x.TryDeadline.Before(x.Deadline) && now.Before(x.Deadline)) {
		return flow.ReasonTryTimeout
	}
	return flow.ReasonRequestTimeout
}

// Attach notes the upstream connection of the current try and sets its deadline. False: x was aborted, do not use c.
func (x *Exchange) Attach(c net.Conn, deadline time.Time) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.aborted != flow.ReasonNone {
		return false
	}
	x.upstream = c
	_ = c.SetDeadline(deadline)
	return true
}

// Detach forgets the upstream connection; call it before the connection goes back to its pool.
func (x *Exchange) Detach() {
	x.mu.Lock()
	x.upstream = nil
	x.mu.Unlock()
}

// Await notes who waits for the current try, until Awaited. False: x was aborted, do not wait.
func (x *Exchange) Await(w Waker) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.aborted != flow.ReasonNone {
		return false
	}
	x.waker = w
	return true
}

// Awaited ends what Await began.
func (x *Exchange) Awaited() {
	x.mu.Lock()
	x.waker = nil
	x.mu.Unlock()
}

// SetDeadline moves the deadline of the attached connection, unless x was aborted.
func (x *Exchange) SetDeadline(t time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.upstream != nil && x.aborted == flow.ReasonNone {
		_ = x.upstream.SetDeadline(t)
	}
}

// Abort ends whatever x waits for upstream; reason says why. It may be called by any goroutine, at any time, more than once (the first
// reason stays), and stays in force for later exchanges on the same connection.
func (x *Exchange) Abort(reason flow.Reason) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.aborted == flow.ReasonNone {
		x.aborted = reason
	}
	x.wakeLocked()
	if x.dial != nil {
		x.dial()
	}
}

// wakeLocked ends all waits of a try.
func (x *Exchange) wakeLocked() {
	if x.upstream != nil {
		_ = x.upstream.SetDeadline(past)
	}
	if x.down != nil {
		_ = x.down.SetDeadline(past)
	}
	if x.waker != nil {
		x.waker.Wake()
	}
}

// Dialling notes what gives up the connection that is being made for the current try, until Dialled. False: x was aborted, make none.
func (x *Exchange) Dialling(cancel context.CancelFunc) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.aborted != flow.ReasonNone {
		return false
	}
	x.dial = cancel
	return true
}

// Dialled ends Dialling.
func (x *Exchange) Dialled() {
	x.mu.Lock()
	x.dial = nil
	x.mu.Unlock()
}

// Wake makes a pending read on the attached connection fail with a time-out, and wakes who waits for the try. It may be called by any goroutine.
func (x *Exchange) Wake() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.upstream != nil {
		_ = x.upstream.SetReadDeadline(past)
	}
	if x.waker != nil {
		x.waker.Wake()
	}
}

// attachRelay notes both connections of a relay; Abort then wakes both. No deadline is set.
func (x *Exchange) attachRelay(down, up net.Conn) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.down, x.upstream = down, up
	if up == nil {
		return true
	}
	if x.aborted != flow.ReasonNone {
		x.down, x.upstream = nil, nil
		return false
	}
	_ = down.SetDeadline(time.Time{})
	_ = up.SetDeadline(time.Time{})
	return true
}

// Aborted is the reason given to Abort, or that of Silence, or ReasonNone.
func (x *Exchange) Aborted() flow.Reason {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.aborted == flow.ReasonNone {
		return flow.Reason(x.stream.over.Load())
	}
	return x.aborted
}

// WhyAborted is Aborted, with words for people.
func (x *Exchange) WhyAborted() (flow.Reason, string) {
	switch r := x.Aborted(); r {
	case flow.ReasonDownstreamReset:
		return r, "the caller left before it was answered"
	case flow.ReasonIdleTimeout:
		return r, "no byte moved for " + time.Duration(x.stream.quiet.Load()).String()
	}
	return x.Aborted(), "the sidecar is stopping"
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)
