// Package controller is judgement and the way back: it reads configuration, signs certificates, judges the fleet's evidence, and tells every
// sidecar what to do over xDS. This file is the assembly; the order of its actors is the order in which they start, and they stop in reverse:
//
//	identity   its own certificate, renewed
//	judge      one goroutine that owns what is in force: resources + overrides -> State   (judge.go)
//	source     configuration directory -> judge
//	grpc       Identity, xDS, Evidence
//	admin      /metrics, /healthz, /readyz, /status, /lint, /explain on loopback         (admin.go)
//
// What does not outlive the process: overrides and the memory of the brain (a restart is fail open; evidence ejects again within seconds), and
// the last valid version of a resource whose file is bad.
package controller

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/tulle-mesh/tulle/controller/ca"
	"github.com/tulle-mesh/tulle/controller/evidence"
	"github.com/tulle-mesh/tulle/controller/source/file"
	"github.com/tulle-mesh/tulle/controller/xds"
	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/run"
)

// Config is what a controller needs. Zero fields take the default named beside them.
type Config struct {
	DataDir     string        // required: CA and join tokens; created if missing
	ConfigDir   string        // required: directory of *.yaml resources; must exist
	GRPC        string        // default 127.0.0.1:8641: xDS, Identity, Evidence
	Admin       string        // default 127.0.0.1:8644: /metrics, /healthz, /readyz, /status, /lint, /explain
	TrustDomain string        // default tulle.local
	LeafTTL     time.Duration // of certificates it signs; default 24 h
	Log         *slog.Logger  // default: discard

	// GRPCListener and AdminListener replace the addresses when set; tests use them. The controller closes them.
	GRPCListener, AdminListener net.Listener
}

// Defaults of Config.
const (
	DefaultGRPC        = "127.0.0.1:8641"
	DefaultAdmin       = "127.0.0.1:8644"
	DefaultTrustDomain = "tulle.local"
)

// Run runs a controller until ctx is done; it returns nil then.
func Run(ctx context.Context, cfg Config) error {
	c, err := New(cfg)
	if err != nil {
		return err
	}
	return c.Run(ctx, func() {})
}

// Controller is one controller process's assembly. Run it once.
type Controller struct {
	cfg      Config
	holder   identity.Holder
	ca       *ca.CA
	identity *ca.Service
	xds      *xds.Server
	evidence *evidence.Server
	judge    *judge
}

// New checks the configuration; it touches neither disk nor network.
func New(cfg Config) (*Controller, error) {
	if cfg.DataDir == "" {
		return nil, errors.New("controller: DataDir must be set")
	}
	if cfg.ConfigDir == "" {
		return nil, errors.New("controller: ConfigDir must be set")
	}
	if cfg.GRPC == "" {
		cfg.GRPC = DefaultGRPC
	}
	if cfg.Admin == "" {
		cfg.Admin = DefaultAdmin
	}
	if cfg.TrustDomain == "" {
		cfg.TrustDomain = DefaultTrustDomain
	}
	if cfg.LeafTTL == 0 {
		cfg.LeafTTL = ca.DefaultLeafTTL
	}
	if cfg.LeafTTL < time.Minute {
		return nil, fmt.Errorf("controller: LeafTTL %s: must be at least 1m", cfg.LeafTTL)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := identity.Controller(cfg.TrustDomain); err != nil {
		return nil, fmt.Errorf("controller: TrustDomain: %w", err)
	}
	return &Controller{cfg: cfg}, nil
}

// Run is an actor: it serves until ctx is done and calls ready once sidecars may connect and the configuration is in force.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	grpcListener, err := listen(c.cfg.GRPCListener, "gRPC", c.cfg.GRPC)
	if err != nil {
		return err
	}
	defer grpcListener.Close()
	adminListener, err := listen(c.cfg.AdminListener, "admin", c.cfg.Admin)
	if err != nil {
		return err
	}
	defer adminListener.Close()
	if c.ca, err = ca.Open(c.cfg.DataDir, c.cfg.TrustDomain); err != nil {
		return err
	}
	observer, err := identity.Observer(c.cfg.TrustDomain)
	if err != nil {
		return err
	}
	log := c.cfg.Log
	c.identity = ca.NewService(c.ca, c.cfg.DataDir, c.cfg.LeafTTL, log.With("part", "ca"))
	c.judge = newJudge(c.cfg.TrustDomain, log.With("part", "judge"))
	c.xds = xds.New(c.judge, log.With("part", "xds"))
	c.evidence = evidence.NewServer(observer, c.judge.observe, log.With("part", "evidence"))
	c.judge.xds, c.judge.emit, c.judge.register = c.xds, c.evidence.Emit, c.evidence.SetRegistry
	c.identity.OnIssued = c.judge.issued
	source := &file.Source{Dir: c.cfg.ConfigDir, Yield: c.judge.configure, Log: log.With("part", "source")}
	admin := &admin{controller: c, listener: adminListener}
	return run.All(ctx,
		run.Actor{Name: "identity", Run: c.renew},
		run.Actor{Name: "judge", Run: c.judge.Run},
		run.Actor{Name: "source", Run: source.Run},
		run.Actor{Name: "grpc", Run: func(ctx context.Context, ready func()) error { return c.serve(ctx, grpcListener, ready) }},
		run.Actor{Name: "admin", Run: admin.Run},
		run.Actor{Name: "ready", Run: func(ctx context.Context, started func()) error {
			started()
			select {
			case <-c.judge.inForce:
			case <-ctx.Done():
				return nil
			}
			log.Info("controller is ready", "grpc", grpcListener.Addr().String(), "admin", adminListener.Addr().String(), "config", c.cfg.ConfigDir)
			ready()
			<-ctx.Done()
			return nil
		}},
	)
}

