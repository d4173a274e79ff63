package resource

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// Kinds lists every kind by its name in YAML.
var Kinds = []struct {
	Name string
	New  func() Object
}{
	{"Workload", func() Object { return &Workload{} }},
	{"ExternalService", func() Object { return &ExternalService{} }},
	{"TrafficPolicy", func() Object { return &TrafficPolicy{} }},
	{"AccessPolicy", func() Object { return &AccessPolicy{} }},
	{"TelemetryPolicy", func() Object { return &TelemetryPolicy{} }},
	{"Subset", func() Object { return &Subset{} }},
	{"Callers", func() Object { return &Callers{} }},
	{"TLSFiles", func() Object { return &TLSFiles{} }},
	{"MeshConfig", func() Object { return &MeshConfig{} }},
}

// Metadata of every kind.
type Metadata struct {
	Name      string            `yaml:"name"`
	Namespace string            `yaml:"namespace,omitempty"` // default "default"
	Labels    map[string]string `yaml:"labels,omitempty"`
}

// Header begins every kind.
type Header struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   Metadata `yaml:"metadata"`
}

// Key implements Object.
func (h *Header) Key() Key {
	return Key{Kind: h.Kind, Namespace: h.Metadata.Namespace, Name: h.Metadata.Name}
}

func (h *Header) check() error {
	if err := checkLabel("metadata.name", h.Metadata.Name); err != nil {
		return err
	}
	return checkLabel("metadata.namespace", h.Metadata.Namespace)
}

// Duration is written as "250ms", "15s"; "off" is -1.
type Duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	if n.Value == "off" {
		*d = -1
		return nil
	}
	v, err := time.ParseDuration(n.Value)
	if err != nil || v <= 0 {
		return fmt.Errorf("line %d: %q is not a duration", n.Line, n.Value) // decode.go says it better, with the field
	}
	*d = Duration(v)
	return nil
}

// Workload is one running instance of a service and its sidecar.
type Workload struct {
	Header `yaml:",inline"` // Name is the instance: unique in the mesh, and the sidecar's xDS node id
	Spec   WorkloadSpec     `yaml:"spec"`
}

// WorkloadSpec of a Workload.
type WorkloadSpec struct {
	Service        string        `yaml:"service"`                  // required
	Version        string        `yaml:"version,omitempty"`        // "v2"; shown, and used by weights
	Locality       Locality      `yaml:"locality,omitempty"`       // where it runs
	ServiceAccount string        `yaml:"serviceAccount,omitempty"` // default: Service
	Ports          []Port        `yaml:"ports,omitempty"`          // each is an endpoint; the first is where peers reach the service that name no port; none for a pure client
	Upstreams      []Upstream    `yaml:"upstreams,omitempty"`
	Intercept      Intercept     `yaml:"intercept,omitempty"`
	Proxy          Proxy         `yaml:"proxy,omitempty"` // for the application; default: none
	Edge           Edge          `yaml:"edge,omitempty"`  // a gateway's; default: it is none
	Limits         SidecarLimits `yaml:"limits,omitempty"`
	Telemetry      Telemetry     `yaml:"telemetry,omitempty"`
	Attest         Attest        `yaml:"attest,omitempty"`
}

// Attest names the application by what the kernel says of the process at the other end of a Unix socket. It holds for all Unix sockets of the workload.
type Attest struct {
	UIDs []uint32 `yaml:"uids,omitempty"` // one of these; default any
	GIDs []uint32 `yaml:"gids,omitempty"` // and one of these; default any
}

// policy is a as sidecars are told.
func (a Attest) policy() policy.Attest {
	return policy.Attest{UIDs: slices.Sorted(slices.Values(a.UIDs)), GIDs: slices.Sorted(slices.Values(a.GIDs))}
}

// Telemetry says what the sidecar may write down beyond what every Record has, and how it passes trace context on. Its ranges are those of
// policy.Telemetry.
type Telemetry struct {
	Headers     []string    `yaml:"headers,omitempty"` // names of header fields; their values become attributes of spans and log lines
	Propagation Propagation `yaml:"propagation,omitempty"`
}

// Propagation of trace context.
type Propagation struct {
	Accept []string `yaml:"accept,omitempty"` // w3c, b3; default: both, in this order
	Emit   []string `yaml:"emit,omitempty"`   // w3c, b3, b3-multi; default: w3c, and B3 in the form in which it came
}

// Policy is t as sidecars are told.
func (t Telemetry) Policy() policy.Telemetry {
	return policy.Telemetry{Headers: t.Headers, Accept: t.Propagation.Accept, Emit: t.Propagation.Emit}
}

