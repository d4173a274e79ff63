package alert

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	amalert "github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/common/model"
)

// What could not be delivered is said while it is tried again, with the reason; and once it is delivered, with how often it took. It is there after a restart.
func TestDeliveriesAreRemembered(t *testing.T) {
	s := newScene(t)
	s.hook.set(true)
	a, stop := s.run()
	if list := a.Deliveries(); len(list) != 0 {
		t.Fatalf("%+v before anything happened", list)
	}
	s.fault(1)
	eventually(t, "a second attempt", func() bool { list := a.Deliveries(); return len(list) == 1 && list[0].Attempts > 1 })
	if d := a.Deliveries()[0]; d.State != Retrying || d.Error == "" || d.Receiver == "" || d.Integration != "webhook[0]" || d.Firing != 1 || d.Resolved != 0 || strings.Join(d.Alerts, " ") != "TestFault" ||
		d.Group["alertname"] != "TestFault" || d.Last.Before(d.First) {
		t.Errorf("%+v", d)
	}
	s.hook.set(false)
	s.hook.next(t)
	eventually(t, "delivered", func() bool { return a.Deliveries()[0].State == Delivered })
	d := a.Deliveries()[0]
	if d.Attempts < 3 || d.Error == "" {
		t.Errorf("of what arrived at last it is said %+v", d)
	}
	s.fault(0)
	s.hook.next(t)
	eventually(t, "the resolution too", func() bool {
		list := a.Deliveries()
		return len(list) == 2 && list[0].Resolved == 1 && list[0].State == Delivered
	})
	stop()
	b, stopAgain := s.run()
	defer stopAgain()
	if list := b.Deliveries(); len(list) != 2 || list[1].Attempts != d.Attempts || !list[1].Last.Equal(d.Last) {
		t.Errorf("after a restart: %+v, want two and %+v", list, d)
	}
}

func TestDeliveries(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	path := filepath.Join(t.TempDir(), "deliveries.json")
	d, err := openDeliveries(path, func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	group := func(key string) context.Context { return notify.WithGroupKey(t.Context(), key) }
	alert := &amalert.Alert{Alert: model.Alert{Labels: model.LabelSet{model.AlertNameLabel: "X"}, StartsAt: now.Add(-time.Minute), EndsAt: now.Add(time.Minute)}}
	see := func(key, receiver string, retry bool, err error) {
		d.seen(group(key), receiver, "webhook[0]", now.Add(-time.Second), retry, err, []*amalert.Alert{alert, alert})
	}
	see("a", "pager", true, errors.New("refused"))
	see("b", "pager", false, errors.New("401"))
	see("a", "chat", true, nil)
	see("a", "pager", true, nil)
	see("a", "pager", true, nil) // the next notification of the group, not a further attempt
	want := []string{"pager delivered 1 ", "pager delivered 2 refused", "chat delivered 1 ", "pager failed 1 401"}
	for i, x := range d.all() {
		if got := fmt.Sprint(x.Receiver, " ", x.State, " ", x.Attempts, " ", x.Error); got != want[i] || x.Firing != 2 || len(x.Alerts) != 1 || x.Took != time.Second {
			t.Errorf("%d: %s (%+v), want %s", i, got, x, want[i])
		}
	}
	for i := range 2 * maxDeliveries {
		see(fmt.Sprint(i), "pager", false, nil)
	}
	if n := len(d.all()); n != maxDeliveries {
		t.Errorf("%d are remembered, want %d", n, maxDeliveries)
	}
	if err := d.save(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("["), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.save(); err != nil { // nothing is new: the file stays as somebody made it
		t.Fatal(err)
	}
	if _, err := openDeliveries(path, time.Now); err == nil || !strings.Contains(err.Error(), "remove the file") {
		t.Errorf("a damaged file: %v", err)
	}
}
