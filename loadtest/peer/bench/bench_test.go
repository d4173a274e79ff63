//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/internal/testmesh/chain"
)

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		in   []float64
		want float64
	}{
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 3, 2}, 2.5},
	} {
		in := slices.Clone(c.in)
		if got := median(c.in); got != c.want || !slices.Equal(in, c.in) {
			t.Errorf("median(%v) = %v, want %v", in, got, c.want)
		}
	}
	if !math.IsNaN(median(nil)) {
		t.Error("the median of nothing is a number")
	}
}

func example() *comparison {
	return &comparison{
		title: "example", unit: "request", bars: []bar{{"envoy", 0.60}, {"envoy-traced", 0.40}},
		series: []series{
			{name: "tulle", title: "Tulle", cpu: []float64{20, 18, 30}, rate: []float64{1, 2, 3}, busy: []float64{1, 1, 1}},
			{name: "haproxy", title: "HAProxy", cpu: []float64{10, 10, 10}, rate: []float64{1, 1, 1}, busy: []float64{1, 1, 1}},
			{name: "envoy", title: "Envoy", cpu: []float64{40, 32, 30}, rate: []float64{1, 1, 1}, busy: []float64{1, 1, 1}},
			{name: "envoy-traced", title: "Envoy traced", cpu: []float64{50, 45, 60}, rate: []float64{1, 1, 1}, busy: []float64{1, 1, 1}},
		},
	}
}

func TestRatios(t *testing.T) {
	c := example()
	want := []ratio{
		{against: "envoy", median: 20.0 / 32, min: 18.0 / 30, limit: 0.60},
		{against: "envoy-traced", median: 20.0 / 50, min: 18.0 / 45, limit: 0.40},
		{against: "haproxy", median: 2, min: 1.8},
	}
	got := c.ratios()
	if !slices.Equal(got, want) {
		t.Fatalf("got %+v\nwant %+v", got, want)
	}
	if got[0].met() { // the best rounds reach the bar, the medians do not
		t.Error("a bar is met on one of the two")
	}
	if !got[1].met() || !got[2].met() {
		t.Error("a bar that is reached, or none, is not met")
	}
	problems := c.problems()
	if len(problems) != 1 || !strings.Contains(problems[0], "0.62 × envoy") {
		t.Errorf("%q", problems)
	}
	if text := c.markdown(); !strings.Contains(text, "| Envoy | 0.62 | 0.60 | ≤ 0.60: **not met** |") || !strings.Contains(text, "| Tulle | 20.0 | 18.0 | 2 | 100 % |") {
		t.Error(text)
	}
}

// What does not carry the rate that all were given is no measure.
func TestBehind(t *testing.T) {
	c := example()
	c.rate = 1000
	for i := range c.series {
		c.series[i].rate = []float64{1000}
	}
	c.find("envoy").rate = []float64{900}
	if got := c.ratios(); !slices.ContainsFunc(got, func(r ratio) bool { return r.behind && r.against == "envoy" && r.limit == 0 }) || len(c.problems()) != 0 {
		t.Errorf("%+v %q", got, c.problems())
	}
	if text := c.markdown(); !strings.Contains(text, "| Envoy | 0.62 | 0.60 | none: it did not carry 1000 requests/s |") {
		t.Error(text)
	}
	c.find(subject).rate = []float64{900}
	if p := c.problems(); len(p) != 1 || !strings.Contains(p[0], "Tulle carried 900 of 1000") {
		t.Errorf("%q", p)
	}
}

// A proxy that dropped or corrupted has no figures, whoever it is, and nobody is compared with it.
func TestDisqualified(t *testing.T) {
	c := example()
	c.find("envoy").failure = "3 wrong answers"
	for _, r := range c.ratios() {
		if r.against == "envoy" {
			t.Error("compared with a disqualified proxy")
		}
	}
	if text := c.markdown(); !strings.Contains(text, "| Envoy | disqualified: 3 wrong answers |") {
		t.Error(text)
	}
	c = example()
	c.find(subject).failure = "1 wrong answer"
	c.find("haproxy").flags = []string{"2 records dropped"}
	if c.ratios() != nil {
		t.Error("the disqualified subject has ratios")
	}
	if p := strings.Join(c.problems(), "\n"); !strings.Contains(p, "Tulle is disqualified") || !strings.Contains(p, "2 records dropped") {
		t.Error(p)
	}
}

