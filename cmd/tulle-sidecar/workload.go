package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/identity/join"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/sidecar"
	"github.com/tulle-mesh/tulle/sidecar/handover"
	"github.com/tulle-mesh/tulle/sidecar/netns"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
	"github.com/tulle-mesh/tulle/sidecar/watch"
)

// workload is the parts of one workload's data plane, put together. It owns its key and certificate, its policy, its connections and its reports: no two
// workloads of a process share any of them.
type workload struct {
	self     identity.ID
	instance string
	log      *slog.Logger
	holder   *identity.Holder
	joining  *join.Client
	watching *watch.Watcher
	telling  *telemetry.Telemetry
	carrying *sidecar.Sidecar
	drain    time.Duration
	close    func() error // of the access log; once, after the parts have stopped
}

// assemble makes the parts of c's workload; it starts nothing but what follows SIGHUP. space is where the workload's sockets are made; nil: here. adapt may change what
// they are made of; nil: nothing.
func assemble(
	ctx context.Context, c config, space *netns.Space, log *slog.Logger, stdout io.Writer, adapt func(*telemetry.Config, *sidecar.Config),
) (*workload, error) {
	w := &workload{instance: c.workload.Instance, log: log, holder: &identity.Holder{}, drain: c.drainTimeout, close: func() error { return nil }}
	var err error
	if w.self, err = identity.Workload(c.trustDomain, c.workload.Namespace, c.account); err != nil {
		return nil, fmt.Errorf("--namespace or --service-account: %w", err)
	}
	controller, err := identity.Controller(c.trustDomain)
	if err != nil {
		return nil, fmt.Errorf("--trust-domain: %w", err)
	}
	observer, err := identity.Observer(c.trustDomain)
	if err != nil {
		return nil, fmt.Errorf("--trust-domain: %w", err)
	}
	w.joining, err = join.New(join.Config{
		Controller: c.controller, ControllerID: controller, ID: w.self, Token: c.token, BundleFile: c.bundle,
		StateDir: c.stateDir, Holder: w.holder, Log: log,
	})
	if err != nil {
		return nil, err
	}
	w.watching, err = watch.New(watch.Config{
		Controller: c.controller, ControllerID: controller, Identity: w.holder, Workload: c.workload, Version: version(),
		StateDir: c.stateDir, Log: log,
	})
	if err != nil {
		return nil, err
	}
	says := telemetry.Config{
		Workload: c.workload, Version: version(), Target: c.otlp, Log: log, Series: c.series,
		TLS:         func() *tls.Config { return w.holder.ClientTLS(observer) },
		Certificate: func() time.Time { return w.joining.Status().NotAfter },
	}
	if c.compression != "none" {
		says.Compression = c.compression
	}
	carries := sidecar.Config{Policy: w.watching, Directory: w.watching, Identity: w.holder, Workload: c.workload, Log: log, DrainTimeout: c.drainTimeout}
	if space != nil {
		carries.Within, carries.Dial = space.Do, space.Dial
	}
	if c.accessLog != "off" {
		if says.AccessLog, w.close, err = openLog(ctx, c.accessFile, stdout); err != nil {
			return nil, err
		}
		if c.accessLog == "text" {
			says.AccessLogFormat = telemetry.LogText
		}
	}
	if adapt != nil {
		adapt(&says, &carries)
	}
	w.telling = telemetry.New(says)
	carries.Recorder = recorder(w.telling)
	if w.carrying, err = sidecar.New(carries); err != nil {
		return nil, errors.Join(err, w.close())
	}
	w.telling.Saturation(w.carrying.Saturation)
	gauges(w.telling, w.joining, w.watching)
	saturation(w.telling, w.carrying)
	lookups(w.telling, w.watching, w.carrying)
	return w, nil
}

// actors are the parts in the order in which each needs the one before.
func (w *workload) actors() []run.Actor {
	return []run.Actor{
		{Name: "identity", Run: w.joining.Run},
		{Name: "telemetry", Run: w.telling.Run},
		{Name: "watch", Run: w.watching.Run},
		{Name: "sidecar", Run: w.carrying.Run, StopTimeout: w.drain + 10*time.Second},
	}
}

// yield leaves the controller to another process that is to serve the workload; resume takes it back.
func (w *workload) yield() {
	w.watching.Yield()
	w.joining.Yield()
}

func (w *workload) resume() {
	w.joining.Resume()
	w.watching.Resume()
}

// socket is the listening socket that another process asks for, nil when there is none.
func (w *workload) socket(q handover.Socket) syscall.Conn {
	if q.Workload != w.instance || q.Kind != handover.Listener {
		return nil
	}
	return w.carrying.Socket(q.Address, q.Transparent)
}

// ready says what is missing before traffic may be sent, the first cause first.
func (w *workload) ready(leaving func() bool) error {
	switch {
	case leaving():
		return errors.New("draining")
	case w.holder.Get() == nil:
		return missing("no certificate yet", w.joining.Status().LastError)
	case time.Now().After(w.holder.Get().Certificate.Leaf.NotAfter):
		return missing("the certificate has expired", w.joining.Status().LastError)
	case w.watching.Current() == nil:
		return missing("no policy yet", w.watching.Status().LastError)
	case w.carrying.Ready():
		return nil
	}
	if problems := w.carrying.Problems(); len(problems) > 0 {
		p := problems[0]
		return fmt.Errorf("listener %s on %s: %s (%d in all)", p.Listener, p.Address, p.Err, len(problems))
	}
	return errors.New("listeners are being opened")
}

// endpoints is what the admin page shows of them.
func (w *workload) endpoints() any {
	return struct {
		Endpoints []sidecar.Endpoint
		Ejections []sidecar.Ejection
	}{w.carrying.Endpoints(), w.carrying.Ejections()}
}
