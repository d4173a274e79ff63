// Package backup copies all that an observer keeps (spans, series, events, silences, who reports) into a directory, while it runs or not, and
// puts such a copy back. Identities and join tokens are not part of it: an observer that is restored elsewhere joins anew.
//
// What never changes is copied by hard links where the file system can, so a copy beside the data takes little space; move it to another disk or
// machine to be safe from the loss of this one.
package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/tulle-mesh/tulle/store/span/local"
)

// Manifest is the file that makes a directory a backup: it is written last.
const Manifest = "BACKUP.json"

// Report says what a backup holds.
type Report struct {
	Time   time.Time    `json:"time"` // everything acknowledged before it is in the copy
	From   string       `json:"from"`
	Spans  local.Copied `json:"spans"`
	Series Series       `json:"series"`
	Files  int          `json:"files"` // of events, alerting and the register of reporters
}

// Series is what was copied of the metrics store.
type Series struct {
	Blocks int `json:"blocks"`
	Log    int `json:"logFiles"`
}

// places are the folders and files of an observer's data directory besides spans and metrics that are copied, as they are; absent ones are left out.
var places = []string{"events", "alert", "registry.pb"}

// Find says where the observer's data directory is, given itself, the data directory of 'tulle server', or the folder spans in one of them; and
// where its spans are.
func Find(dir string) (data, spans string, err error) {
	for _, d := range []string{dir, filepath.Join(dir, "observer")} {
		if isDir(filepath.Join(d, "spans", "blocks")) {
			return d, filepath.Join(d, "spans"), nil
		}
	}
	if isDir(filepath.Join(dir, "blocks")) && isDir(filepath.Join(dir, "wal")) {
		return "", dir, nil
	}
	return "", "", fmt.Errorf("%s is no data directory of an observer: it has no folder spans with blocks in it", dir)
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// Backup copies the data directory dir (see Find) to the directory to, which must be empty or absent. When it fails, to has no manifest and cannot be
// restored.
func Backup(ctx context.Context, dir, to string) (Report, error) {
	r := Report{Time: time.Now().UTC(), From: dir}
	data, spans, err := Find(dir)
	if err != nil {
		return r, err
	}
	if err := emptyDir(to); err != nil {
		return r, err
	}
	if r.Spans, err = local.Backup(ctx, spans, filepath.Join(to, "spans")); err != nil {
		return r, fmt.Errorf("back up the spans in %s: %w", spans, err)
	}
	if data != "" {
		if err := r.series(filepath.Join(data, "metrics"), filepath.Join(to, "metrics")); err != nil {
			return r, fmt.Errorf("back up the series in %s: %w", data, err)
		}
		for _, p := range places {
			if err := r.files(filepath.Join(data, p), filepath.Join(to, p)); err != nil {
				return r, fmt.Errorf("back up %s: %w", filepath.Join(data, p), err)
			}
		}
	}
	m, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return r, err
	}
	if err := write(filepath.Join(to, Manifest), append(m, '\n')); err != nil {
		return r, err
	}
	return r, syncTree(to)
}

// attempts bound how often a listing that changed is read again.
const attempts = 10

// series copies a Prometheus TSDB: its log first, then its blocks, so that samples that become a block meanwhile are in one of them; what is in both
// counts once when the copy is opened.
func (r *Report) series(from, to string) error {
	if !isDir(from) {
		return nil
	}
	for try := 0; ; try++ {
		r.Series.Log = 0
		err := errors.Join(r.log(filepath.Join(from, "wal"), filepath.Join(to, "wal")), r.log(filepath.Join(from, "wbl"), filepath.Join(to, "wbl")))
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || try == attempts { // it was cut meanwhile
			return err
		}
		if err := errors.Join(os.RemoveAll(filepath.Join(to, "wal")), os.RemoveAll(filepath.Join(to, "wbl"))); err != nil {
			return err
		}
	}
	for try := 0; ; try++ {
		fresh, err := r.blocks(from, to)
		if err == nil && fresh == 0 {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) || try == attempts {
			return fmt.Errorf("its blocks change all the time: %w", err)
		}
	}
}

func (r *Report) log(from, to string) error {
	if !isDir(from) {
		return nil
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if strings.HasSuffix(rel, ".tmp") { // a checkpoint that is being made
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path) //nolint:gosec // a file of the observer
		if err != nil {
			return err
		}
		r.Series.Log++
		return write(filepath.Join(to, rel), b)
	})
}

// blocks copies the blocks that are not in the copy yet, and says how many those were.
func (r *Report) blocks(from, to string) (fresh int, err error) {
	entries, err := os.ReadDir(from)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if _, err := ulid.ParseStrict(e.Name()); err != nil || !e.IsDir() || isDir(filepath.Join(to, e.Name())) {
			continue
		}
		tmp := filepath.Join(to, "block.tmp")
		if err := os.RemoveAll(tmp); err != nil {
			return fresh, err
		}
		if err := linkTree(filepath.Join(from, e.Name()), tmp); err != nil {
			return fresh, errors.Join(err, os.RemoveAll(tmp))
		}
		if err := os.Rename(tmp, filepath.Join(to, e.Name())); err != nil {
			return fresh, err
		}
		fresh++
		r.Series.Blocks++
	}
	return fresh, nil
}

func (r *Report) files(from, to string) error {
	st, err := os.Stat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.IsDir() {
		if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
		entries, err := os.ReadDir(from)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := r.files(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
				return err
			}
		}
		return nil
	}
	b, err := os.ReadFile(from) //nolint:gosec // a file of the observer
	if errors.Is(err, fs.ErrNotExist) {
		return nil // expired meanwhile
	}
	if err != nil {
		return err
	}
	if strings.HasSuffix(from, ".jsonl") { // an event that is being written is left out
		b = b[:1+strings.LastIndexByte(string(b), '\n')]
	}
	r.Files++
	return write(to, b)
}

// Restore copies a backup to the directory to, which must be empty or absent: the data directory of an observer that does not run yet.
func Restore(ctx context.Context, from, to string) (Report, error) {
	var r Report
	b, err := os.ReadFile(filepath.Join(from, Manifest)) //nolint:gosec // a file of the backup
	if errors.Is(err, fs.ErrNotExist) {
		return r, fmt.Errorf("%s is no complete backup: it has no %s", from, Manifest)
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read the backup %s: %w", from, err)
	}
	if err := emptyDir(to); err != nil {
		return r, err
	}
	err = filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || rel == Manifest {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		b, err := os.ReadFile(path) //nolint:gosec // a file of the backup
		if err != nil {
			return err
		}
		return write(filepath.Join(to, rel), b)
	})
	if err != nil {
		return r, fmt.Errorf("restore %s: %w; remove %s before the next attempt", from, err, to)
	}
	return r, syncTree(to)
}

// emptyDir makes dir, or says that it is not empty.
func emptyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(files) > 0 {
		return fmt.Errorf("%s is not empty (%s is in it): choose a new directory", dir, files[0].Name())
	}
	return nil
}

func write(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // a file of the copy
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// linkTree copies a folder whose files do not change, by hard links where it can.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		if err := os.Link(path, filepath.Join(to, rel)); err == nil || errors.Is(err, fs.ErrNotExist) {
			return err
		}
		b, err := os.ReadFile(path) //nolint:gosec // a file of the observer
		if err != nil {
			return err
		}
		return write(filepath.Join(to, rel), b)
	})
}

// syncTree makes the names below dir durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return local.OS{}.SyncDir(path)
	})
}
