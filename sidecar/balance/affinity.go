package balance

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Keep finds the key of an exchange, once: the first of keys that is there. It is the xxHash64 with seed 0 of
//
//   - the bytes of the value of the header field, if it is not empty (of several fields of one name the first),
//   - the bytes of the value of the cookie (of several of one name the first),
//   - the bytes of the value of the query parameter as they stand in the target, without decoding,
//   - the text of the caller's IP address, "10.0.0.5" or "2001:db8::1" (RFC 5952), without zone,
//
// so that all sidecars of a fleet, and Envoys among them, find the same. A cookie that is missing is made where the policy says so: its value is random, and it is set
// by the response that goes to the caller.
func Keep(x *exchange.Exchange, keys []policy.AffinityKey) {
	fields, _ := x.Downstream.(exchange.Fields)
	for i := range keys {
		k := &keys[i]
		value, ok := "", false
		switch {
		case k.Kind == policy.AffinitySource:
			if x.Peer == nil || !x.Peer.Addr.IsValid() {
				continue
			}
			var text [64]byte
			x.Key, x.Keyed = xxhash.Sum64(x.Peer.Addr.Addr().Unmap().WithZone("").AppendTo(text[:0])), true
			return
		case fields == nil:
			continue
		case k.Kind == policy.AffinityHeader:
			value, ok = fields.Field(k.Name, 0)
		case k.Kind == policy.AffinityQuery:
			value, ok = parameter(fields.Query(), k.Name)
		case k.Kind == policy.AffinityCookie:
			if value, ok = exchange.Cookie(fields, k.Name); (!ok || value == "") && k.Generate {
				value, ok = newCookie(x, k), true
			}
		}
		if ok && value != "" {
			x.Key, x.Keyed = xxhash.Sum64String(value), true
			return
		}
	}
}

// parameter finds the value of a query parameter.
func parameter(query, name string) (string, bool) {
	for query != "" {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		if n, v, _ := strings.Cut(pair, "="); n == name {
			return v, true
		}
	}
	return "", false
}

// newCookie makes the value of a session, and the field that sets it.
func newCookie(x *exchange.Exchange, k *policy.AffinityKey) string {
	value := strconv.FormatUint(rand.Uint64(), 36) + strconv.FormatUint(rand.Uint64(), 36)
	b := append(append(append([]byte(nil), k.Name...), '='), value...)
	if k.TTL > 0 {
		b = strconv.AppendInt(append(b, "; Max-Age="...), int64(k.TTL/time.Second), 10)
	}
	if k.Path != "" {
		b = append(append(b, "; Path="...), k.Path...)
	}
	only := true
	for _, a := range k.Attributes {
		b = append(append(b, "; "...), a.Name...)
		if a.Value != "" {
			b = append(append(b, '='), a.Value...)
		}
		only = only && !strings.EqualFold(a.Name, "HttpOnly")
	}
	if only { // no script needs it
		b = append(b, "; HttpOnly"...)
	}
	x.SetCookie = string(b)
	return value
}
