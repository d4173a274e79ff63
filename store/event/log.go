package event

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/store"
)

// Config says how much a Log keeps. Zero fields mean the default named beside them.
type Config struct {
	MaxEvents    int           // events kept, in memory and on disk; default 20,000; whole segments are dropped, so up to one segment more
	MaxAge       time.Duration // default 90 days
	SegmentBytes int64         // a segment is closed at this size; default 1 MiB
	Now          func() time.Time
	Logger       *slog.Logger
}

// Log is an append-only journal of events with an index in memory. It has a single writer process per directory. All methods are safe for
// concurrent use; after Close every method but Close returns store.ErrClosed.
//
// On disk a Log is a folder of segments NUMBER.jsonl. Each line is one event: eight hex digits of CRC-32C, a space, the event as
// JSON, a newline; so a person can read it and a damaged line is recognised. Append returns after fsync: an event that was acknowledged
// survives a crash. A line that does not check is moved to NUMBER.jsonl.damaged when the log is opened, the rest is kept, and an event of
// kind store.damage says so.
type Log struct {
	dir    string
	cfg    Config
	closed atomic.Bool

	mu       sync.Mutex
	segments []*segment
	file     *os.File // the last segment, open for append
	torn     bool     // file may hold more than its segment's size: a failed append could not be undone
	events   []Event  // sorted by ID
	known    map[string]struct{}
	subs     map[*subscriber]struct{}

	dropped    atomic.Uint64
	duplicates atomic.Uint64
	damage     []string
}

type segment struct {
	path   string
	number uint64
	size   int64
	ids    []string
	newest time.Time
}

type subscriber struct {
	ch   chan Event
	stop func() bool
}

// Stats is what a Log knows of itself.
type Stats struct {
	Events     int      `json:"events"`
	Segments   int      `json:"segments"`
	Bytes      int64    `json:"bytes"`
	Duplicates uint64   `json:"duplicates"` // appends of an id that was already stored
	Dropped    uint64   `json:"dropped"`    // events that slow subscribers missed
	Damage     []string `json:"damage,omitempty"`
}

const (
	defaultMaxEvents    = 20_000
	defaultMaxAge       = 90 * 24 * time.Hour
	defaultSegmentBytes = 1 << 20
	defaultLimit        = 100
	maxLimit            = 10_000
	subscriberQueue     = 256
	maxLine             = 1 << 20
	suffix              = ".jsonl"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Open reads the log in dir, creating it if needed, repairs a damaged tail and applies retention.
func Open(dir string, cfg Config) (*Log, error) {
	if cfg.MaxEvents <= 0 {
		cfg.MaxEvents = defaultMaxEvents
	}
	if cfg.MaxAge <= 0 {
		cfg.MaxAge = defaultMaxAge
	}
	if cfg.SegmentBytes <= 0 {
		cfg.SegmentBytes = defaultSegmentBytes
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("event log: create %s: %w", dir, err)
	}
	l := &Log{dir: dir, cfg: cfg, known: map[string]struct{}{}, subs: map[*subscriber]struct{}{}}
	if err := l.load(); err != nil {
		return nil, err
	}
	if err := l.openLast(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.retainLocked()
	l.mu.Unlock()
	for _, d := range l.damage {
		cfg.Logger.Warn("event log was damaged", "what", d)
		now := cfg.Now()
		err := l.Append(context.Background(), Event{
			ID: NewID(now), Time: now, Kind: KindStore, Severity: "warning",
			Message: "The event log was damaged and has been repaired: " + d, Reason: "damaged_tail",
		})
		if err != nil {
			_ = l.Close()
			return nil, err
		}
	}
	return l, nil
}

func (l *Log) load() error {
	names, err := filepath.Glob(filepath.Join(l.dir, "*"+suffix))
	if err != nil {
		return fmt.Errorf("event log: list %s: %w", l.dir, err)
	}
	sort.Strings(names)
	for i, name := range names {
		number, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(name), suffix), 10, 64)
		if err != nil {
			continue // not ours
		}
		s := &segment{path: name, number: number}
		if err := l.loadSegment(s, i == len(names)-1); err != nil {
			return err
		}
		l.segments = append(l.segments, s)
	}
	sort.Slice(l.events, func(i, j int) bool { return l.events[i].ID < l.events[j].ID })
	return nil
}

