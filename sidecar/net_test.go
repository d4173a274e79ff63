//go:build linux && testnet

package sidecar

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/intercept"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/internal/testmesh/netns"
)

// sidecarUID is whose traffic is not taken.
const sidecarUID = 1337

// printer writes a line for each Record that closes.
type printer struct{ testmesh.Recorder }

func (*printer) Record(r *flow.Record) {
	if r.Phase == flow.PhaseClose {
		fmt.Printf("record %s %s service=%s route=%s endpoint=%s to=%s status=%d reason=%s\n",
			r.Kind, r.Protocol, r.Destination.Service, r.Route, r.Endpoint, r.Destination.Addr, r.Status, r.Reason)
	}
}

// TestSidecarProcess is the sidecar that startSidecar starts.
func TestSidecarProcess(t *testing.T) {
	text := os.Getenv("TULLE_TEST_SNAPSHOT")
	if text == "" {
		return // it is a part of others
	}
	var snap policy.Snapshot
	if err := json.Unmarshal([]byte(text), &snap); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Policy: testmesh.NewSource(&snap), Identity: &identity.Holder{}, Recorder: &printer{}, Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	_ = s.Run(context.Background(), func() { fmt.Println("ready", s.Problems()) })
}

// process is a sidecar in a namespace and what it has written down.
type process struct {
	mu      sync.Mutex
	records []string
}

func startSidecar(t testing.TB, n *netns.NS, snap *policy.Snapshot) *process {
	t.Helper()
	if err := snap.Check(); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(snap)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestSidecarProcess$")
	cmd.Env, cmd.Dir, cmd.Stderr = append(os.Environ(), "TULLE_TEST_SNAPSHOT="+string(text)), "/", os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: sidecarUID, Gid: sidecarUID}}
	for _, l := range snap.Listeners {
		if l.Interception != nil && l.Interception.Transparent {
			cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN}
		}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready []" {
		t.Fatalf("the sidecar is not ready: %q", lines.Text())
	}
	p, ended := &process{}, make(chan struct{})
	go func() {
		defer close(ended)
		for lines.Scan() {
			if r, ok := strings.CutPrefix(lines.Text(), "record "); ok {
				p.mu.Lock()
				p.records = append(p.records, r)
				p.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		_ = cmd.Wait()
	})
	return p
}

// expect waits for a Record.
func (p *process) expect(t *testing.T, record string) {
	t.Helper()
	all := func() string {
		p.mu.Lock()
		defer p.mu.Unlock()
		return strings.Join(p.records, "\n")
	}
	testmesh.Eventually(t, "Record "+record, func() bool { return slices.Contains(strings.Split(all(), "\n"), record) }, all)
}

// smtp takes one letter.
func smtp(c net.Conn, in *bufio.Reader) {
	fmt.Fprint(c, "220 mail ready\r\n")
	for {
		s, err := in.ReadString('\n')
		switch s = strings.TrimRight(s, "\r\n"); {
		case err != nil:
			return
		case s == "DATA":
			fmt.Fprint(c, "354 go on\r\n")
			for s != ".\r\n" && err == nil {
				s, err = in.ReadString('\n')
			}
			fmt.Fprint(c, "250 taken\r\n")
		case s == "QUIT":
			fmt.Fprint(c, "221 bye\r\n")
			return
		default:
			fmt.Fprint(c, "250 mail\r\n")
		}
	}
}

