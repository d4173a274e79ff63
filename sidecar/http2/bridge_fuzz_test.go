package http2

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// belongs are the names that a bridge never carries in a head: they say what a message is to one version (RFC 9113, section 8.2.2).
var belongs = []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te", "host", "content-length", "expect", "http2-settings"}

// FuzzBridgeCaller: of whatever head HTTP/2 takes, what is handed to HTTP/1.1 is one request there, with the same parts and no other.
func FuzzBridgeCaller(f *testing.F) {
	for _, s := range [][]string{
		{":method", "GET", ":scheme", "http", ":path", "/a?b", ":authority", "a", "cookie", "a=b", "cookie", "c"},
		{":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a:1", "content-length", "3", "te", "trailers", "expect", "100-continue"},
		{":method", "CONNECT", ":authority", "a:443"},
		{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":path", "/", ":authority", "a", "sec-websocket-version", "13"},
		{":method", "OPTIONS", ":scheme", "https", ":path", "*", "host", "a", "http2-settings", "x", "x-tulle-reason", "y"},
		{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a", "grpc-timeout", "1S", "b3", "0", "tracestate", "x", "x-request-id", ""},
		{":method", "GET", ":scheme", "http", ":path", "/ HTTP/1.1", ":authority", "a\r\nb: c", "x", "y\r\n\r\nGET / HTTP/1.1"},
	} {
		f.Add(encoded(s...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c := reader()
		fault, err := c.decode(b)
		if err != nil || fault != nil {
			return
		}
		k := &call{done: make(chan struct{}, 1)}
		k.in.begin(true, nil)
		k.out.begin(false, nil)
		k.req = c.block.req
		k.x.Head.RequestID = "minted"
		r := k.Request(&k.x)
		var want []string
		text := r.Method + " " + r.Target
		if r.Method == "CONNECT" {
			text = r.Method + " " + r.Authority
		}
		text += " HTTP/1.1\r\nhost: " + r.Authority + "\r\n"
		cookies := 0
		for _, f := range r.Fields {
			if !validName(f.Name) || !validValue(f.Value) || slices.Contains(belongs, f.Name) || strings.HasPrefix(f.Name, "x-tulle-") {
				t.Fatalf("%v goes on", f)
			}
			if f.Name == "cookie" {
				cookies++
			}
			want = append(want, f.Name+": "+f.Value)
			text += f.Name + ": " + f.Value + "\r\n"
		}
		if cookies > 1 {
			t.Fatalf("%d cookie fields: %v", cookies, r.Fields)
		}
		got, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text + "\r\n")))
		if err != nil {
			if r.Target != "*" && !strings.Contains(err.Error(), "invalid URL escape") && !strings.Contains(err.Error(), "invalid host") { // it parses more of both than a message has
				t.Fatalf("net/http refuses (%v) %q", err, text)
			}
			return
		}
		var has []string
		for name, values := range got.Header {
			for _, v := range values {
				has = append(has, strings.ToLower(name)+": "+v)
			}
		}
		slices.Sort(has)
		slices.Sort(want)
		if got.Method != r.Method || got.RequestURI != r.Target && r.Method != "CONNECT" || got.Host != r.Authority || !slices.Equal(has, want) || got.ContentLength != 0 || len(got.TransferEncoding) > 0 {
			t.Fatalf("net/http reads %q\n%q\nof\n%q", got.RequestURI, has, text)
		}
		if rest, _ := io.ReadAll(got.Body); len(rest) > 0 {
			t.Fatalf("behind the head comes %q", rest)
		}
	})
}

// fuzzFields makes fields of text as the other side's parser would: a line for each, "name: value". What it would refuse is left out.
func fuzzFields(text string) (fields []exchange.Field) {
	for line := range strings.SplitSeq(text, "\n") {
		name, value, _ := strings.Cut(line, ":")
		name, value = strings.ToLower(name), strings.Trim(value, " \t")
		if validName(name) && validValue(value) && len(fields) < 100 {
			fields = append(fields, exchange.Field{Name: name, Value: value, Sensitive: len(value)%7 == 3})
		}
	}
	return fields
}