// Port is an inbound listener.
type Port struct {
	Name        string `yaml:"name,omitempty"`        // unique in the workload; default: the protocol, of a further port with the same PROTOCOL-NUMBER
	Listen      string `yaml:"listen"`                // ip:port on which the sidecar serves peers
	Target      string `yaml:"target"`                // ip:port or unix:/path of the application
	Protocol    string `yaml:"protocol,omitempty"`    // one of policy.Protocols: what the application speaks; default by AppProtocol, Name, else auto
	AppProtocol string `yaml:"appProtocol,omitempty"` // as of a Service's port in Kubernetes
	Opaque      bool   `yaml:"opaque,omitempty"`      // bytes, whatever AppProtocol and Name say
	Mode        string `yaml:"mode,omitempty"`        // strict (default) | permissive; default from MeshConfig

	ProxyProtocol       ProxyProtocol `yaml:"proxyProtocol,omitempty"`
	TargetProxyProtocol string        `yaml:"targetProxyProtocol,omitempty"` // v1, v2: what connections to the application begin with; default none
}

// Upstream is an outbound listener.
type Upstream struct {
	Service    string     `yaml:"service"`
	Port       string     `yaml:"port,omitempty"`       // name of one of the service's ports; default: the first
	Listen     string     `yaml:"listen"`               // ip:port or unix:/path on which the sidecar serves its application
	SocketMode SocketMode `yaml:"socketMode,omitempty"` // permissions of the Unix socket's file; default 0660
}

// SocketMode is permissions of a file, written in octal: "0660".
type SocketMode uint32

// UnmarshalYAML implements yaml.Unmarshaler.
func (m *SocketMode) UnmarshalYAML(n *yaml.Node) error {
	v, err := strconv.ParseUint(strings.TrimPrefix(n.Value, "0o"), 8, 32)
	if err != nil || v == 0 || v > 0o777 {
		return fmt.Errorf("line %d: %q is not the permissions of a file", n.Line, n.Value) // decode.go says it better, with the field
	}
	*m = SocketMode(v)
	return nil
}

// Unix is u's Unix socket as sidecars are told, nil when it listens on a port. w is checked.
func (w *Workload) Unix(u Upstream) *policy.Unix {
	path, ok := policy.ParseUnix(u.Listen)
	if !ok {
		return nil
	}
	return &policy.Unix{Path: path, Mode: uint32(u.SocketMode), Attest: w.Spec.Attest.policy()}
}

// TargetUnix is the application's Unix socket of p as sidecars are told, nil when it listens on a port. w is checked.
func (w *Workload) TargetUnix(p Port) *policy.Unix {
	path, ok := policy.ParseUnix(p.Target)
	if !ok {
		return nil
	}
	return &policy.Unix{Path: path, Attest: w.Spec.Attest.policy()}
}

// Intercept says where redirected connections arrive and what becomes of them.
type Intercept struct {
	Outbound InterceptOutbound `yaml:"outbound,omitempty"`
	Inbound  InterceptInbound  `yaml:"inbound,omitempty"`
}

// InterceptInbound is about connections to the own application. Where it is set, the sidecar does not listen at the addresses of the ports itself.
type InterceptInbound struct {
	Listen  string `yaml:"listen,omitempty"`  // ip:port to which they are redirected; default: none are
	Mode    string `yaml:"mode,omitempty"`    // redirect (default) | tproxy
	Unknown string `yaml:"unknown,omitempty"` // what becomes of those to no port of the workload: refuse (default) | pass
}

// Policy is i as sidecars are told; nil when nothing is redirected. i is checked.
func (i InterceptInbound) Policy() *policy.Interception {
	if i.Listen == "" {
		return nil
	}
	p := &policy.Interception{Transparent: i.Mode == "tproxy"}
	p.Unknown, _ = policy.ParseUnknown(i.Unknown, flow.SideServer)
	return p
}

func (i *InterceptInbound) check(field string) error {
	if i.Listen == "" {
		if i.Unknown != "" || i.Mode != "" {
			return fmt.Errorf("%s.listen: is required beside other fields; give the address to which connections are redirected, such as [::]:15006", field)
		}
		return nil
	}
	if err := checkAddr(field+".listen", &i.Listen); err != nil {
		return err
	}
	if i.Mode != "" {
		if err := oneOf(field+".mode", i.Mode, "redirect", "tproxy"); err != nil {
			return err
		}
	}
	if _, err := policy.ParseUnknown(i.Unknown, flow.SideServer); err != nil {
		return fmt.Errorf("%s.unknown: %w", field, err)
	}
	return nil
}

// InterceptOutbound is about connections of the own application. Meanings, defaults and ranges are those of policy.Interception.
type InterceptOutbound struct {
	Listen        string   `yaml:"listen,omitempty"` // ip:port to which they are redirected; default: none are
	Unknown       string   `yaml:"unknown,omitempty"`
	Away          string   `yaml:"away,omitempty"` // default: unknown
	LookupTimeout Duration `yaml:"lookupTimeout,omitempty"`
	DetectTimeout Duration `yaml:"detectTimeout,omitempty"`
	OpaquePorts   []int    `yaml:"opaquePorts,omitempty"`
}

