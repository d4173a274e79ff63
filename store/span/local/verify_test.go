package local

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/store"
)

func verified(t *testing.T, dir string) Verified {
	t.Helper()
	v, err := Verify(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVerifyFindsDamage(t *testing.T) {
	for name, c := range map[string]struct {
		file string // suffix of the first such file
		hurt func([]byte) []byte
		say  string
		note bool
	}{
		"nothing":                     {parquetSuffix, func(b []byte) []byte { return b }, "", true},
		"a page":                      {parquetSuffix, func(b []byte) []byte { b[64] ^= 0x10; return b }, "damaged", false},
		"the footer":                  {parquetSuffix, func(b []byte) []byte { b[len(b)-40] ^= 0x10; return b }, "checksum of its footer", false},
		"half a block":                {parquetSuffix, func(b []byte) []byte { return b[:len(b)/2] }, "bytes long", false},
		"a sidecar":                   {idxSuffix, func(b []byte) []byte { b[len(b)-3] ^= 1; return b }, "made anew|makes it anew", false},
		"a batch of the log":          {walSuffix, func(b []byte) []byte { b[walHeaderSize+40] ^= 1; return b }, "acknowledged there is lost", false},
		"the end of the log, by kill": {walSuffix, func(b []byte) []byte { return b[:len(b)-5] }, "as a crash leaves them", true},
	} {
		t.Run(name, func(t *testing.T) {
			dir, _ := sealed(t, 2)
			db := open(t, Config{Dir: dir, SealAge: time.Hour, compaction: never})
			for n := range uint64(5) {
				if err := db.Write(t.Context(), numbered(100+n)); err != nil {
					t.Fatal(err)
				}
			}
			if v := verified(t, dir); v.Damaged != 0 || !v.Live || v.Blocks != 2 || v.Spans != 60 || v.Batches != 5 {
				t.Fatalf("in use: %+v", v)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(dir, "*", "*"+c.file))
			if err != nil {
				t.Fatal(err)
			}
			path := append(blockFiles(t, dir, c.file), files...)[0]
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, c.hurt(b), 0o600); err != nil { //nolint:gosec // the test's own
				t.Fatal(err)
			}
			v := verified(t, dir)
			if c.say == "" {
				if len(v.Findings) != 0 || v.Live {
					t.Fatalf("%+v", v)
				}
				return
			}
			said := false
			for _, f := range v.Findings {
				for _, s := range strings.Split(c.say, "|") {
					said = said || strings.Contains(f.Message, s) && strings.HasSuffix(path, f.Path) && f.Damage == !c.note
				}
			}
			if !said || (v.Damaged == 0) != c.note {
				t.Fatalf("%+v", v)
			}
		})
	}
}

// A flipped bit anywhere in the pages or the footer of a block is found.
func TestVerifyFindsEveryBit(t *testing.T) {
	dir, files := sealed(t, 1)
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	missed := 0
	for at := 0; at < len(whole); at += 211 {
		b := append([]byte(nil), whole...)
		b[at] ^= 4
		if err := os.WriteFile(files[0], b, 0o600); err != nil { //nolint:gosec // the test's own
			t.Fatal(err)
		}
		if v := verified(t, dir); v.Damaged == 0 {
			missed++
			t.Logf("byte %d of %d", at, len(whole))
		}
	}
	if most := len(whole) / 211 / 5; missed > most { // the Parquet bloom filter and the padding of indexes have no checksum
		t.Errorf("%d flips were not found", missed)
	}
}

// A copy that is made while the store is written, sealed and merged holds all that was acknowledged before, once, and is whole.
func TestBackupOfARunningStore(t *testing.T) {
	dir := t.TempDir()
	db := open(t, Config{Dir: dir, SealSpans: 30, SealAge: time.Hour, compaction: eager})
	var acked atomic.Uint64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := range uint64(500) {
			for errors.Is(db.Write(t.Context(), numbered(n)), store.ErrBusy) {
				<-time.NewTimer(time.Millisecond).C
			}
			acked.Store(n + 1)
		}
	}()
	type backup struct {
		dir   string
		acked uint64
	}
	var all []backup
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		b := backup{filepath.Join(t.TempDir(), "copy"), acked.Load()}
		if _, err := Backup(t.Context(), dir, b.dir); err != nil {
			t.Fatal(err)
		}
		if len(all) < 6 || !running {
			all = append(all, b)
		}
	}
	for _, b := range all {
		if v := verified(t, b.dir); v.Damaged != 0 {
			t.Fatalf("%+v", v)
		}
		copied := open(t, Config{Dir: b.dir, SealAge: time.Hour, compaction: never})
		var want []uint64
		for n := range b.acked {
			want = append(want, n)
		}
		holds(t, copied, want)
		if copied.Stats().Corrupt != 0 {
			t.Fatal(copied.Stats().LastError)
		}
		if err := copied.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if v := verified(t, dir); v.Damaged != 0 {
		t.Fatalf("the store itself: %+v", v)
	}
	d, err := Describe(dir)
	if s := db.Stats(); err != nil || d.Blocks != s.Blocks || uint64(d.Bytes) != s.Bytes || uint64(d.WALBytes) != s.WALBytes || !d.Live { //nolint:gosec // sizes
		t.Errorf("%+v, %v; the store says %+v", d, err, s)
	}
}
