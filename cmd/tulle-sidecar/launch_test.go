package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// asApplication in the environment makes the test binary an application: its value is the URL of another service.
const asApplication = "TULLE_TEST_APPLICATION"

// application calls the other service when it starts and when it is told to stop, and ends with 0 after that, or at once with $STATUS if that is set.
func application() {
	call := func(when string) {
		err := once(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, os.Getenv(asApplication))
		fmt.Println("application", when, os.Getpid(), err)
		if err != nil {
			os.Exit(99)
		}
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	call("starts")
	if status, err := strconv.Atoi(os.Getenv("STATUS")); err == nil {
		os.Exit(status)
	}
	<-term
	call("ends")
	os.Exit(0)
}

// started is what an application says once it can be stopped in order.
var started = regexp.MustCompile(`application starts \d+ <nil>`)

func (c *child) status(t *testing.T) int {
	t.Helper()
	select {
	case err := <-c.ended:
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Errorf("%v\n%s", err, c.log)
		}
		return c.cmd.ProcessState.ExitCode()
	case <-time.After(60 * time.Second):
		t.Fatalf("it did not end\n%s", c.log)
	}
	return -1
}

// launchRig is a service "cart" behind a sidecar, for applications of "web".
type launchRig struct {
	*mesh
	cart    *child
	command []string
}

func newLaunchRig(t *testing.T) *launchRig {
	app := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(app.Close)
	inbound, outbound := free(t), free(t)
	r := &launchRig{mesh: newMesh(t, fmt.Sprintf(twoWorkloads, outbound, inbound, app.Listener.Addr()))}
	r.cart = r.spawn("cart")
	waitReady(t, r.cart.admin, r.cart.log)
	r.command = []string{"--", "env", "-u", asSidecar, asApplication + "=http://" + outbound + "/"}
	return r
}

func (r *launchRig) launch(admin string, flags []string, env ...string) *child {
	return r.spawnAt("web", admin, append(append(append(flags, r.command...), env...), os.Args[0])...)
}

func (r *launchRig) end() {
	_ = r.cart.cmd.Process.Signal(syscall.SIGTERM)
	r.cart.terminated(r.t)
}

// TestJob: the application starts when the sidecar carries its traffic, and the sidecar ends with it and with its status, having told everything.
func TestJob(t *testing.T) {
	r := newLaunchRig(t)
	c := r.launch(free(t), nil, "STATUS=7")
	if got := c.status(t); got != 7 {
		t.Errorf("status %d, want 7\n%s", got, c.log)
	}
	r.end()
	r.observed.mu.Lock()
	defer r.observed.mu.Unlock()
	if m := r.observed.metrics; m.counts["web tulle.exchanges client"] != 1 || !m.goodbye["web"] {
		t.Errorf("counts %v, goodbyes %v", m.counts, m.goodbye)
	}
}

