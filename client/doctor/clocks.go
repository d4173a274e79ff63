package doctor

import (
	"context"
	"fmt"
	"time"
)

// clocks: those of the sidecars agree with the observer's. From 1 s on the Proxies page marks them, from 2 s on there is an event.
func clocks(_ context.Context, e *examination) (wrong []Finding, well string, err error) {
	list, _, err := e.proxies()
	if err != nil {
		return nil, "", err
	}
	most := time.Duration(0)
	for _, p := range list {
		off := p.ClockOffset.Abs()
		if !p.Reporting {
			continue
		}
		if most = max(most, off); off < time.Second {
			continue
		}
		direction := "ahead of"
		if p.ClockOffset < 0 {
			direction = "behind"
		}
		level := Warn
		if off >= time.Minute { // certificates of a minute ago are not valid there yet
			level = Fail
		}
		wrong = append(wrong, Finding{
			Level: level, Subject: p.Instance, What: fmt.Sprintf("The clock is %s %s the observer's.", off.Round(time.Millisecond), direction),
			Do: "Set it (NTP); if it is nearly all of them, set the observer's.",
		})
	}
	return wrong, fmt.Sprintf("No clock differs by more than %s.", max(most.Round(time.Millisecond), time.Millisecond)), nil
}
