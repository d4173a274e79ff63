package resource

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"

	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// BackendTLS is how a service outside the mesh is called by a BackendTLSPolicy.
type BackendTLS struct {
	TLS    *policy.ClientTLS
	Broken bool // its trust anchors are not there: the service is not called at all
}

func (p *BackendTLSPolicy) check() error {
	if err := checkObject(p); err != nil {
		return err
	}
	if len(p.Spec.TargetRefs) == 0 {
		return fmt.Errorf("spec.targetRefs: needs at least one; say which service is called by TLS")
	}
	seen := map[gatewayv1.LocalPolicyTargetReference]map[gatewayv1.SectionName]bool{}
	for i, r := range p.Spec.TargetRefs {
		at, section := fmt.Sprintf("spec.targetRefs[%d]", i), value(r.SectionName, "")
		if r.Kind == "" || r.Name == "" {
			return fmt.Errorf("%s: kind and name are required", at)
		}
		others := seen[r.LocalPolicyTargetReference]
		if others[section] || len(others) > 0 && (section == "" || others[""]) {
			return fmt.Errorf("%s: %s %s is referred to twice; remove one, or give each a sectionName of its own", at, r.Kind, r.Name)
		}
		if others == nil {
			seen[r.LocalPolicyTargetReference] = map[gatewayv1.SectionName]bool{}
		}
		seen[r.LocalPolicyTargetReference][section] = true
	}
	v := &p.Spec.Validation
	switch known := value(v.WellKnownCACertificates, ""); {
	case v.Hostname == "":
		return fmt.Errorf("spec.validation.hostname: is required; it is sent as SNI, and what the certificate must be for")
	case (len(v.CACertificateRefs) > 0) == (known != ""):
		return fmt.Errorf("spec.validation: give trust anchors by caCertificateRefs or by wellKnownCACertificates, and by one of them")
	}
	for i, r := range v.CACertificateRefs {
		if r.Kind == "" || r.Name == "" {
			return fmt.Errorf("spec.validation.caCertificateRefs[%d]: kind and name are required", i)
		}
	}
	for i, n := range v.SubjectAltNames {
		at := fmt.Sprintf("spec.validation.subjectAltNames[%d]", i)
		switch {
		case n.Type == gatewayv1.HostnameSubjectAltNameType && (n.Hostname == "" || n.URI != ""), n.Type == gatewayv1.URISubjectAltNameType && (n.URI == "" || n.Hostname != ""), n.Type == "":
			return fmt.Errorf("%s: type Hostname goes with hostname, type URI with uri, and with nothing else", at)
		case n.URI != "":
			if u, err := url.Parse(string(n.URI)); err != nil || u.Scheme == "" || u.Host == "" {
				return fmt.Errorf("%s.uri: %q is no URI such as spiffe://example.com/api", at, n.URI)
			}
		}
	}
	if v, ok := p.Spec.Options[optionMinVersion]; ok {
		if _, err := policy.ParseTLSVersion(string(v)); err != nil {
			return fmt.Errorf("spec.options[%s]: %w", optionMinVersion, err)
		}
	}
	return nil
}

// backendTLS finds what BackendTLSPolicies say of services. Of two for one service the older counts.
func (t *attaching) backendTLS(entries []Entry) {
	var list []Entry
	for _, e := range entries {
		if _, ok := e.Object.(*BackendTLSPolicy); ok {
			list = append(list, e)
		}
	}
	slices.SortStableFunc(list, func(a, b Entry) int { return older(a.Object.(*BackendTLSPolicy), b.Object.(*BackendTLSPolicy)) })
	taken := map[string]Key{}
	for _, e := range list {
		p := e.Object.(*BackendTLSPolicy)
		s := Status{Key: p.Key(), Position: e.Position}
		b, common := t.originate(p)
		for _, r := range p.Spec.TargetRefs {
			kind, name := groupKind(string(r.Group), string(r.Kind)), string(r.Name)
			status := ParentStatus{Parent: kind + " " + p.GetNamespace() + "/" + name}
			conditions := slices.Clone(common)
			reason, why := t.tlsTarget(p, r, b, taken)
			if why != "" {
				conditions.set("Accepted", false, reason, why)
			} else {
				if taken[name] = p.Key(); t.set.TLS == nil {
					t.set.TLS = map[string]BackendTLS{}
				}
				t.set.TLS[name] = b
			}
			status.Conditions = conditions
			s.Parents = append(s.Parents, status)
		}
		t.set.Statuses = append(t.set.Statuses, s)
	}
}