// Policy is i as sidecars are told; nil when nothing is redirected. i is checked.
func (i InterceptOutbound) Policy() *policy.Interception {
	if i.Listen == "" {
		return nil
	}
	p := &policy.Interception{DetectTimeout: time.Duration(i.DetectTimeout), LookupTimeout: time.Duration(i.LookupTimeout)}
	p.Unknown, _ = policy.ParseUnknown(i.Unknown, flow.SideClient)
	p.Away, _ = policy.ParseUnknown(cmp.Or(i.Away, i.Unknown), flow.SideClient)
	for _, n := range i.OpaquePorts {
		p.OpaquePorts = append(p.OpaquePorts, uint16(n))
	}
	slices.Sort(p.OpaquePorts)
	return p
}

func (i *InterceptOutbound) check(field string) error {
	if i.Listen == "" {
		if i.Unknown != "" || i.Away != "" || i.LookupTimeout != 0 || i.DetectTimeout != 0 || len(i.OpaquePorts) > 0 {
			return fmt.Errorf("%s.listen: is required beside other fields; give the address to which connections are redirected, such as 127.0.0.1:15001", field)
		}
		return nil
	}
	if err := checkAddr(field+".listen", &i.Listen); err != nil {
		return err
	}
	if _, err := policy.ParseUnknown(i.Unknown, flow.SideClient); err != nil {
		return fmt.Errorf("%s.unknown: %w", field, err)
	}
	if _, err := policy.ParseUnknown(i.Away, flow.SideClient); err != nil {
		return fmt.Errorf("%s.away: %w", field, err)
	}
	if i.LookupTimeout < 0 {
		return fmt.Errorf("%s.lookupTimeout: cannot be off; a connection would wait for a controller that is away for ever", field)
	}
	for _, n := range i.OpaquePorts {
		if n < 1 || n > 65535 {
			return fmt.Errorf("%s.opaquePorts: %d: must be from 1 to 65535", field, n)
		}
	}
	if i.DetectTimeout < 0 {
		return fmt.Errorf("%s.detectTimeout: cannot be off; list ports where the server speaks first in opaquePorts", field)
	}
	if err := i.Policy().Check(); err != nil {
		return fmt.Errorf("%s.%w", field, err)
	}
	return nil
}

// SidecarLimits of a Workload's sidecar. Connections, ConnectionsPerSource and BufferBytes hold for all of its traffic, the others for each caller of each of
// its HTTP listeners.
type SidecarLimits struct {
	HeadBytes            int      `yaml:"headBytes,omitempty"`            // default 61440
	HeadFields           int      `yaml:"headFields,omitempty"`           // default 100
	RequestLineBytes     int      `yaml:"requestLineBytes,omitempty"`     // default 8192, or headBytes
	HeadTimeout          Duration `yaml:"headTimeout,omitempty"`          // default 10s
	BodyTimeout          Duration `yaml:"bodyTimeout,omitempty"`          // default 10s; off
	IdleTimeout          Duration `yaml:"idleTimeout,omitempty"`          // default 5m
	DetectTimeout        Duration `yaml:"detectTimeout,omitempty"`        // default 1s; of policy.Listener
	Connections          int      `yaml:"connections,omitempty"`          // default 16384
	ConnectionsPerSource int      `yaml:"connectionsPerSource,omitempty"` // default three quarters of connections
	BufferBytes          int64    `yaml:"bufferBytes,omitempty"`          // default 268435456
	HTTP2                HTTP2    `yaml:"http2,omitempty"`
}

// HTTP2 limits what one caller may do with a connection of HTTP/2. Meanings, defaults and ranges are those of policy.HTTP2.
type HTTP2 struct {
	Streams               int      `yaml:"streams,omitempty"`               // default 256
	StreamWindowBytes     int      `yaml:"streamWindowBytes,omitempty"`     // default 262144
	ConnectionWindowBytes int      `yaml:"connectionWindowBytes,omitempty"` // default 1048576, or streamWindowBytes
	Resets                int      `yaml:"resets,omitempty"`                // default 200
	ControlFrames         int      `yaml:"controlFrames,omitempty"`         // default 1000
	EmptyFrames           int      `yaml:"emptyFrames,omitempty"`           // default 10
	PriorityFrames        int      `yaml:"priorityFrames,omitempty"`        // default 100
	WindowUpdates         int      `yaml:"windowUpdates,omitempty"`         // default 100
	Continuations         int      `yaml:"continuations,omitempty"`         // default 16
	Age                   Duration `yaml:"age,omitempty"`                   // default off
	AgeGrace              Duration `yaml:"ageGrace,omitempty"`              // default off
	PingInterval          Duration `yaml:"pingInterval,omitempty"`          // default 30s; off
	PingTimeout           Duration `yaml:"pingTimeout,omitempty"`           // default 10s
}