// loadSegment reads one segment. Damaged lines are set aside and the segment is rewritten without them.
func (l *Log) loadSegment(s *segment, last bool) error {
	f, err := os.Open(s.path)
	if err != nil {
		return fmt.Errorf("event log: open: %w", err)
	}
	defer f.Close()
	var good, bad bytes.Buffer
	badLines := 0
	r := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 {
			if e, ok := decode(line); ok {
				good.Write(line)
				s.ids = append(s.ids, e.ID)
				if e.Time.After(s.newest) {
					s.newest = e.Time
				}
				if _, dup := l.known[e.ID]; !dup {
					l.known[e.ID] = struct{}{}
					l.events = append(l.events, e)
				}
			} else {
				bad.Write(line)
				badLines++
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("event log: read %s: %w", s.path, err)
		}
	}
	s.size = int64(good.Len())
	if badLines == 0 {
		return nil
	}
	where := "in " + filepath.Base(s.path)
	if last {
		where = "at the end of " + filepath.Base(s.path)
	}
	l.damage = append(l.damage, fmt.Sprintf("%d unreadable line(s), %d bytes, %s; they were moved to %s.damaged, everything else is kept",
		badLines, bad.Len(), where, filepath.Base(s.path)))
	if err := appendFile(s.path+".damaged", bad.Bytes()); err != nil {
		return fmt.Errorf("event log: set damaged lines aside: %w", err)
	}
	return replaceFile(s.path, good.Bytes())
}

func (l *Log) openLast() error {
	if len(l.segments) == 0 {
		return l.newSegmentLocked()
	}
	s := l.segments[len(l.segments)-1]
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("event log: open: %w", err)
	}
	l.file = f
	return nil
}

func (l *Log) newSegmentLocked() error {
	next := uint64(1)
	if n := len(l.segments); n > 0 {
		next = l.segments[n-1].number + 1
	}
	path := filepath.Join(l.dir, fmt.Sprintf("%012d%s", next, suffix))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return wrapWrite("create segment", err)
	}
	if err := syncDir(l.dir); err != nil {
		_ = f.Close()
		return wrapWrite("create segment", err)
	}
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file = f
	l.segments = append(l.segments, &segment{path: path, number: next})
	return nil
}

