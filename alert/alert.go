// Package alert is the voice: Prometheus' rule manager judges the series in store/metric, and Alertmanager's parts group, inhibit, silence,
// deduplicate and send what it finds. Rules are Prometheus rule files; routes and receivers are an Alertmanager configuration.
//
// Hold it so: New checks rules and configuration and touches nothing but its data directory; Run, once, evaluates and notifies until its
// context is done. The accessors may be called at any time.
//
// What survives a crash: which alerts fire (alerts.json, written with every change), what has been sent about them (nflog, every 15 s and at
// the end), the list of deliveries (likewise), and silences. After a restart a firing alert goes on firing without a second notification; one that was never delivered is
// delivered; one that ended meanwhile is resolved, and said to be, within a minute. A crash inside the 15 s can repeat a notification, never lose one.
package alert

import (
	"context"
	_ "embed" // the built-in rules
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/dispatch"
	"github.com/prometheus/alertmanager/eventrecorder"
	"github.com/prometheus/alertmanager/featurecontrol"
	"github.com/prometheus/alertmanager/inhibit"
	"github.com/prometheus/alertmanager/marker"
	"github.com/prometheus/alertmanager/nflog"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/provider/mem"
	"github.com/prometheus/alertmanager/silence"
	"github.com/prometheus/alertmanager/template"
	"github.com/prometheus/alertmanager/timeinterval"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/rules"

	"github.com/tulle-mesh/tulle/alert/receiver"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/metric"
)

// Config is what alerting needs. Zero fields mean the default named beside them.
type Config struct {
	DB      *metric.DB // required: what rules read, and where ALERTS series go
	DataDir string     // required: created if needed
	// RulesDir holds more rule files, *.yaml and *.yml; "" for none.
	RulesDir string
	// ConfigFile is an Alertmanager configuration. Without it everything goes to WebhookURLs, grouped by alert and service, 5 s after the first alert of a group.
	ConfigFile  string
	WebhookURLs []string
	ExternalURL string            // the dashboard, for links in notifications; default http://127.0.0.1:8640
	OnEvent     func(event.Event) // told of every alert that fires or resolves; nil discards
	Interval    time.Duration     // rules without an interval of their own; default 5 s
	ResendDelay time.Duration     // a firing alert is repeated to the notifier this often; default 10 s
	GroupWait   time.Duration     // of the built-in configuration; default 5 s
	Now         func() time.Time
	Logger      *slog.Logger
	Registerer  prometheus.Registerer // metrics of rules and notifications; default none
}

// Alert is one alert that is pending or firing.
type Alert struct {
	Fingerprint string            `json:"fingerprint"`
	Name        string            `json:"name"`
	State       string            `json:"state"` // pending | firing
	Severity    string            `json:"severity"`
	Service     string            `json:"service,omitempty"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Value       float64           `json:"value"`
	Since       time.Time         `json:"since"` // condition true without interruption
	Silenced    bool              `json:"silenced,omitempty"`
	Traces      []string          `json:"traces,omitempty"` // examples taken when it fired
}

// Rule is one alerting rule.
type Rule struct {
	Group       string            `json:"group"`
	File        string            `json:"file"`
	Name        string            `json:"name"`
	Query       string            `json:"query"`
	For         time.Duration     `json:"forNs"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	State       string            `json:"state"`  // inactive | pending | firing | unknown
	Health      string            `json:"health"` // ok | err | unknown
	LastError   string            `json:"lastError,omitempty"`
	LastRun     time.Time         `json:"lastRun"`
	Active      int               `json:"active"`
}

const (
	retention     = 5 * 24 * time.Hour // of sent notifications and ended silences, Alertmanager's own default
	snapshotEvery = 15 * time.Second
	restoredGrace = time.Minute // an alert from before a restart must be confirmed by its rule within this, or it is resolved
)

