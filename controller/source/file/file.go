// Package file is a configuration source: a directory of *.yaml and *.yml files, each with one or more documents.
//
// It looks at the directory four times a second (names, sizes and modification times; contents only when one of these changed) instead of
// asking the kernel for events, because that works alike on every file system, through symbolic links and with every editor. It yields the
// whole ordered set of documents at the start and after every change.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/controller/resource"
)

// Interval between two looks.
const Interval = 250 * time.Millisecond

// MaxFileSize bounds one file; a larger one is refused.
const MaxFileSize = 8 << 20

// Source watches one directory.
type Source struct {
	// Dir must exist when Run begins. If it vanishes later, what it last yielded stays in force.
	Dir string
	// Yield is called by Run's goroutine with documents in order of file name, then position. It owns them.
	Yield func([]resource.Document)
	Log   *slog.Logger
}

// seen is what is remembered of a file.
type seen struct {
	size     int64
	modified time.Time
	unread   bool
	docs     []resource.Document
}

// Run yields once, calls ready, and watches until ctx is done.
func (s *Source) Run(ctx context.Context, ready func()) error {
	info, err := os.Stat(s.Dir)
	if err != nil {
		return fmt.Errorf("configuration directory: %w (create it, or name another)", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("configuration directory %s: is a file; name the directory it is in", s.Dir)
	}
	files, _, err := s.scan(nil)
	if err != nil {
		return err
	}
	s.Yield(documents(files))
	ready()
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	lost := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		next, changed, err := s.scan(files)
		if err != nil {
			if !lost {
				s.Log.Error("configuration directory cannot be read; what was read last stays in force", "error", err)
			}
			lost = true
			continue
		}
		lost = false
		files = next
		if changed {
			s.Yield(documents(files))
		}
	}
}

// Read reads files, and the *.yaml and *.yml files of directories, once: documents in order of the arguments, and in each as a Source yields them. What cannot be
// read is a document with an error, a path that is not there an error.
func Read(paths ...string) ([]resource.Document, error) {
	var out []resource.Document
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w (name a file, or a folder with *.yaml files)", err)
		}
		files := map[string]seen{}
		if info.IsDir() {
			if files, _, err = (&Source{Dir: path}).scan(nil); err != nil {
				return nil, fmt.Errorf("configuration: %w", err)
			}
		} else {
			files[path] = load(path, info)
		}
		out = append(out, documents(files)...)
	}
	return out, nil
}

// scan looks at every file and reads those that differ from before.
func (s *Source) scan(before map[string]seen) (after map[string]seen, changed bool, err error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil, false, err
	}
	after = make(map[string]seen, len(entries))
	for _, e := range entries {
		name := e.Name()
		if ext := filepath.Ext(name); strings.HasPrefix(name, ".") || ext != ".yaml" && ext != ".yml" {
			continue
		}
		path := filepath.Join(s.Dir, name)
		info, err := os.Stat(path) // through symbolic links
		if err == nil && info.IsDir() {
			continue
		}
		old, known := before[path]
		switch {
		case err != nil && known && old.unread:
			after[path] = old
		case err != nil:
			after[path] = unreadable(path, err)
			changed = true
		case known && old.size == info.Size() && old.modified.Equal(info.ModTime()):
			after[path] = old
		default:
			after[path] = load(path, info)
			changed = true
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			changed = true
		}
	}
	return after, changed, nil
}

func load(path string, info fs.FileInfo) seen {
	if info.Size() > MaxFileSize {
		f := unreadable(path, fmt.Errorf("has %d bytes, at most %d are read; split it", info.Size(), MaxFileSize))
		f.size, f.modified = info.Size(), info.ModTime()
		return f
	}
	if !info.Mode().IsRegular() { // a pipe would be waited for, and with it every other file
		f := unreadable(path, errors.New("is not a regular file; put the configuration into one"))
		f.size, f.modified = info.Size(), info.ModTime()
		return f
	}
	content, err := os.ReadFile(path)
	if err != nil {
		f := unreadable(path, err)
		f.size, f.modified = info.Size(), info.ModTime()
		return f
	}
	return seen{size: info.Size(), modified: info.ModTime(), docs: resource.Decode(path, content)}
}

func unreadable(path string, err error) seen {
	return seen{unread: true, docs: []resource.Document{{Position: resource.Position{File: path, Line: 1}, Err: err, Hold: true}}}
}

func documents(files map[string]seen) []resource.Document {
	paths := make([]string, 0, len(files))
	for p := range files {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	var out []resource.Document
	for _, p := range paths {
		out = append(out, files[p].docs...)
	}
	return out
}
