package watch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tulle-mesh/tulle/controller/xds"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// fleet is a controller's xDS server and one sidecar's Watcher, in virtual time, with a stream in memory between them. Its mesh is the services of state.
type fleet struct {
	t      *testing.T
	holder *identity.Holder
	*Watcher
	stop func() // the Watcher, and waits

	mu       sync.Mutex
	server   *xds.Server
	down     bool
	hang     bool // what the sidecar says does not arrive
	older    bool // the sidecar does not say that it can ask
	cut      []context.CancelFunc
	state    map[string][]netip.AddrPort
	via      map[string][]netip.AddrPort // the own addresses of those that are called by way of an edge
	upstream []string                    // services that the Workload names
	bad      map[string]bool
	sends    map[string]map[string]string // rules: by service and the caller's namespace ("": any), to which service
	heard    []*discoveryv3.DeltaDiscoveryRequest
	servers  sync.WaitGroup
}

type silent struct{}

func (silent) ProxyConnected(xds.Proxy)                    {}
func (silent) ProxyDisconnected(xds.Proxy, string)         {}
func (silent) ProxyNack(xds.Proxy, string, string, string) {}
func (silent) ProxyAcked(xds.Proxy, string, time.Duration) {}
func addr(a byte, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, a}), port)
}

func (f *fleet) ask(a netip.AddrPort) (policy.Destination, error) { return f.askFor(a, time.Second) }

func (f *fleet) askFor(a netip.AddrPort, patience time.Duration) (policy.Destination, error) {
	ctx, cancel := context.WithTimeout(f.t.Context(), patience)
	defer cancel()
	return f.Destination(ctx, "", a)
}

// withFleet runs test beside a Watcher that is connected and has its first Snapshot.
func withFleet(t *testing.T, test func(t *testing.T, f *fleet)) {
	holder := newAuthority(t).holder("web")
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{
			t: t, holder: holder, state: map[string][]netip.AddrPort{"named": {addr(1, 80)}}, upstream: []string{"named"}, bad: map[string]bool{},
		}
		f.restart()
		f.start(t.TempDir())
		synctest.Wait()
		if f.Current() == nil {
			t.Fatal("there is no Snapshot")
		}
		test(t, f)
		f.stop()
		f.servers.Wait()
	})
}

// start runs a Watcher on what is in dir.
func (f *fleet) start(dir string) {
	f.t.Helper()
	f.Watcher = must2(New(Config{
		Controller: "memory", ControllerID: f.holder.Get().ID, Identity: f.holder, Workload: policy.Workload{Instance: "web-1"}, StateDir: dir,
		Log: slog.New(slog.NewTextHandler(f.t.Output(), nil)),
	}))(f.t)
	f.dial = f.open
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, func() {}) }()
	f.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Errorf("Run: %v", err)
		}
	})
}

// restart makes a new controller, which knows nothing of the streams of the one before.
func (f *fleet) restart() {
	f.mu.Lock()
	f.server, f.down = xds.New(silent{}, slog.New(slog.DiscardHandler)), false
	f.mu.Unlock()
	f.publish()
}

// kill ends the controller and all of its streams.
func (f *fleet) kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = true
	for _, cut := range f.cut {
		cut()
	}
	f.cut = nil
}

