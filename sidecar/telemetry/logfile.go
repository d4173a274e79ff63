package telemetry

import (
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"
)

// LogFile is an access log in a file that others may rotate. Every Write goes to the file that has the name: when it was renamed or removed,
// the next Write a second later, and the next one after Reopen, opens the name anew and creates the file. A file that is truncated in place
// (copytruncate) goes on at its new end, because it is opened for appending.
//
// What must stay true: a Write is whole in one file, whatever happens to the name meanwhile; when the name cannot be opened, lines go on to the old
// file, so that a rotation loses none. Safe for concurrent use.
type LogFile struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	f       *os.File
	is      fs.FileInfo // of f
	checked time.Time
	reopen  bool
	closed  bool
}

// checkName is how often a Write asks whether the name is still that of the open file.
const checkName = time.Second

// OpenLogFile opens path for appending and creates it when it is missing.
func OpenLogFile(path string) (*LogFile, error) {
	l := &LogFile{path: path, now: time.Now}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// open replaces the open file; on an error it stays.
func (l *LogFile) open() error {
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("access log: %w (choose a writable file with --access-log-file)", err)
	}
	is, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("access log: %w", err)
	}
	if l.f != nil {
		_ = l.f.Close()
	}
	l.f, l.is, l.checked, l.reopen = f, is, l.now(), false
	return nil
}

// Write implements io.Writer. It belongs to the goroutine that writes the log, so the question about the name holds up nobody else.
func (l *LogFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, fs.ErrClosed
	}
	if l.moved() {
		_ = l.open() // the old file still takes the lines; the next second tries again
	}
	return l.f.Write(b)
}

// moved reports whether the name has to be opened anew.
func (l *LogFile) moved() bool {
	now := l.now()
	if l.reopen {
		l.checked = now
		return true
	}
	if since := now.Sub(l.checked); since >= 0 && since < checkName {
		return false
	}
	l.checked = now
	is, err := os.Stat(l.path)
	return err != nil || !os.SameFile(is, l.is)
}

// Reopen makes the next Write open the name anew; logrotate's postrotate asks for it by SIGHUP.
func (l *LogFile) Reopen() {
	l.mu.Lock()
	l.reopen = true
	l.mu.Unlock()
}

// Close ends the log; later Writes fail.
func (l *LogFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	return l.f.Close()
}
