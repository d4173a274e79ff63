package receiver

import (
	"log/slog"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/alertmanager/notify/webhook"
	"github.com/prometheus/alertmanager/template"
)

// buildWebhook posts Alertmanager's own version 4 body (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config): 2xx is success,
// 5xx and network errors are tried again with backoff until the group's next turn, which tries again.
func buildWebhook(r config.Receiver, t *template.Template, log *slog.Logger) ([]notify.Integration, error) {
	var out []notify.Integration
	for i, c := range r.WebhookConfigs {
		n, err := webhook.New(c, t, log)
		if err != nil {
			return nil, err
		}
		out = append(out, notify.NewIntegration(n, c, "webhook", i, r.Name))
	}
	return out, nil
}
