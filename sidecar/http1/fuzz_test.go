package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"regexp"
	"strings"
	"testing"
)

// The fuzz targets of this file read the same bytes as net/http and judge where both disagree. The tables below are the whole list:
//
//   - stricter: what this package refuses and net/http may accept. A refusal ends the connection and nothing reaches the service, so that a
//     disagreement of this kind cannot move a message's end; the reason says why the refusal is right.
//   - looser: what this package accepts and net/http refuses; each must be harmless by itself.
//
// A disagreement that is in no table fails the target: a fault that is not in the first one is refused by both, always.

// stricterRequest are the faults of request heads with which net/http may disagree.
var stricterRequest = map[*fault]string{
	faultStartLine:    "net/http splits at the first and last space, so that its target may hold spaces: two parsers, two targets",
	faultVersion:      "net/http's reader leaves it to its server to refuse HTTP/2.0 and the like",
	faultLineEnd:      "RFC 9112, section 2.2 allows to take a bare LF for a line end; who does not sees other lines than who does",
	faultTarget:       "net/http takes non-ASCII bytes, backslashes and fragments that are no part of a target; and schemes that are not HTTP",
	faultEscape:       "net/http's url accepts %00",
	faultRoot:         "net/http leaves it to its ServeMux, which drops the segments",
	faultDots:         "net/http knows no separator but '/'",
	faultConnect:      "net/http leaves the port to the handler",
	faultConnectBody:  "net/http reads no body of CONNECT but hands the fields to the handler: it depends on the handler what the bytes are",
	faultFieldValue:   "net/http's reader accepts control bytes and leaves them to its server",
	faultFieldName:    "net/http's reader takes names with spaces for names and leaves them to its server: a space before the colon hides a name from others",
	faultFold:         "obs-fold: net/http joins the lines (RFC 9112, section 5.2 allows both)",
	faultHost:         "net/http's reader takes the first Host and leaves the others, and what they may hold, to its server",
	faultLength:       "net/http takes equal repeated lengths for one",
	faultBothFramings: "net/http lets chunked win and drops the length (RFC 9112, section 6.3 allows both, and calls it a sign of smuggling)",
	faultOldCoding:    "net/http ignores the coding of an HTTP/1.0 message, so that the body has no length",
	faultExpect:       "net/http leaves it to its server, which answers 417 too",
	faultTooMany:      "a limit of ours",
	faultTooLarge:     "a limit of ours",
}

var stricterResponse = map[*fault]string{
	faultStartLine:    "net/http takes any three digits and any bytes in the reason",
	faultVersion:      "net/http's reader takes every version",
	faultLineEnd:      stricterRequest[faultLineEnd],
	faultFieldValue:   stricterRequest[faultFieldValue],
	faultFieldName:    stricterRequest[faultFieldName],
	faultFold:         stricterRequest[faultFold],
	faultHost:         "a response has no Host; two are refused as in a request",
	faultLength:       "net/http takes equal repeated lengths for one, and ignores the length of a response that has no body",
	faultBothFramings: stricterRequest[faultBothFramings],
	faultOldCoding:    stricterRequest[faultOldCoding],
	faultCoding:       "net/http ignores the coding of a response that has no body",
	faultExpect:       "a response has no Expect; a service that sends one is not understood",
	faultTooMany:      "a limit of ours",
	faultTooLarge:     "a limit of ours",
}

// stricterChunk are the reasons why a chunked body that net/http accepts is refused, by what is looked for in its framing.
var stricterChunk = []struct {
	shape  *regexp.Regexp
	reason string
}{
	{regexp.MustCompile(`^[0-9a-fA-F]{16}`), "16 digits of a size: more than 2^60 bytes, or zeros that nobody needs"},
	{regexp.MustCompile(`^[0-9a-fA-F]+[ \t]+\r?\n`), "net/http cuts white space behind a size"},
	{regexp.MustCompile(`^[0-9a-fA-F]+[ \t]*;`), "net/http does not look at extensions, in which bytes may hide that others take for the end of the line"},
	{regexp.MustCompile(`^[0-9a-fA-F]+[^\r\n]*\n`), "net/http takes a bare LF for the end of the line (RFC 9112, section 2.2 does not extend to chunks)"},
}

