package policy

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// DefaultWeight is an endpoint's weight when none is configured.
const DefaultWeight = 100

// Endpoint is one address that serves a service, with what the controller has decided about it.
type Endpoint struct {
	Address  netip.AddrPort
	Unix     *Unix // of the sidecar's own application, in place of Address; it never travels. Pools tell them apart by the pointer
	Version  string
	Instance string
	Weight   uint32 // 1 to 128; default 100 (xDS load_balancing_weight)
	Override *Override

	Placement
}

// OverrideKind is what an Override does.
type OverrideKind uint8

const (
	// OverrideEject leaves half-open traffic only: Fraction (default 1 %) of what the endpoint would get, each marked as a probe.
	OverrideEject OverrideKind = iota + 1
	// OverrideWeight scales the endpoint's weight by Fraction.
	OverrideWeight
)

// Override is a decision of the controller's brain about one endpoint. The sidecar enforces Expires by its own clock: an override that is
// not renewed ends by itself (fail open).
type Override struct {
	ID       string
	Kind     OverrideKind
	Fraction float64 // 0 < f ≤ 1
	Reason   string
	Issued   time.Time
	Expires  time.Time
}

// WithDefaults returns e with a zero weight replaced by DefaultWeight, and a zero fraction of an ejection by 1 %.
func (e Endpoint) WithDefaults() Endpoint {
	def(&e.Weight, DefaultWeight)
	if o := e.Override; o != nil && o.Fraction == 0 && o.Kind == OverrideEject {
		c := *o
		c.Fraction = DefaultEjectFraction
		e.Override = &c
	}
	return e
}

// DefaultEjectFraction is what an ejected endpoint still gets, so that its recovery is noticed.
const DefaultEjectFraction = 0.01

// Check refuses what a sidecar could not act on.
func (e Endpoint) Check() error {
	if err := checkAddress("address", e.Address); err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	fail := func(err error) error { return fmt.Errorf("endpoint %s: %w", e.Address, err) }
	if e.Weight < 1 || e.Weight > 128 {
		return fail(fmt.Errorf("weight %d: must be from 1 to 128", e.Weight))
	}
	if err := e.Placement.check(); err != nil {
		return fail(err)
	}
	o := e.Override
	if o == nil {
		return nil
	}
	if err := checkName("override id", o.ID); err != nil {
		return fail(err)
	}
	switch {
	case o.Kind != OverrideEject && o.Kind != OverrideWeight:
		return fail(fmt.Errorf("override kind %d: must be eject or weight", o.Kind))
	case !(o.Fraction > 0 && o.Fraction <= 1):
		return fail(fmt.Errorf("override fraction %v: must be above 0 and at most 1", o.Fraction))
	case o.Expires.IsZero():
		return fail(errors.New("override expires: must be set; an override without an end could never fail open"))
	case !o.Expires.After(o.Issued):
		return fail(fmt.Errorf("override expires %s: must be after issued %s", o.Expires.Format(time.RFC3339), o.Issued.Format(time.RFC3339)))
	}
	return nil
}

// InForce reports whether o exists and has not run out at now.
func (o *Override) InForce(now time.Time) bool { return o != nil && now.Before(o.Expires) }

var overrideNames = map[OverrideKind]string{OverrideEject: "eject", OverrideWeight: "weight"}

// String is "eject" or "weight".
func (k OverrideKind) String() string { return overrideNames[k] }

// EndpointsToXDS maps the endpoints of one service to a ClusterLoadAssignment. An override travels in the metadata, and as weight and
// DEGRADED health, so that a stock Envoy steers away too.
func EndpointsToXDS(service string, endpoints []Endpoint) (*endpointv3.ClusterLoadAssignment, error) {
	if err := checkName("service", service); err != nil {
		return nil, err
	}
	x := &endpointv3.ClusterLoadAssignment{ClusterName: service}
	for _, ep := range endpoints {
		ep = ep.WithDefaults()
		if err := ep.Check(); err != nil {
			return nil, fmt.Errorf("service %q: %w", service, err)
		}
		m := extras{}
		m.str("version", ep.Version)
		m.str("instance", ep.Instance)
		weight, health := ep.Weight, corev3.HealthStatus_HEALTHY
		if o := ep.Override; o != nil {
			m.num("weight", float64(ep.Weight))
			m.str("override_id", o.ID)
			m.str("override_kind", o.Kind.String())
			m.num("override_fraction", o.Fraction)
			m.str("override_reason", o.Reason)
			m.time("override_issued", o.Issued)
			m.time("override_expires", o.Expires)
			weight = max(1, uint32(math.Round(float64(weight)*o.Fraction)))
			if o.Kind == OverrideEject {
				health = corev3.HealthStatus_DEGRADED
			}
		}
		ep.place(x, &endpointv3.LbEndpoint{
			HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: socketAddress(ep.Address)}},
			HealthStatus:        health,
			LoadBalancingWeight: wrapperspb.UInt32(weight),
			Metadata:            m.metadata(),
		})
	}
	if err := checkPlacements(endpoints); err != nil {
		return nil, fmt.Errorf("service %q: %w", service, err)
	}
	sortLocalities(x)
	return x, nil
}

// EndpointsFromXDS is the inverse of EndpointsToXDS.
func EndpointsFromXDS(x *endpointv3.ClusterLoadAssignment) (service string, endpoints []Endpoint, err error) {
	fail := func(err error) (string, []Endpoint, error) {
		return "", nil, fmt.Errorf("endpoints of %q: %w", x.GetClusterName(), err)
	}
	if err := checkName("cluster_name", x.GetClusterName()); err != nil {
		return fail(err)
	}
	seen := map[netip.AddrPort]bool{}
	for _, locality := range x.GetEndpoints() {
		for _, lb := range locality.GetLbEndpoints() {
			addr, err := fromSocketAddress(lb.GetEndpoint().GetAddress())
			if err != nil {
				return fail(err)
			}
			if seen[addr] {
				return fail(fmt.Errorf("address %s: is listed twice", addr))
			}
			seen[addr] = true
			r := read(lb.GetMetadata())
			ep := Endpoint{Address: addr, Version: r.str("version"), Instance: r.str("instance"), Weight: lb.GetLoadBalancingWeight().GetValue()}
			if id := r.str("override_id"); id != "" {
				o := &Override{
					ID: id, Fraction: r.num("override_fraction"), Reason: r.str("override_reason"),
					Issued: r.time("override_issued"), Expires: r.time("override_expires"),
				}
				switch kind := r.str("override_kind"); kind {
				case "eject":
					o.Kind = OverrideEject
				case "weight":
					o.Kind = OverrideWeight
				default:
					r.fail("override_kind", "%q must be eject or weight", kind)
				}
				ep.Override = o
				ep.Weight = uint32(r.num("weight"))
			}
			ep.placed(locality, lb, r)
			if r.err != nil {
				return fail(fmt.Errorf("%s: %w", addr, r.err))
			}
			ep = ep.WithDefaults()
			if err := ep.Check(); err != nil {
				return fail(err)
			}
			endpoints = append(endpoints, ep)
		}
	}
	if err := checkPlacements(endpoints); err != nil {
		return fail(err)
	}
	if len(x.GetEndpoints()) > 1 { // they came by locality
		slices.SortFunc(endpoints, func(a, b Endpoint) int { return a.Address.Compare(b.Address) })
	}
	return x.GetClusterName(), endpoints, nil
}
