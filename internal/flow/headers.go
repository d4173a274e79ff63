package flow

import "strings"

// Bounds of what is kept of header fields, in bytes.
const (
	MaxHeaderNames = 16   // names in an allow-list
	MaxHeaderValue = 256  // of one value; more is cut
	MaxHeaders     = 2048 // of one Record's Headers; fields that do not fit are left out
)

// Headers are header fields of a request and its response in a form that is one string, so that a Record stays flat: for each field a line
// "<name:value\n" (request) or ">name:value\n" (response). Neither part can hold a line end: a name is an RFC 9110 token, a value a field
// value. The empty string holds none.
type Headers string

// AppendHeader appends one field, cut to MaxHeaderValue; a field that would exceed MaxHeaders is left out. name must be in lower case.
func AppendHeader(dst []byte, response bool, name string, value []byte) []byte {
	value = value[:min(len(value), MaxHeaderValue)]
	if len(dst)+len(name)+len(value)+3 > MaxHeaders {
		return dst
	}
	mark := byte('<')
	if response {
		mark = '>'
	}
	dst = append(append(append(dst, mark), name...), ':')
	return append(append(dst, value...), '\n')
}

// Each calls yield for every field, in order. What is not of the form is passed over.
func (h Headers) Each(yield func(response bool, name, value string)) {
	rest := string(h)
	for rest != "" {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		if colon := strings.IndexByte(line, ':'); colon > 1 && (line[0] == '<' || line[0] == '>') {
			yield(line[0] == '>', line[1:colon], line[colon+1:])
		}
	}
}

// Get is the value of one field, "" when it was not kept.
func (h Headers) Get(response bool, name string) (value string) {
	if h == "" {
		return ""
	}
	h.Each(func(r bool, n, v string) {
		if r == response && n == name {
			value = v
		}
	})
	return value
}
