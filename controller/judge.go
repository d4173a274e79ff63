package controller

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/controller/brain"
	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/controller/translate"
	"github.com/tulle-mesh/tulle/controller/xds"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// judge owns what is in force. Its goroutine receives documents, windows and the passing of time; it publishes the State to xds, the registry
// and events to evidence. Configuration waits Debounce for more of it; overrides go out at once.
//
// Queues: documents keep only the latest set; windows keep windowQueue and drop (counted) beyond, which the brain sees as a gap and answers by
// deciding nothing; proxy changes only set a flag.
type judge struct {
	trustDomain string
	log         *slog.Logger
	xds         *xds.Server
	emit        func(*tullev1.Event)
	register    func(*tullev1.Registry)

	documents chan []resource.Document // capacity 1: the latest set
	windows   chan *tullev1.Observed
	dirty     chan struct{} // capacity 1: the registry is out of date
	inForce   chan struct{} // closed when the first configuration is
	stopping  atomic.Bool

	windowsDropped, recomputed, refused atomic.Uint64
	pushDelay                           histogram
	beat                                atomic.Int64 // unix ns of the last turn of the loop
	view                                atomic.Pointer[view]

	// below: owned by Run's goroutine
	set       *resource.Set
	problems  []resource.Problem
	endpoints []discovery.Endpoint
	brain     *brain.Brain
	fleet     *brain.Fleet
	overrides []brain.Override
	edges     edges
	callers   map[string]bool // services with a workload whose connections are redirected
	revision  string
}

// view is what others may read; immutable.
type view struct {
	Revision  string
	Set       *resource.Set
	Problems  []resource.Problem
	Overrides []brain.Override
	Endpoints []discovery.Endpoint
}

// Debounce is how long a change of configuration waits for more.
const Debounce = 100 * time.Millisecond

const windowQueue = 64

func newJudge(trustDomain string, log *slog.Logger) *judge {
	j := &judge{
		trustDomain: trustDomain, log: log,
		documents: make(chan []resource.Document, 1), windows: make(chan *tullev1.Observed, windowQueue), dirty: make(chan struct{}, 1),
		inForce: make(chan struct{}),
		set:     resource.EmptySet(), brain: brain.New(), fleet: &brain.Fleet{},
	}
	j.pushDelay.init()
	j.view.Store(&view{Set: j.set})
	return j
}

// configure takes a whole set of documents; only the latest is kept.
func (j *judge) configure(documents []resource.Document) {
	for {
		select {
		case j.documents <- documents:
			return
		default:
		}
		select {
		case <-j.documents:
		default:
		}
	}
}

// observe takes one window; beyond windowQueue it is dropped and counted.
func (j *judge) observe(w *tullev1.Observed) {
	select {
	case j.windows <- w:
	default:
		j.windowsDropped.Add(1)
	}
}

func (j *judge) markDirty() {
	select {
	case j.dirty <- struct{}{}:
	default:
	}
}

// Run is the loop. It is ready at once; the first documents are put in force without waiting.
func (j *judge) Run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var pending []resource.Document
	var debounce, publish, learnt <-chan time.Time
	first := true
	for {
		j.beat.Store(time.Now().UnixNano())
		select {
		case <-ctx.Done():
			return nil
		case pending = <-j.documents:
			if first {
				first = false
				j.resolve(pending)
			} else if debounce == nil {
				debounce = time.After(Debounce)
			}
		case <-debounce:
			debounce = nil
			j.resolve(pending)
		case w := <-j.windows:
			j.advise(w)
			if j.edges.learn(w, j.fleet, j.callers, time.Now()) && learnt == nil {
				learnt = time.After(edgeDelay)
			}
		case <-tick.C:
			j.advise(nil)
			if j.edges.forget(time.Now()) && learnt == nil {
				learnt = time.After(edgeDelay)
			}
		case <-learnt:
			learnt = nil
			j.recompute()
		case <-j.dirty:
			if publish == nil {
				publish = time.After(Debounce)
			}
		case <-publish:
			publish = nil
			j.register(j.registry())
		}
	}
}

