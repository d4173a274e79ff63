//go:build linux && testnet

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/intercept"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/internal/testmesh/netns"
)

// nodeUID is the user of the node's process, whose traffic is not taken.
const nodeUID = 1337

// name gives a namespace a name that another user's process may open, until the test ends.
func name(t *testing.T, n *netns.NS, file string) {
	t.Helper()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(n.Path(), file, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(file, unix.MNT_DETACH) })
}

// line is what the access log says of one exchange or connection.
type line map[string]any

func (l line) text(key string) string {
	s, _ := l[key].(string)
	return s
}

// TestNodeNamespaces is the whole shape: two applications in two network namespaces, whose TCP is redirected both ways, and one process outside of both that carries it
// over mTLS, each with its own identity.
func TestNodeNamespaces(t *testing.T) {
	spaces := map[string]*netns.NS{"web": netns.New(t, "web"), "cart": netns.New(t, "cart")}
	addresses := map[string]string{"web": "10.72.0.1", "cart": "10.72.0.2"}
	netns.Pair(spaces["web"], spaces["cart"], []netip.Prefix{netip.MustParsePrefix("10.72.0.1/24")}, []netip.Prefix{netip.MustParsePrefix("10.72.0.2/24")})
	config := ""
	for service, ip := range addresses {
		config += fmt.Sprintf(`---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: %[1]s-1, namespace: shop}
spec:
  service: %[1]s
  ports: [{listen: "%[2]s:80", target: "%[2]s:80"}]
  intercept: {outbound: {listen: "[::]:15001"}, inbound: {listen: "[::]:15006"}}
`, service, ip)
		l := spaces[service].Listen(":80")
		app := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello from "+service) })}
		go func() { _ = app.Serve(l) }()
		t.Cleanup(func() { _ = app.Close() })
	}
	m := newMesh(t, strings.TrimPrefix(config, "---\n"))
	n := &nodeRig{t: t, m: m, file: filepath.Join(m.dir, "node.yaml"), admin: free(t), log: &output{}}
	entries := map[string]string{}
	for service, ns := range spaces {
		file := filepath.Join(m.dir, service+".ns")
		name(t, ns, file)
		entries[service] = m.entryOf(service, ", netns: "+file)
	}
	n.write(entries["web"], entries["cart"])
	cmd := exec.Command("/proc/self/exe", "--node", n.file, "--bundle", m.bundle, "--state-dir", filepath.Join(m.dir, "node"), "--admin", n.admin,
		"--controller", m.controller, "--otlp", m.otlp, "--access-log", "json", "--access-log-file", filepath.Join(m.dir, "access.log"))
	cmd.Env, cmd.Dir = append(os.Environ(), asSidecar+"=1"), "/"
	cmd.Stdout, cmd.Stderr = n.log, n.log
	cmd.SysProcAttr = &syscall.SysProcAttr{ // CAP_DAC_OVERRIDE: for the test's own folders, which are root's
		Credential: &syscall.Credential{Uid: nodeUID, Gid: nodeUID}, AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_DAC_OVERRIDE},
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	waitReady(t, n.admin, n.log)
	for _, ns := range spaces {
		if _, err := intercept.Install(intercept.Config{Netns: ns.Path(), OutboundPort: 15001, InboundPort: 15006, SidecarUID: nodeUID}); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := net.Dial("tcp", "127.0.0.1:15001"); !errors.Is(err, syscall.ECONNREFUSED) {
		if err == nil {
			_ = c.Close()
		}
		t.Errorf("the node listens outside of the namespaces: %v", err)
	}
	const calls = 3
	call := func(from, to string) (string, error) {
		return spaces[from].Run(1000, "curl", "-sS", "-m", "10", "http://"+addresses[to]+"/")
	}
	for range calls {
		for from, to := range map[string]string{"web": "cart", "cart": "web"} {
			if got, err := call(from, to); got != "hello from "+to || err != nil {
				t.Errorf("from %s to %s: %q, %v\n%s", from, to, got, err, n.log)
			}
		}
	}
	// A plaintext caller from within a namespace, past its sidecar, is turned away at the other's: strict is the default.
	if got, err := spaces["web"].Run(nodeUID, "curl", "-sS", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "http://"+addresses["cart"]+"/"); got != "403" {
		t.Errorf("plaintext past the sidecar got %q, %v", got, err)
	}

	// One workload's namespace is replaced by another under the same name: it alone starts again, in the new one.
	rows, _ := n.rows()
	replaced := netns.New(t, "web again")
	file := filepath.Join(m.dir, "web.ns")
	if err := unix.Unmount(file, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(replaced.Path(), file, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	n.eventually("web is in its new namespace", func(now []workloadRow, _ []string) bool {
		return len(now) == 2 && now[1].Ready && now[1].BootID != rows[1].BootID && now[0].BootID == rows[0].BootID
	})
	replaced.Do(func() error {
		c, err := net.Dial("tcp", "127.0.0.1:15001")
		if err == nil {
			_ = c.Close()
		}
		if errors.Is(err, syscall.ECONNRESET) { // it was not redirected: the sidecar is there, and says so
			return nil
		}
		return err
	})
	if _, err := call("web", "cart"); err == nil {
		t.Error("the old namespace is still served")
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the node ended with %v\n%s", err, n.log)
	}
	http.DefaultClient.CloseIdleConnections()

	b, err := os.ReadFile(filepath.Join(m.dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for text := range strings.Lines(string(b)) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		if l.text("tulle.kind") != "exchange" {
			continue
		}
		source, destination := l.text("tulle.source.service"), l.text("tulle.destination.service")
		if l.text("tulle.source.identity") != "spiffe://"+domain+"/ns/shop/sa/"+source || l.text("tulle.destination.identity") != "spiffe://"+domain+"/ns/shop/sa/"+destination {
			t.Errorf("an edge without both identities: %s", text)
		}
		if client := l.text("client.address"); !strings.HasPrefix(client, addresses[source]+":") {
			t.Errorf("the caller's address is %s: %s", client, text)
		}
		if l.text("server.address") != addresses[destination]+":80" {
			t.Errorf("the service's address: %s", text)
		}
		seen[l.text("tulle.side")+" "+source+" "+destination]++
	}
	for _, edge := range []string{"client web cart", "server web cart", "client cart web", "server cart web"} {
		if seen[edge] != calls {
			t.Errorf("%d exchanges %q, want %d; all: %v", seen[edge], edge, calls, seen)
		}
	}
	o := m.observed
	testmesh.Eventually(t, "the last reports", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.metrics.goodbye["web"] && o.metrics.goodbye["cart"]
	})
	o.mu.Lock()
	defer o.mu.Unlock()
	for service := range addresses {
		if got := fmt.Sprint(o.reporters[service]); got != "[spiffe://"+domain+"/ns/shop/sa/"+service+"]" {
			t.Errorf("%s was reported by %s", service, got)
		}
	}
}
