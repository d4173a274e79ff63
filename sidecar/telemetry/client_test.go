package telemetry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	collectormetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	collectortrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// authority is a throw-away CA of the trust domain "test".
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.sign(&x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, Subject: pkix.Name{CommonName: "test"}})
	return a
}

func (a *authority) sign(c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	signed, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return signed, key
}

// holder is a member of the mesh.
func (a *authority) holder(id identity.ID) *identity.Holder {
	u, _ := url.Parse(id.String())
	leaf, key := a.sign(&x509.Certificate{URIs: []*url.URL{u}})
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	h := &identity.Holder{}
	h.Set(&identity.Material{ID: id, Bundle: pool, Certificate: tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}})
	return h
}

// collector is a real OTLP gRPC server.
type collector struct {
	collectortrace.UnimplementedTraceServiceServer
	metrics collectorMetrics

	mu    sync.Mutex
	spans []string // "peer sequence name"
	more  chan struct{}
}

type collectorMetrics struct {
	collectormetrics.UnimplementedMetricsServiceServer
	goodbye chan struct{}
}

func (c *collector) Export(ctx context.Context, req *collectortrace.ExportTraceServiceRequest) (*collectortrace.ExportTraceServiceResponse, error) {
	p, _ := peer.FromContext(ctx)
	who := identity.PeerID(p.AuthInfo.(credentials.TLSInfo).State)
	c.mu.Lock()
	for _, rs := range req.ResourceSpans {
		for _, kv := range rs.Resource.Attributes {
			if kv.Key == flow.AttrSequence {
				c.spans = append(c.spans, fmt.Sprintf("%s %d %s", who, kv.Value.GetIntValue(), rs.ScopeSpans[0].Spans[0].Name))
			}
		}
	}
	c.mu.Unlock()
	tell(c.more)
	return &collectortrace.ExportTraceServiceResponse{}, nil
}

func (m *collectorMetrics) Export(_ context.Context, req *collectormetrics.ExportMetricsServiceRequest) (*collectormetrics.ExportMetricsServiceResponse, error) {
	for _, kv := range req.ResourceMetrics[0].Resource.Attributes {
		if kv.Key == flow.AttrGoodbye {
			close(m.goodbye)
		}
	}
	return &collectormetrics.ExportMetricsServiceResponse{}, nil
}

func (c *collector) serve(t *testing.T, address string, h *identity.Holder) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(h.ServerTLS())))
	collectortrace.RegisterTraceServiceServer(s, c)
	collectormetrics.RegisterMetricsServiceServer(s, &c.metrics)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	return l.Addr().String(), func() { s.Stop(); <-done }
}

func wait(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s did not happen within 20 s", what)
	}
}

// locked is a log that may be read while it is written.
type locked struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Over real mTLS: what is recorded while the observer is away arrives when it comes back at the same address, from the proven identity, and the
// last metrics export says goodbye.
func TestExportOverTLS(t *testing.T) {
	for _, compression := range []string{"", "gzip"} {
		t.Run("compression "+compression, func(t *testing.T) {
			ca := newAuthority(t)
			observerID, _ := identity.Observer("test")
			cartID, _ := identity.Workload("test", "shop", "cart")
			c := &collector{more: make(chan struct{}, 1), metrics: collectorMetrics{goodbye: make(chan struct{})}}
			observer := ca.holder(observerID)
			addr, stop := c.serve(t, "127.0.0.1:0", observer)

			cart := ca.holder(cartID)
			tel := New(Config{
				Workload: policy.Workload{Service: "cart"}, Target: addr, Compression: compression,
				TLS: func() *tls.Config { return cart.ClientTLS(observerID) },
			})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- tel.Run(ctx, func() {}) }()

			tel.Record(exchange(1))
			wait(t, c.more, "the first export")
			testmesh.Eventually(t, "the acknowledgement", func() bool { return tel.accepted.Load() == 1 })
			stop()
			tel.Record(exchange(2))
			testmesh.Eventually(t, "a failed try", func() bool { return tel.exports[traces.index][2].Load() > 0 })
			_, stop = c.serve(t, addr, observer)
			defer stop()
			wait(t, c.more, "the export after the observer's return")
			cancel()
			wait(t, c.metrics.goodbye, "the goodbye")
			if err := <-done; err != nil {
				t.Error(err)
			}
			want := fmt.Sprintf("[%s 1 GET / %s 2 GET /]", cartID, cartID)
			if got := fmt.Sprint(c.spans); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

// A server that is not the observer gets nothing, even with a certificate of the same mesh.
func TestImpostor(t *testing.T) {
	ca := newAuthority(t)
	observerID, _ := identity.Observer("test")
	otherID, _ := identity.Workload("test", "shop", "web")
	c := &collector{more: make(chan struct{}, 1), metrics: collectorMetrics{goodbye: make(chan struct{})}}
	addr, stop := c.serve(t, "127.0.0.1:0", ca.holder(otherID))
	defer stop()
	cart := ca.holder(otherID)
	log := &locked{}
	tel := New(Config{
		Target: addr, FlushTimeout: 500 * time.Millisecond, Log: slog.New(slog.NewTextHandler(log, nil)),
		TLS: func() *tls.Config { return cart.ClientTLS(observerID) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tel.Run(ctx, func() {}) }()
	tel.Record(exchange(1))
	testmesh.Eventually(t, "a failed try", func() bool { return tel.exports[traces.index][2].Load() > 0 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(c.spans) != 0 || tel.dropped[dropShutdown].Load() != 1 {
		t.Errorf("spans went to an impostor: %v", c.spans)
	}
	if !strings.Contains(log.String(), "expected [spiffe://test/ns/tulle-system/sa/observer]") {
		t.Errorf("the log does not say whom it met:\n%s", log.String())
	}
}

func TestBadTarget(t *testing.T) {
	err := New(Config{Target: "unknown-scheme://%%%"}).Run(t.Context(), func() {})
	if err == nil || !strings.Contains(err.Error(), "host:port") {
		t.Errorf("got %v", err)
	}
}

func TestJudge(t *testing.T) {
	info, _ := status.New(codes.ResourceExhausted, "").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(3 * time.Second)})
	for _, c := range []struct {
		err  error
		want verdict
		wait time.Duration
	}{
		{status.Error(codes.Unavailable, ""), retry, 0},
		{status.Error(codes.DeadlineExceeded, ""), retry, 0},
		{info.Err(), retry, 3 * time.Second},
		{status.Error(codes.ResourceExhausted, ""), limited, 0},
		{status.Error(codes.Internal, ""), limited, 0},
		{errors.New("no status"), limited, 0},
		{status.Error(codes.InvalidArgument, ""), refuse, 0},
		{status.Error(codes.Unimplemented, ""), refuse, 0},
		{status.Error(codes.Unauthenticated, ""), refuse, 0},
	} {
		if got, wait := judge(c.err); got != c.want || wait != c.wait {
			t.Errorf("%v: %d after %v, want %d after %v", c.err, got, wait, c.want, c.wait)
		}
	}
}