// publish tells the controller what state is now.
func (f *fleet) publish() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	services, endpoints := map[string]policy.Service{}, map[string][]policy.Endpoint{}
	state := &xds.State{Nodes: map[string]xds.Node{}, Services: map[string][]policy.Resource{}, Destinations: map[string]policy.Resource{}, Published: time.Now()}
	for name, list := range f.state {
		sv := policy.Service{Name: name, Protocol: flow.ProtocolHTTP}
		if own := f.via[name]; own != nil {
			sv.External, sv.MTLS, sv.Via, sv.Addresses, sv.Identities = true, true, "egress", own, []string{"spiffe://test.mesh/ns/a/sa/egress"}
		}
		services[name] = sv.WithDefaults()
		for _, a := range f.via[name] {
			x := must2(policy.Destination{Address: a, Service: name, Known: true, TTL: policy.DefaultDestinationTTL}.ToXDS())(f.t)
			r := must2(policy.NewResource(policy.DestinationName("", a), x))(f.t)
			state.Destinations[r.Name] = r
		}
		for i, a := range list {
			endpoints[name] = append(endpoints[name], policy.Endpoint{Address: a, Instance: fmt.Sprint(name, i)}.WithDefaults())
			x := must2(policy.Destination{Address: a, Service: name, Known: true, TTL: policy.DefaultDestinationTTL}.ToXDS())(f.t)
			r := must2(policy.NewResource(policy.DestinationName("", a), x))(f.t)
			state.Destinations[r.Name] = r
		}
		state.Services[name] = must2(policy.ServiceResources(services[name], endpoints[name]))(f.t)
		if f.bad[name] {
			state.Services[name][0].Version, state.Services[name][0].Body = "bad", &anypb.Any{TypeUrl: policy.TypeService, Value: []byte{0x0a, 0x00}}
		}
	}
	rules := func(to string) []route.Rule {
		return []route.Rule{{Name: "all", Action: route.Action{Backends: []route.Backend{{Service: to, Weight: 1}}}}}
	}
	state.Routes = map[string]map[string]policy.Routed{}
	for name, of := range f.sends {
		state.Routes[name] = map[string]policy.Routed{}
		for namespace, to := range of {
			state.Routes[name][namespace] = must2(policy.NewRouted(name, rules(to), nil))(f.t)
		}
	}
	s := &policy.Snapshot{
		Workload: policy.Workload{Service: "web", Namespace: "shop", Instance: "web-1"}, Services: map[string]policy.Service{}, Endpoints: map[string][]policy.Endpoint{},
	}
	s.Listeners = append(s.Listeners, policy.Listener{
		Name: "intercept:outbound", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: addr(0, 15001), Interception: &policy.Interception{},
	}.WithDefaults())
	for i, name := range f.upstream {
		s.Services[name], s.Endpoints[name] = services[name], endpoints[name]
		s.Listeners = append(s.Listeners, policy.Listener{
			Name: "outbound:" + name, Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: addr(0, uint16(9000+i)), Service: name,
		}.WithDefaults())
	}
	if to := f.sends["named"][""]; to != "" {
		s.Routes = map[string][]route.Rule{"named": rules(to)}
		s.Services[to], s.Endpoints[to] = services[to], endpoints[to]
	}
	resources := must2(policy.Seal(s))(f.t)
	state.Nodes["web-1"] = xds.Node{Identity: f.holder.Get().ID, Workload: s.Workload, Telemetry: s.Telemetry, Revision: s.Revision, Resources: resources, Redirected: true}
	f.server.Publish(state)
}

// end is one end of a stream in memory.
type end[In, Out any] struct {
	grpc.ClientStream
	ctx context.Context
	in  <-chan In
	out chan<- Out
}

func (e *end[In, Out]) Send(m Out) error {
	select {
	case e.out <- m:
		return nil
	case <-e.ctx.Done():
		return io.EOF
	}
}

func (e *end[In, Out]) Recv() (m In, err error) {
	select {
	case m = <-e.in:
		return m, nil
	case <-e.ctx.Done():
		return m, status.Error(codes.Unavailable, "the stream has ended")
	}
}

func (e *end[In, Out]) Context() context.Context { return e.ctx }

type serverEnd struct {
	grpc.ServerStream
	end[*discoveryv3.DeltaDiscoveryRequest, *discoveryv3.DeltaDiscoveryResponse]
}

func (e *serverEnd) Context() context.Context { return e.ctx }

