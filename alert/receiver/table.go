// Package receiver lists where notifications can go: one file per kind of receiver, one line in the table. The configuration of a receiver is
// Alertmanager's own (https://prometheus.io/docs/alerting/latest/configuration/#receiver).
package receiver

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/template"
)

// kind is one kind of receiver. build returns its integrations in the order of the configuration.
type kind struct {
	name  string // as in NAME_configs
	build func(r config.Receiver, t *template.Template, log *slog.Logger) ([]configured, error)
}

var table = []kind{
	{"webhook", buildWebhook},
}

// configured is one of a receiver's notifiers, with its configuration.
type configured struct {
	notify.Notifier
	notify.ResolvedSender
}

// Seen is told of each attempt of a notifier when it has ended: integration is its kind and place, webhook[0]; err is nil when it arrived, and retry says whether
// trying again may help. ctx is the attempt's, with the group. It is called by several goroutines at once.
type Seen func(ctx context.Context, receiver, integration string, begin time.Time, retry bool, err error, alerts []*alert.Alert)

// watched is a notifier whose attempts are seen.
type watched struct {
	notify.Notifier
	receiver, integration string
	seen                  Seen
}

func (w *watched) Notify(ctx context.Context, alerts ...*alert.Alert) (bool, error) {
	begin := time.Now()
	retry, err := w.Notifier.Notify(ctx, alerts...)
	w.seen(ctx, w.receiver, w.integration, begin, retry, err, alerts)
	return retry, err
}

// Build makes the integrations of one receiver. A kind that is configured and not in the table is an error, never ignored.
func Build(r config.Receiver, t *template.Template, log *slog.Logger, seen Seen) ([]notify.Integration, error) {
	known := map[string]bool{}
	var out []notify.Integration
	for _, k := range table {
		known[k.name+"_configs"] = true
		in, err := k.build(r, t, log.With("receiver", r.Name, "integration", k.name))
		if err != nil {
			return nil, fmt.Errorf("alert receiver %q: %s: %w", r.Name, k.name, err)
		}
		for i, c := range in {
			w := &watched{Notifier: c.Notifier, receiver: r.Name, integration: fmt.Sprintf("%s[%d]", k.name, i), seen: seen}
			out = append(out, notify.NewIntegration(w, c.ResolvedSender, k.name, i, r.Name))
		}
	}
	v := reflect.ValueOf(r)
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if strings.HasSuffix(name, "_configs") && !known[name] && v.Field(i).Len() > 0 {
			return nil, fmt.Errorf("alert receiver %q: %s is not supported by this version; use webhook_configs, or forward to an Alertmanager", r.Name, name)
		}
	}
	return out, nil
}
