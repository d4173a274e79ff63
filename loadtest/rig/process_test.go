//go:build unix

package rig

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	for line, want := range map[string]string{
		"/x/bin/tulle-sidecar --admin 127.0.0.1:1 --instance catalog-2": "catalog-2-sidecar",
		"/x/bin/tulle shop-service --name web --instance=web":           "web",
		"/x/bin/tulle observer --data-dir /y":                           "observer",
		"sleep":                                                         "sleep",
	} {
		if got := nameOf(strings.Fields(line)); got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

func TestDescendants(t *testing.T) {
	c := exec.Command("sh", "-c", "sleep 60 & echo; wait")
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Process.Kill(); _ = c.Wait() }()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	found, err := Descendants(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var sleep *Process
	for _, p := range found {
		if p.Name == "60" {
			sleep = &p
		}
	}
	if sleep == nil {
		t.Fatalf("the grandchild is not among %+v", found)
	}
	if !alive(sleep.PID) {
		t.Error("a running process is said to be gone")
	}
	if p, err := os.FindProcess(sleep.PID); err == nil {
		_ = p.Kill()
	}
}

func TestMetric(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("# TYPE go_goroutines gauge\ngo_goroutines 42\ngo_goroutines_max 43\n"))
	}))
	defer s.Close()
	if v, ok := Metric(s.URL, "go_goroutines"); !ok || v != 42 {
		t.Error(v, ok)
	}
	if _, ok := Metric(s.URL, "nothing"); ok {
		t.Error("found nothing")
	}
}