// open is a stream to the controller of now.
func (f *fleet) open(ctx context.Context) (adsStream, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.down {
		return nil, nil, status.Error(codes.Unavailable, "connection refused")
	}
	ctx, cut := context.WithCancel(ctx)
	f.cut = append(f.cut, cut)
	// A stream has windows: whoever says something does not wait for the other to listen.
	said, requests := make(chan *discoveryv3.DeltaDiscoveryRequest, 64), make(chan *discoveryv3.DeltaDiscoveryRequest, 64)
	responses := make(chan *discoveryv3.DeltaDiscoveryResponse, 64)
	f.servers.Go(func() { // the wire
		for {
			select {
			case req := <-said:
				f.mu.Lock()
				f.heard = append(f.heard, req)
				hang := f.hang
				if f.older && req.GetNode() != nil {
					req = proto.Clone(req).(*discoveryv3.DeltaDiscoveryRequest)
					req.Node.ClientFeatures = nil
				}
				f.mu.Unlock()
				if hang {
					continue
				}
				select {
				case requests <- req:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	served := peer.NewContext(ctx, &peer.Peer{AuthInfo: credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{f.holder.Get().Certificate.Leaf}}}})
	server := f.server
	f.servers.Go(func() {
		_ = server.DeltaAggregatedResources(&serverEnd{end: end[*discoveryv3.DeltaDiscoveryRequest, *discoveryv3.DeltaDiscoveryResponse]{ctx: served, in: requests, out: responses}})
		cut()
	})
	return &end[*discoveryv3.DeltaDiscoveryResponse, *discoveryv3.DeltaDiscoveryRequest]{ctx: ctx, in: responses, out: said}, cut, nil
}

// asked counts how often a name of a kind was subscribed to.
func (f *fleet) asked(url, name string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, req := range f.heard {
		if req.GetTypeUrl() == url && slices.Contains(req.GetResourceNamesSubscribe(), name) {
			n++
		}
	}
	return n
}

// services of the Snapshot in force.
func (f *fleet) services() []string { return slices.Sorted(maps.Keys(f.Current().Services)) }

func (f *fleet) expect(what string, want ...string) {
	f.t.Helper()
	synctest.Wait()
	if got := f.services(); !slices.Equal(got, want) {
		f.t.Errorf("%s: the Snapshot has %v, want %v", what, got, want)
	}
}

// Any number of connections ask once; when they have their answer the Snapshot has the service, and all of it, and nothing else.
func TestColdDestinationIsLearntOnce(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		for i := range byte(200) {
			f.state[fmt.Sprint("s", i)] = []netip.AddrPort{addr(i, 8080), addr(i, 8081)}
		}
		f.publish()
		f.expect("2,000 services in the mesh", "named")
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				d, err := f.ask(addr(7, 8081))
				if err != nil || d.Service != "s7" || !d.Known {
					t.Errorf("%+v, %v", d, err)
				}
				if got := f.Current().Endpoints["s7"]; len(got) != 2 {
					t.Errorf("endpoints at the answer: %v", got)
				}
			})
		}
		wg.Wait()
		f.expect("one was asked for", "named", "s7")
		if n := f.asked(policy.TypeDestination, "/10.0.0.7:8081"); n != 1 {
			t.Errorf("the controller was asked %d times", n)
		}
		// The other endpoint's service is there: the answer needs no new Snapshot.
		applied := f.Status().Applied
		if d, err := f.ask(addr(7, 8080)); err != nil || d.Service != "s7" || f.Status().Applied != applied {
			t.Errorf("%+v, %v, %d Snapshots", d, err, f.Status().Applied-applied)
		}
		// What the sidecar follows is what the controller believes it follows.
		synctest.Wait()
		if p := f.server.Proxies()[0]; p.Acked != f.Current().Revision || p.Wanted != p.Acked {
			t.Errorf("acknowledged %s, wanted %s, in force %s", p.Acked, p.Wanted, f.Current().Revision)
		}
		// And it is kept up to date.
		f.state["s7"] = []netip.AddrPort{addr(77, 8080)}
		f.publish()
		synctest.Wait()
		if got := f.Current().Endpoints["s7"]; len(got) != 1 || got[0].Address != addr(77, 8080) {
			t.Errorf("endpoints after a change: %v", got)
		}
	})
}

// What is unknown stays so for 5 s without a question, and becomes known at once when there is an endpoint.
func TestUnknownDestination(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		for i := range 3 {
			if d, err := f.ask(addr(9, 80)); err != nil || d.Known || d.Service != "" {
				t.Errorf("%+v, %v", d, err)
			}
			if n := f.asked(policy.TypeDestination, "/10.0.0.9:80"); n != 1 {
				t.Errorf("asked %d times", n)
			}
			time.Sleep(time.Duration(i) * time.Second)
		}
		time.Sleep(2*time.Second + 1)
		_, _ = f.ask(addr(9, 80))
		if n := f.asked(policy.TypeDestination, "/10.0.0.9:80"); n != 2 {
			t.Errorf("asked %d times after 5 s", n)
		}
		f.state["new"] = []netip.AddrPort{addr(9, 80)}
		f.publish()
		synctest.Wait()
		if d, err := f.ask(addr(9, 80)); err != nil || d.Service != "new" {
			t.Errorf("%+v, %v", d, err)
		}
		f.expect("it is known", "named", "new")
		// Answers that are too old are let go of, and the controller with them.
		_, _ = f.ask(addr(8, 80))
		time.Sleep(sweepInterval + 6*time.Second)
		synctest.Wait()
		f.destinations.mu.Lock()
		defer f.destinations.mu.Unlock()
		if len(f.destinations.known)+len(f.destinations.asking) != 0 {
			t.Errorf("%d answers and %d questions are left", len(f.destinations.known), len(f.destinations.asking))
		}
	})
}

