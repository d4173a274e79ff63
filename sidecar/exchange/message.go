package exchange

import (
	"github.com/tulle-mesh/tulle/internal/flow"
)

// Field is one field of a head or of trailers, in the form that both versions of HTTP share. Its strings are immutable and may be kept.
type Field struct {
	Name      string // a token in lower case
	Value     string // valid (RFC 9110, section 5.5), without white space at its ends
	Sensitive bool   // not to be indexed by a compression (RFC 7541, section 7.1.3)
}

// Request is a request as RFC 9110 has it, without the framing of a version: what one speaker hands to another when the versions on both sides of an
// exchange differ. Its fields are those that go on, without what the speaker that sends adds itself: the authority, the framing and what belongs to one
// connection (host, content-length, transfer-encoding, connection, keep-alive, proxy-connection, te, upgrade, http2-settings), x-tulle-*, and the trace
// context of the try (see Exchange.Try, EachB3). A cookie is one field. x-request-id is among them, whoever made it.
type Request struct {
	Method    string
	Target    string // path and query as they go on; "*"; "" for CONNECT without Protocol
	Authority string
	Protocol  string // of extended CONNECT (RFC 8441) or of an Upgrade, as it was asked for: then Method is "GET", and both sides of the exchange become a tunnel
	Fields    []Field
	Length    int64 // of the body, -1: not known
	Bare      bool  // there is no body; so for CONNECT and with Protocol, where what follows is the tunnel's
	Expect    bool  // Expect: 100-continue, which is not among Fields
	Trailers  bool  // the caller takes trailers (te: trailers)
}

// Response is a response as RFC 9110 has it. Fields is as in Request; x-tulle-reason of a far sidecar is among them, x-tulle-timing is not.
type Response struct {
	Status int
	Fields []Field
	Length int64 // announced; -1: not known. To HEAD and with 304 it is announced and does not come
	Tunnel bool  // the request's tunnel is open: a 101, or a 2xx to CONNECT
}

// Caller is a Downstream whose request another speaker can send. The goroutine of the exchange calls its methods; ReadBody alone is for another goroutine,
// one at a time, which has ended before the sender returns.
type Caller interface {
	Downstream // Replayable may be called while another goroutine is in ReadBody
	// Fault says why nothing more can come of the exchange: the request is not valid, or the caller has left; nil: not that it is known. Ask it when a try
	// begins, and when x.Wake has woken the sender.
	Fault(x *Exchange) *BodyError
	// Refuse makes f what Answer answers with, and fails x.Outcome: the request is at fault, or cannot be sent in the other version.
	Refuse(x *Exchange, f *Fault)
	// Request describes the request, and is asked at every try: grpc-timeout, if it is among Fields, is what is left then. What it returns is valid until
	// the exchange ends, but for that.
	Request(x *Exchange) *Request
	// ReadBody reads on in the body, without its framing, and counts it in x.BytesIn. It waits until there is something, and returns io.EOF at the end,
	// a *BodyError when the caller or its body is at fault, or ErrStopped. Each try begins with Rewind. When it fails because of the caller, it wakes
	// the sender by x.Wake before it returns; a caller that leaves while nobody is in ReadBody does so too. When x.Deadline passes it fails with
	// ReasonRequestTimeout: whose fault that was is for the sender to judge, and to say by Refuse.
	ReadBody(x *Exchange, p []byte) (int, error)
	// Rewind makes the next ReadBody begin at the beginning. It may be called when Replayable says so.
	Rewind(x *Exchange)
	// StopBody makes ReadBody return ErrStopped, now and from now on until Rewind. Any goroutine.
	StopBody()
	// BodyDone reports whether ReadBody has returned io.EOF, or there is no body.
	BodyDone() bool
	// RequestTrailers are the trailers that came behind the body, after io.EOF. Whoever was in ReadBody may call it.
	RequestTrailers() []Field
	// WriteHead passes a head on: any number of interim ones, then a final one, which sets x.Outcome.Status, and Committed when it leaves. end: neither body nor trailers
	// follow, but WriteEnd does. What is written may be kept until Flush; if the try fails before that, another answer may take its place. The error is a *BodyError, like those of the methods below.
	WriteHead(x *Exchange, r *Response, end bool) error
	// WriteBody passes part of the body on, counts it in x.BytesOut, and waits while the caller does not take it, until x.Deadline at most. It does not
	// keep p. The error is a *BodyError.
	WriteBody(x *Exchange, p []byte) error
	// WriteEnd ends the response; it flushes, and sets x.Legs.LastByte and x.Outcome.Answered.
	WriteEnd(x *Exchange, trailers []Field) error
	// Flush sends what was kept; it waits no longer than WriteBody would. Call it before waiting for the endpoint. The error is a *BodyError.
	Flush(x *Exchange) error
	// Tunnel is the caller's end of a tunnel, after WriteHead with Response.Tunnel. Relay counts its bytes.
	Tunnel(x *Exchange) RelayEnd
	// Cut makes sure that the caller does not take a response that was begun for whole.
	Cut(x *Exchange)
}

// BodyError says why the caller's side of an exchange cannot go on.
type BodyError struct {
	Reason flow.Reason // ReasonDownstreamReset, ReasonBadRequest, or of a time-out
	Text   string      // for Outcome.Detail
}

func (e *BodyError) Error() string { return e.Text }

// ErrStopped is what ReadBody returns after StopBody.
var ErrStopped = &BodyError{Text: "the body is not read any more"}
