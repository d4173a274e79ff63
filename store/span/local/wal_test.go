package local

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/store/storetest"
)

// A log that a version before left behind, with batches compressed by zstd, is read.
func TestOldLogIsRead(t *testing.T) {
	dir := t.TempDir()
	db := open(t, Config{Dir: dir, SealAge: time.Hour})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	raw, err := marshaler.MarshalTraces(storetest.Batch(storetest.Span{
		Trace: 7, ID: 1, Name: "GET /", Kind: ptrace.SpanKindServer, Start: time.Now(), Duration: time.Second,
	}))
	if err != nil {
		t.Fatal(err)
	}
	rec := append(make([]byte, recordHead+payloadHead), compress(raw)...)
	finishRecord(rec, 1, time.Now().UnixNano())
	rec[recordHead] = recordZstd
	binary.LittleEndian.PutUint32(rec[8:], crc32.Checksum(rec[recordHead:], castagnoli))
	segment := make([]byte, walHeaderSize)
	copy(segment, walMagic)
	binary.LittleEndian.PutUint32(segment[8:], walVersion)
	binary.LittleEndian.PutUint64(segment[12:], 1)
	binary.LittleEndian.PutUint32(segment[walHeaderSize-4:], crc32.Checksum(segment[:walHeaderSize-4], castagnoli))
	if err := os.WriteFile(filepath.Join(dir, "wal", segmentName(1)), append(segment, rec...), 0o600); err != nil {
		t.Fatal(err)
	}
	db = open(t, Config{Dir: dir, SealAge: time.Hour})
	td, err := db.Trace(t.Context(), storetest.TraceID(7))
	if err != nil || td.SpanCount() != 1 {
		t.Fatalf("%v, %v", td, err)
	}
}
