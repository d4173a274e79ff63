package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// asSidecar in the environment makes the test binary the sidecar itself.
const asSidecar = "TULLE_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asApplication) != "" {
		application()
	}
	if os.Getenv(asSidecar) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child is a sidecar in a process of its own.
type child struct {
	cmd   *exec.Cmd
	admin string
	log   *output
	ended chan error
}

func (m *mesh) spawn(service string) *child { return m.spawnAt(service, free(m.t)) }

// spawnAt starts a sidecar with further arguments.
func (m *mesh) spawnAt(service, admin string, args ...string) *child {
	m.t.Helper()
	c := &child{admin: admin, log: &output{}, ended: make(chan error, 1)}
	c.cmd = exec.Command(os.Args[0], append(m.flags(service, c.admin), args...)...)
	c.cmd.Env = append(os.Environ(), asSidecar+"=1", "TULLE_JOIN_TOKEN="+m.token("shop", service))
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	if err := c.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() { c.ended <- c.cmd.Wait() }()
	m.t.Cleanup(func() { _ = c.cmd.Process.Kill() }) // of use when the test has failed
	return c
}

// terminated waits for the end that a SIGTERM has begun.
func (c *child) terminated(t *testing.T) {
	t.Helper()
	select {
	case err := <-c.ended:
		if err != nil {
			t.Errorf("the sidecar ended with %v, want 0\n%s", err, c.log)
		}
	case <-time.After(40 * time.Second):
		t.Fatalf("the sidecar did not end\n%s", c.log)
	}
}

const twoWorkloads = `apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop}
spec:
  service: web
  upstreams: [{service: cart, listen: %q}]
---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: cart-1, namespace: shop}
spec:
  service: cart
  ports: [{listen: %q, target: %q}]
`

// TestTerminate sends SIGTERM to two real sidecar processes while a request passes through both: it finishes, both processes flush what they
// recorded, say goodbye, and end with 0.
func TestTerminate(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "finished")
	}))
	defer app.Close()
	inbound, outbound := free(t), free(t)
	m := newMesh(t, fmt.Sprintf(twoWorkloads, outbound, inbound, app.Listener.Addr()))
	cart, web := m.spawn("cart"), m.spawn("web")
	waitReady(t, cart.admin, cart.log)
	waitReady(t, web.admin, web.log)

	type answer struct {
		code int
		body string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		res, err := http.Get("http://" + outbound + "/")
		if err != nil {
			got <- answer{err: err}
			return
		}
		b, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		got <- answer{res.StatusCode, string(b), err}
	}()
	<-arrived
	for _, c := range []*child{cart, web} {
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	for _, addr := range []string{inbound, outbound} { // both have begun to drain
		testmesh.Eventually(t, addr+" is not listened on", func() bool {
			c, err := net.Dial("tcp", addr)
			if err == nil {
				_ = c.Close()
			}
			return errors.Is(err, syscall.ECONNREFUSED)
		})
	}
	close(release)
	if a := <-got; a.err != nil || a.code != 200 || a.body != "finished" {
		t.Errorf("the request in flight got %d %q, %v", a.code, a.body, a.err)
	}
	cart.terminated(t)
	web.terminated(t)
	o := m.observed
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.spans["web exchange client"] != 1 || o.spans["cart exchange server"] != 1 {
		t.Errorf("spans that were flushed: %v", o.spans)
	}
	if o.metrics.counts["web tulle.exchanges client"] != 1 || o.metrics.counts["cart tulle.exchanges server"] != 1 || !o.metrics.goodbye["web"] || !o.metrics.goodbye["cart"] {
		t.Errorf("counts %v, goodbyes %v", o.metrics.counts, o.metrics.goodbye)
	}
}

// TestListenerPortInUse: a port that somebody else has is one clear line with the address and what to do, /readyz says the same, and when the port
// is free the sidecar serves, without a restart.
func TestListenerPortInUse(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }))
	defer app.Close()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	outbound := taken.Addr().String()
	m := newMesh(t, fmt.Sprintf(twoWorkloads, outbound, free(t), app.Listener.Addr()))
	cart, web := m.spawn("cart"), m.spawn("web")
	waitReady(t, cart.admin, cart.log)
	about := func(log string) (lines []string) {
		for line := range strings.Lines(log) {
			if strings.Contains(line, "listener is not open") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	testmesh.Eventually(t, "a line about the port", func() bool { return len(about(web.log.String())) > 0 }, web.log.String)
	if line := about(web.log.String())[0]; !strings.Contains(line, "address="+outbound) || !strings.Contains(line, "stop it, or give the listener another port") ||
		strings.Count(line, "address already in use") != 1 {
		t.Errorf("the line is %q", line)
	}
	if code, body := readyz(web.admin); code != 503 || !strings.Contains(body, outbound) || !strings.Contains(body, "another process has the port") {
		t.Errorf("readyz: %d %q", code, body)
	}
	_ = taken.Close()
	waitReady(t, web.admin, web.log)
	// The page may answer before the log has come through its pipe.
	testmesh.Eventually(t, "a line about the open listener", func() bool { return strings.Contains(web.log.String(), "listener is open at last") }, web.log.String)
	res, err := http.Get("http://" + outbound + "/")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if res.StatusCode != 200 || string(b) != "hello" {
		t.Errorf("got %d %q", res.StatusCode, b)
	}
	http.DefaultClient.CloseIdleConnections()
	for _, c := range []*child{web, cart} {
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		c.terminated(t)
	}
}
