package sidecar

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/balance"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
	"github.com/tulle-mesh/tulle/sidecar/resilience"
)

// forward is what becomes of a request to a listener that is a forward proxy.
func (s *Sidecar) forward(send exchange.Handler) exchange.Handler {
	return exchange.Chain(send,
		s.aim,                  // which service, or which address: before the Record is begun
		s.filters.Recall,       //
		s.observer.observe,     //
		s.lineage.Call,         //
		answer,                 //
		aimed,                  // it goes nowhere
		resilience.Room,        // from here on as outbound
		s.filters.Admit,        //
		known,                  //
		resilience.Limit,       //
		resilience.Deadline,    //
		s.filters.Shape,        //
		resilience.Retry,       //
		resilience.TryDeadline, //
		balance.Step,           //
		s.filters.Remember,     //
		s.observer.attempt,     //
	)
}

// tunnels sends CONNECT as a connection, which the sidecar opens itself, and everything else as HTTP.
type tunnels struct{ http, tcp exchange.Handler }

// Handle implements exchange.Handler.
func (t *tunnels) Handle(x *exchange.Exchange) {
	if x.Kind == flow.KindConnection {
		t.tcp.Handle(x)
		return
	}
	t.http.Handle(x)
}

// aimed ends what aim has refused.
func aimed(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if x.Outcome.Reason == flow.ReasonNone {
			next.Handle(x)
		}
	})
}

// aim finds out where a request to a forward proxy goes: to the service that its authority names, or to where that is.
func (s *Sidecar) aim(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if x.Head.Method == "CONNECT" { // of what follows nothing is known: it is a connection, and counts as one
			x.Kind, x.Protocol = flow.KindConnection, flow.ProtocolTCP
		}
		if p := x.Binding.Proxy; p == nil { // the listener is another one by now
			x.Outcome.Fail(flow.ReasonUnknownDest, "the listener is no proxy any more")
		} else {
			s.aimAt(x, p)
		}
		next.Handle(x)
	})
}

func (s *Sidecar) aimAt(x *exchange.Exchange, p *exchange.Proxy) {
	host, port, given, err := aimOf(x)
	if err != nil {
		x.Outcome.Fail(flow.ReasonBadRequest, err.Error())
		return
	}
	connection := x.Kind == flow.KindConnection
	var name string
	var named bool
	literal, notIP := netip.ParseAddr(host)
	if notIP == nil {
		name, named = p.At[netip.AddrPortFrom(literal.Unmap(), port)]
	} else {
		name, named = p.Names.Match(host)
	}
	d := x.Binding.Destinations[name]
	if named = named && d != nil; named {
		x.Decision.Service, x.Decision.Called = name, name
		if t := x.Binding.Tables[name]; t != nil && connection != d.Protocol.MayBeHTTP() {
			if decideBy(t, x); x.Destination == nil { // a rule answers it, or sends it to nobody
				return
			}
			d = x.Destination
		}
		to := x.Decision.Service // name, or where its rules send
		switch {
		case !connection && !d.Protocol.MayBeHTTP():
			x.Outcome.Fail(flow.ReasonBadRequest, to+" speaks "+policy.ProtocolName(d.Protocol)+": call it by CONNECT")
			return
		case x.Head.Secure && !d.MTLS && !d.Originates():
			x.Outcome.Fail(flow.ReasonBadRequest, "https without CONNECT is for services whose spec.tls the sidecar originates; "+to+" has none")
			return
		}
		x.Destination = d
		if !given && !connection && d.Originates() { // what it sends on is https
			port = 443
		}
		if connection && d.Originates() { // what goes through is the application's own TLS
			own := *d
			own.TLS = nil
			x.Destination = &own
		}
		if to != name || len(x.Binding.Snapshot.Endpoints[name]) > 0 || d.Via != "" || !d.External {
			return
		}
	}
	switch {
	case !named && p.Unknown == policy.UnknownRefuse:
		x.Outcome.Fail(flow.ReasonUnknownDest, host+" is no service that this sidecar knows; add one, or set spec.proxy.unknown to pass")
		return
	case !named && x.Head.Secure && !connection:
		x.Outcome.Fail(flow.ReasonBadRequest, "https without CONNECT would go on unencrypted; use CONNECT")
		return
	}
	addresses, err := s.names.lookup(x, host, port)
	switch {
	case x.Aborted() != flow.ReasonNone:
		x.Outcome.Fail(x.WhyAborted())
		return
	case err != nil:
		x.Outcome.Fail(flow.ReasonNoEndpoint, err.Error())
		return
	case slices.Contains(addresses, plain(x.Peer.Local)):
		x.Outcome.Fail(flow.ReasonBadRequest, "it is the address of this proxy itself")
		return
	}
	to := *p.Passthrough
	if connection {
		to = *p.Tunnel
	}
	if named {
		to = *x.Destination
	} else {
		x.Decision.Route = passthroughRoute
	}
	to.Picker = &inOrder{addresses: addresses}
	x.Destination = &to
}

