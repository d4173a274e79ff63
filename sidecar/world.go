package sidecar

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/balance"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
	"github.com/tulle-mesh/tulle/sidecar/resilience"
)

// service is what is kept of a destination across Snapshots.
type service struct {
	inFlight atomic.Int64
	pending  atomic.Int64
	shed     exchange.Shed
	states   balance.States
	budget   *resilience.Budget
	adaptive resilience.Adaptive // inbound
	ratio    float64
	floor    float64
	tls      *tls.Config
	tlsFor   string
	unix     map[string]*policy.Unix // inbound: sockets of the application by the listener's name

	http1Only exchange.Learnt
}

// bindings makes of a Snapshot what listeners and steps need. Only Run calls it.
func (s *Sidecar) bindings(snap *policy.Snapshot) []*exchange.Binding {
	workload := s.cfg.Workload
	if workload == (policy.Workload{}) {
		workload = snap.Workload
	}
	workload.Limits = s.limits(snap.Workload.Limits)
	s.room.SetBudget(workload.Limits.BufferBytes)
	destinations := make(map[string]*exchange.Destination, len(snap.Services))
	last := s.applied.Load()
	for name := range snap.Services {
		if d := s.destinations[name]; d != nil && last != nil && snap.Same(last, name) {
			destinations[name] = d
			if c := d.Service.TLS; c != nil {
				s.credentials.Expect(*c)
			}
			continue
		}
		d := s.destination(name, snap.Services[name])
		s.services[name].states.Settle(d.Ejection, func(e balance.Ejection) { s.ejected(name, e) })
		d.Picker = balance.New(snap.Services[name].Balancer, snap.Endpoints[name], &s.services[name].states, nil)
		destinations[name] = d
	}
	s.destinations = destinations
	tables, byRules := make(map[string]*route.Table, len(snap.Routes)), make(map[rulesKey]*route.Table, len(snap.Routes))
	for name, rules := range snap.Routes {
		tables[name] = s.table(byRules, name, rules)
	}
	for name := range s.services {
		if destinations[name] == nil && !strings.Contains(name, " ") { // names of services have none
			delete(s.services, name)
		}
	}
	out := make([]*exchange.Binding, 0, len(snap.Listeners))
	ports := map[uint16]*exchange.Binding{} // of listeners that are not bound
	for _, l := range snap.Listeners {
		b := &exchange.Binding{
			Listener: l.WithDefaults(), Snapshot: snap, Workload: workload, Destinations: destinations, Tables: tables, Room: &s.room,
			Propagation: exchange.NewPropagation(snap.Telemetry), Headers: snap.Telemetry.Headers,
		}
		switch l.Side {
		case flow.SideClient:
			b.Routes = routes(b, l.Service)
			if l.Interception != nil {
				s.interception(b)
			}
			if l.Proxy != nil {
				s.proxy(b)
			}
		case flow.SideServer:
			if l.Edge != nil {
				s.edge(b, byRules)
				break
			}
			own := policy.Service{
				Name: workload.Service, Namespace: workload.Namespace, Protocol: l.Protocol, RequestTimeout: l.RequestTimeout, IdleTimeout: l.IdleTimeout, StreamTimeout: l.StreamTimeout,
				Proxy: l.TargetProxy,
			}
			b.Own = s.destination(inboundKey+l.Service, own)
			if l.Protocol.MayBeHTTP() {
				st := s.services[inboundKey+l.Service]
				st.adaptive.Set(l.Adaptive.WithDefaults())
				if !l.Adaptive.Off {
					b.Own.Admission = &st.adaptive
				}
			}
			b.Access = s.judge(l)
			if l.Interception != nil {
				b.Intercepted = &exchange.Intercepted{Ports: ports}
				break
			}
			b.App = &policy.Endpoint{Address: l.Target, Unix: s.socket(inboundKey+l.Service, l)}
			if l.Unbound {
				ports[l.Address.Port()] = b
			}
		default:
			s.cfg.Log.Error("listener is neither inbound nor outbound; it is ignored: correct the configuration", "listener", l.Name)
			continue
		}
		if !l.Protocol.MayBeHTTP() && !l.Protocol.Relayed() {
			s.cfg.Log.Warn("this sidecar does not speak the listener's protocol yet; it relays bytes", "listener", l.Name)
		}
		out = append(out, b)
	}
	s.tables = byRules
	return out
}

// rulesKey are rules by what they are, not by what they say: rules of one resource are one slice in every Snapshot.
type rulesKey struct {
	service string
	first   *route.Rule
	n       int
}

