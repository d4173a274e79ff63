package local

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Compaction keeps the number of blocks bounded and brings the spans of a trace together again: blocks of one hour are merged, and once a window
// (a day, see window) is over, its blocks are. What comes out has at most maxSpans spans.
//
// A merge travels: plan chooses neighbours in commit order; merge (merge.go) writes their spans, trace by trace, into a temporary file; publish
// renames it; retire removes the old files once no reader can still want them.
//
// What must stay true:
//  1. The rename of the new file is the moment at which it takes the place of the old ones, on disk and, in one step under mu, in memory. Its
//     description names the files that it replaces, so whoever finds both at a start serves the new one and removes the others.
//  2. A block is merged again only when what it replaced is durably gone (leftover is empty): the names need not be carried on.
//  3. Retention, damage and publish exclude each other (changes): what retention or damage took out of service meanwhile does not come back by a merge.
//  4. Readers that began before the exchange still find the old files; they are counted by epoch (pin).
//  5. Compaction delays nobody: it holds no lock that writing, sealing or reading waits for but at the exchange, it works at most share of the time,
//     and a tenth of it while a block waits to be sealed. What it holds in memory is bounded by maxSpans and maxInputs.
type compaction struct {
	maxSpans  int           // in a merged block
	maxBytes  int64         // of the files merged at once
	maxInputs int           // files merged at once
	fanIn     int           // sealed blocks of the present hour that are merged without waiting for its end
	grace     time.Duration // after the end of an hour, until no block of it is to come
	share     float64       // of one core, (0, 1]; 1 does not wait for the sealer either
	every     time.Duration // between two looks
	retry     time.Duration // after a failure
	window    time.Duration // that a merged block may span; 0: by the retention, see window
}

// compactionDefaults are for use; tests choose others.
var compactionDefaults = compaction{
	maxSpans: 280_000, maxBytes: 256 << 20, maxInputs: 64, fanIn: 8, grace: 2 * time.Minute, share: 0.5, every: 30 * time.Second, retry: time.Minute,
}

// Levels of a block: how far compaction has come with it.
const (
	levelSealed  = 0
	levelHour    = 1 // merged inside its hour
	levelWindow  = 2 // merged inside its window
	levelThinned = 3 // without what thinning left out
)

// windows are the lengths of time that one block may span, in hours; all divide a day.
var windows = []int{24, 12, 8, 6, 4, 3, 2, 1}

// window is the longest that one block may span: at most a day, and at most a seventh of the retention, so that a block, which goes as a whole
// when its latest batch is too old, keeps its first no longer than a seventh beyond what was asked.
func window(retain time.Duration) time.Duration {
	for _, h := range windows {
		if w := time.Duration(h) * time.Hour; w <= retain/7 {
			return w
		}
	}
	return time.Hour
}

// job is a merge to be done: neighbours in commit order.
type job struct {
	in    []*block
	level int
	dir   string // below blocks/
	thin  bool
}

// partition is the span of time of length d in which a block's last batch arrived, as its beginning in unix ns.
func (b *block) partition(d time.Duration) int64 { return b.meta.Received - b.meta.Received%int64(d) }

// plan chooses the next merge, nil for none. blocks are in commit order. It decides by its arguments alone, and it comes to an end: applied again
// and again, without new blocks, it returns nil.
func (c *compaction) plan(blocks []*block, t thinPlan, now time.Time) *job {
	for _, s := range []struct {
		length   time.Duration
		from, to int // levels that are merged, into a block of level to
	}{{time.Hour, levelSealed, levelHour}, {t.window, levelSealed, levelWindow}, {t.window, levelThinned, levelThinned}} {
		for i := 0; i < len(blocks); {
			at := blocks[i].partition(s.length)
			j := i
			for j < len(blocks) && blocks[j].partition(s.length) == at && blocks[j].meta.Level >= s.from && blocks[j].meta.Level <= s.to {
				j++
			}
			if j == i {
				i++
				continue
			}
			over := now.UnixNano() >= at+int64(s.length)+int64(c.grace)
			if in := c.choose(blocks[i:j], s.to, over); in != nil {
				return &job{in: in, level: s.to, dir: partitionDir(at, s.length)}
			}
			i = j
		}
	}
	if !t.now {
		return nil
	}
	return c.thin(blocks, t, now)
}