// heads reads the frames of b, which are heads of stream 1, as x/net/http2 does: malformed ones are errors.
func heads(t *testing.T, b []byte) (all []*xhttp2.MetaHeadersFrame) {
	fr := xhttp2.NewFramer(io.Discard, bytes.NewReader(b))
	fr.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
	fr.MaxHeaderListSize = 1 << 20
	for {
		f, err := fr.ReadFrame()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatalf("x/net/http2 refuses: %v", err)
		}
		h, ok := f.(*xhttp2.MetaHeadersFrame)
		if !ok || h.Truncated {
			t.Fatalf("got %v", f)
		}
		all = append(all, h)
	}
}

// sameFields compares what of a head is no pseudo-header field with what went in, less what belongs to the other version.
func sameFields(t *testing.T, h *xhttp2.MetaHeadersFrame, fields []exchange.Field, more ...string) {
	t.Helper()
	var got, want []string
	for _, f := range h.RegularFields() {
		got = append(got, f.Name+": "+f.Value)
		if slices.Contains([]string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "host"}, f.Name) {
			t.Errorf("%v is in HTTP/2", f)
		}
	}
	for _, f := range fields {
		if f := foreign(&f); !f.drop {
			want = append(want, f.name+": "+f.value)
		}
	}
	if want = append(want, more...); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// FuzzBridgeRequest: x/net/http2 reads of a request that came by HTTP/1.1 what was in it, and nothing else.
func FuzzBridgeRequest(f *testing.F) {
	f.Add("GET", "/a?b", "shop", "a: b\ncookie: c", int64(-1), true, uint8(0))
	f.Add("POST", "/", "shop:80", "transfer-encoding: chunked\nconnection: a\na: b\nhost: evil\ncontent-length: 3\nte: x", int64(5), false, uint8(7))
	f.Add("CONNECT", "", "shop:443", "x: "+strings.Repeat("y", 20_000), int64(-1), true, uint8(0))
	f.Add("GET", "/ws", "shop", "upgrade: x\nsec-websocket-version: 13", int64(-1), true, uint8(8))
	f.Fuzz(func(t *testing.T, method, target, authority, text string, length int64, bare bool, flags uint8) {
		if method == "" || !exchange.ValidAuthority([]byte(authority)) || length < -1 {
			return
		}
		for i := range len(method) {
			if exchange.Class[method[i]]&exchange.IsToken == 0 {
				return
			}
		}
		if method == "CONNECT" {
			target, bare = "", true
		} else if _, _, fault := exchange.ScanTarget([]byte(target)); fault != nil || target == "" || target[0] != '/' {
			return
		}
		if bare {
			length = -1
		}
		q := &exchange.Request{
			Method: method, Target: target, Authority: authority, Fields: fuzzFields(text), Length: length, Bare: bare, Expect: flags&1 != 0, Trailers: flags&2 != 0,
		}
		if flags&8 != 0 && method == "GET" && bare {
			q.Protocol = "websocket"
		}
		c := &conn{client: true, nextID: 1, initial: initialWindow}
		c.enc.c, c.enc.size, c.enc.h = c, tableSize, hpack.NewEncoder(&c.enc)
		c.table.init()
		c.set.HTTP2.StreamWindow = initialWindow
		g := newGuest()
		g.x, g.req = &exchange.Exchange{Try: flow.Trace{TraceID: flow.TraceID{1}, SpanID: flow.SpanID{2}}}, q
		g.k.mu.Lock()
		g.begin()
		if !g.k.open(c) {
			t.Fatal(g.k.x.Outcome.Detail)
		}
		g.k.mu.Unlock()
		all := heads(t, c.out)
		if len(all) != 1 {
			t.Fatalf("%d heads", len(all))
		}
		h := all[0]
		want := []string{method, "http", target, authority, ""}
		switch {
		case q.Protocol != "":
			want[0], want[4] = "CONNECT", q.Protocol
		case method == "CONNECT":
			want[1] = ""
		}
		var got []string
		for _, name := range []string{"method", "scheme", "path", "authority", "protocol"} {
			got = append(got, h.PseudoValue(name))
		}
		tunnel := method == "CONNECT" || q.Protocol != ""
		if !slices.Equal(got, want) || h.StreamEnded() != (bare && !tunnel) {
			t.Errorf("got %q, END %v, want %q", got, h.StreamEnded(), want)
		}
		var more []string
		if length >= 0 {
			more = append(more, fmt.Sprint("content-length: ", length))
		}
		if q.Expect {
			more = append(more, "expect: 100-continue")
		}
		if q.Trailers {
			more = append(more, "te: trailers")
		}
		sameFields(t, h, q.Fields, append(more, "traceparent: 00-01000000000000000000000000000000-0200000000000000-00")...)
	})
}

