package resource

import (
	"fmt"
	"reflect"
	"strings"
)

// Field is what becomes of a field of the Gateway API. It speaks for all fields below it that have no row of their own.
type Field struct {
	Path        string // "spec.rules[].matches[].path.type"
	Unsupported string // why it does nothing, and what to do instead; "": it is honoured
	Note        string // how it is honoured, where that is not plain
}

// What every object has.
var objectFields = []Field{
	{Path: "apiVersion"},
	{Path: "kind"},
	{Path: "metadata", Note: "`name`, `namespace` and `labels` as everywhere; `creationTimestamp` decides between equals; the rest is Kubernetes' own"},
}

var statusField = Field{Path: "status", Note: "is not read: the controller says its own"}

func parentFields(spec string) []Field {
	return []Field{
		{Path: spec + ".parentRefs[].group"},
		{Path: spec + ".parentRefs[].kind", Note: "`Gateway`; `Service` (group `\"\"`): in files the Workloads, or the ExternalService, of that name; `ExternalService` (group `tulle.dev`)"},
		{Path: spec + ".parentRefs[].namespace", Note: "of a Service in another namespace: the route is its callers' in the route's namespace (consumer route)"},
		{Path: spec + ".parentRefs[].name"},
		{Path: spec + ".parentRefs[].sectionName", Note: "of a Gateway its listener, of a Service its port's name"},
		{Path: spec + ".parentRefs[].port", Note: "of a Service a number at which its instances listen"},
		{Path: spec + ".useDefaultGateways", Unsupported: "no Gateway is a default one; name Gateways in parentRefs"},
	}
}

func backendFields(at string) []Field {
	return []Field{
		{Path: at + ".group"},
		{Path: at + ".kind", Note: "`Service`; of group `tulle.dev` `ExternalService` and `Subset`"},
		{Path: at + ".name"},
		{Path: at + ".namespace", Note: "another one takes a ReferenceGrant there, unless the Service is a parent of the route"},
		{Path: at + ".port", Note: "a number at which the service's instances listen; default: its first port"},
	}
}

func headerFields(at string) []Field {
	return []Field{
		{Path: at + ".set[].name"}, {Path: at + ".set[].value"}, {Path: at + ".add[].name"}, {Path: at + ".add[].value"}, {Path: at + ".remove"},
	}
}

func mirrorFields(at string) []Field {
	return append(backendFields(at+".requestMirror.backendRef"),
		Field{Path: at + ".requestMirror.percent"},
		Field{Path: at + ".requestMirror.fraction.numerator"},
		Field{Path: at + ".requestMirror.fraction.denominator"})
}

// perBackend is why a filter of a single backend is not done.
const perBackend = "is not done for single backends; make it a filter of the rule"

func sessionFields(at string) []Field {
	return []Field{
		{Path: at + ".sessionName", Note: "default: `tulle-session-` and a hash of the rule's name"},
		{Path: at + ".absoluteTimeout"},
		{Path: at + ".type"},
		{Path: at + ".cookieConfig.lifetimeType"},
	}
}

func httpFilterFields(at string, rule bool) []Field {
	out := []Field{{Path: at + ".type"}}
	out = append(out, headerFields(at+".requestHeaderModifier")...)
	out = append(out, headerFields(at+".responseHeaderModifier")...)
	if !rule {
		for _, f := range []string{"requestMirror", "requestRedirect", "urlRewrite", "cors"} {
			out = append(out, Field{Path: at + "." + f, Unsupported: perBackend})
		}
	} else {
		out = append(out, mirrorFields(at)...)
		for _, f := range []string{
			"requestRedirect.scheme", "requestRedirect.hostname", "requestRedirect.path.type", "requestRedirect.path.replaceFullPath", "requestRedirect.path.replacePrefixMatch",
			"requestRedirect.port", "requestRedirect.statusCode", "urlRewrite.hostname", "urlRewrite.path.type", "urlRewrite.path.replaceFullPath", "urlRewrite.path.replacePrefixMatch",
			"cors.allowOrigins", "cors.allowCredentials", "cors.allowMethods", "cors.allowHeaders", "cors.exposeHeaders", "cors.maxAge",
		} {
			out = append(out, Field{Path: at + "." + f})
		}
	}
	return append(out, append(extensionFields(at, rule), Field{Path: at + ".externalAuth", Unsupported: noExternalAuth})...)
}

