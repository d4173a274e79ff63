package route

import "time"

// Million is the whole, of fractions in parts per million.
const Million = 1_000_000

// Rule says which requests it is for, and what becomes of them.
type Rule struct {
	Name    string  // unique in its Table; Records have it
	Matches []Match // any one of them; none: every request
	Action  Action
	// Callers name whose requests it is for, all of them at once; none: everybody's. No request says who sends it: the controller leaves rules out for whom they are not, and a
	// sidecar is told no names.
	Callers []string
}

// Match is true of a request when all that it names is.
type Match struct {
	Path    Path
	Method  string  // as sent, RFC 9110, section 9.1: case counts; "": any
	Headers []Value // names in lower case, each once
	Query   []Value // names as they stand decoded, each once
}

// PathKind is how a path is compared.
type PathKind uint8

const (
	// PathAny is every path.
	PathAny PathKind = iota
	// PathPrefix is by whole segments: "/cart" is of "/cart" and "/cart/7", not of "/cartoon"; "/" is of all.
	PathPrefix
	// PathExact is the path as it stands, without the query.
	PathExact
	// PathRegex is RE2 (https://github.com/google/re2/wiki/Syntax) over the whole path.
	PathRegex
)

// Path is what a path is compared with.
type Path struct {
	Kind  PathKind
	Value string
}

// ValueKind is how a value is compared.
type ValueKind uint8

const (
	// ValueExact is the value as it stands.
	ValueExact ValueKind = iota
	// ValueRegex is RE2 over the whole value.
	ValueRegex
	// ValuePresent is any value.
	ValuePresent
)

// Value is what a header field or a query parameter is compared with. A field that stands several times has the values joined by "," (RFC 9110, section 5.3);
// of a parameter the first counts.
type Value struct {
	Name  string
	Kind  ValueKind
	Value string
}

// Action is what becomes of a request. One of Backends, Redirect and Respond is set; with none of them it is answered with 500, as the Gateway API says of rules without
// a valid backend. Durations: 0 is the service's setting, -1 off.
type Action struct {
	Backends []Backend
	Redirect *Redirect
	Respond  *Respond

	Request  Edits   // of the request's header fields, before those of the backend
	Response Edits   // of the response's
	Rewrite  Rewrite // of what goes on
	Mirrors  []Mirror
	CORS     *CORS
	Faults   []Fault     // the first whose Headers match
	Limits   []RateLimit // all must let it pass
	Timeouts Timeouts
	Retry    *Retry   // nil: the service's
	Session  *Session // nil: none
}

// Backend is a share of what matches.
type Backend struct {
	Service  string // name in policy.Snapshot.Services; "": there is none, its share is answered with 500
	Subset   string // policy.SubsetName of the endpoints that may serve; "": all
	Weight   uint32 // its share of the sum; 0: nothing
	Request  Edits
	Response Edits
}

// Edits of header fields, in this order: Set, Add, Remove. Names are in lower case.
type Edits struct {
	Set    []Field
	Add    []Field
	Remove []string
}

// IsZero reports whether nothing is edited.
func (e Edits) IsZero() bool { return len(e.Set)+len(e.Add)+len(e.Remove) == 0 }

// Field is a header field.
type Field struct{ Name, Value string }

// PathEdit replaces a path.
type PathEdit struct {
	Prefix bool   // what the rule's PathPrefix matched is replaced; else the whole path
	Value  string // begins with "/"
	Set    bool   // false: the path stays
}

// Rewrite changes what goes on to the backend. The zero value changes nothing.
type Rewrite struct {
	Authority string // "": stays
	Path      PathEdit
}

// Redirect answers with a Location. What it does not name stays that of the request.
type Redirect struct {
	Scheme    string // http, https, ""
	Authority string // host without port; "": stays
	Port      uint16 // 0: the one well known of Scheme if that is set, else the request's
	Path      PathEdit
	Status    int // 301, 302, 303, 307, 308
}