// Policy is l as sidecars are told.
func (l HTTP2) Policy() policy.HTTP2 {
	return policy.HTTP2{
		Streams: l.Streams, StreamWindow: l.StreamWindowBytes, ConnectionWindow: l.ConnectionWindowBytes, Resets: l.Resets, ControlFrames: l.ControlFrames,
		EmptyFrames: l.EmptyFrames, PriorityFrames: l.PriorityFrames, WindowUpdates: l.WindowUpdates, Continuations: l.Continuations,
		Age: max(time.Duration(l.Age), 0), AgeGrace: max(time.Duration(l.AgeGrace), 0), // off is their default
		PingInterval: time.Duration(l.PingInterval), PingTimeout: time.Duration(l.PingTimeout),
	}
}

// Listener is the share of each HTTP listener.
func (l SidecarLimits) Listener() policy.Limits {
	return policy.Limits{
		HeadBytes: l.HeadBytes, HeadFields: l.HeadFields, RequestLine: l.RequestLineBytes,
		HeadTimeout: time.Duration(l.HeadTimeout), BodyTimeout: time.Duration(l.BodyTimeout), IdleTimeout: time.Duration(l.IdleTimeout),
		HTTP2: l.HTTP2.Policy(),
	}
}

// Sidecar is the share of the whole sidecar.
func (l SidecarLimits) Sidecar() policy.SidecarLimits {
	return policy.SidecarLimits{Connections: l.Connections, ConnectionsPerSource: l.ConnectionsPerSource, BufferBytes: l.BufferBytes}
}

// MaxPorts bounds inbound listeners of one Workload.
const MaxPorts = 32

func (w *Workload) check() error {
	if err := w.Header.check(); err != nil {
		return err
	}
	s := &w.Spec
	if err := checkLabel("spec.service", s.Service); err != nil {
		return err
	}
	if s.ServiceAccount == "" {
		s.ServiceAccount = s.Service
	}
	if err := checkLabel("spec.serviceAccount", s.ServiceAccount); err != nil {
		return err
	}
	if err := s.Locality.Policy().Check(); err != nil {
		return fmt.Errorf("spec.%w", err)
	}
	if err := policy.LabelsCheck(w.Metadata.Labels); err != nil {
		return fmt.Errorf("metadata.%w", err)
	}
	intercepted := s.Intercept.Inbound.Listen != ""
	if len(s.Ports) > MaxPorts {
		return fmt.Errorf("spec.ports: has %d entries, at most %d are allowed", len(s.Ports), MaxPorts)
	}
	for i := range s.Ports {
		p, field := &s.Ports[i], fmt.Sprintf("spec.ports[%d]", i)
		protocol, err := speaks(field, p.Protocol, p.AppProtocol, p.Name, p.Opaque)
		if err != nil {
			return err
		}
		p.Protocol = protocol
		if p.Mode != "" {
			if err := oneOf(field+".mode", p.Mode, "strict", "permissive"); err != nil {
				return err
			}
			if p.Mode == "permissive" && p.Protocol == "tls" {
				return fmt.Errorf("%s.mode: of protocol tls the mesh's TLS could not be told from the application's; use strict", field)
			}
		}
		if err := p.ProxyProtocol.check(field + ".proxyProtocol"); err != nil {
			return err
		}
		if err := checkProxyVersion(field+".targetProxyProtocol", p.TargetProxyProtocol, p.Protocol); err != nil {
			return err
		}
		if err := checkAddr(field+".listen", &p.Listen); err != nil {
			return err
		}
		if err := checkHop(field+".target", &p.Target); err != nil {
			return err
		}
		if p.Listen == p.Target && !intercepted {
			return fmt.Errorf("%s.target: %s is the sidecar's own address; give the application's", field, p.Target)
		}
	}
	numbers := map[string]int{} // a redirected connection is known by its port
	for i, p := range s.Ports {
		number := p.Listen[strings.LastIndexByte(p.Listen, ':'):]
		if other, ok := numbers[number]; ok {
			return fmt.Errorf("spec.ports[%d].listen: spec.ports[%d] has port %s too; give each its own", i, other, number[1:])
		}
		numbers[number] = i
	}
	if err := namePorts(s.Ports); err != nil {
		return err
	}
	seen := map[string]bool{}
	for i := range s.Upstreams {
		u, field := &s.Upstreams[i], fmt.Sprintf("spec.upstreams[%d]", i)
		if err := checkLabel(field+".service", u.Service); err != nil {
			return err
		}
		if u.Port != "" {
			if err := checkLabel(field+".port", u.Port); err != nil {
				return err
			}
		}
		name := policy.PortOf(u.Service, u.Port)
		if seen[name] {
			return fmt.Errorf("%s.service: %q is listed twice; remove one, or name another of its ports", field, name)
		}
		seen[name] = true
		if err := checkHop(field+".listen", &u.Listen); err != nil {
			return err
		}
		switch path, unix := policy.ParseUnix(u.Listen); {
		case u.SocketMode != 0 && !unix:
			return fmt.Errorf("%s.socketMode: %s is no Unix socket; remove it", field, u.Listen)
		case u.SocketMode != 0 && strings.HasPrefix(path, "@"):
			return fmt.Errorf("%s.socketMode: %s is an abstract socket, which has no file; remove it, and say in spec.attest who may connect", field, u.Listen)
		}
	}
	if err := w.checkAttest(); err != nil {
		return err
	}
	if err := s.Intercept.Outbound.check("spec.intercept.outbound"); err != nil {
		return err
	}
	if err := s.Intercept.Inbound.check("spec.intercept.inbound"); err != nil {
		return err
	}
	if err := s.Proxy.check("spec.proxy"); err != nil {
		return err
	}
	if d := s.Limits.DetectTimeout; d < 0 {
		return fmt.Errorf("spec.limits.detectTimeout: cannot be off; declare the protocol of a port, and nothing is detected there")
	} else if d != 0 {
		// What the sidecar would refuse is refused here.
		if err := (policy.Interception{DetectTimeout: time.Duration(d)}).Check(); err != nil {
			return fmt.Errorf("spec.limits.%w", err)
		}
	}
	if err := s.Edge.check("spec.edge"); err != nil {
		return err
	}
	for _, err := range []error{s.Limits.Listener().Check(), s.Limits.Sidecar().Check()} {
		if err != nil {
			return fmt.Errorf("spec.limits: %w", err)
		}
	}
	for i, name := range s.Telemetry.Headers { // field names have no case (RFC 9110, section 5.1)
		s.Telemetry.Headers[i] = strings.ToLower(name)
	}
	if err := s.Telemetry.Policy().Check(); err != nil {
		return fmt.Errorf("spec.telemetry.%w", err)
	}
	taken := map[string]string{}
	own := w.listens()
	own = append(own, s.Edge.listens(true)...)
	if at := s.Intercept.Outbound.Listen; at != "" { // may be that of others: each is in a network namespace of its own
		own = append(own, listen{"spec.intercept.outbound.listen", at})
	}
	if at := s.Intercept.Inbound.Listen; at != "" {
		own = append(own, listen{"spec.intercept.inbound.listen", at})
	}
	for _, l := range own {
		if other, ok := taken[l.address]; ok {
			return fmt.Errorf("%s: %s is already taken by %s; give one of them another port", l.field, l.address, other)
		}
		taken[l.address] = l.field
	}
	return nil
}

