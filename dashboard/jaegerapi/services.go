package jaegerapi

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	jaeger "github.com/jaegertracing/jaeger/model"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/metric"

	ui "github.com/jaegertracing/jaeger/model/json"
)

func (a *api) services(w http.ResponseWriter, r *http.Request) {
	list, err := a.Spans.Services(r.Context())
	if err != nil {
		fail(w, r, statusOf(err), err.Error())
		return
	}
	writeJSON(w, r, http.StatusOK, envelope{Data: list, Total: len(list)})
}

// operationsOf lists a service's operations, of one span kind if kind is set.
func (a *api) operationsOf(ctx context.Context, service, kind string) ([]store.Operation, error) {
	all, err := a.Spans.Operations(ctx, service)
	if err != nil || kind == "" {
		return all, err
	}
	out := []store.Operation{}
	for _, o := range all {
		if o.Kind == kind {
			out = append(out, o)
		}
	}
	return out, nil
}

func (a *api) serviceOperations(w http.ResponseWriter, r *http.Request) {
	list, err := a.operationsOf(r.Context(), r.PathValue("service"), "")
	if err != nil {
		fail(w, r, statusOf(err), err.Error())
		return
	}
	names := operationNames(list)
	writeJSON(w, r, http.StatusOK, envelope{Data: names, Total: len(names)})
}

// operationNames are the names of a sorted list, each once; nil for none, which Jaeger writes as null.
func operationNames(list []store.Operation) (names []string) {
	for _, o := range list {
		if len(names) == 0 || names[len(names)-1] != o.Name {
			names = append(names, o.Name)
		}
	}
	return names
}

func (a *api) operations(w http.ResponseWriter, r *http.Request) {
	service := pick(r, "service")
	if service == "" {
		fail(w, r, http.StatusBadRequest, "parameter 'service' is required")
		return
	}
	list, err := a.operationsOf(r.Context(), service, pick(r, "spanKind"))
	if err != nil {
		fail(w, r, statusOf(err), err.Error())
		return
	}
	out := make([]ui.Operation, 0, len(list))
	for _, o := range list {
		out = append(out, ui.Operation{Name: o.Name, SpanKind: o.Kind})
	}
	writeJSON(w, r, http.StatusOK, envelope{Data: out, Total: len(out)})
}

func (a *api) servicesV3(w http.ResponseWriter, r *http.Request) {
	list, err := a.Spans.Services(r.Context())
	if err != nil {
		failV3(w, r, statusOf(err), err.Error())
		return
	}
	if list == nil {
		list = []string{}
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"services": list})
}

func (a *api) operationsV3(w http.ResponseWriter, r *http.Request) {
	service := pick(r, "service")
	if service == "" {
		failV3(w, r, http.StatusBadRequest, "malformed parameter service: it is required")
		return
	}
	list, err := a.operationsOf(r.Context(), service, pick(r, "spanKind", "span_kind"))
	if err != nil {
		failV3(w, r, statusOf(err), err.Error())
		return
	}
	out := make([]ui.Operation, 0, len(list))
	for _, o := range list {
		out = append(out, ui.Operation{Name: o.Name, SpanKind: o.Kind})
	}
	writeJSON(w, r, http.StatusOK, map[string]any{"operations": out})
}

// dependencies counts calls between services over [endTs-lookback, endTs] from the mesh's own counters, never from spans.
func (a *api) dependencies(w http.ResponseWriter, r *http.Request) {
	end, lookback := a.Clock(), 24*time.Hour
	if s := pick(r, "endTs"); s != "" {
		t, err := unixUnit(s, time.Millisecond)
		if err != nil {
			fail(w, r, http.StatusBadRequest, "unable to parse param 'endTs': "+err.Error())
			return
		}
		end = t
	}
	if s := pick(r, "lookback"); s != "" {
		t, err := unixUnit(s, time.Millisecond)
		if err != nil || t.UnixNano() <= 0 {
			fail(w, r, http.StatusBadRequest, "unable to parse param 'lookback': write milliseconds")
			return
		}
		lookback = time.Duration(t.UnixNano())
	}
	links, err := a.links(r.Context(), end, lookback)
	if err != nil {
		fail(w, r, statusOf(err), err.Error())
		return
	}
	if only := pick(r, "service"); only != "" {
		kept := []ui.DependencyLink{}
		for _, l := range links {
			if l.Parent == only || l.Child == only {
				kept = append(kept, l)
			}
		}
		links = kept
	}
	writeJSON(w, r, http.StatusOK, envelope{Data: links, Total: len(links)})
}

