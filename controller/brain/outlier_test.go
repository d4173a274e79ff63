package brain

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// sim is a fleet in virtual time: clients call one service, its sidecars report, the advisor's overrides steer the next second.
type sim struct {
	t         *testing.T
	rand      *rand.Rand
	endpoints []netip.AddrPort
	clients   int
	noServer  bool                                             // endpoints' own sidecars do not report
	rate      func(s int) float64                              // per endpoint and second, when nothing is ejected
	behave    func(s, endpoint int) (failure, latency float64) // probability, seconds
	tamper    func(s int, w *tullev1.Observed)                 // on the way to the advisor
	lag       time.Duration                                    // from the end of a window to its arrival; default 1.5 s
	fleet     *Fleet
	outlier   *Outlier
	overrides []Override
	events    []timed
	maxOut    int // most endpoints ejected at once
}

type timed struct {
	at time.Duration // since the start
	*tullev1.Event
}

var epoch = time.Unix(1_800_000_000, 0)

func newSim(t *testing.T, seed uint64, endpoints, clients int) *sim {
	s := &sim{
		t: t, rand: rand.New(rand.NewPCG(seed, 42)), clients: clients, outlier: NewOutlier(Settings{}), lag: 1500 * time.Millisecond,
		rate:   func(int) float64 { return 50 },
		behave: func(int, int) (float64, float64) { return 0.005, 0.005 },
		fleet:  &Fleet{Services: map[string]Service{"catalog": {Endpoints: map[netip.AddrPort]string{}, Eject: true}}, Reporters: map[string]Reporter{}, Revision: "r1"},
	}
	for i := range endpoints {
		a := netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:80", i+1))
		s.endpoints = append(s.endpoints, a)
		instance := fmt.Sprintf("catalog-%d", i+1)
		s.fleet.Services["catalog"].Endpoints[a] = instance
		s.fleet.Reporters[instance] = Reporter{Service: "catalog", Identity: "spiffe://td/catalog", Addresses: []netip.AddrPort{a}}
	}
	for i := range clients {
		s.fleet.Reporters[fmt.Sprintf("web-%d", i+1)] = Reporter{Service: "web", Identity: "spiffe://td/web"}
	}
	return s
}

func (s *sim) poisson(mean float64) uint64 {
	if mean <= 0 {
		return 0
	}
	if mean > 100 {
		return uint64(max(0, math.Round(mean+math.Sqrt(mean)*s.rand.NormFloat64())))
	}
	n, p, l := uint64(0), 1.0, math.Exp(-mean)
	for {
		if p *= s.rand.Float64(); p <= l {
			return n
		}
		n++
	}
}

func (s *sim) binomial(n uint64, p float64) uint64 {
	var k uint64
	for range n {
		if s.rand.Float64() < p {
			k++
		}
	}
	return k
}

// run plays seconds from to until.
func (s *sim) run(from, until int) {
	for sec := from; sec < until; sec++ {
		start := epoch.Add(time.Duration(sec) * time.Second)
		w := &tullev1.Observed{WindowStartUnixNano: start.UnixNano(), WindowEndUnixNano: start.Add(time.Second).UnixNano()}
		for i, addr := range s.endpoints {
			fraction, out := 1.0, false
			for _, o := range s.overrides {
				if o.Endpoint == addr && o.InForce(start) {
					fraction, out = o.Fraction, true
				}
			}
			failure, latency := s.behave(sec, i)
			server := &tullev1.EndpointObservation{
				Service: "catalog", Endpoint: addr.String(), Reporter: fmt.Sprintf("catalog-%d", i+1), ReporterIdentity: "spiffe://td/catalog",
				ServerSide: true, Contiguous: true,
			}
			for c := range s.clients {
				n := s.poisson(s.rate(sec) * fraction / float64(s.clients))
				f := s.binomial(n, failure)
				p50 := latency * (0.8 + 0.4*s.rand.Float64())
				o := &tullev1.EndpointObservation{
					Service: "catalog", Endpoint: addr.String(), Reporter: fmt.Sprintf("web-%d", c+1), ReporterIdentity: "spiffe://td/web",
					Source: "web", Contiguous: true,
				}
				if n > 0 {
					o.LatencyP50Seconds, server.LatencyP50Seconds = p50, 0.95*p50
				}
				if f > 0 {
					o.Reasons, o.Traces = map[string]uint64{"upstream_5xx": f}, []string{fmt.Sprintf("%032x", sec)}
				}
				if out {
					o.Probes, o.ProbeFailures = n, f
					server.Probes, server.ProbeFailures = server.Probes+n, server.ProbeFailures+f
				} else {
					o.Requests, o.Failures = n, f
					server.Requests, server.Failures = server.Requests+n, server.Failures+f
				}
				w.Endpoints = append(w.Endpoints, o)
			}
			if !s.noServer {
				w.Endpoints = append(w.Endpoints, server)
			}
		}
		if s.tamper != nil {
			s.tamper(sec, w)
		}
		s.step(w, start.Add(time.Second).Add(s.lag))
		s.step(nil, start.Add(1500*time.Millisecond).Add(s.lag))
	}
}

