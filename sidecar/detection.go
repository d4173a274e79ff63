package sidecar

import (
	"cmp"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/detect"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
	"github.com/tulle-mesh/tulle/sidecar/security"
	"github.com/tulle-mesh/tulle/sidecar/tcp"
)

// detection tells the protocol of one connection that nobody has told yet (docs/reference/detection.md):
//
//  1. A caller whose first bytes tell within the time-out is served as they say.
//  2. One that is silent is connected as bytes to where it goes, and whoever speaks first decides: the server, then it stays bytes, or the caller, whose first bytes
//     are looked at then. So a server that speaks first is heard, and a client that opens its connections before it needs them is still one of HTTP.
//  3. Where the server was seen to speak first, the next connection begins with step 2.
//
// No byte is consumed: what was read goes on first, whoever serves.
type detection struct {
	s       *Sidecar
	sess    *exchange.Session
	side    flow.Side
	service string // "" for nothing to count
	port    uint16 // that the caller called
	wait    time.Duration
	doubt   detect.Spoken // what a caller speaks that stops within what may become a request
	memory  *detect.ServerFirst
	place   detect.Silent
	relayed func() *exchange.Binding // makes the binding of a connection of bytes; nil: what sess.Bind says
	plain   bool                     // it is bytes, whatever comes: only who speaks first is to be learnt

	outcome flow.DetectionOutcome
	took    time.Duration
}

// knownGrace is how long a silent caller of a port is awaited that takes mTLS and plaintext, when the server speaks first to plaintext callers from the same address: a
// ClientHello follows its connection at once, and a greeting in front of it would ruin it.
const knownGrace = 20 * time.Millisecond

// speaker says who serves the session; nobody when the caller has left.
func (d *detection) speaker() speaker {
	begun := time.Now()
	spoken := detect.Silence
	switch {
	case d.outcome != 0: // the silence has been waited for already
	case len(d.sess.Buffered) == 0 && d.memory.Has(d.place):
		d.outcome = flow.DetectionRemembered
	default:
		var late bool
		spoken, late = detect.HTTP(d.sess, d.wait, d.doubt)
		d.took, d.outcome = time.Since(begun), flow.DetectionTold
		if late {
			d.outcome = flow.DetectionTimeout
		}
	}
	switch spoken {
	case detect.Ended:
		d.outcome = flow.DetectionLeft
		if d.doubt == detect.Bytes { // a server that speaks first has something to say to it
			return (*silent)(d)
		}
		d.count(0)
		return nil
	case detect.Left:
		d.outcome = flow.DetectionLeft
		d.count(0)
		return nil
	case detect.Silence:
		return (*silent)(d)
	}
	return d.speaks(spoken)
}

// speaks is who serves what is spoken.
func (d *detection) speaks(spoken detect.Spoken) speaker {
	s, in := d.s, d.side == flow.SideServer
	switch {
	case spoken == detect.HTTP1 && in:
		d.count(flow.ProtocolHTTP1)
		return s.inHTTP
	case spoken == detect.HTTP1:
		d.count(flow.ProtocolHTTP1)
		return s.outHTTP
	case spoken == detect.Prefaced && in:
		d.count(flow.ProtocolHTTP2)
		return s.inHTTP2
	case spoken == detect.Prefaced:
		d.count(flow.ProtocolHTTP2)
		return s.outHTTP2
	}
	if d.sess.Buffered[0] == detect.HandshakeRecord && named(d.sess, d.wait) == detect.Left {
		return nil
	}
	d.count(cmp.Or(d.sess.Protocol, flow.ProtocolTCP))
	d.relays()
	return d.tcp()
}

func (d *detection) tcp() *tcp.Server {
	if d.side == flow.SideServer {
		return d.s.inTCP
	}
	return d.s.outTCP
}

// relays makes the session one of bytes.
func (d *detection) relays() {
	if d.relayed != nil {
		b := d.relayed()
		d.sess.Bind = func() *exchange.Binding { return b }
	}
}

func (d *detection) count(p flow.Protocol) {
	if d.plain {
		return
	}
	d.s.cfg.Recorder.Detected(flow.Detection{Side: d.side, Destination: d.service, Port: d.port, Protocol: p, Outcome: d.outcome, Took: d.took})
}

// silent serves a caller that has said nothing.
type silent detection

// Serve implements speaker.
func (n *silent) Serve(sess *exchange.Session) {
	d := (*detection)(n)
	bind, decided := sess.Bind, false
	d.relays()
	left := d.tcp().ServeSilent(sess, tcp.Silence{
		Leaves: func(b []byte) bool { return !d.plain && (b[0] == detect.HandshakeRecord || detect.MayBeHTTP(b)) },
		Spoke: func(server bool) {
			d.memory.Set(d.place, server)
			decided = true
		},
		Stays: func() { d.count(flow.ProtocolTCP) },
	})
	switch {
	case left:
		sess.Bind = bind
		spoken, _ := detect.HTTP(sess, d.wait, d.doubt)
		if speak := d.speaks(spoken); speak != nil {
			speak.Serve(sess)
		}
	case !decided: // nobody has said a word
		d.count(0)
	}
}

// await is how long an inbound listener waits for a caller's first byte, and whether that is short because plaintext callers from there are known to wait for the server.
// A permissive port remembers by caller: what comes by mTLS begins with the caller, whatever it carries.
func (s *Sidecar) await(l *policy.Listener, place detect.Silent) (wait time.Duration, known bool) {
	switch {
	case l.Mode != policy.ModePermissive || l.Protocol.HTTP():
		return security.HandshakeTimeout, false
	case s.silentCallers.Has(place):
		return min(knownGrace, l.DetectTimeout), true
	}
	return l.DetectTimeout, false
}
