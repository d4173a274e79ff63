//go:build unix

package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/show"
	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

func testCommand() *cobra.Command {
	c := &cobra.Command{Use: "test", GroupID: "reason", Short: "What a configuration would do with a request", Args: noArgs}
	c.AddCommand(testRouteCommand(), testAccessCommand())
	return c
}

// missing is the error of a question about what does not exist.
type missing struct{ error }

func (m missing) Unwrap() error { return m.error }

func testRouteCommand() *cobra.Command {
	var q routeQuestion
	var out output
	c := &cobra.Command{
		Use: "route", Args: noArgs,
		Short: "Which rule is for a request, which came second, and why",
		Long: `Reads configuration as the controller does, and asks the rules of a service for one request as a caller's sidecar does: which rule decides, which would without it, why, and
where the request goes. It needs no controller, and sends nothing. Exit codes: 0 it is known, 4 there is no such service or workload.`,
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
			return out.print(c, a, func(w io.Writer, _ show.Style) error { return a.print(w) })
		},
	}
	f := c.Flags()
	f.StringArrayVar(&q.paths, "config", []string{"."}, "folder of *.yaml resources, or a file; may be repeated")
	f.StringVar(&q.from, "from", "default", "who calls: NAMESPACE/WORKLOAD, or NAMESPACE for somebody there of whom nothing else is known")
	f.StringVar(&q.gateway, "gateway", "", "NAMESPACE/NAME of a Gateway: somebody outside calls it, by --host")
	f.StringVar(&q.host, "host", "", "what is called: SERVICE, SERVICE.NAMESPACE, or a host of an ExternalService; of a Gateway a host; with :PORT a further port (required)")
	f.StringVar(&q.path, "path", "/", "path, perhaps with a query behind a ?; of gRPC /SERVICE/METHOD")
	f.StringVar(&q.method, "method", "GET", "method; of gRPC POST")
	f.StringArrayVar(&q.headers, "header", nil, "header field NAME=VALUE; may be repeated")
	f.StringArrayVar(&q.query, "query", nil, "query parameter NAME=VALUE; may be repeated")
	out.flag(c)
	return c
}

// routeQuestion is a request that nobody sends.
type routeQuestion struct {
	paths              []string
	from, gateway      string
	host, path, method string
	headers, query     []string
}

// routeAnswer is what becomes of it.
type routeAnswer struct {
	Service  string            `json:"service,omitempty"`  // policy.PortOf of what is called; "": a Gateway
	From     string            `json:"from,omitempty"`     // the caller's namespace
	Gateway  string            `json:"gateway,omitempty"`  // that is called, and there
	Port     uint16            `json:"port,omitempty"`     // the port,
	Host     string            `json:"host,omitempty"`     // and the host of its listeners that counts
	Rule     string            `json:"rule,omitempty"`     // that decides; "": none
	Match    string            `json:"match,omitempty"`    // of it, in words
	Reason   route.Order       `json:"reason"`             // why it counts before Second
	Second   string            `json:"second,omitempty"`   // that would decide without Rule
	Backends []backendAnswer   `json:"backends,omitempty"` // shares of the requests
	Answer   string            `json:"answer,omitempty"`   // where it is not sent on: status and what it says
	Rules    []candidateAnswer `json:"rules"`              // all of the service, those that match first

	request string
	refused int
}

type backendAnswer struct {
	Service   string  `json:"service"`          // "": none, its share is answered with 500
	Subset    string  `json:"subset,omitempty"` // labels
	Share     float64 `json:"share"`            // of 1
	Endpoints int     `json:"endpoints"`
}

type candidateAnswer struct {
	Rule  string `json:"rule"`
	Match string `json:"match"`
	Miss  string `json:"miss,omitempty"` // what of Match is not true; "": it matches
}

// pairs are NAME=VALUE.
func pairs(flag string, texts []string) (out []route.Field, err error) {
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, usageError{fmt.Errorf("--%s %q: must be NAME=VALUE", flag, text)}
		}
		out = append(out, route.Field{Name: name, Value: value})
	}
	return out, nil
}

