package local

import (
	"container/list"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// cache bounds what is kept of blocks in memory: open files with their footers, which traces a block has, and chunks of trace summaries. Safe for concurrent use.
type cache struct {
	fs FS

	mu     sync.Mutex
	files  lru[*block, *blockFile]
	tables lru[*block, *traces]
	chunks lru[chunkKey, []*part]
}

// chunkKey names a chunk by the table that led to it: what is kept of a sidecar that was made anew is not found any more, and goes with time.
type chunkKey struct {
	table uint64
	k     int
}

const (
	maxOpenFiles  = 64
	maxTableBytes = 48 << 20 // about 1.8 million traces
	maxChunkBytes = 16 << 20 // about 130 chunks
)

func newCache(fsys FS) *cache {
	c := &cache{fs: fsys}
	c.files.max, c.tables.max, c.chunks.max = maxOpenFiles, maxTableBytes, maxChunkBytes
	return c
}

func (c *cache) open(b *block) (*blockFile, error) {
	c.mu.Lock()
	if bf, ok := c.files.get(b); ok {
		bf.refs++
		c.mu.Unlock()
		return bf, nil
	}
	c.mu.Unlock()
	f, err := c.fs.OpenFile(b.path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	bf, err := openParquet(f, &b.meta)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	bf.refs = 1
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.gone.Load() {
		bf.evict = true
	} else if _, ok := c.files.get(b); ok { // somebody else was faster: use ours once
		bf.evict = true
	} else {
		for _, old := range c.files.put(b, bf, 1) {
			old.evictLocked()
		}
	}
	return bf, nil
}

// evictLocked closes it as soon as nobody reads it; the cache is locked.
func (bf *blockFile) evictLocked() {
	if bf.evict = true; bf.refs == 0 {
		_ = bf.f.Close()
	}
}

func (c *cache) release(bf *blockFile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bf.refs--; bf.refs == 0 && bf.evict {
		_ = bf.f.Close()
	}
}

// lacks says that the block does not have the trace, though its filter says so of one in a thousand that it lacks. Among thousands of blocks there are several of those for each
// trace, and what they have is not worth keeping. It is false where that is not known: whoever reads further meets the reason.
func (c *cache) lacks(b *block, id flow.TraceID) bool {
	c.mu.Lock()
	_, kept := c.tables.get(b)
	c.mu.Unlock()
	if kept {
		return false
	}
	has := true
	err := c.sidecar(b, func(f File) (err error) { has, err = hasID(f, id); return err })
	return err == nil && !has
}

func (c *cache) traces(b *block) (*traces, error) {
	c.mu.Lock()
	t, ok := c.tables.get(b)
	c.mu.Unlock()
	if ok {
		return t, nil
	}
	err := c.sidecar(b, func(f File) (err error) { t, err = readTraces(f); return err })
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if have, ok := c.tables.get(b); ok {
		return have, nil
	}
	if !b.gone.Load() {
		c.tables.put(b, t, t.bytes())
	}
	return t, nil
}

func (c *cache) chunk(b *block, t *traces, k int) ([]*part, error) {
	key := chunkKey{t.serial, k}
	c.mu.Lock()
	ps, ok := c.chunks.get(key)
	c.mu.Unlock()
	if ok {
		return ps, nil
	}
	if err := c.sidecar(b, func(f File) (err error) { ps, err = readChunk(f, t, k); return err }); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !b.gone.Load() {
		c.chunks.put(key, ps, partBytes*len(ps))
	}
	return ps, nil
}

func (c *cache) sidecar(b *block, read func(File) error) error {
	f, err := c.fs.OpenFile(b.idx(), os.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", errIndex, err)
	}
	return errors.Join(read(f), f.Close())
}

// remade takes what was derived from the block in the place of what its sidecar said.
func (c *cache) remade(b *block, t *traces) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !b.gone.Load() {
		c.tables.put(b, t, t.bytes())
	}
}

func (c *cache) drop(b *block) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bf, ok := c.files.drop(b); ok {
		bf.evictLocked()
	}
	c.tables.drop(b)
}

func (c *cache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.files.max = 0
	for _, bf := range c.files.trim() {
		bf.evictLocked()
	}
}

// lru keeps what was used last, as much as fits max. The zero value has room for nothing.
type lru[K comparable, V any] struct {
	max, total int
	order      list.List // of *weighed[K, V], the most recent first
	by         map[K]*list.Element
}

type weighed[K comparable, V any] struct {
	key  K
	val  V
	size int
}

func (l *lru[K, V]) get(k K) (v V, ok bool) {
	e, ok := l.by[k]
	if !ok {
		return v, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*weighed[K, V]).val, true
}

// put keeps v in the place of what there is by that key, and returns what had to go for it. What alone is greater than all the room is kept until the next comes.
func (l *lru[K, V]) put(k K, v V, size int) (out []V) {
	if old, ok := l.drop(k); ok {
		out = append(out, old)
	}
	if l.by == nil {
		l.by = map[K]*list.Element{}
	}
	l.by[k] = l.order.PushFront(&weighed[K, V]{k, v, size})
	l.total += size
	for l.total > l.max && l.order.Len() > 1 {
		e := l.order.Back().Value.(*weighed[K, V])
		l.drop(e.key)
		out = append(out, e.val)
	}
	return out
}

func (l *lru[K, V]) drop(k K) (v V, ok bool) {
	e, ok := l.by[k]
	if !ok {
		return v, false
	}
	x := l.order.Remove(e).(*weighed[K, V])
	delete(l.by, k)
	l.total -= x.size
	return x.val, true
}

// trim lets go of what does not fit, be it the last.
func (l *lru[K, V]) trim() (out []V) {
	for l.total > l.max {
		e := l.order.Back().Value.(*weighed[K, V])
		l.drop(e.key)
		out = append(out, e.val)
	}
	return out
}
