package store

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"
)

// MaxPattern bounds the pattern of a "~" or "!~" condition, in bytes.
const MaxPattern = 8 << 10

// Pattern is what the value of a "~" or "!~" condition was read into: an expression of RE2 that a text must match from its first character to its last, as Prometheus' matchers
// do; "." is also a line end. The time of a match is linear in the text. Safe for concurrent use.
type Pattern struct {
	re      *regexp.Regexp
	prefix  string
	literal bool
}

// ParsePattern reads one. An error wraps ErrBadQuery, and names the pattern and the place in it, in characters from 1.
func ParsePattern(text string) (*Pattern, error) {
	if len(text) > MaxPattern {
		return nil, fmt.Errorf("pattern %q…: %w: it has %d bytes; at most %d can be read", strings.ToValidUTF8(text[:64], ""), ErrBadQuery, len(text), MaxPattern)
	}
	tree, err := syntax.Parse(text, syntax.Perl|syntax.DotNL)
	var re *regexp.Regexp
	if err == nil {
		re, err = regexp.Compile(whole(tree))
	}
	if err != nil {
		what, at := explainPattern(text, err)
		return nil, fmt.Errorf("pattern %q: %w: column %d: %s", text, ErrBadQuery, at, what)
	}
	p := &Pattern{re: re}
	if own, err := regexp.Compile("(?s)" + text); err == nil {
		p.prefix, p.literal = own.LiteralPrefix()
	}
	return p, nil
}

// whole writes an expression that is found in a text where tree matches all of it. What may be anything at either end is not walked through, but left open: that is
// many times as fast.
func whole(tree *syntax.Regexp) string {
	parts := []*syntax.Regexp{tree}
	for len(parts) == 1 && (parts[0].Op == syntax.OpConcat || parts[0].Op == syntax.OpCapture) {
		parts = parts[0].Sub
	}
	anything := func(r *syntax.Regexp) bool { return r.Op == syntax.OpStar && r.Sub[0].Op == syntax.OpAnyChar }
	head, tail := `\A`, `\z`
	for len(parts) > 0 && anything(parts[0]) {
		head, parts = "", parts[1:]
	}
	for len(parts) > 0 && anything(parts[len(parts)-1]) {
		tail, parts = "", parts[:len(parts)-1]
	}
	var b strings.Builder
	b.WriteString(head)
	for _, p := range parts {
		b.WriteString("(?:" + p.String() + ")")
	}
	b.WriteString(tail)
	return b.String()
}

// explainPattern says what is wrong with a pattern, and at which character.
func explainPattern(text string, err error) (what string, column int) {
	e, ok := err.(*syntax.Error) //nolint:errorlint // it comes as it is
	if !ok {
		return err.Error(), 1
	}
	at, what := 0, string(e.Code)
	switch e.Code {
	case syntax.ErrMissingParen, syntax.ErrUnexpectedParen:
		at = unpaired(text)
	case syntax.ErrTrailingBackslash:
		at, what = len(text)-1, what+": write two for one that is meant"
	case syntax.ErrInvalidUTF8:
		for at < len(text) {
			r, n := utf8.DecodeRuneInString(text[at:])
			if r == utf8.RuneError && n == 1 {
				break
			}
			at += n
		}
	default:
		what += ": " + e.Expr
		if at = strings.Index(text, e.Expr); at < 0 {
			at = 0
		}
		// The fragment may stand there more than once: it is the first at whose end the same goes wrong.
		for k := at; k >= 0 && e.Expr != ""; {
			if _, err := syntax.Parse(text[:k+len(e.Expr)], syntax.Perl|syntax.DotNL); err != nil && err.Error() == e.Error() {
				at = k
				break
			}
			next := strings.Index(text[k+1:], e.Expr)
			if next < 0 {
				break
			}
			k += 1 + next
		}
	}
	return what, utf8.RuneCountInString(text[:at]) + 1
}

// unpaired is the place of the first parenthesis of a pattern that has no other one.
func unpaired(text string) int {
	var open []int
	class := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text) && text[i+1] == 'Q':
			end := strings.Index(text[i:], `\E`)
			if end < 0 {
				i = len(text)
				break
			}
			i += end + 1
		case c == '\\':
			i++
		case class:
			class = c != ']'
		case c == '[':
			class = true
			if rest := strings.TrimPrefix(text[i+1:], "^"); strings.HasPrefix(rest, "]") { // it stands for itself
				i += len(text[i+1:]) - len(rest) + 1
			}
		case c == '(':
			open = append(open, i)
		case c == ')':
			if len(open) == 0 {
				return i
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		return open[len(open)-1]
	}
	return 0
}

// Match reports whether all of the text is meant.
func (p *Pattern) Match(text string) bool { return p.re.MatchString(text) }

// MatchBytes is Match of bytes, which it does not keep.
func (p *Pattern) MatchBytes(text []byte) bool { return p.re.Match(text) }

// Prefix is what every text that is meant begins with; only that it is the only text that is meant. Stores look for it where they have an order or an index.
func (p *Pattern) Prefix() (prefix string, only bool) { return p.prefix, p.literal }
