// Package join obtains and renews a process's own certificate: it makes a key, asks the controller's Identity service to sign it (join token
// the first time, the current certificate afterwards), keeps key and chain in a state directory, and publishes them to an identity.Holder.
//
// Hold it so: New, then Run as an actor; ready is called once the Holder has material, from disk or fresh from the controller. While the
// controller is away an unexpired certificate from disk keeps serving.
package join

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
)

// Config is what a Client needs. All fields but Token, Log and Now are required.
type Config struct {
	Controller   string           // host:port of the controller's gRPC listener
	ControllerID identity.ID      // who must answer there; see identity.Controller
	ID           identity.ID      // the identity asked for
	Token        string           // join token; needed until the first certificate is in StateDir
	BundleFile   string           // PEM file with the trust anchors, distributed with the token
	StateDir     string           // holds identity-key.pem and identity-chain.pem (0600)
	Holder       *identity.Holder // where the certificate is published
	Log          *slog.Logger     // default: discard
}

// Status is what a Client can say about itself. Safe to take at any time.
type Status struct {
	ID        identity.ID
	NotAfter  time.Time // of the certificate in force; zero before the first
	RenewAt   time.Time
	LastError string // "" after a success
}

// Client is one joining process.
type Client struct{ cfg Config }

// New checks the configuration.
func New(cfg Config) (*Client, error) { return &Client{cfg: cfg}, nil }

// Run publishes a certificate, calls ready, and renews until ctx is done.
func (c *Client) Run(ctx context.Context, ready func()) error { return errors.New("join: not built") }

// Status reports the certificate in force.
func (c *Client) Status() Status { return Status{} }