// aimOf takes apart what a request to a proxy asks for; given: it names the port.
func aimOf(x *exchange.Exchange) (host string, port uint16, given bool, err error) {
	if !x.Head.Absolute {
		return "", 0, false, fmt.Errorf("this is a proxy: ask it for http://HOST/…, or by CONNECT (is %s called directly?)", x.Peer.Local)
	}
	host = route.Canonical(route.Hostname(x.Head.Authority))
	port = 80
	if x.Head.Secure {
		port = 443
	}
	if text := x.Head.Authority[hostLength(x.Head.Authority):]; len(text) > 1 {
		n, err := strconv.ParseUint(text[1:], 10, 16)
		if err != nil || n == 0 {
			return "", 0, false, fmt.Errorf("%q: the port must be from 1 to 65535", x.Head.Authority)
		}
		port, given = uint16(n), true
	}
	if _, err := netip.ParseAddr(host); err != nil && !route.ValidHost(host) {
		return "", 0, false, fmt.Errorf("%q is no host", host)
	}
	return host, port, given, nil
}

// hostLength is how much of an authority is its host, brackets included.
func hostLength(authority string) int {
	for i := len(authority) - 1; i >= 0 && authority[i] != ']'; i-- {
		if authority[i] == ':' {
			return i
		}
	}
	return len(authority)
}

// proxy makes of a listener's binding one of a forward proxy. Of services with one name, or address, the first by name counts.
func (s *Sidecar) proxy(b *exchange.Binding) {
	snap := b.Snapshot
	p := &exchange.Proxy{
		Unknown: b.Listener.Proxy.Unknown, Names: &route.Hosts[string]{}, At: map[netip.AddrPort]string{},
		Passthrough: s.destination(passthroughKey+"http", policy.Service{Protocol: flow.ProtocolHTTP, External: true, ConnectTimeout: passthroughTimeout, MaxConnections: -1, MaxRequests: -1}),
		Tunnel:      s.destination(passthroughKey+"tunnel", policy.Service{Protocol: flow.ProtocolTCP, External: true, ConnectTimeout: passthroughTimeout, MaxConnections: -1}),
	}
	for _, name := range slices.Sorted(maps.Keys(snap.Services)) {
		sv := snap.Services[name]
		for _, h := range sv.Hosts {
			p.Names.Add(h, name)
		}
		if route.ValidHost(name) { // not of its further ports
			p.Names.Add(name, name)
			if sv.Namespace != "" {
				p.Names.Add(name+"."+sv.Namespace, name)
			}
		}
		at := slices.Clone(sv.Addresses)
		if sv.Via == "" {
			for _, e := range snap.Endpoints[name] {
				at = append(at, e.Address)
			}
		}
		for _, a := range at {
			if _, taken := p.At[plain(a)]; !taken {
				p.At[plain(a)] = name
			}
		}
	}
	b.Proxy = p
}

// inOrder is a Picker of addresses that one name has, about which it learns nothing: the first that was not tried.
type inOrder struct{ addresses []netip.AddrPort }

// Pick implements exchange.Picker.
func (o *inOrder) Pick(_ time.Time, want exchange.Want) (exchange.Choice, flow.Reason) {
	at := o.addresses[0]
	for _, a := range o.addresses {
		if !slices.Contains(want.Tried, a) {
			at = a
			break
		}
	}
	e := &policy.Endpoint{Address: at}
	return exchange.Choice{Endpoint: e, Load: only{e}}, flow.ReasonNone
}

// Typical implements exchange.Picker.
func (*inOrder) Typical(time.Time) time.Duration { return 0 }

// Another implements exchange.Picker.
func (o *inOrder) Another(w exchange.Want) bool {
	return slices.ContainsFunc(o.addresses, func(a netip.AddrPort) bool { return !slices.Contains(w.Tried, a) })
}

// names resolves host names for a forward proxy, and remembers for a while what it was told. Safe for concurrent use.
type names struct {
	resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	asking singleflight.Group // by host

	mu sync.Mutex
	m  map[string]resolved
}

type resolved struct {
	addresses []netip.Addr
	err       error
	until     time.Time
}

const (
	lookupTimeout = 5 * time.Second
	resolvedFor   = 30 * time.Second // a name has an address for
	missingFor    = 5 * time.Second  // and none for
	maxNames      = 1024             // one more replaces an arbitrary one
	maxAddresses  = exchange.MaxTries
)

func resolveDNS(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// lookup is where host, a name or an address, is at port. Requests for one host ask once; an abort of x ends its wait.
func (n *names) lookup(x *exchange.Exchange, host string, port uint16) ([]netip.AddrPort, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a.Unmap(), port)}, nil
	}
	n.mu.Lock()
	r, ok := n.m[host]
	n.mu.Unlock()
	if !ok || !time.Now().Before(r.until) {
		host = strings.Clone(host) // that of a request is gone with it
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		if !x.Dialling(cancel) {
			return nil, context.Canceled
		}
		defer x.Dialled()
		select {
		case answer := <-n.asking.DoChan(host, func() (any, error) { return n.ask(host), nil }):
			r = answer.Val.(resolved)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	out := make([]netip.AddrPort, 0, maxAddresses)
	for _, a := range r.addresses[:min(len(r.addresses), maxAddresses)] {
		out = append(out, netip.AddrPortFrom(a.Unmap(), port))
	}
	return out, nil
}

// ask asks for host, and remembers the answer.
func (n *names) ask(host string) resolved {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	now := time.Now()
	r := resolved{until: now.Add(resolvedFor)}
	if r.addresses, r.err = n.resolve(ctx, host); r.err == nil && len(r.addresses) == 0 {
		r.err = fmt.Errorf("%s has no address", host)
	}
	if r.err != nil {
		r.until = now.Add(missingFor)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.m == nil {
		n.m = map[string]resolved{}
	}
	if len(n.m) >= maxNames {
		for other := range n.m {
			delete(n.m, other)
			break
		}
	}
	n.m[host] = r
	return r
}
