package lokiapi

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/requests"
)

// The part of LogQL that is understood: selectors, line filters, json, comparisons of labels, drop and keep; and counts over time of these.

// maxQuery bounds a query, in bytes.
const maxQuery = 5120

// parseError says what is wrong, and where.
type parseError struct {
	column int // from 1, in characters
	text   string
}

func (e *parseError) Error() string {
	return fmt.Sprintf("parse error at line 1, col %d: %s", e.column, e.text)
}
func (*parseError) Unwrap() error { return store.ErrBadQuery }

// entry is a line of the log, with what can be asked of it.
type entry struct {
	at     time.Time
	line   string
	labels map[string]string // of its stream
	fields map[string]string // of the line's JSON, once json has been passed
}

// labelNames are the labels of a stream, few enough that streams stay few.
var labelNames = []string{"dst", "level", "protocol", "service_name", "side", "src"}

// entryOf makes a line of a span that is a request, or connection.
func entryOf(s *store.Span) entry {
	r := requests.One(s)
	b, _ := json.Marshal(r) // it has nothing that cannot be
	level := "info"
	if r.Failed {
		level = "error"
	}
	labels := map[string]string{}
	for k, v := range map[string]string{"service_name": s.Service, "side": r.Side, "src": r.Source, "dst": r.Dest, "protocol": r.Protocol, "level": level} {
		if v != "" {
			labels[k] = v
		}
	}
	return entry{at: s.Start, line: string(b), labels: labels}
}

// label is a label or, behind json, a field of the line.
func (e *entry) label(name string) string {
	if v, ok := e.labels[name]; ok {
		return v
	}
	return e.fields[name]
}

// unpack is the stage json: names are as in the line, those inside fields with an underscore for what a label cannot have.
func (e *entry) unpack() {
	var m map[string]any
	if json.Unmarshal([]byte(e.line), &m) != nil {
		return
	}
	e.fields = map[string]string{}
	var add func(prefix string, m map[string]any)
	add = func(prefix string, m map[string]any) {
		for k, v := range m {
			name := prefix + strings.Map(func(r rune) rune {
				if r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
					return r
				}
				return '_'
			}, k)
			switch v := v.(type) {
			case map[string]any:
				add(name+"_", v)
			case string:
				e.fields[name] = v
			case float64:
				e.fields[name] = strconv.FormatFloat(v, 'f', -1, 64)
			default:
				e.fields[name] = fmt.Sprint(v)
			}
		}
	}
	add("", m)
}

// stage judges a line, and may add to it.
type stage func(e *entry) bool

// matcher is one comparison of a selector, or of a label filter with a text.
type matcher struct {
	name, op, value string
	re              *regexp.Regexp
}

func (m *matcher) ok(v string) bool {
	switch m.op {
	case "=":
		return v == m.value
	case "!=":
		return v != m.value
	case "=~":
		return m.re.MatchString(v)
	}
	return !m.re.MatchString(v)
}

// logQuery is a query for lines.
type logQuery struct {
	selector []matcher
	stages   []stage
}

// match judges a line, whose stream the selector must meet.
func (q *logQuery) match(e *entry) bool {
	for i := range q.selector {
		if !q.selector[i].ok(e.labels[q.selector[i].name]) {
			return false
		}
	}
	for _, s := range q.stages {
		if !s(e) {
			return false
		}
	}
	return true
}

// labelAttributes are the labels that are an attribute of the span and nothing else.
var labelAttributes = map[string]string{"src": flow.AttrSourceService, "dst": flow.AttrDestService, "protocol": flow.AttrProtocol, "side": flow.AttrSide}

