//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/net/http2/hpack"
)

// HTTP/2 (RFC 9113) as far as the two ends of a comparison need it, on byte slices: one core has to make both ends of all calls, so that a library's
// server and client would be what is measured.

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" // section 3.4

// Types and flags of frames, section 6.
const (
	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameGoAway       = 7
	frameWindow       = 8
	frameContinuation = 9

	flagEnd        = 0x01 // of a stream
	flagAck        = 0x01
	flagEndHeaders = 0x04
	flagPadded     = 0x08
	flagPriority   = 0x20

	settingTable   = 1
	settingStreams = 3
	settingInitial = 4

	frameHead    = 9
	frameMax     = 16 << 10 // bytes of a frame's content that everybody takes
	windowNew    = 1<<16 - 1
	windowWide   = 4 << 20 // what muxed gives the peer for a connection
	creditStream = windowNew / 2
	creditAll    = 256 << 10
)

// frame is one frame as it came; body is valid until the buffer it came in is used again.
type frame struct {
	kind, flags byte
	stream      uint32
	body        []byte
}

// nextFrame cuts one off; false: more must come.
func nextFrame(b []byte) (f frame, rest []byte, ok bool) {
	if len(b) < frameHead {
		return f, b, false
	}
	end := frameHead + (int(b[0])<<16 | int(b[1])<<8 | int(b[2]))
	if len(b) < end {
		return f, b, false
	}
	return frame{b[3], b[4], binary.BigEndian.Uint32(b[5:]) &^ (1 << 31), b[frameHead:end]}, b[end:], true
}

func appendFrameHead(dst []byte, size int, kind, flags byte, stream uint32) []byte {
	dst = append(dst, byte(size>>16), byte(size>>8), byte(size), kind, flags)
	return binary.BigEndian.AppendUint32(dst, stream)
}

func appendWindow(dst []byte, stream uint32, n int) []byte {
	return binary.BigEndian.AppendUint32(appendFrameHead(dst, 4, frameWindow, 0, stream), uint32(n))
}

// streams is what an end does with what comes. An error ends the connection.
type streams interface {
	// field is one of the head or the trailers of a stream. Pseudo fields are among them.
	field(stream uint32, name, value string)
	// fields says that they were all.
	fields(stream uint32, end bool) error
	// data is part of a stream's body. p is valid during the call.
	data(stream uint32, p []byte, end bool) error
	// reset says that the peer gave a stream up.
	reset(stream uint32, code uint32) error
	// sending is what goes out on a stream, nil when it has ended; it is asked when the peer widens a window.
	sending(stream uint32) *sending
	// all are those that have not ended.
	all() []*sending
	// sent says that all of a stream has been sent that had to wait for a window.
	sent(s *sending)
}

// sending is one direction of a stream: from here to the peer.
type sending struct {
	id       uint32
	window   int
	pending  []byte  // what the windows have no room for
	end      bool    // the stream ends after pending
	trailers *phrase // and with these, if set
	ended    bool
	waiting  bool // is in muxed.blocked
}

// phrase is a list of fields that is sent again and again on one connection.
type phrase struct {
	list  []hpack.HeaderField
	again []byte // the block as long as the table of the connection's encoder is at turn
	turn  int
}

// muxed is one end of a connection without its streams. Whoever owns it gives it what came (take) and sends what is in out.
type muxed struct {
	out []byte
	on  streams

	window  int // bytes of bodies that the peer takes on all streams together
	initial int // and on a new one
	limit   int // streams that the peer takes at a time; 0: any number
	given   int // bytes that came since the peer was given window for the connection
	blocked []*sending

	decoder *hpack.Decoder
	head    []byte // of a head that goes on in CONTINUATION
	headOf  uint32
	headEnd bool

	encoder *hpack.Encoder
	block   bytes.Buffer
	turn    int // how often the encoder's table has changed, plus one
}

// newMuxed is one end of a new connection; a client's has the preface in out.
func newMuxed(on streams, client bool) *muxed {
	m := &muxed{on: on, window: windowNew, initial: windowNew, turn: 1}
	m.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) { m.on.field(m.headOf, f.Name, f.Value) })
	m.encoder = hpack.NewEncoder(&m.block)
	if client {
		m.out = append(m.out, preface...)
	}
	m.out = appendFrameHead(m.out, 0, frameSettings, 0, 0)
	m.out = appendWindow(m.out, 0, windowWide-windowNew)
	return m
}

// take acts on all whole frames of b and returns the rest.
func (m *muxed) take(b []byte) ([]byte, error) {
	for {
		f, rest, ok := nextFrame(b)
		if !ok {
			return b, nil
		}
		if err := m.frame(f); err != nil {
			return rest, err
		}
		b = rest
	}
}

