package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// MetadataNamespace is the filter metadata under which Tulle's extras travel in Envoy's resources. What a stock Envoy can express stands in
// Envoy's own fields; only what it cannot stands here.
const MetadataNamespace = "tulle.dev"

// extras collects metadata fields; empty values are left out.
type extras map[string]*structpb.Value

func (e extras) str(key, v string) {
	if v != "" {
		e[key] = structpb.NewStringValue(v)
	}
}

func (e extras) strs(key string, vs []string) {
	if len(vs) == 0 {
		return
	}
	list := &structpb.ListValue{}
	for _, v := range vs {
		list.Values = append(list.Values, structpb.NewStringValue(v))
	}
	e[key] = structpb.NewListValue(list)
}

func (e extras) num(key string, v float64) {
	if v != 0 {
		e[key] = structpb.NewNumberValue(v)
	}
}

func (e extras) flag(key string, v bool) {
	if v {
		e[key] = structpb.NewBoolValue(true)
	}
}

func (e extras) dur(key string, v time.Duration) {
	if v != 0 {
		e[key] = structpb.NewStringValue(v.String())
	}
}

func (e extras) time(key string, v time.Time) {
	if !v.IsZero() {
		e[key] = structpb.NewStringValue(v.UTC().Format(time.RFC3339Nano))
	}
}

func (e extras) metadata() *corev3.Metadata {
	if len(e) == 0 {
		return nil
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{MetadataNamespace: {Fields: e}}}
}

// reader takes metadata fields apart and remembers the first field that is wrong.
type reader struct {
	fields map[string]*structpb.Value
	err    error
}

func read(md *corev3.Metadata) *reader {
	return &reader{fields: md.GetFilterMetadata()[MetadataNamespace].GetFields()}
}

func (r *reader) fail(key string, format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("metadata %s.%s: %s", MetadataNamespace, key, fmt.Sprintf(format, args...))
	}
}

func (r *reader) has(key string) bool {
	_, ok := r.fields[key]
	return ok
}

func (r *reader) str(key string) string {
	v, ok := r.fields[key]
	if !ok {
		return ""
	}
	s, ok := v.GetKind().(*structpb.Value_StringValue)
	if !ok {
		r.fail(key, "must be a string, is %v", v)
		return ""
	}
	return s.StringValue
}

func (r *reader) strs(key string) []string {
	v, ok := r.fields[key]
	if !ok {
		return nil
	}
	list := v.GetListValue()
	if list == nil {
		r.fail(key, "must be a list of strings, is %v", v)
		return nil
	}
	out := make([]string, 0, len(list.Values))
	for _, item := range list.Values {
		s, ok := item.GetKind().(*structpb.Value_StringValue)
		if !ok {
			r.fail(key, "must be a list of strings, has %v", item)
			return nil
		}
		out = append(out, s.StringValue)
	}
	return out
}

func (r *reader) num(key string) float64 {
	v, ok := r.fields[key]
	if !ok {
		return 0
	}
	n, ok := v.GetKind().(*structpb.Value_NumberValue)
	if !ok {
		r.fail(key, "must be a number, is %v", v)
		return 0
	}
	return n.NumberValue
}

func (r *reader) flag(key string) bool {
	v, ok := r.fields[key]
	if !ok {
		return false
	}
	b, ok := v.GetKind().(*structpb.Value_BoolValue)
	if !ok {
		r.fail(key, "must be true or false, is %v", v)
		return false
	}
	return b.BoolValue
}

func (r *reader) dur(key string) time.Duration {
	s := r.str(key)
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		r.fail(key, "%q is not a duration such as 250ms or 15s", s)
	}
	return d
}

func (r *reader) time(key string) time.Time {
	s := r.str(key)
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		r.fail(key, "%q is not an RFC 3339 time", s)
	}
	return t
}

// socketAddress is a TCP address in Envoy's terms.
func socketAddress(a netip.AddrPort) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       a.Addr().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())},
	}}}
}

