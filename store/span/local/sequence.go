package local

import (
	"slices"
)

// interval is a closed run of sequence numbers.
type interval struct {
	Lo uint64 `json:"lo"`
	Hi uint64 `json:"hi"`
}

// sequences remembers which batches of which sender (boot id) were stored. Per boot it keeps sorted, disjoint, non-adjacent intervals: in the
// normal case one, the contiguous run so far. Bounded: at most maxIntervals per boot and maxBoots boots. What is forgotten is the oldest, and the price
// of forgetting is that a batch re-sent very late is stored twice, never that one is lost.
type sequences struct {
	boots map[string]*boot
	tick  uint64
}

type boot struct {
	runs []interval
	used uint64
}

const (
	maxIntervals = 1024
	maxBoots     = 16384
)

func newSequences() *sequences { return &sequences{boots: map[string]*boot{}} }

func (s *sequences) has(id string, n uint64) bool {
	b := s.boots[id]
	if b == nil {
		return false
	}
	i, _ := slices.BinarySearchFunc(b.runs, n, func(r interval, n uint64) int {
		if r.Hi < n {
			return -1
		}
		return 1
	})
	return i < len(b.runs) && b.runs[i].Lo <= n
}

func (s *sequences) add(id string, n uint64) { s.addRun(id, interval{n, n}) }

func (s *sequences) addRun(id string, r interval) {
	if r.Hi < r.Lo {
		return
	}
	s.tick++
	b := s.boots[id]
	if b == nil {
		if len(s.boots) >= maxBoots {
			s.forgetOldest()
		}
		b = &boot{}
		s.boots[id] = b
	}
	b.used = s.tick
	// [i,j) are the runs that touch or overlap r.
	i := 0
	for i < len(b.runs) && b.runs[i].Hi < r.Lo && r.Lo-b.runs[i].Hi > 1 {
		i++
	}
	j := i
	for j < len(b.runs) && (b.runs[j].Lo <= r.Hi || b.runs[j].Lo-r.Hi == 1) {
		r.Lo, r.Hi = min(r.Lo, b.runs[j].Lo), max(r.Hi, b.runs[j].Hi)
		j++
	}
	b.runs = slices.Replace(b.runs, i, j, r)
	if len(b.runs) > maxIntervals {
		b.runs = slices.Delete(b.runs, 0, 1)
	}
}

func (s *sequences) forgetOldest() {
	var oldest string
	used := ^uint64(0)
	for id, b := range s.boots {
		if b.used < used {
			oldest, used = id, b.used
		}
	}
	delete(s.boots, oldest)
}

// all is a copy for persisting.
func (s *sequences) all() map[string][]interval {
	out := make(map[string][]interval, len(s.boots))
	for id, b := range s.boots {
		out[id] = slices.Clone(b.runs)
	}
	return out
}

func (s *sequences) merge(m map[string][]interval) {
	for id, runs := range m {
		for _, r := range runs {
			s.addRun(id, r)
		}
	}
}