func partitionDir(at int64, length time.Duration) string {
	t := time.Unix(0, at).UTC()
	if length == 24*time.Hour {
		return t.Format("2006-01-02")
	}
	return t.Format(hourFormat)
}

const hourFormat = "2006-01-02T15"

// choose finds neighbours in one partition that are to become one block: what fits together from the left, when the next one does not fit any more or
// the partition is over; in the present hour also fanIn sealed ones.
func (c *compaction) choose(blocks []*block, level int, over bool) []*block {
	if level != levelHour && !over {
		return nil
	}
	for i := 0; i < len(blocks); {
		j, spans, bytes := i, 0, int64(0)
		for j < len(blocks) && blocks[j].settled() && (j == i || spans+blocks[j].meta.Spans <= c.maxSpans && bytes+blocks[j].size <= c.maxBytes && j-i < c.maxInputs) {
			spans += blocks[j].meta.Spans
			bytes += blocks[j].size
			j++
		}
		if j-i > 1 && (over || j < len(blocks)) {
			return blocks[i:j]
		}
		if j-i > 1 {
			k := j
			for k > i && blocks[k-1].meta.Level == levelSealed {
				k--
			}
			if j-k >= c.fanIn {
				return blocks[k:j]
			}
		}
		i = max(j, i+1)
	}
	return nil
}

// settled says that what the block replaced is durably gone. Only the compactor and Open change leftover.
func (b *block) settled() bool { return len(b.leftover) == 0 }

// errStale says that a merge's inputs changed meanwhile; it is planned anew.
var errStale = errors.New("a block went out of service while it was merged")

var errStopped = errors.New("the store is being closed")

// unmerged plans nothing.
var unmerged = compaction{maxSpans: 1, maxInputs: 1, fanIn: math.MaxInt32, share: 1, every: time.Hour, retry: time.Hour}

// compactor merges blocks until the store is closed.
func (db *DB) compactor() {
	defer db.done.Done()
	c := &db.cfg.compaction
	tick := time.NewTicker(c.every)
	defer tick.Stop()
	var quiet time.Time // after a failure: not before
	for {
		select {
		case <-db.compact:
		case <-tick.C:
		case <-db.stop:
			return
		}
		for {
			db.removeRetired()
			if time.Now().Before(quiet) || !db.clearLitter() {
				break
			}
			db.mu.RLock()
			blocks := db.blocks
			db.mu.RUnlock()
			j := c.plan(blocks, db.thinPlan(blocks), time.Now())
			if j == nil || !db.roomFor(j) {
				break
			}
			err := db.merge(j)
			if errors.Is(err, errStopped) {
				return
			}
			db.noteCompaction(j, err)
			if err != nil && !errors.Is(err, errStale) {
				quiet = time.Now().Add(c.retry)
			}
		}
	}
}

func (db *DB) thinPlan(blocks []*block) thinPlan {
	total := uint64(0)
	for _, b := range blocks {
		total += uint64(b.size) //nolint:gosec // a size
	}
	t := thinPlan{now: db.cfg.ThinKeep > 1 && total > db.cfg.ThinBytes, after: db.cfg.ThinAfter, window: db.cfg.compaction.window}
	if t.window == 0 {
		t.window = window(db.cfg.RetainAge)
	}
	return t
}

// roomFor says that the disk has room for the new block beside the old ones; when it is nearly full, retention comes first.
func (db *DB) roomFor(j *job) bool {
	free, size := db.measureFree()
	need := uint64(0)
	for _, b := range j.in {
		need += uint64(b.size) //nolint:gosec // a size
	}
	return size == 0 || free >= need+uint64(minFree*float64(size))
}

func (db *DB) noteCompaction(j *job, err error) {
	msg := ""
	switch {
	case err == nil:
		db.compacted.Add(uint64(len(j.in)))
	case errors.Is(err, errStale):
		return
	default:
		msg = fmt.Sprintf("%d blocks cannot be merged (%v); they are served as they are, and it is tried again%s", len(j.in), err, diskHint(err))
		db.diskEvent("warning", msg, nil)
	}
	db.notes.Lock()
	db.notes.merging = msg
	db.notes.Unlock()
}

