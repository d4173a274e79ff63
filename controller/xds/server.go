// Package xds tells the fleet: it serves each sidecar its Snapshot over delta ADS and tracks what was acknowledged or refused.
//
// Publish the whole State after every change; each stream sends what differs from what it sent before, in the order of policy.Kinds, with at
// most one unanswered response per kind, so that a slow sidecar skips to the latest state and never queues.
//
// A sidecar's share is its Node and what it has named: a service that it subscribes to by name (on the kind "service") is added to its Snapshot, with its
// endpoints, its rules and the services to which these send, and the revision is that of the whole. What it has named is remembered for the stream alone; it names it again on the next one.
package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Node is what one sidecar is to be told.
type Node struct {
	Identity  identity.ID // what it must prove
	Workload  policy.Workload
	Telemetry policy.Telemetry
	Revision  string
	Resources []policy.Resource
	Rules     map[string]string // of some services: the key of State.Routes under which its rules are; of others that is the workload's namespace, or else ""
	// Redirected: its application may call anything. A sidecar that does not know how to ask for services is told of all.
	Redirected bool
}

// State is what the whole fleet is to be told; immutable once published.
type State struct {
	Nodes        map[string]Node              // by instance
	Services     map[string][]policy.Resource // by name: a service and its endpoints, added to the share of who names it
	Destinations map[string]policy.Resource   // by name; served on demand to every node
	// Routes are the rules for requests to services, by name and then by the caller's namespace, "" for all others; they are added to the share of who names the service, with
	// the services to which they send. Of a Node's own services they are among its Resources.
	Routes    map[string]map[string]policy.Routed
	Published time.Time
}

// Proxy is what is known of one sidecar's stream.
type Proxy struct {
	Instance  string
	Service   string
	Version   string // of the sidecar's build
	Connected bool
	Since     time.Time // of Connected
	Acked     string    // revision
	Wanted    string    // newest revision meant for it; "" when the workload is not configured any more
	LastNack  string    // "" once a later revision was acknowledged
}

// Observer hears what happens; methods must not block.
type Observer interface {
	ProxyConnected(p Proxy)
	ProxyDisconnected(p Proxy, why string)
	ProxyNack(p Proxy, kind, revision, message string)
	// ProxyAcked comes when a proxy has acknowledged all of a revision, delay after it was published.
	ProxyAcked(p Proxy, revision string, delay time.Duration)
}

// Server implements delta ADS. The TLS layer below it must have verified the client's certificate.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	observer Observer
	log      *slog.Logger

	Pushes, Acks, Nacks atomic.Uint64

	mu      sync.Mutex
	state   *State
	changed chan struct{}
	proxies map[string]*session
}

// New makes a server; until the first Publish, streams wait.
func New(observer Observer, log *slog.Logger) *Server {
	return &Server{observer: observer, log: log, changed: make(chan struct{}), proxies: map[string]*session{}}
}

// Publish puts state in force and wakes every stream.
func (s *Server) Publish(state *State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) current() (*State, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.changed
}

// Proxies lists every sidecar seen since the start, sorted by instance.
func (s *Server) Proxies() []Proxy {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Proxy, 0, len(s.proxies))
	for _, p := range s.proxies {
		proxy := p.proxy
		if s.state != nil {
			if proxy.Wanted = s.state.Nodes[proxy.Instance].Revision; p.wantedOf == s.state {
				proxy.Wanted = p.wanted
			}
		}
		out = append(out, proxy)
	}
	slices.SortFunc(out, func(a, b Proxy) int { return strings.Compare(a.Instance, b.Instance) })
	return out
}

// session is one stream. Everything but proxy and cancel is owned by its goroutine.
type session struct {
	server   *Server
	stream   discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	caller   identity.ID
	instance string
	subs     map[string]*subscription // by type URL
	nonce    uint64
	asks     bool   // the sidecar names the services that it needs
	routes   bool   // it knows rules
	share    *share // nil: to be made anew

	cancel   context.CancelCauseFunc
	proxy    Proxy  // guarded by server.mu, as what follows
	wanted   string // revision of the share of wantedOf
	wantedOf *State
}

