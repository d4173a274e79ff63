// Package listen opens the explicit listeners of a Snapshot and hands each connection, with its listener, to a Serve function.
//
// A Set follows Snapshots by difference: a listener whose address stays keeps its socket and its connections, whatever else about it
// changes. Connections of a listener that is gone are drained. Apply, Retry and Close are called by one goroutine; the rest is safe for
// concurrent use.
package listen

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Back-off of a listener that cannot bind.
const (
	retryFirst   = 250 * time.Millisecond
	retryLongest = 5 * time.Second
)

// Config of a Set.
type Config struct {
	// Listen opens a listening socket; nil means TCP.
	Listen func(addr netip.AddrPort) (net.Listener, error)
	// Within calls f where listening sockets are to be made, in another network namespace for one; nil means here. f does not wait.
	Within func(f func() error) error
	// Inherit gives the listening socket that another process hands over in place of one that would be opened, nil when it has none; nil: there is no
	// such process. at is policy.Listener.At. It is asked each time that a listener is to be bound.
	Inherit func(at string, transparent bool) (net.Listener, error)
	// Original says where a redirected connection was to go; nil asks the kernel.
	Original func(net.Conn) (netip.AddrPort, error)
	// Serve carries one connection to its end and closes it. It calls Conn.Begin once it knows its session.
	Serve func(c *Conn)
	// Shed is told of a connection that was closed because n, the listener's workload's limit, were open. It was closed without a byte: an answer
	// would take a handshake, and to a sidecar it would say that its attempt was delivered.
	Shed func(b *exchange.Binding, peer *exchange.Peer, limit exchange.Limit, n int)
	// Drain and Grace bound how long connections of a listener that is gone go on, as in Close.
	Drain, Grace time.Duration
	Log          *slog.Logger
}

// Set is the listeners in force.
type Set struct {
	cfg   Config
	conns atomic.Int64
	wg    [2]sync.WaitGroup // what accepts and what is carried, by way

	mu   sync.Mutex
	open map[place]*listener
	gone []*listener // no longer listening, connections left

	srcMu   sync.Mutex
	sources map[source]int // open connections
}

// place is where a listener listens: an address, or the path of a Unix socket.
type place struct {
	addr netip.AddrPort
	path string
}

func placeOf(l *policy.Listener) place {
	if u := l.Socket(); u != nil {
		return place{path: u.Path}
	}
	return place{addr: l.Address}
}

// source is where connections come from: an address, of IPv6 the /64 that a host commonly has to itself, in one direction. The own
// application and the callers of it are two sources, also when all are on one host. Who comes by a Unix socket has no address: there a user is a source, or,
// where the kernel does not say who it is, all are one.
type source struct {
	side flow.Side
	addr netip.Addr
	user int64 // -1: not known, or not by a Unix socket
}

func sourceOf(side flow.Side, a netip.Addr, app flow.Application) source {
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			a = p.Addr()
		}
	}
	if app.Known {
		return source{side, a, int64(app.UID)}
	}
	return source{side, a, -1}
}

// admit counts a connection from src, unless limits forbid it.
func (s *Set) admit(src source, l policy.SidecarLimits) (reached exchange.Limit, n int, ok bool) {
	if s.conns.Add(1) > int64(l.Connections) {
		s.conns.Add(-1)
		return exchange.LimitConnections, l.Connections, false
	}
	s.srcMu.Lock()
	defer s.srcMu.Unlock()
	if s.sources[src] >= l.ConnectionsPerSource {
		s.conns.Add(-1)
		return exchange.LimitConnectionsPerSource, l.ConnectionsPerSource, false
	}
	s.sources[src]++
	return 0, 0, true
}

func (s *Set) leave(src source) {
	s.srcMu.Lock()
	if s.sources[src]--; s.sources[src] == 0 {
		delete(s.sources, src)
	}
	s.srcMu.Unlock()
	s.conns.Add(-1)
}

// OfOneSource is how many connections the source with the most has.
func (s *Set) OfOneSource() (n int) {
	s.srcMu.Lock()
	defer s.srcMu.Unlock()
	for _, c := range s.sources {
		n = max(n, c)
	}
	return n
}

// New makes an empty Set.
func New(cfg Config) *Set {
	return &Set{cfg: cfg, open: make(map[place]*listener), sources: make(map[source]int)}
}

// way is the direction of a listener, as an index.
type way int

const (
	in way = iota
	out
)

func wayOf(b *exchange.Binding) way {
	if b.Listener.Side == flow.SideServer {
		return in
	}
	return out
}

