// Package client reads the observer's JSON API: what the command line, the demo and the measurements know of the mesh comes through it.
//
// How to hold it: New with the dashboard's address, then call; methods are safe for concurrent use. An observer that does not answer is
// ErrUnreachable; an answer that is not 2xx is an *Error with the observer's own words.
package client

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/graph"
	"github.com/tulle-mesh/tulle/store/why"
)

// ErrUnreachable: nobody answers at the address.
var ErrUnreachable = errors.New("no observer answers")

// Error is an answer that is not 2xx.
type Error struct {
	Status int
	Text   string // what it said, one line
	Path   string
	Who    string // "": the observer
}

func (e *Error) Error() string {
	return fmt.Sprintf("the %s answered %d to %s: %s", cmp.Or(e.Who, "observer"), e.Status, e.Path, e.Text)
}

// NotFound reports whether err is an answer of 404.
func NotFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// Client reads one observer.
type Client struct {
	base string
	http *http.Client
}

// maxAnswer bounds an answer: 64 MiB.
const maxAnswer = 64 << 20

// New reads the observer at base ("http://127.0.0.1:8640"; without a scheme http is meant).
func New(base string) *Client {
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	return &Client{base: strings.TrimRight(base, "/"), http: &http.Client{Timeout: 15 * time.Second}}
}

// Base is the address, for messages and links.
func (c *Client) Base() string { return c.base }

// Graph is the live topology.
func (c *Client) Graph(ctx context.Context) (*graph.Snapshot, error) {
	var s graph.Snapshot
	return &s, c.get(ctx, "/api/tulle/v1/graph", nil, &s)
}

// EventQuery selects events; zero fields do not restrict.
type EventQuery struct {
	Kind, Service string
	Start, End    time.Time
	Limit         int
}

// Events are what happened, newest first.
func (c *Client) Events(ctx context.Context, q EventQuery) ([]event.Event, error) {
	v := url.Values{}
	set(v, "kind", q.Kind)
	set(v, "service", q.Service)
	setTime(v, "start", q.Start)
	setTime(v, "end", q.End)
	setInt(v, "limit", q.Limit)
	var out struct {
		Events []event.Event `json:"events"`
	}
	err := c.get(ctx, "/api/tulle/v1/events", v, &out)
	return out.Events, err
}

// Traces is one page of trace summaries, newest first. Tags restricts by attributes, as in `k=v k2!=v2 k3`; q.Attributes is not used.
// match is a match expression, and partial says that the page is short because too many traces had to be read for it.
func (c *Client) Traces(ctx context.Context, q store.TraceQuery, tags, match string) (page store.TracePage, partial bool, err error) {
	v := url.Values{}
	set(v, "match", match)
	set(v, "service", q.Service)
	set(v, "operation", q.Operation)
	set(v, "source", q.Source)
	set(v, "destination", q.Destination)
	set(v, "reason", q.Reason)
	set(v, "cursor", q.Cursor)
	setTime(v, "start", q.Start)
	setTime(v, "end", q.End)
	setInt(v, "limit", q.Limit)
	if q.MinDuration > 0 {
		v.Set("min", q.MinDuration.String())
	}
	if q.MaxDuration > 0 {
		v.Set("max", q.MaxDuration.String())
	}
	if q.Errors {
		v.Set("status", "error")
	}
	set(v, "tags", tags)
	var out struct {
		store.TracePage
		Partial bool `json:"partial"`
	}
	err = c.get(ctx, "/api/tulle/v1/traces", v, &out)
	return out.TracePage, out.Partial, err
}

// Trace is every stored span of one trace, and the observer's answer as it came (OTLP JSON).
func (c *Client) Trace(ctx context.Context, id string) (ptrace.Traces, json.RawMessage, error) {
	var raw json.RawMessage
	if err := c.get(ctx, "/api/tulle/v1/traces/"+url.PathEscape(id), nil, &raw); err != nil {
		return ptrace.Traces{}, nil, err
	}
	td, err := (&ptrace.JSONUnmarshaler{}).UnmarshalTraces(raw)
	if err != nil {
		return ptrace.Traces{}, nil, fmt.Errorf("%s: trace %s is not OTLP JSON: %w", c.base, id, err)
	}
	return td, raw, nil
}

// Services are the names of all services that are known, sorted.
func (c *Client) Services(ctx context.Context) ([]string, error) {
	var out struct {
		Services []string `json:"services"`
	}
	err := c.get(ctx, "/api/tulle/v1/services", nil, &out)
	return out.Services, err
}

// Why explains what became of a request, by trace id, span id or x-request-id.
func (c *Client) Why(ctx context.Context, id string) (why.Explanation, error) {
	var e why.Explanation
	err := c.get(ctx, "/api/tulle/v1/why/"+url.PathEscape(id), nil, &e)
	return e, err
}

