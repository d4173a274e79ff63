package sidecar

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
	"github.com/tulle-mesh/tulle/sidecar/listen"
	"github.com/tulle-mesh/tulle/sidecar/proxyproto"
)

// proxied reads the PROXY protocol header with which a connection from a source of b's begins, and makes peer who it names. False: it was turned away.
func (s *Sidecar) proxied(c *listen.Conn, b *exchange.Binding, peer *exchange.Peer) (h proxyproto.Header, ok bool) {
	p := b.Listener.ProxyProtocol
	_ = c.SetReadDeadline(c.Start.Add(p.Timeout))
	h, err := proxyproto.Read(c.Conn)
	switch {
	case err == nil:
	case errors.Is(err, proxyproto.ErrHeader):
		s.unproxied(c, b, peer, err.Error())
		return h, false
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.unproxied(c, b, peer, "no PROXY protocol header came within "+p.Timeout.String())
		return h, false
	case errors.Is(err, io.EOF): // it left without a byte, as those do who only look whether a port is open
		return h, false
	default:
		s.observer.Connection(b, peer, c.Start, flow.ReasonDownstreamReset, err.Error())
		return h, false
	}
	_ = c.SetReadDeadline(time.Time{})
	if h.Local || !h.Source.IsValid() {
		return h, true
	}
	peer.Via, peer.Addr = peer.Addr, h.Source
	if limit, n, ok := c.Stands(h.Source.Addr()); !ok {
		s.shed(b, peer, limit, n)
		return h, false
	}
	return h, true
}

// unproxied records why and resets.
func (s *Sidecar) unproxied(c *listen.Conn, b *exchange.Binding, peer *exchange.Peer, why string) {
	s.observer.Connection(b, peer, c.Start, flow.ReasonProxyHeader, why)
	if c.TCP != nil {
		_ = c.TCP.SetLinger(0)
	}
}

// greeting is the header with which connections begin where v asks for one.
func greeting(v policy.ProxyVersion) func(x *exchange.Exchange) []byte {
	if v == 0 {
		return nil
	}
	return func(x *exchange.Exchange) []byte {
		h := proxyproto.Header{Version: int(v), Source: plain(x.Peer.Addr), Destination: plain(x.Peer.Local), Authority: x.ServerName}
		if !x.Trace.SpanID.IsZero() { // by which its receiver can be found in the trace
			h.UniqueID = []byte(x.Trace.TraceID.String() + "-" + x.Trace.SpanID.String())
		}
		if t := x.Peer.TLS; t != nil {
			h.TLS = &proxyproto.TLS{Version: "TLSv" + t.Version, Cipher: t.Cipher, CN: x.Peer.Identity, Verified: x.Peer.Identity != ""}
		}
		return h.Append(nil)
	}
}
