package telemetry

import (
	"bytes"
	"os"
	runtimemetrics "runtime/metrics"
	"strconv"
)

// memory reads how much memory the process has in use. Not for concurrent use.
type memory struct {
	statm *os.File // proc(5); nil where there is none
	buf   [128]byte
	goes  [2]runtimemetrics.Sample
}

func newMemory() *memory {
	m := &memory{goes: [2]runtimemetrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}}
	m.statm, _ = os.Open("/proc/self/statm")
	return m
}

func (m *memory) close() {
	if m.statm != nil {
		m.statm.Close()
	}
}

// bytes are resident, or where the system does not say so what the Go runtime holds of its memory.
func (m *memory) bytes() int64 {
	if m.statm != nil {
		if n, _ := m.statm.ReadAt(m.buf[:], 0); n > 0 {
			if f := bytes.Fields(m.buf[:n]); len(f) > 1 {
				if pages, err := strconv.ParseInt(string(f[1]), 10, 64); err == nil && pages > 0 {
					return pages * int64(os.Getpagesize())
				}
			}
		}
	}
	runtimemetrics.Read(m.goes[:])
	return int64(m.goes[0].Value.Uint64() - m.goes[1].Value.Uint64()) //nolint:gosec // a memory
}
