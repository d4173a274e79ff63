package doctor

import (
	"context"
	"fmt"
	"time"
)

// sidecars: each is connected to the controller, and reports.
func sidecars(_ context.Context, e *examination) (wrong []Finding, well string, err error) {
	list, partial, err := e.proxies()
	if err != nil {
		return nil, "", err
	}
	if partial {
		wrong = append(wrong, Finding{Level: Warn, What: "The controller does not tell which sidecars there are; only those that report are known.", Do: "Start the controller, or check the observer's --controller."})
	}
	for _, p := range list {
		f := Finding{Subject: p.Instance}
		switch {
		case p.Namespace == "" && !partial: // not configured any more
			continue
		case !p.Connected && !p.Reporting && !partial:
			f.Level, f.What = Fail, "No sidecar runs for this workload, or it reaches neither the controller nor the observer."
			f.Do = "Start tulle-sidecar --instance " + p.Instance + ", or remove the Workload. Check --controller, --otlp and the sidecar's log."
		case !p.Connected && !partial:
			f.Level, f.What = Fail, "The sidecar is not connected to the controller"+since(e.now, p.Since)+"; it serves with its last policy."
			f.Do = "Check --controller of the sidecar, the network between them, and the sidecar's log."
		case !p.Reporting:
			f.Level, f.What = Warn, "The sidecar does not report"+since(e.now, p.LastSeen)+"."
			f.Do = "Check --otlp of the sidecar and tulle_export_total on its /metrics."
		default:
			continue
		}
		wrong = append(wrong, f)
	}
	return wrong, fmt.Sprintf("%d sidecars are connected and report.", len(list)), nil
}

func since(now, then time.Time) string {
	if then.IsZero() || then.Unix() <= 0 {
		return ""
	}
	return " since " + then.UTC().Format(time.RFC3339) + " (" + now.Sub(then).Round(time.Second).String() + ")"
}
