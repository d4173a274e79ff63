package doctor

import (
	"context"
	"fmt"
)

// observer: it answers, is ready, and has nothing to say against itself.
func observer(ctx context.Context, e *examination) (wrong []Finding, well string, err error) {
	s, err := e.stats()
	if err != nil {
		return nil, "", err
	}
	if err := e.Ready(ctx); err != nil {
		wrong = append(wrong, Finding{Level: Fail, What: fmt.Sprintf("The observer is not ready: %v.", err), Do: "Wait if it has just started; else look at its log."})
	}
	for _, n := range s.Notices {
		level := Warn
		switch n.Severity {
		case "info":
			continue
		case "error":
			level = Fail
		}
		wrong = append(wrong, Finding{Level: level, What: n.Message, Do: n.Action})
	}
	return wrong, "The observer answers and is ready.", nil
}
