package filter

import (
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// redirect answers with another place.
func (*Filters) redirect(x *exchange.Exchange) bool {
	a := x.Decision.Action
	reply(x, &exchange.Reply{Status: a.Redirect.Status, Fields: added(a, route.Field{Name: "location", Value: location(x, a.Redirect)})})
	return false
}

// location is where a redirect sends the caller: what it does not name is that of the request, the query always.
func location(x *exchange.Exchange, r *route.Redirect) string {
	host, port := split(x.Head.Authority)
	if r.Authority != "" {
		host = r.Authority
	}
	scheme := r.Scheme
	switch {
	case scheme != "":
		port = "" // the one well known of it
	case x.Peer != nil && x.Peer.Secure || x.Head.Secure:
		scheme = "https"
	default:
		scheme = "http"
	}
	if r.Port != 0 {
		port = strconv.Itoa(int(r.Port))
	}
	if scheme == "http" && port == "80" || scheme == "https" && port == "443" {
		port = ""
	}
	var b strings.Builder
	if host != "" { // a caller of HTTP/1.0 may not have said one: then it is where it was
		b.WriteString(scheme + "://" + host)
		if port != "" {
			b.WriteString(":" + port)
		}
	}
	if strings.HasPrefix(x.Head.Path, "/") {
		b.WriteString(pathOf(x.Head.Path, &r.Path, x.Decision.Match))
		if fields, ok := x.Downstream.(exchange.Fields); ok {
			if query := fields.Query(); query != "" {
				b.WriteString("?" + query)
			}
		}
	}
	return b.String()
}

// split takes an authority apart; port: "" for none.
func split(authority string) (host, port string) {
	if i := strings.LastIndexByte(authority, ':'); i >= 0 && i > strings.LastIndexByte(authority, ']') {
		return authority[:i], authority[i+1:]
	}
	return authority, ""
}