// What has just been answered is not withdrawn because it need not be known any longer, whatever the first word about destinations on a stream was.
func TestAnswersAreNotWithdrawn(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		f.state["cart"] = []netip.AddrPort{addr(2, 80), addr(3, 80)}
		f.publish()
		_, _ = f.ask(addr(9, 80)) // nobody
		f.kill()
		time.Sleep(time.Minute)
		f.restart()
		time.Sleep(2*sweepInterval + time.Second) // the old answer is unsubscribed from, and nothing else was said
		for range 2 {
			if d, err := f.ask(addr(2, 80)); err != nil || d.Service != "cart" {
				t.Errorf("%+v, %v", d, err)
			}
			synctest.Wait()
		}
		f.destinations.mu.Lock()
		defer f.destinations.mu.Unlock()
		if _, ok := f.destinations.known["/10.0.0.2:80"]; ok {
			t.Error("it was withdrawn")
		}
	})
}

// A host that is called by way of an edge is known by its own address, which none of its endpoints has.
func TestDestinationByWayOfAnEdge(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		f.state["bank"], f.via = []netip.AddrPort{addr(7, 15443)}, map[string][]netip.AddrPort{"bank": {addr(200, 443)}}
		f.publish()
		for range 2 { // asked, then found
			begin := time.Now()
			if d, err := f.ask(addr(200, 443)); err != nil || d.Service != "bank" || time.Since(begin) != 0 {
				t.Errorf("%+v, %v after %s", d, err, time.Since(begin))
			}
		}
		f.expect("learnt", "bank", "named")
	})
}

// A service that leaves the mesh leaves the Snapshot, and comes back into it, as long as it is needed.
func TestLearntServiceLeavesTheMesh(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		f.state["cart"] = []netip.AddrPort{addr(2, 80)}
		f.publish()
		if _, err := f.ask(addr(2, 80)); err != nil {
			t.Fatal(err)
		}
		f.expect("learnt", "cart", "named")
		delete(f.state, "cart")
		f.publish()
		f.expect("it has left", "named")
		if d, err := f.ask(addr(2, 80)); err != nil || d.Known {
			t.Errorf("%+v, %v", d, err)
		}
		f.state["cart"] = []netip.AddrPort{addr(3, 80)}
		f.publish()
		f.expect("it is back", "cart", "named")
	})
}

// What is not used for an hour is let go of; what a connection holds is not.
func TestIdleServicesAreDropped(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		for i, name := range []string{"held", "idle", "used"} {
			f.state[name] = []netip.AddrPort{addr(byte(10+i), 80)}
		}
		f.publish()
		for i := range byte(3) {
			if _, err := f.ask(addr(10+i, 80)); err != nil {
				t.Fatal(err)
			}
		}
		release := f.Hold("held")
		f.expect("all three", "held", "idle", "named", "used")
		time.Sleep(IdleService / 2)
		f.Hold("used")()
		time.Sleep(IdleService/2 + sweepInterval)
		f.expect("after an hour", "held", "named", "used")
		time.Sleep(IdleService)
		f.expect("after two", "held", "named")
		release()
		time.Sleep(IdleService - sweepInterval)
		f.expect("just after its last connection", "held", "named")
		time.Sleep(2 * sweepInterval)
		f.expect("in the end", "named")
		if n := f.Needed(); n != 0 {
			t.Errorf("%d services are needed", n)
		}
		// One that the Workload names stays, whoever used it too.
		f.Hold("named")()
		time.Sleep(IdleService + 2*sweepInterval)
		f.expect("a named one", "named")
	})
}

