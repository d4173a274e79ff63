package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// Workload is one of several workloads of a process. Its functions may be called at any time; nil ones answer 404: it does not run.
type Workload struct {
	Instance, Service, Namespace, Identity, BootID, Netns string

	BufferBytes int64 // its share of the process' memory for buffers
	Connections int   // and of its connections

	Ready     func() error // required
	Metrics   func(io.Writer)
	Open      func(io.Writer)
	Snapshot  func() *policy.Snapshot
	Endpoints func() any
}

// workloadPages are the pages of a process with several workloads: an index, and of each what a sidecar of one has at its root.
func (s *Server) workloadPages() []page {
	return []page{
		{"GET", "/workloads", "each workload: who it is, whether it is ready, its share", s.workloads, false},
		{"GET", "/workloads/{instance}/readyz", "as /readyz, of one workload", s.of((*Server).readyz), false},
		{"GET", "/workloads/{instance}/metrics", "everything counted of one workload, for Prometheus", s.of((*Server).metrics), false},
		{"GET", "/workloads/{instance}/config", "its policy snapshot in force, as JSON", s.of((*Server).config), true},
		{"GET", "/workloads/{instance}/endpoints", "what it has learnt of endpoints, as JSON", s.of((*Server).endpoints), true},
		{"GET", "/sd", "where the metrics are, for Prometheus' http_sd_config", s.discovery, false},
	}
}

// of serves a page for the workload that the path names.
func (s *Server) of(serve func(*Server, http.ResponseWriter, *http.Request)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		all, _ := s.cfg.Workloads()
		for _, one := range all {
			if one.Instance == r.PathValue("instance") {
				serve(&Server{cfg: Config{Ready: one.Ready, Metrics: one.Metrics, Open: one.Open, Snapshot: one.Snapshot, Endpoints: one.Endpoints}}, w, r)
				return
			}
		}
		http.Error(w, fmt.Sprintf("no workload %q here; see /workloads", r.PathValue("instance")), http.StatusNotFound)
	}
}

func (s *Server) workloads(w http.ResponseWriter, _ *http.Request) {
	type row struct {
		Instance    string `json:"instance"`
		Service     string `json:"service"`
		Namespace   string `json:"namespace"`
		Identity    string `json:"identity,omitempty"`
		BootID      string `json:"boot_id,omitempty"`
		Netns       string `json:"netns,omitempty"`
		Ready       bool   `json:"ready"`
		Missing     string `json:"missing,omitempty"`
		Revision    string `json:"revision,omitempty"`
		BufferBytes int64  `json:"buffer_bytes"`
		Connections int    `json:"connections"`
	}
	all, problems := s.cfg.Workloads()
	body := struct {
		Workloads []row    `json:"workloads"`
		Problems  []string `json:"problems"`
	}{[]row{}, append([]string{}, problems...)}
	for _, one := range all {
		r := row{
			Instance: one.Instance, Service: one.Service, Namespace: one.Namespace, Identity: one.Identity, BootID: one.BootID, Netns: one.Netns,
			BufferBytes: one.BufferBytes, Connections: one.Connections, Ready: true,
		}
		if err := one.Ready(); err != nil {
			r.Ready, r.Missing = false, err.Error()
		}
		if one.Snapshot != nil {
			if snap := one.Snapshot(); snap != nil {
				r.Revision = snap.Revision
			}
		}
		body.Workloads = append(body.Workloads, r)
	}
	writeJSON(w, body)
}

// discovery answers as https://prometheus.io/docs/prometheus/latest/http_sd/ asks: one group per workload, at the address that was asked.
func (s *Server) discovery(w http.ResponseWriter, r *http.Request) {
	type group struct {
		Targets []string          `json:"targets"`
		Labels  map[string]string `json:"labels"`
	}
	groups := []group{{[]string{r.Host}, map[string]string{"__metrics_path__": "/metrics"}}}
	all, _ := s.cfg.Workloads()
	for _, one := range all {
		groups = append(groups, group{[]string{r.Host}, map[string]string{
			"__metrics_path__": "/workloads/" + one.Instance + "/metrics", "instance": one.Instance, "service": one.Service, "namespace": one.Namespace,
		}})
	}
	writeJSON(w, groups)
}

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n'))
}
