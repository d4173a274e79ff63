package traceql

import (
	"regexp"
	"strings"
)

// expr is an expression of fields in {…}.
type expr interface {
	eval(s *Span) Value
	String() string
}

// field is an attribute or an intrinsic. It may have several values on a span (of events and links): then eval gives the first.
type field struct {
	up        int    // how many times parent. stands before it
	scope     string // "", span, resource, event, link, instrumentation; of an attribute
	name      string // of an attribute
	intrinsic string
}

func (f *field) String() string {
	up := strings.Repeat("parent.", f.up)
	if f.intrinsic != "" {
		return up + f.intrinsic
	}
	name := f.name
	if strings.ContainsFunc(name, func(r rune) bool { return !inName(r) }) {
		name = quote(name)
	}
	return up + f.scope + "." + name
}

func (f *field) eval(s *Span) Value {
	if all := f.all(s); len(all) > 0 {
		return all[0]
	}
	return Value{}
}

// all are the values that the span has.
func (f *field) all(s *Span) []Value {
	for range f.up {
		if s = s.parent; s == nil {
			return nil
		}
	}
	if f.intrinsic != "" {
		if many := manyIntrinsics[f.intrinsic]; many != nil {
			return many(s)
		}
		if v := intrinsics[f.intrinsic](s); v.Kind != Nil {
			return []Value{v}
		}
		return nil
	}
	if f.scope == "" || f.scope == "span" {
		if v, ok := s.Attributes().Get(f.name); ok {
			return []Value{attributeValue(v)}
		}
	}
	if f.scope == "" || f.scope == "resource" {
		if v, ok := s.Resource.Get(f.name); ok {
			return []Value{attributeValue(v)}
		}
	}
	var out []Value
	switch f.scope {
	case "instrumentation":
		if v, ok := s.Scope.Attributes().Get(f.name); ok {
			return []Value{attributeValue(v)}
		}
	case "event":
		for _, e := range s.Events().All() {
			if v, ok := e.Attributes().Get(f.name); ok {
				out = append(out, attributeValue(v))
			}
		}
	case "link":
		for _, l := range s.Links().All() {
			if v, ok := l.Attributes().Get(f.name); ok {
				out = append(out, attributeValue(v))
			}
		}
	}
	return out
}

// literal is a constant.
type literal struct{ v Value }

func (l literal) eval(*Span) Value { return l.v }

func (l literal) String() string {
	if l.v.Kind == String {
		return quote(l.v.Text)
	}
	return l.v.String()
}

// binary joins two expressions.
type binary struct {
	op          string
	left, right expr
	re          *regexp.Regexp // of =~ and !~
}

func (b *binary) String() string {
	return "(" + b.left.String() + " " + b.op + " " + b.right.String() + ")"
}

func (b *binary) eval(s *Span) Value {
	switch b.op {
	case "&&":
		return boolValue(b.left.eval(s).truth() && b.right.eval(s).truth())
	case "||":
		return boolValue(b.left.eval(s).truth() || b.right.eval(s).truth())
	case "+", "-", "*", "/", "%", "^":
		return calculate(b.op, b.left.eval(s), b.right.eval(s))
	}
	left, right := values(b.left, s), values(b.right, s)
	if isNil(b.left) || isNil(b.right) { // whether it is there
		both := left[0].Kind == Nil && right[0].Kind == Nil
		return boolValue(b.op == "=" && both || b.op == "!=" && !both)
	}
	for _, l := range left {
		for _, r := range right {
			if compare(b.op, l, r, b.re) {
				return boolValue(true)
			}
		}
	}
	return boolValue(false)
}

func isNil(e expr) bool {
	l, ok := e.(literal)
	return ok && l.v.Kind == Nil
}

// values are all that an expression is on a span, nil where it is nothing.
func values(e expr, s *Span) []Value {
	if f, ok := e.(*field); ok {
		if all := f.all(s); len(all) > 0 {
			return all
		}
		return []Value{{}}
	}
	return []Value{e.eval(s)}
}

// unary is a sign before an expression.
type unary struct {
	op string // ! or -
	of expr
}

func (u unary) String() string { return u.op + u.of.String() }

func (u unary) eval(s *Span) Value {
	v := u.of.eval(s)
	if u.op == "!" {
		if v.Kind != Bool {
			return boolValue(false)
		}
		return boolValue(v.Int == 0)
	}
	switch v.Kind {
	case Int, Duration:
		v.Int = -v.Int
	case Float:
		v.Float = -v.Float
	default:
		return Value{}
	}
	return v
}
