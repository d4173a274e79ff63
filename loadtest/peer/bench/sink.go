//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// sinkOrder starts a sink.
type sinkOrder struct {
	TLS   string // address for Tulle, which exports over mTLS only
	Plain string // address for Envoy, as it is configured everywhere
	PKI   pki
}

// sinkCount is what the sink has taken, since its start.
type sinkCount struct {
	Spans   int64
	Exports int64
	Err     string
}

// sinkMain takes OTLP over gRPC from whoever sends and counts spans, so that a proxy really encodes and delivers what it claims to. Each further message
// asks for the count.
func sinkMain(p *parent) error {
	var o sinkOrder
	if err := p.next(&o); err != nil {
		return err
	}
	var s sink
	var first sinkCount
	if err := s.open(o); err != nil {
		first.Err = err.Error()
	}
	if err := p.say(first); err != nil {
		return err
	}
	for {
		var question struct{}
		if err := p.next(&question); err != nil {
			return err
		}
		if err := p.say(sinkCount{Spans: s.spans.Load(), Exports: s.exports.Load()}); err != nil {
			return err
		}
	}
}

type sink struct {
	spans, exports atomic.Int64
}

func (s *sink) open(o sinkOrder) error {
	secure, err := o.PKI.server(sinkAccount)
	if err != nil {
		return err
	}
	for _, l := range []struct {
		address string
		options []grpc.ServerOption
	}{
		{o.TLS, []grpc.ServerOption{grpc.Creds(credentials.NewTLS(secure))}},
		{o.Plain, nil},
	} {
		ln, err := net.Listen("tcp", l.address)
		if err != nil {
			return err
		}
		server := grpc.NewServer(append(l.options, grpc.ForceServerCodecV2(asIs{}), grpc.UnknownServiceHandler(s.take), grpc.MaxRecvMsgSize(64<<20))...)
		go func() { _ = server.Serve(ln) }() // ends with the process
	}
	return nil
}

func (s *sink) take(_ any, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	var body []byte
	if err := stream.RecvMsg(&body); err != nil {
		return err
	}
	if strings.HasSuffix(method, "TraceService/Export") {
		n, err := countSpans(body)
		if err != nil {
			return err
		}
		s.spans.Add(int64(n))
	}
	s.exports.Add(1)
	return stream.SendMsg([]byte(nil)) // an empty Export…ServiceResponse: all taken
}

// asIs hands messages on as bytes.
type asIs struct{}

func (asIs) Name() string { return "proto" }

func (asIs) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("a message of type %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (asIs) Unmarshal(data mem.BufferSlice, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("a message of type %T", v)
	}
	*b = data.Materialize()
	return nil
}

// countSpans counts the spans of an ExportTraceServiceRequest: resource_spans (1), scope_spans (2), spans (2).
func countSpans(request []byte) (n int, err error) {
	err = each(request, 1, func(resource []byte) error {
		return each(resource, 2, func(scope []byte) error {
			return each(scope, 2, func([]byte) error { n++; return nil })
		})
	})
	return n, err
}

// each calls f for every field of a message with that number, which must be length-delimited.
func each(message []byte, number protowire.Number, f func([]byte) error) error {
	for len(message) > 0 {
		num, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		size := protowire.ConsumeFieldValue(num, kind, message)
		if size < 0 {
			return protowire.ParseError(size)
		}
		if num == number {
			if kind != protowire.BytesType {
				return errors.New("a field of the wrong kind")
			}
			value, _ := protowire.ConsumeBytes(message)
			if err := f(value); err != nil {
				return err
			}
		}
		message = message[size:]
	}
	return nil
}
