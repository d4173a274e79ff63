package resilience

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

func TestRoom(t *testing.T) {
	var room exchange.Room
	room.SetBudget(1 << 20)
	for _, crowded := range []bool{false, true} {
		calls := 0
		x := newExchange(nil)
		x.Binding, x.Crowded = &exchange.Binding{Room: &room}, crowded
		Room(tries(&calls, succeeds)).Handle(x)
		o := &x.Outcome
		if !crowded && (calls != 1 || o.Reason != flow.ReasonNone) {
			t.Errorf("with room: %d calls, %+v", calls, o)
		}
		if crowded && (calls != 0 || o.Reason != flow.ReasonShed || !o.Unprocessed || o.Detail != "bufferBytes of 1048576 in this sidecar" || room.Count(exchange.LimitBufferBytes) != 1) {
			t.Errorf("without room: %d calls, %+v", calls, o)
		}
	}
}