// name is the block's place below blocks/, by which descriptions refer to it.
func (b *block) name() string {
	return filepath.Join(filepath.Base(filepath.Dir(b.path)), filepath.Base(b.path))
}

// merge does one job. When it fails, the old blocks are served on.
func (db *DB) merge(j *job) (err error) {
	first, last := j.in[0], j.in[len(j.in)-1]
	dir := filepath.Join(db.blockDir(), j.dir)
	b := &block{path: filepath.Join(dir, fmt.Sprintf("%020d-%020d.%d%s", first.meta.FirstSeq, last.meta.LastSeq, j.level, parquetSuffix))}
	m := &merger{db: db, job: j, pace: pace{db: db, since: time.Now()}}
	defer m.close()
	if err := m.open(); err != nil {
		return err
	}
	if err := m.order(); err != nil {
		return err
	}
	if err := db.fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := db.fs.SyncDir(db.blockDir()); err != nil {
		return err
	}
	tmp := b.path + tmpSuffix
	defer func() {
		if err != nil {
			db.litter = append(db.litter, tmp, b.idx(), b.path)
			db.clearLitter()
		}
	}()
	if err := db.writeBody(tmp, b, m.meta, m.write); err != nil {
		return err
	}
	if err := db.writeIndex(b, m.parts); err != nil {
		return err
	}
	if err := db.checkBlock(tmp, b); err != nil {
		return err
	}
	return db.publish(j, b, tmp)
}

// checkBlock opens the finished file before it takes anybody's place.
func (db *DB) checkBlock(path string, b *block) error {
	f, err := db.fs.OpenFile(path, 0, 0)
	if err != nil {
		return err
	}
	_, err = openParquet(f, &b.meta)
	return errors.Join(err, f.Close())
}

// publish lets b take the place of the job's blocks.
func (db *DB) publish(j *job, b *block, tmp string) error {
	db.changes.Lock()
	defer db.changes.Unlock()
	for _, x := range j.in {
		if x.gone.Load() {
			return errStale
		}
	}
	if err := db.fs.Rename(tmp, b.path); err != nil {
		return err
	}
	if err := db.fs.SyncDir(filepath.Dir(b.path)); err != nil {
		return err
	}
	b.meta.Sequences, b.meta.Replaces = nil, nil
	b.leftover = j.in
	db.mu.Lock()
	kept := slices.DeleteFunc(slices.Clone(db.blocks), func(x *block) bool { return slices.Contains(j.in, x) })
	at, _ := slices.BinarySearchFunc(kept, b.meta.FirstSeq, func(x *block, seq uint64) int {
		if x.meta.FirstSeq < seq {
			return -1
		}
		return 1
	})
	db.blocks = slices.Insert(kept, at, b)
	db.mu.Unlock()
	for _, x := range j.in {
		x.replaced.Store(true)
	}
	db.readers.retire(b)
	return nil
}

// clearLitter removes what a failed merge left behind; nothing is merged before it is gone, so that it can never stand beside another merge of the same
// blocks.
func (db *DB) clearLitter() bool {
	for _, p := range db.litter {
		if err := removeIfThere(db.fs, p); err != nil {
			db.log.Warn("span store: cannot remove what a failed merge of blocks left; it is tried again, and nothing is merged before", "file", p, "error", err)
			return false
		}
	}
	db.litter = nil
	return true
}

// removeRetired removes the files of replaced blocks that nobody reads any more.
func (db *DB) removeRetired() {
	for _, b := range db.readers.idle() {
		db.removeLeftover(b)
	}
}

