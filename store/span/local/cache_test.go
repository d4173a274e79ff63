package local

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// What is kept is what was used last and fits; the total is that of what is kept; what goes is told, once.
func TestLRU(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9)) //nolint:gosec // reproducible on purpose
	l := lru[int, string]{max: 100}
	sizes, used := map[int]int{}, []int(nil) // the model: used last is last
	total := func() (n int) {
		for _, size := range sizes {
			n += size
		}
		return n
	}
	forget := func(k int) {
		delete(sizes, k)
		for i, u := range used {
			if u == k {
				used = append(used[:i], used[i+1:]...)
				return
			}
		}
	}
	for range 20_000 {
		k := r.IntN(30)
		switch r.IntN(4) {
		case 0, 1:
			v, ok := l.get(k)
			if _, want := sizes[k]; ok != want || ok && v != fmt.Sprint(k) {
				t.Fatalf("%d: %q %v, want %v", k, v, ok, want)
			}
			if ok {
				size := sizes[k]
				forget(k)
				sizes[k], used = size, append(used, k)
			}
		case 2:
			if _, ok := l.drop(k); ok != (sizes[k] > 0) {
				t.Fatalf("%d was dropped: %v", k, ok)
			}
			forget(k)
		case 3:
			size := 1 + r.IntN(130)
			gone := map[string]bool{}
			for _, v := range l.put(k, fmt.Sprint(k), size) {
				gone[v] = true
			}
			want := map[string]bool{}
			if sizes[k] > 0 {
				want[fmt.Sprint(k)] = true
			}
			forget(k)
			sizes[k], used = size, append(used, k)
			for total() > 100 && len(used) > 1 {
				want[fmt.Sprint(used[0])] = true
				forget(used[0])
			}
			if fmt.Sprint(gone) != fmt.Sprint(want) {
				t.Fatalf("%v went, want %v", gone, want)
			}
		}
		if l.total != total() || l.order.Len() != len(used) {
			t.Fatalf("%d in %d, want %d in %d", l.total, l.order.Len(), total(), len(used))
		}
	}
	l.max = 0
	if out := l.trim(); len(out) != len(used) || l.total != 0 {
		t.Errorf("%d left over", l.total)
	}
}
