package shop

import (
	"context"
	"fmt"
	"time"
)

// Script is the repeated fault of the demo: one of several endpoints of a service misbehaves for a while, a different one and in a different
// way each time. It only decides what happens when; Run carries it out through the control ports and tells a listener about each step, so
// that a terminal, a test and a measurement hear the same.
type Script struct {
	First   time.Duration // first fault, after the start; default 30 s
	Last    time.Duration // how long each fault lasts; default 40 s
	Every   time.Duration // from the start of one fault to the start of the next; default 4 min, at least Last
	Targets []Target
	Faults  []Fault // taken in turn; default: every answer 503, then 800 ms slower
}

// Target is one endpoint that can be made to misbehave.
type Target struct {
	Instance string
	Control  Control
}

// Step is one thing the script does.
type Step struct {
	At       time.Duration // after the start
	Instance string
	Fault    Fault // zero: it heals
}

// Say is the step in plain words.
func (s Step) Say() string {
	switch s.Fault.Kind {
	case FaultSlow:
		return fmt.Sprintf("%s answers %s slower", s.Instance, s.Fault.Latency)
	case FaultError:
		return fmt.Sprintf("%s answers %d to every request", s.Instance, s.Fault.Status)
	}
	return s.Instance + " is healthy again"
}

// WithDefaults fills in zero fields.
func (p Script) WithDefaults() Script {
	if p.First <= 0 {
		p.First = 30 * time.Second
	}
	if p.Last <= 0 {
		p.Last = 40 * time.Second
	}
	if p.Every <= 0 {
		p.Every = 4 * time.Minute
	}
	p.Every = max(p.Every, p.Last)
	if len(p.Faults) == 0 {
		p.Faults = []Fault{
			{Kind: FaultError, Status: 503, Ratio: 1},
			{Kind: FaultSlow, Latency: 800 * time.Millisecond, Ratio: 1},
		}
	}
	return p
}

// Round is the n-th fault (0, 1, 2 …) and its end. Pure.
func (p Script) Round(n int) (begin, end Step) {
	p = p.WithDefaults()
	// The second endpoint first: the one in the middle of a list is the easiest to follow by eye.
	target := p.Targets[(n+1)%len(p.Targets)]
	at := p.First + time.Duration(n)*p.Every
	begin = Step{At: at, Instance: target.Instance, Fault: p.Faults[n%len(p.Faults)]}
	return begin, Step{At: at + p.Last, Instance: target.Instance}
}

// Run plays the script until ctx ends; a fault in force then is lifted. did hears of every step after it was taken, with the error when the
// control port could not be reached (the script goes on).
func (p Script) Run(ctx context.Context, did func(Step, error)) error {
	p = p.WithDefaults()
	if len(p.Targets) == 0 {
		return fmt.Errorf("script: no endpoint to make misbehave")
	}
	control := map[string]Control{}
	for _, t := range p.Targets {
		control[t.Instance] = t.Control
	}
	began := time.Now()
	for n := 0; ; n++ {
		begin, end := p.Round(n)
		if !until(ctx, began.Add(begin.At)) {
			return nil
		}
		did(begin, control[begin.Instance].Set(ctx, begin.Fault))
		waited := until(ctx, began.Add(end.At))
		heal, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		err := control[end.Instance].Heal(heal)
		cancel()
		did(end, err)
		if !waited {
			return nil
		}
	}
}

// until waits for t; false when ctx ended first.
func until(ctx context.Context, t time.Time) bool {
	timer := time.NewTimer(time.Until(t))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
