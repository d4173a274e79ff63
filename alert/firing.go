package alert

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	amalert "github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/provider/mem"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/rules"

	"github.com/tulle-mesh/tulle/store/event"
)

// firing is one alert that fires. It is kept on disk, so that a restart neither repeats nor forgets it.
type firing struct {
	Labels      model.LabelSet `json:"labels"`
	Annotations model.LabelSet `json:"annotations"`
	Since       time.Time      `json:"since"`
	Until       time.Time      `json:"until"` // it is resolved if nobody confirms it before
	Value       float64        `json:"value"`
	Query       string         `json:"query"`
	Traces      []string       `json:"traces,omitempty"`
}

func labelSet(l labels.Labels) model.LabelSet {
	set := model.LabelSet{}
	l.Range(func(x labels.Label) { set[model.LabelName(x.Name)] = model.LabelValue(x.Value) })
	return set
}

func serviceOf(set model.LabelSet) string {
	return string(cmp.Or(set["service"], set["destination"]))
}

// take is the rule manager's NotifyFunc: alerts that fire, again and again, and those that ended, once.
func (a *Alerting) take(_ context.Context, query string, list ...*rules.Alert) {
	now := a.cfg.Now()
	var events []event.Event
	var out []*amalert.Alert
	changed := false
	a.mu.Lock()
	for _, x := range list {
		set := labelSet(x.Labels)
		fp := set.Fingerprint()
		f := a.firing[fp]
		if !x.ResolvedAt.IsZero() {
			if f == nil {
				continue
			}
			f.Until = x.ResolvedAt
			out = append(out, f.alert(a.cfg.ExternalURL, now))
			delete(a.firing, fp)
			changed = true
			events = append(events, f.event(event.KindAlertOK, now))
			continue
		}
		if f == nil {
			f = &firing{Labels: set, Since: x.FiredAt.UTC(), Traces: a.examples(now, set)}
			a.firing[fp] = f
			changed = true
			f.Annotations, f.Value, f.Query = labelSet(x.Annotations), x.Value, query
			events = append(events, f.event(event.KindAlertFiring, now))
		}
		f.Annotations, f.Value, f.Query, f.Until = labelSet(x.Annotations), x.Value, query, x.ValidUntil.UTC()
		out = append(out, f.alert(a.cfg.ExternalURL, now))
	}
	if changed {
		a.saveLocked()
	}
	sink := a.sink
	a.mu.Unlock()
	if sink != nil {
		if err := sink.Put(context.Background(), out...); err != nil {
			a.log.Warn("alerts were not taken by the notifier; the next evaluation sends them again", "err", err)
		}
	}
	for _, e := range events {
		a.cfg.OnEvent(e)
	}
}

// begin connects the notifier and gives it what fired before the restart.
func (a *Alerting) begin(ctx context.Context, sink *mem.Alerts) {
	now := a.cfg.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sink = sink
	var out []*amalert.Alert
	for _, f := range a.firing {
		f.Until = now.Add(restoredGrace)
		out = append(out, f.alert(a.cfg.ExternalURL, now))
	}
	if err := sink.Put(ctx, out...); err != nil {
		a.log.Warn("alerts from before the restart were not taken by the notifier", "err", err)
	}
}

func (a *Alerting) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sink = nil
	a.saveLocked()
}

// sweep ends alerts that their rule no longer confirms: it was removed, or the alert ended while nothing ran.
func (a *Alerting) sweep(now time.Time) {
	var events []event.Event
	a.mu.Lock()
	for fp, f := range a.firing {
		if f.Until.Before(now) {
			delete(a.firing, fp)
			events = append(events, f.event(event.KindAlertOK, now))
		}
	}
	if len(events) > 0 {
		a.saveLocked()
	}
	a.mu.Unlock()
	for _, e := range events {
		a.cfg.OnEvent(e)
	}
}

// alert is f in the notifier's shape.
func (f *firing) alert(external string, now time.Time) *amalert.Alert {
	annotations := maps.Clone(f.Annotations)
	if len(f.Traces) > 0 {
		annotations["traces"] = model.LabelValue(strings.Join(f.Traces, ","))
	}
	return &amalert.Alert{
		Alert: model.Alert{
			Labels: maps.Clone(f.Labels), Annotations: annotations, StartsAt: f.Since, EndsAt: f.Until,
			GeneratorURL: external + "/alerts#" + f.Labels.Fingerprint().String(),
		},
		UpdatedAt: now,
	}
}

