package dashboardtest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store/graph"
)

// Large is the graph of a made-up company of so many services, five edges for each of them. Its shape depends on its size only; its figures change from tick to
// tick.
type Large struct {
	Graph
	Size int
}

var largeWords = []string{
	"orders", "billing", "catalog", "search", "stock", "ledger", "mailer", "tokens", "profile", "pricing", "quotes", "carts", "returns", "labels", "images", "reviews", "offers", "audit", "routes", "rates",
}

// largeTeam is how many services have a namespace in common.
const largeTeam = 25

// LargeSnapshot is the graph of size services at a tick.
func LargeSnapshot(size int, tick uint64, at time.Time) *graph.Snapshot {
	shape, figures := rand.New(rand.NewPCG(58, uint64(size))), rand.New(rand.NewPCG(58, tick))
	s := &graph.Snapshot{Sequence: tick, At: at, Window: 10 * time.Second}
	for i := range size {
		id := fmt.Sprintf("%s-%03d", largeWords[i%len(largeWords)], i)
		n := graph.Node{ID: id, Name: id, Namespace: fmt.Sprintf("team-%02d", i/largeTeam), Kind: graph.KindService}
		switch {
		case i%97 == 96:
			n.Kind, n.Namespace = graph.KindExternal, ""
		case i%31 == 30:
			n.Kind = graph.KindTCP
		case i < 3:
			n.Kind = graph.KindGateway
		}
		s.Nodes = append(s.Nodes, n)
	}
	seen := map[[2]int]bool{}
	for len(seen) < 5*size {
		// Who is called is further behind, by a few steps or at a hub, and most calls stay in the team.
		from := shape.IntN(size)
		to := from + 1 + int(shape.ExpFloat64()*float64(largeTeam)/2)
		if shape.IntN(6) == 0 {
			to = size - 1 - int(float64(size)*math.Pow(shape.Float64(), 3)/2)
		}
		if to <= from || to >= size || s.Nodes[from].Kind == graph.KindExternal || seen[[2]int{from, to}] {
			to = shape.IntN(size)
			if to == from || seen[[2]int{from, to}] || s.Nodes[from].Kind == graph.KindExternal || to < from && shape.IntN(20) > 0 {
				continue
			}
		}
		seen[[2]int{from, to}] = true
		a, b := &s.Nodes[from], &s.Nodes[to]
		v := largeView(shape, figures)
		e := graph.Edge{Source: a.ID, Destination: b.ID, Protocol: []string{"http/1.1", "h2", "grpc"}[shape.IntN(3)], State: graph.BothSides, MTLS: true, Client: &v}
		if b.Kind == graph.KindExternal {
			e.State, e.MTLS = graph.ClientOnly, false
		} else {
			far := v
			far.P50, far.P95, far.P99 = v.P50*.86, v.P95*.86, v.P99*.86
			e.Server, e.Gap = &far, &graph.Gap{Latency: v.P50 - far.P50}
		}
		e.ID = e.Source + "→" + e.Destination + ":" + e.Protocol
		in := &b.Inbound
		in.Requests, in.Errors, in.Rate = in.Requests+v.Requests, in.Errors+v.Errors, in.Rate+v.Rate
		in.P50, in.P95, in.P99 = max(in.P50, v.P50), max(in.P95, v.P95), max(in.P99, v.P99)
		s.Edges = append(s.Edges, e)
	}
	for i := range s.Nodes {
		if in := &s.Nodes[i].Inbound; in.Requests > 0 {
			in.ErrorRatio = float64(in.Errors) / float64(in.Requests)
		}
	}
	slices.SortFunc(s.Nodes, func(a, b graph.Node) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Edges, func(a, b graph.Edge) int {
		return strings.Compare(a.Source+"\x00"+a.Destination, b.Source+"\x00"+b.Destination)
	})
	return s
}

func largeView(shape, figures *rand.Rand) graph.View {
	rate := math.Exp(shape.NormFloat64()*1.6+2) * (.94 + .12*figures.Float64())
	p50 := .002 * math.Exp(shape.NormFloat64()*1.1+.8) * (.95 + .1*figures.Float64())
	failing := 0.0
	switch shape.IntN(120) {
	case 0:
		failing = .07
	case 1, 2:
		failing = .02
	}
	n := uint64(rate * 10)
	v := graph.View{Requests: n, Rate: rate, P50: p50, P95: 2.6 * p50, P99: 4.2 * p50, Attempts: n, BytesIn: n * 420, BytesOut: n * 5200}
	v.Errors = uint64(math.Round(float64(n) * failing))
	if n > 0 {
		v.ErrorRatio = float64(v.Errors) / float64(n)
	}
	return v
}

// Live returns the snapshot of now.
func (g *Large) Live() *graph.Snapshot {
	now := g.now()
	return LargeSnapshot(g.Size, uint64(now.Unix()), now)
}

// Subscribe yields one snapshot per tick.
func (g *Large) Subscribe(ctx context.Context) <-chan *graph.Snapshot {
	return g.subscribe(ctx, g.Live)
}

// At draws the same mesh at another instant.
func (g *Large) At(_ context.Context, t time.Time) (*graph.Snapshot, error) {
	s := LargeSnapshot(g.Size, uint64(t.Unix()), t)
	s.Sequence = 0
	return s, nil
}
