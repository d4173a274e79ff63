package detect

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
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
		{strings.Repeat("\r\n", 5), HTTP1, false}, // what follows them decides
		{strings.Repeat("\r\n", 5) + "\x16", Bytes, true},
		{strings.Repeat("\r\n", readSize/2), HTTP1, true},
		{strings.Repeat("\r\n", readSize/2-12) + strings.Repeat("A", 24), HTTP1, true}, // within a method, and no more will be seen
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

// hooked is a connection with an eye on how it is used.
type hooked struct {
	net.Conn
	read     func(p []byte)
	deadline func()
}

func (h *hooked) Read(p []byte) (int, error) {
	if h.read != nil {
		h.read(p)
	}
	return h.Conn.Read(p)
}

func (h *hooked) SetReadDeadline(t time.Time) error {
	if f := h.deadline; f != nil {
		h.deadline = nil
		f()
	}
	return h.Conn.SetReadDeadline(t)
}

// However a caller fills the buffer, HTTP decides, and never reads into nothing: of a socket that returns at once, whatever its deadline.
func TestFullBuffer(t *testing.T) {
	for name, sent := range map[string]string{
		"empty lines":                 strings.Repeat("\r\n", readSize/2),
		"a method behind empty lines": strings.Repeat("\r\n", readSize/2-12) + strings.Repeat("A", 24),
		"a target":                    "GET /" + strings.Repeat("a", readSize-5),
	} {
		for _, before := range []int{0, 7, readSize} { // read already
			synctest.Test(t, func(t *testing.T) {
				near, away := net.Pipe()
				defer near.Close()
				defer away.Close()
				sess := &exchange.Session{Buffered: []byte(sent[:before]), Conn: &hooked{Conn: near, read: func(p []byte) {
					if len(p) == 0 {
						t.Errorf("%s: a read into nothing", name)
						_ = near.Close()
					}
				}}}
				go func() { _, _ = io.WriteString(away, sent[before:]) }()
				began := time.Now()
				if got, _ := HTTP(sess, time.Minute, Bytes); got != HTTP1 || string(sess.Buffered) != sent {
					t.Errorf("%s: %d, with %d bytes in the buffer", name, got, len(sess.Buffered))
				}
				if took := time.Since(began); took != 0 {
					t.Errorf("%s: it took %v", name, took)
				}
				synctest.Wait()
			})
		}
	}
}

// A drain while HTTP gets ready to wait is not overwritten by its deadline.
func TestHTTPDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, away := net.Pipe()
		defer near.Close()
		defer away.Close()
		h := &hooked{Conn: near}
		sess := &exchange.Session{Conn: h}
		h.deadline = sess.Drain
		began := time.Now()
		if got, _ := HTTP(sess, time.Hour, Bytes); got != Left || time.Since(began) != 0 {
			t.Errorf("%d after %v", got, time.Since(began))
		}
	})
}

// What a caller sends in time decides; silence, and a stop within what may become a request, wait for the time-out and no longer.
func TestHTTPTimeout(t *testing.T) {
	for _, c := range []struct {
		sent  []string // with 100 ms before each
		doubt Spoken
		want  Spoken
		late  bool
		took  time.Duration
	}{
		{nil, Bytes, Silence, true, time.Second},
		{nil, HTTP1, Silence, true, time.Second},
		{[]string{"GET / HT", "TP/1.1\r\n"}, Bytes, HTTP1, false, 200 * time.Millisecond},
		{[]string{"GET / HT"}, Bytes, Bytes, true, time.Second},
		{[]string{"GET / HT"}, HTTP1, HTTP1, true, time.Second},
		{[]string{"PRI * HTTP/2.0\r\n"}, Bytes, Bytes, true, time.Second},
		{[]string{"A", "U", "TH x\r\n"}, HTTP1, Bytes, false, 300 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			near, away := net.Pipe()
			defer near.Close()
			defer away.Close()
			sess := &exchange.Session{Conn: near}
			go func() {
				for _, s := range c.sent {
					time.Sleep(100 * time.Millisecond)
					_, _ = io.WriteString(away, s)
				}
			}()
			began := time.Now()
			spoken, late := HTTP(sess, time.Second, c.doubt)
			if took := time.Since(began); spoken != c.want || late != c.late || took != c.took || string(sess.Buffered) != strings.Join(c.sent, "") {
				t.Errorf("%q: %d, late %v, after %s, %q buffered; want %d, %v, %s", c.sent, spoken, late, took, sess.Buffered, c.want, c.late, c.took)
			}
			synctest.Wait()
		})
	}
}
