package policy

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
)

// Limits are what an HTTP listener takes of one caller. Zero settings mean the default named beside the field. They hold for every head
// that begins after the Snapshot is in force, on connections that are open already too.
type Limits struct {
	HeadBytes   int           // start line and fields of a request, final empty line included; multiple of 1,024; default 60 KiB
	HeadFields  int           // fields of a request; default 100
	RequestLine int           // bytes of the first line, without its line end; at most HeadBytes; default 8 KiB or HeadBytes
	HeadTimeout time.Duration // from the first byte of a head to its last; default 10 s
	BodyTimeout time.Duration // without a byte of a request body that is awaited; default 10 s; negative: off
	IdleTimeout time.Duration // between requests; default 5 min
	HTTP2       HTTP2
}

// SidecarLimits are what a whole sidecar takes, all of its listeners together. Zero settings mean the default named beside the field.
type SidecarLimits struct {
	Connections          int   // open downstream connections; default 16,384
	ConnectionsPerSource int   // of them, of one IP address in one direction; at most Connections; default three quarters of Connections
	BufferBytes          int64 // memory of buffers in use; default 256 MiB
}

// Defaults and bounds of Limits and SidecarLimits.
const (
	DefaultHeadBytes         = 60 << 10
	DefaultHeadFields        = 100
	DefaultRequestLine       = 8 << 10
	DefaultHeadTimeout       = 10 * time.Second
	DefaultBodyTimeout       = 10 * time.Second
	DefaultClientIdleTimeout = 5 * time.Minute // longer than the idle limit of upstream pools (60 s), so that of two sidecars the caller closes first
	DefaultConnections       = 16 << 10
	DefaultBufferBytes       = 256 << 20

	MaxHeadBytes  = 62 << 10 // a sidecar takes 2 KiB and 12 fields more of another one: see sidecar/http1.MeshLimits
	MaxHeadFields = 116

	minHeadBytes, minHeadFields, minRequestLine = 1 << 10, 8, 64
	minBufferBytes, maxBufferBytes              = 1 << 20, 1 << 40
	minTimeout, maxTimeout                      = 10 * time.Millisecond, 24 * time.Hour
)

// WithDefaults returns l with every zero setting replaced by its default.
func (l Limits) WithDefaults() Limits {
	def(&l.HeadBytes, DefaultHeadBytes)
	def(&l.HeadFields, DefaultHeadFields)
	def(&l.RequestLine, min(DefaultRequestLine, l.HeadBytes))
	def(&l.HeadTimeout, DefaultHeadTimeout)
	def(&l.BodyTimeout, DefaultBodyTimeout)
	def(&l.IdleTimeout, DefaultClientIdleTimeout)
	l.HTTP2 = l.HTTP2.WithDefaults()
	return l
}

// WithDefaults returns l with every zero setting replaced by its default.
func (l SidecarLimits) WithDefaults() SidecarLimits {
	def(&l.Connections, DefaultConnections)
	def(&l.ConnectionsPerSource, max(1, l.Connections/4*3))
	def(&l.BufferBytes, DefaultBufferBytes)
	return l
}

// Check refuses what a sidecar could not act on; zero settings are fine.
func (l Limits) Check() error {
	l = l.WithDefaults()
	switch {
	case l.HeadBytes < minHeadBytes || l.HeadBytes > MaxHeadBytes || l.HeadBytes%1024 != 0:
		return fmt.Errorf("head bytes %d: must be a multiple of 1024 from %d to %d", l.HeadBytes, minHeadBytes, MaxHeadBytes)
	case l.HeadFields < minHeadFields || l.HeadFields > MaxHeadFields:
		return fmt.Errorf("head fields %d: must be from %d to %d", l.HeadFields, minHeadFields, MaxHeadFields)
	case l.RequestLine < minRequestLine || l.RequestLine > l.HeadBytes:
		return fmt.Errorf("request line %d: must be from %d to the head bytes, %d", l.RequestLine, minRequestLine, l.HeadBytes)
	}
	for _, d := range []struct {
		name string
		v    time.Duration
		off  bool
	}{{"head timeout", l.HeadTimeout, false}, {"body timeout", l.BodyTimeout, true}, {"idle timeout", l.IdleTimeout, false}} {
		if d.off && d.v < 0 {
			continue
		}
		if d.v < minTimeout || d.v > maxTimeout {
			return fmt.Errorf("%s %s: must be from %s to %s", d.name, d.v, minTimeout, maxTimeout)
		}
	}
	if err := l.HTTP2.Check(); err != nil {
		return fmt.Errorf("http2: %w", err)
	}
	return nil
}

// Check refuses what a sidecar could not act on; zero settings are fine.
func (l SidecarLimits) Check() error {
	l = l.WithDefaults()
	switch {
	case l.Connections < 1 || l.Connections > maxLimit:
		return fmt.Errorf("connections %d: must be from 1 to %d", l.Connections, maxLimit)
	case l.ConnectionsPerSource < 1 || l.ConnectionsPerSource > l.Connections:
		return fmt.Errorf("connections per source %d: must be from 1 to the connections of the sidecar, %d", l.ConnectionsPerSource, l.Connections)
	case l.BufferBytes < minBufferBytes || l.BufferBytes > maxBufferBytes:
		return fmt.Errorf("buffer bytes %d: must be from %d (1 MiB) to %d", l.BufferBytes, minBufferBytes, maxBufferBytes)
	}
	return nil
}

// toXDS puts l into Envoy's own fields; what Envoy cannot express goes to e. Envoy's stream_idle_timeout is not BodyTimeout: it also cuts
// exchanges whose service is slow.
func (l Limits) toXDS(m *hcmv3.HttpConnectionManager, e extras) {
	m.MaxRequestHeadersKb = wrapperspb.UInt32(uint32(l.HeadBytes / 1024))
	m.RequestHeadersTimeout = durationpb.New(l.HeadTimeout)
	m.CommonHttpProtocolOptions = &corev3.HttpProtocolOptions{
		IdleTimeout: durationpb.New(l.IdleTimeout), MaxHeadersCount: wrapperspb.UInt32(uint32(l.HeadFields)),
	}
	e.num("request_line", float64(l.RequestLine))
	e.dur("body_timeout", l.BodyTimeout)
	l.HTTP2.toXDS(m, e)
}

func limitsFromXDS(m *hcmv3.HttpConnectionManager, r *reader) Limits {
	return Limits{
		HeadBytes:   int(m.GetMaxRequestHeadersKb().GetValue()) * 1024,
		HeadFields:  int(m.GetCommonHttpProtocolOptions().GetMaxHeadersCount().GetValue()),
		RequestLine: int(r.num("request_line")),
		HeadTimeout: m.GetRequestHeadersTimeout().AsDuration(),
		BodyTimeout: r.dur("body_timeout"),
		IdleTimeout: m.GetCommonHttpProtocolOptions().GetIdleTimeout().AsDuration(),
		HTTP2:       http2FromXDS(m, r),
	}.WithDefaults()
}

func (l SidecarLimits) toXDS() *tullev1.Limits {
	return &tullev1.Limits{Connections: int64(l.Connections), ConnectionsPerSource: int64(l.ConnectionsPerSource), BufferBytes: l.BufferBytes}
}

func sidecarLimitsFromXDS(x *tullev1.Limits) SidecarLimits {
	return SidecarLimits{
		Connections: int(x.GetConnections()), ConnectionsPerSource: int(x.GetConnectionsPerSource()), BufferBytes: x.GetBufferBytes(),
	}.WithDefaults()
}
