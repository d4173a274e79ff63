package graph

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tulle-mesh/tulle/store/metric"
)

// The same past, from frames and from series.
func TestPastIsDrawnFromFrames(t *testing.T) {
	db, err := metric.Open(t.TempDir(), metric.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	s := newSim(t)
	s.open(Config{DB: db, Dir: t.TempDir()})
	for _, c := range []string{
		"sidecar web-1 service=web", "sidecar catalog-1 service=catalog address=10.0.0.1:80 version=v1", "sidecar catalog-2 service=catalog address=10.0.0.2:80",
		"override catalog 10.0.0.2:80 eject 0.01 consecutive_5xx",
	} {
		s.command(strings.Fields(c))
	}
	for range 90 {
		s.second([]string{"web-1>catalog-1:20/ms=7", "web-1>catalog-2:10/err/ms=40", "web-1>catalog-1:1/grpc=UNAVAILABLE", "->catalog-1:2", "web-1>catalog-1:3/refused"})
	}
	s.command(strings.Fields("mute web-1"))
	for range 60 {
		s.second([]string{"->catalog-1:2"})
	}
	at := s.now.Add(-70 * time.Second).Truncate(10 * time.Second)
	fast, err := s.g.At(t.Context(), at.Add(3*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	then, err := s.g.At(t.Context(), s.now.Add(-25*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	s.g.frames = nil
	slow, err := s.g.At(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	if !fast.At.Equal(at) || fast.Window != pastWindow {
		t.Errorf("it is of %s over %s, want %s", fast.At, fast.Window, at)
	}
	// Why an endpoint is ejected series do not know.
	if d := cmp.Diff(describe(slow), strings.ReplaceAll(describe(fast), "consecutive_5xx", "")); d != "" {
		t.Errorf("-series +frames:\n%s", d)
	}
	for _, e := range then.Edges {
		if missing := e.Source == "web"; missing != (e.State == ReporterMissing) || missing != (fmt.Sprint(e.Missing) == "[web-1]") || !missing && e.Server.Requests != 60 {
			t.Errorf("a reporter is silent: %s", describe(then))
		}
	}
}

// Frames that adjoin add up to the totals, whatever sidecars lose, repeat and restart, over the end of an hour and a restart of the writer.
func TestFramesAddUp(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 1))
	s := newSim(t)
	s.now = simStart.Add(58*time.Minute + 3*time.Second)
	dir := t.TempDir()
	s.open(Config{Dir: dir})
	for i := range 4 {
		s.command(strings.Fields(fmt.Sprintf("sidecar s%d-1 service=s%d address=10.0.0.%d:80", i, i, i+1)))
	}
	for range 20 { // the first frame is of after the opening
		s.second(nil)
	}
	first := frameBefore(s.now.Unix())
	options := []string{"", "/err", "/refused", "/lost", "/probe", "/grpc=UNAVAILABLE"}
	for n := range 300 {
		name := fmt.Sprintf("s%d-1", rnd.IntN(4))
		switch rnd.IntN(8) {
		case 0:
			s.command([]string{"lose", name})
		case 1:
			s.command([]string{"flow", name})
		case 2:
			if s.sidecars[name].sequence > 0 {
				s.command([]string{"repeat", name})
			}
		}
		if n == 150 {
			_ = s.g.frames.close()
		}
		var calls []string
		for range rnd.IntN(4) {
			calls = append(calls, fmt.Sprintf("s%d-1>s%d-1:%d/ms=%d%s", rnd.IntN(4), rnd.IntN(4), 1+rnd.IntN(9), 1+rnd.IntN(400), options[rnd.IntN(len(options))]))
		}
		if n%7 == 0 { // nobody's exports are lost for longer than a frame waits
			for i := range 4 {
				s.command([]string{"flow", fmt.Sprintf("s%d-1", i)})
			}
		}
		s.second(calls)
	}
	for i := range 4 {
		s.command([]string{"flow", fmt.Sprintf("s%d-1", i)})
	}
	for range 40 {
		s.second(nil)
	}
	w, edges := newWindow(time.Time{}, 0), map[edgeKey]*windowEdge{}
	for end := first; end <= s.g.framed; end += frameSeconds {
		frame, ok := s.g.frames.read(end)
		if !ok {
			t.Fatalf("no frame ends %d s after the first", end-first)
		}
		if err := w.addFrame(edges, frame); err != nil {
			t.Fatal(err)
		}
	}
	totals := s.g.Totals()
	for _, want := range totals {
		e := edges[edgeKey{want.Source, want.Destination, want.Protocol}]
		if e == nil {
			t.Fatalf("%s to %s is in no frame", want.Source, want.Destination)
		}
		client, server := e.client, e.server
		if client == nil {
			client = &cell{}
		}
		if server == nil {
			server = &cell{}
		}
		if client.requests != want.ClientExchanges || server.requests != want.ServerExchanges || client.attempts != want.ClientAttempts || server.answered != want.ServerAnswered ||
			client.latency.count != want.ClientExchanges {
			t.Errorf("%s to %s: frames say %d, %d, %d; totals %+v", want.Source, want.Destination, client.requests, server.requests, client.attempts, want)
		}
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*"+frameSuffix)); len(totals) < 10 || len(files) != 2 {
		t.Errorf("%d edges, files %v", len(totals), files)
	}
}

// A file that was cut anywhere, or has a bit that is wrong, yields the frames that are whole and no other, and goes on after what is whole.
func TestDamagedFrames(t *testing.T) {
	dir := t.TempDir()
	f, err := openFrames(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	const hour = 3600 * 1000
	content := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 5+i) }
	for i := 1; i <= 3; i++ {
		if err := f.append(hour+int64(i)*10, content(i)); err != nil {
			t.Fatal(err)
		}
	}
	_ = f.close()
	path := filepath.Join(dir, frameFile(hour+10))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, mustHave func(i int) bool) {
		t.Helper()
		for i := 1; i <= 3; i++ {
			got, ok := f.read(hour + int64(i)*10)
			if ok && !bytes.Equal(got, content(i)) || !ok && mustHave(i) {
				t.Fatalf("%s: frame %d is %v, %v", what, i, got, ok)
			}
		}
	}
	for cut := 0; cut < len(whole); cut += 1 + cut%2 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprint("cut at ", cut), func(i int) bool { return cut >= i*(frameHeader+5)+i*(i+1)/2 })
		if err := f.append(hour+60, content(6)); err != nil {
			t.Fatal(err)
		}
		if got, ok := f.read(hour + 60); !ok || !bytes.Equal(got, content(6)) {
			t.Fatalf("cut at %d, what is appended afterwards: %v %v", cut, got, ok)
		}
		_ = f.close()
	}
	for bit := range whole {
		b := bytes.Clone(whole)
		b[bit] ^= 1 << (bit % 8)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprint("byte ", bit), func(int) bool { return false })
	}
}

