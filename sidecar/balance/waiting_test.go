package balance

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// An endpoint that hangs gets no second share before the first time-out, and what callers gave up at is not forgotten.
func TestAHangingEndpointIsLeftBeforeAnyTimeoutSaysSo(t *testing.T) {
	for _, tc := range []struct {
		name   string
		result exchange.Result
		after  time.Duration
		most   float64 // of all picks
	}{
		{"callers give up after 1 s", exchange.ResultAbandoned, time.Second, 0.006},
		{"the request timeout of 15 s passes", exchange.ResultFailed, 15 * time.Second, 0.002},
	} {
		set := New(policy.Balancer{}, endpoints(3), new(States), seeded(5))
		w := newWorld(t, set, 3, 6)
		w.answer = healthy
		w.run(30*time.Second, 200)
		w.picked = make([]int, 3)
		w.answer = func(i int, r *rand.Rand) (time.Duration, exchange.Result) {
			if i == 1 {
				return tc.after, tc.result
			}
			return healthy(i, r)
		}
		w.run(400*time.Millisecond, 200)
		if n := w.picked[1]; n > 12 {
			t.Errorf("%s: it got %d requests of the first 80, while nothing had timed out yet", tc.name, n)
		}
		w.run(30*time.Second, 200)
		if s := share(w.picked, 1); s > tc.most {
			t.Errorf("%s: it got %.2f %% in 30 s, want at most %.1f", tc.name, 100*s, 100*tc.most)
		}
		w.answer, w.picked = healthy, make([]int, 3)
		w.run(60*time.Second, 200)
		if s := share(w.picked, 1); s < 0.1 {
			t.Errorf("%s: after it healed it got %.1f %%", tc.name, 100*s)
		}
	}
}

