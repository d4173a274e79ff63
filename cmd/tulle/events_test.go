//go:build unix

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// --watch shows each event once, the old ones first, and ends without an error when it is told to.
func TestEventsAreFollowed(t *testing.T) {
	var ctx context.Context
	var cancel context.CancelFunc
	asked := 0
	event := func(id, second string) string {
		return fmt.Sprintf(`{"id":"%s","time":"2026-01-02T03:04:%sZ","kind":"deploy","severity":"info","service":"web","message":"event %s"}`, id, second, id)
	}
	answers := [][]string{{event("2", "02"), event("1", "01")}, {event("3", "02"), event("2", "02")}, {event("3", "02")}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked >= len(answers) {
			cancel()
			<-r.Context().Done()
			return
		}
		_, _ = fmt.Fprintf(w, `{"events":[%s]}`, strings.Join(answers[asked], ","))
		asked++
	}))
	defer s.Close()
	for _, format := range []string{"table", "json"} {
		asked = 0
		ctx, cancel = context.WithCancel(t.Context())
		root := newRoot()
		var out bytes.Buffer
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetArgs([]string{"events", "--watch", "--last", "20000h", "-o", format, "--observer", s.URL})
		if err := root.ExecuteContext(ctx); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(out.String(), "event "); got != 3 || strings.Count(out.String(), "\n") != 3 || strings.Index(out.String(), "event 1") > strings.Index(out.String(), "event 2") {
			t.Errorf("%s:\n%s", format, out.String())
		}
	}
	cancel()
}
