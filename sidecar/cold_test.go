package sidecar

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/identity/join"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar/watch"
)

// member is what a sidecar of the workload web-1 in namespace shop joins with.
type member struct {
	Controller, Bundle, Token, StateDir string
}

// sidecar makes a whole one but for telemetry: its certificate, policy and directory come from the controller. change is for what a test replaces.
func (m member) sidecar(recorder flow.Recorder, change func(c *Config)) (s *Sidecar, actors []run.Actor, err error) {
	controllerID, err := identity.Controller(controller.DefaultTrustDomain)
	if err != nil {
		return nil, nil, err
	}
	id, err := identity.Workload(controller.DefaultTrustDomain, "shop", "web")
	if err != nil {
		return nil, nil, err
	}
	holder := &identity.Holder{}
	joining, err := join.New(join.Config{
		Controller: m.Controller, ControllerID: controllerID, ID: id, Token: m.Token, BundleFile: m.Bundle, StateDir: m.StateDir, Holder: holder,
	})
	if err != nil {
		return nil, nil, err
	}
	w, err := watch.New(watch.Config{
		Controller: m.Controller, ControllerID: controllerID, Identity: holder, Workload: policy.Workload{Instance: "web-1", Service: "web"}, StateDir: m.StateDir,
	})
	if err != nil {
		return nil, nil, err
	}
	c := Config{Policy: w, Directory: w, Identity: holder, Recorder: recorder, Log: slog.New(slog.DiscardHandler)}
	change(&c)
	if s, err = New(c); err != nil {
		return nil, nil, err
	}
	return s, []run.Actor{{Name: "identity", Run: joining.Run}, {Name: "watch", Run: w.Run}, {Name: "sidecar", Run: s.Run}}, nil
}

// externalYAML is the configuration of an external service of protocol http.
func externalYAML(name string, at netip.AddrPort) string {
	return fmt.Sprintf("apiVersion: tulle.dev/v1alpha1\nkind: ExternalService\nmetadata: {name: %s, namespace: shop}\nspec: {addresses: [%q]}\n---\n", name, at)
}

// BenchmarkColdDestination is what the first request to a service costs that the sidecar's policy does not have, beside the second one: 1,000 of a mesh's 2,000
// services are called for the first time by one sidecar, through a real controller over mutual TLS on loopback, from the application's connect to the last byte
// of the answer. Both requests make a connection of their own to the sidecar; the first also makes the sidecar's to the service. Run it with -benchtime 1x.
func BenchmarkColdDestination(b *testing.B) {
	for _, c := range []struct {
		name    string
		callers int
	}{{"one at a time", 1}, {"50 at a time", 50}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				coldDestinations(b, c.callers)
			}
		})
	}
}

func coldDestinations(b *testing.B, callers int) {
	const services, called = 2000, 1000
	b.StopTimer()
	emptyPools()
	web := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { _ = web.Serve(l) })
	defer served.Wait()
	defer web.Close()

	dir := b.TempDir()
	m := member{StateDir: filepath.Join(dir, "web")}
	config, data := filepath.Join(dir, "config"), filepath.Join(dir, "controller")
	if err := os.MkdirAll(config, 0o700); err != nil {
		b.Fatal(err)
	}
	at := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 80)
	}
	var mesh strings.Builder
	for i := range services {
		mesh.WriteString(externalYAML(fmt.Sprint("s", i), at(i)))
	}
	fmt.Fprintf(&mesh, "apiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: web-1, namespace: shop}\nspec: {service: web, intercept: {outbound: {listen: \"127.0.0.1:15001\", unknown: refuse}}}\n")
	if err := os.WriteFile(filepath.Join(config, "mesh.yaml"), []byte(mesh.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	grpcListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	adminListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	m.Controller = grpcListener.Addr().String()
	if m.Bundle, err = controller.EnsureCA(data, ""); err != nil {
		b.Fatal(err)
	}
	if m.Token, err = controller.IssueToken(data, "shop", "web", time.Hour); err != nil {
		b.Fatal(err)
	}
	c, err := controller.New(controller.Config{DataDir: data, ConfigDir: config, GRPCListener: grpcListener, AdminListener: adminListener})
	if err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	to := map[netip.AddrPort]netip.AddrPort{} // by the caller's address
	s, actors, err := m.sidecar(&testmesh.Recorder{}, func(c *Config) {
		c.Listen = func(netip.AddrPort) (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }
		c.Dial = func(ctx context.Context, _ netip.AddrPort) (net.Conn, error) { // every service is the same server
			return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		}
		c.Original = func(conn net.Conn) (netip.AddrPort, error) {
			mu.Lock()
			defer mu.Unlock()
			return to[conn.RemoteAddr().(*net.TCPAddr).AddrPort()], nil
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	all := append([]run.Actor{{Name: "controller", Run: c.Run}}, actors...)
	all = append(all, run.Actor{Name: "ready", Run: func(ctx context.Context, up func()) error {
		up()
		close(ready)
		<-ctx.Done()
		return nil
	}})
	go func() { ended <- run.All(ctx, all...) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	}()
	select {
	case <-ready:
	case err := <-ended:
		b.Fatal(err)
	}
	if n := len(s.Snapshot().Services); n != 0 {
		b.Fatalf("the policy has %d services before the first call", n)
	}
	listener := s.Addresses()["intercept:outbound"].String()

	get := func(i int) time.Duration {
		mu.Lock() // the sidecar asks after this
		begin := time.Now()
		c, err := net.Dial("tcp", listener)
		if err != nil {
			mu.Unlock()
			b.Error(err)
			return 0
		}
		to[c.LocalAddr().(*net.TCPAddr).AddrPort()] = at(i)
		mu.Unlock()
		defer c.Close()
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			b.Errorf("service %d: %v", i, err)
			return 0
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != 200 {
			b.Errorf("service %d: %s", i, resp.Status)
		}
		return time.Since(begin)
	}
	var cold, warm, added [called]time.Duration
	b.StartTimer()
	var next sync.Mutex
	i := 0
	var callersDone sync.WaitGroup
	for range callers {
		callersDone.Go(func() {
			for {
				next.Lock()
				mine := i
				i++
				next.Unlock()
				if mine >= called {
					return
				}
				cold[mine] = get(mine)
				warm[mine] = get(mine)
				added[mine] = cold[mine] - warm[mine]
			}
		})
	}
	callersDone.Wait()
	b.StopTimer()
	if n := s.Lookups().Count(AnswerService); n != called {
		b.Errorf("%d lookups, want %d", n, called)
	}
	if n := len(s.Snapshot().Services); n != called {
		b.Errorf("the policy has %d services, want %d", n, called)
	}
	for name, list := range map[string][]time.Duration{"cold": cold[:], "warm": warm[:], "added": added[:]} {
		slices.Sort(list)
		b.ReportMetric(float64(list[called/2].Microseconds())/1e3, name+"-p50-ms")
		b.ReportMetric(float64(list[called*99/100].Microseconds())/1e3, name+"-p99-ms")
	}
	b.StartTimer()
}