// resolve puts a set of documents in force and says what changed.
func (j *judge) resolve(documents []resource.Document) {
	set, problems := resource.Resolve(documents, j.set)
	if td := set.Mesh.Spec.TrustDomain; td != "" && td != j.trustDomain {
		problems = append(problems, resource.Problem{
			Position: set.Entries[set.Mesh.Key()].Position, Key: set.Mesh.Key(), Severity: resource.Warning,
			Message: fmt.Sprintf("spec.trustDomain: %q, but this controller runs with %q; correct one of them", td, j.trustDomain),
		})
	}
	for _, p := range problems {
		if slices.Contains(j.problems, p) {
			continue // said before
		}
		j.refused.Add(1)
		j.log.Warn("configuration", "severity", string(p.Severity), "problem", p.String())
		severity := "warning"
		if p.Severity == resource.Refused {
			severity = "error"
		}
		j.emit(&tullev1.Event{Kind: "config.refused", Severity: severity, Message: p.String(), Reason: string(p.Severity), Revision: j.revision})
	}
	j.set, j.problems = set, problems
	before := j.revision
	j.recompute()
	if j.revision != before {
		j.log.Info("configuration in force", "revision", j.revision, "resources", len(set.Entries), "problems", len(problems))
		j.emit(&tullev1.Event{
			Kind: "config.applied", Severity: "info", Revision: j.revision,
			Message: fmt.Sprintf("Configuration %s is in force: %d resources, %d workloads, %d problems.", j.revision, len(set.Entries), len(set.Workloads), len(problems)),
		})
	}
}

// recompute derives State and registry from set and overrides. If it fails, which is a bug, what was in force stays.
func (j *judge) recompute() {
	endpoints, err := discovery.FromSet(j.set, j.trustDomain)
	if err == nil {
		err = j.publish(endpoints)
	}
	if err != nil {
		j.log.Error("configuration cannot be translated; what was in force stays", "error", err)
		j.emit(&tullev1.Event{
			Kind: "config.refused", Severity: "error", Reason: "translate", Revision: j.revision,
			Message: fmt.Sprintf("Configuration cannot be translated, the last one stays in force: %v.", err),
		})
	}
}

func (j *judge) publish(endpoints []discovery.Endpoint) error {
	overrides := map[netip.AddrPort]policy.Override{}
	for _, o := range j.overrides {
		overrides[o.Endpoint] = o.Override
	}
	out, err := translate.Translate(translate.Input{TrustDomain: j.trustDomain, Set: j.set, Endpoints: endpoints, Overrides: overrides, Called: j.edges.list()})
	if err != nil {
		return err
	}
	state := &xds.State{Nodes: map[string]xds.Node{}, Services: out.Services, Routes: out.Routes, Destinations: map[string]policy.Resource{}, Published: time.Now()}
	h := sha256.New()
	for _, instance := range slices.Sorted(maps.Keys(out.Workloads)) {
		w := out.Workloads[instance]
		state.Nodes[instance] = xds.Node{
			Identity: w.Identity, Workload: w.Snapshot.Workload, Telemetry: w.Snapshot.Telemetry, Revision: w.Snapshot.Revision, Resources: w.Resources, Rules: w.Rules,
			Redirected: slices.ContainsFunc(w.Snapshot.Listeners, func(l policy.Listener) bool { return l.Interception != nil && l.Side == flow.SideClient }),
		}
		fmt.Fprintln(h, instance, w.Snapshot.Revision, w.Rules) // a map is printed by its keys in order
	}
	for _, name := range slices.Sorted(maps.Keys(out.Services)) { // which sidecars are told of on demand
		for _, r := range out.Services[name] {
			fmt.Fprintln(h, name, r.Version)
		}
		for _, namespace := range slices.Sorted(maps.Keys(out.Routes[name])) {
			fmt.Fprintln(h, name, namespace, out.Routes[name][namespace].Resource.Version)
		}
	}
	for _, r := range out.Destinations {
		state.Destinations[r.Name] = r
	}
	j.endpoints = endpoints
	j.callers = map[string]bool{}
	for _, w := range j.set.Workloads {
		if w.Spec.Intercept.Outbound.Listen != "" {
			j.callers[w.Spec.Service] = true
		}
	}
	j.revision = hex.EncodeToString(h.Sum(nil)[:6])
	j.fleet = j.newFleet()
	j.xds.Publish(state)
	j.view.Store(&view{Revision: j.revision, Set: j.set, Problems: j.problems, Overrides: j.overrides, Endpoints: endpoints})
	j.register(j.registry())
	if j.recomputed.Add(1) == 1 { // after everything others may look at
		close(j.inForce)
	}
	return nil
}

