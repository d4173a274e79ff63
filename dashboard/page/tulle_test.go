package page

import (
	"errors"
	"io"
	"math"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/dashboard/source"
)

func TestTullePage(t *testing.T) {
	d := deps(t)
	get := func() string {
		w := httptest.NewRecorder()
		Tulle(d)(w, httptest.NewRequest("GET", "/tulle", nil))
		if w.Code != 200 {
			t.Fatalf("status %d", w.Code)
		}
		return w.Body.String()
	}
	page := get()
	for _, s := range []string{
		"v0.9.0", "1.3M", "182/s", "1\u202f812 of 200\u202f000", "8.5% of a core", "unauthenticated_metrics", "tulle_collector_dropped_total", "private_removed", "66.6 GB of 107 GB free",
		"controller</dt><dd>connected", "2 h ago",
	} {
		if !strings.Contains(page, s) {
			t.Errorf("the page has no %s", s)
		}
	}
	if strings.Contains(page, ">full<") {
		t.Error("a reason that never was is listed")
	}
	if strings.Index(page, "unauthenticated_metrics") > strings.Index(page, "private_removed") {
		t.Error("what is lost does not come before what was altered")
	}

	// Nothing known, and a disk that is nearly full.
	d.Self = []func(io.Writer){func(w io.Writer) { _, _ = io.WriteString(w, "this is no metric {") }}
	d.Disk = func() (source.Disk, error) { return source.Disk{Path: "/data", Free: 3, Total: 100}, nil }
	if page = get(); !strings.Contains(page, "Everything that came in was kept") || !strings.Contains(page, `class="panel room" data-swap="room" data-level="bad"`) {
		t.Error("without figures the page is wrong")
	}
	d.Disk = func() (source.Disk, error) { return source.Disk{}, errors.New("no such disk") }
	if page = get(); strings.Contains(page, "data-swap=\"room\"") {
		t.Error("an unknown disk is shown")
	}
}

func TestWhole(t *testing.T) {
	for v, want := range map[float64]uint64{0: 0, -1: 0, 2.7: 2, 1e6: 1e6} {
		if got := whole(v); got != want {
			t.Errorf("%v: %d", v, got)
		}
	}
	if whole(math.NaN()) != 0 {
		t.Error("NaN is a number")
	}
}
