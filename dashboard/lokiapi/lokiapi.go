// Package lokiapi answers as a small Loki does: the access log of the mesh, one line of JSON for each request, as Grafana's Explore shows logs. Lines are what
// `tulle requests -o json` gives, made of the stored spans; nothing is stored twice.
//
// Adding an endpoint is a line in routes.
package lokiapi

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/match"
)

const (
	queryTime    = 30 * time.Second
	defaultLimit = 100
	maxLimit     = 5000
	budget       = 500_000 // spans that are looked at for one query
	maxPoints    = 11_000
	maxSeries    = 500
)

type api struct{ *source.Sources }

var routes = []struct {
	path    string
	handler func(*api, http.ResponseWriter, *http.Request) error
}{
	{"/loki/api/v1/query_range", (*api).queryRange},
	{"/loki/api/v1/query", (*api).query},
	{"/loki/api/v1/labels", (*api).labels},
	{"/loki/api/v1/label/{name}/values", (*api).values},
	{"/loki/api/v1/series", (*api).series},
	{"/loki/api/v1/index/stats", (*api).stats},
	{"/loki/api/v1/status/buildinfo", (*api).buildInfo},
}

// Register mounts the endpoints.
func Register(mux *http.ServeMux, s *source.Sources) {
	a := &api{s}
	for _, r := range routes {
		h := func(w http.ResponseWriter, req *http.Request) {
			ctx, cancel := context.WithTimeout(req.Context(), queryTime)
			defer cancel()
			w.Header().Set("Cache-Control", "no-store")
			if err := req.ParseForm(); err != nil {
				http.Error(w, "the form cannot be read: "+err.Error(), http.StatusBadRequest)
			} else if err := r.handler(a, w, req.WithContext(ctx)); err != nil {
				http.Error(w, err.Error(), statusOf(err)) // Loki's errors are plain text
			}
		}
		mux.HandleFunc("GET "+r.path, h)
		mux.HandleFunc("POST "+r.path, h)
	}
	mux.HandleFunc("GET /loki/api/v1/tail", a.tail)
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, store.ErrBadQuery):
		return http.StatusBadRequest
	case errors.Is(err, store.ErrBusy), errors.Is(err, store.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// badParameter is one that cannot be understood.
type badParameter struct{ text string }

func (e badParameter) Error() string { return e.text }
func (badParameter) Unwrap() error   { return store.ErrBadQuery }

func bad(name, value, want string) error {
	return badParameter{"invalid " + name + " " + strconv.Quote(value) + ": it must be " + want}
}

func writeJSON(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
	return nil
}

func success(w http.ResponseWriter, data any) error {
	return writeJSON(w, map[string]any{"status": "success", "data": data})
}

// instant reads unix nanoseconds, seconds with a fraction, or RFC 3339.
func instant(r *http.Request, name string, usual time.Time) (time.Time, error) {
	s := r.Form.Get(name)
	if s == "" {
		return usual, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		if len(s) > 10 {
			return time.Unix(0, n), nil
		}
		return time.Unix(n, 0), nil
	}
	if f, err := strconv.ParseFloat(s, 64); err == nil && f > 0 && f < 1e11 {
		return time.Unix(0, int64(f*1e9)), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	return usual, bad(name, s, "unix nanoseconds or RFC 3339")
}

// window reads start and end, or since; an hour where nothing is said.
func (a *api) window(r *http.Request) (start, end time.Time, err error) {
	if end, err = instant(r, "end", a.Clock()); err != nil {
		return start, end, err
	}
	since := time.Hour
	if s := r.Form.Get("since"); s != "" {
		if since, err = time.ParseDuration(s); err != nil || since <= 0 {
			return start, end, bad("since", s, "a duration such as 1h")
		}
	}
	if start, err = instant(r, "start", end.Add(-since)); err == nil && !start.Before(end) {
		err = bad("start", r.Form.Get("start"), "before end")
	}
	return start, end, err
}

// everything is what the access log has of spans: exchanges and connections that are over, from both sides.
var everything = match.And(match.MustParse("kind!=attempt"), match.MustParse("phase=close"), match.MustParse("side in (client, server)"))

// each calls yield for the lines that q means, newest first, until yield returns false. partial: it ended at its budget.
func (a *api) each(ctx context.Context, q *logQuery, start, end time.Time, yield func(*entry) bool) (partial bool, err error) {
	ask := q.ask()
	ask.Start, ask.End = start, end
	res, err := match.Search(ctx, a.Spans, ask, everything, budget, func(s *store.Span) bool {
		e := entryOf(s)
		return !q.match(&e) || yield(&e)
	})
	return res.Partial, err
}

// warnings say that an answer is not all.
func warnings(partial bool) []string {
	if partial {
		return []string{"the query looked at " + strconv.Itoa(budget) + " spans and ended; older lines were not looked at"}
	}
	return nil
}

type (
	stream struct {
		Stream map[string]string `json:"stream"`
		Values [][2]string       `json:"values"`
	}
	matrixSeries struct {
		Metric map[string]string `json:"metric"`
		Values [][2]any          `json:"values"`
	}
	vectorSample struct {
		Metric map[string]string `json:"metric"`
		Value  [2]any            `json:"value"`
	}
	result struct {
		ResultType string         `json:"resultType"`
		Result     any            `json:"result"`
		Stats      map[string]any `json:"stats"`
		Warnings   []string       `json:"-"`
	}
)

func (a *api) answer(w http.ResponseWriter, r result) error {
	r.Stats = map[string]any{"summary": map[string]any{}}
	out := map[string]any{"status": "success", "data": r}
	if len(r.Warnings) > 0 {
		out["warnings"] = r.Warnings
	}
	return writeJSON(w, out)
}

func limitOf(r *http.Request) (int, error) {
	s := r.Form.Get("limit")
	if s == "" {
		return defaultLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		return 0, bad("limit", s, "a number from 1 to "+strconv.Itoa(maxLimit))
	}
	return min(n, maxLimit), nil
}

// lines is the answer of a query for lines.
func (a *api) lines(w http.ResponseWriter, r *http.Request, start, end time.Time) error {
	q, err := parseLog(r.Form.Get("query"))
	if err != nil {
		return err
	}
	limit, err := limitOf(r)
	if err != nil {
		return err
	}
	forward := false
	switch d := r.Form.Get("direction"); strings.ToLower(d) {
	case "", "backward":
	case "forward":
		forward = true
	default:
		return bad("direction", d, "forward or backward")
	}
	var list []entry // newest first
	partial, err := a.each(r.Context(), q, start, end, func(e *entry) bool {
		if list = append(list, *e); forward && len(list) >= 2*limit {
			list = append(list[:0], list[len(list)-limit:]...)
		}
		return forward || len(list) < limit
	})
	if err != nil {
		return err
	}
	if forward {
		list = list[max(0, len(list)-limit):]
		slices.Reverse(list)
	}
	return a.answer(w, result{ResultType: "streams", Result: streams(list), Warnings: warnings(partial)})
}

// streams puts lines together by their labels; the order of lines stays.
func streams(list []entry) []stream {
	out := []stream{}
	at := map[string]int{}
	for _, e := range list {
		k := keyOf(e.labels)
		i, ok := at[k]
		if !ok {
			i = len(out)
			at[k] = i
			out = append(out, stream{Stream: e.labels})
		}
		out[i].Values = append(out[i].Values, [2]string{strconv.FormatInt(e.at.UnixNano(), 10), e.line})
	}
	return out
}

func keyOf(labels map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		b.WriteString(strconv.Quote(k) + "=" + strconv.Quote(labels[k]) + ",")
	}
	return b.String()
}

// counted are the values of a query that counts, at each of n instants from start on.
func (a *api) counted(ctx context.Context, q *metricQuery, start time.Time, step time.Duration, n int) ([]matrixSeries, bool, error) {
	type counts struct {
		labels map[string]string
		n      []int
	}
	by := map[string]*counts{}
	last := start.Add(time.Duration(n-1) * step)
	tooMany := false
	partial, err := a.each(ctx, &q.logQuery, start.Add(-q.window), last.Add(1), func(e *entry) bool {
		g := q.group(e)
		k := keyOf(g)
		c := by[k]
		if c == nil {
			if len(by) == maxSeries {
				tooMany = true
				return true
			}
			c = &counts{g, make([]int, n)}
			by[k] = c
		}
		// It counts at the instants from its own on, for as long as the window is.
		first := 0
		if d := e.at.Sub(start); d > 0 {
			first = int((d + step - 1) / step)
		}
		for i := first; i < n; i++ {
			if at := start.Add(time.Duration(i) * step); e.at.Before(at.Add(-q.window)) || e.at.Equal(at.Add(-q.window)) {
				break
			}
			c.n[i]++
		}
		return true
	})
	if err != nil {
		return nil, false, err
	}
	out := []matrixSeries{}
	for _, k := range slices.Sorted(maps.Keys(by)) {
		s := matrixSeries{Metric: by[k].labels}
		for i, x := range by[k].n {
			if x == 0 {
				continue
			}
			v := float64(x)
			if q.perSec {
				v /= q.window.Seconds()
			}
			s.Values = append(s.Values, [2]any{float64(start.Add(time.Duration(i)*step).UnixMilli()) / 1000, strconv.FormatFloat(v, 'f', -1, 64)})
		}
		out = append(out, s)
	}
	return out, partial || tooMany, nil
}

func (a *api) queryRange(w http.ResponseWriter, r *http.Request) error {
	start, end, err := a.window(r)
	if err != nil {
		return err
	}
	if !isMetric(r.Form.Get("query")) {
		return a.lines(w, r, start, end)
	}
	q, err := parseMetric(r.Form.Get("query"))
	if err != nil {
		return err
	}
	step := max(time.Second, end.Sub(start)/250).Truncate(time.Second)
	if s := r.Form.Get("step"); s != "" {
		if f, ferr := strconv.ParseFloat(s, 64); ferr == nil && f > 0 && f < 1e9 {
			step = time.Duration(f * float64(time.Second))
		} else if step, err = time.ParseDuration(s); err != nil {
			return bad("step", s, "seconds or a duration")
		}
	}
	n := math.Floor(float64(end.Sub(start))/float64(max(step, 1))) + 1
	if step < time.Millisecond || n > maxPoints {
		return bad("step", r.Form.Get("step"), "at least a millisecond, and give at most "+strconv.Itoa(maxPoints)+" points")
	}
	out, partial, err := a.counted(r.Context(), q, start, step, int(n))
	if err != nil {
		return err
	}
	return a.answer(w, result{ResultType: "matrix", Result: out, Warnings: warnings(partial)})
}

func (a *api) query(w http.ResponseWriter, r *http.Request) error {
	at, err := instant(r, "time", a.Clock())
	if err != nil {
		return err
	}
	text := r.Form.Get("query")
	if strings.ReplaceAll(text, " ", "") == "vector(1)+vector(1)" { // a data source asks so whether somebody is there
		return a.answer(w, result{ResultType: "vector", Result: []vectorSample{{map[string]string{}, [2]any{float64(at.UnixMilli()) / 1000, "2"}}}})
	}
	if !isMetric(text) {
		return a.lines(w, r, at.Add(-time.Hour), at)
	}
	q, err := parseMetric(text)
	if err != nil {
		return err
	}
	list, partial, err := a.counted(r.Context(), q, at, time.Second, 1)
	if err != nil {
		return err
	}
	out := []vectorSample{}
	for _, s := range list {
		out = append(out, vectorSample{s.Metric, s.Values[0]})
	}
	return a.answer(w, result{ResultType: "vector", Result: out, Warnings: warnings(partial)})
}

func (a *api) labels(w http.ResponseWriter, _ *http.Request) error { return success(w, labelNames) }

// seen are the streams of the window that a selector means.
func (a *api) seen(r *http.Request, selector string) ([]map[string]string, error) {
	if selector == "" {
		selector = "{}"
	}
	q, err := parseLog(selector)
	if err != nil {
		return nil, err
	}
	start, end, err := a.window(r)
	if err != nil {
		return nil, err
	}
	by := map[string]map[string]string{}
	if _, err := a.each(r.Context(), q, start, end, func(e *entry) bool {
		by[keyOf(e.labels)] = e.labels
		return len(by) < maxSeries
	}); err != nil {
		return nil, err
	}
	out := []map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(by)) {
		out = append(out, by[k])
	}
	return out, nil
}

