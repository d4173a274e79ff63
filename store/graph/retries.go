package graph

import (
	"cmp"
	"slices"
	"strings"
)

// RetryPath is one way that calls take through the mesh, and what retries make of them: where each of several sidecars on a way retries, a failure at its end is tried as
// often as the product of their tries.
type RetryPath struct {
	Services []string   `json:"services"` // from the caller that the way begins with; at least two
	Hops     []RetryHop `json:"hops"`     // one between each two of them
	// Amplification is the product of the hops' attempts per request: how many attempts at the end come of one request there for the retries on the way. 1 when nothing is retried.
	Amplification float64 `json:"amplification"`
	// PerEntry is how many attempts at the end come of one request at the beginning, with what each service calls besides: the product of the hops' Calls and attempts per request.
	PerEntry float64 `json:"perEntry"`
	Cyclic   bool    `json:"cyclic,omitempty"` // it ends where calls go back to a service that it has
}

// RetryHop is an edge of a way, all protocols that have requests together, as its caller counted in the snapshot's window.
type RetryHop struct {
	Source      string  `json:"source"`
	Destination string  `json:"destination"`
	Requests    uint64  `json:"requests"`
	Attempts    uint64  `json:"attempts"`   // at least Requests, but for those that never were sent
	PerRequest  float64 `json:"perRequest"` // Attempts ÷ Requests
	Calls       float64 `json:"calls"`      // requests for each one that its source took; 1 where nothing is known of these
	ErrorRatio  float64 `json:"errorRatio"` // of the requests
	Failed      uint64  `json:"errors"`     // of the requests
	Retries     uint64  `json:"retries"`    // Attempts − Requests, 0 when negative
}

// Bounds of RetryPaths.
const (
	maxRetryPaths = 1_000  // that are looked at
	maxRetrySteps = 50_000 // edges, however they branch
	maxRetryHops  = 32
)

// RetryPaths are the ways from a service ("": from each that nobody calls) to another ("": to where calls end), the most amplified first, at most limit. more says that the mesh has
// more ways than were looked at. It is pure; s is only read.
func RetryPaths(s *Snapshot, from, to string, limit int) (paths []RetryPath, more bool) {
	out, in, called := map[string][]*RetryHop{}, map[string]uint64{}, map[string]bool{}
	byPair := map[[2]string]*RetryHop{}
	for i := range s.Edges {
		e := &s.Edges[i]
		if e.Client == nil || e.Client.Requests == 0 {
			if e.Server != nil {
				in[e.Destination] += e.Server.Requests
			}
			continue
		}
		k := [2]string{e.Source, e.Destination}
		h := byPair[k]
		if h == nil {
			h = &RetryHop{Source: e.Source, Destination: e.Destination}
			byPair[k] = h
			out[e.Source] = append(out[e.Source], h)
		}
		h.Requests += e.Client.Requests
		h.Attempts += e.Client.Attempts
		h.Failed += e.Client.Errors
		if e.Server != nil {
			in[e.Destination] += e.Server.Requests
		} else {
			in[e.Destination] += e.Client.Requests
		}
		if e.Source != e.Destination {
			called[e.Destination] = true
		}
	}
	for _, h := range byPair {
		h.PerRequest = max(1, float64(h.Attempts)/float64(h.Requests))
		h.ErrorRatio = float64(h.Failed) / float64(h.Requests)
		h.Retries = h.Attempts - min(h.Attempts, h.Requests)
		h.Calls = 1
		if n := in[h.Source]; n > 0 {
			h.Calls = float64(h.Requests) / float64(n)
		}
	}
	var roots []string
	for src, hops := range out {
		slices.SortFunc(hops, func(a, b *RetryHop) int {
			return cmp.Or(cmp.Compare(b.PerRequest, a.PerRequest), strings.Compare(a.Destination, b.Destination))
		})
		if from == "" && !called[src] || src == from {
			roots = append(roots, src)
		}
	}
	if len(roots) == 0 && from == "" { // a ring
		for src := range out {
			roots = append(roots, src)
		}
	}
	slices.Sort(roots)
	w := retryWalk{out: out, to: to}
	for _, r := range roots {
		w.services = append(w.services[:0], r)
		w.hops = w.hops[:0]
		w.walk(r)
	}
	slices.SortStableFunc(w.paths, func(a, b RetryPath) int {
		return cmp.Or(cmp.Compare(b.Amplification, a.Amplification), cmp.Compare(b.PerEntry, a.PerEntry), slices.Compare(a.Services, b.Services))
	})
	if len(w.paths) > limit {
		w.paths, w.more = w.paths[:limit], true
	}
	return w.paths, w.more
}

type retryWalk struct {
	out      map[string][]*RetryHop
	to       string
	services []string
	hops     []RetryHop
	paths    []RetryPath
	steps    int
	more     bool
}

func (w *retryWalk) walk(at string) {
	on, cyclic := 0, false
	if at != w.to || len(w.hops) == 0 {
		for _, h := range w.out[at] {
			if slices.Contains(w.services, h.Destination) {
				cyclic = true
				continue
			}
			if w.steps++; w.steps > maxRetrySteps || len(w.paths) >= maxRetryPaths || len(w.hops) >= maxRetryHops {
				w.more = true
				return
			}
			on++
			w.services, w.hops = append(w.services, h.Destination), append(w.hops, *h)
			w.walk(h.Destination)
			w.services, w.hops = w.services[:len(w.services)-1], w.hops[:len(w.hops)-1]
		}
	}
	if len(w.hops) == 0 || w.to != "" && at != w.to || w.to == "" && on > 0 {
		return
	}
	p := RetryPath{Services: slices.Clone(w.services), Hops: slices.Clone(w.hops), Amplification: 1, PerEntry: 1, Cyclic: cyclic}
	for i, h := range p.Hops {
		p.Amplification *= h.PerRequest
		if p.PerEntry *= h.PerRequest; i > 0 {
			p.PerEntry *= h.Calls
		}
	}
	w.paths = append(w.paths, p)
}
