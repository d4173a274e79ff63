package doctor

import (
	"context"
	"fmt"
	"time"
)

// certificates: none ends soon. Sidecars renew between 50 and 70 % of a certificate's life, so one with little left was not renewed in time.
func certificates(_ context.Context, e *examination) (wrong []Finding, well string, err error) {
	const soon = time.Hour
	list, _, err := e.proxies()
	if err != nil {
		return nil, "", err
	}
	known, next := 0, time.Duration(0)
	for _, p := range list {
		if p.CertNotAfter.IsZero() || !p.Reporting {
			continue
		}
		left := p.CertNotAfter.Sub(e.now.Add(p.ClockOffset)) // by its own clock
		known++
		if known == 1 || left < next {
			next = left
		}
		f := Finding{Subject: p.Instance, Do: "Check that the sidecar reaches the controller; it renews by itself then. Its log says why it has not."}
		switch {
		case left <= 0:
			f.Level, f.What = Fail, fmt.Sprintf("The certificate ended at %s: nobody takes its connections.", p.CertNotAfter.UTC().Format(time.RFC3339))
		case left < soon:
			f.Level, f.What = Warn, fmt.Sprintf("The certificate ends in %s, at %s.", left.Round(time.Second), p.CertNotAfter.UTC().Format(time.RFC3339))
		default:
			continue
		}
		wrong = append(wrong, f)
	}
	if known == 0 {
		return wrong, "Not known: no sidecar says when its certificate ends.", nil
	}
	return wrong, fmt.Sprintf("%d certificates; the first ends in %s.", known, next.Round(time.Minute)), nil
}
