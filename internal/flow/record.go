package flow

import (
	"encoding/hex"
	"net/netip"
	"time"
)

// Kind says what a Record is about.
type Kind uint8

const (
	// KindExchange is one logical request and its response, or one stream, as seen by one sidecar.
	KindExchange Kind = iota + 1
	// KindAttempt is one try of a client-side exchange against one endpoint; it is a child of its exchange.
	KindAttempt
	// KindConnection is one TCP relay, or a connection that never became an exchange (failed handshake, detection
	// time-out, parse error, shed).
	KindConnection
)

// Phase says whether a Record is final.
type Phase uint8

const (
	// PhaseClose is the one final Record of its subject.
	PhaseClose Phase = iota
	// PhaseProgress is a cumulative report of a subject that is still alive; emitted every ProgressInterval.
	PhaseProgress
)

// ProgressInterval is how often an exchange or connection that is still alive emits a cumulative progress Record.
const ProgressInterval = 10 * time.Second

// Side says which end of the edge the reporting sidecar is.
type Side uint8

const (
	// SideClient is the sidecar of the caller (outbound).
	SideClient Side = iota + 1
	// SideServer is the sidecar of the callee (inbound).
	SideServer
)

// Protocol is the application protocol of an exchange or connection; in policy, what a listener or a service speaks.
type Protocol uint8

const (
	ProtocolTCP Protocol = iota + 1
	ProtocolTLS
	ProtocolHTTP1
	ProtocolHTTP2
	// ProtocolGRPC is HTTP/2 whose content-type is application/grpc, with or without a suffix.
	ProtocolGRPC
	// ProtocolHTTP is HTTP of any version. Of Records only those of connections have it, where the version never became known.
	ProtocolHTTP
	// ProtocolAuto is of policy only: what is spoken is told connection by connection, by the caller's sidecar or from the first bytes. No Record has it.
	ProtocolAuto
)

// Relayed reports whether connections of p pass as bytes, one Record each.
func (p Protocol) Relayed() bool { return p == ProtocolTCP || p == ProtocolTLS }

// HTTP reports whether p is HTTP of some version.
func (p Protocol) HTTP() bool { return p >= ProtocolHTTP1 && p <= ProtocolHTTP }

// MayBeHTTP reports whether connections of p can carry HTTP.
func (p Protocol) MayBeHTTP() bool { return p.HTTP() || p == ProtocolAuto }

// TraceID is a W3C trace-id: 16 bytes, not all zero when valid. It compares with == and is a valid map key.
type TraceID [16]byte

// SpanID is a W3C parent-id: 8 bytes, not all zero when valid.
type SpanID [8]byte

func (t TraceID) IsZero() bool   { return t == TraceID{} }
func (s SpanID) IsZero() bool    { return s == SpanID{} }
func (t TraceID) String() string { return hex.EncodeToString(t[:]) }
func (s SpanID) String() string  { return hex.EncodeToString(s[:]) }

// Trace places a Record in its trace (https://www.w3.org/TR/trace-context/).
type Trace struct {
	TraceID  TraceID
	SpanID   SpanID
	ParentID SpanID // zero when the Record is the root of its trace
	Flags    byte   // W3C trace-flags of the outgoing traceparent
	// Started is true when no valid traceparent arrived and this sidecar began the trace.
	Started bool
}

// Peer is one end of an edge as the reporter knows it. Empty fields are unknown, never guessed.
type Peer struct {
	Service   string // "catalog"; for an external host its ExternalService name; "" when unknown
	Namespace string // "shop"
	Version   string // "v2"
	Instance  string // workload instance, "catalog-2"; only known for the reporter's own end
	Identity  string // SPIFFE ID proven by mTLS on this connection; "" for plaintext
	Addr      netip.AddrPort
}

// Application is the reporter's own application as the kernel shows it, where a Unix socket joins it and its sidecar; the zero value elsewhere.
type Application struct {
	Socket   string // server side: path of the socket where it listens, "@name" of an abstract one
	Known    bool   // the kernel said which process it is
	PID      int32  // that opened the socket, in the sidecar's PID namespace; 0 when it is in none that the sidecar sees
	UID, GID uint32 // that process' effective ones, in the sidecar's user namespace
}

// Legs are offsets from Record.Start, each ≥ 0, or Unset where the leg was not reached or does not apply. They are
// monotonic-clock differences taken inside one process, so they never need clocks of two machines to agree.
type Legs struct {
	HeadParsed time.Duration // request head complete
	Queued     time.Duration // left the pending queue (endpoint chosen, connection granted)
	Connected  time.Duration // TCP connect done; Unset when a pooled connection served
	Secured    time.Duration // TLS handshake done; Unset when pooled or plaintext
	Sent       time.Duration // last request byte written
	FirstByte  time.Duration // first response byte read
	LastByte   time.Duration // last response byte read
}

