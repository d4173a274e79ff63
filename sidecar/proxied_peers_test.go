//go:build peers

package sidecar

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// peer starts an executable with a configuration and waits until it listens at addr.
func peer(t *testing.T, name, debian, addr, config string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Fatalf("%s is missing. Debian/Ubuntu: apt-get install %s", name, debian)
		}
	}
	dir := t.TempDir()
	file := filepath.Join(dir, name+".conf")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(config, "DIR", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, append(args, file)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
	testmesh.Eventually(t, name+" listens", func() bool {
		select {
		case <-ended:
			t.Fatalf("%s has ended: %s(parts of it may be missing. Debian/Ubuntu: apt-get install %s)", name, said.Bytes(), debian)
		default:
		}
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestProxyProtocolPeers: HAProxy sends headers of both versions to a sidecar, with TLVs and a checksum, HTTP and bytes, and takes what a sidecar sends; so
// does nginx with version 1, which it sends too.
func TestProxyProtocolPeers(t *testing.T) {
	web := app(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "hello "+r.Header.Get("x-seen"))
	})
	echo := scripted(t, func(c net.Conn, r *bufio.Reader) { _, _ = io.Copy(c, r); _ = c.(*net.TCPConn).CloseWrite() })
	haproxyHead := "global\n stats timeout 1s\ndefaults\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n"
	inbound := func(protocol flow.Protocol, target netip.AddrPort) (*running, string) {
		r := start(t, balanced("web", target, policy.ModePermissive, protocol, time.Minute), &identity.Holder{}, time.Second)
		return r, r.addr(t, "inbound").String()
	}
	recorded := func(t *testing.T, r *running, kind flow.Kind, client net.Addr) { // beside whoever looked whether the peer listens
		t.Helper()
		testmesh.Eventually(t, "the client is recorded", func() bool {
			return slices.ContainsFunc(r.rec.Closed(kind), func(rec flow.Record) bool { return rec.Source.Addr.String() == client.String() && rec.Via.IsValid() })
		})
		if all := r.rec.Closed(flow.KindConnection); kind == flow.KindExchange && len(all) > 0 {
			t.Errorf("connections were refused: %+v", all[0])
		}
	}
	for _, send := range []string{"send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,ssl"} {
		t.Run("HAProxy "+send, func(t *testing.T) {
			for _, protocol := range []flow.Protocol{flow.ProtocolHTTP, flow.ProtocolTCP} {
				target, mode, kind := web, "http", flow.KindExchange
				if protocol == flow.ProtocolTCP {
					target, mode, kind = echo, "tcp", flow.KindConnection
				}
				r, addr := inbound(protocol, target)
				at := freePort(t)
				peer(t, "haproxy", "haproxy", at, haproxyHead+fmt.Sprintf("listen l\n mode %s\n bind %s\n unique-id-format %%{+X}o%%ci\n server s %s %s\n", mode, at, addr, send), "-db", "-f")
				c, err := net.Dial("tcp", at)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
				_ = c.(*net.TCPConn).CloseWrite()
				b, err := io.ReadAll(c)
				if err != nil || len(b) == 0 {
					t.Fatalf("%s: got %q, %v", mode, b, err)
				}
				recorded(t, r, kind, c.LocalAddr())
				r.stop()
			}
		})
	}
	for _, v := range []policy.ProxyVersion{1, 2} {
		t.Run("to HAProxy "+v.String(), func(t *testing.T) {
			at := freePort(t)
			peer(t, "haproxy", "haproxy", at, haproxyHead+fmt.Sprintf("frontend f\n mode http\n bind %s accept-proxy\n http-request set-header x-seen %%[src]:%%[src_port]\n default_backend b\nbackend b\n mode http\n server s %s\n", at, web), "-db", "-f")
			snap := serverSnapshot("db", netip.MustParseAddrPort(at), policy.ModePermissive, flow.ProtocolTCP)
			snap.Listeners[0].TargetProxy = v
			r := start(t, snap, &identity.Holder{}, time.Second)
			seen(t, r.addr(t, "inbound"))
		})
	}
	t.Run("nginx", func(t *testing.T) {
		r, addr := inbound(flow.ProtocolTCP, web)
		from, to := freePort(t), freePort(t)
		// One server takes version 1 and sends it on: what a sidecar sends goes through nginx to a sidecar.
		peer(t, "nginx", "nginx-light libnginx-mod-stream", from, fmt.Sprintf(`daemon off; master_process off; worker_processes 1; pid DIR/pid; error_log DIR/error.log;
include /etc/nginx/modules-enabled/*.conf;
events {}
stream { server { listen %s; proxy_pass %s; proxy_protocol on; } }
http { access_log off; client_body_temp_path DIR/b; proxy_temp_path DIR/p; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
  server { listen %s proxy_protocol; location / { proxy_set_header x-seen $proxy_protocol_addr:$proxy_protocol_port; proxy_pass http://%s; } } }
`, from, addr, to, web), "-c")
		c, err := net.Dial("tcp", from)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if b, err := io.ReadAll(c); err != nil || !strings.Contains(string(b), "hello") {
			t.Fatalf("got %q, %v", b, err)
		}
		_ = c.Close()
		recorded(t, r, flow.KindConnection, c.LocalAddr())
		for _, v := range []policy.ProxyVersion{1, 2} {
			out := start(t, clientSnapshot(external(func(s *policy.Service) { s.Protocol, s.Proxy = flow.ProtocolTCP, v }), netip.MustParseAddrPort(to)), &identity.Holder{}, time.Second)
			seen(t, out.addr(t, "outbound"))
		}
	})
}

// seen asks who the service at addr saw.
func seen(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	c, br := dial(t, addr)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "hello "+c.LocalAddr().String() {
		t.Errorf("it answered %q, %v; the client is %v", b, err, c.LocalAddr())
	}
}