func (j *judge) newFleet() *brain.Fleet {
	f := &brain.Fleet{Services: map[string]brain.Service{}, Ports: map[string][]string{}, Reporters: map[string]brain.Reporter{}, Revision: j.revision}
	addresses := map[string][]netip.AddrPort{}
	for _, e := range j.endpoints {
		name := e.Name()
		s, ok := f.Services[name]
		if !ok {
			s = brain.Service{Endpoints: map[netip.AddrPort]string{}, Eject: j.set.Traffic(name).Ejection.On()}
			f.Services[name] = s
			if e.Port != "" {
				f.Ports[e.Service] = append(f.Ports[e.Service], name)
			}
		}
		s.Endpoints[e.Address] = e.Instance
		if e.Instance != "" {
			addresses[e.Instance] = append(addresses[e.Instance], e.Address)
		}
	}
	for _, w := range j.set.Workloads {
		id, err := identity.Workload(j.trustDomain, w.Metadata.Namespace, w.Spec.ServiceAccount)
		if err != nil {
			continue // translate would have failed
		}
		f.Reporters[w.Metadata.Name] = brain.Reporter{Service: w.Spec.Service, Identity: id.String(), Addresses: addresses[w.Metadata.Name]}
	}
	return f
}

// advise asks the brain, says what it decided, and pushes overrides at once when they changed.
func (j *judge) advise(w *tullev1.Observed) {
	advice := j.brain.Advise(brain.Input{Window: w, Fleet: j.fleet, Now: time.Now()})
	for _, e := range advice.Events {
		j.log.Info("decision", "kind", e.GetKind(), "reason", e.GetReason(), "message", e.GetMessage())
	}
	if !slices.Equal(advice.Overrides, j.overrides) {
		j.overrides = advice.Overrides
		j.recompute()
	}
	for _, e := range advice.Events {
		j.emit(e)
	}
}

// recorded is how Records call what a configured protocol is. Of "http" it is what sidecars from before HTTP/2 spoke: the graph falls back on it for
// attempts that do not say theirs.
func recorded(word string) string {
	p, _ := policy.ParseProtocol(word) // resource has checked it
	if p == flow.ProtocolHTTP || p == flow.ProtocolAuto {
		p = flow.ProtocolHTTP1
	}
	return p.String()
}

// Labels by which a workload says where it runs and what it is a part of, as Kubernetes calls them; of several the first that is there.
const nodeLabel = "kubernetes.io/hostname"

var appLabels = [...]string{"app.kubernetes.io/part-of", "app.kubernetes.io/name", "app"}

