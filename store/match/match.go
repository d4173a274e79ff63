// Package match is the small language in which people say which spans they mean:
//
//	status>=500 and src=web and dst="payments" and path~"^/pay" and duration>200ms
//	not (reason in (denied, rate_limited)) and http.request.header.x-team=blue
//
// The words are those of a Vocabulary; the one of spans is Spans, and others (store/graph's, of services and edges) judge their own Subjects by the same grammar.
// Parse reads an expression once; Expr.Match judges one span, so that what is stored and what comes in live are judged alike; Expr.Query is the part
// of it that a store can answer from its index, and Search walks a store with both. Everything here is pure but Search, and safe for concurrent use.
// docs/reference/match.md is the page for people.
package match

import (
	"cmp"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tulle-mesh/tulle/store"
)

// Limits of an expression. They bound what one who may only ask can make the observer do.
const (
	MaxLength = 4096 // bytes
	maxDepth  = 64   // parentheses and nots inside each other
	maxTerms  = 256  // comparisons, and values of all lists
)

// Error says what is wrong with an expression, and where.
type Error struct {
	Expr   string
	Column int    // of the first character that cannot be meant, from 1, in characters
	Text   string // what is wrong, and what to write
}

func (e *Error) Error() string {
	return fmt.Sprintf("match expression, column %d: %s", e.Column, e.Text)
}

// Unwrap makes it a store.ErrBadQuery.
func (*Error) Unwrap() error { return store.ErrBadQuery }

// Pointer is the expression and below it a caret under the column, for terminals. Control characters count and show as one space.
func (e *Error) Pointer() string {
	line := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, e.Expr)
	return line + "\n" + strings.Repeat(" ", e.Column-1) + "^"
}

// Expr is an expression that was understood. The zero value matches every span, as an empty expression does.
type Expr struct{ root node }

// Parse reads an expression about spans; an error is an *Error. An empty one, or one of blanks, matches everything.
func Parse(text string) (Expr, error) { return Spans.Parse(text) }

// Parse reads an expression in the words of v, as the function Parse does in those of spans.
func (v *Vocabulary) Parse(text string) (Expr, error) {
	if len(text) > MaxLength {
		return Expr{}, &Error{Expr: cut(text), Column: 1, Text: fmt.Sprintf("it has %d bytes; at most %d can be read", len(text), MaxLength)}
	}
	if !utf8.ValidString(text) {
		return Expr{}, &Error{Expr: strings.ToValidUTF8(text, "?"), Column: 1, Text: "it is not UTF-8"}
	}
	p := &parser{text: text, words: v}
	root, err := p.all()
	if err != nil {
		return Expr{}, err
	}
	return Expr{root}, nil
}

func cut(text string) string { return strings.ToValidUTF8(text[:64], "?") + "…" }

// Match reports whether the expression holds for s, which is only read.
func (e Expr) Match(s *store.Span) bool { return e.root == nil || e.root.holds((*spanSubject)(s)) }

// Holds reports whether the expression holds for s. It must have been read in the vocabulary that s knows.
func (e Expr) Holds(s Subject) bool { return e.root == nil || e.root.holds(s) }

// Subject is what an expression judges.
type Subject interface {
	// Text is what it says of a field, "" for nothing. Of a Flag that is true or false, of a Number the number in digits.
	Text(f *Field) string
	// Measure is what it says of a Duration, in nanoseconds, or of a Share, from 0 to 1; NaN for nothing.
	Measure(f *Field) float64
}

// spanSubject is a span that is judged.
type spanSubject store.Span

func (s *spanSubject) Text(f *Field) string { return f.value((*store.Span)(s)) }

func (s *spanSubject) Measure(*Field) float64 { return float64(s.Duration) } // no other field of spans is measured

// Empty reports whether e restricts nothing.
func (e Expr) Empty() bool { return e.root == nil }

// And holds for spans for which all of list hold.
func And(list ...Expr) Expr {
	var all and
	for _, e := range list {
		switch n := e.root.(type) {
		case nil:
		case and:
			all = append(all, n...)
		default:
			all = append(all, n)
		}
	}
	switch len(all) {
	case 0:
		return Expr{}
	case 1:
		return Expr{all[0]}
	}
	return Expr{all}
}

