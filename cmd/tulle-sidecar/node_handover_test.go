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
	"slices"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// again is another process of n's node, with an admin page at address.
func (n *nodeRig) again(address string) config {
	n.t.Helper()
	c, err := parse([]string{
		"--node", n.file, "--bundle", n.m.bundle, "--state-dir", filepath.Join(n.m.dir, "node"), "--admin", address, "--controller", n.m.controller, "--otlp", n.m.otlp,
	}, noEnv, io.Discard)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

// TestNodeHandsOver: under load entries of a node are edited, and then its process is replaced by another one. No request fails, the admin page always says ready, a process
// that cannot serve changes nothing, a workload that the new process does not know is stopped, and what all boots have counted adds up.
func TestNodeHandsOver(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(echo))
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
	entries := map[string]string{"web": m.entryOf("web", ""), "cart": m.entryOf("cart", ""), "late": m.entryOf("late", "")}
	n := m.node(nil, entries["web"], entries["cart"], entries["late"])
	l := newLoad("http://"+outbound+"/", 4, 2)
	l.more(t, 100)
	boots := func() map[string]string {
		rows, _ := n.rows()
		out := map[string]string{}
		for _, r := range rows {
			if r.Ready {
				out[r.Instance] = r.BootID
			}
		}
		return out
	}
	for i := range 4 {
		service := []string{"web", "cart"}[i%2]
		before := boots()
		entries[service] = m.entryOf(service, fmt.Sprintf(", version: v%d", i))
		n.write(entries["web"], entries["cart"], entries["late"])
		testmesh.Eventually(t, service+" is another one", func() bool {
			if code, body := readyz(n.admin); code != 200 {
				t.Fatalf("readyz while %s is replaced: %d %s", service, code, body)
			}
			now := boots()
			return now[service+"-1"] != "" && now[service+"-1"] != before[service+"-1"]
		}, n.log.String)
		l.more(t, 100)
	}

	// A process that cannot serve.
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := serveNode(t.Context(), n.again(taken.Addr().String()), io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), "--admin") {
		t.Errorf("got %v", err)
	}
	testmesh.Eventually(t, "the old process goes on", func() bool { return strings.Contains(n.log.String(), "this one goes on") }, n.log.String)
	l.more(t, 100)

	// Another process, that knows of two of the three.
	before := boots()
	n.write(entries["web"], entries["cart"])
	log := &output{}
	c := n.again(n.admin)
	stop := start(t, "the second process", func(ctx context.Context) error { return serveNode(ctx, c, log, log) })
	testmesh.Eventually(t, "the old process ends", func() bool {
		if code, body := readyz(n.admin); code != 200 {
			t.Fatalf("readyz while the process is replaced: %d %s", code, body)
		}
		return strings.Contains(n.log.String(), "tulle-sidecar stopped")
	}, n.log.String, log.String)
	l.more(t, 100)
	rows, problems := n.rows()
	if len(rows) != 2 || len(problems) != 0 || slices.ContainsFunc(rows, func(r workloadRow) bool { return !r.Ready || r.BootID == before[r.Instance] }) {
		t.Errorf("%+v %v, before %v", rows, problems, before)
	}
	if c, err := net.Dial("tcp", late); err == nil {
		_ = c.Close()
		t.Error("the workload that is not in the file any more accepts")
	}
	good := l.end(t)
	n.stop()
	stop()
	o := m.observed
	o.mu.Lock()
	defer o.mu.Unlock()
	for what, want := range map[string]int64{"web tulle.exchanges client": good, "cart tulle.exchanges server": good} {
		if got := o.metrics.counts[what]; got != want {
			t.Errorf("%s = %d, want %d", what, got, want)
		}
	}
	if len(o.metrics.before) != 6 || len(o.metrics.last) != 9 {
		t.Errorf("%d boots, predecessors %v", len(o.metrics.last), o.metrics.before)
	}
}

// TestNodeFileIsWritten: a file that is read while it is being written changes nothing until it is whole.
func TestNodeFileIsWritten(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(echo))
	defer app.Close()
	m := newMesh(t, fmt.Sprintf(twoWorkloads, free(t), free(t), app.Listener.Addr()))
	web, cart := m.entryOf("web", ""), m.entryOf("cart", "")
	n := m.node(nil, web, cart)
	file := filepath.Join(t.TempDir(), "node.yaml")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("workloads:\n" + web + cart)
	other := &node{c: n.again(free(t)), log: logger(config{}, n.log), units: map[string]*unit{}, looked: true}
	other.c.node, other.seen = file, []byte("workloads:\n"+web+cart)
	for _, half := range []string{"workloads:\n" + web, "", "workloads:\n" + web + cart[:8], "workloads:\n"} {
		write(half)
		other.look(t.Context())
		if len(other.problems) != 0 || string(other.seen) != "workloads:\n"+web+cart {
			t.Errorf("%q was taken for the file: %v", half, other.problems)
		}
	}
	other.look(t.Context())
	if len(other.problems) != 1 {
		t.Errorf("what stays is read: %v", other.problems)
	}
}
