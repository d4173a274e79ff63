package traceql

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/local"
	"github.com/tulle-mesh/tulle/store/storetest"
)

var epoch = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// shop is a trace of five spans: web (1) calls cart (2, 4), which calls catalog (3); a job (5) has a parent that is not here.
func shop() *Trace {
	td := storetest.Batch(
		storetest.Span{Trace: 1, ID: 1, Service: "web", Name: "GET /", Kind: ptrace.SpanKindServer, Start: epoch, Duration: time.Second, Attrs: map[string]any{"http.response.status_code": int64(200), "tenant": "blue", "ratio": 0.5, "http.user-agent": "curl"}, Res: map[string]any{"zone": "a", "tenant": "red"}},
		storetest.Span{Trace: 1, ID: 2, Parent: 1, Service: "cart", Name: "GET /cart", Kind: ptrace.SpanKindServer, Start: epoch.Add(10 * time.Millisecond), Duration: 300 * time.Millisecond, Attrs: map[string]any{"http.response.status_code": int64(500), "flag": true}, Error: true, Res: map[string]any{"zone": "b"}},
		storetest.Span{Trace: 1, ID: 3, Parent: 2, Service: "catalog", Name: "SELECT", Kind: ptrace.SpanKindClient, Start: epoch.Add(20 * time.Millisecond), Duration: 250 * time.Millisecond, Attrs: map[string]any{"db": "x", "two words": "yes"}, Events: []map[string]any{{"event": "retry", "try": int64(1)}, {"event": "retry", "try": int64(2)}}},
		storetest.Span{Trace: 1, ID: 4, Parent: 1, Service: "cart", Name: "POST /cart", Kind: ptrace.SpanKindServer, Start: epoch.Add(400 * time.Millisecond), Duration: 90 * time.Millisecond, Attrs: map[string]any{"http.response.status_code": int64(201)}},
		storetest.Span{Trace: 1, ID: 5, Parent: 99, Service: "job", Name: "work", Kind: ptrace.SpanKindInternal, Start: epoch.Add(500 * time.Millisecond), Duration: 5 * time.Millisecond},
	)
	return NewTrace(td)
}

func ids(spans []*Span) string {
	var out []string
	for _, s := range spans {
		id := s.SpanID()
		out = append(out, fmt.Sprint(id[7]))
	}
	return strings.Join(out, " ")
}

