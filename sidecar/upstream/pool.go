// Package upstream dials endpoints and keeps their idle connections.
//
// A Pools is shared by all exchanges of a sidecar. Run it beside them: it closes connections that have been idle for too long. An idle
// connection holds no buffer and has no goroutine; whether the peer has closed it is asked of the kernel when it is taken out again.
package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

const (
	// IdleTimeout is how long a connection waits for its next exchange.
	IdleTimeout = 60 * time.Second
	// MaxIdle is how many idle connections an endpoint keeps; the oldest is closed for one more.
	MaxIdle = 256
	// checkAfter is how long a connection must have been idle for its state to be asked of the kernel. Below it the answer would cost more
	// than it is worth: a connection that closes within it is met by the resending of what is safe.
	checkAfter = 5 * time.Millisecond
)

// Dial opens a connection to addr and returns by the deadline of ctx.
type Dial func(ctx context.Context, addr netip.AddrPort) (net.Conn, error)

// Within calls f where Unix sockets are to be made, in another network namespace for one. f does not wait.
type Within func(f func() error) error

// Pools keeps one pool per endpoint and TLS configuration. Safe for concurrent use.
type Pools struct {
	// Remember makes Own know the connections that are opened from then on.
	Remember atomic.Bool

	dial   Dial
	within Within

	mu     sync.RWMutex
	m      map[key]*pool
	closed bool
	wg     sync.WaitGroup // of connections being closed

	told sync.Map // offer → *tls.Config, of pools that there are
	own  sync.Map // local netip.AddrPort of each connection that Remember is for
}

// offer is a TLS configuration as given, and what is offered with it.
type offer struct {
	tls  *tls.Config
	alpn string
}

// link is the pool's own of a connection (exchange.Conn.Key).
type link struct {
	key   key
	probe probe
	local netip.AddrPort // under which Pools.own has it; the zero value: it does not
}

type key struct {
	addr netip.AddrPort
	unix *policy.Unix
	tls  *tls.Config
}

func keyOf(e *policy.Endpoint, secure *tls.Config) key { return key{e.Address, e.Unix, secure} }

type pool struct {
	mu   sync.Mutex
	idle []idle       // oldest first
	open atomic.Int64 // connections, idle ones included; a pool is kept while there are any
}

type idle struct {
	c     *exchange.Conn
	since time.Time
}

// New makes a Pools; dial nil means TCP, within nil here.
func New(dial Dial, within Within) *Pools {
	if dial == nil {
		dial = dialTCP
	}
	if within == nil {
		within = func(f func() error) error { return f() }
	}
	return &Pools{dial: dial, within: within, m: make(map[key]*pool)}
}

var dialer net.Dialer

func dialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	return dialer.DialContext(ctx, "tcp", addr.String())
}

// Waits between tries of dialUnix.
const (
	retryFirst   = time.Millisecond
	retryLongest = 50 * time.Millisecond
)

// dialUnix connects to a Unix socket. While as many connections wait as the listener takes the kernel refuses one more at once (EAGAIN, connect(2)), where
// that of TCP would let it wait: so it waits here.
func (p *Pools) dialUnix(ctx context.Context, path string) (c net.Conn, err error) {
	for wait := retryFirst; ; wait = min(2*wait, retryLongest) {
		err = p.within(func() (err error) {
			c, err = dialer.DialContext(ctx, "unix", path)
			return err
		})
		if err == nil || !errors.Is(err, syscall.EAGAIN) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w: as many connections as the application's backlog allows wait for it to accept them)", ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

// Run closes idle connections until ctx is done, then all of them, and waits for that. Connections that are put back later are closed at once.
func (p *Pools) Run(ctx context.Context) {
	t := time.NewTicker(IdleTimeout / 12)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			p.mu.Lock()
			p.closed = true
			p.mu.Unlock()
			p.sweep(time.Now().Add(IdleTimeout))
			p.wg.Wait()
			return
		case now := <-t.C:
			p.sweep(now)
		}
	}
}

// sweep closes what has been idle for too long at now, and forgets empty pools.
func (p *Pools) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, e := range p.m {
		e.mu.Lock()
		n := 0
		for n < len(e.idle) && now.Sub(e.idle[n].since) >= IdleTimeout {
			p.discard(e.idle[n].c)
			n++
		}
		e.idle = append(e.idle[:0], e.idle[n:]...)
		empty := len(e.idle) == 0 && e.open.Load() == 0
		e.mu.Unlock()
		if empty {
			delete(p.m, k)
			for _, alpn := range offers {
				p.told.Delete(offer{k.tls, alpn}) // other endpoints with it make another
			}
		}
	}
}

