package handover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Names in the state directory.
const (
	socketName = "handover.sock"
	lockName   = "handover.lock"
)

const (
	// replyTimeout bounds a message and its answer.
	replyTimeout = 5 * time.Second
	// commitTimeout bounds Commit: the other process waits for what is asked for on its admin page.
	commitTimeout = 15 * time.Second
)

// Door is where the next process knocks.
type Door struct {
	cfg Config
	l   *net.UnixListener

	mu     sync.Mutex
	taker  int  // process that is taking over; 0: none
	left   bool // and has
	closed bool // this process stops
}

// Open makes the Door of the process, or takes it over from the process that runs with the same Dir, which then is what taking is from. taking is
// nil when there is none. An error wraps ErrRefused when that process does not hand over.
func Open(ctx context.Context, cfg Config) (d *Door, taking *Taking, err error) {
	if err := cfg.check(); err != nil {
		return nil, nil, err
	}
	dir, err := os.Open(cfg.Dir)
	if err != nil {
		return nil, nil, fmt.Errorf("state directory: %w", err)
	}
	defer dir.Close()
	unlock, err := lock(ctx, filepath.Join(cfg.Dir, lockName))
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	// The path of a Unix socket has at most 107 bytes (unix(7)), that of a state directory more.
	addr := &net.UnixAddr{Net: "unixpacket", Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), socketName)}
	var dialer net.Dialer
	nc, err := dialer.DialContext(ctx, addr.Net, addr.Name)
	switch {
	case err == nil:
		return take(cfg, nc.(*net.UnixConn))
	case errors.Is(err, syscall.ENOENT):
	case errors.Is(err, syscall.ECONNREFUSED): // left by a process that is gone
		if err := os.Remove(filepath.Join(cfg.Dir, socketName)); err != nil {
			return nil, nil, fmt.Errorf("handover: %w", err)
		}
	default:
		return nil, nil, fmt.Errorf("handover: %s in %s: %w", socketName, cfg.Dir, err)
	}
	l, err := net.ListenUnix(addr.Net, addr)
	if err != nil {
		return nil, nil, fmt.Errorf("handover: cannot listen on %s in %s: %w (is the state directory on a file system that has sockets?)", socketName, cfg.Dir, err)
	}
	l.SetUnlinkOnClose(false) // by then it may be another process's
	if err := os.Chmod(filepath.Join(cfg.Dir, socketName), 0o600); err != nil {
		_ = l.Close()
		return nil, nil, fmt.Errorf("handover: %w", err)
	}
	return &Door{cfg: cfg, l: l}, nil, nil
}

// lockPoll is how often a lock that another process has is tried again: flock(2) itself cannot be told to give up.
const lockPoll = 10 * time.Millisecond

// lock keeps other processes from finding or making the door at the same time. It waits for them until ctx is done.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("handover: %w (choose a writable state directory)", err)
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			return func() { f.Close() }, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			f.Close()
			return nil, fmt.Errorf("handover: lock of %s: %w", path, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("handover: another process holds %s: %w", path, ctx.Err())
		}
	}
}

// Run answers who knocks, until ctx is done or another process has taken over, and then still waits for ctx. Call it once, when the process serves.
func (d *Door) Run(ctx context.Context) {
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, d.close)
	defer stop()
	for {
		nc, err := d.l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			break
		}
		if err != nil { // out of descriptors: others must close before there are more
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			continue
		}
		wg.Go(func() {
			defer func() { _ = nc.Close() }()
			gone := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
			defer gone()
			d.receive(nc)
		})
	}
	wg.Wait()
	<-ctx.Done()
}

// Close is for a Door whose Run was never called.
func (d *Door) Close() { d.close() }

func (d *Door) close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	_ = d.l.Close()
}

