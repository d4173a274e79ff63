package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	amalert "github.com/prometheus/alertmanager/alert"
	"github.com/prometheus/alertmanager/notify"
	"github.com/prometheus/common/model"
)

// Delivery is one notification on its way to a receiver, or there: attempts that follow one another for the same group of alerts, until one arrives.
type Delivery struct {
	Receiver    string            `json:"receiver"`
	Integration string            `json:"integration"` // kind and place in the receiver's configuration: webhook[0]
	Group       map[string]string `json:"group,omitempty"`
	Alerts      []string          `json:"alerts"` // names, each once, sorted
	Firing      int               `json:"firing"` // alerts in it
	Resolved    int               `json:"resolved"`
	State       string            `json:"state"` // delivered | retrying | failed: the receiver said that trying again is of no use; the group's next turn tries all the same
	Attempts    int               `json:"attempts"`
	First       time.Time         `json:"first"` // begin of the first attempt
	Last        time.Time         `json:"last"`  // end of the latest
	Took        time.Duration     `json:"tookNs"`
	Error       string            `json:"error,omitempty"` // of the latest attempt that failed

	key string // of the group, as Alertmanager writes it
}

// States of a Delivery.
const (
	Delivered = "delivered"
	Retrying  = "retrying"
	Failed    = "failed"
)

// maxDeliveries are remembered, the latest.
const maxDeliveries = 256

// deliveries remembers what was sent. The file is written with the log of sent notifications and at the end: a crash may forget the last seconds. Safe for concurrent use.
type deliveries struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	list    []Delivery // the oldest first
	written int        // changes that are in the file
	changes int
}

// openDeliveries reads those of before; a file that cannot be read is an error that says what to do.
func openDeliveries(path string, now func() time.Time) (*deliveries, error) {
	d := &deliveries{path: path, now: now}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &d.list)
	}
	if err != nil {
		return nil, fmt.Errorf("alert: read the list of deliveries %s (remove the file to begin a new one; nothing is sent again by it): %w", path, err)
	}
	d.list = d.list[max(0, len(d.list)-maxDeliveries):]
	return d, nil
}

// seen is a receiver's attempt that has ended.
func (d *deliveries) seen(ctx context.Context, receiver, integration string, begin time.Time, retry bool, err error, alerts []*amalert.Alert) {
	now := d.now()
	x := Delivery{Receiver: receiver, Integration: integration, Attempts: 1, First: begin.UTC(), Last: now.UTC(), Took: max(0, now.Sub(begin)), State: Delivered}
	x.key, _ = notify.GroupKey(ctx)
	if labels, ok := notify.GroupLabels(ctx); ok {
		x.Group = make(map[string]string, len(labels))
		for k, v := range labels {
			x.Group[string(k)] = string(v)
		}
	}
	for _, a := range alerts {
		x.Alerts = append(x.Alerts, string(a.Labels[model.AlertNameLabel]))
		if a.ResolvedAt(now) {
			x.Resolved++
		} else {
			x.Firing++
		}
	}
	slices.Sort(x.Alerts)
	x.Alerts = slices.Compact(x.Alerts)
	switch {
	case err == nil:
	case retry:
		x.State, x.Error = Retrying, err.Error()
	default:
		x.State, x.Error = Failed, err.Error()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changes++
	for i := len(d.list) - 1; i >= 0; i-- {
		p := &d.list[i]
		if p.key != x.key || p.Receiver != receiver || p.Integration != integration {
			continue
		}
		if p.State == Delivered || p.key == "" {
			break
		}
		x.First, x.Attempts = p.First, p.Attempts+1
		if x.Error == "" {
			x.Error = p.Error
		}
		d.list = slices.Delete(d.list, i, i+1)
		break
	}
	d.list = append(d.list, x)
	d.list = d.list[max(0, len(d.list)-maxDeliveries):]
}

// all lists them, the latest first.
func (d *deliveries) all() []Delivery {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := slices.Clone(d.list)
	slices.Reverse(out)
	return out
}

// save writes what has changed since.
func (d *deliveries) save() error {
	d.mu.Lock()
	b, err := json.Marshal(d.list)
	changes, same := d.changes, d.changes == d.written
	d.mu.Unlock()
	if same || err != nil {
		return err
	}
	tmp := d.path + ".tmp"
	if err := errors.Join(os.WriteFile(tmp, b, 0o600), os.Rename(tmp, d.path)); err != nil {
		return fmt.Errorf("alert: write the list of deliveries %s: %w", filepath.Base(d.path), err)
	}
	d.mu.Lock()
	d.written = changes
	d.mu.Unlock()
	return nil
}

// keep saves them from time to time until stop is closed, and once more then.
func (d *deliveries) keep(every time.Duration, stop <-chan struct{}, warn func(error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-stop:
			if err := d.save(); err != nil {
				warn(err)
			}
			return
		}
		if err := d.save(); err != nil {
			warn(err)
		}
	}
}

// Deliveries lists what was sent to receivers, or should have been, the latest first: at most 256.
func (a *Alerting) Deliveries() []Delivery { return a.sent.all() }
