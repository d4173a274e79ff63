package policy

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/tulle-mesh/tulle/internal/flow"
)

func genLimits(r *rand.Rand) Limits {
	return Limits{
		HeadBytes: 1024 * pick(r, 0, 10, 1+r.IntN(MaxHeadBytes/1024)), HeadFields: pick(r, 0, minHeadFields+r.IntN(MaxHeadFields-minHeadFields+1)),
		RequestLine: pick(r, 0, minRequestLine+r.IntN(900)), HeadTimeout: pick(r, 0, minTimeout+time.Duration(r.Int64N(int64(time.Hour)))),
		BodyTimeout: pick(r, 0, -1, time.Second), IdleTimeout: pick(r, 0, time.Minute, maxTimeout),
		HTTP2: genHTTP2(r),
	}
}

func genSidecarLimits(r *rand.Rand) SidecarLimits {
	l := SidecarLimits{Connections: pick(r, 0, 1+r.IntN(maxLimit)), BufferBytes: pick(r, 0, minBufferBytes+r.Int64N(1<<34))}
	if n := l.WithDefaults().Connections; r.IntN(2) == 0 {
		l.ConnectionsPerSource = 1 + r.IntN(n)
	}
	return l
}

func TestLimitsAreChecked(t *testing.T) {
	for _, c := range []struct {
		l    Limits
		want string
	}{
		{Limits{HeadBytes: 512}, "head bytes 512: must be a multiple of 1024 from 1024 to 63488"},
		{Limits{HeadBytes: 2000}, "head bytes 2000: must be a multiple"},
		{Limits{HeadBytes: 64 << 10}, "head bytes 65536"},
		{Limits{HeadFields: 117}, "head fields 117: must be from 8 to 116"},
		{Limits{RequestLine: 63}, "request line 63: must be from 64 to the head bytes, 61440"},
		{Limits{HeadBytes: 1024, RequestLine: 1025}, "request line 1025"},
		{Limits{HeadTimeout: -1}, "head timeout -1ns: must be from 10ms to 24h0m0s"},
		{Limits{BodyTimeout: time.Millisecond}, "body timeout 1ms"},
		{Limits{IdleTimeout: 48 * time.Hour}, "idle timeout 48h0m0s"},
	} {
		if err := c.l.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want …%s…", c.l, err, c.want)
		}
	}
	for _, c := range []struct {
		l    SidecarLimits
		want string
	}{
		{SidecarLimits{Connections: -1}, "connections -1: must be from 1 to 1048576"},
		{SidecarLimits{Connections: 10, ConnectionsPerSource: 11}, "connections per source 11: must be from 1 to the connections of the sidecar, 10"},
		{SidecarLimits{BufferBytes: 4096}, "buffer bytes 4096: must be from 1048576 (1 MiB)"},
	} {
		if err := c.l.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want …%s…", c.l, err, c.want)
		}
	}
	if err := (Limits{HeadBytes: 1024}).Check(); err != nil {
		t.Errorf("a head smaller than the default request line: %v", err)
	}
	if got := (SidecarLimits{Connections: 1}).WithDefaults().ConnectionsPerSource; got != 1 {
		t.Errorf("per source %d of one connection", got)
	}
	if err := (Listener{Name: "l", Protocol: flow.ProtocolTCP, Side: flow.SideClient, Address: genAddr(rand.New(rand.NewPCG(1, 1)), 1), Service: "s", Limits: Limits{HeadFields: 9}}).Check(); err == nil {
		t.Error("a TCP listener has limits of HTTP")
	}
}

// TestStockEnvoyGetsTheLimits: what Envoy can express stands in its own fields.
func TestStockEnvoyGetsTheLimits(t *testing.T) {
	l := genListener(rand.New(rand.NewPCG(1, 1)), 1, "s")
	l.Protocol, l.DetectTimeout = flow.ProtocolHTTP, 0
	l.Limits = Limits{HeadBytes: 8 << 10, HeadFields: 50, HeadTimeout: 3 * time.Second, IdleTimeout: time.Minute}
	x, err := l.ToXDS()
	if err != nil {
		t.Fatal(err)
	}
	var m hcmv3.HttpConnectionManager
	if err := x.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(&m); err != nil {
		t.Fatal(err)
	}
	if m.MaxRequestHeadersKb.GetValue() != 8 || m.CommonHttpProtocolOptions.MaxHeadersCount.GetValue() != 50 ||
		m.RequestHeadersTimeout.AsDuration() != 3*time.Second || m.CommonHttpProtocolOptions.IdleTimeout.AsDuration() != time.Minute {
		t.Errorf("got %v", &m)
	}
}
