package detect

import (
	"errors"
	"net/netip"
	"os"
	"sync"
)

func timedOut(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// maxServerFirst bounds what is remembered; one more replaces an arbitrary one.
const maxServerFirst = 4096

// Silent names connections that are alike in who speaks first.
type Silent struct {
	To     netip.AddrPort // what the caller called
	Socket string         // or the Unix socket
	From   netip.Addr     // the caller, where callers differ in what they speak; else zero
}

// ServerFirst remembers where the server was seen to speak first, so that only a first connection waits for its caller: at most 4,096 of them, until a caller is seen to speak
// first there, at the latest until the process ends. The zero value is ready. Safe for concurrent use.
type ServerFirst struct {
	mu sync.RWMutex
	m  map[Silent]struct{}
}

// Has reports whether the server was last seen to speak first.
func (s *ServerFirst) Has(k Silent) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.m[k]
	return ok
}

// Set says who has spoken first. Silence alone proves nothing: a client may open its connections before it needs them.
func (s *ServerFirst) Set(k Silent, first bool) {
	if s.Has(k) == first {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !first {
		delete(s.m, k)
		return
	}
	if s.m == nil {
		s.m = map[Silent]struct{}{}
	}
	if len(s.m) >= maxServerFirst {
		for other := range s.m {
			delete(s.m, other)
			break
		}
	}
	s.m[k] = struct{}{}
}
