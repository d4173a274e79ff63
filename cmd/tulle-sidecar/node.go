package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/run"
	"github.com/tulle-mesh/tulle/sidecar"
	"github.com/tulle-mesh/tulle/sidecar/admin"
	"github.com/tulle-mesh/tulle/sidecar/handover"
	"github.com/tulle-mesh/tulle/sidecar/netns"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// node is the data planes of several workloads in one process. They share the processors, the admin page and the flags; what has an end (memory of buffers,
// descriptors) is divided, and nobody borrows: a flood at one workload fills its own share.
//
// One goroutine, that of run, reads the file and starts and stops units. mu guards what the admin page looks at.
type node struct {
	c      config
	log    *slog.Logger
	stdout io.Writer
	files  int // descriptors that the process may have

	seen  []byte // of the file, as it was last applied
	fresh []byte // and as it was last read, where that is something else

	together chan struct{} // closed when its workloads may serve: at once, or when those that take over from another process's are all ready to

	mu       sync.Mutex
	units    map[string]*unit // by instance
	leaving  []*unit          // that drain, and were replaced or removed
	problems []nodeProblem
	looked   bool // the file was applied once
	yielded  bool // another process is taking over: the file is its to follow
	anew     bool // the file is to be applied though it is as it was
}

const (
	// nodePoll is how often the file and the namespaces are looked at.
	nodePoll = time.Second
	// maxNodeFile bounds the file.
	maxNodeFile = 1 << 20
	// A unit that failed is started again after a pause between these.
	unitFirst, unitLongest = time.Second, 30 * time.Second
	// unitFiles are descriptors of a workload besides those of connections, nodeFiles of the process.
	unitFiles, nodeFiles = 24, 128
)

// serveNode runs the workloads of c.node until ctx is done or a drain was asked for.
func serveNode(ctx context.Context, c config, stdout, stderr io.Writer) error {
	life := newLife(ctx, c.drainDelay)
	defer life.stop(nil)
	n := &node{c: c, log: logger(c, stderr), stdout: stdout, files: openFiles(), units: map[string]*unit{}, together: make(chan struct{})}
	content, err := n.read()
	if err == nil {
		_, _, err = parseNode(content, c)
	}
	if err != nil { // later the last good one stays; now there is none
		return fmt.Errorf("--node %s: %w", c.node, err)
	}
	parts := &successor{log: n.log, giveUp: life.stop, begun: serving}
	door, err := n.door(life.told, parts)
	if err != nil {
		return err
	}
	if door != nil {
		defer door.Close()
		defer context.AfterFunc(life.work, door.Close)() // who drains hands nothing over
	}
	if parts.taking == nil {
		close(n.together)
	}
	page := admin.New(admin.Config{
		Address: c.admin, Hosts: c.adminHosts, Metrics: n.metrics, Ready: func() error { return n.ready(life) }, Drain: life.drain, Quit: life.quit, Workloads: n.pages, Log: n.log,
		Inherit: parts.inheritAdmin("", c.admin),
	})
	if err := page.Listen(); err != nil {
		return err
	}
	turn := newTurn(page)
	defer turn.finish()
	parts.ready, parts.may, parts.begin, parts.cancel = n.settled, n.serve, n.yield, n.resume
	parts.socket = func(q handover.Socket) syscall.Conn {
		if q.Kind == handover.Admin && q.Address == c.admin {
			return page.Socket()
		}
		return nil
	}
	parts.left = func() {
		turn.over()
		life.stop(nil)
	}
	defer parts.limit()()

	n.log.Info("tulle-sidecar starts", "version", version(), "node", c.node, "controller", c.controller, "otlp", c.otlp, "admin", c.admin, "buffer_bytes", c.nodeBuffers, "files", n.files,
		"takes_over_from", parts.predecessor())
	life.leaves(n.leave)
	defer limpOnSignal(life)()
	err = run.All(
		life.work,
		run.Actor{Name: "garbage", Run: garbage.Actor(os.LookupEnv)},
		run.Actor{Name: "admin", Run: func(ctx context.Context, ready func()) error { return turn.run(ctx, ready, parts) }},
		run.Actor{Name: "handover", Run: func(ctx context.Context, ready func()) error { return parts.answer(ctx, ready, door) }},
		run.Actor{Name: "node", Run: n.run, StopTimeout: c.drainTimeout + 30*time.Second},
		run.Actor{Name: "readiness", Run: parts.take},
	)
	if err == nil {
		err = life.reason()
	}
	if err == nil {
		n.log.Info("tulle-sidecar stopped")
	}
	return err
}

