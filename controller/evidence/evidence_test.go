package evidence

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

func TestResume(t *testing.T) {
	s := NewServer(identity.ID{}, func(*tullev1.Observed) {}, slog.New(slog.DiscardHandler))
	for i := range 5 {
		s.Emit(&tullev1.Event{Message: fmt.Sprint(i)})
	}
	for _, tc := range []struct {
		name  string
		epoch string
		last  uint64
		want  uint64
	}{
		{"new observer", "", 0, 0},
		{"came back", s.epoch, 3, 3},
		{"of a controller before", "1", 3, 0},
		{"from the future", s.epoch, 99, 0},
	} {
		if got := s.resumeAfter(&tullev1.Observed{Epoch: tc.epoch, LastEventSequence: tc.last}); got != tc.want {
			t.Errorf("%s: resumes after %d, want %d", tc.name, got, tc.want)
		}
	}
}

func TestRingIsBoundedAndCounts(t *testing.T) {
	s := NewServer(identity.ID{}, func(*tullev1.Observed) {}, slog.New(slog.DiscardHandler))
	ids := map[string]bool{}
	last := ""
	for range RingSize + 10 {
		e := &tullev1.Event{}
		s.Emit(e)
		if ids[e.GetId()] || e.GetId() <= last {
			t.Fatalf("id %q does not sort after %q", e.GetId(), last)
		}
		last = e.GetId()
		ids[last] = true
	}
	if len(s.ring) != RingSize || s.Dropped.Load() != 10 {
		t.Errorf("ring has %d events, %d dropped; want %d and 10", len(s.ring), s.Dropped.Load(), RingSize)
	}
	if first := s.ring[0].GetSequence(); first != 11 {
		t.Errorf("oldest is %d, want 11", first)
	}
}