func TestEval(t *testing.T) {
	trace := shop()
	for query, want := range map[string]string{
		``:                                         "1 2 3 4 5",
		`{}`:                                       "1 2 3 4 5",
		`{ true }`:                                 "1 2 3 4 5",
		`{ false }`:                                "",
		`{ name = "GET /" }`:                       "1",
		`{name="GET /"||name="work"}`:              "1 5",
		`{ .tenant = "blue" }`:                     "1", // the span's own before the resource's
		`{ resource.tenant = "red" }`:              "1",
		`{ span.tenant = "red" }`:                  "",
		`{ .zone = "b" }`:                          "2",
		`{ span.zone = "b" }`:                      "",
		`{ .http.user-agent = "curl" }`:            "1",
		`{ span."two words" = "yes" }`:             "3",
		`{ .http.response.status_code >= 500 }`:    "2",
		`{ .http.response.status_code != 200 }`:    "2 4", // what has none is not unequal
		`{ .http.response.status_code = nil }`:     "3 5",
		`{ .http.response.status_code != nil }`:    "1 2 4",
		`{ .http.response.status_code = "200" }`:   "", // a text is no number
		`{ .http.response.status_code / 100 = 5 }`: "2",
		`{ 500 <= .http.response.status_code }`:    "2",
		`{ .ratio * 2 = 1 }`:                       "1",
		`{ -.ratio < -.4 }`:                        "1",
		`{ .flag }`:                                "2",
		`{ !.flag }`:                               "",
		`{ !(.flag = true) }`:                      "1 3 4 5",
		`{ .flag = true && status = error }`:       "2",
		`{ duration > 250ms }`:                     "1 2",
		`{ duration >= 0.25s && kind != server }`:  "3",
		`{ span:duration < 10ms }`:                 "5",
		`{ traceDuration = 1s }`:                   "1 2 3 4 5",
		`{ rootName = "GET /" && rootServiceName = "web" && name =~ ".*cart" }`: "2 4",
		`{ name =~ "cart" }`:                                              "", // anchored
		`{ name !~ "GET.*" }`:                                             "3 4 5",
		`{ kind = internal || kind = client }`:                            "3 5",
		`{ status = ok }`:                                                 "",
		`{ status != error && kind = server }`:                            "1 4",
		`{ event:name = "retry" && event.try = 2 }`:                       "3",
		`{ event.try > 2 }`:                                               "",
		`{ childCount = 2 }`:                                              "1",
		`{ parent = nil }`:                                                "1",
		`{ nestedSetParent < 0 }`:                                         "1 5",
		`{ parent.kind = server && parent.resource.zone = "b" }`:          "3",
		`{ parent.parent.name = "GET /" }`:                                "3",
		`{ span:id = "0000000000000003" }`:                                "3",
		`{ resource.service.name = "web" } > { kind = server }`:           "2 4",
		`{ resource.service.name = "web" } >> { kind = client }`:          "3",
		`{ name = "SELECT" } < { }`:                                       "2",
		`{ name = "SELECT" } << { }`:                                      "1 2",
		`{ name = "POST /cart" } ~ { }`:                                   "2",
		`{ } ~ { }`:                                                       "2 4",
		`{ resource.service.name = "web" } !> { }`:                        "1 3 5",
		`{ resource.service.name = "web" } !>> { }`:                       "1 5",
		`{ name = "SELECT" } !< { }`:                                      "1 3 4 5",
		`{ name = "SELECT" } !<< { }`:                                     "3 4 5",
		`{ name = "GET /cart" } !~ { }`:                                   "1 2 3 5",
		`{ name = "GET /" } &> { status = error }`:                        "1 2",
		`{ name = "GET /" } &>> { kind = client }`:                        "1 3",
		`{ kind = client } &< { }`:                                        "2 3",
		`{ kind = client } &<< { kind = server }`:                         "1 2 3",
		`{ name = "POST /cart" } &~ { }`:                                  "2 4",
		`{ kind = client } && { kind = internal }`:                        "3 5",
		`{ kind = client } && { kind = producer }`:                        "",
		`{ kind = client } || { kind = producer }`:                        "3",
		`{ kind = producer } || { kind = client } && { name = "work" }`:   "3 5", // alike, from the left
		`({ kind = producer } && { kind = client }) || { name = "work" }`: "5",
		`{ name = "GET /" } > { status = error } > { }`:                   "3",
		`{} | count() > 4`:                                                "1 2 3 4 5",
		`{} | count() > 5`:                                                "",
		`{ kind = server } | { status = error }`:                          "2",
		`{} | avg(duration) = 329ms`:                                      "1 2 3 4 5",
		`{} | max(duration) - min(duration) = 995ms`:                      "1 2 3 4 5",
		`{} | sum(.http.response.status_code) = 901`:                      "1 2 3 4 5",
		`{} | avg(.nothing) >= 0`:                                         "",
		`{} | by(resource.service.name) | count() > 1`:                    "2 4",
		`{} | by(resource.service.name) | count() > 1 | coalesce()`:       "2 4",
		`{ kind = server } | by(name) | coalesce() | count() = 3`:         "1 2 4",
		`{ status = error } | select(span.tenant, resource.zone)`:         "2",
		`count() = 5`: "1 2 3 4 5",
		`{ kind = server } with (most_recent=true)`: "1 2 4",
		"{ name = `GET /` }":                        "1",
		`{ name = "GET \/" }`:                       "error",
	} {
		q, err := Parse(query)
		if err != nil {
			if want != "error" {
				t.Errorf("%s: %v", query, err)
			}
			continue
		}
		var got []*Span
		for _, set := range q.Eval(trace) {
			got = append(got, set.Spans...)
		}
		if ids(got) != want {
			t.Errorf("%s: got %q, want %q", query, ids(got), want)
		}
	}
}

