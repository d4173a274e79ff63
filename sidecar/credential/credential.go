// Package credential holds certificates, keys and trust anchors that live in files, and makes TLS configurations of them: towards hosts outside the mesh (Client),
// and at an edge for callers outside it (Server). The mesh's own identity is not among them; see internal/identity.
//
// Files are read when they are first named, and anew within a second of their change (Store.Run). What cannot be read or does not fit together leaves in force what
// was; a certificate and its key that are replaced one after the other are taken when they match. A configuration follows its files for as long as it is
// used: nothing that is open is touched, and whoever connects next gets what is new. Put a new file in place of the old one by renaming it.
package credential

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Interval is how often files are looked at.
const Interval = time.Second

// maxFile bounds a file: whoever names a device or a log by mistake is told so.
const maxFile = 4 << 20

// Store is the files in use. Safe for concurrent use.
type Store struct {
	log *slog.Logger

	mu    sync.Mutex
	items map[string]*item
	turn  uint64 // of Keep
}

// New makes an empty Store.
func New(log *slog.Logger) *Store { return &Store{log: log, items: map[string]*item{}} }

// item is what one or two files say together.
type item struct {
	what    string   // for people: "certificate /x and key /y"
	paths   []string // of files
	parse   func(content [][]byte) (any, error)
	current atomic.Pointer[any] // nil: never readable
	failed  atomic.Pointer[error]

	// Guarded by Store.mu.
	stamps []stamp
	sum    [sha256.Size]byte
	turn   uint64
}

// stamp changes when a file does, as far as its file system can tell.
type stamp struct {
	size    int64
	changed time.Time
	info    fs.FileInfo
}

func stampOf(path string) (stamp, error) {
	i, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	return stamp{i.Size(), i.ModTime(), i}, nil
}

func (s stamp) same(o stamp) bool {
	return s.info != nil && o.info != nil && s.size == o.size && s.changed.Equal(o.changed) && os.SameFile(s.info, o.info)
}

// get is the item of some files, read if it is new.
func (s *Store) get(key, what string, parse func([][]byte) (any, error), paths ...string) *item {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.items[key]
	if i == nil {
		i = &item{what: what, paths: paths, parse: parse, stamps: make([]stamp, len(paths))}
		s.items[key] = i
		s.readLocked(i)
	}
	i.turn = s.turn
	return i
}

// Keep forgets what is not asked for within use: the files of configurations that are not made anew. Configurations that are still in use keep what they have.
func (s *Store) Keep(use func()) {
	s.mu.Lock()
	s.turn++
	s.mu.Unlock()
	use()
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, i := range s.items {
		if i.turn != s.turn {
			delete(s.items, key)
		}
	}
}

// Run looks at the files every Interval until ctx is done.
func (s *Store) Run(ctx context.Context) {
	t := time.NewTicker(Interval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.Refresh()
		}
	}
}

// Refresh reads what has changed.
func (s *Store) Refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range s.items {
		changed := i.failed.Load() != nil
		for k, path := range i.paths {
			now, err := stampOf(path)
			changed = changed || err != nil || !now.same(i.stamps[k])
		}
		if changed {
			s.readLocked(i)
		}
	}
}

// Problems say what is wrong with files, each with what to do; empty when all is well.
func (s *Store) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, i := range s.items {
		if err := i.failed.Load(); err != nil {
			out = append(out, (*err).Error())
		}
	}
	slices.Sort(out)
	return out
}

func (s *Store) readLocked(i *item) {
	v, sum, err := i.read()
	before := i.failed.Load()
	if err != nil {
		if i.current.Load() != nil {
			err = fmt.Errorf("%w; what was there before stays in force", err)
		}
		if before == nil || (*before).Error() != err.Error() {
			s.log.Error("cannot use a file", "err", err)
		}
		i.failed.Store(&err)
		return
	}
	i.failed.Store(nil)
	if i.current.Load() != nil && sum == i.sum {
		return
	}
	if i.current.Load() != nil || before != nil {
		s.log.Info("took what is new in files", "what", i.what)
	}
	i.sum = sum
	i.current.Store(&v)
}

// read reads all files of i. What it reads may be of two moments; then it does not fit together, or is read again because a stamp has changed.
func (i *item) read() (v any, sum [sha256.Size]byte, err error) {
	content := make([][]byte, len(i.paths))
	h := sha256.New()
	for k, path := range i.paths {
		if i.stamps[k], err = stampOf(path); err == nil {
			content[k], err = readFile(path, i.stamps[k].info)
		}
		if err != nil {
			i.stamps[k] = stamp{}
			return nil, sum, fmt.Errorf("%s: %w; %s", i.what, err, advice(err))
		}
		fmt.Fprintf(h, "%d ", len(content[k]))
		_, _ = h.Write(content[k])
	}
	if v, err = i.parse(content); err != nil {
		return nil, sum, fmt.Errorf("%s: %w", i.what, err)
	}
	h.Sum(sum[:0])
	return v, sum, nil
}

var errNoFile = errors.New("it is no regular file of at most 4 MiB")

func readFile(path string, info fs.FileInfo) ([]byte, error) {
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s: %w", path, errNoFile)
	}
	return os.ReadFile(path)
}

func advice(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "put it there, on the host of the sidecar, or correct the path in the configuration"
	case errors.Is(err, fs.ErrPermission):
		return "let the user of the sidecar read it"
	}
	return "correct the path in the configuration"
}

// value is what i's files say now, or why they say nothing.
func value[T any](i *item) (v T, err error) {
	if p := i.current.Load(); p != nil {
		return (*p).(T), nil
	}
	if p := i.failed.Load(); p != nil {
		return v, *p
	}
	return v, fmt.Errorf("%s: not read yet", i.what)
}

// pair is a certificate with its chain, and its key.
func (s *Store) pair(cert, key string) *item {
	return s.get("pair\x00"+cert+"\x00"+key, "certificate "+cert+" and key "+key, func(c [][]byte) (any, error) {
		p, err := tls.X509KeyPair(c[0], c[1])
		if err != nil {
			return nil, fmt.Errorf("%s; both must be PEM, and the key that of the first certificate", strings.TrimPrefix(err.Error(), "tls: "))
		}
		return &p, nil
	}, cert, key)
}

// anchors are the certificates of authorities.
func (s *Store) anchors(file string) *item {
	return s.get("anchors\x00"+file, "trust anchors "+file, func(c [][]byte) (any, error) {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(bytes.TrimSpace(c[0])) {
			return nil, errors.New("there is no certificate in it; write PEM (-----BEGIN CERTIFICATE-----)")
		}
		return pool, nil
	}, file)
}
