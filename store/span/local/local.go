// Package local keeps spans in one directory on this machine: a write-ahead log, a live buffer that is queryable at once, and sealed blocks in
// Apache Parquet that other engines can read (docs/format/wal.md, docs/format/spans.md).
//
// A batch travels: Write encodes it, the one committer goroutine gathers what has come, appends it to the log with one write and one fsync, puts it
// into the live buffer (memtable) and acknowledges. A full or old memtable is frozen together with its log segments; the one
// sealer goroutine writes it as a block (temporary file, fsync, rename, fsync of the directory) and only then releases the segments.
//
// What must stay true:
//  1. A batch is acknowledged after its bytes are on disk (with SyncInterval > 0: after they are with the operating system).
//  2. A refused batch leaves nothing behind: the log is cut back before anything else is written to it.
//  3. Commit sequence numbers grow by one per batch and never repeat. Blocks cover consecutive runs of them, so the
//     log records that a crash left behind after their block was complete are recognised by their number and not stored twice.
//  4. A reader sees a memtable or its block, a block or what it was merged into, never both and never neither: they are exchanged under mu in one step,
//     and the files of replaced blocks stay until the readers that began before have ended (compaction in compact.go).
//  5. Blocks never change. What cannot be read is renamed aside and reported; the rest is served.
//
// One process at a time may have a directory open. Open it with Open, and Close it.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
)

// Config says where spans live and for how long. Only Dir is required.
type Config struct {
	Dir string // created when absent, readable by its owner only; one process at a time
	// SyncInterval 0 means one fsync per group commit, before the acknowledgement. A positive interval acknowledges before the fsync: a crash
	// of the process loses nothing, a crash of the machine loses up to the interval.
	SyncInterval time.Duration
	SealSpans    int               // spans in a block, 1 and up; default 65,536
	SealAge      time.Duration     // oldest span in the live buffer before it is sealed; default 60 s
	RetainBytes  uint64            // sealed bytes on disk; default 10 GiB
	RetainAge    time.Duration     // since a block's last batch arrived; default 7 days
	ThinBytes    uint64            // sealed bytes above which ordinary old traces are left out (thin.go); default three quarters of RetainBytes
	ThinAfter    time.Duration     // since the end of the window (at most a day) in which they arrived; default 24 h
	ThinKeep     int               // of ordinary traces one in so many stays, by trace id; 1: nothing is ever left out; default 10
	Unmerged     bool              // blocks stay as they were sealed; measurements tell by it what merging costs
	Log          *slog.Logger      // default: none
	OnEvent      func(event.Event) // damage, disk pressure; must not block and must not call the store; may be nil
	FS           FS                // default: the operating system's; tests inject faults

	compaction compaction // tests change it; zero: compactionDefaults
	perChunk   int        // tests change it; zero: chunkTraces
}

const (
	defaultSealSpans   = 65_536
	defaultSealAge     = time.Minute
	defaultRetainBytes = 10 << 30
	defaultRetainAge   = 7 * 24 * time.Hour
	defaultThinAfter   = 24 * time.Hour
	defaultThinKeep    = 10

	sealBytes     = 64 << 20 // a memtable of large spans is frozen early
	maxFrozen     = 2        // memtables waiting for the sealer; beyond, writes are refused
	maxQueued     = 64 << 20 // encoded bytes waiting for the committer; beyond, writes are refused as busy
	maxSearches   = 8        // at once; each may hold the summaries of many traces. More wait until their context ends
	maxGroup      = 16 << 20 // encoded bytes in one group commit
	minFree       = 0.05     // of the file system; below, the oldest blocks are shed
	upkeepEvery   = 5 * time.Second
	quietInterval = time.Minute // between two events about the same disk trouble
)

