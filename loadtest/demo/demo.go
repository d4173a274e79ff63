//go:build unix

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/internal/process"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/loadtest/shop"
)

// Config is one run of the demo. Start from Defaults.
type Config struct {
	DataDir  string // "" means DefaultDataDir
	KeepData bool   // keep what the last run stored; otherwise it is removed at the start

	HTTP            string // dashboard, query APIs, metrics
	Controller      string // controller gRPC
	ControllerAdmin string
	OTLPGRPC        string
	OTLPHTTP        string
	Webhook         string // the demo's own alert receiver
	AdminBase       int    // first sidecar admin port; 1024 to 60,000
	ShopBase        int    // first port of the shop; 1024 to 60,000

	Duration time.Duration // 0: until the context ends
	NoLoad   bool          // start everything, send nothing
	NoFault  bool          // no scripted fault
	Rate     float64       // customers' requests per second on average
	Fault    shop.Script   // Targets are filled in; zero fields take the plan's defaults

	Tulle   string    // the tulle executable; "" means this one
	Sidecar string    // the tulle-sidecar executable; "" means beside Tulle
	Out     io.Writer // what is said to the person; default discards
	Color   bool      // Out is a terminal that shows colours
	Log     *slog.Logger
}

// Defaults is the demo as `tulle demo` runs it. The rate gives each of catalog's three endpoints 50 requests per second on average.
func Defaults() Config {
	return Config{
		HTTP:            "127.0.0.1:8640",
		Controller:      "127.0.0.1:8641",
		OTLPGRPC:        "127.0.0.1:8642",
		OTLPHTTP:        "127.0.0.1:8643",
		ControllerAdmin: "127.0.0.1:8644",
		Webhook:         "127.0.0.1:8645",
		AdminBase:       15000,
		ShopBase:        16000,
		Rate:            90,
	}
}

// check refuses values that cannot work, naming the flag.
func (c Config) check() error {
	if c.AdminBase < 1024 || c.AdminBase > 60_000 {
		return fmt.Errorf("--admin-base %d: must be 1024 to 60000", c.AdminBase)
	}
	if c.ShopBase < 1024 || c.ShopBase > 60_000 {
		return fmt.Errorf("--shop-base %d: must be 1024 to 60000", c.ShopBase)
	}
	if !c.NoLoad && (!(c.Rate > 0) || c.Rate > 2000) {
		return fmt.Errorf("--rate %g: must be above 0 and at most 2000 requests per second", c.Rate)
	}
	if c.Duration < 0 {
		return fmt.Errorf("--duration %s: must not be negative", c.Duration)
	}
	return nil
}

// unmeshedRate is how often a client without a sidecar says hello to web, in plaintext, per second.
const unmeshedRate = 1

// readyTimeout bounds the start of each part.
const readyTimeout = 60 * time.Second

// demo is one run.
type demo struct {
	Config
	dir       *dataDir
	workloads []Workload
	teller    *teller
	api       *client.Client
	bundle    string
	tokens    map[string]string // instance -> file
}

// Run runs the demo until ctx ends (or Duration passed), then stops everything in reverse order. It returns nil when all stopped cleanly.
func Run(ctx context.Context, cfg Config) error {
	if cfg.Out == nil {
		cfg.Out = io.Discard
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.check(); err != nil {
		return err
	}
	if err := cfg.findExecutables(); err != nil {
		return err
	}
	if cfg.DataDir == "" {
		dir, err := DefaultDataDir()
		if err != nil {
			return err
		}
		cfg.DataDir = dir
	}
	d := &demo{Config: cfg, workloads: plan(cfg.ShopBase, cfg.AdminBase), teller: newTeller(cfg.Out, cfg.Color)}
	dir, err := openDataDir(cfg.DataDir, cfg.KeepData)
	if err != nil {
		return err
	}
	defer dir.close()
	d.dir = dir
	if err := checkFree(cfg.addresses(d.workloads)); err != nil {
		return err
	}
	if err := d.prepare(); err != nil {
		return err
	}
	if cfg.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, cfg.Duration)
		defer cancel()
	}
	d.api = client.New("http://" + cfg.HTTP)
	d.teller.begin(d)
	stopped := context.AfterFunc(ctx, func() { d.teller.line("stop", "stopping load, shop, sidecars and server, in this order") })
	defer stopped()
	err = run.All(ctx,
		run.Actor{Name: "webhook receiver", Run: func(ctx context.Context, ready func()) error {
			hook := &webhook{heard: d.teller.notification}
			return hook.run(ctx, d.Webhook, ready)
		}},
		run.Actor{Name: "server", Run: d.runServer},
		run.Actor{Name: "sidecars", Run: d.runSidecars},
		run.Actor{Name: "shop", Run: d.runShop},
		run.Actor{Name: "ready", Run: d.awaitAll},
		run.Actor{Name: "load", Run: d.runLoad},
		run.Actor{Name: "story", Run: d.tell},
	)
	if err == nil {
		d.teller.line("done", "everything has stopped; the data stays in "+d.dir.path)
	}
	return err
}

