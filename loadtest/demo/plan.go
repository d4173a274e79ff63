//go:build unix

package demo

import (
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/tulle-mesh/tulle/loadtest/shop"
)

// Namespace holds every workload of the demo.
const Namespace = "shop"

// LoadInstance is the load generator's workload: it calls web through a sidecar of its own, like any other.
const LoadInstance = "loadgen"

// Each instance has stride consecutive ports from the shop's base: application, control, inbound, and one outbound per dependency.
const (
	stride      = 20
	portApp     = 0
	portControl = 1
	portInbound = 2
	portOut     = 3
)

// Workload is one process of the shop and where everything about it listens.
type Workload struct {
	Service  string
	Instance string
	Version  string
	Protocol shop.Protocol     // of the application; "" for a client
	External bool              // no sidecar
	Client   bool              // serves nothing: the load generator
	App      string            // where the application listens; "" for a client
	Control  string            // where its faults are set; "" for a client
	Inbound  string            // where its sidecar listens for it; "" for a client or an external host
	Admin    string            // its sidecar's admin address; "" for an external host
	Outbound map[string]string // dependency -> its sidecar's listener for it
	Calls    []string          // the dependencies, in the topology's order
}

// Plan is the shop of a configuration: every process and where it listens.
func Plan(c Config) []Workload { return plan(c.ShopBase, c.AdminBase) }

// plan lays the shop out on loopback ports: shopBase on for the workloads, adminBase on for the sidecars' admin ports.
func plan(shopBase, adminBase int) []Workload {
	at := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	var out []Workload
	sidecars := 0
	add := func(w Workload) {
		base := shopBase + len(out)*stride
		if !w.Client {
			w.App, w.Control = at(base+portApp), at(base+portControl)
		}
		if !w.External {
			w.Admin = at(adminBase + sidecars)
			sidecars++
			if !w.Client {
				w.Inbound = at(base + portInbound)
			}
			w.Outbound = map[string]string{}
			for i, dep := range w.Calls {
				w.Outbound[dep] = at(base + portOut + i)
			}
		}
		out = append(out, w)
	}
	for _, s := range shop.Topology() {
		for _, i := range s.Instances {
			add(Workload{
				Service: s.Name, Instance: i.Name, Version: i.Version, Protocol: s.Protocol, External: s.External, Calls: s.Calls,
			})
		}
	}
	add(Workload{Service: LoadInstance, Instance: LoadInstance, Version: "v1", Client: true, Calls: []string{"web"}})
	return out
}

// of are the workloads of one service.
func of(ws []Workload, service string) []Workload {
	var out []Workload
	for _, w := range ws {
		if w.Service == service {
			out = append(out, w)
		}
	}
	return out
}

// needed is an address that must be free, and the flag that moves it.
type needed struct {
	address, what, flag string
}

// addresses lists every address the demo listens on.
func (c Config) addresses(ws []Workload) []needed {
	out := []needed{
		{c.HTTP, "the dashboard", "--http"},
		{c.Controller, "the controller", "--controller"},
		{c.ControllerAdmin, "the controller's admin", "--controller-admin"},
		{c.OTLPGRPC, "OTLP over gRPC", "--otlp-grpc"},
		{c.OTLPHTTP, "OTLP over HTTP", "--otlp-http"},
		{c.Webhook, "the webhook receiver", "--webhook"},
	}
	for _, w := range ws {
		for _, a := range []needed{
			{w.App, w.Instance, "--shop-base"},
			{w.Control, w.Instance + "'s control port", "--shop-base"},
			{w.Inbound, w.Instance + "'s sidecar (inbound)", "--shop-base"},
			{w.Admin, w.Instance + "'s sidecar (admin)", "--admin-base"},
		} {
			if a.address != "" {
				out = append(out, a)
			}
		}
		for _, dep := range w.Calls {
			if a := w.Outbound[dep]; a != "" {
				out = append(out, needed{a, w.Instance + "'s sidecar (outbound to " + dep + ")", "--shop-base"})
			}
		}
	}
	return out
}

// checkFree returns an error that names the first address that cannot be listened on, what wants it, and the flag that moves it.
func checkFree(all []needed) error {
	seen := map[string]needed{}
	for _, n := range all {
		_, port, err := net.SplitHostPort(n.address)
		if err != nil {
			return fmt.Errorf("%s %q is not an address: write it as 127.0.0.1:PORT", n.flag, n.address)
		}
		if first, twice := seen[n.address]; twice {
			return fmt.Errorf("%s and %s are both told to listen on %s: change %s", first.what, n.what, n.address,
				joinFlags(first.flag, n.flag))
		}
		seen[n.address] = n
		l, err := net.Listen("tcp", n.address)
		if err != nil {
			return fmt.Errorf("port %s is needed by %s and cannot be used: %w. See who has it with 'lsof -i :%s', or choose another with %s",
				port, n.what, err, port, n.flag)
		}
		l.Close()
	}
	return nil
}

func joinFlags(flags ...string) string {
	slices.Sort(flags)
	flags = slices.Compact(flags)
	if len(flags) == 1 {
		return flags[0]
	}
	return flags[0] + " or " + flags[1]
}