// checkAttest wants ids that a sidecar can act on, and a Unix socket for which they hold.
func (w *Workload) checkAttest() error {
	a := w.Spec.Attest
	if len(a.UIDs)+len(a.GIDs) == 0 {
		return nil
	}
	if err := a.policy().Check(); err != nil {
		return fmt.Errorf("spec.attest.%w", err)
	}
	for _, p := range w.Spec.Ports {
		if _, ok := policy.ParseUnix(p.Target); ok {
			return nil
		}
	}
	for _, u := range w.Spec.Upstreams {
		if _, ok := policy.ParseUnix(u.Listen); ok {
			return nil
		}
	}
	return errors.New("spec.attest: no target and no upstream of the workload is a Unix socket, and at a port nobody is attested; write unix:/path there, or remove attest")
}

// namePorts gives ports without a name their default and refuses names that are no labels, or are given twice.
func namePorts(ports []Port) error {
	taken := map[string]int{}
	for i, p := range ports {
		if p.Name == "" {
			continue
		}
		field := fmt.Sprintf("spec.ports[%d].name", i)
		if err := checkLabel(field, p.Name); err != nil {
			return err
		}
		if other, ok := taken[p.Name]; ok {
			return fmt.Errorf("%s: spec.ports[%d] is called %q too; give each its own", field, other, p.Name)
		}
		taken[p.Name] = i
	}
	for i := range ports {
		p := &ports[i]
		if p.Name != "" {
			continue
		}
		name := p.Protocol
		if _, ok := taken[name]; ok {
			name += "-" + p.Listen[strings.LastIndexByte(p.Listen, ':')+1:]
		}
		if other, ok := taken[name]; ok {
			return fmt.Errorf("spec.ports[%d].name: is %q by default, which spec.ports[%d] has; give one of them another", i, name, other)
		}
		p.Name, taken[name] = name, i
	}
	return nil
}

type listen struct{ field, address string }

// local reports whether l is of a host: workloads of two may have the same.
func (l listen) local() bool {
	_, ok := policy.ParseUnix(l.address)
	return ok
}

