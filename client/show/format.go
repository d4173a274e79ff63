package show

import (
	"fmt"
	"strings"
	"time"
)

// Duration writes d with three figures and a unit: 850µs, 4.12ms, 1.50s, 2m05s.
func Duration(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + Duration(-d)
	case d == 0:
		return "0"
	case d < time.Microsecond:
		return fmt.Sprintf("%dns", d)
	case d < time.Millisecond:
		return figures(float64(d)/1e3) + "µs"
	case d < time.Second:
		return figures(float64(d)/1e6) + "ms"
	case d < time.Minute:
		return figures(d.Seconds()) + "s"
	}
	return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
}

// figures writes v (1 to 999) with three figures.
func figures(v float64) string {
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f", v)
	case v < 99.95:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.0f", v)
}

// seconds writes a latency given in seconds; "-" when there is none.
func seconds(s float64) string {
	if s <= 0 {
		return "-"
	}
	return Duration(time.Duration(s * 1e9))
}

// rate writes requests per second.
func rate(r float64) string {
	if r >= 100 {
		return fmt.Sprintf("%.0f/s", r)
	}
	return fmt.Sprintf("%.1f/s", r)
}

// ratio writes a share in per cent, coloured by how bad it is.
func ratio(r float64) cell {
	c := cell{text: fmt.Sprintf("%.2f%%", 100*r)}
	switch {
	case r >= 0.05:
		c.code = red
	case r >= 0.01:
		c.code = yellow
	}
	return c
}

// short cuts text to n characters.
func short(text string, n int) string {
	text = strings.Join(strings.Fields(text), " ")
	r := []rune(text)
	if len(r) <= n {
		return text
	}
	return string(r[:n-1]) + "…"
}

// size writes bytes with three figures and a unit.
func size(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%dB", n)
	}
	v, unit := float64(n)/1e3, "kB"
	for _, u := range []string{"MB", "GB", "TB", "PB"} {
		if v < 999.5 {
			break
		}
		v, unit = v/1e3, u
	}
	return figures(v) + unit
}
