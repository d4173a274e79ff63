package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/identity/join"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/sidecar"
)

// A bad entry is a problem that says where and what to do; the others are read.
func TestNodeFile(t *testing.T) {
	c := config{stateDir: "/state", trustDomain: "test", accessFile: "-"}
	entries, problems, err := parseNode([]byte(`workloads:
  - instance: web-1
    service: web
  - {instance: cart-1, service: cart, namespace: shop, version: v2, serviceAccount: carts, netns: cart, stateDir: /cart/, tokenFile: /t, accessLogFile: /log, share: 3}
  - {instance: web-1, service: other}
  - {instance: thief, service: cart, stateDir: /cart}
  - {service: nameless}
  - {instance: serviceless}
  - {instance: typo, service: a, tokenfile: /t}
  - {instance: twice, service: a, service: b}
  - {instance: shape, service: [a]}
  - {instance: many, service: a, share: 0}
  - {instance: few, service: a, share: some}
  - {instance: ../up, service: a}
  - {instance: where, service: a, namespace: "a b"}
  - just words
`), c)
	if err != nil {
		t.Fatal(err)
	}
	want := []entry{
		{Instance: "web-1", Service: "web", Namespace: "default", ServiceAccount: "web", StateDir: "/state/web-1", AccessLogFile: "-", Share: 1},
		{Instance: "cart-1", Service: "cart", Namespace: "shop", Version: "v2", ServiceAccount: "carts", Netns: "cart", StateDir: "/cart", TokenFile: "/t", AccessLogFile: "/log", Share: 3},
	}
	if !slices.Equal(entries, want) {
		t.Errorf("got %+v", entries)
	}
	said := make([]string, len(problems))
	for i, p := range problems {
		said[i] = p.String()
	}
	for i, want := range []string{
		"line 5: workload web-1: is in the file twice, first in line 2; remove one",
		"line 6: workload thief: stateDir: /cart is that of workload cart-1 too",
		"line 7: instance: is missing",
		"line 8: workload serviceless: service: is missing",
		"line 9: workload typo: tokenfile: unknown field; known are instance, service,",
		"line 10: workload twice: service: is given twice",
		"line 11: workload shape: service: must be a single value",
		"line 12: workload many: share: 0: must be from 1 to 100",
		"line 13: workload few: share: must be a whole number",
		`line 14: workload ../up: instance: "../up" must not contain slashes`,
		"line 15: workload where: namespace or serviceAccount:",
		"line 16: must be a workload with the fields",
	} {
		if i >= len(said) || !strings.HasPrefix(said[i], want) {
			t.Errorf("want %q in\n%s", want, strings.Join(said, "\n"))
		}
	}
	if len(said) != 12 {
		t.Errorf("%d problems", len(said))
	}
	for content, want := range map[string]string{
		"":                         "is empty",
		"workloads: [":             "line 1: did not find",
		"a: b":                     "must be one field, workloads",
		"workloads: {}":            "must be one field, workloads",
		"- a":                      "must be one field, workloads",
		"workloads: []\n---\na: 1": "more than one YAML document",
		"workloads: [" + strings.Repeat("{},", maxNode+1) + "]": "has 257 entries, at most 256",
	} {
		if _, _, err := parseNode([]byte(content), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: got %v, want %q", content, err, want)
		}
	}
	if entries, problems, err := parseNode([]byte("workloads: []"), c); err != nil || len(entries)+len(problems) != 0 {
		t.Errorf("none: %v %v %v", entries, problems, err)
	}
}

