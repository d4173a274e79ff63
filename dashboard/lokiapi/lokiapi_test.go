package lokiapi

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/span/local"
	"github.com/tulle-mesh/tulle/store/storetest"
	"github.com/tulle-mesh/tulle/store/tap"
)

var epoch = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// exchange is what a sidecar writes of a request.
func exchange(id uint64, side, src, dst, path string, status int64, at time.Duration) storetest.Span {
	s := storetest.Span{
		Trace: id, ID: id + 1, Service: dst, Name: "GET " + path, Kind: ptrace.SpanKindServer, Start: epoch.Add(at), Duration: 20 * time.Millisecond, Error: status >= 500,
		Attrs: map[string]any{
			flow.AttrKind: "exchange", flow.AttrPhase: "close", flow.AttrSide: side, flow.AttrSourceService: src, flow.AttrDestService: dst, flow.AttrProtocol: "http/1.1",
			flow.AttrMethod: "GET", flow.AttrPath: path, flow.AttrStatus: status, "http.request.header.x-team": fmt.Sprintf("team-%d", id),
		},
	}
	if side == "client" {
		s.Service = src
	}
	if status >= 500 {
		s.Attrs[flow.AttrReason] = "upstream_status"
	}
	return s
}

type scene struct {
	*http.ServeMux
	spans *tap.Spans
}

