package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/klauspost/compress/s2"
)

// The write-ahead log, specified in docs/format/wal.md. A segment is a header and records; a record is
//
//	magic u32 | length u32 | crc32c u32 (of the payload) | payload: type u8, sequence u64, received i64 (unix ns), OTLP TracesData
//
// all little-endian; the type says how the batch is compressed. The magic lets a reader find the next record behind damage.
const (
	walMagic       = "TULLEWAL"
	walVersion     = 1
	walHeaderSize  = 8 + 4 + 8 + 4
	recordMagic    = 0x31525754 // "TWR1"
	recordHead     = 12
	payloadHead    = 1 + 8 + 8
	recordZstd     = 1 // what versions before wrote
	recordS2       = 2
	maxRecordBytes = 256 << 20
	maxBatchBytes  = 1 << 30 // of OTLP in a record
	walSuffix      = ".wal"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// walRecord is one record as read. Data is valid until the next read.
type walRecord struct {
	seq      uint64
	received int64
	typ      byte
	data     []byte // compressed OTLP
}

// unpack is the OTLP of the batch.
func (r walRecord) unpack() ([]byte, error) {
	if r.typ == recordZstd {
		return decompress(r.data)
	}
	n, err := s2.DecodedLen(r.data)
	if err != nil {
		return nil, err
	}
	if n > maxBatchBytes {
		return nil, fmt.Errorf("it claims to be %d bytes long", n)
	}
	return s2.Decode(nil, r.data)
}

// damage is a byte range of a segment that holds no valid record.
type damage struct {
	from, to int64
	torn     bool // reaches the end of the segment
}

// readSegment calls each for every valid record of data in order and returns the damaged ranges in between. It never fails on content; each's
// error stops it.
func readSegment(data []byte, each func(walRecord) error) (first uint64, bad []damage, err error) {
	off := 0
	if len(data) >= walHeaderSize && string(data[:8]) == walMagic &&
		crc32.Checksum(data[:walHeaderSize-4], castagnoli) == binary.LittleEndian.Uint32(data[walHeaderSize-4:]) &&
		binary.LittleEndian.Uint32(data[8:]) == walVersion {
		first = binary.LittleEndian.Uint64(data[12:])
		off = walHeaderSize
	}
	var magic [4]byte
	binary.LittleEndian.PutUint32(magic[:], recordMagic)
	for off < len(data) {
		rec, size, ok := readRecord(data[off:])
		if ok {
			if err := each(rec); err != nil {
				return first, bad, err
			}
			off += size
			continue
		}
		// Damage: look for the next byte at which a whole valid record starts.
		from := off
		for off++; off < len(data); off++ {
			i := bytes.Index(data[off:], magic[:])
			if i < 0 {
				off = len(data)
				break
			}
			off += i
			if _, _, ok := readRecord(data[off:]); ok {
				break
			}
		}
		off = min(off, len(data))
		bad = append(bad, damage{from: int64(from), to: int64(off), torn: off == len(data)})
	}
	return first, bad, nil
}

func readRecord(b []byte) (rec walRecord, size int, ok bool) {
	if len(b) < recordHead+payloadHead || binary.LittleEndian.Uint32(b) != recordMagic {
		return rec, 0, false
	}
	n := int(binary.LittleEndian.Uint32(b[4:]))
	if n < payloadHead || n > maxRecordBytes || n > len(b)-recordHead {
		return rec, 0, false
	}
	p := b[recordHead : recordHead+n]
	if crc32.Checksum(p, castagnoli) != binary.LittleEndian.Uint32(b[8:]) || p[0] != recordZstd && p[0] != recordS2 {
		return rec, 0, false
	}
	return walRecord{
		seq:      binary.LittleEndian.Uint64(p[1:]),
		received: int64(binary.LittleEndian.Uint64(p[9:])), //nolint:gosec // round trip
		typ:      p[0],
		data:     p[payloadHead:],
	}, recordHead + n, true
}

// records are buffers for newRecord, given back by whoever is the last to need one.
var records = sync.Pool{New: func() any { return []byte(nil) }}

// newRecord makes a record of a batch's OTLP, with room for its head; finishRecord fills sequence and checksum in. The log lives for a minute, and S2 takes two
// fifths of zstd's time for a third more bytes (docs/adr/0038).
func newRecord(raw []byte) []byte {
	const head = recordHead + payloadHead
	b := records.Get().([]byte)
	if n := head + s2.MaxEncodedLen(len(raw)); cap(b) < n {
		b = make([]byte, n)
	}
	return b[:head+len(s2.Encode(b[head:cap(b)], raw))]
}

func finishRecord(b []byte, seq uint64, received int64) {
	p := b[recordHead:]
	p[0] = recordS2
	binary.LittleEndian.PutUint64(p[1:], seq)
	binary.LittleEndian.PutUint64(p[9:], uint64(received)) //nolint:gosec // round trip
	binary.LittleEndian.PutUint32(b, recordMagic)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(p))) //nolint:gosec // bounded by maxRecordBytes
	binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(p, castagnoli))
}

// wal is the segment being written. The committer goroutine owns it.
//
// Invariant: the bytes of the file below good are exactly the header and the acknowledged (or about to be acknowledged) records. When an
// append fails, the file is cut back to good before anything else is written, so that a refused batch cannot come back at the next open.
type wal struct {
	fs    FS
	dir   string
	file  File
	path  string
	good  int64 // bytes known to be whole
	dirty bool  // bytes beyond good may exist
}

func segmentName(first uint64) string { return fmt.Sprintf("%020d%s", first, walSuffix) }

func isSegment(name string) bool { return strings.HasSuffix(name, walSuffix) }

// createSegment starts a new segment whose first record will be seq first.
func createSegment(fsys FS, dir string, first uint64) (*wal, error) {
	h := make([]byte, walHeaderSize)
	copy(h, walMagic)
	binary.LittleEndian.PutUint32(h[8:], walVersion)
	binary.LittleEndian.PutUint64(h[12:], first)
	binary.LittleEndian.PutUint32(h[walHeaderSize-4:], crc32.Checksum(h[:walHeaderSize-4], castagnoli))
	path := filepath.Join(dir, segmentName(first))
	f, err := fsys.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(h)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = fsys.SyncDir(dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), fsys.Remove(path))
	}
	return &wal{fs: fsys, dir: dir, file: f, path: path, good: walHeaderSize}, nil
}

// append writes the records as one write and, when sync is set, one fsync. On error none of them is in the log.
func (w *wal) append(b []byte, sync bool) error {
	if w.dirty {
		if err := w.cut(); err != nil {
			return err
		}
	}
	w.dirty = true
	n, err := w.file.Write(b)
	if err == nil && n != len(b) {
		err = io.ErrShortWrite
	}
	if err == nil && sync {
		err = w.file.Sync()
	}
	if err != nil {
		_ = w.cut() // retried before the next append when it fails
		return err
	}
	w.good += int64(len(b))
	w.dirty = false
	return nil
}

func (w *wal) cut() error {
	if err := w.file.Truncate(w.good); err != nil {
		return err
	}
	if _, err := w.file.Seek(w.good, io.SeekStart); err != nil {
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	w.dirty = false
	return nil
}

func (w *wal) sync() error { return w.file.Sync() }

func (w *wal) close() error {
	var err error
	if w.dirty {
		err = w.cut()
	}
	return errors.Join(err, w.file.Sync(), w.file.Close())
}