// Proxies are the sidecars that the controller or the collector knows, by instance. partial: the controller told nothing, and only those that report are known.
func (c *Client) Proxies(ctx context.Context) (list []Proxy, partial bool, err error) {
	var out struct {
		Proxies []Proxy `json:"proxies"`
		Partial bool    `json:"partial"`
	}
	err = c.get(ctx, "/api/tulle/v1/proxies", nil, &out)
	return out.Proxies, out.Partial, err
}

// Proxy is one sidecar.
type Proxy struct {
	Instance     string        `json:"instance"`
	Service      string        `json:"service"`
	Namespace    string        `json:"namespace"`     // "" when no such workload is configured, or the controller does not tell
	Version      string        `json:"version"`       // of its program
	Connected    bool          `json:"connected"`     // to the controller
	Since        time.Time     `json:"since"`         // of Connected
	LastSeen     time.Time     `json:"lastSeen"`      // last telemetry
	Reporting    bool          `json:"reporting"`     // telemetry arrives
	Acked        string        `json:"acked"`         // revision it runs on
	Wanted       string        `json:"wanted"`        // newest revision meant for it; "" when it is not configured any more
	Nack         string        `json:"nack"`          // why it refused; "" when it did not
	ClockOffset  time.Duration `json:"clockOffsetNs"` // its clock minus the observer's
	CertNotAfter time.Time     `json:"certNotAfter"`  // by its clock; zero when unknown
	Memory       uint64        `json:"memoryBytes"`   // resident; 0 when unknown
}

// Stats is what the observer says of itself. Fields that an older observer does not know are zero.
type Stats struct {
	Version string `json:"version"`
	Disk    struct {
		Path  string `json:"path"`
		Free  uint64 `json:"freeBytes"`
		Total uint64 `json:"totalBytes"`
	} `json:"disk"`
	Notices []Notice `json:"notices"`
}

// Notice is something wrong with Tulle itself.
type Notice struct {
	Severity string `json:"severity"` // info | warning | error
	Message  string `json:"message"`
	Action   string `json:"action"`
}

// Stats reads what the observer says of itself.
func (c *Client) Stats(ctx context.Context) (s Stats, err error) {
	return s, c.get(ctx, "/api/tulle/v1/stats", nil, &s)
}

// Sample is one series at one instant.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Query evaluates a PromQL expression now that gives an instant vector.
func (c *Client) Query(ctx context.Context, expr string) ([]Sample, error) {
	var out struct {
		Data struct {
			ResultType string `json:"resultType"`
			Result     []struct {
				Metric map[string]string  `json:"metric"`
				Value  [2]json.RawMessage `json:"value"` // time, and the value as a string
			} `json:"result"`
		} `json:"data"`
	}
	if err := c.get(ctx, "/api/v1/query", url.Values{"query": {expr}}, &out); err != nil {
		return nil, err
	}
	if out.Data.ResultType != "vector" {
		return nil, fmt.Errorf("%s answered a %q to the query %s; want a vector", c.base, out.Data.ResultType, expr)
	}
	samples := make([]Sample, 0, len(out.Data.Result))
	for _, r := range out.Data.Result {
		var text string
		if err := json.Unmarshal(r.Value[1], &text); err != nil {
			return nil, fmt.Errorf("%s: a value of the query %s is no string: %w", c.base, expr, err)
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: a value of the query %s is no number: %w", c.base, expr, err)
		}
		samples = append(samples, Sample{Labels: r.Metric, Value: v})
	}
	return samples, nil
}

// Ready returns nil when the observer says that it is ready.
func (c *Client) Ready(ctx context.Context) error { return c.get(ctx, "/readyz", nil, nil) }

func set(v url.Values, key, value string) {
	if value != "" {
		v.Set(key, value)
	}
}

func setTime(v url.Values, key string, t time.Time) {
	if !t.IsZero() {
		v.Set(key, t.UTC().Format(time.RFC3339Nano))
	}
}

func setInt(v url.Values, key string, n int) {
	if n > 0 {
		v.Set(key, strconv.Itoa(n))
	}
}

// get fetches path into out (nil: only the status counts).
func (c *Client) get(ctx context.Context, path string, query url.Values, out any) error {
	target := c.base + path
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return fmt.Errorf("%q is not an address of an observer: %w", c.base, err)
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%w at %s: %w", ErrUnreachable, c.base, cause(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%w at %s: the answer broke off: %w", ErrUnreachable, c.base, err)
	}
	if resp.StatusCode/100 != 2 {
		return &Error{Status: resp.StatusCode, Text: said(body), Path: path}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s does not speak this version's API (%s): %w", c.base, path, err)
	}
	return nil
}

// cause is an error of a request without the request.
func cause(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// said is the observer's message: the "error" of a JSON answer, or the first line.
func said(body []byte) string {
	var e struct {
		Error any `json:"error"`
	}
	if json.Unmarshal(body, &e) == nil {
		switch v := e.Error.(type) {
		case string:
			return v
		case map[string]any:
			if m, ok := v["message"].(string); ok {
				return m
			}
		}
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	if len(line) > 300 {
		line = line[:300]
	}
	return line
}