// looserRequest are the errors of net/http for heads that are accepted here.
var looserRequest = []struct {
	err    string // part of it
	reason string
}{
	{`bad trailer key`, "the Trailer field only announces: whether a trailer may be sent is judged when it comes"},
	{`invalid URI for request`, "net/http/url refuses bytes in the query, or a host of a target, that the service is free to judge"},
}

var looserResponse = []struct {
	err    string
	reason string
}{
	{`bad trailer key`, "the Trailer field only announces: whether a trailer may be sent is judged when it comes"},
}

var looserChunk = []struct {
	err    string
	shape  *regexp.Regexp // somewhere in the body
	reason string
}{
	{"chunked encoding contains too much non-data", regexp.MustCompile(""), "net/http bounds framing against data; here the extensions of a body are bounded by themselves"},
	{
		"invalid byte in chunk length", regexp.MustCompile(`[0-9a-fA-F][ \t]+;`),
		"white space before an extension is of the grammar (RFC 9112, section 7.1.1, BWS); who dislikes it refuses the whole message and closes",
	},
}

// inPieces finds the end of a head that arrives in pieces, as a connection does.
func inPieces(b []byte, step int) (int, *fault) {
	for have, from := min(step, len(b)), 0; ; have = min(have+step, len(b)) {
		if n, f := headEnd(b[:have], from); n > 0 || f != nil || have == len(b) {
			return n, f
		}
		from = have
	}
}

// FuzzRequestHead: a request head means the same to this package, to net/http, and to both again when it is passed on.
func FuzzRequestHead(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST /x?y=1 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
		"PUT http://b/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX-A: 1\r\n\r\n0\r\n\r\n",
		"OPTIONS * HTTP/1.0\r\n\r\n",
		"CONNECT [::1]:443 HTTP/1.1\r\nHost:\ta \r\n\r\n",
		"GET /%2e/a//b HTTP/1.1\r\nHost: a\r\nConnection: upgrade, x\r\nUpgrade: websocket\r\nX: 1\r\nExpect: 100-continue\r\nContent-Length:  0\t\r\n\r\n",
	} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		n, flt := headEnd(in, 0)
		if n2, f2 := inPieces(in, int(piece%13)+1); n2 != n || f2 != flt {
			t.Fatalf("%q in pieces of %d: %d, %v; whole: %d, %v", in, int(piece%13)+1, n2, f2, n, flt)
		}
		if n == 0 && flt == nil {
			return
		}
		var h head
		if flt == nil {
			flt = h.parseRequest(bytes.Clone(in[:n]), DefaultLimits)
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
		if flt != nil {
			if _, ok := stricterRequest[flt]; err == nil && !ok {
				t.Fatalf("we say %v, net/http accepts %q", flt, in)
			}
			return
		}
		if err != nil {
			for _, l := range looserRequest {
				if strings.Contains(err.Error(), l.err) {
					return
				}
			}
			t.Fatalf("we accept %q, net/http says %v", in[:n], err)
		}
		sameRequest(t, &h, r, in[:n])
		if want := h.str(h.author); r.Host != want {
			t.Errorf("authority %q, net/http %q, for %q", want, r.Host, in[:n])
		}

		// What is sent on says the same, to both, once more.
		sent := []byte(passed(&h) + "\r\n")
		var h2 head
		if n2, f2 := read(bytes.Clone(sent), &h2); f2 != nil || n2 != len(sent) {
			t.Fatalf("%q is passed on as %q: %d, %v", in[:n], sent, n2, f2)
		}
		if h2.str(h2.method) != h.str(h.method) || h2.pathString() != h.pathString() || h2.str(h2.author) != h.str(h.author) ||
			h2.chunked != h.chunked || h2.length != h.length || h2.minor != 1 || h2.expect != h.expect || h2.close || h2.upgrade {
			t.Errorf("%q is passed on as %q, which is something else", in[:n], sent)
		}
		r2, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(sent)))
		if err != nil {
			t.Fatalf("%q is passed on as %q: %v", in[:n], sent, err)
		}
		sameRequest(t, &h, r2, sent)
		if got := r2.URL.Path; !h.connect && len(r2.RequestURI) > 0 && r2.RequestURI[0] == '/' && !strings.HasPrefix(r2.RequestURI, h.pathString()) {
			t.Errorf("path %q, net/http %q of %q", h.pathString(), got, sent)
		}
	})
}

