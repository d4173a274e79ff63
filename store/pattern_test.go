package store_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"testing/quick"

	"github.com/tulle-mesh/tulle/store"
)

// A pattern that cannot be read is named, with the character at which it cannot be.
func TestPatternErrors(t *testing.T) {
	for text, want := range map[string]string{
		`a(b`:          `pattern "a(b": bad query: column 2: missing closing )`,
		`é(b[(]\((x)`:  `pattern "é(b[(]\\((x)": bad query: column 2: missing closing )`,
		`[]](a))`:      `pattern "[]](a))": bad query: column 7: unexpected )`,
		`\Q((\E(a))`:   `pattern "\\Q((\\E(a))": bad query: column 10: unexpected )`,
		`*`:            `pattern "*": bad query: column 1: missing argument to repetition operator: *`,
		`\*a|*`:        `pattern "\\*a|*": bad query: column 5: missing argument to repetition operator: *`,
		`a**`:          `pattern "a**": bad query: column 2: invalid nested repetition operator: **`,
		`ab[c-a]`:      `pattern "ab[c-a]": bad query: column 4: invalid character class range: c-a`,
		`ab[c`:         `pattern "ab[c": bad query: column 3: missing closing ]: [c`,
		`a{2000}`:      `pattern "a{2000}": bad query: column 2: invalid repeat count: {2000}`,
		`(?<n>a)(?=b)`: `pattern "(?<n>a)(?=b)": bad query: column 8: invalid or unsupported Perl syntax: (?=`,
		`\d\k`:         `pattern "\\d\\k": bad query: column 3: invalid escape sequence: \k`,
		`ab\`:          `pattern "ab\\": bad query: column 3: trailing backslash at end of expression: write two for one that is meant`,
		"ab\xff":       `pattern "ab\xff": bad query: column 3: invalid UTF-8`,
		`\pX`:          `pattern "\\pX": bad query: column 1: invalid character class range: \pX`,
		`a)|(b`:        `pattern "a)|(b": bad query: column 2: unexpected )`,
		strings.Repeat("é", store.MaxPattern/2) + "x": `bad query: it has 8193 bytes; at most 8192 can be read`,
	} {
		_, err := store.ParsePattern(text)
		if !errors.Is(err, store.ErrBadQuery) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%.40q:\n got %.200v\nwant %s", text, err, want)
		}
	}
}

// What a pattern means is what Prometheus' matchers mean by it, and its prefix is one of all that it means.
func TestPatternMeans(t *testing.T) {
	patterns := []string{
		``, `a`, `a|ab`, `a|`, `ab.*`, `.*ab`, `.*ab.*`, `(.*ab).*`, `.*`, `.+`, `(?-s:.*)a`, `(?-s:.*)`, `.*?b`, `(?i)AB|b+`, `^ab$`, `a^b`, `.*^a`, `a$.*`, `(?m)^b$`, `(?m).*^b$.*`,
		`(?s:.*)(?-s:^a.)(?s:.*)`, `(?s:.*)(?-s:a.b)(?s:.*)`, `a\b.*`, `.*.*b`, `(.*)(.*)`, `(a.*|.*b)`, `.*a|b.*`, `(?:.*)b*`, `[^a]*`, `\x00.*`, `(?U).*a`, `.*é?.*a`, `a{2,3}.*`, `((.*)a)`, `(.*){2}b`,
	}
	texts := []string{"", "a", "ab", "b", "aab", "a\nb", "ab\n", "b\na", "AB", "é", "ab é", "\xff", "a\xffb", "\x00a", "aaab", "bbb"}
	check := func(pattern, text string) bool {
		p, err := store.ParsePattern(pattern)
		if err != nil {
			t.Fatal(err)
		}
		want := regexp.MustCompile("^(?s:" + pattern + ")$").MatchString(text)
		prefix, only := p.Prefix()
		if p.Match(text) != want || p.MatchBytes([]byte(text)) != want || want && !strings.HasPrefix(text, prefix) || only && want != (text == prefix) {
			t.Errorf("%q of %q: %v, want %v (prefix %q, only %v)", pattern, text, p.Match(text), want, prefix, only)
			return false
		}
		return true
	}
	for _, p := range patterns {
		for _, text := range texts {
			check(p, text)
		}
	}
	// Of any two patterns together, and any text of their characters.
	if err := quick.Check(func(i, j uint, or bool, by []byte) bool {
		a, b := patterns[i%uint(len(patterns))], patterns[j%uint(len(patterns))]
		if a = "(?:" + a + ")"; or {
			a += "|"
		}
		text := make([]byte, len(by)%12)
		for k := range text {
			text[k] = "ab\nA \xffé"[by[k]%8]
		}
		return check(a+b, string(text))
	}, &quick.Config{MaxCount: 20_000}); err != nil {
		t.Error(err)
	}
}

func BenchmarkPattern(b *testing.B) {
	for _, pattern := range []string{`/items/8.*`, `.*8\d`, `(?s:.*)(?-s:^/items/8)(?s:.*)`, `GET|POST`} {
		b.Run(pattern, func(b *testing.B) {
			p, err := store.ParsePattern(pattern)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				p.Match("/items/8213")
			}
		})
	}
}
