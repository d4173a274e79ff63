package page

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/dashboardtest"
	"github.com/tulle-mesh/tulle/dashboard/source"
	"github.com/tulle-mesh/tulle/store/graph"
)

// TestColumns reads columns as the browser does, and finds the rows of the waterfall.
func TestColumns(t *testing.T) {
	s := dashboardtest.NewSpans()
	dashboardtest.Long(s, 3001, dashboardtest.Epoch)
	td, err := s.Trace(t.Context(), dashboardtest.LongID)
	if err != nil {
		t.Fatal(err)
	}
	v := NewTraceView(td, &graph.Snapshot{})
	b, err := columns(&v)
	if err != nil {
		t.Fatal(err)
	}
	long := binary.LittleEndian.Uint32(b)
	if (4+long)%8 != 0 {
		t.Fatalf("the columns begin at %d: typed arrays of 8 bytes cannot", 4+long)
	}
	var head columnsHead
	if err := json.Unmarshal(b[4:4+long], &head); err != nil {
		t.Fatal(err)
	}
	rest := b[4+long:]
	n := head.Spans
	if n != 3001 || len(rest) != 52*n {
		t.Fatalf("%d spans in %d bytes, want 3001 of 52 bytes", n, len(rest))
	}
	take := func(size int) []byte { part := rest[:size*n]; rest = rest[size*n:]; return part }
	le := binary.LittleEndian
	f64 := func(c []byte, i int) float64 { return math.Float64frombits(le.Uint64(c[8*i:])) }
	f32 := func(c []byte, i int) float32 { return math.Float32frombits(le.Uint32(c[4*i:])) }
	start, took, id, before, after, waited := take(8), take(8), take(8), take(4), take(4), take(4)
	service, name, end, depth, kind, flags := take(4), take(4), take(4), take(2), take(1), take(1)
	orphans := 0
	for i := range v.Rows {
		r := &v.Rows[i]
		got := fmt.Sprint(f64(start, i), f64(took, i), hex.EncodeToString(id[8*i:8*i+8]), head.Services[le.Uint32(service[4*i:])], head.Names[le.Uint32(name[4*i:])],
			head.Ends[le.Uint32(end[4*i:])], le.Uint16(depth[2*i:]), spanKinds[kind[i]], flags[i]&flagError != 0, flags[i]&flagReason != 0, f32(waited, i))
		want := fmt.Sprint(float64(r.Start), float64(r.Duration), r.ID, r.Service, r.Name, r.Ended(), r.Depth, r.Kind, r.Error, r.Reason != "", float32(r.Waited))
		if got != want {
			t.Fatalf("row %d is %s, want %s", i, got, want)
		}
		if total := f32(before, i) + f32(after, i); r.NetW1+r.NetW2 > 0 && math.Abs(float64(total)-float64(r.Network)) > float64(r.Network)/100 {
			t.Fatalf("row %d: network %v, want %s", i, total, r.Network)
		}
		if flags[i]&flagOrphan != 0 {
			orphans++
		}
	}
	if orphans != 3 {
		t.Errorf("%d spans without their parent, want 3", orphans)
	}
}

// TestColumnsOfOddSpans: a trace without spans, and spans without an ID or with odd texts, are columns too.
func TestColumnsOfOddSpans(t *testing.T) {
	v := TraceView{}
	if b, err := columns(&v); err != nil || (len(b)%8) != 0 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	v = TraceView{Duration: 1, Rows: []SpanRow{{ID: "zz", Service: "\xff</script>", Name: strings.Repeat("long ", 9), Kind: "?", depth: 1 << 20}}}
	b, err := columns(&v)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "</script>") {
		t.Error("markup comes through")
	}
	if got := binary.LittleEndian.Uint16(b[len(b)-4:]); got != math.MaxUint16 {
		t.Errorf("depth %d", got)
	}
}

// TestLongTraceHasTheOpenSpan: of a long trace the first rows are in the page, and the one that the address opens.
func TestLongTraceHasTheOpenSpan(t *testing.T) {
	s := dashboardtest.NewSpans()
	dashboardtest.Long(s, 1000, dashboardtest.Epoch)
	d := &Deps{Sources: &source.Sources{Spans: s, Graph: &dashboardtest.Graph{Empty: true}, Now: func() time.Time { return dashboardtest.Epoch }}}
	id8 := dashboardtest.ID8(dashboardtest.LongID, "long999")
	last := hex.EncodeToString(id8[:])
	ask := func(h http.HandlerFunc, query, span string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/trace/x"+query, nil)
		r.SetPathValue("id", dashboardtest.LongID.String())
		r.SetPathValue("span", span)
		w := httptest.NewRecorder()
		h(w, r)
		return w
	}
	body := ask(Trace(d), "?span="+last, "").Body.String()
	if !strings.Contains(body, `id="s-`+last+`"`) || !strings.Contains(body, `data-role="fall"`) {
		t.Error("the open span is not in the page, or the page does not say that it may be drawn")
	}
	if n := strings.Count(body, `id="s-`); n != firstRows+1 {
		t.Errorf("%d rows, want %d", n, firstRows+1)
	}
	if body := ask(Trace(d), "?all=1", "").Body.String(); strings.Contains(body, `data-role="fall"`) || strings.Count(body, `id="s-`) != 1000 {
		t.Error("all rows were asked for")
	}
	if w := ask(TraceSpan(d), "", last); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), last) || !strings.Contains(w.Body.String(), "is not stored") {
		t.Errorf("details: %d %.300s", w.Code, w.Body)
	}
	if w := ask(TraceSpan(d), "", "ffffffffffffffff"); w.Code != http.StatusNotFound {
		t.Errorf("no such span: %d", w.Code)
	}
	if w := ask(TraceColumns(d), "", ""); w.Code != http.StatusOK || w.Body.Len() < 52*1000 {
		t.Errorf("columns: %d, %d bytes", w.Code, w.Body.Len())
	}
}