// Alerting is the rules and the notifier. Make it with New.
type Alerting struct {
	cfg       Config
	log       *slog.Logger
	manager   *rules.Manager
	stopRules context.CancelFunc
	ruleFiles []string
	amConfig  *config.Config
	notifLog  *nflog.Log
	silences  *silence.Silences
	silencer  *silence.Silencer
	template  *template.Template
	receivers map[string][]notify.Integration
	sent      *deliveries
	reg       prometheus.Registerer

	mu     sync.Mutex
	firing map[model.Fingerprint]*firing
	sink   *mem.Alerts // while Run runs

	api    atomic.Pointer[http.Handler] // while Run runs
	saving sync.Mutex                   // one writes silences at a time
}

// New checks everything that can be wrong in rules and configuration, and opens the state in DataDir.
func New(cfg Config) (*Alerting, error) {
	if cfg.DB == nil || cfg.DataDir == "" {
		return nil, errors.New("alert: Config.DB and Config.DataDir are required")
	}
	if cfg.ExternalURL == "" {
		cfg.ExternalURL = "http://127.0.0.1:8640"
	}
	if cfg.OnEvent == nil {
		cfg.OnEvent = func(event.Event) {}
	}
	if cfg.Interval <= 0 {
		cfg.Interval = 5 * time.Second
	}
	if cfg.ResendDelay <= 0 {
		cfg.ResendDelay = 10 * time.Second
	}
	if cfg.GroupWait <= 0 {
		cfg.GroupWait = 5 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Registerer == nil {
		cfg.Registerer = prometheus.NewRegistry()
	}
	external, err := url.Parse(cfg.ExternalURL)
	if err != nil {
		return nil, fmt.Errorf("alert: external URL %q: %w", cfg.ExternalURL, err)
	}
	if err := os.MkdirAll(cfg.DataDir, 0o755); err != nil {
		return nil, fmt.Errorf("alert: create %s: %w", cfg.DataDir, err)
	}
	a := &Alerting{cfg: cfg, log: cfg.Logger, reg: cfg.Registerer, firing: map[model.Fingerprint]*firing{}}
	if a.amConfig, err = loadConfig(cfg); err != nil {
		return nil, err
	}
	if a.template, err = template.FromGlobs(a.amConfig.Templates); err != nil {
		return nil, fmt.Errorf("alert: templates: %w", err)
	}
	a.template.ExternalURL = external
	if a.sent, err = openDeliveries(filepath.Join(cfg.DataDir, "deliveries.json"), cfg.Now); err != nil {
		return nil, err
	}
	a.receivers = map[string][]notify.Integration{}
	for _, r := range a.amConfig.Receivers {
		if a.receivers[r.Name], err = receiver.Build(r, a.template, a.log, a.sent.seen); err != nil {
			return nil, err
		}
	}
	if err := a.openState(); err != nil {
		return nil, err
	}
	if err := a.loadRules(external); err != nil {
		return nil, err
	}
	return a, nil
}

// openState opens what has been sent, the silences, and the alerts that fired at the end.
func (a *Alerting) openState() error {
	left, err := filepath.Glob(filepath.Join(a.cfg.DataDir, "silences.*.tmp")) // of a crash while they were written
	for _, f := range left {
		err = errors.Join(err, os.Remove(f))
	}
	if err != nil {
		return fmt.Errorf("alert: remove what a crash has left in %s: %w", a.cfg.DataDir, err)
	}
	a.notifLog, err = nflog.New(nflog.Options{SnapshotFile: filepath.Join(a.cfg.DataDir, "nflog"), Retention: retention, Logger: a.log, Metrics: a.reg})
	if err != nil {
		return fmt.Errorf("alert: read the log of sent notifications %s (remove the file to start anew; alerts that fire are then sent again): %w",
			filepath.Join(a.cfg.DataDir, "nflog"), err)
	}
	a.silences, err = silence.New(silence.Options{
		SnapshotFile: filepath.Join(a.cfg.DataDir, "silences"), Retention: retention, Logger: a.log, Metrics: a.reg,
		Limits: silence.Limits{MaxSilences: func() int { return 10_000 }, MaxSilenceSizeBytes: func() int { return 64 << 10 }},
	})
	if err != nil {
		return fmt.Errorf("alert: read silences %s (remove the file to start without): %w", filepath.Join(a.cfg.DataDir, "silences"), err)
	}
	a.silencer = silence.NewSilencer(a.silences, a.log, eventrecorder.Recorder{})
	return a.loadFiring()
}

// loadRules checks the built-in rules and those of RulesDir.
func (a *Alerting) loadRules(external *url.URL) error {
	ctx, cancel := context.WithCancel(context.Background())
	a.stopRules = cancel
	a.ruleFiles = []string{builtinRules}
	if a.cfg.RulesDir != "" {
		entries, err := os.ReadDir(a.cfg.RulesDir)
		if err != nil {
			cancel()
			return fmt.Errorf("alert: read the rules directory: %w", err)
		}
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yaml" || ext == ".yml") {
				a.ruleFiles = append(a.ruleFiles, filepath.Join(a.cfg.RulesDir, e.Name()))
			}
		}
	}
	a.manager = rules.NewManager(&rules.ManagerOptions{
		NameValidationScheme: model.UTF8Validation,
		ExternalURL:          external,
		QueryFunc:            rules.EngineQueryFunc(a.cfg.DB.Engine(), a.cfg.DB),
		NotifyFunc:           a.take,
		Context:              ctx,
		Appendable:           a.cfg.DB,
		Queryable:            a.cfg.DB,
		Logger:               a.log,
		Registerer:           a.reg,
		OutageTolerance:      time.Hour,
		ForGracePeriod:       0, // holds are seconds here: a restored one needs no extra time
		ResendDelay:          a.cfg.ResendDelay,
		GroupLoader:          loader{log: a.log},
		Parser:               metric.Parser(),
	})
	if _, errs := a.manager.LoadGroups(a.cfg.Interval, labels.EmptyLabels(), external.String(), nil, false, a.ruleFiles...); len(errs) > 0 {
		cancel()
		return fmt.Errorf("alert: rules: %w", errors.Join(errs...))
	}
	return nil
}

