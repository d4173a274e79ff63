// Package live feeds browsers: one WebSocket per page, topics that a page subscribes to, a snapshot first and then sequenced deltas.
//
// A topic is a stream of Frames, each a whole picture keyed by item. The Hub computes one delta per tick, shared by all clients. A client
// that is exactly one frame behind gets the delta; a client that missed frames (slow, paused, new) gets the latest snapshot and how many
// frames it missed. So nothing queues up: a slow reader drops to latest, and a reader that does not read at all is cut off by the write deadline.
//
// Protocol, JSON text messages. Client: {"type":"subscribe","topics":["graph"]}, {"type":"unsubscribe","topics":[…]}. Server:
//
//	{"type":"snapshot","topic":"graph","seq":7,"missed":0,"items":{"KEY":…}}
//	{"type":"delta","topic":"graph","seq":8,"items":{"KEY":…},"gone":["KEY"]}
//	{"type":"error","message":"…"}
//
// A Watch is a stream that a client asks for with a question of its own, one at a time: {"type":"watch","watch":"requests","id":1,"question":"…"}, until
// {"type":"unwatch"} or the next watch. The server answers with what came since, and how many lines there was no room for:
//
//	{"type":"watched","watch":"requests","id":1,"lines":[…],"dropped":3}
//	{"type":"watched","watch":"requests","id":1,"error":"…"}
package live

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// Frame is the whole picture of a topic at one tick. It is immutable once handed over.
type Frame struct {
	Seq   uint64
	Items map[string]json.RawMessage
}

// Topic is a named stream of frames.
type Topic struct {
	Name string
	// Frames yields until ctx is done and closes the channel then. It is called once, by Run.
	Frames func(ctx context.Context) <-chan Frame
}

// Limits of one hub.
const (
	// MaxClients is how many browsers one hub feeds; more get 503.
	MaxClients = 500
	// maxMessage bounds what a client may send, bytes.
	maxMessage = 4 << 10
)

// Timing of one connection. Variables so that tests need not wait.
var (
	pingEvery    = 20 * time.Second
	pongWithin   = 50 * time.Second
	writeTimeout = 10 * time.Second
)

// Hub feeds clients. Create with New, run with Run, mount as http.Handler. Clients that connect while Run does not run get 503.
type Hub struct {
	log      *slog.Logger
	upgrader websocket.Upgrader
	topics   map[string]*topic
	list     []Topic
	watches  map[string]Watch

	mu      sync.Mutex
	running bool
	clients map[*client]struct{}
	wg      sync.WaitGroup

	served, missed, refused atomic.Uint64
}

// Stats are counts since the start.
type Stats struct {
	Clients int    // connected now
	Served  uint64 // connections ever accepted
	Refused uint64 // turned away at MaxClients
	Missed  uint64 // frames that slow clients did not see
}

// New makes a hub. originOK decides whether a browser page of another origin may connect.
func New(log *slog.Logger, originOK func(*http.Request) bool, topics ...Topic) *Hub {
	h := &Hub{log: log, topics: map[string]*topic{}, list: topics, clients: map[*client]struct{}{}}
	h.upgrader = websocket.Upgrader{CheckOrigin: originOK, HandshakeTimeout: 10 * time.Second, EnableCompression: true, WriteBufferPool: &sync.Pool{}}
	for _, t := range topics {
		h.topics[t.Name] = &topic{name: t.Name}
	}
	return h
}

// Stats counts.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	n := len(h.clients)
	h.mu.Unlock()
	return Stats{Clients: n, Served: h.served.Load(), Refused: h.refused.Load(), Missed: h.missed.Load()}
}

// topic is the state of one stream: the current frame and the messages made from it, each made at most once.
type topic struct {
	name string

	mu       sync.Mutex
	cur      Frame
	prev     uint64 // Seq of the frame that delta starts from; 0 when there is no delta
	delta    *websocket.PreparedMessage
	snapshot *websocket.PreparedMessage
}

type message struct {
	Type   string                     `json:"type"`
	Topic  string                     `json:"topic"`
	Seq    uint64                     `json:"seq"`
	Missed uint64                     `json:"missed,omitempty"`
	Items  map[string]json.RawMessage `json:"items"`
	Gone   []string                   `json:"gone,omitempty"`
}

