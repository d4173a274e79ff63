package schema

import (
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Bounds are what Fact.Range says so that a program can check it. It is written as people read it: "1 to 100", "10ms to 1m, off", "above 0, at most 1", "`a`, `b`", "at most 64 networks",
// "name", "address or socket", "absolute path". What else is said there is for people alone, and checked by package resource.
type Bounds struct {
	Min, Max string // numbers or durations; "": none
	Above    bool   // Min itself is not allowed
	Off      bool   // of durations: off is
	Words    []string
	Pattern  string // RE2, of the whole text
}

// Patterns of texts that are said by a word.
const (
	namePattern    = `^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`
	addressPattern = `^(localhost|[0-9.]+|\[[0-9A-Za-z:.%]+\]):[0-9]{1,5}$`
	socketPattern  = `^unix:[/@].+$`
	pathPattern    = `^/.*$`
)

var patterns = map[string]string{
	"name": namePattern, "address": addressPattern, "address or socket": strings.TrimSuffix(addressPattern, "$") + "$|" + socketPattern, "absolute path": pathPattern,
}

const (
	quantity = "(-?[0-9.]+(?:ms|s|m|h)?)"
	words    = "`[^`]+`(?:, `[^`]+`)*"
)

var (
	between = regexp.MustCompile("^" + quantity + "(?: \\(off\\))? to " + quantity + "\\b")
	from    = regexp.MustCompile("^" + quantity + " to `")
	upTo    = regexp.MustCompile("(?:^| )(?:to|at most|up to) " + quantity + "\\b")
	oneOf   = regexp.MustCompile("^(" + words + ")(?:, off)?$")
)

// Bounds reads f.Range.
func (f *Fact) Bounds() (b Bounds) {
	text := f.Range
	b.Off = strings.HasSuffix(text, ", off") || text == "off"
	if p, ok := patterns[text]; ok {
		b.Pattern = p
		return b
	}
	if m := oneOf.FindStringSubmatch(text); m != nil && !strings.Contains(text, "*") {
		for _, w := range strings.Split(m[1], ", ") {
			b.Words = append(b.Words, strings.Trim(w, "`"))
		}
		return b
	}
	if m := between.FindStringSubmatch(text); m != nil {
		b.Min, b.Max = m[1], m[2]
		return b
	}
	if strings.HasPrefix(text, "above 0") {
		b.Min, b.Above = "0", true
	}
	if m := from.FindStringSubmatch(text); m != nil {
		b.Min = m[1]
	}
	if m := upTo.FindStringSubmatch(text); m != nil {
		b.Max = m[1]
	}
	return b
}

// amount is a bound of a Duration in nanoseconds, or of a number.
func amount(t Type, text string) (float64, bool) {
	if t == Duration {
		d, err := time.ParseDuration(text)
		return float64(d), err == nil
	}
	v, err := strconv.ParseFloat(text, 64)
	return v, err == nil
}