// Idle is how many idle connections there are.
func (p *Pools) Idle() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	n := 0
	for _, e := range p.m {
		e.mu.Lock()
		n += len(e.idle)
		e.mu.Unlock()
	}
	return n
}

// Count is how many connections to one endpoint are open, and how many of these are idle.
func (p *Pools) Count(at *policy.Endpoint, secure *tls.Config) (open, free int64) {
	p.mu.RLock()
	e := p.m[keyOf(at, secure)]
	p.mu.RUnlock()
	if e == nil {
		return 0, 0
	}
	e.mu.Lock()
	free = int64(len(e.idle))
	e.mu.Unlock()
	return e.open.Load(), free
}

// opened counts one more connection of k.
func (p *Pools) opened(k key) {
	p.mu.RLock()
	e := p.m[k]
	if e != nil {
		e.open.Add(1)
	}
	p.mu.RUnlock()
	if e != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if e = p.m[k]; e == nil {
		e = &pool{}
		p.m[k] = e
	}
	e.open.Add(1)
}

// Get implements exchange.Pool.
func (p *Pools) Get(x *exchange.Exchange) *exchange.Conn {
	secure := x.Destination.TLS
	if x.Kind == flow.KindConnection && x.Protocol == flow.ProtocolTLS && x.Destination.Originates() {
		secure = nil // the application's own goes on
	}
	k := keyOf(x.Choice.Endpoint, secure)
	x.Remote, x.Application = "", flow.Application{} // of the try before
	if !x.Fresh {
		p.mu.RLock()
		e := p.m[k]
		p.mu.RUnlock()
		if c := p.take(e, !x.Head.Idempotent); c != nil {
			c.Reused, c.Suspect = true, false
			x.Legs.Queued = x.Since()
			x.Remote, x.Application = c.Identity, c.Application
			return c
		}
	}
	alpn := exchange.ALPNHTTP1
	switch {
	case x.Kind == flow.KindConnection && !x.Destination.MTLS: // it would not know
		alpn = ""
	case x.Kind == flow.KindConnection && x.Protocol == flow.ProtocolTLS:
		alpn = exchange.ALPNTLS
	case x.Kind == flow.KindConnection:
		alpn = exchange.ALPNBytes
	}
	return p.open(x, k, alpn)
}

// Connect implements exchange.Pool.
func (p *Pools) Connect(x *exchange.Exchange, http2 bool) *exchange.Conn {
	k := keyOf(x.Choice.Endpoint, x.Destination.TLS)
	alpn := exchange.ALPNHTTP1
	if http2 {
		alpn = exchange.ALPNHTTP2
	}
	return p.open(x, k, alpn)
}

var offers = [...]string{exchange.ALPNHTTP1, exchange.ALPNHTTP2, exchange.ALPNBytes, exchange.ALPNTLS}

// offering is c with alpn offered, c itself without one. All connections of c that offer it share it, as long as c is in use. With HTTP/2 goes HTTP/1.1, which an endpoint's sidecar chooses that
// does not know better.
func (p *Pools) offering(c *tls.Config, alpn string) *tls.Config {
	if c == nil || alpn == "" {
		return c
	}
	if v, ok := p.told.Load(offer{c, alpn}); ok {
		return v.(*tls.Config)
	}
	o := c.Clone()
	o.NextProtos = []string{alpn}
	if alpn == exchange.ALPNHTTP2 {
		o.NextProtos = append(o.NextProtos, exchange.ALPNHTTP1)
	}
	return o
}

