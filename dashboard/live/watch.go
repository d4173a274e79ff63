package live

import (
	"context"
	"encoding/json"
	"sync"
)

// Watch is a stream that each client asks for with its own question, as a log that is followed: unlike a Topic it has no picture that could be sent again.
type Watch struct {
	Name string
	// Run answers a question until ctx is done. Its error is told to the client, unless ctx is done. show never blocks: dropped is how many lines Run left out
	// itself. The hub waits for Run to return before it forgets the client.
	Run func(ctx context.Context, question string, show func(lines []json.RawMessage, dropped uint64)) error
}

// maxLines is how many lines wait for a client. The oldest make room, and are counted as dropped.
const maxLines = 200

// watching is what one client watches.
type watching struct {
	name   string
	id     uint64 // the client's, by which it tells the answers to this question
	cancel context.CancelFunc

	mu      sync.Mutex
	pending []json.RawMessage
	dropped uint64
	failed  string
	fresh   bool // something is to be told
}

// watched is a message to the client.
type watched struct {
	Type    string            `json:"type"` // "watched"
	Watch   string            `json:"watch"`
	ID      uint64            `json:"id"`
	Lines   []json.RawMessage `json:"lines,omitempty"`
	Dropped uint64            `json:"dropped,omitempty"`
	Error   string            `json:"error,omitempty"`
}

// show keeps lines for the writer.
func (w *watching) show(lines []json.RawMessage, dropped uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = append(w.pending, lines...)
	if over := len(w.pending) - maxLines; over > 0 {
		w.pending = append([]json.RawMessage(nil), w.pending[over:]...)
		dropped += uint64(over)
	}
	w.dropped += dropped
	w.fresh = w.fresh || len(lines) > 0 || dropped > 0
}

// watch begins to answer a question in place of the one before. It is called by the client's reader only.
func (c *client) watch(ctx context.Context, w Watch, id uint64, question string) {
	c.unwatch()
	ctx, cancel := context.WithCancel(ctx)
	now := &watching{name: w.Name, id: id, cancel: cancel}
	c.mu.Lock()
	c.watching = now
	c.mu.Unlock()
	c.watches.Go(func() {
		defer cancel()
		err := w.Run(ctx, question, func(lines []json.RawMessage, dropped uint64) {
			now.show(lines, dropped)
			c.ring()
		})
		if err != nil && ctx.Err() == nil {
			now.mu.Lock()
			now.failed, now.fresh = err.Error(), true
			now.mu.Unlock()
			c.ring()
		}
	})
}

// unwatch ends what is watched and waits for its end, so that a client has one watch at most.
func (c *client) unwatch() {
	c.mu.Lock()
	was := c.watching
	c.watching = nil
	c.mu.Unlock()
	if was != nil {
		was.cancel()
		c.watches.Wait()
	}
}

// lines takes what is to be told; false: nothing is.
func (c *client) lines() (watched, bool) {
	c.mu.Lock()
	w := c.watching
	c.mu.Unlock()
	if w == nil {
		return watched{}, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.fresh {
		return watched{}, false
	}
	m := watched{Type: "watched", Watch: w.name, ID: w.id, Lines: w.pending, Dropped: w.dropped, Error: w.failed}
	w.pending, w.dropped, w.failed, w.fresh = nil, 0, "", false
	return m, true
}
