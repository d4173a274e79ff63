package policy

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	upstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/flow"
)

func genHTTP2(r *rand.Rand) HTTP2 {
	l := HTTP2{
		Streams: pick(r, 0, 1+r.IntN(1000)), StreamWindow: pick(r, 0, minStreamWindow, minConnectionWindow, minConnectionWindow-1, maxStreamWindow),
		Resets: pick(r, 0, 1+r.IntN(1000)), ControlFrames: pick(r, 0, 7), EmptyFrames: pick(r, 0, 8), PriorityFrames: pick(r, 0, 9),
		WindowUpdates: pick(r, 0, 11), Continuations: pick(r, 0, 12), Age: pick(r, 0, minAge, time.Hour), AgeGrace: pick(r, 0, time.Minute),
		PingInterval: pick(r, 0, -1, time.Minute), PingTimeout: pick(r, 0, time.Second),
	}
	if r.IntN(2) == 0 {
		l.ConnectionWindow = max(minConnectionWindow, l.WithDefaults().StreamWindow) + r.IntN(1000)
	}
	return l
}

// What Envoy can say stands in its own fields, and passes its own validation.
func TestStockEnvoyGetsHTTP2(t *testing.T) {
	l := Listener{
		Name: "outbound:s", Side: flow.SideClient, Protocol: flow.ProtocolGRPC, Service: "s", Address: netip.MustParseAddrPort("127.0.0.1:80"),
		Limits: Limits{HTTP2: HTTP2{Streams: 50, StreamWindow: 100_000, ConnectionWindow: 200_000, Resets: 95, ControlFrames: 7, EmptyFrames: 8, PriorityFrames: 9, Age: time.Hour, PingInterval: time.Minute, PingTimeout: time.Second}},
	}
	x, err := l.ToXDS()
	if err != nil {
		t.Fatal(err)
	}
	var m hcmv3.HttpConnectionManager
	if err := x.FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(&m); err != nil {
		t.Fatal(err)
	}
	o := m.Http2ProtocolOptions
	if m.CodecType != hcmv3.HttpConnectionManager_AUTO || o.MaxConcurrentStreams.GetValue() != 50 || o.InitialStreamWindowSize.GetValue() != 100_000 ||
		o.InitialConnectionWindowSize.GetValue() != 200_000 || o.StreamResetBurst.GetValue() != 95 || o.StreamResetRate.GetValue() != 10 ||
		o.MaxOutboundControlFrames.GetValue() != 7 || o.MaxConsecutiveInboundFramesWithEmptyPayload.GetValue() != 8 ||
		o.MaxInboundPriorityFramesPerStream.GetValue() != 9 || o.ConnectionKeepalive.Interval.AsDuration() != time.Minute ||
		o.ConnectionKeepalive.Timeout.AsDuration() != time.Second || m.CommonHttpProtocolOptions.MaxConnectionDuration.AsDuration() != time.Hour {
		t.Errorf("got %v", &m)
	}
	r := rand.New(rand.NewPCG(5, 5))
	for i := range 300 {
		l := genListener(r, i, "s")
		x, err := l.ToXDS()
		if err != nil {
			t.Fatal(err)
		}
		if err := x.ValidateAll(); err != nil {
			t.Errorf("Envoy refuses the listener: %v", err)
		}
		var m hcmv3.HttpConnectionManager
		if len(x.FilterChains) == 0 { // of an edge that has no names
			continue
		}
		if config := x.FilterChains[0].Filters[0].GetTypedConfig(); config.MessageIs(&m) {
			if err := config.UnmarshalTo(&m); err != nil {
				t.Fatal(err)
			}
			if err := m.ValidateAll(); err != nil {
				t.Errorf("Envoy refuses the limits of %+v: %v", l.Limits.HTTP2, err)
			}
		}
	}
}

// A stock Envoy speaks to a service what the service speaks.
func TestStockEnvoyGetsTheProtocol(t *testing.T) {
	const name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
	for _, word := range Protocols() {
		p, _ := ParseProtocol(word)
		x, err := Service{Name: "s", Protocol: p}.ToXDS()
		if err != nil {
			t.Fatal(err)
		}
		packed := x.TypedExtensionProtocolOptions[name]
		if (packed != nil) != p.MayBeHTTP() {
			t.Errorf("%s: options %v", word, packed)
			continue
		}
		var o upstreamv3.HttpProtocolOptions
		if packed == nil {
			continue
		}
		if err := packed.UnmarshalTo(&o); err != nil {
			t.Fatal(err)
		}
		if err := o.ValidateAll(); err != nil {
			t.Errorf("%s: Envoy refuses it: %v", word, err)
		}
		got := "http"
		switch explicit := o.GetExplicitHttpConfig(); {
		case explicit.GetHttp2ProtocolOptions() != nil:
			got = "http2"
		case explicit != nil:
			got = "http1"
		case o.GetUseDownstreamProtocolConfig().GetHttp2ProtocolOptions() == nil:
			got = "nothing"
		}
		if want := strings.NewReplacer("grpc", "http2", "auto", "http").Replace(word); got != want {
			t.Errorf("%s: Envoy would speak %s", word, got)
		}
	}
}

