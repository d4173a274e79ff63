package telemetry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Under load, over renames, removals of the old name's link, signals and both at once, every line is in exactly one file, whole, and in order.
func TestRotationLosesNothing(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "access.log")
	l, err := OpenLogFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var seconds atomic.Int64
	l.now = func() time.Time { return time.Unix(seconds.Load(), 0) } // the rotation below decides when a second is over
	const records, rotations = 60_000, 40
	dropped := 0
	w := newLineWriter(l, LogJSON, func(_ dropReason, n int) { dropped += n }, nil)
	var wg sync.WaitGroup
	wg.Go(w.write)
	var done atomic.Int64
	wg.Go(func() {
		for i := range rotations {
			for done.Load() < int64((i+1)*records/(rotations+2)) { // spread over the whole run
				time.Sleep(50 * time.Microsecond)
			}
			if err := os.Rename(name, fmt.Sprintf("%s.%d", name, i)); err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
			if i%2 == 0 {
				l.Reopen()
			} else {
				seconds.Add(1)
			}
		}
	})
	batch := make([]flow.Record, 100)
	for n := 0; n < records; n += len(batch) {
		for i := range batch {
			batch[i] = flow.Record{Kind: flow.KindExchange, Path: fmt.Sprintf("/%d", n+i)}
		}
		for len(w.blocks) == cap(w.blocks) { // a full queue drops, which is not what is tested
			time.Sleep(10 * time.Microsecond)
		}
		w.format(batch)
		done.Add(int64(len(batch)))
	}
	close(w.blocks)
	wg.Wait()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	files, err := filepath.Glob(name + "*")
	if err != nil {
		t.Fatal(err)
	}
	seen := make([]int, records)
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		last := -1
		for line := range bytes.Lines(b) {
			var got map[string]any
			if err := json.Unmarshal(line, &got); err != nil || line[len(line)-1] != '\n' {
				t.Fatalf("%s: torn line %q: %v", f, line, err)
			}
			var n int
			if _, err := fmt.Sscanf(got[flow.AttrPath].(string), "/%d", &n); err != nil || n <= last {
				t.Fatalf("%s: %q after %d: %v", f, line, last, err)
			}
			last = n
			seen[n]++
		}
	}
	for n, times := range seen {
		if times != 1 {
			t.Fatalf("line %d is there %d times (%d dropped)", n, times, dropped)
		}
	}
	if len(files) < rotations/4 || dropped != 0 {
		t.Errorf("%d files, %d lines dropped", len(files), dropped)
	}
}

func TestLogFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "access.log")
	l, err := OpenLogFile(name)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(0, 0)
	l.now = func() time.Time { return now }
	write := func(s string) {
		t.Helper()
		if _, err := l.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	is := func(file, want string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || string(b) != want {
			t.Errorf("%s has %q, want %q (%v)", file, b, want, err)
		}
	}
	l.checked = now
	write("a")
	_ = os.Rename(name, name+".1")
	write("b") // within the second
	now = now.Add(checkName)
	write("c")
	is("access.log.1", "ab")
	is("access.log", "c")

	// copytruncate: the file stays, its end moves.
	if err := os.Truncate(name, 0); err != nil {
		t.Fatal(err)
	}
	write("d")
	is("access.log", "d")

	_ = os.Remove(name)
	l.Reopen()
	write("e")
	is("access.log", "e")

	// A name that cannot be opened: lines stay in the old file until it can.
	_ = os.Rename(name, name+".2")
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	now = now.Add(checkName)
	write("f")
	is("access.log.2", "ef")
	_ = os.Remove(name)
	now = now.Add(checkName)
	write("g")
	is("access.log", "g")

	for range 2 {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := l.Write([]byte("x")); err == nil {
		t.Error("a Write after Close succeeded")
	}
	if _, err := OpenLogFile(dir); err == nil {
		t.Error("a folder was opened as a log")
	}
}
