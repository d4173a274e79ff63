package page

import (
	"context"
	"net/http"
	"sort"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/store/graph"
)

// ProxiesView is every sidecar.
type ProxiesView struct {
	Shell   part.Shell
	Proxies []source.Proxy
	Folding int  // how many count series under other
	Partial bool // nobody tells about connections: known from reports only
	Stats   []part.Stat
	Error   string
	Now     time.Time
}

// Proxies shows every sidecar: what it runs on, whether it reports, what it refused, how its clock differs.
func Proxies(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), queryTime)
		defer cancel()
		v := ProxiesView{Shell: d.shell(ctx, "Proxies", "/proxies", "reload"), Now: d.Clock()}
		var err error
		if v.Proxies, v.Partial, err = AllProxies(ctx, d.Sources, d.live()); err != nil {
			v.Error = "The list of proxies cannot be read: " + err.Error()
		}
		sort.SliceStable(v.Proxies, func(i, j int) bool { return rank(proxyLevel(&v.Proxies[i])) > rank(proxyLevel(&v.Proxies[j])) })
		connected, current, silent, refused := 0, 0, 0, 0
		for i := range v.Proxies {
			p := &v.Proxies[i]
			if p.Connected {
				connected++
			}
			if p.Wanted == p.Acked {
				current++
			}
			if !p.Reporting {
				silent++
			}
			if p.Nack != "" {
				refused++
			}
			if p.Folded > 0 {
				v.Folding++
			}
		}
		warn := func(n int) part.Level {
			if n > 0 {
				return part.Warn
			}
			return part.OK
		}
		v.Stats = []part.Stat{{Label: "Proxies", Value: part.Count(len(v.Proxies)), Level: part.OK}}
		if !v.Partial {
			v.Stats = append(v.Stats,
				part.Stat{Label: "Connected", Value: part.Count(connected), Level: warn(len(v.Proxies) - connected)},
				part.Stat{Label: "On the newest revision", Value: part.Count(current), Level: warn(len(v.Proxies) - current)},
				part.Stat{Label: "Refusing", Value: part.Count(refused), Level: warn(refused)})
		}
		v.Stats = append(v.Stats, part.Stat{Label: "Not reporting", Value: part.Count(silent), Level: warn(silent)})
		render(w, r, http.StatusOK, ProxiesPage(v))
	}
}

// AllProxies lists the sidecars by the Proxies source; without one, by who reports (partial).
func AllProxies(ctx context.Context, s *source.Sources, live *graph.Snapshot) (list []source.Proxy, partial bool, err error) {
	if s.Proxies != nil {
		list, err = s.Proxies.Proxies(ctx)
		if err == nil {
			return list, false, nil
		}
	}
	for i := range live.Nodes {
		n := &live.Nodes[i]
		for _, r := range n.Reporters {
			list = append(list, source.Proxy{
				Instance: r.Instance, Service: n.ID, Namespace: n.Namespace, Version: r.Version, Identity: r.Identity, LastSeen: r.LastSeen,
				Reporting: !r.Missing, ClockOffset: r.ClockOffset, Folded: r.Folded, CertNotAfter: r.CertNotAfter, Memory: r.Memory,
			})
		}
	}
	return list, true, err
}

// clockWarn is from where a clock difference is worth a mark.
const clockWarn = time.Second

func proxyLevel(p *source.Proxy) part.Level {
	switch {
	case p.Nack != "":
		return part.Bad
	case !p.Reporting:
		return part.Lost
	case p.Folded > 0:
		return part.Warn
	case p.ClockOffset > clockWarn || p.ClockOffset < -clockWarn:
		return part.Warn
	case p.Wanted != p.Acked:
		return part.Warn
	}
	return part.OK
}
