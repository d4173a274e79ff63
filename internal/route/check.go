package route

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"regexp/syntax"
	"strings"
	"time"
)

// Limits of a Table. They keep what one request can cost, and what a Table can hold, in proportion.
const (
	MaxRules       = 10_000
	MaxMatches     = 64 // of a rule, as in the Gateway API
	MaxValues      = 16 // header fields of a match, and query parameters
	MaxPath        = 1024
	MaxValue       = 4096
	MaxNames       = 256 // different names of header fields, and of query parameters, that a Table's rules ask for
	MaxRegexes     = 256 // regular expressions that differ
	MaxRegex       = 1024
	MaxRegexSize   = 5000 // instructions of its compiled form (regexp/syntax.Prog); each can cost a step at every byte of the text
	MaxBackends    = 64
	MaxWeight      = 1_000_000
	MaxMirrors     = 16
	MaxFaults      = 16
	MaxLimits      = 16
	MaxBody        = 64 << 10 // of Respond
	maxRuleName    = 253
	maxName        = 256
	maxEdits       = 64
	maxEdited      = 8 << 10 // bytes that edits add
	maxAuthority   = 255
	maxOrigins     = 64
	maxAttempts    = 10
	maxSessionName = 128
)

// Check refuses rules of which no Table can be made. The error names rule, match and remedy.
func Check(rules []Rule) error {
	if len(rules) > MaxRules {
		return fmt.Errorf("has %d rules, at most %d can be in one table; split the hosts or services that they are for", len(rules), MaxRules)
	}
	names := make(map[string]bool, len(rules))
	asked, known := map[attribute]bool{}, expressions{}
	for i := range rules {
		r := &rules[i]
		if err := r.check(known); err != nil {
			return fmt.Errorf("route %q: %w", r.Name, err)
		}
		if names[r.Name] {
			return fmt.Errorf("route %q: the name is used twice; rename one", r.Name)
		}
		names[r.Name] = true
		for _, m := range r.Matches {
			for _, v := range m.Headers {
				asked[attribute{attributeHeader, v.Name}] = true
			}
			for _, v := range m.Query {
				asked[attribute{attributeQuery, v.Name}] = true
			}
		}
		if len(asked) > MaxNames {
			return fmt.Errorf("route %q: with it the rules ask for %d different header fields and query parameters, at most %d are looked at; use fewer names", r.Name, len(asked), MaxNames)
		}
		if len(known) > MaxRegexes {
			return fmt.Errorf("route %q: with it the rules have %d regular expressions, at most %d are tried; use exact values or prefixes", r.Name, len(known), MaxRegexes)
		}
	}
	return nil
}

// Check refuses what no Table can have as a rule.
func (r *Rule) Check() error {
	if err := r.check(expressions{}); err != nil {
		return fmt.Errorf("route %q: %w", r.Name, err)
	}
	return nil
}

func (r *Rule) check(known expressions) error {
	switch {
	case r.Name == "":
		return errors.New("name: must not be empty; Records have it")
	case len(r.Name) > maxRuleName:
		return fmt.Errorf("name: has %d bytes, at most %d are allowed", len(r.Name), maxRuleName)
	case strings.ContainsFunc(r.Name, func(c rune) bool { return c <= ' ' || c == 0x7f }):
		return errors.New("name: must not contain spaces or control characters")
	case len(r.Matches) > MaxMatches:
		return fmt.Errorf("has %d matches, at most %d are allowed; split the rule", len(r.Matches), MaxMatches)
	}
	edits := r.Action.editsPrefix()
	for i := range r.Matches {
		m := &r.Matches[i]
		if err := m.check(known); err != nil {
			return fmt.Errorf("match %d: %w", i+1, err)
		}
		if edits && m.Path.Kind != PathPrefix && m.Path.Kind != PathAny {
			return fmt.Errorf("match %d: path %q: is no prefix, and the action replaces the prefix that matched; match by prefix, or replace the full path", i+1, m.Path.Value)
		}
	}
	return r.Action.Check()
}

