package policy

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// HTTP2 are what an HTTP listener takes of one caller that speaks HTTP/2 (RFC 9113). Zero settings mean the default named beside the field. They
// are announced where the protocol can announce them, and enforced in any case: a caller that goes beyond loses its stream or its connection. They
// hold for connections that begin after the Snapshot is in force.
type HTTP2 struct {
	Streams          int           // open at the same time; default 256
	StreamWindow     int           // bytes of one stream's body that wait for their reader, 1 KiB to 16 MiB; default 256 KiB
	ConnectionWindow int           // of all streams together, at least 64 KiB - 1 and StreamWindow; default 1 MiB
	Resets           int           // streams that end by a reset, the caller's or through its fault, in any 10 s, if they are more than half of all; default 200
	ControlFrames    int           // PING, SETTINGS and RST_STREAM whose answers wait for the caller to read; default 1,000
	EmptyFrames      int           // DATA without a byte and without END_STREAM, and fragments of a head without a byte, in a row; default 10
	PriorityFrames   int           // PRIORITY and PRIORITY_UPDATE, beside one for each stream; default 100
	WindowUpdates    int           // WINDOW_UPDATE, beside ten for each DATA frame sent and one for each stream; default 100
	Continuations    int           // CONTINUATION frames of one head; default 16
	Age              time.Duration // of a connection, then GOAWAY; default: without end; at least 1 s
	AgeGrace         time.Duration // streams that are open then may take that long; default: without end
	PingInterval     time.Duration // without a byte while streams are open, then a PING; default 30 s; negative: off
	PingTimeout      time.Duration // for its answer, and for a peer to take what is written; then the connection is closed; default 10 s
}

// Defaults of HTTP2.
const (
	DefaultStreams          = 256
	DefaultStreamWindow     = 256 << 10
	DefaultConnectionWindow = 1 << 20
	DefaultResets           = 200
	DefaultControlFrames    = 1000
	DefaultEmptyFrames      = 10
	DefaultPriorityFrames   = 100
	DefaultWindowUpdates    = 100
	DefaultContinuations    = 16
	DefaultPingInterval     = 30 * time.Second
	DefaultPingTimeout      = 10 * time.Second
)

// Bounds of HTTP2. The initial window of a connection is fixed at 64 KiB - 1 (RFC 9113, section 6.9.2) and can only be raised.
const (
	minStreamWindow     = 1 << 10
	maxStreamWindow     = 16 << 20
	minConnectionWindow = 1<<16 - 1
	maxConnectionWindow = 1 << 30
	maxStreams          = 1 << 20
	minAge              = time.Second
)

// WithDefaults returns l with every zero setting replaced by its default.
func (l HTTP2) WithDefaults() HTTP2 {
	def(&l.Streams, DefaultStreams)
	def(&l.StreamWindow, DefaultStreamWindow)
	def(&l.ConnectionWindow, max(DefaultConnectionWindow, l.StreamWindow))
	def(&l.Resets, DefaultResets)
	def(&l.ControlFrames, DefaultControlFrames)
	def(&l.EmptyFrames, DefaultEmptyFrames)
	def(&l.PriorityFrames, DefaultPriorityFrames)
	def(&l.WindowUpdates, DefaultWindowUpdates)
	def(&l.Continuations, DefaultContinuations)
	def(&l.PingInterval, DefaultPingInterval)
	def(&l.PingTimeout, DefaultPingTimeout)
	return l
}

// Check refuses what a sidecar could not act on; zero settings are fine.
func (l HTTP2) Check() error {
	l = l.WithDefaults()
	for _, n := range []struct {
		name            string
		v, lowest, most int
	}{
		{"streams", l.Streams, 1, maxStreams},
		{"stream window", l.StreamWindow, minStreamWindow, maxStreamWindow},
		{"connection window", l.ConnectionWindow, max(minConnectionWindow, l.StreamWindow), maxConnectionWindow},
		{"resets", l.Resets, 1, maxLimit},
		{"control frames", l.ControlFrames, 1, maxLimit},
		{"empty frames", l.EmptyFrames, 1, maxLimit},
		{"priority frames", l.PriorityFrames, 1, maxLimit},
		{"window updates", l.WindowUpdates, 1, maxLimit},
		{"continuations", l.Continuations, 1, 1 << 10},
	} {
		if n.v < n.lowest || n.v > n.most {
			return fmt.Errorf("%s %d: must be from %d to %d", n.name, n.v, n.lowest, n.most)
		}
	}
	for _, d := range []struct {
		name   string
		v      time.Duration
		lowest time.Duration
		off    bool
	}{
		{"age", l.Age, minAge, l.Age == 0},
		{"age grace", l.AgeGrace, minTimeout, l.AgeGrace == 0},
		{"ping interval", l.PingInterval, minTimeout, l.PingInterval < 0},
		{"ping timeout", l.PingTimeout, minTimeout, false},
	} {
		if !d.off && (d.v < d.lowest || d.v > maxTimeout) {
			return fmt.Errorf("%s %s: must be from %s to %s", d.name, d.v, d.lowest, maxTimeout)
		}
	}
	return nil
}