func grpcFilterFields(at string, rule bool) []Field {
	out := []Field{{Path: at + ".type"}}
	out = append(out, headerFields(at+".requestHeaderModifier")...)
	out = append(out, headerFields(at+".responseHeaderModifier")...)
	if rule {
		out = append(out, mirrorFields(at)...)
	} else {
		out = append(out, Field{Path: at + ".requestMirror", Unsupported: perBackend})
	}
	return append(out, extensionFields(at, rule)...)
}

func extensionFields(at string, rule bool) []Field {
	if !rule {
		return []Field{{Path: at + ".extensionRef", Unsupported: noCallers}}
	}
	return []Field{
		{Path: at + ".extensionRef.group", Note: "`tulle.dev`"}, {Path: at + ".extensionRef.kind", Note: "`Callers`: the rule is for their requests alone"}, {Path: at + ".extensionRef.name"},
	}
}

func join(lists ...[]Field) (out []Field) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// HTTPRouteFields are what becomes of the fields of an HTTPRoute.
var HTTPRouteFields = join(
	objectFields, parentFields("spec"),
	[]Field{
		{Path: "spec.hostnames", Note: "of Gateways, as far as they are the listener's too; where the parent is a Service they are not looked at, and a warning says so"},
		{Path: "spec.rules[].name", Note: "the rule is `NAMESPACE/NAME/RULE` in Records; without a name `NAMESPACE/NAME[INDEX]`"},
		{Path: "spec.rules[].matches[].path.type", Note: "regular expressions are RE2 and are of the whole path"},
		{Path: "spec.rules[].matches[].path.value"},
		{Path: "spec.rules[].matches[].headers[].type"},
		{Path: "spec.rules[].matches[].headers[].name"},
		{Path: "spec.rules[].matches[].headers[].value"},
		{Path: "spec.rules[].matches[].queryParams[].type"},
		{Path: "spec.rules[].matches[].queryParams[].name"},
		{Path: "spec.rules[].matches[].queryParams[].value"},
		{Path: "spec.rules[].matches[].method"},
	},
	httpFilterFields("spec.rules[].filters[]", true),
	backendFields("spec.rules[].backendRefs[]"),
	[]Field{{Path: "spec.rules[].backendRefs[].weight"}},
	httpFilterFields("spec.rules[].backendRefs[].filters[]", false),
	[]Field{
		{Path: "spec.rules[].timeouts.request", Note: "default: the service's; `0s` is none"},
		{Path: "spec.rules[].timeouts.backendRequest", Note: "one try; default: the service's; `0s` is none"},
		{Path: "spec.rules[].retry.codes", Note: "are safe to try again, whatever the method"},
		{Path: "spec.rules[].retry.attempts", Note: "after the first try; at most 9 count"},
		{Path: "spec.rules[].retry.backoff", Note: "the first wait, at most"},
	},
	sessionFields("spec.rules[].sessionPersistence"),
	[]Field{statusField},
)

// GRPCRouteFields are what becomes of the fields of a GRPCRoute.
var GRPCRouteFields = join(
	objectFields, parentFields("spec"),
	[]Field{
		{Path: "spec.hostnames", Note: "as of an HTTPRoute"},
		{Path: "spec.rules[].name", Note: "as of an HTTPRoute"},
		{Path: "spec.rules[].matches[].method.type"},
		{Path: "spec.rules[].matches[].method.service"},
		{Path: "spec.rules[].matches[].method.method"},
		{Path: "spec.rules[].matches[].headers[].type"},
		{Path: "spec.rules[].matches[].headers[].name"},
		{Path: "spec.rules[].matches[].headers[].value"},
	},
	grpcFilterFields("spec.rules[].filters[]", true),
	backendFields("spec.rules[].backendRefs[]"),
	[]Field{{Path: "spec.rules[].backendRefs[].weight"}},
	grpcFilterFields("spec.rules[].backendRefs[].filters[]", false),
	sessionFields("spec.rules[].sessionPersistence"),
	[]Field{statusField},
)

// TCPRouteFields are what becomes of the fields of a TCPRoute.
var TCPRouteFields = join(
	objectFields, parentFields("spec"), []Field{{Path: "spec.rules[].name", Note: "as of an HTTPRoute; the first rule is for all connections, others do nothing and are reported"}},
	backendFields("spec.rules[].backendRefs[]"), []Field{{Path: "spec.rules[].backendRefs[].weight", Note: "of connections"}, statusField},
)