// Offer adds a watch. It is called before Run.
func (h *Hub) Offer(w Watch) {
	if h.watches == nil {
		h.watches = map[string]Watch{}
	}
	h.watches[w.Name] = w
}

// Wanted reports whether anybody is subscribed to a topic, so that what nobody reads need not be made.
func (h *Hub) Wanted(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.clients {
		c.mu.Lock()
		_, ok := c.subs[name]
		c.mu.Unlock()
		if ok {
			return true
		}
	}
	return false
}

func prepare(m message) *websocket.PreparedMessage {
	b, err := json.Marshal(m)
	if err != nil {
		b, _ = json.Marshal(map[string]string{"type": "error", "message": "a frame could not be encoded: " + err.Error()})
	}
	p, err := websocket.NewPreparedMessage(websocket.TextMessage, b)
	if err != nil {
		return nil // not reached: it fails for invalid message types only
	}
	return p
}

// set installs the next frame and prepares its delta.
func (t *topic) set(f Frame) {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.cur
	t.cur, t.snapshot, t.delta, t.prev = f, nil, nil, 0
	if old.Seq == 0 || f.Seq <= old.Seq {
		return
	}
	m := message{Type: "delta", Topic: t.name, Seq: f.Seq, Items: map[string]json.RawMessage{}}
	for k, v := range f.Items {
		if !bytes.Equal(old.Items[k], v) {
			m.Items[k] = v
		}
	}
	for k := range old.Items {
		if _, ok := f.Items[k]; !ok {
			m.Gone = append(m.Gone, k)
		}
	}
	slices.Sort(m.Gone)
	t.delta, t.prev = prepare(m), old.Seq
}

// next returns what a client that has seen seq needs, and the sequence it will have seen then; nil when it is up to date.
func (t *topic) next(seen uint64) (msg *websocket.PreparedMessage, seq, missed uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.cur.Seq == 0 || t.cur.Seq == seen:
		return nil, seen, 0
	case seen != 0 && t.prev == seen && t.delta != nil:
		return t.delta, t.cur.Seq, 0
	}
	if seen != 0 && t.cur.Seq > seen+1 {
		missed = t.cur.Seq - seen - 1
	}
	if missed > 0 {
		return prepare(message{Type: "snapshot", Topic: t.name, Seq: t.cur.Seq, Missed: missed, Items: t.cur.Items}), t.cur.Seq, missed
	}
	if t.snapshot == nil {
		t.snapshot = prepare(message{Type: "snapshot", Topic: t.name, Seq: t.cur.Seq, Items: t.cur.Items})
	}
	return t.snapshot, t.cur.Seq, 0
}

// Run reads the topics until ctx is done, then closes every client and waits for all that it started.
func (h *Hub) Run(ctx context.Context) error {
	h.mu.Lock()
	h.running = true
	h.mu.Unlock()
	var readers sync.WaitGroup
	for _, t := range h.list {
		frames := t.Frames(ctx)
		readers.Go(func() {
			for f := range frames {
				h.topics[t.Name].set(f)
				h.wake()
			}
		})
	}
	<-ctx.Done()
	h.mu.Lock()
	h.running = false
	for c := range h.clients {
		c.stop(websocket.CloseGoingAway, "server is stopping")
	}
	h.mu.Unlock()
	readers.Wait()
	h.wg.Wait()
	return nil
}

func (h *Hub) wake() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.clients {
		c.ring()
	}
}

type client struct {
	conn *websocket.Conn
	bell chan struct{} // something may have changed
	done chan struct{}
	once sync.Once
	code int
	text string

	mu       sync.Mutex
	subs     map[string]*subscription // by topic
	watching *watching                // nil: nothing
	watches  sync.WaitGroup
}

// subscription is one of a client to one topic. Subscribing again after unsubscribing makes a new one, so that a message that is being written
// at that moment does not count as seen by it.
type subscription struct {
	seen uint64 // the last sequence sent; the writer's
}

