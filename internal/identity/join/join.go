// Package join obtains and renews a process's own certificate: it makes a key, asks the controller's Identity service to sign it (join token
// the first time, the current certificate afterwards), keeps key and chain in a state directory, and publishes them to an identity.Holder.
//
// Hold it so: New, then Run as an actor; ready is called once the Holder has material, from disk or fresh from the controller. While the
// controller is away an unexpired certificate from disk keeps serving.
package join

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// Config is what a Client needs. All fields but Token and Log are required.
type Config struct {
	Controller   string           // host:port of the controller's gRPC listener
	ControllerID identity.ID      // who must answer there; see identity.Controller
	ID           identity.ID      // the identity asked for
	Token        string           // join token; needed until the first certificate is in StateDir
	BundleFile   string           // PEM file with the trust anchors, distributed with the token
	StateDir     string           // created if missing (0700); holds identity.pem: key, chain and anchors (0600)
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
type Client struct {
	cfg Config

	mu      sync.Mutex
	status  Status
	yielded bool
}

// Bounds of the pause between two tries, and of one try.
const (
	minBackoff  = 500 * time.Millisecond
	maxBackoff  = 30 * time.Second
	signTimeout = 10 * time.Second
)

// New checks the configuration; it touches neither disk nor network.
func New(cfg Config) (*Client, error) {
	for _, f := range []struct {
		name  string
		empty bool
	}{
		{"Controller", cfg.Controller == ""},
		{"ControllerID", cfg.ControllerID.IsZero()},
		{"ID", cfg.ID.IsZero()},
		{"BundleFile", cfg.BundleFile == ""},
		{"StateDir", cfg.StateDir == ""},
		{"Holder", cfg.Holder == nil},
	} {
		if f.empty {
			return nil, fmt.Errorf("join: %s must be set", f.name)
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Client{cfg: cfg, status: Status{ID: cfg.ID}}, nil
}

// Status reports the certificate in force.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Run publishes a certificate, calls ready, and renews until ctx is done. It returns an error only when there is no certificate and the
// controller refuses to give one (a retry would not help); an unreachable controller is retried.
func (c *Client) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(c.cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("join: %w (choose a writable state directory)", err)
	}
	if m, err := c.load(); err == nil {
		c.publish(m, renewAt(m.Certificate.Leaf))
		ready()
	} else if !errors.Is(err, os.ErrNotExist) {
		c.cfg.Log.Warn("stored certificate is not usable, asking for a new one", "file", c.file(), "error", err)
	}
	backoff := minBackoff
	for {
		if wait := time.Until(c.Status().RenewAt); wait > 0 && !pause(ctx, wait) {
			return nil
		}
		renewed := c.sign
		if c.hasYielded() {
			renewed = c.reload
		}
		m, renew, err := renewed(ctx)
		if err == nil {
			c.publish(m, renew)
			ready()
			backoff = minBackoff
			continue
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to stop: what failed meanwhile is not news
		}
		c.mu.Lock()
		c.status.LastError = err.Error()
		haveOne := time.Now().Before(c.status.NotAfter)
		c.mu.Unlock()
		if permanent(err) && !haveOne {
			return err
		}
		c.cfg.Log.Warn("no new certificate yet", "error", err, "retry_in", backoff.Round(time.Millisecond), "current_valid", haveOne)
		if !pause(ctx, time.Duration((0.5+mrand.Float64())*float64(backoff))) {
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// Yield leaves renewals to another process with the same StateDir: from now on the certificate that it stores is taken when one is due.
func (c *Client) Yield() { c.yield(true) }

// Resume takes back Yield.
func (c *Client) Resume() { c.yield(false) }

func (c *Client) yield(y bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.yielded = y
}

func (c *Client) hasYielded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.yielded
}

// reload takes the certificate that another process has renewed.
func (c *Client) reload(context.Context) (*identity.Material, time.Time, error) {
	m, err := c.load()
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("join: the certificate that another process renews: %w", err)
	}
	if have := c.cfg.Holder.Get(); have != nil && !m.Certificate.Leaf.NotAfter.After(have.Certificate.Leaf.NotAfter) {
		return nil, time.Time{}, errors.New("join: the process that took over has not renewed the certificate yet")
	}
	return m, renewAt(m.Certificate.Leaf), nil
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// permanent errors will not go away by asking again.
func permanent(err error) bool {
	switch status.Code(errors.Unwrap(err)) {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument:
		return true
	}
	return errors.Is(err, errSetup)
}

var errSetup = errors.New("join")

func (c *Client) publish(m *identity.Material, renew time.Time) {
	c.cfg.Holder.Set(m)
	c.mu.Lock()
	c.status = Status{ID: m.ID, NotAfter: m.Certificate.Leaf.NotAfter, RenewAt: renew}
	c.mu.Unlock()
	c.cfg.Log.Info("certificate in force", "identity", m.ID.String(), "not_after", m.Certificate.Leaf.NotAfter, "renew_at", renew)
}

// renewAt is for a certificate whose signer's advice is lost: 50 to 70 % of its life.
func renewAt(leaf *x509.Certificate) time.Time {
	return leaf.NotBefore.Add(time.Duration((0.5 + 0.2*mrand.Float64()) * float64(leaf.NotAfter.Sub(leaf.NotBefore))))
}

// sign asks the controller once.
func (c *Client) sign(ctx context.Context) (*identity.Material, time.Time, error) {
	anchors, err := c.anchors()
	if err != nil {
		return nil, time.Time{}, err
	}
	key, err := c.pendingKey()
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%w: %w", errSetup, err)
	}
	uri, err := url.Parse(c.cfg.ID.String())
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%w: %w", errSetup, err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{URIs: []*url.URL{uri}}, key)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%w: %w", errSetup, err)
	}
	conn, err := grpc.NewClient("passthrough:///"+c.cfg.Controller, grpc.WithTransportCredentials(credentials.NewTLS(c.tls(anchors))))
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("join: controller address %q: %w", c.cfg.Controller, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	resp, err := tullev1.NewIdentityClient(conn).Sign(ctx, &tullev1.SignRequest{CsrDer: csr, JoinToken: c.cfg.Token})
	if err != nil {
		return nil, time.Time{}, c.explain(err)
	}
	m, err := c.material(key, resp.GetChainDer(), resp.GetBundleDer())
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("join: the controller's answer is not usable: %w", err)
	}
	if err := c.store(key, m); err != nil {
		// Serving matters more than surviving a restart; the next renewal tries again.
		c.cfg.Log.Error("certificate cannot be stored; it would be lost at a restart", "file", c.file(), "error", err)
	}
	return m, renewal(time.Unix(resp.GetRenewAtUnix(), 0), m.Certificate.Leaf, time.Now()), nil
}

// renewal is when to renew a new certificate: when the signer advises, if that makes sense here. Where the clocks disagree so much that even the
// certificate's middle is past, it is not at once, for every renewal would be: half of what is left, or maxBackoff.
func renewal(advice time.Time, leaf *x509.Certificate, now time.Time) time.Time {
	if advice.Before(now) || advice.After(leaf.NotAfter) {
		advice = renewAt(leaf)
	}
	if soonest := now.Add(min(maxBackoff, leaf.NotAfter.Sub(now)/2)); advice.Before(now) && soonest.After(now) {
		return soonest
	}
	return advice
}

// refused wraps a gRPC status in words.
type refused struct {
	text string
	err  error
}

func (r *refused) Error() string { return r.text }
func (r *refused) Unwrap() error { return r.err }

func (c *Client) explain(err error) error {
	s := status.Convert(err)
	switch s.Code() {
	case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument:
		return &refused{fmt.Sprintf("join: controller %s refused: %s", c.cfg.Controller, s.Message()), err}
	case codes.Unavailable, codes.DeadlineExceeded:
		return &refused{fmt.Sprintf("join: controller %s cannot be reached: %s (is it running there, and is %s its bundle?)",
			c.cfg.Controller, s.Message(), c.cfg.BundleFile), err}
	}
	return &refused{fmt.Sprintf("join: controller %s: %s", c.cfg.Controller, s.Message()), err}
}

// tls verifies the controller's SPIFFE ID and shows the current certificate while it is valid.
func (c *Client) tls(anchors *x509.CertPool) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true, // replaced by VerifyConnection: SPIFFE names peers by URI SAN, not by host name
		VerifyConnection: func(cs tls.ConnectionState) error {
			id, err := identity.VerifyChain(cs.PeerCertificates, anchors)
			if err != nil {
				return err
			}
			if id != c.cfg.ControllerID {
				return fmt.Errorf("%w: it is %s, expected %s", identity.ErrPeer, id, c.cfg.ControllerID)
			}
			return nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if m := c.cfg.Holder.Get(); m != nil && time.Now().Before(m.Certificate.Leaf.NotAfter) {
				return &m.Certificate, nil
			}
			return &tls.Certificate{}, nil
		},
	}
}