// DB implements store.Spans.
type DB struct {
	cfg   Config
	log   *slog.Logger
	fs    FS
	lock  *os.File
	cache *cache

	queue  chan *pending
	queued atomic.Int64 // bytes of pending
	stop   chan struct{}
	done   sync.WaitGroup
	seal   chan struct{} // wakes the sealer; capacity 1
	upkeep chan struct{} // wakes the upkeep; capacity 1

	compact chan struct{} // wakes the compactor; capacity 1
	litter  []string      // owned by the compactor: files of failed merges
	readers readers
	changes sync.Mutex // held while blocks go out of service or are exchanged; taken before mu

	searches chan struct{} // one element per search that runs; see search
	turns    *turns

	closing sync.RWMutex // held for reading by every call; Close takes it
	closed  bool

	// Owned by the committer (and by Open before it starts).
	wal   *wal
	seen  *sequences
	next  uint64 // commit sequence of the next batch
	group []byte // room for the records of a group

	mu     sync.RWMutex
	active *memtable
	frozen []*memtable // oldest first
	blocks []*block    // by first commit sequence
	commit uint64      // last commit applied

	written, duplicate, corrupt, compacted atomic.Uint64

	notes struct {
		sync.Mutex
		fault    string // present trouble; "" when the last write and seal went well
		sealing  string // trouble of the sealer
		merging  string // trouble of the compactor
		disk     string // the disk is nearly full, as of the last upkeep
		damage   string // damage found since Open
		lastDisk time.Time
	}
	free atomic.Uint64
}

var _ store.Spans = (*DB)(nil)

// pending is one batch on its way to the log.
type pending struct {
	td     ptrace.Traces
	record []byte
	state  atomic.Int32 // 0 waiting, 1 taken by the committer, 2 given up by its writer
	result chan error   // capacity 1
}

const (
	waiting = 0
	taken   = 1
	givenUp = 2
)

// Open opens or creates the store in cfg.Dir and reads back what is in its log. Damage is set aside, reported and does not fail Open.
func Open(cfg Config) (*DB, error) {
	if cfg.Dir == "" {
		return nil, errors.New("span store: no directory given")
	}
	if cfg.SealSpans <= 0 {
		cfg.SealSpans = defaultSealSpans
	}
	if cfg.SealAge <= 0 {
		cfg.SealAge = defaultSealAge
	}
	if cfg.RetainBytes == 0 {
		cfg.RetainBytes = defaultRetainBytes
	}
	if cfg.RetainAge <= 0 {
		cfg.RetainAge = defaultRetainAge
	}
	if cfg.ThinBytes == 0 {
		cfg.ThinBytes = cfg.RetainBytes / 4 * 3
	}
	if cfg.ThinAfter <= 0 {
		cfg.ThinAfter = defaultThinAfter
	}
	if cfg.ThinKeep <= 0 {
		cfg.ThinKeep = defaultThinKeep
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.FS == nil {
		cfg.FS = OS{}
	}
	if cfg.compaction.every == 0 {
		cfg.compaction = compactionDefaults
	}
	if cfg.Unmerged {
		cfg.compaction = unmerged
	}
	db := &DB{
		cfg: cfg, log: cfg.Log, fs: cfg.FS, queue: make(chan *pending, 1024), stop: make(chan struct{}), seal: make(chan struct{}, 1),
		upkeep: make(chan struct{}, 1), seen: newSequences(), active: newMemtable(), next: 1,
		searches: make(chan struct{}, maxSearches), turns: newTurns(runtime.GOMAXPROCS(0)), compact: make(chan struct{}, 1),
	}
	db.readers.in = map[uint64]int{}
	db.readers.wake = func() { db.wake(db.compact) }
	db.cache = newCache(db.fs)
	for _, d := range []string{cfg.Dir, db.walDir(), db.blockDir()} {
		if err := db.fs.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("span store: create %s: %w", d, err)
		}
	}
	if err := db.takeLock(); err != nil {
		return nil, err
	}
	err := db.loadBlocks()
	if err == nil {
		err = db.replay()
	}
	if err == nil {
		db.wal, err = createSegment(db.fs, db.walDir(), db.next)
		if err != nil {
			err = fmt.Errorf("span store: start the log in %s: %w%s", db.walDir(), err, diskHint(err))
		}
	}
	if err != nil {
		db.cache.close()
		return nil, errors.Join(err, db.lock.Close())
	}
	db.active.segments = append(db.active.segments, db.wal.path)
	db.commit = db.next - 1
	db.measureFree()
	db.done.Add(4)
	go db.committer()
	go db.sealer()
	go db.keeper()
	go db.compactor()
	db.wake(db.seal)
	db.wake(db.compact)
	return db, nil
}

