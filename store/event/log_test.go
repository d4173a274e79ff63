package event

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/store"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func open(t *testing.T, dir string, cfg Config) *Log {
	t.Helper()
	if cfg.Now == nil {
		cfg.Now = func() time.Time { return t0.Add(time.Hour) }
	}
	l, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func messages(es []Event) []string {
	var out []string
	for _, e := range es {
		out = append(out, e.Message)
	}
	return out
}

func query(t *testing.T, l *Log, q Query) ([]Event, string) {
	t.Helper()
	es, next, err := l.Query(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return es, next
}

func add(t *testing.T, l *Log, n int) []Event {
	t.Helper()
	var out []Event
	for i := range n {
		e := Event{Time: t0.Add(time.Duration(i) * time.Second), Kind: KindEjected, Service: fmt.Sprintf("s%d", i%2), Message: fmt.Sprintf("m%d", i)}
		e.ID = NewID(e.Time)
		if err := l.Append(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func TestIDsSortByTimeThenCall(t *testing.T) {
	var got []string
	for i := range 1000 {
		got = append(got, NewID(t0.Add(time.Duration(i/100)*time.Millisecond)))
	}
	if !slices.IsSorted(got) {
		t.Fatal("ids are not sorted")
	}
	if slices.Sort(got); len(slices.Compact(got)) != 1000 {
		t.Fatal("ids repeat")
	}
}

func TestSurvivesReopenAndPages(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Config{SegmentBytes: 400})
	add(t, l, 10)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, Config{SegmentBytes: 400})
	if st := l.Stats(); st.Events != 10 || st.Segments < 3 || len(st.Damage) != 0 {
		t.Fatalf("stats %+v", st)
	}
	var all []string
	q := Query{Limit: 4}
	for {
		es, next := query(t, l, q)
		all = append(all, messages(es)...)
		if next == "" {
			break
		}
		q.Before = next
	}
	if want := []string{"m9", "m8", "m7", "m6", "m5", "m4", "m3", "m2", "m1", "m0"}; !slices.Equal(all, want) {
		t.Fatalf("pages: %v", all)
	}
	es, _ := query(t, l, Query{Service: "s1", Start: t0.Add(2 * time.Second), End: t0.Add(7 * time.Second)})
	if want := []string{"m5", "m3"}; !slices.Equal(messages(es), want) {
		t.Fatalf("filtered: %v", messages(es))
	}
	if _, _, err := l.Query(t.Context(), Query{Limit: maxLimit + 1}); !errors.Is(err, store.ErrBadQuery) {
		t.Fatalf("limit: %v", err)
	}
}

func TestRepeatedIDIsStoredOnce(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Config{})
	es := add(t, l, 2)
	if err := l.Append(t.Context(), es[1], es[0], Event{ID: "zz", Time: t0, Message: "new"}, Event{ID: "zz", Message: "again"}); err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	l = open(t, dir, Config{})
	got, _ := query(t, l, Query{})
	if want := []string{"new", "m1", "m0"}; !slices.Equal(messages(got), want) {
		t.Fatalf("%v", messages(got))
	}
}

func TestDamageIsCutAndReported(t *testing.T) {
	whole := func(b []byte) []byte { return b }
	for name, harm := range map[string]func([]byte) []byte{
		"torn tail":         func(b []byte) []byte { return b[:len(b)-7] },
		"missing newline":   func(b []byte) []byte { return b[:len(b)-1] },
		"bit flip in tail":  func(b []byte) []byte { b[len(b)-20] ^= 1; return b },
		"zeroes at the end": func(b []byte) []byte { return append(whole(b), make([]byte, 4096)...) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := open(t, dir, Config{})
			add(t, l, 3)
			_ = l.Close()
			path := filepath.Join(dir, "000000000001.jsonl")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, harm(b), 0o644); err != nil {
				t.Fatal(err)
			}
			l = open(t, dir, Config{})
			es, _ := query(t, l, Query{Kind: KindEjected})
			if want := []string{"m2", "m1", "m0"}; name == "zeroes at the end" && !slices.Equal(messages(es), want) {
				t.Fatalf("lost a whole event: %v", messages(es))
			} else if name != "zeroes at the end" && !slices.Equal(messages(es), want[1:]) {
				t.Fatalf("kept %v", messages(es))
			}
			if es, _ := query(t, l, Query{Kind: KindStore}); len(es) != 1 {
				t.Fatalf("damage events: %v", messages(es))
			}
			// The repaired log takes new events and is whole when opened again.
			if err := l.Append(t.Context(), Event{Time: t0.Add(time.Minute), Kind: KindEjected, Message: "after"}); err != nil {
				t.Fatal(err)
			}
			_ = l.Close()
			l = open(t, dir, Config{})
			if st := l.Stats(); len(st.Damage) != 0 {
				t.Fatalf("still damaged: %v", st.Damage)
			}
			if es, _ := query(t, l, Query{Kind: KindEjected, Limit: 1}); es[0].Message != "after" {
				t.Fatalf("newest is %q", es[0].Message)
			}
		})
	}
}

// A write that failed and could not be undone must not take the next event with it.
func TestUnfinishedEndIsCutBeforeTheNextAppend(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(dir, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Append(t.Context(), Event{ID: "1", Message: "one"}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.file.WriteString("deadbeef {\"half"); err != nil {
		t.Fatal(err)
	}
	l.torn = true
	if err := l.Append(t.Context(), Event{ID: "2", Message: "two"}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = Open(dir, Config{}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if st := l.Stats(); st.Events != 2 || len(st.Damage) != 0 {
		t.Errorf("%+v", st)
	}
}

func TestRetention(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, Config{SegmentBytes: 400, MaxEvents: 5})
	add(t, l, 20)
	if st := l.Stats(); st.Events < 5 || st.Events > 9 {
		t.Fatalf("kept %d events", st.Events)
	}
	_ = l.Close()
	l = open(t, dir, Config{SegmentBytes: 400, MaxAge: time.Minute})
	if st := l.Stats(); st.Segments != 1 {
		t.Fatalf("old segments stayed: %+v", st)
	}
}

func TestSlowSubscriberKeepsTheLatest(t *testing.T) {
	l := open(t, t.TempDir(), Config{})
	ctx, cancel := context.WithCancel(t.Context())
	ch := l.Subscribe(ctx)
	var batch []Event
	for i := range subscriberQueue + 10 {
		batch = append(batch, Event{Time: t0, Message: fmt.Sprint(i)})
	}
	if err := l.Append(t.Context(), batch...); err != nil {
		t.Fatal(err)
	}
	if e := <-ch; e.Message != "10" {
		t.Fatalf("first is %q", e.Message)
	}
	if st := l.Stats(); st.Dropped != 10 {
		t.Fatalf("dropped %d", st.Dropped)
	}
	cancel()
	n := 0
	for range ch {
		n++
	}
	if n != subscriberQueue-1 {
		t.Fatalf("then %d", n)
	}
	_ = l.Close()
	if _, open := <-l.Subscribe(t.Context()); open {
		t.Fatal("a closed log delivered")
	}
	if err := l.Append(t.Context(), Event{}); !errors.Is(err, store.ErrClosed) {
		t.Fatalf("append after close: %v", err)
	}
}
