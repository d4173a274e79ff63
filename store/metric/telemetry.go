package metric

import (
	"github.com/prometheus/client_golang/prometheus"
)

// telemetry holds the store's own metrics.
type telemetry struct {
	register prometheus.Registerer
	seen     *prometheus.Registry // a second view of the TSDB's metrics, to read its corruption counters at open
	folded   *prometheus.CounterVec
	rejected *prometheus.CounterVec
	taken    prometheus.Counter
	refused  *prometheus.CounterVec
}

func newTelemetry(reg prometheus.Registerer) *telemetry {
	t := &telemetry{
		seen: prometheus.NewRegistry(),
		folded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_store_series_folded_total",
			Help: "New series that exceeded the budget of active series and were counted under \"other\" instead, by metric.",
		}, []string{"metric"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_store_samples_rejected_total",
			Help: "Samples that the store did not take, by reason.",
		}, []string{"reason"}),
		taken: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tulle_store_outside_samples_total",
			Help: "Samples taken from outside, by remote write and OTLP.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tulle_store_outside_samples_refused_total",
			Help: "Samples from outside that were not taken, by reason: reserved, labels, budget, too_old, duplicate, invalid.",
		}, []string{"reason"}),
	}
	t.register = both{reg, t.seen}
	reg.MustRegister(t.folded, t.rejected, t.taken, t.refused)
	return t
}

// corruptions is how many times the TSDB found its WAL or head chunks damaged while opening.
func (t *telemetry) corruptions() int {
	families, err := t.seen.Gather()
	if err != nil {
		return 0
	}
	n := 0.0
	for _, f := range families {
		switch f.GetName() {
		case "prometheus_tsdb_wal_corruptions_total", "prometheus_tsdb_mmap_chunk_corruptions_total":
			for _, m := range f.GetMetric() {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return int(n)
}

// both registers collectors in two registries.
type both [2]prometheus.Registerer

func (b both) Register(c prometheus.Collector) error {
	for _, r := range b {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (b both) MustRegister(cs ...prometheus.Collector) {
	for _, r := range b {
		r.MustRegister(cs...)
	}
}

func (b both) Unregister(c prometheus.Collector) bool {
	ok := true
	for _, r := range b {
		ok = r.Unregister(c) && ok
	}
	return ok
}