func (db *DB) walDir() string     { return filepath.Join(db.cfg.Dir, "wal") }
func (db *DB) blockDir() string   { return filepath.Join(db.cfg.Dir, "blocks") }
func (db *DB) damagedDir() string { return filepath.Join(db.cfg.Dir, "damaged") }

func (db *DB) wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (db *DB) takeLock() error {
	path := filepath.Join(db.cfg.Dir, "LOCK")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("span store: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a descriptor fits
		who, _ := io.ReadAll(io.LimitReader(f, 32))
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("span store: %s is in use by another process (pid %s); stop it or choose another data directory", db.cfg.Dir, strings.TrimSpace(string(who)))
		}
		return fmt.Errorf("span store: lock %s: %w", path, err)
	}
	_ = f.Truncate(0)
	_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	db.lock = f
	return nil
}

func diskHint(err error) string {
	if noSpace(err) {
		return "; free some space on the disk or lower the retention"
	}
	return ""
}

// replay reads the log into memtables.
func (db *DB) replay() error {
	entries, err := db.fs.ReadDir(db.walDir())
	if err != nil {
		return fmt.Errorf("span store: read the log's directory: %w", err)
	}
	var sealed uint64
	for _, b := range db.blocks {
		sealed = max(sealed, b.meta.LastSeq)
	}
	db.next = sealed + 1
	var names []string
	for _, e := range entries {
		if isSegment(e.Name()) {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names) // zero-padded: by first sequence
	for _, name := range names {
		path := filepath.Join(db.walDir(), name)
		if err := db.replaySegment(path, sealed); err != nil {
			return err
		}
		if db.active.count >= db.cfg.SealSpans || db.active.bytes >= sealBytes {
			db.frozen = append(db.frozen, db.active)
			db.active = newMemtable()
		}
	}
	return nil
}

func (db *DB) replaySegment(path string, sealed uint64) error {
	data, err := readFile(db.fs, path)
	if err != nil {
		return fmt.Errorf("span store: read the log %s: %w", path, err)
	}
	kept := 0
	first, bad, err := readSegment(data, func(r walRecord) error {
		db.next = max(db.next, r.seq+1)
		if r.seq <= sealed {
			return nil
		}
		b, err := r.unpack()
		if err != nil {
			db.reportDamage(fmt.Sprintf("batch %d in the log %s cannot be unpacked and is skipped: %v", r.seq, filepath.Base(path), err), path)
			return nil
		}
		td, err := unmarshaler.UnmarshalTraces(b)
		if err != nil {
			db.reportDamage(fmt.Sprintf("batch %d in the log %s cannot be decoded and is skipped: %v", r.seq, filepath.Base(path), err), path)
			return nil
		}
		skip, all := db.duplicates(td, nil)
		if all {
			return nil
		}
		kept++
		db.remember(td, skip)
		_, err = db.active.insert(td, skip, r.seq, r.received)
		return err
	})
	if err != nil {
		return fmt.Errorf("span store: replay %s: %w", path, err)
	}
	db.next = max(db.next, first)
	for _, d := range bad {
		if err := db.setAside(path, data, d); err != nil {
			return err
		}
	}
	if kept == 0 { // nothing of it is needed any more
		if err := db.fs.Remove(path); err != nil {
			return fmt.Errorf("span store: remove the finished log %s: %w", path, err)
		}
		return nil
	}
	db.active.segments = append(db.active.segments, path)
	return nil
}

// setAside copies a damaged range of a log segment and cuts it off when it is the segment's end.
func (db *DB) setAside(path string, data []byte, d damage) error {
	if err := db.fs.MkdirAll(db.damagedDir(), 0o700); err != nil {
		return fmt.Errorf("span store: %w", err)
	}
	aside := filepath.Join(db.damagedDir(), fmt.Sprintf("%s.%d", filepath.Base(path), d.from))
	if _, err := db.fs.Stat(aside); err == nil && !d.torn {
		return nil // reported at an earlier open
	}
	if err := writeFile(db.fs, aside, data[d.from:d.to]); err != nil {
		return fmt.Errorf("span store: keep the damaged end of %s aside: %w%s", path, err, diskHint(err))
	}
	if d.torn {
		f, err := db.fs.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("span store: %w", err)
		}
		if err := errors.Join(f.Truncate(d.from), f.Sync(), f.Close()); err != nil {
			return fmt.Errorf("span store: cut the damaged end of %s: %w", path, err)
		}
		db.reportDamage(fmt.Sprintf("the log %s ended in %d bytes that are no whole batch, as a crash in the middle of a write leaves them; they were cut off and kept in %s. "+
			"Batches that were acknowledged before are intact; if there was no crash, check the disk", filepath.Base(path), d.to-d.from, aside), path)
		return nil
	}
	db.reportDamage(fmt.Sprintf("%d bytes in the middle of the log %s are damaged and were skipped; a copy is in %s. Check the disk: batches acknowledged in that range are lost",
		d.to-d.from, filepath.Base(path), aside), path)
	return nil
}

