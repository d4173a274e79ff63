package resource

import (
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"time"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/route"
)

// What an API server refuses by the schemas of the Gateway API's CRDs is refused here, for files have no API server: values by their type, and lists by
// their length, wherever they stand (checkValues); what fields say about each other, by check of each kind.

var (
	sectionPattern  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	tokenPattern    = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+\\-.^_`|~]+$") // RFC 9110, section 5.6.2
	durationPattern = regexp.MustCompile(`^([0-9]{1,5}(h|m|s|ms)){1,4}$`)   // GEP-2257
	originPattern   = regexp.MustCompile(`^(\*|https?://((\*\.)?([a-zA-Z0-9-]+\.)*[a-zA-Z0-9-]+|\*)(:[0-9]{1,5})?)$`)
	pathPattern     = regexp.MustCompile(`^(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})+$`)
	grpcService     = regexp.MustCompile(`^(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*$`)
	grpcMethod      = regexp.MustCompile(`^[A-Za-z_][A-Za-z_0-9]*$`)
)

// valueChecks says what a value of a type must be; "" is a field left out where the type can be.
var valueChecks = map[reflect.Type]func(string) string{
	reflect.TypeFor[gatewayv1.Hostname]():        hostname,
	reflect.TypeFor[gatewayv1.PreciseHostname](): preciseHostname,
	reflect.TypeFor[gatewayv1.SectionName]():     pattern(sectionPattern, 253, "lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit"),
	reflect.TypeFor[gatewayv1.ObjectName]():      length(1, 253),
	reflect.TypeFor[gatewayv1.Kind]():            pattern(regexp.MustCompile(`^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`), 63, "the name of a kind, such as Service"),
	reflect.TypeFor[gatewayv1.Group]():           pattern(sectionPattern, 253, `the name of an API group, such as gateway.networking.k8s.io, or "" for the core group`),
	reflect.TypeFor[gatewayv1.Namespace]():       pattern(regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`), 63, "a-z, 0-9 and -, not beginning or ending with -"),
	reflect.TypeFor[gatewayv1.HeaderName]():      fieldNamePattern,
	reflect.TypeFor[gatewayv1.HTTPHeaderName]():  fieldNamePattern,
	reflect.TypeFor[gatewayv1.GRPCHeaderName]():  fieldNamePattern,
	reflect.TypeFor[gatewayv1.Duration]():        pattern(durationPattern, 32, "a duration such as 250ms, 15s or 1h30m, or 0s for none (GEP-2257)"),
	reflect.TypeFor[gatewayv1.CORSOrigin]():      pattern(originPattern, 253, `"*", or scheme://host[:port] where the host may begin with "*."`),

	reflect.TypeFor[gatewayv1.PathMatchType]():              enum(gatewayv1.PathMatchExact, gatewayv1.PathMatchPathPrefix, gatewayv1.PathMatchRegularExpression),
	reflect.TypeFor[gatewayv1.HeaderMatchType]():            enum(gatewayv1.HeaderMatchExact, gatewayv1.HeaderMatchRegularExpression),
	reflect.TypeFor[gatewayv1.QueryParamMatchType]():        enum(gatewayv1.QueryParamMatchExact, gatewayv1.QueryParamMatchRegularExpression),
	reflect.TypeFor[gatewayv1.GRPCMethodMatchType]():        enum(gatewayv1.GRPCMethodMatchExact, gatewayv1.GRPCMethodMatchRegularExpression),
	reflect.TypeFor[gatewayv1.GRPCHeaderMatchType]():        enum(gatewayv1.GRPCHeaderMatchExact, gatewayv1.GRPCHeaderMatchRegularExpression),
	reflect.TypeFor[gatewayv1.HTTPMethod]():                 enum[gatewayv1.HTTPMethod]("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"),
	reflect.TypeFor[gatewayv1.HTTPMethodWithWildcard]():     enum[gatewayv1.HTTPMethodWithWildcard]("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"),
	reflect.TypeFor[gatewayv1.HTTPPathModifierType]():       enum(gatewayv1.FullPathHTTPPathModifier, gatewayv1.PrefixMatchHTTPPathModifier),
	reflect.TypeFor[gatewayv1.SessionPersistenceType]():     enum(gatewayv1.CookieBasedSessionPersistence, gatewayv1.HeaderBasedSessionPersistence),
	reflect.TypeFor[gatewayv1.CookieLifetimeType]():         enum(gatewayv1.SessionCookieLifetimeType, gatewayv1.PermanentCookieLifetimeType),
	reflect.TypeFor[gatewayv1.GatewayDefaultScope]():        enum(gatewayv1.GatewayDefaultScopeAll, gatewayv1.GatewayDefaultScopeNone),
	reflect.TypeFor[gatewayv1.FromNamespaces]():             enum(gatewayv1.NamespacesFromAll, gatewayv1.NamespacesFromSelector, gatewayv1.NamespacesFromSame, gatewayv1.NamespacesFromNone),
	reflect.TypeFor[gatewayv1.TLSModeType]():                enum(gatewayv1.TLSModeTerminate, gatewayv1.TLSModePassthrough),
	reflect.TypeFor[gatewayv1.FrontendValidationModeType](): enum(gatewayv1.AllowValidOnly, gatewayv1.AllowInsecureFallback),
	reflect.TypeFor[gatewayv1.SubjectAltNameType]():         enum(gatewayv1.HostnameSubjectAltNameType, gatewayv1.URISubjectAltNameType),
	reflect.TypeFor[gatewayv1.HTTPRouteFilterType]():        length(1, 64), // each is looked at by filters
	reflect.TypeFor[gatewayv1.GRPCRouteFilterType]():        length(1, 64),
	reflect.TypeFor[gatewayv1.HTTPRouteRetryStatusCode]():   nil, // a number
}

// maxItems bounds lists, by the end of their path.
var maxItems = []struct {
	path string
	max  int
}{
	{"spec.parentRefs", 32},
	{"spec.hostnames", 1024}, // of a TLSRoute; of others checkHostnames counts
	{"spec.rules", 16},
	{".matches", 64},
	{".headers", 16},
	{".queryParams", 16},
	{".filters", 16},
	{".backendRefs", 16},
	{"Modifier.set", 16},
	{"Modifier.add", 16},
	{"Modifier.remove", 16},
	{".allowOrigins", 64},
	{".allowMethods", 9},
	{".allowHeaders", 64},
	{".exposeHeaders", 64},
	{"spec.listeners", 64},
	{"spec.addresses", 16},
	{"spec.from", 16},
	{"spec.to", 16},
	{".certificateRefs", 64},
	{".kinds", 8},
	{"spec.targetRefs", 16},
	{".caCertificateRefs", 8},
	{".subjectAltNames", 5},
	{".perPort", 64},
}

func pattern(re *regexp.Regexp, most int, what string) func(string) string {
	return func(v string) string {
		if len(v) > most || !re.MatchString(v) {
			return fmt.Sprintf("%q must be %s", v, what)
		}
		return ""
	}
}

var fieldNamePattern = pattern(tokenPattern, 256, "the name of a header field or parameter: letters, digits and !#$%&'*+-.^_`|~")

func length(least, most int) func(string) string {
	return func(v string) string {
		if len(v) < least || len(v) > most {
			return fmt.Sprintf("%q must have %d to %d bytes", v, least, most)
		}
		return ""
	}
}

func enum[T ~string](allowed ...T) func(string) string {
	return func(v string) string {
		var names []string
		for _, w := range allowed {
			if string(w) == v {
				return ""
			}
			names = append(names, string(w))
		}
		return fmt.Sprintf("%q is not one of %s", v, strings.Join(names, ", "))
	}
}

func hostname(v string) string { return hostPattern(v, strings.TrimPrefix(v, "*.")) }

func preciseHostname(v string) string { return hostPattern(v, v) }

func hostPattern(v, rest string) string {
	if _, err := netip.ParseAddr(v); err == nil {
		return fmt.Sprintf("%q is an IP address; write a host name", v)
	}
	if !sectionPattern.MatchString(rest) || !route.ValidHost(rest) {
		return fmt.Sprintf(`%q is no host name in lower case, such as shop.example.com, or "*.example.com" where that is allowed`, v)
	}
	return ""
}

// checkValues walks everything that v sets. Fields left out are not looked at, so required ones are for check of each kind.
func checkValues(v reflect.Value, path string) error {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			return checkValues(v.Elem(), path)
		}
	case reflect.Struct:
		if readsItself(v.Type()) {
			return nil
		}
		for i := range v.NumField() {
			name, inline := fieldName(v.Type().Field(i))
			at := path
			if !inline {
				at = strings.TrimPrefix(path+"."+name, ".")
			}
			if at == "metadata" || at == "status" {
				continue
			}
			if err := checkValues(v.Field(i), at); err != nil {
				return err
			}
		}
	case reflect.Slice:
		for _, m := range maxItems {
			if strings.HasSuffix(path, m.path) && v.Len() > m.max {
				return fmt.Errorf("%s: has %d entries, at most %d are allowed", path, v.Len(), m.max)
			}
		}
		for i := range v.Len() {
			at := fmt.Sprintf("%s[%d]", path, i)
			if e := v.Index(i); e.Kind() == reflect.String && e.Len() == 0 {
				return fmt.Errorf("%s: must not be empty", at)
			}
			if err := checkValues(v.Index(i), at); err != nil {
				return err
			}
		}
	case reflect.String:
		if check := valueChecks[v.Type()]; check != nil && v.Len() > 0 {
			if wrong := check(v.String()); wrong != "" {
				return fmt.Errorf("%s: %s", path, wrong)
			}
		}
	case reflect.Int32:
		if p := v.Int(); strings.HasSuffix(strings.ToLower(path), "port") && p != 0 && (p < 1 || p > 65535) {
			return fmt.Errorf("%s: %d must be from 1 to 65535", path, p)
		}
	}
	return nil
}

