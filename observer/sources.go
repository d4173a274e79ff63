package observer

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tulle-mesh/tulle/alert"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/store/graph"
)

// alerts shows package alert to the dashboard.
type alerts struct{ a *alert.Alerting }

func (s alerts) Alerts(context.Context) ([]source.Alert, error) {
	var out []source.Alert
	for _, a := range s.a.Alerts() {
		out = append(out, source.Alert{
			Name: a.Name, State: a.State, Severity: a.Severity, Service: a.Service, Summary: cmp.Or(a.Annotations["summary"], a.Annotations["description"]),
			Labels: a.Labels, Annotations: a.Annotations, ActiveSince: a.Since, Value: a.Value, Silenced: a.Silenced,
		})
	}
	return out, nil
}

func (s alerts) Deliveries(context.Context) ([]source.Delivery, error) {
	var out []source.Delivery
	for _, d := range s.a.Deliveries() {
		out = append(out, source.Delivery{
			Receiver: d.Receiver, Integration: d.Integration, Group: d.Group, Alerts: d.Alerts, Firing: d.Firing, Resolved: d.Resolved, State: d.State, Attempts: d.Attempts,
			First: d.First, Last: d.Last, Took: d.Took, Error: d.Error,
		})
	}
	return out, nil
}

func (s alerts) Rules(context.Context) ([]source.Rule, error) {
	var out []source.Rule
	for _, r := range s.a.Rules() {
		out = append(out, source.Rule{
			Group: r.Group, Name: r.Name, Kind: "alerting", Query: r.Query, For: r.For, State: r.State, Health: r.Health, LastError: r.LastError, LastEval: r.LastRun,
			Labels: r.Labels, Annotations: r.Annotations,
		})
	}
	return out, nil
}

// proxies joins what the controller says of sidecars with what their reports say.
type proxies struct {
	registry *Registry
	graph    *graph.Graph
}

func (s proxies) Proxies(context.Context) ([]source.Proxy, error) {
	byInstance := map[string]*source.Proxy{}
	get := func(instance string) *source.Proxy {
		p := byInstance[instance]
		if p == nil {
			p = &source.Proxy{Instance: instance}
			byInstance[instance] = p
		}
		return p
	}
	r := s.registry.Current()
	for _, w := range r.GetWorkloads() {
		p := get(w.GetInstance())
		p.Service, p.Namespace, p.Identity, p.Address = w.GetService(), w.GetNamespace(), w.GetIdentity(), w.GetAddress()
	}
	for _, x := range r.GetProxies() {
		p := get(x.GetInstance())
		p.Service = cmp.Or(p.Service, x.GetService())
		p.Version, p.Connected, p.Acked, p.Wanted, p.Nack = x.GetVersion(), x.GetConnected(), x.GetRevisionAcked(), x.GetRevisionWanted(), x.GetLastNack()
		if x.GetConnectedUnixNano() > 0 {
			p.Since = time.Unix(0, x.GetConnectedUnixNano()).UTC()
		}
	}
	for _, n := range s.graph.Live().Nodes {
		for _, rep := range n.Reporters {
			p := get(rep.Instance)
			p.Service = cmp.Or(p.Service, n.Name)
			p.Identity = cmp.Or(p.Identity, rep.Identity)
			p.LastSeen, p.Reporting, p.ClockOffset, p.Folded, p.CertNotAfter, p.Memory = rep.LastSeen, !rep.Missing, -rep.ClockOffset, rep.Folded, rep.CertNotAfter, rep.Memory
		}
	}
	var out []source.Proxy
	for _, name := range slices.Sorted(maps.Keys(byInstance)) {
		out = append(out, *byInstance[name])
	}
	return out, nil
}

