package traceql

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

type tokenKind uint8

const (
	tokEnd tokenKind = iota
	tokSign
	tokWord   // a name without a scope
	tokField  // an attribute or an intrinsic with a colon
	tokText   // a string
	tokNumber // a literal: number or duration
)

type token struct {
	kind  tokenKind
	text  string
	at    int // byte
	field *field
	value Value
}

// signs are what stands between names, the longest first.
var signs = []string{"!>>", "!<<", "&>>", "&<<", "&&", "||", ">>", "<<", "!>", "!<", "!~", "!=", "=~", ">=", "<=", "&>", "&<", "&~", "{", "}", "(", ")", ",", "=", ">", "<", "+", "-", "*", "/", "%", "^", "|", "!", "~"}

// inName says whether a character may be part of an attribute's name without quotes.
func inName(r rune) bool {
	return !unicode.IsSpace(r) && !strings.ContainsRune("{}()=~!<>&|^,\"`", r)
}

type parser struct {
	text  string
	at    int // of what is not read yet
	tok   token
	depth int
	nodes int
	q     *Query
}

func (p *parser) fail(at int, format string, a ...any) *Error {
	return &Error{utf8.RuneCountInString(p.text[:min(at, len(p.text))]) + 1, fmt.Sprintf(format, a...)}
}

// Parse reads a query; an error is an *Error. An empty one means all traces.
func Parse(text string) (*Query, error) {
	p := &parser{text: text, q: &Query{}}
	switch {
	case len(text) > MaxLength:
		return nil, &Error{1, fmt.Sprintf("the query has %d bytes; at most %d can be read", len(text), MaxLength)}
	case !utf8.ValidString(text):
		return nil, &Error{1, "the query is not UTF-8"}
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.tok.kind == tokEnd {
		p.q.stages = []stage{find{&filter{}}}
		return p.q, nil
	}
	if err := p.pipeline(); err != nil {
		return nil, err
	}
	return p.q, nil
}

// next reads a token.
func (p *parser) next() *Error {
	for p.at < len(p.text) {
		r, n := utf8.DecodeRuneInString(p.text[p.at:])
		if !unicode.IsSpace(r) {
			break
		}
		p.at += n
	}
	from := p.at
	rest := p.text[from:]
	if rest == "" {
		p.tok = token{at: from}
		return nil
	}
	switch c := rest[0]; {
	case c == '"' || c == '`':
		s, n, err := p.quoted(from)
		if err != nil {
			return err
		}
		p.tok, p.at = token{kind: tokText, text: rest[:n], at: from, value: stringValue(s)}, from+n
		return nil
	case c >= '0' && c <= '9' || c == '.' && len(rest) > 1 && rest[1] >= '0' && rest[1] <= '9':
		return p.number(from)
	case c == '.':
		return p.attribute(from, from+1, &field{})
	}
	for _, s := range signs {
		if strings.HasPrefix(rest, s) {
			p.tok, p.at = token{kind: tokSign, text: s, at: from}, from+len(s)
			return nil
		}
	}
	f := &field{}
	at := from
	for strings.HasPrefix(p.text[at:], "parent.") {
		f.up++
		at += len("parent.")
	}
	for _, scope := range []string{"span", "resource", "event", "link", "instrumentation"} {
		if strings.HasPrefix(p.text[at:], scope+".") {
			f.scope = scope
			return p.attribute(from, at+len(scope)+1, f)
		}
	}
	end := at
	for end < len(p.text) && (isLetter(p.text[end]) || p.text[end] == ':' || p.text[end] == '_') {
		end++
	}
	word := p.text[at:end]
	if name, ok := intrinsic(word); ok {
		f.intrinsic = name
		p.tok, p.at = token{kind: tokField, text: p.text[from:end], at: from, field: f}, end
		return nil
	}
	if f.up > 0 {
		return p.attribute(from, at, f)
	}
	if word == "" {
		r, _ := utf8.DecodeRuneInString(rest)
		return p.fail(from, "%q means nothing here", r)
	}
	p.tok, p.at = token{kind: tokWord, text: word, at: from}, end
	return nil
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }

// intrinsic gives the name under which the table has a word.
func intrinsic(word string) (string, bool) {
	if a, ok := aliases[word]; ok {
		return a, true
	}
	_, ok := intrinsics[word]
	if !ok {
		_, ok = manyIntrinsics[word]
	}
	return word, ok
}

// attribute reads the name of one, parts of which may be quoted.
func (p *parser) attribute(from, at int, f *field) *Error {
	var name strings.Builder
	for at < len(p.text) {
		if p.text[at] == '"' || p.text[at] == '`' {
			s, n, err := p.quoted(at)
			if err != nil {
				return err
			}
			name.WriteString(s)
			at += n
			continue
		}
		r, n := utf8.DecodeRuneInString(p.text[at:])
		if !inName(r) {
			break
		}
		name.WriteRune(r)
		at += n
	}
	if f.name = name.String(); f.name == "" {
		return p.fail(from, "the name of an attribute is missing behind %q", p.text[from:at])
	}
	p.tok, p.at = token{kind: tokField, text: p.text[from:at], at: from, field: f}, at
	return nil
}

func (p *parser) quoted(from int) (s string, n int, _ *Error) {
	q := p.text[from]
	for i := from + 1; i < len(p.text); i++ {
		switch {
		case p.text[i] == '\\' && q == '"':
			i++
		case p.text[i] == q:
			s, err := strconv.Unquote(p.text[from : i+1])
			if err != nil {
				return "", 0, p.fail(from, "the text %s has an escape that is none", p.text[from:i+1])
			}
			return s, i + 1 - from, nil
		}
	}
	return "", 0, p.fail(from, "the text that begins here has no end: write %c behind it", q)
}

func (p *parser) number(from int) *Error {
	end := from
	for end < len(p.text) && (p.text[end] >= '0' && p.text[end] <= '9' || p.text[end] == '.' || isLetter(p.text[end]) || strings.HasPrefix(p.text[end:], "µ") || p.text[end] == '\xb5') {
		if strings.HasPrefix(p.text[end:], "µ") {
			end++
		}
		if e := p.text[end]; (e == 'e' || e == 'E') && end+1 < len(p.text) && (p.text[end+1] == '-' || p.text[end+1] == '+') {
			end++
		}
		end++
	}
	text := p.text[from:end]
	var v Value
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		v = intValue(n)
	} else if f, err := strconv.ParseFloat(text, 64); err == nil && !strings.ContainsAny(text, "xXpPnNiI_") {
		v = floatValue(f)
	} else if d, err := time.ParseDuration(text); err == nil {
		v = durationValue(int64(d))
	} else {
		return p.fail(from, "%q is neither a number nor a duration like 250ms", text)
	}
	p.tok, p.at = token{kind: tokNumber, text: text, at: from, value: v}, end
	return nil
}

