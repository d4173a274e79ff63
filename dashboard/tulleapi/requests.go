package tulleapi

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/page"
	"github.com/tulle-mesh/tulle/store/match"
	"github.com/tulle-mesh/tulle/store/requests"
)

const (
	requestBudget    = 200_000   // spans looked at for a list, which ends when it is full, unless it says otherwise
	countBudget      = 25_000    // and for counts, which read all: a tenth of a second
	maxRequestBudget = 2_000_000 //
	tapPerSecond     = 500       // live requests shown to one watcher, unless it says otherwise
	maxTapPerSecond  = 10_000
)

// number reads a whole number from 1 to most; absent is usual.
func number(v url.Values, name string, usual, most int) (int, error) {
	s := v.Get(name)
	if s == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return 0, bad(name, s, "a number from 1 to "+strconv.Itoa(most))
	}
	return n, nil
}

// requestQuery reads match, side, last, start, end, limit, by, sort, budget.
func (a *api) requestQuery(v url.Values, budget int) (q requests.Query, err error) {
	if q.Match, err = match.Parse(v.Get("match")); err != nil {
		return q, err
	}
	q.Side, q.Sort = requests.Side(v.Get("side")), v.Get("sort")
	q.Start = a.Clock().Add(-15 * time.Minute)
	if s := v.Get("last"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return q, bad("last", s, "a duration such as 15m or 6h")
		}
		q.Start = a.Clock().Add(-d)
	}
	for name, to := range map[string]*time.Time{"start": &q.Start, "end": &q.End} {
		if s := v.Get(name); s != "" {
			if *to, err = page.ParseTime(s); err != nil {
				return q, bad(name, s, "a time such as 2026-11-20T14:30:00Z or unix seconds")
			}
		}
	}
	if s := v.Get("by"); s != "" {
		for name := range strings.SplitSeq(s, ",") {
			q.By = append(q.By, strings.TrimSpace(name))
		}
	}
	if q.Limit, err = number(v, "limit", 100, 10_000); err == nil {
		q.Budget, err = number(v, "budget", budget, maxRequestBudget)
	}
	return q, err
}

// requests is the newest requests that are meant.
func (a *api) requests(r *http.Request) (any, error) {
	q, err := a.requestQuery(r.URL.Query(), requestBudget)
	if err != nil {
		return nil, err
	}
	return requests.List(r.Context(), a.Spans, q)
}

// countRequests groups them.
func (a *api) countRequests(r *http.Request) (any, error) {
	q, err := a.requestQuery(r.URL.Query(), countBudget)
	if err != nil {
		return nil, err
	}
	return requests.Count(r.Context(), a.Spans, q)
}

// tap is live requests that are meant, one per line, until the client leaves: {"request":{…}}. What was not shown, because there was too much or the client was slow, is told
// in a line {"dropped":N}; in a second without either comes a line {}.
func (a *api) tap(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	expr, err := match.Parse(v.Get("match"))
	if err == nil {
		expr, err = requests.Restrict(expr, requests.Side(v.Get("side")))
	}
	rate := 0
	if err == nil {
		rate, err = number(v, "rate", tapPerSecond, maxTapPerSecond)
	}
	if err == nil && a.Tap == nil {
		err = errors.New("live requests cannot be watched here")
	}
	if err != nil {
		fail(w, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	watcher, err := a.Tap.Watch(ctx)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	type line struct {
		Request *requests.Request `json:"request,omitempty"`
		Dropped uint64            `json:"dropped,omitempty"`
	}
	rc, enc := http.NewResponseController(w), json.NewEncoder(w)
	say := func(lines ...line) bool {
		_ = rc.SetWriteDeadline(time.Now().Add(10 * time.Second))
		for i := range lines {
			if enc.Encode(&lines[i]) != nil {
				return false
			}
		}
		return rc.Flush() == nil
	}
	if !say(line{}) { // so that the client knows that it is heard
		return
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	left, dropped := rate, uint64(0)
	var lines []line
	for {
		select {
		case batch, ok := <-watcher.Batches():
			if !ok {
				return
			}
			lines = lines[:0]
			for i := range batch {
				switch {
				case !expr.Match(&batch[i]):
				case left == 0:
					dropped++
				default:
					left--
					req := requests.One(&batch[i])
					lines = append(lines, line{Request: &req})
				}
			}
			if len(lines) > 0 && !say(lines...) {
				return
			}
		case <-second.C:
			left = rate
			// What did not fit into the queue was not judged: it may have been anything.
			if !say(line{Dropped: dropped + watcher.Dropped()}) {
				return
			}
			dropped = 0
		}
	}
}
