package watch

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// authority is a throw-away CA.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func must[T any](t *testing.T, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, key, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, der, err)
	cert, err := x509.ParseCertificate(der)
	return &authority{t, key, must(t, cert, err)}
}

func (a *authority) holder(account string) *identity.Holder {
	a.t.Helper()
	id, err := identity.Workload("td", "shop", account)
	must(a.t, id, err)
	uri, err := url.Parse(id.String())
	must(a.t, uri, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, key, err)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{uri},
	}, a.cert, key.Public(), a.key)
	must(a.t, der, err)
	leaf, err := x509.ParseCertificate(der)
	must(a.t, leaf, err)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	h := &identity.Holder{}
	h.Set(&identity.Material{ID: id, Bundle: pool, Certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}})
	return h
}

// script is an ADS server that a test speaks through.
type script struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	requests  chan *discoveryv3.DeltaDiscoveryRequest
	responses chan *discoveryv3.DeltaDiscoveryResponse
}

func (s *script) DeltaAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	go func() { // ends with the stream
		for {
			req, err := stream.Recv()
			if err != nil {
				return
			}
			select {
			case s.requests <- req:
			case <-stream.Context().Done():
				return
			}
		}
	}()
	for {
		select {
		case resp := <-s.responses:
			if err := stream.Send(resp); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// answer waits for the ACK or NACK of nonce.
func (s *script) answer(t *testing.T, nonce string) *discoveryv3.DeltaDiscoveryRequest {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		select {
		case req := <-s.requests:
			if req.GetResponseNonce() == nonce {
				return req
			}
		case <-timeout:
			t.Fatalf("no answer to %s", nonce)
		}
	}
}

// tell sends one kind's resources and returns the answer.
func (s *script) tell(t *testing.T, nonce, url string, resources ...policy.Resource) *discoveryv3.DeltaDiscoveryRequest {
	t.Helper()
	resp := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, Nonce: nonce}
	for _, r := range resources {
		if r.TypeURL == url {
			resp.Resources = append(resp.Resources, &discoveryv3.Resource{Name: r.Name, Version: r.Version, Resource: r.Body})
		}
	}
	s.responses <- resp
	return s.answer(t, nonce)
}

func serve(t *testing.T) (*script, *Watcher) {
	t.Helper()
	a := newAuthority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, l, err)
	s := &script{requests: make(chan *discoveryv3.DeltaDiscoveryRequest, 64), responses: make(chan *discoveryv3.DeltaDiscoveryResponse)}
	controller := a.holder("controller")
	server := grpc.NewServer(grpc.Creds(credentials.NewTLS(controller.ServerTLS())))
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	w := must2(New(Config{
		Controller: l.Addr().String(), ControllerID: controller.Get().ID, Identity: a.holder("web"), Workload: policy.Workload{Instance: "web-1"},
		StateDir: t.TempDir(), Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}))(t)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx, func() {}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
		server.Stop()
		<-done
	})
	return s, w
}

func must2[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T { return must(t, v, err) }
}

func snapshot(version string, timeout time.Duration) *policy.Snapshot {
	return &policy.Snapshot{
		Workload:  policy.Workload{Service: "web", Instance: "web-1", Version: version},
		Services:  map[string]policy.Service{"cart": {Name: "cart", Protocol: flow.ProtocolHTTP1, RequestTimeout: timeout}},
		Endpoints: map[string][]policy.Endpoint{"cart": {{Address: netip.MustParseAddrPort("127.0.0.1:80"), Instance: "cart-1"}}},
	}
}

func TestRefusesWithAReasonAndKeepsTheLastGood(t *testing.T) {
	s, w := serve(t)
	good := snapshot("v1", time.Second)
	resources := must2(policy.Seal(good))(t)
	s.tell(t, "1", policy.TypeService, resources...)
	s.tell(t, "2", policy.TypeEndpoints, resources...)
	if w.Current() != nil {
		t.Fatal("half a revision is in force")
	}
	if a := s.tell(t, "3", policy.TypePolicy, resources...); a.GetErrorDetail() != nil {
		t.Fatalf("refused: %v", a.GetErrorDetail())
	}
	if w.Current().Revision != good.Revision {
		t.Fatalf("in force is %+v", w.Current())
	}

	// A resource that is bad by itself.
	next := snapshot("v1", 2*time.Second)
	changed := must2(policy.Seal(next))(t)
	bad := changed[0]
	bad.Body = &anypb.Any{TypeUrl: policy.TypeService, Value: []byte{0x0a, 0x00}}
	a := s.tell(t, "4", policy.TypeService, bad)
	if m := a.GetErrorDetail().GetMessage(); !strings.Contains(m, "service") || m == "" {
		t.Errorf("NACK says %q", m)
	}
	a = s.tell(t, "5", policy.TypePolicy, changed...)
	if m := a.GetErrorDetail().GetMessage(); !strings.Contains(m, "part of it was refused") {
		t.Errorf("NACK of the revision says %q", m)
	}
	if got := w.Current(); got.Revision != good.Revision || got.Services["cart"].RequestTimeout != time.Second {
		t.Errorf("in force is %+v", got)
	}
	if st := w.Status(); st.Nacks != 2 || st.LastError == "" || !st.Connected {
		t.Errorf("status is %+v", st)
	}

	// Mended, it comes into force.
	s.tell(t, "6", policy.TypeService, changed...)
	if a := s.tell(t, "7", policy.TypePolicy, changed...); a.GetErrorDetail() != nil {
		t.Errorf("refused: %v", a.GetErrorDetail())
	}
	if got := w.Current().Services["cart"].RequestTimeout; got != 2*time.Second {
		t.Errorf("timeout is %s", got)
	}
	if st := w.Status(); st.LastError != "" {
		t.Errorf("status still says %q", st.LastError)
	}
}

