package policy

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

func TestAdaptiveCheck(t *testing.T) {
	for _, c := range []struct {
		a   Adaptive
		err string
	}{
		{Adaptive{}, ""},
		{Adaptive{Off: true, Latency: time.Minute, Factor: 1.5, MinRequests: 1}, ""},
		{Adaptive{Latency: time.Millisecond}, "latency: 1ms must be from 10ms to 1m"},
		{Adaptive{Factor: 1}, "factor: 1 must be from 1.5 to 100"},
		{Adaptive{Factor: math.NaN()}, "factor: NaN must be from 1.5 to 100"},
		{Adaptive{MinRequests: -1}, "minRequests: -1 must be from 1 to 1048576"},
	} {
		err := Service{Name: "s", Protocol: flow.ProtocolHTTP, Adaptive: c.a}.WithDefaults().Check()
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), "limits.adaptive."+c.err) {
			t.Errorf("%+v: %v, want %q", c.a, err, c.err)
		}
	}
}
