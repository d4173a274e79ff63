package page

import (
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/layout"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

func TestParseInstants(t *testing.T) {
	now := time.Date(2026, 11, 20, 14, 32, 7, 0, time.UTC)
	for query, want := range map[string]instants{
		"":                                    {span: -1},
		"span=6h":                             {span: 2},
		"at=2026-11-20T14:00:00Z":             {at: now.Add(-32*time.Minute - 7*time.Second), span: defaultSpan},
		"at=1795183200&span=15m":              {at: time.Unix(1795183200, 0).UTC(), span: 0},
		"at=-5m":                              {at: now.Add(-5 * time.Minute), span: defaultSpan},
		"from=-5m":                            {from: now.Add(-5 * time.Minute), span: defaultSpan},
		"at=-1h&from=-1h":                     {at: now.Add(-time.Hour), from: now.Add(-2 * time.Hour), span: defaultSpan},
		"at=2030-01-01T00:00:00Z&span=24h":    {at: now, span: 3}, // the future is now
		"at=-1h&from=2026-11-20T14:32:07Z":    {at: now.Add(-time.Hour), from: now, span: defaultSpan},
		"at=2026-11-20T14:00:00.5%2B01:00":    {at: now.Add(-92*time.Minute - 6500*time.Millisecond), span: defaultSpan},
		"at=2026-11-20T14:00:00Z&other=thing": {at: now.Add(-32*time.Minute - 7*time.Second), span: defaultSpan},
	} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseInstants(q, now)
		if err != nil || !got.at.Equal(want.at) || !got.from.Equal(want.from) || got.span != want.span {
			t.Errorf("%s: %+v, %v; want %+v", query, got, err, want)
		}
	}
	for _, query := range []string{"at=noon", "at=-5", "from=yesterday", "span=2h"} {
		q, _ := url.ParseQuery(query)
		if _, err := parseInstants(q, now); err == nil || !strings.Contains(err.Error(), strings.SplitN(query, "=", 2)[1]) {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// TestInstantsSurviveTheirURL: a link to an instant says the same instant.
func TestInstantsSurviveTheirURL(t *testing.T) {
	now := dashboardtest.Epoch
	for span := -1; span < len(spans); span++ {
		for _, at := range []time.Time{{}, now.Add(-time.Hour), now.Add(-1234567 * time.Microsecond).Truncate(time.Millisecond)} {
			for _, from := range []time.Time{{}, now.Add(-3 * time.Hour)} {
				u, err := url.Parse(instants{span: span}.url(at, from))
				if err != nil {
					t.Fatal(err)
				}
				got, err := parseInstants(u.Query(), now)
				if err != nil || !got.at.Equal(at) || !got.from.Equal(from) || (span >= 0 && got.span != span) {
					t.Errorf("%s: %+v, %v", u, got, err)
				}
			}
		}
	}
}

func deps(t *testing.T) *Deps {
	t.Helper()
	s, stop, err := dashboardtest.Sources(t.TempDir(), func() time.Time { return dashboardtest.Epoch })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stop() })
	return &Deps{Sources: &s, Places: &layout.Memory{}}
}

// TestTimelineHasWhatIsDrawn: wherever the instants lie, both are on the strip if it is long enough for both, and the drawn one is in any case.
func TestTimelineHasWhatIsDrawn(t *testing.T) {
	d := deps(t)
	now := d.Clock()
	for k, sp := range spans {
		for _, ago := range []time.Duration{0, time.Second, 10 * time.Minute, 2 * time.Hour, 30 * time.Hour, 60 * 24 * time.Hour} {
			for _, before := range []time.Duration{0, 5 * time.Minute, time.Hour, 7 * 24 * time.Hour} {
				i := instants{at: now.Add(-ago), span: k}
				if before > 0 {
					i.from = i.at.Add(-before)
				}
				s := d.timeline(t.Context(), i)
				if s.AtX == "" || !s.End.After(s.Start) || s.End.Sub(s.Start) != sp.long {
					t.Errorf("%s, %s ago, compared with %s before: at %q on %s to %s", sp.name, ago, before, s.AtX, s.Start, s.End)
				}
				if before > 0 && before < sp.long*8/10 && s.FromX == "" {
					t.Errorf("%s, %s ago: what is %s before is not on %s to %s", sp.name, ago, before, s.Start, s.End)
				}
				if s.End.After(now.Add(sp.step)) {
					t.Errorf("%s, %s ago: the strip goes on to %s, after now", sp.name, ago, s.End)
				}
			}
		}
	}
}

// TestTimelineMarks: what lies on top of each other is one mark with the gravest of their levels; routine is none.
func TestTimelineMarks(t *testing.T) {
	d := deps(t)
	now := d.Clock()
	log := &dashboardtest.Events{}
	for k, e := range []struct {
		ago      time.Duration
		kind     event.Kind
		severity string
	}{
		{50 * time.Minute, event.KindEjected, "warning"},
		{50*time.Minute - time.Second, event.KindReadmitted, "info"},
		{50*time.Minute - 2*time.Second, event.KindAlertFiring, "error"},
		{20 * time.Minute, event.KindWeight, "info"},
	} {
		log.List = append([]event.Event{{ID: event.NewID(now.Add(-e.ago)), Time: now.Add(-e.ago), Kind: e.kind, Severity: e.severity, Message: string(rune('a' + k))}}, log.List...)
	}
	d.Events = log
	s := d.timeline(t.Context(), instants{span: 1})
	if len(s.Marks) != 2 || s.Marks[0].Level != "bad" || !strings.Contains(s.Marks[0].Title, "and 2 more events") || !strings.Contains(s.Marks[0].Href, "span=1h") || s.Marks[1].Level != "ok" {
		t.Errorf("%+v", s.Marks)
	}
}

// TestTopologyThroughTime renders the page at other instants.
func TestTopologyThroughTime(t *testing.T) {
	d := deps(t)
	for _, c := range []struct {
		path   string
		status int
		has    []string
		not    []string
	}{
		{"/", 200, []string{"Live topology", `data-live="graph events"`, `href="/?span=1h"`}, []string{"data-role=\"timeline\"", `<h2>What changed</h2>`}},
		{"/?span=15m", 200, []string{"Live topology", `data-role="timeline"`, "compare with", `type="range" name="at"`}, []string{`<h2>What changed</h2>`}},
		{"/?at=-3m", 200, []string{"Topology at 14:29:07 UTC", `data-live=""`, "What had happened", "Back to live"}, []string{`<h2>What changed</h2>`}},
		{"/?at=-3m&from=-7m", 200, []string{
			"compared with 14:22:07 UTC", `<h2>What changed</h2>`, "more errors", `data-change="gone"`, `data-change="new"`, `<th scope="col">Change</th>`,
			`<span class="tag">before</span>`,
		}, nil},
		{"/?at=-1m&from=-1m", 200, []string{"Nothing that is more than chance"}, []string{`data-change="new"`}},
		{"/?from=-10m", 200, []string{"Topology now", `data-live=""`}, nil},
		{"/?at=2019-01-01T00:00:00Z", 404, []string{"nothing is known of that time", "Back to live"}, nil},
		{"/?at=-1m&from=2019-01-01T00:00:00Z", 404, []string{"Cannot compare with"}, nil},
		{"/?at=noon", 400, []string{"is no time"}, nil},
		{"/?at=%22%3E%3Cscript%3E", 400, nil, []string{"<script>alert", `"><script>`}},
	} {
		w := httptest.NewRecorder()
		Topology(d)(w, httptest.NewRequest("GET", c.path, nil))
		if w.Code != c.status {
			t.Errorf("%s: status %d, want %d", c.path, w.Code, c.status)
		}
		for _, s := range c.has {
			if !strings.Contains(w.Body.String(), s) {
				t.Errorf("%s: has no %s", c.path, s)
			}
		}
		for _, s := range c.not {
			if strings.Contains(w.Body.String(), s) {
				t.Errorf("%s: has %s", c.path, s)
			}
		}
	}
}

// TestEveryChangeHasAWord: a change that the store knows is one that a person can read.
func TestEveryChangeHasAWord(t *testing.T) {
	for _, c := range []graph.Change{
		graph.ChangeNew, graph.ChangeGone, graph.ChangeMoreErrors, graph.ChangeFewerErrors, graph.ChangeSlower, graph.ChangeFaster, graph.ChangeMoreTraffic,
		graph.ChangeLessTraffic, graph.ChangeUnprotected, graph.ChangeProtected,
	} {
		if changeWords[c] == "" {
			t.Errorf("%s has no word", c)
		}
	}
}
