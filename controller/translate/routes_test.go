package translate

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
)

// renderRoutes writes the rules of s, what they do not say left out.
func renderRoutes(b *strings.Builder, s *policy.Snapshot) {
	for _, name := range slices.Sorted(maps.Keys(s.Routes)) {
		fmt.Fprintf(b, "  routes %s\n", name)
		renderRules(b, "    ", s.Routes[name])
	}
}

func renderRules(b *strings.Builder, indent string, rules []route.Rule) {
	for _, r := range rules {
		fmt.Fprintf(b, "%s%s\n", indent, r.Name)
		line := func(format string, args ...any) { fmt.Fprintf(b, indent+"  "+format+"\n", args...) }
		for _, m := range r.Matches {
			var parts []string
			if m.Path.Kind != route.PathAny {
				parts = append(parts, []string{"", "prefix ", "exact ", "regex "}[m.Path.Kind]+m.Path.Value)
			}
			if m.Method != "" {
				parts = append(parts, m.Method)
			}
			for _, h := range m.Headers {
				parts = append(parts, "header "+valueText(h))
			}
			for _, q := range m.Query {
				parts = append(parts, "query "+valueText(q))
			}
			line("match %s", strings.Join(parts, ", "))
		}
		a := r.Action
		for _, t := range a.Backends {
			text := fmt.Sprintf("%d to %q", t.Weight, t.Service)
			if t.Subset != "" {
				text += " subset " + t.Subset
			}
			line("%s%s%s", text, editText(" request", t.Request), editText(" response", t.Response))
		}
		if d := a.Redirect; d != nil {
			line("redirect %+v", *d)
		}
		if d := a.Respond; d != nil {
			line("respond %d %q %s", d.Status, d.Body, d.Type)
		}
		if text := editText("request", a.Request); text != "" {
			line("%s", text)
		}
		if text := editText("response", a.Response); text != "" {
			line("%s", text)
		}
		if a.Rewrite != (route.Rewrite{}) {
			line("rewrite %+v", a.Rewrite)
		}
		for _, m := range a.Mirrors {
			line("mirror %d ppm to %s %s", m.PPM, m.Service, m.Subset)
		}
		if c := a.CORS; c != nil {
			line("cors %+v", *c)
		}
		for _, f := range a.Faults {
			line("fault %+v", f)
		}
		for _, l := range a.Limits {
			line("limit %+v", l)
		}
		if a.Timeouts != (route.Timeouts{}) {
			line("timeouts request=%s try=%s idle=%s stream=%s", a.Timeouts.Request, a.Timeouts.Try, a.Timeouts.Idle, a.Timeouts.Stream)
		}
		if a.Retry != nil {
			line("retry %+v", *a.Retry)
		}
		if a.Session != nil {
			line("session %+v", *a.Session)
		}
	}
}

func valueText(v route.Value) string {
	return v.Name + []string{"=", "~", " there "}[v.Kind] + v.Value
}

func editText(what string, e route.Edits) string {
	if e.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s set=%v add=%v remove=%v", what, e.Set, e.Add, e.Remove)
}
