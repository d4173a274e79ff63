package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/parquet-go/parquet-go"
)

// block is one sealed Parquet file and its sidecar.
type block struct {
	path  string // of the Parquet file
	size  int64  // of both files
	meta  idxMeta
	bloom bloom
	gone  atomic.Bool // removed by retention or set aside: readers that meet it skip it

	replaced atomic.Bool // by another block, which holds its spans: only readers that began before still use it
	leftover []*block    // replaced by this one and perhaps still on disk; see compaction
}

const (
	parquetSuffix = ".parquet"
	idxSuffix     = ".idx"
	tmpSuffix     = ".tmp"
	damagedSuffix = ".damaged"
)

func (b *block) idx() string { return strings.TrimSuffix(b.path, parquetSuffix) + idxSuffix }

// loadBlocks finds the blocks, removes what a crash left half-written, and rebuilds lost sidecars.
func (db *DB) loadBlocks() error {
	hours, err := db.fs.ReadDir(db.blockDir())
	if err != nil {
		return fmt.Errorf("span store: %w", err)
	}
	for _, h := range hours {
		if !h.IsDir() {
			continue
		}
		dir := filepath.Join(db.blockDir(), h.Name())
		files, err := db.fs.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("span store: %w", err)
		}
		have := map[string]bool{}
		for _, f := range files {
			have[f.Name()] = true
		}
		for _, f := range files {
			name := f.Name()
			path := filepath.Join(dir, name)
			switch {
			case strings.HasSuffix(name, tmpSuffix), // never complete
				strings.HasSuffix(name, idxSuffix) && !have[strings.TrimSuffix(name, idxSuffix)+parquetSuffix]: // its block never came
				if err := db.fs.Remove(path); err != nil {
					return fmt.Errorf("span store: remove %s, left over by a crash: %w", path, err)
				}
			case strings.HasSuffix(name, parquetSuffix):
				b, err := db.loadBlock(path)
				switch {
				case errors.Is(err, errBlock), errors.Is(err, fs.ErrNotExist):
					db.damagedBlock(&block{path: path}, err)
					continue
				case err != nil: // not its fault: no memory, no file descriptors, no permission
					return fmt.Errorf("span store: read block %s: %w%s", path, err, diskHint(err))
				}
				db.blocks = append(db.blocks, b)
				db.seen.merge(b.meta.Sequences)
				b.meta.Sequences = nil // only needed here
			}
		}
	}
	slices.SortFunc(db.blocks, byFirstSeq)
	db.dropReplaced()
	return nil
}

func (db *DB) loadBlock(path string) (*block, error) {
	b := &block{path: path}
	st, err := db.fs.Stat(path)
	if err != nil {
		return nil, err
	}
	f, err := db.fs.OpenFile(b.idx(), os.O_RDONLY, 0)
	if err == nil {
		b.meta, b.bloom, err = readIndexFront(f)
		ist, serr := f.Stat()
		if serr == nil {
			b.size = ist.Size() + st.Size()
		}
		err = errors.Join(err, serr, f.Close())
	}
	if err == nil {
		if b.meta.FileSize != st.Size() {
			return nil, fmt.Errorf("%w: %d bytes long, %d were written", errBlock, st.Size(), b.meta.FileSize)
		}
		return b, nil
	}
	db.log.Warn("span store: the sidecar of a block is lost or damaged and is made anew", "block", path, "error", err)
	return db.rebuildIndex(path)
}

func (db *DB) rebuildIndex(path string) (*block, error) {
	f, err := db.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	bf, err := openParquet(f, nil)
	if err != nil {
		return nil, err
	}
	parts, err := bf.rebuild()
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	crc, err := footerCRC(f, st.Size())
	if err != nil {
		return nil, err
	}
	b := &block{path: path, meta: idxMeta{blockMeta: bf.meta, FileSize: st.Size(), FooterCRC: crc}}
	if b.meta.IndexCRC, err = indexCRC(f, st.Size(), bf.pf); err != nil {
		return nil, err
	}
	if err := db.writeIndex(b, parts); err != nil { // the block is whole: it is served, and its summaries are derived each time
		db.log.Warn("span store: cannot write a sidecar anew; the next start tries again", "sidecar", b.idx(), "error", err)
	}
	return b, nil
}

