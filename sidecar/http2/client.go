package http2

import (
	"context"
	"crypto/tls"
	"net/netip"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Client keeps the HTTP/2 connections to endpoints. Streams of all callers share them: the least loaded one with room under the endpoint's
// MAX_CONCURRENT_STREAMS takes the next, and when all are full another is dialled. Safe for concurrent use.
type Client struct {
	pool   exchange.Pool
	idle   time.Duration
	guests sync.Pool // of *guest that rest

	mu     sync.Mutex
	groups map[key]*group
	closed bool
	wg     sync.WaitGroup
}

type key struct {
	addr netip.AddrPort
	unix *policy.Unix
	tls  *tls.Config
}

// group is the connections to one endpoint with one TLS configuration.
//
// Invariant: one without connections and without a dial is in no Client, or somebody is about to take it out.
type group struct {
	key   key
	mu    sync.Mutex
	conns []*connection
	dial  *dialling // nil: none is under way
}

// dialling is a dial whose outcome others wait for.
type dialling struct {
	done   chan struct{}
	reason flow.Reason // why it failed
	text   string
	one    bool // because the endpoint has agreed on HTTP/1.1
}

// connection is what a group knows of a connection. Its fields belong to the group's lock.
type connection struct {
	c       *conn
	client  *Client
	g       *group
	ec      *exchange.Conn
	load    int // streams that run, or are about to
	most    int // that the endpoint takes
	retired bool
	ready   chan struct{} // closed when its SETTINGS have come
	settle  sync.Once
}

// NewClient makes a Client that dials by pool. Connections without streams close after idle.
func NewClient(pool exchange.Pool, idle time.Duration) *Client {
	return &Client{pool: pool, idle: idle, groups: make(map[key]*group)}
}

// Run waits until ctx is done, closes all connections, and waits for that.
func (cl *Client) Run(ctx context.Context) {
	<-ctx.Done()
	cl.mu.Lock()
	cl.closed = true
	var all []*connection
	for _, g := range cl.groups {
		g.mu.Lock()
		all = append(all, g.conns...)
		g.mu.Unlock()
	}
	cl.mu.Unlock()
	for _, p := range all {
		p.c.retire()
	}
	cl.wg.Wait()
}

// Idle is how many connections to one endpoint carry no stream.
func (cl *Client) Idle(at *policy.Endpoint, secure *tls.Config) (n int64) {
	cl.mu.Lock()
	g := cl.groups[key{at.Address, at.Unix, secure}]
	cl.mu.Unlock()
	if g == nil {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.conns {
		if p.load == 0 {
			n++
		}
	}
	return n
}

// get returns a connection to x.Choice.Endpoint on which a place for one stream is taken; release gives it back. nil: there is none, which x.Outcome
// says.
func (cl *Client) get(x *exchange.Exchange) *conn {
	at := x.Choice.Endpoint
	k := key{at.Address, at.Unix, x.Destination.TLS}
	x.Remote, x.Application = "", flow.Application{}
	x.Legs.Queued = x.Since()
	for {
		g := cl.group(k)
		if p := g.least(); p != nil {
			p.load++
			g.mu.Unlock()
			x.Remote, x.Application = p.ec.Identity, p.ec.Application
			return p.c
		}
		if d := g.dial; d != nil {
			g.mu.Unlock()
			if !d.wait(x) {
				return nil
			}
			continue
		}
		d := &dialling{done: make(chan struct{})}
		g.dial = d
		g.mu.Unlock()
		c := cl.connect(x, g)
		if until := x.AnswerBy(); c == nil && (until.IsZero() || time.Now().Before(until)) { // else only this one's time was over: let another dial
			d.reason, d.text, d.one = x.Outcome.Reason, x.Outcome.Detail, x.Outcome.HTTP1Only
		}
		g.mu.Lock()
		g.dial = nil
		empty := len(g.conns) == 0
		g.mu.Unlock()
		close(d.done)
		if empty { // it has failed, or ended already
			cl.sweep(g)
		}
		return c
	}
}

// group is the group of k, locked.
func (cl *Client) group(k key) *group {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	g := cl.groups[k]
	if g == nil {
		g = &group{key: k}
		cl.groups[k] = g
	}
	g.mu.Lock()
	return g
}

// sweep takes g out if nothing is left of it: endpoints come and go.
func (cl *Client) sweep(g *group) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.conns) == 0 && g.dial == nil && cl.groups[g.key] == g {
		delete(cl.groups, g.key)
	}
}

// least is the connection with the fewest streams that takes another; nil: none.
func (g *group) least() (best *connection) {
	for _, p := range g.conns {
		if p.load < p.most && (best == nil || p.load < best.load) {
			best = p
		}
	}
	return best
}

// wait waits for a dial of somebody else. False: it has failed, or x's time is over.
func (d *dialling) wait(x *exchange.Exchange) bool {
	if !x.Pend() {
		return false
	}
	defer x.Pended()
	var expired <-chan time.Time
	if until := x.AnswerBy(); !until.IsZero() {
		t := time.NewTimer(time.Until(until))
		defer t.Stop()
		expired = t.C
	}
	o := &x.Outcome
	select {
	case <-d.done:
		if d.reason == flow.ReasonNone {
			return true
		}
		o.Fail(d.reason, d.text)
		o.HTTP1Only = d.one
	case now := <-expired:
		reason, text := x.Late(now)
		o.Fail(reason, text+", while a connection was dialled")
	}
	o.Delivered, o.Unprocessed = false, true
	return false
}

