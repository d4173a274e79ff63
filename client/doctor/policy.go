package doctor

import (
	"context"
	"fmt"
)

// policies: every connected sidecar runs on the newest revision that is meant for it.
func policies(_ context.Context, e *examination) (wrong []Finding, well string, err error) {
	list, partial, err := e.proxies()
	if err != nil || partial {
		return nil, "Not known: the controller tells nothing.", err
	}
	for _, p := range list {
		switch {
		case p.Nack != "":
			wrong = append(wrong, Finding{
				Level: Fail, Subject: p.Instance, What: fmt.Sprintf("The sidecar refused revision %s and keeps %s: %s", p.Wanted, acked(p.Acked), p.Nack),
				Do: "Correct the configuration that it names; if the sidecar is older than the controller, upgrade it.",
			})
		case p.Connected && p.Wanted != "" && p.Acked != p.Wanted:
			wrong = append(wrong, Finding{
				Level: Warn, Subject: p.Instance, What: fmt.Sprintf("The sidecar runs on revision %s, %s is meant for it.", acked(p.Acked), p.Wanted),
				Do: "Look again in a few seconds: pushes take that long. If it stays, look at the sidecar's log.",
			})
		}
	}
	return wrong, "Every connected sidecar runs on its newest policy.", nil
}

func acked(revision string) string {
	if revision == "" {
		return "none"
	}
	return revision
}