// removeLeftover makes what b replaced durably gone; on failure b keeps it, and the next start tries again.
func (db *DB) removeLeftover(b *block) {
	dirs := map[string]bool{}
	for _, x := range b.leftover {
		x.gone.Store(true)
		db.cache.drop(x)
		if err := errors.Join(removeIfThere(db.fs, x.path), removeIfThere(db.fs, x.idx())); err != nil {
			db.log.Warn("span store: cannot remove a block that was merged into another; the next start tries again", "block", x.path, "error", err)
			return
		}
		dirs[filepath.Dir(x.path)] = true
	}
	for d := range dirs {
		if err := db.fs.Remove(d); err == nil { // it was empty
			d = filepath.Dir(d)
		}
		if err := db.fs.SyncDir(d); err != nil && !errors.Is(err, fs.ErrNotExist) {
			db.log.Warn("span store: cannot make the removal of merged blocks durable; the next start tries again", "dir", d, "error", err)
			return
		}
	}
	b.leftover = nil
}

// dropReplaced takes blocks out of a start that another one replaces: a crash came between the new block and the removal of the old ones.
func (db *DB) dropReplaced() {
	byName := make(map[string]*block, len(db.blocks))
	for _, b := range db.blocks {
		byName[b.name()] = b
	}
	out := map[*block]bool{}
	for _, b := range db.blocks {
		for _, n := range b.meta.Replaces {
			if x := byName[n]; x != nil && x != b {
				b.leftover = append(b.leftover, x)
				out[x] = true
			}
		}
		b.meta.Replaces = nil
	}
	db.blocks = slices.DeleteFunc(db.blocks, func(b *block) bool { return out[b] })
	for _, b := range db.blocks {
		if len(b.leftover) > 0 {
			db.removeLeftover(b)
		}
	}
}

// readers counts calls that read, by epoch. An exchange of blocks begins a new epoch; calls of earlier ones may still hold the old blocks.
type readers struct {
	mu      sync.Mutex
	epoch   uint64
	in      map[uint64]int // by epoch; no zeros
	retired []retired
	wake    func()
}

// retired is a block whose leftover may be removed once no call of epoch or before runs.
type retired struct {
	b     *block
	epoch uint64
}

// pin counts the caller in; it must call unpin with what it got.
func (r *readers) pin() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.in[r.epoch]++
	return r.epoch
}

func (r *readers) unpin(epoch uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.in[epoch]--; r.in[epoch] > 0 {
		return
	}
	delete(r.in, epoch)
	if len(r.retired) > 0 {
		r.wake()
	}
}

func (r *readers) retire(b *block) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retired = append(r.retired, retired{b, r.epoch})
	r.epoch++
	r.wake()
}

// idle takes the retired blocks that no call holds.
func (r *readers) idle() []*block {
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest := r.epoch
	for e := range r.in {
		oldest = min(oldest, e)
	}
	var out []*block
	r.retired = slices.DeleteFunc(r.retired, func(x retired) bool {
		if x.epoch < oldest {
			out = append(out, x.b)
			return true
		}
		return false
	})
	return out
}

// pace keeps compaction from delaying what matters more. step is called between two pieces of work of at most a page.
type pace struct {
	db    *DB
	since time.Time
}

const (
	paceSlice = 5 * time.Millisecond  // work between two pauses
	paceWait  = 20 * time.Millisecond // between two looks whether the sealer is done
	paceMost  = 9                     // times the work: how long it waits for the sealer, so that it has a tenth of a core even under lasting overload
)

func (p *pace) step() error {
	select {
	case <-p.db.stop:
		return errStopped
	default:
	}
	worked := time.Since(p.since)
	if worked < paceSlice {
		return nil
	}
	if s := p.db.cfg.compaction.share; s < 1 {
		if err := p.pause(time.Duration(float64(worked) * (1 - s) / s)); err != nil {
			return err
		}
		for waited := time.Duration(0); waited < paceMost*worked && p.db.sealing(); waited += paceWait {
			if err := p.pause(paceWait); err != nil {
				return err
			}
		}
	}
	p.since = time.Now()
	return nil
}

func (p *pace) pause(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-p.db.stop:
		return errStopped
	}
}

// sealing says that a block waits to be written and can be: while the sealer fails, compaction need not wait for it.
func (db *DB) sealing() bool {
	db.mu.RLock()
	n := len(db.frozen)
	db.mu.RUnlock()
	if n == 0 {
		return false
	}
	db.notes.Lock()
	defer db.notes.Unlock()
	return db.notes.sealing == ""
}
