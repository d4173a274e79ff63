package match_test

import (
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/store/match"
)

var small = match.NewVocabulary([]match.Field{
	{Name: "ns"}, {Name: "name"}, {Name: "err", Type: match.Share}, {Name: "mtls", Type: match.Flag}, {Name: "kind", Values: []string{"service", "tcp"}}, {Name: "p99", Type: match.Duration},
}, [2]string{"namespace", "ns"})

// what a subject says, for tests.
type says map[string]any

func (s says) Text(f *match.Field) string { t, _ := s[f.Name].(string); return t }

func (s says) Measure(f *match.Field) float64 {
	v, ok := s[f.Name].(float64)
	if !ok {
		return nan
	}
	return v
}

var nan = func() float64 { z := 0.0; return z / z }()

// Subjects other than spans are judged by the same grammar in their own words.
func TestOtherSubjects(t *testing.T) {
	s := says{"ns": "shop", "err": 0.02, "mtls": "true", "p99": 5e6}
	for expr, want := range map[string]bool{
		``: true, `err > 1% and ns = shop`: true, `err > 2%`: false, `err >= 2`: true, `err = 2%`: true, `err < 0.5%`: false, `not (err > 1% or ns = x)`: false, `mtls`: true, `mtls=false`: false,
		`p99 > 4ms`: true, `p99 >= 5ms and p99 <= 5ms`: true, `name = ""`: true, `kind in (tcp, service)`: false, `exists err`: true, `exists name`: false, `ns ~ ^sh`: true,
	} {
		e, err := small.Parse(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		if got := e.Holds(s); got != want {
			t.Errorf("%s: %t", expr, got)
		}
		if again, err := small.Parse(e.String()); err != nil || again.String() != e.String() {
			t.Errorf("%s is written %s: %v", expr, e, err)
		}
	}
	for expr, want := range map[string]string{
		`err > much`: `column 7: "much" is no share`, `kind = mesh`: "there are service tcp", `namespace=x`: "perhaps ns is meant", `http.route=x`: "fields are err kind", `ns > 3`: "has no order",
		`= 3`: "such as ns, name or err",
	} {
		if _, err := small.Parse(expr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", expr, err)
		}
	}
}

func TestComplete(t *testing.T) {
	values := func(f *match.Field) []string {
		if f.Name == "ns" {
			return []string{"shop", "shop two", "bank"}
		}
		return nil
	}
	for text, want := range map[string]string{
		``:                    `|ns name err mtls kind p99 not`,
		`n`:                   `|ns name not`,
		`ns`:                  `|`,
		`ns `:                 `ns |= != ~ !~ in and or`,
		`err `:                `err |> >= < <= = != and or`,
		`mtls `:               `mtls |and or`,
		`ns =`:                `ns =|shop "shop two" bank`,
		`ns = s`:              `ns = |shop "shop two"`,
		`ns = "sh`:            `ns = |shop "shop two"`,
		`ns = shop`:           `ns = |"shop two"`,
		`ns = shop `:          `ns = shop |and or`,
		`ns = shop a`:         `ns = shop |and`,
		`ns = shop and k`:     `ns = shop and |kind`,
		`ns = shop and (`:     `ns = shop and (|ns name err mtls kind p99 not`,
		`kind in (`:           `kind in (|service tcp`,
		`kind in (tcp, s`:     `kind in (tcp, |service`,
		`kind not in (tcp,`:   `kind not in (tcp,|service tcp`,
		`kind in (tcp) `:      `kind in (tcp) |and or`,
		`mtls = `:             `mtls = |true false`,
		`exists `:             `exists |ns name err mtls kind p99`,
		`not e`:               `not |err`,
		`err > 1% `:           `err > 1% |and or`,
		`(ns = shop) o`:       `(ns = shop) |or`,
		`ns = shop and kind `: `ns = shop and kind |= != ~ !~ in and or`,
	} {
		before, list := small.Complete(text, values)
		got := make([]string, len(list))
		for i, s := range list {
			got[i] = s.Text
		}
		if s := before + "|" + strings.Join(got, " "); s != want {
			t.Errorf("%q: %q, want %q", text, s, want)
		}
	}
}

func FuzzComplete(f *testing.F) {
	for _, s := range []string{"", "ns = \"", "kind in (a, b", "not not !", "a'", "ns=shop)))", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		before, list := small.Complete(text, nil)
		if !strings.HasPrefix(text, before) {
			t.Errorf("%q: what stays is %q", text, before)
		}
		for _, s := range list {
			if s.Text == "" {
				t.Errorf("%q: an empty word", text)
			}
		}
	})
}