func (f *firing) event(kind event.Kind, now time.Time) event.Event {
	summary := string(cmp.Or(f.Annotations["summary"], f.Labels[model.AlertNameLabel]))
	e := event.Event{
		ID: event.NewID(now), Time: now, Kind: kind, Severity: "info", Service: serviceOf(f.Labels), Endpoint: string(f.Labels["endpoint"]),
		Instance: string(f.Labels["instance"]), Reason: string(f.Labels[model.AlertNameLabel]), Traces: f.Traces,
		Evidence: map[string]string{"value": strconv.FormatFloat(f.Value, 'g', 4, 64), "rule": f.Query},
	}
	switch kind {
	case event.KindAlertOK:
		e.Message = fmt.Sprintf("Resolved after %s: %s", now.Sub(f.Since).Round(time.Second), summary)
	default:
		e.Message = summary
		switch f.Labels["severity"] {
		case "critical", "error":
			e.Severity = "error"
		case "info":
		default:
			e.Severity = "warning"
		}
	}
	for _, name := range []model.LabelName{"source", "destination"} {
		if v := f.Labels[name]; v != "" {
			e.Evidence[string(name)] = string(v)
		}
	}
	return e
}

// examples finds up to three recent traces of what an alert is about: exemplars of failed attempts first, then the slowest.
func (a *Alerting) examples(now time.Time, set model.LabelSet) []string {
	service := serviceOf(set)
	if service == "" {
		return nil
	}
	q, err := a.cfg.DB.ExemplarQuerier(context.Background())
	if err != nil {
		return nil
	}
	var ms []*labels.Matcher
	for _, m := range []struct{ label, value string }{{"destination", service}, {"endpoint", string(set["endpoint"])}, {"source", string(set["source"])}} {
		if m.value != "" {
			ms = append(ms, labels.MustNewMatcher(labels.MatchEqual, m.label, m.value))
		}
	}
	found, err := q.Select(now.Add(-2*time.Minute).UnixMilli(), now.UnixMilli(), ms)
	if err != nil {
		return nil
	}
	type example struct {
		trace  string
		failed bool
		value  float64
	}
	var list []example
	for _, s := range found {
		failed := s.SeriesLabels.Get("code_class") == "5xx" || s.SeriesLabels.Get("reason") != ""
		for _, x := range s.Exemplars {
			list = append(list, example{x.Labels.Get("trace_id"), failed, x.Value})
		}
	}
	slices.SortStableFunc(list, func(x, y example) int {
		if x.failed != y.failed {
			if x.failed {
				return -1
			}
			return 1
		}
		return cmp.Compare(y.value, x.value)
	})
	var out []string
	for _, x := range list {
		if x.trace != "" && !slices.Contains(out, x.trace) && len(out) < 3 {
			out = append(out, x.trace)
		}
	}
	return out
}

func (a *Alerting) firingFile() string { return filepath.Join(a.cfg.DataDir, "alerts.json") }

func (a *Alerting) loadFiring() error {
	b, err := os.ReadFile(a.firingFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("alert: read the alerts that fired: %w", err)
	}
	var list []*firing
	if err := json.Unmarshal(b, &list); err != nil {
		a.log.Warn("the file of firing alerts is damaged and is begun anew; alerts that still fire are found again by their rules", "path", a.firingFile(), "err", err)
		return nil
	}
	for _, f := range list {
		a.firing[f.Labels.Fingerprint()] = f
	}
	return nil
}

// saveLocked writes the firing alerts through a temporary file, so that a crash leaves the old or the new list.
func (a *Alerting) saveLocked() {
	list := slices.SortedFunc(maps.Values(a.firing), func(x, y *firing) int { return cmp.Compare(x.Labels.Fingerprint(), y.Labels.Fingerprint()) })
	b, err := json.Marshal(list)
	if err == nil {
		tmp := a.firingFile() + ".tmp"
		if err = writeSynced(tmp, b); err == nil {
			err = os.Rename(tmp, a.firingFile())
		}
	}
	if err != nil {
		a.log.Warn("the list of firing alerts could not be written; after a crash, notifications about them may repeat", "path", a.firingFile(), "err", err)
	}
}

func writeSynced(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}
