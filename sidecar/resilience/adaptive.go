package resilience

import (
	"math"
	"math/bits"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Adapt sheds what the own application could only answer too late: see Adaptive. It stands inside Deadline, on the side that is called.
func Adapt(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		a := x.Destination.Admission
		if a == nil || x.Kind != flow.KindExchange {
			next.Handle(x)
			return
		}
		if ok, why := a.Enter(x); !ok {
			x.Outcome.Unprocessed = true
			x.Answer = append(x.Answer, retryLater)
			x.Outcome.Fail(flow.ReasonShed, why)
			return
		}
		next.Handle(x)
		a.Leave(x)
	})
}

// Adaptive is a limit on what an application works on at a time, which is there only while more comes than the application can do, and which finds its height by itself. The zero value
// limits nothing until it is Set, and is then ready. Safe for concurrent use.
//
// What it looks at is how long the application lets requests wait for the first byte of an answer, in windows of at least 100 ms and four answers: the lower quartile ("quick"), so that
// neither slow routes nor long polls beside quick ones look like a queue. What has had its first byte, streams and WebSockets too, is no load any more. In order:
//
//  1. While quick is at most the tolerated latency (Latency, or Factor × the usual if that is longer) nothing is limited. The usual follows what is quicker at once, and what is slower
//     within a minute; what is above that for ten seconds without a queue is slow by nature, and usual from then on.
//  2. A queue is: quick is above that, and 200 ms later (at once, if what is in flight takes five times as long) it has grown by a quarter, and so has the number of requests in flight,
//     while more came than was answered. A service that is slow by nature, or has become slower, has as many requests in flight as that takes, and then no more: it has no queue; nor
//     have clients that begin together and wait for each other. Only now is anything shed.
//  3. The limit is answers per second × tolerated latency (Little's law), at least MinRequests, and is reached by halves, each step as long as an answer takes now, so that what is
//     in flight is still answered. It rises by 25 % a step, to where the answers that there are now lead.
//  4. Where a queue gets shorter its requests wait for less. If they do not in two steps, it was none: the limit is lifted, and what they take is what is usual from now on.
//  5. A second without anything shed lifts the limit. A second without an answer while something is shed raises it by half: a limit that is held by what never ends helps nobody.
//
// The hot path is an addition and a comparison when a request begins and two additions when its answer does; whoever ends a window judges it.
type Adaptive struct {
	owed    atomic.Int64             // requests that have no first byte of an answer
	limit   atomic.Int64             // of owed; 0: none
	due     atomic.Int64             // unix ns; when the window can be judged
	answers [latencies]atomic.Uint32 // of the window, by how long they took
	left    atomic.Uint32            // of answers: callers that left without one
	leftMin atomic.Int64             // ns; who of them waited the least; 0: nobody left
	turned  atomic.Int64             // away, in the window
	shed    atomic.Uint64            // since the boot
	pace    atomic.Int64             // ns for each answer, as of late; 0: not known
	why     atomic.Pointer[string]   // for people, while there is a limit

	mu       sync.Mutex // of what follows
	set      policy.Adaptive
	start    int64         // unix ns; of the window
	before   int64         // owed then
	usual    time.Duration // quick while nothing queues; 0: not known
	standing float64       // part of owed that waits for long, and not in a queue
	patience time.Duration // after which callers leave; 0: they do not
	leftAt   int64         // unix ns; when somebody last did

	beyond    int64 // unix ns; since when quick is too long in all windows; 0: it is not
	slow      bool  // quick was too long in the window before, and is since:
	slowAt    int64
	slowQuick time.Duration
	slowOwed  int64

	limiting bool
	height   float64       // of the limit, without standing
	rate     float64       // answers per second at the limit, averaged over steps
	stepAt   int64         // unix ns; when the step began
	stepOwed int64         // owed then
	stepDone int64         // answers in it
	stepLeft int64         // callers that left without one
	stepShed int64         // and were turned away
	calmAt   int64         // unix ns; since when nothing is shed
	mismatch int           // steps in a row in which a shorter queue was no quicker
	quick    time.Duration // of the latest window
}

var _ exchange.Admission = (*Adaptive)(nil)

