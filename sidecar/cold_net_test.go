//go:build linux && testnet

package sidecar

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/intercept"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/internal/testmesh/netns"
)

// teller writes a line for each Record that closes, with how many services the policy has.
type teller struct {
	testmesh.Recorder
	of **Sidecar
}

func (r *teller) Record(x *flow.Record) {
	if x.Phase == flow.PhaseClose && x.Kind != flow.KindAttempt {
		fmt.Printf("record %s service=%s route=%s to=%s status=%d reason=%s services=%d detail=%s\n",
			x.Kind, x.Destination.Service, x.Route, x.Destination.Addr, x.Status, x.Reason, len((*r.of).Snapshot().Services), x.Detail)
	}
}

// TestColdSidecarProcess is the sidecar of TestRealColdDestinations, which it starts in a namespace.
func TestColdSidecarProcess(t *testing.T) {
	text := os.Getenv("TULLE_TEST_MEMBER")
	if text == "" {
		return // it is a part of the other
	}
	var m member
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	var s *Sidecar
	s, actors, err := m.sidecar(&teller{of: &s}, func(*Config) {})
	if err != nil {
		t.Fatal(err)
	}
	err = run.All(t.Context(), append(actors, run.Actor{Name: "ready", Run: func(ctx context.Context, up func()) error {
		up()
		fmt.Println("ready", s.Problems())
		<-ctx.Done()
		return nil
	}})...)
	t.Fatal(err)
}

// TestColdControllerProcess is its controller.
func TestColdControllerProcess(t *testing.T) {
	dir := os.Getenv("TULLE_TEST_CONTROLLER")
	if dir == "" {
		return // it is a part of the other
	}
	c, err := controller.New(controller.Config{DataDir: filepath.Join(dir, "data"), ConfigDir: filepath.Join(dir, "config"), GRPC: "10.72.0.2:8641", Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	t.Fatal(c.Run(t.Context(), func() { fmt.Println("ready []") }))
}

// part starts a test of this binary as a process in n, as the user uid, waits until it is ready, and returns what ends it. Its Records go to p.
func part(t *testing.T, n *netns.NS, test string, uid uint32, p *process, env string) (kill func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+test+"$")
	cmd.Env, cmd.Dir, cmd.Stderr = append(os.Environ(), env), "/", os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready []" {
		t.Fatalf("%s is not ready: %q", test, lines.Text())
	}
	ended := make(chan struct{})
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
	killed := false
	kill = func() {
		if !killed {
			killed = true
			_ = cmd.Process.Kill()
			<-ended
			_ = cmd.Wait()
		}
	}
	t.Cleanup(kill)
	return kill
}

