// Package dashboardtest is a made-up mesh for the dashboard's tests and previews: a shop of fourteen services with one endpoint that fails,
// one reporter that is missing and one service that drops its traces. Only tests and the preview import it; nothing of it is in a binary.
package dashboardtest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
)

// Epoch is when the shop's picture is taken; everything is relative to it.
var Epoch = time.Date(2026, 11, 20, 14, 32, 7, 0, time.UTC)

type call struct {
	from, to string
	rate     float64
	p50      float64 // seconds
	errors   float64
	protocol string // default http/1.1
}

func (c call) spoken() string {
	if c.protocol == "" {
		return "http/1.1"
	}
	return c.protocol
}

var calls = []call{
	{"unmeshed", "gateway", 12, .046, 0, ""},
	{"storefront", "gateway", 182, .041, .003, ""},
	{"mobile", "gateway", 96, .044, .002, ""},
	{"gateway", "web", 210, .031, .002, ""},
	{"gateway", "cart", 62, .022, 0, ""},
	{"web", "catalog", 188, .014, .083, ""},
	{"web", "search", 74, .019, 0, ""},
	{"web", "reviews", 51, .009, .013, ""},
	{"web", "recommend", 66, .027, 0, ""},
	{"cart", "pricing", 58, .006, 0, "grpc"},
	{"cart", "stock", 61, .005, 0, ""},
	{"catalog", "stock", 120, .004, 0, "grpc"},
	{"catalog", "pricing", 118, .006, .02, "grpc"},
	{"search", "catalog", 33, .012, .061, ""},
	{"recommend", "catalog", 29, .013, .02, ""},
	{"cart", "checkout", 9, .12, 0, "grpc"},
	{"checkout", "payment", 9, .088, 0, ""},
	{"checkout", "mail", 8.7, .01, 0, ""},
	{"checkout", "stock", 9, .005, 0, ""},
	{"payment", "bank.example.com", 9, .071, .004, ""},
	{"pricing", "rates", 3.2, .003, 0, ""},
}

func view(c call, jitter, scale float64) *graph.View {
	rate := c.rate * jitter
	n := uint64(rate * 10)
	v := &graph.View{
		Requests: n, Rate: rate, ErrorRatio: c.errors, Errors: uint64(math.Round(float64(n) * c.errors)),
		P50: c.p50 * scale, P95: c.p50 * 2.6 * scale, P99: c.p50 * 4.2 * scale, BytesIn: n * 420, BytesOut: n * 5200, Active: int64(rate * c.p50),
	}
	if c.errors > .01 {
		v.Reasons = map[string]uint64{"upstream_5xx": v.Errors * 4 / 5, "try_timeout": v.Errors - v.Errors*4/5}
		v.P99 = 1.24 * scale
	}
	if c.protocol == "grpc" {
		v.MessagesIn, v.MessagesOut = n, n-v.Errors
		v.GRPC = map[string]uint64{"OK": n - v.Errors - n/50, "NOT_FOUND": n / 50}
		if v.Errors > 0 {
			v.GRPC["UNAVAILABLE"] = v.Errors
		}
	}
	if v.Errors > 0 {
		v.Exemplars = []string{TraceID(3).String(), TraceID(13).String()}
	}
	return v
}

