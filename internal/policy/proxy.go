package policy

import (
	"errors"
	"fmt"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Proxy makes of an outbound listener a forward proxy for its application (RFC 9110, section 7.6): requests in absolute form, and CONNECT. The authority says which
// service is meant: a name of the mesh, a host of an external service, or an address of either; Unknown what becomes of the rest.
type Proxy struct {
	Unknown Unknown
}

// checkProxy is Listener.Check for one with a Proxy.
func (l Listener) checkProxy() error {
	switch {
	case l.Side != flow.SideClient || l.Protocol != flow.ProtocolHTTP:
		return errors.New("proxy: must be outbound and of protocol http")
	case l.Service != "" || l.Interception != nil || l.Edge != nil:
		return fmt.Errorf("proxy: serves all services, and is no listener of an edge or of redirected connections; remove service %q, interception and edge", l.Service)
	case l.Unix != nil:
		return fmt.Errorf("proxy: %s: listens on a port; give it an address", l.Unix)
	case l.Proxy.Unknown > UnknownRefuse:
		return fmt.Errorf("proxy: unknown %d: must be pass or refuse", l.Proxy.Unknown)
	}
	return nil
}
