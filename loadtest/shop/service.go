package shop

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Config is one instance of one service.
type Config struct {
	Service  string            // a name of the Topology
	Instance string            // "catalog-2"; default: Service
	Version  string            // default "v1"
	Listen   string            // address of the application, loopback in the demo
	Control  string            // address of the control port; "" is none
	Hosts    map[string]string // dependency -> address to dial
	Log      *slog.Logger
}

// drainTimeout bounds how long requests in flight may take to finish after the stop.
const drainTimeout = 5 * time.Second

// Run serves the instance until ctx ends, finishes what is in flight, and returns nil. ready is called once with the two addresses bound
// (useful with port 0); it may be nil.
func Run(ctx context.Context, cfg Config, ready func(app, control net.Addr)) error {
	svc, err := Find(cfg.Service)
	if err != nil {
		return err
	}
	if cfg.Instance == "" {
		cfg.Instance = cfg.Service
	}
	if cfg.Version == "" {
		cfg.Version = "v1"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for _, dep := range svc.Calls {
		if cfg.Hosts[dep] == "" {
			return fmt.Errorf("%s calls %s, whose address is not given (--host %s=IP:PORT)", cfg.Service, dep, dep)
		}
	}
	app, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("%s: %w", cfg.Instance, err)
	}
	defer app.Close()
	f := &faults{}
	var controlAddr net.Addr
	if cfg.Control != "" {
		control, err := net.Listen("tcp", cfg.Control)
		if err != nil {
			return fmt.Errorf("%s: control port: %w", cfg.Instance, err)
		}
		controlAddr = control.Addr()
		srv := &http.Server{Handler: f.controlHandler(), ReadHeaderTimeout: 5 * time.Second}
		done := make(chan struct{})
		go func() { defer close(done); srv.Serve(control) }()
		defer func() { srv.Close(); <-done }()
	}
	if ready != nil {
		ready(app.Addr(), controlAddr)
	}
	cfg.Log.Info("serving", "service", svc.Name, "instance", cfg.Instance, "version", cfg.Version, "address", app.Addr().String())
	if svc.Protocol == TCP {
		return serveSessions(ctx, app, svc.Pace, f)
	}
	s := &server{cfg: cfg, svc: svc, faults: f}
	if s.call, err = newCaller(cfg.Hosts, svc.Name == "recommendations"); err != nil {
		return err
	}
	defer s.call.close()
	if a := cfg.Hosts["sessions"]; a != "" {
		s.sessions = newSessionClient(a)
		defer s.sessions.close()
	}
	if svc.Protocol == GRPC {
		return s.serveGRPC(ctx, app)
	}
	return serveHTTP(ctx, app, s.handler())
}

func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	err := srv.Shutdown(stop)
	if err != nil {
		srv.Close()
		err = fmt.Errorf("requests in flight did not finish within %s: %w", drainTimeout, err)
	}
	_ = <-failed // http.ErrServerClosed
	return err
}

// server is one instance that speaks HTTP or gRPC.
type server struct {
	cfg      Config
	svc      Service
	faults   *faults
	call     *caller
	sessions *sessionClient
}

// work is what a service does for one request: the answer's status and body, or an error (mapped by fail).
type work func(ctx context.Context, r *http.Request) (status int, body any, err error)

// handler is the service's routes, each behind fault, pace and JSON answer.
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, do := range s.routes() {
		mux.Handle(pattern, s.serve(do))
	}
	return mux
}

func (s *server) serve(do work) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hit := s.faults.hit()
		pause(r.Context(), s.svc.Pace.draw()+hit.Latency)
		if hit.Kind == FaultError {
			writeJSON(w, hit.Status, problem{s.cfg.Instance + " is out of order"})
			return
		}
		if s.svc.Pace.Errors > 0 && rand.Float64() < s.svc.Pace.Errors {
			writeJSON(w, http.StatusInternalServerError, problem{s.cfg.Instance + " tripped over a rare bug"})
			return
		}
		status, body, err := do(withTrace(r.Context(), r), r)
		if err != nil {
			status, body = s.fail(r, err)
		}
		s.burn(body)
		writeJSON(w, status, body)
	})
}

type problem struct {
	Error string `json:"error"`
}

// fail turns an error into the answer a customer gets.
func (s *server) fail(r *http.Request, err error) (int, any) {
	switch {
	case errors.Is(err, errNotFound):
		return http.StatusNotFound, problem{err.Error()}
	case errors.Is(err, errRefused):
		return http.StatusConflict, problem{err.Error()}
	}
	if r.Context().Err() == nil {
		s.cfg.Log.Warn("request failed", "path", r.URL.Path, "error", err)
	}
	return http.StatusBadGateway, problem{err.Error()}
}

// burn is the CPU part of the work.
func (s *server) burn(body any) {
	b, _ := json.Marshal(body)
	sum := sha256.Sum256(b)
	for range s.svc.Pace.CPU {
		h := sha256.New()
		h.Write(sum[:])
		h.Write(b)
		h.Sum(sum[:0])
	}
}

// draw is one lognormal latency, cut at 20 × the median.
func (p Pace) draw() time.Duration {
	d := time.Duration(float64(p.Median) * math.Exp(rand.NormFloat64()*p.Sigma))
	return min(d, 20*p.Median)
}

// pause waits d or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the caller may have left
}

func readJSON(r *http.Request, into any) error {
	b, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%w: body is not the JSON expected: %w", errRefused, err)
	}
	return nil
}
