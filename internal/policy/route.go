package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/route"
)

// RouteTargets are the services that rules send to, mirror to or ask, each once.
func RouteTargets(rules []route.Rule) []string {
	var out []string
	add := func(name string) {
		if name != "" && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for _, r := range rules {
		for _, b := range r.Action.Backends {
			add(b.Service)
		}
		for _, m := range r.Action.Mirrors {
			add(m.Service)
		}
		for _, l := range r.Action.Limits {
			add(l.Service)
		}
	}
	return out
}

// Routed are the rules for requests to a service, checked, and as they travel. Many Snapshots can have them. The zero value: none. Immutable.
type Routed struct {
	Rules    []route.Rule
	Resource Resource
	To       []string // RouteTargets, which have to come along
}

// Route gives s, which has no rules of the service of r yet, those of r, which are neither checked nor written again when s is.
func (s *Snapshot) Route(r Routed) {
	if len(r.Rules) == 0 {
		return
	}
	if s.Routes == nil {
		s.Routes = map[string][]route.Rule{}
	}
	if s.routed == nil {
		s.routed = map[string]Routed{}
	}
	s.Routes[r.Resource.Name], s.routed[r.Resource.Name] = r.Rules, r
}

// written are the rules of a service as Route gave them; false: s has others, or none.
func (s *Snapshot) written(service string) (Routed, bool) {
	r, ok := s.routed[service]
	now := s.Routes[service]
	return r, ok && len(now) == len(r.Rules) && &now[0] == &r.Rules[0]
}

// NewRouted checks and writes a service's rules; affinity as in RoutesToXDS.
func NewRouted(service string, rules []route.Rule, affinity func(service string) []AffinityKey) (Routed, error) {
	x, err := RoutesToXDS(service, rules, affinity)
	if err != nil {
		return Routed{}, err
	}
	r, err := NewResource(service, x)
	return Routed{rules, r, RouteTargets(rules)}, err
}

func checkRules(service string, rules []route.Rule) error {
	if err := route.Check(rules); err != nil {
		return fmt.Errorf("routes of service %q: %w", service, err)
	}
	return nil
}

// checkRoutes refuses rules that send to what s does not have.
func (s *Snapshot) checkRoutes() error {
	for name, rules := range s.Routes {
		if _, ok := s.Services[name]; !ok {
			return fmt.Errorf("routes of service %q: no such service in this snapshot", name)
		}
		r, ok := s.written(name)
		if !ok {
			r.To = RouteTargets(rules)
		}
		for _, to := range r.To {
			if _, ok := s.Services[to]; !ok {
				return fmt.Errorf("routes of service %q: they send to service %q, which is not in this snapshot", name, to)
			}
		}
	}
	return nil
}

func routesOut(s *Snapshot, put func(string, proto.Message)) error {
	for name, rules := range s.Routes {
		if _, ok := s.written(name); ok || len(rules) == 0 {
			continue
		}
		x, err := RoutesToXDS(name, rules, func(service string) []AffinityKey { return s.Services[service].Balancer.Affinity })
		if err != nil {
			return err
		}
		put(name, x)
	}
	return nil
}

func routesIn(s *Snapshot, name string, body *anypb.Any) error {
	x, err := unpack(body, &routev3.RouteConfiguration{})
	if err != nil {
		return err
	}
	service, rules, err := RoutesFromXDS(x)
	if err != nil {
		return err
	}
	if s.Routes == nil {
		s.Routes = map[string][]route.Rule{}
	}
	s.Routes[service] = rules
	return sameName("route", name, service)
}

// RoutesToXDS maps the rules for requests to a service to an Envoy route configuration of that name, in which a stock Envoy finds a route for each match, by precedence, and
// last one to the service itself. What of an action it has no field for, and the rules as they were written, stand in the metadata, which is all that sidecars of Tulle
// read. affinity is by what the requests of a service are kept together; nil: by nothing.
func RoutesToXDS(service string, rules []route.Rule, affinity func(service string) []AffinityKey) (*routev3.RouteConfiguration, error) {
	if err := checkRules(service, rules); err != nil {
		return nil, err
	}
	if affinity == nil {
		affinity = func(string) []AffinityKey { return nil }
	}
	e := extras{}
	e.rules("rules", rules)
	host := &routev3.VirtualHost{Name: service, Domains: []string{"*"}}
	var err error
	if host.Routes, err = rulesToXDS(rules, affinity); err != nil {
		return nil, fmt.Errorf("routes of service %q: %w", service, err)
	}
	host.Routes = append(host.Routes, &routev3.Route{
		Match: matchToXDS(nil),
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: service}, HashPolicy: hashPolicies(affinity(service)),
		}},
	})
	x := routeConfiguration(service)
	x.VirtualHosts, x.Metadata = []*routev3.VirtualHost{host}, e.metadata()
	return x, nil
}