// writeIndex writes the sidecar in place, durably, and sets b's filter and size.
func (db *DB) writeIndex(b *block, parts []*part) error {
	b.bloom = newBloom(len(parts))
	for _, p := range parts {
		b.bloom.add(p.id)
	}
	data, err := encodeIndex(b.meta, b.bloom, parts, cmp.Or(db.cfg.perChunk, chunkTraces))
	if err != nil {
		return err
	}
	b.size = b.meta.FileSize + int64(len(data))
	tmp := b.idx() + tmpSuffix
	if err := writeFile(db.fs, tmp, data); err != nil {
		return errors.Join(err, removeIfThere(db.fs, tmp))
	}
	return db.fs.Rename(tmp, b.idx())
}

func removeIfThere(fsys FS, name string) error {
	if err := fsys.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// writeBlock seals a frozen memtable. The rename of the Parquet file is the moment at which the block exists: the sidecar is there before it.
func (db *DB) writeBlock(m *memtable) (*block, error) {
	hour := filepath.Join(db.blockDir(), time.Unix(0, m.received).UTC().Format(hourFormat))
	if err := db.fs.MkdirAll(hour, 0o700); err != nil {
		return nil, err
	}
	if err := db.fs.SyncDir(db.blockDir()); err != nil {
		return nil, err
	}
	b := &block{path: filepath.Join(hour, fmt.Sprintf("%020d-%020d%s", m.firstSeq, m.lastSeq, parquetSuffix))}
	tmp := b.path + tmpSuffix
	var parts []*part
	meta := m.metaLocked() // frozen: nobody writes
	err := db.writeBody(tmp, b, meta, func(w io.Writer) (err error) {
		parts, err = writeParquet(w, m, meta)
		return err
	})
	if err == nil {
		err = db.writeIndex(b, parts)
	}
	if err == nil {
		err = db.fs.Rename(tmp, b.path)
	}
	if err != nil {
		return nil, errors.Join(err, removeIfThere(db.fs, tmp))
	}
	if err := db.fs.SyncDir(hour); err != nil {
		return nil, err
	}
	b.meta.Sequences = nil
	return b, nil
}

// writeBody makes the file of b, durable but for its name, and notes in b what the sidecar says of it.
func (db *DB) writeBody(tmp string, b *block, meta blockMeta, write func(io.Writer) error) (err error) {
	f, err := db.fs.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		return err
	}
	crc, err := footerCRC(f, st.Size())
	if err != nil {
		return err
	}
	pf, err := parquet.OpenFile(f, st.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return err
	}
	index, err := indexCRC(f, st.Size(), pf)
	if err != nil {
		return err
	}
	b.meta = idxMeta{blockMeta: meta, FileSize: st.Size(), FooterCRC: crc, IndexCRC: index}
	return nil
}

func (db *DB) removeBlock(b *block) {
	b.gone.Store(true)
	db.cache.drop(b)
	err := errors.Join(removeIfThere(db.fs, b.path), removeIfThere(db.fs, b.idx()))
	if err != nil {
		db.log.Warn("span store: cannot remove an expired block; the next start tries again", "block", b.path, "error", err)
	}
	_ = db.fs.Remove(filepath.Dir(b.path)) // the hour, once it is empty
}

// damagedBlock takes a block out of service and renames it, so that somebody can look at it and no start meets it again.
func (db *DB) damagedBlock(b *block, cause error) {
	db.changes.Lock()
	known := b.gone.Swap(true)
	db.mu.Lock()
	db.blocks = slices.DeleteFunc(slices.Clone(db.blocks), func(x *block) bool { return x == b })
	db.mu.Unlock()
	db.changes.Unlock()
	if known {
		return
	}
	db.cache.drop(b)
	if b.replaced.Load() { // another block holds its spans: nothing is lost, and its files are about to go
		return
	}
	aside := b.path + damagedSuffix
	if err := db.fs.Rename(b.path, aside); err != nil {
		db.log.Warn("span store: cannot rename a damaged block", "block", b.path, "error", err)
	}
	_ = db.fs.Remove(b.idx()) // derived; of no use without its block
	spans := "its spans are"
	if b.meta.Spans > 0 {
		spans = fmt.Sprintf("its %d spans are", b.meta.Spans)
	}
	db.reportDamage(fmt.Sprintf("the block %s is damaged (%v); %s not shown, everything else is. It was renamed to %s: check the disk, and delete the file when nobody needs it",
		filepath.Base(b.path), cause, spans, filepath.Base(aside)), aside)
}

