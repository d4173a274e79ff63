package watch

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/policy"
)

const (
	// maxDestinations bounds the answers that are remembered; beyond it an arbitrary one is forgotten.
	maxDestinations = 4096
	// maxServices bounds the services that are named to the controller; beyond it the one that was not used for longest makes room.
	maxServices = 4096
	// IdleService is how long a service that was learnt stays in the Snapshot after its last connection has ended.
	IdleService = time.Hour
	// sweepInterval is how often is looked for what was not used for so long, and for answers that are too old.
	sweepInterval = time.Minute
)

// reach is whether the controller can be asked.
type reach uint8

const (
	trying reach = iota // a connection is being made, and nothing says that it will fail: whoever asks waits
	online              // a stream is open
	away                // the last try failed
)

// destinations is the part on demand: who is at an address, and which services the Snapshot is to have for it.
//
// A question goes through these steps, all under one entry of asking, so that any number of connections ask once:
//
//  1. The address is subscribed to (kind "destination"). The controller answers with the name of a service, or that there is nothing to know.
//  2. A service that the Snapshot in force does not have at that address is named to the controller (a subscription to kind "service" by name). From then on it is a part of
//     this sidecar's Snapshot like any other, with its endpoints, in the same revisions.
//  3. The Snapshot that has the service, and the address among its endpoints, is in force: the question is answered, and the address unsubscribed from, because the Snapshot now has it.
//
// What must stay true:
//
//  1. services is what the controller is, or at the next stream will be, told to keep in the Snapshot: nothing else of it outlives a stream, so a
//     controller that restarts, or another one, yields the same Snapshot.
//  2. A service is there as long as a connection holds it, and IdleService longer.
//  3. Of one name subscribing and unsubscribing never travel together: the later of the two takes the other back.
//  4. A question ends: by an answer, or, at the latest when its asker gives up, without one; and no entry of asking stays without an asker.
type destinations struct {
	wake chan struct{} // the stream's goroutine is to speak

	mu       sync.Mutex
	reach    reach
	known    map[string]remembered // answers that name no service
	asking   map[string]*question
	services map[string]*use
	names    subscription // of destinations
	needs    subscription // of services
}

// remembered is an answer that names no service.
type remembered struct {
	policy.Destination
	until time.Time
}

// question is one that is not answered yet.
type question struct {
	askers int
	done   chan struct{} // closed once answer and err are set
	answer policy.Destination
	err    error
	waits  bool // answer names a service that is awaited
}

// use is what a named service is used for.
type use struct {
	open int       // connections
	last time.Time // of open's last change
}

// subscription is what the controller is to be told of one kind's names.
type subscription struct{ on, off map[string]bool }

func (s *subscription) subscribe(name string) {
	delete(s.off, name)
	s.on[name] = true
}

func (s *subscription) unsubscribe(name string) {
	if s.on[name] { // it was not sent yet
		delete(s.on, name)
	}
	s.off[name] = true
}

func (s *subscription) take(url string) *discoveryv3.DeltaDiscoveryRequest {
	if len(s.on)+len(s.off) == 0 {
		return nil
	}
	req := &discoveryv3.DeltaDiscoveryRequest{
		TypeUrl:                url,
		ResourceNamesSubscribe: slices.Sorted(maps.Keys(s.on)), ResourceNamesUnsubscribe: slices.Sorted(maps.Keys(s.off)),
	}
	s.clear()
	return req
}

func (s *subscription) clear() { s.on, s.off = map[string]bool{}, map[string]bool{} }

func (d *destinations) init() {
	d.wake = make(chan struct{}, 1)
	d.known = map[string]remembered{}
	d.asking = map[string]*question{}
	d.services = map[string]*use{}
	d.names.clear()
	d.needs.clear()
}

