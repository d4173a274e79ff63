package alert

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"

	apiv2 "github.com/prometheus/alertmanager/api/v2"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/inhibit"
	"github.com/prometheus/alertmanager/marker"
	"github.com/prometheus/alertmanager/provider"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
)

// APIPrefix is the path below which API answers.
const APIPrefix = "/api/v2/"

// API is Alertmanager's HTTP API, version 2, of what fires, of silences, and for alerts of others. A silence that was acknowledged is on disk. Before Run has begun and
// after it has ended everything is 503.
func (a *Alerting) API() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := a.api.Load()
		if h == nil {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "alerting is not running (yet); try again in a second", http.StatusServiceUnavailable)
			return
		}
		(*h).ServeHTTP(w, r)
	})
}

// serve lets API answer until the returned function is called.
func (a *Alerting) serve(alerts provider.Alerts, d *dispatch.Dispatcher, groups marker.GroupMarker, inhibitor *inhibit.Inhibitor) (stop func(), err error) {
	api, err := apiv2.NewAPI(alerts, d.Groups, groups.Muted, a.silences, nil, a.log, prometheus.NewRegistry())
	if err != nil {
		return nil, err
	}
	api.Update(a.amConfig, func(ctx context.Context, set model.LabelSet) {
		inhibitor.Mutes(ctx, set)
		a.silencer.Mutes(ctx, set)
	})
	var h http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			api.Handler.ServeHTTP(w, r)
			return
		}
		held := &heldAnswer{ResponseWriter: w}
		api.Handler.ServeHTTP(held, r)
		if held.status < 300 {
			if _, err := a.saveSilences(); err != nil {
				a.log.Error("silences cannot be written; they are in force until the end of the process", "dir", a.cfg.DataDir, "err", err)
				http.Error(w, "it is in force, but cannot be written to disk and ends with the process: "+err.Error(), http.StatusInternalServerError)
				return
			}
		}
		held.send()
	})
	a.api.Store(&h)
	return func() { a.api.Store(nil) }, nil
}

// heldAnswer keeps an answer back until what it acknowledges is on disk.
type heldAnswer struct {
	http.ResponseWriter
	status int
	body   []byte
}

func (h *heldAnswer) WriteHeader(status int) {
	if h.status == 0 {
		h.status = status
	}
}

func (h *heldAnswer) Write(b []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	h.body = append(h.body, b...)
	return len(b), nil
}

func (h *heldAnswer) send() {
	if h.status == 0 {
		h.status = http.StatusOK
	}
	h.ResponseWriter.WriteHeader(h.status)
	_, _ = h.ResponseWriter.Write(h.body)
}

// keepSilences forgets those that ended long ago, and writes the others. It is the only way to the file: what was written later has all that was acknowledged before.
func (a *Alerting) keepSilences() (size int64, err error) {
	if _, err := a.silences.GC(); err != nil {
		return 0, err
	}
	return a.saveSilences()
}

// saveSilences writes all silences.
func (a *Alerting) saveSilences() (size int64, err error) {
	a.saving.Lock()
	defer a.saving.Unlock()
	f, err := os.CreateTemp(a.cfg.DataDir, "silences.*.tmp")
	if err != nil {
		return 0, err
	}
	size, err = a.silences.Snapshot(f)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(a.cfg.DataDir, "silences"))
	}
	if err != nil {
		return size, errors.Join(err, os.Remove(f.Name()))
	}
	return size, nil
}