// A controller from before HTTP/2 says neither protocol nor limits of it; a foreign word is refused by name.
func TestListenerOfAnOlderController(t *testing.T) {
	x, err := Listener{Name: "l", Side: flow.SideClient, Protocol: flow.ProtocolHTTP1, Service: "s", Address: netip.MustParseAddrPort("127.0.0.1:80")}.ToXDS()
	if err != nil {
		t.Fatal(err)
	}
	fields := x.Metadata.FilterMetadata[MetadataNamespace].Fields
	for k := range fields {
		if k == "protocol" || strings.HasPrefix(k, "http2_") {
			delete(fields, k)
		}
	}
	config := x.FilterChains[0].Filters[0].GetTypedConfig()
	var m hcmv3.HttpConnectionManager
	if err := config.UnmarshalTo(&m); err != nil {
		t.Fatal(err)
	}
	m.Http2ProtocolOptions = nil
	if err := config.MarshalFrom(&m); err != nil {
		t.Fatal(err)
	}
	if l, err := ListenerFromXDS(x); err != nil || l.Protocol != flow.ProtocolHTTP || l.Limits.HTTP2 != (HTTP2{}).WithDefaults() {
		t.Errorf("got %+v, %v", l, err)
	}
	for word, want := range map[string]string{
		"tcp": `metadata tulle.dev.protocol: "tcp", but the listener has an HttpConnectionManager`,
		"h3":  `metadata tulle.dev.protocol: "h3" is not a protocol this sidecar speaks; use http, http1, http2, grpc, tcp, tls or auto`,
	} {
		fields["protocol"] = structpb.NewStringValue(word)
		if _, err := ListenerFromXDS(x); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("protocol %q: %v", word, err)
		}
	}
	if _, err := ServiceFromXDS(&clusterv3.Cluster{Name: "s", Metadata: &corev3.Metadata{}}); err == nil || !strings.Contains(err.Error(), "protocol") {
		t.Errorf("a service without protocol: %v", err)
	}
}

// A sidecar from before auto was a protocol takes it for http: that is what its metadata and Envoy's own fields say.
func TestAutoForOlderSidecars(t *testing.T) {
	at := netip.MustParseAddrPort("127.0.0.1:80")
	l, err := Listener{Name: "l", Side: flow.SideServer, Mode: ModePermissive, Protocol: flow.ProtocolAuto, Service: "s", Address: at, Target: netip.MustParseAddrPort("127.0.0.1:81")}.ToXDS()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.ValidateAll(); err != nil {
		t.Errorf("Envoy refuses the listener: %v", err)
	}
	s, err := Service{Name: "s", Protocol: flow.ProtocolAuto}.ToXDS()
	if err != nil {
		t.Fatal(err)
	}
	for what, m := range map[string]*corev3.Metadata{"listener": l.Metadata, "service": s.Metadata} {
		fields := m.FilterMetadata[MetadataNamespace].Fields
		if fields["protocol"].GetStringValue() != "http" || !fields["detect"].GetBoolValue() {
			t.Errorf("%s: %v", what, fields)
		}
		fields["protocol"] = structpb.NewStringValue("tcp")
	}
	if len(l.FilterChains) != 1 || len(l.FilterChains[0].Filters) != 1 || l.DefaultFilterChain == nil {
		t.Errorf("filter chains: %v", l.FilterChains)
	}
	if _, err := ServiceFromXDS(s); err == nil || !strings.Contains(err.Error(), `only http is detected`) {
		t.Errorf("tcp that is detected: %v", err)
	}
}

func TestHTTP2Check(t *testing.T) {
	for _, c := range []struct {
		name string
		l    HTTP2
		bad  string
	}{
		{"defaults", HTTP2{}, ""},
		{"no end", HTTP2{PingInterval: -1}, ""},
		{"a window above the default of the connection", HTTP2{StreamWindow: 4 << 20}, ""},
		{"connection below stream", HTTP2{StreamWindow: 4 << 20, ConnectionWindow: 1 << 20}, "connection window 1048576: must be from 4194304 to 1073741824"},
		{"streams", HTTP2{Streams: -1}, "streams -1: must be from 1 to 1048576"},
		{"window", HTTP2{StreamWindow: 100}, "stream window 100: must be from 1024 to 16777216"},
		{"age", HTTP2{Age: time.Millisecond}, "age 1ms: must be from 1s to 24h0m0s"},
		{"timeout", HTTP2{PingTimeout: -1}, "ping timeout -1ns: must be from 10ms to 24h0m0s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if err := c.l.Check(); err != nil {
				got = err.Error()
			}
			if got != c.bad {
				t.Errorf("Check() = %q, want %q", got, c.bad)
			}
		})
	}
}
