//go:build linux

package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// callee is the backend's end of a connection that speaks HTTP/2: it answers every right message on a stream with one of the size that the path names, and ends the
// stream with status 0 when the caller has ended it. A call without a message is answered with one message all the same. It belongs to the backend's loop.
type callee struct {
	mux      *muxed
	answers  map[int][]byte // messages by size, of all connections
	requests map[int][]byte
	calls    map[uint32]*reply
	head     phrase
	trailers phrase
	spare    []*reply
}

// reply is one call.
type reply struct {
	sending
	path   string
	answer []byte
	want   []byte // a right message, when the first has begun
	got    []byte
	given  int
}

func newCallee(b *backend) *callee {
	c := &callee{answers: b.answers, requests: b.requests, calls: map[uint32]*reply{}}
	c.head.list = []hpack.HeaderField{{Name: ":status", Value: "200"}, {Name: "content-type", Value: grpcType}}
	c.trailers.list = []hpack.HeaderField{{Name: "grpc-status", Value: "0"}}
	c.mux = newMuxed(c, false)
	return c
}

// sized keeps a message of a size.
func sized(kept map[int][]byte, size int) ([]byte, error) {
	m := kept[size]
	if m == nil {
		if size < idDigits || size > 1<<20 {
			return nil, fmt.Errorf("a message of %d bytes is none of this comparison", size)
		}
		m = message(size)
		kept[size] = m
	}
	return m, nil
}

func (c *callee) field(stream uint32, name, value string) {
	x := c.calls[stream]
	if x == nil {
		if n := len(c.spare); n > 0 {
			x, c.spare = c.spare[n-1], c.spare[:n-1]
			*x = reply{got: x.got[:0]}
		} else {
			x = &reply{}
		}
		x.sending = sending{id: stream, window: c.mux.initial, trailers: &c.trailers}
		c.calls[stream] = x
	}
	if name == ":path" {
		x.path = value
	}
}

func (c *callee) fields(stream uint32, end bool) error {
	x := c.calls[stream]
	if x == nil {
		return errors.New("a call without fields")
	}
	digits, ok := strings.CutPrefix(x.path, callPath)
	size, err := strconv.Atoi(digits)
	if !ok || err != nil {
		return fmt.Errorf("no call of this comparison: %q", x.path)
	}
	if x.answer, err = sized(c.answers, size); err != nil {
		return err
	}
	c.mux.fields(stream, &c.head, false)
	if end { // an abuser's: nobody looks at the answer's id
		c.mux.hold(&x.sending, x.answer, true)
		if x.ended {
			c.forget(x)
		}
	}
	return nil
}

func (c *callee) data(stream uint32, p []byte, end bool) error {
	x := c.calls[stream]
	if x == nil {
		return nil // it was reset
	}
	if x.given += len(p); x.given >= creditStream && !end {
		c.mux.out = appendWindow(c.mux.out, stream, x.given)
		x.given = 0
	}
	x.got = append(x.got, p...)
	for len(x.got) >= messageHead {
		if x.want == nil {
			size := int(x.got[1])<<24 | int(x.got[2])<<16 | int(x.got[3])<<8 | int(x.got[4])
			var err error
			if x.want, err = sized(c.requests, size); err != nil {
				return err
			}
		}
		if len(x.got) >= messageHead+idDigits {
			copy(x.want[messageHead:], x.got[messageHead:messageHead+idDigits])
		}
		done, wrong := takeMessage(x.got, x.want)
		if wrong != nil {
			return c.refuse(x)
		}
		if !done {
			break
		}
		copy(x.answer[messageHead:], x.got[messageHead:messageHead+idDigits])
		c.mux.send(&x.sending, x.answer, end && len(x.got) == len(x.want))
		x.got = x.got[:copy(x.got, x.got[len(x.want):])]
	}
	if end {
		if len(x.got) > 0 {
			return errors.New("a call ended within a message")
		}
		if !x.end {
			c.mux.send(&x.sending, nil, true)
		}
	}
	if x.ended {
		c.forget(x)
	}
	return nil
}

// refuse resets a call whose message is not right; the caller hears of it by that. The connection goes on.
func (c *callee) refuse(x *reply) error {
	c.mux.out = append(appendFrameHead(c.mux.out, 4, frameReset, 0, x.id), 0, 0, 0, 2) // INTERNAL_ERROR
	c.forget(x)
	return nil
}

func (c *callee) forget(x *reply) {
	delete(c.calls, x.id)
	if !x.waiting {
		c.spare = append(c.spare, x)
	}
}

func (c *callee) reset(stream, _ uint32) error {
	if x := c.calls[stream]; x != nil {
		x.ended = true
		c.forget(x)
	}
	return nil
}

func (c *callee) sending(stream uint32) *sending {
	if x := c.calls[stream]; x != nil {
		return &x.sending
	}
	return nil
}

// sent forgets a call whose answer had to wait.
func (c *callee) sent(s *sending) {
	if x := c.calls[s.id]; x != nil {
		c.forget(x)
	}
}

func (c *callee) all() (out []*sending) {
	for _, x := range c.calls {
		out = append(out, &x.sending)
	}
	return out
}