// notices is what a person should know about the observer itself.
func (o *Observer) notices() []source.Notice {
	var out []source.Notice
	add := func(severity, message, action string) {
		out = append(out, source.Notice{Severity: severity, Message: message, Action: action})
	}
	if o.cfg.Controller != "" {
		st := o.evidence.Status()
		switch {
		case o.holder.Get() == nil:
			add("error", "The observer has no certificate yet, so no sidecar can report to it.",
				"Check that the controller runs at "+o.cfg.Controller+" and that the join token is good: "+o.join.Status().LastError)
		case !st.Connected && time.Since(st.Since) > 5*time.Second:
			add("warning", fmt.Sprintf("The controller at %s has been away for %s: nothing is ejected or readmitted, sidecars keep their last policy.", o.cfg.Controller,
				time.Since(st.Since).Round(time.Second)), "Start the controller, or check the address. Last error: "+st.LastError)
		}
		if o.registry.Current() == nil {
			add("warning", "No registry has come from the controller yet, so reports cannot be attributed and the graph is empty.", "It comes with the first connection to the controller.")
		}
	}
	for _, r := range o.metrics.Remote() {
		switch {
		case r.Behind > time.Minute:
			add("warning", fmt.Sprintf("Series have not reached %s for %s: they wait in the write-ahead log, for two to three hours at most.", r.URL, r.Behind.Round(time.Second)),
				"Check that it runs and can be reached, and look at the observer's log for what it answers.")
		case r.Failed > 0:
			add("info", fmt.Sprintf("%s refused %d samples; they are dropped.", r.URL, r.Failed),
				"Look at the observer's log for what it answers. If it takes no native histograms, say send_native_histograms: false in --remote-write-config.")
		}
	}
	trouble := o.spans.Stats().LastError
	if trouble != "" {
		add("error", "The span store has a problem: "+trouble+".", "Do what it says; the events have the rest.")
	}
	for _, d := range o.journal.damaged() {
		if trouble != "" && strings.Contains(d, trouble) {
			continue
		}
		add("warning", d, "If there was no crash or power cut, check the disk that holds "+o.cfg.DataDir+".")
	}
	if d := o.events.Stats().Damage; len(d) > 0 {
		add("warning", "The event log was damaged and has been repaired: "+d[len(d)-1]+".", "If there was no crash or power cut, check the disk that holds "+o.cfg.DataDir+".")
	}
	if off, of := skewed(o.graph.Live()); len(off) > 0 {
		add("warning", fmt.Sprintf("The clocks of %d of %d sidecars differ from the observer's by more than %s: %s. Counts are placed correctly all the same; their spans show their own times.",
			len(off), of, clockLimit, strings.Join(off[:min(3, len(off))], ", ")), "Set those clocks (NTP); if it is nearly all of them, set the observer's.")
	}
	if n := o.journal.failed.Load() + o.journal.dropped.Load(); n > 0 {
		add("error", fmt.Sprintf("Events that could not be kept since the start: %d.", n), "Check the free space and the permissions of "+o.cfg.DataDir+".")
	}
	return out
}

// clockLimit is how much a clock may differ before a banner says so; from there on the graph also writes an event.
const clockLimit = 2 * time.Second

// skewed lists the reporters whose clocks are off, the worst first, and how many there are in all. Those that are gone do not count.
func skewed(s *graph.Snapshot) (off []string, of int) {
	type clock struct {
		instance string
		ahead    time.Duration
	}
	var list []clock
	for _, n := range s.Nodes {
		for _, r := range n.Reporters {
			if r.Missing {
				continue
			}
			of++
			if r.ClockOffset.Abs() >= clockLimit {
				list = append(list, clock{r.Instance, -r.ClockOffset})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b clock) int { return cmp.Compare(b.ahead.Abs(), a.ahead.Abs()) })
	for _, c := range list {
		direction := "ahead"
		if c.ahead < 0 {
			direction = "behind"
		}
		off = append(off, fmt.Sprintf("%s is %s %s", c.instance, c.ahead.Abs().Round(time.Second), direction))
	}
	return off, of
}

// ready says whether sidecars can report.
func (o *Observer) ready() error {
	if o.cfg.Controller != "" && o.holder.Get() == nil {
		return fmt.Errorf("%w; the controller at %s has not answered", identity.ErrNoMaterial, o.cfg.Controller)
	}
	return nil
}

// registerMetrics adds what the parts count to the registry. The dashboard writes the span store's and the process's own.
func (o *Observer) registerMetrics() {
	counter := func(name, help string, f func() float64) {
		o.reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, f))
	}
	gauge := func(name, help string, f func() float64) {
		o.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	counter("tulle_observer_events_dropped_total", "Events that came faster than they could be kept.", func() float64 { return float64(o.journal.dropped.Load()) })
	counter("tulle_observer_events_failed_total", "Events that could not be written.", func() float64 { return float64(o.journal.failed.Load()) })
	gauge("tulle_store_events", "Events kept.", func() float64 { return float64(o.events.Stats().Events) })
	gauge("tulle_store_active_series", "Series in memory in the metrics store.", func() float64 { return float64(o.metrics.Stats().ActiveSeries) })
	gauge("tulle_store_series_budget", "Active series allowed before new ones are folded into \"other\".", func() float64 { return float64(o.metrics.Stats().Budget) })
	o.reg.MustRegister(collectorStats{o})
	gauge("tulle_query_memory_bytes", "What queries hold of traces and spans now, as it is counted.", func() float64 { return float64(o.memory.Stats().Held) })
	gauge("tulle_query_memory_limit_bytes", "What they may hold together.", func() float64 { return float64(o.memory.Stats().Most) })
	gauge("tulle_query_memory_peak_bytes", "The most that they held at once since the start.", func() float64 { return float64(o.memory.Stats().Peak) })
	counter("tulle_query_refused_busy_total", "Queries that were told to come again because others held the memory.", func() float64 { return float64(o.memory.Stats().Busy) })
	counter("tulle_query_refused_too_large_total", "Queries that were refused because even all the memory would not do.", func() float64 { return float64(o.memory.Stats().TooLarge) })
	counter("tulle_query_partial_total", "Queries that were answered in part, and said so.", func() float64 { return float64(o.memory.Stats().Partial) })
	if o.evidence != nil {
		counter("tulle_evidence_windows_sent_total", "One-second windows of observations sent to the controller.", func() float64 { return float64(o.evidence.Status().Sent) })
		counter("tulle_evidence_windows_dropped_total", "Windows that were too old before the controller could take them.", func() float64 { return float64(o.evidence.Status().Dropped) })
		counter("tulle_evidence_events_received_total", "Events received from the controller.", func() float64 { return float64(o.evidence.Status().Events) })
		gauge("tulle_evidence_connected", "1 while the stream with the controller is up.", func() float64 {
			if o.evidence.Status().Connected {
				return 1
			}
			return 0
		})
	}
}

