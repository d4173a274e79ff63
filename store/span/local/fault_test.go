package local

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/storetest"
)

// faulty fails operations on paths that contain match, with err, and tears writes in half.
type faulty struct {
	roomy
	mu    sync.Mutex
	match string
	err   error
	free  atomic.Uint64 // 0: plenty

	slow string // writes to paths that contain it wait for gate
	gate chan struct{}
	held atomic.Int32 // writes that have waited
}

func (f *faulty) hold(slow string, gate chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slow, f.gate = slow, gate
}

func (f *faulty) set(match string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.match, f.err = match, err
}

func (f *faulty) fault(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range strings.Split(f.match, ",") {
		if f.err != nil && strings.Contains(name, m) {
			return &fs.PathError{Op: "write", Path: name, Err: f.err}
		}
	}
	return nil
}

func (f *faulty) Rename(from, to string) error {
	if err := f.fault(to + "#rename"); err != nil {
		return err
	}
	return f.roomy.Rename(from, to)
}

func (f *faulty) Remove(name string) error {
	if err := f.fault(name + "#remove"); err != nil {
		return err
	}
	return f.roomy.Remove(name)
}

func (f *faulty) SyncDir(name string) error {
	if err := f.fault(name + "#syncdir"); err != nil {
		return err
	}
	return f.roomy.SyncDir(name)
}

func (f *faulty) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	if flag&os.O_CREATE != 0 {
		if err := f.fault(name); err != nil {
			return nil, err
		}
	}
	x, err := f.roomy.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return &faultyFile{x, f, name}, nil
}

func (f *faulty) Free(dir string) (uint64, uint64, error) {
	if n := f.free.Load(); n > 0 {
		return n, 100 << 20, nil
	}
	return f.roomy.Free(dir)
}

type faultyFile struct {
	File
	f    *faulty
	name string
}

func (x *faultyFile) ReadAt(b []byte, off int64) (int, error) {
	if err := x.f.fault(x.name + "#read"); err != nil {
		return 0, err
	}
	return x.File.ReadAt(b, off)
}

func (x *faultyFile) Write(b []byte) (int, error) {
	x.f.mu.Lock()
	slow, gate := x.f.slow, x.f.gate
	x.f.mu.Unlock()
	if slow != "" && strings.Contains(x.name, slow) {
		x.f.held.Add(1)
		<-gate
	}
	if err := x.f.fault(x.name); err != nil {
		n, _ := x.File.Write(b[:len(b)/2]) // torn
		return n, err
	}
	return x.File.Write(b)
}

func (x *faultyFile) Sync() error {
	if err := x.f.fault(x.name + "#sync"); err != nil {
		return err
	}
	return x.File.Sync()
}

func TestFullDiskRefusesAndRecovers(t *testing.T) {
	for _, c := range []struct {
		name, match string
		err         error
		want        error
	}{
		{"no space", walSuffix, syscall.ENOSPC, store.ErrFull},
		{"quota", walSuffix, syscall.EDQUOT, store.ErrFull},
		{"i/o error", walSuffix, syscall.EIO, store.ErrBusy},
		{"fsync fails", "#sync", syscall.EIO, store.ErrBusy},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, fsys, ev := t.TempDir(), &faulty{}, &events{}
			db := open(t, Config{Dir: dir, FS: fsys, SealAge: time.Hour, OnEvent: ev.add})
			write := func(n uint64) error { return db.Write(t.Context(), numbered(n)) }
			if err := write(1); err != nil {
				t.Fatal(err)
			}
			fsys.set(c.match, c.err)
			for n := range uint64(3) {
				if err := write(10 + n); !errors.Is(err, c.want) {
					t.Fatalf("write: %v, want %v", err, c.want)
				}
			}
			if s := db.Stats().LastError; s == "" || !ev.has(event.KindDisk, "log") {
				t.Errorf("not reported: LastError %q", s)
			}
			if _, err := db.Trace(t.Context(), storetest.TraceID(10)); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("a refused batch is there: %v", err)
			}
			holds(t, db, []uint64{1}) // reading goes on
			fsys.set("", nil)
			if err := write(2); err != nil {
				t.Fatalf("after there was space again: %v", err)
			}
			if s := db.Stats().LastError; s != "" {
				t.Errorf("still unwell: %s", s)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			db = open(t, Config{Dir: dir, FS: roomy{}, SealAge: time.Hour})
			holds(t, db, []uint64{1, 2})
			if _, err := db.Trace(t.Context(), storetest.TraceID(10)); !errors.Is(err, store.ErrNotFound) || db.Stats().Corrupt != 0 {
				t.Errorf("a refused batch came back, or left damage: %v %s", err, db.Stats().LastError)
			}
		})
	}
}

