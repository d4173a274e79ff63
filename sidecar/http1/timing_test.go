package http1

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

func TestTiming(t *testing.T) {
	us := time.Microsecond
	for _, c := range []struct {
		l    flow.Legs
		line string
		far  flow.Far
	}{
		{flow.Legs{HeadParsed: 12 * us, Queued: 15*us + 999, Sent: 60 * us, FirstByte: 480 * us}, "h=12;q=15;s=60;f=480", flow.Far{HeadParsed: 12 * us, Queued: 15 * us, Sent: 60 * us, FirstByte: 480 * us}},
		{flow.Legs{HeadParsed: 0, Queued: 0, Sent: flow.Unset, FirstByte: 3}, "h=0;q=0;f=1", flow.Far{Sent: flow.Unset, FirstByte: us}},
		{flow.Legs{HeadParsed: 1 * us, Queued: 2 * us, Sent: 9 * us, FirstByte: 5 * us}, "h=1;q=2;f=5", flow.Far{HeadParsed: us, Queued: 2 * us, Sent: flow.Unset, FirstByte: 5 * us}},
		{flow.Legs{HeadParsed: 1, Queued: 2, Sent: 3, FirstByte: 3 * time.Hour}, "", flow.Far{}},
		{flow.Legs{HeadParsed: flow.Unset, Queued: 2, Sent: 3, FirstByte: 4}, "", flow.Far{}},
		{flow.Legs{HeadParsed: 1, Queued: flow.Unset, Sent: 3, FirstByte: 4}, "", flow.Far{}},
	} {
		want := ""
		if c.line != "" {
			want = timingField + c.line + "\r\n"
		}
		got := string(appendTiming(nil, &c.l))
		if got != want || len(got) > timingMax {
			t.Errorf("%+v: got %q, want %q", c.l, got, want)
		}
		if far, ok := exchange.ParseTiming([]byte(c.line)); ok != (c.line != "") || far != c.far {
			t.Errorf("%q reads as %+v %v, want %+v", c.line, far, ok, c.far)
		}
	}
	for _, bad := range []string{
		"h=1;q=2;s=3", "h=1;q=2;s=3;f=", "h=1;q=2;s=3;f=0", "h=1;q=2;s=3;f=2", "h=2;q=1;f=3", "h=1;q=2;s=1;f=3", "h=01;q=2;f=3", "h=1;q=2;f=3;", "h=1;q=2;f=3;x=4",
		"h=1; q=2;f=3", "h=-1;q=2;f=3", "h=1;q=2;f=99999999999", "q=1;h=2;f=3", "h=1;q=2;s=;f=3", "h=1,q=2,f=3", "h=;q=2;f=3", "h=1;q=2;f=3 ",
	} {
		if far, ok := exchange.ParseTiming([]byte(bad)); ok {
			t.Errorf("%q was accepted: %+v", bad, far)
		}
	}
}

// FuzzTiming: what is accepted is exactly what appendTiming writes.
func FuzzTiming(f *testing.F) {
	f.Add([]byte("h=12;q=15;s=60;f=480"))
	f.Add([]byte("h=0;q=0;f=1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		far, ok := exchange.ParseTiming(b)
		if !ok {
			return
		}
		l := flow.Legs{HeadParsed: far.HeadParsed, Queued: far.Queued, Sent: far.Sent, FirstByte: far.FirstByte}
		if got := string(appendTiming(nil, &l)); got != timingField+string(b)+"\r\n" {
			t.Errorf("%q is written as %q", b, got)
		}
	})
}

// A head in which at most the last field is dropped is passed on in place, byte for byte.
func TestSpliced(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nX-A: 1\r\n"
	for _, c := range []struct {
		name, in string
		room     int
		want     string // "" : not in place
	}{
		{"nothing to do", head + "\r\nbody", 0, head + "\r\nbody"},
		{"last field dropped", head + "X-Tulle-Timing: h=1;q=2;f=3\r\n\r\nbody", 0, head + "\r\nbody"},
		{"another field dropped", "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nX-A: 1\r\n\r\n", 0, ""},
		{"no fields", "HTTP/1.1 200 OK\r\n\r\n", 7, "HTTP/1.1 200 OK\r\n\r\n"},
	} {
		w := &work{}
		w.up.b = append(bytes.Repeat([]byte{'#'}, c.room), c.in...)
		end := c.room + strings.Index(c.in, "\r\n\r\n") + 4
		w.up.r, w.up.w = end, len(w.up.b)
		if f := w.resp.parseResponse(w.up.b[c.room:end:end], DefaultLimits); f != nil {
			t.Fatal(f)
		}
		tr := &try{w: w, x: &w.x}
		w.x.Side = flow.SideClient
		if got := string(tr.spliced(len(w.up.b) - end)); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