// share is all that one sidecar is to be told under one State. Immutable.
type share struct {
	of        *State
	revision  string
	resources []policy.Resource
}

type subscription struct {
	wildcard    bool
	names       map[string]bool
	sent        map[string]string // name -> version; absent for names told missing
	outstanding string            // nonce not answered yet
	refused     bool              // the last answer was a NACK: what was sent is not in force there
	revision    string            // of the outstanding response
	published   time.Time
	told        *share // all of which was sent; nil: look
}

// maxNames bounds what one sidecar may name of one kind.
const maxNames = 1 << 14

// absent marks a name of which the client was told that it does not exist.
const absent = "\x00absent"

var errReplaced = errors.New("the same instance connected again")

// DeltaAggregatedResources implements the delta ADS stream.
func (s *Server) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	caller := PeerID(stream.Context())
	if caller.IsZero() {
		return status.Error(codes.Unauthenticated, "xDS needs a client certificate; join first")
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	c := &session{server: s, stream: stream, caller: caller, subs: map[string]*subscription{}, cancel: cancel}
	requests, ended := make(chan *discoveryv3.DeltaDiscoveryRequest), make(chan error, 1)
	go func() { // ends when the stream does, which is when this method returns
		for {
			req, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- req:
			case <-ctx.Done():
				return
			}
		}
	}()
	err := c.serve(ctx, requests, ended)
	c.close(err)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c *session) serve(ctx context.Context, requests <-chan *discoveryv3.DeltaDiscoveryRequest, ended <-chan error) error {
	for {
		state, changed := c.server.current()
		if c.instance != "" && state != nil {
			if err := c.push(state); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case req := <-requests:
			if err := c.receive(req); err != nil {
				return err
			}
		case err := <-ended:
			return err
		case <-ctx.Done():
			return status.Error(codes.Aborted, context.Cause(ctx).Error())
		}
	}
}

// node finds the sidecar's share and checks that the caller may have it.
func (c *session) node(state *State, instance string) (Node, error) {
	n, ok := state.Nodes[instance]
	if !ok {
		return Node{}, status.Errorf(codes.NotFound, "no Workload named %q; add one to the configuration, or correct the sidecar's instance name", instance)
	}
	if n.Identity != c.caller {
		return Node{}, status.Errorf(codes.PermissionDenied, "Workload %q belongs to %s, the caller is %s; correct the instance name or the service account",
			instance, n.Identity, c.caller)
	}
	return n, nil
}

