//go:build unix

package main

import (
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

//go:embed testdata/request/*.txt testdata/response/*.txt
var corpus embed.FS

// A corpus file holds cases:
//
//	-- name --
//	> GET /a            a message that must reach the service, exactly so
//	> POST /b "hello"   with this body
//	! 400               then Tulle refuses, with this status, and closes
//	! cut               then Tulle closes without another answer
//	? nginx node        these services may refuse the last message instead of seeing it
//	POST /b HTTP/1.1\r\n
//	...
//
// The lines behind the directives are the bytes to send, joined without the line ends of the file; \r, \n, \t, \\ and \xHH are escapes, and
// \{N:x} is x repeated N times. Lines that begin with '#' before the first case are comments.
//
// In a response file the bytes are what the service sends, "m HEAD" sets the method it is asked with, and "close" makes it close behind them:
//
//	> 200 "body"        what the caller must see
//	! 502               Tulle answers in the service's place
//	! cut               the caller must see that the response is not whole
type testCase struct {
	file, name string
	method     string    // response cases
	close      bool      // response cases: the service closes
	pass       []message // what must reach the service, in order
	refuse     string    // status, "cut", or ""
	mayRefuse  []string  // services that may refuse the last message
	bytes      string
}

// message is a request as a service sees it, or a response (target is its status) as a caller does.
type message struct{ method, target, body string }

func (m message) String() string {
	if m.body == "" {
		return m.method + " " + m.target
	}
	return fmt.Sprintf("%s %s %q", m.method, m.target, m.body)
}

// cases reads all files of testdata/kind.
func cases(kind string) ([]testCase, error) {
	files, err := fs.Glob(corpus, "testdata/"+kind+"/*.txt")
	if err != nil {
		return nil, err
	}
	var out []testCase
	seen := map[string]bool{}
	for _, file := range files {
		b, err := corpus.ReadFile(file)
		if err != nil {
			return nil, err
		}
		n := len(out)
		inBytes := false
		for i, line := range strings.Split(string(b), "\n") {
			fail := func(what string) error { return fmt.Errorf("%s:%d: %s: %q", file, i+1, what, line) }
			if name, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(name, " --") {
				name = strings.TrimSuffix(name, " --")
				if seen[kind+name] {
					return nil, fail("the name is used twice")
				}
				seen[kind+name] = true
				out = append(out, testCase{file: file, name: name, method: "GET"})
				inBytes = false
				continue
			}
			if len(out) == n { // before the first case
				if line != "" && line[0] != '#' {
					return nil, fail("want a comment or a case")
				}
				continue
			}
			c := &out[len(out)-1]
			if !inBytes {
				if known, err := c.directive(kind, line); err != nil {
					return nil, fail(err.Error())
				} else if known {
					continue
				}
				inBytes = true
			}
			s, err := unescape(line)
			if err != nil {
				return nil, fail(err.Error())
			}
			c.bytes += s
		}
	}
	for _, c := range out {
		if c.bytes == "" && !c.close || len(c.pass) == 0 && c.refuse == "" {
			return nil, fmt.Errorf("%s: %s: it says nothing, or not what is wanted", c.file, c.name)
		}
	}
	return out, nil
}

func (c *testCase) directive(kind, line string) (known bool, err error) {
	word, rest, _ := strings.Cut(line, " ")
	switch {
	case word == ">":
		m := message{}
		if kind == "request" {
			m.method, rest, _ = strings.Cut(rest, " ")
		}
		m.target, rest, _ = strings.Cut(rest, " ")
		if rest != "" {
			if m.body, err = strconv.Unquote(rest); err != nil {
				return true, fmt.Errorf("the body is not quoted")
			}
		}
		c.pass = append(c.pass, m)
	case word == "!":
		c.refuse = rest
	case word == "?" && kind == "request":
		c.mayRefuse = strings.Fields(rest)
	case word == "m" && kind == "response":
		c.method = rest
	case line == "close" && kind == "response":
		c.close = true
	default:
		return false, nil
	}
	return true, nil
}

func unescape(line string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(line); i++ {
		if line[i] != '\\' {
			b.WriteByte(line[i])
			continue
		}
		if i++; i == len(line) {
			return "", fmt.Errorf("a lone backslash")
		}
		switch line[i] {
		case 'r':
			b.WriteByte('\r')
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case '\\':
			b.WriteByte('\\')
		case 'x':
			if len(line)-i < 3 {
				return "", fmt.Errorf("\\x wants two digits")
			}
			v, err := strconv.ParseUint(line[i+1:i+3], 16, 8)
			if err != nil {
				return "", err
			}
			b.WriteByte(byte(v))
			i += 2
		case '{':
			count, rest, ok := strings.Cut(line[i+1:], ":")
			text, _, ok2 := strings.Cut(rest, "}")
			n, err := strconv.Atoi(count)
			if !ok || !ok2 || err != nil || n < 1 || n > 1<<20 {
				return "", fmt.Errorf("\\{ wants N:text}")
			}
			inner, err := unescape(text)
			if err != nil {
				return "", err
			}
			b.WriteString(strings.Repeat(inner, n))
			i += len(count) + len(text) + 2
		default:
			return "", fmt.Errorf("unknown escape \\%c", line[i])
		}
	}
	return b.String(), nil
}
