package policy

import (
	"fmt"
	"time"
)

// Adaptive is how the sidecar of a called workload finds out that its application has more to do than it can, and sheds what would be answered too late. Zero settings mean the default
// named beside them.
type Adaptive struct {
	Off         bool
	Latency     time.Duration // quick answers that take no longer are no sign of a queue, 10 ms to 1 min; default 200 ms
	Factor      float64       // nor those that take no more than so many times the usual, 1.5 to 100; default 4
	MinRequests int           // so many are always let through at a time, 1 to 1,048,576; default 4
}

// Defaults of Adaptive.
const (
	DefaultAdaptiveLatency     = 200 * time.Millisecond
	DefaultAdaptiveFactor      = 4
	DefaultAdaptiveMinRequests = 4
)

// WithDefaults returns a with every zero setting replaced by its default.
func (a Adaptive) WithDefaults() Adaptive {
	def(&a.Latency, DefaultAdaptiveLatency)
	def(&a.Factor, DefaultAdaptiveFactor)
	def(&a.MinRequests, DefaultAdaptiveMinRequests)
	return a
}

func (a Adaptive) check() error {
	switch {
	case a.Latency != 0 && (a.Latency < 10*time.Millisecond || a.Latency > time.Minute):
		return fmt.Errorf("latency: %s must be from 10ms to 1m", a.Latency)
	case a.Factor != 0 && !(a.Factor >= 1.5 && a.Factor <= 100):
		return fmt.Errorf("factor: %v must be from 1.5 to 100 times what is usual", a.Factor)
	case a.MinRequests < 0 || a.MinRequests > maxLimit:
		return fmt.Errorf("minRequests: %d must be from 1 to %d", a.MinRequests, maxLimit)
	}
	return nil
}

// toXDS writes what is not the default; Envoy's own filter of the kind works otherwise, and has no words for it.
func (a Adaptive) toXDS(e extras) {
	e.flag("adaptive_off", a.Off)
	if a.Latency != DefaultAdaptiveLatency {
		e.dur("adaptive_latency", a.Latency)
	}
	if a.Factor != DefaultAdaptiveFactor {
		e.num("adaptive_factor", a.Factor)
	}
	if a.MinRequests != DefaultAdaptiveMinRequests {
		e.num("adaptive_min_requests", float64(a.MinRequests))
	}
}

func adaptiveFromXDS(r *reader) Adaptive {
	return Adaptive{
		Off: r.flag("adaptive_off"), Latency: r.dur("adaptive_latency"), Factor: r.num("adaptive_factor"), MinRequests: int(r.num("adaptive_min_requests")),
	}.WithDefaults()
}