func (c *session) receive(req *discoveryv3.DeltaDiscoveryRequest) error {
	if c.instance == "" {
		id := req.GetNode().GetId()
		if id == "" {
			return status.Error(codes.InvalidArgument, "the first request must carry node.id, the name of a Workload")
		}
		state, changed := c.server.current()
		for state == nil { // the controller has just started and reads its configuration
			select {
			case <-changed:
			case <-c.stream.Context().Done():
				return c.stream.Context().Err()
			}
			state, changed = c.server.current()
		}
		n, err := c.node(state, id)
		if err != nil {
			return err
		}
		c.asks = slices.Contains(req.GetNode().GetClientFeatures(), policy.FeatureOnDemand)
		c.routes = slices.Contains(req.GetNode().GetClientFeatures(), policy.FeatureRoutes)
		c.open(id, n, req.GetNode().GetMetadata().GetFields()["tulle_version"].GetStringValue())
	}
	sub, ok := c.subs[req.GetTypeUrl()]
	if !ok {
		kind, known := policy.KindOf(req.GetTypeUrl())
		if !known {
			return status.Errorf(codes.InvalidArgument, "type %q is not served here", req.GetTypeUrl())
		}
		sub = &subscription{names: map[string]bool{}, sent: map[string]string{}}
		sub.wildcard = len(req.GetResourceNamesSubscribe()) == 0 && !kind.OnDemand // a first word that unsubscribes, of what another stream had, does not ask for all
		maps.Copy(sub.sent, req.GetInitialResourceVersions())
		c.subs[req.GetTypeUrl()] = sub
	}
	if len(req.GetResourceNamesSubscribe())+len(req.GetResourceNamesUnsubscribe()) > 0 {
		sub.told = nil
		if req.GetTypeUrl() == policy.TypeService {
			c.share = nil
		}
	}
	if len(sub.names)+len(req.GetResourceNamesSubscribe()) > maxNames {
		return status.Errorf(codes.ResourceExhausted, "more than %d names of type %q are subscribed to; unsubscribe from what is not used", maxNames, req.GetTypeUrl())
	}
	for _, name := range req.GetResourceNamesSubscribe() {
		if name == "*" {
			sub.wildcard = true
			continue
		}
		if sub.names[name] {
			delete(sub.sent, name) // asked again: answer again
		}
		sub.names[name] = true
	}
	for _, name := range req.GetResourceNamesUnsubscribe() {
		if name == "*" {
			sub.wildcard = false
			continue
		}
		delete(sub.names, name)
		if !sub.wildcard {
			delete(sub.sent, name)
		}
	}
	if n := req.GetResponseNonce(); n != "" && n == sub.outstanding {
		sub.outstanding = ""
		c.answered(req, sub)
	}
	return nil
}

// answered notes an ACK or a NACK.
func (c *session) answered(req *discoveryv3.DeltaDiscoveryRequest, sub *subscription) {
	s := c.server
	sub.refused = req.GetErrorDetail() != nil
	if e := req.GetErrorDetail(); e != nil {
		s.Nacks.Add(1)
		kind, _ := policy.KindOf(req.GetTypeUrl())
		s.mu.Lock()
		repeated := c.proxy.LastNack == e.GetMessage()
		c.proxy.LastNack = e.GetMessage()
		p := c.proxy
		s.mu.Unlock()
		if !repeated {
			s.observer.ProxyNack(p, kind.Name, sub.revision, e.GetMessage())
		}
		return
	}
	s.Acks.Add(1)
	for url, other := range c.subs {
		if kind, _ := policy.KindOf(url); kind.OnDemand {
			continue // no part of a revision
		}
		if other.outstanding != "" || other.refused {
			return // not all of the revision is acknowledged
		}
	}
	s.mu.Lock()
	if c.proxy.Acked == sub.revision {
		s.mu.Unlock()
		return
	}
	c.proxy.Acked, c.proxy.LastNack = sub.revision, ""
	p := c.proxy
	s.mu.Unlock()
	s.observer.ProxyAcked(p, sub.revision, time.Since(sub.published))
}

func (c *session) open(instance string, n Node, version string) {
	s := c.server
	c.instance = instance
	s.mu.Lock()
	old := s.proxies[instance]
	c.proxy = Proxy{Instance: instance, Service: n.Workload.Service, Version: version, Connected: true, Since: time.Now()}
	replaced := old != nil && old.proxy.Connected
	if old != nil {
		c.proxy.LastNack = old.proxy.LastNack // so that a repeated refusal is not a new event
		c.proxy.Acked = old.proxy.Acked
	}
	s.proxies[instance] = c
	p := c.proxy
	s.mu.Unlock()
	if replaced {
		old.cancel(errReplaced)
	}
	s.observer.ProxyConnected(p)
}

func (c *session) close(err error) {
	s := c.server
	if c.instance == "" {
		if err != nil && !errors.Is(err, io.EOF) {
			s.log.Warn("sidecar turned away", "caller", c.caller.String(), "error", err)
		}
		return
	}
	s.mu.Lock()
	c.proxy.Connected = false
	p, current := c.proxy, s.proxies[c.instance] == c
	s.mu.Unlock()
	if !current {
		return // a newer stream of the same instance took over
	}
	why := "it closed the stream"
	if err != nil && !errors.Is(err, io.EOF) {
		why = status.Convert(err).Message()
	}
	s.observer.ProxyDisconnected(p, why)
}

