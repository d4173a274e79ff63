//go:build unix

package main

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/loadtest/demo"
	"github.com/tulle-mesh/tulle/loadtest/rig"
	"github.com/tulle-mesh/tulle/loadtest/shop"
	"github.com/tulle-mesh/tulle/store/event"
)

// watcher looks at everything several times a second.
type watcher struct {
	rig     *rig.Rig
	targets []demo.Workload // catalog's endpoints
	began   time.Time

	mu   sync.Mutex
	all  []*round
	seen map[string]bool // event ids
	http http.Client
}

func newWatcher(r *rig.Rig) *watcher {
	w := &watcher{rig: r, seen: map[string]bool{}, began: time.Now(), http: http.Client{Timeout: 2 * time.Second}}
	for _, x := range r.Workloads() {
		if x.Service == "catalog" {
			w.targets = append(w.targets, x)
		}
	}
	return w
}

func (w *watcher) rounds() []round {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]round, len(w.all))
	for i, r := range w.all {
		out[i] = *r
	}
	return out
}

// watch returns when want rounds are complete, or ctx ends.
func (w *watcher) watch(ctx context.Context, want int) {
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(ctx)
	defer wg.Wait()
	defer cancel()
	each := func(every time.Duration, do func(context.Context)) {
		wg.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				do(ctx)
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	each(50*time.Millisecond, w.lookAtFaults)
	each(200*time.Millisecond, w.lookAtGraph)
	each(300*time.Millisecond, w.lookAtEvents)
	each(300*time.Millisecond, w.lookAtAlerts)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		complete := 0
		for _, r := range w.rounds() {
			if !r.healed.IsZero() && !r.readmitted.IsZero() && !r.resolved.IsZero() {
				complete++
			}
		}
		if complete >= want {
			return
		}
	}
}

func (w *watcher) getJSON(ctx context.Context, url string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}

// lookAtFaults asks the control ports: the truth about when a fault began and ended.
func (w *watcher) lookAtFaults(ctx context.Context) {
	for _, t := range w.targets {
		var f shop.Fault
		if w.getJSON(ctx, "http://"+t.Control+"/fault", &f) != nil {
			continue
		}
		now := time.Now()
		w.mu.Lock()
		var open *round
		for _, r := range w.all {
			if r.instance == t.Instance && r.healed.IsZero() {
				open = r
			}
		}
		switch {
		case f.Kind != shop.FaultNone && open == nil:
			w.all = append(w.all, &round{instance: t.Instance, kind: string(f.Kind), began: now})
		case f.Kind == shop.FaultNone && open != nil:
			open.healed = now
		}
		w.mu.Unlock()
	}
}

func (w *watcher) lookAtGraph(ctx context.Context) {
	g, err := w.rig.API.Graph(ctx)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var errs, requests uint64
	for _, e := range g.Edges {
		if e.Destination == "catalog" && e.Client != nil {
			errs += e.Client.Errors
			requests += e.Client.Requests
		}
	}
	for _, r := range w.all {
		r.looks = append(r.looks, look{g.At, ratio(errs, requests)})
	}
	for _, n := range g.Nodes {
		if n.ID != "catalog" {
			continue
		}
		for _, e := range n.Endpoints {
			if e.State != "ejected" {
				continue
			}
			if r := last(w.all, w.instanceAt(e.Address, e.Instance)); r != nil && r.shown.IsZero() {
				r.shown = time.Now()
			}
		}
	}
}

// instanceAt names an endpoint by its address, as callers see it.
func (w *watcher) instanceAt(address, instance string) string {
	for _, t := range w.targets {
		if t.Inbound == address {
			return t.Instance
		}
	}
	return instance
}

func (w *watcher) lookAtEvents(ctx context.Context) {
	events, err := w.rig.API.Events(ctx, client.EventQuery{Start: w.began, Limit: 1000})
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(events) - 1; i >= 0; i-- {
		e := events[i]
		if w.seen[e.ID] {
			continue
		}
		w.seen[e.ID] = true
		r := last(w.all, w.instanceAt(e.Endpoint, e.Instance))
		switch e.Kind {
		case event.KindEjected:
			switch {
			case r == nil && len(w.all) > 0:
				w.all[len(w.all)-1].ejectedOthers++
			case r != nil && r.ejected.IsZero():
				r.ejected = e.Time
			}
		case event.KindReadmitted:
			if r != nil && !r.healed.IsZero() && e.Time.After(r.healed) {
				r.readmitted = e.Time
			}
		}
	}
}

func (w *watcher) lookAtAlerts(ctx context.Context) {
	var got []demo.Notification
	if w.getJSON(ctx, "http://"+w.rig.Config.Webhook+"/", &got) != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range got {
		var body struct {
			Status string `json:"status"`
		}
		if json.Unmarshal(n.Body, &body) != nil || !strings.Contains(string(n.Body), "catalog") {
			continue
		}
		for i, r := range w.all {
			inRound := n.Received.After(r.began) && (i+1 == len(w.all) || n.Received.Before(w.all[i+1].began))
			if !inRound {
				continue
			}
			if body.Status == "firing" && r.alert.IsZero() {
				r.alert = n.Received
			}
			if body.Status == "resolved" && !r.healed.IsZero() && n.Received.After(r.healed) {
				r.resolved = n.Received
			}
		}
	}
}