func (m *Match) check(known expressions) error {
	if err := m.Path.check(known); err != nil {
		return err
	}
	if m.Method != "" && !token(m.Method) {
		return fmt.Errorf("method %q: is no method (RFC 9110, section 9.1); use one such as GET", m.Method)
	}
	if err := checkValues("header", m.Headers, known, checkFieldName); err != nil {
		return err
	}
	return checkValues("query parameter", m.Query, known, func(n string) error {
		if n == "" || len(n) > maxName {
			return fmt.Errorf("its name has %d bytes, must have 1 to %d", len(n), maxName)
		}
		return nil
	})
}

func (p Path) check(known expressions) error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("path %q: %s", p.Value, fmt.Sprintf(format, args...))
	}
	switch p.Kind {
	case PathAny:
		if p.Value != "" {
			return fail("its kind is any path, which has no value; remove it")
		}
		return nil
	case PathRegex:
		if err := known.check(p.Value); err != nil {
			return fail("%v", err)
		}
		return nil
	case PathPrefix, PathExact:
	default:
		return fail("kind %d is not known", p.Kind)
	}
	switch {
	case !strings.HasPrefix(p.Value, "/"):
		return fail("must begin with /; write %q", "/"+p.Value)
	case len(p.Value) > MaxPath:
		return fail("has %d bytes, at most %d are allowed", len(p.Value), MaxPath)
	case strings.ContainsAny(p.Value, "?#"):
		return fail("ends before the query; remove what stands from the ? or # on, and match query parameters by themselves")
	case strings.ContainsFunc(p.Value, func(c rune) bool { return c <= ' ' || c >= 0x7f }):
		return fail("requests have such bytes escaped; write them as %%20 and the like")
	case strings.Contains(p.Value, "//"), strings.Contains(p.Value+"/", "/./"), strings.Contains(p.Value+"/", "/../"):
		return fail("no request has such a path, for runs of slashes and dot segments are resolved before; write it without them")
	}
	return nil
}

func checkValues(what string, values []Value, known expressions, checkName func(string) error) error {
	if len(values) > MaxValues {
		return fmt.Errorf("names %d of %s, at most %d are allowed", len(values), what, MaxValues)
	}
	for i, v := range values {
		fail := func(err error) error { return fmt.Errorf("%s %q: %w", what, v.Name, err) }
		if err := checkName(v.Name); err != nil {
			return fail(err)
		}
		for _, other := range values[:i] {
			if other.Name == v.Name {
				return fail(errors.New("is named twice; remove one"))
			}
		}
		switch v.Kind {
		case ValueExact:
			if len(v.Value) > MaxValue {
				return fail(fmt.Errorf("its value has %d bytes, at most %d are allowed", len(v.Value), MaxValue))
			}
		case ValueRegex:
			if err := known.check(v.Value); err != nil {
				return fail(err)
			}
		case ValuePresent:
			if v.Value != "" {
				return fail(fmt.Errorf("value %q: any value matches; remove it", v.Value))
			}
		default:
			return fail(fmt.Errorf("kind %d is not known", v.Kind))
		}
	}
	return nil
}

// expressions are regular expressions by their text: each is compiled once. Its entries may be nil, of those that were only checked.
type expressions map[string]*regexp.Regexp

// check refuses an expression that is none, or that could cost too much.
func (e expressions) check(expression string) error {
	if _, ok := e[expression]; ok {
		return nil
	}
	if len(expression) > MaxRegex {
		return fmt.Errorf("the regular expression has %d bytes, at most %d are allowed; match something shorter", len(expression), MaxRegex)
	}
	re, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return fmt.Errorf("%w; write RE2 (https://github.com/google/re2/wiki/Syntax), which has neither look-around nor back-references", err)
	}
	prog, err := syntax.Compile(re.Simplify())
	if err != nil {
		return err
	}
	if n := len(prog.Inst); n > MaxRegexSize {
		return fmt.Errorf("the regular expression %q has %d instructions, at most %d are allowed; use smaller repetitions", expression, n, MaxRegexSize)
	}
	e[expression] = nil
	return nil
}

// of is a checked expression that has to match everything.
func (e expressions) of(expression string) *regexp.Regexp {
	re := e[expression]
	if re == nil {
		parsed, err := syntax.Parse(expression, syntax.Perl)
		if err != nil {
			panic("route: an expression that was not checked: " + err.Error())
		}
		re = regexp.MustCompile(`\A(?:` + parsed.String() + `)\z`) // as it was read: "\Qa" would quote what stands behind it
		e[expression] = re
	}
	return re
}

