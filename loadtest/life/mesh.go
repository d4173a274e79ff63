//go:build unix

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gorilla/websocket"
	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/identity/join"
	"github.com/tulle-mesh/tulle/loadtest/rig"
)

const (
	domain    = "tulle.local"
	namespace = "shop"
)

// mesh is a controller and somebody who takes what sidecars report, in this process; sidecars are processes.
type mesh struct {
	dir, bundle, controller, otlp string
	sidecar                       string
	log                           io.Writer
	stops                         []func()
	sink                          sink
}

// sink takes telemetry and counts batches.
type sink struct {
	collectortrace.UnimplementedTraceServiceServer
	batches atomic.Int64
}

func (s *sink) Export(context.Context, *collectortrace.ExportTraceServiceRequest) (*collectortrace.ExportTraceServiceResponse, error) {
	s.batches.Add(1)
	return &collectortrace.ExportTraceServiceResponse{}, nil
}

type metricSink struct {
	collectormetrics.UnimplementedMetricsServiceServer
}

func (metricSink) Export(context.Context, *collectormetrics.ExportMetricsServiceRequest) (*collectormetrics.ExportMetricsServiceResponse, error) {
	return &collectormetrics.ExportMetricsServiceResponse{}, nil
}

// newMesh starts one with a configuration.
func newMesh(ctx context.Context, sidecar string, log *os.File, config string) (*mesh, error) {
	if _, err := os.Stat(sidecar); err != nil {
		return nil, fmt.Errorf("%s is missing: run 'make build' first, in the folder that holds the Makefile", sidecar)
	}
	dir, err := os.MkdirTemp("", "tulle-life-")
	if err != nil {
		return nil, err
	}
	m := &mesh{dir: dir, sidecar: sidecar, log: io.Discard}
	if log != nil {
		m.log = log
	}
	m.stops = append(m.stops, func() { _ = os.RemoveAll(dir) })
	if err := m.begin(ctx, config); err != nil {
		m.stop()
		return nil, err
	}
	return m, nil
}

func (m *mesh) stop() {
	for i := len(m.stops) - 1; i >= 0; i-- {
		m.stops[i]()
	}
	m.stops = nil
}

// actor runs something of this process until stop.
func (m *mesh) actor(name string, run func(ctx context.Context, ready func()) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- run(ctx, func() { close(ready) }) }()
	m.stops = append(m.stops, func() {
		cancel()
		_ = <-done
	})
	select {
	case <-ready:
		return nil
	case err := <-done:
		done <- err
		return fmt.Errorf("%s did not start: %w", name, err)
	case <-time.After(30 * time.Second):
		return fmt.Errorf("%s was not ready within 30 s", name)
	}
}

func (m *mesh) begin(_ context.Context, config string) error {
	configDir := filepath.Join(m.dir, "config")
	if err := os.MkdirAll(configDir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(configDir, "mesh.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	gl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	al, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	m.controller = gl.Addr().String()
	c, err := controller.New(controller.Config{
		DataDir: m.dataDir(), ConfigDir: configDir, TrustDomain: domain, GRPCListener: gl, AdminListener: al, Log: slog.New(slog.NewTextHandler(m.log, nil)),
	})
	if err != nil {
		return err
	}
	if err := m.actor("the controller", c.Run); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(m.dataDir(), "*", "bundle.pem"))
	if err != nil || len(found) != 1 {
		return fmt.Errorf("the controller's bundle: %v %w", found, err)
	}
	m.bundle = found[0]
	observer, err := identity.Observer(domain)
	if err != nil {
		return err
	}
	holder, err := m.join(observer, identity.SystemNamespace, "observer")
	if err != nil {
		return err
	}
	ol, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	m.otlp = ol.Addr().String()
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(holder.ServerTLS())))
	collectortrace.RegisterTraceServiceServer(server, &m.sink)
	collectormetrics.RegisterMetricsServiceServer(server, metricSink{})
	go func() { _ = server.Serve(ol) }() // ended by Stop
	m.stops = append(m.stops, server.Stop)
	return nil
}

func (m *mesh) dataDir() string { return filepath.Join(m.dir, "controller") }

// join gives this process an identity.
func (m *mesh) join(id identity.ID, ns, account string) (*identity.Holder, error) {
	controllerID, err := identity.Controller(domain)
	if err != nil {
		return nil, err
	}
	token, err := controller.IssueToken(m.dataDir(), ns, account, time.Hour)
	if err != nil {
		return nil, err
	}
	h := &identity.Holder{}
	c, err := join.New(join.Config{
		Controller: m.controller, ControllerID: controllerID, ID: id, Token: token, BundleFile: m.bundle, StateDir: filepath.Join(m.dir, "as-"+account), Holder: h,
	})
	if err != nil {
		return nil, err
	}
	return h, m.actor("the identity of "+account, c.Run)
}

// client is a TLS configuration with which a caller of account "caller" reaches cart.
func (m *mesh) client() (*tls.Config, error) {
	id, err := identity.Workload(domain, namespace, "caller")
	if err != nil {
		return nil, err
	}
	cart, err := identity.Workload(domain, namespace, "cart")
	if err != nil {
		return nil, err
	}
	h, err := m.join(id, namespace, "caller")
	if err != nil {
		return nil, err
	}
	return h.ClientTLS(cart), nil
}