// Snapshot is the shop's graph at a tick; figures differ a little from tick to tick, by seed only.
func Snapshot(tick uint64, at time.Time) *graph.Snapshot {
	r := rand.New(rand.NewPCG(7, tick))
	s := &graph.Snapshot{Sequence: tick, At: at, Window: 10 * time.Second}
	nodes := map[string]*graph.Node{}
	add := func(id string) *graph.Node {
		if n, ok := nodes[id]; ok {
			return n
		}
		n := &graph.Node{ID: id, Name: id, Namespace: "shop", Kind: graph.KindService}
		switch id {
		case "unmeshed":
			n.Kind, n.Namespace = graph.KindUnmeshed, ""
		case "bank.example.com":
			n.Kind, n.Namespace = graph.KindExternal, ""
		case "stock-db":
			n.Kind = graph.KindTCP
		}
		if n.Kind == graph.KindService || n.Kind == graph.KindTCP {
			count := map[string]int{"catalog": 3, "web": 2, "gateway": 2, "stock": 2}[id]
			for i := range max(1, count) {
				inst := fmt.Sprintf("%s-%d", id, i+1)
				n.Reporters = append(n.Reporters, graph.Reporter{
					Instance: inst, BootID: fmt.Sprintf("%016x", r.Uint64()), Identity: "spiffe://tulle.local/ns/shop/sa/" + id,
					LastSeen: at.Add(-400 * time.Millisecond), ClockOffset: time.Duration(r.IntN(1400)-700) * time.Microsecond, Version: "0.3.0",
				})
				n.Endpoints = append(n.Endpoints, graph.Endpoint{
					Address: fmt.Sprintf("127.0.1.%d:8080", len(nodes)*4+i+10), Instance: inst, Version: "v1", State: "healthy", P50: .004, P99: .031,
				})
			}
			n.Versions = []graph.Version{{Version: "v1", Rate: 1}}
		}
		nodes[id] = n
		return n
	}
	inbound := map[string][]*graph.View{}
	for _, c := range calls {
		add(c.from)
		add(c.to)
		j := 1 + (r.Float64()-.5)*.12
		e := graph.Edge{
			ID: c.from + "→" + c.to + ":" + c.spoken(), Source: c.from, Destination: c.to, Protocol: c.spoken(), State: graph.BothSides, MTLS: true,
			Client: view(c, j, 1), Server: view(c, j, .86),
		}
		e.Client.Attempts = e.Client.Requests + e.Client.Errors
		e.Gap = &graph.Gap{Latency: e.Client.P50 - e.Server.P50}
		switch {
		case c.from == "unmeshed":
			e.State, e.MTLS, e.Client, e.Gap = graph.ServerOnly, false, nil, nil
		case c.to == "bank.example.com":
			e.State, e.MTLS, e.Server, e.Gap = graph.ClientOnly, false, nil, nil
		case c.to == "mail":
			e.State, e.Server, e.Gap, e.Missing = graph.ReporterMissing, nil, nil, []string{"mail-1"}
		}
		s.Edges = append(s.Edges, e)
		if v := e.Server; v != nil {
			inbound[c.to] = append(inbound[c.to], v)
		} else {
			inbound[c.to] = append(inbound[c.to], e.Client)
		}
	}
	for _, from := range []string{"reviews", "stock"} {
		add(from)
		add("stock-db")
		s.Edges = append(s.Edges, graph.Edge{
			ID: from + "→stock-db:tcp", Source: from, Destination: "stock-db", Protocol: "tcp", State: graph.BothSides, MTLS: true,
			Client: &graph.View{Active: 8, Connections: 2, BytesIn: 182_000, BytesOut: 2_310_000},
			Server: &graph.View{Active: 8, Connections: 2, BytesIn: 182_000, BytesOut: 2_310_000}, Gap: &graph.Gap{},
		})
		inbound["stock-db"] = append(inbound["stock-db"], &graph.View{Active: 8, Connections: 2})
	}
	for id, n := range nodes {
		var errs float64
		for _, v := range inbound[id] {
			n.Inbound.Requests += v.Requests
			n.Inbound.Errors += v.Errors
			n.Inbound.Rate += v.Rate
			n.Inbound.Active += v.Active
			n.Inbound.Connections += v.Connections
			n.Inbound.P50 = max(n.Inbound.P50, v.P50)
			n.Inbound.P95 = max(n.Inbound.P95, v.P95)
			n.Inbound.P99 = max(n.Inbound.P99, v.P99)
			errs += v.ErrorRatio * v.Rate
		}
		if n.Inbound.Rate > 0 {
			n.Inbound.ErrorRatio = errs / n.Inbound.Rate
		}
		for i := range n.Endpoints {
			n.Endpoints[i].Rate = n.Inbound.Rate / float64(len(n.Endpoints))
		}
	}
	c := nodes["catalog"]
	c.Endpoints[1].State, c.Endpoints[1].Reason, c.Endpoints[1].Override = "ejected", "5xx ratio 62 % against 0.4 % of its peers", "ovr-01"
	c.Endpoints[1].Rate, c.Endpoints[1].Errors, c.Endpoints[1].P99 = 1.2, .62, 1.24
	c.Endpoints[2].Version = "v2"
	c.Versions = []graph.Version{{Version: "v1", Rate: 231, Errors: .021}, {Version: "v2", Rate: 117, Errors: .001}}
	nodes["stock"].Endpoints[1].State, nodes["stock"].Endpoints[1].Reason = "weighted", "latency: weight 60 %"
	nodes["mail"].Reporters[0].Missing, nodes["mail"].Reporters[0].LastSeen = true, at.Add(-48*time.Second)
	breaks := .97
	nodes["recommend"].TraceBreaks = &breaks
	for _, id := range sortedKeys(nodes) {
		s.Nodes = append(s.Nodes, *nodes[id])
	}
	sortEdges(s.Edges)
	return s
}