// duplicates says which resources of td were stored before; group holds those of earlier batches in the same commit, may be nil.
func (db *DB) duplicates(td ptrace.Traces, group *sequences) (skip []bool, all bool) {
	n := td.ResourceSpans().Len()
	dups := 0
	for i, rs := range td.ResourceSpans().All() {
		boot, seq, ok := batchID(rs)
		if !ok || !db.seen.has(boot, seq) && (group == nil || !group.has(boot, seq)) {
			continue
		}
		if skip == nil {
			skip = make([]bool, n)
		}
		skip[i] = true
		dups++
	}
	return skip, n > 0 && dups == n
}

func (db *DB) remember(td ptrace.Traces, skip []bool) { rememberIn(db.seen, td, skip) }

func rememberIn(s *sequences, td ptrace.Traces, skip []bool) {
	for i, rs := range td.ResourceSpans().All() {
		if skip != nil && skip[i] {
			continue
		}
		if boot, seq, ok := batchID(rs); ok {
			s.add(boot, seq)
		}
	}
}

// Write stores a batch; it returns when the batch is on disk (see Config.SyncInterval). When ctx ends first, the batch was not stored.
func (db *DB) Write(ctx context.Context, td ptrace.Traces) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	db.closing.RLock()
	defer db.closing.RUnlock()
	if db.closed {
		return fmt.Errorf("write spans: %w", store.ErrClosed)
	}
	if td.SpanCount() == 0 {
		return nil
	}
	done := db.turns.batch()
	raw, err := marshaler.MarshalTraces(td)
	if err != nil {
		done()
		return fmt.Errorf("write spans: encode: %w", err)
	}
	p := &pending{td: td, record: newRecord(raw), result: make(chan error, 1)}
	done()
	if len(p.record) > maxRecordBytes/2 {
		return fmt.Errorf("write spans: a batch of %d bytes is too large; send smaller batches", len(raw))
	}
	if size := int64(len(p.record)); db.queued.Add(size) > maxQueued {
		db.queued.Add(-size)
		return fmt.Errorf("write spans: the disk is slower than what comes in: %w", store.ErrBusy)
	}
	select {
	case db.queue <- p:
	default:
		db.queued.Add(-int64(len(p.record)))
		return fmt.Errorf("write spans: too many batches are waiting for the disk: %w", store.ErrBusy)
	}
	select {
	case err := <-p.result:
		records.Put(p.record) //nolint:staticcheck // a slice's header beside its kilobytes
		return err
	case <-ctx.Done():
		if p.state.CompareAndSwap(waiting, givenUp) {
			return ctx.Err()
		}
		return <-p.result // already being written: the truth is near
	}
}