func (w *Workload) listens() []listen {
	var out []listen
	for i, p := range w.Spec.Ports {
		out = append(out, listen{fmt.Sprintf("spec.ports[%d].listen", i), p.Listen})
	}
	for i, u := range w.Spec.Upstreams {
		out = append(out, listen{fmt.Sprintf("spec.upstreams[%d].listen", i), u.Listen})
	}
	if w.Spec.Proxy.Listen != "" {
		out = append(out, listen{"spec.proxy.listen", w.Spec.Proxy.Listen})
	}
	return append(out, w.Spec.Edge.listens(false)...)
}

// ExternalService is a host outside the mesh. Its name is how upstreams refer to it.
type ExternalService struct {
	Header `yaml:",inline"`
	Spec   ExternalServiceSpec `yaml:"spec"`
}

// ExternalServiceSpec of an ExternalService.
type ExternalServiceSpec struct {
	Host      string   `yaml:"host,omitempty"`      // shown; the name people know it by; one of Hosts where it is a host name
	Hosts     []string `yaml:"hosts,omitempty"`     // names by which it is called, "*.example.com" too
	Addresses []string `yaml:"addresses,omitempty"` // ip:port, at least one unless it has Hosts
	Protocol  string   `yaml:"protocol,omitempty"`  // one of policy.Protocols; default by AppProtocol, else auto
	// AppProtocol and Opaque are as of a Port.
	AppProtocol string `yaml:"appProtocol,omitempty"`
	Opaque      bool   `yaml:"opaque,omitempty"`

	TLS       *ClientTLS `yaml:"tls,omitempty"`       // originated by the sidecar; default: what the application speaks goes on
	Authority string     `yaml:"authority,omitempty"` // what the authority of requests becomes; default: as it came
	Via       string     `yaml:"via,omitempty"`       // service of the edge through which it is called; default: directly

	ProxyProtocol string `yaml:"proxyProtocol,omitempty"` // v1, v2: what connections to it begin with; default none
}

func (e *ExternalService) check() error {
	if err := e.Header.check(); err != nil {
		return err
	}
	protocol, err := speaks("spec", e.Spec.Protocol, e.Spec.AppProtocol, "", e.Spec.Opaque)
	if err != nil {
		return err
	}
	if err := checkProxyVersion("spec.proxyProtocol", e.Spec.ProxyProtocol, protocol); err != nil {
		return err
	}
	e.Spec.Protocol = protocol
	if err := e.Spec.checkHosts(); err != nil {
		return err
	}
	if err := e.Spec.checkTLS(); err != nil {
		return err
	}
	if len(e.Spec.Addresses) == 0 && len(e.Spec.Names()) == 0 {
		return fmt.Errorf("spec.addresses: must list at least one ip:port, unless spec.hosts has names to know it by")
	}
	for i := range e.Spec.Addresses {
		if err := checkAddr(fmt.Sprintf("spec.addresses[%d]", i), &e.Spec.Addresses[i]); err != nil {
			return err
		}
		if slices.Contains(e.Spec.Addresses[:i], e.Spec.Addresses[i]) {
			return fmt.Errorf("spec.addresses[%d]: %s is listed twice; remove one", i, e.Spec.Addresses[i])
		}
	}
	return nil
}

// TrafficPolicy says how callers treat services, or what becomes of the requests of routes. Fields left out are those of less special policies (Level), or their defaults
// (internal/policy).
type TrafficPolicy struct {
	Header `yaml:",inline"`
	Spec   TrafficPolicySpec `yaml:"spec"`
}

// TrafficPolicySpec of a TrafficPolicy.
type TrafficPolicySpec struct {
	TargetService  string          `yaml:"targetService,omitempty"` // a service, by its name alone
	TargetRefs     []TargetRef     `yaml:"targetRefs,omitempty"`    // or these
	LoadBalancer   LoadBalancer    `yaml:"loadBalancer,omitempty"`
	RequestTimeout Duration        `yaml:"requestTimeout,omitempty"` // whole exchange, of a stream until its answer has begun; default 15s; off
	TryTimeout     Duration        `yaml:"tryTimeout,omitempty"`     // one attempt; default: requestTimeout; off
	ConnectTimeout Duration        `yaml:"connectTimeout,omitempty"` // default 1s
	IdleTimeout    Duration        `yaml:"idleTimeout,omitempty"`    // a relay, a tunnel or a stream without bytes; default 1h; off
	StreamTimeout  Duration        `yaml:"streamTimeout,omitempty"`  // a stream, and whatever answers are then; default: off for what is one by nature
	Retry          Retry           `yaml:"retry,omitempty"`
	Limits         Limits          `yaml:"limits,omitempty"`
	Ejection       ServiceEjection `yaml:"ejection,omitempty"`
	Faults         []Fault         `yaml:"faults,omitempty"`     // the first whose headers match
	RateLimits     []RateLimit     `yaml:"rateLimits,omitempty"` // all must let a request pass
	Respond        Respond         `yaml:"respond,omitempty"`    // of routes and rules only
}

