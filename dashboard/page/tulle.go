package page

import (
	"bytes"
	"cmp"
	"context"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/tulle-mesh/tulle/dashboard/part"
)

// TulleView is the page about Tulle itself: what comes in, what was not kept and why, what is on disk, and what it costs.
type TulleView struct {
	Shell    part.Shell
	Now      time.Time
	Version  string
	Started  time.Time // zero: not known
	Sections []TulleSection
	Lost     []LostRow
	Room     float64 // share of the disk that is free, 0 to 1; negative: not known
	RoomText string
	RoomPath string
	Level    part.Level // of the disk
	Trouble  string     // what the store says is wrong
}

// TulleSection is a list of figures.
type TulleSection struct {
	Title string
	Facts []Fact
}

// LostRow is something that was not kept, not accepted or changed, with its reason.
type LostRow struct {
	What, Reason, Family string
	Count                float64
	Level                part.Level
}

// figures are the samples of this process's own metrics, by family.
type figures map[string]*dto.MetricFamily

// selfFigures reads what the process says of itself; a writer that cannot be read leaves its families out.
func (d *Deps) selfFigures() figures {
	out := figures{}
	for _, write := range d.Self {
		var b bytes.Buffer
		write(&b)
		p := expfmt.NewTextParser(model.UTF8Validation)
		families, err := p.TextToMetricFamilies(&b)
		if err != nil {
			continue
		}
		for name, f := range families {
			out[name] = f
		}
	}
	return out
}

func valueOf(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Gauge != nil:
		return m.Gauge.GetValue()
	case m.Untyped != nil:
		return m.Untyped.GetValue()
	}
	return math.NaN()
}

// sum adds up a family; NaN when there is none.
func (f figures) sum(name string) float64 {
	family := f[name]
	if family == nil || len(family.Metric) == 0 {
		return math.NaN()
	}
	total := 0.0
	for _, m := range family.Metric {
		total += valueOf(m)
	}
	return total
}

// losses are the families that count what was not kept, not taken or changed.
var losses = []struct {
	family, what string
	level        part.Level
}{
	{"tulle_collector_refused_total", "batches of telemetry refused", part.Warn},
	{"tulle_collector_dropped_total", "spans and data points dropped", part.Bad},
	{"tulle_collector_altered_total", "attributes overwritten or removed", part.OK},
	{"tulle_collector_folded_total", "names folded into other", part.Warn},
	{"tulle_collector_export_dropped_total", "spans not sent on", part.Bad},
	{"tulle_graph_rejected_total", "reports of sidecars rejected", part.Warn},
	{"tulle_graph_sequence_gaps_total", "reports of sidecars missing", part.Warn},
	{"tulle_graph_observations_dropped_total", "observations for the controller dropped", part.Warn},
	{"tulle_graph_write_errors_total", "writes of series failed", part.Bad},
	{"tulle_store_series_folded_total", "series folded into other", part.Warn},
	{"tulle_store_samples_rejected_total", "samples rejected", part.Warn},
	{"tulle_store_outside_samples_refused_total", "samples of others refused", part.Warn},
	{"tulle_observer_events_dropped_total", "events dropped", part.Bad},
	{"tulle_observer_events_failed_total", "events not written", part.Bad},
	{"tulle_evidence_windows_dropped_total", "windows of evidence dropped", part.Warn},
}

// Tulle shows how Tulle itself is.
func Tulle(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTime)
		defer cancel()
		render(w, r, http.StatusOK, TullePage(d.tulle(ctx)))
	}
}

func (d *Deps) tulle(ctx context.Context) TulleView {
	v := TulleView{Shell: d.shell(ctx, "Tulle itself", "/tulle", "reload"), Now: d.Clock(), Version: cmp.Or(d.Version, part.Dash), Room: -1, Level: part.OK}
	f := d.selfFigures()
	if t := f.sum("process_start_time_seconds"); t > 0 {
		v.Started = time.UnixMilli(int64(t * 1000)).UTC()
	}
	v.Sections = []TulleSection{d.incoming(f, v.Started), d.spansKept(&v), seriesKept(f), process(f, v.Now.Sub(v.Started))}
	for _, l := range losses {
		family := f[l.family]
		if family == nil {
			continue
		}
		for _, m := range family.Metric {
			if n := valueOf(m); n > 0 {
				v.Lost = append(v.Lost, LostRow{What: l.what, Reason: labelWords(m), Family: l.family, Count: n, Level: l.level})
			}
		}
	}
	slices.SortStableFunc(v.Lost, func(a, b LostRow) int {
		return cmp.Or(cmp.Compare(rank(b.Level), rank(a.Level)), cmp.Compare(b.Count, a.Count))
	})
	if d.Disk != nil {
		if disk, err := d.Disk(); err == nil && disk.Total > 0 {
			v.Room = float64(disk.Free) / float64(disk.Total)
			v.RoomText, v.RoomPath = part.Bytes(disk.Free)+" of "+part.Bytes(disk.Total)+" free", disk.Path
			switch {
			case v.Room < .05:
				v.Level = part.Bad
			case v.Room < .10:
				v.Level = part.Warn
			}
		}
	}
	return v
}

