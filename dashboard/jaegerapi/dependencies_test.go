package jaegerapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/store/metric"
)

// Over our own store dependencies are counted exactly: one side of each edge, restarts included, the window alone.
func TestDependenciesOfOurStore(t *testing.T) {
	db, err := metric.Open(t.TempDir(), metric.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	end := dashboardtest.Epoch
	s, stop, err := dashboardtest.Sources("", func() time.Time { return end })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stop() }()
	s.Metrics = source.Metrics{Queryable: db, Exemplars: db, Engine: db.Engine()}
	w := db.NewWriter()
	for i := range 720 { // an hour
		at := end.Add(-time.Hour + time.Duration(i+1)*5*time.Second)
		n := float64(i)
		if i >= 400 { // the observer restarted
			n = float64(i - 400)
		}
		err := w.Write(t.Context(), at, func(b *metric.Batch) {
			b.Counter("tulle_requests_total", 10*n, "source", "web", "destination", "catalog", "side", "client", "code_class", "2xx")
			b.Counter("tulle_requests_total", n, "source", "web", "destination", "catalog", "side", "client", "code_class", "5xx")
			b.Counter("tulle_requests_total", 11*n, "source", "web", "destination", "catalog", "side", "server", "code_class", "2xx")
			b.Counter("tulle_requests_total", 3*n, "source", "unmeshed", "destination", "web", "side", "server", "code_class", "2xx")
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	Register(mux, &s)
	for query, want := range map[string]map[string]uint64{
		"":                          {"web": 11 * (399 + 319), "unmeshed": 3 * (399 + 319)},
		"?lookback=600000":          {"web": 11 * 120, "unmeshed": 3 * 120},
		"?service=unmeshed":         {"unmeshed": 3 * (399 + 319)},
		"?lookback=1000&endTs=1000": {},
	} {
		rec := httptest.NewRecorder()
		mux.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/api/dependencies"+query, nil))
		var a struct {
			Data []struct {
				Parent, Child string
				CallCount     uint64
			}
		}
		if err := json.Unmarshal(rec.Body.Bytes(), &a); err != nil || rec.Code != http.StatusOK || len(a.Data) != len(want) {
			t.Errorf("%s: %d %v %s", query, rec.Code, err, rec.Body)
		}
		for _, l := range a.Data {
			if l.CallCount != want[l.Parent] {
				t.Errorf("%s: %+v, want %d", query, l, want[l.Parent])
			}
		}
	}
}