// table is that of rules for requests to a service, the last Snapshot's if it has the same ones; it is noted in kept.
func (s *Sidecar) table(kept map[rulesKey]*route.Table, service string, rules []route.Rule) *route.Table {
	if len(rules) == 0 {
		t := route.To(service)
		return &t
	}
	key := rulesKey{service, &rules[0], len(rules)}
	t := s.tables[key]
	if t == nil {
		made, err := route.New(service, rules...)
		if err != nil { // the Snapshot was checked
			s.cfg.Log.Error("rules of a service are malformed; its requests are answered no_route: correct the configuration", "service", service, "err", err)
		}
		t = &made
	}
	kept[key] = t
	return t
}

// routes is where requests to a service go.
func routes(b *exchange.Binding, service string) route.Table {
	if t := b.Tables[service]; t != nil {
		return *t
	}
	return route.To(service)
}

// judge is who may use l; nil: everybody. What a Snapshot says was checked with it; were it wrong all the same, nobody may.
func (s *Sidecar) judge(l policy.Listener) *access.Judge {
	if l.Access.IsZero() {
		return nil
	}
	j, err := access.New(l.Access)
	if err != nil {
		s.cfg.Log.Error("who may use a listener cannot be judged; nobody may: correct the configuration", "listener", l.Name, "err", err)
		j, _ = access.New(access.Rules{Closed: true})
	}
	return j
}

// socket is where l's application listens. It is the same pointer as long as it says the same, because pools go by it.
func (s *Sidecar) socket(key string, l policy.Listener) *policy.Unix {
	st := s.services[key]
	if l.Unix == nil {
		delete(st.unix, l.Name)
		return nil
	}
	if old := st.unix[l.Name]; old != nil && old.Same(l.Unix) {
		return old
	}
	if st.unix == nil {
		st.unix = make(map[string]*policy.Unix)
	}
	st.unix[l.Name] = l.Unix
	return l.Unix
}

// inboundKey sets the state of the own service as a listener apart from the same service as a destination.
const inboundKey = "inbound "

func (s *Sidecar) destination(key string, sv policy.Service) *exchange.Destination {
	st := s.services[key]
	if st == nil {
		st = &service{}
		s.services[key] = st
	}
	sv = sv.WithDefaults()
	if st.budget == nil || st.ratio != sv.Retry.BudgetRatio || st.floor != sv.Retry.BudgetMin {
		st.ratio, st.floor = sv.Retry.BudgetRatio, sv.Retry.BudgetMin
		st.budget = resilience.NewBudget(st.ratio, st.floor)
	}
	greet := greeting(sv.Proxy)
	d := &exchange.Destination{Service: sv, InFlight: &st.inFlight, Pending: &st.pending, Shed: &st.shed, Budget: st.budget, Greet: greet}
	if sv.MTLS {
		ids := slices.Sorted(slices.Values(sv.Identities))
		if want := strings.Join(append(ids, sv.Via), "\n"); st.tls == nil || st.tlsFor != want {
			st.tls, st.tlsFor = s.clientTLS(sv.Name, ids), want
			if sv.Via != "" {
				st.tls.ServerName = sv.Name
			}
		}
		d.TLS = st.tls
	}
	if c := sv.TLS; c != nil {
		s.credentials.Expect(*c)
		if want := fmt.Sprintf("%d %q", sv.Protocol, fmt.Sprint(*c)); st.tls == nil || st.tlsFor != want {
			st.tls, st.tlsFor = s.credentials.Client(*c, sv.Protocol), want
		}
		d.TLS, d.HTTP1Only = st.tls, &st.http1Only
	}
	return d
}

// clientTLS is shared by all connections to a service, and with it the cache of sessions.
func (s *Sidecar) clientTLS(name string, ids []string) *tls.Config {
	var allowed []identity.ID
	for _, text := range ids {
		id, err := identity.Parse(text)
		if err != nil {
			s.cfg.Log.Error("identity of a service is malformed; it is ignored: correct the configuration", "service", name, "err", err)
			continue
		}
		allowed = append(allowed, id)
	}
	c := s.cfg.Identity.ClientTLS(allowed...)
	if len(ids) > 0 && len(allowed) == 0 { // none allowed is not any allowed
		c.VerifyConnection = func(tls.ConnectionState) error {
			return fmt.Errorf("%w: no identity of service %q is well-formed", identity.ErrPeer, name)
		}
	}
	c.ClientSessionCache = tls.NewLRUClientSessionCache(256)
	return c
}
