//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// jaeger reads as Jaeger's own clients do. The shapes are those of Jaeger's model/json and of opentelemetry's OTLP JSON, written down here
// once more on purpose: they must not follow the server's.
type jaeger struct{ api }

// envelope is around every answer of the legacy API; all five members are always there.
type envelope struct {
	Data   json.RawMessage `json:"data"`
	Total  *int            `json:"total"`
	Limit  *int            `json:"limit"`
	Offset *int            `json:"offset"`
	Errors []struct {
		Code    int    `json:"code"`
		Msg     string `json:"msg"`
		TraceID string `json:"traceID"`
	} `json:"errors"`
}

type jaegerTrace struct {
	TraceID   string       `json:"traceID"`
	Spans     []jaegerSpan `json:"spans"`
	Processes map[string]struct {
		ServiceName string      `json:"serviceName"`
		Tags        []jaegerTag `json:"tags"`
	} `json:"processes"`
}

type jaegerSpan struct {
	TraceID       string `json:"traceID"`
	SpanID        string `json:"spanID"`
	OperationName string `json:"operationName"`
	References    []struct {
		RefType string `json:"refType"`
		TraceID string `json:"traceID"`
		SpanID  string `json:"spanID"`
	} `json:"references"`
	StartTime int64       `json:"startTime"` // µs
	Duration  int64       `json:"duration"`  // µs
	Tags      []jaegerTag `json:"tags"`
	ProcessID string      `json:"processID"`
}

type jaegerTag struct {
	Key   string `json:"key"`
	Type  string `json:"type"`
	Value any    `json:"value"`
}

var (
	hexTrace = regexp.MustCompile(`^[0-9a-f]{32}$`)
	hexSpan  = regexp.MustCompile(`^[0-9a-f]{16}$`)
)

// legacy reads an envelope and its data.
func (j jaeger) legacy(ctx context.Context, path string, data any) error {
	var e envelope
	if err := j.json(ctx, path, http.StatusOK, &e); err != nil {
		return err
	}
	if e.Total == nil || e.Limit == nil || e.Offset == nil {
		return fmt.Errorf("GET %s: the envelope lacks total, limit or offset", path)
	}
	if len(e.Errors) > 0 {
		return fmt.Errorf("GET %s: %s", path, e.Errors[0].Msg)
	}
	return json.Unmarshal(e.Data, data)
}

// refused reads the answer to a request that must be refused, and its first error.
func (j jaeger) refused(ctx context.Context, path string, status int) (string, error) {
	var e envelope
	if err := j.json(ctx, path, status, &e); err != nil {
		return "", err
	}
	if len(e.Errors) == 0 || e.Errors[0].Code != status || e.Errors[0].Msg == "" {
		return "", fmt.Errorf("GET %s: errors is %+v, want code %d and a message", path, e.Errors, status)
	}
	return fmt.Sprintf("%d %s", status, e.Errors[0].Msg), nil
}

// sound says what in a trace no Jaeger client could use.
func (t jaegerTrace) sound() error {
	if !hexTrace.MatchString(t.TraceID) || len(t.Spans) == 0 {
		return fmt.Errorf("trace %q with %d spans", t.TraceID, len(t.Spans))
	}
	now := time.Now().UnixMicro()
	for _, s := range t.Spans {
		p, ok := t.Processes[s.ProcessID]
		switch {
		case s.TraceID != t.TraceID || !hexSpan.MatchString(s.SpanID):
			return fmt.Errorf("span %q of trace %q in trace %s", s.SpanID, s.TraceID, t.TraceID)
		case !ok || p.ServiceName == "":
			return fmt.Errorf("span %s: its process %q has no name", s.SpanID, s.ProcessID)
		case s.OperationName == "":
			return fmt.Errorf("span %s has no operation", s.SpanID)
		case s.StartTime < now-3600e6 || s.StartTime > now+60e6 || s.Duration < 0:
			return fmt.Errorf("span %s: start %d, duration %d are not microseconds of this run", s.SpanID, s.StartTime, s.Duration)
		case s.References == nil:
			return fmt.Errorf("span %s: references is null, want a list", s.SpanID)
		}
		for _, r := range s.References {
			if r.RefType != "CHILD_OF" && r.RefType != "FOLLOWS_FROM" || !hexSpan.MatchString(r.SpanID) {
				return fmt.Errorf("span %s: reference %+v", s.SpanID, r)
			}
		}
		for _, tag := range s.Tags {
			if !slices.Contains([]string{"string", "bool", "int64", "float64", "binary"}, tag.Type) {
				return fmt.Errorf("span %s: tag %s has type %q", s.SpanID, tag.Key, tag.Type)
			}
		}
	}
	return nil
}

