//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync/atomic"

	"golang.org/x/net/dns/dnsmessage"
)

// names is a DNS server that knows one name: endpoints of one port on loopback addresses of their own. It can stop answering.
type names struct {
	conn   net.PacketConn
	port   int // the endpoints'
	count  int // how many there are
	silent atomic.Bool
	turn   atomic.Uint32
	done   chan struct{}
}

// dnsName is what the scenario's last service is called.
const dnsName = "app.scenario.test"

// startNames starts the stage's DNS server.
func (s *stage) startNames() error {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	at, err := s.rig.ports.free()
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(at)
	n := &names{conn: conn, count: s.services[len(s.services)-1].endpoints, done: make(chan struct{})}
	n.port, _ = strconv.Atoi(port)
	s.names = n
	go n.serve()
	s.atEnd(func() {
		_ = conn.Close()
		<-n.done
	})
	return nil
}

// address is that of the i-th endpoint.
func (n *names) address(i int) string { return fmt.Sprintf("127.0.7.%d:%d", i+1, n.port) }

// host is how the service is called by those who look its name up.
func (n *names) host() string { return fmt.Sprintf("%s:%d", dnsName, n.port) }

// server is where the DNS server listens.
func (n *names) server() string { return n.conn.LocalAddr().String() }

// resolver looks up names at the server, and nowhere else.
func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp4", n.server())
	}}
}

// serve answers until the socket is closed.
func (n *names) serve() {
	defer close(n.done)
	b := make([]byte, 1500)
	for {
		size, from, err := n.conn.ReadFrom(b)
		if err != nil {
			return
		}
		if n.silent.Load() {
			continue
		}
		if answer := n.answer(b[:size]); answer != nil {
			_, _ = n.conn.WriteTo(answer, from)
		}
	}
}

// answer is the reply to a query; nil for what is none. The addresses turn, as those of most servers do.
func (n *names) answer(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	out := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionDesired: m.RecursionDesired, RecursionAvailable: true},
		Questions: m.Questions,
	}
	switch {
	case q.Name.String() != dnsName+".":
		out.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		first := int(n.turn.Add(1))
		for i := range n.count {
			out.Answers = append(out.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
				Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 7, byte((first+i)%n.count + 1)}},
			})
		}
	}
	text, err := out.Pack()
	if err != nil {
		return nil
	}
	return text
}
