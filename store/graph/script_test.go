package graph

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/store/event"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the outputs in testdata/*.txt")

// The scripts in testdata drive simulated sidecars under virtual time and print what the graph makes of their exports. A command is a line; its
// output, if any, follows the line "----" and ends at an empty line. Commands:
//
//	sidecar INSTANCE service=S [address=A] [version=V] [skew=D] [protocol=P]   a workload in the registry, and its sidecar
//	external SERVICE                                                          a host outside the mesh
//	override SERVICE ADDRESS KIND FRACTION REASON                             a decision of the controller
//	run N [CALL…]            N seconds; in each, the calls happen, every sidecar reports, the graph ticks
//	CALL is A>B:COUNT[/OPTION…], A and B instances (B may be an external host; A may be "-", a caller without sidecar; with a ' behind it, the oldest process
//	that handed over); options:
//	  ms=12 err refused lost probe tcp broken trace=HEX
//	lose INSTANCE | mute INSTANCE | hold INSTANCE | flow INSTANCE             from now on its exports vanish on the way, are not made, are kept back, or arrive
//	release INSTANCE         exports kept back arrive, in order
//	repeat INSTANCE          its last export arrives again
//	restart INSTANCE [goodbye]   a new boot, counters at zero
//	handover INSTANCE        a new boot takes over; what has begun in the old one goes on there, and it reports too
//	leave INSTANCE [killed]  the oldest boot that handed over ends, with or without goodbye
//	claim INSTANCE [as=IDENTITY] [service=S] [instance=I]   its exports now come over a connection of another identity, say another name
//	reopen                   the observer restarts; the sidecars count on
//	snapshot | events | totals | rejected | observed                          print
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := newSim(t).script(string(want))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("%s (-want +got; -rewrite accepts it):\n%s", file, d)
			}
		})
	}
}

// sim is a mesh of simulated sidecars and the graph they report to.
type sim struct {
	t        testing.TB
	now      time.Time
	registry *tullev1.Registry
	sidecars map[string]*simSidecar
	g        *Graph
	reg      *prometheus.Registry
	events   []event.Event
	observed <-chan *tullev1.Observed
}

type simSidecar struct {
	instance, service, identity, address string
	protocol                             string
	skew                                 time.Duration
	boot                                 int
	began                                time.Time
	sequence                             int64
	counts                               map[point]uint64
	hists                                map[point]*hist
	examples                             map[point][]simExample
	mode                                 string
	held                                 []pmetric.Metrics
	last                                 pmetric.Metrics
	predecessor                          int           // boot that handed over to this one; 0: none
	older                                []*simSidecar // that handed over, the oldest first
}

type simExample struct {
	trace string
	at    time.Time
	value float64
}

var simStart = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func newSim(t testing.TB) *sim {
	s := &sim{t: t, now: simStart, registry: &tullev1.Registry{}, sidecars: map[string]*simSidecar{}}
	s.open(Config{})
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	s.observed = s.g.Observations(ctx)
	return s
}

// open opens the graph, in place of one that is open.
func (s *sim) open(cfg Config) {
	s.reg = prometheus.NewRegistry()
	cfg.Registry = func() *tullev1.Registry { return s.registry }
	cfg.OnEvent = func(e event.Event) { s.events = append(s.events, e) }
	cfg.Now = func() time.Time { return s.now }
	cfg.Registerer = s.reg
	g, err := Open(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.g = g
}

func (s *sim) script(text string) string {
	var out strings.Builder
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		out.WriteString(line + "\n")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		printed := s.command(strings.Fields(line))
		if i+1 < len(lines) && lines[i+1] == "----" {
			for i++; i+1 < len(lines) && lines[i+1] != ""; i++ {
			}
		}
		if printed != "" {
			out.WriteString("----\n" + strings.TrimRight(printed, "\n") + "\n")
		}
	}
	return out.String()
}

