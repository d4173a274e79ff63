package exchange

import (
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Copier is a Downstream whose request can be copied. Both are called by the goroutine of the exchange; nothing of what they return is the speaker's.
type Copier interface {
	// CopyHead describes the request as it goes on, without a deadline of its caller's; false: it is no request of which there can be two (CONNECT, Upgrade). Length and Expect
	// say nothing.
	CopyHead(x *Exchange) (*Request, bool)
	// CopyBody is the whole body, in Exchange.After. False: there was more than is kept, or it has not come.
	CopyBody(x *Exchange) ([]byte, bool)
}

// Errand is the Caller of a request that the sidecar makes itself. It is in memory, and so is what is kept of the answer.
type Errand struct {
	request Request
	body    []byte
	most    int // bytes of the answer's body that are kept

	mu      sync.Mutex
	at      int
	stopped bool

	Status   int     // of the answer; 0: there was none
	Fields   []Field // likewise
	Body     []byte
	Short    bool // Body is not all of it
	Trailers []Field
}

var _ Caller = (*errandCaller)(nil)

// errandCaller is the Errand as senders see it, apart from what its maker sees.
type errandCaller Errand

// NewErrand is of a request whose Length, Bare and Expect follow from its body. Of the answer's body at most so many bytes are kept; below 0: nothing of the answer is.
func NewErrand(r Request, body []byte, most int) *Errand {
	r.Length, r.Bare, r.Expect = int64(len(body)), len(body) == 0, false
	return &Errand{request: r, body: body, most: most}
}

// Caller is e for Exchange.Downstream.
func (e *Errand) Caller() Caller { return (*errandCaller)(e) }

// Answer implements Downstream: nobody is there.
func (e *errandCaller) Answer(*Exchange) bool { return false }

// Replayable implements Downstream.
func (e *errandCaller) Replayable() bool { return true }

// Fault implements Caller.
func (e *errandCaller) Fault(*Exchange) *BodyError { return nil }

// Refuse implements Caller.
func (e *errandCaller) Refuse(x *Exchange, f *Fault) { x.Outcome.Fail(flow.ReasonBadRequest, f.Text) }

// Request implements Caller.
func (e *errandCaller) Request(*Exchange) *Request { return &e.request }

// ReadBody implements Caller.
func (e *errandCaller) ReadBody(x *Exchange, p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.stopped:
		return 0, ErrStopped
	case e.at == len(e.body):
		return 0, io.EOF
	}
	n := copy(p, e.body[e.at:])
	e.at += n
	x.BytesIn.Add(uint64(n))
	return n, nil
}

// Rewind implements Caller.
func (e *errandCaller) Rewind(x *Exchange) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.at, e.stopped = 0, false
	x.BytesIn.Store(0)
	x.BytesOut.Store(0)
}

// StopBody implements Caller.
func (e *errandCaller) StopBody() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped = true
}

// BodyDone implements Caller.
func (e *errandCaller) BodyDone() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.at == len(e.body)
}

// RequestTrailers implements Caller.
func (e *errandCaller) RequestTrailers() []Field { return nil }

// WriteHead implements Caller.
func (e *errandCaller) WriteHead(x *Exchange, r *Response, _ bool) error {
	if r.Tunnel {
		return &BodyError{Reason: flow.ReasonUpstreamProtocol, Text: "a tunnel was opened that nobody has asked for: status " + strconv.Itoa(r.Status)}
	}
	if r.Status < 200 {
		return nil
	}
	e.Status, e.Body, e.Short, e.Trailers = r.Status, e.Body[:0], false, nil
	x.Outcome.Status, x.Outcome.Committed = r.Status, true
	if e.most >= 0 {
		e.Fields = cloned(r.Fields)
	}
	return nil
}

// WriteBody implements Caller.
func (e *errandCaller) WriteBody(x *Exchange, p []byte) error {
	x.BytesOut.Add(uint64(len(p)))
	if keep := max(e.most-len(e.Body), 0); len(p) > keep {
		p, e.Short = p[:keep], true
	}
	e.Body = append(e.Body, p...)
	return nil
}

// WriteEnd implements Caller.
func (e *errandCaller) WriteEnd(x *Exchange, trailers []Field) error {
	if e.most >= 0 {
		e.Trailers = cloned(trailers)
	}
	x.Legs.LastByte = x.Since()
	x.Outcome.Answered = true
	return nil
}

// Flush implements Caller.
func (e *errandCaller) Flush(*Exchange) error { return nil }

// Tunnel implements Caller; there is none.
func (e *errandCaller) Tunnel(*Exchange) RelayEnd { return RelayEnd{} }

// Cut implements Caller.
func (e *errandCaller) Cut(*Exchange) { (*Errand)(e).Status = 0 }

func cloned(fields []Field) []Field {
	out := slices.Clone(fields)
	for i := range out {
		out[i].Name, out[i].Value = strings.Clone(out[i].Name), strings.Clone(out[i].Value)
	}
	return out
}
