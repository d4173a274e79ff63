// Package admin is the sidecar's own HTTP page for operators and probes: health, metrics, configuration, drain and profiles.
//
// It listens on loopback by default. Where it listens for others, for the probes of an orchestrator or for Prometheus, those get health and metrics only; configuration,
// drain and profiles are for callers on this machine. Of these it defends against the one stranger who can reach loopback: a web page in a browser. Every request must name this machine in its Host header and, when it has one, in its Origin, else it is
// answered 403 (DNS rebinding, cross-site requests). Run it first and stop it last, so that probes see the whole life of the sidecar.
package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// Config says what to show. Address is required; nil functions answer 404.
type Config struct {
	Address   string                       // "127.0.0.1:15000"; port 0 picks one, see Server.Addr
	Hosts     []string                     // further names this machine is called by, without port
	Ready     func() error                 // nil error: ready; else what is missing, for people
	Metrics   func(io.Writer)              // Prometheus text format
	Open      func(io.Writer)              // the same as OpenMetrics 1.0, for those who ask for it; nil: text for all
	Snapshot  func() *policy.Snapshot      // may return nil before the first one
	Endpoints func() any                   // what was learnt of endpoints, and ejections; written as JSON; nil: 404
	Drain     func()                       // begins an orderly stop, as SIGTERM does, and returns at once; called at most once per request
	Quit      func()                       // the same because the application has ended: nothing more will come in
	Inherit   func() (net.Listener, error) // the listening socket that another process hands over, nil: none; may be nil
	// Workloads are those of a process with several, in the order in which they are shown, and what is wrong with their configuration; nil: there is one.
	Workloads func() ([]Workload, []string)
	Log       *slog.Logger // default: discard
}

// Server is the page. Make it with New, run it with Run.
type Server struct {
	cfg   Config
	addr  chan string
	pages []page
	l     net.Listener // of Listen
}

type page struct {
	method, path, what string
	serve              http.HandlerFunc
	own                bool // only for callers on this machine
}

// New does no I/O.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, addr: make(chan string, 1)}
	s.pages = []page{
		{"GET", "/healthz", "200 while the process lives", s.healthz, false},
		{"GET", "/readyz", "200 when traffic may be sent, else 503 and why", s.readyz, false},
		{"GET", "/ready", "the same, as Envoy's is called", s.readyz, false},
		{"GET", "/metrics", "everything counted, for Prometheus", s.metrics, false},
		{"GET", "/config", "the policy snapshot in force, as JSON", s.config, true},
		{"GET", "/endpoints", "what the sidecar has learnt of endpoints, and its latest ejections, as JSON", s.endpoints, true},
		{"POST", "/drain", "finish what is in flight and stop, as SIGTERM does", s.begin("drain", cfg.Drain, "draining"), true},
		{"POST", "/quit", "the same without --drain-delay: the application has ended (jobs)", s.begin("quit", cfg.Quit, "quitting"), true},
		{"GET", "/debug/pprof/", "profiles of the running process", pprof.Index, true},
		{"GET", "/debug/pprof/cmdline", "", pprof.Cmdline, true},
		{"GET", "/debug/pprof/profile", "", pprof.Profile, true},
		{"GET", "/debug/pprof/symbol", "", pprof.Symbol, true},
		{"GET", "/debug/pprof/trace", "", pprof.Trace, true},
		{"GET", "/{$}", "", s.index, false},
	}
	if cfg.Workloads != nil {
		s.pages = append(s.pages, s.workloadPages()...)
	}
	return s
}

// Handler is the whole page with its checks.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, p := range s.pages {
		serve := p.serve
		if p.own {
			serve = own(serve)
		}
		mux.HandleFunc(p.method+" "+p.path, serve)
	}
	return s.guard(mux)
}

// Listen opens the page's address, or takes the socket that another process hands over, without answering yet. Run does so by itself when Listen was
// not called. It may be called once, before Run.
func (s *Server) Listen() error {
	if s.cfg.Inherit != nil {
		l, err := s.cfg.Inherit()
		if err != nil {
			return err
		}
		s.l = l
	}
	if s.l != nil {
		return nil
	}
	l, err := net.Listen("tcp", s.cfg.Address)
	if err != nil {
		return fmt.Errorf("cannot listen on %s (is another sidecar there? choose another address with --admin): %w", s.cfg.Address, err)
	}
	s.l = l
	return nil
}

// Socket is the listening socket, nil before Listen. It stays the Server's: a copy of its descriptor outlives it.
func (s *Server) Socket() syscall.Conn {
	c, _ := s.l.(syscall.Conn)
	return c
}

