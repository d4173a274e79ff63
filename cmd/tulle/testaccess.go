//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/show"
	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
)

func testAccessCommand() *cobra.Command {
	var q accessQuestion
	var out output
	c := &cobra.Command{
		Use: "access", Args: noArgs,
		Short: "Whether a caller may do something, and which policy says so",
		Long: `Reads configuration as the controller does, and asks the AccessPolicies of a service as its sidecar does for each request: whether it passes, and which policy decides. It needs no
controller, and sends nothing. Exit codes: 0 it is allowed, 1 it is denied, 4 there is no such service.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			a, err := q.ask()
			if err != nil {
				return err
			}
			if a.refused > 0 {
				_, _ = fmt.Fprintf(c.ErrOrStderr(), "%s of the configuration would be refused, and had no say; 'tulle lint' says why\n", count(a.refused, "document"))
			}
			err = out.print(c, a, func(w io.Writer, _ show.Style) error { return a.print(w) })
			if err == nil && !a.Allowed {
				err = denied{}
			}
			return err
		},
	}
	f := c.Flags()
	f.StringArrayVar(&q.paths, "config", []string{"."}, "folder of *.yaml resources, or a file; may be repeated")
	f.StringVar(&q.from, "from", "", "who calls: NAMESPACE/ACCOUNT, or a SPIFFE ID; empty: a caller without an identity, as at a permissive port")
	f.StringVar(&q.address, "address", "", "IP address of the caller, for policies with cidrs")
	f.StringVar(&q.host, "host", "", "service that is called: SERVICE or SERVICE.NAMESPACE; SERVICE:PORT for a further port (required)")
	f.StringVar(&q.path, "path", "/", "path; of gRPC /SERVICE/METHOD")
	f.StringVar(&q.method, "method", "GET", "method; of gRPC POST")
	f.StringArrayVar(&q.headers, "header", nil, "header field NAME=VALUE; may be repeated")
	f.BoolVar(&q.connection, "bytes", false, "a connection of bytes in place of a request")
	out.flag(c)
	return c
}

// denied is the error of a question whose answer is no, which has been printed.
type denied struct{}

func (denied) Error() string { return "denied" }

// accessQuestion is a request that nobody sends.
type accessQuestion struct {
	routeQuestion
	address    string
	connection bool
}

// accessAnswer is what becomes of it.
type accessAnswer struct {
	Service string   `json:"service"` // policy.PortOf of what is called
	Allowed bool     `json:"allowed"`
	Why     string   `json:"why"`
	Audit   string   `json:"audit,omitempty"` // what a policy in audit would have done
	Policy  string   `json:"policy,omitempty"`
	Rule    string   `json:"rule,omitempty"`
	Of      []string `json:"policies"` // all that count for the port

	request string
	refused int
}

func (q *accessQuestion) ask() (*accessAnswer, error) {
	if q.host == "" {
		return nil, usageError{errors.New("--host is required: the service that is called")}
	}
	r := access.Request{Connection: q.connection}
	var err error
	if r.Head, err = q.head(); err != nil {
		return nil, err
	}
	if q.address != "" {
		if r.Addr, err = netip.ParseAddr(q.address); err != nil {
			return nil, usageError{fmt.Errorf("--address %q: must be an IP address", q.address)}
		}
	}
	switch {
	case strings.HasPrefix(q.from, "spiffe://"):
		id, err := identity.Parse(q.from)
		if err != nil {
			return nil, usageError{fmt.Errorf("--from: %w", err)}
		}
		r.Identity = id.String()
		r.Namespace, r.Account, _ = id.Account()
	case q.from != "":
		ns, account, _ := strings.Cut(q.from, "/")
		id, err := identity.Workload(controller.DefaultTrustDomain, ns, account)
		if err != nil {
			return nil, usageError{fmt.Errorf("--from %q: must be NAMESPACE/ACCOUNT or a SPIFFE ID: %w", q.from, err)}
		}
		r.Identity, r.Namespace, r.Account = id.String(), ns, account
	}
	conf, err := readConfiguration(q.paths)
	if err != nil {
		return nil, err
	}
	set, endpoints := conf.set, conf.endpoints
	a := &accessAnswer{Of: []string{}, refused: conf.refused()}
	if a.Service, err = called(set, endpoints, q.host); err != nil {
		return nil, err
	}
	namespace, port, err := portOf(set, a.Service)
	if err != nil {
		return nil, err
	}
	rules := set.AccessOf(namespace, policy.ServiceOf(a.Service), port)
	for _, p := range rules.Policies {
		a.Of = append(a.Of, p.Name)
	}
	j, err := access.New(rules)
	if err != nil {
		return nil, err
	}
	v := j.Judge(&r)
	a.Allowed, a.Why, a.Audit = !v.Denied, v.Why(), v.WhyWould()
	if v.By != nil {
		a.Policy = v.By.Name
	}
	if v.Rule != nil {
		a.Rule = v.Rule.Name
	}
	if a.request = r.Head.Method + " " + r.Head.Path; q.connection {
		a.request = "a connection of bytes"
	}
	return a, nil
}

// portOf is the namespace of a service, and the name of the port that policy.PortOf names.
func portOf(set *resource.Set, name string) (namespace, port string, err error) {
	service := policy.ServiceOf(name)
	for _, w := range set.Workloads {
		if w.Spec.Service != service {
			continue
		}
		for i, p := range w.Spec.Ports {
			if i == 0 && name == service || policy.PortOf(service, p.Name) == name {
				return w.Metadata.Namespace, p.Name, nil
			}
		}
	}
	if slices.ContainsFunc(set.External, func(e *resource.ExternalService) bool { return e.Metadata.Name == service }) {
		return "", "", missing{fmt.Errorf("--host %s: is outside the mesh, where no sidecar judges its callers", name)}
	}
	return "", "", missing{fmt.Errorf("--host %s: no workload has it", name)}
}

func (a *accessAnswer) print(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 8, 2, ' ', 0)
	line := func(what, text string) { fmt.Fprintf(w, "%s\t%s\n", what, text) }
	line("request", a.request)
	of := count(len(a.Of), "policy")
	if len(a.Of) != 1 {
		of = fmt.Sprintf("%d policies", len(a.Of))
	}
	if len(a.Of) > 0 {
		of += ": " + strings.Join(a.Of, ", ")
	}
	line("service", a.Service+", "+of)
	if a.Allowed {
		line("allowed", a.Why)
	} else {
		line("denied", a.Why)
	}
	if a.Audit != "" {
		line("audit", a.Audit)
	}
	return w.Flush()
}
