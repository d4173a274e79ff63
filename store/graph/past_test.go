package graph

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/store/metric"
)

func TestPastIsDrawnFromSeries(t *testing.T) {
	db, err := metric.Open(t.TempDir(), metric.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := newSim(t)
	s.open(Config{DB: db})
	s.command(strings.Fields("sidecar web-1 service=web"))
	s.command(strings.Fields("sidecar catalog-1 service=catalog address=10.0.0.1:80"))
	s.command(strings.Fields("sidecar catalog-2 service=catalog address=10.0.0.2:80"))
	run := func(seconds int, calls ...string) {
		for range seconds {
			s.second(calls)
		}
	}
	run(40, "web-1>catalog-1:20", "web-1>catalog-2:10/err/ms=40/trace=abcdef")
	then := s.now
	s.command(strings.Fields("override catalog 10.0.0.2:80 eject 0.01 consecutive_5xx"))
	run(40, "web-1>catalog-1:50")

	old, err := s.g.At(t.Context(), then)
	if err != nil {
		t.Fatal(err)
	}
	if len(old.Edges) != 1 || old.Sequence != 0 {
		t.Fatalf("%s", describe(old))
	}
	e := old.Edges[0]
	if e.State != BothSides || e.Client == nil || e.Server == nil || e.Client.Requests != 900 || e.Client.Errors != 300 || e.Server.Requests != 900 {
		t.Errorf("then: %s", describe(old))
	}
	if p := e.Client.P99 * 1000; p < 36 || p > 44 {
		t.Errorf("p99 %v ms", p)
	}
	if got := endpointLine(old); got != "10.0.0.1:80 20.0/s 0% healthy; 10.0.0.2:80 10.0/s 100% healthy" {
		t.Errorf("endpoints then: %s", got)
	}
	now, err := s.g.At(t.Context(), s.now)
	if err != nil {
		t.Fatal(err)
	}
	if now.Edges[0].Client.Requests != 1500 || now.Edges[0].Client.Errors != 0 {
		t.Errorf("now: %s", describe(now))
	}
	if got := endpointLine(now); got != "10.0.0.1:80 50.0/s 0% healthy; 10.0.0.2:80 0.0/s 0% ejected" {
		t.Errorf("endpoints now: %s", got)
	}
	if _, err := s.g.At(t.Context(), then.Add(-time.Hour)); !errors.Is(err, ErrNoHistory) {
		t.Errorf("before everything: %v", err)
	}

	for query, want := range map[string]string{
		`sum(increase(tulle_requests_total{side="client",code_class="5xx"}[20s] @ ` + fmt.Sprint(then.Unix()) + `))`:  "200",
		`round(1000*histogram_quantile(0.5, sum(rate(tulle_request_duration_seconds{side="client"}[30s])))) > 8 < 12`: "10",
		`tulle_endpoint_ejected{instance="catalog-2"}`:                                                                "1",
		`tulle_service_endpoints_available{service="catalog"}`:                                                        "1",
		`sum(tulle_reporter_up)`: "3",
		`sum(rate(traces_service_graph_request_total{client="web",server="catalog"}[15s]))`: "50",
		// As Grafana's service graph asks: classic views of native histograms.
		`sum by (client, server) (rate(traces_service_graph_request_server_seconds_count[30s]))`:                                                                                               "50",
		`1000 * sum by (client, server) (rate(traces_service_graph_request_client_seconds_sum[30s])) / sum by (client, server) (rate(traces_service_graph_request_client_seconds_count[30s]))`: "10",
		`round(1000*histogram_quantile(0.9, sum by (le, client, server) (rate(traces_service_graph_request_server_seconds_bucket[30s])))) > 5 < 20`:                                            "15",
	} {
		v, err := db.Query(context.Background(), query, s.now)
		if err != nil {
			t.Fatal(err)
		}
		if len(v) != 1 || fmt.Sprintf("%.4g", v[0].F) != want {
			t.Errorf("%s is %v, want %s", query, v, want)
		}
	}
}

// Series say what gRPC said, count its failures as failures, and the past has both.
func TestPastOfGRPC(t *testing.T) {
	db, err := metric.Open(t.TempDir(), metric.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := newSim(t)
	s.open(Config{DB: db})
	s.command(strings.Fields("sidecar web-1 service=web"))
	s.command(strings.Fields("sidecar catalog-1 service=catalog address=10.0.0.1:80"))
	for range 40 {
		s.second([]string{"web-1>catalog-1:20/grpc=OK", "web-1>catalog-1:10/grpc=INTERNAL", "web-1>catalog-1:5/grpc=NOT_FOUND"})
	}
	old, err := s.g.At(t.Context(), s.now)
	if err != nil {
		t.Fatal(err)
	}
	v := old.Edges[0].Client
	if want := (map[string]uint64{"OK": 600, "INTERNAL": 300, "NOT_FOUND": 150}); !maps.Equal(v.GRPC, want) || v.Errors != 300 || v.MessagesIn != 1050 || v.MessagesOut != 600 {
		t.Errorf("%s", describe(old))
	}
	if got := endpointLine(old); got != "10.0.0.1:80 35.0/s 29% healthy" {
		t.Errorf("endpoints: %s", got)
	}
	for query, want := range map[string]string{
		`sum(increase(tulle_requests_total{side="client",grpc_response_status="INTERNAL",code_class="5xx"}[20s]))`: "200",
		`sum(increase(tulle_requests_total{side="server",grpc_response_status="NOT_FOUND"}[20s]))`:                 "100",
		`sum(increase(tulle_request_failures_total{side="client",protocol="grpc"}[20s]))`:                          "200",
		`sum(increase(tulle_attempt_failures_total{endpoint="10.0.0.1:80"}[20s]))`:                                 "200",
		`sum(increase(tulle_attempts_total{grpc_response_status="OK"}[20s]))`:                                      "400",
		`sum(increase(traces_service_graph_request_failed_total{server="catalog"}[20s]))`:                          "200",
		`sum(increase(tulle_messages_total{side="client",direction="out"}[20s]))`:                                  "400",
	} {
		r, err := db.Query(context.Background(), query, s.now)
		if err != nil {
			t.Fatal(err)
		}
		if len(r) != 1 || fmt.Sprintf("%.4g", r[0].F) != want {
			t.Errorf("%s is %v, want %s", query, r, want)
		}
	}
}

func endpointLine(s *Snapshot) string {
	var out []string
	for _, n := range s.Nodes {
		for _, e := range n.Endpoints {
			out = append(out, fmt.Sprintf("%s %.1f/s %.0f%% %s", e.Address, e.Rate, e.Errors*100, e.State))
		}
	}
	return strings.Join(out, "; ")
}
