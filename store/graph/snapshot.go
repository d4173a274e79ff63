package graph

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// window is what is known of a span of time, from live slots or from stored series; draw makes a Snapshot of it.
type window struct {
	end       time.Time
	length    time.Duration
	edges     []windowEdge                 // as compareEdges sorts them
	endpoints map[endpointID]*endpointCell // as all callers saw them
	versions  map[versionKey]*versionCell
	reporters map[string][]Reporter
	breaks    map[string]float64
	states    map[endpointID]endpointState
}

// windowEdge is what is known of an edge. Nil cells are sides of which nothing is.
type windowEdge struct {
	edgeKey
	id               string
	client, server   *cell
	clients, servers int64 // active, by side
	amended          bool
	missing          []string // instances whose reports are missing, sorted
	known            bool     // both sides are contiguous over the whole window
}

type endpointState struct{ state, reason, override string }

func newWindow(end time.Time, length time.Duration) *window {
	return &window{
		end: end, length: length, endpoints: map[endpointID]*endpointCell{}, versions: map[versionKey]*versionCell{},
		reporters: map[string][]Reporter{}, breaks: map[string]float64{}, states: map[endpointID]endpointState{},
	}
}

func (w *window) endpoint(k endpointID) *endpointCell {
	c := w.endpoints[k]
	if c == nil {
		c = &endpointCell{}
		w.endpoints[k] = c
	}
	return c
}

// snapshotLocked draws the sealed window that ends where the open slots begin.
func (g *Graph) snapshotLocked(now time.Time) *Snapshot {
	seconds := int64(g.cfg.Window / time.Second)
	g.rollLocked(seconds)
	snap := g.windowLocked(now, g.rolling, span{g.sealed - seconds, g.sealed}).draw(g.x)
	snap.Sequence = g.sequence
	return snap
}

// windowLocked is what is known of sealed seconds, of which sum is the sum of the slots. It shares sum's cells and versions.
func (g *Graph) windowLocked(now time.Time, sum *slot, of span) *window {
	from, to := of.from*int64(time.Second), of.to*int64(time.Second)
	w := newWindow(time.Unix(0, to).UTC(), time.Duration(to-from))
	w.versions = sum.versions
	for k, c := range sum.endpoints {
		if k.side == flow.SideClient {
			w.endpoint(endpointID{k.service, k.endpoint}).add(c)
		}
	}
	amended, active := map[edgeKey]bool{}, map[sideKey]int64{}
	for sec := of.from; sec < of.to; sec++ {
		if s := g.slots[sec]; s != nil {
			for k := range s.amended {
				amended[k] = true
			}
		}
	}

	services := map[string]*coverage{}
	for _, r := range g.sortedReportersLocked() {
		c := services[r.service]
		if c == nil {
			c = &coverage{known: true}
			services[r.service] = c
		}
		whole, known := r.whole(from, to)
		if c.known = c.known && whole && known; !whole {
			c.missing = append(c.missing, r.key.instance)
		}
		w.reporters[r.service] = append(w.reporters[r.service], Reporter{
			Instance: r.key.instance, BootID: r.boot.id, Identity: r.key.identity, LastSeen: r.seen.UTC(), Missing: r.missing,
			ClockOffset: time.Duration(r.boot.offset), Version: r.version, Folded: r.boot.folded, CertNotAfter: r.boot.certificate, Memory: r.boot.memory,
		})
		if r.missing {
			continue
		}
		for b := range r.reporting() {
			for k, n := range b.active {
				if k.kind == flow.KindExchange.String() || k.kind == flow.KindConnection.String() && relayed(k.protocol) {
					active[k.sideKey] += n
				}
			}
		}
	}
	covered := func(service string) coverage {
		if c := services[service]; c != nil {
			return *c
		}
		return coverage{known: !g.x.meshed(service)} // else its sidecars have not reported yet
	}
	w.edges = make([]windowEdge, 0, len(g.byID))
	for _, edge := range g.orderLocked() {
		e := windowEdge{edgeKey: edge.key, id: edge.name, client: sum.at(edge.cellOf(flow.SideClient)), server: sum.at(edge.cellOf(flow.SideServer))}
		if e.client == nil && e.server == nil && now.Sub(edge.active) >= g.cfg.ForgetIdle {
			continue
		}
		if len(active) > 0 {
			e.clients, e.servers = active[sideKey{e.edgeKey, flow.SideClient}], active[sideKey{e.edgeKey, flow.SideServer}]
		}
		e.amended = amended[e.edgeKey]
		c := covered(e.source)
		e.known, e.missing = c.known, slices.Clone(c.missing)
		if e.destination != e.source {
			c := covered(e.destination)
			e.known, e.missing = e.known && c.known, append(e.missing, c.missing...)
		}
		slices.Sort(e.missing)
		w.edges = append(w.edges, e)
	}
	for service, t := range g.traces {
		if share, n := t.share(); n > 0 {
			w.breaks[service] = share
		}
	}
	for id := range g.x.overrides {
		if o := g.x.override(id.service, id.address, now); o != nil {
			st := endpointState{state: "weighted", reason: o.GetReason(), override: o.GetId()}
			if o.GetKind() == "eject" {
				st.state = "ejected"
			}
			w.states[id] = st
		}
	}
	return w
}

