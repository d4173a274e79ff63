package exchange

import "strings"

// Names of the fields by which an edge says who called it.
const (
	ForwardedForField   = "x-forwarded-for"
	ForwardedProtoField = "x-forwarded-proto"
)

// Forward begins what an edge says of its caller in a request that goes on: x.Forwarded and x.ForwardedProto. Of what came, by Forwards for each field, it keeps what
// as many proxies have said as are trusted. False: the listener is no edge of callers outside the mesh.
func (x *Exchange) Forward() bool {
	e := x.Binding.Listener.Edge
	x.Forwarded, x.ForwardedProto = x.Forwarded[:0], ""
	return e != nil && !e.Mesh
}

// Forwards takes a field of the request, in lower case or not, and reports whether it does not go on as it is: what callers say of themselves is worth nothing, unless
// they are proxies that are trusted.
func (x *Exchange) Forwards(name, value string) (drop bool) {
	hops := x.Binding.Listener.Edge.TrustedHops
	switch len(name) {
	case len(ForwardedForField):
		if strings.EqualFold(name, ForwardedForField) {
			if hops > 0 {
				if len(x.Forwarded) > 0 {
					x.Forwarded = append(x.Forwarded, ", "...)
				}
				x.Forwarded = append(x.Forwarded, value...)
			}
			return true
		}
	case len(ForwardedProtoField):
		if strings.EqualFold(name, ForwardedProtoField) {
			x.ForwardedProto = "" // said twice, it says nothing
			if hops > 0 && (value == "http" || value == "https") {
				x.ForwardedProto = "http"
				if value == "https" {
					x.ForwardedProto = "https"
				}
			}
			return true
		}
	case len("x-forwarded-host"): // and -port
		return hops == 0 && (strings.EqualFold(name, "x-forwarded-host") || strings.EqualFold(name, "x-forwarded-port"))
	case len("forwarded"): // and x-real-ip
		return hops == 0 && (strings.EqualFold(name, "forwarded") || strings.EqualFold(name, "x-real-ip"))
	}
	return false
}

// Forwarding ends what Forward began: the last addresses of the list are those that trusted proxies have written, and the caller's own comes behind them.
func (x *Exchange) Forwarding() {
	at := len(x.Forwarded)
	for hops := x.Binding.Listener.Edge.TrustedHops; hops > 0 && at > 0; hops-- {
		at = max(strings.LastIndexByte(Aliased(x.Forwarded[:at]), ','), 0)
	}
	kept := x.Forwarded[at:]
	for len(kept) > 0 && (kept[0] == ',' || kept[0] == ' ') {
		kept = kept[1:]
	}
	x.Forwarded = append(x.Forwarded[:0], kept...)
	if len(x.Forwarded) > 0 {
		x.Forwarded = append(x.Forwarded, ", "...)
	}
	if a := x.Peer.Addr.Addr(); a.IsValid() {
		x.Forwarded = a.WithZone("").AppendTo(x.Forwarded)
	} else {
		x.Forwarded = append(x.Forwarded, "unknown"...)
	}
	if x.ForwardedProto == "" {
		x.ForwardedProto = "http"
		if x.Peer.Secure {
			x.ForwardedProto = "https"
		}
	}
}
