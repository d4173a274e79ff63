package dashboard

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/asset"
	"github.com/tulle-mesh/tulle/dashboard/jaegerapi"
	"github.com/tulle-mesh/tulle/dashboard/layout"
	"github.com/tulle-mesh/tulle/dashboard/live"
	"github.com/tulle-mesh/tulle/dashboard/lokiapi"
	"github.com/tulle-mesh/tulle/dashboard/page"
	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/dashboard/promapi"
	"github.com/tulle-mesh/tulle/dashboard/tempoapi"
	"github.com/tulle-mesh/tulle/dashboard/tulleapi"
	"github.com/tulle-mesh/tulle/store/graph"
)

// settle is how long a newly discovered mesh may still change its drawing as a whole.
const settle = 20 * time.Second

// routes builds the tree: health, metrics, assets, live feed, APIs, pages.
func (d *Dashboard) routes() (http.Handler, error) {
	set, err := asset.Load()
	if err != nil {
		return nil, err
	}
	var assets part.Assets
	for name, to := range map[string]*string{"app.js": &assets.Script, "app.css": &assets.Style, "boot.js": &assets.Boot, "charts.js": &assets.Charts, "icon.svg": &assets.Icon} {
		if *to, err = set.URL(name); err != nil {
			return nil, err
		}
	}
	deps := &page.Deps{Sources: &d.cfg.Sources, Assets: assets, Places: &layout.Memory{Settle: settle}, GroupPlaces: page.GroupPlaces(settle)}

	mux := http.NewServeMux()
	g := newGuard(d.cfg.Addr, d.cfg.Hosts, nil)
	d.hub = live.New(d.log, g.originAllowed, d.topics(deps)...)
	d.hub.Offer(live.Watch{Name: page.RequestsTail, Run: page.TailRequests(deps)})
	own := newSelf(&d.cfg.Sources, d.hub)
	g.next = own.count(compress(budgeted(d.cfg.Memory, mux)))

	mux.HandleFunc("GET /healthz", probe(d.cfg.Health))
	mux.HandleFunc("GET /readyz", probe(d.cfg.Ready))
	mux.Handle("GET "+asset.Prefix, set)
	mux.Handle("GET /live", d.hub)
	mux.HandleFunc("GET /metrics", own.handler(&d.cfg.Sources))
	jaegerapi.Register(mux, &d.cfg.Sources)
	promapi.Register(mux, &d.cfg.Sources, d.log)
	tempoapi.Register(mux, &d.cfg.Sources)
	lokiapi.Register(mux, &d.cfg.Sources)
	if d.cfg.Alertmanager != nil {
		mux.Handle("/api/v2/", d.cfg.Alertmanager)
	}
	tulleapi.Register(mux, &d.cfg.Sources, nil)
	for _, p := range pages {
		mux.Handle(p.pattern, p.handler(deps))
	}
	mux.HandleFunc("/api/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"error":{"status":404,"message":"there is no such endpoint; docs/reference/http-api.md lists them","retry":false}}` + "\n"))
	})
	mux.Handle("/", page.NotFound(deps))
	return g, nil
}

// edgesTopic has the figures of every edge of a large graph. Its frames are empty while nobody wants them.
const edgesTopic = "edges"

// topics are what pages can subscribe to.
func (d *Dashboard) topics(deps *page.Deps) []live.Topic {
	// The graph is read once, by its own topic, which feeds and ends the others: their frames are empty while nobody wants them.
	edges := make(chan live.Frame)
	together := map[graph.Grouping]chan live.Frame{}
	topics := []live.Topic{
		{Name: "graph", Frames: func(ctx context.Context) <-chan live.Frame {
			in, out := d.cfg.Graph.Subscribe(ctx), make(chan live.Frame)
			go func() {
				defer func() {
					close(out)
					close(edges)
					for _, c := range together {
						close(c)
					}
				}()
				var seq uint64
				for s := range in {
					seq++
					stats := page.Headline(ctx, deps, s)
					items, all := page.LiveItems(s, stats, d.hub.Wanted(edgesTopic))
					frames := map[chan live.Frame]live.Frame{out: {Seq: seq, Items: items}, edges: {Seq: seq, Items: all}}
					for by, c := range together {
						f := live.Frame{Seq: seq}
						if d.hub.Wanted(page.GroupTopic(by)) {
							f.Items, _ = page.LiveItems(graph.Group(s, by, nil).Snapshot, stats, true)
						}
						frames[c] = f
					}
					for to, f := range frames {
						select {
						case to <- f:
						case <-ctx.Done():
							return
						}
					}
				}
			}()
			return out
		}},
		{Name: edgesTopic, Frames: func(context.Context) <-chan live.Frame { return edges }},
		{Name: "events", Frames: func(ctx context.Context) <-chan live.Frame {
			out := make(chan live.Frame)
			if d.cfg.Events == nil {
				close(out)
				return out
			}
			in := d.cfg.Events.Subscribe(ctx)
			go func() {
				defer close(out)
				f := live.Frame{Seq: 1, Items: map[string]json.RawMessage{}}
				for {
					select {
					case out <- f:
					case <-ctx.Done():
						return
					}
					e, ok := <-in
					if !ok {
						return
					}
					// One frame per event would be wasteful in a storm: the page fetches its list anew, so the newest is enough.
					b, _ := json.Marshal(e)
					f = live.Frame{Seq: f.Seq + 1, Items: map[string]json.RawMessage{"ev:" + e.ID: b}}
				}
			}()
			return out
		}},
	}
	for _, by := range graph.Groupings() {
		c := make(chan live.Frame)
		together[by] = c
		topics = append(topics, live.Topic{Name: page.GroupTopic(by), Frames: func(context.Context) <-chan live.Frame { return c }})
	}
	return topics
}

// probe answers ok, or 503 with what is wrong in one line.
func probe(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if check != nil {
			if err := check(); err != nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				_, _ = w.Write([]byte(err.Error() + "\n"))
				return
			}
		}
		_, _ = w.Write([]byte("ok\n"))
	}
}