func TestTelemetryCost(t *testing.T) {
	c := &costs{&comparison{title: "t", unit: "request", series: []series{
		{name: subject, cpu: []float64{15, 17, 16}, rate: []float64{1}, busy: []float64{1}},
		{name: "tulle-none", cpu: []float64{13, 12.6, 14}, rate: []float64{1}, busy: []float64{1}},
	}}}
	if m, best, ok := c.all(); !ok || m != 3 || math.Abs(best-2.4) > 1e-9 {
		t.Error(m, best, ok)
	}
	if p := c.problems(); len(p) != 1 || !strings.Contains(p[0], "3.0 µs on medians") {
		t.Errorf("%q", p)
	}
	c.series = c.series[:1]
	if p := c.problems(); len(p) != 1 || !strings.Contains(p[0], "unknown") {
		t.Errorf("%q", p)
	}
}

func TestShares(t *testing.T) {
	h := &hop{}
	h.add("observer", nil)
	h.add("server", nil)
	h.cpu = [][]float64{{10, 1}, {30, 2}, {20, 9}}
	if got := h.shares(); got != "observer 20.0, server 2.0" {
		t.Error(got)
	}
}

func TestRewrite(t *testing.T) {
	all := workloads()
	first, second := all[0].name, all[1].name
	mark := func(name string) string { return markWorkload + name + " -->\n" }
	page := "# A\n\n" + markBegin + "\n\nstray\n\n" + mark("gone") + "old\n\n" + mark(first) + "kept\n\n" + markEnd + "\n\nrest\n"
	got, err := rewrite(page, []section{{second, "new\n"}})
	want := "# A\n\n" + markBegin + "\n\n" + mark(first) + "kept\n\n" + mark(second) + "new\n\n" + markEnd + "\n\nrest\n"
	if err != nil || got != want {
		t.Errorf("%q %v", got, err)
	}
	if again, err := rewrite(got, []section{{second, "new\n"}}); err != nil || again != got {
		t.Errorf("written twice it differs: %q %v", again, err)
	}
	if _, err := rewrite("# A\n", nil); err == nil {
		t.Error("a page without markers was taken")
	}
}

// The page that -write rewrites has the markers.
func TestPageHasMarkers(t *testing.T) {
	b, err := os.ReadFile("../../../docs/benchmarks.md")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rewrite(string(b), nil); err != nil {
		t.Errorf("docs/benchmarks.md: %v", err)
	}
}

func TestChoose(t *testing.T) {
	o := options{rounds: fullRounds, window: fullWindow}
	if err := choose(&o, "1k-in,envoy,tulle"); err != nil {
		t.Fatal(err)
	}
	if len(o.proxies) != 2 || len(o.workloads) != 1 || !o.short {
		t.Errorf("%+v", o)
	}
	if err := choose(&o, ""); err != nil || o.short || len(o.workloads) != len(workloads()) {
		t.Errorf("%+v %v", o, err)
	}
	if err := choose(&o, "apache"); err == nil || !strings.Contains(err.Error(), "haproxy") {
		t.Errorf("an unknown name gave %v", err)
	}
	o.window = time.Second
	if err := choose(&o, ""); err != nil || !o.short {
		t.Error("short windows are good enough for the page")
	}
}

func TestHistogram(t *testing.T) {
	var h histogram
	if h.quantile(0.5) != 0 {
		t.Error("an empty histogram has a median")
	}
	for i := range 10_000 {
		h.add(int64(i+1) * 1000)
	}
	for _, c := range []struct {
		q    float64
		want time.Duration
	}{{0.5, 5 * time.Millisecond}, {0.99, 9900 * time.Microsecond}} {
		if got := h.quantile(c.q); math.Abs(float64(got-c.want)) > 0.02*float64(c.want) {
			t.Errorf("quantile %v is %s, want %s within 2 %%", c.q, got, c.want)
		}
	}
	for _, ns := range []int64{0, 1, 63, 64, 127, 128, 1 << 40, 1<<62 + 12345} {
		b := bucket(ns)
		if low, next := lowest(b), lowest(b+1); ns < low || ns >= next && next > low {
			t.Errorf("%d is in bucket %d, [%d, %d)", ns, b, low, next)
		}
	}
}

