// Package jaegerapi answers as Jaeger's query service does: the legacy HTTP API (/api/services, /api/traces …, which Grafana, Kiali and many
// clients use) and API v3 over HTTP. Jaeger's Go types appear in this package only.
//
// Adding a family of endpoints is a file and a line in routes.
package jaegerapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/store"
)

// queryTime bounds one request.
const queryTime = 30 * time.Second

type api struct{ *source.Sources }

// routes is the table of endpoints.
var routes = []struct {
	pattern string
	handler func(*api, http.ResponseWriter, *http.Request)
}{
	{"GET /api/services", (*api).services},
	{"GET /api/services/{service}/operations", (*api).serviceOperations},
	{"GET /api/operations", (*api).operations},
	{"GET /api/traces", (*api).search},
	{"GET /api/traces/{id}", (*api).trace},
	{"GET /api/dependencies", (*api).dependencies},
	{"GET /api/metrics/latencies", (*api).latencies},
	{"GET /api/metrics/calls", (*api).calls},
	{"GET /api/metrics/errors", (*api).errorRates},
	{"GET /api/metrics/minstep", (*api).minStep},
	{"GET /api/v3/services", (*api).servicesV3},
	{"GET /api/v3/operations", (*api).operationsV3},
	{"GET /api/v3/traces/{id}", (*api).traceV3},
	{"GET /api/v3/traces", (*api).searchV3},
	{"GET /api/v3/trace-summaries", (*api).summariesV3},
}

// Register mounts the endpoints.
func Register(mux *http.ServeMux, s *source.Sources) {
	a := &api{s}
	for _, r := range routes {
		mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) {
			ctx, cancel := context.WithTimeout(req.Context(), queryTime)
			defer cancel()
			r.handler(a, w, req.WithContext(ctx))
		})
	}
}

// statusOf maps a store's error to an HTTP status.
func statusOf(err error) int {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, store.ErrBadQuery):
		return http.StatusBadRequest
	case errors.Is(err, store.ErrBusy), errors.Is(err, store.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// envelope is around every legacy answer.
type envelope struct {
	Data   any     `json:"data"`
	Total  int     `json:"total"`
	Limit  int     `json:"limit"`
	Offset int     `json:"offset"`
	Errors []fault `json:"errors"`
}

type fault struct {
	Code    int    `json:"code,omitempty"`
	Msg     string `json:"msg"`
	TraceID string `json:"traceID,omitempty"`
}

func pretty(r *http.Request) bool {
	s := r.URL.Query().Get("prettyPrint")
	return s != "" && s != "false"
}

func writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	var b []byte
	var err error
	if pretty(r) {
		b, err = json.MarshalIndent(v, "", "    ")
	} else {
		b, err = json.Marshal(v)
	}
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"data":null,"total":0,"limit":0,"offset":0,"errors":[{"code":500,"msg":"the answer cannot be encoded"}]}`)
	}
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

func fail(w http.ResponseWriter, r *http.Request, status int, msg string) {
	writeJSON(w, r, status, envelope{Errors: []fault{{Code: status, Msg: msg}}})
}

// failV3 is the shape of errors of API v3.
func failV3(w http.ResponseWriter, r *http.Request, status int, msg string) {
	writeJSON(w, r, status, map[string]any{"error": map[string]any{"httpCode": status, "message": msg}})
}

// pick returns the first parameter that is set; API v3 accepts camelCase and snake_case.
func pick(r *http.Request, names ...string) string {
	q := r.URL.Query()
	for _, n := range names {
		if v := q.Get(n); v != "" {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
