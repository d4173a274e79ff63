package client

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"strconv"
	"time"

	"github.com/tulle-mesh/tulle/store/graph"
)

// Series is a series over some time.
type Series struct {
	Labels map[string]string `json:"labels"`
	Points []Point           `json:"points"` // by time
}

// Point is one value.
type Point struct {
	Time  time.Time `json:"time"`
	Value float64   `json:"value"` // may be NaN or infinite
}

// MarshalJSON writes the value as PromQL does, for JSON has no NaN.
func (p Point) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, `{"time":%q,"value":%q}`, p.Time.UTC().Format(time.RFC3339Nano), strconv.FormatFloat(p.Value, 'g', -1, 64)), nil
}

// sample is how Prometheus writes a point: seconds, and the value as text.
type sample [2]json.RawMessage

func (s sample) point() (Point, error) {
	var sec float64
	var text string
	if err := json.Unmarshal(s[0], &sec); err != nil {
		return Point{}, err
	}
	if err := json.Unmarshal(s[1], &text); err != nil {
		return Point{}, err
	}
	v, err := strconv.ParseFloat(text, 64)
	whole, frac := math.Modf(sec)
	return Point{time.Unix(int64(whole), int64(frac*1e9)).UTC(), v}, err
}

// QueryAt evaluates a PromQL expression at one instant; a zero time is now. A scalar is one series without labels.
func (c *Client) QueryAt(ctx context.Context, expr string, at time.Time) ([]Series, error) {
	v := url.Values{"query": {expr}}
	setTime(v, "time", at)
	return c.series(ctx, "/api/v1/query", v)
}

// QueryRange evaluates a PromQL expression from start to end, each step.
func (c *Client) QueryRange(ctx context.Context, expr string, start, end time.Time, step time.Duration) ([]Series, error) {
	v := url.Values{"query": {expr}, "step": {strconv.FormatFloat(step.Seconds(), 'f', -1, 64)}}
	setTime(v, "start", start)
	setTime(v, "end", end)
	return c.series(ctx, "/api/v1/query_range", v)
}

func (c *Client) series(ctx context.Context, path string, v url.Values) ([]Series, error) {
	var out struct {
		Data struct {
			ResultType string          `json:"resultType"`
			Result     json.RawMessage `json:"result"`
		} `json:"data"`
	}
	if err := c.get(ctx, path, v, &out); err != nil {
		return nil, err
	}
	foreign := func(err error) error {
		return fmt.Errorf("%s: a value of the query %s cannot be read: %w", c.base, v.Get("query"), err)
	}
	list := []Series{}
	if kind := out.Data.ResultType; kind == "scalar" || kind == "string" {
		if kind == "string" {
			return nil, fmt.Errorf("the query %s is a text, which has no value", v.Get("query"))
		}
		var s sample
		if err := json.Unmarshal(out.Data.Result, &s); err != nil {
			return nil, foreign(err)
		}
		p, err := s.point()
		if err != nil {
			return nil, foreign(err)
		}
		return append(list, Series{map[string]string{}, []Point{p}}), nil
	}
	var result []struct {
		Metric map[string]string `json:"metric"`
		Value  *sample           `json:"value"`
		Values []sample          `json:"values"`
	}
	if err := json.Unmarshal(out.Data.Result, &result); err != nil {
		return nil, foreign(err)
	}
	for _, r := range result {
		s := Series{Labels: r.Metric, Points: []Point{}}
		if r.Value != nil {
			r.Values = append(r.Values, *r.Value)
		}
		for _, x := range r.Values {
			p, err := x.point()
			if err != nil {
				return nil, foreign(err)
			}
			s.Points = append(s.Points, p)
		}
		list = append(list, s)
	}
	return list, nil
}

// GraphAt is the topology at a past instant.
func (c *Client) GraphAt(ctx context.Context, at time.Time) (*graph.Snapshot, error) {
	v := url.Values{}
	setTime(v, "at", at)
	var s graph.Snapshot
	err := c.get(ctx, "/api/tulle/v1/graph", v, &s)
	return &s, err
}

// Retries are the ways from a service to another ("": any) with what retries make of them, now or, when at is not zero, then. more says that there are more.
func (c *Client) Retries(ctx context.Context, from, to string, at time.Time) (paths []graph.RetryPath, more bool, err error) {
	v := url.Values{}
	for k, s := range map[string]string{"from": from, "to": to} {
		if s != "" {
			v.Set(k, s)
		}
	}
	setTime(v, "at", at)
	var answer struct {
		Paths []graph.RetryPath `json:"paths"`
		More  bool              `json:"more"`
	}
	err = c.get(ctx, "/api/tulle/v1/graph/retries", v, &answer)
	return answer.Paths, answer.More, err
}

// GraphDiff is what changed from one instant to another, or to now when to is zero.
func (c *Client) GraphDiff(ctx context.Context, from, to time.Time) (graph.Difference, error) {
	v := url.Values{}
	setTime(v, "from", from)
	setTime(v, "to", to)
	var d graph.Difference
	err := c.get(ctx, "/api/tulle/v1/graph/diff", v, &d)
	return d, err
}
