package match

import (
	"cmp"
	"slices"
	"strings"
)

// Suggestion is how an expression may go on.
type Suggestion struct {
	Text string `json:"text"` // as it is written, quoted where it must be
	Help string `json:"help,omitempty"`
}

// operatorsOf are those that fields of a type are compared by.
func operatorsOf(t Type) []string {
	switch t {
	case Number, Duration, Share:
		return []string{">", ">=", "<", "<=", "=", "!="}
	case Flag:
		return nil
	}
	return []string{"=", "!=", "~", "!~", "in"}
}

// Complete says how text may go on at its end: before is the part of it that stays, list are words for what follows, of those that begin as what stands there. values
// are what a field has where that is no closed vocabulary; it may be nil. What is not understood has no completions.
func (v *Vocabulary) Complete(text string, values func(f *Field) []string) (before string, list []Suggestion) {
	if len(text) > MaxLength {
		return text, nil
	}
	p := &parser{text: text, words: v}
	var tokens []token
	for {
		if p.next() != nil { // a quote that is open: its value is being written
			tokens = append(tokens, token{word, text[p.pos+1:], p.pos})
			break
		}
		if p.tok.kind == end {
			break
		}
		tokens = append(tokens, p.tok)
		if p.pos == len(text) {
			break
		}
	}
	begun := token{word, "", len(text)}
	if n := len(tokens); n > 0 && tokens[n-1].kind == word && (p.pos == len(text) || text[tokens[n-1].at] == '"') {
		begun, tokens = tokens[n-1], tokens[:n-1]
		if p.pos == len(text) && len(text) > begun.at+len(begun.text) && text[begun.at] != '"' {
			begun, tokens = token{word, "", len(text)}, append(tokens, begun)
		}
	}
	before = text[:begun.at]
	add := func(help string, words ...string) {
		for _, w := range words {
			if strings.HasPrefix(strings.ToLower(w), strings.ToLower(begun.text)) && w != begun.text {
				list = append(list, Suggestion{w, help})
			}
		}
	}
	last := func(back int) token {
		if len(tokens) < back {
			return token{kind: end}
		}
		return tokens[len(tokens)-back]
	}
	is := func(t token, words ...string) bool {
		return t.kind == word && slices.ContainsFunc(words, func(w string) bool { return strings.EqualFold(w, t.text) }) || t.kind == op && slices.Contains(words, t.text)
	}
	field := func(t token) *Field {
		if t.kind != word {
			return nil
		}
		return v.find(t.text)
	}
	valuesOf := func(f *Field) {
		all := f.Values
		switch {
		case f.Type == Flag:
			all = []string{"true", "false"}
		case all == nil && values != nil:
			all = values(f)
		}
		for _, x := range all {
			if strings.HasPrefix(strings.ToLower(x), strings.ToLower(begun.text)) && x != begun.text {
				list = append(list, Suggestion{Text: valueText(x)})
			}
		}
	}
	prev := last(1)
	listed := (*Field)(nil) // the field in whose list we are
	for i := len(tokens) - 1; i > 0 && tokens[i].kind != closing; i-- {
		if tokens[i].kind == open && is(tokens[i-1], "in") {
			at := i - 2
			if at >= 0 && is(tokens[at], "not") {
				at--
			}
			if at >= 0 {
				listed = field(tokens[at])
			}
			break
		}
	}
	switch {
	case listed != nil && (prev.kind == open || prev.kind == comma):
		valuesOf(listed)
	case prev.kind == op && !is(prev, "&&", "||", "!"):
		if f := field(last(2)); f != nil {
			valuesOf(f)
		}
	case prev.kind == end, prev.kind == open, is(prev, "and", "or", "not", "&&", "||", "!", "exists"):
		for _, f := range v.fields {
			add(f.Help, f.Name)
		}
		if !is(prev, "exists") {
			add("what does not hold", "not")
		}
	case field(prev) != nil && (last(2).kind != op || is(last(2), "&&", "||", "!")):
		add("", operatorsOf(cmp.Or(field(prev), &Field{}).Type)...)
		add("both", "and")
		add("either", "or")
	default:
		add("both", "and")
		add("either", "or")
	}
	return before, list
}