// door is where a further process of the node knocks; without a state directory of the node it is nowhere, and the process is replaced by a stop and a start.
func (n *node) door(ctx context.Context, parts *successor) (*handover.Door, error) {
	if n.c.stateDir == "" {
		parts.served = make(chan struct{})
		close(parts.served)
		return nil, nil //nolint:nilnil // not an error
	}
	if err := os.MkdirAll(n.c.stateDir, 0o700); err != nil {
		return nil, fmt.Errorf("--state-dir: %w (choose a writable directory)", err)
	}
	return parts.open(ctx, n.c.stateDir, "the workloads of a node", telemetry.NewBootID())
}

// settled is nil when no workload is on its way to serve: each does, or is ready to take over from another process's, or cannot.
func (n *node) settled() error {
	n.mu.Lock()
	looked, units := n.looked, n.sortedLocked()
	n.mu.Unlock()
	if !looked {
		return errors.New("workloads are being started")
	}
	for _, u := range units {
		if err := u.settled(); err != nil {
			return fmt.Errorf("workload %s: %w", u.entry.Instance, err)
		}
	}
	return nil
}

// serve lets the workloads take over from another process's, all of them at once, and waits until each of them has.
func (n *node) serve(ctx context.Context) error {
	close(n.together)
	tick := time.NewTicker(readyFirst)
	defer tick.Stop()
	for {
		n.mu.Lock()
		waits := slices.ContainsFunc(n.sortedLocked(), (*unit).takesOver)
		n.mu.Unlock()
		if !waits {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// yield leaves the file to another process, and resume follows it again: what was given to that process by then is started again.
func (n *node) yield() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.yielded = true
}

func (n *node) resume() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.yielded = false
	for instance, u := range n.units {
		if u.passed.Load() {
			n.log.Warn("the process that took a workload over is gone; it is started again", "instance", instance)
			delete(n.units, instance)
			n.leaving = append(n.leaving, u)
			n.anew = true
		}
	}
}

// run follows the file until ctx is done, then drains all workloads at the same time.
func (n *node) run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(nodePoll)
	defer tick.Stop()
	for {
		n.look(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			n.mu.Lock()
			all := slices.Clone(n.leaving)
			for _, u := range n.units {
				all = append(all, u)
			}
			n.mu.Unlock()
			for _, u := range all {
				u.stop()
			}
			for _, u := range all {
				<-u.done
			}
			return nil
		}
	}
}

func (n *node) read() ([]byte, error) {
	f, err := os.Open(n.c.node)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxNodeFile+1))
	if err == nil && len(b) > maxNodeFile {
		err = fmt.Errorf("has more than %d bytes", maxNodeFile)
	}
	return b, err
}

// look applies the file if it has changed. What cannot be read leaves everything as it is. It may be read while it is being written: what it says is applied when it
// says the same at two looks.
func (n *node) look(ctx context.Context) {
	n.mu.Lock()
	yielded, anew, first := n.yielded, n.anew, !n.looked
	n.mu.Unlock()
	if yielded {
		n.sweep()
		return
	}
	content, err := n.read()
	if err == nil && n.seen != nil && bytes.Equal(content, n.seen) && !anew {
		n.fresh = nil
		n.sweep()
		return
	}
	if err == nil && !first && !anew && (n.fresh == nil || !bytes.Equal(content, n.fresh)) {
		n.fresh = content
		n.sweep()
		return
	}
	var entries []entry
	var problems []nodeProblem
	if err == nil {
		n.seen, n.fresh = content, nil
		entries, problems, err = parseNode(content, n.c)
	}
	if err != nil {
		n.seen = nil
		whole := []nodeProblem{{Message: err.Error() + "; all workloads stay as they are"}}
		n.mu.Lock()
		known := slices.Equal(n.problems, whole)
		n.problems = whole
		n.mu.Unlock()
		if !known {
			n.log.Error("the file of workloads cannot be read; all stay as they are", "file", n.c.node, "err", err)
		}
		return
	}
	n.apply(ctx, entries, problems)
	n.sweep()
}