func (c *client) ring() {
	select {
	case c.bell <- struct{}{}:
	default: // it has not answered the last bell: it will find the latest frame when it does
	}
}

func (c *client) stop(code int, text string) {
	c.once.Do(func() { c.code, c.text = code, text; close(c.done) })
}

// ServeHTTP accepts one browser and feeds it until it leaves or the hub stops.
func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	full, running := len(h.clients) >= MaxClients, h.running
	if running && !full {
		h.wg.Add(1)
	}
	h.mu.Unlock()
	if !running || full {
		h.refused.Add(1)
		w.Header().Set("Retry-After", "5")
		http.Error(w, "The live feed is full or not running; the page reloads its figures instead.", http.StatusServiceUnavailable)
		return
	}
	defer h.wg.Done()
	conn, err := h.upgrader.Upgrade(w, r, nil)
	if err != nil {
		return // Upgrade has answered
	}
	h.served.Add(1)
	c := &client{conn: conn, bell: make(chan struct{}, 1), done: make(chan struct{}), subs: map[string]*subscription{}}
	h.mu.Lock()
	h.clients[c] = struct{}{}
	if !h.running {
		c.stop(websocket.CloseGoingAway, "server is stopping")
	}
	h.mu.Unlock()

	ctx, cancel := context.WithCancel(r.Context())
	var reader sync.WaitGroup
	reader.Go(func() { h.read(ctx, c) })
	h.write(c)
	_ = conn.Close() // ends the reader
	cancel()         // and what it watches
	reader.Wait()
	c.watches.Wait()
	h.mu.Lock()
	delete(h.clients, c)
	h.mu.Unlock()
}

// read takes subscriptions until the client leaves.
func (h *Hub) read(ctx context.Context, c *client) {
	defer c.stop(websocket.CloseNormalClosure, "")
	c.conn.SetReadLimit(maxMessage)
	_ = c.conn.SetReadDeadline(time.Now().Add(pongWithin))
	c.conn.SetPongHandler(func(string) error { return c.conn.SetReadDeadline(time.Now().Add(pongWithin)) })
	for {
		var m struct {
			Type     string   `json:"type"`
			Topics   []string `json:"topics"`
			Watch    string   `json:"watch"`
			ID       uint64   `json:"id"`
			Question string   `json:"question"`
		}
		if err := c.conn.ReadJSON(&m); err != nil {
			syntaxError := &json.SyntaxError{}
			if errors.As(err, &syntaxError) {
				c.stop(websocket.CloseUnsupportedData, "not JSON")
			}
			return
		}
		switch m.Type {
		case "watch":
			if w, ok := h.watches[m.Watch]; ok {
				c.watch(ctx, w, m.ID, m.Question)
			}
		case "unwatch":
			c.unwatch()
		}
		c.mu.Lock()
		for _, name := range m.Topics {
			switch {
			case h.topics[name] == nil: // unknown topics are ignored: an old page may ask for what no longer exists
			case m.Type == "subscribe":
				if c.subs[name] == nil {
					c.subs[name] = &subscription{}
				}
			case m.Type == "unsubscribe":
				delete(c.subs, name)
			}
		}
		c.mu.Unlock()
		c.ring()
	}
}

// write is the only writer of the connection.
func (h *Hub) write(c *client) {
	ping := time.NewTicker(pingEvery)
	defer ping.Stop()
	for {
		select {
		case <-c.done:
			_ = c.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(c.code, c.text), time.Now().Add(time.Second))
			return
		case <-ping.C:
			if c.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(writeTimeout)) != nil {
				return
			}
		case <-c.bell:
			for _, t := range h.list {
				c.mu.Lock()
				sub := c.subs[t.Name]
				c.mu.Unlock()
				if sub == nil {
					continue
				}
				msg, seq, missed := h.topics[t.Name].next(sub.seen)
				if msg == nil {
					continue
				}
				h.missed.Add(missed)
				_ = c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
				if c.conn.WritePreparedMessage(msg) != nil {
					return
				}
				sub.seen = seq
			}
			if lines, ok := c.lines(); ok {
				_ = c.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
				if c.conn.WriteJSON(lines) != nil {
					return
				}
			}
		}
	}
}