// Beyond the bound the one that is idle for longest makes room; where none is idle, nothing is learnt.
func TestServicesAreBounded(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		f.state["one"], f.state["two"] = []netip.AddrPort{addr(2, 80)}, []netip.AddrPort{addr(3, 80)}
		f.publish()
		for i := range maxServices - 1 {
			_ = f.Hold(fmt.Sprint("held-", i))
		}
		if _, err := f.ask(addr(2, 80)); err != nil {
			t.Fatal(err)
		}
		f.expect("the last that fits", "named", "one")
		if _, err := f.ask(addr(3, 80)); err != nil {
			t.Fatal(err)
		}
		f.expect("one more", "named", "two")
		release := f.Hold("two")
		f.Hold("three")() // for which there is no room
		if _, err := f.ask(addr(2, 80)); !errors.Is(err, policy.ErrTooMany) {
			t.Errorf("beyond the bound: %v", err)
		}
		release()
		if _, err := f.ask(addr(2, 80)); err != nil {
			t.Error(err)
		}
		if n := f.Needed(); n != maxServices {
			t.Errorf("%d services are needed", n)
		}
	})
}

// The controller goes and comes back, without memory: what was learnt stays throughout.
func TestControllerRestarts(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		f.state["cart"], f.state["other"] = []netip.AddrPort{addr(2, 80)}, []netip.AddrPort{addr(3, 80)}
		f.publish()
		_, _ = f.ask(addr(9, 80)) // unknown
		if _, err := f.ask(addr(2, 80)); err != nil {
			t.Fatal(err)
		}
		f.expect("learnt", "cart", "named")
		revision := f.Current().Revision
		f.kill()
		synctest.Wait()
		// Whoever asks before it is known that the controller is away, waits for that, and no longer.
		begin := time.Now()
		if _, err := f.askFor(addr(3, 80), time.Hour); !errors.Is(err, policy.ErrAway) || time.Since(begin) > maxBackoff {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		begin = time.Now()
		if _, err := f.ask(addr(3, 80)); !errors.Is(err, policy.ErrAway) || time.Since(begin) != 0 {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
		time.Sleep(10 * time.Minute)
		if d, err := f.ask(addr(9, 80)); err != nil || d.Known { // old, but better than nothing
			t.Errorf("%+v, %v", d, err)
		}
		_ = f.Hold("cart")
		f.expect("while it is away", "cart", "named")
		f.restart()
		time.Sleep(2 * maxBackoff)
		f.expect("when it is back", "cart", "named")
		if got := f.Current().Revision; got != revision {
			t.Errorf("the revision is %s, was %s", got, revision)
		}
		if d, err := f.ask(addr(3, 80)); err != nil || d.Service != "other" {
			t.Errorf("%+v, %v", d, err)
		}
		f.expect("one more", "cart", "named", "other")
	})
}

// A stream that breaks and is made again at once costs a question no more than that.
func TestQuestionOutlivesItsStream(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		f.state["cart"] = []netip.AddrPort{addr(2, 80)}
		f.publish()
		synctest.Wait()
		f.mu.Lock()
		f.hang = true
		f.mu.Unlock()
		done := make(chan error)
		go func() {
			d, err := f.ask(addr(2, 80))
			if err == nil && d.Service != "cart" {
				err = fmt.Errorf("%+v", d)
			}
			done <- err
		}()
		synctest.Wait()
		f.mu.Lock()
		f.hang = false
		f.mu.Unlock()
		f.kill()
		f.restart()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.expect("learnt", "cart", "named")
	})
}

// A controller that is there and does not answer holds nobody for longer than they want.
func TestSlowController(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		f.state["cart"] = []netip.AddrPort{addr(2, 80)}
		f.publish()
		synctest.Wait()
		f.mu.Lock()
		f.hang = true
		f.mu.Unlock()
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				patience := time.Duration(i+1) * 100 * time.Millisecond
				if _, err := f.askFor(addr(2, 80), patience); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != patience {
					t.Errorf("%v after %s", err, time.Since(begin))
				}
			})
		}
		wg.Wait()
		f.destinations.mu.Lock()
		defer f.destinations.mu.Unlock()
		if len(f.destinations.asking) != 0 {
			t.Errorf("%d questions are left", len(f.destinations.asking))
		}
	})
}