func TestVerify(t *testing.T) {
	a := answer{pattern(64)}
	body := slices.Clone(a.body)
	putID(body, 0xabc)
	whole := append([]byte("HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n"), body...)
	for i := range whole {
		if done, err := a.verify(whole[:i], 0xabc); done || err != nil {
			t.Fatalf("after %d of %d bytes: %v %v", i, len(whole), done, err)
		}
	}
	if done, err := a.verify(whole, 0xabc); !done || err != nil {
		t.Fatal(done, err)
	}
	change := func(f func([]byte) []byte) []byte { return f(slices.Clone(whole)) }
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"another status": {change(func(b []byte) []byte { return bytes.Replace(b, []byte("200 OK"), []byte("503 No"), 1) }), "503"},
		"another length": {change(func(b []byte) []byte { return bytes.Replace(b, []byte(": 64"), []byte(": 63"), 1) }), "63 bytes"},
		"no length":      {change(func(b []byte) []byte { return bytes.Replace(b, []byte("Content"), []byte("Kontent"), 1) }), "without content-length"},
		"one bit":        {change(func(b []byte) []byte { b[len(b)-1] ^= 1; return b }), "from byte 63"},
		"another's":      {change(func(b []byte) []byte { b[len(b)-64] = 'f'; return b }), "came for request"},
		"too much":       {append(slices.Clone(whole), 'x'), "1 bytes after"},
		"endless head":   {bytes.Repeat([]byte("x"), 33<<10), "32 KiB"},
	} {
		if done, err := a.verify(c.got, 0xabc); done || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v %v, want %q", name, done, err, c.want)
		}
	}
}

// serve runs a real backend in this process and returns its addresses and certificates.
func serve(t *testing.T) backendOrder {
	t.Helper()
	dir := t.TempDir()
	certificates, err := newPKI(dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	p := ports{next: uint16(26000 + os.Getpid()%3000)}
	o := backendOrder{PKI: certificates}
	for _, at := range []*netip.AddrPort{&o.Plain, &o.TLS} {
		if *at, err = p.free(); err != nil {
			t.Fatal(err)
		}
	}
	b, err := newBackend(o)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = b.loop() }()
	t.Cleanup(func() {
		b.close()
		<-ended
	})
	return o
}

// Every kind of job against the real backend: all answers verified, none wrong.
func TestLoad(t *testing.T) {
	o := serve(t)
	for name, j := range map[string]job{
		"closed loop":      {Address: o.Plain, Size: 1 << 10, Conns: 8},
		"16 KB":            {Address: o.Plain, Size: 16 << 10, Conns: 8},
		"more than fits":   {Address: o.Plain, Size: 1 << 20, Conns: 4},
		"open loop":        {Address: o.Plain, Size: 1 << 10, Conns: 4, Rate: 500},
		"new connections":  {Address: o.Plain, Size: 1 << 10, Conns: 4, Close: true},
		"TLS":              {Address: o.TLS, Size: 1 << 10, Conns: 4, TLS: &o.PKI},
		"TLS, two records": {Address: o.TLS, Size: 40 << 10, Conns: 4, TLS: &o.PKI},
		"calls":            {Kind: jobCalls, Address: o.Plain, Size: 1 << 10, Conns: 2, Streams: 25},
		"one call":         {Kind: jobCalls, Address: o.Plain, Size: 1 << 10, Conns: 4, Streams: 1},
		"large calls":      {Kind: jobCalls, Address: o.Plain, Size: 100 << 10, Conns: 2, Streams: 8},
		"calls, TLS":       {Kind: jobCalls, Address: o.TLS, Size: 40 << 10, Conns: 2, Streams: 10, TLS: &o.PKI},
		"streams":          {Kind: jobStreams, Address: o.Plain, Size: 1 << 10, Conns: 4, Streams: 25},
		"large streams":    {Kind: jobStreams, Address: o.TLS, Size: 100 << 10, Conns: 2, Streams: 5, TLS: &o.PKI},
		"full handshakes":  {Kind: jobFull, Address: o.TLS, Size: 1 << 10, Conns: 2, TLS: &o.PKI},
	} {
		t.Run(name, func(t *testing.T) {
			j.Warmup, j.Window, j.PIDs = 20*time.Millisecond, 400*time.Millisecond, []int{os.Getpid()}
			run := job.run
			switch j.Kind {
			case jobFull:
				run = job.shake
			case jobCalls, jobStreams:
				run = job.call
			}
			r := run(j)
			if want := j.Conns * j.Streams; j.Kind == jobStreams && r.exchanges() != want || j.Kind == jobCalls && r.exchanges() != r.Total {
				t.Errorf("%d exchanges, %d in all, %d streams", r.exchanges(), r.Total, want)
			}
			if r.Err != "" || r.Errors != 0 || r.Requests == 0 || r.Total < r.Requests {
				t.Fatalf("%+v", r)
			}
			if len(r.CPU) != 1 || r.CPU[0] <= 0 || r.Own <= 0 {
				t.Errorf("CPU time of this process %v, its own %s", r.CPU, r.Own)
			}
			if j.Rate > 0 && (r.P50 <= 0 || r.P99 < r.P50) {
				t.Errorf("p50 %s, p99 %s", r.P50, r.P99)
			}
		})
	}
}