// receive serves one process that wants to take over.
func (d *Door) receive(nc *net.UnixConn) {
	log := d.cfg.Log
	if err := trusted(nc); err != nil {
		log.Warn("handover refused", "error", err)
		return
	}
	_ = nc.SetDeadline(time.Now().Add(replyTimeout))
	var first request
	if err := receive(nc, &first, nil); err != nil || first.Hello == nil {
		return
	}
	who := first.Hello
	refuse := func(why string) {
		log.Warn("handover refused", "process", who.PID, "version", who.Version, "error", why)
		_ = send(nc, reply{Error: why}, nil)
	}
	version := agree(who.Versions)
	switch {
	case version == 0:
		refuse(disagreement(who.Versions))
		return
	case who.Workload != d.cfg.Workload:
		refuse(fmt.Sprintf("it serves %s, the new one is to serve %s: give each a state directory of its own", d.cfg.Workload, who.Workload))
		return
	}
	if why := d.begin(who.PID); why != "" {
		refuse(why)
		return
	}
	log.Info("another sidecar is taking over", "process", who.PID, "version", who.Version)
	d.cfg.Begin()
	err := d.handOver(nc, version)
	if d.end(err == nil) {
		log.Info("handed over; what is open here drains", "process", who.PID, "version", who.Version)
		return
	}
	d.cfg.Cancel()
	if d.stopping() {
		return
	}
	log.Warn("the sidecar that was taking over is gone or gave up; this one goes on", "process", who.PID, "error", err)
}

// begin is "" when process pid may take over.
func (d *Door) begin(pid int) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return "it is stopping: start the new one when it has ended"
	case d.taker != 0:
		return fmt.Sprintf("process %d is taking over already: wait until it has, and start again", d.taker)
	}
	d.taker = pid
	return ""
}

func (d *Door) stopping() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

func (d *Door) end(left bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left = left; !left {
		d.taker = 0
	}
	return left
}

// handOver answers until the other process serves. An error: it does not.
func (d *Door) handOver(nc *net.UnixConn, version int) error {
	if err := send(nc, reply{Version: version, Hello: &d.cfg.Self}, nil); err != nil {
		return err
	}
	_ = nc.SetDeadline(time.Now().Add(TakeLimit + 2*replyTimeout))
	for {
		var q request
		if err := receive(nc, &q, nil); err != nil {
			return err
		}
		switch {
		case q.Socket != nil:
			c := syscall.Conn(d.l)
			if q.Socket.Kind != door {
				c = d.cfg.Socket(*q.Socket)
			}
			err := send(nc, reply{Found: c != nil}, c)
			if c != nil && errors.Is(err, net.ErrClosed) { // the policy has just taken it away
				err = send(nc, reply{}, nil)
			}
			if err != nil {
				return err
			}
		case q.Commit != nil:
			_ = d.l.Close()
			d.cfg.Left()
			_ = send(nc, reply{Left: true}, nil) // whether it hears of it or not: it has said that it serves
			return nil
		default:
			_ = send(nc, reply{Error: "it does not know this request"}, nil)
		}
	}
}

// Taking is from one process that runs. Its methods are safe for concurrent use.
type Taking struct {
	begun time.Time

	mu   sync.Mutex
	nc   *net.UnixConn
	from Hello
	gone error // why there is nobody to ask any more
}

// take says hello and asks for the door.
func take(cfg Config, nc *net.UnixConn) (*Door, *Taking, error) {
	t := &Taking{nc: nc, begun: time.Now()}
	fail := func(err error) (*Door, *Taking, error) {
		_ = nc.Close()
		return nil, nil, fmt.Errorf("a sidecar with state directory %s runs already, and this one cannot take over from it: %w", cfg.Dir, err)
	}
	if err := trusted(nc); err != nil {
		return fail(err)
	}
	r, _, err := t.ask(request{Hello: &hello{Hello: cfg.Self, Versions: versions, Workload: cfg.Workload}})
	switch {
	case err != nil:
		return fail(err)
	case r.Error != "":
		return fail(fmt.Errorf("%w: %s", ErrRefused, r.Error))
	case !slices.Contains(versions, r.Version) || r.Hello == nil:
		return fail(fmt.Errorf("%w: it chose version %d of the protocol, which is not spoken here", ErrRefused, r.Version))
	}
	t.from = *r.Hello
	l, err := t.Socket(Socket{Workload: cfg.Workload, Kind: door})
	if err != nil {
		return fail(err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return fail(errors.New("it has no door to hand over"))
	}
	return &Door{cfg: cfg, l: ul}, t, nil
}

// From is who is being replaced.
func (t *Taking) From() Hello { return t.from }

// Socket asks for a listening socket; nil when the other process has none, or is gone.
func (t *Taking) Socket(s Socket) (net.Listener, error) {
	r, f, err := t.ask(request{Socket: &s})
	if f != nil {
		defer f.Close()
	}
	switch {
	case err != nil:
		return nil, nil //nolint:nilnil // there is nobody to have it from: it is opened
	case r.Error != "":
		return nil, fmt.Errorf("handover of %s: %s", s.Address, r.Error)
	case !r.Found || f == nil:
		return nil, nil //nolint:nilnil // not an error: it is opened
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("handover of %s: %w", s.Address, err)
	}
	return l, nil
}

// Commit says that this process serves, and returns when the other one has stopped accepting, or is gone. With ErrLate the other one has given this one up and goes on:
// this one must not serve. After another error this one serves; the error is for people: the other one has not said that it stopped.
func (t *Taking) Commit() error {
	if time.Since(t.begun) > TakeLimit+replyTimeout {
		t.Close()
		return ErrLate
	}
	defer t.Close()
	r, _, err := t.askWithin(request{Commit: &struct{}{}}, commitTimeout)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("process %d has not stopped accepting in %s; both accept until it does", t.from.PID, commitTimeout)
	case err != nil: // it is gone, or is stopping by itself
		return nil
	case !r.Left:
		return fmt.Errorf("process %d does not stop accepting: %s", t.from.PID, r.Error)
	}
	return nil
}