func TestBlocksThatCannotBeWrittenStayInMemoryAndBounded(t *testing.T) {
	dir, fsys := t.TempDir(), &faulty{}
	fsys.set("blocks", syscall.ENOSPC)
	db := open(t, Config{Dir: dir, FS: fsys, SealSpans: 30, SealAge: time.Hour})
	var acked []uint64
	n := uint64(0)
	until(t, "memory is full and writes are refused", func() bool {
		err := db.Write(t.Context(), numbered(n))
		if err == nil {
			acked = append(acked, n)
		}
		n++
		return errors.Is(err, store.ErrFull)
	})
	if len(acked) > 100 {
		t.Errorf("%d batches were taken into memory", len(acked))
	}
	holds(t, db, acked)
	if db.Stats().LastError == "" {
		t.Error("not reported")
	}
	fsys.set("", nil)
	until(t, "the blocks are written", func() bool { return db.Stats().Blocks >= 3 && db.Stats().LastError == "" })
	if err := db.Write(t.Context(), numbered(n)); err != nil {
		t.Fatal(err)
	}
	holds(t, db, append(acked, n))
	if tmp := blockFiles(t, dir, tmpSuffix); len(tmp) != 0 {
		t.Errorf("left over: %v", tmp)
	}
}

// sealed makes a store with several blocks and returns their files.
func sealed(t *testing.T, blocks int) (dir string, files []string) {
	t.Helper()
	dir = t.TempDir()
	db := open(t, Config{Dir: dir, SealSpans: 30, SealAge: time.Hour})
	for n := range uint64(10 * blocks) { //nolint:gosec // small
		for errors.Is(db.Write(t.Context(), numbered(n)), store.ErrBusy) {
			<-time.NewTimer(time.Millisecond).C
		}
		until(t, "the block is sealed", func() bool { return n%10 != 9 || db.Stats().Blocks == int(n/10)+1 }) //nolint:gosec // small
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, blockFiles(t, dir, parquetSuffix)
}

func TestDamagedBlockIsIsolated(t *testing.T) {
	for name, hurt := range map[string]func([]byte) []byte{
		"page":      func(b []byte) []byte { b[64] ^= 0x10; return b },
		"footer":    func(b []byte) []byte { b[len(b)-40] ^= 0x10; return b },
		"magic":     func(b []byte) []byte { b[len(b)-1] = 0; return b },
		"truncated": func(b []byte) []byte { return b[:len(b)/2] },
		"empty":     func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir, files := sealed(t, 3)
			if len(files) != 3 {
				t.Fatalf("%d blocks", len(files))
			}
			b, err := os.ReadFile(files[1])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(files[1], hurt(b), 0o600); err != nil { //nolint:gosec // the test's own
				t.Fatal(err)
			}
			ev := &events{}
			db := open(t, Config{Dir: dir, OnEvent: ev.add})
			// A search that reads every column that is used.
			for n := range uint64(30) {
				td, err := db.Trace(t.Context(), storetest.TraceID(n))
				switch {
				case n/10 != 1 && (err != nil || td.SpanCount() != 3):
					t.Fatalf("trace %d of a healthy block: %v", n, err)
				case n/10 == 1 && err != nil && !errors.Is(err, store.ErrNotFound):
					t.Fatalf("trace %d of the damaged block: %v, want ErrNotFound", n, err)
				case n/10 == 1 && err == nil:
					for _, rs := range td.ResourceSpans().All() { // served before the damage was met: then it must be right
						if rs.ScopeSpans().At(0).Spans().At(0).Name() != "op" {
							t.Fatalf("trace %d is wrong", n)
						}
					}
				}
			}
			if err := db.Spans(t.Context(), store.TraceQuery{Limit: 1000, Attributes: []store.AttributeMatch{{Key: "pad", Op: "!=", Value: "q"}}}, func(store.Span) bool { return true }); err != nil {
				t.Fatal(err)
			}
			if len(blockFiles(t, dir, ".damaged")) != 1 || !ev.has(event.KindStore, "is damaged") || db.Stats().Corrupt != 1 || db.Stats().Blocks != 2 {
				t.Fatalf("not isolated: %+v", db.Stats())
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if again := open(t, Config{Dir: dir}); again.Stats().Corrupt != 0 || again.Stats().Blocks != 2 {
				t.Errorf("met again at the next start: %+v", again.Stats())
			}
		})
	}
}