func TestParseNode(t *testing.T) {
	file := bundle(t)
	c, err := parse([]string{"--node", "n.yaml", "--bundle", file, "--state-dir", "/state"}, noEnv, io.Discard)
	if err != nil || c.node != "n.yaml" || c.trustDomain != "test" || c.nodeBuffers != 1<<30 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, bad := range []struct {
		args []string
		want string
	}{
		{[]string{"--bundle", file, "--instance", "a"}, "--instance: is of one workload, and --node has several: write it as instance of the workload in n.yaml"},
		{[]string{"--bundle", file, "--namespace", "a"}, "--namespace: is of one workload"},
		{[]string{"--bundle", file, "--token-file", "a"}, "--token-file: is of one workload"},
		{nil, "--bundle is missing"},
		{[]string{"--bundle", file, "--hot-restart"}, "--hot-restart of a node: --state-dir is missing"},
		{[]string{"--bundle", file, "--", "app"}, "--node: COMMAND is for a sidecar of one workload"},
		{[]string{"--bundle", file, "--node-buffer-bytes", "5"}, "--node-buffer-bytes 5: want 1048576 to"},
	} {
		if _, err := parse(append([]string{"--node", "n.yaml"}, bad.args...), noEnv, io.Discard); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%v: want %q, got %v", bad.args, bad.want, err)
		}
	}
}

// What is divided adds up to no more than there is, in the ratio of the shares, and everybody gets something.
func TestShares(t *testing.T) {
	if got := shareOf(1, 4, 2, 1<<30, 4096+nodeFiles+2*unitFiles); got != (sidecar.Share{BufferBytes: 1 << 28, Connections: 512}) {
		t.Errorf("a quarter: %+v", got)
	}
	if got := shareOf(1, 1, 1, 1<<30, 10); got.Connections != 1 {
		t.Errorf("without descriptors: %+v", got)
	}
	var sum sidecar.Share
	parts := []int{1, 2, 3, 7, 100}
	for _, p := range parts {
		s := shareOf(p, 113, len(parts), 1000, 10_000)
		sum.BufferBytes += s.BufferBytes
		sum.Connections += s.Connections
	}
	if sum.BufferBytes > 1000 || 2*sum.Connections > 10_000 {
		t.Errorf("more than there is: %+v", sum)
	}
}

// nodeRig is a node with its file.
type nodeRig struct {
	t     *testing.T
	m     *mesh
	file  string
	admin string
	log   *output
	stop  func()
}

// entryOf is a line of a node's file; each service has one account and a token.
func (m *mesh) entryOf(service, more string) string {
	file := filepath.Join(m.dir, service+".token")
	if _, err := os.Stat(file); err != nil {
		if err := os.WriteFile(file, []byte(m.token("shop", service)), 0o600); err != nil {
			m.t.Fatal(err)
		}
	}
	return fmt.Sprintf("  - {instance: %s-1, service: %s, namespace: shop, tokenFile: %s%s}\n", service, service, file, more)
}

func (n *nodeRig) write(entries ...string) {
	n.t.Helper()
	next := n.file + ".next"
	if err := os.WriteFile(next, []byte("workloads:\n"+strings.Join(entries, "")), 0o600); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Rename(next, n.file); err != nil {
		n.t.Fatal(err)
	}
}

func (m *mesh) node(flags []string, entries ...string) *nodeRig {
	m.t.Helper()
	n := &nodeRig{t: m.t, m: m, file: filepath.Join(m.dir, "node.yaml"), admin: free(m.t), log: &output{}}
	n.write(entries...)
	c, err := parse(append([]string{
		"--node", n.file, "--bundle", m.bundle, "--state-dir", filepath.Join(m.dir, "node"), "--admin", n.admin, "--controller", m.controller, "--otlp", m.otlp,
	}, flags...), noEnv, io.Discard)
	if err != nil {
		m.t.Fatal(err)
	}
	n.stop = start(m.t, "node", func(ctx context.Context) error { return serveNode(ctx, c, n.log, n.log) })
	waitReady(m.t, n.admin, n.log)
	return n
}

