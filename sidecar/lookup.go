package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
	"github.com/tulle-mesh/tulle/sidecar/listen"
)

// Answer is how a lookup of a cold destination ended: one that the Snapshot did not have when a connection to it arrived.
type Answer uint8

const (
	// AnswerService: it is a service, which the Snapshot has now.
	AnswerService Answer = iota
	// AnswerUnknown: it is none.
	AnswerUnknown
	// AnswerTimeout: the controller was connected and did not say so in time.
	AnswerTimeout
	// AnswerAway: the controller was away.
	AnswerAway
	// AnswerFailed: it is a service that cannot be learnt.
	AnswerFailed
	numAnswers
)

var answerNames = [numAnswers]string{"service", "unknown", "timeout", "away", "failed"}

// String is the answer as it stands in metrics.
func (a Answer) String() string { return answerNames[a] }

// Answers lists all of them.
func Answers() []Answer {
	return []Answer{AnswerService, AnswerUnknown, AnswerTimeout, AnswerAway, AnswerFailed}
}

// Lookups counts what connections to cold destinations waited for. Safe for concurrent use.
type Lookups struct {
	answers [numAnswers]atomic.Uint64
	decided [2]atomic.Uint64 // by policy.Unknown

	mu    sync.Mutex
	waits flow.Histogram
}

// Count is how many ended with a.
func (l *Lookups) Count(a Answer) uint64 { return l.answers[a].Load() }

// Decided is how many connections without an answer became d.
func (l *Lookups) Decided(d policy.Unknown) uint64 { return l.decided[d].Load() }

// Waits is how long each waited.
func (l *Lookups) Waits() flow.Histogram {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waits.Clone()
}

func (l *Lookups) ended(a Answer, took time.Duration) {
	l.answers[a].Add(1)
	l.mu.Lock()
	l.waits.Observe(took)
	l.mu.Unlock()
}

// Lookups shows what became of connections to destinations that the Snapshot did not have.
func (s *Sidecar) Lookups() *Lookups { return &s.lookups }

// lookup asks who is at to, and waits until the listener of c knows it, at most as long as its policy says. It returns the listener's binding of then; that is the
// one that judges the connection, whatever was in force when it arrived. Without an answer, unanswered says why.
func (s *Sidecar) lookup(c *listen.Conn, b *exchange.Binding, to netip.AddrPort) (now *exchange.Binding, k exchange.Known, ok bool, unanswered error) {
	begin := time.Now()
	ctx, cancel := context.WithTimeout(s.running, b.Listener.Interception.LookupTimeout)
	defer cancel()
	d, err := s.cfg.Directory.Destination(ctx, "", to)
	now = b
	if err == nil && d.Service != "" {
		now, k, ok, err = s.learnt(ctx, c, b, to)
	}
	answer := AnswerUnknown
	switch {
	case ok:
		answer = AnswerService
	case err == nil:
	case errors.Is(err, policy.ErrAway):
		answer = AnswerAway
	case ctx.Err() != nil:
		answer = AnswerTimeout
		err = fmt.Errorf("the controller has not said what it is within %s", b.Listener.Interception.LookupTimeout)
		if s.running.Err() != nil {
			err = errors.New("the sidecar is stopping")
		}
	default:
		answer = AnswerFailed
	}
	s.lookups.ended(answer, time.Since(begin))
	return now, k, ok, err
}

// learnt waits until c's listener has a Snapshot with to.
func (s *Sidecar) learnt(ctx context.Context, c *listen.Conn, b *exchange.Binding, to netip.AddrPort) (*exchange.Binding, exchange.Known, bool, error) {
	for {
		turned := *s.turned.Load() // before the binding, to miss nothing
		now := c.Binding()
		if now.Intercepted == nil || now.Listener.Side != flow.SideClient { // the listener is another one
			return b, exchange.Known{}, false, nil
		}
		if k, ok := now.Intercepted.At[to]; ok {
			return now, k, true, nil
		}
		select {
		case <-turned:
		case <-ctx.Done():
			return b, exchange.Known{}, false, ctx.Err()
		}
	}
}