func (s *sim) command(f []string) string {
	opts := map[string]string{}
	for _, o := range f[1:] {
		k, v, _ := strings.Cut(o, "=")
		opts[k] = v
	}
	switch f[0] {
	case "sidecar":
		c := &simSidecar{instance: f[1], service: opts["service"], address: opts["address"], mode: "flow", protocol: opts["protocol"]}
		if c.protocol == "" {
			c.protocol = "http/1.1"
		}
		c.identity = "spiffe://test/ns/shop/sa/" + c.service
		if d := opts["skew"]; d != "" {
			var err error
			if c.skew, err = time.ParseDuration(d); err != nil {
				s.t.Fatal(err)
			}
		}
		c.start(s.now)
		s.sidecars[c.instance] = c
		s.change(func(r *tullev1.Registry) {
			r.Workloads = append(r.Workloads, &tullev1.RegistryWorkload{
				Service: c.service, Namespace: "shop", Instance: c.instance, Identity: c.identity, Address: c.address, Version: opts["version"], Protocol: c.protocol,
			})
		})
	case "external":
		s.change(func(r *tullev1.Registry) {
			r.Services = append(r.Services, &tullev1.RegistryService{Name: f[1], External: true, Protocol: "http/1.1"})
		})
	case "override":
		fraction, _ := strconv.ParseFloat(f[4], 64)
		s.change(func(r *tullev1.Registry) {
			r.Overrides = append(r.Overrides, &tullev1.RegistryOverride{
				Id: "o1", Service: f[1], Endpoint: f[2], Kind: f[3], Fraction: fraction, Reason: f[5], ExpiresUnixNano: s.now.Add(time.Minute).UnixNano(),
			})
		})
	case "run":
		n, err := strconv.Atoi(f[1])
		if err != nil {
			s.t.Fatal(err)
		}
		for range n {
			s.second(f[2:])
		}
	case "lose", "mute", "hold", "flow":
		s.sidecars[f[1]].mode = f[0]
	case "release":
		c := s.sidecars[f[1]]
		for _, md := range c.held {
			s.ingest(md)
		}
		c.held = nil
	case "repeat":
		s.ingest(s.sidecars[f[1]].last)
	case "restart":
		c := s.sidecars[f[1]]
		if _, ok := opts["goodbye"]; ok {
			md := c.export(s.now)
			md.ResourceMetrics().At(0).Resource().Attributes().PutBool(flow.AttrGoodbye, true)
			s.ingest(md)
		}
		c.start(s.now)
	case "handover":
		c := s.sidecars[f[1]]
		old := *c
		old.older = nil
		c.older = append(c.older, &old)
		c.start(s.now)
		c.predecessor = old.boot
	case "leave":
		c := s.sidecars[f[1]]
		old := c.older[0]
		c.older = c.older[1:]
		if _, killed := opts["killed"]; !killed {
			md := old.export(s.now)
			md.ResourceMetrics().At(0).Resource().Attributes().PutBool(flow.AttrGoodbye, true)
			s.ingest(md)
		}
	case "claim":
		c := s.sidecars[f[1]]
		if v, ok := opts["as"]; ok {
			c.identity = v
		}
		if v, ok := opts["service"]; ok {
			c.service = v
		}
		if v, ok := opts["instance"]; ok {
			c.instance = v
		}
	case "reopen":
		s.open(Config{})
	case "snapshot":
		return describe(s.g.Live())
	case "events":
		var b strings.Builder
		for _, e := range s.events {
			fmt.Fprintf(&b, "%s %s %s %s: %s\n", e.Time.Format("15:04:05"), e.Severity, e.Kind, strings.TrimSpace(e.Service+" "+e.Instance), e.Message)
		}
		s.events = nil
		return b.String() + "(end)"
	case "totals":
		var b strings.Builder
		for _, t := range s.g.Totals() {
			fmt.Fprintf(&b, "%s→%s:%s %s client exchanges=%d attempts=%d never delivered=%v server exchanges=%d answered=%d unanswered=%v missing=%v\n", t.Source, t.Destination,
				t.Protocol, t.State, t.ClientExchanges, t.ClientAttempts, t.NeverDelivered, t.ServerExchanges, t.ServerAnswered, t.ServerUnanswered, t.MissingReporters)
		}
		return b.String()
	case "rejected":
		return s.rejected()
	case "observed":
		return s.windows()
	default:
		s.t.Fatalf("unknown command %q", f[0])
	}
	return ""
}