// coverage says whether the window is known of all sidecars of a service, and of which something is missing.
type coverage struct {
	known   bool
	missing []string
}

// draw makes the picture of a window. It depends on nothing else.
func (w *window) draw(x *index) *Snapshot {
	snap := &Snapshot{At: w.end, Window: w.length, Nodes: []Node{}, Edges: make([]Edge, 0, len(w.edges))}
	seconds := w.length.Seconds()
	inbound, active := map[string]*cell{}, map[string]int64{}
	versions, endpoints := map[string][]versionKey{}, map[string][]string{}
	for k := range w.versions {
		if k.version != "" {
			versions[k.destination] = append(versions[k.destination], k)
		}
	}
	for id := range w.endpoints {
		endpoints[id.service] = append(endpoints[id.service], id.address)
	}
	names := map[string]bool{}
	for _, s := range x.names() {
		names[s] = true
	}
	for s := range w.reporters {
		names[s] = true
	}
	views := make([]View, 2*len(w.edges)) // at once
	for i := range w.edges {
		we := &w.edges[i]
		k, client, server := we.edgeKey, we.client, we.server
		names[k.source], names[k.destination] = true, true
		e := Edge{
			ID: we.id, Source: k.source, Destination: k.destination, Protocol: k.protocol, Amended: we.amended, Missing: we.missing,
			State: stateOf(x, k, len(we.missing) > 0),
		}
		// A side that is expected and known shows zeroes: it saw nothing, which is a fact.
		if client == nil && (e.State == BothSides || e.State == ClientOnly) && we.known {
			client = &cell{}
		}
		if server == nil && (e.State == BothSides || e.State == ServerOnly) && we.known {
			server = &cell{}
		}
		if client != nil {
			e.Client = &views[2*i]
			client.view(e.Client, seconds, we.clients)
		}
		if server != nil {
			e.Server = &views[2*i+1]
			server.view(e.Server, seconds, we.servers)
			e.MTLS = k.source != unmeshed
		}
		if e.State == BothSides && we.known {
			e.Gap = gap(client, server, e.Client, e.Server, seconds)
		}
		snap.Edges = append(snap.Edges, e)
		if v := cmp.Or(e.Server, e.Client); v != nil {
			active[k.destination] += v.Active
		}
		if seen := cmp.Or(server, client); seen != nil {
			in := inbound[k.destination]
			if in == nil {
				in = &cell{}
				inbound[k.destination] = in
			}
			in.add(seen)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		n := Node{ID: name, Name: name, Namespace: x.namespace(name), Kind: x.kind(name), Reporters: w.reporters[name]}
		n.App, n.Zones, n.Hosts = x.where(name)
		n.Versions = w.versionsOf(versions[name], seconds)
		n.Endpoints = w.endpointsOf(x, name, endpoints[name], seconds)
		if share, ok := w.breaks[name]; ok {
			n.TraceBreaks = &share
		}
		if in := inbound[name]; in != nil {
			in.view(&n.Inbound, seconds, 0)
		}
		n.Inbound.Active += active[name]
		snap.Nodes = append(snap.Nodes, n)
	}
	return snap
}

// view turns counts into figures.
func (c *cell) view(v *View, seconds float64, active int64) {
	*v = View{
		Requests: c.requests, Errors: c.errors, Attempts: c.attempts, BytesIn: c.bytesIn, BytesOut: c.bytesOut, Active: active, Connections: c.connections,
		MessagesIn: c.messagesIn, MessagesOut: c.messagesOut, GRPC: cloneCounts(c.grpc),
		Reasons: cloneCounts(c.reasons), Exemplars: traceIDs(c.exemplars, 5),
	}
	if c.latency.count > 0 {
		c.latency.quantiles([]float64{0.5, 0.95, 0.99}, &v.P50, &v.P95, &v.P99)
	}
	of := c.requests - c.probes
	n := c.requests
	if c.requests == 0 && c.connections > 0 { // an edge of plain connections
		of, n = c.connections, c.connections
		v.Errors = c.connErrors
	}
	v.Rate = float64(n) / seconds
	if of > 0 {
		v.ErrorRatio = float64(v.Errors) / float64(of)
	}
}

func cloneCounts(m map[string]uint64) map[string]uint64 {
	if len(m) == 0 {
		return nil // also for one that is empty now
	}
	return maps.Clone(m)
}

// gap compares the two sides. Their reports cut time at different instants, so requests in flight and those of the cut second at either
// end of the window may be on one side only: a difference that this explains is shown as zero. Totals have no such margin.
func gap(client, server *cell, cv, sv *View, seconds float64) *Gap {
	sent, got := client.delivered, server.requests
	if client.requests == 0 && server.requests == 0 { // plain connections
		sent, got = client.connections-client.connErrors, server.connections
	}
	lost := int64(sent) - int64(got)
	margin := int64(math.Ceil(2+3*math.Sqrt(float64(sent)/seconds))) + max(0, cv.Active) + max(0, sv.Active)
	if lost <= margin && lost >= -margin {
		lost = 0
	}
	g := &Gap{Lost: lost}
	if client.latency.count > 0 && server.latency.count > 0 {
		g.Latency = cv.P50 - sv.P50
	}
	return g
}

func (w *window) versionsOf(keys []versionKey, seconds float64) []Version {
	if len(keys) == 0 {
		return nil
	}
	server, client := map[string]*versionCell{}, map[string]*versionCell{}
	for _, k := range keys {
		v := w.versions[k]
		if k.side == flow.SideServer {
			server[k.version] = v
		} else {
			client[k.version] = v
		}
	}
	if len(server) == 0 {
		server = client
	}
	var out []Version
	for _, name := range slices.Sorted(maps.Keys(server)) {
		v := Version{Version: name, Rate: float64(server[name].requests) / seconds}
		if n := server[name].requests; n > 0 {
			v.Errors = float64(server[name].errors) / float64(n)
		}
		out = append(out, v)
	}
	return out
}

func (w *window) endpointsOf(x *index, service string, seen []string, seconds float64) []Endpoint {
	addresses := map[string]bool{}
	for _, wl := range x.workloads[service] {
		for _, address := range addressesOf(wl) {
			addresses[address] = true
		}
	}
	for _, address := range seen {
		addresses[address] = true
	}
	var out []Endpoint
	for _, address := range slices.Sorted(maps.Keys(addresses)) {
		e := Endpoint{Address: address, State: "healthy"}
		if wl := x.address[address]; wl.GetService() == service {
			e.Instance, e.Version = wl.GetInstance(), wl.GetVersion()
		}
		id := endpointID{service, address}
		if c := w.endpoints[id]; c != nil {
			e.Rate = float64(c.requests+c.probes) / seconds
			if c.requests > 0 {
				e.Errors = float64(c.failures) / float64(c.requests)
			}
			e.P50, e.P99 = c.latency.quantile(0.5), c.latency.quantile(0.99)
		}
		if st, ok := w.states[id]; ok {
			e.State, e.Reason, e.Override = st.state, st.reason, st.override
		}
		out = append(out, e)
	}
	return out
}
