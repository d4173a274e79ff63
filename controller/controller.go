// Package controller is judgement and the way back: it reads configuration, signs certificates, judges the fleet's evidence, and tells every
// sidecar what to do over xDS.
package controller

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"
)

// Config is what a controller needs. Zero fields take the default named beside them.
type Config struct {
	DataDir     string        // required: CA, tokens, overrides
	ConfigDir   string        // required: directory of *.yaml resources
	GRPC        string        // default 127.0.0.1:8641: xDS, Identity, Evidence
	Admin       string        // default 127.0.0.1:8644: /metrics, /healthz, /readyz
	TrustDomain string        // default tulle.local
	LeafTTL     time.Duration // default 24 h
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

// Run runs a controller until ctx is done; see New for the parts.
func Run(ctx context.Context, cfg Config) error {
	c, err := New(cfg)
	if err != nil {
		return err
	}
	return c.Run(ctx, func() {})
}

// Controller is one controller process's assembly.
type Controller struct{ cfg Config }

// New checks the configuration; it creates nothing.
func New(cfg Config) (*Controller, error) { return &Controller{cfg: cfg}, nil }

// Run is an actor: it serves until ctx is done and calls ready once sidecars may connect.
func (c *Controller) Run(ctx context.Context, ready func()) error {
	return errors.New("controller: not built")
}

// EnsureCA creates the CA and DataDir/ca/bundle.pem if they do not exist, so that bundle and tokens can be handed out before the controller
// runs. It returns the path of the bundle.
func EnsureCA(dataDir, trustDomain string) (bundleFile string, err error) {
	return "", errors.New("controller: not built")
}

// IssueToken creates a join token for the identity spiffe://TRUSTDOMAIN/ns/namespace/sa/serviceAccount in dataDir. The controller need not
// run, and sees tokens issued while it runs. A token is good for one key: see package ca.
func IssueToken(dataDir, namespace, serviceAccount string, ttl time.Duration) (string, error) {
	return "", errors.New("controller: not built")
}