// Retry settings.
type Retry struct {
	Attempts    int      `yaml:"attempts,omitempty"`    // tries in all; default 2; 1 is off
	BudgetRatio float64  `yaml:"budgetRatio,omitempty"` // retries per request; default 0.2
	BudgetMin   float64  `yaml:"budgetMin,omitempty"`   // plus this many per second; default 10
	BackoffBase Duration `yaml:"backoffBase,omitempty"` // default 25ms
	BackoffMax  Duration `yaml:"backoffMax,omitempty"`  // default 250ms
	GRPC        []string `yaml:"grpc,omitempty"`        // names of statuses after which a call is tried again; default none
}

// Limits per sidecar towards the service, and of the service's own sidecars.
type Limits struct {
	MaxRequests    int      `yaml:"maxRequests,omitempty"`    // default 1024
	MaxConnections int      `yaml:"maxConnections,omitempty"` // default 1024
	MaxPending     int      `yaml:"maxPending,omitempty"`     // default 1024
	Adaptive       Adaptive `yaml:"adaptive,omitempty"`
}

// Adaptive is the limit that the sidecars of a called service find by themselves. Meanings, defaults and ranges are those of policy.Adaptive.
type Adaptive struct {
	Enabled     *bool    `yaml:"enabled,omitempty"`
	Latency     Duration `yaml:"latency,omitempty"`
	Factor      float64  `yaml:"factor,omitempty"`
	MinRequests int      `yaml:"minRequests,omitempty"`
}

// Policy is a as sidecars have it.
func (a Adaptive) Policy() policy.Adaptive {
	return policy.Adaptive{Off: a.Enabled != nil && !*a.Enabled, Latency: time.Duration(a.Latency), Factor: a.Factor, MinRequests: a.MinRequests}
}

// Ejection by the controller on fleet evidence.
type Ejection struct {
	Enabled *bool `yaml:"enabled,omitempty"` // default true
}

// ServiceEjection is that of one service.
type ServiceEjection struct {
	Enabled *bool         `yaml:"enabled,omitempty"` // by the controller; default: the mesh's
	Local   LocalEjection `yaml:"local,omitempty"`
}

// On reports whether the controller may eject.
func (e ServiceEjection) On() bool { return Ejection{e.Enabled}.On() }

// LocalEjection by a sidecar on its own evidence.
type LocalEjection struct {
	Errors  *int     `yaml:"errors,omitempty"`  // failed tries in a row; default 5; 0: off
	Failing *int     `yaml:"failing,omitempty"` // points of percent of failed tries above others; default 30; 0: off
	Slow    *int     `yaml:"slow,omitempty"`    // times the response time of others; default 5; 0: off
	Base    Duration `yaml:"base,omitempty"`    // first term; default 1s
	Max     Duration `yaml:"max,omitempty"`     // longest term; default and most 30s
}

// Policy is e as sidecars have it.
func (e LocalEjection) Policy() policy.Ejection {
	number := func(v *int) int {
		switch {
		case v == nil:
			return 0
		case *v == 0:
			return -1
		}
		return *v
	}
	return policy.Ejection{Errors: number(e.Errors), Failing: number(e.Failing), Slow: number(e.Slow), Base: time.Duration(e.Base), Max: time.Duration(e.Max)}
}

// On reports whether ejection is enabled.
func (e Ejection) On() bool { return e.Enabled == nil || *e.Enabled }

func (p *TrafficPolicy) check() error {
	if err := p.Header.check(); err != nil {
		return err
	}
	s := p.Spec
	if err := p.checkTargets(); err != nil {
		return err
	}
	if err := s.checkRules(); err != nil {
		return err
	}
	for _, d := range []struct {
		field string
		v     Duration
	}{
		{"spec.connectTimeout", s.ConnectTimeout},
		{"spec.limits.adaptive.latency", s.Limits.Adaptive.Latency},
		{"spec.retry.backoffBase", s.Retry.BackoffBase},
		{"spec.retry.backoffMax", s.Retry.BackoffMax},
		{"spec.ejection.local.base", s.Ejection.Local.Base},
		{"spec.ejection.local.max", s.Ejection.Local.Max},
	} {
		if d.v < 0 {
			return fmt.Errorf("%s: cannot be off; set a duration such as 1s", d.field)
		}
	}
	if _, err := policy.ParseGRPCStatuses(s.Retry.GRPC); err != nil {
		return fmt.Errorf("spec.retry.grpc%w", err)
	}
	for _, n := range []struct {
		field string
		v     *int
	}{{"errors", s.Ejection.Local.Errors}, {"failing", s.Ejection.Local.Failing}, {"slow", s.Ejection.Local.Slow}} {
		if n.v != nil && *n.v < 0 {
			return fmt.Errorf("spec.ejection.local.%s: %d must not be negative; 0 is off", n.field, *n.v)
		}
	}
	if err := s.LoadBalancer.check("spec.loadBalancer"); err != nil {
		return err
	}
	if err := s.LoadBalancer.Policy().Check(); err != nil {
		return fmt.Errorf("spec.loadBalancer.%w", err)
	}
	// What the sidecar would refuse is refused here.
	if err := s.Apply(policy.Service{Name: cmp.Or(s.TargetService, "any"), Protocol: flow.ProtocolHTTP}).WithDefaults().Check(); err != nil {
		return fmt.Errorf("spec: %w", err)
	}
	return nil
}