func (a *api) values(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	if !slices.Contains(labelNames, name) {
		return success(w, []string{})
	}
	list, err := a.seen(r, r.Form.Get("query"))
	if err != nil {
		return err
	}
	set := map[string]bool{}
	for _, l := range list {
		if v := l[name]; v != "" {
			set[v] = true
		}
	}
	return success(w, slices.AppendSeq([]string{}, slices.Values(slices.Sorted(maps.Keys(set)))))
}

func (a *api) series(w http.ResponseWriter, r *http.Request) error {
	selectors := append(r.Form["match[]"], r.Form["match"]...)
	if len(selectors) == 0 {
		selectors = []string{"{}"}
	}
	by := map[string]map[string]string{}
	for _, s := range selectors {
		list, err := a.seen(r, s)
		if err != nil {
			return err
		}
		for _, l := range list {
			by[keyOf(l)] = l
		}
	}
	out := []map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(by)) {
		out = append(out, by[k])
	}
	return success(w, out)
}

// stats of an index there is none of: a client asks to warn of large queries, and every query here has a budget.
func (a *api) stats(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, map[string]int{"streams": 0, "chunks": 0, "entries": 0, "bytes": 0})
}

func (a *api) buildInfo(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, map[string]string{"version": "3.0.0", "revision": "tulle", "branch": "tulle", "goVersion": "", "buildDate": "", "buildUser": ""})
}