func (n *nodeRig) get(path string) (int, string) {
	n.t.Helper()
	res, err := http.Get("http://" + n.admin + path)
	if err != nil {
		n.t.Fatal(err)
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

type workloadRow struct {
	Instance, Identity, Missing string
	BootID                      string `json:"boot_id"`
	Ready                       bool
	Connections                 int
	BufferBytes                 int64 `json:"buffer_bytes"`
}

// rows are what /workloads says, and its problems.
func (n *nodeRig) rows() (rows []workloadRow, problems []string) {
	n.t.Helper()
	_, body := n.get("/workloads")
	var page struct {
		Workloads []workloadRow
		Problems  []string
	}
	if err := json.Unmarshal([]byte(body), &page); err != nil {
		n.t.Fatalf("%v: %s", err, body)
	}
	return page.Workloads, page.Problems
}

func (n *nodeRig) eventually(what string, ok func(rows []workloadRow, problems []string) bool) {
	n.t.Helper()
	testmesh.Eventually(n.t, what, func() bool { return ok(n.rows()) }, func() string { _, body := n.get("/workloads"); return body + n.log.String() })
}

// TestNode: two workloads in one process call each other over mTLS, each with its own identity, state and reports. Workloads come and go, entries are broken and
// repaired, and a request in flight of another workload notices nothing of it.
func TestNode(t *testing.T) {
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			arrived <- struct{}{}
			<-release
		}
		_, _ = io.WriteString(w, "hello")
	}))
	defer app.Close()
	inbound, outbound, late := free(t), free(t), free(t)
	m := newMesh(t, fmt.Sprintf(twoWorkloads, outbound, inbound, app.Listener.Addr())+fmt.Sprintf(`---
apiVersion: tulle.dev/v1alpha1
kind: Workload
metadata: {name: late-1, namespace: shop}
spec:
  service: late
  upstreams: [{service: cart, listen: %q}]
`, late))
	web, cart, third := m.entryOf("web", ""), m.entryOf("cart", ""), m.entryOf("late", "")
	n := m.node([]string{"--access-log", "json"}, web, cart)
	call := func(at, path string) (int, string) {
		res, err := http.Get("http://" + at + path)
		if err != nil {
			return 0, err.Error()
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	if code, body := call(outbound, "/"); code != 200 || body != "hello" {
		t.Fatalf("got %d %q", code, body)
	}
	rows, problems := n.rows()
	if len(rows) != 2 || len(problems) != 0 || rows[0].Identity != "spiffe://tulle.local/ns/shop/sa/cart" || rows[1].Identity != "spiffe://tulle.local/ns/shop/sa/web" ||
		rows[0].BootID == rows[1].BootID || rows[0].BufferBytes != 1<<29 {
		t.Fatalf("%+v %v", rows, problems)
	}
	testmesh.Eventually(t, "web's metrics have its request", func() bool { // a Record closes a moment after its answer
		_, body := n.get("/workloads/web-1/metrics")
		return strings.Contains(body, `tulle_requests_total{side="client",source="web",destination="cart"`)
	})
	if _, body := n.get("/workloads/web-1/metrics"); strings.Contains(body, `side="server"`) {
		t.Errorf("web's metrics have cart's:\n%s", body)
	}
	if _, body := n.get("/metrics"); !strings.Contains(body, "tulle_node_workloads 2\n") || !strings.Contains(body, `tulle_node_workload_ready{instance="web-1",service="web",namespace="shop"} 1`) {
		t.Errorf("the node's metrics:\n%s", body)
	}
	if code, body := n.get("/workloads/nobody/readyz"); code != 404 || !strings.Contains(body, `no workload "nobody"`) {
		t.Errorf("%d %s", code, body)
	}
	if _, body := n.get("/sd"); !strings.Contains(body, `"__metrics_path__": "/workloads/cart-1/metrics"`) {
		t.Errorf("service discovery: %s", body)
	}
	for _, dir := range []string{"web-1", "cart-1"} {
		if _, err := os.Stat(filepath.Join(m.dir, "node", dir, "identity.pem")); err != nil {
			t.Errorf("state of %s: %v", dir, err)
		}
	}

	// From here on a request is in flight from web to cart.
	slow := make(chan string, 1)
	go func() {
		_, body := call(outbound, "/slow")
		slow <- body
	}()
	<-arrived
	n.write(web, cart, third)
	n.eventually("a third workload is ready", func(rows []workloadRow, _ []string) bool {
		return len(rows) == 3 && rows[1].Instance == "late-1" && rows[1].Ready && rows[0].BufferBytes == 1<<30/3
	})
	if code, body := call(late, "/"); code != 200 || body != "hello" {
		t.Errorf("the third workload: %d %q", code, body)
	}
	before, _ := n.rows()
	n.write(web, strings.Replace(cart, "tokenFile", "token", 1), third, "  - {instance: bad}\n")
	n.eventually("two problems", func(rows []workloadRow, problems []string) bool { return len(problems) == 2 })
	rows, problems = n.rows()
	if !slices.Equal(rows, before) || !strings.Contains(problems[0], "workload cart-1: token: unknown field") || !strings.Contains(problems[0], "last valid version stays in force") {
		t.Errorf("a bad entry: %+v %q", rows, problems)
	}
	if code, body := n.get("/readyz"); code != 503 || !strings.Contains(body, "unknown field") {
		t.Errorf("a node with a bad entry is ready: %d %s", code, body)
	}
	if code, _ := n.get("/workloads/cart-1/readyz"); code != 200 {
		t.Error("a workload whose entry is bad is not ready")
	}
	if err := os.WriteFile(n.file, []byte("workloads: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	n.eventually("the file is broken", func(rows []workloadRow, problems []string) bool {
		return len(problems) == 1 && strings.Contains(problems[0], "all workloads stay as they are") && slices.Equal(rows, before)
	})
	n.write(web, m.entryOf("cart", ", share: 2"))
	n.eventually("the third workload is gone, and cart has a greater share", func(rows []workloadRow, problems []string) bool {
		return len(problems) == 0 && len(rows) == 2 && rows[0].BufferBytes == 1<<30*2/3 && rows[0].BootID == before[0].BootID && rows[1].BootID == before[2].BootID
	})
	if code, body := call(late, "/"); code != 0 {
		t.Errorf("the workload that was removed answers: %d %s", code, body)
	}
	http.DefaultClient.CloseIdleConnections() // a request on one that the old data plane has kept could meet its end, and be sent twice
	n.write(m.entryOf("web", ", version: v2"), m.entryOf("cart", ", share: 2"))
	n.eventually("web drains", func(rows []workloadRow, _ []string) bool {
		return slices.ContainsFunc(rows, func(r workloadRow) bool { return r.Missing == "draining" && r.BootID == before[2].BootID })
	})
	close(release)
	if body := <-slow; body != "hello" {
		t.Errorf("the request in flight: %q", body)
	}
	n.eventually("web has started again", func(rows []workloadRow, _ []string) bool {
		return len(rows) == 2 && rows[1].Ready && rows[1].BootID != before[2].BootID && rows[0].BootID == before[0].BootID
	})
	if code, body := call(outbound, "/"); code != 200 || body != "hello" {
		t.Errorf("after the restart: %d %q", code, body)
	}
	http.DefaultClient.CloseIdleConnections()
	n.stop()
	o := m.observed
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.spans["web exchange client"] != 3 || o.spans["late exchange client"] != 1 || o.spans["cart exchange server"] != 4 {
		t.Errorf("spans: %v\n%s", o.spans, n.log.String())
	}
	for _, service := range []string{"web", "cart", "late"} {
		if want := []string{"spiffe://tulle.local/ns/shop/sa/" + service}; !slices.Equal(o.reporters[service], want) || !o.metrics.goodbye[service] {
			t.Errorf("%s was reported by %v, want %v; goodbye %v", service, o.reporters[service], want, o.metrics.goodbye)
		}
	}
	if log := n.log.String(); !strings.Contains(log, `"tulle.source.instance":"late-1"`) {
		t.Error("the access log has nothing of the third workload")
	}
}

// judge is a member of the mesh in the place of a sidecar and its service: it answers with the identity that the caller has proven.
func (m *mesh) judge(service string, protocols ...string) (address string) {
	m.t.Helper()
	controllerID, _ := identity.Controller(domain)
	id, _ := identity.Workload(domain, "shop", service)
	holder := &identity.Holder{}
	joining, err := join.New(join.Config{
		Controller: m.controller, ControllerID: controllerID, ID: id, Token: m.token("shop", service), BundleFile: m.bundle,
		StateDir: filepath.Join(m.dir, "judge-"+service), Holder: holder,
	})
	if err != nil {
		m.t.Fatal(err)
	}
	joined := make(chan struct{})
	start(m.t, "the judge's identity", func(ctx context.Context) error { return joining.Run(ctx, func() { close(joined) }) })
	<-joined
	secure := holder.ServerTLS()
	secure.NextProtos = protocols
	l, err := tls.Listen("tcp", "127.0.0.1:0", secure)
	if err != nil {
		m.t.Fatal(err)
	}
	srv := &http.Server{
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, identity.PeerID(*r.TLS))
		}),
	}
	go func() { _ = srv.Serve(l) }()
	m.t.Cleanup(func() { _ = srv.Close() })
	return l.Addr().String()
}