// What a peer's windows have no room for waits for them, and trailers wait behind it.
func TestWindows(t *testing.T) {
	c := newCallee(&backend{answers: map[int][]byte{}, requests: map[int][]byte{}})
	caller := newMuxed(nil, false) // only to write
	request := message(callSize)
	caller.out = append(appendFrameHead(nil, 6, frameSettings, 0, 0), 0, settingInitial, 0, 0, 0, 100)
	caller.fields(1, &phrase{list: []hpack.HeaderField{{Name: ":path", Value: callPath + "1024"}}}, false)
	caller.out = append(appendFrameHead(caller.out, len(request), frameData, flagEnd, 1), request...)
	var body []byte
	var ended bool
	// give feeds the callee and returns how many bytes of the answer that brings.
	give := func(b []byte) int {
		t.Helper()
		if rest, err := c.mux.take(b); err != nil || len(rest) > 0 {
			t.Fatalf("%d bytes left, %v", len(rest), err)
		}
		n := 0
		for b = c.mux.out; len(b) > 0; {
			f, rest, ok := nextFrame(b)
			if !ok || ended {
				t.Fatalf("% x after the end, or in part", b)
			}
			if f.kind == frameData {
				n += len(f.body)
				body = append(body, f.body...)
			}
			ended, b = f.kind == frameHeaders && f.flags&flagEnd != 0, rest
		}
		c.mux.out = nil
		return n
	}
	for i, step := range []struct {
		wire []byte
		want int
	}{
		{caller.out, 100},
		{appendWindow(nil, 1, 40), 40},
		{appendWindow(nil, 0, 40), 0}, // the stream's is the narrow one
		{append(appendFrameHead(nil, 6, frameSettings, 0, 0), 0, settingInitial, 0, 0, 0, 150), 50},
		{append(appendFrameHead(nil, 6, frameSettings, 0, 0), 0, settingInitial, 0, 0, 0, 10), 0}, // now it is below zero
		{appendWindow(nil, 1, 140), 0},
		{appendWindow(nil, 1, 1), 1},
		{appendWindow(nil, 1, 1<<20), messageHead + 1<<10 - 191},
	} {
		if n := give(step.wire); n != step.want {
			t.Errorf("step %d: %d bytes, want %d", i, n, step.want)
		}
	}
	if done, err := takeMessage(body, c.answers[1<<10]); !done || err != nil || !ended || len(c.calls) != 0 {
		t.Errorf("whole %v, %v, ended %v, %d calls left", done, err, ended, len(c.calls))
	}
}