// CheckAnswerField refuses a field that nobody but the sidecar may add to an answer, or that no answer can have.
func CheckAnswerField(f Field) error { return (Edits{Add: []Field{f}}).check() }

// Compile is a regular expression that has to match all of a text; Check has taken it.
func Compile(expression string) (*regexp.Regexp, error) {
	e := expressions{}
	if err := e.check(expression); err != nil {
		return nil, err
	}
	return e.of(expression), nil
}

func (e expressions) compile(m *Match) matcher {
	c := matcher{Match: m}
	if m.Path.Kind == PathRegex {
		c.path = e.of(m.Path.Value)
	}
	values := func(values []Value) []*regexp.Regexp {
		out := make([]*regexp.Regexp, len(values))
		for i, v := range values {
			if v.Kind == ValueRegex {
				out[i] = e.of(v.Value)
			}
		}
		return out
	}
	c.headers, c.query = values(m.Headers), values(m.Query)
	return c
}

// token reports whether s is one (RFC 9110, section 5.6.2).
func token(s string) bool {
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
	})
}

func checkFieldName(name string) error {
	switch {
	case !token(name):
		return errors.New("is no name of a header field (RFC 9110, section 5.1)")
	case name != strings.ToLower(name):
		return fmt.Errorf("must be in lower case; write %q", strings.ToLower(name))
	}
	return nil
}

// editsPrefix reports whether a replaces what a prefix matched.
func (a *Action) editsPrefix() bool {
	return a.Rewrite.Path.Prefix || a.Redirect != nil && a.Redirect.Path.Prefix
}

