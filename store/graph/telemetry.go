package graph

import "github.com/prometheus/client_golang/prometheus"

// telemetry holds the graph's own metrics.
type telemetry struct {
	rejected     *prometheus.CounterVec
	gaps         prometheus.Counter
	dropped      prometheus.Counter
	writeErrors  prometheus.Counter
	writeSeconds prometheus.Histogram
}

func newTelemetry(reg prometheus.Registerer) *telemetry {
	t := &telemetry{
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_graph_rejected_total",
			Help: "Data points of sidecars' exports that were not counted, by reason.",
		}, []string{"reason"}),
		gaps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tulle_graph_sequence_gaps_total",
			Help: "Exports of sidecars that did not arrive before a later one did.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tulle_graph_observations_dropped_total",
			Help: "One-second windows that a slow reader of observations missed.",
		}),
		writeErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tulle_graph_write_errors_total",
			Help: "Times that the edge series could not be written.",
		}),
		writeSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "tulle_graph_write_duration_seconds",
			Help:    "How long writing the edge series took.",
			Buckets: []float64{0.001, 0.005, 0.02, 0.1, 0.5, 2},
		}),
	}
	for _, reason := range []string{
		rejectUnauthenticated, rejectUnknownReporter, rejectServiceMismatch, rejectInstanceMismatch, rejectMalformed, rejectNotParty, rejectDuplicate,
		rejectDecreased, rejectTooMany,
	} {
		t.rejected.WithLabelValues(reason)
	}
	if reg != nil {
		reg.MustRegister(t.rejected, t.gaps, t.dropped, t.writeErrors, t.writeSeconds)
	}
	return t
}
