package why

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

// name is a service for people.
func name(service string) string { return cmp.Or(service, "a caller outside the mesh") }

// took is a duration with three figures.
func took(d time.Duration) string {
	for _, unit := range []time.Duration{time.Minute, time.Second, time.Millisecond, time.Microsecond} {
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}

// answer is what came back, in a word or two.
func answer(h *Hop) string {
	switch {
	case h.GRPC != "":
		return h.GRPC
	case h.Status != 0:
		return fmt.Sprint(h.Status)
	case h.Kind == flow.KindConnection.String():
		return "a connection"
	}
	return "no answer"
}

// where is the endpoint of the last try.
func where(h *Hop) string {
	switch {
	case h.Endpoint == "" && h.Instance == "":
		return ""
	case h.Instance == "":
		return " at " + h.Endpoint
	case h.Endpoint == "":
		return " at " + h.Instance
	}
	return " at " + h.Endpoint + " (" + h.Instance + ")"
}

// means is what a reason stands for, as a sentence goes on.
func means(reason string) string {
	r, _ := flow.ParseReason(reason)
	m, _, _ := strings.Cut(r.Means(), " (")
	m, _, _ = strings.Cut(m, ", or `")
	return m
}

// decider is h.By in words: who decided, or whose doing it was.
func (h *Hop) decider() string {
	switch h.By {
	case ByApplication:
		return "caused by the application " + name(h.To)
	case ByCalledSidecar:
		return "decided by the sidecar of " + name(h.To) + ", in its place"
	case ByCallerSidecar:
		return "decided by the sidecar of " + name(h.From) + ", in the place of " + name(h.To)
	case ByCaller:
		return "caused by " + name(h.From) + ", which called"
	case ByController:
		return "decided by the controller"
	case ByUnknown:
		return "decided by nobody who has reported"
	}
	return ""
}

func says(h *Hop, x *exchange) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s called %s%s: ", name(h.From), name(h.To), where(h))
	if h.Kind == flow.KindConnection.String() {
		b.Reset()
		fmt.Fprintf(&b, "%s connected to %s%s: ", name(h.From), name(h.To), where(h))
	}
	switch {
	case h.Reason == "" && h.By == "", x.saved():
		fmt.Fprintf(&b, "%s after %s", answer(h), took(h.Duration))
	case h.Reason == "", h.Reason == flow.ReasonUpstreamStatus.String():
		fmt.Fprintf(&b, "the application answered %s after %s", answer(h), took(h.Duration))
	default:
		fmt.Fprintf(&b, "%s after %s, %s: %s", answer(h), took(h.Duration), h.decider(), means(h.Reason))
	}
	if n := len(h.Tries); n > 1 {
		var reasons []string
		for _, t := range h.Tries[:n-1] {
			if w := cmp.Or(t.Reason, statusWord(t.Status)); !slices.Contains(reasons, w) {
				reasons = append(reasons, w)
			}
		}
		fmt.Fprintf(&b, "; %d tries, the earlier ones ended with %s and cost %s", n, strings.Join(reasons, ", "), took(h.Cost))
	}
	if x.server == nil && x.client != nil && x.client.Destination.Identity != "" {
		b.WriteString("; the other side has reported nothing of it")
	}
	return b.String()
}

func statusWord(status int) string {
	if status == 0 {
		return "no answer"
	}
	return fmt.Sprint(status)
}

// saved reports whether a later try has made up for an earlier one.
func (x *exchange) saved() bool {
	n := x.near()
	return len(x.tries) > 1 && !n.Failed() && n.Reason == flow.ReasonNone
}

// DecidedBy says who decided what became of hop i, in words.
func (e *Explanation) DecidedBy(i int) string { return e.Hops[i].decider() }

func summary(e *Explanation, v verdict) string {
	if len(e.Hops) == 0 {
		return "nothing is known of it"
	}
	first := &e.Hops[0]
	asked := fmt.Sprintf("%s from %s to %s", first.Request, name(first.From), name(first.To))
	if e.Culprit < 0 {
		return fmt.Sprintf("%s went well: %s after %s.", asked, answer(first), took(first.Duration))
	}
	c := &e.Hops[e.Culprit]
	because := fmt.Sprintf("the application %s answered %s", name(c.To), answer(c))
	if e.Reason != "" && e.Reason != flow.ReasonUpstreamStatus.String() {
		because = means(e.Reason) + ", " + c.decider()
	}
	if r := v.record; r != nil && r.Kind == flow.KindAttempt {
		because = fmt.Sprintf("try %d", r.Attempt)
		if r.Endpoint.IsValid() {
			because += " at " + r.Endpoint.String()
		}
		because += " ended with " + e.Reason + ", and the next was better"
	}
	hop := fmt.Sprintf("%s → %s", name(c.From), name(c.To))
	switch e.Outcome {
	case Recovered:
		return fmt.Sprintf("%s went well in the end (%s after %s), but on the way, at %s, %s.", asked, answer(first), took(first.Duration), hop, because)
	case CallerLeft:
		return fmt.Sprintf("%s was given up by its caller after %s, while it waited at %s.", asked, took(first.Duration), hop)
	case Refused:
		return fmt.Sprintf("%s was turned away with %s, at %s: %s.", asked, answer(first), hop, because)
	}
	return fmt.Sprintf("%s failed with %s after %s, at %s: %s.", asked, answer(first), took(first.Duration), hop, because)
}

