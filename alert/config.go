package alert

import (
	_ "embed"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/tulle-mesh/tulle/store/metric"
)

//go:embed rules.yaml
var builtin []byte

// builtinRules is the name of the embedded rule file.
const builtinRules = "built-in"

// loader reads rule files, the embedded one among them.
type loader struct{ log *slog.Logger }

func (l loader) Load(name string, ignoreUnknown bool, scheme model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	if name == builtinRules {
		return rulefmt.Parse(builtin, ignoreUnknown, scheme, metric.Parser(), l.log)
	}
	return rulefmt.ParseFile(name, ignoreUnknown, scheme, metric.Parser(), l.log)
}

func (l loader) Parse(query string) (parser.Expr, error) { return metric.Parser().ParseExpr(query) }

// loadConfig reads ConfigFile, or writes the configuration that sends everything to the webhooks.
func loadConfig(cfg Config) (*config.Config, error) {
	if cfg.ConfigFile != "" {
		b, err := os.ReadFile(cfg.ConfigFile)
		if err != nil {
			return nil, fmt.Errorf("alert: read the notification configuration: %w", err)
		}
		c, err := config.Load(string(b))
		if err != nil {
			return nil, fmt.Errorf("alert: notification configuration %s (its format is Alertmanager's): %w", cfg.ConfigFile, err)
		}
		return c, nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "route:\n  receiver: default\n  group_by: [alertname, service]\n  group_wait: %s\n  group_interval: %s\n  repeat_interval: 4h\n",
		model.Duration(cfg.GroupWait), model.Duration(2*cfg.GroupWait))
	b.WriteString("inhibit_rules:\n- source_matchers: ['alertname = TulleNoEndpoints']\n  target_matchers: ['alertname =~ \"TulleEdgeErrors|TulleEdgeSlow\"']\n  equal: [service]\n")
	b.WriteString("receivers:\n- name: default\n")
	if len(cfg.WebhookURLs) > 0 {
		b.WriteString("  webhook_configs:\n")
	}
	for _, u := range cfg.WebhookURLs {
		if p, err := url.Parse(u); err != nil || p.Scheme != "http" && p.Scheme != "https" || p.Host == "" {
			return nil, fmt.Errorf("alert: webhook %q is not a URL; write it like http://host:port/path", u)
		}
		fmt.Fprintf(&b, "  - url: %s\n    timeout: 10s\n    send_resolved: true\n", strconv.Quote(u))
	}
	c, err := config.Load(b.String())
	if err != nil {
		return nil, fmt.Errorf("alert: built-in notification configuration: %w", err)
	}
	return c, nil
}
