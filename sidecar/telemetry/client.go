package telemetry

import (
	"context"
	"crypto/tls"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// signal is one of OTLP's services as the sidecar uses them.
type signal struct {
	index  int // in arrays by signal
	name   string
	method string
}

var (
	traces  = signal{0, "traces", "/opentelemetry.proto.collector.trace.v1.TraceService/Export"}
	metrics = signal{1, "metrics", "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"}
)

// client sends one request, whose bytes are head followed by body, and returns the response's bytes. It keeps body, if at all, by a reference of
// its own. Errors are gRPC statuses.
type client interface {
	export(ctx context.Context, s signal, head []byte, body mem.Buffer) ([]byte, error)
	Close() error
}

type grpcClient struct{ *grpc.ClientConn }

// dial makes the connection to the observer; it connects by itself in the background and again after every loss, at most 2 s after the
// observer is back.
func dial(target string, secure *tls.Config, compression string) (*grpcClient, error) {
	creds := insecure.NewCredentials()
	if secure != nil {
		creds = credentials.NewTLS(secure)
	}
	call := []grpc.CallOption{grpc.ForceCodecV2(raw{})}
	if compression == gzip.Name {
		call = append(call, grpc.UseCompressor(gzip.Name))
	}
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultCallOptions(call...),
		grpc.WithIdleTimeout(0),
		grpc.WithNoProxy(), // the observer is a neighbour; an application's HTTPS_PROXY must not see the mesh's evidence
		grpc.WithDisableServiceConfig(),
		grpc.WithReadBufferSize(4<<10),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		}),
	)
	if err != nil {
		return nil, err
	}
	return &grpcClient{conn}, nil
}

func (c *grpcClient) export(ctx context.Context, s signal, head []byte, body mem.Buffer) ([]byte, error) {
	var response []byte
	err := c.Invoke(ctx, s.method, message{head, body}, &response)
	return response, err
}

// message is one request: its bytes are head, then body.
type message struct {
	head []byte
	body mem.Buffer
}

// raw is a codec for messages that are bytes already. The transport gets a reference of its own, which it may keep after a call that was
// cancelled.
type raw struct{}

func (raw) Name() string { return "proto" } // the content type stays application/grpc+proto

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	m := v.(message)
	m.body.Ref()
	return mem.BufferSlice{mem.SliceBuffer(m.head), m.body}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// verdict is what an export error means for the batch.
type verdict uint8

const (
	retry   verdict = iota // the observer is away or busy: as long as there is room
	limited                // may be its state or may be the batch: a few times
	refuse                 // it will never take this batch
)

// judge follows OTLP's table of retryable codes (opentelemetry-proto, docs/specification.md, "Failures"), but for INTERNAL and UNKNOWN, which a
// dying connection also produces, and RESOURCE_EXHAUSTED without RetryInfo, which gRPC itself gives for a message over its size limit.
func judge(err error) (v verdict, wait time.Duration) {
	st := status.Convert(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			wait = max(info.GetRetryDelay().AsDuration(), 0)
			if st.Code() == codes.ResourceExhausted {
				return retry, wait
			}
		}
	}
	switch st.Code() {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted:
		return retry, wait
	case codes.ResourceExhausted, codes.OutOfRange, codes.DataLoss, codes.Internal, codes.Unknown:
		return limited, wait
	}
	return refuse, 0
}