// TestNodeIdentities: three workloads of one process call one service by the thousand at the same time, on kept and on new connections, and each call proves the
// identity of the workload that made it, of no other; also while one of them leaves and comes back.
func TestNodeIdentities(t *testing.T) {
	outbound := map[string]string{"web": free(t), "cart": free(t), "late": free(t)}
	var config strings.Builder
	config.WriteString("apiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: judge-1, namespace: shop}\nspec:\n  service: judge\n  ports: [{listen: JUDGE, target: \"127.0.0.1:9\"}]\n")
	for service, at := range outbound {
		fmt.Fprintf(&config, "---\napiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: %s-1, namespace: shop}\nspec:\n  service: %s\n  upstreams: [{service: judge, listen: %q}]\n", service, service, at)
	}
	reserved := free(t)
	m := newMesh(t, strings.Replace(config.String(), "JUDGE", fmt.Sprintf("%q", reserved), 1))
	at := m.judge("judge", "h2", "http/1.1")
	forward(t, reserved, at)
	entries := map[string]string{}
	for service := range outbound {
		entries[service] = m.entryOf(service, "")
	}
	n := m.node(nil, entries["web"], entries["cart"], entries["late"])
	var wg sync.WaitGroup
	var calls atomic.Int64
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	prior := &http.Protocols{}
	prior.SetUnencryptedHTTP2(true)
	client2 := &http.Client{Transport: &http.Transport{Protocols: prior}, Timeout: 20 * time.Second}
	defer client2.CloseIdleConnections()
	for service, at := range outbound {
		want := "spiffe://tulle.local/ns/shop/sa/" + service
		for range 4 {
			wg.Go(func() {
				for i := range 250 {
					c := client
					if i%2 == 0 {
						c = client2
					}
					res, err := c.Get("http://" + at + "/")
					if err != nil {
						if service != "late" { // it leaves meanwhile
							t.Errorf("%s: %v", service, err)
						}
						time.Sleep(time.Millisecond)
						continue
					}
					b, _ := io.ReadAll(res.Body)
					_ = res.Body.Close()
					if res.StatusCode == 200 {
						calls.Add(1)
					}
					if got := string(b); res.StatusCode == 200 && got != want || res.StatusCode != 200 && service != "late" {
						t.Errorf("a call of %s was made as %q, status %d", service, got, res.StatusCode)
						return
					}
				}
			})
		}
	}
	n.write(entries["web"], entries["cart"])
	n.eventually("one has left", func(rows []workloadRow, _ []string) bool { return len(rows) == 2 })
	n.write(entries["web"], entries["cart"], entries["late"])
	n.eventually("it is back", func(rows []workloadRow, _ []string) bool { return len(rows) == 3 && rows[1].Ready })
	wg.Wait()
	t.Logf("%d calls", calls.Load())
	if calls.Load() < 2000 {
		t.Errorf("only %d calls were judged", calls.Load())
	}
	res, err := client.Get("http://" + outbound["late"] + "/")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	_ = res.Body.Close()
	if string(b) != "spiffe://tulle.local/ns/shop/sa/late" {
		t.Errorf("after its return: %q", b)
	}
}