// advice is what to do about a reason, the most useful first. {to}, {from} are the services of the hop, {endpoint} its endpoint.
var advice = map[flow.Reason][]string{
	flow.ReasonConnectRefused:   {"Check that {to} runs and listens at {endpoint}; nothing accepts connections there.", "tulle events --service {to}"},
	flow.ReasonConnectTimeout:   {"Check the host of {endpoint} and the network to it: it does not answer at all.", "tulle doctor"},
	flow.ReasonConnectFailed:    {"Check the network and the address {endpoint}.", "tulle doctor"},
	flow.ReasonTLSFailed:        {"Compare the certificates of both ends: trust domain, validity, and for hosts outside spec.tls of the ExternalService.", "tulle doctor"},
	flow.ReasonIdentityMismatch: {"Find out which workload runs at {endpoint}: it proved another identity than {to} may have.", "tulle explain service/{to}"},
	flow.ReasonUpstreamReset:    {"Look at the log of {to} for a crash or a restart at that time.", "tulle events --service {to}"},
	flow.ReasonUpstreamProtocol: {"Check the protocol of the port of {to}, and the framing of its answers.", "tulle explain service/{to}"},
	flow.ReasonRequestTimeout:   {"Find out what {to} was doing: it had the time. Raise the request timeout only if that is what it needs.", "tulle explain service/{to}"},
	flow.ReasonTryTimeout:       {"Find out what {to} was doing: it had the time. Raise the try timeout only if that is what it needs.", "tulle explain service/{to}"},
	flow.ReasonIdleTimeout:      {"Let whoever is silent send something more often, or raise the idle timeout.", "tulle explain service/{to}"},
	flow.ReasonStreamTimeout:    {"Let {from} begin the stream anew, or raise how long streams to {to} may live.", "tulle explain service/{to}"},
	flow.ReasonDownstreamReset:  {"Look at the timeout of {from}, and at what {to} needed the time for."},
	flow.ReasonBadRequest:       {"Mend what {from} sends: it is no valid request, or its body did not come in time."},
	flow.ReasonNoEndpoint:       {"Start an instance of {to}, or check that its endpoints are registered.", "tulle explain service/{to}"},
	flow.ReasonNoHealthy:        {"See why the endpoints of {to} were taken out.", "tulle events --service {to}"},
	flow.ReasonNoRoute:          {"Ask which rule is for such a request.", "tulle test route --host {to}"},
	flow.ReasonNoBackend:        {"Look at the status of the route: its rule has no valid backend.", "tulle lint"},
	flow.ReasonUnknownDest:      {"Check the name of the destination in the configuration.", "tulle lint"},
	flow.ReasonShed:             {"Send less to {to} at a time, add instances, or raise the limit that the detail names.", "tulle explain service/{to}"},
	flow.ReasonDraining:         {"Nothing, if it was a restart. Otherwise find out why the sidecar stopped.", "tulle events --service {to}"},
	flow.ReasonDenied:           {"Ask whoever owns {to} to allow {from}, or find the policy that denies it.", "tulle test access --host {to}"},
	flow.ReasonPlaintextRefused: {"Let {from} call {to} through a sidecar, or set the port's mode to permissive."},
	flow.ReasonProxyHeader:      {"Let the load balancer before {to} send the PROXY protocol, or take it off its list of sources."},
	flow.ReasonUpstreamStatus:   {"Look at the log of {to} at that time.", "tulle requests 'dst={to} and failed'"},
	flow.ReasonRateLimited:      {"Let {from} wait before it sends more, or raise the rate limit.", "tulle explain service/{to}"},
	flow.ReasonFaultInjected:    {"Take the fault out of the rule when the experiment is over.", "tulle explain service/{to}"},
	flow.ReasonLimiterFailed:    {"Look at the rate limit service, or let requests pass when it does not answer (failOpen)."},
	flow.ReasonReporterLost:     {"Find out why the sidecar vanished.", "tulle events --service {to}"},
}

func next(e *Explanation, v verdict) []string {
	if e.Culprit < 0 {
		return nil
	}
	c := &e.Hops[e.Culprit]
	list := advice[v.reason]
	if v.reason == flow.ReasonNone {
		list = []string{"Look at the request: {to} has answered it so by itself."}
		if c.Status >= 500 {
			list = advice[flow.ReasonUpstreamStatus]
		}
	}
	if v.by == ByCalledSidecar && (v.reason == flow.ReasonConnectRefused || v.reason == flow.ReasonConnectFailed || v.reason == flow.ReasonConnectTimeout) {
		list = append([]string{"Start the application {to}: its sidecar runs, and the application takes no connections."}, list[1:]...)
	}
	r := strings.NewReplacer("{to}", name(c.To), "{from}", name(c.From), "{endpoint}", cmp.Or(c.Endpoint, "its endpoint"))
	var out []string
	for _, a := range list {
		out = append(out, r.Replace(a))
	}
	return out
}

