package exchange

import (
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// Held says who has served a session, and since when, in unix seconds. Backend and Endpoint are hashes, the same in every sidecar.
type Held struct {
	Backend, Endpoint uint64
	Began, Used       uint32
}

// EndpointID is an endpoint as sessions name it, never 0.
func EndpointID(e *policy.Endpoint) uint64 {
	var text [64]byte
	return max(xxhash.Sum64(e.Address.AppendTo(text[:0])), 1)
}

// Cookie finds the value of a cookie (RFC 6265, section 4.2).
func Cookie(fields Fields, name string) (string, bool) {
	for i := 0; ; i++ {
		list, ok := fields.Field("cookie", i)
		if !ok {
			return "", false
		}
		for list != "" {
			var pair string
			pair, list, _ = strings.Cut(list, ";")
			if n, v, _ := strings.Cut(strings.Trim(pair, " \t"), "="); n == name {
				return v, true
			}
		}
	}
}
