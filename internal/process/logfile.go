//go:build unix

package process

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// LogFile is a log of bounded size: when it reaches its limit it is renamed to NAME.1 (replacing the one before) and begun afresh, so that it
// never takes more than twice the limit. Safe for concurrent use.
type LogFile struct {
	mu    sync.Mutex
	path  string
	limit int64
	size  int64
	file  *os.File
}

// DefaultLogLimit is the limit of OpenLog when 0 is given: 4 MiB.
const DefaultLogLimit = 4 << 20

// OpenLog begins the log at path, emptying what was there, with mode 0600 in a folder made with 0700.
func OpenLog(path string, limit int64) (*LogFile, error) {
	if limit <= 0 {
		limit = DefaultLogLimit
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	l := &LogFile{path: path, limit: limit}
	_ = os.Remove(path + ".1")
	return l, l.open()
}

func (l *LogFile) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	l.file, l.size = f, 0
	return nil
}

// Write appends b. A full disk loses the text, not the writer: the child that logs must live on, so errors are swallowed.
func (l *LogFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return len(b), nil
	}
	if l.size+int64(len(b)) > l.limit && l.size > 0 {
		l.file.Close()
		l.file = nil
		_ = os.Rename(l.path, l.path+".1")
		if l.open() != nil {
			return len(b), nil
		}
	}
	n, _ := l.file.Write(b)
	l.size += int64(n)
	return len(b), nil
}

// Close ends the log; later writes are discarded.
func (l *LogFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