// tlsTarget says why p cannot be for what r names; "": it is.
func (t *attaching) tlsTarget(p *BackendTLSPolicy, r gatewayv1.LocalPolicyTargetReferenceWithSectionName, b BackendTLS, taken map[string]Key) (reason, why string) {
	name := string(r.Name)
	owner, failed := t.service(string(r.Group), string(r.Kind), p.GetNamespace(), name)
	switch {
	case failed != nil:
		return string(gatewayv1.PolicyReasonTargetNotFound), failed.message
	case !owner.external:
		return string(gatewayv1.PolicyReasonInvalid), fmt.Sprintf("service %q is one of the mesh, and between sidecars there is mTLS already; remove the policy", name)
	case r.SectionName != nil:
		return string(gatewayv1.PolicyReasonTargetNotFound), fmt.Sprintf("service %q has no port %q: those of an ExternalService have no names; leave sectionName out", name, *r.SectionName)
	case taken[name] != Key{}:
		return string(gatewayv1.PolicyReasonConflicted), fmt.Sprintf("service %q has %s already, which is older; remove one", name, taken[name])
	}
	e := t.set.Entries[owner.key].Object.(*ExternalService)
	if e.Spec.TLS != nil {
		return string(gatewayv1.PolicyReasonConflicted), fmt.Sprintf("%s has spec.tls itself, which counts; remove one", owner.key)
	}
	protocol, _ := policy.ParseProtocol(owner.protocol)
	if err := b.TLS.Check(protocol); err != nil {
		return string(gatewayv1.PolicyReasonInvalid), fmt.Sprintf("service %q: %v", name, err)
	}
	return "", ""
}

// originate is what a checked policy comes to, and what is to be said of it at every target.
func (t *attaching) originate(p *BackendTLSPolicy) (b BackendTLS, list conditions) {
	v := &p.Spec.Validation
	c := policy.ClientTLS{ServerName: string(v.Hostname)}
	for _, n := range v.SubjectAltNames {
		c.Names = append(c.Names, cmp.Or(string(n.URI), string(n.Hostname)))
	}
	if len(c.Names) == 1 && c.Names[0] == c.ServerName {
		c.Names = nil
	}
	if k := value(v.WellKnownCACertificates, ""); k != "" && k != gatewayv1.WellKnownCACertificatesSystem {
		list.set("Accepted", false, string(gatewayv1.PolicyReasonInvalid), fmt.Sprintf("spec.validation.wellKnownCACertificates: %q is not known; write System, or name caCertificateRefs", k))
		b.Broken = true
	}
	for i, r := range v.CACertificateRefs {
		field := fmt.Sprintf("spec.validation.caCertificateRefs[%d]", i)
		f, failed := t.tlsFiles("BackendTLSPolicy", p.GetNamespace(), string(r.Group), string(r.Kind), p.GetNamespace(), string(r.Name))
		switch {
		case failed != nil && failed.reason == "InvalidKind":
			list.set("ResolvedRefs", false, string(gatewayv1.BackendTLSPolicyReasonInvalidKind), field+": "+failed.message)
		case failed != nil:
			list.set("ResolvedRefs", false, string(gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef), field+": "+failed.message)
		case f.Spec.CAFile == "":
			list.set("ResolvedRefs", false, string(gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef), fmt.Sprintf("%s: %s have no caFile; add it", field, f.Key()))
		case c.CAFile != "":
			list.set("Accepted", true, string(gatewayv1.PolicyReasonAccepted), field+": only the first counts; put all trust anchors into one file")
		default:
			c.CAFile = f.Spec.CAFile
		}
	}
	if len(v.CACertificateRefs) > 0 && c.CAFile == "" {
		list.set("Accepted", false, string(gatewayv1.BackendTLSPolicyReasonNoValidCACertificate), "no trust anchor is left; the service is not called, and requests get no_endpoint")
		b.Broken = true
	}
	for _, k := range slices.Sorted(maps.Keys(p.Spec.Options)) {
		if k == optionMinVersion {
			c.MinVersion, _ = policy.ParseTLSVersion(string(p.Spec.Options[k])) // checked
			continue
		}
		list.set("Accepted", true, string(gatewayv1.PolicyReasonAccepted), fmt.Sprintf("spec.options[%s]: is not known and does nothing; known is %s", k, optionMinVersion))
	}
	c = c.WithDefaults()
	b.TLS = &c
	list.set("Accepted", true, string(gatewayv1.PolicyReasonAccepted), "")
	list.set("ResolvedRefs", true, string(gatewayv1.BackendTLSPolicyReasonResolvedRefs), "")
	return b, list
}