// A peer between load and truth that does to calls what a broken proxy would is always caught.
func TestCorruptCallsAreCaught(t *testing.T) {
	data := func(change func(*frame)) func(int, *frame) bool {
		return func(n int, f *frame) bool {
			if f.kind == frameData && n > 20 {
				change(f)
			}
			return true
		}
	}
	for name, c := range map[string]struct {
		spoil func(n int, f *frame) (pass bool)
		want  string
	}{
		"a flipped bit":    {data(func(f *frame) { f.body[len(f.body)-7] ^= 4 }), "the body differs"},
		"another's answer": {data(func(f *frame) { f.body[messageHead] = 'f' }), "came for request"},
		"another stream":   {data(func(f *frame) { f.stream += 2000 }), "nobody waits for"},
		"a cut answer":     {data(func(f *frame) { f.body = f.body[:len(f.body)-1] }), "ended after 1028 bytes"},
		"more than it":     {data(func(f *frame) { f.body = append(f.body[:len(f.body):len(f.body)], 0) }), "1 bytes after the message"},
		"no trailers":      {data(func(f *frame) { f.flags = flagEnd }), "grpc-status \"\""},
		"a dropped frame":  {func(n int, f *frame) bool { return f.kind != frameData || n < 20 }, "ended after 0 bytes"},
		"a reset": {func(n int, f *frame) bool {
			if f.kind == frameData && n > 20 {
				*f = frame{kind: frameReset, stream: f.stream, body: []byte{0, 0, 0, 8}}
			}
			return true
		}, "reset with code 8"},
		"a goodbye": {func(n int, f *frame) bool {
			if f.kind == frameData && n > 20 {
				*f = frame{kind: frameGoAway, body: make([]byte, 8)}
			}
			return true
		}, "GOAWAY"},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			defer func() { ln.Close(); <-ended }()
			go func() {
				defer close(ended)
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				spoiltCalls(conn, c.spoil)
			}()
			r := job{Kind: jobCalls, Address: ln.Addr().(*net.TCPAddr).AddrPort(), Size: 1 << 10, Conns: 1, Streams: 3, Window: 10 * time.Second}.call()
			if r.Errors == 0 || !strings.Contains(r.Failure, c.want) {
				t.Errorf("%+v, want a failure with %q", r, c.want)
			}
		})
	}
}

// spoiltCalls answers the calls of one connection, the frames of the answers spoilt.
func spoiltCalls(conn net.Conn, spoil func(n int, f *frame) bool) {
	in := make([]byte, len(preface))
	if _, err := io.ReadFull(conn, in); err != nil {
		return
	}
	honest := newCallee(&backend{answers: map[int][]byte{}, requests: map[int][]byte{}})
	in = in[:0]
	for n := 0; ; {
		in = slices.Grow(in, 64<<10)
		k, err := conn.Read(in[len(in):cap(in)])
		if err != nil {
			return
		}
		rest, err := honest.mux.take(in[:len(in)+k])
		if err != nil {
			return
		}
		in = in[:copy(in, rest)]
		var out []byte
		for b := bytes.Clone(honest.mux.out); len(b) > 0; n++ {
			var f frame
			f, b, _ = nextFrame(b)
			if spoil(n, &f) {
				out = append(appendFrameHead(out, len(f.body), f.kind, f.flags, f.stream), f.body...)
			}
		}
		honest.mux.out = honest.mux.out[:0]
		if _, err := conn.Write(out); err != nil {
			return
		}
	}
}

// A request that a proxy has altered is refused by the backend.
func TestCorruptMessagesAreRefused(t *testing.T) {
	c := newCallee(&backend{answers: map[int][]byte{}, requests: map[int][]byte{}})
	caller := newMuxed(nil, false)
	request := message(callSize)
	request[len(request)-1] ^= 1
	caller.out = nil
	caller.fields(1, &phrase{list: []hpack.HeaderField{{Name: ":path", Value: callPath + "1024"}}}, false)
	caller.out = append(appendFrameHead(caller.out, len(request), frameData, flagEnd, 1), request...)
	if _, err := c.mux.take(caller.out); err != nil {
		t.Fatal(err)
	}
	if want := append(appendFrameHead(nil, 4, frameReset, 0, 1), 0, 0, 0, 2); !bytes.HasSuffix(c.mux.out, want) || len(c.calls) != 0 {
		t.Errorf("answered % x, %d calls left", c.mux.out, len(c.calls))
	}
}

func TestHold(t *testing.T) {
	o := serve(t)
	for name, j := range map[string]job{
		"plain": {Address: o.Plain, Size: 1 << 10, Conns: 20},
		"TLS":   {Address: o.TLS, Size: 1 << 10, Conns: 5, TLS: &o.PKI},
	} {
		h := &holder{}
		if r := h.hold(j); r.Err != "" || r.Total != j.Conns {
			t.Errorf("%s: %+v", name, r)
		}
		if r := h.release(); r.Total != j.Conns {
			t.Errorf("%s: %d of %d were still open", name, r.Total, j.Conns)
		}
	}
}