// proxy is one sidecar process.
type proxy struct {
	service, admin string
	cmd            *exec.Cmd
	said           *tail
	ended          chan struct{}
	err            error // once ended is closed
}

// start starts the sidecar of SERVICE-1, which takes over from the one that runs, if any.
func (m *mesh) start(service, admin string, args ...string) (*proxy, error) {
	token, err := controller.IssueToken(m.dataDir(), namespace, service, time.Hour)
	if err != nil {
		return nil, err
	}
	p := &proxy{service: service, admin: admin, said: &tail{}, ended: make(chan struct{})}
	p.cmd = exec.Command(m.sidecar, append([]string{
		"--instance", service + "-1", "--service", service, "--namespace", namespace, "--bundle", m.bundle, "--state-dir", filepath.Join(m.dir, service),
		"--admin", admin, "--controller", m.controller, "--otlp", m.otlp,
	}, args...)...)
	p.cmd.Env = append(os.Environ(), "TULLE_JOIN_TOKEN="+token)
	out := io.MultiWriter(p.said, m.log)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", m.sidecar, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	m.stops = append(m.stops, func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(30 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
	})
	return p, nil
}

// until waits for a condition that f looks at.
func (p *proxy) until(ctx context.Context, what string, f func() bool) error {
	limit := time.After(30 * time.Second)
	for !f() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		case <-p.ended:
			if f() {
				return nil
			}
			return fmt.Errorf("the sidecar of %s ended: %w; it said last: %s", p.service, p.err, p.said.last())
		case <-limit:
			return fmt.Errorf("the sidecar of %s: not %s within 30 s; it said last: %s", p.service, what, p.said.last())
		}
	}
	return nil
}

func (p *proxy) ready(ctx context.Context) error {
	return p.until(ctx, "ready", func() bool {
		c := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := c.Get("http://" + p.admin + "/readyz")
		if err != nil {
			return false
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

func (p *proxy) metric(name string) (float64, error) {
	v, ok := rig.Metric("http://"+p.admin+"/metrics", name)
	if !ok {
		return 0, fmt.Errorf("the sidecar of %s does not tell %s; it said last: %s", p.service, name, p.said.last())
	}
	return v, nil
}

// rss is resident memory in bytes (proc(5), VmRSS; elsewhere what ps says).
func (p *proxy) rss() (float64, error) {
	out, err := exec.Command("ps", "-o", "rss=", "-p", strconv.Itoa(p.cmd.Process.Pid)).Output()
	if err != nil {
		return 0, fmt.Errorf("ps: %w (Debian: apt-get install procps)", err)
	}
	kib, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	return kib * 1024, err
}

// freePort is an address that nobody listens on, outside the range from which the kernel takes ports of its own.
func freePort() (string, error) {
	for range 1000 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+nextPort.Add(1)+int64(os.Getpid()%500)*20))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
	}
	return "", errors.New("no free port on 127.0.0.1")
}

var nextPort atomic.Int64

// tail keeps the last lines of what was written to it.
type tail struct{ b atomic.Pointer[[]byte] }

func (t *tail) Write(p []byte) (int, error) {
	var have []byte
	if b := t.b.Load(); b != nil {
		have = *b
	}
	have = append(append([]byte(nil), have...), p...)
	have = have[max(0, len(have)-8<<10):]
	t.b.Store(&have)
	return len(p), nil
}

func (t *tail) text() string {
	if b := t.b.Load(); b != nil {
		return string(*b)
	}
	return ""
}

func (t *tail) last() string {
	s := strings.TrimSpace(t.text())
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// application is what both runs send their requests to: pages over both versions of HTTP, gRPC's health service, a WebSocket that echoes.
func (m *mesh) application() (addr string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	status := health.NewServer()
	rpc := grpc.NewServer()
	healthpb.RegisterHealthServer(rpc, status)
	beat := time.NewTicker(200 * time.Millisecond)
	quit := make(chan struct{})
	go func() { // streams of Watch say something all the time
		for n := 0; ; n++ {
			select {
			case <-beat.C:
				status.SetServingStatus("beat", healthpb.HealthCheckResponse_ServingStatus(1+n%2))
			case <-quit:
				return
			}
		}
	}()
	page := strings.Repeat("x", 1024)
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: protocols, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
			rpc.ServeHTTP(w, r)
		case r.URL.Path == "/socket":
			mirror(w, r)
		case r.URL.Path == "/slow": // its callers leave
			select {
			case <-r.Context().Done():
			case <-time.After(time.Second):
			}
		default:
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, page)
		}
	})}
	go func() { _ = srv.Serve(l) }() // ended by Close
	m.stops = append(m.stops, func() {
		close(quit)
		beat.Stop()
		_ = srv.Close()
	})
	return l.Addr().String(), nil
}

func mirror(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	for {
		kind, b, err := c.ReadMessage()
		if err != nil || c.WriteMessage(kind, b) != nil {
			return
		}
	}
}

// echo is a TCP service that sends back what it gets, and then closes its side.
func (m *mesh) echo() (addr string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	m.stops = append(m.stops, func() { _ = l.Close() })
	go func() { // ended by Close
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				_, _ = io.Copy(c, r)
			}()
		}
	}()
	return l.Addr().String(), nil
}
