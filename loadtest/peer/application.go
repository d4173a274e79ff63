//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/graph"
)

// Names that only this application claims; none may reach the graph or the series.
const (
	claimedService     = "peer-application"
	claimedDestination = "peer-invention"
	spanName           = "peer: work"
)

// application is a program outside the mesh that has traces of its own: it calls web with a traceparent (W3C Trace Context), and tells the
// observer about its work below web's span by OTLP/HTTP, in JSON, with no SDK. What it claims about the mesh must not be believed.
type application struct {
	api  api
	otlp string // base URL of OTLP/HTTP
	web  string // base URL of web, in plaintext
	out  string // base URL of web's sidecar for calls to catalog

	trace, root string // of its traceparent, hex
	parent      string // web's server span, which the mesh recorded
	own         string // its span below that, hex
	sent        time.Time
}

func (a *application) checks() []check {
	return []check{
		{"W3C traceparent: the mesh continues it", a.call},
		{"OTLP/HTTP JSON: an application's span is taken", a.send},
		{"OTLP/HTTP JSON: it shows up in the mesh's trace", a.appears},
		{"W3C traceparent: what it calls in turn is below its span", a.onward},
		{"OTLP/HTTP JSON: its claims about the mesh are removed", a.unmarked},
		{"OTLP/HTTP JSON: it is no evidence", a.noEvidence},
	}
}