// A server between load and truth that does what a broken proxy would is always caught, over plaintext and TLS.
func TestCorruptionIsCaught(t *testing.T) {
	dir := t.TempDir()
	certificates, err := newPKI(dir, dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func(n int, text []byte) []byte
		want  string
	}{
		"a flipped bit":    {func(_ int, b []byte) []byte { b[len(b)-7] ^= 4; return b }, "the body differs"},
		"a rare one":       {func(n int, b []byte) []byte { b[len(b)-7] ^= byte(n / 50); return b }, "the body differs"},
		"another's answer": {func(_ int, b []byte) []byte { b[len(b)-1024] = 'f'; return b }, "came for request"},
		"an error":         {func(_ int, b []byte) []byte { return []byte("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n") }, "502"},
		"a cut answer":     {func(_ int, b []byte) []byte { return nil }, "reading an answer"},
		"one byte more":    {func(_ int, b []byte) []byte { return append(b, '!') }, "after the end"},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, TLS %v", name, secure), func(t *testing.T) {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				ended := make(chan struct{})
				defer func() { ln.Close(); <-ended }()
				honest := &backend{kept: map[int][]byte{}, heads: map[int]int{}}
				j := job{Address: ln.Addr().(*net.TCPAddr).AddrPort(), Size: 1 << 10, Conns: 1, Window: 10 * time.Second}
				var config *tls.Config
				if secure {
					j.TLS = &certificates
					if config, err = certificates.server(backendAccount); err != nil {
						t.Fatal(err)
					}
				}
				go func() {
					defer close(ended)
					for n := 0; ; {
						conn, err := ln.Accept()
						if err != nil {
							return
						}
						if secure {
							conn = tls.Server(conn, config)
						}
						spoilt(honest, conn, &n, c.spoil)
					}
				}()
				r := j.run()
				if r.Errors == 0 || !strings.Contains(r.Failure, c.want) {
					t.Errorf("%+v, want a failure with %q", r, c.want)
				}
			})
		}
	}
}

// spoilt answers requests of one connection, each n-th one spoilt.
func spoilt(honest *backend, conn net.Conn, n *int, spoil func(int, []byte) []byte) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		var head []byte
		for !bytes.HasSuffix(head, headEnd) {
			line, err := in.ReadBytes('\n')
			if err != nil {
				return
			}
			head = append(head, line...)
		}
		text, err := honest.answer(head)
		if err != nil {
			return
		}
		*n++
		if text = spoil(*n, bytes.Clone(text)); text == nil {
			return
		}
		if _, err := conn.Write(text); err != nil {
			return
		}
	}
}

// A record that was tampered with ends the connection.
func TestRecords(t *testing.T) {
	o := serve(t)
	config, err := o.PKI.client()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := dial(o.TLS, netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r, err := handshake(fd, config, true)
	if err != nil {
		t.Fatal(err)
	}
	mirror := &records{out: r.out, in: r.out} // reads what r writes
	text := bytes.Repeat([]byte("0123456789"), 4000)
	wire := r.seal(nil, text)
	if want := len(text) + 3*(recordHead+1+r.out.aead.Overhead()); len(wire) != want {
		t.Errorf("%d bytes on the wire, want %d", len(wire), want)
	}
	first := recordHead + (int(wire[3])<<8 | int(wire[4]))
	plain, rest, err := mirror.open(nil, bytes.Clone(wire[:first+10]))
	if err != nil || !bytes.Equal(plain, text[:recordMax]) || len(rest) != 10 {
		t.Fatalf("%d bytes, %d left, %v", len(plain), len(rest), err)
	}
	spoilt := bytes.Clone(wire[first:])
	spoilt[20] ^= 1
	if _, _, err := mirror.open(nil, spoilt); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a spoilt record gave %v", err)
	}
}

func TestCountSpans(t *testing.T) {
	bytesField := func(n protowire.Number, parts ...[]byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), bytes.Join(parts, nil))
	}
	span := bytesField(2, []byte{})
	scope := bytesField(2, bytesField(1, []byte("scope")[:0]), span, span)
	request := slices.Concat(bytesField(1, scope, scope), bytesField(1, bytesField(1, nil), scope))
	if n, err := countSpans(request); n != 6 || err != nil {
		t.Error(n, err)
	}
	if _, err := countSpans(request[:len(request)-1]); err == nil {
		t.Error("half a message was counted")
	}
}