// asked are the header fields and the query of a routeQuestion.
type asked struct {
	fields []route.Field
	query  string
}

// Field implements route.Fields.
func (a *asked) Field(name string, i int) (string, bool) {
	for _, f := range a.fields {
		if strings.EqualFold(f.Name, name) {
			if i == 0 {
				return f.Value, true
			}
			i--
		}
	}
	return "", false
}

// Query implements route.Fields.
func (a *asked) Query() string { return a.query }

// head is the request as rules see it.
func (q *routeQuestion) head() (route.Head, error) {
	fields, err := pairs("header", q.headers)
	if err != nil {
		return route.Head{}, err
	}
	path, query, _ := strings.Cut(q.path, "?")
	if !strings.HasPrefix(path, "/") {
		return route.Head{}, usageError{fmt.Errorf("--path %q: must begin with /", q.path)}
	}
	form := []byte(path)
	n, fault := exchange.NormalPath(form)
	if fault != nil {
		return route.Head{}, usageError{fmt.Errorf("--path %q: a sidecar would refuse it: %s", q.path, fault.Text)}
	}
	more, err := pairs("query", q.query)
	if err != nil {
		return route.Head{}, err
	}
	for _, p := range more {
		if query != "" {
			query += "&"
		}
		query += p.Name + "=" + p.Value
	}
	return route.Head{Method: q.method, Path: string(form[:n]), Authority: q.host, Fields: &asked{fields, query}}, nil
}

func (q *routeQuestion) ask() (*routeAnswer, error) {
	if q.host == "" {
		return nil, usageError{errors.New("--host is required: the service that is called")}
	}
	head, err := q.head()
	if err != nil {
		return nil, err
	}
	conf, err := readConfiguration(q.paths)
	if err != nil {
		return nil, err
	}
	set, endpoints := conf.set, conf.endpoints
	a := &routeAnswer{Rules: []candidateAnswer{}, refused: conf.refused()}
	var rules, all []route.Rule // that the caller has, and those for others besides
	selected := map[string]bool{}
	if q.gateway != "" {
		a.Gateway = q.gateway
		var edge *resource.Workload
		if edge, all, err = a.outside(set, q.host); err != nil {
			return nil, err
		}
		rules, _ = resource.OfCaller(all, remembered(set.SelectedBy(edge, set.Mesh.Spec.TrustDomain), selected))
	} else {
		w, err := caller(set, q.from)
		if err != nil {
			return nil, err
		}
		a.From = w.Metadata.Namespace
		if a.Service, err = called(set, endpoints, q.host); err != nil {
			return nil, err
		}
		of := set.Rules[a.Service]
		rules = of.For(a.From, remembered(set.SelectedBy(w, set.Mesh.Spec.TrustDomain), selected))
		if all = of.Producer; of.Consumer[a.From] != nil {
			all = of.Consumer[a.From]
		}
	}
	a.request = head.Method + " http://" + q.host + head.Path
	if query := head.Fields.Query(); query != "" {
		a.request += "?" + query
	}
	table, err := route.New(a.Service, rules...)
	if err != nil {
		return nil, err
	}
	a.explain(table.Explain(head), endpoints)
	a.callers(all, selected)
	return a, nil
}

// remembered is selected, which writes its answers down.
func remembered(selected func(string) bool, into map[string]bool) func(string) bool {
	return func(name string) bool {
		into[name] = selected(name)
		return into[name]
	}
}

