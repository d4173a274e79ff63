package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/identity/join"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/sidecar"
	"github.com/tulle-mesh/tulle/sidecar/admin"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
	"github.com/tulle-mesh/tulle/sidecar/handover"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
	"github.com/tulle-mesh/tulle/sidecar/watch"
)

// garbage: a sidecar that made handshakes spent a tenth of its time in collections when little was in use. With much in use (thousands of
// connections), half as much again is all that may gather, because a sidecar counts in every pod.
var garbage = run.Garbage{Spare: 8 << 20, Most: 200, Least: 50}

// serve puts the parts together and runs them until ctx is done, a drain was asked for, or another process has taken over. They start in the order in
// which each needs the one before, and stop in reverse: traffic first, then what was recorded of it, the admin page last.
func serve(ctx context.Context, c config, stdout, stderr io.Writer) error {
	life := newLife(ctx, c.drainDelay)
	defer life.stop(nil)
	ctx = life.told
	log := logger(c, stderr)

	self, err := identity.Workload(c.trustDomain, c.workload.Namespace, c.account)
	if err != nil {
		return fmt.Errorf("--namespace or --service-account: %w", err)
	}
	if err := os.MkdirAll(c.stateDir, 0o700); err != nil {
		return fmt.Errorf("--state-dir: %w (choose a writable directory)", err)
	}
	boot := telemetry.NewBootID()
	parts := &successor{log: log, giveUp: life.stop, begun: serving}
	door, err := parts.open(ctx, c.stateDir, self.String()+" "+c.workload.Instance, boot)
	if err != nil {
		return err
	}
	defer parts.close()
	defer door.Close()
	w, err := assemble(ctx, c, nil, log, stdout, func(says *telemetry.Config, carries *sidecar.Config) {
		says.BootID, says.Predecessor = boot, parts.predecessor()
		carries.Inherit = parts.inherit(c.workload.Instance)
	})
	if err != nil {
		return err
	}
	defer func() { _ = w.close() }()
	isReady := func() error { return w.ready(life.leaving) }
	page := admin.New(admin.Config{
		Address: c.admin, Hosts: c.adminHosts, Metrics: w.telling.WritePrometheus, Open: w.telling.WriteOpenMetrics, Snapshot: w.watching.Current, Log: log,
		Drain: life.drain, Quit: life.quit, Ready: isReady, Endpoints: func() any {
			return map[string]any{"endpoints": w.carrying.Endpoints(), "ejections": w.carrying.Ejections()}
		}, Inherit: parts.inheritAdmin(c.workload.Instance, c.admin),
	})
	life.leaves(w.carrying.Leave)
	turn := newTurn(page)
	defer turn.finish()
	parts.ready, parts.begin, parts.cancel = isReady, w.yield, w.resume
	parts.socket = func(q handover.Socket) syscall.Conn {
		if q.Workload == c.workload.Instance && q.Kind == handover.Admin && q.Address == c.admin {
			return page.Socket()
		}
		return w.socket(q)
	}
	parts.left = func() {
		turn.over()
		w.carrying.HandOver()
		life.stop(nil)
	}
	if err := page.Listen(); err != nil {
		return err
	}
	defer parts.limit()()
	defer limpOnSignal(life)()
	context.AfterFunc(life.work, door.Close) // who drains hands nothing over

	log.Info("tulle-sidecar starts", "version", version(), "identity", self.String(), "instance", c.workload.Instance, "boot_id", w.telling.BootID(),
		"controller", c.controller, "otlp", c.otlp, "admin", c.admin, "state_dir", filepath.Clean(c.stateDir), "takes_over_from", parts.predecessor())
	actors := append([]run.Actor{
		{Name: "garbage", Run: garbage.Actor(os.LookupEnv)},
		{Name: "admin", Run: func(ctx context.Context, ready func()) error { return turn.run(ctx, ready, parts) }},
	}, parts.actors(w, door)...)
	err = run.All(life.work, actors...)
	if err == nil {
		err = life.reason()
	}
	if err == nil {
		log.Info("tulle-sidecar stopped")
	}
	return err
}