// use calls fn with the open block. Damage that fn meets takes the block out of service; it and a block that is gone count as empty: ok is false
// and err nil. Other failures (too many open files, an I/O error) are returned.
func (db *DB) use(b *block, fn func(*blockFile) error) (ok bool, err error) {
	bf, err := db.cache.open(b)
	if err == nil {
		err = fn(bf)
		db.cache.release(bf)
	}
	return db.outcome(b, err)
}

// traces says which traces the block has; nil when it is gone. A sidecar that is lost or damaged is made anew.
func (db *DB) traces(b *block) (*traces, error) {
	t, err := db.cache.traces(b)
	if errors.Is(err, errIndex) {
		if t, err = db.remake(b, err); err == nil {
			return t, nil
		}
	}
	if ok, err := db.outcome(b, err); !ok {
		return nil, err
	}
	return t, nil
}

// chunk are the summaries of the k-th chunk of traces; none when the block is gone.
func (db *DB) chunk(b *block, t *traces, k int) ([]*part, error) {
	if t.whole != nil {
		return t.whole, nil
	}
	ps, err := db.cache.chunk(b, t, k)
	if errors.Is(err, errIndex) {
		per := t.per
		if t, err = db.remake(b, err); err == nil && t != nil {
			return t.whole[min(k*per, len(t.whole)):min((k+1)*per, len(t.whole))], nil
		}
	}
	_, err = db.outcome(b, err)
	return ps, err
}

// summaryAt is the summary of the trace at a place; nil when the block is gone.
func (db *DB) summaryAt(b *block, t *traces, i int) (*part, error) {
	if t.whole != nil {
		return t.whole[i], nil
	}
	ps, err := db.chunk(b, t, i/t.per)
	if err != nil || i%t.per >= len(ps) {
		return nil, err
	}
	return ps[i%t.per], nil
}

// parts are all summaries of the block, in file order; they are not kept.
func (db *DB) parts(b *block) ([]*part, error) {
	f, err := db.fs.OpenFile(b.idx(), os.O_RDONLY, 0)
	if err != nil {
		err = fmt.Errorf("%w: %w", errIndex, err)
	} else {
		var ps []*part
		ps, err = readIndexParts(f)
		if err = errors.Join(err, f.Close()); err == nil {
			return ps, nil
		}
	}
	if errors.Is(err, errIndex) {
		var t *traces
		if t, err = db.remake(b, err); err == nil && t != nil {
			return t.whole, nil
		}
	}
	_, err = db.outcome(b, err)
	return nil, err
}

// remake derives the summaries from the block and writes its sidecar anew. They are kept in memory until the cache has no room: then the new sidecar is read. It is nil
// when the block is gone.
func (db *DB) remake(b *block, cause error) (t *traces, err error) {
	db.log.Warn("span store: the sidecar of a block cannot be used and is derived anew", "block", b.path, "error", cause)
	_, err = db.use(b, func(bf *blockFile) error {
		ps, err := bf.rebuild()
		if err != nil {
			return err
		}
		if err := db.writeIndex(&block{path: b.path, meta: idxMeta{blockMeta: bf.meta, FileSize: b.meta.FileSize, FooterCRC: b.meta.FooterCRC, IndexCRC: b.meta.IndexCRC}}, ps); err != nil {
			db.log.Warn("span store: cannot write a sidecar anew", "block", b.path, "error", err)
		}
		t = tracesOf(ps)
		return nil
	})
	if err == nil && t != nil {
		db.cache.remade(b, t)
	}
	return t, err
}

// blame says what a failure of the Parquet reader means: what the file system refused is no damage of the block.
func blame(err error) error {
	var refused *fs.PathError
	if errors.As(err, &refused) {
		return err
	}
	return fmt.Errorf("%w: %w", errBlock, err)
}

func (db *DB) outcome(b *block, err error) (bool, error) {
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded): // of the search
		return false, err
	case b.gone.Load():
		return false, nil
	case errors.Is(err, errBlock), errors.Is(err, fs.ErrNotExist):
		db.damagedBlock(b, err)
		return false, nil
	default:
		return false, fmt.Errorf("read block %s: %w", b.path, err)
	}
}
