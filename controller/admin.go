package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tulle-mesh/tulle/controller/explain"
	"github.com/tulle-mesh/tulle/controller/lint"
	"github.com/tulle-mesh/tulle/controller/resource"
)

// admin serves /metrics, /healthz, /readyz, /status, /lint and /explain. It is meant for loopback; against pages in a browser it answers only to an IP address
// or localhost as Host, and to no foreign Origin.
type admin struct {
	controller *Controller
	listener   net.Listener
}

func (a *admin) Run(ctx context.Context, ready func()) error {
	set := metrics.NewSet()
	set.RegisterMetricsWriter(a.write)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		set.WritePrometheus(w)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if age := time.Since(time.Unix(0, a.controller.judge.beat.Load())); age > 10*time.Second {
			http.Error(w, fmt.Sprintf("the judge has not turned for %s; restart the controller and report its stack", age.Round(time.Second)), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if a.controller.judge.recomputed.Load() == 0 {
			http.Error(w, "configuration is not in force yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /status", a.status)
	mux.HandleFunc("GET /lint", a.lint)
	mux.HandleFunc("GET /explain", a.explain)
	server := &http.Server{Handler: guard(mux), ReadTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(a.listener) }()
	ready()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := server.Shutdown(stop)
	if serr := <-served; err == nil && !errors.Is(serr, http.ErrServerClosed) {
		err = serr
	}
	return err
}

// guard refuses what a page of another site could send: names that DNS could point here, and foreign origins.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
			http.Error(w, fmt.Sprintf("host %q is not served; use the IP address or localhost", r.Host), http.StatusForbidden)
			return
		}
		if origin := r.Header.Get("Origin"); origin != "" {
			if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
				http.Error(w, fmt.Sprintf("origin %q may not call this", origin), http.StatusForbidden)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// status is the state of every resource, override and proxy as JSON.
func (a *admin) status(w http.ResponseWriter, _ *http.Request) {
	type item struct {
		Resource string `json:"resource"`
		Position string `json:"position"`
		State    string `json:"state"` // accepted | refused | warning
		Message  string `json:"message,omitempty"`
		Kept     bool   `json:"lastValidVersionKept,omitempty"`
	}
	v := a.controller.judge.view.Load()
	var items []item
	for k, e := range v.Set.Entries {
		items = append(items, item{Resource: k.String(), Position: e.Position.String(), State: "accepted"})
	}
	for _, p := range v.Problems {
		items = append(items, item{Resource: p.Key.String(), Position: p.Position.String(), State: string(p.Severity), Message: p.Message, Kept: p.Kept})
	}
	sortItems(items, func(i item) string { return i.Resource + i.Position + i.State })
	type override struct {
		Service, Endpoint, Kind, Reason string
		Fraction                        float64
		Expires                         time.Time
	}
	overrides := []override{}
	for _, o := range v.Overrides {
		overrides = append(overrides, override{o.Service, o.Endpoint.String(), o.Kind.String(), o.Reason, o.Fraction, o.Expires})
	}
	type gateway struct {
		Resource string `json:"resource"`
		Position string `json:"position"`
		resource.Status
	}
	gateways := []gateway{}
	for _, s := range v.Set.Statuses {
		gateways = append(gateways, gateway{s.Key.String(), s.Position.String(), s})
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(map[string]any{ // the client is gone: nothing to do
		"revision": v.Revision, "resources": items, "overrides": overrides, "proxies": a.controller.xds.Proxies(),
		"controllerName": resource.ControllerName, "gatewayAPI": gateways,
	})
}

// lint is what is found in the configuration in force and in the documents that are not, as `tulle lint -o json` prints it.
func (a *admin) lint(w http.ResponseWriter, _ *http.Request) {
	v := a.controller.judge.view.Load()
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(lint.Run(lint.Input{Set: v.Set, Problems: v.Problems, Endpoints: v.Endpoints})) // the client is gone: nothing to do
}

// explain is the policy in force for the service ?service=, as `tulle explain -o json` prints it.
func (a *admin) explain(w http.ResponseWriter, r *http.Request) {
	v, q := a.controller.judge.view.Load(), r.URL.Query()
	answer, err := explain.Of(v.Set, v.Endpoints, explain.Question{Service: q.Get("service"), Namespace: q.Get("namespace"), From: q.Get("from"), Rule: q.Get("rule")})
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(answer) // the client is gone: nothing to do
}

// write is every metric, with HELP and TYPE.
func (a *admin) write(w io.Writer) {
	c := a.controller
	counter := func(name, help string, v uint64) {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s counter\n", name, help, name)
		metrics.WriteCounterUint64(w, name, v)
	}
	gauge := func(name, help string, v float64) {
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
		metrics.WriteGaugeFloat64(w, name, v)
	}
	connected := 0
	for _, p := range c.xds.Proxies() {
		if p.Connected {
			connected++
		}
	}
	v := c.judge.view.Load()
	gauge("tulle_controller_proxies_connected", "Sidecars with an open xDS stream.", float64(connected))
	counter("tulle_controller_xds_pushes_total", "xDS responses sent.", c.xds.Pushes.Load())
	counter("tulle_controller_xds_acks_total", "xDS responses acknowledged.", c.xds.Acks.Load())
	counter("tulle_controller_xds_nacks_total", "xDS responses refused by sidecars.", c.xds.Nacks.Load())
	c.judge.pushDelay.write(w, "tulle_controller_xds_push_seconds", "Time from publishing a revision to a sidecar's acknowledgement.")
	counter("tulle_controller_recomputed_total", "Times the fleet's policy was derived anew.", c.judge.recomputed.Load())
	gauge("tulle_controller_resources", "Resources in force.", float64(len(v.Set.Entries)))
	gauge("tulle_controller_resource_problems", "Resources refused or with a warning.", float64(len(v.Problems)))
	gauge("tulle_controller_overrides", "Overrides in force.", float64(len(v.Overrides)))
	counter("tulle_controller_certificates_issued_total", "Certificates signed.", c.identity.Issued.Load())
	counter("tulle_controller_certificates_refused_total", "Certificate requests refused.", c.identity.Refused.Load())
	gauge("tulle_controller_observers_connected", "Observers with an open evidence stream.", float64(c.evidence.Connected()))
	counter("tulle_controller_evidence_windows_total", "Windows of observations received.", c.evidence.Windows.Load())
	counter("tulle_controller_evidence_windows_dropped_total", "Windows dropped because the judge was behind.", c.judge.windowsDropped.Load())
	counter("tulle_controller_events_dropped_total", "Events that left the ring before an observer took them.", c.evidence.Dropped.Load())
	if m := c.holder.Get(); m != nil {
		gauge("tulle_controller_certificate_expiry_timestamp_seconds", "End of the controller's own certificate.", float64(m.Certificate.Leaf.NotAfter.Unix()))
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	gauge("go_goroutines", "Goroutines that exist.", float64(runtime.NumGoroutine()))
	gauge("go_memstats_heap_alloc_bytes", "Heap bytes allocated and still in use.", float64(mem.HeapAlloc))
	gauge("go_memstats_sys_bytes", "Bytes obtained from the system.", float64(mem.Sys))
	gauge("process_start_time_seconds", "Start of the process in unix seconds.", float64(started.UnixNano())/1e9)
}

var started = time.Now()