// anchors is the distributed bundle, plus what the controller told us last.
func (c *Client) anchors() (*x509.CertPool, error) {
	content, err := os.ReadFile(c.cfg.BundleFile)
	if err != nil {
		return nil, fmt.Errorf("join: trust bundle: %w (copy ca/bundle.pem from the controller's data directory)", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("join: trust bundle %s has no certificate (copy ca/bundle.pem from the controller's data directory)", c.cfg.BundleFile)
	}
	if m := c.cfg.Holder.Get(); m != nil {
		for _, der := range m.BundleDER {
			if cert, err := x509.ParseCertificate(der); err == nil {
				pool.AddCert(cert)
			}
		}
	}
	return pool, nil
}

func (c *Client) material(key *ecdsa.PrivateKey, chain, bundle [][]byte) (*identity.Material, error) {
	if len(chain) == 0 || len(bundle) == 0 {
		return nil, errors.New("chain or bundle is empty")
	}
	certs := make([]*x509.Certificate, len(chain))
	for i, der := range chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		certs[i] = cert
	}
	pool := x509.NewCertPool()
	for _, der := range bundle {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		pool.AddCert(cert)
	}
	id, err := identity.VerifyChain(certs, pool)
	if err != nil {
		return nil, err
	}
	if id != c.cfg.ID {
		return nil, fmt.Errorf("certificate is for %s, not %s", id, c.cfg.ID)
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, errors.New("certificate is for another key")
	}
	return &identity.Material{
		ID: id, Bundle: pool, BundleDER: bundle,
		Certificate: tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: certs[0]},
	}, nil
}