// collectorStats turns the collector's counters, some by reason, into metrics.
type collectorStats struct{ o *Observer }

var (
	descSpans   = prometheus.NewDesc("tulle_collector_spans_accepted_total", "Spans that came in and were kept.", nil, nil)
	descPoints  = prometheus.NewDesc("tulle_collector_points_accepted_total", "Metric data points that came in from authenticated reporters.", nil, nil)
	descRefused = prometheus.NewDesc("tulle_collector_refused_total", "Batches answered with an error, by reason.", []string{"reason"}, nil)
	descDropped = prometheus.NewDesc("tulle_collector_dropped_total", "Spans or data points dropped for good, by reason.", []string{"reason"}, nil)
	descSent    = prometheus.NewDesc("tulle_collector_export_sent_total", "Spans that a backend has taken.", []string{"exporter"}, nil)
	descFailed  = prometheus.NewDesc("tulle_collector_export_failed_total", "Spans that a backend did not get, by reason: the queue on disk was full, or it refused them for good.",
		[]string{"exporter", "reason"}, nil)
	descQueued  = prometheus.NewDesc("tulle_collector_export_queue_bytes", "Bytes that wait on disk for a backend.", []string{"exporter"}, nil)
	descRoom    = prometheus.NewDesc("tulle_collector_export_queue_limit_bytes", "Bytes that may wait on disk for a backend.", []string{"exporter"}, nil)
	descAltered = prometheus.NewDesc("tulle_collector_altered_total", "Attributes overwritten or removed, by reason.", []string{"reason"}, nil)
)

func (c collectorStats) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSpans, descPoints, descRefused, descDropped, descAltered, descSent, descFailed, descQueued, descRoom} {
		ch <- d
	}
}

func (c collectorStats) Collect(ch chan<- prometheus.Metric) {
	s := c.o.collector.Stats()
	ch <- prometheus.MustNewConstMetric(descSpans, prometheus.CounterValue, float64(s.SpansAccepted))
	ch <- prometheus.MustNewConstMetric(descPoints, prometheus.CounterValue, float64(s.MetricsAccepted))
	for name, e := range s.Export {
		ch <- prometheus.MustNewConstMetric(descSent, prometheus.CounterValue, float64(e.Sent), name)
		ch <- prometheus.MustNewConstMetric(descFailed, prometheus.CounterValue, float64(e.Refused), name, "queue_full")
		ch <- prometheus.MustNewConstMetric(descFailed, prometheus.CounterValue, float64(e.Failed), name, "rejected")
		ch <- prometheus.MustNewConstMetric(descQueued, prometheus.GaugeValue, float64(e.Queued), name)
		ch <- prometheus.MustNewConstMetric(descRoom, prometheus.GaugeValue, float64(e.Capacity), name)
	}
	for d, m := range map[*prometheus.Desc]map[string]uint64{descRefused: s.Refused, descDropped: s.Dropped, descAltered: s.Altered} {
		for reason, n := range m {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), reason)
		}
	}
}
