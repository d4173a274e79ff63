// Package tempoapi answers as Tempo's query frontend does, so that Grafana's Tempo data source and its clients read our traces: search by TraceQL and by tags, traces by
// id, names and values of fields, series of TraceQL. It is mounted below Prefix, for Tempo and Jaeger both have /api/traces/{id}.
//
// Adding an endpoint is a line in routes.
package tempoapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/store"
)

// Prefix is what a data source has behind the observer's address.
const Prefix = "/tempo"

const (
	queryTime    = 30 * time.Second
	defaultLimit = 20
	maxLimit     = 1000
	defaultSpans = 3 // of each set in an answer
	maxSpans     = 1000
	searchBudget = 20_000 // traces that are read for one search
	rangeBudget  = 50_000 // and for series
	// compatible is the version of Tempo whose answers these are; clients choose by it what they ask for.
	compatible = "2.6.0"
)

type api struct{ *source.Sources }

// routes is the table of endpoints.
var routes = []struct {
	pattern string
	handler func(*api, http.ResponseWriter, *http.Request) error
}{
	{"/api/echo", (*api).echo},
	{"/ready", (*api).ready},
	{"/api/status/buildinfo", (*api).buildInfo},
	{"/api/traces/{id}", (*api).trace},
	{"/api/v2/traces/{id}", (*api).traceV2},
	{"/api/search", (*api).search},
	{"/api/search/tags", (*api).tags},
	{"/api/v2/search/tags", (*api).tagsV2},
	{"/api/search/tag/{tag}/values", (*api).values},
	{"/api/v2/search/tag/{tag}/values", (*api).valuesV2},
	{"/api/metrics/query_range", (*api).queryRange},
	{"/api/metrics/query", (*api).queryInstant},
}

// Register mounts the endpoints below Prefix.
func Register(mux *http.ServeMux, s *source.Sources) {
	a := &api{s}
	for _, r := range routes {
		mux.HandleFunc("GET "+Prefix+r.pattern, func(w http.ResponseWriter, req *http.Request) {
			ctx, cancel := context.WithTimeout(req.Context(), queryTime)
			defer cancel()
			w.Header().Set("Cache-Control", "no-store")
			if err := r.handler(a, w, req.WithContext(ctx)); err != nil {
				http.Error(w, err.Error(), statusOf(err)) // Tempo's errors are plain text
			}
		})
	}
}

// badRequest is a parameter that cannot be understood.
type badRequest struct{ error }

func bad(name, value, want string) error {
	return badRequest{errors.New("invalid " + name + " " + strconv.Quote(value) + ": it must be " + want)}
}

func statusOf(err error) int {
	var b badRequest
	switch {
	case errors.Is(err, store.ErrNotFound):
		return http.StatusNotFound
	case errors.As(err, &b), errors.Is(err, store.ErrBadQuery):
		return http.StatusBadRequest
	case errors.Is(err, store.ErrBusy), errors.Is(err, store.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func writeJSON(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
	return nil
}

func text(w http.ResponseWriter, s string) error {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(s))
	return nil
}

func (*api) echo(w http.ResponseWriter, _ *http.Request) error  { return text(w, "echo") }
func (*api) ready(w http.ResponseWriter, _ *http.Request) error { return text(w, "ready\n") }

func (*api) buildInfo(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, map[string]string{"version": compatible, "revision": "tulle", "branch": "tulle"})
}

// number reads a whole number from 1 to most; absent is usual, and more than most is most.
func number(q url.Values, name string, usual, most int) (int, error) {
	s := q.Get(name)
	if s == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, bad(name, s, "a number from 1 to "+strconv.Itoa(most))
	}
	return min(n, most), nil
}

// instant reads a time: unix seconds, milliseconds or nanoseconds by their size (the series API of Tempo takes the last), or RFC 3339.
func instant(q url.Values, name string, usual time.Time) (time.Time, error) {
	s := q.Get(name)
	if s == "" {
		return usual, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		switch {
		case n == 0:
			return usual, nil
		case n < 1e11:
			return time.Unix(n, 0), nil
		case n < 1e14:
			return time.UnixMilli(n), nil
		}
		return time.Unix(0, n), nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && f > 0 && f < 1e11 {
		return time.Unix(0, int64(f*1e9)), nil
	}
	return usual, bad(name, s, "a time: unix seconds, or RFC 3339")
}

// duration reads a Go duration or seconds.
func duration(q url.Values, name string) (time.Duration, error) {
	s := q.Get(name)
	if s == "" {
		return 0, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return d, nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && f >= 0 && f < 1e9 {
		return time.Duration(f * float64(time.Second)), nil
	}
	return 0, bad(name, s, "a duration such as 250ms")
}