// change publishes a new registry message; the old one stays as it was.
func (s *sim) change(f func(*tullev1.Registry)) {
	r := &tullev1.Registry{Workloads: slices.Clone(s.registry.Workloads), Services: slices.Clone(s.registry.Services), Overrides: slices.Clone(s.registry.Overrides)}
	f(r)
	s.registry = r
}

func (s *sim) second(calls []string) {
	for _, c := range calls {
		s.call(c)
	}
	s.now = s.now.Add(500 * time.Millisecond)
	for _, name := range slices.Sorted(maps.Keys(s.sidecars)) {
		c := s.sidecars[name]
		for _, p := range append(slices.Clone(c.older), c) {
			if p.mode == "mute" {
				continue
			}
			md := p.export(s.now)
			switch p.mode {
			case "hold":
				p.held = append(p.held, md)
			case "flow":
				s.ingest(md)
			}
		}
	}
	s.now = s.now.Add(500 * time.Millisecond)
	s.g.Tick(context.Background(), s.now)
	s.checkRolling()
}

func (s *sim) ingest(md pmetric.Metrics) {
	if err := s.g.Ingest(context.Background(), md); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sim) call(spec string) {
	head, opts, _ := strings.Cut(spec, "/")
	pair, count, _ := strings.Cut(head, ":")
	from, to, _ := strings.Cut(pair, ">")
	n, err := strconv.ParseUint(count, 10, 64)
	if err != nil {
		s.t.Fatalf("call %q: %v", spec, err)
	}
	ms, class, grpc, reason, trace := 10.0, "2xx", "", "", ""
	delivered, answered, lost, probe, tcp, broken, old := true, true, false, false, false, false, false
	for _, o := range strings.FieldsFunc(opts, func(r rune) bool { return r == '/' }) {
		k, v, _ := strings.Cut(o, "=")
		switch k {
		case "ms":
			ms, _ = strconv.ParseFloat(v, 64)
		case "err":
			class, reason = "5xx", flow.ReasonUpstreamStatus.String()
		case "grpc":
			grpc = v
			st, ok := flow.ParseGRPCStatus(v)
			if !ok {
				s.t.Fatalf("call %q: %q is no gRPC status", spec, v)
			}
			class = flow.Class(st.HTTP()).String()
		case "old": // a sidecar that does not say the protocol of an attempt yet
			old = true
		case "refused":
			class, reason, delivered = "5xx", flow.ReasonConnectRefused.String(), false
		case "lost":
			class, reason, lost = "5xx", flow.ReasonUpstreamReset.String(), true
		case "probe":
			probe = true
		case "tcp":
			tcp = true
		case "broken":
			broken = true
		case "trace":
			trace = v
		default:
			s.t.Fatalf("call %q: unknown option %q", spec, o)
		}
	}
	client, server := s.process(from), s.process(to)
	source, destination, endpoint := "", to, ""
	if client != nil {
		source = client.service
	}
	if server != nil {
		destination, endpoint = server.service, server.address
	}
	protocol := "http/1.1"
	if tcp {
		protocol = "tcp"
	} else if grpc != "" {
		protocol = "grpc"
	}
	edge := point{source: source, destination: destination, protocol: protocol}
	record := func(c *simSidecar, side flow.Side, class, reason string, answered bool, ms float64) {
		p := edge
		p.side = side
		if tcp {
			p.metric, p.reason = famConnections, reason
			c.counts[p] += n
			return
		}
		p.metric, p.class, p.grpc, p.reason, p.answered, p.probe = famExchanges, class, grpc, reason, answered, probe
		c.counts[p] += n
		if grpc != "" { // one message each way, the answer's only when it is well
			in, out := edge, edge
			in.metric, in.side, in.direction = famMessages, side, "in"
			out.metric, out.side, out.direction = famMessages, side, "out"
			c.counts[in] += n
			if class == "2xx" {
				c.counts[out] += n
			}
		}
		p = edge
		p.metric, p.side, p.class = famExchangeDuration, side, class
		c.observe(p, ms/1000, n)
	}
	if client != nil {
		record(client, flow.SideClient, class, reason, answered, ms)
		if !tcp {
			p := point{metric: famAttempts, source: source, destination: destination, endpoint: endpoint, class: class, grpc: grpc, reason: reason, delivered: delivered, probe: probe}
			if !old {
				p.protocol = protocol
			}
			if !delivered {
				p.class = "none"
			}
			client.counts[p] += n
			if trace != "" {
				client.examples[p] = append(client.examples[p], simExample{trace, s.now.Add(client.skew), ms / 1000})
			}
			client.observe(point{metric: famAttemptDuration, destination: destination, endpoint: endpoint}, ms/1000, n)
		}
		if broken {
			client.counts[point{metric: famTraceBreaks, source: source}] += n
		}
	}
	if server != nil && delivered && !lost {
		if class == "5xx" {
			reason = ""
		}
		record(server, flow.SideServer, class, reason, answered, ms-2)
	}
}