// shareOf is what the sidecar is to be told under state: its Node, and the services that it has named.
func (c *session) shareOf(state *State) (*share, error) {
	if c.share != nil && c.share.of == state {
		return c.share, nil
	}
	n, err := c.node(state, c.instance)
	if err != nil {
		return nil, err
	}
	sh := &share{of: state, revision: n.Revision, resources: n.Resources}
	more, routes := c.named(state, n), ownRoutes(n)
	if unknown := !c.routes && len(routes) > 0; len(more) > 0 || unknown {
		if unknown {
			routes = nil
		} else if c.routes {
			more, routes = c.routed(state, n, more, routes)
		}
		sh.resources = merged(n.Resources, more, routes, state)
		sh.revision = policy.Revision(n.Workload, n.Telemetry, sh.resources)
		x, err := n.Workload.ToXDS(n.Telemetry, sh.revision)
		if err != nil {
			return nil, fmt.Errorf("policy of %s: %w", c.instance, err)
		}
		r, err := policy.NewResource(n.Workload.Instance, x)
		if err != nil {
			return nil, fmt.Errorf("policy of %s: %w", c.instance, err)
		}
		sh.resources = append(sh.resources, r)
	}
	c.share = sh
	c.server.mu.Lock()
	c.wanted, c.wantedOf = sh.revision, state
	c.server.mu.Unlock()
	return sh, nil
}

// ownRoutes are the rules that n has of its own.
func ownRoutes(n Node) (out []policy.Resource) {
	for _, r := range n.Resources {
		if r.TypeURL == policy.TypeRoutes {
			out = append(out, r)
		}
	}
	return out
}

// routed are more, and the services to which their rules send, and so on; and routes with all these rules, sorted by name.
func (c *session) routed(state *State, n Node, more []string, routes []policy.Resource) ([]string, []policy.Resource) {
	have := map[string]bool{}
	for _, r := range n.Resources {
		if r.TypeURL == policy.TypeService {
			have[r.Name] = true
		}
	}
	for _, name := range more {
		have[name] = true
	}
	routes = slices.Clip(routes)
	for i := 0; i < len(more); i++ { // it grows
		of := state.Routes[more[i]]
		key, special := n.Rules[more[i]]
		if !special {
			key = n.Workload.Namespace
		}
		r, ok := of[key]
		if !ok && !special {
			r, ok = of[""]
		}
		if !ok || len(r.Rules) == 0 {
			continue
		}
		routes = append(routes, r.Resource)
		for _, to := range r.To {
			if _, known := state.Services[to]; known && !have[to] {
				have[to] = true
				more = append(more, to)
			}
		}
	}
	slices.Sort(more)
	slices.SortFunc(routes, func(a, b policy.Resource) int { return strings.Compare(a.Name, b.Name) })
	return more, routes
}

// merged are resources, without Policy, and those of the services more, which is sorted, with all rules, routes. Each kind is sorted by name, so that a revision needs little
// sorting.
func merged(resources []policy.Resource, more []string, routes []policy.Resource, state *State) []policy.Resource {
	out := make([]policy.Resource, 0, len(resources)+2*len(more))
	for _, kind := range []string{policy.TypeService, policy.TypeEndpoints} {
		rest := more
		of := func(name string) { // a service's resources are in the order of kinds
			for _, r := range state.Services[name] {
				if r.TypeURL == kind {
					out = append(out, r)
				}
			}
		}
		for _, r := range resources {
			if r.TypeURL != kind {
				continue
			}
			for len(rest) > 0 && rest[0] < r.Name {
				of(rest[0])
				rest = rest[1:]
			}
			out = append(out, r)
		}
		for _, name := range rest {
			of(name)
		}
	}
	out = append(out, routes...)
	for _, r := range resources {
		switch r.TypeURL {
		case policy.TypeService, policy.TypeEndpoints, policy.TypeRoutes, policy.TypePolicy:
		default:
			out = append(out, r)
		}
	}
	return out
}