// checkObject is what all kinds have in common.
func checkObject(o GatewayObject) error {
	if name := o.GetName(); len(name) == 0 || len(name) > 253 || !sectionPattern.MatchString(name) {
		return fmt.Errorf("metadata.name: %q must be 1 to 253 of a-z, 0-9, - and ., beginning and ending with a letter or digit", name)
	}
	if ns := o.GetNamespace(); ns != "" {
		if err := checkLabel("metadata.namespace", ns); err != nil {
			return err
		}
	}
	return checkValues(reflect.ValueOf(o), "")
}

func (r *ReferenceGrant) check() error {
	if err := checkObject(r); err != nil {
		return err
	}
	if len(r.Spec.From) == 0 || len(r.Spec.To) == 0 {
		return fmt.Errorf("spec: from and to need at least one entry each; say whose references to what are allowed")
	}
	for i, f := range r.Spec.From {
		if f.Kind == "" || f.Namespace == "" {
			return fmt.Errorf("spec.from[%d]: kind and namespace are required", i)
		}
	}
	for i, to := range r.Spec.To {
		if to.Kind == "" {
			return fmt.Errorf("spec.to[%d].kind: is required", i)
		}
	}
	return nil
}

func (r *HTTPRoute) check() error {
	if err := checkObject(r); err != nil {
		return err
	}
	if err := checkParents(r.Spec.ParentRefs); err != nil {
		return err
	}
	if err := checkHostnames(r.Spec.Hostnames); err != nil {
		return err
	}
	names, matches := map[gatewayv1.SectionName]bool{}, 0
	if len(r.Spec.Rules) == 0 {
		return fmt.Errorf("spec.rules: needs at least one rule; one without matches is for every request")
	}
	for i := range r.Spec.Rules {
		rule, at := &r.Spec.Rules[i], fmt.Sprintf("spec.rules[%d]", i)
		if err := checkRuleName(at, rule.Name, names); err != nil {
			return err
		}
		if matches += len(rule.Matches); matches > 128 {
			return fmt.Errorf("%s.matches: all rules together have more than 128; split the route", at)
		}
		for k := range rule.Matches {
			if err := checkHTTPMatch(fmt.Sprintf("%s.matches[%d]", at, k), &rule.Matches[k]); err != nil {
				return err
			}
		}
		prefix := len(rule.Matches) == 1 && rule.Matches[0].Path != nil && value(rule.Matches[0].Path.Type, gatewayv1.PathMatchPathPrefix) == gatewayv1.PathMatchPathPrefix
		if err := checkHTTPFilters(at+".filters", rule.Filters, prefix); err != nil {
			return err
		}
		redirect := false
		for _, f := range rule.Filters {
			redirect = redirect || f.Type == gatewayv1.HTTPRouteFilterRequestRedirect
		}
		if redirect && len(rule.BackendRefs) > 0 {
			return fmt.Errorf("%s.backendRefs: a rule that redirects sends nothing on; remove them, or the filter RequestRedirect", at)
		}
		for k := range rule.BackendRefs {
			b, at := &rule.BackendRefs[k], fmt.Sprintf("%s.backendRefs[%d]", at, k)
			if err := checkBackend(at, &b.BackendRef); err != nil {
				return err
			}
			if err := checkHTTPFilters(at+".filters", b.Filters, prefix); err != nil {
				return err
			}
		}
		if t := rule.Timeouts; t != nil && t.Request != nil && t.BackendRequest != nil {
			if request, try := duration(*t.Request), duration(*t.BackendRequest); request > 0 && try > request {
				return fmt.Errorf("%s.timeouts.backendRequest: %s is longer than request, %s; lower it", at, *t.BackendRequest, *t.Request)
			}
		}
		if retry := rule.Retry; retry != nil {
			for k, code := range retry.Codes {
				if code < 400 || code > 599 {
					return fmt.Errorf("%s.retry.codes[%d]: %d must be from 400 to 599", at, k, code)
				}
			}
			if n := retry.Attempts; n != nil && *n < 0 {
				return fmt.Errorf("%s.retry.attempts: %d must not be negative; 0 is no retry", at, *n)
			}
		}
		if err := checkSession(at+".sessionPersistence", rule.SessionPersistence); err != nil {
			return err
		}
	}
	return nil
}

