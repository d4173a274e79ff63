package match

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// A store finds texts by pattern and knows no order of numbers. What follows are patterns of all texts of numbers in a range: of whole numbers without a sign exactly, and
// of anything else that may be read as a number every text, since Match judges what was found.

// otherNumbers are texts of numbers that strconv does not write for a whole number from 0 on.
const otherNumbers = `0[0-9]+|.*[^0-9].*`

// ordered is the pattern for an ordered comparison with number; ok is false when it would be no help.
func ordered(op operator, number float64) (pattern string, ok bool) {
	switch op {
	case opMore:
		number = math.Floor(number) + 1
	case opAtLeast:
		number = math.Ceil(number)
	case opLess:
		number = math.Ceil(number) - 1
	default:
		number = math.Floor(number)
	}
	up := op == opMore || op == opAtLeast
	if !(number < 1<<53) || up && number <= 0 { // above, not every whole number is one of float64
		return "", false
	}
	list := []string{otherNumbers}
	switch {
	case up:
		list = append(list, atLeast(uint64(number)))
	case number >= 0:
		list = append(list, atMost(uint64(number)))
	}
	return "(?s:" + strings.Join(list, "|") + ")", true
}

// atLeast are the whole numbers from n on, without leading zeros.
func atLeast(n uint64) string {
	s := strconv.FormatUint(n, 10)
	list := []string{s, fmt.Sprintf("[1-9][0-9]{%d,}", len(s))}
	for i, d := range []byte(s) {
		if d < '9' {
			list = append(list, fmt.Sprintf("%s[%c-9][0-9]{%d}", s[:i], d+1, len(s)-1-i))
		}
	}
	return strings.Join(list, "|")
}

// atMost are the whole numbers up to n, without leading zeros.
func atMost(n uint64) string {
	s := strconv.FormatUint(n, 10)
	list := []string{s}
	if len(s) > 1 {
		list = append(list, "[0-9]")
	}
	if len(s) > 2 {
		list = append(list, fmt.Sprintf("[1-9][0-9]{1,%d}", len(s)-2))
	}
	for i, d := range []byte(s) {
		least := byte('0')
		if i == 0 && len(s) > 1 {
			least = '1'
		}
		if d > least {
			list = append(list, fmt.Sprintf("%s[%c-%c][0-9]{%d}", s[:i], least, d-1, len(s)-1-i))
		}
	}
	return strings.Join(list, "|")
}

// anyOf is the pattern for the values of "=", of which there are several or one that stands for many; ok is false when one of them cannot be said. exact says that what
// the pattern means is equal to one of them.
func (c *comparison) anyOf() (pattern string, exact, ok bool) {
	list := make([]string, 0, len(c.values)+1)
	exact = true
	for _, v := range c.values {
		switch {
		case v.text == "":
			return "", false, false
		case v.class != 0:
			list = append(list, fmt.Sprintf("%c[0-9]{2}", v.class))
		case c.field.Type != Number:
			list = append(list, regexp.QuoteMeta(v.text))
			continue
		case canonical(v.text):
			list = append(list, v.text)
		default:
			return "", false, false
		}
		exact = false
	}
	if !exact {
		list = append(list, otherNumbers)
	}
	return "(?s:" + strings.Join(list, "|") + ")", exact, true
}