// callers says of rules that are for some callers which these are, and lists those that are not for this one.
func (a *routeAnswer) callers(all []route.Rule, selected map[string]bool) {
	for _, r := range all {
		if len(r.Callers) == 0 {
			continue
		}
		if i := slices.IndexFunc(r.Callers, func(name string) bool { return !selected[name] }); i >= 0 {
			first := -1
			if len(r.Matches) > 0 {
				first = 0
			}
			a.Rules = append(a.Rules, candidateAnswer{r.Name, matchText(route.Candidate{Rule: &r, Match: first}), "callers " + r.Callers[i]})
			continue
		}
		from := "caller of " + strings.Join(r.Callers, " and of ")
		for k := range a.Rules {
			if a.Rules[k].Rule == r.Name {
				a.Rules[k].Match += ", " + from
			}
		}
		if a.Rule == r.Name {
			a.Match += ", " + from
		}
	}
}

// unmatched is the last rule of every service with routes, which is for the rest (controller/resource): it is none of anybody's.
const unmatched = "unmatched"

func (a *routeAnswer) explain(x route.Explanation, endpoints []discovery.Endpoint) {
	a.Rule, a.Reason = x.Route, x.Reason
	for _, c := range x.Rules {
		if c.Rule.Name == unmatched && c.Rule.Name != x.Route {
			continue
		}
		miss := c.Miss.What.String()
		if c.Miss.Name != "" {
			miss += " " + c.Miss.Name
		}
		a.Rules = append(a.Rules, candidateAnswer{c.Rule.Name, matchText(c), miss})
	}
	hits := x.Matched()
	if len(hits) > 0 {
		a.Match = matchText(hits[0])
	}
	switch {
	case len(hits) > 1 && hits[1].Rule.Name == unmatched:
		a.Reason = route.OrderAlone
	case len(hits) > 1:
		a.Second = hits[1].Rule.Name
	}
	backends := []route.Backend{{Service: x.Service, Weight: 1}}
	switch {
	case x.Action == nil && x.Service == "":
		backends, a.Answer = nil, "404, no_route"
	case x.Action != nil:
		backends, a.Answer = x.Action.Backends, answerText(x.Action)
	}
	sum := 0.0
	for _, b := range backends {
		sum += float64(b.Weight)
	}
	for _, b := range backends {
		answer := backendAnswer{Service: b.Service, Subset: b.Subset}
		if sum > 0 {
			answer.Share = float64(b.Weight) / sum
		}
		for _, e := range endpoints {
			if e.Name() == b.Service && within(e, b.Subset) {
				answer.Endpoints++
			}
		}
		a.Backends = append(a.Backends, answer)
	}
}

// within reports whether e is of a subset, by its name.
func within(e discovery.Endpoint, subset string) bool {
	if subset == "" {
		return true
	}
	labels := policy.Endpoint{Version: e.Version, Placement: policy.Placement{Locality: e.Locality, Labels: policy.FreeLabels(e.Labels)}}.Subset()
	for pair := range strings.SplitSeq(subset, ",") {
		k, v, _ := strings.Cut(pair, "=")
		if labels[k] != v {
			return false
		}
	}
	return true
}

// caller is who calls: of a namespace alone a Workload of which nothing else is known.
func caller(set *resource.Set, from string) (*resource.Workload, error) {
	namespace, workload, named := strings.Cut(from, "/")
	if !named {
		return &resource.Workload{Header: resource.Header{Metadata: resource.Metadata{Namespace: namespace}}}, nil
	}
	known := map[string]bool{}
	for _, w := range set.Workloads {
		if w.Metadata.Namespace == namespace && w.Metadata.Name == workload {
			return w, nil
		}
		known[w.Metadata.Namespace+"/"+w.Metadata.Name] = true
	}
	return nil, missing{fmt.Errorf("--from %s: there is no such Workload; there are %s", from, some(known))}
}