// named are the services that the sidecar has named, or would if it knew how to, and that are not its Node's own; sorted.
func (c *session) named(state *State, n Node) (more []string) {
	sub := c.subs[policy.TypeService]
	if sub == nil {
		return nil
	}
	own := map[string]bool{}
	for _, r := range n.Resources {
		if r.TypeURL == policy.TypeService {
			own[r.Name] = true
		}
	}
	add := func(name string) {
		if _, ok := state.Services[name]; ok && !own[name] {
			more = append(more, name)
		}
	}
	if n.Redirected && !c.asks {
		for name := range state.Services {
			add(name)
		}
	} else {
		for name := range sub.names {
			add(name)
		}
	}
	slices.Sort(more)
	return more
}

// push sends what differs from what was sent, kind by kind; it stops at a kind whose last response is not answered, because what follows may
// refer to it. Nothing refers to kinds on demand, and they refer to nothing that must be there before.
func (c *session) push(state *State) error {
	sh, err := c.shareOf(state)
	if err != nil {
		return err
	}
	for _, kind := range policy.Kinds {
		sub, ok := c.subs[kind.TypeURL]
		if !ok || sub.told == sh {
			continue
		}
		resp := sub.diff(kind, sh)
		if resp == nil {
			sub.told = sh
			continue
		}
		if sub.outstanding != "" {
			if kind.OnDemand {
				continue
			}
			return nil
		}
		c.nonce++
		resp.Nonce = strconv.FormatUint(c.nonce, 10)
		resp.SystemVersionInfo = sh.revision
		if err := c.stream.Send(resp); err != nil {
			return fmt.Errorf("send: %w", err)
		}
		for _, r := range resp.Resources {
			sub.sent[r.Name] = r.Version
		}
		for _, name := range resp.RemovedResources {
			delete(sub.sent, name)
			if sub.names[name] {
				sub.sent[name] = absent
			}
		}
		sub.outstanding, sub.revision, sub.published, sub.told = resp.Nonce, sh.revision, state.Published, sh
		c.server.Pushes.Add(1)
	}
	return nil
}

// diff is nil when there is nothing to say.
func (sub *subscription) diff(kind policy.Kind, sh *share) *discoveryv3.DeltaDiscoveryResponse {
	resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: kind.TypeURL}
	have := make(map[string]bool, len(sub.sent))
	offer := func(r policy.Resource) {
		if (!sub.wildcard || kind.OnDemand) && !sub.names[r.Name] {
			return
		}
		have[r.Name] = true
		if sub.sent[r.Name] != r.Version {
			resp.Resources = append(resp.Resources, &discoveryv3.Resource{Name: r.Name, Version: r.Version, Resource: r.Body})
		}
	}
	if kind.OnDemand {
		for name := range sub.names {
			if r, ok := sh.of.Destinations[name]; ok {
				offer(r)
			}
		}
	} else {
		for _, r := range sh.resources {
			if r.TypeURL == kind.TypeURL {
				offer(r)
			}
		}
	}
	for name, version := range sub.sent {
		if !have[name] && version != absent {
			resp.RemovedResources = append(resp.RemovedResources, name)
		}
	}
	for name := range sub.names {
		if _, told := sub.sent[name]; !have[name] && !told {
			resp.RemovedResources = append(resp.RemovedResources, name)
		}
	}
	if len(resp.Resources) == 0 && len(resp.RemovedResources) == 0 {
		return nil
	}
	slices.Sort(resp.RemovedResources)
	return resp
}

// PeerID is the verified identity of a gRPC caller; zero without a certificate.
func PeerID(ctx context.Context) identity.ID {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.ID{}
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return identity.ID{}
	}
	return identity.PeerID(info.State)
}
