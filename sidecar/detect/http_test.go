package detect

import (
	"bytes"
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	long := "GET /" + strings.Repeat("a", 2*readSize)
	for _, c := range []struct {
		bytes   string
		spoken  Spoken
		decided bool
	}{
		{"", Silence, false},
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", HTTP1, true},
		{"GET / HTTP/1.0\n", HTTP1, true},
		{"\r\nPOST /x HTTP/1.1\r\n", HTTP1, true},
		{"M-SEARCH * HTTP/1.1\r\n", HTTP1, true},
		{"CONNECT a:1 HTTP/1.1\r\n", HTTP1, true},
		{"GET /a b HTTP/1.1\r\n", HTTP1, true}, // not valid, but HTTP: its speaker says so
		{"GET", HTTP1, false},
		{"GET / HTTP/1.1", HTTP1, false},
		{"P", Prefaced, false},
		{"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Prefaced, false},
		{preface, Prefaced, true},
		{preface + "more", Prefaced, true},
		{"PRI * HTTP/1.1\r\n", HTTP1, true},
		{long[:readSize], HTTP1, true},
		{"EHLO shop\r\n", Bytes, true},
		{"get key\r\n", Bytes, true},
		{"QUIT\r\n", Bytes, true},
		{"*1\r\n$4\r\nPING\r\n", Bytes, true},
		{"*1", HTTP1, false}, // as far as it goes, a token
		{"\x16\x03\x01\x02\x00", Bytes, true},
		{"\x00\x00\x00\x08\x04\xd2\x16\x2f", Bytes, true}, // PostgreSQL's SSLRequest
		{strings.Repeat("A", longestMethod+1), Bytes, true},
		{" / HTTP/1.1\r\n", Bytes, true},
	} {
		if s, d := classify([]byte(c.bytes)); s != c.spoken || d != c.decided {
			t.Errorf("classify(%.40q) = %d, %v; want %d, %v", c.bytes, s, d, c.spoken, c.decided)
		}
	}
}

// FuzzClassify: what was decided stays decided alike, however much more comes.
func FuzzClassify(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1\r\n", preface, "EHLO a\r\n", "\r\n\r\n", "*1\r\n", "\x16\x03"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), readSize)]
		var was Spoken
		decided := false
		for n := range len(b) + 1 {
			s, d := classify(b[:n])
			if decided && (s != was || !d) {
				t.Fatalf("%q was %d, and with more %q it is %d, %v", b[:n-1], was, bytes.TrimPrefix(b, b[:n-1]), s, d)
			}
			was, decided = s, d
		}
	})
}