// outside finds the host of a's Gateway that an authority means, and its rules: at the port that it names, or the first that has the host; and the edge that serves it.
func (a *routeAnswer) outside(set *resource.Set, authority string) (*resource.Workload, []route.Rule, error) {
	host, port, _ := strings.Cut(authority, ":")
	known, gateways := map[string]bool{}, map[string]bool{}
	for _, w := range set.Workloads { // of several edges of one Gateway all serve the same
		if w.Spec.Edge.Gateway.Name == "" {
			continue
		}
		name := w.Metadata.Namespace + "/" + w.Spec.Edge.Gateway.Name
		if gateways[name] = true; name != a.Gateway {
			continue
		}
		for _, p := range set.Edges[w.Metadata.Name] {
			hosts := &route.Hosts[policy.VirtualHost]{}
			for _, v := range p.Hosts {
				for _, h := range v.Hosts {
					hosts.Add(h, v)
					known[fmt.Sprintf("%s:%d", h, p.Number)] = true
				}
			}
			if v, ok := hosts.Match(host); ok && (port == "" || port == strconv.Itoa(int(p.Number))) {
				a.Port, a.Host = p.Number, strings.Join(v.Hosts, ", ")
				return w, v.Rules, nil
			}
		}
	}
	if !gateways[a.Gateway] {
		return nil, nil, missing{fmt.Errorf("--gateway %s: no Workload is an edge of it; there are %s", a.Gateway, some(gateways))}
	}
	return nil, nil, missing{fmt.Errorf("--host %s: is no host of Gateway %s, which answers 404, no_route; there are %s", authority, a.Gateway, some(known))}
}

// called is the service that a host names, as in policy.Snapshot.Services.
func called(set *resource.Set, endpoints []discovery.Endpoint, host string) (string, error) {
	names, known := &route.Hosts[string]{}, map[string]bool{}
	add := func(name, namespace string) {
		known[name] = true
		if service := policy.ServiceOf(name); service == name {
			names.Add(name, name)
			names.Add(name+"."+namespace, name)
		}
	}
	for _, e := range endpoints {
		add(e.Name(), e.Namespace)
	}
	for _, e := range set.External {
		add(e.Metadata.Name, e.Metadata.Namespace)
		for _, h := range e.Spec.Names() {
			names.Add(h, e.Metadata.Name)
		}
	}
	for name := range set.Rules {
		known[name] = true
	}
	if known[host] {
		return host, nil
	}
	if name, ok := names.Match(route.Hostname(host)); ok {
		_, port, has := strings.Cut(host, ":")
		if !has {
			return name, nil
		}
		if known[policy.PortOf(name, port)] {
			return policy.PortOf(name, port), nil
		}
		if n, err := strconv.ParseUint(port, 10, 16); err == nil { // by number
			for _, e := range endpoints {
				if e.Service == name && e.Address.Port() == uint16(n) {
					return e.Name(), nil
				}
			}
			if n == 80 || n == 443 {
				return name, nil
			}
		}
		return "", missing{fmt.Errorf("--host %s: %s has no port %s", host, name, port)}
	}
	if _, err := netip.ParseAddrPort(host); err == nil {
		for _, e := range endpoints {
			if e.Address.String() == host {
				return e.Name(), nil
			}
		}
	}
	return "", missing{fmt.Errorf("--host %s: there is no such service; there are %s", host, some(known))}
}

// some are names, as many as a line takes.
func some(names map[string]bool) string {
	const most = 12
	list := slices.Sorted(maps.Keys(names))
	switch {
	case len(list) == 0:
		return "none"
	case len(list) > most:
		return strings.Join(list[:most], ", ") + fmt.Sprintf(" and %d more", len(list)-most)
	}
	return strings.Join(list, ", ")
}

// matchText is a match in words.
func matchText(c route.Candidate) string {
	if c.Match < 0 {
		return "every request"
	}
	m := &c.Rule.Matches[c.Match]
	var parts []string
	if m.Path.Kind != route.PathAny {
		parts = append(parts, []string{"", "path prefix ", "path ", "path regex "}[m.Path.Kind]+m.Path.Value)
	}
	if m.Method != "" {
		parts = append(parts, "method "+m.Method)
	}
	values := func(what string, list []route.Value) {
		for _, v := range list {
			parts = append(parts, what+" "+v.Name+[]string{" = " + v.Value, " ~ " + v.Value, " is there"}[v.Kind])
		}
	}
	values("header", m.Headers)
	values("query", m.Query)
	if len(parts) == 0 {
		return "every request"
	}
	return strings.Join(parts, ", ")
}

