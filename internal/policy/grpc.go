package policy

import (
	"fmt"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// GRPCStatuses is a set of statuses of gRPC. The zero value is empty; it compares with ==.
type GRPCStatuses uint32 // bit n: flow.GRPCStatus n

// failures are all that a set can have: every code but 0 (OK), and not 0 (none).
const failures GRPCStatuses = 1<<18 - 1<<2

// ParseGRPCStatuses reads a set by the names of its members. OK is none of them: a set is of ways in which a call fails.
func ParseGRPCStatuses(names []string) (GRPCStatuses, error) {
	var set GRPCStatuses
	for i, name := range names {
		s, ok := flow.ParseGRPCStatus(name)
		switch {
		case !ok || s == flow.NewGRPCStatus(0):
			return 0, fmt.Errorf("[%d]: %q is not a gRPC status of a failed call, such as UNAVAILABLE", i, name)
		case set.Has(s):
			return 0, fmt.Errorf("[%d]: %s is listed twice; remove one", i, name)
		}
		set |= 1 << s
	}
	return set, nil
}

// Has reports whether s is in the set. The zero GRPCStatus, none, never is.
func (set GRPCStatuses) Has(s flow.GRPCStatus) bool { return s != 0 && set&(1<<s) != 0 }

// Names are the members in the order of their codes; nil when there are none.
func (set GRPCStatuses) Names() []string {
	var names []string
	for code := range uint64(17) {
		if s := flow.NewGRPCStatus(code); set.Has(s) {
			names = append(names, s.String())
		}
	}
	return names
}
