//go:build unix

package demo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// marker is the file that makes a folder a data directory of the demo; nothing without it is ever removed.
const marker = ".tulle-demo"

// dataDir is an opened data directory, locked for this process.
type dataDir struct {
	path string
	lock *os.File
}

// ErrInUse is returned when another demo runs in the same data directory.
var ErrInUse = errors.New("another demo is running there")

// DefaultDataDir is tulle/demo in the user's cache folder.
func DefaultDataDir() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder for the demo's data: %w; name one with --data-dir", err)
	}
	return filepath.Join(cache, "tulle", "demo"), nil
}

// openDataDir makes or reuses a data directory and locks it. What an earlier run left is removed unless keep is set. It refuses folders
// that hold anything else.
func openDataDir(path string, keep bool) (*dataDir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w; choose another with --data-dir", err)
	}
	if err := checkOurs(path); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(path, marker), []byte("data of 'tulle demo'; 'tulle demo --clean' removes this folder\n"), 0o600); err != nil {
		return nil, fmt.Errorf("data directory: %w; choose another with --data-dir", err)
	}
	d := &dataDir{path: path}
	if err := d.acquire(); err != nil {
		return nil, err
	}
	if !keep {
		if err := d.empty(); err != nil {
			d.close()
			return nil, err
		}
	}
	return d, nil
}

// checkOurs accepts an empty folder or one with our marker.
func checkOurs(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	if len(entries) == 0 {
		return nil
	}
	info, err := os.Lstat(filepath.Join(path, marker))
	if err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("%s holds files that are not the demo's (it has no %s file); it is left alone. Name an empty folder with --data-dir", path, marker)
	}
	return nil
}

func (d *dataDir) lockFile() string { return filepath.Join(d.path, "demo.lock") }

// acquire takes the lock. The file is removed on release, so after locking it must still be the one at the path.
func (d *dataDir) acquire() error {
	for range 10 {
		f, err := os.OpenFile(d.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("lock: %w", err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			holder, _ := os.ReadFile(d.lockFile())
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				who := ""
				if pid := strings.TrimSpace(string(holder)); pid != "" {
					who = " (process " + pid + ")"
				}
				return fmt.Errorf("%s: %w%s: stop it with Ctrl-C in its terminal, or name another folder with --data-dir", d.path, ErrInUse, who)
			}
			return fmt.Errorf("lock %s: %w", d.lockFile(), err)
		}
		mine, err1 := f.Stat()
		there, err2 := os.Stat(d.lockFile())
		if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
			f.Close() // its last owner removed it between open and lock
			continue
		}
		_ = f.Truncate(0)
		_, _ = fmt.Fprintln(f, os.Getpid())
		d.lock = f
		return nil
	}
	return fmt.Errorf("lock %s: it keeps changing hands", d.lockFile())
}

// empty removes everything but marker and lock.
func (d *dataDir) empty() error {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == marker || e.Name() == filepath.Base(d.lockFile()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(d.path, e.Name())); err != nil {
			return fmt.Errorf("removing what the last run left: %w", err)
		}
	}
	return nil
}

// close removes and releases the lock.
func (d *dataDir) close() {
	if d.lock == nil {
		return
	}
	_ = os.Remove(d.lockFile())
	d.lock.Close()
	d.lock = nil
}

func (d *dataDir) join(parts ...string) string {
	return filepath.Join(append([]string{d.path}, parts...)...)
}

// Clean removes a data directory of the demo. It returns false when there was none, ErrInUse while a demo runs in it, and an error,
// removing nothing, when the folder is not the demo's.
func Clean(path string) (removed bool, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return false, err
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !info.IsDir():
		return false, fmt.Errorf("%s is not a folder; it is left alone", path)
	}
	if err := checkOurs(path); err != nil {
		return false, err
	}
	d := &dataDir{path: path}
	if err := d.acquire(); err != nil {
		return false, err
	}
	defer d.close()
	if err := d.empty(); err != nil {
		return false, err
	}
	_ = os.Remove(d.lockFile())
	_ = os.Remove(filepath.Join(path, marker))
	if err := os.Remove(path); err != nil {
		return false, fmt.Errorf("removing %s: %w", path, err)
	}
	return true, nil
}
