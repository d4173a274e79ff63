package balance

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Explore is the share of picks that ignore load. Without it an endpoint that failed once would get nothing for half a minute, and neither
// this sidecar nor the controller would learn whether it still fails.
const Explore = 0.05

// Noise is the share by which one load must be below the other to decide between the two; otherwise the first drawn serves. Latencies are
// never equal: without it the slower of two good endpoints would get nothing while there is little in flight.
const Noise = 0.25

// p2c picks the less loaded of two endpoints drawn by weight. The load is the peak-EWMA latency times (1 + requests in flight here, scaled by
// mean weight over the endpoint's weight).
//
// The draw is by weight, and the weight divides only what is in flight, so that equal latencies give shares equal to the weights: dividing
// the whole load by the weight would starve an endpoint of weight 80 beside two of 100.
//
// Invariants: an endpoint is left out only by an unexpired eject override, or by its own unreachability; both together leave out at most
// max(1, 10 %) of the endpoints and never the last one; what exceeds that is ignored, so that the picker fails open.
type p2c struct {
	endpoints []policy.Endpoint
	all       *States
	states    []*state
	weights   []float64 // overrides not applied
	mean      float64
	uniform   bool
	ejects    []int // endpoints with an eject override, oldest decision first
	scaled    []int // endpoints with a weight override
	maxOut    int
	random    func() float64 // in [0, 1)
}

func newP2C(endpoints []policy.Endpoint, states *States, random func() float64) exchange.Picker {
	p := &p2c{endpoints: endpoints, random: random, uniform: true}
	addrs := make([]netip.AddrPort, len(endpoints))
	for i, e := range endpoints {
		addrs[i] = e.Address
		w := float64(e.Weight)
		if w == 0 {
			w = 100
		}
		p.weights = append(p.weights, w)
		p.mean += w / float64(len(endpoints))
		p.uniform = p.uniform && w == p.weights[0]
		if o := e.Override; o != nil {
			switch o.Kind {
			case policy.OverrideEject:
				p.ejects = append(p.ejects, i)
			case policy.OverrideWeight:
				p.scaled = append(p.scaled, i)
			}
		}
	}
	slices.SortStableFunc(p.ejects, func(a, b int) int {
		ea, eb := &endpoints[a], &endpoints[b]
		return cmp.Or(ea.Override.Issued.Compare(eb.Override.Issued), ea.Address.Compare(eb.Address))
	})
	p.all, p.states = states, states.take(addrs)
	p.maxOut = min(max(1, len(endpoints)/10), len(endpoints)-1)
	return p
}

// maxEjected bounds how many left-out endpoints one pick keeps track of; more are not left out.
const maxEjected = 64

// Pick implements exchange.Picker.
func (p *p2c) Pick(now time.Time, tried []netip.AddrPort) (exchange.Choice, flow.Reason) {
	if len(p.endpoints) == 0 {
		return exchange.Choice{}, flow.ReasonNoEndpoint
	}
	var set [maxEjected]int
	out := p.leftOut(now, set[:0])

	// Half-open traffic: an ejected endpoint gets Fraction of its share.
	for _, i := range out {
		o := p.endpoints[i].Override
		if o == nil || o.Kind != policy.OverrideEject || !now.Before(o.Expires) || slices.Contains(tried, p.endpoints[i].Address) {
			continue
		}
		if p.random() < fraction(o, 0.01)*p.weight(i, now)/p.total(now) {
			c := p.choose(i)
			c.Probe, c.Override = true, o.ID
			return c, flow.ReasonNone
		}
	}
	// Probation: an endpoint that this sidecar skipped gets one request when its time is over.
	for _, i := range out {
		s := p.states[i]
		if until := s.skipUntil.Load(); until != 0 && now.UnixNano() >= until && !p.ejected(i, now) && !slices.Contains(tried, p.endpoints[i].Address) && s.probing.CompareAndSwap(false, true) {
			c := p.choose(i)
			c.Probe = true
			return c, flow.ReasonNone
		}
	}

	a := p.draw(now, out, tried, -1)
	if a < 0 { // everything was tried: again, then
		if a = p.draw(now, out, nil, -1); a < 0 {
			a = p.draw(now, nil, nil, -1)
		}
	}
	b := p.draw(now, out, tried, a)
	if b >= 0 && p.random() >= Explore && p.load(b, now) < (1-Noise)*p.load(a, now) {
		a = b
	}
	c := p.choose(a)
	if o := p.endpoints[a].Override; o != nil && o.Kind == policy.OverrideWeight && now.Before(o.Expires) {
		c.Override = o.ID
	}
	return c, flow.ReasonNone
}

func (p *p2c) choose(i int) exchange.Choice {
	p.states[i].inflight.Add(1)
	return exchange.Choice{Endpoint: &p.endpoints[i], Load: p.states[i]}
}

func (p *p2c) ejected(i int, now time.Time) bool {
	o := p.endpoints[i].Override
	return o != nil && o.Kind == policy.OverrideEject && now.Before(o.Expires)
}

// leftOut lists the endpoints that normal traffic avoids now, the controller's decisions before our own.
func (p *p2c) leftOut(now time.Time, out []int) []int {
	limit := min(p.maxOut, cap(out))
	for _, i := range p.ejects {
		if len(out) < limit && p.ejected(i, now) {
			out = append(out, i)
		}
	}
	if p.all.skipped.Load() == 0 {
		return out
	}
	for i, s := range p.states {
		if len(out) >= limit {
			break
		}
		if s.skipUntil.Load() != 0 && !slices.Contains(out, i) {
			out = append(out, i)
		}
	}
	return out
}

func (p *p2c) load(i int, now time.Time) float64 {
	s := p.states[i]
	return s.estimate(now) * (1 + float64(s.inflight.Load())*p.mean/p.weight(i, now))
}

func (p *p2c) weight(i int, now time.Time) float64 {
	w := p.weights[i]
	if o := p.endpoints[i].Override; o != nil && o.Kind == policy.OverrideWeight && now.Before(o.Expires) {
		w *= fraction(o, 1)
	}
	return w
}

func (p *p2c) total(now time.Time) float64 {
	t := 0.0
	for i := range p.endpoints {
		t += p.weight(i, now)
	}
	return t
}

// draw picks one endpoint by weight, none of out, tried and not; -1 when none is left.
func (p *p2c) draw(now time.Time, out []int, tried []netip.AddrPort, not int) int {
	n := len(p.endpoints)
	if p.uniform && len(p.scaled) == 0 && len(out) == 0 && len(tried) == 0 {
		if not < 0 {
			return int(p.random() * float64(n))
		}
		if n == 1 {
			return -1
		}
		i := int(p.random() * float64(n-1))
		if i >= not {
			i++
		}
		return i
	}
	usable := func(i int) bool {
		return i != not && !slices.Contains(out, i) && !slices.Contains(tried, p.endpoints[i].Address)
	}
	total, last := 0.0, -1
	for i := range n {
		if usable(i) {
			total += p.weight(i, now)
			last = i
		}
	}
	at := p.random() * total
	for i := range n {
		if usable(i) {
			if at -= p.weight(i, now); at < 0 {
				return i
			}
		}
	}
	return last // rounding, or none
}

func fraction(o *policy.Override, def float64) float64 {
	if o.Fraction > 0 && o.Fraction <= 1 {
		return o.Fraction
	}
	return def
}
