package page

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }

func rowOf(id, parent, service, name string, from, to int) SpanRow {
	return SpanRow{ID: id, Parent: parent, Service: service, Name: name, Kind: "server", Start: ms(from), Duration: ms(to - from)}
}

// outline writes a tree as text.
func outline(top *call) string {
	var b strings.Builder
	top.each(func(c *call) {
		fmt.Fprintf(&b, "%s%s %s ×%d !%d %s/%s %s\n", strings.Repeat(" ", c.Depth), c.Service, c.Name, c.Count, c.Errors, c.Self, c.Total, c.Longest)
	})
	return b.String()
}

func TestCallTree(t *testing.T) {
	failed := rowOf("5", "2", "db", "read", 25, 30)
	failed.Error = true
	got := outline(callTree([]SpanRow{
		rowOf("1", "", "web", "GET", 0, 100), rowOf("2", "1", "cart", "list", 10, 40), rowOf("4", "2", "db", "read", 12, 22), failed, rowOf("3", "1", "cart", "list", 30, 60), rowOf("6", "3", "db", "read", 50, 90),
		rowOf("7", "9", "job", "work", 0, 5),
	}))
	want := `web GET ×1 !0 50ms/100ms 1
 cart list ×2 !0 35ms/60ms 2
  db read ×3 !1 55ms/55ms 6
job work ×1 !0 5ms/5ms 7
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// Whatever the spans: every span is in one call, none takes more itself than it took, and everything drawn lies within what called it.
func TestCallsOfAnySpans(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 9)) //nolint:gosec // reproducible on purpose
	for range 300 {
		var rows []SpanRow
		for i := range 1 + rng.IntN(40) {
			r := rowOf(fmt.Sprint(i), "", fmt.Sprint(rng.IntN(3)), fmt.Sprint(rng.IntN(2)), rng.IntN(100), 0)
			r.Duration = ms(rng.IntN(100))
			if i > 0 && rng.IntN(5) > 0 {
				r.Parent = fmt.Sprint(rng.IntN(i + 3)) // perhaps itself, or one that is not there
			}
			rows = append(rows, r)
		}
		n := 0
		callTree(rows).each(func(c *call) {
			n += c.Count
			if c.Self < 0 || c.Self > c.Total || c.Count == 0 {
				t.Fatalf("%+v", c)
			}
		})
		if n != len(rows) {
			t.Fatalf("%d spans of %d are somewhere", n, len(rows))
		}
		v := newFlame(rows, func(s string) string { return s })
		ends := map[int]float64{} // by row of the drawing
		for _, b := range v.Bars {
			var x, w float64
			if _, err := fmt.Sscanf(b.X+" "+b.W, "%f%% %f%%", &x, &w); err != nil {
				t.Fatal(err)
			}
			if x < ends[b.Y]-.01 || x+w > 100.01 {
				t.Fatalf("%+v overlaps what ends at %f", b, ends[b.Y])
			}
			ends[b.Y] = x + w
		}
		if len(v.Bars)+v.Hidden == 0 {
			t.Fatal("nothing is drawn, and nothing hidden")
		}
		for _, c := range compareCalls(callTree(rows), callTree(rows), "a", "b") {
			if c.Verdict != "" || c.A.Total != c.B.Total {
				t.Fatalf("a trace differs from itself: %+v", c)
			}
		}
	}
}

func TestCompareCalls(t *testing.T) {
	failed := rowOf("4", "1", "db", "write", 50, 60)
	failed.Error = true
	a := callTree([]SpanRow{rowOf("1", "", "web", "GET", 0, 100), rowOf("2", "1", "cart", "list", 10, 20), rowOf("3", "1", "db", "read", 20, 30), rowOf("4", "1", "db", "write", 50, 60)})
	b := callTree([]SpanRow{rowOf("1", "", "web", "GET", 0, 90), rowOf("2", "1", "cart", "list", 10, 40), failed, rowOf("5", "1", "new", "call", 60, 61)})
	var got []string
	for _, r := range compareCalls(a, b, "A", "B") {
		got = append(got, fmt.Sprintf("%d %s %s %q %v %s", r.Depth, r.Service, r.Name, r.Verdict, r.Bad, r.Delta()))
	}
	want := `0 web GET "" false −10 ms; 1 cart list "slower" true +20 ms; 1 db read "gone" false ; 1 db write "more errors" true +0 µs; 1 new call "new" false `
	if s := strings.Join(got, "; "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
}

func TestComparePage(t *testing.T) {
	d := deps(t)
	for path, want := range map[string]struct {
		code int
		part string
	}{
		"/compare":                               {200, "Name two traces"},
		"/compare?a=x":                           {400, "is not a trace ID"},
		"/compare?a=" + strings.Repeat("ab", 16): {404, "Nothing is stored"},
	} {
		w := httptest.NewRecorder()
		Compare(d)(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want.code || !strings.Contains(w.Body.String(), want.part) {
			t.Errorf("%s: %d, want %d and %q", path, w.Code, want.code, want.part)
		}
	}
}