// FuzzBridgeResponse: x/net/http2 reads of a response that came by HTTP/1.1 what was in it, and nothing else; trailers too.
func FuzzBridgeResponse(f *testing.F) {
	f.Add(200, "a: b\nset-cookie: c\nset-cookie: d", int64(5), "digest: d", false)
	f.Add(304, "transfer-encoding: chunked\nconnection: close\netag: e", int64(-1), "", true)
	f.Add(503, "x-tulle-reason: shed\nhost: evil\ncontent-length: 7", int64(0), "transfer-encoding: chunked\ncontent-length: 7\ntrailer: x\nhost: evil", false)
	f.Add(103, "link: l\nx-tulle-timing: x", int64(-1), "", false)
	f.Fuzz(func(t *testing.T, status int, text string, length int64, last string, end bool) {
		if status < 100 || status > 599 || status == 101 || length < -1 {
			return
		}
		c := &conn{initial: initialWindow, window: initialWindow, top: initialWindow}
		c.enc.c, c.enc.size, c.enc.h = c, tableSize, hpack.NewEncoder(&c.enc)
		c.table.init()
		k := &call{done: make(chan struct{}, 1)}
		k.in.begin(true, nil)
		k.out.begin(false, nil)
		k.down = stream{c: c, call: k, id: 1, window: initialWindow, opened: true}
		c.soon = true // somebody else is about to write
		k.Request(&k.x)
		r := &exchange.Response{Status: status, Length: length, Fields: fuzzFields(text)}
		if err := k.WriteHead(&k.x, r, end); err != nil {
			t.Fatal(err)
		}
		if status < 200 {
			var kept []exchange.Field
			for _, f := range r.Fields {
				if !strings.HasPrefix(f.Name, "x-tulle-") || len(f.Name) == len("x-tulle-")-1 {
					kept = append(kept, f)
				}
			}
			h := heads(t, c.out)[0]
			if h.PseudoValue("status") != fmt.Sprint(status) || h.StreamEnded() || k.x.Outcome.Committed {
				t.Errorf("got %v", h)
			}
			sameFields(t, h, kept)
			return
		}
		trailers := fuzzFields(last)
		if err := k.WriteEnd(&k.x, trailers); err != nil || !k.x.Outcome.Answered || k.x.Outcome.Status != status {
			t.Fatalf("%v, %+v", err, k.x.Outcome)
		}
		out, at := c.out, 0
		for next := frameHeader + parseFrame(out).length; next < len(out); next += frameHeader + parseFrame(out[next:]).length {
			at = next
		}
		if f := parseFrame(out[at:]); f.kind == frameData { // no trailers
			if f.flags != flagEnd || f.length > 0 {
				t.Errorf("it ends with %+v", f)
			}
			out, last = out[:at], ""
		}
		all := heads(t, out)
		more := []string{}
		if length >= 0 {
			more = append(more, fmt.Sprint("content-length: ", length))
		}
		if h := all[0]; h.PseudoValue("status") != fmt.Sprint(status) || h.StreamEnded() != end {
			t.Errorf("got %v", h)
		}
		sameFields(t, all[0], r.Fields, more...)
		switch {
		case end || last == "":
			if len(all) != 1 {
				t.Errorf("%d heads", len(all))
			}
		default:
			if len(all) != 2 || !all[1].StreamEnded() || len(all[1].PseudoFields()) > 0 {
				t.Fatalf("the trailers are %v", all[1:])
			}
			for _, f := range all[1].RegularFields() {
				if slices.Contains(belongs, f.Name) && f.Name != "expect" && f.Name != "http2-settings" || f.Name == "trailer" || f.Name == "traceparent" || strings.HasPrefix(f.Name, "x-tulle-") && f.Name != "x-tulle-" {
					t.Errorf("%v is among the trailers", f)
				}
			}
		}
	})
}