// Run evaluates rules and sends notifications until ctx is done. Stopping, it lets what is being sent finish or fail, and writes its state.
func (a *Alerting) Run(ctx context.Context, ready func()) error {
	defer a.stopRules()
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	rec, ff := eventrecorder.Recorder{}, featurecontrol.NoopFlags{}
	alerts, err := mem.NewAlerts(base, time.Minute, 0, a.silencer, a.log, rec, a.reg, ff)
	if err != nil {
		return fmt.Errorf("alert: %w", err)
	}
	defer alerts.Close()

	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() { a.notifLog.Maintenance(snapshotEvery, filepath.Join(a.cfg.DataDir, "nflog"), stop, nil) })
	wg.Go(func() { a.sent.keep(snapshotEvery, stop, func(err error) { a.log.Warn(err.Error()) }) })
	wg.Go(func() {
		a.silences.Maintenance(snapshotEvery, filepath.Join(a.cfg.DataDir, "silences"), stop, a.keepSilences)
	})
	defer func() { close(stop); wg.Wait() }()

	groups := marker.NewGroupMarker()
	inhibitor := inhibit.NewInhibitor(alerts, a.amConfig.InhibitRules, a.log, rec)
	intervals := map[string][]timeinterval.TimeInterval{}
	for _, t := range a.amConfig.TimeIntervals {
		intervals[t.Name] = t.TimeIntervals
	}
	for _, t := range a.amConfig.MuteTimeIntervals {
		intervals[t.Name] = t.TimeIntervals
	}
	pipeline := notify.NewPipelineBuilder(a.reg, ff, rec).New(a.receivers, func() time.Duration { return 0 }, inhibitor, a.silencer,
		timeinterval.NewIntervener(intervals), groups, a.notifLog, nil)
	dispatcher := dispatch.NewDispatcher(alerts, dispatch.NewRoute(a.amConfig.Route, nil), pipeline, groups,
		func(d time.Duration) time.Duration { return max(d, notify.MinTimeout) }, 30*time.Second, nil, a.log, rec, dispatch.NewDispatcherMetrics(false, a.reg, ff), a.template)

	a.begin(base, alerts)
	wg.Go(inhibitor.Run)
	inhibitor.WaitForLoading()
	defer inhibitor.Stop()
	wg.Go(func() { dispatcher.Run(time.Now()) })
	dispatcher.WaitForLoading()
	defer dispatcher.Stop()
	defer a.end()
	unserve, err := a.serve(alerts, dispatcher, groups, inhibitor)
	if err != nil {
		return fmt.Errorf("alert: the API: %w", err)
	}
	defer unserve()

	if err := a.manager.Update(a.cfg.Interval, a.ruleFiles, labels.EmptyLabels(), a.cfg.ExternalURL, nil); err != nil {
		return fmt.Errorf("alert: rules: %w", err)
	}
	wg.Go(a.manager.Run)
	defer a.manager.Stop()
	ready()
	sweep := time.NewTicker(5 * time.Second)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			a.sweep(a.cfg.Now())
		}
	}
}