func TestCPUTime(t *testing.T) {
	a, err := cpuTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for x, end := 0, time.Now().Add(20*time.Millisecond); time.Now().Before(end); x++ {
		_ = x * x
	}
	b, err := cpuTime(os.Getpid())
	if err != nil || b <= a {
		t.Errorf("%s, then %s, %v", a, b, err)
	}
	if _, err := cpuTime(1 << 22); err == nil {
		t.Error("a process that does not exist has a CPU clock")
	}
}

func TestParseRollup(t *testing.T) {
	m, err := parseRollup([]byte("00400000-7ff000000000 ---p 00000000 00:00 0   [rollup]\nRss:     100 kB\nPss:      50 kB\nPss_Anon: 7 kB\nAnonymous:   20 kB\n"))
	if want := (memory{100 << 10, 50 << 10, 20 << 10}); err != nil || m != want {
		t.Error(m, err)
	}
	if _, err := parseRollup([]byte("Rss: 1 kB\n")); err == nil {
		t.Error("a page without Pss was read")
	}
	k := kept{idle: memory{anon: 1000}, full: memory{anon: 11000}, conns: 10}
	if got := k.perConn().anon; got != 1000 {
		t.Error(got)
	}
	m2 := remembered{conns: 20, whole: 30_000, rows: []kept{{name: subject, idle: memory{rss: 1000}, full: memory{rss: 21000}, conns: 10}}}
	if got := m2.all(m2.rows[0]); got != 41000 || len(m2.problems()) != 1 || !strings.Contains(m2.markdown(), "allowed fewer than 20") {
		t.Error(got, m2.problems(), m2.markdown())
	}
	if m2.whole = 41000; len(m2.problems()) != 0 {
		t.Error(m2.problems())
	}
}

func TestSumOf(t *testing.T) {
	text := "# TYPE a_total counter\na_total{x=\"1\",r=\"ok\"} 2\na_total{x=\"2 3\",r=\"ok\"} 3.5\na_total{r=\"err\"} 9\na_totals 100\nb 7\n"
	for _, c := range []struct {
		name, with string
		want       float64
	}{{"a_total", `r="ok"`, 5.5}, {"a_total", "", 14.5}, {"b", "", 7}, {"c", "", 0}} {
		if got, err := sumOf(text, c.name, c.with); err != nil || got != c.want {
			t.Errorf("%s with %q: %v %v, want %v", c.name, c.with, got, err, c.want)
		}
	}
	if _, err := sumOf("b x\n", "b", ""); err == nil {
		t.Error("text was taken for a number")
	}
}

func TestMissingTool(t *testing.T) {
	none := &tool{name: "no-such-proxy", install: "apt-get install it"}
	if _, err := none.find(""); err == nil || !strings.Contains(err.Error(), "apt-get install it") {
		t.Errorf("got %v", err)
	}
	if _, err := envoyTool.find("/does/not/exist"); err == nil || !strings.Contains(err.Error(), "-envoy") {
		t.Errorf("got %v", err)
	}
}

func serveBodies(t *testing.T) (*bodies, netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &bodies{}
	s.open(l)
	return s, l.Addr().(*net.TCPAddr).AddrPort()
}

// Both ways arrive whole, and the slow reader on the same connection holds up its sender, whatever the other does.
func TestHaul(t *testing.T) {
	s, at := serveBodies(t)
	for _, upload := range []bool{false, true} {
		for _, slow := range []int{0, 5_000} {
			done, err := s.carry(haul{Address: at, Upload: upload, Size: 5_000_000, Slow: slow})
			if err != nil || done.Elapsed <= 0 {
				t.Errorf("upload %v, slow %d: %+v %v", upload, slow, done, err)
			}
			if limit := int64(10_000 * (1 + done.Elapsed.Seconds())); done.SlowRead > limit {
				t.Errorf("upload %v: the slow reader read %d bytes in %s", upload, done.SlowRead, done.Elapsed)
			}
		}
	}
}

