//go:build unix

package demo

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/process"
	"github.com/tulle-mesh/tulle/loadtest"
	"github.com/tulle-mesh/tulle/loadtest/shop"
)

// In TestRun this test binary plays both executables: `tulle server` is an HTTP server that is ready, a sidecar forwards bytes between the
// addresses of its workload's plan, and the shop and the load are the real ones. What is under test is everything around them.
func TestMain(m *testing.M) {
	if os.Getenv("DEMO_TEST_CHILD") == "" {
		os.Exit(m.Run())
	}
	ctx := process.Lifeline(context.Background(), 10*time.Second)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	name, err := play(ctx, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	f, err := os.OpenFile(os.Getenv("DEMO_TEST_LOG"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		fmt.Fprintln(f, name)
		f.Close()
	}
	os.Exit(0)
}

func play(ctx context.Context, args []string) (name string, err error) {
	flags := map[string]string{}
	hosts := map[string]string{}
	for i := 0; i+1 < len(args); i++ {
		if k, ok := strings.CutPrefix(args[i], "--"); ok {
			flags[k] = args[i+1]
			if dep, address, ok := strings.Cut(args[i+1], "="); ok && k == "host" {
				hosts[dep] = address
			}
		}
	}
	switch args[0] {
	case "server":
		return "server", serveReady(ctx, flags["controller"], flags["http"])
	case "shop-service":
		return "app", shop.Run(ctx, shop.Config{
			Service: flags["name"], Instance: flags["instance"], Version: flags["version"], Listen: flags["listen"], Control: flags["control"], Hosts: hosts,
		}, nil)
	case "loadgen":
		c := shop.NewCustomers(flags["target"])
		defer c.Close()
		rate, err := strconv.ParseFloat(flags["rate"], 64)
		if err != nil {
			return "", err
		}
		var served sync.Once
		r := &loadtest.Runner{Wave: loadtest.Wave{Base: rate}, Do: func(ctx context.Context, n uint64) error {
			err := c.Visit(ctx, n)
			if err == nil {
				served.Do(func() { fmt.Println("served") })
			}
			return err
		}}
		err = r.Run(ctx, time.Second)
		return "load", err
	}
	var bases [2]int
	if _, err := fmt.Sscan(os.Getenv("DEMO_TEST_BASES"), &bases[0], &bases[1]); err != nil {
		return "", err
	}
	return "sidecar", forward(ctx, plan(bases[0], bases[1]), flags["instance"])
}

func serveReady(ctx context.Context, addresses ...string) error {
	for _, a := range addresses {
		l, err := net.Listen("tcp", a)
		if err != nil {
			return err
		}
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/readyz" {
				w.WriteHeader(http.StatusNotFound)
			}
		}))
	}
	<-ctx.Done()
	return nil
}

// forward is a sidecar without a mesh: outbound goes to the dependency's first inbound, inbound to the application.
func forward(ctx context.Context, ws []Workload, instance string) error {
	me := ws[slices.IndexFunc(ws, func(w Workload) bool { return w.Instance == instance })]
	pipe := func(from, to string) error {
		l, err := net.Listen("tcp", from)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					u, err := net.Dial("tcp", to)
					if err != nil {
						return
					}
					defer u.Close()
					var wg sync.WaitGroup
					wg.Go(func() { io.Copy(u, c); u.(*net.TCPConn).CloseWrite() })
					io.Copy(c, u)
					c.(*net.TCPConn).CloseWrite()
					wg.Wait()
				}()
			}
		}()
		return nil
	}
	if me.Inbound != "" {
		if err := pipe(me.Inbound, me.App); err != nil {
			return err
		}
	}
	for _, dep := range me.Calls {
		d := of(ws, dep)[0]
		to := d.Inbound
		if d.External {
			to = d.App
		}
		if err := pipe(me.Outbound[dep], to); err != nil {
			return err
		}
	}
	return serveReady(ctx, me.Admin)
}

// freeConfig finds a stretch of loopback ports that nobody uses, below those that systems hand out by themselves.
func freeConfig(t *testing.T) Config {
	t.Helper()
	for base := 20_000 + os.Getpid()%200*40; base < 32_000; base += 500 {
		c := Defaults()
		next := base
		for _, a := range []*string{&c.HTTP, &c.Controller, &c.ControllerAdmin, &c.OTLPGRPC, &c.OTLPHTTP, &c.Webhook} {
			*a = "127.0.0.1:" + strconv.Itoa(next)
			next++
		}
		c.AdminBase, c.ShopBase = base+10, base+50
		if checkFree(c.addresses(Plan(c))) == nil {
			return c
		}
	}
	t.Fatal("no free stretch of ports between 20000 and 32000")
	return Config{}
}

// watched is an output that says when a text was written.
type watched struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func (w *watched) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
	return w.text.Write(b)
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func (w *watched) await(t *testing.T, text string, ended <-chan error) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for !strings.Contains(w.String(), text) {
		select {
		case <-w.more:
		case err := <-ended:
			t.Fatalf("the demo ended: %v\n%s", err, w)
		case <-deadline:
			t.Fatalf("no %q within 60 s:\n%s", text, w)
		}
	}
}

// awaitFile waits until the file contains text.
func awaitFile(t *testing.T, path, text string) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), text) {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no %q in %s within 60 s", text, path)
		}
	}
}

func TestRunStartsTellsAndStopsInReverse(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := freeConfig(t)
	dir := t.TempDir()
	stops := filepath.Join(dir, "stops")
	t.Setenv("DEMO_TEST_CHILD", "1")
	t.Setenv("DEMO_TEST_LOG", stops)
	t.Setenv("DEMO_TEST_BASES", fmt.Sprint(c.ShopBase, c.AdminBase))
	out := &watched{more: make(chan struct{}, 1)}
	c.Tulle, c.Sidecar, c.DataDir, c.Out, c.Rate = self, self, filepath.Join(dir, "data"), out, 20
	c.Fault = shop.Script{First: 100 * time.Millisecond, Last: 300 * time.Millisecond}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, c) }()
	out.await(t, "everything serves", ended)
	out.await(t, "catalog-2 answers 503", ended)
	out.await(t, "catalog-2 is healthy again", ended)
	for _, load := range []string{"loadgen", "unmeshed-client"} {
		awaitFile(t, filepath.Join(c.DataDir, "logs", load+".log"), "served")
	}

	// A second demo with the same data or the same ports is refused in one line.
	second := c
	if err := Run(ctx, second); err == nil || !strings.Contains(err.Error(), "another demo is running") {
		t.Errorf("same data directory: %v", err)
	}
	second.DataDir = filepath.Join(dir, "other")
	if err := Run(ctx, second); err == nil || !strings.Contains(err.Error(), "--http") {
		t.Errorf("same ports: %v", err)
	}

	cancel()
	if err := <-ended; err != nil {
		t.Fatalf("did not stop cleanly: %v\n%s", err, out)
	}
	b, err := os.ReadFile(stops)
	if err != nil {
		t.Fatal(err)
	}
	order := slices.Compact(strings.Fields(string(b)))
	if !slices.Equal(order, []string{"load", "app", "sidecar", "server"}) {
		t.Errorf("stopped in the order %v", order)
	}
	if n := len(strings.Fields(string(b))); n != 1+2+2*15 {
		t.Errorf("%d processes stopped, want server, two loads, 15 services and 15 sidecars", n)
	}
	if err := checkFree(c.addresses(Plan(c))); err != nil {
		t.Errorf("a socket was left behind: %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.DataDir, "demo.lock")); err == nil {
		t.Error("the lock was left behind")
	}
}