// apply makes the units what the file says. A workload whose entry is bad stays as it was last.
func (n *node) apply(ctx context.Context, entries []entry, problems []nodeProblem) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.yielded {
		n.seen = nil // another process has begun to take over meanwhile
		return
	}
	n.looked, n.anew = true, false
	keep := map[string]bool{}
	for i := range problems {
		p := &problems[i]
		good := slices.ContainsFunc(entries, func(e entry) bool { return e.Instance == p.Instance })
		if u := n.units[p.Instance]; u != nil && !good && !slices.ContainsFunc(entries, func(e entry) bool { return e.StateDir == u.entry.StateDir }) {
			p.Kept, keep[p.Instance] = true, true
		}
		n.log.Error("a workload of the node is refused", "file", n.c.node, "problem", p.String())
	}
	n.problems = problems
	for _, e := range entries {
		keep[e.Instance] = true
	}
	for instance, u := range n.units {
		if !keep[instance] {
			n.log.Info("workload is removed; it drains", "instance", instance)
			n.retireLocked(u)
		}
	}
	for _, e := range entries {
		old := n.units[e.Instance]
		if old != nil { // a share is changed without a restart
			old.entry.Share = e.Share
		}
		var from *unit // that serves until the new one does
		switch {
		case old != nil && old.entry == e:
			continue
		case old != nil:
			if from = old.heldBy(e); from != nil {
				n.log.Info("workload is changed; what serves it hands over", "instance", e.Instance)
			} else {
				n.log.Info("workload is changed; it drains and starts again", "instance", e.Instance)
			}
			n.replaceLocked(old, from)
		default:
			n.log.Info("workload is added", "instance", e.Instance, "service", e.Service, "netns", e.Netns)
		}
		var before []*unit // whose sockets and state directory it needs
		for _, u := range n.leaving {
			if u.told.Err() != nil && !u.passed.Load() && (u.entry.Instance == e.Instance || u.entry.StateDir == e.StateDir || u.entry.Netns == e.Netns) {
				before = append(before, u)
			}
		}
		u := newUnit(e, e.config(n.c), n.log.With("workload", e.Instance), n.stdout, n.together, from)
		n.units[e.Instance] = u
		go u.run(context.WithoutCancel(ctx), before)
	}
	n.shareLocked()
}

// retireLocked ends u, and who serves until it does.
func (n *node) retireLocked(u *unit) { n.replaceLocked(u, nil) }

// replaceLocked takes u's place away. What serves it goes on if it is from, which hands over to what comes in its place; the rest drains.
func (n *node) replaceLocked(u, from *unit) {
	delete(n.units, u.entry.Instance)
	n.leaving = append(n.leaving, u)
	for ; u != nil; u = u.before() {
		if u != from {
			u.stop()
		}
	}
}

// sweep forgets units that have ended, and gives what they had to the others.
func (n *node) sweep() {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := len(n.leaving)
	n.leaving = slices.DeleteFunc(n.leaving, func(u *unit) bool {
		select {
		case <-u.done:
			return true
		default:
			return false
		}
	})
	if len(n.leaving) != before {
		n.shareLocked()
	}
}

// shareLocked divides what has an end among all units, those that drain included.
func (n *node) shareLocked() {
	all := slices.Clone(n.leaving)
	for _, u := range n.units {
		all = append(all, u)
	}
	total := 0
	for _, u := range all {
		total += u.entry.Share
	}
	for _, u := range all {
		u.setShare(shareOf(u.entry.Share, total, len(all), n.c.nodeBuffers, n.files))
	}
}

// shareOf is what a workload may take that has part of total parts, beside n-1 others. A connection of a caller may need another one to the service.
func shareOf(part, total, n int, buffers int64, files int) sidecar.Share {
	free := max(0, files-nodeFiles-n*unitFiles)
	return sidecar.Share{
		BufferBytes: max(1, buffers*int64(part)/int64(total)),
		Connections: max(1, free/2*part/total),
	}
}

// ready says what is missing before all workloads can serve.
func (n *node) ready(life *life) error {
	if life.leaving() {
		return errors.New("draining")
	}
	n.mu.Lock()
	units := n.sortedLocked()
	if n.yielded { // what was given away is served by the process that the next question goes to
		units = slices.DeleteFunc(units, func(u *unit) bool { return u.passed.Load() })
	}
	var missing []string
	if !n.looked {
		missing = append(missing, "workloads are being started")
	}
	for _, p := range n.problems {
		missing = append(missing, n.c.node+": "+p.String())
	}
	n.mu.Unlock()
	for _, u := range units {
		if err := u.ready(); err != nil {
			missing = append(missing, "workload "+u.entry.Instance+": "+err.Error())
		}
	}
	if len(missing) > 0 {
		return errors.New(strings.Join(missing, "; "))
	}
	return nil
}

// leave asks the callers of all workloads to go elsewhere.
func (n *node) leave() {
	n.mu.Lock()
	units := n.sortedLocked()
	n.mu.Unlock()
	for _, u := range units {
		u.mu.Lock()
		if u.w != nil {
			u.w.carrying.Leave()
		}
		u.mu.Unlock()
	}
}

