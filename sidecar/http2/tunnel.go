package http2

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// tunnel is a call whose other side is not HTTP/2 as a connection, for exchange.Relay: what came by the lane r is read, what is written goes on by the
// lane w. One goroutine may read while another writes; the deadlines may be set by any, under whatever lock.
type tunnel struct {
	k             *call
	c             *conn // of the stream
	r, w          *lane
	read, written *dirty // of the goroutine that reads, and of the one that writes

	mu              sync.Mutex // never held while another lock is taken
	readBy, writeBy time.Time

	reading, writing alarm
}

var _ net.Conn = (*tunnel)(nil)

// broken says why nothing comes or goes any more. k.mu is held.
func (t *tunnel) broken() error {
	k := t.k
	if e := k.fallen(); e != nil {
		return e
	}
	if k.over {
		return errors.New(k.x.Outcome.Detail)
	}
	return nil
}

// until is a deadline, and whether it has passed.
func (t *tunnel) until(by *time.Time) (time.Time, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return *by, !by.IsZero() && !time.Now().Before(*by)
}

// Read implements net.Conn. What it returns is granted to the peer.
func (t *tunnel) Read(p []byte) (int, error) {
	k, l := t.k, t.r
	k.mu.Lock()
	for {
		if err := t.broken(); err != nil {
			k.mu.Unlock()
			return 0, err
		}
		by, late := t.until(&t.readBy)
		if late {
			k.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		}
		if l.q.unsent > 0 {
			n := k.take(l, p, t.read)
			k.mu.Unlock()
			t.read.flush()
			return n, nil
		}
		if l.ended {
			k.mu.Unlock()
			return 0, io.EOF
		}
		k.wait(l, t.read, &t.reading, by)
	}
}

// Write implements net.Conn. It returns when all of p has gone to the stream.
func (t *tunnel) Write(p []byte) (int, error) {
	k, l := t.k, t.w
	k.mu.Lock()
	k.pump(l, p, false, t.written)
	for {
		err := t.broken()
		if err == nil && t.closed() {
			err = errEnded
		}
		by, late := t.until(&t.writeBy)
		if err == nil && late {
			err = os.ErrDeadlineExceeded
		}
		left := l.q.unsent
		if err != nil || left == 0 {
			if left > 0 {
				l.q.drop()
			}
			k.mu.Unlock()
			t.written.flush()
			return len(p) - left, err
		}
		k.wait(l, t.written, &t.writing, by)
	}
}

var errEnded = errors.New("the stream was closed by its peer")

// closed reports whether the stream takes nothing any more, though it was not ended here: the peer may have ended its own half before. k.mu is held.
func (t *tunnel) closed() bool {
	_, s := t.k.ends(t.w)
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	return !t.w.passed && (c.dead || s.localDone)
}

// CloseWrite ends what is written: the peer reads to its end.
func (t *tunnel) CloseWrite() error {
	k := t.k
	k.mu.Lock()
	t.w.ended = true
	k.pump(t.w, nil, false, t.written)
	k.mu.Unlock()
	t.written.flush()
	return nil
}

// Close implements net.Conn. The stream is ended by whoever carries the exchange, which knows how.
func (t *tunnel) Close() error { return t.SetDeadline(past) }

// SetDeadline implements net.Conn.
func (t *tunnel) SetDeadline(by time.Time) error {
	_ = t.SetReadDeadline(by)
	return t.SetWriteDeadline(by)
}

// SetReadDeadline implements net.Conn.
func (t *tunnel) SetReadDeadline(by time.Time) error { return t.setDeadline(&t.readBy, by, t.r.mover) }

// SetWriteDeadline implements net.Conn.
func (t *tunnel) SetWriteDeadline(by time.Time) error {
	return t.setDeadline(&t.writeBy, by, t.w.mover)
}

func (t *tunnel) setDeadline(at *time.Time, by time.Time, mover chan struct{}) error {
	t.mu.Lock()
	*at = by
	t.mu.Unlock()
	poke(mover)
	return nil
}

// LocalAddr implements net.Conn.
func (t *tunnel) LocalAddr() net.Addr { return t.c.nc.LocalAddr() }

// RemoteAddr implements net.Conn.
func (t *tunnel) RemoteAddr() net.Addr { return t.c.nc.RemoteAddr() }
