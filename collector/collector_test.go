package collector_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/collector"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/local"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(overloadDir); dir != "" {
		if err := overloadedMain(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// authority is a throw-away CA.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, cert: cert, pool: x509.NewCertPool()}
	a.pool.AddCert(cert)
	return a
}

func (a *authority) holder(t *testing.T, uri string) *identity.Holder {
	t.Helper()
	id, err := identity.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u}, KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	h := &identity.Holder{}
	h.Set(&identity.Material{ID: id, Certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, Bundle: a.pool})
	return h
}

const (
	observerID = "spiffe://mesh/ns/tulle/sa/observer"
	cartID     = "spiffe://mesh/ns/shop/sa/cart"
	payID      = "spiffe://mesh/ns/shop/sa/pay"
)

type registry map[string][2]string

func (r registry) Lookup(id string) (service, namespace string, ok bool) {
	v, ok := r[id]
	return v[0], v[1], ok
}

type sink struct {
	mu  sync.Mutex
	got []pmetric.Metrics
	err error
}

func (s *sink) Ingest(_ context.Context, md pmetric.Metrics) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	c := pmetric.NewMetrics()
	md.CopyTo(c)
	s.got = append(s.got, c)
	return nil
}

// refusing is a span store whose writes fail as told.
type backend = store.Spans

type refusing struct {
	backend
	err error
}

func (r refusing) Write(context.Context, ptrace.Traces) error { return r.err }

