//go:build linux && testnet

package sidecar

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/intercept"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh/netns"
)

// mysqlGreeting is the first packet of a server of MySQL, protocol 10 (https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase_packets_protocol_handshake_v10.html), cut short
// after the version; nobody reads further here.
const mysqlGreeting = "\x0a\x00\x00\x00\x0a8.0.36-x\x00"

// Real clients against ports and services of which nothing is said: each of them speaks what it speaks, in and out, redirected and explicit.
func TestRealDetection(t *testing.T) {
	app, peer := netns.New(t, "app"), netns.New(t, "peer")
	netns.Pair(app, peer, []netip.Prefix{netip.MustParsePrefix("10.72.0.1/24")}, []netip.Prefix{netip.MustParsePrefix("10.72.0.2/24")})
	serve := func(n *netns.NS) {
		web := &http.Server{ReadHeaderTimeout: time.Minute, Protocols: &http.Protocols{}, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", r.Proto, r.Host) })}
		web.Protocols.SetHTTP1(true)
		web.Protocols.SetUnencryptedHTTP2(true)
		at := n.Listen(":80")
		go func() { _ = web.Serve(at) }()
		t.Cleanup(func() { _ = web.Close() })
		scriptedAt(t, n.Listen(":25"), smtp)
		scriptedAt(t, n.Listen(":5432"), postgres)
		scriptedAt(t, n.Listen(":3306"), func(c net.Conn, in *bufio.Reader) {
			fmt.Fprint(c, mysqlGreeting)
			_, _ = in.ReadByte()
		})
	}
	serve(app)
	serve(peer)
	const wait = 300 * time.Millisecond
	ports := []uint16{80, 25, 5432, 3306}
	snap := &policy.Snapshot{
		Revision: "n1", Workload: policy.Workload{Service: "shop", Namespace: "shop", Instance: "shop-1"},
		Services: map[string]policy.Service{}, Endpoints: map[string][]policy.Endpoint{},
		Listeners: []policy.Listener{
			{
				Name: "intercept:inbound", Side: flow.SideServer, Protocol: flow.ProtocolTCP, Service: "shop", Mode: policy.ModePermissive,
				Address: netip.MustParseAddrPort("[::]:15006"), Interception: &policy.Interception{Unknown: policy.UnknownRefuse},
			},
			{
				Name: "intercept:outbound", Side: flow.SideClient, Protocol: flow.ProtocolHTTP, Address: netip.MustParseAddrPort("[::]:15001"),
				Interception: &policy.Interception{DetectTimeout: wait},
			},
		},
	}
	for _, n := range ports {
		own, name := netip.AddrPortFrom(netip.MustParseAddr("10.72.0.1"), n), fmt.Sprint("out-", n)
		snap.Services[name] = policy.Service{Name: name, Protocol: flow.ProtocolAuto, External: true}
		snap.Endpoints[name] = []policy.Endpoint{{Address: netip.AddrPortFrom(netip.MustParseAddr("10.72.0.2"), n), Weight: 100}}
		snap.Listeners = append(snap.Listeners,
			policy.Listener{
				Name: fmt.Sprint("inbound:", n), Side: flow.SideServer, Protocol: flow.ProtocolAuto, Service: "shop", Address: own, Target: own, Mode: policy.ModePermissive, Unbound: true, DetectTimeout: wait,
			},
			policy.Listener{
				Name: fmt.Sprint("outbound:", n), Side: flow.SideClient, Protocol: flow.ProtocolAuto, Service: name,
				Address: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), 20000+n), DetectTimeout: wait,
			})
	}
	sidecar := startSidecar(t, app, snap)
	c := intercept.Config{Netns: app.Path(), Backend: intercept.NFTables, InboundPort: 15006, InboundMode: intercept.Redirect, OutboundPort: 15001, SidecarUID: sidecarUID}
	if _, err := intercept.Install(c); err != nil {
		t.Fatal(err)
	}
	letter := filepath.Join(t.TempDir(), "letter")
	if err := os.WriteFile(letter, []byte("Subject: x\r\n\r\nhello\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct {
		name    string
		from    *netns.NS
		host    string
		shift   uint16
		service func(port uint16) string
		to      string // the endpoint's host in Records
	}{
		{"inbound", peer, "10.72.0.1", 0, func(uint16) string { return "shop" }, "10.72.0.1"},
		{"outbound, redirected", app, "10.72.0.2", 0, func(n uint16) string { return fmt.Sprint("out-", n) }, "10.72.0.2"},
		{"outbound, explicit", app, "127.0.0.1", 20000, func(n uint16) string { return fmt.Sprint("out-", n) }, "10.72.0.2"},
	} {
		t.Run(way.name, func(t *testing.T) {
			at := func(n uint16) string { return net.JoinHostPort(way.host, fmt.Sprint(n+way.shift)) }
			record := func(what string, n uint16, status int) {
				t.Helper()
				sidecar.expect(t, fmt.Sprintf("%s service=%s route= endpoint=%s:%d to=%[3]s:%[4]d status=%[5]d reason=", what, way.service(n), way.to, n, status))
			}
			for range 2 { // the second connection is the one that remembers
				if got := way.from.Must("curl", "-sS", "-m", "10", "-H", "Host: a", "http://"+at(80)+"/"); got != "HTTP/1.1 a" {
					t.Errorf("curl: %q", got)
				}
				if got := way.from.Must("curl", "-sS", "-m", "10", "--http2-prior-knowledge", "-H", "Host: a", "http://"+at(80)+"/"); got != "HTTP/2.0 a" {
					t.Errorf("curl, HTTP/2: %q", got)
				}
				if got := way.from.Must("psql", "-X", "-A", "-t", "-c", "select", fmt.Sprintf("host=%s port=%d user=u dbname=d connect_timeout=10", way.host, 5432+way.shift)); got != "tulle\n" {
					t.Errorf("psql: %q", got)
				}
				way.from.Must("curl", "-sS", "-m", "10", "smtp://"+at(25), "--mail-from", "a@example.org", "--mail-rcpt", "b@example.org", "-T", letter)
				var conn net.Conn
				if err := way.from.Try(func() (err error) {
					conn, err = net.DialTimeout("tcp", at(3306), 5*time.Second)
					return err
				}); err != nil {
					t.Fatal(err)
				}
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				b := make([]byte, len(mysqlGreeting))
				if n, err := conn.Read(b); err != nil || string(b[:n]) != mysqlGreeting {
					t.Errorf("MySQL: %q, %v", b[:n], err)
				}
				_ = conn.Close()
			}
			record("exchange http/1.1", 80, 200)
			record("exchange h2", 80, 200)
			record("connection tcp", 5432, 0)
			record("connection tcp", 25, 0)
			record("connection tcp", 3306, 0)
		})
	}
	sidecar.mu.Lock()
	defer sidecar.mu.Unlock()
	if all := strings.Join(sidecar.records, "\n"); strings.Contains(all, "reason=upstream") || strings.Contains(all, "reason=tls") {
		t.Errorf("Records:\n%s", all)
	}
}