func fromSocketAddress(a *corev3.Address) (netip.AddrPort, error) {
	sa := a.GetSocketAddress()
	if sa == nil {
		return netip.AddrPort{}, fmt.Errorf("address: must be a socket address, is %v", a)
	}
	ip, err := netip.ParseAddr(sa.GetAddress())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q: must be an IP address, not a name", sa.GetAddress())
	}
	if sa.GetPortValue() == 0 || sa.GetPortValue() > 65535 {
		return netip.AddrPort{}, fmt.Errorf("address %s: port %d is outside 1 to 65535", ip, sa.GetPortValue())
	}
	return netip.AddrPortFrom(ip, uint16(sa.GetPortValue())), nil
}

// protocols are the words for them, as they travel in metadata and stand in configuration.
var protocols = []struct {
	name string
	flow.Protocol
}{
	{"http", flow.ProtocolHTTP},   // of any version; the one that came in goes on
	{"http1", flow.ProtocolHTTP1}, // the application knows HTTP/1.1 only
	{"http2", flow.ProtocolHTTP2}, // the application knows HTTP/2, without being asked first (RFC 9113, section 3.3)
	{"grpc", flow.ProtocolGRPC},   // as http2, and what it speaks is gRPC
	{"tcp", flow.ProtocolTCP},
	{"tls", flow.ProtocolTLS},   // what the application speaks inside its own TLS is not looked at
	{"auto", flow.ProtocolAuto}, // detected, connection by connection
}

// Protocols are the words for what a listener or a service can speak, in the order in which they are shown.
func Protocols() []string {
	names := make([]string, len(protocols))
	for i, p := range protocols {
		names[i] = p.name
	}
	return names
}

// ParseProtocol reads one of Protocols.
func ParseProtocol(name string) (flow.Protocol, bool) {
	for _, p := range protocols {
		if p.name == name {
			return p.Protocol, true
		}
	}
	return 0, false
}

// ProtocolName is the inverse of ParseProtocol, "" for what no listener or service can speak.
func ProtocolName(protocol flow.Protocol) string {
	for _, p := range protocols {
		if p.Protocol == protocol {
			return p.name
		}
	}
	return ""
}

// protocolWords are Protocols for error messages.
var protocolWords = strings.Join(Protocols()[:len(protocols)-1], ", ") + " or " + protocols[len(protocols)-1].name

// protocol writes p. Sidecars from before detection was a protocol of its own take auto for http, which is what it mostly is.
func (e extras) protocol(p flow.Protocol) {
	e.flag("detect", p == flow.ProtocolAuto)
	if p == flow.ProtocolAuto {
		p = flow.ProtocolHTTP
	}
	e.str("protocol", ProtocolName(p))
}

// protocol is the inverse of extras.protocol.
func (r *reader) protocol() flow.Protocol {
	const key = "protocol"
	s := r.str(key)
	p, ok := ParseProtocol(s)
	if !ok {
		r.fail(key, "%q is not a protocol this sidecar speaks; use %s", s, protocolWords)
	}
	if r.flag("detect") {
		if p != flow.ProtocolHTTP {
			r.fail("detect", "is set beside protocol %q; only http is detected", s)
		}
		p = flow.ProtocolAuto
	}
	return p
}

func checkProtocol(p flow.Protocol) error {
	if ProtocolName(p) == "" {
		return fmt.Errorf("protocol %d: not supported here; use %s", p, protocolWords)
	}
	return nil
}

// MaxName bounds names: they become metric labels and file content.
const MaxName = 253

func checkName(field, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%s: must not be empty", field)
	case len(name) > MaxName:
		return fmt.Errorf("%s %q…: has %d characters, at most %d are allowed", field, name[:20], len(name), MaxName)
	case strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c == 0x7f }):
		return fmt.Errorf("%s %q: must not contain spaces or control characters", field, name)
	}
	return nil
}

func checkAddress(field string, a netip.AddrPort) error {
	if !a.IsValid() || a.Port() == 0 {
		return fmt.Errorf("%s %q: must be ip:port with a port from 1 to 65535, for example 127.0.0.1:8080", field, addrString(a))
	}
	return nil
}

func addrString(a netip.AddrPort) string {
	if !a.Addr().IsValid() {
		return ""
	}
	return a.String()
}
