package main

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// A wire is one batch of the corpus as OTLP bytes, of which any copy is made by writing over what differs: so the heap that is collected while bytes are
// decoded and written is the storage's and the decoder's, not a decoded corpus. Its bytes are those of the stamper's batch, marshalled.
type wire struct {
	raw       []byte
	spans     []wireSpan  // in order
	sequences []wireCount // of the resources
	s         *stamper    // without its batch
}

// wireSpan says where in raw a span's fields begin; 0 for one that it has not.
type wireSpan struct{ trace, span, parent, start, end, request, port int }

// wireCount is a varint in raw.
type wireCount struct {
	at, size int
	boot     int64
}

// newWire takes the batch of a stamper, which is of no use any more then.
func newWire(s *stamper) (*wire, error) {
	var m ptrace.ProtoMarshaler
	raw, err := m.MarshalTraces(s.to(0, 1)) // a time of 0 is not written
	if err != nil {
		return nil, err
	}
	w := &wire{raw: raw, s: s}
	// Numbers of fields: opentelemetry-proto v1, trace.proto, resource.proto and common.proto.
	err = fields(raw, 0, func(n protowire.Number, at int, resource []byte) error {
		return fields(resource, at, func(n protowire.Number, at int, b []byte) error {
			switch n {
			case 1:
				return fields(b, at, func(n protowire.Number, at int, b []byte) error {
					key, v, vAt, err := attribute(b, at)
					if err == nil && n == 1 && key == flow.AttrSequence {
						w.sequences = append(w.sequences, wireCount{at: vAt, size: len(v)})
					}
					return err
				})
			case 2:
				return fields(b, at, func(n protowire.Number, at int, b []byte) error {
					if n != 2 {
						return nil
					}
					return w.span(b, at)
				})
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	boots := 0
	for _, n := range s.boot {
		if n > 0 && boots < len(w.sequences) {
			w.sequences[boots].boot = n
			boots++
		}
	}
	if len(w.spans) != len(s.orig) || boots != len(w.sequences) {
		return nil, fmt.Errorf("the bytes have %d spans of %d and %d sequences of %d", len(w.spans), len(s.orig), len(w.sequences), boots)
	}
	s.td = ptrace.Traces{}
	for i := range s.orig { // values are the batch
		o := &s.orig[i]
		o.request, o.sourceAddress = pcommon.Value{}, pcommon.Value{}
	}
	return w, nil
}

func (w *wire) span(b []byte, at int) error {
	var s wireSpan
	o := &w.s.orig[len(w.spans)]
	err := fields(b, at, func(n protowire.Number, at int, b []byte) error {
		switch {
		case n == 1 && len(b) == 16:
			s.trace = at
		case n == 2 && len(b) == 8:
			s.span = at
		case n == 4 && len(b) == 8:
			s.parent = at
		case n == 7:
			s.start = at
		case n == 8:
			s.end = at
		case n == 9:
			key, _, vAt, err := attribute(b, at)
			if err != nil {
				return err
			}
			if key == flow.AttrRequestID && o.hasRequest {
				s.request = vAt
			}
			if key == flow.AttrSourceAddress && o.hasSource {
				s.port = vAt + len(o.host) + 1
			}
		}
		return nil
	})
	w.spans = append(w.spans, s)
	return err
}

// fields calls fn with each field of the message b, which begins at off: its number, where its content begins, and the content.
func fields(b []byte, off int, fn func(n protowire.Number, at int, content []byte) error) error {
	for i := 0; i < len(b); {
		n, kind, size := protowire.ConsumeTag(b[i:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		i += size
		size = protowire.ConsumeFieldValue(n, kind, b[i:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		head := 0
		if kind == protowire.BytesType {
			_, head = protowire.ConsumeVarint(b[i:])
		}
		if err := fn(n, off+i+head, b[i+head:i+size]); err != nil {
			return err
		}
		i += size
	}
	return nil
}

// attribute is a KeyValue's key, and its value's content with where that begins.
func attribute(b []byte, off int) (key string, value []byte, at int, err error) {
	err = fields(b, off, func(n protowire.Number, vAt int, content []byte) error {
		if n == 1 {
			key = string(content)
			return nil
		}
		return fields(content, vAt, func(_ protowire.Number, vvAt int, content []byte) error {
			value, at = content, vvAt
			return nil
		})
	})
	return key, value, at, err
}

// to makes the batch that of copy k, in place, as a stamper does.
func (w *wire) to(k, base uint64) ([]byte, error) {
	shift := base + k*w.s.c.length - w.s.c.first
	for i := range w.spans {
		at, o := &w.spans[i], &w.s.orig[i]
		trace, span, parent := freshTrace(o.trace, k), fresh8(o.span, k), fresh8(o.parent, k)
		w.put(at.trace, trace[:])
		w.put(at.span, span[:])
		w.put(at.parent, parent[:])
		if at.start > 0 {
			binary.LittleEndian.PutUint64(w.raw[at.start:], o.start+shift)
		}
		if at.end > 0 {
			binary.LittleEndian.PutUint64(w.raw[at.end:], o.end+shift)
		}
		if at.request > 0 {
			id := freshTrace(o.requestID, k)
			hexLike(w.raw[at.request:at.request+len(o.model)], id)
		}
		if at.port > 0 {
			strconv.AppendUint(w.raw[at.port:at.port], port(o.port, k), 10)
		}
	}
	for _, c := range w.sequences {
		if n := protowire.AppendVarint(w.raw[c.at:c.at], sequence(k, c.boot)); len(n) != c.size {
			return nil, fmt.Errorf("copy %d: a sequence takes %d bytes, not %d", k, len(n), c.size)
		}
	}
	return w.raw, nil
}

func (w *wire) put(at int, b []byte) {
	if at > 0 {
		copy(w.raw[at:], b)
	}
}

// hexLike writes id over b, which has the form of a UUID, with dashes or without.
func hexLike(b []byte, id [16]byte) {
	if len(b) == 32 {
		hex.Encode(b, id[:])
		return
	}
	from := 0
	for _, n := range [...]int{4, 2, 2, 2, 6} {
		hex.Encode(b, id[from:from+n])
		from += n
		b = b[min(2*n+1, len(b)):]
	}
}
