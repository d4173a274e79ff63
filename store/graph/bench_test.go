package graph

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/store/metric"
)

// benchEdges are how many edges the benchmarks' mesh has, with as many services as a fifth of them.
const benchEdges = 5_000

// benchWarm is after how many seconds the durations of exports come around.
const benchWarm = 60

// benchMesh is a mesh in which each service, with one sidecar, calls the five behind it, over a DB that it fills.
func benchMesh(b *testing.B, edges int) (*sim, *metric.DB) {
	b.Helper()
	db, err := metric.Open(b.TempDir(), metric.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = db.Close() })
	s := newSim(b)
	services := edges / 5
	r := &tullev1.Registry{}
	for i := range services {
		c := &simSidecar{
			instance: fmt.Sprintf("svc%04d-1", i), service: fmt.Sprintf("svc%04d", i), address: fmt.Sprintf("10.0.%d.%d:80", i/250, i%250), mode: "flow", protocol: "http/1.1",
		}
		c.identity = "spiffe://test/ns/shop/sa/" + c.service
		c.start(s.now)
		s.sidecars[c.instance] = c
		r.Workloads = append(r.Workloads, &tullev1.RegistryWorkload{Service: c.service, Namespace: "shop", Instance: c.instance, Identity: c.identity, Address: c.address, Version: "v1", Protocol: c.protocol})
	}
	s.registry = r
	s.open(Config{DB: db, Dir: b.TempDir()})
	return s, db
}

// exports makes the calls of one second, and what sidecars report of it.
func exports(s *sim, edges, second int) []pmetric.Metrics {
	services := edges / 5
	for i := range services {
		for k := range 5 {
			s.call(fmt.Sprintf("svc%04d-1>svc%04d-1:%d/ms=%d", i, (i+k+1)%services, 5+k, 4+(second*7+i+k)%60))
			if k == 0 && i%20 == 0 {
				s.call(fmt.Sprintf("svc%04d-1>svc%04d-1:1/err", i, (i+1)%services))
			}
		}
	}
	s.now = s.now.Truncate(time.Second).Add(time.Second) // sidecars sample at whole seconds
	out := make([]pmetric.Metrics, 0, services)
	for i := range services {
		out = append(out, s.sidecars[fmt.Sprintf("svc%04d-1", i)].export(s.now))
	}
	s.now = s.now.Add(2 * time.Millisecond) // on their way
	return out
}

func processCPU(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkUpdates is what a second of 5,000 edges costs, all of them busy: 1,000 exports of sidecars, seal, snapshot, and every fifth second the series,
// in CPU time of the whole process. The bar is 5 % of a core.
func BenchmarkUpdates(b *testing.B) {
	s, _ := benchMesh(b, benchEdges)
	var spent, ingest, write time.Duration
	n := 0
	var batches [5][]pmetric.Metrics
	for round := 0; round < benchWarm/len(batches) || b.Loop(); round++ { // once warm, every edge has met all its durations, and every series is there
		b.StopTimer()
		begin := s.now
		for i := range batches {
			batches[i] = exports(s, benchEdges, n+i)
		}
		s.now = begin
		runtime.GC() // the garbage of making them is not the graph's
		b.StartTimer()
		for i := range batches {
			s.now = s.now.Truncate(time.Second).Add(time.Second + 2*time.Millisecond)
			before := processCPU(b)
			for _, md := range batches[i] {
				s.ingest(md)
			}
			mid := processCPU(b)
			s.now = s.now.Truncate(time.Second).Add(tickPhase)
			s.g.Tick(b.Context(), s.now)
			after := processCPU(b)
			if n++; n > benchWarm {
				spent += after - before
				ingest += mid - before
				write += after - mid
			}
		}
	}
	seconds := float64(n - benchWarm)
	if got := len(s.g.Live().Edges); got != benchEdges {
		b.Fatalf("%d edges", got)
	}
	b.ReportMetric(100*spent.Seconds()/seconds, "%core")
	b.ReportMetric(100*ingest.Seconds()/seconds, "%core-ingest")
	b.ReportMetric(100*write.Seconds()/seconds, "%core-tick")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkAt is the graph at an instant a minute ago, from frames and from three minutes of series, in CPU time of the whole process. The bar is 50 ms.
func BenchmarkAt(b *testing.B) {
	for _, edges := range []int{100, 1_000, benchEdges} {
		b.Run(fmt.Sprint(edges), func(b *testing.B) {
			s, _ := benchMesh(b, edges)
			var at time.Time
			for n := range 180 {
				for _, md := range exports(s, edges, n) {
					s.ingest(md)
				}
				s.now = s.now.Truncate(time.Second).Add(tickPhase)
				s.g.Tick(b.Context(), s.now)
				if n == 120 {
					at = s.now
				}
			}
			frame, _ := s.g.frames.read(s.g.framed)
			for _, from := range []string{"frames", "series"} {
				b.Run(from, func(b *testing.B) {
					if from == "series" {
						s.g.frames = nil
					}
					n, before := 0, processCPU(b)
					for b.Loop() {
						n++
						snap, err := s.g.At(b.Context(), at)
						if err != nil || len(snap.Edges) != edges {
							b.Fatal(err)
						}
					}
					b.ReportMetric(1000*(processCPU(b)-before).Seconds()/float64(n), "cpu-ms/op")
					b.ReportMetric(float64(len(frame))/1000, "frame-kB")
					b.ReportMetric(0, "ns/op")
				})
			}
		})
	}
}