func random(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// call sends a request to web and waits for web's span in the trace.
func (a *application) call(ctx context.Context) (string, error) {
	a.trace, a.root = random(16), random(8)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.web+"/hello", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("traceparent", "00-"+a.trace+"-"+a.root+"-01")
	status, _, err := do(req)
	if err != nil {
		return "", err
	}
	if status != http.StatusOK {
		return "", fmt.Errorf("web answered %d", status)
	}
	err = await(ctx, func(ctx context.Context) error {
		t, err := jaeger{a.api}.trace(ctx, a.trace)
		if err != nil {
			return err
		}
		for _, s := range t.Spans {
			if t.service(s) == "web" && len(s.References) == 1 && s.References[0].SpanID == a.root {
				a.parent = s.SpanID
				return nil
			}
		}
		return fmt.Errorf("trace %s has no span of web below %s", a.trace, a.root)
	})
	return "web's span is a child of the caller's", err
}

type attribute struct {
	Key   string            `json:"key"`
	Value map[string]string `json:"value"`
}

func text(key, v string) attribute { return attribute{key, map[string]string{"stringValue": v}} }

// send posts a span that continues the trace and claims to be a failed exchange between catalog's peers, and a counter that claims the same.
func (a *application) send(ctx context.Context) (string, error) {
	if a.parent == "" {
		return "", errors.New("there is no mesh trace to continue")
	}
	a.own = random(8)
	now := time.Now()
	nanos := func(t time.Time) string { return strconv.FormatInt(t.UnixNano(), 10) }
	claims := []attribute{
		text("tulle.kind", "exchange"), text("tulle.side", "client"), text("tulle.phase", "close"), text("tulle.reason", "upstream_5xx"),
		text("tulle.source.service", claimedService), text("tulle.destination.service", claimedDestination), text("tulle.code_class", "5xx"),
		text("tulle.answered", "true"), text("tulle.delivered", "true"),
	}
	resource := map[string]any{"attributes": []attribute{
		text("service.name", claimedService), {flow.AttrSequence, map[string]string{"intValue": "1"}}, text("tulle.boot.id", random(8)), text("tulle.reporter.identity", "spiffe://tulle.local/ns/shop/sa/web"),
	}}
	a.sent = now
	err := api{a.otlp}.post(ctx, "/v1/traces", map[string]any{"resourceSpans": []any{map[string]any{
		"resource": resource,
		"scopeSpans": []any{map[string]any{"scope": map[string]string{"name": "peer"}, "spans": []any{map[string]any{
			"traceId": a.trace, "spanId": a.own, "parentSpanId": a.parent, "name": spanName, "kind": 1,
			"startTimeUnixNano": nanos(now.Add(-time.Millisecond)), "endTimeUnixNano": nanos(now),
			"attributes": append(claims, text("peer.note", "kept")), "status": map[string]int{"code": 2},
		}}}},
	}}})
	if err != nil {
		return "", err
	}
	err = api{a.otlp}.post(ctx, "/v1/metrics", map[string]any{"resourceMetrics": []any{map[string]any{
		"resource": resource,
		"scopeMetrics": []any{map[string]any{"metrics": []any{map[string]any{
			"name": flow.MetricExchanges, "sum": map[string]any{"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": []any{map[string]any{
				"startTimeUnixNano": nanos(now.Add(-time.Second)), "timeUnixNano": nanos(now), "asInt": "1000000", "attributes": claims,
			}}},
		}}}},
	}}})
	return "one span and one counter, accepted", err
}

// span is the application's span as Jaeger's API shows it.
func (a *application) span(ctx context.Context) (jaegerTrace, jaegerSpan, error) {
	if a.own == "" {
		return jaegerTrace{}, jaegerSpan{}, errors.New("no span was sent")
	}
	t, err := jaeger{a.api}.trace(ctx, a.trace)
	if err != nil {
		return t, jaegerSpan{}, err
	}
	i := slices.IndexFunc(t.Spans, func(s jaegerSpan) bool { return s.SpanID == a.own })
	if i < 0 {
		return t, jaegerSpan{}, fmt.Errorf("trace %s has %d spans, none is %s", a.trace, len(t.Spans), a.own)
	}
	return t, t.Spans[i], nil
}

func (a *application) appears(ctx context.Context) (string, error) {
	var t jaegerTrace
	err := await(ctx, func(ctx context.Context) error {
		var (
			s   jaegerSpan
			err error
		)
		t, s, err = a.span(ctx)
		if err != nil {
			return err
		}
		if t.service(s) != claimedService || s.OperationName != spanName || len(s.References) != 1 || s.References[0].SpanID != a.parent {
			return fmt.Errorf("span is %+v of %s, want %q of %s below %s", s, t.service(s), spanName, claimedService, a.parent)
		}
		return nil
	})
	return fmt.Sprintf("below web's span, %d spans in the trace", len(t.Spans)), err
}

// onward calls catalog as web's application would, and looks for the mesh's two spans of that call: client below the application's span, server below client. The
// application's own span is then between two sidecars' spans, and the trace is one chain.
func (a *application) onward(ctx context.Context) (string, error) {
	if a.own == "" {
		return "", errors.New("no span was sent")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.out+"/peer", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("traceparent", "00-"+a.trace+"-"+a.own+"-01")
	if _, _, err := do(req); err != nil {
		return "", err
	}
	err = await(ctx, func(ctx context.Context) error {
		t, err := jaeger{a.api}.trace(ctx, a.trace)
		if err != nil {
			return err
		}
		below := func(parent, service string) (string, error) {
			for _, s := range t.Spans {
				if t.service(s) == service && len(s.References) == 1 && s.References[0].SpanID == parent {
					return s.SpanID, nil
				}
			}
			return "", fmt.Errorf("trace %s has no span of %s below %s", a.trace, service, parent)
		}
		client, err := below(a.own, "web")
		if err != nil {
			return err
		}
		_, err = below(client, "catalog")
		return err
	})
	return "caller, web's server span, the application's, web's client span, catalog's server span", err
}

func (a *application) unmarked(ctx context.Context) (string, error) {
	t, s, err := a.span(ctx)
	if err != nil {
		return "", err
	}
	kept := false
	for _, tag := range slices.Concat(s.Tags, t.Processes[s.ProcessID].Tags) {
		if strings.HasPrefix(tag.Key, "tulle.") {
			return "", fmt.Errorf("%s = %v was kept", tag.Key, tag.Value)
		}
		kept = kept || tag.Key == "peer.note" && tag.Value == "kept"
	}
	if !kept {
		return "", errors.New("its own attribute peer.note was lost")
	}
	return "no tulle.* attribute left, its own are kept", nil
}

// noEvidence waits until everything that came with the span must be in the graph and in the series, and looks for what was claimed.
func (a *application) noEvidence(ctx context.Context) (string, error) {
	if a.own == "" {
		return "", errors.New("no span was sent")
	}
	var g graph.Snapshot
	err := await(ctx, func(ctx context.Context) error {
		if err := a.api.json(ctx, "/api/tulle/v1/graph", http.StatusOK, &g); err != nil {
			return err
		}
		if !g.At.After(a.sent.Add(3 * time.Second)) { // by then the second in which it was sent is sealed
			return errors.New("the live graph has not passed the moment of sending")
		}
		at, err := a.value(ctx, `max(timestamp(tulle_requests_total))`)
		if err != nil {
			return err
		}
		if at < float64(a.sent.Add(3*time.Second).Unix()) {
			return errors.New("the series have not passed the moment of sending")
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	for _, n := range g.Nodes {
		if n.ID == claimedService || n.ID == claimedDestination {
			return "", fmt.Errorf("the graph has a node %s", n.ID)
		}
	}
	for _, e := range g.Edges {
		if e.Source == claimedService || e.Destination == claimedDestination {
			return "", fmt.Errorf("the graph has an edge %s", e.ID)
		}
	}
	n, err := a.value(ctx, fmt.Sprintf(`count({source="%s"} or {destination="%s"})`, claimedService, claimedDestination))
	if err != nil {
		return "", err
	}
	if n != 0 {
		return "", fmt.Errorf("%g series carry its names", n)
	}
	page, err := a.api.text(ctx, "/metrics")
	if err != nil {
		return "", err
	}
	for _, line := range []string{`tulle_collector_altered_total{reason="evidence_removed"} `, `tulle_collector_dropped_total{reason="unauthenticated_metrics"} `} {
		if !strings.Contains(page, "\n"+line) {
			return "", fmt.Errorf("the observer does not count %s", line)
		}
	}
	return fmt.Sprintf("none of %d nodes, %d edges and the series; counted as removed and dropped", len(g.Nodes), len(g.Edges)), nil
}

// value is the single value of an instant query; 0 when there is none.
func (a *application) value(ctx context.Context, query string) (float64, error) {
	var v struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	if err := a.api.json(ctx, "/api/v1/query?query="+url.QueryEscape(query), http.StatusOK, &v); err != nil {
		return 0, err
	}
	if len(v.Data.Result) == 0 {
		return 0, nil
	}
	s, _ := v.Data.Result[0].Value[1].(string)
	return strconv.ParseFloat(s, 64)
}
