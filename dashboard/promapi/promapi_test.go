package promapi

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
)

type answer struct {
	Status    string          `json:"status"`
	ErrorType string          `json:"errorType"`
	Data      json.RawMessage `json:"data"`
}

func TestPrometheusAPI(t *testing.T) {
	s, stop, err := dashboardtest.Sources(t.TempDir(), func() time.Time { return dashboardtest.Epoch })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}()
	mux := http.NewServeMux()
	Register(mux, &s, slog.New(slog.DiscardHandler))
	at := dashboardtest.Epoch.Format(time.RFC3339)
	rangeQuery := url.Values{
		"query": {`sum by (destination) (rate(tulle_requests_total{side="server"}[1m]))`}, "end": {at}, "step": {"30"},
		"start": {dashboardtest.Epoch.Add(-10 * time.Minute).Format(time.RFC3339)},
	}
	for _, c := range []struct {
		method, path string
		form         url.Values
		status       int
		has          []string
	}{
		{"GET", "/api/v1/query", url.Values{"query": {"1+1"}}, 200, []string{`"scalar"`, `"2"`}},
		{"POST", "/api/v1/query", url.Values{"query": {`histogram_quantile(0.99, sum(rate(tulle_request_duration_seconds{destination="catalog"}[1m])))`}, "time": {at}}, 200, []string{`"vector"`}},
		{"GET", "/api/v1/query_range", rangeQuery, 200, []string{`"matrix"`, `"destination":"catalog"`}},
		{"POST", "/api/v1/query_range", rangeQuery, 200, []string{`"matrix"`}},
		{"GET", "/api/v1/series", url.Values{"match[]": {`tulle_requests_total{source="web"}`}, "start": {dashboardtest.Epoch.Add(-time.Hour).Format(time.RFC3339)}, "end": {at}}, 200, []string{`"source":"web"`}},
		{"GET", "/api/v1/labels", url.Values{"start": {dashboardtest.Epoch.Add(-time.Hour).Format(time.RFC3339)}, "end": {at}}, 200, []string{`"code_class"`, `"side"`}},
		{"GET", "/api/v1/label/side/values", url.Values{"start": {dashboardtest.Epoch.Add(-time.Hour).Format(time.RFC3339)}, "end": {at}}, 200, []string{`"client"`, `"server"`}},
		{"GET", "/api/v1/query_exemplars", url.Values{"query": {"tulle_requests_total"}, "start": {at}, "end": {at}}, 200, nil},
		{"GET", "/api/v1/metadata", nil, 200, []string{`"tulle_requests_total"`, `"counter"`}},
		{"GET", "/api/v1/metadata", url.Values{"metric": {"tulle_active"}}, 200, []string{`"gauge"`}},
		{"GET", "/api/v1/metadata", url.Values{"limit": {"1"}}, 200, []string{`{"tulle_requests_total":[`}},
		{"GET", "/api/v1/metadata", url.Values{"limit": {"many"}}, 400, []string{`"bad_data"`}},
		{"GET", "/api/v1/rules", nil, 200, []string{`"groups"`}},
		{"GET", "/api/v1/alerts", nil, 200, []string{`"alerts"`}},
		{"GET", "/api/v1/targets", nil, 200, []string{`"activeTargets":[]`}},
		{"GET", "/api/v1/status/buildinfo", nil, 200, []string{`"version"`}},
		{"GET", "/api/v1/format_query", url.Values{"query": {"1+1"}}, 200, []string{"1 + 1"}},
		{"GET", "/api/v1/query", url.Values{"query": {"sum("}}, 400, []string{`"bad_data"`}},
		{"GET", "/api/v1/status/tsdb", nil, 404, nil},
		{"POST", "/api/v1/write", nil, 404, nil},
		{"POST", "/api/v1/admin/tsdb/delete_series", nil, 404, nil},
	} {
		t.Run(c.method+c.path, func(t *testing.T) {
			r := httptest.NewRequest(c.method, c.path+"?"+c.form.Encode(), nil)
			if c.method == http.MethodPost {
				r = httptest.NewRequest(c.method, c.path, strings.NewReader(c.form.Encode()))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			r.Header.Set("Origin", "https://evil.example.com")
			w := httptest.NewRecorder()
			mux.ServeHTTP(w, r)
			if w.Code != c.status {
				t.Fatalf("status %d, want %d: %s", w.Code, c.status, w.Body)
			}
			if w.Header().Get("Access-Control-Allow-Origin") != "" {
				t.Error("another origin may read the answer")
			}
			if c.status == 404 {
				return
			}
			var a answer
			if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
				t.Fatal(err)
			}
			if (a.Status == "success") != (c.status == 200) {
				t.Errorf("status %q", a.Status)
			}
			for _, want := range c.has {
				if !strings.Contains(w.Body.String(), want) {
					t.Errorf("no %s in %.300s", want, w.Body)
				}
			}
		})
	}
}
