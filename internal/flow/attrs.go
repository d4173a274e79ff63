package flow

import (
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"
)

// sink takes the attributes of one Record, each at most once. Spans and access log lines are sinks, so that there is one list of what a
// Record says, here.
type sink interface {
	text(key, v string)
	number(key string, v int64)
	flag(key string, v bool)
	addr(key string, v netip.AddrPort)
}

// Longest strings on the wire, in bytes; longer ones are cut at a rune. They bound a span to about 6 KiB, so that a batch of 512 stays
// under gRPC's default limit of 4 MiB.
const (
	maxName   = 256
	maxPath   = 1024
	maxDetail = 512
)

// visit hands every attribute of r to s, in the order of docs/format/record.md. Query strings, fragments and user info end here: no view
// has them.
func (r *Record) visit(s sink) {
	s.text(AttrKind, r.Kind.String())
	s.text(AttrPhase, r.Phase.String())
	s.text(AttrSide, r.Side.String())
	word(s, AttrProtocol, r.Protocol.String())
	yes(s, AttrTraceBegun, r.Trace.Started)

	leg(s, AttrLegHeadParsed, r.Legs.HeadParsed)
	leg(s, AttrLegQueued, r.Legs.Queued)
	leg(s, AttrLegConnected, r.Legs.Connected)
	leg(s, AttrLegSecured, r.Legs.Secured)
	leg(s, AttrLegSent, r.Legs.Sent)
	leg(s, AttrLegFirstByte, r.Legs.FirstByte)
	leg(s, AttrLegLastByte, r.Legs.LastByte)

	word(s, AttrSourceService, r.Source.Service)
	word(s, AttrSourceNamespace, r.Source.Namespace)
	word(s, AttrSourceVersion, r.Source.Version)
	word(s, AttrSourceInstance, r.Source.Instance)
	word(s, AttrSourceIdentity, r.Source.Identity)
	address(s, AttrSourceAddress, r.Source.Addr)
	word(s, AttrDestService, r.Destination.Service)
	word(s, AttrDestNamespace, r.Destination.Namespace)
	word(s, AttrDestVersion, r.Destination.Version)
	word(s, AttrDestInstance, r.Destination.Instance)
	word(s, AttrDestIdentity, r.Destination.Identity)
	address(s, AttrDestAddress, r.Destination.Addr)
	address(s, AttrEndpoint, r.Endpoint)

	word(s, AttrMethod, r.Method)
	long(s, AttrPath, withoutQuery(r.Path), maxPath)
	word(s, AttrAuthority, withoutUser(r.Authority))
	word(s, AttrUserAgent, r.UserAgent)
	word(s, AttrRequestID, r.RequestID)
	word(s, AttrRoute, r.Route)
	count(s, AttrStatus, int64(r.Status))

	word(s, AttrReason, r.Reason.String())
	if r.Kind == KindAttempt {
		s.flag(AttrDelivered, r.Delivered)
	}
	if r.Kind == KindExchange {
		s.flag(AttrAnswered, r.Answered)
	}
	count(s, AttrBytesIn, int64(min(r.BytesIn, 1<<63-1)))
	count(s, AttrBytesOut, int64(min(r.BytesOut, 1<<63-1)))
	count(s, AttrAttempt, int64(r.Attempt))
	count(s, AttrAttempts, int64(r.Attempts))
	yes(s, AttrProbe, r.Probe)
	word(s, AttrRevision, r.Revision)
	word(s, AttrOverride, r.Override)
	long(s, AttrDetail, withoutQueries(r.Detail), maxDetail)
}

func long(s sink, key, v string, limit int) {
	if v != "" {
		s.text(key, clean(v, limit))
	}
}

func word(s sink, key, v string) { long(s, key, v, maxName) }

func yes(s sink, key string, v bool) {
	if v {
		s.flag(key, true)
	}
}

func count(s sink, key string, v int64) {
	if v != 0 {
		s.number(key, v)
	}
}

func leg(s sink, key string, v time.Duration) {
	if v >= 0 {
		s.number(key, int64(v))
	}
}

func address(s sink, key string, v netip.AddrPort) {
	if v.IsValid() {
		s.addr(key, v)
	}
}

// clean makes v fit for a protobuf string: valid UTF-8 (a receiver refuses a whole batch for one bad byte) and at most limit bytes.
func clean(v string, limit int) string {
	if len(v) > limit {
		for limit > 0 && !utf8.RuneStart(v[limit]) {
			limit--
		}
		v = v[:limit]
	}
	if utf8.ValidString(v) {
		return v
	}
	return strings.ToValidUTF8(v, "?")
}

// withoutQuery cuts a request target at its query or fragment (RFC 3986 §3).
func withoutQuery(target string) string {
	for i := range len(target) {
		if target[i] == '?' || target[i] == '#' {
			return target[:i]
		}
	}
	return target
}

// withoutUser drops "user:password@" (RFC 3986 §3.2.1).
func withoutUser(authority string) string {
	return authority[strings.LastIndexByte(authority, '@')+1:]
}

// withoutQueries drops what looks like a query string from free text: from a question mark up to the next white space, quote or closing
// parenthesis; a question mark with nothing behind it stays. Producers must not put user data there; this is the second line of defence.
func withoutQueries(text string) string {
	if strings.IndexByte(text, '?') < 0 {
		return text
	}
	const ends = " \t\r\n\"'`)"
	var b strings.Builder
	for {
		i := strings.IndexByte(text, '?')
		if i < 0 {
			b.WriteString(text)
			return b.String()
		}
		rest := text[i+1:]
		end := strings.IndexAny(rest, ends)
		if end < 0 {
			end = len(rest)
		}
		b.WriteString(text[:i])
		if end == 0 {
			b.WriteByte('?')
		}
		text = rest[end:]
	}
}
