package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/route"
)

// Type URLs of the kinds.
const (
	TypeService     = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	TypeEndpoints   = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	TypeRoutes      = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	TypeListener    = "type.googleapis.com/envoy.config.listener.v3.Listener"
	TypeDestination = "type.googleapis.com/tulle.v1.Destination"
	TypePolicy      = "type.googleapis.com/tulle.v1.Policy"
)

// Kind is one kind of resource as it travels.
type Kind struct {
	Name     string
	TypeURL  string
	OnDemand bool // not part of a Snapshot; subscribed to by name, on first use

	// out yields the kind's messages of a Snapshot by resource name; nil for kinds on demand.
	out func(s *Snapshot, put func(name string, m proto.Message)) error
	// in reads one resource into s, or only checks it when the kind is on demand. It refuses a body whose own name is another.
	in func(s *Snapshot, name string, body *anypb.Any) error
}

// Kinds lists every kind in the order in which a revision is sent: what is referred to comes before what refers to it ("make before
// break"), and Policy, which puts the revision in force, comes last.
var Kinds = []Kind{
	{Name: "service", TypeURL: TypeService, out: servicesOut, in: serviceIn},
	{Name: "endpoint", TypeURL: TypeEndpoints, out: endpointsOut, in: endpointsIn},
	{Name: "route", TypeURL: TypeRoutes, out: routesOut, in: routesIn},
	{Name: "listener", TypeURL: TypeListener, out: listenersOut, in: listenerIn},
	{Name: "destination", TypeURL: TypeDestination, OnDemand: true, in: destinationIn},
	{Name: "workload", TypeURL: TypePolicy, out: workloadOut, in: workloadIn},
}

// KindOf finds a kind by type URL.
func KindOf(typeURL string) (Kind, bool) {
	i := slices.IndexFunc(Kinds, func(k Kind) bool { return k.TypeURL == typeURL })
	if i < 0 {
		return Kind{}, false
	}
	return Kinds[i], true
}

// Resource is one xDS resource. Version is a hash of the content.
type Resource struct {
	TypeURL string
	Name    string
	Version string
	Body    *anypb.Any
}

// NewResource packs m deterministically and derives the version from the bytes.
func NewResource(name string, m proto.Message) (Resource, error) {
	body, err := pack(m)
	if err != nil {
		return Resource{}, err
	}
	sum := sha256.Sum256(body.Value)
	return Resource{TypeURL: body.TypeUrl, Name: name, Version: hex.EncodeToString(sum[:8]), Body: body}, nil
}

// CheckResource reads one resource by itself; the error says which field of it is wrong.
func CheckResource(r Resource) error {
	_, err := ReadResource(r)
	return err
}

// Seal sets s.Revision from its content and returns s as resources, in the order of Kinds, each kind sorted by name. It checks everything
// on the way.
func Seal(s *Snapshot) ([]Resource, error) {
	s.Revision = "unsealed"
	resources, err := s.ToXDS()
	if err != nil {
		return nil, err
	}
	last := &resources[len(resources)-1]
	s.Revision = Revision(s.Workload, s.Telemetry, resources)
	policy, err := s.Workload.ToXDS(s.Telemetry, s.Revision)
	if err != nil {
		return nil, err
	}
	*last, err = NewResource(s.Workload.Instance, policy)
	return resources, err
}

// Revision derives a Snapshot's revision from the workload, what it is told about telemetry, and names and versions of its resources, in any order; Policy (which carries
// the revision) and kinds on demand are left out. Sidecar and controller compute it alike, so that a sidecar knows when it has one completely.
func Revision(w Workload, t Telemetry, resources []Resource) string {
	var lines []string
	lines = append(lines, fmt.Sprintf("%q\n", []string{w.Service, w.Namespace, w.Version, w.Instance}))
	if l := w.Limits.WithDefaults(); l != (SidecarLimits{}).WithDefaults() { // else as before there were limits, for older sidecars
		lines = append(lines, fmt.Sprintf("limits %+v\n", l))
	}
	if !t.IsZero() {
		lines = append(lines, fmt.Sprintf("telemetry %q\n", [][]string{t.Headers, t.Accept, t.Emit}))
	}
	slices.Sort(lines)
	order := make([]*Resource, 0, len(resources))
	for i := range resources {
		if r := &resources[i]; r.TypeURL != TypePolicy && r.TypeURL != TypeDestination {
			order = append(order, r)
		}
	}
	// Lines of resources come after the others, whose first letters are before that of every type URL; and no name has a character up to the space.
	slices.SortFunc(order, func(a, b *Resource) int {
		return cmp.Or(strings.Compare(a.TypeURL, b.TypeURL), strings.Compare(a.Name, b.Name))
	})
	text := make([]byte, 0, 128*(len(order)+2))
	for _, l := range lines {
		text = append(text, l...)
	}
	for _, r := range order {
		text = append(append(append(append(append(append(text, r.TypeURL...), ' '), r.Name...), ' '), r.Version...), '\n')
	}
	h := sha256.New()
	h.Write(text)
	return hex.EncodeToString(h.Sum(nil)[:6])
}

