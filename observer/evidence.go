package observer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/store/event"
)

// EvidenceConfig is what an Evidence client needs. All fields are required but Log.
type EvidenceConfig struct {
	Controller   string      // host:port of the controller's gRPC listener
	ControllerID identity.ID // who must answer there
	Holder       *identity.Holder
	Observations func(ctx context.Context) <-chan *tullev1.Observed
	// Store keeps events and returns when they are durable; it skips those it has.
	Store    func(ctx context.Context, e ...event.Event) error
	Registry func(*tullev1.Registry)
	Log      *slog.Logger
}

// evidenceQueue is how many one-second windows wait for a controller that is away. Older ones are dropped and counted: a decision on
// evidence that old would be wrong.
const evidenceQueue = 30

// Bounds of the pause between two tries to connect.
const (
	evidenceMinBackoff = 250 * time.Millisecond
	evidenceMaxBackoff = 5 * time.Second
)

// Evidence is the observer's end of the stream with the controller: windows of observations go out; events and the registry come in. Without a
// controller everything else goes on.
type Evidence struct {
	cfg     EvidenceConfig
	queue   chan *tullev1.Observed
	dropped atomic.Uint64
	sent    atomic.Uint64
	events  atomic.Uint64

	mu       sync.Mutex
	status   EvidenceStatus
	epoch    string
	sequence uint64 // highest event of epoch that is stored
}

// EvidenceStatus is how the stream is. Since is when it became so.
type EvidenceStatus struct {
	Connected bool
	Since     time.Time
	LastError string
	Sent      uint64 // windows
	Dropped   uint64 // windows that were too old before the controller could take them
	Events    uint64 // received
}

// NewEvidence makes a client; Run connects it.
func NewEvidence(cfg EvidenceConfig) *Evidence {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Evidence{cfg: cfg, queue: make(chan *tullev1.Observed, evidenceQueue), status: EvidenceStatus{Since: time.Now()}}
}

// Status may be called at any time.
func (c *Evidence) Status() EvidenceStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.Sent, s.Dropped, s.Events = c.sent.Load(), c.dropped.Load(), c.events.Load()
	return s
}

func (c *Evidence) set(connected bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if connected != c.status.Connected {
		c.status.Since = time.Now()
	}
	c.status.Connected, c.status.LastError = connected, ""
	if err != nil {
		c.status.LastError = err.Error()
	}
}

// Run keeps the stream up until ctx is done. It is ready at once: the controller may come later.
func (c *Evidence) Run(ctx context.Context, ready func()) error {
	ready()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { c.collect(ctx) })
	conn, err := grpc.NewClient("passthrough:///"+c.cfg.Controller,
		grpc.WithTransportCredentials(credentials.NewTLS(c.cfg.Holder.ClientTLS(c.cfg.ControllerID))),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 5 * time.Second}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)),
	)
	if err != nil {
		return fmt.Errorf("controller address %q: %w", c.cfg.Controller, err)
	}
	defer conn.Close()
	backoff, told := evidenceMinBackoff, false
	for {
		pause := evidenceMinBackoff // while there is no certificate, which comes from elsewhere
		if c.cfg.Holder.Get() == nil {
			c.set(false, identity.ErrNoMaterial)
		} else {
			began := time.Now()
			err := c.stream(ctx, tullev1.NewEvidenceClient(conn))
			if ctx.Err() != nil {
				return nil
			}
			c.set(false, err)
			lasted := time.Since(began)
			if !told || lasted > time.Minute {
				c.cfg.Log.Warn("no stream with the controller; decisions wait, everything else goes on", "controller", c.cfg.Controller, "err", err)
				told = true
			}
			if lasted > evidenceMaxBackoff {
				backoff = evidenceMinBackoff
			}
			pause, backoff = time.Duration((0.5+rand.Float64())*float64(backoff)), min(2*backoff, evidenceMaxBackoff)
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		conn.ResetConnectBackoff()
	}
}

// collect moves windows into the queue, whether or not there is a controller to take them.
func (c *Evidence) collect(ctx context.Context) {
	for w := range c.cfg.Observations(ctx) {
		for {
			select {
			case c.queue <- w:
			default:
				select {
				case <-c.queue:
					c.dropped.Add(1)
				default:
				}
				continue
			}
			break
		}
	}
}

// stream runs one connection until it breaks.
func (c *Evidence) stream(ctx context.Context, client tullev1.EvidenceClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := client.Exchange(ctx)
	if err != nil {
		return err
	}
	received := make(chan error, 1)
	go func() { received <- c.receive(ctx, s) }()
	for {
		select {
		case err := <-received:
			return err
		case w := <-c.queue:
			// The window is shared with other readers: what is ours goes into a copy of the outer message.
			c.mu.Lock()
			out := &tullev1.Observed{
				WindowStartUnixNano: w.GetWindowStartUnixNano(), WindowEndUnixNano: w.GetWindowEndUnixNano(), Endpoints: w.GetEndpoints(),
				MissingReporters: w.GetMissingReporters(), LastEventSequence: c.sequence, Epoch: c.epoch,
			}
			c.mu.Unlock()
			if err := s.Send(out); err != nil {
				cancel()
				if rerr := <-received; errors.Is(err, io.EOF) {
					return rerr // Send only says that the stream has ended; the other direction says why
				}
				return err
			}
			c.sent.Add(1)
		}
	}
}

func (c *Evidence) receive(ctx context.Context, s grpc.BidiStreamingClient[tullev1.Observed, tullev1.Told]) error {
	for {
		t, err := s.Recv()
		if err != nil {
			return err
		}
		c.set(true, nil)
		switch {
		case t.GetRegistry() != nil:
			c.cfg.Registry(t.GetRegistry())
		case t.GetEvent() != nil:
			c.events.Add(1)
			if err := c.cfg.Store(ctx, fromWire(t.GetEvent())); err != nil {
				return fmt.Errorf("keep an event of the controller: %w", err) // it is sent again on the next connection
			}
			c.mu.Lock()
			c.epoch, c.sequence = t.GetEpoch(), t.GetSequence()
			c.mu.Unlock()
		}
	}
}

func fromWire(e *tullev1.Event) event.Event {
	out := event.Event{
		ID: e.GetId(), Time: time.Unix(0, e.GetTimeUnixNano()).UTC(), Kind: event.Kind(e.GetKind()), Severity: e.GetSeverity(), Service: e.GetService(),
		Endpoint: e.GetEndpoint(), Instance: e.GetInstance(), Message: e.GetMessage(), Reason: e.GetReason(), Evidence: e.GetEvidence(),
		Revision: e.GetRevision(), Override: e.GetOverrideId(), Traces: e.GetTraces(),
	}
	if n := e.GetExpiresUnixNano(); n != 0 {
		t := time.Unix(0, n).UTC()
		out.Expires = &t
	}
	return out
}