// committer owns the log. Group commit: it takes what is there, at most maxGroup bytes.
func (db *DB) committer() {
	defer db.done.Done()
	tick := time.NewTicker(tickOf(db.cfg))
	defer tick.Stop()
	unsynced := false
	lastSync := time.Now()
	for {
		var group []*pending
		size := 0
		take := func(p *pending) {
			db.queued.Add(-int64(len(p.record)))
			if p.state.CompareAndSwap(waiting, taken) {
				group = append(group, p)
				size += len(p.record)
			}
		}
		select {
		case p := <-db.queue:
			take(p)
		case <-tick.C:
		case <-db.stop: // Close waited for every Write, so the queue is empty
			return
		}
	gather:
		for size < maxGroup {
			select {
			case p := <-db.queue:
				take(p)
			default:
				break gather
			}
		}
		if len(group) > 0 {
			db.commitGroup(group)
			unsynced = db.cfg.SyncInterval > 0
		}
		if unsynced && time.Since(lastSync) >= db.cfg.SyncInterval {
			if err := db.wal.sync(); err != nil {
				db.setFault(fmt.Sprintf("fsync of the log failed (%v); spans of the last seconds may be lost if the machine crashes; check the disk", err))
			}
			unsynced, lastSync = false, time.Now()
		}
		db.maybeFreeze()
	}
}

func tickOf(cfg Config) time.Duration {
	t := min(cfg.SealAge/4, time.Second)
	if cfg.SyncInterval > 0 {
		t = min(t, cfg.SyncInterval)
	}
	return max(t, time.Millisecond)
}

func (db *DB) commitGroup(group []*pending) {
	if err := db.room(); err != nil {
		for _, p := range group {
			p.result <- err
		}
		return
	}
	done := db.turns.batch()
	defer func() { done() }()
	now := time.Now().UnixNano()
	type entry struct {
		p    *pending
		skip []bool
		seq  uint64
	}
	var (
		entries []entry
		buf     = db.group[:0]
		inGroup = newSequences()
		dups    uint64
		repeats []*pending
		seq     = db.next
	)
	for _, p := range group {
		skip, all := db.duplicates(p.td, inGroup)
		for i, rs := range p.td.ResourceSpans().All() {
			if skip != nil && skip[i] {
				for _, ss := range rs.ScopeSpans().All() {
					dups += uint64(ss.Spans().Len()) //nolint:gosec // a length
				}
			}
		}
		if all {
			repeats = append(repeats, p)
			continue
		}
		rememberIn(inGroup, p.td, skip)
		finishRecord(p.record, seq, now)
		buf = append(buf, p.record...)
		entries = append(entries, entry{p, skip, seq})
		seq++
	}
	if db.group = buf; cap(buf) > maxGroup/4 { // of a burst
		db.group = nil
	}
	if len(entries) > 0 {
		done() // searches need not wait for the disk
		err := db.wal.append(buf, db.cfg.SyncInterval == 0)
		done = db.turns.batch()
		if err != nil {
			err = db.writeError(err)
			for _, p := range group {
				p.result <- err // repeats too: what they repeat may be in this very group
			}
			return
		}
	}
	db.clearFault()
	db.duplicate.Add(dups)
	db.next = seq
	for _, e := range entries {
		db.remember(e.p.td, e.skip)
		n, err := db.active.insert(e.p.td, e.skip, e.seq, now)
		if err != nil { // on disk, but not in memory: it will be there after the next start
			db.log.Error("span store: a stored batch cannot be shown before the next start", "sequence", e.seq, "error", err)
		}
		db.written.Add(uint64(n)) //nolint:gosec // a count
	}
	db.mu.Lock()
	db.commit = seq - 1
	db.mu.Unlock()
	for _, e := range entries {
		e.p.result <- nil
	}
	for _, p := range repeats {
		p.result <- nil
	}
}

// room refuses writes while the sealer cannot keep up, so that memory stays bounded.
func (db *DB) room() error {
	db.mu.RLock()
	full := len(db.frozen) >= maxFrozen && (db.active.count >= 2*db.cfg.SealSpans || db.active.bytes >= 2*sealBytes)
	db.mu.RUnlock()
	if !full {
		return nil
	}
	db.notes.Lock()
	why := db.notes.sealing
	db.notes.Unlock()
	if why != "" {
		return fmt.Errorf("write spans: %s: %w", why, store.ErrFull)
	}
	return fmt.Errorf("write spans: blocks are not written as fast as spans come in: %w", store.ErrBusy)
}

