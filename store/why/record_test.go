package why_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar"
	"github.com/tulle-mesh/tulle/store/why"
)

var record = flag.Bool("record", false, "record the labelled failures anew, with real sidecars, and write them below testdata")

// called is a service and how it is reached, for one case to change.
type called struct {
	endpoints []policy.Endpoint // in place of the real one; nil: the real one
	more      []policy.Endpoint // beside it
	service   func(*policy.Service)
	listener  func(*policy.Listener)
	rule      func(*route.Action)
	account   string // whose certificate it has; "": its own
	foreign   bool   // its certificate is of another authority
	down      bool   // of db: its application is not there, while its sidecar is
}

// mesh is three workloads with real sidecars: web calls app, and app calls db.
type mesh struct {
	t          *testing.T
	ca, other  *testmesh.CA
	recorders  map[string]*testmesh.Recorder
	app, db    called
	web        func(*policy.Listener)
	timeout    time.Duration // how long web waits; 0: the default
	webKnowsDB bool
	at, toDB   netip.AddrPort // listeners of web and of app for what they call
	client     *http.Client
	over       chan struct{} // closed when what hangs may end
	reached    chan struct{} // something hangs
	others     sync.WaitGroup
}

func newMesh(t *testing.T) *mesh {
	ca, other := testmesh.NewCA(t), testmesh.NewCA(t)
	m := &mesh{
		t: t, ca: ca, other: other, recorders: map[string]*testmesh.Recorder{}, over: make(chan struct{}), reached: make(chan struct{}, 16),
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second},
	}
	return m
}

// Two listeners of one sidecar may not have the same address, and 0 is one.
var anyPort, otherPort = netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("127.0.0.2:0")

// sidecar starts one that serves until the test ends, and returns its addresses.
func (m *mesh) sidecar(service string, holder *identity.Holder, snap *policy.Snapshot) map[string]net.Addr {
	m.t.Helper()
	rec := &testmesh.Recorder{}
	m.recorders[service] = rec
	snap.Revision = "r7-" + service
	snap.Workload = policy.Workload{Service: service, Namespace: "shop", Instance: service + "-1"}
	s, err := sidecar.New(sidecar.Config{Policy: testmesh.NewSource(snap), Identity: holder, Recorder: rec, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	m.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			m.t.Errorf("sidecar of %s: %v", service, err)
		}
	})
	<-ready
	if p := s.Problems(); len(p) > 0 {
		m.t.Fatalf("sidecar of %s: %v", service, p)
	}
	return s.Addresses()
}

// serve starts an application; nil is none.
func (m *mesh) serve(h http.HandlerFunc) netip.AddrPort {
	if h == nil {
		return nobody(m)[0].Address
	}
	s := httptest.NewServer(h)
	m.t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).AddrPort()
}

func (m *mesh) holder(service string, c *called) *identity.Holder {
	ca := m.ca
	if c.foreign {
		ca = m.other
	}
	if c.account != "" {
		service = c.account
	}
	return ca.Holder(service)
}

func inbound(service string, app netip.AddrPort, c *called) policy.Listener {
	l := policy.Listener{Name: "in", Side: flow.SideServer, Protocol: flow.ProtocolHTTP, Address: anyPort, Target: app, Service: service, Mode: policy.ModeStrict}
	if c.listener != nil {
		c.listener(&l)
	}
	return l
}

// outbound adds to snap what a caller knows of a service.
func outbound(snap *policy.Snapshot, service string, at netip.AddrPort, c *called, timeout time.Duration, listens bool) {
	s := policy.Service{
		Name: service, Namespace: "shop", Protocol: flow.ProtocolHTTP, MTLS: true, Identities: []string{testmesh.ID(service).String()},
		RequestTimeout: timeout, Ejection: policy.Ejection{Errors: -1, Failing: -1, Slow: -1},
	}
	if c.service != nil {
		c.service(&s)
	}
	endpoints := c.endpoints
	if endpoints == nil {
		endpoints = append([]policy.Endpoint{{Address: at, Instance: service + "-1", Weight: 100}}, c.more...)
	}
	slices.SortFunc(endpoints, func(a, b policy.Endpoint) int { return a.Address.Compare(b.Address) })
	if snap.Services == nil {
		snap.Services, snap.Endpoints, snap.Routes = map[string]policy.Service{}, map[string][]policy.Endpoint{}, map[string][]route.Rule{}
	}
	snap.Services[service], snap.Endpoints[service] = s, endpoints
	if c.rule != nil {
		a := route.Action{Backends: []route.Backend{{Service: service, Weight: 1}}}
		c.rule(&a)
		snap.Routes[service] = []route.Rule{{Name: "shop/rule", Action: a}}
	}
	if listens {
		snap.Listeners = append(snap.Listeners, policy.Listener{Name: "out:" + service, Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: otherPort, Service: service})
	}
}

