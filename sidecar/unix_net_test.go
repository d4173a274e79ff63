//go:build linux && testnet

package sidecar

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/internal/testmesh/netns"
)

// TestRealUnix: curl calls by a Unix socket, nginx answers at one; of several users only those who are named get through, and Records say who they were.
func TestRealUnix(t *testing.T) {
	nginx, err := exec.LookPath("nginx")
	if err != nil {
		t.Fatalf("nginx is missing: %v. Debian/Ubuntu: apt-get install nginx-light", err)
	}
	dir := sockets(t)
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // a test of who may
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr error;
events {}
http {
	access_log off; client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
	server { listen unix:%[1]s/serve; location / { return 200 "$server_protocol $host $request_uri"; } }
}`, dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nginx, "-c", conf, "-e", "stderr")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	testmesh.Eventually(t, "nginx listens", func() bool {
		c, err := net.Dial("unix", dir+"/serve")
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	const allowed, other = 1000, 1001
	web, server := unixPair(t, flow.ProtocolHTTP,
		&policy.Unix{Path: dir + "/call", Mode: 0o666, Attest: policy.Attest{UIDs: []uint32{allowed}, GIDs: []uint32{allowed}}},
		&policy.Unix{Path: dir + "/serve", Attest: policy.Attest{UIDs: []uint32{0}}})
	n := netns.New(t, "n") // Unix sockets of files know no network namespace
	curl := func(uid uint32, args ...string) string {
		out, err := n.Run(uid, "curl", append([]string{"-sS", "-m", "10", "--unix-socket", dir + "/call", "-w", " %{http_code}"}, args...)...)
		if err != nil {
			t.Errorf("curl %v: %v\n%s", args, err, out)
		}
		return out
	}
	for range 2 { // nginx' kept connection serves the second
		if got := curl(allowed, "http://catalog/items?x=1"); got != "HTTP/1.1 catalog /items?x=1 200" {
			t.Errorf("curl: %q", got)
		}
	}
	if got := curl(allowed, "-H", "Upgrade-Insecure-Requests: 1", "http://catalog/a", "-o", "/dev/null", "http://catalog/b"); !strings.Contains(got, " 200") {
		t.Errorf("two requests on one connection: %q", got)
	}
	for _, uid := range []uint32{other, 0} {
		if got := curl(uid, "http://catalog/"); !strings.HasSuffix(got, " 403") || !strings.Contains(got, fmt.Sprintf("has uid %d and gid %[1]d; spec.attest asks for uid 1000 and gid 1000", uid)) {
			t.Errorf("uid %d: %q", uid, got)
		}
	}
	web.stop()
	server.stop()
	var denied, passed int
	for _, r := range web.rec.Closed(flow.KindExchange) {
		switch {
		case r.Reason == flow.ReasonDenied && r.Application.UID != allowed && r.Application.PID > 0:
			denied++
		case r.Reason == flow.ReasonNone && r.Application.UID == allowed && r.Application.GID == allowed:
			passed++
		default:
			t.Errorf("%+v", r)
		}
	}
	if denied != 2 || passed != 4 {
		t.Errorf("%d denied and %d passed", denied, passed)
	}
	for _, r := range server.rec.Closed(flow.KindExchange) {
		if r.Application != (flow.Application{Socket: dir + "/serve", Known: true, PID: int32(cmd.Process.Pid)}) { //nolint:gosec // a process id
			t.Errorf("who answered: %+v, want pid %d of root", r.Application, cmd.Process.Pid)
		}
	}
}
