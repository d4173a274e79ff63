package dashboard

import (
	"context"
	"net/http"
)

type idle struct{}

func (idle) Run(ctx context.Context) error { <-ctx.Done(); return nil }

// routes builds the tree: health, assets, live feed, APIs, pages.
func (d *Dashboard) routes() (http.Handler, error) {
	mux := http.NewServeMux()
	d.hub = idle{}
	mux.HandleFunc("GET /healthz", probe(d.cfg.Health))
	mux.HandleFunc("GET /readyz", probe(d.cfg.Ready))
	return newGuard(d.cfg.Addr, d.cfg.Hosts, compress(mux)), nil
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
