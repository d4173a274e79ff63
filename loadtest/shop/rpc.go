package shop

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tulle-mesh/tulle/internal/gen/shopv1"
)

// register is the one table of who answers what over gRPC; false for a service that does not.
func (s *server) register(g grpc.ServiceRegistrar) bool {
	switch s.svc.Name {
	case "pricing":
		shopv1.RegisterPricingServer(g, &pricing{s: s})
	case "ledger":
		shopv1.RegisterLedgerServer(g, &ledger{})
	default:
		return false
	}
	return true
}

// serveGRPC serves until ctx ends and finishes what is in flight.
func (s *server) serveGRPC(ctx context.Context, l net.Listener) error {
	g := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			if err := s.suffer(ctx); err != nil {
				return nil, err
			}
			resp, err := handle(ctx, req)
			if err == nil {
				s.burn(resp)
			}
			return resp, err
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			if err := s.suffer(stream.Context()); err != nil {
				return err
			}
			return handle(srv, stream)
		}),
	)
	if !s.register(g) {
		return fmt.Errorf("%s: no service is registered for it", s.svc.Name)
	}
	healthpb.RegisterHealthServer(g, health.NewServer())
	failed := make(chan error, 1)
	go func() { failed <- g.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	late := time.AfterFunc(drainTimeout, g.Stop)
	g.GracefulStop()
	err := error(nil)
	if !late.Stop() {
		err = fmt.Errorf("calls in flight did not finish within %s", drainTimeout)
	}
	_ = <-failed // nil, or grpc.ErrServerStopped
	return err
}

// suffer is the service's pace and the fault in force, as serve has them for HTTP.
func (s *server) suffer(ctx context.Context) error {
	hit := s.faults.hit()
	pause(ctx, s.svc.Pace.draw()+hit.Latency)
	switch {
	case hit.Kind == FaultError && hit.Status == http.StatusServiceUnavailable:
		return status.Error(codes.Unavailable, s.cfg.Instance+" is out of order")
	case hit.Kind == FaultError:
		return status.Error(codes.Internal, s.cfg.Instance+" is out of order")
	case s.svc.Pace.Errors > 0 && rand.Float64() < s.svc.Pace.Errors:
		return status.Error(codes.Internal, s.cfg.Instance+" tripped over a rare bug")
	}
	return nil
}

// pricing: v2 rounds to whole units; the difference can be seen in the answers.
type pricing struct {
	shopv1.UnimplementedPricingServer
	s *server
}

func (p *pricing) price(product int32) (*shopv1.Price, error) {
	if product < 1 || product > Products {
		return nil, status.Errorf(codes.NotFound, "product %d does not exist", product)
	}
	amount := 4.99 + float64(product*37%9000)/100
	if p.s.cfg.Version == "v2" {
		amount = float64(int(amount))
	}
	return &shopv1.Price{Product: product, Amount: amount, Currency: "EUR"}, nil
}

func (p *pricing) Get(_ context.Context, r *shopv1.GetPriceRequest) (*shopv1.Price, error) {
	return p.price(r.GetProduct())
}

func (p *pricing) List(r *shopv1.ListPricesRequest, stream grpc.ServerStreamingServer[shopv1.Price]) error {
	for _, id := range r.GetProducts() {
		price, err := p.price(id)
		if err != nil {
			return err
		}
		p.s.burn(price)
		if err := stream.Send(price); err != nil {
			return err
		}
	}
	return nil
}

type ledger struct {
	shopv1.UnimplementedLedgerServer
	entries atomic.Uint64
}

func (l *ledger) Book(_ context.Context, r *shopv1.BookRequest) (*shopv1.BookResponse, error) {
	if r.GetAmount() <= 0 {
		return nil, status.Errorf(codes.InvalidArgument, "an entry of %g: must be above 0", r.GetAmount())
	}
	return &shopv1.BookResponse{Entry: l.entries.Add(1)}, nil
}

// callTimeout bounds one call to a dependency.
const callTimeout = 5 * time.Second

// dialGRPC prepares the connection to a dependency; it is made with the first call. Calls carry the trace context of the request that is being served.
func (c *caller) dialGRPC(service, address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithAuthority(service),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			ctx, cancel := context.WithTimeout(c.traced(ctx), callTimeout)
			defer cancel()
			return refine(method, invoke(ctx, method, req, reply, cc, opts...))
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := open(c.traced(ctx), desc, cc, method, opts...)
			return stream, refine(method, err)
		}),
	)
}

// traced puts the trace context of ctx into the metadata of a call.
func (c *caller) traced(ctx context.Context) context.Context {
	kept, ok := ctx.Value(traceKey{}).(http.Header)
	if !ok || c.forgets {
		return ctx
	}
	for name, values := range kept {
		for _, v := range values {
			ctx = metadata.AppendToOutgoingContext(ctx, name, v)
		}
	}
	return ctx
}

// refine tells what is the customer's doing from failures, as caller.do does for HTTP.
func refine(method string, err error) error {
	switch status.Code(err) {
	case codes.OK:
		return nil
	case codes.NotFound:
		return fmt.Errorf("%s: %w", method, errors.Join(errNotFound, err))
	case codes.InvalidArgument, codes.FailedPrecondition:
		return fmt.Errorf("%s: %w", method, errors.Join(errRefused, err))
	}
	return fmt.Errorf("%s: %w", method, err)
}