type listener struct {
	set     *Set
	at      string // for people
	way     way    // when it was bound; the listener of an address may change its direction
	binding atomic.Pointer[exchange.Binding]

	// Guarded by set.mu.
	nl    net.Listener // nil: not bound
	err   error
	since time.Time
	next  time.Time
	wait  time.Duration

	mu       sync.Mutex
	conns    map[*Conn]struct{}
	leaving  bool
	draining bool
}

// Conn is one accepted connection.
type Conn struct {
	net.Conn
	TCP         *net.TCPConn     // nil for Unix and in-memory connections
	Application flow.Application // who connected, where it was by a Unix socket and the kernel says it
	Start       time.Time

	l    *listener
	mu   sync.Mutex
	sess *exchange.Session
	dead flow.Reason
}

// Binding is that of the listener now.
func (c *Conn) Binding() *exchange.Binding { return c.l.binding.Load() }

// Begin makes the session known to drains. False: the listener is being closed, do not serve it.
func (c *Conn) Begin(s *exchange.Session) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != flow.ReasonNone {
		return false
	}
	c.sess = s
	c.l.mu.Lock()
	defer c.l.mu.Unlock()
	switch {
	case c.l.draining:
		s.Drain()
	case c.l.leaving:
		s.Leave()
	}
	return true
}

// Problem is a listener that is not bound.
type Problem struct {
	Name  string
	At    string // ip:port or unix:/path
	Err   error
	Since time.Time
}

// Apply makes the Set what bindings say.
func (s *Set) Apply(bindings []*exchange.Binding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := make(map[place]bool, len(bindings))
	bound := make([]*exchange.Binding, 0, len(bindings))
	for _, b := range bindings {
		if b.Listener.Unbound {
			continue // another listener has its connections
		}
		bound = append(bound, b)
		at := placeOf(&b.Listener)
		if keep[at] {
			s.cfg.Log.Error("two listeners have the same address; the second is ignored: give it another", "listener", b.Listener.Name, "address", b.Listener.At())
			continue
		}
		keep[at] = true
		switch l := s.open[at]; {
		case l == nil:
		case transparent(l.binding.Load()) != transparent(b): // it takes another socket
			delete(s.open, at)
			s.shutLocked(l)
			s.expire(l)
		default:
			l.binding.Store(b)
			if f, ok := l.nl.(*socketFile); ok {
				if err := f.permit(b.Listener.Unix.Mode); err != nil {
					s.cfg.Log.Error("cannot change the permissions of a Unix socket; they stay as they were", "listener", b.Listener.Name, "address", l.at, "err", err)
				}
			}
		}
	}
	for at, l := range s.open {
		if !keep[at] {
			delete(s.open, at)
			s.shutLocked(l)
			s.expire(l)
		}
	}
	for _, b := range bound {
		if at := placeOf(&b.Listener); s.open[at] == nil {
			l := &listener{set: s, at: b.Listener.At(), way: wayOf(b), conns: make(map[*Conn]struct{})}
			l.binding.Store(b)
			s.open[at] = l
			s.bindLocked(l, time.Now())
		}
	}
	s.gone = slices.DeleteFunc(s.gone, func(l *listener) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.conns) == 0
	})
}

// Retry tries again to bind what is due at now. It returns when the next try is due; zero when everything is bound.
func (s *Set) Retry(now time.Time) (next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.open {
		if l.nl == nil && !now.Before(l.next) {
			s.bindLocked(l, now)
		}
		if l.nl == nil && (next.IsZero() || l.next.Before(next)) {
			next = l.next
		}
	}
	return next
}

func (s *Set) bindLocked(l *listener, now time.Time) {
	b := l.binding.Load()
	nl, err := s.listen(&b.Listener, transparent(b))
	if err != nil {
		l.err = fmt.Errorf("cannot listen on %s for %q: %w; %s", l.at, b.Listener.Name, err, advice(&b.Listener, err))
		if l.since.IsZero() {
			l.since = now
		}
		l.wait = min(max(retryFirst, 2*l.wait), retryLongest)
		l.next = now.Add(l.wait)
		s.cfg.Log.Error("listener is not open", "listener", b.Listener.Name, "address", l.at, "err", l.err, "retry", l.wait)
		return
	}
	if l.err != nil {
		s.cfg.Log.Info("listener is open at last", "listener", b.Listener.Name, "address", l.at)
	}
	l.nl, l.err, l.since, l.wait = nl, nil, time.Time{}, 0
	s.wg[l.way].Go(func() { l.accept(nl) })
}

// Socket is the listening socket that serves at (policy.Listener.At), nil when there is none. It stays the Set's: a copy of its descriptor outlives it.
func (s *Set) Socket(at string, transp bool) syscall.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.open {
		if l.at == at && l.nl != nil && transparent(l.binding.Load()) == transp {
			c, _ := l.nl.(syscall.Conn)
			return c
		}
	}
	return nil
}

