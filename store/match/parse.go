package match

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The grammar:
//
//	or     = and { ("or" | "||") and }
//	and    = not { ("and" | "&&") not }
//	not    = ("not" | "!") not | "(" or ")" | "exists" FIELD | FIELD [ OP VALUE | ["not"] "in" "(" VALUE { "," VALUE } ")" ]
//	OP     = "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "!~"
//	VALUE  = word | "quoted" | 'raw' | `raw`
//
// Between double quotes \" and \\ stand for a quote and a backslash; a backslash before anything else is one, so that regular expressions can be
// written plainly. Key words may be written in capitals. A word ends at a blank, a quote or one of ( ) , = ! < > ~ & |.

type tokenKind uint8

const (
	end tokenKind = iota
	word
	quoted
	op
	open
	closing
	comma
)

type token struct {
	kind tokenKind
	text string // of a quoted one without the quotes
	at   int    // byte offset
}

type parser struct {
	words *Vocabulary
	text  string
	pos   int
	tok   token
	terms int
}

// operators, longest first.
var operators = []string{"==", "!=", "!~", "=~", "<=", ">=", "&&", "||", "=", "<", ">", "~", "!"}

func (p *parser) fail(at int, format string, args ...any) error {
	return &Error{Expr: p.text, Column: utf8.RuneCountInString(p.text[:at]) + 1, Text: fmt.Sprintf(format, args...)}
}

// next reads one token into p.tok.
func (p *parser) next() error {
	for p.pos < len(p.text) {
		r, n := utf8.DecodeRuneInString(p.text[p.pos:])
		if !unicode.IsSpace(r) {
			break
		}
		p.pos += n
	}
	at := p.pos
	if at == len(p.text) {
		p.tok = token{end, "", at}
		return nil
	}
	rest := p.text[at:]
	switch rest[0] {
	case '(':
		p.tok, p.pos = token{open, "(", at}, at+1
		return nil
	case ')':
		p.tok, p.pos = token{closing, ")", at}, at+1
		return nil
	case ',':
		p.tok, p.pos = token{comma, ",", at}, at+1
		return nil
	case '"', '\'', '`':
		value, n, ok := unquote(rest)
		if !ok {
			return p.fail(at, "this quoted value is not closed")
		}
		p.tok, p.pos = token{quoted, value, at}, at+n
		return nil
	}
	for _, o := range operators {
		if strings.HasPrefix(rest, o) {
			p.tok, p.pos = token{op, o, at}, at+len(o)
			return nil
		}
	}
	n := strings.IndexFunc(rest, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("\"'`(),=!<>~&|", r) })
	switch n {
	case -1:
		n = len(rest)
	case 0:
		return p.fail(at, "%q means nothing here; write && or ||, or put the value in quotes", rest[:1])
	}
	p.tok, p.pos = token{word, rest[:n], at}, at+n
	return nil
}

