package translate

import (
	"math"
	"slices"

	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// places knows which endpoints a caller asks first.
type places struct {
	rules   map[string]resource.LoadBalancer       // by policy.PortOf
	callers map[string]map[policy.Locality]float64 // workloads that call a service, by where they run; of services whose mode is proportional
}

func newPlaces(set *resource.Set, services map[string]policy.Service) places {
	p := places{rules: map[string]resource.LoadBalancer{}, callers: map[string]map[policy.Locality]float64{}}
	for name := range services {
		p.rules[name] = set.Traffic(name).LoadBalancer
		if p.rules[name].PreferenceMode() == resource.LocalityProportional {
			p.callers[policy.ServiceOf(name)] = map[policy.Locality]float64{}
		}
	}
	for service, at := range p.callers {
		for _, w := range set.Workloads {
			calls := w.Spec.Intercept.Outbound.Listen != "" || slices.ContainsFunc(w.Spec.Upstreams, func(u resource.Upstream) bool { return u.Service == service })
			if calls && w.Spec.Service != service {
				at[w.Spec.Locality.Policy()]++
			}
		}
	}
	return p
}

// put orders the endpoints of each service of s, which is w's, into priorities: those of w's own zone, of its region, of the localities of
// failover in their order, all others. Endpoints whose locality nobody has said come last. Nothing changes for callers whose locality nobody has said.
func (p places) put(w *resource.Workload, s *policy.Snapshot) {
	from := w.Spec.Locality.Policy()
	if from == (policy.Locality{}) {
		return
	}
	for name, shared := range s.Endpoints {
		rule := p.rules[name]
		mode := rule.PreferenceMode()
		if mode == resource.LocalityOff || !slices.ContainsFunc(shared, func(e policy.Endpoint) bool { return e.Locality != policy.Locality{} }) {
			continue
		}
		endpoints := slices.Clone(shared) // other callers have them, too
		ranks := make([]uint32, len(endpoints))
		for i := range endpoints {
			ranks[i] = rank(from, endpoints[i].Locality, rule.Locality.Failover)
		}
		if mode == resource.LocalityProportional {
			if weights := proportional(from, endpoints, p.callers[policy.ServiceOf(name)]); weights != nil {
				for i := range endpoints {
					if n := weights[endpoints[i].Locality]; n > 0 {
						endpoints[i].LocalityWeight, ranks[i] = n, 0
					}
				}
				svc := s.Services[name]
				svc.Balancer.LocalityWeighted = true
				s.Services[name] = svc
			}
		}
		used := slices.Clone(ranks)
		slices.Sort(used)
		used = slices.Compact(used)
		for i := range endpoints {
			n, _ := slices.BinarySearch(used, ranks[i])
			endpoints[i].Priority = uint32(n) // no gap: a caller without an endpoint in its zone begins with the next nearest
		}
		s.Endpoints[name] = endpoints
	}
}

// rank is how far to is from from; equal ones share a priority.
func rank(from, to policy.Locality, failover []string) uint32 {
	switch {
	case to == from:
		return 0
	case to.Region == from.Region:
		return 1
	}
	for i, f := range failover {
		if f == to.Region || f == to.String() {
			return uint32(2 + i)
		}
	}
	if to == (policy.Locality{}) {
		return uint32(3 + len(failover))
	}
	return uint32(2 + len(failover))
}

// proportional is for a caller in a locality that has less of the endpoints than of the callers, each by its share of all: were its callers to keep to it, each
// endpoint there would get more than its part. They keep
//
//	share of endpoints ÷ share of callers
//
// of their requests there, and send the rest to localities that have more endpoints than callers, by how much more. nil: it has enough, or none. As Envoy's
// zone aware routing, but for the least number of endpoints that needs; weights are in percent.
func proportional(from policy.Locality, endpoints []policy.Endpoint, callers map[policy.Locality]float64) map[policy.Locality]uint32 {
	weight, all, calling := map[policy.Locality]float64{}, 0.0, 0.0
	for _, e := range endpoints {
		weight[e.Locality] += float64(e.Weight)
		all += float64(e.Weight)
	}
	for _, n := range callers {
		calling += n
	}
	own, mine := weight[from]/all, callers[from]/calling
	if own == 0 || own >= mine {
		return nil
	}
	spare, sum := map[policy.Locality]float64{}, 0.0
	for at, w := range weight {
		if more := w/all - callers[at]/calling; more > 0 {
			spare[at] = more
			sum += more
		}
	}
	out := map[policy.Locality]uint32{from: uint32(max(1, math.Round(100*own/mine)))}
	for at, more := range spare {
		if n := uint32(math.Round(100 * (1 - own/mine) * more / sum)); n > 0 {
			out[at] = n
		}
	}
	return out
}

// selected leaves endpoints the labels that s selects by: others need not travel.
func selected(s policy.Subsets, endpoints []policy.Endpoint) {
	for i := range endpoints {
		e := &endpoints[i]
		for k := range e.Labels {
			_, named := s.Default[k]
			if !named && !slices.ContainsFunc(s.Selectors, func(keys []string) bool { return slices.Contains(keys, k) }) {
				delete(e.Labels, k) // FreeLabels has made a copy
			}
		}
		if len(e.Labels) == 0 {
			e.Labels = nil
		}
	}
}
