package graph

import (
	"slices"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Views are families of other systems' names over the graph's own, for their boards and tools: nothing of them is stored (metric.Derived). One group is one file, one
// line here and one test.
var Views = slices.Concat(istioViews, otelViews)

func where(pairs ...string) (out []*labels.Matcher) {
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, labels.MustNewMatcher(labels.MatchEqual, pairs[i], pairs[i+1]))
	}
	return out
}

// classStatus is a status that stands for its class, "404" being counted as "4xx": none is "".
func classStatus(class string) string {
	if len(class) == 3 && class[0] >= '1' && class[0] <= '5' {
		return class[:1] + "00"
	}
	return ""
}

// grpcCode is the number of a gRPC status by its name, "" without one.
func grpcCode(name string) string {
	s, ok := flow.ParseGRPCStatus(name)
	if !ok {
		return ""
	}
	code, _ := s.Code()
	return decimal[code]
}

var decimal = [flow.GRPCCodes]string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"}