// dependencyLinks are the links of a range in Jaeger's own type. Both ends are needed.
func (a *api) dependencyLinks(ctx context.Context, from, to time.Time) ([]jaeger.DependencyLink, error) {
	if !to.After(from) {
		return nil, fmt.Errorf("%w: the range of dependencies ends before it begins", store.ErrBadQuery)
	}
	links, err := a.links(ctx, to, to.Sub(from))
	out := make([]jaeger.DependencyLink, 0, len(links))
	for _, l := range links {
		out = append(out, jaeger.DependencyLink{Parent: l.Parent, Child: l.Child, CallCount: l.CallCount})
	}
	return out, err
}

func (a *api) links(ctx context.Context, end time.Time, lookback time.Duration) ([]ui.DependencyLink, error) {
	out := []ui.DependencyLink{}
	if m, ok := a.Metrics.Queryable.(increaser); ok {
		return increases(ctx, m, end, lookback)
	}
	if a.Metrics.Engine != nil && a.Metrics.Queryable != nil {
		// One side of each edge: the caller's, and the callee's where the caller has no sidecar.
		window := lookback.Round(time.Second).String()
		q, err := a.Metrics.Engine.NewInstantQuery(ctx, a.Metrics.Queryable, nil,
			`sort(sum by (source, destination) (increase(tulle_requests_total{side="client"}[`+window+`]) or increase(tulle_requests_total{side="server",source="unmeshed"}[`+window+`])))`, end)
		if err != nil {
			return nil, err
		}
		defer q.Close()
		res := q.Exec(ctx)
		if res.Err != nil {
			return nil, res.Err
		}
		if v, ok := res.Value.(promql.Vector); ok {
			for _, s := range v {
				if s.F >= 0.5 {
					out = append(out, ui.DependencyLink{Parent: s.Metric.Get("source"), Child: s.Metric.Get("destination"), CallCount: uint64(s.F + 0.5)})
				}
			}
		}
		return out, nil
	}
	live := a.Graph.Live()
	if live == nil {
		return out, nil
	}
	for _, e := range live.Edges { // without series only the live window is known
		v := e.Client
		if v == nil {
			v = e.Server
		}
		if v != nil && v.Requests > 0 {
			out = append(out, ui.DependencyLink{Parent: e.Source, Child: e.Destination, CallCount: v.Requests})
		}
	}
	return out, nil
}

// increaser is a store that knows how much counters grew without reading every sample of a day: store/metric.
type increaser interface {
	Increases(ctx context.Context, from, to time.Time, by []string, ms ...*labels.Matcher) ([]metric.Increase, error)
}

// increases are the links, the least used first. One side of each edge counts: the caller's, and the callee's where the caller has no sidecar.
func increases(ctx context.Context, m increaser, end time.Time, lookback time.Duration) ([]ui.DependencyLink, error) {
	out := []ui.DependencyLink{}
	equal := func(name, value string) *labels.Matcher { return labels.MustNewMatcher(labels.MatchEqual, name, value) }
	requests := equal(model.MetricNameLabel, graph.SeriesRequests)
	for _, side := range [][]*labels.Matcher{{requests, equal("side", "client")}, {requests, equal("side", "server"), equal("source", "unmeshed")}} {
		grown, err := m.Increases(ctx, end.Add(-lookback), end, []string{"source", "destination"}, side...)
		if err != nil {
			return nil, err
		}
		for _, g := range grown {
			if g.Value >= 0.5 {
				out = append(out, ui.DependencyLink{Parent: g.Labels.Get("source"), Child: g.Labels.Get("destination"), CallCount: uint64(g.Value + 0.5)})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b ui.DependencyLink) int { return cmp.Compare(a.CallCount, b.CallCount) })
	return out, nil
}