func (db *DB) writeError(err error) error {
	db.wake(db.upkeep)
	if noSpace(err) {
		msg := fmt.Sprintf("no space left for the log in %s; new spans are refused until there is: free some space or lower the retention", db.walDir())
		db.setFault(msg)
		db.diskEvent("error", msg, nil)
		return fmt.Errorf("write spans: %s: %w", msg, store.ErrFull)
	}
	msg := fmt.Sprintf("the log in %s cannot be written (%v); new spans are refused; check the disk", db.walDir(), err)
	db.setFault(msg)
	db.diskEvent("error", msg, nil)
	return fmt.Errorf("write spans: %s: %w", msg, store.ErrBusy)
}

// maybeFreeze hands a full or old memtable to the sealer and starts a new log segment. Called by the committer.
func (db *DB) maybeFreeze() {
	m := db.active
	if m.count == 0 || m.count < db.cfg.SealSpans && m.bytes < sealBytes && time.Since(m.born) < db.cfg.SealAge {
		return
	}
	db.mu.RLock()
	n := len(db.frozen)
	db.mu.RUnlock()
	if n >= maxFrozen {
		return
	}
	w, err := createSegment(db.fs, db.walDir(), db.next)
	if err != nil {
		msg := fmt.Sprintf("cannot start a new log segment in %s (%v); spans stay in memory and in the old one%s", db.walDir(), err, diskHint(err))
		db.setFault(msg)
		db.wake(db.upkeep)
		return
	}
	old := db.wal
	if err := old.close(); err != nil {
		db.setFault(fmt.Sprintf("closing the log segment %s: %v", old.path, err))
	}
	db.wal = w
	fresh := newMemtable()
	fresh.segments = []string{w.path}
	db.mu.Lock()
	db.frozen = append(db.frozen, m)
	db.active = fresh
	db.mu.Unlock()
	db.wake(db.seal)
}

// sealer turns frozen memtables into blocks, oldest first.
func (db *DB) sealer() {
	defer db.done.Done()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-db.seal:
		case <-retry.C:
		case <-db.stop:
			return
		}
		for {
			db.mu.RLock()
			var m *memtable
			if len(db.frozen) > 0 {
				m = db.frozen[0]
			}
			db.mu.RUnlock()
			if m == nil {
				break
			}
			b, err := db.writeBlock(m)
			if err != nil {
				msg := fmt.Sprintf("a block of %d spans cannot be written to %s (%v); it stays in memory and in the log and is tried again%s", m.count, db.blockDir(), err, diskHint(err))
				db.notes.Lock()
				db.notes.sealing = msg
				db.notes.Unlock()
				db.diskEvent("error", msg, nil)
				db.wake(db.upkeep)
				retry.Reset(min(time.Second, db.cfg.SealAge))
				break
			}
			db.notes.Lock()
			db.notes.sealing = ""
			db.notes.Unlock()
			db.mu.Lock()
			db.frozen = slices.Delete(db.frozen, 0, 1)
			db.blocks = append(slices.Clone(db.blocks), b)
			db.mu.Unlock()
			for _, s := range m.segments {
				if err := db.fs.Remove(s); err != nil && !errors.Is(err, fs.ErrNotExist) {
					db.log.Warn("span store: cannot remove a log segment that is sealed; the next start will", "segment", s, "error", err)
				}
			}
			db.wake(db.upkeep)
			db.wake(db.compact)
			select {
			case <-db.stop:
				return
			default:
			}
		}
	}
}

// keeper enforces retention and watches the disk.
func (db *DB) keeper() {
	defer db.done.Done()
	tick := time.NewTicker(upkeepEvery)
	defer tick.Stop()
	for {
		select {
		case <-db.upkeep:
		case <-tick.C:
		case <-db.stop:
			return
		}
		db.retain(time.Now())
	}
}

func (db *DB) measureFree() (free, size uint64) {
	free, size, err := db.fs.Free(db.cfg.Dir)
	if err != nil {
		db.log.Warn("span store: cannot measure free disk space", "dir", db.cfg.Dir, "error", err)
		return 0, 0
	}
	db.free.Store(free)
	return free, size
}