func TestChecker(t *testing.T) {
	var b bytes.Buffer
	if n, err := io.CopyN(&b, &endless{}, 200_001); n != 200_001 || err != nil {
		t.Fatal(n, err)
	}
	for i, part := range [][]byte{{}, b.Bytes()} {
		if _, err := io.CopyBuffer(&checker{}, bytes.NewReader(part), make([]byte, 1234)); err != nil {
			t.Errorf("part %d: %v", i, err)
		}
	}
	b.Bytes()[170_000] ^= 1
	if _, err := (&checker{}).Write(b.Bytes()); err == nil {
		t.Error("a flipped bit was taken")
	}
}

func TestPaceBar(t *testing.T) {
	p := &pace{title: "t", rows: []paceRow{
		{name: subject, title: "Tulle", way: "download", alone: []float64{100, 110, 90}, beside: []float64{95, 80, 89}},
		{name: "envoy", title: "Envoy", way: "download", alone: []float64{100}, beside: []float64{1}},
	}}
	if got := p.problems(); len(got) != 1 || !strings.Contains(got[0], "keeps 0.89") {
		t.Errorf("%q", got)
	}
	p.rows[0].beside = []float64{95, 90, 91}
	if got := p.problems(); got != nil {
		t.Errorf("%q", got)
	}
	p.rows[0].failure = "cut"
	if got := p.problems(); len(got) != 1 || !strings.Contains(got[0], "cut") {
		t.Errorf("%q", got)
	}
}

// Every attack in small against net/http, to see that it is what it says: what it obliges the peer to do comes.
func TestAttacks(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var speaks http.Protocols
	speaks.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: &speaks, ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			_, _ = io.CopyN(w, &endless{}, 1<<20)
		}
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-served
	})
	for name, c := range map[string]struct {
		turns                  int
		resets, answers, parts int // at least
		ended                  string
	}{
		"rapid-reset":        {turns: 100},
		"reset-window-0":     {turns: 64, resets: 50},
		"reset-overflow":     {turns: 64, resets: 50},
		"reset-half-closed":  {turns: 64, resets: 50},
		"reset-second-head":  {turns: 64, resets: 50},
		"reset-priority":     {turns: 64, ended: "GOAWAY FRAME_SIZE_ERROR"},
		"reset-depends":      {turns: 64, resets: 50},
		"reset-length":       {turns: 64, answers: 64},
		"continuation":       {turns: 30_000, ended: "GOAWAY PROTOCOL_ERROR"},
		"continuation-empty": {turns: 100},
		"settings":           {turns: 100},
		"ping":               {turns: 100},
		"ping-read":          {turns: 100},
		"data-empty":         {turns: 100},
		"priorities":         {turns: 100},
		"windows":            {turns: 100},
		"hpack-bomb":         {turns: 8, answers: 1},
		"crumbs":             {turns: 8, answers: 1},
		"tiny-windows":       {turns: 1000, answers: 100, parts: 900},
		"stalled":            {turns: 10, answers: 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := attacks()
			k := all[slices.IndexFunc(all, func(k *attack) bool { return k.name == name })]
			k.turns, k.hold = c.turns, 0
			r := k.run(ln.Addr().(*net.TCPAddr).AddrPort(), 500*time.Millisecond)
			if r.Err != "" || r.Resets < c.resets || r.Answers < c.answers || r.Parts < c.parts || !strings.Contains(strings.Join(r.Ended, " "), c.ended) {
				t.Errorf("%+v, want at least %+v", r, c)
			}
		})
	}
	if len(attacks()) != 20 {
		t.Errorf("%d attacks, and this test tries 20", len(attacks()))
	}
}

// The same through two sidecars with mTLS between them.
func TestHaulThroughSidecars(t *testing.T) {
	s, at := serveBodies(t)
	ca := testmesh.NewCA(t)
	far := chain.Inbound(t, ca.Holder(chain.Service), at, policy.ModeStrict)
	near := chain.Outbound(t, ca.Holder(chain.Caller), far.At, true)
	for _, upload := range []bool{false, true} {
		for _, slow := range []int{0, 5_000} {
			done, err := s.carry(haul{Address: near.At, Upload: upload, Size: 30_000_000, Slow: slow})
			if err != nil {
				t.Errorf("upload %v, slow %d: %+v %v", upload, slow, done, err)
			}
		}
	}
}
