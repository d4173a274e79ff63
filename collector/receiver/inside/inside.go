// Package inside is a receiver for spans that other parts of the same process were given, such as Jaeger's remote storage: they take the way of
// all others, through the limits and the checks, and count as an application's.
package inside

import (
	"context"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver"
	"google.golang.org/grpc/peer"

	"github.com/tulle-mesh/tulle/store"
)

// Type is the receiver's name in a configuration.
var Type = component.MustNewType("inside")

// Inside is the receiver. The zero value is ready; it is closed until the collector starts it and after it was shut down. Safe for concurrent use.
type Inside struct {
	mu   sync.RWMutex
	next consumer.Traces
}

type config struct{}

// Factory always yields this receiver.
func (i *Inside) Factory() receiver.Factory {
	return receiver.NewFactory(Type, func() component.Config { return &config{} },
		receiver.WithTraces(func(_ context.Context, _ receiver.Settings, _ component.Config, next consumer.Traces) (receiver.Traces, error) {
			return &started{inside: i, next: next}, nil
		}, component.StabilityLevelStable))
}

// started is the receiver of one pipeline.
type started struct {
	inside *Inside
	next   consumer.Traces
}

func (s *started) Start(context.Context, component.Host) error {
	s.inside.set(s.next)
	return nil
}

func (s *started) Shutdown(context.Context) error {
	s.inside.set(nil)
	return nil
}

func (i *Inside) set(next consumer.Traces) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.next = next
}

// Write returns when td is stored; td is the pipeline's from then on. Whoever handed it to the process by a gRPC call of its own is no reporter of the mesh, whatever
// its certificate. Before the collector runs and after it the error wraps store.ErrClosed.
func (i *Inside) Write(ctx context.Context, td ptrace.Traces) error {
	i.mu.RLock()
	defer i.mu.RUnlock() // Shutdown waits for writes in progress
	if i.next == nil {
		return store.ErrClosed
	}
	return i.next.ConsumeTraces(peer.NewContext(ctx, &peer.Peer{}), td)
}
