//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// The conversation: every request carries an id of its own, and the answer's body must begin with it and go on with the pattern, so that an answer that
// was dropped, cut, doubled, altered or given to somebody else is seen.

const (
	idName   = "x-bench: "
	idDigits = 16
)

// pattern is the body of size bytes that the backend answers with; the first idDigits bytes are overwritten with the id.
func pattern(size int) []byte {
	b := make([]byte, size)
	state := uint32(size)
	for i := range b {
		state = state*1664525 + 1013904223 // Numerical Recipes' generator: any reproducible bytes would do that are not all alike
		b[i] = byte(state >> 24)
	}
	return b
}

// putID writes id as idDigits hex digits.
func putID(b []byte, id uint64) {
	const digits = "0123456789abcdef"
	for i := idDigits - 1; i >= 0; i-- {
		b[i] = digits[id&15]
		id >>= 4
	}
}

// newRequest is a request for a body of size bytes, as a program would send it, and where in it the id is written.
func newRequest(size int, last bool) (text []byte, idAt int) {
	end := "keep-alive"
	if last {
		end = "close"
	}
	text = fmt.Appendf(nil, "GET /%d HTTP/1.1\r\nhost: backend.bench\r\nuser-agent: bench/1.0\r\naccept: */*\r\naccept-encoding: gzip, deflate, br\r\nconnection: %s\r\n%s",
		size, end, idName)
	idAt = len(text)
	text = append(text, "0000000000000000\r\n\r\n"...)
	return text, idAt
}

// answer is what the verifier expects: a 200 with this body, into which it writes the id.
type answer struct {
	body []byte
}

var (
	headEnd    = []byte("\r\n\r\n")
	lengthName = [][]byte{[]byte("\r\ncontent-length: "), []byte("\r\nContent-Length: ")}
	okStatus   = []byte("HTTP/1.1 200")
)

// verify judges what has come of the answer to request id. Done: it is whole and right. An error: it is wrong, whatever may still come. Neither: more has
// to come.
func (a *answer) verify(got []byte, id uint64) (done bool, err error) {
	end := bytes.Index(got, headEnd)
	if end < 0 {
		if len(got) > 32<<10 {
			return false, errors.New("a head of more than 32 KiB")
		}
		return false, nil
	}
	head, body := got[:end+2], got[end+len(headEnd):]
	if !bytes.HasPrefix(head, okStatus) {
		line, _, _ := bytes.Cut(head, []byte("\r\n"))
		return false, fmt.Errorf("answered %q", line)
	}
	length, err := contentLength(head)
	if err != nil {
		return false, err
	}
	if length != len(a.body) {
		return false, fmt.Errorf("an answer of %d bytes, %d were expected", length, len(a.body))
	}
	if len(body) < length {
		return false, nil
	}
	if len(body) > length {
		return false, fmt.Errorf("%d bytes after the end of the answer: %q", len(body)-length, body[length:min(len(body), length+40)])
	}
	putID(a.body, id)
	err = a.same(body)
	return err == nil, err
}

// same judges a whole body; a's has the id that must be in it.
func (a *answer) same(body []byte) error {
	if bytes.Equal(body, a.body) {
		return nil
	}
	if !bytes.Equal(body[:idDigits], a.body[:idDigits]) {
		return fmt.Errorf("the answer to request %q came for request %q", body[:idDigits], a.body[:idDigits])
	}
	for i := idDigits; ; i++ {
		if body[i] != a.body[i] {
			return fmt.Errorf("the body differs from byte %d on", i)
		}
	}
}

// contentLength reads the length, which every proxy here passes on in one of two spellings.
func contentLength(head []byte) (int, error) {
	for _, name := range lengthName {
		if at := bytes.Index(head, name); at >= 0 {
			value, _, _ := bytes.Cut(head[at+len(name):], []byte("\r"))
			n, err := strconv.Atoi(string(value))
			if err != nil || n < 0 {
				return 0, fmt.Errorf("content-length %q", value)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("an answer without content-length: %q", head)
}