// A flipped bit anywhere in a block may cost the block, never the truth of what is served.
func TestFlippedBitIsNeverServed(t *testing.T) {
	dir, files := sealed(t, 1)
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	idx, err := os.ReadFile(strings.TrimSuffix(files[0], parquetSuffix) + idxSuffix)
	if err != nil {
		t.Fatal(err)
	}
	const seed = 3
	r := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // reproducible on purpose
	isolated := 0
	for round := range 120 {
		b := append([]byte(nil), whole...)
		at, bit := r.IntN(len(b)), r.IntN(8)
		b[at] ^= 1 << bit
		if err := os.WriteFile(files[0], b, 0o600); err != nil { //nolint:gosec // the test's own
			t.Fatal(err)
		}
		if err := os.WriteFile(strings.TrimSuffix(files[0], parquetSuffix)+idxSuffix, idx, 0o600); err != nil { //nolint:gosec // the test's own
			t.Fatal(err)
		}
		db := open(t, Config{Dir: dir})
		for n := range uint64(10) {
			td, err := db.Trace(t.Context(), storetest.TraceID(n))
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				t.Fatalf("seed %d round %d: byte %d bit %d: %v", seed, round, at, bit, err)
			}
			if got, want := storetest.Canonical(td), storetest.Canonical(numbered(n)); !slices.Equal(got, want) {
				t.Fatalf("seed %d round %d: byte %d bit %d: served\n%v\nwant\n%v", seed, round, at, bit, got, want)
			}
		}
		isolated += int(db.Stats().Corrupt) //nolint:gosec // small
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if isolated < 30 {
		t.Errorf("only %d of 120 flips were noticed", isolated)
	}
}

func TestDamagedSidecarIsDerivedAnew(t *testing.T) {
	dir, _ := sealed(t, 2)
	for _, f := range blockFiles(t, dir, idxSuffix) {
		b, err := os.ReadFile(f) //nolint:gosec // the test's own
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-3] ^= 1                                  // in the summaries: met only when they are read
		if err := os.WriteFile(f, b, 0o600); err != nil { //nolint:gosec // the test's own
			t.Fatal(err)
		}
	}
	db := open(t, Config{Dir: dir})
	var all []uint64
	for n := range uint64(20) {
		all = append(all, n)
	}
	holds(t, db, all)
	if db.Stats().Blocks != 2 || db.Stats().Corrupt != 0 {
		t.Fatalf("%+v", db.Stats())
	}
}

