package lint

import (
	"fmt"
	"strings"

	"github.com/tulle-mesh/tulle/internal/route"
)

// shadowedRule is about rules that never decide. A rule that is in several lists is said for the first of them in which it does not.
func shadowedRule(m *mesh, say func(place, string, ...any)) {
	said := map[string]bool{}
	for _, t := range m.rules {
		byRule := map[int][]route.Shadow{}
		for _, s := range route.Shadows(t.rules) {
			byRule[s.Rule] = append(byRule[s.Rule], s)
		}
		for i := range t.rules {
			r, shadows := &t.rules[i], byRule[i]
			at, ok := m.written[r.Name]
			if !ok || len(shadows) == 0 || said[r.Name] {
				continue
			}
			said[r.Name] = true
			who := "every request to " + t.service
			if t.consumer != "" {
				who += " from namespace " + t.consumer
			}
			if len(shadows) == max(len(r.Matches), 1) {
				say(at.place, "%s: never decides for %s: %s", at.field, who, strings.Join(m.by(t, r, shadows), "; "))
				continue
			}
			for k, s := range shadows {
				say(at.place, "%s.matches[%d]: never decides for %s: %s", at.field, s.Match, who, m.by(t, r, shadows[k:k+1])[0])
			}
		}
	}
}

// by says which rules take the requests of shadows, each once.
func (m *mesh) by(t table, r *route.Rule, shadows []route.Shadow) (out []string) {
	seen := map[string]bool{}
	for _, s := range shadows {
		other := &t.rules[s.By]
		text := fmt.Sprintf("rule %q", other.Name)
		if w, ok := m.written[other.Name]; ok {
			text = fmt.Sprintf("%s of %s (%s)", w.field, w.key, w.position)
		}
		if other == r {
			text = fmt.Sprintf("its matches[%d]", s.ByMatch)
		}
		text += " counts before it and is true of all of them"
		if !seen[text] {
			seen[text] = true
			out = append(out, text)
		}
	}
	return out
}