func TestAsksForEverythingWhenTheRevisionDoesNotAddUp(t *testing.T) {
	s, w := serve(t)
	resources := must2(policy.Seal(snapshot("v1", time.Second)))(t)
	s.tell(t, "1", policy.TypeService, resources...)
	// The endpoints are missing, so this is not the revision it says it is.
	s.responses <- &discoveryv3.DeltaDiscoveryResponse{TypeUrl: policy.TypePolicy, Nonce: "2", Resources: []*discoveryv3.Resource{
		{Name: resources[len(resources)-1].Name, Version: "x", Resource: resources[len(resources)-1].Body},
	}}
	timeout := time.After(10 * time.Second)
	for again := false; !again; {
		select {
		case req := <-s.requests: // the first of the next stream
			again = req.GetNode() != nil && len(req.GetInitialResourceVersions()) == 0
		case <-timeout:
			t.Fatal("no new stream")
		}
	}
	if w.Current() != nil {
		t.Error("an incomplete revision is in force")
	}
}

// parts are those of s, sealed.
func parts(t *testing.T, s *policy.Snapshot) (out []policy.Part) {
	t.Helper()
	for _, r := range must2(policy.Seal(s))(t) {
		out = append(out, must2(policy.ReadResource(r))(t))
	}
	return out
}

func TestDiskIsCheckedBeforeItIsBelieved(t *testing.T) {
	dir := t.TempDir()
	file := dir + "/snapshot.pb"
	s := snapshot("v1", time.Second)
	if err := store(file, parts(t, s)); err != nil {
		t.Fatal(err)
	}
	got, _, err := load(file, "web-1")
	if err != nil || got.Revision != s.Revision {
		t.Fatalf("load: %+v, %v", got, err)
	}
	if _, _, err := load(file, "web-2"); err == nil || !strings.Contains(err.Error(), "belongs to instance") {
		t.Errorf("loaded another instance's policy: %v", err)
	}
	content, err := os.ReadFile(file)
	must(t, content, err)
	for i := range content {
		damaged := append([]byte(nil), content...)
		damaged[i] ^= 0x40
		must(t, 0, os.WriteFile(file, damaged, 0o600))
		if _, _, err := load(file, "web-1"); err == nil {
			t.Fatalf("loaded with byte %d changed", i)
		}
		must(t, 0, os.WriteFile(file, content[:i], 0o600))
		if _, _, err := load(file, "web-1"); err == nil {
			t.Fatalf("loaded the first %d bytes", i)
		}
	}
}

func TestOverridesRunOutWithoutAController(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := must2(New(Config{
			Controller: "x:1", ControllerID: newAuthority(t).holder("controller").Get().ID, Identity: &identity.Holder{},
			Workload: policy.Workload{Instance: "web-1"}, StateDir: "unused",
		}))(t)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		ready := false
		go func() { defer close(done); w.expire(ctx, func() { ready = true }) }()
		s := snapshot("v1", time.Second)
		s.Endpoints["cart"][0].Override = &policy.Override{
			ID: "o", Kind: policy.OverrideEject, Fraction: 0.01, Issued: time.Now(), Expires: time.Now().Add(15 * time.Second),
		}
		w.apply(s, false)
		synctest.Wait()
		if !ready || w.Current().Endpoints["cart"][0].Override == nil {
			t.Fatal("the override is not in force")
		}
		changed := w.Changed()
		time.Sleep(15*time.Second - time.Nanosecond) // virtual
		synctest.Wait()
		if w.Current().Endpoints["cart"][0].Override == nil {
			t.Fatal("the override ended early")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if w.Current().Endpoints["cart"][0].Override != nil {
			t.Fatal("the override outlived its expiry")
		}
		select {
		case <-changed:
		default:
			t.Error("readers were not woken")
		}
		if s.Endpoints["cart"][0].Override == nil {
			t.Error("a published Snapshot was changed in place")
		}
		cancel()
		<-done
	})
}