func openSpans(t *testing.T, dir string) *local.DB {
	t.Helper()
	db, err := local.Open(local.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// start runs a collector and returns it when it listens, and a function that stops it.
func start(t *testing.T, cfg collector.Config) (*collector.Collector, func()) {
	t.Helper()
	if cfg.GRPC == "" {
		cfg.GRPC = "127.0.0.1:0"
	}
	if cfg.HTTP == "" {
		cfg.HTTP = "127.0.0.1:0"
	}
	c, err := collector.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- c.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("run: %v", err)
	}
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return c, stop
}

func dial(t *testing.T, c *collector.Collector, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	addr, _ := c.Addresses()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

var traceID = flow.TraceID{1, 2, 3}

// batch is one span of a reporter that lies about everything it can.
func batch() ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr(flow.AttrServiceName, "bank")
	rs.Resource().Attributes().PutStr(flow.AttrReporterIdentity, payID)
	rs.Resource().Attributes().PutStr(flow.AttrBootID, "0123456789abcdef")
	sp := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	sp.SetTraceID(pcommon.TraceID(traceID))
	sp.SetSpanID(pcommon.SpanID{9})
	sp.SetName("GET")
	sp.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	a := sp.Attributes()
	a.PutStr(flow.AttrReporterIdentity, payID)
	a.PutStr(flow.AttrSourceService, "cart")
	a.PutStr("url.full", "https://me:secret@x.example/p?card=1#f")
	a.PutStr("url.query", "card=1")
	a.PutStr("http.request.header.authorization", "Bearer x")
	a.PutStr("http.request.header.cookie", "c=1")
	a.PutStr("kept", "yes")
	sp.Events().AppendEmpty().Attributes().PutStr("http.url", "/a?b")
	return td
}

func send(ctx context.Context, cc *grpc.ClientConn, td ptrace.Traces) error {
	_, err := ptraceotlp.NewGRPCClient(cc).Export(ctx, ptraceotlp.NewExportRequestFromTraces(td), grpc.WaitForReady(true))
	return err
}

func stored(t *testing.T, db store.Spans) (res, attrs map[string]any, sp ptrace.Span) {
	t.Helper()
	td, err := db.Trace(t.Context(), traceID)
	if err != nil {
		t.Fatal(err)
	}
	rs := td.ResourceSpans().At(0)
	sp = rs.ScopeSpans().At(0).Spans().At(0)
	return rs.Resource().Attributes().AsRaw(), sp.Attributes().AsRaw(), sp
}

func TestMeshReporterIsStampedAndHeldToItsService(t *testing.T) {
	ca := newAuthority(t)
	db := openSpans(t, t.TempDir())
	metrics := &sink{}
	c, stop := start(t, collector.Config{Identity: ca.holder(t, observerID), Spans: db, Metrics: metrics, Registry: registry{cartID: {"cart", "shop"}}})
	cc := dial(t, c, credentials.NewTLS(ca.holder(t, cartID).ClientTLS()))
	// Metadata does not count either.
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-client-cert", payID, "tulle.reporter.identity", payID)
	if err := send(ctx, cc, batch()); err != nil {
		t.Fatal(err)
	}
	res, attrs, sp := stored(t, db) // acknowledged means queryable: no waiting
	if res[flow.AttrReporterIdentity] != cartID || res[flow.AttrServiceName] != "cart" || res[flow.AttrServiceNamespace] != "shop" || res[flow.AttrBootID] != "0123456789abcdef" {
		t.Errorf("resource: %v", res)
	}
	if _, ok := attrs[flow.AttrReporterIdentity]; ok || attrs[flow.AttrSourceService] != "cart" || attrs["kept"] != "yes" {
		t.Errorf("attributes: %v", attrs)
	}
	for _, k := range []string{"url.query", "http.request.header.authorization", "http.request.header.cookie"} {
		if _, ok := attrs[k]; ok {
			t.Errorf("%s was stored", k)
		}
	}
	if attrs["url.full"] != "https://x.example/p" {
		t.Errorf("url.full = %v", attrs["url.full"])
	}
	if v, _ := sp.Events().At(0).Attributes().Get("http.url"); v.Str() != "/a" {
		t.Errorf("an event's http.url = %q", v.Str())
	}

	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr(flow.AttrReporterIdentity, payID)
	m := rm.ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName(flow.MetricExchanges)
	m.SetEmptySum().DataPoints().AppendEmpty().SetIntValue(5)
	if _, err := pmetricotlp.NewGRPCClient(cc).Export(t.Context(), pmetricotlp.NewExportRequestFromMetrics(md)); err != nil {
		t.Fatal(err)
	}
	if len(metrics.got) != 1 {
		t.Fatalf("%d batches of metrics, want 1", len(metrics.got))
	}
	if v, _ := metrics.got[0].ResourceMetrics().At(0).Resource().Attributes().Get(flow.AttrReporterIdentity); v.Str() != cartID {
		t.Errorf("metrics are of %q, want %s", v.Str(), cartID)
	}
	st := c.Stats()
	if st.SpansAccepted != 1 || st.MetricsAccepted != 1 || st.Altered["identity_overwritten"] != 2 || st.Altered["service_overwritten"] != 1 || st.Altered["private_removed"] != 5 {
		t.Errorf("stats: %+v", st)
	}
	stop()
}

func TestStrangersAreRefusedOnTheMeshPort(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	db := openSpans(t, t.TempDir())
	c, _ := start(t, collector.Config{Identity: ca.holder(t, observerID), Spans: db})
	for name, creds := range map[string]credentials.TransportCredentials{
		"another CA":           credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, GetClientCertificate: other.holder(t, cartID).ClientTLS().GetClientCertificate}),                 //nolint:gosec // the test's own
		"no certificate":       credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}),                                                                                                 //nolint:gosec // the test's own
		"another trust domain": credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, GetClientCertificate: ca.holder(t, "spiffe://evil/ns/a/sa/b").ClientTLS().GetClientCertificate}), //nolint:gosec // the test's own
		"plaintext":            insecure.NewCredentials(),
	} {
		cc := dial(t, c, creds)
		_, err := ptraceotlp.NewGRPCClient(cc).Export(t.Context(), ptraceotlp.NewExportRequestFromTraces(batch()))
		if status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v, want a failed connection", name, err)
		}
	}
	if _, err := db.Trace(t.Context(), traceID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a stranger's span was stored: %v", err)
	}
}

