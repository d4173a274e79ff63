package show

import (
	"cmp"
	"fmt"
	"io"
	"strings"

	"github.com/tulle-mesh/tulle/store/requests"
)

// answer is what came back: the gRPC status where there is one, and the reason, coloured by how bad it is.
func answer(r *requests.Request) cell {
	c := cell{text: cmp.Or(r.GRPC, "-")}
	if r.GRPC == "" && r.Status != 0 {
		c.text = fmt.Sprint(r.Status)
	}
	switch {
	case r.Failed:
		c.code = red
	case r.Reason != "" || r.Status/100 == 4:
		c.code = yellow
	}
	return c
}

func called(r *requests.Request) string {
	what := strings.TrimSpace(r.Method + " " + cmp.Or(r.Path, r.Host))
	if what == "" {
		what = cmp.Or(r.Protocol, r.Kind)
	}
	return what
}

// requestCells are the columns of one request; the wide ones last.
func (s Style) requestCells(r *requests.Request) []cell {
	cells := []cell{
		{text: r.Time.Local().Format("15:04:05.000")},
		{text: name(r.Source) + " → " + cmp.Or(r.Dest, "?")},
		{text: short(called(r), 48)},
		answer(r),
		{text: Duration(r.Duration)},
		{r.Reason, answer(r).code},
		{r.TraceID, cyan},
	}
	if s.Wide {
		cells = append(cells, cell{text: r.Endpoint}, cell{text: r.Instance}, cell{text: r.Route}, cell{text: fmt.Sprint(r.Attempts)}, cell{text: r.Revision}, cell{text: short(r.Detail, 80)})
	}
	return cells
}

func (s Style) requestColumns() []column {
	cols := []column{{"TIME", false}, {"EDGE", false}, {"REQUEST", false}, {"ANSWER", true}, {"TOOK", true}, {"REASON", false}, {"TRACE", false}}
	if s.Wide {
		cols = append(cols, column{"ENDPOINT", false}, column{"BY", false}, column{"ROUTE", false}, column{"TRIES", true}, column{"REVISION", false}, column{"DETAIL", false})
	}
	return cols
}

// Requests writes one line per request, newest first.
func (s Style) Requests(w io.Writer, p requests.Page) error {
	if len(p.Requests) == 0 && !p.Partial {
		_, err := fmt.Fprintln(w, "no request matches")
		return err
	}
	var rows [][]cell
	for i := range p.Requests {
		rows = append(rows, s.requestCells(&p.Requests[i]))
	}
	if err := s.table(w, s.requestColumns(), rows); err != nil {
		return err
	}
	return s.partial(w, p.Partial, p.Looked)
}

func (s Style) partial(w io.Writer, partial bool, looked int) error {
	if !partial {
		return nil
	}
	_, err := io.WriteString(w, s.paint(yellow, fmt.Sprintf("only the newest %d spans were looked at; narrow the time (--last) or the expression, or raise --budget", looked))+"\n")
	return err
}

// Groups writes one line per group.
func (s Style) Groups(w io.Writer, t requests.Table) error {
	if len(t.Groups) == 0 && !t.Partial {
		_, err := fmt.Fprintln(w, "no request matches")
		return err
	}
	var cols []column
	for _, b := range t.By {
		cols = append(cols, column{strings.ToUpper(b), false})
	}
	cols = append(cols, column{"COUNT", true}, column{"ERRORS", true}, column{"P50", true}, column{"P99", true})
	if s.Wide {
		cols = append(cols, column{"MAX", true}, column{"TOTAL", true}, column{"SHARE", true})
	}
	cols = append(cols, column{"EXAMPLE", false})
	var rows [][]cell
	for i := range t.Groups {
		g := &t.Groups[i]
		var row []cell
		for _, v := range g.Values {
			row = append(row, cell{text: cmp.Or(short(v, 60), "-")})
		}
		row = append(row, cell{text: fmt.Sprint(g.Count)}, ratio(g.Ratio), cell{text: Duration(g.P50)}, cell{text: Duration(g.P99)})
		if s.Wide {
			row = append(row, cell{text: Duration(g.Max)}, cell{text: Duration(g.Total)}, cell{text: fmt.Sprintf("%.1f%%", 100*float64(g.Count)/float64(max(t.Count, 1)))})
		}
		rows = append(rows, append(row, cell{g.Trace, cyan}))
	}
	if err := s.table(w, cols, rows); err != nil {
		return err
	}
	foot := fmt.Sprintf("%d requests", t.Count)
	if t.Others > 0 {
		foot += fmt.Sprintf(", %d more groups", t.Others)
	}
	if t.Folded > 0 {
		foot += fmt.Sprintf(", %d requests are in no group because there were too many groups", t.Folded)
	}
	if _, err := io.WriteString(w, s.paint(dim, foot)+"\n"); err != nil {
		return err
	}
	return s.partial(w, t.Partial, t.Looked)
}

// Live returns a function that writes one request per call, in columns of fixed width, with a head before the first; nil is the head alone.
func (s Style) Live(w io.Writer) func(r *requests.Request) error {
	width := []int{12, 32, 48, 6, 8, 16}
	begun := false
	line := func(cells []cell) error {
		var b strings.Builder
		for i, c := range cells {
			c.text = short(c.text, 80)
			pad := ""
			if i < len(width) {
				c.text = short(c.text, width[i])
				pad = strings.Repeat(" ", width[i]-len([]rune(c.text)))
			}
			if cols := s.requestColumns(); cols[i].right && i < len(width) {
				b.WriteString(pad + s.paint(c.code, c.text) + "  ")
			} else {
				b.WriteString(s.paint(c.code, c.text) + pad + "  ")
			}
		}
		_, err := io.WriteString(w, strings.TrimRight(b.String(), " ")+"\n")
		return err
	}
	return func(r *requests.Request) error {
		if !begun {
			begun = true
			var head []cell
			for _, c := range s.requestColumns() {
				head = append(head, cell{c.title, dim})
			}
			if err := line(head); err != nil {
				return err
			}
		}
		if r == nil {
			return nil
		}
		return line(s.requestCells(r))
	}
}
