package policy

import (
	"context"
	"errors"
	"net/netip"
)

// Source yields the Snapshot in force. Implemented by sidecar/watch (xDS) and by tests. Safe for concurrent use.
type Source interface {
	// Current is never nil once the source is ready; before that it is nil. It does not block.
	Current() *Snapshot
	// Changed returns a channel that is closed at the next change after the call; take it before reading Current to miss nothing.
	Changed() <-chan struct{}
}

// Static is a Source that never changes.
type Static struct{ Snapshot *Snapshot }

func (s Static) Current() *Snapshot       { return s.Snapshot }
func (s Static) Changed() <-chan struct{} { return nil }

// Directory finds what the Snapshot does not have. Implemented by sidecar/watch and by tests. Safe for concurrent use.
type Directory interface {
	// Destination says who is at address in network. It blocks until it knows or ctx ends; calls for one address share one question. When the answer names a
	// Service, the Source's Current has that Service, with address among its endpoints, by the time it returns, or has had it. An error is ErrAway, ErrTooMany, ErrRefused, or ctx's.
	Destination(ctx context.Context, network string, address netip.AddrPort) (Destination, error)
	// Hold says that a connection uses a service, by its name in the Snapshot: it stays there, as long as the controller has it, until some time after release, which is
	// to be called once.
	Hold(service string) (release func())
}

// FeatureOnDemand is what a sidecar says of itself (xDS: Node.client_features) that names the services it needs (xDS: subscription to Clusters by name). Who does
// not say it is told of all services where it may need any.
const FeatureOnDemand = "tulle.dev/on-demand"

// FeatureRoutes is what a sidecar says of itself that knows the kind "route". Who does not say it, because it is older, is told of no rules: its requests go to the services
// that are called.
const FeatureRoutes = "tulle.dev/routes"

var (
	// ErrAway: nobody can be asked, because there is no connection to the controller.
	ErrAway = errors.New("the controller is away")
	// ErrTooMany: the service is not learnt, because too many others are in use.
	ErrTooMany = errors.New("too many services are in use")
	// ErrRefused: the service is not learnt, because what the controller says of it is not valid.
	ErrRefused = errors.New("what the controller says of the service is not valid")
)
