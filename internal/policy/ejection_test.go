package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

func TestEjectionCheck(t *testing.T) {
	for _, c := range []struct {
		e   Ejection
		why string
	}{
		{Ejection{}, ""},
		{Ejection{Errors: -1, Failing: -1, Slow: -1, Base: 30 * time.Second, Max: 30 * time.Second}, ""},
		{Ejection{Errors: 1001}, "errors: 1001 must be from 1 to 1000"},
		{Ejection{Failing: 101}, "failing: 101 must be from 1 to 100"},
		{Ejection{Slow: 1}, "slow: 1 must be from 2 to 1000"},
		{Ejection{Base: time.Millisecond}, "base: 1ms must be from 100ms to 30s"},
		{Ejection{Max: time.Minute}, "max: 1m0s must be from 1s to 30s"},
		{Ejection{Base: 10 * time.Second, Max: 5 * time.Second}, ""},
	} {
		err := Service{Name: "s", Protocol: flow.ProtocolHTTP, Ejection: c.e}.WithDefaults().Check()
		if c.why == "" && err != nil || c.why != "" && (err == nil || !strings.Contains(err.Error(), "ejection."+c.why)) {
			t.Errorf("%+v: %v, want %q", c.e, err, c.why)
		}
	}
}

// A stock Envoy ejects by errors in a row, with the same cap.
func TestEjectionForEnvoy(t *testing.T) {
	x, err := Service{Name: "s", Protocol: flow.ProtocolHTTP}.ToXDS()
	if err != nil {
		t.Fatal(err)
	}
	if d := x.GetOutlierDetection(); d.GetConsecutive_5Xx().GetValue() != 5 || d.GetMaxEjectionPercent().GetValue() != 10 || d.GetMaxEjectionTime().AsDuration() != 30*time.Second {
		t.Errorf("%v", d)
	}
}