func (r *GRPCRoute) check() error {
	if err := checkObject(r); err != nil {
		return err
	}
	if err := checkParents(r.Spec.ParentRefs); err != nil {
		return err
	}
	if err := checkHostnames(r.Spec.Hostnames); err != nil {
		return err
	}
	names, matches := map[gatewayv1.SectionName]bool{}, 0
	if len(r.Spec.Rules) == 0 {
		return fmt.Errorf("spec.rules: needs at least one rule; one without matches is for every call")
	}
	for i := range r.Spec.Rules {
		rule, at := &r.Spec.Rules[i], fmt.Sprintf("spec.rules[%d]", i)
		if err := checkRuleName(at, rule.Name, names); err != nil {
			return err
		}
		if matches += len(rule.Matches); matches > 128 {
			return fmt.Errorf("%s.matches: all rules together have more than 128; split the route", at)
		}
		for k := range rule.Matches {
			m, at := &rule.Matches[k], fmt.Sprintf("%s.matches[%d]", at, k)
			if err := checkGRPCMethod(at+".method", m.Method); err != nil {
				return err
			}
			seen := map[string]bool{}
			for h, v := range m.Headers {
				if err := checkNamedValue(fmt.Sprintf("%s.headers[%d]", at, h), string(v.Name), v.Value, value(v.Type, gatewayv1.GRPCHeaderMatchExact) == gatewayv1.GRPCHeaderMatchRegularExpression, true, seen); err != nil {
					return err
				}
			}
		}
		if err := checkGRPCFilters(at+".filters", rule.Filters); err != nil {
			return err
		}
		for k := range rule.BackendRefs {
			b, at := &rule.BackendRefs[k], fmt.Sprintf("%s.backendRefs[%d]", at, k)
			if err := checkBackend(at, &b.BackendRef); err != nil {
				return err
			}
			if err := checkGRPCFilters(at+".filters", b.Filters); err != nil {
				return err
			}
		}
		if err := checkSession(at+".sessionPersistence", rule.SessionPersistence); err != nil {
			return err
		}
	}
	return nil
}

