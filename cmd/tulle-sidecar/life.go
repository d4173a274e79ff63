package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// life is when a sidecar stops. First it is told, from when on it is not ready; then, after its delay, it drains.
type life struct {
	told context.Context // done: asked to stop, not ready any more
	work context.Context // done: drains
	tell context.CancelFunc
	end  context.CancelCauseFunc

	limping atomic.Bool // not ready, though nobody has asked to stop yet
	mu      sync.Mutex
	leave   func() // asks callers to go elsewhere; nil: nobody is there yet
}

// newLife begins one that is told to stop when ctx is done, and drains delay later.
func newLife(ctx context.Context, delay time.Duration) *life {
	l := &life{}
	l.told, l.tell = context.WithCancel(ctx)
	l.work, l.end = context.WithCancelCause(context.WithoutCancel(ctx))
	context.AfterFunc(l.told, func() {
		notify("STOPPING=1")
		if delay <= 0 || l.work.Err() != nil {
			l.end(nil)
			return
		}
		l.limp()
		select { // the delay, unless it is cut short
		case <-time.After(delay):
			l.end(nil)
		case <-l.work.Done():
		}
	})
	return l
}

// leaves says how callers are asked to go elsewhere.
func (l *life) leaves(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leave = f
}

// limp makes the sidecar say that it is not ready, and ask callers to go elsewhere, while it goes on.
func (l *life) limp() {
	l.limping.Store(true)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.leave != nil {
		l.leave()
	}
}

// leaving reports whether it is not ready for that.
func (l *life) leaving() bool { return l.limping.Load() || l.told.Err() != nil }

// drain asks for an orderly stop; of the parent process if there is one, which holds the application.
func (l *life) drain() {
	if !tellParent(parentQuit) {
		l.tell()
	}
}

// quit is drain without the delay.
func (l *life) quit() {
	if !tellParent(parentQuit) {
		l.stop(nil)
	}
}

// stop drains at once; with a reason it is a failure.
func (l *life) stop(reason error) {
	l.end(reason)
	l.tell()
}

// reason is why it stopped, nil when it was asked to.
func (l *life) reason() error {
	if err := context.Cause(l.work); err != context.Canceled { //nolint:errorlint // the very value
		return err
	}
	return nil
}