// retain removes the oldest blocks while they are too old or too many, or the disk is nearly full.
func (db *DB) retain(now time.Time) {
	free, size := db.measureFree()
	need := uint64(0)
	if low := uint64(minFree * float64(size)); free < low {
		need = low - free
	}
	db.changes.Lock()
	db.mu.Lock()
	var (
		total uint64
		drop  []*block
		shed  uint64
	)
	for _, b := range db.blocks {
		total += uint64(b.size) //nolint:gosec // a size
	}
	keep := slices.Clone(db.blocks)
	slices.SortStableFunc(keep, func(a, b *block) int { return int(min(1, max(-1, a.meta.Received-b.meta.Received))) })
	for len(keep) > 0 {
		b := keep[0]
		old := now.Sub(time.Unix(0, b.meta.Received)) > db.cfg.RetainAge
		if !old && total <= db.cfg.RetainBytes && shed >= need {
			break
		}
		if !old && total <= db.cfg.RetainBytes {
			shed += uint64(b.size) //nolint:gosec // a size
		}
		total -= uint64(b.size) //nolint:gosec // a size
		drop = append(drop, b)
		keep = keep[1:]
	}
	if len(drop) > 0 {
		db.blocks = slices.DeleteFunc(slices.Clone(db.blocks), func(b *block) bool { return slices.Contains(drop, b) })
	}
	db.mu.Unlock()
	for _, b := range drop {
		b.gone.Store(true)
	}
	db.changes.Unlock()
	for _, b := range drop {
		db.removeBlock(b)
	}
	if len(drop) > 0 {
		db.log.Info("span store: removed the oldest blocks", "blocks", len(drop), "shedBytes", shed)
	}
	if need == 0 {
		db.setDisk("")
	} else {
		msg := fmt.Sprintf("less than %.0f %% of the disk that holds %s is free; ", minFree*100, db.cfg.Dir)
		if shed > 0 {
			msg += fmt.Sprintf("the %d oldest blocks of spans were removed early to make room. Free some space or lower the retention", len(drop))
		} else {
			msg += "there are no sealed spans left to remove. Free some space"
		}
		db.setDisk(msg)
		db.diskEvent("warning", msg, map[string]string{"free": fmt.Sprintf("%d bytes", free), "shed": fmt.Sprintf("%d bytes", shed)})
		db.measureFree()
	}
}

func (db *DB) setDisk(msg string) {
	db.notes.Lock()
	db.notes.disk = msg
	db.notes.Unlock()
}

func (db *DB) setFault(msg string) {
	db.notes.Lock()
	fresh := db.notes.fault != msg
	db.notes.fault = msg
	db.notes.Unlock()
	if fresh {
		db.log.Error("span store: " + msg)
	}
}

func (db *DB) clearFault() {
	db.notes.Lock()
	was := db.notes.fault
	db.notes.fault = ""
	db.notes.Unlock()
	if was != "" {
		db.log.Info("span store: writing works again")
	}
}

func (db *DB) reportDamage(msg, path string) {
	db.corrupt.Add(1)
	db.notes.Lock()
	db.notes.damage = msg
	db.notes.Unlock()
	db.log.Error("span store: "+msg, "file", path)
	db.emit(event.Event{Time: time.Now(), Kind: event.KindStore, Severity: "error", Message: "Span store: " + msg + ".", Evidence: map[string]string{"file": path}})
}

// diskEvent reports at most once per quietInterval.
func (db *DB) diskEvent(severity, msg string, evidence map[string]string) {
	now := time.Now()
	db.notes.Lock()
	quiet := now.Sub(db.notes.lastDisk) < quietInterval
	if !quiet {
		db.notes.lastDisk = now
	}
	db.notes.Unlock()
	if quiet {
		return
	}
	db.log.Warn("span store: " + msg)
	db.emit(event.Event{Time: now, Kind: event.KindDisk, Severity: severity, Message: "Span store: " + msg + ".", Evidence: evidence})
}