// routeConfiguration is one in which Envoy takes all that rules can say: long bodies of responses, and noBackend, which is no cluster.
func routeConfiguration(name string) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{Name: name, MaxDirectResponseBodySizeBytes: wrapperspb.UInt32(route.MaxBody), ValidateClusters: wrapperspb.Bool(false)}
}

// corsHTTPFilter acts on the CORS of routes.
func corsHTTPFilter() (*hcmv3.HttpFilter, error) {
	cors, err := pack(&corsv3.Cors{})
	return &hcmv3.HttpFilter{Name: corsFilter, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: cors}}, err
}

// RoutesFromXDS is the inverse of RoutesToXDS. It reads the metadata only.
func RoutesFromXDS(x *routev3.RouteConfiguration) (service string, rules []route.Rule, err error) {
	r := read(x.GetMetadata())
	rules = r.rules("rules")
	switch {
	case r.err != nil:
		return "", nil, fmt.Errorf("routes of service %q: %w", x.GetName(), r.err)
	case len(rules) == 0:
		return "", nil, fmt.Errorf("routes of service %q: metadata %s.rules: is missing; routes of another control plane are not known to this sidecar", x.GetName(), MetadataNamespace)
	}
	return x.GetName(), rules, checkRules(x.GetName(), rules)
}

// rulesToXDS are a route for each match of checked rules, by precedence. See RoutesToXDS.
func rulesToXDS(rules []route.Rule, affinity func(service string) []AffinityKey) (out []*routev3.Route, err error) {
	for _, c := range route.ByPrecedence(rules) {
		r, err := routeToXDS(c, affinity)
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", c.Rule.Name, err)
		}
		out = append(out, r)
	}
	return out, nil
}

func routeToXDS(c route.Candidate, affinity func(service string) []AffinityKey) (*routev3.Route, error) {
	var m *route.Match
	if c.Match >= 0 {
		m = &c.Rule.Matches[c.Match]
	}
	a := &c.Rule.Action
	x := &routev3.Route{Name: c.Rule.Name, Match: matchToXDS(m)}
	x.RequestHeadersToAdd, x.RequestHeadersToRemove = editsToXDS(a.Request)
	x.ResponseHeadersToAdd, x.ResponseHeadersToRemove = editsToXDS(a.Response)
	switch {
	case a.Redirect != nil:
		x.Action = &routev3.Route_Redirect{Redirect: redirectToXDS(a.Redirect, m)}
	case a.Respond != nil:
		respond(x, a.Respond.Status, a.Respond.Body)
		if a.Respond.Type != "" {
			x.ResponseHeadersToAdd = append(x.ResponseHeadersToAdd, headerOption("content-type", a.Respond.Type, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD))
		}
	default:
		to := actionToXDS(a, m)
		if to == nil {
			respond(x, 500, "")
			break
		}
		to.HashPolicy = hashPolicies(affinity(a.Backends[0].Service))
		x.Action = &routev3.Route_Route{Route: to}
	}
	if a.CORS != nil {
		body, err := pack(corsToXDS(a.CORS))
		if err != nil {
			return nil, err
		}
		x.TypedPerFilterConfig = map[string]*anypb.Any{corsFilter: body}
	}
	return x, nil
}

func matchToXDS(m *route.Match) *routev3.RouteMatch {
	x := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	if m == nil {
		return x
	}
	switch m.Path.Kind {
	case route.PathPrefix:
		if p := strings.TrimSuffix(m.Path.Value, "/"); p != "" {
			x.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: p}
		}
	case route.PathExact:
		x.PathSpecifier = &routev3.RouteMatch_Path{Path: m.Path.Value}
	case route.PathRegex:
		x.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: m.Path.Value}}
	}
	if m.Method != "" {
		x.Headers = append(x.Headers, headerMatcher(":method", route.Value{Value: m.Method}))
	}
	for _, v := range m.Headers {
		name := v.Name
		if name == "host" {
			name = ":authority"
		}
		x.Headers = append(x.Headers, headerMatcher(name, v))
	}
	for _, v := range m.Query {
		q := &routev3.QueryParameterMatcher{Name: v.Name, QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_StringMatch{StringMatch: stringMatcher(v)}}
		if v.Kind == route.ValuePresent {
			q.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: true}
		}
		x.QueryParameters = append(x.QueryParameters, q)
	}
	return x
}