func sameRequest(t *testing.T, h *head, r *http.Request, b []byte) {
	t.Helper()
	if r.Method != h.str(h.method) {
		t.Errorf("method %q, net/http %q", h.str(h.method), r.Method)
	}
	chunked := len(r.TransferEncoding) == 1
	if chunked != h.chunked {
		t.Errorf("chunked %v, net/http %v, for %q", h.chunked, chunked, b)
	}
	if !chunked && max(h.length, 0) != r.ContentLength {
		t.Errorf("length %d, net/http %d, for %q", h.length, r.ContentLength, b)
	}
}

// FuzzResponseHead: likewise for a response head.
func FuzzResponseHead(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\nTrailer: a\r\n\r\n0\r\n\r\n",
		"HTTP/1.0 304 \r\nConnection: close\r\n\r\n",
		"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nx-tulle-reason: shed\r\nContent-Length:\t0 \r\n\r\n",
	} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, in []byte, piece uint8) {
		n, flt := headEnd(in, 0)
		if n2, f2 := inPieces(in, int(piece%13)+1); n2 != n || f2 != flt {
			t.Fatalf("%q in pieces of %d: %d, %v; whole: %d, %v", in, int(piece%13)+1, n2, f2, n, flt)
		}
		if n == 0 && flt == nil {
			return
		}
		var h head
		if flt == nil {
			flt = h.parseResponse(bytes.Clone(in[:n]), MeshLimits)
		}
		r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), nil)
		if flt != nil {
			if _, ok := stricterResponse[flt]; err == nil && !ok {
				t.Fatalf("we say %v, net/http accepts %q", flt, in)
			}
			return
		}
		if err != nil {
			for _, l := range looserResponse {
				if strings.Contains(err.Error(), l.err) {
					return
				}
			}
			t.Fatalf("we accept %q, net/http says %v", in[:n], err)
		}
		sameResponse(t, &h, r, in[:n])
		sent := append(h.appendFields(h.appendStatusLine(nil)), "\r\n"...)
		if plain(&h) && h.minor == 1 { // it is relayed as it came; a reason is added where there is none
			whole := string(in[:n])
			if whole[12] == '\r' {
				whole = whole[:12] + " " + whole[12:]
			}
			if string(sent) != whole {
				t.Errorf("%q is plain, but made anew as %q", whole, sent)
			}
		}
		var h2 head
		if f2 := h2.parseResponse(bytes.Clone(sent), MeshLimits); f2 != nil || h2.status != h.status || h2.length != h.length || h2.chunked != h.chunked {
			t.Fatalf("%q is passed on as %q: %v, status %d, length %d, chunked %t", in[:n], sent, f2, h2.status, h2.length, h2.chunked)
		}
		r2, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(sent)), nil)
		if err != nil {
			t.Fatalf("%q is passed on as %q: %v", in[:n], sent, err)
		}
		sameResponse(t, &h, r2, sent)
	})
}

