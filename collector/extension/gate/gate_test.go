package gate

import (
	"net"
	"testing"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// A call must not keep a place by standing still; one of a protocol whose calls stay open may.
func TestOnlyStreamsStayOpen(t *testing.T) {
	for streams, ends := range map[bool]bool{false: true, true: false} {
		g := New(nil, nil, 4, func() {})
		f := g.Factory()
		e, err := f.Create(t.Context(), extension.Settings{ID: component.NewID(Type)}, &config{Plaintext: true, Streams: streams}) // as the collector makes it
		if err != nil {
			t.Fatal(err)
		}
		opts, err := e.(*door).GetGRPCServerOptions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		has := make(chan bool, 1)
		s := grpc.NewServer(append(opts, grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			_, ok := stream.Context().Deadline()
			has <- ok
			return status.Error(codes.Unimplemented, "told")
		}))...)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Serve(l) }()
		cc, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cc.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, "/a/b"); err != nil {
			t.Fatal(err)
		}
		if got := <-has; got != ends {
			t.Errorf("streams %t: the call ends by itself: %t", streams, got)
		}
		_ = cc.Close()
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