func (m *muxed) frame(f frame) error {
	if m.head != nil && (f.kind != frameContinuation || f.stream != m.headOf) {
		return fmt.Errorf("a frame of type %d in the middle of a head", f.kind)
	}
	switch f.kind {
	case frameData:
		size := len(f.body)
		p, err := f.unpadded()
		if err != nil {
			return err
		}
		if m.given += size; m.given >= creditAll {
			m.out = appendWindow(m.out, 0, m.given)
			m.given = 0
		}
		return m.on.data(f.stream, p, f.flags&flagEnd != 0)
	case frameHeaders:
		p, err := f.unpadded()
		if err != nil {
			return err
		}
		if f.flags&flagPriority != 0 {
			if len(p) < 5 {
				return errors.New("HEADERS too short for its priority")
			}
			p = p[5:]
		}
		m.headOf, m.headEnd = f.stream, f.flags&flagEnd != 0
		return m.fragment(p, f.flags)
	case frameContinuation:
		if m.head == nil {
			return errors.New("CONTINUATION of nothing")
		}
		return m.fragment(f.body, f.flags)
	case frameReset:
		if len(f.body) != 4 {
			return errors.New("RST_STREAM of a wrong size")
		}
		return m.on.reset(f.stream, binary.BigEndian.Uint32(f.body))
	case frameSettings:
		if f.flags&flagAck != 0 {
			return nil
		}
		m.out = appendFrameHead(m.out, 0, frameSettings, flagAck, 0)
		return m.settings(f.body)
	case framePing:
		if f.flags&flagAck == 0 {
			m.out = append(appendFrameHead(m.out, len(f.body), framePing, flagAck, 0), f.body...)
		}
	case frameGoAway:
		return fmt.Errorf("GOAWAY % x %q", f.body[:min(8, len(f.body))], f.body[min(8, len(f.body)):])
	case frameWindow:
		if len(f.body) != 4 {
			return errors.New("WINDOW_UPDATE of a wrong size")
		}
		n := int(binary.BigEndian.Uint32(f.body) &^ (1 << 31))
		if f.stream == 0 {
			m.window += n
		} else if s := m.on.sending(f.stream); s != nil {
			s.window += n
		}
		m.unblock()
	}
	return nil
}

func (f frame) unpadded() ([]byte, error) {
	if f.flags&flagPadded == 0 {
		return f.body, nil
	}
	if len(f.body) == 0 || int(f.body[0]) >= len(f.body) {
		return nil, errors.New("more padding than frame")
	}
	return f.body[1 : len(f.body)-int(f.body[0])], nil
}

func (m *muxed) fragment(p []byte, flags byte) error {
	if flags&flagEndHeaders == 0 {
		m.head = append(append(make([]byte, 0, len(m.head)+len(p)+1), m.head...), p...)
		return nil
	}
	if m.head != nil {
		p = append(m.head, p...)
		m.head = nil
	}
	if _, err := m.decoder.Write(p); err != nil {
		return err
	}
	if err := m.decoder.Close(); err != nil {
		return err
	}
	return m.on.fields(m.headOf, m.headEnd)
}

func (m *muxed) settings(b []byte) error {
	for ; len(b) >= 6; b = b[6:] {
		v := int(binary.BigEndian.Uint32(b[2:]))
		switch binary.BigEndian.Uint16(b) {
		case settingTable:
			m.encoder.SetMaxDynamicTableSizeLimit(uint32(min(v, 4096)))
			m.turn++
		case settingStreams:
			m.limit = v
		case settingInitial:
			for _, s := range m.on.all() {
				s.window += v - m.initial
			}
			m.initial = v
		}
	}
	m.unblock()
	return nil
}

// fields appends a head or trailers.
func (m *muxed) fields(stream uint32, p *phrase, end bool) {
	if p.turn != m.turn {
		m.block.Reset()
		first := m.encode(p.list)
		p.again = m.encode(p.list) // now all of them are in the table, at places that last until it changes
		if !bytes.Equal(first, p.again) {
			m.turn++
		}
		p.turn = m.turn
		m.headers(stream, first, end)
		return
	}
	m.headers(stream, p.again, end)
}

func (m *muxed) encode(list []hpack.HeaderField) []byte {
	m.block.Reset()
	for _, f := range list {
		_ = m.encoder.WriteField(f) // into memory
	}
	return bytes.Clone(m.block.Bytes())
}

func (m *muxed) headers(stream uint32, block []byte, end bool) {
	flags := byte(flagEndHeaders)
	if end {
		flags |= flagEnd
	}
	m.out = append(appendFrameHead(m.out, len(block), frameHeaders, flags, stream), block...)
}

// send appends p to a stream, as far as the windows allow, and keeps the rest until they do.
func (m *muxed) send(s *sending, p []byte, end bool) {
	s.end = s.end || end
	if len(s.pending) == 0 {
		p = m.push(s, p)
	}
	s.pending = append(s.pending, p...)
	if len(s.pending) > 0 && !s.waiting {
		s.waiting = true
		m.blocked = append(m.blocked, s)
	}
}

// hold is send, on a stream on which nothing waits, of bytes that are not changed any more: what must wait is not copied.
func (m *muxed) hold(s *sending, p []byte, end bool) {
	s.end = s.end || end
	if s.pending = slices.Clip(m.push(s, p)); len(s.pending) > 0 && !s.waiting {
		s.waiting = true
		m.blocked = append(m.blocked, s)
	}
}

// push appends what the windows allow and returns the rest.
func (m *muxed) push(s *sending, p []byte) []byte {
	for {
		n := max(0, min(len(p), m.window, s.window, frameMax))
		last := s.end && n == len(p)
		if n == 0 && !last {
			return p
		}
		if n > 0 || s.trailers == nil {
			flags := byte(0)
			if last && s.trailers == nil {
				flags = flagEnd
			}
			m.out = append(appendFrameHead(m.out, n, frameData, flags, s.id), p[:n]...)
			m.window -= n
			s.window -= n
			p = p[n:]
		}
		if last {
			if s.trailers != nil {
				m.fields(s.id, s.trailers, true)
			}
			s.ended = true
			return nil
		}
		if len(p) == 0 {
			return nil
		}
	}
}

// unblock sends what windows have become wide enough for.
func (m *muxed) unblock() {
	m.blocked = slices.DeleteFunc(m.blocked, func(s *sending) bool {
		if !s.ended {
			s.pending = m.push(s, s.pending)
		}
		if s.waiting = len(s.pending) > 0 && !s.ended; !s.waiting && s.ended {
			m.on.sent(s)
		}
		return !s.waiting
	})
}
