package show

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/tulle-mesh/tulle/store/why"
)

// Why writes an explanation: the summary, then hop by hop what happened, with the one to blame marked, and what to do.
func (s Style) Why(w io.Writer, e *why.Explanation) error {
	var b strings.Builder
	code := map[why.Outcome]string{why.OK: green, why.Recovered: yellow, why.Refused: yellow, why.CallerLeft: yellow, why.Failed: red}[e.Outcome]
	b.WriteString(s.paint(code, strings.ToUpper(strings.ReplaceAll(string(e.Outcome), "_", " "))) + "  " + s.paint(bold, e.Summary) + "\n")
	b.WriteString(s.paint(dim, fmt.Sprintf("trace %s, %s", e.TraceID, e.Start.Local().Format("2006-01-02 15:04:05.000"))) + "\n\n")
	for i := range e.Hops {
		s.hop(&b, e, i)
	}
	if e.Omitted > 0 {
		b.WriteString(s.paint(dim, fmt.Sprintf("and %d calls that went well", e.Omitted)) + "\n")
	}
	if e.Longest != "" {
		b.WriteString("\n" + s.paint(dim, "time  ") + s.paint("", e.Longest) + "\n")
	}
	for _, m := range e.Missing {
		b.WriteString(s.paint(yellow, "not known: "+m) + "\n")
	}
	if len(e.Next) > 0 {
		b.WriteString("\n" + s.paint(bold, "What to do") + "\n")
		for _, n := range e.Next {
			code := ""
			if strings.HasPrefix(n, "tulle ") {
				code = cyan
			}
			b.WriteString("  " + s.paint(code, n) + "\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s Style) hop(b *strings.Builder, e *why.Explanation, i int) {
	h := &e.Hops[i]
	indent := strings.Repeat("  ", min(h.Depth, 20))
	mark, code := "  ", ""
	if i == e.Culprit {
		mark, code = "» ", red
	}
	b.WriteString(s.paint(code, mark) + indent + s.paint(code, h.Request+"  "+h.Says) + "\n")
	under := func(name, text string) {
		if text != "" {
			b.WriteString("  " + indent + "  " + s.paint(dim, name+"  "+text) + "\n")
		}
	}
	under("at    ", fmt.Sprintf("+%s", Duration(h.Start.Sub(e.Start))))
	under("detail", h.Detail)
	if h.By != "" && h.Revision != "" {
		under("judged", "by policy "+h.Revision+", "+cmp.Or(h.Route, "default route"))
	}
	if h.Override != "" {
		under("steered", "by override "+h.Override+" of the controller")
	}
	if h.Health != nil {
		under("health", h.Health.Says)
	}
	for _, t := range h.Tries {
		if len(h.Tries) < 2 {
			break
		}
		what := cmp.Or(t.Reason, fmt.Sprint(t.Status))
		if t.Reason != "" && t.Status != 0 {
			what = fmt.Sprintf("%d %s", t.Status, t.Reason)
		}
		if !t.Delivered {
			what += ", never delivered"
		}
		under(fmt.Sprintf("try %d ", t.Number), fmt.Sprintf("%s: %s after %s", cmp.Or(t.Endpoint, "no endpoint"), what, Duration(t.Duration)))
	}
}