// Graph serves snapshots of the shop.
type Graph struct {
	Ticks <-chan time.Time // nil: only the first snapshot
	Now   func() time.Time
	Empty bool
}

// Live returns the snapshot of now.
func (g *Graph) Live() *graph.Snapshot {
	if g.Empty {
		return nil
	}
	now := g.now()
	return Snapshot(uint64(now.Unix()), now)
}

func (g *Graph) now() time.Time {
	if g.Now != nil {
		return g.Now()
	}
	return Epoch
}

// Subscribe yields one snapshot per tick.
func (g *Graph) Subscribe(ctx context.Context) <-chan *graph.Snapshot {
	return g.subscribe(ctx, g.Live)
}

func (g *Graph) subscribe(ctx context.Context, live func() *graph.Snapshot) <-chan *graph.Snapshot {
	ch := make(chan *graph.Snapshot, 1)
	go func() {
		defer close(ch)
		for {
			if s := live(); s != nil {
				select {
				case ch <- s:
				default:
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-g.Ticks:
			}
		}
	}()
	return ch
}

// At draws the shop of another instant. It was opened in 2020.
func (g *Graph) At(_ context.Context, t time.Time) (*graph.Snapshot, error) {
	if t.Year() < 2020 {
		return nil, fmt.Errorf("%w: %s", graph.ErrNoHistory, t.UTC().Format(time.RFC3339))
	}
	s := Snapshot(uint64(t.Unix()), t)
	s.Sequence = 0
	if g.now().Sub(t) > 5*time.Minute {
		calm(s)
	}
	return s, nil
}

// calm makes s the shop before its trouble: catalog does not fail, recommend does not call it yet, and web still asks mail for offers.
func calm(s *graph.Snapshot) {
	s.Edges = slices.DeleteFunc(s.Edges, func(e graph.Edge) bool { return e.Source == "recommend" && e.Destination == "catalog" })
	for i := range s.Edges {
		e := &s.Edges[i]
		if e.Destination != "catalog" {
			continue
		}
		for _, v := range []*graph.View{e.Client, e.Server} {
			if v != nil {
				v.Errors, v.ErrorRatio, v.Reasons, v.P99 = 0, 0, nil, v.P50*4
			}
		}
	}
	for i := range s.Nodes {
		if n := &s.Nodes[i]; n.ID == "catalog" {
			n.Inbound.Errors, n.Inbound.ErrorRatio, n.Inbound.P99 = 0, 0, n.Inbound.P50*4
			for k := range n.Endpoints {
				n.Endpoints[k].State, n.Endpoints[k].Reason, n.Endpoints[k].Override, n.Endpoints[k].Errors = "healthy", "", "", 0
			}
		}
	}
	old := graph.View{Requests: 140, Rate: 14, P50: .02, P95: .04, P99: .06}
	s.Edges = append(s.Edges, graph.Edge{
		ID: "web→mail:http/1.1", Source: "web", Destination: "mail", Protocol: "http/1.1", State: graph.BothSides, MTLS: true, Client: &old, Server: &old,
	})
	sortEdges(s.Edges)
}

// Events is a fixed log.
type Events struct{ List []event.Event }

// Query selects.
func (e *Events) Query(_ context.Context, q event.Query) ([]event.Event, string, error) {
	var out []event.Event
	limit := q.Limit
	if limit == 0 {
		limit = 100
	}
	for _, v := range e.List {
		if (q.Kind != "" && v.Kind != q.Kind) || (q.Service != "" && v.Service != q.Service) || (q.Before != "" && v.ID >= q.Before) ||
			(!q.Start.IsZero() && v.Time.Before(q.Start)) || (!q.End.IsZero() && !v.Time.Before(q.End)) {
			continue
		}
		if len(out) == limit {
			return out, out[len(out)-1].ID, nil
		}
		out = append(out, v)
	}
	return out, "", nil
}

// Subscribe yields nothing.
func (e *Events) Subscribe(ctx context.Context) <-chan event.Event {
	ch := make(chan event.Event)
	go func() { <-ctx.Done(); close(ch) }()
	return ch
}

// NewEvents is what happened in the shop.
func NewEvents(now time.Time) *Events {
	in := func(d time.Duration) *time.Time { t := now.Add(d); return &t }
	list := []event.Event{
		{
			Kind: event.KindAlertFiring, Severity: "error", Service: "catalog", Time: now.Add(-9 * time.Second),
			Message: "Alert ServiceErrorRatio fires for catalog: 8.3 % of requests failed over 1 min.", Reason: "threshold",
			Evidence: map[string]string{"error ratio": "8.3 %", "threshold": "5 %", "for": "20 s"}, Traces: []string{TraceID(3).String()},
		},
		{
			Kind: event.KindEjected, Severity: "warning", Service: "catalog", Endpoint: "127.0.1.51:8080", Instance: "catalog-2", Time: now.Add(-31 * time.Second),
			Message: "Ejected catalog-2 (127.0.1.51:8080): 62 % of its attempts failed, its peers 0.4 %. It keeps 1 % of traffic as probes.",
			Reason:  "error_ratio", Override: "ovr-01", Expires: in(29 * time.Second), Revision: "r42",
			Evidence: map[string]string{"attempts": "512 in 5 s", "error ratio": "62 %", "peers": "0.4 %", "reporters": "3", "ejected now": "1 of 3"},
			Traces:   []string{TraceID(3).String(), TraceID(13).String()},
		},
		{
			Kind: event.KindWeight, Severity: "info", Service: "stock", Endpoint: "127.0.1.61:8080", Instance: "stock-2", Time: now.Add(-95 * time.Second),
			Message: "Moved weight of stock-2 from 80 % to 60 %: its p99 is 3.1 times its peers'.", Reason: "latency",
			Evidence: map[string]string{"p99": "41 ms", "peers p99": "13 ms", "step": "−20 %"}, Revision: "r42",
		},
		{
			Kind: event.KindReporterLost, Severity: "warning", Service: "mail", Instance: "mail-1", Time: now.Add(-48 * time.Second),
			Message: "The sidecar of mail-1 has not reported for 5 s: edges of mail show its callers' view only.", Reason: "silent",
			Evidence: map[string]string{"last seen": "48 s ago"},
		},
		{
			Kind: event.KindTraceBreak, Severity: "warning", Service: "recommend", Time: now.Add(-4 * time.Minute),
			Message:  "recommend drops traceparent: 97 % of its outgoing requests start a new trace although the incoming ones carried one.",
			Evidence: map[string]string{"lost": "97 %", "of": "1 742 requests"}, Traces: []string{TraceID(5).String()},
		},
		{Kind: event.KindConfig, Severity: "info", Time: now.Add(-9 * time.Minute), Message: "Configuration r42 applied: 14 services, 21 proxies acknowledged in 0.4 s.", Revision: "r42"},
		{Kind: event.KindConnected, Severity: "info", Service: "search", Instance: "search-1", Time: now.Add(-11 * time.Minute), Message: "The proxy of search-1 connected."},
		{Kind: event.KindCertificate, Severity: "info", Service: "search", Instance: "search-1", Time: now.Add(-11 * time.Minute), Message: "Issued a certificate to search-1, valid for 24 h."},
	}
	sortEvents(list)
	for i := range list {
		list[i].ID = fmt.Sprintf("01K%023d", len(list)-i)
	}
	return &Events{List: list}
}

// Alerts is a fixed set.
type Alerts struct{ Now time.Time }

// Alerts lists.
func (a *Alerts) Alerts(context.Context) ([]source.Alert, error) {
	return []source.Alert{{
		Name: "ServiceErrorRatio", State: "firing", Severity: "critical", Service: "catalog", Summary: "8.3 % of requests to catalog failed over 1 min",
		Labels: map[string]string{"destination": "catalog", "severity": "critical"}, ActiveSince: a.Now.Add(-29 * time.Second), Value: .083,
		Annotations: map[string]string{"summary": "8.3 % of requests to catalog failed over 1 min"},
	}, {
		Name: "ReporterMissing", State: "pending", Severity: "warning", Service: "mail", Summary: "mail-1 has not reported for 48 s",
		Labels: map[string]string{"service": "mail"}, ActiveSince: a.Now.Add(-48 * time.Second), Value: 1,
	}}, nil
}

// Deliveries lists.
func (a *Alerts) Deliveries(context.Context) ([]source.Delivery, error) {
	return []source.Delivery{
		{
			Receiver: "on-call", Integration: "webhook[0]", Group: map[string]string{"alertname": "ServiceErrorRatio", "service": "catalog"}, Alerts: []string{"ServiceErrorRatio"}, Firing: 1, State: "retrying", Attempts: 4,
			First: a.Now.Add(-24 * time.Second), Last: a.Now.Add(-2 * time.Second), Took: 31 * time.Millisecond,
			Error: "unexpected status code 503: the pager is down for maintenance",
		},
		{Receiver: "chat", Integration: "webhook[0]", Group: map[string]string{"alertname": "ServiceErrorRatio", "service": "catalog"}, Alerts: []string{"ServiceErrorRatio"}, Firing: 1, State: "delivered", Attempts: 1, First: a.Now.Add(-24 * time.Second), Last: a.Now.Add(-24 * time.Second), Took: 12 * time.Millisecond},
		{Receiver: "chat", Integration: "webhook[1]", Group: map[string]string{"alertname": "ReporterMissing"}, Alerts: []string{"CertificateExpiry", "ReporterMissing"}, Firing: 1, Resolved: 2, State: "failed", Attempts: 1, First: a.Now.Add(-time.Hour), Last: a.Now.Add(-time.Hour), Took: 140 * time.Millisecond, Error: "unexpected status code 401: the token is not valid"},
		{Receiver: "chat", Integration: "webhook[0]", Alerts: []string{"ServiceErrorRatio"}, Resolved: 1, State: "delivered", Attempts: 3, First: a.Now.Add(-2 * time.Hour), Last: a.Now.Add(-2*time.Hour + 40*time.Second), Took: 9 * time.Millisecond, Error: "connection refused"},
	}, nil
}

// Rules lists.
func (a *Alerts) Rules(context.Context) ([]source.Rule, error) {
	return []source.Rule{
		{Group: "tulle", Name: "ServiceErrorRatio", Kind: "alerting", Query: `sum by (destination) (rate(tulle_requests_total{side="server",code_class="5xx"}[1m])) / sum by (destination) (rate(tulle_requests_total{side="server"}[1m])) > 0.05`, For: 20 * time.Second, State: "firing", Health: "ok", LastEval: a.Now.Add(-3 * time.Second)},
		{Group: "tulle", Name: "ReporterMissing", Kind: "alerting", Query: "tulle_reporter_up == 0", For: time.Minute, State: "pending", Health: "ok", LastEval: a.Now.Add(-3 * time.Second)},
		{Group: "tulle", Name: "CertificateExpiry", Kind: "alerting", Query: "tulle_certificate_not_after_seconds - time() < 3600", State: "inactive", Health: "ok", LastEval: a.Now.Add(-3 * time.Second)},
		{Group: "own", Name: "Broken", Kind: "recording", Query: "sum(rate(", Health: "err", LastError: "parse error: unclosed left parenthesis", LastEval: a.Now.Add(-3 * time.Second)},
	}, nil
}

// Proxies is a fixed list.
type Proxies struct{ Now time.Time }

// Proxies lists.
func (p *Proxies) Proxies(context.Context) ([]source.Proxy, error) {
	var out []source.Proxy
	for _, n := range Snapshot(1, p.Now).Nodes {
		for _, r := range n.Reporters {
			x := source.Proxy{
				Instance: r.Instance, Service: n.ID, Namespace: n.Namespace, Version: r.Version, Identity: r.Identity, Address: "127.0.0.1:15000", Connected: !r.Missing,
				Since: p.Now.Add(-11 * time.Minute), LastSeen: r.LastSeen, Reporting: !r.Missing, Acked: "r42", Wanted: "r42", ClockOffset: r.ClockOffset,
				CertNotAfter: p.Now.Add(23 * time.Hour), Memory: uint64(21+3*len(out)) << 20,
			}
			if r.Instance == "web-2" {
				x.Acked, x.Nack, x.NackAt = "r41", "route web/checkout: backend \"checkout-v2\" does not exist", p.Now.Add(-9*time.Minute)
			}
			if r.Instance == "web-1" {
				x.Folded = 1234
			}
			if r.Missing {
				x.Since = p.Now.Add(-48 * time.Second)
			}
			out = append(out, x)
		}
	}
	return out, nil
}

// Fill stores n traces of the shop: most fine, some failing with retries, some broken.
func Fill(s *Spans, n int, now time.Time) {
	r := rand.New(rand.NewPCG(11, 12))
	for i := range n {
		id := TraceID(i)
		start := now.Add(-time.Duration(i)*1700*time.Millisecond - time.Duration(r.IntN(900))*time.Millisecond)
		switch i % 10 {
		case 3:
			s.Put(id, start, failing(r)...)
		case 5:
			s.Put(id, start, broken(r)...)
		case 7:
			s.Put(id, start, unavailable(r)...)
		default:
			s.Put(id, start, fine(r)...)
		}
	}
}

const (
	cl = ptrace.SpanKindClient
	sv = ptrace.SpanKindServer
)

// hop is a client exchange, its attempt and the server exchange.
func hop(name, parent, from, to, path string, at, took time.Duration, status int) []SpanSpec {
	gap := took / 14
	base := func(side string) map[string]any {
		return map[string]any{
			flow.AttrKind: "exchange", flow.AttrSide: side, flow.AttrSourceService: from, flow.AttrDestService: to, flow.AttrProtocol: "http/1.1",
			flow.AttrMethod: "GET", flow.AttrPath: path, flow.AttrStatus: status, flow.AttrAnswered: true, flow.AttrRevision: "r42",
			flow.AttrDestIdentity: "spiffe://tulle.local/ns/shop/sa/" + to, flow.AttrSourceIdentity: "spiffe://tulle.local/ns/shop/sa/" + from,
		}
	}
	c, a := base("client"), base("client")
	c[flow.AttrAttempts] = 1
	a[flow.AttrKind], a[flow.AttrAttempt], a[flow.AttrDelivered], a[flow.AttrEndpoint] = "attempt", 1, true, "127.0.1.50:8080"
	return []SpanSpec{
		{ID: name + ".c", Parent: parent, Service: from, Name: "GET " + to, Kind: cl, Start: at, End: at + took, Attr: c},
		{ID: name + ".a", Parent: name + ".c", Service: from, Name: "attempt 1", Kind: cl, Start: at + gap/2, End: at + took - gap/4, Attr: a},
		{ID: name + ".s", Parent: name + ".a", Service: to, Name: "GET " + path, Kind: sv, Start: at + gap, End: at + took - gap, Attr: base("server")},
	}
}

// rpc is hop for a gRPC call that ended with a status.
func rpc(name, parent, from, to, method string, at, took time.Duration, status string) []SpanSpec {
	out := hop(name, parent, from, to, "/"+method, at, took, 200)
	for i := range out {
		a := out[i].Attr
		a[flow.AttrProtocol], a[flow.AttrMethod], a[flow.AttrRPCSystem], a[flow.AttrRPCMethod], a[flow.AttrGRPC] = "grpc", "POST", "grpc", method, status
		a[flow.AttrMessagesIn] = 1
		if status == "OK" {
			a[flow.AttrMessagesOut] = 1
		}
		if i != 1 {
			out[i].Name = method
		}
		if s, _ := flow.ParseGRPCStatus(status); s.Failure() {
			a[flow.AttrReason], out[i].Error = "upstream_5xx", "upstream_5xx"
		}
	}
	return out
}

func ms(v float64) time.Duration { return time.Duration(v * float64(time.Millisecond)) }

func fine(r *rand.Rand) []SpanSpec {
	f := .7 + r.Float64()*.7
	out := hop("g", "", "storefront", "gateway", "/home", 0, ms(46*f), 200)
	out = append(out, hop("w", "g.s", "gateway", "web", "/home", ms(5*f), ms(36*f), 200)...)
	out = append(out, hop("c", "w.s", "web", "catalog", "/items", ms(9*f), ms(14*f), 200)...)
	out = append(out, rpc("k", "c.s", "catalog", "stock", "shop.v1.Stock/Levels", ms(11.5*f), ms(4*f), "OK")...)
	out = append(out, rpc("p", "c.s", "catalog", "pricing", "shop.v1.Pricing/Quote", ms(15.8*f), ms(5*f), "OK")...)
	out = append(out, hop("r", "w.s", "web", "reviews", "/top", ms(24*f), ms(11*f), 200)...)
	return out
}

func failing(r *rand.Rand) []SpanSpec {
	out := hop("g", "", "mobile", "gateway", "/items/42", 0, ms(1310), 200)
	out = append(out, hop("w", "g.s", "gateway", "web", "/items/42", ms(96), ms(1180), 200)...)
	x := hop("c", "w.s", "web", "catalog", "/items/42", ms(185), ms(1030), 200)
	x[1].End, x[1].Error = ms(1150), "catalog-2 answered 503"
	x[1].Attr[flow.AttrReason], x[1].Attr[flow.AttrStatus], x[1].Attr[flow.AttrEndpoint] = "upstream_5xx", 503, "127.0.1.51:8080"
	x[2].Start, x[2].End, x[2].Error = ms(187), ms(1139), "503 Service Unavailable"
	x[2].Attr[flow.AttrStatus], x[2].Attr[flow.AttrReason] = 503, "upstream_5xx"
	x[0].Attr[flow.AttrAttempts] = 2
	out = append(out, x...)
	y := hop("d", "c.c", "web", "catalog", "/items/42", ms(1176), ms(36), 200)
	y[1].ID, y[1].Name, y[1].Parent, y[1].Attr[flow.AttrAttempt] = "d.a", "attempt 2", "c.c", 2
	y[1].Start, y[1].End = ms(1176), ms(1212)
	y[2].Parent, y[2].Start, y[2].End = "d.a", ms(1183), ms(1205)
	out = append(out, y[1], y[2])
	out = append(out, SpanSpec{ID: "app", Parent: "d.s", Service: "catalog", Name: "render item", Kind: ptrace.SpanKindInternal, Start: ms(1186), End: ms(1199 + r.Float64()*3), Attr: map[string]any{"item.id": "42", "cache.hit": false}})
	return out
}

// unavailable is a gRPC call that fails with the HTTP status 200.
func unavailable(r *rand.Rand) []SpanSpec {
	f := .8 + r.Float64()*.5
	out := hop("c", "", "search", "catalog", "/items/7", 0, ms(19*f), 200)
	out = append(out, rpc("k", "c.s", "catalog", "stock", "shop.v1.Stock/Levels", ms(3*f), ms(4*f), "NOT_FOUND")...)
	return append(out, rpc("p", "c.s", "catalog", "pricing", "shop.v1.Pricing/Quote", ms(8*f), ms(7*f), "UNAVAILABLE")...)
}

func broken(r *rand.Rand) []SpanSpec {
	f := .8 + r.Float64()*.5
	out := hop("x", "", "recommend", "catalog", "/similar", 0, ms(17*f), 200)
	out[0].Attr[flow.AttrTraceBegun] = true
	return append(out, hop("k", "x.gone", "catalog", "stock", "/levels", ms(4*f), ms(5*f), 200)...)
}
