package traceql

import (
	"cmp"
	"math"
	"regexp"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
)

// Kind is the type of a Value.
type Kind uint8

// Kinds.
const (
	Nil Kind = iota
	Bool
	Int
	Float
	Duration
	String
	Status   // ok | error | unset
	SpanKind // client | server | …
)

// Value is what a field, a literal or an aggregate is. It is comparable; Int holds also Bool (0 or 1) and Duration (ns), Text String, Status and SpanKind.
type Value struct {
	Kind  Kind
	Int   int64
	Float float64
	Text  string
}

func intValue(n int64) Value      { return Value{Kind: Int, Int: n} }
func floatValue(f float64) Value  { return Value{Kind: Float, Float: f} }
func durationValue(n int64) Value { return Value{Kind: Duration, Int: n} }
func stringValue(s string) Value  { return Value{Kind: String, Text: s} }
func (v Value) truth() bool       { return v.Kind == Bool && v.Int == 1 }
func (v Value) numeric() bool     { return v.Kind == Int || v.Kind == Float || v.Kind == Duration }

func (v Value) float() float64 {
	if v.Kind == Float {
		return v.Float
	}
	return float64(v.Int)
}

func boolValue(b bool) Value {
	if b {
		return Value{Kind: Bool, Int: 1}
	}
	return Value{Kind: Bool}
}

// String writes the value as a query would, but texts without quotes.
func (v Value) String() string {
	switch v.Kind {
	case Bool:
		return strconv.FormatBool(v.Int == 1)
	case Int:
		return strconv.FormatInt(v.Int, 10)
	case Float:
		return strconv.FormatFloat(v.Float, 'g', -1, 64)
	case Duration:
		return time.Duration(v.Int).String()
	case String, Status, SpanKind:
		return v.Text
	case Nil:
	}
	return "nil"
}

// attributeValue reads an attribute. Lists, maps and bytes are their string form, which is also what the store searches by.
func attributeValue(v pcommon.Value) Value {
	switch v.Type() {
	case pcommon.ValueTypeBool:
		return boolValue(v.Bool())
	case pcommon.ValueTypeInt:
		return intValue(v.Int())
	case pcommon.ValueTypeDouble:
		return floatValue(v.Double())
	case pcommon.ValueTypeEmpty:
		return Value{}
	case pcommon.ValueTypeStr, pcommon.ValueTypeMap, pcommon.ValueTypeSlice, pcommon.ValueTypeBytes:
	}
	return stringValue(v.AsString())
}

// compare says whether a op b. What is not there, or of another kind, is neither equal nor unequal nor in an order; numbers and durations are of one kind.
func compare(op string, a, b Value, re *regexp.Regexp) bool {
	if a.Kind == Nil || b.Kind == Nil {
		return false
	}
	var c int
	switch {
	case a.Kind == Float && b.numeric() || b.Kind == Float && a.numeric():
		x, y := a.float(), b.float()
		if math.IsNaN(x) || math.IsNaN(y) {
			return op == "!="
		}
		c = cmp.Compare(x, y)
	case a.numeric() && b.numeric():
		c = cmp.Compare(a.Int, b.Int)
	case a.Kind != b.Kind:
		return false
	case a.Kind == String:
		switch op {
		case "=~":
			return re != nil && re.MatchString(a.Text)
		case "!~":
			return re != nil && !re.MatchString(a.Text)
		}
		c = cmp.Compare(a.Text, b.Text)
	default: // bool, status, kind
		if op != "=" && op != "!=" {
			return false
		}
		c = 1
		if a == b {
			c = 0
		}
	}
	switch op {
	case "=":
		return c == 0
	case "!=":
		return c != 0
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	case ">=":
		return c >= 0
	}
	return false
}

// calculate is arithmetic; nil where it is none of numbers. A duration with a number is a duration, but a quotient of two durations is a number.
func calculate(op string, a, b Value) Value {
	if !a.numeric() || !b.numeric() {
		return Value{}
	}
	if a.Kind == Int && b.Kind == Int && (op != "/" && op != "%" || b.Int != 0) && op != "^" {
		switch op {
		case "+":
			return intValue(a.Int + b.Int)
		case "-":
			return intValue(a.Int - b.Int)
		case "*":
			return intValue(a.Int * b.Int)
		case "%":
			return intValue(a.Int % b.Int)
		case "/":
			if a.Int%b.Int == 0 {
				return intValue(a.Int / b.Int)
			}
		}
	}
	x, y := a.float(), b.float()
	var f float64
	switch op {
	case "+":
		f = x + y
	case "-":
		f = x - y
	case "*":
		f = x * y
	case "/":
		f = x / y
	case "%":
		f = math.Mod(x, y)
	case "^":
		f = math.Pow(x, y)
	}
	if (a.Kind == Duration || b.Kind == Duration) && !(op == "/" && a.Kind == b.Kind) && math.Abs(f) < math.MaxInt64 {
		return durationValue(int64(f))
	}
	return floatValue(f)
}