// checkHostnames bounds those of routes of requests.
func checkHostnames(list []gatewayv1.Hostname) error {
	if n := len(list); n > 16 {
		return fmt.Errorf("spec.hostnames: has %d entries, at most 16 are allowed; split the route", n)
	}
	return nil
}

func checkGRPCMethod(at string, m *gatewayv1.GRPCMethodMatch) error {
	if m == nil {
		return nil
	}
	if m.Service == nil && m.Method == nil {
		return fmt.Errorf("%s: needs service, method or both; leave it out for every call", at)
	}
	for _, f := range []struct {
		field string
		v     *string
		exact *regexp.Regexp
		like  string
	}{{"service", m.Service, grpcService, "shop.v1.Catalog"}, {"method", m.Method, grpcMethod, "GetItem"}} {
		switch {
		case f.v == nil:
		case len(*f.v) == 0 || len(*f.v) > 1024:
			return fmt.Errorf("%s.%s: must have 1 to 1024 bytes", at, f.field)
		case value(m.Type, gatewayv1.GRPCMethodMatchExact) == gatewayv1.GRPCMethodMatchExact && !f.exact.MatchString(*f.v):
			return fmt.Errorf("%s.%s: %q is no name such as %s; write it without slashes", at, f.field, *f.v, f.like)
		}
		if f.v != nil && value(m.Type, gatewayv1.GRPCMethodMatchExact) == gatewayv1.GRPCMethodMatchRegularExpression {
			if err := checkRegex(at+"."+f.field, *f.v); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkRuleName(at string, name *gatewayv1.SectionName, names map[gatewayv1.SectionName]bool) error {
	if name == nil {
		return nil
	}
	if *name == "" || names[*name] {
		return fmt.Errorf("%s.name: %q must be there once among the rules of the route; rename one", at, *name)
	}
	names[*name] = true
	return nil
}

// checkParents wants references that are distinct as the Gateway API says: those to one object all have a sectionName or a port, each another.
func checkParents(refs []gatewayv1.ParentReference) error {
	type object struct{ group, kind, namespace, name string }
	type part struct {
		object
		section string
		port    int32
	}
	parts, shape := map[part]bool{}, map[object][2]bool{}
	for i, p := range refs {
		at := fmt.Sprintf("spec.parentRefs[%d]", i)
		if p.Name == "" {
			return fmt.Errorf("%s.name: is required", at)
		}
		o := object{string(value(p.Group, gatewayGroup)), string(value(p.Kind, "Gateway")), string(value(p.Namespace, "")), string(p.Name)}
		x := part{o, string(value(p.SectionName, "")), value(p.Port, 0)}
		if parts[x] {
			return fmt.Errorf("%s: refers to what another one does; remove it, or name another sectionName or port", at)
		}
		parts[x] = true
		s := [2]bool{x.section != "", x.port != 0}
		if other, ok := shape[o]; ok && other != s {
			return fmt.Errorf("%s: %s %s is referred to several times; give each a sectionName, or each a port", at, o.kind, o.name)
		}
		shape[o] = s
	}
	return nil
}

func checkHTTPMatch(at string, m *gatewayv1.HTTPRouteMatch) error {
	if p := m.Path; p != nil {
		v := value(p.Value, "/")
		if value(p.Type, gatewayv1.PathMatchPathPrefix) == gatewayv1.PathMatchRegularExpression {
			if err := checkRegex(at+".path.value", v); err != nil {
				return err
			}
		} else if err := checkPath(at+".path.value", v); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	for i, h := range m.Headers {
		if err := checkNamedValue(fmt.Sprintf("%s.headers[%d]", at, i), string(h.Name), h.Value, value(h.Type, gatewayv1.HeaderMatchExact) == gatewayv1.HeaderMatchRegularExpression, true, seen); err != nil {
			return err
		}
	}
	seen = map[string]bool{}
	for i, q := range m.QueryParams {
		if err := checkNamedValue(fmt.Sprintf("%s.queryParams[%d]", at, i), string(q.Name), q.Value, value(q.Type, gatewayv1.QueryParamMatchExact) == gatewayv1.QueryParamMatchRegularExpression, false, seen); err != nil {
			return err
		}
	}
	return nil
}

func checkNamedValue(at, name, v string, regex, fold bool, seen map[string]bool) error {
	if name == "" || v == "" || len(v) > 4096 {
		return fmt.Errorf("%s: name and value are required, of at most 256 and 4096 bytes", at)
	}
	if fold {
		name = strings.ToLower(name)
	}
	if seen[name] {
		return fmt.Errorf("%s.name: %q is named twice; keep one", at, name)
	}
	seen[name] = true
	if regex {
		return checkRegex(at+".value", v)
	}
	return nil
}

func checkRegex(at, expression string) error {
	if len(expression) > 4096 {
		return fmt.Errorf("%s: must have at most 4096 bytes", at)
	}
	if _, err := regexp.Compile(expression); err != nil {
		return fmt.Errorf("%s: %w; write RE2 (https://github.com/google/re2/wiki/Syntax)", at, err)
	}
	return nil
}

// checkPath wants a path in the one form in which requests have theirs (docs/reference/http1.md), so that it can match.
func checkPath(at, p string) error {
	if !strings.HasPrefix(p, "/") || len(p) > 1024 || !pathPattern.MatchString(p) {
		return fmt.Errorf("%s: %q must begin with / and be a path of at most 1024 bytes, without a query", at, p)
	}
	for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F"} {
		if strings.Contains(p, bad) {
			return fmt.Errorf("%s: %q contains %s, which no path that arrives here does; remove it", at, p, bad)
		}
	}
	if strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..") {
		return fmt.Errorf("%s: %q ends with a dot segment, which no path that arrives here does; remove it", at, p)
	}
	return nil
}

func checkBackend(at string, b *gatewayv1.BackendRef) error {
	if b.Name == "" {
		return fmt.Errorf("%s.name: is required", at)
	}
	if w := b.Weight; w != nil && (*w < 0 || *w > 1_000_000) {
		return fmt.Errorf("%s.weight: %d must be from 0 to 1000000", at, *w)
	}
	return nil
}

// filterField is what a filter of a type needs, and has.
type filterField struct {
	kind, field string
	set         bool
}

func checkFilter(at, kind string, seen map[string]bool, fields []filterField) error {
	known := false
	for _, f := range fields {
		known = known || f.kind == kind
		switch {
		case f.kind == kind && !f.set:
			return fmt.Errorf("%s.%s: is required of type %s", at, f.field, kind)
		case f.kind != kind && f.set:
			return fmt.Errorf("%s.%s: is of type %s, this is %s; remove it, or give it a filter of its own", at, f.field, f.kind, kind)
		}
	}
	if !known {
		var names []string
		for _, f := range fields {
			names = append(names, f.kind)
		}
		return fmt.Errorf("%s.type: %q is not one of %s", at, kind, strings.Join(names, ", "))
	}
	if seen[kind] && kind != "RequestMirror" && kind != "ExtensionRef" {
		return fmt.Errorf("%s.type: %s is there twice; merge the two", at, kind)
	}
	seen[kind] = true
	return nil
}

func checkHTTPFilters(field string, filters []gatewayv1.HTTPRouteFilter, prefix bool) error {
	seen := map[string]bool{}
	for i := range filters {
		f, at := &filters[i], fmt.Sprintf("%s[%d]", field, i)
		err := checkFilter(at, string(f.Type), seen, []filterField{
			{"RequestHeaderModifier", "requestHeaderModifier", f.RequestHeaderModifier != nil},
			{"ResponseHeaderModifier", "responseHeaderModifier", f.ResponseHeaderModifier != nil},
			{"RequestMirror", "requestMirror", f.RequestMirror != nil},
			{"RequestRedirect", "requestRedirect", f.RequestRedirect != nil},
			{"URLRewrite", "urlRewrite", f.URLRewrite != nil},
			{"CORS", "cors", f.CORS != nil},
			{"ExternalAuth", "externalAuth", f.ExternalAuth != nil},
			{"ExtensionRef", "extensionRef", f.ExtensionRef != nil},
		})
		if err != nil {
			return err
		}
		if err := checkHeaderFilter(at+".requestHeaderModifier", f.RequestHeaderModifier); err != nil {
			return err
		}
		if err := checkHeaderFilter(at+".responseHeaderModifier", f.ResponseHeaderModifier); err != nil {
			return err
		}
		if err := checkMirror(at+".requestMirror", f.RequestMirror); err != nil {
			return err
		}
		if r := f.RequestRedirect; r != nil {
			if r.Scheme != nil {
				if err := oneOf(at+".requestRedirect.scheme", *r.Scheme, "http", "https"); err != nil {
					return err
				}
			}
			switch value(r.StatusCode, 302) {
			case 301, 302, 303, 307, 308:
			default:
				return fmt.Errorf("%s.requestRedirect.statusCode: %d is not one of 301, 302, 303, 307, 308", at, *r.StatusCode)
			}
			if err := checkPathModifier(at+".requestRedirect.path", r.Path, prefix); err != nil {
				return err
			}
		}
		if u := f.URLRewrite; u != nil {
			if err := checkPathModifier(at+".urlRewrite.path", u.Path, prefix); err != nil {
				return err
			}
		}
		if c := f.CORS; c != nil {
			if c.MaxAge < 0 {
				return fmt.Errorf("%s.cors.maxAge: %d must be at least 1 second; leave it out for 5", at, c.MaxAge)
			}
			for k, o := range c.AllowOrigins {
				if o == "*" && len(c.AllowOrigins) > 1 {
					return fmt.Errorf(`%s.cors.allowOrigins[%d]: "*" is all origins; remove the others, or it`, at, k)
				}
			}
			for k, m := range c.AllowMethods {
				if m == "*" && len(c.AllowMethods) > 1 {
					return fmt.Errorf(`%s.cors.allowMethods[%d]: "*" is all methods; remove the others, or it`, at, k)
				}
			}
		}
	}
	if seen["RequestRedirect"] && seen["URLRewrite"] {
		return fmt.Errorf("%s: RequestRedirect and URLRewrite exclude each other; the path of a redirect is part of it", field)
	}
	return nil
}

func checkGRPCFilters(field string, filters []gatewayv1.GRPCRouteFilter) error {
	seen := map[string]bool{}
	for i := range filters {
		f, at := &filters[i], fmt.Sprintf("%s[%d]", field, i)
		err := checkFilter(at, string(f.Type), seen, []filterField{
			{"RequestHeaderModifier", "requestHeaderModifier", f.RequestHeaderModifier != nil},
			{"ResponseHeaderModifier", "responseHeaderModifier", f.ResponseHeaderModifier != nil},
			{"RequestMirror", "requestMirror", f.RequestMirror != nil},
			{"ExtensionRef", "extensionRef", f.ExtensionRef != nil},
		})
		if err != nil {
			return err
		}
		if err := checkHeaderFilter(at+".requestHeaderModifier", f.RequestHeaderModifier); err != nil {
			return err
		}
		if err := checkHeaderFilter(at+".responseHeaderModifier", f.ResponseHeaderModifier); err != nil {
			return err
		}
		if err := checkMirror(at+".requestMirror", f.RequestMirror); err != nil {
			return err
		}
	}
	return nil
}

// framing are fields by which messages are told apart, or which are of one connection (RFC 9110, section 7.6.1): a sidecar writes them itself.
var framing = map[string]bool{
	"connection": true, "content-length": true, "host": true, "keep-alive": true, "proxy-connection": true, "te": true, "trailer": true, "transfer-encoding": true, "upgrade": true,
}

func checkHeaderFilter(at string, f *gatewayv1.HTTPHeaderFilter) error {
	if f == nil {
		return nil
	}
	seen := map[string]bool{}
	name := func(at, name string) error {
		lower := strings.ToLower(name)
		switch {
		case name == "":
			return fmt.Errorf("%s: is required", at)
		case !tokenPattern.MatchString(name) || len(name) > 256:
			return fmt.Errorf("%s: %q is no name of a header field", at, name)
		case lower == "host":
			return fmt.Errorf("%s: host is changed by the filter URLRewrite, hostname", at)
		case framing[lower]:
			return fmt.Errorf("%s: %s is of the connection, and not for filters; remove it", at, name)
		}
		return nil
	}
	for _, list := range []struct {
		field   string
		headers []gatewayv1.HTTPHeader
	}{{"set", f.Set}, {"add", f.Add}} {
		clear(seen)
		for i, h := range list.headers {
			field := fmt.Sprintf("%s.%s[%d]", at, list.field, i)
			if err := name(field+".name", string(h.Name)); err != nil {
				return err
			}
			if seen[strings.ToLower(string(h.Name))] {
				return fmt.Errorf("%s.name: %q is named twice; join the values by commas", field, h.Name)
			}
			seen[strings.ToLower(string(h.Name))] = true
			if h.Value == "" || len(h.Value) > 4096 || strings.ContainsFunc(h.Value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) || strings.TrimSpace(h.Value) != h.Value {
				return fmt.Errorf("%s.value: %q must be 1 to 4096 bytes without control characters, and no space at either end", field, h.Value)
			}
		}
	}
	clear(seen)
	for i, n := range f.Remove {
		field := fmt.Sprintf("%s.remove[%d]", at, i)
		if err := name(field, n); err != nil {
			return err
		}
		if seen[strings.ToLower(n)] {
			return fmt.Errorf("%s: %q is named twice; keep one", field, n)
		}
		seen[strings.ToLower(n)] = true
	}
	return nil
}

func checkMirror(at string, m *gatewayv1.HTTPRequestMirrorFilter) error {
	if m == nil {
		return nil
	}
	if m.BackendRef.Name == "" {
		return fmt.Errorf("%s.backendRef.name: is required", at)
	}
	switch p, f := m.Percent, m.Fraction; {
	case p != nil && f != nil:
		return fmt.Errorf("%s: percent and fraction say the same; keep one", at)
	case p != nil && (*p < 0 || *p > 100):
		return fmt.Errorf("%s.percent: %d must be from 0 to 100", at, *p)
	case f != nil && (f.Numerator < 0 || value(f.Denominator, 100) < 1 || f.Numerator > value(f.Denominator, 100)):
		return fmt.Errorf("%s.fraction: %d of %d must be from 0 to 1", at, f.Numerator, value(f.Denominator, 100))
	}
	return nil
}

func checkPathModifier(at string, m *gatewayv1.HTTPPathModifier, prefix bool) error {
	if m == nil {
		return nil
	}
	full := m.Type == gatewayv1.FullPathHTTPPathModifier
	switch {
	case m.Type == "":
		return fmt.Errorf("%s.type: is required", at)
	case full != (m.ReplaceFullPath != nil) || full == (m.ReplacePrefixMatch != nil):
		return fmt.Errorf("%s: type %s goes with the field of its name, and no other", at, m.Type)
	case !full && !prefix:
		return fmt.Errorf("%s.replacePrefixMatch: needs a rule with exactly one match, whose path is a PathPrefix: that is what is replaced", at)
	}
	if v := value(m.ReplacePrefixMatch, value(m.ReplaceFullPath, "")); v != "" {
		return checkPath(at, v)
	}
	return nil
}

func checkSession(at string, s *gatewayv1.SessionPersistence) error {
	if s == nil {
		return nil
	}
	cookie := value(s.Type, gatewayv1.CookieBasedSessionPersistence) == gatewayv1.CookieBasedSessionPersistence
	switch {
	case s.SessionName != nil && (len(*s.SessionName) == 0 || len(*s.SessionName) > 128 || !tokenPattern.MatchString(*s.SessionName)):
		return fmt.Errorf("%s.sessionName: %q must be 1 to 128 bytes that the name of a cookie or header field can have", at, *s.SessionName)
	case s.CookieConfig != nil && !cookie:
		return fmt.Errorf("%s.cookieConfig: is of type Cookie, this is %s; remove it", at, *s.Type)
	case s.CookieConfig != nil && value(s.CookieConfig.LifetimeType, gatewayv1.SessionCookieLifetimeType) == gatewayv1.PermanentCookieLifetimeType && s.AbsoluteTimeout == nil:
		return fmt.Errorf("%s.absoluteTimeout: is required of a Permanent cookie, which lasts that long", at)
	}
	return nil
}

// value is *p, or what it is by default.
func value[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// duration reads a checked Duration.
func duration(d gatewayv1.Duration) time.Duration {
	v, _ := time.ParseDuration(string(d))
	return v
}
