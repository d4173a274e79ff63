package listen

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// errTaken is of a socket where another process listens.
var errTaken = errors.New("is taken")

// OpenUnix listens on a Unix socket of the caller's mount and network namespaces.
//
// A socket's file outlives its process. What is found at u's path is tried: where nobody listens it is removed, where somebody does it is left alone and the
// error says who. Two that open one path at a time cannot take it from each other, because the directory is locked (flock(2)) meanwhile.
func OpenUnix(u *policy.Unix) (net.Listener, error) {
	if u.Abstract() { // ends with its last descriptor
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", u.Path)
		if errors.Is(err, syscall.EADDRINUSE) {
			err = taken(u.Path)
		}
		return l, err
	}
	unlock, err := lockDirectory(filepath.Dir(u.Path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := removeStale(u.Path); err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{Control: permitBefore(u.Mode)}).Listen(context.Background(), "unix", u.Path)
	if err != nil {
		return nil, err
	}
	ul := l.(*net.UnixListener)
	ul.SetUnlinkOnClose(false)
	f := &socketFile{UnixListener: ul, path: u.Path, mode: u.Mode}
	if err = os.Chmod(u.Path, fs.FileMode(u.Mode)); err == nil { // the umask may have taken some of it
		f.file, err = os.Lstat(u.Path)
	}
	if err != nil {
		_ = ul.Close()
		return nil, err
	}
	return f, nil
}

// socketFile is a listening Unix socket with its file. Of its methods only Accept, Close and Addr may be called concurrently.
type socketFile struct {
	*net.UnixListener
	path string
	mode uint32
	file fs.FileInfo // as it was made
	kept bool
	from bool // another process: it may go on with the socket after all
}

// inherited is a listening socket that another process has handed over, with its file if it is a Unix socket that has one.
func inherited(u *policy.Unix, l net.Listener) net.Listener {
	ul, ok := l.(*net.UnixListener)
	if u == nil || !ok || u.Abstract() {
		return l
	}
	f := &socketFile{UnixListener: ul, path: u.Path, from: true}
	if file, err := os.Lstat(u.Path); err == nil {
		f.file = file
	} else {
		f.kept = true // somebody has removed it: who connected goes on, and a restart makes it anew
	}
	ul.SetUnlinkOnClose(false)
	_ = f.permit(u.Mode) // the policy may be another one by now
	return f
}

// keep makes Close leave the file: another process has been given the socket and goes on listening at it.
func (f *socketFile) keep() { f.kept = true }

// Close removes the file, unless it is another one by now, before nobody listens any more: until then nobody takes it for a stale one. Of a socket that was
// handed over it does so only if then nobody listens: who handed it over goes on where this process did not get ready.
func (f *socketFile) Close() error {
	if now, err := os.Lstat(f.path); err != nil || f.kept || !os.SameFile(now, f.file) {
		return f.UnixListener.Close()
	}
	if !f.from {
		_ = os.Remove(f.path)
		return f.UnixListener.Close()
	}
	unlock, err := lockDirectory(filepath.Dir(f.path))
	if err != nil { // a stale file is removed by who listens there next
		return f.UnixListener.Close()
	}
	defer unlock()
	err = f.UnixListener.Close()
	_ = removeStale(f.path)
	return err
}

// permit changes the file's permissions to mode.
func (f *socketFile) permit(mode uint32) error {
	if mode == f.mode {
		return nil
	}
	err := os.Chmod(f.path, fs.FileMode(mode))
	if err == nil {
		f.mode = mode
	}
	return err
}

// removeStale removes the socket at path where nobody listens.
func removeStale(path string) error {
	file, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case file.Mode()&fs.ModeSocket == 0:
		return fmt.Errorf("%w: a file that is no socket is there", errTaken)
	}
	c, err := net.Dial("unix", path)
	switch {
	case err == nil:
		err = takenBy(c)
		_ = c.Close()
		return err
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, fs.ErrNotExist): // it has just been removed
		return nil
	case errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("%w: a process listens there that does not accept", errTaken)
	}
	return fmt.Errorf("%w: whether somebody listens there cannot be found out: %w", errTaken, err)
}

// taken says who listens at path.
func taken(path string) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return fmt.Errorf("%w by another process", errTaken)
	}
	defer c.Close()
	return takenBy(c)
}

func takenBy(c net.Conn) error {
	app, err := exchange.ApplicationOf(c.(*net.UnixConn))
	if err != nil {
		return fmt.Errorf("%w by another process", errTaken)
	}
	if int(app.PID) == os.Getpid() {
		return fmt.Errorf("%w by this process, pid %d, for another workload", errTaken, app.PID)
	}
	return fmt.Errorf("%w by the process with pid %d and uid %d", errTaken, app.PID, app.UID)
}

func adviceUnix(err error) string {
	switch {
	case errors.Is(err, errTaken):
		return "stop what is there, or give the listener another path"
	case errors.Is(err, errBusy):
		return "this clears by itself; if it persists, something else locks the directory: give the listener a directory of its own"
	case errors.Is(err, fs.ErrNotExist):
		return "make the directory, and let the sidecar's user write to it"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return "let the sidecar's user write to the directory"
	}
	return "check the listener's path"
}

// errBusy is of a directory in which another process makes a socket.
var errBusy = errors.New("the directory is locked by another process")