// TestRealColdDestinations: a real controller and a real sidecar, in network namespaces of their own, in a mesh of 2,000 services of which the application calls
// three. What is cold is learnt, what is warm stays so when both are killed, what is unknown is refused, and what is cold while the controller is away goes as
// policy says.
func TestRealColdDestinations(t *testing.T) {
	for _, away := range []string{"pass", "refuse"} {
		t.Run("away "+away, func(t *testing.T) {
			app, peer := netns.New(t, "app"), netns.New(t, "peer")
			netns.Pair(app, peer, []netip.Prefix{netip.MustParsePrefix("10.72.0.1/24")}, []netip.Prefix{netip.MustParsePrefix("10.72.0.2/24")})
			for _, port := range []int{81, 82, 83, 84} {
				l := peer.Listen(fmt.Sprint("10.72.0.2:", port))
				web := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })}
				go func() { _ = web.Serve(l) }()
				t.Cleanup(func() { _ = web.Close() })
			}
			dir, err := os.MkdirTemp("", "tulle-cold") // of a test's own folder others may not read
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			config, state := filepath.Join(dir, "config"), filepath.Join(dir, "web")
			var mesh strings.Builder
			for i := range 1997 {
				mesh.WriteString(externalYAML(fmt.Sprint("s", i), netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)}), 80)))
			}
			for i, name := range []string{"warm", "cold", "colder"} {
				mesh.WriteString(externalYAML(name, netip.AddrPortFrom(netip.MustParseAddr("10.72.0.2"), uint16(81+i))))
			}
			fmt.Fprintf(&mesh, "apiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: web-1, namespace: shop}\n"+
				"spec: {service: web, intercept: {outbound: {listen: \"[::]:15001\", unknown: refuse, away: %s, lookupTimeout: 5s}}}\n", away)
			for _, d := range []string{config, state} {
				if err := os.Mkdir(d, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(config, "mesh.yaml"), []byte(mesh.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			m := member{Controller: "10.72.0.2:8641", Bundle: filepath.Join(dir, "bundle.pem"), StateDir: state}
			bundle, err := controller.EnsureCA(filepath.Join(dir, "data"), "")
			if err != nil {
				t.Fatal(err)
			}
			if m.Token, err = controller.IssueToken(filepath.Join(dir, "data"), "shop", "web", time.Hour); err != nil {
				t.Fatal(err)
			}
			pem, err := os.ReadFile(bundle)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(m.Bundle, pem, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(state, sidecarUID, sidecarUID); err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			killController := part(t, peer, "TestColdControllerProcess", 0, &process{}, "TULLE_TEST_CONTROLLER="+dir)
			p := &process{}
			killSidecar := part(t, app, "TestColdSidecarProcess", sidecarUID, p, "TULLE_TEST_MEMBER="+string(text))
			if _, err := intercept.Install(intercept.Config{Netns: app.Path(), OutboundPort: 15001, SidecarUID: sidecarUID}); err != nil {
				t.Fatal(err)
			}
			get := func(port int, ok bool) {
				t.Helper()
				out, err := app.Run(0, "curl", "-sS", "-m", "10", fmt.Sprintf("http://10.72.0.2:%d/", port))
				if (err == nil && out == "ok") != ok {
					t.Errorf("port %d: %q, %v; is it to be answered: %v", port, out, err, ok)
				}
			}
			get(81, true) // cold
			p.expect(t, "exchange service=warm route= to=10.72.0.2:81 status=200 reason= services=1 detail=")
			get(81, true) // warm
			p.expect(t, "exchange service=warm route= to=10.72.0.2:81 status=200 reason= services=1 detail=")
			get(84, false)
			p.expect(t, "connection service= route= to=10.72.0.2:84 status=0 reason=unknown_destination services=1 detail=10.72.0.2:84 is no service that this sidecar knows; add one, or set spec.intercept.outbound.unknown to pass")

			gone := func(port int) string { // of a cold destination while the controller is away
				if away == "pass" {
					return fmt.Sprintf("connection service= route=passthrough to=10.72.0.2:%d status=0 reason= services=1 detail=passed through without knowing what it is: the controller is away", port)
				}
				return fmt.Sprintf("connection service= route= to=10.72.0.2:%d status=0 reason=unknown_destination services=1 detail=10.72.0.2:%[1]d is not known yet, and the controller is away; spec.intercept.outbound.away is refuse", port)
			}
			killController()
			get(82, away == "pass")
			p.expect(t, gone(82))
			get(81, true)
			testmesh.Eventually(t, "a third request to the warm service", func() bool { return p.count("exchange service=warm") == 3 })
			testmesh.Eventually(t, "what was learnt is on disk", func() bool {
				b, _ := os.ReadFile(filepath.Join(state, "snapshot.pb"))
				return bytes.Contains(b, []byte("10.72.0.2"))
			})
			killSidecar()
			part(t, app, "TestColdSidecarProcess", sidecarUID, p, "TULLE_TEST_MEMBER="+string(text))
			get(81, true)
			testmesh.Eventually(t, "a fourth request to the warm service", func() bool { return p.count("exchange service=warm") == 4 })
			get(83, away == "pass")
			p.expect(t, gone(83))

			part(t, peer, "TestColdControllerProcess", 0, &process{}, "TULLE_TEST_CONTROLLER="+dir)
			testmesh.Eventually(t, "the cold service is learnt from the controller that is back", func() bool {
				_, _ = app.Run(0, "curl", "-sS", "-m", "10", "http://10.72.0.2:82/")
				return p.count("exchange service=cold route= to=10.72.0.2:82 status=200 reason= services=2") > 0
			})
			get(81, true)
		})
	}
}

// count is how many Records begin so.
func (p *process) count(begin string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.records {
		if strings.HasPrefix(r, begin) {
			n++
		}
	}
	return n
}
