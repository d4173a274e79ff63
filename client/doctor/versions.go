package doctor

import (
	"context"
	"fmt"
)

// versions: sidecars are of the observer's version.
func versions(_ context.Context, e *examination) (wrong []Finding, well string, err error) {
	s, err := e.stats()
	if err != nil {
		return nil, "", err
	}
	list, partial, err := e.proxies()
	if err != nil || partial || s.Version == "" {
		return nil, "Not known: the controller or the observer does not tell.", err
	}
	for _, p := range list {
		if p.Version != "" && p.Version != s.Version {
			wrong = append(wrong, Finding{
				Level: Warn, Subject: p.Instance, What: fmt.Sprintf("The sidecar is version %s, the observer %s.", p.Version, s.Version), Do: "Upgrade controller and observer first, then sidecars.",
			})
		}
	}
	return wrong, "All are version " + s.Version + ".", nil
}