// findExecutables fills in and checks the two binaries.
func (c *Config) findExecutables() error {
	if c.Tulle == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("cannot find the running executable: %w", err)
		}
		c.Tulle = self
	}
	if c.Sidecar == "" {
		c.Sidecar = filepath.Join(filepath.Dir(c.Tulle), "tulle-sidecar")
	}
	if info, err := os.Stat(c.Sidecar); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		return fmt.Errorf("the data plane's executable is not at %s: 'make build' puts both side by side, or name it with --sidecar", c.Sidecar)
	}
	return nil
}

// prepare writes configuration, CA and join tokens.
func (d *demo) prepare() error {
	if err := d.writeConfig(); err != nil {
		return err
	}
	bundle, err := controller.EnsureCA(d.dir.join("controller"), controller.DefaultTrustDomain)
	if err != nil {
		return fmt.Errorf("creating the demo's certificate authority: %w", err)
	}
	d.bundle = bundle
	d.tokens = map[string]string{}
	if err := os.MkdirAll(d.dir.join("tokens"), 0o700); err != nil {
		return err
	}
	for _, w := range d.workloads {
		if w.External {
			continue
		}
		token, err := controller.IssueToken(d.dir.join("controller"), Namespace, w.Service, 24*time.Hour)
		if err != nil {
			return fmt.Errorf("join token for %s: %w", w.Instance, err)
		}
		file := d.dir.join("tokens", w.Instance)
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			return err
		}
		d.tokens[w.Instance] = file
	}
	return nil
}

// child is the supervisor of one process, logging to the data directory.
func (d *demo) child(name, path string, ready func(context.Context) error, env []string, args ...string) (*process.Supervisor, io.Closer, error) {
	log, err := process.OpenLog(d.dir.join("logs", name+".log"), 0)
	if err != nil {
		return nil, nil, err
	}
	return &process.Supervisor{
		Spec:  process.Spec{Name: name, Path: path, Args: args, Env: env, Log: log},
		Ready: ready,
		OnRestart: func(name string, err error, pause time.Duration) {
			d.teller.warn(fmt.Sprintf("%v; starting it again in %s (log: %s)", err, pause, d.dir.join("logs", name+".log")))
		},
		Log: d.Log,
	}, log, nil
}

// runServer runs controller and observer; it calls ready as soon as the controller answers, so that sidecars can join while the observer
// opens its store.
func (d *demo) runServer(ctx context.Context, ready func()) error {
	s, log, err := d.child("server", d.Tulle, d.controllerUp, nil, d.serverArgs()...)
	if err != nil {
		return err
	}
	defer log.Close()
	s.Spec.StopTimeout = 40 * time.Second
	return s.Run(ctx, ready)
}

func (d *demo) controllerUp(ctx context.Context) error { return dialable(ctx, d.Controller) }

// modest keeps a sidecar's peaks low: fifteen of them share one machine here. Beyond it the collector works harder, nothing fails.
var modest = []string{"GOMEMLIMIT=24MiB"}

// runSidecars and runShop start their processes at once and call ready without waiting: awaitAll waits for all of them together.
func (d *demo) runSidecars(ctx context.Context, ready func()) error {
	var all []start
	for _, w := range d.workloads {
		if w.External {
			continue
		}
		all = append(all, start{name: w.Instance + "-sidecar", path: d.Sidecar, args: d.sidecarArgs(w), env: modest, ready: httpReady("http://" + w.Admin + "/readyz")})
	}
	return d.together(ctx, ready, all)
}

func (d *demo) runShop(ctx context.Context, ready func()) error {
	var all []start
	for _, w := range d.workloads {
		if w.Client {
			continue
		}
		args := []string{"shop-service", "--name", w.Service, "--instance", w.Instance, "--version", w.Version, "--listen", w.App, "--control", w.Control}
		for _, dep := range w.Calls {
			args = append(args, "--host", dep+"="+w.Outbound[dep])
		}
		control := shop.Control{Address: w.Control}
		all = append(all, start{name: w.Instance, path: d.Tulle, args: args, env: small, ready: control.Ready})
	}
	return d.together(ctx, ready, all)
}