// Respond answers.
type Respond struct {
	Status int // 200 to 599
	Body   string
	Type   string // content-type; "": text/plain; charset=utf-8
}

// Mirror sends a copy, whose answer nobody sees, and which never holds up the original.
type Mirror struct {
	Service string
	Subset  string
	PPM     uint32 // of requests, in parts per million
}

// CORS answers preflights and marks answers (https://fetch.spec.whatwg.org/#http-cors-protocol).
type CORS struct {
	Origins     []string // "*", or scheme://host[:port], where the host may begin with "*."
	Methods     []string // "*": all
	Headers     []string
	Expose      []string
	Credentials bool
	MaxAge      time.Duration // whole seconds; 0: 5 s
}

// Fault delays and aborts requests on purpose.
type Fault struct {
	Headers  []Value // all must match; none: every request
	Delay    time.Duration
	DelayPPM uint32
	Status   int // of HTTP, 200 to 599; 0: none is aborted so
	GRPC     int // status of gRPC, 1 to 16, for gRPC requests in place of Status; 0: none
	AbortPPM uint32
}

// DefaultLimiterTimeout is how long a rate limit service is waited for: longer than it takes, and short enough for whoever waits for the request.
const DefaultLimiterTimeout = 50 * time.Millisecond

// RateLimit is a token bucket for each key, of this sidecar, or, where Domain is set, of the rate limit service.
type RateLimit struct {
	Name     string // in reasons; unique in its Action
	Requests uint32 // each Per
	Per      time.Duration
	Burst    uint32        // default: Requests
	Keys     []Key         // none: all requests are of one
	Domain   string        // of a global one (envoy.service.ratelimit.v3): Service decides, and Requests, Per and Burst are not used
	Service  string        // of a global one: the rate limit service, a name in policy.Snapshot.Services
	Timeout  time.Duration // of a global one: how long Service is waited for, at most 1 s; 0: DefaultLimiterTimeout
	FailOpen bool          // when Service does not answer in time
}

// KeyKind is what of a request a key is made of.
type KeyKind uint8

const (
	// KeyHeader is the value of the field Name; a request without it is not limited.
	KeyHeader KeyKind = iota
	// KeySource is the IP address of the caller.
	KeySource
	// KeyIdentity is the service account of the caller.
	KeyIdentity
	// KeyPath is the path.
	KeyPath
	// KeyMethod is the method.
	KeyMethod
	// KeyConstant is Value.
	KeyConstant
)

// Key is a part of a rate limit's key, and an entry of the descriptor that a rate limit service gets.
type Key struct {
	Kind  KeyKind
	Name  string // of the field, of KeyHeader; and of the entry, default: the kind's word
	Value string // of KeyConstant
}

// Timeouts of a rule.
type Timeouts struct {
	Request time.Duration // the whole exchange, with all tries; of a stream until its answer has begun
	Try     time.Duration // one try
	Idle    time.Duration // a relay, a tunnel or a stream without bytes
	Stream  time.Duration // a stream, from the first byte of the request to its end, in place of Request; what has one is a stream once its answer has begun
}

// Retry of a rule: what is allowed besides what is always safe (sidecar/resilience).
type Retry struct {
	Attempts int           // tries in all, with the first; 0: the service's
	Statuses []int         // of HTTP, which the owner says are safe to try again, whatever the method
	Backoff  time.Duration // first wait at most; 0: the service's
}

// SessionKind is what carries a session.
type SessionKind uint8

const (
	// SessionCookie is a cookie that the sidecar sets.
	SessionCookie SessionKind = iota
	// SessionHeader is a header field of the response that callers send back.
	SessionHeader
)

// Session keeps requests of a session at the backend, and the endpoint, that served its first one (Gateway API, GEP-1619), while that is there.
type Session struct {
	Kind     SessionKind
	Name     string        // of the cookie or the field
	Lifetime time.Duration // of the cookie; 0: until the browser is closed
	Absolute time.Duration // after which a session is new; 0: never
	Idle     time.Duration // after which an unused one is new; 0: never
	Path     string        // of the cookie
}