func listen(l net.Listener, what, addr string) (net.Listener, error) {
	if l != nil {
		return l, nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("controller: %s address %s cannot be used: %w (is another controller running? choose another address)", what, addr, err)
	}
	return l, nil
}

// renew keeps the controller's own certificate fresh; it signs for itself.
func (c *Controller) renew(ctx context.Context, ready func()) error {
	id, err := identity.Controller(c.cfg.TrustDomain)
	if err != nil {
		return err
	}
	for {
		now := time.Now()
		m, err := c.material(id, now)
		if err != nil {
			return err
		}
		c.holder.Set(m)
		ready()
		t := time.NewTimer(time.Until(ca.RenewAt(now, m.Certificate.Leaf.NotAfter)))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

func (c *Controller) material(id identity.ID, now time.Time) (*identity.Material, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	chain, _, err := c.ca.Leaf(key.Public(), id, now, c.cfg.LeafTTL)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, der := range c.ca.BundleDER() {
		anchor, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		pool.AddCert(anchor)
	}
	return &identity.Material{
		ID: id, Bundle: pool, BundleDER: c.ca.BundleDER(),
		Certificate: tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf},
	}, nil
}

// serve runs the gRPC server. A client certificate is verified if shown; only Identity answers callers without one.
func (c *Controller) serve(ctx context.Context, l net.Listener, ready func()) error {
	config := c.holder.ServerTLS()
	verify := config.VerifyConnection
	config.ClientAuth = tls.RequestClientCert
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return nil
		}
		return verify(cs)
	}
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(config)),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		// Callers without a certificate reach this far (Identity): what they may send before they are judged is bounded.
		grpc.MaxRecvMsgSize(16<<20),
		grpc.MaxConcurrentStreams(128),
		grpc.ConnectionTimeout(10*time.Second),
	)
	tullev1.RegisterIdentityServer(server, c.identity)
	tullev1.RegisterEvidenceServer(server, c.evidence)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, c.xds)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	ready()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	c.judge.stopping.Store(true)
	server.Stop() // streams have no end of their own; sidecars keep what they have
	_ = <-served  // the server was stopped: nothing to tell
	return nil
}

// EnsureCA creates the CA and dataDir/ca/bundle.pem if they do not exist, so that bundle and tokens can be handed out before the controller
// runs. An empty trust domain is the default one. It returns the path of the bundle.
func EnsureCA(dataDir, trustDomain string) (bundleFile string, err error) {
	if trustDomain == "" {
		trustDomain = DefaultTrustDomain
	}
	authority, err := ca.Open(dataDir, trustDomain)
	if err != nil {
		return "", err
	}
	return filepath.Abs(authority.BundleFile())
}

// IssueToken creates a join token for the identity spiffe://TRUSTDOMAIN/ns/namespace/sa/serviceAccount in dataDir. The controller need not
// run, and sees tokens issued while it runs. A token is good for one key until ttl is over: see package ca.
func IssueToken(dataDir, namespace, serviceAccount string, ttl time.Duration) (string, error) {
	return ca.IssueToken(dataDir, namespace, serviceAccount, time.Now(), ttl)
}