func labelWords(m *dto.Metric) string {
	var words []string
	for _, l := range m.Label {
		words = append(words, l.GetValue())
	}
	return strings.Join(words, ", ")
}

// known adds a figure when it is known.
func (s *TulleSection) known(name string, v float64, text string) {
	if !math.IsNaN(v) {
		s.Facts = append(s.Facts, Fact{name, text})
	}
}

func (s *TulleSection) count(name string, v float64) { s.known(name, v, part.Count(whole(v))) }

func whole(v float64) uint64 {
	if !(v > 0) { // NaN too
		return 0
	}
	return uint64(v)
}

func (d *Deps) incoming(f figures, started time.Time) TulleSection {
	s := TulleSection{Title: "Coming in"}
	spans := f.sum("tulle_collector_spans_accepted_total")
	s.count("spans taken since the start", spans)
	if up := d.Clock().Sub(started).Seconds(); !started.IsZero() && up > 0 {
		s.known("on average", spans, part.Rate(spans/up))
	}
	s.count("data points taken", f.sum("tulle_collector_points_accepted_total"))
	s.count("windows of evidence sent to the controller", f.sum("tulle_evidence_windows_sent_total"))
	if c := f.sum("tulle_evidence_connected"); !math.IsNaN(c) {
		s.known("controller", c, map[bool]string{true: "connected", false: "not connected"}[c > 0])
	}
	return s
}

func (d *Deps) spansKept(v *TulleView) TulleSection {
	st := d.Spans.Stats()
	s := TulleSection{Title: "Spans on disk"}
	s.count("spans", float64(st.Spans))
	s.Facts = append(s.Facts,
		Fact{"in blocks", part.Bytes(st.Bytes) + " in " + part.Plural(st.Blocks, "block", "blocks")},
		Fact{"in the write-ahead log", part.Bytes(st.WALBytes)},
	)
	if st.BytesPerSpan > 0 {
		s.Facts = append(s.Facts, Fact{"bytes per span", strconv.FormatFloat(st.BytesPerSpan, 'f', 1, 64)})
	}
	if !st.Oldest.IsZero() {
		s.Facts = append(s.Facts, Fact{"oldest", part.Ago(v.Now, st.Oldest)})
	}
	s.count("sent twice and kept once", float64(st.Duplicate))
	s.count("damage found", float64(st.Corrupt))
	v.Trouble = st.LastError
	return s
}

func seriesKept(f figures) TulleSection {
	s := TulleSection{Title: "Series and events"}
	active, budget := f.sum("tulle_store_active_series"), f.sum("tulle_store_series_budget")
	if budget > 0 {
		s.known("active series", active, part.Count(whole(active))+" of "+part.Count(whole(budget)))
	} else {
		s.count("active series", active)
	}
	blocks := f.sum("prometheus_tsdb_storage_blocks_bytes")
	s.known("blocks of series", blocks, part.Bytes(whole(blocks)))
	s.count("events", f.sum("tulle_store_events"))
	return s
}

func process(f figures, up time.Duration) TulleSection {
	s := TulleSection{Title: "The observer's process"}
	rss, heap := f.sum("process_resident_memory_bytes"), f.sum("go_memstats_heap_inuse_bytes")
	s.known("memory", rss, part.Bytes(whole(rss)))
	s.known("of it heap", heap, part.Bytes(whole(heap)))
	if cpu := f.sum("process_cpu_seconds_total"); up > 0 {
		s.known("processor", cpu, part.Percent(cpu/up.Seconds())+" of a core on average")
	}
	s.count("goroutines", f.sum("go_goroutines"))
	s.count("open files", f.sum("process_open_fds"))
	return s
}
