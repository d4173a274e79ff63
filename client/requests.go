package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store/requests"
)

// RequestQuery selects requests; zero fields take the observer's defaults.
type RequestQuery struct {
	Match      string // a match expression
	Side       string // client, server, both
	Start, End time.Time
	Limit      int
	By         []string // of CountRequests: fields
	Sort       string   // of CountRequests
	Budget     int      // spans to look at
}

func (q *RequestQuery) values() url.Values {
	v := url.Values{}
	set(v, "match", q.Match)
	set(v, "side", q.Side)
	setTime(v, "start", q.Start)
	setTime(v, "end", q.End)
	setInt(v, "limit", q.Limit)
	set(v, "by", strings.Join(q.By, ","))
	set(v, "sort", q.Sort)
	setInt(v, "budget", q.Budget)
	return v
}

// Requests are the newest requests that are meant.
func (c *Client) Requests(ctx context.Context, q RequestQuery) (p requests.Page, err error) {
	err = c.get(ctx, "/api/tulle/v1/requests", q.values(), &p)
	return p, err
}

// CountRequests groups the requests that are meant.
func (c *Client) CountRequests(ctx context.Context, q RequestQuery) (t requests.Table, err error) {
	err = c.get(ctx, "/api/tulle/v1/requests/count", q.values(), &t)
	return t, err
}

// maxLine bounds a line of a stream.
const maxLine = 1 << 20

// Tap calls yield for each live request that is meant, and with how many were not shown, until it returns false, ctx ends (nil) or the observer does; with neither at the
// beginning, when the observer has heard, and each second. rate is how many are
// shown in a second at most; 0: the observer's default.
func (c *Client) Tap(ctx context.Context, match, side string, rate int, yield func(r *requests.Request, dropped uint64) bool) error {
	v := url.Values{}
	set(v, "match", match)
	set(v, "side", side)
	setInt(v, "rate", rate)
	const path = "/api/tulle/v1/tap"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path+"?"+v.Encode(), nil)
	if err != nil {
		return fmt.Errorf("%q is not an address of an observer: %w", c.base, err)
	}
	resp, err := (&http.Client{Transport: c.http.Transport}).Do(req) // no limit of time: it goes on for as long as somebody watches
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("%w at %s: %w", ErrUnreachable, c.base, cause(err))
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxLine))
		return &Error{Status: resp.StatusCode, Text: said(body), Path: path}
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var line struct {
			Request *requests.Request `json:"request"`
			Dropped uint64            `json:"dropped"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("%s does not speak this version's API (%s): %w", c.base, path, err)
		}
		if !yield(line.Request, line.Dropped) {
			return nil
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("%w at %s any more: %w", ErrUnreachable, c.base, ended(lines.Err()))
}

func ended(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}