// open dials and counts a connection of k that offers alpn.
func (p *Pools) open(x *exchange.Exchange, k key, alpn string) *exchange.Conn {
	x.Legs.Queued = x.Since()
	if !x.Pend() {
		return nil
	}
	defer x.Pended()
	secure := p.offering(k.tls, alpn)
	deadline := time.Now().Add(x.Destination.ConnectTimeout)
	if x.Destination.ConnectTimeout < 0 {
		deadline = time.Time{}
	}
	if until := x.AnswerBy(); !until.IsZero() && (deadline.IsZero() || until.Before(deadline)) {
		deadline = until
	}
	c, reason, err := p.connect(x, k, secure, deadline)
	if aborted := x.Aborted(); err != nil && aborted != flow.ReasonNone {
		reason, err = aborted, errStopping
	}
	if err != nil {
		x.Outcome.Delivered, x.Outcome.Unprocessed = false, true
		detail := err.Error()
		if reason == flow.ReasonUpstreamProtocol && x.Destination.MTLS {
			detail = "the endpoint's sidecar does not take what this one has told it, " + strings.Join(secure.NextProtos, " or ") + "; upgrade it, or declare the protocol at both ends: " + detail
		}
		x.Outcome.Fail(reason, detail)
		return nil
	}
	p.opened(k)
	if secure != k.tls {
		p.told.LoadOrStore(offer{k.tls, alpn}, secure) // sweep takes it back with the pool
	}
	x.Remote, x.Application = c.Identity, c.Application
	return c
}

// take gives out the connection that was used last, unless something has happened on it. Careful: look in any case, because what is sent next
// cannot be sent again.
func (p *Pools) take(e *pool, careful bool) *exchange.Conn {
	if e == nil {
		return nil
	}
	for {
		e.mu.Lock()
		n := len(e.idle)
		if n == 0 {
			e.mu.Unlock()
			return nil
		}
		i := e.idle[n-1]
		e.idle[n-1] = idle{}
		e.idle = e.idle[:n-1]
		e.mu.Unlock()
		if age := time.Since(i.since); age < checkAfter && !careful && !i.c.Suspect || age < IdleTimeout && i.c.Key.(*link).probe.quiet() {
			return i.c
		}
		p.Discard(i.c)
	}
}

var errStopping = errors.New("the sidecar is stopping")

func (p *Pools) connect(x *exchange.Exchange, k key, secure *tls.Config, deadline time.Time) (*exchange.Conn, flow.Reason, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if !deadline.IsZero() {
		var late context.CancelFunc
		ctx, late = context.WithDeadline(ctx, deadline)
		defer late()
	}
	if !x.Dialling(cancel) {
		return nil, x.Aborted(), errStopping
	}
	defer x.Dialled()
	var nc net.Conn
	var app flow.Application
	var err error
	if k.unix == nil {
		nc, err = p.dial(ctx, k.addr)
	} else {
		nc, err = p.dialUnix(ctx, k.unix.Path)
	}
	if err != nil {
		return nil, connectReason(err), err
	}
	if k.unix != nil {
		app, err = attest(nc, k.unix)
		if x.Application = app; err != nil {
			_ = nc.Close() // of no own: it is a Unix socket
			return nil, flow.ReasonIdentityMismatch, err
		}
	}
	x.Legs.Connected = x.Since()
	l := &link{key: k}
	if k.unix == nil && p.Remember.Load() {
		if a, ok := nc.LocalAddr().(*net.TCPAddr); ok {
			l.local = localOf(a)
			p.own.Store(l.local, struct{}{})
		}
	}
	c := &exchange.Conn{Conn: nc, Key: l, Application: app}
	c.TCP, _ = nc.(*net.TCPConn)
	l.probe.of(nc)
	nc = exchange.NewSocket(nc)
	c.Conn = nc
	if greet := x.Destination.Greet; greet != nil {
		_ = nc.SetWriteDeadline(deadline)
		if _, err := nc.Write(greet(x)); err != nil {
			p.forget(l)
			_ = nc.Close()
			return nil, connectReason(err), err
		}
	}
	if secure == nil {
		return c, flow.ReasonNone, nil
	}
	tc := tls.Client(nc, secure)
	_ = nc.SetDeadline(deadline)
	if err := tc.HandshakeContext(ctx); err != nil {
		p.forget(l)
		_ = nc.Close()
		return nil, handshakeReason(err), explained(x, err)
	}
	x.Legs.Secured = x.Since()
	c.Conn = tc
	if x.Destination.MTLS {
		c.Mesh, c.Identity = true, identity.PeerID(tc.ConnectionState()).String()
	}
	return c, flow.ReasonNone, nil
}

// Own reports whether a connection of TCP that comes from a is one that was opened here, so that it has come back. Only while Remember is set.
func (p *Pools) Own(a netip.AddrPort) bool {
	_, ok := p.own.Load(a)
	return ok
}

