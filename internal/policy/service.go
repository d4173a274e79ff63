package policy

import (
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Service is a destination and how to treat it. Zero durations mean the default named beside the field; there is no "off" by accident:
// a negative duration is off.
type Service struct {
	Name       string
	Namespace  string
	Protocol   flow.Protocol
	External   bool     // outside the mesh: plaintext or TLS origination, one-sided edges
	Identities []string // SPIFFE IDs the endpoints may prove; empty for external
	MTLS       bool     // dial endpoints with mTLS

	RequestTimeout time.Duration // whole exchange; default 15 s
	TryTimeout     time.Duration // one attempt; default: RequestTimeout
	ConnectTimeout time.Duration // default 1 s
	IdleTimeout    time.Duration // TCP relay without bytes; default 1 h
	Retry          Retry
	MaxRequests    int // concurrent exchanges towards the service from one sidecar; default 1,024
	MaxConnections int // default 1,024
}

// Retry is off when Attempts ≤ 1 after defaults (a configured 1 is off, 0 means the default). Only exchanges that are safe (idempotent
// method, or never delivered) are retried.
type Retry struct {
	Attempts    int           // tries in all, including the first; default 2
	BudgetRatio float64       // retries allowed per request over the last 10 s; default 0.2
	BudgetMin   float64       // plus this many per second; default 10
	BackoffBase time.Duration // full jitter; default 25 ms
	BackoffMax  time.Duration // default 250 ms
}

// Defaults, applied by Service.WithDefaults.
const (
	DefaultRequestTimeout = 15 * time.Second
	DefaultConnectTimeout = time.Second
	DefaultIdleTimeout    = time.Hour
	DefaultMaxRequests    = 1024
	DefaultMaxConnections = 1024
	DefaultAttempts       = 2
	DefaultBudgetRatio    = 0.2
	DefaultBudgetMin      = 10
	DefaultBackoffBase    = 25 * time.Millisecond
	DefaultBackoffMax     = 250 * time.Millisecond
)

// WithDefaults returns s with every zero setting replaced by its default. Negative durations ("off") stay negative.
func (s Service) WithDefaults() Service {
	def(&s.RequestTimeout, DefaultRequestTimeout)
	def(&s.TryTimeout, s.RequestTimeout)
	def(&s.ConnectTimeout, DefaultConnectTimeout)
	def(&s.IdleTimeout, DefaultIdleTimeout)
	def(&s.MaxRequests, DefaultMaxRequests)
	def(&s.MaxConnections, DefaultMaxConnections)
	def(&s.Retry.Attempts, DefaultAttempts)
	def(&s.Retry.BudgetRatio, DefaultBudgetRatio)
	def(&s.Retry.BudgetMin, DefaultBudgetMin)
	def(&s.Retry.BackoffBase, DefaultBackoffBase)
	def(&s.Retry.BackoffMax, DefaultBackoffMax)
	return s
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
