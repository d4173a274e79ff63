// Package lint finds what is allowed in configuration but hardly meant: rules that never win, backends that nobody serves, timeouts that cannot end anything. It sees what
// the controller sees, a resolved Set, and what the controller has said of it; every finding has a code of Table, the place, and what to do.
//
// One file per finding and one line in Table; testdata/CODE.txtar has a configuration with it, what is found there, and the same configuration mended. Everything here is pure.
package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
)

// Severity says how bad a finding is.
type Severity string

const (
	// Error: it does not do what it says, or requests fail by it.
	Error Severity = "error"
	// Warning: it is in force, but probably not as meant.
	Warning Severity = "warning"
	// Advice: it works; something else would be better.
	Advice Severity = "advice"
)

// Input is what findings follow from.
type Input struct {
	Set       *resource.Set
	Problems  []resource.Problem // what resource.Resolve said with it
	Endpoints []discovery.Endpoint
}

// Finding is one thing that should be looked at.
type Finding struct {
	Code     string   `json:"code"`
	Severity Severity `json:"severity"`
	File     string   `json:"file"`
	Line     int      `json:"line"`               // first of the document, from 1
	Resource string   `json:"resource,omitempty"` // "Workload shop/catalog-1"; "" when the document cannot be named
	Message  string   `json:"message"`            // begins with the field
	Fix      string   `json:"fix"`
}

// String is the finding on one line, as compilers write theirs.
func (f Finding) String() string {
	s := fmt.Sprintf("%s:%d: %s %s: ", f.File, f.Line, f.Severity, f.Code)
	if f.Resource != "" {
		s += f.Resource + ": "
	}
	return s + f.Message
}

// Report is everything that was found, and how much of each severity.
type Report struct {
	Findings []Finding `json:"findings"`
	Errors   int       `json:"errors"`
	Warnings int       `json:"warnings"`
	Advice   int       `json:"advice"`
}

// Run looks for everything in Table. Findings come by place, then in the order of Table.
func Run(in Input) Report {
	m := newMesh(in)
	r := Report{Findings: []Finding{}}
	for _, c := range Table {
		c.look(m, func(at place, format string, args ...any) {
			f := Finding{Code: c.Code, Severity: c.Severity, File: at.position.File, Line: at.position.Line, Message: fmt.Sprintf(format, args...), Fix: c.Fix}
			if at.key != (resource.Key{}) {
				f.Resource = at.key.String()
			}
			r.Findings = append(r.Findings, f)
			switch c.Severity {
			case Error:
				r.Errors++
			case Warning:
				r.Warnings++
			case Advice:
				r.Advice++
			}
		})
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Resource, b.Resource))
	})
	return r
}

// place is where a finding is.
type place struct {
	position resource.Position
	key      resource.Key
}

// look finds one kind of thing, and says each.
type look func(m *mesh, say func(at place, format string, args ...any))
