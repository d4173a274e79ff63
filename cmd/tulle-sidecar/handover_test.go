//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// echo is an application with a plain page and a WebSocket that answers each message with itself.
func echo(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/socket" {
		_, _ = io.WriteString(w, "hello")
		return
	}
	up := websocket.Upgrader{}
	c, err := up.Upgrade(w, r, nil)
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
}

// load keeps asking until stop, over connections that are kept and over ones that are not, and counts what was answered and what was not.
type load struct {
	good, bad atomic.Int64
	first     atomic.Pointer[error]
	stop      context.CancelFunc
	wg        sync.WaitGroup
}

func newLoad(url string, kept, fresh int) *load {
	l := &load{}
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	for i := range kept + fresh {
		l.wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: i >= kept}}
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				if err := once(client, url); err != nil {
					l.bad.Add(1)
					l.first.CompareAndSwap(nil, &err)
				} else {
					l.good.Add(1)
				}
			}
		})
	}
	return l
}

func once(client *http.Client, url string) error {
	res, err := client.Post(url, "text/plain", strings.NewReader("x")) // a request that no client sends again by itself
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 200 || string(b) != "hello" {
		return fmt.Errorf("%d %q %w", res.StatusCode, b, err)
	}
	return nil
}

// end stops the load and reports what was not answered.
func (l *load) end(t *testing.T) (good int64) {
	t.Helper()
	l.stop()
	l.wg.Wait()
	if n := l.bad.Load(); n > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", n, n+l.good.Load(), *l.first.Load())
	}
	return l.good.Load()
}

// more waits until so many more requests were answered.
func (l *load) more(t *testing.T, n int64) {
	t.Helper()
	want := l.good.Load() + n
	testmesh.Eventually(t, "more requests are answered", func() bool { return l.good.Load() >= want || l.bad.Load() > 0 })
}

// TestHotRestart replaces both sidecars of a hop, twice each, under load: no request fails, a WebSocket stays with the process that has it until that
// one's drain is over, the admin page always answers and always says ready, and what all processes counted adds up exactly.
func TestHotRestart(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(echo))
	defer app.Close()
	inbound, outbound := free(t), free(t)
	m := newMesh(t, fmt.Sprintf(twoWorkloads, outbound, inbound, app.Listener.Addr()))
	const drain = "--drain-timeout=30s" // longer than a slow machine takes for all that follows
	current := map[string]*child{"cart": m.spawnAt("cart", free(t), drain), "web": m.spawnAt("web", free(t), drain)}
	for _, c := range current {
		waitReady(t, c.admin, c.log)
	}
	socket, _, err := websocket.DefaultDialer.Dial("ws://"+outbound+"/socket", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	say := func(what string) error {
		if err := socket.WriteMessage(websocket.TextMessage, []byte(what)); err != nil {
			return err
		}
		_ = socket.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, b, err := socket.ReadMessage()
		if err == nil && string(b) != what {
			err = fmt.Errorf("got %q", b)
		}
		return err
	}
	if err := say("one"); err != nil {
		t.Fatal(err)
	}

	probing, stopProbing := context.WithCancel(t.Context())
	var probes sync.WaitGroup
	for _, c := range current {
		probes.Go(func() {
			for probing.Err() == nil {
				if code, body := readyz(c.admin); code != 200 {
					t.Errorf("readyz of %s: %d %s", c.admin, code, body)
					return
				}
			}
		})
	}
	l := newLoad("http://"+outbound+"/", 6, 2)
	l.more(t, 200)
	var old []*child
	for range 2 {
		for _, service := range []string{"cart", "web"} {
			before := current[service]
			next := m.spawnAt(service, before.admin, drain)
			testmesh.Eventually(t, "it takes over", func() bool { return strings.Contains(next.log.String(), "taken over") }, next.log.String, before.log.String)
			current[service] = next
			old = append(old, before)
			l.more(t, 300)
			if err := say(service); err != nil {
				t.Errorf("the WebSocket after %s was replaced: %v", service, err)
			}
		}
	}
	stopProbing()
	probes.Wait()
	// Open while processes are replaced, and closed in order: each old process ends by itself.
	_ = socket.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
	_, _, _ = socket.ReadMessage()
	_ = socket.Close()
	for _, c := range old {
		c.terminated(t)
		if !strings.Contains(c.log.String(), "handed over") {
			t.Errorf("log: %s", c.log)
		}
	}
	good := l.end(t)
	for _, c := range current {
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
		c.terminated(t)
	}
	o := m.observed
	o.mu.Lock()
	defer o.mu.Unlock()
	for what, want := range map[string]int64{
		"web tulle.exchanges client": good + 1, "cart tulle.exchanges server": good + 1, "web tulle.attempts": good + 1, // and the WebSocket
	} {
		if got := o.metrics.counts[what]; got != want {
			t.Errorf("%s = %d, want %d", what, got, want)
		}
	}
	if len(o.metrics.before) != 4 || len(o.metrics.last) != 6 {
		t.Errorf("%d boots, predecessors %v", len(o.metrics.last), o.metrics.before)
	}
	for boot := range o.metrics.last {
		if !o.metrics.goodbye[boot] {
			t.Errorf("boot %s has not said goodbye", boot)
		}
	}
	for boot, before := range o.metrics.before {
		if o.metrics.last[before] == nil {
			t.Errorf("boot %s came after %s, which never reported", boot, before)
		}
	}
}

