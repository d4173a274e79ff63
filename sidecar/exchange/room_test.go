package exchange

import (
	"sync"
	"testing"
)

func TestRoom(t *testing.T) {
	var r Room
	if !r.Take(1 << 40) {
		t.Error("a room without budget refused")
	}
	r.Give(1 << 40)
	r.SetBudget(100)
	switch {
	case !r.Take(75) || r.Tight():
		t.Error("three quarters are not too much")
	case r.TakeSpare(1) || r.Used() != 75:
		t.Errorf("the last quarter is not spare; %d used", r.Used())
	case !r.Take(25) || !r.Tight():
		t.Error("all of it may be taken")
	case r.Take(1) || r.Used() != 100:
		t.Errorf("more than all of it was taken; %d used", r.Used())
	}
	r.Need(50)
	r.SetBudget(200)
	if !r.Take(50) || r.Take(1) {
		t.Error("a new budget holds for what is in use already")
	}
	r.Give(200)
	if r.Used() != 0 || r.Tight() {
		t.Errorf("%d used", r.Used())
	}
	var none *Room
	none.Need(1)
	none.Give(1)
	none.Reached(LimitConnections)
	if !none.Take(1) || !none.TakeSpare(1) || none.Tight() || none.Used()+none.Budget() != 0 || none.Count(LimitConnections) != 0 {
		t.Error("no room is without limits")
	}
	for _, l := range Limits() {
		if l.String() == "" {
			t.Errorf("limit %d has no name", l)
		}
	}
}

// TestRoomIsExact: whatever many connections take and give at once, no more than the budget is ever granted and nothing is lost.
func TestRoomIsExact(t *testing.T) {
	var r Room
	r.SetBudget(10)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2000 {
				if r.Take(3) {
					r.Give(3)
				}
			}
		})
	}
	wg.Wait()
	if r.Used() != 0 {
		t.Errorf("%d used", r.Used())
	}
}

// BenchmarkRoom is what the budget costs an exchange; -cpu 1,2,4 shows how cores disturb each other.
func BenchmarkRoom(b *testing.B) {
	var r Room
	r.SetBudget(1 << 40)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if r.Take(24 << 10) {
				r.Give(24 << 10)
			}
		}
	})
}