// Destination implements policy.Directory. An answer that names no service and has outlived its TTL is still given while the controller is away.
func (w *Watcher) Destination(ctx context.Context, network string, address netip.AddrPort) (policy.Destination, error) {
	d, name := &w.destinations, policy.DestinationName(network, address)
	d.mu.Lock()
	if found, ok := find(w.Current(), network, address); ok { // since whoever asks has looked; it counts before what was remembered
		d.mu.Unlock()
		return found, nil
	}
	r, ok := d.known[name]
	if ok && (time.Now().Before(r.until) || d.reach == away) {
		d.mu.Unlock()
		return r.Destination, nil
	}
	if d.reach == away {
		d.mu.Unlock()
		return policy.Destination{}, policy.ErrAway
	}
	q := d.asking[name]
	if q == nil {
		q = &question{done: make(chan struct{})}
		d.asking[name] = q
		d.names.subscribe(name)
		d.nudge()
	}
	q.askers++
	d.mu.Unlock()
	var err error
	select {
	case <-q.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if q.askers--; err == nil {
		return q.answer, q.err
	}
	if q.askers == 0 && d.asking[name] == q { // nobody waits any more
		delete(d.asking, name)
		d.names.unsubscribe(name)
		d.nudge()
	}
	return policy.Destination{}, err
}

// Hold implements policy.Directory.
func (w *Watcher) Hold(service string) (release func()) {
	d := &w.destinations
	d.mu.Lock()
	defer d.mu.Unlock()
	u := d.needLocked(service)
	if u == nil { // there is no room
		return func() {}
	}
	u.open, u.last = u.open+1, time.Now()
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		u.open, u.last = u.open-1, time.Now()
	}
}

// Needed is how many services are named to the controller.
func (w *Watcher) Needed() int {
	w.destinations.mu.Lock()
	defer w.destinations.mu.Unlock()
	return len(w.destinations.services)
}

func (d *destinations) nudge() {
	select {
	case d.wake <- struct{}{}:
	default: // a wake-up is already pending
	}
}

// needLocked names service to the controller, unless it is named already; nil when there is no room for it.
func (d *destinations) needLocked(service string) *use {
	if u := d.services[service]; u != nil {
		return u
	}
	if len(d.services) >= maxServices {
		oldest := ""
		for name, u := range d.services {
			if u.open == 0 && (oldest == "" || u.last.Before(d.services[oldest].last)) {
				oldest = name
			}
		}
		if oldest == "" {
			return nil
		}
		d.dropLocked(oldest)
	}
	u := &use{last: time.Now()}
	d.services[service] = u
	d.needs.subscribe(service)
	d.nudge()
	return u
}

func (d *destinations) dropLocked(service string) {
	delete(d.services, service)
	d.needs.unsubscribe(service)
	d.nudge()
}

// inherit takes the services of a Snapshot that is not the controller's word of now: those that no listener names were learnt, and are needed until they
// turn out to be idle.
func (d *destinations) inherit(s *policy.Snapshot) {
	named := map[string]bool{}
	intercepts := false
	for _, l := range s.Listeners {
		named[l.Service] = true
		intercepts = intercepts || l.Interception != nil && l.Side == flow.SideClient
	}
	if !intercepts {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range s.Services {
		if !named[name] {
			d.needLocked(name)
		}
	}
}

// begin is for a new stream, which knows nothing of the ones before: it returns the services to name with the first request.
func (d *destinations) begin() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reach = online
	d.names.clear()
	d.needs.clear()
	for name := range d.asking {
		d.names.subscribe(name)
	}
	return slices.Sorted(maps.Keys(d.services))
}

// ask sends what is waiting. Called by the stream's goroutine.
func (w *Watcher) ask(ads adsStream) error {
	d := &w.destinations
	d.mu.Lock()
	requests := []*discoveryv3.DeltaDiscoveryRequest{d.needs.take(policy.TypeService), d.names.take(policy.TypeDestination)}
	d.mu.Unlock()
	for _, req := range requests {
		if req == nil {
			continue
		}
		if err := ads.Send(req); err != nil {
			return err
		}
	}
	return nil
}

// answer takes a checked response. current is the Snapshot in force.
func (d *destinations) answer(resp *discoveryv3.DeltaDiscoveryResponse, current *policy.Snapshot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, x := range resp.GetResources() {
		var m tullev1.Destination
		if x.GetResource().UnmarshalTo(&m) != nil {
			continue
		}
		dest, err := policy.DestinationFromXDS(&m)
		switch {
		case err != nil:
		case dest.Service == "":
			d.rememberLocked(x.GetName(), dest)
		default:
			d.foundLocked(x.GetName(), dest, current)
		}
	}
	for _, name := range resp.GetRemovedResources() {
		network, address, err := policy.ParseDestinationName(name)
		if _, kept := d.known[name]; err != nil || !kept && d.asking[name] == nil {
			continue // it is not subscribed to any more: the answer to an earlier question
		}
		d.rememberLocked(name, policy.Destination{Network: network, Address: address, TTL: policy.NegativeDestinationTTL})
	}
}

