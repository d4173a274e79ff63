package balance

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// truth says, by the rules as they are written, who of the endpoints may be out at now.
func truth(set *Picker, now time.Time) map[netip.AddrPort]bool {
	out := map[netip.AddrPort]bool{}
	n := len(set.entries)
	limit := max(1, n/10)
	if n == 1 {
		limit = 0
	}
	var ejected []*policy.Endpoint
	for i := range set.entries {
		if e := set.entries[i].endpoint; e.Override.InForce(now) && e.Override.Kind == policy.OverrideEject {
			ejected = append(ejected, e)
		}
	}
	slices.SortStableFunc(ejected, func(a, b *policy.Endpoint) int { return a.Override.Issued.Compare(b.Override.Issued) })
	for _, e := range ejected {
		if len(out) < limit {
			out[e.Address] = true
		}
	}
	var open []*entry
	for i := range set.entries {
		if e := &set.entries[i]; e.openUntil.Load() != 0 && !out[e.endpoint.Address] {
			open = append(open, e)
		}
	}
	slices.SortStableFunc(open, func(a, b *entry) int { return int(a.opened.Load() - b.opened.Load()) })
	for _, e := range open {
		if len(out) < limit {
			out[e.endpoint.Address] = true
		}
	}
	return out
}

// Whatever the policy, the endpoints and their condition are, a pick is of the subset that was asked for, avoids what was tried, and what is out gets probes only,
// unless so few are left in its subset and priority that all are used.
func TestRandomPicksKeepTheRules(t *testing.T) {
	for seed := range uint64(80) {
		r := rand.New(rand.NewPCG(seed, 77))
		name := policy.BalanceAlgorithms[r.IntN(len(policy.BalanceAlgorithms))]
		b := of(name)
		b.Subsets.Selectors = [][]string{{"version"}}
		if b.Keyed() {
			b.BoundedLoad = []int{0, 150}[r.IntN(2)]
			if name == policy.BalanceMaglev {
				b.TableSize = 1009
			}
		} else if r.IntN(2) == 0 {
			b.SlowStart = policy.SlowStart{Window: 10 * time.Second}
		}
		var states States
		now := start
		n := 1 + r.IntN([]int{4, 20, 200}[r.IntN(3)])
		priorities := 1 + uint32(r.IntN(3))
		for range 3 { // Snapshots
			eps := endpoints(n)
			for i := range eps {
				e := &eps[i]
				e.Weight, e.Version = 1+r.Uint32N(128), fmt.Sprintf("v%d", r.IntN(3))
				if e.Priority = r.Uint32N(priorities); i < int(priorities) {
					e.Priority = uint32(min(i, n-1))
				}
				switch r.IntN(8) {
				case 0:
					eject(e, "ov", now.Add(-time.Duration(r.IntN(1000))*time.Millisecond), now.Add(time.Duration(1+r.IntN(20))*time.Second), 0.01)
				case 1:
					e.Override = &policy.Override{ID: "w", Kind: policy.OverrideWeight, Fraction: 0.5, Issued: now, Expires: now.Add(5 * time.Second)}
				}
			}
			set := New(b, eps, &states, r.Uint64)
			var load []exchange.Choice
			for range 400 {
				now = now.Add(time.Duration(r.IntN(100)) * time.Millisecond)
				w := exchange.Want{Key: r.Uint64(), Keyed: r.IntN(4) > 0, Subset: []string{"", "version=v1", "version=v9"}[r.IntN(3)]}
				for range r.IntN(3) {
					w.Tried = append(w.Tried, eps[r.IntN(n)].Address)
				}
				out := truth(set, now)
				if len(out) > max(1, n/10) {
					t.Fatalf("seed %d: %d of %d are out", seed, len(out), n)
				}
				c, reason := set.Pick(now, w)
				if reason != flow.ReasonNone {
					t.Fatalf("seed %d: %v", seed, reason)
				}
				e := c.Endpoint
				check(t, seed, name, eps, out, w, c)
				idle := func(v view) bool {
					return slices.ContainsFunc(v.idle, func(i int32) bool { return set.entries[i].endpoint == e })
				}
				if c.Probe && !out[e.Address] && !slices.ContainsFunc(set.look(now.UnixNano()).groups, idle) {
					t.Fatalf("seed %d: %s: %v is not out, and was probed", seed, name, e.Address)
				}
				load = append(load, c)
				if r.IntN(3) > 0 {
					k := r.IntN(len(load))
					load[k].Load.End(nil, now, time.Duration(r.IntN(50))*time.Millisecond, exchange.Result([]int{0, 0, 1, 2, 2, 2, 4}[r.IntN(7)]), time.Duration(r.IntN(2))*time.Second)
					load = slices.Delete(load, k, k+1)
				}
			}
			for _, c := range load {
				c.Load.End(nil, now, 0, exchange.ResultUnknown, 0)
			}
			for _, e := range set.Endpoints(now) {
				if e.InFlight != 0 {
					t.Fatalf("seed %d: %v has %d in flight after all ended", seed, e.Address, e.InFlight)
				}
			}
			if n = max(1, n+r.IntN(5)-2); n < int(priorities) {
				n = int(priorities)
			}
		}
	}
}

func check(t *testing.T, seed uint64, name string, eps []policy.Endpoint, out map[netip.AddrPort]bool, w exchange.Want, c exchange.Choice) {
	t.Helper()
	e := c.Endpoint
	var group []*policy.Endpoint
	for i := range eps {
		if w.Subset == "version="+eps[i].Version {
			group = append(group, &eps[i])
		}
	}
	if len(group) == 0 { // fallback: any
		for i := range eps {
			group = append(group, &eps[i])
		}
	}
	if !slices.Contains(group, e) {
		t.Fatalf("seed %d: %s: %v of version %s served %q", seed, name, e.Address, e.Version, w.Subset)
	}
	if c.Probe {
		if slices.Contains(w.Tried, e.Address) {
			t.Fatalf("seed %d: %s: %v was probed though it was tried", seed, name, e.Address)
		}
		return
	}
	tier, left, unspent := 0, 0, 0
	for _, o := range group {
		if o.Priority == e.Priority {
			tier++
			if !out[o.Address] {
				left++
			}
		}
		if !out[o.Address] && !slices.Contains(w.Tried, o.Address) {
			unspent++
		}
	}
	if out[e.Address] && left > 0 && 2*left >= tier {
		t.Fatalf("seed %d: %s: %v is out, with %d of %d left, and was picked", seed, name, e.Address, left, tier)
	}
	if slices.Contains(w.Tried, e.Address) && unspent > 0 {
		t.Fatalf("seed %d: %s: %v was tried, and picked though %d others were not", seed, name, e.Address, unspent)
	}
}
