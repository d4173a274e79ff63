//go:build unix

package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/loadtest/shop"
)

// keptAlerts is how many notifications the webhook receiver remembers; older ones are dropped.
const keptAlerts = 100

// Notification is one body that the webhook receiver got.
type Notification struct {
	Received time.Time       `json:"received"`
	Body     json.RawMessage `json:"body"`
}

// webhook is the demo's own receiver: POST takes a notification, GET / shows the last keptAlerts, oldest first.
type webhook struct {
	mu    sync.Mutex
	kept  []Notification
	heard func(Notification) // called for each, in order; must not block
}

func (h *webhook) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		b, err := json.MarshalIndent(append([]Notification{}, h.kept...), "", "  ")
		h.mu.Unlock()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(b, '\n'))
	})
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
		if err != nil || !json.Valid(b) {
			http.Error(w, "the body must be JSON of at most 1 MiB", http.StatusBadRequest)
			return
		}
		n := Notification{Received: time.Now(), Body: b}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.kept = append(h.kept, n)
		if len(h.kept) > keptAlerts {
			h.kept = h.kept[len(h.kept)-keptAlerts:]
		}
		if h.heard != nil {
			h.heard(n)
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return shop.LoopbackOnly(mux)
}

// run serves on address until ctx ends.
func (h *webhook) run(ctx context.Context, address string, ready func()) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("webhook receiver: %w; choose another address with --webhook", err)
	}
	srv := &http.Server{Handler: h.handler(), ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	ready()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if srv.Shutdown(stop) != nil {
		srv.Close()
	}
	_ = <-failed // http.ErrServerClosed
	return nil
}

// alertLine is a notification in one line: status and alert names, then the body, shortened.
func alertLine(n Notification) (status, line string) {
	var body struct {
		Status string `json:"status"`
		Alerts []struct {
			Status string            `json:"status"`
			Labels map[string]string `json:"labels"`
		} `json:"alerts"`
	}
	_ = json.Unmarshal(n.Body, &body)
	status = body.Status
	for i, a := range body.Alerts {
		if i > 0 {
			line += ", "
		}
		line += a.Labels["alertname"]
		if s := a.Labels["service"]; s != "" {
			line += " on " + s
		}
		if e := a.Labels["endpoint"]; e != "" {
			line += " (" + e + ")"
		}
	}
	short := string(n.Body)
	if len(short) > 160 {
		short = short[:160] + "…"
	}
	return status, line + " " + short
}