// ask is what a store can find of the query: every line that it means is of a span that meets it.
func (q *logQuery) ask() (t store.TraceQuery) {
	for _, m := range q.selector {
		// A line without the label has an empty one, and a store finds nothing by what is not there.
		if key := labelAttributes[m.name]; key != "" && m.op == "=~" && !m.ok("") {
			t.Attributes = append(t.Attributes, store.AttributeMatch{Key: key, Op: "~", Value: "(?-s:" + m.value + ")"}) // "." is a line end in a store, and none here
			continue
		}
		if m.op != "=" || m.value == "" {
			continue
		}
		switch m.name {
		case "service_name":
			t.Service = m.value
		case "src":
			t.Source = m.value
		case "dst":
			t.Destination = m.value
		case "level":
			t.Errors = m.value == "error"
		}
	}
	return t
}

// metricQuery counts lines in a window before each instant.
type metricQuery struct {
	logQuery
	window  time.Duration
	perSec  bool // rate
	summed  bool // over streams, by the labels of by
	by      []string
	without bool // by are those that are left out
}

type scanner struct {
	text string
	at   int
}

func (s *scanner) fail(format string, a ...any) *parseError {
	return &parseError{utf8.RuneCountInString(s.text[:min(s.at, len(s.text))]) + 1, fmt.Sprintf(format, a...)}
}

func (s *scanner) space() {
	for s.at < len(s.text) {
		r, n := utf8.DecodeRuneInString(s.text[s.at:])
		if !unicode.IsSpace(r) {
			return
		}
		s.at += n
	}
}

// take reads a sign if it is next.
func (s *scanner) take(sign string) bool {
	s.space()
	if strings.HasPrefix(s.text[s.at:], sign) {
		s.at += len(sign)
		return true
	}
	return false
}

func (s *scanner) end() bool { s.space(); return s.at == len(s.text) }

func (s *scanner) name() string {
	s.space()
	from := s.at
	for s.at < len(s.text) {
		c := s.text[s.at]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9' || s.at == from) {
			break
		}
		s.at++
	}
	return s.text[from:s.at]
}

func (s *scanner) quoted() (string, *parseError) {
	s.space()
	q, err := strconv.QuotedPrefix(s.text[s.at:])
	if err != nil || q[0] == '\'' {
		return "", s.fail("a text in double quotes or backticks is expected")
	}
	v, _ := strconv.Unquote(q)
	s.at += len(q)
	return v, nil
}

func (s *scanner) one(ops ...string) string {
	for _, op := range ops {
		if s.take(op) {
			return op
		}
	}
	return ""
}

func (s *scanner) regexp(text string) (*regexp.Regexp, *parseError) {
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, s.fail("%q is no regular expression of RE2: %v", text, err)
	}
	return re, nil
}

func (s *scanner) selector() (out []matcher, err *parseError) {
	if !s.take("{") {
		return nil, s.fail(`"{" and a selector of streams, like {service_name="cart"}, is expected`)
	}
	for !s.take("}") {
		if len(out) > 0 && !s.take(",") {
			return nil, s.fail(`"," or "}" is expected`)
		}
		m := matcher{name: s.name()}
		if m.name == "" {
			return nil, s.fail("the name of a label is expected")
		}
		if m.op = s.one("=~", "!~", "!=", "="); m.op == "" {
			return nil, s.fail("=, !=, =~ or !~ is expected")
		}
		if m.value, err = s.quoted(); err != nil {
			return nil, err
		}
		if m.op[len(m.op)-1] == '~' {
			if m.re, err = s.regexp("^(?:" + m.value + ")$"); err != nil {
				return nil, err
			}
		}
		out = append(out, m)
	}
	return out, nil
}

