package dashboard

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/store"
)

// Whichever API gives an answer that is not all, its header says so; one that is all has none; and nothing is held when the answer has gone.
func TestPartialAnswersSaySo(t *testing.T) {
	s := shop(t, "")
	s.Memory = store.NewMemory(64 << 20)
	h := handler(t, s)
	for path, want := range map[string]string{
		"/api/tulle/v1/requests?last=100h&budget=3":       "3 spans were looked at, and older ones were not",
		"/api/tulle/v1/requests?last=100h&budget=2000000": "",
		"/api/tulle/v1/traces?lookback=100h":              "",
		"/":                                               "",
	} {
		w := get(t, h, path)
		if got := w.Header().Get(partialHeader); got != want || w.Code != http.StatusOK {
			t.Errorf("GET %s: %d, %s %q, want %q", path, w.Code, partialHeader, got, want)
		}
		if partial := strings.Contains(w.Body.String(), `"partial":true`); partial != (want != "") {
			t.Errorf("GET %s: the body says partial: %v", path, partial)
		}
	}
	if m := s.Memory.Stats(); m.Held != 0 || m.Queries != 0 || m.Partial != 1 {
		t.Errorf("afterwards %+v", m)
	}
}
