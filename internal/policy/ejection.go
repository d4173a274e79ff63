package policy

import (
	"fmt"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Ejection is when a sidecar takes an endpoint out by itself, by what it has seen. Zero settings mean the default named beside them.
type Ejection struct {
	Errors  int           // failed tries in a row, 1 to 1,000; default 5; negative: off, but for 5 without a connection
	Failing int           // points of percent by which its share of failed tries is above that of others, 1 to 100; default 30; negative: off
	Slow    int           // how many times longer its answers take than those of others, 2 to 1,000; default 5; negative: off
	Base    time.Duration // first term, 100 ms to 30 s; default 1 s; five times that for Failing and Slow
	Max     time.Duration // longest term, 1 s to 30 s, also of a longer Base; default 30 s: what is for longer is the controller's
}

// Defaults of Ejection.
const (
	DefaultEjectErrors  = 5
	DefaultEjectFailing = 30
	DefaultEjectSlow    = 5
	DefaultEjectBase    = time.Second
	MaxLocalEjection    = 30 * time.Second
)

// WithDefaults returns e with every zero setting replaced by its default.
func (e Ejection) WithDefaults() Ejection {
	def(&e.Errors, DefaultEjectErrors)
	def(&e.Failing, DefaultEjectFailing)
	def(&e.Slow, DefaultEjectSlow)
	def(&e.Base, DefaultEjectBase)
	def(&e.Max, MaxLocalEjection)
	return e
}

func (e Ejection) check() error {
	switch {
	case e.Errors > 1000:
		return fmt.Errorf("errors: %d must be from 1 to 1000, or off", e.Errors)
	case e.Failing > 100:
		return fmt.Errorf("failing: %d must be from 1 to 100 points, or off", e.Failing)
	case e.Slow == 1, e.Slow > 1000:
		return fmt.Errorf("slow: %d must be from 2 to 1000 times, or off", e.Slow)
	case e.Base != 0 && (e.Base < 100*time.Millisecond || e.Base > MaxLocalEjection):
		return fmt.Errorf("base: %s must be from 100ms to %s", e.Base, MaxLocalEjection)
	case e.Max != 0 && (e.Max < time.Second || e.Max > MaxLocalEjection):
		return fmt.Errorf("max: %s must be from 1s to %s; the controller ejects for longer", e.Max, MaxLocalEjection)
	}
	return nil
}

// toXDS says in Envoy's words what it can of e, which has its defaults; the rest is in the metadata.
func (e Ejection) toXDS(x *clusterv3.Cluster, extra extras) {
	if e.Errors > 0 {
		x.OutlierDetection = &clusterv3.OutlierDetection{
			Consecutive_5Xx:    wrapperspb.UInt32(uint32(e.Errors)),
			BaseEjectionTime:   durationpb.New(min(e.Base, e.Max)),
			MaxEjectionTime:    durationpb.New(e.Max),
			MaxEjectionPercent: wrapperspb.UInt32(10), AlwaysEjectOneHost: wrapperspb.Bool(true),
			EnforcingSuccessRate: wrapperspb.UInt32(0),
		}
	}
	for _, v := range []struct {
		key        string
		v, usually int
	}{{"eject_errors", e.Errors, DefaultEjectErrors}, {"eject_failing", e.Failing, DefaultEjectFailing}, {"eject_slow", e.Slow, DefaultEjectSlow}} {
		if v.v != v.usually {
			extra.num(v.key, float64(v.v))
		}
	}
	if e.Base != DefaultEjectBase {
		extra.dur("eject_base", e.Base)
	}
	if e.Max != MaxLocalEjection {
		extra.dur("eject_max", e.Max)
	}
}

func ejectionFromXDS(r *reader) Ejection {
	return Ejection{
		Errors: int(r.num("eject_errors")), Failing: int(r.num("eject_failing")), Slow: int(r.num("eject_slow")), Base: r.dur("eject_base"), Max: r.dur("eject_max"),
	}.WithDefaults()
}
