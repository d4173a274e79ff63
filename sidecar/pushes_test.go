package sidecar

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// shaken is s with everything changed that may change while its listeners keep their addresses: what they speak, to whom, how long, how much; services,
// endpoints, identities, limits, telemetry. Often enough nothing that is new could be carried.
func shaken(r *rand.Rand, s *policy.Snapshot, n int) *policy.Snapshot {
	out := *s
	out.Revision = fmt.Sprint(s.Revision, ".", n)
	coin := func() bool { return r.IntN(2) == 0 }
	some := func(list ...time.Duration) time.Duration { return list[r.IntN(len(list))] }
	protocols := []flow.Protocol{flow.ProtocolHTTP, flow.ProtocolHTTP1, flow.ProtocolHTTP2, flow.ProtocolGRPC, flow.ProtocolTCP}
	out.Workload.Version = fmt.Sprint("v", n)
	out.Workload.Limits = policy.SidecarLimits{Connections: 1 + r.IntN(4), ConnectionsPerSource: 1, BufferBytes: 1<<20 + r.Int64N(1<<20)}
	out.Telemetry = policy.Telemetry{Headers: []string{fmt.Sprint("x-", n)}, Emit: []string{policy.PropagateW3C, policy.PropagateB3}}
	out.Services = map[string]policy.Service{}
	out.Endpoints = map[string][]policy.Endpoint{}
	nowhere := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 1)
	for name, sv := range s.Services {
		if r.IntN(4) == 0 {
			continue // gone
		}
		sv.Protocol = protocols[r.IntN(len(protocols))]
		sv.MTLS = coin()
		sv.Identities = []string{testmesh.ID(fmt.Sprint("other", n)).String()}
		sv.RequestTimeout, sv.TryTimeout, sv.ConnectTimeout = some(time.Millisecond, time.Hour), some(0, time.Millisecond), some(time.Millisecond, time.Second)
		sv.IdleTimeout = some(time.Hour, -1)
		sv.Retry.Attempts, sv.MaxRequests, sv.MaxConnections = 1+r.IntN(3), 1, 1
		out.Services[name] = sv
		if coin() {
			out.Endpoints[name] = []policy.Endpoint{{Address: nowhere, Weight: 1 + r.Uint32N(128), Override: &policy.Override{
				ID: "o", Kind: policy.OverrideEject, Fraction: 0.01, Reason: "test", Issued: time.Now(), Expires: time.Now().Add(time.Hour),
			}}}
		}
	}
	out.Listeners = nil
	for i, l := range s.Listeners {
		l.Name = fmt.Sprint("listener-", n, "-", i)
		l.Protocol = protocols[r.IntN(len(protocols))]
		l.Limits = policy.Limits{
			HeadBytes: 1024 << r.IntN(5), HeadFields: 8 + r.IntN(100), RequestLine: 64 + r.IntN(900), HeadTimeout: some(10*time.Millisecond, time.Second),
			BodyTimeout: some(10*time.Millisecond, -1), IdleTimeout: some(10*time.Millisecond, time.Hour),
			HTTP2: policy.HTTP2{Streams: 1 + r.IntN(3), StreamWindow: 1024, ConnectionWindow: 65535, Resets: 1, ControlFrames: 1, EmptyFrames: 1, WindowUpdates: 1, Continuations: 1},
		}
		if l.Side == flow.SideServer {
			l.Mode = []policy.ListenerMode{policy.ModeStrict, policy.ModePermissive}[r.IntN(2)]
			l.Target = nowhere
			l.RequestTimeout, l.IdleTimeout = some(time.Millisecond, -1), some(time.Hour, -1)
		}
		out.Listeners = append(out.Listeners, l)
	}
	return &out
}

