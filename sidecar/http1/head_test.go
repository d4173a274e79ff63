package http1

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// read finds and parses one request head as a connection does.
func read(b []byte, h *head) (int, *fault) {
	n, f := headEnd(b, 0)
	if f != nil || n == 0 {
		return n, f
	}
	if n > DefaultLimits.HeadBytes {
		return n, faultTooLarge
	}
	return n, h.parseRequest(b[:n:n], DefaultLimits)
}

func TestRequestHeads(t *testing.T) {
	const host = "Host: a\r\n"
	for _, c := range []struct {
		name, in string
		want     *fault // nil: accepted
	}{
		{"plain", "GET / HTTP/1.1\r\n" + host + "\r\n", nil},
		{"no host, 1.0", "GET / HTTP/1.0\r\n\r\n", nil},
		{"absolute form", "GET http://b:80/x?y HTTP/1.1\r\n" + host + "\r\n", nil},
		{"asterisk", "OPTIONS * HTTP/1.1\r\n" + host + "\r\n", nil},
		{"length", "POST / HTTP/1.1\r\n" + host + "Content-Length: 10\r\n\r\n", nil},
		{"chunked", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: Chunked\r\n\r\n", nil},
		{"ipv6", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", nil},
		{"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", nil},
		{"obs-text", "GET / HTTP/1.1\r\n" + host + "X: \xe4\r\n\r\n", nil},
		{"empty value", "GET / HTTP/1.1\r\n" + host + "X:\r\n\r\n", nil},

		{"no host", "GET / HTTP/1.1\r\n\r\n", faultHost},
		{"two hosts", "GET / HTTP/1.1\r\n" + host + host + "\r\n", faultHost},
		{"bad host", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", faultHost},
		{"user info in host", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", faultHost},
		{"host list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", faultHost},
		{"bad port", "GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n", faultHost},
		{"length and chunked", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", faultBothFramings},
		{"chunked and length", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", faultBothFramings},
		{"two lengths", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1\r\nContent-Length: 1\r\n\r\n", faultLength},
		{"length list", "POST / HTTP/1.1\r\n" + host + "Content-Length: 1, 1\r\n\r\n", faultLength},
		{"signed length", "POST / HTTP/1.1\r\n" + host + "Content-Length: +1\r\n\r\n", faultLength},
		{"hex length", "POST / HTTP/1.1\r\n" + host + "Content-Length: 0x1\r\n\r\n", faultLength},
		{"empty length", "POST / HTTP/1.1\r\n" + host + "Content-Length: \r\n\r\n", faultLength},
		{"huge length", "POST / HTTP/1.1\r\n" + host + "Content-Length: 9999999999999999999\r\n\r\n", faultLength},
		{"gzip coding", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: gzip, chunked\r\n\r\n", faultCoding},
		{"identity coding", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: identity\r\n\r\n", faultCoding},
		{"two codings", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", faultCoding},
		{"tab in coding", "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: \x0bchunked\r\n\r\n", faultFieldValue},
		{"coding in 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", faultOldCoding},
		{"space before colon", "GET / HTTP/1.1\r\n" + host + "X : 1\r\n\r\n", faultFieldName},
		{"no colon", "GET / HTTP/1.1\r\n" + host + "X\r\n\r\n", faultFieldName},
		{"empty name", "GET / HTTP/1.1\r\n" + host + ": 1\r\n\r\n", faultFieldName},
		{"fold", "GET / HTTP/1.1\r\n" + host + "X: 1\r\n 2\r\n\r\n", faultFold},
		{"fold of first line", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", faultFold},
		{"null in value", "GET / HTTP/1.1\r\n" + host + "X: a\x00b\r\n\r\n", faultFieldValue},
		{"bare cr in value", "GET / HTTP/1.1\r\n" + host + "X: a\rb\r\n\r\n", faultFieldValue},
		{"bare lf", "GET / HTTP/1.1\n" + host + "\r\n", faultLineEnd},
		{"bare lf at end", "GET / HTTP/1.1\r\n" + host + "\n", faultLineEnd},
		{"two spaces", "GET  / HTTP/1.1\r\n" + host + "\r\n", faultStartLine},
		{"space in target", "GET /a b HTTP/1.1\r\n" + host + "\r\n", faultStartLine},
		{"tab in start line", "GET\t/ HTTP/1.1\r\n" + host + "\r\n", faultStartLine},
		{"leading space", " GET / HTTP/1.1\r\n" + host + "\r\n", faultStartLine},
		{"no version", "GET /\r\n" + host + "\r\n", faultStartLine},
		{"http/2", "PRI * HTTP/2.0\r\n\r\n", faultVersion},
		{"1.2", "GET / HTTP/1.2\r\n" + host + "\r\n", faultVersion},
		{"lower-case version", "GET / http/1.1\r\n" + host + "\r\n", faultStartLine},
		{"connect", "CONNECT b:443 HTTP/1.1\r\n" + host + "\r\n", nil},
		{"connect, ipv6", "CONNECT [2001:db8::1]:443 HTTP/1.1\r\n" + host + "\r\n", nil},
		{"connect, origin form", "CONNECT /a HTTP/1.1\r\n" + host + "\r\n", faultConnect},
		{"connect, absolute form", "CONNECT http://a:443/ HTTP/1.1\r\n" + host + "\r\n", faultConnect},
		{"connect without port", "CONNECT a HTTP/1.1\r\n" + host + "\r\n", faultConnect},
		{"connect with empty port", "CONNECT a: HTTP/1.1\r\n" + host + "\r\n", faultConnect},
		{"connect without host", "CONNECT :443 HTTP/1.1\r\n" + host + "\r\n", faultConnect},
		{"connect, port too large", "CONNECT a:65536 HTTP/1.1\r\n" + host + "\r\n", faultConnect},
		{"connect with user info", "CONNECT u@a:443 HTTP/1.1\r\n" + host + "\r\n", faultConnect},
		{"connect with path", "CONNECT a:443/x HTTP/1.1\r\n" + host + "\r\n", faultConnect},
		{"connect, bare ipv6", "CONNECT ::1:443 HTTP/1.1\r\n" + host + "\r\n", faultConnect},
		{"connect with length", "CONNECT a:443 HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n", faultConnectBody},
		{"connect with chunks", "CONNECT a:443 HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n", faultConnectBody},
		{"connect without host field", "CONNECT a:443 HTTP/1.1\r\n\r\n", faultHost},
		{"expect", "POST / HTTP/1.1\r\n" + host + "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\n", nil},
		{"expect something else", "POST / HTTP/1.1\r\n" + host + "Expect: y 100-continue\r\nContent-Length: 1\r\n\r\n", faultExpect},
		{"expect twice", "POST / HTTP/1.1\r\n" + host + "Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n", faultExpect},
		{"absolute form with user info", "GET http://u:p@a/ HTTP/1.1\r\n" + host + "\r\n", faultTarget},
		{"absolute form with port only", "GET http://:80/ HTTP/1.1\r\n" + host + "\r\n", faultTarget},
		{"absolute form of another scheme", "GET ftp://a/ HTTP/1.1\r\n" + host + "\r\n", faultTarget},
		{"absolute form, bad host field", "GET http://a/ HTTP/1.1\r\nHost: b/c\r\n\r\n", faultHost},
		{"authority form", "GET a:80 HTTP/1.1\r\n" + host + "\r\n", faultTarget},
		{"escape in host", "GET / HTTP/1.1\r\nHost: a%2eb\r\n\r\n", faultHost},
		{"open bracket", "GET / HTTP/1.1\r\nHost: [\r\n\r\n", faultHost},
		{"no address in brackets", "GET / HTTP/1.1\r\nHost: [a]\r\n\r\n", faultHost},
		{"zone in brackets", "GET / HTTP/1.1\r\nHost: [fe80::1%eth0]\r\n\r\n", faultHost},
		{"host, port too large", "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n", faultHost},
		{"two ports", "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n", faultHost},
		{"bytes behind brackets", "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n", faultHost},
		{"relative target", "GET x HTTP/1.1\r\n" + host + "\r\n", faultTarget},
		{"fragment", "GET /#x HTTP/1.1\r\n" + host + "\r\n", faultTarget},
		{"asterisk for get", "GET * HTTP/1.1\r\n" + host + "\r\n", faultTarget},
		{"absolute without authority", "GET http:///x HTTP/1.1\r\n" + host + "\r\n", faultTarget},
		{"control in target", "GET /\x01 HTTP/1.1\r\n" + host + "\r\n", faultTarget},
		{"too many fields", "GET / HTTP/1.1\r\n" + host + strings.Repeat("X: 1\r\n", 100) + "\r\n", faultTooMany},
		{"too large", "GET / HTTP/1.1\r\n" + host + "X: " + strings.Repeat("a", 61<<10) + "\r\n\r\n", faultTooLarge},
	} {
		var h head
		n, f := read([]byte(c.in), &h)
		if f != c.want {
			t.Errorf("%s: got %v, want %v", c.name, f, c.want)
		} else if f == nil && n != len(c.in) {
			t.Errorf("%s: took %d of %d bytes", c.name, n, len(c.in))
		}
	}
}

func TestFieldsPassedOn(t *testing.T) {
	in := "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine, Host, upgrade\r\nX-Mine: 1\r\nKeep-Alive: 5\r\nA: 1\r\n" +
		"Traceparent: x\r\nX-Tulle-Reason: y\r\nTE: trailers\r\nUpgrade: h2c\r\nB:  2 \r\n\r\n"
	var h head
	if _, f := read([]byte(in), &h); f != nil {
		t.Fatal(f)
	}
	if got, want := string(h.appendFields(nil)), "Host: a\r\nA: 1\r\nB:  2 \r\n"; got != want {
		t.Errorf("passed on %q, want %q", got, want)
	}
	if !h.close || h.upgrade {
		t.Errorf("close %v, upgrade %v", h.close, h.upgrade)
	}
}

// passed is what goes upstream for a request head, without what the sidecar adds.
func passed(h *head) string {
	c := &conn{w: &work{}}
	c.w.req = *h
	x := &exchange.Exchange{}
	b := c.appendRequest(nil, x)
	i := bytes.Index(b, []byte("traceparent: "))
	return string(b[:i])
}

// TestRequestsPassedOn: the target is sent in the origin form, Host is that of the target, and the fields on which framing and routing rest have
// white space that nobody can misread.
func TestRequestsPassedOn(t *testing.T) {
	for in, want := range map[string]string{
		"GET /a/../b//c?x=//..%2e HTTP/1.1\r\nHost: a\r\n\r\n":                           "GET /b/c?x=//..%2e HTTP/1.1\r\nHost: a\r\n",
		"GET http://b:80/%7ex?y HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n":                     "GET /~x?y HTTP/1.1\r\nhost: b:80\r\nX: 1\r\n",
		"GET http://b HTTP/1.1\r\nHost: a\r\n\r\n":                                       "GET / HTTP/1.1\r\nhost: b\r\n",
		"GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n":                                     "GET /?q HTTP/1.1\r\nhost: b\r\n",
		"OPTIONS http://b HTTP/1.1\r\nHost: a\r\n\r\n":                                   "OPTIONS * HTTP/1.1\r\nhost: b\r\n",
		"OPTIONS http://b?q HTTP/1.1\r\nHost: a\r\n\r\n":                                 "OPTIONS /?q HTTP/1.1\r\nhost: b\r\n",
		"OPTIONS http://b/ HTTP/1.1\r\nHost: a\r\n\r\n":                                  "OPTIONS / HTTP/1.1\r\nhost: b\r\n",
		"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n":                                          "OPTIONS * HTTP/1.1\r\nHost: a\r\n",
		"GET / HTTP/1.0\r\n\r\n":                                                         "GET / HTTP/1.1\r\nhost: \r\n",
		"CONNECT b:443 HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n": "CONNECT b:443 HTTP/1.1\r\nhost: b:443\r\n",
		"POST / HTTP/1.1\r\nHost:\ta\r\nContent-Length:  1 \r\nX:  1 \r\n\r\n":           "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nX:  1 \r\n",
		"POST / HTTP/1.1\r\nhost:a\r\ntransfer-Encoding:\tchunked\t\r\n\r\n":             "POST / HTTP/1.1\r\nhost:a\r\ntransfer-Encoding: chunked\r\n",
	} {
		var h head
		if n, f := read([]byte(in), &h); f != nil || n != len(in) {
			t.Errorf("%q: %v", in, f)
		} else if got := passed(&h); got != want {
			t.Errorf("%q is passed on as\n%q, want\n%q", in, got, want)
		}
	}
}

// TestUpgradesPassedOn: no list of protocols in which HTTP/2 is hidden reaches the service.
func TestUpgradesPassedOn(t *testing.T) {
	for list, want := range map[string]bool{
		"websocket": true, "websocket, x": true, "h2c": false, "websocket, h2c": false, "websocket,\tH2C": false, "x,HTTP/2.0": false, "": false,
	} {
		var h head
		if _, f := read([]byte("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: "+list+"\r\n\r\n"), &h); f != nil || h.upgrade != want {
			t.Errorf("Upgrade: %s: passed on %t, want %t; %v", list, h.upgrade, want, f)
		}
	}
}

func TestChunks(t *testing.T) {
	for _, c := range []struct {
		name, in string
		data     int
		want     *fault
		rest     int // bytes that follow the body
	}{
		{"empty", "0\r\n\r\n", 0, nil, 0},
		{"one", "5\r\nhello\r\n0\r\n\r\n", 5, nil, 0},
		{"extensions", "1;a\r\nx\r\n1 ; a = \"b;\\\"\\\\ c\" \t;d;e=f\r\nx\r\n0;a=\"\"\r\n\r\n", 2, nil, 0},
		{"hex and extension", "a;x=y\r\n0123456789\r\n0\r\n\r\nGET", 10, nil, 3},
		{"trailer", "1\r\na\r\n0\r\nChecksum: 1\r\n\r\n", 1, nil, 0},
		{"leading zeros", "0000\r\n\r\n", 0, nil, 0},
		{"bare lf", "5\nhello\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"bare lf after data", "5\r\nhello\n0\r\n\r\n", 5, faultChunk, 0},
		{"data too long", "5\r\nhelloo\r\n0\r\n\r\n", 5, faultChunk, 0},
		{"sign", "+5\r\nhello\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"0x", "0x5\r\nhello\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"space", "5 \r\nhello\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"no size", "\r\nhello", 0, faultChunk, 0},
		{"size overflow", "fffffffffffffffff\r\n", 0, faultChunk, 0},
		{"cr in extension", "5;a\rb\r\nhello\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"lf in extension", "5;a\nb\r\nhello\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"extension without name", "1;\r\nx\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"two semicolons", "1;;a\r\nx\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"extension that ends in a space", "1;a \r\nx\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"value that ends in a space", "1;a=b \r\nx\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"extension without value", "1;a=\r\nx\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"two values", "1;a=b=c\r\nx\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"two names", "1;a b\r\nx\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"open quote", "1;a=\"b\r\nx\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"open escape", "1;a=\"b\\\r\nx\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"bytes behind a quote", "1;a=\"b\"c\r\nx\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"control byte in quotes", "1;a=\"\x00\"\r\nx\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"no token", "1;a=b/c\r\nx\r\n0\r\n\r\n", 0, faultChunk, 0},
		{"long extensions", strings.Repeat("1;a="+strings.Repeat("b", 4000)+"\r\nx\r\n", 3), 2, faultChunk, 0},
		{"trailer that authenticates", "0\r\nProxy-Authorization: 5\r\n\r\n", 0, faultTrailer, 0},
		{"trailer that frames", "0\r\nContent-Length: 5\r\n\r\n", 0, faultTrailer, 0},
		{"trailer that names the trace", "0\r\ntraceparent: 5\r\n\r\n", 0, faultTrailer, 0},
		{"trailer of ours", "0\r\nX-Tulle-Reason: 5\r\n\r\n", 0, faultTrailer, 0},
		{"long trailer of ours", "0\r\nX-Tulle-Something-Long: 5\r\n\r\n", 0, faultTrailer, 0},
		{"folded trailer", "0\r\nA: 1\r\n b\r\n\r\n", 0, faultTrailer, 0},
		{"long trailers", "0\r\nA: " + strings.Repeat("x", 9000) + "\r\n\r\n", 0, faultTrailer, 0},
	} {
		for _, piece := range []int{1, 3, len(c.in)} {
			var ch chunks
			var f *fault
			data, took := 0, 0
			for took < len(c.in) && !ch.done() && f == nil {
				var n, d int
				n, d, f = ch.scan([]byte(c.in[took:min(took+piece, len(c.in))]))
				took += n
				data += d
			}
			if f != c.want || data != c.data {
				t.Errorf("%s in pieces of %d: %d bytes, %v; want %d, %v", c.name, piece, data, f, c.data, c.want)
			} else if f == nil && (!ch.done() || len(c.in)-took != c.rest) {
				t.Errorf("%s in pieces of %d: done %v, %d bytes left, want %d", c.name, piece, ch.done(), len(c.in)-took, c.rest)
			}
		}
	}
}