// longest names the service that had most of the time to itself: the time of its call that no call of its own covers.
func longest(at *exchange) string {
	total := at.near().Duration
	var who *exchange
	var most time.Duration
	var walk func(x *exchange)
	walk = func(x *exchange) {
		if own := alone(x); own > most {
			who, most = x, own
		}
		for _, c := range x.calls {
			walk(c)
		}
	}
	walk(at)
	if who == nil || total < time.Millisecond || most*2 < total {
		return ""
	}
	if _, ok := who.near().Split(); !ok && len(at.calls) == 0 {
		return "" // where else
	}
	text := fmt.Sprintf("%s of %s went by in %s → %s", took(most), took(total), name(who.from()), name(who.to()))
	if who.client != nil {
		if s, ok := who.client.Split(); ok {
			parts := s.Parts()
			p := slices.MaxFunc(parts[:], func(a, b flow.Part) int { return cmp.Compare(a.Took, b.Took) })
			text += fmt.Sprintf(", most of it in %s (%s)", p.Name, took(p.Took))
		}
	}
	return text
}

// alone is how much of x's time no call made because of it covers.
func alone(x *exchange) time.Duration {
	left, at := x.near().Duration, x.near().Start
	for _, c := range x.calls { // by start
		from, to := c.near().Start, c.near().end()
		if from.Before(at) {
			from = at
		}
		if to.After(x.end) {
			to = x.end
		}
		if to.After(from) {
			left -= to.Sub(from)
			at = to
		}
	}
	return max(left, 0)
}

// health is what was known of the endpoint when it was tried: the last that happened to it, and what all its callers had counted.
func health(in Input, h *Hop) *Health {
	if h.Endpoint == "" || h.Sides == "server" {
		return nil
	}
	out := &Health{State: "unknown"}
	found := false
	if in.Graph != nil {
		for i := range in.Graph.Nodes {
			if n := &in.Graph.Nodes[i]; n.ID == h.To {
				for _, e := range n.Endpoints {
					if e.Address == h.Endpoint {
						out.State, out.Rate, out.Errors, out.P99, found = cmp.Or(e.State, "healthy"), e.Rate, e.Errors, e.P99, true
						if h.Instance == "" {
							h.Instance = e.Instance
						}
					}
				}
			}
		}
	}
	end := h.Start.Add(h.Duration)
	var last *event.Event
	for i := range in.Events {
		e := &in.Events[i]
		about := e.Endpoint == h.Endpoint || e.Instance != "" && e.Instance == h.Instance
		if about && !e.Time.After(end) && (e.Kind == event.KindEjected || e.Kind == event.KindReadmitted || e.Kind == event.KindWeight) && (last == nil || e.Time.After(last.Time)) {
			last = e
		}
	}
	if last != nil {
		since := last.Time
		out.Since, out.Event = &since, last.ID
		switch last.Kind {
		case event.KindEjected:
			out.State = "ejected"
		case event.KindWeight:
			out.State = "weighted"
		default:
			out.State = "healthy"
		}
	}
	if !found && last == nil {
		return nil
	}
	var b strings.Builder
	b.WriteString(out.State)
	if last != nil {
		fmt.Fprintf(&b, " for %s (%s)", took(max(end.Sub(last.Time), 0)), last.Message)
	}
	if found && out.Rate > 0 {
		fmt.Fprintf(&b, "; its callers saw %.1f tries/s, %.1f%% failed, p99 %s", out.Rate, 100*out.Errors, took(time.Duration(out.P99*1e9)))
	}
	out.Says = b.String()
	return out
}

// missing lists who should have reported and has not.
func missing(at *exchange, g *graph.Snapshot) (out []string) {
	var walk func(x *exchange)
	walk = func(x *exchange) {
		if x.client != nil && x.server == nil && x.client.Kind == flow.KindExchange {
			text := ""
			switch l := x.last(); {
			case l.Destination.Identity != "" && (l.Kind != flow.KindAttempt || l.Delivered):
				text = fmt.Sprintf("the sidecar of %s has not reported the call from %s", name(x.to()), name(x.from()))
			case l.Destination.Identity == "" && x.client.Status != 0 && (x.client.Reason == flow.ReasonNone || x.client.Reason == flow.ReasonUpstreamStatus):
				text = fmt.Sprintf("the call from %s to %s was in plaintext: nobody has proved who answered", name(x.from()), name(x.to()))
			}
			if text != "" && !slices.Contains(out, text) {
				out = append(out, text)
			}
		}
		for _, c := range x.calls {
			walk(c)
		}
	}
	walk(at)
	if g != nil {
		for _, e := range g.Edges {
			if e.State == graph.ReporterMissing && e.Source == at.from() && e.Destination == at.to() {
				out = append(out, fmt.Sprintf("reporters of %s → %s were missing at that time: %s", name(e.Source), name(e.Destination), strings.Join(e.Missing, ", ")))
			}
		}
	}
	return out
}
