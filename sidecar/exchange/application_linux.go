package exchange

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// ApplicationOf asks the kernel which process is at the other end of a Unix socket: that which connected, or of a connected one that which began to listen
// (SO_PEERCRED, unix(7)). What the process did to its ids since then does not show.
func ApplicationOf(c syscall.Conn) (app flow.Application, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return app, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(cerr, err); err != nil {
		return app, fmt.Errorf("SO_PEERCRED: %w", err)
	}
	return flow.Application{Known: true, PID: cred.Pid, UID: cred.Uid, GID: cred.Gid}, nil
}