// sortedLocked is the units by instance.
func (n *node) sortedLocked() []*unit {
	var out []*unit
	for _, u := range n.units {
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b *unit) int { return strings.Compare(a.entry.Instance, b.entry.Instance) })
	return out
}

// pages are what the admin page shows of each workload, those that drain last.
func (n *node) pages() ([]admin.Workload, []string) {
	n.mu.Lock()
	units := append(n.sortedLocked(), n.leaving...)
	var problems []string
	for _, p := range n.problems {
		problems = append(problems, p.String())
	}
	n.mu.Unlock()
	var out []admin.Workload
	for _, u := range units {
		out = append(out, u.page())
	}
	return out, problems
}

// metrics writes what is of the process; each workload's own are on its own page.
func (n *node) metrics(w io.Writer) {
	pages, problems := n.pages()
	gauge := func(name, help string) { fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name) }
	gauge("tulle_node_workloads", "Workloads of this process.")
	fmt.Fprintf(w, "tulle_node_workloads %d\n", len(pages))
	gauge("tulle_node_problems", "Entries of the node's file that are refused.")
	fmt.Fprintf(w, "tulle_node_problems %d\n", len(problems))
	gauge("tulle_node_workload_ready", "1 while the workload can serve.")
	for _, p := range pages {
		ready := 1
		if p.Ready() != nil {
			ready = 0
		}
		fmt.Fprintf(w, "tulle_node_workload_ready{instance=%q,service=%q,namespace=%q} %d\n", p.Instance, p.Service, p.Namespace, ready)
	}
	vm.WriteProcessMetrics(w)
}

// unit is one workload of a node through its life: it is started again when it fails, and when its network namespace is another one by now. It takes over from the
// one that serves the workload, in this process or in another one, and hands over to the next.
type unit struct {
	entry    entry
	c        config
	log      *slog.Logger
	stdout   io.Writer
	together <-chan struct{} // see node
	told     context.Context // done: it is to end
	stop     func()
	done     chan struct{}
	passed   atomic.Bool // another one serves in its place

	mu     sync.Mutex
	from   *unit      // of this process, that serves until this one does; nil: none
	w      *workload  // nil while it does not run
	parts  *successor // of w
	wctx   context.Context
	why    string // it does not run
	failed bool   // it has not run since it was last tried
	share  sidecar.Share
}

func newUnit(e entry, c config, log *slog.Logger, stdout io.Writer, together <-chan struct{}, from *unit) *unit {
	u := &unit{entry: e, c: c, log: log, stdout: stdout, together: together, from: from, done: make(chan struct{}), why: "is being started"}
	u.told, u.stop = context.WithCancel(context.Background())
	return u
}

// before is who serves until u does; nil: nobody of this process.
func (u *unit) before() *unit {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.from
}

// heldBy is who serves the workload now, u or who does until u does, if it can hand over to one of e: to the same identity, in the same place.
func (u *unit) heldBy(e entry) *unit {
	for ; u != nil; u = u.before() {
		if !u.serves() {
			continue
		}
		a := u.entry
		a.Service, a.Version, a.TokenFile, a.AccessLogFile, a.Share = e.Service, e.Version, e.TokenFile, e.AccessLogFile, e.Share
		if a == e && u.told.Err() == nil {
			return u
		}
		return nil
	}
	return nil
}

// serves reports whether traffic comes to it.
func (u *unit) serves() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.w != nil && u.parts.serves() && !u.passed.Load()
}

// takesOver reports whether it is about to serve in another one's place.
func (u *unit) takesOver() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.w != nil && !u.parts.serves()
}

