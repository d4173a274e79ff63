package observer

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/store/event"
)

// journal takes events from parts that must not wait for a disk, and appends them in the background, in order. When 1,024 wait, further
// ones are dropped and counted.
type journal struct {
	log     *event.Log
	slog    *slog.Logger
	queue   chan event.Event
	dropped atomic.Uint64
	failed  atomic.Uint64
	mu      sync.Mutex
	damage  []string // what events about damage said since the start, the last four
	done    sync.WaitGroup
	closing sync.Once
	closed  chan struct{}
}

func newJournal(log *event.Log, l *slog.Logger) *journal {
	j := &journal{log: log, slog: l, queue: make(chan event.Event, 1024), closed: make(chan struct{})}
	j.done.Go(j.run)
	return j
}

func (j *journal) add(e event.Event) {
	if e.Kind == event.KindStore {
		j.mu.Lock()
		j.damage = append(j.damage[max(0, len(j.damage)-3):], e.Message)
		j.mu.Unlock()
	}
	select {
	case j.queue <- e:
	default:
		j.dropped.Add(1)
	}
}

// damaged are the messages of the last events about damage since the start.
func (j *journal) damaged() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.damage)
}

func (j *journal) run() {
	for {
		select {
		case e := <-j.queue:
			j.append(e)
		case <-j.closed:
			for {
				select {
				case e := <-j.queue:
					j.append(e)
				default:
					return
				}
			}
		}
	}
}

func (j *journal) append(e event.Event) {
	if err := j.log.Append(context.Background(), e); err != nil {
		j.failed.Add(1)
		j.slog.Error("an event could not be kept", "kind", e.Kind, "message", e.Message, "err", err)
	}
}

// close appends what waits and stops.
func (j *journal) close() {
	j.closing.Do(func() { close(j.closed) })
	j.done.Wait()
}