// The constants of Adaptive.
const (
	shortestWindow = 100 * time.Millisecond
	longestWindow  = 2 * time.Second // then it is judged with less than fewest answers
	fewest         = 4
	pauseAfter     = 5 * time.Second // a window as long is of a service that nobody asks
	grown          = 1.25
	persists       = 200 * time.Millisecond
	hopeless       = 5 // times the tolerated latency
	natural        = 10 * time.Second
	stepDown       = 0.5
	stepUp         = 1.25
	shortestStep   = 200 * time.Millisecond
	fewestOfStep   = 8
	smooth         = 0.3 // weight of a step in the average of answers per second
	unlike         = 1.6 // times as long as a queue of that length would take
	calm           = time.Second
	usualUp        = time.Minute // in which what is usual follows what is slower
	standingIn     = 10 * time.Second
	forgetLeavers  = time.Minute
)

// retryLater is what callers are told that are no sidecars; those know that it is for one request, and choose by what they see.
var retryLater = route.Field{Name: "retry-after", Value: "1"}

// Set puts s, which has its defaults, in force.
func (a *Adaptive) Set(s policy.Adaptive) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.set = s; s.Off {
		a.liftLocked()
	}
}

// Enter implements exchange.Admission.
func (a *Adaptive) Enter(x *exchange.Exchange) (ok bool, why string) {
	n := a.owed.Add(1)
	if limit := a.limit.Load(); limit > 0 {
		late := a.late(x, n)
		if n > limit || late {
			a.owed.Add(-1)
			a.shed.Add(1)
			a.turned.Add(1)
			a.stuck(time.Now().UnixNano())
			if late {
				return false, "the application would answer later than the caller waits"
			}
			if p := a.why.Load(); p != nil {
				why = *p
			}
			return false, why
		}
	}
	x.Admission = a
	return true, ""
}

// late reports whether the caller of x, the n-th in line, has said that it will not wait for so long.
func (a *Adaptive) late(x *exchange.Exchange, n int64) bool {
	return x.Head.Timeout > 0 && time.Duration(n*a.pace.Load()) > x.Head.Timeout-x.Since()
}

// Answered implements exchange.Admission.
func (a *Adaptive) Answered(x *exchange.Exchange) {
	a.owed.Add(-1)
	began := max(x.Legs.HeadParsed, 0)
	if s := x.Legs.Sent; s >= 0 && s <= x.Legs.FirstByte { // until then the caller may have been the slow one
		began = max(began, s)
	}
	a.answers[slotOf(x.Legs.FirstByte-began)].Add(1)
	if now := x.Start.UnixNano() + int64(x.Legs.FirstByte); now >= a.due.Load() {
		a.judge(now)
	}
}

// Leave implements exchange.Admission.
func (a *Adaptive) Leave(x *exchange.Exchange) {
	if x.Admission == nil { // Answered
		return
	}
	x.Admission = nil
	a.owed.Add(-1)
	if x.Outcome.Reason != flow.ReasonDownstreamReset && x.Outcome.Reason != flow.ReasonRequestTimeout {
		return
	}
	waited := int64(x.Since())
	a.answers[slotOf(time.Duration(waited))].Add(1)
	a.left.Add(1)
	for {
		least := a.leftMin.Load()
		if least != 0 && least <= waited || a.leftMin.CompareAndSwap(least, max(waited, 1)) {
			break
		}
	}
	if now := time.Now().UnixNano(); now >= a.due.Load() {
		a.judge(now)
	}
}

// Count is how many requests were shed since the boot, and the limit in force; -1: there is none.
func (a *Adaptive) Count() (shed uint64, limit int64) {
	if limit = a.limit.Load(); limit == 0 {
		limit = -1
	}
	return a.shed.Load(), limit
}

// latencies are how many slots there are: four for each doubling, up to two minutes.
const latencies = 104

// slotOf is where an answer is counted that took d.
func slotOf(d time.Duration) int {
	v := uint64(max(d, 0)) >> 10
	if v < 4 {
		return int(v)
	}
	e := bits.Len64(v) - 1
	return min((e-1)*4+int(v>>(e-2)&3), latencies-1)
}

// slotTime is what answers of a slot took, about.
func slotTime(slot int) time.Duration {
	if slot < 4 {
		return time.Duration(slot)<<10 + 512
	}
	e := slot/4 + 1
	return time.Duration((float64(4+slot%4)+0.5)*math.Exp2(float64(e-2))) << 10
}