// run serves until u.stop or until another one does, after the units before it have ended.
func (u *unit) run(ctx context.Context, before []*unit) {
	defer close(u.done)
	for _, b := range before {
		select {
		case <-b.done:
		case <-u.told.Done():
			return
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(u.told, cancel)()
	for wait := unitFirst; ; wait = min(2*wait, unitLongest) {
		begun := time.Now()
		err := u.once(ctx)
		if ctx.Err() != nil || u.passed.Load() {
			return
		}
		if time.Since(begun) > unitLongest {
			wait = unitFirst
		}
		if err == nil {
			err = errors.New("it ended by itself")
		}
		u.mu.Lock()
		u.why, u.failed = err.Error(), true
		u.mu.Unlock()
		u.log.Error("workload does not run", "err", err, "retry", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// once serves until ctx is done, it fails, another one serves in its place, or the namespace is another one.
func (u *unit) once(ctx context.Context) (err error) {
	c := u.c
	if c.token, err = readToken(u.entry.TokenFile, c.stateDir, func(string) (string, bool) { return "", false }); err != nil {
		return err
	}
	if err := os.MkdirAll(c.stateDir, 0o700); err != nil {
		return fmt.Errorf("stateDir: %w (choose a writable directory)", err)
	}
	self, err := identity.Workload(c.trustDomain, c.workload.Namespace, c.account)
	if err != nil {
		return fmt.Errorf("namespace or serviceAccount: %w", err)
	}
	var space *netns.Space
	who := self.String() + " " + c.workload.Instance
	if u.entry.Netns != "" {
		if space, err = netns.Open(u.entry.Netns); err != nil {
			return err
		}
		defer space.Close()
		who += " in " + u.entry.Netns
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	boot := telemetry.NewBootID()
	parts := &successor{log: u.log, giveUp: end, may: u.may, begun: u.begun}
	door, err := parts.open(ctx, c.stateDir, who, boot)
	if err != nil {
		return err
	}
	defer parts.close()
	defer door.Close()
	defer context.AfterFunc(ctx, door.Close)()
	w, err := assemble(ctx, c, space, u.log, u.stdout, func(says *telemetry.Config, carries *sidecar.Config) {
		says.BootID, says.Predecessor = boot, parts.predecessor()
		carries.Inherit = parts.inherit(c.workload.Instance)
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	parts.ready = func() error { return w.ready(func() bool { return ctx.Err() != nil }) }
	parts.socket, parts.begin, parts.cancel = w.socket, w.yield, w.resume
	parts.left = func() {
		u.passed.Store(true)
		w.carrying.HandOver()
		end(nil)
	}
	defer parts.limit()()
	u.mu.Lock()
	w.carrying.SetShare(u.share)
	u.w, u.parts, u.wctx, u.why = w, parts, ctx, ""
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		u.w, u.parts, u.why = nil, nil, "has stopped"
		u.mu.Unlock()
	}()
	u.log.Info("workload starts", "identity", w.self.String(), "boot_id", w.telling.BootID(), "netns", u.entry.Netns, "state_dir", u.entry.StateDir, "takes_over_from", parts.predecessor())
	var watching sync.WaitGroup
	defer watching.Wait()
	if space != nil {
		watching.Go(func() {
			if space.AwaitGone(ctx, nodePoll) {
				end(fmt.Errorf("network namespace %s is another one by now, or none", u.entry.Netns))
			}
		})
	}
	err = run.All(ctx, parts.actors(w, door)...)
	if why := context.Cause(ctx); why != nil && why != context.Canceled { //nolint:errorlint // the very value
		err = errors.Join(err, why)
	}
	end(nil)
	return err
}

// may waits until it may take over.
func (u *unit) may(ctx context.Context) error {
	select {
	case <-u.together:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begun: it serves.
func (u *unit) begun() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.from, u.failed = nil, false
}

func (u *unit) setShare(s sidecar.Share) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.share == s {
		return
	}
	u.share = s
	if u.w != nil {
		u.w.carrying.SetShare(s)
	}
}

// ready says what is missing before the workload is served, by it or by who serves until it does.
func (u *unit) ready() error {
	if u.told.Err() != nil || u.passed.Load() {
		return errors.New("draining")
	}
	u.mu.Lock()
	w, parts, ctx, why, from := u.w, u.parts, u.wctx, u.why, u.from
	u.mu.Unlock()
	if from != nil && (w == nil || !parts.serves()) && from.serves() {
		return from.ready()
	}
	if w == nil {
		return errors.New(why)
	}
	return w.ready(func() bool { return ctx.Err() != nil })
}

// settled is nil when it serves, is ready to take over, or cannot be started.
func (u *unit) settled() error {
	u.mu.Lock()
	failed := u.failed && u.w == nil
	u.mu.Unlock()
	if failed {
		return nil
	}
	return u.ready()
}

// page is what the admin page shows.
func (u *unit) page() admin.Workload {
	p := admin.Workload{Instance: u.entry.Instance, Service: u.entry.Service, Namespace: u.entry.Namespace, Netns: u.entry.Netns, Ready: u.ready}
	u.mu.Lock()
	defer u.mu.Unlock()
	p.BufferBytes, p.Connections = u.share.BufferBytes, u.share.Connections
	if w := u.w; w != nil {
		p.Identity, p.BootID = w.self.String(), w.telling.BootID()
		p.Metrics, p.Open, p.Snapshot = w.telling.WritePrometheus, w.telling.WriteOpenMetrics, w.watching.Current
		p.Endpoints = w.endpoints
	}
	return p
}