// step feeds the advisor and holds its invariants.
func (s *sim) step(w *tullev1.Observed, now time.Time) {
	s.t.Helper()
	advice := s.outlier.Advise(Input{Window: w, Fleet: s.fleet, Now: now})
	s.overrides = advice.Overrides
	out := 0
	for _, o := range advice.Overrides {
		if o.Kind == policy.OverrideEject {
			out++
		}
		if !(o.Fraction >= 0.01 && o.Fraction <= 0.05) || !o.Expires.After(now) || o.Expires.Sub(now) > 300*time.Second {
			s.t.Fatalf("override %+v is out of bounds at %s", o, now)
		}
	}
	s.maxOut = max(s.maxOut, out)
	if limit := max(1, len(s.endpoints)/10); out > limit || out >= len(s.endpoints) {
		s.t.Fatalf("%d of %d endpoints are ejected, at most %d may be", out, len(s.endpoints), limit)
	}
	for _, e := range advice.Events {
		if e.GetMessage() == "" || e.GetReason() == "" || e.GetRevision() != "r1" {
			s.t.Fatalf("event does not explain itself: %v", e)
		}
		s.events = append(s.events, timed{now.Sub(epoch), e})
	}
}

// first is the first event of a kind at or after a second; nil if none.
func (s *sim) first(kind string, after int) *timed {
	for i, e := range s.events {
		if e.GetKind() == kind && e.at >= time.Duration(after)*time.Second {
			return &s.events[i]
		}
	}
	return nil
}

func (s *sim) count(kind string) (n int) {
	for _, e := range s.events {
		if e.GetKind() == kind {
			n++
		}
	}
	return n
}

// faulty makes endpoint 1 (the second) misbehave from to until.
func faulty(from, until int, failure, latency float64) func(int, int) (float64, float64) {
	return func(s, endpoint int) (float64, float64) {
		if endpoint == 1 && s >= from && s < until {
			return failure, latency
		}
		return 0.005, 0.005
	}
}

func TestEjectsWithinFiveSecondsAndReadmitsAfterHeal(t *testing.T) {
	for _, tc := range []struct {
		name             string
		failure, latency float64
		clients          int
		within           time.Duration
	}{
		{"all requests fail", 1, 0.005, 2, 5 * time.Second},
		{"most fail", 0.8, 0.005, 2, 5 * time.Second},
		{"one client and the endpoint's own sidecar", 1, 0.005, 1, 5 * time.Second},
		{"half fail", 0.5, 0.005, 2, 5 * time.Second},
		{"slow", 0, 1, 2, 5 * time.Second},
		{"slow, one client", 0, 1, 1, 5 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for seed := range uint64(15) {
				s := newSim(t, seed, 3, tc.clients)
				s.behave = faulty(30, 70, tc.failure, tc.latency)
				s.run(0, 200)
				e := s.first("endpoint.ejected", 0)
				if e == nil || e.GetInstance() != "catalog-2" || e.at < 30*time.Second {
					t.Fatalf("seed %d: first ejection is %v", seed, e)
				}
				if took := e.at - 30*time.Second; took > tc.within {
					t.Errorf("seed %d: ejected after %s, want at most %s", seed, took, tc.within)
				}
				if tc.failure > 0 && len(e.GetTraces()) == 0 || len(e.GetEvidence()) < 5 || e.GetExpiresUnixNano() == 0 || e.GetOverrideId() == "" {
					t.Errorf("seed %d: event lacks evidence: %v", seed, e)
				}
				last := s.events[len(s.events)-1]
				if last.GetKind() != "endpoint.readmitted" || last.at > 190*time.Second {
					t.Errorf("seed %d: not readmitted 120 s after it healed; last event is %v", seed, last)
				}
				for _, e := range s.events {
					if e.GetInstance() != "catalog-2" {
						t.Errorf("seed %d: a healthy endpoint was touched: %v", seed, e)
					}
				}
			}
		})
	}
}

