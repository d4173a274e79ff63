package collector_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"runtime/metrics"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/collector"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/store/span/local"
)

var overload = flag.Duration("overload", time.Second, "how long TestOverload sends three times what is kept")

const (
	overloadDir   = "TULLE_TEST_OVERLOAD_DIR" // set in the process that is overloaded
	overloadMiB   = 160                       // memory limit of that process; the collector's is three quarters, the runtime's seven tenths to seven eighths, as the observer has it
	overloadSpans = 256                       // of a batch, each about half a KiB
)

// overloaded is what that process says at its end.
type overloaded struct {
	Peak  uint64 // bytes of memory that Go had from the system
	Stats collector.Stats
}

// overloadedMain runs a collector and its store in a process of their own, until its input ends.
func overloadedMain(dir string) error {
	db, err := local.Open(local.Config{Dir: dir})
	if err != nil {
		return err
	}
	c, err := collector.New(collector.Config{GRPC: "127.0.0.1:0", HTTP: "127.0.0.1:0", Spans: db, MemoryLimitMiB: overloadMiB * 3 / 4})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	garbage := run.Garbage{Spare: 96 << 20, Most: 200, Least: 100, Low: overloadMiB << 20 / 10 * 7, High: overloadMiB << 20 / 8 * 7, Room: overloadMiB << 20 / 4}
	go func() { _ = garbage.Actor(os.LookupEnv)(ctx, func() {}) }()
	done := make(chan error, 1)
	go func() {
		done <- c.Run(ctx, func() {
			g, h := c.Addresses()
			fmt.Println(g, h)
		})
	}()
	var peak atomic.Uint64
	go func() {
		s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
		for ctx.Err() == nil {
			metrics.Read(s)
			peak.Store(max(peak.Load(), s[0].Value.Uint64()-s[1].Value.Uint64()))
			<-time.NewTimer(20 * time.Millisecond).C
		}
	}()
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	if err := <-done; err != nil {
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(overloaded{peak.Load(), c.Stats()})
}

// rawCodec is for messages that are bytes already.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// Three times what the collector keeps is offered to it, by many connections at once and both protocols, in batches of 100 KiB and more. Its memory stays at its
// soft limit, each refusal says when to come again, and what was acknowledged is in the store, once.
func TestOverload(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), overloadDir+"="+dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	lines := bufio.NewReader(out)
	line, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	addrs := strings.Fields(line)

	marker := pcommon.TraceID{0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10, 0xf1, 0xe2, 0xd3, 0xc4, 0xb5, 0xa6, 0x97, 0x88}
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr(flow.AttrServiceName, "bank")
	ss := rs.ScopeSpans().AppendEmpty()
	for i := range overloadSpans {
		sp := ss.Spans().AppendEmpty()
		sp.SetTraceID(marker)
		sp.SetSpanID(pcommon.SpanID{1, byte(i)})
		sp.SetName("GET")
		sp.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		sp.Attributes().PutStr("note", strings.Repeat(fmt.Sprint("x", i), 100))
	}
	template, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
	if err != nil {
		t.Fatal(err)
	}
	traceOf := func(n uint64) (id pcommon.TraceID) {
		binary.BigEndian.PutUint64(id[:], n)
		return id
	}
	var conns []*grpc.ClientConn
	for range 8 {
		cc, err := grpc.NewClient(addrs[0], grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		conns = append(conns, cc)
	}
	web := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 32}}
	defer web.CloseIdleConnections()

	var (
		mu            sync.Mutex
		kept          []uint64 // acknowledged
		refused       = map[string]int{}
		next, flights atomic.Uint64
	)
	// one sends one batch and says whether it was kept.
	one := func() bool {
		n := next.Add(1)
		id := traceOf(n)
		body := bytes.ReplaceAll(template, marker[:], id[:])
		why := ""
		if n%8 == 0 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addrs[1]+"/v1/traces", bytes.NewReader(body))
			if err != nil {
				t.Error(err)
				return false
			}
			req.Header.Set("Content-Type", "application/x-protobuf")
			resp, err := web.Do(req)
			if err != nil {
				t.Errorf("over HTTP: %v", err)
				return false
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				why = "HTTP " + resp.Status
				if c := resp.StatusCode; c != http.StatusServiceUnavailable && c != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
					t.Errorf("%s, Retry-After %q: a sender would not come again", why, resp.Header.Get("Retry-After"))
				}
			}
		} else {
			var answer []byte
			err := conns[n%uint64(len(conns))].Invoke(t.Context(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export", body, &answer)
			if err != nil {
				s := status.Convert(err)
				why = "gRPC " + s.Code().String() + ": " + s.Message()
				wait := false
				for _, d := range s.Details() {
					r, ok := d.(*errdetails.RetryInfo)
					wait = wait || ok && r.GetRetryDelay().AsDuration() > 0
				}
				if c := s.Code(); c != codes.Unavailable && c != codes.ResourceExhausted || !wait {
					t.Errorf("%s, RetryInfo %v: a sender would not come again", why, wait)
				}
			}
		}
		mu.Lock()
		defer mu.Unlock()
		if why != "" {
			refused[why]++
			return false
		}
		kept = append(kept, n)
		return true
	}

	// What it keeps when two senders wait for every answer.
	began := time.Now()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for time.Since(began) < *overload/4 {
				one()
			}
		})
	}
	wg.Wait()
	rate := float64(len(kept)) / time.Since(began).Seconds()
	if rate == 0 {
		t.Fatalf("nothing was kept: %v", refused)
	}

	// Three times as much, whatever becomes of what was sent before.
	began = time.Now()
	offered, skipped := 0, 0
	for time.Since(began) < *overload {
		for due := int(3 * rate * time.Since(began).Seconds()); offered+skipped < due; {
			if flights.Load() >= 1024 { // as many senders as there are
				skipped++
				continue
			}
			offered++
			flights.Add(1)
			wg.Go(func() {
				defer flights.Add(^uint64(0))
				one()
			})
		}
		<-time.NewTimer(time.Millisecond).C
	}
	wg.Wait()
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	var said overloaded
	if err := json.NewDecoder(lines).Decode(&said); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%.0f batches/s kept alone; %d offered in %s, %d more not sent for want of senders; %d kept in all; refused %v; peak %d MiB of %d",
		rate, offered, *overload, skipped, len(kept), refused, said.Peak>>20, overloadMiB)
	if limit := uint64(overloadMiB * 5 / 4 << 20); said.Peak > limit { // it is a soft limit: the garbage collector works towards it
		t.Errorf("%d MiB of memory, with a soft limit of %d", said.Peak>>20, overloadMiB)
	}
	if said.Stats.SpansAccepted != uint64(len(kept)*overloadSpans) {
		t.Errorf("%d spans accepted, %d acknowledged", said.Stats.SpansAccepted, len(kept)*overloadSpans)
	}
	db, err := local.Open(local.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, n := range kept {
		got, err := db.Trace(t.Context(), flow.TraceID(traceOf(n)))
		if err != nil || got.SpanCount() != overloadSpans {
			t.Fatalf("acknowledged batch %d: %v, %d of %d spans", n, err, got.SpanCount(), overloadSpans)
		}
	}
}