// unquote reads the quoted value that text begins with, and how long it is with its quotes.
func unquote(text string) (value string, n int, ok bool) {
	quote := text[0]
	if quote != '"' {
		i := strings.IndexByte(text[1:], quote)
		if i < 0 {
			return "", 0, false
		}
		return text[1 : 1+i], i + 2, true
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return b.String(), i + 1, true
		case c == '\\' && i+1 < len(text) && (text[i+1] == '"' || text[i+1] == '\\'):
			i++
			b.WriteByte(text[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", 0, false
}

var quoter = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// is reports whether the token is one of the operators or key words.
func (p *parser) is(words ...string) bool {
	for _, w := range words {
		if p.tok.kind == op && p.tok.text == w || p.tok.kind == word && w[0] >= 'a' && strings.EqualFold(p.tok.text, w) {
			return true
		}
	}
	return false
}

func (p *parser) shown() string {
	if p.tok.kind == end {
		return "the end"
	}
	return strconv.Quote(p.tok.text)
}

func (p *parser) all() (node, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	if p.tok.kind == end {
		return nil, nil //nolint:nilnil // nothing is restricted
	}
	n, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.tok.kind == closing {
		return nil, p.fail(p.tok.at, "this parenthesis was not opened")
	}
	if p.tok.kind != end {
		return nil, p.fail(p.tok.at, "%s comes where and, or, or the end was expected", p.shown())
	}
	return n, nil
}

func (p *parser) or(depth int) (node, error) {
	var list or
	for {
		n, err := p.and(depth)
		if err != nil {
			return nil, err
		}
		if inner, ok := n.(or); ok {
			list = append(list, inner...)
		} else {
			list = append(list, n)
		}
		if !p.is("or", "||") {
			break
		}
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	if len(list) == 1 {
		return list[0], nil
	}
	return list, nil
}

func (p *parser) and(depth int) (node, error) {
	var list and
	for {
		n, err := p.not(depth)
		if err != nil {
			return nil, err
		}
		if inner, ok := n.(and); ok {
			list = append(list, inner...)
		} else {
			list = append(list, n)
		}
		if !p.is("and", "&&") {
			break
		}
		if err := p.next(); err != nil {
			return nil, err
		}
	}
	if len(list) == 1 {
		return list[0], nil
	}
	return list, nil
}

func (p *parser) not(depth int) (node, error) {
	if depth > maxDepth {
		return nil, p.fail(p.tok.at, "more than %d parentheses or nots stand inside each other", maxDepth)
	}
	switch {
	case p.is("not", "!"):
		if err := p.next(); err != nil {
			return nil, err
		}
		n, err := p.not(depth + 1)
		if err != nil {
			return nil, err
		}
		if twice, ok := n.(not); ok {
			return twice.of, nil
		}
		return not{n}, nil
	case p.tok.kind == open:
		at := p.tok.at
		if err := p.next(); err != nil {
			return nil, err
		}
		n, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.tok.kind != closing {
			if p.tok.kind == end {
				return nil, p.fail(at, "this parenthesis is not closed")
			}
			return nil, p.fail(p.tok.at, "%s comes where and, or, or a closing parenthesis was expected", p.shown())
		}
		return n, p.next()
	}
	return p.term()
}

// keyWords cannot be fields, and as values they stand in quotes.
var keyWords = []string{"and", "or", "not", "in", "exists"}

func (p *parser) field() (*Field, error) {
	t := p.tok
	switch {
	case t.kind != word || slices.ContainsFunc(keyWords, func(w string) bool { return strings.EqualFold(w, t.text) }):
		return nil, p.fail(t.at, "%s comes where a field was expected, such as %s", p.shown(), p.words.some())
	}
	f := p.words.find(t.text)
	if f == nil {
		if l := p.words.like(t.text); l != "" {
			return nil, p.fail(t.at, "there is no field %q; perhaps %s is meant", t.text, l)
		}
		others := ""
		if p.words.open {
			others = ", or an attribute by its full name, such as http.route"
		}
		return nil, p.fail(t.at, "there is no field %q; fields are %s%s", t.text, strings.Join(p.words.Words(), " "), others)
	}
	return f, p.next()
}

// some are three words of the vocabulary, for messages.
func (v *Vocabulary) some() string {
	if v == Spans {
		return "status, src or dst"
	}
	return v.fields[0].Name + ", " + v.fields[1].Name + " or " + v.fields[2].Name
}

func (p *parser) count() error {
	if p.terms++; p.terms > maxTerms {
		return p.fail(p.tok.at, "it has more than %d comparisons and values", maxTerms)
	}
	return nil
}

func (p *parser) term() (node, error) {
	if err := p.count(); err != nil {
		return nil, err
	}
	if p.is("exists") {
		if err := p.next(); err != nil {
			return nil, err
		}
		f, err := p.field()
		if err != nil {
			return nil, err
		}
		return &comparison{field: f, op: opExists}, nil
	}
	f, err := p.field()
	if err != nil {
		return nil, err
	}
	negated := false
	if p.is("not") { // FIELD not in (…)
		if err := p.next(); err != nil {
			return nil, err
		}
		if negated = true; !p.is("in") {
			return nil, p.fail(p.tok.at, "%s comes where in was expected: write %s not in (a, b), or not before the field", p.shown(), f.Name)
		}
	}
	if p.is("in") {
		n, err := p.in(f)
		if err == nil && negated {
			return not{n}, nil
		}
		return n, err
	}
	if p.tok.kind != op || p.is("&&", "||", "!") {
		if f.Type == Flag {
			return &comparison{field: f, op: opEqual, values: []value{{text: "true", number: math.NaN()}}}, nil
		}
		return &comparison{field: f, op: opExists}, nil
	}
	c := &comparison{field: f}
	o := p.tok
	switch o.text {
	case "=", "==":
		c.op = opEqual
	case "!=":
		c.op = opUnequal
	case "<":
		c.op = opLess
	case "<=":
		c.op = opAtMost
	case ">":
		c.op = opMore
	case ">=":
		c.op = opAtLeast
	case "~", "=~":
		c.op = opLike
	case "!~":
		c.op = opUnlike
	}
	if err := p.next(); err != nil {
		return nil, err
	}
	if c.op.ordered() && f.Type != Number && !f.Type.measured() {
		return nil, p.fail(o.at, "%s is %s, which has no order; use = != ~ !~ or in", f.Name, article(f.Type))
	}
	return c, p.value(c)
}

// measured reports whether a Subject measures a field of this type instead of saying it.
func (t Type) measured() bool { return t == Duration || t == Share }

func article(t Type) string {
	if t == Text {
		return "text"
	}
	return "a " + t.String()
}

func (p *parser) in(f *Field) (node, error) {
	if err := p.next(); err != nil {
		return nil, err
	}
	at := p.tok.at
	if p.tok.kind != open {
		return nil, p.fail(at, "%s comes where a parenthesis was expected: write %s in (a, b)", p.shown(), f.Name)
	}
	c := &comparison{field: f, op: opEqual}
	for {
		if err := p.next(); err != nil { // the parenthesis, or a comma
			return nil, err
		}
		if err := p.count(); err != nil {
			return nil, err
		}
		if err := p.value(c); err != nil {
			return nil, err
		}
		switch p.tok.kind {
		case comma:
			continue
		case closing:
			return c, p.next()
		case end:
			return nil, p.fail(at, "this parenthesis is not closed")
		}
		return nil, p.fail(p.tok.at, "%s comes where a comma or a closing parenthesis was expected", p.shown())
	}
}

// value reads one value into c, checks it against the field, and goes on behind it.
func (p *parser) value(c *comparison) error {
	t, f := p.tok, c.field
	if t.kind != word && t.kind != quoted {
		return p.fail(t.at, "%s comes where a value was expected; put values with signs or blanks in quotes", p.shown())
	}
	if t.kind == word && slices.ContainsFunc(keyWords, func(w string) bool { return strings.EqualFold(w, t.text) }) {
		return p.fail(t.at, "%q comes where a value was expected; put it in quotes if it is one", t.text)
	}
	if c.op == opLike || c.op == opUnlike {
		re, err := regexp.Compile(t.text)
		if err != nil {
			return p.fail(t.at, "%s", strings.Replace(err.Error(), "error parsing regexp: ", "not a regular expression: ", 1))
		}
		c.pattern = re
	} else if err := p.check(c, t); err != nil {
		return err
	}
	c.values = append(c.values, newValue(f, t.text))
	return p.next()
}

func (p *parser) check(c *comparison, t token) error {
	f := c.field
	if t.text == "" && !c.op.ordered() {
		return nil // says that there is none
	}
	switch {
	case f.Name == "status" && !c.op.ordered():
		if _, ok := classOf(t.text); ok {
			return nil
		}
		fallthrough
	case f.Type == Number && !f.free, c.op.ordered() && f.Type == Number:
		if _, ok := isNumber(t.text); !ok {
			return p.fail(t.at, "%q is no number, and %s is one", t.text, f.Name)
		}
	case f.Type == Duration:
		if d, err := time.ParseDuration(t.text); err != nil || d < 0 {
			return p.fail(t.at, "%q is no duration; write 250ms, 1.5s or 2m", t.text)
		}
	case f.Type == Share:
		if _, ok := isShare(t.text); !ok {
			return p.fail(t.at, "%q is no share; write 1%% or 0.5%%", t.text)
		}
	case f.Type == Flag:
		if t.text != "true" && t.text != "false" {
			return p.fail(t.at, "%s is true or false", f.Name)
		}
	default:
		if f.Values != nil && !slices.Contains(f.Values, t.text) {
			return p.fail(t.at, "there is no %s %q; there are %s", f.Name, t.text, strings.Join(f.Values, " "))
		}
	}
	return nil
}

type operator uint8

const (
	opEqual operator = iota
	opUnequal
	opLess
	opAtMost
	opMore
	opAtLeast
	opLike
	opUnlike
	opExists
)

var opText = [...]string{"=", "!=", "<", "<=", ">", ">=", "~", "!~", ""}

func (o operator) ordered() bool { return o >= opLess && o <= opAtLeast }

// comparison is one field against values: for = any of them, otherwise exactly one (none for exists).
type comparison struct {
	field   *Field
	op      operator
	values  []value
	pattern *regexp.Regexp
}

// value is one, read once.
type value struct {
	text   string
	number float64 // a duration in nanoseconds, a share from 0 to 1; NaN for what is none
	class  byte    // first digit of a class of status, 0 for none
}

func newValue(f *Field, text string) value {
	v := value{text: text, number: math.NaN()}
	switch f.Type {
	case Duration:
		if d, err := time.ParseDuration(text); err == nil {
			v.number = float64(d)
		}
	case Share:
		if n, ok := isShare(text); ok {
			v.number = n
		}
	case Number:
		if n, ok := isNumber(text); ok {
			v.number = n
		}
		if class, ok := classOf(text); ok && f.Name == "status" {
			v.class = class
		}
	}
	return v
}

func (c *comparison) holds(s Subject) bool {
	text, number := "", math.NaN()
	if c.field.Type.measured() {
		number = s.Measure(c.field)
		if c.op == opLike || c.op == opUnlike {
			text = s.Text(c.field)
		}
	} else {
		text = s.Text(c.field)
		if c.field.Type == Number && c.pattern == nil {
			if n, ok := isNumber(text); ok {
				number = n
			}
		}
	}
	switch c.op {
	case opExists:
		return text != "" || !math.IsNaN(number)
	case opLike:
		return text != "" && c.pattern.MatchString(text)
	case opUnlike:
		return text == "" || !c.pattern.MatchString(text)
	case opEqual:
		for i := range c.values {
			if c.values[i].equal(text, number) {
				return true
			}
		}
		return false
	case opUnequal:
		return !c.values[0].equal(text, number)
	case opLess: // no comparison with NaN holds: a span that says nothing, or no number
		return number < c.values[0].number
	case opAtMost:
		return number <= c.values[0].number
	case opMore:
		return number > c.values[0].number
	}
	return number >= c.values[0].number
}

func (v *value) equal(text string, number float64) bool {
	if v.class != 0 {
		return len(text) == 3 && text[0] == v.class
	}
	return number == v.number || math.IsNaN(number) && text == v.text || text == v.text && text != ""
}

func (c *comparison) fields(each func(*Field)) { each(c.field) }

func (c *comparison) mentions(field string) bool { return c.field.Name == field }

func (c *comparison) text(int) string {
	switch {
	case c.op == opExists:
		return "exists " + c.field.Name
	case len(c.values) > 1:
		parts := make([]string, len(c.values))
		for i, v := range c.values {
			parts[i] = valueText(v.text)
		}
		return c.field.Name + " in (" + strings.Join(parts, ", ") + ")"
	}
	return c.field.Name + opText[c.op] + valueText(c.values[0].text)
}

// isShare reads percents as the ratio they are.
func isShare(text string) (float64, bool) {
	n, ok := isNumber(strings.TrimSuffix(text, "%"))
	return n / 100, ok
}

// Is is the expression that a field has a value; "": that nothing is said of it.
func Is(field, value string) string { return field + "=" + valueText(value) }

// valueText quotes a value unless it reads as the same word without quotes.
func valueText(v string) string {
	plain := v != "" && strings.IndexFunc(v, func(r rune) bool {
		return r >= utf8.RuneSelf || !(unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("_-./:*%@+", r))
	}) < 0
	if plain && !slices.ContainsFunc(keyWords, func(w string) bool { return strings.EqualFold(w, v) }) {
		return v
	}
	return `"` + quoter.Replace(v) + `"`
}
