package controller

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
)

// histogram is a Prometheus histogram with fixed bounds. Safe for concurrent use after init.
type histogram struct {
	mu     sync.Mutex
	counts []uint64 // one more than bounds
	sum    float64
	count  uint64
}

// bounds are upper bounds in seconds.
var bounds = []float64{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10}

func (h *histogram) init() { h.counts = make([]uint64, len(bounds)+1) }

func (h *histogram) observe(d time.Duration) {
	s := d.Seconds()
	i, _ := slices.BinarySearch(bounds, s)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[i]++
	h.sum += s
	h.count++
}

func (h *histogram) write(w io.Writer, name, help string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name)
	var upTo uint64
	for i, b := range bounds {
		upTo += h.counts[i]
		fmt.Fprintf(w, "%s_bucket{le=\"%g\"} %d\n", name, b, upTo)
	}
	fmt.Fprintf(w, "%s_bucket{le=\"+Inf\"} %d\n%s_sum %g\n%s_count %d\n", name, h.count, name, h.sum, name, h.count)
}

func sortItems[T any](items []T, key func(T) string) {
	slices.SortFunc(items, func(a, b T) int { return strings.Compare(key(a), key(b)) })
}
