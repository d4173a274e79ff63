package graph

import (
	"testing"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
)

func TestKinds(t *testing.T) {
	workload := func(service, protocol string) *tullev1.RegistryWorkload {
		return &tullev1.RegistryWorkload{Service: service, Instance: service + "-1", Protocol: protocol}
	}
	x := newIndex(&tullev1.Registry{
		Services: []*tullev1.RegistryService{
			{Name: "web", Protocol: "http/1.1"},
			{Name: "db", Protocol: "tls"},
			{Name: "gateway", Gateway: true},
			{Name: "bank", Protocol: "http/1.1", External: true},
		},
		Workloads: []*tullev1.RegistryWorkload{workload("web", "http/1.1"), workload("db", "tls"), workload("gateway", ""), workload("queue", "tcp")},
	})
	for service, want := range map[string]NodeKind{
		"web": KindService, "db": KindTCP, "queue": KindTCP, "gateway": KindGateway, "bank": KindExternal, "nobody": KindExternal, unmeshed: KindUnmeshed, passthrough: KindPassthrough,
	} {
		if got := x.kind(service); got != want {
			t.Errorf("%s is a %s, want %s", service, got, want)
		}
	}
}