// answered is what came of a window.
type answered struct {
	took    float64 // seconds
	answers int64   // without those of callers who left
	left    int64
	turned  int64
	quick   time.Duration
	busy    float64 // mean number in flight of those that were answered within the tolerated latency
}

// judge ends the window if it is long enough, and decides what follows.
func (a *Adaptive) judge(now int64) {
	if !a.mu.TryLock() {
		return
	}
	defer a.mu.Unlock()
	switch took := time.Duration(now - a.start); {
	case a.start == 0 || took >= pauseAfter || took < 0:
		a.takeLocked(now, 0)
		if a.slow, a.beyond = false, 0; a.limiting {
			a.liftLocked()
		}
		return
	case took < longestWindow && a.countLocked() < fewest:
		a.due.Store(now + int64(shortestWindow/4))
		return
	}
	before := a.before
	tolerated := a.toleratedLocked()
	w := a.takeLocked(now, tolerated)
	if w.answers+w.left == 0 {
		return
	}
	a.quick = w.quick
	if w.left > 0 && 10*w.left >= w.answers {
		a.patience, a.leftAt = time.Duration(a.leftMin.Swap(0)), now
	} else if a.leftMin.Store(0); a.patience > 0 && now-a.leftAt > int64(forgetLeavers) {
		a.patience = 0
	}
	owed := a.before // now
	if a.limiting {
		a.stepLocked(now, w, owed, tolerated)
		return
	}
	if w.quick <= tolerated {
		a.healthyLocked(w, owed)
		return
	}
	if a.beyond == 0 {
		a.beyond = now
	} else if now-a.beyond >= int64(natural) { // and there was no queue
		a.usual, a.beyond, a.slow = w.quick, 0, false
		return
	}
	grows := owed-before > 0 && float64(owed)-a.standing > float64(a.set.MinRequests)
	switch {
	case !a.slow:
		a.slow, a.slowAt, a.slowQuick, a.slowOwed = true, now, w.quick, owed
	case w.quick < a.slowQuick: // it gets better
		a.slow = false
	case now-a.slowAt < int64(persists) && (float64(owed)-a.standing)*w.took < hopeless*tolerated.Seconds()*float64(w.answers): // many may have come at once
	case grows && float64(w.quick) >= grown*float64(a.slowQuick) && float64(owed) >= grown*float64(a.slowOwed) && !a.set.Off:
		a.limitLocked(now, w, owed)
	}
}

func (a *Adaptive) countLocked() (n int64) {
	for i := range a.answers {
		n += int64(a.answers[i].Load())
	}
	return n
}

// takeLocked ends the window and begins the next one.
func (a *Adaptive) takeLocked(now int64, tolerated time.Duration) (w answered) {
	var counts [latencies]uint32
	n := int64(0)
	for i := range a.answers {
		if a.answers[i].Load() > 0 {
			counts[i] = a.answers[i].Swap(0)
			n += int64(counts[i])
		}
	}
	w.took = max(time.Duration(now-a.start), 1).Seconds()
	w.left, w.turned = int64(a.left.Swap(0)), a.turned.Swap(0)
	w.answers = max(n-w.left, 0)
	rank := (n + 3) / 4
	for i, c := range counts {
		if c == 0 {
			continue
		}
		t := slotTime(i)
		if rank > 0 {
			if rank -= int64(c); rank <= 0 {
				w.quick = t
			}
		}
		if t <= tolerated {
			w.busy += float64(c) * t.Seconds() / w.took
		}
	}
	a.start, a.before = now, a.owed.Load()
	a.due.Store(now + int64(shortestWindow))
	return w
}

// toleratedLocked is how long an answer may take that is no sign of a queue.
func (a *Adaptive) toleratedLocked() time.Duration {
	t := max(a.set.Latency, time.Duration(a.set.Factor*float64(a.usual)))
	if a.patience > 0 { // an answer that comes when its caller has left is worth nothing
		t = min(t, max(a.patience/2, a.set.Latency/2, 2*a.usual))
	}
	return t
}

