package lint

import (
	"net/netip"
	"slices"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// plaintextExternal is about services of HTTP outside that are called without TLS, unless all of their addresses are of private networks.
func plaintextExternal(m *mesh, say func(place, string, ...any)) {
	for _, e := range m.Set.External {
		p, _ := policy.ParseProtocol(e.Spec.Protocol)
		if e.Spec.TLS != nil || !p.HTTP() || len(e.Spec.Addresses) > 0 && !slices.ContainsFunc(e.Spec.Addresses, public) {
			continue
		}
		say(m.at(e.Key()), "spec.tls: is not set, and requests of %s go out in plaintext", e.Spec.Protocol)
	}
}

func public(address string) bool {
	a, err := netip.ParseAddrPort(address)
	return err == nil && !a.Addr().IsPrivate() && !a.Addr().IsLoopback() && !a.Addr().IsLinkLocalUnicast()
}

// permissiveMesh is about a whole mesh that takes plaintext.
func permissiveMesh(m *mesh, say func(place, string, ...any)) {
	if m.Set.Mesh.Spec.Mode == "permissive" {
		say(m.at(m.Set.Mesh.Key()), "spec.mode: is permissive for every port of the mesh")
	}
}
