package evidence

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// The observer's log is sorted by id and holds events of both processes.
func TestEventIDsSortByTimeAmongTheObservers(t *testing.T) {
	s := NewServer(identity.ID{}, func(*tullev1.Observed) {}, slog.New(slog.DiscardHandler))
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	var ids []string
	for i := range 6 {
		now := at.Add(time.Duration(i/2) * time.Second)
		if i%2 == 0 {
			ids = append(ids, ulid.MustNew(ulid.Timestamp(now.Add(-time.Millisecond)), nil).String())
			continue
		}
		e := &tullev1.Event{TimeUnixNano: now.UnixNano()}
		s.Emit(e)
		ids = append(ids, e.GetId())
	}
	for range 3 { // within one millisecond, in the order of the calls
		e := &tullev1.Event{TimeUnixNano: at.Add(time.Minute).UnixNano()}
		s.Emit(e)
		ids = append(ids, e.GetId())
	}
	if !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != len(ids) {
		t.Errorf("ids do not sort by time: %q", ids)
	}
}