// postgres answers every query with one row (https://www.postgresql.org/docs/current/protocol-message-formats.html).
func postgres(c net.Conn, in *bufio.Reader) {
	message := func(kind byte, body ...byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(4+len(body))), body...)
	}
	read := func() []byte {
		head := make([]byte, 4)
		if _, err := io.ReadFull(in, head); err != nil {
			return nil
		}
		body := make([]byte, min(binary.BigEndian.Uint32(head), 1<<16)-4)
		if _, err := io.ReadFull(in, body); err != nil {
			return nil
		}
		return body
	}
	for {
		body := read()
		if body == nil {
			return
		}
		if code := binary.BigEndian.Uint32(body); code == 80877103 || code == 80877104 { // SSLRequest, GSSENCRequest
			_, _ = c.Write([]byte("N"))
			continue
		}
		break
	}
	ready := message('Z', 'I')
	hello := slices.Concat(message('R', 0, 0, 0, 0), message('S', []byte("server_version\x0015.0\x00")...), message('S', []byte("client_encoding\x00UTF8\x00")...), ready)
	_, _ = c.Write(hello)
	for {
		kind, err := in.ReadByte()
		if err != nil || kind == 'X' || read() == nil {
			return
		}
		column := slices.Concat([]byte{0, 1}, []byte("v\x00"), []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 255, 255, 255, 255, 255, 255, 0, 0})
		row := slices.Concat([]byte{0, 1, 0, 0, 0, 5}, []byte("tulle"))
		_, _ = c.Write(slices.Concat(message('T', column...), message('D', row...), message('C', []byte("SELECT 1\x00")...), ready))
	}
}