// process is the one that NAME, or NAME', names; nil when it is none.
func (s *sim) process(name string) *simSidecar {
	if instance, older := strings.CutSuffix(name, "'"); older {
		return s.sidecars[instance].older[0]
	}
	return s.sidecars[name]
}

func (c *simSidecar) start(now time.Time) {
	c.boot++
	c.began, c.sequence = now, 0
	c.counts, c.hists, c.examples = map[point]uint64{}, map[point]*hist{}, map[point][]simExample{}
}

func (c *simSidecar) observe(p point, seconds float64, n uint64) {
	h := c.hists[p]
	if h == nil {
		h = &hist{}
		c.hists[p] = h
	}
	h.observe(seconds, n)
}

func (c *simSidecar) export(now time.Time) pmetric.Metrics {
	c.sequence++
	clock := now.Add(c.skew)
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	a := rm.Resource().Attributes()
	a.PutStr(flow.AttrServiceName, c.service)
	a.PutStr(flow.AttrServiceNamespace, "shop")
	a.PutStr(flow.AttrServiceInstance, c.instance)
	a.PutStr(flow.AttrBootID, fmt.Sprintf("%016x", c.boot))
	if c.predecessor != 0 {
		a.PutStr(flow.AttrPredecessor, fmt.Sprintf("%016x", c.predecessor))
	}
	a.PutInt(flow.AttrSequence, c.sequence)
	a.PutInt(flow.AttrClock, clock.UnixNano())
	if c.identity != "-" {
		a.PutStr(flow.AttrReporterIdentity, c.identity)
	}
	ms := rm.ScopeMetrics().AppendEmpty().Metrics()
	begin, at := pcommon.NewTimestampFromTime(c.began.Add(c.skew)), pcommon.NewTimestampFromTime(clock)
	for _, f := range families {
		m := ms.AppendEmpty()
		m.SetName(f.name)
		switch f.family {
		case famExchangeDuration, famAttemptDuration, famRouteDuration:
			e := m.SetEmptyExponentialHistogram()
			e.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			for p, h := range c.hists {
				if p.metric == f.family {
					dp := e.DataPoints().AppendEmpty()
					dp.SetStartTimestamp(begin)
					dp.SetTimestamp(at)
					p.put(dp.Attributes())
					h.put(dp)
				}
			}
		default:
			sum := m.SetEmptySum()
			sum.SetIsMonotonic(true)
			sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			for p, v := range c.counts {
				if p.metric == f.family {
					dp := sum.DataPoints().AppendEmpty()
					dp.SetStartTimestamp(begin)
					dp.SetTimestamp(at)
					dp.SetIntValue(int64(v))
					p.put(dp.Attributes())
					for _, x := range c.examples[p] {
						e := dp.Exemplars().AppendEmpty()
						e.SetTimestamp(pcommon.NewTimestampFromTime(x.at))
						e.SetDoubleValue(x.value)
						var id pcommon.TraceID
						copy(id[:], x.trace)
						e.SetTraceID(id)
					}
				}
			}
		}
	}
	c.last = md
	return md
}

