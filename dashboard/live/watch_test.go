package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// asked is a watch whose runs the test sees.
type asked struct {
	question string
	show     func([]json.RawMessage, uint64)
	fail     chan error
	ended    chan struct{}
}

func watchable(t *testing.T) (*harness, chan asked) {
	t.Helper()
	runs := make(chan asked, 8)
	return startWith(t, Watch{"log", func(ctx context.Context, question string, show func([]json.RawMessage, uint64)) error {
		a := asked{question, show, make(chan error), make(chan struct{})}
		defer close(a.ended)
		runs <- a
		select {
		case err := <-a.fail:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}}), runs
}

func ask(t *testing.T, c *websocket.Conn, m map[string]any) {
	t.Helper()
	if err := c.WriteJSON(m); err != nil {
		t.Fatal(err)
	}
}

func answer(t *testing.T, c *websocket.Conn) string {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	var m watched
	if err := c.ReadJSON(&m); err != nil {
		t.Fatal(err)
	}
	lines, _ := json.Marshal(m.Lines)
	return fmt.Sprintf("%s %s %d %s dropped=%d %s", m.Type, m.Watch, m.ID, lines, m.Dropped, m.Error)
}

func line(n int) []json.RawMessage { return []json.RawMessage{json.RawMessage(strconv.Itoa(n))} }

// One question at a time: the next one ends the one before, whose late lines are not shown.
func TestWatch(t *testing.T) {
	h, runs := watchable(t)
	c := h.dial(t)
	ask(t, c, map[string]any{"type": "watch", "watch": "unknown", "id": 1})
	ask(t, c, map[string]any{"type": "watch", "watch": "log", "id": 2, "question": "a"})
	first := <-runs
	first.show(line(1), 0)
	expect(t, first.question+": "+answer(t, c), "a: watched log 2 [1] dropped=0 ")
	ask(t, c, map[string]any{"type": "watch", "watch": "log", "id": 3, "question": "b"})
	second := <-runs
	select {
	case <-first.ended:
	default:
		t.Error("two questions are answered at a time")
	}
	first.show(line(2), 0)
	second.show(line(3), 5)
	expect(t, answer(t, c), "watched log 3 [3] dropped=5 ")
	second.fail <- errors.New("too many are watching")
	expect(t, answer(t, c), "watched log 3 null dropped=0 too many are watching")
	ask(t, c, map[string]any{"type": "watch", "watch": "log", "id": 4})
	third := <-runs
	ask(t, c, map[string]any{"type": "unwatch"})
	<-third.ended
}

// Whoever leaves is no longer worked for, and neither is anybody when the hub stops.
func TestWatchEndsWithItsClient(t *testing.T) {
	h, runs := watchable(t)
	c := h.dial(t)
	ask(t, c, map[string]any{"type": "watch", "watch": "log"})
	run := <-runs
	_ = c.Close()
	<-run.ended
	ask(t, h.dial(t), map[string]any{"type": "watch", "watch": "log"})
	run = <-runs
	h.stop()
	<-run.ended
}

// What waits for a slow client is bounded: it gets the newest lines, and is told how many it did not get.
func TestSlowWatcherGetsTheNewest(t *testing.T) {
	w := &watching{name: "log", id: 7}
	for i := range maxLines + 3 {
		w.show(line(i), 0)
	}
	c := &client{watching: w}
	m, ok := c.lines()
	if !ok || len(m.Lines) != maxLines || string(m.Lines[0]) != "3" || m.Dropped != 3 || m.ID != 7 {
		t.Errorf("%d lines from %s on, %d dropped", len(m.Lines), m.Lines[0], m.Dropped)
	}
	if _, ok := c.lines(); ok {
		t.Error("it is told twice")
	}
}
