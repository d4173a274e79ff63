package page

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/match"
	"github.com/tulle-mesh/tulle/store/requests"
)

// RequestsView is the page of wide events: the newest that are meant, or counted by what they have in common.
type RequestsView struct {
	Shell   part.Shell
	Form    RequestsForm
	Fields  []match.Field
	Columns []string
	Rows    []RequestRow
	Groups  []GroupRow
	Count   int // requests in all Groups
	Others  int // groups that are not shown
	Looked  int // spans that were looked at
	Partial bool
	Error   string
	Pointer string // the expression with a caret where it cannot be understood
	Now     time.Time
	Took    time.Duration
	Command string // the same in a terminal
	Tail    bool   // they are shown as they end
	Other   string // address of the same question, watched when this is not, and searched when this is watched; "" when nothing can be watched
	Ask     string // what the live feed is asked
}

// RequestsForm is the question as the reader typed it.
type RequestsForm struct{ Match, Side, Last, By, Sort, Columns string }

// RequestRow is one request, or connection.
type RequestRow struct {
	Time   time.Time
	Link   string
	Level  part.Level
	Values []Cell // of Columns, in their order
}

// Cell is one value of a row; Number aligns it.
type Cell struct {
	Text   string
	Number bool
	Sort   string // what it is sorted by, "" by its text
}

// GroupRow is what requests with the same values have in common.
type GroupRow struct {
	Values        []Cell
	Link          string // to these requests
	Trace         string // of a failed one, or else of the slowest
	Count         int
	Share         float64 // of the largest group, 0 to 1
	Errors        int
	Ratio         float64
	P50, P99, Max time.Duration
	Level         part.Level
}

const (
	requestRows     = 200
	requestGroups   = 100
	requestBudget   = 200_000 // spans looked at for one page
	defaultColumns  = "src,dst,method,path,status,reason,duration,attempts"
	maxColumns      = 12
	requestsDefault = "15m"
	maxQuestion     = 3_000 // bytes of what the live feed is asked, which takes messages of 4 KiB
)

// RequestLasts are the choices of the form.
var RequestLasts = []struct{ Value, Label string }{
	{"1m", "Last minute"}, {"5m", "Last 5 minutes"}, {"15m", "Last 15 minutes"}, {"1h", "Last hour"}, {"6h", "Last 6 hours"}, {"24h", "Last 24 hours"}, {"168h", "Last 7 days"},
}

// Requests searches wide events by an expression, and counts them by fields.
func Requests(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTime)
		defer cancel()
		q := r.URL.Query()
		v := RequestsView{Now: d.Clock(), Fields: match.Fields(), Form: requestsForm(q), Tail: q.Get("tail") != "" && d.Tap != nil}
		topics := "reload"
		if v.Tail {
			topics, v.Form.By = "tail", ""
		}
		v.Shell = d.shell(ctx, "Requests", "/requests", topics)
		v.Command = v.Form.command()
		if v.Tail {
			v.Other, v.Ask, v.Command = v.Form.url(), v.Form.question(), v.Form.tapCommand()
		} else if d.Tap != nil {
			v.Other = v.Form.tailURL()
		}
		status := http.StatusOK
		start := time.Now()
		if err := d.requests(ctx, &v); err != nil {
			v.Error, status = explainSearch(err), statusOf(err)
			if e := (*match.Error)(nil); errors.As(err, &e) {
				v.Pointer = e.Pointer()
			}
		}
		v.Took = time.Since(start)
		render(w, r, status, RequestsPage(v))
	}
}

func requestsForm(q url.Values) RequestsForm {
	return RequestsForm{
		Match: q.Get("match"), Side: cmp.Or(q.Get("side"), string(requests.Client)), Last: cmp.Or(q.Get("last"), requestsDefault), By: q.Get("by"),
		Sort: cmp.Or(q.Get("sort"), "count"), Columns: cmp.Or(q.Get("columns"), defaultColumns),
	}
}