func (c *Client) file() string    { return filepath.Join(c.cfg.StateDir, "identity.pem") }
func (c *Client) pending() string { return filepath.Join(c.cfg.StateDir, "pending-key.pem") }

// pendingKey is the key to be signed next. It is kept on disk until it is, because a join token is bound to the first key that used it.
func (c *Client) pendingKey() (*ecdsa.PrivateKey, error) {
	if content, err := os.ReadFile(c.pending()); err == nil {
		if block, _ := pem.Decode(content); block != nil {
			if k, err := x509.ParsePKCS8PrivateKey(block.Bytes); err == nil {
				if key, ok := k.(*ecdsa.PrivateKey); ok {
					return key, nil
				}
			}
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeAtomic(c.pending(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

const anchorType = "TRUST ANCHOR"

// store writes key, chain and anchors as one file, so that they always belong together.
func (c *Client) store(key *ecdsa.PrivateKey, m *identity.Material) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for _, cert := range m.Certificate.Certificate {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...)
	}
	for _, cert := range m.BundleDER {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: anchorType, Bytes: cert})...)
	}
	if err := writeAtomic(c.file(), out); err != nil {
		return err
	}
	return os.Remove(c.pending())
}

// load reads what store wrote; a certificate that has expired, or of another identity, is an error.
func (c *Client) load() (*identity.Material, error) {
	content, err := os.ReadFile(c.file())
	if err != nil {
		return nil, err
	}
	var key *ecdsa.PrivateKey
	var chain, bundle [][]byte
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, err
			}
			var ok bool
			if key, ok = k.(*ecdsa.PrivateKey); !ok {
				return nil, fmt.Errorf("key is of type %T", k)
			}
		case "CERTIFICATE":
			chain = append(chain, block.Bytes)
		case anchorType:
			bundle = append(bundle, block.Bytes)
		}
	}
	if key == nil {
		return nil, errors.New("it has no private key")
	}
	m, err := c.material(key, chain, bundle)
	if err != nil {
		return nil, err
	}
	if anchors, err := c.anchors(); err == nil {
		if _, err := identity.VerifyChain([]*x509.Certificate{m.Certificate.Leaf}, anchors); err != nil {
			return nil, fmt.Errorf("it was signed by another authority than %s: %w", c.cfg.BundleFile, err)
		}
	}
	return m, nil
}

func writeAtomic(file string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