// Far is what the sidecar at the other end of a mesh connection said about its own part in an exchange: offsets from the first byte of the
// request as it reached that sidecar, by its monotonic clock, in whole microseconds. The zero value means that nothing is known; otherwise
// FirstByte is above 0, and Queued and Sent may be Unset.
type Far struct {
	HeadParsed time.Duration // request head complete
	Queued     time.Duration // connection to the application granted
	Sent       time.Duration // last request byte written to the application
	FirstByte  time.Duration // first response byte read from the application
}

// Known reports whether the far side said anything.
func (f Far) Known() bool { return f.FirstByte > 0 }

// Unset marks a leg that was not reached.
const Unset time.Duration = -1

// Ended says how a relay came to an end.
type Ended uint8

const (
	EndedNone Ended = iota
	// EndedDownstreamFIN and EndedUpstreamFIN: both directions ended in order; whose end of stream came first.
	EndedDownstreamFIN
	EndedUpstreamFIN
	// EndedDownstreamReset and EndedUpstreamReset: who reset its connection.
	EndedDownstreamReset
	EndedUpstreamReset
	// EndedIdle: no byte moved for the idle limit.
	EndedIdle
	// EndedDrained: the sidecar is stopping, or its listener is gone.
	EndedDrained
	// EndedError: something else, such as a TLS record that does not verify.
	EndedError
	numEnded
)

// TLS is what a handshake agreed on. Immutable.
type TLS struct {
	Version string // "1.2", "1.3"
	Cipher  string // the IANA name, "TLS_AES_128_GCM_SHA256"
	Resumed bool
	ALPN    string // the protocol that was agreed on; "" for none
}

// Record is one wide event. The producer owns it until it is handed to a recorder; afterwards nobody may change it.
type Record struct {
	Kind     Kind
	Phase    Phase
	Side     Side
	Protocol Protocol

	Trace    Trace
	Start    time.Time     // wall clock of the sidecar, nanoseconds
	Duration time.Duration // to the last byte, or so far for progress
	Legs     Legs
	Far      Far // client exchanges over mTLS: of the sidecar that answered

	Source      Peer
	Destination Peer
	// Endpoint is the address an attempt went to, or the last attempt's for an exchange. On the server side it is the
	// application's address.
	Endpoint    netip.AddrPort
	Application Application

	// Method, Path and Authority are of the request head. Path never has a query string (dropped in the sidecar).
	Method    string
	Path      string
	Authority string
	UserAgent string
	RequestID string  // x-request-id, passed through or minted
	Headers   Headers // allow-listed header fields of request and response; exchanges only
	Route     string  // name of the route that matched; "" for the service's default route
	// ServerName is the SNI by which a TLS connection came that is passed through, in lower case; of a connection only.
	ServerName string
	Status     int        // HTTP status answered downstream; 0 when no response head was sent
	GRPC       GRPCStatus // of ProtocolGRPC; 0 when it ended without one

	// MessagesIn and MessagesOut count the messages of ProtocolGRPC that began to pass, from and to downstream.
	MessagesIn, MessagesOut uint64

	Reason Reason // ReasonNone on success
	// Delivered is for attempts: true when the peer is known or presumed to have received the whole request head.
	// False means that the peer cannot have begun an exchange for it. See docs/format/record.md, "Identities".
	Delivered bool
	// Folded is for attempts: it is counted, but its exchange is its span and its line of the log, because there was one try and it went well.
	Folded bool
	// Answered is for exchanges: true when a complete response was written downstream.
	Answered bool

	// Ended is of relays and tunnels: how they came to an end. EndedNone for what never was one, and while it lives.
	Ended Ended
	// Via is who opened the connection, when a PROXY protocol header said that it did so for Source.Addr.
	Via netip.AddrPort
	// TLS is of the reporter's connection with the other end of the edge, NearTLS of the one on its own side: on the client side, with the upstream and
	// with the caller. Connections only; nil: plaintext, or never secured.
	TLS, NearTLS *TLS

	BytesIn  uint64 // received from downstream, body bytes (TCP: bytes read from the downstream peer)
	BytesOut uint64 // sent to downstream, body bytes

	Attempt  int // for an attempt: 1 for the first try; for an exchange: which try of the request it is, as sidecars before this one have counted, 0: the first
	Attempts int // for an exchange: how many tries were made

	// Probe marks half-open traffic to an ejected endpoint. It is counted, but excluded from error ratios of callers.
	Probe    bool
	Mirror   bool   // it is of a copy of somebody else's request: counted apart, and no evidence
	Revision string // policy revision that judged the exchange, all the way through
	Override string // id of the controller override that influenced the choice of endpoint; "" if none
	Detail   string // free text for people: the error as the sidecar met it; no user data
}