// service is the name of the service of a span.
func (t jaegerTrace) service(s jaegerSpan) string { return t.Processes[s.ProcessID].ServiceName }

func (j jaeger) trace(ctx context.Context, id string) (jaegerTrace, error) {
	var found []jaegerTrace
	if err := j.legacy(ctx, "/api/traces/"+id, &found); err != nil {
		return jaegerTrace{}, err
	}
	if len(found) != 1 || found[0].TraceID != id {
		return jaegerTrace{}, fmt.Errorf("asked for trace %s, got %d traces", id, len(found))
	}
	return found[0], found[0].sound()
}

// search is the newest traces with a span of web.
func (j jaeger) search(ctx context.Context) ([]jaegerTrace, error) {
	var found []jaegerTrace
	if err := j.legacy(ctx, "/api/traces?service=web&limit=5&lookback=1h", &found); err != nil {
		return nil, err
	}
	if len(found) == 0 || len(found) > 5 {
		return nil, fmt.Errorf("%d traces, want 1 to 5", len(found))
	}
	for _, t := range found {
		if err := t.sound(); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(t.Spans, func(s jaegerSpan) bool { return t.service(s) == "web" }) {
			return nil, fmt.Errorf("trace %s has no span of web", t.TraceID)
		}
	}
	return found, nil
}

// otlp is OTLP JSON as far as it is checked; ids are hex and times are strings of nanoseconds.
type otlp struct {
	ResourceSpans []struct {
		Resource struct {
			Attributes []struct {
				Key   string                     `json:"key"`
				Value map[string]json.RawMessage `json:"value"`
			} `json:"attributes"`
		} `json:"resource"`
		ScopeSpans []struct {
			Spans []struct {
				TraceID string `json:"traceId"`
				SpanID  string `json:"spanId"`
				Name    string `json:"name"`
				Start   string `json:"startTimeUnixNano"`
				End     string `json:"endTimeUnixNano"`
			} `json:"spans"`
		} `json:"scopeSpans"`
	} `json:"resourceSpans"`
}

// spans counts, and says what no client of v3 could use. An empty id allows all traces.
func (o otlp) spans(id string) (int, error) {
	n := 0
	for _, rs := range o.ResourceSpans {
		named := false
		for _, a := range rs.Resource.Attributes {
			named = named || a.Key == "service.name" && a.Value["stringValue"] != nil
		}
		if !named {
			return n, errors.New("a resource has no service.name")
		}
		for _, ss := range rs.ScopeSpans {
			for _, s := range ss.Spans {
				n++
				if !hexTrace.MatchString(s.TraceID) || id != "" && s.TraceID != id || !hexSpan.MatchString(s.SpanID) || s.Name == "" ||
					len(s.Start) != 19 || len(s.End) != 19 {
					return n, fmt.Errorf("span %+v is not OTLP JSON of this trace", s)
				}
			}
		}
	}
	if n == 0 {
		return 0, errors.New("no span in the result")
	}
	return n, nil
}

