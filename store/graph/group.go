package graph

import "strings"

// Grouping is what services are drawn together by.
type Grouping string

const (
	ByNamespace Grouping = "namespace"
	ByApp       Grouping = "app"
	ByVersion   Grouping = "version"
	ByZone      Grouping = "zone"
	ByNode      Grouping = "node"
)

// Groupings lists them.
func Groupings() []Grouping { return []Grouping{ByNamespace, ByApp, ByVersion, ByZone, ByNode} }

// of is the group that a service is in, "" for none: those that say nothing of it stand alone. Who is in several (versions, zones, nodes) is in the group of all of them
// together.
func (g Grouping) of(n *Node) string {
	switch g {
	case ByNamespace:
		return n.Namespace
	case ByApp:
		return n.App
	case ByZone:
		return strings.Join(n.Zones, " + ")
	case ByNode:
		return strings.Join(n.Hosts, " + ")
	case ByVersion:
		var all []string
		for _, v := range n.Versions {
			all = append(all, v.Version)
		}
		return strings.Join(all, " + ")
	}
	return ""
}

// Grouped is a Snapshot in which services are drawn together.
type Grouped struct {
	*Snapshot
	// Of is the ID of the node that stands for a service, and EdgeOf that of the edge that stands for an edge, "" for one inside a group.
	Of, EdgeOf map[string]string
}

// Group draws services that have by in common as one node of KindGroup, unless open has their group or nobody else is in it. Edges between the same two nodes are one;
// those inside a group are left out. Counts and rates are sums. Percentiles cannot be added up: they are the worst ones. s is not changed.
func Group(s *Snapshot, by Grouping, open []string) *Grouped {
	members := map[string]int{}
	for i := range s.Nodes {
		members[by.of(&s.Nodes[i])]++
	}
	delete(members, "")
	for _, name := range open {
		delete(members, name)
	}
	p := *s
	p.Nodes, p.Edges = []Node{}, []Edge{}
	out := &Grouped{Snapshot: &p, Of: make(map[string]string, len(s.Nodes)), EdgeOf: make(map[string]string, len(s.Edges))}
	at := map[string]int{} // of a group among p.Nodes
	for i := range s.Nodes {
		n := &s.Nodes[i]
		name := by.of(n)
		if members[name] < 2 {
			p.Nodes = append(p.Nodes, *n)
			out.Of[n.ID] = n.ID
			continue
		}
		id := string(by) + "=" + name
		out.Of[n.ID] = id
		k, ok := at[name]
		if !ok {
			k = len(p.Nodes)
			at[name] = k
			p.Nodes = append(p.Nodes, Node{ID: id, Name: name, Kind: KindGroup})
			if by != ByNamespace {
				p.Nodes[k].Namespace = n.Namespace
			}
		}
		g := &p.Nodes[k]
		if g.Namespace != n.Namespace {
			g.Namespace = "" // of several
		}
		g.Members++
		g.Inbound = merge(&g.Inbound, &n.Inbound)
		for _, e := range n.Endpoints {
			if e.State != "healthy" {
				g.Endpoints = append(g.Endpoints, e) // what a person must know
			}
		}
		for _, r := range n.Reporters {
			if r.Missing {
				g.Reporters = append(g.Reporters, r)
			}
		}
	}
	edges := map[[2]string]int{}
	for i := range s.Edges {
		e := &s.Edges[i]
		from, to := out.node(e.Source), out.node(e.Destination)
		if from == to && from != e.Source {
			continue // inside
		}
		if from == e.Source && to == e.Destination {
			out.EdgeOf[e.ID] = e.ID
			p.Edges = append(p.Edges, *e)
			continue
		}
		key := [2]string{from, to}
		k, ok := edges[key]
		if !ok {
			edges[key] = len(p.Edges)
			c := *e
			c.ID, c.Source, c.Destination = from+"→"+to+":"+several, from, to
			c.Protocol, c.Gap, c.Missing = several, nil, nil
			p.Edges = append(p.Edges, c)
			out.EdgeOf[e.ID] = c.ID
			continue
		}
		c := &p.Edges[k]
		out.EdgeOf[e.ID] = c.ID
		c.MTLS = c.MTLS && e.MTLS
		if e.State != c.State {
			switch {
			case e.State == ReporterMissing || c.State == ReporterMissing:
				c.State = ReporterMissing
			default:
				c.State = BothSides
			}
		}
		c.Client, c.Server = mergeSide(c.Client, e.Client), mergeSide(c.Server, e.Server)
	}
	return out
}

// several is the protocol of an edge that stands for others.
const several = "group"

func (g *Grouped) node(service string) string {
	if id, ok := g.Of[service]; ok {
		return id
	}
	return service
}

func mergeSide(a, b *View) *View {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	v := merge(a, b)
	return &v
}

// merge is the sum of two views, in a new one.
func merge(a, b *View) View {
	v := View{
		Requests: a.Requests + b.Requests, Errors: a.Errors + b.Errors, Attempts: a.Attempts + b.Attempts, Rate: a.Rate + b.Rate,
		P50: max(a.P50, b.P50), P95: max(a.P95, b.P95), P99: max(a.P99, b.P99), BytesIn: a.BytesIn + b.BytesIn, BytesOut: a.BytesOut + b.BytesOut,
		MessagesIn: a.MessagesIn + b.MessagesIn, MessagesOut: a.MessagesOut + b.MessagesOut, Active: a.Active + b.Active, Connections: a.Connections + b.Connections,
	}
	if n := a.Rate + b.Rate; n > 0 {
		v.ErrorRatio = (a.ErrorRatio*a.Rate + b.ErrorRatio*b.Rate) / n // rates are of the same window
	}
	if len(a.Reasons)+len(b.Reasons) > 0 {
		v.Reasons = make(map[string]uint64, len(a.Reasons)+len(b.Reasons))
		for _, m := range []map[string]uint64{a.Reasons, b.Reasons} {
			for r, n := range m {
				v.Reasons[r] += n
			}
		}
	}
	return v
}