// What is excused says nothing: an answer that streams, a body that the caller sends. Nor does what has waited for so long that it may be meant to.
func TestWhoWaits(t *testing.T) {
	set := New(policy.Balancer{}, endpoints(1), new(States), seeded(5))
	st := set.entries[0].state
	at := start.Add
	list := make([]exchange.Waiting, 3)
	for i := range list {
		st.begin(&list[i], at(time.Duration(i)*time.Second))
	}
	check := func(what string, now, want time.Duration) {
		t.Helper()
		if got := st.waited(at(now).UnixNano()); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("three wait", 4*time.Second, 4*time.Second)
	list[0].Excused.Store(true)
	check("the first is answered", 4*time.Second, 3*time.Second)
	check("the second has waited for long", 11*time.Second+time.Millisecond, 9*time.Second+time.Millisecond)
	for i := range list {
		st.leaveLocked(&list[i])
	}
	check("nobody waits", 12*time.Second, 0)
	if st.oldest.Load() != 0 || st.waiting != (waiting{}) {
		t.Errorf("something is left: %+v", st.waiting)
	}
}

func TestAbandoned(t *testing.T) {
	for _, tc := range []struct {
		name string
		x    exchange.Outcome
		legs func(*flow.Legs)
		want bool
	}{
		{"it had the request", exchange.Outcome{Reason: flow.ReasonDownstreamReset, Delivered: true}, func(l *flow.Legs) { l.Sent = 1 }, true},
		{"it was not connected to", exchange.Outcome{Reason: flow.ReasonDownstreamReset}, func(*flow.Legs) {}, true},
		{"the body was on its way", exchange.Outcome{Reason: flow.ReasonDownstreamReset, Delivered: true}, func(*flow.Legs) {}, false},
		{"the answer had begun", exchange.Outcome{Reason: flow.ReasonDownstreamReset, Delivered: true}, func(l *flow.Legs) { l.Sent, l.FirstByte = 1, 2 }, false},
		{"the sidecar stops", exchange.Outcome{Reason: flow.ReasonDraining, Delivered: true}, func(l *flow.Legs) { l.Sent = 1 }, false},
	} {
		x := exchange.Exchange{Outcome: tc.x, Legs: exchange.NoLegs}
		tc.legs(&x.Legs)
		if got := abandoned(&x); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

// A caller that gives up sooner than an answer usually comes teaches nothing; later, the time so far.
func TestWhatAbandonedTriesTeach(t *testing.T) {
	for _, tc := range []struct{ took, want time.Duration }{{10 * time.Millisecond, seed}, {time.Second, time.Second}} {
		set := New(policy.Balancer{}, endpoints(1), new(States), seeded(5))
		c, _ := set.Pick(start, exchange.Want{})
		c.Load.End(nil, start.Add(tc.took), tc.took, exchange.ResultAbandoned, 0)
		if e := set.Endpoints(start.Add(tc.took))[0]; (e.Average-tc.want).Abs() > time.Millisecond || e.Failing != 0 {
			t.Errorf("given up after %v: average %v, failing %v; want %v and 0", tc.took, e.Average, e.Failing, tc.want)
		}
	}
}

func TestTypical(t *testing.T) {
	var states States
	set := New(policy.Balancer{}, endpoints(3), &states, seeded(5))
	if got := set.Typical(start); got != 0 {
		t.Errorf("%v before anybody has answered", got)
	}
	for i, took := range []time.Duration{20 * time.Millisecond, 40 * time.Millisecond, 5 * time.Second} {
		e := &set.entries[i]
		e.average.Store(0)
		for range enough {
			e.inFlight.Add(1)
			e.end(nil, start, took, exchange.ResultOK, 0, false)
		}
	}
	if got := set.Typical(start.Add(time.Millisecond)); got != 0 {
		t.Errorf("%v: it is worked out twenty times a second", got)
	}
	if got := set.Typical(start.Add(typicalEvery)); (got - 40*time.Millisecond).Abs() > 2*time.Millisecond {
		t.Errorf("%v, want the median of 20 ms, 40 ms and 5 s", got)
	}
	for i := range 2 { // everybody owes an answer
		set.entries[i].begin(&exchange.Waiting{}, start.Add(typicalEvery))
	}
	if got := set.Typical(start.Add(typicalEvery + 2*time.Second)); got != 2*time.Second {
		t.Errorf("everybody is late: %s", got)
	}
	for _, e := range set.entries { // nobody can be connected to: that is another matter
		for w := e.waiting.first; w != nil; w = w.Next {
			w.Connecting.Store(true)
		}
	}
	if got := set.Typical(start.Add(typicalEvery + 4*time.Second)); got > time.Second {
		t.Errorf("nobody can be connected to: %s", got)
	}
	if got := New(policy.Balancer{}, endpoints(1), &states, nil).Typical(start.Add(time.Minute)); got != 0 {
		t.Errorf("%v with a single endpoint", got)
	}
	many := New(policy.Balancer{}, endpoints(1000), new(States), nil)
	if allocs := testing.AllocsPerRun(100, func() { many.states.peers.Load().median(start.UnixNano()) }); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// What a far sidecar sheds makes others more likely, and is no reason to take the endpoint out; "later" is not for all.
func TestWhatShedTriesTeach(t *testing.T) {
	var states States
	set := New(policy.Balancer{}, endpoints(3), &states, seeded(5))
	for i := range 20 {
		now := start.Add(time.Duration(i) * time.Millisecond)
		x := exchange.Exchange{Outcome: exchange.Outcome{Status: 503, Reason: flow.ReasonUpstreamStatus, Told: flow.ReasonShed, RetryAfter: time.Second}, Start: now, Began: now}
		x.Legs = exchange.NoLegs
		x.Destination = &exchange.Destination{Picker: set}
		Step(exchange.HandlerFunc(func(*exchange.Exchange) {})).Handle(&x)
		if x.Outcome.RetryAfter != 0 {
			t.Fatal("it would be waited for")
		}
	}
	failing := 0
	for _, e := range set.Endpoints(start.Add(time.Second)) {
		if !e.Paused.IsZero() || !e.Reflex.At.IsZero() {
			t.Errorf("%+v", e)
		}
		if e.Failing > 0.3 {
			failing++
		}
	}
	if failing == 0 {
		t.Error("nobody is avoided")
	}
}