func (j jaeger) checks() []check {
	return []check{
		{"Jaeger /api/services", func(ctx context.Context) (string, error) {
			var names []string
			err := await(ctx, func(ctx context.Context) error {
				err := j.legacy(ctx, "/api/services", &names)
				if err == nil && (!slices.Contains(names, "web") || !slices.Contains(names, "catalog")) {
					err = fmt.Errorf("web and catalog are not both among %v", names)
				}
				return err
			})
			return fmt.Sprintf("%d services", len(names)), err
		}},
		{"Jaeger /api/services/web/operations", func(ctx context.Context) (string, error) {
			var names []string
			err := j.legacy(ctx, "/api/services/web/operations", &names)
			if err == nil && len(names) == 0 {
				err = errors.New("web has no operation")
			}
			return fmt.Sprintf("%d operations", len(names)), err
		}},
		{"Jaeger /api/operations", func(ctx context.Context) (string, error) {
			var found []struct{ Name, SpanKind string }
			err := j.legacy(ctx, "/api/operations?service=web&spanKind=server", &found)
			for _, o := range found {
				if o.Name == "" || o.SpanKind != "server" {
					return "", fmt.Errorf("operation %+v, want a name and kind server", o)
				}
			}
			if err == nil && len(found) == 0 {
				err = errors.New("web has no operation of kind server")
			}
			return fmt.Sprintf("%d operations of kind server", len(found)), err
		}},
		{"Jaeger /api/traces?service=", func(ctx context.Context) (string, error) {
			found, err := j.search(ctx)
			return fmt.Sprintf("%d traces of web", len(found)), err
		}},
		{"Jaeger /api/traces without a service", func(ctx context.Context) (string, error) {
			var found []jaegerTrace
			err := j.legacy(ctx, "/api/traces?limit=5&lookback=1h", &found)
			if err == nil && len(found) == 0 {
				err = errors.New("no trace found")
			}
			return fmt.Sprintf("%d traces", len(found)), err
		}},
		{"Jaeger /api/traces/{id}", func(ctx context.Context) (string, error) {
			found, err := j.search(ctx)
			if err != nil {
				return "", err
			}
			t, err := j.trace(ctx, found[0].TraceID)
			return fmt.Sprintf("%d spans of %d processes", len(t.Spans), len(t.Processes)), err
		}},
		{"Jaeger /api/traces/{id}, unknown", func(ctx context.Context) (string, error) {
			return j.refused(ctx, "/api/traces/"+strings.Repeat("0", 31)+"1", http.StatusNotFound)
		}},
		{"Jaeger /api/dependencies", func(ctx context.Context) (string, error) {
			var links []struct {
				Parent, Child string
				CallCount     uint64
			}
			path := fmt.Sprintf("/api/dependencies?endTs=%d&lookback=600000", time.Now().UnixMilli())
			if err := j.legacy(ctx, path, &links); err != nil {
				return "", err
			}
			for _, l := range links {
				if l.Parent == "web" && l.Child == "catalog" && l.CallCount > 0 {
					return fmt.Sprintf("%d links; web called catalog %d times", len(links), l.CallCount), nil
				}
			}
			return "", fmt.Errorf("web → catalog is not among %d links", len(links))
		}},
		{"Jaeger /api/v3/services", func(ctx context.Context) (string, error) {
			var v struct{ Services []string }
			err := j.json(ctx, "/api/v3/services", http.StatusOK, &v)
			if err == nil && !slices.Contains(v.Services, "web") {
				err = fmt.Errorf("web is not among %v", v.Services)
			}
			return fmt.Sprintf("%d services", len(v.Services)), err
		}},
		{"Jaeger /api/v3/traces", func(ctx context.Context) (string, error) {
			q := url.Values{
				"query.serviceName": {"web"}, "query.searchDepth": {"2"},
				"query.startTimeMin": {time.Now().Add(-time.Hour).UTC().Format(time.RFC3339Nano)},
				"query.startTimeMax": {time.Now().UTC().Format(time.RFC3339Nano)},
			}
			var v struct{ Result otlp }
			if err := j.json(ctx, "/api/v3/traces?"+q.Encode(), http.StatusOK, &v); err != nil {
				return "", err
			}
			n, err := v.Result.spans("")
			return fmt.Sprintf("%d spans as OTLP", n), err
		}},
		{"Jaeger /api/v3/traces/{id}", func(ctx context.Context) (string, error) {
			found, err := j.search(ctx)
			if err != nil {
				return "", err
			}
			var v struct{ Result otlp }
			if err := j.json(ctx, "/api/v3/traces/"+found[0].TraceID, http.StatusOK, &v); err != nil {
				return "", err
			}
			n, err := v.Result.spans(found[0].TraceID)
			return fmt.Sprintf("%d spans as OTLP", n), err
		}},
	}
}
