package brain

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Settings of the outlier advisor. Zero fields take the default named beside them.
type Settings struct {
	Window             time.Duration // how far back evidence counts; default 5 s
	MinRequests        uint64        // to the endpoint within the evidence, for failures; default 4: balancers already starve a failing endpoint
	MinFailures        uint64        // default 4
	FailureRatio       float64       // default 0.30
	RatioAbovePeers    float64       // the ratio must exceed the peers' median by this; default 0.20
	Z                  float64       // and be that significant (two-proportion z); default 5
	LatencyFactor      float64       // p50 against the peers' median; default 5
	LatencyAbovePeers  time.Duration // and at least this much above it; default 250 ms
	LatencyWindows     int           // slow windows needed, none of the others good; default 2
	LatencyMinRequests uint64        // default 4: balancers already starve a slow endpoint
	MinReporters       int           // distinct authenticated reporters that agree; default 2
	Share              float64       // of a service's endpoints that may be ejected, at least one, never the last; default 0.1
	Base, Max          time.Duration // first term and longest; doubled at each repetition; default 15 s, 300 s
	Forgive            time.Duration // without ejection until repetitions are forgotten; default 5 min
	HalfOpen           float64       // fraction of traffic that stays; default 0.01
	HalfOpenMax        float64       // raised up to this where 1 % would be less than one probe a second; default 0.05
	Probes             int           // consecutive good ones to be readmitted early; default 5, doubled at repetitions up to 4 times
	Stale              time.Duration // evidence older than this decides nothing; default 5 s
	PushDelay          time.Duration // p99 until a decision works; default 1 s
}

