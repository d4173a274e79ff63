package graph

import (
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
)

// A workload with several ports has an endpoint for each, and what its sidecar reports counts for the one that was called.
func TestEndpointsOfPorts(t *testing.T) {
	older := &tullev1.RegistryWorkload{Instance: "cart-0", Address: "10.0.0.1:80"}
	one := &tullev1.RegistryWorkload{Instance: "cart-1", Address: "10.0.0.2:80", Ports: []*tullev1.RegistryPort{{Address: "10.0.0.2:80"}}}
	two := &tullev1.RegistryWorkload{
		Instance: "cart-2", Address: "[fd00::3]:80", Ports: []*tullev1.RegistryPort{{Address: "[fd00::3]:80"}, {Name: "metrics", Address: "[fd00::3]:8080"}},
	}
	client := &tullev1.RegistryWorkload{Instance: "job-1"}
	for _, c := range []struct {
		w    *tullev1.RegistryWorkload
		port string
		want string
	}{
		{older, "", "10.0.0.1:80"},
		{older, "80", "10.0.0.1:80"},
		{one, "", "10.0.0.2:80"},
		{one, "80", "10.0.0.2:80"},
		{one, "9999", "10.0.0.2:80"}, // the sidecar listens elsewhere than it is called; there is one it can mean
		{two, "", "[fd00::3]:80"},    // of a sidecar from before there were ports
		{two, "80", "[fd00::3]:80"},
		{two, "8080", "[fd00::3]:8080"},
		{two, "0", ""},
		{client, "80", ""},
		{nil, "80", ""},
	} {
		if got := endpointAt(c.w, c.port); got != c.want {
			t.Errorf("%s, port %q: %q, want %q", c.w.GetInstance(), c.port, got, c.want)
		}
	}
	x := newIndex(&tullev1.Registry{Workloads: []*tullev1.RegistryWorkload{older, one, two, client}})
	for address, want := range map[string]string{"10.0.0.1:80": "cart-0", "10.0.0.2:80": "cart-1", "[fd00::3]:80": "cart-2", "[fd00::3]:8080": "cart-2"} {
		if got := x.address[address].GetInstance(); got != want {
			t.Errorf("%s is %q, want %q", address, got, want)
		}
	}
	if got := addressesOf(two); !slices.Equal(got, []string{"[fd00::3]:80", "[fd00::3]:8080"}) || addressesOf(client) != nil {
		t.Errorf("addresses: %v, %v", got, addressesOf(client))
	}
}
