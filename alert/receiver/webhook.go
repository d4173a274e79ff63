package receiver

import (
	"log/slog"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/notify/webhook"
	"github.com/prometheus/alertmanager/template"
)

// buildWebhook posts Alertmanager's own version 4 body (https://prometheus.io/docs/alerting/latest/configuration/#webhook_config): 2xx is success,
// 5xx and network errors are tried again with backoff until the group's next turn, which tries again.
func buildWebhook(r config.Receiver, t *template.Template, log *slog.Logger) ([]configured, error) {
	var out []configured
	for _, c := range r.WebhookConfigs {
		n, err := webhook.New(c, t, log)
		if err != nil {
			return nil, err
		}
		out = append(out, configured{n, c})
	}
	return out, nil
}
