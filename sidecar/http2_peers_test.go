package sidecar

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// An endpoint may give back the window of its connection at once and that of a stream late: as long as the stream has window, it goes on. (grpc-go does so
// when only the window of its streams is made larger.)
func TestHTTP2LateStreamWindows(t *testing.T) {
	const size = 600 << 10
	var mu sync.Mutex
	got := map[uint32]int{}
	up := scripted2(t, []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 1 << 20}}, func(f *frames, fr http2.Frame) {
		d, ok := fr.(*http2.DataFrame)
		if !ok {
			return
		}
		if n := len(d.Data()); n > 0 {
			_ = f.WriteWindowUpdate(0, uint32(n))
		}
		mu.Lock()
		defer mu.Unlock()
		got[d.StreamID] += len(d.Data())
		if d.StreamEnded() {
			f.headers(d.StreamID, true, ":status", "200", "x-got", fmt.Sprint(got[d.StreamID]))
		}
	})
	r, addr := front(t, nil, up)
	f := dialFrames(t, addr)
	f.headers(1, false, post2("/watch")...) // an idle stream beside it
	f.headers(3, false, post2("/upload")...)
	granted, left := map[uint32]int{0: 65535, 3: 65535}, size
	var answer *http2.MetaHeadersFrame
	for chunk := make([]byte, 8<<10); answer == nil; {
		for n := min(left, len(chunk)); left > 0 && granted[0] >= n && granted[3] >= n; n = min(left, len(chunk)) {
			left -= n
			_ = f.WriteData(3, left == 0, chunk[:n])
			granted[0] -= n
			granted[3] -= n
		}
		fr, err := f.ReadFrame()
		if err != nil {
			t.Fatalf("%v, with %d bytes left to send", err, left)
		}
		switch fr := fr.(type) {
		case *http2.SettingsFrame:
			if v, ok := fr.Value(http2.SettingInitialWindowSize); ok {
				granted[3] += int(v) - 65535
			}
		case *http2.WindowUpdateFrame:
			granted[fr.StreamID] += int(fr.Increment)
		case *http2.MetaHeadersFrame:
			answer = fr
		}
	}
	if answer.PseudoValue("status") != "200" || value2(answer, "x-got") != fmt.Sprint(size) {
		t.Errorf("got %v", answer.Fields)
	}
	_ = f.c.Close()
	r.stop()
}

// An application that refuses a stream is asked again: there is no other, and its limit is known by then.
func TestHTTP2ApplicationRefuses(t *testing.T) {
	var n atomic.Int32
	up := scripted2(t, nil, func(f *frames, fr http2.Frame) {
		if h, ok := fr.(*http2.MetaHeadersFrame); ok {
			if n.Add(1) == 1 {
				_ = f.WriteRSTStream(h.StreamID, http2.ErrCodeRefusedStream)
			} else {
				f.headers(h.StreamID, true, ":status", "200")
			}
		}
	})
	r := start(t, serverSnapshot("catalog", up, policy.ModePermissive, flow.ProtocolHTTP), &identity.Holder{}, time.Second)
	f := dialFrames(t, r.addr(t, "inbound"))
	f.headers(1, true, post2("/")...)
	if got, _ := f.status(t, 1); got != "200" || n.Load() != 2 {
		t.Errorf("got %s after %d tries", got, n.Load())
	}
	_ = f.c.Close()
	r.stop()
}

// An endpoint that says 103 for ever to a caller that reads nothing costs no more than the caller's buffer.
func TestHTTP2EndlessInterim(t *testing.T) {
	const many = 15_000 // of 1 KiB: more than sockets hold
	said := make(chan struct{})
	up := scripted2(t, nil, func(f *frames, fr http2.Frame) {
		h, ok := fr.(*http2.MetaHeadersFrame)
		if !ok {
			return
		}
		for i := range many {
			f.headers(h.StreamID, false, ":status", "103", "link", fmt.Sprint(i)+strings.Repeat("x", 1<<10))
		}
		f.headers(h.StreamID, true, ":status", "200")
		close(said)
	})
	r, addr := front(t, nil, up)
	f := dialFrames(t, addr)
	f.headers(1, true, get2("/")...)
	<-said
	interims, status := 0, ""
	f.until(t, "the response", func(fr http2.Frame) bool {
		if h, ok := fr.(*http2.MetaHeadersFrame); ok {
			if status = h.PseudoValue("status"); status == "103" {
				interims++
			}
		}
		switch fr.(type) {
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			t.Fatalf("%v after %d interim responses", fr, interims)
		}
		return status != "" && status != "103"
	})
	if status != "200" {
		t.Errorf("got %s", status)
	}
	if interims == 0 || interims == many {
		t.Errorf("%d of %d interim responses came: they are passed on, but not kept without end", interims, many)
	}
	_ = f.c.Close()
	r.stop()
}
