package shop

import (
	"fmt"
	"slices"
	"time"
)

// Protocol is what a service speaks.
type Protocol string

const (
	HTTP Protocol = "http"
	GRPC Protocol = "grpc"
	TCP  Protocol = "tcp"
)

// Instance is one process of a service.
type Instance struct {
	Name    string // unique in the shop: "catalog-2"
	Version string // "v1"
}

// Service is one row of the shop's plan.
type Service struct {
	Name      string
	Tier      int // 1 is what customers reach
	Protocol  Protocol
	Instances []Instance
	Calls     []string // services it depends on
	External  bool     // outside the mesh: no sidecar, plaintext
	Pace      Pace
}

// Pace is how long and how reliably a service works on one request, before faults. Latency is lognormal: half of the requests take less than
// Median, and about 1 % more than Median × e^(2.3·Sigma).
type Pace struct {
	Median time.Duration
	Sigma  float64
	CPU    int     // rounds of SHA-256 over the answer, about 1 µs per KiB each
	Errors float64 // share of requests answered 500 for no reason, 0 to 1
}

// Topology is the whole shop, callers before callees within a tier. The slice is the caller's.
func Topology() []Service {
	one := func(name string) []Instance { return []Instance{{Name: name, Version: "v1"}} }
	const rare = 0.001
	return []Service{
		{
			Name: "web", Tier: 1, Protocol: HTTP, Instances: one("web"),
			Calls: []string{"catalog", "search", "cart", "checkout", "recommendations", "sessions"},
			Pace:  Pace{Median: time.Millisecond, Sigma: 0.4, CPU: 4},
		},
		{
			Name: "catalog", Tier: 2, Protocol: HTTP,
			Instances: []Instance{{"catalog-1", "v1"}, {"catalog-2", "v1"}, {"catalog-3", "v1"}},
			Calls:     []string{"pricing", "inventory"},
			Pace:      Pace{Median: 4 * time.Millisecond, Sigma: 0.5, CPU: 8, Errors: rare},
		},
		{
			Name: "search", Tier: 2, Protocol: HTTP, Instances: one("search"), Calls: []string{"catalog"},
			Pace: Pace{Median: 6 * time.Millisecond, Sigma: 0.7, CPU: 16, Errors: rare},
		},
		{
			Name: "cart", Tier: 2, Protocol: HTTP, Instances: one("cart"), Calls: []string{"inventory", "sessions"},
			Pace: Pace{Median: 3 * time.Millisecond, Sigma: 0.4, CPU: 4, Errors: rare},
		},
		{
			Name: "checkout", Tier: 2, Protocol: HTTP, Instances: one("checkout"), Calls: []string{"cart", "inventory", "payments"},
			Pace: Pace{Median: 5 * time.Millisecond, Sigma: 0.4, CPU: 4},
		},
		{
			Name: "pricing", Tier: 3, Protocol: GRPC, Instances: []Instance{{"pricing-v1", "v1"}, {"pricing-v2", "v2"}},
			Pace: Pace{Median: 2 * time.Millisecond, Sigma: 0.4, CPU: 4, Errors: rare},
		},
		{
			Name: "inventory", Tier: 3, Protocol: HTTP, Instances: one("inventory"),
			Pace: Pace{Median: 3 * time.Millisecond, Sigma: 0.5, CPU: 4, Errors: rare},
		},
		{
			Name: "payments", Tier: 3, Protocol: HTTP, Instances: one("payments"), Calls: []string{"ledger", "bank"},
			Pace: Pace{Median: 8 * time.Millisecond, Sigma: 0.5, CPU: 4},
		},
		{
			Name: "recommendations", Tier: 3, Protocol: HTTP, Instances: one("recommendations"), Calls: []string{"catalog"},
			Pace: Pace{Median: 7 * time.Millisecond, Sigma: 0.6, CPU: 8, Errors: rare},
		},
		{
			Name: "ledger", Tier: 4, Protocol: GRPC, Instances: one("ledger"),
			Pace: Pace{Median: 4 * time.Millisecond, Sigma: 0.3, CPU: 2},
		},
		{
			Name: "sessions", Tier: 4, Protocol: TCP, Instances: one("sessions"),
			Pace: Pace{Median: 300 * time.Microsecond, Sigma: 0.4},
		},
		{
			Name: "bank", Tier: 4, Protocol: HTTP, Instances: one("bank"), External: true,
			Pace: Pace{Median: 25 * time.Millisecond, Sigma: 0.4, CPU: 1, Errors: rare},
		},
	}
}

// Find is the service of that name in the Topology.
func Find(name string) (Service, error) {
	all := Topology()
	if i := slices.IndexFunc(all, func(s Service) bool { return s.Name == name }); i >= 0 {
		return all[i], nil
	}
	return Service{}, fmt.Errorf("shop has no service %q", name)
}