// connect dials, and takes a place on the new connection.
func (cl *Client) connect(x *exchange.Exchange, g *group) *conn {
	ec := cl.pool.Connect(x, true)
	if ec == nil {
		return nil
	}
	if tc, ok := ec.Conn.(*tls.Conn); ok && tc.ConnectionState().NegotiatedProtocol != "h2" {
		x.Outcome.Delivered, x.Outcome.Unprocessed = false, true
		switch {
		case ec.Mesh:
			x.Outcome.Fail(flow.ReasonUpstreamProtocol, "the sidecar of the endpoint does not speak HTTP/2; upgrade it")
		case x.Destination.Protocol == flow.ProtocolHTTP || x.Destination.Protocol == flow.ProtocolAuto: // both will do
			x.Outcome.HTTP1Only = true
			x.Outcome.Fail(flow.ReasonUpstreamProtocol, "the host speaks HTTP/1.1 only")
			_ = ec.SetDeadline(time.Time{})
			cl.pool.Put(ec)
			return nil
		default:
			x.Outcome.Fail(flow.ReasonUpstreamProtocol, "the host does not speak HTTP/2; set spec.protocol to http, or http1")
		}
		cl.pool.Discard(ec)
		return nil
	}
	_ = ec.SetDeadline(time.Time{}) // of the handshake
	l := policy.Limits{HTTP2: x.Binding.Listener.Limits.HTTP2}.WithDefaults()
	l.IdleTimeout = cl.idle
	l.HTTP2.Age, l.HTTP2.AgeGrace = 0, 0
	c := &conn{client: true, mesh: ec.Mesh, nextID: 1, written: 1}
	p := &connection{c: c, client: cl, g: g, ec: ec, load: 1, most: 100, ready: make(chan struct{})}
	c.pool = p
	c.init(ec.Conn, l, x.Binding.Room)
	c.out = append(c.out, preface...)
	c.settingsLocked()
	cl.mu.Lock()
	if cl.closed {
		cl.mu.Unlock()
		cl.pool.Discard(ec)
		x.Outcome.Delivered, x.Outcome.Unprocessed = false, true
		x.Outcome.Fail(flow.ReasonDraining, "the sidecar is stopping")
		return nil
	}
	cl.wg.Add(1)
	cl.mu.Unlock()
	g.mu.Lock()
	g.conns = append(g.conns, p)
	g.mu.Unlock()
	c.startTick()
	go p.run()
	return c
}

// run reads the connection to its end.
func (p *connection) run() {
	c := p.c
	defer p.client.wg.Done()
	c.d.add(c) // the preface
	err := c.run()
	p.retire()
	c.lost(err)
	close(c.closed)
	p.client.pool.Discard(p.ec)
	c.stopTick()
	c.wg.Wait()
	p.settle.Do(func() { close(p.ready) })
}

// retire takes the connection out of its group: it takes no new streams.
func (p *connection) retire() {
	p.g.mu.Lock()
	if p.retired {
		p.g.mu.Unlock()
		return
	}
	p.retired = true
	for i, o := range p.g.conns {
		if o == p {
			p.g.conns = append(p.g.conns[:i], p.g.conns[i+1:]...)
			break
		}
	}
	p.g.mu.Unlock()
	p.client.sweep(p.g)
}

// release gives back a place for a stream.
func (p *connection) release() {
	p.g.mu.Lock()
	p.load--
	p.g.mu.Unlock()
}

// settled takes the endpoint's MAX_CONCURRENT_STREAMS.
func (p *connection) settled(most int) {
	p.g.mu.Lock()
	p.most = most
	p.g.mu.Unlock()
	p.settle.Do(func() { close(p.ready) })
}

// takesTunnels reports whether the endpoint takes extended CONNECT (RFC 8441), for which its SETTINGS are waited for. x.Outcome says so when they do not
// come.
func (k *call) takesTunnels(x *exchange.Exchange, c *conn) bool {
	by := x.AnswerBy()
	if limit := time.Now().Add(policy.DefaultPingTimeout); by.IsZero() || limit.Before(by) {
		by = limit
	}
	t := time.NewTimer(time.Until(by))
	defer t.Stop()
	fail := func(r flow.Reason, text string) bool {
		x.Outcome.Unprocessed = true
		x.Outcome.Fail(r, text)
		return false
	}
	if !x.Await(k) {
		return fail(x.WhyAborted())
	}
	defer x.Awaited()
	for settled := false; !settled; {
		select {
		case <-c.pool.ready:
			settled = true
		case <-t.C:
			return fail(flow.ReasonUpstreamProtocol, "the endpoint sent no SETTINGS")
		case <-k.done:
			if x.Aborted() != flow.ReasonNone {
				return fail(x.WhyAborted())
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		x.Outcome.Stale = true
		return fail(flow.ReasonUpstreamReset, "the connection has ended")
	}
	return c.tunnels
}

// retire ends a connection to an endpoint when its streams have ended; at once when there are none.
func (c *conn) retire() {
	c.pool.retire()
	var d dirty
	c.mu.Lock()
	if !c.going {
		c.going = true
		c.out = appendGoaway(c.out, 0, codeNone, "")
		d.add(c)
	}
	c.mu.Unlock()
	d.flush()
	c.mu.Lock()
	ended := c.mustEndLocked()
	c.mu.Unlock()
	if ended {
		c.wake()
	}
}