func headerMatcher(name string, v route.Value) *routev3.HeaderMatcher {
	if v.Kind == route.ValuePresent {
		return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
	}
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: stringMatcher(v)}}
}

func stringMatcher(v route.Value) *matcherv3.StringMatcher {
	if v.Kind == route.ValueRegex {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: v.Value}}}
	}
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: v.Value}}
}

// noBackend is the cluster of a share that has no valid backend: there is none of this name, which has a space, and Envoy answers with 500.
const noBackend = "no backend"

// actionToXDS is what sends requests on; nil: there is nothing to send to.
func actionToXDS(a *route.Action, m *route.Match) *routev3.RouteAction {
	x := &routev3.RouteAction{ClusterNotFoundResponseCode: routev3.RouteAction_INTERNAL_SERVER_ERROR}
	weighted := &routev3.WeightedCluster{}
	for _, b := range a.Backends {
		if b.Weight == 0 {
			continue
		}
		w := &routev3.WeightedCluster_ClusterWeight{Name: b.Service, Weight: wrapperspb.UInt32(b.Weight), MetadataMatch: subsetToXDS(b.Subset)}
		if b.Service == "" {
			w.Name = noBackend
		}
		w.RequestHeadersToAdd, w.RequestHeadersToRemove = editsToXDS(b.Request)
		w.ResponseHeadersToAdd, w.ResponseHeadersToRemove = editsToXDS(b.Response)
		weighted.Clusters = append(weighted.Clusters, w)
	}
	if len(weighted.Clusters) == 0 {
		return nil
	}
	x.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: weighted}
	if h := a.Rewrite.Authority; h != "" {
		x.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: h}
	}
	if p := a.Rewrite.Path; p.Set {
		if prefix, ok := prefixEdit(p, m); ok {
			x.PrefixRewrite = prefix
		} else {
			x.RegexRewrite = pathEdit(p, m)
		}
	}
	for _, to := range a.Mirrors {
		x.RequestMirrorPolicies = append(x.RequestMirrorPolicies, &routev3.RouteAction_RequestMirrorPolicy{
			Cluster: to.Service, RuntimeFraction: &corev3.RuntimeFractionalPercent{DefaultValue: &typev3.FractionalPercent{
				Numerator: to.PPM, Denominator: typev3.FractionalPercent_MILLION,
			}},
		})
	}
	timeout := func(d time.Duration, set func(*durationpb.Duration)) {
		if d != 0 {
			set(durationpb.New(max(d, 0))) // 0 is off
		}
	}
	timeout(a.Timeouts.Request, func(d *durationpb.Duration) { x.Timeout = d })
	timeout(a.Timeouts.Idle, func(d *durationpb.Duration) { x.IdleTimeout = d })
	timeout(a.Timeouts.Stream, func(d *durationpb.Duration) {
		x.MaxStreamDuration = &routev3.RouteAction_MaxStreamDuration{MaxStreamDuration: d}
	})
	if a.Retry != nil || a.Timeouts.Try != 0 {
		x.RetryPolicy = &routev3.RetryPolicy{}
		timeout(a.Timeouts.Try, func(d *durationpb.Duration) { x.RetryPolicy.PerTryTimeout = d })
		retryToXDS(a.Retry, x.RetryPolicy)
	}
	return x
}

func retryToXDS(r *route.Retry, x *routev3.RetryPolicy) {
	if r == nil {
		return
	}
	x.RetryOn = "connect-failure,refused-stream"
	for _, s := range r.Statuses {
		x.RetriableStatusCodes = append(x.RetriableStatusCodes, uint32(s))
	}
	if len(r.Statuses) > 0 {
		x.RetryOn += ",retriable-status-codes"
	}
	if r.Attempts > 0 {
		x.NumRetries = wrapperspb.UInt32(uint32(r.Attempts - 1))
	}
	if r.Backoff > 0 {
		x.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: durationpb.New(r.Backoff)}
	}
}

// prefixEdit is a replacement of the prefix that m matched, where Envoy's does the same as ours.
func prefixEdit(p route.PathEdit, m *route.Match) (string, bool) {
	to := strings.TrimSuffix(p.Value, "/")
	matched := ""
	if m != nil {
		matched = strings.TrimSuffix(m.Path.Value, "/")
	}
	return to, p.Prefix && to != "" && matched != ""
}

