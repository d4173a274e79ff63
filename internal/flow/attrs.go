package flow

import (
	"net/netip"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// sink takes the attributes of one Record, each at most once. Spans and access log lines are sinks, so that there is one list of what a
// Record says, here.
type sink interface {
	text(k *key, v string)
	number(k *key, v int64)
	flag(k *key, v bool)
	addr(k *key, v netip.AddrPort)
	list(k *key, v string) // an array of one string
	shape(r *Record)       // visitShape, or what that wrote before
}

// key is an attribute's name with the bytes that stand for it in each view, made once: spans and lines are written a thousand times a second.
type key struct {
	name string
	otlp string // field 1 of common.v1.KeyValue
	json string // quoted, with a colon
}

func newKey(name string) *key {
	return &key{name, string(protowire.AppendString([]byte{1<<3 | byte(protowire.BytesType)}, name)), string(append(appendJSONString(nil, name), ':'))}
}

var (
	keyKind       = newKey(AttrKind)
	keyPhase      = newKey(AttrPhase)
	keySide       = newKey(AttrSide)
	keyProtocol   = newKey(AttrProtocol)
	keyTraceBegun = newKey(AttrTraceBegun)

	keyLegHeadParsed = newKey(AttrLegHeadParsed)
	keyLegQueued     = newKey(AttrLegQueued)
	keyLegConnected  = newKey(AttrLegConnected)
	keyLegSecured    = newKey(AttrLegSecured)
	keyLegSent       = newKey(AttrLegSent)
	keyLegFirstByte  = newKey(AttrLegFirstByte)
	keyLegLastByte   = newKey(AttrLegLastByte)
	keyFarHeadParsed = newKey(AttrFarHeadParsed)
	keyFarQueued     = newKey(AttrFarQueued)
	keyFarSent       = newKey(AttrFarSent)
	keyFarFirstByte  = newKey(AttrFarFirstByte)

	keySourceService   = newKey(AttrSourceService)
	keySourceNamespace = newKey(AttrSourceNamespace)
	keySourceVersion   = newKey(AttrSourceVersion)
	keySourceInstance  = newKey(AttrSourceInstance)
	keySourceIdentity  = newKey(AttrSourceIdentity)
	keySourceAddress   = newKey(AttrSourceAddress)
	keyDestService     = newKey(AttrDestService)
	keyDestNamespace   = newKey(AttrDestNamespace)
	keyDestVersion     = newKey(AttrDestVersion)
	keyDestInstance    = newKey(AttrDestInstance)
	keyDestIdentity    = newKey(AttrDestIdentity)
	keyDestAddress     = newKey(AttrDestAddress)
	keyEndpoint        = newKey(AttrEndpoint)
	keyApplicationPID  = newKey(AttrApplicationPID)
	keyApplicationUID  = newKey(AttrApplicationUID)
	keyApplicationGID  = newKey(AttrApplicationGID)

	keyMethod      = newKey(AttrMethod)
	keyPath        = newKey(AttrPath)
	keyAuthority   = newKey(AttrAuthority)
	keyServerName  = newKey(AttrServerName)
	keyUserAgent   = newKey(AttrUserAgent)
	keyRequestID   = newKey(AttrRequestID)
	keyRoute       = newKey(AttrRoute)
	keyStatus      = newKey(AttrStatus)
	keyRPCSystem   = newKey(AttrRPCSystem)
	keyRPCMethod   = newKey(AttrRPCMethod)
	keyGRPC        = newKey(AttrGRPC)
	keyMessagesIn  = newKey(AttrMessagesIn)
	keyMessagesOut = newKey(AttrMessagesOut)

	keyReason    = newKey(AttrReason)
	keyFlags     = newKey(AttrFlags)
	keyDelivered = newKey(AttrDelivered)
	keyAnswered  = newKey(AttrAnswered)
	keyBytesIn   = newKey(AttrBytesIn)
	keyBytesOut  = newKey(AttrBytesOut)
	keyAttempt   = newKey(AttrAttempt)
	keyAttempts  = newKey(AttrAttempts)
	keyProbe     = newKey(AttrProbe)
	keyMirror    = newKey(AttrMirror)
	keyRevision  = newKey(AttrRevision)
	keyOverride  = newKey(AttrOverride)
	keyDetail    = newKey(AttrDetail)
	keyEnded     = newKey(AttrEnded)
	keyVia       = newKey(AttrVia)

	keysTLS  = newKeysTLS("")
	keysNear = newKeysTLS(AttrNear)
)

type keyTLS struct{ version, cipher, resumed, alpn *key }

func newKeysTLS(prefix string) *keyTLS {
	return &keyTLS{
		newKey(prefix + AttrTLSVersion), newKey(prefix + AttrTLSCipher), newKey(prefix + AttrTLSResumed), newKey(prefix + AttrTLSALPN),
	}
}

// headerKeys are those of allow-listed header fields; there are as few as a configuration names.
var headerKeys sync.Map // attribute name -> *key

func headerKey(response bool, name string) *key {
	if response {
		name = AttrResponseHeader + name
	} else {
		name = AttrRequestHeader + name
	}
	if k, ok := headerKeys.Load(name); ok {
		return k.(*key)
	}
	k, _ := headerKeys.LoadOrStore(name, newKey(name))
	return k.(*key)
}

// Longest strings on the wire, in bytes; longer ones are cut at a rune. They bound a span to about 6 KiB, so that a batch of 512 stays
// under gRPC's default limit of 4 MiB.
const (
	maxName   = 256
	maxPath   = 1024
	maxDetail = 512
)

// visit hands every attribute of r to s: first what many Records have alike, then the rest, both in the order of docs/format/record.md. Query
// strings, fragments and user info end here: no view has them.
func (r *Record) visit(s sink) {
	s.shape(r)
	leg(s, keyLegHeadParsed, r.Legs.HeadParsed)
	leg(s, keyLegQueued, r.Legs.Queued)
	leg(s, keyLegConnected, r.Legs.Connected)
	leg(s, keyLegSecured, r.Legs.Secured)
	leg(s, keyLegSent, r.Legs.Sent)
	leg(s, keyLegFirstByte, r.Legs.FirstByte)
	leg(s, keyLegLastByte, r.Legs.LastByte)
	if r.Far.Known() {
		leg(s, keyFarHeadParsed, r.Far.HeadParsed)
		leg(s, keyFarQueued, r.Far.Queued)
		leg(s, keyFarSent, r.Far.Sent)
		leg(s, keyFarFirstByte, r.Far.FirstByte)
	}
	address(s, keySourceAddress, r.Source.Addr)
	address(s, keyVia, r.Via)
	long(s, keyPath, withoutQuery(r.Path), maxPath)
	word(s, keyRequestID, r.RequestID)
	if r.Headers != "" {
		r.Headers.Each(func(response bool, name, value string) {
			s.list(headerKey(response, name), clean(withoutQueries(value), MaxHeaderValue))
		})
	}
	if r.isRPC() {
		long(s, keyRPCMethod, r.RPCMethod(), maxPath)
		count(s, keyMessagesIn, int64(min(r.MessagesIn, 1<<63-1)))
		count(s, keyMessagesOut, int64(min(r.MessagesOut, 1<<63-1)))
	}
	if r.Kind == KindConnection {
		r.TLS.visit(s, keysTLS)
		r.NearTLS.visit(s, keysNear)
	}
	constant(s, keyEnded, r.Ended.String())
	count(s, keyBytesIn, int64(min(r.BytesIn, 1<<63-1)))
	count(s, keyBytesOut, int64(min(r.BytesOut, 1<<63-1)))
	long(s, keyDetail, withoutQueries(r.Detail), maxDetail)
}

func (t *TLS) visit(s sink, k *keyTLS) {
	if t == nil {
		return
	}
	word(s, k.version, t.Version)
	word(s, k.cipher, t.Cipher)
	s.flag(k.resumed, t.Resumed) // also when it is not: it says that there is TLS
	word(s, k.alpn, t.ALPN)
}

// visitShape hands out what depends on nothing but Record.shape and Record.names.
func (r *Record) visitShape(s sink) {
	s.text(keyKind, r.Kind.String())
	if r.Phase != PhaseClose { // the zero value; nearly every Record has it
		s.text(keyPhase, r.Phase.String())
	}
	s.text(keySide, r.Side.String())
	constant(s, keyProtocol, r.Protocol.String())
	yes(s, keyTraceBegun, r.Trace.Started)

	word(s, keySourceService, r.Source.Service)
	word(s, keySourceNamespace, r.Source.Namespace)
	word(s, keySourceVersion, r.Source.Version)
	word(s, keySourceInstance, r.Source.Instance)
	word(s, keySourceIdentity, r.Source.Identity)
	word(s, keyDestService, r.Destination.Service)
	word(s, keyDestNamespace, r.Destination.Namespace)
	word(s, keyDestVersion, r.Destination.Version)
	word(s, keyDestInstance, r.Destination.Instance)
	word(s, keyDestIdentity, r.Destination.Identity)
	address(s, keyDestAddress, r.Destination.Addr)
	address(s, keyEndpoint, r.Endpoint)
	if a := &r.Application; a.Socket != "" && !r.Endpoint.IsValid() {
		word(s, keyEndpoint, UnixPrefix+a.Socket)
	}
	if a := &r.Application; a.Known { // 0 is root's, not unknown
		s.number(keyApplicationPID, int64(a.PID))
		s.number(keyApplicationUID, int64(a.UID))
		s.number(keyApplicationGID, int64(a.GID))
	}

	word(s, keyMethod, r.Method)
	word(s, keyAuthority, withoutUser(r.Authority))
	word(s, keyServerName, r.ServerName)
	word(s, keyUserAgent, r.UserAgent)
	word(s, keyRoute, r.Route)
	count(s, keyStatus, int64(r.Status))
	if r.isRPC() {
		s.text(keyRPCSystem, "grpc")
		constant(s, keyGRPC, r.GRPC.String())
	}

	constant(s, keyReason, r.Reason.String())
	constant(s, keyFlags, r.Flags())
	if r.Kind == KindAttempt {
		s.flag(keyDelivered, r.Delivered)
	}
	if r.Kind == KindExchange {
		s.flag(keyAnswered, r.Answered)
	}
	count(s, keyAttempt, int64(r.Attempt))
	count(s, keyAttempts, int64(r.Attempts))
	yes(s, keyProbe, r.Probe)
	yes(s, keyMirror, r.Mirror)
	word(s, keyRevision, r.Revision)
	word(s, keyOverride, r.Override)
}

// isRPC reports whether r is about a gRPC call.
func (r *Record) isRPC() bool { return r.Protocol == ProtocolGRPC && r.Kind != KindConnection }

func long(s sink, k *key, v string, limit int) {
	if v != "" {
		s.text(k, clean(v, limit))
	}
}

func word(s sink, k *key, v string) { long(s, k, v, maxName) }

// constant is for words of closed vocabularies, which need no cleaning.
func constant(s sink, k *key, v string) {
	if v != "" {
		s.text(k, v)
	}
}

func yes(s sink, k *key, v bool) {
	if v {
		s.flag(k, true)
	}
}

func count(s sink, k *key, v int64) {
	if v != 0 {
		s.number(k, v)
	}
}

func leg(s sink, k *key, v time.Duration) {
	if v >= 0 {
		s.number(k, int64(v))
	}
}

func address(s sink, k *key, v netip.AddrPort) {
	if v.IsValid() {
		s.addr(k, v)
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
	if i := strings.IndexByte(target, '?'); i >= 0 {
		target = target[:i]
	}
	if i := strings.IndexByte(target, '#'); i >= 0 {
		target = target[:i]
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