// Check refuses what a sidecar could not act on.
func (a *Action) Check() error {
	if n := min(len(a.Backends), 1) + count(a.Redirect != nil) + count(a.Respond != nil); n > 1 {
		return errors.New("backends, a redirect and a response exclude each other; keep one of them")
	}
	for _, err := range []error{
		checkBackends(a.Backends), a.Redirect.check(), a.Respond.check(), within("request", a.Request.check()), within("response", a.Response.check()),
		within("rewrite", a.Rewrite.check()), a.checkMirrors(), within("cors", a.CORS.check()), checkFaults(a.Faults), checkLimits(a.Limits), a.Timeouts.check(),
		within("retry", a.Retry.check()), within("session", a.Session.check()),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

func within(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func checkBackends(backends []Backend) error {
	if len(backends) > MaxBackends {
		return fmt.Errorf("has %d backends, at most %d are allowed", len(backends), MaxBackends)
	}
	sum := uint64(0)
	for i, b := range backends {
		what := fmt.Sprintf("backend %d (%s)", i+1, b.Service)
		if b.Weight > MaxWeight {
			return fmt.Errorf("%s: weight %d: must be at most %d", what, b.Weight, MaxWeight)
		}
		sum += uint64(b.Weight)
		if err := b.Request.check(); err != nil {
			return fmt.Errorf("%s: request: %w", what, err)
		}
		if err := b.Response.check(); err != nil {
			return fmt.Errorf("%s: response: %w", what, err)
		}
	}
	if sum > math.MaxUint32 {
		return fmt.Errorf("the weights of its backends sum up to %d, at most %d are allowed; divide them all by the same number", sum, uint32(math.MaxUint32))
	}
	return nil
}

func (e Edits) check() error {
	if n := len(e.Set) + len(e.Add) + len(e.Remove); n > maxEdits {
		return fmt.Errorf("edits %d header fields, at most %d are allowed", n, maxEdits)
	}
	size := 0
	name := func(what, n string) error {
		if err := checkFieldName(n); err != nil {
			return fmt.Errorf("%s %q: %w", what, n, err)
		}
		if why := owned(n); why != "" {
			return fmt.Errorf("%s %q: %s", what, n, why)
		}
		return nil
	}
	for what, fields := range map[string][]Field{"set": e.Set, "add": e.Add} {
		for _, f := range fields {
			if err := name(what, f.Name); err != nil {
				return err
			}
			if len(f.Value) > MaxValue || strings.Trim(f.Value, " \t") != f.Value || strings.ContainsFunc(f.Value, control) {
				return fmt.Errorf("%s %q: value: must have at most %d bytes, without control characters, and without white space at its ends (RFC 9110, section 5.5)", what, f.Name, MaxValue)
			}
			size += len(f.Name) + len(f.Value) + len(": \r\n")
		}
	}
	for _, n := range e.Remove {
		if err := name("remove", n); err != nil {
			return err
		}
	}
	if size > maxEdited {
		return fmt.Errorf("sets and adds %d bytes of header fields, at most %d are allowed", size, maxEdited)
	}
	return nil
}

func control(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }

// owned says why a field is not for rules to edit, "" of one that is: on these rest framing, routing, identity and traces, which the sidecar answers for.
func owned(name string) string {
	switch name {
	case "host":
		return "is what requests are routed by; rewrite the authority instead"
	case "content-length", "transfer-encoding", "trailer", "expect":
		return "says how the message is framed, which no rule can change"
	case "connection", "keep-alive", "proxy-connection", "te", "upgrade", "http2-settings", "sec-websocket-key", "sec-websocket-accept":
		return "belongs to one connection (RFC 9110, section 7.6.1), which the sidecar keeps itself"
	case "traceparent", "tracestate", "b3", "x-request-id":
		return "is how the mesh finds what belongs together; spec.telemetry.propagation says what is read and written of it"
	case "grpc-timeout":
		return "is the caller's deadline; set the rule's timeouts instead"
	case "grpc-status":
		return "is what calls are judged by; answer with a fault instead"
	}
	switch {
	case strings.HasPrefix(name, "x-tulle-"):
		return "is the mesh's own: no name of rules' fields begins with x-tulle-"
	case strings.HasPrefix(name, "x-b3-"):
		return "is how the mesh finds what belongs together; spec.telemetry.propagation says what is read and written of it"
	}
	return ""
}

func (p PathEdit) check() error {
	switch {
	case !p.Set && p != PathEdit{}:
		return errors.New("path: nothing is replaced, but there is something to replace it with")
	case p.Set && !strings.HasPrefix(p.Value, "/"):
		return fmt.Errorf("path %q: must begin with /; write %q", p.Value, "/"+p.Value)
	case len(p.Value) > MaxPath:
		return fmt.Errorf("path: has %d bytes, at most %d are allowed", len(p.Value), MaxPath)
	case strings.ContainsAny(p.Value, "?#") || strings.ContainsFunc(p.Value, func(c rune) bool { return c <= ' ' || c >= 0x7f }):
		return fmt.Errorf("path %q: must be a path, with such bytes escaped, and without a query", p.Value)
	case strings.Contains(p.Value, "//"), strings.Contains(p.Value+"/", "/./"), strings.Contains(p.Value+"/", "/../"):
		return fmt.Errorf("path %q: services get no runs of slashes and no dot segments; write it without them", p.Value)
	}
	return nil
}

func (r Rewrite) check() error {
	if err := checkAuthority("authority", r.Authority); err != nil {
		return err
	}
	return r.Path.check()
}

func checkAuthority(field, s string) error {
	if s == "" {
		return nil
	}
	host := Hostname(s)
	if len(s) > maxAuthority || strings.ContainsAny(s, " /?#@\r\n\x00") || !ValidHost(host) && !strings.Contains(host, ":") {
		return fmt.Errorf("%s %q: must be a host name, or one with a port", field, s)
	}
	return nil
}

func (r *Redirect) check() error {
	if r == nil {
		return nil
	}
	switch r.Status {
	case 301, 302, 303, 307, 308:
	default:
		return fmt.Errorf("redirect: status %d: must be 301, 302, 303, 307 or 308", r.Status)
	}
	if r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https" {
		return fmt.Errorf("redirect: scheme %q: must be http or https", r.Scheme)
	}
	if r.Authority != "" && !ValidHost(r.Authority) {
		return fmt.Errorf("redirect: authority %q: must be a host name; a port stands by itself", r.Authority)
	}
	return within("redirect", r.Path.check())
}

func (r *Respond) check() error {
	switch {
	case r == nil:
		return nil
	case r.Status < 200 || r.Status > 599:
		return fmt.Errorf("respond: status %d: must be from 200 to 599", r.Status)
	case len(r.Body) > MaxBody:
		return fmt.Errorf("respond: body: has %d bytes, at most %d are allowed", len(r.Body), MaxBody)
	case strings.ContainsAny(r.Type, "\r\n\x00"):
		return fmt.Errorf("respond: type %q: is no media type", r.Type)
	}
	return nil
}

func (a *Action) checkMirrors() error {
	if len(a.Mirrors) > MaxMirrors {
		return fmt.Errorf("has %d mirrors, at most %d are allowed", len(a.Mirrors), MaxMirrors)
	}
	for i, m := range a.Mirrors {
		if m.Service == "" {
			return fmt.Errorf("mirror %d: service: must not be empty", i+1)
		}
		if err := checkPPM(fmt.Sprintf("mirror %d", i+1), m.PPM); err != nil {
			return err
		}
	}
	return nil
}

func checkPPM(what string, ppm uint32) error {
	if ppm > Million {
		return fmt.Errorf("%s: %d parts per million: must be at most %d", what, ppm, Million)
	}
	return nil
}

func (c *CORS) check() error {
	if c == nil {
		return nil
	}
	if n := max(len(c.Origins), len(c.Methods), len(c.Headers), len(c.Expose)); n > maxOrigins {
		return fmt.Errorf("a list has %d entries, at most %d are allowed", n, maxOrigins)
	}
	for _, o := range c.Origins {
		scheme, host, ok := strings.Cut(o, "://")
		if o != "*" && (!ok || !token(scheme) || !ValidHost(strings.TrimPrefix(Hostname(host), "*.")) && !strings.HasPrefix(host, "[")) {
			return fmt.Errorf(`origin %q: must be "*", or scheme://host, or scheme://host:port, where the host may begin with "*."`, o)
		}
	}
	for what, list := range map[string][]string{"method": c.Methods, "header": c.Headers, "expose": c.Expose} {
		for _, s := range list {
			if !token(s) {
				return fmt.Errorf("%s %q: is no token (RFC 9110, section 5.6.2)", what, s)
			}
		}
	}
	if c.MaxAge < 0 || c.MaxAge%time.Second != 0 {
		return fmt.Errorf("maxAge %s: must be whole seconds, 0 or more", c.MaxAge)
	}
	return nil
}

func checkFaults(faults []Fault) error {
	if len(faults) > MaxFaults {
		return fmt.Errorf("has %d faults, at most %d are allowed", len(faults), MaxFaults)
	}
	for i, f := range faults {
		what := fmt.Sprintf("fault %d", i+1)
		if err := within(what, checkValues("header", f.Headers, expressions{}, checkFieldName)); err != nil {
			return err
		}
		switch {
		case f.Delay < 0 || f.Delay > time.Hour:
			return fmt.Errorf("%s: delay %s: must be from 0 to 1h", what, f.Delay)
		case f.Status != 0 && (f.Status < 200 || f.Status > 599):
			return fmt.Errorf("%s: status %d: must be from 200 to 599", what, f.Status)
		case f.GRPC < 0 || f.GRPC > 16:
			return fmt.Errorf("%s: grpc %d: must be from 1 to 16", what, f.GRPC)
		}
		if err := checkPPM(what+": delay", f.DelayPPM); err != nil {
			return err
		}
		if err := checkPPM(what+": abort", f.AbortPPM); err != nil {
			return err
		}
	}
	return nil
}

func checkLimits(limits []RateLimit) error {
	if len(limits) > MaxLimits {
		return fmt.Errorf("has %d rate limits, at most %d are allowed", len(limits), MaxLimits)
	}
	names := map[string]bool{}
	for i, l := range limits {
		what := fmt.Sprintf("rate limit %d (%s)", i+1, l.Name)
		switch {
		case l.Name == "" || len(l.Name) > maxRuleName:
			return fmt.Errorf("%s: name: has %d bytes, must have 1 to %d", what, len(l.Name), maxRuleName)
		case names[l.Name]:
			return fmt.Errorf("%s: the name is used twice; rename one", what)
		case l.Domain == "" && (l.Requests == 0 || l.Per <= 0 || l.Per > 24*time.Hour):
			return fmt.Errorf("%s: %d requests per %s: must be at least 1, in a time of up to 24h", what, l.Requests, l.Per)
		case l.Domain != "" && (l.Requests != 0 || l.Per != 0 || l.Burst != 0):
			return fmt.Errorf("%s: domain %s: its service says how many requests are let pass; remove requests, per and burst", what, l.Domain)
		case l.Domain != "" && len(l.Keys) == 0:
			return fmt.Errorf("%s: keys: are what the service of domain %s decides by; name one", what, l.Domain)
		case l.Domain != "" && l.Service == "":
			return fmt.Errorf("%s: service: domain %s is of a rate limit service; name it", what, l.Domain)
		case l.Domain == "" && (l.FailOpen || l.Service != "" || l.Timeout != 0):
			return fmt.Errorf("%s: failOpen, service and timeout are of limits with a domain; remove them", what)
		case l.Timeout < 0 || l.Timeout > time.Second:
			return fmt.Errorf("%s: timeout %s: must be at most 1s, or 0 for the default", what, l.Timeout)
		case len(l.Keys) > MaxValues:
			return fmt.Errorf("%s: has %d keys, at most %d are allowed", what, len(l.Keys), MaxValues)
		}
		names[l.Name] = true
		for _, k := range l.Keys {
			if err := k.check(); err != nil {
				return fmt.Errorf("%s: key %q: %w", what, k.Name, err)
			}
		}
	}
	return nil
}

func (k Key) check() error {
	switch {
	case k.Kind > KeyConstant:
		return fmt.Errorf("kind %d is not known", k.Kind)
	case k.Kind == KeyHeader:
		if err := checkFieldName(k.Name); err != nil {
			return err
		}
	case len(k.Name) > maxName || strings.ContainsAny(k.Name, "\x00\r\n"):
		return fmt.Errorf("its name must have at most %d bytes, without CR, LF and NUL", maxName)
	}
	if (k.Kind == KeyConstant) != (k.Value != "") {
		return fmt.Errorf("value %q: constants have one, and nothing else has", k.Value)
	}
	return nil
}

func (t Timeouts) check() error {
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"request", t.Request}, {"try", t.Try}, {"idle", t.Idle}, {"stream", t.Stream}} {
		if f.d < -1 {
			return fmt.Errorf("timeouts: %s %s: must be positive, 0 for the service's, or -1 for none", f.name, f.d)
		}
	}
	return nil
}

