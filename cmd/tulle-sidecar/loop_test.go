package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// The whole sidecar against a real controller and a real OTLP server, all over mTLS: two sidecars join by token, get their policy, carry
// requests, and what they say adds up exactly; then both restart without controller and token and still serve.
func TestTwoSidecars(t *testing.T) {
	var appSaw sync.Map
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		appSaw.Store(r.URL.RawQuery, r.Header.Get("Traceparent"))
		if strings.HasPrefix(r.URL.Path, "/fail") {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = io.WriteString(w, "hello")
	}))
	defer app.Close()
	inbound, outbound := free(t), free(t)
	config := fmt.Sprintf(`apiVersion: tulle.dev/v1alpha1
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
  version: v1
  ports: [{listen: %q, target: %q}]
`, outbound, inbound, app.Listener.Addr())
	m := newMesh(t, config)
	o := m.observed

	log := &output{}
	sidecar := func(service, token string) (stop func()) {
		admin := free(t)
		env := func(k string) (string, bool) { return token, k == "TULLE_JOIN_TOKEN" && token != "" }
		cfg, err := parse(m.flags(service, admin), env, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		stop = start(t, service, func(ctx context.Context) error { return serve(ctx, cfg, io.Discard, log) })
		waitReady(t, admin, log)
		return stop
	}
	stopCart := sidecar("cart", m.token("shop", "cart"))
	stopWeb := sidecar("web", m.token("shop", "web"))

	client := &http.Client{Transport: &http.Transport{}}
	get := func(path string) (int, string) {
		t.Helper()
		res, err := client.Get("http://" + outbound + path)
		if err != nil {
			t.Fatalf("%v\n%s", err, log)
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	const requests, failing = 60, 7
	for i := range requests {
		path, want := fmt.Sprintf("/items/%d?card=SECRET%d", i, i), 200
		if i < failing {
			path, want = "/fail"+path, 500
		}
		if code, body := get(path); code != want || body != "hello" {
			t.Fatalf("request %d: %d %q\n%s", i, code, body, log)
		}
	}
	if v, ok := appSaw.Load("card=SECRET9"); !ok || v == "" {
		t.Errorf("the application must see the query and a traceparent: %v %v", v, ok)
	}
	client.CloseIdleConnections()
	stopWeb()
	stopCart()

	o.mu.Lock()
	for what, want := range map[string]int{"web exchange client": requests, "web attempt client": failing, "cart exchange server": requests} {
		if o.spans[what] != want {
			t.Errorf("%d spans of %q, want %d (all: %v)", o.spans[what], what, want, o.spans)
		}
	}
	for what, want := range map[string]int64{
		"web tulle.exchanges client": requests, "web tulle.attempts": requests, "cart tulle.exchanges server": requests,
		"web tulle.version.exchanges client": requests,
	} {
		if got := o.metrics.counts[what]; got != want {
			t.Errorf("%s = %d, want %d (all: %v)", what, got, want, o.metrics.counts)
		}
	}
	if !o.metrics.goodbye["web"] || !o.metrics.goodbye["cart"] {
		t.Errorf("goodbyes: %v", o.metrics.goodbye)
	}
	if bytes.Contains(o.raw.Bytes(), []byte("SECRET")) || strings.Contains(log.String(), "SECRET") {
		t.Error("a query string left a sidecar")
	}
	o.mu.Unlock()

	// Both again, with neither controller nor token: key, certificate and policy come from the state directory.
	m.stopController()
	stopCart = sidecar("cart", "")
	stopWeb = sidecar("web", "")
	if code, body := get("/items/again"); code != 200 || body != "hello" {
		t.Errorf("after a restart without controller: %d %q\n%s", code, body, log)
	}
	client.CloseIdleConnections()
	stopWeb()
	stopCart()
}
