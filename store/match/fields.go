package match

import (
	"slices"
	"strconv"
	"strings"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
)

// Vocabulary is the words in which one kind of subjects is asked for. It is made once, by NewVocabulary, and safe for concurrent use.
type Vocabulary struct {
	fields  []*Field
	byName  map[string]*Field
	aliases [][2]string // what people write by mistake, and what they mean
	open    bool        // any other word with a dot in it is an attribute by its full name
}

// NewVocabulary makes one of fields, in the order in which a reference lists them. aliases are pairs of what people write by mistake and the field that they mean.
func NewVocabulary(fields []Field, aliases ...[2]string) *Vocabulary {
	v := &Vocabulary{byName: make(map[string]*Field, len(fields)), aliases: aliases}
	for i := range fields {
		v.fields = append(v.fields, &fields[i])
		v.byName[fields[i].Name] = &fields[i]
	}
	return v
}

// Spans is the vocabulary of spans, as docs/reference/match.md lists it. Any other word with a dot in it is an attribute by its full name.
var Spans = func() *Vocabulary {
	v := NewVocabulary(spanFields, [2]string{"source", "src"}, [2]string{"destination", "dst"}, [2]string{"dest", "dst"}, [2]string{"code", "status"},
		[2]string{"error", "failed"}, [2]string{"errors", "failed"}, [2]string{"latency", "duration"}, [2]string{"url", "path"}, [2]string{"authority", "host"},
		[2]string{"operation", "name"})
	for _, f := range v.fields {
		f.Values = closed(f.Name)
	}
	v.open = true
	return v
}()

