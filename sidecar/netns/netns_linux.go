// Package netns opens sockets in a network namespace that is not the process' own. A socket stays in the namespace where it was made, whoever uses it
// (network_namespaces(7)), so only the making of one happens there, on a thread of its own; it takes CAP_SYS_ADMIN.
//
// Hold it so: Open once, keep the Space as long as sockets may be made, Close. A Space keeps its namespace alive, also when all of its processes have ended. All
// methods but Close are safe for concurrent use.
package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Space is one network namespace.
type Space struct {
	name string
	file *os.File
	info os.FileInfo
	home *os.File // of the process, to come back to
}

// runDir is where ip-netns(8) keeps namespaces by name.
const runDir = "/run/netns"

// path is where name's namespace is: name itself when it is a path, else a file of runDir.
func path(name string) string {
	if strings.ContainsRune(name, '/') {
		return name
	}
	return filepath.Join(runDir, name)
}

// Open finds a namespace by path, such as /proc/PID/ns/net, or by the name that `ip netns add` gave it. The error says what to do.
func Open(name string) (*Space, error) {
	f, err := os.Open(path(name))
	if err != nil {
		return nil, fmt.Errorf("network namespace %s: %w (start what it belongs to, or correct the path)", name, err)
	}
	s := &Space{name: name, file: f}
	if s.info, err = f.Stat(); err == nil {
		s.home, err = os.Open("/proc/thread-self/ns/net") // of the process: its first thread may have been left anywhere
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("network namespace %s: %w", name, err)
	}
	if err := s.Do(func() error { return nil }); err != nil { // what is there is a namespace, and may be entered
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close gives the namespace up. Sockets that were made in it stay.
func (s *Space) Close() {
	_ = s.file.Close()
	_ = s.home.Close()
}

// Gone reports whether the name stands for another namespace by now, or for none.
func (s *Space) Gone() bool {
	now, err := os.Stat(path(s.name))
	return err != nil || !os.SameFile(now, s.info)
}

// AwaitGone looks every so often whether the name stands for another namespace by now, or for none. False: ctx is done.
func (s *Space) AwaitGone(ctx context.Context, every time.Duration) bool {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !s.Gone() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return ctx.Err() == nil
}

// Do calls f on a thread that is in the namespace. f must not wait, and goroutines that it starts are elsewhere.
func (s *Space) Do(f func() error) error {
	done := make(chan error, 1)
	go func() { // so that a thread that cannot come back ends with its goroutine
		runtime.LockOSThread()
		if err := unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- s.explain(err)
			return
		}
		err := f()
		if unix.Setns(int(s.home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

func (s *Space) explain(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("network namespace %s: %w: entering takes CAP_SYS_ADMIN; give it to the process", s.name, err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("network namespace %s: %w: what is there is no network namespace", s.name, err)
	}
	return fmt.Errorf("network namespace %s: %w", s.name, err)
}

// Dial connects by TCP from within the namespace and returns by the deadline of ctx. Only the socket is made there; the wait takes no thread.
func (s *Space) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	a := addr.Addr().Unmap()
	family, to := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(addr.Port())})
	if a.Is4() {
		to.(*unix.SockaddrInet4).Addr = a.As4()
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Port: int(addr.Port()), Addr: a.As16()}
	}
	fd := -1
	err := s.Do(func() (err error) {
		if zone := a.Zone(); zone != "" {
			i, err := net.InterfaceByName(zone)
			if err != nil {
				return err
			}
			to.(*unix.SockaddrInet6).ZoneId = uint32(i.Index) //nolint:gosec // the kernel's
		}
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		return fail(err)
	}
	f := os.NewFile(uintptr(fd), "tcp") //nolint:gosec // a descriptor
	defer f.Close()                     // net.FileConn has a copy
	if err := connect(ctx, f, to); err != nil {
		switch {
		case ctx.Err() != nil:
			err = ctx.Err()
		case errors.Is(err, os.ErrDeadlineExceeded): // the poller was a little sooner than ctx
			err = context.DeadlineExceeded
		}
		return fail(err)
	}
	c, err := net.FileConn(f)
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// connect connects a non-blocking socket, with the wait left to the runtime's poller.
func connect(ctx context.Context, f *os.File, to unix.Sockaddr) error {
	if by, ok := ctx.Deadline(); ok {
		if err := f.SetWriteDeadline(by); err != nil {
			return err
		}
	}
	defer context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	begun := false
	err = raw.Write(func(fd uintptr) bool {
		if !begun {
			begun = true
			switch err := unix.Connect(int(fd), to); {
			case err == nil:
				return true
			case errors.Is(err, unix.EINPROGRESS), errors.Is(err, unix.EINTR):
				return false
			default:
				failed = os.NewSyscallError("connect", err)
				return true
			}
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			failed = os.NewSyscallError("getsockopt", err)
		case code != 0:
			failed = os.NewSyscallError("connect", unix.Errno(code))
		default:
			_, err := unix.Getpeername(int(fd))
			return err == nil // else it was woken for nothing
		}
		return true
	})
	return errors.Join(err, failed)
}
