// Package doctor looks at a mesh through its observer and says what is wrong, and what to do about it.
//
// How to hold it: Examine with a client. Each check is one file and one line of checks; it reads what it needs by the client, changes nothing, and finds things or nothing. A check
// that cannot read what it needs is a finding of its own, so that silence always means health.
package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/client"
)

// Level says how bad a Finding is.
type Level uint8

const (
	// OK: nothing to do.
	OK Level = iota
	// Warn: it works, and will not for long, or not as well as it could.
	Warn
	// Fail: something does not work.
	Fail
)

var levels = [...]string{"OK", "WARN", "FAIL"}

// String is OK, WARN or FAIL.
func (l Level) String() string { return levels[l] }

// MarshalText implements encoding.TextMarshaler.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// Finding is one thing that somebody should know.
type Finding struct {
	Level   Level  `json:"level"`
	Subject string `json:"subject,omitempty"` // what it is about: a service, an instance, a port
	What    string `json:"what"`
	Do      string `json:"do,omitempty"`
	YAML    string `json:"yaml,omitempty"` // to add to the configuration
}

// Result is what one check found; never without a Finding.
type Result struct {
	Check    string    `json:"check"`
	Level    Level     `json:"level"` // the worst of Findings
	Findings []Finding `json:"findings"`
}

// Report is all results, in the order of the checks.
type Report struct {
	Observer string    `json:"observer"`
	At       time.Time `json:"at"`
	Level    Level     `json:"level"` // the worst of Results
	Results  []Result  `json:"results"`
}

// check is one line of the table. look returns what is wrong, nil for nothing, and what there is to say where all is well.
type check struct {
	name string
	look func(ctx context.Context, e *examination) (wrong []Finding, well string, err error)
}

// checks are in the order in which a person would look.
var checks = []check{
	{"observer", observer},
	{"sidecars", sidecars},
	{"policy", policies},
	{"versions", versions},
	{"certificates", certificates},
	{"clocks", clocks},
	{"telemetry", telemetry},
	{"disk", disk},
	{"endpoints", endpoints},
	{"detection", detection},
}

// examination is what checks share: each answer is fetched once.
type examination struct {
	*client.Client
	now     time.Time
	stats   func() (client.Stats, error)
	proxies func() ([]client.Proxy, bool, error)
}

// maxFindings bounds what one check says of its kind; the rest is counted.
const maxFindings = 20

// Examine runs every check against the observer of c, as of now. The error is client.ErrUnreachable when nobody answers at all; anything else is a Finding.
func Examine(ctx context.Context, c *client.Client, now time.Time) (Report, error) {
	e := &examination{Client: c, now: now}
	stats, statsErr := c.Stats(ctx)
	if errors.Is(statsErr, client.ErrUnreachable) {
		return Report{}, statsErr
	}
	e.stats = func() (client.Stats, error) { return stats, statsErr }
	list, partial, listErr := c.Proxies(ctx)
	e.proxies = func() ([]client.Proxy, bool, error) { return list, partial, listErr }
	r := Report{Observer: c.Base(), At: now.UTC()}
	for _, k := range checks {
		wrong, well, err := k.look(ctx, e)
		if err != nil {
			wrong = append(wrong, Finding{Level: Fail, What: "This could not be looked at: " + err.Error() + ".", Do: "Check the observer and its log; an older one may not know the question: upgrade it."})
		}
		slices.SortStableFunc(wrong, func(a, b Finding) int { return cmp.Compare(b.Level, a.Level) })
		if n := len(wrong) - maxFindings; n > 0 {
			wrong = append(wrong[:maxFindings:maxFindings], Finding{Level: wrong[maxFindings].Level, What: fmt.Sprintf("And %d more.", n)})
		}
		result := Result{Check: k.name, Findings: wrong}
		if len(wrong) == 0 {
			result.Findings = []Finding{{What: well}}
		}
		result.Level = result.Findings[0].Level
		r.Level = max(r.Level, result.Level)
		r.Results = append(r.Results, result)
	}
	return r, nil
}
