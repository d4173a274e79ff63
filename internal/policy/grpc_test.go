package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/flow"
)

func TestGRPCStatuses(t *testing.T) {
	set, err := ParseGRPCStatuses([]string{"UNAVAILABLE", "RESOURCE_EXHAUSTED"})
	if err != nil || !slices.Equal(set.Names(), []string{"RESOURCE_EXHAUSTED", "UNAVAILABLE"}) {
		t.Errorf("got %v, %v", set.Names(), err)
	}
	for code := range uint64(17) {
		s := flow.NewGRPCStatus(code)
		if want := code == 8 || code == 14; set.Has(s) != want {
			t.Errorf("%s is in the set: %v", s, set.Has(s))
		}
	}
	if set.Has(0) || GRPCStatuses(1).Has(0) {
		t.Error("a call without a status is in a set")
	}
	for _, c := range []struct {
		names []string
		want  string
	}{
		{[]string{"OK"}, `[0]: "OK" is not a gRPC status of a failed call`},
		{[]string{"INTERNAL", "unavailable"}, `[1]: "unavailable" is not a gRPC status`},
		{[]string{"INTERNAL", "INTERNAL"}, "[1]: INTERNAL is listed twice"},
	} {
		if _, err := ParseGRPCStatuses(c.names); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v", c.names, err)
		}
	}
	if none, err := ParseGRPCStatuses(nil); err != nil || none != 0 || none.Names() != nil {
		t.Errorf("nothing reads as %v, %v", none, err)
	}
}