// forward relays TCP from one address to another until the test ends.
func forward(t *testing.T, from, to string) {
	t.Helper()
	l, err := net.Listen("tcp", from)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				up, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer up.Close()
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = io.Copy(up, c)
					_ = up.(*net.TCPConn).CloseWrite()
				}()
				_, _ = io.Copy(c, up)
				_ = c.(*net.TCPConn).CloseWrite()
				<-done
			})
		}
	})
}

// TestNodeFlood: callers that hold as many connections and as much memory of one workload as they can get take none of another's: of its requests, not one
// is shed.
func TestNodeFlood(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "hello")
	}))
	defer app.Close()
	flooded, quiet := free(t), free(t)
	config := ""
	for service, at := range map[string]string{"flooded": flooded, "quiet": quiet} {
		config += fmt.Sprintf("---\napiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: %s-1, namespace: shop}\nspec:\n  service: %s\n  ports: [{listen: %q, target: %q, mode: permissive}]\n",
			service, service, at, app.Listener.Addr())
	}
	m := newMesh(t, strings.TrimPrefix(config, "---\n"))
	n := m.node([]string{"--node-buffer-bytes", "4194304"}, m.entryOf("flooded", ""), m.entryOf("quiet", "")) // 2 MiB each: some 80 requests
	rows, _ := n.rows()
	if rows[0].BufferBytes != 2<<20 {
		t.Fatalf("%+v", rows)
	}
	// Each of these has sent a head and a part of a body, and holds its buffers.
	var held []net.Conn
	shed := false
	for i := 0; i < 1000 && !shed; i++ {
		c, err := net.Dial("tcp", flooded)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nbeginning"); err != nil {
			t.Fatal(err)
		}
		if i%50 == 49 {
			_, body := n.get("/workloads/flooded-1/metrics")
			shed = !strings.Contains(body, `tulle_limit_reached_total{limit="bufferBytes"} 0`)
		}
	}
	if !shed {
		t.Fatalf("%d connections did not fill the flooded workload's share", len(held))
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}, Timeout: 20 * time.Second}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				res, err := client.Post("http://"+quiet+"/", "text/plain", strings.NewReader(strings.Repeat("x", 20_000)))
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				if res.StatusCode != 200 {
					t.Errorf("a request to the quiet workload got %s, %s", res.Status, res.Header.Get("x-tulle-reason"))
					return
				}
			}
		})
	}
	wg.Wait()
	if res, err := client.Get("http://" + flooded + "/"); err == nil {
		if res.StatusCode != 503 || res.Header.Get("x-tulle-reason") != "shed" {
			t.Errorf("the flooded workload is not full any more: %s", res.Status)
		}
		_ = res.Body.Close()
	}
	_, body := n.get("/workloads/quiet-1/metrics")
	if !strings.Contains(body, `tulle_limit_reached_total{limit="bufferBytes"} 0`) || !strings.Contains(body, "tulle_buffer_limit_bytes 2.097152e+06") && !strings.Contains(body, "tulle_buffer_limit_bytes 2097152") {
		t.Errorf("the quiet workload's limits:\n%s", body)
	}
}