// listen opens the listening socket of l.
func (s *Set) listen(l *policy.Listener, transparent bool) (nl net.Listener, err error) {
	if s.cfg.Inherit != nil {
		if nl, err := s.cfg.Inherit(l.At(), transparent); nl != nil || err != nil {
			return inherited(l.Socket(), nl), err
		}
	}
	switch u := l.Socket(); {
	case u != nil:
		err = s.within(func() (err error) {
			nl, err = OpenUnix(u)
			return err
		})
	case s.cfg.Listen != nil:
		return s.cfg.Listen(l.Address)
	default:
		open := openTCP
		if transparent {
			open = openTransparent
		}
		err = s.within(func() (err error) {
			nl, err = open(l.Address)
			return err
		})
	}
	return nl, err
}

func (s *Set) within(f func() error) error {
	if s.cfg.Within == nil {
		return f()
	}
	return s.cfg.Within(f)
}

// transparent reports whether connections come to b's listener with their original destination.
func transparent(b *exchange.Binding) bool {
	return b.Listener.Interception != nil && b.Listener.Interception.Transparent
}

func advice(l *policy.Listener, err error) string {
	switch {
	case l.Socket() != nil:
		return adviceUnix(err)
	case errors.Is(err, syscall.EADDRINUSE):
		return "another process has the port: stop it, or give the listener another port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "this host does not have the address: correct it in the configuration"
	case errors.Is(err, syscall.EPERM):
		return "interception by TPROXY takes CAP_NET_ADMIN: give it to the sidecar, or use the mode redirect"
	case errors.Is(err, syscall.EACCES):
		return "ports below 1024 need privileges: use a higher port"
	}
	return "check the listener's address"
}

// shutLocked stops listening and drains.
func (s *Set) shutLocked(l *listener) {
	if l.nl != nil {
		_ = l.nl.Close()
	}
	l.drain()
	s.gone = append(s.gone, l)
}

// expire ends what is left of a listener that is gone after the time of a drain.
func (s *Set) expire(l *listener) {
	time.AfterFunc(s.cfg.Drain, func() {
		l.each(func(c *Conn) { c.abort() })
		time.AfterFunc(s.cfg.Grace, func() { l.each(func(c *Conn) { c.reset() }) })
	})
}

// leaveLocked stops listening and asks callers to go.
func (s *Set) leaveLocked(l *listener) {
	if f, ok := l.nl.(*socketFile); ok {
		f.keep()
	}
	if l.nl != nil {
		_ = l.nl.Close()
	}
	l.leave()
	s.gone = append(s.gone, l)
}

// Leave asks the callers of the listeners of a side to go, with the answer to their next request, and goes on accepting.
func (s *Set) Leave(side flow.Side) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.open {
		if l.binding.Load().Listener.Side == side {
			l.leave()
		}
	}
}

// Problems lists the listeners that are not bound, by name.
func (s *Set) Problems() []Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Problem
	for _, l := range s.open {
		if l.err != nil {
			out = append(out, Problem{Name: l.binding.Load().Listener.Name, At: l.at, Err: l.err, Since: l.since})
		}
	}
	slices.SortFunc(out, func(a, b Problem) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Addresses are those that are bound, by listener name; with port 0 in the configuration the port that was found.
func (s *Set) Addresses() map[string]net.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]net.Addr, len(s.open))
	for _, l := range s.open {
		if l.nl != nil {
			out[l.binding.Load().Listener.Name] = l.nl.Addr()
		}
	}
	return out
}

// Close stops listening and drains all connections: idle ones close at once, others after the exchange in flight. The application's own calls are
// taken, and carried, until its callers' have ended: it may need some to answer them. What is left after drain is aborted, so that it can still be
// answered, and what is left after grace is reset. It returns when every connection has ended.
func (s *Set) Close(drain, grace time.Duration) {
	began := time.Now()
	s.shut(in)
	wait(s.ended(in), drain)
	s.shut(out)
	s.finish(drain-time.Since(began), grace)
}

// HandOver is Close when another process has the sockets, and accepts in place of this one: nobody is turned away, so idle connections need not
// be closed before their callers know. They end with their next request, or when drain is over.
func (s *Set) HandOver(drain, grace time.Duration) {
	s.mu.Lock()
	for at, l := range s.open {
		delete(s.open, at)
		s.leaveLocked(l)
	}
	s.mu.Unlock()
	s.finish(drain, grace)
}