func (p *parser) is(sign string) bool { return p.tok.kind == tokSign && p.tok.text == sign }
func (p *parser) word(w string) bool  { return p.tok.kind == tokWord && p.tok.text == w }

func (p *parser) want(sign string) *Error {
	if !p.is(sign) {
		return p.unexpected(fmt.Sprintf("%q", sign))
	}
	return p.next()
}

func (p *parser) unexpected(instead string) *Error {
	if p.tok.kind == tokEnd {
		return p.fail(p.tok.at, "the query ends here; %s is missing", instead)
	}
	return p.fail(p.tok.at, "%q cannot stand here; %s is expected", p.tok.text, instead)
}

// deeper bounds how far things are inside each other, and how many there are.
func (p *parser) deeper() *Error {
	p.depth++
	p.nodes++
	if p.depth > maxDepth || p.nodes > maxNodes {
		return p.fail(p.tok.at, "the query is too large: at most %d parts, %d inside each other", maxNodes, maxDepth)
	}
	return nil
}

func (p *parser) pipeline() error {
	for {
		if err := p.stage(); err != nil {
			return err
		}
		if p.word("with") { // hints for Tempo's engine
			for p.tok.kind != tokEnd && !p.is(")") {
				if err := p.next(); err != nil {
					return err
				}
			}
			if err := p.want(")"); err != nil {
				return err
			}
		}
		if p.tok.kind == tokEnd {
			return nil
		}
		if p.q.metric != nil {
			return p.fail(p.tok.at, "nothing can follow %s", p.q.metric.name)
		}
		if !p.is("|") {
			return p.unexpected("the end, or \"|\" and a further stage")
		}
		if err := p.next(); err != nil {
			return err
		}
	}
}

func (p *parser) stage() *Error {
	switch {
	case p.word("by"):
		e, err := p.call(func() (expr, *Error) { return p.expr(0) })
		if err != nil {
			return err
		}
		p.q.stages = append(p.q.stages, group{e})
		return nil
	case p.word("coalesce"):
		if _, err := p.call(nil); err != nil {
			return err
		}
		p.q.stages = append(p.q.stages, coalesce{})
		return nil
	case p.word("select"):
		if _, err := p.call(func() (expr, *Error) { return nil, p.fieldList(nil) }); err != nil {
			return err
		}
		p.q.stages = append(p.q.stages, choose{})
		return nil
	case p.tok.kind == tokWord && metrics[p.tok.text] != nil:
		return p.metricStage()
	case p.startsSet():
		s, err := p.set(0)
		if err != nil {
			return err
		}
		p.q.stages = append(p.q.stages, find{s})
		return nil
	}
	return p.threshold()
}