// Apply puts the settings on svc; what is not set becomes zero, the default.
func (p TrafficPolicySpec) Apply(svc policy.Service) policy.Service {
	svc.RequestTimeout = time.Duration(p.RequestTimeout)
	svc.TryTimeout = time.Duration(p.TryTimeout)
	svc.ConnectTimeout = time.Duration(p.ConnectTimeout)
	svc.IdleTimeout = time.Duration(p.IdleTimeout)
	svc.StreamTimeout = time.Duration(p.StreamTimeout)
	svc.MaxRequests = p.Limits.MaxRequests
	svc.MaxConnections = p.Limits.MaxConnections
	svc.MaxPending = p.Limits.MaxPending
	svc.Adaptive = p.Limits.Adaptive.Policy()
	svc.Balancer = p.LoadBalancer.Policy()
	svc.Ejection = p.Ejection.Local.Policy()
	statuses, _ := policy.ParseGRPCStatuses(p.Retry.GRPC) // checked
	svc.Retry = policy.Retry{
		Attempts: p.Retry.Attempts, BudgetRatio: p.Retry.BudgetRatio, BudgetMin: p.Retry.BudgetMin,
		BackoffBase: time.Duration(p.Retry.BackoffBase), BackoffMax: time.Duration(p.Retry.BackoffMax), GRPC: statuses,
	}
	return svc
}

// MeshConfig is for the whole mesh; there is at most one.
type MeshConfig struct {
	Header `yaml:",inline"`
	Spec   MeshConfigSpec `yaml:"spec"`
}

// MeshConfigSpec of a MeshConfig.
type MeshConfigSpec struct {
	TrustDomain string   `yaml:"trustDomain,omitempty"` // must be the controller's; a check against mixing up directories
	Mode        string   `yaml:"mode,omitempty"`        // default of ports[].mode: strict (default) | permissive
	Access      string   `yaml:"access,omitempty"`      // what becomes of what no AccessPolicy is about: allow (default) | deny
	Ejection    Ejection `yaml:"ejection,omitempty"`    // default for all services
}

func (m *MeshConfig) check() error {
	if err := m.Header.check(); err != nil {
		return err
	}
	if td := m.Spec.TrustDomain; td != "" {
		if _, err := identity.Parse("spiffe://" + td); err != nil {
			return fmt.Errorf("spec.trustDomain: %w", err)
		}
	}
	if m.Spec.Mode != "" {
		if err := oneOf("spec.mode", m.Spec.Mode, "strict", "permissive"); err != nil {
			return err
		}
	}
	if m.Spec.Access != "" {
		return oneOf("spec.access", m.Spec.Access, "allow", "deny")
	}
	return nil
}

// checkLabel wants a DNS label: names become parts of identities, metric labels and host names.
func checkLabel(field, v string) error {
	ok := len(v) > 0 && len(v) <= 63 && v[0] != '-' && v[len(v)-1] != '-' &&
		!strings.ContainsFunc(v, func(c rune) bool { return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') })
	if !ok {
		return fmt.Errorf("%s: %q must be 1 to 63 of a-z, 0-9 and -, not beginning or ending with -", field, v)
	}
	return nil
}

func oneOf(field, v string, allowed ...string) error {
	if slices.Contains(allowed, v) {
		return nil
	}
	return fmt.Errorf("%s: %q is not one of %s", field, v, strings.Join(allowed, ", "))
}

// checkHop wants ip:port or a Unix socket, and rewrites it in its canonical form.
func checkHop(field string, v *string) error {
	p, ok := policy.ParseUnix(*v)
	if !ok {
		if err := checkAddr(field, v); err != nil {
			return fmt.Errorf("%w, or unix:/path", err)
		}
		return nil
	}
	if err := policy.CheckUnixPath(p); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	return nil
}

// checkAddr wants ip:port and rewrites it in its canonical form.
func checkAddr(field string, v *string) error {
	s := *v
	if rest, ok := strings.CutPrefix(s, "localhost:"); ok {
		s = "127.0.0.1:" + rest
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Port() == 0 {
		return fmt.Errorf("%s: %q must be ip:port with a port from 1 to 65535, for example 127.0.0.1:8080", field, *v)
	}
	*v = netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String() // as callers' sidecars learn it
	return nil
}