// MustParse is Parse for expressions that are constants; it panics.
func MustParse(text string) Expr {
	e, err := Parse(text)
	if err != nil {
		panic(err)
	}
	return e
}

// Mentions reports whether e says something of a field, by its name in the language.
func (e Expr) Mentions(field string) bool { return e.root != nil && e.root.mentions(field) }

// reads are the attributes that Match looks at, of a span or its resource.
func (e Expr) reads() (keys []string) {
	if e.root != nil {
		e.root.fields(func(f *Field) { keys = append(keys, f.attributes()...) })
	}
	return keys
}

// String writes the expression so that Parse reads the same again.
func (e Expr) String() string {
	if e.root == nil {
		return ""
	}
	return e.root.text(0)
}

// node is one of and, or, not, comparison.
type node interface {
	holds(s Subject) bool
	// text writes the node for a place that binds as tightly as level: 0 or, 1 and, 2 not.
	text(level int) string
	mentions(field string) bool
	// fields calls each for every field that is compared.
	fields(each func(*Field))
}

type (
	and []node
	or  []node
	not struct{ of node }
)

func (n and) holds(s Subject) bool {
	for _, x := range n {
		if !x.holds(s) {
			return false
		}
	}
	return true
}

func (n or) holds(s Subject) bool {
	for _, x := range n {
		if x.holds(s) {
			return true
		}
	}
	return false
}

func (n not) holds(s Subject) bool { return !n.of.holds(s) }

func (n and) text(level int) string { return wrap(level > 1, join(n, " and ", 2)) }
func (n or) text(level int) string  { return wrap(level > 0, join(n, " or ", 1)) }
func (n not) text(int) string       { return "not " + n.of.text(2) }

func (n and) fields(each func(*Field)) { allFields(n, each) }
func (n or) fields(each func(*Field))  { allFields(n, each) }
func (n not) fields(each func(*Field)) { n.of.fields(each) }

func allFields(nodes []node, each func(*Field)) {
	for _, x := range nodes {
		x.fields(each)
	}
}

func (n and) mentions(field string) bool { return anyMentions(n, field) }
func (n or) mentions(field string) bool  { return anyMentions(n, field) }
func (n not) mentions(field string) bool { return n.of.mentions(field) }

func anyMentions(nodes []node, field string) bool {
	for _, x := range nodes {
		if x.mentions(field) {
			return true
		}
	}
	return false
}

func wrap(yes bool, text string) string {
	if yes {
		return "(" + text + ")"
	}
	return text
}

func join(nodes []node, word string, level int) string {
	parts := make([]string, len(nodes))
	for i, x := range nodes {
		parts[i] = x.text(level)
	}
	return strings.Join(parts, word)
}

// Field is a word of the language that stands for something a Subject says.
type Field struct {
	Name  string // as people write it
	Means string // the attribute of a span; "" for what it says otherwise, and of other subjects
	Type  Type
	Help  string
	// Values are all that it can have, where that is a closed vocabulary: another word would silently match nothing. nil for others.
	Values []string
	// free is for an attribute that is in no table: its values compare as numbers where both sides are.
	free bool
	// absent is what it means when a span says nothing of it, "" for nothing.
	absent string
	get    func(*store.Span) string
	reads  []string // attributes that get looks at
}

// Type says how values of a field compare.
type Type uint8

const (
	Text     Type = iota // = != ~ !~ in
	Number               // also < <= > >=
	Duration             // the same, of 250ms, 1.5s
	Flag                 // true or false; the field alone means true
	Share                // as a Number, in percent, with its sign or without: 1%, 0.5
)

func (t Type) String() string { return [...]string{"text", "number", "duration", "flag", "share"}[t] }

// value is what a span says of a field; "" when it says nothing.
func (f *Field) value(s *store.Span) string {
	if f.get != nil {
		return f.get(s)
	}
	return cmp.Or(s.Attributes[f.Means], s.Resource[f.Means], f.absent)
}
