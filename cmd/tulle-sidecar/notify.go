package main

import (
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
)

// notify tells systemd, or whoever understands the same, how the service is (sd_notify(3)): a datagram to $NOTIFY_SOCKET. Nobody waits for the
// answer, and there is none.
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: path}) // a leading @ is an abstract name, for Go too
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	_, _ = c.Write([]byte(state))
}

// parentEnv names the descriptor on which a sidecar tells the process that launched it how it is.
const parentEnv = "TULLE_PARENT_FD"

// What it tells, one byte each.
const (
	parentReady byte = 'r' // it serves, and has taken over if there was somebody to take over from
	parentQuit  byte = 'q' // POST /quit was asked for
)

// parent is the pipe to the process that launched this one; nil: there is none.
var parent = sync.OnceValue(func() *os.File {
	fd, err := strconv.Atoi(os.Getenv(parentEnv))
	if err != nil || fd < 3 {
		return nil
	}
	_ = os.Unsetenv(parentEnv)
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "parent")
})

// tellParent is false when there is no parent.
func tellParent(what byte) bool {
	f := parent()
	if f == nil {
		return false
	}
	_, err := f.Write([]byte{what})
	return err == nil
}

// limpOnSignal lets the parent make the sidecar say that it is not ready, before the parent stops the application.
func limpOnSignal(l *life) (stop func()) {
	if parent() == nil {
		return func() {}
	}
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, syscall.SIGUSR1)
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case <-usr1:
				l.limp()
			case <-ended:
				return
			}
		}
	}()
	return func() {
		signal.Stop(usr1)
		close(ended)
	}
}
