package policy

import (
	"cmp"
	"fmt"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Locality is where a workload runs. The zero value: nobody has said.
type Locality struct{ Region, Zone string }

// String is "region/zone", "region", or "" for the zero value.
func (l Locality) String() string {
	if l.Zone == "" {
		return l.Region
	}
	return l.Region + "/" + l.Zone
}

// Check refuses a zone without a region, and names that cannot be shown.
func (l Locality) Check() error {
	if l.Region == "" && l.Zone != "" {
		return fmt.Errorf("locality.region: must be set beside zone %q", l.Zone)
	}
	if !label(l.Region, 63, "") || !label(l.Zone, 63, "") {
		return fmt.Errorf("locality: region and zone must be up to 63 of letters, digits, and . _ -, are %q", l)
	}
	return nil
}

// Placement is what callers' sidecars balance by, beside health and weight.
type Placement struct {
	Locality Locality
	// Labels select subsets (Balancer.Subsets) together with version, region and zone, which Subset adds and are not among them; at most MaxLabels.
	Labels map[string]string
	// Priority: endpoints of a lower number serve as long as they can take the load; 0 to MaxPriority, without a gap. The controller derives it from the
	// locality of the caller.
	Priority uint32
	// LocalityWeight is the share of the locality among those of the same priority, with Balancer.LocalityWeighted; 0 to 128, the same for all of a locality
	// and priority. 0: what its endpoints weigh together.
	LocalityWeight uint32
}

// Bounds of a Placement.
const (
	MaxLabels   = 64
	MaxPriority = 127
)

// ownLabels are those that Endpoint.Subset adds.
var ownLabels = []string{"version", "region", "zone"}

// FreeLabels are those of a workload that become Placement.Labels: without those that have a field of their own. nil for none.
func FreeLabels(labels map[string]string) map[string]string {
	var out map[string]string
	for k, v := range labels {
		if !slices.Contains(ownLabels, k) {
			if out == nil {
				out = make(map[string]string, len(labels))
			}
			out[k] = v
		}
	}
	return out
}

// Subset is every label that selects e.
func (e Endpoint) Subset() map[string]string {
	out := make(map[string]string, len(e.Labels)+3)
	for k, v := range e.Labels {
		out[k] = v
	}
	for k, v := range map[string]string{"version": e.Version, "region": e.Locality.Region, "zone": e.Locality.Zone} {
		if v != "" {
			out[k] = v
		}
	}
	return out
}

func (p Placement) check() error {
	if err := p.Locality.Check(); err != nil {
		return err
	}
	if err := LabelsCheck(p.Labels); err != nil {
		return err
	}
	for _, own := range ownLabels {
		if _, ok := p.Labels[own]; ok {
			return fmt.Errorf("labels.%s: is set by the field of that name", own)
		}
	}
	switch {
	case p.Priority > MaxPriority:
		return fmt.Errorf("priority %d: must be from 0 to %d", p.Priority, MaxPriority)
	case p.LocalityWeight > 128:
		return fmt.Errorf("locality weight %d: must be from 1 to 128", p.LocalityWeight)
	}
	return nil
}

// checkPlacements refuses what the endpoints of one service say about each other: a gap between priorities, and a locality of two weights.
func checkPlacements(endpoints []Endpoint) error {
	type place struct {
		Locality
		priority uint32
	}
	weights, used, highest := map[place]uint32{}, map[uint32]bool{}, uint32(0)
	for _, e := range endpoints {
		at := place{e.Locality, e.Priority}
		if w, ok := weights[at]; ok && w != e.LocalityWeight {
			return fmt.Errorf("endpoint %s: locality weight %d: others of locality %q and priority %d have %d", e.Address, e.LocalityWeight, e.Locality, e.Priority, w)
		}
		weights[at] = e.LocalityWeight
		used[e.Priority] = true
		highest = max(highest, e.Priority)
	}
	if len(endpoints) > 0 && len(used) != int(highest)+1 {
		return fmt.Errorf("priority %d: priorities must begin with 0 and have no gap", highest)
	}
	return nil
}

// lbMetadata is the metadata namespace by which Envoy selects subsets.
const lbMetadata = "envoy.lb"

// place puts lb, which is e, among the localities of x, and its labels into its metadata.
func (e Endpoint) place(x *endpointv3.ClusterLoadAssignment, lb *endpointv3.LbEndpoint) {
	if labels := labelsToXDS(e.Subset()); labels != nil {
		if lb.Metadata == nil {
			lb.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
		}
		lb.Metadata.FilterMetadata[lbMetadata] = labels
	}
	i := slices.IndexFunc(x.Endpoints, func(l *endpointv3.LocalityLbEndpoints) bool {
		return l.GetPriority() == e.Priority && localityFromXDS(l.GetLocality()) == e.Locality
	})
	if i < 0 {
		i = len(x.Endpoints)
		l := &endpointv3.LocalityLbEndpoints{Priority: e.Priority}
		if e.Locality != (Locality{}) {
			l.Locality = &corev3.Locality{Region: e.Locality.Region, Zone: e.Locality.Zone}
		}
		if e.LocalityWeight != 0 {
			l.LoadBalancingWeight = wrapperspb.UInt32(e.LocalityWeight)
		}
		x.Endpoints = append(x.Endpoints, l)
	}
	x.Endpoints[i].LbEndpoints = append(x.Endpoints[i].LbEndpoints, lb)
}

func localityFromXDS(x *corev3.Locality) Locality {
	return Locality{Region: x.GetRegion(), Zone: x.GetZone()}
}

// placed is the inverse of Endpoint.place for e, whose version is known.
func (e *Endpoint) placed(x *endpointv3.LocalityLbEndpoints, lb *endpointv3.LbEndpoint, r *reader) {
	e.Locality, e.Priority = localityFromXDS(x.GetLocality()), x.GetPriority()
	e.LocalityWeight = x.GetLoadBalancingWeight().GetValue()
	e.Labels = labelsFromXDS(lb.GetMetadata().GetFilterMetadata()[lbMetadata], r)
	for k, v := range map[string]string{"version": e.Version, "region": e.Locality.Region, "zone": e.Locality.Zone} {
		if v != "" && e.Labels[k] == v { // Subset adds it
			delete(e.Labels, k)
		}
	}
	if len(e.Labels) == 0 {
		e.Labels = nil
	}
}

// sortLocalities orders the localities of x, so that one set of endpoints is one resource.
func sortLocalities(x *endpointv3.ClusterLoadAssignment) {
	slices.SortStableFunc(x.Endpoints, func(a, b *endpointv3.LocalityLbEndpoints) int {
		return cmp.Or(cmp.Compare(a.GetPriority(), b.GetPriority()), cmp.Compare(a.GetLocality().GetRegion(), b.GetLocality().GetRegion()),
			cmp.Compare(a.GetLocality().GetZone(), b.GetLocality().GetZone()))
	})
}