func logger(c config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.logLevel}
	if c.logJSON {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

func missing(what, why string) error {
	if why == "" {
		return errors.New(what)
	}
	return fmt.Errorf("%s: %s", what, why)
}

// saturation shows on /metrics how near the sidecar is to its limits, and how often it met each.
func saturation(t *telemetry.Telemetry, s *sidecar.Sidecar) {
	t.Gauge("tulle_connections_open", "Connections of callers that are open, in and out.", func() float64 { return float64(s.Connections()) })
	t.Gauge("tulle_credential_problems", "Certificates, keys and trust anchors in files that cannot be used; the log says why.", func() float64 { return float64(len(s.CredentialProblems())) })
	t.Gauge("tulle_connections_limit", "Above it connections are shed.", func() float64 { return float64(s.Limits().Connections) })
	t.Gauge("tulle_connections_of_one_source", "Connections of the source that has the most.", func() float64 { return float64(s.ConnectionsOfOneSource()) })
	t.Gauge("tulle_connections_per_source_limit", "Above it connections of a source are shed.", func() float64 {
		return float64(s.Limits().ConnectionsPerSource)
	})
	t.Gauge("tulle_buffer_bytes", "Memory of buffers in use.", func() float64 { return float64(s.Room().Used()) })
	t.Gauge("tulle_buffer_limit_bytes", "Above it requests are shed; above three quarters of it nothing is kept for retries.", func() float64 {
		return float64(s.Limits().BufferBytes)
	})
	for _, l := range exchange.Limits() {
		t.Counter("tulle_limit_reached_total", "Connections and requests that met a limit, by its name in the configuration.", "limit", l.String(),
			func() uint64 { return s.Room().Count(l) })
	}
}

// lookups shows on /metrics what connections to destinations that the policy did not have waited for, and what became of those without an answer.
func lookups(t *telemetry.Telemetry, watching *watch.Watcher, s *sidecar.Sidecar) {
	for _, a := range sidecar.Answers() {
		t.Counter("tulle_destination_lookups_total", "Redirected connections whose destination was not in the policy, by what the controller said it is (timeout, away, failed: nothing).",
			"answer", a.String(), func() uint64 { return s.Lookups().Count(a) })
	}
	for _, d := range []policy.Unknown{policy.UnknownPass, policy.UnknownRefuse} {
		t.Counter("tulle_destination_unanswered_total", "Redirected connections about which the controller said nothing, because it was away or too late, by what spec.intercept.outbound.away made of them.",
			"decision", d.String(), func() uint64 { return s.Lookups().Decided(d) })
	}
	t.Histogram("tulle_destination_lookup_seconds", "How long redirected connections whose destination was not in the policy waited for it.",
		func() flow.Histogram { return s.Lookups().Waits() })
	t.Gauge("tulle_policy_services_on_demand", "Services that the sidecar has asked the controller to keep in its policy.", func() float64 { return float64(watching.Needed()) })
}

// gauges shows on /metrics what the parts know of themselves.
func gauges(t *telemetry.Telemetry, joining *join.Client, watching *watch.Watcher) {
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	t.Gauge("tulle_certificate_expiry_timestamp_seconds", "End of the certificate in force since 1970; 0 before the first.", func() float64 {
		end := joining.Status().NotAfter
		if end.IsZero() {
			return 0
		}
		return float64(end.UnixNano()) / float64(time.Second)
	})
	t.Gauge("tulle_controller_connected", "1 while the controller's stream is open.", func() float64 { return flag(watching.Status().Connected) })
	t.Gauge("tulle_policy_from_disk", "1 while the policy in force was read from the state directory and not yet confirmed.", func() float64 {
		return flag(watching.Status().FromDisk)
	})
	t.Gauge("tulle_policy_applied_snapshots", "Policy snapshots put in force since the start.", func() float64 { return float64(watching.Status().Applied) })
	t.Gauge("tulle_policy_refused_responses", "Responses of the controller that were refused (NACK) since the start.", func() float64 {
		return float64(watching.Status().Nacks)
	})
}