// TestPushesCutNothing: a WebSocket, a gRPC stream, a TCP connection and a slow download go on through two sidecars while hundreds of pushes change all
// there is about listeners, services, endpoints and limits; when the listeners are removed, they drain.
func TestPushesCutNothing(t *testing.T) {
	const pushes = 300
	ca := testmesh.NewCA(t)
	release := make(chan struct{})
	end := sync.OnceFunc(func() { close(release) })
	pages := app(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/download" {
			for { // a line at a time, for ever
				if _, err := io.WriteString(w, "line\n"); err != nil {
					return
				}
				w.(http.Flusher).Flush()
				select {
				case <-time.After(2 * time.Millisecond):
				case <-r.Context().Done():
					return
				case <-release:
					return
				}
			}
		}
		c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		for {
			kind, b, err := c.ReadMessage()
			if err != nil || c.WriteMessage(kind, b) != nil {
				return
			}
		}
	})
	status := health.NewServer()
	rpc := grpc.NewServer()
	healthpb.RegisterHealthServer(rpc, status)
	gl, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var background sync.WaitGroup
	background.Go(func() { _ = rpc.Serve(gl) })
	background.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-time.After(2 * time.Millisecond):
				status.SetServingStatus("beat", healthpb.HealthCheckResponse_ServingStatus(1+n%2))
			case <-release:
				return
			}
		}
	})
	defer background.Wait()
	defer rpc.Stop()
	defer end()
	echoes := scripted(t, func(c net.Conn, r *bufio.Reader) { _, _ = io.Copy(c, r) })

	// One sidecar in front of all three, one of their caller; each listener has an address that stays.
	back := serverSnapshot("catalog", pages, policy.ModeStrict, flow.ProtocolHTTP)
	back.Listeners[0].Address = refused(t)
	for name, l := range map[string]policy.Listener{
		"rpc": {Protocol: flow.ProtocolGRPC, Target: gl.Addr().(*net.TCPAddr).AddrPort()}, "relay": {Protocol: flow.ProtocolTCP, Target: echoes},
	} {
		l.Name, l.Side, l.Service, l.Mode, l.Address = name, flow.SideServer, "catalog", policy.ModeStrict, refused(t)
		back.Listeners = append(back.Listeners, l)
	}
	server := start(t, back, ca.Holder("catalog"), 2*time.Second)
	front := &policy.Snapshot{
		Revision: "c1", Workload: policy.Workload{Service: "web", Namespace: "shop", Instance: "web-1"},
		Services: map[string]policy.Service{}, Endpoints: map[string][]policy.Endpoint{},
	}
	at := map[string]string{}
	for _, l := range back.Listeners {
		sv := mesh("catalog")
		sv.Name, sv.Protocol, sv.RequestTimeout = l.Name, l.Protocol, -1
		front.Services[l.Name] = sv
		front.Endpoints[l.Name] = []policy.Endpoint{{Address: l.Address, Weight: 100}}
		out := policy.Listener{Name: "out-" + l.Name, Side: flow.SideClient, Protocol: l.Protocol, Address: refused(t), Service: l.Name}
		front.Listeners = append(front.Listeners, out)
		at[l.Name] = out.Address.String()
	}
	web := start(t, front, ca.Holder("web"), 2*time.Second)

	// Each stream moves as fast as it can, until it fails.
	type stream struct {
		moved atomic.Int64
		err   error // once its goroutine has ended
	}
	streams := map[string]*stream{}
	var moving sync.WaitGroup
	move := func(name string, step func() error) {
		s := &stream{}
		streams[name] = s
		moving.Go(func() {
			for s.err == nil {
				if s.err = step(); s.err == nil {
					s.moved.Add(1)
				}
			}
		})
	}
	socket, _, err := websocket.DefaultDialer.Dial("ws://"+at["inbound"]+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	move("WebSocket", func() error {
		if err := socket.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
			return err
		}
		_, _, err := socket.ReadMessage()
		return err
	})
	conn, err := grpc.NewClient("passthrough:///"+at["rpc"], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watched, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{Service: "beat"})
	if err != nil {
		t.Fatal(err)
	}
	move("gRPC", func() error {
		_, err := watched.Recv()
		return err
	})
	relay, err := net.Dial("tcp", at["relay"])
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	buf := make([]byte, 1024)
	move("TCP", func() error {
		if _, err := relay.Write(buf); err != nil {
			return err
		}
		_, err := io.ReadFull(relay, buf)
		return err
	})
	res, err := client(t).Get("http://" + at["inbound"] + "/download")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	move("download", func() error {
		_, err := lines.ReadString('\n')
		return err
	})

	for name, s := range streams { // policy judges what begins: all of them have
		testmesh.Eventually(t, name+" begins", func() bool { return s.moved.Load() > 0 })
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for n := range pushes {
		before := map[string]int64{}
		for name, s := range streams {
			before[name] = s.moved.Load()
		}
		for _, p := range []struct {
			*running
			snap *policy.Snapshot
		}{{web, shaken(r, front, n)}, {server, shaken(r, back, n)}} {
			p.source.Set(p.snap)
			testmesh.Eventually(t, "the push is applied", func() bool { return p.Snapshot() == p.snap })
		}
		if n%10 == 9 {
			for name, s := range streams {
				testmesh.Eventually(t, fmt.Sprintf("%s goes on after push %d of seed %d", name, n, seed), func() bool { return s.moved.Load() > before[name] })
			}
		}
	}

	// Without their listeners they end when the time of a drain is over, and not before.
	gone := *front
	gone.Revision, gone.Listeners = "c2", nil
	before := map[string]int64{}
	for name, s := range streams {
		before[name] = s.moved.Load()
	}
	web.source.Set(&gone)
	testmesh.Eventually(t, "the last push is applied", func() bool { return web.Snapshot() == &gone })
	for name, s := range streams {
		testmesh.Eventually(t, name+" goes on while it drains", func() bool { return s.moved.Load() > before[name]+1 })
	}
	moving.Wait()
	for name, s := range streams {
		if s.err == nil {
			t.Errorf("%s has not ended", name)
		}
	}
}