// Run serves until ctx is done.
func (s *Server) Run(ctx context.Context, ready func()) error {
	if s.l == nil {
		if err := s.Listen(); err != nil {
			return err
		}
	}
	l := s.l
	s.addr <- l.Addr().String()
	var open sync.WaitGroup
	srv := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				open.Add(1)
			case http.StateClosed, http.StateHijacked:
				open.Done()
			}
		},
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	ready()
	select {
	case err := <-served:
		return fmt.Errorf("admin: %w", err)
	case <-ctx.Done():
	}
	// Shutdown drops requests that are read after it began, and another process may be answering already: whoever was accepted here is answered.
	_ = l.Close()
	_ = <-served
	srv.SetKeepAlivesEnabled(false)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		open.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(time.Second): // a profile is being taken: it is cut short
	}
	_ = srv.Close()
	<-ended
	return nil
}

// Addr waits until Run listens and returns the address; it may be called once.
func (s *Server) Addr() string { return <-s.addr }

// guard refuses requests that a page of another origin made a browser send.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		if !s.local(r, hostOnly(r.Host)) {
			forbid(w, fmt.Sprintf("Host %q is not this machine", r.Host), "use localhost or 127.0.0.1, or allow the name with --admin-host")
			return
		}
		if origin := r.Header.Get("Origin"); origin != "" {
			u, err := url.Parse(origin)
			if err != nil || u.Host == "" || !s.local(r, u.Hostname()) {
				forbid(w, fmt.Sprintf("Origin %q is not this machine", origin), "requests from other web sites are not answered")
				return
			}
		}
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" {
			forbid(w, "this is a cross-site request", "requests from other web sites are not answered")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// own refuses callers of other machines, which may ask for health and metrics where the page listens for them.
func own(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		if err == nil && !from.Addr().Unmap().IsLoopback() && (local == nil || local.AddrPort().Addr().Unmap() != from.Addr().Unmap()) {
			forbid(w, r.Method+" "+r.URL.Path+" is for callers on this machine, and you are "+from.Addr().String(), "call it from there; in a pod, from any of its containers")
			return
		}
		next(w, r)
	}
}

func forbid(w http.ResponseWriter, what, todo string) {
	http.Error(w, "forbidden: "+what+"; "+todo, http.StatusForbidden)
}

// local reports whether host is a name of this machine: localhost, a loopback address, the very address the connection came to (a scrape by
// pod IP), or a configured name.
func (s *Server) local(r *http.Request, host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || host != "" && slices.Contains(s.cfg.Hosts, host) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if ip.Unmap().IsLoopback() {
		return true
	}
	if addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok {
		if ap, err := netip.ParseAddrPort(addr.String()); err == nil {
			return ap.Addr().Unmap() == ip.Unmap()
		}
	}
	return false
}

func hostOnly(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	for _, p := range s.pages {
		if p.what != "" {
			fmt.Fprintf(w, "%-5s %-15s %s\n", p.method, p.path, p.what)
		}
	}
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }

func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Ready == nil {
		http.NotFound(w, r)
		return
	}
	if err := s.cfg.Ready(); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Metrics == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Vary", "Accept")
	if s.cfg.Open != nil && wantsOpenMetrics(r.Header.Values("Accept")) {
		w.Header().Set("Content-Type", typeOpenMetrics)
		s.cfg.Open(w)
		return
	}
	w.Header().Set("Content-Type", typeText)
	s.cfg.Metrics(w)
}

func (s *Server) endpoints(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Endpoints == nil {
		http.NotFound(w, r)
		return
	}
	body, err := json.MarshalIndent(s.cfg.Endpoints(), "", "  ")
	if err != nil {
		http.Error(w, "what is known of endpoints cannot be written as JSON: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}

func (s *Server) config(w http.ResponseWriter, r *http.Request) {
	if s.cfg.Snapshot == nil {
		http.NotFound(w, r)
		return
	}
	snapshot := s.cfg.Snapshot()
	if snapshot == nil {
		http.Error(w, "no policy yet: the controller has not sent any and none was kept from before", http.StatusServiceUnavailable)
		return
	}
	body, err := json.MarshalIndent(snapshot, "", "  ")
	if err != nil {
		http.Error(w, "the snapshot cannot be written as JSON: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}

// begin is a page that begins the end.
func (s *Server) begin(name string, stop func(), says string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if stop == nil {
			http.NotFound(w, r)
			return
		}
		s.cfg.Log.Info("admin: "+name+" was asked for", "by", r.RemoteAddr)
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprintln(w, says)
		stop()
	}
}
