package graph

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/store/match"
)

// Words are those in which services and edges are asked for, by the grammar of package match:
//
//	err > 1% and ns = shop
//	not mtls and src != web
//	p99 > 200ms or ejected
//
// Some are said of services only, some of edges only (About); an expression is asked of those of whom all of its words are said.
var Words = match.NewVocabulary([]match.Field{
	{Name: "name", Help: "name of a service"},
	{Name: "ns", Help: "its namespace"},
	{Name: "kind", Help: "what it is", Values: kinds},
	{Name: "app", Help: "what it is a part of"},
	{Name: "zone", Help: "where it runs, region/zone; several joined by +"},
	{Name: "node", Help: "the machines it runs on; several joined by +"},
	{Name: "version", Help: "a version that takes traffic"},
	{Name: "ejected", Type: match.Flag, Help: "an endpoint of it is ejected"},
	{Name: "weighted", Type: match.Flag, Help: "the weight of an endpoint of it is shifted"},
	{Name: "breaks", Type: match.Share, Help: "share of what it sends that lost its trace"},
	{Name: "src", Help: "of an edge, the service that calls"},
	{Name: "dst", Help: "of an edge, the service that is called"},
	{Name: "src.ns", Help: "of an edge, the caller's namespace"},
	{Name: "dst.ns", Help: "of an edge, the called one's namespace"},
	{Name: "protocol", Help: "of an edge: http/1.1, h2, grpc, tcp or tls"},
	{Name: "mtls", Type: match.Flag, Help: "of an edge: both ends have proved who they are"},
	{Name: "state", Help: "of an edge, whose reports it rests on", Values: []string{string(BothSides), string(ClientOnly), string(ServerOnly), string(ReporterMissing)}},
	{Name: "gap", Type: match.Duration, Help: "of an edge, the median between the two sidecars"},
	{Name: "retries", Type: match.Number, Help: "of an edge, attempts beyond requests in the window"},
	{Name: "reason", Help: "of an edge, the most frequent reason of what failed"},
	{Name: "rate", Type: match.Number, Help: "requests a second; of a service those that come"},
	{Name: "err", Type: match.Share, Help: "share of them that failed"},
	{Name: "p50", Type: match.Duration, Help: "median of their latency"},
	{Name: "p95", Type: match.Duration, Help: "their 95th percentile"},
	{Name: "p99", Type: match.Duration, Help: "their 99th percentile"},
	{Name: "open", Type: match.Number, Help: "what is open now: requests or connections"},
	{Name: "missing", Type: match.Flag, Help: "reports are missing"},
}, [2]string{"namespace", "ns"}, [2]string{"service", "name"}, [2]string{"source", "src"}, [2]string{"destination", "dst"}, [2]string{"from", "src"}, [2]string{"to", "dst"},
	[2]string{"error", "err"}, [2]string{"errors", "err"}, [2]string{"rps", "rate"}, [2]string{"latency", "p99"}, [2]string{"duration", "p99"}, [2]string{"tls", "mtls"})

var kinds = []string{string(KindService), string(KindTCP), string(KindGateway), string(KindExternal), string(KindUnmeshed), string(KindPassthrough)}

// Found is which services, by ID, and which edges, by ID, an expression holds for.
type Found struct{ Nodes, Edges map[string]bool }

// words said of one kind of subject only.
var (
	ofNodes = []string{"name", "ns", "kind", "app", "zone", "node", "version", "ejected", "weighted", "breaks"}
	ofEdges = []string{"src", "dst", "src.ns", "dst.ns", "protocol", "mtls", "state", "gap", "retries", "reason"}
)

// Find asks e, which must be in Words, of the services and edges of s. An empty expression finds nothing.
func Find(s *Snapshot, e match.Expr) Found {
	f := Found{Nodes: map[string]bool{}, Edges: map[string]bool{}}
	if e.Empty() {
		return f
	}
	mentions := func(words []string) bool {
		for _, w := range words {
			if e.Mentions(w) {
				return true
			}
		}
		return false
	}
	if !mentions(ofEdges) {
		for i := range s.Nodes {
			if n := &s.Nodes[i]; e.Holds((*nodeSubject)(n)) {
				f.Nodes[n.ID] = true
			}
		}
	}
	if !mentions(ofNodes) {
		spaces := map[string]string{}
		for i := range s.Nodes {
			spaces[s.Nodes[i].ID] = s.Nodes[i].Namespace
		}
		for i := range s.Edges {
			if ed := &s.Edges[i]; e.Holds(&edgeSubject{ed, spaces}) {
				f.Edges[ed.ID] = true
			}
		}
	}
	return f
}

