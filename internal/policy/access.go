package policy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbachttpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	rbacnetworkv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/route"
)

// accessToXDS writes who may use a port twice: in the metadata as it is, for Tulle's sidecars, and as Envoy's RBAC filters
// (https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/rbac_filter), which an Envoy in their place enforces. The filters have to come before what
// answers.
func accessToXDS(r access.Rules, e extras) (deny, allow *rbacv3.RBAC, err error) {
	if r.IsZero() {
		return nil, nil, nil
	}
	text, err := json.Marshal(r)
	if err != nil {
		return nil, nil, fmt.Errorf("access: %w", err)
	}
	e.str("access", string(text))
	deny, allow = &rbacv3.RBAC{Action: rbacv3.RBAC_DENY}, &rbacv3.RBAC{Action: rbacv3.RBAC_ALLOW}
	allows := r.Closed
	for _, p := range r.Policies {
		if p.Audit {
			continue
		}
		to := allow
		if p.Action == access.Deny {
			to = deny
		} else {
			allows = true
		}
		for i, rule := range p.Rules {
			if to.Policies == nil {
				to.Policies = map[string]*rbacv3.Policy{}
			}
			to.Policies[p.Name+"/"+strconv.Itoa(i)] = &rbacv3.Policy{Principals: principals(rule.From), Permissions: permissions(rule.To)}
		}
	}
	if len(deny.Policies) == 0 {
		deny = nil
	}
	if !allows {
		allow = nil // an ALLOW without policies denies all
	}
	return deny, allow, nil
}

func accessFromXDS(r *reader) (out access.Rules) {
	text := r.str("access")
	if text == "" {
		return out
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields() // of a later version: to let pass what it would deny is worse than to refuse it as a whole
	if err := d.Decode(&out); err != nil {
		r.fail("access", "cannot be read: %v", err)
	}
	return out
}

// guardHTTP puts the filters in front of the others of an HttpConnectionManager.
func guardHTTP(m *hcmv3.HttpConnectionManager, deny, allow *rbacv3.RBAC) error {
	var filters []*hcmv3.HttpFilter
	for name, rules := range map[string]*rbacv3.RBAC{"deny": deny, "allow": allow} {
		if rules == nil {
			continue
		}
		config, err := pack(&rbachttpv3.RBAC{Rules: rules})
		if err != nil {
			return err
		}
		f := &hcmv3.HttpFilter{Name: "envoy.filters.http.rbac." + name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: config}}
		if name == "deny" {
			filters = append([]*hcmv3.HttpFilter{f}, filters...)
		} else {
			filters = append(filters, f)
		}
	}
	m.HttpFilters = append(filters, m.HttpFilters...)
	return nil
}

// guardTCP makes filters that come before a TcpProxy. Of bytes a permission that looks at a request is not known to hold: it does not allow, and it does deny.
func guardTCP(name string, deny, allow *rbacv3.RBAC) (out []*listenerv3.Filter, err error) {
	for _, rules := range []*rbacv3.RBAC{deny, allow} {
		if rules == nil {
			continue
		}
		of := &rbacv3.RBAC{Action: rules.Action}
		for key, p := range rules.Policies {
			if !everything(p.Permissions) {
				if rules.Action == rbacv3.RBAC_ALLOW {
					continue
				}
				p = &rbacv3.Policy{Principals: p.Principals, Permissions: permissions(nil)}
			}
			if of.Policies == nil {
				of.Policies = map[string]*rbacv3.Policy{}
			}
			of.Policies[key] = p
		}
		config, err := pack(&rbacnetworkv3.RBAC{StatPrefix: name, Rules: of})
		if err != nil {
			return nil, err
		}
		out = append(out, &listenerv3.Filter{
			Name: "envoy.filters.network.rbac." + strings.ToLower(rules.Action.String()), ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: config},
		})
	}
	return out, nil
}

func everything(p []*rbacv3.Permission) bool { return len(p) == 1 && p[0].GetAny() }

