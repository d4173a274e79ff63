package show

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
)

// Traces writes one line per trace, as of now.
func (s Style) Traces(w io.Writer, traces []store.TraceSummary, now time.Time) error {
	if len(traces) == 0 {
		_, err := fmt.Fprintln(w, "no trace matches")
		return err
	}
	cols := []column{{"TRACE", false}, {"START", false}, {"DURATION", true}, {"SPANS", true}, {"ERRORS", true}, {"SERVICES", true}, {"ROOT", false}}
	var rows [][]cell
	for _, t := range traces {
		errors := cell{text: fmt.Sprint(t.Errors)}
		if t.Errors > 0 {
			errors.code = red
		}
		root := t.RootService + "  " + t.RootOperation
		switch {
		case t.Arriving(now):
			root += "  (still arriving)"
		case t.Partial:
			root += "  (root not seen)"
		}
		rows = append(rows, []cell{
			{t.ID, cyan},
			{text: t.Start.Local().Format("15:04:05.000")},
			{text: Duration(t.Duration)},
			{text: fmt.Sprint(t.Spans)},
			errors,
			{text: fmt.Sprint(len(t.Services))},
			{text: short(root, 60)},
		})
	}
	return s.table(w, cols, rows)
}

// Span is one row of a waterfall.
type Span struct {
	ID, Parent string
	Service    string
	Name       string
	Kind       string
	Start      time.Time
	Duration   time.Duration
	Error      bool
	Note       string // reason, status: what is worth a word
	Split      string // where its time went, in words; written below it
}

// Waterfall writes a trace as a tree with bars: children under their parent, by start. A span whose parent was not stored stands at the
// top, marked. Width is how many characters a line may take (at least 60).
func (s Style) Waterfall(w io.Writer, spans []Span, width int) error {
	if len(spans) == 0 {
		_, err := fmt.Fprintln(w, "the trace has no spans")
		return err
	}
	first, last := spans[0].Start, spans[0].Start
	byID := map[string]bool{}
	for _, sp := range spans {
		byID[sp.ID] = true
		if sp.Start.Before(first) {
			first = sp.Start
		}
		if end := sp.Start.Add(sp.Duration); end.After(last) {
			last = end
		}
	}
	children := map[string][]Span{}
	for _, sp := range spans {
		parent := sp.Parent
		if !byID[parent] || parent == sp.ID {
			parent = ""
		}
		children[parent] = append(children[parent], sp)
	}
	for _, c := range children {
		slices.SortStableFunc(c, func(a, b Span) int { return a.Start.Compare(b.Start) })
	}
	type row struct {
		span  Span
		label string
	}
	var rows []row
	seen := map[string]bool{}
	var walk func(parent string, depth int)
	walk = func(parent string, depth int) {
		for _, sp := range children[parent] {
			if seen[sp.ID] {
				continue
			}
			seen[sp.ID] = true
			label := strings.Repeat("  ", min(depth, 20)) + sp.Service + "  " + sp.Name
			if depth == 0 && sp.Parent != "" {
				label += "  (parent not stored)"
			}
			rows = append(rows, row{sp, label})
			walk(sp.ID, depth+1)
		}
	}
	walk("", 0)
	for _, sp := range spans { // a ring of parents reaches no top: show it all the same
		if !seen[sp.ID] {
			seen[sp.ID] = true
			rows = append(rows, row{sp, sp.Service + "  " + sp.Name + "  (parents form a ring)"})
			walk(sp.ID, 1)
		}
	}
	path := CriticalPath(spans)
	width = max(width, 60)
	labelWidth := 0
	for _, r := range rows {
		labelWidth = max(labelWidth, utf8.RuneCountInString(r.label))
	}
	labelWidth = min(labelWidth, width/2)
	barWidth := max(width-labelWidth-22, 16)
	total := max(last.Sub(first), 1)
	var b strings.Builder
	for _, r := range rows {
		label := Printable(r.label)
		if n := utf8.RuneCountInString(label); n > labelWidth {
			label = string([]rune(label)[:labelWidth-1]) + "…"
		} else {
			label += strings.Repeat(" ", labelWidth-n)
		}
		at := int(int64(r.span.Start.Sub(first)) * int64(barWidth) / int64(total))
		at = min(max(at, 0), barWidth-1)
		n := int(int64(r.span.Duration) * int64(barWidth) / int64(total))
		n = min(max(n, 1), barWidth-at)
		code := cyan
		if r.span.Error {
			code = red
		}
		b.WriteString(label + " " + s.paint(dim, strings.Repeat("·", at)) + s.paint(code, strings.Repeat("█", n)) +
			s.paint(dim, strings.Repeat("·", barWidth-at-n)) + fmt.Sprintf(" %8s", Duration(r.span.Duration)))
		if own := path[r.span.ID]; own > 0 {
			b.WriteString(s.paint(bold, fmt.Sprintf(" *%8s", Duration(own))))
		} else if r.span.Error || r.span.Note != "" {
			b.WriteString(strings.Repeat(" ", 10))
		}
		note := r.span.Note
		if r.span.Error {
			note = strings.TrimSpace("error " + note)
		}
		if note != "" {
			b.WriteString("  " + s.paint(code, note))
		}
		b.WriteByte('\n')
		if r.span.Split != "" {
			b.WriteString(strings.Repeat(" ", labelWidth+1) + s.paint(dim, "└ "+r.span.Split) + "\n")
		}
	}
	b.WriteString(s.paint(dim, pathWords(spans, path)) + "\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// Events writes events, oldest first, so that the newest stands at the end where the eye is.
func (s Style) Events(w io.Writer, events []event.Event) error {
	if len(events) == 0 {
		_, err := fmt.Fprintln(w, "nothing happened in that time")
		return err
	}
	var rows [][]cell
	sorted := slices.Clone(events)
	slices.SortStableFunc(sorted, func(a, b event.Event) int { return a.Time.Compare(b.Time) })
	for i := range sorted {
		rows = append(rows, s.eventCells(&sorted[i]))
	}
	cols := []column{{"TIME", false}, {"KIND", false}, {"SERVICE", false}, {"WHAT", false}}
	if s.Wide {
		cols = append(cols, column{"ENDPOINT", false}, column{"REVISION", false}, column{"EVIDENCE", false})
	}
	return s.table(w, cols, rows)
}

func (s Style) eventCells(e *event.Event) []cell {
	code := ""
	switch e.Severity {
	case "error":
		code = red
	case "warning":
		code = yellow
	}
	cells := []cell{{text: e.Time.Local().Format("Jan 02 15:04:05")}, {string(e.Kind), code}, {text: e.Service}, {text: e.Message}}
	if s.Wide {
		var evidence []string
		for k, v := range e.Evidence {
			evidence = append(evidence, k+" "+v)
		}
		slices.Sort(evidence)
		cells = append(cells, cell{text: e.Endpoint}, cell{text: e.Revision}, cell{text: strings.Join(evidence, ", ")})
	}
	return cells
}

// Event writes one event on a line of its own.
func (s Style) Event(w io.Writer, e event.Event) error {
	cells := s.eventCells(&e)
	var b strings.Builder
	for i, c := range cells {
		if i > 0 {
			b.WriteString("  ")
		}
		b.WriteString(s.paint(c.code, c.text))
		if i == 1 || i == 2 { // so that what follows stands below the last
			b.WriteString(strings.Repeat(" ", max(0, 18-utf8.RuneCountInString(c.text))))
		}
	}
	_, err := io.WriteString(w, strings.TrimRight(b.String(), " ")+"\n")
	return err
}
