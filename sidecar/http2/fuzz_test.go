package http2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// block encodes fields, given as name, value, name, value …
func encoded(fields ...string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for i := 0; i+1 < len(fields); i += 2 {
		_ = e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return b.Bytes()
}

// reader is a connection that only decodes.
func reader() *conn {
	c := &conn{}
	c.heads = limitsOf(policy.Limits{}.WithDefaults())
	c.dec = hpack.NewDecoder(tableSize, c.emit)
	c.dec.SetMaxStringLength(meshLimits.bytes)
	return c
}

// decode decodes and judges one head as a request. The error is the decoder's.
func (c *conn) decode(b []byte) (*exchange.Fault, error) {
	c.block = block{most: c.heads}
	c.block.req.reset()
	c.dec.SetEmitEnabled(true)
	if _, err := c.dec.Write(b); err != nil {
		return nil, err
	}
	if err := c.dec.Close(); err != nil {
		return nil, err
	}
	if c.block.fault != nil {
		return c.block.fault, nil
	}
	return c.block.req.parse(), nil
}

// stricter are the faults of heads that x/net/http2's Framer takes: it checks names, values and the set of pseudo-header fields, and leaves the rest to
// its server, which is looser than the RFC in places.
var stricter = map[*exchange.Fault]string{
	faultPseudo:           "the Framer does not ask for the ones that must be there",
	faultFieldValue:       "the Framer takes white space at the ends",
	faultHop:              "the Framer leaves it to its users",
	faultTE:               "the Framer leaves it to its users",
	faultScheme:           "the Framer takes any",
	faultMethod:           "the Framer takes any",
	faultAuthority:        "the Framer takes any",
	faultLength:           "the Framer leaves it to its users",
	faultTooMany:          "the Framer counts bytes only",
	faultTooLarge:         "its limit is another one",
	exchange.FaultTarget:  "the Framer takes any",
	exchange.FaultEscape:  "the Framer takes any",
	exchange.FaultRoot:    "the Framer takes any",
	exchange.FaultDots:    "the Framer takes any",
	exchange.FaultConnect: "the Framer takes any",
}

// FuzzHead: what x/net/http2 refuses is refused, and what is refused beyond that is in the list.
func FuzzHead(f *testing.F) {
	for _, s := range [][]string{
		{":method", "GET", ":scheme", "http", ":path", "/a/../b?c", ":authority", "a"},
		{":method", "POST", ":scheme", "https", ":path", "/", ":authority", "a:1", "content-length", "3", "te", "trailers", "cookie", "a", "cookie", "b"},
		{":method", "CONNECT", ":authority", "a:443"},
		{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/", ":authority", "a"},
		{":method", "OPTIONS", ":scheme", "http", ":path", "*", "host", "a"},
		{":method", "GET", ":method", "GET"},
		{"a", "b", ":path", "/"},
		{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a", "Upper", "x", "connection", "close", "b", "a\nb"},
		{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a", "traceparent", "x", "traceparent", "y", "grpc-timeout", "1S", "b3", "0"},
	} {
		f.Add(encoded(s...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxFrame {
			return
		}
		fault, err := reader().decode(b)
		raw := append(appendFrame(nil, len(b), frameHeaders, flagEndHeaders|flagEnd, 1), b...)
		fr := xhttp2.NewFramer(io.Discard, bytes.NewReader(raw))
		fr.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
		fr.MaxHeaderListSize = uint32(meshLimits.bytes)
		got, theirs := fr.ReadFrame()
		switch {
		case err != nil:
			if theirs == nil && !strings.Contains(err.Error(), "too long") {
				t.Fatalf("we cannot decode (%v) what x/net/http2 can: %q", err, b)
			}
		case theirs != nil && fault == nil:
			t.Fatalf("x/net/http2 refuses (%v) what we take: %q", theirs, b)
		case theirs == nil && fault != nil:
			h := got.(*xhttp2.MetaHeadersFrame)
			if stricter[fault] == "" && !h.Truncated {
				t.Fatalf("we refuse (%v) what x/net/http2 takes: %q", fault, b)
			}
		}
	})
}

// FuzzMessages: however a stream is cut, the same number of messages begins in it.
func FuzzMessages(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 1, 9, 0, 0, 0, 0, 0, 1}, 3)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		var whole, parts messages
		want := whole.walk(b)
		cut = 1 + (cut&0xff)%7
		got := uint64(0)
		for p := b; len(p) > 0; {
			n := min(cut, len(p))
			got += parts.walk(p[:n])
			p = p[n:]
		}
		if got != want {
			t.Fatalf("%d messages in one piece, %d in pieces of %d", want, got, cut)
		}
		model := uint64(0)
		for p := b; len(p) > 0; {
			model++
			if len(p) < 5 {
				break
			}
			n := 5 + int(binary.BigEndian.Uint32(p[1:5]))
			if n > len(p) {
				break
			}
			p = p[n:]
		}
		if want != model {
			t.Fatalf("%d messages, the model says %d", want, model)
		}
	})
}

type nobody struct{}

func (nobody) Connection(*exchange.Binding, *exchange.Peer, time.Time, flow.Reason, string) {}

// FuzzServer: whatever a caller sends, its connection ends, and everything that it took is given back.
func FuzzServer(f *testing.F) {
	settings := appendFrame(nil, 0, frameSettings, 0, 0)
	head := encoded(":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a", "content-type", "application/grpc")
	request := append(appendFrame(settings, len(head), frameHeaders, flagEndHeaders, 1), head...)
	f.Add(request)
	f.Add(append(appendFrame(request, 3, frameData, flagEnd, 1), "abc"...))
	f.Add(appendReset(request, 1, codeCancel))
	f.Add(appendWindow(request, 1, 5))
	f.Add(appendGoaway(request, 0, codeNone, ""))
	f.Add(append(appendFrame(settings, len(head), frameHeaders, 0, 1), head...))
	f.Add(appendPing(appendFrame(request, 5, framePriority, 0, 3), false, drainPing))
	f.Fuzz(func(t *testing.T, b []byte) { converse(t, b) })
}

// converse serves a caller that sends the preface and b, and then nothing more, and returns what was written to it.
func converse(t *testing.T, b []byte) []byte {
	t.Helper()
	n := testmesh.NewNet()
	addr := netip.MustParseAddrPort("10.0.0.1:80")
	l, err := n.Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	away, err := n.Dialer(netip.MustParseAddr("10.0.0.2"))(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	room := &exchange.Room{}
	bound := &exchange.Binding{Room: room, Listener: policy.Listener{Limits: policy.Limits{}.WithDefaults()}}
	srv := &Server{Side: flow.SideClient, Handler: exchange.HandlerFunc(func(x *exchange.Exchange) {
		x.Outcome.Fail(flow.ReasonNoEndpoint, "")
		x.Outcome.Answered = x.Downstream.Answer(x)
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		srv.Serve(&exchange.Session{Conn: near, Peer: &exchange.Peer{}, Start: time.Now(), Bind: func() *exchange.Binding { return bound }, Report: nobody{}})
	}()
	var written bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&written, away)
	}()
	_, _ = io.WriteString(away, preface)
	_, _ = away.Write(b)
	_ = away.(interface{ CloseWrite() error }).CloseWrite()
	<-served
	<-read
	_ = away.Close()
	if used := room.Used(); used != 0 {
		t.Errorf("%d bytes of room are left", used)
	}
	return written.Bytes()
}

// FuzzFrames: a sequence of frames for which x/net/http2's Framer ends the connection ends it here too, with a GOAWAY that names an error. The
// frames of ours before it are whole, and x/net/http2 can read them all.
func FuzzFrames(f *testing.F) {
	settings := appendFrame(nil, 0, frameSettings, 0, 0)
	head := encoded(":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a")
	open := append(appendFrame(settings, len(head), frameHeaders, 0, 1), head...)
	f.Add(appendFrame(open, 0, frameContinuation, flagEndHeaders, 1))
	f.Add(appendFrame(open, 0, frameData, flagEnd, 1))                                                 // within a head
	f.Add(appendFrame(settings, 0, frameContinuation, flagEndHeaders, 1))                              // without a head
	f.Add(append(appendFrame(settings, 5, frameHeaders, flagEndHeaders|flagPadded, 1), "\x09abcd"...)) // more padding than payload
	f.Add(append(appendFrame(settings, 6, frameSettings, flagEnd, 0), make([]byte, 6)...))             // an answer with a payload
	f.Add(append(appendFrame(settings, 5, frameSettings, 0, 0), make([]byte, 5)...))
	f.Add(appendSetting(appendFrame(settings, 6, frameSettings, 0, 0), settingInitialWindow, 1<<31))
	f.Add(append(appendFrame(settings, 7, framePing, 0, 0), make([]byte, 7)...))
	f.Add(append(appendFrame(settings, 8, framePing, 0, 1), make([]byte, 8)...))
	f.Add(appendWindow(settings, 0, 0))
	f.Add(append(appendFrame(settings, 3, frameReset, 0, 1), make([]byte, 3)...))
	f.Add(appendReset(settings, 0, codeCancel))
	f.Add(append(appendFrame(settings, 4, framePush, 0, 1), 0, 0, 0, 2))
	f.Add(appendGoaway(settings, 0, codeNone, "bye"))
	f.Add(append(appendFrame(settings, 4, framePriority, 0, 1), make([]byte, 4)...))
	f.Add(appendFrame(settings, 0, framePriorityUpdate, 0, 0))
	f.Add(append(appendFrame(settings, 4, framePriorityUpdate, 0, 0), 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		theirs := refusal(b)
		fr := xhttp2.NewFramer(io.Discard, bytes.NewReader(converse(t, b)))
		fr.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
		said := xhttp2.ErrCodeNo
		for {
			frame, err := fr.ReadFrame()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("x/net/http2 cannot read what we have written: %v", err)
			}
			if g, ok := frame.(*xhttp2.GoAwayFrame); ok {
				said = g.ErrCode
			}
		}
		if theirs != nil && said == xhttp2.ErrCodeNo {
			t.Fatalf("x/net/http2 ends the connection (%v), we do not: %x", theirs, b)
		}
	})
}

// refusal is why x/net/http2's Framer ends a connection that sends b; nil when it does not, or when it does so for a head, which FuzzHead compares.
func refusal(b []byte) error {
	r := bytes.NewReader(b)
	fr := xhttp2.NewFramer(io.Discard, r)
	fr.SetMaxReadFrameSize(maxFrame)
	for {
		at := len(b) - r.Len()
		_, err := fr.ReadFrame()
		var connection xhttp2.ConnectionError
		var stream xhttp2.StreamError
		switch {
		case err == nil || errors.As(err, &stream):
		case errors.As(err, &connection) && b[at+3] == framePriority && connection == xhttp2.ConnectionError(xhttp2.ErrCodeFrameSize):
			// Of the stream alone by RFC 9113, section 6.3.
		case errors.Is(err, xhttp2.ErrFrameTooLarge):
			return err
		case errors.As(err, &connection) && len(b)-at >= frameHeader+parseFrame(b[at:]).length: // of a frame that is cut, ours sees the end first
			return err
		default:
			return nil
		}
	}
}

var _ net.Conn = (*testmesh.MemConn)(nil)
