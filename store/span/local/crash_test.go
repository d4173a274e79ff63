package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/storetest"
)

var base = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) // the same in the child process

// numbered is batch n of a crash test: three spans of one trace.
func numbered(n uint64) ptrace.Traces {
	var spans []storetest.Span
	for i := range uint64(3) {
		s := storetest.Span{
			Trace: n, ID: 3*n + i + 1, Service: "svc", Name: "op", Start: base.Add(time.Duration(n) * time.Millisecond), Attrs: map[string]any{"n": int64(n), "pad": strings.Repeat("x", int(n%50))}, //nolint:gosec // small
		}
		if i == 0 && n%3 == 0 { // worth keeping
			s.Attrs[flow.AttrReason] = "timeout"
		}
		spans = append(spans, s)
	}
	return storetest.Batch(spans...)
}

// holds checks that each of the batches is there exactly once, and that every batch which is there is whole.
func holds(t *testing.T, db *DB, acked []uint64) {
	t.Helper()
	there := map[flow.TraceID]bool{}
	for q := (store.TraceQuery{Limit: 5000}); ; {
		p, err := db.Summaries(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range p.Traces {
			if s.Spans != 3 || there[s.TraceID] {
				t.Fatalf("trace %s has %d spans, want 3, once", s.ID, s.Spans)
			}
			there[s.TraceID] = true
		}
		if q.Cursor = p.Next; q.Cursor == "" {
			break
		}
	}
	for i, n := range acked {
		if !there[storetest.TraceID(n)] {
			t.Fatalf("acknowledged batch %d is lost", n)
		}
		if len(acked) > 200 && i%40 != 0 {
			continue // bodies of a sample are enough
		}
		td, err := db.Trace(t.Context(), storetest.TraceID(n))
		if err != nil {
			t.Fatalf("acknowledged batch %d: %v", n, err)
		}
		if got, want := storetest.Canonical(td), storetest.Canonical(numbered(n)); !slices.Equal(got, want) {
			t.Fatalf("acknowledged batch %d reads back as\n%v\nwant\n%v", n, got, want)
		}
	}
}

// childDir names the environment variable that turns the test binary into a writer which is killed.
const childDir = "TULLE_TEST_SPANS_CHILD"

// childThins names the one by which the writer thins out all that it merges.
const childThins = "TULLE_TEST_SPANS_THIN"

// kept are the batches that thinning never leaves out.
func kept(ns []uint64) (out []uint64) {
	for _, n := range ns {
		if n%3 == 0 || sampled(storetest.TraceID(n), defaultThinKeep) {
			out = append(out, n)
		}
	}
	return out
}

// child writes batches from four goroutines and prints the number of each once it is acknowledged.
func child() {
	cfg := Config{Dir: os.Getenv(childDir), FS: roomy{}, SealSpans: 300, SealAge: 50 * time.Millisecond, compaction: eager}
	if os.Getenv(childThins) != "" {
		cfg.ThinBytes, cfg.ThinAfter, cfg.compaction.window, cfg.compaction.grace = 1, time.Nanosecond, 100*time.Millisecond, 0
	}
	db, err := Open(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	from, _ := strconv.ParseUint(os.Getenv("TULLE_TEST_SPANS_FROM"), 10, 64)
	var next atomic.Uint64
	next.Store(from)
	var wg sync.WaitGroup
	var mu sync.Mutex
	for range 4 {
		wg.Go(func() {
			for {
				n := next.Add(1)
				switch err := db.Write(context.Background(), numbered(n)); {
				case errors.Is(err, store.ErrBusy):
					continue
				case err != nil:
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				mu.Lock()
				fmt.Println(n) // unbuffered: one write
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// crashRounds names the environment variable that says how often the writer is killed: make crash says 200.
const crashRounds = "TULLE_CRASH_ROUNDS"

// A writer is killed again and again while it writes, seals and merges: what it acknowledged is there, once, and nothing is damaged.
func TestKilledWriterLosesNothingItAcknowledged(t *testing.T) {
	t.Run("merging", func(t *testing.T) { killedWriter(t, false) })
	t.Run("thinning", func(t *testing.T) { killedWriter(t, true) })
}

func killedWriter(t *testing.T, thins bool) {
	dir := t.TempDir()
	var acked []uint64
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // reproducible on purpose
	last := uint64(0)
	rounds := 4
	if s := os.Getenv(crashRounds); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatalf("%s=%s: %v", crashRounds, s, err)
		}
	}
	merged := ".1" + parquetSuffix
	if thins {
		merged = ".3" + parquetSuffix
	}
	var killedIn [3]int // rounds that left: a temporary file, an old block beside the one that replaces it, a merged or thinned block
	for round := range rounds {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$") //nolint:gosec // this very binary
		cmd.Env = append(os.Environ(), childDir+"="+dir, "TULLE_TEST_SPANS_FROM="+strconv.FormatUint(last+100, 10))
		if thins {
			cmd.Env = append(cmd.Env, childThins+"=1")
		}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		stopAt := 100 + r.IntN(600) // acknowledgements, then the kill lands wherever the writers are
		sc := bufio.NewScanner(out)
		for k := 0; sc.Scan(); k++ {
			n, err := strconv.ParseUint(sc.Text(), 10, 64)
			if err != nil {
				break // the line that the kill cut
			}
			acked = append(acked, n)
			last = max(last, n)
			if k == stopAt && k < 20_000 && round == rounds-1 && killedIn[2] == 0 && len(blockFiles(t, dir, merged)) == 0 { // at least one round must see merged blocks
				stopAt += 20
				continue
			}
			if k == stopAt {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || stderr.Len() > 0 {
			t.Fatalf("round %d: the writer ended by itself: %v %s", round, err, stderr.String())
		}
		if len(blockFiles(t, dir, tmpSuffix)) > 0 {
			killedIn[0]++
		}
		before := len(blockFiles(t, dir, parquetSuffix))
		db := open(t, Config{Dir: dir, SealAge: time.Hour, compaction: never})
		s := db.Stats()
		if thins {
			holds(t, db, kept(acked))
		} else {
			holds(t, db, acked)
		}
		if s.Blocks < before {
			killedIn[1]++
		}
		if thins && s.LeftOutTraces > 0 || !thins && len(blockFiles(t, dir, merged)) > 0 {
			killedIn[2]++
		}
		if s.Corrupt != uint64(len(damagedTails(t, dir))) { //nolint:gosec // a length
			t.Fatalf("round %d: damage beside the torn end of the log: %s", round, s.LastError)
		}
		if err := os.RemoveAll(filepath.Join(dir, "damaged")); err != nil {
			t.Fatal(err)
		}
		if round == rounds-1 && (s.Blocks == 0 || killedIn[2] == 0) {
			t.Error("nothing was ever sealed and merged: the test does not test it")
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, %d acknowledged batches; %d left a half-written file, %d an old block beside its successor", rounds, len(acked), killedIn[0], killedIn[1])
}

func damagedTails(t *testing.T, dir string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(dir, "damaged", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// snapshots copies the directory before every operation that changes it: the states in which a crash could leave it.
type snapshots struct {
	roomy
	t    *testing.T
	dir  string
	on   atomic.Bool
	mu   sync.Mutex
	dirs []string
	at   []int // acknowledged batches when each was taken
	done func() int
}

// take holds mu, as does what it is called before: a copy is of one instant.
func (s *snapshots) take() {
	if !s.on.Load() {
		return
	}
	to := filepath.Join(s.t.TempDir(), "copy")
	n := s.done()
	if err := os.CopyFS(to, os.DirFS(s.dir)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Error(err)
	}
	s.dirs, s.at = append(s.dirs, to), append(s.at, n)
}

func (s *snapshots) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if flag&os.O_CREATE != 0 {
		s.take()
	}
	f, err := s.roomy.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &snapshotFile{f, s}, nil
}

func (s *snapshots) Rename(a, b string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take()
	return s.roomy.Rename(a, b)
}

func (s *snapshots) Remove(a string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take()
	return s.roomy.Remove(a)
}

type snapshotFile struct {
	File
	s *snapshots
}

func (f *snapshotFile) Write(b []byte) (int, error) {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.s.take()
	return f.File.Write(b)
}

func (f *snapshotFile) Sync() error {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	f.s.take()
	return f.File.Sync()
}

func TestEveryInstantOfSealingIsSafeToCrashIn(t *testing.T) {
	dir := t.TempDir()
	var acked atomic.Int64
	s := &snapshots{t: t, dir: dir, done: func() int { return int(acked.Load()) }}
	merging := eager
	merging.fanIn = 3
	db := open(t, Config{Dir: dir, FS: s, SealSpans: 12, SealAge: time.Hour, compaction: merging})
	s.on.Store(true)
	for n := range uint64(13) {
		if err := db.Write(t.Context(), numbered(n)); err != nil {
			t.Fatal(err)
		}
		acked.Add(1)
	}
	until(t, "three blocks are sealed and merged", func() bool { return db.Stats().Blocks == 1 && len(blockFiles(t, dir, parquetSuffix)) == 1 })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s.on.Store(false)
	if len(s.dirs) < 40 {
		t.Fatalf("only %d instants", len(s.dirs))
	}
	for i, d := range s.dirs {
		db, err := Open(Config{Dir: d, FS: roomy{}, SealSpans: 12, compaction: never})
		if err != nil {
			t.Fatalf("instant %d: %v", i, err)
		}
		var want []uint64
		for n := range s.at[i] {
			want = append(want, uint64(n)) //nolint:gosec // small
		}
		holds(t, db, want)
		if st := db.Stats(); st.Corrupt != 0 {
			t.Errorf("instant %d: %s", i, st.LastError)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// segment writes n batches and returns the bytes of the log and the offset behind each record.
func segment(t *testing.T, n int) (data []byte, name string, ends []int) {
	t.Helper()
	dir := t.TempDir()
	db := open(t, Config{Dir: dir, SealAge: time.Hour})
	for i := range n {
		if err := db.Write(t.Context(), numbered(uint64(i))); err != nil { //nolint:gosec // small
			t.Fatal(err)
		}
	}
	path := db.wal.path
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path) //nolint:gosec // the test's own
	if err != nil {
		t.Fatal(err)
	}
	off := walHeaderSize
	if _, bad, err := readSegment(data, func(r walRecord) error {
		off += recordHead + payloadHead + len(r.data)
		ends = append(ends, off)
		return nil
	}); err != nil || len(bad) > 0 || len(ends) != n || off != len(data) {
		t.Fatalf("%d records, %d damaged ranges, %v", len(ends), len(bad), err)
	}
	return data, filepath.Base(path), ends
}

func openWith(t *testing.T, name string, data []byte) (*DB, string, *events) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "wal", name), data, 0o600); err != nil {
		t.Fatal(err)
	}
	ev := &events{}
	return open(t, Config{Dir: dir, OnEvent: ev.add, SealAge: time.Hour}), dir, ev
}

func TestTornTailIsCutAndReported(t *testing.T) {
	data, name, ends := segment(t, 6)
	last := ends[4]
	for cut := last + 1; cut < len(data); cut += 13 {
		db, dir, ev := openWith(t, name, data[:cut])
		holds(t, db, []uint64{0, 1, 2, 3, 4})
		if !ev.has(event.KindStore, "cut off") || db.Stats().Corrupt != 1 || !strings.Contains(db.Stats().LastError, "damaged") {
			t.Fatalf("cut at %d: not reported: %+v", cut, db.Stats())
		}
		aside, err := filepath.Glob(filepath.Join(dir, "damaged", "*"))
		if err != nil || len(aside) != 1 {
			t.Fatalf("cut at %d: %v set aside, %v", cut, aside, err)
		}
		kept, err := os.ReadFile(aside[0])
		if err != nil || string(kept) != string(data[last:cut]) {
			t.Fatalf("cut at %d: %d bytes kept aside, %v", cut, len(kept), err)
		}
		if err := db.Close(); err != nil { // the next start finds nothing to say
			t.Fatal(err)
		}
		again := open(t, Config{Dir: dir, SealAge: time.Hour})
		holds(t, again, []uint64{0, 1, 2, 3, 4})
		if again.Stats().Corrupt != 0 {
			t.Fatalf("cut at %d: reported twice: %s", cut, again.Stats().LastError)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
	db, _, _ := openWith(t, name, append(append([]byte(nil), data...), make([]byte, 4096)...)) // zeros, as some file systems leave
	holds(t, db, []uint64{0, 1, 2, 3, 4, 5})
}

func TestBitFlipCostsOneBatch(t *testing.T) {
	data, name, ends := segment(t, 8)
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // reproducible on purpose
	for round := range 60 {
		d := append([]byte(nil), data...)
		at := r.IntN(len(d))
		d[at] ^= 1 << r.IntN(8)
		hit := 0 // the record it is in; in the header of the segment it costs none
		for hit < len(ends) && ends[hit] <= at {
			hit++
		}
		var want []uint64
		for n := range uint64(8) {
			if at < walHeaderSize || n != uint64(hit) { //nolint:gosec // small
				want = append(want, n)
			}
		}
		db, _, _ := openWith(t, name, d)
		holds(t, db, want)
		if db.Stats().Corrupt == 0 {
			t.Fatalf("seed %d round %d: a flip at %d was not noticed", seed, round, at)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func FuzzReadSegment(f *testing.F) {
	rec := func(seq uint64, s string) []byte {
		b := newRecord([]byte(s))
		finishRecord(b, seq, 1)
		return b
	}
	good := append(rec(1, "one"), rec(2, "two")...)
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add(append([]byte{1, 2, 3}, good...))
	f.Add(append(append(rec(1, "x"), 'T', 'W', 'R', '1', 255, 255, 255, 255), rec(2, "y")...))
	f.Fuzz(func(t *testing.T, data []byte) {
		// Whatever comes before, a whole record behind it is found, and ranges cover what is not a record.
		marker := rec(77, "the end")
		all := append(append([]byte(nil), data...), marker...)
		size, found := 0, false
		_, bad, err := readSegment(all, func(r walRecord) error {
			size += recordHead + payloadHead + len(r.data)
			got, err := r.unpack()
			found = found || r.seq == 77 && err == nil && string(got) == "the end"
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range bad {
			if d.to <= d.from {
				t.Fatalf("empty range %+v", d)
			}
			size += int(d.to - d.from)
		}
		if !found && !strings.Contains(string(data), "TWR1") { // a record that data begins may swallow it
			t.Fatal("the record behind the damage was not found")
		}
		if size != len(all) && size != len(all)-walHeaderSize {
			t.Fatalf("%d of %d bytes accounted for", size, len(all))
		}
	})
}