// TestRealClients: what is redirected by real rules arrives where it should, whatever is spoken, and is written down.
func TestRealClients(t *testing.T) {
	for _, backend := range []intercept.Backend{intercept.NFTables, intercept.IPTables} {
		t.Run(string(backend), func(t *testing.T) {
			app, peer := netns.New(t, "app"), netns.New(t, "peer")
			netns.Pair(app, peer, []netip.Prefix{netip.MustParsePrefix("10.72.0.1/24"), netip.MustParsePrefix("fd72::1/64")},
				[]netip.Prefix{netip.MustParsePrefix("10.72.0.2/24"), netip.MustParsePrefix("fd72::2/64")})
			hosts := []netip.Addr{netip.MustParseAddr("10.72.0.2"), netip.MustParseAddr("fd72::2")}

			web := &http.Server{ReadHeaderTimeout: time.Minute, Protocols: &http.Protocols{}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if websocket.IsWebSocketUpgrade(r) {
					up := websocket.Upgrader{}
					c, err := up.Upgrade(w, r, nil)
					if err != nil {
						return
					}
					defer c.Close()
					if kind, b, err := c.ReadMessage(); err == nil {
						_ = c.WriteMessage(kind, bytes.ToUpper(b))
					}
					return
				}
				fmt.Fprintf(w, "%s %s", r.Proto, r.Host)
			})}
			web.Protocols.SetHTTP1(true)
			web.Protocols.SetUnencryptedHTTP2(true)
			rpc := grpc.NewServer()
			healthpb.RegisterHealthServer(rpc, health.NewServer())
			httpAt, grpcAt := peer.Listen(":80"), peer.Listen(":50051")
			go func() { _ = web.Serve(httpAt) }()
			go func() { _ = rpc.Serve(grpcAt) }()
			t.Cleanup(func() {
				_ = web.Close()
				rpc.Stop()
			})
			scriptedAt(t, peer.Listen(":25"), smtp)
			scriptedAt(t, peer.Listen(":5432"), postgres)
			scriptedAt(t, peer.Listen(":7"), func(c net.Conn, in *bufio.Reader) { _, _ = io.Copy(c, in) })

			snap := &policy.Snapshot{
				Revision: "n1", Workload: policy.Workload{Service: "web", Namespace: "shop", Instance: "web-1"},
				Listeners: []policy.Listener{{
					Name: "intercept:outbound", Side: flow.SideClient, Protocol: flow.ProtocolHTTP,
					Address: netip.MustParseAddrPort("[::]:15001"), Interception: &policy.Interception{DetectTimeout: 300 * time.Millisecond},
				}},
				Services: map[string]policy.Service{}, Endpoints: map[string][]policy.Endpoint{},
			}
			for name, s := range map[string]struct {
				protocol flow.Protocol
				port     uint16
			}{
				"shop": {flow.ProtocolHTTP, 80}, "rpc": {flow.ProtocolGRPC, 50051}, "mail": {flow.ProtocolHTTP, 25}, "db": {flow.ProtocolTCP, 5432},
			} {
				for _, h := range hosts { // a service for each address, so that Records tell which was meant
					name := name + map[bool]string{true: "4", false: "6"}[h.Is4()]
					snap.Services[name] = policy.Service{Name: name, Protocol: s.protocol, External: true}
					snap.Endpoints[name] = []policy.Endpoint{{Address: netip.AddrPortFrom(h, s.port), Weight: 100}}
				}
			}
			sidecar := startSidecar(t, app, snap)
			if _, err := intercept.Install(intercept.Config{Netns: app.Path(), Backend: backend, OutboundPort: 15001, SidecarUID: sidecarUID}); err != nil {
				t.Fatal(err)
			}
			dial := func(_ context.Context, _, address string) (c net.Conn, err error) {
				return c, app.Try(func() error {
					c, err = net.DialTimeout("tcp", address, 5*time.Second)
					return err
				})
			}
			letter := filepath.Join(t.TempDir(), "letter")
			if err := os.WriteFile(letter, []byte("Subject: x\r\n\r\nhello\r\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, h := range hosts {
				at := func(port uint16) string { return netip.AddrPortFrom(h, port).String() }
				v := map[bool]string{true: "4", false: "6"}[h.Is4()]
				run := func(name string, args ...string) string {
					out, err := app.Run(0, name, args...)
					if err != nil {
						t.Errorf("%s %v: %v\n%s", name, args, err, out)
					}
					return out
				}
				if got, want := run("curl", "-sS", "-m", "10", "-H", "Host: shop.example", "http://"+at(80)+"/"), "HTTP/1.1 shop.example"; got != want {
					t.Errorf("curl: %q, want %q", got, want)
				}
				sidecar.expect(t, fmt.Sprintf("exchange http/1.1 service=shop%s route= endpoint=%s to=%[2]s status=200 reason=", v, at(80)))
				if got, want := run("curl", "-sS", "-m", "10", "--http2-prior-knowledge", "-H", "Host: shop.example", "http://"+at(80)+"/"), "HTTP/2.0 shop.example"; got != want {
					t.Errorf("curl over HTTP/2: %q, want %q", got, want)
				}
				sidecar.expect(t, fmt.Sprintf("exchange h2 service=shop%s route= endpoint=%s to=%[2]s status=200 reason=", v, at(80)))

				client, err := grpc.NewClient("passthrough:///"+at(50051), grpc.WithTransportCredentials(insecure.NewCredentials()),
					grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return dial(ctx, "tcp", a) }))
				if err != nil {
					t.Fatal(err)
				}
				if resp, err := healthpb.NewHealthClient(client).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || resp.Status != healthpb.HealthCheckResponse_SERVING {
					t.Errorf("gRPC: %v, %v", resp, err)
				}
				_ = client.Close()
				sidecar.expect(t, fmt.Sprintf("exchange grpc service=rpc%s route= endpoint=%s to=%[2]s status=200 reason=", v, at(50051)))

				ws, _, err := (&websocket.Dialer{NetDialContext: dial}).DialContext(t.Context(), "ws://"+at(80)+"/", nil)
				if err != nil {
					t.Fatal(err)
				}
				_ = ws.WriteMessage(websocket.TextMessage, []byte("weave"))
				if _, b, err := ws.ReadMessage(); string(b) != "WEAVE" {
					t.Errorf("WebSocket: %q, %v", b, err)
				}
				_ = ws.Close()
				sidecar.expect(t, fmt.Sprintf("exchange http/1.1 service=shop%s route= endpoint=%s to=%[2]s status=101 reason=", v, at(80)))

				var took [3]time.Duration // the server speaks first: only the first connection waits
				for i := range took {
					begin := time.Now()
					run("curl", "-sS", "-m", "10", "smtp://"+at(25), "--mail-from", "a@example.org", "--mail-rcpt", "b@example.org", "-T", letter)
					took[i] = time.Since(begin)
				}
				if took[0] < 300*time.Millisecond || took[1] >= 300*time.Millisecond || took[2] >= 300*time.Millisecond {
					t.Errorf("SMTP took %v; only the first is to wait for 300ms", took)
				}
				sidecar.expect(t, fmt.Sprintf("connection tcp service=mail%s route= endpoint=%s to=%[2]s status=0 reason=", v, at(25)))

				if got := run("psql", "-X", "-A", "-t", "-c", "select", fmt.Sprintf("host=%s port=5432 user=u dbname=d connect_timeout=10", h)); got != "tulle\n" {
					t.Errorf("psql: %q", got)
				}
				sidecar.expect(t, fmt.Sprintf("connection tcp service=db%s route= endpoint=%s to=%[2]s status=0 reason=", v, at(5432)))

				echo, err := dial(t.Context(), "tcp", at(7))
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprint(echo, "beyond the mesh")
				_ = echo.(*net.TCPConn).CloseWrite()
				if b, err := io.ReadAll(echo); string(b) != "beyond the mesh" {
					t.Errorf("passed through: %q, %v", b, err)
				}
				_ = echo.Close()
				sidecar.expect(t, fmt.Sprintf("connection tcp service= route=passthrough endpoint=%s to=%[1]s status=0 reason=", at(7)))

				// From elsewhere nobody gets through the sidecar's port.
				peer.Do(func() error {
					own := netip.MustParseAddrPort("10.72.0.1:15001")
					if h.Is6() {
						own = netip.MustParseAddrPort("[fd72::1]:15001")
					}
					if c, err := net.DialTimeout("tcp", own.String(), 5*time.Second); err == nil { // else the reset came first
						defer c.Close()
						if n, err := c.Read(make([]byte, 1)); err == nil {
							t.Errorf("the sidecar's own port answered %d bytes", n)
						}
					} else if !errors.Is(err, syscall.ECONNRESET) {
						return err
					}
					sidecar.expect(t, fmt.Sprintf("connection tcp service= route= endpoint=invalid AddrPort to=%s status=0 reason=unknown_destination", own))
					return nil
				})
			}
		})
	}
}

