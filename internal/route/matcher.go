package route

// Matcher is one Match by itself, for whoever asks of a request only whether it is one of these. It is immutable.
type Matcher struct{ m matcher }

// NewMatcher compiles m, which is not to be changed afterwards. The error names the field and the remedy.
func NewMatcher(m *Match) (Matcher, error) {
	known := expressions{}
	if err := m.check(known); err != nil {
		return Matcher{}, err
	}
	return Matcher{known.compile(m)}, nil
}

// Is reports whether a request is one of m's. Allocations are those of Table.Match.
func (m *Matcher) Is(h *Head) bool { return m.m.on(h.Path) && m.m.beside(h) }

// Reads reports whether m looks at Head.Fields.
func (m *Matcher) Reads() bool { return len(m.m.Headers)+len(m.m.Query) > 0 }