// TLSRouteFields are what becomes of the fields of a TLSRoute.
var TLSRouteFields = join(
	objectFields, parentFields("spec"), []Field{
		{Path: "spec.hostnames", Note: "of the SNI; of Gateways, as far as they are the listener's too; where the parent is a Service they are not looked at, and a warning says so"},
		{Path: "spec.rules[].name", Note: "as of an HTTPRoute"},
	},
	backendFields("spec.rules[].backendRefs[]"), []Field{{Path: "spec.rules[].backendRefs[].weight", Note: "of connections"}, statusField},
)

// BackendTLSPolicyFields are what becomes of the fields of a BackendTLSPolicy.
var BackendTLSPolicyFields = join(objectFields, []Field{
	{Path: "spec.targetRefs[].group"},
	{Path: "spec.targetRefs[].kind", Note: "`Service`, in files an ExternalService of that name; `ExternalService` (group `tulle.dev`). Between sidecars there is mTLS already"},
	{Path: "spec.targetRefs[].name"},
	{Path: "spec.targetRefs[].sectionName", Unsupported: "ports of an ExternalService have no names; leave it out"},
	{Path: "spec.validation.caCertificateRefs[].group"},
	{Path: "spec.validation.caCertificateRefs[].kind", Note: "`ConfigMap` and `Secret`: in files the TLSFiles of that name; `TLSFiles` (group `tulle.dev`); one"},
	{Path: "spec.validation.caCertificateRefs[].name"},
	{Path: "spec.validation.wellKnownCACertificates", Note: "`System`"},
	{Path: "spec.validation.hostname", Note: "is sent as SNI, and what the certificate must be for unless there are subjectAltNames"},
	{Path: "spec.validation.subjectAltNames[].type"},
	{Path: "spec.validation.subjectAltNames[].hostname", Note: "`*.example.com` is every host below it"},
	{Path: "spec.validation.subjectAltNames[].uri"},
	{Path: "spec.options", Note: "`" + optionMinVersion + "`: `\"1.2\"` (default) or `\"1.3\"`; others are reported"},
	statusField,
})

// ReferenceGrantFields are what becomes of the fields of a ReferenceGrant.
var ReferenceGrantFields = join(objectFields, []Field{
	{Path: "spec.from[].group"}, {Path: "spec.from[].kind"}, {Path: "spec.from[].namespace"}, {Path: "spec.to[].group"}, {Path: "spec.to[].kind"}, {Path: "spec.to[].name"},
})

// GatewayClassFields are what becomes of the fields of a GatewayClass.
var GatewayClassFields = join(objectFields, []Field{
	{Path: "spec.controllerName", Note: "Tulle's is `" + ControllerName + "`; Gateways of other classes are left alone"},
	{Path: "spec.parametersRef", Unsupported: "a class has no parameters; say them of the edge's Workload"},
	{Path: "spec.description", Note: "is for people"},
	statusField,
})

