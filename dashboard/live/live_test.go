package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type harness struct {
	hub    *Hub
	frames chan Frame
	url    string
	stop   func()
}

func start(t *testing.T) *harness { return startWith(t) }

func startWith(t *testing.T, watches ...Watch) *harness {
	t.Helper()
	h := &harness{frames: make(chan Frame)}
	h.hub = New(slog.New(slog.DiscardHandler), func(*http.Request) bool { return true }, Topic{"t", func(ctx context.Context) <-chan Frame {
		out := make(chan Frame)
		go func() {
			defer close(out)
			for {
				select {
				case f := <-h.frames:
					out <- f
				case <-ctx.Done():
					return
				}
			}
		}()
		return out
	}})
	for _, w := range watches {
		h.hub.Offer(w)
	}
	srv := httptest.NewServer(h.hub)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.hub.Run(ctx) }()
	h.url = "ws" + strings.TrimPrefix(srv.URL, "http")
	stopped := false
	h.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			srv.Close()
		}
	}
	t.Cleanup(h.stop)
	waitFor(t, "the hub to run", func() bool { h.hub.mu.Lock(); defer h.hub.mu.Unlock(); return h.hub.running })
	return h
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func (h *harness) dial(t *testing.T) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.DefaultDialer.Dial(h.url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.WriteJSON(map[string]any{"type": "subscribe", "topics": []string{"t", "unknown"}}); err != nil {
		t.Fatal(err)
	}
	return c
}

func frame(seq uint64, kv ...string) Frame {
	f := Frame{Seq: seq, Items: map[string]json.RawMessage{}}
	for i := 0; i < len(kv); i += 2 {
		f.Items[kv[i]] = json.RawMessage(kv[i+1])
	}
	return f
}

func read(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	var m message
	if err := c.ReadJSON(&m); err != nil {
		t.Fatal(err)
	}
	items, _ := json.Marshal(m.Items)
	return fmt.Sprintf("%s %d missed=%d %s gone=%v", m.Type, m.Seq, m.Missed, items, m.Gone)
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestSnapshotThenDeltas(t *testing.T) {
	h := start(t)
	h.frames <- frame(1, "a", "1", "b", "2")
	waitFor(t, "the first frame", func() bool { return h.seq() == 1 })
	c := h.dial(t)
	expect(t, read(t, c), `snapshot 1 missed=0 {"a":1,"b":2} gone=[]`)
	h.frames <- frame(2, "a", "1", "b", "3", "c", "4")
	expect(t, read(t, c), `delta 2 missed=0 {"b":3,"c":4} gone=[]`)
	h.frames <- frame(3, "c", "4")
	expect(t, read(t, c), `delta 3 missed=0 {} gone=[a b]`)
	late := h.dial(t)
	expect(t, read(t, late), `snapshot 3 missed=0 {"c":4} gone=[]`)
}

func (h *harness) seq() uint64 {
	t := h.hub.topics["t"]
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cur.Seq
}

// TestBehindDropsToLatest: whoever missed a frame gets the newest picture and how many were missed.
func TestBehindDropsToLatest(t *testing.T) {
	tp := &topic{name: "t"}
	tp.set(frame(1, "a", "1"))
	tp.set(frame(2, "a", "2"))
	if msg, seq, missed := tp.next(1); msg != tp.delta || seq != 2 || missed != 0 {
		t.Errorf("one behind: seq %d, missed %d", seq, missed)
	}
	tp.set(frame(3, "a", "3"))
	tp.set(frame(4, "a", "4"))
	msg, seq, missed := tp.next(1)
	if msg == nil || msg == tp.delta || seq != 4 || missed != 2 {
		t.Errorf("three behind: seq %d, missed %d", seq, missed)
	}
	if msg, _, _ := tp.next(4); msg != nil {
		t.Error("up to date, and yet a message")
	}
}

func TestUnsubscribedHearsNothing(t *testing.T) {
	h := start(t)
	c := h.dial(t)
	h.frames <- frame(1, "a", "1")
	read(t, c)
	if err := c.WriteJSON(map[string]any{"type": "unsubscribe", "topics": []string{"t"}}); err != nil {
		t.Fatal(err)
	}
	// Subscribing again starts over with a snapshot: proof that what came before was forgotten.
	if err := c.WriteJSON(map[string]any{"type": "subscribe", "topics": []string{"t"}}); err != nil {
		t.Fatal(err)
	}
	expect(t, read(t, c), `snapshot 1 missed=0 {"a":1} gone=[]`)
}

func TestTooLargeOrBadMessageEndsTheConnection(t *testing.T) {
	h := start(t)
	for _, text := range []string{strings.Repeat("x", maxMessage+1), "{not json"} {
		c := h.dial(t)
		// The hub may end the connection before the whole message is written: then the write fails, as it should.
		if err := c.WriteMessage(websocket.TextMessage, []byte(text)); err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Fatal(err)
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, _, err := c.ReadMessage(); err == nil {
			t.Error("the connection goes on")
		}
	}
	waitFor(t, "clients to leave", func() bool { return h.hub.Stats().Clients == 0 })
}

func TestStopTellsClientsAndRefusesNewOnes(t *testing.T) {
	h := start(t)
	c := h.dial(t)
	waitFor(t, "the client", func() bool { return h.hub.Stats().Clients == 1 })
	go h.stop()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Errorf("closed with %v", err)
	}
	h2 := New(slog.New(slog.DiscardHandler), nil)
	w := httptest.NewRecorder()
	h2.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/live", nil))
	if w.Code != http.StatusServiceUnavailable || h2.Stats().Refused != 1 {
		t.Errorf("a hub that does not run answers %d", w.Code)
	}
}
