package match_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/match"
	"github.com/tulle-mesh/tulle/store/span/local"
)

func sample() store.Span {
	return store.Span{
		TraceID: flow.TraceID{15: 1}, SpanID: flow.SpanID{7: 2}, Name: "GET payments", Kind: "client", Service: "web", Duration: 250 * time.Millisecond, Error: true,
		Attributes: map[string]string{
			"tulle.kind": "exchange", "tulle.side": "client", "tulle.source.service": "web", "tulle.destination.service": "payments", "url.path": "/pay/17",
			"http.response.status_code": "503", "tulle.reason": "upstream_5xx", "tulle.attempts": "3", "tulle.answered": "true", "http.request.header.x-team": "blue sky",
		},
		Resource: map[string]string{"service.name": "web", "service.instance.id": "web-1"},
	}
}

func TestMatch(t *testing.T) {
	s := sample()
	for expr, want := range map[string]bool{
		``: true, `  `: true,
		`status>=500 and src=web and dst="payments" and path~"/pay.*" and duration>200ms and reason!=""`: true,
		`status=503`: true, `status==503.0`: true, `status!=503`: false, `status=5xx`: true, `status=4xx`: false, `status!=5XX`: false, `status<503`: false, `status<=503`: true,
		`status in (200, 5xx)`: true, `status in (200)`: false, `status not in (200)`: true, `not status in (200, 503)`: false,
		`src=web && dst=cart || path~^/pay`: true, `src=web && (dst=cart || path~'^/x')`: false, `!src=web`: false, `not not src=web`: true,
		`path~"^/pay/\d+$"`: true, `path!~"\d"`: false, "path~`\\d`": true, `path = "/pay/17"`: true,
		`duration>=250ms`: true, `duration>250ms`: false, `duration=0.25s`: true, `duration<1s AND failed`: true, `failed=false`: false,
		`answered`: true, `delivered`: false, `delivered=false`: false, `probe=false`: true, `probe`: false, `mirror!=false`: false,
		`reason`: true, `exists reason`: true, `exists route`: false, `route=""`: true, `route!=""`: false, `grpc`: false, `grpc!=OK`: true,
		`http.request.header.x-team="blue sky"`: true, `http.request.header.x-team in ("blue sky", red)`: true, `x.y>1`: false, `tulle.attempts>2`: true, `attempts=3`: true,
		`service=web and instance=web-1 and kind=exchange and side=client and phase=close and name~payments`: true,
		`trace=00000000000000000000000000000001 and span=0000000000000002 and parent=""`:                     true,
		`route>5`: false, `grpc~.`: false, `grpc!~.`: true,
	} {
		e, err := match.Parse(expr)
		if expr == `route>5` {
			if err == nil {
				t.Errorf("%s: text has no order", expr)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		if got := e.Match(&s); got != want {
			t.Errorf("%s: %v, want %v", expr, got, want)
		}
		again, err := match.Parse(e.String())
		if err != nil || again.String() != e.String() || again.Match(&s) != want {
			t.Errorf("%s is written %s, which reads as %s, %v", expr, e, again, err)
		}
	}
}

func TestFailedIsTheRuleOfRecords(t *testing.T) {
	failed, err := match.Parse("failed")
	if err != nil {
		t.Fatal(err)
	}
	for reason, want := range map[string]bool{"denied": false, "upstream_5xx": true, "": false} {
		s := store.Span{Error: reason != "", Attributes: map[string]string{flow.AttrKind: "exchange", flow.AttrReason: reason}}
		if failed.Match(&s) != want {
			t.Errorf("reason %q", reason)
		}
	}
	if !failed.Match(&store.Span{Error: true}) || !failed.Match(&store.Span{Attributes: map[string]string{flow.AttrKind: "exchange", flow.AttrGRPC: "UNAVAILABLE", flow.AttrStatus: "200"}}) {
		t.Error("an application's span with status error, or a gRPC status that stands for a 5xx, did not fail")
	}
}

func TestErrorsPointAtTheColumn(t *testing.T) {
	for _, c := range []struct {
		expr   string
		column int
		has    string
	}{
		{`statsu>=500`, 1, `there is no field "statsu"; perhaps status is meant`},
		{`src=web and source=x`, 13, `perhaps src is meant`},
		{`colour=red`, 1, `fields are agent answered`},
		{`status>=high`, 9, `"high" is no number, and status is one`},
		{`status>5xx`, 8, `no number`},
		{`src>5`, 4, `src is text, which has no order`},
		{`failed>1`, 7, `failed is a flag, which has no order`},
		{`duration>200`, 10, `"200" is no duration; write 250ms, 1.5s or 2m`},
		{`failed=yes`, 8, `failed is true or false`},
		{`reason=upstream5xx`, 8, `there is no reason "upstream5xx"; there are connect_refused`},
		{`kind in (exchange, request)`, 20, `there is no kind "request"`},
		{`path~"("`, 6, `not a regular expression: missing closing ): ` + "`(`"},
		{`path~"x`, 6, `not closed`},
		{`path='x`, 6, `not closed`},
		{`(src=web`, 1, `this parenthesis is not closed`},
		{`src=web)`, 8, `this parenthesis was not opened`},
		{`src=web dst=x`, 9, `"dst" comes where and, or, or the end was expected`},
		{`src=web and`, 12, `the end comes where a field was expected`},
		{`src=`, 5, `the end comes where a value was expected`},
		{`src==and`, 6, `"and" comes where a value was expected; put it in quotes if it is one`},
		{`src in web`, 8, `write src in (a, b)`},
		{`src in (web`, 8, `not closed`},
		{`src in (web cart)`, 13, `a comma or a closing parenthesis`},
		{`src in ()`, 9, `a value was expected`},
		{`src not web`, 9, `write src not in (a, b)`},
		{`ü.ö=1 & src=web`, 7, `"&" means nothing here`},
		{`= 5`, 1, `a field was expected`},
		{strings.Repeat("(", 100), 66, `inside each other`},
		{strings.Repeat("x", 5000), 1, `at most 4096`},
		{strings.TrimSuffix(strings.Repeat("src=a or ", 300), " or "), 2305, `more than 256`},
		{"src=\xff", 1, `UTF-8`},
	} {
		_, err := match.Parse(c.expr)
		var e *match.Error
		if !errors.As(err, &e) || !errors.Is(err, store.ErrBadQuery) {
			t.Errorf("%.60s: %v", c.expr, err)
			continue
		}
		if e.Column != c.column || !strings.Contains(e.Text, c.has) {
			t.Errorf("%.60s: column %d, %s; want column %d, %s", c.expr, e.Column, e.Text, c.column, c.has)
		}
		if p := e.Pointer(); strings.Count(p, "\n") != 1 || !strings.HasSuffix(p, "^") {
			t.Errorf("%.60s: pointer %q", c.expr, p)
		}
	}
}

func TestQuery(t *testing.T) {
	attr := func(key, opr, value string) store.AttributeMatch {
		return store.AttributeMatch{Key: key, Op: opr, Value: value}
	}
	for _, c := range []struct {
		expr  string
		want  store.TraceQuery
		exact bool
	}{
		{`service=web and src=web and status=503 and duration>=10ms and duration<2s`, store.TraceQuery{Service: "web", MinDuration: 10 * time.Millisecond, MaxDuration: 2*time.Second - 1, Attributes: []store.AttributeMatch{
			attr(flow.AttrSourceService, "=", "web"), attr(flow.AttrStatus, "=", "503"),
		}}, true},
		{`reason!=denied and name="GET x"`, store.TraceQuery{Operation: "GET x", Attributes: []store.AttributeMatch{attr(flow.AttrReason, "!=", "denied")}}, true},
		{`failed`, store.TraceQuery{Errors: true}, false},
		{`status>=500 and path~x`, store.TraceQuery{Attributes: []store.AttributeMatch{attr(flow.AttrStatus, "~", "(?s:0[0-9]+|.*[^0-9].*|500|[1-9][0-9]{3,}|[6-9][0-9]{2}|5[1-9][0-9]{1}|50[1-9][0-9]{0})"), attr(flow.AttrPath, "~", "(?s:.*)(?-s:x)(?s:.*)")}}, false},
		{`path~"^/a|b"`, store.TraceQuery{Attributes: []store.AttributeMatch{attr(flow.AttrPath, "~", "(?s:.*)(?-s:^/a|b)(?s:.*)")}}, true},
		{`path~"b*" and x.y~b`, store.TraceQuery{Attributes: []store.AttributeMatch{attr(flow.AttrPath, "~", "(?s:.*)(?-s:b*)(?s:.*)"), attr("x.y", "~", "(?s:.*)(?-s:b)(?s:.*)")}}, false},
		{`path!~b`, store.TraceQuery{Attributes: []store.AttributeMatch{attr(flow.AttrPath, "!~", "(?s:.*)(?-s:b)(?s:.*)")}}, true},
		{`path!~"b*" and x.y!~b`, store.TraceQuery{}, false},
		{`status=5xx`, store.TraceQuery{Attributes: []store.AttributeMatch{attr(flow.AttrStatus, "~", "(?s:5[0-9]{2}|0[0-9]+|.*[^0-9].*)")}}, false},
		{`status>=-1 and bytes.in<=-1`, store.TraceQuery{Attributes: []store.AttributeMatch{attr(flow.AttrStatus, "exists", ""), attr(flow.AttrBytesIn, "~", "(?s:0[0-9]+|.*[^0-9].*)")}}, false},
		{`src in (a.b, c)`, store.TraceQuery{Attributes: []store.AttributeMatch{attr(flow.AttrSourceService, "~", `(?s:a\.b|c)`)}}, true},
		{`src in (a, "")`, store.TraceQuery{}, false},
		{`status in (200, 5xx)`, store.TraceQuery{Attributes: []store.AttributeMatch{attr(flow.AttrStatus, "~", "(?s:200|5[0-9]{2}|0[0-9]+|.*[^0-9].*)")}}, false},
		{`status=0200`, store.TraceQuery{}, false},
		{`status in (200, 0200)`, store.TraceQuery{}, false},
		{`src=web or dst=cart`, store.TraceQuery{}, false},
		{`not src=web`, store.TraceQuery{}, false},
		{`probe=false`, store.TraceQuery{}, false},
		{`probe`, store.TraceQuery{Attributes: []store.AttributeMatch{attr(flow.AttrProbe, "=", "true")}}, false},
		{`x.y=1`, store.TraceQuery{}, false},
		{`x.y`, store.TraceQuery{Attributes: []store.AttributeMatch{attr("x.y", "exists", "")}}, false},
		{``, store.TraceQuery{}, true},
	} {
		e, err := match.Parse(c.expr)
		if err != nil {
			t.Fatal(err)
		}
		got, exact := e.Query(store.TraceQuery{})
		if fmt.Sprint(got) != fmt.Sprint(c.want) || exact != c.exact {
			t.Errorf("%s:\n%+v %v, want\n%+v %v", c.expr, got, exact, c.want, c.exact)
		}
	}
}

// What Match says of a comparison of numbers, the pattern that the store is asked for allows: numbers of every form and length, around every bound.
func TestPatternsOfRanges(t *testing.T) {
	var texts []string
	for n := range 1200 {
		texts = append(texts, strconv.Itoa(n))
	}
	texts = append(texts, "-1", "-0", "+5", "5.5", "500.0", "5e2", "0x1f", "007", "00", "1000000", "9007199254740993", "99999999999999999999", "5ab", "abc", "5é", ".5")
	for _, bound := range []string{"0", "1", "9", "10", "11", "99", "100", "199", "200", "499", "500", "999", "1000", "1001", "499.5", "0.5", "-3", "1e3", "9007199254740993", "1e300"} {
		for _, op := range []string{"<", "<=", ">", ">=", "="} {
			checkRange(t, "status"+op+bound, texts)
		}
	}
	for _, expr := range []string{"status=5xx", "status in (200, 4xx)", "bytes.in in (1, 22, 333)", "attempts in (5.5, 2)"} {
		checkRange(t, expr, texts)
	}
}

func checkRange(t *testing.T, expr string, texts []string) {
	t.Helper()
	e, err := match.Parse(expr)
	if err != nil {
		t.Fatal(err)
	}
	q, exact := e.Query(store.TraceQuery{})
	meets, err := match.Meeting(q)
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	narrow := 0
	for _, text := range texts {
		s := store.Span{Attributes: map[string]string{flow.AttrStatus: text, flow.AttrBytesIn: text, flow.AttrAttempts: text}}
		matches, found := e.Match(&s), meets(&s)
		if exact { // of a column of whole numbers
			if n, err := strconv.ParseUint(text, 10, 63); err != nil || strconv.FormatUint(n, 10) != text {
				continue
			}
		}
		if matches && !found || exact && matches != found {
			t.Errorf("%s of %q: match says %t and the store %t (exact: %t)", expr, text, matches, found, exact)
		}
		if found && !matches && strings.Trim(text, "0123456789") == "" && (text == "0" || text[0] != '0') {
			narrow++
		}
	}
	if op := q.Attributes; len(op) > 0 && op[0].Op == "~" && narrow > 0 {
		t.Errorf("%s: the pattern lets %d whole numbers through that are not meant", expr, narrow)
	}
}

// fill stores n spans, several of each nanosecond, and returns them as the store gives them back.
func fill(t *testing.T, db store.Spans, n int) []store.Span {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	td := ptrace.NewTraces()
	for service := range 2 {
		rs := td.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr(flow.AttrServiceName, []string{"web", "cart"}[service])
		ss := rs.ScopeSpans().AppendEmpty().Spans()
		for i := range n / 2 {
			s := ss.AppendEmpty()
			s.SetTraceID(pcommon.TraceID{14: byte(i >> 10), 15: byte(1 + i>>2)})
			s.SetSpanID(pcommon.SpanID{0: byte(service + 1), 5: byte(i >> 16), 6: byte(i >> 8), 7: byte(i)})
			s.SetStartTimestamp(pcommon.Timestamp(1_700_000_000_000_000_000 + i/7))
			s.SetEndTimestamp(s.StartTimestamp() + pcommon.Timestamp(rng.IntN(5)*100))
			s.SetName(pick("GET a", "GET b"))
			a := s.Attributes()
			a.PutStr(flow.AttrKind, pick("exchange", "attempt"))
			a.PutStr(flow.AttrSourceService, pick("web", "cart"))
			if rng.IntN(2) == 0 {
				status := []int{200, 404, 503}[rng.IntN(3)]
				a.PutInt(flow.AttrStatus, int64(status))
				if status == 503 {
					s.Status().SetCode(ptrace.StatusCodeError) // as sidecars do
				}
			}
			if rng.IntN(3) == 0 {
				a.PutStr(flow.AttrReason, pick("denied", "upstream_5xx", "try_timeout"))
			}
			if rng.IntN(3) == 0 {
				a.PutBool(flow.AttrProbe, rng.IntN(2) == 0)
			}
			if rng.IntN(2) == 0 {
				a.PutStr("x.own", pick("1", "1.0", "two"))
			}
		}
	}
	if err := db.Write(t.Context(), td); err != nil {
		t.Fatal(err)
	}
	var all []store.Span
	for from := 0; ; from += 10 { // in pieces, so that no limit is met
		q := store.TraceQuery{Limit: 10_000, Start: time.Unix(0, 1_700_000_000_000_000_000+int64(from)).UTC(), End: time.Unix(0, 1_700_000_000_000_000_000+int64(from)+10).UTC()}
		if from > n {
			return all
		}
		if err := db.Spans(t.Context(), q, func(s store.Span) bool { all = append(all, s); return true }); err != nil {
			t.Fatal(err)
		}
	}
}

// What Search finds through the store's own predicates is what Match says of every span: no expression may lose any to what it asks the store for.
func TestSearchFindsWhatMatchSays(t *testing.T) {
	db, err := local.Open(local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	all := fill(t, db, 10_500)
	if len(all) != 10_500 {
		t.Fatalf("stored %d spans", len(all))
	}
	exprs := []string{
		``, `src=web`, `src!=web`, `status>=500`, `status=5xx`, `status=503`, `status!=503`, `status=0503`, `status=""`, `status!=""`, `status in (200,404)`, `failed`, `not failed`, `failed=false`,
		`reason`, `reason=""`, `reason!=denied`, `reason in (denied, try_timeout)`, `probe`, `probe=false`, `probe!=true`, `probe!=false`, `exists probe`, `x.own=1`, `x.own!=1`, `x.own>0`, `x.own~^1`,
		`duration=100ns`, `duration<100ns`, `duration<=0s`, `duration<1ns`, `duration>1ns and duration<300ns`, `name="GET a" and service=web`, `service!=web`, `kind=attempt and src=web or status=404`,
		`service=web and service=cart`, `src=web and src=web`, `not (status=503 and src=web)`,
	}
	for _, expr := range exprs {
		e, err := match.Parse(expr)
		if err != nil {
			t.Fatalf("%s: %v", expr, err)
		}
		want := map[string]bool{}
		for i := range all {
			if e.Match(&all[i]) {
				want[all[i].TraceID.String()+all[i].SpanID.String()] = true
			}
		}
		got, last := map[string]bool{}, time.Time{}
		res, err := match.Search(t.Context(), db, store.TraceQuery{}, e, 1_000_000, func(s *store.Span) bool {
			id := s.TraceID.String() + s.SpanID.String()
			if got[id] {
				t.Fatalf("%s: %s came twice", expr, id)
			}
			if !last.IsZero() && s.Start.After(last) {
				t.Fatalf("%s: not newest first", expr)
			}
			got[id], last = true, s.Start
			return true
		})
		if err != nil || res.Partial {
			t.Fatalf("%s: %+v, %v", expr, res, err)
		}
		if len(got) != len(want) {
			t.Errorf("%s: found %d spans, Match says %d", expr, len(got), len(want))
			continue
		}
		for id := range want {
			if !got[id] {
				t.Errorf("%s: %s was not found", expr, id)
				break
			}
		}
	}
}

func TestSearchEndsAtItsBudget(t *testing.T) {
	db, err := local.Open(local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	fill(t, db, 12_000)
	var none match.Expr
	for _, budget := range []int{1, 7, 8, 10_000, 10_001, 11_999} {
		n := 0
		res, err := match.Search(t.Context(), db, store.TraceQuery{}, none, budget, func(*store.Span) bool { n++; return true })
		if err != nil || n != budget || res.Looked != budget || !res.Partial {
			t.Errorf("budget %d: %d spans, %+v, %v", budget, n, res, err)
		}
	}
	n := 0
	if res, err := match.Search(t.Context(), db, store.TraceQuery{}, none, 50_000, func(*store.Span) bool { n++; return n < 5 }); err != nil || n != 5 || res.Partial {
		t.Errorf("a reader that has enough: %d, %+v, %v", n, res, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := match.Search(ctx, db, store.TraceQuery{}, none, 50_000, func(*store.Span) bool { return true }); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// The page for people names every field, and no other.
func TestReferenceNamesEveryField(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "reference", "match.md"))
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, f := range match.Fields() {
		means := ""
		if f.Means != "" {
			means = "`" + f.Means + "`"
		}
		want = append(want, strings.TrimRight(fmt.Sprintf("| `%s` | %s | %s | %s |", f.Name, f.Type, means, f.Help), " "))
	}
	var got []string
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "| `") && strings.Count(line, "|") == 5 {
			got = append(got, strings.TrimSpace(line))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the table of fields must be:\n%s\n\ngot:\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
}

// Whatever is typed, Parse answers with an expression that reads as itself, or an error that points into it.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`status>=500 and src=web or not (path~"^/x" or failed)`, `reason in (denied, "x")`, `a.b='c' && !d.e`, "x.y=`\n`", `exists path`, `(((`, `duration<1h`, `src="a\"b\\c\d"`, `status=5xx`, `not not not src`} {
		f.Add(s)
	}
	span := sample()
	f.Fuzz(func(t *testing.T, text string) {
		e, err := match.Parse(text)
		if err != nil {
			var me *match.Error
			if !errors.As(err, &me) || me.Column < 1 || me.Column > len([]rune(me.Expr))+1 || me.Text == "" {
				t.Fatalf("%q: %v", text, err)
			}
			_ = me.Pointer()
			return
		}
		written := e.String()
		again, err := match.Parse(written)
		if err != nil {
			if len(written) > match.MaxLength { // quotes and key words may make it longer
				return
			}
			t.Fatalf("%q is written %s, which cannot be read: %v", text, strconv.Quote(written), err)
		}
		if again.String() != written {
			t.Fatalf("%q is written %q, and that %q", text, written, again)
		}
		if e.Match(&span) != again.Match(&span) {
			t.Fatalf("%q means something else than %q", text, written)
		}
		q, exact := e.Query(store.TraceQuery{})
		if exact && len(q.Attributes) == 0 && q.Service == "" && q.Operation == "" && q.MinDuration == 0 && q.MaxDuration == 0 && !e.Match(&span) {
			t.Fatalf("%q restricts nothing by itself, and does not match", text)
		}
	})
}