// Close gives up, if Commit was not called: the other process goes on. It may be called several times.
func (t *Taking) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endLocked(net.ErrClosed)
}

func (t *Taking) endLocked(err error) {
	if t.gone == nil {
		t.gone = err
		_ = t.nc.Close()
	}
}

func (t *Taking) ask(q request) (r reply, f *os.File, err error) { return t.askWithin(q, replyTimeout) }

func (t *Taking) askWithin(q request, limit time.Duration) (r reply, f *os.File, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone != nil {
		return r, nil, t.gone
	}
	_ = t.nc.SetDeadline(time.Now().Add(limit))
	if err = send(t.nc, q, nil); err == nil {
		err = receive(t.nc, &r, &f)
	}
	if err != nil {
		t.endLocked(err)
	}
	return r, f, err
}

// trusted refuses processes of other users.
func trusted(nc *net.UnixConn) error {
	raw, err := nc.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var asked error
	if err := raw.Control(func(fd uintptr) { cred, asked = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if asked != nil {
		return fmt.Errorf("SO_PEERCRED: %w", asked)
	}
	if self := os.Geteuid(); int(cred.Uid) != self && cred.Uid != 0 {
		return fmt.Errorf("process %d is of user %d, this one of user %d: run both as the same user", cred.Pid, cred.Uid, self)
	}
	return nil
}

// send writes one message, with a copy of the descriptor of c when there is one. The descriptor is not touched otherwise: whether it blocks is a
// property that copies share, so File, which is allowed to change it, is not for this.
func send(nc *net.UnixConn, m any, c syscall.Conn) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	write := func(oob []byte) error {
		n, _, err := nc.WriteMsgUnix(b, oob, nil)
		if err == nil && n < len(b) {
			err = errors.New("a message was cut")
		}
		return err
	}
	if c == nil {
		return write(nil)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var wrote error
	if err := raw.Control(func(fd uintptr) { wrote = write(unix.UnixRights(int(fd))) }); err != nil {
		return err
	}
	return wrote
}

// receive reads one message into m, and the descriptor that came with it, if any, into f.
func receive(nc *net.UnixConn, m any, f **os.File) error {
	b, oob := make([]byte, packetBytes), make([]byte, unix.CmsgSpace(4))
	n, oobn, flags, _, err := nc.ReadMsgUnix(b, oob)
	if err != nil {
		return err
	}
	got, err := descriptors(oob[:oobn])
	if err != nil {
		return err
	}
	if f != nil && len(got) == 1 {
		*f, got = os.NewFile(uintptr(got[0]), "handed over"), nil
	}
	for _, fd := range got {
		_ = unix.Close(fd)
	}
	switch {
	case n == 0:
		return errors.New("the other process is gone")
	case flags&unix.MSG_TRUNC != 0:
		return fmt.Errorf("a message is longer than %d bytes", packetBytes)
	}
	return json.Unmarshal(b[:n], m)
}

func descriptors(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var out []int
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err == nil {
			out = append(out, fds...)
		}
	}
	return out, nil
}