// put writes the attributes that sidecars write.
func (p *point) put(a pcommon.Map) {
	switch p.metric {
	case famExchanges, famExchangeDuration:
		a.PutStr(flow.AttrSide, p.side.String())
		a.PutStr(flow.AttrSourceService, p.source)
		a.PutStr(flow.AttrDestService, p.destination)
		a.PutStr(flow.AttrProtocol, p.protocol)
		a.PutStr(flow.AttrCodeClass, p.class)
		if p.metric == famExchangeDuration {
			return
		}
		a.PutStr(flow.AttrGRPC, p.grpc)
		a.PutStr(flow.AttrReason, p.reason)
		a.PutBool(flow.AttrAnswered, p.answered)
		a.PutBool(flow.AttrProbe, p.probe)
		return
	case famAttempts:
		a.PutStr(flow.AttrSourceService, p.source)
		a.PutStr(flow.AttrDestService, p.destination)
		a.PutStr(flow.AttrProtocol, p.protocol)
		a.PutStr(flow.AttrEndpoint, p.endpoint)
		a.PutStr(flow.AttrCodeClass, p.class)
		a.PutStr(flow.AttrGRPC, p.grpc)
		a.PutStr(flow.AttrReason, p.reason)
		a.PutBool(flow.AttrDelivered, p.delivered)
		a.PutBool(flow.AttrProbe, p.probe)
		return
	case famAttemptDuration:
		a.PutStr(flow.AttrDestService, p.destination)
		a.PutStr(flow.AttrEndpoint, p.endpoint)
		return
	}
	a.PutStr(flow.AttrSide, p.side.String())
	a.PutStr(flow.AttrSourceService, p.source)
	a.PutStr(flow.AttrDestService, p.destination)
	a.PutStr(flow.AttrProtocol, p.protocol)
	a.PutStr(flow.AttrCodeClass, p.class)
	a.PutStr(flow.AttrGRPC, p.grpc)
	a.PutStr(flow.AttrDirection, p.direction)
	a.PutStr(flow.AttrReason, p.reason)
	a.PutStr(flow.AttrEndpoint, p.endpoint)
	a.PutBool(flow.AttrAnswered, p.answered)
	a.PutBool(flow.AttrDelivered, p.delivered)
	a.PutBool(flow.AttrProbe, p.probe)
}

func (h *hist) put(dp pmetric.ExponentialHistogramDataPoint) {
	dp.SetScale(flow.HistogramScale)
	dp.SetCount(h.count)
	dp.SetSum(h.sum)
	dp.SetZeroCount(h.zero)
	dp.Positive().SetOffset(h.off)
	dp.Positive().BucketCounts().FromRaw(h.n)
}

func (s *sim) rejected() string {
	fams, err := s.reg.Gather()
	if err != nil {
		s.t.Fatal(err)
	}
	var b bytes.Buffer
	for _, f := range fams {
		if f.GetName() == "tulle_graph_rejected_total" {
			for _, m := range f.GetMetric() {
				if v := m.GetCounter().GetValue(); v > 0 {
					fmt.Fprintf(&b, "%s %.0f\n", m.GetLabel()[0].GetValue(), v)
				}
			}
		}
	}
	return b.String() + "(end)"
}

