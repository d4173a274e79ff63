package dashboardtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/prometheus/common/model"

	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"

	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func sortEdges(e []graph.Edge) {
	slices.SortFunc(e, func(a, b graph.Edge) int { return cmp.Compare(a.ID, b.ID) })
}

func sortEvents(e []event.Event) {
	slices.SortStableFunc(e, func(a, b event.Event) int { return b.Time.Compare(a.Time) })
}

// Sources is the whole shop. dir holds a real TSDB with 15 minutes of series; "" means none. stop must be called.
func Sources(dir string, now func() time.Time) (s source.Sources, stop func() error, err error) {
	spans := NewSpans()
	Fill(spans, 220, now())
	tick := time.NewTicker(time.Second)
	s = source.Sources{
		Spans: spans, Graph: &Graph{Ticks: tick.C, Now: now}, Events: NewEvents(now()), Alerts: &Alerts{now()}, Proxies: &Proxies{now()}, Now: now,
		Banner: func() []source.Notice { return nil }, Version: "v0.9.0", Self: []func(io.Writer){selfText(now)},
		Disk: func() (source.Disk, error) {
			return source.Disk{Path: "/var/lib/tulle", Free: 62 << 30, Total: 100 << 30}, nil
		},
	}
	stop = func() error { tick.Stop(); return nil }
	if dir == "" {
		return s, stop, nil
	}
	options := tsdb.DefaultOptions()
	options.EnableExemplarStorage, options.MaxExemplars = true, 10_000
	db, err := tsdb.Open(dir, nil, nil, options, nil)
	if err != nil {
		return s, stop, err
	}
	if err := errors.Join(series(db, now()), examples(db, now())); err != nil {
		return s, stop, errors.Join(err, db.Close())
	}
	s.Metrics = source.Metrics{Queryable: db, Exemplars: db, Engine: promql.NewEngine(promql.EngineOpts{
		MaxSamples: 5_000_000, Timeout: 20 * time.Second, EnableAtModifier: true, EnableNegativeOffset: true,
	})}
	return s, func() error { tick.Stop(); return db.Close() }, nil
}

// selfText is what an observer that has run for two hours says of itself.
func selfText(now func() time.Time) func(io.Writer) {
	start := now().Add(-2 * time.Hour).Unix()
	return func(w io.Writer) {
		_, _ = fmt.Fprintf(w, `# HELP process_start_time_seconds As an observer says it.
# TYPE process_start_time_seconds gauge
process_start_time_seconds %d
# HELP process_resident_memory_bytes As an observer says it.
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 1.84e+08
# HELP process_cpu_seconds_total As an observer says it.
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 612
# HELP go_goroutines As an observer says it.
# TYPE go_goroutines gauge
go_goroutines 94
# HELP process_open_fds As an observer says it.
# TYPE process_open_fds gauge
process_open_fds 71
# HELP tulle_collector_spans_accepted_total As an observer says it.
# TYPE tulle_collector_spans_accepted_total counter
tulle_collector_spans_accepted_total 1.31e+06
# HELP tulle_collector_points_accepted_total As an observer says it.
# TYPE tulle_collector_points_accepted_total counter
tulle_collector_points_accepted_total 8.4e+06
# HELP tulle_collector_refused_total As an observer says it.
# TYPE tulle_collector_refused_total counter
tulle_collector_refused_total{reason="busy"} 3
tulle_collector_refused_total{reason="full"} 0
# HELP tulle_collector_dropped_total As an observer says it.
# TYPE tulle_collector_dropped_total counter
tulle_collector_dropped_total{reason="unauthenticated_metrics"} 41
# HELP tulle_collector_altered_total As an observer says it.
# TYPE tulle_collector_altered_total counter
tulle_collector_altered_total{reason="private_removed"} 1207
# HELP tulle_store_active_series As an observer says it.
# TYPE tulle_store_active_series gauge
tulle_store_active_series 1812
# HELP tulle_store_series_budget As an observer says it.
# TYPE tulle_store_series_budget gauge
tulle_store_series_budget 200000
# HELP tulle_store_events As an observer says it.
# TYPE tulle_store_events gauge
tulle_store_events 57
# HELP tulle_evidence_connected As an observer says it.
# TYPE tulle_evidence_connected gauge
tulle_evidence_connected 1
# HELP tulle_evidence_windows_sent_total As an observer says it.
# TYPE tulle_evidence_windows_sent_total counter
tulle_evidence_windows_sent_total 7190
`, start)
	}
}

