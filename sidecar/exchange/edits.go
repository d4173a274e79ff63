package exchange

import (
	"slices"

	"github.com/tulle-mesh/tulle/internal/route"
)

// Edits is what is changed of a head as it goes on: the fields that Drop names are left out, and those of Append come behind the rest. The zero value changes nothing.
// Whatever edits are made one after the other of whatever head, they come to this, because what came is only ever taken away, and what is added stands behind it. It is
// reused.
type Edits struct {
	Drop   []string      // names in lower case, each once
	Append []route.Field // names in lower case
}

// IsZero reports whether nothing is changed.
func (e *Edits) IsZero() bool { return len(e.Drop)+len(e.Append) == 0 }

// Reset makes e change nothing.
func (e *Edits) Reset() { e.Drop, e.Append = e.Drop[:0], e.Append[:0] }

// Apply makes e do what it did, and then by.
func (e *Edits) Apply(by *route.Edits) {
	for i := range by.Set {
		e.Set(by.Set[i].Name, by.Set[i].Value)
	}
	e.Append = append(e.Append, by.Add...)
	for _, name := range by.Remove {
		e.Remove(name)
	}
}

// Set makes value the only one of a name.
func (e *Edits) Set(name, value string) {
	e.Remove(name)
	e.Append = append(e.Append, route.Field{Name: name, Value: value})
}

// Add adds a field.
func (e *Edits) Add(name, value string) {
	e.Append = append(e.Append, route.Field{Name: name, Value: value})
}

// Remove takes all fields of a name away.
func (e *Edits) Remove(name string) {
	if !e.Drops(name) {
		e.Drop = append(e.Drop, name)
	}
	if len(e.Append) > 0 {
		e.Append = slices.DeleteFunc(e.Append, func(f route.Field) bool { return f.Name == name })
	}
}

// Drops reports whether fields of a name, in lower case, are left out of what came.
func (e *Edits) Drops(name string) bool { return slices.Contains(e.Drop, name) }

// Size is how many bytes the fields of Append have as lines of HTTP/1.1.
func (e *Edits) Size() (n int) {
	for i := range e.Append {
		n += len(e.Append[i].Name) + len(e.Append[i].Value) + len(": \r\n")
	}
	return n
}

// AppendLines appends the fields of Append as AppendLines does.
func (e *Edits) AppendLines(b []byte) []byte { return AppendLines(b, e.Append) }

// AppendLines appends fields as lines of HTTP/1.1.
func AppendLines(b []byte, fields []route.Field) []byte {
	for i := range fields {
		b = append(append(b, fields[i].Name...), ": "...)
		b = append(append(b, fields[i].Value...), "\r\n"...)
	}
	return b
}

// Reply is an answer that policy gives in a service's place. Immutable.
type Reply struct {
	Status int
	GRPC   int           // status that gRPC callers get in place of Status, with a Reason; 0: the one that Status stands for
	Fields []route.Field // names in lower case; none about the body
	Type   string        // content-type of Body; "": none
	Body   string        // none with a Reason: then the answer says that
}

// Bodiless reports whether an answer of this status has no body, nor a length of one (RFC 9110, section 8.6).
func Bodiless(status int) bool { return status == 204 || status == 304 }