// requests answers v.Form.
func (d *Deps) requests(ctx context.Context, v *RequestsView) error {
	bad := func(name, value, want string) error {
		return fmt.Errorf("%s %q: %w: write %s", name, value, store.ErrBadQuery, want)
	}
	last, err := time.ParseDuration(v.Form.Last)
	if err != nil || last <= 0 {
		return bad("last", v.Form.Last, "a duration such as 15m or 6h")
	}
	e, err := match.Parse(v.Form.Match)
	if err != nil {
		return err
	}
	query := requests.Query{
		Match: e, Side: requests.Side(v.Form.Side), Start: v.Now.Add(-last), Limit: requestGroups, By: fieldList(v.Form.By), Sort: v.Form.Sort, Budget: requestBudget,
	}
	if len(query.By) > 0 {
		v.Columns = query.By
		return d.countRequests(ctx, v, query)
	}
	v.Columns = fieldList(v.Form.Columns)
	if v.Tail {
		if len(v.Ask) > maxQuestion {
			return bad("match", part.Ellipsis(v.Form.Match, 80), "a shorter one, to watch it live")
		}
		if _, err = columnValues(v.Columns); err == nil {
			_, err = requests.Restrict(e, query.Side)
		}
		return err
	}
	return d.listRequests(ctx, v, query)
}