// A full disk at the start must not cost a healthy block that has lost its sidecar.
func TestLostSidecarOnAFullDiskCostsNothing(t *testing.T) {
	dir, _ := sealed(t, 2)
	for _, f := range blockFiles(t, dir, idxSuffix) {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	fsys := &faulty{}
	fsys.set(idxSuffix, syscall.ENOSPC)
	db := open(t, Config{Dir: dir, FS: fsys})
	var all []uint64
	for n := range uint64(20) {
		all = append(all, n)
	}
	holds(t, db, all)
	if db.Stats().Blocks != 2 || db.Stats().Corrupt != 0 || len(blockFiles(t, dir, ".damaged")) != 0 {
		t.Fatalf("%+v", db.Stats())
	}
}

// What goes wrong while blocks are merged costs nothing: the old blocks are served, the trouble is reported, nothing is left behind, and once it is over
// they are merged.
func TestMergeThatFailsCostsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		match string
		err   error
	}{
		"no space for the body":      {".1" + parquetSuffix, syscall.ENOSPC},
		"no space for the sidecar":   {".1" + idxSuffix, syscall.ENOSPC},
		"i/o error while written":    {".1" + parquetSuffix, syscall.EIO},
		"fsync of the body fails":    {".1" + parquetSuffix + tmpSuffix + "#sync", syscall.EIO},
		"fsync of the sidecar fails": {".1" + idxSuffix + tmpSuffix + "#sync", syscall.EIO},
		"the rename fails":           {".1" + parquetSuffix + "#rename", syscall.EIO},
		"fsync of the folder fails":  {"PARTITION#syncdir", syscall.EIO},
		"a block cannot be read":     {parquetSuffix + "#read", syscall.EIO},
		"removal fails, at first":    {".1" + parquetSuffix + "#rename,tmp#remove", syscall.EIO},
	} {
		t.Run(name, func(t *testing.T) {
			dir, files := sealed(t, 4)
			fsys, ev := &faulty{}, &events{}
			merging := eager
			merging.retry = time.Millisecond
			fsys.set(strings.Replace(c.match, "PARTITION", filepath.Base(filepath.Dir(files[0])), 1), c.err)
			db := open(t, Config{Dir: dir, FS: fsys, SealAge: time.Hour, OnEvent: ev.add, compaction: merging})
			until(t, "the trouble is noticed", func() bool {
				db.wake(db.compact)
				return strings.Contains(db.Stats().LastError, "cannot be merged")
			})
			if !ev.has(event.KindDisk, "cannot be merged") {
				t.Error("no event")
			}
			var all []uint64
			for n := range uint64(40) {
				all = append(all, n)
			}
			if !strings.Contains(c.match, "#read") {
				holds(t, db, all)
			}
			if s := db.Stats(); s.Blocks != 4 || s.Corrupt != 0 {
				t.Errorf("%+v", s)
			}
			fsys.set("", nil)
			until(t, "the blocks are merged", func() bool {
				db.wake(db.compact)
				return db.Stats().Blocks == 1 && db.Stats().LastError == "" && len(blockFiles(t, dir, parquetSuffix)) == 1
			})
			holds(t, db, all)
			if left := blockFiles(t, dir, tmpSuffix); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			again := open(t, Config{Dir: dir, compaction: never})
			holds(t, again, all)
			if s := again.Stats(); s.Corrupt != 0 || s.Blocks != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// A block that is damaged is found when it is merged: it is set aside, and the others are merged without it.
func TestDamageIsFoundByMerging(t *testing.T) {
	for name, hurt := range map[string]func([]byte) []byte{
		"page":      func(b []byte) []byte { b[64] ^= 0x10; return b },
		"footer":    func(b []byte) []byte { b[len(b)-40] ^= 0x10; return b },
		"truncated": func(b []byte) []byte { return b[:len(b)/2] },
	} {
		t.Run(name, func(t *testing.T) {
			dir, files := sealed(t, 4)
			b, err := os.ReadFile(files[1])
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(files[1], hurt(b), 0o600); err != nil { //nolint:gosec // the test's own
				t.Fatal(err)
			}
			ev := &events{}
			db := open(t, Config{Dir: dir, OnEvent: ev.add, SealAge: time.Hour, compaction: eager})
			until(t, "the others are merged", func() bool { db.wake(db.compact); return db.Stats().Blocks == 1 })
			if len(blockFiles(t, dir, damagedSuffix)) != 1 || !ev.has(event.KindStore, "is damaged") || db.Stats().Corrupt != 1 {
				t.Errorf("not reported: %+v", db.Stats())
			}
			var rest []uint64
			for n := range uint64(40) {
				if n/10 != 1 {
					rest = append(rest, n)
				}
			}
			holds(t, db, rest)
		})
	}
}

// A flipped bit in a block that is merged is never carried over: what the new block serves is what was written.
func TestFlippedBitIsNeverMerged(t *testing.T) {
	dir, files := sealed(t, 2)
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 5)) //nolint:gosec // reproducible on purpose
	for round := range 30 {
		copied := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		b := append([]byte(nil), whole...)
		at := r.IntN(len(b))
		b[at] ^= 1 << r.IntN(8)
		if err := os.WriteFile(blockFiles(t, copied, parquetSuffix)[0], b, 0o600); err != nil { //nolint:gosec // the test's own
			t.Fatal(err)
		}
		db := open(t, Config{Dir: copied, SealAge: time.Hour, compaction: eager})
		until(t, "it is merged or set aside", func() bool { db.wake(db.compact); return db.Stats().Blocks == 1 })
		for n := range uint64(20) {
			td, err := db.Trace(t.Context(), storetest.TraceID(n))
			if errors.Is(err, store.ErrNotFound) && n < 10 {
				continue
			}
			if err != nil {
				t.Fatalf("round %d: byte %d: trace %d: %v", round, at, n, err)
			}
			if got, want := storetest.Canonical(td), storetest.Canonical(numbered(n)); !slices.Equal(got, want) {
				t.Fatalf("round %d: byte %d: served\n%v\nwant\n%v", round, at, got, want)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A disk on which every write takes its time delays merges, not what is written meanwhile.
func TestSlowDiskDelaysOnlyMerges(t *testing.T) {
	dir, _ := sealed(t, 4)
	fsys := &faulty{}
	gate := make(chan struct{})
	fsys.hold(".1"+parquetSuffix, gate)
	db := open(t, Config{Dir: dir, FS: fsys, SealSpans: 30, SealAge: time.Hour, compaction: eager})
	until(t, "the merge hangs in a write", func() bool { db.wake(db.compact); return fsys.held.Load() > 0 })
	var all []uint64
	for n := range uint64(60) {
		if n >= 40 {
			for errors.Is(db.Write(t.Context(), numbered(n)), store.ErrBusy) {
				<-time.NewTimer(time.Millisecond).C
			}
		}
		all = append(all, n)
	}
	until(t, "what came meanwhile is sealed", func() bool { return db.Stats().Blocks == 6 })
	holds(t, db, all)
	close(gate)
	until(t, "all is merged", func() bool { db.wake(db.compact); return db.Stats().Blocks <= 2 })
	holds(t, db, all)
}

func TestRetention(t *testing.T) {
	t.Run("bytes", func(t *testing.T) {
		dir, files := sealed(t, 4)
		size := int64(0)
		for _, f := range files[2:] {
			for _, x := range []string{f, strings.TrimSuffix(f, parquetSuffix) + idxSuffix} {
				st, err := os.Stat(x)
				if err != nil {
					t.Fatal(err)
				}
				size += st.Size()
			}
		}
		db := open(t, Config{Dir: dir, RetainBytes: uint64(size)}) //nolint:gosec // a size
		db.retain(time.Now())
		if s := db.Stats(); s.Blocks != 2 || s.Bytes > uint64(size) { //nolint:gosec // a size
			t.Fatalf("%+v, want the two newest blocks", s)
		}
		holds(t, db, []uint64{20, 29, 30, 39})
		if _, err := db.Trace(t.Context(), storetest.TraceID(1)); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("the oldest: %v", err)
		}
	})
	t.Run("age", func(t *testing.T) {
		dir, _ := sealed(t, 2)
		db := open(t, Config{Dir: dir, RetainAge: time.Hour})
		db.retain(time.Now().Add(50 * time.Minute))
		if db.Stats().Blocks != 2 {
			t.Fatal("removed too early")
		}
		db.retain(time.Now().Add(61 * time.Minute))
		if db.Stats().Blocks != 0 || len(blockFiles(t, dir, "")) != 0 {
			t.Fatal("not removed")
		}
		if left, err := os.ReadDir(filepath.Join(dir, "blocks")); err != nil || len(left) != 0 {
			t.Fatalf("empty partitions stay: %v %v", left, err)
		}
	})
	t.Run("disk nearly full", func(t *testing.T) {
		dir, _ := sealed(t, 3)
		fsys, ev := &faulty{}, &events{}
		fsys.free.Store(5<<20 - 100) // of 100 MiB: a little less than 5 %
		db := open(t, Config{Dir: dir, FS: fsys, OnEvent: ev.add})
		db.retain(time.Now())
		if db.Stats().Blocks != 2 || !ev.has(event.KindDisk, "removed early") {
			t.Fatalf("%d blocks, want 2: the oldest is shed, with an event", db.Stats().Blocks)
		}
		if e := db.Stats().LastError; !strings.Contains(e, "less than 5 % of the disk") || !strings.Contains(e, "Free some space") {
			t.Errorf("LastError %q, want what is wrong and what to do", e)
		}
		holds(t, db, []uint64{10, 29})
		fsys.free.Store(50 << 20)
		db.retain(time.Now())
		if e := db.Stats().LastError; e != "" {
			t.Errorf("there is space again, and still: %s", e)
		}
	})
}

func TestDirectoryHasOneUser(t *testing.T) {
	dir := t.TempDir()
	db := open(t, Config{Dir: dir})
	if _, err := Open(Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("second open: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, Config{Dir: dir})
}

// foreign is how another Parquet reader sees a few of the columns.
type foreign struct {
	TraceID    [16]byte          `parquet:"trace_id"`
	Start      int64             `parquet:"start_unix_nano"`
	Service    string            `parquet:"service"`
	Method     *string           `parquet:"http_request_method,optional"`
	Status     *int64            `parquet:"http_response_status_code,optional"`
	Attributes map[string]fValue `parquet:"attributes"`
}

type fValue struct {
	Raw   []byte `parquet:"raw,optional"`
	Type  int32  `parquet:"type"`
	Value string `parquet:"value"`
}

func TestBlocksAreOrdinaryParquet(t *testing.T) {
	dir := t.TempDir()
	db := open(t, Config{Dir: dir, SealSpans: 9000, SealAge: time.Hour})
	var spans []storetest.Span
	for n := range uint64(9000) {
		s := storetest.Span{Trace: n / 3, ID: n + 1, Service: "svc", Name: "op", Start: base.Add(time.Duration(n) * time.Millisecond), Attrs: map[string]any{"n": int64(n)}} //nolint:gosec // small
		if n%2 == 0 {
			s.Attrs[flow.AttrMethod], s.Attrs[flow.AttrStatus] = "GET", 200
		}
		spans = append(spans, s)
	}
	if err := db.Write(t.Context(), storetest.Batch(spans...)); err != nil {
		t.Fatal(err)
	}
	until(t, "the block is sealed", func() bool { return db.Stats().Blocks == 1 })
	path := blockFiles(t, dir, parquetSuffix)[0]
	rows, err := parquet.ReadFile[foreign](path)
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 9000 {
		t.Fatalf("%d rows", len(rows))
	}
	for i, r := range rows {
		if r.Service != "svc" || r.TraceID != storetest.TraceID(uint64(i)/3) || r.Start != base.Add(time.Duration(i)*time.Millisecond).UnixNano() || (r.Method != nil) != (i%2 == 0) || //nolint:gosec // small
			r.Attributes["n"].Type != int32(attrInt) {
			t.Fatalf("row %d: %+v", i, r)
		}
	}
	f, err := os.Open(path) //nolint:gosec // the test's own
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	pf, err := parquet.OpenFile(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	chunk := pf.RowGroups()[0].ColumnChunks()[schema().traceID]
	for n := range uint64(3000) {
		id := storetest.TraceID(n)
		if ok, err := chunk.BloomFilter().Check(parquet.FixedLenByteArrayValue(id[:])); err != nil || !ok {
			t.Fatalf("bloom filter lacks trace %d: %v", n, err)
		}
	}
	hits := 0
	for n := range uint64(1000) {
		id := storetest.TraceID(100_000 + n)
		if ok, _ := chunk.BloomFilter().Check(parquet.FixedLenByteArrayValue(id[:])); ok {
			hits++
		}
	}
	if hits > 20 {
		t.Errorf("bloom filter: %d of 1000 unknown traces pass", hits)
	}
	start := pf.RowGroups()[0].ColumnChunks()[schema().start]
	ci, err := start.ColumnIndex()
	if err != nil {
		t.Fatal(err)
	}
	if ci.NumPages() != 3 || ci.MinValue(1).Int64() != base.Add(4096*time.Millisecond).UnixNano() || ci.MaxValue(1).Int64() != base.Add(8191*time.Millisecond).UnixNano() {
		t.Errorf("%d pages, bounds of the second %v to %v", ci.NumPages(), ci.MinValue(1), ci.MaxValue(1))
	}
}

func TestSequences(t *testing.T) {
	s := newSequences()
	for _, n := range []uint64{5, 1, 2, 9, 3, 4, 7, ^uint64(0)} {
		s.add("b", n)
	}
	if got := len(s.boots["b"].runs); got != 4 {
		t.Fatalf("%d runs, want 1-5, 7, 9 and the largest: %v", got, s.boots["b"].runs)
	}
	for n, want := range map[uint64]bool{1: true, 5: true, 6: false, 7: true, 8: false, 9: true, 10: false, ^uint64(0): true, 0: false} {
		if s.has("b", n) != want {
			t.Errorf("has(%d) = %v", n, !want)
		}
	}
	for n := range maxBoots + 10 {
		s.add(fmt.Sprint(n), 1)
	}
	for n := range uint64(5 * maxIntervals) {
		s.add("gaps", 2*n)
	}
	if len(s.boots["gaps"].runs) > maxIntervals || len(s.boots) > maxBoots {
		t.Errorf("unbounded: %d runs, %d boots", len(s.boots["gaps"].runs), len(s.boots))
	}
}