func post(t *testing.T, c *collector.Collector, path string, body []byte, change func(*http.Request)) (int, string) {
	t.Helper()
	_, addr := c.Addresses()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	if change != nil {
		change(req)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func traceBody(t *testing.T) []byte {
	t.Helper()
	b, err := ptraceotlp.NewExportRequestFromTraces(batch()).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestApplicationsSpansAreNoEvidence(t *testing.T) {
	ca := newAuthority(t)
	db := openSpans(t, t.TempDir())
	metrics := &sink{}
	c, _ := start(t, collector.Config{Identity: ca.holder(t, observerID), Spans: db, Metrics: metrics, Registry: registry{cartID: {"cart", "shop"}}})
	if code, body := post(t, c, "/v1/traces", traceBody(t), nil); code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	res, attrs, _ := stored(t, db)
	for _, m := range []map[string]any{res, attrs} {
		for k := range m {
			if strings.HasPrefix(k, "tulle.") {
				t.Errorf("%s was kept from a sender outside the mesh", k)
			}
		}
	}
	if res[flow.AttrServiceName] != "bank" || attrs["kept"] != "yes" {
		t.Errorf("the rest must stay: %v %v", res, attrs)
	}
	md := pmetric.NewMetrics()
	m := md.ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty().Metrics().AppendEmpty()
	m.SetName(flow.MetricExchanges)
	m.SetEmptySum().DataPoints().AppendEmpty().SetIntValue(5)
	b, err := pmetricotlp.NewExportRequestFromMetrics(md).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	if code, body := post(t, c, "/v1/metrics", b, nil); code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	if len(metrics.got) != 0 || c.Stats().Dropped["unauthenticated_metrics"] != 1 {
		t.Errorf("metrics without a reporter reached the sink, or were not counted: %+v", c.Stats())
	}
}

// Spans that another part of the process hands over are an application's, even where the call that brought them came from the mesh.
func TestSpansFromInsideAreNoEvidence(t *testing.T) {
	db := openSpans(t, t.TempDir())
	a := newAuthority(t)
	c, stop := start(t, collector.Config{GRPC: "127.0.0.1:0", Identity: a.holder(t, observerID), Spans: db, Registry: registry{}})
	ctx := peer.NewContext(t.Context(), &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{a.holder(t, cartID).Get().Certificate.Leaf}}}})
	if err := c.Write(ctx, batch()); err != nil {
		t.Fatal(err)
	}
	res, attrs, _ := stored(t, db)
	for _, m := range []map[string]any{res, attrs} {
		for k, v := range m {
			if strings.HasPrefix(k, "tulle.") {
				t.Errorf("%s = %v was kept", k, v)
			}
		}
	}
	stop()
	if err := c.Write(t.Context(), batch()); !errors.Is(err, store.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestHTTPPortChecksHostAndOrigin(t *testing.T) {
	db := openSpans(t, t.TempDir())
	c, _ := start(t, collector.Config{Spans: db})
	for _, x := range []struct {
		host, origin string
		want         int
	}{
		{"", "", 200},
		{"localhost:4318", "", 200},
		{"[::1]:4318", "", 200},
		{"evil.example", "", 403},
		{"evil.example:4318", "", 403},
		{"localhost:4318", "http://localhost:4318", 200},
		{"localhost:4318", "http://evil.example", 403},
		{"localhost:4318", "null", 403},
	} {
		code, body := post(t, c, "/v1/traces", traceBody(t), func(r *http.Request) {
			if x.host != "" {
				r.Host = x.host
			}
			if x.origin != "" {
				r.Header.Set("Origin", x.origin)
			}
		})
		if code != x.want {
			t.Errorf("Host %q Origin %q: %d %s, want %d", x.host, x.origin, code, body, x.want)
		}
	}
	if code, _ := post(t, c, "/v1/traces", []byte("not protobuf"), nil); code != http.StatusBadRequest {
		t.Errorf("garbage: %d, want 400", code)
	}
	if r := c.Stats().Refused; r["foreign_origin"] != 4 || r["malformed"] != 1 {
		t.Errorf("refused: %v", r)
	}
}

func TestRefusalsOfTheStoreAreRetryable(t *testing.T) {
	for _, x := range []struct {
		err    error
		code   codes.Code
		http   int
		retry  bool
		reason string
	}{
		{store.ErrFull, codes.ResourceExhausted, 429, true, "store_full"},
		{store.ErrBusy, codes.Unavailable, 503, true, "store_busy"},
		{store.ErrClosed, codes.Unavailable, 503, true, "store_closed"},
		{errors.New("cannot encode"), codes.Internal, 500, false, "store_error"},
	} {
		t.Run(x.reason, func(t *testing.T) {
			c, _ := start(t, collector.Config{Spans: refusing{err: x.err}})
			err := send(t.Context(), dial(t, c, insecure.NewCredentials()), batch())
			s := status.Convert(err)
			if s.Code() != x.code {
				t.Fatalf("%v, want %v", err, x.code)
			}
			retry := false
			for _, d := range s.Details() {
				if r, ok := d.(*errdetails.RetryInfo); ok && r.GetRetryDelay().AsDuration() > 0 {
					retry = true
				}
			}
			if retry != x.retry {
				t.Errorf("RetryInfo is there: %v, want %v", retry, x.retry)
			}
			if code, body := post(t, c, "/v1/traces", traceBody(t), nil); code != x.http {
				t.Errorf("HTTP %d %s, want %d", code, body, x.http)
			}
			st := c.Stats()
			if x.retry && st.Refused[x.reason] != 2 || !x.retry && st.Dropped[x.reason] != 2 || len(st.Refused)+len(st.Dropped) != 1 {
				t.Errorf("counted once each: %+v", st)
			}
		})
	}
}

func TestMemoryLimitRefusesRetryably(t *testing.T) {
	db := openSpans(t, t.TempDir())
	c, _ := start(t, collector.Config{Spans: db, MemoryLimitMiB: 32})
	cc := dial(t, c, insecure.NewCredentials())
	ballast := make([]byte, 128<<20)
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := send(t.Context(), cc, batch())
		if status.Code(err) == codes.Unavailable {
			break
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%v, want a retryable refusal", err)
		}
		<-time.NewTimer(10 * time.Millisecond).C
	}
	runtime.KeepAlive(ballast)
	if st := c.Stats(); st.Refused["memory_limit"] != 1 {
		t.Errorf("not counted: %+v", st)
	}
}

func TestAcknowledgedMeansOnDisk(t *testing.T) {
	dir := t.TempDir()
	db := openSpans(t, dir)
	c, _ := start(t, collector.Config{Spans: db})
	if err := send(t.Context(), dial(t, c, insecure.NewCredentials()), batch()); err != nil {
		t.Fatal(err)
	}
	// What a crash at this instant would leave.
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if td, err := openSpans(t, copied).Trace(t.Context(), traceID); err != nil || td.SpanCount() != 1 {
		t.Fatalf("after the crash: %v", err)
	}
}

func TestPortInUseIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := collector.New(collector.Config{GRPC: l.Addr().String(), Spans: refusing{}})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Run(t.Context(), func() { t.Error("ready on a port that is taken") })
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Fatalf("%v, want an error that names %s", err, l.Addr())
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	for name, cfg := range map[string]collector.Config{
		"no store":    {GRPC: "127.0.0.1:0"},
		"no address":  {Spans: refusing{}},
		"bad address": {Spans: refusing{}, GRPC: "localhost"},
		"no memory":   {Spans: refusing{}, GRPC: "127.0.0.1:0", MemoryLimitMiB: 1},
	} {
		if _, err := collector.New(cfg); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want a one-line error", name, err)
		}
	}
}
