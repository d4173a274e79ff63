package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/parquet-go/parquet-go"
)

// Finding is something that Verify met. Notes are no damage: what a crash leaves, or a store that is in use.
type Finding struct {
	Path    string `json:"path"` // below the store's directory
	Damage  bool   `json:"damage"`
	Message string `json:"message"`
}

// Verified is what Verify has read.
type Verified struct {
	Blocks   int       `json:"blocks"`
	Spans    int       `json:"spans"`
	Traces   int       `json:"traces"` // in blocks; a trace in two of them counts twice
	Segments int       `json:"walSegments"`
	Batches  int       `json:"walBatches"`
	Live     bool      `json:"live"`    // another process uses the directory
	Damaged  int       `json:"damaged"` // findings that are damage
	Findings []Finding `json:"findings"`
}

// Verify reads every page of every block and every record of the log in dir with their checksums, and holds summaries against rows. It changes
// nothing, and may run beside the process that uses the store: what vanishes while it is read was merged or has expired. The error is about reading
// the directory at all; damage is in the findings.
func Verify(ctx context.Context, dir string) (Verified, error) {
	v := Verified{Live: inUse(dir), Findings: []Finding{}}
	v.find(dir, dir, false, "")
	blocks, err := listBlocks(dir)
	if err != nil {
		return v, err
	}
	segments, err := listSegments(dir)
	if err != nil {
		return v, err
	}
	var read []*block
	for _, path := range blocks {
		if err := ctx.Err(); err != nil {
			return v, err
		}
		if strings.HasSuffix(path, damagedSuffix) {
			v.find(dir, path, false, "set aside as damaged by an earlier start; delete it when nobody needs it")
			continue
		}
		b := &block{path: path}
		switch err := v.block(dir, b); {
		case err == nil:
			read = append(read, b)
		case errors.Is(err, fs.ErrNotExist):
		default:
			v.find(dir, path, true, err.Error())
		}
	}
	v.overlaps(dir, read)
	for i, path := range segments {
		if err := ctx.Err(); err != nil {
			return v, err
		}
		if err := v.segment(dir, path, i == len(segments)-1); err != nil && !errors.Is(err, fs.ErrNotExist) {
			v.find(dir, path, true, err.Error())
		}
	}
	return v, nil
}

func (v *Verified) find(dir, path string, damage bool, msg string) {
	if msg == "" {
		return
	}
	if rel, err := filepath.Rel(dir, path); err == nil {
		path = rel
	}
	if damage {
		v.Damaged++
	}
	v.Findings = append(v.Findings, Finding{path, damage, msg})
}

// inUse says that a process holds the directory's lock.
func inUse(dir string) bool {
	f, err := os.Open(filepath.Join(dir, "LOCK"))
	if err != nil {
		return false
	}
	defer f.Close()                                                                                    // releases what was taken
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK) //nolint:gosec // a descriptor fits
}

