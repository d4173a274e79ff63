// Package receiver lists where notifications can go: one file per kind of receiver, one line in the table. The configuration of a receiver is
// Alertmanager's own (https://prometheus.io/docs/alerting/latest/configuration/#receiver).
package receiver

import (
	"fmt"
	"log/slog"
	"reflect"
	"strings"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/template"
)

// kind is one kind of receiver. build returns its integrations in the order of the configuration.
type kind struct {
	name  string // as in NAME_configs
	build func(r config.Receiver, t *template.Template, log *slog.Logger) ([]notify.Integration, error)
}

var table = []kind{
	{"webhook", buildWebhook},
}

// Build makes the integrations of one receiver. A kind that is configured and not in the table is an error, never ignored.
func Build(r config.Receiver, t *template.Template, log *slog.Logger) ([]notify.Integration, error) {
	known := map[string]bool{}
	var out []notify.Integration
	for _, k := range table {
		known[k.name+"_configs"] = true
		in, err := k.build(r, t, log.With("receiver", r.Name, "integration", k.name))
		if err != nil {
			return nil, fmt.Errorf("alert receiver %q: %s: %w", r.Name, k.name, err)
		}
		out = append(out, in...)
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