// TestRealInbound: what comes in is served by the port that was meant, and the sidecar knows who called.
func TestRealInbound(t *testing.T) {
	for _, backend := range []intercept.Backend{intercept.NFTables, intercept.IPTables} {
		for _, mode := range []intercept.Mode{intercept.Redirect, intercept.TPROXY} {
			t.Run(fmt.Sprintf("%s, %s", backend, mode), func(t *testing.T) {
				app, peer := netns.New(t, "app"), netns.New(t, "peer")
				netns.Pair(app, peer, []netip.Prefix{netip.MustParsePrefix("10.72.0.1/24"), netip.MustParsePrefix("fd72::1/64")},
					[]netip.Prefix{netip.MustParsePrefix("10.72.0.2/24"), netip.MustParsePrefix("fd72::2/64")})
				web := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.Host) })}
				at := app.Listen(":80")
				go func() { _ = web.Serve(at) }()
				t.Cleanup(func() { _ = web.Close() })
				scriptedAt(t, app.Listen(":5432"), postgres)
				scriptedAt(t, app.Listen(":25"), smtp)
				port := func(n uint16, protocol flow.Protocol) policy.Listener {
					a := netip.AddrPortFrom(netip.MustParseAddr("10.72.0.1"), n) // the application's own; the sidecar's call to it is not taken
					return policy.Listener{
						Name: fmt.Sprintf("inbound:%d", n), Side: flow.SideServer, Protocol: protocol, Service: "shop", Address: a, Target: a, Mode: policy.ModePermissive, Unbound: true,
					}
				}
				sidecar := startSidecar(t, app, &policy.Snapshot{
					Revision: "n1", Workload: policy.Workload{Service: "shop", Namespace: "shop", Instance: "shop-1"},
					Listeners: []policy.Listener{
						{
							Name: "intercept:inbound", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Service: "shop", Mode: policy.ModePermissive,
							Address: netip.MustParseAddrPort("[::]:15006"), Interception: &policy.Interception{Transparent: mode == intercept.TPROXY},
						},
						port(80, flow.ProtocolHTTP), port(5432, flow.ProtocolTCP),
					},
				})
				c := intercept.Config{Netns: app.Path(), Backend: backend, InboundPort: 15006, InboundMode: mode, SidecarUID: sidecarUID}
				if _, err := intercept.Install(c); err != nil {
					t.Fatal(err)
				}
				for _, h := range []string{"10.72.0.1", "fd72::1"} {
					if got := peer.Must("curl", "-sS", "-m", "10", "-H", "Host: shop.example", "http://"+net.JoinHostPort(h, "80")+"/"); got != "shop.example" {
						t.Errorf("curl: %q", got)
					}
					sidecar.expect(t, fmt.Sprintf("exchange http/1.1 service=shop route= endpoint=10.72.0.1:80 to=%s status=200 reason=", net.JoinHostPort(h, "80")))
					if got := peer.Must("psql", "-X", "-A", "-t", "-c", "select", fmt.Sprintf("host=%s port=5432 user=u dbname=d connect_timeout=10", h)); got != "tulle\n" {
						t.Errorf("psql: %q", got)
					}
					sidecar.expect(t, fmt.Sprintf("connection tcp service=shop route= endpoint=10.72.0.1:5432 to=%s status=0 reason=", net.JoinHostPort(h, "5432")))
					peer.Must("curl", "-sS", "-m", "10", "smtp://"+net.JoinHostPort(h, "25"), "--mail-from", "a@example.org", "--mail-rcpt", "b@example.org", "-T", "/dev/null")
					sidecar.expect(t, fmt.Sprintf("connection tcp service=shop route= endpoint=%s to=%[1]s status=0 reason=", net.JoinHostPort(h, "25")))
				}
			})
		}
	}
}

