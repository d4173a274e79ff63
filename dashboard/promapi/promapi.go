// Package promapi answers as Prometheus does, by Prometheus' own HTTP API over our storage and engine, so that Grafana, promtool and every other
// client works unchanged: queries, remote read, and remote write and OTLP in (write.go). Endpoints that only make sense for a scraping server
// (configuration, targets' metadata, administration) are not mounted.
package promapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/grafana/regexp"
	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/rules"
	"github.com/prometheus/prometheus/scrape"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/spanmetric"
)

// mounted is the table of what is served; the rest of Prometheus' API answers 404.
var mounted = []string{
	"/api/v1/query", "/api/v1/query_range", "/api/v1/query_exemplars", "/api/v1/series", "/api/v1/labels", "/api/v1/label/{name}/values",
	"/api/v1/rules", "/api/v1/alerts", "/api/v1/targets", "/api/v1/format_query", "/api/v1/parse_query", "/api/v1/status/buildinfo",
	"/api/v1/status/runtimeinfo",
}

// prometheusVersion is what Grafana reads to know which features the API has: that of the embedded engine.
const prometheusVersion = "3.15.0"

// Register mounts the API.
func Register(mux *http.ServeMux, s *source.Sources, log *slog.Logger) {
	if s.Metrics.Engine == nil || s.Metrics.Queryable == nil {
		mux.HandleFunc("/api/v1/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = w.Write([]byte(`{"status":"error","errorType":"unavailable","error":"this observer keeps no series"}`))
		})
		return
	}
	start := s.Clock()
	cfg := config.DefaultConfig
	exemplars := s.Metrics.Exemplars
	if exemplars == nil {
		exemplars = noExemplars{}
	}
	writes := s.Metrics.Outside != nil
	var (
		appendable   storage.Appendable
		appendableV2 storage.AppendableV2
	)
	if writes {
		appendable, appendableV2 = s.Metrics.Outside, s.Metrics.Outside
	}
	api := v1.NewAPI(
		s.Metrics.Engine, s.Metrics.Queryable, appendable, appendableV2, exemplars,
		func(context.Context) v1.ScrapePoolsRetriever { return nothing{} },
		func(context.Context) v1.TargetRetriever { return nothing{} },
		func(context.Context) v1.AlertmanagerRetriever { return nothing{} },
		func() config.Config { return cfg },
		map[string]string{}, v1.GlobalURLOptions{Host: "localhost", Scheme: "http"},
		func(h http.HandlerFunc) http.HandlerFunc { return h },
		nothing{}, "", false, false, 0, log,
		func(context.Context) v1.RulesRetriever {
			if s.Rules != nil {
				return s.Rules
			}
			return nothing{}
		},
		5e7, 10, 1<<20, false,
		regexp.MustCompile(`^$`), // CORS: no other origin; ours needs none
		func() (v1.RuntimeInfo, error) {
			return v1.RuntimeInfo{StartTime: start, ServerTime: time.Now(), GoroutineCount: runtime.NumGoroutine(), GOMAXPROCS: runtime.GOMAXPROCS(0)}, nil
		},
		&v1.PrometheusVersion{Version: prometheusVersion, GoVersion: runtime.Version(), Branch: "tulle"},
		nil, nil, nil, nil, nil, writes, remoteapi.MessageTypes{remoteapi.WriteV1MessageType, remoteapi.WriteV2MessageType}, writes, false, false, false,
		5*time.Minute, false, false, nil, nil, v1.OpenAPIOptions{}, parser.NewParser(parser.Options{}),
	)
	router := route.New()
	api.Register(router.WithPrefix("/api/v1"))
	for _, path := range mounted {
		mux.Handle("GET "+path, router)
	}
	for _, path := range []string{"/api/v1/query", "/api/v1/query_range", "/api/v1/query_exemplars", "/api/v1/series", "/api/v1/labels", "/api/v1/format_query", "/api/v1/parse_query"} {
		mux.Handle("POST "+path, router)
	}
	mux.Handle("POST /api/v1/read", router)
	if writes {
		registerWrites(mux, router)
	}
	mux.HandleFunc("GET /api/v1/metadata", metadata)
}

// metadata says what the families of the graph are; what others write has none.
func metadata(w http.ResponseWriter, r *http.Request) {
	type entry struct {
		Type string `json:"type"`
		Help string `json:"help"`
		Unit string `json:"unit"`
	}
	data := map[string][]entry{}
	only := r.FormValue("metric")
	limit, err := strconv.Atoi(cmp.Or(r.FormValue("limit"), "-1"))
	if err != nil {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"status":"error","errorType":"bad_data","error":"limit must be a number"}`))
		return
	}
	families := slices.Clone(graph.Families)
	families = append(families, graph.Family{Name: spanmetric.Latency, Kind: "histogram", Help: "Duration of spans in seconds, as Tempo's metrics-generator names it."})
	for _, v := range slices.Concat(graph.Views, spanmetric.Views) {
		families = append(families, graph.Family{Name: v.Name, Kind: map[bool]string{true: "counter", false: "histogram"}[v.Scale == 0], Help: v.Help})
	}
	for _, f := range families {
		if (only == "" || only == f.Name) && (limit < 0 || len(data) < limit) {
			data[f.Name] = []entry{{f.Kind, f.Help, ""}}
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "success", "data": data})
}

type noExemplars struct{}

func (noExemplars) ExemplarQuerier(context.Context) (storage.ExemplarQuerier, error) {
	return nil, errors.New("this observer keeps no exemplars")
}

// nothing answers for the parts of a Prometheus server that we do not have.
type nothing struct{}

func (nothing) ScrapePools() []string                       { return nil }
func (nothing) TargetsActive() map[string][]*scrape.Target  { return nil }
func (nothing) TargetsDropped() map[string][]*scrape.Target { return nil }
func (nothing) TargetsDroppedCounts() map[string]int        { return nil }
func (nothing) ScrapePoolConfig(string) (*config.ScrapeConfig, error) {
	return nil, errors.New("nothing is scraped")
}
func (nothing) Alertmanagers() []*url.URL              { return nil }
func (nothing) DroppedAlertmanagers() []*url.URL       { return nil }
func (nothing) RuleGroups() []*rules.Group             { return nil }
func (nothing) AlertingRules() []*rules.AlertingRule   { return nil }
func (nothing) CleanTombstones() error                 { return errReadOnly }
func (nothing) Snapshot(string, bool) error            { return errReadOnly }
func (nothing) Stats(string, int) (*tsdb.Stats, error) { return nil, errReadOnly }
func (nothing) WALReplayStatus() (tsdb.WALReplayStatus, error) {
	return tsdb.WALReplayStatus{}, errReadOnly
}
func (nothing) BlockMetas() ([]tsdb.BlockMeta, error) { return nil, errReadOnly }
func (nothing) Delete(context.Context, int64, int64, ...*labels.Matcher) error {
	return errReadOnly
}

var errReadOnly = errors.New("not available over this API")
