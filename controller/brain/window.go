package brain

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
)

// cell is what one believed reporter saw of one endpoint in one window.
type cell struct {
	*tullev1.EndpointObservation
}

// window is one sealed second, only with cells that may be believed.
type window struct {
	start, end time.Time
	cells      map[netip.AddrPort][]cell
}

// believe keeps observations of registered endpoints by reporters that are who they say they are, are at one end of the edge, and have no
// hole in their reports.
func believe(w *tullev1.Observed, fleet *Fleet) window {
	out := window{start: time.Unix(0, w.GetWindowStartUnixNano()), end: time.Unix(0, w.GetWindowEndUnixNano()), cells: map[netip.AddrPort][]cell{}}
	for _, o := range w.GetEndpoints() {
		addr, err := netip.ParseAddrPort(o.GetEndpoint())
		if err != nil || !o.GetContiguous() || slices.Contains(w.GetMissingReporters(), o.GetReporter()) {
			continue
		}
		if _, ok := fleet.Name(o.GetService(), addr); !ok {
			continue
		}
		r, ok := fleet.Reporters[o.GetReporter()]
		if !ok || o.GetReporterIdentity() == "" || r.Identity != o.GetReporterIdentity() {
			continue
		}
		if o.GetServerSide() && !slices.Contains(r.Addresses, addr) || !o.GetServerSide() && o.GetSource() != "" && o.GetSource() != r.Service {
			continue
		}
		out.cells[addr] = append(out.cells[addr], cell{o})
	}
	return out
}

// view is what one reporter saw over several windows.
type view struct {
	server             bool
	requests, failures uint64
	latencies          []weighted
}

// total is what was seen of one endpoint over several windows; requests and failures are the clients' count.
type total struct {
	requests, failures uint64
	bad                int // windows in which it failed badly
	views              map[string]*view
	reasons            map[string]uint64
	traces             []string
}

func (t *total) ratio() float64 {
	if t.requests == 0 {
		return 0
	}
	return float64(t.failures) / float64(t.requests)
}

// sum adds up the windows that begin at or after since.
func sum(windows []window, addr netip.AddrPort, since time.Time, badRatio float64) *total {
	t := &total{views: map[string]*view{}, reasons: map[string]uint64{}}
	for _, w := range windows {
		if w.start.Before(since) {
			continue
		}
		var requests, failures uint64
		for _, c := range w.cells[addr] {
			v := t.views[c.GetReporter()]
			if v == nil {
				v = &view{server: c.GetServerSide()}
				t.views[c.GetReporter()] = v
			}
			v.requests += c.GetRequests()
			v.failures += c.GetFailures()
			if c.GetRequests() > 0 && c.GetLatencyP50Seconds() > 0 {
				v.latencies = append(v.latencies, weighted{c.GetLatencyP50Seconds(), float64(c.GetRequests())})
			}
			if c.GetServerSide() {
				continue
			}
			requests += c.GetRequests()
			failures += c.GetFailures()
			for reason, n := range c.GetReasons() {
				t.reasons[reason] += n
			}
			for _, id := range c.GetTraces() {
				if len(t.traces) < 3 && !slices.Contains(t.traces, id) {
					t.traces = append(t.traces, id)
				}
			}
		}
		t.requests += requests
		t.failures += failures
		if failures > 0 && float64(failures) >= badRatio*float64(requests) {
			t.bad++
		}
	}
	return t
}

// mainReason is the most frequent reason, "" if none was reported.
func (t *total) mainReason() string {
	best := ""
	for reason, n := range t.reasons {
		if best == "" || n > t.reasons[best] || n == t.reasons[best] && reason < best {
			best = reason
		}
	}
	return best
}

type weighted struct{ value, weight float64 }

// weightedMedian is 0 for nothing.
func weightedMedian(vs []weighted) float64 {
	slices.SortFunc(vs, func(a, b weighted) int { return cmp.Compare(a.value, b.value) })
	var all, upTo float64
	for _, v := range vs {
		all += v.weight
	}
	for _, v := range vs {
		if upTo += v.weight; 2*upTo >= all {
			return v.value
		}
	}
	return 0
}

// median is the mean of the middle two for an even count; 0 for nothing.
func median(vs []float64) float64 {
	if len(vs) == 0 {
		return 0
	}
	slices.Sort(vs)
	return (vs[(len(vs)-1)/2] + vs[len(vs)/2]) / 2
}

// zTest is the two-proportion z statistic for p1 over n1 being larger than p2 over n2.
func zTest(p1, n1, p2, n2 float64) float64 {
	p := (p1*n1 + p2*n2) / (n1 + n2)
	se := math.Sqrt(p * (1 - p) * (1/n1 + 1/n2))
	switch {
	case p1 <= p2:
		return 0
	case se == 0:
		return math.Inf(1)
	}
	return (p1 - p2) / se
}

// p50 is the clients' median latency of addr in one window, weighted by requests; ok is false without requests.
func (w window) p50(addr netip.AddrPort) (seconds float64, requests uint64, ok bool) {
	var vs []weighted
	for _, c := range w.cells[addr] {
		if !c.GetServerSide() && c.GetRequests() > 0 && c.GetLatencyP50Seconds() > 0 {
			vs = append(vs, weighted{c.GetLatencyP50Seconds(), float64(c.GetRequests())})
			requests += c.GetRequests()
		}
	}
	return weightedMedian(vs), requests, len(vs) > 0
}