func fieldList(s string) []string {
	var out []string
	for f := range strings.SplitSeq(s, ",") {
		if f = strings.TrimSpace(f); f != "" && !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

func (d *Deps) listRequests(ctx context.Context, v *RequestsView, q requests.Query) error {
	values, err := columnValues(v.Columns)
	if err != nil {
		return err
	}
	e, err := requests.Restrict(q.Match, q.Side)
	if err != nil {
		return err
	}
	res, err := match.Search(ctx, d.Spans, store.TraceQuery{Start: q.Start, End: q.End}, e, q.Budget, func(s *store.Span) bool {
		v.Rows = append(v.Rows, requestRow(v.Columns, values, s))
		return len(v.Rows) < requestRows
	})
	v.Looked, v.Partial = res.Looked, res.Partial
	return err
}

// columnValues looks up the fields of 1 to maxColumns columns. Errors wrap store.ErrBadQuery.
func columnValues(columns []string) ([]func(*store.Span) string, error) {
	if len(columns) == 0 || len(columns) > maxColumns {
		return nil, fmt.Errorf("columns %q: %w: write 1 to %d fields", strings.Join(columns, ","), store.ErrBadQuery, maxColumns)
	}
	values := make([]func(*store.Span) string, len(columns))
	for i, name := range columns {
		var ok bool
		if values[i], ok = match.Lookup(name); !ok {
			return nil, fmt.Errorf("column %q: %w: there is no such field; the list below the expression has them", name, store.ErrBadQuery)
		}
	}
	return values, nil
}

var failedField, _ = match.Lookup("failed")

func requestRow(columns []string, values []func(*store.Span) string, s *store.Span) RequestRow {
	row := RequestRow{Time: s.Start, Link: TraceURL(s.TraceID.String()) + "?span=" + s.SpanID.String() + "#s-" + s.SpanID.String(), Level: part.OK}
	if failedField(s) == "true" {
		row.Level = part.Bad
	}
	for i, value := range values {
		row.Values = append(row.Values, cell(columns[i], value(s), s))
	}
	return row
}

// cell puts a field's value as a person reads it.
func cell(field, value string, s *store.Span) Cell {
	switch f := fieldNamed(field); {
	case value == "":
		return Cell{Text: part.Dash, Number: numeric(field)}
	case f != nil && f.Type == match.Duration && s != nil:
		return Cell{Text: part.Span(s.Duration), Number: true, Sort: strconv.FormatFloat(s.Duration.Seconds(), 'g', 9, 64)}
	case f != nil && f.Type == match.Number:
		return Cell{Text: value, Number: true, Sort: value}
	}
	return Cell{Text: value}
}

// numeric says whether a field's values are aligned as numbers.
func numeric(field string) bool {
	f := fieldNamed(field)
	return f != nil && (f.Type == match.Number || f.Type == match.Duration)
}

func fieldNamed(name string) *match.Field {
	fields := match.Fields()
	if i := slices.IndexFunc(fields, func(f match.Field) bool { return f.Name == name }); i >= 0 {
		return &fields[i]
	}
	return nil
}

func (d *Deps) countRequests(ctx context.Context, v *RequestsView, q requests.Query) error {
	t, err := requests.Count(ctx, d.Spans, q)
	v.Looked, v.Partial, v.Count, v.Others = t.Looked, t.Partial, t.Count, t.Others
	largest := 1
	for i := range t.Groups {
		largest = max(largest, t.Groups[i].Count)
	}
	for i := range t.Groups {
		g := &t.Groups[i]
		row := GroupRow{
			Count: g.Count, Share: float64(g.Count) / float64(largest), Errors: g.Errors, Ratio: g.Ratio, P50: g.P50, P99: g.P99, Max: g.Max,
			Trace: TraceURL(g.Trace), Level: part.OK,
		}
		switch {
		case g.Ratio >= part.BadRatio:
			row.Level = part.Bad
		case g.Ratio >= part.WarnRatio:
			row.Level = part.Warn
		}
		form := v.Form
		form.By = ""
		for k, value := range g.Values {
			row.Values = append(row.Values, cell(q.By[k], value, nil))
			form.Match = narrow(form.Match, q.By[k], value)
		}
		row.Link = form.url()
		v.Groups = append(v.Groups, row)
	}
	return err
}

// narrow adds that a field has a value; "": that nothing is said of it.
func narrow(expr, field, value string) string {
	term := match.Is(field, value)
	if strings.TrimSpace(expr) == "" {
		return term
	}
	return "(" + expr + ") and " + term
}

// url is the page with another question; what is as by default is left out.
func (f RequestsForm) url() string {
	q := url.Values{}
	for _, p := range [][3]string{
		{"match", f.Match, ""},
		{"side", f.Side, string(requests.Client)},
		{"last", f.Last, requestsDefault},
		{"by", f.By, ""},
		{"sort", f.Sort, "count"},
		{"columns", f.Columns, defaultColumns},
	} {
		if p[1] != p[2] {
			q.Set(p[0], p[1])
		}
	}
	if len(q) == 0 {
		return "/requests"
	}
	return "/requests?" + q.Encode()
}

// command is the same question in a terminal.
func (f RequestsForm) command() string {
	c := "tulle requests"
	if f.Match != "" {
		c += " '" + strings.ReplaceAll(f.Match, "'", `'\''`) + "'"
	}
	for _, p := range [][3]string{{"--last", f.Last, requestsDefault}, {"--side", f.Side, string(requests.Client)}, {"--group-by", f.By, ""}} {
		if p[1] != p[2] {
			c += " " + p[0] + " " + p[1]
		}
	}
	return c
}

// tailURL is the page that shows them as they end.
func (f RequestsForm) tailURL() string {
	f.By, f.Last, f.Sort = "", requestsDefault, "count" // which say nothing of what is to come
	if u := f.url(); strings.Contains(u, "?") {
		return u + "&tail=1"
	}
	return "/requests?tail=1"
}

// question is what the live feed is asked.
func (f RequestsForm) question() string {
	return url.Values{"match": {f.Match}, "side": {f.Side}, "columns": {f.Columns}}.Encode()
}

// tapCommand shows them as they end in a terminal.
func (f RequestsForm) tapCommand() string {
	f.Last, f.By = requestsDefault, ""
	return "tulle tap" + strings.TrimPrefix(f.command(), "tulle requests")
}

// RequestsURL is the page for an expression.
func RequestsURL(expr, by string) string {
	return RequestsForm{Match: expr, Side: string(requests.Client), Last: requestsDefault, By: by, Sort: "count", Columns: defaultColumns}.url()
}
