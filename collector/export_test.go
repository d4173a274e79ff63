package collector_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/collector"
	"github.com/tulle-mesh/tulle/collector/processor/enrich"
	"github.com/tulle-mesh/tulle/internal/flow"
)

// peer is a tracing backend that takes OTLP. The zero value of answer takes everything.
type peerBackend struct {
	ptraceotlp.UnimplementedGRPCServer
	answer func(context.Context) error

	mu    sync.Mutex
	spans map[string]int // how often each came
	keys  map[string]bool
	auth  string
	more  chan struct{}
}

func newPeer() *peerBackend {
	return &peerBackend{spans: map[string]int{}, keys: map[string]bool{}, more: make(chan struct{}, 1024)}
}

func (p *peerBackend) take(td ptrace.Traces, auth string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.auth = auth
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, sp := range ss.Spans().All() {
				p.spans[sp.Name()]++
				for k := range sp.Attributes().All() {
					p.keys[k] = true
				}
			}
		}
	}
	select {
	case p.more <- struct{}{}:
	default:
	}
}

func (p *peerBackend) Export(ctx context.Context, r ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	if p.answer != nil {
		if err := p.answer(ctx); err != nil {
			return ptraceotlp.NewExportResponse(), err
		}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	p.take(r.Traces(), strings.Join(md.Get("x-key"), ","))
	return ptraceotlp.NewExportResponse(), nil
}

func (p *peerBackend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var (
		b      []byte
		z, err = gzip.NewReader(r.Body)
	)
	if err == nil {
		b, err = io.ReadAll(z)
	}
	req := ptraceotlp.NewExportRequest()
	if err == nil {
		err = req.UnmarshalProto(b)
	}
	if err != nil || r.URL.Path != "/base/v1/traces" {
		http.Error(w, fmt.Sprint(r.URL.Path, err), http.StatusBadRequest)
		return
	}
	p.take(req.Traces(), r.Header.Get("x-key"))
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// await waits until the backend has n different spans.
func (p *peerBackend) await(t *testing.T, n int) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		p.mu.Lock()
		got := len(p.spans)
		p.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-p.more:
		case <-limit:
			t.Fatalf("%d of %d spans came", got, n)
		}
	}
}

func servePeer(t *testing.T, p *peerBackend, addr string) string {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	ptraceotlp.RegisterGRPCServer(s, p)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

// numbered is a batch of one span, so that each can be found again.
func numbered(i int) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr(flow.AttrServiceName, "bank")
	sp := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	sp.SetTraceID(pcommon.TraceID(traceID))
	sp.SetSpanID(pcommon.SpanID{byte(i), byte(i >> 8), 1})
	sp.SetName(fmt.Sprint("n", i))
	sp.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	sp.Attributes().PutStr("secret", "x")
	return td
}

func TestEverythingStoredIsExported(t *testing.T) {
	for _, scheme := range []string{"grpc", "http"} {
		t.Run(scheme, func(t *testing.T) {
			p := newPeer()
			var url string
			if scheme == "grpc" {
				url = "grpc://" + servePeer(t, p, "127.0.0.1:0")
			} else {
				s := httptest.NewServer(p)
				t.Cleanup(s.Close)
				url = s.URL + "/base"
			}
			c, stop := start(t, collector.Config{
				Spans: openSpans(t, t.TempDir()), ExportDir: t.TempDir(), Export: []collector.Export{{URL: url, Headers: map[string]string{"x-key": "k"}}},
				Redact: enrich.Config{Drop: []string{"secret"}},
			})
			cc := dial(t, c, insecure.NewCredentials())
			for i := range 20 {
				if err := send(t.Context(), cc, numbered(i)); err != nil {
					t.Fatal(err)
				}
			}
			p.await(t, 20)
			stop()
			if p.auth != "k" || p.keys["secret"] {
				t.Errorf("header %q, attributes %v", p.auth, p.keys)
			}
			st := c.Stats()
			if len(st.Export) != 1 || len(st.Dropped) != 0 {
				t.Errorf("%+v", st)
			}
			for name, e := range st.Export {
				if e.Sent != 20 || e.Failed+e.Refused != 0 || !strings.HasSuffix(name, "/export1") {
					t.Errorf("%s: %+v", name, e)
				}
			}
		})
	}
}