// small keeps a process that does little from taking much: one processor, an early garbage collector.
var small = []string{"GOMAXPROCS=1", "GOGC=50", "GOMEMLIMIT=64MiB"}

type start struct {
	name, path string
	args, env  []string
	ready      func(context.Context) error
}

// together supervises several processes as one actor; the first that fails to start ends all.
func (d *demo) together(ctx context.Context, ready func(), all []start) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, s := range all {
		sup, log, err := d.child(s.name, s.path, s.ready, s.env, s.args...)
		if err != nil {
			g.Go(func() error { return err }) // ends those that were started; they are waited for
			break
		}
		g.Go(func() error {
			defer log.Close()
			return sup.Run(ctx, nil)
		})
	}
	ready()
	return g.Wait()
}

// awaitAll is an actor that is ready when everything serves.
func (d *demo) awaitAll(ctx context.Context, ready func()) error {
	began := time.Now()
	limited, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	var g errgroup.Group
	wait := func(name string, check func(context.Context) error) {
		g.Go(func() error {
			if err := process.Await(limited, check); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s was not ready within %s: %w (log: %s)", name, readyTimeout, err, d.dir.join("logs"))
			}
			return nil
		})
	}
	wait("observer", httpReady("http://"+d.HTTP+"/readyz"))
	for _, w := range d.workloads {
		if w.Control != "" {
			wait(w.Instance, shop.Control{Address: w.Control}.Ready)
		}
		if w.Admin != "" {
			wait(w.Instance+"'s sidecar", httpReady("http://"+w.Admin+"/readyz"))
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil
	}
	d.teller.up(time.Since(began))
	ready()
	<-ctx.Done()
	return nil
}

// runLoad runs the customers behind a sidecar, and the one client without.
func (d *demo) runLoad(ctx context.Context, ready func()) error {
	if d.NoLoad {
		ready()
		<-ctx.Done()
		return nil
	}
	gen, web := of(d.workloads, LoadInstance)[0], of(d.workloads, "web")[0]
	rate := strconv.FormatFloat(d.Rate, 'f', -1, 64)
	return d.together(ctx, ready, []start{
		{name: LoadInstance, path: d.Tulle, env: small, args: []string{"loadgen", "--target", gen.Outbound["web"], "--rate", rate}},
		{name: "unmeshed-client", path: d.Tulle, env: small, args: []string{
			"loadgen", "--target", web.Inbound, "--rate", strconv.Itoa(unmeshedRate), "--swing", "0", "--hello",
		}},
	})
}

// httpReady asks url for a 2xx.
func httpReady(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := readyClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		if resp.StatusCode >= 300 {
			return fmt.Errorf("%s answered %s: %s", url, resp.Status, text)
		}
		return nil
	}
}

var readyClient = &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func dialable(ctx context.Context, address string) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return c.Close()
}

// tell is the actor of the story: the scripted fault, and what the mesh does about it.
func (d *demo) tell(ctx context.Context, ready func()) error {
	ready()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.followEvents(ctx) })
	if !d.NoFault && !d.NoLoad {
		g.Go(func() error {
			p := d.Fault.WithDefaults()
			for _, w := range of(d.workloads, "catalog") {
				p.Targets = append(p.Targets, shop.Target{Instance: w.Instance, Control: shop.Control{Address: w.Control}})
			}
			return p.Run(ctx, func(s shop.Step, err error) { d.teller.fault(s, p, err) })
		})
	}
	return g.Wait()
}

// followEvents prints what the observer notices. An observer that is away is waited for.
func (d *demo) followEvents(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	since := time.Now()
	seen := map[string]bool{}
	complaint := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		events, err := d.api.Events(ctx, client.EventQuery{Start: since.Add(-10 * time.Second), Limit: 200})
		if err != nil {
			if ctx.Err() == nil && !errors.Is(err, client.ErrUnreachable) && err.Error() != complaint {
				complaint = err.Error()
				d.Log.Warn("reading events", "error", err)
			}
			continue
		}
		complaint = ""
		for i := len(events) - 1; i >= 0; i-- { // they come newest first
			e := events[i]
			if e.Time.Before(since) || seen[e.ID] {
				continue
			}
			seen[e.ID] = true
			d.teller.event(e)
		}
		if len(seen) > 2000 {
			seen, since = map[string]bool{}, time.Now().Add(-10*time.Second)
		}
	}
}
