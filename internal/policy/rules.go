package policy

import (
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/route"
)

// Rules travel whole in metadata, in the form of the Go types: a field is called as in Go, with a small letter, and left out when it is zero; durations are text such as
// "250ms", kinds are the words below. A field or word that is not known is refused, and not overlooked: without a part of its match a rule would be for more than it was
// written for. New fields of the types need nothing here.

// kindWords are the words for the values of what has a value by name, in their order.
var kindWords = map[reflect.Type][]string{
	reflect.TypeFor[route.PathKind]():    {"any", "prefix", "exact", "regex"},
	reflect.TypeFor[route.ValueKind]():   {"exact", "regex", "present"},
	reflect.TypeFor[route.KeyKind]():     {"header", "source", "identity", "path", "method", "constant"},
	reflect.TypeFor[route.SessionKind](): {"cookie", "header"},
}

var durationType = reflect.TypeFor[time.Duration]()

// rules writes rules; none are left out.
func (e extras) rules(key string, rules []route.Rule) {
	if len(rules) > 0 {
		e[key] = written(reflect.ValueOf(rules))
	}
}

// rules is the inverse of extras.rules.
func (r *reader) rules(key string) []route.Rule {
	v, ok := r.fields[key]
	if !ok {
		return nil
	}
	var out []route.Rule
	if at, err := readInto(reflect.ValueOf(&out).Elem(), v); err != nil {
		r.fail(key+at, "%v", err)
	}
	return out
}

func written(v reflect.Value) *structpb.Value {
	if words, ok := kindWords[v.Type()]; ok {
		return structpb.NewStringValue(words[v.Uint()])
	}
	if v.Type() == durationType {
		return structpb.NewStringValue(time.Duration(v.Int()).String())
	}
	switch v.Kind() {
	case reflect.Struct:
		s := &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for i := range v.NumField() {
			if f := v.Field(i); !empty(f) {
				s.Fields[wireName(v.Type().Field(i).Name)] = written(f)
			}
		}
		return structpb.NewStructValue(s)
	case reflect.Slice:
		list := &structpb.ListValue{Values: make([]*structpb.Value, v.Len())}
		for i := range list.Values {
			list.Values[i] = written(v.Index(i))
		}
		return structpb.NewListValue(list)
	case reflect.Pointer:
		return written(v.Elem())
	case reflect.String:
		return structpb.NewStringValue(v.String())
	case reflect.Bool:
		return structpb.NewBoolValue(v.Bool())
	case reflect.Int:
		return structpb.NewNumberValue(float64(v.Int()))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return structpb.NewNumberValue(float64(v.Uint()))
	}
	panic("policy: rules have a field of type " + v.Type().String() + ", which cannot travel")
}

// empty is true of what is left out: a zero, and a list of nothing.
func empty(v reflect.Value) bool { return v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0 }

// wireName is a field's name with a small letter, or all small where it is an abbreviation.
func wireName(name string) string {
	if name == strings.ToUpper(name) {
		return strings.ToLower(name)
	}
	return strings.ToLower(name[:1]) + name[1:]
}

// readInto is the inverse of written. at is where in x the error is.
func readInto(v reflect.Value, x *structpb.Value) (at string, err error) {
	wants := func(what string) (string, error) { return "", fmt.Errorf("must be %s, is %v", what, x) }
	text, isText := x.GetKind().(*structpb.Value_StringValue)
	if words, ok := kindWords[v.Type()]; ok {
		i := slices.Index(words, x.GetStringValue())
		if !isText || i < 0 {
			return "", fmt.Errorf("%v is not known to this sidecar, which knows %s; upgrade it", x, strings.Join(words, ", "))
		}
		v.SetUint(uint64(i))
		return "", nil
	}
	if v.Type() == durationType {
		d, err := time.ParseDuration(x.GetStringValue())
		if !isText || err != nil {
			return wants("a duration such as 250ms or 15s")
		}
		v.SetInt(int64(d))
		return "", nil
	}
	number, isNumber := x.GetKind().(*structpb.Value_NumberValue)
	whole := func(low, high float64) bool {
		return isNumber && number.NumberValue >= low && number.NumberValue <= high && number.NumberValue == math.Trunc(number.NumberValue)
	}
	switch v.Kind() {
	case reflect.Struct:
		s, ok := x.GetKind().(*structpb.Value_StructValue)
		if !ok {
			return wants("an object")
		}
		for name, value := range s.StructValue.GetFields() {
			i := slices.IndexFunc(reflect.VisibleFields(v.Type()), func(f reflect.StructField) bool { return wireName(f.Name) == name })
			if i < 0 {
				return "." + name, fmt.Errorf("is not known to this sidecar; upgrade it")
			}
			if at, err := readInto(v.Field(i), value); err != nil {
				return "." + name + at, err
			}
		}
	case reflect.Slice:
		list, ok := x.GetKind().(*structpb.Value_ListValue)
		if !ok {
			return wants("a list")
		}
		values := list.ListValue.GetValues()
		v.Set(reflect.MakeSlice(v.Type(), len(values), len(values)))
		for i, value := range values {
			if at, err := readInto(v.Index(i), value); err != nil {
				return fmt.Sprintf("[%d]%s", i, at), err
			}
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return readInto(v.Elem(), x)
	case reflect.String:
		if !isText {
			return wants("text")
		}
		v.SetString(text.StringValue)
	case reflect.Bool:
		b, ok := x.GetKind().(*structpb.Value_BoolValue)
		if !ok {
			return wants("true or false")
		}
		v.SetBool(b.BoolValue)
	case reflect.Int:
		if !whole(math.MinInt32, math.MaxInt32) {
			return wants("a whole number")
		}
		v.SetInt(int64(number.NumberValue))
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		if !whole(0, float64(uint64(1)<<v.Type().Bits()-1)) {
			return wants("a whole number from 0")
		}
		v.SetUint(uint64(number.NumberValue))
	default:
		panic("policy: rules have a field of type " + v.Type().String() + ", which cannot travel")
	}
	return "", nil
}