// ValuesOf are what a word of Words has in s, sorted; nil for figures: for completion.
func ValuesOf(s *Snapshot, name string) []string {
	seen := map[string]bool{}
	for i := range s.Nodes {
		n := &s.Nodes[i]
		switch name {
		case "name", "src", "dst":
			seen[n.Name] = true
		case "ns", "src.ns", "dst.ns":
			seen[n.Namespace] = true
		case "app", "zone", "node":
			seen[Grouping(name).of(n)] = true
		case "version":
			for _, v := range n.Versions {
				seen[v.Version] = true
			}
		}
	}
	for i := range s.Edges {
		switch e := &s.Edges[i]; name {
		case "protocol":
			seen[e.Protocol] = true
		case "reason":
			if v := e.Main(); v != nil {
				for r := range v.Reasons {
					seen[r] = true
				}
			}
		}
	}
	delete(seen, "")
	return slices.Sorted(maps.Keys(seen))
}

type nodeSubject Node

func (n *nodeSubject) Text(f *match.Field) string {
	switch f.Name {
	case "name":
		return n.Name
	case "ns":
		return n.Namespace
	case "kind":
		return string(n.Kind)
	case "app":
		return n.App
	case "zone":
		return ByZone.of((*Node)(n))
	case "node":
		return ByNode.of((*Node)(n))
	case "version":
		best := -1.0
		version := ""
		for _, v := range n.Versions {
			if v.Rate > best {
				best, version = v.Rate, v.Version
			}
		}
		return version
	case "ejected", "weighted":
		for _, e := range n.Endpoints {
			if e.State == f.Name {
				return "true"
			}
		}
		return "false"
	case "missing":
		for _, r := range n.Reporters {
			if r.Missing {
				return "true"
			}
		}
		return "false"
	}
	return viewText(&n.Inbound, f.Name)
}

func (n *nodeSubject) Measure(f *match.Field) float64 {
	if f.Name == "breaks" {
		if n.TraceBreaks == nil {
			return math.NaN()
		}
		return *n.TraceBreaks
	}
	return viewMeasure(&n.Inbound, f.Name)
}

type edgeSubject struct {
	*Edge
	spaces map[string]string // namespace by service
}

func (e *edgeSubject) Text(f *match.Field) string {
	switch f.Name {
	case "src":
		return e.Source
	case "dst":
		return e.Destination
	case "src.ns":
		return e.spaces[e.Source]
	case "dst.ns":
		return e.spaces[e.Destination]
	case "protocol":
		return e.Protocol
	case "mtls":
		return strconv.FormatBool(e.MTLS)
	case "state":
		return string(e.State)
	case "missing":
		return strconv.FormatBool(e.State == ReporterMissing)
	case "retries":
		if e.Client == nil || e.Client.Attempts < e.Client.Requests {
			return ""
		}
		return strconv.FormatUint(e.Client.Attempts-e.Client.Requests, 10)
	case "reason":
		most, reason := uint64(0), ""
		if v := e.Main(); v != nil {
			for r, n := range v.Reasons {
				if n > most || n == most && r < reason {
					most, reason = n, r
				}
			}
		}
		return reason
	}
	return viewText(e.Main(), f.Name)
}

func (e *edgeSubject) Measure(f *match.Field) float64 {
	if f.Name == "gap" {
		if e.Gap == nil {
			return math.NaN()
		}
		return e.Gap.Latency * float64(time.Second)
	}
	return viewMeasure(e.Main(), f.Name)
}

func viewText(v *View, name string) string {
	switch {
	case v == nil:
	case name == "rate":
		return strconv.FormatFloat(v.Rate, 'f', -1, 64)
	case name == "open":
		return strconv.FormatInt(v.Active, 10)
	}
	return ""
}

func viewMeasure(v *View, name string) float64 {
	if v == nil {
		return math.NaN()
	}
	if name == "err" {
		return v.ErrorRatio
	}
	if v.Requests == 0 { // nothing took any time
		return math.NaN()
	}
	seconds := math.NaN()
	switch name {
	case "p50":
		seconds = v.P50
	case "p95":
		seconds = v.P95
	case "p99":
		seconds = v.P99
	}
	return seconds * float64(time.Second)
}