// healthyLocked learns what is usual.
func (a *Adaptive) healthyLocked(w answered, owed int64) {
	a.slow, a.beyond = false, 0
	if a.usual == 0 || w.quick < a.usual {
		a.usual = w.quick
	} else {
		a.usual += time.Duration(float64(w.quick-a.usual) * min(1, w.took/usualUp.Seconds()))
	}
	a.standing = max(0, a.standing+(float64(owed)-w.busy-a.standing)*min(1, w.took/standingIn.Seconds()))
}

// limitLocked begins to shed.
func (a *Adaptive) limitLocked(now int64, w answered, owed int64) {
	a.slow, a.limiting, a.mismatch = false, true, 0
	a.rate = float64(w.answers) / w.took
	a.height = max((float64(owed)-a.standing)*stepDown, a.leastLocked(a.toleratedLocked()))
	a.beginStepLocked(now, owed)
	a.calmAt = now
	a.applyLocked()
}

// leastLocked is how low the limit may become.
func (a *Adaptive) leastLocked(tolerated time.Duration) float64 {
	return max(float64(a.set.MinRequests), a.rate*tolerated.Seconds())
}

func (a *Adaptive) beginStepLocked(now, owed int64) {
	a.stepAt, a.stepOwed, a.stepDone, a.stepLeft, a.stepShed = now, owed, 0, 0, 0
}

// stepLocked takes a window into the step, and moves the limit when the step is over.
func (a *Adaptive) stepLocked(now int64, w answered, owed int64, tolerated time.Duration) {
	if w.turned > 0 {
		a.calmAt = now
	} else if now-a.calmAt >= int64(calm) {
		a.liftLocked()
		return
	}
	a.stepDone += w.answers
	a.stepLeft += w.left
	a.stepShed += w.turned
	took := time.Duration(now - a.stepAt)
	if took < max(shortestStep, min(w.quick, longestWindow)) || a.stepDone+a.stepLeft < fewestOfStep && took < longestWindow {
		return
	}
	inVain := a.stepLeft > a.stepDone // what the application does now is for callers who have left: that says nothing of what it can do
	if !inVain {
		a.rate += (float64(a.stepDone)/took.Seconds() - a.rate) * smooth
	}
	// A queue of as many would take that long.
	queue := max(float64(a.stepOwed), float64(owed), a.height+a.standing) - a.standing
	switch {
	case inVain, w.quick <= tolerated || w.quick.Seconds()*a.rate < unlike*queue:
		a.mismatch = 0
	default:
		if a.mismatch++; a.mismatch > 1 {
			a.usual = w.quick
			a.liftLocked()
			return
		}
	}
	least := a.leastLocked(tolerated)
	switch {
	case w.quick > tolerated:
		a.height = max(least, stepDown*a.height)
	case a.stepShed > 0 && a.height < least:
		a.height = min(least, max(stepUp*a.height, a.height+1))
	}
	a.beginStepLocked(now, owed)
	a.applyLocked()
}

// stuck raises a limit behind which nothing is answered.
func (a *Adaptive) stuck(now int64) {
	if now < a.due.Load()+int64(calm) || !a.mu.TryLock() {
		return
	}
	defer a.mu.Unlock()
	if a.limiting && now-a.start > int64(calm) && a.countLocked() == 0 {
		a.height = a.height*1.5 + 1
		a.calmAt = now
		a.applyLocked()
		a.due.Store(now)
	}
}

func (a *Adaptive) applyLocked() {
	limit := int64(math.Ceil(a.height + a.standing))
	if a.rate > 0 {
		a.pace.Store(int64(float64(time.Second) / a.rate))
	}
	text := "the application is overloaded: " + strconv.FormatInt(limit, 10) + " requests are let through at a time, quick answers take " + rounded(a.quick) + ", usually " + rounded(a.usual)
	a.why.Store(&text)
	a.limit.Store(max(limit, 1))
}

func rounded(d time.Duration) string {
	if d > 10*time.Millisecond {
		return d.Round(time.Millisecond).String()
	}
	return d.Round(10 * time.Microsecond).String()
}

func (a *Adaptive) liftLocked() {
	a.limiting, a.slow, a.mismatch, a.beyond = false, false, 0, 0
	a.limit.Store(0)
	a.pace.Store(0)
	a.why.Store(nil)
}
