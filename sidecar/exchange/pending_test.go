package exchange

import (
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
)

func TestPend(t *testing.T) {
	d := &Destination{Service: policy.Service{Name: "cart", MaxPending: 2}, Pending: new(atomic.Int64), Shed: new(Shed)}
	list := make([]Exchange, 4)
	for i := range list {
		x := &list[i]
		x.Destination = d
		if got := x.Pend(); got != (i < 2) {
			t.Errorf("%d: %v", i, got)
		}
	}
	if o := list[3].Outcome; o.Reason != flow.ReasonShed || !o.Unprocessed || !strings.Contains(o.Detail, "MaxPending of 2 towards cart") {
		t.Errorf("%+v", o)
	}
	list[0].Pended()
	if !list[2].Pend() || d.Pending.Load() != 2 || d.Shed.Pending.Load() != 2 {
		t.Errorf("%d wait, %d were shed", d.Pending.Load(), d.Shed.Pending.Load())
	}
	if x := (&Exchange{Destination: &Destination{}}); !x.Pend() {
		t.Error("nobody counts, and it is shed")
	}
}
