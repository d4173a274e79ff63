package dashboard

import (
	"net/http"

	"github.com/tulle-mesh/tulle/store"
)

// partialHeader says why an answer is not all, whichever API gave it and whatever that API has for it itself.
const partialHeader = "Tulle-Partial"

// budgeted gives every request its share of the memory that queries have. Upgrades go by: what lasts as long as a page is open holds nothing for long.
func budgeted(m *store.Memory, next http.Handler) http.Handler {
	if m == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			next.ServeHTTP(w, r)
			return
		}
		ctx, b, end := m.Begin(r.Context())
		defer end()
		next.ServeHTTP(&marking{ResponseWriter: w, budget: b}, r.WithContext(ctx))
	})
}

// marking sets partialHeader where it is known before the answer begins.
type marking struct {
	http.ResponseWriter
	budget *store.Budget
	wrote  bool
}

// Unwrap is for http.ResponseController.
func (m *marking) Unwrap() http.ResponseWriter { return m.ResponseWriter }

func (m *marking) WriteHeader(code int) {
	if !m.wrote && code >= http.StatusOK {
		m.wrote = true
		if why := m.budget.Partial(); why != "" {
			m.Header().Set(partialHeader, why)
		}
	}
	m.ResponseWriter.WriteHeader(code)
}

func (m *marking) Write(p []byte) (int, error) {
	if !m.wrote {
		m.WriteHeader(http.StatusOK)
	}
	return m.ResponseWriter.Write(p)
}

// Flush sends what was written so far: streams stay streams.
func (m *marking) Flush() { _ = http.NewResponseController(m.ResponseWriter).Flush() }
