package dashboard

import (
	"bytes"
	"io"
	"net/http"
	"strings"

	"github.com/VictoriaMetrics/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/tulle-mesh/tulle/dashboard/live"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/store"
)

// help is the HELP of every family that the dashboard writes itself; the metrics library leaves it empty. A test checks that none is missing.
var help = map[string]string{
	"tulle_dashboard_http_requests_total": "Requests answered by the dashboard, by status class.",
	"tulle_dashboard_live_clients":        "Browsers on the live feed now.",
	"tulle_dashboard_live_accepted_total": "Browsers ever accepted on the live feed.",
	"tulle_dashboard_live_refused_total":  "Browsers turned away from the live feed.",
	"tulle_dashboard_live_missed_total":   "Live frames that slow browsers did not see.",
	"tulle_store_spans":                   "Spans in the store.",
	"tulle_store_blocks":                  "Sealed blocks of spans.",
	"tulle_store_block_bytes":             "Bytes of sealed blocks on disk.",
	"tulle_store_wal_bytes":               "Bytes of the live write-ahead log on disk.",
	"tulle_store_spans_written_total":     "Spans accepted since the start.",
	"tulle_store_spans_duplicate_total":   "Spans dropped because their batch was sent before.",
	"tulle_store_damage_total":            "Damage found in the write-ahead log or in blocks.",
	"tulle_store_disk_free_bytes":         "Bytes free on the store's disk.",
	"tulle_graph_nodes":                   "Nodes of the live graph.",
	"tulle_graph_edges":                   "Edges of the live graph.",
	"tulle_graph_reporters_missing":       "Sidecars that stopped reporting without saying goodbye.",
}

// self is the dashboard's own metrics.
type self struct {
	set     *metrics.Set
	classes [6]*metrics.Counter
}

func newSelf(s *source.Sources, hub *live.Hub) *self {
	metrics.ExposeMetadata(true)
	m := &self{set: metrics.NewSet()}
	for i := 1; i < len(m.classes); i++ {
		m.classes[i] = m.set.NewCounter(`tulle_dashboard_http_requests_total{code_class="` + string(rune('0'+i)) + `xx"}`)
	}
	gauge := func(name string, f func() float64) { m.set.NewGauge(name, f) }
	gauge("tulle_dashboard_live_clients", func() float64 { return float64(hub.Stats().Clients) })
	stat := func(name string, f func(store.SpanStats) float64) {
		gauge(name, func() float64 { return f(s.Spans.Stats()) })
	}
	stat("tulle_store_spans", func(v store.SpanStats) float64 { return float64(v.Spans) })
	stat("tulle_store_blocks", func(v store.SpanStats) float64 { return float64(v.Blocks) })
	stat("tulle_store_block_bytes", func(v store.SpanStats) float64 { return float64(v.Bytes) })
	stat("tulle_store_wal_bytes", func(v store.SpanStats) float64 { return float64(v.WALBytes) })
	stat("tulle_store_disk_free_bytes", func(v store.SpanStats) float64 { return float64(v.DiskFreeBytes) })
	gauge("tulle_graph_nodes", func() float64 {
		if g := s.Graph.Live(); g != nil {
			return float64(len(g.Nodes))
		}
		return 0
	})
	gauge("tulle_graph_edges", func() float64 {
		if g := s.Graph.Live(); g != nil {
			return float64(len(g.Edges))
		}
		return 0
	})
	gauge("tulle_graph_reporters_missing", func() float64 {
		n := 0
		if g := s.Graph.Live(); g != nil {
			for i := range g.Nodes {
				for _, r := range g.Nodes[i].Reporters {
					if r.Missing {
						n++
					}
				}
			}
		}
		return float64(n)
	})
	m.set.RegisterMetricsWriter(func(w io.Writer) {
		st, h := s.Spans.Stats(), hub.Stats()
		for _, c := range []struct {
			name string
			v    uint64
		}{
			{"tulle_dashboard_live_accepted_total", h.Served},
			{"tulle_dashboard_live_refused_total", h.Refused},
			{"tulle_dashboard_live_missed_total", h.Missed},
			{"tulle_store_spans_written_total", st.Written},
			{"tulle_store_spans_duplicate_total", st.Duplicate},
			{"tulle_store_damage_total", st.Corrupt},
		} {
			metrics.WriteCounterUint64(w, c.name, c.v)
		}
	})
	return m
}

// handler serves /metrics: our own families, then those of Sources.Self.
func (m *self) handler(s *source.Sources) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		var b bytes.Buffer
		m.set.WritePrometheus(&b)
		out := fillHelp(b.Bytes())
		b.Reset()
		for _, f := range s.Self {
			f(&b)
		}
		_, _ = w.Write(out)
		_, _ = w.Write(b.Bytes())
	}
}

// fillHelp completes "# HELP name" lines that have no text.
func fillHelp(text []byte) []byte {
	var out bytes.Buffer
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "# HELP "); ok && help[strings.TrimSpace(name)] != "" {
			line = "# HELP " + strings.TrimSpace(name) + " " + help[strings.TrimSpace(name)] + "\n"
		}
		out.WriteString(line)
	}
	return out.Bytes()
}

// count wraps next and counts its answers by class.
func (m *self) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			m.classes[1].Inc()
			next.ServeHTTP(w, r)
			return
		}
		cw := &classWriter{ResponseWriter: w}
		next.ServeHTTP(cw, r)
		if cw.class == 0 {
			cw.class = 2
		}
		m.classes[cw.class].Inc()
	})
}

type classWriter struct {
	http.ResponseWriter
	class int
}

func (c *classWriter) WriteHeader(code int) {
	if c.class == 0 && code >= 200 && code < 600 {
		c.class = code / 100
	}
	c.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the connection.
func (c *classWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// misnamed reports whether a family of Prometheus' libraries has a name that `promtool check metrics` minds, because it speaks of a type:
// two gauges of the storage, and the histogram forms of figures that are given as summaries too. They are left out, so that the page is clean.
func misnamed(family string) bool {
	switch family {
	case "prometheus_tsdb_head_native_histogram_buckets", "prometheus_tsdb_head_native_histogram_series":
		return true
	}
	return strings.HasSuffix(family, "_histogram_seconds")
}

// Gatherer makes a Sources.Self writer of a Prometheus registry (the TSDB's, the rule manager's …).
func Gatherer(g prometheus.Gatherer) func(io.Writer) {
	return func(w io.Writer) {
		families, _ := g.Gather() // with an error come the families that could be read
		for _, f := range families {
			if misnamed(f.GetName()) {
				continue
			}
			if f.GetHelp() == "" {
				text := "See the component's documentation."
				f.Help = &text
			}
			if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
				return
			}
		}
	}
}