func sameResponse(t *testing.T, h *head, r *http.Response, b []byte) {
	t.Helper()
	if r.StatusCode != h.status {
		t.Errorf("status %d, net/http %d, for %q", h.status, r.StatusCode, b)
	}
	if h.status < 200 || h.status == 204 || h.status == 304 { // no body, whatever the fields say
		return
	}
	if chunked := len(r.TransferEncoding) == 1; chunked != h.chunked {
		t.Errorf("chunked %v, net/http %v, for %q", h.chunked, chunked, b)
	}
	if !h.chunked && h.length != r.ContentLength {
		t.Errorf("length %d, net/http %d, for %q", h.length, r.ContentLength, b)
	}
}

// FuzzChunked: whatever is accepted as a chunked body, net/http reads with the same data and the same end, and it arrives in any pieces.
func FuzzChunked(f *testing.F) {
	for _, s := range []string{
		"0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "a;x=y\r\n0123456789\r\n0\r\nA: b\r\n\r\nrest", "1\r\na\r\n1\r\nb\r\n0\r\n\r\n",
		"1 ; a = \"b\\\"\" ;c\r\nx\r\n0;d\r\n\r\n", "1\r\na\r\n0\r\nContent-Length: 1\r\n\r\n", "01 \r\nx\r\n0\r\n\r\n",
	} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, b []byte, piece uint8) {
		var ch, split chunks
		var got []byte
		var flt *fault
		rest := b
		at := 0 // end of the data so far
		for len(rest) > 0 && !ch.done() && flt == nil {
			var n int
			var data bool
			n, data, flt = ch.next(rest)
			if data {
				got = append(got, rest[:n]...)
				at = len(b) - len(rest) + n
			}
			rest = rest[n:]
		}
		step := int(piece%17) + 1
		took, count := 0, 0
		var splitFault *fault
		for took < len(b) && !split.done() && splitFault == nil {
			var n, d int
			n, d, splitFault = split.scan(b[took:min(took+step, len(b))])
			took += n
			count += d
		}
		if count != len(got) || split.done() != ch.done() || splitFault != flt || flt == nil && took != len(b)-len(rest) {
			t.Fatalf("in pieces of %d: %d bytes of data, done %v, took %d, %v; whole: %d, %v, %d, %v",
				step, count, split.done(), took, splitFault, len(got), ch.done(), len(b)-len(rest), flt)
		}

		// As net/http reads it behind a head, trailers included.
		msg := append([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), b...)
		br := bufio.NewReader(bytes.NewReader(msg))
		r, err := http.ReadRequest(br)
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(r.Body)
		if flt == faultChunk && err == nil {
			if len(bytes.TrimLeft(b[at:], "\r\n")) == 0 || ch.extra > maxChunkExtra {
				return
			}
			for _, s := range stricterChunk {
				if s.shape.Match(bytes.TrimLeft(b[at:], "\r\n")) {
					return
				}
			}
			t.Fatalf("we refuse %q behind %q, net/http accepts it all", b[at:], b[:at])
		}
		if !ch.done() {
			return // refused, or there is more to come; a trailer may be refused here and not there (faultTrailer)
		}
		if err != nil {
			for _, l := range looserChunk {
				if strings.Contains(err.Error(), l.err) && l.shape.Match(b) {
					return
				}
			}
			t.Fatalf("we accept %q, net/http says %v", b, err)
		}
		if !bytes.Equal(want, got) {
			t.Errorf("data %q, net/http %q", got, want)
		}
		if left, _ := io.ReadAll(br); !bytes.Equal(left, rest) {
			t.Errorf("of %q we leave %q, net/http %q", b, rest, left)
		}
		// And by the reader that clients use, which stops at the last chunk.
		raw, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(b)))
		if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(raw, got) {
			t.Errorf("data %q, httputil %q, %v", got, raw, err)
		}
	})
}

// plain reports whether no field is dropped or changed, so that the head is relayed as it came.
func plain(h *head) bool {
	for i := range h.fields[:h.n] {
		if f := &h.fields[i]; f.drop || f.odd {
			return false
		}
	}
	return true
}
