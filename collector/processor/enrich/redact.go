package enrich

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Config says what is removed beside what always is (query strings, cookies, credentials). Keys are patterns of path.Match without its "/": "*" and "?" stand for any
// characters, compared without regard to case. The zero value adds nothing.
type Config struct {
	// Headers are the header fields whose attributes (http.request.header.NAME, http.response.header.NAME) are kept; empty keeps all that are not private. The request id
	// stays in any case.
	Headers []string `mapstructure:"headers"`
	Drop    []string `mapstructure:"drop"` // attributes that are removed
	Hash    []string `mapstructure:"hash"` // attributes whose values are replaced by a keyed hash: equal values stay equal, and cannot be read
}

// Validate is called by the collector.
func (c *Config) Validate() error {
	for _, list := range [][]string{c.Drop, c.Hash} {
		for _, p := range list {
			if _, err := path.Match(p, ""); err != nil {
				return fmt.Errorf("pattern %q of attribute keys: %w", p, err)
			}
			if p == "" || strings.ContainsAny(p, "/") {
				return fmt.Errorf("pattern %q of attribute keys: it must not be empty, and a slash in a key is written \"?\"", p)
			}
		}
	}
	for _, h := range c.Headers {
		if h == "" || strings.ContainsAny(h, "*? ") {
			return fmt.Errorf("%q is no name of a header field", h)
		}
	}
	return nil
}

// kept are keys that no pattern touches: without them a span belongs to nobody.
var kept = map[string]bool{
	flow.AttrServiceName: true, flow.AttrServiceNamespace: true, flow.AttrServiceInstance: true, flow.AttrServiceVersion: true, flow.AttrRequestID: true,
}

type fate uint8

const (
	keep fate = iota
	drop
	hash
)

// redaction applies a Config. Keys come from senders; what was decided for one is remembered, up to memory of them.
type redaction struct {
	headers    map[string]bool
	drop, hash []string
	key        []byte
	known      sync.Map // key -> fate
	n          atomic.Int64
}

const memory = 4096

var errNoKey = errors.New("attributes are to be hashed, and there is no key to hash with")

// newRedaction is nil for a Config that adds nothing.
func newRedaction(c *Config, key []byte) (*redaction, error) {
	if len(c.Headers)+len(c.Drop)+len(c.Hash) == 0 {
		return nil, nil
	}
	if len(c.Hash) > 0 && len(key) == 0 {
		return nil, errNoKey
	}
	r := &redaction{key: key}
	for _, p := range c.Drop {
		r.drop = append(r.drop, strings.ToLower(p))
	}
	for _, p := range c.Hash {
		r.hash = append(r.hash, strings.ToLower(p))
	}
	if len(c.Headers) > 0 {
		r.headers = map[string]bool{}
		for _, h := range c.Headers {
			r.headers[headerName(h)] = true
		}
	}
	return r, nil
}

func headerName(s string) string { return strings.ReplaceAll(strings.ToLower(s), "_", "-") }

func (r *redaction) fate(k string) fate {
	if v, ok := r.known.Load(k); ok {
		return v.(fate) //nolint:forcetypeassert // only fates are stored
	}
	f := r.decide(k)
	if r.n.Load() < memory && len(k) <= 256 {
		r.n.Add(1)
		r.known.Store(strings.Clone(k), f) // k may be a part of a whole batch
	}
	return f
}

func (r *redaction) decide(k string) fate {
	if kept[k] || strings.HasPrefix(k, "tulle.") {
		return keep
	}
	low := strings.ToLower(k)
	for _, prefix := range []string{flow.AttrRequestHeader, flow.AttrResponseHeader} {
		if name, ok := strings.CutPrefix(low, prefix); ok && r.headers != nil && !r.headers[headerName(name)] {
			return drop
		}
	}
	switch {
	case matches(r.drop, low):
		return drop
	case matches(r.hash, low):
		return hash
	}
	return keep
}

func matches(patterns []string, key string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p, strings.ReplaceAll(key, "/", "_")); ok { // a slash would be special
			return true
		}
	}
	return false
}

// apply reports whether the attribute is to be removed; one that is hashed gets its new value.
func (r *redaction) apply(k string, v pcommon.Value, t *tally) bool {
	switch r.fate(k) {
	case drop:
		t.redacted++
		return true
	case hash:
		t.hashed++
		m := hmac.New(sha256.New, r.key)
		m.Write([]byte(v.AsString()))
		v.SetStr("hashed:" + hex.EncodeToString(m.Sum(nil)[:8]))
	case keep:
	}
	return false
}
