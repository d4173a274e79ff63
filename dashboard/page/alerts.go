package page

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/dashboard/source"
)

// AlertsView is what fires and by which rules.
type AlertsView struct {
	Shell  part.Shell
	Alerts []source.Alert
	Rules  []source.Rule
	Sent   []source.Delivery
	Error  string
	Absent bool
	Now    time.Time
}

// Alerts shows active alerts, firing ones first, and every rule.
func Alerts(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTime)
		defer cancel()
		v := AlertsView{Shell: d.shell(ctx, "Alerts", "/alerts", "reload"), Now: d.Clock(), Absent: d.Alerts == nil}
		if d.Alerts != nil {
			var err error
			if v.Alerts, err = d.Alerts.Alerts(ctx); err != nil {
				v.Error = "The alerts cannot be read: " + err.Error()
			}
			if v.Rules, err = d.Alerts.Rules(ctx); err != nil {
				v.Error = "The rules cannot be read: " + err.Error()
			}
			if v.Sent, err = d.Alerts.Deliveries(ctx); err != nil {
				v.Error = "The deliveries cannot be read: " + err.Error()
			}
		}
		sort.SliceStable(v.Alerts, func(i, j int) bool {
			a, b := v.Alerts[i], v.Alerts[j]
			if (a.State == "firing") != (b.State == "firing") {
				return a.State == "firing"
			}
			return a.ActiveSince.After(b.ActiveSince)
		})
		render(w, r, http.StatusOK, AlertsPage(v))
	}
}

func alertLevel(a source.Alert) part.Level {
	switch {
	case a.State != "firing" || a.Silenced || a.Severity == "info":
		return part.OK
	case part.SeverityLevel(a.Severity) == part.Warn:
		return part.Warn
	}
	return part.Bad
}

func deliveryLevel(d source.Delivery) part.Level {
	switch d.State {
	case "delivered":
		return part.OK
	case "retrying":
		return part.Warn
	}
	return part.Bad
}

// deliveryText says what the alerts of a notification have in common, but for their name, which stands beside it, and how many they are.
func deliveryText(d source.Delivery) string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(d.Group)) {
		if k != "alertname" {
			list = append(list, k+"="+d.Group[k])
		}
	}
	if d.Firing > 0 {
		list = append(list, part.Count(d.Firing)+" firing")
	}
	if d.Resolved > 0 {
		list = append(list, part.Count(d.Resolved)+" resolved")
	}
	return strings.Join(list, " · ")
}

func ruleLevel(r source.Rule) part.Level {
	switch {
	case r.Health == "err" || r.LastError != "":
		return part.Bad
	case r.State == "firing":
		return part.Bad
	case r.State == "pending":
		return part.Warn
	}
	return part.OK
}

func ruleState(r source.Rule) string {
	if r.State == "" {
		return r.Kind
	}
	return r.State
}
