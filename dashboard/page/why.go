package page

import (
	"cmp"
	"context"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/why"
)

// WhyView says what became of a request.
type WhyView struct {
	Level   part.Level
	Word    string // the outcome in a word
	Summary string
	Span    bool // it is about one span, not about the whole trace
	Hops    []WhyHop
	Omitted int
	Longest string
	Missing []string
	Next    []WhyNext
	Open    bool // the hops are shown at once: something went wrong
	Command string
}

// WhyHop is one call.
type WhyHop struct {
	Culprit                 bool
	Depth                   int
	From, To, Request, Says string
	At                      string
	Link                    string // to the span in the waterfall below
	Facts                   []Fact
	Failed                  bool
}

// WhyNext is something to do; a Command is to be copied into a terminal.
type WhyNext struct {
	Text    string
	Command bool
	Link    string // the page that shows the same as the command, "" when there is none
}

// maxWhyHops is how many calls the panel lists: those that matter come first.
const maxWhyHops = 12

// outcomes say how a request ended, and how grave that is.
var outcomes = map[why.Outcome]struct {
	word  string
	level part.Level
}{
	why.OK: {"Went well", part.OK}, why.Recovered: {"Recovered", part.Warn}, why.Refused: {"Refused", part.Warn}, why.Failed: {"Failed", part.Bad},
	why.CallerLeft: {"Given up by its caller", part.Warn},
}

// why explains the request of span, "" that of the whole trace; nil when no sidecar has a Record of it.
func (d *Deps) why(ctx context.Context, td ptrace.Traces, span string) *WhyView {
	var id flow.SpanID
	if b, err := hex.DecodeString(span); err == nil && len(b) == len(id) {
		id = flow.SpanID(b)
	}
	e, ok := d.Why(ctx, td, id)
	if !ok {
		return nil
	}
	return NewWhyView(&e, id)
}

// NewWhyView puts an Explanation into words; span is what was asked about, zero for the whole trace.
func NewWhyView(e *why.Explanation, span flow.SpanID) *WhyView {
	o := outcomes[e.Outcome]
	v := &WhyView{
		Level: o.level, Word: o.word, Summary: e.Summary, Span: !span.IsZero(), Omitted: e.Omitted, Longest: e.Longest, Missing: e.Missing,
		Open: e.Outcome != why.OK, Command: "tulle why " + e.TraceID,
	}
	if v.Span {
		v.Command += " --span " + span.String()
	}
	for i := range e.Hops {
		if len(v.Hops) >= maxWhyHops && i != e.Culprit {
			v.Omitted++
			continue
		}
		v.Hops = append(v.Hops, whyHop(e, i))
	}
	for _, n := range e.Next {
		next := WhyNext{Text: n, Command: strings.HasPrefix(n, "tulle ")}
		if expr, ok := strings.CutPrefix(n, "tulle requests '"); ok && strings.HasSuffix(expr, "'") {
			next.Link = RequestsURL(strings.TrimSuffix(expr, "'"), "")
		}
		v.Next = append(v.Next, next)
	}
	return v
}

func whyHop(e *why.Explanation, i int) WhyHop {
	h := &e.Hops[i]
	v := WhyHop{
		Culprit: i == e.Culprit, Depth: min(h.Depth, 8), From: cmp.Or(h.From, "a caller outside the mesh"), To: h.To, Request: h.Request, Says: h.Says, Failed: h.Failed,
		At: "+" + part.Span(h.Start.Sub(e.Start)), Link: "#s-" + h.Span,
	}
	add := func(name, value string) {
		if value != "" {
			v.Facts = append(v.Facts, Fact{name, value})
		}
	}
	add("detail", h.Detail)
	if h.By != "" && h.Revision != "" {
		add("judged by", "policy "+h.Revision+", "+cmp.Or(h.Route, "default route"))
	}
	add("steered by", h.Override)
	if h.Health != nil {
		add("the endpoint then", h.Health.Says)
	}
	if len(h.Tries) > 1 {
		for _, t := range h.Tries {
			add("try "+strconv.Itoa(t.Number), tryWords(t))
		}
		if h.Cost > 0 {
			add("retries cost", part.Span(h.Cost.Round(time.Microsecond)))
		}
	}
	return v
}

func tryWords(t why.Try) string {
	var words []string
	if t.Status != 0 {
		words = append(words, strconv.Itoa(t.Status))
	}
	words = append(words, slices.DeleteFunc([]string{t.Reason}, func(s string) bool { return s == "" })...)
	if !t.Delivered {
		words = append(words, "never delivered")
	}
	return cmp.Or(t.Endpoint, "no endpoint") + ": " + strings.Join(words, ", ") + " after " + part.Span(t.Duration)
}
