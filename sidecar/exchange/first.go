package exchange

import (
	"errors"
	"io"
	"net"
	"os"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// ErrCeased is of First, with ReasonNone: nobody has spoken, and nobody shall.
var ErrCeased = errors.New("the sidecar stops and nobody has spoken")

// firstSize is how much of a first word is read at most.
const firstSize = 1 << 10

// First waits until either end of what is to be relayed speaks, and returns what it said; both may have, and then nothing says in which order. It returns without
// a word when an end has ended, which Relay meets again, or, with ErrCeased, when cease returned true after the wait: the session drains. Other failures have a reason, as those of Relay have, and
// idle (≤ 0: for ever) is as there. ready is called once the deadlines are set and before the wait; false means that there is no need to wait.
//
// No byte is lost or sent: what is returned must go on before what is read afterwards.
func First(x *Exchange, down, up net.Conn, idle time.Duration, ready, cease func() bool) (fromDown, fromUp []byte, reason flow.Reason, err error) {
	if !x.attachRelay(down, up) {
		return nil, nil, x.Aborted(), errAborted
	}
	defer x.attachRelay(nil, nil)
	if idle > 0 {
		until := time.Now().Add(idle)
		_ = down.SetReadDeadline(until)
		_ = up.SetReadDeadline(until)
		if a := x.Aborted(); a != flow.ReasonNone { // its wake-up may have come just before the lines above
			return nil, nil, a, errAborted
		}
	}
	if !ready() {
		return nil, nil, flow.ReasonNone, ErrCeased
	}
	type word struct {
		b   []byte
		err error
	}
	listen := func(c, other net.Conn) (w word) {
		b := make([]byte, firstSize)
		n, err := c.Read(b)
		_ = other.SetReadDeadline(past)
		return word{b[:n], err}
	}
	said := make(chan word, 1)
	go func() { said <- listen(up, down) }()
	d := listen(down, up)
	u := <-said
	ceased := cease()
	_ = down.SetReadDeadline(time.Time{})
	_ = up.SetReadDeadline(time.Time{})
	failed := func(err error) bool {
		return err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.EOF)
	}
	a := x.Aborted()
	switch {
	case a != flow.ReasonNone:
		return nil, nil, a, errAborted
	case len(d.b)+len(u.b) > 0:
		return d.b, u.b, flow.ReasonNone, nil
	case failed(d.err):
		return nil, nil, flow.ReasonDownstreamReset, d.err
	case failed(u.err):
		return nil, nil, flow.ReasonUpstreamReset, u.err
	case errors.Is(d.err, io.EOF) || errors.Is(u.err, io.EOF):
		return nil, nil, flow.ReasonNone, nil
	case ceased:
		return nil, nil, flow.ReasonNone, ErrCeased
	}
	return nil, nil, flow.ReasonIdleTimeout, os.ErrDeadlineExceeded
}