// shut stops listening one way.
func (s *Set) shut(w way) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for addr, l := range s.open {
		if l.way == w {
			delete(s.open, addr)
			s.shutLocked(l)
		}
	}
}

// ended is closed when nothing of a way is left.
func (s *Set) ended(w way) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.wg[w].Wait()
	}()
	return done
}

// finish waits for what is left, and ends it.
func (s *Set) finish(drain, grace time.Duration) {
	s.mu.Lock()
	all := s.gone
	s.mu.Unlock()
	inbound, outbound := s.ended(in), s.ended(out)
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-inbound
		<-outbound
	}()
	if wait(done, drain) {
		return
	}
	for _, l := range all {
		l.each(func(c *Conn) { c.abort() })
	}
	if !wait(done, grace) {
		for _, l := range all {
			l.each(func(c *Conn) { c.reset() })
		}
	}
	<-done
}

func wait(done <-chan struct{}, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-done:
		return true
	case <-t.C:
		return false
	}
}

// Open is how many connections are open.
func (s *Set) Open() int64 { return s.conns.Load() }

func (l *listener) accept(nl net.Listener) {
	var pause time.Duration
	for {
		nc, err := nl.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of descriptors, most likely: others must close before there are more.
			pause = min(max(5*time.Millisecond, 2*pause), time.Second)
			l.set.cfg.Log.Error("cannot accept; raise the limit of open files if this persists", "address", l.at, "err", err, "retry", pause)
			time.Sleep(pause)
			continue
		}
		pause = 0
		s := l.set
		b, remote := l.binding.Load(), addrPort(nc.RemoteAddr())
		var app flow.Application
		if u, ok := nc.(*net.UnixConn); ok {
			app, _ = exchange.ApplicationOf(u) // who must be known says so where that is judged
		}
		src := sourceOf(b.Listener.Side, remote.Addr(), app)
		if limit, n, ok := s.admit(src, b.Workload.Limits); !ok {
			s.cfg.Shed(b, &exchange.Peer{Addr: remote, Application: app}, limit, n)
			_ = nc.Close()
			continue
		}
		c := &Conn{Conn: nc, Application: app, Start: time.Now(), l: l}
		c.TCP, _ = nc.(*net.TCPConn)
		c.Conn = exchange.NewSocket(nc)
		l.mu.Lock()
		l.conns[c] = struct{}{}
		l.mu.Unlock()
		s.wg[l.way].Go(func() {
			defer func() {
				_ = nc.Close()
				l.mu.Lock()
				delete(l.conns, c)
				l.mu.Unlock()
				s.leave(src)
			}()
			s.cfg.Serve(c)
		})
	}
}

func (l *listener) leave() {
	l.mu.Lock()
	l.leaving = true
	l.mu.Unlock()
	l.each(func(c *Conn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.sess != nil {
			c.sess.Leave()
		}
	})
}

func (l *listener) drain() {
	l.mu.Lock()
	l.draining = true
	l.mu.Unlock()
	l.each(func(c *Conn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.sess != nil {
			c.sess.Drain()
		}
	})
}

func (l *listener) each(f func(*Conn)) {
	l.mu.Lock()
	all := make([]*Conn, 0, len(l.conns))
	for c := range l.conns {
		all = append(all, c)
	}
	l.mu.Unlock()
	for _, c := range all {
		f(c)
	}
}

func (c *Conn) abort() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = flow.ReasonDraining
	if c.sess != nil {
		c.sess.Abort(flow.ReasonDraining)
	} else {
		_ = c.Conn.Close() // still in its handshake
	}
}

func (c *Conn) reset() {
	if c.TCP != nil {
		_ = c.TCP.SetLinger(0)
	}
	_ = c.Conn.Close()
}

// Addr is the remote address.
func (c *Conn) Addr() netip.AddrPort { return addrPort(c.RemoteAddr()) }

// Local is the address the caller connected to.
func (c *Conn) Local() netip.AddrPort { return addrPort(c.LocalAddr()) }

// Original is the address the caller connected to before the connection was redirected to the listener. Where that did not happen it is Local, or an error.
func (c *Conn) Original() (netip.AddrPort, error) {
	if f := c.l.set.cfg.Original; f != nil {
		return f(c.Conn)
	}
	if transparent(c.Binding()) {
		return c.Local(), nil
	}
	if c.TCP == nil {
		return netip.AddrPort{}, errors.New("it is no TCP connection of the kernel's")
	}
	return original(c.TCP)
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	if _, path := a.(*net.UnixAddr); a == nil || path { // a path may look like an address
		return netip.AddrPort{}
	}
	ap, _ := netip.ParseAddrPort(a.String())
	return ap
}