func (r *Retry) check() error {
	switch {
	case r == nil:
		return nil
	case r.Attempts < 0 || r.Attempts > maxAttempts:
		return fmt.Errorf("attempts %d: must be from 1 (no retry) to %d, or 0 for the service's", r.Attempts, maxAttempts)
	case r.Backoff < 0:
		return fmt.Errorf("backoff %s: must be positive, or 0 for the service's", r.Backoff)
	}
	for i, s := range r.Statuses {
		if s < 400 || s > 599 {
			return fmt.Errorf("status %d: must be from 400 to 599", s)
		}
		for _, other := range r.Statuses[:i] {
			if other == s {
				return fmt.Errorf("status %d: is listed twice; remove one", s)
			}
		}
	}
	return nil
}

func (s *Session) check() error {
	switch {
	case s == nil:
		return nil
	case s.Kind > SessionHeader:
		return fmt.Errorf("kind %d is not known", s.Kind)
	case !token(s.Name) || len(s.Name) > maxSessionName:
		return fmt.Errorf("name %q: must be a token (RFC 9110, section 5.6.2) of at most %d bytes", s.Name, maxSessionName)
	case s.Kind == SessionHeader && s.Name != strings.ToLower(s.Name):
		return fmt.Errorf("name %q: must be in lower case; write %q", s.Name, strings.ToLower(s.Name))
	case s.Lifetime < 0 || s.Absolute < 0 || s.Idle < 0:
		return errors.New("lifetime, absolute and idle: must be 0 or more")
	case s.Kind == SessionHeader && (s.Lifetime != 0 || s.Path != ""):
		return errors.New("lifetime and path are of cookies; remove them")
	case s.Path != "" && !strings.HasPrefix(s.Path, "/"):
		return fmt.Errorf("path %q: must begin with /", s.Path)
	}
	return nil
}