// BenchmarkRedirected compares requests on kept connections, and first requests on new ones, through a listener that is called and through one that is redirected to.
func BenchmarkRedirected(b *testing.B) {
	app, peer := netns.New(b, "app"), netns.New(b, "peer")
	netns.Pair(app, peer, []netip.Prefix{netip.MustParsePrefix("10.72.0.1/24")}, []netip.Prefix{netip.MustParsePrefix("10.72.0.2/24")})
	web := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })}
	at := peer.Listen(":80")
	go func() { _ = web.Serve(at) }()
	b.Cleanup(func() { _ = web.Close() })
	snap := &policy.Snapshot{
		Revision: "n1", Workload: policy.Workload{Service: "web", Namespace: "shop", Instance: "web-1"},
		Listeners: []policy.Listener{
			{Name: "intercept:outbound", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: netip.MustParseAddrPort("[::]:15001"), Interception: &policy.Interception{}},
			{Name: "outbound:shop", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: netip.MustParseAddrPort("127.0.0.1:15100"), Service: "shop"},
		},
		Services:  map[string]policy.Service{"shop": {Name: "shop", Protocol: flow.ProtocolHTTP, External: true}},
		Endpoints: map[string][]policy.Endpoint{"shop": {{Address: netip.MustParseAddrPort("10.72.0.2:80"), Weight: 100}}},
	}
	startSidecar(b, app, snap)
	if _, err := intercept.Install(intercept.Config{Netns: app.Path(), OutboundPort: 15001, SidecarUID: sidecarUID}); err != nil {
		b.Fatal(err)
	}
	for name, address := range map[string]string{"explicit": "127.0.0.1:15100", "redirected": "10.72.0.2:80"} {
		dial := func() (c net.Conn) {
			app.Do(func() (err error) {
				c, err = net.Dial("tcp", address)
				return err
			})
			return c
		}
		get := func(c net.Conn, in *bufio.Reader) {
			_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n")
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
		}
		median := func(b *testing.B, took []time.Duration) {
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
		}
		b.Run(name+"/kept", func(b *testing.B) {
			c := dial()
			defer c.Close()
			in := bufio.NewReader(c)
			var took []time.Duration
			for b.Loop() {
				begin := time.Now()
				get(c, in)
				took = append(took, time.Since(begin))
			}
			median(b, took)
		})
		b.Run(name+"/first", func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				c := dial()
				begin := time.Now()
				get(c, bufio.NewReader(c))
				took = append(took, time.Since(begin))
				_ = c.Close()
			}
			median(b, took)
		})
	}
}