// What was before the heal is not held against an endpoint whose newest probes are good.
func TestHealedEndpointIsNotSaidToFail(t *testing.T) {
	for heal := 60; heal < 140; heal += 3 { // ejections of 30 s and 60 s end in that time
		s := newSim(t, uint64(heal), 3, 2)
		s.rate = func(int) float64 { return 100 }
		s.behave = func(sec, endpoint int) (float64, float64) {
			if endpoint == 1 && sec >= 30 && sec < heal {
				return 1, 0.005
			}
			return 0, 0.005
		}
		s.run(0, heal+100)
		if s.count("endpoint.ejected") == 0 || s.count("endpoint.readmitted") == 0 {
			t.Fatalf("healed at %d s: events are %v", heal, s.events)
		}
		for _, e := range s.events {
			if e.GetReason() == ReasonAgain && e.at > time.Duration(heal)*time.Second+4*time.Second {
				t.Errorf("healed at %d s, but at %s: %s", heal, e.at, e.GetMessage())
			}
		}
	}
}

// An operator who switches ejection off, or a service that shrinks, gets endpoints back at once.
func TestEjectionIsLiftedWhenItMayNoLongerBe(t *testing.T) {
	eject := func(seed uint64) *sim {
		s := newSim(t, seed, 3, 2)
		s.behave = faulty(10, 100, 1, 0.005)
		s.run(0, 20)
		if len(s.overrides) != 1 {
			t.Fatalf("overrides are %v", s.overrides)
		}
		return s
	}
	lifted := func(s *sim, want string) {
		t.Helper()
		s.run(20, 22)
		last := s.events[len(s.events)-1]
		if len(s.overrides) != 0 || last.GetKind() != "endpoint.readmitted" || last.GetReason() != want {
			t.Errorf("overrides are %v, last event %v; want it readmitted for %s", s.overrides, last, want)
		}
	}
	s := eject(17)
	svc := s.fleet.Services["catalog"]
	svc.Eject = false
	s.fleet.Services["catalog"] = svc
	lifted(s, ReasonDisabled)

	s = eject(18)
	delete(s.fleet.Services["catalog"].Endpoints, s.endpoints[0])
	delete(s.fleet.Services["catalog"].Endpoints, s.endpoints[2])
	lifted(s, ReasonCap)
}

func TestReadmitsWhereProbesAreRare(t *testing.T) {
	for seed := range uint64(15) {
		s := newSim(t, seed, 3, 2)
		s.rate = func(int) float64 { return 8 }
		s.behave = faulty(30, 70, 1, 0.005)
		s.run(0, 220)
		if s.count("endpoint.ejected") == 0 {
			t.Errorf("seed %d: never ejected at 8 requests per second", seed)
			continue
		}
		if last := s.events[len(s.events)-1]; last.GetKind() != "endpoint.readmitted" || last.at > 190*time.Second {
			t.Errorf("seed %d: not readmitted 120 s after it healed; last event at %s: %v", seed, last.at, last)
		}
	}
}

func TestHealthyLoadIsLeftAlone(t *testing.T) {
	for seed := range uint64(30) {
		s := newSim(t, seed, 3+int(seed%8), 1+int(seed%4))
		s.rate = func(sec int) float64 { return 50 + 45*math.Sin(float64(sec)/30) }
		bursts := map[[2]int]float64{} // short, isolated trouble: under a second long
		for range 20 {
			bursts[[2]int{s.rand.IntN(600), s.rand.IntN(len(s.endpoints))}] = 0.4 * s.rand.Float64()
		}
		s.behave = func(sec, endpoint int) (float64, float64) {
			latency := 0.005 * math.Exp(0.5*s.rand.NormFloat64())
			if s.rand.IntN(50) == 0 {
				latency *= 20 // a slow second now and then
			}
			return 0.01 + 0.03*s.rand.Float64() + bursts[[2]int{sec, endpoint}], latency
		}
		s.run(0, 600)
		if len(s.events) > 0 {
			t.Fatalf("seed %d: %v", seed, s.events[0])
		}
	}
}

func TestSaturationEjectsNothing(t *testing.T) {
	s := newSim(t, 1, 5, 2)
	s.behave = func(sec, _ int) (float64, float64) {
		if sec >= 30 && sec < 90 {
			return 0.7, 0.5
		}
		return 0.005, 0.005
	}
	s.run(0, 150)
	if n := s.count("endpoint.ejected"); n > 0 {
		t.Errorf("%d endpoints were ejected while all are bad", n)
	}
	if n := s.count("service.saturated"); n != 1 {
		t.Errorf("saturation was said %d times, want once", n)
	}
	s.run(150, 160)
	s.behave = func(int, int) (float64, float64) { return 0.7, 0.5 }
	s.run(160, 180)
	if n := s.count("service.saturated"); n != 2 {
		t.Errorf("saturation was said %d times after it came back, want twice", n)
	}
}