func (p *Pools) forget(l *link) {
	if l.local.IsValid() {
		p.own.Delete(l.local)
	}
}

// localOf is a without a zone, and IPv4 as such.
func localOf(a *net.TCPAddr) netip.AddrPort {
	at := a.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap().WithZone(""), at.Port())
}

// attest learns who listens at u, and refuses whom the policy does not name.
func attest(c net.Conn, u *policy.Unix) (app flow.Application, err error) {
	sc, ok := c.(syscall.Conn)
	if ok {
		app, err = exchange.ApplicationOf(sc)
	}
	if err != nil && !u.Any() {
		return app, fmt.Errorf("%s: %w; spec.attest asks for %s", u, err, &u.Attest)
	}
	if why := u.Refuses(app); why != "" {
		return app, fmt.Errorf("%s: %s", u, why)
	}
	return app, nil
}

// Put implements exchange.Pool.
func (p *Pools) Put(c *exchange.Conn) {
	k := c.Key.(*link).key
	p.mu.RLock()
	e, closed := p.m[k], p.closed
	if e != nil && !closed {
		e.put(p, c)
	}
	p.mu.RUnlock()
	switch {
	case closed:
		p.Discard(c)
	case e == nil:
		p.mu.Lock()
		if p.closed {
			p.discard(c)
		} else {
			if e = p.m[k]; e == nil {
				e = &pool{}
				p.m[k] = e
			}
			e.put(p, c)
		}
		p.mu.Unlock()
	}
}

func (e *pool) put(p *Pools, c *exchange.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.idle) >= MaxIdle {
		p.discard(e.idle[0].c)
		e.idle = append(e.idle[:0], e.idle[1:]...)
	}
	e.idle = append(e.idle, idle{c, time.Now()})
}

// Discard implements exchange.Pool.
func (p *Pools) Discard(c *exchange.Conn) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	p.discard(c)
}

// discard closes c in order: what was written is still delivered. Closing a TLS connection writes, which may block for seconds when the peer
// does not read, so nobody waits for it but Run. p.mu must be held, so that Run does not miss it.
func (p *Pools) discard(c *exchange.Conn) {
	if e := p.m[c.Key.(*link).key]; e != nil {
		e.open.Add(-1)
	}
	p.forget(c.Key.(*link))
	c.Key.(*link).probe.drain() // a close with unread bytes would send a reset, which destroys what the peer has not read
	if _, ok := c.Conn.(*tls.Conn); !ok {
		_ = c.Close()
		return
	}
	p.wg.Go(func() {
		_ = c.Close()
	})
}

// explained says more of a handshake with a host outside the mesh, which nobody else can look up in a configuration.
func explained(x *exchange.Exchange, err error) error {
	own := x.Destination.Service.TLS // nil: it was a sidecar
	var remote *net.OpError
	var plain tls.RecordHeaderError
	switch {
	case own == nil:
		return err
	case errors.As(err, &plain):
		return fmt.Errorf("%s at %s does not speak TLS (%w); correct spec.addresses, or remove spec.tls", own.ServerName, x.Choice.Endpoint.Address, err)
	case errors.As(err, &remote) && remote.Op == "remote error": // an alert, as crypto/tls says it
		return fmt.Errorf("%s at %s refused the handshake: %w; it may want a client certificate (spec.tls.certFile), another version (minVersion), or another protocol", own.ServerName, x.Choice.Endpoint.Address, err)
	}
	return err
}

func connectReason(err error) flow.Reason {
	var ne net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT): // of a Unix socket whose application has not begun to listen
		return flow.ReasonConnectRefused
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return flow.ReasonConnectTimeout
	}
	return flow.ReasonConnectFailed
}

func handshakeReason(err error) flow.Reason {
	var (
		ne        net.Error
		authority x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &ne) && ne.Timeout():
		return flow.ReasonConnectTimeout
	case errors.As(err, &authority), errors.As(err, &invalid), errors.Is(err, io.EOF):
		return flow.ReasonTLSFailed
	case errors.Is(err, identity.ErrPeer):
		return flow.ReasonIdentityMismatch
	case strings.Contains(err.Error(), "no application protocol"): // crypto/tls exports no type for the alerts of a peer
		return flow.ReasonUpstreamProtocol
	}
	return flow.ReasonTLSFailed
}