// A service that this sidecar cannot read is not learnt, and does not keep the rest of its policy from it.
func TestRefusedServiceHoldsNothingUp(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		f.state["cart"], f.state["other"] = []netip.AddrPort{addr(2, 80)}, []netip.AddrPort{addr(3, 80)}
		f.bad["cart"] = true
		f.publish()
		if _, err := f.ask(addr(2, 80)); !errors.Is(err, policy.ErrRefused) {
			t.Errorf("%v", err)
		}
		synctest.Wait() // who asked may be told before the refusal is counted
		if f.Status().Nacks == 0 {
			t.Error("the controller was not told")
		}
		if d, err := f.ask(addr(3, 80)); err != nil || d.Service != "other" {
			t.Errorf("%+v, %v", d, err)
		}
		f.expect("the other one", "named", "other")
		f.state["named"] = append(f.state["named"], addr(4, 80))
		f.publish()
		synctest.Wait()
		if n := len(f.Current().Endpoints["named"]); n != 2 {
			t.Errorf("named has %d endpoints", n)
		}
		delete(f.bad, "cart")
		f.publish()
		if d, err := f.ask(addr(2, 80)); err != nil || d.Service != "cart" {
			t.Errorf("mended: %+v, %v", d, err)
		}
		f.expect("all", "cart", "named", "other")
		if got := f.Status(); got.LastError != "" {
			t.Errorf("status says %q", got.LastError)
		}
	})
}

// What was learnt is on disk: a sidecar that starts while the controller is away has it, names it when the controller is back, and lets go of it when it is idle.
func TestLearntServicesAreOnDisk(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		f.state["cart"], f.state["other"] = []netip.AddrPort{addr(2, 80)}, []netip.AddrPort{addr(3, 80)}
		f.publish()
		if _, err := f.ask(addr(2, 80)); err != nil {
			t.Fatal(err)
		}
		dir := f.cfg.StateDir
		f.stop()
		f.kill()
		f.start(dir)
		f.expect("from disk", "cart", "named")
		if _, err := f.ask(addr(3, 80)); !errors.Is(err, policy.ErrAway) {
			t.Errorf("a cold one: %v", err)
		}
		f.restart()
		time.Sleep(2 * maxBackoff)
		f.expect("confirmed", "cart", "named")
		if f.Status().FromDisk {
			t.Error("the Snapshot was not confirmed")
		}
		time.Sleep(IdleService + 2*sweepInterval)
		f.expect("idle", "named")
		f.stop()
		f.start(dir)
		f.expect("from disk again", "named")
	})
}

// A sidecar that does not know how to ask is told of everything, as before there was anything to ask for.
func TestOlderSidecarIsToldOfAll(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		f.state["cart"], f.state["other"] = []netip.AddrPort{addr(2, 80)}, []netip.AddrPort{addr(3, 80)}
		f.kill()
		f.mu.Lock()
		f.older = true
		f.mu.Unlock()
		f.restart()
		time.Sleep(2 * maxBackoff)
		f.expect("all of the mesh", "cart", "named", "other")
		f.state["new"] = []netip.AddrPort{addr(4, 80)}
		f.publish()
		f.expect("one more", "cart", "named", "new", "other")
		if p := f.server.Proxies()[0]; p.Wanted != f.Current().Revision || p.Acked != p.Wanted {
			t.Errorf("in force is %s; the controller says %+v", f.Current().Revision, p)
		}
	})
}

// A service that is learnt brings its rules, those for this sidecar's namespace, and what they send to, and so on; all of it comes and goes together.
func TestRulesAreLearntWithTheirService(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		sends := func() string {
			var out []string
			for _, name := range slices.Sorted(maps.Keys(f.Current().Routes)) {
				out = append(out, name+">"+f.Current().Routes[name][0].Action.Backends[0].Service)
			}
			return strings.Join(out, " ")
		}
		for i, name := range []string{"cart", "cart-2", "prices", "other"} {
			f.state[name] = []netip.AddrPort{addr(byte(2+i), 80)}
		}
		f.sends = map[string]map[string]string{"cart": {"": "other", "shop": "cart-2"}, "cart-2": {"": "prices", "lab": "other"}, "prices": {"": "cart"}}
		f.publish()
		f.expect("nothing is asked for", "named")
		if _, err := f.ask(addr(2, 80)); err != nil {
			t.Fatal(err)
		}
		f.expect("cart is asked for", "cart", "cart-2", "named", "prices")
		if got := sends(); got != "cart>cart-2 cart-2>prices prices>cart" {
			t.Errorf("rules are %s", got)
		}
		f.sends["cart"]["shop"] = "other"
		f.publish()
		f.expect("its rules have changed", "cart", "named", "other")
		if got := sends(); got != "cart>other" {
			t.Errorf("rules are %s", got)
		}
		f.sends["named"] = map[string]string{"": "prices"}
		f.publish()
		f.expect("rules of a service that the Workload names", "cart", "named", "other", "prices")
		if p := f.server.Proxies()[0]; p.Wanted != f.Current().Revision || p.Acked != p.Wanted {
			t.Errorf("in force is %s; the controller says %+v", f.Current().Revision, p)
		}
		time.Sleep(IdleService + 2*sweepInterval)
		f.expect("cart is idle", "named", "prices")
		if got := sends(); got != "named>prices" {
			t.Errorf("rules are %s", got)
		}
	})
}

