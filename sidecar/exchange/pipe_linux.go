package exchange

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Pipes are of the kernel: what splice(2) moves from a socket to a socket passes through one, as references to pages. (net.TCPConn's ReadFrom does that, too. It keeps its
// pipe while it waits for bytes, says how many there were only at the end, and has no bound on pipes.)
const (
	pipeSize = 256 << 10 // bytes, or frames of a network card: one in each page
	// maxPipes bounds what is held of sockets whose peers do not read, besides their own buffers, to 32 MiB; idlePipes the descriptors that are kept.
	maxPipes  = 128
	idlePipes = 16

	spliceNonblock = 2 // SPLICE_F_NONBLOCK
	spliceMove     = 1 // SPLICE_F_MOVE
)

// pipe is one that a direction holds, or that waits empty for one.
type pipe struct {
	r, w int
	held int // bytes
}

// pipes are all there are.
var pipes struct {
	mu   sync.Mutex
	idle []*pipe
	open int // idle ones included
}

// splices counts reads into pipes; of tests.
var splices atomic.Uint64

// takePipe is nil when there is none to spare.
func takePipe(room *Room) *pipe {
	if !room.TakeSpare(pipeSize) {
		return nil
	}
	pipes.mu.Lock()
	if n := len(pipes.idle); n > 0 {
		p := pipes.idle[n-1]
		pipes.idle = pipes.idle[:n-1]
		pipes.mu.Unlock()
		return p
	}
	full := pipes.open >= maxPipes
	if !full {
		pipes.open++
	}
	pipes.mu.Unlock()
	var fds [2]int
	if full || unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		if !full {
			pipes.mu.Lock()
			pipes.open--
			pipes.mu.Unlock()
		}
		room.Give(pipeSize)
		return nil
	}
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize) // else it is as large as its user may have it
	return &pipe{r: fds[0], w: fds[1]}
}

// giveBack ends the use of p, and what it holds is lost.
func (p *pipe) giveBack(room *Room) {
	room.Give(pipeSize)
	pipes.mu.Lock()
	keep := p.held == 0 && len(pipes.idle) < idlePipes
	if keep {
		pipes.idle = append(pipes.idle, p)
	} else {
		pipes.open--
	}
	pipes.mu.Unlock()
	if !keep {
		_ = unix.Close(p.r)
		_ = unix.Close(p.w)
	}
}

// pull moves what a socket has into the pipe that is held, one it takes if need be: syscall.EAGAIN when there is nothing, io.EOF at the end,
// errors.ErrUnsupported when it has to be copied, and nothing was moved. The pipe is empty.
func (h *half) pull(fd uintptr) (int, error) {
	if h.pipe == nil {
		if h.pipe = takePipe(h.r.room); h.pipe == nil {
			return 0, errors.ErrUnsupported
		}
	}
	n, err := splice(fd, uintptr(h.pipe.w), pipeSize)
	switch {
	case err == nil && n > 0:
	case err == nil:
		return 0, io.EOF
	case err == syscall.EINVAL, err == syscall.EPERM: //nolint:errorlint // of a system call, which a filter may refuse
		return 0, errors.ErrUnsupported
	default:
		return 0, err
	}
	h.pipe.held = n
	splices.Add(1)
	return n, nil
}

// push moves what p holds into a socket: syscall.EAGAIN when there is no room.
func (p *pipe) push(fd uintptr) (int, error) {
	n, err := splice(uintptr(p.r), fd, p.held)
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF // what it holds would never go
	}
	p.held -= n
	return n, err
}

// splice moves once between descriptors that do not block, one of them a pipe. Like TryRead it does not tell the scheduler.
func splice(from, to uintptr, n int) (int, error) {
	for {
		m, _, errno := syscall.RawSyscall6(syscall.SYS_SPLICE, from, 0, to, 0, uintptr(n), spliceMove|spliceNonblock)
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			return 0, errAgain
		case errno != 0:
			return 0, errno
		}
		return int(m), nil
	}
}

// errAgain is made once, for it is met at every request, and an errno in an interface is garbage.
var errAgain error = syscall.EAGAIN
