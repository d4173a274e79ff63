package exchange

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// RelayEnd is one end of a relay.
type RelayEnd struct {
	net.Conn
	Buffered []byte // bytes of this end that were read already; relayed first
	Counted  bool   // whoever made this end counts what it gives: Relay does not
}

// Relay copies bytes both ways, exactly, until both directions have ended, either end fails, or no byte moved for idle (≤ 0: for ever).
// An end of stream in one direction is passed on as a half-close while the other goes on. Bytes from down count as x.BytesIn, bytes to
// down as x.BytesOut, but for those of an end that is Counted. It returns ReasonNone when both directions ended in order. The caller closes both connections: in order after
// ReasonNone, otherwise so that the peers notice.
func Relay(x *Exchange, down, up RelayEnd, idle time.Duration) (flow.Reason, error) {
	r := relay{x: x, idle: idle}
	r.touch()
	if !x.attachRelay(down.Conn, up.Conn) {
		return x.Aborted(), errAborted
	}
	defer x.attachRelay(nil, nil)
	var (
		wg       sync.WaitGroup
		upErr    error // of down -> up
		upReason flow.Reason
	)
	wg.Go(func() {
		upReason, upErr = r.copy(up.Conn, down, &x.BytesIn, flow.ReasonDownstreamReset, flow.ReasonUpstreamReset)
		if upErr != nil {
			_ = up.SetDeadline(past)
			_ = down.SetDeadline(past)
		}
	})
	reason, err := r.copy(down.Conn, up, &x.BytesOut, flow.ReasonUpstreamReset, flow.ReasonDownstreamReset)
	if err != nil {
		_ = up.SetDeadline(past)
		_ = down.SetDeadline(past)
	}
	wg.Wait()
	if a := x.Aborted(); a != flow.ReasonNone {
		return a, errAborted
	}
	// The first failure is the cause; the other direction was only woken by it.
	if upErr != nil && (err == nil || r.first.Load() == 2) {
		return upReason, upErr
	}
	return reason, err
}

var errAborted = errors.New("the relay was cut while the sidecar stopped")

type relay struct {
	x     *Exchange
	idle  time.Duration
	last  atomic.Int64 // monotonic ns of the last byte in either direction
	first atomic.Int32 // 1: down's writer failed first, 2: up's writer did
}

var epoch = time.Now()

func (r *relay) touch() { r.last.Store(int64(time.Since(epoch))) }

func (r *relay) left() time.Duration {
	return r.idle - (time.Since(epoch) - time.Duration(r.last.Load()))
}

// RelayMemory is what the buffers of one Relay take of the Room. Its caller takes it and gives it back.
const RelayMemory = 2 * relayBuffer

const relayBuffer = 32 << 10

var relayBuffers = sync.Pool{New: func() any { return new([relayBuffer]byte) }}

func (r *relay) copy(dst net.Conn, src RelayEnd, n *atomic.Uint64, readReason, writeReason flow.Reason) (flow.Reason, error) {
	who := int32(1)
	if readReason == flow.ReasonDownstreamReset {
		who = 2
	}
	fail := func(reason flow.Reason, err error) (flow.Reason, error) {
		r.first.CompareAndSwap(0, who)
		return reason, err
	}
	var armed time.Time // when dst's write deadline was set
	write := func(b []byte) error {
		if now := time.Now(); r.idle > 0 && now.Sub(armed) > r.idle/8 {
			armed = now
			if err := dst.SetWriteDeadline(now.Add(r.idle)); err != nil {
				return err
			}
			if r.cut() {
				return os.ErrDeadlineExceeded
			}
		}
		m, err := dst.Write(b)
		if !src.Counted {
			n.Add(uint64(m))
		}
		r.touch()
		return err
	}
	if len(src.Buffered) > 0 {
		if err := write(src.Buffered); err != nil {
			return fail(writeReason, err)
		}
	}
	buf := relayBuffers.Get().(*[relayBuffer]byte)
	defer relayBuffers.Put(buf)
	for waits := false; ; { // with a deadline, which is moved only when it has passed: a byte may have moved since it was set
		if r.idle > 0 && !waits {
			waits = true
			if err := src.SetReadDeadline(time.Now().Add(max(r.left(), time.Millisecond))); err != nil {
				return fail(readReason, err)
			}
			if r.cut() { // the wake-up may have come just before the line above
				return fail(readReason, os.ErrDeadlineExceeded)
			}
		}
		m, err := src.Read(buf[:])
		if m > 0 {
			if werr := write(buf[:m]); werr != nil {
				return fail(writeReason, werr)
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			_ = CloseWrite(dst) // if dst is broken, the other direction says so
			return flow.ReasonNone, nil
		case errors.Is(err, os.ErrDeadlineExceeded) && r.idle > 0 && !r.cut():
			if r.left() > 0 {
				waits = false
				continue
			}
			return fail(flow.ReasonIdleTimeout, err)
		default:
			return fail(readReason, err)
		}
	}
}

// cut reports whether the relay must end because the other direction failed or the exchange was aborted.
func (r *relay) cut() bool { return r.first.Load() != 0 || r.x.Aborted() != flow.ReasonNone }

// CloseWrite sends the end of stream (FIN, close_notify) and leaves the reading half open. For connections that cannot, it does nothing.
func CloseWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}