func TestOneReporterAloneNeverEjects(t *testing.T) {
	for name, tamper := range map[string]func(int, *tullev1.Observed){
		"a liar": func(_ int, w *tullev1.Observed) {
			for _, o := range w.GetEndpoints() {
				if o.GetReporter() == "web-1" && o.GetEndpoint() == "10.0.0.2:80" {
					o.Requests, o.Failures, o.LatencyP50Seconds = 5000, 5000, 9
				}
			}
		},
		"a liar who speaks for others": func(_ int, w *tullev1.Observed) {
			for i := range 3 {
				w.Endpoints = append(w.Endpoints, &tullev1.EndpointObservation{
					Service: "catalog", Endpoint: "10.0.0.2:80", Reporter: fmt.Sprintf("catalog-%d", i+1), ReporterIdentity: "spiffe://td/web",
					ServerSide: true, Requests: 500, Failures: 500, Contiguous: true,
				}, &tullev1.EndpointObservation{
					Service: "catalog", Endpoint: "10.0.0.2:80", Reporter: fmt.Sprintf("ghost-%d", i+1), ReporterIdentity: "spiffe://td/web",
					Source: "web", Requests: 500, Failures: 500, Contiguous: true,
				})
			}
		},
		"another endpoint's sidecar": func(_ int, w *tullev1.Observed) {
			w.Endpoints = append(w.Endpoints, &tullev1.EndpointObservation{
				Service: "catalog", Endpoint: "10.0.0.2:80", Reporter: "catalog-1", ReporterIdentity: "spiffe://td/catalog",
				ServerSide: true, Requests: 500, Failures: 500, Contiguous: true,
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, 3, 3, 2)
			s.tamper = tamper
			s.run(0, 120)
			if len(s.events) > 0 {
				t.Fatalf("%v", s.events[0])
			}
		})
	}
	t.Run("the only client, and no other witness", func(t *testing.T) {
		s := newSim(t, 3, 3, 1)
		s.noServer = true
		s.behave = faulty(10, 100, 1, 2)
		s.run(0, 100)
		if len(s.events) > 0 {
			t.Fatalf("%v", s.events[0])
		}
	})
}

func TestTinyVolumeDecidesNothing(t *testing.T) {
	s := newSim(t, 5, 3, 2)
	s.rate = func(int) float64 { return 0.3 }
	s.behave = faulty(0, 600, 1, 0.005)
	s.run(0, 600)
	if len(s.events) > 0 {
		t.Fatalf("%v", s.events[0])
	}
}

func TestNeverTheLastEndpoint(t *testing.T) {
	one := newSim(t, 6, 1, 2)
	one.behave = func(int, int) (float64, float64) { return 1, 1 }
	one.run(0, 60)
	two := newSim(t, 7, 2, 2)
	two.behave = func(sec, endpoint int) (float64, float64) {
		if endpoint == 1 && sec >= 20 || endpoint == 0 && sec >= 40 {
			return 1, 0.005
		}
		return 0, 0.005
	}
	two.run(0, 120)
	if one.maxOut != 0 || two.maxOut != 1 { // step holds the cap as well
		t.Errorf("of one endpoint %d were ejected, of two %d", one.maxOut, two.maxOut)
	}
}

func TestCapOfATenth(t *testing.T) {
	s := newSim(t, 8, 30, 2)
	s.behave = func(sec, endpoint int) (float64, float64) {
		if endpoint < 8 && sec >= 20 {
			return 1, 0.005
		}
		return 0, 0.005
	}
	s.run(0, 120)
	if s.maxOut != 3 {
		t.Errorf("%d of 30 were ejected, want the cap of 3", s.maxOut)
	}
	var last time.Duration
	for _, e := range s.events {
		if e.GetReason() == ReasonAgain {
			continue // a renewal steers nothing anew
		}
		if last != 0 && e.at-last < 6*time.Second {
			t.Errorf("changes at %s and %s, want at least 6 s between them", last, e.at)
		}
		last = e.at
	}
}

func TestFlappingIsKeptOutLonger(t *testing.T) {
	s := newSim(t, 9, 3, 2)
	s.behave = func(sec, endpoint int) (float64, float64) {
		if endpoint == 1 && sec >= 30 && sec < 330 && sec/10%2 == 1 { // 10 s bad, 10 s good
			return 1, 0.005
		}
		return 0.005, 0.005
	}
	s.run(0, 500)
	n := s.count("endpoint.readmitted")
	if n == 0 || n > 8 {
		t.Errorf("readmitted %d times in 15 flaps, want some, but fewer than flaps", n)
	}
	if last := s.events[len(s.events)-1]; last.GetKind() != "endpoint.readmitted" || last.at > 450*time.Second {
		t.Errorf("not readmitted after the flapping ended at 330 s: %v", last)
	}
}

