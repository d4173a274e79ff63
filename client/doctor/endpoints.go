package doctor

import (
	"context"
	"fmt"
)

// endpoints: every service has some, and not all of them are ejected.
func endpoints(ctx context.Context, e *examination) (wrong []Finding, well string, err error) {
	total, err := e.Query(ctx, `min by (service) (tulle_service_endpoints)`)
	if err != nil {
		return nil, "", err
	}
	usable, err := e.Query(ctx, `min by (service) (tulle_service_endpoints_available)`)
	if err != nil {
		return nil, "", err
	}
	available := map[string]float64{}
	for _, s := range usable {
		available[s.Labels["service"]] = s.Value
	}
	for _, s := range total {
		name := s.Labels["service"]
		n, known := available[name]
		switch {
		case s.Value == 0:
			wrong = append(wrong, Finding{Level: Fail, Subject: name, What: "The service has no endpoint: calls to it are answered no_endpoint.", Do: "Start an instance, or remove what calls it."})
		case known && n == 0:
			wrong = append(wrong, Finding{Level: Fail, Subject: name, What: fmt.Sprintf("All %.0f endpoints are ejected.", s.Value), Do: "Look at its failures: tulle traces --errors --service " + name + "."})
		case known && n < s.Value:
			wrong = append(wrong, Finding{Level: Warn, Subject: name, What: fmt.Sprintf("%.0f of %.0f endpoints are ejected.", s.Value-n, s.Value), Do: "tulle events --service " + name + " says why."})
		}
	}
	return wrong, fmt.Sprintf("%d services have endpoints.", len(total)), nil
}