// Alerts lists what is pending or firing, the most severe first, then the oldest.
func (a *Alerting) Alerts() []Alert {
	var out []Alert
	for _, r := range a.manager.AlertingRules() {
		r.ForEachActiveAlert(func(x *rules.Alert) {
			if x.State != rules.StatePending && x.State != rules.StateFiring {
				return
			}
			set := labelSet(x.Labels)
			e := Alert{
				Fingerprint: set.Fingerprint().String(), Name: x.Labels.Get(labels.AlertName), State: x.State.String(), Severity: x.Labels.Get("severity"),
				Service: serviceOf(set), Labels: x.Labels.Map(), Annotations: x.Annotations.Map(), Value: x.Value, Since: x.ActiveAt.UTC(),
				Silenced: a.silencer.Mutes(context.Background(), set),
			}
			a.mu.Lock()
			if f := a.firing[set.Fingerprint()]; f != nil {
				e.Traces = slices.Clone(f.Traces)
			}
			a.mu.Unlock()
			out = append(out, e)
		})
	}
	slices.SortFunc(out, func(x, y Alert) int {
		if d := severityRank(x.Severity) - severityRank(y.Severity); d != 0 {
			return d
		}
		if d := x.Since.Compare(y.Since); d != 0 {
			return d
		}
		return strings.Compare(x.Fingerprint, y.Fingerprint)
	})
	return out
}

func severityRank(s string) int {
	if i := slices.Index([]string{"critical", "error", "warning", "info"}, s); i >= 0 {
		return i
	}
	return 4
}

// Rules lists the alerting rules by group and order in the file.
func (a *Alerting) Rules() []Rule {
	var out []Rule
	for _, g := range a.manager.RuleGroups() {
		for _, r := range g.AlertingRules() {
			e := Rule{
				Group: g.Name(), File: g.File(), Name: r.Name(), Query: r.Query().String(), For: r.HoldDuration(), Labels: r.Labels().Map(), Annotations: r.Annotations().Map(),
				State: r.State().String(), Health: string(r.Health()), LastRun: r.GetEvaluationTimestamp().UTC(), Active: r.ActiveAlertsCount(),
			}
			if err := r.LastError(); err != nil {
				e.LastError = err.Error()
			}
			out = append(out, e)
		}
	}
	return out
}

// RuleGroups and AlertingRules are what Prometheus' own HTTP API asks for.
func (a *Alerting) RuleGroups() []*rules.Group           { return a.manager.RuleGroups() }
func (a *Alerting) AlertingRules() []*rules.AlertingRule { return a.manager.AlertingRules() }

// Silences is Alertmanager's own store of silences.
func (a *Alerting) Silences() *silence.Silences { return a.silences }