func TestStaleEvidenceDecidesNothing(t *testing.T) {
	t.Run("late", func(t *testing.T) {
		s := newSim(t, 10, 3, 2)
		s.lag = 6 * time.Second
		s.behave = faulty(10, 100, 1, 0.005)
		s.run(0, 100)
		if len(s.events) > 0 {
			t.Fatalf("%v", s.events[0])
		}
	})
	t.Run("of another clock", func(t *testing.T) {
		s := newSim(t, 10, 3, 2)
		s.lag = -time.Hour
		s.behave = faulty(10, 100, 1, 0.005)
		s.run(0, 100)
		if len(s.events) > 0 {
			t.Fatalf("%v", s.events[0])
		}
	})
	t.Run("with holes", func(t *testing.T) {
		s := newSim(t, 11, 3, 2)
		s.behave = faulty(10, 100, 1, 0.005)
		s.tamper = func(_ int, w *tullev1.Observed) {
			for _, o := range w.GetEndpoints() {
				o.Contiguous = false
			}
		}
		s.run(0, 100)
		if len(s.events) > 0 {
			t.Fatalf("%v", s.events[0])
		}
	})
	t.Run("every second window is lost", func(t *testing.T) {
		s := newSim(t, 12, 3, 2)
		s.behave = faulty(10, 100, 1, 0.005)
		for sec := range 50 {
			s.run(2*sec, 2*sec+1)
		}
		if len(s.events) > 0 {
			t.Fatalf("%v", s.events[0])
		}
	})
	t.Run("stops: what is in force runs out", func(t *testing.T) {
		s := newSim(t, 13, 3, 2)
		s.behave = faulty(10, 100, 1, 0.005)
		s.run(0, 16)
		if len(s.overrides) != 1 {
			t.Fatalf("overrides are %v", s.overrides)
		}
		end := s.overrides[0].Expires
		for now := epoch.Add(19 * time.Second); now.Before(end); now = now.Add(time.Second) {
			s.step(nil, now)
			if len(s.overrides) != 1 || !s.overrides[0].Expires.Equal(end) {
				t.Fatalf("at %s overrides are %v", now, s.overrides)
			}
		}
		s.step(nil, end)
		if len(s.overrides) != 0 {
			t.Fatal("the ejection was kept without evidence")
		}
	})
}

func TestSameInputSameDecisions(t *testing.T) {
	play := func() string {
		s := newSim(t, 14, 6, 3)
		s.behave = faulty(20, 90, 0.9, 0.3)
		s.run(0, 200)
		var b strings.Builder
		for _, e := range s.events {
			fmt.Fprintln(&b, e.at, e.GetKind(), e.GetMessage(), e.GetOverrideId())
		}
		return b.String()
	}
	first := play()
	for range 3 {
		if got := play(); got != first {
			t.Fatalf("first\n%s\nthen\n%s", first, got)
		}
	}
}

func TestUnregisteredEndpointIsForgotten(t *testing.T) {
	s := newSim(t, 15, 3, 2)
	s.behave = faulty(10, 100, 1, 0.005)
	s.run(0, 20)
	if len(s.overrides) != 1 {
		t.Fatalf("overrides are %v", s.overrides)
	}
	delete(s.fleet.Services["catalog"].Endpoints, s.endpoints[1])
	s.run(20, 21)
	if len(s.overrides) != 0 {
		t.Errorf("overrides are %v after the endpoint left", s.overrides)
	}
}

func TestDisabledEjection(t *testing.T) {
	s := newSim(t, 16, 3, 2)
	svc := s.fleet.Services["catalog"]
	svc.Eject = false
	s.fleet.Services["catalog"] = svc
	s.behave = faulty(10, 100, 1, 0.005)
	s.run(0, 100)
	if len(s.events) > 0 {
		t.Fatalf("%v", s.events[0])
	}
}

func TestTableIsComplete(t *testing.T) {
	for _, a := range Advisors {
		if a.Name == "" || a.New() == nil {
			t.Errorf("advisor %q cannot be made", a.Name)
		}
	}
	if got := New().Advise(Input{Fleet: &Fleet{}, Now: epoch}); len(got.Overrides)+len(got.Events) != 0 {
		t.Errorf("advice on nothing is %v", got)
	}
}