// listBlocks lists the files of blocks, whole and set aside, by name.
func listBlocks(dir string) ([]string, error) {
	var out []string
	parts, err := os.ReadDir(filepath.Join(dir, "blocks"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s holds no spans: it has no folder blocks", dir)
	}
	if err != nil {
		return nil, err
	}
	for _, p := range parts {
		if !p.IsDir() {
			continue
		}
		sub := filepath.Join(dir, "blocks", p.Name())
		files, err := os.ReadDir(sub)
		if errors.Is(err, fs.ErrNotExist) { // a partition that has just expired
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			if strings.HasSuffix(f.Name(), parquetSuffix) || strings.HasSuffix(f.Name(), damagedSuffix) {
				out = append(out, filepath.Join(sub, f.Name()))
			}
		}
	}
	return out, nil
}

func listSegments(dir string) ([]string, error) {
	files, err := os.ReadDir(filepath.Join(dir, "wal"))
	if err != nil {
		return nil, fmt.Errorf("%s holds no spans: %w", dir, err)
	}
	var out []string
	for _, f := range files {
		if isSegment(f.Name()) {
			out = append(out, filepath.Join(dir, "wal", f.Name()))
		}
	}
	return out, nil // by name: by first sequence
}

// readMeta reads what a block says of itself: from its sidecar, or else from its file.
func readMeta(b *block) (parts []*part, sidecar error, err error) {
	st, err := os.Stat(b.path)
	if err != nil {
		return nil, nil, err
	}
	b.size = st.Size()
	f, sidecar := OS{}.OpenFile(b.idx(), os.O_RDONLY, 0)
	if sidecar == nil {
		b.meta, b.bloom, sidecar = readIndexFront(f)
		if sidecar == nil {
			parts, sidecar = readIndexParts(f)
		}
		if st, err := f.Stat(); err == nil {
			b.size += st.Size()
		}
		_ = f.Close()
	}
	if sidecar == nil {
		return parts, nil, nil
	}
	pf, err := OS{}.OpenFile(b.path, os.O_RDONLY, 0)
	if err != nil {
		return nil, sidecar, err
	}
	defer pf.Close()
	bf, err := openParquet(pf, nil)
	if err != nil {
		return nil, sidecar, err
	}
	b.meta = idxMeta{blockMeta: bf.meta}
	return nil, sidecar, nil
}

func (v *Verified) block(dir string, b *block) error {
	parts, sidecar, err := readMeta(b)
	if err != nil {
		return err
	}
	f, err := OS{}.OpenFile(b.path, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	want := &b.meta
	if sidecar != nil {
		want = nil
	}
	bf, err := openParquet(f, want)
	if err != nil {
		return err
	}
	if errors.Is(sidecar, fs.ErrNotExist) {
		v.find(dir, b.idx(), false, "the sidecar is lost; the next start makes it anew")
	} else if sidecar != nil {
		v.find(dir, b.idx(), true, sidecar.Error()+"; the next start makes it anew")
	}
	for i := range bf.pf.RowGroups()[0].ColumnChunks() { // those of the file: an older one has fewer
		if err := bf.readColumn(i); err != nil {
			return err
		}
	}
	if sidecar == nil {
		in := &input{b: b, bf: bf, parts: parts}
		if err := in.check(); err != nil {
			return err
		}
		at := 0
		if err := bf.scan(schema().traceID, []rowRange{{0, bf.meta.Spans}}, func(row int, val []parquet.Value) error {
			for row >= parts[at].row+parts[at].spans {
				at++
			}
			if id := parts[at].id; string(val[0].ByteArray()) != string(id[:]) || !b.bloom.has(id) {
				return fmt.Errorf("%w: row %d is not of trace %s, as its summary says", errBlock, row, id)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	v.Blocks++
	v.Spans += bf.meta.Spans
	v.Traces += bf.meta.Traces
	return nil
}

// readColumn reads every page of the file's i-th column; the checksum of each is checked.
func (b *blockFile) readColumn(i int) (err error) {
	defer recoverDamage(&err)
	pages := b.pf.RowGroups()[0].ColumnChunks()[i].Pages()
	defer func() { err = errors.Join(err, pages.Close()) }()
	rows := int64(0)
	for {
		p, err := pages.ReadPage()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return blame(err)
		}
		rows += p.NumRows()
		parquet.Release(p)
	}
	if rows != int64(b.meta.Spans) {
		return fmt.Errorf("%w: column %d has %d rows of %d", errBlock, i, rows, b.meta.Spans)
	}
	return nil
}

// overlaps looks for spans that two blocks hold: each batch is in one, unless one block replaces the other and a crash, or a reader, keeps the old one.
func (v *Verified) overlaps(dir string, blocks []*block) {
	replaced := map[string]bool{}
	for _, b := range blocks {
		for _, n := range b.meta.Replaces {
			replaced[n] = true
		}
	}
	blocks = slices.DeleteFunc(blocks, func(b *block) bool {
		if replaced[b.name()] {
			v.find(dir, b.path, false, "merged into another block and about to be removed")
			return true
		}
		return false
	})
	slices.SortFunc(blocks, byFirstSeq)
	for i := 1; i < len(blocks); i++ {
		if a, b := blocks[i-1], blocks[i]; a.meta.LastSeq >= b.meta.FirstSeq {
			v.find(dir, b.path, true, fmt.Sprintf("holds batches %d to %d, of which %s holds some too", b.meta.FirstSeq, b.meta.LastSeq, a.name()))
		}
	}
}

func byFirstSeq(a, b *block) int {
	if a.meta.FirstSeq < b.meta.FirstSeq {
		return -1
	}
	return 1
}

func (v *Verified) segment(dir, path string, last bool) error {
	data, err := os.ReadFile(path) //nolint:gosec // a file of the store
	if err != nil {
		return err
	}
	_, bad, err := readSegment(data, func(r walRecord) error {
		b, err := r.unpack()
		if err == nil {
			_, err = unmarshaler.UnmarshalTraces(b)
		}
		if err != nil {
			v.find(dir, path, true, fmt.Sprintf("batch %d cannot be decoded: %v", r.seq, err))
			return nil
		}
		v.Batches++
		return nil
	})
	if err != nil {
		return err
	}
	for _, d := range bad {
		switch {
		case d.torn && last && v.Live:
			v.find(dir, path, false, fmt.Sprintf("%d bytes at the end are being written", d.to-d.from))
		case d.torn:
			v.find(dir, path, false, fmt.Sprintf("ends in %d bytes that are no whole batch, as a crash leaves them; the next start cuts them off", d.to-d.from))
		default:
			v.find(dir, path, true, fmt.Sprintf("bytes %d to %d are no batch: what was acknowledged there is lost", d.from, d.to))
		}
	}
	v.Segments++
	return nil
}

// Partition is what Describe says of the blocks of an hour or a day.
type Partition struct {
	Name          string    `json:"name"`
	Blocks        int       `json:"blocks"`
	Spans         int       `json:"spans"`
	Traces        int       `json:"traces"`
	Bytes         int64     `json:"bytes"`
	LeftOutTraces int       `json:"leftOutTraces,omitempty"`
	LeftOutSpans  int       `json:"leftOutSpans,omitempty"`
	Oldest        time.Time `json:"oldest"` // start of a span
	Newest        time.Time `json:"newest"`
	Arrived       time.Time `json:"arrived"` // the latest batch
}

// Description is what Describe says of a store.
type Description struct {
	Partition               // in sum; its name is the directory
	Live        bool        `json:"live"`
	WALBytes    int64       `json:"walBytes"`
	WALSegments int         `json:"walSegments"`
	Damaged     int         `json:"damaged"` // blocks that were set aside
	Partitions  []Partition `json:"partitions"`
}

// Describe reads what the blocks in dir say of themselves. It changes nothing, and may run beside the process that uses the store.
func Describe(dir string) (Description, error) {
	d := Description{Partition: Partition{Name: dir}, Live: inUse(dir), Partitions: []Partition{}}
	blocks, err := listBlocks(dir)
	if err != nil {
		return d, err
	}
	segments, err := listSegments(dir)
	if err != nil {
		return d, err
	}
	for _, path := range blocks {
		if strings.HasSuffix(path, damagedSuffix) {
			d.Damaged++
			continue
		}
		b := &block{path: path}
		if _, _, err := readMeta(b); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return d, fmt.Errorf("block %s: %w; 'tulle store verify' looks at all of them", path, err)
		}
		name := filepath.Base(filepath.Dir(path))
		if n := len(d.Partitions); n == 0 || d.Partitions[n-1].Name != name {
			d.Partitions = append(d.Partitions, Partition{Name: name})
		}
		for _, p := range []*Partition{&d.Partition, &d.Partitions[len(d.Partitions)-1]} {
			p.add(b)
		}
	}
	for _, path := range segments {
		if st, err := os.Stat(path); err == nil {
			d.WALSegments++
			d.WALBytes += st.Size()
		}
	}
	return d, nil
}

func (p *Partition) add(b *block) {
	lo, hi, arrived := unixTime(b.meta.MinStart), unixTime(b.meta.MaxStart), time.Unix(0, b.meta.Received).UTC()
	if p.Blocks == 0 || lo.Before(p.Oldest) {
		p.Oldest = lo
	}
	if p.Blocks == 0 || hi.After(p.Newest) {
		p.Newest = hi
	}
	if arrived.After(p.Arrived) {
		p.Arrived = arrived
	}
	p.Blocks++
	p.Spans += b.meta.Spans
	p.Traces += b.meta.Traces
	p.Bytes += b.size
	p.LeftOutTraces += b.meta.LeftTraces
	p.LeftOutSpans += b.meta.LeftSpans
}