// gatewayFields are what becomes of the fields of a Gateway.
var gatewayFields = join(objectFields, []Field{
	{Path: "spec.gatewayClassName", Note: "`tulle` is there without being written"},
	{Path: "spec.listeners[].name"},
	{Path: "spec.listeners[].hostname"},
	{Path: "spec.listeners[].port"},
	{Path: "spec.listeners[].protocol", Note: "`HTTP`, `HTTPS`, `TLS`, `TCP`; one of them at a port"},
	{Path: "spec.listeners[].tls.mode", Note: "one of them at a port"},
	{Path: "spec.listeners[].tls.certificateRefs[].group"},
	{Path: "spec.listeners[].tls.certificateRefs[].kind", Note: "`Secret`: in files the [TLSFiles](configuration.md#tlsfiles) of that name; `TLSFiles` (group `tulle.dev`)"},
	{Path: "spec.listeners[].tls.certificateRefs[].name"},
	{Path: "spec.listeners[].tls.certificateRefs[].namespace", Note: "another one takes a ReferenceGrant there"},
	{Path: "spec.listeners[].tls.options", Note: "`" + optionMinVersion + "`: `\"1.2\"` (default) or `\"1.3\"`, the higher of those at a port; others are reported"},
	{Path: "spec.listeners[].allowedRoutes.namespaces.from"},
	{Path: "spec.listeners[].allowedRoutes.namespaces.selector.matchLabels", Note: "of a [Namespace](#namespace)"},
	{Path: "spec.listeners[].allowedRoutes.namespaces.selector.matchExpressions[].key"},
	{Path: "spec.listeners[].allowedRoutes.namespaces.selector.matchExpressions[].operator"},
	{Path: "spec.listeners[].allowedRoutes.namespaces.selector.matchExpressions[].values"},
	{Path: "spec.listeners[].allowedRoutes.kinds[].group"},
	{Path: "spec.listeners[].allowedRoutes.kinds[].kind"},
	{Path: "spec.addresses", Unsupported: "addresses are those of the Workloads that serve the Gateway, spec.edge.gateway.address"},
	{Path: "spec.infrastructure", Unsupported: "nothing is set up for a Gateway; it is served by the Workloads that name it in spec.edge.gateway"},
	{Path: "spec.allowedListeners", Unsupported: "ListenerSets are not read; write the listeners here"},
	{Path: "spec.tls.backend", Unsupported: "is not one for all services; say spec.tls of the ExternalService"},
	{Path: "spec.tls.frontend.default.validation.caCertificateRefs[].group"},
	{Path: "spec.tls.frontend.default.validation.caCertificateRefs[].kind", Note: "`ConfigMap` and `Secret`: in files the TLSFiles of that name; `TLSFiles` (group `tulle.dev`); one"},
	{Path: "spec.tls.frontend.default.validation.caCertificateRefs[].name"},
	{Path: "spec.tls.frontend.default.validation.caCertificateRefs[].namespace", Note: "another one takes a ReferenceGrant there"},
	{Path: "spec.tls.frontend.default.validation.mode", Note: "`AllowInsecureFallback`: without a certificate callers are let in; one that they present must be valid"},
	{Path: "spec.tls.frontend.perPort[].port"},
	{Path: "spec.tls.frontend.perPort[].tls.validation.caCertificateRefs[].group"},
	{Path: "spec.tls.frontend.perPort[].tls.validation.caCertificateRefs[].kind", Note: "as of `default`"},
	{Path: "spec.tls.frontend.perPort[].tls.validation.caCertificateRefs[].name"},
	{Path: "spec.tls.frontend.perPort[].tls.validation.caCertificateRefs[].namespace"},
	{Path: "spec.tls.frontend.perPort[].tls.validation.mode", Note: "as of `default`"},
	{Path: "spec.defaultScope", Unsupported: "no Gateway is a default one; routes name theirs in parentRefs"},
	statusField,
})

// NamespaceFields are what becomes of the fields of a Namespace.
var NamespaceFields = []Field{
	{Path: "apiVersion"}, {Path: "kind"}, {Path: "metadata", Note: "`name` and `labels`"}, {Path: "spec.finalizers", Note: "is Kubernetes' own"}, {Path: "status", Note: "is not read"},
}

// GatewayFields are the tables by kind.
var GatewayFields = map[string][]Field{
	"GatewayClass": GatewayClassFields, "Gateway": gatewayFields, "Namespace": NamespaceFields,
	"HTTPRoute": HTTPRouteFields, "GRPCRoute": GRPCRouteFields, "ReferenceGrant": ReferenceGrantFields,
	"BackendTLSPolicy": BackendTLSPolicyFields, "TCPRoute": TCPRouteFields, "TLSRoute": TLSRouteFields,
}

// note is what a person is told of a field that does nothing.
type note struct {
	text string // "spec.useDefaultGateways: …"
	said string // of a filter: how a condition may already have said it; "" else
}

// unsupported names what o sets and nothing honours, with the reason.
func unsupported(fields []Field, o GatewayObject) (out []note) {
	reasons := map[string]string{}
	for _, f := range fields {
		if f.Unsupported != "" {
			reasons[f.Path] = f.Unsupported
		}
	}
	walkSet(reflect.ValueOf(o), "", "", func(path, general string) bool {
		reason, bad := reasons[general]
		if bad {
			n := note{text: path + ": " + reason}
			if reason == perBackend {
				n.said = path[:strings.LastIndexByte(path, '.')] + ": "
			}
			out = append(out, n)
		}
		return !bad
	})
	return out
}

// walkSet calls visit for every field that is set, with its path and its path without indices; false: it need not look further down.
func walkSet(v reflect.Value, path, general string, visit func(path, general string) bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			walkSet(v.Elem(), path, general, visit)
		}
	case reflect.Struct:
		if readsItself(v.Type()) {
			return
		}
		for i := range v.NumField() {
			if v.Field(i).IsZero() {
				continue
			}
			name, inline := fieldName(v.Type().Field(i))
			if inline {
				walkSet(v.Field(i), path, general, visit)
				continue
			}
			at, all := strings.TrimPrefix(path+"."+name, "."), strings.TrimPrefix(general+"."+name, ".")
			if visit(at, all) {
				walkSet(v.Field(i), at, all, visit)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			walkSet(v.Index(i), fmt.Sprintf("%s[%d]", path, i), general+"[]", visit)
		}
	}
}
