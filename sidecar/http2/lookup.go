package http2

import (
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

var (
	_ exchange.Fields = (*call)(nil)
	_ exchange.Leaver = (*call)(nil)
)

// Left implements exchange.Leaver.
func (k *call) Left() (flow.Reason, string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.gone, k.goneText
}

// Field implements exchange.Fields.
func (k *call) Field(name string, i int) (string, bool) { return lookup(k.req.fields, name, i) }

// Query implements exchange.Fields.
func (k *call) Query() string {
	_, query, _ := strings.Cut(k.req.target, "?")
	return query
}

// lookup is the value of the i-th of fields with a name in lower case.
func lookup(fields []field, name string, i int) (string, bool) {
	for k := range fields {
		if fields[k].name == name {
			if i == 0 {
				return fields[k].value, true
			}
			i--
		}
	}
	return "", false
}

// retryAfter is when an endpoint that turns a request away wants to be asked again, by the fields of a head or of trailers; status is that of the head, 0 for
// trailers.
func retryAfter(fields []field, status int, grpc bool) time.Duration {
	if grpc {
		if v, ok := lookup(fields, "grpc-retry-pushback-ms", 0); ok {
			return exchange.ParsePushback(v)
		}
	}
	if status == 503 || status == 429 {
		if v, ok := lookup(fields, "retry-after", 0); ok {
			return exchange.ParseRetryAfter(v, time.Now())
		}
	}
	return 0
}

// putCookieLocked writes the field that sets x.SetCookie, if there is one: never indexed, for it is one caller's.
func (c *conn) putCookieLocked(x *exchange.Exchange) {
	if x.SetCookie != "" {
		c.putFieldLocked(&field{name: "set-cookie", value: x.SetCookie, sensitive: true})
	}
}

// omitted reports whether e leaves f out. A field on which framing, routing, identity or traces rest is not its to change.
func (f *field) omitted(e *exchange.Edits) bool {
	if len(e.Drop) == 0 {
		return false
	}
	switch f.id {
	case fieldOther, fieldVarying, fieldContentType, fieldUserAgent:
		return e.Drops(f.name)
	}
	return false
}

// putAddedLocked writes fields that policy adds.
func (c *conn) putAddedLocked(fields []route.Field) {
	for i := range fields {
		f := &fields[i]
		c.putFieldLocked(&field{name: f.Name, value: f.Value, id: identify(f.Name), sensitive: f.Name == "set-cookie"})
	}
}