// A backend that is away when spans come and when the collector ends gets them from the next one, on the same folder.
func TestExportsSurviveARestart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // an address that nobody serves
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	dir := t.TempDir()
	cfg := collector.Config{Spans: openSpans(t, t.TempDir()), ExportDir: dir, Export: []collector.Export{{URL: "grpc://" + addr}}}
	c, stop := start(t, cfg)
	cc := dial(t, c, insecure.NewCredentials())
	for i := range 30 {
		if err := send(t.Context(), cc, numbered(i)); err != nil {
			t.Fatal(err) // the store has it: that the backend is away is no reason to refuse
		}
	}
	stop()
	if d := c.Stats().Dropped; len(d) != 0 {
		t.Fatalf("dropped: %v", d)
	}
	p := newPeer()
	servePeer(t, p, addr)
	start(t, cfg)
	p.await(t, 30)
}

// A backend that hangs, and a queue that is full: senders notice nothing, and what the copy lacks is counted.
func TestASlowBackendDelaysAndRefusesNobody(t *testing.T) {
	release := make(chan struct{})
	p := newPeer()
	p.answer = func(ctx context.Context) error {
		select {
		case <-release:
		case <-ctx.Done():
		}
		return status.Error(codes.Unavailable, "slow")
	}
	addr := servePeer(t, p, "127.0.0.1:0")
	db := openSpans(t, t.TempDir())
	c, stop := start(t, collector.Config{Spans: db, ExportDir: t.TempDir(), ExportBytes: 1 << 20, Export: []collector.Export{{URL: "grpc://" + addr}}})
	cc := dial(t, c, insecure.NewCredentials())
	const batches = 40
	for i := range batches {
		td := numbered(i)
		td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().PutStr("padding", strings.Repeat("x", 100<<10))
		if err := send(t.Context(), cc, td); err != nil {
			t.Fatal(err)
		}
	}
	td, err := db.Trace(t.Context(), traceID)
	if err != nil || td.SpanCount() != batches {
		t.Fatalf("%v, %d spans stored", err, td.SpanCount())
	}
	st := c.Stats()
	for st.Dropped["export_refused"] < 20 { // the copy follows in its own time
		<-time.NewTimer(time.Millisecond).C
		st = c.Stats()
	}
	for name, e := range st.Export {
		if e.Refused < 20 || e.Capacity != 1<<20 {
			t.Errorf("%s: %+v, dropped %v", name, e, st.Dropped)
		}
	}
	close(release)
	stop()
	if st.SpansAccepted != batches || len(st.Export) != 1 || len(st.Refused) != 0 {
		t.Errorf("%+v", st)
	}
}

func TestExportThatCannotWorkIsRefused(t *testing.T) {
	for name, e := range map[string]collector.Export{
		"no scheme": {URL: "tempo:4317"}, "no port": {URL: "grpc://tempo"}, "a path": {URL: "grpc://tempo:4317/x"}, "no host": {URL: "http:///v1"},
		"credentials": {URL: "http://u:secret@h"}, "nothing": {},
	} {
		_, err := collector.New(collector.Config{Spans: refusing{}, GRPC: "127.0.0.1:0", ExportDir: t.TempDir(), Export: []collector.Export{e}})
		if err == nil || strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want a one-line error without secrets", name, err)
		}
	}
	if _, err := collector.New(collector.Config{Spans: refusing{}, GRPC: "127.0.0.1:0", Export: []collector.Export{{URL: "grpc://h:1"}}}); err == nil {
		t.Error("no folder for the queue: no error")
	}
}