const (
	tailPerSecond = 500 // lines for one client
	tailWrite     = 10 * time.Second
	tailPing      = 20 * time.Second
	tailSilence   = 50 * time.Second // of a client that does not answer to that
	maxDropped    = 100              // that are named in one message
)

// tail shows lines as they come in, over a WebSocket, until the client leaves.
func (a *api) tail(w http.ResponseWriter, r *http.Request) {
	q, err := parseLog(r.URL.Query().Get("query"))
	if err == nil && a.Tap == nil {
		err = errors.New("live requests cannot be watched here")
	}
	if err != nil {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	watcher, err := a.Tap.Watch(ctx)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	up := websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }} // the guard has judged the origin
	conn, err := up.Upgrade(w, r, nil)
	if err != nil {
		return // it has answered
	}
	defer func() { _ = conn.Close() }()
	conn.SetReadLimit(1 << 10)
	alive := func(string) error { return conn.SetReadDeadline(time.Now().Add(tailSilence)) }
	conn.SetPongHandler(alive)
	_ = alive("")
	go func() { // the client says nothing but that it is there, and that it leaves
		defer cancel()
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	}()
	second, ping := time.NewTicker(time.Second), time.NewTicker(tailPing)
	defer second.Stop()
	defer ping.Stop()
	left := tailPerSecond
	var dropped []map[string]any
	for {
		var list []entry
		select {
		case batch, ok := <-watcher.Batches():
			if !ok {
				return
			}
			for i := range batch {
				if !everything.Match(&batch[i]) {
					continue
				}
				e := entryOf(&batch[i])
				if !q.match(&e) {
					continue
				}
				if left == 0 && len(dropped) == maxDropped {
					continue
				}
				if left == 0 {
					dropped = append(dropped, map[string]any{"labels": e.labels, "timestamp": strconv.FormatInt(e.at.UnixNano(), 10)})
					continue
				}
				left--
				list = append(list, e)
			}
		case <-second.C:
			left = tailPerSecond
		case <-ping.C:
			if conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(tailWrite)) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
		if len(list) == 0 && (len(dropped) == 0 || left == 0) {
			continue
		}
		msg := map[string]any{"streams": streams(list)}
		if len(dropped) > 0 && left > 0 {
			msg["dropped_entries"] = dropped
			dropped = nil
		}
		_ = conn.SetWriteDeadline(time.Now().Add(tailWrite))
		if conn.WriteJSON(msg) != nil {
			return
		}
	}
}
