//go:build unix

package file

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A pipe among the files has no end to read up to; it is refused and the others are read.
func TestPipeIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "p.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	type result struct {
		files map[string]seen
		err   error
	}
	done := make(chan result, 1)
	go func() {
		files, _, err := (&Source{Dir: dir}).scan(nil)
		done <- result{files, err}
	}()
	select {
	case r := <-done:
		docs := documents(r.files)
		if r.err != nil || len(docs) != 1 || docs[0].Err == nil || !strings.Contains(docs[0].Err.Error(), "regular file") {
			t.Errorf("%v, %v", docs, r.err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the pipe is waited for")
	}
}