// TestHotRestartWithoutController: the new process serves with the certificate and the policy on disk.
func TestHotRestartWithoutController(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(echo))
	defer app.Close()
	inbound, outbound := free(t), free(t)
	m := newMesh(t, fmt.Sprintf(twoWorkloads, outbound, inbound, app.Listener.Addr()))
	cart, web := m.spawnAt("cart", free(t), "--drain-timeout=1s"), m.spawn("web")
	waitReady(t, cart.admin, cart.log)
	waitReady(t, web.admin, web.log)
	m.stopController()
	if err := once(http.DefaultClient, "http://"+outbound+"/"); err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	next := m.spawnAt("cart", cart.admin)
	cart.terminated(t)
	if err := once(http.DefaultClient, "http://"+outbound+"/"); err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
	for _, c := range []*child{web, next} {
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
		c.terminated(t)
	}
}

// TestNewOneFails: a new process that cannot serve, or is killed before it does, changes nothing for the one that runs.
func TestNewOneFails(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(echo))
	defer app.Close()
	inbound, outbound := free(t), free(t)
	m := newMesh(t, fmt.Sprintf(twoWorkloads, outbound, inbound, app.Listener.Addr()))
	cart, web := m.spawn("cart"), m.spawn("web")
	waitReady(t, cart.admin, cart.log)
	waitReady(t, web.admin, web.log)
	l := newLoad("http://"+outbound+"/", 2, 1)
	l.more(t, 50)

	// Its admin address is somebody else's.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	bad := m.spawnAt("cart", taken.Addr().String())
	if err := <-bad.ended; err == nil || !strings.Contains(bad.log.String(), "--admin") {
		t.Errorf("%v\n%s", err, bad.log)
	}
	testmesh.Eventually(t, "the old one hears of it", func() bool { return strings.Contains(cart.log.String(), "this one goes on") }, cart.log.String)

	// It is killed while it waits to become ready: the policy on disk is not readable, and the controller is away.
	m.stopController()
	if err := os.WriteFile(filepath.Join(m.dir, "cart", "snapshot.pb"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	slow := m.spawnAt("cart", cart.admin)
	testmesh.Eventually(t, "it has begun", func() bool { return strings.Count(cart.log.String(), "another sidecar is taking over") == 2 }, cart.log.String)
	third := m.spawnAt("cart", cart.admin)
	if err := <-third.ended; err == nil || !strings.Contains(third.log.String(), "is taking over already") {
		t.Errorf("two at once: %v\n%s", err, third.log)
	}
	_ = slow.cmd.Process.Kill()
	<-slow.ended
	testmesh.Eventually(t, "the old one hears of it", func() bool { return strings.Count(cart.log.String(), "this one goes on") == 2 }, cart.log.String)
	l.more(t, 50)
	if code, body := readyz(cart.admin); code != 200 {
		t.Errorf("readyz: %d %s", code, body)
	}
	l.end(t)
	for _, c := range []*child{web, cart} {
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
		c.terminated(t)
	}
	o := m.observed
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.metrics.last) != 2 {
		t.Errorf("%d processes have reported, want the two that served", len(o.metrics.last))
	}
}

// TestHotRestartUnix: a Unix socket is handed over as a port is. Its file stays while one process follows another under load, and goes with the last.
func TestHotRestartUnix(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(echo))
	defer app.Close()
	dir, err := os.MkdirTemp("", "tulle")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "call")
	m := newMesh(t, fmt.Sprintf(twoWorkloads, "unix:"+path, free(t), app.Listener.Addr()))
	cart := m.spawnAt("cart", free(t))
	web := m.spawnAt("web", free(t))
	waitReady(t, cart.admin, cart.log)
	waitReady(t, web.admin, web.log)
	made, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	l := &load{}
	ctx, cancel := context.WithCancel(t.Context())
	l.stop = cancel
	for range 4 {
		l.wg.Go(func() {
			for ctx.Err() == nil {
				if err := once(client, "http://cart/"); err != nil {
					l.bad.Add(1)
					l.first.CompareAndSwap(nil, &err)
				} else {
					l.good.Add(1)
				}
			}
		})
	}
	for range 2 {
		l.more(t, 50)
		next := m.spawnAt("web", web.admin)
		web.terminated(t) // it has handed over
		web = next
		l.more(t, 50)
		if now, err := os.Lstat(path); err != nil || !os.SameFile(made, now) {
			t.Fatalf("the socket's file is another one, or gone: %v", err)
		}
	}
	l.end(t)
	for _, c := range []*child{web, cart} {
		if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		c.terminated(t)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("the last process left the socket's file behind")
	}
}
