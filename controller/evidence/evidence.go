// Package evidence is the controller's end of the stream with the observer: windows of observations come in, events and the registry go out.
//
// Only the observer's identity may call. Events are kept in a ring of bounded size and numbered within an epoch (one run of the controller);
// an observer that comes back names the last number it stored and receives what follows, as far as the ring still has it.
package evidence

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// RingSize is how many events are kept for an observer that is away; older ones are dropped and counted.
const RingSize = 4096

// Server implements tullev1.EvidenceServer.
type Server struct {
	tullev1.UnimplementedEvidenceServer
	observer identity.ID
	observe  func(*tullev1.Observed) // called by one stream at a time
	log      *slog.Logger
	epoch    string

	// Windows counts windows received, Dropped events that left the ring before any observer had taken them.
	Windows, Dropped atomic.Uint64

	observing sync.Mutex // held while observe runs

	mu       sync.Mutex
	sequence uint64
	entropy  *ulid.MonotonicEntropy
	ring     []*tullev1.Told // events, oldest first
	taken    uint64          // highest sequence sent to any observer
	registry *tullev1.Told   // nil before the first SetRegistry
	changed  chan struct{}
	streams  int
}

// NewServer makes a Server that believes only observer and hands every window to observe.
func NewServer(observer identity.ID, observe func(*tullev1.Observed), log *slog.Logger) *Server {
	now := time.Now()
	return &Server{observer: observer, observe: observe, log: log, epoch: fmt.Sprintf("%x", now.UnixNano()), changed: make(chan struct{}), entropy: ulid.Monotonic(rand.Reader, 0)}
}

// Emit numbers e, gives it an id if it has none, and sends it to whoever listens. It does not block.
func (s *Server) Emit(e *tullev1.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sequence++
	if e.TimeUnixNano == 0 {
		e.TimeUnixNano = time.Now().UnixNano()
	}
	if e.Id == "" {
		e.Id = s.idLocked(time.Unix(0, e.TimeUnixNano))
	}
	if len(s.ring) == RingSize {
		if s.ring[0].GetSequence() > s.taken {
			s.Dropped.Add(1)
		}
		s.ring = append(s.ring[:0:0], s.ring[1:]...)
	}
	s.ring = append(s.ring, &tullev1.Told{Sequence: s.sequence, Epoch: s.epoch, What: &tullev1.Told_Event{Event: e}})
	s.wakeLocked()
}

// idLocked is a ULID, as the observer's own events have: both kinds of ids stand in one list, which is sorted by them.
func (s *Server) idLocked(t time.Time) string {
	id, err := ulid.New(ulid.Timestamp(t), s.entropy)
	if err != nil { // a time outside ULID's range
		id = ulid.MustNew(ulid.Now(), rand.Reader)
	}
	return id.String()
}

// SetRegistry replaces the registry and sends it to whoever listens; r must not change afterwards.
func (s *Server) SetRegistry(r *tullev1.Registry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sequence++
	s.registry = &tullev1.Told{Sequence: s.sequence, Epoch: s.epoch, What: &tullev1.Told_Registry{Registry: r}}
	s.wakeLocked()
}

func (s *Server) wakeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Connected is the number of observers that listen.
func (s *Server) Connected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.streams
}

// Exchange implements tullev1.EvidenceServer. The registry goes out at once; events begin when the first window has said where to resume.
func (s *Server) Exchange(stream grpc.BidiStreamingServer[tullev1.Observed, tullev1.Told]) error {
	if caller := peerID(stream); caller != s.observer {
		s.log.Warn("evidence refused", "caller", caller.String())
		return status.Errorf(codes.PermissionDenied, "only %s may feed evidence, the caller is %s", s.observer, caller)
	}
	s.mu.Lock()
	s.streams++
	s.mu.Unlock()
	s.log.Info("observer connected")
	defer func() {
		s.mu.Lock()
		s.streams--
		s.mu.Unlock()
		s.log.Info("observer disconnected")
	}()
	resume, ended := make(chan uint64, 1), make(chan error, 1)
	go func() { // ends when the stream does, which is when this method returns
		first := true
		for {
			w, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			if first {
				resume <- s.resumeAfter(w)
				first = false
			}
			s.Windows.Add(1)
			s.observing.Lock()
			s.observe(w)
			s.observing.Unlock()
		}
	}()
	var registry, events uint64 // highest sequences sent
	begun := false
	for {
		s.mu.Lock()
		changed := s.changed
		var out []*tullev1.Told
		if s.registry != nil && s.registry.GetSequence() > registry {
			out = append(out, s.registry)
		}
		if begun {
			for _, t := range s.ring {
				if t.GetSequence() > events {
					out = append(out, t)
				}
			}
		}
		s.mu.Unlock()
		for _, t := range out {
			if err := stream.Send(t); err != nil {
				return err
			}
			if t.GetRegistry() != nil {
				registry = t.GetSequence()
				continue
			}
			events = t.GetSequence()
			s.mu.Lock()
			s.taken = max(s.taken, events)
			s.mu.Unlock()
		}
		select {
		case <-changed:
		case events = <-resume:
			begun = true
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

// resumeAfter is the sequence after which events are to be sent. A number of another epoch, or one we never gave, says nothing.
func (s *Server) resumeAfter(w *tullev1.Observed) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.GetEpoch() != s.epoch || w.GetLastEventSequence() > s.sequence {
		return 0
	}
	return w.GetLastEventSequence()
}

func peerID(stream grpc.ServerStream) identity.ID {
	p, ok := peer.FromContext(stream.Context())
	if !ok {
		return identity.ID{}
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return identity.ID{}
	}
	return identity.PeerID(info.State)
}
