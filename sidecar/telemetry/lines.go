package telemetry

import (
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// pendingWrites bounds how many blocks of lines wait for a slow log file or pipe; more are dropped and counted.
const pendingWrites = 16

// lineWriter writes the access log: one line for every exchange and connection that closed. The encoder formats, one goroutine writes, so
// that a stuck pipe holds up nothing but the log.
type lineWriter struct {
	w      io.Writer
	text   bool
	drop   func(dropReason, int)
	log    *slog.Logger
	blocks chan block
	failed atomic.Bool
	done   chan struct{}
}

type block struct {
	text  *[]byte // from texts
	lines int
}

// texts are the memory of blocks; an idle sidecar gives it back to the garbage collector.
var texts = sync.Pool{New: func() any { return new([]byte) }}

func newLineWriter(w io.Writer, f LogFormat, drop func(dropReason, int), log *slog.Logger) *lineWriter {
	return &lineWriter{w: w, text: f == LogText, drop: drop, log: log, blocks: make(chan block, pendingWrites), done: make(chan struct{})}
}

// format is called by the encoder only.
func (l *lineWriter) format(recs []flow.Record) {
	b := block{text: texts.Get().(*[]byte)}
	text := (*b.text)[:0]
	for i := range recs {
		r := &recs[i]
		if r.Kind == flow.KindAttempt || r.Phase != flow.PhaseClose {
			continue
		}
		if l.text {
			text = r.AppendText(text)
		} else {
			text = r.AppendJSON(text)
		}
		b.lines++
	}
	*b.text = text
	if b.lines == 0 {
		texts.Put(b.text)
		return
	}
	select {
	case l.blocks <- b:
	default:
		l.drop(dropLog, b.lines)
		texts.Put(b.text)
	}
}

// close ends the writer after what is waiting has been written, or after timeout: a Write into a stuck pipe cannot be called back, and its
// goroutine then ends with the process. The encoder must be done.
func (l *lineWriter) close(timeout time.Duration) {
	close(l.blocks)
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-l.done:
	case <-timer.C:
		l.log.Warn("telemetry: access log did not take its last lines in time", "timeout", timeout)
	}
}

func (l *lineWriter) write() {
	defer close(l.done)
	for b := range l.blocks {
		_, err := l.w.Write(*b.text)
		texts.Put(b.text)
		if err != nil {
			l.drop(dropLog, b.lines)
			if !l.failed.Swap(true) {
				l.log.Error("telemetry: access log cannot be written; lines are dropped until it can", "err", err)
			}
		} else {
			l.failed.Store(false)
		}
	}
}