// foundLocked is step 2 of a question.
func (d *destinations) foundLocked(name string, dest policy.Destination, current *policy.Snapshot) {
	delete(d.known, name)
	q := d.asking[name]
	if q == nil { // what was unknown has become known: the next connection asks
		d.names.unsubscribe(name)
		d.nudge()
		return
	}
	q.answer, q.waits = dest, true
	if d.needLocked(dest.Service) == nil {
		d.settleLocked(name, q, policy.ErrTooMany)
		return
	}
	if has(current, dest) {
		d.settleLocked(name, q, nil)
	}
}

// has reports whether s has what dest names: the service, and the address among its endpoints.
func has(s *policy.Snapshot, dest policy.Destination) bool {
	return s != nil && (slices.ContainsFunc(s.Endpoints[dest.Service], func(e policy.Endpoint) bool { return at(e, dest.Address) }) || means(s.Services[dest.Service], dest.Address))
}

// means reports whether redirected connections to an address mean s, which is called by way of an edge.
func means(s policy.Service, address netip.AddrPort) bool {
	return slices.ContainsFunc(s.Addresses, func(a netip.AddrPort) bool { return at(policy.Endpoint{Address: a}, address) })
}

// at reports whether e has that address, which has no zone and is not one of IPv4 mapped into IPv6.
func at(e policy.Endpoint, address netip.AddrPort) bool {
	return e.Address.Port() == address.Port() && e.Address.Addr().Unmap().WithZone("") == address.Addr()
}

// find is who has address in s; of several the first by name.
func find(s *policy.Snapshot, network string, address netip.AddrPort) (d policy.Destination, ok bool) {
	if s == nil {
		return d, false
	}
	for service := range s.Services {
		if (!ok || service < d.Service) && has(s, policy.Destination{Service: service, Address: address}) {
			d, ok = policy.Destination{Network: network, Address: address, Service: service, Known: true, TTL: policy.DefaultDestinationTTL}, true
		}
	}
	return d, ok
}

// arrived is step 3: s is in force.
func (d *destinations) arrived(s *policy.Snapshot) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, q := range d.asking {
		if q.waits && has(s, q.answer) {
			d.settleLocked(name, q, nil)
		}
	}
}

// refuse lets go of services whose resources are not valid: what this sidecar asked for is not to keep the rest of its policy from it.
func (d *destinations) refuse(services []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, service := range services {
		if d.services[service] != nil {
			d.dropLocked(service)
		}
		for name, q := range d.asking {
			if q.waits && q.answer.Service == service {
				d.settleLocked(name, q, policy.ErrRefused)
			}
		}
	}
}

// settleLocked ends a question of which the address need not be known any longer.
func (d *destinations) settleLocked(name string, q *question, err error) {
	q.err = err
	close(q.done)
	delete(d.asking, name)
	d.names.unsubscribe(name)
	d.nudge()
}

// rememberLocked keeps an answer that names no service, and gives it to whoever waits.
func (d *destinations) rememberLocked(name string, dest policy.Destination) {
	if _, ok := d.known[name]; !ok && len(d.known) >= maxDestinations {
		for other := range d.known {
			d.forgetLocked(other)
			break
		}
	}
	d.known[name] = remembered{dest, time.Now().Add(dest.TTL)}
	if q := d.asking[name]; q != nil {
		q.answer = dest
		close(q.done)
		delete(d.asking, name)
	}
}

func (d *destinations) forgetLocked(name string) {
	delete(d.known, name)
	if d.asking[name] == nil {
		d.names.unsubscribe(name)
		d.nudge()
	}
}

// disconnected is for the end of a stream. One that had been answered is made again at once, and who asks waits for that; after one that never came to be,
// the controller is away.
func (d *destinations) disconnected(answered bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if answered {
		d.reach = trying
		for _, q := range d.asking {
			q.waits, q.answer = false, policy.Destination{}
		}
		return
	}
	d.reach = away
	for name, q := range d.asking {
		if r, ok := d.known[name]; ok {
			q.answer = r.Destination
		} else {
			q.err = policy.ErrAway
		}
		close(q.done)
		delete(d.asking, name)
	}
}

// sweep lets go of what has not been used for long, until ctx is done.
func (d *destinations) sweep(ctx context.Context) {
	t := time.NewTicker(sweepInterval)
	defer t.Stop()
	for {
		select {
		case now := <-t.C:
			d.idle(now)
		case <-ctx.Done():
			return
		}
	}
}

func (d *destinations) idle(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, u := range d.services {
		if u.open == 0 && now.Sub(u.last) >= IdleService {
			d.dropLocked(name)
		}
	}
	if d.reach == away {
		return // an old answer is better than none
	}
	for name, r := range d.known {
		if now.After(r.until) {
			d.forgetLocked(name)
		}
	}
}