// A sidecar from before there were rules is told of none, and is in force all the same.
func TestOlderSidecarIsToldOfNoRules(t *testing.T) {
	withFleet(t, func(t *testing.T, f *fleet) {
		f.state["prices"] = []netip.AddrPort{addr(2, 80)}
		f.sends = map[string]map[string]string{"named": {"": "prices"}}
		f.kill()
		f.mu.Lock()
		f.older = true
		f.mu.Unlock()
		f.restart()
		time.Sleep(2 * maxBackoff)
		f.expect("all of the mesh", "named", "prices")
		if p := f.server.Proxies()[0]; len(f.Current().Routes) != 0 || p.Wanted != f.Current().Revision || p.Acked != p.Wanted {
			t.Errorf("in force is %s with %v; the controller says %+v", f.Current().Revision, f.Current().Routes, p)
		}
	})
}

// Random questions, connections, changes of the mesh and losses of the controller: whatever came of them, in the end the Snapshot has what is needed and exists,
// as the controller has it, and nothing else.
func TestRandomDemand(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { withFleet(t, func(t *testing.T, f *fleet) { randomDemand(t, f, seed) }) })
	}
}

func randomDemand(t *testing.T, f *fleet, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 20))
	const services = 12
	name := func(i int) string { return fmt.Sprint("s", i) }
	change := func() {
		i := rng.IntN(services)
		if rng.IntN(3) == 0 {
			delete(f.state, name(i))
			return
		}
		f.state[name(i)] = nil
		for j := range 1 + rng.IntN(3) {
			f.state[name(i)] = append(f.state[name(i)], addr(byte(20+i), uint16(1000+j)))
		}
	}
	for range services {
		change()
	}
	f.publish()
	var wg sync.WaitGroup
	for range 200 {
		switch rng.IntN(10) {
		case 0:
			change()
			f.publish()
		case 1:
			f.kill()
			if rng.IntN(2) == 0 {
				time.Sleep(time.Duration(rng.IntN(3000)) * time.Millisecond)
			}
			f.restart()
		case 2:
			time.Sleep(time.Duration(rng.IntN(2000)) * time.Millisecond)
		default:
			a, hold, patience := addr(byte(20+rng.IntN(services)), uint16(1000+rng.IntN(3))), time.Duration(rng.IntN(5000))*time.Millisecond, time.Duration(1+rng.IntN(1000))*time.Millisecond
			wg.Go(func() {
				d, err := f.askFor(a, patience)
				if err != nil || d.Service == "" {
					return
				}
				release := f.Hold(d.Service)
				time.Sleep(hold)
				release()
			})
		}
	}
	wg.Wait()
	time.Sleep(2 * maxBackoff)
	synctest.Wait()
	f.destinations.mu.Lock()
	want := map[string]bool{"named": true}
	for service := range f.destinations.services {
		if f.state[service] != nil {
			want[service] = true
		}
	}
	questions := len(f.destinations.asking)
	f.destinations.mu.Unlock()
	if questions != 0 {
		t.Errorf("%d questions are left", questions)
	}
	if got := f.services(); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		t.Errorf("the Snapshot has %v, needed and there are %v", got, slices.Sorted(maps.Keys(want)))
	}
	for service := range want {
		var got []netip.AddrPort
		for _, e := range f.Current().Endpoints[service] {
			got = append(got, e.Address)
		}
		if !slices.Equal(got, f.state[service]) {
			t.Errorf("%s has %v, want %v", service, got, f.state[service])
		}
	}
	if p := f.server.Proxies()[0]; p.Wanted != f.Current().Revision || p.Acked != p.Wanted || p.LastNack != "" {
		t.Errorf("in force is %s; the controller says %+v", f.Current().Revision, p)
	}
	if s := f.Status(); s.Nacks != 0 {
		t.Errorf("%d refusals; the last error is %q", s.Nacks, s.LastError)
	}
	// A service that is needed no longer is in nobody's way.
	time.Sleep(IdleService + 2*sweepInterval)
	f.expect("in the end", "named")
}