// up starts everything; an application that is nil is not there.
func (m *mesh) up(app, db http.HandlerFunc) {
	m.t.Helper()
	withDB := db != nil || m.db.down || m.webKnowsDB
	var dbAt netip.AddrPort
	if withDB {
		at := m.sidecar("db", m.holder("db", &m.db), &policy.Snapshot{Listeners: []policy.Listener{inbound("db", m.serve(db), &m.db)}})
		dbAt = at["in"].(*net.TCPAddr).AddrPort()
	}
	snap := &policy.Snapshot{Listeners: []policy.Listener{inbound("app", m.serve(app), &m.app)}}
	if withDB {
		outbound(snap, "db", dbAt, &m.db, 0, true)
	}
	at := m.sidecar("app", m.holder("app", &m.app), snap)
	if withDB {
		m.toDB = at["out:db"].(*net.TCPAddr).AddrPort()
	}
	snap = &policy.Snapshot{}
	outbound(snap, "app", at["in"].(*net.TCPAddr).AddrPort(), &m.app, m.timeout, true)
	if m.web != nil {
		m.web(&snap.Listeners[0])
	}
	if m.webKnowsDB {
		outbound(snap, "db", dbAt, &m.db, 0, false)
	}
	at = m.sidecar("web", m.holder("web", &called{}), snap)
	m.at = at["out:app"].(*net.TCPAddr).AddrPort()
}

func (m *mesh) do(ctx context.Context, method, path string, fields http.Header, body io.Reader) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+m.at.String()+path, body)
	if err != nil {
		m.t.Error(err)
		return
	}
	req.Host = "app"
	for k, v := range fields {
		req.Header[k] = v
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return // what became of it is what the sidecars say
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
}

// take waits until all has ended and returns the trace of the last request that web sent, as the collector would get it.
func (m *mesh) take() ptrace.Traces {
	m.t.Helper()
	close(m.over)
	m.others.Wait()
	testmesh.Eventually(m.t, "everything has ended", func() bool {
		for _, r := range m.recorders {
			if r.Live() != 0 {
				return false
			}
		}
		return len(m.recorders["web"].Closed(flow.KindExchange)) > 0
	})
	exchanges := m.recorders["web"].Closed(flow.KindExchange)
	slices.SortFunc(exchanges, func(a, b flow.Record) int { return a.Start.Compare(b.Start) })
	of := exchanges[len(exchanges)-1].Trace.TraceID
	td := ptrace.NewTraces()
	for _, service := range []string{"web", "app", "db"} {
		rec := m.recorders[service]
		if rec == nil {
			continue
		}
		var records []flow.Record
		for _, kind := range []flow.Kind{flow.KindExchange, flow.KindAttempt, flow.KindConnection} {
			for _, r := range rec.Closed(kind) {
				if r.Trace.TraceID == of && !r.Folded {
					records = append(records, r)
				}
			}
		}
		if len(records) == 0 {
			continue
		}
		res := flow.Resource{
			Service: service, Namespace: "shop", Instance: service + "-1", BootID: "00000000000000a" + service[:1], Sequence: 1, Clock: time.Now(),
			Identity: testmesh.ID(service).String(),
		}
		req := ptraceotlp.NewExportRequest()
		if err := req.UnmarshalProto(flow.AppendSpans(nil, res, records)); err != nil {
			m.t.Fatal(err)
		}
		req.Traces().ResourceSpans().MoveAndAppendTo(td.ResourceSpans())
	}
	return td
}

func fixture(name string) string { return filepath.Join("testdata", name+".json") }

// TestRecord writes what real sidecars say of each labelled failure; only with -record. It is how the set came about, and how it is brought up to date when Records
// change.
func TestRecord(t *testing.T) {
	if !*record {
		return
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			m := newMesh(t)
			f.play(m)
			b, err := (&ptrace.JSONMarshaler{}).MarshalTraces(m.take())
			if err != nil {
				t.Fatal(err)
			}
			var pretty bytes.Buffer
			if err := json.Indent(&pretty, b, "", " "); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(fixture(f.name), append(pretty.Bytes(), '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func load(t *testing.T, name string) ptrace.Traces {
	t.Helper()
	b, err := os.ReadFile(fixture(name))
	if err != nil {
		t.Fatalf("%v; record it with: go test ./store/why -run TestRecord -record", err)
	}
	td, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(b)
	if err != nil {
		t.Fatal(err)
	}
	return td
}

// The labelled set: of every failure the reason and the hop that is to blame.
func TestLabelledFailures(t *testing.T) {
	if len(failures) < 30 {
		t.Errorf("the set has %d failures; at least 30 are promised", len(failures))
	}
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			e, ok := why.Explain(why.Input{Trace: load(t, f.name)})
			if !ok {
				t.Fatal("nothing is known of it")
			}
			b, _ := json.MarshalIndent(e, "", " ")
			if e.Culprit < 0 {
				t.Fatalf("nobody is to blame:\n%s", b)
			}
			c := e.Hops[e.Culprit]
			if e.Outcome != f.outcome || e.Reason != f.reason || c.From+"→"+c.To != f.hop || e.By != f.by || f.tries > 0 && max(len(c.Tries), 1) != f.tries {
				t.Errorf("%s, %q at %s→%s by %s in %d tries; want %s, %q at %s by %s in %d\n%s", e.Outcome, e.Reason, c.From, c.To, e.By, len(c.Tries), f.outcome, f.reason, f.hop, f.by, f.tries, b)
			}
			if e.Summary == "" || len(e.Next) == 0 || c.Says == "" || c.Revision == "" && c.By != why.ByController {
				t.Errorf("something is not said:\n%s", b)
			}
		})
	}
}