// orderTexts say why a rule counts before the second.
var orderTexts = map[route.Order]string{
	route.OrderAlone:   "no other rule is for it",
	route.OrderExact:   "its path is exact",
	route.OrderRegex:   "its path is a regular expression, which counts before a prefix",
	route.OrderLonger:  "its path prefix is longer",
	route.OrderMethod:  "it names a method",
	route.OrderHeaders: "it names more header fields",
	route.OrderQuery:   "it names more query parameters",
	route.OrderEarlier: "they say as much, and it is for some callers only, or older, or its name comes first, or it was written first",
	route.OrderDefault: "no rule is for it, and the service itself takes it",
	route.OrderNothing: "no rule is for it",
}

// answerText is how a request is answered that is not sent on; "" where it is.
func answerText(a *route.Action) string {
	switch {
	case a.Redirect != nil:
		return fmt.Sprintf("%d, elsewhere: %s", a.Redirect.Status, redirectText(a.Redirect))
	case a.Respond != nil:
		return fmt.Sprintf("%d %q", a.Respond.Status, a.Respond.Body)
	case !slices.ContainsFunc(a.Backends, func(b route.Backend) bool { return b.Weight > 0 }):
		return "500, no_backend"
	}
	return ""
}

func redirectText(r *route.Redirect) string {
	var parts []string
	add := func(what, value string) {
		if value != "" {
			parts = append(parts, what+" "+value)
		}
	}
	add("scheme", r.Scheme)
	add("host", r.Authority)
	if r.Port != 0 {
		add("port", strconv.Itoa(int(r.Port)))
	}
	switch {
	case r.Path.Prefix:
		add("path prefix", r.Path.Value)
	case r.Path.Set:
		add("path", r.Path.Value)
	}
	return strings.Join(parts, ", ")
}

func (a *routeAnswer) print(to io.Writer) error {
	w := tabwriter.NewWriter(to, 0, 8, 2, ' ', 0)
	line := func(what, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", what, fmt.Sprintf(format, args...)) }
	if a.Gateway != "" {
		line("request", "%s from outside", a.request)
		line("gateway", "%s, port %d, host %s, %s", a.Gateway, a.Port, a.Host, count(len(a.Rules), "rule"))
	} else {
		line("request", "%s from %s", a.request, a.From)
		line("service", "%s, %s", a.Service, count(len(a.Rules), "rule"))
	}
	if a.Rule != "" {
		line("rule", "%s (%s)", a.Rule, a.Match)
	}
	line("why", "%s", orderTexts[a.Reason])
	if a.Second != "" {
		line("second", "%s", a.Second)
	}
	if a.Answer != "" {
		line("answer", "%s", a.Answer)
	}
	for i, b := range a.Backends {
		what := ""
		if i == 0 {
			what = "goes to"
		}
		text := fmt.Sprintf("%5.1f %%  %s", 100*b.Share, b.Service)
		if b.Service == "" {
			text = fmt.Sprintf("%5.1f %%  nobody: 500, no_backend", 100*b.Share)
		}
		if b.Subset != "" {
			text += " of " + b.Subset
		}
		if b.Service != "" {
			text += ", " + count(b.Endpoints, "endpoint")
		}
		line(what, "%s", text)
	}
	first := true
	for _, c := range a.Rules {
		if c.Rule == a.Rule || c.Rule == a.Second && c.Miss == "" {
			continue
		}
		what := ""
		if first {
			what, first = "others", false
		}
		if c.Miss == "" {
			line(what, "%s (%s)", c.Rule, c.Match)
		} else {
			line(what, "%s (%s): another %s", c.Rule, c.Match, c.Miss)
		}
	}
	return w.Flush()
}
