//go:build unix

package dashboard

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
)

const (
	feedServices = 300
	feedBrowsers = 200
	// feedEnv tells TestFeedReaders, in a process of its own, where to read and which topics: "HOST:PORT TOPIC…".
	feedEnv = "TULLE_FEED_READERS"
)

func cpuTime(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBrowsers feeds 200 browsers a picture of a mesh of 300 services each second; an operation is a picture. core-% is what the dashboard's process takes
// of one core, the making of the pictures included; the browsers are a process of their own.
//
//	go test -run '^$' -bench Browsers -benchtime 30x ./dashboard
func BenchmarkBrowsers(b *testing.B) {
	for _, c := range []struct {
		name   string
		topics string
	}{
		{"page", "graph events"},
		{"page and every edge", "graph events edges"}, // as if all 200 pointed at an edge
		{"by namespace", "by-namespace events"},
	} {
		b.Run(c.name, func(b *testing.B) { benchmarkBrowsers(b, c.topics) })
	}
}

func benchmarkBrowsers(b *testing.B, topics string) {
	ticks := make(chan time.Time)
	s, stop, err := dashboardtest.Sources("", time.Now)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = stop() }()
	s.Graph = &dashboardtest.Large{Graph: dashboardtest.Graph{Ticks: ticks, Now: time.Now}, Size: feedServices}
	d, err := New(Config{Addr: "127.0.0.1:0", Sources: s})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx, nil) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	readers := exec.CommandContext(b.Context(), self, "-test.run", "^TestFeedReaders$", "-test.v")
	readers.Env = append(os.Environ(), feedEnv+"="+d.Addr(ctx)+" "+topics)
	var said strings.Builder
	readers.Stdout = &said
	if err := readers.Start(); err != nil {
		b.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); d.hub.Stats().Clients < feedBrowsers; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("%d of %d browsers came", d.hub.Stats().Clients, feedBrowsers)
		}
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	ticks <- <-second.C // the first picture of each is a whole one
	<-second.C
	missed := d.hub.Stats().Missed
	b.ResetTimer()
	begun, cpu := time.Now(), cpuTime(b)
	for range b.N {
		ticks <- time.Now()
		<-second.C
	}
	cpu, took := cpuTime(b)-cpu, time.Since(begun)
	b.StopTimer()
	b.ReportMetric(100*cpu.Seconds()/took.Seconds(), "core-%")
	b.ReportMetric(float64(d.hub.Stats().Missed-missed), "missed")
	cancel() // the hub ends every connection, which ends the readers
	_ = readers.Wait()
	var got struct{ Browsers, Messages, Bytes uint64 }
	_, after, _ := strings.Cut(said.String(), "READ ")
	if err := json.NewDecoder(strings.NewReader(after)).Decode(&got); err != nil {
		b.Fatalf("the browsers did not say what they read: %v\n%s", err, said.String())
	}
	if want := uint64(feedBrowsers * b.N); got.Browsers != feedBrowsers || got.Messages < want*9/10 {
		b.Fatalf("%d browsers read %d messages in %d ticks", got.Browsers, got.Messages, b.N)
	}
	b.ReportMetric(float64(got.Bytes)/float64(got.Messages)/1000, "kB/message")
}

// TestFeedReaders is no test: it is the browsers of BenchmarkBrowsers, in their own process.
func TestFeedReaders(t *testing.T) {
	addr, topics, ok := strings.Cut(os.Getenv(feedEnv), " ")
	if !ok {
		t.Skip("it is run by BenchmarkBrowsers")
	}
	var browsers, messages, size atomic.Uint64
	var all sync.WaitGroup
	for range feedBrowsers {
		all.Go(func() {
			dialer := websocket.Dialer{EnableCompression: true, HandshakeTimeout: time.Minute} // browsers ask for compression
			c, resp, err := dialer.Dial("ws://"+addr+"/live", nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _, _ = c.Close(), resp.Body.Close() }()
			if err := c.WriteJSON(map[string]any{"type": "subscribe", "topics": strings.Fields(topics)}); err != nil {
				t.Error(err)
				return
			}
			browsers.Add(1)
			for {
				_, m, err := c.ReadMessage()
				if err != nil {
					return
				}
				messages.Add(1)
				size.Add(uint64(len(m)))
			}
		})
	}
	all.Wait()
	fmt.Printf("READ {\"browsers\":%d,\"messages\":%d,\"bytes\":%d}\n", browsers.Load(), messages.Load(), size.Load())
}
