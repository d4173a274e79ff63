package doctor

import (
	"context"
	"fmt"
)

// telemetry: nothing was dropped or folded in the last hour.
func telemetry(ctx context.Context, e *examination) (wrong []Finding, well string, err error) {
	dropped, err := e.Query(ctx, `sum by (service, reason) (increase(tulle_records_dropped_total[1h])) > 0.5`)
	if err != nil {
		return nil, "", err
	}
	remedy := map[string]string{
		"queue_full": "The observer was away or slow for longer than sidecars keep spans: look at it.", "ring_full": "The sidecar has too little CPU for its load: give it more.",
		"refused": "The observer refused them for good: look at its log.", "partial": "The observer refused some of them for good: look at its log.",
		"shutdown": "The sidecar stopped while the observer was away.", "access_log": "What reads the access log is slow: read it faster, or turn it off.",
	}
	for _, s := range dropped {
		wrong = append(wrong, Finding{
			Level: Warn, Subject: s.Labels["service"], What: fmt.Sprintf("%.0f records were dropped in the last hour: %s. They are counted all the same.", s.Value, s.Labels["reason"]),
			Do: remedy[s.Labels["reason"]],
		})
	}
	folded, err := e.Query(ctx, `sum by (service, family) (increase(tulle_sidecar_series_folded_total[1h])) > 0.5`)
	if err != nil {
		return wrong, "", err
	}
	for _, s := range folded {
		wrong = append(wrong, Finding{
			Level: Warn, Subject: s.Labels["service"], What: fmt.Sprintf("%.0f new series of %s were counted under other in the last hour.", s.Value, s.Labels["family"]),
			Do: "Raise --max-series of the sidecar, or find what makes so many names.",
		})
	}
	return wrong, "Nothing was dropped in the last hour.", nil
}
