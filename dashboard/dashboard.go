// Package dashboard is Tulle's eyes: pages, the live feed and every query API on one http.Handler.
//
// New checks the configuration, Handler gives the whole tree (for a test or another server), Run serves it on Config.Addr until its context
// is done. Everything it shows comes from source.Sources; it keeps nothing but the places of the nodes in the drawing.
package dashboard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/live"
	"github.com/tulle-mesh/tulle/dashboard/source"
)

// DefaultAddr is where the dashboard listens when nothing else is said: loopback only.
const DefaultAddr = "127.0.0.1:8640"

// Config is the dashboard's.
type Config struct {
	// Addr is host:port to listen on; default DefaultAddr, port 0 picks one (see Addr).
	Addr string
	// Hosts are further host names (without port) that requests may be addressed to and that pages may be loaded from, besides
	// localhost, 127.0.0.1, [::1] and the host of Addr. "*" allows every host: only behind a proxy that checks.
	Hosts []string
	// Sources is what is shown.
	source.Sources
	// Log takes warnings; nil discards them.
	Log *slog.Logger
}

// Dashboard is the HTTP side of the observer. Create with New.
type Dashboard struct {
	cfg     Config
	log     *slog.Logger
	handler http.Handler
	hub     *live.Hub
	bound   chan struct{}
	addr    string // set before bound is closed
}

// New checks cfg and builds the handler tree. It starts nothing.
func New(cfg Config) (*Dashboard, error) {
	if cfg.Addr == "" {
		cfg.Addr = DefaultAddr
	}
	if _, _, err := net.SplitHostPort(cfg.Addr); err != nil {
		return nil, fmt.Errorf("dashboard address %q: %w; write host:port, as in %s", cfg.Addr, err, DefaultAddr)
	}
	if cfg.Spans == nil {
		return nil, errors.New("dashboard: Config.Spans is missing; open a span store first")
	}
	if cfg.Graph == nil {
		return nil, errors.New("dashboard: Config.Graph is missing; open the graph first")
	}
	d := &Dashboard{cfg: cfg, log: cfg.Log, bound: make(chan struct{})}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	h, err := d.routes()
	if err != nil {
		return nil, err
	}
	d.handler = h
	return d, nil
}

// Handler is the whole tree, with its Host and Origin checks. Live updates flow only while Run runs.
func (d *Dashboard) Handler() http.Handler { return d.handler }

// Addr is the address that Run listens on, with the real port. It blocks until Run listens or ctx is done ("").
func (d *Dashboard) Addr(ctx context.Context) string {
	select {
	case <-d.bound:
		return d.addr
	case <-ctx.Done():
		return ""
	}
}

// drainTimeout bounds how long requests in flight may take after the end was asked for.
const drainTimeout = 5 * time.Second

// Run serves until ctx is done, then stops accepting, closes live feeds, lets requests finish for at most drainTimeout, and returns nil.
// It calls ready once it listens. Run may be called once.
func (d *Dashboard) Run(ctx context.Context, ready func()) error {
	ln, err := net.Listen("tcp", d.cfg.Addr)
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w; stop what uses the port or choose another address", d.cfg.Addr, err)
	}
	d.addr = ln.Addr().String()
	close(d.bound)

	hubCtx, stopHub := context.WithCancel(context.WithoutCancel(ctx))
	hubDone := make(chan error, 1)
	go func() { hubDone <- d.hub.Run(hubCtx) }()
	defer func() { stopHub(); _ = <-hubDone }()

	srv := &http.Server{
		Handler:           d.handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	if ready != nil {
		ready()
	}
	select {
	case err := <-served:
		return fmt.Errorf("dashboard on %s: %w", d.addr, err)
	case <-ctx.Done():
	}
	stopHub() // hijacked connections are not the server's: the hub closes them
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := srv.Shutdown(drain); err != nil {
		_ = srv.Close()
		d.log.Warn("dashboard: requests were cut off at shutdown", "after", drainTimeout)
	}
	_ = <-served
	return nil
}
