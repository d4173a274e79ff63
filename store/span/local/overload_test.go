package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/storetest"
)

// overloadFor names the environment variable that says how long the overload lasts: make overload-store says 60s.
const overloadFor = "TULLE_OVERLOAD"

// narrow is a disk on which blocks are written at so many bytes per second.
type narrow struct {
	roomy
	rate int
}

func (n narrow) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	f, err := n.roomy.OpenFile(name, flag, perm)
	if err == nil && strings.HasSuffix(name, parquetSuffix+tmpSuffix) {
		f = narrowFile{f, n.rate}
	}
	return f, err
}

type narrowFile struct {
	File
	rate int
}

func (f narrowFile) Write(b []byte) (int, error) {
	<-time.NewTimer(time.Duration(len(b)) * time.Second / time.Duration(f.rate)).C
	return f.File.Write(b)
}

const crowd = 70 // spans in a batch

func crowded(n uint64) ptrace.Traces {
	spans := make([]storetest.Span, crowd)
	for i := range uint64(crowd) {
		spans[i] = storetest.Span{
			Trace: n, ID: crowd*n + i + 1, Service: "catalog", Name: "GET /items", Kind: ptrace.SpanKindServer, Start: base.Add(time.Duration(n) * time.Millisecond), Duration: time.Millisecond, //nolint:gosec // small
			Attrs: map[string]any{
				flow.AttrSourceService: "web", flow.AttrDestService: "catalog", flow.AttrMethod: "GET", flow.AttrStatus: 200, flow.AttrPath: fmt.Sprintf("/items/%d", n*i%997),
				flow.AttrRequestID: fmt.Sprintf("%032x", crowd*n+i),
			},
		}
	}
	return storetest.Batch(spans...)
}

// More comes than the disk takes, for as long as it lasts: writers are refused with errors that say to try again, memory stays bounded, and what was
// acknowledged is there, once.
func TestOverloadIsRefusedAndCostsNothing(t *testing.T) {
	lasts, cfg, limit := time.Second, Config{SealSpans: 3000, SealAge: time.Hour}, uint64(96<<20)
	disk := narrow{rate: 100 << 10}
	if s := os.Getenv(overloadFor); s != "" {
		var err error
		if lasts, err = time.ParseDuration(s); err != nil {
			t.Fatalf("%s=%s: %v", overloadFor, s, err)
		}
		cfg.SealSpans, limit, disk.rate = 0, 320<<20, 40<<10 // the store's defaults, and the observer's memory limit
	}
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(int64(limit))) //nolint:gosec // as the observer does
	cfg.Dir, cfg.FS = t.TempDir(), disk
	db := open(t, cfg)
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	var next, refused, offered atomic.Uint64
	var mu sync.Mutex
	acked := map[uint64]bool{}
	until, patience := time.Now().Add(lasts), time.Now().Add(lasts+time.Minute)
	goOn := func() bool { // on a machine with other work it takes longer until there is more than the disk takes
		now := time.Now()
		return now.Before(until) || refused.Load() == 0 && now.Before(patience)
	}
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for goOn() {
				n := next.Add(1)
				td := crowded(n)
				for again := 0; again < 20 && goOn(); again++ { // as a sender does that has several batches waiting
					offered.Add(1)
					err := db.Write(t.Context(), td)
					if err == nil {
						mu.Lock()
						acked[n] = true
						mu.Unlock()
						break
					}
					if !errors.Is(err, store.ErrBusy) && !errors.Is(err, store.ErrFull) {
						t.Errorf("refused for good: %v", err)
						return
					}
					refused.Add(1)
					<-time.NewTimer(2 * time.Millisecond).C
				}
			}
		})
	}
	most := uint64(0)
	for goOn() {
		<-time.NewTimer(50 * time.Millisecond).C
		runtime.ReadMemStats(&now)
		most = max(most, now.HeapAlloc)
	}
	writers.Wait()
	if most > before.HeapAlloc+limit {
		t.Errorf("%d MiB of heap, at most %d expected", (most-before.HeapAlloc)>>20, limit>>20)
	}
	if refused.Load() == 0 {
		t.Error("nothing was refused: there was no overload")
	}
	if lasts >= 10*time.Second && offered.Load() < 3*uint64(len(acked)) {
		t.Errorf("%d batches were offered, %d taken: no threefold overload", offered.Load(), len(acked))
	}
	t.Logf("%d batches were offered, %d acknowledged; %d MiB of heap at most", offered.Load(), len(acked), most>>20)
	check := func(db *DB) {
		t.Helper()
		there := 0
		for q := (store.TraceQuery{Limit: 10_000}); ; {
			p, err := db.Summaries(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range p.Traces {
				if s.Spans != crowd {
					t.Fatalf("trace %s has %d spans", s.ID, s.Spans)
				}
			}
			there += len(p.Traces)
			if q.Cursor = p.Next; q.Cursor == "" {
				break
			}
		}
		if there != len(acked) {
			t.Fatalf("%d batches are there, %d were acknowledged", there, len(acked))
		}
		for n := range acked {
			if n%17 == 0 {
				if _, err := db.Trace(t.Context(), storetest.TraceID(n)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	check(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.FS = roomy{}
	check(open(t, cfg))
}