// series writes 15 minutes of requests and durations for every call, with a fault in the last 80 s.
func series(db *tsdb.DB, now time.Time) error {
	const step = 5 * time.Second
	type state struct {
		ok, bad float64
		h       *histogram.FloatHistogram
	}
	states := map[string]*state{}
	start := now.Add(-16 * time.Minute).Truncate(step)
	for t := start; !t.After(now); t = t.Add(step) {
		app := db.Appender(context.Background())
		wave := 1 + .25*math.Sin(float64(t.Unix())/70)
		for _, c := range calls {
			for side, scale := range map[string]float64{"client": 1, "server": .86} {
				if (c.from == "unmeshed" && side == "client") || (c.to == "bank.example.com" && side == "server") {
					continue
				}
				key := c.from + "/" + c.to + "/" + side
				st := states[key]
				if st == nil {
					st = &state{h: &histogram.FloatHistogram{Schema: 3, ZeroThreshold: 1e-9}}
					states[key] = st
				}
				errs, slow := c.errors/20, 1.0
				if now.Sub(t) < 80*time.Second && now.Sub(t) > 12*time.Second {
					errs, slow = c.errors, 1+c.errors*22
				}
				n := c.rate * wave * step.Seconds()
				st.ok += n * (1 - errs)
				st.bad += n * errs
				add(st.h, n, c.p50*scale*slow*(.9+.2*wave))
				base := []string{"source", c.from, "destination", c.to, "side", side, "protocol", c.spoken()}
				if err := put(app, t, st.ok, "tulle_requests_total", append(base, "code_class", "2xx")); err != nil {
					return err
				}
				if err := put(app, t, st.bad, "tulle_requests_total", append(base, "code_class", "5xx", "reason", "upstream_5xx", "grpc_response_status", map[string]string{"grpc": "UNAVAILABLE"}[c.protocol])); err != nil {
					return err
				}
				l := labels.FromStrings(append([]string{model.MetricNameLabel, "tulle_request_duration_seconds", "code_class", "2xx"}, base...)...)
				if _, err := app.AppendHistogram(0, l, t.UnixMilli(), nil, st.h.Copy()); err != nil {
					return err
				}
				if err := full(app, t, side, c.from, c.to, c.rate*wave*c.p50*scale*slow); err != nil {
					return err
				}
			}
		}
		for version, share := range map[string]float64{"v1": 200, "v2": 12} { // v2 fails more than v1, but for the fault
			served := share * t.Sub(start).Seconds()
			base := []string{"destination", "catalog", "version", version, "side", "server"}
			failing := map[string]float64{"v1": .004, "v2": .021}[version]
			if err := errors.Join(put(app, t, served*(1-failing), "tulle_version_requests_total", append(base, "code_class", "2xx")),
				put(app, t, served*failing, "tulle_version_requests_total", append(base, "code_class", "5xx"))); err != nil {
				return err
			}
		}
		if err := app.Commit(); err != nil {
			return err
		}
	}
	return nil
}

// full writes how full a call's destination is: inFlight is how many requests are carried at once.
func full(app storage.Appender, t time.Time, side, from, to string, inFlight float64) error {
	base := []string{"source", from, "destination", to, "side", side}
	err := put(app, t, math.Round(inFlight), "tulle_destination_in_flight", base)
	if side == "server" {
		return errors.Join(err, put(app, t, 64, "tulle_destination_limit", base))
	}
	return errors.Join(err,
		put(app, t, math.Round(inFlight), "tulle_destination_connections", append(slices.Clone(base), "state", "busy")),
		put(app, t, 2+math.Round(inFlight/2), "tulle_destination_connections", append(slices.Clone(base), "state", "idle")))
}

// examples gives the requests of web to catalog that Fill stores to their histogram as exemplars.
func examples(db *tsdb.DB, now time.Time) error {
	app := db.Appender(context.Background())
	var sides []labels.Labels
	for _, side := range []string{"client", "server"} {
		sides = append(sides, labels.FromStrings(model.MetricNameLabel, "tulle_request_duration_seconds", "code_class", "2xx", "source", "web", "destination", "catalog", "side", side, "protocol", "http/1.1"))
	}
	for i := 219; i >= 0; i-- {
		took := .0098 + float64(i*7%10)*.00098
		switch i % 10 {
		case 3:
			took = 1.03
		case 5, 7: // these do not go through web
			continue
		}
		at := now.Add(-time.Duration(i) * 1700 * time.Millisecond)
		for _, l := range sides {
			if _, err := app.AppendExemplar(0, l, exemplar.Exemplar{Labels: labels.FromStrings("trace_id", TraceID(i).String()), Value: took, Ts: at.UnixMilli(), HasTs: true}); err != nil {
				return err
			}
		}
	}
	return app.Commit()
}

func put(app storage.Appender, t time.Time, v float64, name string, pairs []string) error {
	_, err := app.Append(0, labels.FromStrings(append([]string{model.MetricNameLabel, name}, pairs...)...), t.UnixMilli(), v)
	return err
}

// add spreads n observations log-normally around p50 into a native histogram of schema 3.
func add(h *histogram.FloatHistogram, n, p50 float64) {
	counts := map[int32]float64{}
	it := h.PositiveBucketIterator()
	for it.Next() {
		b := it.At()
		counts[b.Index] = b.Count
	}
	total := 0.0
	shape := []float64{.02, .06, .14, .28, .22, .13, .08, .04, .02, .01}
	for k, w := range shape {
		v := p50 * math.Pow(2, (float64(k)-3)*.55)
		counts[int32(math.Ceil(math.Log2(v)*8))] += n * w
		total += n * w
		h.Sum += n * w * v
	}
	h.Count += total
	idx := slices.Sorted(maps.Keys(counts))
	h.PositiveSpans, h.PositiveBuckets = nil, nil
	for k, i := range idx {
		switch {
		case k == 0:
			h.PositiveSpans = append(h.PositiveSpans, histogram.Span{Offset: i, Length: 1})
		case idx[k-1]+1 == i:
			h.PositiveSpans[len(h.PositiveSpans)-1].Length++
		default:
			h.PositiveSpans = append(h.PositiveSpans, histogram.Span{Offset: i - idx[k-1] - 1, Length: 1})
		}
		h.PositiveBuckets = append(h.PositiveBuckets, counts[i])
	}
}