func (db *DB) emit(e event.Event) {
	if db.cfg.OnEvent != nil {
		db.cfg.OnEvent(e)
	}
}

// enter guards a read; the caller must leave.
func (db *DB) enter(ctx context.Context, what string) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	db.closing.RLock()
	if db.closed {
		db.closing.RUnlock()
		return nil, fmt.Errorf("%s: %w", what, store.ErrClosed)
	}
	epoch := db.readers.pin()
	return func() { db.readers.unpin(epoch); db.closing.RUnlock() }, nil
}

// search is enter for what may read the whole store: at most maxSearches run at once, and take turns.
func (db *DB) search(ctx context.Context, what string) (leave func(), e *effort, err error) {
	out, err := db.enter(ctx, what)
	if err != nil {
		return nil, nil, err
	}
	select {
	case db.searches <- struct{}{}:
		return func() { <-db.searches; out() }, db.effort(ctx), nil
	case <-ctx.Done():
		out()
		return nil, nil, fmt.Errorf("%s: %d other searches are running: %w (%w)", what, maxSearches, store.ErrBusy, ctx.Err())
	}
}

// Close waits for calls in progress, makes the log durable and releases the directory. What was not sealed is read back from the log at the next Open.
func (db *DB) Close() error {
	db.closing.Lock()
	if db.closed {
		db.closing.Unlock()
		return nil
	}
	db.closed = true
	db.closing.Unlock()
	close(db.stop)
	db.done.Wait()
	db.removeRetired()
	err := db.wal.close()
	db.cache.close()
	if err = errors.Join(err, db.lock.Close()); err != nil {
		return fmt.Errorf("close the span store: %w", err)
	}
	return nil
}

// Capabilities says that everything in the contract works.
func (db *DB) Capabilities() store.Capabilities {
	return store.Capabilities{
		SearchWithoutService: true, AttributeSearch: true, DurationSearch: true, KeysetPaging: true, StablePaging: true, WholeForm: true, WholeBatches: true, Repeats: true, Totals: true,
		Name: "local",
	}
}

// Stats is cheap: no disk access but the size of the log's files.
func (db *DB) Stats() store.SpanStats {
	s := store.SpanStats{Written: db.written.Load(), Duplicate: db.duplicate.Load(), Corrupt: db.corrupt.Load(), Merged: db.compacted.Load(), DiskFreeBytes: db.free.Load()}
	db.mu.RLock()
	sealed := uint64(0)
	lo, hi := ^uint64(0), uint64(0)
	for _, b := range db.blocks {
		s.Blocks++
		s.Bytes += uint64(b.size)                    //nolint:gosec // a size
		sealed += uint64(b.meta.Spans)               //nolint:gosec // a count
		s.LeftOutTraces += uint64(b.meta.LeftTraces) //nolint:gosec // a count
		s.LeftOutSpans += uint64(b.meta.LeftSpans)   //nolint:gosec // a count
		lo, hi = min(lo, b.meta.MinStart), max(hi, b.meta.MaxStart)
	}
	s.Spans = sealed
	var segments []string
	for _, m := range append(slices.Clone(db.frozen), db.active) {
		m.mu.RLock()
		s.Spans += uint64(m.count) //nolint:gosec // a count
		if m.count > 0 {
			lo, hi = min(lo, m.minStart), max(hi, m.maxStart)
		}
		m.mu.RUnlock()
		segments = append(segments, m.segments...)
	}
	db.mu.RUnlock()
	for _, p := range segments {
		if st, err := db.fs.Stat(p); err == nil {
			s.WALBytes += uint64(st.Size()) //nolint:gosec // a size
		}
	}
	if sealed > 0 {
		s.BytesPerSpan = float64(s.Bytes) / float64(sealed)
	}
	if s.Spans > 0 {
		s.Oldest, s.Newest = unixTime(lo), unixTime(hi)
	}
	db.notes.Lock()
	for _, n := range []string{db.notes.fault, db.notes.sealing, db.notes.merging, db.notes.disk, db.notes.damage} {
		if n != "" {
			s.LastError = n
			break
		}
	}
	db.notes.Unlock()
	return s
}