var spanFields = []Field{
	{Name: "src", Means: flow.AttrSourceService, Help: "the service that calls"},
	{Name: "dst", Means: flow.AttrDestService, Help: "the service that is called"},
	{Name: "src.version", Means: flow.AttrSourceVersion, Help: "version of the caller"},
	{Name: "dst.version", Means: flow.AttrDestVersion, Help: "version of the called one"},
	{Name: "src.namespace", Means: flow.AttrSourceNamespace, Help: "namespace of the caller"},
	{Name: "dst.namespace", Means: flow.AttrDestNamespace, Help: "namespace of the called one"},
	{Name: "src.instance", Means: flow.AttrSourceInstance, Help: "instance of the caller, where it reports"},
	{Name: "dst.instance", Means: flow.AttrDestInstance, Help: "instance of the called one, where it reports"},
	{Name: "src.identity", Means: flow.AttrSourceIdentity, Help: "SPIFFE ID that the caller has proved"},
	{Name: "dst.identity", Means: flow.AttrDestIdentity, Help: "SPIFFE ID that the called one has proved"},
	{Name: "src.address", Means: flow.AttrSourceAddress, Help: "address of the caller, ip:port"},
	{Name: "dst.address", Means: flow.AttrDestAddress, Help: "address that was called, ip:port"},
	{Name: "service", Help: "the service that reports", get: func(s *store.Span) string { return s.Service }},
	{Name: "instance", Means: flow.AttrServiceInstance, Help: "the instance that reports"},
	{Name: "version", Means: flow.AttrServiceVersion, Help: "its version"},
	{Name: "namespace", Means: flow.AttrServiceNamespace, Help: "its namespace"},
	{Name: "endpoint", Means: flow.AttrEndpoint, Help: "address that the last try went to, ip:port"},
	{Name: "status", Means: flow.AttrStatus, Type: Number, Help: "HTTP status; also status=5xx"},
	{Name: "grpc", Means: flow.AttrGRPC, Help: "name of the gRPC status, UNAVAILABLE"},
	{Name: "reason", Means: flow.AttrReason, Help: "why it did not simply succeed, upstream_5xx"},
	{Name: "failed", Type: Flag, Help: "it failed, by the rule of Records; of other spans the status", reads: []string{flow.AttrKind, flow.AttrReason, flow.AttrStatus, flow.AttrGRPC}, get: func(s *store.Span) string { return yes(failed(s)) }},
	{Name: "method", Means: flow.AttrMethod, Help: "HTTP method"},
	{Name: "path", Means: flow.AttrPath, Help: "path, without its query"},
	{Name: "host", Means: flow.AttrAuthority, Help: "host that was asked for"},
	{Name: "route", Means: flow.AttrRoute, Help: "name of the rule that matched"},
	{Name: "agent", Means: flow.AttrUserAgent, Help: "User-Agent"},
	{Name: "request", Means: flow.AttrRequestID, Help: "x-request-id"},
	{Name: "duration", Type: Duration, Help: "how long it took", get: func(s *store.Span) string { return s.Duration.String() }},
	{Name: "bytes.in", Means: flow.AttrBytesIn, Type: Number, Help: "body bytes from the caller"},
	{Name: "bytes.out", Means: flow.AttrBytesOut, Type: Number, Help: "body bytes to the caller"},
	{Name: "attempt", Means: flow.AttrAttempt, Type: Number, Help: "which try it is"},
	{Name: "attempts", Means: flow.AttrAttempts, Type: Number, Help: "how many tries were made"},
	{Name: "answered", Means: flow.AttrAnswered, Type: Flag, Help: "a whole answer went to the caller"},
	{Name: "delivered", Means: flow.AttrDelivered, Type: Flag, Help: "of a try: the request reached the other side"},
	{Name: "probe", Means: flow.AttrProbe, Type: Flag, absent: "false", Help: "half-open traffic to an ejected endpoint"},
	{Name: "mirror", Means: flow.AttrMirror, Type: Flag, absent: "false", Help: "a copy of somebody else's request"},
	{Name: "kind", Means: flow.AttrKind, Help: "exchange, attempt or connection"},
	{Name: "side", Means: flow.AttrSide, Help: "client or server"},
	{Name: "phase", Help: "close, or progress of what is still alive", reads: []string{flow.AttrKind, flow.AttrPhase}, get: func(s *store.Span) string {
		if s.Attributes[flow.AttrKind] == "" {
			return ""
		}
		if p := s.Attributes[flow.AttrPhase]; p != "" {
			return p
		}
		return flow.PhaseClose.String()
	}},
	{Name: "protocol", Means: flow.AttrProtocol, Help: "http/1.1, h2, grpc, tcp or tls"},
	{Name: "revision", Means: flow.AttrRevision, Help: "policy revision that judged"},
	{Name: "override", Means: flow.AttrOverride, Help: "id of the controller's override that steered"},
	{Name: "detail", Means: flow.AttrDetail, Help: "the error in words"},
	{Name: "name", Help: "name of the span", get: func(s *store.Span) string { return s.Name }},
	{Name: "trace", Help: "trace id, 32 hex digits", get: func(s *store.Span) string { return s.TraceID.String() }},
	{Name: "span", Help: "span id, 16 hex digits", get: func(s *store.Span) string { return s.SpanID.String() }},
	{Name: "parent", Help: "span id of the parent", get: func(s *store.Span) string {
		if s.ParentID.IsZero() {
			return ""
		}
		return s.ParentID.String()
	}},
}

// failed is flow.Record.Failed of a span that is a Record: a store's Span.Error may also mean that there is a reason which blames nobody.
func failed(s *store.Span) bool {
	if s.Attributes[flow.AttrKind] == "" {
		return s.Error
	}
	var r flow.Record
	r.Reason, _ = flow.ParseReason(s.Attributes[flow.AttrReason])
	r.Status, _ = strconv.Atoi(s.Attributes[flow.AttrStatus])
	if status, ok := flow.ParseGRPCStatus(s.Attributes[flow.AttrGRPC]); ok {
		r.Protocol, r.GRPC = flow.ProtocolGRPC, status
	}
	return r.Failed()
}

