package filter

import (
	"strings"

	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// rewrite changes the authority and the path of what goes on. The query stays, and so does what the Record says of the request: that is what the caller asked for.
func (*Filters) rewrite(x *exchange.Exchange) bool {
	r := &x.Decision.Action.Rewrite
	if r.Authority != "" && x.Head.Path != "" { // a CONNECT without a protocol is for another host, and has no path
		x.Authority = r.Authority
	}
	if r.Path.Set && strings.HasPrefix(x.Head.Path, "/") {
		x.Path = pathOf(x.Head.Path, &r.Path, x.Decision.Match)
	}
	return true
}

// pathOf is a path after e; of a prefix what the rule's match has matched is replaced, as the table in the Gateway API's HTTPPathModifier says.
func pathOf(path string, e *route.PathEdit, m *route.Match) string {
	switch {
	case !e.Set:
		return strings.Clone(path)
	case !e.Prefix:
		return e.Value
	}
	prefix := ""
	if m != nil && m.Path.Kind == route.PathPrefix {
		prefix = strings.TrimSuffix(m.Path.Value, "/")
	}
	if path = strings.TrimSuffix(e.Value, "/") + strings.TrimPrefix(path, prefix); path == "" {
		return "/"
	}
	return path
}
