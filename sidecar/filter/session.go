package filter

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Recall is the step behind the decision, and before anything is written down of it: a request of a session goes to the backend that served the session before, if the rule still has
// it, whatever its weight is by now, and asks for the endpoint that did.
func (f *Filters) Recall(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if a := x.Decision.Action; a != nil && a.Session != nil && x.Kind == flow.KindExchange {
			recall(x, a, time.Now())
		}
		next.Handle(x)
	})
}

// Remember is the step behind the choice of an endpoint: the response tells a caller whose session is new, has moved or is to be prolonged who serves it now.
func (f *Filters) Remember(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if a := x.Decision.Action; a != nil && a.Session != nil && x.Kind == flow.KindExchange {
			remember(x, a.Session, time.Now())
		}
		next.Handle(x)
	})
}

func recall(x *exchange.Exchange, a *route.Action, now time.Time) {
	s := a.Session
	fields, ok := x.Downstream.(exchange.Fields)
	if !ok {
		return
	}
	var text string
	if s.Kind == route.SessionHeader {
		text, ok = fields.Field(s.Name, 0)
	} else {
		text, ok = exchange.Cookie(fields, s.Name)
	}
	if !ok {
		return
	}
	held, ok := newSealer(x.Decision.Route, s.Name).open(text)
	if age := now.Sub(time.Unix(int64(held.Began), 0)); !ok || s.Absolute > 0 && age > s.Absolute || s.Idle > 0 && now.Sub(time.Unix(int64(held.Used), 0)) > s.Idle {
		return
	}
	i := slices.IndexFunc(a.Backends, func(b route.Backend) bool { return backendID(&b) == held.Backend })
	if i < 0 {
		return
	}
	b := &a.Backends[i]
	d := x.Binding.Destinations[b.Service]
	if d == nil {
		return
	}
	x.Decision, x.Destination, x.Held, x.Stay = x.Decision.By(b), d, held, held.Endpoint
}

func remember(x *exchange.Exchange, s *route.Session, now time.Time) {
	if x.Decision.Backend == nil || x.Choice.Endpoint == nil {
		return
	}
	x.Passed.Append = slices.DeleteFunc(x.Passed.Append, func(f route.Field) bool { // of a try before this one
		return s.Kind == route.SessionHeader && f.Name == s.Name || s.Kind == route.SessionCookie && f.Name == "set-cookie" && strings.HasPrefix(f.Value, s.Name+"=")
	})
	is := exchange.Held{
		Backend: backendID(x.Decision.Backend), Endpoint: exchange.EndpointID(x.Choice.Endpoint), Began: uint32(now.Unix()), Used: uint32(now.Unix()), //nolint:gosec // until 2106
	}
	if was := x.Held; was.Began != 0 {
		is.Began = was.Began
		prolong := s.Idle > 0 && now.Sub(time.Unix(int64(was.Used), 0)) > s.Idle/8
		if was.Backend == is.Backend && was.Endpoint == is.Endpoint && !prolong {
			return
		}
	}
	token := newSealer(x.Decision.Route, s.Name).seal(is)
	if s.Kind == route.SessionHeader {
		x.Passed.Set(s.Name, token)
		return
	}
	x.Passed.Add("set-cookie", cookieOf(s, token, x.Peer != nil && x.Peer.Secure))
}

// cookieOf is the field that sets a session's cookie (RFC 6265, section 4.1).
func cookieOf(s *route.Session, token string, secure bool) string {
	b := []byte(s.Name + "=" + token + "; Path=")
	if s.Path == "" {
		b = append(b, '/')
	} else {
		b = append(b, s.Path...)
	}
	if s.Lifetime > 0 {
		b = strconv.AppendInt(append(b, "; Max-Age="...), max(int64(s.Lifetime/time.Second), 1), 10)
	}
	if b = append(b, "; HttpOnly"...); secure {
		b = append(b, "; Secure"...)
	}
	return string(b)
}

// backendID is a backend as tokens name it.
func backendID(b *route.Backend) uint64 { return xxhash.Sum64String(b.Service + "\x00" + b.Subset) }

// sealer makes tokens of sessions, and reads them. A token is the text of synthetic IV ‖ AES-CTR(payload), where the IV is the HMAC-SHA256 of the payload: what is not made with the key
// is no token. The key is that of a rule's session, the same in every sidecar, so that each reads what others have made. It is no secret of people who know the configuration, and need be
// none: the payload has no address, only hashes, and who forged one would choose an endpoint for himself.
type sealer struct{ mac, enc []byte }

const (
	tokenIV      = aes.BlockSize
	tokenPayload = 8 + 8 + 4 + 4
)

func newSealer(rule, name string) sealer {
	key := func(use string) []byte {
		h := sha256.Sum256([]byte("tulle session 1 " + use + "\x00" + rule + "\x00" + name))
		return h[:]
	}
	return sealer{key("mac"), key("enc")}
}

func (s sealer) iv(payload []byte) []byte {
	h := hmac.New(sha256.New, s.mac)
	h.Write(payload)
	return h.Sum(nil)[:tokenIV]
}

func (s sealer) crypt(iv, b []byte) {
	block, err := aes.NewCipher(s.enc)
	if err != nil {
		panic("filter: a key of SHA-256's size is none of AES: " + err.Error())
	}
	cipher.NewCTR(block, iv).XORKeyStream(b, b)
}

func (s sealer) seal(h exchange.Held) string {
	b := make([]byte, tokenIV, tokenIV+tokenPayload)
	b = binary.BigEndian.AppendUint64(b, h.Backend)
	b = binary.BigEndian.AppendUint64(b, h.Endpoint)
	b = binary.BigEndian.AppendUint32(b, h.Began)
	b = binary.BigEndian.AppendUint32(b, h.Used)
	copy(b, s.iv(b[tokenIV:]))
	s.crypt(b[:tokenIV], b[tokenIV:])
	return base64.RawURLEncoding.EncodeToString(b)
}

func (s sealer) open(text string) (h exchange.Held, ok bool) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) != tokenIV+tokenPayload {
		return h, false
	}
	p := b[tokenIV:]
	s.crypt(b[:tokenIV], p)
	if subtle.ConstantTimeCompare(s.iv(p), b[:tokenIV]) != 1 {
		return h, false
	}
	h.Backend, h.Endpoint = binary.BigEndian.Uint64(p), binary.BigEndian.Uint64(p[8:])
	h.Began, h.Used = binary.BigEndian.Uint32(p[16:]), binary.BigEndian.Uint32(p[20:])
	return h, true
}