func (s *scanner) pipeline() (stages []stage, err *parseError) {
	for {
		switch op := s.one("|=", "!=", "|~", "!~"); op {
		case "|=", "!=":
			text, err := s.quoted()
			if err != nil {
				return nil, err
			}
			stages = append(stages, func(e *entry) bool { return strings.Contains(e.line, text) == (op == "|=") })
			continue
		case "|~", "!~":
			text, err := s.quoted()
			if err != nil {
				return nil, err
			}
			re, err := s.regexp(text)
			if err != nil {
				return nil, err
			}
			stages = append(stages, func(e *entry) bool { return re.MatchString(e.line) == (op == "|~") })
			continue
		}
		if !s.take("|") {
			return stages, nil
		}
		from := s.at
		switch name := s.name(); name {
		case "json":
			stages = append(stages, func(e *entry) bool { e.unpack(); return true })
		case "drop", "keep": // of labels that lines here have none of (__error__), or that may as well stay
			for {
				if s.name() == "" {
					return nil, s.fail("the name of a label is expected")
				}
				if !s.take(",") {
					break
				}
			}
		case "logfmt", "pattern", "regexp", "unpack", "line_format", "label_format", "unwrap", "decolorize", "distinct":
			s.at = from
			return nil, s.fail("the stage %s is not understood here; understood are |= != |~ !~, json, comparisons of labels, drop and keep", name)
		default:
			s.at = from
			f, err := s.labelFilter()
			if err != nil {
				return nil, err
			}
			stages = append(stages, f)
		}
	}
}

// labelFilter reads comparisons of labels joined by and, a comma, or or.
func (s *scanner) labelFilter() (stage, *parseError) {
	left, err := s.comparison()
	if err != nil {
		return nil, err
	}
	for {
		at := s.at
		word := s.name()
		if word == "" && s.take(",") {
			word = "and"
		}
		if word != "and" && word != "or" {
			s.at = at
			return left, nil
		}
		l := left
		right, err := s.comparison()
		if err != nil {
			return nil, err
		}
		left = func(e *entry) bool {
			if word == "and" {
				return l(e) && right(e)
			}
			return l(e) || right(e)
		}
	}
}

func (s *scanner) comparison() (stage, *parseError) {
	name := s.name()
	if name == "" {
		return nil, s.fail("a stage or the name of a label is expected")
	}
	op := s.one("=~", "!~", "!=", ">=", "<=", "==", "=", ">", "<")
	if op == "" {
		return nil, s.fail("a comparison is expected")
	}
	s.space()
	if s.at < len(s.text) && (s.text[s.at] == '"' || s.text[s.at] == '`') {
		m := matcher{name: name, op: op}
		var err *parseError
		if m.value, err = s.quoted(); err != nil {
			return nil, err
		}
		switch op {
		case "=~", "!~":
			if m.re, err = s.regexp("^(?:" + m.value + ")$"); err != nil {
				return nil, err
			}
		case "=", "!=":
		case "==":
			m.op = "="
		default:
			return nil, s.fail("%s compares numbers; a text stands here", op)
		}
		return func(e *entry) bool { return m.ok(e.label(name)) }, nil
	}
	want, ok := s.number()
	if !ok || strings.HasSuffix(op, "~") {
		return nil, s.fail("a number, a duration like 250ms, or a text in quotes is expected")
	}
	return func(e *entry) bool {
		v, err := strconv.ParseFloat(e.label(name), 64)
		if err != nil {
			return false
		}
		switch op {
		case "=", "==":
			return v == want
		case "!=":
			return v != want
		case ">":
			return v > want
		case ">=":
			return v >= want
		case "<":
			return v < want
		}
		return v <= want
	}, nil
}

// number reads a number, or a duration in nanoseconds, as the lines have them.
func (s *scanner) number() (float64, bool) {
	s.space()
	from := s.at
	for s.at < len(s.text) && (s.text[s.at] == '.' || s.text[s.at] == '-' || s.text[s.at] >= '0' && s.text[s.at] <= '9' || s.text[s.at] >= 'a' && s.text[s.at] <= 'z') {
		s.at++
	}
	text := s.text[from:s.at]
	if f, err := strconv.ParseFloat(text, 64); err == nil {
		return f, true
	}
	if d, err := time.ParseDuration(text); err == nil {
		return float64(d), true
	}
	s.at = from
	return 0, false
}

// parseLog reads a query for lines.
func parseLog(text string) (*logQuery, error) {
	s := &scanner{text: text}
	q, err := s.log()
	if err != nil {
		return nil, err
	}
	if !s.end() {
		return nil, s.fail("%q is not understood here", s.text[s.at:])
	}
	return q, nil
}