// startsSet says whether a set of spans begins here, perhaps in parentheses.
func (p *parser) startsSet() bool {
	if p.is("{") {
		return true
	}
	if !p.is("(") {
		return false
	}
	rest := strings.TrimLeftFunc(p.text[p.at:], func(r rune) bool { return unicode.IsSpace(r) || r == '(' })
	return strings.HasPrefix(rest, "{")
}

// call reads "NAME ( … )"; inside reads what is in it.
func (p *parser) call(inside func() (expr, *Error)) (e expr, err *Error) {
	if err = p.next(); err != nil {
		return nil, err
	}
	if err = p.want("("); err != nil {
		return nil, err
	}
	if inside != nil {
		if e, err = inside(); err != nil {
			return nil, err
		}
	}
	return e, p.want(")")
}

func (p *parser) fieldList(to *[]*field) *Error {
	for {
		if p.tok.kind != tokField {
			return p.unexpected("a field, like span.http.route,")
		}
		p.q.fields = append(p.q.fields, p.tok.field)
		if to != nil {
			*to = append(*to, p.tok.field)
		}
		if err := p.next(); err != nil {
			return err
		}
		if !p.is(",") {
			return nil
		}
		if err := p.next(); err != nil {
			return err
		}
	}
}

// set reads selectors; && and || bind alike, from the left, and less than the structural operators: as in Tempo.
func (p *parser) set(level int) (selector, *Error) {
	if err := p.deeper(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	left, err := p.oneSet()
	if err != nil {
		return nil, err
	}
	for p.tok.kind == tokSign {
		op, row := p.tok.text, relations[p.tok.text]
		binds := 2
		if op == "&&" || op == "||" {
			binds, row = 1, &relationRow{}
		}
		if row == nil || binds <= level {
			break
		}
		if err := p.next(); err != nil {
			return nil, err
		}
		if !p.startsSet() {
			return nil, p.unexpected("a set of spans, {…},")
		}
		right, err := p.set(binds)
		if err != nil {
			return nil, err
		}
		left = &relation{op, left, right, row}
	}
	return left, nil
}

func (p *parser) oneSet() (selector, *Error) {
	if p.is("(") {
		if err := p.next(); err != nil {
			return nil, err
		}
		s, err := p.set(0)
		if err != nil {
			return nil, err
		}
		if p.is("|") {
			return nil, p.fail(p.tok.at, "a pipeline in parentheses is not understood; write its stages behind each other, without parentheses")
		}
		return s, p.want(")")
	}
	if err := p.want("{"); err != nil {
		return nil, err
	}
	f := &filter{}
	if !p.is("}") {
		at := p.tok.at
		e, err := p.expr(0)
		if err != nil {
			return nil, err
		}
		if !mayBeBool(e) {
			return nil, p.fail(at, "%s says neither yes nor no; compare it with something", e)
		}
		f.expr = e
	}
	if !p.is("}") {
		return nil, p.unexpected(`"}" or an operator`)
	}
	return f, p.next()
}

func mayBeBool(e expr) bool {
	switch e := e.(type) {
	case literal:
		return e.v.Kind == Bool
	case *binary:
		return !slices.Contains([]string{"+", "-", "*", "/", "%", "^"}, e.op)
	case unary:
		return e.op == "!"
	case *field:
		return e.intrinsic == ""
	}
	return true
}

// binds is how tightly operators of fields bind, as in Tempo: && and || alike.
var binds = map[string]int{
	"&&": 1, "||": 1, "=": 2, "!=": 2, "<": 2, "<=": 2, ">": 2, ">=": 2, "=~": 2, "!~": 2, "+": 3, "-": 3, "*": 5, "/": 5, "%": 5, "^": 6,
}

const (
	bindNot   = 4
	bindMinus = 7
)

func (p *parser) expr(level int) (expr, *Error) {
	if err := p.deeper(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	left, err := p.operand()
	if err != nil {
		return nil, err
	}
	for p.tok.kind == tokSign {
		op, at := p.tok.text, p.tok.at
		n, ok := binds[op]
		if !ok || n <= level {
			break
		}
		if err := p.next(); err != nil {
			return nil, err
		}
		if op == "^" {
			n-- // from the right
		}
		b := &binary{op: op, left: left}
		if b.right, err = p.expr(n); err != nil {
			return nil, err
		}
		if op == "=~" || op == "!~" {
			l, ok := b.right.(literal)
			if !ok || l.v.Kind != String {
				return nil, p.fail(at, "%s compares with a regular expression, which is a text in quotes", op)
			}
			re, rerr := regexp.Compile("^(?:" + l.v.Text + ")$")
			if rerr != nil {
				return nil, p.fail(at, "%s is no regular expression of RE2: %v", l, rerr)
			}
			b.re = re
		}
		left = b
	}
	return left, nil
}

func (p *parser) operand() (expr, *Error) {
	t := p.tok
	switch {
	case t.kind == tokField:
		p.q.fields = append(p.q.fields, t.field)
		return t.field, p.next()
	case t.kind == tokText, t.kind == tokNumber:
		return literal{t.value}, p.next()
	case p.is("!"), p.is("-"):
		n := bindNot
		if t.text == "-" {
			n = bindMinus
		}
		if err := p.next(); err != nil {
			return nil, err
		}
		e, err := p.expr(n)
		if err != nil {
			return nil, err
		}
		if l, ok := e.(literal); ok && t.text == "-" && l.v.numeric() {
			return literal{unary{"-", l}.eval(nil)}, nil
		}
		return unary{t.text, e}, nil
	case p.is("("):
		if err := p.next(); err != nil {
			return nil, err
		}
		e, err := p.expr(0)
		if err != nil {
			return nil, err
		}
		return e, p.want(")")
	case t.kind == tokWord:
		if v, ok := words[t.text]; ok {
			return literal{v}, p.next()
		}
		return nil, p.fail(t.at, "%q is no field and no value: write .%s for an attribute of that name, or %s for a text", t.text, t.text, quote(t.text))
	}
	return nil, p.unexpected("a field or a value")
}

// words are values without quotes.
var words = map[string]Value{
	"true": boolValue(true), "false": boolValue(false), "nil": {},
	"ok": {Kind: Status, Text: "ok"}, "error": {Kind: Status, Text: "error"}, "unset": {Kind: Status, Text: "unset"},
	"unspecified": {Kind: SpanKind, Text: "unspecified"}, "internal": {Kind: SpanKind, Text: "internal"}, "server": {Kind: SpanKind, Text: "server"},
	"client": {Kind: SpanKind, Text: "client"}, "producer": {Kind: SpanKind, Text: "producer"}, "consumer": {Kind: SpanKind, Text: "consumer"},
}

var aggregates = []string{"count", "avg", "min", "max", "sum"}

func (p *parser) threshold() *Error {
	at := p.tok.at
	left, leftHas, err := p.scalar(2)
	if err != nil {
		return err
	}
	if p.tok.kind != tokSign || binds[p.tok.text] != 2 || p.tok.text == "=~" || p.tok.text == "!~" {
		return p.unexpected("a comparison, like > 2,")
	}
	op := p.tok.text
	if err := p.next(); err != nil {
		return err
	}
	right, rightHas, err := p.scalar(2)
	if err != nil {
		return err
	}
	if !leftHas && !rightHas {
		return p.fail(at, "a stage compares an aggregate of spans: count(), avg(…), min(…), max(…) or sum(…)")
	}
	p.q.stages = append(p.q.stages, threshold{op, left, right})
	return nil
}

// scalar reads arithmetic of aggregates and numbers; has says that there is an aggregate.
func (p *parser) scalar(level int) (s scalar, has bool, err *Error) {
	if err := p.deeper(); err != nil {
		return nil, false, err
	}
	defer func() { p.depth-- }()
	switch {
	case p.is("("):
		if err = p.next(); err != nil {
			return nil, false, err
		}
		if s, has, err = p.scalar(2); err == nil {
			err = p.want(")")
		}
	case p.is("-"):
		if err = p.next(); err != nil {
			return nil, false, err
		}
		s, has, err = p.scalar(bindMinus)
		s = arithmetic{"*", constant{intValue(-1)}, s}
	case p.tok.kind == tokNumber:
		s = constant{p.tok.value}
		err = p.next()
	case p.tok.kind == tokWord && slices.Contains(aggregates, p.tok.text):
		a := aggregate{name: p.tok.text}
		inside := func() (expr, *Error) { return p.expr(0) }
		if a.name == "count" {
			inside = nil
		}
		a.of1, err = p.call(inside)
		s, has = a, true
	default:
		return nil, false, p.unexpected("a stage ({…}, by, select, coalesce, an aggregate)")
	}
	if err != nil {
		return nil, false, err
	}
	for p.tok.kind == tokSign && binds[p.tok.text] > max(level, 2) {
		op, n := p.tok.text, binds[p.tok.text]
		if err := p.next(); err != nil {
			return nil, false, err
		}
		if op == "^" {
			n--
		}
		right, rightHas, err := p.scalar(n)
		if err != nil {
			return nil, false, err
		}
		s, has = arithmetic{op, s, right}, has || rightHas
	}
	return s, has, nil
}

// Field reads the name of one field, like span.http.route, and gives its values on a span: none where the span lacks it.
func Field(text string) (func(*Span) []Value, error) {
	p := &parser{text: text}
	if err := p.next(); err != nil {
		return nil, err
	}
	f := p.tok.field
	if p.tok.kind != tokField || p.at != len(text) {
		return nil, p.fail(0, "%q is no field; write .NAME for an attribute", text)
	}
	return f.all, nil
}
