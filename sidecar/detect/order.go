package detect

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// maxServerFirst bounds what is remembered; one more replaces an arbitrary one.
const maxServerFirst = 4096

// ServerFirst remembers destinations where the server speaks first, so that only a first connection waits for the caller. The zero value is ready. Safe for
// concurrent use.
type ServerFirst struct {
	mu sync.RWMutex
	m  map[netip.AddrPort]struct{}
}

// Has reports whether the server at a was last seen to speak first.
func (s *ServerFirst) Has(a netip.AddrPort) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.m[a]
	return ok
}

func (s *ServerFirst) set(a netip.AddrPort, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !first {
		delete(s.m, a)
		return
	}
	if s.m == nil {
		s.m = map[netip.AddrPort]struct{}{}
	}
	if len(s.m) >= maxServerFirst {
		for other := range s.m {
			delete(s.m, other)
			break
		}
	}
	s.m[a] = struct{}{}
}

// Watch is the caller's end c of a relay to a, with an eye on who speaks first. Silence alone proves nothing: a client may open its connections before
// it needs them.
func (s *ServerFirst) Watch(c net.Conn, a netip.AddrPort) net.Conn {
	return &watched{Conn: c, s: s, a: a}
}

type watched struct {
	net.Conn
	s      *ServerFirst
	a      netip.AddrPort
	spoken atomic.Bool
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 && !w.spoken.Swap(true) {
		w.s.set(w.a, false)
	}
	return n, err
}

func (w *watched) Write(p []byte) (int, error) {
	if !w.spoken.Swap(true) {
		w.s.set(w.a, true)
	}
	return w.Conn.Write(p)
}

// Watched implements exchange.Watcher.
func (w *watched) Watched() net.Conn {
	if w.spoken.Load() {
		return w.Conn
	}
	return nil
}

// CloseWrite ends the writing half.
func (w *watched) CloseWrite() error { return exchange.CloseWrite(w.Conn) }