func TestFramesGiveWay(t *testing.T) {
	f, err := openFrames(t.TempDir(), 3500)
	if err != nil {
		t.Fatal(err)
	}
	for hour := range int64(10) {
		if err := f.append(hour*3600+10, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	for hour := range int64(10) {
		if _, ok := f.read(hour*3600 + 10); ok != (hour >= 6) {
			t.Errorf("hour %d: %v", hour, ok)
		}
	}
}

// Whatever a frame holds, reading it ends, and takes no more room than it may.
func FuzzFrame(f *testing.F) {
	w := newWindow(simStart, 10*time.Second)
	e := windowEdge{edgeKey: edgeKey{"web", "cart", "h2"}, client: &cell{requests: 3, reasons: map[string]uint64{"shed": 1}}, known: true, missing: []string{"web-1"}}
	e.client.latency.observe(0.1, 3)
	w.edges = append(w.edges, e)
	w.endpoint(endpointID{"cart", "10.0.0.1:80"}).requests = 3
	w.versions[versionKey{destination: "cart", version: "v1"}] = &versionCell{3, 1}
	w.reporters["web"] = []Reporter{{Instance: "web-1", LastSeen: simStart, Missing: true}}
	w.breaks["web"] = 0.5
	w.states[endpointID{"cart", "10.0.0.1:80"}] = endpointState{"ejected", "why", "o1"}
	f.Add(w.encode())
	f.Fuzz(func(t *testing.T, raw []byte) {
		back, edges := newWindow(time.Time{}, 0), map[edgeKey]*windowEdge{}
		if back.addFrame(edges, compress(raw)) != nil {
			return
		}
		for _, e := range edges {
			back.edges = append(back.edges, *e)
		}
		again, same := newWindow(time.Time{}, 0), map[edgeKey]*windowEdge{}
		if err := again.addFrame(same, compress(back.encode())); err != nil {
			t.Fatalf("what was read cannot be written and read: %v", err)
		}
	})
}