// ServiceResources are the resources that svc and its endpoints are in every Snapshot that has them, in the order of Kinds.
func ServiceResources(svc Service, endpoints []Endpoint) ([]Resource, error) {
	s := &Snapshot{Services: map[string]Service{svc.Name: svc}, Endpoints: map[string][]Endpoint{svc.Name: endpoints}}
	var out []Resource
	var failed error
	put := func(name string, m proto.Message) {
		r, err := NewResource(name, m)
		if err != nil {
			failed = err
		}
		out = append(out, r)
	}
	for _, write := range []func(*Snapshot, func(string, proto.Message)) error{servicesOut, endpointsOut} {
		if err := write(s, put); err != nil {
			return nil, err
		}
	}
	return out, failed
}

// ToXDS maps a checked s to resources in the order of Kinds.
func (s *Snapshot) ToXDS() ([]Resource, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	var out []Resource
	for _, k := range Kinds {
		if k.OnDemand {
			continue
		}
		begin := len(out)
		if k.TypeURL == TypeRoutes {
			for name := range s.Routes {
				if r, ok := s.written(name); ok {
					out = append(out, r.Resource)
				}
			}
		}
		var failed error
		err := k.out(s, func(name string, m proto.Message) {
			r, err := NewResource(name, m)
			if err != nil && failed == nil {
				failed = err
			}
			out = append(out, r)
		})
		if err == nil {
			err = failed
		}
		if err != nil {
			return nil, err
		}
		slices.SortFunc(out[begin:], func(a, b Resource) int { return strings.Compare(a.Name, b.Name) })
	}
	return out, nil
}

// Part is one resource that was read and checked by itself: what of a Snapshot it makes. Immutable.
type Part struct {
	Resource
	service   *Service   // of TypeService
	endpoints []Endpoint // of TypeEndpoints
	rest      *Snapshot  // of other types
}

// ReadResource reads one resource by itself; the error says which field of it is wrong.
func ReadResource(r Resource) (Part, error) {
	k, ok := KindOf(r.TypeURL)
	if !ok {
		return Part{}, fmt.Errorf("resource %q: type %q is not known to this version of Tulle", r.Name, r.TypeURL)
	}
	s := &Snapshot{Services: map[string]Service{}, Endpoints: map[string][]Endpoint{}}
	if err := k.in(s, r.Name, r.Body); err != nil {
		return Part{}, err
	}
	p := Part{Resource: r}
	switch r.TypeURL {
	case TypeService:
		svc := s.Services[r.Name]
		p.service = &svc
	case TypeEndpoints:
		p.endpoints = s.Endpoints[r.Name]
	default:
		p.rest = s
	}
	return p, nil
}

// Assemble makes a Snapshot of parts, in any order, and checks what they say about each other. What was not changed between two Snapshots is shared by them.
func Assemble(parts []Part) (*Snapshot, error) {
	s := &Snapshot{Services: make(map[string]Service, len(parts)/2), Endpoints: make(map[string][]Endpoint, len(parts)/2), services: make(map[string]*Service, len(parts)/2)}
	for i := range parts {
		switch p := &parts[i]; p.TypeURL {
		case TypeService:
			s.Services[p.Name], s.services[p.Name] = *p.service, p.service
		case TypeEndpoints:
			s.Endpoints[p.Name] = p.endpoints
		case TypeRoutes:
			if s.Routes == nil {
				s.Routes = map[string][]route.Rule{}
			}
			s.Routes[p.Name] = p.rest.Routes[p.Name]
		case TypeListener:
			s.Listeners = append(s.Listeners, p.rest.Listeners...)
		case TypePolicy:
			s.Workload, s.Telemetry, s.Revision = p.rest.Workload, p.rest.Telemetry, p.rest.Revision
		default:
			return nil, fmt.Errorf("resource %q: type %q is not part of a snapshot", p.Name, p.TypeURL)
		}
	}
	slices.SortFunc(s.Listeners, func(a, b Listener) int { return strings.Compare(a.Name, b.Name) })
	return s, s.checkWhole()
}