func newScene(t *testing.T, spans ...storetest.Span) scene {
	t.Helper()
	db, err := local.Open(local.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s := scene{http.NewServeMux(), tap.New(db)}
	for _, sp := range spans {
		if err := s.spans.Write(t.Context(), storetest.Batch(sp)); err != nil {
			t.Fatal(err)
		}
	}
	Register(s.ServeMux, &source.Sources{Spans: s.spans, Tap: s.spans, Now: func() time.Time { return epoch.Add(time.Minute) }})
	return s
}

func shop(t *testing.T) scene {
	tried := exchange(50, "client", "web", "cart", "/cart", 503, 4*time.Second)
	tried.Attrs[flow.AttrKind] = "attempt"
	return newScene(t,
		exchange(1, "server", "web", "cart", "/cart", 200, 0), exchange(2, "server", "web", "cart", "/cart?x", 503, time.Second), exchange(3, "client", "web", "cart", "/cart", 200, 2*time.Second),
		exchange(4, "server", "job", "stock", "/levels", 404, 3*time.Second), tried)
}

func (s scene) get(t *testing.T, path string, params ...string) (int, string) {
	t.Helper()
	v := url.Values{}
	for i := 0; i+1 < len(params); i += 2 {
		v.Add(params[i], params[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/loki/api/v1/"+path+"?"+v.Encode(), nil))
	return w.Code, w.Body.String()
}

// found are the numbers of the traces of the lines of an answer, in its order within streams, streams joined by the time of lines, newest first.
func found(t *testing.T, body string) string {
	t.Helper()
	var a struct {
		Data struct {
			ResultType string
			Result     []stream
		}
	}
	if err := json.Unmarshal([]byte(body), &a); err != nil || a.Data.ResultType != "streams" {
		t.Fatalf("%v: %s", err, body)
	}
	type line struct{ at, id string }
	var lines []line
	for _, s := range a.Data.Result {
		for _, v := range s.Values {
			var r struct{ TraceID string }
			if err := json.Unmarshal([]byte(v[1]), &r); err != nil {
				t.Fatal(err)
			}
			n, _ := strconv.ParseUint(r.TraceID[16:], 16, 64)
			lines = append(lines, line{v[0], strconv.FormatUint(n, 10)})
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int { return strings.Compare(b.at, a.at) })
	var ids []string
	for _, l := range lines {
		ids = append(ids, l.id)
	}
	return strings.Join(ids, " ")
}

func TestLines(t *testing.T) {
	s := shop(t)
	for query, want := range map[string]string{
		`{}`:                    "4 3 2 1",
		`{service_name="cart"}`: "2 1",
		`{service_name=~"cart|stock", side="server"}`: "4 2 1",
		`{src!="web"}`:                "4",
		`{dst!~"c.*"}`:                "4",
		`{dst=~"c.*", src=~"w[e]b"}`:  "3 2 1",
		`{dst=~"c"}`:                  "",
		`{dst=~".*", src=~"job|"}`:    "4",
		`{level="error"}`:             "2",
		`{level="info", dst="cart"}`:  "3 1",
		`{} |= "/levels"`:             "4",
		`{} != "/levels" |~ "c[a]rt"`: "3 2 1",
		"{} !~ `lev|team-3`":          "2 1",
		`{} | json | status >= 400`:   "4 2",
		`{} | json | status = 404 or path = "/cart" and side = "client"`: "3", // from the left
		`{} | json | path =~ "/cart.*", status < 500`:                    "3 1",
		`{} | json | durationNs > 10ms | level = "error"`:                "2",
		`{} | json | fields_http_request_header_x_team = "team-3"`:       "3",
		`{} | drop __error__, foo | json | method != "GET"`:              "",
		`{nothing="x"}`:             "",
		`{nothing=""} | status > 1`: "", // not without json
	} {
		code, body := s.get(t, "query_range", "query", query, "start", "2026-11-20T11:00:00Z")
		if code != http.StatusOK {
			t.Errorf("%s: %d %s", query, code, body)
			continue
		}
		if got := found(t, body); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	for _, c := range []struct{ direction, limit, want string }{{"backward", "2", "4 3"}, {"forward", "2", "2 1"}, {"forward", "9", "4 3 2 1"}} {
		if _, body := s.get(t, "query_range", "query", "{}", "direction", c.direction, "limit", c.limit); found(t, body) != c.want {
			t.Errorf("%s %s: %s", c.direction, c.limit, body)
		}
	}
	if _, body := s.get(t, "query_range", "query", "{}", "start", strconv.FormatInt(epoch.Add(time.Second).UnixNano(), 10), "end", strconv.FormatInt(epoch.Add(3*time.Second).UnixNano(), 10)); found(t, body) != "3 2" {
		t.Error(body)
	}
}

func TestAnswers(t *testing.T) {
	s := shop(t)
	for _, c := range []struct {
		path   string
		params []string
		want   string
	}{
		{"query", []string{"query", "vector(1)+vector(1)"}, `{"data":{"resultType":"vector","result":[{"metric":{},"value":[1795176060,"2"]}],"stats":{"summary":{}}},"status":"success"}`},
		{"labels", nil, `{"data":["dst","level","protocol","service_name","side","src"],"status":"success"}`},
		{"label/service_name/values", nil, `{"data":["cart","stock","web"],"status":"success"}`},
		{"label/dst/values", []string{"query", `{src="job"}`}, `{"data":["stock"],"status":"success"}`},
		{"label/other/values", nil, `{"data":[],"status":"success"}`},
		{"series", []string{"match[]", `{service_name="stock"}`}, `{"data":[{"dst":"stock","level":"info","protocol":"http/1.1","service_name":"stock","side":"server","src":"job"}],"status":"success"}`},
		{"index/stats", nil, `{"bytes":0,"chunks":0,"entries":0,"streams":0}`},
		{"query", []string{"query", `sum by (level) (count_over_time({side="server"} | drop __error__ [5m]))`, "time", "1795176010"}, `{"data":{"resultType":"vector","result":[{"metric":{"level":"error"},"value":[1795176010,"1"]},{"metric":{"level":"info"},"value":[1795176010,"2"]}],"stats":{"summary":{}}},"status":"success"}`},
		{"query_range", []string{"query", `sum(rate({service_name="cart"}[2s])) by (dst)`, "start", "1795176000", "end", "1795176004", "step", "1"}, `{"data":{"resultType":"matrix","result":[{"metric":{"dst":"cart"},"values":[[1795176000,"0.5"],[1795176001,"1"],[1795176002,"0.5"]]}],"stats":{"summary":{}}},"status":"success"}`},
	} {
		if code, got := s.get(t, c.path, c.params...); code != http.StatusOK || got != c.want {
			t.Errorf("%s %v: %d\n got %s\nwant %s", c.path, c.params, code, got, c.want)
		}
	}
}

// Counts are what their definition says, asked of each line at each instant.
func TestCountsAreTheirDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 1)) //nolint:gosec // reproducible on purpose
	var spans []storetest.Span
	for i := range uint64(120) {
		spans = append(spans, exchange(i, []string{"client", "server"}[r.IntN(2)], "web", []string{"a", "b"}[r.IntN(2)], "/x", 200+300*int64(r.IntN(2)), time.Duration(r.IntN(40_000))*time.Millisecond))
	}
	s := newScene(t, spans...)
	for range 60 {
		window, step, n := time.Duration(1+r.IntN(20_000))*time.Millisecond, time.Duration(1+r.IntN(5000))*time.Millisecond, 1+r.IntN(20)
		start := epoch.Add(time.Duration(r.IntN(40_000)-5000) * time.Millisecond)
		want := map[string]bool{}
		for i := range n {
			at := start.Add(time.Duration(i) * step)
			for _, dst := range []string{"a", "b"} {
				k := 0
				for _, sp := range spans {
					if sp.Attrs[flow.AttrDestService] == dst && sp.Attrs[flow.AttrSide] == "server" && sp.Start.After(at.Add(-window)) && !sp.Start.After(at) {
						k++
					}
				}
				if k > 0 {
					want[fmt.Sprintf("%s %d %d", dst, at.UnixMilli(), k)] = true
				}
			}
		}
		_, body := s.get(t, "query_range", "query", fmt.Sprintf(`sum by (dst) (count_over_time({side="server"}[%s]))`, window), "start", start.Format(time.RFC3339Nano),
			"end", start.Add(time.Duration(n-1)*step+1).Format(time.RFC3339Nano), "step", step.String())
		var a struct {
			Data struct {
				Result []struct {
					Metric struct{ Dst string }
					Values [][2]any
				}
			}
		}
		if err := json.Unmarshal([]byte(body), &a); err != nil {
			t.Fatal(err, body)
		}
		got := map[string]bool{}
		for _, x := range a.Data.Result {
			for _, v := range x.Values {
				got[fmt.Sprintf("%s %.0f %s", x.Metric.Dst, v[0].(float64)*1000, v[1])] = true
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("window %s, step %s, %d from %s:\ngot  %v\nwant %v", window, step, n, start, got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	s := shop(t)
	for _, c := range []struct {
		path   string
		params []string
		part   string
	}{
		{"query_range", []string{"query", `{a="b"`}, `col 7: "," or "}" is expected`},
		{"query_range", []string{"query", `{a=b}`}, "col 4: a text in double quotes"},
		{"query_range", []string{"query", `{a=~"("}`}, "no regular expression"},
		{"query_range", []string{"query", `{} | line_format "x"`}, "col 5: the stage line_format is not understood"},
		{"query_range", []string{"query", `{} | json | status >= "x"`}, "compares numbers"},
		{"query_range", []string{"query", `{} ~ "x"`}, `"~ \"x\"" is not understood`},
		{"query_range", []string{"query", `topk(3, {})`}, "understood are"},
		{"query_range", []string{"query", `rate({}[x])`}, "a window like [5m]"},
		{"query_range", []string{"query", `{}`, "limit", "x"}, "invalid limit"},
		{"query_range", []string{"query", `{}`, "direction", "up"}, "forward or backward"},
		{"query_range", []string{"query", `{}`, "start", "x"}, "unix nanoseconds"},
		{"query_range", []string{"query", `{}`, "start", "2026-11-21T12:00:00Z"}, "before end"},
		{"query_range", []string{"query", `rate({}[1m])`, "step", "1us"}, "millisecond"},
		{"tail", []string{"query", `{`}, "name of a label"},
	} {
		code, body := s.get(t, c.path, c.params...)
		if code != http.StatusBadRequest || !strings.Contains(body, c.part) {
			t.Errorf("%v: %d %s, want 400 %q", c.params, code, body, c.part)
		}
	}
}

func TestTail(t *testing.T) {
	s := shop(t)
	srv := httptest.NewServer(s)
	defer srv.Close()
	conn, res, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(srv.URL, "http")+"/loki/api/v1/tail?query="+url.QueryEscape(`{dst="cart"} | json | status >= 500`), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	defer conn.Close()
	for i, status := range []int64{200, 503} {
		if err := s.spans.Write(context.Background(), storetest.Batch(exchange(uint64(100+i), "server", "web", "cart", "/late", status, time.Minute))); err != nil { //nolint:gosec // small
			t.Fatal(err)
		}
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	var msg struct{ Streams []stream }
	if err := conn.ReadJSON(&msg); err != nil || len(msg.Streams) != 1 || !strings.Contains(msg.Streams[0].Values[0][1], "team-101") {
		t.Errorf("%+v %v", msg, err)
	}
}

func FuzzQuery(f *testing.F) {
	for _, s := range []string{`{a="b", c!~"d"} |= "x" | json | e >= 2ms or f = "g", h != 1 | drop i`, `sum without (a) (rate({}[5m]))`} {
		f.Add(s)
	}
	f.Fuzz(func(_ *testing.T, s string) {
		e := entry{line: `{"a":1}`, labels: map[string]string{"a": "b"}}
		if q, err := parseLog(s); err == nil {
			q.match(&e)
			q.ask()
		}
		if q, err := parseMetric(s); err == nil {
			q.match(&e)
			q.group(&e)
		}
	})
}
