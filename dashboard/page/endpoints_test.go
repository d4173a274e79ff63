package page

import (
	"fmt"
	"testing"

	"github.com/tulle-mesh/tulle/store/graph"
)

// TestWorstEndpoints: a few are shown as they come; of very many those that are ejected, that fail and that are slow, and the graph's own list stays.
func TestWorstEndpoints(t *testing.T) {
	var list []graph.Endpoint
	for i := range endpointRows {
		list = append(list, graph.Endpoint{Address: fmt.Sprint(i), State: "healthy"})
	}
	if shown, others := worstEndpoints(list); len(shown) != endpointRows || others != 0 || shown[7].Address != "7" {
		t.Errorf("%d shown, %d not", len(shown), others)
	}
	list = append(list, graph.Endpoint{Address: "slow", State: "healthy", P99: 2}, graph.Endpoint{Address: "failing", State: "healthy", Errors: .5}, graph.Endpoint{Address: "ejected", State: "ejected"})
	shown, others := worstEndpoints(list)
	if len(shown) != endpointRows || others != 3 {
		t.Errorf("%d shown, %d not", len(shown), others)
	}
	for i, want := range []string{"ejected", "failing", "slow", "0", "1"} {
		if shown[i].Address != want {
			t.Errorf("place %d has %s, want %s", i, shown[i].Address, want)
		}
	}
	if list[0].Address != "0" || list[len(list)-1].Address != "ejected" {
		t.Error("the graph's list was sorted")
	}
}