func principals(from []access.Caller) (out []*rbacv3.Principal) {
	if len(from) == 0 {
		return []*rbacv3.Principal{{Identifier: &rbacv3.Principal_Any{Any: true}}}
	}
	for _, c := range from {
		var all []*rbacv3.Principal
		one := func(ids []*rbacv3.Principal) {
			if len(ids) > 0 {
				all = append(all, &rbacv3.Principal{Identifier: &rbacv3.Principal_OrIds{OrIds: &rbacv3.Principal_Set{Ids: ids}}})
			}
		}
		named := func(m *matcherv3.StringMatcher) *rbacv3.Principal {
			return &rbacv3.Principal{Identifier: &rbacv3.Principal_Authenticated_{Authenticated: &rbacv3.Principal_Authenticated{PrincipalName: m}}}
		}
		var ids, namespaces, accounts, networks []*rbacv3.Principal
		for _, id := range c.Identities {
			if beginning, open := strings.CutSuffix(id, "*"); open {
				ids = append(ids, named(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: beginning}}))
			} else {
				ids = append(ids, named(&matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: id}}))
			}
		}
		for _, ns := range c.Namespaces {
			namespaces = append(namespaces, named(&matcherv3.StringMatcher{MatchPattern: safeRegex("spiffe://[^/]+/ns/" + regexp.QuoteMeta(ns) + "/sa/[^/]+")}))
		}
		for _, a := range c.Accounts {
			ns, name, _ := strings.Cut(a, "/")
			accounts = append(accounts, named(&matcherv3.StringMatcher{MatchPattern: safeRegex("spiffe://[^/]+/ns/" + regexp.QuoteMeta(ns) + "/sa/" + regexp.QuoteMeta(name))}))
		}
		for _, n := range c.Networks {
			networks = append(networks, &rbacv3.Principal{Identifier: &rbacv3.Principal_DirectRemoteIp{DirectRemoteIp: &corev3.CidrRange{
				AddressPrefix: n.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(n.Bits())),
			}}})
		}
		for _, list := range [][]*rbacv3.Principal{ids, namespaces, accounts, networks} {
			one(list)
		}
		out = append(out, &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: &rbacv3.Principal_Set{Ids: all}}})
	}
	return out
}

func permissions(to []access.Match) (out []*rbacv3.Permission) {
	if len(to) == 0 {
		return []*rbacv3.Permission{{Rule: &rbacv3.Permission_Any{Any: true}}}
	}
	for _, m := range to {
		all := []*rbacv3.Permission{{Rule: &rbacv3.Permission_Any{Any: true}}}
		if m.Method != "" {
			all = append(all, permittedHeader(":method", &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: m.Method}}))
		}
		if p := pathPattern(m.Path); p != nil {
			all = append(all, &rbacv3.Permission{Rule: &rbacv3.Permission_UrlPath{UrlPath: &matcherv3.PathMatcher{Rule: &matcherv3.PathMatcher_Path{Path: p}}}})
		}
		for _, h := range m.Headers {
			switch h.Kind {
			case route.ValueExact:
				all = append(all, permittedHeader(h.Name, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: h.Value}}))
			case route.ValueRegex:
				all = append(all, permittedHeader(h.Name, &matcherv3.StringMatcher{MatchPattern: safeRegex(h.Value)}))
			case route.ValuePresent:
				all = append(all, &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: &routev3.HeaderMatcher{
					Name: h.Name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true},
				}}})
			}
		}
		out = append(out, &rbacv3.Permission{Rule: &rbacv3.Permission_AndRules{AndRules: &rbacv3.Permission_Set{Rules: all}}})
	}
	return out
}

func permittedHeader(name string, m *matcherv3.StringMatcher) *rbacv3.Permission {
	return &rbacv3.Permission{Rule: &rbacv3.Permission_Header{Header: &routev3.HeaderMatcher{
		Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: m},
	}}}
}

// pathPattern is a path as Envoy compares it, without the query; nil: any.
func pathPattern(p route.Path) *matcherv3.StringMatcher {
	switch p.Kind {
	case route.PathExact:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: p.Value}}
	case route.PathPrefix: // by whole segments
		if prefix := strings.TrimSuffix(p.Value, "/"); prefix != "" {
			return &matcherv3.StringMatcher{MatchPattern: safeRegex(regexp.QuoteMeta(prefix) + "(/.*)?")}
		}
	case route.PathRegex:
		return &matcherv3.StringMatcher{MatchPattern: safeRegex(p.Value)}
	}
	return nil
}

// safeRegex is RE2 over the whole of a text.
func safeRegex(expression string) *matcherv3.StringMatcher_SafeRegex {
	return &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: expression}}
}