func (s *sim) windows() string {
	var b strings.Builder
	var last int64
	for {
		select {
		case o := <-s.observed:
			if last != 0 && o.WindowStartUnixNano != last {
				b.WriteString("windows are not contiguous\n")
			}
			last = o.WindowEndUnixNano
			fmt.Fprintf(&b, "%s missing=%v\n", time.Unix(0, o.WindowStartUnixNano).UTC().Format("15:04:05"), o.MissingReporters)
			for _, e := range o.Endpoints {
				side := "client " + e.Source
				if e.ServerSide {
					side = "server"
				}
				fmt.Fprintf(&b, "  %s %s %s by %s requests=%d failures=%d probes=%d/%d reasons=%v p50=%.1fms contiguous=%v traces=%d\n", e.Service, e.Endpoint, side, e.Reporter,
					e.Requests, e.Failures, e.ProbeFailures, e.Probes, e.Reasons, e.LatencyP50Seconds*1000, e.Contiguous, len(e.Traces))
			}
		default:
			return b.String()
		}
	}
}

func describe(s *Snapshot) string {
	var b strings.Builder
	fmt.Fprintf(&b, "#%d at %s over %s\n", s.Sequence, s.At.Format("15:04:05"), s.Window)
	for _, n := range s.Nodes {
		fmt.Fprintf(&b, "%s %s in %.1f/s %.1f%%", n.Kind, n.ID, n.Inbound.Rate, n.Inbound.ErrorRatio*100)
		if n.TraceBreaks != nil {
			fmt.Fprintf(&b, " breaks %.0f%%", *n.TraceBreaks*100)
		}
		b.WriteString("\n")
		for _, e := range n.Endpoints {
			fmt.Fprintf(&b, "  endpoint %s %s %.1f/s %.1f%% p50=%.1fms %s %s\n", e.Address, e.Instance, e.Rate, e.Errors*100, e.P50*1000, e.State, e.Reason)
		}
		for _, r := range n.Reporters {
			fmt.Fprintf(&b, "  reporter %s boot %s", r.Instance, strings.TrimLeft(r.BootID, "0"))
			if r.ClockOffset != 0 {
				fmt.Fprintf(&b, " clock %s", r.ClockOffset)
			}
			if r.Missing {
				b.WriteString(" missing")
			}
			b.WriteString("\n")
		}
	}
	for _, e := range s.Edges {
		fmt.Fprintf(&b, "%s %s", e.ID, e.State)
		if e.MTLS {
			b.WriteString(" mtls")
		}
		if e.Amended {
			b.WriteString(" amended")
		}
		if len(e.Missing) > 0 {
			fmt.Fprintf(&b, " missing %v", e.Missing)
		}
		if e.Gap != nil {
			fmt.Fprintf(&b, " gap lost=%d latency=%.1fms", e.Gap.Lost, e.Gap.Latency*1000)
		}
		b.WriteString("\n")
		for _, side := range []struct {
			name string
			v    *View
		}{{"client", e.Client}, {"server", e.Server}} {
			if v := side.v; v != nil {
				fmt.Fprintf(&b, "  %s %d requests %.1f/s %.1f%% errors p50=%.1fms p99=%.1fms", side.name, v.Requests, v.Rate, v.ErrorRatio*100, v.P50*1000, v.P99*1000)
				if v.Attempts > 0 {
					fmt.Fprintf(&b, " attempts=%d", v.Attempts)
				}
				if v.Connections > 0 {
					fmt.Fprintf(&b, " connections=%d", v.Connections)
				}
				if v.MessagesIn+v.MessagesOut > 0 {
					fmt.Fprintf(&b, " messages=%d/%d", v.MessagesIn, v.MessagesOut)
				}
				if len(v.GRPC) > 0 {
					fmt.Fprintf(&b, " %v", v.GRPC)
				}
				if len(v.Reasons) > 0 {
					fmt.Fprintf(&b, " %v", v.Reasons)
				}
				if len(v.Exemplars) > 0 {
					fmt.Fprintf(&b, " traces=%d", len(v.Exemplars))
				}
				b.WriteString("\n")
			}
		}
	}
	return b.String()
}
