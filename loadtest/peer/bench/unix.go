//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The hop between a sidecar and its application, by a Unix socket and by loopback TCP: first the bare system calls, then the same sidecar with either. The
// caller's side is TCP in both cases.

var unixHop = &workload{
	name: "unix", title: "1 KB, 64 keep-alive connections, inbound, to an application at a Unix socket",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.unixHops(w, contest{unit: "request", job: job{Size: 1 << 10, Conns: 64}})
	},
}

var unixRelay = &workload{
	name: "unix-tcp", title: "TCP, 64 connections, a small message there and back, to an application at a Unix socket",
	run: func(r *rig, w *workload) (outcome, error) {
		return r.unixHops(w, contest{unit: "message", setup: setup{tcp: true}, job: job{Size: 64, Conns: 64, Relayed: true}})
	},
}

const loopbackName = "tulle-loopback"

func (r *rig) unixHops(w *workload, c contest) (outcome, error) {
	bare, err := r.bareHops()
	if err != nil {
		return nil, err
	}
	variant := func(name, title string, local bool) *proxy {
		return &proxy{name: name, title: title, traced: !c.setup.tcp, start: func(r *rig, p *proxy, s setup) (*running, error) {
			s.unix = local
			return startTulle(r, p, s)
		}}
	}
	o := r.o
	defer func() { r.o = o }()
	r.o.proxies = []*proxy{
		variant(subject, "Tulle, the application at a Unix socket", true),
		variant(loopbackName, "Tulle, the application at a port of loopback", false),
	}
	c.bars = []bar{{loopbackName, 1}} // must not cost more
	found, err := r.compare(w, c)
	if err != nil {
		return nil, err
	}
	return &hopCosts{found.(*comparison), bare}, nil
}

// hopCosts is a comparison with what the system calls of the hop cost alone.
type hopCosts struct {
	*comparison
	bare [2][]float64 // µs of CPU time to write 1 KB and to read it, by Unix socket and by TCP; of each round
}

func (h *hopCosts) markdown() string {
	local, port := h.bare[0], h.bare[1]
	return h.comparison.markdown() + fmt.Sprintf(
		"\nWriting 1 KB and reading it at the other end, system calls alone, one thread: %.2f µs by a Unix socket, %.2f µs by loopback TCP (medians; %.2f × on medians, %.2f × on the best rounds).\n",
		median(local), median(port), median(local)/median(port), slices.Min(local)/slices.Min(port))
}

// bareHops measures on the proxies' core, in turn.
func (r *rig) bareHops() (bare [2][]float64, err error) {
	path := filepath.Join(r.dir, "bare.sock")
	ln, err := listenUnix(path)
	if err != nil {
		return bare, err
	}
	defer func() {
		shut(ln)
		err = errors.Join(err, unix.Unlink(path))
	}()
	at, err := r.ports.free()
	if err != nil {
		return bare, err
	}
	tcp, err := listen(at)
	if err != nil {
		return bare, err
	}
	defer shut(tcp)
	for range r.o.rounds {
		for i, listening := range []int{ln, tcp} {
			var near int
			if i == 0 {
				near, err = dialUnix(path)
			} else {
				near, err = dial(at, netip.Addr{})
			}
			if err != nil {
				return bare, err
			}
			far, _, err := unix.Accept4(listening, unix.SOCK_CLOEXEC)
			if err != nil {
				shut(near)
				return bare, fmt.Errorf("accept: %w", err)
			}
			cost, err := passed(r.proxyCore, near, far)
			shut(near)
			shut(far)
			if err != nil {
				return bare, err
			}
			bare[i] = append(bare[i], cost)
		}
	}
	r.say("1 KB written and read: %.2f µs by Unix socket, %.2f µs by TCP", median(bare[0]), median(bare[1]))
	return bare, nil
}

// dialUnix connects a blocking socket.
func dialUnix(path string) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	if err = unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		shut(fd)
		return -1, fmt.Errorf("connecting to %s: %w", path, err)
	}
	return fd, nil
}

// passed is the CPU time in µs of a thread on a core that writes 1 KB to near and reads it from far.
func passed(core, near, far int) (float64, error) {
	const times = 200_000
	var cost float64
	err := onCore(core, func() error {
		out, in := pattern(1<<10), make([]byte, 1<<10)
		pass := func(n int) error {
			for range n {
				if k, err := send(near, out); err != nil || k != len(out) {
					return fmt.Errorf("%d of %d bytes were written: %w", k, len(out), err)
				}
				for got := 0; got < len(in); {
					k, err := unix.Read(far, in[got:]) // waits
					if err != nil || k == 0 {
						return fmt.Errorf("read %d bytes: %w", k, err)
					}
					got += k
				}
			}
			return nil
		}
		if err := pass(times / 10); err != nil {
			return err
		}
		before, err := threadTime()
		if err != nil {
			return err
		}
		if err := pass(times); err != nil {
			return err
		}
		after, err := threadTime()
		cost = us(after-before) / times
		return err
	})
	return cost, err
}

// threadTime is the CPU time of the calling thread.
func threadTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("clock of the thread: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
