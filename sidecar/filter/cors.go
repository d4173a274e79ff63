package filter

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// defaultMaxAge is how long a browser may keep the answer to a preflight, as the Fetch standard has it.
const defaultMaxAge = 5 * time.Second

// corsFields are the fields of answers that speak of it: the rule's take the place of the application's.
var corsFields = []string{
	"access-control-allow-origin", "access-control-allow-credentials", "access-control-expose-headers", "access-control-allow-methods", "access-control-allow-headers", "access-control-max-age",
}

// cors answers preflights, and marks all other answers, those of the sidecar too: a script that may not read a failure cannot handle it.
func (*Filters) cors(x *exchange.Exchange) bool {
	c := x.Decision.Action.CORS
	fields, ok := x.Downstream.(exchange.Fields)
	if !ok {
		return true
	}
	origin, asked := fields.Field("origin", 0)
	all := slices.Contains(c.Origins, "*") && !c.Credentials
	allowed := asked && (all || allows(c.Origins, origin))
	if x.Head.Method == "OPTIONS" && asked {
		if method, ok := fields.Field("access-control-request-method", 0); ok && method != "" {
			headers, _ := joined(fields, "access-control-request-headers")
			reply(x, preflight(c, origin, method, headers, all, allowed))
			return false
		}
	}
	for _, name := range corsFields {
		x.Passed.Remove(name)
	}
	mark := func(name, value string) {
		x.Passed.Add(name, value)
		x.Answer = append(x.Answer, route.Field{Name: name, Value: value})
	}
	if !all {
		mark("vary", "Origin")
	}
	if !allowed {
		return true
	}
	mark("access-control-allow-origin", allowedOrigin(origin, all))
	if c.Credentials {
		mark("access-control-allow-credentials", "true")
	}
	if len(c.Expose) > 0 {
		mark("access-control-expose-headers", strings.Join(c.Expose, ", "))
	}
	return true
}

func allowedOrigin(origin string, all bool) string {
	if all {
		return "*"
	}
	return strings.Clone(origin)
}

// preflight is the answer to one. An origin that is not allowed is told nothing, which browsers take for a no.
func preflight(c *route.CORS, origin, method, headers string, all, allowed bool) *exchange.Reply {
	r := &exchange.Reply{Status: 204, Fields: []route.Field{{Name: "vary", Value: "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}}}
	if !allowed {
		return r
	}
	set := func(name, value string) {
		if value != "" {
			r.Fields = append(r.Fields, route.Field{Name: name, Value: value})
		}
	}
	set("access-control-allow-origin", allowedOrigin(origin, all))
	if c.Credentials {
		set("access-control-allow-credentials", "true")
	}
	set("access-control-allow-methods", listed(c.Methods, c.Credentials, method))
	set("access-control-allow-headers", listed(c.Headers, c.Credentials, headers))
	age := c.MaxAge
	if age == 0 {
		age = defaultMaxAge
	}
	set("access-control-max-age", strconv.FormatInt(int64(age/time.Second), 10))
	return r
}

// listed is a list; where it is of all, and credentials are allowed, with which "*" means itself (Fetch, section 3.3.4), it is what was asked for.
func listed(list []string, credentials bool, asked string) string {
	switch {
	case !slices.Contains(list, "*"):
		return strings.Join(list, ", ")
	case credentials:
		return strings.Clone(asked)
	}
	return "*"
}

// allows reports whether an origin is one of a list.
func allows(list []string, origin string) bool {
	for _, o := range list {
		if o == "*" || strings.EqualFold(o, origin) {
			return true
		}
		scheme, host, _ := strings.Cut(o, "://")
		suffix, ok := strings.CutPrefix(host, "*")
		if !ok {
			continue
		}
		theirs, at, ok := strings.Cut(origin, "://")
		if n := len(at) - len(suffix); ok && strings.EqualFold(theirs, scheme) && n > 0 && strings.EqualFold(at[n:], suffix) && !strings.ContainsAny(at[:n], ":/@[") {
			return true
		}
	}
	return false
}