// FromXDS is the inverse of ToXDS, in any order of resources; it checks the whole.
func FromXDS(resources []Resource) (*Snapshot, error) {
	parts := make([]Part, 0, len(resources))
	for _, r := range resources {
		if k, ok := KindOf(r.TypeURL); !ok || k.OnDemand {
			return nil, fmt.Errorf("resource %q: type %q is not part of a snapshot", r.Name, r.TypeURL)
		}
		p, err := ReadResource(r)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
	s, err := Assemble(parts)
	if err == nil {
		err = s.Check()
	}
	return s, err
}

func pack(m proto.Message) (*anypb.Any, error) {
	body := &anypb.Any{}
	return body, anypb.MarshalFrom(body, m, proto.MarshalOptions{Deterministic: true})
}

func unpack[M proto.Message](body *anypb.Any, m M) (M, error) {
	if err := body.UnmarshalTo(m); err != nil {
		return m, fmt.Errorf("unreadable %T: %w", m, err)
	}
	return m, nil
}

func sameName(kind, name, inside string) error {
	if name != inside {
		return fmt.Errorf("%s resource %q: its content is named %q; the names must agree", kind, name, inside)
	}
	return nil
}

func servicesOut(s *Snapshot, put func(string, proto.Message)) error {
	for _, svc := range s.Services {
		x, err := svc.ToXDS()
		if err != nil {
			return err
		}
		put(svc.Name, x)
	}
	return nil
}

func serviceIn(s *Snapshot, name string, body *anypb.Any) error {
	x, err := unpack(body, &clusterv3.Cluster{})
	if err != nil {
		return err
	}
	svc, err := ServiceFromXDS(x)
	if err != nil {
		return err
	}
	s.Services[name] = svc
	return sameName("service", name, svc.Name)
}

func endpointsOut(s *Snapshot, put func(string, proto.Message)) error {
	for name := range s.Services {
		x, err := EndpointsToXDS(name, s.Endpoints[name])
		if err != nil {
			return err
		}
		if o := s.Services[name].Balancer.WithDefaults().Overprovision; o != DefaultOverprovision {
			x.Policy = &endpointv3.ClusterLoadAssignment_Policy{OverprovisioningFactor: wrapperspb.UInt32(uint32(o))}
		}
		put(name, x)
	}
	return nil
}

func endpointsIn(s *Snapshot, name string, body *anypb.Any) error {
	x, err := unpack(body, &endpointv3.ClusterLoadAssignment{})
	if err != nil {
		return err
	}
	service, endpoints, err := EndpointsFromXDS(x)
	if err != nil {
		return err
	}
	s.Endpoints[service] = endpoints
	return sameName("endpoint", name, service)
}

func listenersOut(s *Snapshot, put func(string, proto.Message)) error {
	for _, l := range s.Listeners {
		x, err := l.toXDS(s.Services[l.Service].Balancer.Affinity, len(s.Routes[l.Service]) > 0)
		if err != nil {
			return err
		}
		put(l.Name, x)
	}
	return nil
}

func listenerIn(s *Snapshot, name string, body *anypb.Any) error {
	x, err := unpack(body, &listenerv3.Listener{})
	if err != nil {
		return err
	}
	l, err := ListenerFromXDS(x)
	if err != nil {
		return err
	}
	s.Listeners = append(s.Listeners, l)
	return sameName("listener", name, l.Name)
}

func workloadOut(s *Snapshot, put func(string, proto.Message)) error {
	x, err := s.Workload.ToXDS(s.Telemetry, s.Revision)
	if err != nil {
		return err
	}
	put(s.Workload.Instance, x)
	return nil
}

func workloadIn(s *Snapshot, name string, body *anypb.Any) error {
	x, err := unpack(body, &tullev1.Policy{})
	if err != nil {
		return err
	}
	if s.Workload, s.Telemetry, s.Revision, err = WorkloadFromXDS(x); err != nil {
		return err
	}
	return sameName("workload", name, s.Workload.Instance)
}

func destinationIn(_ *Snapshot, name string, body *anypb.Any) error {
	x, err := unpack(body, &tullev1.Destination{})
	if err != nil {
		return err
	}
	d, err := DestinationFromXDS(x)
	if err != nil {
		return err
	}
	return sameName("destination", name, DestinationName(d.Network, d.Address))
}