// TestStopWithApplication: told to stop, the sidecar is not ready from then on, lets the application end, carrying what it still has to say, and ends.
// Before that it is replaced at SIGUSR2, and started again when it is killed; the application notices neither.
func TestStopWithApplication(t *testing.T) {
	r := newLaunchRig(t)
	c := r.launch(free(t), []string{"--drain-delay", "1500ms", "--drain-timeout", "5s"})
	waitReady(t, c.admin, c.log)
	testmesh.Eventually(t, "the application runs", func() bool { return started.MatchString(c.log.String()) }, c.log.String)

	_ = c.cmd.Process.Signal(syscall.SIGUSR2)
	testmesh.Eventually(t, "a new sidecar takes over", func() bool { return strings.Contains(c.log.String(), "a new sidecar has taken over") }, c.log.String)
	found := regexp.MustCompile(`a new sidecar has taken over" process=(\d+)`).FindStringSubmatch(c.log.String())
	pid, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	if code, body := readyz(c.admin); code != 200 {
		t.Errorf("readyz: %d %s", code, body)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
	testmesh.Eventually(t, "it is started again", func() bool { return strings.Contains(c.log.String(), "it is started again") }, c.log.String)
	waitReady(t, c.admin, c.log)

	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	testmesh.Eventually(t, "it is not ready", func() bool {
		code, body := readyz(c.admin)
		return code == 503 && strings.Contains(body, "draining")
	}, c.log.String)
	if strings.Contains(c.log.String(), "application ends") {
		t.Error("the application was told before the delay was over")
	}
	if got := c.status(t); got != 0 {
		t.Errorf("status %d\n%s", got, c.log)
	}
	if !regexp.MustCompile(`application ends \d+ <nil>`).MatchString(c.log.String()) {
		t.Errorf("the application's last call: %s", c.log)
	}
	r.end()
}

// TestQuit: POST /quit ends the application and the sidecar; --quit asks for it.
func TestQuit(t *testing.T) {
	r := newLaunchRig(t)
	c := r.launch(free(t), nil)
	waitReady(t, c.admin, c.log)
	testmesh.Eventually(t, "the application runs", func() bool { return started.MatchString(c.log.String()) }, c.log.String)
	if err := quit(t.Context(), c.admin); err != nil {
		t.Error(err)
	}
	if got := c.status(t); got != 0 {
		t.Errorf("status %d\n%s", got, c.log)
	}
	// Without an application, the sidecar alone, and without the delay.
	began := time.Now()
	alone := r.spawnAt("cart", r.cart.admin, "--drain-delay", "1h")
	r.cart.terminated(t)
	waitReady(t, alone.admin, alone.log)
	if err := quit(t.Context(), alone.admin); err != nil {
		t.Error(err)
	}
	alone.terminated(t)
	if time.Since(began) > 40*time.Minute {
		t.Error("the delay was waited for")
	}
}

// TestStubborn: an application that does not end is killed, one that cannot be started is said so, as a shell would.
func TestStubborn(t *testing.T) {
	r := newLaunchRig(t)
	c := r.spawnAt("web", free(t), "--stop-timeout", "200ms", "--", "sh", "-c", "trap '' TERM; echo stubborn; while :; do sleep 0.1; done")
	testmesh.Eventually(t, "the application starts", func() bool { return strings.Contains(c.log.String(), "stubborn") }, c.log.String)
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	if got := c.status(t); got != 128+9 {
		t.Errorf("status %d, want 137\n%s", got, c.log)
	}
	c = r.spawnAt("web", free(t), "--", filepath.Join(t.TempDir(), "nothing"))
	if got := c.status(t); got != notFound || !strings.Contains(c.log.String(), "cannot run") {
		t.Errorf("status %d, want 127\n%s", got, c.log)
	}
	r.end()
}

// TestNotBegun: an application that was to run and did not is no success, whoever stopped it; one that has ended keeps its status, whatever becomes of the sidecar.
func TestNotBegun(t *testing.T) {
	r := newLaunchRig(t)
	nobody := free(t)
	for name, stop := range map[string]func(c *child){
		"SIGTERM": func(c *child) { _ = c.cmd.Process.Signal(syscall.SIGTERM) },
		"quit": func(c *child) {
			if resp, err := http.Post("http://"+c.admin+"/quit", "", nil); err != nil || resp.StatusCode != 202 {
				t.Errorf("quit: %v, %v", resp, err)
			}
		},
	} {
		c := r.spawnAt("web", free(t), "--controller", nobody, "--", "echo", "was", "run")
		testmesh.Eventually(t, "the page answers", func() bool { code, _ := readyz(c.admin); return code == 503 }, c.log.String)
		stop(c)
		if got := c.status(t); got != 128+15 || strings.Contains(c.log.String(), "was run") || !strings.Contains(c.log.String(), "was not started") {
			t.Errorf("%s: status %d, want 143\n%s", name, got, c.log)
		}
	}
	r.end()
	l := &launcher{appDone: true}
	if l.fail(1); l.status != 0 {
		t.Errorf("a job that succeeded ends with %d", l.status)
	}
}

// TestWait: it says what the sidecar is missing, or that there is none, and ends at once when it is ready.
func TestWait(t *testing.T) {
	why := "no certificate yet"
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			http.NotFound(w, r)
		} else if why != "" {
			http.Error(w, "not ready: "+why, http.StatusServiceUnavailable)
		}
	}))
	defer page.Close()
	at := page.Listener.Addr().String()
	err := wait(context.Background(), at, time.Second) // enough for an answer on a machine that is busy
	if err == nil || !strings.Contains(err.Error(), at+" says: not ready: no certificate yet") {
		t.Errorf("got %v", err)
	}
	why = ""
	_, port, _ := net.SplitHostPort(at)
	if err := wait(context.Background(), "0.0.0.0:"+port, time.Minute); err != nil {
		t.Error(err)
	}
	nobody := free(t)
	if err := wait(context.Background(), nobody, 30*time.Millisecond); err == nil || !strings.Contains(err.Error(), "no sidecar answers at "+nobody) || !strings.Contains(err.Error(), "--admin") {
		t.Errorf("got %v", err)
	}
	// As a program, which becomes the command.
	cmd := exec.Command(os.Args[0], "--wait", "--admin", at, "--", "sh", "-c", "echo $$; exit 3")
	cmd.Env = append(os.Environ(), asSidecar+"=1")
	out, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != 3 || strings.TrimSpace(string(out)) != strconv.Itoa(cmd.Process.Pid) {
		t.Errorf("%v: %q, want process %d", err, out, cmd.Process.Pid)
	}
}

func TestLifeFlags(t *testing.T) {
	file, state := bundle(t), t.TempDir()
	needed := []string{"--instance", "cart-1", "--service", "cart", "--bundle", file, "--state-dir", state}
	c, err := parse(append(needed, "--", "app", "--flag", "--"), noEnv, os.Stderr)
	if err != nil || strings.Join(c.command, "|") != "app|--flag|--" || strings.Join(c.flags, "|") != strings.Join(needed, "|") {
		t.Errorf("%v: command %q, flags %q", err, c.command, c.flags)
	}
	if _, err := parse([]string{"--wait"}, noEnv, os.Stderr); err != nil {
		t.Errorf("--wait needs nothing else: %v", err)
	}
	for want, args := range map[string][]string{
		"--quit runs no COMMAND": {"--quit", "--", "app"},
		"want one of them":       {"--quit", "--wait"},
		"--hot-restart is for":   {"--wait", "--hot-restart"},
		"--wait-timeout 0s":      append(needed, "--wait-timeout", "0s"),
		"--stop-timeout -1s":     append(needed, "--stop-timeout", "-1s"),
		"--drain-delay -1s":      append(needed, "--drain-delay", "-1s"),
		"--env-file is for":      append(needed, "--env-file", "x"),
		`--admin "x"`:            {"--wait", "--admin", "x"},
	} {
		if _, err := parse(args, noEnv, os.Stderr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: got %v, want %q", args, err, want)
		}
	}
	env := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(env, []byte("# comment\n\nTULLE_LOG_LEVEL=debug\nA=b=c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := readEnv(env); err != nil || strings.Join(got, "|") != "TULLE_LOG_LEVEL=debug|A=b=c" {
		t.Errorf("%q %v", got, err)
	}
	_ = os.WriteFile(env, []byte("\nnothing\n"), 0o600)
	if _, err := readEnv(env); err == nil || !strings.Contains(err.Error(), "line 2: want KEY=VALUE") {
		t.Errorf("%v", err)
	}
}