// pathEdit is a replacement by regular expression of what prefixEdit has no word for: the whole path, or a prefix by, or of, "/".
func pathEdit(p route.PathEdit, m *route.Match) *matcherv3.RegexMatchAndSubstitute {
	to := strings.ReplaceAll(p.Value, `\`, `\\`)
	if !p.Prefix {
		return &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: "^.*$"}, Substitution: to}
	}
	matched := ""
	if m != nil {
		matched = strings.TrimSuffix(m.Path.Value, "/")
	}
	return &matcherv3.RegexMatchAndSubstitute{
		Pattern: &matcherv3.RegexMatcher{Regex: "^" + regexp.QuoteMeta(matched) + "/*"}, Substitution: strings.TrimSuffix(to, "/") + "/",
	}
}

func redirectToXDS(r *route.Redirect, m *route.Match) *routev3.RedirectAction {
	x := &routev3.RedirectAction{HostRedirect: r.Authority, PortRedirect: uint32(r.Port)}
	if r.Scheme != "" {
		x.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: r.Scheme}
	}
	if p := r.Path; p.Set {
		if prefix, ok := prefixEdit(p, m); ok {
			x.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: prefix}
		} else {
			x.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{RegexRewrite: pathEdit(p, m)}
		}
	}
	x.ResponseCode = map[int]routev3.RedirectAction_RedirectResponseCode{
		301: routev3.RedirectAction_MOVED_PERMANENTLY, 302: routev3.RedirectAction_FOUND, 303: routev3.RedirectAction_SEE_OTHER,
		307: routev3.RedirectAction_TEMPORARY_REDIRECT, 308: routev3.RedirectAction_PERMANENT_REDIRECT,
	}[r.Status]
	return x
}

func respond(x *routev3.Route, status int, body string) {
	d := &routev3.DirectResponseAction{Status: uint32(status)}
	if body != "" {
		d.Body = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: body}}
	}
	x.Action = &routev3.Route_DirectResponse{DirectResponse: d}
}

func editsToXDS(e route.Edits) (add []*corev3.HeaderValueOption, remove []string) {
	for _, f := range e.Set {
		add = append(add, headerOption(f.Name, f.Value, corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD))
	}
	for _, f := range e.Add {
		add = append(add, headerOption(f.Name, f.Value, corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD))
	}
	return add, e.Remove
}

// headerOption sets a field to a value as it stands: % begins a command of Envoy's.
func headerOption(name, value string, action corev3.HeaderValueOption_HeaderAppendAction) *corev3.HeaderValueOption {
	return &corev3.HeaderValueOption{Header: &corev3.HeaderValue{Key: name, Value: strings.ReplaceAll(value, "%", "%%")}, AppendAction: action, KeepEmptyValue: true}
}

// subsetToXDS is a subset by its name, as Envoy selects one.
func subsetToXDS(name string) *corev3.Metadata {
	if name == "" {
		return nil
	}
	fields := map[string]*structpb.Value{}
	for _, pair := range strings.Split(name, ",") {
		k, v, _ := strings.Cut(pair, "=")
		fields[k] = structpb.NewStringValue(v)
	}
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{lbMetadata: {Fields: fields}}}
}

// corsFilter is the filter of Envoy that acts on CORS.
const corsFilter = "envoy.filters.http.cors"

func corsToXDS(c *route.CORS) *corsv3.CorsPolicy {
	x := &corsv3.CorsPolicy{
		AllowMethods: strings.Join(c.Methods, ","), AllowHeaders: strings.Join(c.Headers, ","), ExposeHeaders: strings.Join(c.Expose, ","),
		MaxAge: strconv.Itoa(int(c.MaxAge / time.Second)),
	}
	if c.MaxAge == 0 {
		x.MaxAge = ""
	}
	if c.Credentials {
		x.AllowCredentials = wrapperspb.Bool(true)
	}
	for _, o := range c.Origins {
		v := route.Value{Value: o}
		switch {
		case o == "*":
			v = route.Value{Kind: route.ValueRegex, Value: ".*"}
		case strings.Contains(o, "://*."):
			v = route.Value{Kind: route.ValueRegex, Value: strings.Replace(regexp.QuoteMeta(o), `://\*`, `://.+`, 1)}
		}
		x.AllowOriginStringMatch = append(x.AllowOriginStringMatch, stringMatcher(v))
	}
	return x
}