func yes(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// Fields lists the words of the language about spans, in the order of the reference. The slice is the caller's.
func Fields() []Field { return Spans.Fields() }

// Fields lists the words, in the order of the reference. The slice is the caller's.
func (v *Vocabulary) Fields() []Field {
	out := make([]Field, len(v.fields))
	for i, f := range v.fields {
		out[i] = *f
	}
	return out
}

// find returns the field of that name: one of the table, or of an open vocabulary an attribute by its full name.
func (v *Vocabulary) find(name string) *Field {
	if f := v.byName[name]; f != nil {
		return f
	}
	if v.open && strings.Contains(name, ".") {
		return &Field{Name: name, Means: name, Type: Number, free: true}
	}
	return nil
}

// Lookup returns what a span says of a field, by its name in the language or the full name of an attribute; "" when it says nothing. ok is false when
// there is no such field.
func Lookup(name string) (value func(*store.Span) string, ok bool) {
	f := Spans.find(name)
	if f == nil {
		return nil, false
	}
	return f.value, true
}

// Reads are the attributes that Lookup's function looks at, of a span or its resource; none where there is no such field.
func Reads(name string) []string {
	if f := Spans.find(name); f != nil {
		return f.attributes()
	}
	return nil
}

// attributes of a span, or of its resource, that say what it is.
func (f *Field) attributes() []string {
	if f.Means != "" {
		return []string{f.Means}
	}
	return f.reads
}

// like is the known word nearest to what was written, "" when none is near: for messages.
func (v *Vocabulary) like(name string) string {
	best, least := "", 3
	for _, f := range v.fields {
		if d := distance(strings.ToLower(name), f.Name); d < least {
			best, least = f.Name, d
		}
	}
	for _, a := range v.aliases {
		if strings.EqualFold(name, a[0]) {
			return a[1]
		}
	}
	return best
}

// distance is Levenshtein's, of short words.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0]++
		for j := range len(b) {
			next := min(row[j+1], row[j]) + 1
			if a[i] == b[j] {
				next = corner
			} else {
				next = min(next, corner+1)
			}
			corner, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

func classOf(value string) (first byte, ok bool) {
	if len(value) == 3 && value[0] >= '1' && value[0] <= '5' && strings.EqualFold(value[1:], "xx") {
		return value[0], true
	}
	return 0, false
}

// closed are the values of fields that have a closed vocabulary: a word outside it would silently match nothing.
func closed(name string) []string {
	var out []string
	switch name {
	case "reason":
		for _, r := range flow.Reasons() {
			if r != flow.ReasonNone {
				out = append(out, r.String())
			}
		}
	case "grpc":
		for code := range uint64(flow.GRPCCodes) {
			out = append(out, flow.NewGRPCStatus(code).String())
		}
	case "kind":
		out = []string{flow.KindExchange.String(), flow.KindAttempt.String(), flow.KindConnection.String()}
	case "side":
		out = []string{flow.SideClient.String(), flow.SideServer.String()}
	case "phase":
		out = []string{flow.PhaseClose.String(), flow.PhaseProgress.String()}
	case "protocol":
		for p := flow.ProtocolTCP; p <= flow.ProtocolHTTP; p++ {
			out = append(out, p.String())
		}
	}
	return out
}

// Values lists what a field of spans with a closed vocabulary can be, nil for others: for completion.
func Values(field string) []string {
	if f := Spans.byName[field]; f != nil {
		return f.Values
	}
	return nil
}

// isNumber reports whether an attribute's text is a number as people and OTLP write them.
func isNumber(text string) (float64, bool) {
	if text == "" || !strings.ContainsRune("+-.0123456789", rune(text[0])) {
		return 0, false // not Inf, NaN
	}
	v, err := strconv.ParseFloat(text, 64)
	return v, err == nil
}

// Words are the names of all fields of spans, sorted: for completion.
func Words() []string { return Spans.Words() }

// Words are the names of all fields, sorted.
func (v *Vocabulary) Words() []string {
	var out []string
	for _, f := range v.fields {
		out = append(out, f.Name)
	}
	slices.Sort(out)
	return out
}