func (s *scanner) log() (*logQuery, *parseError) {
	if len(s.text) > maxQuery {
		return nil, s.fail("the query has %d bytes; at most %d can be read", len(s.text), maxQuery)
	}
	sel, err := s.selector()
	if err != nil {
		return nil, err
	}
	st, err := s.pipeline()
	if err != nil {
		return nil, err
	}
	return &logQuery{sel, st}, nil
}

// isMetric says whether a query counts, rather than shows lines.
func isMetric(text string) bool { return !strings.HasPrefix(strings.TrimSpace(text), "{") }

// parseMetric reads "[sum [by|without (…)]] (count_over_time|rate)(LINES [WINDOW])".
func parseMetric(text string) (*metricQuery, error) {
	s := &scanner{text: text}
	q, err := s.metric()
	if err != nil {
		return nil, err
	}
	if !s.end() {
		return nil, s.fail("%q is not understood here", s.text[s.at:])
	}
	return q, nil
}

func (s *scanner) metric() (*metricQuery, *parseError) {
	if len(s.text) > maxQuery {
		return nil, s.fail("the query has %d bytes; at most %d can be read", len(s.text), maxQuery)
	}
	s.space()
	from := s.at
	switch name := s.name(); name {
	case "sum":
		q := &metricQuery{}
		grouping, err := s.grouping(q)
		if err != nil {
			return nil, err
		}
		if !s.take("(") {
			return nil, s.fail(`"(" is expected`)
		}
		inner, err := s.metric()
		if err != nil {
			return nil, err
		}
		if inner.summed {
			return nil, s.fail("a sum of a sum is not understood here")
		}
		if !s.take(")") {
			return nil, s.fail(`")" is expected`)
		}
		if !grouping {
			if _, err := s.grouping(q); err != nil {
				return nil, err
			}
		}
		inner.summed, inner.by, inner.without = true, q.by, q.without
		return inner, nil
	case "count_over_time", "rate":
		if !s.take("(") {
			return nil, s.fail(`"(" is expected`)
		}
		lines, err := s.log()
		if err != nil {
			return nil, err
		}
		q := &metricQuery{logQuery: *lines, perSec: name == "rate"}
		if !s.take("[") {
			return nil, s.fail(`a window like [5m] is expected`)
		}
		ns, ok := s.number()
		if q.window = time.Duration(ns); !ok || q.window < time.Millisecond || !s.take("]") {
			return nil, s.fail(`a window like [5m] is expected`)
		}
		if !s.take(")") {
			return nil, s.fail(`")" is expected`)
		}
		return q, nil
	}
	s.at = from
	return nil, s.fail("understood are {…} for lines, count_over_time({…}[5m]), rate({…}[5m]), and sum by (…) of these")
}

func (s *scanner) grouping(q *metricQuery) (bool, *parseError) {
	at := s.at
	switch s.name() {
	case "by":
	case "without":
		q.without = true
	default:
		s.at = at
		return false, nil
	}
	if !s.take("(") {
		return false, s.fail(`"(" is expected`)
	}
	for !s.take(")") {
		if len(q.by) > 0 && !s.take(",") {
			return false, s.fail(`"," or ")" is expected`)
		}
		n := s.name()
		if n == "" {
			return false, s.fail("the name of a label is expected")
		}
		q.by = append(q.by, n)
	}
	return true, nil
}

// group gives the labels under which a line counts.
func (q *metricQuery) group(e *entry) map[string]string {
	if !q.summed {
		return e.labels
	}
	out := map[string]string{}
	if q.without {
		for k, v := range e.labels {
			if !slices.Contains(q.by, k) {
				out[k] = v
			}
		}
		return out
	}
	for _, k := range q.by {
		if v := e.label(k); v != "" {
			out[k] = v
		}
	}
	return out
}
