package jaeger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"

	"github.com/apache/thrift/lib/go/thrift"
	"github.com/jaegertracing/jaeger/thrift-gen/agent"
	jaegerthrift "github.com/jaegertracing/jaeger/thrift-gen/jaeger"
	"github.com/jaegertracing/jaeger/thrift-gen/zipkincore"
	translator "github.com/open-telemetry/opentelemetry-collector-contrib/pkg/translator/jaeger"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/collector/processor/backpressure"
)

// bounded is a Thrift protocol that refuses lists, sets and maps with more elements than bytes are left: the library would reserve memory for as many as the
// sender claims, gigabytes for a message of twenty bytes.
type bounded struct {
	thrift.TProtocol
	left func() uint64
}

var errClaim = errors.New("more elements are claimed than the message has bytes")

func (p bounded) check(n int, err error) error {
	if err == nil && (n < 0 || uint64(n) > p.left()) {
		return thrift.NewTProtocolExceptionWithType(thrift.SIZE_LIMIT, errClaim)
	}
	return err
}

func (p bounded) ReadListBegin(ctx context.Context) (thrift.TType, int, error) {
	t, n, err := p.TProtocol.ReadListBegin(ctx)
	return t, n, p.check(n, err)
}

func (p bounded) ReadSetBegin(ctx context.Context) (thrift.TType, int, error) {
	t, n, err := p.TProtocol.ReadSetBegin(ctx)
	return t, n, p.check(n, err)
}

func (p bounded) ReadMapBegin(ctx context.Context) (thrift.TType, thrift.TType, int, error) {
	k, v, n, err := p.TProtocol.ReadMapBegin(ctx)
	return k, v, n, p.check(n, err)
}

func limits(n int) *thrift.TConfiguration {
	return &thrift.TConfiguration{MaxMessageSize: int32(n), MaxFrameSize: int32(n)} //nolint:gosec // at most maxBody
}

func compactProtocol(t thrift.TTransport, c *thrift.TConfiguration) thrift.TProtocol {
	return thrift.NewTCompactProtocolConf(t, c)
}

func binaryProtocol(t thrift.TTransport, c *thrift.TConfiguration) thrift.TProtocol {
	return thrift.NewTBinaryProtocolConf(t, c)
}

// readerOf reads one message.
func readerOf(b []byte, protocol func(thrift.TTransport, *thrift.TConfiguration) thrift.TProtocol) thrift.TProtocol {
	t := &thrift.TMemoryBuffer{Buffer: bytes.NewBuffer(b)}
	return bounded{protocol(t, limits(len(b))), t.RemainingBytes}
}

func translate(b *jaegerthrift.Batch) (ptrace.Traces, error) {
	if b == nil || b.Process == nil {
		return ptrace.Traces{}, errors.New("a batch without its process")
	}
	return translator.ThriftToTraces(b)
}

// traces takes a batch over HTTP.
func (s *server) traces(w http.ResponseWriter, r *http.Request) {
	switch mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); {
	case err == nil && (mediaType == "application/x-thrift" || mediaType == "application/vnd.apache.thrift.binary"):
	default:
		http.Error(w, "batches are taken as application/x-thrift or application/vnd.apache.thrift.binary", http.StatusUnsupportedMediaType)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		code := http.StatusBadRequest
		if large := (*http.MaxBytesError)(nil); errors.As(err, &large) {
			code = http.StatusRequestEntityTooLarge
		}
		http.Error(w, fmt.Sprintf("the body cannot be read: %v", err), code)
		return
	}
	batch := jaegerthrift.NewBatch()
	var td ptrace.Traces
	if err = batch.Read(r.Context(), readerOf(body, binaryProtocol)); err == nil {
		td, err = translate(batch)
	}
	if err != nil {
		http.Error(w, fmt.Sprintf("this is no batch of Jaeger spans: %v", err), http.StatusBadRequest)
		return
	}
	if td.SpanCount() > 0 {
		if err := s.next.ConsumeTraces(r.Context(), td); err != nil {
			backpressure.WriteHTTP(w, err)
			return
		}
	}
	w.WriteHeader(http.StatusAccepted)
}

// maxDatagram is the largest that UDP carries.
const maxDatagram = 65507

// listenUDP starts the workers of one socket. Each reads a datagram, waits until it is kept, and reads the next: the socket's buffer is the only queue.
func (s *server) listenUDP(ctx context.Context, name string, c *UDP) error {
	conn, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", c.Endpoint)
	if err != nil {
		return fmt.Errorf("listen for Jaeger over UDP on %s: %w", c.Endpoint, err)
	}
	if u, ok := conn.(*net.UDPConn); ok {
		_ = u.SetReadBuffer(4 << 20) // the system may allow less; then bursts are lost sooner
	}
	s.udp = append(s.udp, conn)
	s.hooks.Listening(s.set.ID.String()+" "+name, conn.LocalAddr().String())
	protocol := compactProtocol
	if name == "thrift_binary" {
		protocol = binaryProtocol
	}
	for range c.Workers {
		s.done.Go(func() {
			buf := make([]byte, maxDatagram)
			for {
				n, _, err := conn.ReadFrom(buf)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil || n == 0 {
					continue
				}
				s.datagram(ctx, buf[:n], protocol)
			}
		})
	}
	return nil
}

// datagram takes one call of the agent's emitBatch.
func (s *server) datagram(ctx context.Context, b []byte, protocol func(thrift.TTransport, *thrift.TConfiguration) thrift.TProtocol) {
	h := &emitted{}
	ctx = context.WithoutCancel(ctx) // that of Start
	if _, err := agent.NewAgentProcessor(h).Process(ctx, readerOf(b, protocol), binaryProtocol(thrift.NewTMemoryBuffer(), nil)); err != nil || h.batch == nil {
		s.hooks.Dropped(ReasonMalformed, 1)
		return
	}
	td, err := translate(h.batch)
	if err != nil {
		s.hooks.Dropped(ReasonMalformed, 1)
		return
	}
	if n := td.SpanCount(); n > 0 {
		if err := s.next.ConsumeTraces(ctx, td); err != nil {
			s.hooks.Dropped(ReasonRefused, n)
		}
	}
}

// emitted keeps what a call brought. It has to be there for the generated code, which calls it with the batch.
type emitted struct{ batch *jaegerthrift.Batch }

func (e *emitted) EmitBatch(_ context.Context, b *jaegerthrift.Batch) error {
	e.batch = b
	return nil
}

func (*emitted) EmitZipkinBatch(context.Context, []*zipkincore.Span) error {
	return errors.New("spans of Zipkin are taken over HTTP only")
}
