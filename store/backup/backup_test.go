package backup_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/backup"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/metric"
	"github.com/tulle-mesh/tulle/store/span/local"
	"github.com/tulle-mesh/tulle/store/storetest"
)

// What an observer's stores acknowledged before a backup is in what is restored from it, though they were written all the time.
func TestRunningObserverIsBackedUpAndRestored(t *testing.T) {
	dir := t.TempDir()
	begin := time.Now().Add(-time.Minute).Truncate(time.Second)
	spans, err := local.Open(local.Config{Dir: filepath.Join(dir, "spans"), SealSpans: 50, SealAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	series, err := metric.Open(filepath.Join(dir, "metrics"), metric.Config{})
	if err != nil {
		t.Fatal(err)
	}
	events, err := event.Open(filepath.Join(dir, "events"), event.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "identity"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "identity", "key.pem"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	var acked atomic.Uint64
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := uint64(1); ctx.Err() == nil; n++ {
			err := spans.Write(t.Context(), storetest.Batch(storetest.Span{Trace: n, ID: n, Service: "web", Name: "op", Start: begin}))
			for errors.Is(err, store.ErrBusy) {
				err = spans.Write(t.Context(), storetest.Batch(storetest.Span{Trace: n, ID: n, Service: "web", Name: "op", Start: begin}))
			}
			if err == nil {
				a := series.Appender(t.Context())
				_, err = a.Append(0, labels.FromStrings("__name__", "count"), begin.UnixMilli()+int64(n), float64(n)) //nolint:gosec // small
				err = errors.Join(err, a.Commit())
			}
			if err == nil {
				err = events.Append(t.Context(), event.Event{ID: event.NewID(time.Now()), Time: time.Now(), Kind: event.KindDeploy, Severity: "info", Message: "n"})
			}
			if err != nil {
				t.Error(err)
				return
			}
			acked.Store(n)
		}
	}()
	for acked.Load() < 120 || spans.Stats().Blocks == 0 { // a block is sealed when the sealer comes to it
		select {
		case <-ended:
			t.Fatal("the writer ended")
		case <-time.NewTimer(time.Millisecond).C:
		}
	}
	before := acked.Load()
	copied := filepath.Join(t.TempDir(), "copy")
	r, err := backup.Backup(t.Context(), dir, copied)
	stop()
	<-ended
	if err != nil || r.Spans.Blocks == 0 || r.Series.Log == 0 || r.Files == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := errors.Join(spans.Close(), series.Close(), events.Close()); err != nil {
		t.Fatal(err)
	}
	back := filepath.Join(t.TempDir(), "back")
	if _, err := backup.Restore(t.Context(), copied, back); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(back, "identity")); err == nil {
		t.Error("keys were copied")
	}
	if spans, err = local.Open(local.Config{Dir: filepath.Join(back, "spans")}); err != nil {
		t.Fatal(err)
	}
	defer spans.Close()
	for n := uint64(1); n <= before; n++ {
		if td, err := spans.Trace(t.Context(), storetest.TraceID(n)); err != nil || td.SpanCount() != 1 {
			t.Fatalf("trace %d of %d: %v", n, before, err)
		}
	}
	if series, err = metric.Open(filepath.Join(back, "metrics"), metric.Config{}); err != nil {
		t.Fatal(err)
	}
	defer series.Close()
	q, err := series.Querier(begin.UnixMilli(), begin.UnixMilli()+int64(before)) //nolint:gosec // small
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	set := q.Select(t.Context(), false, nil, labels.MustNewMatcher(labels.MatchEqual, "__name__", "count"))
	samples := uint64(0)
	for set.Next() {
		for it := set.At().Iterator(nil); it.Next() != 0; {
			samples++
		}
	}
	if set.Err() != nil || samples < before {
		t.Errorf("%d samples of %d, %v", samples, before, set.Err())
	}
	if events, err = event.Open(filepath.Join(back, "events"), event.Config{}); err != nil {
		t.Fatal(err)
	}
	defer events.Close()
	if s := events.Stats(); uint64(s.Events) < before || len(s.Damage) > 0 { //nolint:gosec // a count
		t.Errorf("%+v, %d were written before", s, before)
	}
}

func TestRestoreRefuses(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), t.TempDir(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "no complete backup") {
		t.Errorf("no backup: %v", err)
	}
	if err := os.WriteFile(filepath.Join(full, backup.Manifest), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Restore(t.Context(), full, full); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("into a full directory: %v", err)
	}
	if _, err := backup.Backup(t.Context(), full, t.TempDir()); err == nil || !strings.Contains(err.Error(), "no data directory") {
		t.Errorf("of something else: %v", err)
	}
}