func (s Settings) withDefaults() Settings {
	def(&s.Window, 5*time.Second)
	def(&s.MinRequests, 4)
	def(&s.MinFailures, 4)
	def(&s.FailureRatio, 0.30)
	def(&s.RatioAbovePeers, 0.20)
	def(&s.Z, 5)
	def(&s.LatencyFactor, 5)
	def(&s.LatencyAbovePeers, 250*time.Millisecond)
	def(&s.LatencyWindows, 2)
	def(&s.LatencyMinRequests, 4)
	def(&s.MinReporters, 2)
	def(&s.Share, 0.1)
	def(&s.Base, 15*time.Second)
	def(&s.Max, 300*time.Second)
	def(&s.Forgive, 5*time.Minute)
	def(&s.HalfOpen, 0.01)
	def(&s.HalfOpenMax, 0.05)
	def(&s.Probes, 5)
	def(&s.Stale, 5*time.Second)
	def(&s.PushDelay, time.Second)
	return s
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Reasons of the outlier advisor.
const (
	ReasonFailures = "consistent_failures"
	ReasonLatency  = "latency_outlier"
	ReasonProbes   = "probes_succeeded"
	ReasonExpired  = "ejection_over"
	ReasonDisabled = "ejection_disabled"
	ReasonCap      = "too_few_endpoints"
	ReasonAgain    = "still_failing"
	ReasonSaturate = "service_saturated"
)

// Outlier ejects an endpoint that does consistently worse than its peers, and readmits it. In this order, at each step:
//
//  1. A window is believed only as far as its reporters are registered, authenticated, at one end of the edge and without holes. A gap between
//     windows, or evidence older than Stale, decides nothing new; what is in force runs out by itself.
//  2. An ejected endpoint gets half-open traffic (probes). Enough consecutive good probes readmit it; otherwise, at the end of its term, it is
//     ejected for twice as long if the newest probes failed, and readmitted if not. It is readmitted at once when ejection is switched off
//     or its service has shrunk below the cap.
//  3. Any other endpoint is ejected when it fails (or is slow) by the thresholds of Settings, its peers do significantly better, and at least
//     MinReporters agree. When most endpoints are bad it is the service that is saturated: nothing is ejected and that is said once.
//
// What must stay true: never more than max(1, Share) of a service is ejected and never its last endpoint; a service changes at most once per
// Window + PushDelay; evidence from before a readmission never ejects again; every change yields one Event.
//
// Of the windows in reach the last two, three and all are looked at, the shortest that suffices decides: a clear fault is seen after two
// seconds, a partial one is not diluted by the good time before it.
type Outlier struct {
	s        Settings
	windows  []window // contiguous, at most Window long, oldest first
	tracks   map[netip.AddrPort]*track
	services map[string]*serviceTrack
	serial   int
}

// track is the memory of one endpoint.
type track struct {
	service string
	ejected *policy.Override // nil when not ejected
	reason  string
	times   int       // ejections not forgiven
	ended   time.Time // of the last ejection; evidence from before does not count
	good    int       // consecutive good probes
	failed  time.Time // end of the last window with a failed probe
	probed  time.Time // end of the last window with any probe
	limit   float64   // seconds of p50 below which a probe of a slow endpoint counts as good
}

type serviceTrack struct {
	changed   time.Time
	saturated bool
}

// NewOutlier makes an advisor without memory.
func NewOutlier(s Settings) *Outlier {
	return &Outlier{s: s.withDefaults(), tracks: map[netip.AddrPort]*track{}, services: map[string]*serviceTrack{}}
}

// Advise implements Advisor.
func (o *Outlier) Advise(in Input) Advice {
	var out Advice
	news := o.take(in)
	fresh := len(o.windows) > 0 && in.Now.Sub(o.newest()).Abs() <= o.s.Stale
	for addr, t := range o.tracks {
		if _, ok := in.Fleet.Services[t.service].Endpoints[addr]; !ok {
			delete(o.tracks, addr)
		}
	}
	for _, addr := range sortedAddrs(o.tracks) {
		t := o.tracks[addr]
		if t.ejected == nil {
			if t.times > 0 && in.Now.Sub(t.ended) >= o.s.Forgive {
				t.times = 0
			}
			continue
		}
		if news {
			o.countProbes(addr, t)
		}
		if e := o.review(in, addr, t, fresh); e != nil {
			out.Events = append(out.Events, e)
		}
	}
	if fresh && news {
		for _, name := range slices.Sorted(maps.Keys(in.Fleet.Services)) {
			if e := o.judge(in, name); e != nil {
				out.Events = append(out.Events, e)
			}
		}
	}
	for addr, t := range o.tracks {
		if t.ejected.InForce(in.Now) {
			out.Overrides = append(out.Overrides, Override{Service: policy.ServiceOf(t.service), Endpoint: addr, Override: *t.ejected})
		}
	}
	sortOverrides(out.Overrides)
	return out
}

func (o *Outlier) newest() time.Time { return o.windows[len(o.windows)-1].end }

// take adds the window, if it is a new one, and forgets what is out of reach. After a gap everything before it is out of reach.
func (o *Outlier) take(in Input) bool {
	if in.Window == nil {
		return false
	}
	w := believe(in.Window, in.Fleet)
	if n := len(o.windows); n > 0 {
		gap := w.start.Sub(o.newest())
		if gap < -100*time.Millisecond {
			if w.end.Sub(o.newest()) > -time.Minute {
				return false // sent again
			}
			gap = time.Hour // the observer's clock was set back: begin anew
		}
		if gap > 100*time.Millisecond {
			o.windows = nil
		}
	}
	o.windows = append(o.windows, w)
	for w.end.Sub(o.windows[0].start) > o.s.Window+100*time.Millisecond {
		o.windows = o.windows[1:]
	}
	return true
}

func (o *Outlier) service(name string) *serviceTrack {
	if o.services[name] == nil {
		o.services[name] = &serviceTrack{}
	}
	return o.services[name]
}

// mayChange holds a service to one change per Window + PushDelay.
func (o *Outlier) mayChange(service string, now time.Time) bool {
	return now.Sub(o.service(service).changed) >= o.s.Window+o.s.PushDelay
}

// countProbes takes the newest window's half-open traffic into account. An endpoint that was ejected for slowness must be fast to be good; a
// window that does not tell its latency is neither good nor bad.
func (o *Outlier) countProbes(addr netip.AddrPort, t *track) {
	w := o.windows[len(o.windows)-1]
	if w.start.Before(t.ejected.Issued) {
		return
	}
	var probes, failures uint64
	var latencies []weighted
	for _, c := range w.cells[addr] {
		if c.GetServerSide() {
			continue
		}
		probes += c.GetProbes()
		failures += c.GetProbeFailures()
		if c.GetProbes() > 0 && c.GetLatencyP50Seconds() > 0 {
			latencies = append(latencies, weighted{c.GetLatencyP50Seconds(), float64(c.GetProbes())})
		}
	}
	if probes == 0 {
		return
	}
	slow := false
	if t.reason == ReasonLatency {
		if len(latencies) == 0 && failures == 0 {
			return
		}
		slow = weightedMedian(latencies) > t.limit
	}
	t.probed = w.end
	if failures > 0 || slow {
		t.failed, t.good = w.end, 0
		return
	}
	t.good += int(probes)
}

// probation is how long after the last failed probe the plain number of good ones is enough, however often the endpoint was ejected: where
// probes are rare, an endpoint that healed must not wait for many.
const probation = time.Minute

// neededProbes grows with repetitions, so that a flapping endpoint does not come back after five lucky ones.
func (o *Outlier) neededProbes(t *track) int {
	return o.s.Probes << min(max(t.times-1, 0), 2)
}

// recent is how far back probes speak for the present where there are better ones since.
const recent = 3 * time.Second

// stillFails judges by the newest probes only: one of the last seconds failed, or, where probes are rare, the last one there was. An endpoint that
// healed before that is not held to what it did.
func (o *Outlier) stillFails(t *track, now time.Time) bool {
	ago := now.Sub(t.failed)
	if t.good > 0 {
		return ago <= recent && t.good < o.neededProbes(t)
	}
	return ago <= max(o.s.Window, t.ejected.Expires.Sub(t.ejected.Issued)/2)
}

// lift says why an ejection may no longer be, "" when it may: ejection was switched off for the service, or the service has shrunk so far that this
// one is over the cap or the last endpoint.
func (o *Outlier) lift(fleet *Fleet, t *track) (reason, why string) {
	svc := fleet.Services[t.service]
	ejected := 0
	for addr := range svc.Endpoints {
		if other := o.tracks[addr]; other != nil && other.ejected != nil {
			ejected++
		}
	}
	switch {
	case !svc.Eject:
		return ReasonDisabled, "ejection was switched off for " + t.service
	case ejected > o.limit(svc) || ejected >= len(svc.Endpoints):
		return ReasonCap, fmt.Sprintf("%s has only %d endpoints now, too few to keep %d ejected", t.service, len(svc.Endpoints), ejected)
	}
	return "", ""
}

// limit is how many endpoints of a service may be ejected.
func (o *Outlier) limit(svc Service) int { return max(1, int(float64(len(svc.Endpoints))*o.s.Share)) }

// review decides about an ejected endpoint.
func (o *Outlier) review(in Input, addr netip.AddrPort, t *track, fresh bool) *tullev1.Event {
	now, name := in.Now, endpointName(in.Fleet, t.service, addr)
	end := func(reason, message string) *tullev1.Event {
		e := o.event(in, "endpoint.readmitted", "info", t.service, addr, reason, t.ejected.ID)
		e.Message = message
		e.Evidence = map[string]string{
			"good probes in a row": strconv.Itoa(t.good), "ejected for": now.Sub(t.ejected.Issued).Round(time.Second).String(),
		}
		t.ejected, t.ended, t.good = nil, now, 0
		o.service(t.service).changed = now
		return e
	}
	if reason, why := o.lift(in.Fleet, t); reason != "" {
		return end(reason, fmt.Sprintf("%s is readmitted: %s.", name, why))
	}
	switch {
	case !now.Before(t.ejected.Expires):
		why := "its last probes succeeded"
		if t.good == 0 {
			why = "there was no evidence that it still fails"
		}
		return end(ReasonExpired, fmt.Sprintf("%s is readmitted: its ejection is over and %s.", name, why))
	case fresh && o.mayChange(t.service, now) &&
		(t.good >= o.neededProbes(t) || t.good >= o.s.Probes && now.Sub(t.failed) >= probation):
		return end(ReasonProbes, fmt.Sprintf("%s is readmitted: its last %d probes succeeded.", name, t.good))
	case fresh && t.ejected.Expires.Sub(now) <= 2*o.s.PushDelay && o.stillFails(t, now):
		t.times++
		old := *t.ejected
		renewed := old // a new value: who holds the old one keeps it
		renewed.Expires = now.Add(o.term(t.times))
		t.ejected = &renewed
		e := o.event(in, "endpoint.ejected", "warning", t.service, addr, ReasonAgain, renewed.ID)
		e.Message = fmt.Sprintf("%s stays ejected for %s more: its probes still fail.", name, o.term(t.times))
		e.Evidence = map[string]string{"ejected in a row": strconv.Itoa(t.times), "last failed probe": now.Sub(t.failed).Round(time.Second).String() + " ago"}
		e.ExpiresUnixNano = renewed.Expires.UnixNano()
		return e
	}
	return nil
}

func (o *Outlier) term(times int) time.Duration {
	return min(o.s.Base<<min(max(times-1, 0), 10), o.s.Max)
}

// candidate is an endpoint that could be ejected, with the figures that say so.
type candidate struct {
	addr     netip.AddrPort
	reason   string
	score    float64 // larger is worse
	message  string
	evidence map[string]string
	traces   []string
	limit    float64
}

// judge decides about the endpoints of one service that are not ejected.
func (o *Outlier) judge(in Input, name string) *tullev1.Event {
	svc := in.Fleet.Services[name]
	if !svc.Eject || len(svc.Endpoints) < 2 {
		return nil
	}
	var open []netip.AddrPort
	ejected := 0
	for addr := range svc.Endpoints {
		if t := o.tracks[addr]; t != nil && t.ejected != nil {
			ejected++
			continue
		}
		open = append(open, addr)
	}
	slices.SortFunc(open, netip.AddrPort.Compare)
	st := o.service(name)
	worst, saturated := o.failing(in, name, open)
	if saturated != "" {
		if st.saturated {
			return nil
		}
		st.saturated = true
		e := o.event(in, "service.saturated", "warning", name, netip.AddrPort{}, ReasonSaturate, "")
		e.Message = saturated
		return e
	}
	st.saturated = false
	if worst == nil {
		worst = o.slow(in, name, open)
	}
	if worst == nil || !o.mayChange(name, in.Now) {
		return nil
	}
	if ejected >= o.limit(svc) || len(open) < 2 {
		return nil
	}
	return o.eject(in, name, worst)
}

func (o *Outlier) eject(in Input, name string, c *candidate) *tullev1.Event {
	t := o.tracks[c.addr]
	if t == nil {
		t = &track{}
		o.tracks[c.addr] = t
	}
	*t = track{service: name, reason: c.reason, times: t.times + 1, limit: c.limit}
	o.serial++
	fraction := o.halfOpen(name, in.Fleet)
	t.ejected = &policy.Override{
		ID:   fmt.Sprintf("eject-%s-%d", strconv.FormatInt(in.Now.UnixMilli(), 36), o.serial),
		Kind: policy.OverrideEject, Fraction: fraction, Reason: c.reason, Issued: in.Now, Expires: in.Now.Add(o.term(t.times)),
	}
	o.service(name).changed = in.Now
	e := o.event(in, "endpoint.ejected", "warning", name, c.addr, c.reason, t.ejected.ID)
	e.Message = fmt.Sprintf("%s is ejected for %s: %s. %s of its traffic stays as probes.",
		endpointName(in.Fleet, name, c.addr), o.term(t.times), c.message, percent(fraction))
	e.Evidence, e.Traces, e.ExpiresUnixNano = c.evidence, c.traces, t.ejected.Expires.UnixNano()
	e.Evidence["ejected in a row"] = strconv.Itoa(t.times)
	return e
}

// halfOpen is the fraction of its share of traffic that an ejected endpoint keeps: HalfOpen, or as much as makes about one probe a second, up
// to HalfOpenMax.
func (o *Outlier) halfOpen(name string, fleet *Fleet) float64 {
	var requests uint64
	endpoints := fleet.Services[name].Endpoints
	for addr := range endpoints {
		requests += sum(o.windows, addr, time.Time{}, 1).requests
	}
	seconds := o.newest().Sub(o.windows[0].start).Seconds()
	share := float64(requests) / seconds / float64(len(endpoints))
	if share <= 0 {
		return o.s.HalfOpenMax
	}
	return math.Round(1000*min(max(1/share, o.s.HalfOpen), o.s.HalfOpenMax)) / 1000
}

// since is from when evidence about addr counts.
func (o *Outlier) since(addr netip.AddrPort) time.Time {
	if t := o.tracks[addr]; t != nil && !t.ended.IsZero() {
		return t.ended
	}
	return time.Time{}
}

// failing looks for the endpoint that fails worst; saturated is a sentence when most of them fail.
func (o *Outlier) failing(in Input, name string, open []netip.AddrPort) (worst *candidate, saturated string) {
	for _, n := range []int{2, 3, len(o.windows)} {
		if n > len(o.windows) || n < 2 {
			continue
		}
		windows := o.windows[len(o.windows)-n:]
		totals := map[netip.AddrPort]*total{}
		busy, bad := 0, 0
		for _, addr := range open {
			t := sum(windows, addr, o.since(addr), o.s.FailureRatio)
			totals[addr] = t
			if t.requests >= o.s.MinFailures {
				busy++
				if t.ratio() >= o.s.FailureRatio && t.failures >= o.s.MinFailures {
					bad++
				}
			}
		}
		if bad >= 2 && 2*bad > busy {
			return nil, fmt.Sprintf("%d of %d busy endpoints of %s fail at least %s of their requests: the service is saturated or its dependency is down, so nothing is ejected.",
				bad, busy, name, percent(o.s.FailureRatio))
		}
		for _, addr := range open {
			c := o.failingOne(in, name, addr, totals, windows)
			if c != nil && (worst == nil || c.score > worst.score) {
				worst = c
			}
		}
		if worst != nil {
			return worst, ""
		}
	}
	return nil, ""
}

func (o *Outlier) failingOne(in Input, name string, addr netip.AddrPort, totals map[netip.AddrPort]*total, windows []window) *candidate {
	t := totals[addr]
	if t.requests < o.s.MinRequests || t.failures < o.s.MinFailures || t.ratio() < o.s.FailureRatio || t.bad < 2 {
		return nil
	}
	var ratios []float64
	var peers uint64
	for other, p := range totals {
		if other != addr && p.requests >= o.s.MinFailures {
			ratios = append(ratios, p.ratio())
			peers += p.requests
		}
	}
	if len(ratios) == 0 {
		return nil // nobody to compare with
	}
	usual := median(ratios)
	z := zTest(t.ratio(), float64(t.requests), usual, float64(peers))
	if t.ratio()-usual < o.s.RatioAbovePeers || z < o.s.Z {
		return nil
	}
	agree := o.agree(t, func(v *view) (votes, yes bool) {
		return v.requests >= 5, v.failures >= 2 && float64(v.failures) >= o.s.FailureRatio*2/3*float64(v.requests)
	})
	if agree == nil {
		return nil
	}
	span := windows[len(windows)-1].end.Sub(windows[0].start).Round(time.Second)
	mostly := ""
	if r := t.mainReason(); r != "" {
		mostly = " (mostly " + r + ")"
	}
	return &candidate{
		addr: addr, reason: ReasonFailures, score: z,
		message: fmt.Sprintf("%s of its %d requests failed in %s%s, its peers fail %s; seen by %s",
			percent(t.ratio()), t.requests, span, mostly, percent(usual), strings.Join(agree, ", ")),
		evidence: map[string]string{
			"requests": strconv.FormatUint(t.requests, 10), "failures": strconv.FormatUint(t.failures, 10),
			"failure ratio": percent(t.ratio()), "failure ratio of peers": percent(usual), "significance z": strconv.FormatFloat(z, 'f', 1, 64),
			"window": span.String(), "reporters": strings.Join(agree, ", "), "main reason": t.mainReason(),
		},
		traces: t.traces,
	}
}

// slow looks for the slowest endpoint.
func (o *Outlier) slow(in Input, name string, open []netip.AddrPort) *candidate {
	var worst *candidate
	for _, addr := range open {
		if c := o.slowOne(in, name, addr, open); c != nil && (worst == nil || c.score > worst.score) {
			worst = c
		}
	}
	return worst
}

func (o *Outlier) slowOne(in Input, name string, addr netip.AddrPort, open []netip.AddrPort) *candidate {
	since := o.since(addr)
	slow, requests := 0, uint64(0)
	var own, usual []float64
	for _, w := range o.windows {
		p50, n, ok := w.p50(addr)
		if !ok || w.start.Before(since) {
			continue
		}
		var peers []float64
		for _, other := range open {
			if p, _, ok := w.p50(other); ok && other != addr {
				peers = append(peers, p)
			}
		}
		if len(peers) == 0 {
			continue
		}
		peer := median(peers)
		if p50 < o.slowLimit(peer) {
			// Good again, or a fault that has only begun: only what comes after counts.
			slow, requests, own, usual = 0, 0, nil, nil
			continue
		}
		slow++
		requests += n
		own, usual = append(own, p50), append(usual, peer)
	}
	if slow < o.s.LatencyWindows || requests < o.s.LatencyMinRequests {
		return nil
	}
	p50, peer := median(own), median(usual)
	limit := o.slowLimit(peer)
	agree := o.agree(sum(o.windows[len(o.windows)-min(slow, len(o.windows)):], addr, since, 1), func(v *view) (votes, yes bool) {
		return v.requests >= 1 && len(v.latencies) > 0, weightedMedian(v.latencies) >= limit
	})
	if agree == nil {
		return nil
	}
	t := sum(o.windows, addr, since, 1)
	return &candidate{
		addr: addr, reason: ReasonLatency, score: p50 / peer, limit: (limit + peer) / 2,
		message: fmt.Sprintf("half of its %d requests took longer than %s for %d s, those of its peers %s; seen by %s",
			requests, seconds(p50), slow, seconds(peer), strings.Join(agree, ", ")),
		evidence: map[string]string{
			"requests": strconv.FormatUint(requests, 10), "p50": seconds(p50), "p50 of peers": seconds(peer), "limit": seconds(limit),
			"window": fmt.Sprintf("%d s", slow), "reporters": strings.Join(agree, ", "),
		},
		traces: t.traces,
	}
}

func (o *Outlier) slowLimit(peer float64) float64 {
	return max(o.s.LatencyFactor*peer, peer+o.s.LatencyAbovePeers.Seconds())
}

// agree lists the reporters that say yes, sorted; nil unless they are at least MinReporters and at least half of those with enough to vote on.
func (o *Outlier) agree(t *total, vote func(*view) (votes, yes bool)) []string {
	var yes []string
	voters := 0
	for reporter, v := range t.views {
		votes, y := vote(v)
		if !votes {
			continue
		}
		voters++
		if y {
			yes = append(yes, reporter)
		}
	}
	if len(yes) < o.s.MinReporters || 2*len(yes) < voters {
		return nil
	}
	slices.Sort(yes)
	return yes
}

func (o *Outlier) event(in Input, kind, severity, service string, addr netip.AddrPort, reason, override string) *tullev1.Event {
	e := &tullev1.Event{
		TimeUnixNano: in.Now.UnixNano(), Kind: kind, Severity: severity, Service: policy.ServiceOf(service), Reason: reason,
		Revision: in.Fleet.Revision, OverrideId: override,
	}
	if addr.IsValid() {
		e.Endpoint, e.Instance = addr.String(), in.Fleet.Services[service].Endpoints[addr]
	}
	return e
}

// endpointName is "catalog-2 of catalog (127.0.0.1:2012)".
func endpointName(f *Fleet, service string, addr netip.AddrPort) string {
	if instance := f.Services[service].Endpoints[addr]; instance != "" {
		return fmt.Sprintf("%s of %s (%s)", instance, service, addr)
	}
	return fmt.Sprintf("%s of %s", addr, service)
}

func percent(v float64) string { return strconv.FormatFloat(100*v, 'g', 3, 64) + " %" }

func seconds(v float64) string {
	return time.Duration(v * float64(time.Second)).Round(100 * time.Microsecond).String()
}

func sortedAddrs(m map[netip.AddrPort]*track) []netip.AddrPort {
	return slices.SortedFunc(maps.Keys(m), netip.AddrPort.Compare)
}