func TestErrorsSayWhere(t *testing.T) {
	for query, want := range map[string]struct {
		column int
		part   string
	}{
		`{ name = "x" `:                          {14, "missing"},
		`{ name = x }`:                           {10, `write .x for an attribute`},
		`{ name }`:                               {3, "neither yes nor no"},
		`{ 3 }`:                                  {3, "neither yes nor no"},
		`{ .a = "x }`:                            {8, "has no end"},
		`{ .a =~ 3 }`:                            {6, "text in quotes"},
		`{ .a =~ "(" }`:                          {6, "no regular expression"},
		`{ .a = 3x }`:                            {8, "neither a number nor a duration"},
		`{ . = 3 }`:                              {3, "name of an attribute is missing"},
		`{ } { }`:                                {5, `"|"`},
		`{ } | `:                                 {7, "missing"},
		`{ } | count()`:                          {14, "a comparison"},
		`{ } | 3 > 2`:                            {7, "aggregate"},
		`{ } | foo()`:                            {7, "a stage"},
		`{ } | rate() | count() > 1`:             {14, "nothing can follow rate"},
		`{ } > name`:                             {7, "a set of spans"},
		`({ } | count()) > 1`:                    {6, "without parentheses"},
		`{ .a # 3 }`:                             {6, "means nothing"},
		`{ "é" = .é && # }`:                      {15, "means nothing"},
		`{ } | quantile_over_time(duration)`:     {34, "quantile"},
		`{ } | quantile_over_time(duration, 99)`: {36, "from 0 to 1"},
		strings.Repeat("(", 100) + "{}" + strings.Repeat(")", 100): {65, "too large"},
		"{ .a = \xff }": {1, "UTF-8"},
	} {
		_, err := Parse(query)
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, store.ErrBadQuery) || e.Column != want.column || !strings.Contains(e.Text, want.part) {
			t.Errorf("%s: %v, want column %d and %q", query, err, want.column, want.part)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{ .a = "b" && duration > 1s } >> { } | by(name) | count() > 2`, `{ -span."x y" ^ 2 >= 1e3 || !.b } | quantile_over_time(duration, .5, .9) by (name, .c)`, `({} && {}) !~ {kind=server}`} {
		f.Add(s)
	}
	trace := shop()
	f.Fuzz(func(t *testing.T, s string) {
		q, err := Parse(s)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Column < 1 || e.Column > len(s)+1 || e.Text == "" {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		q.Eval(trace)
		q.wishes()
		for _, sp := range trace.Spans {
			q.Show(sp)
		}
	})
}

// A trace may be a circle, or as deep as somebody likes.
func TestStrangeTraces(t *testing.T) {
	spans := []storetest.Span{{Trace: 1, ID: 1, Parent: 3}, {Trace: 1, ID: 2, Parent: 1}, {Trace: 1, ID: 3, Parent: 2}, {Trace: 1, ID: 4, Parent: 4}}
	for i := range spans {
		spans[i].Start, spans[i].Service, spans[i].Name = epoch.Add(time.Duration(i)), "s", "n"
	}
	circle := NewTrace(storetest.Batch(spans...))
	for _, query := range []string{`{} >> {}`, `{} << {}`, `{} !>> {}`, `{} | count() = 4`} {
		q, err := Parse(query)
		if err != nil {
			t.Fatal(err)
		}
		q.Eval(circle)
	}
	const deep = 50_000
	td := ptrace.NewTraces()
	ss := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans()
	for i := range uint64(deep) {
		s := ss.AppendEmpty()
		s.SetSpanID(pcommon.SpanID(storetest.SpanID(i + 1)))
		if i > 0 {
			s.SetParentSpanID(pcommon.SpanID(storetest.SpanID(i)))
		}
		s.SetStartTimestamp(pcommon.Timestamp(i + 1))
	}
	trace := NewTrace(td)
	for query, want := range map[string]int{`{ parent = nil } >> { }`: deep - 1, `{ childCount = 0 } << { }`: deep - 1, `{ childCount = 0 } >> { }`: 0, `{ nestedSetLeft = 50000 }`: 1} {
		q, err := Parse(query)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, set := range q.Eval(trace) {
			n += len(set.Spans)
		}
		if n != want {
			t.Errorf("%s: %d spans, want %d", query, n, want)
		}
	}
}

// What the structural operators find is what their definitions say, asked of each pair of spans.
func TestRelationsAreTheirDefinitions(t *testing.T) {
	under := func(a, b *Span) bool { // b lies below a
		for p := b.parent; p != nil; p = p.parent {
			if p == a {
				return true
			}
		}
		return false
	}
	lies := map[string]func(l, r *Span) bool{
		">": func(l, r *Span) bool { return r.parent == l }, ">>": under,
		"<": func(l, r *Span) bool { return l.parent == r }, "<<": func(l, r *Span) bool { return under(r, l) },
		"~": func(l, r *Span) bool { return l != r && l.parent != nil && l.parent == r.parent },
	}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 7)) //nolint:gosec // reproducible on purpose
		var spans []storetest.Span
		for i := range uint64(1 + r.IntN(12)) {
			s := storetest.Span{Trace: 1, ID: i + 1, Service: "s", Name: string(rune('a' + r.IntN(3))), Start: epoch.Add(time.Duration(r.IntN(5)))}
			if i > 0 && r.IntN(6) > 0 {
				s.Parent = 1 + r.Uint64N(i)
			}
			spans = append(spans, s)
		}
		trace := NewTrace(storetest.Batch(spans...))
		for op := range relations {
			q, err := Parse(`{ name != "a" } ` + op + ` { name != "b" }`)
			if err != nil {
				t.Fatal(err)
			}
			rule := lies[strings.TrimLeft(op, "!&")]
			var want []*Span
			for _, s := range trace.Spans {
				match := slices.ContainsFunc(trace.Spans, func(l *Span) bool { return l.Name() != "a" && rule(l, s) })
				if op[0] == '!' {
					match = !match
				}
				in := s.Name() != "b" && match
				if op[0] == '&' && !in && s.Name() != "a" {
					in = slices.ContainsFunc(trace.Spans, func(r *Span) bool { return r.Name() != "b" && rule(s, r) })
				}
				if in {
					want = append(want, s)
				}
			}
			var got []*Span
			for _, set := range q.Eval(trace) {
				got = append(got, set.Spans...)
			}
			if ids(got) != ids(want) {
				t.Errorf("seed %d, %s: got %s, want %s", seed, op, ids(got), ids(want))
			}
		}
	}
}

// randomQuery is a query that has something to do with what random writes.
func randomQuery(r *rand.Rand) string {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	term := func() string {
		return pick(
			fmt.Sprintf(`resource.service.name %s "s%d"`, pick("=", "=", "!="), r.IntN(4)), fmt.Sprintf(`.service.name = "s%d"`, r.IntN(4)), fmt.Sprintf(`name %s "op%d"`, pick("=", "=", "!=", "=~"), r.IntN(4)),
			fmt.Sprintf(`duration %s %dms`, pick(">", "<", ">=", "<=", "=", "!="), r.IntN(100)), fmt.Sprintf(`.n %s %d`, pick("=", "=", ">", "<", "!=", "<="), r.IntN(5)), fmt.Sprintf(`%d %s span.n`, r.IntN(5), pick("=", ">", "<=")),
			fmt.Sprintf(`.color %s "%s"`, pick("=", "=", "!=", "=~", "!~", ">"), pick("red", "blue", "")), `resource.zone = "a"`, `.flag`, `.flag = false`, `status = error`, `status != error`, `kind = `+pick("server", "client"),
			`.color = nil`, `.color != nil`, `event:name = "e1"`, `event.n = 2`, `.n = 2.0`, `.n + 1 = 3`, `rootName = "op1"`, `childCount > 0`, `parent.color = "red"`, `!(.n = 1)`, `true`,
			fmt.Sprintf(`%s =~ "%s"`, pick(".color", "span.color", "resource.color", "event:name", "event.n", "resource.service.name", ".n"), pick("r.*|e1", "", ".*", "bl[a-z]+", "s[01]", "2")),
			fmt.Sprintf(`trace:id = "%s"`, storetest.TraceID(r.Uint64N(40))),
		)
	}
	var expr func(depth int) string
	expr = func(depth int) string {
		if depth == 0 || r.IntN(3) == 0 {
			return term()
		}
		return "(" + expr(depth-1) + " " + pick("&&", "&&", "||") + " " + expr(depth-1) + ")"
	}
	set := func() string {
		if r.IntN(8) == 0 {
			return "{}"
		}
		return "{ " + expr(r.IntN(3)) + " }"
	}
	q := set()
	for range r.IntN(3) {
		q = "(" + q + " " + pick("&&", "||", ">", ">>", "<", "<<", "~", "!>", "!>>", "&>", "&~") + " " + set() + ")"
	}
	if r.IntN(4) == 0 {
		q += pick(` | count() > 1`, ` | max(duration) > 50ms`, ` | by(name) | count() = 1`, ` | { .n > 1 }`)
	}
	return q
}

// Search finds, in a real store, just the traces for which Eval holds, newest first, however it asks the store.
func TestSearchIsEval(t *testing.T) {
	db, err := local.Open(local.Config{Dir: t.TempDir(), SealSpans: 60, SealAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r := rand.New(rand.NewPCG(4, 2)) //nolint:gosec // reproducible on purpose
	var all []*Trace
	for trace := range uint64(40) {
		var spans []storetest.Span
		start := epoch.Add(time.Duration(r.IntN(100_000)) * time.Millisecond)
		for i := range uint64(1 + r.IntN(6)) {
			s := storetest.Span{
				Trace: trace, ID: trace*100 + i + 1, Service: fmt.Sprintf("s%d", r.IntN(3)), Name: fmt.Sprintf("op%d", r.IntN(3)), Kind: ptrace.SpanKind(2 + r.IntN(2)), //nolint:gosec // small
				Start: start.Add(time.Duration(r.IntN(50)) * time.Millisecond), Duration: time.Duration(r.IntN(100)) * time.Millisecond, Error: r.IntN(4) == 0, Attrs: map[string]any{},
			}
			if i > 0 {
				s.Parent = trace*100 + 1 + r.Uint64N(i)
			}
			switch r.IntN(4) {
			case 0:
				s.Attrs["n"] = int64(r.IntN(4))
			case 1:
				s.Attrs["n"] = float64(r.IntN(4)) / 2
			case 2:
				s.Attrs["n"] = fmt.Sprint(r.IntN(4))
			}
			if r.IntN(2) == 0 {
				s.Attrs["color"] = []string{"red", "blue", ""}[r.IntN(3)]
			}
			if r.IntN(3) == 0 {
				s.Attrs["flag"] = r.IntN(2) == 0
			}
			if r.IntN(4) == 0 {
				s.Res = map[string]any{"zone": "a", "color": "blue"}
			}
			if r.IntN(5) == 0 {
				s.Events = []map[string]any{{"event": "e1", "n": int64(2)}}
			}
			spans = append(spans, s)
		}
		if err := db.Write(t.Context(), storetest.Batch(spans...)); err != nil {
			t.Fatal(err)
		}
		td, err := db.Trace(t.Context(), storetest.TraceID(trace))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, NewTrace(td))
	}
	slices.SortFunc(all, func(a, b *Trace) int {
		if a.Start != b.Start {
			return int(int64(b.Start) - int64(a.Start)) //nolint:gosec // near each other
		}
		return strings.Compare(b.ID.String(), a.ID.String())
	})
	hits := 0
	for n := range 500 {
		text := randomQuery(r)
		q, err := Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		var want, got []string
		for _, trace := range all {
			if len(q.Eval(trace)) > 0 {
				want = append(want, trace.ID.String())
			}
		}
		res, err := Search(t.Context(), db, q, Options{Start: epoch, End: epoch.Add(time.Hour), Budget: 1000}, func(f Found) bool { got = append(got, f.Trace.ID.String()); return true })
		if err != nil || res.Partial {
			t.Fatalf("%s: %+v %v", text, res, err)
		}
		if strings.Contains(text, "trace:id") { // named ones come first
			slices.Sort(got)
			slices.Sort(want)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("query %d, %s:\ngot  %v\nwant %v\nasked %+v", n, text, got, want, q.wishes())
		}
		hits += len(got)
	}
	if hits < 1600 {
		t.Errorf("the queries found %d traces in all: too few to show anything", hits)
	}
}

// A search ends at its budget, or when nobody waits any more; time that is over is no error.
func TestSearchIsBounded(t *testing.T) {
	db, err := local.Open(local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i := range uint64(250) {
		if err := db.Write(t.Context(), storetest.Batch(storetest.Span{Trace: i, ID: i + 1, Service: "s", Name: "n", Start: epoch.Add(time.Duration(i) * time.Second)})); err != nil { //nolint:gosec // small
			t.Fatal(err)
		}
	}
	q, err := Parse(`{ childCount > 0 }`)
	if err != nil {
		t.Fatal(err)
	}
	never := func(Found) bool { t.Error("found"); return true }
	o := Options{Budget: 130}
	if res, err := Search(t.Context(), db, q, o, never); err != nil || !res.Partial || res.Looked != 130 {
		t.Errorf("%+v %v", res, err)
	}
	over, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if res, err := Search(over, db, q, o, never); err != nil || !res.Partial {
		t.Errorf("%+v %v", res, err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Search(gone, db, q, o, never); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestRange(t *testing.T) {
	db, err := local.Open(local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for i := range uint64(60) {
		s := storetest.Span{Trace: i / 2, ID: i + 1, Service: fmt.Sprintf("s%d", i%2), Name: "n", Start: epoch.Add(time.Duration(i) * time.Second), Duration: time.Duration(i) * time.Second} //nolint:gosec // small
		if err := db.Write(t.Context(), storetest.Batch(s)); err != nil {
			t.Fatal(err)
		}
	}
	series := func(query string) string {
		q, err := Parse(query)
		if err != nil {
			t.Fatal(err)
		}
		out, res, err := Range(t.Context(), db, q, epoch, epoch.Add(40*time.Second), 20*time.Second, Options{Budget: 100})
		if err != nil || res.Partial {
			t.Fatal(res, err)
		}
		var lines []string
		for _, s := range out {
			line := ""
			for _, l := range s.Labels {
				line += l.Name + "=" + l.Value.String() + " "
			}
			lines = append(lines, line+fmt.Sprint(s.Points))
		}
		slices.Sort(lines)
		return strings.Join(lines, "; ")
	}
	for query, want := range map[string]string{
		`{} | rate()`: "[1 1]",
		`rate()`:      "[1 1]",
		`{} | count_over_time() by (resource.service.name)`:          "resource.service.name=s0 [10 10]; resource.service.name=s1 [10 10]",
		`{ resource.service.name = "s1" } | max_over_time(duration)`: "[19 39]",
		`{ name = "x" } | rate()`:                                    "",
		`{ duration >= 30s } | avg_over_time(duration)`:              "[NaN 34.5]",
		`{} | quantile_over_time(duration, 0, .5, 1)`:                "p=0 [0 20]; p=0.5 [9.5 29.5]; p=1 [19 39]",
		`{} | min_over_time(duration)`:                               "[0 20]",
		`{ duration < 2s } | sum_over_time(duration)`:                "[1 NaN]",
	} {
		if got := series(query); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	q, _ := Parse(`{} | rate()`)
	if _, _, err := Range(t.Context(), db, q, epoch, epoch.Add(time.Hour), time.Millisecond, Options{Budget: 1}); err == nil || !strings.Contains(err.Error(), "step") {
		t.Error(err)
	}
	q, _ = Parse(`{}`)
	if _, _, err := Range(t.Context(), db, q, epoch, epoch.Add(time.Hour), time.Minute, Options{Budget: 1}); err == nil || !strings.Contains(err.Error(), "rate()") {
		t.Error(err)
	}
}