// Append stores the events in order and returns when they are on disk. Events whose ID is already stored are skipped, so that a sender may
// repeat itself. An event without an ID gets one, without a Time the present. On error none of the events is stored; errors.Is(err,
// store.ErrFull) means that the disk is full.
func (l *Log) Append(ctx context.Context, events ...Event) error {
	if l.closed.Load() {
		return fmt.Errorf("event log: append: %w", store.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("event log: append: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		return fmt.Errorf("event log: append: %w", store.ErrClosed)
	}
	var buf bytes.Buffer
	fresh := make([]Event, 0, len(events))
	for _, e := range events {
		if e.Time.IsZero() {
			e.Time = l.cfg.Now()
		}
		if e.ID == "" {
			e.ID = NewID(e.Time)
		}
		if _, dup := l.known[e.ID]; dup || slices.ContainsFunc(fresh, func(f Event) bool { return f.ID == e.ID }) {
			l.duplicates.Add(1)
			continue
		}
		if err := encode(&buf, e); err != nil {
			return err
		}
		fresh = append(fresh, e)
	}
	if len(fresh) == 0 {
		return nil
	}
	s := l.segments[len(l.segments)-1]
	if l.torn {
		if err := l.file.Truncate(s.size); err != nil {
			return wrapWrite("cut the unfinished end of "+filepath.Base(s.path), err)
		}
		l.torn = false
	}
	if s.size > 0 && s.size+int64(buf.Len()) > l.cfg.SegmentBytes {
		if err := l.newSegmentLocked(); err != nil {
			return err
		}
		s = l.segments[len(l.segments)-1]
	}
	_, err := l.file.Write(buf.Bytes())
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		// Nothing of the batch may stay: a half line would hide the next append.
		if terr := l.file.Truncate(s.size); terr != nil {
			l.torn = true // tried again before the next append
			err = errors.Join(err, terr)
		}
		return wrapWrite("append to "+filepath.Base(s.path), err)
	}
	s.size += int64(buf.Len())
	for _, e := range fresh {
		s.ids = append(s.ids, e.ID)
		if e.Time.After(s.newest) {
			s.newest = e.Time
		}
		l.known[e.ID] = struct{}{}
		at, _ := slices.BinarySearchFunc(l.events, e.ID, func(x Event, id string) int { return strings.Compare(x.ID, id) })
		l.events = slices.Insert(l.events, at, e)
		for sub := range l.subs {
			l.offer(sub, e)
		}
	}
	l.retainLocked()
	return nil
}

// offer never blocks: a reader that does not keep up loses the oldest events waiting for it, and the loss is counted.
func (l *Log) offer(s *subscriber, e Event) {
	for {
		select {
		case s.ch <- e:
			return
		default:
		}
		select {
		case <-s.ch:
			l.dropped.Add(1)
		default:
		}
	}
}

func (l *Log) retainLocked() {
	oldest := l.cfg.Now().Add(-l.cfg.MaxAge)
	for len(l.segments) > 1 {
		s := l.segments[0]
		if len(l.events)-len(s.ids) < l.cfg.MaxEvents && !s.newest.Before(oldest) {
			return
		}
		if err := os.Remove(s.path); err != nil {
			l.cfg.Logger.Warn("event log: cannot remove an old segment; check the folder's permissions", "path", s.path, "err", err)
			return
		}
		gone := make(map[string]struct{}, len(s.ids))
		for _, id := range s.ids {
			gone[id] = struct{}{}
			delete(l.known, id)
		}
		l.events = slices.DeleteFunc(l.events, func(e Event) bool { _, ok := gone[e.ID]; return ok })
		l.segments = l.segments[1:]
	}
}

// Query returns events that match q, newest (highest ID) first, and the value for q.Before of the next page, "" on the last.
func (l *Log) Query(ctx context.Context, q Query) ([]Event, string, error) {
	if l.closed.Load() {
		return nil, "", fmt.Errorf("event log: query: %w", store.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return nil, "", fmt.Errorf("event log: query: %w", err)
	}
	limit := q.Limit
	switch {
	case limit < 0 || limit > maxLimit:
		return nil, "", fmt.Errorf("event log: limit %d is not between 1 and %d: %w", q.Limit, maxLimit, store.ErrBadQuery)
	case limit == 0:
		limit = defaultLimit
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	end := len(l.events)
	if q.Before != "" {
		end, _ = slices.BinarySearchFunc(l.events, q.Before, func(x Event, id string) int { return strings.Compare(x.ID, id) })
	}
	out := make([]Event, 0, min(limit, 64))
	for i := end - 1; i >= 0; i-- {
		e := l.events[i]
		if q.Kind != "" && e.Kind != q.Kind || q.Service != "" && e.Service != q.Service ||
			!q.Start.IsZero() && e.Time.Before(q.Start) || !q.End.IsZero() && !e.Time.Before(q.End) {
			continue
		}
		if len(out) == limit {
			return out, out[limit-1].ID, nil
		}
		out = append(out, e)
	}
	return out, "", nil
}

// Subscribe delivers every event appended from now on, in order, until ctx is done or the log is closed; then the channel is closed. It never
// blocks the writer: a reader more than 256 events behind misses the oldest (Stats.Dropped).
func (l *Log) Subscribe(ctx context.Context) <-chan Event {
	s := &subscriber{ch: make(chan Event, subscriberQueue)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed.Load() {
		close(s.ch)
		return s.ch
	}
	l.subs[s] = struct{}{}
	s.stop = context.AfterFunc(ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.unsubscribeLocked(s)
	})
	return s.ch
}

func (l *Log) unsubscribeLocked(s *subscriber) {
	if _, ok := l.subs[s]; ok {
		delete(l.subs, s)
		close(s.ch)
	}
}

// Stats reports sizes and losses.
func (l *Log) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := Stats{Events: len(l.events), Segments: len(l.segments), Duplicates: l.duplicates.Load(), Dropped: l.dropped.Load(), Damage: slices.Clone(l.damage)}
	for _, s := range l.segments {
		st.Bytes += s.size
	}
	return st
}

// Close ends subscriptions and closes the log. Calling it again does nothing.
func (l *Log) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.subs {
		s.stop()
		l.unsubscribeLocked(s)
	}
	if err := l.file.Close(); err != nil {
		return fmt.Errorf("event log: close: %w", err)
	}
	return nil
}

func encode(buf *bytes.Buffer, e Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("event log: encode event %s: %w", e.ID, err)
	}
	if len(body) > maxLine {
		return fmt.Errorf("event log: event %s has %d bytes, at most %d are allowed: %w", e.ID, len(body), maxLine, store.ErrBadQuery)
	}
	fmt.Fprintf(buf, "%08x ", crc32.Checksum(body, castagnoli))
	buf.Write(body)
	buf.WriteByte('\n')
	return nil
}

func decode(line []byte) (Event, bool) {
	if len(line) < 11 || line[8] != ' ' || line[len(line)-1] != '\n' {
		return Event{}, false
	}
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	if err != nil {
		return Event{}, false
	}
	body := line[9 : len(line)-1]
	if crc32.Checksum(body, castagnoli) != uint32(sum) {
		return Event{}, false
	}
	var e Event
	if err := json.Unmarshal(body, &e); err != nil || e.ID == "" {
		return Event{}, false
	}
	return e, true
}

func wrapWrite(what string, err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("event log: %s: %w (free some space or lower the retention): %w", what, store.ErrFull, err)
	}
	return fmt.Errorf("event log: %s: %w", what, err)
}

func appendFile(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// replaceFile swaps in new content through a synced temporary file, so that a crash leaves the old or the new file, whole.
func replaceFile(path string, b []byte) error {
	tmp := path + ".tmp"
	_ = os.Remove(tmp)
	if err := appendFile(tmp, b); err != nil {
		return fmt.Errorf("event log: rewrite %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("event log: rewrite %s: %w", filepath.Base(path), err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