func (j *judge) registry() *tullev1.Registry {
	r := &tullev1.Registry{Revision: j.revision}
	ports := map[string][]*tullev1.RegistryPort{}
	services := map[string]*tullev1.RegistryService{}
	for _, e := range j.endpoints { // a service's first port comes first
		ports[e.Instance] = append(ports[e.Instance], &tullev1.RegistryPort{Name: e.Port, Address: e.Address.String(), Protocol: recorded(e.Protocol)})
		if services[e.Service] == nil {
			services[e.Service] = &tullev1.RegistryService{Name: e.Service, Namespace: e.Namespace, Protocol: recorded(e.Protocol), External: e.External}
		}
	}
	for _, w := range j.set.Workloads {
		rw := &tullev1.RegistryWorkload{
			Service: w.Spec.Service, Namespace: w.Metadata.Namespace, Version: w.Spec.Version, Instance: w.Metadata.Name,
			Identity: j.fleet.Reporters[w.Metadata.Name].Identity, Ports: ports[w.Metadata.Name],
			Zone: w.Spec.Locality.Policy().String(), Node: w.Metadata.Labels[nodeLabel],
		}
		for _, l := range appLabels {
			if rw.App = w.Metadata.Labels[l]; rw.App != "" {
				break
			}
		}
		if len(rw.Ports) > 0 {
			rw.Address, rw.Protocol = rw.Ports[0].Address, rw.Ports[0].Protocol
		}
		r.Workloads = append(r.Workloads, rw)
		if services[w.Spec.Service] == nil { // a pure client
			services[w.Spec.Service] = &tullev1.RegistryService{Name: w.Spec.Service, Namespace: w.Metadata.Namespace}
		}
	}
	for _, w := range j.set.Workloads {
		if len(w.Spec.Edge.Listeners) > 0 || w.Spec.Edge.Egress.Listen != "" {
			services[w.Spec.Service].Gateway = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		r.Services = append(r.Services, services[name])
	}
	for _, o := range j.overrides {
		r.Overrides = append(r.Overrides, &tullev1.RegistryOverride{
			Id: o.ID, Service: o.Service, Endpoint: o.Endpoint.String(), Kind: o.Kind.String(), Fraction: o.Fraction, Reason: o.Reason,
			IssuedUnixNano: o.Issued.UnixNano(), ExpiresUnixNano: o.Expires.UnixNano(),
		})
	}
	for _, p := range j.xds.Proxies() {
		r.Proxies = append(r.Proxies, &tullev1.RegistryProxy{
			Instance: p.Instance, Service: p.Service, RevisionAcked: p.Acked, LastNack: p.LastNack,
			ConnectedUnixNano: p.Since.UnixNano(), Connected: p.Connected, Version: p.Version, RevisionWanted: p.Wanted,
		})
	}
	return r
}

// issued is told of every certificate.
func (j *judge) issued(id identity.ID, notAfter time.Time, renewal bool) {
	what := "joined and got its first certificate"
	if renewal {
		what = "renewed its certificate"
	}
	j.emit(&tullev1.Event{
		Kind: "certificate.issued", Severity: "info", ExpiresUnixNano: notAfter.UnixNano(),
		Message:  fmt.Sprintf("%s %s, valid until %s.", id, what, notAfter.UTC().Format(time.RFC3339)),
		Evidence: map[string]string{"identity": id.String()},
	})
}

// ProxyConnected implements xds.Observer.
func (j *judge) ProxyConnected(p xds.Proxy) {
	j.emit(&tullev1.Event{
		Kind: "proxy.connected", Severity: "info", Service: p.Service, Instance: p.Instance,
		Message: fmt.Sprintf("Sidecar of %s is connected.", p.Instance),
	})
	j.markDirty()
}

// ProxyDisconnected implements xds.Observer.
func (j *judge) ProxyDisconnected(p xds.Proxy, why string) {
	if j.stopping.Load() {
		return // it is we who leave
	}
	j.emit(&tullev1.Event{
		Kind: "proxy.disconnected", Severity: "warning", Service: p.Service, Instance: p.Instance, Revision: p.Acked,
		Message: fmt.Sprintf("Sidecar of %s is no longer connected: %s. It serves with its last policy.", p.Instance, why),
	})
	j.markDirty()
}

// ProxyNack implements xds.Observer.
func (j *judge) ProxyNack(p xds.Proxy, kind, revision, message string) {
	j.log.Error("sidecar refused policy", "instance", p.Instance, "kind", kind, "revision", revision, "error", message)
	j.emit(&tullev1.Event{
		Kind: "proxy.nack", Severity: "error", Service: p.Service, Instance: p.Instance, Revision: revision, Reason: kind,
		Message: fmt.Sprintf("Sidecar of %s refused revision %s and keeps the last one: %s", p.Instance, revision, message),
	})
	j.markDirty()
}

// ProxyAcked implements xds.Observer.
func (j *judge) ProxyAcked(_ xds.Proxy, _ string, delay time.Duration) {
	j.pushDelay.observe(delay)
	j.markDirty()
}
