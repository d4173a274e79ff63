package watch

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// maxDestinations bounds what is remembered; beyond it an arbitrary answer is forgotten.
const maxDestinations = 4096

// ErrNoController is returned for a cold destination while the controller is away; policy decides what to do then.
var ErrNoController = errors.New("watch: destination is not known yet and the controller is away")

// destinations is the on-demand part: asked for on first use, remembered for its TTL.
type destinations struct {
	wake chan struct{} // the stream's goroutine is to ask

	mu        sync.Mutex
	online    bool
	known     map[string]remembered
	asking    map[string]chan struct{} // closed at the answer, or when the stream ends
	unasked   []string                 // of asking: not sent yet
	forgotten []string                 // to unsubscribe
}

type remembered struct {
	policy.Destination
	until time.Time
}

func (d *destinations) init() {
	d.wake = make(chan struct{}, 1)
	d.known = map[string]remembered{}
	d.asking = map[string]chan struct{}{}
}

// Destination says who is at address in network, asking the controller on first use. It blocks until the answer, ctx's end, or the
// loss of the controller (ErrNoController); an answer that has outlived its TTL is still given while the controller is away.
func (w *Watcher) Destination(ctx context.Context, network string, address netip.AddrPort) (policy.Destination, error) {
	d, name := &w.destinations, policy.DestinationName(network, address)
	for {
		d.mu.Lock()
		r, ok := d.known[name]
		if ok && (time.Now().Before(r.until) || !d.online) {
			d.mu.Unlock()
			return r.Destination, nil
		}
		if !d.online {
			d.mu.Unlock()
			return policy.Destination{}, ErrNoController
		}
		answered, asked := d.asking[name]
		if !asked {
			answered = make(chan struct{})
			d.asking[name] = answered
			d.unasked = append(d.unasked, name)
			d.nudge()
		}
		d.mu.Unlock()
		select {
		case <-answered:
		case <-ctx.Done():
			return policy.Destination{}, ctx.Err()
		}
	}
}

func (d *destinations) nudge() {
	select {
	case d.wake <- struct{}{}:
	default: // a wake-up is already pending
	}
}

// ask sends what is waiting. Called by the stream's goroutine, first when a stream begins.
func (w *Watcher) ask(ads adsStream) error {
	d := &w.destinations
	d.mu.Lock()
	d.online = true
	names, gone := d.unasked, d.forgotten
	d.unasked, d.forgotten = nil, nil
	d.mu.Unlock()
	if len(names) == 0 && len(gone) == 0 {
		return nil
	}
	return ads.Send(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: policy.TypeDestination, ResourceNamesSubscribe: names, ResourceNamesUnsubscribe: gone,
	})
}

// answer remembers a checked response; a name that was removed is unknown for a short time.
func (d *destinations) answer(resp *discoveryv3.DeltaDiscoveryResponse) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for _, x := range resp.GetResources() {
		var m tullev1.Destination
		if x.GetResource().UnmarshalTo(&m) != nil {
			continue
		}
		if dest, err := policy.DestinationFromXDS(&m); err == nil {
			d.rememberLocked(x.GetName(), remembered{dest, now.Add(dest.TTL)})
		}
	}
	for _, name := range resp.GetRemovedResources() {
		network, address, err := policy.ParseDestinationName(name)
		if err != nil {
			continue
		}
		dest := policy.Destination{Network: network, Address: address, TTL: policy.NegativeDestinationTTL}
		d.rememberLocked(name, remembered{dest, now.Add(dest.TTL)})
	}
}

func (d *destinations) rememberLocked(name string, r remembered) {
	if _, ok := d.known[name]; !ok && len(d.known) >= maxDestinations {
		for other := range d.known {
			delete(d.known, other)
			d.forgotten = append(d.forgotten, other)
			d.nudge()
			break
		}
	}
	d.known[name] = r
	if c, ok := d.asking[name]; ok {
		close(c)
		delete(d.asking, name)
	}
}

// disconnected lets everybody who waits look again.
func (d *destinations) disconnected() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.online = false
	d.unasked, d.forgotten = nil, nil
	for name, c := range d.asking {
		close(c)
		delete(d.asking, name)
	}
}