// toXDS puts l, with its defaults, into Envoy's own fields; what Envoy cannot express goes to e. Envoy's windows begin at 64 KiB - 1, its duration of a connection
// holds for HTTP/1.1 as well, and it counts WINDOW_UPDATE per DATA frame sent only.
func (l HTTP2) toXDS(m *hcmv3.HttpConnectionManager, e extras) {
	u32 := func(n int) *wrapperspb.UInt32Value { return wrapperspb.UInt32(uint32(n)) } //nolint:gosec // checked
	o := &corev3.Http2ProtocolOptions{
		MaxConcurrentStreams:                        u32(l.Streams),
		InitialConnectionWindowSize:                 u32(l.ConnectionWindow),
		StreamResetBurst:                            wrapperspb.UInt64(uint64(l.Resets)),                //nolint:gosec // checked
		StreamResetRate:                             wrapperspb.UInt64(uint64(max(1, (l.Resets+9)/10))), //nolint:gosec // checked
		MaxOutboundControlFrames:                    u32(l.ControlFrames),
		MaxConsecutiveInboundFramesWithEmptyPayload: u32(l.EmptyFrames),
		MaxInboundPriorityFramesPerStream:           u32(l.PriorityFrames),
	}
	if l.StreamWindow >= minConnectionWindow {
		o.InitialStreamWindowSize = u32(l.StreamWindow)
	} else {
		e.num("http2_stream_window", float64(l.StreamWindow))
	}
	if l.PingInterval > 0 {
		o.ConnectionKeepalive = &corev3.KeepaliveSettings{Interval: durationpb.New(l.PingInterval), Timeout: durationpb.New(l.PingTimeout)}
	} else {
		e.dur("http2_ping_interval", l.PingInterval)
		e.dur("http2_ping_timeout", l.PingTimeout)
	}
	m.Http2ProtocolOptions = o
	if l.Age > 0 {
		m.CommonHttpProtocolOptions.MaxConnectionDuration = durationpb.New(l.Age)
	}
	e.dur("http2_age_grace", l.AgeGrace)
	e.num("http2_window_updates", float64(l.WindowUpdates))
	e.num("http2_continuations", float64(l.Continuations))
}

// http2FromXDS is the inverse of toXDS; a field that is missing means its default.
func http2FromXDS(m *hcmv3.HttpConnectionManager, r *reader) HTTP2 {
	o := m.GetHttp2ProtocolOptions()
	l := HTTP2{
		Streams:          int(o.GetMaxConcurrentStreams().GetValue()),
		StreamWindow:     int(o.GetInitialStreamWindowSize().GetValue()),
		ConnectionWindow: int(o.GetInitialConnectionWindowSize().GetValue()),
		Resets:           int(o.GetStreamResetBurst().GetValue()), //nolint:gosec // Check refuses what is too large
		ControlFrames:    int(o.GetMaxOutboundControlFrames().GetValue()),
		EmptyFrames:      int(o.GetMaxConsecutiveInboundFramesWithEmptyPayload().GetValue()),
		PriorityFrames:   int(o.GetMaxInboundPriorityFramesPerStream().GetValue()),
		WindowUpdates:    int(r.num("http2_window_updates")),
		Continuations:    int(r.num("http2_continuations")),
		Age:              m.GetCommonHttpProtocolOptions().GetMaxConnectionDuration().AsDuration(),
		AgeGrace:         r.dur("http2_age_grace"),
		PingInterval:     o.GetConnectionKeepalive().GetInterval().AsDuration(),
		PingTimeout:      o.GetConnectionKeepalive().GetTimeout().AsDuration(),
	}
	if r.has("http2_stream_window") {
		l.StreamWindow = int(r.num("http2_stream_window"))
	}
	if r.has("http2_ping_interval") {
		l.PingInterval, l.PingTimeout = r.dur("http2_ping_interval"), r.dur("http2_ping_timeout")
	}
	return l
}
