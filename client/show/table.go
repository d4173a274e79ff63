// Package show draws what the command line shows: tables, the waterfall of a trace, lists of events. It takes values and a writer, and
// asks nobody; colours only when told.
package show

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Style is how things are written; the zero value writes plain text.
type Style struct {
	Color bool // for terminals
	Wide  bool // all columns, however long the lines become
}

// SGR codes.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (s Style) paint(code, text string) string {
	text = Printable(text)
	if !s.Color || code == "" || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Printable replaces control characters: names and messages come from outside and must not steer the terminal.
func Printable(text string) string {
	if strings.IndexFunc(text, unicode.IsControl) < 0 {
		return text
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '·'
		}
		return r
	}, text)
}

// column is one of a table; the last is never padded.
type column struct {
	title string
	right bool // numbers
}

// cell is text with a colour.
type cell struct {
	text string
	code string
}

// table writes aligned columns, two spaces apart.
func (s Style) table(w io.Writer, cols []column, rows [][]cell) error {
	width := make([]int, len(cols))
	for i, c := range cols {
		width[i] = utf8.RuneCountInString(c.title)
	}
	for _, r := range rows {
		for i, c := range r {
			width[i] = max(width[i], utf8.RuneCountInString(c.text))
		}
	}
	var all strings.Builder
	line := func(cells []cell) {
		var b strings.Builder
		for i, c := range cells {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c.text))
			switch {
			case cols[i].right:
				b.WriteString(pad + s.paint(c.code, c.text))
			case i == len(cells)-1:
				b.WriteString(s.paint(c.code, c.text))
			default:
				b.WriteString(s.paint(c.code, c.text) + pad)
			}
			if i < len(cells)-1 {
				b.WriteString("  ")
			}
		}
		all.WriteString(strings.TrimRight(b.String(), " ") + "\n")
	}
	head := make([]cell, len(cols))
	for i, c := range cols {
		head[i] = cell{c.title, dim}
	}
	line(head)
	for _, r := range rows {
		line(r)
	}
	_, err := io.WriteString(w, all.String())
	return err
}

// Crop cuts a line of Style's to so many columns; colours cost none, and are ended.
func Crop(line string, width int) string {
	n := 0
	for i := 0; i < len(line); {
		if strings.HasPrefix(line[i:], "\x1b[") {
			end := strings.IndexByte(line[i:], 'm')
			if end < 0 {
				return line[:i]
			}
			i += end + 1
			continue
		}
		if n == width {
			if strings.Contains(line[:i], "\x1b[") {
				return line[:i] + "\x1b[0m"
			}
			return line[:i]
		}
		_, size := utf8.DecodeRuneInString(line[i:])
		i += size
		n++
	}
	return line
}
