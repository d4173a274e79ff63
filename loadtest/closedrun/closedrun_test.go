package closedrun

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/collector"
	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/identity/join"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/sidecar"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
	"github.com/tulle-mesh/tulle/sidecar/watch"
	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/span/local"
)

const (
	trustDomain = "tulle.local"
	namespace   = "shop"
)

// sidecarEnv makes this test binary run one sidecar instead of the tests, so that a sidecar can be killed as a process.
const sidecarEnv = "TULLE_CLOSEDRUN_SIDECAR"

func TestMain(m *testing.M) {
	if os.Getenv(sidecarEnv) == "" {
		os.Exit(m.Run())
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // the parent's end of the pipe closes when it dies
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	err := runSidecar(ctx, sidecarConfig{
		controller: os.Getenv("CONTROLLER"), otlp: os.Getenv("OTLP"), bundle: os.Getenv("BUNDLE"), token: os.Getenv("TOKEN"),
		state: os.Getenv("STATE"), service: os.Getenv("SERVICE"), instance: os.Getenv("INSTANCE"),
	}, func() { fmt.Println("ready") }, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

type sidecarConfig struct{ controller, otlp, bundle, token, state, service, instance string }

// runSidecar is one sidecar's process, but for the command line.
func runSidecar(ctx context.Context, c sidecarConfig, ready func(), log *slog.Logger) error {
	holder := new(identity.Holder)
	id, err := identity.Workload(trustDomain, namespace, c.service)
	if err != nil {
		return err
	}
	ctl, _ := identity.Controller(trustDomain)
	obs, _ := identity.Observer(trustDomain)
	w := policy.Workload{Service: c.service, Namespace: namespace, Version: "v1", Instance: c.instance}
	j, err := join.New(join.Config{Controller: c.controller, ControllerID: ctl, ID: id, Token: c.token, BundleFile: c.bundle, StateDir: c.state, Holder: holder, Log: log})
	if err != nil {
		return err
	}
	source, err := watch.New(watch.Config{Controller: c.controller, ControllerID: ctl, Identity: holder, Workload: w, StateDir: c.state, Log: log})
	if err != nil {
		return err
	}
	tel := telemetry.New(telemetry.Config{Workload: w, Target: c.otlp, TLS: clientTLS(holder, obs), Log: log})
	sc, err := sidecar.New(sidecar.Config{Policy: source, Identity: holder, Recorder: tel, Workload: w, Log: log, DrainTimeout: 10 * time.Second})
	if err != nil {
		return err
	}
	return run.All(ctx,
		run.Actor{Name: "identity", Run: j.Run},
		run.Actor{Name: "telemetry", Run: tel.Run},
		run.Actor{Name: "watch", Run: source.Run},
		run.Actor{Name: "sidecar", Run: sc.Run},
		run.Actor{Name: "ready", Run: func(ctx context.Context, up func()) error { up(); ready(); <-ctx.Done(); return nil }},
	)
}

// mesh is a controller and an observer's evidence path in this process.
type mesh struct {
	t          *testing.T
	dir        string
	controller string
	otlp       string
	bundle     string
	graph      *graph.Graph
	log        *slog.Logger
	stop       []func()
}

func (m *mesh) actor(name string, f func(ctx context.Context, ready func()) error) (stop func()) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() { done <- f(ctx, func() { once.Do(func() { close(ready) }) }) }()
	select {
	case <-ready:
	case err := <-done:
		cancel()
		m.t.Fatalf("%s did not start: %v", name, err)
	case <-time.After(30 * time.Second):
		cancel()
		m.t.Fatalf("%s was not ready within 30 s", name)
	}
	var stopped sync.Once
	stop = func() {
		stopped.Do(func() {
			cancel()
			if err := <-done; err != nil {
				m.t.Errorf("%s: %v", name, err)
			}
		})
	}
	m.stop = append(m.stop, stop)
	return stop
}

// freePorts returns loopback addresses that nothing listens on, below the range from which the kernel takes its own, so that no outgoing
// connection of the run gets one of them.
func freePorts(t *testing.T) func() string {
	t.Helper()
	next := 21000 + os.Getpid()%8000
	return func() string {
		for range 1000 {
			next++
			ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", next))
			if err != nil {
				continue
			}
			ln.Close()
			return ln.Addr().String()
		}
		t.Fatal("no free port on 127.0.0.1")
		return ""
	}
}

func (m *mesh) token(service string) string {
	m.t.Helper()
	tok, err := controller.IssueToken(m.dir, namespace, service, time.Hour)
	if err != nil {
		m.t.Fatal(err)
	}
	return tok
}

// registry answers who is who from what the test itself configured: the controller would tell the observer the same.
type registry struct{ r *tullev1.Registry }

func (r registry) Lookup(id string) (service, ns string, ok bool) {
	for _, w := range r.r.GetWorkloads() {
		if w.GetIdentity() == id {
			return w.GetService(), w.GetNamespace(), true
		}
	}
	return "", "", false
}

type app struct{ listen, target, service, instance string }

func TestIdentitiesHoldToTheLastRequest(t *testing.T) {
	const requests = 10_000
	m := &mesh{t: t, dir: t.TempDir(), log: slog.New(slog.DiscardHandler)}
	defer func() {
		for i := len(m.stop) - 1; i >= 0; i-- {
			m.stop[i]()
		}
	}()

	// Two destinations: "steady" has a healthy endpoint, one whose application is down, one that hangs, one that resets, and one whose
	// sidecar was never there; "mortal" has a healthy endpoint and one whose sidecar is killed once.
	freePort := freePorts(t)
	steady, mortal := freePort(), freePort()
	apps := []app{
		{freePort(), serve(t, answer), "steady", "steady-ok"},
		{freePort(), freePort(), "steady", "steady-down"},
		{freePort(), serve(t, hang), "steady", "steady-hangs"},
		{freePort(), serve(t, reset), "steady", "steady-resets"},
		{freePort(), serve(t, answer), "steady", "steady-absent"},
		{freePort(), serve(t, answer), "mortal", "mortal-ok"},
		{freePort(), serve(t, answer), "mortal", "mortal-killed"},
	}
	var yaml strings.Builder
	fmt.Fprintf(&yaml, "apiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: caller-1, namespace: %s}\nspec:\n  service: caller\n  version: v1\n  upstreams:\n    - {service: steady, listen: %q}\n    - {service: mortal, listen: %q}\n", namespace, steady, mortal)
	reg := &tullev1.Registry{Revision: "test", Workloads: []*tullev1.RegistryWorkload{{Service: "caller", Namespace: namespace, Instance: "caller-1", Identity: "spiffe://tulle.local/ns/shop/sa/caller", Protocol: "http/1.1"}}}
	for _, a := range apps {
		fmt.Fprintf(&yaml, "---\napiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: %s, namespace: %s}\nspec:\n  service: %s\n  version: v1\n  ports:\n    - {listen: %q, target: %q, protocol: http, mode: strict}\n", a.instance, namespace, a.service, a.listen, a.target)
		reg.Workloads = append(reg.Workloads, &tullev1.RegistryWorkload{Service: a.service, Namespace: namespace, Version: "v1", Instance: a.instance, Identity: "spiffe://tulle.local/ns/shop/sa/" + a.service, Address: a.listen, Protocol: "http/1.1"})
	}
	for _, s := range []string{"steady", "mortal"} {
		reg.Services = append(reg.Services, &tullev1.RegistryService{Name: s, Namespace: namespace, Protocol: "http/1.1"})
		fmt.Fprintf(&yaml, "---\napiVersion: tulle.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: %s, namespace: %s}\nspec: {targetService: %s, requestTimeout: 400ms}\n", s, namespace, s)
	}
	config := filepath.Join(m.dir, "config")
	if err := os.MkdirAll(config, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "all.yaml"), []byte(yaml.String()), 0o600); err != nil {
		t.Fatal(err)
	}

	var err error
	if m.bundle, err = controller.EnsureCA(m.dir, trustDomain); err != nil {
		t.Fatal(err)
	}
	m.controller = freePort()
	ctl, err := controller.New(controller.Config{DataDir: m.dir, ConfigDir: config, GRPC: m.controller, Admin: freePort(), TrustDomain: trustDomain, Log: m.log})
	if err != nil {
		t.Fatal(err)
	}
	m.actor("controller", ctl.Run)

	holder := new(identity.Holder)
	obsID, _ := identity.Observer(trustDomain)
	ctlID, _ := identity.Controller(trustDomain)
	obsToken, err := controller.IssueToken(m.dir, identity.SystemNamespace, "observer", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	oj, err := join.New(join.Config{Controller: m.controller, ControllerID: ctlID, ID: obsID, Token: obsToken, BundleFile: m.bundle, StateDir: filepath.Join(m.dir, "observer"), Holder: holder, Log: m.log})
	if err != nil {
		t.Fatal(err)
	}
	m.actor("observer's identity", oj.Run)
	spans, err := local.Open(local.Config{Dir: filepath.Join(m.dir, "spans"), Log: m.log})
	if err != nil {
		t.Fatal(err)
	}
	m.stop = append(m.stop, func() { _ = spans.Close() })
	if m.graph, err = graph.Open(graph.Config{Registry: func() *tullev1.Registry { return reg }, Logger: m.log}); err != nil {
		t.Fatal(err)
	}
	m.actor("graph", m.graph.Run)
	col, err := collector.New(collector.Config{GRPC: "127.0.0.1:0", Identity: holder, Spans: spans, Metrics: m.graph, Registry: registry{reg}, Log: m.log})
	if err != nil {
		t.Fatal(err)
	}
	m.actor("collector", col.Run)
	m.otlp, _ = col.Addresses()

	stopSidecars := []func(){}
	var killed *child
	for _, a := range append(apps, app{service: "caller", instance: "caller-1"}) {
		c := sidecarConfig{controller: m.controller, otlp: m.otlp, bundle: m.bundle, token: m.token(a.service), state: filepath.Join(m.dir, a.instance), service: a.service, instance: a.instance}
		switch a.instance {
		case "steady-absent":
			continue
		case "mortal-killed":
			killed = startChild(t, c)
		default:
			stopSidecars = append(stopSidecars, m.actor(a.instance, func(ctx context.Context, ready func()) error { return runSidecar(ctx, c, ready, m.log) }))
		}
	}
	defer func() { killed.kill() }()

	// Whatever the live view shows meanwhile, a killed reporter is never shown as a loss, and it is shown as missing.
	watching, stopWatching := context.WithCancel(t.Context())
	var seen struct {
		sync.Mutex
		missing int
		lost    []string
	}
	var watcher sync.WaitGroup
	snapshots := m.graph.Subscribe(watching)
	watcher.Go(func() {
		for snap := range snapshots {
			for _, e := range snap.Edges {
				if e.Destination != "mortal" {
					continue
				}
				seen.Lock()
				if e.State == graph.ReporterMissing {
					seen.missing++
				}
				if e.Gap != nil && e.Gap.Lost > 0 {
					seen.lost = append(seen.lost, fmt.Sprintf("%d at %s", e.Gap.Lost, snap.At))
				}
				seen.Unlock()
			}
		}
	})

	// The closed run. "sent" counts heads that were written whole; some callers leave before the answer.
	var sent [2]atomic.Uint64
	var done atomic.Int64
	targets := [2]string{steady, mortal}
	kill := make(chan struct{})
	var callers sync.WaitGroup
	for g := range 16 {
		callers.Go(func() {
			r := rand.New(rand.NewPCG(20261120, uint64(g)))
			for range requests / 16 {
				which := r.IntN(2)
				if call(r, targets[which], which == 0 && r.IntN(40) == 0) {
					sent[which].Add(1)
				}
				if done.Add(1) == requests/2 {
					close(kill)
				}
			}
		})
	}
	go func() {
		<-kill
		killed.kill()
	}()
	callers.Wait()
	again := startChild(t, sidecarConfig{controller: m.controller, otlp: m.otlp, bundle: m.bundle, state: filepath.Join(m.dir, "mortal-killed"), service: "mortal", instance: "mortal-killed"})
	again.stop(t)
	for _, stop := range stopSidecars { // each drains, flushes and says goodbye
		stop()
	}

	t.Logf("sent to steady %d, to mortal %d", sent[0].Load(), sent[1].Load())
	totals := map[string]graph.Totals{}
	for _, e := range m.graph.Totals() {
		totals[e.Source+">"+e.Destination] = e
		t.Logf("%s>%s: %+v", e.Source, e.Destination, e)
	}
	s, ok := totals["caller>steady"]
	if !ok {
		t.Fatalf("no edge caller>steady in %v", totals)
	}
	if got, want := s.ClientExchanges, sent[0].Load(); got != want {
		t.Errorf("client exchanges = %d, sent = %d", got, want)
	}
	never := sum(s.NeverDelivered)
	if s.ClientAttempts != s.ServerExchanges+never {
		t.Errorf("client attempts = %d, server exchanges + never delivered = %d + %d %v", s.ClientAttempts, s.ServerExchanges, never, s.NeverDelivered)
	}
	if unanswered := sum(s.ServerUnanswered); s.ServerExchanges != s.ServerAnswered+unanswered {
		t.Errorf("server exchanges = %d, answered + unanswered = %d + %d %v", s.ServerExchanges, s.ServerAnswered, unanswered, s.ServerUnanswered)
	}
	if s.State != graph.BothSides || len(s.MissingReporters) != 0 {
		t.Errorf("steady: state %s, missing %v; both sides reported all the time", s.State, s.MissingReporters)
	}
	if never == 0 || sum(s.ServerUnanswered) == 0 {
		t.Errorf("the run had no failures to count: never delivered %v, unanswered %v", s.NeverDelivered, s.ServerUnanswered)
	}
	d := totals["caller>mortal"]
	if got, want := d.ClientExchanges, sent[1].Load(); got != want {
		t.Errorf("mortal: client exchanges = %d, sent = %d", got, want)
	}
	if d.State != graph.ReporterMissing || strings.Join(d.MissingReporters, " ") != "mortal-killed" {
		t.Errorf("mortal: state %s, missing %v; want reporter-missing, mortal-killed", d.State, d.MissingReporters)
	}
	stopWatching()
	watcher.Wait()
	if seen.missing == 0 || len(seen.lost) > 0 {
		t.Errorf("live, mortal was shown as reporter-missing in %d snapshots, and as lost in %v; want some, and none", seen.missing, seen.lost)
	}
}

func sum(m map[string]uint64) (n uint64) {
	for _, v := range m {
		n += v
	}
	return n
}

func clientTLS(h *identity.Holder, allowed identity.ID) func() *tls.Config {
	return func() *tls.Config { return h.ClientTLS(allowed) }
}

// call sends one request on a connection of its own and reports whether its whole head was written.
func call(r *rand.Rand, addr string, leave bool) bool {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	method := []string{"GET", "GET", "GET", "POST"}[r.IntN(4)]
	body := ""
	if method == "POST" {
		body = strings.Repeat("x", r.IntN(2000))
	}
	if _, err := fmt.Fprintf(c, "%s /item/%d HTTP/1.1\r\nHost: shop\r\nContent-Length: %d\r\n\r\n%s", method, r.IntN(9), len(body), body); err != nil {
		return false
	}
	if leave {
		_ = c.SetReadDeadline(time.Now().Add(time.Duration(r.IntN(5)) * time.Millisecond))
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
	return true
}

// serve runs an application that handles each connection by h and returns its address.
func serve(t *testing.T, h func(net.Conn, *http.Request)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				br := bufio.NewReader(c)
				for {
					req, err := http.ReadRequest(br)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, req.Body)
					h(c, req)
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return ln.Addr().String()
}

func answer(c net.Conn, _ *http.Request) {
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
}

// hang answers half of the requests only when their caller has given up.
func hang(c net.Conn, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "1") || strings.HasSuffix(r.URL.Path, "2") {
		one := make([]byte, 1)
		_, _ = c.Read(one)
		c.Close()
		return
	}
	answer(c, r)
}

// reset breaks some connections in the middle of an answer, and some before one.
func reset(c net.Conn, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "3"):
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\nhalf")
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	case strings.HasSuffix(r.URL.Path, "4"):
		_ = c.(*net.TCPConn).SetLinger(0)
		c.Close()
	default:
		answer(c, r)
	}
}

// child is a sidecar in a process of its own.
type child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	once  sync.Once
	err   error
}

func startChild(t *testing.T, c sidecarConfig) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), sidecarEnv+"=1", "CONTROLLER="+c.controller, "OTLP="+c.otlp, "BUNDLE="+c.bundle, "TOKEN="+c.token, "STATE="+c.state, "SERVICE="+c.service, "INSTANCE="+c.instance)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		t.Fatalf("the sidecar's process said %q, %v; want ready", line, err)
	}
	return &child{cmd: cmd, stdin: in}
}

// kill ends the process at once: SIGKILL, no goodbye.
func (c *child) kill() {
	c.once.Do(func() {
		_ = c.cmd.Process.Kill()
		c.err = c.cmd.Wait()
	})
}

// stop lets it drain, flush and say goodbye.
func (c *child) stop(t *testing.T) {
	t.Helper()
	c.once.Do(func() {
		_ = c.stdin.Close()
		c.err = c.cmd.Wait()
	})
	var exit *exec.ExitError
	if errors.As(c.err, &exit) {
		t.Errorf("the restarted sidecar ended with %v", c.err)
	}
}

var _ flow.Recorder = (*telemetry.Telemetry)(nil)
