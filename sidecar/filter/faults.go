package filter

import (
	"math/rand/v2"
	"regexp"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// faults delays or fails on purpose what the first fault is for whose fields match. What fails is not tried, so that no endpoint is blamed for it.
func (f *Filters) faults(x *exchange.Exchange) bool {
	a := x.Decision.Action
	for i := range a.Faults {
		if fault := &a.Faults[i]; f.matches(x, fault.Headers) {
			return suffer(x, fault)
		}
	}
	return true
}

func suffer(x *exchange.Exchange, f *route.Fault) bool {
	if f.Delay > 0 && drawn(f.DelayPPM) {
		x.Note = "delayed by " + f.Delay.String() + " by a fault of its rule"
		if !hold(x, f.Delay) {
			return false
		}
	}
	grpc := x.Protocol == flow.ProtocolGRPC && f.GRPC != 0
	if !grpc && f.Status == 0 || !drawn(f.AbortPPM) {
		return true
	}
	r := &exchange.Reply{Status: f.Status}
	if grpc {
		r.Status, r.GRPC = 200, f.GRPC
	}
	x.Reply = r
	x.Outcome.Fail(flow.ReasonFaultInjected, "rule "+x.Decision.Route)
	return false
}

// drawn reports whether a request is one of so many in a million.
func drawn(ppm uint32) bool { return ppm > 0 && rand.Uint32N(route.Million) < ppm }

// sleeper is woken by what happens to an exchange.
type sleeper chan struct{}

// Wake implements exchange.Waker.
func (s sleeper) Wake() {
	select {
	case s <- struct{}{}:
	default:
	}
}

// hold waits. False: x has ended meanwhile, by its deadline or because it was aborted or its caller has left; its Outcome says so.
func hold(x *exchange.Exchange, d time.Duration) bool {
	s := make(sleeper, 1)
	if !x.Await(s) {
		x.Outcome.Fail(x.WhyAborted())
		return false
	}
	defer x.Awaited()
	late := false
	if !x.Deadline.IsZero() {
		if left := time.Until(x.Deadline); left < d {
			d, late = left, true
		}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	leaver, _ := x.Downstream.(exchange.Leaver)
	for {
		if leaver != nil {
			if r, detail := leaver.Left(); r != flow.ReasonNone {
				x.Outcome.Fail(r, detail)
				return false
			}
		}
		select {
		case <-s:
			if x.Aborted() != flow.ReasonNone {
				x.Outcome.Fail(x.WhyAborted())
				return false
			}
		case now := <-t.C:
			if late {
				x.Outcome.Fail(x.TimeoutReason(now), "after "+x.Since().Round(time.Millisecond).String()+", "+x.Note)
			}
			return !late
		}
	}
}

// matches reports whether all of values are true of x's fields. A field that stands several times has the values joined, as where routes match.
func (f *Filters) matches(x *exchange.Exchange, values []route.Value) bool {
	if len(values) == 0 {
		return true
	}
	fields, ok := x.Downstream.(exchange.Fields)
	if !ok {
		return false
	}
	for i := range values {
		v := &values[i]
		text, ok := joined(fields, v.Name)
		switch {
		case !ok:
			return false
		case v.Kind == route.ValueExact && text != v.Value:
			return false
		case v.Kind == route.ValueRegex && !f.expressions.match(v.Value, text):
			return false
		}
	}
	return true
}

func joined(fields exchange.Fields, name string) (string, bool) {
	text, ok := fields.Field(name, 0)
	for i := 1; ok; i++ {
		more, also := fields.Field(name, i)
		if !also {
			break
		}
		text += "," + more
	}
	return text, ok
}

// expressions are regular expressions that are compiled when they are met first. Safe for concurrent use.
type expressions struct {
	mu sync.RWMutex
	m  map[string]*regexp.Regexp
}

// maxExpressions is how many are kept: policies come and go.
const maxExpressions = 1024

func (e *expressions) match(expression, text string) bool {
	e.mu.RLock()
	re, ok := e.m[expression]
	e.mu.RUnlock()
	if !ok {
		re, _ = route.Compile(expression) // one that is none, which no Snapshot has, matches nothing
		e.mu.Lock()
		if e.m == nil || len(e.m) >= maxExpressions {
			e.m = map[string]*regexp.Regexp{}
		}
		e.m[expression] = re
		e.mu.Unlock()
	}
	return re != nil && re.MatchString(text)
}
